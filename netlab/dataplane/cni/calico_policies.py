"""Policies in the one form in which Felix gets them, whoever wrote them: NetworkPolicy, Calico's own, ClusterNetworkPolicy.

    NetworkPolicy, AdminNetworkPolicy ... --(conversion)--> Calico's policies --(update processors)--> tiers of Policy

Law: names, tiers, orders, the split of a rule by protocol and peer, and the text of every selector are those that libcalico-go of
Calico v3.30 makes (lib/backend/k8s/conversion, lib/backend/syncersv1/updateprocessors), because chains and ipsets are named by
hashes over them. ClusterNetworkPolicies are what Calico reads since v3.32, in v3.30's words. Nothing here looks at a pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from netlab.kube import calico_selector as cs
from netlab.kube import policies as p
from netlab.kube.cluster import Cluster
from netlab.kube.objects import LabelSelector, NetworkPolicy, PolicyPort, PolicyRule
from netlab.linux.addr import Prefix
from netlab.linux.packet import PROTOCOL_NUMBERS
from netlab.refs import Ref

INGRESS, EGRESS = "Ingress", "Egress"
NAMESPACE_PREFIX, ACCOUNT_PREFIX = "pcns.", "pcsa."
ACCOUNT_LABEL = "projectcalico.org/serviceaccount"
_ORCHESTRATED = "projectcalico.org/orchestrator == 'k8s'"
_NETWORK_POLICY_ORDER = 1000.0
_LAST = float("inf")
# api/pkg/apis/projectcalico/v3/tier.go: the orders of the tiers that always exist
_ADMIN_ORDER, _DEFAULT_ORDER, _BASELINE_ORDER = 1000.0, 1_000_000.0, 10_000_000.0
_ADMIN, _BASELINE = "Admin", "Baseline"
# libcalico-go lib/names/policy.go: policies of these prefixes are in their tier already
_FORMATTED = ("knp.default.", "kanp.adminnetworkpolicy.", "kbanp.baselineadminnetworkpolicy.", "ossg.")
_ACTIONS = {"Allow": "allow", "Accept": "allow", "Deny": "deny", "Pass": "next-tier", "Log": "log"}

Port = p.PortRange | str


class Entity(msgspec.Struct, frozen=True):
    """One end of a rule. `selector` is one text over pods, host endpoints and network sets; "" asks nothing."""

    nets: tuple[Prefix, ...] = ()
    not_nets: tuple[Prefix, ...] = ()
    selector: str = ""
    not_selector: str = ""
    ports: tuple[Port, ...] = ()
    not_ports: tuple[Port, ...] = ()
    service: str = ""


class Rule(msgspec.Struct, frozen=True):
    """A rule as Felix gets it: `action` allow, deny, log or next-tier. `name` comes along as a comment.

    `any_named`: its named ports are of any protocol (ClusterNetworkPolicy); else of the rule's, TCP where it has none.
    """

    action: str
    source: Entity = Entity()
    destination: Entity = Entity()
    protocol: int | None = None
    not_protocol: int | None = None
    ip_version: int | None = None
    icmp: p.IcmpMatch | None = None
    not_icmp: p.IcmpMatch | None = None
    name: str = ""
    any_named: bool = False
    ref: Ref = Ref()


class Policy(msgspec.Struct, frozen=True):
    """A policy as Felix gets it: `name` holds its namespace and its tier, `directions` those that it governs."""

    tier: str
    name: str
    order: float
    selector: str
    directions: tuple[str, ...]
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    untracked: bool = False
    pre_dnat: bool = False
    on_forward: bool = False
    ref: Ref = Ref()


class Tier(msgspec.Struct, frozen=True):
    """A tier with its policies in order; at its end it drops, or passes on."""

    name: str
    order: float
    drops: bool
    policies: tuple[Policy, ...] = ()


def tiers(cluster: Cluster) -> tuple[Tier, ...]:
    """All tiers in order, with their policies in order (felix/calc/policy_sorter.go): by order, then by name; none goes last."""
    objects = cluster.policy_objects
    found = {"default": Tier("default", _DEFAULT_ORDER, True)}
    names = {which: _cluster_tier(objects, which) for which in (_ADMIN, _BASELINE)}
    found[names[_ADMIN]] = Tier(names[_ADMIN], _ADMIN_ORDER, False)
    found[names[_BASELINE]] = Tier(names[_BASELINE], _BASELINE_ORDER, False)
    for tier in objects.tiers.values():
        order = _DEFAULT_ORDER if tier.name == "default" else _LAST if tier.order is None else tier.order
        found[tier.name] = Tier(tier.name, order, tier.default_action == "Deny")
    policies: dict[str, list[Policy]] = {name: [] for name in found}
    every = [
        *map(of_network_policy, cluster.policies.values()),
        *(of_calico(policy) for policy in objects.calico.values() if not policy.staged),
        *(of_cluster(policy, names[policy.tier]) for policy in objects.cluster.values()),
    ]
    for policy in every:
        if policy.tier in policies and policy.directions:
            policies[policy.tier].append(policy)
    return tuple(
        msgspec.structs.replace(tier, policies=tuple(sorted(policies[tier.name], key=lambda q: (q.order, q.name))))
        for tier in sorted(found.values(), key=lambda t: (t.order, t.name))
    )


def _cluster_tier(objects: p.PolicyObjects, which: str) -> str:
    """v3.30 reads AdminNetworkPolicies into `adminnetworkpolicy`, v3.32 ClusterNetworkPolicies into `kube-admin`; no version
    reads both, so that both together are one tier here, as they are one engine."""
    kinds = {policy.kind for policy in objects.cluster.values() if policy.tier == which}
    if which == _ADMIN:
        return "adminnetworkpolicy" if kinds == {"AdminNetworkPolicy"} else "kube-admin"
    return "baselineadminnetworkpolicy" if kinds == {"BaselineAdminNetworkPolicy"} else "kube-baseline"


# -- NetworkPolicy (conversion.go K8sNetworkPolicyToCalico) --------------------------------------------------------------


def of_network_policy(policy: NetworkPolicy) -> Policy:
    """A NetworkPolicy: `knp.default.NAME` in tier default, order 1000."""
    own = f"projectcalico.org/namespace == '{policy.namespace}'"
    return Policy(
        "default",
        f"{policy.namespace}/knp.default.{policy.name}",
        _NETWORK_POLICY_ORDER,
        f"({pod_selector(policy.pod_selector)}) && {own}",
        policy.policy_types,
        tuple(_network_rules(policy.ingress, policy.namespace, INGRESS)),
        tuple(_network_rules(policy.egress, policy.namespace, EGRESS)),
        ref=policy.ref,
    )


def _network_rules(rules: Sequence[PolicyRule], namespace: str, direction: str) -> Iterator[Rule]:
    """One rule for every protocol and peer."""
    for rule in rules:
        peers = [
            Entity(nets=(peer.ip_block.cidr,), not_nets=peer.ip_block.except_)
            if peer.ip_block is not None
            else _selected(pod_selector(peer.pod_selector), namespace_selector(peer.namespace_selector), namespace)
            for peer in rule.peers
        ]
        for protocol, ports in _by_protocol(_network_port(port) for port in rule.ports):
            for peer in peers or [Entity()]:
                yield _directed("allow", direction, peer, protocol, ports, ref=rule.ref)


def _network_port(port: PolicyPort) -> tuple[str, Port | None]:
    if port.port is None or isinstance(port.port, str):
        return port.protocol, port.port
    return port.protocol, p.PortRange(port.port, port.end_port or port.port)


def _by_protocol(ports: Iterable[tuple[str, Port | None]]) -> list[tuple[int | None, tuple[Port, ...]]]:
    """Ports gathered by protocol, in the order of the protocols' names; all of a protocol swallows its ports, and all of
    everything the rest (conversion.go k8sRuleToCalico, unpackANPPorts)."""
    found: dict[str, list[Port] | None] = {}
    for protocol, port in ports:
        if not protocol and port is None:
            return [(None, ())]
        if port is None:
            found[protocol] = None
        elif (known := found.setdefault(protocol, [])) is not None:
            known.append(port)
    if not found:
        return [(None, ())]
    return [(PROTOCOL_NUMBERS[name.lower()] if name else None, simplified(found[name] or ())) for name in sorted(found)]


def simplified(ports: Sequence[Port]) -> tuple[Port, ...]:
    """Names first, then as few ranges as hold the numbers (conversion.go SimplifyPorts).

    >>> [str(port) for port in simplified((p.PortRange(81, 90), "http", p.PortRange(80, 80)))]
    ['http', '80-90']
    """
    ranges = sorted((port for port in ports if isinstance(port, p.PortRange)), key=lambda r: (r.first, r.last))
    if len(ports) <= 1 or sum(r.last - r.first + 1 for r in ranges) <= 1:
        return tuple(ports)
    joined: list[p.PortRange] = []
    for each in ranges:
        if joined and each.first <= joined[-1].last + 1:
            joined[-1] = p.PortRange(joined[-1].first, max(joined[-1].last, each.last))
        else:
            joined.append(each)
    return (*(port for port in ports if isinstance(port, str)), *joined)


def _directed(
    action: str,
    direction: str,
    peer: Entity,
    protocol: int | None,
    ports: tuple[Port, ...],
    name: str = "",
    any_named: bool = False,
    ref: Ref = Ref(),
) -> Rule:
    """A rule with its peer at the side that is not the pod's own, and its ports at the destination."""
    if direction == INGRESS:
        return Rule(action, peer, Entity(ports=ports), protocol, name=name, any_named=any_named, ref=ref)
    to = msgspec.structs.replace(peer, ports=ports)
    return Rule(action, Entity(), to, protocol, name=name, any_named=any_named, ref=ref)


def pod_selector(selector: LabelSelector | None) -> str:
    """A label selector of pods as Calico's text: it selects nothing but pods (conversion.go k8sSelectorToCalico)."""
    return " && ".join([_ORCHESTRATED, *(_terms(selector) if selector is not None else ())])


def namespace_selector(selector: LabelSelector | None) -> str:
    """A label selector of namespaces as Calico's text; "" where it was not given."""
    if selector is None:
        return ""
    return " && ".join(_terms(selector)) or "all()"


def _terms(selector: LabelSelector) -> Iterator[str]:
    for key, value in sorted(selector.match_labels.items()):
        yield f"{key} == '{value}'"
    for key, operator, values in selector.match_expressions:
        listed = "', '".join(values)
        match operator:
            case "In":
                yield f"{key} in {{ '{listed}' }}"
            case "NotIn":
                yield f"{key} not in {{ '{listed}' }}"
            case "Exists":
                yield f"has({key})"
            case _:
                yield f"! has({key})"


# -- Calico's own (networkpolicyprocessor.go, globalnetworkpolicyprocessor.go, rules.go) ---------------------------------


def of_calico(policy: p.CalicoPolicy) -> Policy:
    """Calico's NetworkPolicy or GlobalNetworkPolicy."""
    selector = str(policy.selector or "")
    name = _tiered(policy.name)
    if policy.namespace:
        own = f"projectcalico.org/namespace == '{policy.namespace}'"
        selector = f"({selector}) && {own}" if selector else own
        selector = _and_prefixed(selector, policy.service_account_selector, ACCOUNT_PREFIX)
        name = f"{policy.namespace}/{name}"
    else:
        if policy.namespace_selector is not None:
            selector = _and_prefixed(selector, policy.namespace_selector, NAMESPACE_PREFIX)
            selector = selector.replace("all()", "has(projectcalico.org/namespace)")
        if policy.service_account_selector is not None:
            selector = _and_prefixed(selector, policy.service_account_selector, ACCOUNT_PREFIX)
            selector = selector.replace("all()", f"has({ACCOUNT_LABEL})")
    return Policy(
        policy.tier,
        name,
        _LAST if policy.order is None else policy.order,
        selector,
        policy.types,
        tuple(of_calico_rule(rule, policy.namespace) for rule in policy.ingress),
        tuple(of_calico_rule(rule, policy.namespace) for rule in policy.egress),
        policy.do_not_track,
        policy.pre_dnat,
        policy.apply_on_forward,
        policy.ref,
    )


def _tiered(name: str) -> str:
    """`TIER.NAME`, as policies are stored (lib/names/policy.go TieredPolicyName)."""
    return name if name.startswith(_FORMATTED) or "." in name else f"default.{name}"


def of_calico_rule(rule: p.CalicoRule, namespace: str) -> Rule:
    """A rule of a Calico policy (namespace "" for a global one) or profile."""
    return Rule(
        _ACTIONS[rule.action],
        _entity(rule.source, namespace),
        _entity(rule.destination, namespace),
        rule.protocol,
        rule.not_protocol,
        rule.ip_version,
        rule.icmp,
        rule.not_icmp,
        ref=rule.ref,
    )


def _entity(end: p.EntityRule, namespace: str) -> Entity:
    """rules.go GetEntityRuleSelector: accounts, then the selector, within the namespaces; a namespaced policy looks into its own
    namespace as soon as it has any selector, notSelector included (then as the empty selector, which narrows nothing)."""
    accounts = _accounts(end)
    own = [text for text in (accounts, str(end.selector or "")) if text]
    selector = own[0] if len(own) == 1 else " && ".join(f"({text})" for text in own)
    not_selector = str(end.not_selector or "")
    if end.namespace_selector is not None:
        where = _prefixed(end.namespace_selector, NAMESPACE_PREFIX)
        where = where.replace("all()", "has(projectcalico.org/namespace)")
        where = where.replace("global()", "!has(projectcalico.org/namespace)")
    else:
        where = f"projectcalico.org/namespace == '{namespace}'" if namespace else ""
    if where and (selector or not_selector or end.namespace_selector is not None):
        selector = f"({where}) && ({selector})" if selector else where
    return Entity(end.nets, end.not_nets, selector, not_selector, end.ports, end.not_ports, end.service)


def _accounts(end: p.EntityRule) -> str:
    text = _prefixed(end.service_account_selector, ACCOUNT_PREFIX) if end.service_account_selector is not None else ""
    if not end.service_account_names:
        return text
    named = cs.show(cs.In(ACCOUNT_LABEL, tuple(sorted(set(end.service_account_names)))))
    return f"({text}) && ({named})" if text else named


def _and_prefixed(selector: str, other: cs.Selector | None, prefix: str) -> str:
    """selectors.go prefixAndAppendSelector."""
    if other is None:
        return selector
    return f"({selector}) && {_prefixed(other, prefix)}" if selector else _prefixed(other, prefix)


def _prefixed(selector: cs.Selector, prefix: str) -> str:
    """The canonical text with a prefix before every label (selectors.go parseSelectorAttachPrefix)."""
    return cs.show(_with_prefix(selector.root, prefix))


def _with_prefix(node: cs.Node, prefix: str) -> cs.Node:
    match node:
        case cs.Has() | cs.Compare() | cs.In():
            return msgspec.structs.replace(node, label=prefix + node.label)
        case cs.Not():
            return cs.Not(_with_prefix(node.operand, prefix))
        case cs.And():
            return cs.And(tuple(_with_prefix(operand, prefix) for operand in node.operands))
        case cs.Or():
            return cs.Or(tuple(_with_prefix(operand, prefix) for operand in node.operands))
        case _:
            return node


def _selected(selector: str, namespaces: str, namespace: str) -> Entity:
    """Pods by two selectors in Calico's text; `namespaces` "" is the policy's own namespace ("" for none)."""
    return _entity(
        p.EntityRule(
            selector=cs.Selector(selector, cs.All()) if selector else None,  # only its text is used
            namespace_selector=cs.parse(namespaces) if namespaces else None,
        ),
        namespace,
    )


# -- ClusterNetworkPolicy (clusternetworkpolicy.go), AdminNetworkPolicy, BaselineAdminNetworkPolicy (conversion.go) -------


def of_cluster(policy: p.ClusterNetworkPolicy, tier: str) -> Policy:
    """One of the three, as a global policy of its tier. It governs the directions in which rules are left of it."""
    order, name = float(policy.priority), policy.name
    if policy.kind == "AdminNetworkPolicy":
        name = "kanp.adminnetworkpolicy." + name
    elif policy.kind == "BaselineAdminNetworkPolicy":
        name, order = "kbanp.baselineadminnetworkpolicy." + name, 1000.0
    where = cs.show(_with_prefix(cs.parse(namespace_selector(policy.subject.namespaces)).root, NAMESPACE_PREFIX))
    selector = f"({pod_selector(policy.subject.pods)}) && {where}".replace("all()", "has(projectcalico.org/namespace)")
    rules = {
        INGRESS: tuple(_cluster_rules(policy.ingress, INGRESS)),
        EGRESS: tuple(_cluster_rules(policy.egress, EGRESS)),
    }
    directions = tuple(direction for direction, found in rules.items() if found)
    return Policy(tier, name, order, selector, directions, rules[INGRESS], rules[EGRESS], ref=policy.ref)


def _cluster_rules(rules: Sequence[p.ClusterRule], direction: str) -> Iterator[Rule]:
    """A rule with a peer of a kind that Calico does not know fails closed: an Accept is left out, others deny everything."""
    for rule in rules:
        action = _ACTIONS[rule.action]
        if not all(peer.pods is not None or peer.networks for peer in rule.peers):
            if action != "allow":
                yield Rule("deny", ref=rule.ref)
            continue
        ports = _by_protocol((port.protocol, port.port) for port in rule.ports or ())
        for protocol, found in ports:
            for peer in rule.peers:
                yield _directed(action, direction, _cluster_peer(peer), protocol, found, rule.name, True, rule.ref)


def _cluster_peer(peer: p.ClusterPeer) -> Entity:
    if peer.pods is None:
        return Entity(nets=peer.networks)
    selector = pod_selector(peer.pods.pods) if peer.pods.pods is not None else ""
    return _selected(selector, namespace_selector(peer.pods.namespaces), "")
