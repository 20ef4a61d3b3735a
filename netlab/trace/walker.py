"""The walk of one packet through namespaces, hooks, routes, bridges and tunnels, in the order the kernel takes it.

    local_out -> OUTPUT -> POSTROUTING -> neighbour -> transmit ==wire== receive -> (bridge) -> PREROUTING -> route
                                             ^                                                    |        |
                                             +------------- POSTROUTING <- FORWARD <- forward ----+        v
                                                                                             INPUT -> socket

Law: every function is one function of the kernel, named in its docstring, and does what that does, in that order. A
fork is a call of the chooser (choices.py); what is not modelled ends the walk as `unknown` by name. Steps are emitted as
things happen; nothing is decided twice.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from msgspec.structs import replace

from netlab.linux.addr import Ip, Prefix, mask_of
from netlab.linux.bridge import Links
from netlab.linux.conntrack import CtState, CtView
from netlab.linux.ipvs import Method
from netlab.linux.ipvs_connections import IpvsConnection
from netlab.linux.netns import Device, DeviceKind, Listener, Netns, NetnsKind, NextHop, RouteType
from netlab.linux.network import Network
from netlab.linux.packet import (
    ACK,
    ECHO_REPLY,
    ECHO_REQUEST,
    ICMP,
    ICMPV6,
    IPIP,
    RST,
    SCTP,
    SYN,
    TCP,
    TIME_EXCEEDED,
    UDP,
    UNREACHABLE,
    V6_ECHO_REPLY,
    V6_ECHO_REQUEST,
    V6_TIME_EXCEEDED,
    V6_TOO_BIG,
    V6_UNREACHABLE,
    Flow,
    Packet,
    protocol_name,
)
from netlab.linux.route import (
    TABLE_NAMES,
    Found,
    cached_route_text,
    forwarding,
    is_local,
    lookup,
    route_localnet,
    select_source,
    source_for,
    source_refusal,
)
from netlab.linux.rules import Hook
from netlab.match.view import View
from netlab.trace.choices import Chooser
from netlab.trace.ipvs import METHODS, Ipvs
from netlab.trace.netfilter import Netfilter, attached
from netlab.trace.skb import Outcome, Skb, header, icmp_text, socket_text
from netlab.trace.steps import (
    AnyStep,
    Bridged,
    Decapsulated,
    Delivered,
    Dropped,
    Encapsulated,
    Header,
    Hop,
    MtuStep,
    Natted,
    NeighbourStep,
    NoteStep,
    Received,
    Rejected,
    Routed,
    Sent,
    Transmitted,
    UnknownStep,
)

IPIP_OVERHEAD = {4: 20, 6: 40}  # bytes of the outer header
IPV6_IN_IPV6 = 41
XMIT_RECURSION = 8  # net/core/dev.h XMIT_RECURSION_LIMIT
SOURCE_PORTS = 49152  # tunnels' source ports stand from here on, one for each flow hash; the real ones cannot be known
VXLAN_OVERHEAD = {4: 50, 6: 70}  # bytes: outer IP 20/40, UDP 8, VXLAN 8, inner Ethernet 14
TIMESTAMP, TIMESTAMP_REPLY = 13, 14  # RFC 792
TUNL0 = "tunl0"  # the one IPIP device that is there without being made, and has no remote
_BROADCAST_MAC = "ff:ff:ff:ff:ff:ff"

# --reject-with words -> ICMP type and code (net/ipv4/netfilter/ipt_REJECT.c, net/ipv6/netfilter/ip6t_REJECT.c)
REJECT_CODES = {
    4: {
        "icmp-net-unreachable": (3, 0),
        "icmp-host-unreachable": (3, 1),
        "icmp-proto-unreachable": (3, 2),
        "icmp-port-unreachable": (3, 3),
        "icmp-net-prohibited": (3, 9),
        "icmp-host-prohibited": (3, 10),
        "icmp-admin-prohibited": (3, 13),
    },
    6: {
        "icmp6-no-route": (1, 0),
        "icmp6-adm-prohibited": (1, 1),
        "icmp6-addr-unreachable": (1, 3),
        "icmp6-port-unreachable": (1, 4),
        "icmp6-policy-fail": (1, 5),
        "icmp6-reject-route": (1, 6),
    },
}
# nf_reject.h nf_reject_verify_csum: of all other protocols the bytes must add up as if they held a checksum of their own
_REJECT_SURE = frozenset({ICMP, TCP, UDP, 33, 47, 50, 51, ICMPV6, SCTP, 136})
_NEXT_HEADER = (4, 1)  # RFC 4443, 3.4: parameter problem, unrecognized next header
_NET, _HOST, _PROTO, _PORT, _FILTERED = "net", "host", "proto", "port", "filtered"
_UNREACHABLE_CODES = {
    4: {_NET: 0, _HOST: 1, _PROTO: 2, _PORT: 3, _FILTERED: 13},
    6: {_NET: 0, _HOST: 3, _PROTO: 4, _PORT: 4, _FILTERED: 1},
}
_ERRNO = {
    RouteType.UNREACHABLE: "Network is unreachable",
    RouteType.PROHIBIT: "Permission denied",
    RouteType.BLACKHOLE: "Invalid argument",
}


class Expected:
    """Whom the walk waits for: the sender's socket and the tuple that an answer must carry; and what it sent."""

    def __init__(self, netns: str, sent: Flow, owner: str) -> None:
        self.netns, self.sent, self.owner = netns, sent, owner
        self.reply = sent.reversed()


class Walk:
    """One run: one packet, and the answers to it, with the connections they make on the way."""

    def __init__(self, network: Network, links: Links, chooser: Chooser) -> None:
        self.network = network
        self.links = links
        self.chooser = chooser
        self.assumptions: dict[str, None] = {}
        self.ipvs = Ipvs(chooser, self.emit, self._assume, self, lambda netns, ct: self.netfilter.forget(netns, ct.connection))
        self.netfilter = Netfilter(chooser, self.emit, self.ipvs)
        self._headers: dict[int, tuple[Packet, Header]] = {}
        self.hops: list[tuple[str, list[AnyStep]]] = []
        self.expected: Expected | None = None
        self._forwarded: dict[tuple[str, str, Packet], int] = {}  # packets that were forwarded, but for their TTL -> its value
        self._multipath: dict[tuple[str, str, Ip, Ip], int] = {}  # which of equal next hops a flow takes, once it is chosen
        self._flow_hashes: dict[tuple[object, ...], int] = {}
        self._nested = 0  # how often a tunnel device is sending at this moment
        self._believed: dict[tuple[str, str, Ip], int] = {}  # who of several was the first to answer for an address
        self._looped = False

    # -- the record ----------------------------------------------------------------------------------------------------

    def emit(self, where: str, step: AnyStep) -> None:
        """Write a step down; a new hop begins where the namespace changes."""
        if not self.hops or self.hops[-1][0] != where:
            self.hops.append((where, []))
        self.hops[-1][1].append(step)

    def _assume(self, text: str) -> None:
        self.assumptions[text] = None

    def _header(self, packet: Packet) -> Header:
        """The packet as steps show it; a frame is shown at both ends of its wire, a tunnelled packet at every hop."""
        known = self._headers.get(id(packet))  # the entry holds the packet, so that its id stays its own
        if known is None:
            inner = self._header(packet.inner) if packet.inner is not None else None
            known = self._headers[id(packet)] = (packet, header(packet, inner))
        return known[1]

    def take_hops(self) -> tuple[Hop, ...]:
        """The hops so far; the record starts anew (for the way back)."""
        kinds = self.network.namespaces
        made = tuple(Hop(where, kinds[where].kind.value, tuple(steps)) for where, steps in self.hops)
        self.hops = []
        self._forwarded = {}
        self._looped = False
        return made

    def _drop(self, netns: str, reason: str) -> Outcome:
        self.emit(netns, Dropped(reason))
        return Outcome("dropped", f"{reason} (on {netns})", netns)

    def _unknown(self, netns: str, what: str) -> Outcome:
        self.emit(netns, UnknownStep(what))
        return Outcome("unknown", f"{what} (on {netns})", netns)

    def _hook(self, skb: Skb, hook: Hook, indev: str, outdev: str) -> Outcome | None:
        outcome = self.netfilter.hook(skb, hook, indev, outdev)
        if outcome is None or outcome.told:
            return outcome
        netns = skb.netns.name
        if outcome.kind == "dropped":
            self.emit(netns, Dropped(outcome.reason))
        elif outcome.kind == "unknown":
            self.emit(netns, UnknownStep(outcome.reason))
        else:
            self._reject(skb, outcome)
        return outcome

    # -- answers that the kernel makes ---------------------------------------------------------------------------------

    def _reject(self, skb: Skb, outcome: Outcome) -> None:
        """nf_reject_ipv4.c nf_send_reset / nf_send_unreach for the kind of REJECT that `outcome.owner` names."""
        kind, outcome.owner = outcome.owner, ""
        packet = skb.packet
        if kind == "tcp-reset":
            outcome.answer = _reset(packet)
            outcome.answer_socket = False
            if skb.physin and outcome.answer is not None:  # back as a frame, through the bridge port that it came from
                outcome.answer = replace(outcome.answer, src_mac=packet.dst_mac, dst_mac=packet.src_mac)
                outcome.answer_port = skb.physin
        else:
            codes = REJECT_CODES[packet.family].get(kind)
            if codes is None:
                self.emit(skb.netns.name, UnknownStep(f"reject with {kind}"))
                outcome.kind = "unknown"
                return
            if packet.protocol in _REJECT_SURE or self.chooser.undecidable(
                f"whether the {packet.length} bytes of protocol {packet.protocol} pass for a checksum (nf_reject_verify_csum)"
            ):
                outcome.answer = self._icmp_error(skb, *codes)
        text = "TCP RST" if kind == "tcp-reset" else "ICMP " + kind.partition("-")[2].replace("-", " ")
        self.emit(skb.netns.name, Rejected(outcome.reason, text if outcome.answer is not None else "none"))

    def _icmp_error(self, skb: Skb, kind: int, code: int) -> Packet | None:
        """net/ipv4/icmp.c icmp_send: none about ICMP errors; the source is the address that was asked, or chosen by route."""
        packet = skb.packet
        if packet.is_icmp_error or packet.dst.is_multicast:
            return None
        if skb.local and packet.protocol in (ICMP, ICMPV6) and packet.icmp_type in (ECHO_REPLY, TIMESTAMP_REPLY, V6_ECHO_REPLY):
            return None  # icmp_xmit_lock: the kernel's one ICMP socket is busy sending the reply that is refused
        # icmp_send looks at the route: a reject of PREROUTING makes one to the sender (nf_reject_ipv4.c nf_reject_fill_skb_dst)
        asked = is_local(skb.netns, packet.dst) and (packet.family == 6 or skb.routed is not None)
        source = packet.dst if asked else Ip(packet.family, 0)
        if packet.family == 4 and skb.routed is None and is_local(skb.netns, packet.src):
            if not is_local(skb.netns, packet.dst):
                return None  # that route is local, so the source would be the address that was asked, which is not ours
            source = packet.dst
        if packet.family == 6 and source.value == 0 and skb.indev:  # icmp6_send: of the device that it came in through
            source = select_source(skb.netns, skb.indev, packet.src) or source
        protocol = ICMP if packet.family == 4 else ICMPV6
        inner = packet.inner if packet.protocol == IPIP else None
        length = min(packet.length + (28 if packet.family == 4 else 48), 576 if packet.family == 4 else 1280)
        return Packet(
            src=source,
            dst=packet.src,
            protocol=protocol,
            icmp_type=kind,
            icmp_code=code,
            length=length,
            df=False,
            quoted=replace(packet, quoted=None, inner=inner, mark=0, src_mac="", dst_mac=""),
        )

    def _refuse(self, skb: Skb, what: str, reason: str, ct: bool = True) -> Outcome:
        """Reject with an ICMP unreachable error of a kind ("net", "host", "port", ...); without `ct` the packet's connection
        was let go before (udp.c __udp4_lib_rcv, nf_reset_ct), so that connection tracking has to find it again."""
        family = skb.packet.family
        code = _UNREACHABLE_CODES[family][what]
        answer = self._icmp_error(skb, UNREACHABLE if family == 4 else V6_UNREACHABLE, code)
        netns = skb.netns.name
        if answer is None:
            return self._drop(netns, reason)
        self.emit(netns, Rejected(reason, f"ICMP {icmp_text(answer)}"))
        return Outcome("rejected", f"{reason} (on {netns})", netns, answer=answer, answer_ct=attached(skb) if ct else None)

    def _local_error(self, skb: Skb, reason: str, errno: str) -> Outcome:
        """The sender's own kernel refuses: the system call fails at once."""
        netns = skb.netns.name
        self.emit(netns, Rejected(reason, f"error to the socket: {errno}"))
        return Outcome("rejected", f"{reason}: {errno} (on {netns})", netns)

    def send_answer(self, out: Outcome) -> Outcome:
        """Send the error or reset that was made for a packet.

        A reset for a packet that br_netfilter saw come in is put on that bridge port as it is: no hook translates it back
        (nf_reject_ipv4.c nf_send_reset, nf_bridge_get_physindev), so after a DNAT its receiver does not know it.
        """
        assert out.answer is not None
        netns = self.network.namespaces[out.netns]
        by = f"kernel of {out.netns}"
        if not out.answer_port:
            return self.local_out(netns, out.answer, by, out.answer_ct, out.answer_socket)
        self.emit(netns.name, Sent(self._header(out.answer), by))
        self.note(netns.name, f"straight back through bridge port {out.answer_port}: no hook sees it, nothing is translated")
        return self._transmit(Skb(out.answer, netns, local=True), netns.devices[out.answer_port])

    # -- sending -------------------------------------------------------------------------------------------------------

    def local_out(
        self, netns: Netns, packet: Packet, by: str, ct: CtView | None = None, socket: bool = True
    ) -> Outcome:
        """ip_output.c __ip_queue_xmit / ip_local_out: route, choose a source, OUTPUT, and on."""
        skb = Skb(packet, netns, local=True, socket=socket, ct=ct)
        if ct is not None and ct.connection is None:
            skb.ct, skb.template = None, ct
        unspecified = packet.src.value == 0
        found = self._route(skb, None if unspecified else packet.src, "")
        if isinstance(found, Outcome):
            return found
        if found.type in (RouteType.UNREACHABLE, RouteType.PROHIBIT, RouteType.BLACKHOLE, RouteType.THROW):
            self.emit(netns.name, Sent(self._header(packet), by))
            self._routed(skb, found)
            if netns.kind is NetnsKind.EXTERNAL:
                return self._drop(netns.name, f"nobody outside the cluster has a route to {packet.dst}")
            return self._local_error(skb, f"no route to {packet.dst}", _ERRNO.get(found.type, "Network is unreachable"))
        chosen = ""
        if unspecified:
            source = source_for(netns, found, packet.dst)
            if source is None:
                self.emit(netns.name, Sent(self._header(packet), by))
                return self._local_error(skb, f"no source address towards {packet.dst}", "Cannot assign requested address")
            packet = replace(packet, src=source)
            hop = self._multipath.get((netns.name, "", skb.packet.src, packet.dst))
            if hop is not None:
                self._multipath[netns.name, "", source, packet.dst] = hop
            skb.packet = packet
            chosen = str(source)
        if self.expected is not None and self.expected.sent.src.value == 0:
            self.expected = Expected(self.expected.netns, packet.flow, self.expected.owner)
        self.emit(netns.name, Sent(self._header(packet), by))
        self._routed(skb, found, chosen)
        if self._loopback_leaves(skb, found):
            return self._local_error(skb, f"source {packet.src} must not leave through {found.out}", "Invalid argument")
        skb.routed = found
        outcome = self._hook(skb, Hook.OUTPUT, "", found.out)
        if outcome is not None:
            return outcome
        return self._reroute(skb, "OUTPUT") or self._output(skb)

    def _reroute(self, skb: Skb, after: str) -> Outcome | None:
        """netfilter.c ip_route_me_harder, where somebody at the hook asked for it (`skb.reroute`)."""
        if skb.reroute is None:
            return None
        assert skb.routed is not None
        found = skb.routed
        again = self._route(dataclasses.replace(skb, packet=skb.reroute), skb.reroute.src, "")
        skb.reroute = None
        if isinstance(again, Outcome):
            return again
        if again.nexthop is None and again.type is not RouteType.LOCAL:
            self._routed(skb, again)  # NF_DROP_ERR: TCP does not hear of it (tcp_connect), a datagram's sender does
            return self._drop(skb.netns.name, f"no route to {skb.packet.dst}")
        if (again.out, again.via) != (found.out, found.via):
            self._routed(skb, again, note=f"routed again after {after}")
        if self._loopback_leaves(skb, again):
            return self._drop(skb.netns.name, f"source {skb.packet.src} must not leave through {again.out}")
        skb.routed = again
        return None

    @staticmethod
    def _loopback_leaves(skb: Skb, found: Found) -> bool:
        """route.c __mkroute_output: a packet from 127.0.0.0/8 leaves through lo only, unless route_localnet is on."""
        src = skb.packet.src
        return src.family == 4 and src.is_loopback and found.out != "lo" and not route_localnet(skb.netns, found.out)

    def _route(self, skb: Skb, src: Ip | None, iif: str) -> Found | Outcome:
        """A route lookup with its forks and its unknowns; among equal-cost next hops a hash of the addresses chooses, the same
        for all packets between them (fib_multipath_hash_policy 0)."""
        packet = skb.packet
        if packet.dst.is_multicast:
            return self._unknown(skb.netns.name, f"multicast destination {packet.dst}")
        found = lookup(skb.netns, packet.dst, src=src, mark=packet.mark, iif=iif)
        if found[0].undecided is not None:
            return self._unknown(skb.netns.name, f"{found[0].undecided} is not modelled")
        if len(found) == 1:
            return found[0]
        key = (skb.netns.name, iif, packet.src, packet.dst)
        if key not in self._multipath:
            total = sum(f.weight for f in found)
            weights = [Fraction(f.weight, total) for f in found]
            label = f"equal-cost route to {packet.dst} on {skb.netns.name}"
            self._multipath[key] = self.chooser.choose(weights, label)
        return found[self._multipath[key]]

    def _routed(self, skb: Skb, found: Found, source: str = "", note: str = "") -> None:
        self.emit(
            skb.netns.name,
            Routed(
                destination=str(skb.packet.dst),
                type=found.type.value,
                device=found.dev,
                via=str(found.via) if found.via is not None else "",
                source=source,
                table=TABLE_NAMES.get(found.table, str(found.table)),
                route=cached_route_text(skb.netns, found.route) if found.route is not None else "",
                rule=found.rule if found.route is not None and found.rule not in (0, 32766, 32767) else None,
                note=note,
                ref=found.route.ref if found.route is not None else None,
            ),
        )

    def _output(self, skb: Skb) -> Outcome:
        """ip_output.c ip_output, ip_finish_output2: POSTROUTING, MTU, neighbour, device."""
        assert skb.routed is not None
        dev = skb.routed.out
        outcome = self._hook(skb, Hook.POSTROUTING, skb.indev, dev)  # ip_output: a forwarded packet keeps its device in
        if outcome is not None:
            return outcome
        device = skb.netns.devices[dev]
        limit = (skb.routed.route.mtu if skb.routed.route is not None else None) or device.mtu
        packet = skb.packet
        if packet.length > limit:
            if skb.local and packet.protocol == TCP:
                note = f"TCP makes segments that fit: {limit} bytes"
                self.emit(skb.netns.name, MtuStep(dev, limit, packet.length, note))
                skb.packet = replace(packet, length=limit)
            elif packet.df and skb.local:
                self.emit(skb.netns.name, MtuStep(dev, limit, packet.length, "too long and must not be fragmented"))
                return self._local_error(skb, f"{packet.length} bytes do not fit the MTU of {dev}, {limit}", "Message too long")
            else:
                self.emit(skb.netns.name, MtuStep(dev, limit, packet.length, "sent as fragments, followed as one packet"))
        return self._finish(skb, device, skb.routed.via if skb.routed.via is not None else skb.packet.dst)

    def _finish(self, skb: Skb, device: Device, nexthop: Ip) -> Outcome:
        """ip_finish_output2: find the next hop's MAC, hand the frame to the device."""
        netns = skb.netns.name
        match device.kind:
            case DeviceKind.LOOPBACK:
                return self._loopback(skb, device)
            case DeviceKind.PHYSICAL | DeviceKind.VETH | DeviceKind.BRIDGE | DeviceKind.VXLAN:
                mac = self._neighbour(skb, device, nexthop)
                if mac is None:  # arp_error_report, ndisc_error_report: an ICMP error, also to a sender on this very host
                    return self._refuse(skb, _HOST, f"nobody on {device.name} answers for {nexthop}")
                skb.packet = replace(skb.packet, src_mac=device.mac, dst_mac=mac)
                return self._transmit(skb, device)
            case DeviceKind.IPIP:  # IFF_NOARP: there is nobody to ask
                return self._ipip_xmit(skb, device, nexthop)
            case DeviceKind.DUMMY:
                return self._drop(netns, f"{device.name} is a dummy device: it swallows what is sent to it")
            case _:
                return self._unknown(netns, f"device {device.name} of kind {device.kind.value}")

    def _loopback(self, skb: Skb, device: Device) -> Outcome:
        """drivers/net/loopback.c: the packet comes back with its route and its connection."""
        again = replace(skb.packet, src_mac="", dst_mac="")
        known = skb.ct is not None and skb.ct.state is not CtState.INVALID  # an INVALID packet is looked at again
        ct = skb.ct if known else None
        back = Skb(again, skb.netns, device.name, ct=ct, untracked=skb.untracked, routed=skb.routed, ipvs=skb.ipvs)
        if skb.template is not None and skb.template.state is CtState.INVALID:  # attached() for an untracked packet: it stays
            back.template = skb.template
        self.emit(skb.netns.name, Transmitted(device.name, f"{skb.netns.name}/{device.name}", self._header(again)))
        return self._ip_rcv(back)

    def _neighbour(self, skb: Skb, device: Device, ip: Ip) -> str | None:
        """net/core/neighbour.c, arp.c, ndisc.c: the MAC of a next hop, from an entry or by asking the link."""
        netns = skb.netns
        for entry in netns.neighbours:
            if entry.dev == device.name and entry.ip == ip and entry.mac and not entry.proxy and entry.state != "FAILED":
                self.emit(netns.name, NeighbourStep(str(ip), entry.mac, device.name, entry.state.lower()))
                return entry.mac
        if device.kind is DeviceKind.VXLAN:  # flannel's vxlan devices have nobody to flood a question to
            return None
        how = "arp" if ip.family == 4 else "ndp"
        answer = self._ask(netns, device, ip)
        if answer is None:
            return None
        mac, owner, proxied = answer
        self.emit(netns.name, NeighbourStep(str(ip), mac, device.name, "proxy_arp" if proxied else how, owner))
        return mac

    def _ask(self, netns: Netns, device: Device, ip: Ip) -> tuple[str, str, bool] | None:
        """Who on the link answers for an address, with which MAC, and whether only as a proxy.

        ARP is answered on any device for any local address (arp_ignore 0), NDP only for the device's own addresses; a proxy
        answers for what it would route elsewhere (arp.c arp_process). ARP's question must pass as a packet from the asker would:
        who has the asker's own address on kube-ipvs0 does not answer it. Of several that answer the first is believed, and
        which that is depends on the wire: each is as likely.
        """
        domain = self.links.domain((netns.name, device.name))
        asked = [*domain.by_ip.get(ip, ()), *(domain.by_host.get(ip, ()) if ip.family == 4 else ())]
        answers = [place for place in asked if place[0] != netns.name and self._answers_arp(place, netns.name, device, ip)]
        if answers:
            key = (netns.name, device.name, ip)
            if len(answers) > 1 and key not in self._believed:
                names = [f"ARP: {place[0]}/{place[1]} answers first for {ip}" for place in answers]
                shares = [Fraction(1, len(answers))] * len(answers)
                self._believed[key] = self.chooser.choose(shares, f"who answers first for {ip}", names)
            place = answers[self._believed.get(key, 0)]
            owner = self.network.namespaces[place[0]]
            holder = next((d.name for d in owner.devices.values() for a in d.addresses if a.ip == ip), place[1])
            trap = f" (for {holder}'s address: arp_ignore is off)" if owner.ipvs and holder != place[1] else ""
            return owner.devices[place[1]].mac, f"{place[0]}/{place[1]}{trap}", False
        if ip.family == 4:
            asker = select_source(netns, device.name, ip)
            for place in domain.proxies:
                owner = self.network.namespaces[place[0]]
                if place[0] != netns.name and _proxies(owner, place[1], ip, asker):
                    return owner.devices[place[1]].mac, f"{place[0]}/{place[1]}", True
        return None

    def _answers_arp(self, place: tuple[str, str], by: str, device: Device, ip: Ip) -> bool:
        """net/ipv4/arp.c arp_ignore: kube-proxy's strictARP sets 1, so that kube-ipvs0's addresses are not answered for."""
        netns = self.network.namespaces[place[0]]
        asked = netns.devices[place[1]]
        own = [a for a in asked.addresses if a.ip == ip]
        if ip.family == 6:
            return bool(own)
        asker = select_source(self.network.namespaces[by], device.name, ip)
        if asker is not None and source_refusal(netns, asker, ip, asked.name) is not None:
            return False
        match max(netns.sysctl("ipv4.conf.all.arp_ignore"), netns.sysctl(f"ipv4.conf.{asked.name}.arp_ignore")):
            case 1:
                return bool(own)
            case 2:
                return any(sender.ip in Prefix(4, a.ip.value & mask_of(4, a.length), a.length)
                           for a in own for sender in device.addresses if sender.ip.family == 4)  # fmt: skip
            case 3:
                return any(a.ip == ip and a.scope != "host" for d in netns.devices.values() for a in d.addresses)
            case 8:
                return False
            case _:
                return True

    # -- wires ---------------------------------------------------------------------------------------------------------

    def _transmit(self, skb: Skb, device: Device) -> Outcome:
        """dev_queue_xmit: the frame (MACs are set) leaves through a device."""
        netns = skb.netns.name
        if not device.up:
            return self._drop(netns, f"{device.name} is down")
        match device.kind:
            case DeviceKind.VETH:
                if device.peer is None or self.links.device(device.peer) is None:
                    return self._unknown(netns, f"the other end of veth {device.name} is not known")
                return self._cross(skb, device, device.peer)
            case DeviceKind.PHYSICAL:
                owner = self.links.domain((netns, device.name)).by_mac.get(skb.packet.dst_mac)
                if owner is None:
                    return self._drop(netns, f"nobody on {device.segment or device.name} has MAC {skb.packet.dst_mac}")
                return self._cross(skb, device, owner)
            case DeviceKind.BRIDGE:
                return self._bridge_xmit(skb, device)
            case DeviceKind.VXLAN:
                return self._vxlan_xmit(skb, device)
            case _:
                return self._unknown(netns, f"device {device.name} of kind {device.kind.value}")

    def _cross(self, skb: Skb, device: Device, to: tuple[str, str]) -> Outcome:
        """Over a wire into another namespace: skb_scrub_packet forgets mark and connection."""
        packet = replace(skb.packet, mark=0) if skb.packet.mark else skb.packet
        self.emit(skb.netns.name, Transmitted(device.name, f"{to[0]}/{to[1]}", self._header(packet)))
        self._nested = 0
        return self._receive(Skb(packet, self.network.namespaces[to[0]]), to[1])

    def _receive(self, skb: Skb, dev: str) -> Outcome:
        """net/core/dev.c __netif_receive_skb: to the bridge if the device is a port, else to IP if the MAC is ours."""
        device = skb.netns.devices[dev]
        if not device.up:
            return self._drop(skb.netns.name, f"{dev} is down")
        if device.master is not None:
            return self._bridge_receive(skb, device)
        if skb.packet.dst_mac not in (device.mac, _BROADCAST_MAC):
            return self._drop(skb.netns.name, f"frame for MAC {skb.packet.dst_mac}, {dev} has {device.mac}")
        self.emit(skb.netns.name, Received(dev, self._header(skb.packet)))
        skb.indev = dev
        return self._ip_rcv(skb)

    # -- bridges -------------------------------------------------------------------------------------------------------

    def _bridge_receive(self, skb: Skb, port: Device) -> Outcome:
        """br_input.c br_handle_frame, with br_netfilter_hooks.c br_nf_pre_routing before the bridge decides."""
        netns = skb.netns
        bridge = netns.devices.get(port.master or "")
        if bridge is None:
            return self._unknown(netns.name, f"{port.name} is a port of {port.master}, which is not in the dump")
        if not bridge.up:
            return self._drop(netns.name, f"{bridge.name} is down")
        self.emit(netns.name, Received(port.name, self._header(skb.packet)))
        family = skb.packet.family
        name = "bridge.bridge-nf-call-iptables" if family == 4 else "bridge.bridge-nf-call-ip6tables"
        if netns.sysctl(name):
            skb.physin = port.name
            skb.bridge_prerouted = True
            outcome = self._bridge_prerouting(skb, bridge)
            if outcome is not None:
                return outcome
        mac = skb.packet.dst_mac
        own = {bridge.mac} | {netns.devices[p].mac for p in self.links.ports(netns, bridge.name)}
        if mac in own:
            self.emit(netns.name, Bridged(bridge.name, port.name, bridge.name, mac, "up to the host", self._header(skb.packet)))
            skb.indev = bridge.name
            return self._ip_rcv(skb)
        out = self.links.port_towards(netns.name, bridge.name, mac)
        if out is None:
            return self._drop(netns.name, f"no port of {bridge.name} leads to MAC {mac}: flooded, and nobody takes it")
        if out == port.name and not port.hairpin:
            self.emit(netns.name, Bridged(bridge.name, port.name, out, mac, "hairpin mode is off"))
            reason = f"{bridge.name} does not send a frame back through the port it came from, {out} (hairpin mode is off)"
            return self._drop(netns.name, reason)
        note = "hairpin" if out == port.name else ""
        self.emit(netns.name, Bridged(bridge.name, port.name, out, mac, note, self._header(skb.packet)))
        leaving = netns.devices[out]
        if skb.bridge_prerouted:
            skb.physout = out
            outcome = self._hook(skb, Hook.FORWARD, bridge.name, bridge.name)
            if outcome is None:
                outcome = self._hook(skb, Hook.POSTROUTING, "", bridge.name)
            if outcome is not None:
                return outcome
        if skb.packet.length > leaving.mtu:
            self.emit(netns.name, MtuStep(leaving.name, leaving.mtu, skb.packet.length, "a bridge does not fragment"))
            return self._drop(netns.name, f"frame of {skb.packet.length} bytes is longer than the MTU of {out}, {leaving.mtu}")
        return self._transmit(skb, leaving)

    def _bridge_prerouting(self, skb: Skb, bridge: Device) -> Outcome | None:
        """br_nf_pre_routing and br_nf_pre_routing_finish: iptables sees the frame as coming in through the bridge.

        After a DNAT the frame is routed: if the new destination is on the bridge itself it is bridged on with the new
        neighbour's MAC ("bridged DNAT"), else it goes up to the host with the bridge's own MAC. IPv4's route is an error where
        the host does not forward; IPv6's is not (br_netfilter_ipv6.c br_nf_pre_routing_finish_ipv6).
        """
        netns = skb.netns
        before = skb.packet.dst
        outcome = self._hook(skb, Hook.PREROUTING, bridge.name, "")
        if outcome is not None:
            return outcome
        if skb.packet.dst == before:
            return None
        found = self._route(skb, skb.packet.src, bridge.name)
        if isinstance(found, Outcome):
            return found
        refusal = source_refusal(netns, skb.packet.src, skb.packet.dst, bridge.name, skb.packet.mark)
        if refusal is not None:
            return self._drop(netns.name, refusal)
        forwards = skb.packet.family == 6 or forwarding(netns, 4, bridge.name)
        if found.type is RouteType.UNICAST and found.dev == bridge.name and forwards:
            self._routed(skb, found, note=f"stays on {bridge.name}: bridged, not routed")
            nexthop = found.via if found.via is not None else skb.packet.dst
            mac = self._neighbour(skb, bridge, nexthop)
            if mac is None:  # br_nf_pre_routing_finish_bridge: neigh->output, and what that reports
                return self._refuse(skb, _HOST, f"nobody on {bridge.name} answers for {nexthop}")
            skb.packet = replace(skb.packet, dst_mac=mac)
        else:
            skb.packet = replace(skb.packet, dst_mac=bridge.mac)
        return None

    def _bridge_xmit(self, skb: Skb, bridge: Device) -> Outcome:
        """br_device.c br_dev_xmit: the host's own frame leaves through the port that leads to its MAC (no IP hooks here)."""
        netns = skb.netns
        mac = skb.packet.dst_mac
        out = self.links.port_towards(netns.name, bridge.name, mac)
        if out is None:
            return self._drop(netns.name, f"no port of {bridge.name} leads to MAC {mac}: flooded, and nobody takes it")
        self.emit(netns.name, Bridged(bridge.name, bridge.name, out, mac, packet=self._header(skb.packet)))
        return self._transmit(skb, netns.devices[out])

    # -- VXLAN ---------------------------------------------------------------------------------------------------------

    def _vxlan_xmit(self, skb: Skb, device: Device) -> Outcome:
        """drivers/net/vxlan/vxlan_core.c vxlan_xmit: FDB entry of the MAC -> remote; the outer packet is sent by this host."""
        netns = skb.netns
        vxlan = device.vxlan
        if vxlan is None:
            return self._unknown(netns.name, f"{device.name}: the dump lacks its VNI and local address (save ip -d -j link)")
        remotes = [e.dst for e in netns.fdb if e.dev == device.name and e.mac == skb.packet.dst_mac and e.dst is not None]
        if not remotes:
            remotes = [
                e.dst for e in netns.fdb if e.dev == device.name and e.mac == "00:00:00:00:00:00" and e.dst is not None
            ]
        if not remotes:
            return self._drop(netns.name, f"no FDB entry on {device.name} for MAC {skb.packet.dst_mac}")
        if len(remotes) > 1:
            return self._unknown(netns.name, f"{device.name} replicates to {len(remotes)} remotes")
        remote = remotes[0]
        assert remote is not None
        if lookup(netns, remote, src=vxlan.local, mark=skb.packet.mark)[0].type is RouteType.LOCAL:
            # encap_bypass_if_local, vxlan_encap_bypass: no outer packet; with its route and connection it comes in again
            reason = f"{device.name} to {remote}, which is an address of this host's own: the packet comes back unwrapped"
            return self._unknown(netns.name, reason)
        flow_hash = self._flow_hash(skb.packet)
        inner = replace(skb.packet, mark=0, flow_hash=flow_hash)
        outer = Packet(
            src=vxlan.local,
            dst=remote,
            protocol=UDP,
            sport=SOURCE_PORTS - 1 + flow_hash,  # udp_flow_src_port
            dport=vxlan.port,
            sport_random=True,
            flow_hash=flow_hash,
            length=inner.length + VXLAN_OVERHEAD[remote.family],
            df=False,
            mark=skb.packet.mark,
            inner=inner,
            vni=vxlan.vni,
        )
        self.emit(netns.name, Encapsulated(device.name, vxlan.vni, self._header(outer)))
        if self._nested >= XMIT_RECURSION:
            return self._drop(netns.name, f"dead loop on virtual device {device.name}: its own packets come back to it")
        self._nested += 1
        outcome = self.local_out(netns, outer, f"{device.name} on {netns.name}")
        self._nested = 0
        return outcome

    def _flow_hash(self, packet: Packet) -> int:
        """include/linux/skbuff.h skb_get_hash: equal for packets whose tunnel headers have the same source port, 1 and up.

        TCP and connected UDP sockets hash for themselves (sk_txhash), so that the two ends differ; what else is sent is
        dissected at the first tunnel, where both directions of a flow are one (__flow_hash_consistentify). Later NAT changes
        neither.
        """
        if packet.flow_hash:
            return packet.flow_hash
        ends = (packet.src, packet.sport), (packet.dst, packet.dport)
        if packet.protocol not in (TCP, UDP):
            ends = min(ends), max(ends)
        return self._flow_hashes.setdefault((packet.protocol, *ends), len(self._flow_hashes) + 1)

    def _vxlan_rcv(self, skb: Skb) -> Outcome | None:
        """vxlan_rcv: None where no tunnel end here takes the packet.

        The kernel's own socket has the port on all addresses; what carries no VNI, or none of its devices', it drops in silence.
        """
        packet = skb.packet
        if packet.protocol != UDP:
            return None
        taker = ""
        for device in skb.netns.devices.values():
            vxlan = device.vxlan
            if vxlan is None or vxlan.port != packet.dport or vxlan.local.family != packet.family or not device.up:
                continue
            taker = device.name
            if packet.inner is None or vxlan.vni != packet.vni:
                continue
            inner = replace(packet.inner, mark=packet.mark)
            self.emit(skb.netns.name, Decapsulated(device.name, vxlan.vni, self._header(inner)))
            if inner.dst_mac != device.mac:
                return self._drop(skb.netns.name, f"inner frame for MAC {inner.dst_mac}, {device.name} has {device.mac}")
            return self._ip_rcv(Skb(inner, skb.netns, device.name))
        if not taker:
            return None
        what = "no VXLAN packet" if packet.vni is None else f"of VNI {packet.vni}, which no device here has"
        return self._drop(skb.netns.name, f"UDP {packet.dport} is the port of {taker}, and this is {what}")

    # -- IPVS ----------------------------------------------------------------------------------------------------------

    def ipvs_transmit(self, skb: Skb, view: View, connection: IpvsConnection) -> Outcome | None:
        """ip_vs_xmit.c ip_vs_{nat,tunnel,dr}_xmit: to the real server; None where that is this host, and the packet goes on.

        The route is looked up for the server's address alone (do_output_route4); a local one leaves the packet its old route.
        """
        netns, packet, method = skb.netns, skb.packet, connection.method
        masquerade = method is Method.MASQUERADE
        aim = dataclasses.replace(skb, packet=replace(packet, dst=connection.server, mark=0))
        found = self._route(aim, None, "")
        if isinstance(found, Outcome):
            return self._told(found)
        if found.type not in (RouteType.UNICAST, RouteType.LOCAL):
            self._routed(aim, found)
            return self._told(self._refuse(skb, _HOST, f"no route to real server {connection.server}"))
        local = found.type is RouteType.LOCAL
        was_local = skb.routed is not None and skb.routed.type is RouteType.LOCAL
        loopback_source = packet.src.is_loopback and (packet.family == 4 or skb.indev in ("", "lo"))
        if (not local and loopback_source) or (local and not masquerade and not was_local):
            self._routed(aim, found)
            reason = f"IPVS does not cross between local and other addresses: {packet.src} to real server {connection.server}"
            return self._told(self._drop(netns.name, reason))
        if local and masquerade and connection.server.is_loopback and skb.indev not in ("", "lo"):
            return self._told(self._drop(netns.name, f"IPVS does not translate to a loopback address: {connection.server}"))
        if not local:
            outcome = self._ipvs_leaves(skb, found, connection)
            if outcome is not None:
                return self._told(outcome)
        if masquerade:
            self._translate(skb, view, connection)
        if method is not Method.TUNNEL or local:
            self.ipvs.mark(skb, view, connection, request=True)
        if local:
            return None
        if method is Method.TUNNEL:
            return self._told(self._ipvs_tunnel(skb, found, connection))
        if found.via is None and not masquerade:  # FLOWI_FLAG_KNOWN_NH
            found = replace(found, nexthop=NextHop(found.dev, connection.server))
        aim.packet = replace(packet, dst=connection.server)
        self._routed(aim, found, note=f"IPVS, {METHODS[method]}")
        return self._told(self._ipvs_output(skb, found))

    @staticmethod
    def _told(outcome: Outcome) -> Outcome:
        outcome.told = True
        return outcome

    def _translate(self, skb: Skb, view: View, connection: IpvsConnection) -> None:
        """The protocol's dnat_handler, and the destination address."""
        before = skb.packet
        skb.packet = view.packet = replace(before, dst=connection.server, dport=connection.dport)
        self.emit(skb.netns.name, Natted("dnat", str(before), str(skb.packet), False, "IPVS"))

    def _ipvs_leaves(self, skb: Skb, found: Found, connection: IpvsConnection) -> Outcome | None:
        """__ip_vs_get_out_rt: TTL (of packets made here, too) and MTU."""
        packet, device = skb.packet, skb.netns.devices[found.dev]
        if packet.ttl <= 1:
            kind, code = (TIME_EXCEEDED, 0) if packet.family == 4 else (V6_TIME_EXCEEDED, 0)
            answer = self._icmp_error(skb, kind, code)
            self.emit(skb.netns.name, Rejected("TTL spent", "ICMP time exceeded"))
            where = skb.netns.name
            return Outcome("rejected", f"TTL spent (on {where})", where, answer=answer, answer_ct=attached(skb))
        limit = (found.route.mtu if found.route is not None else None) or device.mtu
        if connection.method is Method.TUNNEL:
            limit -= IPIP_OVERHEAD[packet.family]
            if packet.family == 4 and not skb.netns.sysctl("ipv4.vs.pmtu_disc", 1):
                limit = packet.length
        skb.packet = replace(packet, ttl=packet.ttl - 1)
        if packet.length > limit and skb.local and packet.protocol == TCP:
            self.emit(skb.netns.name, MtuStep(device.name, limit, packet.length, f"TCP makes segments that fit: {limit} bytes"))
            skb.packet = replace(skb.packet, length=limit)
        elif packet.length > limit and (packet.df or packet.family == 6):
            return self._too_long(skb, device, limit)
        return None

    def _ipvs_output(self, skb: Skb, found: Found) -> Outcome:
        """ip_vs_nat_send_or_cont, ip_vs_send_or_cont: the translated packet passes all of OUTPUT (again), then leaves."""
        skb.routed, skb.reroute = found, None
        if skb.ct is not None and skb.ct.state is CtState.INVALID:
            skb.ct = None  # it is looked at again
        outcome = self._hook(skb, Hook.OUTPUT, "", found.out) or self._reroute(skb, "OUTPUT")
        return outcome or self._output(skb)

    def _ipvs_tunnel(self, skb: Skb, found: Found, connection: IpvsConnection) -> Outcome:
        """ip_vs_tunnel_xmit: an IPIP header of its own before the packet; no tunnel device is needed on this side."""
        netns, inner = skb.netns, skb.packet
        source = source_for(netns, found, connection.server)
        if source is None:
            return self._drop(netns.name, f"no source address towards real server {connection.server}")
        outer = Packet(
            src=source,
            dst=connection.server,
            protocol=IPIP if inner.family == 4 else IPV6_IN_IPV6,
            ttl=inner.ttl,
            length=inner.length + IPIP_OVERHEAD[inner.family],
            df=inner.df and bool(netns.sysctl("ipv4.vs.pmtu_disc", 1)),
            mark=inner.mark,
            inner=replace(inner, mark=0),
        )
        self.emit(netns.name, Encapsulated("IPVS", None, self._header(outer)))
        if connection.conntrack:
            self.netfilter.confirm(skb)
        again = Skb(outer, netns, skb.indev, local=skb.local, socket=skb.socket, ipvs=True)
        self._routed(again, found, note=f"IPVS, {METHODS[connection.method]}")
        return self._ipvs_output(again, found)

    def ipvs_refuse(self, skb: Skb, reason: str) -> Outcome:
        """ip_vs_core.c ip_vs_leave."""
        return self._told(self._refuse(skb, _PORT, reason))

    def ipvs_relay(self, skb: Skb, about: Packet) -> Outcome:
        """ip_vs_core.c ip_vs_in_icmp: the error about the tunnel is told to the client as one about its own packet."""
        answer = self._icmp_error(dataclasses.replace(skb, packet=about), skb.packet.icmp_type, skb.packet.icmp_code)
        reason = f"ICMP {icmp_text(skb.packet)} about IPVS's tunnel"
        self.note(skb.netns.name, f"{reason} is told to the client")
        if answer is None:
            return self._told(self._drop(skb.netns.name, reason))
        return self._told(self.local_out(skb.netns, answer, f"kernel of {skb.netns.name}", attached(skb)))

    # -- IPIP ----------------------------------------------------------------------------------------------------------

    def _ipip_xmit(self, skb: Skb, device: Device, nexthop: Ip) -> Outcome:
        """drivers/net: net/ipv4/ip_tunnel.c ip_tunnel_xmit of a tunnel without a remote (tunl0): the route's gateway is the other
        end, or the destination itself where there is none. TTL, TOS and DF are those of the packet inside.

        The mark stays, the connection is let go (skb_scrub_packet): the outer packet is one that this host sends.
        """
        netns, packet = skb.netns, skb.packet
        if not device.up:
            return self._drop(netns.name, f"{device.name} is down")
        if packet.family != 4 or device.name != TUNL0:
            return self._unknown(netns.name, f"IPv{packet.family} through the tunnel {device.name}")
        there = lookup(netns, nexthop)
        if there[0].type not in (RouteType.UNICAST, RouteType.LOCAL):
            return self._drop(netns.name, f"{device.name}: no route to the tunnel's other end, {nexthop}")
        if any(found.out == device.name for found in there):
            return self._drop(netns.name, f"{device.name}: the way to {nexthop} is {device.name} itself")
        limit = netns.devices[there[0].out].mtu - IPIP_OVERHEAD[4]
        if packet.length > limit and packet.df:  # tnl_update_pmtu
            self.emit(netns.name, MtuStep(device.name, limit, packet.length, "too long for the tunnel, and DF is set"))
            answer = self._icmp_error(skb, UNREACHABLE, 4)
            reason = f"{packet.length} bytes do not fit the tunnel {device.name}, {limit}; ICMP fragmentation needed goes back"
            self.emit(netns.name, Dropped(reason))
            return Outcome("dropped", f"{reason} (on {netns.name})", netns.name, answer=answer, answer_ct=attached(skb))
        inner = replace(packet, mark=0, src_mac="", dst_mac="")
        outer = Packet(
            src=Ip(4, 0),  # chosen by the route (ip_route_output_key)
            dst=nexthop,
            protocol=IPIP,
            ttl=packet.ttl,
            length=packet.length + IPIP_OVERHEAD[4],
            df=packet.df,
            mark=packet.mark,
            inner=inner,
        )
        source = source_for(netns, there[0], nexthop)
        if source is None:
            return self._drop(netns.name, f"{device.name}: no source address towards {nexthop}")
        outer = replace(outer, src=source)
        self.emit(netns.name, Encapsulated(device.name, None, self._header(outer)))
        if self._nested >= XMIT_RECURSION:
            return self._drop(netns.name, f"dead loop on virtual device {device.name}: its own packets come back to it")
        self._nested += 1
        outcome = self.local_out(netns, outer, f"{device.name} on {netns.name}", socket=False)
        self._nested = 0
        return outcome

    def _ipip_rcv(self, skb: Skb) -> Outcome | None:
        """net/ipv4/ipip.c ipip_rcv: tunl0 takes every IPIP packet for this host; None where there is no such device."""
        packet = skb.packet
        device = skb.netns.devices.get(TUNL0)
        if packet.protocol != IPIP or packet.inner is None or device is None or not device.up:
            return None
        if any(d.kind is DeviceKind.IPIP and d is not device for d in skb.netns.devices.values()):
            return self._unknown(skb.netns.name, "IPIP packet: which of several tunnels takes it")
        inner = replace(packet.inner, mark=packet.mark)
        self.emit(skb.netns.name, Decapsulated(device.name, None, self._header(inner)))
        return self._ip_rcv(Skb(inner, skb.netns, device.name))

    # -- receiving -----------------------------------------------------------------------------------------------------

    def _ip_rcv(self, skb: Skb) -> Outcome:
        """ip_input.c ip_rcv, ip_rcv_finish: PREROUTING (once: br_netfilter's ip_sabotage_in), then the route decides."""
        dev = skb.indev
        netns = skb.netns
        if not skb.bridge_prerouted:
            before = skb.packet.dst
            outcome = self._hook(skb, Hook.PREROUTING, dev, "")
            if outcome is not None:
                return outcome
            if skb.packet.dst != before:
                skb.routed = None  # nf_nat_ipv4_pre_routing: skb_dst_drop
        if skb.routed is not None:  # looped back with its route
            return self._local_deliver(skb)
        packet = skb.packet
        if packet.dst.is_loopback and not (packet.family == 4 and route_localnet(netns, dev)):
            return self._drop(netns.name, f"martian destination {packet.dst} on {dev} (loopback address from a wire)")
        found = self._route(skb, packet.src, dev)
        if isinstance(found, Outcome):
            return found
        skb.routed = found
        forwards = forwarding(netns, packet.family, dev)
        if found.type in (RouteType.LOCAL, RouteType.BROADCAST, RouteType.ANYCAST, RouteType.UNICAST):
            if found.type is RouteType.UNICAST and not forwards:
                self._routed(skb, found)
                reason = f"{packet.dst} is not an address of this host, and it does not forward (ip_forward=0)"
                return self._drop(netns.name, reason)
            refusal = source_refusal(netns, packet.src, packet.dst, dev, packet.mark)
            if refusal is not None:
                return self._drop(netns.name, refusal)
        self._routed(skb, found)
        match found.type:
            case RouteType.LOCAL | RouteType.BROADCAST | RouteType.ANYCAST:
                return self._local_deliver(skb)
            case RouteType.UNICAST:
                return self._forward(skb, found)
            case RouteType.BLACKHOLE:
                return self._drop(netns.name, self._blackhole_reason(netns, packet.dst, found))
            case RouteType.PROHIBIT:
                return self._refuse(skb, _FILTERED, f"prohibit route to {packet.dst}") if forwards else self._drop(
                    netns.name, f"prohibit route to {packet.dst}"
                )
            case _:
                reason = f"no route to {packet.dst}" if found.route is None else f"unreachable route to {packet.dst}"
                if not forwards:
                    return self._drop(netns.name, reason)
                return self._refuse(skb, _NET if found.route is None else _HOST, reason)

    @staticmethod
    def _blackhole_reason(netns: Netns, dst: Ip, found: Found) -> str:
        if netns.kind is NetnsKind.EXTERNAL:
            return f"left the cluster: nobody beyond the gateway has {dst}"
        if found.route is None or found.route.dst.length == dst.bits:
            return f"blackhole route to {dst}"
        return f"blackhole route {found.route.dst}: no longer prefix leads to {dst}, so nobody has it"

    def _forward(self, skb: Skb, found: Found) -> Outcome:
        """ip_forward.c ip_forward: TTL, MTU, FORWARD; then as any output."""
        netns, packet = skb.netns, skb.packet
        seen = replace(packet, ttl=0, inner=None, src_mac="", dst_mac="", flow_hash=0)
        if packet.sport_random:
            seen = replace(seen, sport=0, icmp_id=0)
        key = (netns.name, skb.indev, seen)
        lap = self._forwarded.get(key, packet.ttl) - packet.ttl
        if 0 < lap < packet.ttl:  # it will come by again and again: on to the last lap, which is like this one
            left = packet.ttl % lap or lap
            text = f"routing loop: {packet} comes by again with TTL {packet.ttl}; its end is followed from TTL {left}"
            self.note(netns.name, text)
            skb.packet = packet = replace(packet, ttl=left)
            self._looped = True
        else:
            self._forwarded[key] = packet.ttl
        if packet.ttl <= 1:
            kind, code = (TIME_EXCEEDED, 0) if packet.family == 4 else (V6_TIME_EXCEEDED, 0)
            answer = self._icmp_error(skb, kind, code)
            reason = "TTL spent in a routing loop" if self._looped else "TTL spent"
            self.emit(netns.name, Rejected(reason, "ICMP time exceeded"))
            return Outcome("rejected", f"{reason} (on {netns.name})", netns.name, answer=answer, answer_ct=attached(skb))
        device = netns.devices[found.dev]
        limit = (found.route.mtu if found.route is not None else None) or device.mtu
        if packet.length > limit and (packet.df or packet.family == 6):
            return self._too_long(skb, device, limit)
        skb.packet = replace(packet, ttl=packet.ttl - 1)
        outcome = self._hook(skb, Hook.FORWARD, skb.indev, found.dev) or self._reroute(skb, "FORWARD")
        if outcome is not None:
            return outcome
        return self._output(skb)

    def _too_long(self, skb: Skb, device: Device, limit: int) -> Outcome:
        """ICMP fragmentation needed, or packet too big."""
        packet, where = skb.packet, skb.netns.name
        self.emit(where, MtuStep(device.name, limit, packet.length, "too long, and DF is set"))
        kind, code = (UNREACHABLE, 4) if packet.family == 4 else (V6_TOO_BIG, 0)
        answer = self._icmp_error(skb, kind, code)
        words = "fragmentation needed" if packet.family == 4 else "packet too big"
        reason = f"{packet.length} bytes do not fit the MTU of {device.name}, {limit}"
        self.emit(where, Dropped(f"{reason}; ICMP {words} goes back"))
        reason = f"{reason} (on {where}); ICMP {words} goes back"
        return Outcome("dropped", reason, where, answer=answer, answer_ct=attached(skb))

    def _local_deliver(self, skb: Skb) -> Outcome:
        """ip_input.c ip_local_deliver: INPUT, then whoever listens."""
        outcome = self._hook(skb, Hook.INPUT, skb.indev, "")
        if outcome is not None:
            return outcome
        tunnelled = self._vxlan_rcv(skb) or self._ipip_rcv(skb)
        if tunnelled is not None:
            return tunnelled
        netns, packet = skb.netns, skb.packet
        expected = self.expected
        if expected is not None and netns.name == expected.netns:
            if packet.quoted is not None and packet.quoted.flow == expected.sent:
                self.emit(netns.name, Delivered("socket of the sender", expected.owner, self._header(packet)))
                return Outcome("delivered", icmp_text(packet), netns.name, packet, is_answer=True)
            if packet.quoted is None and packet.flow == expected.reply:
                self.emit(netns.name, Delivered("socket of the sender", expected.owner, self._header(packet)))
                return Outcome("delivered", "", netns.name, packet)
        if packet.quoted is not None:
            about = packet.quoted.flow
            return self._drop(netns.name, f"ICMP {icmp_text(packet)} about {about}: no socket here sent that")
        if packet.protocol in (ICMP, ICMPV6):
            timestamp = packet.icmp_type == TIMESTAMP and packet.length >= 32  # icmp_timestamp: at least one word of time
            if packet.icmp_type in (ECHO_REQUEST, V6_ECHO_REQUEST) or timestamp:
                if any(service.ip == packet.dst for service in netns.ipvs):
                    self.note(netns.name, f"{packet.dst} is an address of this host's own: IPVS's real servers see no ping")
                self.emit(netns.name, Delivered(str(packet.dst), f"kernel of {netns.name}", self._header(packet)))
                return Outcome("delivered", "", netns.name, packet, f"kernel of {netns.name}")
            return self._drop(netns.name, f"ICMP {icmp_text(packet)} that nobody asked for")
        if packet.protocol == IPIP:
            return self._unknown(netns.name, "IPIP packet for a host without a tunnel that takes it")
        if packet.tcp_flags & RST:
            return self._drop(netns.name, "TCP RST for a connection that does not exist here")
        if packet.protocol == TCP and packet.tcp_flags & ACK:
            outcome = self._drop(netns.name, f"TCP answer {packet} belongs to no connection of this host: it is reset")
            outcome.answer = _reset(packet)  # tcp_v4_rcv: no socket
            outcome.answer_socket = packet.family == 4  # ip_send_unicast_reply has one, tcp_v6_send_response has none
            return outcome
        listener = self._listener(netns, packet)
        if listener is None:
            return self._refused(skb)
        if listener.not_modelled:
            return self._unknown(netns.name, listener.not_modelled)
        if packet.protocol == SCTP and listener.ip is None and _has_others(netns, packet.dst):
            taken = f"SCTP on {netns.name}: {packet.dst} is taken to be all that it offers (bound to none, it offers each)"
            self.assumptions[taken] = None
        text = socket_text(packet.dst, packet.dport)
        self.emit(netns.name, Delivered(text, listener.owner, self._header(packet), listener.assumed))
        return Outcome("delivered", "", netns.name, packet, listener.owner, listener.assumed, proxy=listener.proxy)

    def _listener(self, netns: Netns, packet: Packet) -> Listener | None:
        """The socket for a packet; where nothing at all is declared for a pod or an external host, one is assumed, and said."""
        for listener in netns.listeners:
            if listener.protocol == packet.protocol and listener.port == packet.dport and listener.ip in (None, packet.dst):
                return listener
        waits = self.expected.reply if self.expected is not None and self.expected.netns == netns.name else None
        if waits is not None and (waits.protocol, waits.dst, waits.dport) == (packet.protocol, packet.dst, packet.dport):
            return None  # the sender's own port: its socket is connected, and takes nothing from anybody else
        name = protocol_name(packet.protocol).upper()
        if netns.kind is NetnsKind.POD and not netns.listeners:
            self.assumptions[f"pod {netns.name} declares no ports: it is taken to listen on {packet.dport}/{name}"] = None
            return Listener(packet.protocol, packet.dport, f"pod {netns.name}", assumed=True)
        if netns.kind is NetnsKind.EXTERNAL:
            self.assumptions[f"external host {packet.dst} is taken to answer on {packet.dport}/{name}"] = None
            return Listener(packet.protocol, packet.dport, f"external host {packet.dst}", assumed=True)
        return None

    def _refused(self, skb: Skb) -> Outcome:
        """No socket: TCP resets (tcp_ipv4.c tcp_v4_send_reset), the rest is answered with ICMP."""
        netns, packet = skb.netns, skb.packet
        name = protocol_name(packet.protocol).upper()
        reason = f"nothing listens on {socket_text(packet.dst, packet.dport)}/{name}"
        if packet.protocol == TCP:
            self.emit(netns.name, Rejected(reason, "TCP RST"))
            text, answer = f"{reason} (on {netns.name})", _reset(packet)
            return Outcome("rejected", text, netns.name, packet, answer=answer, answer_socket=packet.family == 4)
        if packet.protocol == SCTP:  # sctp/input.c: an ABORT chunk
            self.emit(netns.name, Rejected(reason, "SCTP ABORT"))
            return Outcome("rejected", f"{reason} (on {netns.name})", netns.name, packet, answer=_reset(packet))
        udp = packet.protocol == UDP
        if packet.family == 6 and not udp:  # ip6_input.c ip6_protocol_deliver_rcu
            self.emit(netns.name, Rejected(reason, "ICMP unrecognized next header"))
            answer = self._icmp_error(skb, *_NEXT_HEADER)
            return Outcome("rejected", f"{reason} (on {netns.name})", netns.name, answer=answer, answer_ct=attached(skb))
        return self._refuse(skb, _PORT if udp else _PROTO, reason, ct=not udp)

    def note(self, where: str, text: str) -> None:
        """A remark of the caller's at this point of the record."""
        self.emit(where, NoteStep(text))


def _proxies(netns: Netns, dev: str, ip: Ip, asker: Ip | None) -> bool:
    """net/ipv4/arp.c arp_process: would this host answer a question on `dev` for an address that is not its own?

    The question must pass for a packet from the asker (ip_route_input: a route, rp_filter), the device must forward, and the
    route must lead out of another one; then proxy_arp, or an entry of `ip neigh show proxy`, says yes.
    """
    if not forwarding(netns, 4, dev):
        return False
    if asker is not None and source_refusal(netns, asker, ip, dev) is not None:
        return False
    found = lookup(netns, ip, src=asker, iif=dev)[0]
    if found.type is not RouteType.UNICAST or found.dev == dev:
        return False
    if netns.sysctl(f"ipv4.conf.{dev}.proxy_arp") or netns.sysctl("ipv4.conf.all.proxy_arp"):
        return True
    return any(entry.proxy and entry.dev == dev and entry.ip == ip for entry in netns.neighbours)


def _has_others(netns: Netns, own: Ip) -> bool:
    """Whether a host has global addresses of the family beside this one: sctp/protocol.c would offer each (RFC 9260, 5.1.2)."""
    addresses = (address.ip for device in netns.devices.values() for address in device.addresses)
    return any(a.family == own.family and a != own and not (a.is_loopback or a.is_link_local) for a in addresses)


def _reset(packet: Packet) -> Packet | None:
    if packet.tcp_flags & RST:
        return None
    flags = RST if packet.tcp_flags & ACK and packet.protocol == TCP else RST | ACK  # one flag for every ABORT
    return Packet(
        src=packet.dst,
        dst=packet.src,
        protocol=packet.protocol,
        sport=packet.dport,
        dport=packet.sport,
        tcp_flags=flags,
        length=40 if packet.family == 4 else 60,
    )


def reply_to(packet: Packet) -> Packet:
    """What the endpoint answers: SYN-ACK, a datagram back, an echo reply, INIT-ACK."""
    if packet.protocol in (ICMP, ICMPV6):
        if packet.icmp_type == TIMESTAMP:  # icmp.c icmp_timestamp: three times of day behind the header, nothing of the request
            return Packet(packet.dst, packet.src, ICMP, icmp_type=TIMESTAMP_REPLY, icmp_id=packet.icmp_id, length=40)
        kind = ECHO_REPLY if packet.protocol == ICMP else V6_ECHO_REPLY
        return Packet(
            packet.dst,
            packet.src,
            packet.protocol,
            icmp_type=kind,
            icmp_id=packet.icmp_id,
            length=packet.length,
            sport_random=packet.sport_random,
        )
    flags = SYN | ACK if packet.protocol == TCP else ACK if packet.protocol == SCTP else 0
    return Packet(
        packet.dst,
        packet.src,
        packet.protocol,
        sport=packet.dport,
        dport=packet.sport,
        tcp_flags=flags,
        length=60,
    )
