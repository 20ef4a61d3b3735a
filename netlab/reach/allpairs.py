"""What policies say to every pair of pods on every port, at once: classes of pods, atoms of ports, one question for each.

    PolicyIndex --> Side: the pods that the same policies select in one direction        egress: who they may reach
                     |  others, cut by all that its rules name      x  ports, cut likewise     ingress: who may reach them
                     +--> semantics.direction() asked once for each class and atom

Law: exact: two pods are in one class only where no rule of the Side can tell them apart, two ports in one atom likewise, so
what the semantics say of one pair they say of all. A pair is allowed where both directions allow it. hostNetwork pods are their
nodes' and are left out, and so is what a pod sends to itself. Whether anything listens is matrix.py's business.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import islice

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from netlab.dataplane.policy.dialect import Question
from netlab.dataplane.policy.index import DIRECTIONS, EGRESS, INGRESS, Peer, Policy, PolicyIndex, Port, Rule
from netlab.dataplane.policy.labels import NOBODY, Ids
from netlab.dataplane.policy.semantics import SCTP, UDP, VXLAN_PORT, Flow, Says, decide, one_direction, policy_allows
from netlab.linux.addr import Prefix
from netlab.linux.packet import PROTOCOL_NUMBERS, TCP, protocol_name

PROTOCOLS = (TCP, UDP, SCTP)
TOP = 65536
_Part = tuple[int, tuple[tuple[NDArray[np.int32], int], ...]]  # atoms for all, and for some pods


class Atom(msgspec.Struct, frozen=True):
    """Ports of a protocol that no rule tells apart: all from `first` to `last`."""

    protocol: int
    first: int
    last: int

    def __str__(self) -> str:
        name = protocol_name(self.protocol).upper()
        if (self.first, self.last) == (0, TOP - 1):
            return f"{name} all ports"
        return f"{name} {self.first}" if self.first == self.last else f"{name} {self.first}-{self.last}"


class Side(msgspec.Struct, frozen=True):
    """Pods to which the same policies say the same, in one direction.

    `members`: their numbers. `allowed` and `undefined`: sets of atoms (bits) for whoever is in none of `named`, each of which has
    pods (int32[n], sorted) and the atoms for them.
    """

    members: tuple[int, ...]
    policies: tuple[Policy, ...]
    allowed: int
    undefined: int
    named: tuple[tuple[NDArray[np.int32], int, int], ...]

    def says(self, other: int) -> tuple[int, int]:
        """The atoms that are allowed, and undefined, for another pod."""
        for pods, allowed, undefined in self.named:
            at = int(np.searchsorted(pods, other))
            if at < len(pods) and pods[at] == other:
                return allowed, undefined
        return self.allowed, self.undefined


class Count(msgspec.Struct, frozen=True):
    """Of ordered pairs of different pods: how many policies allow on the ports of an atom, and how many they leave undefined."""

    atom: Atom
    allowed: int
    undefined: int


class AllPairs:
    """The answers for all pods of a cluster that have an address of `family` of their own.

    Attributes
    ----------
    pods : int32[n]
        Their numbers in the index.
    atoms : tuple of Atom
    sides : dict
        By direction, the Sides.
    side_of : dict
        By direction int32[pods of the index]: which Side a pod is in; -1: left out.
    """

    def __init__(
        self, index: PolicyIndex, family: int, progress: Callable[[int], Callable[[int], None]] = lambda total: lambda done: None
    ) -> None:
        self.index, self.family = index, family
        inside = [n for n, pod in enumerate(index.pods) if not pod.host_network and any(a.family == family for a in pod.ips)]
        self.pods = np.array(inside, np.int32)
        self.everybody: Ids = frozenset(inside)
        self._order = inside
        self._parts: dict[object, _Part | None] = {}
        ends = [next(a for a in index.pods[n].ips if a.family == family).value for n in inside]
        order = np.argsort(np.array(ends, object) if family == 6 else np.array(ends, np.int64), kind="stable")
        self._addresses = [ends[at] for at in order]
        self._by_address = [inside[at] for at in order]
        self._within: dict[Prefix, Ids] = {}
        self._named_ports = self._declared()
        self._cuts = {protocol: [0] for protocol in PROTOCOLS}
        self.atoms = self._atoms(self._cuts)
        self._every_atom = (1 << len(self.atoms)) - 1
        self._first_atom = {p: next(n for n, a in enumerate(self.atoms) if a.protocol == p) for p in PROTOCOLS}
        self._masks: dict[tuple[int, int, int], int] = {}
        self.sides: dict[str, list[Side]] = {}
        self.side_of: dict[str, NDArray[np.int32]] = {}
        self._keys: dict[str, dict[object, int]] = {direction: {} for direction in DIRECTIONS}
        groups = {direction: self._groups(direction) for direction in DIRECTIONS}
        told, done = progress(sum(map(len, groups.values()))), 0
        for direction, found in groups.items():
            of = self.side_of[direction] = np.full(len(index.pods), -1, np.int32)
            sides = self.sides[direction] = []
            for policies, members in found:
                of[list(members)] = len(sides)
                sides.append(self._side(direction, policies, members))
                done += 1
                told(done)

    # -- questions -----------------------------------------------------------------------------------------------------

    def atom(self, protocol: int, port: int) -> int:
        """The number of the atom that has a port."""
        return self._first_atom[protocol] + bisect_right(self._cuts[protocol], port) - 1

    def says(self, source: int, destination: int, protocol: int, port: int) -> Says:
        """What policies say to a connection between two pods, given by their numbers in the index."""
        bit = 1 << self.atom(protocol, port)
        allowed, undefined = bit, 0
        for direction, own, other in ((EGRESS, source, destination), (INGRESS, destination, source)):
            side = self.sides[direction][self.side_of[direction][own]]
            found, maybe = side.says(other)
            undefined |= maybe & bit
            allowed &= found
            if not (found | maybe) & bit:
                return Says.DENIED
        if allowed:
            return Says.ALLOWED
        if undefined == bit:  # the open questions of both directions together may say no
            index = self.index
            ends = [index.pod(index.pods[n], self.family) for n in (source, destination)]
            return decide(index, Flow(ends[0], ends[1], protocol, port)).says
        return Says.UNDEFINED

    def reachable(self, source: int, destination: int) -> int:
        """The atoms (bits) that policies allow from one pod to another."""
        allowed = self._every_atom
        for direction, own, other in ((EGRESS, source, destination), (INGRESS, destination, source)):
            allowed &= self.sides[direction][self.side_of[direction][own]].says(other)[0]
        return allowed

    @property
    def tunnel(self) -> Atom | None:
        """The port of VXLAN, where the engine lets no pod send that of its own."""
        return Atom(UDP, VXLAN_PORT, VXLAN_PORT) if self.index.dialect.answer(Question.TUNNELS) == "no" else None

    def counts(self) -> list[Count]:
        """How many ordered pairs are allowed, atom by atom.

        With s in Side v (egress) and d in Side u (ingress), a pair is allowed where u allows s and v allows d: those of u and v
        are (sources of v that u allows) x (destinations of u that v allows); both are the rule plus a few exceptions.
        """
        both = _Both(_Counting(self, INGRESS), _Counting(self, EGRESS))
        found = []
        for bit, atom in enumerate(self.atoms):
            sure = both.pairs(bit, maybe=False)
            found.append(Count(atom, sure, both.pairs(bit, maybe=True) - sure if both.maybe else 0))
        return found

    # -- ports ---------------------------------------------------------------------------------------------------------

    def _declared(self) -> dict[tuple[str, int], dict[int, Ids]]:
        """By name and protocol of a container port: its numbers, and who declares them."""
        found: dict[tuple[str, int], dict[int, set[int]]] = {}
        names = {
            port.name
            for direction in DIRECTIONS
            for rule in self.index.rules(direction)
            for port in _ports(rule)
            if port.first < 0
        }
        if names:
            for n in self.pods.tolist():
                for declared in self.index.pods[n].ports:
                    if declared.name in names:
                        key = declared.name, PROTOCOL_NUMBERS[declared.protocol.lower()]
                        found.setdefault(key, {}).setdefault(declared.container_port, set()).add(n)
        return {key: {number: frozenset(pods) for number, pods in numbers.items()} for key, numbers in found.items()}

    def _numbers(self, port: Port) -> Iterator[tuple[int, int, int]]:
        """The ranges (protocol, first, last) that a rule's port may mean."""
        for protocol in (port.protocol,) if port.protocol in PROTOCOLS else PROTOCOLS if port.protocol == 0 else ():
            if port.first >= 0:
                yield protocol, port.first, port.last
            else:
                for number in self._named_ports.get((port.name, protocol), ()):
                    yield protocol, number, number

    def _atoms(self, also: Mapping[int, Sequence[int]]) -> tuple[Atom, ...]:
        cuts = {protocol: {0, *also[protocol]} for protocol in PROTOCOLS}
        ranges: set[tuple[int, int, int]] = set()
        for direction in DIRECTIONS:
            for rule in self.index.rules(direction):
                for port in _ports(rule):
                    ranges.update(self._numbers(port))
                for peer in _peers(rule):
                    ranges.update((protocol, port, port) for _, protocol, port in peer.service or () if port)
        if self.index.dialect.answer(Question.TUNNELS) != "yes":
            ranges.add((UDP, VXLAN_PORT, VXLAN_PORT))
        for protocol, first, last in ranges:
            if protocol in cuts:
                cuts[protocol] |= {first, last + 1} - {TOP}
        self._cuts = {protocol: sorted(found) for protocol, found in cuts.items()}
        return tuple(
            Atom(protocol, first, last - 1)
            for protocol in PROTOCOLS
            for first, last in zip(self._cuts[protocol], [*self._cuts[protocol][1:], TOP], strict=True)
        )

    def _mask(self, protocol: int, first: int, last: int) -> int:
        """The atoms of a range of ports."""
        key = protocol, first, last
        known = self._masks.get(key)
        if known is None:
            low, high = self.atom(protocol, first), self.atom(protocol, last)
            known = self._masks[key] = (1 << (high + 1)) - (1 << low)
        return known

    def _protocol(self, protocol: int) -> int:
        return self._mask(protocol, 0, TOP - 1) if protocol in PROTOCOLS else 0

    def _port_groups(self, direction: str, rules: Sequence[Rule]) -> list[int]:
        """All atoms, cut by what these rules ask of a port."""
        masks: set[int] = set()
        for rule in rules:
            for port in _ports(rule):
                masks.update(self._mask(*found) for found in self._numbers(port))
                if port.protocol:
                    masks.add(self._protocol(port.protocol))
            for peer in _peers(rule):
                masks.update(
                    self._mask(protocol, port, port) for _, protocol, port in peer.service or () if port and protocol in PROTOCOLS
                )
            if rule.extra is not None:
                for number in (rule.extra.protocol, rule.extra.not_protocol):
                    if number is not None:
                        masks.add(self._protocol(number))
        if direction == EGRESS and self.index.dialect.answer(Question.TUNNELS) != "yes":
            masks.add(self._mask(UDP, VXLAN_PORT, VXLAN_PORT))
        groups = [self._every_atom]
        for mask in masks:
            groups = [part for group in groups for part in (group & mask, group & ~mask) if part]
        return groups

    # -- pods ----------------------------------------------------------------------------------------------------------

    def within(self, net: Prefix) -> Ids:
        """The pods whose address is in a prefix."""
        found = self._within.get(net)
        if found is None:
            found = NOBODY
            if net.family == self.family:
                low = bisect_left(self._addresses, net.value)
                high = bisect_left(self._addresses, net.value + net.size)
                found = frozenset(self._by_address[low:high])
            self._within[net] = found
        return found

    def _sets(self, peer: Peer) -> Iterator[Ids]:
        """Every set of pods that a peer may tell from the rest."""
        if peer.pods is not None:
            yield peer.pods
        yield peer.not_pods
        for nets in (peer.nets, peer.not_nets, peer.sets, peer.not_sets):
            if nets:
                yield NOBODY.union(*map(self.within, nets)) if len(nets) > 1 else self.within(nets[0])
        by_port: dict[tuple[int, int], set[int]] = {}
        for address, protocol, port in peer.service or ():
            number = self.index.by_ip.get(address)
            if number is not None and address.family == self.family:
                by_port.setdefault((protocol, port), set()).add(number)
        yield from map(frozenset, by_port.values())

    def _groups(self, direction: str) -> list[tuple[tuple[Policy, ...], tuple[int, ...]]]:
        """Pods by the policies that select them, and by what else the rules of these ask of their own end."""
        own_of: dict[tuple[int, ...], tuple[bool, list[Ids]]] = {}
        found: dict[object, tuple[tuple[Policy, ...], list[int]]] = {}
        for n in self._order:
            found.setdefault(self._key(direction, n, own_of), (self.index.applied(direction, n), []))[1].append(n)
        self._keys[direction] = {key: number for number, key in enumerate(found)}
        return [(policies, tuple(members)) for policies, members in found.values()]

    def _key(self, direction: str, n: int, own_of: dict[tuple[int, ...], tuple[bool, list[Ids]]]) -> object:
        """Pods with one key are of one Side."""
        index = self.index
        policies = index.applied(direction, n)
        ids = tuple(map(id, policies))
        known = own_of.get(ids)
        if known is None:
            rules = [rule for policy in policies for rule in policy.rules[direction]]
            named = direction == INGRESS and any(port.first < 0 for rule in rules for port in _ports(rule))
            peers = [rule.extra.own for rule in rules if rule.extra is not None and rule.extra.own is not None]
            known = own_of[ids] = named, [pods for peer in peers for pods in self._sets(peer)]
        pod = index.pods[n]
        options = index.cluster.calico.felix_of(pod.node_name)
        return (
            ids,
            pod.ports if known[0] else (),
            tuple(n in pods for pods in known[1]),
            (options.vxlan_from_workloads, options.ipip_from_workloads) if direction == EGRESS else (),
        )

    def changed(self, index: PolicyIndex) -> AllPairs:
        """The answers for an index that `PolicyIndex.changed` made: only pods that other policies select are asked for again."""
        if index.pods is not self.index.pods:
            return AllPairs(index, self.family)
        found = copy(self)
        found.index, found._parts = index, {}
        found._named_ports = found._declared()
        if any(key not in self._named_ports for key in found._named_ports):
            return AllPairs(index, self.family)
        found._named_ports = self._named_ports
        found._refine(self._cuts, self.atoms)
        for direction in DIRECTIONS:
            found._ask_again(direction, self)
        return found

    def _refine(self, cuts: Mapping[int, Sequence[int]], before: tuple[Atom, ...]) -> None:
        """Atoms that are cut as before and by what the rules ask now, and what was said of the old ones said of these."""
        self._masks = {}
        self.atoms = self._atoms(cuts)
        self._every_atom = (1 << len(self.atoms)) - 1
        self._first_atom = {p: next(n for n, a in enumerate(self.atoms) if a.protocol == p) for p in PROTOCOLS}
        if self.atoms == before:
            self.sides = {direction: list(sides) for direction, sides in self.sides.items()}
            return
        wide = [self._mask(atom.protocol, atom.first, atom.last) for atom in before]
        known: dict[int, int] = {}

        def now(mask: int) -> int:
            if mask not in known:
                known[mask] = sum(wide[bit] for bit in range(mask.bit_length()) if mask >> bit & 1)
            return known[mask]

        self.sides = {
            direction: [
                replace(
                    side,
                    allowed=now(side.allowed),
                    undefined=now(side.undefined),
                    named=tuple((pods, now(allowed), now(undefined)) for pods, allowed, undefined in side.named),
                )
                for side in sides
            ]
            for direction, sides in self.sides.items()
        }

    def _ask_again(self, direction: str, before: AllPairs) -> None:
        old, new = before.index.selecting(direction), self.index.selecting(direction)
        moved = [n for n in old.keys() | new.keys() if old.get(n, ()) != new.get(n, ()) and n in self.everybody]
        of, keys, sides = self.side_of[direction].copy(), dict(self._keys[direction]), self.sides[direction]
        own_of: dict[tuple[int, ...], tuple[bool, list[Ids]]] = {}
        coming: dict[object, list[int]] = {}
        for n in sorted(moved):
            coming.setdefault(self._key(direction, n, own_of), []).append(n)
        leaving = set(moved)
        for number in {int(of[n]) for n in moved}:
            sides[number] = replace(sides[number], members=tuple(n for n in sides[number].members if n not in leaving))
        for key, members in coming.items():
            known = keys.get(key)
            if known is None or not sides[known].members:
                made = self._side(direction, self.index.applied(direction, members[0]), tuple(members))
                if known is None:
                    known = keys[key] = len(sides)
                    sides.append(made)
                else:
                    sides[known] = made
            else:
                sides[known] = replace(sides[known], members=tuple(sorted((*sides[known].members, *members))))
            of[members] = known
        self.side_of = {**self.side_of, direction: of}
        self._keys = {**self._keys, direction: keys}

    def _side(self, direction: str, policies: tuple[Policy, ...], members: tuple[int, ...]) -> Side:
        if policies and (added := self._added(direction, policies, members)) is not None:
            return added
        rules = [rule for policy in policies for rule in policy.rules[direction]]
        classes: list[Ids] = []
        for pods in dict.fromkeys(self._cutting(direction, policies)):
            classes = _cut(classes, pods)
        groups = self._port_groups(direction, rules)
        merged: dict[tuple[int, int], list[Ids]] = {}
        for pods in classes:
            answer = self._ask(direction, members, pods, groups)
            if answer is not None:
                merged.setdefault(answer, []).append(pods)
        rest = self._ask(direction, members, self._beside(classes, members), groups) or (0, 0)
        merged.pop(rest, None)
        named = tuple(
            (np.sort(np.fromiter((n for part in parts for n in part), np.int32)), allowed, undefined)
            for (allowed, undefined), parts in merged.items()
        )
        return Side(members, policies, *rest, named)

    def _added(self, direction: str, policies: tuple[Policy, ...], members: tuple[int, ...]) -> Side | None:
        """The Side of pods that NetworkPolicies alone select: what one of them allows is allowed. None where that is not all."""
        parts = [self._part(direction, policy, members) for policy in policies]
        if None in parts or len(self.atoms) > 62:
            return None
        closed = 0
        if (
            direction == EGRESS
            and not self.index.cluster.calico.felix_of(self.index.pods[members[0]].node_name).vxlan_from_workloads
        ):
            match self.index.dialect.answer(Question.TUNNELS):
                case "no":
                    closed = self._mask(UDP, VXLAN_PORT, VXLAN_PORT)
                case "":
                    return None
        base = 0
        pods: list[NDArray[np.int32]] = []
        masks: list[int] = []
        for part in parts:
            assert part is not None
            base |= part[0]
            for named, mask in part[1]:
                pods.append(named)
                masks.append(mask)
        base &= ~closed
        named_: tuple[tuple[NDArray[np.int32], int, int], ...] = ()
        if pods:
            every = np.concatenate(pods)
            each = np.repeat(np.array(masks, np.int64) & ~closed | base, [len(some) for some in pods])
            order = np.argsort(every, kind="stable")
            every, each = every[order], each[order]
            first = np.flatnonzero(np.concatenate([[True], every[1:] != every[:-1]]))
            together = np.bitwise_or.reduceat(each, first)
            every = every[first]
            if any(rest & ~mask for rest, named in filter(None, parts) for _, mask in named):  # all but some
                together = np.zeros(len(every), np.int64)
                for rest, less in filter(None, parts):
                    mine = np.full(len(every), rest, np.int64)
                    for some, mask in less:
                        mine[np.searchsorted(every, some)] = mask
                    together |= mine
                together &= ~closed
            named_ = tuple((every[together == mask], int(mask), 0) for mask in np.unique(together) if mask != base)
        return Side(members, policies, base, 0, named_)

    def _part(self, direction: str, policy: Policy, own: tuple[int, ...]) -> _Part | None:
        """What one NetworkPolicy allows, whoever else does: to all, and to some pods; None where it is not that simple.

        `own` are some of the pods that it selects; of those with a name for a port, all that give it the same number.
        """
        rules = policy.rules[direction]
        named = direction == INGRESS and any(port.first < 0 for rule in rules for port in _ports(rule))
        key = direction, id(policy), self.index.pods[own[0]].ports if named else ()
        if key in self._parts:
            return self._parts[key]
        self._parts[key] = None
        if not policy.of_kubernetes:
            return None
        classes: list[Ids] = []
        for pods in dict.fromkeys(self._cutting(direction, (policy,))):
            if pods and len(pods) < len(self.everybody):
                classes = _cut(classes, pods)
        groups = self._port_groups(direction, rules)
        members = own[:2] if named else sorted(policy.pods & self.everybody)[:2]
        rest = self._allows(direction, policy, members, self._beside(classes, members), groups)
        found = []
        for pods in classes:
            answer = self._allows(direction, policy, members, pods, groups)
            if answer is None or rest is None:
                return None
            if answer != rest:
                found.append((np.sort(np.fromiter(pods, np.int32, len(pods))), answer))
        if rest is None:
            return None
        self._parts[key] = rest, tuple(found)
        return self._parts[key]

    def _allows(self, direction: str, policy: Policy, members: Sequence[int], others: Ids, groups: Sequence[int]) -> int | None:
        """The atoms that a policy allows between one of its pods and others; None where that is open, or there is no pair."""
        pair = next(((own, other) for other in _some(others) for own in members if own != other), None)
        if pair is None:
            return 0 if not others else None
        index = self.index
        own, other = (index.pod(index.pods[n], self.family) for n in pair)
        source, destination = (own, other) if direction == EGRESS else (other, own)
        allowed = 0
        for group in groups:
            atom = self.atoms[(group & -group).bit_length() - 1]
            answer = policy_allows(index, Flow(source, destination, atom.protocol, atom.first), direction, policy)
            if answer is None:
                return None
            if answer:
                allowed |= group
        return allowed

    def _cutting(self, direction: str, policies: Iterable[Policy]) -> Iterator[Ids]:
        """Sets of other pods that the rules of a Side tell apart."""
        for policy in policies:
            for rule in policy.rules[direction]:
                for peer in rule.peers or ():
                    for pods in self._sets(peer):
                        yield pods & self.everybody if not pods <= self.everybody else pods
                if direction == EGRESS:
                    for port in _ports(rule):
                        if port.first < 0:
                            for protocol in PROTOCOLS:
                                for pods in self._named_ports.get((port.name, protocol), {}).values():
                                    yield pods
                                    yield frozenset(n for n in pods if any(p.sidecar for p in self.index.pods[n].ports))
                            yield self.index.in_namespace(policy.key.partition("/")[0]) & self.everybody

    def _beside(self, classes: Sequence[Ids], members: Sequence[int]) -> Ids:
        """One or two pods that are in none of the classes, one of which is not the only member."""
        taken = classes[0].union(*classes[1:]) if len(classes) > 1 else classes[0] if classes else NOBODY
        if len(taken) >= len(self.everybody):
            return NOBODY
        free = (n for n in self._order if n not in taken)
        return frozenset(islice(free, 2))

    def _ask(self, direction: str, members: Sequence[int], others: Ids, groups: Sequence[int]) -> tuple[int, int] | None:
        """What the semantics say to one pair for all: (allowed, undefined) atoms; None where there is no pair."""
        pair = next(((own, other) for other in _some(others) for own in members[:2] if own != other), None)
        if pair is None:
            return None
        index = self.index
        own, other = (index.pod(index.pods[n], self.family) for n in pair)
        source, destination = (own, other) if direction == EGRESS else (other, own)
        allowed = undefined = 0
        for group in groups:
            atom = self.atoms[(group & -group).bit_length() - 1]
            match one_direction(index, Flow(source, destination, atom.protocol, atom.first), direction):
                case Says.ALLOWED:
                    allowed |= group
                case Says.UNDEFINED:
                    undefined |= group
        return allowed, undefined


def _some(pods: Ids) -> Iterator[int]:
    """Two of them, the same ones each time."""
    first = min(pods, default=None)
    if first is not None:
        yield first
        second = min((n for n in pods if n != first), default=None) if len(pods) > 1 else None
        if second is not None:
            yield second


def _cut(classes: Sequence[Ids], pods: Ids) -> list[Ids]:
    """Disjoint classes, cut by one more set; what no class has yet becomes one."""
    found, rest = [], pods
    for known in classes:
        both = known & rest
        if not both:
            found.append(known)
            continue
        rest -= both
        found.append(both)
        if len(both) < len(known):
            found.append(known - both)
    return [*found, rest] if rest else found


def _ports(rule: Rule) -> tuple[Port, ...]:
    return (*(rule.ports or ()), *(rule.extra.not_ports if rule.extra is not None else ()))


def _peers(rule: Rule) -> Iterator[Peer]:
    yield from rule.peers or ()
    if rule.extra is not None and rule.extra.own is not None:
        yield rule.extra.own


# -- counting ----------------------------------------------------------------------------------------------------------


class _Counting:
    """One direction's Sides as arrays: the rule of each, and its exceptions by the other direction's Sides.

    `side`, `other`, `pods`: int64[e], so many pods of Side `other` are named by Side `side`; with the atoms for them.
    """

    def __init__(self, pairs: AllPairs, direction: str) -> None:
        back = EGRESS if direction == INGRESS else INGRESS
        self.sides = pairs.sides[direction]
        of, count = pairs.side_of[back], len(pairs.sides[back])
        self.size = np.array([len(side.members) for side in self.sides], np.int64)
        side, other, pods = [], [], []
        self.masks: list[tuple[int, int, int, int]] = []  # of each class: its allowed and undefined atoms, those of its Side
        which = []
        for number, each in enumerate(self.sides):
            for named, allowed, undefined in each.named:
                met = np.bincount(of[named], minlength=count)
                hit = np.flatnonzero(met)
                side.append(np.full(len(hit), number))
                other.append(hit)
                pods.append(met[hit])
                which.append(np.full(len(hit), len(self.masks)))
                self.masks.append((allowed, undefined, each.allowed, each.undefined))
        none = [np.zeros(0, np.int64)]
        self.side, self.other = np.concatenate(side or none), np.concatenate(other or none)
        self.pods, self.which = np.concatenate(pods or none), np.concatenate(which or none)
        self.own = np.zeros(
            (2, len(pairs.index.pods)), np.int64 if len(pairs.atoms) < 63 else object
        )  # what it says to themselves
        for each in self.sides:
            members = np.array(each.members, np.int32)
            self.own[0, members], self.own[1, members] = each.allowed, each.undefined
            for named, allowed, undefined in each.named:
                mine = members[np.isin(members, named, assume_unique=True)]
                self.own[0, mine], self.own[1, mine] = allowed, undefined

    def itself(self, bit: int, maybe: bool) -> NDArray[np.int64]:
        """int64[pods of the index]: 1 where a pod's own Side would allow it."""
        masks = self.own[0] | self.own[1] if maybe else self.own[0]
        found: NDArray[np.int64] = (masks >> bit & 1).astype(np.int64)
        return found

    def rule(self, bit: int, maybe: bool) -> NDArray[np.int64]:
        """1 where a Side allows whom it does not name."""
        return np.array([(s.allowed | (s.undefined if maybe else 0)) >> bit & 1 for s in self.sides], np.int64)

    def changes(self, bit: int, maybe: bool) -> NDArray[np.int64]:
        """int64[classes]: 1 where a class is allowed and the rule is not, -1 where it is the other way round."""
        return np.array(
            [((a | (u if maybe else 0)) >> bit & 1) - ((b | (v if maybe else 0)) >> bit & 1) for a, u, b, v in self.masks],
            np.int64,
        )

    def exceptions(self, changes: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64[e]: how many more pods (or fewer) are allowed than the rule says."""
        found: NDArray[np.int64] = self.pods * changes[self.which] if len(self.masks) else self.pods
        return found


class _Both:
    """Both directions, and where their exceptions meet."""

    def __init__(self, ingress: _Counting, egress: _Counting) -> None:
        self.ingress, self.egress = ingress, egress
        self.maybe = any(side.undefined or any(u for _, _, u in side.named) for of in (ingress, egress) for side in of.sides)
        width = len(egress.sides)
        keys, self.at = np.unique(ingress.side * width + ingress.other, return_inverse=True)
        theirs = egress.other * width + egress.side
        where = np.searchsorted(keys, theirs)
        where[where == len(keys)] = 0
        self.count = len(keys)
        self.met = np.flatnonzero(keys[where] == theirs) if len(keys) else np.zeros(0, np.int64)
        self.where = where[self.met]
        self._known: dict[bytes, int] = {}

    def pairs(self, bit: int, maybe: bool) -> int:
        """Pairs of different pods that both directions allow on an atom."""
        ingress, egress = self.ingress, self.egress
        a0, b0 = ingress.rule(bit, maybe), egress.rule(bit, maybe)
        a1, b1 = ingress.changes(bit, maybe), egress.changes(bit, maybe)
        key = b"".join(part.tobytes() for part in (a0, b0, a1, b1))
        known = self._known.get(key)  # most atoms fare as another one does
        if known is None:
            known = self._known[key] = self._pairs(a0, b0, ingress.exceptions(a1), egress.exceptions(b1), bit, maybe)
        return known

    def _pairs(
        self, a0: NDArray[np.int64], b0: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64], bit: int, maybe: bool
    ) -> int:
        ingress, egress = self.ingress, self.egress
        total = int(a0 @ ingress.size) * int(b0 @ egress.size)
        total += int((a * b0[ingress.other] * ingress.size[ingress.side]).sum())
        total += int((b * a0[egress.other] * egress.size[egress.side]).sum())
        summed = np.bincount(self.at, a, self.count).astype(np.int64) if len(a) else np.zeros(self.count, np.int64)
        total += int((summed[self.where] * b[self.met]).sum())
        return total - int((ingress.itself(bit, maybe) & egress.itself(bit, maybe)).sum())
