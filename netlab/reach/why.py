"""Why a connection works or not, and the smallest change that flips the answer: proposed, applied to the model, traced again.

    question -> situation.py -> reasons.py     the sentence
                     |
                     +-> candidates.py -> change.apply -> trace again -> flips?  -> effects.py   what else it changes
                                                                                     smallest first

Law: only a change that was applied and whose trace came out the other way is shown. Smallest is the least sum: ten for an
object, one for a line of YAML that is touched, one for every other flow that changes, ten for a service whose endpoints do. Where
policies close both ends, two changes together are tried as well, one for each; where nothing helps yet, a change that gets
further, with one that goes on from there. Where nothing flips the answer, what was tried is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

import msgspec

from netlab.dataplane.policy.dialect import Dialect
from netlab.dataplane.policy.index import PolicyIndex
from netlab.dataplane.policy.semantics import Says, decide
from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.kube.policies import PolicyObjects
from netlab.reach.candidates import Candidate, Kind, Touched, candidates, joined, merged
from netlab.reach.change import Ask, SetCni, apply
from netlab.reach.effects import Asked, Effect, effect, group_of
from netlab.reach.reasons import Reason, by_policy, notes, reasons
from netlab.reach.situation import Answer, Situation, answer_of, look
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Party, Trace, Verdict

MOST = 6  # changes that are shown
_TRACED = 40  # candidates that are traced, at most
_OBJECT = 10  # an object counts as much as so many lines
_KINDS = list(Kind)
_STARTED = 2  # changes that a chain begins with
_FOLLOWING = 8  # of each kind that may come behind
_PAIRED = 5  # candidates of an end that are paired with those of another


class Change(msgspec.Struct, frozen=True, rename="camel"):
    """A change that flips the answer. `kind` says what is changed; `objects` what is touched and where it stands; `patch` is a
    difference of YAML (a new object is its whole YAML); `lines` of it; `others` are the other flows that change; `after` what the
    new trace says."""

    kind: str
    what: str
    objects: tuple[Touched, ...]
    patch: str
    command: str
    lines: int
    others: Effect
    after: str
    note: str = ""


class Why(msgspec.Struct, frozen=True, rename="camel"):
    """The answer to "why". `answer` is yes, no, partly or unknown, `verdict` the trace's; `reasons` the sentences, the deciding
    one first; `changes` flip the answer, the smallest first; `tried` counts what was tried, by kind."""

    source: Party
    destination: Party
    protocol: str
    answer: Answer
    verdict: Verdict
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]
    changes: tuple[Change, ...]
    tried: dict[str, int]
    assumptions: tuple[str, ...] = ()
    not_modelled: tuple[str, ...] = ()


class Found(msgspec.Struct, frozen=True):
    """An answer with the edits behind its changes, in the same order."""

    why: Why
    candidates: tuple[Candidate, ...]


def explain(tracer: Tracer, request: Request, observed: bool = False) -> Found:
    """Why a request works or does not, and what would flip that.

    Parameters
    ----------
    tracer : Tracer
    request : Request
    observed : bool
        Whether the tracer holds dumps of nodes. Changes are of declared objects: they are then looked for only if what is
        declared gives the same answer.

    Returns
    -------
    Found

    Raises
    ------
    InputError
        Whatever `netlab trace` refuses.
    """
    s = look(tracer, request)
    said = list(notes(s))
    flips: list[tuple[Change, Candidate]] = []
    tried: Counter[str] = Counter()
    declared = s
    if observed:
        declared = look(Tracer(tracer.cluster), request)
        if declared.answer is not s.answer:
            said.insert(
                0,
                f"What should be on the nodes says {declared.answer.value}: the dumps differ from it, so no change of an object "
                "is looked for (netlab trace shows the rules that were observed).",
            )
    if s.answer is not Answer.UNKNOWN and declared.answer is s.answer:
        flips = _search(declared, tried)
    why = Why(
        s.trace.source,
        s.trace.destination,
        s.trace.protocol,
        s.answer,
        s.trace.verdict,
        reasons(s),
        tuple(said),
        tuple(change for change, _ in flips),
        dict(tried),
        s.trace.assumptions,
        s.trace.not_modelled,
    )
    return Found(why, tuple(candidate for _, candidate in flips))


def flipped(before: Answer, after: Answer) -> bool:
    """Whether a new answer is the other one: "partly" wants to become yes, yes to become no."""
    return after is (Answer.NO if before is Answer.YES else Answer.YES)


def traced(cluster: Cluster, request: Request, candidate: Candidate) -> Trace:
    """The question asked again after a change."""
    for edit in candidate.edits:
        if isinstance(edit, Ask):
            request = edit.request
    return Tracer(apply(cluster, candidate.edits)).trace(request)


# --- the search ----------------------------------------------------------------------------------------------


def _search(s: Situation, tried: Counter[str]) -> list[tuple[Change, Candidate]]:
    """The changes that flip the answer, the smallest first, no more than are shown."""
    indexes: dict[int, PolicyIndex] = {}  # of the cluster after a candidate, by its identity
    every = sorted(candidates(s), key=_least)
    found = _flipping(s, every, [], tried, indexes)
    if s.answer is not Answer.YES:
        pairs = sorted(_pairs(s, every, indexes), key=_least)
        found = _flipping(s, pairs, found, tried, {})
        if not found:
            found = _flipping(s, sorted(_chains(s, every), key=_least), [], tried, {})
    return found


def _least(candidate: Candidate) -> tuple[bool, int, str]:
    """What a candidate costs at least: others may change besides."""
    return candidate.asks, _size(candidate), candidate.what


def _size(candidate: Candidate) -> int:
    return _OBJECT * len(candidate.touched) + candidate.lines


def _cost(change: Change, candidate: Candidate) -> tuple[bool, int, int, str]:
    """The least sum first, among equals the kind that is named first in `Kind`, then by words.

    Asking another question touches nothing, but is no answer to this one: it comes behind.
    """
    return candidate.asks, _size(candidate) + change.others.weight, _KINDS.index(candidate.kind), change.what


def _flipping(
    s: Situation,
    every: Sequence[Candidate],
    known: Sequence[tuple[Change, Candidate]],
    tried: Counter[str],
    indexes: dict[int, PolicyIndex],
) -> list[tuple[Change, Candidate]]:
    """Those that flip the answer, with those that are known to, the smallest of all.

    What policies alone can rule out is not traced, nor what costs more than as many as are shown.
    """
    asked = _asked(s)
    found = list(known)
    traces = 0
    for candidate in every:
        if traces == _TRACED or (len(found) == MOST and _least(candidate)[:2] > _cost(*found[-1])[:2]):
            break
        tried[candidate.kind.value] += 1
        index = None
        if not candidate.asks:
            index = _policies_after(s, candidate, indexes)
            if _policies_rule_out(s, index, candidate):
                continue
        traces += 1
        try:
            trace = traced(s.cluster, s.request, candidate)
        except InputError:
            continue  # a change after which the question cannot be asked flips nothing
        if not flipped(s.answer, answer_of(trace)):
            continue
        others = Effect()
        if index is not None:
            engine = s.enforced or any(isinstance(edit, SetCni) for edit in candidate.edits)
            before = s.index if s.enforced else _unpoliced(s, s.cluster)
            after = index if engine else _unpoliced(s, index.cluster)
            others = effect(before, after, asked, s.service.key if s.service is not None else "")
        found.append((_change(candidate, others, trace), candidate))
        found = sorted(found, key=lambda f: _cost(*f))[:MOST]
    return found


def _index(s: Situation, cluster: Cluster) -> PolicyIndex:
    dialect: Dialect = s.index.dialect
    return PolicyIndex(cluster, dialect, s.index.node_by_ip)


def _policies_after(s: Situation, candidate: Candidate, indexes: dict[int, PolicyIndex]) -> PolicyIndex:
    """The policies after a change, made once."""
    if id(candidate) not in indexes:
        indexes[id(candidate)] = _index(s, apply(s.cluster, candidate.edits))
    return indexes[id(candidate)]


def _unpoliced(s: Situation, cluster: Cluster) -> PolicyIndex:
    """What is enforced where there is no engine: nothing."""
    return _index(s, msgspec.structs.replace(cluster, policies={}, policy_objects=PolicyObjects()))


def _policies_rule_out(s: Situation, index: PolicyIndex, candidate: Candidate) -> bool:
    """Whether policies alone say that a change does not help: cheaper than a trace, and for the same reason right.

    Not where it is about services: then the connections are others.
    """
    if candidate.kind not in (Kind.LABEL, Kind.RULE, Kind.POLICY) or not s.judged or not s.enforced:
        return False
    says = [decide(index, judged.flow).says for judged in s.judged]
    if s.answer is Answer.YES:
        return candidate.kind is not Kind.LABEL and Says.DENIED not in says
    return s.denied and Says.DENIED in says


def _pairs(s: Situation, every: Sequence[Candidate], indexes: dict[int, PolicyIndex]) -> Iterator[Candidate]:
    """Two changes of policies that together open every end: each alone opens some, neither all."""
    opened: list[tuple[frozenset[tuple[int, int]], Candidate]] = []
    closed = frozenset(_closed(s, s.index))
    for candidate in every:
        if candidate.kind in (Kind.LABEL, Kind.RULE, Kind.POLICY) and not candidate.asks:
            index = _policies_after(s, candidate, indexes)
            left = frozenset(_closed(s, index))
            if left < closed:
                opened.append((left, candidate))
    by_end: dict[frozenset[tuple[int, int]], list[Candidate]] = {}
    for left, candidate in opened:
        by_end.setdefault(left, []).append(candidate)
    for one, other in combinations(by_end, 2):
        if one & other:
            continue
        for first in by_end[one][:_PAIRED]:
            for second in by_end[other][:_PAIRED]:
                if (both := merged(s.cluster, first, second)) is not None:
                    yield both


def _chains(s: Situation, every: Sequence[Candidate]) -> Iterator[Candidate]:
    """A change that gets further, to where something else is in the way, and one that removes that."""
    here = {reason.kind for reason in reasons(s)}
    started = 0
    for first in every:
        if started == _STARTED:
            return
        if first.kind in (Kind.RULE, Kind.POLICY, Kind.TWO):
            continue
        request = next((edit.request for edit in first.edits if isinstance(edit, Ask)), s.request)
        try:
            after = look(Tracer(apply(s.cluster, first.edits)), request)
        except InputError:
            continue
        now = {reason.kind for reason in reasons(after)}
        if after.answer is Answer.UNKNOWN or now >= here:
            continue
        started += 1
        then = sorted(candidates(after), key=_least)
        for second in [*then[:_FOLLOWING], *list(_pairs(after, then, {}))[:_FOLLOWING]]:
            same = {t.object for t in first.touched} & {t.object for t in second.touched}
            if not same or all(t.action != "change" for t in second.touched):
                yield joined([first, second], Kind.TWO, f"{first.what}, and {second.what}")


def _closed(s: Situation, index: PolicyIndex) -> Iterator[tuple[int, int]]:
    for n, judged in enumerate(s.judged):
        decision = decide(index, judged.flow)
        for direction, half in enumerate((decision.egress, decision.ingress)):
            if half.says is Says.DENIED:
                yield n, direction


def _asked(s: Situation) -> Asked:
    """The question itself, among flows: its workloads and ports."""
    return frozenset(
        (group_of(s.index, j.flow.source), group_of(s.index, j.flow.destination), j.flow.protocol, j.flow.port) for j in s.judged
    )


# --- what is said of a change --------------------------------------------------------------------------------


def _change(candidate: Candidate, others: Effect, trace: Trace) -> Change:
    return Change(
        candidate.kind.value,
        candidate.what,
        candidate.touched,
        candidate.patch,
        candidate.command,
        candidate.lines,
        others,
        _after(trace),
        candidate.note,
    )


def _after(trace: Trace) -> str:
    """What the new trace says: where it arrives, or how it ends."""
    endpoints = list(dict.fromkeys(b.endpoint for b in trace.branches if b.endpoint and b.verdict is Verdict.DELIVERED))
    if trace.verdict is Verdict.DELIVERED:
        return f"delivered to {endpoints[0]}" if len(endpoints) == 1 else f"delivered to {len(endpoints)} endpoints"
    reason = next((b.reason for b in trace.branches if b.reason), "")
    if answer_of(trace) is Answer.NO and all(map(by_policy, trace.branches)):
        return "denied by policy"
    return f"{trace.verdict.value}{f': {reason}' if reason else ''}"
