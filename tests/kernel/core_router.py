"""The fuzzer's router where the matching core looks up every rule: routing, conntrack and what NAT does are the walk's.

    hook --+--> chain by chain, one packet: rules that count, verdict, marks, zone, NAT target: the walk goes on with these
           \\--> `hooks_again`: all packets of a ruleset at once, all chains of a hook in one program: the same leaves

Law: no rule is asked of the twin. Where the core says UNKNOWN, the twin must say so, too.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from typing import NamedTuple

from msgspec.structs import replace

from netlab.lab.fuzz_rules import Place, Router
from netlab.linux.bridge import Links
from netlab.linux.conntrack import Connection, CtState, CtView
from netlab.linux.rules import Chain, Hook, Table
from netlab.linux.targets import Dnat, Masquerade, Netmap, Redirect, Reject, Snat
from netlab.match.batch import decide, explain
from netlab.match.outcome import Leaf, Verdict, signature
from netlab.match.packets import Packets
from netlab.match.program import Program, compile_hook
from netlab.match.view import View
from netlab.match.walk import Base, before_conntrack
from netlab.trace.choices import Chooser
from netlab.trace.netfilter import Netfilter
from netlab.trace.skb import Outcome, Skb
from netlab.trace.steps import RuleStep

BEFORE_NAT = ("raw", "mangle", "nat")


class Asked(NamedTuple):
    """A packet in a base chain, and what the core said."""

    base: Base
    view: View
    path: tuple[Place, ...]
    leaf: Leaf


class Core:
    """The programs of one ruleset, and what they said.

    Attributes
    ----------
    verdicts : Counter
        Of packets in base chains; only those that the twin calls UNKNOWN, too, are UNKNOWN.
    """

    def __init__(self) -> None:
        self.programs: dict[tuple[Hook, tuple[str, ...]], Program] = {}
        self.passed: dict[tuple[Hook, tuple[str, ...]], list[list[Asked]]] = defaultdict(list)
        self.verdicts: Counter[Verdict] = Counter()

    def router(self, links: Links, chooser: Chooser) -> Router:
        """A router for one branch of a conversation."""
        router = Router(links, chooser)
        router.netfilter = _Netfilter(router, self)
        return router

    def program(self, view: View, tables: tuple[str, ...]) -> Program:
        known = self.programs.get((view.hook, tables))
        if known is None:
            known = self.programs[view.hook, tables] = compile_hook(view.netns, view.packet.family, view.hook, tables)
        return known

    def ask(self, view: View, base: Base, chooser: Chooser) -> Asked:
        """One packet in one base chain."""
        program = self.program(view, (base.table.name,))
        packets = Packets.of([view], program.names)
        answer = decide(program, packets)
        leaves = answer.leaves(0)
        leaf = leaves[0]
        assert (answer.rule[0], answer.mark[0], answer.connmark[0]) == (leaf.rule, leaf.mark, leaf.connmark)
        if len(leaves) > 1:
            leaf = leaves[chooser.choose([each.probability for each in leaves], base.table.name)]
        else:
            assert answer.verdict[0] == leaf.verdict.value
        assert leaf.verdict is not Verdict.UNKNOWN or leaf in explain(program, packets, 0)
        self.verdicts[leaf.verdict] += 1
        return Asked(base, view, _path(program, leaf), leaf)

    def hook_passed(self, hook: Hook, asked: list[Asked]) -> None:
        """Remember a packet's way through a hook. At OUTPUT it may be another packet behind nat."""
        if hook is not Hook.OUTPUT:
            parts: dict[tuple[str, ...], list[Asked]] = {(): asked}
        else:
            parts = {tables: [each for each in asked if each.base.table.name in tables] for tables in (BEFORE_NAT, ("filter",))}
        for tables, part in parts.items():
            if part and part[-1].leaf.verdict is not Verdict.UNKNOWN:
                self.passed[hook, tables].append(part)

    def hooks_again(self) -> int:
        """All packets that the hooks have seen, all chains of a hook together: how many leaves were those of before."""
        count = 0
        for (_, tables), ways in self.passed.items():
            program = self.program(ways[0][0].view, tables)
            views = [_whole(way) for way in ways]
            answer = decide(program, Packets.of(views, program.names))
            for index, way in enumerate(ways):
                path = tuple(place for asked in way for place in asked.path)
                ct = next((asked.leaf.ct for asked in way if asked.leaf.ct is not None), None)
                before = (path, signature(replace(way[-1].leaf, ct=ct)))
                found = [(_path(program, leaf), signature(leaf)) for leaf in answer.leaves(index)]
                assert before in found, f"{views[index].packet}\nchain by chain {before}\nin one program {found}"
                count += 1
        return count


class _Netfilter(Netfilter):
    """Netfilter whose chains are the core's."""

    def __init__(self, router: Router, core: Core) -> None:
        super().__init__(router.chooser, router.emit, router.ipvs)
        self.core = core
        self.asked: list[Asked] = []

    def hook(self, skb: Skb, hook: Hook, indev: str, outdev: str) -> Outcome | None:
        self.asked = []
        outcome = super().hook(skb, hook, indev, outdev)
        self.core.hook_passed(hook, self.asked)
        return outcome

    def _chain(self, skb: Skb, view: View, table: Table, base: Chain) -> Outcome | None:
        came = skb.ct if skb.ct is not None else skb.template  # with the packet
        seen = dataclasses.replace(view, ct=_copied(view.ct))
        if before_conntrack(Base(table, base)):
            seen = dataclasses.replace(view, ct=_copied(came), attached=came is not None)
        asked = self.core.ask(seen, Base(table, base), self.chooser)
        self.asked.append(asked)
        leaf, where = asked.leaf, skb.netns.name

        def hit(effect: str, places: tuple[Place, ...] = asked.path[-1:]) -> None:
            for place in places:
                self.emit(where, RuleStep(view.hook.value, *place, "", effect))

        hit("", asked.path[:-1] if leaf.verdict is Verdict.NAT else asked.path)
        self.rewrite(skb, view, replace(view.packet, mark=leaf.mark))
        if skb.ct is not None and skb.ct.connection is not None:
            skb.ct.connection.mark = leaf.connmark
        if leaf.ct is not None:
            skb.untracked = leaf.ct.notrack
            skb.zone, skb.zone_direction = leaf.ct.zone or 0, leaf.ct.zone_direction
            skb.template = view.ct = CtView(CtState.UNTRACKED) if leaf.ct.notrack else self.template(view.packet.family)
        match leaf.verdict, leaf.target:
            case Verdict.ACCEPT, _:
                return None
            case Verdict.DROP, _:
                return Outcome("dropped", "the core", where)
            case Verdict.REJECT, Reject(kind=kind):
                return Outcome("rejected", "the core", where, answer_ct=self.attached(skb), owner=kind)
            case Verdict.NAT, (Dnat() | Snat() | Masquerade() | Redirect() | Netmap()) as target:
                return self.nat_target(skb, view, target, hit)
            case _:
                return Outcome("unknown", "the core", where)


def _path(program: Program, leaf: Leaf) -> tuple[Place, ...]:
    places = [program.numbering.place(rule) for rule in leaf.path]
    return tuple((place.table, place.chain, place.number) for place in places)


def _copied(ct: CtView | None) -> CtView | None:
    return None if ct is None else replace(ct, connection=None if ct.connection is None else replace(ct.connection))


def _whole(way: list[Asked]) -> View:
    """A packet as it came to a hook, with what connection tracking said of it there."""
    view = way[0].view
    ct = next((asked.view.ct for asked in way if not before_conntrack(asked.base)), view.ct)
    if ct is not None and ct.state is CtState.UNTRACKED and way[0].leaf.ct is not None:  # for the core to find
        ct = CtView(CtState.NEW, Connection(view.packet.flow, view.packet.flow.reversed()))
    return dataclasses.replace(view, ct=ct)
