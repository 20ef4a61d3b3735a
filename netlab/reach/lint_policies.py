"""Lint of NetworkPolicies: selectors that mean nobody, rules that add nothing, ports that never match, DNS cut off.

Law: as lint.py's. Who is selected and what is allowed is asked of dataplane/policy, never decided here.
"""

from __future__ import annotations

from collections.abc import Iterator

from netlab.dataplane.policy.index import EGRESS, INGRESS, Peer, Policy, PolicyIndex, Rule
from netlab.dataplane.policy.semantics import UDP, Flow, Says, decide
from netlab.kube.cluster import Cluster
from netlab.kube.objects import NetworkPolicy, Pod, PolicyPort, PolicyRule, Service
from netlab.kube.selectors import labels_match
from netlab.linux.addr import Prefix
from netlab.linux.packet import PROTOCOL_NUMBERS, TCP
from netlab.reach.finding import Finding, Severity
from netlab.refs import Ref

ENGINES = ("calico", "canal")  # CNI plug-ins that bring a policy engine which netlab models
_DNS_PORT = 53


def policy_selects_no_pod(cluster: Cluster) -> Iterator[Finding]:
    """A policy that selects no pod has no effect."""
    for policy in PolicyIndex(cluster).policies:
        if not policy.pods and not policy.host_endpoints:
            fix = "correct its podSelector or namespace, or delete it"
            yield _finding("policy-selects-no-pod", Severity.WARNING, "selects no pod, so it has no effect", fix, policy)


def peer_selects_nobody(cluster: Cluster) -> Iterator[Finding]:
    """A peer whose selectors mean no pod matches nothing."""
    for policy in PolicyIndex(cluster).policies:
        for direction, rule in _rules(policy):
            for peer in rule.peers or ():
                if peer.pods is None or peer.pods or peer.sets or peer.hosts or peer.nets:
                    continue
                what = f"{direction.lower()} rule {rule.number}: no pod is {peer.words or 'what its selectors say'}"
                fix = "correct the selector or the labels; without a namespaceSelector only the policy's own namespace counts"
                yield _finding("peer-selects-nobody", Severity.WARNING, what, fix, policy, rule.ref)


def rule_adds_nothing(cluster: Cluster) -> Iterator[Finding]:
    """A rule of a NetworkPolicy that another rule of the same policy already allows."""
    for policy in PolicyIndex(cluster).policies:
        if not policy.of_kubernetes:
            continue
        for direction in (INGRESS, EGRESS):
            rules = policy.rules.get(direction, ())
            for rule in rules:
                others = [r for r in rules if r is not rule and _covers(r, rule)]
                wider = next((r for r in others if r.number < rule.number or not _covers(rule, r)), None)
                if wider is not None:
                    what = f"{direction.lower()} rule {rule.number} adds nothing: rule {wider.number} allows all of it"
                    yield _finding("rule-adds-nothing", Severity.NOTE, what, "delete it, or narrow the other", policy, rule.ref)


def _covers(wide: Rule, narrow: Rule) -> bool:
    """Whether one rule matches whatever the other matches; False where that is not plain."""
    if wide.extra is not None or narrow.extra is not None:
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
    if narrow.nets or wide.pods is None or narrow.pods is None or wide.sets or narrow.sets:
        return False
    return bool(narrow.pods) and narrow.pods <= wide.pods


def named_port_unmatched(cluster: Cluster) -> Iterator[Finding]:
    """A port name that no pod on the receiving side has matches nothing."""
    index = PolicyIndex(cluster)
    for policy, source in _kubernetes(index):
        for direction, rule, written in _written(policy, source):
            pods = _receivers(index, policy, direction, rule)
            for port in written.ports:
                if not isinstance(port.port, str) or not pods:
                    continue
                if any(c.name == port.port and c.protocol == port.protocol for pod in pods for c in pod.ports):
                    continue
                names = sorted({c.name for pod in pods for c in pod.ports if c.name})
                place = f"{direction.lower()} rule {rule.number}"
                what = f'{place}: no container port of the pods it is about is called "{port.port}" ({port.protocol})'
                fix = f"they have {', '.join(names)}" if names else "give the number, or name the container port"
                yield _finding("named-port-unmatched", Severity.WARNING, what, fix, policy, rule.ref)


def service_port_instead_of_target_port(cluster: Cluster) -> Iterator[Finding]:
    """A policy judges after DNAT: it sees the pod's port, not the Service's."""
    index = PolicyIndex(cluster)
    for policy, source in _kubernetes(index):
        for direction, rule, written in _written(policy, source):
            pods = _receivers(index, policy, direction, rule)
            for port in written.ports:
                if not isinstance(port.port, int) or not pods or _listens(pods, port):
                    continue
                found = _service_with(cluster, pods, port)
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


def cluster_ip_in_ip_block(cluster: Cluster) -> Iterator[Finding]:
    """An ipBlock for service addresses matches nothing where the policy is asked after DNAT."""
    for policy in PolicyIndex(cluster).policies:
        for direction, rule in _rules(policy):
            if direction != EGRESS:
                continue
            for peer in rule.peers or ():
                for net in peer.nets:
                    services = [s.key for s in cluster.services.values() if any(a in net for a in s.cluster_ips)]
                    if not services or not any(_inside(net, cidr) for cidr in cluster.service_cidrs):
                        continue
                    shown = ", ".join(services[:3]) + (f" and {len(services) - 3} more" if len(services) > 3 else "")
                    what = f"egress rule {rule.number}: ipBlock {net} holds service addresses ({shown}); a policy sees the pod's"
                    fix = "select the pods behind the service (podSelector, namespaceSelector), by their own port"
                    yield _finding("cluster-ip-in-ip-block", Severity.WARNING, what, fix, policy, rule.ref)


def _inside(net: Prefix, cidr: Prefix) -> bool:
    return net.address in cidr and net.length >= cidr.length


def dns_cut_off(cluster: Cluster) -> Iterator[Finding]:
    """Pods whose egress is isolated and that may not ask the cluster's DNS by UDP and TCP."""
    index = PolicyIndex(cluster)
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


def policy_types_contradict(cluster: Cluster) -> Iterator[Finding]:
    """Rules of a direction that policyTypes leaves out are ignored."""
    for source in cluster.policies.values():
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


def no_policy_engine(cluster: Cluster) -> Iterator[Finding]:
    """Policies in a cluster whose CNI plug-in enforces none."""
    if cluster.cni.name in ENGINES:
        return
    policies = [*cluster.policies.values()]
    if not policies:
        return
    first = min(policies, key=lambda policy: (policy.ref.file or "", policy.ref.line or 0))
    more = f" and {len(policies) - 1} more" if len(policies) > 1 else ""
    yield Finding(
        "no-policy-engine",
        Severity.WARNING,
        f"this policy{more} is enforced by nobody: {cluster.cni.name} has no policy engine",
        "add one (Calico as in Canal, kube-router, ...), or another CNI plug-in",
        f"NetworkPolicy {first.key}",
        first.ref,
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
