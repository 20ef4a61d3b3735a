"""One packet, predicted and sent: its way as Linux went it, in the form of a trace.

Law: first the trace of the branch that ends as Linux did, then what Linux itself showed, namespace by namespace: frames on
devices, the rules that each packet walked in the order of the kernel's trace (with iptables-legacy, which tells no order, those
that it counted), connections. Both are called the same only if all of that is; where they part, the place is named.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from netlab.errors import InputError
from netlab.lab.host import Lab
from netlab.lab.rulepath import ATTEMPTS, Bench, Observed, rule_text
from netlab.lab.verify import FIRST_PORT, PORTS, assumed_listeners, fits, seen_text, shot
from netlab.linux.addr import ip
from netlab.linux.network import Network
from netlab.trace.flows import Flow
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Trace, Verdict


class One(msgspec.Struct, frozen=True):
    """The trace, reduced to the branch that was taken where there is one; what Linux did as text; whether both agree."""

    trace: Trace
    text: str
    agrees: bool


def send_one(tracer: Tracer, network: Network, lab: Lab, request: Request, variant: str) -> One:
    """Predict a packet, send it, and compare."""
    trace = tracer.trace(request)
    if not trace.destination.ip:
        raise InputError(f'"{request.destination}" has many addresses', hint="name one of its pods")
    lab.listen(assumed_listeners(network, [trace]))
    flow = Flow(request.source, request.destination, trace.protocol.lower(), request.size)
    with Bench(network, lab, variant) as bench:
        for n in range(ATTEMPTS):  # the first packets between two hosts make them ask for each other
            measured = bench.measure(shot(flow, trace, FIRST_PORT + (os.getpid() * ATTEMPTS + n) % PORTS), trace)
            if not measured.partings:
                break
    seen = measured.seen
    ping = trace.protocol in ("ICMP", "ICMPV6", "IPV6-ICMP")
    taken = [branch for branch in trace.branches if fits(branch, seen, ping)]
    linux = f"Linux: {seen_text(seen)}"
    if seen.result == "unsupported":
        return One(trace, f"Linux: this kernel cannot send {trace.protocol}", False)
    if trace.verdict is Verdict.UNKNOWN:
        return One(trace, f"{linux}\n  netlab does not know; see above", False)
    if not taken:
        return One(trace, f"{linux}\n  netlab says otherwise", False)
    shown = msgspec.structs.replace(trace, branches=tuple(taken[:1]), verdict=taken[0].verdict)
    walked = "\n".join(walk_text(measured.observed, network, ip(trace.destination.ip).family))
    if measured.likely is None:
        return One(shown, f"{linux}, as netlab says (its way cannot be compared: {_why(measured.observed)})\n{walked}", True)
    if not measured.partings:
        return One(shown, f"{linux}, as netlab says; so are rules, devices and connections:\n{walked}", True)
    lines = ["where Linux and netlab part:", *measured.partings, walked]
    return One(shown, "\n".join([linux, *lines]), False)


def _why(found: Observed) -> str:
    return "the kernel showed only a part" if found.lost else "netlab follows a part"


def walk_text(found: Observed, network: Network, family: int) -> Iterator[str]:
    """What Linux did, namespace by namespace: devices crossed, rules met in order (or counted), connections left behind."""
    for ns in network.namespaces:
        lines = [f"    {crossing}" for crossing in found.crossings.get(ns, ())]
        if found.ordered:
            for n, rules in enumerate(found.rules.get(ns, ()), 1):
                lines.append(f"    packet {n}:")
                lines += [f"      {rule[0]} {rule[2]} {rule_text(network, ns, family, rule)}" for rule in rules]
        else:
            mine = {(table, chain, n): count for (where, table, chain, n), count in found.counted.items() if where == ns}
            lines += [f"    {count} x {rule[0]} {rule[2]} {rule_text(network, ns, family, rule)}" for rule, count in mine.items()]
        lines += [f"    {entry}" for entry in found.entries.get(ns, ())]
        if lines:
            yield f"  {ns}"
            yield from lines
