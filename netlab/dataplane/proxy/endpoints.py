"""What a service proxy on one node sees: the service ports it serves, and which endpoints each may use there.

    Cluster -> service ports of one family -> endpoints, without duplicates -> { cluster, local, reachable }

Law: the choices are kube-proxy v1.30's with its default feature gates, whatever the mode (iptables, nftables, ipvs): pkg/proxy
serviceport.go, endpointslicecache.go and topology.go. The result does not depend on the order of services or slices. What
rules follow from it is the business of the modes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from netlab.dataplane.proxy.names import service_port_name
from netlab.errors import InputError, did_you_mean
from netlab.kube.cluster import Cluster
from netlab.kube.objects import EndpointSlice, Node, Object, Service
from netlab.linux.addr import Ip, Prefix, ip
from netlab.refs import Ref

# Objects with these labels never reach kube-proxy: its informers leave them out (cmd/kube-proxy/app/server.go, Run).
PASSED_OVER = ("service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless")

HINTS, HINTS_DEPRECATED = "service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


class Backend(msgspec.Struct, frozen=True, gc=False):
    """One endpoint of one service port.

    `text` is "ip:port" with the address spelled as the slice spells it: kube-proxy v1.30 compares, sorts, hashes and prints
    that text, so `fd00:0::2` and `fd00::2` are two endpoints to it. `local`: on the node that asks.
    """

    text: str
    ip: Ip
    port: int
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    local: bool = False
    hints: tuple[str, ...] = ()
    target_pod: str | None = None

    @property
    def fallback(self) -> bool:
        """Usable where no ready endpoint is: still serving while it terminates (KEP-1669)."""
        return not self.ready and self.serving and self.terminating


class Selection(msgspec.Struct, frozen=True, gc=False):
    """The endpoints of a service port that a node may use.

    `cluster`: under traffic policy Cluster (empty where the port never uses it), `local`: under Local (likewise),
    `reachable`: the union, `any`: whether some usable endpoint exists anywhere, on this node or not.
    """

    cluster: tuple[Backend, ...] = ()
    local: tuple[Backend, ...] = ()
    reachable: tuple[Backend, ...] = ()
    any: bool = False


class ProxiedPort(msgspec.Struct, frozen=True, gc=False):
    """One port of one service in one family, as the proxy on one node sees it; `node_port` 0 for none.

    `load_balancer_ips` has the VIPs alone: an ingress of ipMode Proxy is not the nodes' business (KEP-1860).
    """

    name: str  # "default/web:http"
    protocol: str  # "tcp"
    cluster_ip: Ip
    port: int
    service: Service
    ref: Ref
    node_port: int = 0
    external_ips: tuple[Ip, ...] = ()
    load_balancer_ips: tuple[Ip, ...] = ()
    source_ranges: tuple[Prefix, ...] = ()
    health_check_node_port: int = 0
    external_local: bool = False
    internal_local: bool = False
    affinity: int | None = None  # seconds of session affinity ClientIP
    total: int = 0  # endpoints of any condition
    on_node: tuple[Backend, ...] = ()  # those of any condition on the node that asks
    usable: Selection = Selection()

    @property
    def externally_accessible(self) -> bool:
        return bool(self.node_port or self.load_balancer_ips or self.external_ips)


def proxied_ports(cluster: Cluster, node: str, family: int) -> tuple[ProxiedPort, ...]:
    """The service ports that the proxy on `node` serves in `family` (4 or 6), sorted by name and protocol.

    Headless and ExternalName services, services without a cluster IP of the family and those that belong to another
    proxy are passed over (pkg/proxy/util ShouldSkipService, GetClusterIPByFamily).

    Raises
    ------
    InputError
        The node is unknown, or a port has a protocol other than TCP, UDP, SCTP.
    """
    zone = find_node(cluster, node).zone
    found = []
    for service in cluster.services.values():
        address = _first(service.cluster_ips, family)
        if address is None or service.headless or service.type == "ExternalName" or _passed_over(service):
            continue
        backends = backends_by_port(cluster.slices.get(service.key, ()), node, family)
        found += _ports_of(service, address, family, backends, zone)
    found.sort(key=lambda p: (p.name, p.protocol))
    return tuple(found)


def _ports_of(
    service: Service, address: Ip, family: int, backends: dict[tuple[str, str], tuple[Backend, ...]], zone: str | None
) -> list[ProxiedPort]:
    ref = msgspec.structs.replace(service.ref, object=f"Service {service.key}")
    external_ips = tuple(a for a in service.external_ips if a.family == family)
    vips = tuple(i.ip for i in service.load_balancer if i.ip is not None and i.ip.family == family and i.ip_mode == "VIP")
    ranges = tuple(r for r in service.load_balancer_source_ranges if r.family == family)
    # ExternalPolicyLocal looks at the whole service: an external IP of the other family counts (pkg/api/v1/service/util.go).
    external_local = service.external_traffic_policy == "Local" and (
        service.type in ("NodePort", "LoadBalancer") or bool(service.external_ips)
    )
    internal_local = service.internal_traffic_policy == "Local"
    use_hints = uses_hints(service)
    affinity = service.session_affinity_timeout if service.session_affinity == "ClientIP" else None
    health_check = service.health_check_node_port if service.type == "LoadBalancer" and external_local else None

    ports = []
    for port in service.ports:
        protocol = port.protocol.lower()
        if protocol not in PROTOCOLS:
            raise InputError(f"unknown protocol {port.protocol!r} of port {port.port}", ref, "one of TCP, UDP, SCTP")
        endpoints = backends.get((port.name, port.protocol), ())
        external = bool(port.node_port or vips or external_ips)
        ports.append(
            ProxiedPort(
                name=service_port_name(service.namespace, service.name, port.name),
                protocol=protocol,
                cluster_ip=address,
                port=port.port,
                service=service,
                ref=ref,
                node_port=port.node_port or 0,
                external_ips=external_ips,
                load_balancer_ips=vips,
                source_ranges=ranges,
                health_check_node_port=health_check or 0,
                external_local=external_local,
                internal_local=internal_local,
                affinity=affinity,
                total=len(endpoints),
                on_node=tuple(b for b in endpoints if b.local),
                usable=select(
                    endpoints,
                    # A port with external policy Local still needs the cluster's endpoints: pods and the node itself reach
                    # external addresses as if through policy Cluster (serviceport.go, UsesClusterEndpoints).
                    cluster=not internal_local or external,
                    local=internal_local or (external_local and external),
                    zone=zone if use_hints else None,
                ),
            )
        )
    return ports


def backends_by_port(slices: Iterable[EndpointSlice], node: str, family: int) -> dict[tuple[str, str], tuple[Backend, ...]]:
    """The endpoints of a service by (port name, protocol), each once, sorted by their text (byte order, as kube-proxy sorts).

    kube-proxy takes the first address of an endpoint and ignores ports without a number. Where an endpoint occurs twice (two
    pods of the host network, a slice being moved) it keeps the first, but a local one replaces what came before
    (endpointslicecache.go, addEndpoints). Slices come in the random order of a Go map there, by name here; within a slice the
    order counts, for equal addresses keep it (sort.Sort is an insertion sort up to 12 endpoints; beyond, Go may permute them).
    """
    found: dict[tuple[str, str], dict[str, Backend]] = {}
    for piece in sorted(slices, key=lambda s: s.name):
        if piece.family != family or _passed_over(piece):
            continue
        for port in piece.ports:
            if not port.port:
                continue
            tail = f":{port.port}"
            at_port = found.setdefault((port.name, port.protocol), {})
            for e in piece.endpoints:
                if not e.addresses or e.addresses[0].family != family:
                    continue
                host = e.texts[0] if e.texts else str(e.addresses[0])
                text = host + tail if family == 4 else f"[{host}]{tail}"
                backend = Backend(
                    text,
                    e.addresses[0],
                    port.port,
                    e.ready,
                    e.serving,
                    e.terminating,
                    e.node_name == node,
                    e.hints_for_zones,
                    e.target_pod,
                )
                if backend.local or text not in at_port:
                    at_port[text] = backend
    return {key: tuple(b for _, b in sorted(at_port.items())) for key, at_port in found.items()}


def select(backends: Sequence[Backend], *, cluster: bool, local: bool, zone: str | None) -> Selection:
    """Choose the usable endpoints (pkg/proxy/topology.go, CategorizeEndpoints).

    Usable are the ready ones; where there is none (for Cluster: anywhere, for Local: on this node), those that terminate and
    still serve.

    Parameters
    ----------
    backends : sequence of Backend
        All endpoints of the port, as `backends_by_port` gives them.
    cluster, local : bool
        Which traffic policies the port uses; the other list stays empty.
    zone : str or None
        The node's zone where hints may be used, else None.

    Examples
    --------
    >>> from netlab.linux.addr import ip
    >>> old = Backend("10.0.0.1:80", ip("10.0.0.1"), 80, ready=False, serving=True, terminating=True)
    >>> select([old], cluster=True, local=False, zone=None).cluster == (old,)
    True
    """
    ready = tuple(b for b in backends if b.ready)
    fallback = tuple(b for b in backends if b.fallback)
    in_cluster: tuple[Backend, ...] = ()
    on_node: tuple[Backend, ...] = ()
    if cluster:
        # Hints count only if every ready endpoint has one and one of them is for this zone (canUseTopology).
        hinted = tuple(b for b in ready if zone in b.hints) if zone and all(b.hints for b in ready) else ()
        in_cluster = hinted or ready or fallback
    if local:
        on_node = tuple(b for b in ready if b.local) or tuple(b for b in fallback if b.local)
    reachable = in_cluster
    if on_node:
        known = {b.text for b in in_cluster}
        extra = [b for b in on_node if b.text not in known]
        if extra:
            reachable = tuple(sorted((*in_cluster, *extra), key=lambda b: b.text))
    return Selection(in_cluster, on_node, reachable, bool(ready or fallback))


def uses_hints(service: Service) -> bool:
    """Whether the service asks for topology aware routing.

    kube-proxy v1.30 heeds the hints of a slice only for a service with the annotation; hints from spec.trafficDistribution
    need the gate ServiceTrafficDistribution, alpha and off in v1.30 (topology.go, canUseTopology; KEP-4444). The deprecated
    annotation wins where both are there (serviceport.go).
    """
    annotations = service.annotations
    value = annotations[HINTS_DEPRECATED] if HINTS_DEPRECATED in annotations else annotations.get(HINTS, "")
    return value not in ("", "disabled", "Disabled")


def find_node(cluster: Cluster, node: str) -> Node:
    """The node, or an InputError that names its neighbours."""
    if node not in cluster.nodes:
        raise InputError(f'unknown node "{node}"', hint=did_you_mean(node, cluster.nodes))
    return cluster.nodes[node]


def node_ip(node: Node, family: int) -> Ip:
    """The address by which kube-proxy knows its node: the first InternalIP, else ExternalIP of the family, else loopback.

    Used for loadBalancerSourceRanges alone (cmd/kube-proxy/app/server.go, detectNodeIPs; component-helpers GetNodeHostIPs).
    """
    found = _first((*node.internal_ips, *node.external_ips), family)
    return found if found is not None else ip("127.0.0.1" if family == 4 else "::1")


def _first(addresses: Iterable[Ip], family: int) -> Ip | None:
    for a in addresses:
        if a.family == family:
            return a
    return None


def _passed_over(thing: Object) -> bool:
    return any(label in thing.labels for label in PASSED_OVER)
