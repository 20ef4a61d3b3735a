"""IPVS for one walk: what happens to a packet of a virtual service at the hooks where IPVS looks.

    LOCAL_IN, LOCAL_OUT:  reply (source back to the virtual service), then request (schedule, or a known connection) -> transmit
    FORWARD:              ICMP errors, then reply

Law: each function is one of net/netfilter/ipvs/{ip_vs_core,ip_vs_xmit,ip_vs_nfct}.c, in its order, as in Linux 6.1 and later.
Which server is chosen is linux/ipvs_schedulers.py's matter; routing and sending are the walker's. What is not modelled ends as
`unknown` by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from netlab.linux.addr import Ip
from netlab.linux.conntrack import CtState, CtView
from netlab.linux.ipvs import (
    FTP,
    FTP_DATA,
    Method,
    RealServer,
    VirtualService,
    service_text,
    unmodelled,
    unprivileged,
)
from netlab.linux.ipvs_connections import IpvsConnection, IpvsConnections
from netlab.linux.ipvs_schedulers import Asked, Scheduled, schedule
from netlab.linux.netns import Netns, RouteType
from netlab.linux.packet import ACK, ICMP, ICMPV6, IPIP, RST, SCTP, SYN, TCP, UDP, Packet
from netlab.linux.rules import Hook
from netlab.linux.text.ipvsadm import write_save
from netlab.match.view import View, nice
from netlab.trace.choices import Chooser
from netlab.trace.skb import Outcome, Skb
from netlab.trace.steps import AnyStep, IpvsStep, Natted

METHODS = {Method.MASQUERADE: "masquerade", Method.TUNNEL: "tunnel", Method.ROUTE: "direct route"}
_PROTOCOLS = frozenset({TCP, UDP, SCTP})


class Transmitter(Protocol):
    """The walker's part: routes, and packets on their way."""

    def ipvs_transmit(self, skb: Skb, view: View, connection: IpvsConnection) -> Outcome | None:
        """ip_vs_xmit.c: hand the packet to the real server; None where that is this host and the packet goes on."""

    def ipvs_refuse(self, skb: Skb, reason: str) -> Outcome:
        """ip_vs_core.c ip_vs_leave: ICMP port unreachable."""

    def ipvs_relay(self, skb: Skb, about: Packet) -> Outcome:
        """ip_vs_core.c ip_vs_in_icmp: an ICMP error about our IPIP packet is told to the client, about the packet inside."""


class Ipvs:
    """IPVS of all namespaces during one run."""

    def __init__(
        self,
        chooser: Chooser,
        emit: Callable[[str, AnyStep], None],
        assume: Callable[[str], None],
        transmitter: Transmitter,
        forget: Callable[[Netns, CtView], None],
    ) -> None:
        self.chooser = chooser
        self.emit = emit
        self.assume = assume
        self.transmitter = transmitter
        self.forget = forget
        self._tables: dict[str, IpvsConnections] = {}

    def connections(self, netns: Netns) -> IpvsConnections:
        """The connections of a namespace."""
        return self._tables.setdefault(netns.name, IpvsConnections())

    # -- replies: ip_vs_out ----------------------------------------------------------------------------------------------

    def reply(self, skb: Skb, view: View) -> Outcome | None:
        """ip_vs_out_hook: a packet of a real server to its client gets the virtual service's address as its source."""
        packet = view.packet
        if skb.ipvs:
            return None
        if packet.quoted is not None:
            return self._reply_icmp(skb, view, packet, packet.quoted)
        if packet.protocol not in _PROTOCOLS:
            return None
        found = self.connections(skb.netns).outgoing(packet.flow)
        if found is None:
            return self._icmp_send(skb, packet)
        if found.method is Method.MASQUERADE:
            self._answered(skb, view, found, replace(packet, src=found.virtual, sport=found.vport, sport_random=False), "")
        else:
            self.mark(skb, view, found, request=False)
        return None

    def _reply_icmp(self, skb: Skb, view: View, packet: Packet, quoted: Packet) -> Outcome | None:
        """ip_vs_out_icmp, handle_response_icmp: an error about a translated request, whoever sent it, comes from the service."""
        found = self.connections(skb.netns).outgoing(quoted.flow, inverse=True)
        if found is None:
            return None
        if found.method is not Method.MASQUERADE:
            self.mark(skb, view, found, request=False)
            return None
        if packet.family == 6 and not _nat_checks(skb):
            # handle_response_icmp: ip_vs_checksum_complete leaves out IPv6's pseudo header, so that no unchecked sum is right
            if view.hook is Hook.OUTPUT:
                what = "IPVS takes the checksum of this host's own ICMPv6 error for wrong where NAT has not looked at it before"
                return Outcome("dropped", what, skb.netns.name)
            where = skb.netns.name
            self.assume(f"the device that ICMPv6 errors come in through on {where} vouches for their checksums, as veth does")
        quoted = replace(quoted, dst=found.virtual, dport=found.vport)
        self._answered(skb, view, found, replace(packet, src=found.virtual, quoted=quoted), f"and in the quoted packet: {quoted}")
        return None

    def _answered(self, skb: Skb, view: View, found: IpvsConnection, packet: Packet, note: str) -> None:
        note = f"IPVS{', ' if note else ''}{note}"
        self.emit(skb.netns.name, Natted("snat", str(view.packet), str(packet), True, note))
        skb.packet = view.packet = packet
        remote = skb.routed is not None and skb.routed.type is not RouteType.LOCAL
        if remote and view.hook is not Hook.INPUT and skb.netns.sysctl("ipv4.vs.snat_reroute", 1):
            skb.reroute = packet  # ip_vs_route_me_harder
        self.mark(skb, view, found, request=False)

    def _icmp_send(self, skb: Skb, packet: Packet) -> Outcome | None:
        """net.ipv4.vs.nat_icmp_send: a real server that speaks without a connection would be told port unreachable."""
        if not skb.netns.sysctl("ipv4.vs.nat_icmp_send"):
            return None
        for service in skb.netns.ipvs:
            if service.protocol == packet.protocol and any((r.ip, r.port) == (packet.src, packet.sport) for r in service.servers):
                what = f"net.ipv4.vs.nat_icmp_send=1 for real server {packet.src.port(packet.sport)} without a connection"
                return Outcome("unknown", f"{what} (not modelled)", skb.netns.name)
        return None

    # -- requests: ip_vs_in ----------------------------------------------------------------------------------------------

    def request(self, skb: Skb, view: View) -> Outcome | None:
        """ip_vs_in_hook: find the connection or make one, and transmit."""
        packet = view.packet
        if skb.ipvs:
            return None
        if view.hook is Hook.INPUT and skb.routed is not None and skb.routed.type is not RouteType.LOCAL:
            return None  # only PACKET_HOST
        if packet.quoted is not None:
            return self.forward_icmp(skb, view)
        if packet.protocol not in _PROTOCOLS:
            return None
        found = self.connections(skb.netns).incoming(packet.flow)
        if found is None:
            made = self._schedule(skb, view, packet)
            if not isinstance(made, IpvsConnection):
                return made
            found = made
        else:
            self._step(skb, view, found.service, found.real, "connection")
        outcome = self.transmitter.ipvs_transmit(skb, view, found)
        if found.service.one_packet and packet.protocol == UDP and found.conntrack and skb.ct is not None:
            self.forget(skb.netns, skb.ct)  # ip_vs_conn_put: the connection has expired, and takes that of conntrack with it
        return outcome

    def forward_icmp(self, skb: Skb, view: View) -> Outcome | None:
        """ip_vs_in_icmp: an error from a client about a reply goes on to the real server, one about our own IPIP packet to the
        client."""
        packet, quoted = view.packet, view.packet.quoted
        if skb.ipvs or quoted is None:
            return None
        table = self.connections(skb.netns)
        if quoted.protocol == IPIP and quoted.inner is not None:
            if view.hook is Hook.INPUT and table.incoming(quoted.inner.flow) is not None:
                return self.transmitter.ipvs_relay(skb, quoted.inner)
            return None
        if table.incoming(quoted.flow, inverse=True) is None:
            return None
        return Outcome("unknown", f"ICMP error {packet} about a reply of an IPVS connection (not modelled)", skb.netns.name)

    def _schedule(self, skb: Skb, view: View, packet: Packet) -> IpvsConnection | Outcome | None:
        """ip_vs_proto_{tcp,udp,sctp}.c *_conn_schedule, and ip_vs_core.c ip_vs_schedule, ip_vs_sched_persist."""
        netns = skb.netns
        if packet.protocol == TCP and (
            packet.tcp_flags & RST or not (packet.tcp_flags & SYN or netns.sysctl("ipv4.vs.sloppy_tcp"))
        ):
            return None
        if packet.protocol == SCTP and packet.tcp_flags & ACK and not netns.sysctl("ipv4.vs.sloppy_sctp"):
            return None  # not an INIT
        service = find_service(netns, packet)
        if service is None:
            return None
        unknown = unmodelled(netns, service)
        if unknown:
            return Outcome("unknown", unknown, netns.name)
        if packet.sport == FTP_DATA:
            return None
        table = self.connections(netns)
        if (view.hook is Hook.OUTPUT or skb.indev == "lo") and table.incoming(packet.flow, inverse=True) is not None:
            return None  # a reply of a real server on this host
        text = service_text(service)
        persistent = service.timeout is not None
        if not persistent and not service.fwmark and service.port != packet.dport:
            return self._leave(skb, view, service, packet, f"IPVS service {text} takes its own port only")
        template = _template(service, packet)
        real = table.templates.get(template) if persistent else None
        chance, why = "", "persistence"
        if real is None:
            chosen = self._choose(skb, service, packet)
            if isinstance(chosen, Outcome):
                return chosen
            if chosen is None:
                return self._leave(skb, view, service, packet, f"IPVS service {text} has no real server that takes connections")
            real, chance, why = chosen
            if real.tunnel or real.ip.family != packet.family:
                kind = real.tunnel or "a tunnel over another family"
                return Outcome("unknown", f"IPVS {kind} to real server {real.ip.port(real.port)} is not modelled", netns.name)
            if persistent:
                table.templates[template] = real
        made = IpvsConnection(
            protocol=packet.protocol,
            client=packet.src,
            cport=packet.sport,
            virtual=packet.dst,
            vport=packet.dport,
            server=real.ip,
            dport=(real.port or packet.dport) if not persistent or packet.dport == service.port else packet.dport,
            method=real.method,
            conntrack=bool(netns.sysctl("ipv4.vs.conntrack")),
            service=service,
            real=real,
            control=template[2] if persistent else None,
        )
        if not (service.one_packet and packet.protocol == UDP):
            table.add(made)
        self._step(skb, view, service, real, "scheduled", why, chance)
        return made

    def _choose(
        self, skb: Skb, service: VirtualService, packet: Packet
    ) -> tuple[RealServer, str, str] | Outcome | None:
        """The scheduler's answer: a real server, the chance of it ("" where certain), and why; None for no server."""
        tables = skb.netns.cache.setdefault("ipvs tables", {})
        assert isinstance(tables, dict)
        sport = None if packet.sport_random else packet.sport
        said: Scheduled = schedule(service, Asked(packet.src, packet.dst, sport), tables)
        if said.unknown:
            return Outcome("unknown", f"{said.unknown} of {service_text(service)} is not modelled", skb.netns.name)
        if said.assumes:
            self.assume(f"IPVS on {skb.netns.name}, {service_text(service)} ({service.scheduler}): {said.assumes}")
        if not said.shares:
            return None
        if len(said.shares) == 1:
            return said.shares[0][0], "", said.why
        label = f"IPVS {service_text(service)} on {skb.netns.name}"
        names = [f"{label}: {real.ip.port(real.port)}" for real, _ in said.shares]
        real, share = said.shares[self.chooser.choose([share for _, share in said.shares], label, names)]
        return real, str(nice(share)), said.why

    def _leave(self, skb: Skb, view: View, service: VirtualService, packet: Packet, reason: str) -> Outcome | None:
        """ip_vs_leave: ICMP port unreachable, whatever the protocol; packets for other ports than FTP's own go on."""
        if service.fwmark and skb.netns.sysctl("ipv4.vs.cache_bypass"):
            return Outcome("unknown", "net.ipv4.vs.cache_bypass=1 is not modelled", skb.netns.name)
        if service.port == FTP and packet.dport != FTP:
            return None
        self._step(skb, view, service, None, "no server")
        return self.transmitter.ipvs_refuse(skb, reason)

    def _step(
        self, skb: Skb, view: View, service: VirtualService, real: RealServer | None, action: str, why: str = "", chance: str = ""
    ) -> None:
        written = write_save([replace(service, servers=() if real is None else (real,))]).splitlines()
        self.emit(
            skb.netns.name,
            IpvsStep(
                hook=view.hook.value,
                action=action,
                service=written[0],
                server="" if real is None else real.ip.port(real.port),
                rule="" if real is None else written[1],
                method="" if real is None else METHODS[real.method],
                scheduler=service.scheduler,
                why=why,
                chance=chance,
                origin=skb.netns.origins.get("ipvs", "expected"),
                ref=service.ref,
            ),
        )

    # -- what stays with the packet ----------------------------------------------------------------------------------------

    def mark(self, skb: Skb, view: View, connection: IpvsConnection, request: bool) -> None:
        """skb->ipvs_property, and connection tracking: without net.ipv4.vs.conntrack the packet is UNTRACKED from here on
        (ip_vs_notrack), with it the reply that is waited for comes from the real server (ip_vs_nfct.c ip_vs_update_conntrack)."""
        skb.ipvs = view.ipvs = True
        tracked = skb.ct.connection if skb.ct is not None else None
        if not connection.conntrack:
            if tracked is not None:
                skb.ct = view.ct = CtView(CtState.UNTRACKED)
            return
        if tracked is None or tracked.confirmed or skb.ct is None or skb.ct.is_reply:
            return
        if connection.method is not Method.MASQUERADE:
            return
        old = tracked.reply
        icmp = old.protocol in (ICMP, ICMPV6)
        if request:
            tracked.reply = replace(old, src=connection.server, sport=old.sport if icmp else connection.dport)
        else:
            tracked.reply = replace(old, dst=connection.virtual, dport=old.dport if icmp else connection.vport)


def _nat_checks(skb: Skb) -> bool:
    """nf_nat_proto.c nf_nat_icmpv6_reply_translation: the sum of errors about tracked connections was checked."""
    ruleset = skb.netns.rulesets.get(skb.packet.family)
    return skb.ct is not None and skb.ct.connection is not None and ruleset is not None and ruleset.table("nat") is not None


def find_service(netns: Netns, packet: Packet) -> VirtualService | None:
    """ip_vs_ctl.c ip_vs_service_find: by firewall mark, by address and port, FTP's data, and the service for all other ports."""
    services = [service for service in netns.ipvs if service.family == packet.family]
    for service in services:
        if service.fwmark and service.fwmark == packet.mark:
            return service
    named = [s for s in services if not s.fwmark and (s.protocol, s.ip) == (packet.protocol, packet.dst)]
    ports = [packet.dport]
    if packet.protocol == TCP and (packet.dport == FTP_DATA or packet.dport >= unprivileged(netns)):
        ports.append(FTP)
    for port in (*ports, 0):
        for service in named:
            if service.port == port:
                return service
    return None


def _template(service: VirtualService, packet: Packet) -> tuple[int, Ip, int, Ip | int]:
    """ip_vs_sched_persist: protocol, client's network, port, and address of the template (for a firewall mark, that)."""
    bits = packet.src.bits
    length = service.netmask if service.netmask is not None else bits
    network = Ip(packet.family, packet.src.value >> bits - length << bits - length if length < bits else packet.src.value)
    if packet.dport == service.port:
        return packet.protocol, network, 0 if service.port == FTP else packet.dport, packet.dst
    if service.fwmark:
        return 0, network, 0, service.fwmark
    return packet.protocol, network, 0, packet.dst
