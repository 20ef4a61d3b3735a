"""One packet through the base chains of a hook, rule by rule: the twin that program.py and kernels.py are held equal to.

    base chains in the kernel's order -> ip_tables.c ipt_do_table for each -> leaves (outcome.py)

Law: the answer is that of trace/netfilter.py for the same chains; it only leaves out the steps. What conntrack says of the packet
is given with the View; a chain before conntrack sees it only where it came with the packet (`attached`). The nat table is asked
for a new connection alone (nf_nat_core.c nf_nat_inet_fn), and a NAT target is the end: behind it the packet is another one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace as with_fields
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from msgspec.structs import replace

from netlab.linux.addr import Ip
from netlab.linux.conntrack import Connection, CtState, CtView
from netlab.linux.hooks import CONNTRACK
from netlab.linux.packet import Flow
from netlab.linux.rules import Chain, Hook, Rule, Ruleset, Table
from netlab.linux.targets import (
    Accept,
    Checksum,
    Ct,
    Dnat,
    Drop,
    Jump,
    Log,
    Masquerade,
    Netmap,
    Redirect,
    Reject,
    Return,
    SetConnmark,
    SetMark,
    SetTarget,
    Snat,
    Target,
    Tcpmss,
    Tproxy,
    TraceTarget,
    UnknownTarget,
)
from netlab.match.naive import rule_holds
from netlab.match.outcome import Chooser, Leaf, Verdict, chance, explore
from netlab.match.view import Chance, View

ONE = Fraction(1)
U32 = 0xFFFFFFFF


class Base(NamedTuple):
    """A base chain of a table."""

    table: Table
    chain: Chain


class Place(NamedTuple):
    """Where a rule is; `number` counts from 1, as iptables does."""

    table: str
    chain: str
    number: int
    rule: Rule


class Numbering:
    """One number for each rule that the base chains can come to: the tables in order, their chains, their rules.

    A number below zero is the policy of a base chain: -1 of the first.
    """

    def __init__(self, bases: Sequence[Base]) -> None:
        self.bases = tuple(bases)
        self.first: dict[tuple[str, str], int] = {}
        self._starts: list[int] = []
        self._chains: list[tuple[Table, Chain]] = []
        count = 0
        for table in {id(base.table): base.table for base in bases}.values():
            for chain in table.chains.values():
                self.first[table.name, chain.name] = count
                if chain.rules:
                    self._starts.append(count)
                    self._chains.append((table, chain))
                count += len(chain.rules)
        self.count = count

    def place(self, number: int) -> Place:
        """The rule of a number."""
        if number < 0:
            base = self.bases[-1 - number]
            return Place(base.table.name, base.chain.name, 0, Rule())
        at = bisect_right(self._starts, number) - 1
        table, chain = self._chains[at]
        position = number - self._starts[at]
        return Place(table.name, chain.name, position + 1, chain.rules[position])


def bases_at(ruleset: Ruleset, hook: Hook, tables: Sequence[str] = ()) -> tuple[Base, ...]:
    """The base chains of iptables at a hook in the kernel's order; `tables` picks some by name."""
    found = [Base(table, chain) for table, chain in ruleset.base_chains(hook)]
    return tuple(base for base in found if not tables or base.table.name in tables)


def before_conntrack(base: Base) -> bool:
    """Whether the chain runs before connection tracking has looked at a packet."""
    return base.chain.hook in (Hook.PREROUTING, Hook.OUTPUT) and base.chain.priority < CONNTRACK


def source_nat(hook: Hook | None) -> bool:
    """Whether a nat chain here translates sources (nf_nat_proto.c: HOOK2MANIP)."""
    return hook in (Hook.POSTROUTING, Hook.INPUT)


def template(family: int) -> CtView:
    """What `-j CT` attaches: an empty connection (nf_ct_tmpl_alloc)."""
    nothing = Flow(0, Ip(family, 0), 0, Ip(family, 0), 0)
    return CtView(CtState.NEW, Connection(nothing, nothing, confirmed=True))


def asks_nat(ct: CtView | None, hook: Hook | None, icmp_error: bool) -> bool:
    """Whether the nat chains of a hook are asked for a packet (nf_nat_core.c nf_nat_inet_fn)."""
    if ct is None or ct.connection is None or ct.state not in (CtState.NEW, CtState.RELATED):
        return False
    if ct.state is CtState.RELATED and icmp_error:
        return False
    return not (ct.connection.src_done if source_nat(hook) else ct.connection.dst_done)


def walk(bases: Sequence[Base], view: View, numbering: Numbering) -> tuple[Leaf, ...]:
    """Every end of a packet in these base chains.

    Parameters
    ----------
    bases : sequence of Base
        In the order in which they run.
    view : View
        The packet; `ct` is what connection tracking says of it. Nothing of it is changed; lists of `recent` start empty.
    numbering : Numbering
    """
    return explore(lambda chooser: _Walk(bases, view, numbering, chooser).run())


class _Walk:
    """One run."""

    def __init__(self, bases: Sequence[Base], view: View, numbering: Numbering, chooser: Chooser) -> None:
        self.bases, self.numbering, self.chooser = bases, numbering, chooser
        self.given = view.ct
        given = view.ct.connection if view.ct is not None else None
        self.connection = replace(given) if given is not None else None
        self.seen = None if view.ct is None else CtView(view.ct.state, self.connection, view.ct.is_reply)
        self.view = with_fields(view, recent=set(), changed_sets=set())
        self.ct: Ct | None = None
        self.path: list[int] = []

    def leaf(self, verdict: Verdict, rule: int, target: Target | None = None) -> Leaf:
        mark = self.connection.mark if self.connection is not None else 0
        return Leaf(ONE, verdict, rule, tuple(self.path), self.view.packet.mark, mark, self.ct, target)

    def run(self) -> Leaf:
        rule = -1
        for number, base in enumerate(self.bases):
            self.attached = None if before_conntrack(base) and not self.view.attached else self._tracked()
            if self.attached is not None or self.ct is None or not before_conntrack(base):
                self.view.ct = self.attached
            if base.table.name == "nat" and not asks_nat(self.attached, base.chain.hook, self.view.packet.is_icmp_error):
                rule = -1 - number
                continue
            ended = self.chain(base, number)
            if isinstance(ended, Leaf):
                return ended
            rule = ended
        return self.leaf(Verdict.ACCEPT, rule)

    def _tracked(self) -> CtView | None:
        """What a chain behind conntrack sees (nf_conntrack_core.c nf_conntrack_in)."""
        return CtView(CtState.UNTRACKED) if self.ct is not None and self.ct.notrack else self.seen

    def chain(self, base: Base, number: int) -> Leaf | int:
        """Walk a base chain (ip_tables.c ipt_do_table): the end, or by which rule the packet goes on."""
        chains, view = base.table.chains, self.view
        chain, position = base.chain, 0
        stack: list[tuple[Chain, int]] = []
        while True:
            if position >= len(chain.rules):
                if not stack:
                    return self._policy(base, number)
                chain, position = stack.pop()
                continue
            rule = chain.rules[position]
            id_ = self.numbering.first[base.table.name, chain.name] + position
            position += 1
            answer = rule_holds(rule, view)
            if answer is False:
                continue
            if answer is not True:
                if isinstance(answer, Chance):
                    p = chance(answer.probability)
                    if p is False or (p is not True and not self.chooser.holds(id_, p)):
                        continue
                elif not self.chooser.undecidable(id_):
                    continue
            self.path.append(id_)
            match rule.target:
                case Jump(chain=name, goto=goto):
                    if not goto:
                        stack.append((chain, position))
                    chain, position = chains[name], 0
                case Return():
                    if not stack:
                        return self._policy(base, number)
                    chain, position = stack.pop()
                case Accept():
                    return id_
                case Drop():
                    return self.leaf(Verdict.DROP, id_)
                case Reject():
                    return self.leaf(Verdict.REJECT, id_, rule.target)
                case Dnat() | Snat() | Masquerade() | Redirect() | Netmap():
                    return self.leaf(Verdict.NAT, id_, rule.target)
                case Tproxy() | UnknownTarget():
                    return self.leaf(Verdict.UNKNOWN, id_, rule.target)
                case SetMark(value=value, mask=mask):
                    view.packet = replace(view.packet, mark=(view.packet.mark & ~mask & U32) ^ value)
                case SetConnmark():
                    self._connmark(rule.target)
                case Ct():
                    if self.attached is None and self.ct is None:
                        self.ct = rule.target
                        view.ct = CtView(CtState.UNTRACKED) if rule.target.notrack else template(view.packet.family)
                case SetTarget(text=text):
                    words = text.split()
                    if "--map-set" in words:
                        return self.leaf(Verdict.UNKNOWN, id_, rule.target)
                    view.changed_sets |= {name for word, name in pairwise(words) if word in ("--add-set", "--del-set")}
                case None | Log() | TraceTarget() | Tcpmss() | Checksum():
                    pass

    def _policy(self, base: Base, number: int) -> Leaf | int:
        return self.leaf(Verdict.DROP, -1 - number) if base.chain.policy == "DROP" else -1 - number

    def _connmark(self, target: SetConnmark) -> None:
        """xt_connmark.c connmark_tg."""
        connection = self.attached.connection if self.attached is not None else None
        if connection is None:
            return
        packet = self.view.packet
        if target.action == "set":
            connection.mark = (connection.mark & ~target.ctmask & U32) ^ target.value
        elif target.action == "save":
            connection.mark = (connection.mark & ~target.ctmask & U32) ^ (packet.mark & target.nfmask)
        else:
            mark = (packet.mark & ~target.nfmask & U32) ^ (connection.mark & target.ctmask)
            self.view.packet = replace(packet, mark=mark)
