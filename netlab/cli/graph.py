"""`netlab graph`: the network itself, as a picture or as text."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Group, Parameter

from netlab.cli.flags import OUTPUT, ClusterFlags, emit, note, open_tracer
from netlab.errors import InputError, did_you_mean

PARTS = Group("Parts", sort_key=0)


def graph(
    *,
    node: Annotated[
        tuple[str, ...], Parameter(negative=(), group=PARTS, metavar="NODE", help="This node and its pods alone. Repeatable.")
    ] = (),
    pods: Annotated[
        bool, Parameter(negative=(), group=PARTS, help="Each pod for itself, also where there are many (mermaid, dot, json).")
    ] = False,
    output: Annotated[
        Literal["mermaid", "dot", "json", "svg", "html"],
        Parameter(alias="-o", group=OUTPUT, help="mermaid is what Markdown on GitHub draws, dot is for Graphviz."),
    ] = "mermaid",
    cluster: ClusterFlags = ClusterFlags(),
) -> int:
    """The network itself, as a picture or as text: nodes, pods, devices, wires, tunnels, the fabric.

    For example:
      netlab graph -o svg > network.svg
      netlab graph --node node-1 -f cluster.json | wl-copy
      netlab graph -o dot -f cluster.json | dot -Tpng > network.png
    """
    declared, tracer = open_tracer(cluster)
    for name in node:
        if name not in declared.nodes:
            raise InputError(f'unknown node "{name}"', hint=did_you_mean(name, declared.nodes))
    if output in ("svg", "html"):
        if node or pods:
            raise InputError(f"--node and --pods are not for -o {output}", hint="one of: mermaid, dot, json")
        from netlab.render.svg import graph_html, graph_svg

        draw = graph_svg if output == "svg" else graph_html
        emit(draw(tracer.network, f"{len(declared.nodes)} nodes, {declared.cni.name}"))
        return 0
    from netlab.render import graph as drawing

    found = drawing.graph(tracer.network, node, pods)
    if hidden := sum(namespace.pods for namespace in found.namespaces):
        note(cluster, f"{hidden} pods are a number on their nodes: --pods draws each, --node NAME a part")
    match output:
        case "json":
            emit(drawing.to_json(found))
        case "dot":
            emit(drawing.dot(found))
        case _:
            emit(drawing.mermaid(found))
    return 0
