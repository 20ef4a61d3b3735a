"""`netlab why`: the sentence, and the smallest change that would flip the answer."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from netlab.cli.flags import OUTPUT, ClusterFlags, Color, PacketFlags, color, emit, open_tracer, request


def why(
    source: Annotated[str, Parameter(help="Who sends: a pod, workload, service, node, address or `internet`.")],
    destination: Annotated[str, Parameter(help="Who is meant; :PORT by number or name.")],
    /,
    *,
    output: Annotated[
        Literal["text", "wide", "json", "yaml"],
        Parameter(
            alias="-o",
            group=OUTPUT,
            help="wide shows every change that was found, and the assumptions; json: `netlab schema why`.",
        ),
    ] = "text",
    color_: Annotated[Color, Parameter(name="--color")] = "auto",
    cluster: ClusterFlags = ClusterFlags(),
    packet: PacketFlags = PacketFlags(),
) -> int:
    """Why it works or not, and the smallest change that flips that.

    Every change that is shown was applied to the model and traced again; beside it stands what else it would open or close.
    The exit code is 0 where the answer was found, whichever it is, 2 error, 3 unknown.

    For example:
      netlab why web-0 svc/nobody
      netlab why web-0 api-0:80
      netlab why deploy/frontend svc/redis-cart:6379 -f manifests/ -f policies/ --cni calico
    """
    from netlab.reach.situation import Answer
    from netlab.reach.why import explain
    from netlab.render import why as drawing

    _, tracer = open_tracer(cluster)
    answer = explain(tracer, request(source, destination, cluster, packet), bool(cluster.observed)).why
    match output:
        case "json":
            emit(drawing.dumps(answer))
        case "yaml":
            import yaml

            emit(str(yaml.safe_dump(drawing.to_builtins(answer), sort_keys=False, allow_unicode=True, width=1 << 20)))
        case _:
            emit(drawing.text(answer, wide=output == "wide", color=color(color_)))
    return 3 if answer.answer is Answer.UNKNOWN else 0
