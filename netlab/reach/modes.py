"""The same flows under two modes of kube-proxy: is every answer the same, and if not, is that a difference known upstream?

    flows --+--> tracer, mode A --> answer --+--> the same
            +--> tracer, mode B --> answer --+--> a documented difference, by name
                                             +--> not documented: a finding

Law: answers are equal if every branch is: verdict, endpoint, source seen and kind of refusal, with its probability; why a packet
was dropped is not compared. A difference is documented only where documented.py says so of these two modes, this kind of
destination and these two answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import msgspec

from netlab.dataplane.build import entry_addresses
from netlab.kube.cluster import Cluster
from netlab.kube.names import parse_endpoint
from netlab.kube.objects import Service, ServicePort
from netlab.linux.addr import Ip
from netlab.linux.netns import NetnsKind
from netlab.linux.network import Network
from netlab.reach.documented import DOCUMENTED, Documented, Question
from netlab.trace.flows import Flow, predict
from netlab.trace.query import EPHEMERAL_PORT, Tracer
from netlab.trace.steps import Branch, Rejected, Sent, Trace, Verdict


class End(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How some of the packets end: `how` is "delivered", "no answer", the refusal ("ICMP port unreachable") or "unknown"."""

    probability: Fraction
    how: str
    endpoint: str = ""
    source_seen: str = ""


class Answer(msgspec.Struct, frozen=True, rename="camel"):
    """What one mode says: verdict and ends, sorted; `text` in a few words, the same for senders that are treated alike."""

    verdict: Verdict
    ends: tuple[End, ...]
    text: str
    reason: str = ""


class Difference(msgspec.Struct, frozen=True, rename="camel"):
    """A flow that the modes answer differently; `documented` is the key of the known difference, "" where there is none."""

    flow: Flow
    documented: str
    one: Answer
    other: Answer


class Comparison(msgspec.Struct, frozen=True, rename="camel"):
    """Of two modes: how many flows were asked, and those that differ in the order in which they were asked; `undecided` are
    those of which netlab does not know what becomes of them in one of the modes, or in both."""

    modes: tuple[str, str]
    flows: int
    unknown: int
    differences: tuple[Difference, ...]
    undecided: tuple[Difference, ...] = ()

    @property
    def documented(self) -> dict[Documented, list[Difference]]:
        """The known differences, each with its flows, in the order of the table."""
        found = {d: [x for x in self.differences if x.documented == d.key] for d in DOCUMENTED}
        return {d: flows for d, flows in found.items() if flows}

    @property
    def undocumented(self) -> list[Difference]:
        return [x for x in self.differences if not x.documented]


def compare(
    modes: tuple[str, str],
    tracers: tuple[Tracer, Tracer],
    flows: Sequence[Flow],
    progress: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Ask both modes.

    Parameters
    ----------
    modes : tuple of two str
    tracers : tuple of two Tracer
        Of the same cluster, one in each mode.
    flows : sequence of Flow
        What to ask.
    progress : callable
        Told how many flows are done.
    """
    cluster = tracers[0].cluster
    nodes = [_node_addresses(tracer.network) for tracer in tracers]
    found, undecided = [], []
    for n, flow in enumerate(flows, 1):
        traces = [predict(tracer, flow, EPHEMERAL_PORT) for tracer in tracers]
        one, other = (answer(trace, own) for trace, own in zip(traces, nodes, strict=True))
        if Verdict.UNKNOWN in (one.verdict, other.verdict):
            undecided.append(Difference(flow, "", one, other))
        elif one.ends != other.ends:
            found.append(Difference(flow, _known(cluster, flow, modes, one, other), one, other))
        progress(n)
    return Comparison(modes, len(flows), len(undecided), tuple(found), tuple(undecided))


def _known(cluster: Cluster, flow: Flow, modes: tuple[str, str], one: Answer, other: Answer) -> str:
    asked = question(cluster, flow)
    hows = [tuple(end.how for end in a.ends) for a in (one, other)]
    same = _endpoints(one) == _endpoints(other)
    for d in DOCUMENTED:
        for mine, theirs in ((0, 1), (1, 0)):
            if d.mode == modes[mine] and modes[theirs] in d.against:
                told = msgspec.structs.replace(asked, mine=hows[mine], theirs=hows[theirs], same_endpoints=same)
                if d.applies(told):
                    return d.key
    return ""


def _endpoints(answer: Answer) -> dict[tuple[str, str], Fraction]:
    """How, where, and how likely, whatever source is seen there."""
    found: dict[tuple[str, str], Fraction] = {}
    for end in answer.ends:
        key = (end.how, end.endpoint)
        found[key] = found.get(key, Fraction(0)) + end.probability
    return found


# -- answers -----------------------------------------------------------------------------------------------------------


def answer(trace: Trace, nodes: frozenset[str]) -> Answer:
    """What a trace says, in a form that can be compared; `nodes` are the addresses of the nodes' devices."""
    shares: dict[tuple[str, str, str], Fraction] = {}
    for branch in trace.branches:
        delivered = branch.verdict is Verdict.DELIVERED
        end = (_how(branch), (branch.endpoint or "") if delivered else "", (branch.source_seen or "") if delivered else "")
        shares[end] = shares.get(end, Fraction(0)) + branch.probability
    ends = tuple(End(p, *end) for end, p in sorted(shares.items()))
    unsure = [b for b in trace.branches if b.verdict is Verdict.UNKNOWN]
    reason = next((b.reason for b in unsure or trace.branches if b.reason), "")
    return Answer(trace.verdict, ends, _text(trace, ends, nodes), reason or "")


def _how(branch: Branch) -> str:
    match branch.verdict:
        case Verdict.DELIVERED:
            return "delivered"
        case Verdict.REJECTED:
            steps = [s for hop in branch.hops for s in hop.steps if isinstance(s, Rejected)]
            return steps[-1].answer if steps else "rejected"
        case Verdict.UNKNOWN:
            return "unknown"
        case _:
            return "no answer"


def _text(trace: Trace, ends: Sequence[End], nodes: frozenset[str]) -> str:
    """`delivered to 3 endpoints, source a node's`; an error that the sender's own kernel makes is called by its words."""
    sent = next((s.packet.source for b in trace.branches for h in b.hops for s in h.steps if isinstance(s, Sent)), "")
    parts = []
    arrived = [end for end in ends if end.how == "delivered"]
    if arrived:
        where = list(dict.fromkeys(end.endpoint for end in arrived))
        whose = sorted({_whose(end.source_seen, sent, nodes) for end in arrived})
        to = f"{len(where)} endpoints" if len(where) > 2 else " or ".join(where)
        parts.append(f"delivered to {to}, source {' or '.join(whose)}")
    for end in ends:
        if end.how != "delivered":
            chance = f" ({end.probability})" if len(ends) > 1 else ""
            refused = end.how if end.how in ("no answer", "unknown") else f"rejected, {end.how}"
            parts.append(refused.replace("error to the socket: ", "") + chance)
    return "; ".join(parts)


def _whose(seen: str, sent: str, nodes: frozenset[str]) -> str:
    if seen == sent:
        return "kept"
    return "a node's" if seen in nodes else seen


def _node_addresses(network: Network) -> frozenset[str]:
    spaces = [network.namespaces[name] for name in network.hosts if network.namespaces[name].kind is NetnsKind.NODE]
    return frozenset(str(a.ip) for space in spaces for device in space.devices.values() for a in device.addresses)


# -- what a flow is about ----------------------------------------------------------------------------------------------


def question(cluster: Cluster, flow: Flow) -> Question:
    """What the destination of a flow is, in the words of documented.py."""
    name = parse_endpoint(flow.destination)
    assert name.ip is not None
    address, number = name.ip, name.port if isinstance(name.port, int) else 0
    families = frozenset(n.internal_ips[0].family for n in cluster.nodes.values() if n.internal_ips)
    kind, service, port = _meant(cluster, address, number, flow.protocol)
    return Question(
        kind=kind,
        protocol=flow.protocol,
        family=address.family,
        primary_families=families,
        loopback=address.is_loopback,
        primary_address=_is_primary(cluster, address),
        service=service,
        port=port,
        restricted=service is not None and _is_restricted(cluster, service),
        node_claimed=any(a in entry_addresses(s) for s in cluster.services.values() for a in _node_ips(cluster)),
        mixed=service is not None and _is_mixed(cluster, service),
        external_ip=any(address in s.external_ips for s in cluster.services.values()),
    )


def _meant(cluster: Cluster, address: Ip, port: int, protocol: str) -> tuple[str, Service | None, ServicePort | None]:
    services = cluster.services.values()
    nodes = set(_node_ips(cluster))
    for kind in ("cluster-ip", "service-address"):
        claim = [s for s in services if address in (s.cluster_ips if kind == "cluster-ip" else entry_addresses(s))]
        for service in claim:
            for p in service.ports:
                if p.port == port and p.protocol.lower() == protocol:
                    return kind, service, p
        if claim and address not in nodes:
            return kind, claim[0], None
    if address.is_loopback or address in nodes:
        for service in services:
            for p in service.ports:
                if p.node_port is not None and p.node_port == port and p.protocol.lower() == protocol:
                    return "node-port", service, p
            if service.health_check_node_port is not None and service.health_check_node_port == port:
                return "health-check", service, None
        return "node", None, None
    if any(address in cidr for cidr in cluster.service_cidrs):
        return "unallocated", None, None
    return "other", None, None


def _is_primary(cluster: Cluster, address: Ip) -> bool:
    """The first of its family among its node's InternalIPs."""
    for node in cluster.nodes.values():
        for family in (4, 6):
            if next((a for a in node.internal_ips if a.family == family), None) == address:
                return True
    return False


def _node_ips(cluster: Cluster) -> list[Ip]:
    return [a for node in cluster.nodes.values() for a in (*node.internal_ips, *node.external_ips)]


def _is_mixed(cluster: Cluster, service: Service) -> bool:
    """Whether kube-proxy's userspace mode, which knows one family, meets an address of the other on its way."""
    addresses = [*service.external_ips, *(e.ip for e in service.load_balancer if e.ip is not None)]
    if any(a.family != first.family for first in service.cluster_ips[:1] for a in addresses):
        return True
    own = [[a.family for a in node.internal_ips] for node in cluster.nodes.values()]
    return any(families[:1] == [6] and 4 in families for families in own)


def _is_restricted(cluster: Cluster, service: Service) -> bool:
    """Whether something about the service chooses among its ready endpoints, or among its clients."""
    if "Local" in (service.external_traffic_policy, service.internal_traffic_policy) or service.load_balancer_source_ranges:
        return True
    endpoints = [e for part in cluster.slices.get(service.key, ()) for e in part.endpoints]
    return any(e.terminating or e.hints_for_zones for e in endpoints)
