"""Choices: every random or undecidable point of a walk, explored exhaustively by running the walk again.

    run 1: choose -> 0, choose -> 0            The walk is straight-line code that calls `choose` where the kernel draws a
    run 2: choose -> 0, choose -> 1            number. Each run follows a script of earlier answers and then takes the first
    run 3: choose -> 1                         branch; the next run changes the last answer that has an alternative left.

Law: nothing is sampled. Probabilities are exact fractions. A point that netlab cannot decide is a choice without
probability: if everything behind it comes out the same either way, it did not matter; else the outcome is `unknown`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_RUNS = 20_000
MAX_UNDECIDED = 8  # per run: more than 2**8 combinations of ignorance tell nobody anything


class TooManyChoices(Exception):
    """The walk forks into more branches than netlab explores."""


@dataclass(slots=True)
class Choice:
    """One point of one run: what was chosen, among what. `weights` None: undecided (of two options: no, yes)."""

    label: str
    index: int
    count: int
    weights: tuple[Fraction, ...] | None
    named: bool = False  # the label names what was chosen


class Chooser:
    """Follows a script of answers, then takes the first branch of everything new."""

    def __init__(self, script: Sequence[int] = ()) -> None:
        self.script = script
        self.made: list[Choice] = []
        self.undecided = 0

    def choose(self, weights: Sequence[Fraction], label: str, names: Sequence[str] = ()) -> int:
        """Choose among weighted options; returns the option's index. `names`: a label for each option."""
        index = self._next(tuple(weights), len(weights), label)
        if names:
            self.made[-1].label, self.made[-1].named = names[index], True
        return index

    def undecidable(self, label: str) -> bool:
        """A yes/no that netlab cannot answer; raises TooManyChoices after MAX_UNDECIDED of them."""
        self.undecided += 1
        if self.undecided > MAX_UNDECIDED:
            raise TooManyChoices(f"more than {MAX_UNDECIDED} rules could not be decided, the last: {label}")
        return bool(self._next(None, 2, label))

    def undecided_among(self, count: int, label: str) -> int:
        """One of several that netlab cannot tell apart; counts as an undecidable point."""
        self.undecided += 1
        if self.undecided > MAX_UNDECIDED:
            raise TooManyChoices(f"more than {MAX_UNDECIDED} rules could not be decided, the last: {label}")
        return self._next(None, count, label)

    def _next(self, weights: tuple[Fraction, ...] | None, count: int, label: str) -> int:
        position = len(self.made)
        index = self.script[position] if position < len(self.script) else 0
        self.made.append(Choice(label, index, count, weights))
        return index


@dataclass(slots=True)
class Weighted(Generic[T]):
    """An outcome and its probability."""

    probability: Fraction
    outcome: T


def explore(
    run: Callable[[Chooser], T], signature: Callable[[T], object], unknown: Callable[[T, str], T]
) -> list[Weighted[T]]:
    """Run a walk over all its choices.

    Parameters
    ----------
    run : callable
        One walk; deterministic but for the chooser's answers.
    signature : callable
        What must be equal for two outcomes to count as the same when an undecided point lies before them.
    unknown : callable
        Makes the unknown outcome from one of the differing outcomes and the label of the undecided point.

    Returns
    -------
    list of Weighted
        In the order of exploration; the probabilities add up to 1.
    """
    runs: list[tuple[list[Choice], T]] = []
    script: list[int] = []
    while True:
        chooser = Chooser(script)
        outcome = run(chooser)
        runs.append((chooser.made, outcome))
        if len(runs) > MAX_RUNS:
            raise TooManyChoices(f"more than {MAX_RUNS} branches")
        made = chooser.made
        last = len(made) - 1
        while last >= 0 and made[last].index + 1 >= made[last].count:
            last -= 1
        if last < 0:
            break
        script = [c.index for c in made[:last]] + [made[last].index + 1]
    if len(runs) == 1 and not runs[0][0]:
        return [Weighted(Fraction(1), runs[0][1])]
    return _combine(runs, 0, 0, len(runs), signature, unknown)


def _combine(
    runs: list[tuple[list[Choice], T]],
    depth: int,
    start: int,
    end: int,
    signature: Callable[[T], object],
    unknown: Callable[[T, str], T],
) -> list[Weighted[T]]:
    """Fold the runs [start, end), which share their first `depth` choices."""
    made, outcome = runs[start]
    if len(made) == depth:
        return [Weighted(Fraction(1), outcome)]
    choice = made[depth]
    groups: list[tuple[int, list[Weighted[T]]]] = []
    position = start
    while position < end:
        index = runs[position][0][depth].index
        stop = position
        while stop < end and runs[stop][0][depth].index == index:
            stop += 1
        groups.append((index, _combine(runs, depth + 1, position, stop, signature, unknown)))
        position = stop
    if choice.weights is not None:
        return [Weighted(w.probability * choice.weights[i], w.outcome) for i, group in groups for w in group]
    views: list[dict[object, Fraction]] = []
    for _, group in groups:
        view: dict[object, Fraction] = {}
        for w in group:  # a chance that makes no difference is none
            seen = signature(w.outcome)
            view[seen] = view.get(seen, Fraction(0)) + w.probability
        views.append(view)
    if all(view == views[0] for view in views):
        return groups[0][1]
    return [Weighted(Fraction(1), unknown(groups[0][1][0].outcome, choice.label))]
