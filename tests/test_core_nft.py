"""nft's rules and IPVS's services in the matching core: the walk of the lowered rules is the tracer's, a batch is the walk's."""

from __future__ import annotations

import dataclasses
from collections import Counter
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from netlab.lab.fuzz_bench import ROUTER, model
from netlab.lab.fuzz_generate import MARKS, Maker
from netlab.lab.fuzz_nft import NftMaker
from netlab.linux.addr import Ip, ip
from netlab.linux.conntrack import Connection, CtState, CtView
from netlab.linux.ipvs import SCHEDULERS, Method, RealServer, VirtualService
from netlab.linux.ipvs_connections import IpvsConnection
from netlab.linux.netns import Netns
from netlab.linux.nft import NftTable
from netlab.linux.packet import SCTP, TCP, UDP, Packet
from netlab.linux.rules import Hook, Ruleset
from netlab.linux.text.nft import read_text
from netlab.match.bases import bases
from netlab.match.batch import decide
from netlab.match.lower_ipvs import to_server
from netlab.match.outcome import Leaf
from netlab.match.packets import Packets
from netlab.match.program import compile_hook
from netlab.match.view import View
from netlab.match.walk import Base, Numbering, before_conntrack, walk
from netlab.trace import choices, nftables
from netlab.trace.ipvs import Ipvs
from netlab.trace.netfilter import Netfilter
from netlab.trace.skb import Outcome, Skb
from netlab.trace.steps import AnyStep, RuleStep
from tests.packet_views import view_of
from tests.test_core import agree, copied, everywhere

__all__ = ["everywhere"]  # a fixture
Ends = Counter[tuple[Any, ...]]
KINDS = {"dropped": "drop", "rejected": "reject"}


def of_leaves(leaves: tuple[Leaf, ...], numbering: Numbering) -> Ends:
    found: Ends = Counter()
    for leaf in leaves:
        verdict = leaf.verdict.name.lower()
        target = str(leaf.target) if verdict in ("nat", "reject", "ipvs") else ""
        path = tuple((place.chain, place.number) for place in numbering.places(leaf.path))
        found[verdict, leaf.mark, leaf.connmark, leaf.ct is not None, target, path] += leaf.probability  # type: ignore[assignment]
    return found


def traced(netns: Netns, table: NftTable, base: Base, view: View) -> Ends | None:
    """The ends of a packet in a base chain of nft as the tracer has them; None where it gives up."""

    def run(chooser: choices.Chooser) -> tuple[Any, ...]:
        path: list[tuple[str, int]] = []
        target = ""

        def emit(where: str, step: AnyStep) -> None:
            if isinstance(step, RuleStep):
                path.append((step.chain, step.number))

        def nat(*given: Any) -> None:  # a NAT target ends our walk
            nonlocal target
            target = str(given[2])
            given[3]("")

        netfilter = Netfilter(chooser, emit, None)  # type: ignore[arg-type]
        netfilter.nat_target = nat  # type: ignore[assignment]
        copy = copied(view.ct)
        skb = Skb(view.packet, netns, view.indev, copy, local=view.local, socket=view.local)
        mine = dataclasses.replace(view, ct=copy, recent=set(), changed_sets=set(), nft_changes={})
        outcome = nftables.walk(netfilter, skb, mine, table, table.chains[base.chain.name])
        kind = "nat" if target else "accept" if outcome is None else KINDS.get(outcome.kind, outcome.kind)
        if kind == "reject":
            assert outcome is not None
            target = f"-j REJECT --reject-with {outcome.owner}"
        mark = copy.connection.mark if copy is not None and copy.connection is not None else 0
        return kind, skb.packet.mark, mark, skb.template is not None, target, tuple(path)

    try:
        each = choices.explore(run, lambda end: end[:5], lambda first, _: ("unknown", *first[1:4], "", first[5]))
    except choices.TooManyChoices:
        return None
    found: Ends = Counter()
    for end in each:
        found[end.outcome] += end.probability  # type: ignore[assignment]
    return found


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("seed", range(12))
def test_the_walk_is_the_tracers(seed: int, family: int) -> None:
    rng = Random(f"nft walk {seed} {family}")
    maker = NftMaker(rng, family)
    netns = model(family, maker.nft_ruleset(), {}).namespaces[ROUTER]
    for hook in Hook:
        for base in bases(netns, family, hook):
            numbering = Numbering([base])
            for _ in range(12):
                view = view_of(rng, maker.opening()[1], maker.opening()[1], netns, hook)
                ct = None if before_conntrack(base) and not view.attached else view.ct
                if base.nat:  # only a new connection asks it
                    flow = view.packet.flow
                    ct = CtView(CtState.NEW, Connection(flow, flow.reversed(), mark=rng.randrange(4)))
                view = dataclasses.replace(view, ct=ct)
                expected = traced(netns, base.table.nft, base, view)  # type: ignore[attr-defined]
                if expected is not None:
                    assert of_leaves(walk([base], view, numbering), numbering) == expected, f"{base.chain.name} {view}"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("seed", range(6))
def test_random_rulesets(seed: int, family: int, everywhere: None) -> None:
    rng = Random(f"nft core {seed} {family}")
    maker = NftMaker(rng, family)
    netns = model(family, maker.nft_ruleset(), {}).namespaces[ROUTER]
    for hook in Hook:
        program = compile_hook(netns, family, hook)
        agree(program, [view_of(rng, maker.opening()[1], maker.opening()[1], netns, hook) for _ in range(40)])


FIREWALL = """
table inet fw {
	set blocked { type ipv4_addr; flags interval; elements = { 10.1.0.0/28, 10.2.0.9-10.2.0.20 } }
	set web { type ipv4_addr . inet_service; flags interval; elements = { 10.2.0.0/24 . 80-90, 10.96.0.10 . 443 } }
	map by_port { type inet_service : verdict; elements = { 22 : jump ssh, 53 : accept, 80 : goto web_only } }
	chain ssh { ip saddr 10.1.0.2 accept
		limit rate 5/second drop }
	chain web_only { meta l4proto { tcp, udp } th dport 80-90 meta mark set meta mark & 0xff00 | 0x1 accept
		reject with icmpx port-unreachable }
	chain in {
		type filter hook forward priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iifname "eth1*" ip saddr @blocked counter drop
		meta mark & 0xff != 0 ct mark set meta mark
		tcp flags & (syn | ack) == syn tcp dport vmap @by_port
		ip saddr . tcp dport @web numgen random mod 4 vmap { 0 : drop, 1-3 : accept }
		fib daddr type { local, broadcast } accept
		icmp type { echo-request, echo-reply } accept
	}
}
"""


def test_a_firewall_is_compiled() -> None:
    """What people write needs the twin nowhere: no packet is left to it."""
    tables = read_text(FIREWALL)
    netns = model(4, Ruleset(nft_tables=tables), {}).namespaces[ROUTER]
    program = compile_hook(netns, 4, Hook.FORWARD)
    rng = Random(3)
    maker = Maker(rng, 4)
    views = []
    for _ in range(800):
        packet = replace(maker.opening()[1], dport=rng.choice((22, 53, 80, 85, 443)), tcp_flags=rng.choice((2, 16)))
        views.append(view_of(rng, packet, maker.opening()[1], netns, Hook.FORWARD))
    agree(program, views)
    assert not program.asking
    assert all(outcome.fixed is None for outcome in program.outcomes)
    answer = decide(program, Packets.of(views, program.names))
    paths = [program.numbering.places(leaf.path) for index in range(len(views)) for leaf in answer.leaves(index)]
    met = {(place.chain, place.number) for path in paths for place in path}
    assert met >= {*(("in", number) for number in range(1, 8)), ("web_only", 1), ("ssh", 1)}
    decided = {(place.chain, place.nft) for place in map(program.numbering.place, map(int, answer.rule)) if place.number}
    assert ("web_only", tables[0].chains["web_only"].rules[0]) in decided


# -- IPVS ----------------------------------------------------------------------------------------------------------------


class Wires:
    """What trace/ipvs.py hands on, written down instead."""

    def ipvs_transmit(self, skb: Skb, view: View, connection: IpvsConnection) -> Outcome:
        return Outcome("ipvs", str(to_server(connection.service, connection.real)), "")

    def ipvs_refuse(self, skb: Skb, reason: str) -> Outcome:
        return Outcome("reject", f"-j REJECT --reject-with icmp{'' if view_family(skb) == 4 else '6'}-port-unreachable", "")

    def ipvs_relay(self, skb: Skb, about: Packet) -> Outcome:
        raise AssertionError


def view_family(skb: Skb) -> int:
    return skb.packet.family


def services_of(rng: Random, family: int) -> tuple[tuple[VirtualService, ...], dict[str, int]]:
    """Random services on few addresses, and sysctls."""

    def address(number: int) -> Ip:
        return ip(f"10.96.0.{number}" if family == 4 else f"fd00:96::{number}")

    def server(number: int) -> RealServer:
        method = rng.choice((Method.MASQUERADE, Method.MASQUERADE, Method.ROUTE))
        where = ip(f"10.1.0.{number}" if family == 4 else f"fd00:1::{number}")
        return RealServer(where, rng.choice((0, 8080)), method, rng.choice((0, 1, 1, 2)), tunnel=rng.choice(("", "", "", "gue")))

    services: dict[object, VirtualService] = {}
    for _ in range(rng.randint(1, 9)):
        mark = rng.choice((0, 0, 0, rng.choice(MARKS)))
        protocol, port = rng.choice((TCP, TCP, UDP, SCTP)), rng.choice((0, 21, 53, 80))
        where = None if mark else address(rng.randint(1, 3))
        servers = tuple(server(number) for number in range(2, 2 + rng.randint(0, 4)))
        timeout = rng.choice((None, None, 300)) if port or mark else 300 if rng.random() < 0.7 else None
        made = VirtualService(
            0 if mark else protocol, where, 0 if mark else port, rng.choice(SCHEDULERS), servers, mark, family,
            timeout=timeout, engine=rng.choice(("", "", "", "", "sip")),
        )  # fmt: skip
        services.setdefault((mark, made.protocol, where, made.port), made)
    names = ("sloppy_tcp", "sloppy_sctp", "drop_packet", "cache_bypass")
    return tuple(services.values()), {f"ipv4.vs.{name}": 1 for name in names if rng.random() < 0.15}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("seed", range(25))
def test_ipvs(seed: int, family: int, everywhere: None) -> None:
    rng = Random(f"ipvs {seed} {family}")
    services, sysctls = services_of(rng, family)
    empty = model(family, Ruleset(), {}).namespaces[ROUTER]
    netns = replace(empty, ipvs=services, sysctls={**empty.sysctls, **sysctls}, cache={})
    for hook in (Hook.INPUT, Hook.OUTPUT):
        program = compile_hook(netns, family, hook, ["ipvs"])
        views = [ipvs_view(rng, netns, family, hook) for _ in range(60)]
        agree(program, views)
        for view in views:
            expected: Ends = Counter()

            def run(chooser: choices.Chooser, view: View = view) -> tuple[str, str]:
                def nothing(*_: object) -> None:
                    return None

                found = Ipvs(chooser, nothing, nothing, Wires(), nothing)
                skb = Skb(view.packet, netns, view.indev, None, local=view.local, socket=view.local)
                outcome = found.request(skb, view)
                return ("accept", "") if outcome is None else (outcome.kind, outcome.reason if outcome.kind != "unknown" else "")

            for end in choices.explore(run, lambda end: end, lambda first, _: ("unknown", "")):
                expected[end.outcome] += end.probability  # type: ignore[assignment]
            ours: Ends = Counter()
            for leaf in walk(program.bases, view, program.numbering):
                verdict = leaf.verdict.name.lower()
                ours[verdict, str(leaf.target) if verdict in ("ipvs", "reject") else ""] += leaf.probability  # type: ignore[assignment]
            assert ours == expected, f"{view.packet} mark {view.packet.mark:#x}"
            assert sum(ours.values()) == Fraction(1)


def ipvs_view(rng: Random, netns: Netns, family: int, hook: Hook) -> View:
    client = ip("10.2.0.2" if family == 4 else "fd00:2::2")
    virtual = ip(f"10.96.0.{rng.randint(1, 4)}" if family == 4 else f"fd00:96::{rng.randint(1, 4)}")
    protocol, ports = rng.choice((TCP, TCP, UDP, SCTP, 1)), (0, 20, 21, 53, 80, 5000)
    packet = Packet(
        client, virtual, protocol, rng.choice((20, 40000, 40001)), rng.choice(ports),
        tcp_flags=rng.choice((2, 2, 2, 16, 4, 18)), mark=rng.choice((0, 0, *MARKS)), sport_random=rng.random() < 0.1,
    )  # fmt: skip
    return View(packet, hook, netns, indev="eth0" if hook is Hook.INPUT else "", local=hook is Hook.OUTPUT)
