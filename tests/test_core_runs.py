"""Sets that are asked at once give the answer of those that are asked one after the other."""

from __future__ import annotations

from random import Random

import pytest

from netlab.linux.addr import Ip, ip
from netlab.linux.hook import Hook
from netlab.linux.netns import Netns, NetnsKind
from netlab.linux.packet import TCP, UDP, Packet
from netlab.linux.text import ipset, iptables_save
from netlab.match import runs
from netlab.match.batch import decide
from netlab.match.kernels import DISPATCH, KIND
from netlab.match.packets import Packets
from netlab.match.program import Program, compile_hook
from netlab.match.view import View
from netlab.match.walk import walk

KINDS = {4: ("hash:ip", "hash:net", "hash:ip,port"), 6: ("hash:ip family inet6", "hash:net family inet6")}
PORTS = (53, 80, 443)


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sets are a run, however many tables they need."""
    monkeypatch.setattr(runs, "MIN_RUN", 2)
    monkeypatch.setattr(runs, "FEWER", 0)


def address(rng: Random, family: int) -> str:
    return f"10.0.{rng.randrange(2)}.{rng.randrange(6)}" if family == 4 else f"fd00::{rng.randrange(2)}:{rng.randrange(6)}"


def node(rng: Random, family: int, count: int) -> Netns:
    """A chain of rules that ask sets, some in a chain of their own behind a protocol, as Felix writes them."""
    sets, rules, chains = [], [], []
    for number in range(count):
        kind = rng.choice(KINDS[family])
        sets.append(f"create s{number} {kind}")
        for element in {address(rng, family) for _ in range(rng.randrange(4))}:
            if kind.startswith("hash:net"):
                element += rng.choice(("", "/24", "/30", "/30 nomatch") if family == 4 else ("", "/112", "/126 nomatch"))
            elif kind == "hash:ip,port":
                element += f",{rng.choice(('tcp', 'udp'))}:{rng.choice(PORTS)}"
            sets.append(f"add s{number} {element}")
        dims = "dst,dst" if kind == "hash:ip,port" else rng.choice(("src", "dst", "dst"))
        asked = f"-m set {'! ' if rng.random() < 0.1 else ''}--match-set s{number} {dims}"
        protocol = rng.choice(("tcp", "udp", "tcp", ""))
        if protocol:
            asked = f"-p {protocol} {asked}"
            if rng.random() < 0.4:
                asked += f" -m {protocol} --dport {rng.choice(PORTS)}"
        target = rng.choice(("ACCEPT", "DROP", "RETURN", "MARK --set-xmark 0x1/0x1", f"MARK --set-xmark {number:#x}/0xff"))
        if rng.random() < 0.9:
            chains.append(f"p{number}")
            rules += [f"-A FORWARD -j p{number}", f"-A p{number} {asked} -j {target}"]
        else:
            rules.append(f"-A FORWARD {asked} -j {target}")
        if rng.random() < 0.05:
            rules.append(f"-A FORWARD -m mark --mark {rng.choice(('0x0/0x1', '0x1/0x1'))} -j ACCEPT")
    text = "\n".join(["*filter", ":FORWARD DROP [0:0]", *(f":{name} - [0:0]" for name in chains), *rules, "COMMIT", ""])
    ruleset = iptables_save.parse(text, family=family)
    return Netns("node", NetnsKind.NODE, rulesets={family: ruleset}, sets=ipset.parse("\n".join(sets) + "\n"))


def view(rng: Random, netns: Netns, family: int) -> View:
    src, dst = (Ip(family, ip(address(rng, family)).value) for _ in range(2))
    ports = rng.choice((53, 1234)), rng.choice(PORTS)
    packet = Packet(src, dst, rng.choice((TCP, UDP, TCP, 47)), *ports, mark=rng.randrange(3))
    return View(packet, Hook.FORWARD, netns, "eth0", "eth1", local=False)


def fused(program: Program) -> int:
    """How many nodes find a set of several."""
    return sum(int(kind) == DISPATCH for kind in program.arranged().nodes[:, KIND]) - sum(
        int(kind) == DISPATCH for kind in program.nodes.array[: program.nodes.length, KIND]
    )


@pytest.mark.parametrize("family", [4, 6])
def test_random_runs(family: int, short_runs: None) -> None:
    found = []
    for seed in range(40):
        rng = Random(f"{seed} {family}")
        netns = node(rng, family, rng.randint(4, 25))
        program = compile_hook(netns, family, Hook.FORWARD)
        for size in (40, 200, 200):  # the graph grows, and is put together anew
            views = [view(rng, netns, family) for _ in range(size)]
            answer = decide(program, Packets.of(views, program.names))
            for index, each in enumerate(views):
                assert answer.leaves(index) == walk(program.bases, each, program.numbering), (seed, each.packet)
        found.append(fused(program))
    assert sum(count > 0 for count in found) > 30


def test_a_run_of_sets_is_one_look_up() -> None:
    """Each policy asks for the protocol, and then for a set of its own: behind the first no packet meets a second set."""
    count = 60
    sets = "".join(f"create s{n} hash:ip\nadd s{n} 10.0.0.{n}\n" for n in range(count))
    chains = "".join(f":p{n} - [0:0]\n" for n in range(count))
    rules = "".join(f"-A FORWARD -j p{n}\n-A p{n} -p tcp -m set --match-set s{n} src -j ACCEPT\n" for n in range(count))
    ruleset = iptables_save.parse(f"*filter\n:FORWARD DROP [0:0]\n{chains}{rules}COMMIT\n", family=4)
    netns = Netns("node", NetnsKind.NODE, rulesets={4: ruleset}, sets=ipset.parse(sets))
    program = compile_hook(netns, 4, Hook.FORWARD)
    sent = [Packet(Ip(4, (10 << 24) + n), ip("10.9.9.9"), TCP, 1, 2) for n in range(count + 1)]
    views = [View(packet, Hook.FORWARD, netns, "a", "b") for packet in sent]
    packets = Packets.of(views, program.names)
    assert fused(program) == 0
    first = decide(program, packets).rule.tolist()
    assert fused(program) == count - runs.MIN_RUN + 1
    assert decide(program, packets).rule.tolist() == first
    assert first == [walk(program.bases, each, program.numbering)[0].rule for each in views]
