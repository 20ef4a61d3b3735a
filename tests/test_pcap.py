"""`netlab trace -w`: a capture that tshark reads without a complaint, the same bytes each time, decisions in comments."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from netlab.cli.main import main
from netlab.kube.load import load
from netlab.lab.crossings import predicted_crossings
from netlab.render.pcap import capture, frames
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Trace

TOPOLOGIES = Path(__file__).resolve().parent.parent / "topologies"
FLOWS = [
    ("flannel-vxlan.yaml", "web-0", "svc/api", None),
    ("flannel-vxlan.yaml", "web-0", "[fd00:10:244:1::11]:9000", None),
    ("flannel-vxlan.yaml", "web-0", "kube-system/svc/kube-dns:53", "udp"),
    ("flannel-vxlan.yaml", "web-0", "svc/nobody", None),  # REJECT: an ICMP error that quotes
    ("flannel-vxlan.yaml", "internet", "node/node-2:30080", None),
    ("flannel-vxlan.yaml", "web-0", "api-1", "icmp"),
    ("flannel-vxlan.yaml", "web-0", "[fd00:10:244:1::11]", "icmp"),
    ("flannel-vxlan.yaml", "web-0", "10.244.1.11:7777", "sctp"),
    ("flannel-host-gw.yaml", "web-0", "api-1:9000", None),
    ("calico-bgp.yaml", "web-0", "api-1:9000", None),
    ("calico-vxlan.yaml", "web-0", "svc/api", None),
    ("canal.yaml", "api-0", "api-1:9000", None),
]


def traced(file: str, source: str, destination: str, protocol: str | None = None) -> Trace:
    return Tracer(load([str(TOPOLOGIES / file)])).trace(Request(source, destination, protocol=protocol))


def told(path: Path, *more: str) -> list[list[str]]:
    """Fields of each frame, as tshark reads them."""
    if shutil.which("tshark") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no tshark: apt-get install tshark", pytrace=False)
        pytest.skip("there is no tshark: apt-get install tshark")
    checks = [
        word
        for name in ("ip", "tcp", "udp", "sctp")
        for word in ("-o", f"{name}.{'checksum' if name == 'sctp' else 'check_checksum'}:TRUE")
    ]
    command = ["tshark", "-r", str(path), "-n", *checks[:6], "-d", "udp.port==8472,vxlan", "-T", "fields", "-E", "separator=|"]
    done = subprocess.run(
        [*command, *(word for field in more for word in ("-e", field))], capture_output=True, text=True, check=True
    )
    return [line.split("|") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: " ".join(map(str, flow)))
def test_nothing_is_malformed(flow: tuple[str, str, str, str | None], tmp_path: Path) -> None:
    trace = traced(*flow)
    path = tmp_path / "trace.pcapng"
    path.write_bytes(capture(trace))
    bad = ("_ws.malformed", "ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "icmp.checksum.status")
    rows = told(path, "frame.interface_name", "frame.len", *bad)
    assert len(rows) == len(frames(trace)) > 0
    for row, frame in zip(rows, frames(trace), strict=True):
        interface, length, malformed, *checksums = row
        assert interface == frame.interface
        inner = frame.header
        assert int(length) == 14 + inner.length or flow[3] == "sctp", (row, frame)
        assert malformed == ""
        assert not any("0" in status.split(",") for status in checksums), row  # 0: bad


def test_what_is_in_the_frames(tmp_path: Path) -> None:
    trace = traced("flannel-vxlan.yaml", "web-0", "svc/api")
    number = 1 + next(n for n, branch in enumerate(trace.branches) if branch.endpoint == "10.244.1.11:9000")
    path = tmp_path / "trace.pcapng"
    path.write_bytes(capture(trace, number))
    fields = ("frame.interface_name", "ip.src", "ip.dst", "ip.ttl", "vxlan.vni", "tcp.flags.str", "eth.dst")
    rows = [tuple(row) for row in told(path, *fields)]
    wires = [row[0].split("/")[0] + "/" + row[0].split("/")[-1][:4] for row in rows]
    assert wires[:5] == ["default/eth0", "node-1/flan", "node-1/eth0", "node-2/flan", "node-2/veth"]
    outer = rows[2]
    assert (outer[1], outer[2]) == ("192.168.50.11,10.244.0.10", "192.168.50.12,10.244.1.11")
    assert (outer[3], outer[4]) == ("64,63", "1")
    assert rows[0][2] == "10.96.0.20"
    assert rows[4][1:4] == ("10.244.0.10", "10.244.1.11", "62")
    comments = [frame.comment for frame in frames(trace, number)]
    assert comments[0].startswith(f"branch {number} of 3, 1/3 (33.3%); request, default/web-0/eth0")
    assert "DNAT" in comments[1]
    assert "KUBE-SVC-" in comments[1]
    assert comments[-1].endswith("the answer has arrived")
    assert told(path, "frame.comment")[0][0].startswith(f"branch {number} of 3")


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: " ".join(map(str, flow)))
def test_frames_are_what_the_lab_compares_with_the_kernel(flow: tuple[str, str, str, str | None]) -> None:
    """`netlab lab verify --rules` holds every crossing of a device against what Linux showed there; each frame is one of them."""
    trace = traced(*flow)
    for number, branch in enumerate(trace.branches, 1):
        hops = (*branch.hops, *(branch.reply.hops if branch.reply is not None else ()))
        crossings = predicted_crossings(hops)
        for frame in frames(trace, number):
            where, _, device = frame.interface.rpartition("/")
            header = frame.header
            wanted = (device, header.protocol, header.flags, header.source, header.destination)
            assert wanted in {(c.device, c.protocol, c.flags, c.source, c.destination) for c in crossings[where]}, frame


def test_a_denial_ends_where_it_dies() -> None:
    found = frames(traced("canal.yaml", "api-0", "api-1:9000"))
    assert found[-1].interface == "node-2/flannel.1"
    assert "NetworkPolicy default/api" in found[-1].comment


def test_the_same_bytes_each_time() -> None:
    one, other = (capture(traced("flannel-vxlan.yaml", "web-0", "svc/api")) for _ in range(2))
    assert one == other
    assert b"\x1b" not in one


def test_the_command(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["trace", "web-0", "svc/api", "-q", "-w", "t.pcapng"]) == 0
    assert b"delivered" in capsysbinary.readouterr().out
    whole = (tmp_path / "t.pcapng").read_bytes()
    assert main(["trace", "web-0", "svc/api", "-q", "-w", "-"]) == 0
    assert capsysbinary.readouterr().out == whole
    assert main(["trace", "web-0", "svc/api", "-q", "-w", "-", "--branch", "2"]) == 0
    assert len(capsysbinary.readouterr().out) < len(whole)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-w", "no/such/folder/t.pcapng"], "No such file"),
        (["-w", "."], "Is a directory"),
        (["-w", "/dev/full"], "No space left"),
        (["-w", "t.pcapng", "-o", "json"], "-w writes a capture"),
        (["-w", "t.pcapng", "--branch", "9"], "this trace has 3"),
        (["--branch", "1"], "--branch chooses"),
        (["-w", "-q"], "a file is missing"),
    ],
)
def test_bad_input(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["trace", "web-0", "svc/api", "-q", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
