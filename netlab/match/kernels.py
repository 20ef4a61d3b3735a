"""The leaf functions of the matching core, compiled by numba: packets through the decision graph of a Program.

    columns[row, packet] --walk()--> at[packet]: an outcome, or the node where somebody else has to go on

Law: functions on arrays, indices in and out, no objects; nothing here knows what a rule is. program.py makes the arrays and says
what they mean. All numbers of packets and of the graph are 32 bits wide; x - low is compared unsigned, as 32 bits.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"

from __future__ import annotations

import numpy as np
from numba import njit, prange, uint32, uint64

from netlab.match.atoms import ASK, BITS, MARK, MASK, NAME, SPAN, TABLE, WORDS
from netlab.match.cuts import MAX_DIMS, find, find_one
from netlab.match.jit import cached
from netlab.match.packets import Field, Flag

DISPATCH = 16  # a node that finds the next rule of a chain that may hold
CONSTANT = 17  # a node that asks whether a field is a constant of the packet's row (program.py Template)
NODE = 8  # int32 per node: kind, field, a, b, c, yes, no, maybe
KIND, FIELD, A, B, C, YES, NO, MAYBE = range(NODE)
GROUP = 4 + 2 * WORDS  # int32 per group: words of a key, offset of its table, slots - 1, words of a slot; fields; masks
UNEXPANDED = -1  # a way of the graph that nobody has gone; from -2 on down: outcomes
_MARK, _CTMARK, _FLAGS = int(Field.MARK), int(Field.CTMARK), int(Field.FLAGS)
_RANDOM = int(Flag.SPORT_RANDOM)
_BLOCK = 1024  # packets that one thread takes at a time
_FEW = 8  # packets at a node, to go on one by one
_KINDS = 4  # ways behind a DISPATCH that are gone together

_HASH = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(24)


@njit(inline="always")
def _mixed(h, word):
    """A key's hash with one word more; its high bits are good, so a slot is (hash >> _SHIFT) & slots."""
    return (h + uint64(word)) * _HASH


@njit(inline="always")
def _at(columns, row_of, field, i):
    """A field of a packet. (Unsigned indices: numba then needs no code for those that count from the end.)"""
    return columns[uint64(row_of[uint64(field)]), uint64(i)]


@njit(inline="always")
def _key(columns, row_of, groups, group, k, i):
    """A word of a packet's key."""
    return _at(columns, row_of, groups[group, uint64(4 + k)], i) & uint32(groups[group, uint64(4 + WORDS + k)])


@njit(inline="always")
def _probe(columns, row_of, groups, words, group, i):
    """The slot of a packet's key in a group's table: its offset in `words`, -1 where the key is not there."""
    g = uint64(group)
    count = uint64(groups[g, 0])
    table = uint64(groups[g, 1])
    slots = uint64(groups[g, 2])
    width = uint64(groups[g, 3])
    h = uint64(0)
    for k in range(count):
        h = _mixed(h, _key(columns, row_of, groups, g, k, i))
    slot = (h >> _SHIFT) & slots
    while True:
        at = table + slot * width
        if words[at + count + uint64(1)] == 0:
            return np.int64(-1)
        same = True
        for k in range(count):
            if words[at + uint64(k)] != _key(columns, row_of, groups, g, k, i):
                same = False
                break
        if same:
            return np.int64(at)
        slot = (slot + uint64(1)) & slots


@njit(inline="always")
def _from(words, first, many, start):
    """The first number of a sorted list that is not below `start`; -1 where there is none."""
    low, high = first, first + many
    while low < high:
        middle = (low + high) >> 1
        if np.int64(words[middle]) < start:
            low = middle + 1
        else:
            high = middle
    return np.int64(words[low]) if low < first + many else np.int64(-1)


@njit(inline="always")
def _in_doubt(columns, row_of, dispatches, dispatch, i):
    """Whether the packet's source port is not known, and the rules ask for it."""
    return dispatches[dispatch, 3] > 0 and _at(columns, row_of, _FLAGS, i) & uint32(_RANDOM) != 0


@njit(inline="always")
def _next_rule(columns, row_of, groups, dispatches, words, cells, dispatch, start, unindexed, i):
    """The first rule from `start` on that a group or the cuts have for the packet; `unindexed` where none is before that."""
    found = unindexed
    for group in range(dispatches[dispatch, 0], dispatches[dispatch, 1]):
        at = _probe(columns, row_of, groups, words, group, i)
        if at < 0:
            continue
        count = groups[group, 0]
        rule = np.int64(words[at + count])
        many = words[at + count + 1]
        if many > 1:
            rule = _from(words, rule, np.int64(many), start)
        if start <= rule < found:
            found = rule
    base = dispatches[dispatch, 2]
    if base >= 0:
        in_doubt = _in_doubt(columns, row_of, dispatches, dispatch, i)
        found = np.int64(find_one(cells, base, columns, row_of, i, start, found, in_doubt))
    return found


@njit(inline="always")
def _class(tables, words, table, x):
    """The class of a number in an interval table: that of the last bound that is not above it."""
    low, high = np.int64(0), np.int64(tables[table, 1])
    first = tables[table, 0]
    while high - low > 1:
        middle = (low + high) >> 1
        if words[first + middle] <= x:
            low = middle
        else:
            high = middle
    return words[first + tables[table, 1] + low]


@njit(inline="always")
def _member(columns, row_of, groups, members, words, member, i):
    """0: not in the set, 1: in it, 2: on an element that is `nomatch`. The most specific level that has the key decides."""
    for group in range(members[member, 0], members[member, 1]):
        at = _probe(columns, row_of, groups, words, group, i)
        if at >= 0:
            return words[at + groups[group, 0]] + 1
    return uint32(0)


@njit(inline="always")
def _holds(columns, row_of, nodes, groups, members, tables, words, names, node, i):
    """Whether the atom of a node holds."""
    kind, a, b = nodes[node, uint64(KIND)], nodes[node, uint64(A)], nodes[node, uint64(B)]
    if kind == MARK:
        mark = _at(columns, row_of, _MARK, i) & uint32(nodes[node, uint64(FIELD)])
        return mark ^ (_at(columns, row_of, _CTMARK, i) & uint32(a)) == uint32(b)
    x = _at(columns, row_of, nodes[node, uint64(FIELD)], i)
    if kind == MASK:
        return x & uint32(a) == uint32(b)
    if kind == SPAN:
        return uint32(x - uint32(a)) <= uint32(b)
    if kind == BITS:
        return (uint32(a) >> x) & uint32(1) == 1
    if kind == NAME:
        return names[a, x] != 0
    if kind == TABLE:
        return (uint32(b) >> _class(tables, words, a, x)) & uint32(1) == 1
    return (uint32(b) >> _member(columns, row_of, groups, members, words, a, i)) & uint32(1) == 1


@njit(inline="always")
def _step(
    columns, row_of, nodes, children, child_rows, constants, groups, dispatches, members, tables, words, cells, names, node, i,
    row,
):  # fmt: skip
    """Where one packet goes from a node: (the way, what is behind it, its row of constants). An ASK has no way: -1.

    A way is a number: NODE * node + column for the ways of a node, -2 - index for an entry of `children`.
    """
    node = uint64(node)
    kind = nodes[node, uint64(KIND)]
    if kind == DISPATCH:
        start = nodes[node, uint64(A)]
        rule = _next_rule(
            columns, row_of, groups, dispatches, words, cells, nodes[node, uint64(FIELD)], start,
            np.int64(nodes[node, uint64(C)]), i,
        )  # fmt: skip
        index = np.int64(nodes[node, uint64(B)]) + rule - start
        if _in_doubt(columns, row_of, dispatches, nodes[node, uint64(FIELD)], i):
            index += dispatches[nodes[node, uint64(FIELD)], 3] - start + 1
        new = child_rows[uint64(index)]
        return -2 - index, children[uint64(index)], new if new >= 0 else row
    if kind == ASK:
        return np.int64(-1), np.int32(UNEXPANDED), row
    if kind == CONSTANT:
        x = _at(columns, row_of, nodes[node, uint64(FIELD)], i)
        holds = x == constants[uint64(row + nodes[node, uint64(A)])]
    else:
        holds = _holds(columns, row_of, nodes, groups, members, tables, words, names, node, i)
    column = uint64(YES) if holds else uint64(NO)
    return np.int64(uint64(NODE) * node + column), nodes[node, column], row


@njit
def _alone(
    columns,
    row_of,
    nodes,
    children,
    child_rows,
    constants,
    groups,
    dispatches,
    members,
    tables,
    words,
    cells,
    names,
    node,
    i,
    at,
    ways,
    rows,
):
    """One packet from a node on."""
    row = rows[i]
    while True:
        way, child, row = _step(
            columns,
            row_of,
            nodes,
            children,
            child_rows,
            constants,
            groups,
            dispatches,
            members,
            tables,
            words,
            cells,
            names,
            node,
            i,
            row,
        )
        if child == UNEXPANDED:
            ways[i] = way
            at[i] = node
            rows[i] = row
            return
        if child < UNEXPANDED:
            at[i] = child
            rows[i] = row
            return
        node = child


@njit
def _dispatch(
    columns,
    row_of,
    nodes,
    children,
    child_rows,
    groups,
    dispatches,
    words,
    cells,
    node,
    packets,
    low,
    high,
    behind,
    ways,
    rows,
    keys,
    hashes,
    cut_ways,
):
    """What is behind a DISPATCH for some packets, into behind[0]; `rows` and, where nobody has been, `ways` follow.

    One group after another, and of a group one word of the keys after another: short loops without choices.
    """
    start, unindexed = np.int64(nodes[node, A]), np.int64(nodes[node, C])
    first, dispatch = np.int64(nodes[node, B]), nodes[node, FIELD]
    for j in range(low, high):
        behind[1, j] = unindexed
    for group in range(dispatches[dispatch, 0], dispatches[dispatch, 1]):
        g = uint64(group)
        count, table = np.int64(groups[g, 0]), uint64(groups[g, 1])
        slots, width = uint64(groups[g, 2]), uint64(groups[g, 3])
        for j in range(low, high):
            hashes[uint64(j)] = uint64(0)
        for k in range(count):
            column = columns[row_of[groups[g, uint64(4 + k)]]]
            mask = uint32(groups[g, uint64(4 + WORDS + k)])
            key = keys[k]
            for j in range(low, high):
                word = column[uint64(packets[uint64(j)])] & mask
                key[uint64(j)] = word
                hashes[uint64(j)] = _mixed(hashes[uint64(j)], word)
        for j in range(low, high):
            slot = (hashes[uint64(j)] >> _SHIFT) & slots
            while True:
                at = table + slot * width
                many = words[at + uint64(count) + uint64(1)]
                if many == 0:
                    break
                same = True
                for k in range(count):
                    same &= words[at + uint64(k)] == keys[uint64(k), uint64(j)]
                if same:
                    rule = np.int64(words[at + uint64(count)])
                    if many > 1:
                        rule = _from(words, rule, np.int64(many), start)
                    if start <= rule < behind[1, j]:
                        behind[1, j] = rule
                    break
                slot = (slot + uint64(1)) & slots
    base, doubts = dispatches[dispatch, 2], dispatches[dispatch, 3] > 0 and row_of[_FLAGS] != 0
    if base >= 0:
        if doubts:
            for j in range(low, high):
                i = packets[j]
                if _in_doubt(columns, row_of, dispatches, dispatch, i):  # the cuts then find nothing that is before this one
                    behind[1, j] = find_one(cells, base, columns, row_of, i, start, behind[1, j], True)
        find(cells, base, columns, row_of, packets, low, high, start, behind, keys, cut_ways)
    for j in range(low, high):
        index = uint64(first + behind[1, uint64(j)] - start)
        if doubts and _in_doubt(columns, row_of, dispatches, dispatch, packets[uint64(j)]):
            index += uint64(dispatches[dispatch, 3] - start + 1)
        child = children[index]
        behind[0, uint64(j)] = child
        i = uint64(packets[uint64(j)])
        if child == UNEXPANDED:
            ways[i] = -2 - np.int64(index)
        elif child_rows[index] >= 0:
            rows[i] = child_rows[index]


@njit(inline="always")
def _settle(child, node, packets, low, high, at, heads, depth):
    """Some packets go on to what is behind their node: a node, an outcome, or where nobody has been; how many heads there are."""
    if low == high:
        return depth
    if child >= 0:
        heads[depth, 0], heads[depth, 1], heads[depth, 2] = child, low, high
        return depth + 1
    for j in range(low, high):
        at[packets[j]] = node if child == UNEXPANDED else child
    return depth


@cached(parallel=True, nogil=True)
def walk(
    columns, row_of, nodes, children, child_rows, constants, groups, dispatches, members, tables, words, cells, names, at, ways,
    rows,
):  # fmt: skip
    """All packets from where they are to an outcome, or to a node where they have to wait.

    Parameters
    ----------
    columns : uint32[R, n]
    row_of : int32[FIELDS]
    nodes : int32[*, NODE]
    children : int32[*]
    child_rows : int32[*]
        By child: where its constants begin; -1: those that the packet has.
    constants : uint32[*]
    groups : int32[*, GROUP]
    dispatches : int32[*, 4]
        First group, and the one behind the last; where the cuts begin in `cells`, -1: there are none; the number of rules of a
        chain whose cuts ask for source ports, else 0: behind that many children are those for packets whose port is in doubt.
    members : int32[*, 2]
        First group, and the one behind the last.
    tables : int32[*, 2]
        Offset in `words` of the bounds, and their number; the classes stand behind them.
    words : uint32[*]
        Tables, lists of rules, bounds.
    cells : uint32[*]
        cuts.py.
    names : uint8[patterns, devices]
    at : int32[n]
        In: the node of each packet. Out: -2 - outcome, or the node where it waits.
    ways : int64[n]
        Out: the way that the packet would go, -1 where the node is an ASK or the packet has ended.
    rows : int32[n]
        In and out: where each packet's constants begin.
    """
    count = at.size
    for block in prange((count + _BLOCK - 1) // _BLOCK):
        first = block * _BLOCK
        packets = np.empty(_BLOCK, np.int32)  # those that are at one node lie side by side
        others = np.empty(_BLOCK, np.int32)
        behind = np.empty((2, _BLOCK), np.int32)
        keys, hashes = np.empty((max(WORDS, MAX_DIMS), _BLOCK), np.uint32), np.empty(_BLOCK, np.uint64)
        cut_ways = np.empty((2, _BLOCK), np.uint64)
        heads = np.empty((_BLOCK, 3), np.int32)  # of packets at one node: the node, the first, the one after the last
        total = 0
        for i in range(first, min(count, first + _BLOCK)):
            if at[i] >= 0:
                packets[total] = i
                total += 1
        depth = 0
        low = 0
        while low < total:
            high = low + 1
            while high < total and at[packets[high]] == at[packets[low]]:
                high += 1
            heads[depth, 0], heads[depth, 1], heads[depth, 2] = at[packets[low]], low, high
            depth += 1
            low = high
        while depth > 0:
            depth -= 1
            node, low, high = np.int64(heads[depth, 0]), np.int64(heads[depth, 1]), np.int64(heads[depth, 2])
            kind = nodes[node, KIND]
            if high - low < _FEW or kind == ASK:
                for j in range(low, high):
                    _alone(
                        columns, row_of, nodes, children, child_rows, constants, groups, dispatches, members, tables, words,
                        cells, names, node, packets[j], at, ways, rows,
                    )  # fmt: skip
            elif kind == DISPATCH:
                _dispatch(
                    columns, row_of, nodes, children, child_rows, groups, dispatches, words, cells, node, packets, low, high,
                    behind, ways, rows, keys, hashes, cut_ways,
                )  # fmt: skip
                kept = low
                for j in range(low, high):  # those that end here
                    i = packets[j]
                    child = behind[0, j]
                    at[i] = node if child == UNEXPANDED else child
                    packets[kept] = i
                    behind[0, kept] = child
                    kept += np.int64(child >= 0)
                high = kept
                for _ in range(_KINDS):  # those that go the same way together
                    if low == high:
                        break
                    child = behind[0, low]
                    middle = low
                    kept = 0
                    for j in range(low, high):
                        i = packets[j]
                        c = behind[0, j]
                        same = c == child
                        packets[middle] = i
                        others[kept] = i
                        behind[1, kept] = c
                        middle += np.int64(same)
                        kept += np.int64(not same)
                    for j in range(kept):
                        packets[middle + j] = others[j]
                        behind[0, middle + j] = behind[1, j]
                    depth = _settle(child, node, packets, low, middle, at, heads, depth)
                    low = middle
                for j in range(low, high):
                    _alone(
                        columns, row_of, nodes, children, child_rows, constants, groups, dispatches, members, tables, words,
                        cells, names, behind[0, j], packets[j], at, ways, rows,
                    )  # fmt: skip
            else:
                yes, no = nodes[node, YES], nodes[node, NO]
                middle = low
                kept = 0
                if kind in (MASK, CONSTANT):
                    field = row_of[nodes[node, FIELD]]
                    a, b = uint32(nodes[node, A]), uint32(nodes[node, B])
                    for j in range(low, high):
                        i = packets[j]
                        x = columns[uint64(field), uint64(i)]
                        holds = x & a == b if kind == MASK else x == constants[uint64(rows[i] + a)]
                        packets[middle] = i
                        others[kept] = i
                        middle += np.int64(holds)
                        kept += np.int64(not holds)
                else:
                    for j in range(low, high):
                        i = packets[j]
                        holds = _holds(columns, row_of, nodes, groups, members, tables, words, names, node, i)
                        packets[middle] = i
                        others[kept] = i
                        middle += np.int64(holds)
                        kept += np.int64(not holds)
                for j in range(kept):
                    packets[middle + j] = others[j]
                if yes == UNEXPANDED:
                    for j in range(low, middle):
                        ways[packets[j]] = NODE * node + YES
                if no == UNEXPANDED:
                    for j in range(middle, high):
                        ways[packets[j]] = NODE * node + NO
                depth = _settle(yes, node, packets, low, middle, at, heads, depth)
                depth = _settle(no, node, packets, middle, high, at, heads, depth)


@cached()
def follow(
    columns, row_of, nodes, children, child_rows, constants, groups, dispatches, members, tables, words, cells, names, node, i,
    row, ways,
):  # fmt: skip
    """One packet from a node on, its ways written down: (where it ends or waits, its row of constants, how many ways).

    `ways` is int64[*]; where it is too short the packet waits.
    """
    count = 0
    while node >= 0 and count < ways.size:
        way, child, new = _step(
            columns,
            row_of,
            nodes,
            children,
            child_rows,
            constants,
            groups,
            dispatches,
            members,
            tables,
            words,
            cells,
            names,
            node,
            i,
            row,
        )
        if child == UNEXPANDED:
            break
        ways[count] = way
        count += 1
        node, row = child, new
    return node, row, count


@cached()
def arrange(nodes, children, spans, root):
    """The order of nodes in which a packet meets them, depth first, so that what follows lies in the same cache line.

    Parameters
    ----------
    nodes : int32[n, NODE]
    children : int32[*]
    spans : int32[n]
        How many entries of `children` a DISPATCH has.
    root : int

    Returns
    -------
    place : int32[n]
        Where each node goes; nodes that no way leads to yet come last.
    """
    count = nodes.shape[0]
    place = np.full(count, -1, np.int32)
    stack = np.empty(count + 1, np.int32)
    marked = np.zeros(count, np.uint8)
    depth, following = 1, 0
    stack[0] = root
    marked[root] = 1
    while depth > 0:
        depth -= 1
        node = stack[depth]
        place[node] = following
        following += 1
        if nodes[node, KIND] == DISPATCH:
            first = nodes[node, B]
            for at in range(first + spans[node] - 1, first - 1, -1):
                child = children[at]
                if child >= 0 and marked[child] == 0:
                    marked[child] = 1
                    stack[depth] = child
                    depth += 1
        else:
            for column in (MAYBE, NO, YES):
                child = nodes[node, column]
                if child >= 0 and marked[child] == 0:
                    marked[child] = 1
                    stack[depth] = child
                    depth += 1
    for node in range(count):
        if place[node] < 0:
            place[node] = following
            following += 1
    return place


@cached()
def fill_table(keys, first, many, table):
    """Put keys into an empty open-addressing table.

    Parameters
    ----------
    keys : uint32[n, k]
        Each only once.
    first, many : uint32[n]
        What belongs to a key; `many` is not 0.
    table : uint32[slots, k + 2]
        Zeros; `slots` is a power of two above n.
    """
    slots = table.shape[0] - 1
    count = keys.shape[1]
    for i in range(keys.shape[0]):
        h = uint64(0)
        for k in range(count):
            h = _mixed(h, keys[i, k])
        slot = np.int64((h >> _SHIFT) & uint64(slots))
        while table[slot, count + 1] != 0:
            slot = (slot + 1) & slots
        for k in range(count):
            table[slot, k] = keys[i, k]
        table[slot, count] = first[i]
        table[slot, count + 1] = many[i]
