"""Flows, predicted and performed: does Linux do what netlab says?

Law: the kernel is right. A flow agrees if what was seen (verdict, endpoint, owner, source address, kind of error) is one of the
predicted branches. A disagreement is tried again, alone and with patience, before it is reported, because a busy machine
also loses packets. What this kernel cannot send (SCTP without its module) and what netlab calls unknown is counted, not hidden.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from netlab.dataplane.build import INTERNET, build, with_internet
from netlab.kube.cluster import Cluster
from netlab.lab.host import Lab, Seen, Shot
from netlab.lab.plan import sockets
from netlab.linux.addr import ip
from netlab.linux.netns import Listener, NetnsKind
from netlab.linux.network import Network
from netlab.linux.packet import ICMP, ICMPV6, PROTOCOL_NUMBERS, Packet
from netlab.trace.flows import Flow, outside_hosts, predict
from netlab.trace.proxied import DIAL_TIMEOUTS
from netlab.trace.query import Tracer
from netlab.trace.skb import icmp_text
from netlab.trace.steps import Branch, Delivered, Proxied, Rejected, Sent, Trace, Verdict

FIRST_PORT, PORTS = 33000, 27000  # source ports: above the default NodePort range
BATCH = 128  # flows under way at the same time
# Seconds. All namespaces of a host share one table of neighbours (1024 entries, gc_thresh3); where labs side by side fill it
# packets are lost, and what was used in the last five seconds is not thrown out (neighbour.c neigh_forced_gc).
PAUSE = 5.5


class Disagreement(msgspec.Struct, frozen=True):
    """A flow on which netlab and Linux differ."""

    flow: Flow
    trace: Trace
    seen: Seen

    def __str__(self) -> str:
        lines = [str(self.flow)]
        for branch in self.trace.branches:
            lines.append(f"  netlab  {_branch_text(branch)}")
        lines.append(f"  Linux   {seen_text(self.seen)}")
        return "\n".join(lines)


class Report(msgspec.Struct):
    """What was compared."""

    flows: int = 0
    agreed: int = 0
    again: list[Disagreement] = msgspec.field(default_factory=list)  # of those, agreed at the second try
    unknown: Counter[str] = msgspec.field(default_factory=Counter)  # why netlab does not know
    unsupported: int = 0
    verdicts: Counter[str] = msgspec.field(default_factory=Counter)
    disagreements: list[Disagreement] = msgspec.field(default_factory=list)

    @property
    def summary(self) -> str:
        """One line."""
        what = ", ".join(f"{count} {name}" for name, count in sorted(self.verdicts.items()))
        text = f"{self.flows} flows: {self.agreed} agree ({what}), {len(self.disagreements)} disagree"
        if self.again:
            text += f"; {len(self.again)} agreed at the second try"
        if self.unknown:
            text += f"; netlab does not know {self.unknown.total()} ({reasons_text(self.unknown)})"
        if self.unsupported:
            text += f"; this kernel cannot send {self.unsupported} (SCTP)"
        return text


def reasons_text(unknown: Counter[str]) -> str:
    """The reasons, most frequent first; four at most."""
    named = [f"{count} x {reason}" if count > 1 else reason for reason, count in unknown.most_common(4)]
    return "; ".join([*named, *([f"{len(unknown) - 4} more reasons"] if len(unknown) > 4 else [])])


def lab_network(cluster: Cluster, network: Network) -> Network:
    """The network with the outside hosts in it, as the lab stands it up (a trace adds the hosts that it speaks of)."""
    built = build(cluster, extra_hosts=outside_hosts(cluster))
    return with_internet(network, built.network.namespaces[INTERNET])


# -- comparing ---------------------------------------------------------------------------------------------------------


def fits(branch: Branch, seen: Seen, ping: bool, held: bool = False) -> bool:
    """Is what Linux did this branch? `held`: the packet was sent once, and the answer waited for less than a second."""
    if branch.verdict is Verdict.DELIVERED:
        if seen.result != "delivered":
            return False
        if ping:  # the answering kernel does not say what it saw
            return True
        return (branch.endpoint, branch.endpoint_name, branch.source_seen) == (seen.local, seen.owner, seen.peer)
    answered = branch.reply is not None and branch.reply.kind == "error" and branch.reply.arrived
    if branch.verdict is Verdict.REJECTED or answered:
        if held and seen.result == "timeout" and branch.reply is not None:
            return _is_missed(branch)
        return seen.result == "error" and _same_error(branch, seen)
    if branch.verdict is Verdict.DROPPED:
        if seen.errno == "EINVAL" and seen.icmp is None and branch.endpoint is None and len(branch.hops) == 1:
            # The outside is one namespace with a blackhole route for all that nobody has: its own sockets are told so
            # (fib_props[RTN_BLACKHOLE] is -EINVAL), hosts of the real world would send the packet into the void.
            return branch.hops[0].kind == NetnsKind.EXTERNAL.value
        if seen.result != "timeout":
            return False
        if seen.arrived:
            return (branch.endpoint, branch.source_seen) == (seen.local, seen.peer)
        return True
    return False


def _is_missed(branch: Branch) -> bool:
    """net/sctp/input.c sctp_v4_err: an ICMP error that comes while connect() still has the socket is put aside as a soft one; the
    next, about the repeated INIT, is told."""
    last = branch.reply.hops[-1].steps[-1] if branch.reply is not None and branch.reply.hops else None
    quoted = last.packet.quoted if isinstance(last, Delivered) else None
    return quoted is not None and quoted.protocol == "SCTP"


def _same_error(branch: Branch, seen: Seen) -> bool:
    """The same refusal: an RST, the same ICMP error from the same host, or the same error of the sender's own kernel."""
    if branch.reply is None:
        words = next((s.answer for hop in branch.hops for s in hop.steps if isinstance(s, Rejected)), "")
        return seen.icmp is None and words.endswith(os.strerror(_errno(seen.errno)))
    last = next((s for s in reversed(branch.reply.hops[-1].steps) if isinstance(s, Delivered)), None)
    if last is None:
        return False
    if last.packet.protocol == "TCP" and "FIN" in last.packet.flags:  # closed; reset where the request had not been read
        return seen.errno in ("EOF", "ECONNRESET", "EPIPE")
    if seen.icmp is None:
        if last.packet.protocol == "SCTP" or branch_protocol(branch) != "SCTP":
            return last.packet.protocol in ("TCP", "SCTP") and seen.errno == "ECONNREFUSED"
        v6 = ":" in last.packet.source  # sctp/input.c sctp_v4_err queues no error: no type, no sender
        return seen.errno == (ICMP_ERRNOS | ICMPV6_ERRNOS if v6 else ICMP_ERRNOS).get(last.packet.flags)
    protocol = ICMPV6 if ":" in last.packet.source else ICMP
    nobody = ip(last.packet.source)
    told = icmp_text(Packet(nobody, nobody, protocol, icmp_type=seen.icmp[0], icmp_code=seen.icmp[1]))
    return last.packet.flags == told and last.packet.source == seen.icmp_from


# icmp.c icmp_err_convert, ipv6/icmp.c tab_unreach: what an unreachable error makes of a socket
ICMP_ERRNOS = {
    "net unreachable": "ENETUNREACH",
    "host unreachable": "EHOSTUNREACH",
    "port unreachable": "ECONNREFUSED",
    "net prohibited": "ENETUNREACH",
    "host prohibited": "EHOSTUNREACH",
    "admin prohibited": "EHOSTUNREACH",
    "protocol unreachable": "ENOPROTOOPT",
    "time exceeded": "EHOSTUNREACH",
}
ICMPV6_ERRNOS = {
    "no route": "ENETUNREACH",
    "admin prohibited": "EACCES",
    "address unreachable": "EHOSTUNREACH",
    "policy fail": "EACCES",
    "reject route": "EACCES",
}


def branch_protocol(branch: Branch) -> str:
    """The protocol of the packet that a branch follows."""
    return next((s.packet.protocol for hop in branch.hops for s in hop.steps if isinstance(s, Sent)), "")


def _errno(name: str) -> int:
    import errno

    return int(getattr(errno, name, 0))


def seen_text(seen: Seen) -> str:
    """What Linux did, in the words of a branch."""
    match seen.result:
        case "delivered":
            where = f" to {seen.local} ({seen.owner}), source seen {seen.peer}" if seen.owner else ""
            return f"delivered{where}"
        case "timeout":
            got = f"; the request arrived at {seen.local} ({seen.owner}), source seen {seen.peer}" if seen.arrived else ""
            told = " (the sender was told {seen.errno}: dropped by its own kernel)" if seen.errno else ""
            return f"no answer{got}{told}"
        case "error":
            if seen.icmp is not None:
                return f"rejected: {seen.errno}, ICMP type {seen.icmp[0]} code {seen.icmp[1]} from {seen.icmp_from}"
            return f"rejected: {seen.errno}"
        case other:
            return other


def _branch_text(branch: Branch) -> str:
    where = f" to {branch.endpoint} ({branch.endpoint_name}), source seen {branch.source_seen}" if branch.endpoint else ""
    why = f": {branch.reason}" if branch.reason else ""
    chance = f" [{branch.probability}]" if branch.probability != 1 else ""
    answer = ""
    if branch.reply is not None and branch.reply.kind == "error":
        last = branch.reply.hops[-1].steps[-1] if branch.reply.hops else None
        if isinstance(last, Delivered):
            answer = f"; answer {last.packet.protocol} {last.packet.flags} from {last.packet.source}"
    return f"{branch.verdict.value}{where}{why}{answer}{chance}"


def verify(
    tracer: Tracer,
    lab: Lab,
    wanted: Sequence[Flow],
    *,
    progress: Callable[[int], None] = lambda done: None,
    told: Callable[[Flow, Trace, Seen], None] = lambda flow, trace, seen: None,
) -> Report:
    """Predict and perform flows, and compare.

    Parameters
    ----------
    tracer : Tracer
        Predicts.
    lab : Lab
        Performs: it must have been made from the tracer's network.
    wanted : sequence of Flow
        What to send.
    progress : callable
        Told how many flows are done.
    told : callable
        Told of every flow what netlab says and what Linux did at the first try.
    """
    report = Report()
    port = 0
    for start in range(0, len(wanted), BATCH):
        batch = []
        for flow in wanted[start : start + BATCH]:
            batch.append((flow, predict(tracer, flow, FIRST_PORT + port % PORTS), FIRST_PORT + port % PORTS))
            port += 1
        lab.listen(assumed_listeners(tracer.network, [trace for _, trace, _ in batch]))
        seen = lab.probe([shot(*asked) for asked in batch])
        for (flow, trace, _), what in zip(batch, seen, strict=True):
            told(flow, trace, what)
            port += 1
            _judge(report, lab, flow, trace, what, FIRST_PORT + port % PORTS)
        progress(min(start + BATCH, len(wanted)))
    return report


def _judge(report: Report, lab: Lab, flow: Flow, trace: Trace, seen: Seen, other_port: int) -> None:
    report.flows += 1
    if seen.result == "unsupported":
        report.unsupported += 1
        return
    if trace.verdict is Verdict.UNKNOWN:
        report.unknown[next((b.reason for b in trace.branches if b.verdict is Verdict.UNKNOWN), None) or "no reason given"] += 1
        return
    if not any(fits(branch, seen, flow.protocol == "icmp") for branch in trace.branches):
        for pause in (0.0, PAUSE):
            time.sleep(pause)
            again = lab.probe([msgspec.structs.replace(shot(flow, trace, other_port), timeout=max(3.0, patience(trace)))])[0]
            if any(fits(branch, again, flow.protocol == "icmp") for branch in trace.branches):
                break
        else:
            report.disagreements.append(Disagreement(flow, trace, again))
            return
        report.again.append(Disagreement(flow, trace, seen))
    report.agreed += 1
    report.verdicts[trace.verdict.value] += 1


def shot(flow: Flow, trace: Trace, sport: int) -> Shot:
    """The packet that a trace of the flow speaks of."""
    protocol = PROTOCOL_NUMBERS.get(trace.protocol.lower(), 0)
    src = trace.source.ip if trace.source.kind == "external" else None
    return Shot(
        trace.source.where, protocol, trace.destination.ip, trace.destination.port or 0, sport, src, flow.size, patience(trace)
    )


def patience(trace: Trace) -> float:
    """Seconds to wait for an answer: kube-proxy's userspace mode may take its time to find a second endpoint, or none."""
    steps = (step for branch in trace.branches for hop in branch.hops for step in hop.steps)
    tries = max((step.attempt for step in steps if isinstance(step, Proxied)), default=1)
    return 1.0 if tries == 1 else 1.0 + sum(DIAL_TIMEOUTS) / 1000


def assumed_listeners(network: Network, traces: Iterable[Trace]) -> list[tuple[str, Listener]]:
    """The sockets that netlab took for granted: the lab must have them too."""
    found: dict[tuple[str, Listener], None] = {}
    for trace in traces:
        protocol = PROTOCOL_NUMBERS.get(trace.protocol.lower(), 0)
        for branch in trace.branches:
            for hop in branch.hops:
                for step in hop.steps:
                    if isinstance(step, Delivered) and step.assumed:
                        outside = network.namespaces[hop.where].kind is NetnsKind.EXTERNAL
                        address = ip(step.packet.destination) if outside else None
                        taken = Listener(protocol, step.packet.dport, step.owner, address)
                        found |= {(hop.where, bound): None for bound in sockets(network.namespaces[hop.where], taken)}
    return list(found)
