"""The API's own shapes, as far as netlab reads them: what JSON and YAML are decoded into before they become objects.

Law: a field that stands here is checked (a wrong type is an InputError); a field that does not stand here is passed
over without being decoded. Every field may be absent or null, as in the API. Nothing outside kube/ sees these types.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

_UPPER = {"ip": "IP", "ips": "IPs", "cidr": "CIDR", "cidrs": "CIDRs"}


def _api_name(name: str) -> str:
    """`cluster_ips` -> `clusterIPs`, `from_` -> `from`."""
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(_UPPER.get(part) or part.capitalize() for part in rest)


class Wire(msgspec.Struct, frozen=True, gc=False, rename=_api_name):
    """The base of all: API names, no defaults applied."""


Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
PortOrZero = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Seconds = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class OwnerReference(Wire, frozen=True):
    kind: str = ""
    name: str = ""
    controller: bool | None = None


class Meta(Wire, frozen=True):
    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None
    deletion_timestamp: str | None = None


class Any_(Wire, frozen=True):
    """Every object."""

    metadata: Meta | None = None


class Condition(Wire, frozen=True):
    type: str = ""
    status: str = ""


# --- Node ----------------------------------------------------------------------------------------------------


class NodeAddress(Wire, frozen=True):
    type: str = ""
    address: str = ""


class Taint(Wire, frozen=True):
    key: str = ""
    value: str | None = None
    effect: str = ""


class NodeSpec(Wire, frozen=True):
    pod_cidr: str | None = None
    pod_cidrs: list[str] | None = None
    unschedulable: bool | None = None
    taints: list[Taint] | None = None


class NodeSystemInfo(Wire, frozen=True):
    kubelet_version: str | None = None


class NodeStatus(Wire, frozen=True):
    addresses: list[NodeAddress] | None = None
    conditions: list[Condition] | None = None
    node_info: NodeSystemInfo | None = None


class Node(Any_, frozen=True):
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


# --- Pod -----------------------------------------------------------------------------------------------------


class ContainerPort(Wire, frozen=True):
    container_port: Port
    protocol: str | None = None
    name: str | None = None
    host_port: PortOrZero | None = None
    host_ip: str | None = None


class Container(Wire, frozen=True):
    ports: list[ContainerPort] | None = None
    restart_policy: str | None = None


class Toleration(Wire, frozen=True):
    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None


class PodSpec(Wire, frozen=True):
    node_name: str | None = None
    node_selector: dict[str, str] | None = None
    host_network: bool | None = None
    service_account_name: str | None = None
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None
    tolerations: list[Toleration] | None = None


class PodIP(Wire, frozen=True):
    ip: str | None = None


class PodStatus(Wire, frozen=True):
    phase: str | None = None
    pod_ip: str | None = None
    pod_ips: list[PodIP] | None = None
    host_ip: str | None = None
    conditions: list[Condition] | None = None


class Pod(Any_, frozen=True):
    spec: PodSpec | None = None
    status: PodStatus | None = None


class PodTemplate(Wire, frozen=True):
    metadata: Meta | None = None
    spec: PodSpec | None = None


# --- Service and its endpoints -------------------------------------------------------------------------------


class ServicePort(Wire, frozen=True):
    port: Port
    protocol: str | None = None
    name: str | None = None
    target_port: PortOrZero | str | None = None
    node_port: PortOrZero | None = None


class ClientIPConfig(Wire, frozen=True):
    timeout_seconds: Seconds | None = None


class SessionAffinityConfig(Wire, frozen=True):
    client_ip: ClientIPConfig | None = None


class ServiceSpec(Wire, frozen=True):
    type: str | None = None
    cluster_ip: str | None = None
    cluster_ips: list[str] | None = None
    ip_families: list[str] | None = None
    ip_family_policy: str | None = None
    ports: list[ServicePort] | None = None
    selector: dict[str, str] | None = None
    external_ips: list[str] | None = None
    load_balancer_source_ranges: list[str] | None = None
    external_traffic_policy: str | None = None
    internal_traffic_policy: str | None = None
    session_affinity: str | None = None
    session_affinity_config: SessionAffinityConfig | None = None
    health_check_node_port: PortOrZero | None = None
    external_name: str | None = None
    publish_not_ready_addresses: bool | None = None
    allocate_load_balancer_node_ports: bool | None = None


class LoadBalancerIngress(Wire, frozen=True):
    ip: str | None = None
    hostname: str | None = None
    ip_mode: str | None = None


class LoadBalancerStatus(Wire, frozen=True):
    ingress: list[LoadBalancerIngress] | None = None


class ServiceStatus(Wire, frozen=True):
    load_balancer: LoadBalancerStatus | None = None


class Service(Any_, frozen=True):
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


class ObjectReference(Wire, frozen=True):
    kind: str | None = None
    namespace: str | None = None
    name: str | None = None


class EndpointConditions(Wire, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForZone(Wire, frozen=True):
    name: str = ""


class EndpointHints(Wire, frozen=True):
    for_zones: list[ForZone] | None = None


class Endpoint(Wire, frozen=True):
    addresses: list[str] | None = None
    conditions: EndpointConditions | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: EndpointHints | None = None
    target_ref: ObjectReference | None = None


class EndpointPort(Wire, frozen=True):
    port: PortOrZero | None = None
    protocol: str | None = None
    name: str | None = None


class EndpointSlice(Any_, frozen=True):
    address_type: str | None = None
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


class EndpointAddress(Wire, frozen=True):
    ip: str
    node_name: str | None = None
    target_ref: ObjectReference | None = None


class Subset(Wire, frozen=True):
    addresses: list[EndpointAddress] | None = None
    not_ready_addresses: list[EndpointAddress] | None = None
    ports: list[EndpointPort] | None = None


class Endpoints(Any_, frozen=True):
    subsets: list[Subset] | None = None


# --- workloads -----------------------------------------------------------------------------------------------


class Requirement(Wire, frozen=True):
    key: str
    operator: str
    values: list[str] | None = None


class Selector(Wire, frozen=True):
    match_labels: dict[str, str] | None = None
    match_expressions: list[Requirement] | None = None


class WorkloadSpec(Wire, frozen=True):
    replicas: Count | None = None
    parallelism: Count | None = None
    selector: Selector | None = None
    template: PodTemplate | None = None


class Workload(Any_, frozen=True):
    """Deployment, ReplicaSet, StatefulSet, DaemonSet, Job (a CronJob's template never runs here)."""

    spec: WorkloadSpec | None = None
    status: dict[str, Any] | None = None


# --- ConfigMaps that say how the data plane was configured ---------------------------------------------------


class ConfigMap(Any_, frozen=True):
    data: dict[str, str] | None = None


class KubeProxyIptables(Wire, frozen=True):
    masquerade_bit: int | None = None
    masquerade_all: bool | None = None
    localhost_node_ports: bool | None = None


class KubeProxyIpvs(Wire, frozen=True):
    scheduler: str | None = None
    strict_arp: bool | None = msgspec.field(default=None, name="strictARP")
    exclude_cidrs: list[str] | None = msgspec.field(default=None, name="excludeCIDRs")


class KubeProxyConfiguration(Wire, frozen=True):
    """kubeproxy.config.k8s.io/v1alpha1, the `config.conf` of the ConfigMap kube-system/kube-proxy."""

    mode: str | None = None
    cluster_cidr: str | None = None
    detect_local_mode: str | None = None
    node_port_addresses: list[str] | None = None
    iptables: KubeProxyIptables | None = None
    nftables: KubeProxyIptables | None = None  # masqueradeBit and masqueradeAll; node ports never answer on loopback
    ipvs: KubeProxyIpvs | None = None


class FlannelBackend(msgspec.Struct, frozen=True):
    """`Backend` of flannel's net-conf.json (flannel/Documentation/backends.md)."""

    type: str = msgspec.field(default="udp", name="Type")  # flannel's own default; every published manifest says vxlan
    vni: int = msgspec.field(default=1, name="VNI")
    port: int = msgspec.field(default=0, name="Port")  # 0: the kernel's default, 8472
    direct_routing: bool = msgspec.field(default=False, name="DirectRouting")


class FlannelNetwork(msgspec.Struct, frozen=True):
    """flannel's net-conf.json (flannel/Documentation/configuration.md)."""

    network: str | None = msgspec.field(default=None, name="Network")
    ipv6_network: str | None = msgspec.field(default=None, name="IPv6Network")
    enable_ipv4: bool = msgspec.field(default=True, name="EnableIPv4")
    enable_ipv6: bool = msgspec.field(default=False, name="EnableIPv6")
    backend: FlannelBackend | None = msgspec.field(default=None, name="Backend")


class CniDelegate(Wire, frozen=True):
    hairpin_mode: bool | None = None


class CniPlugin(Wire, frozen=True):
    type: str | None = None
    delegate: CniDelegate | None = None


class CniConfiguration(Wire, frozen=True):
    """flannel's cni-conf.json: a CNI network configuration list."""

    plugins: list[CniPlugin] | None = None
