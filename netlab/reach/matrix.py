"""The connectivity matrix: who reaches whom, on every port that anything listens on, asked of the tracer pair by pair.

    workloads, namespaces or pods --+                            +-- their ports (pods' sockets)
                                    +-- cell: yes, no, some, ? --+-- services (through their endpoints)

Law: nothing is sampled: a cell speaks for every pod behind its row and every pod or endpoint behind its column, and says
"some" where they differ. Pods ask with the address that they have, so that masquerading and policies apply as they really do;
where both ends have addresses of both families, by each. A pod's connection to itself is left out of a cell that has other pairs.
"""

from __future__ import annotations

import contextlib
import enum
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

import msgspec
from msgspec.structs import replace

from netlab.dataplane.policy.semantics import Flow, decide
from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.kube.names import SHORT
from netlab.kube.objects import Pod
from netlab.linux.addr import Ip
from netlab.linux.packet import protocol_name
from netlab.reach.answers import Decider, Pair, denial, read
from netlab.reach.classes import Classes
from netlab.reach.spread import spread
from netlab.reach.ways import Question, Said, Ways
from netlab.trace.query import Tracer
from netlab.trace.steps import Verdict

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
        Whether one pair may speak for others that are alike (ways.py); not where rules were observed.
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


class _End(msgspec.Struct, frozen=True):
    """Who sends, or what is asked, as the tracer reads it without the port; `pod` and `service` are keys, "" where it is none.
    Pods of one `number` are alike to the network and to policies, but for their `node`."""

    name: str
    pod: str = ""
    service: str = ""
    number: int = -1
    node: str = ""


class _Joint(msgspec.Struct, frozen=True):
    """What is said of a pair, by each family that it shares (None: the tracer chooses); no parts where no packet can be sent."""

    parts: tuple[tuple[int | None, Said | Pair], ...]

    @property
    def differ(self) -> bool:
        return len({said.verdict for _, said in self.parts}) > 1


_Asked = list[tuple[_End, _End, _Joint]]


class _Known(msgspec.Struct):
    """What is said of classes of pairs in one column; in those of `local` it is said of each pair of nodes."""

    joints: dict[Hashable, _Joint] = msgspec.field(default_factory=dict)
    local: set[Hashable] = msgspec.field(default_factory=set)


class _Asking:
    """A tracer, and what it has said: a pair like one that was asked has the same answer (ways.py)."""

    def __init__(self, tracer: Tracer, alike: bool) -> None:
        self.tracer = tracer
        self.ways = Ways(tracer) if alike and Ways.hold(tracer) else None
        self.classes = Classes(tracer) if alike and self.ways is None else None
        self.traced: dict[Hashable, Pair] = {}
        self._known: dict[Column, _Known] = {}
        self._pods: dict[str, _End] = {}

    # -- who and whom --------------------------------------------------------------------------------------------------

    def pairs(self, source: Group, column: Column, group: Group) -> list[tuple[_End, _End]]:
        """The pairs of a cell; a pod and itself only where that is the only one."""
        service = column.name.replace("/svc/", "/") if column.kind == "service" else ""
        senders = [self._pod(key) for key in source.pods] or [_End(source.name)]
        targets = [self._pod(key) for key in group.pods] or [_End(column.name, service=service)]
        every = [(s, t) for s in senders for t in targets]
        return [(s, t) for s, t in every if not s.pod or s.pod != t.pod] or every[:1]

    def _pod(self, key: str) -> _End:
        found = self._pods.get(key)
        if found is None:
            namespace, _, name = key.partition("/")
            node = self.tracer.cluster.pods[key].node_name
            number = -1 if self.ways is None else self.ways.number(key)
            found = self._pods[key] = _End(f"{namespace}/pod/{name}", key, "", number, node)
        return found

    def _families(self, sender: _End, target: _End) -> tuple[int | None, ...]:
        """The families in which a pair is asked: all that a pod shares with a pod or service; None: the tracer chooses."""
        if not sender.pod or not (target.pod or target.service):
            return (None,)
        pods = self.tracer.cluster.pods
        ips = pods[target.pod].ips if target.pod else self._service_ips(target.service)
        theirs = {ip.family for ip in ips}
        shared = tuple(dict.fromkeys(ip.family for ip in pods[sender.pod].ips if ip.family in theirs))
        return shared if len(shared) > 1 else (None,)

    def _service_ips(self, key: str) -> tuple[Ip, ...]:
        service = self.tracer.cluster.services[key]
        if not service.headless:
            return service.cluster_ips
        slices = self.tracer.cluster.slices.get(service.key, ())
        return tuple(address for part in slices for e in part.endpoints for address in e.addresses)

    # -- answers -------------------------------------------------------------------------------------------------------

    def asked(self, source: Group, column: Column, group: Group) -> _Asked:
        """The pairs of a cell, and what is said of each."""
        known = self._known.get(column)
        if known is None:
            known = self._known[column] = _Known()
        return [(s, t, self._joint(known, column, s, t)) for s, t in self.pairs(source, column, group)]

    def _joint(self, known: _Known, column: Column, sender: _End, target: _End) -> _Joint:
        key = self._class(sender, target)
        if key in known.local:
            key = key, sender.node, target.node
        found = known.joints.get(key)
        if found is not None:
            return found
        found = self._ask(column, sender, target)
        said = [part for _, part in found.parts if isinstance(part, Said)]
        if key is not None and len(said) == len(found.parts):
            if any(part.local for part in said) and key not in known.local:
                known.local.add(key)
                key = key, sender.node, target.node
            known.joints[key] = found
        return found

    def _class(self, sender: _End, target: _End) -> Hashable:
        """Of pairs of one class the same is said in one column; None: this pair is like no other."""
        if self.ways is None or (sender.pod and sender.pod == target.pod):
            return None
        if target.service:
            return self.ways.client(sender.pod, target.service, sender.number) if sender.pod else None
        if not target.pod:
            return (sender.number, sender.node) if sender.pod else None
        if not sender.pod:
            return sender.name, target.number, target.node
        return sender.number, target.number, sender.node == target.node

    def _ask(self, column: Column, sender: _End, target: _End) -> _Joint:
        parts: list[tuple[int | None, Said | Pair]] = []
        for family in self._families(sender, target):
            question = _question(column, sender, target, family)
            # another family, a pod without address: this pair has no packet to send
            with contextlib.suppress(InputError):
                parts.append((family, (self.ways.say(question) if self.ways is not None else None) or self._trace(question)))
        return _Joint(tuple(parts))

    def refusal(self, column: Column, sender: _End, target: _End) -> str:
        """Why no packet can be sent."""
        said = "no packet can be sent"
        for family in self._families(sender, target):
            try:
                self.tracer.trace(_question(column, sender, target, family).request)
            except InputError as error:
                said = error.what
        return said

    def reason(self, column: Column, sender: _End, target: _End, family: int | None, said: Said | Pair) -> str:
        """Why something was not delivered, in the words of this pair; "" where it was."""
        if isinstance(said, Pair):
            return said.reason
        assert self.ways is not None
        return self.ways.reason(said, _question(column, sender, target, family))

    def outcome(self, column: Column, sender: _End, target: _End, family: int | None, said: Said | Pair) -> Outcome:
        """One pair of a cell that says "some"."""
        if isinstance(said, Pair):
            reached = said.reached
        else:
            assert self.ways is not None
            reached = self.ways.reached(said, _question(column, sender, target, family))
        return Outcome(sender.name, _asked_by(column, target, family), said.verdict.value, reached)

    def _trace(self, question: Question) -> Pair:
        """Ask one pair; what was delivered, or denied by policies, holds for one that is like it, in words of its own."""
        key = self._like(question)
        found = self.traced.get(key) if key is not None else None
        if found is None:
            trace = self.ways.trace(question) if self.ways is not None else self.tracer.trace(question.request)
            found = read(self.tracer, trace, question.target if question.target_pod else "")
            if key is not None and (found.verdict is Verdict.DELIVERED or found.denied is not None):
                self.traced[key] = found
            return found
        if found.denied is not None:
            return replace(found, reason=self._words(found.denied, question))
        return replace(found, reached=(question.target,)) if question.target_pod else found

    def _words(self, flow: Flow, question: Question) -> str:
        """Why policies deny a connection that is like another one."""
        index, pods = self.tracer.policies, self.tracer.cluster.pods
        if question.source_pod:
            flow = replace(flow, source=index.pod(pods[question.source_pod], flow.source.ip.family))
        if question.target_pod:
            flow = replace(flow, destination=index.pod(pods[question.target_pod], flow.destination.ip.family))
        return denial(index, flow, decide(index, flow))

    def _like(self, question: Question) -> Hashable:
        """Pairs of one key have one answer; None: this pair is like no other (classes.py)."""
        if self.classes is None or question.source_pod == question.target_pod:
            return None
        who: Hashable = self.classes.sender(question.source_pod) if question.source_pod else question.sender
        whom: Hashable = question.target
        if question.target_pod:
            whom = self.classes.receiver(question.target_pod)
        elif question.service and question.source_pod and self.classes.is_behind(question.source_pod, question.service):
            whom = None
        return None if who is None or whom is None else (who, whom, question.port, question.protocol, question.family)


def _question(column: Column, sender: _End, target: _End, family: int | None) -> Question:
    asked = f"{target.name}:{column.port}"
    return Question(sender.name, asked, column.protocol, column.port, sender.pod, target.pod, target.service, family)


def _asked_by(column: Column, target: _End, family: int | None) -> str:
    asked = f"{target.name}:{column.port}"
    return asked if family is None else f"{asked}{_OVER}{family}"


def _row(asking: _Asking, source: Group, destinations: Sequence[tuple[Column, Group]]) -> Row:
    row = []
    assumptions: dict[str, None] = {}
    not_modelled: dict[str, None] = {}
    for column, group in destinations:
        asked = asking.asked(source, column, group)
        row.append(_cell(asking, source.name, column, asked))
        for joint in {id(joint): joint for _, _, joint in asked}.values():
            for _, said in joint.parts:
                assumptions.update(dict.fromkeys(said.assumptions))
                not_modelled.update(dict.fromkeys(said.not_modelled))
    return Row(tuple(row), tuple(assumptions), tuple(not_modelled))


def _cell(asking: _Asking, source: str, column: Column, asked: _Asked) -> Cell:
    joints = {id(joint): joint for _, _, joint in asked}
    said = [part for joint in joints.values() for _, part in joint.parts]
    if not said:
        return Cell(source, column, Answer.NONE, asking.refusal(column, *asked[-1][:2]))
    count = Counter(id(joint) for _, _, joint in asked)
    verdicts: Counter[Verdict] = Counter()
    for key, joint in joints.items():
        for _, part in joint.parts:
            verdicts[part.verdict] += count[key]
    yes, total = verdicts[Verdict.DELIVERED], verdicts.total()
    reason = ""
    outcomes: tuple[Outcome, ...] = ()
    families: tuple[int, ...] = ()
    if yes == total:
        answer = Answer.YES
    elif Verdict.UNKNOWN in verdicts:
        answer = Answer.UNKNOWN
    elif yes or Verdict.PARTIAL in verdicts:
        answer = Answer.SOME
        outcomes = tuple(
            asking.outcome(column, s, t, family, part) for s, t, joint in asked for family, part in joint.parts
        )
        families = _families(outcomes)
    else:
        answer = Answer.NO
    if answer is not Answer.YES:
        reason = next(filter(None, _reasons(asking, column, asked)), "")
    policies = tuple(dict.fromkeys(decider for part in said for decider in part.policies))
    return Cell(source, column, answer, reason, yes, total, policies, outcomes, families)


def _reasons(asking: _Asking, column: Column, asked: _Asked) -> Iterator[str]:
    """Why pairs were not delivered, one after the other."""
    for sender, target, joint in asked:
        for family, part in joint.parts:
            if text := asking.reason(column, sender, target, family, part):
                yield f"IPv{family}: {text}" if joint.differ else text


def _families(outcomes: Sequence[Outcome]) -> tuple[int, ...]:
    """The families by which all is delivered, where by the others nothing is."""
    verdicts: dict[int, set[str]] = {}
    for outcome in outcomes:
        family = outcome.target.rpartition(_OVER)[2]
        if not family.isdigit() or _OVER not in outcome.target:
            return ()
        verdicts.setdefault(int(family), set()).add(outcome.verdict)
    delivered, partial = Verdict.DELIVERED.value, Verdict.PARTIAL.value
    if any((len(found) > 1 and delivered in found) or partial in found for found in verdicts.values()):
        return ()
    return tuple(sorted(family for family, found in verdicts.items() if found == {delivered}))
