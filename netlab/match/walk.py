"""One packet through the base chains of a hook, rule by rule: the twin that program.py and kernels.py are held equal to.

    base chains in the kernel's order (bases.py) -> ip_tables.c ipt_do_table for each -> leaves (outcome.py)

Law: the answer is that of trace/netfilter.py for the same chains; it only leaves out the steps. What conntrack says of the packet
is given with the View; a chain before conntrack sees it only where it came with the packet (`attached`). The nat table is asked
for a new connection alone (nf_nat_core.c nf_nat_inet_fn), and a NAT target is the end: behind it the packet is another one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace as with_fields
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from netlab.linux import nft as n
from netlab.linux.addr import Ip
from netlab.linux.conntrack import Connection, CtState, CtView
from netlab.linux.hooks import CONNTRACK
from netlab.linux.ipvs import service_text
from netlab.linux.ipvs_schedulers import Asked, schedule
from netlab.linux.packet import Flow
from netlab.linux.rules import Chain, Hook, Rule, Table
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
from netlab.linux.text import nft_words as words
from netlab.match import nft
from netlab.match.lower_ipvs import leave, to_server
from netlab.match.lowered import (
    Inline,
    Leave,
    LoweredChain,
    LoweredTable,
    NftStatement,
    Scheduled,
    ToServer,
    inline_chain,
    verdict_target,
)
from netlab.match.naive import rule_holds
from netlab.match.outcome import Chooser, Leaf, Verdict, chance, explore
from netlab.match.view import Chance, Undecided, View

T = TypeVar("T")
ONE = Fraction(1)
U32 = 0xFFFFFFFF


class Base(NamedTuple):
    """A base chain of a table."""

    table: Table
    chain: Chain

    @property
    def nat(self) -> bool:
        """Whether it is asked for the first packet of a connection alone."""
        return self.chain.nat if isinstance(self.chain, LoweredChain) else self.table.name == "nat"


class Spot(NamedTuple):
    """Where a rule is in the rule IR; `position` counts from 0."""

    table: Table
    chain: Chain
    position: int

    @property
    def rule(self) -> Rule:
        return self.chain.rules[self.position]


class Place(NamedTuple):
    """Where a rule is for its reader; `number` counts from 1, as iptables does, 0 is the policy. `nft` is a rule of nft's."""

    table: str
    chain: str
    number: int
    rule: Rule
    nft: n.NftRule | None = None


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

    def spot(self, number: int) -> Spot:
        """Where the rule of a number is in the rule IR."""
        at = bisect_right(self._starts, number) - 1
        table, chain = self._chains[at]
        return Spot(table, chain, number - self._starts[at])

    def place(self, number: int) -> Place:
        """The rule of a number, as nft or iptables has it."""
        if number < 0:
            base = self.bases[-1 - number]
            return Place(base.table.name, base.chain.name, 0, Rule())
        table, chain, position = self.spot(number)
        name, at = chain.name, position + 1
        if isinstance(chain, LoweredChain) and chain.origin is not None:
            name, at = chain.origin
        nft = table.nft.chains[name].rules[at - 1] if isinstance(table, LoweredTable) and table.nft is not None else None
        return Place(table.name, name, at, chain.rules[position], nft)

    def places(self, path: Sequence[int]) -> list[Place]:
        """A path as its reader knows it: of a rule of nft, which may be several here, that it did something."""
        found: list[Place] = []
        for number in path:
            place = self.place(number)
            if inline_chain(place.rule) is None and (not found or found[-1][:3] != place[:3]):
                found.append(place)
        return found


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
        self.view = with_fields(view, recent=set(), changed_sets=set(), nft_changes={})
        self.ct: Ct | None = None
        self.path: list[int] = []

    def leaf(self, verdict: Verdict, rule: int, target: Target | ToServer | None = None) -> Leaf:
        mark = self.connection.mark if self.connection is not None else 0
        return Leaf(ONE, verdict, rule, tuple(self.path), self.view.packet.mark, mark, self.ct, target)

    def run(self) -> Leaf:
        rule = -1
        for number, base in enumerate(self.bases):
            self.attached = None if before_conntrack(base) and not self.view.attached else self._tracked()
            if self.attached is not None or self.ct is None or not before_conntrack(base):
                self.view.ct = self.attached
            if base.nat and not asks_nat(self.attached, base.chain.hook, self.view.packet.is_icmp_error):
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
                if isinstance(chain, LoweredChain) and chain.then is not None:
                    chain, position = _after(chain, position, chains)
                    continue
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
            target: object = rule.target
            if isinstance(target, NftStatement):
                done = self._nft(target, id_)
                if done is False:  # the rule ends
                    chain, position = _after(chain, position, chains)
                    continue
                target = None if done is True else done
            if isinstance(target, Scheduled):
                target = self._schedule(target, id_)
            self.path.append(id_)
            match target:
                case Jump(chain=name, goto=goto):
                    if not goto:
                        stack.append(_after(chain, position, chains))
                    chain, position = chains[name], 0
                case Inline(chain=name):
                    chain, position = chains[name], 0
                case Leave():
                    chain, position = _after(chain, position, chains)
                case ToServer():
                    return self.leaf(Verdict.IPVS, id_, target)
                case Return():
                    if not stack:
                        return self._policy(base, number)
                    chain, position = stack.pop()
                case Accept():
                    return id_
                case Drop():
                    return self.leaf(Verdict.DROP, id_)
                case Reject():
                    return self.leaf(Verdict.REJECT, id_, target)
                case Dnat() | Snat() | Masquerade() | Redirect() | Netmap():
                    return self.leaf(Verdict.NAT, id_, target)
                case Tproxy() | UnknownTarget():
                    return self.leaf(Verdict.UNKNOWN, id_, target)
                case SetMark(value=value, mask=mask):
                    view.packet = replace(view.packet, mark=(view.packet.mark & ~mask & U32) ^ value)
                case SetConnmark():
                    self._connmark(target)
                case Ct():
                    if self.attached is None and self.ct is None:
                        self.ct = target
                        view.ct = CtView(CtState.UNTRACKED) if target.notrack else template(view.packet.family)
                case SetTarget(text=text):
                    words = text.split()
                    if "--map-set" in words:
                        return self.leaf(Verdict.UNKNOWN, id_, target)
                    view.changed_sets |= {name for word, name in pairwise(words) if word in ("--add-set", "--del-set")}
                case None | Log() | TraceTarget() | Tcpmss() | Checksum():
                    pass

    # -- what is not in the rule IR ------------------------------------------------------------------------------------

    def _nft(self, target: NftStatement, rule: int) -> object:
        """A statement of nft's (trace/nftables.py): True where the rule goes on, False where it ends, or a target."""
        statement, table, view = target.statement, target.table, self.view
        match statement:
            case n.Vmap():
                found = nft.verdicts(statement, view, table)
                if isinstance(found, Undecided):
                    verdict = self._undecided_among(nft.possible_verdicts(statement, table), rule)
                else:
                    verdict = found[self._chosen([each.share for each in found], rule)].verdict
                return False if verdict is None else verdict_target(verdict, of_map=True)
            case n.Mangle():
                return self._mangle(statement, table, rule)
            case n.Nat():
                return self._nat(statement, table, rule)
            case n.SetChange():
                return self._change(statement, table, rule)
            case n.Notrack():
                if self.attached is None and self.ct is None:
                    self.ct, view.ct = Ct(notrack=True), CtView(CtState.UNTRACKED)
                elif self.attached is not None and self.attached.connection is None:
                    self.seen = self.attached = view.ct = CtView(CtState.UNTRACKED)
                return True
            case _:
                return UnknownTarget(f"nft {type(statement).__name__.lower()}")

    def _chosen(self, shares: Sequence[Fraction], rule: int) -> int:
        """One of several, by their probabilities, which add up to 1."""
        left = ONE
        for at, share in enumerate(shares[:-1]):
            p = chance(share / left)
            if p is True or (p is not False and self.chooser.holds(rule, p)):
                return at
            left -= share
        return len(shares) - 1

    def _undecided_among(self, options: Sequence[T], rule: int) -> T:
        for option in options[1:]:
            if self.chooser.undecidable(rule):
                return option
        return options[0]

    def _value(self, expression: n.Expression, table: n.NftTable, kind: str, rule: int) -> tuple[int, ...] | Undecided | None:
        """What an expression is for the packet; None where it is nothing and the rule ends."""
        found = nft.values(expression, self.view, table, kind)
        return found if isinstance(found, Undecided) else found[self._chosen([share for share, _ in found], rule)][1]

    def _mangle(self, statement: n.Mangle, table: n.NftTable, rule: int) -> object:
        key, view = statement.key, self.view
        numbers = self._value(statement.value, table, words.datatype(key, table.sets), rule)
        if isinstance(numbers, Undecided):
            return UnknownTarget(numbers.reason)
        if numbers is None:
            return False
        number, connection = numbers[0], self.attached.connection if self.attached is not None else None
        match key:
            case n.Payload():
                packet = nft.written(view.packet, key, number)
                if packet is None:
                    return False
                if isinstance(packet, Undecided):
                    return UnknownTarget(packet.reason)
                view.packet = packet
            case n.Meta():
                view.packet = replace(view.packet, mark=number)
            case n.CtKey(key="mark"):
                if connection is not None:
                    connection.mark = number
            case n.CtKey(direction=direction):
                if self.attached is not None and connection is None:
                    return UnknownTarget("a zone for a packet that connection tracking has let pass without a connection")
                if self.attached is None and (self.ct is None or self.ct.notrack):
                    self.ct = Ct(zone=number, zone_direction="orig" if direction == "original" else direction)
                    view.ct = template(view.packet.family)
            case _:
                pass
        return True

    def _nat(self, statement: n.Nat, table: n.NftTable, rule: int) -> object:
        family = self.view.packet.family
        kind = "ipv4_addr" if family == 4 else "ipv6_addr"
        values: list[tuple[int, ...]] = []
        for part, own in ((statement.address, kind), (statement.port, "inet_service")):
            if part is None or not nft.is_computed(part):
                values.append(())
                continue
            whole = f"{own} . inet_service" if isinstance(part, n.Lookup) and part is statement.address else own
            numbers = self._value(part, table, whole, rule)
            if isinstance(numbers, Undecided):
                return UnknownTarget(numbers.reason)
            if numbers is None:
                return False
            values.append(numbers)
        target = nft.nat_target(statement, family, values[0], values[1])
        return UnknownTarget(target.reason) if isinstance(target, Undecided) else target

    def _change(self, statement: n.SetChange, table: n.NftTable, rule: int) -> bool:
        """nft_dynset.c nft_dynset_eval."""
        held, element = table.sets[statement.set], statement.element
        key = self._value(element.key, table, " . ".join(held.type), rule)
        if isinstance(key, Undecided):
            return self.chooser.undecidable(rule)
        if key is None:
            return False
        changes = self.view.nft_changes.setdefault(nft.set_key(table, statement.set), {})
        if statement.op == "delete":
            changes[key] = None
            return True
        data: n.Value | n.Verdict | n.Concat | None = None
        if isinstance(element.data, n.Verdict):
            data = element.data
        elif element.data is not None:
            datum = self._value(element.data, table, " . ".join(held.data), rule)
            if isinstance(datum, Undecided):
                return self.chooser.undecidable(rule)
            if datum is None:
                return False
            data = _constant(datum)
        parts = tuple(nft.Part(number) for number in key)
        if not nft.contains(n.SetName(statement.set), element.key, parts, self.view, table):
            added = sum(1 for each in changes.values() if each is not None)
            if held.size is not None and len(held.elements) + added >= held.size:
                return False
            changes[key] = n.Element(_constant(key), data)
        return all(isinstance(each, n.Counter) or self.chooser.undecidable(rule) for each in statement.statements)

    def _schedule(self, target: Scheduled, rule: int) -> object:
        """IPVS asks its scheduler (linux/ipvs_schedulers.py)."""
        packet, netns, service = self.view.packet, self.view.netns, target.service
        tables = netns.cache.setdefault("ipvs tables", {})
        assert isinstance(tables, dict)
        said = schedule(service, Asked(packet.src, packet.dst, None if packet.sport_random else packet.sport), tables)
        if said.unknown:
            return UnknownTarget(f"{said.unknown} of {service_text(service)} is not modelled")
        if not said.shares:
            return leave(netns, service, target.own_port)
        return to_server(service, said.shares[self._chosen([share for _, share in said.shares], rule)][0])

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


def _constant(numbers: Sequence[int]) -> n.Value | n.Concat:
    return n.Value(numbers[0]) if len(numbers) == 1 else n.Concat(tuple(n.Value(number) for number in numbers))


def _after(chain: Chain, position: int, chains: Mapping[str, Chain]) -> tuple[Chain, int]:
    """Where the packet goes on behind a rule: of an inline chain, behind the rule that it is a part of."""
    if isinstance(chain, LoweredChain) and chain.then is not None:
        return chains[chain.then[0]], chain.then[1]
    return chain, position
