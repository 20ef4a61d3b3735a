"""The matching core beside a real kernel: random rulesets and kube-proxy's, every rule that counts, every frame that comes out.

    rules, packets --+--> Linux --> counters, frames --+--> equal, packet by packet, conversation by conversation
                     \\--> core_router.py --------------+

Law: a wrong verdict, mark, zone or NAT target of the core is another rule that counts or another frame. Rules before each
mangle chain read both marks bit by bit. What is UNKNOWN (to the twin, too) is counted, and there must be little of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from random import Random

import numba
import pytest
from core_router import Core
from msgspec.structs import replace

from netlab.bench.site import NODE, PORT, Load, declared, endpoint_ip, service_ip, site
from netlab.lab.frames import encode
from netlab.lab.fuzz_bench import Bench
from netlab.lab.fuzz_generate import SENDERS, SETS, Maker
from netlab.lab.fuzz_rules import Seen, Sent, Unknown, following, judge, opening, play, prepared, shoot
from netlab.linux import matches as m
from netlab.linux.addr import ip
from netlab.linux.bridge import Links
from netlab.linux.packet import UDP, Packet
from netlab.linux.rules import Rule, Table
from netlab.linux.text import iptables_save
from netlab.match import program as program_module
from netlab.match.outcome import Verdict
from netlab.trace.choices import TooManyChoices

BITS = (0x1, 0x2, 0x4000, 0x8000)  # all that the fuzzer's marks have
RULESETS, CONVERSATIONS = 24, 30


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Batches of one packet are not worth waiting for a second processor."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


class ReadingMaker(Maker):
    """Random rulesets whose counters tell the marks, before each chain of mangle."""

    def __init__(self, rng: Random, family: int) -> None:
        super().__init__(rng, family, recent=False)  # the core knows a list of `recent` for the length of one hook

    def _table(self, name: str) -> Table:
        table = super()._table(name)
        reading = [Rule((kind(bit, bit),)) for kind in (m.Mark, m.Connmark) for bit in BITS if name == "mangle"]
        bases = {c.name: replace(c, rules=(*reading, *c.rules)) for c in table.chains.values() if c.hook is not None}
        return replace(table, chains={**table.chains, **bases})


class Compared:
    """What the comparisons of a test have come to."""

    def __init__(self) -> None:
        self.packets = self.unknown = self.hits = self.again = 0
        self.verdicts: Counter[Verdict] = Counter()

    def conversation(self, bench: Bench, core: Core, links: Links, sent: Sequence[Sent], seen: Sequence[Seen]) -> None:
        """One conversation, as Linux has answered it; it may answer once more where time had a part in it."""
        try:
            found = judge(links, sent, seen, core.router)
            if found.difference:
                seen = play(bench, sent)
                found = judge(links, sent, seen, core.router)
        except (Unknown, TooManyChoices):
            self.unknown += len(sent)
            return
        told = "\n".join(f"{each.at}: {each.packet}" for each in sent)
        assert not found.difference, f"packet {found.agreed}:\n{found.difference}\n{told}"
        self.packets += found.agreed
        self.unknown += len(sent) - found.agreed
        self.hits += sum(sum(real.hits.values()) for real in seen[: found.agreed])

    def ruleset(self, core: Core) -> None:
        """A ruleset is through: its packets once more, all at once."""
        self.again += core.hooks_again()
        self.verdicts += core.verdicts


def test_random_rulesets(kernel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = Compared()
    with ExitStack() as stack:
        benches = {family: stack.enter_context(Bench("legacy", family)) for family in (4, 6)}
        for number in range(RULESETS):
            if number == RULESETS // 2:  # from here on short chains get hash tables, too
                for name in ("MIN_CHAIN", "MIN_GROUP", "MIN_ALIKE"):
                    monkeypatch.setattr(program_module, name, 1)
            family = (4, 6)[number % 2]
            maker = ReadingMaker(Random(f"core and kernel {number}"), family)
            text, sets, core = iptables_save.write(maker.ruleset(), family=family), SETS[family], Core()
            links, _ = prepared(text, sets, family)
            benches[family].load(text, sets)
            for sent, seen in conversations(benches[family], maker):
                compared.conversation(benches[family], core, links, sent, seen)
            compared.ruleset(core)
    assert compared.packets > 1000
    assert compared.hits > 5 * compared.packets
    assert compared.unknown < compared.packets / 20
    assert compared.again > 3 * compared.packets
    assert all(compared.verdicts[verdict] > 50 for verdict in (Verdict.ACCEPT, Verdict.DROP, Verdict.REJECT, Verdict.NAT))


def conversations(bench: Bench, maker: Maker) -> Iterator[tuple[list[Sent], list[Seen]]]:
    """Packets that answer to what came out."""
    for _ in range(CONVERSATIONS):
        bench.forget()
        sent, seen = [opening(maker)], []
        for left in range(maker.rng.randint(0, 4), -1, -1):
            real, frames = shoot(bench, sent[-1])
            seen.append(real)
            more = following(maker, sent, frames) if left else None
            if more is None:
                break
            sent.append(more)
        yield sent, seen


LOOPED = """*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -m conntrack --ctstate NEW
-A PREROUTING -m connmark --mark 0x1/0x1
-A PREROUTING -j CT --zone 2
-A PREROUTING -m conntrack --ctstate NEW
COMMIT
*mangle
:OUTPUT ACCEPT [0:0]
-A OUTPUT -j CONNMARK --set-mark 0x1
COMMIT
"""


def test_a_connection_that_came_with_its_packet(kernel: None) -> None:
    """What the router sends to itself is back at PREROUTING with its connection: raw sees that, and CT leaves it alone."""
    links, _ = prepared(LOOPED, "", 4)
    sent = [Sent("router", encode(Packet(ip("10.1.0.1"), ip("10.2.0.1"), UDP, 40_000, 80, length=60)))]
    compared = Compared()
    with Bench("legacy", 4) as bench:
        bench.load(LOOPED, "")
        seen = play(bench, sent)
        hits = [seen[0].hits.get(("raw", "PREROUTING", number)) for number in (1, 2, 3, 4)]
        assert hits == [1, 2, 2, 1]  # of the request, and of the error that answers it
        compared.conversation(bench, Core(), links, sent, seen)
    assert compared.packets == 1


def test_kube_proxys_rules(kernel: None) -> None:
    """Rules that are walked as one: every service is met, from outside, from the pod network, from its own endpoint."""
    services, endpoints = 150, 3
    rules = site(declared(Load(endpoints), services), "iptables-legacy").namespaces[NODE].rulesets[4]
    text = iptables_save.write(rules, family=4)
    links, _ = prepared(text, "", 4)
    compared, core, rng = Compared(), Core(), Random(4)
    with Bench("legacy", 4) as bench:
        bench.load(text, "")
        for number in range(services):
            own = endpoint_ip(number, rng.randrange(endpoints), endpoints)
            src = rng.choice([*map(ip, SENDERS[4]), own, endpoint_ip(0, 0, endpoints)])
            port = PORT if rng.random() < 0.9 else 54
            packet = Packet(src, service_ip(number), UDP, 40_000, port, length=60)
            sent = [Sent("sender", encode(packet))]
            compared.conversation(bench, core, links, sent, play(bench, sent))
    compared.ruleset(core)
    assert (compared.packets, compared.unknown) == (services, 0)
    assert compared.verdicts[Verdict.NAT] > services * 0.8
