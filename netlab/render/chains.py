"""The walk of base chains, NAT and a few other steps in words: what text and page say alike.

Law: nothing is decided here; the steps of one base chain are one run, told by the path through its chains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from netlab.trace.steps import AnyStep, Conntracked, HookStep, Natted, RuleStep, is_nft


class Run(NamedTuple):
    """A base chain's walk: the rules that matched, in order, and how it ended (None: the packet died inside)."""

    hook: str
    table: str
    rules: tuple[RuleStep, ...]
    end: HookStep | None

    @property
    def steps(self) -> tuple[AnyStep, ...]:
        return (*self.rules, self.end) if self.end else self.rules

    @property
    def quiet(self) -> bool:
        """Nothing happened: at most jumps to chains in which no rule matched, then the policy let the packet pass. What Linux
        showed of its rules is told in any case."""
        if self.end is None or self.end.verdict != "accept" or self.end.by == "rule" or any(rule.seen for rule in self.rules):
            return False
        return all(jumps(rule) and not rule.chance for rule in self.rules)

    @property
    def seen(self) -> str:
        """The mark of all its rules, "" where they differ."""
        marks = {rule.seen for rule in self.rules}
        return marks.pop() if len(marks) == 1 else ""


def runs(steps: Sequence[AnyStep], wide: bool) -> Iterator[Run | AnyStep]:
    """Gather the steps of each base chain; leave out what only `wide` shows."""
    rules: list[RuleStep] = []
    for step in steps:
        if rules and not (isinstance(step, HookStep | RuleStep) and (step.hook, step.table) == (rules[0].hook, rules[0].table)):
            yield Run(rules[0].hook, rules[0].table, tuple(rules), None)
            rules = []
        if isinstance(step, RuleStep):
            rules.append(step)
        elif isinstance(step, HookStep):
            yield Run(step.hook, step.table, tuple(rules), step)
            rules = []
        elif wide or not (isinstance(step, Conntracked) and step.state in ("NEW", "ESTABLISHED")):
            yield step
    if rules:
        yield Run(rules[0].hook, rules[0].table, tuple(rules), None)


def jumps(rule: RuleStep) -> bool:
    return rule.effect.startswith(("jump", "goto"))


def returns(rule: RuleStep) -> bool:
    return rule.effect.startswith("return")


def without_dead_jumps(rules: Sequence[RuleStep]) -> list[RuleStep]:
    """Leave out jumps to chains in which nothing matched: the walk came back from them as it went in."""
    kept: list[RuleStep] = []
    for rule in reversed(rules):
        if not jumps(rule) or rule.chance or (kept and kept[-1].chain == target(rule)):
            kept.append(rule)
    return kept[::-1] or list(rules)


def target(rule: RuleStep) -> str:
    """Where a jump leads: the last word of iptables' rule; of nft's, what the effect says (a map may have chosen it)."""
    words = rule.effect.split(", ", 1)[0].split(" ", 1)
    if len(words) == 2:
        return words[1]
    return rule.rule.rsplit(None, 1)[-1] if rule.rule.strip() else ""


def chain_path(rules: Sequence[RuleStep]) -> str:
    """`PREROUTING #1 > KUBE-SERVICES #12 > KUBE-SVC-X #2 (1/3) > KUBE-SEP-Y #2`; `; ` where the walk came back."""
    text, into = "", ""
    for rule in rules:
        if into == rule.chain:
            text += " > "
        else:
            text += f" > {into} (no match); " if into else "; " if text else ""
        text += f"{rule.chain} #{rule.number}"
        if rule is rules[0] and rule.hook.lower() not in rule.chain.lower():  # iptables' base chains are called as the hooks
            text += f" (hook {rule.hook.lower() if rule.is_nft else rule.hook})"
        if rule.chance:
            text += " (undecided)" if rule.chance == "?" else f" ({rule.chance})"
        if returns(rule):
            text += " return" if rule.is_nft else " RETURN"
        into = target(rule) if jumps(rule) else ""
    return text + (f" > {into} (no match)" if into else "")


def led(steps: Sequence[AnyStep], rule: RuleStep) -> str:
    """The element of a verdict map that led into a rule's chain; "" where it was a plain jump."""
    at = (rule.table, rule.hook)
    jump = next((s for s in reversed(steps) if isinstance(s, RuleStep) and (s.table, s.hook) == at and jumps(s)), None)
    if jump is None or target(jump) != rule.chain:
        return ""
    return next((e for e in jump.elements if e.endswith(f" {rule.chain} }}")), "")


def policy_words(end: HookStep) -> str:
    """`policy ACCEPT` of iptables, `policy accept` of nft."""
    return f"policy {end.verdict if is_nft(end.table) else end.verdict.upper()}"


def ends(rule: RuleStep) -> bool:
    return rule.effect.lower().startswith(("drop", "reject"))


def count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def nat_label(step: Natted) -> str:
    return "undo NAT" if step.reverse else step.kind.upper()


def nat_words(step: Natted) -> str:
    """Before -> after, without the end that stays: `destination 10.96.0.10:80 -> 10.244.0.4:9376`; then the note."""
    before, after = step.before.split(" > "), step.after.split(" > ")
    if before == after and step.note:  # an ICMP error whose own addresses stay: only the packet that it quotes is changed
        return step.note.removeprefix("and ")
    if len(before) == len(after) == 2:
        if before[0] == after[0]:
            return f"destination {before[1]} -> {after[1]}{and_note(step.note)}"
        if before[1] == after[1]:
            return f"source {before[0]} -> {after[0]}{and_note(step.note)}"
    return f"{step.before} -> {step.after}{and_note(step.note)}"


def and_note(note: str) -> str:
    return f"; {note}" if note else ""


def without_rule(reason: str, rule: RuleStep | None) -> str:
    """`filter FORWARD rule 3 on node-2` from `filter FORWARD rule 3 on node-2: -A FORWARD ... (iptables-save:41)`."""
    text = rule.matched if rule else ""
    before, quoted, _ = reason.partition(f": {text}")
    return before if text and quoted else reason
