"""What else a change does: flows among pods (and to and from outside) that policies judge otherwise, services that lose or gain.

Law: exact by the policies' own semantics, pod by pod; pods that no policy can tell apart are asked once and counted as many as
they are. Only ports that pods declare, or that a service sends to, are counted; what is outside is one client and one server
(port 443). Where there is too much to ask, the count says "at least".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from netlab.dataplane.build import DEFAULT_CLIENTS
from netlab.dataplane.policy.index import EGRESS, INGRESS, End, Policy, PolicyIndex
from netlab.dataplane.policy.semantics import Flow, Says, decide
from netlab.kube.cluster import Cluster
from netlab.kube.objects import Pod
from netlab.linux.addr import Prefix, host_prefix
from netlab.linux.packet import PROTOCOL_NUMBERS, TCP, protocol_name
from netlab.reach.matrix import INTERNET, workload_name

MOST = 8_000  # connections that are asked, twice each
_SERVICE = 10  # flows that a service counts as
_OUTSIDE_PORT = (TCP, 443)

Asked = frozenset[tuple[str, str, int, int]]  # what was the question: source's and destination's group, protocol, port


class Flows(msgspec.Struct, frozen=True, rename="camel"):
    """Flows between the pods of two workloads, to one port: how many of them."""

    source: str
    destination: str
    port: int
    protocol: str
    flows: int

    def __str__(self) -> str:
        protocol = "" if self.protocol == "TCP" else f"/{self.protocol}"
        times = f" x{self.flows}" if self.flows > 1 else ""
        return f"{self.source} -> {self.destination}:{self.port}{protocol}{times}"


class Effect(msgspec.Struct, frozen=True, rename="camel"):
    """Other flows that a change `opens` and `closes`, from pod to pod; `changed`: by workloads; `services` whose ready endpoints
    change.

    `more`: counting ended at a limit, so these are least numbers.
    """

    opens: int = 0
    closes: int = 0
    changed: tuple[Flows, ...] = ()
    services: tuple[str, ...] = ()
    more: bool = False

    @property
    def weight(self) -> int:
        """How much else changes, in one number; a service has clients of its own."""
        return self.opens + self.closes + _SERVICE * len(self.services) + (MOST if self.more else 0)


class _Class(msgspec.Struct):
    """Pods that no policy tells apart, before or after."""

    group: str
    members: list[int]
    ports: tuple[tuple[int, int], ...]


def effect(before: PolicyIndex, after: PolicyIndex, asked: Asked = frozenset(), service: str = "") -> Effect:
    """Compare two states of a cluster that differ in labels, policies or services, never in who has which address.

    Parameters
    ----------
    before, after : PolicyIndex
        Of the same pods.
    asked : set of (source group, destination group, protocol, port)
        Flows that are not "other": the question. Groups are `group_of`.
    service : str
        The service of the question: its own endpoints are no side effect.
    """
    changed = _changed(before, after)
    opens = closes = tried = 0
    rows: dict[tuple[str, str, int, int], int] = {}
    more = False
    if changed[INGRESS] or changed[EGRESS]:
        for source, target, where, flow in _flows(before, after, changed):
            if (source, target, flow.protocol, flow.port) in asked:
                continue
            tried += 1
            if tried > MOST:
                more = True
                break
            one, other = (decide(index, flow).says is Says.ALLOWED for index in (before, after))
            if one == other:
                continue
            opens, closes = (opens + where, closes) if other else (opens, closes + where)
            row = (source, target, flow.port, flow.protocol)
            rows[row] = rows.get(row, 0) + where
    services = tuple(_services(before.cluster, after.cluster, service))
    found = (Flows(a, b, port, protocol_name(protocol).upper(), count) for (a, b, port, protocol), count in sorted(rows.items()))
    return Effect(opens, closes, tuple(found), services, more)


def group_of(index: PolicyIndex, end: End) -> str:
    """The workload of a pod, the name of a node, `internet` for anybody else."""
    if end.pod >= 0:
        return workload_name(index.pods[end.pod])
    return end.node or INTERNET


# --- policies ------------------------------------------------------------------------------------------------


def _changed(before: PolicyIndex, after: PolicyIndex) -> dict[str, frozenset[int]]:
    """The pods, by direction, to which a policy applies that is not the same before and after, or whose ports are renamed."""
    found: dict[str, set[int]] = {INGRESS: set(), EGRESS: set()}
    olds, news = ({policy.title: policy for policy in index.policies} for index in (before, after))
    for title in olds.keys() | news.keys():
        old, new = olds.get(title), news.get(title)
        for direction, pods in found.items():
            for policy, other in ((old, new), (new, old)):
                if policy is None or direction not in policy.rules:
                    continue
                same = other is not None and _rules(policy, direction) == _rules(other, direction)
                pods |= policy.pods - other.pods if same and other is not None else policy.pods
    # names of ports are looked up at the pod that is called
    found[INGRESS] |= {n for n, pod in enumerate(before.pods) if pod.ports != after.pods[n].ports}
    return {direction: frozenset(pods) for direction, pods in found.items()}


def _rules(policy: Policy, direction: str) -> object:
    return policy.tier, policy.order, policy.rules.get(direction)


def _flows(
    before: PolicyIndex, after: PolicyIndex, changed: Mapping[str, frozenset[int]]
) -> Iterator[tuple[str, str, int, Flow]]:
    """Connections that a changed policy may judge otherwise: names of both ends, how many, and one of them."""
    classes = _classes(before, after, changed)
    outside = End(DEFAULT_CLIENTS[0], name=INTERNET)
    for target in classes:
        for source in classes:
            if not (target.members[0] in changed[INGRESS] or source.members[0] in changed[EGRESS]):
                continue
            same = source is target
            count = len(source.members) * (len(target.members) - same)
            if not count:
                continue
            sender = before.pod(before.pods[source.members[0]], 4)
            receiver = before.pod(before.pods[target.members[1 if same else 0]], 4)
            for protocol, port in target.ports:
                yield source.group, target.group, count, Flow(sender, receiver, protocol, port)
        if target.members[0] in changed[INGRESS]:
            receiver = before.pod(before.pods[target.members[0]], 4)
            for protocol, port in target.ports:
                yield INTERNET, target.group, len(target.members), Flow(outside, receiver, protocol, port)
        if target.members[0] in changed[EGRESS]:
            sender = before.pod(before.pods[target.members[0]], 4)
            protocol, port = _OUTSIDE_PORT
            yield target.group, INTERNET, len(target.members), Flow(sender, outside, protocol, port)


def _classes(before: PolicyIndex, after: PolicyIndex, changed: Mapping[str, frozenset[int]]) -> list[_Class]:
    blocks = sorted({net for index in (before, after) for net in _nets(index)})
    wanted = _wanted(before.cluster)
    found: dict[object, _Class] = {}
    for n, pod in enumerate(before.pods):
        if pod.host_network or pod.node_name not in before.cluster.nodes:
            continue
        other = after.pods[n]
        ports = tuple(dict.fromkeys([*_ports(pod), *wanted.get(pod.key, ())]))
        sign = (
            workload_name(pod),
            tuple(sorted(pod.labels.items())),
            tuple(sorted(other.labels.items())),
            pod.ports,
            other.ports,
            ports,
            pod.service_account,
            tuple(pod.ips[0] in net for net in blocks),
            n in changed[INGRESS],
            n in changed[EGRESS],
        )
        found.setdefault(sign, _Class(workload_name(pod), [], ports)).members.append(n)
    return list(found.values())


def _nets(index: PolicyIndex) -> Iterator[Prefix]:
    for policy in index.policies:
        for rules in policy.rules.values():
            for rule in rules:
                for peer in (*(rule.peers or ()), *((rule.extra.own,) if rule.extra and rule.extra.own else ())):
                    yield from (*peer.nets, *peer.not_nets, *peer.sets, *peer.not_sets)
                    yield from (host_prefix(ip) for ip, _, _ in peer.service or ())


def _ports(pod: Pod) -> list[tuple[int, int]]:
    return [(PROTOCOL_NUMBERS[p.protocol.lower()], p.container_port) for p in pod.ports]


def _wanted(cluster: Cluster) -> dict[str, list[tuple[int, int]]]:
    """Ports at which services expect pods."""
    found: dict[str, list[tuple[int, int]]] = {}
    for slices in cluster.slices.values():
        for part in slices:
            ports = [(PROTOCOL_NUMBERS[p.protocol.lower()], p.port) for p in part.ports if p.port]
            for endpoint in part.endpoints:
                if endpoint.target_pod:
                    found.setdefault(endpoint.target_pod, []).extend(ports)
    return found


# --- services ------------------------------------------------------------------------------------------------


def _services(before: Cluster, after: Cluster, service: str) -> Iterator[str]:
    """`default/api: 2 -> 3 endpoints`."""
    for key in sorted(before.slices.keys() | after.slices.keys()):
        if key == service or before.slices.get(key) is after.slices.get(key):
            continue
        one, other = (_ready(cluster, key) for cluster in (before, after))
        if one == other:
            continue
        if len(one) == len(other):
            yield f"{key}: other endpoints"
        else:
            yield f"{key}: {len(one)} -> {len(other)} endpoints"


def _ready(cluster: Cluster, key: str) -> Sequence[tuple[object, ...]]:
    found = {
        (address, port.protocol, port.port)
        for part in cluster.slices.get(key, ())
        for endpoint in part.endpoints
        if endpoint.ready
        for address in endpoint.addresses
        for port in part.ports
    }
    return sorted(found, key=str)
