"""The frames that `netlab trace -w` writes, against what is on the same devices when Linux carries the same packet."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netlab.kube.load import load
from netlab.render.pcap import capture
from netlab.trace.query import Request, Tracer

pytestmark = pytest.mark.usefixtures("kernel")

TOPOLOGIES = Path(__file__).resolve().parents[2] / "topologies"
FLOWS = [
    ("flannel-vxlan.yaml", "web-0", "kube-system/svc/kube-dns:53", "udp"),
    ("flannel-vxlan.yaml", "web-0", "api-1:9000", "tcp"),
    ("flannel-vxlan.yaml", "web-0", "[fd00:10:244:1::11]:9000", "tcp"),
    ("flannel-vxlan.yaml", "web-0", "svc/nobody", "tcp"),  # an ICMP error
    ("flannel-host-gw.yaml", "web-0", "api-1:9000", "tcp"),
    ("calico-vxlan.yaml", "web-0", "api-1:9000", "tcp"),
    ("canal.yaml", "api-0", "api-1:9000", "tcp"),  # a denial: no frame after it
]
SNIFF = """
import select, socket, sys
taken = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
print("ready", flush=True)
while True:
    readable = select.select([taken, sys.stdin], [], [])[0]
    if taken in readable:
        frame, (device, *_) = taken.recvfrom(65536)
        print(device, frame.hex())
    elif readable:
        break
"""


def layers(frame: bytes) -> tuple[object, ...]:
    """What a frame says: both Ethernet and IP headers, ports (drawn ones as `*`), flags, whether UDP carries a checksum."""
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN

    def port(number: int) -> object:
        return number if number < 32768 else "*"

    said: list[object] = []
    layer: Any = Ether(frame)
    while layer:
        match layer:
            case Ether():
                said += [layer.src, layer.dst]
            case IP():
                said += [layer.src, layer.dst, layer.ttl, str(layer.flags), layer.tos & 0xFC]
            case IPv6():
                said += [layer.src, layer.dst, layer.hlim]
            case TCP():
                said += ["TCP", port(layer.sport), port(layer.dport), str(layer.flags)]
            case UDP():
                said += ["UDP", port(layer.sport), port(layer.dport), layer.chksum != 0]
            case ICMP():
                said += ["ICMP", layer.type, layer.code]
            case VXLAN():
                said += ["VXLAN", layer.vni]
        layer = layer.payload
    return tuple(said)


@pytest.fixture
def lab_environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    yield environment
    subprocess.run(lab_command("down", "--all"), env=environment, check=True, capture_output=True)


def lab_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "netlab.cli.main", "lab", *arguments]


@pytest.mark.parametrize("file", sorted({file for file, *_ in FLOWS}))
def test_frames_are_those_of_linux(file: str, lab_environment: dict[str, str], tmp_path: Path) -> None:
    from scapy.utils import RawPcapNgReader

    tracer = Tracer(load([str(TOPOLOGIES / file)]))
    subprocess.run(lab_command("up", "-q", "-f", str(TOPOLOGIES / file)), env=lab_environment, check=True)
    for _, source, destination, protocol in (flow for flow in FLOWS if flow[0] == file):
        trace = tracer.trace(Request(source, destination, protocol=protocol))
        assert len(trace.branches) == 1
        path = tmp_path / "trace.pcapng"
        path.write_bytes(capture(trace))
        wanted: dict[str, set[tuple[object, ...]]] = {}
        reader: Any = RawPcapNgReader(str(path))
        for written, told in reader:
            wanted.setdefault(told.ifname.decode(), set()).add(layers(written))
        assert len(wanted) > 1

        places = sorted({interface.rpartition("/")[0] for interface in wanted})
        sniffers = {
            place: subprocess.Popen(
                lab_command("exec", place if "/" in place else f"node/{place}", "--", sys.executable, "-c", SNIFF),
                env=lab_environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for place in places
        }  # fmt: skip
        for sniffer in sniffers.values():
            assert sniffer.stdout is not None
            assert sniffer.stdout.readline() == "ready\n"
        asked = lab_command("trace", source, destination, "--proto", str(protocol))
        subprocess.run(asked, env=lab_environment, check=False, capture_output=True)
        seen: dict[str, set[tuple[object, ...]]] = {}
        for place, sniffer in sniffers.items():
            for line in sniffer.communicate()[0].splitlines():
                device, frame_hex = line.split()
                seen.setdefault(f"{place}/{device}", set()).add(layers(bytes.fromhex(frame_hex)))
        for interface, frames in wanted.items():
            for frame in frames:
                alike = "\n".join(map(str, sorted(seen.get(interface, ()), key=str)))
                assert frame in seen.get(interface, ()), f"{interface}: netlab\n{frame}\nLinux\n{alike}"
