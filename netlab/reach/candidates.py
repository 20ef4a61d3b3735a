"""Changes that might flip the answer, each as a value: words, edits, the objects and the lines of YAML that it touches.

    denied by policy   a label, a port or peer more, a namespaceSelector, a rule, a NetworkPolicy more, a policy less
    nobody answers     a selector, labels, readiness, a targetPort, its name, a traffic policy, a source range
    asked wrongly      another port, another node                    allowed: an isolation, an exception, a rule or label less

Law: nothing here says that a change helps: why.py applies each and traces again. A label that a workload's selector looks at
is never changed (spec.selector is immutable, and the API server refuses a template that it does not select); which labels it
looks at is only known where the workload itself is among the input: else labels are only added.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from netlab.dataplane.policy.index import EGRESS, INGRESS, End, Policy, Rule, selector_words
from netlab.dataplane.policy.semantics import Ask as Questions
from netlab.dataplane.policy.semantics import Because, Flow, Half, Says, matches, peers_match, ports_match
from netlab.kube.calico_selector import parse
from netlab.kube.cluster import Cluster
from netlab.kube.objects import (
    ContainerPort,
    IPBlock,
    LabelSelector,
    NetworkPolicy,
    Pod,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Service,
)
from netlab.kube.policies import (
    CalicoPolicy,
    CalicoRule,
    ClusterNetworkPolicy,
    ClusterPeer,
    ClusterPort,
    ClusterRule,
    EntityRule,
    NamespacedPods,
    PortRange,
)
from netlab.kube.selectors import labels_match
from netlab.kube.selectors import matches as selects
from netlab.kube.workloads import NODE_PORTS, target_port
from netlab.linux.addr import Prefix, host_prefix, ip, prefix
from netlab.linux.packet import protocol_name
from netlab.reach import manifest
from netlab.reach.change import (
    AddPod,
    Ask,
    DropPolicy,
    Edit,
    MakeReady,
    NamePort,
    PutOther,
    PutPolicy,
    PutService,
    Refresh,
    Relabel,
    RelabelNamespace,
    SetCni,
    SetMesh,
    SetSysctl,
    relabelled,
    selected,
)
from netlab.reach.matrix import workload_name
from netlab.reach.reasons import likeness, listed, listens
from netlab.reach.situation import Answer, Judged, Situation, ready
from netlab.refs import Ref
from netlab.trace.query import Request

NAME_LABEL = "kubernetes.io/metadata.name"
# labels that controllers write: pods of one template differ in them, or get new ones with every rollout
_GENERATED = (
    "pod-template-hash",
    "pod-template-generation",
    "controller-revision-hash",
    "controller-uid",
    "job-name",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
)
_USUAL = ("app", "app.kubernetes.io/name", "k8s-app", "name", "component", "app.kubernetes.io/component")
_POLICED = ("TCP", "UDP", "SCTP")
_FEW = 3  # of a kind, per place
_MANY = 8  # places
_ANYWHERE = {4: prefix("0.0.0.0/0"), 6: prefix("::/0")}


Written = TypeVar("Written", bound=NetworkPolicy | CalicoPolicy | ClusterNetworkPolicy)  # a policy as its author wrote it


class Kind(enum.Enum):
    """What is changed."""

    SERVICE = "service"
    RULE = "rule"  # of a policy that there is
    LABEL = "label"
    POLICY = "policy"  # one more, or one less
    READINESS = "readiness"
    REPLICAS = "replicas"  # one pod more
    PORT = "container port"
    NODE = "node"  # sysctls, BGP
    ENGINE = "engine"  # the CNI plug-in
    TWO = "two together"
    QUESTION = "question"  # nothing: something else is asked


class Touched(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An object that is changed: what is done to it ("change", "create", "delete", "ask"), where it stands."""

    action: str
    object: str
    ref: Ref = Ref()


class Candidate(msgspec.Struct, frozen=True):
    """A change: in words, as edits, as text. `lines`: of YAML that it touches."""

    kind: Kind
    what: str
    edits: tuple[Edit, ...]
    touched: tuple[Touched, ...]
    patch: str = ""
    command: str = ""
    lines: int = 0
    note: str = ""

    @property
    def asks(self) -> bool:
        return self.kind is Kind.QUESTION


def candidates(s: Situation) -> list[Candidate]:
    """Everything that is worth a try, each once."""
    found: dict[tuple[str, str], Candidate] = {}
    for candidate in _all(s):
        found.setdefault((candidate.what, candidate.patch), candidate)
    return list(found.values())


def _all(s: Situation) -> Iterator[Candidate]:
    if s.answer is Answer.YES:
        yield from _block(s)
        return
    yield from _open(s)
    if s.service is not None:
        yield from _serve(s, s.service)
    yield from _ask(s)
    yield from _nodes(s)


# --- labels --------------------------------------------------------------------------------------------------


def group(cluster: Cluster, pod: Pod) -> tuple[str, str, tuple[str, ...], Ref]:
    """The workload whose template a pod is made from, else the pod: kind, name, pods, place."""
    if pod.owner:
        kind, _, name = pod.owner.partition(" ")
        key = f"{pod.namespace}/{kind}/{name}"
        pods = cluster.workloads.get(key, ())
        if pod.key in pods:
            controller = cluster.controllers.get(key)
            return kind, name, pods, controller.ref if controller is not None else pod.ref
    return "Pod", pod.name, (pod.key,), pod.ref


def relabel(cluster: Cluster, pod: Pod, changes: Mapping[str, str | None]) -> Candidate | None:
    """Labels of a pod's template (or its own); None where the API server would refuse that, or nothing changes."""
    kind, name, pods, ref = group(cluster, pod)
    if relabelled(pod.labels, changes) == dict(pod.labels) or any(key in _GENERATED for key in changes):
        return None
    if kind != "Pod":
        controller = cluster.controllers.get(f"{pod.namespace}/{kind}/{name}")
        if controller is not None and controller.selector is not None:
            if not selects(controller.selector, relabelled(pod.labels, changes)):
                return None
        elif any(key in pod.labels for key in changes):
            return None
    plain = {k: v for k, v in pod.labels.items() if kind == "Pod" or k not in _GENERATED}
    before = manifest.labels(kind, name, pod.namespace, plain)
    after = manifest.labels(kind, name, pod.namespace, relabelled(plain, changes))
    patch, lines = manifest.difference(before, after)
    word = " and ".join(f"{k}={v}" if v is not None else k for k, v in changes.items())
    put = [k for k, v in changes.items() if v is not None]
    verb = "take label" if not put else "set label" if any(k in pod.labels for k in put) else "label"
    title = f"{kind} {pod.namespace}/{name}"
    what = f"take label {word} from {title}" if not put else f"{verb} {word} on {title}"
    if kind == "Pod":
        flags = " ".join(f"{k}={v}" if v is not None else f"{k}-" for k, v in changes.items())
        over = " --overwrite" if any(k in pod.labels for k in put) else ""
        command = f"kubectl -n {pod.namespace} label pod {name} {flags}{over}"
    else:
        body = msgspec.json.encode({"spec": {"template": {"metadata": {"labels": dict(changes)}}}}).decode()
        command = f"kubectl -n {pod.namespace} patch {kind.lower()} {name} --type merge -p '{body}'"
    return Candidate(
        Kind.LABEL,
        what,
        (Relabel(pods, dict(changes)),),
        (Touched("change", title, ref),),
        patch,
        command,
        lines,
        "" if kind == "Pod" else "its pods are replaced",
    )


def identity(cluster: Cluster, pod: Pod) -> dict[str, str]:
    """Labels that select a pod's workload in its namespace: one that is enough, else all that its template has."""
    kind, name, pods, _ = group(cluster, pod)
    controller = cluster.controllers.get(f"{pod.namespace}/{kind}/{name}")
    own = {k: v for k, v in pod.labels.items() if k not in _GENERATED}
    mates = {key for key in pods if cluster.pods[key].ips}
    order = sorted(own, key=lambda k: (k not in _USUAL, _USUAL.index(k) if k in _USUAL else 0, k))
    for key in order:
        same = {p.key for p in cluster.pods.values() if p.namespace == pod.namespace and p.labels.get(key) == own[key] and p.ips}
        if same == mates:
            return {key: own[key]}
    if controller is not None and controller.selector is not None and controller.selector.match_labels:
        return dict(controller.selector.match_labels)
    return own


def wanted(selector: LabelSelector, labels: Mapping[str, str]) -> dict[str, str | None]:
    """The fewest changes of labels that make a selector hold."""
    changes: dict[str, str | None] = {k: v for k, v in selector.match_labels.items() if labels.get(k) != v}
    for key, operator, values in selector.match_expressions:
        has = labels.get(key)
        match operator:
            case "In" if has not in values:
                changes[key] = values[0]
            case "NotIn" if has in values:
                changes[key] = None
            case "Exists" if has is None:
                changes[key] = "true"
            case "DoesNotExist" if has is not None:
                changes[key] = None
    return changes


def _relabel_namespace(cluster: Cluster, name: str, selector: LabelSelector) -> Candidate | None:
    space = cluster.namespaces.get(name)
    if space is None:
        return None
    changes = wanted(selector, space.labels)
    if not changes or NAME_LABEL in changes or any(value is None for value in changes.values()):
        return None
    plain = {k: v for k, v in changes.items() if v is not None}
    before = manifest.labels("Namespace", name, "", space.labels)
    patch, lines = manifest.difference(before, manifest.labels("Namespace", name, "", {**space.labels, **plain}))
    flags = " ".join(f"{k}={v}" for k, v in plain.items())
    over = " --overwrite" if any(k in space.labels for k in plain) else ""
    return Candidate(
        Kind.LABEL,
        f"label {' and '.join(f'{k}={v}' for k, v in plain.items())} on Namespace {name}",
        (RelabelNamespace(name, plain),),
        (Touched("change", f"Namespace {name}", space.ref),),
        patch,
        f"kubectl label namespace {name} {flags}{over}",
        lines,
    )


# --- NetworkPolicy: to open ----------------------------------------------------------------------------------


def _open(s: Situation) -> Iterator[Candidate]:
    """For each end that policies close: its connections together, whoever their other ends are."""
    closed: dict[object, list[tuple[Judged, Half]]] = {}
    for judged in s.judged:
        for half in judged.halves:
            if half.says is Says.DENIED and s.enforced:
                closed.setdefault((half.direction, _who(s, half.end), judged.flow.port), []).append((judged, half))
    for found in list(closed.values())[:_MANY]:
        others: dict[object, End] = {}
        for judged, half in found:
            end = _other(judged.flow, half)
            others.setdefault(_who(s, end), end)
        yield from _open_half(s, *found[0], tuple(others.values()))


def _other(flow: Flow, half: Half) -> End:
    return flow.destination if half.direction == EGRESS else flow.seen or flow.source


def _who(s: Situation, end: End) -> object:
    """What a selector can tell apart: pods by the labels that select their workload, all else by address."""
    if not end.is_pod:
        return end.ip
    pod = s.index.pods[end.pod]
    return pod.namespace, tuple(sorted(identity(s.cluster, pod).items())) or pod.key


def _open_half(s: Situation, judged: Judged, half: Half, others: Sequence[End]) -> Iterator[Candidate]:
    """One of the connections to (or from) an end that is closed, and all their other ends."""
    if half.because is Because.RULE and half.policy is not None and half.rule is not None:
        yield from _against_rule(s, judged, half, half.policy, half.rule)
        return
    if half.because is not Because.TIER_END:
        return
    mine = [policy for policy in half.selected if policy.tier.name == half.tier]
    for policy in mine:
        if policy.of_kubernetes and policy.key in s.cluster.policies:
            yield from _mend(s, judged, half, policy, s.cluster.policies[policy.key], others)
    # the policy that is about the fewest pods is the one that is meant for this pod
    for policy in sorted(mine, key=lambda p: (len(p.pods), p.key))[:_FEW]:
        if policy.of_kubernetes and policy.key in s.cluster.policies:
            yield _rule_more(s, judged, half, s.cluster.policies[policy.key], others)
        elif (changed := _calico_rule_more(s, judged, half, policy, None)) is not None:
            yield changed
    if half.tier == "default":
        yield from _policy_more(s, judged, half, others)
    pod = s.index.pods[half.end.pod]
    for policy in mine:
        if policy.of_kubernetes and policy.key in s.cluster.policies:
            written = s.cluster.policies[policy.key]
            rest = tuple(t for t in written.policy_types if t != half.direction)
            if rest:
                where = f"{half.direction} from policyTypes of NetworkPolicy {policy.key}"
                yield put(s.cluster, replace(written, policy_types=rest), f"take {where}")
            yield drop(written)
            for label in written.pod_selector.match_labels:
                if (found := relabel(s.cluster, pod, {label: None})) is not None:
                    yield found


def _mend(
    s: Situation, judged: Judged, half: Half, policy: Policy, written: NetworkPolicy, others: Sequence[End]
) -> Iterator[Candidate]:
    """Rules that fail on one thing alone: a port more, a peer more, a label, a namespaceSelector."""
    ask = Questions(s.index.dialect, {})
    for rule, made in zip(_rules_of(written, half.direction), policy.rules[half.direction], strict=True):
        peer_fits = peers_match(s.index, judged.flow, half.direction, made, ask)
        port_fits = ports_match(s.index, judged.flow, half.direction, policy, made, ask)
        title = f"{half.direction.lower()} rule {made.number} of NetworkPolicy {policy.key}"
        if peer_fits and not port_fits and (port := _port(judged.flow)) is not None:
            changed = replace(rule, ports=(*rule.ports, port))
            yield put(
                s.cluster, _with_rule(written, half.direction, made.number, changed), f"add port {_port_words(port)} to {title}"
            )
        if port_fits and not peer_fits:
            peers = _peers_for(s, written.namespace, others)
            changed = replace(rule, peers=(*rule.peers, *peers))
            word = "from" if half.direction == INGRESS else "to"
            what = f"add {_all_words(peers)} to `{word}` of {title}"
            yield put(s.cluster, _with_rule(written, half.direction, made.number, changed), what, made.ref)
            yield from _be_the_peer(s, judged, half, written, rule, made)


def _be_the_peer(
    s: Situation, judged: Judged, half: Half, written: NetworkPolicy, rule: PolicyRule, made: Rule
) -> Iterator[Candidate]:
    """What would make the other end one of a rule's peers: its labels, its namespace's, a wider selector."""
    other = _other(judged.flow, half)
    if not other.is_pod:
        return
    pod = s.index.pods[other.pod]
    labels = s.cluster.namespaces[pod.namespace].labels if pod.namespace in s.cluster.namespaces else {}
    for n, peer in enumerate(rule.peers):
        if peer.ip_block is not None:
            continue
        wants = peer.pod_selector or LabelSelector()
        here = pod.namespace == written.namespace if peer.namespace_selector is None else selects(peer.namespace_selector, labels)
        if here and (found := relabel(s.cluster, pod, wanted(wants, pod.labels))) is not None:
            yield found
        if here or not selects(wants, pod.labels):
            continue
        if peer.namespace_selector is None:
            wide = replace(peer, namespace_selector=LabelSelector({NAME_LABEL: pod.namespace}))
            changed = replace(rule, peers=(*rule.peers[:n], wide, *rule.peers[n + 1 :]))
            also = replace(rule, peers=(*rule.peers, wide))
            title = f"{half.direction.lower()} rule {made.number} of NetworkPolicy {written.key}"
            what = f"add a namespaceSelector for {pod.namespace} to peer {n + 1} of {title}"
            yield put(s.cluster, _with_rule(written, half.direction, made.number, changed), what, made.ref)
            what = f"add {peer_words(wide)} to `{'from' if half.direction == INGRESS else 'to'}` of {title}"
            yield put(s.cluster, _with_rule(written, half.direction, made.number, also), what, made.ref)
        elif (space := _relabel_namespace(s.cluster, pod.namespace, peer.namespace_selector)) is not None:
            yield space


def _rule_more(s: Situation, judged: Judged, half: Half, written: NetworkPolicy, others: Sequence[End]) -> Candidate:
    peers = _peers_for(s, written.namespace, others)
    port = _port(judged.flow)
    rule = PolicyRule(peers=peers, ports=() if port is None else (port,))
    changed = _with_rules(written, half.direction, (*_rules_of(written, half.direction), rule))
    what = f"add an {half.direction.lower()} rule to NetworkPolicy {written.key}: {_rule_words(half.direction, peers, port)}"
    return put(s.cluster, changed, what)


def _policy_more(s: Situation, judged: Judged, half: Half, others: Sequence[End]) -> Iterator[Candidate]:
    """A NetworkPolicy that allows this and nothing else."""
    pod = s.index.pods[half.end.pod]
    peers = _peers_for(s, pod.namespace, others)
    port = _port(judged.flow)
    rule = PolicyRule(peers=peers, ports=() if port is None else (port,))
    ends = [_short(s, judged.flow.source), _short(s, judged.flow.destination)]
    base = f"allow-{ends[0]}-to-{ends[1]}" if half.direction == INGRESS else f"allow-{ends[0]}-out-to-{ends[1]}"
    policy = NetworkPolicy(
        name=_free(s.cluster, pod.namespace, base),
        namespace=pod.namespace,
        pod_selector=LabelSelector(identity(s.cluster, pod)),
        policy_types=(half.direction,),
    )
    policy = _with_rules(policy, half.direction, (rule,))
    yield put(s.cluster, policy, f"add a NetworkPolicy for {_own(s, half.end)}: {_rule_words(half.direction, peers, port)}")


def _short(s: Situation, end: End) -> str:
    """A name for a name."""
    if end.is_pod:
        return workload_name(s.index.pods[end.pod]).partition("/")[2]
    return end.node or "outside"


def _own(s: Situation, end: End) -> str:
    """The workload, the pod, or the pods that the same labels select."""
    pod = s.index.pods[end.pod]
    kind, name, pods, _ = group(s.cluster, pod)
    chosen = identity(s.cluster, pod)
    alike = [p for p in s.cluster.pods.values() if p.namespace == pod.namespace and labels_match(chosen, p.labels)]
    if kind == "Pod" and len(alike) > len(pods):
        return _who_words(s, end)
    return f"{kind} {pod.namespace}/{name}"


def _free(cluster: Cluster, namespace: str, base: str) -> str:
    base = base[:240]
    name, n = base, 2
    while f"{namespace}/{name}" in cluster.policies:
        name, n = f"{base}-{n}", n + 1
    return name


def _peers_for(s: Situation, namespace: str, ends: Sequence[End]) -> tuple[PolicyPeer, ...]:
    return tuple(peer_for(s, namespace, end) for end in ends)


def peer_for(s: Situation, namespace: str, end: End) -> PolicyPeer:
    """A peer of a policy in `namespace` that means an end and as little else as can be said."""
    if not end.is_pod:
        return PolicyPeer(ip_block=IPBlock(host_prefix(end.ip)))
    pod = s.index.pods[end.pod]
    chosen = LabelSelector(identity(s.cluster, pod))
    if pod.namespace == namespace:
        return PolicyPeer(pod_selector=chosen)
    return PolicyPeer(pod_selector=chosen, namespace_selector=LabelSelector({NAME_LABEL: pod.namespace}))


def _port(flow: Flow) -> PolicyPort | None:
    protocol = protocol_name(flow.protocol).upper()
    return PolicyPort(protocol, flow.port) if protocol in _POLICED else None


def _port_words(port: PolicyPort) -> str:
    return f"{port.port}" if port.protocol == "TCP" else f"{port.protocol} {port.port}"


def peer_words(peer: PolicyPeer) -> str:
    """`pods app=web`, `pods app=web of namespace shop`, `10.0.0.1/32`."""
    if peer.ip_block is not None:
        return str(peer.ip_block.cidr)
    pods = selector_words(peer.pod_selector) if peer.pod_selector is not None else ""
    text = f"pods {pods}" if pods else "all pods"
    if peer.namespace_selector is not None:
        text += f" of namespace {peer.namespace_selector.match_labels.get(NAME_LABEL, selector_words(peer.namespace_selector))}"
    return text


def _all_words(peers: Sequence[PolicyPeer]) -> str:
    words = [peer_words(peer) for peer in peers[:_FEW]]
    return listed([*words, f"{len(peers) - _FEW} more"] if len(peers) > _FEW else words)


def _rule_words(direction: str, peers: Sequence[PolicyPeer], port: PolicyPort | None) -> str:
    word = "from" if direction == INGRESS else "to"
    return f"{word} {_all_words(peers)}{f' on {_port_words(port)}' if port is not None else ''}"


def _with_rule(policy: NetworkPolicy, direction: str, number: int, rule: PolicyRule) -> NetworkPolicy:
    rules = _rules_of(policy, direction)
    return _with_rules(policy, direction, (*rules[: number - 1], rule, *rules[number:]))


def _without_rule(policy: Written, direction: str, number: int) -> Written:
    rules = _rules_of(policy, direction)
    return _with_rules(policy, direction, (*rules[: number - 1], *rules[number:]))


def _rules_of(policy: NetworkPolicy | CalicoPolicy | ClusterNetworkPolicy, direction: str) -> tuple[Any, ...]:
    return policy.ingress if direction == INGRESS else policy.egress


def _with_rules(policy: Written, direction: str, rules: tuple[Any, ...]) -> Written:
    return replace(policy, **{"ingress" if direction == INGRESS else "egress": rules})


def put(cluster: Cluster, policy: NetworkPolicy, what: str, at: Ref = Ref()) -> Candidate:
    """A NetworkPolicy, changed (`at` a place in it) or new."""
    before = cluster.policies.get(policy.key)
    patch, lines = manifest.difference(
        manifest.network_policy(before) if before is not None else None, manifest.network_policy(policy)
    )
    action = "create" if before is None else "change"
    ref = at if at.file else before.ref if before is not None else Ref()
    touched = Touched(action, f"NetworkPolicy {policy.key}", ref)
    kind = Kind.POLICY if before is None else Kind.RULE
    return Candidate(kind, what, (PutPolicy(policy),), (touched,), patch, "", lines)


def drop(policy: NetworkPolicy) -> Candidate:
    """A NetworkPolicy deleted."""
    _, lines = manifest.difference(manifest.network_policy(policy), None)
    return Candidate(
        Kind.POLICY,
        f"delete NetworkPolicy {policy.key}",
        (DropPolicy(policy.key),),
        (Touched("delete", f"NetworkPolicy {policy.key}", policy.ref),),
        "",
        f"kubectl -n {policy.namespace} delete networkpolicy {policy.name}",
        lines,
    )


# --- rules that deny: Calico's and the cluster's -------------------------------------------------------------


def _against_rule(s: Situation, judged: Judged, half: Half, policy: Policy, rule: Rule) -> Iterator[Candidate]:
    """A rule denies: one before it that allows, it taken away, or labels that it does not mean."""
    if (found := _calico_rule_more(s, judged, half, policy, rule)) is not None:
        yield found
    if (found := _rule_less(s, half, policy, rule)) is not None:
        yield found
    for end in (half.end, _other(judged.flow, half)):
        if end.is_pod:
            pod = s.index.pods[end.pod]
            for label in pod.labels:
                if (found := relabel(s.cluster, pod, {label: None})) is not None:
                    yield found


def _other_policy(s: Situation, policy: Policy) -> tuple[str, CalicoPolicy | ClusterNetworkPolicy] | None:
    objects = s.cluster.policy_objects
    every: dict[str, CalicoPolicy | ClusterNetworkPolicy] = {**objects.calico, **objects.cluster}
    return next(((key, p) for key, p in every.items() if (p.kind, p.key) == (policy.kind, policy.key)), None)


def _put_other(
    key: str, before: CalicoPolicy | ClusterNetworkPolicy, after: CalicoPolicy | ClusterNetworkPolicy, what: str
) -> Candidate:
    patch, lines = manifest.difference(_manifest(before), _manifest(after))
    touched = Touched("change", f"{before.kind} {before.key}", before.ref)
    return Candidate(Kind.RULE, what, (PutOther(key, after),), (touched,), patch, "", lines)


def _manifest(policy: CalicoPolicy | ClusterNetworkPolicy) -> dict[str, object]:
    return manifest.calico_policy(policy) if isinstance(policy, CalicoPolicy) else manifest.cluster_policy(policy)


def _calico_rule_more(s: Situation, judged: Judged, half: Half, policy: Policy, rule: Rule | None) -> Candidate | None:
    """A rule that allows, before the one that denies (at the end where none does)."""
    found = _other_policy(s, policy)
    if found is None:
        return None
    key, written = found
    flow, ingress = judged.flow, half.direction == INGRESS
    protocol = protocol_name(flow.protocol).upper()
    other = _other(flow, half)
    where = f"before {half.direction.lower()} rule {rule.number}" if rule is not None else "at the end"
    rules = _rules_of(written, half.direction)
    at = rule.number - 1 if rule is not None else len(rules)
    made: CalicoRule | ClusterRule
    if isinstance(written, CalicoPolicy):
        ports: tuple[PortRange | str, ...] = (PortRange(flow.port, flow.port),) if protocol in _POLICED else ()
        peer = _entity(s, written.namespace, other)
        source = peer if ingress else EntityRule()
        destination = replace(EntityRule() if ingress else peer, ports=ports)
        made = CalicoRule("Allow", protocol=flow.protocol, source=source, destination=destination)
    else:
        cluster_ports = (ClusterPort(protocol, PortRange(flow.port, flow.port)),) if protocol in _POLICED else None
        if other.is_pod:
            pod = s.index.pods[other.pod]
            chosen = NamespacedPods(LabelSelector({NAME_LABEL: pod.namespace}), LabelSelector(identity(s.cluster, pod)))
            cluster_peer = ClusterPeer(pods=chosen)
        elif ingress:
            return None  # nobody from outside matches an ingress rule of a ClusterNetworkPolicy
        else:
            cluster_peer = ClusterPeer(networks=(host_prefix(other.ip),))
        made = ClusterRule("Accept", peers=(cluster_peer,), ports=cluster_ports)
    after = _with_rules(written, half.direction, (*rules[:at], made, *rules[at:]))
    who = _who_words(s, other)
    what = f"add a rule to {policy.title}, {where}: allow {'from' if ingress else 'to'} {who}"
    return _put_other(key, written, after, f"{what} on {flow.port}" if flow.port else what)


def _who_words(s: Situation, end: End) -> str:
    if not end.is_pod:
        return str(end.ip)
    pod = s.index.pods[end.pod]
    return f"pods {selector_words(LabelSelector(identity(s.cluster, pod)))} of namespace {pod.namespace}"


def _entity(s: Situation, namespace: str, end: End) -> EntityRule:
    if not end.is_pod:
        return EntityRule(nets=(host_prefix(end.ip),))
    pod = s.index.pods[end.pod]
    text = " && ".join(f"{key} == '{value}'" for key, value in identity(s.cluster, pod).items()) or "all()"
    if pod.namespace == namespace:
        return EntityRule(selector=parse(text))
    return EntityRule(selector=parse(text), namespace_selector=parse(f"projectcalico.org/name == '{pod.namespace}'"))


def _rule_less(s: Situation, half: Half, policy: Policy, rule: Rule) -> Candidate | None:
    """The rule that decides, taken away."""
    which = half.direction.lower()
    what = f"delete {which} rule {rule.number} of {policy.title}"
    if policy.of_kubernetes and policy.key in s.cluster.policies:
        written = s.cluster.policies[policy.key]
        return put(s.cluster, _without_rule(written, half.direction, rule.number), what, rule.ref)
    found = _other_policy(s, policy)
    if found is None:
        return None
    key, other = found
    return _put_other(key, other, _without_rule(other, half.direction, rule.number), what)


# --- services ------------------------------------------------------------------------------------------------


def _serve(s: Situation, service: Service) -> Iterator[Candidate]:
    """What would give a service an endpoint that answers here."""
    if s.port is None:
        return
    if service.selector:
        pods = [p for p in selected(s.cluster, service) if p.ips]
        yield from _ready(s, service, pods)
        yield from _target(s, service, pods)
        if not ready(s.cluster, service, s.port):
            yield from _select(s, service)
            if not selected(s.cluster, service):
                yield from _run(s, service)
            if pods:
                yield Candidate(
                    Kind.SERVICE,
                    f"let the endpoint-slice controller make the EndpointSlices of Service {service.key} again",
                    (Refresh(service.key),),
                    (Touched("change", f"EndpointSlices of Service {service.key}", service.ref),),
                    lines=1,
                    note="those of the input do not follow from the pods: is kube-controller-manager running?",
                )
    if s.trace.source.kind == "external" and service.type == "ClusterIP" and service.cluster_ips:
        yield _node_port(s, service)
    for field, value in (
        ("external_traffic_policy", service.external_traffic_policy),
        ("internal_traffic_policy", service.internal_traffic_policy),
    ):
        if value == "Local":
            word = "externalTrafficPolicy" if field.startswith("external") else "internalTrafficPolicy"
            yield _put_service(
                s, replace(service, **{field: "Cluster"}), f"set {word} of Service {service.key} to Cluster", {word: "Cluster"}
            )
    client = s.trace.source.ip
    if service.load_balancer_source_ranges and client:
        nets = (*service.load_balancer_source_ranges, host_prefix(ip(client)))
        what = f"add {nets[-1]} to loadBalancerSourceRanges of Service {service.key}"
        body = {"loadBalancerSourceRanges": [str(net) for net in nets]}
        yield _put_service(s, replace(service, load_balancer_source_ranges=nets), what, body)


def _node_port(s: Situation, service: Service) -> Candidate:
    """A service that the outside reaches on every node."""
    used = {p.node_port for other in s.cluster.services.values() for p in other.ports}
    free = (n for n in NODE_PORTS if n not in used)
    ports = tuple(replace(p, node_port=next(free)) for p in service.ports)
    return _put_service(
        s, replace(service, type="NodePort", ports=ports), f"make Service {service.key} a NodePort", {"type": "NodePort"}
    )


def _put_service(s: Situation, service: Service, what: str, body: Mapping[str, object]) -> Candidate:
    before = s.cluster.services[service.key]
    patch, lines = manifest.difference(manifest.service(before), manifest.service(service))
    command = f"kubectl -n {service.namespace} patch service {service.name} -p '{msgspec.json.encode({'spec': body}).decode()}'"
    return Candidate(
        Kind.SERVICE,
        what,
        (PutService(service),),
        (Touched("change", f"Service {service.key}", before.ref),),
        patch,
        command,
        lines,
    )


def _ready(s: Situation, service: Service, pods: Sequence[Pod]) -> Iterator[Candidate]:
    waiting = [p for p in pods if not p.ready and not p.terminating and p.phase == "Running"]
    for pod in waiting[:1]:
        yield Candidate(
            Kind.READINESS,
            f"get pod {pod.key} ready",
            (MakeReady((pod.key,)),),
            (Touched("change", f"Pod {pod.key}", pod.ref),),
            command=f"kubectl -n {pod.namespace} describe pod {pod.name}",
            lines=1,
            note="see what its readiness probe says",
        )
    if waiting:
        what = f"publish addresses of Service {service.key} that are not ready"
        yield _put_service(s, replace(service, publish_not_ready_addresses=True), what, {"publishNotReadyAddresses": True})


def _target(s: Situation, service: Service, pods: Sequence[Pod]) -> Iterator[Candidate]:
    """Another targetPort: one that the pods declare; or the name that the service asks for, put on a declared port."""
    port = s.port
    assert port is not None
    declared = list(dict.fromkeys(c for pod in pods for c in pod.ports if c.protocol == port.protocol))
    if isinstance(port.target_port, str) and any(c.name == port.target_port for c in declared):
        return
    if isinstance(port.target_port, int) and any(c.container_port == port.target_port for c in declared):
        return
    if not declared:
        ports = tuple(replace(p, target_port=port.port) if p == port else p for p in service.ports)
        what = f"set targetPort of port {port.port} of Service {service.key} to {port.port}"
        yield _put_service(s, replace(service, ports=ports), what, {"ports": [{"port": port.port, "targetPort": port.port}]})
    for c in declared[:4]:
        target = c.name or c.container_port
        ports = tuple(replace(p, target_port=target) if p == port else p for p in service.ports)
        what = f"set targetPort of port {port.port} of Service {service.key} to {target}"
        yield _put_service(s, replace(service, ports=ports), what, {"ports": [{"port": port.port, "targetPort": target}]})
        if isinstance(port.target_port, str) and pods:
            kind, name, members, ref = group(s.cluster, pods[0])
            before = _container(kind, name, pods[0].namespace, c.container_port, c.name)
            after = _container(kind, name, pods[0].namespace, c.container_port, port.target_port)
            patch, lines = manifest.difference(before, after)
            title = f"{kind} {pods[0].namespace}/{name}"
            yield Candidate(
                Kind.PORT,
                f'call container port {c.container_port} of {title} "{port.target_port}"',
                (NamePort(members, c, port.target_port),),
                (Touched("change", title, ref),),
                patch,
                lines=lines + 1,  # behind a Service's own field: other rules may use the name
                note="its pods are replaced",
            )


def _container(kind: str, name: str, namespace: str, number: int, called: str) -> dict[str, object]:
    port: dict[str, object] = {"name": called} if called else {}
    spec = {"containers": [{"ports": [{**port, "containerPort": number}]}]}
    body = spec if kind == "Pod" else {"template": {"spec": spec}}
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": body}


def _select(s: Situation, service: Service) -> Iterator[Candidate]:
    """A selector that means pods that there are, those with the likest labels first; or these labels put on the pods."""
    near: dict[str, Pod] = {}
    pods = [p for p in s.cluster.pods.values() if p.namespace == service.namespace and p.ips and p.labels]
    for pod in sorted(pods, key=lambda p: (-likeness(service, p), p.key)):
        if likeness(service, pod) or service.name == pod.owner.partition(" ")[2] or service.name == pod.name:
            near.setdefault(workload_name(pod), pod)
    for pod in list(near.values())[:_FEW]:
        if labels_match(service.selector, pod.labels):
            continue
        kept = {k: pod.labels[k] for k in service.selector if k in pod.labels} or identity(s.cluster, pod)
        body: dict[str, object] = {"selector": {**dict.fromkeys(service.selector), **kept}}
        words = ",".join(f"{k}={v}" for k, v in kept.items())
        yield _put_service(s, replace(service, selector=kept), f"set the selector of Service {service.key} to {words}", body)
        changes: dict[str, str | None] = {k: v for k, v in service.selector.items() if pod.labels.get(k) != v}
        if (found := relabel(s.cluster, pod, changes)) is not None:
            yield found


def _run(s: Situation, service: Service) -> Iterator[Candidate]:
    """A pod that the selector means: of a workload that has none, else any."""
    port = s.port
    assert port is not None
    for controller in s.cluster.controllers.values():
        fits = controller.namespace == service.namespace and labels_match(service.selector, controller.pod_labels)
        if (
            not fits
            or controller.replicas
            or controller.host_network
            or controller.kind not in ("Deployment", "StatefulSet", "ReplicaSet")
        ):
            continue
        pod = Pod(
            name=f"{controller.name}-0",
            namespace=controller.namespace,
            labels=controller.pod_labels,
            ports=controller.pod_ports,
            owner=f"{controller.kind} {controller.name}",
            ref=controller.ref,
        )
        if pod.key in s.cluster.pods:
            continue
        title = f"{controller.kind} {controller.key}"
        yield Candidate(
            Kind.REPLICAS,
            f"scale {title} to 1",
            (AddPod(pod),),
            (Touched("change", title, controller.ref),),
            command=f"kubectl -n {controller.namespace} scale {controller.kind.lower()} {controller.name} --replicas=1",
            lines=1,
        )
        return
    number = port.target_port if isinstance(port.target_port, int) else port.port
    named = port.target_port if isinstance(port.target_port, str) else ""
    container = ContainerPort(number, port.protocol, named)
    pod = Pod(name=f"{service.name}-0", namespace=service.namespace, labels=dict(service.selector), ports=(container,))
    if pod.key in s.cluster.pods:
        return
    shown = {"name": named} if named else {}
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "labels": dict(service.selector)},
        "spec": {"containers": [{"name": service.name, "image": "...", "ports": [{**shown, "containerPort": number}]}]},
    }
    patch, lines = manifest.difference(None, body)
    words = selector_words(LabelSelector(service.selector))
    what = f"run a pod labelled {words} in namespace {service.namespace} that listens on {number}"
    yield Candidate(Kind.REPLICAS, what, (AddPod(pod),), (Touched("create", f"Pod {pod.key}"),), patch, "", lines)


# --- other questions -----------------------------------------------------------------------------------------


def _ask(s: Situation) -> Iterator[Candidate]:
    """The same client and the same server, asked as it wants to be asked."""
    party, request = s.trace.destination, s.request
    base = party.text
    number = party.port
    host = base[: -len(f":{number}")] if number is not None and base.endswith(f":{number}") else base
    head, colon, tail = base.rpartition(":")
    if colon and not (base.count(":") > 1 and "[" not in base) and "]" not in tail:
        host = head
    pod = s.cluster.pods.get(party.name) if party.kind in ("pod", "hostNetwork pod") else None
    if pod is not None:
        for protocol, open_port in listens(s.cluster, pod)[:6]:
            if (open_port, protocol) != (number, s.trace.protocol):
                says = "declares" if any(c.container_port == open_port for c in pod.ports) else "is asked by a service on"
                yield _question(request, f"{host}:{open_port}", protocol, f"pod {pod.key} {says} {open_port}")
        yield from _ask_service(s, pod)
    if s.service is not None and s.port is None and not s.trace.protocol.startswith("ICMP"):
        for port in s.service.ports[:6]:
            yield _question(request, f"{host}:{port.port}", port.protocol, f"Service {s.service.key} has port {port.port}")
    if s.service is not None and s.port is not None and s.trace.source.kind == "external" and party.kind == "ClusterIP":
        space = "" if s.service.namespace == request.namespace else f"{s.service.namespace}/"
        to = f"{space}svc/{s.service.name}:{s.port.port}"
        asked = _question(request, to, s.port.protocol, f"from outside a name means the NodePort of Service {s.service.key}")
        yield asked
        if s.service.type == "ClusterIP":
            exposed = _node_port(s, s.service)
            yield joined([exposed, asked], Kind.TWO, f"{exposed.what}, and {asked.what}")
    if party.kind == "node" and s.service is None and number is not None:
        every = [(service, port) for service in s.cluster.services.values() for port in service.ports if port.node_port]
        # the port of a service was meant, or a NodePort mistyped
        every.sort(key=lambda found: (found[1].port != number, abs((found[1].node_port or 0) - number)))
        for service, port in every[:_FEW]:
            why = f"NodePort {port.node_port} is Service {service.key}'s port {port.port}"
            yield _question(request, f"{host}:{port.node_port}", port.protocol, why)
    if s.service is not None and s.port is not None:
        homes = [e.node_name for part in s.cluster.slices.get(s.service.key, ()) for e in part.endpoints if e.ready]
        for home in list(dict.fromkeys(h for h in homes if h))[:1]:
            why = f"{home} has an endpoint of Service {s.service.key}"
            if party.kind == "node" and party.name != home:
                yield _question(request, f"node/{home}:{number}", s.trace.protocol, why)
            elif party.kind in ("service address", "load balancer") and request.at != home and home in s.cluster.nodes:
                touched = (Touched("ask", f"at node {home}"),)
                edit = Ask(replace(request, at=home))
                yield Candidate(Kind.QUESTION, f"come in at {home} instead: {why}", (edit,), touched)
    if request.size is not None:
        edit = Ask(replace(request, size=None))
        yield Candidate(Kind.QUESTION, "send a packet of usual size", (edit,), (Touched("ask", "without --size"),))


def _ask_service(s: Situation, pod: Pod) -> Iterator[Candidate]:
    """A service in front of a pod: on whose port the pod was asked, or by which the outside gets in."""
    party, request = s.trace.destination, s.request
    outside = s.trace.source.kind == "external"
    for service in s.cluster.services.values():
        if not service.selector or service.namespace != pod.namespace or not labels_match(service.selector, pod.labels):
            continue
        space = "" if service.namespace == request.namespace else f"{service.namespace}/"
        for port in service.ports:
            to = f"{space}svc/{service.name}:{port.port}"
            if (port.port, port.protocol) == (party.port, s.trace.protocol):
                yield _question(request, to, port.protocol, f"Service {service.key} has port {port.port}")
            elif outside and target_port(port, pod) == party.port and port.protocol == s.trace.protocol:
                asked = _question(request, to, port.protocol, f"Service {service.key} leads to pod {pod.key}")
                yield asked
                if service.type == "ClusterIP" and service.cluster_ips:
                    exposed = _node_port(s, service)
                    yield joined([exposed, asked], Kind.TWO, f"{exposed.what}, and {asked.what}")


def _question(request: Request, to: str, protocol: str, why: str) -> Candidate:
    asked = replace(request, destination=to, protocol=protocol.lower())
    return Candidate(Kind.QUESTION, f"ask {to} instead: {why}", (Ask(asked),), (Touched("ask", to),))


def _nodes(s: Situation) -> Iterator[Candidate]:
    """What is set on nodes, or for all of them."""
    calico = s.cluster.calico
    if calico.pools and calico.backend == "bird" and not calico.mesh:
        what = "let all nodes peer with each other: set nodeToNodeMeshEnabled of BGPConfiguration default to true"
        yield Candidate(Kind.NODE, what, (SetMesh(),), (Touched("change", "BGPConfiguration default"),), lines=1)
    for name, value in s.cluster.sysctls.items():
        title = f"sysctl net.{name} of every node"
        what = f"take net.{name}={value} from the nodes"
        yield Candidate(Kind.NODE, what, (SetSysctl(name),), (Touched("change", title),), lines=1)


# --- to close ------------------------------------------------------------------------------------------------


def _block(s: Situation) -> Iterator[Candidate]:
    """What would stop a connection that works."""
    cni = s.cluster.cni.name
    if not s.enforced:
        if cni != "flannel":
            return
        engine = Candidate(
            Kind.ENGINE,
            "run Calico's policy engine on flannel's network (Canal)",
            (SetCni("canal"),),
            (Touched("change", "the CNI plug-in"),),
            lines=1,
            note="every policy is enforced then, not only those of this question",
        )
        yield engine
        if any(half.says is Says.DENIED for judged in s.judged for half in judged.halves):
            return
        for direction in (INGRESS, EGRESS):
            halves = [h for j in s.judged for h in j.halves if h.direction == direction and h.end.is_pod]
            if len({_who(s, h.end) for h in halves}) == 1:
                for policy in _isolate(s, direction, halves[0]):
                    yield joined([engine, policy], Kind.TWO, f"{engine.what}, and {policy.what}")
        return
    for direction in (INGRESS, EGRESS):
        halves = [h for j in s.judged for h in j.halves if h.direction == direction and h.end.is_pod]
        if not halves:
            continue
        yield from _allow_less(s, direction)
        own = {_who(s, h.end): h for h in halves}
        if len(own) == 1:
            yield from _isolate(s, direction, halves[0])


def _allow_less(s: Situation, direction: str) -> Iterator[Candidate]:
    """All that allows it taken away: of each rule the peers that match, or the rule; or the labels by which it matches."""
    ask = Questions(s.index.dialect, {})
    gone: dict[str, dict[int, set[int]]] = {}  # policy -> number of a rule -> its peers that match
    labels: dict[tuple[str, str], Pod] = {}
    for judged in s.judged:
        half = judged.halves[0 if direction == EGRESS else 1]
        for policy in half.selected:
            if not policy.of_kubernetes or policy.key not in s.cluster.policies:
                continue
            for made in policy.rules[direction]:
                if not matches(s.index, judged.flow, direction, policy, made, ask):
                    continue
                peers = gone.setdefault(policy.key, {}).setdefault(made.number, set())
                for n, peer in enumerate(made.peers or ()):
                    if peers_match(s.index, judged.flow, direction, replace(made, peers=(peer,)), ask):
                        peers.add(n)
                other = _other(judged.flow, half)
                if other.is_pod:
                    for key in (k for p in made.peers or () for k in p.keys):
                        labels[workload_name(s.index.pods[other.pod]), key] = s.index.pods[other.pod]
    parts = [_rules_less(s.cluster, s.cluster.policies[key], direction, numbers) for key, numbers in gone.items()]
    if parts:
        yield joined(parts, Kind.RULE, " and ".join(part.what for part in parts))
    yield from _all_but(s, direction, gone)
    for (_, key), pod in labels.items():
        if (found := relabel(s.cluster, pod, {key: None})) is not None:
            yield found


def _all_but(s: Situation, direction: str, gone: Mapping[str, Mapping[int, set[int]]]) -> Iterator[Candidate]:
    """The one rule that allows everybody, made to allow everybody but this one."""
    others = {_who(s, end): end for j in s.judged for end in [_other(j.flow, j.halves[0 if direction == EGRESS else 1])]}
    if len(gone) != 1 or len(others) != 1:
        return
    [(key, numbers)], [end] = gone.items(), others.values()
    policy = s.cluster.policies[key]
    rules = _rules_of(policy, direction)
    if len(numbers) != 1 or rules[next(iter(numbers)) - 1].peers:
        return
    [number] = numbers
    peers = tuple(_everybody_but(s, policy.namespace, end))
    if peers:
        rule = rules[number - 1]
        what = f"let {direction.lower()} rule {number} of NetworkPolicy {key} mean everybody but {_who_words(s, end)}"
        yield put(s.cluster, _with_rule(policy, direction, number, replace(rule, peers=peers)), what, rule.ref)


def _rules_less(cluster: Cluster, policy: NetworkPolicy, direction: str, gone: Mapping[int, set[int]]) -> Candidate:
    """A policy without some peers of its rules; a rule that has no peer left, or never had one, goes."""
    words, kept = [], []
    for number, rule in enumerate(_rules_of(policy, direction), 1):
        if number not in gone:
            kept.append(rule)
            continue
        rest = tuple(peer for n, peer in enumerate(rule.peers) if n not in gone[number])
        which = f"{direction.lower()} rule {number} of NetworkPolicy {policy.key}"
        if rest:
            less = " and ".join(peer_words(peer) for n, peer in enumerate(rule.peers) if n in gone[number])
            words.append(f"take {less} from `{'from' if direction == INGRESS else 'to'}` of {which}")
            kept.append(replace(rule, peers=rest))
        else:
            words.append(f"delete {which}")
    first = _rules_of(policy, direction)[min(gone) - 1]
    return put(cluster, _with_rules(policy, direction, tuple(kept)), " and ".join(words), first.ref)


def _isolate(s: Situation, direction: str, half: Half) -> Iterator[Candidate]:
    """A NetworkPolicy that isolates an end: from everybody, and from everybody but the others."""
    pod = s.index.pods[half.end.pod]
    chosen = LabelSelector(identity(s.cluster, pod))
    word = "ingress to" if direction == INGRESS else "egress of"
    base = NetworkPolicy(
        name=_free(s.cluster, pod.namespace, f"deny-{direction.lower()}-{_short(s, half.end)}"),
        namespace=pod.namespace,
        pod_selector=chosen,
        policy_types=(direction,),
    )
    if half.because is Because.UNSELECTED:
        yield put(s.cluster, base, f"add a NetworkPolicy that denies all {word} {_own(s, half.end)}")
    others = {_who(s, _other(j.flow, half)): _other(j.flow, half) for j in s.judged}
    if len(others) == 1 and half.because is Because.UNSELECTED:
        peers = tuple(_everybody_but(s, pod.namespace, next(iter(others.values()))))
        if peers:
            policy = replace(base, name=_free(s.cluster, pod.namespace, f"all-but-{_short(s, next(iter(others.values())))}"))
            policy = _with_rules(policy, direction, (PolicyRule(peers=peers),))
            but = _who_words(s, next(iter(others.values())))
            yield put(s.cluster, policy, f"add a NetworkPolicy that leaves {word} {_own(s, half.end)} open to all but {but}")


def _everybody_but(s: Situation, namespace: str, end: End) -> Iterable[PolicyPeer]:
    """Peers that mean everybody but the pods of one workload: all other namespaces, the rest of its own, and what is outside."""
    if not end.is_pod:
        anywhere = _ANYWHERE[end.ip.family]
        return [PolicyPeer(ip_block=IPBlock(anywhere, (host_prefix(end.ip),)))]
    pod = s.index.pods[end.pod]
    labels = identity(s.cluster, pod)
    if len(labels) != 1:
        return []
    [(key, value)] = labels.items()
    rest = LabelSelector({}, ((key, "NotIn", (value,)),))
    elsewhere = LabelSelector({}, ((NAME_LABEL, "NotIn", (pod.namespace,)),))
    mine = None if pod.namespace == namespace else LabelSelector({NAME_LABEL: pod.namespace})
    peers = [PolicyPeer(pod_selector=rest, namespace_selector=mine), PolicyPeer(namespace_selector=elsewhere)]
    for family in sorted({a.family for a in pod.ips}):
        inside = tuple(net for net in _pod_networks(s.cluster) if net.family == family and net.length > 0)
        peers.append(PolicyPeer(ip_block=IPBlock(_ANYWHERE[family], inside)))
    return peers


def _pod_networks(cluster: Cluster) -> tuple[Prefix, ...]:
    every = [
        *cluster.pod_cidrs,
        *(c for n in cluster.nodes.values() for c in n.pod_cidrs),
        *(p.cidr for p in cluster.calico.pools),
    ]
    found: list[Prefix] = []
    for net in sorted(dict.fromkeys(every), key=lambda n: n.length):
        if not any(net.address in wide for wide in found):
            found.append(net)
    return tuple(found)


def merged(cluster: Cluster, one: Candidate, other: Candidate) -> Candidate | None:
    """Two changes as one; two of the same NetworkPolicy only where they change different fields of it."""
    what = f"{one.what}, and {other.what}"
    shared = {t.object for t in one.touched} & {t.object for t in other.touched}
    if not shared:
        return joined([one, other], Kind.TWO, what)
    if len(one.edits) != 1 or len(other.edits) != 1:
        return None
    first, second = one.edits[0], other.edits[0]
    if not isinstance(first, PutPolicy) or not isinstance(second, PutPolicy) or first.policy.key not in cluster.policies:
        return None
    before, changes = cluster.policies[first.policy.key], {}
    for field in ("ingress", "egress", "policy_types", "pod_selector"):
        values = [getattr(edit.policy, field) for edit in (first, second)]
        old = getattr(before, field)
        if old not in values and values[0] != values[1]:
            return None
        changes[field] = values[0] if values[0] != old else values[1]
    return replace(put(cluster, replace(before, **changes), what), kind=Kind.TWO)


def joined(parts: Sequence[Candidate], kind: Kind, what: str) -> Candidate:
    """Several changes as one."""
    if len(parts) == 1:
        return replace(parts[0], kind=kind, what=what)
    return Candidate(
        kind,
        what,
        tuple(edit for part in parts for edit in part.edits),
        tuple(t for part in parts for t in part.touched),
        "\n".join(f"# {part.touched[0].action} {part.touched[0].object}\n{part.patch}" for part in parts if part.patch),
        "\n".join(part.command for part in parts if part.command),
        sum(part.lines for part in parts),
        "; ".join(dict.fromkeys(part.note for part in parts if part.note)),
    )
