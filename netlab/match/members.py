"""Sets as levels of hash tables, for MEMBER atoms: of ipset, and of nft where every element is a product of prefixes.

    hash:net 10.0.0.0/8, 10.1.2.0/24 nomatch   -->   Level (dst/24: 10.1.2.0 -> 1), Level (dst/8: 10.0.0.0 -> 0)
    ip daddr . tcp dport { 10.0.0.0/8 . 80-83 }  -->   Level (dst/8, dport/14: 10.0.0.0 . 80 -> 0)

Law: the most specific level that has the packet's key decides; its value is 1 for `nomatch`, else 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Final, NamedTuple

from netlab.linux import nft as n
from netlab.linux.addr import mask_of
from netlab.linux.netns import Netns
from netlab.linux.nft import Element, Expression
from netlab.linux.packet import ICMP, ICMPV6, SCTP, TCP, UDP
from netlab.linux.text import nft_words as words
from netlab.match import nft
from netlab.match.ipset import _index_of
from netlab.match.packets import Field

U32: Final = 0xFFFFFFFF
MAX_KEYS: Final = 100_000  # of a set, once its ranges are prefixes
MAX_LEVELS: Final = 64
_TRANSPORT: Final = {"tcp": TCP, "udp": UDP, "sctp": SCTP, "icmp": ICMP, "icmpv6": ICMPV6}


class Level(NamedTuple):
    """Keys that ask for the same fields under the same masks, and the value of each."""

    shape: tuple[tuple[int, int], ...]  # (field, mask)
    keys: list[tuple[int, ...]]
    values: list[int]


def ipset_levels(netns: Netns, family: int, name: str, dims: tuple[str, ...]) -> list[Level]:
    """An ipset as it is asked for a packet's `dims` ("src", "dst")."""
    index = _index_of(netns, netns.sets[name])
    bits = 32 if family == 4 else 128
    found: list[Level] = []
    for lengths, elements in index.levels:
        shape: list[tuple[int, int]] = []
        given = iter(lengths)
        for part, dim in zip(index.parts, dims, strict=False):
            side = Field.SRC if dim == "src" else Field.DST
            if part != "port":
                mask = mask_of(family, next(given)) & index.netmask
                shape += [(side + word, mask >> 32 * word & U32) for word in range(bits // 32)]
        for part, dim in zip(index.parts, dims, strict=False):
            if part == "port":
                shape += [(Field.PROTOCOL, U32)] if len(index.parts) > 1 else []
                shape.append((Field.SET_SPORT if dim == "src" else Field.SET_DPORT, U32))
        keys: list[tuple[int, ...]] = []
        for element in elements:
            key: list[int] = []
            for length, number in zip(lengths, element, strict=False):
                assert isinstance(number, int)
                key += [(number << (bits - length)) >> 32 * word & U32 for word in range(bits // 32)]
            for other in element[len(lengths) :]:
                key += other if isinstance(other, tuple) else [other]  # type: ignore[list-item]
            keys.append(tuple(key))
        found.append(Level(tuple(shape), keys, [int(nomatch) for nomatch in elements.values()]))
    return found


class Axis(NamedTuple):
    """A part of a key as a field of packets, `bits` wide and shifted there; `protocol`: it is there in packets of that one alone
    (0: of those with ports, which `th` reads)."""

    field: int
    bits: int
    shift: int = 0
    protocol: int | None = None


def axis(part: Expression, family: int) -> Axis | None:
    """The field that a part of a key reads; None where there is none for it."""
    match part:
        case n.Payload(protocol=("ip" | "ip6") as protocol, field=("saddr" | "daddr") as field):
            if (protocol == "ip") is not (family == 4):
                return None
            return Axis(Field.SRC if field == "saddr" else Field.DST, 32 if family == 4 else 128)
        case n.Payload(protocol=("icmp" | "icmpv6") as protocol, field=("type" | "code") as field):
            return Axis(Field.ICMP, 8, 8 if field == "type" else 0, _TRANSPORT[protocol])
        case n.Payload(protocol=("tcp" | "udp" | "sctp" | "th") as protocol, field=("sport" | "dport") as field):
            return Axis(Field.SPORT if field == "sport" else Field.DPORT, 16, 0, _TRANSPORT.get(protocol, 0))
        case n.Payload(protocol=("ip" | "ip6") as protocol, field=("protocol" | "nexthdr")):
            return Axis(Field.PROTOCOL, 8) if (protocol == "ip") is (family == 4) else None
        case n.Meta(key="l4proto"):
            return Axis(Field.PROTOCOL, 8)
        case n.Meta(key="iifname"):
            return Axis(Field.INDEV, 0)
        case n.Meta(key="oifname"):
            return Axis(Field.OUTDEV, 0)
        case _:
            return None


def nft_levels(
    key: Sequence[Expression], elements: Sequence[Element], family: int, netns: Netns, device: Callable[[str], int]
) -> list[Level] | None:
    """A set of nft; `device` gives the number of a device. None where an element is no product of prefixes, or of too many."""
    axes = [axis(part, family) for part in key]
    kinds = [words.datatype(part) for part in key]
    levels: dict[tuple[tuple[int, int], ...], dict[tuple[int, ...], None]] = {}
    count = 0
    for element in elements:
        of = element.key.parts if isinstance(element.key, n.Concat) else (element.key,)
        if element.key == n.Value("*") or len(of) != len(axes):
            return None
        choices: list[list[tuple[tuple[tuple[int, int], ...], tuple[int, ...]]]] = []
        for part, kind, each in zip(of, kinds, axes, strict=True):
            if each is None:
                return None
            try:
                low, high = nft.constant(part, kind, netns)
            except nft.Doubt:
                return None
            if not each.bits:
                if low != high:
                    return None
                name = low.to_bytes(16, "big").rstrip(b"\0").decode(errors="replace")
                choices.append([(((each.field, U32),), (device(name),))])
                continue
            if high >> each.bits:
                return None
            choices.append([_words(each, number, mask) for number, mask in prefixes(low, high, each.bits)])
        for combined in product(*choices):
            count += 1
            if count > MAX_KEYS:
                return None
            shape = tuple(pair for pairs, _ in combined for pair in pairs)
            levels.setdefault(shape, {})[tuple(number for _, numbers in combined for number in numbers)] = None
    if len(levels) > MAX_LEVELS:
        return None
    return [Level(shape, list(keys), [0] * len(keys)) for shape, keys in levels.items()]


def _words(each: Axis, number: int, mask: int) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    fields = range((each.bits + 31) // 32)
    return (
        tuple((each.field + word, mask << each.shift >> 32 * word & U32) for word in fields),
        tuple(number << each.shift >> 32 * word & U32 for word in fields),
    )


def prefixes(low: int, high: int, bits: int) -> list[tuple[int, int]]:
    """A range as prefixes: (number, mask) of each.

    >>> [(number, f"{mask:04x}") for number, mask in prefixes(80, 90, 16)]
    [(80, 'fff8'), (88, 'fffe'), (90, 'ffff')]
    """
    found: list[tuple[int, int]] = []
    whole = (1 << bits) - 1
    while low <= high:
        size = low & -low or 1 << bits
        while size > high - low + 1:
            size >>= 1
        found.append((low, whole & ~(size - 1)))
        low += size
    return found
