"""A packet classifier for long lists of rules on several fields: decision trees that cut one field into up to 15 parts at a time.

    boxes (a low and a high bound for each field) --grow()--> cells: uint32[*], nodes and leaves --find()--> the first rule

    node: the field, the least rule below; 14 bounds | 15 ways on     leaf: 8 rules; their bounds, one line for each field

Law: what is found is the first rule from `start` on of which a box holds the packet, as `scan` finds it by looking at all.
A rule that is too wide for a cut, because it would stand behind most ways, goes to the next tree, so that the trees together stay
small (Vamanan et al., "EffiCuts", SIGCOMM 2010). A node and its ways are a cache line each, compared in one instruction where the
processor has such; packets go down level by level, many side by side, so that they wait for memory together.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, call-arg, var-annotated"

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types, uint32, uint64
from numba.extending import intrinsic
from numpy.typing import NDArray

from netlab.match.boxes import BOXED, Bounds
from netlab.match.jit import cached

LINE = 16  # uint32 per cache line
CUTS = 14  # bounds of a node
LANES = 8  # rules of a leaf's group
NONE = 0x7FFFFFFF  # no rule
MAX_TREES = 8
EVICT = 128  # boxes: a node of more leaves the wide ones to the next tree
LARGER = (4, 16)  # or of so many times as many, where that finds faster
SAMPLES = 1000  # packets on which that is looked at
CACHED = 8e6  # bytes of a classifier from which on its lines more and more come from memory
FULL = 64  # times the boxes: what the leaves may hold before the rest is no longer cut
MAX_DIMS = 16  # a box may speak of all of BOXED
HEAD = 3 * LINE  # of a classifier: how many fields and trees, the roots; their least rules, where the drawn ones are; the fields
ROOTS, LEAST, DRAWN, FIELDS_AT = 2, LINE, LINE + MAX_TREES, 2 * LINE
assert len(BOXED) <= MAX_DIMS

# -- instructions ------------------------------------------------------------------------------------------------------


def _pointer(context, builder, array_type, array, at):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [at])


def _vector(builder, pointer, count):
    return builder.load(builder.bitcast(pointer, ir.VectorType(ir.IntType(32), count).as_pointer()), align=4)


def _splat(builder, x, count):
    kind = ir.VectorType(ir.IntType(32), count)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), x, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(kind, [0] * count))


def _bits(builder, compared, count):
    """The answers of a comparison as the bits of a number."""
    return builder.zext(builder.bitcast(compared, ir.IntType(count)), ir.IntType(32))


@intrinsic
def _not_above(typingctx, cells, at, x):
    """Bits: which of 16 words from `at` on are <= x."""

    def codegen(context, builder, signature, args):
        words = _vector(builder, _pointer(context, builder, signature.args[0], args[0], args[1]), 16)
        return _bits(builder, builder.icmp_unsigned("<=", words, _splat(builder, args[2], 16)), 16)

    return types.uint32(cells, types.uint64, types.uint32), codegen


@intrinsic
def _inside(typingctx, cells, at, x):
    """Bits: for which of 8 lows from `at` on, and the 8 spans behind them, low <= x <= low + span."""

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        low = _vector(builder, pointer, 8)
        span = _vector(builder, builder.gep(pointer, [ir.Constant(ir.IntType(64), 8)]), 8)
        above = builder.sub(_splat(builder, args[2], 8), low)
        return _bits(builder, builder.icmp_unsigned("<=", above, span), 8)

    return types.uint32(cells, types.uint64, types.uint32), codegen


@intrinsic
def _between(typingctx, cells, at, low, high):
    """Bits: for which of 8 words from `at` on low <= word < high."""

    def codegen(context, builder, signature, args):
        words = _vector(builder, _pointer(context, builder, signature.args[0], args[0], args[1]), 8)
        enough = builder.icmp_unsigned(">=", words, _splat(builder, args[2], 8))
        return _bits(builder, builder.and_(enough, builder.icmp_unsigned("<", words, _splat(builder, args[3], 8))), 8)

    return types.uint32(cells, types.uint64, types.uint32, types.uint32), codegen


@intrinsic
def _popcount(typingctx, x):
    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint32(types.uint32), codegen


@intrinsic
def _lowest(typingctx, x):
    """The number of the lowest bit that is set."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint32(types.uint32), codegen


# -- finding -----------------------------------------------------------------------------------------------------------


@njit
def find(cells, base, columns, row_of, packets, low, high, start, behind, keys, ways_):
    """The first rule from `start` on for some packets, where it is below what behind[1] has; into behind[1].

    Parameters
    ----------
    cells : uint32[*]
    base : int
        Where the classifier begins in `cells`.
    columns : uint32[R, n]
    row_of : int32[FIELDS]
    packets : int32[*]
        Of those from `low` to `high` the columns.
    behind : int32[2, *]
    keys, ways_ : uint32[MAX_DIMS, *], uint64[2, *]
        Room.
    """
    inner, leaves = ways_[0], ways_[1]  # a way << 32 | the packet's place
    base = uint64(base)
    dims, trees = uint64(cells[base]), np.int64(cells[base + uint64(1)])
    for d in range(dims):
        column = columns[row_of[cells[base + uint64(FIELDS_AT) + d]]]
        for j in range(low, high):
            keys[d, uint64(j)] = column[uint64(packets[uint64(j)])]
    for tree in range(trees):
        root = cells[base + uint64(ROOTS + tree)]
        least = cells[base + uint64(LEAST + tree)]
        count, held = 0, 0
        first = uint64(root) << uint64(32)
        for j in range(low, high):
            inner[uint64(count)] = first | uint64(j)
            count += np.int64(uint32(behind[1, uint64(j)]) > least)
        if root & uint32(1):
            for k in range(count):
                leaves[k] = inner[k]
            held, count = count, 0
        while count > 0:
            kept = 0
            for k in range(count):
                j = inner[uint64(k)] & uint64(0xFFFFFFFF)
                node = inner[uint64(k)] >> uint64(33) << uint64(4)
                bits = _not_above(cells, node, keys[uint64(cells[node]), j]) & uint32(0xFFFC)
                to = cells[node + uint64(LINE) + uint64(_popcount(bits))]
                to &= uint32(-np.int64(cells[node + uint64(1)] < uint32(behind[1, j])))
                way = uint64(to) << uint64(32) | j
                inner[uint64(kept)] = way
                leaves[uint64(held)] = way
                is_leaf = np.int64(to & uint32(1))
                held += is_leaf
                kept += np.int64(to != 0) - is_leaf
            count = kept
        while held > 0:
            kept = 0
            for k in range(held):
                j = leaves[uint64(k)] & uint64(0xFFFFFFFF)
                leaf = leaves[uint64(k)] >> uint64(33) << uint64(4)
                best = uint32(behind[1, j])
                bits = _between(cells, leaf, uint32(start), best)
                at = leaf + uint64(LINE)
                for d in range(dims):
                    bits &= _inside(cells, at, keys[d, j])
                    at += uint64(LINE)
                first_held = cells[leaf + uint64(_lowest(bits | uint32(1 << LANES)))]
                behind[1, j] = best if bits == 0 else first_held
                leaves[uint64(kept)] = at << uint64(29) | j
                kept += np.int64((bits == 0) & (cells[leaf + uint64(LANES)] != 0))
            held = kept


@njit
def find_one(cells, base, columns, row_of, i, start, best, in_doubt):
    """The same for one packet; where its source port is in doubt, the boxes for such packets are looked at, one by one."""
    base = uint64(base)
    dims, trees = np.int64(cells[base]), np.int64(cells[base + uint64(1)])
    if in_doubt:
        return _leaf(cells, uint64(cells[base + uint64(DRAWN)]) * uint64(LINE), dims, base, columns, row_of, i, start, best)
    for tree in range(trees):
        to = cells[base + uint64(ROOTS + tree)]
        while to != 0 and to & uint32(1) == 0:
            node = uint64(to >> uint32(1)) * uint64(LINE)
            field = cells[base + uint64(FIELDS_AT) + uint64(cells[node])]
            bits = _not_above(cells, node, columns[row_of[field], i]) & uint32(0xFFFC)
            to = cells[node + uint64(LINE) + uint64(_popcount(bits))]
        if to:
            best = _leaf(cells, uint64(to >> uint32(1)) * uint64(LINE), dims, base, columns, row_of, i, start, best)
    return best


@njit
def _leaf(cells, leaf, dims, base, columns, row_of, i, start, best):
    """The first rule of a leaf from `start` on that holds, if it is below `best`; else `best`."""
    while True:
        bits = _between(cells, leaf, uint32(start), uint32(best))
        for d in range(dims):
            field = cells[base + uint64(FIELDS_AT) + uint64(d)]
            bits &= _inside(cells, leaf + uint64(LINE * (d + 1)), columns[row_of[field], i])
        if bits:
            return np.int64(cells[leaf + uint64(_lowest(bits))])
        if cells[leaf + uint64(LANES)] == 0:
            return np.int64(best)
        leaf += uint64(LINE * (dims + 1))


@cached()
def visits(cells, base, packets):
    """How many nodes and groups of leaves are looked at to find the first rules for some packets.

    Parameters
    ----------
    cells : uint32[*]
    base : int
    packets : uint32[D, n]
        In the order of the classifier's fields.
    """
    base = uint64(base)
    dims, trees = np.int64(cells[base]), np.int64(cells[base + uint64(1)])
    count = 0
    for i in range(packets.shape[1]):
        best = uint32(NONE)
        for tree in range(trees):
            to = cells[base + uint64(ROOTS + tree)]
            if cells[base + uint64(LEAST + tree)] >= best:
                continue
            while to != 0 and to & uint32(1) == 0:
                node = uint64(to >> uint32(1)) * uint64(LINE)
                bits = _not_above(cells, node, packets[cells[node], i]) & uint32(0xFFFC)
                to = cells[node + uint64(LINE) + uint64(_popcount(bits))] if cells[node + uint64(1)] < best else uint32(0)
                count += 1
            leaf = uint64(to >> uint32(1)) * uint64(LINE)
            while to != 0:
                bits = _between(cells, leaf, uint32(0), best)
                for d in range(dims):
                    bits &= _inside(cells, leaf + uint64(LINE * (d + 1)), packets[d, i])
                count += 1
                if bits:
                    best = cells[leaf + uint64(_lowest(bits))]
                if bits or cells[leaf + uint64(LANES)] == 0:
                    break
                leaf += uint64(LINE * (dims + 1))
    return count


# -- growing -----------------------------------------------------------------------------------------------------------


@njit(inline="always")
def _room(cells, used, count):
    """The cells with room for `count` more."""
    if used + count <= cells.size:
        return cells
    grown = np.zeros(max(2 * cells.size, used + count), np.uint32)
    grown[:used] = cells[:used]
    return grown


@njit
def _bounds(low, high, boxes, first, last, d, region_low, region_high, found):
    """Where the boxes begin and end in a field inside a region, sorted, into `found`; how many there are."""
    count = 0
    for k in range(first, last):
        box = boxes[k]
        if low[d, box] > region_low:
            found[count] = low[d, box]
            count += 1
        if high[d, box] < region_high:
            found[count] = high[d, box] + uint32(1)
            count += 1
    found[:count].sort()
    return count


@njit
def _cuts(found, count, most, cuts):
    """Up to `most` of the bounds, so that about as many lie between any two; how many."""
    chosen = 0
    for k in range(most):
        at = found[count * (k + 1) // (most + 1)] if count > most else found[min(k, count - 1)]
        if chosen == 0 or at > cuts[chosen - 1]:
            cuts[chosen] = at
            chosen += 1
    return chosen


@njit(inline="always")
def _part(cuts, count, x):
    part = 0
    for k in range(count):
        part += np.int64(cuts[k] <= x)
    return part


@njit
def put(low, high, rule, boxes, cells, used):
    """A leaf of some boxes, in groups of 8: the cells, and how many are in use then."""
    dims, count = low.shape[0], boxes.size
    group, groups = LINE * (dims + 1), (count + LANES - 1) // LANES
    cells = _room(cells, used, groups * group)
    for k in range(groups * LANES):
        at, lane = used + k // LANES * group, k % LANES
        box = boxes[min(k, count - 1)]
        cells[at + lane] = rule[box] if k < count else NONE
        for d in range(dims):
            cells[at + LINE * (d + 1) + lane] = low[d, box]
            cells[at + LINE * (d + 1) + LANES + lane] = high[d, box] - low[d, box]
        if lane == 0:
            cells[at + LANES] = groups - 1 - k // LANES
    return cells, used + groups * group


@cached()
def grow(low, high, rule, closed, tops, given, evict, full, cells, used):
    """One tree.

    Parameters
    ----------
    low, high : uint32[D, n]
        Boxes.
    rule : int32[n]
        Of each box its rule; ascending.
    closed : uint8[n]
        Whether the search ends surely where the box holds.
    tops : uint32[D]
        The largest number of each field.
    given : int32[m]
        The boxes of this tree, ascending.
    evict : int
        From how many boxes on a node leaves the wide ones to the next tree.
    full : int
        How many boxes the leaves may hold in all.
    cells : uint32[*]
        What there is already.
    used : int
        How much of it.

    Returns
    -------
    cells, used, root, left
        `left` are the boxes for the next tree.
    """
    dims = low.shape[0]
    many = given.size
    pool = np.empty(4 * many + 4096, np.int32)
    pool[:many] = given
    gone = np.zeros(low.shape[1], np.uint8)
    found = np.empty(2 * many + 2, np.uint32)
    cuts, best_cuts = np.empty(CUTS, np.uint32), np.empty(CUTS, np.uint32)
    sizes = np.empty(CUTS + 3, np.int64)
    boxes = np.empty(many, np.int32)
    depth_of = 4096
    todo = np.zeros((depth_of, 4), np.int64)  # first, last, where the pointer goes, how often it stands there
    regions = np.empty((depth_of, 2, dims), np.uint32)
    todo[0, 1], todo[0, 2] = many, -1
    regions[0, 0], regions[0, 1] = 0, tops
    depth, held, root = 1, 0, uint32(0)
    region = np.empty((2, dims), np.uint32)
    while depth > 0:
        depth -= 1
        first, last, to, times = todo[depth, 0], todo[depth, 1], todo[depth, 2], todo[depth, 3]
        region[:] = regions[depth]
        count = 0
        for k in range(first, last):
            box = pool[k]
            if gone[box]:
                continue
            boxes[count] = box
            count += 1
            if closed[box]:
                covers = True
                for d in range(dims):
                    if low[d, box] > region[0, d] or high[d, box] < region[1, d]:
                        covers = False
                        break
                if covers:
                    break
        top = first
        best_dim, best_count = -1, 0
        if count > LANES and held < full:
            best = 1e300
            most = min(CUTS, max(2, 3 * count // LANES))
            for d in range(dims):
                bounds = _bounds(low, high, boxes, 0, count, d, region[0, d], region[1, d], found)
                if bounds == 0:
                    continue
                chosen = _cuts(found, bounds, most, cuts)
                sizes[: chosen + 2] = 0
                for k in range(count):
                    box = boxes[k]
                    sizes[_part(cuts, chosen, max(low[d, box], region[0, d]))] += 1
                    sizes[_part(cuts, chosen, min(high[d, box], region[1, d])) + 1] -= 1
                now, total, squares = 0, 0.0, 0.0
                for k in range(chosen + 1):
                    now += sizes[k]
                    total += now
                    squares += float(now) * now
                score = squares / total * (total / count) ** 0.25
                if score < best:
                    best, best_dim, best_count = score, d, chosen
                    best_cuts[:chosen] = cuts[:chosen]
        if count == 0:
            pointer = uint32(0)
        elif best_dim < 0:
            held += count
            pointer = uint32(2 * (used // LINE) + 1)
            cells, used = put(low, high, rule, boxes[:count], cells, used)
        else:
            cells = _room(cells, used, 2 * LINE)
            pointer = uint32(2 * (used // LINE))
            d = best_dim
            if count > evict:
                for k in range(count):
                    box = boxes[k]
                    span = _part(best_cuts, best_count, min(high[d, box], region[1, d]))
                    span -= _part(best_cuts, best_count, max(low[d, box], region[0, d]))
                    if 2 * (span + 1) > best_count + 1 and span > 0:
                        gone[box] = 1
            cells[used : used + 2 * LINE] = 0
            cells[used] = d
            cells[used + 1] = rule[boxes[0]]
            for k in range(CUTS):
                cells[used + 2 + k] = best_cuts[k] if k < best_count else uint32(0xFFFFFFFF)
            for part in range(best_count + 1):
                start = top
                if top + count > pool.size:
                    larger = np.empty(2 * pool.size + count, np.int32)
                    larger[:top] = pool[:top]
                    pool = larger
                part_low = region[0, d] if part == 0 else best_cuts[part - 1]
                part_high = region[1, d] if part == best_count else best_cuts[part] - uint32(1)
                for k in range(count):
                    box = boxes[k]
                    if not gone[box] and low[d, box] <= part_high and high[d, box] >= part_low:
                        pool[top] = box
                        top += 1
                if depth + 1 >= depth_of:
                    depth_of *= 2
                    new_todo, new_regions = np.zeros((depth_of, 4), np.int64), np.empty((depth_of, 2, dims), np.uint32)
                    new_todo[:depth], new_regions[:depth] = todo[:depth], regions[:depth]
                    todo, regions = new_todo, new_regions
                todo[depth, 0], todo[depth, 1], todo[depth, 2] = start, top, used + LINE + part
                todo[depth, 3] = LINE - part if part == best_count else 1  # the last one stands behind all bounds that are none
                regions[depth] = region
                regions[depth, 0, d], regions[depth, 1, d] = part_low, part_high
                depth += 1
            used += 2 * LINE
        for k in range(to, to + times):
            cells[k] = pointer
        if to < 0:
            root = pointer
    left = np.flatnonzero(gone).astype(np.int32)
    return cells, used, root, left


class Grown(NamedTuple):
    """A classifier: where it begins in the cells, how many trees it has, what all takes, in bytes."""

    base: int
    trees: int
    size: int


def classify(
    boxes: Bounds, closed: NDArray[np.uint8], drawn: Bounds, fields: Sequence[int], cells: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], Grown]:
    """A classifier of boxes, put behind what is in `cells` already.

    Parameters
    ----------
    boxes : Bounds
        Of n boxes in D fields.
    closed : uint8[n]
        Whether nobody asks for rules behind this one where its box holds.
    drawn : Bounds
        The boxes for packets whose source port is in doubt: looked at one by one. May be none.
    fields : sequence of D int
        Numbers of packets.Field.
    cells : uint32[*]

    Returns
    -------
    cells : uint32[*]
        With the first of them on the border of a cache line.
    grown : Grown
    """
    best, packets = _forest(boxes, closed, drawn, fields, cells, EVICT), _somewhere(boxes)
    base = len(cells)
    cost = least = _cost(best, base, packets)
    for times in LARGER:
        if EVICT * times > 4 * len(boxes.rule) or cost > 2 * least:  # the same again, or worse still
            break
        found = _forest(boxes, closed, drawn, fields, cells, EVICT * times)
        cost = _cost(found, base, packets)
        if cost < least:
            best, least = found, cost
    found, trees = best
    used = len(found)
    room = np.empty(used + LINE, np.uint32)
    first = -(room.ctypes.data // 4) % LINE
    aligned = room[first : first + used]
    aligned[:] = found
    return aligned, Grown(base, trees, 4 * (used - base))


def _forest(
    boxes: Bounds, closed: NDArray[np.uint8], drawn: Bounds, fields: Sequence[int], cells: NDArray[np.uint32], evict: int
) -> tuple[NDArray[np.uint32], int]:
    """The cells with a classifier behind them, and how many trees it has."""
    low, high, rule, tops = boxes
    base = len(cells)
    found = np.concatenate([cells, np.zeros(HEAD, np.uint32)])
    given, used = np.arange(len(rule), dtype=np.int32), base + HEAD
    head = np.zeros(HEAD, np.int64)
    trees = 0
    while len(given):
        most = evict if trees < MAX_TREES - 1 else len(rule) + 1
        head[LEAST + trees] = rule[given[0]]
        found, used, root, given = grow(low, high, rule, closed, tops, given, most, FULL * len(rule), found, used)
        head[ROOTS + trees] = root
        trees += 1
    head[0], head[1], head[DRAWN] = len(fields), trees, used // LINE
    head[FIELDS_AT : FIELDS_AT + len(fields)] = fields
    if len(drawn.rule):
        everything = np.arange(len(drawn.rule), dtype=np.int32)
        found, used = put(drawn.low, drawn.high, drawn.rule, everything, found, used)
    found[base : base + HEAD] = head
    return found[:used], trees


def _somewhere(boxes: Bounds) -> NDArray[np.uint32]:
    """A packet somewhere in each of some boxes: uint32[D, SAMPLES]."""
    rng = np.random.default_rng(len(boxes.rule))
    some = rng.integers(0, len(boxes.rule), SAMPLES)
    low, high = boxes.low[:, some].astype(np.int64), boxes.high[:, some].astype(np.int64)
    return rng.integers(low, high + 1).astype(np.uint32)


def _cost(forest: tuple[NDArray[np.uint32], int], base: int, packets: NDArray[np.uint32]) -> float:
    """What finding takes, to compare: lines looked at, dearer where they are not all in a cache (as measured, Zen 4)."""
    found, _ = forest
    return float(visits(found, base, packets) * (1 + np.log2(1 + 4 * (len(found) - base) / CACHED) / 4))


def scan(low: NDArray[np.uint32], high: NDArray[np.uint32], rule: NDArray[np.int32], packet: Sequence[int], start: int) -> int:
    """What `find` finds, by looking at all boxes: the first rule from `start` on of which one holds the packet; NONE."""
    held = np.all((low <= np.array(packet)[:, None]) & (np.array(packet)[:, None] <= high), axis=0) & (rule >= start)
    return int(rule[np.argmax(held)]) if held.any() else NONE
