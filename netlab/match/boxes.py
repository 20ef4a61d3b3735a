"""Rules as boxes: for each field a low and a high bound, outside of which a rule surely does not hold.

    -s 10.0.0.0/8 ! -d 10.1.0.0/16 -p tcp --dport 80  ->  two boxes (on both sides of 10.1.0.0/16); nothing is left to ask

Law: where a rule's boxes do not hold a packet, naive.py says no; never that it cannot know. What a box cannot say (a mark, a set,
a chance) stays to be asked. A packet whose source port NAT has drawn (Flag.SPORT_RANDOM) has boxes of its own, for it is in doubt
where others are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from netlab.match.atoms import MASK, SPAN, U32, Atom, Branch, Doubt, Tree
from netlab.match.packets import Field, Flag

Box = dict[int, tuple[int, int]]  # by field: low, high, both inside
MAX_BOXES: Final = 16  # of a rule

# What boxes may speak of: what never changes on the way
BOXED: Final = frozenset(
    [*range(Field.SRC, Field.SRC + 4), *range(Field.DST, Field.DST + 4), Field.PROTOCOL, Field.SPORT, Field.DPORT, Field.ICMP,
     Field.INDEV, Field.OUTDEV, Field.PHYSIN, Field.PHYSOUT]
)  # fmt: skip
DRAWN_PORT: Final[Atom] = (MASK, Field.FLAGS, Flag.SPORT_RANDOM, Flag.SPORT_RANDOM)


class _TooMany(Exception):
    """More boxes than are worth it."""


def top(field: int) -> int:
    """The largest number that a field has."""
    return 255 if field == Field.PROTOCOL else 65535 if field in (Field.SPORT, Field.DPORT, Field.ICMP) else U32


def of_tree(tree: Tree, drawn: bool = False) -> tuple[list[Box], bool]:
    """The boxes in which a match may hold, and whether it surely holds in them; `drawn`: for packets with a drawn source port.

    Examples
    --------
    >>> of_tree(Branch((SPAN, 26, 80, 1), False, True))
    ([{26: (0, 79)}, {26: (82, 65535)}], True)
    """
    found: list[Box] = []
    try:
        certain = [_is_exact(end, found, box) for end, box in _ends(tree, {}, [], drawn)]
    except _TooMany:
        return [{}], False
    return found, all(certain)


def _is_exact(end: bool | Doubt | None, found: list[Box], box: Box) -> bool:
    """Notes the box of an end that is not False; whether the end is certain."""
    if end is not False and box not in found:
        found.append(box)
        if len(found) > MAX_BOXES:
            raise _TooMany
    return isinstance(end, bool)


def _ends(tree: Tree, box: Box, seen: list[None], drawn: bool) -> Iterator[tuple[bool | Doubt | None, Box]]:
    """The ends of a tree and their boxes; beside them (None, box) where the tree asks what no box can say."""
    if not isinstance(tree, Branch):
        yield tree, box
        return
    seen.append(None)
    if len(seen) > 8 * MAX_BOXES:
        raise _TooMany
    if tree.atom == DRAWN_PORT:
        yield from _ends(tree.yes if drawn else tree.no, box, seen, drawn)
        return
    field, span = tree.atom[1], _span(tree.atom)
    if span is None:
        for way in (tree.yes, tree.no):
            for end, part in _ends(way, box, seen, drawn):
                yield (end, part) if end is False else (None, part)
        return
    low, high = box.get(field, (0, top(field)))
    for first, last, way in ((span[0], span[1], tree.yes), (0, span[0] - 1, tree.no), (span[1] + 1, U32, tree.no)):
        if max(first, low) <= min(last, high):
            yield from _ends(way, {**box, field: (max(first, low), min(last, high))}, seen, drawn)


def _span(atom: Atom) -> tuple[int, int] | None:
    """The numbers for which an atom holds, if they are all between two."""
    kind, field, a, b = (int(word) for word in atom)
    if field not in BOXED:
        return None
    if kind == SPAN:
        return a, a + b
    host = ~a & U32
    return (b, b | host) if kind == MASK and host & (host + 1) == 0 else None


def both(boxes: Sequence[Box], others: Sequence[Box]) -> list[Box] | None:
    """The boxes in which a packet is in one of each; None where they are too many."""
    found = []
    for box in boxes:
        for other in others:
            joined = dict(box)
            for field, (low, high) in other.items():
                first, last = joined.get(field, (0, U32))
                joined[field] = max(first, low), min(last, high)
            if all(low <= high for low, high in joined.values()):
                found.append(joined)
    return found if len(found) <= MAX_BOXES else None


class Bounds(NamedTuple):
    """Boxes as arrays: `low` and `high`, both inside, uint32[fields, n]; the rule of each, ascending, int32[n]; `tops`, the
    largest number of each field."""

    low: NDArray[np.uint32]
    high: NDArray[np.uint32]
    rule: NDArray[np.int32]
    tops: NDArray[np.uint32]


def bounds(boxes: Sequence[tuple[Box, int]], fields: Sequence[int]) -> Bounds:
    """The bounds of boxes, each with its rule, in some fields."""
    tops = [top(field) for field in fields]
    low = [[box[field][0] if field in box else 0 for box, _ in boxes] for field in fields]
    high = [[box[field][1] if field in box else most for box, _ in boxes] for field, most in zip(fields, tops, strict=True)]
    rule = np.array([number for _, number in boxes], np.int32)
    return Bounds(np.array(low, np.uint32), np.array(high, np.uint32), rule, np.array(tops, np.uint32))
