"""The rules that a packet hits, predicted and counted: netlab's RuleSteps against the per-rule counters of a real node.

    read counters -> one connection, nothing else -> read counters       the difference is the kernel's own rule path

Law: exact. For TCP three packets are sent (SYN, SYN-ACK, ACK; the connection is held until the counters are read), for UDP and
ping two, for what is refused the error as well; every rule of every node must have counted as often as the walk says, both ways,
encapsulated packets included. Connection tracking is emptied before each flow, as a walk begins. Counters know no order: that a
chain was walked in order follows from which rules hit.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from netlab.lab.host import Lab, Seen, Shot
from netlab.lab.verify import FIRST_PORT, PAUSE, PORTS, assumed_listeners, fits, seen_text, shot
from netlab.linux.addr import Ip, ip
from netlab.linux.bridge import Links
from netlab.linux.matches import Recent
from netlab.linux.netns import Netns
from netlab.linux.network import Network
from netlab.linux.packet import (
    ACK,
    ECHO_REQUEST,
    ICMP,
    ICMPV6,
    PROTOCOL_NUMBERS,
    SYN,
    TCP,
    V6_ECHO_REQUEST,
    Packet,
)
from netlab.trace.choices import Chooser, explore
from netlab.trace.flows import Flow, predict
from netlab.trace.proxied import SILENCE, speak
from netlab.trace.query import Tracer
from netlab.trace.skb import socket_text
from netlab.trace.steps import Hop, NoteStep, RuleStep, Sent, Trace, Verdict
from netlab.trace.walker import Expected, Walk, reply_to

Place = tuple[str, str, str, int]  # namespace, table, chain, number of the rule
_LENGTHS = {TCP: 60, ICMP: 84, ICMPV6: 104}

_COUNTED = re.compile(r"^\[(\d+):\d+\] -A (\S+)", re.ASCII)
ATTEMPTS = 3  # neighbour discovery and multicast reports count too; they do not come every time


class Path(msgspec.Struct, frozen=True):
    """A predicted branch with what every rule should count."""

    verdict: str
    endpoint: str | None
    hits: dict[Place, int]
    remembered: bool = False  # `-m recent` has written the sender down


class PathDisagreement(msgspec.Struct, frozen=True):
    """A flow whose rules counted otherwise than netlab says; `texts` are the rules of the places that differ."""

    flow: Flow
    seen: Seen
    predicted: tuple[Path, ...]
    counted: dict[Place, int]
    texts: dict[Place, str]

    def __str__(self) -> str:
        lines = [f"{self.flow}: Linux {seen_text(self.seen)}; rules counted otherwise than netlab says"]
        if not self.predicted:
            return lines[0] + ": no predicted branch fits"
        return "\n".join(lines + different(self.predicted, self.counted, self.texts))


class PathReport(msgspec.Struct):
    """What was compared."""

    flows: int = 0
    agreed: int = 0
    passed_over: int = 0  # not countable, or not to be sent by this kernel
    packets: int = 0  # rule hits counted, over all flows
    rules: set[Place] = msgspec.field(default_factory=set)
    disagreements: list[PathDisagreement] = msgspec.field(default_factory=list)

    @property
    def summary(self) -> str:
        """One line."""
        text = (
            f"{self.flows} flows counted rule by rule: {self.agreed} agree, {len(self.disagreements)} disagree; "
            f"{self.packets} rule hits on {len(self.rules)} rules"
        )
        return text + (f"; {self.passed_over} could not be compared" if self.passed_over else "")


# -- counting ----------------------------------------------------------------------------------------------------------


def counters(lab: Lab, nodes: Iterable[str], family: int, variant: str) -> tuple[dict[Place, int], dict[Place, str]]:
    """The packet counter of every rule, and the text of every rule that has counted anything."""
    tool = f"{'iptables' if family == 4 else 'ip6tables'}-{variant}-save"
    found: dict[Place, int] = {}
    texts: dict[Place, str] = {}
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
                    place = (node, table, chain, numbers[chain])
                    found[place] = int(match[1])
                    texts[place] = line.partition("] ")[2]
    return found, texts


def different(predicted: Sequence[Path], counted: dict[Place, int], texts: dict[Place, str]) -> list[str]:
    """The rules on which the counters and the nearest of the predicted paths differ, a line each."""
    nearest = min((p.hits for p in predicted), key=lambda hits: len(_differences(hits, counted)))
    lines = []
    for place in _differences(nearest, counted):
        ns, table, chain, number = place
        said, found = nearest.get(place, 0), counted.get(place, 0)
        lines.append(f"  {ns} {table} {chain} rule {number}: netlab {said}, Linux {found}: {texts.get(place, '')}")
    return lines


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


def forget(lab: Lab, nodes: Iterable[str], recent: Iterable[str]) -> bool:
    """Empty connection tracking everywhere, and the lists of `-m recent` on the nodes that have some: a walk has no memory.

    False where the lists cannot be emptied: their files belong to the host's root (xt_recent.c, ip_list_uid), also in a user
    namespace.
    """
    lab.ask("forget", spaces=[lab.file(node) for node in nodes])
    script = "for list in /proc/net/xt_recent/*; do [ ! -e $list ] || echo / > $list || exit 1; done"
    return all(lab.ask("run", ns=lab.file(node), argv=["sh", "-c", script])["rc"] == 0 for node in recent)


# -- predicting --------------------------------------------------------------------------------------------------------


def paths(network: Network, links: Links, trace: Trace, sport: int) -> list[Path] | None:
    """Every branch of a flow with the hits of all its packets (the third of TCP included); None where netlab does not know."""
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
        length=_LENGTHS.get(protocol, 60),
    )

    def run(chooser: Chooser) -> Path:
        walk = Walk(network, links, chooser)
        walk.expected = Expected(trace.source.where, packet.flow, trace.source.name)
        home = network.namespaces[trace.source.where]
        out = walk.local_out(home, packet, trace.source.name)
        hops = list(walk.take_hops())
        kind, endpoint = out.kind, None
        if out.proxy is not None:
            said = speak(walk, home, packet, out, tuple(hops))
            kind, endpoint, hops = said.verdict.value, said.endpoint, said.counted
        elif out.kind == "delivered" and out.packet is not None:
            endpoint = socket_text(out.packet.dst, out.packet.dport)
            back = walk.local_out(network.namespaces[out.netns], reply_to(out.packet), out.owner)
            hops += walk.take_hops()
            kind = back.kind
            if back.kind == "delivered" and protocol == TCP:
                sent = next(s.packet for hop in hops for s in hop.steps if isinstance(s, Sent))  # with its source
                third = msgspec.structs.replace(packet, src=ip(sent.source), tcp_flags=ACK, length=52)
                walk.expected = Expected(out.netns, out.packet.flow.reversed(), out.owner)
                kind = walk.local_out(home, third, trace.source.name).kind
                hops += walk.take_hops()
            elif back.answer is not None:
                walk.send_answer(back)
                hops += walk.take_hops()
        elif out.answer is not None:
            back = walk.send_answer(out)
            hops += walk.take_hops()
        return Path(kind, endpoint, _hits(hops), _is_remembered(hops))

    found = explore(run, lambda path: (path.verdict, path.endpoint), lambda path, label: Path("unknown", None, {}))
    if any(w.outcome.verdict == "unknown" for w in found):
        return None
    return [w.outcome for w in found if w.probability > 0]


def _is_remembered(hops: Iterable[Hop]) -> bool:
    return any(isinstance(step, RuleStep) and "-m recent" in step.rule for hop in hops for step in hop.steps)


def _hits(hops: Iterable[Hop]) -> dict[Place, int]:
    counted: Counter[Place] = Counter()
    for hop in hops:
        for step in hop.steps:
            if isinstance(step, RuleStep):
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
    """Send flows one at a time and compare the counters of every rule of every node with the walk.

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
    bench = Bench(network, lab, variant)
    report = PathReport()
    port = 0
    for n, flow in enumerate(wanted):
        report.flows += 1
        for attempt in range(ATTEMPTS):
            port += 1
            sport = FIRST_PORT + (PORTS // 2 + port) % PORTS
            trace = predict(tracer, flow, sport)
            lab.listen(assumed_listeners(network, [trace]))
            one = bench.measure(shot(flow, trace, sport), trace)
            if one.likely is None:
                report.passed_over += 1
                break
            if one.agrees:
                report.agreed += 1
                report.packets += sum(one.counted.values())
                report.rules |= one.counted.keys()
                break
            if attempt == ATTEMPTS - 2:
                time.sleep(PAUSE)
            elif attempt == ATTEMPTS - 1:
                report.disagreements.append(PathDisagreement(flow, one.seen, tuple(one.likely), one.counted, one.texts))
        progress(n + 1)
    return report


def _is_countable(trace: Trace) -> bool:
    """Not what netlab does not know; nor a routing loop (of which one lap is walked); nor questions for an IPv6 neighbour that
    does not answer, which are packets that the rules count too; nor what kube-proxy's userspace mode waits for."""
    if trace.verdict is Verdict.UNKNOWN:
        return False
    reasons = [branch.reason or "" for branch in trace.branches]
    asks = ":" in trace.destination.ip and any(reason.startswith("nobody on") for reason in reasons)
    if any(_waits(hop) for branch in trace.branches for hop in branch.hops):
        return False
    return not asks and not any("routing loop" in reason for reason in reasons)


def _waits(hop: Hop) -> bool:
    """Whether kube-proxy's userspace mode waits for a silent endpoint here: the kernel asks again meanwhile, by its own clock."""
    return any(isinstance(step, NoteStep) and step.text.startswith(SILENCE) for step in hop.steps)


class Measured(msgspec.Struct, frozen=True):
    """One packet that was sent: what became of it, the rules that counted, and the predicted paths that end so (None: such a flow
    cannot be compared by counters)."""

    seen: Seen
    counted: dict[Place, int]
    texts: dict[Place, str]
    likely: list[Path] | None

    @property
    def agrees(self) -> bool:
        return self.likely is not None and any(path.hits == self.counted for path in self.likely)


class Bench:
    """A lab whose nodes are read before and after each packet."""

    def __init__(self, network: Network, lab: Lab, variant: str) -> None:
        self.network, self.lab, self.variant = network, lab, variant
        self.links = Links(network)
        self.nodes = [name for name, space in network.namespaces.items() if space.rulesets]
        self.recent = [name for name in self.nodes if _remembers(network.namespaces[name])]

    def measure(self, packet: Shot, trace: Trace) -> Measured:
        """Send one packet alone; `trace` is what netlab says of it."""
        lab, tcp = self.lab, packet.protocol == TCP
        said = paths(self.network, self.links, trace, packet.sport) if _is_countable(trace) else None
        family = ip(packet.dst).family
        if not forget(lab, self.nodes, self.recent) and said is not None and any(path.remembered for path in said):
            said = None
        before, _ = counters(lab, self.nodes, family, self.variant)
        # less than a second: TCP must not send its SYN again
        seen = lab.probe([msgspec.structs.replace(packet, hold=tcp, timeout=0.8)])[0]
        after, texts = counters(lab, self.nodes, family, self.variant)
        if seen.result == "connected":
            seen = lab.finish([seen])[0]
        counted = {place: count - before.get(place, 0) for place, count in after.items() if count != before.get(place, 0)}
        likely = None if said is None or seen.result == "unsupported" else _fitting(said, trace, seen, not packet.dport)
        return Measured(seen, counted, texts, likely)


def _fitting(said: list[Path], trace: Trace, seen: Seen, ping: bool) -> list[Path]:
    """The predicted paths that end as Linux did."""
    branches = [branch for branch in trace.branches if fits(branch, seen, ping)]
    if seen.result == "delivered" and not ping:
        return [path for path in said if path.verdict == "delivered" and path.endpoint == seen.local]
    if seen.result == "delivered":
        return [path for path in said if path.verdict == "delivered"]
    return [path for path in said if branches and path.verdict != "delivered"]

