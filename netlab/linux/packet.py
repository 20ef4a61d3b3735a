"""Packet: the header values that decide a packet's fate, immutable.

Law: a Packet is what is on the wire, plus what the kernel keeps in the skb and that survives inside one network
namespace (`mark`). Connection tracking state is not here: each namespace has its own view of it (conntrack.py).
Lengths are bytes of the IP packet, header included.
"""

from __future__ import annotations

import msgspec

from netlab.linux.addr import Ip

ICMP, TCP, UDP, IPIP, ICMPV6, SCTP = 1, 6, 17, 4, 58, 132
PROTOCOL_NAMES = {ICMP: "icmp", TCP: "tcp", UDP: "udp", IPIP: "ipencap", ICMPV6: "icmpv6", SCTP: "sctp"}
PROTOCOL_NUMBERS = {name: number for number, name in PROTOCOL_NAMES.items()}

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32

ECHO_REPLY, UNREACHABLE, ECHO_REQUEST, TIME_EXCEEDED = 0, 3, 8, 11  # RFC 792
V6_UNREACHABLE, V6_TOO_BIG, V6_TIME_EXCEEDED, V6_ECHO_REQUEST, V6_ECHO_REPLY = 1, 2, 3, 128, 129  # RFC 4443


class Flow(msgspec.Struct, frozen=True, gc=False):
    """One direction of a connection: the conntrack tuple (for ICMP echo, sport is the id and dport the type)."""

    protocol: int
    src: Ip
    sport: int
    dst: Ip
    dport: int

    def reversed(self) -> Flow:
        dport = self.sport
        sport = self.dport
        if self.protocol in (ICMP, ICMPV6):  # nf_conntrack_proto_icmp.c: the id stays, the type is inverted
            return Flow(self.protocol, self.dst, self.sport, self.src, _ICMP_INVERSE.get(self.dport, self.dport))
        return Flow(self.protocol, self.dst, sport, self.src, dport)

    def __str__(self) -> str:
        if self.protocol in (ICMP, ICMPV6):
            return f"{self.src} > {self.dst}"
        return f"{self.src.port(self.sport)} > {self.dst.port(self.dport)}"


_ICMP_INVERSE = {8: 0, 0: 8, 128: 129, 129: 128, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}


class Packet(msgspec.Struct, frozen=True):
    """A packet.

    `sport`/`dport` are 0 where the protocol has none; `icmp_id` is the echo identifier; `tcp_flags` the low six bits of the
    flags byte; `sport_random` says that a NAT rule with --random/--random-fully chose the port, so that its value is one of
    many; `quoted` is the packet that an ICMP error speaks of; `inner` the packet that a tunnel carries (`vni` for VXLAN);
    `flow_hash` stands for skb->hash, which tunnels draw their source port from: 0 before anybody asked for it.
    """

    src: Ip
    dst: Ip
    protocol: int
    sport: int = 0
    dport: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    icmp_id: int = 0
    tcp_flags: int = 0
    ttl: int = 64
    length: int = 60
    df: bool = True
    mark: int = 0
    sport_random: bool = False
    quoted: Packet | None = None
    inner: Packet | None = None
    vni: int | None = None
    src_mac: str = ""
    dst_mac: str = ""
    flow_hash: int = 0

    @property
    def family(self) -> int:
        return self.src.family

    @property
    def flow(self) -> Flow:
        if self.protocol in (ICMP, ICMPV6):
            return Flow(self.protocol, self.src, self.icmp_id, self.dst, self.icmp_type)
        return Flow(self.protocol, self.src, self.sport, self.dst, self.dport)

    @property
    def is_icmp_error(self) -> bool:
        return self.quoted is not None

    def __str__(self) -> str:
        return self.flow.__str__()


def protocol_name(number: int) -> str:
    """`tcp` for 6; the number itself where it has no name here."""
    return PROTOCOL_NAMES.get(number, str(number))
