"""One packet, predicted and sent: the branch that Linux took, with the counters of every rule beside it.

Law: what is printed as the way is netlab's walk, of the branch that ends as Linux did; it is called the same only if every rule
of every node counted exactly so. Where they differ both sides are shown.
"""

from __future__ import annotations

import os

import msgspec

from netlab.errors import InputError
from netlab.lab.host import Lab
from netlab.lab.rulepath import ATTEMPTS, Bench, different
from netlab.lab.verify import FIRST_PORT, PORTS, assumed_listeners, fits, seen_text, shot
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
    bench = Bench(network, lab, variant)
    for n in range(ATTEMPTS):  # the first packets between two hosts make them ask for each other
        measured = bench.measure(shot(flow, trace, FIRST_PORT + (os.getpid() * ATTEMPTS + n) % PORTS), trace)
        if measured.agrees or measured.likely is None:
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
    hits = sum(measured.counted.values())
    if measured.likely is None:
        return One(shown, f"{linux}, as netlab says (the rules' counters tell nothing about this kind of flow)", True)
    if any(path.hits == measured.counted for path in measured.likely):
        rules = f"{hits} hits on {len(measured.counted)} rules"
        return One(shown, f"{linux}, as netlab says; {rules}, each as often as netlab says", True)
    lines = different(measured.likely, measured.counted, measured.texts) if measured.likely else ["  no path that ends so"]
    return One(shown, "\n".join([linux, "rules that counted otherwise than netlab says:", *lines]), False)

