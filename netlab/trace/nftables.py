"""nft's chains in a walk: rules statement by statement, as nf_tables_core.c nft_do_chain runs them.

    base chain -> rule -> statement: Compare ... ends the rule | Mangle, Counter ... go on | Verdict, Nat, Reject end the chain

Law: statements run from left to right, and what they did before one that does not hold stays done. `accept` ends this base chain
alone, `drop` everything. Each chance is decided where it is met, so that whatever follows is certain in its branch.
What a NAT statement does to a connection is netfilter.py's. Sources: net/netfilter/nf_tables_core.c, nft_*.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from netlab.linux import nft as n
from netlab.linux.conntrack import CtState, CtView
from netlab.linux.nft import Element, Expression, NftChain, NftRule, NftTable, table_name
from netlab.linux.packet import TCP
from netlab.linux.rules import Ruleset
from netlab.linux.targets import Dnat, Masquerade, Netmap, Redirect, Snat
from netlab.linux.text import nft_words as words
from netlab.match import nft as match
from netlab.match.view import Chance, Undecided, View, nice
from netlab.trace.skb import Outcome, Skb
from netlab.trace.steps import HookStep, RuleStep, with_elements

if TYPE_CHECKING:
    from netlab.trace.netfilter import Netfilter

MAX_DEPTH: Final = 16  # NFT_JUMP_STACK_SIZE


# -- what is not walked -----------------------------------------------------------------------------------------------


def ingress(ruleset: Ruleset, device: str) -> str:
    """A chain at a hook that netlab does not walk and that packets of a device pass, as text; "" where there is none."""
    for table in ruleset.nft_tables:
        for chain in table.chains.values():
            if chain.other_hook == "ingress" and chain.rules and device in chain.device.split(","):
                return f"nft {table.family} {table.name} {chain.name}"
    return ""


# -- the walk ----------------------------------------------------------------------------------------------------------


class _Ended(Exception):
    """The rule does not go on: a comparison did not hold."""


def walk(netfilter: Netfilter, skb: Skb, view: View, table: NftTable, base: NftChain) -> Outcome | None:
    """Walk a base chain; None where the packet goes on to the next one."""
    return _Walk(netfilter, skb, view, table, base).run()


class _Walk:
    """One packet in one base chain."""

    def __init__(self, netfilter: Netfilter, skb: Skb, view: View, table: NftTable, base: NftChain) -> None:
        self.netfilter, self.skb, self.view, self.table, self.base = netfilter, skb, view, table, base
        self.name = table_name(table)
        self.tried = 0
        # of the rule under way
        self.chain, self.number, self.rule = base, 0, NftRule()
        self.since = 0
        self.effects: list[str] = []
        self.chance = Fraction(1)
        self.undecided = False
        self.elements: list[str] = []
        self.led = ""  # the element of a map that led into the chain under way

    def run(self) -> Outcome | None:
        position = 0
        stack: list[tuple[NftChain, int]] = []
        while True:
            if position >= len(self.chain.rules):
                if not stack:
                    return self._policy()
                self.chain, position = stack.pop()
                self.since, self.led = 0, ""
                continue
            self.rule = self.chain.rules[position]
            position += 1
            self.number = position
            self.tried += 1
            self.since += 1
            self.effects, self.chance, self.undecided, self.elements = [], Fraction(1), False, []
            if self.netfilter.tally is not None:
                self.netfilter.tally.nft_rule(self.view, self.table, self.chain, self.rule)
            try:
                verdict = self._statements()
            except _Ended:
                if self.effects:
                    self._hit(", ".join([*self.effects, "then no match"]))
                continue
            if isinstance(verdict, Outcome):
                self._ended("accept" if verdict.kind == "passed" else "drop", "rule")
                return None if verdict.kind == "passed" else verdict
            if verdict is None:
                self._hit(", ".join(self.effects))
                continue
            said = words.verdict_text(verdict)
            self._hit(", ".join([said, *self.effects]))
            match verdict.kind:
                case "accept":
                    self._ended("accept", "rule")
                    return None
                case "drop":
                    self._ended("drop", "rule")
                    return Outcome("dropped", self._by(), self.skb.netns.name)
                case "return":
                    if not stack:
                        return self._policy()
                    self.chain, position = stack.pop()
                    self.since, self.led = 0, ""
                case "jump" | "goto":
                    if verdict.kind == "jump":
                        if len(stack) >= MAX_DEPTH:  # the kernel refuses to load such chains
                            return Outcome("unknown", f"{self._by()} (jumps deeper than {MAX_DEPTH})", self.skb.netns.name)
                        stack.append((self.chain, position))
                    self.chain, position, self.since = self.table.chains[verdict.chain], 0, 0
                    self.led = next((e for e in self.elements if e.endswith(f" : {said} }}")), "")
                case _:
                    pass

    def _statements(self) -> n.Verdict | Outcome | None:
        """Run one rule: its verdict, how the packet ended ("passed": only this base chain did), or None where it goes on.

        Raises
        ------
        _Ended
            Where the rule ended before.
        """
        for statement in self.rule.statements:
            if self.netfilter.tally is not None:
                self.netfilter.tally.nft_statement(self.view, self.table, statement)
            match statement:
                case n.Compare():
                    self._compare(statement)
                case n.Verdict():
                    return statement
                case n.Vmap():
                    return self._vmap(statement)
                case n.Counter() | n.LogStatement():
                    pass
                case n.Mangle():
                    outcome = self._mangle(statement)
                    if outcome is not None:
                        return outcome
                case n.Limit():
                    self._may_end("limit: the rate of other packets is not known")
                case n.Notrack():
                    if self.skb.ct is None and self.skb.template is None:  # nft_ct.c nft_notrack_eval
                        self.skb.untracked = True
                        self.skb.template = self.view.ct = CtView(CtState.UNTRACKED)
                    elif self.skb.ct is not None and self.skb.ct.connection is None:  # INVALID, that is: no longer
                        self.skb.ct = self.view.ct = CtView(CtState.UNTRACKED)
                    self.effects.append("notrack")
                case n.SetChange():
                    self._change(statement)
                case n.RejectStatement():
                    return self._reject(statement)
                case n.Nat():
                    outcome = self._nat(statement)
                    if outcome is not None:
                        return outcome
                case n.UnknownStatement(text=text, json=json):
                    said = text or json
                    if match.may_end(statement):
                        self._may_end(f"{said} is not modelled")
                    elif not match.is_harmless(statement):
                        self._hit("not modelled")
                        return Outcome("unknown", f"{self._by()} ({said} is not modelled)", self.skb.netns.name)
        return None

    # -- chances -------------------------------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return f"{self.name} {self.chain.name} rule {self.number}"

    def _text(self) -> str:
        texts = self.skb.netns.cache.setdefault("nft rule texts", {})
        assert isinstance(texts, dict)
        known = texts.get(id(self.rule))
        if known is None:  # the entry holds the rule, so that its id stays its own
            known = texts[id(self.rule)] = (self.rule, rule_text(self.rule, self.table))
        text: str = known[1]
        return text

    def _doubt(self, reason: str) -> str:
        return f"{self._where} on {self.skb.netns.name}: {self._text()} ({reason})"

    def _compare(self, statement: n.Compare) -> None:
        answer = match.compare_holds(statement, self.view, self.table)
        if answer is True:
            if isinstance(statement.right, n.SetName | n.SetLiteral):
                element = match.element_of(statement.right, statement.left, self.view, self.table)
                self._decided(statement.right, statement.left, element)
            return
        if answer is False:
            raise _Ended
        if isinstance(answer, Chance):
            p = nice(answer.probability)
            if self.netfilter.chooser.choose((p, 1 - p), f"{self._where}: {p}"):
                raise _Ended
            self.chance *= p
        else:
            self._may_end(answer.reason)

    def _may_end(self, reason: str) -> None:
        if not self.netfilter.chooser.undecidable(self._doubt(reason)):
            raise _Ended
        self.undecided = True

    def _chosen(self, options: Sequence[tuple[Fraction, object]]) -> int:
        """One of several values of a rule, by their probabilities."""
        if len(options) == 1:
            return 0
        index = self.netfilter.chooser.choose([p for p, _ in options], f"{self._where}: {options[0][0]}")
        self.chance *= options[index][0]
        return index

    def _vmap(self, statement: n.Vmap) -> n.Verdict:
        found = match.verdicts(statement, self.view, self.table)
        if isinstance(found, Undecided):
            options = match.possible_verdicts(statement, self.table)
            verdict = options[self.netfilter.chooser.undecided_among(len(options), self._doubt(found.reason))]
            self.undecided = True
        else:
            _, verdict, element = found[self._chosen([(each.share, each.verdict) for each in found])]
            self._decided(statement.data, statement.key, element)
        if verdict is None:
            raise _Ended
        return verdict

    def _decided(self, data: n.SetName | n.SetLiteral, key: Expression, element: Element | None) -> None:
        """Note the element of a set or map by which the rule holds."""
        if element is None:
            return
        held = self.table.sets[data.name] if isinstance(data, n.SetName) else None
        kind = " . ".join(held.type) if held is not None else words.datatype(key, self.table.sets)
        name = f"@{data.name} " if isinstance(data, n.SetName) else ""
        self.elements.append(f"{name}{{ {words.element_text(element, kind, self.table.sets)} }}")

    def _value(self, expression: Expression, kind: str) -> tuple[int, ...] | Outcome:
        found = match.values(expression, self.view, self.table, kind)
        if isinstance(found, Undecided):
            self._hit("not modelled")
            return Outcome("unknown", f"{self._by()} ({found.reason})", self.skb.netns.name)
        numbers = found[self._chosen(found)][1]
        if numbers is None:
            raise _Ended
        return numbers

    # -- statements ----------------------------------------------------------------------------------------------------

    def _mangle(self, statement: n.Mangle) -> Outcome | None:
        key = statement.key
        skb, view = self.skb, self.view
        if isinstance(key, n.Meta | n.CtKey) and match.decides_nothing(key):
            self.effects.append(f"{'ct ' if isinstance(key, n.CtKey) else ''}{key.key} set")
            return None
        if not match.is_settable(key):
            return self._unknown(f"{words.expression_text(key)} set is not modelled")
        found = self._value(statement.value, words.datatype(key, self.table.sets))
        if isinstance(found, Outcome):
            return found
        number = found[0]
        match key:
            case n.Meta():
                self.effects.append(f"mark {view.packet.mark:#x} -> {number:#x}")
                if number != view.packet.mark:
                    self.netfilter.rewrite(skb, view, replace(view.packet, mark=number))
            case n.CtKey(key="mark"):  # nft_ct.c nft_ct_set_eval
                connection = skb.ct.connection if skb.ct is not None else None
                if connection is None:
                    self.effects.append("no connection to mark")
                else:
                    connection.mark = number
                    self.effects.append(f"ct mark {number:#x}")
            case n.CtKey(direction=direction):  # nft_ct_set_zone_eval: only the first counts
                if skb.ct is not None and skb.ct.connection is None:
                    # the template then stands for the connection, NAT marks it, and the next packet of this CPU sees that
                    return self._unknown("a zone for a packet that connection tracking has let pass without a connection")
                if skb.ct is None and (skb.template is None or skb.template.connection is None):
                    skb.untracked, skb.zone = False, number
                    skb.zone_direction = {"original": "orig"}.get(direction, direction)
                    skb.template = view.ct = self.netfilter.template(view.packet.family)
                self.effects.append(f"zone {number}")
            case n.Payload():
                return self._write(key, number)
            case _:
                pass
        return None

    def _write(self, key: n.Payload, number: int) -> Outcome | None:
        changed = match.written(self.view.packet, key, number)
        if changed is None:
            raise _Ended
        if isinstance(changed, Undecided):
            return self._unknown(changed.reason)
        self.effects.append(f"{key.protocol} {key.field} set")
        if changed != self.view.packet:
            self.netfilter.rewrite(self.skb, self.view, changed)
        return None

    def _unknown(self, reason: str) -> Outcome:
        self._hit("not modelled")
        return Outcome("unknown", f"{self._by()} ({reason})", self.skb.netns.name)

    def _change(self, statement: n.SetChange) -> None:
        """nft_dynset.c nft_dynset_eval: an element that is there stays as it is; where a set is full the rule ends."""
        held = self.table.sets[statement.set]
        kind = " . ".join(held.type)
        found = match.values(statement.element.key, self.view, self.table, kind)
        if isinstance(found, Undecided):
            self._may_end(found.reason)
            return
        numbers = found[self._chosen(found)][1]
        if numbers is None:
            raise _Ended
        changes = self.view.nft_changes.setdefault(match.set_key(self.table, statement.set), {})
        if statement.op == "delete":
            changes[numbers] = None
            self.effects.append(f"delete @{statement.set}")
            return
        data: n.Value | n.Verdict | n.Concat | None = None
        if isinstance(statement.element.data, n.Verdict):
            data = statement.element.data
        elif statement.element.data is not None:
            values = match.values(statement.element.data, self.view, self.table, " . ".join(held.data))
            if isinstance(values, Undecided):
                self._may_end(values.reason)
                return
            datum = values[self._chosen(values)][1]
            if datum is None:
                raise _Ended
            data = n.Value(datum[0]) if len(datum) == 1 else n.Concat(tuple(n.Value(number) for number in datum))
        parts = tuple(match.Part(number) for number in numbers)
        if not match.contains(n.SetName(statement.set), statement.element.key, parts, self.view, self.table):
            added = sum(1 for element in changes.values() if element is not None)
            if held.size is not None and len(held.elements) + added >= held.size:
                raise _Ended
            key = n.Value(numbers[0]) if len(numbers) == 1 else n.Concat(tuple(n.Value(number) for number in numbers))
            changes[numbers] = Element(key, data)
        self.effects.append(f"{statement.op} @{statement.set}")
        for each in statement.statements:
            if not isinstance(each, n.Counter):
                self._may_end("a limit of a set's element is not modelled")

    def _reject(self, statement: n.RejectStatement) -> Outcome:
        """nft_reject_ipv4.c, nft_reject_ipv6.c, nft_reject_inet.c."""
        owner = match.reject_kind(statement, self.table.family, self.view.packet.family)
        if owner is None or (owner == "tcp-reset" and self.view.packet.protocol != TCP):
            raise _Ended  # nft makes such a rule depend on the family, or on TCP
        kind, code = statement.type, statement.code
        if not kind:
            kind, code = words.default_reject(self.table.family)
        said = f"{kind} {code}".rstrip()
        self._hit(", ".join([f"reject with {said}", *self.effects]))
        return Outcome("rejected", self._by(), self.skb.netns.name, answer_ct=self.netfilter.attached(self.skb), owner=owner)

    def _nat(self, statement: n.Nat) -> Outcome | None:
        """nft_nat.c, nft_masq.c, nft_redir.c: the range of the statement, given to nf_nat_setup_info."""
        if not match.is_for(statement, self.table.family, self.view.packet.family):
            return None
        target = self._nat_target(statement)
        if isinstance(target, Outcome):
            return target
        done: list[str] = []
        outcome = self.netfilter.nat_target(self.skb, self.view, target, done.append)
        self._hit(", ".join([*done, *self.effects]))
        if outcome is None:
            return Outcome("passed", "", self.skb.netns.name)
        if not outcome.reason:
            outcome.reason = self._by()
        return outcome

    def _nat_target(self, statement: n.Nat) -> Dnat | Snat | Masquerade | Redirect | Netmap | Outcome:
        family = self.view.packet.family
        kind = "ipv4_addr" if family == 4 else "ipv6_addr"
        address: tuple[int, ...] = ()
        port: tuple[int, ...] = ()
        if match.is_computed(statement.address):
            assert statement.address is not None
            whole = f"{kind} . inet_service" if isinstance(statement.address, n.Lookup) else kind
            found = self._value(statement.address, whole)
            if isinstance(found, Outcome):
                return found
            address = found
        if match.is_computed(statement.port):
            assert statement.port is not None
            found = self._value(statement.port, "inet_service")
            if isinstance(found, Outcome):
                return found
            port = found
        target = match.nat_target(statement, family, address, port)
        return self._unknown(target.reason) if isinstance(target, Undecided) else target

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _hit(self, effect: str) -> None:
        chance = "?" if self.undecided else str(self.chance) if self.chance != 1 else ""
        self.netfilter.emit(
            self.skb.netns.name,
            RuleStep(
                self.view.hook.value, self.name, self.chain.name, self.number, self._text(), effect, self.rule.comment, chance,
                self.since, tuple(self.elements), ref=self.rule.ref,
            ),
        )  # fmt: skip
        self.since = 0

    def _by(self) -> str:
        origin = f" ({self.rule.ref})" if self.rule.ref is not None and str(self.rule.ref) else ""
        led = f", by {self.led}" if self.led else ""
        return f"{self._where} on {self.skb.netns.name}: {with_elements(self._text(), self.elements)}{led}{origin}"

    def _policy(self) -> Outcome | None:
        verdict = "drop" if self.base.policy == "drop" else "accept"
        self._ended(verdict, "policy")
        if verdict == "accept":
            return None
        where = self.skb.netns.name
        return Outcome("dropped", f"policy of {self.name} {self.base.name} on {where} is drop", where)

    def _ended(self, verdict: str, by: str) -> None:
        if self.tried or verdict != "accept":
            origin = self.skb.netns.rulesets[self.view.packet.family].nft_origin
            self.netfilter.emit(
                self.skb.netns.name,
                HookStep(self.view.hook.value, self.name, self.base.name, verdict, by, self.tried, origin),
            )


def rule_text(rule: NftRule, table: NftTable) -> str:
    """nft's text of a rule, without its comment; the JSON of what has none."""
    parts = []
    for statement in rule.statements:
        if isinstance(statement, n.UnknownStatement) and not statement.text:
            parts.append(statement.json)
            continue
        if isinstance(statement, n.Counter) and not statement.name:
            parts.append("counter")
            continue
        if any(isinstance(e, n.UnknownExpression) and not e.text for e in n.expressions_of(statement)):
            parts.append("(an expression that is not modelled)")
            continue
        parts.append(words.statement_text(statement, table.family, table.sets))
    return " ".join(parts)
