"""Where pods and services stand, as far as routes, tunnels and kube-proxy's rules can ask, with names and addresses left out.

    node-1, node-2, node-3 (made alike)   -> one kind of node
    three pods on each                    -> one Place: what is left to ask of a pair is whether they share a node
    300 services of two endpoints         -> one Shape for each kind of node, and for where their endpoints stand

Law: what build() reads of a node, a pod or a service is in its kind, Place or Shape, but for who it is. Who has an address that
somebody else claims, or of another node's network, who sends from or listens on a node's own address, is like nobody. Policies
are policed.py's business. Compiled clusters only: observed rules may ask anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable

import msgspec
from msgspec.structs import replace

from netlab.dataplane.build import DEFAULT_CLIENTS
from netlab.dataplane.cni.bgp import node_ip
from netlab.dataplane.proxy.endpoints import PROTOCOLS, Backend, ProxiedPort, proxied_ports
from netlab.kube.objects import Node, Pod, Service
from netlab.linux.addr import Ip, Prefix, mask_of
from netlab.trace.query import Tracer

_BGP = ("projectcalico.org/RouteReflectorClusterID", "projectcalico.org/ASNumber")
_MACS = ("projectcalico.org/VXLANTunnelMACAddr", "projectcalico.org/VXLANTunnelMACAddrV6")


class Place(msgspec.Struct, frozen=True):
    """Where a pod stands: pods of one number `like` no route or rule tells apart; `shared`: whether others may be like it.
    `listens`: protocols and ports of its sockets."""

    like: int
    node: str
    shared: bool
    families: tuple[int, ...]
    listens: frozenset[tuple[int, int]]


class Shape(msgspec.Struct, frozen=True):
    """A service's port as one node sees it: those of one number `like` the node's rules treat alike; `ends` are the endpoints by
    address and port, in kube-proxy's order, each with its pod ("" where it is none that others are like)."""

    like: int
    address: Ip | None
    ends: tuple[tuple[Ip, int, str], ...] = ()


class Places:
    """The Places of a tracer's pods, and the Shapes of its services."""

    def __init__(self, tracer: Tracer) -> None:
        self.network = tracer.network
        cluster = self.cluster = tracer.cluster
        proxy = cluster.proxy
        ranges = [cidr for service in cluster.services.values() for cidr in service.load_balancer_source_ranges]
        pools = [pool.cidr for pool in cluster.calico.pools]
        options = [*proxy.cluster_cidrs, *proxy.exclude_cidrs, *proxy.nodeport_addresses]
        own = [*cluster.pod_cidrs, *cluster.service_cidrs, *cluster.fabric.prefixes]
        self.prefixes = list(dict.fromkeys([*pools, *ranges, *options, *own]))
        self.claims = Counter(self._claims())
        self.uses_cidrs = cluster.cni.name in ("flannel", "canal") or proxy.detect_local_mode == "NodeCIDR"
        networks = {
            name: (*(node.pod_cidrs if self.uses_cidrs else ()), *cluster.calico.blocks.get(name, ()))
            for name, node in cluster.nodes.items()
        }
        self.regular = not _overlap(networks)
        self.owners = {net: name for name, nets in networks.items() for net in nets}
        self.lengths = sorted({(net.family, net.length) for net in self.owners})
        self.speaks_bgp = cluster.calico.backend == "bird" and (
            bool(cluster.calico.peers)
            or not cluster.calico.mesh
            or any(key in node.annotations for node in cluster.nodes.values() for key in _BGP)
        )
        self._numbers: dict[Hashable, int] = {}
        self.kinds = {name: self._number(self._kind(node)) for name, node in cluster.nodes.items()}
        self._places: dict[str, Place] = {}
        self._shapes: dict[Hashable, Shape] = {}
        self._behind: dict[str, frozenset[Ip]] = {}
        self._nodes_of: dict[str, frozenset[str]] = {}

    def _claims(self) -> Iterable[Ip]:
        """Every address, as often as somebody has it or answers for it."""
        cluster = self.cluster
        for service in cluster.services.values():
            yield from (*service.cluster_ips, *service.external_ips, *(e.ip for e in service.load_balancer if e.ip is not None))
        for pod in cluster.pods.values():
            if not pod.host_network:
                yield from pod.ips
        for node in cluster.nodes.values():
            yield from dict.fromkeys((*node.internal_ips, *node.external_ips))
        for tunnels in cluster.calico.tunnels.values():
            yield from dict.fromkeys(address for _, address in tunnels)
        yield from (*cluster.fabric.gateways, *DEFAULT_CLIENTS)

    def _number(self, what: Hashable) -> int:
        """Equal things have one number: what is compared often is a nest of tuples."""
        return self._numbers.setdefault(what, len(self._numbers))

    # -- nodes and addresses -------------------------------------------------------------------------------------------

    def _kind(self, node: Node) -> Hashable:
        """What the rules and routes of all nodes depend on, of this one; its name where it may be like no other."""
        calico = self.cluster.calico
        tunnels = calico.tunnels.get(node.name, ())
        everything = (*node.internal_ips, *node.external_ips, *(address for _, address in tunnels))
        is_calico = self.cluster.cni.name == "calico"
        speaks = [node_ip(node, family) if is_calico else None for family in (4, 6)]
        if not self.regular or self.speaks_bgp or any(self.claims[address] > 1 for address in everything):
            return node.name
        if any(address is not None and address not in node.internal_ips for address in speaks):
            return node.name
        segments = [self.cluster.fabric.segment_of(address) for address in node.internal_ips]
        return (
            tuple(self._within(address) for address in node.internal_ips),
            tuple(segment.name if segment is not None else "" for segment in segments),
            tuple(self._within(address) for address in node.external_ips),
            tuple(None if address is None else node.internal_ips.index(address) for address in speaks),
            tuple((net.family, net.length) for net in node.pod_cidrs) if self.uses_cidrs else (),
            tuple((kind, self._within(address), self._owned(address, node.name)) for kind, address in tunnels),
            calico.felix_of(node.name),
            tuple(node.annotations.get(key) for key in _MACS),
        )

    def _within(self, address: Ip) -> tuple[Hashable, ...]:
        """In which of the cluster's prefixes an address is, and whether it is the first or last one there."""
        inside = [(n, p) for n, p in enumerate(self.prefixes) if address in p]
        ends = [n for n, p in inside if p.size > 1 and address in (p.nth(0), p.nth(p.size - 1))]
        return address.family, tuple(n for n, _ in inside), tuple(ends)

    def _owned(self, address: Ip, node: str) -> tuple[object, ...] | None:
        """Of what networks of its node an address is, and whether at an edge (the second is a bridge's); None where it is of
        another node's."""
        found: list[object] = []
        for family, length in self.lengths:
            if family != address.family:
                continue
            net = Prefix(family, address.value & mask_of(family, length), length)
            owner = self.owners.get(net)
            if owner == node:
                first, last = address.value - net.value, net.value + net.size - 1 - address.value
                found.append((length, self._within(net.address)[:2], (min(first, 2), last == 0) if self.uses_cidrs else ()))
            elif owner is not None:
                return None
        return tuple(found)

    # -- pods ----------------------------------------------------------------------------------------------------------

    def pod(self, key: str) -> Place:
        """The Place of a pod."""
        found = self._places.get(key)
        if found is None:
            found = self._places[key] = self._pod(self.cluster.pods[key])
        return found

    def _pod(self, pod: Pod) -> Place:
        where = pod.node_name if pod.host_network else pod.key
        families = tuple(address.family for address in pod.ips)
        if pod.node_name not in self.kinds or where not in self.network.namespaces:
            return Place(self._number(pod.key), pod.node_name, False, families, frozenset())
        listeners = self.network.namespaces[where].listeners
        listens = frozenset((listener.protocol, listener.port) for listener in listeners)
        owned = [self._owned(address, pod.node_name) for address in pod.ips]
        alone = pod.host_network or pod.terminating or not listens or None in owned
        if alone or not self.regular or any(self.claims[address] > 1 for address in pod.ips):
            return Place(self._number(pod.key), pod.node_name, False, families, listens)
        like = self.kinds[pod.node_name], tuple(map(self._within, pod.ips)), tuple(owned)
        return Place(self._number(like), pod.node_name, True, families, listens)

    # -- services ------------------------------------------------------------------------------------------------------

    def is_behind(self, pod: str, service: str) -> bool:
        """Whether a pod is an endpoint of a service, ready or not."""
        found = self._behind.get(service)
        if found is None:
            parts = self.cluster.slices.get(service, ())
            found = self._behind[service] = frozenset(a for part in parts for e in part.endpoints for a in e.addresses)
        return not found.isdisjoint(self.cluster.pods[pod].ips)

    def nodes_of(self, service: str) -> frozenset[str]:
        """The nodes that see endpoints of their own."""
        found = self._nodes_of.get(service)
        if found is None:
            parts = self.cluster.slices.get(service, ())
            names = {name for part in parts for e in part.endpoints for name in (e.node_name, self._home(e.target_pod)) if name}
            found = self._nodes_of[service] = frozenset(names)
        return found

    def _home(self, pod: str | None) -> str:
        return self.cluster.pods[pod].node_name if pod is not None and pod in self.cluster.pods else ""

    def unlike(self, *what: Hashable) -> Shape:
        """The Shape of a service that is like no other."""
        return Shape(self._number(("service", *what)), None)

    def service(self, service: Service, port: int, protocol: str, family: int, node: str) -> Shape:
        """The Shape of a port of a service on a node, in one family."""
        here = node if node in self.nodes_of(service.key) else ""
        key = service.key, port, protocol, family, here, self.cluster.nodes[node].zone, self.kinds[node]
        found = self._shapes.get(key)
        if found is None:
            found = self._shapes[key] = self._shape(service, port, protocol, family, node)
        return found

    def _shape(self, service: Service, port: int, protocol: str, family: int, node: str) -> Shape:
        itself = self.unlike(service.key, port, protocol, family, node)
        if self.cluster.proxy.mode == "userspace":
            return itself
        one = replace(self.cluster, services={service.key: service})
        ports = [p for p in proxied_ports(one, node, family) if (p.port, p.protocol) == (port, protocol.lower())]
        if len(ports) != 1:
            return itself
        (seen,) = ports
        use = seen.usable
        every = tuple({b.text: b for b in (*use.reachable, *use.cluster, *use.local)}.values())
        number = {b.text: n for n, b in enumerate(every)}
        lists = tuple(tuple(number[b.text] for b in some) for some in (use.reachable, use.cluster, use.local))
        is_clean = self.claims[seen.cluster_ip] == 1 and self._owned(seen.cluster_ip, "") == ()
        like = (
            "port" if is_clean else ("service", service.key),
            self._kind_of(seen),
            self._within(seen.cluster_ip),
            tuple(self._endpoint(b, PROTOCOLS[seen.protocol], node) for b in every),
            lists,
            use.any,
        )
        ends = ((b.ip, b.port, key if (key := self._pod_of(b)) and self.pod(key).shared else "") for b in every)
        return Shape(self._number(like), seen.cluster_ip, tuple(ends))

    def _pod_of(self, backend: Backend) -> str:
        """The pod that an endpoint says it is, if it has the address."""
        key = backend.target_pod or ""
        return key if key in self.cluster.pods and backend.ip in self.cluster.pods[key].ips else ""

    def _kind_of(self, port: ProxiedPort) -> Hashable:
        return (
            port.protocol,
            port.port,
            bool(port.node_port),
            tuple(map(self._within, port.external_ips)),
            tuple(map(self._within, port.load_balancer_ips)),
            port.source_ranges,
            bool(port.health_check_node_port),
            port.external_local,
            port.internal_local,
            port.affinity,
            bool(port.total),
            tuple((b.ready, b.serving, b.terminating) for b in port.on_node),
        )

    def _endpoint(self, backend: Backend, protocol: int, node: str) -> Hashable:
        key = self._pod_of(backend)
        state = backend.port, backend.ready, backend.serving, backend.terminating, backend.local
        if not key:
            return backend.text, state
        place = self.pod(key)
        return place.like, place.node == node, (protocol, backend.port) in place.listens, state


def _overlap(networks: dict[str, tuple[Prefix, ...]]) -> bool:
    """Whether two nodes have networks in common."""
    every = sorted((net.family, net.value, -net.size, name) for name, nets in networks.items() for net in nets)
    family, end, owner = 0, -1, ""
    for this, value, size, name in every:
        if this == family and value < end and name != owner:
            return True
        if this != family or value - size > end:
            family, end, owner = this, value - size, name
    return False
