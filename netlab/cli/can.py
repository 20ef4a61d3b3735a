"""`netlab can`: yes or no, in one line, with the reason."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from netlab.cli.flags import OUTPUT, ClusterFlags, PacketFlags, emit, open_tracer, request


def can(
    source: Annotated[str, Parameter(help="Who sends: a pod, workload, service, node, address or `internet`.")],
    destination: Annotated[str, Parameter(help="Who is meant; :PORT by number or name.")],
    /,
    *,
    output: Annotated[
        Literal["text", "json"], Parameter(alias="-o", group=OUTPUT, help="json is the whole trace: `netlab schema trace`.")
    ] = "text",
    cluster: ClusterFlags = ClusterFlags(),
    packet: PacketFlags = PacketFlags(),
) -> int:
    """Can SOURCE reach DESTINATION? One line: yes, no, partly or unknown, and why.

    Yes means that the request reached a socket and that the reply came back.
    The exit code is 0 yes, 1 no or partly, 2 error, 3 unknown.

    For example:
      netlab can web-0 svc/api
      netlab can default/web-0 svc/hostnames:80 -f cluster.json
      kubectl get nodes,ns,pods,svc,endpointslices -A -o json | netlab can web-0 svc/api:http -f -
    """
    _, tracer = open_tracer(cluster)
    answer = tracer.trace(request(source, destination, cluster, packet))
    if output == "json":
        from netlab.render.jsonio import dumps

        emit(dumps(answer))
    else:
        from netlab.render.text import one_line

        emit(one_line(answer))
    return answer.exit_code
