"""Thousands of changed connections as the few sentences that they are: one change, its sources, its reason.

    default/a -> default/x:80  closed     \
    default/b -> default/x:80  closed      >   every workload but default/front lost default/x:80, default/svc/x:80
    default/b -> default/svc/x:80  closed /

Law: every change is in exactly one fold; a fold lists all its sources and destinations, words may shorten them. What a pod sends
to itself says nothing about policy: an only pod that is missing from the sources of its own destination is no exception.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from netlab.reach.answers import Decider
from netlab.reach.compare import Change, Comparison, Kind
from netlab.reach.matrix import INTERNET, Answer, Column
from netlab.trace.query import EXTERNAL

_EXCEPTIONS = 4  # "every workload but a, b, c, d"


class Fold(msgspec.Struct, frozen=True):
    """Changes of one kind that read alike.

    `every`: the sources are all workloads but `exceptions` (and `others`, which are none: internet, addresses). `before` and
    `after` are the policy rules that decide on either side, `reasons` what stopped the packets where no policy did; `families`
    the only ones by which all of it is reached on the side that reaches less.
    """

    kind: Kind
    answers: tuple[Answer, Answer]
    sources: tuple[str, ...]
    destinations: tuple[Column, ...]
    every: bool
    exceptions: tuple[str, ...]
    others: tuple[str, ...]
    before: tuple[Decider, ...]
    after: tuple[Decider, ...]
    reasons: tuple[str, ...]
    flows: int
    families: tuple[int, ...] = ()


def fold(found: Comparison, kinds: Sequence[Kind]) -> list[Fold]:
    """The changes of some kinds, folded; in the order of `kinds`, then the largest first."""
    workloads = tuple(name for name in found.sources if _is_inside(name))
    by_destination: dict[tuple[Kind, tuple[Answer, Answer], Column, tuple[int, ...]], list[Change]] = {}
    for change in found.of(*kinds):
        key = (change.kind, (change.before.answer, change.after.answer), change.before.destination, _families(change))
        by_destination.setdefault(key, []).append(change)
    alike: dict[tuple[object, ...], list[tuple[Column, list[Change]]]] = {}
    for (kind, answers, column, families), changes in by_destination.items():
        sources = frozenset(c.before.source for c in changes)
        itself = found.owners.get(column.name, frozenset()) - sources
        _, after, reasons = _why(changes)
        whole = sources | itself if len(sources) > 1 or not itself else sources
        # for what was decided before a change a line more will do, for what decides now it is another group
        alike.setdefault((kind, answers, families, whole, after, reasons), []).append((column, changes))
    place = {column: n for n, column in enumerate(found.destinations)}
    folds = []
    for (kind, answers, families, *_), members in alike.items():  # type: ignore[assignment]
        every = [c for _, changes in members for c in changes]
        named = {c.before.source for c in every}
        sources_ = tuple(name for name in found.sources if name in named)
        own = frozenset().union(*(found.owners.get(column.name, frozenset()) for column, _ in members))
        missing = tuple(name for name in workloads if name not in named and name not in own)
        inside = [name for name in sources_ if _is_inside(name)]
        most = len(inside) > len(missing) + 1 and len(missing) <= _EXCEPTIONS and len(inside) > 1
        before, after, reasons = _why(every)
        folds.append(
            Fold(
                kind,
                answers,
                sources_,
                tuple(sorted((column for column, _ in members), key=place.__getitem__)),
                most,
                missing if most else (),
                tuple(name for name in sources_ if not _is_inside(name)),
                before,
                after,
                reasons,
                len(every),
                families,
            )
        )
    order = {kind: n for n, kind in enumerate(kinds)}
    return sorted(folds, key=lambda f: (order[f.kind], -f.flows, str(f.destinations[0]), f.sources))


def _families(change: Change) -> tuple[int, ...]:
    """By which families the side that says "some" reaches all, where a change is that of the other family as a whole."""
    answers = {cell.answer: cell for cell in (change.before, change.after)}
    return answers[Answer.SOME].families if answers.keys() == {Answer.SOME, Answer.YES} else ()


def _is_inside(name: str) -> bool:
    """Whether a source is of the cluster: `internet` and addresses are not."""
    return name != INTERNET and not name.startswith((EXTERNAL, "[")) and not name.replace(".", "").isdigit()


def _why(changes: Iterable[Change]) -> tuple[tuple[Decider, ...], tuple[Decider, ...], tuple[str, ...]]:
    """What decides before, what after, and reasons where no policy does; each once, sorted."""
    before: dict[Decider, None] = {}
    after: dict[Decider, None] = {}
    reasons: dict[str, None] = {}
    for change in changes:
        before.update(dict.fromkeys(change.before.policies))
        after.update(dict.fromkeys(change.after.policies))
        for cell in (change.before, change.after):
            if cell.reason and not any(d.says != "allowed" for d in cell.policies):
                reasons[cell.reason] = None

    def order(d: Decider) -> tuple[object, ...]:
        return (d.direction, d.says, d.policies, d.rule or 0)

    return tuple(sorted(before, key=order)), tuple(sorted(after, key=order)), tuple(sorted(reasons))
