"""Flows worth asking about: who can send, to everything that is worth a packet, right and wrong.

    pods, nodes, clients outside  x  services by all their addresses, node ports, pods, nodes, the outside, nobody's addresses

Law: a function of the cluster: the same input gives the same flows in the same order, and the same seed the same choice of
them. The lab sends them, `netlab diff` asks them of two networks.
"""

from __future__ import annotations

from random import Random

import msgspec

from netlab.dataplane.build import DEFAULT_CLIENTS, entry_addresses
from netlab.kube.cluster import Cluster
from netlab.linux.addr import Ip, ip
from netlab.linux.network import Network
from netlab.linux.packet import ICMP, ICMPV6, PROTOCOL_NUMBERS, SCTP, TCP, UDP
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Trace


class Flow(msgspec.Struct, frozen=True):
    """A question that can be asked of both sides; `source` and `destination` as on the command line, without source port.

    `at`: the node by which the outside reaches service addresses; the lab's outside must have its routes.
    """

    source: str
    destination: str
    protocol: str
    size: int | None = None  # bytes of the IP packet
    at: str | None = None

    def __str__(self) -> str:
        size = f" {self.size} bytes" if self.size else ""
        return f"{self.source} -> {self.destination} {self.protocol}{size}" + (f" at {self.at}" if self.at else "")


def sources(cluster: Cluster, network: Network) -> list[tuple[str, tuple[int, ...]]]:
    """Everybody who can send, with the IP families that they have."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for pod in cluster.pods.values():
        families = tuple(dict.fromkeys(a.family for a in pod.ips))
        if families and (pod.node_name if pod.host_network else pod.key) in network.namespaces:
            found.append((f"{pod.namespace}/pod/{pod.name}", families))
    found += [(f"node/{node.name}", tuple(dict.fromkeys(a.family for a in node.internal_ips))) for node in cluster.nodes.values()]
    clients = [client for client in DEFAULT_CLIENTS if any(g.family == client.family for g in cluster.fabric.gateways)]
    found += [(str(client), (client.family,)) for client in clients] * max(1, len(cluster.nodes))
    return found


def destinations(cluster: Cluster, network: Network) -> list[tuple[Ip, int, int]]:
    """(address, port, protocol) of everything worth a packet, right and wrong: services by all their addresses, node ports on
    every node and on 127.0.0.1, pods, nodes, the outside, and addresses that nobody has. Port 0 for ICMP."""
    found: dict[tuple[Ip, int, int], None] = {}
    node_ips = [a for node in cluster.nodes.values() for a in node.internal_ips]
    for service in cluster.services.values():
        addresses = [*service.cluster_ips, *entry_addresses(service)]
        for port in service.ports:
            protocol = PROTOCOL_NUMBERS[port.protocol.lower()]
            for address in addresses:
                found[address, port.port, protocol] = None
                found[address, port.port + 1, protocol] = None
            if port.node_port is not None:
                for address in (*node_ips, ip("127.0.0.1"), ip("::1")):
                    found[address, port.node_port, protocol] = None
        for address in addresses:
            found[address, 0, _ping(address)] = None
        if service.health_check_node_port is not None:
            for address in node_ips:
                found[address, service.health_check_node_port, TCP] = None
    for pod in cluster.pods.values():
        space = network.namespaces.get(pod.key)
        listeners = space.listeners if space is not None else ()
        for address in pod.ips:
            for listener in listeners:
                found[address, listener.port, listener.protocol] = None
                found[address, listener.port, UDP if listener.protocol == TCP else TCP] = None
                if listener.protocol == SCTP:
                    found[address, listener.port + 1, SCTP] = None
            found[address, 9, TCP] = None
            found[address, 9, UDP] = None
            found[address, 0, _ping(address)] = None
    for address in node_ips:
        found[address, 10250, TCP] = None
        found[address, 9, TCP] = None
        found[address, 9, UDP] = None
        found[address, 0, _ping(address)] = None
    for cidr in (*cluster.pod_cidrs, *(c for n in cluster.nodes.values() for c in n.pod_cidrs), *cluster.service_cidrs):
        nobody = cidr.nth(cidr.size - 3)
        found[nobody, 80, TCP] = None
        found[nobody, 53, UDP] = None
        found[cidr.nth(1), 0, _ping(cidr.address)] = None
    for address in (*DEFAULT_CLIENTS, *outside_hosts(cluster)):
        if any(address in link for link in cluster.fabric.prefixes):
            continue  # a trace takes it for nobody's, unless it is the one who asks
        if any(gateway.family == address.family for gateway in cluster.fabric.gateways):
            found[address, 443, TCP] = None
            found[address, 53, UDP] = None
            found[address, 0, _ping(address)] = None
    return list(found)


def outside_hosts(cluster: Cluster) -> tuple[Ip, ...]:
    """Hosts that the lab has beside the default clients: one far away and one on the nodes' own link, per family."""
    far = [ip("198.51.100.7"), ip("2001:db8:1::7")]
    near = [cidr.nth(cidr.size - 9) for cidr in cluster.fabric.prefixes if cidr.size > 16]
    taken = {a for node in cluster.nodes.values() for a in node.internal_ips} | set(cluster.fabric.gateways)
    return tuple(a for a in (*far, *near) if a not in taken)


def _ping(address: Ip) -> int:
    return ICMP if address.family == 4 else ICMPV6


_NAMES = {TCP: "tcp", UDP: "udp", SCTP: "sctp", ICMP: "icmp", ICMPV6: "icmp"}


def flows(cluster: Cluster, network: Network, count: int, seed: int) -> list[Flow]:
    """`count` flows drawn from all pairs; the same seed gives the same flows."""
    who = sources(cluster, network)
    where = {family: [d for d in destinations(cluster, network) if d[0].family == family] for family in (4, 6)}
    random = Random(seed)
    found: dict[Flow, None] = {}
    attempts = 0
    while len(found) < count and attempts < count * 20:
        attempts += 1
        source, families = random.choice(who)
        usable = [f for f in families if where[f]]
        if not usable:
            continue
        found[_flow(source, random.choice(where[random.choice(usable)]))] = None
    return list(found)


def every_flow(cluster: Cluster, network: Network) -> list[Flow]:
    """All pairs of one family, in order of the sources."""
    there = destinations(cluster, network)
    found = {_flow(source, d): None for source, families in sources(cluster, network) for d in there if d[0].family in families}
    return list(found)


def _flow(source: str, destination: tuple[Ip, int, int]) -> Flow:
    address, port, protocol = destination
    return Flow(source, address.port(port) if port else str(address), _NAMES[protocol])


def predict(tracer: Tracer, flow: Flow, sport: int) -> Trace:
    """What netlab says; `sport` is the source port that the real packet will have."""
    source = f"[{flow.source}]:{sport}" if flow.source.count(":") > 1 else f"{flow.source}:{sport}"
    return tracer.trace(Request(source, flow.destination, protocol=flow.protocol, size=flow.size, at=flow.at))
