"""What policies say to the connections of whole classes of pods: asked once for two classes, a protocol and a port.

    PolicyIndex --> the class of a pod: the policies that select it, and every set and prefix of a rule that it is in
    Flow of two classes --semantics.decide, once--> Judged: allowed or not, by which rules

Law: exact: pods of one class are in the same sets and prefixes, have the same ports and are selected by the same policies, so no
rule tells them apart, at either end. Who is a node, or nobody of the cluster, is judged by its own address. Without host
endpoints: these see tunnels, which are left out of the key.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator

import msgspec

from netlab.dataplane.policy.index import DIRECTIONS, EGRESS, INGRESS, Peer, PolicyIndex
from netlab.dataplane.policy.labels import Ids
from netlab.dataplane.policy.semantics import Decision, Flow, Says, decide
from netlab.kube.objects import Pod
from netlab.linux.addr import Ip, Prefix
from netlab.reach.answers import Decider, allowing, denying


class Judged(msgspec.Struct, frozen=True):
    """A decision as a cell needs it: `allowed` may be delivered, `open` depends on what the dialect leaves open; `by` are the
    rules that allow, `against` the first direction that denies. `sign` is what decides about a packet's way."""

    allowed: bool
    open: bool
    by: tuple[Decider, ...]
    against: tuple[Decider, ...]
    sign: tuple[bool, str]
    decision: Decision | None = None


FREE = Judged(True, False, (), (), (True, ""))


class Policed:
    """The classes of an index's pods, and what was said between them."""

    def __init__(self, index: PolicyIndex) -> None:
        self.index = index
        self._marks: list[list[int]] = [[] for _ in index.pods]
        self._services: dict[Ip, list[int]] = {
            address: [] for service in index.cluster.services.values() for address in service.cluster_ips
        }
        self._count = 0
        self._mark()
        self._classes: dict[str, int] = {}
        self._called: dict[Ip, int] = {}
        self._numbers: dict[Hashable, int] = {}
        self.known: dict[Hashable, Judged] = {}

    def of(self, pod: Pod) -> int:
        """The class of a pod."""
        found = self._classes.get(pod.key)
        if found is None:
            index, number = self.index, self.index.number[pod.key]
            sign = (
                pod.namespace,
                pod.ports,
                tuple(address.family for address in pod.ips),
                tuple(map(id, index.applied(EGRESS, number))),
                tuple(map(id, index.applied(INGRESS, number))),
                index.cluster.calico.felix_of(pod.node_name),
                tuple(self._marks[number]),
            )
            found = self._classes[pod.key] = self._numbers.setdefault(sign, len(self._numbers))
        return found

    def core(self, flow: Flow, source: bool) -> int:
        """The number of what policies may ask of a connection beside the classes of its ends (with the `source` itself where that
        stands for nobody else), and the service that was called."""
        sent = None if flow.sent_to is None else (flow.sent_to, flow.sent_port)
        who = flow.source if source else flow.source.ip.family
        sign = flow.protocol, flow.port, flow.sport, flow.icmp_type, who, flow.seen, sent
        return self._numbers.setdefault(sign, len(self._numbers))

    def called(self, service: Ip | None) -> int:
        """The class of the service's address that was called; -1: none."""
        if service is None:
            return -1
        found = self._called.get(service)
        if found is None:
            marks = self._services.get(service)
            sign: Hashable = service if marks is None else tuple(marks)
            found = self._called[service] = self._numbers.setdefault(sign, len(self._numbers))
        return found

    def judge(self, key: Hashable, flow: Flow, enforced: bool) -> Judged:
        """What is said to a connection, and to all connections of its key."""
        found = self.known[key] = _judged(decide(self.index, flow), enforced)
        return found

    # -- what rules can tell apart -------------------------------------------------------------------------------------

    def _mark(self) -> None:
        """Give every set and prefix of a rule a number, and note it down at each pod that is in it."""
        sets: dict[Ids, None] = {}
        nets: dict[Prefix, None] = {}
        for peer in dict.fromkeys(self._peers()):
            sets.update(dict.fromkeys(some for some in (peer.pods, peer.not_pods) if some))
            nets.update(dict.fromkeys((*peer.nets, *peer.not_nets, *peer.sets, *peer.not_sets)))
            if peer.service is not None:
                self._mark_served(peer.service)
        for some in sets:
            for number in some:
                self._marks[number].append(self._count)
            self._count += 1
        self._mark_within(nets)

    def _mark_served(self, served: frozenset[tuple[Ip, int, int]]) -> None:
        for address, protocol, port in sorted(served):
            number = self.index.by_ip.get(address)
            if number is not None:
                self._marks[number] += (self._count, -1 - protocol, -1 - port)
        self._count += 1

    def _mark_within(self, nets: dict[Prefix, None]) -> None:
        lists: list[tuple[Ip, list[int], int]] = [
            (address, self._marks[n], place) for n, pod in enumerate(self.index.pods) for place, address in enumerate(pod.ips)
        ]
        lists += [(address, marks, 0) for address, marks in self._services.items()]
        for family in (4, 6):
            mine = sorted((each for each in lists if each[0].family == family), key=lambda each: each[0].value)
            values = [address.value for address, _, _ in mine]
            for net in nets:
                if net.family == family:
                    low = bisect_left(values, net.value)
                    high = bisect_left(values, net.value + net.size)
                    for _, marks, place in mine[low:high]:
                        marks += (self._count, place)
                    self._count += 1

    def _peers(self) -> Iterator[Peer]:
        for direction in DIRECTIONS:
            for rule in self.index.rules(direction):
                yield from rule.peers or ()
                if rule.extra is not None and rule.extra.own is not None:
                    yield rule.extra.own


def _judged(decision: Decision, enforced: bool) -> Judged:
    says, is_open = decision.says, bool(decision.open) or decision.says is Says.UNDEFINED
    allowed, against = says is Says.ALLOWED or not enforced, denying(decision)
    sign = allowed, against[0].direction if against else ""
    return Judged(allowed, is_open and enforced, allowing(decision), against, sign, decision)
