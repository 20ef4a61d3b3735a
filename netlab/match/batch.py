"""Many packets at one hook, answered at once: the API of the matching core.

    program = compile_hook(netns, 4, Hook.PREROUTING)          packets = Packets.of_fields(4, program.names, src=..., dst=...)
    answer = decide(program, packets)                          answer.verdict, .rule, .mark; answer.leaves(7), .path(7)

Law: the answer for a packet is that of walk.py, leaf by leaf; `explain` asks walk.py itself. Importing this module
imports numba: commands that answer a few packets take the walk.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from netlab.linux import matches as m
from netlab.match import kernels
from netlab.match.atoms import BITS, MASK, SPAN
from netlab.match.kernels import MAYBE, NO, NODE, UNEXPANDED, YES
from netlab.match.naive import HOLDS, _recent
from netlab.match.outcome import Leaf, Verdict
from netlab.match.packets import Field, Packets
from netlab.match.program import Arranged, Asking, Outcome, Program, Renumber, TooLarge
from netlab.match.view import Undecided, View
from netlab.match.walk import walk

WALK: Any = kernels.walk  # numba's own types say nothing of arguments
FOLLOW: Any = kernels.follow
MIXED = 255  # in `verdict`: the leaves of the packet differ
_ADDRESSES = (*range(Field.SRC, Field.SRC + 4), *range(Field.DST, Field.DST + 4), Field.INDEV, Field.OUTDEV)


class Answer:
    """What becomes of each packet of a batch.

    Attributes
    ----------
    outcome, row : int32[n]
        Packets with the same numbers fare alike: an index into `program.outcomes`, and which of the places that are alike
        (program.py Template) they came to. Everything else follows from them.
    """

    def __init__(self, program: Program, packets: Packets, outcome: NDArray[np.int32], row: NDArray[np.int32]) -> None:
        self.program, self.packets, self.outcome, self.row = program, packets, outcome, row
        self._table = _table(program)

    def _nonzero(self, column: int) -> NDArray[np.int64]:
        """Packets of whose outcomes a number is not 0. Mostly none is; then few outcomes are looked at, not many packets."""
        if len(self) > self._table.shape[1] and not self._table[column].any():
            return np.zeros(0, np.int64)
        return np.flatnonzero(self._table[column][self.outcome])

    def _column(self, first: int, count: int = 1) -> list[NDArray[np.int64]]:
        return [self._table[first + at][self.outcome] for at in range(count)]

    @cached_property
    def verdict(self) -> NDArray[np.uint8]:
        """The value of a Verdict; MIXED where a chance decides between several: uint8[n]."""
        found = self._column(0)[0].astype(np.uint8)
        for i in self._doubtful:
            found[i] = _verdict(self._ends(int(i)))
        return found

    @cached_property
    def rule(self) -> NDArray[np.int32]:
        """The deciding rule of the first leaf, a number of `program.numbering`; below zero a policy: int32[n]."""
        found = self._column(1)[0].astype(np.int32)
        here = self._nonzero(10)
        chain = self._table[10][self.outcome[here]]
        found[here] += self.program.constants.array[self.row[here] + chain].astype(np.int32)
        for i in self._doubtful:
            found[i] = self._ends(int(i))[0].rule
        return found

    @cached_property
    def count(self) -> NDArray[np.int32]:
        """How many leaves a packet has: int32[n]."""
        found = self._column(2)[0].astype(np.int32)
        for i in self._doubtful:
            found[i] = len(self._ends(int(i)))
        return found

    @cached_property
    def mark(self) -> NDArray[np.uint32]:
        """The mark of the first leaf: uint32[n]."""
        found = self._marks(3)
        for i in self._doubtful:
            found[i] = self._ends(int(i))[0].mark
        return found

    @cached_property
    def connmark(self) -> NDArray[np.uint32]:
        """The connection's mark of the first leaf: uint32[n]."""
        found = self._marks(6)
        for i in self._doubtful:
            found[i] = self._ends(int(i))[0].connmark
        return found

    def _marks(self, first: int) -> NDArray[np.uint32]:
        from_mark, from_connmark, value = (column.astype(np.uint32) for column in self._column(first, 3))
        mark, connmark = self.packets.field(Field.MARK), self.packets.field(Field.CTMARK)
        found: NDArray[np.uint32] = (mark & from_mark) ^ (connmark & from_connmark) ^ value
        return found

    @cached_property
    def _doubtful(self) -> NDArray[np.int64]:
        """Packets that met a rule that cannot be decided: whether that mattered may depend on their marks."""
        return self._nonzero(9)

    def __len__(self) -> int:
        return len(self.outcome)

    def _ends(self, index: int) -> tuple[Leaf, ...]:
        mark, connmark = (int(self.packets.field(field)[index]) for field in (Field.MARK, Field.CTMARK))
        number = int(self.outcome[index])
        outcome: Outcome = self.program.outcomes[number]
        return outcome.leaves(mark, connmark, self.program.here(number, int(self.row[index])))

    def leaves(self, index: int) -> tuple[Leaf, ...]:
        """The leaves of one packet, each with its whole path."""
        outcome = self.program.outcomes[self.outcome[index]]
        leaves = self._ends(index)
        if outcome.whole or outcome.fixed is not None:
            return leaves
        before = _passed(self.program, self.packets, index)
        return tuple(replace(leaf, path=(*before, *leaf.path)) for leaf in leaves)

    def targets(self, index: int) -> dict[str, Fraction]:
        """The NAT targets of one packet, as iptables writes them, with their probabilities."""
        found: dict[str, Fraction] = {}
        for leaf in self._ends(index):
            if leaf.verdict is Verdict.NAT:
                text = str(leaf.target)
                found[text] = found.get(text, Fraction(0)) + leaf.probability
        return found


def _table(program: Program) -> NDArray[np.int64]:
    """Of each outcome: verdict, rule and count; three numbers of its mark, three of its connection's; whether it is doubtful;
    what of the packet's row of constants is added to the rule (0: nothing)."""
    known = program.table
    if known.shape[1] < len(program.outcomes):
        rows = [_row(program, outcome) for outcome in program.outcomes[known.shape[1] :]]
        known = program.table = np.concatenate([known, np.array(rows, np.int64).T], axis=1)
    return known


def _row(program: Program, outcome: Outcome) -> tuple[int, ...]:
    if outcome.fixed is not None:
        leaf = outcome.fixed[0]
        return _verdict(outcome.fixed), leaf.rule, len(outcome.fixed), 0, 0, leaf.mark, 0, 0, leaf.connmark, 0, 0
    end = outcome.ends[0]
    verdicts = {each.verdict for each in outcome.ends}
    verdict = MIXED if len(verdicts) > 1 else end.verdict.value
    rule, at = program.relative(end.rule, outcome.alike)
    return verdict, rule, len(outcome.ends), *end.mark, *end.connmark, outcome.doubtful, at


def _verdict(leaves: tuple[Leaf, ...]) -> int:
    verdicts = {leaf.verdict for leaf in leaves}
    return MIXED if len(verdicts) > 1 else leaves[0].verdict.value


def decide(program: Program, packets: Packets) -> Answer:
    """Answer a batch.

    Parameters
    ----------
    program : Program
        Its graph grows where no packet has been before.
    packets : Packets
        Of the program's family, with its `names`.

    Returns
    -------
    Answer

    Raises
    ------
    ValueError
        The packets are of another family than the program.
    """
    if packets.family != program.family:
        raise ValueError(f"packets of IPv{packets.family} for a program of IPv{program.family}")
    graph = program.arranged()
    at = np.full(len(packets), _start(graph, packets), np.int32)
    ways, rows = np.full(len(packets), -1, np.int64), np.zeros(len(packets), np.int32)
    WALK(*_arrays(program, packets, graph), at, ways, rows)
    if len(at) and at.max() >= 0:  # some want to go where nobody has been, or to ask the twin: back to the graph that can grow
        waiting = np.flatnonzero(at >= 0)
        at[waiting], rows[waiting] = _outcomes(program, packets.take(waiting), graph.node_at[at[waiting]], rows[waiting])
    return Answer(program, packets, np.subtract(-2, at, out=at), rows)


def _start(graph: Arranged, packets: Packets) -> int:
    """The first node (or -2 - outcome) that asks what not all packets have in common."""
    node = graph.root
    while node >= 0:
        kind, field, a, b = (int(word) & 0xFFFFFFFF for word in graph.nodes[node, :4])
        if kind not in (MASK, SPAN, BITS) or (packets.row_of[field] and field not in packets.single):
            return node
        x = packets.single.get(field, 0)
        holds = x & a == b if kind == MASK else 0 <= x - a <= b if kind == SPAN else bool(a >> x & 1)
        following = int(graph.nodes[node, YES if holds else NO])
        if following == UNEXPANDED:
            return node
        node = following
    return node


def explain(program: Program, packets: Packets, index: int) -> tuple[Leaf, ...]:
    """One packet of a batch, answered by the twin."""
    view = packets.view(index, program.netns, program.hook)
    return walk(program.bases, view, program.numbering)


def _arrays(program: Program, packets: Packets, graph: Arranged | None = None) -> tuple[NDArray[Any], ...]:
    """What every kernel is given first."""
    own = (program.nodes.array, program.children.array, program.child_rows.array)
    nodes, children, child_rows = own if graph is None else (graph.nodes, graph.children, graph.child_rows)
    return (
        packets.columns, packets.row_of, nodes, children, child_rows, program.constants.array, program.groups.array,
        program.dispatches.array, program.members.array, program.tables.array, program.words.array, program.cells,
        program.patterns(),
    )  # fmt: skip


def _outcomes(
    program: Program, packets: Packets, at: NDArray[np.int32], rows: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where each packet ends (-2 - outcome) that is at a node, and its row of constants."""
    count = len(packets)
    while True:
        ways = np.full(count, -1, np.int64)
        WALK(*_arrays(program, packets), at, ways, rows)
        waiting = np.flatnonzero(at >= 0)
        if not len(waiting):
            return at, rows
        try:
            _go_on(program, packets, at, ways, waiting)
        except TooLarge:
            at[waiting] = [program.outcome((), fixed=explain(program, packets, int(i))) for i in waiting]
            return at, rows
        if len(waiting) * 4 < count:
            at[waiting], rows[waiting] = _outcomes(program, packets.take(waiting), at[waiting], rows[waiting])
            return at, rows


def _go_on(
    program: Program, packets: Packets, at: NDArray[np.int32], ways: NDArray[np.int64], waiting: NDArray[np.int64]
) -> None:
    """Make the ways that packets want to go, and ask the twin what only it knows."""
    wanted = ways[waiting]
    going = waiting[wanted != -1]
    _, first = np.unique(ways[going], return_index=True)
    for i in going[first]:
        program.expand(int(at[i]), int(ways[i]))
    asking = waiting[wanted == -1]
    for node in np.unique(at[asking]):
        here = asking[at[asking] == node]
        if int(node) not in program.asking:  # only the twin knows what becomes of the packet
            at[here] = [program.outcome((), fixed=explain(program, packets, int(i))) for i in here]
            continue
        columns = _answers(program.asking[int(node)], program, packets, here)
        for column in (YES, NO, MAYBE):
            some = here[columns == column]
            if len(some):
                if program.nodes.array[node, column] == UNEXPANDED:
                    program.expand(int(node), NODE * int(node) + column)
                at[some] = program.nodes.array[node, column]


def _answers(asking: Asking, program: Program, packets: Packets, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """What the twin says of a match for some packets: YES, NO or MAYBE; packets that look alike are asked once."""
    fields = _ADDRESSES if type(asking.match) is m.Addrtype else range(len(packets.row_of))
    rows = np.unique(packets.row_of[list(fields)])
    _, first, inverse = np.unique(packets.columns[np.ix_(rows, indices)], axis=1, return_index=True, return_inverse=True)
    found = [_answer(asking, packets.view(int(i), program.netns, program.hook)) for i in indices[first]]
    return np.array(found, np.int64)[inverse.reshape(-1)]


def _answer(asking: Asking, view: View) -> int:
    packet, connection = view.packet, view.ct.connection if view.ct is not None else None
    connmark = connection.mark if connection is not None else 0
    view.packet = replace(packet, mark=asking.mark.at(packet.mark, connmark))
    if connection is not None:
        connection.mark = asking.connmark.at(packet.mark, connmark)
    for match, certain in asking.recents:
        _recent(match, view, certain)
    if isinstance(asking.match, m.Recent):
        answer = _recent(asking.match, view, asking.certain)
    else:
        answer = HOLDS[type(asking.match)](asking.match, view)
    return MAYBE if isinstance(answer, Undecided) else YES if answer else NO


def _passed(program: Program, packets: Packets, index: int) -> tuple[int, ...]:
    """The rules that held on the graph's part of a packet's way."""
    found = list(program.passed[-1])
    ways = np.empty(64, np.int64)
    node, row = program.root, 0

    def add(way: int, node: int) -> None:
        nonlocal row
        here = program.entered(way)
        if here is not None:
            row = here.row
        elif node >= 0 and program.is_alike(node):
            here = Renumber(program, row)
        rules = program.passed.get(way, ())
        found.extend(rules if here is None else map(here.number, rules))

    while node >= 0:
        before = node
        node, _, count = FOLLOW(*_arrays(program, packets), node, index, row, ways)
        for way in map(int, ways[:count]):
            add(way, before)
            before = program.behind(way)
        if node >= 0 and node in program.asking:
            one = np.array([index], np.int64)
            column = int(_answers(program.asking[node], program, packets, one)[0])
            add(NODE * node + column, node)
            node = int(program.nodes.array[node, column])
    return tuple(found)
