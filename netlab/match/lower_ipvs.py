"""IPVS's virtual services as chains of the rule IR: what ip_vs_in_hook does with the first packet of a connection.

    ipvs:  ! schedulable RETURN | -d 10.96.0.10 -p udp --dport 53 goto "10.96.0.10:53/udp" | ...
    10.96.0.10:53/udp:  a rule for each real server with its chance (rr, wrr, lc, ...), or the scheduler is asked (sh, dh, mh)

Law: the answer is that of trace/ipvs.py where IPVS has no connections yet. Services are looked for as ip_vs_ctl.c
ip_vs_service_find does: by firewall mark, by address and port, FTP's data, any port. What is not modelled is an UnknownTarget.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from netlab.linux import matches as m
from netlab.linux import targets as t
from netlab.linux.addr import Ip, mask_of
from netlab.linux.ipvs import FTP, FTP_DATA, RealServer, VirtualService, service_text, unmodelled, unprivileged
from netlab.linux.ipvs_schedulers import HASHING, Asked, schedule
from netlab.linux.netns import Netns
from netlab.linux.packet import SCTP, TCP, UDP
from netlab.linux.rules import Chain, Hook, Rule
from netlab.match.lowered import FromPort, LoweredChain, LoweredMatch, LoweredTable, Odds, Schedulable, Scheduled, ToServer, rule

TABLE: Final = "ipvs"
_PORTS: Final = {TCP: m.Tcp, UDP: m.Udp, SCTP: m.Sctp}


def lower(netns: Netns, family: int, hook: Hook) -> LoweredTable:
    """The services of a namespace for packets of a family, as they are met at a hook."""
    services = [service for service in netns.ipvs if service.family == family]
    chains: dict[str, Chain] = {}
    found: list[Rule] = []

    def add(service: VirtualService, asked: Sequence[LoweredMatch], own_port: bool = True) -> None:
        name = service_text(service) + ("" if own_port else ", other ports")
        chains[name] = LoweredChain(name, tuple(_service(netns, service, own_port)))
        found.append(rule(asked, t.Jump(name, goto=True)))

    for service in services:
        if service.fwmark:
            add(service, [m.Mark(service.fwmark)])
    named = [service for service in services if not service.fwmark and service.ip is not None]
    for service in named:
        add(service, [*_to(service), _PORTS[service.protocol](dport=m.PortRange(service.port, service.port))])
    for service in named:
        if service.protocol == TCP and service.port == FTP:
            for low, high in ((FTP_DATA, FTP_DATA), (unprivileged(netns), 65535)):
                add(service, [*_to(service), m.Tcp(dport=m.PortRange(low, high))], own_port=False)
    for service in named:
        if not service.port:
            add(service, [*_to(service), m.Protocol(service.protocol)], own_port=False)
    asks = Schedulable(bool(netns.sysctl("ipv4.vs.sloppy_tcp")), bool(netns.sysctl("ipv4.vs.sloppy_sctp")))
    base = LoweredChain("ipvs", (rule([asks], t.Jump("services", goto=True)),), hook, 0, "ACCEPT")
    chains = {"ipvs": base, "services": LoweredChain("services", tuple(found)), **chains}
    return LoweredTable("ip" if family == 4 else "ip6", TABLE, chains)


def _to(service: VirtualService) -> list[LoweredMatch]:
    assert service.ip is not None
    return [m.Destination(service.family, service.ip.value, mask_of(service.family, service.ip.bits))]


def _service(netns: Netns, service: VirtualService, own_port: bool) -> list[Rule]:
    """ip_vs_core.c ip_vs_schedule: which real server a new connection to the service's own port, or another one, gets."""
    unknown = unmodelled(netns, service)
    if unknown:
        return [rule((), t.UnknownTarget(unknown))]
    rules = [rule([FromPort(FTP_DATA)], t.Accept())]
    if service.timeout is None and not service.fwmark and not own_port:
        return [*rules, _leave(netns, service, own_port)]
    if service.scheduler in HASHING:
        return [*rules, rule((), Scheduled(service, own_port))]
    said = schedule(service, Asked(Ip(service.family, 0), Ip(service.family, 0)))
    if said.unknown:
        return [*rules, rule((), t.UnknownTarget(f"{said.unknown} of {service_text(service)} is not modelled"))]
    left = Fraction(1)
    for server, share in said.shares:
        odds = () if share == left else (Odds(share / left),)
        left -= share
        rules.append(rule(odds, to_server(service, server)))
    return rules if said.shares else [*rules, _leave(netns, service, own_port)]


def to_server(service: VirtualService, server: RealServer) -> ToServer | t.UnknownTarget:
    """The target of a server that was chosen."""
    if server.tunnel or server.ip.family != service.family:
        kind = server.tunnel or "a tunnel over another family"
        return t.UnknownTarget(f"IPVS {kind} to real server {server.ip.port(server.port)} is not modelled")
    return ToServer(service_text(service), server)


def _leave(netns: Netns, service: VirtualService, own_port: bool) -> Rule:
    return rule((), leave(netns, service, own_port))


def leave(netns: Netns, service: VirtualService, own_port: bool) -> t.Accept | t.Reject | t.UnknownTarget:
    """What becomes of a packet for which a service has no server (ip_vs_core.c ip_vs_leave)."""
    if service.fwmark and netns.sysctl("ipv4.vs.cache_bypass"):
        return t.UnknownTarget("net.ipv4.vs.cache_bypass=1 is not modelled")
    if service.port == FTP and not own_port:
        return t.Accept()
    return t.Reject("icmp-port-unreachable" if service.family == 4 else "icmp6-port-unreachable")
