"""The question of `netlab why`, looked into: the trace, what policies say to its connections, the service that was meant.

Law: yes, no, partly or unknown is the trace's verdict, with one exception: what policies deny and an engine enforces is "no",
also where the tracer lacks the engine's rules and must call it unknown. Nothing is explained here.
"""

from __future__ import annotations

import enum

import msgspec

from netlab.dataplane.build import entry_addresses
from netlab.dataplane.policy.index import PolicyIndex
from netlab.dataplane.policy.semantics import Decision, Flow, Half, Says, decide
from netlab.kube.cluster import Cluster
from netlab.kube.objects import Pod, Service, ServicePort
from netlab.linux.addr import Ip
from netlab.linux.packet import PROTOCOL_NUMBERS, protocol_name
from netlab.trace.policysteps import Asked, connection, enforces
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Branch, PolicyStep, Trace, Verdict


class Answer(enum.Enum):
    """Does it work?"""

    YES = "yes"  # every branch is delivered, and its reply
    NO = "no"  # no branch is
    PARTLY = "partly"  # some are
    UNKNOWN = "unknown"  # it depends on something that is not modelled


class Judged(msgspec.Struct, frozen=True):
    """A connection that the request may become (one for each endpoint) and what policies say to it."""

    flow: Flow
    decision: Decision

    @property
    def halves(self) -> tuple[Half, Half]:
        """Egress of the source, ingress of the destination."""
        return self.decision.egress, self.decision.ingress


class Situation(msgspec.Struct, frozen=True):
    """All that is known before anything is said. `port` is the service port that was meant, None where there is no such."""

    request: Request
    cluster: Cluster
    index: PolicyIndex
    trace: Trace
    answer: Answer
    judged: tuple[Judged, ...]
    source: Pod | None = None
    service: Service | None = None
    port: ServicePort | None = None

    @property
    def enforced(self) -> bool:
        """Whether the cluster has an engine that makes policies so for these connections."""
        families = {judged.flow.source.ip.family for judged in self.judged}
        return any(enforces(self.cluster, family) for family in families or (4, 6))

    @property
    def denied(self) -> bool:
        """Whether policies deny one of the connections, and somebody makes it so."""
        return self.enforced and any(judged.decision.says is Says.DENIED for judged in self.judged)


def look(tracer: Tracer, request: Request) -> Situation:
    """Trace a request and see what it is about; raises InputError where `netlab trace` would."""
    trace = tracer.trace(request)
    cluster, index = tracer.cluster, tracer.policies
    source = cluster.pods.get(trace.source.name) if trace.source.kind in ("pod", "hostNetwork pod") else None
    service, port = _meant(cluster, trace)
    flows: dict[Flow, None] = {}
    asked = Asked(PROTOCOL_NUMBERS.get(trace.protocol.lower(), 0), source)
    nobody = service is not None and port is not None and not ready(cluster, service, port)
    for branch in trace.branches:
        # a service without endpoints makes no connection that could be judged
        if not nobody and (flow := connection(branch, index, asked)) is not None:
            for found in _behind(cluster, index, flow):
                flows[found] = None
    # by name: the order of branches says how likely they are
    order = sorted(flows, key=lambda f: (f.destination.name, f.destination.ip, f.port, f.seen.name if f.seen is not None else ""))
    judged = tuple(Judged(flow, decide(index, flow)) for flow in order)
    return Situation(request, cluster, index, trace, answer_of(trace), judged, source, service, port)


def answer_of(trace: Trace) -> Answer:
    """What a trace says to "does it work?"."""
    fates = {_fate(branch) for branch in trace.branches}
    if len(fates) == 1:
        return fates.pop()
    return Answer.UNKNOWN if Answer.UNKNOWN in fates else Answer.PARTLY


def _fate(branch: Branch) -> Answer:
    match branch.verdict:
        case Verdict.DELIVERED:
            return Answer.YES
        case Verdict.UNKNOWN:
            steps = [step for hop in branch.hops for step in hop.steps if isinstance(step, PolicyStep)]
            return Answer.NO if any(step.enforced and step.says == "denied" for step in steps) else Answer.UNKNOWN
        case _:
            return Answer.NO


def _behind(cluster: Cluster, index: PolicyIndex, flow: Flow) -> list[Flow]:
    """The connections to a service's endpoints, where the walk ended before one was chosen; else the connection itself."""
    if flow.destination.pod >= 0 or flow.destination.node:
        return [flow]
    protocol = protocol_name(flow.protocol).upper()
    for service in cluster.services.values():
        if flow.destination.ip not in (*service.cluster_ips, *entry_addresses(service)):
            continue
        port = next((p for p in service.ports if (p.port, p.protocol) == (flow.port, protocol)), None)
        if port is None:
            continue
        found = []
        for address, number in ready(cluster, service, port):
            found.append(msgspec.structs.replace(flow, destination=index.end(address), port=number, service=flow.destination.ip))
        return [f for f in found if f.destination.ip.family == flow.destination.ip.family] or [flow]
    return [flow]


def ready(cluster: Cluster, service: Service, port: ServicePort) -> list[tuple[Ip, int]]:
    """The ready endpoints of a service port."""
    return [
        (address, p.port)
        for part in cluster.slices.get(service.key, ())
        for p in part.ports
        if p.name == port.name and p.protocol == port.protocol and p.port is not None
        for endpoint in part.endpoints
        if endpoint.ready
        for address in endpoint.addresses
    ]


def _meant(cluster: Cluster, trace: Trace) -> tuple[Service | None, ServicePort | None]:
    """The service that a destination stands for: by name, by one of its addresses, or by a node's port."""
    party = trace.destination
    service = cluster.services.get(party.name)
    number = party.port
    if party.kind in ("node", "NodePort"):
        for found in cluster.services.values():
            for port in found.ports:
                if port.node_port is not None and port.node_port == number and port.protocol == trace.protocol:
                    return found, port
        return None, None
    if service is None or party.kind not in ("service", "headless service", "ClusterIP", "service address", "load balancer"):
        return None, None
    if party.kind == "headless service":
        return service, _headless_port(service, trace)
    return service, next((p for p in service.ports if p.port == number and p.protocol == trace.protocol), None)


def _headless_port(service: Service, trace: Trace) -> ServicePort | None:
    text = trace.destination.text.rpartition(":")[2]
    named = [p for p in service.ports if text in (p.name, str(p.port)) and p.protocol == trace.protocol]
    only = service.ports if len(service.ports) == 1 else ()
    return next(iter((*named, *only)), None)
