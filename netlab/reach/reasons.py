"""Why it works or does not, in one to three sentences: who decides, and what is missing.

    policies (both ends) -> the service and its endpoints -> the port -> the rule or route where the packet ends -> the reply

Law: a sentence is about something that is in the trace or in the input, with its file and line; nothing is decided here. What
policies say is said in dataplane/policy/words.py's own words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import msgspec

from netlab.dataplane.policy import words
from netlab.dataplane.policy.index import End, Policy
from netlab.dataplane.policy.semantics import UDP, Because, Flow, Half, Says, decide
from netlab.errors import did_you_mean
from netlab.kube.cluster import Cluster
from netlab.kube.objects import Endpoint, Pod, Service, ServicePort
from netlab.kube.selectors import labels_match
from netlab.linux.addr import ip
from netlab.linux.packet import TCP, protocol_name
from netlab.reach.change import selected
from netlab.reach.lint_policies import dns_servers
from netlab.reach.situation import Answer, Judged, Situation, ready
from netlab.refs import Ref
from netlab.trace.steps import AnyStep, Branch, Dropped, HookStep, Hop, MtuStep, Natted, PolicyStep, Rejected, RuleStep, Verdict

_SHOWN = 3
_MOST = 3  # sentences of a kind


KINDS = (
    "policy",
    "no-endpoints",
    "no-socket",
    "no-service-port",
    "no-address",
    "local-policy",
    "source-ranges",
    "mtu",
    "reply",
    "rule",
    "route",
    "service",
    "way",
    "share",
    "unknown",
)


class Reason(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One sentence; `kind` is a word of KINDS, `refs` are the places it speaks of, `rule` is what ended it, as tools print it."""

    kind: str
    text: str
    refs: tuple[Ref, ...] = ()
    rule: str = ""


def reasons(s: Situation) -> tuple[Reason, ...]:
    """The sentences, the deciding one first."""
    found: dict[Reason, None] = {}
    if s.answer is Answer.YES:
        found |= dict.fromkeys(_works(s))
    else:
        blocked = [b for b in s.trace.branches if b.verdict is not Verdict.DELIVERED]
        several = len(s.trace.branches) > len(blocked)
        if several and s.answer is Answer.PARTLY:
            found[_share(s.trace.branches)] = None
        stopped = [b for b in blocked if s.denied and by_policy(b)]
        if stopped:
            found |= dict.fromkeys(_with_rule(list(_policies(s)), stopped))
        for branch in blocked:
            if branch in stopped:
                continue
            reason = _branch(s, branch)
            if several and branch.endpoint_name:
                reason = msgspec.structs.replace(reason, text=f"{branch.endpoint_name}: {reason.text}")
            found[reason] = None
        if len(stopped) == len(blocked):
            found |= dict.fromkeys(_besides(s))
        elif s.denied and not stopped:
            found |= dict.fromkeys(msgspec.structs.replace(r, text=f"Besides, {r.text}") for r in _policies(s))
    return tuple(found)[:_MOST]


def _with_rule(said: list[Reason], branches: Sequence[Branch]) -> list[Reason]:
    """The last sentence with the engine's rule that makes it so."""
    rule = next((rule for branch in branches for _, rule in [_rule(_ending(branch.hops)[0])] if rule), "")
    return [*said[:-1], *(msgspec.structs.replace(reason, rule=rule) for reason in said[-1:])]


def _besides(s: Situation) -> Iterator[Reason]:
    """What would stop it, too, were it allowed: nobody has the address, nobody listens there."""
    if nobody := _nobodys(s):
        yield Reason("route", f"Besides, {nobody}.")
    for judged in s.judged:
        end, flow = judged.flow.destination, judged.flow
        if not end.is_pod:
            continue
        pod = s.index.pods[end.pod]
        protocol = protocol_name(flow.protocol).upper()
        expected = s.service is not None and s.port is not None
        if expected or protocol not in ("TCP", "UDP", "SCTP"):
            continue
        sockets = listens(s.cluster, pod)
        if sockets and (protocol, flow.port) not in sockets:
            text = f"Besides, nothing listens on {flow.port}/{protocol} in pod {pod.key}: {_declares(pod)}"
            yield Reason("no-socket", f"{text}{_meant(s, pod, flow.port)}.", (pod.ref,))


def listens(cluster: Cluster, pod: Pod) -> list[tuple[str, int]]:
    """Protocol and port of a pod's sockets: those that it declares, and those that services expect (dataplane/build.py)."""
    expected = (
        (p.protocol, p.port)
        for slices in cluster.slices.values()
        for part in slices
        for endpoint in part.endpoints
        if endpoint.target_pod == pod.key
        for p in part.ports
        if p.port is not None
    )
    return list(dict.fromkeys([*((c.protocol, c.container_port) for c in pod.ports), *expected]))


def _declares(pod: Pod) -> str:
    declared = [
        f"{c.container_port}{'' if c.protocol == 'TCP' else f'/{c.protocol}'}{f' ({c.name})' if c.name else ''}"
        for c in pod.ports
    ]
    return f"its containers declare {listed(declared)}" if declared else "its containers declare no port"


def _meant(s: Situation, pod: Pod, number: int) -> str:
    hint = _service_port_of(s, pod, number)
    return f". {number} is the port of {hint}" if hint else ""


def _share(branches: Sequence[Branch]) -> Reason:
    """`1/2 of the connections arrive, at 10.244.0.65:9000 (pod default/api-1).`"""
    arrived = [b for b in branches if b.verdict is Verdict.DELIVERED]
    where = dict.fromkeys(f"{b.endpoint}{f' ({b.endpoint_name})' if b.endpoint_name else ''}" for b in arrived)
    shown = listed([*where][:_SHOWN] + ([f"{len(where) - _SHOWN} more"] if len(where) > _SHOWN else []))
    share = sum((b.probability for b in arrived), Fraction(0)).limit_denominator(1000)
    return Reason("share", f"{share} of the connections arrive, at {shown}; the others do not.")


# --- policies ------------------------------------------------------------------------------------------------


_WHO = "\0"  # where a sentence names the end that policies are about: ends of which the same is said are named together


def _policies(s: Situation) -> Iterator[Reason]:
    """What denies, for each end."""
    found = [_denial(s, judged, half) for judged, half in _halves(s) if half.says is Says.DENIED]
    for text, refs in _together(found):
        yield Reason("policy", f"{text}.", refs)


_Saying = tuple[str, str, tuple[Ref, ...]]  # a sentence, who fills it, the places that it speaks of


def _together(sayings: Sequence[_Saying]) -> Iterator[tuple[str, tuple[Ref, ...]]]:
    """Sentences that differ in an end alone as one."""
    who: dict[str, dict[str, None]] = {}
    refs: dict[str, tuple[Ref, ...]] = {}
    for text, name, places in sayings:
        who.setdefault(text, {})[name] = None
        refs.setdefault(text, places)
    for text, names in who.items():
        yield text.replace(_WHO, _some(list(names))), refs[text]


def _some(names: Sequence[str], last: str = "and") -> str:
    return listed([*names[:_SHOWN], f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else names, last)


def _denial(s: Situation, judged: Judged, half: Half) -> _Saying:
    said = words.reason(s.index, judged.flow, half, judged.decision, _peer(s, judged))
    which = half.direction.lower()
    if half.because is Because.RULE and half.policy is not None and half.rule is not None:
        title = f"{half.policy.title}, {which} rule {half.rule.number}{_at(half)},"
        text = f"{title} denies {_between(s, judged, half)}"
    elif not half.selected:
        text = f"At {_WHO}, {said}"
    elif said.startswith(("it has no ", "they have no ")):
        text = f"{placed(half.selected)} {_verb(half.selected)} {_WHO} for {which} and {said.partition(' ')[2]}"
    else:
        text = f"{placed(half.selected)} {_verb(half.selected)} {_WHO} for {which}, and {said}"
    return text, _called(s, half), _refs(half)


def _halves(s: Situation) -> Iterator[tuple[Judged, Half]]:
    """Egress before ingress, and each pair of workloads once: its pods differ in nothing that a sentence says."""
    for direction in (0, 1):
        seen: set[object] = set()
        for judged in s.judged:
            half = judged.halves[direction]
            titles = tuple(policy.title for policy in half.selected)
            number = half.rule.number if half.rule is not None else 0
            decider = half.policy.title if half.policy is not None else ""
            other = judged.flow.destination if direction == 0 else judged.flow.seen or judged.flow.source
            key = (titles, half.because, decider, number, _workload(s, half.end), _workload(s, other), judged.flow.port)
            if key not in seen:
                seen.add(key)
                yield judged, half


def _workload(s: Situation, end: End) -> object:
    pod = s.index.pods[end.pod] if end.pod >= 0 else None
    return (pod.owner or pod.name, pod.namespace) if pod is not None else end


def _between(s: Situation, judged: Judged, half: Half) -> str:
    flow = judged.flow
    if half.direction == "Egress":
        whom = _peer(s, judged) or words.called(s.index, flow.destination, half.end)
        return f"{_WHO} the way to {whom}{on(flow)}"
    return f"{words.called(s.index, flow.seen or flow.source, half.end)} the way to {_WHO}{on(flow)}"


def _called(s: Situation, half: Half) -> str:
    return words.called(s.index, half.end, half.end)


def _peer(s: Situation, judged: Judged) -> str:
    """The other end of egress, where a service has several endpoints."""
    several = len({j.flow.destination.ip for j in s.judged}) > 1
    return f"a pod of {s.service.key}" if several and s.service is not None else ""


def on(flow: Flow) -> str:
    """` on 8080`; TCP needs no name."""
    protocol = protocol_name(flow.protocol).upper()
    if flow.port:
        return f" on {flow.port}" if protocol == "TCP" else f" on {protocol} {flow.port}"
    return f" with {protocol}"


def _verb(policies: Sequence[Policy]) -> str:
    return "selects" if len(policies) == 1 else "select"


def placed(policies: Sequence[Policy]) -> str:
    """`NetworkPolicies default/a (a.yaml:3) and default/b (b.yaml:9)`."""
    kinds = {policy.kind for policy in policies}
    texts = []
    for policy in policies[:_SHOWN]:
        where = words.place(policy.ref)
        name = policy.key if len(kinds) == 1 else policy.title
        texts.append(f"{name} ({where})" if where else name)
    if len(policies) > _SHOWN:
        texts.append(f"{len(policies) - _SHOWN} more")
    head = "" if len(kinds) > 1 else f"{policies[0].kind} " if len(policies) == 1 else f"{policies[0].kind[:-1]}ies "
    return head + listed(texts)


def listed(texts: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} {last} {texts[-1]}"


def _at(half: Half) -> str:
    where = words.place(half.rule.ref) if half.rule is not None else ""
    return f" ({where})" if where else ""


def _refs(half: Half) -> tuple[Ref, ...]:
    if half.rule is not None and half.rule.ref.file:
        return (half.rule.ref,)
    return tuple(policy.ref for policy in half.selected)


def by_policy(branch: Branch) -> bool:
    """Whether it is a policy engine's rule, or the lack of it, that ends a branch."""
    if branch.verdict is Verdict.UNKNOWN:
        return True
    hop, _ = _ending(branch.hops)
    chains = [s.chain for s in hop.steps if isinstance(s, RuleStep)] if hop is not None else []
    return bool(chains) and chains[-1].startswith("cali")


# --- it works ------------------------------------------------------------------------------------------------


def _works(s: Situation) -> Iterator[Reason]:
    """Which rules let it pass, and by which way."""
    said: list[_Saying] = []
    free: dict[str, dict[str, None]] = {}
    for judged, half in _halves(s):
        which, who = half.direction.lower(), _called(s, half)
        flow = judged.flow
        if half.because is Because.UNSELECTED:
            free.setdefault(which, {})[who] = None
        elif half.because is Because.RULE and half.rule is not None and half.policy is not None and half.says is Says.ALLOWED:
            lets = "lets" if s.enforced else "would let"
            if which == "egress":
                way = f"{_WHO} out to {_peer(s, judged) or words.called(s.index, flow.destination, half.end)}"
            else:
                way = f"{words.called(s.index, flow.seen or flow.source, half.end)} in to {_WHO}"
            text = f"{which} rule {half.rule.number} of {half.policy.title}{_at(half)} {lets} {way}{on(flow)}"
            said.append((text, who, _refs(half)))
        elif half.says is Says.DENIED and not s.enforced:
            nobody = s.cluster.cni.name == "none"
            because = words.reason(s.index, flow, half, judged.decision, _peer(s, judged))
            text = f"{placed(half.selected)} {_verb(half.selected)} {_WHO} for {which} and would deny it ({because}), "
            text += "but nobody enforces it" if nobody else f"but {s.cluster.cni.name} enforces none"
            said.append((text, who, _refs(half)))
        elif half.because is not Because.NO_POD:
            reason = words.reason(s.index, flow, half, judged.decision)
            said.append((f"{placed(half.selected)} {_verb(half.selected)} {_WHO} for {which}, but {reason}", who, _refs(half)))
    texts = list(_together(said))
    if free:
        parts = [f"{_some(list(names), 'or')} for {which}" for which, names in free.items()]
        texts.append((f"no policy selects {' or '.join(parts)}", ()))
    if texts:
        text = "; ".join(text for text, _ in texts)
        yield Reason("policy", f"{text[:1].upper()}{text[1:]}.", tuple(ref for _, refs in texts for ref in refs))
    if s.service is not None and s.port is not None:
        count = len({(b.endpoint, b.endpoint_name) for b in s.trace.branches})
        where = words.place(s.service.ref)
        to = s.trace.branches[0].endpoint_name if count == 1 else f"one of {count} endpoints"
        at = f" at {s.trace.branches[0].endpoint}" if count == 1 else ""
        text = f"Service {s.service.key}{f' ({where})' if where else ''} sends port {s.port.port} to {to}{at}"
        yield Reason("service", f"{text}, and the reply comes back.", (s.service.ref,))
    else:
        yield Reason("way", f"{_path(s.trace.branches[0])}, and the reply comes back.")


def _path(branch: Branch) -> str:
    """`It arrives at 10.244.1.5:8080 (pod default/api-0) over node-1, node-2`."""
    over = [hop.where for hop in branch.hops if hop.kind == "node"]
    text = f"It arrives at {branch.endpoint}{f' ({branch.endpoint_name})' if branch.endpoint_name else ''}"
    return f"{text} by way of {listed(list(dict.fromkeys(over)))}" if over else text


# --- it does not ---------------------------------------------------------------------------------------------


def _branch(s: Situation, branch: Branch) -> Reason:
    """Why one branch does not arrive, policies apart."""
    if branch.verdict is Verdict.UNKNOWN:
        return Reason("unknown", f"It depends on what netlab does not model: {branch.reason or 'no reason known'}.")
    reply = branch.reply if branch.reply is not None and branch.reply.kind == "reply" and not branch.reply.arrived else None
    if reply is not None:
        hop, step = _ending(reply.hops)
        where = f" on {hop.where}" if hop is not None else ""
        text = f"The request arrives at {branch.endpoint or '?'}, but the reply dies{where}: {reply.reason}"
        return Reason("reply", f"{text}.", *_rule(hop))
    hop, step = _ending(branch.hops)
    if s.service is not None and (reason := _service(s, s.service, branch)) is not None:
        return reason
    if s.service is None and (reason := _named(s, branch, step)) is not None:
        return reason
    if isinstance(step, Rejected) and step.reason.startswith("nothing listens on"):
        return _no_socket(s, hop, step)
    where = f" on {hop.where}" if hop is not None else ""
    steps = hop.steps if hop is not None else ()
    if mtu := next((m for m in reversed(steps) if isinstance(m, MtuStep)), None):
        return Reason("mtu", f"The packet is too long for {mtu.device}{where}: {mtu.length} bytes, and its MTU is {mtu.mtu}.")
    kind = "rule" if any(isinstance(x, HookStep) and x.verdict == "drop" for x in steps) else "route"
    word = "rejected" if branch.verdict is Verdict.REJECTED else "dropped"
    refs, rule = _rule(hop)
    if rule:
        return Reason(kind, f"It is {word}{where} by {rule.partition(':')[0]}.", refs, rule.partition(": ")[2])
    why = (branch.reason or "no reason known").removesuffix(f" (on {hop.where if hop is not None else ''})")
    return Reason(kind, f"It is {word}{where}: {why}.")


def _ending(hops: Sequence[Hop]) -> tuple[Hop | None, AnyStep | None]:
    """The hop and step where a walk ended."""
    for hop in reversed(hops):
        for step in reversed(hop.steps):
            if isinstance(step, Dropped | Rejected):
                return hop, step
    return (hops[-1] if hops else None), None


def _rule(hop: Hop | None) -> tuple[tuple[Ref, ...], str]:
    """The last rule that matched before the end: its place, and itself."""
    for step in reversed(hop.steps if hop is not None else ()):
        if isinstance(step, RuleStep):
            if step.effect.lower().startswith(("drop", "reject")):
                return ((step.ref,) if step.ref is not None else ()), f"{step.table} {step.chain} rule {step.number}: {step.rule}"
            return (), ""
        if not isinstance(step, Dropped | Rejected | HookStep | PolicyStep):
            return (), ""
    return (), ""


def _service(s: Situation, service: Service, branch: Branch) -> Reason | None:
    """A service that cannot answer, or not here; None where the reason is elsewhere."""
    where = words.place(service.ref)
    name = f"Service {service.key}{f' ({where})' if where else ''}"
    if s.port is None:
        if s.trace.protocol.startswith("ICMP"):
            return Reason(
                "no-service-port", f"{name} is an address for its ports alone: nothing answers a ping there.", (service.ref,)
            )
        has = listed([port_words(p) for p in service.ports]) if service.ports else "none"
        text = f"{name} has no port {s.trace.destination.port}/{s.trace.protocol}; it has {has}"
        return Reason("no-service-port", f"{text}.", (service.ref,))
    found = ready(s.cluster, service, s.port)
    outside = s.trace.source.kind == "external" and s.trace.destination.ip in map(str, service.cluster_ips)
    if outside and found:
        text = f"{name} is a {service.type} without an address outside the cluster: {branch.reason}"
        return Reason("no-address", f"{text}.", (service.ref,))
    if not found:
        return Reason(
            "no-endpoints", f"{name} has no ready endpoint for port {s.port.port}: {_nobody(s, service, s.port)}.", (service.ref,)
        )
    if branch.verdict is Verdict.REJECTED and branch.endpoint is None and (reached := _reached(branch)):
        if not any(str(address) == reached[0] for address, _ in found):
            return None
        hop, step = _ending(branch.hops)
        if isinstance(step, Rejected) and step.reason.startswith("nothing listens on"):
            return _no_socket(s, hop, step)
    if "no local endpoints" in (branch.reason or ""):
        external = service.external_traffic_policy == "Local" and s.trace.destination.kind not in ("service", "ClusterIP")
        field = "externalTrafficPolicy" if external else "internalTrafficPolicy"
        hop, _ = _ending(branch.hops)
        node = hop.where if hop is not None else "the node"
        homes = sorted(
            {e.node_name for part in s.cluster.slices.get(service.key, ()) for e in part.endpoints if e.ready and e.node_name}
        )
        there = f"its endpoints are on {listed(homes)}" if homes else "no node has one"
        return Reason("local-policy", f"{name} has {field} Local, and {node} has no endpoint of it: {there}.", (service.ref,))
    ranges = service.load_balancer_source_ranges
    if ranges and s.trace.destination.kind in ("service address", "load balancer"):
        client = s.trace.source.ip
        if client and not any(ip(client) in net for net in ranges):
            text = f"{name} takes clients from {listed([str(net) for net in ranges])} alone, and {client} is none of them"
            return Reason("source-ranges", f"{text}.", (service.ref,))
    return None


def _reached(branch: Branch) -> tuple[str, str] | None:
    """Address and port after the last translation of the destination."""
    for hop in reversed(branch.hops):
        for step in reversed(hop.steps):
            if isinstance(step, Natted) and step.kind == "dnat" and not step.reverse:
                host, _, port = step.after.rpartition(" > ")[2].rpartition(":")
                return host.strip("[]"), port
    return None


def port_words(port: ServicePort) -> str:
    """`80`, `53/UDP (dns)`."""
    return f"{port.port}{'' if port.protocol == 'TCP' else f'/{port.protocol}'}{f' ({port.name})' if port.name else ''}"


def _nobody(s: Situation, service: Service, port: ServicePort) -> str:
    """Why a service port has no ready endpoint."""
    slices = s.cluster.slices.get(service.key, ())
    if not service.selector:
        return "it has no selector, and nobody made an EndpointSlice for it"
    pods = selected(s.cluster, service)
    wants = label_words(service.selector)
    if not pods:
        for controller in s.cluster.controllers.values():
            if controller.namespace != service.namespace or controller.replicas or controller.kind == "CronJob":
                continue
            if labels_match(service.selector, controller.pod_labels):
                where = words.place(controller.ref)
                maker = f"{controller.kind} {controller.key}{f' ({where})' if where else ''}"
                return f"it selects {wants}, and {maker}, which makes such pods, has 0 replicas"
        near = nearest(service, [p for p in s.cluster.pods.values() if p.namespace == service.namespace])
        hint = f" (nearest: {_pod(near)} has {label_words(near.labels, service.selector) or 'none of them'})" if near else ""
        elsewhere = sorted({p.namespace for p in s.cluster.pods.values() if labels_match(service.selector, p.labels)})
        if elsewhere and near is None:
            hint = f" (pods of namespace {elsewhere[0]} have, but a service selects in its own namespace alone)"
        return f"it selects {wants}, and no pod of namespace {service.namespace} has that{hint}"
    who = _pods(pods)
    living = [p for p in pods if p.ips]
    if not living:
        return f"it selects {who}, which {_have(pods)} no address ({', '.join(sorted({p.phase for p in pods}))})"
    if all(p.terminating for p in living):
        return f"it selects {who}, and {'it is' if len(pods) == 1 else 'all of them are'} terminating"
    if not any(p.ready for p in living):
        return f"it selects {who}, and {'it is' if len(pods) == 1 else 'none of them is'} {'not ' if len(pods) == 1 else ''}ready"
    if isinstance(port.target_port, str):
        names = sorted(
            {f"{c.name} ({c.container_port})" for p in living for c in p.ports if c.name and c.protocol == port.protocol}
        )
        if not any(c.name == port.target_port and c.protocol == port.protocol for p in living for c in p.ports):
            close = did_you_mean(port.target_port, sorted({c.name for p in living for c in p.ports if c.name})) or ""
            have = f"they name {listed(names)}" if names else "they name no port"
            return f'its targetPort "{port.target_port}" is the name of no port of {who}; {have}' + (
                f" ({close.rstrip('?')}?)" if close else ""
            )
    if slices or living:
        return f"it selects {who}, but its EndpointSlices do not list {'it' if len(pods) == 1 else 'them'}"
    return "nobody made an EndpointSlice for it"


def label_words(labels: Mapping[str, str], only: Mapping[str, str] | None = None) -> str:
    """`app=web,tier=front`; `only` those whose keys it has.

    >>> label_words({"tier": "front", "app": "web"}, {"app": "x"})
    'app=web'
    """
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()) if only is None or key in only)


def nearest(service: Service, pods: Sequence[Pod]) -> Pod | None:
    """The pod that has most of the labels that a service selects, or labels spelled much like them."""
    best, most = None, 0.0
    for pod in sorted(pods, key=lambda p: p.key):
        score = likeness(service, pod)
        if score > most:
            best, most = pod, score
    return best


def likeness(service: Service, pod: Pod) -> float:
    """How many of a selector's labels a pod has; half a one for each that is spelled alike."""
    score = 0.0
    for key, value in service.selector.items():
        own = pod.labels.get(key)
        if own == value:
            score += 1
        elif own is not None and did_you_mean(own, [value]):
            score += 0.5
    return score


def _pod(pod: Pod) -> str:
    return f"pod {pod.name}"


def _pods(pods: Sequence[Pod]) -> str:
    names = [p.name for p in pods]
    if len(names) == 1:
        return f"pod {names[0]}"
    shown = names[:_SHOWN] + ([f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else [])
    return f"pods {listed(shown)}"


def _have(pods: Sequence[Pod]) -> str:
    return "has" if len(pods) == 1 else "have"


def _no_socket(s: Situation, hop: Hop | None, step: Rejected) -> Reason:
    """The packet is there, and nobody listens."""
    pod = s.cluster.pods.get(hop.where) if hop is not None else None
    what = step.reason
    if pod is None:
        return Reason("no-socket", f"It gets to {hop.where if hop else '?'}, and {what}.")
    text = f"It gets to pod {pod.key}, and {what}: {_declares(pod)}"
    if s.service is not None and s.port is not None:
        text = (
            f"Service {s.service.key} sends port {s.port.port} to targetPort {s.port.target_port}; {text[:1].lower()}{text[1:]}"
        )
    elif s.trace.destination.port:
        text += _meant(s, pod, s.trace.destination.port)
    return Reason("no-socket", f"{text}.", (pod.ref,))


def _service_port_of(s: Situation, pod: Pod, number: int) -> str:
    """`Service default/api, whose targetPort is 8080`: where a pod is asked on the port of a service in front of it."""
    for service in s.cluster.services.values():
        if service.selector and service.namespace == pod.namespace and labels_match(service.selector, pod.labels):
            for port in service.ports:
                if port.port == number and port.target_port != number:
                    return f"Service {service.key}, whose targetPort is {port.target_port}"
    return ""


def _named(s: Situation, branch: Branch, step: AnyStep | None) -> Reason | None:
    """An address of nobody, a port of a node that no service has."""
    party = s.trace.destination
    if party.kind == "node" and isinstance(step, Rejected) and step.reason.startswith("nothing listens on"):
        ports = sorted({p.node_port for service in s.cluster.services.values() for p in service.ports if p.node_port})
        has = f"the NodePorts are {listed([str(p) for p in ports[:8]])}" if ports else "no service has a NodePort"
        has = f"the only NodePort is {ports[0]}" if len(ports) == 1 else has
        return Reason("no-socket", f"It gets to node {party.name}, and {step.reason}; {has}.")
    if nobody := _nobodys(s):
        return Reason("route", f"{nobody}: {branch.reason}.")
    return None


def _nobodys(s: Situation) -> str:
    """`10.244.9.9 is an address of the pod network, but no pod has it`."""
    party = s.trace.destination
    if party.kind != "address" or not party.ip:
        return ""
    for word, nets in (("service", s.cluster.service_cidrs), ("pod", s.cluster.pod_cidrs)):
        if any(ip(party.ip) in net for net in nets):
            return f"{party.ip} is an address of the {word} network, but no {word} has it"
    return ""


# --- besides -------------------------------------------------------------------------------------------------


def notes(s: Situation) -> Iterator[str]:
    """What is worth knowing besides the answer."""
    if s.denied and any(b.verdict is Verdict.UNKNOWN for b in s.trace.branches):
        yield f"This is what the policies say; the rules that {s.cluster.cni.name} makes of them are not modelled."
    if (text := _names_cut_off(s)) is not None:
        yield text
    if s.service is not None and s.port is not None and isinstance(s.port.target_port, int) and s.service.selector:
        pods = selected(s.cluster, s.service)
        declared = [c for pod in pods for c in pod.ports if c.protocol == s.port.protocol]
        if declared and all(c.container_port != s.port.target_port for c in declared):
            numbers = listed([str(n) for n in sorted({c.container_port for c in declared})])
            yield (
                f"targetPort {s.port.target_port} of Service {s.service.key} is declared by none of its pods (they declare "
                f"{numbers}): is anything listening there?"
            )


def _names_cut_off(s: Situation) -> str | None:
    """A client that may not ask the cluster's DNS does not even find the service's address."""
    if s.source is None or s.source.host_network or not s.enforced or s.source.key not in s.index.number:
        return None
    if s.service is None or s.trace.destination.kind not in ("service", "headless service"):
        return None
    servers = dns_servers(s.cluster)
    if not servers or any(pod.key in {e.target_pod for e in _endpoints(s)} for pod, _ in servers):
        return None
    source = s.index.pod(s.source)
    flows = [
        Flow(source, s.index.pod(pod, source.ip.family), protocol, port)
        for pod, ports in servers
        for protocol, port in ports
        if protocol in (UDP, TCP)
    ]
    if flows and all(decide(s.index, flow).says is Says.DENIED for flow in flows):
        return (
            f"{s.source.name} may not ask the cluster's DNS: by its name {s.service.name} is not found, whatever is allowed here "
            "(allow egress to the DNS pods on 53, UDP and TCP)."
        )
    return None


def _endpoints(s: Situation) -> list[Endpoint]:
    assert s.service is not None
    return [e for part in s.cluster.slices.get(s.service.key, ()) for e in part.endpoints]
