"""View: everything that a match may ask about a packet at one hook; Answer: what it may say.

Law: a match is a function of its View. Three kinds of answer: it holds or not; it holds with a known probability
(Chance); it cannot be decided from what netlab knows (Undecided, with the reason).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import msgspec

from netlab.linux.conntrack import CtView
from netlab.linux.ipvs_connections import IpvsConnections
from netlab.linux.netns import Netns, RouteType
from netlab.linux.nft import Element
from netlab.linux.packet import ICMP, ICMPV6, Flow, Packet
from netlab.linux.route import address_type
from netlab.linux.rules import Hook


class Chance(msgspec.Struct, frozen=True):
    """The match holds with this probability (`statistic`)."""

    probability: Fraction


def nice(probability: Fraction) -> Fraction:
    """The simple fraction that a rule's writer meant.

    kube-proxy writes 1/3 as 0.3333333333, the kernel keeps 31 bits of it (xt_statistic.c); within that rounding the simple
    fraction is the intended one. Anything else is returned as it is.
    """
    simple = probability.limit_denominator(10_000)
    return simple if abs(simple - probability) < Fraction(1, 10**9) else probability


class Undecided(msgspec.Struct, frozen=True):
    """netlab cannot know; `reason` says why in a few words."""

    reason: str


Answer = bool | Chance | Undecided


@dataclass(slots=True)
class View:
    """A packet at a hook of a namespace.

    Devices are names, "" where there is none at this hook; `physin`/`physout` are bridge ports of a bridged packet
    (br_netfilter). `recent` holds (list name, address) pairs that the walk has added; lists start empty. `local` says that
    a socket of this namespace sent the packet (for `owner`). `changed_sets` names sets that `-j SET` changed on the way;
    `nft_changes` has per nft set (family, table, name) what rules added to it (an Element) or took away (None), by key.
    `attached`: the packet came to the hook with its `ct` (back through lo, or an answer made here), so that the chains before
    connection tracking see that.
    """

    packet: Packet
    hook: Hook
    netns: Netns
    indev: str = ""
    outdev: str = ""
    physin: str = ""
    physout: str = ""
    ct: CtView | None = None
    local: bool = False
    recent: set[tuple[str, int]] = field(default_factory=set)
    changed_sets: set[str] = field(default_factory=set)
    nft_changes: dict[tuple[str, str, str], dict[tuple[int, ...], Element | None]] = field(default_factory=dict)
    ipvs: bool = False  # skb->ipvs_property
    virtual: IpvsConnections | None = None  # IPVS's connections here
    attached: bool = False  # skb->_nfct is set when the hook begins


def tuple_dport(flow: Flow) -> int:
    """conntrack's destination port (tuple.dst.u.all): for ICMP the type in the high and the code (0 here) in the low byte."""
    return flow.dport << 8 if flow.protocol in (ICMP, ICMPV6) else flow.dport


def packet_type(view: View) -> str | None:
    """skb->pkt_type: by the frame's destination MAC (eth_type_trans); PACKET_HOST, "unicast", for what is sent from here."""
    if view.indev == "" and (view.local or view.hook is Hook.OUTPUT):
        return "unicast"
    mac = view.packet.dst_mac
    if mac:
        if mac.lower() == "ff:ff:ff:ff:ff:ff":
            return "broadcast"
        return "multicast" if int(mac[:2], 16) & 1 else "unicast"
    address = view.packet.dst  # senders put a group's frame to the group and a broadcast's to everyone
    if address.is_multicast:
        return "multicast"
    if address.family == 4 and address_type(view.netns, address) is RouteType.BROADCAST:
        return "broadcast"
    return "unicast"
