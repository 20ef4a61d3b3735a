"""One flow, sent alone and compared in full: rules that it meets, devices that it crosses, connections that it leaves.

    watch -> one connection, nothing else -> what was seen, every namespace, both directions  ==  one predicted branch

Law: exact. For TCP three packets are sent (SYN, SYN-ACK, ACK; the connection is held until all is read), for SCTP four, for UDP
and ping two, for what is refused the error as well; packets in tunnels count. With iptables-nft and nft the rules are compared
in the kernel's order (kernel_trace.py), with iptables-legacy by the counter of every rule, which knows no order. Connection
tracking is emptied before each flow, as a walk begins.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType

import msgspec

from netlab.lab import kernel_trace
from netlab.lab.crossings import Crossing, drawn_ends, first_parting, kept_house, predicted_crossings, seen_crossings
from netlab.lab.entries import Entry, differences, predicted_entries, seen_entries
from netlab.lab.host import Lab, Seen, Shot, require
from netlab.lab.kernel_trace import Rule, first_mismatch, passes, predicted_passes, rule_numbers
from netlab.lab.verify import FIRST_PORT, PAUSE, PORTS, assumed_listeners, fits, seen_text, shot
from netlab.linux.addr import Ip, ip
from netlab.linux.bridge import Links
from netlab.linux.matches import Recent
from netlab.linux.netns import Netns
from netlab.linux.network import Network
from netlab.linux.nft import table_name
from netlab.linux.packet import (
    ACK,
    ECHO_REQUEST,
    ICMP,
    ICMPV6,
    PROTOCOL_NUMBERS,
    SCTP,
    SYN,
    TCP,
    V6_ECHO_REQUEST,
    Packet,
)
from netlab.linux.rules import nft_tables
from netlab.linux.text.nft import rule_text as nft_rule_text
from netlab.trace.choices import Chooser, explore
from netlab.trace.flows import Flow, predict
from netlab.trace.proxied import SILENCE, speak
from netlab.trace.query import Tracer
from netlab.trace.skb import socket_text
from netlab.trace.steps import Hop, MtuStep, NoteStep, RuleStep, Sent, Trace, Verdict
from netlab.trace.walker import Expected, Walk, reply_to

Place = tuple[str, str, str, int]  # namespace, table, chain, number of the rule
_LENGTHS = {TCP: 60, ICMP: 84, ICMPV6: 104}

_COUNTED = re.compile(r"^\[(\d+):\d+\] -A (\S+)", re.ASCII)
UNSEEN = "those of nftables not: --iptables nft compares them"
SETTLE = 0.01  # seconds for what the sender's answer did not wait for
# Seconds to wait for an answer, by attempt. Less than a second: TCP must not repeat its SYN, nor a server its SYN-ACK, before
# all counters are read, which takes its time on a slow machine; but a slow one answers late, too.
WAITS = (0.8, 0.6, 0.4, 0.7)
ATTEMPTS = 4  # what came late from an earlier flow counts too; it does not come every time
DISTURBED = 8  # so often where counters have neighbour discovery, multicast reports or redirects in them


class Path(msgspec.Struct, frozen=True):
    """A predicted branch: what every rule should count, the rules of each pass through each namespace in order, the devices
    crossed (None: not told, for fragments are followed as one packet), and the connections at its end. `rest`: what follows the
    request and its first answer, as TCP's third packet does."""

    verdict: str
    endpoint: str | None
    hits: dict[Place, int]
    rules: dict[str, list[tuple[Rule, ...]]] = {}
    crossings: dict[str, list[Crossing]] | None = None
    entries: dict[str, list[Entry]] = {}
    remembered: bool = False  # the sender was written down, by `-m recent` or in a set of nft's
    rest: tuple[Hop, ...] = ()


class Observed(msgspec.Struct, frozen=True):
    """What Linux showed of one flow: the counters of the rules that were hit, or (`ordered`) the rules in order; devices
    crossed; connections. `lost` says that the kernel's buffers were too small to show all; `disturbed` that a node's rules
    counted neighbour discovery, multicast reports or redirects meanwhile, so that counters tell nothing."""

    counted: dict[Place, int]
    rules: dict[str, list[tuple[Rule, ...]]]
    ordered: bool
    crossings: dict[str, list[Crossing]]
    entries: dict[str, list[Entry]]
    lost: bool = False
    disturbed: bool = False

    @property
    def hits(self) -> dict[Place, int]:
        """How often each rule was met."""
        if not self.ordered:
            return self.counted
        return dict(Counter((ns, *rule) for ns, made in self.rules.items() for rules in made for rule in rules))


class PathDisagreement(msgspec.Struct, frozen=True):
    """A flow that went another way than netlab says; `lines` tell where they part."""

    flow: Flow
    seen: Seen
    lines: tuple[str, ...]

    def __str__(self) -> str:
        head = f"{self.flow}: Linux {seen_text(self.seen)}; the way was another than netlab says"
        return "\n".join([head, *self.lines])


class PathReport(msgspec.Struct):
    """What was compared."""

    flows: int = 0
    agreed: int = 0
    passed_over: int = 0  # not comparable, or not to be sent by this kernel
    packets: int = 0  # rule hits compared, over all flows
    rules: set[Place] = msgspec.field(default_factory=set)
    ordered: bool = False
    unseen: bool = False  # nftables has rules of its own, which have no counters
    crossings: int = 0
    entries: int = 0
    disagreements: list[PathDisagreement] = msgspec.field(default_factory=list)

    @property
    def compared(self) -> str:
        """What was compared, in words."""
        how = "in the kernel's order" if self.ordered else "by their counters" + (f" ({UNSEEN})" if self.unseen else "")
        return (
            f"{self.packets} hits on {len(self.rules)} rules, {how}; {self.crossings} device crossings; "
            f"{self.entries} connections"
        )

    @property
    def summary(self) -> str:
        """One line."""
        text = f"{self.flows} flows sent alone: {self.agreed} agree, {len(self.disagreements)} disagree"
        return f"{text}; compared: {self.compared}" + (f"; {self.passed_over} could not be compared" if self.passed_over else "")


# -- counting ----------------------------------------------------------------------------------------------------------


def counters(lab: Lab, nodes: Iterable[str], family: int, variant: str) -> dict[Place, int]:
    """The packet counter of every rule that has counted anything."""
    tool = f"{'iptables' if family == 4 else 'ip6tables'}-{variant}-save"
    found: dict[Place, int] = {}
    for node in nodes:
        table = ""
        numbers: Counter[str] = Counter()
        for line in lab.run(node, tool, "-c").splitlines():
            if line.startswith("*"):
                table = line[1:]
                numbers.clear()
            elif (match := _COUNTED.match(line)) is not None:
                chain = match[2]
                numbers[chain] += 1
                if match[1] != "0":
                    found[node, table, chain, numbers[chain]] = int(match[1])
    return found


def partings(predicted: Sequence[Path], found: Observed, network: Network, family: int) -> list[str]:
    """Where Linux and the nearest of the predicted paths part, a line each; none where one path fits in everything."""
    return min((_partings(path, found, network, family) for path in predicted), key=len, default=["  no predicted branch fits"])


def _partings(path: Path, found: Observed, network: Network, family: int) -> list[str]:
    lines: list[str] = []
    if found.ordered:
        lines += _order_partings(path, found, network, family)
    else:
        for place in _differences(path.hits, found.counted):
            ns, rule = place[0], (place[1], place[2], place[3])
            said, counted = path.hits.get(place, 0), found.counted.get(place, 0)
            lines.append(f"  {ns} {_rule(network, ns, family, rule)}: netlab {said}, Linux {counted}")
    if path.crossings is not None:
        for ns in sorted(path.crossings.keys() | found.crossings.keys()):
            parted = first_parting(path.crossings.get(ns, ()), found.crossings.get(ns, ()))
            if parted is not None:
                lines.append(f"  {ns} device crossing {parted.number + 1}: netlab {parted.said}, Linux {parted.found}")
    for ns in sorted(path.entries.keys() | found.entries.keys()):
        unmet, unsaid = differences(path.entries.get(ns, ()), found.entries.get(ns, ()))
        lines += [f"  {ns} connection only in netlab: {entry}" for entry in unmet]
        lines += [f"  {ns} connection only in Linux: {entry}" for entry in unsaid]
    return lines


def _order_partings(path: Path, found: Observed, network: Network, family: int) -> list[str]:
    lines = []
    for ns in sorted(path.rules.keys() | found.rules.keys()):
        parted = first_mismatch(path.rules.get(ns, ()), found.rules.get(ns, ()))
        if parted is None:
            continue
        said, theirs = (_rule(network, ns, family, rule) for rule in (parted.said, parted.found))
        after = f", after {_rule(network, ns, family, parted.before)}" if parted.before is not None else ""
        lines.append(f"  {ns} packet {parted.number + 1}, rule {parted.place + 1}{after}: netlab {said}, Linux {theirs}")
    return lines


def _rule(network: Network, ns: str, family: int, rule: Rule | None) -> str:
    if rule is None:
        return "none"
    table, chain, number = rule
    return f"{table} {chain} rule {number} ({rule_text(network, ns, family, rule)})"


def rule_text(network: Network, ns: str, family: int, rule: Rule) -> str:
    """A rule in its tool's words, as the model has it; the lab's rules were made from there."""
    table, chain, number = rule
    if number < 1:
        return "not a rule of netlab's"
    ruleset = network.namespaces[ns].rulesets.get(family)
    made = ruleset.table(table) if ruleset is not None else None
    if made is not None and chain in made.chains and number <= len(made.chains[chain].rules):
        return f"-A {chain} {made.chains[chain].rules[number - 1]}".rstrip()
    for native in ruleset.nft_tables if ruleset is not None else ():
        if table == table_name(native) and chain in native.chains:
            rules = native.chains[chain].rules
            return nft_rule_text(rules[number - 1], native) if number <= len(rules) else "not a rule of netlab's"
    return "not a rule of netlab's" if made is not None else chain


def _remembers(netns: Netns) -> bool:
    return any(
        type(match) is Recent
        for ruleset in netns.rulesets.values()
        for table in ruleset.tables
        for chain in table.chains.values()
        for rule in chain.rules
        for match in rule.matches
    )


def _differences(said: dict[Place, int], counted: dict[Place, int]) -> list[Place]:
    return sorted(place for place in said.keys() | counted.keys() if said.get(place, 0) != counted.get(place, 0))


def _flushes(netns: Netns) -> str:
    """The nft commands that empty the sets that rules fill; those that begin with elements stay."""
    return "".join(
        f"flush set {table.family} {table.name} {name}\n"
        for table in nft_tables(netns.rulesets)
        for name, held in table.sets.items()
        if "dynamic" in held.flags and not held.elements
    )


def forget(lab: Lab, nodes: Iterable[str], recent: Iterable[str], learned: Mapping[str, str]) -> bool:
    """Empty connection tracking everywhere, the lists of `-m recent` on the nodes that have some, and by `learned` the sets that
    nft's rules fill: a walk has no memory.

    False where the lists cannot be emptied: their files belong to the host's root (xt_recent.c, ip_list_uid), also in a user
    namespace.
    """
    lab.ask("forget", spaces=[lab.file(node) for node in nodes])
    for node, flush in learned.items():
        lab.run(node, "nft", "-f", "-", stdin=flush)
    script = "for list in /proc/net/xt_recent/*; do [ ! -e $list ] || echo / > $list || exit 1; done"
    return all(lab.ask("run", ns=lab.file(node), argv=["sh", "-c", script])["rc"] == 0 for node in recent)


# -- predicting --------------------------------------------------------------------------------------------------------


def paths(network: Network, links: Links, trace: Trace, sport: int, size: int | None = None) -> list[Path] | None:
    """Every branch of a flow with the hits of all its packets (the third of TCP included); None where netlab does not know.

    `size` is that of the first packet in bytes, where it is not the usual one.
    """
    protocol = PROTOCOL_NUMBERS[trace.protocol.lower()]
    icmp = protocol in (ICMP, ICMPV6)
    dst = ip(trace.destination.ip)
    packet = Packet(
        src=ip(trace.source.ip) if trace.source.kind == "external" else Ip(dst.family, 0),
        dst=dst,
        protocol=protocol,
        sport=0 if icmp else sport,
        dport=trace.destination.port or 0,
        icmp_type=(ECHO_REQUEST if protocol == ICMP else V6_ECHO_REQUEST) if icmp else 0,
        icmp_id=1 if icmp else 0,
        tcp_flags=SYN if protocol == TCP else 0,
        length=size if size is not None else _LENGTHS.get(protocol, 60),
    )

    def run(chooser: Chooser) -> Path:
        walk = Walk(network, links, chooser)
        walk.expected = Expected(trace.source.where, packet.flow, trace.source.name)
        home = network.namespaces[trace.source.where]
        out = walk.local_out(home, packet, trace.source.name)
        hops = list(walk.take_hops())
        kind, endpoint, told = out.kind, None, len(hops)
        if out.proxy is not None:
            said = speak(walk, home, packet, out, tuple(hops))
            kind, endpoint, hops = said.verdict.value, said.endpoint, said.counted
        elif out.kind == "delivered" and out.packet is not None:
            endpoint = socket_text(out.packet.dst, out.packet.dport)
            back = walk.local_out(network.namespaces[out.netns], reply_to(out.packet), out.owner)
            hops += walk.take_hops()
            kind, told = back.kind, len(hops)
            if back.kind == "delivered" and protocol in (TCP, SCTP):
                sent = next(s.packet for hop in hops for s in hop.steps if isinstance(s, Sent))  # with its source
                third = msgspec.structs.replace(packet, src=ip(sent.source), tcp_flags=ACK, length=52)
                walk.expected = Expected(out.netns, out.packet.flow.reversed(), out.owner)
                last = walk.local_out(home, third, trace.source.name)
                hops += walk.take_hops()
                if last.kind == "delivered" and last.packet is not None and protocol == SCTP:  # COOKIE-ECHO, COOKIE-ACK
                    walk.expected = Expected(trace.source.where, third.flow, trace.source.name)
                    last = walk.local_out(network.namespaces[last.netns], reply_to(last.packet), last.owner or out.owner)
                    hops += walk.take_hops()
                kind = last.kind
            elif back.answer is not None:
                walk.send_answer(back)
                hops += walk.take_hops()
        elif out.answer is not None:
            back = walk.send_answer(out)
            hops += walk.take_hops()
            told = len(hops)
        drawn = drawn_ends(hops)
        return Path(
            kind,
            endpoint,
            _hits(hops),
            predicted_passes(hops),
            None if _fragments(hops) else predicted_crossings(hops),
            {ns: made for ns, known in walk.netfilter.connections.items() if (made := predicted_entries(known, drawn))},
            _is_remembered(hops),
            () if out.proxy is not None else tuple(hops[told:]),
        )

    found = explore(run, lambda path: (path.verdict, path.endpoint), lambda path, label: Path("unknown", None, {}))
    if any(w.outcome.verdict == "unknown" for w in found):
        return None
    return [w.outcome for w in found if w.probability > 0]


def _fragments(hops: Iterable[Hop]) -> bool:
    return any(isinstance(step, MtuStep) and "fragments" in step.note for hop in hops for step in hop.steps)


def _is_remembered(hops: Iterable[Hop]) -> bool:
    steps = (step for hop in hops for step in hop.steps)
    return any(isinstance(step, RuleStep) and ("-m recent" in step.rule or "update @" in step.rule) for step in steps)


def _hits(hops: Iterable[Hop]) -> dict[Place, int]:
    counted: Counter[Place] = Counter()
    for hop in hops:
        for step in hop.steps:
            # nft's own rules have no counters: what they do is seen in the verdict
            if isinstance(step, RuleStep) and not step.table.startswith("nft "):
                counted[hop.where, step.table, step.chain, step.number] += 1
    return dict(counted)


# -- comparing ---------------------------------------------------------------------------------------------------------


def verify_paths(
    tracer: Tracer,
    network: Network,
    lab: Lab,
    wanted: Sequence[Flow],
    variant: str,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> PathReport:
    """Send flows one at a time and compare the rules, the devices and the connections with the walk.

    Parameters
    ----------
    tracer : Tracer
        Predicts verdicts and endpoints.
    network : Network
        What the lab was made from.
    wanted : sequence of Flow
        What to send.
    variant : str
        "legacy" or "nft", as the lab was made.
    """
    report = PathReport(ordered=variant == "nft", unseen=hides_rules(network, variant))
    port = 0
    with Bench(network, lab, variant) as bench:
        for n, flow in enumerate(wanted):
            report.flows += 1
            for attempt in range(DISTURBED):
                port += 1
                sport = FIRST_PORT + (PORTS // 2 + port) % PORTS
                trace = predict(tracer, flow, sport)
                lab.listen(assumed_listeners(network, [trace]))
                one = bench.measure(shot(flow, trace, sport), trace, WAITS[attempt % len(WAITS)])
                if one.likely is None or (attempt == DISTURBED - 1 and one.partings and one.observed.disturbed):
                    report.passed_over += 1
                    break
                if not one.partings:
                    _count(report, one.observed)
                    break
                if attempt >= ATTEMPTS - 1 and not one.observed.disturbed:
                    report.disagreements.append(PathDisagreement(flow, one.seen, tuple(one.partings)))
                    break
                if attempt > 0:  # an earlier flow's connection may still be repeating itself
                    time.sleep(PAUSE)
            progress(n + 1)
    return report


def _count(report: PathReport, found: Observed) -> None:
    report.agreed += 1
    report.packets += sum(found.hits.values())
    report.rules |= found.hits.keys()
    report.crossings += sum(len(made) for made in found.crossings.values())
    report.entries += sum(len(made) for made in found.entries.values())


def _is_comparable(trace: Trace, ordered: bool) -> bool:
    """Not what netlab does not know; nor a routing loop (of which one lap is walked); nor, by counters, questions for an IPv6
    neighbour that does not answer, which are packets that the rules count too; nor what the userspace mode waits for."""
    if trace.verdict is Verdict.UNKNOWN:
        return False
    reasons = [branch.reason or "" for branch in trace.branches]
    asks = ":" in trace.destination.ip and any(reason.startswith("nobody on") for reason in reasons)
    if any(_waits(hop) for branch in trace.branches for hop in branch.hops):
        return False
    return (ordered or not asks) and not any("routing loop" in reason for reason in reasons)


def _waits(hop: Hop) -> bool:
    """Whether kube-proxy's userspace mode waits for a silent endpoint here: the kernel asks again meanwhile, by its own clock."""
    return any(isinstance(step, NoteStep) and step.text.startswith(SILENCE) for step in hop.steps)


def hides_rules(network: Network, variant: str) -> bool:
    """Whether there are rules that nobody compares: kube-proxy's in nftables have no counters, and with iptables-legacy the
    kernel's trace is not read."""
    rulesets = (ruleset for space in network.namespaces.values() for ruleset in space.rulesets.values())
    return variant != "nft" and any(ruleset.nft_tables for ruleset in rulesets)


class Measured(msgspec.Struct, frozen=True):
    """One packet that was sent: what became of it, what Linux showed, the predicted paths that end so (None: such a flow cannot
    be compared), the lines that tell where the nearest of them parts from Linux, and all paths that were predicted."""

    seen: Seen
    observed: Observed
    likely: list[Path] | None
    partings: list[str]
    said: list[Path] = []


class Bench:
    """A lab in which every namespace is watched while one packet is under way; as a context manager it stops watching."""

    def __init__(self, network: Network, lab: Lab, variant: str) -> None:
        self.network, self.lab, self.variant = network, lab, variant
        self.ordered = variant == "nft"
        self.links = Links(network)
        self.nodes = [name for name, space in network.namespaces.items() if space.rulesets]
        self.recent = [name for name in self.nodes if _remembers(network.namespaces[name])]
        self.learned = {name: made for name in self.nodes if (made := _flushes(network.namespaces[name]))}
        self.spaces = {lab.file(name): name for name in network.namespaces}
        self.numbers: dict[str, dict[tuple[str, str, int], Rule]] = {}

    def __enter__(self) -> Bench:
        files = [self.lab.file(name) for name in self.nodes]
        if self.ordered:
            require("nft", "the kernel's trace of rules")
            for name in self.nodes:
                self.lab.run(name, "nft", "-f", "-", stdin=kernel_trace.START)
            dumped = self.lab.ask("dump", spaces=files, what="rules")["spaces"]
            self.numbers = {ns: rule_numbers(messages) for ns, messages in dumped.items()}
        self.lab.ask("watch", spaces=list(self.spaces), rules=files if self.ordered else [])
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.lab.ask("watch", spaces=[], rules=[])
        for name in self.nodes if self.ordered else ():
            self.lab.run(name, "nft", "-f", "-", stdin=kernel_trace.STOP)

    def measure(self, packet: Shot, trace: Trace, wait: float = WAITS[0]) -> Measured:
        """Send one packet alone; `trace` is what netlab says of it, `wait` the seconds that its answer may take."""
        lab, held = self.lab, packet.protocol in (TCP, SCTP)
        comparable = _is_comparable(trace, self.ordered)
        said = paths(self.network, self.links, trace, packet.sport, packet.size) if comparable else None
        family = ip(packet.dst).family
        remembered = said is not None and any(path.remembered for path in said)
        if not forget(lab, self.nodes, self.recent, self.learned if remembered else {}) and remembered:
            said = None
        before = {} if self.ordered else counters(lab, self.nodes, family, self.variant)
        lab.ask("seen", settle=0)
        seen = lab.probe([msgspec.structs.replace(packet, hold=held, timeout=wait)])[0]
        found = self._observe(before, family)
        if seen.result == "connected":
            seen = lab.finish([seen])[0]
        likely = None if said is None or seen.result == "unsupported" else _fitting(said, trace, seen, not packet.dport)
        if found.lost:
            likely = None
        parted = partings(likely, found, self.network, family) if likely is not None else []
        return Measured(seen, found, likely, parted, said or [])

    def _observe(self, before: dict[Place, int], family: int) -> Observed:
        shown = self.lab.ask("seen", settle=SETTLE)["spaces"]
        tracked = self.lab.ask("dump", spaces=[self.lab.file(name) for name in self.nodes], what="connections")["spaces"]
        after = {} if self.ordered else counters(self.lab, self.nodes, family, self.variant)
        rules, crossings, entries = {}, {}, {}
        for file, what in shown.items():
            name = self.spaces[file]
            if self.ordered and file in self.numbers:
                met = [one.rules for one in passes(what["trace"], self.numbers[file]) if one.rules]
                if met:
                    rules[name] = met
            crossed = seen_crossings(self.network.namespaces[name], what["frames"])
            if crossed:
                crossings[name] = crossed
        for file, messages in tracked.items():
            known = seen_entries(messages)
            if known:
                entries[self.spaces[file]] = known
        counted = {place: count - before.get(place, 0) for place, count in after.items() if count != before.get(place, 0)}
        lost = any(what["lost"] for what in shown.values())
        disturbed = not self.ordered and any(kept_house(shown[self.lab.file(name)]["frames"]) for name in self.nodes)
        return Observed(counted, rules, self.ordered, crossings, entries, lost, disturbed)


def _fitting(said: list[Path], trace: Trace, seen: Seen, ping: bool) -> list[Path]:
    """The predicted paths that end as Linux did."""
    branches = [branch for branch in trace.branches if fits(branch, seen, ping, held=True)]
    if seen.result == "delivered" and not ping:
        return [path for path in said if path.verdict == "delivered" and path.endpoint == seen.local]
    if seen.result == "delivered":
        return [path for path in said if path.verdict == "delivered"]
    return [path for path in said if branches and path.verdict != "delivered"]

