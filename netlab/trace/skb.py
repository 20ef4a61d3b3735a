"""Skb: a packet on its way through one namespace, with what the kernel remembers about it (struct sk_buff)."""

from __future__ import annotations

from dataclasses import dataclass

from netlab.linux.addr import Ip
from netlab.linux.conntrack import CtView
from netlab.linux.netns import Netns, ProxySocket
from netlab.linux.packet import (
    ACK,
    ECHO_REPLY,
    ECHO_REQUEST,
    FIN,
    ICMP,
    ICMPV6,
    PSH,
    RST,
    SYN,
    TIME_EXCEEDED,
    UNREACHABLE,
    URG,
    V6_ECHO_REPLY,
    V6_ECHO_REQUEST,
    V6_TIME_EXCEEDED,
    V6_TOO_BIG,
    V6_UNREACHABLE,
    Packet,
    protocol_name,
)
from netlab.linux.route import Found
from netlab.trace.steps import Header


@dataclass(slots=True)
class Skb:
    """`bridge_prerouted`: br_netfilter has run PREROUTING already (nf_bridge info); `physin` the bridge port it came through.

    `routed` is the route that is attached (skb_dst); `reroute` the packet as it was when OUTPUT last asked for its route again
    (ip_route_me_harder). `local`: made here; `socket`: a socket stands behind it (skb_to_full_sk). Until connection tracking
    looks: `zone` set by `-j CT`, `zone_direction` the direction it is for ("": both), `untracked` set by NOTRACK, `template`
    what a rule sees meanwhile (the rule's template, or UNTRACKED).
    """

    packet: Packet
    netns: Netns
    indev: str = ""
    ct: CtView | None = None
    untracked: bool = False
    zone: int = 0
    zone_direction: str = ""
    template: CtView | None = None
    routed: Found | None = None
    reroute: Packet | None = None
    local: bool = False
    socket: bool = False
    physin: str = ""
    physout: str = ""
    bridge_prerouted: bool = False
    ipvs: bool = False  # skb->ipvs_property: IPVS has done with it


@dataclass(slots=True)
class Outcome:
    """How one direction of a walk ended.

    `kind`: delivered, dropped, rejected or unknown. `answer` is the ICMP error or reset that was made, to be walked back from
    `netns`; `answer_ct` the connection that the kernel attached to it (nf_ct_attach).
    """

    kind: str
    reason: str
    netns: str
    packet: Packet | None = None
    owner: str = ""
    assumed: bool = False
    answer: Packet | None = None
    answer_ct: CtView | None = None
    answer_socket: bool = True  # the answer is sent through a socket of the kernel's: `-m owner --socket-exists` holds for it
    answer_port: str = ""  # the answer leaves through this bridge port, past all hooks
    told: bool = False  # its last step is written down
    proxy: ProxySocket | None = None  # it reached a socket of kube-proxy's, which passes it on
    is_answer: bool = False  # an ICMP error that reached the sender of the packet it quotes


_FLAGS = ((SYN, "SYN"), (ACK, "ACK"), (FIN, "FIN"), (RST, "RST"), (PSH, "PSH"), (URG, "URG"))

_UNREACHABLE_CODES = {
    0: "net unreachable",
    1: "host unreachable",
    2: "protocol unreachable",
    3: "port unreachable",
    4: "fragmentation needed",
    9: "net prohibited",
    10: "host prohibited",
    13: "admin prohibited",
}
_V6_UNREACHABLE_CODES = {
    0: "no route",
    1: "admin prohibited",
    3: "address unreachable",
    4: "port unreachable",
    5: "policy fail",
    6: "reject route",
}


def icmp_text(packet: Packet) -> str:
    """The ICMP type and code in words."""
    kind, code = packet.icmp_type, packet.icmp_code
    if packet.protocol == ICMP:
        words = {ECHO_REPLY: "echo reply", ECHO_REQUEST: "echo request", TIME_EXCEEDED: "time exceeded"}
        if kind == UNREACHABLE:
            return _UNREACHABLE_CODES.get(code, f"unreachable code {code}")
    else:
        words = {
            V6_ECHO_REQUEST: "echo request",
            V6_ECHO_REPLY: "echo reply",
            V6_TOO_BIG: "packet too big",
            V6_TIME_EXCEEDED: "time exceeded",
        }
        if kind == V6_UNREACHABLE:
            return _V6_UNREACHABLE_CODES.get(code, f"unreachable code {code}")
    return words.get(kind, f"type {kind} code {code}")


def header(packet: Packet, inner: Header | None = None) -> Header:
    """The packet as a step shows it; `inner` is the shown form of the packet that it carries."""
    if packet.protocol in (ICMP, ICMPV6):
        flags = icmp_text(packet)
    else:
        flags = ",".join(name for bit, name in _FLAGS if packet.tcp_flags & bit)
    return Header(
        protocol=protocol_name(packet.protocol).upper(),
        source=str(packet.src),
        destination=str(packet.dst),
        sport=packet.sport,
        dport=packet.dport,
        flags=flags,
        ttl=packet.ttl,
        length=packet.length,
        mark=packet.mark,
        sport_random=packet.sport_random,
        src_mac=packet.src_mac,
        dst_mac=packet.dst_mac,
        vni=packet.vni,
        inner=inner,
        quoted=header(packet.quoted) if packet.quoted is not None else None,
        df=packet.df or packet.family == 6,
    )


def socket_text(ip: Ip, port: int) -> str:
    """`10.0.0.1:80`, or the address alone where the protocol has no ports."""
    return ip.port(port) if port else str(ip)
