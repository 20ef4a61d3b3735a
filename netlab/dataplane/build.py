"""From kube.Cluster to linux.Network: a namespace per node and per pod, and `internet` for everything beyond the fabric.

    default/web-0 --veth-- node-1 --+-- fabric --+-- node-2 --veth-- default/api-0
                                    |
                                 internet (the gateway, and hosts that lie outside)

Law: a pure function. What a CNI plug-in leaves is asked of dataplane/cni, what kube-proxy programs of dataplane/proxy, what
Linux adds by itself of linux/derived; what the model leaves out is named in `not_modelled`. Nodes, rulesets and pods are made
when they are first looked at: routes between 5,000 nodes, and 10,000 services on each, are too much for a trace that crosses two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import TypeVar

import msgspec

from netlab.dataplane.cni import calico, canal, flannel
from netlab.dataplane.cni.wiring import NOTHING, Plugin, Wiring, mac_of_ip
from netlab.dataplane.proxy import iptables as proxy_iptables
from netlab.dataplane.proxy import ipvs as proxy_ipvs
from netlab.dataplane.proxy import nftables as proxy_nftables
from netlab.dataplane.proxy import node as proxy_node
from netlab.dataplane.proxy import userspace as proxy_userspace
from netlab.dataplane.proxy.programmed import Programmed
from netlab.errors import InputError, did_you_mean
from netlab.kube.cluster import Cluster, FabricSegment
from netlab.kube.objects import Node, Pod, Service
from netlab.linux.addr import Ip, Prefix, host_prefix, ip
from netlab.linux.derived import (
    IP6_USER_METRIC,
    RULES,
    derived_routes,
    in_kernel_order,
    link_local,
    loopback,
    with_broadcast,
)
from netlab.linux.netns import Address, Device, DeviceKind, Listener, Netns, NetnsKind, NextHop, Route, RouteType
from netlab.linux.network import Network, Segment
from netlab.linux.packet import PROTOCOL_NUMBERS, TCP
from netlab.linux.rules import Ruleset

FABRIC = "fabric"
INTERNET = "internet"
DEFAULT_CLIENTS = (ip("203.0.113.7"), ip("2001:db8::7"))  # documentation ranges (RFC 5737, RFC 3849)

K = TypeVar("K")
V = TypeVar("V")

_ANY = {4: Prefix(4, 0, 0), 6: Prefix(6, 0, 0)}


class Built(msgspec.Struct, frozen=True):
    """The network, what the model leaves out of it, and what was assumed while building it; one sentence each."""

    network: Network
    not_modelled: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()


class Lazy(Mapping[K, V]):
    """A mapping whose values are made on first access and kept: a value, parts of which are computed late."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Mapping[K, Callable[[], V]]) -> None:
        self._make = make
        self._made: dict[K, V] = {}

    def __getitem__(self, key: K) -> V:
        if key not in self._made:
            self._made[key] = self._make[key]()
        return self._made[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._make)

    def __len__(self) -> int:
        return len(self._make)

    def __contains__(self, key: object) -> bool:
        return key in self._make

    def __repr__(self) -> str:
        return f"Lazy({list(self._make)})"


def build(
    cluster: Cluster,
    *,
    extra_hosts: tuple[Ip, ...] = (),
    clients: tuple[Ip, ...] = DEFAULT_CLIENTS,
    at: str | None = None,
) -> Built:
    """Compile a cluster into namespaces and wires.

    Parameters
    ----------
    cluster : Cluster
        What was declared.
    extra_hosts : tuple of Ip
        Hosts outside the cluster that `internet` answers for: sources or destinations of a trace. Those that are
        addresses of the cluster are passed over.
    clients : tuple of Ip
        The addresses of `internet` itself, one per family.
    at : str, optional
        The node to which the outside routes the cluster's service addresses. Without it LoadBalancer and external addresses
        lead to the first node and ClusterIPs are not reachable from outside; with it ClusterIPs lead to that node too.

    Raises
    ------
    InputError
        An unknown node, an address outside the fabric, a CNI or proxy mode that is not modelled.
    """
    _check(cluster, at)
    not_modelled: list[str] = []
    assumptions: list[str] = []
    places = _Places(cluster)
    pods_of = _pods_by_node(cluster, not_modelled)
    ports, external = _endpoint_ports(cluster, places)
    nodes: dict[str, Callable[[], Netns]] = {}
    pod_spaces: dict[str, Callable[[], Netns]] = {}
    host_pods = _host_pods(cluster)
    # the services that make kube-proxy listen; it looks at all that it is given, for every node
    health = {key: service for key, service in cluster.services.items() if service.health_check_node_port}
    checked = msgspec.structs.replace(cluster, services=health)
    cni = _CNIS[cluster.cni.name](cluster)
    not_modelled += cni.not_modelled
    if cluster.proxy.mode == "userspace":
        assumptions.append(proxy_userspace.ASSUMPTION)

    for name, node in cluster.nodes.items():
        pods = pods_of[name]
        eth0 = _node_port(cluster, node)
        wiring = cache(partial(cni.on_node, node, pods, 3))
        sockets = (*_node_listeners(node, host_pods.get(name, ()), ports), *_host_ports(pods))
        nodes[name] = partial(_node, cluster, cni, node, pods, eth0, wiring, sockets, checked)
        indexes = cache(partial(_indexes, wiring))
        for pod in pods:
            pod_spaces[pod.key] = partial(_pod, cni, node, pod, indexes, ports)
        assumptions += cni.assumptions(node, pods)

    internet = _internet(cluster, places, ports, external, (*clients, *extra_hosts), at, cni.outside)
    namespaces: Lazy[str, Netns] = Lazy({**nodes, **pod_spaces, INTERNET: partial(_same, internet)})
    names = [segment.name for segment in cluster.fabric.segments] or [FABRIC]
    network = Network(namespaces, {name: Segment(name, cluster.fabric.mtu) for name in names}, (*nodes, INTERNET))
    return Built(network, tuple(not_modelled), tuple(assumptions))


def _check(cluster: Cluster, at: str | None) -> None:
    if cluster.cni.name not in _CNIS:
        raise InputError(f'CNI "{cluster.cni.name}" is not modelled', hint="those that are: " + ", ".join(_CNIS))
    known = (*flannel.BACKENDS, *flannel.OTHER_BACKENDS)
    if cluster.cni.name in ("flannel", "canal") and cluster.cni.backend not in known:
        hint = did_you_mean(cluster.cni.backend, known) or "known: " + ", ".join(known)
        raise InputError(f'unknown flannel backend "{cluster.cni.backend}"', hint=hint)
    if cluster.proxy.mode not in _PROXIES:
        raise InputError(f'proxy mode "{cluster.proxy.mode}" is not modelled', hint="those that are: " + ", ".join(_PROXIES))
    if at is not None and at not in cluster.nodes:
        raise InputError(f'unknown node "{at}"', hint=did_you_mean(at, cluster.nodes) or "nodes: " + ", ".join(cluster.nodes))
    if INTERNET in cluster.nodes:
        raise InputError(
            f'a node cannot be called "{INTERNET}": the name stands for everything beyond the fabric',
            cluster.nodes[INTERNET].ref,
        )


def _node_sysctls() -> dict[str, int]:
    """The sysctls of a node: what kubeadm asks for (kube-proxy adds its own)."""
    return {
        "ipv4.ip_forward": 1,
        "ipv6.conf.all.forwarding": 1,
        "bridge.bridge-nf-call-iptables": 1,
        "bridge.bridge-nf-call-ip6tables": 1,
    }


_LO = loopback()
_LO_ROUTES = tuple(derived_routes((_LO,), False))
_POD_SYSCTLS = {"ipv4.ip_forward": 0, "ipv6.conf.all.forwarding": 0}


class _Places:
    """Who has which address: pods, nodes, services; anything else may be a host outside."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.nodes = {address: node.name for node in cluster.nodes.values() for address in node.internal_ips}
        self.pods = {a: pod.key for pod in cluster.pods.values() if not pod.host_network for a in pod.ips}
        self.services = {a for service in cluster.services.values() for a in (*service.cluster_ips, *entry_addresses(service))}

    def is_outside(self, address: Ip) -> bool:
        """Whether `internet` may answer for an address: nobody in the cluster has it and no network of the cluster holds it."""
        if address in self.nodes or address in self.pods or address in self.services:
            return False
        if address.is_loopback or address.is_multicast or address in self.cluster.fabric.gateways:
            return False
        return not any(address in net for net in (*self.cluster.pod_cidrs, *self.cluster.service_cidrs))


def entry_addresses(service: Service) -> list[Ip]:
    """The addresses by which the outside enters a service: externalIPs, and load balancer addresses that kube-proxy answers
    (ipMode VIP; KEP-1860)."""
    balancers = [e.ip for e in service.load_balancer if e.ip is not None and e.ip_mode == "VIP"]
    return [*service.external_ips, *balancers]


def _pods_by_node(cluster: Cluster, not_modelled: list[str]) -> dict[str, list[Pod]]:
    """Pods with a namespace of their own, by node and name: the answer does not depend on the order of the input."""
    found: dict[str, list[Pod]] = {name: [] for name in cluster.nodes}
    homeless = []
    for key in sorted(cluster.pods):
        pod = cluster.pods[key]
        if pod.host_network or not pod.ips:
            continue
        if pod.node_name in found:
            found[pod.node_name].append(pod)
        else:
            homeless.append(key)
    if homeless:
        not_modelled.append(f"pods on nodes that are not among the input: {_some(homeless)}")
    return found


def _some(names: Sequence[str], limit: int = 4) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _fabric_length(cluster: Cluster, address: Ip) -> int | None:
    return next((p.length for p in cluster.fabric.prefixes if address in p), None)


def _node_port(cluster: Cluster, node: Node) -> Device:
    """The node's port on the fabric with its InternalIPs."""
    if not node.internal_ips:
        raise InputError(
            f'node "{node.name}" has no InternalIP', node.ref, "give it one in status.addresses or in a Topology document"
        )
    addresses = []
    for address in node.internal_ips:
        length = _fabric_length(cluster, address)
        if length is None:
            raise InputError(
                f'node "{node.name}": address {address} is outside the fabric',
                node.ref,
                "the fabric is " + (", ".join(map(str, cluster.fabric.prefixes)) or "empty"),
            )
        addresses.append(with_broadcast(address, length))
    segments = {s.name for a in node.internal_ips if (s := cluster.fabric.segment_of(a)) is not None}
    if len(segments) > 1:
        what = f'node "{node.name}": its addresses are on the segments {" and ".join(sorted(segments))}'
        raise InputError(what, node.ref, "a node has one port on the fabric")
    mac = "02:00:" + mac_of_ip(node.internal_ips[0])[6:]
    return _port(cluster, cluster.fabric.device, mac, addresses, next(iter(segments)))


def _port(cluster: Cluster, name: str, mac: str, addresses: Sequence[Address], segment: str, index: int = 2) -> Device:
    return Device(
        name,
        DeviceKind.PHYSICAL,
        index,
        mac=mac,
        mtu=cluster.fabric.mtu,
        segment=segment,
        addresses=(*addresses, link_local(mac)),
    )


def _gateway_routes(cluster: Cluster, port: Device) -> list[Route]:
    """A default route per family that the node has an address of, by the router on its segment."""
    own = [address.ip for address in port.addresses if address.scope == "global"]
    families = {address.family for address in own}
    segment = cluster.fabric.segment_of(own[0]) if own else None
    gateways = segment.gateways if segment is not None else ()
    return [_route(_ANY[gateway.family], NextHop(port.name, gateway)) for gateway in gateways if gateway.family in families]


def _route(dst: Prefix, hop: NextHop) -> Route:
    """A route as `ip route add` makes it."""
    return Route(dst, (hop,), metric=IP6_USER_METRIC if dst.family == 6 else 0)


def with_internet(network: Network, internet: Netns) -> Network:
    """A network with another `internet` (from a `build` with other hosts); its port keeps the MAC that observed nodes know."""
    devices = dict(internet.devices)
    for name, port in internet.devices.items():
        old = network.namespaces[INTERNET].devices.get(name)
        if port.kind is DeviceKind.PHYSICAL and old is not None:
            addresses = tuple(link_local(old.mac) if a == link_local(port.mac) else a for a in port.addresses)
            devices[name] = msgspec.structs.replace(port, mac=old.mac, addresses=addresses)
    added = [route for route in internet.routes if route.protocol != "kernel"]
    routes = in_kernel_order([*derived_routes(devices.values(), True), *added])
    outside = msgspec.structs.replace(internet, devices=devices, routes=routes, cache={})
    spaces = network.namespaces
    makers = {name: partial(spaces.__getitem__, name) for name in spaces}
    return msgspec.structs.replace(network, namespaces=Lazy({**makers, INTERNET: partial(_same, outside)}))


def _same(netns: Netns) -> Netns:
    return netns


def _indexes(wiring: Callable[[], Wiring]) -> dict[str, int]:
    """The index of each pod's veth on the node, by the pod."""
    return {device.peer[0]: device.index for device in wiring().devices if device.peer is not None}


def _node(
    cluster: Cluster,
    cni: Plugin,
    node: Node,
    pods: Sequence[Pod],
    eth0: Device,
    wired: Callable[[], Wiring],
    sockets: Sequence[Listener],
    checked: Cluster,
) -> Netns:
    """A node's namespace: what the CNI left, and what kube-proxy programs upon it; `sockets` are those of others."""
    wiring = wired()
    proxied = _PROXIES[cluster.proxy.mode](cluster, node, (loopback(), eth0, *wiring.devices), checked)
    devices = (loopback(), eth0, *wiring.devices, *proxied.devices)
    routes = [*derived_routes(devices, True), *_gateway_routes(cluster, eth0), *wiring.routes]
    return Netns(
        node.name,
        NetnsKind.NODE,
        devices={device.name: device for device in devices},
        routes=in_kernel_order(routes),
        rules=RULES,
        neighbours=wiring.neighbours,
        fdb=wiring.fdb,
        rulesets=_rulesets(cni, node, pods, proxied),
        sets={**wiring.sets, **proxied.sets},
        ipvs=proxied.ipvs,
        sysctls={**_node_sysctls(), **wiring.sysctls, **proxied.sysctls, **cluster.sysctls},
        listeners=(*sockets, *proxied.listeners),
    )


def _pod(
    cni: Plugin,
    node: Node,
    pod: Pod,
    indexes: Callable[[], Mapping[str, int]],
    ports: Mapping[Ip, Mapping[tuple[int, int], str]],
) -> Netns:
    """A pod's namespace; `indexes` are those of the veths on the node, where the CNI made any."""
    host_index = indexes().get(pod.key)
    wiring = cni.in_pod(node, pod, host_index) if host_index is not None else Wiring()
    return Netns(
        pod.key,
        NetnsKind.POD,
        devices={device.name: device for device in (_LO, *wiring.devices)},
        routes=in_kernel_order([*_LO_ROUTES, *derived_routes(wiring.devices, False), *wiring.routes]),
        rules=RULES,
        neighbours=wiring.neighbours,
        sysctls={**_POD_SYSCTLS, **wiring.sysctls} if wiring.sysctls else _POD_SYSCTLS,
        listeners=_pod_listeners(pod, ports),
    )


def _addresses(devices: Iterable[Device]) -> list[Ip]:
    return [address.ip for device in devices for address in device.addresses]


def _iptables_proxy(cluster: Cluster, node: Node, devices: Sequence[Device], checked: Cluster) -> Programmed:
    """kube-proxy's iptables mode; `checked` is the cluster reduced to the services with health checks."""
    addresses = _addresses(devices)
    return Programmed(
        ruleset=lambda family: proxy_iptables.compile_ruleset(cluster, node.name, family, local_addresses=addresses),
        # pkg/proxy/iptables/proxier.go: written once, for `all`
        sysctls={"ipv4.conf.all.route_localnet": 1} if cluster.proxy.localhost_nodeports else {},
        listeners=proxy_node.listeners(checked, node.name, local_addresses=addresses),
    )


def _ipvs_proxy(cluster: Cluster, node: Node, devices: Sequence[Device], checked: Cluster) -> Programmed:
    """kube-proxy's IPVS mode, which programs both families."""
    addresses = _addresses(devices)
    both = {f: proxy_ipvs.compile_family(cluster, node.name, f, local_addresses=addresses) for f in (4, 6)}
    return Programmed(
        ruleset=lambda family: proxy_ipvs.compile_ruleset(cluster, node.name, both[family]),
        devices=(proxy_ipvs.device(both.values(), 1 + max(device.index for device in devices)),),
        sets={name: each for family in both.values() for name, each in family.sets.items()},
        ipvs=(*both[4].services, *both[6].services),
        sysctls=proxy_ipvs.sysctls(cluster),
        listeners=proxy_node.listeners(checked, node.name, local_addresses=addresses),
    )


def _nftables_proxy(cluster: Cluster, node: Node, devices: Sequence[Device], checked: Cluster) -> Programmed:
    """kube-proxy's nftables mode; it leaves route_localnet alone, for node ports never answer on loopback."""
    addresses = _addresses(devices)
    proxy_nftables.generation(cluster.proxy.version)  # an unknown version is told at once
    return Programmed(
        ruleset=lambda family: proxy_nftables.compile_ruleset(
            cluster, node.name, family, local_addresses=addresses, version=cluster.proxy.version
        ),
        listeners=proxy_node.listeners(checked, node.name, local_addresses=addresses, primary=True),
    )


def _userspace_proxy(cluster: Cluster, node: Node, devices: Sequence[Device], checked: Cluster) -> Programmed:
    """kube-proxy's userspace mode: rules that lead to its own sockets."""
    return Programmed(
        ruleset=lambda family: proxy_userspace.compile_ruleset(cluster, node.name, family),
        listeners=proxy_userspace.listeners(cluster, node.name, local_addresses=_addresses(devices)),
    )


_PROXIES: Mapping[str, Callable[[Cluster, Node, Sequence[Device], Cluster], Programmed]] = {
    "iptables": _iptables_proxy,
    "nftables": _nftables_proxy,
    "ipvs": _ipvs_proxy,
    "userspace": _userspace_proxy,
}


_CNIS: Mapping[str, Callable[[Cluster], Plugin]] = {
    "flannel": flannel.plugin,
    "calico": calico.plugin,
    "canal": canal.plugin,
    "none": lambda cluster: NOTHING,
}


def _rulesets(cni: Plugin, node: Node, pods: Sequence[Pod], proxied: Programmed) -> Lazy[int, Ruleset]:
    def compile_family(family: int) -> Callable[[], Ruleset]:
        def compile_now() -> Ruleset:
            return cni.add_rules(proxied.ruleset(family), node, pods, family)

        return compile_now

    return Lazy({4: compile_family(4), 6: compile_family(6)})


def _endpoint_ports(cluster: Cluster, places: _Places) -> tuple[Mapping[Ip, Mapping[tuple[int, int], str]], dict[Ip, None]]:
    """What EndpointSlices say about sockets: (protocol, port) by address with the service that says so, and the endpoint
    addresses that lie outside the cluster."""
    ports: dict[Ip, dict[tuple[int, int], str]] = defaultdict(dict)
    external: dict[Ip, None] = {}
    for slices in cluster.slices.values():
        for entry in slices:
            wanted = [(PROTOCOL_NUMBERS[p.protocol.lower()], p.port) for p in entry.ports if p.port is not None]
            for endpoint in entry.endpoints:
                for address in endpoint.addresses:
                    known = ports[address]
                    for key in wanted:
                        known.setdefault(key, f"{entry.namespace}/{entry.service.rpartition('/')[2]}")
                    if address not in places.pods and places.is_outside(address):
                        external[address] = None
    return ports, external


def _declared(pod: Pod) -> list[tuple[int, int]]:
    return [(PROTOCOL_NUMBERS[port.protocol.lower()], port.container_port) for port in pod.ports]


def _pod_listeners(pod: Pod, ports: Mapping[Ip, Mapping[tuple[int, int], str]]) -> tuple[Listener, ...]:
    """A pod listens on its containerPorts and wherever a service expects it to, on any address."""
    wanted = dict.fromkeys(_declared(pod))
    for address in pod.ips:
        for key in ports.get(address, ()):
            wanted[key] = None
    if not wanted:
        return ()
    owner = f"pod {pod.key}"
    return tuple([Listener(protocol, port, owner) for protocol, port in wanted])


def _node_listeners(node: Node, host_pods: Sequence[Pod], ports: Mapping[Ip, Mapping[tuple[int, int], str]]) -> list[Listener]:
    """hostNetwork pods, the kubelet, and endpoints that are the node itself (the API server)."""
    owners: dict[tuple[int, int], str] = {(TCP, 10250): "kubelet"}
    for pod in host_pods:
        for key in _declared(pod):
            owners.setdefault(key, f"pod {pod.key}")
    for address in node.internal_ips:
        for key, service in ports.get(address, {}).items():
            owners.setdefault(key, f"endpoint of {service}")
    return [Listener(protocol, port, owner) for (protocol, port), owner in owners.items()]


def _host_ports(pods: Sequence[Pod]) -> list[Listener]:
    """hostPorts: ports of the node that the portmap plug-in translates to a pod, with rules that are not modelled."""
    return [
        Listener(
            PROTOCOL_NUMBERS[port.protocol.lower()],
            port.host_port,
            f"pod {pod.key}",
            ip=None if port.host_ip in (None, "", "0.0.0.0", "::") else ip(port.host_ip or ""),
            not_modelled=f"hostPort {port.host_port} of pod {pod.key} (the portmap plug-in's rules)",
        )
        for pod in pods
        for port in pod.ports
        if port.host_port is not None
    ]


def _host_pods(cluster: Cluster) -> dict[str, list[Pod]]:
    found: dict[str, list[Pod]] = defaultdict(list)
    for key in sorted(cluster.pods):
        if cluster.pods[key].host_network:
            found[cluster.pods[key].node_name].append(cluster.pods[key])
    return found


def _internet(
    cluster: Cluster,
    places: _Places,
    ports: Mapping[Ip, Mapping[tuple[int, int], str]],
    external: Iterable[Ip],
    hosts: Iterable[Ip],
    at: str | None,
    learned: Sequence[Route],
) -> Netns:
    """Everything beyond the fabric, and the router between its segments: a port on each, the hosts outside on `lo`, and routes to
    the service addresses and whatever else it has `learned`.

    A host whose address lies in the fabric's own subnet is a neighbour of the nodes: it is put on the gateway's port, so that
    it answers ARP. Whatever else leaves the cluster ends in the blackhole route.
    """
    outside = {address: None for address in (*hosts, *external) if places.is_outside(address)}
    segments = cluster.fabric.segments or (FabricSegment(FABRIC, cluster.fabric.prefixes, cluster.fabric.gateways),)
    on_port = [[with_broadcast(g, _fabric_length(cluster, g) or g.bits) for g in segment.gateways] for segment in segments]
    far = []
    for address in outside:
        length = _fabric_length(cluster, address)
        if length is None:
            far.append(Address(address, address.bits))
        else:
            there = next(n for n, segment in enumerate(segments) if any(address in p for p in segment.prefixes))
            on_port[there].append(with_broadcast(address, length))
    own = [_port(cluster, f"eth{n}", f"02:00:5e:00:{n:02x}:fe", on_port[n], s.name, 2 + n) for n, s in enumerate(segments)]
    devices = (loopback(far), *own)
    routes = [
        *derived_routes(devices, True),
        *_service_routes(cluster, at, learned),
        *learned,
        Route(_ANY[4], type=RouteType.BLACKHOLE),
        Route(_ANY[6], type=RouteType.BLACKHOLE, metric=IP6_USER_METRIC),
    ]
    listeners = [
        Listener(protocol, number, f"external endpoint of {service}", address)
        for address in external
        for (protocol, number), service in ports[address].items()
    ]
    return Netns(
        INTERNET,
        NetnsKind.EXTERNAL,
        devices={device.name: device for device in devices},
        routes=in_kernel_order(routes),
        rules=RULES,
        sysctls={"ipv4.ip_forward": 1, "ipv6.conf.all.forwarding": 1},
        listeners=tuple(listeners),
    )


def _service_routes(cluster: Cluster, at: str | None, learned: Sequence[Route] = ()) -> list[Route]:
    """How the outside reaches service addresses: by way of one node's address on the fabric."""
    if not cluster.nodes:
        return []
    node = cluster.nodes[at] if at is not None else next(iter(cluster.nodes.values()))
    via = {family: next((a for a in node.internal_ips if a.family == family), None) for family in (4, 6)}
    entries = [a for service in cluster.services.values() for a in entry_addresses(service)]
    wanted = {host_prefix(a): None for a in entries if _fabric_length(cluster, a) is None}
    if at is not None:
        wanted.update(dict.fromkeys((*cluster.service_cidrs, *cluster.pod_cidrs)))
        loose = [a for service in cluster.services.values() for a in service.cluster_ips]
        wanted.update({host_prefix(a): None for a in loose if not any(a in cidr for cidr in cluster.service_cidrs)})
    known = {route.dst for route in learned}
    segments = [segment.name for segment in cluster.fabric.segments]
    found = []
    for dst in wanted:
        gateway = via[dst.family]
        if gateway is None or dst in known:
            continue
        segment = cluster.fabric.segment_of(gateway)
        device = f"eth{segments.index(segment.name)}" if segment is not None and segment.name in segments else "eth0"
        found.append(_route(dst, NextHop(device, gateway)))
    return found
