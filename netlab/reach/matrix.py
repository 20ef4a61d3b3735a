"""The connectivity matrix: who reaches whom, on every port that anything listens on, asked of the tracer pair by pair.

    workloads, namespaces or pods --+                            +-- their ports (pods' sockets)
                                    +-- cell: yes, no, some, ? --+-- services (through their endpoints)

Law: nothing is sampled: a cell speaks for every pod behind its row and every pod or endpoint behind its column, and says
"some" where they differ. Pods ask with the address that they have, so that masquerading and policies apply as they really do;
where both ends have addresses of both families, by each. A pod's connection to itself is left out of a cell that has other pairs.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence

import msgspec
from msgspec.structs import replace

from netlab.dataplane.policy import words
from netlab.dataplane.policy.index import PolicyIndex
from netlab.dataplane.policy.semantics import Decision, Flow, Half, Says, decide
from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.kube.names import SHORT
from netlab.kube.objects import Pod
from netlab.linux.addr import Ip
from netlab.linux.packet import protocol_name
from netlab.reach.classes import Classes
from netlab.reach.spread import spread
from netlab.refs import Ref
from netlab.trace.policysteps import ENGINES, judged
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Branch, Trace, Verdict

GROUPINGS = ("workloads", "pods", "namespaces")
INTERNET = "internet"
_OVER = " over IPv"  # behind a destination that is asked by each family
_FEW = 400  # cells: less than that is not worth a fork


class Answer(enum.Enum):
    """What a cell says."""

    YES = "yes"  # every pair delivers
    NO = "no"  # no pair does
    SOME = "some"  # pairs or branches differ
    UNKNOWN = "?"  # it depends on something that is not modelled
    NONE = "-"  # no packet to send: other families, no address


class Group(msgspec.Struct, frozen=True):
    """A row, or the owner of columns: pods that are spoken of together. `name` as a user writes it, with the namespace."""

    name: str
    pods: tuple[str, ...]


class Column(msgspec.Struct, frozen=True, rename="camel"):
    """A destination: `name` ("default/web", "default/svc/api", "internet"), port and protocol."""

    name: str
    port: int
    protocol: str
    kind: str = "pods"  # or "service", "address"

    def __str__(self) -> str:
        proto = "" if self.protocol == "TCP" else f"/{self.protocol}"
        return f"{self.name}:{self.port}{proto}"


class Decider(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What policy decided in one direction: the rule of a policy (`rule`, from 1), or all `policies` that select the end, none of
    whose rules allows. `says` is "allowed", "denied" or "undefined"; `refs` are where the rule, or each policy, is written."""

    direction: str
    says: str
    policies: tuple[str, ...]
    rule: int | None = None
    refs: tuple[Ref, ...] = ()


class Outcome(msgspec.Struct, frozen=True):
    """One pair of a cell that says "some": its verdict, and the endpoints that were reached."""

    sender: str
    target: str
    verdict: str
    reached: tuple[str, ...]


class Cell(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One answer with its reason (the first that says no or unknown), how many of its pairs delivered, and the policies by which
    it is so; `outcomes` where pairs differ; `families` where one delivers all and the other nothing."""

    source: str
    destination: Column
    answer: Answer
    reason: str = ""
    delivered: int = 0
    pairs: int = 0
    policies: tuple[Decider, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    families: tuple[int, ...] = ()


class Row(msgspec.Struct, frozen=True):
    """The cells of one source, and what its traces assume and do not model."""

    cells: tuple[Cell, ...]
    assumptions: tuple[str, ...]
    not_modelled: tuple[str, ...]


class Matrix(msgspec.Struct, frozen=True, rename="camel"):
    """Rows are names of sources; `cells[row][column]`."""

    sources: tuple[str, ...]
    destinations: tuple[Column, ...]
    cells: tuple[tuple[Cell, ...], ...]
    assumptions: tuple[str, ...] = ()
    not_modelled: tuple[str, ...] = ()


def groups(cluster: Cluster, by: str, namespaces: Sequence[str] = ()) -> list[Group]:
    """The cluster's pods that have an address, grouped by "workloads", "pods" or "namespaces", in order of their names."""
    found: dict[tuple[str, str], list[str]] = {}
    for key in sorted(cluster.pods):
        pod = cluster.pods[key]
        if not pod.ips or (namespaces and pod.namespace not in namespaces):
            continue
        if pod.node_name not in cluster.nodes:
            continue
        match by:
            case "pods":
                name, kind = key, ""
            case "namespaces":
                name, kind = pod.namespace, ""
            case _:
                name, kind = workload_name(pod), pod.owner.partition(" ")[0] or "Pod"
        found.setdefault((name, kind), []).append(key)
    names = Counter(name for name, _ in found)
    # a Deployment and a StatefulSet of one name are two rows, each as one would have to write it
    spelled = {which: which[0] if names[which[0]] == 1 else _with_kind(*which) for which in found}
    return sorted((Group(spelled[which], tuple(pods)) for which, pods in found.items()), key=lambda group: group.name)


def _with_kind(name: str, kind: str) -> str:
    namespace, _, own = name.partition("/")
    return f"{namespace}/{SHORT.get(kind, kind.lower())}/{own}"


def workload_name(pod: Pod) -> str:
    """`default/web` for a pod of Deployment web, else the pod's own name."""
    return f"{pod.namespace}/{pod.owner.partition(' ')[2]}" if pod.owner else pod.key


def columns(tracer: Tracer, of: Iterable[Group], services: bool, namespaces: Sequence[str] = ()) -> list[tuple[Column, Group]]:
    """Every port on which pods of a group listen, and every port of every service (with an empty group)."""
    cluster = tracer.cluster
    found: list[tuple[Column, Group]] = []
    for group in of:
        ports: dict[tuple[int, str], None] = {}
        for key in group.pods:
            pod = cluster.pods[key]
            where = pod.node_name if pod.host_network else key
            for listener in tracer.network.namespaces[where].listeners:
                if listener.owner == f"pod {key}":
                    ports[listener.port, protocol_name(listener.protocol).upper()] = None
        found += [(Column(group.name, port, protocol), group) for port, protocol in sorted(ports)]
    if services:
        for key in sorted(cluster.services):
            service = cluster.services[key]
            if service.type == "ExternalName" or (namespaces and service.namespace not in namespaces):
                continue
            name = f"{service.namespace}/svc/{service.name}"
            for p in service.ports:
                found.append((Column(name, p.port, p.protocol.upper(), "service"), Group(name, ())))
    return found


def matrix(
    tracer: Tracer,
    sources: Sequence[Group],
    destinations: Sequence[tuple[Column, Group]],
    progress: Callable[[int], None] = lambda done: None,
    jobs: int = 1,
    alike: bool = True,
) -> Matrix:
    """Ask for every cell.

    Parameters
    ----------
    tracer : Tracer
    sources : sequence of Group
    destinations : sequence of (Column, Group)
        A column is asked at every pod of its group; a service or an address (empty group) by its own name.
    progress : callable
        Told how many cells are done.
    jobs : int
        How many processes ask.
    alike : bool
        Whether one pair may speak for others that are alike (classes.py); not where rules were observed.
    """
    found = ask(tracer, [(source, destinations) for source in sources], progress, jobs, alike)
    return Matrix(
        tuple(s.name for s in sources),
        tuple(c for c, _ in destinations),
        tuple(row.cells for row in found),
        tuple(dict.fromkeys(text for row in found for text in row.assumptions)),
        tuple(dict.fromkeys(text for row in found for text in row.not_modelled)),
    )


def ask(
    tracer: Tracer,
    work: Sequence[tuple[Group, Sequence[tuple[Column, Group]]]],
    progress: Callable[[int], None] = lambda done: None,
    jobs: int = 1,
    alike: bool = True,
) -> list[Row]:
    """The cells of several rows, each with the columns that are wanted of it; what `matrix` and compare.py ask."""
    cells = sum(len(wanted) for _, wanted in work)
    if cells < _FEW:
        jobs = 1
    asking = _Asking(tracer, alike)
    ready: list[Row] = []
    if jobs > 1:
        # the first row in this process: what it makes of the nodes and looks up is then there for all
        ready = [_row(asking, *work[0])]
    count = len(work) - len(ready)
    rest = spread(lambda n: _row(asking, *work[len(ready) + n]), count, jobs, lambda n: progress(n * cells // len(work)))
    progress(cells)
    return [*ready, *rest]


class _Pair(msgspec.Struct, frozen=True):
    """What one trace says, as far as a cell cares; `reached` are the endpoints behind a service, or the pod itself."""

    verdict: Verdict
    reason: str
    policies: tuple[Decider, ...]
    reached: tuple[str, ...]
    assumptions: tuple[str, ...]
    not_modelled: tuple[str, ...]
    denied: Flow | None = None  # by policies alone: every packet was dropped, and this is the connection that they deny


class _Asking:
    """A tracer, and what it has said: a pair of pods like one that was asked has the same answer (classes.py)."""

    def __init__(self, tracer: Tracer, alike: bool) -> None:
        self.tracer = tracer
        self.classes = Classes(tracer) if alike else None
        self.known: dict[Hashable, _Pair] = {}

    def families(self, column: Column, source_pod: str, target_pod: str) -> tuple[int | None, ...]:
        """The families in which a pair is asked: all that a pod shares with a pod or service; None: the tracer chooses."""
        if not source_pod or not (target_pod or column.kind == "service"):
            return (None,)
        pods = self.tracer.cluster.pods
        ips = pods[target_pod].ips if target_pod else self._service_ips(column)
        theirs = {ip.family for ip in ips}
        shared = tuple(dict.fromkeys(ip.family for ip in pods[source_pod].ips if ip.family in theirs))
        return shared if len(shared) > 1 else (None,)

    def _service_ips(self, column: Column) -> tuple[Ip, ...]:
        service = self.tracer.cluster.services[column.name.replace("/svc/", "/")]
        if not service.headless:
            return service.cluster_ips
        slices = self.tracer.cluster.slices.get(service.key, ())
        return tuple(address for part in slices for e in part.endpoints for address in e.addresses)

    def pair(
        self, column: Column, sender: str, target: str, source_pod: str, target_pod: str, family: int | None = None
    ) -> _Pair:
        """Ask one pair; raises InputError where no packet can be sent.

        Taken over is what was delivered, and what policies denied, in the words of this pair.
        """
        key = self._key(column, sender, source_pod, target_pod, family)
        found = self.known.get(key) if key is not None else None
        if found is None:
            request = Request(sender, target, protocol=column.protocol.lower(), family=family)
            found = _pair(self.tracer, self.tracer.trace(request), target if target_pod else "")
            if key is not None and (found.verdict is Verdict.DELIVERED or found.denied is not None):
                self.known[key] = found
            return found
        if found.denied is not None:
            return replace(found, reason=self._words(found.denied, source_pod, target_pod))
        return replace(found, reached=(target,)) if target_pod else found

    def _words(self, flow: Flow, source_pod: str, target_pod: str) -> str:
        """Why policies deny a connection that is like another one."""
        index = self.tracer.policies
        pods = self.tracer.cluster.pods
        if source_pod:
            flow = replace(flow, source=index.pod(pods[source_pod], flow.source.ip.family))
        if target_pod:
            flow = replace(flow, destination=index.pod(pods[target_pod], flow.destination.ip.family))
        return _denial(index, flow, decide(index, flow))[1]

    def _key(self, column: Column, sender: str, source_pod: str, target_pod: str, family: int | None) -> Hashable:
        """Pairs of one key have one answer; None: this pair is like no other."""
        if self.classes is None or source_pod == target_pod:
            return None
        who: Hashable = self.classes.sender(source_pod) if source_pod else sender
        if target_pod:
            whom: Hashable = self.classes.receiver(target_pod)
        else:
            service = column.name.replace("/svc/", "/") if column.kind == "service" else ""
            meets_itself = service and source_pod and self.classes.is_behind(source_pod, service)
            whom = None if meets_itself else column.name
        return None if who is None or whom is None else (who, whom, column.port, column.protocol, family)


def _pair(tracer: Tracer, trace: Trace, target: str) -> _Pair:
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
    return _Pair(trace.verdict, reason, tuple(deciders), tuple(sorted(ends)), trace.assumptions, trace.not_modelled, denied)


def _row(asking: _Asking, source: Group, destinations: Sequence[tuple[Column, Group]]) -> Row:
    row = []
    assumptions: dict[str, None] = {}
    not_modelled: dict[str, None] = {}
    for column, group in destinations:
        answers: list[tuple[str, str, _Pair]] = []
        refused = "no packet can be sent"
        for sender, target, source_pod, target_pod in _pairs(source, column, group):
            by_family: dict[int | None, _Pair] = {}
            for family in asking.families(column, source_pod, target_pod):
                try:
                    by_family[family] = asking.pair(column, sender, target, source_pod, target_pod, family)
                except InputError as error:
                    refused = error.what  # another family, a pod without address: this pair has no packet to send
            differ = len({pair.verdict for pair in by_family.values()}) > 1
            for family, pair in by_family.items():
                if differ and pair.reason:
                    pair = replace(pair, reason=f"IPv{family}: {pair.reason}")
                answers.append((sender, target if family is None else f"{target}{_OVER}{family}", pair))
        row.append(_cell(source.name, column, answers) if answers else Cell(source.name, column, Answer.NONE, refused))
        for _, _, pair in answers:
            assumptions.update(dict.fromkeys(pair.assumptions))
            not_modelled.update(dict.fromkeys(pair.not_modelled))
    return Row(tuple(row), tuple(assumptions), tuple(not_modelled))


def _pairs(source: Group, column: Column, group: Group) -> list[tuple[str, str, str, str]]:
    """Who sends and to what, each as the tracer reads it, and their pods ("" where they are none).

    A pod and itself only where that is the only pair.
    """
    senders = [(_pod(key), key) for key in source.pods] or [(source.name, "")]
    targets = [(f"{_pod(key)}:{column.port}", key) for key in group.pods] or [(f"{column.name}:{column.port}", "")]
    every = [(s, t, a, b) for s, a in senders for t, b in targets]
    return [pair for pair in every if not pair[2] or pair[2] != pair[3]] or every[:1]


def _pod(key: str) -> str:
    namespace, _, name = key.partition("/")
    return f"{namespace}/pod/{name}"


def _cell(source: str, column: Column, asked: Sequence[tuple[str, str, _Pair]]) -> Cell:
    verdicts = [pair.verdict for _, _, pair in asked]
    yes = verdicts.count(Verdict.DELIVERED)
    reason = next((pair.reason for _, _, pair in asked if pair.reason), "")
    outcomes: tuple[Outcome, ...] = ()
    families: tuple[int, ...] = ()
    if yes == len(asked):
        answer, reason = Answer.YES, ""
    elif Verdict.UNKNOWN in verdicts:
        answer = Answer.UNKNOWN
    elif yes or Verdict.PARTIAL in verdicts:
        answer = Answer.SOME
        outcomes = tuple(Outcome(sender, target, pair.verdict.value, pair.reached) for sender, target, pair in asked)
        families = _families(asked)
    else:
        answer = Answer.NO
    policies = tuple(dict.fromkeys(d for _, _, pair in asked for d in pair.policies))
    return Cell(source, column, answer, reason, yes, len(asked), policies, outcomes, families)


def _families(asked: Sequence[tuple[str, str, _Pair]]) -> tuple[int, ...]:
    """The families by which all is delivered, where by the others nothing is."""
    verdicts: dict[int, set[Verdict]] = {}
    for _, target, pair in asked:
        family = target.rpartition(_OVER)[2]
        if not family.isdigit() or _OVER not in target:
            return ()
        verdicts.setdefault(int(family), set()).add(pair.verdict)
    if any((len(found) > 1 and Verdict.DELIVERED in found) or Verdict.PARTIAL in found for found in verdicts.values()):
        return ()
    return tuple(sorted(family for family, found in verdicts.items() if found == {Verdict.DELIVERED}))


def _decided(tracer: Tracer, trace: Trace, branch: Branch) -> tuple[list[Decider], str, Flow | None]:
    """The policies that a branch owes its verdict to, in words why they deny it, and the connection that they judge.

    Where it was delivered, every rule that allows it; where it died, the first direction that denies it. Engines drop in silence:
    who was refused in so many words was refused by somebody else.
    """
    index = tracer.policies
    if tracer.cluster.cni.name not in ENGINES or not index.policies or branch.verdict is Verdict.REJECTED:
        return [], "", None
    said = judged(trace, branch, index)
    if said is None:
        return [], "", None
    flow, decision = said
    if branch.verdict is Verdict.DELIVERED:
        return [_decider(index, half) for half in (decision.egress, decision.ingress) if half.policy is not None], "", flow
    deciders, text = _denial(index, flow, decision)
    return deciders, text if branch.verdict is Verdict.DROPPED else "", flow


def _denial(index: PolicyIndex, flow: Flow, decision: Decision) -> tuple[list[Decider], str]:
    """The first direction that policies do not allow, and why; nothing where they allow both."""
    for half in (decision.egress, decision.ingress):
        if half.says is not Says.ALLOWED and half.selected:
            return [_decider(index, half)], f"{words.selection(index, half)}; {words.verdict(index, flow, half, decision)}"
    return [], ""


def _decider(index: PolicyIndex, half: Half) -> Decider:
    direction, says = half.direction.lower(), half.says.value
    if half.policy is not None:
        rule, ref = (None, half.policy.ref) if half.rule is None else (half.rule.number, half.rule.ref)
        return Decider(direction, says, (half.policy.title,), rule, (ref,))
    return Decider(direction, says, tuple(p.title for p in half.selected), None, tuple(p.ref for p in half.selected))
