"""Flannel with its backends vxlan and host-gw, and the CNI bridge plug-in that it delegates to: what they leave behind.

    pod eth0 --- vethXXXXXXXX [cni0 10.244.1.1/24] --route--> flannel.1 ==VXLAN, UDP 8472==> eth0 of another node

Law: devices, addresses, routes, neighbours, FDB entries and iptables rules are those of flanneld v0.22 and later with its
kube-flannel.yml (hairpinMode, isDefaultGateway). MAC addresses and veth names, random in reality, follow from names here.
Sources: flannel-io/flannel pkg/backend/vxlan, pkg/trafficmngr/iptables; containernetworking/plugins main/bridge, pkg/ip.
Not modelled: flanneld's nftables mode, the portmap plug-in. Of the backends in OTHER_BACKENDS only the ways to other nodes are
not: a packet for another node's pods is `unknown` there, all else is as with any backend.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256

import msgspec

from netlab.dataplane.cni.wiring import Plugin, Wiring, append_chain, destination, mac_of_ip, source
from netlab.kube.cluster import Cluster
from netlab.kube.objects import Node, Pod
from netlab.linux.addr import Ip, Prefix, prefix
from netlab.linux.derived import IP6_USER_METRIC, link_local, with_broadcast
from netlab.linux.matches import Comment, Mark
from netlab.linux.netns import Address, Device, DeviceKind, FdbEntry, Neighbour, NextHop, Route, Vxlan
from netlab.linux.rules import Rule, Ruleset
from netlab.linux.targets import Accept, Jump, Masquerade, NatRange, Return

BRIDGE = "cni0"
HOST_GW = "host-gw"
BACKENDS = ("vxlan", HOST_GW)
# flannel-io/flannel Documentation/backends.md; what each takes from the MTU (pkg/backend/*, where it says so)
OTHER_BACKENDS = {"wireguard": 80, "ipip": 20, "udp": 28, "ipsec": 0, "extension": 0, "alloc": 0}
OVERHEAD = {4: 50, 6: 70}  # flannel subtracts 50; the kernel lowers a tunnel over IPv6 to 70 (vxlan.c, VXLAN6_HEADROOM)
_KUBE_PROXY_MARK = 0x4000  # trafficmngr.KubeProxyMark: fixed, whatever kube-proxy's --iptables-masquerade-bit says
_MULTICAST = {4: prefix("224.0.0.0/4"), 6: prefix("ff00::/8")}
_ANY = {4: prefix("0.0.0.0/0"), 6: prefix("::/0")}


class Lease(msgspec.Struct, frozen=True):
    """What flanneld publishes about a node, per family: its subnet, its tunnel end and the MAC of its tunnel device."""

    node: str
    subnet: Prefix
    public_ip: Ip
    mac: str
    device: str
    mtu: int

    @property
    def family(self) -> int:
        return self.subnet.family


class Remote(msgspec.Struct, frozen=True):
    """The entries that another node makes for a lease: a route, and for a tunnel the MAC and where it is."""

    route: Route
    neighbour: Neighbour | None = None
    fdb: FdbEntry | None = None


def plugin(cluster: Cluster) -> Plugin:
    """Flannel in one cluster."""
    own = leases(cluster)

    def on_a_node(node: Node, pods: Sequence[Pod], first_index: int) -> Wiring:
        return on_node(cluster, node, pods, own, first_index)

    def rules(ruleset: Ruleset, node: Node, pods: Sequence[Pod], family: int) -> Ruleset:
        return add_rules(ruleset, cluster, node, family)

    def assumed(node: Node, pods: Sequence[Pod]) -> list[str]:
        return [*stray_pods(cluster, node, pods), *missing(cluster, node, own)]

    return Plugin(on_a_node, partial(in_pod, cluster), rules, assumptions=assumed, not_modelled=not_modelled(cluster))


def not_modelled(cluster: Cluster) -> tuple[str, ...]:
    """What of the cluster's backend is not known."""
    backend = cluster.cni.backend
    return (f"flannel's backend {backend}: the ways between nodes",) if backend in OTHER_BACKENDS else ()


def leases(cluster: Cluster) -> dict[str, tuple[Lease, ...]]:
    """The leases of every node by name: one per family that the cluster's pod network, the node's podCIDRs and its addresses
    share (flannel's kube subnet manager)."""
    found: dict[str, tuple[Lease, ...]] = {}
    families = [cidr.family for cidr in cluster.pod_cidrs]
    vni = cluster.cni.vni
    for name, node in cluster.nodes.items():
        own = []
        for family in families:
            subnet = _of_family(node.pod_cidrs, family)
            public_ip = next((ip for ip in node.internal_ips if ip.family == family), None)
            if subnet is None or public_ip is None:
                continue
            device = f"flannel.{vni}" if family == 4 else f"flannel-v6.{vni}"
            mac, mtu = _mac(f"{name}/{device}"), cluster.fabric.mtu - OVERHEAD[family]
            if cluster.cni.backend != "vxlan":
                device, mac, mtu = cluster.fabric.device, "", cluster.fabric.mtu
            own.append(Lease(name, subnet, public_ip, mac, device, mtu))
        found[name] = tuple(own)
    return found


def remotes(cluster: Cluster, node: Node, all_leases: Mapping[str, tuple[Lease, ...]]) -> Iterator[Remote]:
    """What a node adds for every other one (vxlan_network.go handleSubnetEvents, hostgw_network.go): a route through the tunnel
    to its subnet by the subnet's network address, that address's MAC, and the tunnel end behind the MAC; or, with host-gw and
    towards neighbours with DirectRouting, a route by the other node's address."""
    own = {lease.family: lease for lease in all_leases[node.name]}
    for name, entries in all_leases.items():
        for lease in entries:
            here = own.get(lease.family)
            if name == node.name or here is None:
                continue
            if cluster.cni.backend in OTHER_BACKENDS:
                yield Remote(Route(lease.subnet, unknown=f"flannel's backend {cluster.cni.backend}"))
                continue
            subnet = cluster.fabric.subnet_of(here.public_ip)
            near = subnet is not None and lease.public_ip in subnet
            metric = IP6_USER_METRIC if lease.family == 6 else 0
            if near and (cluster.cni.backend == HOST_GW or cluster.cni.direct_routing):
                hop = NextHop(cluster.fabric.device, lease.public_ip)
                yield Remote(Route(lease.subnet, (hop,), metric=metric))
            elif cluster.cni.backend != HOST_GW:
                gateway = lease.subnet.address
                hop = NextHop(lease.device, gateway, onlink=True)
                yield Remote(
                    Route(lease.subnet, (hop,), metric=metric),
                    Neighbour(lease.device, gateway, lease.mac),
                    FdbEntry(lease.device, lease.mac, lease.public_ip),
                )


def tunnels(cluster: Cluster, node: Node, all_leases: Mapping[str, tuple[Lease, ...]], first_index: int) -> Wiring:
    """flanneld's part: its VXLAN devices (none with other backends), and the ways to the other nodes' subnets."""
    devices: list[Device] = []
    for lease in all_leases[node.name] if cluster.cni.backend == "vxlan" else ():
        devices.append(
            Device(
                lease.device,
                DeviceKind.VXLAN,
                first_index + len(devices),
                mac=lease.mac,
                mtu=lease.mtu,
                vxlan=Vxlan(cluster.cni.vni, lease.public_ip, cluster.cni.port, learning=False, lower=cluster.fabric.device),
                # a host prefix, so that no broadcast and no connected route comes with it (vxlan.go)
                addresses=(Address(lease.subnet.address, lease.subnet.address.bits), link_local(lease.mac)),
            )
        )
    others = list(remotes(cluster, node, all_leases))
    return Wiring(
        tuple(devices),
        tuple(other.route for other in others),
        tuple(other.neighbour for other in others if other.neighbour is not None),
        tuple(other.fdb for other in others if other.fdb is not None),
    )


def on_node(
    cluster: Cluster, node: Node, pods: Sequence[Pod], all_leases: Mapping[str, tuple[Lease, ...]], first_index: int
) -> Wiring:
    """What flanneld and the bridge plug-in add to a node's namespace.

    Parameters
    ----------
    pods : sequence of Pod
        The node's pods that have a namespace of their own, in the order in which their devices were made.
    all_leases
        What `leases` returns for the cluster.
    first_index : int
        The first free device index.
    """
    outer = tunnels(cluster, node, all_leases, first_index)
    devices = list(outer.devices)
    index = first_index + len(devices)
    fdb: list[FdbEntry] = []
    mtu = pod_mtu(cluster)
    subnets = node_subnets(cluster, node)
    if subnets:
        gateways = [with_broadcast(subnet.nth(1), subnet.length) for subnet in subnets]
        mac = mac_of_ip(gateways[0].ip)
        devices.append(Device(BRIDGE, DeviceKind.BRIDGE, index, mac=mac, mtu=mtu, addresses=(*gateways, link_local(mac))))
        fdb.append(FdbEntry(BRIDGE, mac, master=BRIDGE))
        index += 1
        for netnsid, pod in enumerate(pods):
            name, mac = host_veth(pod.key)
            devices.append(
                Device(
                    name,
                    DeviceKind.VETH,
                    index,
                    mac=mac,
                    mtu=mtu,
                    master=BRIDGE,
                    hairpin=cluster.cni.hairpin,
                    peer=(pod.key, "eth0"),
                    addresses=(link_local(mac),),
                    link_index=2,
                    link_netnsid=netnsid,
                )
            )
            fdb.append(FdbEntry(name, mac, master=BRIDGE))
            index += 1
    return Wiring(tuple(devices), outer.routes, outer.neighbours, (*outer.fdb, *fdb))


def in_pod(cluster: Cluster, node: Node, pod: Pod, host_index: int) -> Wiring:
    """The pod's side: `eth0`, the route to the whole pod network and the default route, both by way of cni0's address.

    flannel's CNI plug-in asks host-local for the first route (getDelegateIPAM), the bridge plug-in adds the second
    (isDefaultGateway). `host_index` is the index of the other end of the veth.
    """
    mac = mac_of_ip(pod.ips[0])
    addresses = []
    routes = []
    for subnet in node_subnets(cluster, node):
        family = subnet.family
        address = next((ip for ip in pod.ips if ip.family == family), None)
        if address is None:
            continue
        addresses.append(with_broadcast(address, subnet.length))
        hops = (NextHop("eth0", subnet.nth(1)),)
        metric = IP6_USER_METRIC if family == 6 else 0
        network = _of_family(cluster.pod_cidrs, family)
        if network is not None and network != subnet:
            routes.append(Route(network, hops, metric=metric))
        routes.append(Route(_ANY[family], hops, metric=metric))
    device = Device(
        "eth0",
        DeviceKind.VETH,
        2,
        mac=mac,
        mtu=pod_mtu(cluster),
        peer=(node.name, host_veth(pod.key)[0]),
        addresses=(*addresses, link_local(mac)),
        link_index=host_index,
        link_netnsid=0,
    )
    return Wiring((device,), tuple(routes))


def pod_mtu(cluster: Cluster) -> int:
    """FLANNEL_MTU of subnet.env, which the bridge plug-in gives cni0 and the pods: 50 less than the fabric's for either
    family (vxlan_network.go, MTU), so that IPv6 pods learn the tunnel's smaller MTU from ICMPv6 "packet too big". With
    host-gw the fabric's own."""
    if cluster.cni.backend == "vxlan":
        return cluster.fabric.mtu - OVERHEAD[4]
    return cluster.fabric.mtu - OTHER_BACKENDS.get(cluster.cni.backend, 0)


def node_subnets(cluster: Cluster, node: Node) -> list[Prefix]:
    """The node's podCIDRs that belong to the families of the cluster's pod network, in that network's order."""
    found = [_of_family(node.pod_cidrs, cidr.family) for cidr in cluster.pod_cidrs]
    return [subnet for subnet in found if subnet is not None]


def host_veth(pod_key: str) -> tuple[str, str]:
    """Name and MAC of the node's end of a pod's veth pair; random in reality (plugins pkg/ip, RandomVethName)."""
    digest = sha256(pod_key.encode()).hexdigest()
    return "veth" + digest[:8], _mac("veth " + pod_key)


def add_rules(ruleset: Ruleset, cluster: Cluster, node: Node, family: int) -> Ruleset:
    """`ruleset` with flanneld's chains and its two jumps, where they are on a node that runs kube-proxy too.

    flanneld appends its jumps to nat POSTROUTING and filter FORWARD; kube-proxy inserts its own at the head of the chains,
    so flanneld's come last whichever started first (pkg/trafficmngr/iptables/iptables.go, masqRules, forwardRules).
    """
    network = _of_family(cluster.pod_cidrs, family)
    subnet = _of_family(node.pod_cidrs, family)
    if network is None or subnet is None:
        return ruleset
    if cluster.cni.masquerade:
        comment = Comment("flanneld masq")
        masquerade = Masquerade(NatRange(random_fully=True))
        multicast = _MULTICAST[family]
        rules: tuple[Rule, ...] = (
            Rule((Mark(_KUBE_PROXY_MARK, _KUBE_PROXY_MARK), comment), Return()),
            Rule((source(subnet), destination(network), comment), Return()),
            Rule((source(network), destination(subnet), comment), Return()),
            Rule((source(network, True), destination(subnet), comment), Return()),
            Rule((source(network), destination(multicast, True), comment), masquerade),
            Rule((source(network, True), destination(network), comment), masquerade),
        )
        jump = Rule((comment,), Jump("FLANNEL-POSTRTG"))
        ruleset = append_chain(ruleset, family, "nat", "POSTROUTING", jump, "FLANNEL-POSTRTG", rules)
    comment = Comment("flanneld forward")
    rules = (Rule((source(network), comment), Accept()), Rule((destination(network), comment), Accept()))
    return append_chain(ruleset, family, "filter", "FORWARD", Rule((comment,), Jump("FLANNEL-FWD")), "FLANNEL-FWD", rules)


def _of_family(prefixes: Sequence[Prefix], family: int) -> Prefix | None:
    return next((p for p in prefixes if p.family == family), None)


def _mac(seed: str) -> str:
    """A unicast MAC with the locally administered bit set that follows from `seed`."""
    digest = sha256(seed.encode()).digest()
    return bytes(((digest[0] & 0xFC) | 2, *digest[1:6])).hex(":")


def stray_pods(cluster: Cluster, node: Node, pods: Sequence[Pod]) -> list[str]:
    """host-local gives out addresses of the node's podCIDR only; say so where the input has others."""
    subnets = node_subnets(cluster, node)
    families = {s.family for s in subnets}
    stray = [pod.key for pod in pods if any(a.family in families and not any(a in s for s in subnets) for a in pod.ips)]
    if not stray:
        return []
    cidrs = ", ".join(map(str, subnets))
    more = f" and {len(stray) - 4} more" if len(stray) > 4 else ""
    return [f"{node.name}: pods with addresses outside its podCIDR {cidrs} are kept as given: {', '.join(stray[:4])}{more}"]


def missing(cluster: Cluster, node: Node, all_leases: Mapping[str, tuple[Lease, ...]]) -> list[str]:
    """Where flannel has no way to other nodes, and why."""
    own = all_leases[node.name]
    if cluster.cni.backend == HOST_GW:
        said = []
        for lease in own:
            subnet = cluster.fabric.subnet_of(lease.public_ip)
            far = [
                name
                for name, entries in all_leases.items()
                for other in entries
                if other.family == lease.family and subnet is not None and other.public_ip not in subnet
            ]
            if far:
                said.append(f"{node.name}: host-gw has no route to nodes of other subnets: {', '.join(far)}")
        return said
    lacking = {cidr.family for cidr in cluster.pod_cidrs} - {lease.family for lease in own}
    return [f"{node.name}: no IPv{f} podCIDR or InternalIP, so flannel has no IPv{f} tunnel there" for f in sorted(lacking)]
