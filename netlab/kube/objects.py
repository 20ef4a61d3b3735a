"""The Kubernetes objects that decide where packets go, as frozen values; every one knows its Ref.

Law: fields are what the API server stores after defaulting (kube/load.py applies the defaults); names are those of the
API in snake case. Nothing here computes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from netlab.linux.addr import Ip, Prefix
from netlab.refs import Ref


class Object(msgspec.Struct, frozen=True, kw_only=True):
    """What every object has."""

    name: str
    namespace: str = ""
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    ref: Ref = Ref()

    @property
    def key(self) -> str:
        """`namespace/name`, or the name of a cluster-wide object."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Node(Object, frozen=True, kw_only=True):
    """A node: `pod_cidrs` one per family, `internal_ips` in the order of status.addresses, `version` that of its kubelet."""

    pod_cidrs: tuple[Prefix, ...] = ()
    internal_ips: tuple[Ip, ...] = ()
    external_ips: tuple[Ip, ...] = ()
    ready: bool = True
    unschedulable: bool = False
    taints: tuple[tuple[str, str, str], ...] = ()  # key, value, effect
    version: str = ""

    @property
    def release(self) -> tuple[int, int] | None:
        """(1, 30) of v1.30.5; None where it is not known."""
        found = re.match(r"v?(\d+)\.(\d+)", self.version)
        return (int(found[1]), int(found[2])) if found is not None else None

    @property
    def zone(self) -> str | None:
        return self.labels.get("topology.kubernetes.io/zone")


class Namespace(Object, frozen=True, kw_only=True):
    """A namespace."""


class ContainerPort(msgspec.Struct, frozen=True):
    """A declared port of a container."""

    container_port: int
    protocol: str = "TCP"
    name: str = ""
    host_port: int | None = None
    host_ip: str | None = None
    sidecar: bool = False  # of an init container with restartPolicy Always


class Pod(Object, frozen=True, kw_only=True):
    """A pod; `ips` is empty while it has none (Pending, Succeeded). `owner` is "Deployment web" and the like, "" for none."""

    node_name: str = ""
    host_network: bool = False
    phase: str = "Running"
    ips: tuple[Ip, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    ready: bool = True
    terminating: bool = False
    owner: str = ""
    service_account: str = "default"


class ServicePort(msgspec.Struct, frozen=True):
    """One port of a service; `target_port` is a number or the name of a container port."""

    port: int
    protocol: str = "TCP"
    name: str = ""
    target_port: int | str = 0
    node_port: int | None = None


class LoadBalancerIngress(msgspec.Struct, frozen=True):
    """One entry of status.loadBalancer.ingress."""

    ip: Ip | None = None
    hostname: str = ""
    ip_mode: str = "VIP"


class Service(Object, frozen=True, kw_only=True):
    """A service. `cluster_ips` is empty for headless and ExternalName services."""

    type: str = "ClusterIP"
    cluster_ips: tuple[Ip, ...] = ()
    headless: bool = False
    ip_families: tuple[int, ...] = (4,)
    ports: tuple[ServicePort, ...] = ()
    selector: Mapping[str, str] = {}
    external_ips: tuple[Ip, ...] = ()
    load_balancer: tuple[LoadBalancerIngress, ...] = ()
    load_balancer_source_ranges: tuple[Prefix, ...] = ()
    external_traffic_policy: str = "Cluster"
    internal_traffic_policy: str = "Cluster"
    session_affinity: str = "None"
    session_affinity_timeout: int = 10800  # seconds
    health_check_node_port: int | None = None
    external_name: str = ""
    publish_not_ready_addresses: bool = False


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint of a slice; conditions as kube-proxy reads them (absent ready or serving means true)."""

    addresses: tuple[Ip, ...]
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node_name: str | None = None
    zone: str | None = None
    hints_for_zones: tuple[str, ...] = ()
    target_pod: str | None = None  # "namespace/name"
    texts: tuple[str, ...] = ()  # the addresses as the slice spells them: kube-proxy v1.30 hashes and prints that text


class EndpointPort(msgspec.Struct, frozen=True):
    """One port of a slice; None means all ports."""

    port: int | None
    protocol: str = "TCP"
    name: str = ""


class EndpointSlice(Object, frozen=True, kw_only=True):
    """A slice of the service `namespace/service`; `family` 4 or 6 (FQDN slices are passed over)."""

    service: str
    family: int = 4
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class LabelSelector(msgspec.Struct, frozen=True):
    """metav1.LabelSelector: `match_labels` and `match_expressions` (key, operator, values), all of which must hold."""

    match_labels: Mapping[str, str] = {}
    match_expressions: tuple[tuple[str, str, tuple[str, ...]], ...] = ()


class IPBlock(msgspec.Struct, frozen=True):
    """An ipBlock: host bits of `cidr` are cleared, as the data planes do; every `except_` lies strictly inside it."""

    cidr: Prefix
    except_: tuple[Prefix, ...] = ()


class Controller(Object, frozen=True, kw_only=True):
    """What makes pods from a template: a Deployment, StatefulSet ...; `selector` is how it knows its pods, and never changes.

    `replicas`: how many pods are asked for; `pod_labels`, `pod_ports` and `host_network`: what the template gives them.
    """

    kind: str
    selector: LabelSelector | None = None
    replicas: int = 1
    pod_labels: Mapping[str, str] = {}
    pod_ports: tuple[ContainerPort, ...] = ()
    host_network: bool = False


class PolicyPeer(msgspec.Struct, frozen=True):
    """One peer: selectors, or an ipBlock. A selector that is None was not given; an empty one selects everything."""

    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IPBlock | None = None
    ref: Ref = Ref()


class PolicyPort(msgspec.Struct, frozen=True, gc=False):
    """One port: a number (up to `end_port`, inclusive), the name of a container port, or None for all of the protocol."""

    protocol: str = "TCP"
    port: int | str | None = None
    end_port: int | None = None


class PolicyRule(msgspec.Struct, frozen=True):
    """One rule. No peers: from or to everybody, pods or not; no ports: all ports of all protocols."""

    peers: tuple[PolicyPeer, ...] = ()
    ports: tuple[PolicyPort, ...] = ()
    ref: Ref = Ref()


class NetworkPolicy(Object, frozen=True, kw_only=True):
    """A NetworkPolicy; `policy_types` after defaulting. Rules of other directions are kept, and mean nothing."""

    pod_selector: LabelSelector = LabelSelector()
    policy_types: tuple[str, ...] = ("Ingress",)
    ingress: tuple[PolicyRule, ...] = ()
    egress: tuple[PolicyRule, ...] = ()
