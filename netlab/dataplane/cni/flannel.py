"""Flannel with the VXLAN backend, and the CNI bridge plug-in that it delegates to: what they leave on nodes and in pods.

    pod eth0 --- vethXXXXXXXX [cni0 10.244.1.1/24] --route--> flannel.1 ==VXLAN, UDP 8472==> eth0 of another node

Law: devices, addresses, routes, neighbours, FDB entries and iptables rules are those of flanneld v0.22 and later with its
kube-flannel.yml (hairpinMode, isDefaultGateway). MAC addresses and veth names, random in reality, follow from names here.
Sources: flannel-io/flannel pkg/backend/vxlan, pkg/trafficmngr/iptables; containernetworking/plugins main/bridge, pkg/ip.
Not modelled: DirectRouting, other backends, flanneld's nftables mode, the portmap plug-in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

import msgspec

from netlab.kube.cluster import Cluster
from netlab.kube.objects import Node, Pod
from netlab.linux.addr import Ip, Prefix, mask_of, prefix
from netlab.linux.derived import IP6_USER_METRIC, link_local, with_broadcast
from netlab.linux.hooks import IPTABLES_TABLES
from netlab.linux.matches import Comment, Destination, Mark, Source
from netlab.linux.netns import Address, Device, DeviceKind, FdbEntry, Neighbour, NextHop, Route, Vxlan
from netlab.linux.rules import Chain, Rule, Ruleset, Table
from netlab.linux.targets import Accept, Jump, Masquerade, NatRange, Return

BRIDGE = "cni0"
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
    """The three entries that every other node makes for a lease; they are the same on all of them."""

    route: Route
    neighbour: Neighbour
    fdb: FdbEntry


class Wiring(msgspec.Struct, frozen=True):
    """What flannel and the bridge plug-in leave in a namespace, beside what Linux derives from it."""

    devices: tuple[Device, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    fdb: tuple[FdbEntry, ...] = ()


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
            own.append(Lease(name, subnet, public_ip, _mac(f"{name}/{device}"), device, cluster.fabric.mtu - OVERHEAD[family]))
        found[name] = tuple(own)
    return found


def remotes(all_leases: Mapping[str, tuple[Lease, ...]]) -> dict[str, tuple[Remote, ...]]:
    """What the other nodes add for each node (vxlan_network.go, handleSubnetEvents): a route through the tunnel to its subnet
    by the subnet's network address, that address's MAC, and the tunnel end behind the MAC."""
    return {name: tuple(_remote(lease) for lease in own) for name, own in all_leases.items()}


def _remote(lease: Lease) -> Remote:
    gateway = lease.subnet.address
    return Remote(
        Route(
            lease.subnet,
            (NextHop(lease.device, gateway, onlink=True),),
            metric=IP6_USER_METRIC if lease.family == 6 else 0,
        ),
        Neighbour(lease.device, gateway, lease.mac),
        FdbEntry(lease.device, lease.mac, lease.public_ip),
    )


def on_node(
    cluster: Cluster,
    node: Node,
    pods: Sequence[Pod],
    all_leases: Mapping[str, tuple[Lease, ...]],
    all_remotes: Mapping[str, tuple[Remote, ...]],
    first_index: int,
) -> Wiring:
    """What flanneld and the bridge plug-in add to a node's namespace.

    Parameters
    ----------
    pods : sequence of Pod
        The node's pods that have a namespace of their own, in the order in which their devices were made.
    all_leases, all_remotes
        What `leases` and `remotes` return for the cluster.
    first_index : int
        The first free device index.
    """
    own = all_leases[node.name]
    families = {lease.family for lease in own}
    index = first_index
    devices = []
    for lease in own:
        devices.append(
            Device(
                lease.device,
                DeviceKind.VXLAN,
                index,
                mac=lease.mac,
                mtu=lease.mtu,
                vxlan=Vxlan(cluster.cni.vni, lease.public_ip, cluster.cni.port, learning=False, lower=cluster.fabric.device),
                # a host prefix, so that no broadcast and no connected route comes with it (vxlan.go)
                addresses=(Address(lease.subnet.address, lease.subnet.address.bits), link_local(lease.mac)),
            )
        )
        index += 1
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
    others = [
        remote
        for name, entries in all_remotes.items()
        if name != node.name
        for remote in entries
        if remote.route.dst.family in families
    ]
    return Wiring(
        tuple(devices),
        tuple([other.route for other in others]),
        tuple([other.neighbour for other in others]),
        (*[other.fdb for other in others], *fdb),
    )


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
    family (vxlan_network.go, MTU), so that IPv6 pods learn the tunnel's smaller MTU from ICMPv6 "packet too big"."""
    return cluster.fabric.mtu - OVERHEAD[4]


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
            Rule((_src(subnet), _dst(network), comment), Return()),
            Rule((_src(network), _dst(subnet), comment), Return()),
            Rule((_src(network, True), _dst(subnet), comment), Return()),
            Rule((_src(network), _dst(multicast, True), comment), masquerade),
            Rule((_src(network, True), _dst(network), comment), masquerade),
        )
        ruleset = _append(ruleset, family, "nat", "POSTROUTING", comment, "FLANNEL-POSTRTG", rules)
    comment = Comment("flanneld forward")
    rules = (Rule((_src(network), comment), Accept()), Rule((_dst(network), comment), Accept()))
    return _append(ruleset, family, "filter", "FORWARD", comment, "FLANNEL-FWD", rules)


def _append(
    ruleset: Ruleset, family: int, table_name: str, base: str, comment: Comment, name: str, rules: tuple[Rule, ...]
) -> Ruleset:
    """Add chain `name` to a table, and a jump to it at the end of the table's base chain; iptables makes the table if need be."""
    table = ruleset.table(table_name)
    if table is None:
        built_in = {h.value: Chain(h.value, (), h, priority, "ACCEPT") for h, priority in IPTABLES_TABLES[table_name].items()}
        table = Table("ip" if family == 4 else "ip6", table_name, built_in)
        ruleset = msgspec.structs.replace(ruleset, tables=(*ruleset.tables, table))
    jump = Rule((comment,), Jump(name))
    chains = dict(table.chains)
    chains[base] = msgspec.structs.replace(chains[base], rules=(*chains[base].rules, jump))
    chains[name] = Chain(name, rules)
    # iptables-save lists a table's built-in chains in the order of their hooks and the others by name
    in_order = sorted(chains, key=lambda chain: (chains[chain].hook is None, "" if chains[chain].hook else chain))
    table = msgspec.structs.replace(table, chains={chain: chains[chain] for chain in in_order})
    return msgspec.structs.replace(ruleset, tables=tuple(table if t.name == table_name else t for t in ruleset.tables))


def _src(p: Prefix, negate: bool = False) -> Source:
    return Source(p.family, p.value, mask_of(p.family, p.length), negate)


def _dst(p: Prefix, negate: bool = False) -> Destination:
    return Destination(p.family, p.value, mask_of(p.family, p.length), negate)


def _of_family(prefixes: Sequence[Prefix], family: int) -> Prefix | None:
    return next((p for p in prefixes if p.family == family), None)


def mac_of_ip(ip: Ip) -> str:
    """`0a:58` and the IPv4 address, as the bridge plug-in makes MACs; the low 32 bits of an IPv6 address."""
    return "0a:58:" + (ip.value & 0xFFFFFFFF).to_bytes(4, "big").hex(":")


def _mac(seed: str) -> str:
    """A unicast MAC with the locally administered bit set that follows from `seed`."""
    digest = sha256(seed.encode()).digest()
    return bytes(((digest[0] & 0xFC) | 2, *digest[1:6])).hex(":")
