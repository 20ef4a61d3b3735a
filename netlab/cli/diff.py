"""`netlab diff`: what a change does to who reaches whom; and the same cluster under two modes of kube-proxy."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from netlab.cli.flags import OUTPUT, PLAIN_STDIN, STDIN, ClusterFlags, Whole, emit, note, open_cluster, open_pair, progress
from netlab.errors import InputError

if TYPE_CHECKING:
    from netlab.kube.cluster import Cluster
    from netlab.reach.compare import Comparison

CHANGE = Group("Change", sort_key=0)
FLOWS = Group("Modes of kube-proxy", sort_key=1)
ALL = 5000  # flows that are asked without --flows, at most
EXIT_UNKNOWN = 3


def diff(
    *states: Annotated[
        str, Parameter(help="BEFORE and AFTER, each a file or directory (or -). With --with or --without: BEFORE alone, or -f.")
    ],
    with_: Annotated[
        tuple[str, ...],
        Parameter(
            name="--with",
            negative=(),
            allow_leading_hyphen=True,
            group=CHANGE,
            metavar="FILE|DIR|-",
            help="After: with these objects applied; the same kind, namespace and name replaces, others are added. Repeatable.",
        ),
    ] = (),
    without: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            group=CHANGE,
            metavar="OBJECT",
            help="After: without [NAMESPACE/]KIND/NAME (netpol/deny-all). Repeatable.",
        ),
    ] = (),
    pods: Annotated[bool, Parameter(negative=(), group=CHANGE, help="Each pod for itself instead of workloads.")] = False,
    namespaces: Annotated[bool, Parameter(negative=(), group=CHANGE, help="Namespaces instead of workloads.")] = False,
    flows: Annotated[
        Whole | None,
        Parameter(group=FLOWS, metavar="N", help="How many flows to draw. Without it all of them, up to 5000."),
    ] = None,
    seed: Annotated[
        Whole | None, Parameter(group=FLOWS, metavar="S", help="Which flows: the same seed draws the same ones.")
    ] = None,
    output: Annotated[
        Literal["text", "wide", "json", "md"],
        Parameter(alias="-o", group=OUTPUT, help="wide shortens nothing; md is for a pull request's comment."),
    ] = "text",
    cluster: ClusterFlags = ClusterFlags(),
) -> int:
    """What does a change do to who reaches whom? The check before a merge.

    Two states of a cluster, or one and a change. Every connection that both have is compared: from workloads, internet and the
    addresses that policies speak of, to every port that something listens on, services through their endpoints. What opens,
    closes or changes is told in groups, with the policy rule that decides. -f is read into both states.
    The exit code is 0 same, 1 differs, 2 error, 3 where nothing differs but something is unknown on both sides.

    With --proxy-mode A,B instead: does every flow get the same answer under two modes of kube-proxy? Compared are verdict,
    endpoint, source seen and kind of refusal; differences that upstream documents have a name (docs/modes.md) and do not count.
    The exit code is 3 where none is left, but netlab does not know some answers.

    For example:
      netlab diff -f cluster.json --with new-policy.yaml
      netlab diff -f cluster.json main/policies/ branch/policies/ -o md
      netlab diff before.yaml after.yaml
      netlab diff -f cluster.json --without netpol/deny-all
      netlab diff --proxy-mode iptables,nftables -f cluster.json --flows 2000 --seed 7
    """
    modes = cluster.proxy_mode is not None and "," in cluster.proxy_mode
    if cluster.observed:
        raise InputError("diff compares what two states would write: --observed has rules of one", hint="leave --observed out")
    if modes:
        if states or with_ or without or pods or namespaces:
            raise InputError("either two modes of kube-proxy or two states", hint="--proxy-mode A,B goes with -f alone")
        if output == "md":
            raise InputError("-o md is for two states, not for two modes", hint="one of: text, wide, json")
        return _compare_modes(cluster, flows, 1 if seed is None else seed, output)
    if flows is not None or seed is not None:
        raise InputError("--flows and --seed draw flows for two modes of kube-proxy", hint="two states are compared in full")
    if pods and namespaces:
        raise InputError("--pods and --namespaces exclude each other")
    before, after = _states(tuple(STDIN if s == PLAIN_STDIN else s for s in states), with_, without, cluster)
    by = "pods" if pods else "namespaces" if namespaces else "workloads"
    found = _compare(open_pair(cluster, before, after, with_, without), by)
    from netlab.reach.compare import Kind
    from netlab.render.compare import render

    emit(render(found, output))
    for text in (*(f"not modelled: {text}" for text in found.not_modelled), *found.left_out):
        note(cluster, text)
    if found.differs:
        return 1
    return EXIT_UNKNOWN if found.of(Kind.UNDECIDED) else 0


def _states(
    states: tuple[str, ...], with_: tuple[str, ...], without: tuple[str, ...], cluster: ClusterFlags
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files of either side, besides those of -f."""
    change = bool(with_ or without)
    if len(states) > 2:
        raise InputError(f'unexpected argument "{states[2]}"', hint="two states are compared: BEFORE AFTER; -f is read into both")
    if len(states) == 2:
        return (states[0],), (states[1],)
    if not change:
        if cluster.proxy_mode is not None and not states:
            raise InputError("diff needs two modes to compare", hint="for example: --proxy-mode iptables,nftables")
        what = "only one state" if states else "nothing to compare"
        raise InputError(what, hint="netlab diff BEFORE AFTER, or netlab diff -f CLUSTER --with FILE")
    return states, states


def _compare(pair: tuple[Cluster, Cluster], by: str) -> Comparison:
    from netlab.reach.compare import compare
    from netlab.reach.spread import processors
    from netlab.trace.query import Tracer

    return compare(Tracer(pair[0]), Tracer(pair[1]), by, jobs=processors())


def _compare_modes(cluster: ClusterFlags, flows: int | None, seed: int, output: str) -> int:
    if flows is not None and flows < 1:
        raise InputError("--flows must be at least 1")
    modes = _modes(cluster.proxy_mode or "")
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
    if found.undocumented:
        return 1
    return EXIT_UNKNOWN if found.undecided else 0


def _modes(text: str) -> tuple[str, str]:
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or "" in names or names[0] == names[1]:
        raise InputError("diff needs two modes to compare", hint="for example: --proxy-mode iptables,nftables")
    return names[0], names[1]
