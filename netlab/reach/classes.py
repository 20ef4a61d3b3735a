"""Which pods are alike: two senders, or two receivers, between which neither the network nor the policies can tell a difference.

    100 pods on 10 nodes, one policy for 5 of them:  10 nodes x (selected or not, named by a rule or not) classes instead of 100

Law: alike means the same in everything that a compiled rule, route or set can ask: the node, the families, the block and every
prefix that the cluster names, the policies that apply, the peers that policies name, the services behind which it stands. What is
not sure is no class. It holds for compiled clusters: observed rules may ask anything. A property test asks every pair.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from netlab.dataplane.build import entry_addresses
from netlab.dataplane.policy.index import DIRECTIONS, EGRESS, INGRESS, Peer, Rule
from netlab.dataplane.policy.labels import Ids
from netlab.kube.objects import Pod
from netlab.linux.addr import Ip, Prefix
from netlab.trace.query import Tracer

_OTHER = {EGRESS: INGRESS, INGRESS: EGRESS}


class Classes:
    """The classes of a tracer's pods."""

    def __init__(self, tracer: Tracer) -> None:
        cluster = self.cluster = tracer.cluster
        self.index = tracer.policies
        self.peers: dict[str, list[Peer]] = {d: list(dict.fromkeys(self._peers(d))) for d in DIRECTIONS}
        self.own: dict[str, list[Peer]] = {d: list(dict.fromkeys(self._own(d))) for d in DIRECTIONS}
        blocks = [block for blocks in cluster.calico.blocks.values() for block in blocks]
        pools = [pool.cidr for pool in cluster.calico.pools]
        nodes = [cidr for node in cluster.nodes.values() for cidr in node.pod_cidrs]
        ranges = [cidr for service in cluster.services.values() for cidr in service.load_balancer_source_ranges]
        proxy = [*cluster.proxy.cluster_cidrs, *cluster.proxy.exclude_cidrs]
        own = [*cluster.pod_cidrs, *cluster.service_cidrs, *cluster.fabric.prefixes]
        self.prefixes = list(dict.fromkeys([*blocks, *pools, *nodes, *ranges, *proxy, *own]))
        self.taken = {a for s in cluster.services.values() for a in (*s.cluster_ips, *entry_addresses(s))}
        self.taken |= {a for node in cluster.nodes.values() for a in (*node.internal_ips, *node.external_ips)}
        self.behind = {
            key: {a for part in parts for e in part.endpoints for a in e.addresses} for key, parts in cluster.slices.items()
        }
        self._senders: dict[str, Hashable] = {}
        self._receivers: dict[str, Hashable] = {}

    def sender(self, key: str) -> Hashable:
        """The class of a pod that sends; None: it is like no other."""
        if key not in self._senders:
            pod = self.cluster.pods[key]
            self._senders[key] = self._class(pod, EGRESS)
        return self._senders[key]

    def receiver(self, key: str) -> Hashable:
        """The class of a pod that is sent to by its own address."""
        if key not in self._receivers:
            pod = self.cluster.pods[key]
            found = self._class(pod, INGRESS) if pod.ports else None  # without ports an assumption names it
            self._receivers[key] = None if found is None else (found, pod.ports)
        return self._receivers[key]

    def is_behind(self, key: str, service: str) -> bool:
        """Whether a pod is an endpoint of a service ("namespace/name"), ready or not: it may meet itself, as no other does."""
        return not self.behind.get(service, set()).isdisjoint(self.cluster.pods[key].ips)

    def _class(self, pod: Pod, direction: str) -> Hashable:
        if pod.host_network or pod.terminating or not self.taken.isdisjoint(pod.ips):
            return None
        number = self.index.number[pod.key]
        return (
            pod.node_name,
            pod.namespace,
            pod.service_account if self.cluster.policy_objects.profiles else "",
            tuple(sorted(pod.annotations.items())),
            tuple(self._place(address) for address in pod.ips),
            tuple(policy.title for policy in self.index.applied(direction, number)),
            tuple(_holds(peer, number, pod.ips) for peer in self.peers[_OTHER[direction]]),
            tuple(_holds(peer, number, pod.ips) for peer in self.own[direction]),
        )

    def _place(self, address: Ip) -> Hashable:
        """Where an address lies: in which prefixes, and whether it is the first or last one of any."""
        inside = [(n, p) for n, p in enumerate(self.prefixes) if address in p]
        ends = [n for n, p in inside if p.size > 1 and address in (p.nth(0), p.nth(p.size - 1))]
        return address.family, tuple(n for n, _ in inside), tuple(ends)

    def _rules(self, direction: str) -> Iterator[Rule]:
        for policy in self.index.policies:
            yield from policy.rules.get(direction, ())

    def _peers(self, direction: str) -> Iterator[Peer]:
        for rule in self._rules(direction):
            yield from rule.peers or ()

    def _own(self, direction: str) -> Iterator[Peer]:
        for rule in self._rules(direction):
            if rule.extra is not None and rule.extra.own is not None:
                yield rule.extra.own


def _holds(peer: Peer, number: int, addresses: tuple[Ip, ...]) -> Hashable:
    """What a peer says of a pod, part by part: whether its selectors and its networks have it."""

    def selects(pods: Ids | None) -> bool | None:
        return None if pods is None else number in pods

    def within(nets: tuple[Prefix, ...]) -> tuple[bool, ...]:
        return tuple(any(address in net for net in nets) for address in addresses) if nets else ()

    served = sorted((p, port) for a, p, port in peer.service if a in addresses) if peer.service else ()
    networks = (within(peer.sets), within(peer.nets), within(peer.not_nets), within(peer.not_sets))
    return selects(peer.pods), selects(peer.not_pods), networks, tuple(served)
