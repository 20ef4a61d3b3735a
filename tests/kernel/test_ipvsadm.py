"""ipvsadm inside user-mode Linux: what it loads it saves as netlab writes it, and a lab in IPVS mode holds what was meant."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from netlab.errors import InputError
from netlab.lab.uml import Uml
from netlab.linux.ipvs import VirtualService
from netlab.linux.text import ipset, iptables_save, ipvsadm
from tests.kernel.test_uml import installed  # noqa: F401  (a fixture)
from tests.test_ipvsadm_text import ANY, OF_SERVERS, SPELLINGS

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "kube-proxy-1.30.5"


@pytest.fixture(scope="module")
def linux(installed: None) -> Iterator[Uml]:  # noqa: F811
    with Uml(modules=("ip_vs",)) as running:
        if running.run(["ipvsadm", "--version"]).returncode != 0:
            pytest.skip("needs: apt-get install ipvsadm")
        yield running


def loaded(linux: Uml, text: str) -> tuple[str, str]:
    """What `ipvsadm -Sn` and `ipvsadm -ln` print once the text was loaded."""
    done = linux.run(["sh", "-c", "ipvsadm -C && ipvsadm -R && ipvsadm -S -n && echo --- && ipvsadm -ln"], stdin=text.encode())
    assert (done.returncode, done.stderr) == (0, b"")
    saved, _, listed = done.stdout.decode().partition("---\n")
    return saved, listed


def in_order(services: tuple[VirtualService, ...]) -> dict[str, VirtualService]:
    """By name: ipvsadm sorts services and servers by itself."""
    return {
        ipvsadm.write_save([msgspec.structs.replace(s, servers=())]): msgspec.structs.replace(
            s, servers=tuple(sorted(s.servers, key=lambda r: (r.ip, r.port))), ref=None
        )
        for s in services
    }


@pytest.mark.parametrize(("line", "said"), SPELLINGS)
def test_spellings(linux: Uml, line: str, said: str):
    before = f"{OF_SERVERS}\n" if line.startswith("-a") else ""
    saved, listed = loaded(linux, f"{before}{line}\n")
    assert saved == f"{before}{said}\n"
    assert listed == ipvsadm.write_list(ipvsadm.parse(saved))


@pytest.mark.parametrize("path", sorted(DATA.glob("*/ipvs/*.ipvsadm-Sn")), ids=lambda p: f"{p.parts[-3]}-{p.name}")
def test_recordings_are_saved_as_they_were_loaded(linux: Uml, path: Path):
    assert loaded(linux, path.read_text()) == (path.read_text(), path.with_name(path.name.replace("-Sn", "-ln")).read_text())


@pytest.mark.parametrize(
    "line",
    [
        "-A -t 10.0.0.1:80 -s rrr",
        "-A -t 10.0.0.1:0 -s rr",
        "-A -t 10.0.0.1:80 -s rr -o",
        "-A -t 10.0.0.1:80 -s rr -p 0",
        "-A -t 10.0.0.1:80 -s rr -p 9 --pe ftp",
        "-A -t 10.0.0.1:80 -r 10.0.0.2:80",
        "-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m",
    ],
)
def test_what_netlab_refuses_ipvsadm_refuses_too(linux: Uml, line: str):
    done = linux.run(["sh", "-c", f"ipvsadm -C; ipvsadm {line}"])
    assert done.returncode != 0
    with pytest.raises(InputError):
        ipvsadm.parse(line)


def loadable(services: list[VirtualService]) -> list[VirtualService]:
    """What the kernel takes: no unspecified or multicast IPv6 addresses ..., mixed families only by tunnel; thresholds aside."""
    return [
        msgspec.structs.replace(s, servers=tuple(msgspec.structs.replace(r, upper=0, lower=0) for r in s.servers))
        for s in services
        if not any(r.ip.family == 6 and r.ip.value >> 125 != 1 for r in s.servers)
        and not any(
            r.ip.family == 4 and (r.ip.is_multicast or r.ip.is_loopback or r.ip.value >> 24 in (0, 255)) for r in s.servers
        )
    ]


def test_any_services_are_saved_as_netlab_writes_them(linux: Uml):
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(ANY)
    def holds(services: list[VirtualService]) -> None:
        wanted = tuple(loadable(services))
        saved, listed = loaded(linux, ipvsadm.write_save(wanted))
        assert in_order(ipvsadm.parse(saved)) == in_order(wanted)
        assert ipvsadm.write_save(ipvsadm.parse(saved)) == saved
        assert ipvsadm.write_list(ipvsadm.parse(saved)) == listed

    holds()


# --- a lab ------------------------------------------------------------------------------------------------------------


def netlab(*arguments: str, code: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "netlab.cli.main", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


FIRST_POD = {"services": "pod/web-0", "dualstack": "pod/web-0"}


@pytest.mark.parametrize(("name", "nodes"), [("services", ("node-1", "node-2")), ("dualstack", ("node-1", "node-2"))])
def test_a_lab_in_ipvs_mode_holds_what_was_meant(installed: None, name: str, nodes: tuple[str, ...]):  # noqa: F811
    cluster = ("-f", str(DATA / name / "cluster.json"), "--proxy-mode", "ipvs")
    lab = f"ipvs-{zlib.crc32(f'{name}{os.getpid()}'.encode()):x}"
    netlab("lab", "up", "--name", lab, *cluster)
    try:
        for where in (FIRST_POD[name], "node/node-2"):
            said = netlab("lab", "exec", "--name", lab, where, "--", "ping", "-n", "-c1", "-W2", "10.96.2.10", code=1)
            assert "From 10.96.2.10 icmp_seq=1 Destination Port Unreachable" in said
        for node in nodes:

            def stands(*command: str, node: str = node) -> str:
                return netlab("lab", "exec", "--name", lab, f"node/{node}", "--", *command)

            assert stands("ipvsadm", "-S", "-n") == netlab("dump", node, "ipvsadm", *cluster)
            sets = ipset.parse(stands("ipset", "save"))
            meant = ipset.parse(netlab("dump", node, "ipset", *cluster))
            assert {n: (s.type, s.family, sorted(map(str, s.entries))) for n, s in sets.items()} == {
                n: (s.type, s.family, sorted(map(str, s.entries))) for n, s in meant.items()
            }
            for family, tool in ((4, "iptables"), (6, "ip6tables")):
                got = iptables_save.parse(stands(f"{tool}-legacy-save"), family=family)
                want = iptables_save.parse(netlab("dump", node, f"{tool}-save", *cluster), family=family)
                assert {t.name: dict(t.chains) for t in got.tables} == {t.name: dict(t.chains) for t in want.tables}
            for family in (4, 6):
                local = f"ip -{family} route show table local dev kube-ipvs0".split()
                bound = stands("ip", "-o", f"-{family}", "address", "show", "dev", "kube-ipvs0").splitlines()
                assert sorted(line.split()[3] for line in bound) == sorted(
                    line.split()[1] + ("/32" if family == 4 else "/128") for line in stands(*local).splitlines()
                )
            assert stands("sysctl", "-n", "net.ipv4.vs.conntrack", "net.ipv4.vs.expire_nodest_conn").split() == ["1", "1"]
    finally:
        netlab("lab", "down", "--name", lab)
