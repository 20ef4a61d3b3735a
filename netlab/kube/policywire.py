"""The API's own shapes of network policies: what JSON and YAML are decoded into before they become objects (policyload.py).

Law: unlike elsewhere an unknown field of a spec is refused, as `kubectl apply` refuses it: a misspelt `ingress` would deny
everything in silence. Peers of ClusterNetworkPolicies are the exception, their API says what an unknown kind of peer means.
"""

from __future__ import annotations

from typing import Any

import msgspec

from netlab.kube.wire import Any_, Wire


class Strict(Wire, frozen=True, forbid_unknown_fields=True):
    """No field but these."""


# --- networking.k8s.io/v1 ------------------------------------------------------------------------------------


class StrictRequirement(Strict, frozen=True):
    key: str = ""
    operator: str = ""
    values: list[str] | None = None


class StrictSelector(Strict, frozen=True):
    match_labels: dict[str, str] | None = None
    match_expressions: list[StrictRequirement] | None = None


class IPBlock(Strict, frozen=True):
    cidr: str | None = None
    except_: list[str] | None = None


class PolicyPeer(Strict, frozen=True):
    pod_selector: StrictSelector | None = None
    namespace_selector: StrictSelector | None = None
    ip_block: IPBlock | None = msgspec.field(default=None, name="ipBlock")


class PolicyPort(Strict, frozen=True):
    protocol: str | None = None
    port: int | str | None = None
    end_port: int | None = None


class IngressRule(Strict, frozen=True):
    from_: list[PolicyPeer] | None = None
    ports: list[PolicyPort] | None = None


class EgressRule(Strict, frozen=True):
    to: list[PolicyPeer] | None = None
    ports: list[PolicyPort] | None = None


class NetworkPolicySpec(Strict, frozen=True):
    pod_selector: StrictSelector | None = None
    policy_types: list[str] | None = None
    ingress: list[IngressRule] | None = None
    egress: list[EgressRule] | None = None


class NetworkPolicy(Any_, frozen=True):
    spec: NetworkPolicySpec | None = None


# --- projectcalico.org/v3 ------------------------------------------------------------------------------------


class Icmp(Strict, frozen=True):
    type: int | None = None
    code: int | None = None


class ServiceAccountMatch(Strict, frozen=True):
    names: list[str] | None = None
    selector: str | None = None


class ServiceMatch(Strict, frozen=True):
    name: str | None = None
    namespace: str | None = None


class EntityRule(Strict, frozen=True):
    nets: list[str] | None = None
    not_nets: list[str] | None = None
    selector: str | None = None
    not_selector: str | None = None
    namespace_selector: str | None = None
    ports: list[int | str] | None = None
    not_ports: list[int | str] | None = None
    service_accounts: ServiceAccountMatch | None = None
    services: ServiceMatch | None = None


class CalicoRule(Strict, frozen=True):
    action: str = ""
    ip_version: int | None = None
    protocol: int | str | None = None
    not_protocol: int | str | None = None
    icmp: Icmp | None = None
    not_icmp: Icmp | None = msgspec.field(default=None, name="notICMP")
    source: EntityRule | None = None
    destination: EntityRule | None = None
    http: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None


class CalicoPolicySpec(Strict, frozen=True):
    tier: str | None = None
    order: float | None = None
    selector: str | None = None
    namespace_selector: str | None = None
    service_account_selector: str | None = None
    types: list[str] | None = None
    ingress: list[CalicoRule] | None = None
    egress: list[CalicoRule] | None = None
    do_not_track: bool | None = None
    pre_dnat: bool | None = msgspec.field(default=None, name="preDNAT")
    apply_on_forward: bool | None = None
    performance_hints: list[str] | None = None
    staged_action: str | None = None


class CalicoPolicy(Any_, frozen=True):
    spec: CalicoPolicySpec | None = None


class TierSpec(Strict, frozen=True):
    order: float | None = None
    default_action: str | None = None


class Tier(Any_, frozen=True):
    spec: TierSpec | None = None


class NetworkSetSpec(Strict, frozen=True):
    nets: list[str] | None = None


class NetworkSet(Any_, frozen=True):
    spec: NetworkSetSpec | None = None


class EndpointPort(Strict, frozen=True):
    name: str = ""
    protocol: int | str = ""
    port: int = 0


class HostEndpointSpec(Strict, frozen=True):
    node: str | None = None
    interface_name: str | None = None
    expected_ips: list[str] | None = None
    profiles: list[str] | None = None
    ports: list[EndpointPort] | None = None


class HostEndpoint(Any_, frozen=True):
    spec: HostEndpointSpec | None = None


class ProfileSpec(Strict, frozen=True):
    labels_to_apply: dict[str, str] | None = None
    ingress: list[CalicoRule] | None = None
    egress: list[CalicoRule] | None = None


class Profile(Any_, frozen=True):
    spec: ProfileSpec | None = None


# --- policy.networking.k8s.io --------------------------------------------------------------------------------


class NamespacedPod(Strict, frozen=True):
    namespace_selector: StrictSelector | None = None
    pod_selector: StrictSelector | None = None


class Subject(Strict, frozen=True):
    namespaces: StrictSelector | None = None
    pods: NamespacedPod | None = None


class ClusterPeer(Wire, frozen=True):
    """What is known of a peer; whether anything else was said is seen in the document."""

    namespaces: StrictSelector | None = None
    pods: NamespacedPod | None = None
    nodes: StrictSelector | None = None
    networks: list[str] | None = None
    domain_names: list[str] | None = None


class PortRange(Strict, frozen=True):
    start: int
    end: int
    protocol: str | None = None  # v1alpha1


class DestinationPort(Strict, frozen=True):
    number: int | None = None
    range: PortRange | None = None


class OneProtocol(Strict, frozen=True):
    destination_port: DestinationPort | None = None


class Protocol(Strict, frozen=True):
    tcp: OneProtocol | None = None
    udp: OneProtocol | None = None
    sctp: OneProtocol | None = None
    destination_named_port: str | None = None


class PortNumber(Strict, frozen=True):
    port: int
    protocol: str | None = None


class AdminPort(Strict, frozen=True):
    """v1alpha1."""

    port_number: PortNumber | None = None
    named_port: str | None = None
    port_range: PortRange | None = None


class ClusterRule(Strict, frozen=True):
    """A rule of either version and direction: `ports` is v1alpha1's, `protocols` v1alpha2's."""

    action: str = ""
    name: str | None = None
    from_: list[ClusterPeer] | None = None
    to: list[ClusterPeer] | None = None
    protocols: list[Protocol] | None = None
    ports: list[AdminPort] | None = None


class ClusterPolicySpec(Strict, frozen=True):
    subject: Subject | None = None
    tier: str | None = None
    priority: int | None = None
    ingress: list[ClusterRule] | None = None
    egress: list[ClusterRule] | None = None


class ClusterNetworkPolicy(Any_, frozen=True):
    spec: ClusterPolicySpec | None = None
