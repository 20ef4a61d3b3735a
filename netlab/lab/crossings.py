"""Devices that a packet crosses, seen and predicted: every frame that a packet socket of a namespace shows, against the steps.

    Transmitted, Received, Bridged, Encapsulated, Decapsulated  =  dev_queue_xmit and __netif_receive_skb of a device, in order

Law: a crossing is a device, a direction, and the packet as it is there: protocol, flags or ICMP type, addresses, ports. A port
that netlab calls random (`*`) fits any; nothing else is forgiven. ARP, neighbour discovery and multicast reports are left out,
and frames for other hosts, which a bridge floods.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from netlab.lab.frames import decode
from netlab.lab.kernel_trace import is_housekeeping
from netlab.linux.netns import Netns
from netlab.linux.packet import Packet
from netlab.trace.skb import header
from netlab.trace.steps import AnyStep, Bridged, Decapsulated, Encapsulated, Header, Hop, Received, Sent, Transmitted

End = tuple[str, str, int]  # protocol, address, port or id

IP_TYPES = (0x0800, 0x86DD)
OUTGOING, OTHERHOST = 4, 3  # sockaddr_ll.sll_pkttype (<linux/if_packet.h>)


class Crossing(msgspec.Struct, frozen=True):
    """A packet on a device: "in" or "out"; a port is None where it is one of many, or where the protocol has none."""

    device: str
    direction: str
    protocol: str
    flags: str
    source: str
    destination: str
    sport: int | None = None
    dport: int | None = None

    def __str__(self) -> str:
        ends = [
            f"[{a}]:{port}" if ":" in a else f"{a}:{port}"
            for a, port in ((self.source, self.sport), (self.destination, self.dport))
        ] if self.protocol in ("TCP", "UDP", "SCTP") else [self.source, self.destination]
        flags = f" {self.flags}" if self.flags else ""
        return f"{self.direction} {self.device}: {self.protocol}{flags} {' > '.join(ends)}".replace(":None", ":*")

    def fits(self, seen: Crossing) -> bool:
        """Is what was seen this crossing?"""
        ours = (self.device, self.direction, self.protocol, self.flags, self.source, self.destination)
        theirs = (seen.device, seen.direction, seen.protocol, seen.flags, seen.source, seen.destination)
        return ours == theirs and all(
            a is None or a == b for a, b in ((self.sport, seen.sport), (self.dport, seen.dport))
        )


class Parted(msgspec.Struct, frozen=True):
    """The first crossing (from 0) on which both sides differ."""

    number: int
    said: Crossing | None
    found: Crossing | None


def seen_crossings(netns: Netns, frames: Sequence[Sequence[object]]) -> list[Crossing]:
    """The frames of watching.py: name of the device, EtherType, sll_pkttype, the bytes from the IP header on."""
    found = []
    for name, kind, packet in _packets(frames):
        if is_housekeeping(packet):
            continue
        device = netns.devices.get(str(name))
        if kind == OTHERHOST and (device is None or device.master is None):
            continue
        found.append(_crossing(str(name), "out" if kind == OUTGOING else "in", header(packet), frozenset()))
    return found


def kept_house(frames: Sequence[Sequence[object]]) -> bool:
    """Is there neighbour discovery, a multicast report or their like among the frames?"""
    return any(is_housekeeping(packet) for _, _, packet in _packets(frames))


def _packets(frames: Sequence[Sequence[object]]) -> Iterator[tuple[object, object, Packet]]:
    for name, ethertype, kind, data in frames:
        packet = decode(base64.b64decode(str(data))) if ethertype in IP_TYPES else None
        if packet is not None:
            yield name, kind, packet


def predicted_crossings(hops: Iterable[Hop]) -> dict[str, list[Crossing]]:
    """What the steps of a walk say, by namespace."""
    hops = tuple(hops)
    drawn = drawn_ends(hops)
    found: dict[str, list[Crossing]] = {}
    for hop in hops:
        for step in hop.steps:
            found.setdefault(hop.where, []).extend(step_crossings(step, hop.where, drawn))
    return {where: made for where, made in found.items() if made}


def step_crossings(step: AnyStep, where: str, drawn: frozenset[End]) -> list[Crossing]:
    """The frames that a step in namespace `where` is: none, one, or on lo two."""
    match step:
        case Transmitted(device=device, packet=packet, to=to):
            out = _crossing(device, "out", packet, drawn)
            return [out, _crossing(device, "in", packet, drawn)] if to == f"{where}/{device}" else [out]  # lo
        case Received(device=device, packet=packet):
            return [_crossing(device, "in", packet, drawn)]
        case Bridged(bridge=bridge, port_in=port_in, packet=Header() as packet) if port_in == bridge:
            return [_crossing(bridge, "out", packet, drawn)]
        case Bridged(bridge=bridge, port_out=port_out, packet=Header() as packet) if port_out == bridge:
            return [_crossing(bridge, "in", packet, drawn)]
        case Encapsulated(device="IPVS"):  # its own xmit, no device's (ip_vs_tunnel_xmit)
            return []
        case Encapsulated(device=device, outer=Header(inner=Header() as inner)):
            return [_crossing(device, "out", inner, drawn)]
        case Decapsulated(device=device, inner=inner):
            return [_crossing(device, "in", inner, drawn)]
        case _:
            return []


def drawn_ends(hops: Iterable[Hop]) -> frozenset[End]:
    """The ends whose port (or id) a random choice made: answers to them carry a port that is not known."""
    return frozenset(
        (h.protocol, h.source, h.sport) for hop in hops for step in hop.steps for h in _headers(step) if h.sport_random
    )


def first_parting(said: Sequence[Crossing], found: Sequence[Crossing]) -> Parted | None:
    """Where two sequences part first; None where they are the same."""
    for n in range(max(len(said), len(found))):
        a = said[n] if n < len(said) else None
        b = found[n] if n < len(found) else None
        if a is None or b is None or not a.fits(b):
            return Parted(n, a, b)
    return None


def _headers(step: object) -> list[Header]:
    match step:
        case Sent(packet=packet) | Transmitted(packet=packet) | Received(packet=packet):
            return [packet]
        case Encapsulated(outer=outer):
            return [outer, *([outer.inner] if outer.inner is not None else [])]
        case Decapsulated(inner=inner):
            return [inner]
        case _:
            return []


def _crossing(device: str, direction: str, packet: Header, drawn: frozenset[End]) -> Crossing:
    ports = packet.protocol in ("TCP", "UDP", "SCTP")
    sport = None if packet.sport_random or (packet.protocol, packet.source, packet.sport) in drawn else packet.sport
    dport = None if (packet.protocol, packet.destination, packet.dport) in drawn else packet.dport
    return Crossing(
        device,
        direction,
        packet.protocol,
        packet.flags,
        packet.source,
        packet.destination,
        sport if ports else None,
        dport if ports else None,
    )


