"""Network policies beyond NetworkPolicy, as frozen values: Calico's objects, and ClusterNetworkPolicy and its two ancestors.

Law: fields are what the API server stores after defaulting (policyload.py applies the defaults and refuses what the API server
refuses); every policy, rule and peer knows its Ref. AdminNetworkPolicy and BaselineAdminNetworkPolicy are stored as the
ClusterNetworkPolicy that says the same. Calico selectors are kept as text and parsed (calico_selector.py). Nothing here computes.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from netlab.kube.calico_selector import Selector
from netlab.kube.objects import LabelSelector, Object
from netlab.linux.addr import Ip, Prefix
from netlab.refs import Ref

# --- Calico --------------------------------------------------------------------------------------------------


class PortRange(msgspec.Struct, frozen=True, gc=False):
    """Ports from `first` to `last`, inclusive."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class IcmpMatch(msgspec.Struct, frozen=True, gc=False):
    """Calico's ICMPFields: None means any."""

    type: int | None = None
    code: int | None = None


class EntityRule(msgspec.Struct, frozen=True):
    """Calico's EntityRule: what a rule asks of one end. A selector that is None was not given.

    `ports` and `not_ports` hold ranges and names of ports; `service` is "namespace/name" of `services`.
    """

    nets: tuple[Prefix, ...] = ()
    not_nets: tuple[Prefix, ...] = ()
    selector: Selector | None = None
    not_selector: Selector | None = None
    namespace_selector: Selector | None = None
    ports: tuple[PortRange | str, ...] = ()
    not_ports: tuple[PortRange | str, ...] = ()
    service: str = ""
    service_account_names: tuple[str, ...] = ()
    service_account_selector: Selector | None = None


class CalicoRule(msgspec.Struct, frozen=True):
    """One rule: `action` Allow, Deny, Log or Pass; protocols as IP protocol numbers; `http` where it looks at requests, what it
    looks for as text."""

    action: str
    ip_version: int | None = None
    protocol: int | None = None
    not_protocol: int | None = None
    icmp: IcmpMatch | None = None
    not_icmp: IcmpMatch | None = None
    source: EntityRule = EntityRule()
    destination: EntityRule = EntityRule()
    http: bool = False
    http_text: str = ""
    ref: Ref = Ref()


class CalicoPolicy(Object, frozen=True, kw_only=True):
    """Calico's NetworkPolicy (with a namespace) or GlobalNetworkPolicy (without); `order` None sorts last.

    `types` after defaulting; `staged` policies are never enforced; `do_not_track`, `pre_dnat` and `apply_on_forward` concern host
    endpoints only.
    """

    kind: str = "NetworkPolicy"
    tier: str = "default"
    order: float | None = None
    selector: Selector | None = None
    namespace_selector: Selector | None = None
    service_account_selector: Selector | None = None
    types: tuple[str, ...] = ("Ingress",)
    ingress: tuple[CalicoRule, ...] = ()
    egress: tuple[CalicoRule, ...] = ()
    staged: bool = False
    do_not_track: bool = False
    pre_dnat: bool = False
    apply_on_forward: bool = False


class Tier(Object, frozen=True, kw_only=True):
    """A Calico Tier: `order` None sorts last, `default_action` Deny or Pass."""

    order: float | None = None
    default_action: str = "Deny"


class NetworkSet(Object, frozen=True, kw_only=True):
    """A NetworkSet, or a GlobalNetworkSet where it has no namespace: labels for addresses."""

    nets: tuple[Prefix, ...] = ()


class HostEndpoint(Object, frozen=True, kw_only=True):
    """An interface of a node under policy; `interface_name` "*" is all of them, "" the one that has an expected address."""

    node: str = ""
    interface_name: str = ""
    expected_ips: tuple[Ip, ...] = ()
    profiles: tuple[str, ...] = ()
    ports: tuple[tuple[str, int, int], ...] = ()  # name, protocol number, port


class Profile(Object, frozen=True, kw_only=True):
    """A Calico Profile: labels that endpoints inherit, and rules where no policy applies."""

    labels_to_apply: Mapping[str, str] = {}
    ingress: tuple[CalicoRule, ...] = ()
    egress: tuple[CalicoRule, ...] = ()


class ServiceAccount(Object, frozen=True, kw_only=True):
    """A service account: its labels can be selected."""


# --- ClusterNetworkPolicy ------------------------------------------------------------------------------------


class NamespacedPods(msgspec.Struct, frozen=True):
    """Pods by the labels of their namespace and their own; `pods` alone None: all pods of the namespaces."""

    namespaces: LabelSelector = LabelSelector()
    pods: LabelSelector | None = None


class ClusterPeer(msgspec.Struct, frozen=True):
    """One peer; exactly one field is set. None at all: the peer is of a kind that is not known, and fails closed."""

    pods: NamespacedPods | None = None
    nodes: LabelSelector | None = None
    networks: tuple[Prefix, ...] = ()
    domain_names: tuple[str, ...] = ()
    ref: Ref = Ref()


class ClusterPort(msgspec.Struct, frozen=True):
    """One entry of `protocols` (v1alpha1: `ports`): protocol "" is any with that named port; no port: all of the protocol."""

    protocol: str = ""
    port: PortRange | str | None = None


class ClusterRule(msgspec.Struct, frozen=True):
    """One rule: `action` Accept, Deny or Pass (v1alpha1 says Allow for Accept)."""

    action: str
    name: str = ""
    peers: tuple[ClusterPeer, ...] = ()
    ports: tuple[ClusterPort, ...] | None = None
    ref: Ref = Ref()


class ClusterNetworkPolicy(Object, frozen=True, kw_only=True):
    """A ClusterNetworkPolicy; `kind` says as what it was written; `tier` Admin or Baseline; lower `priority` goes first."""

    kind: str = "ClusterNetworkPolicy"
    tier: str = "Admin"
    priority: int = 0
    subject: NamespacedPods = NamespacedPods()
    ingress: tuple[ClusterRule, ...] = ()
    egress: tuple[ClusterRule, ...] = ()


class PolicyObjects(msgspec.Struct, frozen=True):
    """All of them by key; Calico's policies by "Kind/key", because two kinds may share a name."""

    calico: Mapping[str, CalicoPolicy] = {}
    tiers: Mapping[str, Tier] = {}
    network_sets: Mapping[str, NetworkSet] = {}
    host_endpoints: Mapping[str, HostEndpoint] = {}
    profiles: Mapping[str, Profile] = {}
    service_accounts: Mapping[str, ServiceAccount] = {}
    cluster: Mapping[str, ClusterNetworkPolicy] = {}
