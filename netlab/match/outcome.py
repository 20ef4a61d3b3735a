"""What becomes of a packet in the chains of a hook: one Leaf, or several with exact probabilities.

    a run of the walk: choices made on the way + how it ended       fold(): all runs of one packet -> its leaves

Law: nothing is sampled. A chance (`statistic`) is followed both ways, an undecided rule too; where both its ways end alike it did
not matter, else the leaf is UNKNOWN and `rule` names it. Leaves come in the order of exploration, probabilities add up to 1.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import msgspec

from netlab.linux.targets import Ct, Target
from netlab.match.lowered import ToServer
from netlab.match.view import nice

MAX_UNDECIDED = 8  # per run, as in the tracer: more combinations of ignorance tell nobody anything
MAX_RUNS = 20_000


class Verdict(enum.Enum):
    """How a packet leaves the chains of a hook."""

    ACCEPT = 0  # it goes on
    DROP = 1
    REJECT = 2  # dropped, and the sender is told (`target`)
    NAT = 3  # a NAT target ended the chain; `target` says which
    UNKNOWN = 4  # a rule that netlab cannot decide, or a target that it does not model
    IPVS = 5  # IPVS sends it to a real server; `target` says which


class Leaf(msgspec.Struct, frozen=True):
    """One end of a packet.

    `rule` is the deciding rule, an index into the program's rules; -1 - N is the policy of its N-th base chain. `path` has every
    rule whose matches held, in order. `mark` and `connmark` are as they are then; `ct` the `-j CT` that took effect. `target` is
    that of a REJECT, NAT, IPVS or UNKNOWN.
    """

    probability: Fraction
    verdict: Verdict
    rule: int
    path: tuple[int, ...] = ()
    mark: int = 0
    connmark: int = 0
    ct: Ct | None = None
    target: Target | ToServer | None = None


class Choice(NamedTuple):
    """A point where a run had a choice: which rule, which way it went (0 first), that way's probability (None: undecided)."""

    rule: int
    way: int
    weight: Fraction | None


Run = tuple[tuple[Choice, ...], Leaf]


class TooManyChoices(Exception):
    """More ways than netlab follows; `rule` is where it gave up."""

    def __init__(self, rule: int) -> None:
        super().__init__(f"rule {rule}")
        self.rule = rule


def signature(leaf: Leaf) -> object:
    """What must be equal for two ends to count as the same: everything that a later chain or the sender could see."""
    return leaf.verdict, leaf.target, leaf.mark, leaf.connmark, leaf.ct


def chance(probability: Fraction) -> Fraction | bool:
    """How the walk takes a probability: certain ones are no choice."""
    found = nice(probability)
    return False if found <= 0 else True if found >= 1 else found


def fold(runs: Sequence[Run]) -> tuple[Leaf, ...]:
    """The leaves of all runs of one packet, which are given in the order of exploration (depth first)."""
    return tuple(_fold(runs, 0))


def _fold(runs: Sequence[Run], depth: int) -> list[Leaf]:
    """Fold runs that share their first `depth` choices."""
    choices, leaf = runs[0]
    if len(choices) == depth:
        return [leaf]
    groups: list[list[Run]] = []
    for run in runs:
        if groups and groups[-1][0][0][depth].way == run[0][depth].way:
            groups[-1].append(run)
        else:
            groups.append([run])
    folded = [(group[0][0][depth], _fold(group, depth + 1)) for group in groups]
    if choices[depth].weight is not None:
        return [
            msgspec.structs.replace(leaf, probability=leaf.probability * choice.weight)
            for choice, leaves in folded
            for leaf in leaves
            if choice.weight is not None
        ]
    views: list[dict[object, Fraction]] = []
    for _, leaves in folded:
        view: dict[object, Fraction] = {}
        for leaf in leaves:  # a chance that makes no difference is none
            seen = signature(leaf)
            view[seen] = view.get(seen, Fraction(0)) + leaf.probability
        views.append(view)
    if all(view == views[0] for view in views):
        return folded[0][1]
    first = folded[0][1][0]
    return [Leaf(Fraction(1), Verdict.UNKNOWN, choices[depth].rule, first.path, first.mark, first.connmark, first.ct)]


def explore(run: Callable[[Chooser], Leaf]) -> tuple[Leaf, ...]:
    """Run a walk once for every way through its choices, and fold the ends.

    Parameters
    ----------
    run : callable
        One walk; deterministic but for what it asks the Chooser.
    """
    runs: list[Run] = []
    script: list[int] = []
    while True:
        chooser = Chooser(script)
        try:
            leaf = run(chooser)
        except TooManyChoices as many:
            return (Leaf(Fraction(1), Verdict.UNKNOWN, many.rule),)
        runs.append((tuple(chooser.made), leaf))
        if len(runs) > MAX_RUNS:
            return (Leaf(Fraction(1), Verdict.UNKNOWN, chooser.made[-1].rule),)
        made = chooser.made
        while made and made[-1].way == 1:
            made.pop()
        if not made:
            return fold(runs)
        script = [choice.way for choice in made[:-1]] + [1]


class Chooser:
    """Follows a script of answers, then takes the first way of everything new."""

    def __init__(self, script: Sequence[int]) -> None:
        self.script = script
        self.made: list[Choice] = []
        self.undecided = 0

    def holds(self, rule: int, probability: Fraction) -> bool:
        """A rule that holds with a probability; first it does."""
        index = self._next()
        self.made.append(Choice(rule, index, 1 - probability if index else probability))
        return index == 0

    def undecidable(self, rule: int) -> bool:
        """A rule that netlab cannot decide; first it does not hold."""
        self.undecided += 1
        if self.undecided > MAX_UNDECIDED:
            raise TooManyChoices(rule)
        index = self._next()
        self.made.append(Choice(rule, index, None))
        return index == 1

    def _next(self) -> int:
        return self.script[len(self.made)] if len(self.made) < len(self.script) else 0
