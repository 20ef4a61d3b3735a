"""Lint of NetworkPolicies: selectors that mean nobody, rules that add nothing, ports that never match, DNS cut off.

Law: as lint.py's. Who is selected and what is allowed is asked of dataplane/policy, never decided here.
"""

from __future__ import annotations

from collections.abc import Iterator

from netlab.dataplane.policy.index import EGRESS, INGRESS, Action, Extra, Peer, Policy, PolicyIndex, Rule
from netlab.dataplane.policy.semantics import UDP, Flow, Says, decide
from netlab.kube.cluster import Cluster
from netlab.kube.objects import NetworkPolicy, Pod, PolicyPort, PolicyRule, Service
from netlab.kube.selectors import labels_match
from netlab.linux.addr import Prefix
from netlab.linux.packet import PROTOCOL_NUMBERS, TCP, protocol_name
from netlab.reach.finding import Finding, Severity
from netlab.refs import Ref
from netlab.trace.policysteps import ENGINES

_DNS_PORT = 53


def policy_selects_no_pod(index: PolicyIndex) -> Iterator[Finding]:
    """A policy that selects no pod has no effect."""
    for policy in index.policies:
        if not policy.pods and not policy.host_endpoints:
            fix = "correct its podSelector or namespace, or delete it"
            yield _finding("policy-selects-no-pod", Severity.WARNING, "selects no pod, so it has no effect", fix, policy)


def peer_selects_nobody(index: PolicyIndex) -> Iterator[Finding]:
    """A peer whose selectors mean no pod matches nothing."""
    for policy in index.policies:
        for direction, rule in _rules(policy):
            for peer in rule.peers or ():
                if peer.pods is None or peer.pods or peer.sets or peer.hosts or peer.nets:
                    continue
                what = f"{direction.lower()} rule {rule.number}: no pod is {peer.words or 'what its selectors say'}"
                fix = "correct the selector or the labels; without a namespaceSelector only the policy's own namespace counts"
                yield _finding("peer-selects-nobody", Severity.WARNING, what, fix, policy, rule.ref)


def rule_adds_nothing(index: PolicyIndex) -> Iterator[Finding]:
    """A rule of a NetworkPolicy that another rule, of it or of a policy for the same pods and more, already allows."""
    spaces: dict[str, list[Policy]] = {}
    for policy in index.policies:
        if policy.of_kubernetes:
            spaces.setdefault(policy.key.partition("/")[0], []).append(policy)
    for policies in spaces.values():
        place = {policy.title: n for n, policy in enumerate(policies)}
        for policy in policies:
            around = [other for other in policies if other is policy or (policy.pods and policy.pods <= other.pods)]
            for direction, rule in _rules(policy):
                found = next(
                    (
                        (other, wide)
                        for other in around
                        for wide in other.rules.get(direction, ())
                        if wide is not rule
                        and _covers(wide, rule)
                        # of two that say the same the later one adds nothing
                        and (
                            (place[other.title], wide.number) < (place[policy.title], rule.number)
                            or not (_covers(rule, wide) and other.pods <= policy.pods)
                        )
                    ),
                    None,
                )
                if found is not None:
                    whose = "" if found[0] is policy else f" of {found[0].title}"
                    what = f"{direction.lower()} rule {rule.number} adds nothing: rule {found[1].number}{whose} allows all of it"
                    yield _finding("rule-adds-nothing", Severity.NOTE, what, "delete it, or narrow the other", policy, rule.ref)


def rule_never_reached(index: PolicyIndex) -> Iterator[Finding]:
    """A rule of a policy whose first match decides (Calico's, ClusterNetworkPolicy) behind one that matches all that it does."""
    for policy in index.policies:
        if policy.of_kubernetes:
            continue
        for direction in (INGRESS, EGRESS):
            before: list[Rule] = []
            for rule in policy.rules.get(direction, ()):
                wide = next((r for r in before if _covers(r, rule)), None)
                if wide is not None:
                    first = f"rule {wide.number} ({wide.action.value})"
                    what = f"{direction.lower()} rule {rule.number} is never reached: {first} matches all of it"
                    fix = "put it before that one, or delete it"
                    yield _finding("rule-never-reached", Severity.WARNING, what, fix, policy, rule.ref)
                elif rule.action is not Action.LOG:
                    before.append(rule)


def policies_tie(index: PolicyIndex) -> Iterator[Finding]:
    """ClusterNetworkPolicies of one tier and priority for the same pods: which goes first is for the engine to choose."""
    known: dict[tuple[str, float], list[Policy]] = {}
    for policy in index.policies:
        if policy.kind not in ("ClusterNetworkPolicy", "AdminNetworkPolicy"):
            continue
        peers = known.setdefault((policy.tier.name, policy.order), [])
        for other in peers:
            shared = [d for d in (INGRESS, EGRESS) if policy.rules.get(d) and other.rules.get(d)]
            if shared and policy.pods & other.pods:
                which = " and ".join(d.lower() for d in shared)
                what = f"has priority {policy.order:g} for {which} of pods that {other.title} selects, too: either may go first"
                fix = "give them different priorities"
                yield _finding("policies-tie", Severity.WARNING, what, fix, policy)
                break
        peers.append(policy)


def tier_is_missing(index: PolicyIndex) -> Iterator[Finding]:
    """A Calico policy in a tier that nobody has made is not enforced."""
    known = {tier.name for tier in index.tiers}
    for policy in index.cluster.policy_objects.calico.values():
        if policy.tier not in known:
            what = f"there is no Tier {policy.tier}: the policy is not enforced"
            fix = "make the Tier first, or add it to the input"
            yield Finding("tier-is-missing", Severity.WARNING, what, fix, f"{policy.kind} {policy.key}", policy.ref)


def _covers(wide: Rule, narrow: Rule) -> bool:
    """Whether one rule matches whatever the other matches; False where that is not plain."""
    if wide.extra not in (None, Extra()):  # what else the other one asks only narrows it
        return False
    if wide.peers is not None:
        if narrow.peers is None:
            return False
        for peer in narrow.peers:
            if not any(_wider(mine, peer) for mine in wide.peers):
                return False
    if wide.ports is None:
        return True
    if narrow.ports is None:
        return False
    return all(
        any(
            mine.protocol in (0, port.protocol)
            and (mine.name == port.name if port.name or mine.name else mine.first <= port.first and port.last <= mine.last)
            for mine in wide.ports
        )
        for port in narrow.ports
    )


def _wider(wide: Peer, narrow: Peer) -> bool:
    if wide == narrow:
        return True
    for p in (wide, narrow):
        if p.not_nets or p.not_pods or p.not_sets or p.service is not None or p.by_node or p.by_name:
            return False
    if wide.nets:
        if wide.pods is not None or narrow.pods is not None or not narrow.nets:
            return False
        return all(any(_inside(block, net) for net in wide.nets) for block in narrow.nets)
    if narrow.nets or wide.pods is None or narrow.pods is None or wide.sets or narrow.sets or narrow.hosts:
        return False
    return bool(narrow.pods) and narrow.pods <= wide.pods


def named_port_unmatched(index: PolicyIndex) -> Iterator[Finding]:
    """A port name that no pod on the receiving side has matches nothing."""
    for policy in index.policies:
        for direction, rule in _rules(policy):
            pods = _receivers(index, policy, direction, rule)
            if policy.host_endpoints or (not policy.of_kubernetes and direction == EGRESS and rule.peers is None):
                continue  # host endpoints have names, too; and everybody may
            for port in rule.ports or ():
                if not port.name or not pods:
                    continue
                declared = [(c, PROTOCOL_NUMBERS[c.protocol.lower()]) for pod in pods for c in pod.ports]
                if any(c.name == port.name and port.protocol in (0, protocol) for c, protocol in declared):
                    continue
                names = sorted({c.name for c, _ in declared if c.name})
                place = f"{direction.lower()} rule {rule.number}"
                kind = f" ({protocol_name(port.protocol).upper()})" if port.protocol else ""
                what = f'{place}: no container port of the pods it is about is called "{port.name}"{kind}'
                fix = f"they have {', '.join(names)}" if names else "give the number, or name the container port"
                yield _finding("named-port-unmatched", Severity.WARNING, what, fix, policy, rule.ref)


def service_port_instead_of_target_port(index: PolicyIndex) -> Iterator[Finding]:
    """A policy judges after DNAT: it sees the pod's port, not the Service's."""
    for policy, source in _kubernetes(index):
        for direction, rule, written in _written(policy, source):
            pods = _receivers(index, policy, direction, rule)
            for port in written.ports:
                if not isinstance(port.port, int) or not pods or _listens(pods, port):
                    continue
                found = _service_with(index.cluster, pods, port)
                if found is None:
                    continue
                service, target = found
                place = f"{direction.lower()} rule {rule.number}"
                what = f"{place}: port {port.port} is Service {service.key}'s own; its pods have {target}, and a policy sees that"
                yield _finding("service-port-in-policy", Severity.WARNING, what, f"use port {target}", policy, rule.ref)


def _listens(pods: list[Pod], port: PolicyPort) -> bool:
    last = port.end_port or port.port
    assert isinstance(port.port, int)
    assert isinstance(last, int)
    return any(c.protocol == port.protocol and port.port <= c.container_port <= last for pod in pods for c in pod.ports)


def _service_with(cluster: Cluster, pods: list[Pod], port: PolicyPort) -> tuple[Service, str] | None:
    """The service in front of one of these pods that has this port for another targetPort."""
    for service in cluster.services.values():
        if not service.selector:
            continue
        for p in service.ports:
            if p.port != port.port or p.protocol != port.protocol or p.target_port == p.port:
                continue
            if any(pod.namespace == service.namespace and labels_match(service.selector, pod.labels) for pod in pods):
                return service, str(p.target_port)
    return None


def cluster_ip_in_ip_block(index: PolicyIndex) -> Iterator[Finding]:
    """An ipBlock for service addresses matches nothing where the policy is asked after DNAT."""
    cluster = index.cluster
    others = [a for pod in cluster.pods.values() for a in pod.ips]
    others += [a for node in cluster.nodes.values() for a in (*node.internal_ips, *node.external_ips)]
    for policy in index.policies:
        for direction, rule in _rules(policy):
            for peer in rule.peers or ():
                for net in peer.nets:
                    services = [s.key for s in cluster.services.values() if any(a in net for a in s.cluster_ips)]
                    # a block that is wider than the services' network, and still holds nobody else, is meant for them
                    within = any(_inside(net, cidr) for cidr in cluster.service_cidrs)
                    if not services or not (within or (net.length > 0 and not any(a in net for a in others))):
                        continue
                    shown = ", ".join(services[:3]) + (f" and {len(services) - 3} more" if len(services) > 3 else "")
                    place = f"{direction.lower()} rule {rule.number}"
                    what = f"{place}: ipBlock {net} holds service addresses ({shown}); a policy sees the pod's"
                    fix = "select the pods behind the service (podSelector, namespaceSelector), by their own port"
                    if direction == INGRESS:
                        fix = "select the pods that send (podSelector, namespaceSelector)"
                    yield _finding("cluster-ip-in-ip-block", Severity.WARNING, what, fix, policy, rule.ref)


def _inside(net: Prefix, cidr: Prefix) -> bool:
    return net.address in cidr and net.length >= cidr.length


def dns_cut_off(index: PolicyIndex) -> Iterator[Finding]:
    """Pods whose egress is isolated and that may not ask the cluster's DNS by UDP and TCP."""
    cluster = index.cluster
    servers = dns_servers(cluster)
    if not servers:
        return
    blamed: dict[tuple[str, ...], tuple[Policy, list[str], list[str]]] = {}
    for pod in cluster.pods.values():
        if not pod.ips or pod.host_network:
            continue
        source = index.pod(pod)
        selected = index.applied(EGRESS, source.pod)
        if not selected:
            continue
        refused = []
        for protocol, name in ((UDP, "UDP"), (TCP, "TCP")):
            targets = [(server, port) for server, ports in servers for number, port in ports if number == protocol]
            flows = [Flow(source, index.pod(server, source.ip.family), protocol, port) for server, port in targets]
            if flows and all(decide(index, flow).egress.says is Says.DENIED for flow in flows):
                refused.append(name)
        if refused:
            key = (*refused, *(policy.title for policy in selected))
            blamed.setdefault(key, (selected[0], refused, []))[2].append(pod.key)
    for policy, refused, pods in blamed.values():
        shown = ", ".join(pods[:3]) + (f" and {len(pods) - 3} more" if len(pods) > 3 else "")
        what = f"egress of {shown} does not reach the cluster's DNS by {' and '.join(refused)}: names cannot be looked up"
        where = ", ".join(sorted({f"{server.namespace} ({_labels(server)})" for server, _ in servers}))
        fix = f"allow egress to the DNS pods in {where} on port 53, UDP and TCP"
        severity = Severity.WARNING if "UDP" in refused else Severity.NOTE
        yield _finding("dns-cut-off", severity, what, fix, policy)


def dns_servers(cluster: Cluster) -> list[tuple[Pod, list[tuple[int, int]]]]:
    """The pods behind port 53 of kube-system's DNS service, each with (protocol, target port)."""
    found = []
    for service in cluster.services.values():
        if service.namespace != "kube-system" or all(p.port != _DNS_PORT for p in service.ports) or not service.selector:
            continue
        for pod in cluster.pods.values():
            if pod.namespace != service.namespace or not labels_match(service.selector, pod.labels) or not pod.ips:
                continue
            ports = []
            for p in service.ports:
                if p.port != _DNS_PORT:
                    continue
                target = p.target_port
                if isinstance(target, str):
                    target = next((c.container_port for c in pod.ports if c.name == target and c.protocol == p.protocol), 0)
                if target:
                    ports.append((PROTOCOL_NUMBERS[p.protocol.lower()], target))
            found.append((pod, ports))
    return found


def _labels(pod: Pod) -> str:
    kept = {k: v for k, v in pod.labels.items() if k in ("k8s-app", "app", "app.kubernetes.io/name")} or pod.labels
    return ",".join(f"{k}={v}" for k, v in sorted(kept.items()))


def policy_types_contradict(index: PolicyIndex) -> Iterator[Finding]:
    """Rules of a direction that policyTypes leaves out are ignored."""
    for source in index.cluster.policies.values():
        for direction, rules in ((INGRESS, source.ingress), (EGRESS, source.egress)):
            if rules and direction not in source.policy_types:
                yield Finding(
                    "policy-types-contradict",
                    Severity.WARNING,
                    f"has {direction.lower()} rules, but policyTypes is {', '.join(source.policy_types)}: they are ignored",
                    f"add {direction} to policyTypes, or delete the rules",
                    f"NetworkPolicy {source.key}",
                    rules[0].ref if rules[0].ref.file else source.ref,
                )


def no_policy_engine(index: PolicyIndex) -> Iterator[Finding]:
    """Policies in a cluster whose CNI plug-in enforces none."""
    cluster = index.cluster
    if cluster.cni.name in ENGINES:
        return
    objects = cluster.policy_objects
    policies = [(f"NetworkPolicy {policy.key}", policy.ref) for policy in cluster.policies.values()]
    policies += [(f"{policy.kind} {policy.key}", policy.ref) for policy in objects.cluster.values()]
    policies += [(f"{policy.kind} {policy.key}", policy.ref) for policy in objects.calico.values() if not policy.staged]
    if not policies:
        return
    title, ref = min(policies, key=lambda policy: (policy[1].file or "", policy[1].line or 0))
    more = f" and {len(policies) - 1} more" if len(policies) > 1 else ""
    yield Finding(
        "no-policy-engine",
        Severity.WARNING,
        f"this policy{more} is enforced by nobody: {cluster.cni.name} has no policy engine",
        "add one (Calico as in Canal, kube-router, ...), or another CNI plug-in",
        title,
        ref,
    )


# -- helpers -----------------------------------------------------------------------------------------------------------


def _finding(check: str, severity: Severity, what: str, fix: str, policy: Policy, ref: Ref | None = None) -> Finding:
    return Finding(check, severity, what, fix, policy.title, ref if ref is not None and ref.file else policy.ref)


def _rules(policy: Policy) -> Iterator[tuple[str, Rule]]:
    for direction in (INGRESS, EGRESS):
        for rule in policy.rules.get(direction, ()):
            yield direction, rule


def _kubernetes(index: PolicyIndex) -> Iterator[tuple[Policy, NetworkPolicy]]:
    """Kubernetes' own policies beside what was written."""
    for policy in index.policies:
        if policy.of_kubernetes and policy.key in index.cluster.policies:
            yield policy, index.cluster.policies[policy.key]


def _written(policy: Policy, source: NetworkPolicy) -> Iterator[tuple[str, Rule, PolicyRule]]:
    for direction, written in ((INGRESS, source.ingress), (EGRESS, source.egress)):
        for rule in policy.rules.get(direction, ()):
            yield direction, rule, written[rule.number - 1]


def _receivers(index: PolicyIndex, policy: Policy, direction: str, rule: Rule) -> list[Pod]:
    """The pods on whose ports a rule looks: those that the policy selects, or that its egress peers select."""
    if direction == INGRESS:
        return [index.pods[n] for n in sorted(policy.pods)]
    chosen = {n for peer in rule.peers or () for n in peer.pods or ()}
    return [index.pods[n] for n in sorted(chosen)]
