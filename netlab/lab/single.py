"""One packet, predicted and sent: its way as Linux went it, in the form of a trace.

Law: one path. Each rule and each device that Linux showed is a marked step of the branch that ends as Linux did (weave.py); where
they part both sides stand there. Both are called the same only if rules, devices and connections all are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import msgspec

from netlab.errors import InputError
from netlab.lab.entries import differences
from netlab.lab.host import Lab, Seen
from netlab.lab.reread import reread
from netlab.lab.rulepath import ATTEMPTS, UNSEEN, WAITS, Bench, Measured, Observed, Path, hides_rules, partings
from netlab.lab.verify import FIRST_PORT, PORTS, assumed_listeners, fits, seen_text, shot
from netlab.lab.weave import RuleText, parted, woven
from netlab.linux.addr import ip
from netlab.linux.network import Network
from netlab.trace.flows import Flow
from netlab.trace.query import EPHEMERAL_PORT, Request, Tracer
from netlab.trace.steps import Branch, Proxied, Sent, Trace, Verdict


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
    if request.size is not None and trace.protocol not in ("UDP", "ICMP", "ICMPV6", "IPV6-ICMP"):
        raise InputError(f"--size: how long a packet of {trace.protocol} is the kernel decides", hint="ask UDP, or --proto icmp")
    lab.listen(assumed_listeners(network, [trace]))
    flow = Flow(request.source, request.destination, trace.protocol.lower(), request.size)
    given = _source_port(trace)
    with Bench(network, lab, variant) as bench:
        for n in range(ATTEMPTS):  # the first packets between two hosts make them ask for each other
            sport = FIRST_PORT + (os.getpid() * ATTEMPTS + n) % PORTS if given in (0, EPHEMERAL_PORT) else given
            if given == EPHEMERAL_PORT:
                source = f"[{request.source}]" if request.source.count(":") > 1 else request.source
                trace = tracer.trace(msgspec.structs.replace(request, source=f"{source}:{sport}"))
            measured = bench.measure(shot(flow, trace, sport), trace, WAITS[n])
            if not measured.partings:
                break
    family = ip(trace.destination.ip).family
    now = reread(lab, network, _touched(measured.observed), family, variant)
    seen, found = measured.seen, now.in_ours(measured.observed)
    parts = partings(measured.likely, found, network, family) if measured.likely is not None else []
    ping = trace.protocol in ("ICMP", "ICMPV6", "IPV6-ICMP")
    taken = [branch for branch in trace.branches if fits(branch, seen, ping, held=True)]
    linux = f"Linux: {seen_text(seen)}"
    if seen.result == "unsupported":
        return One(trace, f"Linux: this kernel cannot send {trace.protocol}", False)
    known = trace.verdict is not Verdict.UNKNOWN
    if measured.likely is None or not measured.said or _proxied(trace):
        shown = _only(trace, taken[0]) if known and taken else trace
        if not known:
            linux += "\n  netlab does not know; see above"
        elif taken:
            linux += f", as netlab says (its way cannot be compared: {_why(found)})"
        else:
            linux += "\n  netlab says otherwise"
        return One(shown, "\n".join([linux, *walk_text(found, network, now.text)]), known and bool(taken))
    branch, path = min(_candidates(taken or trace.branches, measured, found, network, now.text), key=lambda one: parted(one[0]))
    agrees = bool(taken) and not parts
    unseen = f"; {UNSEEN}" if hides_rules(network, variant) else ""
    how = "in the kernel's order" if found.ordered else f"by their counters{unseen}"
    if agrees:
        linux += f"\n  as netlab says; so are rules ({how}), devices and connections"
    elif taken:
        linux += "\n  as netlab says, but not by the same way:\n" + "\n".join(f"  {line}" for line in parts)
    else:
        linux += f"\n  netlab says otherwise: {branch.verdict.value}" + (f" to {branch.endpoint}" if branch.endpoint else "")
        branch = _as_seen(branch, seen)
    lines = [linux, *_connections(path, found, network), LEGEND]
    return One(_only(trace, branch), "\n".join(lines), agrees)


LEGEND = "marks: = netlab and Linux   - netlab alone   + Linux alone; without one: not shown by Linux"


def _source_port(trace: Trace) -> int:
    """The source port of the packet that a trace speaks of; 0 where it has none."""
    sent = (step for branch in trace.branches for hop in branch.hops for step in hop.steps if isinstance(step, Sent))
    return next((step.packet.sport for step in sent), 0)


def _only(trace: Trace, branch: Branch) -> Trace:
    return msgspec.structs.replace(trace, branches=(branch,), verdict=branch.verdict)


def _as_seen(branch: Branch, seen: Seen) -> Branch:
    """A branch that ends as Linux did, and not as netlab says."""
    verdict = {"delivered": Verdict.DELIVERED, "error": Verdict.REJECTED}.get(seen.result, Verdict.DROPPED)
    return msgspec.structs.replace(
        branch,
        verdict=verdict,
        endpoint=seen.local or None,
        endpoint_name=seen.owner or None,
        source_seen=seen.peer or None,
        reason=f"Linux: {seen_text(seen)}",
    )


def _candidates(
    branches: Sequence[Branch], measured: Measured, found: Observed, network: Network, text: RuleText
) -> Iterator[tuple[Branch, Path]]:
    """Branches and the paths that may be theirs, woven with what Linux showed."""
    paths = measured.likely or measured.said
    for branch in branches:
        for path in [path for path in paths if path.endpoint == branch.endpoint] or paths:
            yield woven(branch, path, found, network, text), path


def _touched(found: Observed) -> list[str]:
    """The nodes on which the packet met a rule."""
    return list(dict.fromkeys([*found.rules, *(place[0] for place in found.counted)]))


def _connections(path: Path, found: Observed, network: Network) -> Iterator[str]:
    """The connections left behind, node by node, with their marks."""
    if path.entries or found.entries:
        yield "connections"
    for ns in network.namespaces:
        said, theirs = path.entries.get(ns, []), found.entries.get(ns, [])
        unmet, unsaid = differences(said, theirs)
        lines = [f"{'+' if entry in unsaid else '='} {entry}" for entry in theirs] + [f"- {entry}" for entry in unmet]
        if lines:
            yield f"  {ns}"
            yield from (f"  {line}" for line in lines)


def _proxied(trace: Trace) -> bool:
    """Whether kube-proxy's userspace mode makes two connections of it, whose packets alternate."""
    return any(isinstance(step, Proxied) for branch in trace.branches for hop in branch.hops for step in hop.steps)


def _why(found: Observed) -> str:
    return "the kernel showed only a part" if found.lost else "netlab follows a part"


def walk_text(found: Observed, network: Network, text: RuleText) -> Iterator[str]:
    """What Linux did, namespace by namespace: devices crossed, rules met in order (or counted), connections left behind."""
    for ns in network.namespaces:
        lines = [f"    {crossing}" for crossing in found.crossings.get(ns, ())]
        if found.ordered:
            for n, rules in enumerate(found.rules.get(ns, ()), 1):
                lines.append(f"    packet {n}:")
                lines += [f"      {rule[0]} {rule[2]} {text(ns, rule)}" for rule in rules]
        else:
            mine = {(table, chain, n): count for (where, table, chain, n), count in found.counted.items() if where == ns}
            lines += [f"    {count} x {rule[0]} {rule[2]} {text(ns, rule)}" for rule, count in mine.items()]
        lines += [f"    {entry}" for entry in found.entries.get(ns, ())]
        if lines:
            yield f"  {ns}"
            yield from lines
