"""A pair's answer from three parts: the way between two Places, what policies say at each end, what the two together make of it.

    pair --> Way: one trace without policies, for all pairs of alike Places ----+
         --> Judged: policies, once for two classes of pods ---------------------+--> behaviour: the tracer is asked once, with
                                                                                      policies, and must say what was foretold
Law: an answer is taken over only where the first pair of its behaviour (Way x what policies say to each branch) was traced and
said, word for word, what was foretold of it; where it said anything else, and where a Way is not simple, every pair is traced. So
policies may only do what they do: drop at the end that denies, or let pass. Words are each pair's own, made when they are wanted.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Hashable

import msgspec
from msgspec.structs import replace

from netlab.dataplane.policy.index import End
from netlab.dataplane.policy.semantics import Decision, Flow
from netlab.kube.objects import Pod, Service
from netlab.kube.policies import PolicyObjects
from netlab.linux.packet import PROTOCOL_NUMBERS
from netlab.reach.answers import Decider, Pair, denial, read
from netlab.reach.places import Place, Places, Shape
from netlab.reach.policed import FREE, Judged, Policed
from netlab.trace.policysteps import ENGINES, Asked, connection, enforces
from netlab.trace.query import Request, Tracer, overall
from netlab.trace.skb import socket_text
from netlab.trace.steps import Branch, Trace, Verdict

_NOWHERE = Place(-1, "", False, (), frozenset())


class Question(msgspec.Struct, frozen=True):
    """A pair: who sends and to what, as the tracer reads it, and their pods or service ("" where they are none)."""

    sender: str
    target: str
    protocol: str
    port: int
    source_pod: str = ""
    target_pod: str = ""
    service: str = ""
    family: int | None = None

    @property
    def request(self) -> Request:
        return Request(self.sender, self.target, protocol=self.protocol.lower(), family=self.family)


class Words(enum.Enum):
    """Where the reason of an answer comes from."""

    NONE = "none"  # it was delivered
    POLICY = "policy"  # policies deny it
    TRACE = "trace"  # only a trace of this very pair can tell


class _Step(msgspec.Struct, frozen=True):
    """One branch of a Way: the connection as policies see it; `end` is its endpoint's place in the Shape, -1: none of them."""

    branch: Branch
    flow: Flow | None
    end: int
    core: int = 0  # what policies may ask of it, but for its ends


class _Way(msgspec.Struct, frozen=True):
    """A trace without policies; `local`: it names a node's own address, so that it holds for these nodes alone."""

    steps: tuple[_Step, ...]
    local: bool


class Said(msgspec.Struct, frozen=True):
    """What holds for all pairs of a class; `verdicts` are those of the Way's branches. `local`: for these nodes alone. `first` is
    the branch that the reason speaks of (-1: the first in order, all being alike), `decision` what policies say to it."""

    verdict: Verdict
    policies: tuple[Decider, ...]
    assumptions: tuple[str, ...]
    not_modelled: tuple[str, ...]
    words: Words
    way: _Way
    verdicts: tuple[Verdict, ...]
    local: bool = False
    first: int = -1
    decision: Decision | None = None


class _Learned(msgspec.Struct, frozen=True):
    """What the tracer said of a behaviour's first pair; `names` are that pair's: the sender's node, the socket that it called."""

    verdicts: tuple[Verdict, ...]
    assumptions: tuple[str, ...]
    not_modelled: tuple[str, ...]
    names: tuple[str, str]


class _Ends(msgspec.Struct, frozen=True):
    """The two ends of a pair as their Places; of a service its Shape."""

    source: Place
    target: Place
    shape: Shape | None
    source_pod: Pod | None
    target_pod: Pod | None


class _Heard(msgspec.Struct, frozen=True):
    """What a trace with policies said of a pair; `sockets` are the ends of the connections that policies judged."""

    question: Question
    ends: _Ends
    answer: Pair
    sockets: frozenset[Hashable]


class Ways:
    """What was asked so far."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.index = tracer.policies
        cluster = self.cluster = tracer.cluster
        self.places = Places(tracer)
        self.policed = Policed(self.index) if cluster.cni.name in ENGINES and self.index.policies else None
        self.bare = tracer
        if self.policed is not None:
            self.bare = Tracer(replace(cluster, policies={}, policy_objects=PolicyObjects()))
        self.by_node = cluster.proxy.mode in ("ipvs", "userspace")  # there a trace of a service names the node
        self.is_relayed = cluster.proxy.mode == "userspace" and self.policed is not None
        self._ways: dict[Hashable, _Way | None] = {}
        self._stopped: dict[Hashable, _Heard] = {}  # ways whose first pair did not get to the end
        self._learned: dict[Hashable, _Learned | None] = {}
        self._numbers: dict[Hashable, int] = {}
        self._enforced = {family: enforces(cluster, family) for family in (4, 6)}
        self._standing = frozenset(tracer.standing)
        self._last: tuple[Request, Trace] | None = None  # asked with policies

    @staticmethod
    def hold(tracer: Tracer) -> bool:
        """Whether a tracer's answers can be put together from parts: host endpoints police what passes their nodes."""
        return not tracer.cluster.policy_objects.host_endpoints

    def number(self, pod: str) -> int:
        """Pods of one number are alike to the network, but for their node, and to policies."""
        place = self.places.pod(pod)
        sign = place.like, place.listens, self.policed.of(self.cluster.pods[pod]) if self.policed is not None else 0
        return self._numbers.setdefault(sign, len(self._numbers))

    def client(self, pod: str, service: str, number: int) -> Hashable:
        """Clients of a service of one class are told the same; None where one may meet itself there."""
        if self.places.is_behind(pod, service):
            return None  # a packet that comes back to its sender has ways of its own
        node = self.cluster.pods[pod].node_name
        return number, node if self.by_node or node in self.places.nodes_of(service) else ""

    def _place(self, pod: str) -> Place:
        return self.places.pod(pod) if pod else _NOWHERE

    def say(self, question: Question) -> Said | None:
        """What holds for all pairs that are like this one; None where that is not known: it has to be traced.

        Raises
        ------
        InputError
            No packet can be sent.
        """
        ends = self._ends(question)
        if ends is None:
            return None
        key = self._key(question, ends)
        way = self._walk(key, question, ends)
        if way is not None and way.local:
            key = (key, ends.source.node, ends.target.node)
            way = self._walk(key, question, ends)
        return None if way is None else self._told(key, way, question, ends)

    def _told(self, key: Hashable, way: _Way, question: Question, ends: _Ends, heard: _Heard | None = None) -> Said | None:
        judged = self._judged(way, ends)
        if judged is None:
            return None
        behaviour = key, tuple([each.sign for each in judged])
        if behaviour not in self._learned:
            self._learned[behaviour] = self._learn(way, judged, question, ends, heard or self._hear(question, ends))
        learned = self._learned[behaviour]
        return None if learned is None else self._said(way, learned, judged, question, ends)

    def reason(self, said: Said, question: Question) -> str:
        """Why a pair's answer is not that it was delivered."""
        if said.words is Words.NONE:
            return ""
        ends = self._ends(question)
        assert ends is not None
        if said.words is Words.TRACE:
            target = question.target if question.target_pod else ""
            return read(self.tracer, self.trace(question), target).reason
        assert said.decision is not None
        first = said.first if said.first >= 0 else self._order(said.way, said.verdicts, ends)[0]
        return denial(self.index, self._flow(said.way.steps[first], ends), said.decision)

    def reached(self, said: Said, question: Question) -> tuple[str, ...]:
        """The endpoints that a pair reaches."""
        ends = self._ends(question)
        assert ends is not None
        names = set()
        for step, verdict in zip(said.way.steps, said.verdicts, strict=True):
            if verdict is Verdict.DELIVERED:
                key = ends.shape.ends[step.end][2] if ends.shape is not None and step.end >= 0 else ""
                name = step.branch.endpoint_name or step.branch.endpoint or ""
                names.add(question.target if question.target_pod else f"pod {key}" if key else name)
        return tuple(sorted(names))

    # -- the parts -----------------------------------------------------------------------------------------------------

    def _ends(self, question: Question) -> _Ends | None:
        pods = self.cluster.pods
        source, target = self._place(question.source_pod), self._place(question.target_pod)
        shape = None
        if question.source_pod == question.target_pod and question.source_pod:
            return None
        if question.service:
            if not question.source_pod or self.places.is_behind(question.source_pod, question.service):
                return None
            shape = self._shape(self.cluster.services[question.service], question, source)
        elif not source.shared and not target.shared:
            return None
        if self.is_relayed and (shape is not None or not target.shared):
            return None  # policies judge two connections, one after the other
        return _Ends(source, target, shape, pods.get(question.source_pod), pods.get(question.target_pod))

    def _shape(self, service: Service, question: Question, source: Place) -> Shape:
        families = [f for f in source.families if question.family in (None, f)]
        family = next((a.family for a in service.cluster_ips if a.family in families), None)
        if family is None or service.headless or source.node not in self.places.kinds:
            return self.places.unlike(service.key, question.family, source.node)
        return self.places.service(service, question.port, question.protocol, family, source.node)

    def _key(self, question: Question, ends: _Ends) -> Hashable:
        """Pairs of one key have the same way."""
        protocol, port = question.protocol, question.port
        if ends.shape is not None:
            return "service", ends.source.like, ends.shape.like, port, protocol, question.family
        if not question.target_pod:
            return ends.source.like, ends.source.node, question.target, protocol, question.family
        sender: Hashable = ends.source.like if question.source_pod else question.sender
        listens = (PROTOCOL_NUMBERS[protocol.lower()], port) in ends.target.listens
        relation = ends.source.node == ends.target.node if question.source_pod else ends.target.node
        return sender, ends.target.like, relation, listens, port, protocol, question.family

    def _walk(self, key: Hashable, question: Question, ends: _Ends) -> _Way | None:
        """The way of a key: its first pair's, walked with policies if they let everything pass, else without them, as soon as a
        second pair asks for it."""
        if key in self._ways:
            return self._ways[key]
        first = self._stopped.pop(key, None)
        if first is not None:
            way = self._ways[key] = self._made(self.bare.trace(first.question.request), first.ends)
            if way is not None and not way.local:
                self._told(key, way, first.question, first.ends, first)
            return way
        trace = self.trace(question)
        if trace.verdict is not Verdict.DELIVERED and self.policed is not None:
            self._stopped[key] = self._hear(question, ends)
            return None
        way = self._ways[key] = self._made(trace, ends)
        return way

    def _made(self, trace: Trace, ends: _Ends) -> _Way | None:
        """A trace as a Way; None where its branches cannot be told from one another, or are not what they are taken for."""
        if len(trace.branches) > 1 and (ends.shape is None or any(len(branch.choices) > 1 for branch in trace.branches)):
            return None
        asked = Asked(PROTOCOL_NUMBERS[trace.protocol.lower()], ends.source_pod)
        places = {(address, port): n for n, (address, port, _) in enumerate(ends.shape.ends)} if ends.shape is not None else {}
        steps = []
        for branch in trace.branches:
            flow = connection(branch, self.index, asked)
            end = -1
            if flow is not None:
                end = places.get((flow.destination.ip, flow.port), -1)
                if ends.source.shared and ends.source_pod is not None and not self._is(flow.source, ends.source_pod):
                    return None
                if ends.target.shared and ends.target_pod is not None and not self._is(flow.destination, ends.target_pod):
                    return None
                called = ends.shape.address if ends.shape is not None else None
                if called is not None and end < 0 and flow.destination.ip != called:
                    return None
                if called is not None and flow.service not in (None, called):
                    return None
            fixed = not ends.source.shared or ends.source_pod is None
            core = self.policed.core(flow, fixed) if self.policed is not None and flow is not None else 0
            steps.append(_Step(branch, flow, end, core))
        ended = [step.end for step in steps if step.end >= 0]
        if len(ended) != len(set(ended)):
            return None
        local = any(s.flow is not None and (s.flow.seen is not None or s.flow.sent_to is not None) for s in steps)
        if ends.shape is None and not ends.target.shared:
            local = True  # a node's own address may lead anywhere, to a pod beside the sender as well
        return _Way(tuple(steps), local and (ends.source.shared or ends.target.shared))

    def _is(self, end: End, pod: Pod) -> bool:
        return end.pod == self.index.number[pod.key] and not end.node

    # -- policies ------------------------------------------------------------------------------------------------------

    def _judged(self, way: _Way, ends: _Ends) -> tuple[Judged, ...] | None:
        """What policies say to each branch; None where that leaves open what becomes of it."""
        if self.policed is None:
            return (FREE,) * len(way.steps)
        found = []
        source = self.policed.of(ends.source_pod) if ends.source.shared and ends.source_pod is not None else -1
        for step in way.steps:
            said = FREE if step.flow is None else self._judge(self.policed, source, step, step.flow, ends)
            is_sure = said.allowed or (step.branch.verdict is Verdict.DELIVERED and said.against) or len(way.steps) == 1
            if said.open or not is_sure:
                return None
            found.append(said)
        return tuple(found)

    def _judge(self, policed: Policed, source: int, step: _Step, flow: Flow, ends: _Ends) -> Judged:
        target: Hashable = flow.destination
        node = ends.target.node
        if ends.shape is not None:
            there = ends.shape.ends[step.end][2] if step.end >= 0 else ""
            if there:
                pod = self.cluster.pods[there]
                target, node = policed.of(pod), pod.node_name
            elif step.end < 0 and ends.shape.address is not None:
                target = ends.shape.address
        elif ends.target.shared and ends.target_pod is not None:
            target = policed.of(ends.target_pod)
        called = flow.service
        if called is not None and ends.shape is not None and ends.shape.address is not None:
            called = ends.shape.address
        who = flow.seen or flow.source
        own = who.node == node if who.node else None  # the node that runs a pod always reaches it
        key = step.core, source, target, policed.called(called), own
        return policed.known.get(key) or policed.judge(key, self._flow(step, ends), self._enforced[flow.source.ip.family])

    def _flow(self, step: _Step, ends: _Ends) -> Flow:
        """A Way's connection with the ends of this pair."""
        flow, index = step.flow, self.index
        assert flow is not None
        source, destination, service = flow.source, flow.destination, flow.service
        if ends.source.shared and ends.source_pod is not None:
            source = index.pod(ends.source_pod, source.ip.family)
        if ends.shape is not None:
            address = ends.shape.address
            if step.end >= 0 and ends.shape.ends[step.end][2]:
                there, _, key = ends.shape.ends[step.end]
                destination = index.pod(self.cluster.pods[key], address=there)
            elif step.end < 0 and address is not None:
                destination = index.end(address)
            service = address if service is not None and address is not None else service
        elif ends.target.shared and ends.target_pod is not None:
            destination = index.pod(ends.target_pod, destination.ip.family)
        return replace(flow, source=source, destination=destination, service=service)

    # -- what becomes of it --------------------------------------------------------------------------------------------

    def _hear(self, question: Question, ends: _Ends) -> _Heard:
        """Ask the tracer."""
        trace = self.trace(question)
        asked = Asked(PROTOCOL_NUMBERS[trace.protocol.lower()], ends.source_pod)
        flows = (connection(branch, self.index, asked) for branch in trace.branches) if self.policed is not None else ()
        sockets = frozenset(_sockets(flow) for flow in flows if flow is not None)
        return _Heard(question, ends, read(self.tracer, trace, question.target if question.target_pod else ""), sockets)

    def _learn(
        self, way: _Way, judged: tuple[Judged, ...], question: Question, ends: _Ends, heard: _Heard
    ) -> _Learned | None:
        """What the tracer said; None where that is not what is foretold: what policies deny dropped, all else as without them.

        Policies have to have judged the connections of the Way: an engine may see one before it is translated.
        """
        answer = heard.answer
        verdicts = [Verdict.DROPPED if not j.allowed else s.branch.verdict for s, j in zip(way.steps, judged, strict=True)]
        if len(way.steps) == 1 and way.steps[0].branch.verdict is not Verdict.DELIVERED:
            verdicts = [answer.verdict]  # which of two refusals comes first is the tracer's to say
        names = ends.source.node, self._called(question, ends)
        learned = _Learned(tuple(verdicts), answer.assumptions, answer.not_modelled, names)
        said = self._said(way, learned, judged, question, ends)
        flows = [self._flow(step, ends) for step in way.steps if step.flow is not None] if self.policed is not None else []
        if not self._is_nameless(learned, question, ends) or heard.sockets != {_sockets(flow) for flow in flows}:
            return None
        foretold = Pair(
            said.verdict,
            answer.reason if said.words is Words.TRACE else self.reason(said, question),
            said.policies,
            self.reached(said, question),
            said.assumptions,
            said.not_modelled,
        )
        return learned if foretold == replace(answer, denied=None) else None

    def trace(self, question: Question) -> Trace:
        """Ask with policies; what was asked last is still known."""
        request = question.request
        if self._last is None or self._last[0] != request:
            self._last = request, self.tracer.trace(request)
        return self._last[1]

    def _said(
        self, way: _Way, learned: _Learned, judged: tuple[Judged, ...], question: Question, ends: _Ends
    ) -> Said:
        verdicts = learned.verdicts
        policies: dict[Decider, None] = {}
        words, first = Words.NONE, -1
        is_one = len(verdicts) == 1 or (len(set(verdicts)) == 1 and all(each is judged[0] for each in judged))
        order = (0,) if is_one else self._order(way, verdicts, ends)
        for n in order:
            match verdicts[n]:
                case Verdict.DELIVERED:
                    policies.update(dict.fromkeys(judged[n].by))
                    continue
                case Verdict.REJECTED:
                    pass
                case _:
                    policies.update(dict.fromkeys(judged[n].against))
            if words is Words.NONE:
                by_policy = verdicts[n] is Verdict.DROPPED and judged[n].against
                words, first = Words.POLICY if by_policy else Words.TRACE, n
        texts = self._renamed(learned, question, ends)
        decision = judged[first].decision if words is Words.POLICY else None
        known = learned.not_modelled
        first = -1 if is_one else first
        return Said(overall(verdicts), tuple(policies), texts, known, words, way, verdicts, way.local, first, decision)

    def _order(self, way: _Way, verdicts: tuple[Verdict, ...], ends: _Ends) -> list[int]:
        """The branches in the order in which this pair's own trace would have them."""

        def key(n: int) -> tuple[object, ...]:
            step = way.steps[n]
            endpoint, choices = step.branch.endpoint, step.branch.choices
            if ends.shape is not None and step.end >= 0 and step.flow is not None:
                there = socket_text(*ends.shape.ends[step.end][:2])
                here = socket_text(step.flow.destination.ip, step.flow.port)
                choices = tuple(choice.replace(here, there) for choice in choices)
                endpoint = there if endpoint is not None else None
            if verdicts[n] is not step.branch.verdict:
                endpoint = None
            return -step.branch.probability, endpoint or "~", choices

        return sorted(range(len(verdicts)), key=key)

    # -- assumptions ---------------------------------------------------------------------------------------------------

    def _called(self, question: Question, ends: _Ends) -> str:
        """The socket of the service that is called, as an assumption may name it."""
        address = ends.shape.address if ends.shape is not None else None
        return "" if address is None else socket_text(address, question.port)

    def _renamed(self, learned: _Learned, question: Question, ends: _Ends) -> tuple[str, ...]:
        """The assumptions with this pair's node and service."""
        mine = ends.source.node, self._called(question, ends)
        if mine == learned.names:
            return learned.assumptions
        names = {old: new for old, new in zip(learned.names, mine, strict=True) if old}
        return tuple(dict.fromkeys(t if t in self._standing else _with_names(t, names) for t in learned.assumptions))

    def _is_nameless(self, learned: _Learned, question: Question, ends: _Ends) -> bool:
        """Whether what was assumed names nothing of this pair but what `_renamed` puts in."""
        texts = [text for text in learned.assumptions if text not in self._standing]
        if not texts:
            return True
        own = [pod for pod, place in ((ends.source_pod, ends.source), (ends.target_pod, ends.target)) if pod and place.shared]
        keys = [key for _, _, key in (ends.shape.ends if ends.shape is not None else ()) if key]
        own += [self.cluster.pods[key] for key in keys]
        names = [name for pod in own for name in (pod.key, *map(str, pod.ips))]
        if not (self.by_node and question.service):
            names += [learned.names[0], ends.target.node]
        return not any(_with_names(text, {name: ""}) != text for text in texts for name in names if name)


def _sockets(flow: Flow) -> Hashable:
    return flow.source, flow.destination, flow.port, flow.service, flow.sent_to


def _with_names(text: str, names: dict[str, str]) -> str:
    """A text in which whole names are others."""
    known = "|".join(map(re.escape, names))
    return re.sub(rf"(?<![\w.:-])(?:{known})(?![\w-]|\.\w)", lambda found: names[found[0]], text) if names else text
