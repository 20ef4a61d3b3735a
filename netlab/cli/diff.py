"""`netlab diff`: the same cluster under two modes of kube-proxy, flow by flow."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from netlab.cli.flags import OUTPUT, ClusterFlags, emit, note, open_cluster, progress
from netlab.errors import InputError

FLOWS = Group("Flows", sort_key=0)
ALL = 5000  # flows that are asked without --flows, at most


def diff(
    *,
    flows: Annotated[
        int | None,
        Parameter(group=FLOWS, metavar="N", help="How many flows to draw. Without it all of them, up to 5000."),
    ] = None,
    seed: Annotated[int, Parameter(group=FLOWS, metavar="S", help="Which flows: the same seed draws the same ones.")] = 1,
    output: Annotated[
        Literal["text", "wide", "json"],
        Parameter(alias="-o", group=OUTPUT, help="wide shows every row of the documented differences."),
    ] = "text",
    cluster: ClusterFlags = ClusterFlags(),
) -> int:
    """Does every flow get the same answer under two modes of kube-proxy?

    Pods, nodes and clients outside ask for services by all their addresses, right and wrong ports, node ports, pods, nodes,
    addresses that nobody has; by TCP, UDP, SCTP, ping. Compared are verdict, endpoint, source seen and kind of refusal, with
    their probabilities. Differences that upstream documents are called by their name (docs/modes.md).
    The exit code is 0 where there are no others, 1 where there are, 2 error.

    For example:
      netlab diff --proxy-mode iptables,userspace
      netlab diff --proxy-mode iptables,nftables -f cluster.json --flows 2000 --seed 7
    """
    if flows is not None and flows < 1:
        raise InputError("--flows must be at least 1")
    if cluster.observed:
        raise InputError("diff compares what two modes would write: --observed has rules of one", hint="leave --observed out")
    modes = _modes(cluster.proxy_mode)
    from netlab.dataplane.proxy.modes import UPSTREAM
    from netlab.reach.modes import compare
    from netlab.render import modes as drawing
    from netlab.trace.flows import every_flow
    from netlab.trace.flows import flows as draw
    from netlab.trace.query import Tracer

    first = open_cluster(dataclasses.replace(cluster, proxy_mode=modes[0]))
    second = open_cluster(dataclasses.replace(cluster, proxy_mode=modes[1], quiet=True))
    for mode in modes:
        if mode in UPSTREAM:
            note(cluster, f"{mode}: {UPSTREAM[mode]}")
    tracers = Tracer(first), Tracer(second)
    wanted = every_flow(first, tracers[0].network) if flows is None else draw(first, tracers[0].network, flows, seed)
    if len(wanted) > ALL and flows is None:
        note(cluster, f"{len(wanted)} flows: {ALL} of them are asked (choose with --flows and --seed)")
        wanted = draw(first, tracers[0].network, ALL, seed)
    found = compare(modes, tracers, wanted, progress(cluster, len(wanted), "flows asked"))
    if output == "json":
        emit(json.dumps(drawing.to_builtins(found), indent=2))
    else:
        emit(drawing.render(found, output == "wide"))
    return 1 if found.undocumented else 0


def _modes(text: str | None) -> tuple[str, str]:
    names = [] if text is None else [name.strip() for name in text.split(",")]
    if len(names) != 2 or "" in names or names[0] == names[1]:
        raise InputError("diff needs two modes to compare", hint="for example: --proxy-mode iptables,nftables")
    return names[0], names[1]
