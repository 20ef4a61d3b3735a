"""What one trace says of a pair, as far as a cell of the matrix cares: verdict, reason, policies that decide, what was reached.

    Trace --(each branch: the connection that policies judge, the rule of a policy that decides)--> Pair

Law: nothing is decided here: the verdict is the trace's, a policy is named where `semantics.decide` says so. A drop is a policy's
only where the trace dropped the packet in silence and a policy denies it.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from netlab.dataplane.policy import words
from netlab.dataplane.policy.index import EGRESS, PolicyIndex
from netlab.dataplane.policy.semantics import Decision, Flow, Half, Says
from netlab.refs import Ref
from netlab.trace.policysteps import ENGINES, judged
from netlab.trace.query import Tracer
from netlab.trace.steps import Branch, Dropped, Routed, Trace, Verdict


class Decider(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What policy decided in one direction: the rule of a policy (`rule`, from 1), or all `policies` that select the end, none of
    whose rules allows. `says` is "allowed", "denied" or "undefined"; `refs` are where the rule, or each policy, is written."""

    direction: str
    says: str
    policies: tuple[str, ...]
    rule: int | None = None
    refs: tuple[Ref, ...] = ()


class Pair(msgspec.Struct, frozen=True):
    """What one trace says; `reached` are the endpoints behind a service, or the pod itself."""

    verdict: Verdict
    reason: str
    policies: tuple[Decider, ...]
    reached: tuple[str, ...]
    assumptions: tuple[str, ...]
    not_modelled: tuple[str, ...]
    denied: Flow | None = None  # by policies alone: every packet was dropped, and this is the connection that they deny


def read(tracer: Tracer, trace: Trace, target: str) -> Pair:
    """A trace as a Pair; `target` is the pod that was asked, as it was named, "" where something else was."""
    reason = ""
    deciders: dict[Decider, None] = {}
    flows: list[Flow | None] = []
    for branch in trace.branches:
        found, why, flow = _decided(tracer, trace, branch)
        deciders.update(dict.fromkeys(found))
        reason = reason or (why or branch.reason or "" if branch.verdict is not Verdict.DELIVERED else "")
        flows.append(flow if why else None)
    denied = flows[0] if trace.verdict is Verdict.DROPPED and None not in flows else None
    ends = {target or b.endpoint_name or b.endpoint or "" for b in trace.branches if b.verdict is Verdict.DELIVERED}
    return Pair(trace.verdict, reason, tuple(deciders), tuple(sorted(ends)), trace.assumptions, trace.not_modelled, denied)


def _decided(tracer: Tracer, trace: Trace, branch: Branch) -> tuple[tuple[Decider, ...], str, Flow | None]:
    """The policies that a branch owes its verdict to, in words why they deny it, and the connection that they judge.

    Where it was delivered, every rule that allows it; where it died, the first direction that denies it. Engines drop in silence:
    who was refused in so many words was refused by somebody else.
    """
    index = tracer.policies
    if tracer.cluster.cni.name not in ENGINES or not index.policies or branch.verdict is Verdict.REJECTED or _nowhere(branch):
        return (), "", None
    said = judged(trace, branch, index)
    if said is None:
        return (), "", None
    flow, decision = said
    if branch.verdict is Verdict.DELIVERED:
        return allowing(decision), "", flow
    return denying(decision), denial(index, flow, decision) if branch.verdict is Verdict.DROPPED else "", flow


def _nowhere(branch: Branch) -> bool:
    """Whether a packet ended where it had no way on, and so never came to the rules of a policy behind that."""
    steps = branch.hops[-1].steps
    return len(steps) > 1 and isinstance(steps[-1], Dropped) and isinstance(steps[-2], Routed)


def allowing(decision: Decision) -> tuple[Decider, ...]:
    """The rules by which a connection is allowed, in both directions."""
    return tuple(_decider(half) for half in (decision.egress, decision.ingress) if half.policy is not None)


def denying(decision: Decision) -> tuple[Decider, ...]:
    """The first direction that policies do not allow; empty where they allow both."""
    half = _closed(decision)
    return () if half is None else (_decider(half),)


def denial(index: PolicyIndex, flow: Flow, decision: Decision) -> str:
    """Why the first direction is not allowed, for the ends of `flow`, which may be others than were judged, if no rule tells them
    apart; "" where policies allow both."""
    half = _closed(decision)
    if half is None:
        return ""
    half = replace(half, end=flow.source if half.direction == EGRESS else flow.destination)
    return f"{words.selection(index, half)}; {words.verdict(index, flow, half, decision)}"


def _closed(decision: Decision) -> Half | None:
    """The first direction that policies do not allow."""
    halves = (decision.egress, decision.ingress)
    return next((half for half in halves if half.says is not Says.ALLOWED and half.selected), None)


def _decider(half: Half) -> Decider:
    direction, says = half.direction.lower(), half.says.value
    if half.policy is not None:
        rule, ref = (None, half.policy.ref) if half.rule is None else (half.rule.number, half.rule.ref)
        return Decider(direction, says, (half.policy.title,), rule, (ref,))
    return Decider(direction, says, tuple(p.title for p in half.selected), None, tuple(p.ref for p in half.selected))
