"""All policies of a cluster made ready to be asked: selectors evaluated once, policies sorted into tiers, per pod what applies.

    Cluster --(selectors -> sets of pods; peers -> sets and prefixes; names of ports -> per pod)--> PolicyIndex --> semantics.py

Law: one form for every kind of policy: tiers in order, in a tier policies in order, in a policy rules in order; the first rule
that matches decides, a tier's end decides for who was selected in it. NetworkPolicies are policies of the tier `default`, order
1000, whose rules all allow (as Calico holds them); ClusterNetworkPolicies make a tier before it (Admin) and one behind it
(Baseline). Nothing depends on a packet here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from functools import cached_property
from typing import Any

import msgspec
from msgspec.structs import replace

from netlab.dataplane.policy.dialect import CALICO, CALICO_GROUP, CLUSTER_GROUP, KUBERNETES_GROUP, Dialect
from netlab.dataplane.policy.labels import NOBODY, Ids, LabelIndex
from netlab.kube import calico_selector as cs
from netlab.kube import policies as p
from netlab.kube.cluster import Cluster
from netlab.kube.objects import LabelSelector, NetworkPolicy, Node, Object, Pod, PolicyPeer, PolicyPort, PolicyRule
from netlab.linux.addr import Ip, Prefix, host_prefix
from netlab.linux.packet import PROTOCOL_NUMBERS
from netlab.refs import Ref

INGRESS, EGRESS = "Ingress", "Egress"
DIRECTIONS = (INGRESS, EGRESS)
NETWORK_POLICY_ORDER = 1000.0  # libcalico-go conversion.go K8sNetworkPolicyToCalico
_LAST = float("inf")
# api/pkg/apis/projectcalico/v3/tier.go: the orders of the tiers that always exist
_ADMIN, _DEFAULT, _BASELINE = 1000.0, 1_000_000.0, 10_000_000.0
_NAME_LABEL = "projectcalico.org/name"
_ACCOUNT_LABEL = "projectcalico.org/serviceaccount"
_ORCHESTRATOR = "projectcalico.org/orchestrator"
_DEFAULT_ALLOW = "projectcalico-default-allow"
_NAMESPACE_PREFIX, _ACCOUNT_PREFIX = "pcns.", "pcsa."


class Action(enum.Enum):
    """What a rule does with a connection that it matches."""

    ALLOW = "allow"  # final for this direction
    DENY = "deny"  # final for this direction
    PASS = "pass"  # on to the next tier
    LOG = "log"  # on to the next rule


_ACTIONS = {"Allow": Action.ALLOW, "Accept": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS, "Log": Action.LOG}


class Peer(msgspec.Struct, frozen=True):
    """What a rule asks of one end; all that is given must hold.

    `pods`, `hosts` and `sets` are what one selector selects: pods by number, nodes by name, prefixes of sets and host endpoints.
    `block`: the nets are those of an ipBlock. `service`: addresses with protocol and port (0: any). `nobody`: it matches nothing.
    """

    pods: Ids | None = None
    hosts: frozenset[str] = frozenset()
    sets: tuple[Prefix, ...] = ()
    nets: tuple[Prefix, ...] = ()
    not_nets: tuple[Prefix, ...] = ()
    not_pods: Ids = NOBODY
    not_sets: tuple[Prefix, ...] = ()
    service: frozenset[tuple[Ip, int, int]] | None = None
    block: bool = False
    by_node: bool = False
    by_name: bool = False
    nobody: bool = False
    words: str = ""
    keys: tuple[str, ...] = ()  # labels that its pod selector looks at


class Port(msgspec.Struct, frozen=True, gc=False):
    """Destination ports of a protocol: a range, a name (`first` -1), or all of it (`first` 0, `last` 65535)."""

    protocol: int  # 0: any
    first: int = 0
    last: int = 65535
    name: str = ""


class Extra(msgspec.Struct, frozen=True):
    """What only Calico's rules ask."""

    own: Peer | None = None
    ip_version: int | None = None
    protocol: int | None = None
    not_protocol: int | None = None
    icmp: p.IcmpMatch | None = None
    not_icmp: p.IcmpMatch | None = None
    source_ports: tuple[Port, ...] = ()
    not_source_ports: tuple[Port, ...] = ()
    not_ports: tuple[Port, ...] = ()
    http: bool = False


class Rule(msgspec.Struct, frozen=True):
    """A rule: no peers (None) is everybody, no ports (None) is everything; `number` counts from 1 in its direction."""

    action: Action
    number: int
    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None
    extra: Extra | None = None
    name: str = ""
    ref: Ref = Ref()


class Tier(msgspec.Struct, frozen=True):
    """A tier; `drops` at its end what it selected and did not decide."""

    name: str
    order: float
    drops: bool


class Policy(msgspec.Struct, frozen=True):
    """A policy: the pods (by number) and host endpoints that it applies to, its rules for each direction that it governs."""

    kind: str
    key: str
    tier: Tier
    order: float
    rules: Mapping[str, tuple[Rule, ...]]
    pods: Ids = NOBODY
    host_endpoints: frozenset[str] = frozenset()
    unmodelled: str = ""  # a host endpoint's preDNAT and the like
    of_kubernetes: bool = False  # networking.k8s.io, not Calico's of the same name
    ref: Ref = Ref()

    @property
    def title(self) -> str:
        return f"{self.kind} {self.key}"


class End(msgspec.Struct, frozen=True):
    """One end of a connection: an address, the pod (by number, -1 for none) or node that has it; a hostNetwork pod has both."""

    ip: Ip
    pod: int = -1
    node: str = ""
    name: str = ""

    @property
    def is_pod(self) -> bool:
        """Whether it is a pod with an address of its own."""
        return self.pod >= 0 and not self.node


class PolicyIndex:
    """The policies of a cluster for one dialect. Built once; asked per flow (semantics.py).

    `addresses`: what nodes have besides the addresses of their objects (bridges, tunnels), by address.
    """

    def __init__(self, cluster: Cluster, dialect: Dialect = CALICO, addresses: Mapping[Ip, str] | None = None) -> None:
        self.cluster = cluster
        self.dialect = dialect
        self.notes: list[str] = []
        # a pod that has ended keeps its labels, but not its address: it can be no end, and no peer
        self.pods: tuple[Pod, ...] = tuple(pod for pod in cluster.pods.values() if pod.ips)
        self.number = {pod.key: n for n, pod in enumerate(self.pods)}
        self.on_host: Ids = frozenset(n for n, pod in enumerate(self.pods) if pod.host_network)
        self.by_ip = {a: n for n, pod in enumerate(self.pods) if not pod.host_network for a in pod.ips}
        self.node_by_ip = dict(addresses or {})
        self.node_by_ip |= {a: node.name for node in cluster.nodes.values() for a in (*node.internal_ips, *node.external_ips)}
        self._namespaces = tuple(cluster.namespaces)
        by_namespace: dict[str, list[int]] = {}
        for n, pod in enumerate(self.pods):
            by_namespace.setdefault(pod.namespace, []).append(n)
        self._in_namespace: dict[str, Ids] = {name: frozenset(found) for name, found in by_namespace.items()}
        self._spread: dict[Ids, Ids] = {}
        self._compiled: dict[int, tuple[object, Policy, tuple[str, ...]]] = {}
        self.tiers = self._tiers()
        self.policies = self._policies()
        self._applied = self._apply()
        self._on_hosts = self._select_hosts()

    def _select_hosts(self) -> dict[tuple[str, str], tuple[Policy, ...]]:
        """The policies that select each host endpoint in a direction."""
        return {
            (direction, name): tuple(q for q in self.policies if name in q.host_endpoints and direction in q.rules)
            for direction in DIRECTIONS
            for name in self.cluster.policy_objects.host_endpoints
        }

    @cached_property
    def host_ports(self) -> dict[Ip, frozenset[tuple[str, int, int]]]:
        """The ports (name, protocol, number) that host endpoints declare, by each of their expected addresses."""
        hosts = self.cluster.policy_objects.host_endpoints.values()
        return {address: frozenset(host.ports) for host in hosts for address in host.expected_ips}

    @cached_property
    def _labels(self) -> LabelIndex:
        return LabelIndex(pod.labels for pod in self.pods)

    @cached_property
    def _namespace_labels(self) -> LabelIndex:
        return LabelIndex(namespace.labels for namespace in self.cluster.namespaces.values())

    # -- ends ----------------------------------------------------------------------------------------------------------

    def pod(self, pod: Pod, family: int | None = None, address: Ip | None = None) -> End:
        """A pod as an end, by its first address of a family."""
        ip = address or next((a for a in pod.ips if family in (None, a.family)), pod.ips[0])
        return End(ip, self.number[pod.key], pod.node_name if pod.host_network else "", pod.key)

    def node(self, node: Node, family: int | None = None) -> End:
        """A node as an end."""
        ip = next((a for a in node.internal_ips if family in (None, a.family)), node.internal_ips[0])
        return End(ip, node=node.name, name=node.name)

    def end(self, address: Ip) -> End:
        """Whoever has an address: a pod, a node, or somebody outside."""
        if address in self.by_ip:
            number = self.by_ip[address]
            return End(address, number, name=self.pods[number].key)
        node = self.node_by_ip.get(address, "")
        return End(address, node=node, name=node or str(address))

    def selecting(self, direction: str) -> Mapping[int, tuple[Policy, ...]]:
        """By pod the policies that select it in a direction; pods that none selects are not there."""
        return self._applied[direction]

    def in_namespace(self, name: str) -> Ids:
        """The pods of a namespace."""
        return self._in(name)

    def rules(self, direction: str) -> Iterator[Rule]:
        """The rules of all policies in a direction."""
        for policy in self.policies:
            yield from policy.rules.get(direction, ())

    def applied(self, direction: str, pod: int) -> tuple[Policy, ...]:
        """The policies that select a pod in a direction, in the order in which they are asked."""
        return self._applied[direction].get(pod, ())

    def host_endpoints(self, end: End, tunnel: str = "") -> list[str]:
        """The Calico host endpoint that stands for a node's device on the fabric: of those of the device the first by name, else
        that of all devices (felix/dataplane/linux endpoint_mgr.go resolveHostEndpoints). What goes by a `tunnel` device is seen
        there, and by the device below only as the tunnel's packet, which Felix lets pass."""
        objects = self.cluster.policy_objects.host_endpoints
        mine = [objects[name] for name in sorted(objects) if objects[name].node == end.node]
        addresses = self.cluster.nodes[end.node].internal_ips if end.node in self.cluster.nodes else (end.ip,)
        own = [
            host.name
            for host in mine
            if host.interface_name == (tunnel or self.cluster.fabric.device)
            or (not tunnel and not host.interface_name and any(address in addresses for address in host.expected_ips))
        ]
        return (own or [host.name for host in mine if host.interface_name == "*"])[:1]

    def applied_to_host(self, direction: str, host_endpoint: str) -> tuple[Policy, ...]:
        """The policies that select a host endpoint in a direction."""
        return self._on_hosts[direction, host_endpoint]

    def profiles(self, host_endpoint: str) -> list[Policy]:
        """The profiles of a host endpoint, in its order, as policies of no tier."""
        objects = self.cluster.policy_objects
        found = []
        for name in objects.host_endpoints[host_endpoint].profiles:
            # a profile that nobody has made denies everything, one is always there (felix/calc/active_rules_calculator.go)
            every = (p.CalicoRule("Allow" if name == _DEFAULT_ALLOW else "Deny"),)
            profile = objects.profiles.get(name, p.Profile(name=name, ingress=every, egress=every))
            rules = {INGRESS: profile.ingress, EGRESS: profile.egress}
            made = {d: tuple(self._calico_rule(r, n, "", d) for n, r in enumerate(rules[d], 1)) for d in DIRECTIONS}
            found.append(Policy("Profile", name, self.tiers[0], 0.0, made, ref=profile.ref))
        return found

    # -- tiers and policies --------------------------------------------------------------------------------------------

    def _reads(self, group: str) -> bool:
        return group in self.dialect.reads

    def _tiers(self) -> tuple[Tier, ...]:
        """Admin, default, Baseline, and Calico's own: by order, then by name."""
        tiers = {
            "default": Tier("default", _DEFAULT, True),
            "kube-admin": Tier("kube-admin", _ADMIN, False),
            "kube-baseline": Tier("kube-baseline", _BASELINE, False),
        }
        if self._reads(CALICO_GROUP):
            for tier in self.cluster.policy_objects.tiers.values():
                order = _LAST if tier.order is None else tier.order
                if tier.name == "default":
                    order = _DEFAULT
                tiers[tier.name] = Tier(tier.name, order, tier.default_action == "Deny")
        return tuple(sorted(tiers.values(), key=lambda t: (t.order, t.name)))

    def _policies(self) -> tuple[Policy, ...]:
        tiers = {tier.name: tier for tier in self.tiers}
        found: list[Policy] = []
        if self._reads(KUBERNETES_GROUP):
            found += [self._made(policy, tiers["default"], self._network_policy) for policy in self.cluster.policies.values()]
        others: list[str] = []
        for policy in self.cluster.policy_objects.calico.values():
            if not self._reads(CALICO_GROUP):
                others.append(f"{policy.kind} {policy.key}")
            elif policy.staged:
                self.notes.append(f"{policy.kind} {policy.key} is staged: it is not enforced")
            elif policy.tier not in tiers:
                self.notes.append(
                    f"{policy.kind} {policy.key} is in tier {policy.tier}, which is not among the input: it is not enforced"
                )
            else:
                found.append(self._made(policy, tiers[policy.tier], self._calico_policy))
        for cluster_policy in self.cluster.policy_objects.cluster.values():
            if not self._reads(CLUSTER_GROUP):
                others.append(f"{cluster_policy.kind} {cluster_policy.key}")
            else:
                tier = tiers["kube-admin" if cluster_policy.tier == "Admin" else "kube-baseline"]
                found.append(self._made(cluster_policy, tier, self._cluster_policy))
        if others:
            self.notes.append(f"{self.dialect.name} does not read: {', '.join(others)}")
        return tuple(sorted(found, key=lambda q: (q.tier.order, q.tier.name, q.order, stored_name(q))))

    def _made(self, source: Any, tier: Tier, make: Callable[[Any, Tier], Policy]) -> Policy:
        """A policy compiled; the one that is there, where this index follows another one that has it."""
        known = self._compiled.get(id(source))
        if known is None or known[0] is not source:
            before = len(self.notes)
            known = self._compiled[id(source)] = source, make(source, tier), tuple(self.notes[before:])
        else:
            self.notes += known[2]
        return known[1]

    def changed(self, cluster: Cluster) -> PolicyIndex:
        """The index of a cluster that differs from this one's by some policies: only these are compiled, the rest is shared.

        Where anything else differs that policies are compiled from, it is a new index.
        """
        before, after = self.cluster, cluster
        same = (
            before.pods == after.pods
            and before.namespaces == after.namespaces
            and before.nodes == after.nodes
            and before.slices == after.slices
            and before.calico == after.calico
            and before.fabric == after.fabric
            and replace(before.policy_objects, calico={}, cluster={}) == replace(after.policy_objects, calico={}, cluster={})
        )
        if not same:
            return PolicyIndex(cluster, self.dialect, self.node_by_ip)
        found = copy(self)
        found.cluster, found.notes = cluster, []
        found._compiled = dict(self._compiled)
        found.policies = found._policies()
        found._applied = found._apply()
        found._on_hosts = found._select_hosts()
        return found

    def _apply(self) -> dict[str, dict[int, tuple[Policy, ...]]]:
        found: dict[str, dict[int, list[Policy]]] = {direction: {} for direction in DIRECTIONS}
        for policy in self.policies:
            for direction in policy.rules:
                pods = found[direction]
                for pod in policy.pods:
                    pods.setdefault(pod, []).append(policy)
        return {d: {pod: tuple(policies) for pod, policies in pods.items()} for d, pods in found.items()}

    # -- NetworkPolicy -------------------------------------------------------------------------------------------------

    def _network_policy(self, policy: NetworkPolicy, tier: Tier) -> Policy:
        rules = {INGRESS: policy.ingress, EGRESS: policy.egress}
        return Policy(
            "NetworkPolicy",
            policy.key,
            tier,
            NETWORK_POLICY_ORDER,
            {d: tuple(self._rule(r, n, policy.namespace) for n, r in enumerate(rules[d], 1)) for d in policy.policy_types},
            self._in(policy.namespace) & self._labels.select(policy.pod_selector),
            of_kubernetes=True,
            ref=policy.ref,
        )

    def _rule(self, rule: PolicyRule, number: int, namespace: str) -> Rule:
        peers = tuple(self._peer(peer, namespace) for peer in rule.peers) or None
        ports = tuple(map(_port, rule.ports)) or None
        return Rule(Action.ALLOW, number, peers, ports, ref=rule.ref)

    def _peer(self, peer: PolicyPeer, namespace: str) -> Peer:
        if peer.ip_block is not None:
            block = peer.ip_block
            inner = f" except {', '.join(map(str, block.except_))}" if block.except_ else ""
            return Peer(nets=(block.cidr,), not_nets=block.except_, block=True, words=f"{block.cidr}{inner}")
        pods = self._labels.select(peer.pod_selector) if peer.pod_selector is not None else self._labels.everybody
        keys = _keys(peer.pod_selector)
        what = selector_words(peer.pod_selector) if peer.pod_selector is not None else ""
        if peer.namespace_selector is None:
            return Peer(pods=pods & self._in(namespace), words=what or f"all pods of namespace {namespace}", keys=keys)
        where = selector_words(peer.namespace_selector)
        words = f"{what or 'all pods'} {f'in namespaces with {where}' if where else 'in all namespaces'}"
        return Peer(pods=pods & self._in_namespaces(peer.namespace_selector), words=words, keys=keys)

    def _in(self, namespace: str) -> Ids:
        return self._in_namespace.get(namespace, NOBODY)

    def _in_namespaces(self, selector: LabelSelector) -> Ids:
        """The pods of the namespaces that a selector selects."""
        return self._pods_of(self._namespace_labels.select(selector))

    def _pods_of(self, namespaces: Ids) -> Ids:
        if namespaces not in self._spread:
            self._spread[namespaces] = NOBODY.union(*(self._in(self._namespaces[n]) for n in namespaces))
        return self._spread[namespaces]

    # -- ClusterNetworkPolicy ------------------------------------------------------------------------------------------

    def _cluster_policy(self, policy: p.ClusterNetworkPolicy, tier: Tier) -> Policy:
        rules = {INGRESS: policy.ingress, EGRESS: policy.egress}
        return Policy(
            policy.kind,
            policy.key,
            tier,
            float(policy.priority),
            # without rules in a direction it does nothing there
            {d: tuple(self._cluster_rule(r, n) for n, r in enumerate(found, 1)) for d, found in rules.items() if found},
            self._namespaced(policy.subject) - self.on_host,
            ref=policy.ref,
        )

    def _namespaced(self, found: p.NamespacedPods) -> Ids:
        pods = self._in_namespaces(found.namespaces)
        return pods if found.pods is None else pods & self._labels.select(found.pods)

    def _cluster_rule(self, rule: p.ClusterRule, number: int) -> Rule:
        action = _ACTIONS[rule.action]
        peers: tuple[Peer, ...] | None = tuple(map(self._cluster_peer, rule.peers))
        ports = rule.ports
        unknown = any(peer.nobody for peer in peers or ())
        if unknown and action is not Action.ALLOW:
            # a peer of a kind that is not known: Deny and Pass become "Deny all", Accept matches nothing
            # (network-policy-api apis/v1alpha2/clusternetworkpolicy_types.go, ClusterNetworkPolicyIngressPeer)
            return Rule(Action.DENY, number, None, None, name=rule.name, ref=rule.ref)
        if unknown:
            peers = (Peer(nobody=True, words="a peer of a kind that is not known"),)
        made = None if ports is None else tuple(_cluster_port(q) for q in ports)
        return Rule(action, number, peers, made, name=rule.name, ref=rule.ref)

    def _cluster_peer(self, peer: p.ClusterPeer) -> Peer:
        if peer.pods is not None:
            pods = self._namespaced(peer.pods) - self.on_host
            where = selector_words(peer.pods.namespaces)
            what = (selector_words(peer.pods.pods) if peer.pods.pods is not None else "") or "all pods"
            words = f"{what} {f'in namespaces with {where}' if where else 'in all namespaces'}"
            sets = self._beside_pods(peer.pods.namespaces) if peer.pods.pods is None else ()
            return Peer(pods=pods, sets=sets, words=words, keys=_keys(peer.pods.pods))
        if peer.nodes is not None:
            names = tuple(self.cluster.nodes)
            chosen = LabelIndex(node.labels for node in self.cluster.nodes.values()).select(peer.nodes)
            where = selector_words(peer.nodes)
            hosts = frozenset(names[n] for n in chosen)
            return Peer(pods=NOBODY, hosts=hosts, by_node=True, words=f"nodes with {where}" if where else "all nodes")
        if peer.networks:
            return Peer(nets=peer.networks, words=", ".join(map(str, peer.networks)))
        if peer.domain_names:
            return Peer(by_name=True, words=", ".join(peer.domain_names))
        return Peer(nobody=True, words="a peer of a kind that is not known")

    def _beside_pods(self, namespaces: LabelSelector) -> tuple[Prefix, ...]:
        """Addresses of NetworkSets and host endpoints that a peer of whole namespaces takes in, to Calico.

        Only a selector of pods is narrowed to pods (libcalico-go conversion/clusternetworkpolicy.go, `selector = ""`). What has
        no namespace has no labels of one, and is selected by NotIn and DoesNotExist; the empty selector is what has a namespace.
        """
        if CALICO_GROUP not in self.dialect.reads:
            return ()
        objects = self.cluster.policy_objects
        chosen = {self._namespaces[n] for n in self._namespace_labels.select(namespaces)}
        empty = not namespaces.match_labels and not namespaces.match_expressions
        everywhere = not empty and bool(LabelIndex([{}]).select(namespaces))
        nets = [
            net
            for each in objects.network_sets.values()
            if (each.namespace in chosen if each.namespace else everywhere)
            for net in each.nets
        ]
        hosts = [host_prefix(a) for endpoint in objects.host_endpoints.values() if everywhere for a in endpoint.expected_ips]
        return tuple(sorted([*nets, *hosts]))

    # -- Calico --------------------------------------------------------------------------------------------------------

    @cached_property
    def _endpoints(self) -> tuple[LabelIndex, tuple[Object, ...]]:
        return calico_endpoints(self.cluster, self.pods)

    def _calico_policy(self, policy: p.CalicoPolicy, tier: Tier) -> Policy:
        labels, every = self._endpoints
        root = cs.All() if policy.selector is None else policy.selector.root
        if not policy.namespace:
            # all() beside a selector of namespaces or accounts is what has one (updateprocessors/globalnetworkpolicyprocessor.go
            # replaces it in the whole text); a selector that is not there stays everybody
            for other, label in (
                (policy.namespace_selector, cs.NAMESPACE_LABEL),
                (policy.service_account_selector, _ACCOUNT_LABEL),
            ):
                root = _instead_of_all(root, label) if other is not None and policy.selector is not None else root
        chosen = labels.calico(root)
        if policy.namespace:
            chosen &= labels.calico(cs.Compare(cs.NAMESPACE_LABEL, "==", policy.namespace))
        if policy.namespace_selector is not None:
            chosen &= labels.calico(_prefixed(policy.namespace_selector.root, _NAMESPACE_PREFIX))
        if policy.service_account_selector is not None:
            chosen &= labels.calico(_prefixed(policy.service_account_selector.root, _ACCOUNT_PREFIX))
        hosts = frozenset(every[n].name for n in chosen if isinstance(every[n], p.HostEndpoint))
        if hosts and policy.apply_on_forward:
            self.notes.append(
                f"{policy.kind} {policy.key} also applies to what host endpoint {min(hosts)} forwards: only the rules tell"
            )
        special = [w for w, on in (("preDNAT", policy.pre_dnat), ("doNotTrack", policy.do_not_track)) if on]
        rules = {INGRESS: policy.ingress, EGRESS: policy.egress}
        return Policy(
            policy.kind,
            policy.key,
            tier,
            _LAST if policy.order is None else policy.order,
            {d: tuple(self._calico_rule(r, n, policy.namespace, d) for n, r in enumerate(rules[d], 1)) for d in policy.types},
            # preDNAT and doNotTrack policies are for host endpoints alone; hostNetwork pods are no workload endpoints
            NOBODY if special else frozenset(n for n in chosen if n < len(self.pods)) - self.on_host,
            hosts,
            f"{policy.kind} {policy.key} has {special[0]}" if special else "",
            ref=policy.ref,
        )

    def _calico_rule(self, rule: p.CalicoRule, number: int, namespace: str, direction: str) -> Rule:
        source = self._entity(rule.source, namespace, with_ports=False)
        destination = self._entity(rule.destination, namespace, with_ports=True)
        peer, own = (source, destination) if direction == INGRESS else (destination, source)
        protocol = rule.protocol or 0
        ports = tuple(_calico_port(protocol, q) for q in rule.destination.ports) or None
        extra = Extra(
            own=own,
            ip_version=rule.ip_version,
            protocol=rule.protocol,
            not_protocol=rule.not_protocol,
            icmp=rule.icmp,
            not_icmp=rule.not_icmp,
            source_ports=tuple(_calico_port(protocol, q) for q in rule.source.ports),
            not_source_ports=tuple(_calico_port(protocol, q) for q in rule.source.not_ports),
            not_ports=tuple(_calico_port(protocol, q) for q in rule.destination.not_ports),
            http=rule.http,
        )
        return Rule(_ACTIONS[rule.action], number, None if peer is None else (peer,), ports, extra, ref=rule.ref)

    def _entity(self, end: p.EntityRule, namespace: str, with_ports: bool) -> Peer | None:
        """One end of a Calico rule as a Peer; None where it asks nothing.

        A service means its endpoints' addresses, at the destination with their ports.

        A namespaced policy's selectors, notSelector included, look into its own namespace unless a namespaceSelector says
        otherwise (libcalico-go updateprocessors/rules.go getEndpointSelector).
        """
        labels, every = self._endpoints
        parts: list[Ids] = []
        words: list[str] = []
        if end.service_account_names:
            parts.append(labels.calico(cs.In(_ACCOUNT_LABEL, tuple(sorted(end.service_account_names)))))
            words.append(f"service account {' or '.join(end.service_account_names)}")
        if end.service_account_selector is not None:
            parts.append(labels.calico(_prefixed(end.service_account_selector.root, _ACCOUNT_PREFIX)))
            words.append(f"service accounts {end.service_account_selector}")
        if end.selector is not None:
            parts.append(labels.calico(end.selector.root))
            words.append(str(end.selector))
        if end.namespace_selector is not None:
            parts.append(labels.calico(_prefixed(end.namespace_selector.root, _NAMESPACE_PREFIX)))
            words.append(f"namespaces {end.namespace_selector}")
        elif namespace and (parts or end.not_selector is not None):
            parts.append(labels.calico(cs.Compare(cs.NAMESPACE_LABEL, "==", namespace)))
        words += [", ".join(map(str, end.nets))] if end.nets else []
        words += [f"not {', '.join(map(str, end.not_nets))}"] if end.not_nets else []
        words += [f"not {end.not_selector}"] if end.not_selector is not None else []
        if end.service:
            return Peer(service=self._service(end.service, with_ports), words=f"service {end.service}")
        if not (parts or end.nets or end.not_nets or end.not_selector is not None):
            return None
        pods, sets = (None, tuple[Prefix, ...]())
        not_pods, not_sets = (NOBODY, tuple[Prefix, ...]())
        excluded = labels.calico(end.not_selector.root) if end.not_selector is not None else NOBODY
        if parts:
            # with a selector, notSelector takes from what that has selected, and not from addresses: what a NetworkSet holds
            # stays, though a pod of that address is excluded (felix/calc/rule_scanner.go combineMatchesIfPossible)
            pods, sets = self._split(frozenset.intersection(*parts) - excluded, every)
        else:
            not_pods, not_sets = self._split(excluded, every)
        return Peer(
            pods=pods,
            sets=sets,
            nets=end.nets,
            not_nets=end.not_nets,
            not_pods=not_pods,
            not_sets=not_sets,
            words=" and ".join(words),
        )

    def _split(self, chosen: Ids, every: tuple[Object, ...]) -> tuple[Ids, tuple[Prefix, ...]]:
        """Pods, and the prefixes of sets and of host endpoints, of which only the expected addresses are known
        (felix/labelindex extractCIDRsFromHostEndpoint). A hostNetwork pod is no workload endpoint."""
        sets: list[Prefix] = []
        for n in chosen:
            thing = every[n]
            if isinstance(thing, p.HostEndpoint):
                sets += map(host_prefix, thing.expected_ips)
            elif isinstance(thing, p.NetworkSet):
                sets += thing.nets
        return frozenset(n for n in chosen if n < len(self.pods)) - self.on_host, tuple(sorted(sets))

    def _service(self, key: str, with_ports: bool) -> frozenset[tuple[Ip, int, int]]:
        """A service's endpoints: with their ports, where one that has no number is none, or their addresses alone
        (felix/serviceindex/serviceindex.go membersFromEndpointSlice)."""
        slices = self.cluster.slices.get(key, ())
        if not with_ports:
            return frozenset((a, 0, 0) for part in slices for endpoint in part.endpoints for a in endpoint.addresses)
        return frozenset(
            (address, PROTOCOL_NUMBERS[port.protocol.lower()], port.port)
            for part in slices
            for port in part.ports
            if port.port is not None
            for endpoint in part.endpoints
            for address in endpoint.addresses
        )


def calico_endpoints(cluster: Cluster, pods: tuple[Pod, ...]) -> tuple[LabelIndex, tuple[Object, ...]]:
    """Calico's endpoints and sets with the labels that selectors see: pods first, by number, then hosts, then sets.

    A pod inherits its namespace's and service account's labels, under a prefix (libcalico-go conversion.go).
    """
    objects = cluster.policy_objects
    accounts, namespaces = objects.service_accounts, cluster.namespaces
    every: list[Object] = [*pods, *objects.host_endpoints.values(), *objects.network_sets.values()]
    labels: list[Mapping[str, str]] = []
    for thing in every:
        own = dict(thing.labels)
        if thing.namespace:
            own[cs.NAMESPACE_LABEL] = thing.namespace
            inherited = namespaces[thing.namespace].labels if thing.namespace in namespaces else {}
            own |= {_NAMESPACE_PREFIX + k: v for k, v in inherited.items()}
            own[_NAMESPACE_PREFIX + _NAME_LABEL] = thing.namespace
        if isinstance(thing, Pod):
            account = accounts.get(f"{thing.namespace}/{thing.service_account}")
            own |= {_ACCOUNT_PREFIX + k: v for k, v in (account.labels if account else {}).items()}
            own[_ACCOUNT_PREFIX + _NAME_LABEL] = own[_ACCOUNT_LABEL] = thing.service_account
            own[_ORCHESTRATOR] = "k8s"
        elif isinstance(thing, p.HostEndpoint):
            for name in thing.profiles:
                if name in objects.profiles:
                    own = {**objects.profiles[name].labels_to_apply, **own}
        labels.append(own)
    return LabelIndex(labels), tuple(every)


_CONVERTED = {"AdminNetworkPolicy": "kanp.adminnetworkpolicy.", "BaselineAdminNetworkPolicy": "kbanp.baselineadminnetworkpolicy."}


def stored_name(policy: Policy) -> str:
    """The name under which Calico v3.30 keeps a policy, and by which it sorts those of one order (libcalico-go lib/names).

    >>> stored_name(Policy("NetworkPolicy", "x/allow", Tier("default", 1e6, True), 10.0, {}))
    'x/default.allow'
    """
    namespace, slash, name = policy.key.rpartition("/")
    if policy.of_kubernetes:
        name = f"knp.default.{name}"
    elif policy.kind in _CONVERTED:
        name = _CONVERTED[policy.kind] + name
    elif policy.kind != "ClusterNetworkPolicy" and "." not in name:
        name = f"default.{name}"
    return namespace + slash + name


def _port(port: PolicyPort) -> Port:
    protocol = PROTOCOL_NUMBERS[port.protocol.lower()]
    if port.port is None:
        return Port(protocol)
    if isinstance(port.port, str):
        return Port(protocol, -1, -1, port.port)
    return Port(protocol, port.port, port.end_port or port.port)


def _cluster_port(port: p.ClusterPort) -> Port:
    protocol = PROTOCOL_NUMBERS[port.protocol.lower()] if port.protocol else 0
    if port.port is None:
        return Port(protocol)
    return _calico_port(protocol, port.port)


def _calico_port(protocol: int, port: p.PortRange | str) -> Port:
    return Port(protocol, -1, -1, port) if isinstance(port, str) else Port(protocol, port.first, port.last)


def _keys(selector: LabelSelector | None) -> tuple[str, ...]:
    """The labels that a selector looks at."""
    if selector is None:
        return ()
    return tuple(dict.fromkeys([*selector.match_labels, *(key for key, _, _ in selector.match_expressions)]))


def selector_words(selector: LabelSelector) -> str:
    """A label selector as kubectl -l writes it; "" for the empty one.

    >>> selector_words(LabelSelector({"app": "web"}, (("env", "NotIn", ("a", "b")), ("x", "DoesNotExist", ()))))
    'app=web,env notin (a,b),!x'
    """
    parts = [f"{key}={value}" for key, value in selector.match_labels.items()]
    for key, operator, values in selector.match_expressions:
        match operator:
            case "Exists":
                parts.append(key)
            case "DoesNotExist":
                parts.append(f"!{key}")
            case _:
                parts.append(f"{key} {operator.lower()} ({','.join(values)})")
    return ",".join(parts)


def _prefixed(node: cs.Node, prefix: str) -> cs.Node:
    """A selector of namespaces or service accounts as one of endpoints: labels with the prefix, all() meaning any namespace.

    libcalico-go updateprocessors: parseSelectorAttachPrefix.
    """
    match node:
        case cs.All():
            return cs.Has(cs.NAMESPACE_LABEL)
        case cs.Has():
            return cs.Has(prefix + node.label)
        case cs.Compare():
            return cs.Compare(prefix + node.label, node.operator, node.value)
        case cs.In():
            return cs.In(prefix + node.label, node.values, node.negated)
        case cs.Not():
            return cs.Not(_prefixed(node.operand, prefix))
        case cs.And():
            return cs.And(_each(node.operands, prefix))
        case cs.Or():
            return cs.Or(_each(node.operands, prefix))
        case _:
            return node


def _instead_of_all(node: cs.Node, label: str) -> cs.Node:
    """A selector with `has(label)` wherever it says `all()`."""
    match node:
        case cs.All():
            return cs.Has(label)
        case cs.Not():
            return cs.Not(_instead_of_all(node.operand, label))
        case cs.And() | cs.Or():
            return type(node)(tuple(_instead_of_all(operand, label) for operand in node.operands))
        case _:
            return node


def _each(nodes: Iterable[cs.Node], prefix: str) -> tuple[cs.Node, ...]:
    return tuple(_prefixed(node, prefix) for node in nodes)
