"""The rules around those that matched: what a base chain's walk looked at and passed over, in the order in which it did.

Law: a trace says how many rules were looked at since the last match; which they were stands in the ruleset that the trace walked.
Bounded: of long chains the last rules before the match are kept and the others are counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from netlab.linux.netns import Netns
from netlab.linux.nft import NftRule, NftTable, table_name
from netlab.linux.rules import Rule, Ruleset
from netlab.render.chains import Run
from netlab.trace.nftables import rule_text
from netlab.trace.steps import is_nft

LINES = 12  # before each match


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A rule of a chain; `matched` if it did. `skipped`: so many rules stand here that did not match either."""

    chain: str
    number: int
    text: str
    matched: bool = False
    skipped: int = 0


class Tried(msgspec.Struct, frozen=True):
    """The walk, rule by rule; `total` is how many were looked at in all."""

    total: int
    lines: tuple[Line, ...]


def tried_rules(netns: Netns, family: int, run: Run) -> Tried | None:
    """What a base chain's walk looked at, or None where the ruleset does not have it.

    Parameters
    ----------
    netns : Netns
        Where it was walked.
    family : int
        4 or 6.
    run : Run
        The rules that matched, and the chain's end.
    """
    ruleset = netns.rulesets.get(family)
    if ruleset is None:
        return None
    lines: list[Line] = []
    for step in run.rules:
        chain = _chain(ruleset, step.table, step.chain)
        if chain is None:
            return None
        lines += _between(chain, step.chain, step.number - max(1, step.tried) + 1, step.number)
        lines.append(Line(step.chain, step.number, step.rule, True))
    if run.end is not None and run.end.by != "rule":
        base = _chain(ruleset, run.table, run.end.chain)
        if base is not None:
            last = max((s.number for s in run.rules if s.chain == run.end.chain), default=0)
            lines += _between(base, run.end.chain, last + 1, len(base) + 1)
    total = run.end.tried if run.end is not None else sum(max(1, step.tried) for step in run.rules)
    return Tried(total, tuple(lines)) if lines else None


def _between(chain: _Chain, name: str, first: int, end: int) -> list[Line]:
    """The rules from `first` to before `end`, which did not match."""
    first, end = max(1, first), min(end, len(chain) + 1)
    start = max(first, end - LINES)
    lines = [Line(name, first, "", skipped=start - first)] if start > first else []
    return lines + [Line(name, number, chain.text(number)) for number in range(start, end)]


class _Chain:
    """The rules of a chain, written when they are asked for: there may be 10,000."""

    def __init__(self, name: str, rules: Sequence[Rule] | Sequence[NftRule], table: NftTable | None) -> None:
        self.name, self.rules, self.table = name, rules, table

    def __len__(self) -> int:
        return len(self.rules)

    def text(self, number: int) -> str:
        rule = self.rules[number - 1]
        if isinstance(rule, NftRule):
            assert self.table is not None
            return rule_text(rule, self.table)
        return f"-A {self.name} {rule}".rstrip()


def _chain(ruleset: Ruleset, table: str, name: str) -> _Chain | None:
    if not is_nft(table):
        found = ruleset.table(table)
        return _Chain(name, found.chains[name].rules, None) if found is not None and name in found.chains else None
    for candidate in ruleset.nft_tables:
        if table_name(candidate) == table and name in candidate.chains:
            return _Chain(name, candidate.chains[name].rules, candidate)
    return None
