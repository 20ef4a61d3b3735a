"""Sets that are asked one after the other are asked at once: which is the first that has the packet?

    in set A? -no-> in set B? -no-> in set C?   -->  one table of all their elements: address -> places in the run (A 0, B 1, C 2)

Law: the way is the one that the nodes would have found. Only sets that say no more than "in" or "not in" are put together.
Felix writes such runs: a chain for each policy of a pod, with sets of its own, and each asks for the protocol first. Behind a
node where a field turned out to be some number, what asks for that field again is passed over; who comes by another way meets
every node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from netlab.match.atoms import MASK, MEMBER, U32
from netlab.match.kernels import DISPATCH, FIELD, KIND, NO, NODE, UNEXPANDED, YES, A, B, C
from netlab.match.members import Level

MIN_RUN: Final = 8  # sets
FEWER: Final = 4  # times as many sets as tables, for tables to be worth it
_IN: Final = 1 << 1  # of the three answers of a set (kernels.py _member) only "in" counts


class Known(NamedTuple):
    """What the packet's field is; NOTHING where nothing is known."""

    field: int
    value: int


NOTHING: Final = Known(-1, 0)
Tables = Callable[[tuple[int, ...]], tuple[int, int]]


class Run(NamedTuple):
    """Nodes that ask sets, and what is behind the last one where none has the packet."""

    nodes: list[int]
    behind: int


def fuse(
    nodes: NDArray[np.int32], children: NDArray[np.int32], plain: NDArray[np.bool_], tables: Tables
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """A graph in which a DISPATCH stands before each run of sets.

    Parameters
    ----------
    nodes : int32[n, NODE]
    children : int32[*]
    plain : bool[sets]
        Sets without `nomatch` elements.
    tables : callable
        For the sets of a run: the number of a dispatch that finds the place of the first that has the packet, and how many tables
        it asks for that; -1 where there is none.

    Returns
    -------
    nodes : int32[n + k, NODE]
    children : int32[*]
    replaced : int32[k]
        For each new node the one in whose place it stands.
    """
    asks = (nodes[:, KIND] == MEMBER) & (nodes[:, B] == _IN)
    asks[asks] = plain[nodes[asks, A]]
    found = nodes.copy()
    rows: list[NDArray[np.int32]] = []
    replaced: list[int] = []
    more, following = [children], len(children)
    for known, entries in _entries(nodes, asks):
        places: dict[int, NDArray[np.int32]] = {}
        for run in _runs(nodes, asks, known, {node for _, node in entries}):
            dispatch, count = tables(tuple(map(int, nodes[run.nodes, A])))
            if dispatch < 0:
                continue
            for place in range(len(run.nodes) - max(MIN_RUN, FEWER * count) + 1):
                row = np.full(NODE, UNEXPANDED, np.int32)
                row[[KIND, FIELD, A, B, C]] = DISPATCH, dispatch, place, following + place, len(run.nodes)
                places[run.nodes[place]] = row
            more.append(np.append(nodes[run.nodes, YES], run.behind).astype(np.int32))
            following += len(more[-1])
        if known is NOTHING:
            for node, row in places.items():
                found[node] = row
            continue
        new: dict[int, int] = {}
        for before, node in entries:
            if node in places:
                if node not in new:
                    new[node] = len(nodes) + len(rows)
                    rows.append(places[node])
                    replaced.append(node)
                found[before, YES] = new[node]
    if rows:
        found = np.concatenate([found, np.array(rows, np.int32)])
    return found, np.concatenate(more), np.array(replaced, np.int32)


def _entries(nodes: NDArray[np.int32], asks: NDArray[np.bool_]) -> Iterator[tuple[Known, list[tuple[int, int]]]]:
    """What is known behind the nodes that lead to a set, and such nodes with the set's: (node, where its yes leads); at last all
    nodes of sets, of which nothing is known."""
    yes = nodes[:, YES]
    leads = (nodes[:, KIND] == MASK) & (nodes[:, A] == -1) & (yes >= 0)
    leads[leads] = asks[yes[leads]]
    by_known: dict[Known, list[tuple[int, int]]] = {}
    for node in map(int, np.flatnonzero(leads)):
        known = Known(int(nodes[node, FIELD]), int(nodes[node, B]) & U32)
        by_known.setdefault(known, []).append((node, int(yes[node])))
    yield from by_known.items()
    yield NOTHING, [(-1, int(node)) for node in np.flatnonzero(asks)]


def _runs(nodes: NDArray[np.int32], asks: NDArray[np.bool_], known: Known, entries: set[int]) -> Iterator[Run]:
    """The runs that begin at some nodes; none of two has a node that the other has."""
    following: dict[int, int] = {}
    for entry in entries:
        node = entry
        while node not in following:
            following[node] = _behind(nodes, int(nodes[node, NO]), known)
            if following[node] < 0 or not asks[following[node]]:
                break
            node = following[node]
    entered = set(following.values())
    taken: set[int] = set()
    for node in following:
        if node in entered:
            continue
        run = [node]
        while (after := following[run[-1]]) in following and after not in taken:
            run.append(after)
        taken.update(run)
        if len(run) >= MIN_RUN:
            yield Run(run, after)


def _behind(nodes: NDArray[np.int32], node: int, known: Known) -> int:
    """Where a packet of which something is known comes from a node on, past nodes that ask what is known."""
    while node >= 0 and nodes[node, KIND] == MASK and nodes[node, FIELD] == known.field:
        holds = known.value & int(nodes[node, A]) & U32 == int(nodes[node, B]) & U32
        node = int(nodes[node, YES if holds else NO])
    return node


def together(levels: Sequence[Sequence[Level]]) -> list[Level]:
    """The elements of several sets, each with the place of the set that has it: of one key ascending."""
    found: dict[tuple[tuple[int, int], ...], Level] = {}
    for place, of_set in enumerate(levels):
        for level in of_set:
            held = found.setdefault(level.shape, Level(level.shape, [], []))
            held.keys.extend(level.keys)
            held.values.extend([place] * len(level.keys))
    return list(found.values())
