"""Two states of a cluster: whose connections open, close or change, and which policy rule says so.

    before --matrix--+
                     +-- cell by cell --> opened, closed, changed, the same but decided otherwise
    after  --matrix--+                    workloads, services, ports that only one state has; policies that differ

Law: both sides are answers of the tracer (matrix.py). Where two states differ in nothing but policies and labels, a cell is asked
only if the policies that apply to a pod at one of its ends differ; any other cell has the same packets and the same rules. The
mirror holds: compare(B, A) is compare(A, B) with opened and closed, before and after, added and removed exchanged.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from netlab.dataplane.policy.index import DIRECTIONS, EGRESS, INGRESS, PolicyIndex
from netlab.kube.cluster import Cluster
from netlab.kube.policies import CalicoPolicy
from netlab.reach import outside
from netlab.reach.answers import Decider
from netlab.reach.matrix import Answer, Cell, Column, Group, Row, ask, columns, groups
from netlab.refs import Ref
from netlab.trace.policysteps import ENGINES
from netlab.trace.query import Tracer


class Kind(enum.Enum):
    """What became of a connection; in the order in which a reviewer wants to see it."""

    OPENED = "opened"  # more is delivered than before
    CLOSED = "closed"  # less is
    CHANGED = "changed"  # unknown, or nobody to ask, on one side; other pods of the same workloads
    REDECIDED = "redecided"  # the same answer, by another policy or rule
    UNDECIDED = "undecided"  # unknown on both sides, for different reasons or by other rules: whether it differs is not known


DIFFERENT = (Kind.OPENED, Kind.CLOSED, Kind.CHANGED)
_MIRROR = {Kind.OPENED: Kind.CLOSED, Kind.CLOSED: Kind.OPENED}
_OTHER = " (projectcalico.org)"  # where two kinds of NetworkPolicy share a name
_RANK = {Answer.NO: 0, Answer.SOME: 1, Answer.YES: 2}


class Change(msgspec.Struct, frozen=True):
    """One cell of the matrix, before and after."""

    kind: Kind
    before: Cell
    after: Cell


class PolicyChange(msgspec.Struct, frozen=True):
    """A policy that one state has, or that differs: `how` "added", "removed" or "changed"; how many of the answers that differ it
    decides, how many that stay what they were; `why` it changes nothing, where it changes nothing."""

    how: str
    title: str
    ref: Ref
    was: Ref | None = None  # where it stood before, if it has changed
    changes: int = 0
    stays: int = 0
    why: str = ""


class Thing(msgspec.Struct, frozen=True):
    """What only one state has: `what` "workload" (or "pod", "namespace"), "service" or "port"."""

    what: str
    name: str


class Comparison(msgspec.Struct, frozen=True):
    """What differs. `sources` and `destinations` are those of both states; `answers` is how many cells both have, `asked` how
    many of them were asked. `owners` maps a destination's name to the sources whose only pod stands behind it."""

    sources: tuple[str, ...]
    destinations: tuple[Column, ...]
    answers: int
    asked: int
    changes: tuple[Change, ...]
    added: tuple[Thing, ...]
    removed: tuple[Thing, ...]
    policies: tuple[PolicyChange, ...]
    owners: Mapping[str, frozenset[str]] = {}
    left_out: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    not_modelled: tuple[str, ...] = ()

    def of(self, *kinds: Kind) -> list[Change]:
        """The changes of some kinds, in their order."""
        return [change for change in self.changes if change.kind in kinds]

    @property
    def differs(self) -> bool:
        """Whether a connection, a workload, a service or a port differs; policies alone are no difference."""
        return bool(self.of(*DIFFERENT) or self.added or self.removed)

    def mirrored(self) -> Comparison:
        """The comparison the other way round."""
        how = {"added": "removed", "removed": "added", "changed": "changed"}
        return replace(
            self,
            changes=tuple(Change(_MIRROR.get(c.kind, c.kind), c.after, c.before) for c in self.changes),
            added=self.removed,
            removed=self.added,
            policies=tuple(replace(p, how=how[p.how], ref=p.was or p.ref, was=p.was and p.ref) for p in self.policies),
        )


def compare(
    before: Tracer,
    after: Tracer,
    by: str = "workloads",
    progress: Callable[[int], None] = lambda done: None,
    jobs: int = 1,
    everything: bool = False,
) -> Comparison:
    """Ask both states and compare.

    Parameters
    ----------
    before, after : Tracer
    by : str
        "workloads", "pods" or "namespaces".
    progress : callable
        Told how many answers of each state are there.
    jobs : int
        How many processes ask.
    everything : bool
        Ask every cell, also where nothing that it depends on differs.
    """
    sides = [_Side(tracer, by) for tracer in (before, after)]
    first, second = sides
    names = [name for name in first.rows if name in second.rows]
    beyond = outside.sources((before, after))
    rows = [(first.rows[name], second.rows[name]) for name in names] + [(row, row) for row in beyond]
    shared = [column for column in first.columns if column in second.columns]
    pairs = [(column, first.columns[column], second.columns[column]) for column in shared]
    pairs += [(column, group, group) for column, group in outside.destinations((before, after))]
    differ = _altered(_declared(before.cluster), _declared(after.cluster))
    altered = frozenset(title.removesuffix(_OTHER) for title in differ)
    same = (lambda source, column, group: False) if everything else _untouched(before, after, altered)
    work: list[tuple[tuple[Group, Group], list[tuple[Column, Group, Group]]]] = []
    for row in rows:
        wanted = [p for p in pairs if (row[0].pods or p[0].kind != "address") and not same(row[0], p[0], p[1])]
        if wanted:
            work.append((row, wanted))
    one = ask(before, [(row[0], [(c, g) for c, g, _ in wanted]) for row, wanted in work], progress, jobs)
    two = ask(after, [(row[1], [(c, g) for c, _, g in wanted]) for row, wanted in work], progress, jobs)
    changes = [found for a, b in zip(one, two, strict=True) for found in _row(a, b, altered)]
    inside = sum(c.kind != "address" for c, _, _ in pairs)
    return Comparison(
        sources=tuple(row.name for row, _ in rows),
        destinations=tuple(column for column, _, _ in pairs),
        answers=len(names) * len(pairs) + len(beyond) * inside,
        asked=sum(len(wanted) for _, wanted in work),
        changes=tuple(changes),
        added=_only(second, first, by),
        removed=_only(first, second, by),
        policies=_policies(before, after, changes, differ),
        left_out=tuple(outside.left_out((before, after))),
        owners={column.name: _owner(first, column) & _owner(second, column) for column in shared},
        assumptions=tuple(dict.fromkeys(text for row in (*one, *two) for text in row.assumptions)),
        not_modelled=tuple(dict.fromkeys(text for row in (*one, *two) for text in row.not_modelled)),
    )


class _Side:
    """One state: its rows by name, its columns, and whose pods stand behind them."""

    def __init__(self, tracer: Tracer, by: str) -> None:
        self.tracer = tracer
        self.rows = {group.name: group for group in groups(tracer.cluster, by)}
        self.columns = dict(columns(tracer, self.rows.values(), services=True))
        self.row_of = {pod: group.name for group in self.rows.values() for pod in group.pods}


def _owner(side: _Side, column: Column) -> frozenset[str]:
    """The source whose only pod is all that stands behind a destination: what it sends there, it sends to itself."""
    pods = _pods_behind(side.tracer.cluster, column, side.columns[column])
    names = {side.row_of[pod] for pod in pods if pod in side.row_of}
    return frozenset(name for name in names if set(side.rows[name].pods) == pods)


def _pods_behind(cluster: Cluster, column: Column, group: Group) -> set[str]:
    """The pods that a destination leads to."""
    if group.pods or column.kind != "service":
        return set(group.pods)
    namespace, _, name = column.name.split("/")
    by_ip = {a: key for key, pod in cluster.pods.items() if not pod.host_network for a in pod.ips}
    endpoints = [e for part in cluster.slices.get(f"{namespace}/{name}", ()) for e in part.endpoints]
    found = {e.target_pod for e in endpoints if e.target_pod} | {by_ip[a] for e in endpoints for a in e.addresses if a in by_ip}
    return {key for key in found if key in cluster.pods}


# -- cells -------------------------------------------------------------------------------------------------------------


def _row(before: Row, after: Row, altered: frozenset[str]) -> Iterable[Change]:
    for a, b in zip(before.cells, after.cells, strict=True):
        kind = _kind(a, b, altered)
        if kind is not None:
            yield Change(kind, a, b)


def _kind(before: Cell, after: Cell, altered: frozenset[str] = frozenset()) -> Kind | None:
    """What became of a cell; None: nothing. `altered` are policies that differ: two unknowns by one of them may, too."""
    answers = (before.answer, after.answer)
    if before.answer is after.answer:
        if before.answer is Answer.UNKNOWN:
            other = (before.reason, _decided(before)) != (after.reason, _decided(after))
            by = {title for decider in before.policies for title in decider.policies}
            return Kind.UNDECIDED if other or by & altered else None
        if before.answer is Answer.SOME and (more := _more(before, after)) is not None:
            return more
        return Kind.REDECIDED if _decided(before) != _decided(after) else None
    if answers[0] in _RANK and answers[1] in _RANK:
        return Kind.OPENED if _RANK[answers[1]] > _RANK[answers[0]] else Kind.CLOSED
    return Kind.CHANGED


def _more(before: Cell, after: Cell) -> Kind | None:
    """Which of two cells that say "some" says more; None where they say the same."""
    one, two = ({(o.sender, o.target): o for o in cell.outcomes} for cell in (before, after))
    if one.keys() != two.keys():  # other pods: their shares are all that can be compared
        left, right = before.delivered * after.pairs, after.delivered * before.pairs
        return None if left == right else Kind.OPENED if right > left else Kind.CLOSED
    pairs = [(set(one[key].reached), set(two[key].reached), one[key], two[key]) for key in one]
    if all(a == b and x.verdict == y.verdict for a, b, x, y in pairs):
        return None
    if all(a <= b for a, b, _, _ in pairs) and after.delivered >= before.delivered:
        return Kind.OPENED
    if all(a >= b for a, b, _, _ in pairs) and before.delivered >= after.delivered:
        return Kind.CLOSED
    return Kind.CHANGED


def _decided(cell: Cell) -> tuple[Decider, ...]:
    """By which rules a cell is what it is; not where they are written, for lines move."""
    return tuple(replace(d, refs=()) for d in cell.policies)


def _only(side: _Side, other: _Side, by: str) -> tuple[Thing, ...]:
    """What the other state lacks: rows, services, and ports of rows and services that both have."""
    word = by.removesuffix("s")
    found = [Thing(word, name) for name in side.rows if name not in other.rows]
    lacking = {thing.name for thing in found}
    known = {column.name for column in other.columns}
    for column in side.columns:
        if column in other.columns or column.name in lacking:
            continue
        if column.kind == "service" and column.name not in known:
            thing = Thing("service", column.name)
            if thing not in found:
                found.append(thing)
        else:
            found.append(Thing("port", str(column)))
    return tuple(found)


# -- what need not be asked --------------------------------------------------------------------------------------------


def _untouched(before: Tracer, after: Tracer, altered: frozenset[str]) -> Callable[[Group, Column, Group], bool]:
    """Whether a cell depends on nothing that differs: the network is the same, and the policies at both of its ends are.

    An engine renders policies for each endpoint apart: egress rules at the source, ingress rules at the destination
    (felix/rules/endpoints.go; so do the others). Those of host endpoints concern everything that passes a node.
    """
    if not _same_network(before.cluster, after.cluster):
        return lambda source, column, group: False
    if before.cluster.cni.name not in ENGINES:
        return lambda source, column, group: True  # nobody enforces policies
    one, two = before.policies, after.policies
    bare = [{policy.title: bare_value(policy) for policy in index.policies} for index in (one, two)]
    equal = {title for title in bare[0] if bare[1].get(title) == bare[0][title]} - altered
    hosts = {p.title for index in (one, two) for p in index.policies if p.host_endpoints or p.unmodelled}
    if not hosts <= equal or [bare_value(t) for t in one.tiers] != [bare_value(t) for t in two.tiers]:
        return lambda source, column, group: False
    touched = {
        direction: {key for key, n in one.number.items() if _touched(one, two, direction, n, equal)} for direction in DIRECTIONS
    }

    def same(source: Group, column: Column, group: Group) -> bool:
        if not touched[EGRESS].isdisjoint(source.pods):
            return False
        return touched[INGRESS].isdisjoint(_pods_behind(before.cluster, column, group))

    return same


def _touched(one: PolicyIndex, two: PolicyIndex, direction: str, pod: int, equal: set[str]) -> bool:
    titles = [[policy.title for policy in index.applied(direction, pod)] for index in (one, two)]
    return titles[0] != titles[1] or not equal.issuperset(titles[0])


def _same_network(before: Cluster, after: Cluster) -> bool:
    """Whether two clusters are the same but for policies, what these select by (labels), and where things are written."""
    return _network(before) == _network(after)


def _network(cluster: Cluster) -> tuple[Any, ...]:
    objects = cluster.policy_objects
    return (
        tuple(bare_value(node) for node in cluster.nodes.values()),
        tuple(bare_value(replace(pod, labels={}, annotations={})) for pod in cluster.pods.values()),
        tuple(bare_value(replace(service, labels={}, annotations={})) for service in cluster.services.values()),
        tuple((key, tuple(bare_value(part) for part in parts)) for key, parts in sorted(cluster.slices.items())),
        *(bare_value(x) for x in (cluster.fabric, cluster.cni, cluster.calico, cluster.proxy)),
        (cluster.pod_cidrs, cluster.service_cidrs, tuple(sorted(cluster.sysctls.items()))),
        tuple(bare_value(x) for found in (objects.host_endpoints, objects.profiles) for x in found.values()),
    )


def bare_value(value: Any) -> Any:
    """A value as nested tuples, without any Ref: two are equal where the values say the same, wherever they are written."""
    if isinstance(value, Ref):
        return None
    if isinstance(value, msgspec.Struct):
        return (type(value).__name__, *(bare_value(getattr(value, name)) for name in value.__struct_fields__))
    if isinstance(value, Mapping):
        return tuple(sorted((bare_value(k), bare_value(v)) for k, v in value.items()))
    if isinstance(value, (tuple, list)):
        return tuple(bare_value(v) for v in value)
    return value


# -- policies ----------------------------------------------------------------------------------------------------------


def _policies(before: Tracer, after: Tracer, changes: Sequence[Change], differ: Sequence[str]) -> tuple[PolicyChange, ...]:
    """The policies that differ, and what each of them does to the answers."""
    one, two = (_declared(tracer.cluster) for tracer in (before, after))
    changed: dict[str, int] = {}
    stays: dict[str, int] = {}
    for change in changes:
        count = changed if change.kind in DIFFERENT else stays
        titles = {title for cell in (change.before, change.after) for decider in cell.policies for title in decider.policies}
        for title in titles:
            count[title] = count.get(title, 0) + 1
    found = []
    for title in sorted(differ):
        a, b = one.get(title), two.get(title)
        how = "added" if a is None else "removed" if b is None else "changed"
        ref = next(p.ref for p in (b, a) if p is not None)
        n, stay = changed.get(title, 0), stays.get(title, 0)
        why = "" if n else _why(title, (before, after), (a, b), stay)
        found.append(PolicyChange(how, title, ref, a.ref if a is not None and b is not None else None, n, stay, why))
    return tuple(found)


def _declared(cluster: Cluster) -> dict[str, Any]:
    objects = cluster.policy_objects
    found: dict[str, Any] = {f"NetworkPolicy {p.key}": p for p in cluster.policies.values()}
    named = [(f"{p.kind} {p.key}", p) for p in objects.calico.values()]
    others = [(f"{p.kind} {p.key}", p) for p in objects.cluster.values()]
    for title, p in (*named, *others):
        found[title if title not in found else title + _OTHER] = p
    return found


def _altered(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """The titles of the policies that differ as they are written."""
    return [t for t in {**one, **two} if t not in one or t not in two or bare_value(one[t]) != bare_value(two[t])]


def _why(title: str, tracers: Sequence[Tracer], policies: Sequence[Any], stays: int) -> str:
    """Why a policy that differs changes no answer."""
    cni = tracers[0].cluster.cni.name
    if cni not in ENGINES:
        return f"{cni} enforces no policies" if cni != "none" else "nothing enforces policies"
    if all(getattr(p, "staged", False) for p in policies if p is not None):
        return "it is staged: never enforced"
    compiled = [(t, p) for t in tracers for p in t.policies.policies if p.title == title.removesuffix(_OTHER)]
    known = {tier.name for t in tracers for tier in t.policies.tiers}
    if not compiled and (tiers := {p.tier for p in policies if isinstance(p, CalicoPolicy)} - known):
        return f"its tier {', '.join(sorted(tiers))} is not among the input: it is not enforced"
    if not compiled:
        return f"the policy engine of {cni} does not read policies of this kind"
    selected = sorted({t.policies.pods[n].key for t, p in compiled for n in p.pods})
    if not selected and not any(p.host_endpoints for _, p in compiled):
        return "it selects nobody"
    if stays:
        are = "1 answer is decided by it and stays" if stays == 1 else f"{stays} answers are decided by it and stay"
        return f"{are} what {'it was' if stays == 1 else 'they were'}"
    some = ", ".join(selected[:3]) + (f" and {len(selected) - 3} more" if len(selected) > 3 else "")
    return f"it selects {some}, and none of the answers turns on it" if selected else "none of the answers turns on it"
