"""IPVS in user-mode Linux: the server that each scheduler picks, and what becomes of a virtual service's packets.

Law: the kernel is right. `ipvs_agent.py` and `ipvs_cases.py` run inside; the longer rounds are in docs/fidelity.md.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest

from netlab.lab import uml
from netlab.lab.frequencies import LIMIT, chi_squared_p
from netlab.lab.uml import Uml
from netlab.linux.addr import Ip, ip
from netlab.linux.ipvs import Method, RealServer, VirtualService
from netlab.linux.ipvs_schedulers import Asked, schedule
from netlab.linux.packet import UDP
from netlab.linux.text.ipvsadm import write_save

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PORT = 80


@pytest.fixture(scope="module")
def installed() -> None:
    packages = [*uml.missing(), *(["ipvsadm"] if shutil.which("ipvsadm") is None else [])]
    if packages:
        reason = f"IPVS needs: apt-get install {' '.join(packages)}"
        if os.environ.get("CI") == "true" or os.environ.get("NETLAB_KERNEL") == "require":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def linux(installed: None) -> Iterator[Uml]:
    with Uml(modules=("br_netfilter", "ip_vs")) as running:
        yield running


@pytest.fixture
def fresh(installed: None) -> Iterator[Uml]:
    """A kernel for one test alone: now and then a namespace with IPVS cannot be unmade ("unregister_netdevice: waiting for eth0
    to become free"), and then the same kernel makes no other one, either."""
    with Uml(modules=("br_netfilter", "ip_vs")) as running:
        yield running


# -- schedulers --------------------------------------------------------------------------------------------------------


class Round:
    """Services with one scheduler and the same servers, and the flows that are sent to them, all from `seed`.

    Each seed has addresses of its own: connections, and the counts of real servers, outlive `ipvsadm -C` (ip_vs_trash_get_dest).
    """

    def __init__(self, family: int, scheduler: str, flags: tuple[str, ...], weights: list[int], count: int, seed: int) -> None:
        random = Random(seed)
        net = "10.1.{}.{}" if family == 4 else "fd00:1:{:x}::{:x}"
        addresses = [ip(net.format(seed, n + 2)) for n in range(len(weights))]
        random.shuffle(addresses)
        self.family = family
        self.servers = tuple(RealServer(a, PORT, Method.MASQUERADE, w) for a, w in zip(addresses, weights, strict=True))
        several = count if scheduler in ("dh", "lblc", "lblcr") else 1  # they look at the destination
        net = "10.{}.{}.{}" if family == 4 else "fd00:{:x}::{:x}:{:x}"
        self.services = [
            VirtualService(UDP, address, PORT, scheduler, self.servers, family=family, flags=flags)
            for address in (ip(net.format(96 + seed, n >> 8, n & 255)) for n in range(1, several + 1))
        ]
        self.flows: list[tuple[VirtualService, Asked]] = []
        for n in range(count):
            value = random.randrange(0x0A020000, 0x0A500000) if family == 4 else 0xFD00 << 112 | random.getrandbits(96)
            source = Ip(family, value)
            service = self.services[n % several]
            assert service.ip is not None
            self.flows.append((service, Asked(source, service.ip, random.randrange(2000, 60000))))

    def case(self) -> dict[str, object]:
        """For ipvs_agent.py."""
        return {
            "commands": write_save(self.services),
            "family": self.family,
            "port": PORT,
            "servers": [str(r.ip) for r in self.servers],
            "flows": [[str(asked.src), asked.sport, str(asked.dst)] for _, asked in self.flows],
        }


def play(linux: Uml, tmp_path: Path, rounds: list[Round]) -> list[list[int]]:
    """The number of the server that each flow got, -1 for none."""
    file = tmp_path / "cases.json"
    file.write_text(json.dumps([r.case() for r in rounds]))
    done = linux.run(["python3", "-I", str(HERE / "ipvs_agent.py"), str(file)], timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    found: list[list[int]] = json.loads(done.stdout)
    return found


HASHES = [
    ("dh", ()),
    *(("sh", flags) for flags in ((), ("sh-port",), ("sh-fallback",), ("sh-fallback", "sh-port"))),
    *(("mh", flags) for flags in ((), ("mh-port",), ("mh-fallback",), ("mh-fallback", "mh-port"))),
]
OTHERS = ["rr", "wrr", "fo", "ovf", "lc", "wlc", "sed", "nq", "lblc", "lblcr"]
WEIGHTS = ([1, 1, 1], [1, 2, 3, 0, 7], [100, 30, 5, 1000])


def test_hash_schedulers_pick_the_very_server(linux: Uml, tmp_path: Path) -> None:
    """1,000 flows of each in docs/fidelity.md; here a few, of all combinations."""
    count = int(os.environ.get("NETLAB_IPVS_FLOWS", "12"))
    rounds = [
        Round(family, name, flags, weights, count, seed)
        for seed, (family, weights, (name, flags)) in enumerate((f, w, h) for f in (4, 6) for w in WEIGHTS for h in HASHES)
    ]
    for made, answers in zip(rounds, play(linux, tmp_path, rounds), strict=True):
        for (service, asked), answer in zip(made.flows, answers, strict=True):
            shares = schedule(service, asked).shares
            said = made.servers.index(shares[0][0]) if shares else -1
            assert said == answer, f"{service} {asked}"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", OTHERS)
def test_others_pick_one_of_those_that_may_be(linux: Uml, tmp_path: Path, name: str, family: int) -> None:
    """UDP's connections stay in the table: least-connection schedulers deal them out by weight, rr and wrr lap by lap."""
    made = Round(family, name, (), [1, 2, 3, 0], 60, 60 + OTHERS.index(name))
    answers = play(linux, tmp_path, [made])[0]
    said = schedule(*made.flows[0])
    shares = {made.servers.index(server): share for server, share in said.shares}
    counted = Counter(answers)
    assert set(counted) <= set(shares)
    if "empty table" in said.assumes:  # the first of all, at least
        assert said.assumes.endswith(made.servers[answers[0]].ip.port(PORT))
    if name in ("lblc", "lblcr"):
        return  # which server an address is bound to depends on the counts of then
    numbers = sorted(shares)
    assert chi_squared_p([counted[n] for n in numbers], [shares[n] for n in numbers]) > LIMIT
    assert all(abs(counted[n] - 60 * share) <= 1 for n, share in shares.items())
    assert sum(shares.values()) == Fraction(1)


# -- what becomes of packets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "conntrack", "no conntrack", "masqueraded", "masqueraded, no conntrack",
        "methods", "methods, no conntrack", "methods, masqueraded",
    ],
)  # fmt: skip
def test_linux_does_what_netlab_says(fresh: Uml, name: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = fresh.run([sys.executable, str(HERE / "ipvs_cases.py"), "6", name], env=env, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert "\n".join(report["disagreements"]) == ""
    assert "\n".join(report["miscounted"]) == ""
    assert report["agreed"] >= 110
    assert report["counted"] >= 5


@pytest.mark.parametrize(("cluster", "flows"), [("topology", 150), ("services", 120), ("dualstack", 100), ("random-11", 120)])
def test_clusters_in_ipvs_mode(fresh: Uml, cluster: str, flows: int) -> None:
    files = [] if cluster == "topology" else ["-f", str(ROOT / "tests" / "data" / "kube-proxy-1.30.5" / cluster / "cluster.json")]
    argv = ["lab", "verify", *files, "--proxy-mode", "ipvs", "--kernel", "host"]
    argv += ["--flows", str(flows), "--rules", "4", "--seed", "5"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = fresh.run([sys.executable, "-m", "netlab.cli.main", *argv], env=env, timeout=300)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert "0 disagree" in done.stdout.decode()
