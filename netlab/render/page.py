"""A trace as the value that the page shows: events in words, the packet at each, the drawing; JSON that any frontend can mount.

    Trace, Network -> Page: graphs, and branches of (request, reply) of events; cards and events that are alike are there once

Law: pure; nothing is decided here that the trace does not say. Every text is data: control characters are escaped, nothing is
ever markup. What is shown of a step (where the packet is, what is lit, which fields changed, what to ask a student) is
computed here, so that whoever draws it needs no knowledge of networks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from netlab.linux.network import Network
from netlab.refs import Ref
from netlab.render import lessons
from netlab.render.chains import (
    Run,
    chain_path,
    count,
    nat_label,
    nat_words,
    policy_words,
    runs,
    without_dead_jumps,
    without_rule,
)
from netlab.render.columns import clean
from netlab.render.layout import Layout, Shown, device_id, hostpod_id, kernel_id, layout
from netlab.render.packets import Layer, Row, compare, layers, wire_size
from netlab.render.text import probability
from netlab.render.tried import Tried, tried_rules
from netlab.trace.steps import (
    AnyStep,
    Branch,
    Bridged,
    Conntracked,
    Decapsulated,
    Delivered,
    Dropped,
    Encapsulated,
    Header,
    HookStep,
    Hop,
    IpvsStep,
    MtuStep,
    Natted,
    NeighbourStep,
    NoteStep,
    PolicyStep,
    Proxied,
    Received,
    Rejected,
    Reply,
    Routed,
    RuleStep,
    Sent,
    Trace,
    Transmitted,
    UnknownStep,
    Verdict,
)

API_VERSION = "netlab/v1"
KIND = "Page"
_COMMENTS = re.compile(r'--comment "((?:[^"\\]|\\.)*)"')  # a rule of Felix's has two: its hash, and what it is for
UNION_MACHINES, UNION_PODS = 5, 8  # what one drawing for all branches may hold; beyond, each branch has its own


class Rule(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The rule, route or manifest that decided: its own words, where it stands, and what it did."""

    text: str
    where: str = ""  # "nat KUBE-SEP-X rule 2"
    ref: str = ""  # file:line, object
    effect: str = ""


class Quiz(msgspec.Struct, frozen=True, omit_defaults=True):
    """A question about a step; `choices` has the answer among them (none: think, then reveal)."""

    ask: str
    answer: str
    choices: tuple[str, ...] = ()


class Event(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One step of the journey.

    `where` and `kind` name the namespace; `stage` what happens in a few words, `result` what came of it; `why` is for a student.
    `tone`: "", good, bad, warn, nat (the packet was changed). `at` is the box where the packet is, `on` the wire that it is on
    (then `at` is the box that it left), `lit` boxes and wires that have a part in it. `card` compares the packet before and
    after, `size` is its length on the wire. `rules`: those that matched, `decides` which of them has the last word (None: none);
    `tried` the others around them.
    """

    where: str
    kind: str
    stage: str
    result: str
    why: str = ""
    tone: str = ""
    at: str = ""
    on: tuple[str, ...] = ()
    lit: tuple[str, ...] = ()
    card: int = -1
    rules: tuple[Rule, ...] = ()
    decides: int | None = None
    tried: Tried | None = None
    chains: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    quiz: Quiz | None = None


class Card(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The packet before and after, layer by layer; its size, and in what it grew; one line of it for those who listen."""

    rows: tuple[Row, ...]
    size: int
    grew: int = 0
    line: str = ""
    changed: tuple[str, ...] = ()


class Way(msgspec.Struct, frozen=True, rename="camel"):
    """The request's way or the reply's: events by number, and what became of it in words."""

    title: str
    ending: str
    arrived: bool
    events: tuple[int, ...]


class PageBranch(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One outcome."""

    probability: str
    verdict: str
    summary: str
    label: str
    request: Way
    reply: Way | None = None
    choices: tuple[str, ...] = ()
    source_seen: str = ""
    graph: int = 0


class Page(msgspec.Struct, frozen=True, rename="camel"):
    """Everything that the page shows."""

    title: str
    question: str
    verdict: str
    summary: str
    graphs: tuple[Layout, ...]
    cards: tuple[Card, ...]
    events: tuple[Event, ...]
    branches: tuple[PageBranch, ...]
    assumptions: tuple[str, ...] = ()
    not_modelled: tuple[str, ...] = ()


def page(trace: Trace, network: Network) -> Page:
    """The page of a trace.

    Parameters
    ----------
    trace : Trace
    network : Network
        That the trace walked: what is drawn, and the rules that were tried without matching.
    """
    shown = [_shown(trace, [branch]) for branch in trace.branches]
    whole = _shown(trace, trace.branches)
    together = len(whole.machines) <= UNION_MACHINES and len(whole.pods) <= UNION_PODS
    if together:
        graphs = [layout(network, whole)]
    else:
        graphs = [layout(network, one) for one in shown]
    made = _Maker(trace, network)
    branches = []
    for n, branch in enumerate(trace.branches):
        number = 0 if together else n
        branches.append(made.branch(branch, graphs[number], number))
    source, destination = trace.source, trace.destination
    return Page(
        title=f"{source.name or source.text} → {destination.name or destination.text}",
        question=_question(trace),
        verdict=trace.verdict.value,
        summary=_whole_summary(trace),
        graphs=tuple(graphs),
        cards=tuple(made.cards),
        events=tuple(made.events),
        branches=tuple(branches),
        assumptions=trace.assumptions,
        not_modelled=trace.not_modelled,
    )


def to_json(value: Page) -> bytes:
    """The page's value as JSON; in every text what a browser would obey (bidirectional overrides) is escaped."""
    plain = msgspec.to_builtins(value)
    return msgspec.json.encode({"apiVersion": API_VERSION, "kind": KIND, **_clean(plain)})


def _clean(value: Any) -> Any:
    match value:
        case str():
            return clean(value)
        case dict():
            return {key: _clean(item) for key, item in value.items()}
        case list() | tuple():
            return [_clean(item) for item in value]
        case _:
            return value


# ---------------------------------------------------------------------------------------------- what is drawn


def _ways(branch: Branch) -> Iterator[Hop]:
    yield from branch.hops
    if branch.reply is not None:
        yield from branch.reply.hops


def _shown(trace: Trace, branches: Iterable[Branch]) -> Shown:
    machines: dict[str, None] = {}
    pods: dict[str, None] = {}
    hostpods: dict[tuple[str, str], None] = {}
    devices: dict[tuple[str, str], None] = {}
    for branch in branches:
        for hop in _ways(branch):
            (pods if hop.kind == "pod" else machines)[hop.where] = None
            for step in hop.steps:
                if isinstance(step, NeighbourStep) and step.how == "fdb":
                    continue
                if hop.kind == "node" and (pod := _hostpod(step)):
                    hostpods[hop.where, pod] = None
                if isinstance(step, Encapsulated | Decapsulated):
                    devices[hop.where, step.device] = None
                if isinstance(step, Transmitted) and step.to:
                    owner = step.to.rpartition("/")[0]
                    if "/" in owner and hop.kind != "pod":
                        pods[owner] = None
                    elif owner and owner not in pods:
                        machines[owner] = None
    for party in (trace.source, trace.destination):  # also where the packet never gets there
        if party.kind == "pod" and party.where and "/" in party.where:
            pods[party.where] = None
    return Shown(tuple(machines), tuple(pods), tuple(hostpods), tuple(devices))


def _hostpod(step: AnyStep) -> str:
    """The pod in a node's own namespace that sends or receives here."""
    by = step.by if isinstance(step, Sent) else step.owner if isinstance(step, Delivered) else ""
    return by.removeprefix("pod ") if by.startswith("pod ") else ""


# ---------------------------------------------------------------------------------------------- events


class _Maker:
    """Events and cards under way; what is alike is kept once."""

    def __init__(self, trace: Trace, network: Network) -> None:
        self.trace, self.network = trace, network
        self.cards: list[Card] = []
        self.events: list[Event] = []
        self._cards: dict[Card, int] = {}
        self._events: dict[Event, int] = {}

    def branch(self, branch: Branch, graph: Layout, number: int) -> PageBranch:
        reply = branch.reply
        return PageBranch(
            probability=probability(branch.probability),
            verdict=branch.verdict.value,
            summary=_summary(branch),
            label=(branch.endpoint_name or branch.endpoint or branch.verdict.value).rpartition("/")[2],
            request=Way("request", _request_ending(branch), branch.endpoint is not None, self._way(branch.hops, graph)),
            reply=None if reply is None else Way(*_reply_words(reply), reply.arrived, self._way(reply.hops, graph)),
            choices=branch.choices,
            source_seen=branch.source_seen or "",
            graph=number,
        )

    def _way(self, hops: Sequence[Hop], graph: Layout) -> tuple[int, ...]:
        walk = _Walk(self, graph)
        return tuple(self._event(event) for hop in hops for event in walk.hop(hop))

    def _event(self, event: Event) -> int:
        if event not in self._events:
            self._events[event] = len(self.events)
            self.events.append(event)
        return self._events[event]

    def card(self, before: Header | None, after: Header) -> int:
        new = layers(after)
        old = layers(before) if before is not None else new
        rows = compare(old, new)
        changed = [f"{row.name} {row.change}" for row in rows if row.change in ("added", "removed")]
        fields = [(row.name, field) for row in rows if row.change == "changed" for field in row.fields]
        changed += [f"{name} {field.name} {field.old} to {field.new}" for name, field in fields if field.old is not None]
        grew = _ip_size(new) - _ip_size(old)
        made = Card(rows, wire_size(new), grew, _line(after), tuple(changed))
        if made not in self._cards:
            self._cards[made] = len(self.cards)
            self.cards.append(made)
        return self._cards[made]


def _ip_size(packet: Sequence[Layer]) -> int:
    """Bytes of the IP packet, whatever frame it is in."""
    return sum(layer.size for n, layer in enumerate(packet) if n or layer.name != "Ethernet")


class _Walk:
    """The packet on its way through one direction of a branch: where it is, and what it is like."""

    def __init__(self, maker: _Maker, graph: Layout) -> None:
        self.maker, self.graph = maker, graph
        self.packet: Header | None = None
        self.at = ""

    def hop(self, hop: Hop) -> Iterator[Event]:
        graph = self.graph
        home = hop.where if hop.kind == "pod" or kernel_id(hop.where) not in graph.box else kernel_id(hop.where)
        inside = home
        items = list(runs(hop.steps, True))
        for n, item in enumerate(items):
            step: AnyStep | None = None if isinstance(item, Run) else item
            if isinstance(step, Received):
                bridge = _bridge_ahead(step, hop)
                if bridge and device_id(hop.where, bridge) in graph.box:
                    inside = device_id(hop.where, bridge)
            elif isinstance(step, Sent) and step.packet == self.packet and step.packet.inner is not None:
                continue  # what a tunnel's device has just wrapped
            elif isinstance(step, Bridged):
                box = device_id(hop.where, step.bridge)
                inside = home if step.port_out == step.bridge or box not in graph.box else box
            yield self._event(hop, item, items[n + 1 :], home, inside)

    def _event(self, hop: Hop, item: Run | AnyStep, later: Sequence[Run | AnyStep], home: str, inside: str) -> Event:
        before = self.packet
        after = _after(item, before)
        at, on, lit = self._place(hop, item, home, inside)
        self.packet = after
        card = self.maker.card(before, after) if after is not None else -1
        netns = self.maker.network.namespaces.get(hop.where)
        lesson = lessons.Lesson(self.maker.trace, hop, later, before, after, netns)
        stage, result, tone = _words(item, lesson)
        rules, tried, chains = self._rules(hop, item, after)
        return Event(
            where=hop.where,
            kind=hop.kind,
            stage=stage,
            result=result,
            why=lessons.why(item, lesson),
            tone=tone,
            at=at,
            on=on,
            lit=lit,
            card=card,
            rules=rules,
            decides=_decides(item, rules),
            tried=tried,
            chains=chains,
            facts=_facts(item),
            quiz=_quiz(item, lesson),
        )

    def _place(self, hop: Hop, item: Run | AnyStep, home: str, inside: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """Where the packet is after an item, the wire that it is on, and what else is lit."""
        graph, was = self.graph, self.at

        def box(device: str) -> str:
            id_ = device_id(hop.where, device)
            return id_ if id_ in graph.box else home

        on: tuple[str, ...] = ()
        lit: list[str] = []
        match item:
            case Sent():
                at = hostpod_id(hop.where, _hostpod(item)) if hop.kind == "node" and _hostpod(item) else home
                if item.packet.inner is not None and " " in item.by:
                    at = box(item.by.split(" ", 1)[0])
            case Received() | Encapsulated() | Decapsulated() | NeighbourStep():
                at = box(item.device)
            case Bridged():
                at = box(item.bridge)
                lit += [box(item.port_in), box(item.port_out)]
            case Transmitted():
                at = box(item.device)
                owner, _, device = item.to.rpartition("/")
                far = device_id(owner, device)
                far = far if far in graph.box else owner if owner in graph.box and kernel_id(owner) not in graph.box else ""
                boxes, on = graph.way(at, far) if far else ((), ())
                lit += boxes
            case Delivered():
                at = hostpod_id(hop.where, _hostpod(item)) if hop.kind == "node" and _hostpod(item) else home
            case Routed():
                at = inside
                if item.device:
                    lit.append(box(item.device))
            case MtuStep():
                at = box(item.device)
            case _:
                at = inside
        if at not in graph.box:
            at = home if home in graph.box else was
        if was and was != at:
            _, wires = graph.way(was, at)
            lit += wires
        self.at = at
        if on and isinstance(item, Transmitted):
            lit += on
        return at, on, tuple(dict.fromkeys(i for i in lit if i != at))

    def _rules(
        self, hop: Hop, item: Run | AnyStep, packet: Header | None
    ) -> tuple[tuple[Rule, ...], Tried | None, tuple[tuple[str, str], ...]]:
        match item:
            case Run():
                rules = tuple(_rule(step) for step in item.rules)
                family = 6 if packet is not None and ":" in packet.source else 4
                netns = self.maker.network.namespaces.get(hop.where)
                tried = tried_rules(netns, family, item) if netns is not None else None
                names = dict.fromkeys([step.chain for step in without_dead_jumps(item.rules)] if item.rules else [])
                return rules, tried, tuple((name, text) for name in names if (text := lessons.chain(name, item.table)))
            case Routed() if item.route:
                table = f"table {item.table}" if item.table else ""
                rule = f", ip rule {item.rule}" if item.rule is not None else ""
                return (Rule(item.route, f"{table}{rule}", _ref(item.ref), "route"),), None, ()
            case IpvsStep() if item.rule or item.service:
                parts = [Rule(item.service, "ipvsadm", _ref(item.ref), "virtual service")]
                parts += [Rule(item.rule, "ipvsadm", _ref(item.ref), f"real server; {item.why}")] if item.rule else []
                return tuple(parts), None, ()
            case PolicyStep() if item.ref is not None and item.policy:
                number = f" rule {item.rule}" if item.rule is not None else ""
                return (Rule(f"{item.policy}{number}", f"{item.direction} of the pod", _ref(item.ref), item.says),), None, ()
            case Dropped() | Rejected() if (by := _quoted(item.reason, hop)) is not None:
                return (_rule(by),), None, ()
            case HookStep() | RuleStep():
                raise AssertionError("gathered by runs()")
            case _ if item.ref is not None:
                return (Rule(_ref(item.ref), "", "", ""),), None, ()
            case _:
                return (), None, ()


def _decides(item: Run | AnyStep, rules: Sequence[Rule]) -> int | None:
    """Which of the rules has the last word; in a chain that the packet leaves by its policy none has."""
    if not rules or (isinstance(item, Run) and item.end is not None and item.end.by != "rule"):
        return None
    return len(rules) - 1


def _bridge_ahead(received: Received, hop: Hop) -> str:
    """The bridge whose port a frame came in by, as the hop goes on to tell."""
    return next((s.bridge for s in hop.steps if isinstance(s, Bridged) and s.port_in == received.device), "")


def _rule(step: RuleStep) -> Rule:
    where = f"{step.table} {step.chain} rule {step.number}"
    chance = f", taken with probability {step.chance}" if step.chance and step.chance != "?" else ""
    return Rule(step.matched, where, _ref(step.ref), (step.effect or "count") + chance)


def _ref(ref: Ref | None) -> str:
    return str(ref) if ref is not None else ""


def _after(item: Run | AnyStep, before: Header | None) -> Header | None:
    """The packet after an item: what the step tells, or what a rewrite makes of it."""
    match item:
        case Sent() | Received() | Transmitted() | Delivered():
            return item.packet
        case Bridged():
            return item.packet or before
        case Encapsulated():
            return item.outer
        case Decapsulated():
            return item.inner
        case Natted() if before is not None:
            return _rewritten(before, item)
        case _:
            return before


def _rewritten(header: Header, step: Natted) -> Header:
    """A header with the addresses and ports of a NAT step's `after`, where its `before` is this packet."""
    before, after = step.before.split(" > "), step.after.split(" > ")
    if len(before) != 2 or len(after) != 2 or header.inner is not None:
        return header
    ports = bool(header.sport or header.dport)
    (source, sport), (destination, dport) = (_address(part, ports) for part in after)
    return msgspec.structs.replace(
        header,
        source=source,
        destination=destination,
        sport=int(sport) if sport.isdecimal() else header.sport,
        dport=int(dport) if dport.isdecimal() else header.dport,
        sport_random=sport == "*" or (header.sport_random and before[0] == after[0]),
    )


def _address(text: str, ports: bool) -> tuple[str, str]:
    if not ports:
        return text, ""
    address, _, port = text.rpartition(":")
    return address.strip("[]"), port


def _line(header: Header) -> str:
    flags = f" {header.flags}" if header.flags else ""
    inner = f" carrying {_line(header.inner)}" if header.inner is not None else ""
    return f"{header.protocol}{flags} {header}{inner}"


# ---------------------------------------------------------------------------------------------- words


def _words(item: Run | AnyStep, lesson: lessons.Lesson) -> tuple[str, str, str]:
    """Stage, result and tone of an item."""
    match item:
        case Run():
            return _run_words(item)
        case Sent():
            return "sent", _line(item.packet), ""
        case Received():
            return f"in {item.device}", "received", ""
        case Transmitted():
            return f"out {item.device}", f"on the wire to {item.to}" if item.to else "on the wire", ""
        case Routed():
            return "route", lessons.route_words(item), "bad" if item.type in ("blackhole", "unreachable", "prohibit") else ""
        case NeighbourStep():
            return "neighbour", f"{item.ip} is at {item.mac}" if item.mac else f"{item.ip} on {item.device}", ""
        case Bridged():
            out = "up to the host" if item.port_out == item.bridge else f"to port {item.port_out}"
            return f"bridge {item.bridge}", out, ""
        case Conntracked():
            return "conntrack", f"{item.state}{f', {item.direction} direction' if item.direction else ''}", ""
        case Natted():
            return nat_label(item), nat_words(item), "nat"
        case IpvsStep() if item.action == "no server":
            return "IPVS", "no real server takes it", "bad"
        case IpvsStep():
            return "IPVS", f"real server {item.server}" if item.server else item.action, "nat"
        case Encapsulated():
            return f"encap {item.device}", f"wrapped in {lessons.tunnel(item.vni)}", "nat"
        case Decapsulated():
            return f"decap {item.device}", f"taken out of {lessons.tunnel(item.vni)}", "nat"
        case MtuStep():
            fits = item.length <= item.mtu
            return "MTU", f"{item.length} bytes {'fit' if fits else 'exceed'} {item.mtu} of {item.device}", "" if fits else "warn"
        case PolicyStep():
            bad = item.says == "denied"
            return f"policy {item.direction}".strip(), item.text, ("bad" if item.enforced else "warn") if bad else ""
        case NoteStep():
            return "note", item.text, ""
        case Delivered():
            return "delivered", f"to {item.socket}, {item.owner}", "good"
        case Proxied():
            return "proxied", f"kube-proxy: second connection to {item.backend}", "nat"
        case Dropped():
            return "DROPPED", _unquoted(item.reason, lesson), "bad"
        case Rejected():
            return "REJECTED", f"{_unquoted(item.reason, lesson)}; answer: {item.answer}", "bad"
        case UnknownStep():
            return "UNKNOWN", item.what, "warn"
        case HookStep() | RuleStep():
            raise AssertionError("gathered by runs()")


def _unquoted(reason: str, lesson: lessons.Lesson) -> str:
    """A reason without the rule that the step before it shows."""
    by = _quoted(reason, lesson.hop)
    return reason if by is None else without_rule(reason, by) + _origin(by)


def _quoted(reason: str, hop: Hop) -> RuleStep | None:
    """The rule of a hop that a reason quotes."""
    rules = (step for step in reversed(hop.steps) if isinstance(step, RuleStep))
    return next((step for step in rules if without_rule(reason, step) != reason), None)


def _run_words(run: Run) -> tuple[str, str, str]:
    end = run.end
    stage = f"{run.table} {run.hook}"
    ending = policy_words(end) if end is not None and (end.by != "rule" or not run.rules) else ""
    tone = "bad" if end is None or end.verdict == "drop" else ""
    if run.quiet:
        tried = count(end.tried, "rule") if end is not None else "no rule"
        return stage, f"{tried} tried, none decides; {ending}", ""
    if not run.rules:
        return stage, ending or "no rules", tone
    path = chain_path(without_dead_jumps(run.rules))
    if end is None and not run.rules[-1].effect.lower().startswith(("drop", "reject")):
        tone = "warn"
    return stage, path + (f"; {ending}" if ending else ""), tone


def _facts(item: Run | AnyStep) -> tuple[tuple[str, str], ...]:
    """What else the step says, as names and values."""
    match item:
        case Conntracked():
            facts = [("state", item.state), ("direction", item.direction), ("original", item.original), ("reply", item.reply)]
        case NeighbourStep():
            facts = [("address", item.ip), ("MAC", item.mac), ("device", item.device), ("how", item.how), ("owner", item.owner)]
        case Routed():
            facts = [("looked up", item.destination), ("gateway", item.via), ("device", item.device)]
            facts += [("source chosen", item.source), ("note", item.note)]
        case Bridged():
            facts = [("in", item.port_in), ("out", item.port_out), ("frame to", item.mac), ("note", item.note)]
        case IpvsStep():
            facts = [("method", item.method), ("scheduler", item.scheduler), ("why", item.why), ("chance", item.chance)]
        case MtuStep():
            facts = [("MTU", str(item.mtu)), ("length", str(item.length)), ("note", item.note)]
        case Run() if item.end is not None:
            facts = [("rules tried", str(item.end.tried)), ("tables", item.end.origin)]
        case PolicyStep():
            facts = [("selected by", ", ".join(item.selected)), ("enforced", "yes" if item.enforced else "no: nobody does")]
        case Delivered() if item.assumed:
            facts = [("socket", "assumed: nothing declares it")]
        case _:
            facts = []
    return tuple((name, value) for name, value in facts if value)


def _quiz(item: Run | AnyStep, lesson: lessons.Lesson) -> Quiz | None:
    asked = lessons.quiz(item, lesson)
    return None if asked is None else Quiz(*asked)


# ---------------------------------------------------------------------------------------------- verdicts in words


def _question(trace: Trace) -> str:
    source, destination = trace.source, trace.destination
    named = destination.port is None or destination.name.endswith(f":{destination.port}")
    port = "" if named else f", port {destination.port}"
    return f"{_party(source.kind, source.name)} to {_party(destination.kind, destination.name)}{port} by {trace.protocol}"


def _party(kind: str, name: str) -> str:
    return name if kind in ("", "address") or name == "internet" or name.startswith(f"{kind} ") else f"{kind} {name}"


def _whole_summary(trace: Trace) -> str:
    if len(trace.branches) == 1:
        return _summary(trace.branches[0])
    by: dict[str, list[Branch]] = {}
    for branch in trace.branches:
        by.setdefault(branch.verdict.value, []).append(branch)
    if len(by) == 1:
        verdict = next(iter(by))
        return f"{verdict.capitalize()} whichever of the {len(trace.branches)} ways chance takes"
    parts = [f"{probability(sum(b.probability for b in of))} {verdict}" for verdict, of in by.items()]  # type: ignore[arg-type]
    return "It depends on chance: " + ", ".join(parts)


def _summary(branch: Branch) -> str:
    who = f"{branch.endpoint_name} ({branch.endpoint})" if branch.endpoint_name else branch.endpoint or ""
    match branch.verdict:
        case Verdict.DELIVERED:
            seen = f", which sees {branch.source_seen} as the sender" if branch.source_seen else ""
            back = "; the answer came back" if branch.reply is not None else ""
            return f"Delivered to {who}{seen}{back}"
        case verdict:
            reason = _short(branch) or "no reason known"
            return f"{verdict.value.capitalize()}: {reason}"


def _short(branch: Branch) -> str:
    """The reason without the rule that it quotes, which is shown where it decides: the rule's comment and its origin instead."""
    reason = branch.reason or (branch.reply.reason if branch.reply is not None else None) or ""
    for hop in reversed(list(_ways(branch))):
        if (by := _quoted(reason, hop)) is not None:
            return without_rule(reason, by) + _origin(by)
    return reason


def _origin(step: RuleStep) -> str:
    """What the rule says of itself, and the line that it was made from."""
    said = next((text for text in _COMMENTS.findall(step.rule) if not text.startswith("cali:")), step.comment)
    comment = f": \u201c{said}\u201d" if said and not said.startswith("cali:") else ""
    return comment + (f"; made from {step.ref}" if step.ref is not None and str(step.ref) else "")


def _request_ending(branch: Branch) -> str:
    if branch.endpoint is not None:
        return f"arrived at {branch.endpoint_name or branch.endpoint}"
    return _short(branch) or branch.verdict.value


def _reply_words(reply: Reply) -> tuple[str, str]:
    title = "reply" if reply.kind == "reply" else "error answer"
    return title, "arrived at the sender" if reply.arrived else reply.reason or "did not arrive"
