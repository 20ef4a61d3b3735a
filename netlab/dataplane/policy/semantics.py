"""What the policies say to one connection: allowed, denied, or undefined, and which rule or what missing rule says so.

    egress of the source   and   ingress of the destination          each: exempt? -> tiers in order -> policies -> rules
                                                                      the first match decides; a tier's end drops the rest

Law: pure, and exact for each dialect (dialect.py); this is what policies say, whoever enforces them or does not. Replies of an
allowed connection are part of it. Where the dialect leaves a question open that the verdict depends on, the verdict is undefined.
Words are words.py's business.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from netlab.dataplane.policy.dialect import ANSWERS, Dialect, Question
from netlab.dataplane.policy.index import EGRESS, INGRESS, Action, End, Extra, Peer, Policy, PolicyIndex, Port, Rule
from netlab.kube.policies import IcmpMatch
from netlab.linux.addr import Ip, Prefix
from netlab.linux.packet import PROTOCOL_NUMBERS, TCP

UDP, SCTP = 17, 132

IPIP = 4
VXLAN_PORT = 4789
_POLICED = (TCP, UDP, SCTP)

class Says(enum.Enum):
    """A verdict of policies."""

    ALLOWED = "allowed"
    DENIED = "denied"
    UNDEFINED = "undefined"  # it depends on what the dialect leaves open


class Because(enum.Enum):
    """Why one direction is as it is."""

    NO_POD = "no pod"  # policies select pods; this end is none
    UNSELECTED = "unselected"  # no policy selects it in this direction
    ITSELF = "itself"  # a pod cannot be kept from itself
    OWN_NODE = "own node"  # the node that runs a pod always reaches it
    ESTABLISHED = "established"  # the connection is older than the policy
    TUNNEL = "tunnel"  # VXLAN or IPIP out of a pod
    FAILSAFE = "failsafe"  # a port that host endpoints always leave open
    PROTOCOL = "protocol"  # the engine does not judge this protocol, or always refuses it
    RULE = "rule"  # a rule matched
    TIER_END = "tier end"  # selected, and no rule matched
    TIERS_END = "tiers end"  # selected, and every tier passed it on
    HOST_ENDPOINT = "host endpoint"  # a host endpoint that no policy and no profile opens


class Flow(msgspec.Struct, frozen=True):
    """A new connection between two ends, `port` as the endpoint sees it.

    `seen`: the source as the destination sees it, where it was masqueraded on the way. `service`: the ClusterIP that the client
    called, if it called one. `sent_to` and `sent_port`: the destination as the source's own node sees it, where another node
    translates it (a NodePort there). `tunnel_out` and `tunnel_in`: the tunnel devices by which it leaves the source's node and
    enters the destination's, if it does. `established`: the connection was made before the policies.
    """

    source: End
    destination: End
    protocol: int = TCP
    port: int = 0
    seen: End | None = None
    service: Ip | None = None
    sport: int = 0
    icmp_type: int = 8
    icmp_code: int = 0
    established: bool = False
    sent_to: End | None = None
    sent_port: int = 0
    tunnel_out: str = ""
    tunnel_in: str = ""


class Half(msgspec.Struct, frozen=True):
    """What is said for one direction at one end.

    `selected`: the policies that select the end in this direction, in the order in which they are asked. `policy` and `rule` (its
    number from 1): what decided; at a tier's end `tier` alone.
    """

    direction: str
    end: End
    says: Says
    because: Because
    selected: tuple[Policy, ...] = ()
    policy: Policy | None = None
    rule: Rule | None = None
    tier: str = ""


class Decision(msgspec.Struct, frozen=True):
    """The verdict of both directions.

    `open`: the questions that make it undefined. `asked`: questions that this dialect answered on the way. `ties`: policies of
    which any may have gone first.
    """

    says: Says
    egress: Half
    ingress: Half
    dialect: str
    open: tuple[Question, ...] = ()
    asked: tuple[Question, ...] = ()
    ties: tuple[tuple[str, ...], ...] = ()


class Ask:
    """The dialect while one flow is judged: answers, and remembers what was asked."""

    __slots__ = ("dialect", "fixed", "known", "open", "ties")

    def __init__(self, dialect: Dialect, fixed: Mapping[Question, str]) -> None:
        self.dialect = dialect
        self.fixed = fixed
        self.known: dict[Question, None] = {}
        self.open: dict[Question, None] = {}
        self.ties: dict[tuple[str, ...], None] = {}

    def __call__(self, question: Question) -> str:
        answer = self.fixed.get(question)
        if answer is not None:
            self.known[question] = None
            return answer
        answer = self.dialect.answer(question)
        if answer:
            self.known[question] = None
            return answer
        self.open[question] = None
        return ANSWERS[question][0]


def allows(index: PolicyIndex, flow: Flow) -> bool | None:
    """Whether the policies allow a connection; None where that is undefined."""
    says = decide(index, flow).says
    return None if says is Says.UNDEFINED else says is Says.ALLOWED


def decide(index: PolicyIndex, flow: Flow, dialect: Dialect | None = None) -> Decision:
    """What the policies say to a connection.

    Parameters
    ----------
    index : PolicyIndex
    flow : Flow
    dialect : Dialect, optional
        Another dialect than the index was built for (it must read the same kinds of policy).

    Returns
    -------
    Decision
    """
    dialect = dialect or index.dialect
    ask = Ask(dialect, {})
    egress, ingress = _both(index, flow, ask)
    says = _together(egress, ingress)
    if ask.open:
        leaves = list(_explore(index, flow, dialect, {}, 0))
        says, depends = _verdict(leaves)
        egress = msgspec.structs.replace(egress, says=_one([e.says for _, e, _ in leaves]))
        ingress = msgspec.structs.replace(ingress, says=_one([i.says for _, _, i in leaves]))
        return Decision(says, egress, ingress, dialect.name, depends, tuple(ask.known), tuple(ask.ties))
    return Decision(says, egress, ingress, dialect.name, (), tuple(ask.known), tuple(ask.ties))


def depends(index: PolicyIndex, flow: Flow, decision: Decision) -> tuple[Question, ...]:
    """Of the questions that a dialect answered, those where another answer would have changed the verdict."""
    found = []
    for question in decision.asked:
        own = index.dialect.answer(question)
        for other in ANSWERS[question]:
            if other == own:
                continue
            ask = Ask(index.dialect, {question: other})
            if _together(*_both(index, flow, ask)) is not decision.says:
                found.append(question)
                break
    return tuple(found)


# --- open questions ------------------------------------------------------------------------------------------

_Leaf = tuple[Mapping[Question, str], Half, Half]
_MAX_OPEN = 6


def _explore(index: PolicyIndex, flow: Flow, dialect: Dialect, fixed: Mapping[Question, str], depth: int) -> Iterator[_Leaf]:
    """Judge under every combination of answers to the questions that come up."""
    ask = Ask(dialect, fixed)
    egress, ingress = _both(index, flow, ask)
    question = next(iter(ask.open), None)
    if question is None or depth >= _MAX_OPEN:
        yield fixed, egress, ingress
        return
    for answer in ANSWERS[question]:
        yield from _explore(index, flow, dialect, {**fixed, question: answer}, depth + 1)


def _one(says: Sequence[Says]) -> Says:
    return says[0] if len(set(says)) == 1 else Says.UNDEFINED


def _together(egress: Half, ingress: Half) -> Says:
    both = (egress.says, ingress.says)
    if Says.DENIED in both:
        return Says.DENIED
    return Says.UNDEFINED if Says.UNDEFINED in both else Says.ALLOWED


def _verdict(leaves: Sequence[_Leaf]) -> tuple[Says, tuple[Question, ...]]:
    """The verdict of all leaves, and the questions that it turns on."""
    verdicts = [(fixed, _together(e, i)) for fixed, e, i in leaves]
    says = _one([v for _, v in verdicts])
    if says is not Says.UNDEFINED:
        return says, ()
    asked = dict.fromkeys(q for fixed, _ in verdicts for q in fixed)
    turning = []
    for question in asked:
        groups: dict[frozenset[tuple[Question, str]], set[Says]] = {}
        for fixed, verdict in verdicts:
            groups.setdefault(frozenset((q, a) for q, a in fixed.items() if q is not question), set()).add(verdict)
        if any(len(found) > 1 for found in groups.values()):
            turning.append(question)
    return says, tuple(turning or asked)


def one_direction(index: PolicyIndex, flow: Flow, which: str) -> Says:
    """What is said for one direction alone; undefined where that depends on an open question."""
    ask = Ask(index.dialect, {})
    found = direction(index, flow, which, ask)
    if not ask.open:
        return found.says
    return _one([(e if which == EGRESS else i).says for _, e, i in _explore(index, flow, index.dialect, {}, 0)])


def policy_allows(index: PolicyIndex, flow: Flow, which: str, policy: Policy) -> bool | None:
    """Whether a rule of one policy allows a connection in one direction; None where that depends on an open question."""
    ask = Ask(index.dialect, {})
    hit = _policy(index, flow, which, policy, ask)
    return None if ask.open else hit is not None and hit[2] is Action.ALLOW


# --- one direction -------------------------------------------------------------------------------------------


class _End(msgspec.Struct, frozen=True):
    """How a walk through the tiers ended."""

    says: Says
    because: Because
    policy: Policy | None = None
    rule: Rule | None = None
    tier: str = ""


_UNSELECTED = _End(Says.ALLOWED, Because.UNSELECTED)


def _both(index: PolicyIndex, flow: Flow, ask: Ask) -> tuple[Half, Half]:
    return direction(index, flow, EGRESS, ask), direction(index, flow, INGRESS, ask)


def as_sent(flow: Flow) -> Flow:
    """The connection as the source's own node sees it, where egress is judged."""
    if flow.sent_to is None:
        return flow
    return msgspec.structs.replace(flow, destination=flow.sent_to, port=flow.sent_port, service=None, sent_to=None)


def direction(index: PolicyIndex, flow: Flow, which: str, ask: Ask) -> Half:
    """What is said for one direction: egress at the source, ingress at the destination."""
    flow = as_sent(flow) if which == EGRESS else flow
    end = flow.source if which == EGRESS else flow.destination
    selected = index.applied(which, end.pod) if end.pod >= 0 else ()
    if end.pod < 0 or (end.node and not (selected and ask(Question.HOST_NETWORK) == "yes")):
        return _at_host(index, flow, which, end, ask)
    found = _exempt(index, flow, which, end, selected, ask) or _walk(index, flow, which, selected, ask)
    return Half(which, end, found.says, found.because, selected, found.policy, found.rule, found.tier)


def _exempt(index: PolicyIndex, flow: Flow, which: str, end: End, selected: Sequence[Policy], ask: Ask) -> _End | None:
    """What is decided before any policy is looked at."""
    # felix/rules/endpoints.go: a workload's own tunnels are dropped first, unless the configuration allows them
    tunnel = flow.protocol == IPIP or (flow.protocol == UDP and flow.port == VXLAN_PORT)
    options = index.cluster.calico.felix_of(index.pods[end.pod].node_name)
    opened = options.ipip_from_workloads if flow.protocol == IPIP else options.vxlan_from_workloads
    if which == EGRESS and tunnel and not opened and ask(Question.TUNNELS) == "no":
        return _End(Says.DENIED, Because.TUNNEL)
    if not selected:
        return _UNSELECTED
    if flow.source.pod == flow.destination.pod and (flow.service is None or ask(Question.HAIRPIN) == "no"):
        # it never leaves the pod; only through a service does it go out and come back
        return _End(Says.ALLOWED, Because.ITSELF)
    source = flow.seen or flow.source
    if which == INGRESS and source.node and source.node == index.pods[end.pod].node_name:
        return _End(Says.ALLOWED, Because.OWN_NODE)
    if flow.established and ask(Question.ESTABLISHED) == "no":
        return _End(Says.ALLOWED, Because.ESTABLISHED)
    return None


def _walk(index: PolicyIndex, flow: Flow, which: str, selected: Sequence[Policy], ask: Ask) -> _End:
    """Tiers, policies, rules: the first match decides; at its end a tier drops whom it selected."""
    n = 0
    while n < len(selected):
        tier = selected[n].tier
        behind = n + 1
        while behind < len(selected) and selected[behind].tier is tier:
            behind += 1
        passed = False
        for rank in _ranks(selected[n:behind]):
            hit = _first(index, flow, which, rank, ask)
            if hit is None:
                continue
            policy, rule, action = hit
            if action is Action.PASS:
                passed = True
                break
            because = Because.PROTOCOL if rule is None else Because.RULE
            return _End(Says.ALLOWED if action is Action.ALLOW else Says.DENIED, because, policy, rule, tier.name)
        if tier.drops and not passed:
            return _End(Says.DENIED, Because.TIER_END, tier=tier.name)
        n = behind
    # Calico's profile kns.NAMESPACE allows everything, and so does Kubernetes where no policy objects
    return _End(Says.ALLOWED, Because.TIERS_END)


def _ranks(policies: Sequence[Policy]) -> Iterator[Sequence[Policy]]:
    """Policies one after the other; ClusterNetworkPolicies of one priority together: any of them may go first."""
    n = 0
    while n < len(policies):
        behind = n + 1
        if policies[n].kind in CLUSTER_KINDS:
            while (
                behind < len(policies) and policies[behind].kind in CLUSTER_KINDS and policies[behind].order == policies[n].order
            ):
                behind += 1
        yield policies[n:behind]
        n = behind


CLUSTER_KINDS = ("ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy")
_Hit = tuple[Policy, Rule | None, Action]


def _first(index: PolicyIndex, flow: Flow, which: str, rank: Sequence[Policy], ask: Ask) -> _Hit | None:
    """What the policies of one rank say."""
    hits = [hit for policy in rank if (hit := _policy(index, flow, which, policy, ask)) is not None]
    if not hits:
        return None
    if len({action for _, _, action in hits}) > 1:
        ask.ties[tuple(policy.title for policy, _, _ in hits)] = None
        wanted = {"Accept": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS}.get(ask(Question.TIE))
        return next((hit for hit in hits if hit[2] is wanted), hits[0])
    return hits[0]


def _policy(index: PolicyIndex, flow: Flow, which: str, policy: Policy, ask: Ask) -> _Hit | None:
    """The first rule of a policy that matches and decides."""
    if policy.of_kubernetes and flow.protocol not in _POLICED:
        match ask(Question.OTHER_PROTOCOLS):
            case "always allowed":
                return policy, None, Action.ALLOW
            case "never allowed":
                return None
    for rule in policy.rules[which]:
        if rule.action is Action.LOG:
            continue
        if rule.peers is not None and _fails_closed(rule.peers, ask):
            # a kind of peer that the engine does not know fails closed: Accept matches nothing, Deny and Pass deny all
            if rule.action is not Action.ALLOW:
                return policy, rule, Action.DENY
        elif matches(index, flow, which, policy, rule, ask):
            return policy, rule, rule.action
    return None


def _fails_closed(peers: Sequence[Peer], ask: Ask) -> bool:
    """Whether a rule has a kind of peer that the engine does not know: nodes, or the names of one that reads no DNS."""
    if any(peer.by_node for peer in peers) and ask(Question.NODE_PEERS) == "no":
        return True
    if not any(peer.by_name for peer in peers) or ask.dialect.answer(Question.DOMAIN_NAMES) != "no match":
        return False
    return ask(Question.DOMAIN_NAMES) == "no match"


# --- one rule ------------------------------------------------------------------------------------------------


def matches(index: PolicyIndex, flow: Flow, which: str, policy: Policy, rule: Rule, ask: Ask) -> bool:
    """Whether a rule matches a connection."""
    return (
        ports_match(index, flow, which, policy, rule, ask)
        and peers_match(index, flow, which, rule, ask)
        and (rule.extra is None or _extra(index, flow, which, rule.extra, ask))
    )


def peers_match(index: PolicyIndex, flow: Flow, which: str, rule: Rule, ask: Ask) -> bool:
    """Whether the other end is one of a rule's peers."""
    if rule.peers is None:
        return True
    end = flow.destination if which == EGRESS else flow.seen or flow.source
    service = flow.service if which == EGRESS else None
    return any(_peer(index, peer, end, flow, service, ask) for peer in rule.peers)


def _peer(index: PolicyIndex, peer: Peer, end: End, flow: Flow, service: Ip | None, ask: Ask) -> bool:
    if peer.nobody:
        return False
    if peer.by_name:
        return ask(Question.DOMAIN_NAMES) == "match"
    if peer.service is not None:
        asked = ((flow.protocol, flow.port), (0, 0))
        return any((end.ip, *protocol_port) in peer.service for protocol_port in asked)
    # a hostNetwork pod is its node's address to whoever selects pods
    pod = end.pod
    if end.node and pod >= 0 and not ((pod in (peer.pods or ()) or pod in peer.not_pods) and ask(Question.HOST_NETWORK) == "yes"):
        pod = -1
    if peer.pods is not None and not (
        pod in peer.pods or (pod < 0 and end.node in peer.hosts and end.node) or _within(end.ip, peer.sets)
    ):
        return False
    if (peer.nets or peer.not_nets) and not _nets(peer, end, pod, service, ask):
        return False
    return not (pod in peer.not_pods or _within(end.ip, peer.not_sets))


def _nets(peer: Peer, end: End, pod: int, service: Ip | None, ask: Ask) -> bool:
    """Addresses: those of pods too, unless the dialect keeps ipBlocks for what is outside."""
    inside = _in_nets(peer, end.ip)
    if service is not None and inside != _in_nets(peer, service) and ask(Question.SERVICE_ADDRESS) == "before":
        return not inside
    if inside and pod >= 0 and peer.block:
        return ask(Question.IP_BLOCK_OF_PODS) == "yes"
    return inside


def _in_nets(peer: Peer, address: Ip) -> bool:
    if peer.not_nets and not any(net.family == address.family for net in peer.not_nets):
        return False  # Felix leaves out a rule whose nets are all of the other family (rules/policy.go FilterRuleToIPVersion)
    return (not peer.nets or _within(address, peer.nets)) and not _within(address, peer.not_nets)


def _within(address: Ip, nets: Sequence[Prefix]) -> bool:
    return any(address in net for net in nets)


def ports_match(index: PolicyIndex, flow: Flow, which: str, policy: Policy, rule: Rule, ask: Ask) -> bool:
    """Whether protocol and destination port are among a rule's ports."""
    if rule.ports is None:
        return True
    for port in rule.ports:
        if port.protocol not in (0, flow.protocol):
            continue
        if port.first >= 0:
            if port.first <= flow.port <= port.last or flow.protocol not in _POLICED:
                return True
        elif _named(index, flow, port, ask) and _named_everywhere(index, flow, which, policy, rule, ask):
            return True
    return False


def _named(index: PolicyIndex, flow: Flow, port: Port, ask: Ask) -> bool:
    """Whether a port's name means the flow's port: resolved at the destination pod, by name and protocol."""
    number = flow.destination.pod
    if index.dialect.polices_hosts and (port.name, flow.protocol, flow.port) in index.host_ports.get(flow.destination.ip, ()):
        return True  # a host endpoint may declare ports, too
    if number < 0 or (flow.destination.node and ask(Question.HOST_NETWORK) == "no"):
        return False
    found = [
        declared
        for declared in index.pods[number].ports
        if declared.name == port.name
        and declared.container_port == flow.port
        and PROTOCOL_NUMBERS[declared.protocol.lower()] == flow.protocol
    ]
    return any(not d.sidecar for d in found) or (bool(found) and ask(Question.SIDECAR_PORTS) == "yes")


def _named_everywhere(index: PolicyIndex, flow: Flow, which: str, policy: Policy, rule: Rule, ask: Ask) -> bool:
    """An egress rule of a NetworkPolicy without peers: at whose pods is the name looked up."""
    if which != EGRESS or rule.peers is not None or rule.extra is not None:
        return True
    match ask(Question.NAMED_EGRESS_PORT):
        case "all pods":
            return True
        case "none":
            return False
        case _:
            return index.pods[flow.destination.pod].namespace == policy.key.partition("/")[0]


def _extra(index: PolicyIndex, flow: Flow, which: str, extra: Extra, ask: Ask) -> bool:
    """What only Calico's rules ask."""
    own = flow.source if which == EGRESS else flow.destination
    icmp = (flow.icmp_type, flow.icmp_code)
    return (
        extra.ip_version in (None, own.ip.family)
        and extra.protocol in (None, flow.protocol)
        and (extra.not_protocol is None or extra.not_protocol != flow.protocol)
        and (extra.icmp is None or _icmp(extra.icmp, icmp))
        and (extra.not_icmp is None or not _icmp(extra.not_icmp, icmp))
        and (not extra.source_ports or any(q.first <= flow.sport <= q.last for q in extra.source_ports))
        and not any(q.first <= flow.sport <= q.last for q in extra.not_source_ports)
        and not any(q.first <= flow.port <= q.last if q.first >= 0 else _named(index, flow, q, ask) for q in extra.not_ports)
        and (extra.own is None or _peer(index, extra.own, own, flow, None, ask))
        and (not extra.http or ask(Question.HTTP) == "match")
    )


def _icmp(wanted: IcmpMatch, icmp: tuple[int, int]) -> bool:
    return wanted.type in (None, icmp[0]) and wanted.code in (None, icmp[1])


# --- hosts ---------------------------------------------------------------------------------------------------


def _at_host(index: PolicyIndex, flow: Flow, which: str, end: End, ask: Ask) -> Half:
    """A node, a hostNetwork pod or somebody outside: only Calico's host endpoints are under policy."""
    tunnel = flow.tunnel_out if which == EGRESS else flow.tunnel_in
    names = index.host_endpoints(end, tunnel) if end.node and index.dialect.polices_hosts else []
    other = flow.destination if which == EGRESS else flow.seen or flow.source
    back = which == INGRESS and flow.sent_to is not None  # by a node port of another node: it comes in by the wire
    if names and not back and other.pod >= 0 and not other.node and index.pods[other.pod].node_name == end.node:
        # host to its own pods: cali-OUTPUT returns; a pod to its own host: accepted behind the pod's own egress policies
        # (DefaultEndpointToHostAction Accept)
        names = []
    hosts = index.cluster.policy_objects.host_endpoints
    if not names or (other.node and other.node == end.node and hosts[names[0]].interface_name != "*"):
        return Half(which, end, Says.ALLOWED, Because.NO_POD)  # within a host it goes by lo, which is one of all devices
    name = names[0]
    selected = index.applied_to_host(which, name)
    if unmodelled := next((q for q in selected if q.unmodelled), None):
        return Half(which, end, Says.UNDEFINED, Because.HOST_ENDPOINT, selected, unmodelled)
    options = index.cluster.calico.felix_of(end.node)
    safe = options.failsafe_out if which == EGRESS else options.failsafe_in
    if any((flow.protocol, flow.port) == (p, port) and (net is None or other.ip in net) for p, port, net in safe):
        return Half(which, end, Says.ALLOWED, Because.FAILSAFE, selected)
    if flow.established and ask(Question.ESTABLISHED) == "no":
        return Half(which, end, Says.ALLOWED, Because.ESTABLISHED, selected)
    found = _walk(index, flow, which, selected, ask)
    if found.because is Because.TIERS_END:
        found = _profiles(index, flow, which, name, ask)
    return Half(which, end, found.says, found.because, selected, found.policy, found.rule, found.tier)


def _profiles(index: PolicyIndex, flow: Flow, which: str, host_endpoint: str, ask: Ask) -> _End:
    """A host endpoint's profiles in their order; what none allows is dropped."""
    for profile in index.profiles(host_endpoint):
        hit = _policy(index, flow, which, profile, ask) if which in profile.rules else None
        if hit is not None and hit[2] is not Action.PASS:
            return _End(Says.ALLOWED if hit[2] is Action.ALLOW else Says.DENIED, Because.RULE, profile, hit[1])
    return _End(Says.DENIED, Because.HOST_ENDPOINT)
