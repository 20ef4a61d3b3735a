"""Policy steps of a trace: at each pod where the request starts or ends, what network policy says, even if nothing.

    hop of the source pod:  sent, POLICY (egress) ...        hop of the destination pod:  in, POLICY (ingress), route, delivered

Law: what is said is dataplane/policy's; a policy step changes no verdict, but where the engine's own rules are missing or
cannot tell: then what it would stop is unknown. Where the cluster has no engine, the step says so, and what one would do. Read
off the finished walk: who sent, what was translated, what arrived.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from netlab.dataplane.policy import words
from netlab.dataplane.policy.dialect import CALICO, DIALECTS, Dialect
from netlab.dataplane.policy.index import EGRESS, End, PolicyIndex
from netlab.dataplane.policy.semantics import Because, Decision, Flow, Half, Says, as_sent, decide, depends
from netlab.kube.cluster import Cluster
from netlab.kube.objects import Pod
from netlab.linux.addr import Ip, ip
from netlab.linux.packet import ECHO_REQUEST, ICMPV6, PROTOCOL_NUMBERS, V6_ECHO_REQUEST
from netlab.trace.steps import (
    AnyStep,
    Branch,
    Decapsulated,
    Delivered,
    Encapsulated,
    HookStep,
    Hop,
    Natted,
    PolicyStep,
    Received,
    Sent,
    Trace,
    UnknownStep,
    Verdict,
)

# The policy engine that comes with a CNI plug-in; those that are not here enforce nothing.
ENGINES: dict[str, str] = {
    "calico": "calico",
    "canal": "calico",
    "cilium": "cilium",
    "kube-router": "kube-router",
    "antrea": "antrea",
    "weave": "kubernetes",
    "kindnet": "kube-network-policies",
    "aws-vpc-cni": "kubernetes",
}
# Those whose rules are compiled with the policies in them (dataplane/cni/felix_policy.py).
RENDERED = ("calico", "canal")


def dialect_of(cni: str) -> Dialect:
    """The dialect of a CNI plug-in's engine; Calico's where there is none, since that is what one would add."""
    return DIALECTS[ENGINES[cni]] if cni in ENGINES else CALICO


def enforces(cluster: Cluster, family: int) -> bool:
    """Whether the cluster has an engine for an address family.

    Felix leaves ip6tables alone where FELIX_IPV6SUPPORT is false: in Canal's manifest, and in Calico without a pool of IPv6.
    """
    name = cluster.cni.name
    if name == "calico":
        return any(pool.cidr.family == family for pool in cluster.calico.pools)
    return name in ENGINES and (name != "canal" or family == 4)


class Asked(msgspec.Struct, frozen=True):
    """A trace's question, as far as policies care: `service` names the service that was asked for, where there are several
    endpoints; `protocol` is the IP protocol's number."""

    protocol: int
    source: Pod | None = None
    service: str = ""


def with_policies(branches: Sequence[Branch], index: PolicyIndex, cni: str, asked: Asked) -> tuple[Branch, ...]:
    """The branches with a policy step in each pod where the request starts or arrives."""
    return tuple(_with_steps(branch, index, cni, asked) for branch in branches)


def judged(trace: Trace, branch: Branch, index: PolicyIndex) -> tuple[Flow, Decision] | None:
    """The connection of a branch, wherever it ended, and what the policies say to it; None where nothing was sent."""
    source = index.cluster.pods.get(trace.source.name) if trace.source.kind in ("pod", "hostNetwork pod") else None
    flow = connection(branch, index, Asked(PROTOCOL_NUMBERS[trace.protocol.lower()], source))
    return None if flow is None else (flow, decide(index, flow))


def _with_steps(branch: Branch, index: PolicyIndex, cni: str, asked: Asked) -> Branch:
    flow = connection(branch, index, asked)
    if flow is None:
        return branch
    decision = decide(index, flow)
    hops = list(branch.hops)
    if flow.source.pod >= 0 and (step := _step(index, flow, decision.egress, decision, cni, asked.service)) is not None:
        at = next(n for n, s in enumerate(hops[0].steps) if isinstance(s, Sent)) + 1
        hops[0] = _inserted(hops[0], at, step)
    if _is_end(branch, index, flow) and (step := _step(index, flow, decision.ingress, decision, cni)) is not None:
        steps = hops[-1].steps
        came = [n + 1 for n, s in enumerate(steps) if isinstance(s, Received)]
        ends = [n for n, s in enumerate(steps) if isinstance(s, Delivered)]
        hops[-1] = _inserted(hops[-1], [*came, *ends, len(steps)][0], step)
    branch = replace(branch, hops=tuple(hops))
    return _unenforced(branch, decision, cni) if enforces(index.cluster, flow.source.ip.family) else branch


def _unenforced(branch: Branch, decision: Decision, cni: str) -> Branch:
    """What an engine would stop and the compiled rules do not: unknown.

    Rules that are rendered from the policies decide, but for what no rule can ask. Rules that were observed on a node are the
    engine's own, and are believed.
    """
    if decision.says is Says.ALLOWED or branch.verdict is not Verdict.DELIVERED:
        return branch
    if cni in RENDERED and not decision.open:
        return branch
    if any(isinstance(step, HookStep) and step.origin == "observed" for hop in branch.hops for step in hop.steps):
        return branch
    if cni in RENDERED:
        asked = " and ".join(question.value for question in decision.open)
        by = dict.fromkeys(half.policy.title for half in (decision.egress, decision.ingress) if half.policy is not None)
        reason = f"it depends on {asked}, which no rule of {cni}'s can tell: {', '.join(by) or 'policies'} would ask it"
    else:
        said = "would deny it" if decision.says is Says.DENIED else "leave it open"
        reason = f"policies {said}, and the rules that {cni} makes of them are not modelled"
    last = branch.hops[-1]
    hops = (*branch.hops[:-1], replace(last, steps=(*last.steps, UnknownStep(reason))))
    return replace(branch, verdict=Verdict.UNKNOWN, reason=reason, hops=hops)


def _is_end(branch: Branch, index: PolicyIndex, flow: Flow) -> bool:
    """Whether the request got to its destination pod (or to the host endpoint of a node)."""
    last = branch.hops[-1]
    if flow.destination.is_pod:
        return last.where == index.pods[flow.destination.pod].key
    return last.where == flow.destination.node and any(isinstance(s, Delivered) for s in last.steps)


def _inserted(hop: Hop, at: int, step: PolicyStep) -> Hop:
    steps: tuple[AnyStep, ...] = (*hop.steps[:at], step, *hop.steps[at:])
    return replace(hop, steps=steps)


def connection(branch: Branch, index: PolicyIndex, asked: Asked) -> Flow | None:
    """The connection as policies see it; None where nothing was sent.

    Rules of policies stand before those that masquerade: on the destination's own node the source is who came to that node.
    """
    sent = next((s for s in branch.hops[0].steps if isinstance(s, Sent)), None) if branch.hops else None
    if sent is None or not sent.packet.destination:
        return None
    address, called = ip(sent.packet.source), ip(sent.packet.destination)
    destination, port = called, sent.packet.dport
    masqueraded: list[tuple[int, Ip]] = []  # the hop where the packet got another source, and that
    seen = address
    translated = -1  # the hop of the first DNAT
    for n, hop in enumerate(branch.hops):
        for step in hop.steps:
            if isinstance(step, Natted) and not step.reverse:
                before, after = (_sockets(text) for text in (step.before, step.after))
                if step.kind == "dnat" and before[1][0] == destination:
                    destination, port = after[1]
                    translated = n if translated < 0 else translated
                elif step.kind == "snat" and before[0][0] == seen:
                    seen = after[0][0]
                    masqueraded.append((n, seen))
            elif isinstance(step, Delivered):
                destination, port = ip(step.packet.destination), step.packet.dport
    chosen = address if address.value else None  # without a route no source address was chosen
    source = _source(branch, index, asked, address, chosen)
    to = source if destination.is_loopback else _end(index, destination, port, asked.protocol)
    node = index.pods[to.pod].node_name if to.pod >= 0 else to.node
    last = max((n for n, hop in enumerate(branch.hops) if hop.where == node), default=len(branch.hops))
    before_it = [found for n, found in masqueraded if n < last]
    other = index.end(before_it[-1]) if before_it else None
    service = called if destination != called else None
    echo = V6_ECHO_REQUEST if asked.protocol == ICMPV6 else ECHO_REQUEST
    # egress is judged on the source's own node: what another translates later has the address there that was called
    own = index.pods[source.pod].node_name if source.pod >= 0 else source.node
    sent_to = None
    if translated >= 0 and branch.hops[translated].where != own:
        sent_to = _end(index, called, sent.packet.dport, asked.protocol)
    return Flow(
        source,
        to,
        asked.protocol,
        port,
        other,
        service,
        sent.packet.sport,
        echo,
        sent_to=sent_to,
        sent_port=sent.packet.dport,
        tunnel_out=next((s.device for s in _steps_on(branch, own) if isinstance(s, Encapsulated)), ""),
        tunnel_in=next((s.device for s in reversed(_steps_on(branch, node)) if isinstance(s, Decapsulated)), ""),
    )


def _steps_on(branch: Branch, node: str) -> list[AnyStep]:
    return [step for hop in branch.hops if hop.where == node for step in hop.steps]


def _source(branch: Branch, index: PolicyIndex, asked: Asked, address: Ip, chosen: Ip | None) -> End:
    """Who sent it: a node also by addresses that many have (127.0.0.1)."""
    if asked.source is not None:
        return index.pod(asked.source, address.family, chosen)
    first = branch.hops[0]
    return End(address, node=first.where, name=first.where) if first.kind == "node" else index.end(address)


def _end(index: PolicyIndex, address: Ip, port: int, protocol: int) -> End:
    """Who has the address; at a node's, the hostNetwork pod that declares the port."""
    end = index.end(address)
    if not end.node or end.pod >= 0:
        return end
    for number in sorted(index.on_host):
        pod = index.pods[number]
        if pod.node_name == end.node and any(p.container_port == port for p in pod.ports):
            return index.pod(pod, address=address)
    return end


def _sockets(text: str) -> tuple[tuple[Ip, int], tuple[Ip, int]]:
    """`10.0.0.1:1024 > [fd00::1]:80` as addresses and ports; a port that is `*` or not there is 0."""
    source, _, destination = text.partition(" > ")
    return _socket(source), _socket(destination)


def _socket(text: str) -> tuple[Ip, int]:
    text = text.partition(" ")[0]
    if text.startswith("["):
        host, _, port = text[1:].partition("]:")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    return ip(host), int(port) if port.isdigit() else 0


def _step(
    index: PolicyIndex, flow: Flow, half: Half, decision: Decision, cni: str, service: str = ""
) -> PolicyStep | None:
    """One direction as a step; None at an end that policies do not concern."""
    family = flow.source.ip.family
    enforced = enforces(index.cluster, family)
    which = half.direction.lower()
    titles = tuple(policy.title for policy in half.selected)
    if half.because is Because.NO_POD:
        return _on_host(index, half)
    text = words.selection(index, half)
    if not half.selected and half.says is Says.ALLOWED:
        return PolicyStep(text, direction=which, says="allowed")
    peer = f"a pod of {service}" if service and half.direction == EGRESS else ""
    judged = as_sent(flow) if half.direction == EGRESS else flow
    said = words.verdict(index, judged, half, decision, peer, would=not enforced)
    turned = words.turns(index.dialect, depends(index, flow, decision)) if decision.asked and not decision.open else ""
    said += f"; {turned}" if turned else ""
    if enforced:
        text += f"; {said}"
    else:
        none = f"none for IPv{family}" if cni in ENGINES else "none"
        text += f", but {cni} enforces {none}; an engine {said}" if cni != "none" else f", but no engine enforces it; one {said}"
    return PolicyStep(
        text,
        ref=half.rule.ref if half.rule is not None else half.selected[0].ref if half.selected else None,
        direction=which,
        says=half.says.value,
        enforced=enforced,
        selected=titles,
        policy=half.policy.title if half.policy is not None else "",
        rule=half.rule.number if half.rule is not None else None,
    )


def _on_host(index: PolicyIndex, half: Half) -> PolicyStep | None:
    """A hostNetwork pod that policies would select if it were none: worth a line, because its owner may think they do."""
    if half.end.pod < 0 or not (selected := index.applied(half.direction, half.end.pod)):
        return None
    name = index.pods[half.end.pod].name
    verb = "does" if len(selected) == 1 else "do"
    text = f"{words.names(selected)} {verb} not apply for {half.direction.lower()}: {name} is a hostNetwork pod"
    return PolicyStep(text, direction=half.direction.lower(), says="allowed")
