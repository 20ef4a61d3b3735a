"""Conntrack entries, seen and predicted: the kernel's table after a flow (ctnetlink) against the connections of the walk.

Law: compared are both tuples, the zone, the mark, and the status bits that netlab knows (seen reply, assured, SNAT, DNAT) of
every entry of a namespace; ports and ids that netlab calls random fit any. Entries about neighbour discovery do not exist
(they are untracked), those of multicast reports are left out. Source: <linux/netfilter/nfnetlink_conntrack.h>.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from netlab.lab.crossings import End
from netlab.lab.netlink import Attributes, attributes, message, number
from netlab.linux.addr import Ip
from netlab.linux.conntrack import Connection
from netlab.linux.packet import ICMP, ICMPV6, PROTOCOL_NUMBERS, SCTP, TCP, UDP, Flow, protocol_name
from netlab.trace.netfilter import ZonedTuple

# enum ctattr_type, ctattr_tuple, ctattr_ip, ctattr_l4proto; enum ip_conntrack_status
_ORIG, _REPLY, _STATUS, _MARK, _ZONE = 1, 2, 3, 8, 18
_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE = 1, 2, 3
_IP_SRC, _IP_DST, _IP6_SRC, _IP6_DST = 1, 2, 3, 4
_PROTO_NUM, _PROTO_SPORT, _PROTO_DPORT, _ICMP_ID, _ICMP_TYPE, _ICMP6_ID, _ICMP6_TYPE = 1, 2, 3, 4, 5, 7, 8
STATUSES = {1 << 1: "seen reply", 1 << 2: "assured", 1 << 4: "snat", 1 << 5: "dnat"}
_CONFIRMED = 1 << 3

ANY = -1  # a port or id that is one of many


class Entry(msgspec.Struct, frozen=True, order=True):
    """One entry as both sides tell it: tuples (protocol, source, sport or id, destination, dport or type), the rest as text."""

    original: tuple[int, str, int, str, int]
    reply: tuple[int, str, int, str, int]
    zone: int = 0
    mark: int = 0
    status: tuple[str, ...] = ()

    def __str__(self) -> str:
        zone = f" zone {self.zone}" if self.zone else ""
        mark = f" mark {self.mark:#x}" if self.mark else ""
        status = f" [{', '.join(self.status)}]" if self.status else ""
        name = protocol_name(self.original[0])
        return f"{name} {_text(self.original)}, replies {_text(self.reply)}{zone}{mark}{status}"

    def fits(self, seen: Entry) -> bool:
        """Is the kernel's entry this one?"""
        rest = (self.zone, self.mark, self.status) == (seen.zone, seen.mark, seen.status)
        return rest and _fits(self.original, seen.original) and _fits(self.reply, seen.reply)


def seen_entries(messages: Iterable[str]) -> list[Entry]:
    """The entries of a dump (IPCTNL_MSG_CT_NEW messages) that are confirmed and about unicast addresses."""
    found = []
    for raw in messages:
        _, _, given = message(raw)
        original, zone = _tuple(attributes(given.get(_ORIG, b"")))
        reply, other = _tuple(attributes(given.get(_REPLY, b"")))
        bits = number(given.get(_STATUS))
        if original.dst.is_multicast or not bits & _CONFIRMED:
            continue
        status = tuple(name for bit, name in STATUSES.items() if bits & bit)
        number_of_zone = number(given.get(_ZONE)) or zone or other
        found.append(Entry(_plain(original), _plain(reply), number_of_zone, number(given.get(_MARK)), status))
    return sorted(found)


def predicted_entries(table: Mapping[ZonedTuple, tuple[Connection, bool]], drawn: Iterable[End]) -> list[Entry]:
    """The connections that a walk left in a namespace. `drawn`: ends whose port a random choice made, on any node."""
    random = frozenset((PROTOCOL_NUMBERS.get(name.lower(), 0), address, port) for name, address, port in drawn)
    found: dict[Entry, None] = {}  # a tunnel's outer packets have a source port per inner flow: those fit one entry
    for connection in {id(connection): connection for connection, _ in table.values()}.values():
        flags = (connection.seen_reply, connection.assured, connection.snat, connection.dnat)
        status = tuple(name for name, flag in zip(STATUSES.values(), flags, strict=True) if flag)
        original = _with_any(_plain(connection.original), random)
        reply = _with_any(_plain(connection.reply), random)
        if connection.random_port and connection.snat:
            reply = (*reply[:4], ANY) if reply[0] not in (ICMP, ICMPV6) else (*reply[:2], ANY, *reply[3:])
        found[Entry(original, reply, connection.zone, connection.mark, status)] = None
    return sorted(found)


def differences(said: Sequence[Entry], found: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Predicted entries that no entry of the kernel fits, and entries of the kernel that fit no predicted one."""
    unmet = [entry for entry in said if not any(entry.fits(seen) for seen in found)]
    unsaid = [seen for seen in found if not any(entry.fits(seen) for entry in said)]
    return unmet, unsaid


def _tuple(given: Attributes) -> tuple[Flow, int]:
    address, proto = attributes(given.get(_TUPLE_IP, b"")), attributes(given.get(_TUPLE_PROTO, b""))
    family = 4 if _IP_SRC in address else 6
    src, dst = (number(address.get(kind)) for kind in ((_IP_SRC, _IP_DST) if family == 4 else (_IP6_SRC, _IP6_DST)))
    protocol = number(proto.get(_PROTO_NUM))
    if protocol in (ICMP, ICMPV6):
        ports = (_ICMP_ID, _ICMP_TYPE) if protocol == ICMP else (_ICMP6_ID, _ICMP6_TYPE)
    else:
        ports = (_PROTO_SPORT, _PROTO_DPORT)
    sport, dport = (number(proto.get(kind)) for kind in ports)
    flow = Flow(protocol, Ip(family, src), sport, Ip(family, dst), dport)
    return flow, number(given.get(_TUPLE_ZONE))


def _plain(flow: Flow) -> tuple[int, str, int, str, int]:
    ports = flow.protocol in (TCP, UDP, SCTP, ICMP, ICMPV6)
    return flow.protocol, str(flow.src), flow.sport if ports else 0, str(flow.dst), flow.dport if ports else 0


def _with_any(
    plain: tuple[int, str, int, str, int], drawn: frozenset[tuple[int, str, int]]
) -> tuple[int, str, int, str, int]:
    protocol, src, sport, dst, dport = plain
    if protocol in (ICMP, ICMPV6):
        return protocol, src, ANY, dst, dport
    return (
        protocol,
        src,
        ANY if (protocol, src, sport) in drawn else sport,
        dst,
        ANY if (protocol, dst, dport) in drawn else dport,
    )


def _fits(said: tuple[int, str, int, str, int], seen: tuple[int, str, int, str, int]) -> bool:
    return all(a in (ANY, b) for a, b in zip(said, seen, strict=True))


def _text(plain: tuple[int, str, int, str, int]) -> str:
    protocol, src, sport, dst, dport = plain
    if protocol in (ICMP, ICMPV6):
        return f"{src} > {dst} type {dport}"
    if protocol not in (TCP, UDP, SCTP):
        return f"{src} > {dst}"
    left, right = (f"[{a}]" if ":" in a else a for a in (src, dst))
    return f"{left}:{'*' if sport == ANY else sport} > {right}:{'*' if dport == ANY else dport}"
