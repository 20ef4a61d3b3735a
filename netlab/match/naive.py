"""Does a match hold? The reference: one small function per match, as the kernel's net/netfilter/xt_*.c decide.

Law: `holds` is a function of the match and its View (only `recent` writes: into `view.recent`, as the kernel writes into
its lists). An answer is True, False, a Chance, or Undecided with the reason; never a guess. Every rule here has been
compared with a running kernel (tests/kernel, docs/fidelity.md). What a rule's target does is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from netlab.linux import matches as m
from netlab.linux.addr import Ip, ip, mask_of
from netlab.linux.conntrack import Connection, CtState, CtView
from netlab.linux.ipvs import Method
from netlab.linux.matches import Match
from netlab.linux.netns import DeviceKind, Netns, RouteType
from netlab.linux.packet import ACK, ICMP, ICMPV6, RST, SCTP, SYN, TCP, UDP, Packet
from netlab.linux.route import address_type, lookup, reverse_path_ok
from netlab.linux.rules import Rule
from netlab.match import lowered, nft
from netlab.match.ipset import UDPLITE, contains
from netlab.match.view import Answer, Chance, Undecided, View, packet_type, tuple_dport

DCCP = 33
_RANDOM_PORT = Undecided("the source port was chosen at random by NAT")


def holds(match: Match, view: View) -> Answer:
    """Whether one match holds for the packet.

    Parameters
    ----------
    match : Match
    view : View
        `view.recent` is changed by `-m recent --set` and `--remove`.

    Returns
    -------
    bool, Chance or Undecided
    """
    return HOLDS[type(match)](match, view)


def rule_holds(rule: Rule, view: View) -> Answer:
    """Whether all matches of a rule hold, asked from left to right; the first that does not hold ends it, as in the kernel.

    Returns
    -------
    bool, Chance or Undecided
        False wins over everything; then Undecided (the first one met); then Chance: independent ones multiply.
    """
    rest = iter(rule.matches)
    for match in rest:
        answer = HOLDS[type(match)](match, view)
        if answer is True:
            continue
        if answer is False:
            return False
        return _uncertain(answer, rest, view)
    return True


def _uncertain(first: Chance | Undecided, rest: Iterator[Match], view: View) -> Answer:
    """The rest of a rule after a match that is not certain: what `recent` writes from here on is not certain either."""
    doubt = first if isinstance(first, Undecided) else None
    chance = first.probability if isinstance(first, Chance) else Fraction(1)
    for match in rest:
        answer = _recent(match, view, certain=False) if isinstance(match, m.Recent) else HOLDS[type(match)](match, view)
        if answer is False:
            return False
        if isinstance(answer, Chance):
            chance *= answer.probability
        elif isinstance(answer, Undecided) and doubt is None:
            doubt = answer
    return doubt if doubt is not None else Chance(chance)


# Header fields: net/ipv4/netfilter/ip_tables.c ip_packet_match, net/ipv6/netfilter/ip6_tables.c ip6_packet_match


def _source(match: m.Source, view: View) -> bool:
    return (view.packet.src.value & match.mask == match.value) is not match.negate


def _destination(match: m.Destination, view: View) -> bool:
    return (view.packet.dst.value & match.mask == match.value) is not match.negate


def _is_device(pattern: str, name: str) -> bool:
    """x_tables ifname_compare: `+` ends a prefix; where a hook has no device its name is empty (nulldevname)."""
    return name.startswith(pattern[:-1]) if pattern[-1:] == "+" else name == pattern


def _in_interface(match: m.InInterface, view: View) -> bool:
    return _is_device(match.name, view.indev) is not match.negate


def _out_interface(match: m.OutInterface, view: View) -> bool:
    return _is_device(match.name, view.outdev) is not match.negate


def _protocol(match: m.Protocol, view: View) -> bool:
    if match.protocol == 0:  # `-p all`: no test is made
        return True
    return (view.packet.protocol == match.protocol) is not match.negate


def _fragment(match: m.Fragment, view: View) -> bool:
    return match.negate  # netlab's packets are whole


def _comment(match: m.Comment, view: View) -> bool:
    return True


# Transport headers: net/netfilter/xt_tcpudp.c, xt_sctp.c, xt_multiport.c


def _ports(match: m.Tcp | m.Udp | m.Sctp, packet: Packet) -> Answer:
    ports = match.dport
    if ports is not None and (ports.low <= packet.dport <= ports.high) is match.not_dport:
        return False
    ports = match.sport
    if ports is None:
        return True
    if packet.sport_random and not (ports.low == 0 and ports.high == 65535):
        return _RANDOM_PORT
    return (ports.low <= packet.sport <= ports.high) is not match.not_sport


def _tcp(match: m.Tcp, view: View) -> Answer:
    packet = view.packet
    if packet.protocol != TCP:
        return False
    flags = match.flags
    if flags is not None and (packet.tcp_flags & flags[0] == flags[1]) is match.not_flags:
        return False
    answer = _ports(match, packet)
    if match.option is not None and answer is not False:
        return Undecided(f"tcp option {match.option}: options of TCP packets are not modelled")
    return answer


def _udp(match: m.Udp, view: View) -> Answer:
    return _ports(match, view.packet) if view.packet.protocol == UDP else False


def _sctp(match: m.Sctp, view: View) -> Answer:
    if view.packet.protocol != SCTP:
        return False
    answer = _ports(match, view.packet)
    if match.chunks is not None and answer is not False:
        return Undecided(f"sctp chunk types {match.chunks}: chunks of SCTP packets are not modelled")
    return answer


def _icmp(match: m.Icmp, view: View) -> bool:
    packet = view.packet
    if packet.protocol != (ICMP if match.family == 4 else ICMPV6):
        return False
    if match.type == 255 and match.family == 4:  # "any"; xt_tcpudp.c icmp_type_code_match
        return not match.negate
    low, high = match.codes
    return (packet.icmp_type == match.type and low <= packet.icmp_code <= high) is not match.negate


def _multiport(match: m.Multiport, view: View) -> Answer:
    packet = view.packet
    if packet.protocol not in (TCP, UDP, SCTP, UDPLITE, DCCP):
        return False
    if match.which != "sports":
        for ports in match.ports:
            if ports.low <= packet.dport <= ports.high:
                return not match.negate
        if match.which == "dports":
            return match.negate
    if packet.sport_random:
        return _RANDOM_PORT
    for ports in match.ports:
        if ports.low <= packet.sport <= ports.high:
            return not match.negate
    return match.negate


# Marks and connection tracking: xt_mark.c, xt_connmark.c, xt_conntrack.c, xt_state.c


def _mark(match: m.Mark, view: View) -> bool:
    return (view.packet.mark & match.mask == match.value) is not match.negate


def _connmark(match: m.Connmark, view: View) -> bool:
    connection = view.ct.connection if view.ct is not None else None
    if connection is None:
        return False  # connmark_mt: no connection never matches, not even negated
    return (connection.mark & match.mask == match.value) is not match.negate


def _in_states(states: frozenset[str], ct: CtView | None) -> bool:
    """SNAT and DNAT are states beside the packet's own; a packet that conntrack has not seen is INVALID (nf_ct_get)."""
    if ct is None:
        return "INVALID" in states
    if ct.state._value_ in states:
        return True
    connection = ct.connection
    if connection is None:
        return False
    return (connection.snat and "SNAT" in states) or (connection.dnat and "DNAT" in states)


def _state(match: m.State, view: View) -> bool:
    ct = view.ct  # iptables loads this as conntrack --ctstate with the same five states
    state = CtState.INVALID if ct is None else ct.state
    return (state._value_ in match.states) is not match.negate


def _conntrack(match: m.Conntrack, view: View) -> Answer:
    ct = view.ct
    connection = ct.connection if ct is not None else None
    if match.states is not None:
        if _in_states(match.states, ct) is match.not_states:
            return False
        if connection is None:
            return True  # conntrack_mt: without a connection only the state is asked
    if connection is None or ct is None:
        return False
    if match.direction is not None and (match.direction == "REPLY") is not ct.is_reply:
        return False
    if match.protocol is not None and (connection.original.protocol == match.protocol) is match.not_protocol:
        return False
    original, reply = connection.original, connection.reply
    for wanted, negate, address in (
        (match.orig_src, match.not_orig_src, original.src),
        (match.orig_dst, match.not_orig_dst, original.dst),
        (match.repl_src, match.not_repl_src, reply.src),
        (match.repl_dst, match.not_repl_dst, reply.dst),
    ):
        if wanted is not None and ((address.value ^ wanted.value) & wanted.mask == 0) is negate:
            return False
    for ports, negate, port in (
        (match.orig_src_port, match.not_orig_src_port, original.sport),
        (match.orig_dst_port, match.not_orig_dst_port, tuple_dport(original)),
        (match.repl_src_port, match.not_repl_src_port, reply.sport),
    ):
        if ports is not None and (ports.low <= port <= ports.high) is negate:
            return False
    if match.status is not None and _has_status(match.status, connection) is match.not_status:
        return False
    ports = match.repl_dst_port
    if ports is not None:
        if connection.random_port and not (ports.low == 0 and ports.high == 65535):
            return _RANDOM_PORT
        if (ports.low <= tuple_dport(reply) <= ports.high) is match.not_repl_dst_port:
            return False
    if match.expire is not None:
        return Undecided("conntrack expire: the time that a connection has left is not modelled")
    return True


def _has_status(wanted: frozenset[str], connection: Connection) -> bool:
    """NONE is the empty mask, which no connection meets; EXPECTED needs a helper, and netlab's connections have none."""
    return (
        (connection.seen_reply and "SEEN_REPLY" in wanted)
        or (connection.assured and "ASSURED" in wanted)
        or (connection.confirmed and "CONFIRMED" in wanted)
    )


# Addresses and routes: xt_addrtype.c, xt_iprange.c, xt_set.c, ipt_rpfilter.c, ip6t_rpfilter.c


def _addrtype(match: m.Addrtype, view: View) -> Answer:
    device = {"in": view.indev, "out": view.outdev}.get(match.limit) or None
    doubt: Undecided | None = None
    for types, negate, address in (
        (match.src_types, match.not_src, view.packet.src),
        (match.dst_types, match.not_dst, view.packet.dst),
    ):
        if types is None:
            continue
        answer: bool | Undecided
        if address.family == 4:
            answer = address_type(view.netns, address, device).name in types
        else:
            answer = _type6(view.netns, address, device, types)
        if isinstance(answer, Undecided):
            doubt = answer
        elif answer is negate:
            return False
    return True if doubt is None else doubt


_ASK_ROUTE = frozenset({"LOCAL", "ANYCAST", "UNREACHABLE"})


def _type6(netns: Netns, address: Ip, device: str | None, types: frozenset[str]) -> bool | Undecided:
    """xt_addrtype.c match_type6: the address itself must be of every kind asked for; then any of the route's kinds will do."""
    mapped = address.value >> 32 == 0xFFFF  # ipv6_addr_type: ::ffff:a.b.c.d and :: are not unicast
    if "MULTICAST" in types and not address.is_multicast:
        return False
    if "UNICAST" in types and (address.is_multicast or mapped or address.value == 0):
        return False
    if "UNSPEC" in types and address.value != 0:
        return False
    if types.isdisjoint(_ASK_ROUTE):
        return True
    found = lookup(netns, address, oif=device or "")[0]
    if found.undecided is not None:
        return Undecided(found.undecided)
    if found.type in (RouteType.UNREACHABLE, RouteType.BLACKHOLE, RouteType.PROHIBIT):
        return "UNREACHABLE" in types
    if found.type is RouteType.ANYCAST and "ANYCAST" in types:
        return True
    if "LOCAL" not in types:
        return False
    if device is None:
        return found.type is RouteType.LOCAL
    held = netns.devices.get(device)
    return held is not None and any(a.ip == address for a in held.addresses)


def _iprange(match: m.Iprange, view: View) -> bool:
    if match.src is not None and (match.src[0].value <= view.packet.src.value <= match.src[1].value) is match.not_src:
        return False
    return match.dst is None or (match.dst[0].value <= view.packet.dst.value <= match.dst[1].value) is not match.not_dst


_COUNTERS_KEPT = frozenset({"!", "--update-counters", "--update-subcounters", "--return-nomatch"})


def _set(match: m.SetMatch, view: View) -> Answer:
    found = view.netns.sets.get(match.name)
    if view.changed_sets and (match.name in view.changed_sets or (found is not None and found.type.startswith("list:"))):
        return Undecided(f"set {match.name}: a rule on the way (-j SET) may have changed it")
    answer = contains(match.name, match.dims, view, match.return_nomatch)
    if isinstance(answer, Undecided) or answer is match.negate:
        return answer if isinstance(answer, Undecided) else False
    if match.extra and not _COUNTERS_KEPT.issuperset(match.extra.split()):
        return Undecided(f"set {match.name} {match.extra}: counters of sets are not modelled")
    return True


def _rpfilter(match: m.Rpfilter, view: View) -> Answer:
    packet, device = view.packet, view.netns.devices.get(view.indev)
    if device is None:
        return Undecided(f"rpfilter: device {view.indev!r} is not known")
    if device.kind is DeviceKind.LOOPBACK:
        return not match.invert
    if packet.family == 6 and packet.src.value == 0:
        return not match.invert
    if (
        packet.family == 4
        and packet.src.value >> 24 == 0
        and (packet.dst.value == 0xFFFFFFFF or packet.dst.value >> 8 == 0xE00000)
    ):
        return not match.invert
    passes = reverse_path_ok(
        view.netns,
        packet.src,
        packet.dst,
        view.indev,
        packet.mark,
        loose=match.loose,
        validmark=match.validmark,
        accept_local=match.accept_local,
    )
    return passes is not match.invert


# Devices and frames: xt_physdev.c, xt_mac.c, xt_pkttype.c, xt_length.c, xt_hl.c


def _physdev(match: m.Physdev, view: View) -> bool:
    physin, physout = view.physin, view.physout
    if not physin and not physout:  # not a bridged packet: only negated options hold
        return not (
            (match.is_bridged and not match.not_is_bridged)
            or (match.is_in and not match.not_is_in)
            or (match.is_out and not match.not_is_out)
            or (match.physin is not None and not match.not_physin)
            or (match.physout is not None and not match.not_physout)
        )
    if match.is_bridged and bool(physout) is match.not_is_bridged:
        return False
    if match.is_in and bool(physin) is match.not_is_in:
        return False
    if match.is_out and bool(physout) is match.not_is_out:
        return False
    if match.physin is not None and physin and _is_device(match.physin, physin) is match.not_physin:
        return False
    if match.physout is None:
        return True
    if not physout:
        return False  # not even `! --physdev-out`
    return _is_device(match.physout, physout) is not match.not_physout


_NOT_ETHERNET = (DeviceKind.LOOPBACK, DeviceKind.IPIP)


def _mac(match: m.Mac, view: View) -> Answer:
    device = view.netns.devices.get(view.indev)
    if view.indev == "" or (device is not None and device.kind in _NOT_ETHERNET):
        return False  # mac_mt: without an Ethernet header it never matches, not even negated
    if not view.packet.src_mac:
        return Undecided("the source MAC of the packet is not known")
    return (view.packet.src_mac.lower() == match.mac.lower()) is not match.negate


def _pkttype(match: m.Pkttype, view: View) -> Answer:
    kind = packet_type(view)
    if kind is None:
        return Undecided("whether the frame was unicast is not known")
    return (kind == match.type) is not match.negate


def _length(match: m.Length, view: View) -> bool:
    return (match.low <= view.packet.length <= match.high) is not match.negate


def _ttl(match: m.Ttl, view: View) -> bool:
    ttl = view.packet.ttl
    if match.op == "eq":
        return (ttl == match.value) is not match.negate
    return (ttl < match.value if match.op == "lt" else ttl > match.value) is not match.negate


def _owner(match: m.Owner, view: View) -> Answer:
    """xt_owner.c owner_mt: without a socket only negated options hold."""
    asks_id = match.uid is not None or match.gid is not None
    if not view.local:
        return not (
            (match.uid is not None and not match.not_uid)
            or (match.gid is not None and not match.not_gid)
            or (match.socket_exists and not match.not_socket_exists)
        )
    if match.socket_exists and match.not_socket_exists:
        return False
    return Undecided("owner: the user and group of a process are not modelled") if asks_id else True


# Chance, memory, rates: xt_statistic.c, xt_recent.c, xt_limit.c, xt_hashlimit.c


def _statistic(match: m.Statistic, view: View) -> Answer:
    if match.threshold is not None:
        p = Fraction(match.threshold, 1 << 31)
    else:
        p = Fraction(1, match.every or 1)  # nth: where the shared counter stands is unknown, each packet's share is 1/every
    if match.negate:
        p = 1 - p
    if p <= 0:
        return False
    return True if p >= 1 else Chance(p)


# Notes in view.recent beside the (list, address) pairs; addresses are never negative
_UNSURE = -1  # (list, _UNSURE): what the list holds depends on a match that was not certain
_MASK = -2  # ("list/mask", _MASK): a rule with this mask wrote to the list


def _recent(match: m.Recent, view: View, certain: bool = True) -> Answer:
    """xt_recent.c recent_mt. Lists start empty; whatever the walk has put there is younger than any `--seconds`."""
    name, seen = match.name, view.recent
    address = view.packet.src if match.side == "source" else view.packet.dst
    key = (name, address.value & _recent_mask(match.mask, address))
    listed = key in seen
    if match.action == "set":
        if not listed:
            seen.add(key if certain else (name, _UNSURE))
            seen.add((f"{name}/{match.mask}", _MASK))
        return not match.negate
    if not seen:
        return match.negate
    if (name, _UNSURE) in seen:
        return Undecided(f"recent {name}: whether the address is listed is not certain")
    if any(n == _MASK and text.startswith(f"{name}/") and text != f"{name}/{match.mask}" for text, n in seen):
        # recent_mt_check: a list keeps the mask of the rule that was loaded first
        return Undecided(f"recent {name}: its rules have different masks")
    if not listed:
        return match.negate
    if match.action == "remove":
        if certain:
            seen.discard(key)
        else:
            seen.add((name, _UNSURE))
        return not match.negate
    if match.hitcount is not None and match.hitcount > 1:
        return Undecided(f"recent {name}: how often the address was seen is not modelled")
    return not match.negate


def _recent_mask(text: str, address: Ip) -> int:
    if text in ("255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"):
        return -1
    return ip(text).value if (":" in text) is (address.family == 6) else -1


def _limit(match: m.Limit, view: View) -> Answer:
    return Undecided(f"limit {match.rate}: the rate of other packets is not known")


def _hashlimit(match: m.Hashlimit, view: View) -> Answer:
    return Undecided("hashlimit: the rate of other packets is not known")


def _ipvs(match: m.Ipvs, view: View) -> Answer:
    """net/netfilter/xt_ipvs.c ipvs_mt: the connection is looked up as that of a packet to the real server, as it is now.

    So it is found after the destination was translated and before the source is, and never for replies or direct routing.
    """
    options = _ipvs_options(match.text)
    if not match.text or "ipvs" in options:
        return view.ipvs is not ("ipvs" in options and options["ipvs"][0])
    if not view.ipvs or view.virtual is None:
        return False
    packet = view.packet
    if "vproto" in options and (str(packet.protocol) == options["vproto"][1]) is options["vproto"][0]:
        return False
    if packet.protocol not in (TCP, UDP, SCTP):
        return Undecided("ipvs: AH and ESP are not modelled") if packet.protocol in (50, 51) else False
    found = view.virtual.outgoing(packet.flow, inverse=True)
    if found is None:
        return False
    for key, (negate, value) in options.items():
        match key:
            case "vport":
                holds = found.vport == int(value)
            case "vportctl":
                holds = found.control == int(value)
            case "vdir":
                if view.ct is None or view.ct.connection is None:
                    return False
                holds = view.ct.is_reply is (value == "REPLY")
            case "vmethod":
                holds = found.method is _IPVS_METHODS[value]
            case "vaddr":
                address, _, mask = value.partition("/")
                bits = _ipvs_mask(mask, found.virtual.family)
                holds = (found.virtual.value ^ ip(address).value) & bits == 0
            case _:
                continue
        if holds is negate:
            return False
    return True


_IPVS_METHODS = {"GATE": Method.ROUTE, "IPIP": Method.TUNNEL, "MASQ": Method.MASQUERADE}


def _ipvs_options(text: str) -> dict[str, tuple[bool, str]]:
    """`! --vaddr 10.0.0.0/8 --vport 80` -> {"vaddr": (True, "10.0.0.0/8"), "vport": (False, "80")}."""
    found: dict[str, tuple[bool, str]] = {}
    negate, key = False, ""
    for word in text.split():
        if word == "!":
            negate = True
        elif word.startswith("--"):
            key = word[2:]
            found[key], negate = (negate, ""), False
        else:
            found[key] = (found[key][0], word)
    return found


def _ipvs_mask(text: str, family: int) -> int:
    if not text.isdigit():
        return ip(text).value if text else mask_of(family, 32 if family == 4 else 128)
    return mask_of(family, int(text))


def _unknown(match: m.UnknownMatch, view: View) -> Answer:
    return Undecided(f"match {match.module} is not modelled")


# What lowered rules ask (lowered.py)


def _known(match: lowered.Known, view: View) -> Answer:
    return match.answer


def _odds(match: lowered.Odds, view: View) -> Answer:
    return Chance(match.probability)


def _nft(match: lowered.NftMatch, view: View) -> Answer:
    return nft.compare_holds(match.compare, view, match.table)


def _connected(match: lowered.Connected, view: View) -> bool:
    return view.ct is not None and view.ct.connection is not None and view.ct.connection.original.protocol != 0


def _schedulable(match: lowered.Schedulable, view: View) -> bool:
    packet = view.packet
    if view.ipvs or packet.is_icmp_error:
        return False
    if packet.protocol == TCP:
        return not packet.tcp_flags & RST and (match.sloppy_tcp or bool(packet.tcp_flags & SYN))
    return packet.protocol == UDP or (packet.protocol == SCTP and (match.sloppy_sctp or not packet.tcp_flags & ACK))


def _from_port(match: lowered.FromPort, view: View) -> bool:
    return view.packet.sport == match.port


HOLDS: Mapping[type, Callable[[Any, View], Answer]] = {
    m.Source: _source,
    m.Destination: _destination,
    m.InInterface: _in_interface,
    m.OutInterface: _out_interface,
    m.Protocol: _protocol,
    m.Fragment: _fragment,
    m.Comment: _comment,
    m.Tcp: _tcp,
    m.Udp: _udp,
    m.Sctp: _sctp,
    m.Icmp: _icmp,
    m.Multiport: _multiport,
    m.Mark: _mark,
    m.Connmark: _connmark,
    m.Conntrack: _conntrack,
    m.State: _state,
    m.Addrtype: _addrtype,
    m.SetMatch: _set,
    m.Statistic: _statistic,
    m.Recent: _recent,
    m.Physdev: _physdev,
    m.Rpfilter: _rpfilter,
    m.Iprange: _iprange,
    m.Owner: _owner,
    m.Mac: _mac,
    m.Ttl: _ttl,
    m.Length: _length,
    m.Limit: _limit,
    m.Hashlimit: _hashlimit,
    m.Ipvs: _ipvs,
    m.Pkttype: _pkttype,
    m.UnknownMatch: _unknown,
    lowered.Known: _known,
    lowered.Odds: _odds,
    lowered.NftMatch: _nft,
    lowered.Connected: _connected,
    lowered.Schedulable: _schedulable,
    lowered.FromPort: _from_port,
}
