"""Declared: what the files say, object by object, before netlab decides anything.

Law: this is the only mutable value of kube/, it lives inside one `load` call, and nothing in it was invented. What a manifest
leaves open (a pod's node, a service's address) stands beside the object as a wish, for workloads.py to fulfil.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from netlab.kube.calico import Found
from netlab.kube.objects import (
    ContainerPort,
    EndpointSlice,
    LabelSelector,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Pod,
    Service,
)
from netlab.kube.policies import (
    CalicoPolicy,
    ClusterNetworkPolicy,
    HostEndpoint,
    NetworkSet,
    Profile,
    ServiceAccount,
    Tier,
)
from netlab.kube.topology import Topology
from netlab.kube.wire import KubeProxyConfiguration
from netlab.linux.addr import Ip
from netlab.refs import Ref


class Toleration(msgspec.Struct, frozen=True):
    """corev1.Toleration: key "" with operator Exists tolerates everything."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class Placement(msgspec.Struct, frozen=True):
    """Where a pod that has no node may go."""

    node_name: str = ""
    node_selector: Mapping[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()


class Template(msgspec.Struct, frozen=True):
    """A pod template, as far as a packet can tell."""

    labels: Mapping[str, str] = {}
    host_network: bool = False
    ports: tuple[ContainerPort, ...] = ()
    placement: Placement = Placement()
    service_account: str = "default"


class Workload(Object, frozen=True, kw_only=True):
    """A Deployment, ReplicaSet, StatefulSet, DaemonSet, Job or CronJob.

    `replicas` is the number of pods asked for; `owner` is "Deployment web" for a ReplicaSet of it; `reported` says that
    the object came with the status that its controller writes.
    """

    kind: str
    replicas: int = 1
    selector: LabelSelector | None = None
    template: Template = Template()
    owner: str = ""
    reported: bool = False


class ServiceWish(msgspec.Struct, frozen=True):
    """What a Service leaves to the API server; `stored` says that the API server has already decided."""

    families: tuple[int, ...] = ()
    dual_stack: bool = False
    node_ports: bool = False
    stored: bool = False


class Flannel(msgspec.Struct, frozen=True):
    """What the ConfigMap kube-flannel-cfg says."""

    networks: tuple[str, ...] = ()
    backend: str | None = None
    vni: int = 1
    port: int = 8472
    hairpin: bool | None = None
    ref: Ref = Ref()
    direct_routing: bool = False


class Legacy(msgspec.Struct, frozen=True):
    """An Endpoints object, as slices."""

    slices: tuple[EndpointSlice, ...]
    ref: Ref


@dataclass(slots=True)
class Declared:
    """Objects by key; `owners` maps a pod to its controller ("ReplicaSet", "web-abc"); `fresh` are pods without status."""

    nodes: dict[str, Node] = field(default_factory=dict)
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    owners: dict[str, tuple[str, str]] = field(default_factory=dict)
    fresh: dict[str, Placement] = field(default_factory=dict)
    host_ips: dict[str, Ip] = field(default_factory=dict)  # by node name, from the pods' status
    services: dict[str, Service] = field(default_factory=dict)
    wishes: dict[str, ServiceWish] = field(default_factory=dict)
    slices: dict[str, EndpointSlice] = field(default_factory=dict)
    endpoints: dict[str, Legacy] = field(default_factory=dict)  # by service key
    workloads: dict[str, Workload] = field(default_factory=dict)  # "default/Deployment/web"
    policies: dict[str, NetworkPolicy] = field(default_factory=dict)
    calico_policies: dict[str, CalicoPolicy] = field(default_factory=dict)  # "GlobalNetworkPolicy/name"
    tiers: dict[str, Tier] = field(default_factory=dict)
    network_sets: dict[str, NetworkSet] = field(default_factory=dict)
    host_endpoints: dict[str, HostEndpoint] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    service_accounts: dict[str, ServiceAccount] = field(default_factory=dict)
    cluster_policies: dict[str, ClusterNetworkPolicy] = field(default_factory=dict)  # "Kind/name"
    topology: Topology | None = None
    kube_proxy: KubeProxyConfiguration | None = None
    kube_proxy_ref: Ref = Ref()
    flannel: Flannel | None = None
    calico: Found = field(default_factory=Found)
    passed_over: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def is_empty(self) -> bool:
        """Whether the files hold no object that netlab reads."""
        apart = ("passed_over", "notes", "calico", "kube_proxy_ref")
        return not any(getattr(self, name) for name in self.__slots__ if name not in apart) and self.calico == Found()
