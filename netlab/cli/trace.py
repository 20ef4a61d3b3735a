"""`netlab trace`: one packet, hop by hop, rule by rule, every branch."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from netlab.cli.flags import OUTPUT, ClusterFlags, Color, PacketFlags, Whole, color, emit, note, open_tracer, request
from netlab.errors import InputError


def trace(
    source: Annotated[str, Parameter(help="Who sends: a pod, workload, service, node, address or `internet`.")],
    destination: Annotated[str, Parameter(help="Who is meant; :PORT by number or name.")],
    /,
    *,
    output: Annotated[
        Literal["text", "wide", "json", "yaml", "html"],
        Parameter(
            alias="-o",
            group=OUTPUT,
            help="wide adds marks, conntrack states, MACs and the rules tried; json: `netlab schema trace`; html is a page to "
            "step through, one file.",
        ),
    ] = "text",
    write: Annotated[
        str | None,
        Parameter(
            alias="-w",
            group=OUTPUT,
            allow_leading_hyphen=True,
            metavar="FILE|-",
            help="Write a capture (pcapng): a frame for each wire, its comment what was decided; - for `| wireshark -k -i -`.",
        ),
    ] = None,
    branch: Annotated[
        Whole | None, Parameter(group=OUTPUT, metavar="N", help="With -w: this branch alone, counted from 1.")
    ] = None,
    color_: Annotated[Color, Parameter(name="--color")] = "auto",
    cluster: ClusterFlags = ClusterFlags(),
    packet: PacketFlags = PacketFlags(),
) -> int:
    """Where the packet goes: every hop, every rule, every branch, and the reply.

    Endpoints are written [NAMESPACE/][KIND/]NAME[:PORT]: web-0, deploy/web, svc/api:http, shop/svc/api:80, node/node-1,
    10.0.0.7:80, internet. The exit code is 0 delivered, 1 dropped, rejected or partial, 2 error, 3 unknown.

    For example:
      netlab trace web-0 svc/api
      netlab trace default/web-0 svc/hostnames:80 -f cluster.json
      netlab trace internet node/node-2:30080 --at node-1 -f cluster.json
      netlab trace web-0 svc/dns:53 --proto udp -o wide
      netlab trace web-0 svc/api -o html > trace.html
      netlab trace web-0 svc/api -w - | wireshark -k -i -
      netlab trace web-0 svc/hostnames:80 -f cluster.json --observed node-1=dumps/node-1/
    """
    _, tracer = open_tracer(cluster)
    if write is not None and output != "text":
        raise InputError(f"-w writes a capture, -o {output} something else", hint="ask twice, once for each")
    if write is not None and write.startswith("-") and write != "-":
        raise InputError(f"-w {write}: a file is missing before that", hint=f"a file of that name is ./{write}")
    if branch is not None and write is None:
        raise InputError("--branch chooses what -w writes", hint="give -w FILE, too")
    asked = request(source, destination, cluster, packet)
    answer, network = tracer.traced(asked)
    if write is not None:
        from netlab.render.pcap import capture

        if branch is not None and not 1 <= branch <= len(answer.branches):
            raise InputError(f"--branch {branch}: this trace has {len(answer.branches)}")
        if write == "-":
            sys.stdout.flush()
            sys.stdout.buffer.write(capture(answer, branch))
            sys.stdout.buffer.flush()
            return answer.exit_code
        _save(write, capture(answer, branch))
    match output:
        case "json":
            from netlab.render.jsonio import dumps

            emit(dumps(answer))
        case "yaml":
            emit(_yaml(answer))
        case "html":
            if sys.stdout.isatty():
                note(cluster, "this is a page for a browser: netlab trace ... -o html > trace.html")
            from netlab.render.html import document
            from netlab.render.page import page, to_json

            made = page(answer, network)
            emit(document(to_json(made), made.title, made.summary))
        case _:
            from netlab.render.text import render

            emit(render(answer, wide=output == "wide", color=color(color_)))
    return answer.exit_code


def _save(path: str, content: bytes) -> None:
    """Write a file whole, or say why not and leave none."""
    existed = os.path.lexists(path)
    try:
        with open(path, "wb") as file:
            file.write(content)
    except OSError as error:
        if not existed and os.path.isfile(path):
            os.unlink(path)
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _yaml(answer: object) -> str:
    """The same document as -o json; long texts (rules) stay on one line."""
    import yaml

    from netlab.render.jsonio import to_builtins
    from netlab.trace.steps import Trace

    assert isinstance(answer, Trace)
    return str(yaml.safe_dump(to_builtins(answer), sort_keys=False, allow_unicode=True, width=1 << 20))
