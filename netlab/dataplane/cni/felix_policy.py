"""What Felix makes of policies: a chain for each and direction, chains for groups, tiers in a pod's own chains, ipsets.

    cali-tw-caliXXX: Start of tier T -> cali-pi-POLICY, or cali-gi-GROUP -> ... -> End of tier T. Drop   (then the profiles)

    cali-pi-POLICY: rule 1 ... rule n; one that allows sets 0x10000 and returns, one that passes 0x20000, one that denies drops

Law: rules, their order and words, names and members of ipsets are those of Felix v3.30 (felix/rules/policy.go and endpoints.go,
felix/calc/rule_scanner.go, felix/labelindex) with its default configuration; every rule knows the line of the policy's rule that
it renders. Selectors are evaluated as Calico's texts over Calico's labels: nothing is shared with dataplane/policy/semantics.py,
which says independently what the rules must come to. Not modelled: flow logs (NFLOG), staged policies, QoS controls, HTTP rules
(Felix leaves them to Envoy: their addresses and ports are matched alone).
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha3_224, sha224
from itertools import groupby

import msgspec

from netlab.dataplane.cni import calico_policies as cp
from netlab.dataplane.cni.felix import (
    ANY_INTERFACE,
    DROP,
    MARK_ACCEPT,
    MARK_DROP,
    MARK_PASS,
    MARK_SCRATCH0,
    MARK_SCRATCH1,
    MAX_CHAIN_NAME,
    NOTRACK,
    RETURN,
    FelixRule,
    HostInterface,
    Part,
    Policies,
    clear_mark,
    hashed,
    in_set,
    jump,
    limited_name,
    log,
    mark_clear,
    mark_is,
    mark_not_clear,
    net,
    ports,
    protocol,
    rule,
    set_mark,
    set_masked_mark,
)
from netlab.dataplane.policy.index import calico_endpoints
from netlab.dataplane.policy.labels import Ids
from netlab.kube import calico_selector as cs
from netlab.kube import policies as p
from netlab.kube.cluster import Cluster
from netlab.kube.objects import Pod
from netlab.linux.addr import Ip, Prefix, host_prefix
from netlab.linux.matches import Icmp, PortRange
from netlab.linux.packet import ICMP, ICMPV6, PROTOCOL_NUMBERS
from netlab.linux.rules import Rule
from netlab.linux.sets import IpSet, SetEntry
from netlab.refs import Ref

SET_OPTIONS = "hashsize 1024 maxelem 1048576"
MAX_SET_NAME = 31
MAX_PORTS = 15  # xt_multiport.h XT_MULTI_PORTS
_STRIDE = 5  # a group's chain asks after so many policies whether there is a verdict
_TCP = 6
_ALL = p.CalicoRule("Allow")
DEFAULT_ALLOW = p.Profile(name="projectcalico-default-allow", ingress=(_ALL,), egress=(_ALL,))  # it is always there
_NOBODY_S = p.Profile(name="", ingress=(p.CalicoRule("Deny"),), egress=(p.CalicoRule("Deny"),))
# these go by name (api/pkg/lib/numorstring/protocol.go); a rule that says the number is taken to say the name
_PROTOCOL_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp", 136: "udplite"}
_PORT_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
_HALVES = {4: (Prefix(4, 0, 1), Prefix(4, 1 << 31, 1)), 6: (Prefix(6, 0, 1), Prefix(6, 1 << 127, 1))}


# -- names ---------------------------------------------------------------------------------------------------------------


def unique_id(kind: str, content: str) -> str:
    """An ipset's id (libcalico-go lib/hash MakeUniqueID).

    >>> unique_id("s", "all()")
    's:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug'
    """
    digest = sha224(f"{kind}:{content}".encode()).digest()
    return f"{kind}:{urlsafe_b64encode(digest).decode().rstrip('=')}"


def selector_id(selector: str) -> str:
    """The id of a selector's ipset, by its canonical text."""
    return unique_id("s", cs.show(cs.parse(selector).root))


def policy_chain(direction: str, policy: cp.Policy) -> str:
    """`cali-pi-` or `cali-po-` and the policy's tier and name, shortened (rules/policy.go PolicyChainName).

    >>> policy = cp.Policy("default", "calico-system/knp.default.allow-apiserver", 1000.0, "", ())
    >>> policy_chain("Ingress", policy)
    'cali-pi-_RPHPUh868v26JJg7645'
    """
    return limited_name("cali-pi-" if direction == cp.INGRESS else "cali-po-", f"{policy.tier}/{policy.name}")


def group_chain(direction: str, tier: str, group: Sequence[cp.Policy]) -> str:
    """The chain of policies that follow one another with one selector (endpoints.go PolicyGroup.UniqueID)."""
    which = "inbound" if direction == cp.INGRESS else "outbound"
    lines = [tier, group[0].selector, which, str(len(group)), *(policy.name for policy in group)]
    prefix = "cali-gi-" if direction == cp.INGRESS else "cali-go-"
    digest = sha3_224("".join(f"{line}\n" for line in lines).encode()).digest()
    return prefix + urlsafe_b64encode(digest).decode()[: MAX_CHAIN_NAME - len(prefix)]


# -- a rule (policy.go ProtoRuleToIptablesRules) -------------------------------------------------------------------------


class Sets(msgspec.Struct, frozen=True):
    """The names of the ipsets that one end of a rule matches (rule_scanner.go ruleToParsedRule)."""

    selected: tuple[str, ...] = ()  # addresses: of the selector, and of a service at the source
    service: tuple[str, ...] = ()  # addresses and ports of a service at the destination
    named: tuple[str, ...] = ()  # addresses and ports of named ports
    not_selected: tuple[str, ...] = ()
    not_named: tuple[str, ...] = ()


def rendered(
    each: cp.Rule, family: int, sets: Callable[[cp.Rule, str], Sets], log_prefix: str = "calico-packet"
) -> list[FelixRule]:
    """The iptables rules of one rule for a family; none where it is about the other family.

    What one iptables rule cannot say (more than 15 ports, several nets, nets and others excepted, named ports) is said by blocks
    before it: MARK_SCRATCH0 stays set as long as all blocks match, MARK_SCRATCH1 is a later block's own answer.
    """
    version = each.ip_version or {ICMP: 4, ICMPV6: 6}.get(each.protocol or 0)
    if version not in (None, family):
        return []
    nets: dict[tuple[str, bool], list[Prefix]] = {}
    for side, end in (("src", each.source), ("dst", each.destination)):
        for negate, given in ((False, end.nets), (True, end.not_nets)):
            kept = [each_net for each_net in given if each_net.family == family]
            if given and (not kept or (negate and any(not each_net.length for each_net in kept))):
                return []
            nets[side, negate] = kept
    source_sets, destination_sets = sets(each, "src"), sets(each, "dst")
    blocks = _Blocks(each.ref)
    proto = [protocol_part(each.protocol)] if each.protocol is not None else []

    port_matches: dict[str, list[Part]] = {}
    for side, end, found in (("src", each.source, source_sets), ("dst", each.destination, destination_sets)):
        splits = [ports(side, split) for split in split_ports(_numeric(end.ports))]
        named = [in_set(name, f"{side},{side}") for name in found.named]
        if len(splits) + len(named) > 1:
            blocks.positive([*((*proto, split) for split in splits), *((name,) for name in named)])
            splits, named = [], []
        port_matches[side] = splits
        port_matches[side + " named"] = named
    for side in ("src", "dst"):
        if len(nets[side, False]) > 1:
            blocks.positive([(net(side, each_net),) for each_net in nets[side, False]])
            nets[side, False] = []
    for side in ("src", "dst"):
        if len(nets[side, False]) + len(nets[side, True]) > 1:
            blocks.negative([(net(side, each_net),) for each_net in nets[side, True]])
            nets[side, True] = []

    match = [
        *proto,
        *(net("src", each_net) for each_net in nets["src", False]),
        *(in_set(name, "src") for name in source_sets.selected),
        *port_matches["src"],
        *port_matches["src named"],
        *(net("dst", each_net) for each_net in nets["dst", False]),
        *(in_set(name, "dst") for name in destination_sets.selected),
        *(in_set(name, "dst,dst") for name in destination_sets.service),
        *port_matches["dst"],
        *port_matches["dst named"],
        *_icmp(each.icmp, family, False),
    ]
    if each.not_protocol is not None:
        match.append(protocol_part(each.not_protocol, True))
    for side, end, found in (("src", each.source, source_sets), ("dst", each.destination, destination_sets)):
        match += [
            *(net(side, each_net, True) for each_net in nets[side, True]),
            *(in_set(name, side, True) for name in found.not_selected),
            *(ports(side, split, True) for split in split_ports(_numeric(end.not_ports))),
            *(in_set(name, f"{side},{side}", True) for name in found.not_named),
        ]
    match += _icmp(each.not_icmp, family, True)
    if blocks.rules:
        match.append(_ALL_BLOCKS)
    made = [*blocks.rules, *_acted(each.action, match, each.ref, log_prefix)]
    named_as = (f"name={each.name}",) if each.name else ()
    return [msgspec.structs.replace(r, comments=named_as) for r in made] if named_as else made


class _Blocks:
    """Blocks of rules before a rule (policy.go matchBlockBuilder)."""

    def __init__(self, ref: Ref) -> None:
        self.ref = ref
        self.rules: list[FelixRule] = []
        self._positives = 0

    def _begin(self, value: int) -> None:
        if not self.rules:
            self.rules.append(rule(action=set_masked_mark(value, MARK_SCRATCH0 | MARK_SCRATCH1), ref=self.ref))

    def positive(self, matches: Sequence[Sequence[Part]]) -> None:
        """One of these must match. The first block answers in MARK_SCRATCH0 itself, a later one takes it away."""
        self._begin(0)
        bit = MARK_SCRATCH1 if self._positives else MARK_SCRATCH0
        self.rules += [rule(*match, action=set_mark(bit), ref=self.ref) for match in matches]
        if self._positives:
            self.rules.append(rule(mark_clear(MARK_SCRATCH1), action=clear_mark(MARK_SCRATCH0), ref=self.ref))
        self._positives += 1

    def negative(self, matches: Sequence[Sequence[Part]]) -> None:
        """None of these may match."""
        self._begin(MARK_SCRATCH0)
        self.rules += [rule(*match, action=clear_mark(MARK_SCRATCH0), ref=self.ref) for match in matches]


def _acted(action: str, match: Sequence[Part], ref: Ref, log_prefix: str) -> list[FelixRule]:
    """A rule and its action (CombineMatchAndActionsForProtoRule): the match sets a mark, the mark is acted upon."""
    if action == "log":
        return [rule(*match, action=log(log_prefix), ref=ref)]
    marked, if_marked, then = _VERDICTS[action]
    return [rule(*match, action=marked, ref=ref), rule(if_marked, action=then, ref=ref)]


_VERDICTS: Mapping[str, tuple[Part, Part, Part]] = {
    "allow": (set_mark(MARK_ACCEPT), mark_is(MARK_ACCEPT), RETURN),
    "next-tier": (set_mark(MARK_PASS), mark_is(MARK_PASS), RETURN),
    "deny": (set_mark(MARK_DROP), mark_is(MARK_DROP), DROP),
}
_ALL_BLOCKS = mark_is(MARK_SCRATCH0)
_PROTOCOLS = {number: protocol(number, name) for number, name in _PROTOCOL_NAMES.items()}


def protocol_part(number: int, negate: bool = False) -> Part:
    """`-p tcp`, `-p 47`."""
    if not negate and number in _PROTOCOLS:
        return _PROTOCOLS[number]
    return protocol(number, _PROTOCOL_NAMES.get(number, ""), negate)


def _numeric(given: Sequence[cp.Port]) -> list[PortRange]:
    return [PortRange(port.first, port.last) for port in given if isinstance(port, p.PortRange)]


def split_ports(ranges: Sequence[PortRange]) -> list[list[PortRange]]:
    """In groups that one multiport match can hold: 15 ports, a range takes two (policy.go SplitPortList)."""
    splits: list[list[PortRange]] = []
    free = 0
    for each in ranges:
        needed = 1 if each.low == each.high else 2
        if not splits or free < needed:
            splits.append([])
            free = MAX_PORTS
        splits[-1].append(each)
        free -= needed
    return splits


def _icmp(wanted: p.IcmpMatch | None, family: int, negate: bool) -> Iterator[Part]:
    if wanted is None or wanted.type is None:
        return
    module, option = ("icmp", "icmp-type") if family == 4 else ("icmp6", "icmpv6-type")
    kind = str(wanted.type) if wanted.code is None else f"{wanted.type}/{wanted.code}"
    codes = (0, 255) if wanted.code is None else (wanted.code, wanted.code)
    yield Part(f"-m {module} {'! ' if negate else ''}--{option} {kind}", Icmp(family, wanted.type, codes, negate))


def policy_rules(
    rules: Sequence[cp.Rule],
    family: int,
    sets: Callable[[cp.Rule, str], Sets],
    comment: str,
    ref: Ref,
    log_prefix: str = "calico-packet",
) -> tuple[FelixRule, ...]:
    """A policy's chain for one direction (ProtoRulesToIptablesRules): RETURNs at the end do nothing and are left out; the
    first rule carries the policy's name, one that does nothing if need be."""
    made = [found for each in rules for found in rendered(each, family, sets, log_prefix)]
    while made and made[-1].action is RETURN:
        made.pop()
    first = made[0] if made else FelixRule(ref=ref)
    return (msgspec.structs.replace(first, comments=(*first.comments, comment)), *made[1:])


# -- a cluster's policies ------------------------------------------------------------------------------------------------


class FelixPolicies:
    """The policies of a cluster as Felix renders them on the nodes. Chains and ipsets are made once."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._log_prefix = cluster.calico.felix_of("").log_prefix
        self._pods: tuple[Pod, ...] = tuple(pod for pod in cluster.pods.values() if pod.ips)
        self._workloads: Ids = frozenset(n for n, pod in enumerate(self._pods) if not pod.host_network)
        self._labels, self._every = calico_endpoints(cluster, self._pods)
        self.tiers = tuple(tier for tier in cp.tiers(cluster) if tier.policies)
        self._applied: dict[str, list[tuple[cp.Tier, list[cp.Policy]]]] = {}
        self._ids: dict[str, str] = {}
        self._members: dict[str, Callable[[int], IpSet]] = {}
        self._made: dict[tuple[str, int], IpSet] = {}
        self._chains: dict[tuple[str, int], tuple[FelixRule, ...]] = {}
        self._hashed: dict[tuple[str, int], tuple[Rule, ...]] = {}
        self._used: dict[str, frozenset[str]] = {}  # the ipsets of a chain
        self._pods_with: dict[tuple[tuple[str, str], ...], Policies] = {}
        self._apply()

    def _apply(self) -> None:
        for tier in self.tiers:
            for policy in tier.policies:
                chosen = self._selected(policy.selector)
                if not (policy.untracked or policy.pre_dnat):  # those are for host endpoints alone
                    self._add(tier, policy, (self._pods[n].key for n in chosen & self._workloads))
                self._add(tier, policy, (self._every[n].name for n in chosen if isinstance(self._every[n], p.HostEndpoint)))

    def _add(self, tier: cp.Tier, policy: cp.Policy, endpoints: Iterable[str]) -> None:
        """By the key of a pod (namespace/name) or the name of a host endpoint."""
        for key in endpoints:
            found = self._applied.setdefault(key, [])
            if not found or found[-1][0] is not tier:
                found.append((tier, []))
            found[-1][1].append(policy)

    def _selected(self, selector: str) -> Ids:
        return self._labels.calico(cs.parse(selector).root)

    def of(self, pod: Pod, family: int) -> Policies:
        """What the policies that select a pod add to its chains."""
        applied = self._applied.get(pod.key)
        if not applied:
            return Policies()
        key = (*((policy.tier, policy.name) for _, policies in applied for policy in policies), ("", str(family)))
        if key not in self._pods_with:
            self._pods_with[key] = self._policies(applied, family)
        return self._pods_with[key]

    def shared(self, family: int, chain: str, rules: Sequence[FelixRule]) -> tuple[Rule, ...]:
        """The rules of a policy's or a group's chain with their hashes: made once, they are the same on every node."""
        if (chain, family) not in self._hashed:
            self._hashed[chain, family] = hashed(chain, rules)
        return self._hashed[chain, family]

    def hosts(self, node: str, interfaces: Mapping[str, Sequence[Ip]], family: int) -> tuple[HostInterface, ...]:
        """The devices of a node that are under a host endpoint, and what its policies say (endpoint_mgr.go resolveHostEndpoints).

        Parameters
        ----------
        interfaces : mapping of str to sequence of Ip
            The node's devices that are no pods', and their addresses.
        """
        objects = self._cluster.policy_objects.host_endpoints
        here = [objects[name] for name in sorted(objects) if objects[name].node == node]
        found: dict[str, p.HostEndpoint] = {}
        for host in here:
            if host.interface_name == "*":
                found.setdefault(ANY_INTERFACE, host)
        for device, addresses in interfaces.items():
            for host in here:
                expected = not host.interface_name and any(address in addresses for address in host.expected_ips)
                if host.interface_name == device or expected:
                    found.setdefault(device, host)
        return tuple(self._host(device, host, family) for device, host in sorted(found.items()))

    def _host(self, device: str, host: p.HostEndpoint, family: int) -> HostInterface:
        """event_sequencer.go tierInfoToProtoTierInfo: which policies are for which of its chains."""
        applied = self._applied.get(host.name, ())

        def chosen(wanted: Callable[[cp.Policy], bool]) -> list[tuple[cp.Tier, list[cp.Policy]]]:
            split = [(tier, [policy for policy in policies if wanted(policy)]) for tier, policies in applied]
            return [(tier, policies) for tier, policies in split if policies]

        normal = chosen(lambda q: not (q.untracked or q.pre_dnat))
        forward = chosen(lambda q: q.on_forward and not (q.untracked or q.pre_dnat))
        before, untracked = chosen(lambda q: q.pre_dnat), chosen(lambda q: q.untracked)
        return HostInterface(
            device,
            host.profiles,
            self._policies(normal, family),
            self._policies(forward, family) if forward else None,
            self._policies(before, family, ends=False) if before else None,
            self._policies(untracked, family, ends=False, untracked=True) if untracked else None,
        )

    def profiles(self, hosts: Sequence[HostInterface], family: int) -> tuple[dict[str, tuple[FelixRule, ...]], dict[str, IpSet]]:
        """The chains of the profiles that host endpoints name, and their ipsets. One that nobody has made denies everything
        (calc/active_rules_calculator.go DummyDropRules)."""
        chains: dict[str, tuple[FelixRule, ...]] = {}
        used: set[str] = set()

        def sets(each: cp.Rule, side: str) -> Sets:
            return self._sets_of(each, side, family, used)

        for name in dict.fromkeys(name for host in hosts for name in host.profiles):
            profile = self._cluster.policy_objects.profiles.get(name, DEFAULT_ALLOW if name == DEFAULT_ALLOW.name else _NOBODY_S)
            for prefix, direction, rules in (("cali-pri-", "ingress", profile.ingress), ("cali-pro-", "egress", profile.egress)):
                made = [cp.of_calico_rule(each, "") for each in rules]
                comment = f"Profile {name} {direction}"
                found = policy_rules(made, family, sets, comment, profile.ref, self._log_prefix)
                chains[limited_name(prefix, name)] = found
        made_sets = [self._set(unique, family) for unique in sorted(used)]
        return chains, {each.name: each for each in made_sets}

    def _policies(
        self,
        applied: Sequence[tuple[cp.Tier, Sequence[cp.Policy]]],
        family: int,
        ends: bool = True,
        untracked: bool = False,
    ) -> Policies:
        chains: dict[str, tuple[FelixRule, ...]] = {}
        made = {d: tuple(self._tiers(applied, d, family, chains, ends, untracked)) for d in (cp.INGRESS, cp.EGRESS)}
        sets = {name: self._set(name, family) for chain in chains for name in sorted(self._used.get(chain, ()))}
        return Policies(made[cp.INGRESS], made[cp.EGRESS], chains, {each.name: each for each in sets.values()})

    def _tiers(
        self,
        applied: Sequence[tuple[cp.Tier, Sequence[cp.Policy]]],
        direction: str,
        family: int,
        chains: dict[str, tuple[FelixRule, ...]],
        ends: bool,
        untracked: bool,
    ) -> Iterator[FelixRule]:
        """An endpoint's rules for one direction, tier by tier (endpoints.go endpointIptablesChain); `chains` gets what they jump
        to. Without `ends` nothing is dropped at a tier's end: other tables come after this one."""
        for tier, policies in applied:
            governing = [policy for policy in policies if direction in policy.directions]
            if not governing:
                continue
            yield rule(action=clear_mark(MARK_PASS), comments=[f"Start of tier {tier.name}"], ref=governing[0].ref)
            for chain, group in self._groups(tier, governing, direction, family, chains):
                ref = group[0].ref
                yield rule(mark_clear(MARK_PASS), action=jump(chain), ref=ref)
                if untracked:
                    yield rule(mark_is(MARK_ACCEPT), action=NOTRACK, ref=ref)
                yield rule(mark_is(MARK_ACCEPT), action=RETURN, comments=["Return if policy accepted"], ref=ref)
            if tier.drops and ends:
                comment = f"End of tier {tier.name}. Drop if no policies passed packet"
                yield rule(mark_clear(MARK_PASS), action=DROP, comments=[comment], ref=governing[0].ref)

    def _groups(
        self,
        tier: cp.Tier,
        policies: Sequence[cp.Policy],
        direction: str,
        family: int,
        chains: dict[str, tuple[FelixRule, ...]],
    ) -> Iterator[tuple[str, list[cp.Policy]]]:
        """Policies that follow one another with one selector share a chain (endpoint_mgr.go groupPolicies)."""
        for _, found in groupby(policies, key=lambda policy: policy.selector):
            group = list(found)
            inner = [self._policy_chain(policy, direction, family, chains) for policy in group]
            if len(group) == 1:
                yield inner[0], group
                continue
            name = group_chain(direction, tier.name, group)
            chains[name] = tuple(_group_rules(inner, group))
            yield name, group

    def _policy_chain(
        self, policy: cp.Policy, direction: str, family: int, chains: dict[str, tuple[FelixRule, ...]]
    ) -> str:
        name = policy_chain(direction, policy)
        if (name, family) not in self._chains:
            used: set[str] = set()

            def sets(each: cp.Rule, side: str) -> Sets:
                return self._sets_of(each, side, family, used)

            rules = policy.ingress if direction == cp.INGRESS else policy.egress
            comment = f"Policy {policy.name} {direction.lower()}"
            self._chains[name, family] = policy_rules(rules, family, sets, comment, policy.ref, self._log_prefix)
            self._used[name] = frozenset(used) | self._used.get(name, frozenset())
        chains[name] = self._chains[name, family]
        return name

    # -- ipsets (rule_scanner.go, named_port_index.go, serviceindex.go) --------------------------------------------------

    def _sets_of(self, each: cp.Rule, side: str, family: int, used: set[str]) -> Sets:
        """The sets of one end of a rule: a negative selector narrows a positive one, and named ports take it in."""
        end = each.source if side == "src" else each.destination
        positive, negative = end.selector, end.not_selector
        if positive and negative:
            positive, negative = f"({positive}) && (!({negative}))", ""
        numbers, names = _numeric(end.ports), [port for port in end.ports if isinstance(port, str)]
        kind = -1 if each.any_named and each.protocol is None else each.protocol if each.protocol in _PORT_PROTOCOLS else _TCP

        def name(unique: str) -> str:
            used.add(unique)
            return f"cali{family}0{unique}"[:MAX_SET_NAME]

        selected = [name(self._selector_set(positive))] if positive and (numbers or not names) else []
        service: list[str] = []
        if end.service and side == "src":
            selected.append(name(self._service_set(end.service, False)))
        elif end.service:
            service.append(name(self._service_set(end.service, True)))
        return Sets(
            tuple(selected),
            tuple(service),
            tuple(name(self._port_set(positive, kind or _TCP, port)) for port in names),
            (name(self._selector_set(negative)),) if negative else (),
            tuple(name(self._port_set(positive, kind or _TCP, port)) for port in end.not_ports if isinstance(port, str)),
        )

    def _id(self, selector: str) -> str:
        if selector not in self._ids:
            self._ids[selector] = selector_id(selector)
        return self._ids[selector]

    def _selector_set(self, selector: str) -> str:
        unique = self._id(selector)
        self._members.setdefault(unique, lambda family: self._addresses(selector, family))
        return unique

    def _port_set(self, selector: str, kind: int, port: str) -> str:
        selector = selector or "all()"
        words = "any" if kind < 0 else _PORT_PROTOCOLS[kind]
        unique = unique_id("n", f"{self._id(selector)},{words},{port}")
        self._members.setdefault(unique, lambda family: self._named_ports(selector, kind, port, family))
        return unique

    def _service_set(self, service: str, with_ports: bool) -> str:
        unique = unique_id("svc" if with_ports else "svcnoport", service)
        self._members.setdefault(unique, lambda family: self._service(service, with_ports, family))
        return unique

    def _set(self, unique: str, family: int) -> IpSet:
        if (unique, family) not in self._made:
            found = self._members[unique](family)
            name = f"cali{family}0{unique}"[:MAX_SET_NAME]
            self._made[unique, family] = msgspec.structs.replace(found, name=name)
        return self._made[unique, family]

    def _addresses(self, selector: str, family: int) -> IpSet:
        """Pods, expected addresses of host endpoints, nets of sets; one that lies in another is left out."""
        found: list[Prefix] = []
        for n in self._selected(selector):
            thing = self._every[n]
            if isinstance(thing, Pod):
                found += [] if thing.host_network else map(host_prefix, thing.ips)
            elif isinstance(thing, p.HostEndpoint):
                found += map(host_prefix, thing.expected_ips)
            elif isinstance(thing, p.NetworkSet):
                found += [half for each in thing.nets for half in (_HALVES[each.family] if not each.length else (each,))]
        return _net_set([each for each in found if each.family == family], family)

    def _named_ports(self, selector: str, kind: int, port: str, family: int) -> IpSet:
        """Where pods (and host endpoints) declare a port of this name; `kind` -1 is any protocol."""
        found: set[tuple[str, str]] = set()
        for n in self._selected(selector):
            thing = self._every[n]
            if isinstance(thing, Pod) and not thing.host_network:
                declared = [(q.name, PROTOCOL_NUMBERS[q.protocol.lower()], q.container_port) for q in thing.ports]
                addresses = thing.ips
            elif isinstance(thing, p.HostEndpoint):
                declared, addresses = list(thing.ports), thing.expected_ips
            else:
                continue
            for name, number, at in declared:
                if name == port and kind in (-1, number) and number in _PORT_PROTOCOLS:
                    entry = f"{_PORT_PROTOCOLS[number]}:{at}"
                    found |= {(str(address), entry) for address in addresses if address.family == family}
        return IpSet("", "hash:ip,port", family, tuple(SetEntry(each) for each in sorted(found)), SET_OPTIONS)

    def _service(self, service: str, with_ports: bool, family: int) -> IpSet:
        """A service's endpoints, ready or not."""
        slices = self._cluster.slices.get(service, ())
        if not with_ports:
            every = [a for part in slices for endpoint in part.endpoints for a in endpoint.addresses if a.family == family]
            return _net_set([host_prefix(a) for a in every], family)
        found = {
            (str(address), f"{port.protocol.lower()}:{port.port}")
            for part in slices
            for port in part.ports
            if port.port is not None
            for endpoint in part.endpoints
            for address in endpoint.addresses
            if address.family == family
        }
        return IpSet("", "hash:ip,port", family, tuple(SetEntry(each) for each in sorted(found)), SET_OPTIONS)


def _group_rules(chains: Sequence[str], group: Sequence[cp.Policy]) -> Iterator[FelixRule]:
    """A group's chain (PolicyGroupToIptablesChains): each while there is no verdict; every fifth asks for one."""
    verdict = MARK_PASS | MARK_ACCEPT
    for n, (chain, policy) in enumerate(zip(chains, group, strict=True)):
        if n and n % _STRIDE == 0:
            yield rule(mark_not_clear(verdict), action=RETURN, comments=["Return on verdict"])
        yield rule(*([mark_clear(verdict)] if n % _STRIDE else []), action=jump(chain), ref=policy.ref)


def _net_set(nets: Sequence[Prefix], family: int) -> IpSet:
    kept: list[Prefix] = []
    for each in sorted(set(nets), key=lambda q: (q.value, q.length)):
        if not kept or each.address not in kept[-1]:
            kept.append(each)
    entries = tuple(SetEntry((str(q.address) if q.length == q.address.bits else str(q),)) for q in kept)
    return IpSet("", "hash:net", family, entries, SET_OPTIONS)


