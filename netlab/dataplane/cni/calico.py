"""Calico: what its CNI plug-in and calico-node (Felix, BIRD) leave on nodes and in pods.

    pod eth0 10.244.0.2/32 ---veth--- caliXXXXXXXXXXX --route--> eth0 (Never) | tunl0 (IPIP) | vxlan.calico (VXLAN)
        default via 169.254.1.1          proxy_arp, no address

Law: there is no bridge and no subnet: every pod is a /32 behind a veth, every node has blocks of the pools, and routes decide
all. Names, MACs and addresses of devices are Calico's own; blocks and tunnel addresses come from kube/ipam.py, what BIRD installs
from bgp.py, rules from felix.py. Sources: projectcalico/calico cni-plugin/pkg/dataplane/linux, felix/dataplane/linux, confd.
Not modelled: WireGuard, the BPF data plane, floating IPs, live migration, pods' own interfaces by annotation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from hashlib import sha1

from netlab.dataplane.cni import bgp
from netlab.dataplane.cni.bgp import TUNL0, answered, node_ip, same_subnet
from netlab.dataplane.cni.felix import VXLAN_PORT, Endpoint, Felix, add_rules
from netlab.dataplane.cni.felix_policy import SET_OPTIONS, FelixPolicies
from netlab.dataplane.cni.wiring import Plugin, Wiring, mac_of_ip
from netlab.kube.cluster import Calico, Cluster, IpPool
from netlab.kube.ipam import block_of
from netlab.kube.objects import Node, Pod
from netlab.linux.addr import Ip, Prefix, host_prefix, ip
from netlab.linux.derived import IP6_USER_METRIC, link_local
from netlab.linux.netns import Address, Device, DeviceKind, FdbEntry, Neighbour, NextHop, Route, RouteType, Vxlan
from netlab.linux.rules import Ruleset
from netlab.linux.sets import IpSet, SetEntry

GATEWAY = ip("169.254.1.1")  # nobody has this address: the host's proxy ARP answers for it
HOST_MAC = "ee:ee:ee:ee:ee:ee"  # of every cali device: each is alone on its wire
GATEWAY6 = link_local(HOST_MAC).ip  # fe80::ecee:eeff:feee:eeee
VXLAN_DEVICES = {4: "vxlan.calico", 6: "vxlan-v6.calico"}
VNI = 4096
IPIP_OVERHEAD = 20
VXLAN_OVERHEAD = {4: 50, 6: 70}
FELIX_PROTOCOL = "80"  # what Felix marks its blackholes and unencapsulated routes with (defaultVXLANProto)
_ANY = {4: Prefix(4, 0, 0), 6: Prefix(6, 0, 0)}


def plugin(cluster: Cluster) -> Plugin:
    """Calico in one cluster."""
    calico = cluster.calico
    learned = bgp.routes(cluster)
    told = answered(cluster)
    policies = cache(partial(FelixPolicies, cluster))  # made when a node is looked at

    def on_a_node(node: Node, pods: Sequence[Pod], first_index: int) -> Wiring:
        routes = (*learned.nodes.get(node.name, ()), *_felix_routes(cluster, node, told))
        return on_node(cluster, policies(), node, pods, routes, first_index)

    def in_a_pod(node: Node, pod: Pod, host_index: int) -> Wiring:
        return in_pod(pod, node, host_index, mtu(cluster))

    def rules(ruleset: Ruleset, node: Node, pods: Sequence[Pod], family: int) -> Ruleset:
        if family not in families(calico):
            return ruleset  # Felix leaves ip6tables alone (FELIX_IPV6SUPPORT)
        return add_rules(ruleset, felix_of(cluster, policies(), node, pods, family))

    def assumed(node: Node, pods: Sequence[Pod]) -> list[str]:
        return _borrowed(calico, node, pods)

    return Plugin(on_a_node, in_a_pod, rules, learned.outside, assumed, (*learned.remarks, *beside(cluster)))


def beside(cluster: Cluster) -> tuple[str, ...]:
    """What FelixConfigurations ask for, and is not rendered here."""
    return tuple(dict.fromkeys(said for options in cluster.calico.felix.values() for said in options.not_modelled))


def families(calico: Calico) -> list[int]:
    """The address families that pools give addresses of."""
    return sorted({pool.cidr.family for pool in calico.pools})


def device_of(pod: Pod) -> str:
    """The host's end of a pod's veth: `cali` and 11 characters of a hash (libcalico-go, VethNameForWorkload).

    >>> device_of(Pod(name="web-0", namespace="default"))
    'cali0d7763386da'
    """
    return "cali" + sha1(f"{pod.namespace}.{pod.name}".encode()).hexdigest()[:11]


def mtu(cluster: Cluster) -> int:
    """What Felix gives the pods' devices: the fabric's, less the room that some pool's tunnel needs (felix/dataplane: mtu.go)."""
    return cluster.fabric.mtu - max(
        [0, *(IPIP_OVERHEAD for p in cluster.calico.pools if p.ipip != "Never")]
        + [VXLAN_OVERHEAD[p.cidr.family] for p in cluster.calico.pools if p.vxlan != "Never"]
    )


# -- a pod -------------------------------------------------------------------------------------------------------------


def in_pod(pod: Pod, node: Node, host_index: int, mtu_: int) -> Wiring:
    """The pod's side: `eth0` with host addresses, and everything by way of a gateway that is nowhere.

    The gateway's MAC is learned by ARP, which the host answers for any address (proxy_arp); IPv6 goes by the link-local address
    of the host's end, which is the same on every node.
    """
    mac = mac_of_ip(pod.ips[0])
    routes: list[Route] = []
    for family in dict.fromkeys(a.family for a in pod.ips):
        gateway = GATEWAY if family == 4 else GATEWAY6
        metric = IP6_USER_METRIC if family == 6 else 0
        scope = "link" if family == 4 else "global"
        routes.append(Route(host_prefix(gateway), (NextHop("eth0"),), scope=scope, metric=metric))
        routes.append(Route(_ANY[family], (NextHop("eth0", gateway),), metric=metric))
    addresses = (*(Address(a, a.bits) for a in pod.ips), link_local(mac))
    device = Device(
        "eth0",
        DeviceKind.VETH,
        2,
        mac=mac,
        mtu=mtu_,
        peer=(node.name, device_of(pod)),
        addresses=addresses,
        link_index=host_index,
        link_netnsid=0,
    )
    return Wiring((device,), tuple(routes))


# -- a node ------------------------------------------------------------------------------------------------------------


def on_node(
    cluster: Cluster,
    policies: FelixPolicies,
    node: Node,
    pods: Sequence[Pod],
    between: Sequence[Route],
    first_index: int,
) -> Wiring:
    """What calico-node and the plug-in add to a node's namespace.

    Parameters
    ----------
    pods : sequence of Pod
        The node's pods that have a namespace of their own.
    between : sequence of Route
        The routes to other nodes' blocks, and the blackholes: BIRD's and Felix's.
    first_index : int
        The first free device index.
    """
    calico = cluster.calico
    tunnels = list(_tunnel_devices(cluster, node, first_index))
    inner = veths(cluster, pods, first_index + len(tunnels), mtu(cluster))
    neighbours, fdb = _vteps(cluster, node)
    sets = {each.name: each for family in families(calico) for each in _sets(cluster, node, family)}
    sets |= policy_sets(policies, pods, families(calico))
    of = interfaces(cluster, node)
    sets |= host_sets(cluster, policies, node.name, of, families(calico))
    return Wiring((*tunnels, *inner.devices), (*between, *inner.routes), neighbours, fdb, sets, inner.sysctls)


def veths(cluster: Cluster, pods: Sequence[Pod], first_index: int, mtu_: int) -> Wiring:
    """The host's ends of the pods' veths: all with one MAC and no address, a host route to each pod, and proxy ARP."""
    devices: list[Device] = []
    routes: list[Route] = []
    sysctls: dict[str, int] = {}
    for netnsid, pod in enumerate(pods):
        name = device_of(pod)
        devices.append(
            Device(
                name,
                DeviceKind.VETH,
                first_index + netnsid,
                mac=HOST_MAC,
                mtu=mtu_,
                peer=(pod.key, "eth0"),
                addresses=(link_local(HOST_MAC),),
                link_index=2,
                link_netnsid=netnsid,
            )
        )
        for a in pod.ips:
            metric = IP6_USER_METRIC if a.family == 6 else 0
            routes.append(Route(host_prefix(a), (NextHop(name),), scope="link" if a.family == 4 else "global", metric=metric))
        if any(a.family == 4 for a in pod.ips):
            # cni-plugin configureSysctls, felix configureInterface: rp_filter is what `default` says
            loose = cluster.sysctls.get("ipv4.conf.default.rp_filter", 0)
            values = {"route_localnet": 1, "proxy_arp": 1, "forwarding": 1, "rp_filter": loose}
            sysctls.update({f"ipv4.conf.{name}.{key}": value for key, value in values.items()})
            sysctls[f"ipv4.neigh.{name}.proxy_delay"] = 0
        if any(a.family == 6 for a in pod.ips):
            sysctls.update({f"ipv6.conf.{name}.proxy_ndp": 1, f"ipv6.conf.{name}.forwarding": 1})
    return Wiring(tuple(devices), tuple(routes), sysctls=sysctls)


def _tunnel(calico: Calico, node: str, kind: str, family: int) -> Ip | None:
    return next((a for k, a in calico.tunnels.get(node, ()) if k == kind and a.family == family), None)


def vtep_mac(node: Node, family: int) -> str:
    """The MAC of a node's VXLAN device: `f` (0x66) and five bytes of a hash of its name (felix/calc, vtepMACForHost)."""
    annotation = f"projectcalico.org/VXLANTunnelMACAddr{'V6' if family == 6 else ''}"
    if annotation in node.annotations:
        return node.annotations[annotation]
    digest = sha1((node.name + ("-v6" if family == 6 else "")).encode()).digest()
    return "66:" + digest[:5].hex(":")


def _tunnel_devices(cluster: Cluster, node: Node, first_index: int) -> Iterator[Device]:
    index = first_index
    address = _tunnel(cluster.calico, node.name, "ipip", 4)
    if address is not None:
        yield Device(
            TUNL0, DeviceKind.IPIP, index, mtu=cluster.fabric.mtu - IPIP_OVERHEAD, addresses=(Address(address, 32),)
        )
        index += 1
    for family, name in VXLAN_DEVICES.items():
        address, local = _tunnel(cluster.calico, node.name, "vxlan", family), node_ip(node, family)
        if address is None or local is None:
            continue
        mac = vtep_mac(node, family)
        yield Device(
            name,
            DeviceKind.VXLAN,
            index,
            mac=mac,
            mtu=cluster.fabric.mtu - VXLAN_OVERHEAD[family],
            vxlan=Vxlan(VNI, local, VXLAN_PORT, learning=False, lower=cluster.fabric.device),
            addresses=(Address(address, address.bits), link_local(mac)),
        )
        index += 1


def _vteps(cluster: Cluster, node: Node) -> tuple[tuple[Neighbour, ...], tuple[FdbEntry, ...]]:
    """Felix tells the VXLAN device of every other tunnel end: its address has this MAC, the MAC is behind that node."""
    neighbours, fdb = [], []
    for family, device in VXLAN_DEVICES.items():
        if _tunnel(cluster.calico, node.name, "vxlan", family) is None:
            continue
        for other in cluster.nodes.values():
            address, remote = _tunnel(cluster.calico, other.name, "vxlan", family), node_ip(other, family)
            if other.name != node.name and address is not None and remote is not None:
                mac = vtep_mac(other, family)
                neighbours.append(Neighbour(device, address, mac))
                fdb.append(FdbEntry(device, mac, remote))
    return tuple(neighbours), tuple(fdb)


def _felix_routes(
    cluster: Cluster, node: Node, told: Mapping[str, Sequence[tuple[Prefix, IpPool]]]
) -> Iterator[Route]:
    """Routes of VXLAN pools, which are Felix's and not BIRD's: blackholes for the node's own blocks, and every other node's
    blocks by way of its tunnel address, or straight to the node on the same subnet (CrossSubnet)."""
    calico = cluster.calico
    for block, pool in told[node.name]:
        if pool.vxlan != "Never" and block.length < block.address.bits:
            metric = IP6_USER_METRIC if block.family == 6 else 0
            yield Route(block, type=RouteType.BLACKHOLE, protocol=FELIX_PROTOCOL, metric=metric)
    for other in cluster.nodes.values():
        if other.name == node.name:
            continue
        for dst, pool in told[other.name]:
            if pool.vxlan == "Never":
                continue
            family = dst.family
            metric = IP6_USER_METRIC if family == 6 else 0
            here, there = node_ip(node, family), node_ip(other, family)
            if here is None or there is None:
                continue
            if pool.vxlan == "CrossSubnet" and same_subnet(cluster.fabric, here, there):
                hop = NextHop(cluster.fabric.device, there, onlink=True)
                yield Route(dst, (hop,), protocol=FELIX_PROTOCOL, metric=metric)
                continue
            vtep = _tunnel(calico, other.name, "vxlan", family)
            if vtep is not None and _tunnel(calico, node.name, "vxlan", family) is not None:
                yield Route(dst, (NextHop(VXLAN_DEVICES[family], vtep, onlink=True),), metric=metric)


def _sets(cluster: Cluster, node: Node, family: int) -> Iterator[IpSet]:
    calico = cluster.calico
    pools = [pool for pool in calico.pools if pool.cidr.family == family]
    name = f"cali{family}0"

    def made(short: str, kind: str, entries: Sequence[object]) -> IpSet:
        return IpSet(name + short, kind, family, tuple(SetEntry((str(e),)) for e in entries), SET_OPTIONS)

    hosts = [a for other in cluster.nodes.values() for a in other.internal_ips if a.family == family]
    yield made("all-ipam-pools", "hash:net", [p.cidr for p in pools])
    yield made("masq-ipam-pools", "hash:net", [p.cidr for p in pools if p.nat_outgoing])
    if family == 4 and any(p.ipip != "Never" for p in pools):
        yield made("all-hosts-net", "hash:net", hosts)
    if any(p.vxlan != "Never" for p in pools):
        yield made("all-vxlan-net", "hash:net", [a for a in hosts if a not in node.internal_ips])


# -- rules -------------------------------------------------------------------------------------------------------------


def felix_of(cluster: Cluster, policies: FelixPolicies, node: Node, pods: Sequence[Pod], family: int) -> Felix:
    """What Felix knows on a node for one family. A pod's endpoint is there in both families, whatever addresses it has."""
    pools = [pool for pool in cluster.calico.pools if pool.cidr.family == family]
    kinds = [("ipip", TUNL0)] if family == 4 else []
    tunnels = [
        device
        for kind, device in (*kinds, ("vxlan", VXLAN_DEVICES[family]))
        if _tunnel(cluster.calico, node.name, kind, family) is not None
    ]
    hosts = policies.hosts(node.name, interfaces(cluster, node), family)
    return Felix(
        family,
        tuple(endpoint_of(policies, pod, family) for pod in pods),
        hosts=hosts,
        ipvs=cluster.proxy.mode == "ipvs",
        options=cluster.calico.felix_of(node.name),
        shared=partial(policies.shared, family),
        profiles=policies.profiles(hosts, family)[0],
        ipip=any(pool.ipip != "Never" for pool in pools),
        vxlan=any(pool.vxlan != "Never" for pool in pools),
        nat_outgoing=any(pool.nat_outgoing for pool in pools),
        tunnels=tuple(tunnels),
    )


def endpoint_of(policies: FelixPolicies, pod: Pod, family: int) -> Endpoint:
    """A pod as Felix's workload endpoint: its device, its profiles (those of its namespace and of its service account), and its
    policies. Of Kubernetes' profiles the namespace's allows everything, the service account's carries labels only."""
    profiles = ((f"kns.{pod.namespace}", True), (f"ksa.{pod.namespace}.{pod.service_account}", False))
    return Endpoint(device_of(pod), profiles, policies.of(pod, family))


def interfaces(cluster: Cluster, node: Node) -> dict[str, tuple[Ip, ...]]:
    """A node's devices that host endpoints may be about, and their addresses."""
    tunnels = {device.name: tuple(a.ip for a in device.addresses) for device in _tunnel_devices(cluster, node, 3)}
    return {"lo": (ip("127.0.0.1"), ip("::1")), cluster.fabric.device: node.internal_ips, **tunnels}


def host_sets(
    cluster: Cluster, policies: FelixPolicies, node: str, of: Mapping[str, Sequence[Ip]], of_families: Sequence[int]
) -> dict[str, IpSet]:
    """The ipsets that the policies and profiles of a node's host endpoints need; the node's own addresses where IPVS forwards."""
    found: dict[str, IpSet] = {}
    for family in of_families:
        if cluster.proxy.mode == "ipvs":
            own = sorted({a for addresses in of.values() for a in addresses if a.family == family})
            name = f"cali{family}0this-host"
            found[name] = IpSet(name, "hash:ip", family, tuple(SetEntry((str(a),)) for a in own), SET_OPTIONS)
        hosts = policies.hosts(node, of, family)
        found |= policies.profiles(hosts, family)[1]
        for host in hosts:
            for each in (host.normal, host.forward, host.pre_dnat, host.untracked):
                found |= each.sets if each is not None else {}
    return found


def policy_sets(policies: FelixPolicies, pods: Sequence[Pod], of_families: Sequence[int]) -> dict[str, IpSet]:
    """The ipsets that the policies of a node's pods need."""
    return {name: each for pod in pods for family in of_families for name, each in policies.of(pod, family).sets.items()}


def _borrowed(calico: Calico, node: Node, pods: Sequence[Pod]) -> list[str]:
    own = calico.blocks.get(node.name, ())
    stray = [(pod, a) for pod in pods for a in pod.ips if calico.pool_of(a) is not None and not any(a in block for block in own)]
    outside = [pod.key for pod in pods if any(calico.pool_of(a) is None for a in pod.ips if a.family in families(calico))]
    said = []
    for pod, a in stray[:4]:
        pool = calico.pool_of(a)
        assert pool is not None
        block = block_of(pool, a)
        said.append(f"{node.name}: pod {pod.key} has borrowed {a} of block {block}: it gets a host route")
    if outside:
        said.append(f"{node.name}: pods with addresses of no pool are kept as given: {', '.join(outside[:4])}")
    return said


