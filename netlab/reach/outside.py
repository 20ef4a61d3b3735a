"""The world outside as rows and columns: `internet`, and an address for every ipBlock that policies tell apart from it.

Law: addresses are those of the policies' own networks (the first of each block and of each exception), ports those that their
egress rules name, else 443/TCP; an address inside the cluster's networks is nobody outside. The order is that of the policies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netlab.dataplane.policy.index import EGRESS, INGRESS, Peer, Rule
from netlab.kube.cluster import Cluster
from netlab.linux.addr import Ip, Prefix
from netlab.linux.packet import PROTOCOL_NUMBERS, TCP, protocol_name
from netlab.reach.matrix import INTERNET, Column, Group
from netlab.trace.query import EXTERNAL, Tracer

MOST = 32  # addresses; a policy may list hundreds of networks
HTTPS = (443, TCP)
_PORTS = frozenset(PROTOCOL_NUMBERS[name] for name in ("tcp", "udp", "sctp"))


def sources(tracers: Sequence[Tracer]) -> list[Group]:
    """`internet` and the addresses that ingress rules speak of."""
    found = sorted({a for a, _ in _addresses(tracers, INGRESS)})
    return [Group(name, ()) for name in (INTERNET, *map(_name, found[:MOST]))]


def left_out(tracers: Sequence[Tracer]) -> list[str]:
    """What `sources` and `destinations` are silent about."""
    counts = [(d, len({a for a, _ in _addresses(tracers, d)}) - MOST) for d in (INGRESS, EGRESS)]
    return [
        f"{n} of the addresses that {direction.lower()} rules speak of are not asked ({MOST} are)"
        for direction, n in counts
        if n > 0
    ]


def destinations(tracers: Sequence[Tracer]) -> list[tuple[Column, Group]]:
    """`internet` and the addresses that egress rules speak of, on the ports that the rules name."""
    found: dict[str, dict[tuple[int, int], None]] = {INTERNET: {HTTPS: None}}
    for rule, _ in _rules(tracers, EGRESS):
        if rule.peers is None or any(net.length == 0 for peer in rule.peers for net in peer.nets):
            found[INTERNET] |= dict.fromkeys(_ports(rule))
    spoken = list(_addresses(tracers, EGRESS))
    wanted = sorted({address for address, _ in spoken})[:MOST]
    found |= {_name(address): {} for address in wanted}
    for address, rule in spoken:
        if address in wanted:
            found[_name(address)].update(dict.fromkeys(_ports(rule) or [HTTPS]))
    return [
        (Column(name, port, protocol_name(protocol).upper(), "address"), Group(name, ()))
        for name, ports in found.items()
        for port, protocol in sorted(ports)
    ]


def _name(address: Ip) -> str:
    shown = f"[{address}]" if address.family == 6 else str(address)
    return EXTERNAL + shown if address.is_private else shown


def _rules(tracers: Sequence[Tracer], direction: str) -> Iterator[tuple[Rule, Tracer]]:
    for tracer in tracers:
        for policy in tracer.policies.policies:
            for rule in policy.rules.get(direction, ()):
                yield rule, tracer


def _addresses(tracers: Sequence[Tracer], direction: str) -> Iterator[tuple[Ip, Rule]]:
    """One address for each network of a rule, and one for each exception from it."""
    for rule, _ in _rules(tracers, direction):
        for peer in rule.peers or ():
            for net in _nets(peer):
                inside = [other for other in peer.not_nets if other.address in net]
                found = _first(net, inside)
                if found is not None and not any(_is_inside(tracer.cluster, found) for tracer in tracers):
                    yield found, rule


def _nets(peer: Peer) -> list[Prefix]:
    return [net for net in (*peer.nets, *peer.not_nets, *peer.sets) if net.length > 0]


def _first(net: Prefix, holes: Sequence[Prefix]) -> Ip | None:
    """The first address of a network that is a host's and in none of the holes; None where the holes fill its beginning."""
    holes = [hole for hole in holes if hole != net]
    n = 1 if net.size > 2 else 0
    for _ in range(len(holes) + 1):
        if n >= net.size:
            return None
        hole = next((h for h in holes if net.nth(n) in h), None)
        if hole is None:
            return net.nth(n)
        n = hole.nth(hole.size - 1).value - net.value + 1
    return None


def _is_inside(cluster: Cluster, address: Ip) -> bool:
    """Whether an address is the cluster's own: of pods, services, nodes, or the fabric."""
    if any(address in net for net in (*cluster.pod_cidrs, *cluster.service_cidrs, *cluster.fabric.prefixes)):
        return True
    nodes = (a for node in cluster.nodes.values() for a in (*node.internal_ips, *node.external_ips))
    blocks = (cidr for node in cluster.nodes.values() for cidr in node.pod_cidrs)
    return address in nodes or any(address in cidr for cidr in blocks) or address.is_multicast or address.is_loopback


def _ports(rule: Rule) -> list[tuple[int, int]]:
    """The numbered ports of a rule (the first of a range)."""
    return [
        (port.first, port.protocol)
        for port in rule.ports or ()
        if not port.name and port.protocol in _PORTS and port.first > 0 and (port.first, port.last) != (0, 65535)
    ]
