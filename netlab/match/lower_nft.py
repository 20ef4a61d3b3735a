"""nft's tables as chains of the rule IR, so that the matching core has one kind of rules (lowered.py says what they are made of).

    table ip t { chain c { ip daddr . tcp dport vmap @services; ct state new accept } }
      -->  c: -A c -j Inline("c rule 1") | -A c --state NEW -j ACCEPT        c rule 1: a rule for each element of @services

Law: rule N of a chain stays rule N; whatever of it needs more than one step stands in inline chains. A condition is lowered where
a match of iptables means the same for every packet of the family, else it stays nft's own; so do statements. Sources: nft_*.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from itertools import product
from typing import Final, NamedTuple

from netlab.linux import matches as m
from netlab.linux import nft as n
from netlab.linux import targets as t
from netlab.linux.addr import Ip, mask_of
from netlab.linux.netns import Netns
from netlab.linux.nft import Element, Expression, NftTable, Statement, table_name
from netlab.linux.packet import SCTP, TCP, UDP, Packet
from netlab.linux.rules import Chain, Hook, Rule
from netlab.linux.text import nft_words as words
from netlab.match import nft
from netlab.match.lowered import (
    Connected,
    Inline,
    Known,
    LoweredChain,
    LoweredMatch,
    LoweredTable,
    LoweredTarget,
    NftMatch,
    NftStatement,
    Odds,
    inline_chain,
    rule,
    verdict_target,
)
from netlab.match.view import Undecided, View

U32: Final = 0xFFFFFFFF
_ONE: Final = Fraction(1)
_MANY: Final = 32  # values of a map for each of which the rest of a rule is written out
_ROOM: Final = 64  # elements that a set must have room for before a packet's own additions cannot fill it
_PORTS: Final = {TCP: m.Tcp, UDP: m.Udp, SCTP: m.Sctp}
_TRANSPORT: Final = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
_NFPROTO: Final = {"nfproto", "protocol"}
_STATES: Final = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 64}
_TYPES: Final = {
    "UNICAST": 1, "LOCAL": 2, "BROADCAST": 3, "ANYCAST": 4, "MULTICAST": 5, "BLACKHOLE": 6, "UNREACHABLE": 7, "PROHIBIT": 8,
}  # fmt: skip


class Case(NamedTuple):
    """One of several ways that a value or a map may go: when, and what it is then (numbers; None: the rule ends)."""

    matches: tuple[LoweredMatch, ...]
    numbers: tuple[int, ...] | None


def lower(table: NftTable, family: int, netns: Netns) -> LoweredTable:
    """A table as the packets of a family meet it; kept in the namespace's cache."""
    cache = netns.cache.setdefault("lowered", {})
    assert isinstance(cache, dict)
    key = (id(table), family)
    known = cache.get(key)
    if known is None or known.nft is not table:  # the entry holds the table, so that its id stays its own
        known = cache[key] = _Lowering(table, family, netns).table()
    assert isinstance(known, LoweredTable)
    return known


def is_constant(expression: Expression) -> bool:
    """Whether an expression is the same for all packets, or chance decides alone."""
    match expression:
        case n.Numgen() | n.Value() | n.PrefixValue() | n.RangeValue() | n.ListValue():
            return True
        case n.Hashed(of=of, seed=seed):
            return of is None or seed is None
        case n.Binary(left=left, right=right):
            return is_constant(left) and is_constant(right)
        case n.Concat(parts=parts):
            return all(is_constant(part) for part in parts)
        case n.Lookup(key=key):
            return is_constant(key)
        case _:
            return False


def by_chance(expressions: Iterable[Expression]) -> bool:
    """Whether chance, or a hash that may not be known, has a say in an expression."""
    return any(isinstance(each, n.Numgen | n.Hashed) for each in expressions)


@cache
def _odds(of: int) -> Odds:
    return Odds(Fraction(1, of))


def _is_chance(statement: Statement) -> bool:
    plain = not isinstance(statement, n.Compare) or isinstance(statement.left, n.Payload | n.Meta)
    return not plain and by_chance(n.expressions_of(statement))


class _Lowering:
    """One table for one family; `chain` and `number` say which rule is under way, `protocol` what it has asked for already;
    `ported`: that is one of several protocols that have ports."""

    def __init__(self, table: NftTable, family: int, netns: Netns) -> None:
        self.nft, self.family, self.netns = table, family, netns
        nobody = Packet(Ip(family, 0), Ip(family, 0), 0)
        self.blank = View(nobody, Hook.PREROUTING, netns)
        self.changed = {
            statement.set
            for chain in table.chains.values()
            for each in chain.rules
            for statement in each.statements
            if isinstance(statement, n.SetChange)
        }
        self.inline: dict[str, LoweredChain] = {}
        self.chain, self.number, self.parts = "", 0, 0
        self.protocol: int | None = None
        self.ported = False

    def table(self) -> LoweredTable:
        chains: dict[str, Chain] = {}
        for chain in self.nft.chains.values():
            self.chain = chain.name
            rules = []
            for self.number, each in enumerate(chain.rules, 1):
                self.parts, self.protocol, self.ported = 0, None, False
                block = self._block(each.statements)
                rules.append(block[0] if len(block) == 1 else rule((), self._into(block)))
            policy = None if chain.hook is None else "DROP" if chain.policy == "drop" else "ACCEPT"
            chains[chain.name] = LoweredChain(
                chain.name, tuple(rules), chain.hook, chain.priority, policy, nat=chain.type == "nat"
            )
        for name, depth in _depths(self.inline).items():
            made = self.inline[name]
            chains[name] = LoweredChain(made.name, made.rules, then=made.then, depth=depth, origin=made.origin)
        return LoweredTable(self.nft.family, table_name(self.nft), chains, self.nft)

    def _into(self, rules: Sequence[Rule]) -> Inline:
        """An inline chain of the rule under way."""
        self.parts += 1
        name = f"{self.chain} rule {self.number}" + (f" part {self.parts}" if self.parts > 1 else "")
        self.inline[name] = LoweredChain(
            name, tuple(rules), then=(self.chain, self.number), origin=(self.chain, self.number)
        )
        return Inline(name)

    # -- statements ----------------------------------------------------------------------------------------------------

    def _block(self, statements: Sequence[Statement]) -> list[Rule]:
        """Statements as rules that stand one after the other."""
        matches: list[LoweredMatch] = []
        for at, statement in enumerate(statements):
            asked = self._condition(statement)
            if asked is not None:
                matches += asked
                rest = statements[at + 1 :]
                if asked and _is_chance(statement) and any(self._condition(each) for each in rest):
                    return [rule(matches, self._into(self._block(rest)))]  # a chance, and only then what may be in doubt
                continue
            done = self._act(statement, statements[at + 1 :])
            if len(done) == 1:
                return [rule((*matches, *done[0].matches), done[0].target)]
            return [rule(matches, self._into(done))] if matches else done
        return [rule(matches, None)]

    def _condition(self, statement: Statement) -> Sequence[LoweredMatch] | None:
        """What a statement asks; None where it does something."""
        match statement:
            case n.Compare():
                return self._compare(statement)
            case n.Counter() | n.LogStatement():
                return ()
            case n.Limit():
                return (Known(Undecided("limit: the rate of other packets is not known")),)
            case n.UnknownStatement(text=text, json=json) if nft.may_end(statement):
                return (Known(Undecided(f"{text or json} is not modelled")),)
            case n.UnknownStatement() if nft.is_harmless(statement):
                return ()
            case n.Nat() if not nft.is_for(statement, self.nft.family, self.family):
                return ()
            case _:
                return None

    def _act(self, statement: Statement, rest: Sequence[Statement]) -> list[Rule]:
        """What a statement does, and then the rest of its rule."""
        match statement:
            case n.Verdict():
                return [rule((), verdict_target(statement, of_map=False))]
            case n.Vmap():
                return self._vmap(statement)
            case n.RejectStatement():
                kind = nft.reject_kind(statement, self.nft.family, self.family)
                if kind is None:
                    return [rule((Known(False),), None)]
                return [rule((m.Protocol(TCP),) if kind == "tcp-reset" else (), t.Reject(kind))]
            case n.Nat():
                return self._nat(statement)
            case n.UnknownStatement(text=text, json=json):
                return [rule((), t.UnknownTarget(text or json))]
            case n.Mangle(key=n.Meta(key="mark"), value=value) if (cases := self._of_many(value, rest)) is not None:
                return [rule(when, self._into([rule((), t.SetMark(number)), *self._block(rest)])) for when, number in cases]
            case n.Mangle():
                when, target = self._mangle(statement)
            case _:
                when, target = [], self._statement(statement)
        if isinstance(target, t.UnknownTarget):
            return [rule((), target)]
        following = self._block(rest)
        if len(following) == 1 and not following[0].matches and following[0].target is None:
            return [rule(when, target)]
        following = [rule((), target), *following]
        return [rule(when, self._into(following))] if when else following

    def _statement(self, statement: Statement) -> NftStatement:
        return NftStatement(statement, self.nft, isinstance(statement, n.SetChange) and self._is_plain(statement))

    def _is_plain(self, statement: n.SetChange) -> bool:
        """Whether adding to a set, or taking away, never ends the rule: the key is always there, the set has room."""
        held = self.nft.sets[statement.set]
        room = held.size is None or len(held.elements) + _ROOM < held.size
        key = statement.element.key
        parts = key.parts if isinstance(key, n.Concat) else (key,)
        data = statement.element.data
        return (
            room
            and all(self._is_always_there(part) for part in parts)
            and (data is None or isinstance(data, n.Verdict))
            and all(isinstance(each, n.Counter) for each in statement.statements)
        )

    def _is_always_there(self, part: Expression) -> bool:
        match part:
            case n.Payload(protocol=("ip" | "ip6") as protocol, field=("saddr" | "daddr")):
                return (protocol == "ip") == (self.family == 4)
            case n.Payload(protocol=protocol, field="dport"):
                return self.protocol is not None and _TRANSPORT.get(protocol) == self.protocol
            case n.Meta(key=key):
                return key in ("mark", "l4proto", "iifname", "oifname")
            case _:
                return False

    def _vmap(self, statement: n.Vmap) -> list[Rule]:
        as_it_is = [rule((), NftStatement(statement, self.nft))]
        if isinstance(statement.key, n.Numgen) and isinstance(statement.data, n.SetLiteral):
            shared = self._shared(statement.key, statement.data)
            if shared is not None:
                return shared
        if is_constant(statement.key):
            found = nft.verdicts(statement, self.blank, self.nft)
            if isinstance(found, Undecided):
                return as_it_is
            made, left = [], _ONE
            for each in found:
                if each.verdict is not None:
                    made.append(rule((Odds(each.share / left),), verdict_target(each.verdict, of_map=True)))
                    left -= each.share
            return made or [rule((Known(False),), None)]
        elements = self._elements(statement.data)
        if elements is None:
            return as_it_is
        keys = self._keys(statement.key, elements)
        if keys is None:
            return as_it_is
        made = [
            rule(key, verdict_target(element.data, of_map=True))
            for key, element in keys
            if isinstance(element.data, n.Verdict)
        ]
        return made or [rule((Known(False),), None)]

    def _shared(self, key: n.Numgen, data: n.SetLiteral) -> list[Rule] | None:
        """`numgen random mod N vmap { 0 : A, 1 : B, ... }`, a different verdict for each number, as kube-proxy writes it."""
        count = key.modulus
        verdicts = [each.data for each in data.elements if isinstance(each.data, n.Verdict) and not each.statements]
        if key.offset or len(verdicts) != len(data.elements) or len(set(verdicts)) != count:
            return None
        if [each.key for each in data.elements] != [n.Value(number) for number in range(count)]:
            return None
        odds = [() if left == 1 else (_odds(left),) for left in range(count, 0, -1)]
        return [rule(when, verdict_target(verdict, of_map=True)) for when, verdict in zip(odds, verdicts, strict=True)]

    def _mangle(self, statement: n.Mangle) -> tuple[list[LoweredMatch], LoweredTarget]:
        """When a statement sets something, and what."""
        key = statement.key
        if nft.decides_nothing(key):
            return [], None
        if not nft.is_settable(key):
            return [], t.UnknownTarget(f"{words.expression_text(key)} set is not modelled")
        found = self._affine(statement.value)
        if found is not None:
            of, kept, value = found
            there: list[LoweredMatch] = [Connected()] if of == "ct mark" else []
            if isinstance(key, n.Meta) and of != "ct mark":
                return [], t.SetMark(value, ~kept & U32 if of else U32)
            if isinstance(key, n.Meta) and not value:
                return there, t.SetConnmark("restore", ctmask=kept)
            if isinstance(key, n.CtKey) and key.key == "mark" and of != "mark":
                return there, t.SetConnmark("set", value, ~kept & U32 if of else U32)
            if isinstance(key, n.CtKey) and key.key == "mark" and not value:
                return [], t.SetConnmark("save", nfmask=kept)
        return [], NftStatement(statement, self.nft)

    def _of_many(self, value: Expression, rest: Sequence[Statement]) -> list[tuple[tuple[LoweredMatch, ...], int]] | None:
        """The marks that a map or chance may give, and when; None where that is the twin's, or the rest of the rule long."""
        if not isinstance(value, n.Lookup) and not by_chance([value]):
            return None
        cases = self._cases(value, "mark")
        if cases is None or (len(cases) > _MANY and not all(isinstance(each, n.Counter) for each in rest)):
            return None
        return [(case.matches, case.numbers[0]) for case in cases if case.numbers is not None] or [((Known(False),), 0)]

    def _affine(self, value: Expression) -> tuple[str, int, int] | None:
        """A value as (x & kept) ^ flipped: (what x is: "", "mark" or "ct mark", kept, flipped); None where it is none."""
        match value:
            case n.Value():
                try:
                    return "", 0, nft.constant(value, "mark", self.netns)[0]
                except nft.Doubt:
                    return None
            case n.Meta(key="mark"):
                return "mark", U32, 0
            case n.CtKey(key="mark"):
                return "ct mark", U32, 0
            case n.Binary(op=("&" | "|" | "^") as op, left=left, right=right):
                first, second = self._affine(left), self._affine(right)
                if first is None or second is None or second[0]:
                    return None
                of, kept, flipped = first
                operand = second[2] & U32
                if op == "&":
                    return of, kept & operand, flipped & operand
                if op == "|":
                    return of, kept & ~operand, flipped & ~operand | operand
                return of, kept, flipped ^ operand
            case _:
                return None

    def _nat(self, statement: n.Nat) -> list[Rule]:
        as_it_is = [rule((), NftStatement(statement, self.nft))]
        kind = "ipv4_addr" if self.family == 4 else "ipv6_addr"
        address, port = statement.address, statement.port
        of_address: list[Case] | None = [Case((), ())]
        of_port: list[Case] | None = [Case((), ())]
        if address is not None and not statement.prefix and nft.is_computed(address):
            of_address = self._cases(address, f"{kind} . inet_service" if isinstance(address, n.Lookup) else kind)
        if port is not None and nft.is_computed(port):
            of_port = self._cases(port, "inet_service")
        if of_address is None or of_port is None:
            return as_it_is
        made = []
        for where, which in product(of_address, of_port):
            if where.numbers is not None and which.numbers is not None:
                target = nft.nat_target(statement, self.family, where.numbers, which.numbers)
                if isinstance(target, Undecided):
                    return [rule((), t.UnknownTarget(target.reason))]
                made.append(rule((*where.matches, *which.matches), target))
        return made or [rule((Known(False),), None)]

    def _cases(self, expression: Expression, kind: str) -> list[Case] | None:
        """What a value may be, one after the other; None where only the packet can tell."""
        if isinstance(expression, n.Value):
            try:
                return [Case((), (nft.constant(expression, kind, self.netns)[0],))]
            except nft.Doubt:
                return None
        if is_constant(expression):
            found = nft.values(expression, self.blank, self.nft, kind)
            if isinstance(found, Undecided):
                return None
            made, left = [], _ONE
            for share, numbers in found:
                if numbers is not None:
                    made.append(Case((Odds(share / left),) if share != left else (), numbers))
                    left -= share
            return made
        if not isinstance(expression, n.Lookup):
            return None
        elements = self._elements(expression.data)
        keys = None if elements is None else self._keys(expression.key, elements)
        if keys is None:
            return None
        if isinstance(expression.data, n.SetName):
            kind = " . ".join(self.nft.sets[expression.data.name].data).removeprefix("interval ")
        cases: list[Case] = []
        for key, element in keys:
            data = element.data
            if data is None or isinstance(data, n.Verdict | n.RangeValue | n.PrefixValue):
                return None
            values = nft.values(data, self.blank, self.nft, kind)
            if isinstance(values, Undecided) or len(values) != 1:
                return None
            cases.append(Case(tuple(key), values[0][1]))
        return cases

    # -- sets and maps -------------------------------------------------------------------------------------------------

    def _elements(self, data: n.SetName | n.SetLiteral) -> Sequence[Element] | None:
        """The elements of a set or map, where no rule changes it and they say nothing but what they are."""
        if isinstance(data, n.SetLiteral):
            elements = data.elements
        elif data.name in self.changed or data.name not in self.nft.sets:
            return None
        else:
            elements = self.nft.sets[data.name].elements
        plain = all(isinstance(each, n.Counter) for element in elements for each in element.statements)
        return elements if plain else None

    def _keys(self, key: Expression, elements: Sequence[Element]) -> list[tuple[Sequence[LoweredMatch], Element]] | None:
        """What must hold for each element; the one for everything else comes last."""
        parts = key.parts if isinstance(key, n.Concat) else (key,)
        kinds = [words.datatype(part, self.nft.sets) for part in parts]
        exact: list[tuple[Sequence[LoweredMatch], Element]] = []
        spans: list[tuple[Sequence[LoweredMatch], Element]] = []
        rest: list[tuple[Sequence[LoweredMatch], Element]] = []
        for element in elements:
            if element.key == n.Value("*"):
                there = self._presence(parts)
                if there is None:
                    return None
                rest.append((there, element))
                continue
            of = element.key.parts if isinstance(element.key, n.Concat) else (element.key,)
            try:
                bounds = [nft.constant(part, kind, self.netns) for part, kind in zip(of, kinds, strict=True)]
            except (nft.Doubt, ValueError):
                return None
            asked = self._all(parts, bounds)
            if asked is None:
                return None
            (exact if all(low == high for low, high in bounds) else spans).append((asked, element))
        return [*exact, *spans, *rest]

    def _presence(self, parts: Sequence[Expression]) -> list[LoweredMatch] | None:
        """When all parts of a key are there."""
        asked: list[LoweredMatch] = []
        for part in parts:
            if isinstance(part, n.Payload) and part.protocol in _TRANSPORT and part.field in ("sport", "dport"):
                asked.append(m.Protocol(_TRANSPORT[part.protocol]))
            elif not self._is_always_there(part) and not (
                isinstance(part, n.Fib) and part.result == "type" and self.family == 4
            ):
                return None
        return asked

    def _all(self, parts: Sequence[Expression], bounds: Sequence[tuple[int, int]]) -> list[LoweredMatch] | None:
        """When every part is in its bounds."""
        outer = self.protocol
        try:
            for part, (low, high) in zip(parts, bounds, strict=True):
                if low == high and self._is_protocol(part):
                    self.protocol = low
            asked: list[LoweredMatch] = []
            for part, span in zip(parts, bounds, strict=True):
                found = self._test(part, "==", span)
                if found is None:
                    return None
                asked += found
            return asked
        finally:
            self.protocol = outer

    # -- conditions ----------------------------------------------------------------------------------------------------

    def _compare(self, compare: n.Compare) -> Sequence[LoweredMatch]:
        if is_constant(compare.left):
            answer = nft.compare_holds(compare, self.blank, self.nft)
            if isinstance(answer, bool | Undecided):
                return () if answer is True else (Known(answer),)
            return (Odds(answer.probability),)
        try:
            found = self._plain(compare)
        except nft.Doubt:
            found = None
        return (NftMatch(compare, self.nft),) if found is None else found

    def _plain(self, compare: n.Compare) -> list[LoweredMatch] | None:
        """A comparison as matches of iptables; None where there are none that mean the same."""
        left, op, right = compare.left, compare.op, compare.right
        kind = words.datatype(left, self.nft.sets)
        if isinstance(right, n.SetName):
            return None
        if isinstance(right, n.SetLiteral):
            return self._literal(left, op, right, kind)
        if isinstance(left, n.Concat):
            if not isinstance(right, n.Concat) or op != "==" or len(right.parts) != len(left.parts):
                return None
            kinds = kind.split(" . ")
            bounds = [nft.constant(part, own, self.netns) for part, own in zip(right.parts, kinds, strict=True)]
            return self._all(left.parts, bounds)
        span = nft.constant(right, kind, self.netns)
        found = self._test(left, op, span)
        if found is not None and op == "==" and span[0] == span[1] and self._is_protocol(left):
            self.protocol = span[0]
        elif isinstance(left, n.Payload) and left.protocol in _TRANSPORT:
            self.protocol = _TRANSPORT[left.protocol]
        return found

    def _literal(self, left: Expression, op: str, right: n.SetLiteral, kind: str) -> list[LoweredMatch] | None:
        """`ct state { new, established }`, `fib daddr type { local, broadcast }`: the values that are in one of the elements."""
        if any(element.key == n.Value("*") or element.statements for element in right.elements):
            return None
        bounds = [nft.constant(element.key, kind, self.netns) for element in right.elements]
        if not isinstance(left, n.Fib | n.CtKey):
            if self._is_protocol(left) and op != "!=":
                self.ported = all(low == high and low in _PORTS for low, high in bounds)
            return None
        return self._one_of(left, lambda number: any(low <= number <= high for low, high in bounds) is (op != "!="))

    def _is_protocol(self, part: Expression) -> bool:
        if isinstance(part, n.Payload):
            return (part.protocol, part.field) in (("ip", "protocol"), ("ip6", "nexthdr"))
        return part == n.Meta("l4proto")

    def _test(self, left: Expression, op: str, span: tuple[int, int]) -> list[LoweredMatch] | None:
        """One value in bounds (op "==") or against a bound."""
        low, high = span
        if op in ("in", "!"):
            if isinstance(left, n.CtKey):
                return self._one_of(left, lambda number: bool(number & low) is (op == "in"))
            if left == n.Payload("tcp", "flags"):
                return [m.Tcp(flags=(low, 0), not_flags=op == "in")]
            return None
        if left == n.CtKey("mark") and op in ("==", "!=") and low == high:
            return [Connected(), m.Connmark(low, U32, op == "!=")]
        if isinstance(left, n.Fib | n.CtKey):
            return self._one_of(left, _comparison(op, low, high))
        negate = op == "!="
        match op:
            case "<":
                low, high = 0, low - 1
            case "<=":
                low, high = 0, low
            case ">":
                low, high = low + 1, _largest(left)
            case ">=":
                high = _largest(left)
            case _:
                pass
        if low > high or high < 0:
            return [Known(negate)] if self._presence([left]) == [] else None
        match left:
            case n.Payload(protocol=("ip" | "ip6") as protocol, field=field):
                return self._network(protocol, field, low, high, negate)
            case n.Payload(protocol=protocol, field=("sport" | "dport") as field):
                number = self.protocol if protocol == "th" else _TRANSPORT.get(protocol)
                kind = _PORTS.get(number or 0)
                if high > 65535 or (field == "sport" and (low, high) == (0, 65535)):
                    return None
                ports = m.PortRange(low, high)
                if protocol == "th" and number is None and self.ported:
                    return [m.Multiport(f"{field}s", (ports,), negate)]
                if kind is None:
                    return None
                if field == "sport":
                    return [kind(sport=ports, not_sport=negate)]
                return [kind(dport=ports, not_dport=negate)]
            case n.Payload(protocol=("icmp" | "icmpv6") as protocol, field="type"):
                own = protocol == ("icmp" if self.family == 4 else "icmpv6")
                return [m.Icmp(self.family, low, negate=negate)] if own and low == high and low < 255 else None
            case n.Meta(key="l4proto"):
                return [m.Protocol(low, negate)] if low == high and 0 < low < 256 else None
            case n.Meta(key=key) if key in _NFPROTO:
                answer = nft.compare_holds(n.Compare(left, "==", n.RangeValue(n.Value(low), n.Value(high))), self.blank, self.nft)
                return [] if answer is not negate else [Known(False)]
            case n.Meta(key=("iifname" | "oifname") as key):
                name = _device(low, high)
                if name is None:
                    return None
                return [m.InInterface(name, negate) if key == "iifname" else m.OutInterface(name, negate)]
            case n.Meta(key="mark"):
                return [m.Mark(low, U32, negate)] if low == high else None
            case n.Meta(key="length"):
                return [m.Length(low, high, negate)]
            case n.Binary(op="&", left=of, right=right):
                return self._masked(of, nft.constant(right, words.datatype(of, self.nft.sets), self.netns)[0], low, high, negate)
            case _:
                return None

    def _network(self, protocol: str, field: str, low: int, high: int, negate: bool) -> list[LoweredMatch] | None:
        if (protocol == "ip") is not (self.family == 4):
            return [Known(False)]
        match field:
            case "saddr" | "daddr":
                size = high - low + 1
                if size & (size - 1) or low & (size - 1):
                    if self.family == 6:
                        return None
                    bounds = Ip(4, low), Ip(4, high)
                    if field == "saddr":
                        return [m.Iprange(src=bounds, not_src=negate)]
                    return [m.Iprange(dst=bounds, not_dst=negate)]
                mask = mask_of(self.family, (32 if self.family == 4 else 128) - size.bit_length() + 1)
                kind = m.Source if field == "saddr" else m.Destination
                return [kind(self.family, low, mask, negate)]
            case "protocol" | "nexthdr":
                return [m.Protocol(low, negate)] if low == high and 0 < low < 256 else None
            case _:
                return None

    def _masked(self, of: Expression, mask: int, low: int, high: int, negate: bool) -> list[LoweredMatch] | None:
        """`VALUE & MASK == NUMBER`."""
        if low != high:
            return None
        match of:
            case n.Meta(key="mark"):
                return [m.Mark(low, mask, negate)]
            case n.CtKey(key="mark"):
                return [Connected(), m.Connmark(low, mask, negate)]
            case n.Payload(protocol="tcp", field="flags"):
                return [m.Tcp(flags=(mask, low), not_flags=negate)]
            case n.Payload(protocol=("ip" | "ip6") as protocol, field=("saddr" | "daddr") as field):
                if (protocol == "ip") is not (self.family == 4):
                    return [Known(False)]
                return [(m.Source if field == "saddr" else m.Destination)(self.family, low, mask, negate)]
            case _:
                return None

    def _one_of(self, left: n.Fib | n.CtKey, holds: Callable[[int], bool]) -> list[LoweredMatch] | None:
        """A value of few: those for which it holds."""
        if isinstance(left, n.CtKey):
            if left.key != "state":
                return None
            return [m.State(frozenset(name for name, number in _STATES.items() if holds(number)))]
        if left.result != "type" or self.family == 6 or left.flags not in (("saddr",), ("daddr",)):
            return None
        types = frozenset(name for name, number in _TYPES.items() if holds(number))
        return [m.Addrtype(src_types=types) if left.flags == ("saddr",) else m.Addrtype(dst_types=types)]


def _comparison(op: str, low: int, high: int) -> Callable[[int], bool]:
    """Whether a number is what a comparison wants (nft_cmp.c, nft_range.c)."""
    match op:
        case "<":
            return lambda number: number < low
        case ">":
            return lambda number: number > low
        case "<=":
            return lambda number: number <= low
        case ">=":
            return lambda number: number >= low
        case _:
            return lambda number: (low <= number <= high) is (op == "==")


def _depths(chains: Mapping[str, LoweredChain]) -> dict[str, int]:
    """How many inline chains lie around each other at the end of each."""
    outer = {inner: name for name, chain in chains.items() for each in chain.rules if (inner := inline_chain(each)) is not None}

    def depth(name: str) -> int:
        return 1 + (depth(outer[name]) if name in outer else 0)

    return {name: depth(name) for name in chains}


def _largest(left: Expression) -> int:
    """A number that no value of an expression exceeds."""
    return 65535 if isinstance(left, n.Payload) and left.field in ("sport", "dport") else U32


def _device(low: int, high: int) -> str | None:
    """A device name, or a pattern of iptables'; None where there is none that means the same."""
    first, last = low.to_bytes(16, "big"), high.to_bytes(16, "big")
    if low == high:
        name = first.rstrip(b"\0").decode(errors="replace")
        return None if name.endswith("+") or len(name) > 15 else name
    prefix = first.rstrip(b"\0")
    if last != prefix.ljust(16, b"\xff") or not prefix:
        return None
    return prefix.decode(errors="replace") + "+"
