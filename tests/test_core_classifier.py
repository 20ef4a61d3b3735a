"""Long chains on several fields: what the cuts find is what the walk finds, rule by rule, mark by mark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import acl_rules
from netlab.linux import matches as m
from netlab.linux import targets as t
from netlab.linux.addr import Ip
from netlab.linux.conntrack import Connection, CtState, CtView
from netlab.linux.netns import Netns, NetnsKind
from netlab.linux.packet import ICMP, ICMPV6, TCP, UDP, Packet
from netlab.linux.rules import Chain, Hook, Rule, Ruleset, Table
from netlab.match import boxes, cuts
from netlab.match import layout as layout_module
from netlab.match import program as program_module
from netlab.match.batch import Answer, decide
from netlab.match.layout import layout
from netlab.match.packets import Field, Packets
from netlab.match.program import Program, compile_hook
from netlab.match.view import View
from netlab.match.walk import walk

U32 = 0xFFFFFFFF
DEVICES = ("eth0", "eth1", "cni0")


@pytest.fixture(autouse=True)
def cut_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short chains are cut, too, and no hash table takes the rules away."""
    monkeypatch.setattr(program_module, "MIN_CHAIN", 1)
    monkeypatch.setattr(program_module, "MIN_CUT", 1)
    monkeypatch.setattr(program_module, "MAX_ASKED", -1)


# -- rules and packets -------------------------------------------------------------------------------------------------


def prefixes(family: int) -> st.SearchStrategy[tuple[int, int]]:
    """Addresses that often share their first bits, and masks."""
    bits = 32 if family == 4 else 128
    lengths = st.sampled_from([0, 8, 16, 24, 31, 32] if family == 4 else [0, 16, 32, 48, 64, 96, 127, 128])
    addresses = st.sampled_from([10, 172, 192]).flatmap(
        lambda high: st.integers(0, 3).map(lambda low: high << (bits - 8) | low << bits // 2 | low)
    )

    def masked(address: int, length: int) -> tuple[int, int]:
        mask = ((1 << length) - 1) << (bits - length)
        return address & mask, mask

    return st.builds(masked, addresses, lengths)


PORTS = st.sampled_from([m.PortRange(80, 80), m.PortRange(443, 443), m.PortRange(0, 65535), m.PortRange(1024, 65535),
                         m.PortRange(79, 81), m.PortRange(0, 1023), m.PortRange(65535, 65535)])  # fmt: skip


def matches(family: int) -> st.SearchStrategy[tuple[m.Match, ...]]:
    address = prefixes(family)
    flag = st.booleans()
    rarely = st.sampled_from([False, False, False, True])
    source = st.builds(lambda a, n: m.Source(family, *a, n), address, rarely)
    destination = st.builds(lambda a, n: m.Destination(family, *a, n), address, rarely)
    protocol = st.builds(m.Protocol, st.sampled_from([0, TCP, UDP, ICMP, 47]), rarely)
    port = st.none() | PORTS
    tcp = st.builds(lambda s, d, a, b: m.Tcp(sport=s, dport=d, not_sport=a, not_dport=b), port, port, rarely, rarely)
    udp = st.builds(lambda s, d, a, b: m.Udp(sport=s, dport=d, not_sport=a, not_dport=b), port, port, rarely, rarely)
    several = st.builds(
        m.Multiport, st.sampled_from(["sports", "dports", "ports"]), st.lists(PORTS, min_size=1, max_size=4).map(tuple), rarely
    )
    device = st.builds(m.InInterface, st.sampled_from([*DEVICES, "eth+", "+"]), rarely)
    icmp = st.builds(lambda kind, n: m.Icmp(family, kind, (0, 255), n), st.sampled_from([0, 3, 8, 128]), rarely)
    others = st.one_of(
        st.builds(m.Mark, st.integers(0, 3), st.just(3), flag), st.just(m.State(frozenset({"NEW"}))),
        st.just(m.UnknownMatch("string", "--string x")), st.just(m.Statistic(threshold=1 << 30)),
    )  # fmt: skip
    usual = st.one_of(source, destination, source, destination, protocol, tcp, udp, several, device, icmp)
    return st.tuples(st.lists(usual, max_size=4), st.lists(others, max_size=1), rarely).map(
        lambda given: tuple(given[0] + (given[1] if given[2] else []))
    )


TARGETS = st.sampled_from(
    [t.Accept(), t.Drop(), t.Reject("icmp-port-unreachable"), t.Return(), t.SetMark(1, U32), t.SetMark(2, 2), None,
     t.Jump("INNER"), t.Jump("INNER"), t.Jump("OTHER", goto=True), t.UnknownTarget("NEW", "")]
)  # fmt: skip


def chains(family: int) -> st.SearchStrategy[Ruleset]:
    rule = st.builds(Rule, matches(family), TARGETS)
    leaf = st.builds(Rule, matches(family), TARGETS.filter(lambda target: not isinstance(target, t.Jump)))
    longer = st.lists(rule, min_size=4, max_size=40).map(tuple)

    def ruleset(first: tuple[Rule, ...], inner: tuple[Rule, ...], other: tuple[Rule, ...]) -> Ruleset:
        base = Chain("INPUT", first, Hook.INPUT, 0, "ACCEPT")
        held = {"INPUT": base, "INNER": Chain("INNER", inner), "OTHER": Chain("OTHER", other)}
        return Ruleset((Table("ip" if family == 4 else "ip6", "filter", held),))

    short = st.lists(leaf, max_size=12).map(tuple)
    return st.builds(ruleset, longer, short, short)


def corners(family: int, rules: Ruleset, draw: Callable[[st.SearchStrategy[Any]], Any]) -> View:
    """A packet at the corners of what the rules ask for, or one beside them."""
    full = (1 << (32 if family == 4 else 128)) - 1
    found: dict[str, list[int]] = {"src": [0, full], "dst": [0, full], "port": [0, 65535]}
    for chain in rules.tables[0].chains.values():
        for match in (match for rule in chain.rules for match in rule.matches):
            match match:
                case m.Source() | m.Destination():
                    side = "src" if isinstance(match, m.Source) else "dst"
                    last = match.value | (full & ~match.mask)
                    found[side] += [match.value, last, match.value - 1, last + 1]
                case m.Tcp() | m.Udp():
                    for ports in (match.sport, match.dport):
                        found["port"] += [] if ports is None else [ports.low, ports.high, ports.low - 1, ports.high + 1]
    src, dst = (draw(st.sampled_from(found[side])) & full for side in ("src", "dst"))
    sport, dport = (draw(st.sampled_from(found["port"])) & 65535 for _ in range(2))
    protocol = draw(st.sampled_from([TCP, UDP, ICMP if family == 4 else ICMPV6, 47]))
    packet = Packet(Ip(family, src), Ip(family, dst), protocol, sport, dport, icmp_type=draw(st.sampled_from([0, 8, 128])),
                    mark=draw(st.integers(0, 3)), sport_random=draw(st.sampled_from([False, False, False, True])))  # fmt: skip
    ct = draw(st.sampled_from([None, CtState.NEW, CtState.ESTABLISHED]))
    flow = packet.flow
    seen = None if ct is None else CtView(ct, Connection(flow, flow.reversed()))
    return View(packet, Hook.INPUT, node(rules, family), draw(st.sampled_from(DEVICES)), ct=seen, local=False)


def node(rules: Ruleset, family: int) -> Netns:
    return Netns("node", NetnsKind.NODE, rulesets={family: rules})


def told(program: Program, view: View, answer: Answer, index: int) -> str:
    """Where batch and walk part, with the rules that the packet met."""
    ours, theirs = answer.leaves(index), walk(program.bases, view, program.numbering)
    lines = [repr(view.packet), f"in {view.indev!r} ct {view.ct}", f"batch {ours}", f"walk  {theirs}"]
    for number in sorted({rule for leaf in (*ours, *theirs) for rule in (*leaf.path, leaf.rule)}):
        place = program.numbering.place(number)
        lines.append(f"  {number}: {place.chain} {place.number}: {place.rule}")
    return "\n".join(lines)


def agree(program: Program, views: list[View]) -> None:
    """Verdict, rule, path, marks, probabilities and what is unknown: of all packets together, and of each alone."""
    answer = decide(program, Packets.of(views, program.names))
    for index, view in enumerate(views):
        expected = walk(program.bases, view, program.numbering)
        assert answer.leaves(index) == expected, told(program, view, answer, index)
        assert (answer.rule[index], answer.count[index]) == (expected[0].rule, len(expected))
        alone = decide(program, Packets.of([view], program.names))
        assert alone.leaves(0) == expected, told(program, view, alone, 0)


@pytest.mark.parametrize("family", [4, 6])
def test_random_chains(family: int) -> None:
    cut: set[int] = set()

    @settings(max_examples=120, deadline=None)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        rules = data.draw(chains(family))
        views = [corners(family, rules, data.draw) for _ in range(24)]
        program = compile_hook(node(rules, family), family, Hook.INPUT)
        agree(program, views)
        cut.update(field for chain in program.layout() if chain.cut is not None for field in chain.cut.fields)

    run()
    assert {Field.SRC, Field.DST, Field.PROTOCOL, Field.SPORT, Field.DPORT, Field.INDEV} <= cut


# -- the trees themselves ----------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 400), st.integers(1, 6), st.sampled_from([2, 12, 128]), st.sampled_from([1, 64]))
def test_trees_find_what_a_scan_finds(seed: int, count: int, dims: int, evict: int, full: int) -> None:
    """Boxes of any shape, few of them closed; from any rule on; with many trees, and with few leaves."""
    rng = np.random.default_rng(seed)
    fields = [Field.SRC, Field.DST, Field.SPORT, Field.DPORT, Field.PROTOCOL, Field.ICMP][:dims]
    tops = [boxes.top(field) for field in fields]
    edges = [np.unique(rng.integers(0, top + 1, 12)) for top in tops]
    low = np.array([rng.choice(edge, count) for edge in edges], np.uint32)
    high = np.array([rng.choice([*edge, top], count) for edge, top in zip(edges, tops, strict=True)], np.uint32)
    wild = rng.random((dims, count)) < 0.3
    low, high = np.where(wild, 0, np.minimum(low, high)), np.where(wild, np.array(tops)[:, None], np.maximum(low, high))
    rule = np.sort(rng.integers(0, 2 * count, count)).astype(np.int32)
    closed = np.zeros(count, np.uint8)
    before = np.arange(16 * (seed % 3), dtype=np.uint32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "EVICT", evict)
        patch.setattr(cuts, "FULL", full)
        known = boxes.Bounds(low.astype(np.uint32), high.astype(np.uint32), rule, np.array(tops, np.uint32))
        drawn = boxes.Bounds(known.low[:, ::2], known.high[:, ::2], rule[::2], known.tops)
        cells, grown = cuts.classify(known, closed, drawn, fields, before)
    assert (cells[: len(before)] == before).all()
    assert cells.ctypes.data % 64 == 0
    packets = np.array([np.clip(rng.choice([*edge, top], 60) + rng.integers(-1, 2, 60), 0, top)
                        for edge, top in zip(edges, tops, strict=True)], np.uint32)  # fmt: skip
    row_of = np.zeros(64, np.int32)
    row_of[fields] = range(dims)
    start = int(rng.integers(0, 2 * count)) if seed % 2 else 0
    behind = np.full((2, 60), cuts.NONE, np.int32)
    keys, ways = np.empty((cuts.MAX_DIMS, 64), np.uint32), np.empty((2, 64), np.uint64)
    cuts.find(cells, grown.base, packets, row_of, np.arange(60, dtype=np.int32), 0, 60, start, behind, keys, ways)
    expected = [cuts.scan(low, high, rule, packets[:, n].tolist(), start) for n in range(60)]
    assert behind[1].tolist() == expected
    assert [cuts.find_one(cells, grown.base, packets, row_of, n, start, cuts.NONE, False) for n in range(60)] == expected
    doubtful = [cuts.find_one(cells, grown.base, packets, row_of, n, start, cuts.NONE, True) for n in range(60)]
    assert doubtful == [cuts.scan(drawn.low, drawn.high, drawn.rule, packets[:, n].tolist(), start) for n in range(60)]


def test_boxes_of_rules() -> None:
    rows: list[tuple[tuple[m.Match, ...], list[boxes.Box], int]] = [
        ((m.Source(4, 10 << 24, 0xFF << 24), m.Protocol(TCP)), [{0: (10 << 24, (11 << 24) - 1), 24: (6, 6)}], 0),
        ((m.Destination(4, 1, U32, True),), [{4: (0, 0)}, {4: (2, U32)}], 0),
        ((m.Tcp(dport=m.PortRange(80, 90)),), [{24: (6, 6), 26: (80, 90)}], 0),
        ((m.Udp(sport=m.PortRange(0, 53), not_sport=True),), [{24: (17, 17), 25: (54, 65535)}], 0),
        ((m.Source(4, 1, U32), m.Mark(1, 1)), [{0: (1, 1)}], 1),  # the mark is left to ask
        ((m.Mark(1, 1),), [{}], 1),
        ((m.Source(4, 1, 0xFF),), [{}], 1),  # no prefix
    ]
    for given_, expected, left in rows:
        rules = Ruleset((Table("ip", "filter", {"INPUT": Chain("INPUT", (Rule(given_, t.Drop()),), Hook.INPUT, 0, "ACCEPT")}),))
        program = compile_hook(node(rules, 4), 4, Hook.INPUT)
        chain = next(iter(program.layout()))
        found, rest = program.code(chain, 0).boxes()
        assert (found, len(rest)) == (expected, left), given_


def test_boxes_of_packets_with_a_drawn_source_port() -> None:
    """Where a rule asks for that port, such a packet stays in its boxes, though no port at all would do."""
    tcp, https = m.Protocol(TCP), m.Tcp(sport=m.PortRange(443, 443))
    never, either = m.Multiport("sports", (m.PortRange(0, 65535),), True), m.Multiport("ports", (m.PortRange(80, 80),))
    everywhere: list[boxes.Box] = [{24: (6, 6), 26: (80, 80)}, {24: (6, 6), 26: (0, 79)}, {24: (6, 6), 26: (81, 65535)}]
    rows: list[tuple[tuple[m.Match, ...], list[boxes.Box], list[boxes.Box]]] = [
        ((tcp, https), [{24: (6, 6), 25: (443, 443)}], [{24: (6, 6)}]),
        ((tcp, never), [], [{24: (6, 6)}]),
        ((tcp, https, either), [{24: (6, 6), 25: (443, 443), 26: (80, 80)}], everywhere),
    ]
    for given_, known, drawn in rows:
        chain = Chain("INPUT", (Rule(given_, t.Drop()),), Hook.INPUT, 0, "ACCEPT")
        program = compile_hook(node(Ruleset((Table("ip", "filter", {"INPUT": chain}),)), 4), 4, Hook.INPUT)
        code = program.code(next(iter(program.layout())), 0)
        assert (code.boxes()[0], code.boxes(drawn=True)[0]) == (known, drawn), given_


# -- the benchmark's rule sets -----------------------------------------------------------------------------------------


def first_match(rules: np.ndarray[Any, Any], packets: np.ndarray[Any, Any]) -> list[int]:
    """The first rule that holds, by looking at all."""
    wide = packets.T[:, None, :]
    return [int(np.argmax(((rules[:, :, 0] <= one) & (one <= rules[:, :, 1])).all(axis=1))) for one in wide]


@pytest.mark.parametrize("flavour", list(acl_rules.FLAVOURS))
def test_generated_sets(flavour: str) -> None:
    rules = acl_rules.make(flavour, 600, 3)
    netns = node(acl_rules.ruleset(rules), 4)
    program = compile_hook(netns, 4, Hook.INPUT)
    for law in acl_rules.TRACES:
        packets = acl_rules.trace(law, rules, 1500, 4)
        src, dst, sport, dport, protocol = packets
        batch = Packets.of_fields(4, program.names, src=src, dst=dst, sport=sport, dport=dport, protocol=protocol)
        answer = decide(program, batch)
        assert answer.rule.tolist() == first_match(rules, packets), law
    row = next(row for row in layout(netns, 4) if row.hook == "input")
    assert row.found.startswith("cuts of src, dst, protocol, sport, dport: 599 in ")
    assert row.found.endswith("; rule by rule: 1")


def test_rules_that_differ_in_one_exact_key_stay_in_a_hash_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    rules = tuple(Rule((m.Destination(4, n, U32), m.Tcp(dport=m.PortRange(n, n))), t.Drop()) for n in range(1, 200))
    found = Ruleset((Table("ip", "filter", {"INPUT": Chain("INPUT", rules, Hook.INPUT, 0, "ACCEPT")}),))
    assert [row.found for row in layout(node(found, 4), 4) if row.rules] == [
        "hash of dst, protocol, dport: 199; alike: 199 of 1 kind"
    ]


def test_how_rules_are_found_is_told_in_words() -> None:
    """Prefixes as one writes them, of both families; a mask that is none in hexadecimal digits."""
    shape = ((0, 0xFFFFFF00), (int(Field.PROTOCOL), U32), (int(Field.DPORT), 0xFFF8))
    assert layout_module._fields(shape, 4) == "src/24, protocol, dport/fff8"
    assert layout_module._fields(((4, 0), (5, 0), (6, 0xFFFF0000), (7, U32)), 6) == "dst/48"
    assert layout_module._fields(((4, U32), (5, U32), (6, U32), (7, U32), (0, 0xFF)), 6) == "dst, src/ff"
