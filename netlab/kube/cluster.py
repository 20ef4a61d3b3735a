"""kube.Cluster: what was declared, complete: objects by name, and the decisions that no manifest states.

Law: a Cluster is a value. `assumptions` has one line per class of decision that netlab took for the user; every trace
through the cluster repeats them.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from netlab.kube.objects import EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service
from netlab.kube.policies import PolicyObjects
from netlab.linux.addr import Ip, Prefix


class Fabric(msgspec.Struct, frozen=True):
    """The network under the nodes: one L2 segment with a gateway to everything else."""

    prefixes: tuple[Prefix, ...] = ()
    gateways: tuple[Ip, ...] = ()  # one per family
    mtu: int = 1500
    device: str = "eth0"


class Cni(msgspec.Struct, frozen=True):
    """The CNI plug-in: name "flannel" (or "none": pods have no network) and its options."""

    name: str = "flannel"
    backend: str = "vxlan"
    vni: int = 1
    port: int = 8472
    hairpin: bool = True
    masquerade: bool = True  # flanneld --ip-masq


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
    proxy: Proxy = Proxy()
    pod_cidrs: tuple[Prefix, ...] = ()  # the cluster's pod network, one per family
    service_cidrs: tuple[Prefix, ...] = ()
    sysctls: Mapping[str, int] = {}  # applied to every node, names without "net."
    assumptions: tuple[str, ...] = ()
    policy_objects: PolicyObjects = PolicyObjects()  # Calico's policies, ClusterNetworkPolicies, and what they refer to
    notes: tuple[str, ...] = ()  # kinds that were passed over: for stderr
