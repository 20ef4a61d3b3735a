"""A decision in the words of somebody who debugs it: who selects, which rule allowed, or what comes nearest to allowing it.

Law: nothing is decided here; the nearest miss is found with the very functions that decide (semantics.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import assert_never

from netlab.dataplane.policy.dialect import Dialect, Question
from netlab.dataplane.policy.index import EGRESS, Action, End, Policy, PolicyIndex, Port, Rule
from netlab.dataplane.policy.semantics import Ask, Because, Decision, Flow, Half, Says, peers_match, ports_match
from netlab.linux.packet import protocol_name
from netlab.refs import Ref

_SHOWN = 4  # names in one list


def place(ref: Ref) -> str:
    """`policies/web.yaml:12`; without a line the field."""
    if ref.file is None:
        return ""
    return f"{ref.file}:{ref.line}" if ref.line is not None else f"{ref.file}, {ref.path}" if ref.path else ref.file


def names(policies: Sequence[Policy]) -> str:
    """`NetworkPolicy default/a`, `NetworkPolicies default/a, default/b`; kinds that differ are each said."""
    parts = []
    for kind, group in groupby(policies[:_SHOWN], key=lambda policy: policy.kind):
        keys = [policy.key for policy in group]
        parts.append(f"{kind if len(keys) == 1 else kind.removesuffix('y') + 'ies'} {', '.join(keys)}")
    more = f" and {len(policies) - _SHOWN} more" if len(policies) > _SHOWN else ""
    return ", ".join(parts) + more


def selection(index: PolicyIndex, half: Half) -> str:
    """`NetworkPolicies default/a, default/b select api-0 for ingress`, or that none does."""
    who, which = called(index, half.end, half.end), half.direction.lower()
    if not half.selected:
        return f"no policy selects {who} for {which}"
    verb = "selects" if len(half.selected) == 1 else "select"
    return f"{names(half.selected)} {verb} {who} for {which}"


def reason(index: PolicyIndex, flow: Flow, half: Half, decision: Decision, peer: str = "") -> str:
    """Why a direction is allowed or denied, without the selection; "" where no policy selects.

    `peer` names the other end, where the caller knows a better name than its own.
    """
    which = half.direction.lower()
    match half.because:
        case Because.NO_POD | Because.UNSELECTED:
            return ""
        case Because.ITSELF:
            return "a pod cannot be kept from itself"
        case Because.OWN_NODE:
            return "the node that runs a pod always reaches it"
        case Because.ESTABLISHED:
            return "connections made before are not judged again"
        case Because.TUNNEL:
            return f"{decision.dialect} lets no pod send VXLAN or IPIP of its own"
        case Because.FAILSAFE:
            return "a failsafe port of host endpoints"
        case Because.PROTOCOL:
            return f"{decision.dialect} does not judge {protocol_name(flow.protocol).upper()}"
        case Because.RULE:
            assert half.policy is not None
            assert half.rule is not None
            return _by_rule(half.policy, half.rule, which)
        case Because.TIERS_END:
            return "none of the rules matches, and no tier drops the rest"
        case Because.TIER_END:
            return _tier_end(index, flow, half, peer)
        case Because.HOST_ENDPOINT:
            if half.policy is not None:
                return f"{half.policy.unmodelled}: only the rules tell"
            return "a host endpoint is closed but for what policies and profiles allow"
        case _ as never:
            assert_never(never)


def open_questions(decision: Decision) -> str:
    """What an undefined verdict depends on."""
    return "; ".join(f"{question.value}?" for question in decision.open)


def _short(policy: Policy) -> str:
    """Its name alone: its namespace has been said."""
    return policy.key.rpartition("/")[2]


def _by_rule(policy: Policy, rule: Rule, which: str) -> str:
    title = f' "{rule.name}"' if rule.name else ""
    where = place(rule.ref)
    return f"{_short(policy)} {which} rule {rule.number}{title}{f' ({where})' if where else ''}"


def _tier_end(index: PolicyIndex, flow: Flow, half: Half, peer: str) -> str:
    """`none of their rules allows web-0 on 8080 (nearest: a rule 1 allows app=front on 8080; web-0 has app=web)`."""
    mine = [policy for policy in half.selected if policy.tier.name == half.tier]
    other = flow.destination if half.direction == EGRESS else flow.seen or flow.source
    if not any(policy.rules[half.direction] for policy in mine):
        have = "has" if len(mine) == 1 else "have"
        whose = "it" if len(half.selected) == 1 else "they" if len(mine) == len(half.selected) else names(mine)
        return f"{whose} {have} no {half.direction.lower()} rule"
    who = peer if peer and half.direction == EGRESS else called(index, other, half.end)
    its = "its" if len(half.selected) == 1 else "their"
    text = f"none of {its} {half.direction.lower()} rules allows {who}{_on(flow)}"
    near = nearest(index, flow, half, mine, peer if half.direction == EGRESS else "")
    return f"{text} (nearest: {near})" if near else text


def _on(flow: Flow) -> str:
    """` on 8080`; TCP needs no name."""
    protocol = protocol_name(flow.protocol).upper()
    if flow.port:
        return f" on {flow.port}" if protocol == "TCP" else f" on {protocol} {flow.port}"
    return f" with {protocol}"


def called(index: PolicyIndex, end: End, beside: End) -> str:
    """A pod by its name, with its namespace where that is another one than that of the pod it is named beside."""
    if end.pod < 0:
        if end.name and end.name != str(end.ip):
            return f"{end.name} ({end.ip})" if end.name == end.node else end.name
        return str(end.ip)
    pod = index.pods[end.pod]
    if beside is end or (beside.pod >= 0 and index.pods[beside.pod].namespace == pod.namespace):
        return pod.name
    return pod.key


def nearest(index: PolicyIndex, flow: Flow, half: Half, policies: Sequence[Policy], peer: str = "") -> str:
    """The rule that fails on one thing alone, the port before the peer; "" where there is none.

    Returns
    -------
    str
        `a rule 1 allows app=front on 8080; web-0 has app=web`.
    """
    other = flow.destination if half.direction == EGRESS else flow.seen or flow.source
    wrong_port: tuple[Policy, Rule] | None = None
    wrong_peer: tuple[Policy, Rule] | None = None
    ask = Ask(index.dialect, {})
    for policy in policies:
        for rule in policy.rules[half.direction]:
            if rule.action is not Action.ALLOW or rule.extra is not None:
                continue
            if peers_match(index, flow, half.direction, rule, ask):
                wrong_port = wrong_port or (policy, rule)
            elif wrong_peer is None and ports_match(index, flow, half.direction, policy, rule, ask):
                wrong_peer = (policy, rule)
    if wrong_port:
        policy, rule = wrong_port
        return f"{_short(policy)} rule {rule.number} allows {_peers(rule)}{_ports(rule)}"
    if wrong_peer:
        policy, rule = wrong_peer
        has = _has(index, other, rule, half.end, peer)
        return f"{_short(policy)} rule {rule.number} allows {_peers(rule)}{_ports(rule)}; {has}"
    return ""


def _peers(rule: Rule) -> str:
    if rule.peers is None:
        return "everybody"
    shown = [peer.words for peer in rule.peers[:_SHOWN]]
    more = len(rule.peers) - _SHOWN
    return " or ".join(shown) + (f" or {more} more" if more > 0 else "")


def _ports(rule: Rule) -> str:
    if rule.ports is None:
        return ""
    return " on " + ", ".join(map(port_words, rule.ports))


def port_words(port: Port) -> str:
    """`8080`, `UDP 53`, `8000-8080`, `http`, `all UDP ports`."""
    protocol = "" if port.protocol in (0, 6) else protocol_name(port.protocol).upper() + " "
    if port.first < 0:
        return f"{protocol}{port.name}"
    if (port.first, port.last) == (0, 65535):
        return f"all {protocol or 'TCP '}ports"
    return f"{protocol}{port.first}" if port.first == port.last else f"{protocol}{port.first}-{port.last}"


def _has(index: PolicyIndex, end: End, rule: Rule, beside: End, peer: str = "") -> str:
    """What the peer has instead: `web-0 has app=web`, `web-0 has no label app`, `web-0 is in namespace shop`."""
    who = called(index, end, beside)
    keys = tuple(dict.fromkeys(key for peer in rule.peers or () for key in peer.keys))
    if not end.is_pod:
        if any(peer.nets for peer in rule.peers or ()):
            return f"its address is {end.ip}"
        return f"{who} is no pod" if end.pod < 0 else f"{who} is a hostNetwork pod"
    labels = index.pods[end.pod].labels
    name = peer or index.pods[end.pod].name
    if any(peer.pods is not None for peer in rule.peers or ()):
        if not keys:
            return f"{name} is in namespace {index.pods[end.pod].namespace}"
        had = [f"{key}={labels[key]}" if key in labels else f"no label {key}" for key in keys]
        inside = "" if peer or who == name else f" in namespace {index.pods[end.pod].namespace}"
        return f"{name}{inside} has {', '.join(had)}"
    return f"its address is {end.ip}"


def sentence(index: PolicyIndex, flow: Flow, half: Half, decision: Decision, peer: str = "") -> str:
    """One direction in one sentence."""
    said = verdict(index, flow, half, decision, peer)
    chosen = selection(index, half)
    return f"{chosen}; {said}" if said else chosen


_DONE = {Says.ALLOWED: "allowed", Says.DENIED: "denied", Says.UNDEFINED: "undefined"}
_WOULD = {Says.ALLOWED: "would allow it", Says.DENIED: "would deny it", Says.UNDEFINED: "may allow or deny it"}


def verdict(index: PolicyIndex, flow: Flow, half: Half, decision: Decision, peer: str = "", would: bool = False) -> str:
    """`denied: it has no ingress rule`, `allowed by p ingress rule 1 (web.yaml:7)`; `would`: as of an engine that is not there.

    "" where nothing was to be decided.
    """
    said = reason(index, flow, half, decision, peer)
    if half.says is Says.UNDEFINED and decision.open:
        said = f"implementations differ: {open_questions(decision)}"
    if not said:
        return ""
    joined = " by " if half.because is Because.RULE and half.says is not Says.UNDEFINED else ": "
    return f"{(_WOULD if would else _DONE)[half.says]}{joined}{said}"


def turns(dialect: Dialect, questions: Sequence[Question]) -> str:
    """`other engines may differ (does an ipBlock match pods by their address? calico: yes)`, for what the verdict turned on."""
    if not questions:
        return ""
    asked = "; ".join(f"{question.value}? {dialect.name}: {dialect.answer(question)}" for question in questions)
    return f"other engines may differ ({asked})"
