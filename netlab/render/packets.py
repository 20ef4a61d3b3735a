"""A packet as the layers that a device sees, from the outside in, and what a step changed of it.

    Ethernet 14 | IP 20 | UDP 8 | VXLAN 8 | Ethernet 14 | IP 20 | TCP 40      124 bytes on the wire

Law: pure; every number is a header's length in bytes or a field of the trace's own Header. Two packets are compared from the
inside out, so that a tunnel's headers are `added` and `removed` and what they carry stays what it is.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Literal

import msgspec

from netlab.trace.steps import Header

ETHERNET, UDP, VXLAN, ICMP, SCTP = 14, 8, 8, 8, 12
IPV4, IPV6 = 20, 40
TCP_SYN, TCP = 40, 32  # with the options that Linux sends: MSS, SACK, timestamps, window scale; later timestamps alone

Change = Literal["same", "changed", "added", "removed"]


class Layer(msgspec.Struct, frozen=True):
    """One header: its name, its bytes, and its fields as (name, value) in words."""

    name: str
    size: int
    fields: tuple[tuple[str, str], ...] = ()


class Field(msgspec.Struct, frozen=True, omit_defaults=True):
    """A field before and after; `old` is absent where nothing changed."""

    name: str
    new: str
    old: str | None = None


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """A layer before and after."""

    name: str
    size: int
    change: Change
    fields: tuple[Field, ...] = ()


def layers(header: Header) -> tuple[Layer, ...]:
    """The layers of a packet, outermost first; Ethernet where the MACs are known.

    >>> [layer.name for layer in layers(Header("UDP", "10.0.0.1", "10.0.0.2", 1, 53, length=60))]
    ['IPv4', 'UDP', 'data']
    """
    return tuple(_layers(header))


def wire_size(packet: tuple[Layer, ...]) -> int:
    """Bytes, without what only exists inside a machine."""
    return sum(layer.size for layer in packet)


def compare(before: tuple[Layer, ...], after: tuple[Layer, ...]) -> tuple[Row, ...]:
    """What became of each layer, outermost first.

    Layers are paired from the inside: what only one of the two packets has outside of that was removed or added.
    """
    rows: list[Row] = []
    pairs = _pairs(before, after)
    for old, new in pairs:
        if new is None:
            assert old is not None
            rows.append(Row(old.name, old.size, "removed", tuple(Field(name, value) for name, value in old.fields)))
        elif old is None:
            rows.append(Row(new.name, new.size, "added", tuple(Field(name, value) for name, value in new.fields)))
        else:
            fields = _fields(old, new)
            changed = any(field.old is not None for field in fields)
            rows.append(Row(new.name, new.size, "changed" if changed else "same", fields))
    return tuple(rows)


def _pairs(before: tuple[Layer, ...], after: tuple[Layer, ...]) -> list[tuple[Layer | None, Layer | None]]:
    """Layers of one name are one layer, from the inside out; a frame's Ethernet header comes and goes with the wire."""
    pairs: list[tuple[Layer | None, Layer | None]] = []
    for old, new in zip_longest(reversed(before), reversed(after)):
        if old is not None and new is not None and old.name != new.name:
            pairs += [(None, new), (old, None)]
        else:
            pairs.append((old, new))
    return pairs[::-1]


def _fields(old: Layer, new: Layer) -> tuple[Field, ...]:
    was = dict(old.fields)
    now = dict(new.fields)
    fields = [Field(n, v, was.get(n, "none") if was.get(n) != v else None) for n, v in new.fields]
    return (*fields, *(Field(n, "none", v) for n, v in old.fields if n not in now))


def _layers(h: Header) -> list[Layer]:
    found: list[Layer] = []
    if h.src_mac or h.dst_mac:
        found.append(Layer("Ethernet", ETHERNET, (("source MAC", h.src_mac or "?"), ("destination MAC", h.dst_mac or "?"))))
    v6 = ":" in h.source
    ip = IPV6 if v6 else IPV4
    fields = [("source", h.source), ("destination", h.destination), ("TTL" if not v6 else "hop limit", str(h.ttl))]
    fields.append(("length", f"{h.length} bytes"))
    found.append(Layer("IPv6" if v6 else "IPv4", ip, tuple(fields)))
    rest = max(0, h.length - ip)
    if h.inner is not None and h.vni is None:  # IP in IP: the next header is the inner one at once
        return [*found, *_layers(h.inner)]
    found += _transport(h, rest)
    if h.inner is not None:
        found.append(Layer("VXLAN", VXLAN, (("VNI", str(h.vni)),)))
        found += _layers(h.inner)
    if h.quoted is not None:
        found += [Layer(f"quoted {layer.name}", 0, layer.fields) for layer in _layers(h.quoted)]
    return found


def _transport(h: Header, rest: int) -> list[Layer]:
    ports = (("source port", "random" if h.sport_random else str(h.sport)), ("destination port", str(h.dport)))
    match h.protocol:
        case "TCP":
            size = min(rest, TCP_SYN if "SYN" in h.flags else TCP)
            fields: tuple[tuple[str, str], ...] = (*ports, ("flags", h.flags or "none"))
        case "UDP":
            size, fields = min(rest, UDP), ports
        case "SCTP":
            size, fields = min(rest, SCTP), ports
        case _:
            size, fields = min(rest, ICMP), (("type", h.flags),) if h.flags else ()
    found = [Layer(h.protocol, size, fields)]
    if rest > size and h.inner is None and h.quoted is None:
        found.append(Layer("data", rest - size))
    return found
