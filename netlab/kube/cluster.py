"""kube.Cluster: what was declared, complete: objects by name, and the decisions that no manifest states.

Law: a Cluster is a value. `assumptions` has one line per class of decision that netlab took for the user; every trace
through the cluster repeats them.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from netlab.kube.objects import Controller, EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service
from netlab.kube.policies import PolicyObjects
from netlab.linux.addr import Ip, Prefix
from netlab.refs import Ref


class FabricSegment(msgspec.Struct, frozen=True):
    """One L2 segment: its subnets, and the addresses of the router on it (one per family)."""

    name: str
    prefixes: tuple[Prefix, ...]
    gateways: tuple[Ip, ...] = ()


class Fabric(msgspec.Struct, frozen=True):
    """The network under the nodes: one L2 segment, or several (`segments`) with a router between them that is also the way to
    everything else. `prefixes` and `gateways` are those of all segments."""

    prefixes: tuple[Prefix, ...] = ()
    gateways: tuple[Ip, ...] = ()  # one per family and segment
    mtu: int = 1500
    device: str = "eth0"
    segments: tuple[FabricSegment, ...] = ()  # where there are several

    def segment_of(self, address: Ip) -> FabricSegment | None:
        """The segment in whose subnets an address lies; None where it is outside all of them."""
        every = self.segments or (FabricSegment("fabric", self.prefixes, self.gateways),)
        return next((segment for segment in every if any(address in p for p in segment.prefixes)), None)

    def subnet_of(self, address: Ip) -> Prefix | None:
        """The fabric's subnet that holds an address."""
        return next((p for p in self.prefixes if address in p), None)


class Cni(msgspec.Struct, frozen=True):
    """The CNI plug-in: name "flannel", "calico" (see Calico), "canal" (or "none": pods have no network) and its options."""

    name: str = "flannel"
    backend: str = "vxlan"
    vni: int = 1
    port: int = 8472
    hairpin: bool = True
    masquerade: bool = True  # flanneld --ip-masq
    direct_routing: bool = False  # flannel's DirectRouting: no tunnel to nodes of the same subnet


class IpPool(msgspec.Struct, frozen=True):
    """Calico's IPPool: a network that pods get addresses from, in blocks of 2^(bits - `block_size`) addresses that belong to
    nodes. `ipip` and `vxlan` are "Never", "Always" or "CrossSubnet"; `node_selector` is Calico's selector language."""

    name: str
    cidr: Prefix
    ipip: str = "Never"
    vxlan: str = "Never"
    nat_outgoing: bool = True
    block_size: int = 26
    disabled: bool = False
    disable_bgp_export: bool = False
    node_selector: str = "all()"
    ref: Ref = Ref()

    @property
    def encapsulation(self) -> str:
        """In one word: "IPIP", "IPIPCrossSubnet", "VXLAN", "VXLANCrossSubnet" or "Never"."""
        for name, mode in (("VXLAN", self.vxlan), ("IPIP", self.ipip)):
            if mode != "Never":
                return name if mode == "Always" else name + mode
        return "Never"


class BgpPeer(msgspec.Struct, frozen=True):
    """Calico's BGPPeer: which nodes (by name, by selector, or all) peer with whom (an address, or nodes by selector)."""

    name: str
    node: str = ""
    node_selector: str = ""
    peer_ip: Ip | None = None
    peer_selector: str = ""
    as_number: int | None = None
    keep_next_hop: bool = False
    ref: Ref = Ref()


class FelixOptions(msgspec.Struct, frozen=True):
    """What FelixConfiguration says that decides about packets. Failsafe ports are (protocol number, port, net of the other end).

    `not_modelled` are settings that decide, too, and that are passed over, by name.
    """

    failsafe_in: tuple[tuple[int, int, Prefix | None], ...] = tuple(
        (p, port, None)
        for p, port in ((6, 22), (17, 68), (6, 179), (6, 2379), (6, 2380), (6, 5473), (6, 6443), (6, 6666), (6, 6667))
    )
    failsafe_out: tuple[tuple[int, int, Prefix | None], ...] = tuple(
        (p, port, None)
        for p, port in ((17, 53), (17, 67), (6, 179), (6, 2379), (6, 2380), (6, 5473), (6, 6443), (6, 6666), (6, 6667))
    )
    vxlan_from_workloads: bool = False
    ipip_from_workloads: bool = False
    log_prefix: str = "calico-packet"
    not_modelled: tuple[str, ...] = ()


class Calico(msgspec.Struct, frozen=True):
    """What Calico's datastore holds: pools, the blocks of every node, how BGP distributes them.

    `blocks` maps a node to its blocks in order of their addresses. `backend` is calico-node's CALICO_NETWORKING_BACKEND: "bird",
    "vxlan" (no BGP) or "none". `tunnels` maps a node to the addresses of its tunnel devices, one per family and kind that a pool
    asks for, as ("ipip" or "vxlan", address). `felix` are Felix's options, "" for all nodes, and for nodes that have their own.
    """

    pools: tuple[IpPool, ...] = ()
    blocks: Mapping[str, tuple[Prefix, ...]] = {}
    tunnels: Mapping[str, tuple[tuple[str, Ip], ...]] = {}
    backend: str = "bird"
    mesh: bool = True
    as_number: int = 64512
    peers: tuple[BgpPeer, ...] = ()
    felix: Mapping[str, FelixOptions] = {}

    def felix_of(self, node: str) -> FelixOptions:
        """Felix's options on a node."""
        return self.felix.get(node) or self.felix.get("") or FelixOptions()

    def pool_of(self, address: Ip) -> IpPool | None:
        """The pool that an address is of."""
        return next((pool for pool in self.pools if address in pool.cidr), None)


class Proxy(msgspec.Struct, frozen=True):
    """The service proxy: mode "iptables", and kube-proxy's options."""

    mode: str = "iptables"
    cluster_cidrs: tuple[Prefix, ...] = ()  # clusterCIDR, one per family
    detect_local_mode: str = "ClusterCIDR"
    masquerade_bit: int = 14
    masquerade_all: bool = False
    localhost_nodeports: bool = True
    nodeport_addresses: tuple[Prefix, ...] = ()
    scheduler: str = "rr"  # ipvs.scheduler
    strict_arp: bool = False  # ipvs.strictARP
    exclude_cidrs: tuple[Prefix, ...] = ()  # ipvs.excludeCIDRs: virtual services there are not cleaned up
    version: str = "1.30"  # whose rules: Kubernetes' minor version
    ref: Ref | None = None  # the ConfigMap that says the mode


class Cluster(msgspec.Struct, frozen=True):
    """The whole cluster. Keys are `name` for nodes and namespaces, `namespace/name` for the rest."""

    nodes: Mapping[str, Node] = {}
    namespaces: Mapping[str, Namespace] = {}
    pods: Mapping[str, Pod] = {}
    services: Mapping[str, Service] = {}
    slices: Mapping[str, tuple[EndpointSlice, ...]] = {}  # by service key
    policies: Mapping[str, NetworkPolicy] = {}
    workloads: Mapping[str, tuple[str, ...]] = {}  # "default/Deployment/web" -> pod keys
    fabric: Fabric = Fabric()
    cni: Cni = Cni()
    calico: Calico = Calico()
    proxy: Proxy = Proxy()
    pod_cidrs: tuple[Prefix, ...] = ()  # the cluster's pod network, one per family
    service_cidrs: tuple[Prefix, ...] = ()
    sysctls: Mapping[str, int] = {}  # applied to every node, names without "net."
    assumptions: tuple[str, ...] = ()
    policy_objects: PolicyObjects = PolicyObjects()  # Calico's policies, ClusterNetworkPolicies, and what they refer to
    notes: tuple[str, ...] = ()  # kinds that were passed over: for stderr
    controllers: Mapping[str, Controller] = {}  # those among the input, keyed as workloads are
