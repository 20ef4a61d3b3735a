"""`netlab check`: a list of expected flows against what netlab finds: the network's unit tests, for CI.

Law: every row is answered in one process, in the order of the rows; a row that cannot be asked is an input error, never a
"no". What a row may say is in netlab/trace/check.py, how results are printed in netlab/render/checks.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from netlab.cli.flags import OUTPUT, PLAIN_STDIN, STDIN, ClusterFlags, emit, open_tracer
from netlab.errors import InputError
from netlab.refs import Ref
from netlab.trace.check import Row, read, run
from netlab.trace.steps import Trace

if TYPE_CHECKING:
    from netlab.trace.query import Tracer

MAX_BYTES = 16 << 20  # a hundred thousand rows


def check(
    rows: Annotated[str, Parameter(help="YAML or JSON file with the rows, or - for stdin.")],
    /,
    *,
    output: Annotated[
        Literal["text", "json", "junit"],
        Parameter(alias="-o", group=OUTPUT, help="text prints the rows that differ; json what was found for every row."),
    ] = "text",
    cluster: ClusterFlags = ClusterFlags(),
) -> int:
    """Check a list of expected flows: the network's unit tests.

    A row is {name?, source, destination, protocol?, at?, expect: delivered|dropped|rejected|partial|unknown,
    endpoints?: ["ip:port", ...], sourceSeen?: "ip", masquerade?: true|false}; what is left out is not compared.
    The exit code is 0 all as expected, 1 some differ, 2 error.

    For example, with flows.yaml:
      - {source: web-0, destination: "svc/api:80", expect: delivered, masquerade: false}
      - {source: internet, destination: "node-1:30080", expect: rejected}

      netlab check flows.yaml -f cluster.json
      netlab check flows.yaml -f cluster.json -o junit > report.xml
    """
    file = STDIN if rows == PLAIN_STDIN else rows
    if file == STDIN and STDIN in cluster.filename:
        raise InputError("ROWS and -f are both -", hint="standard input can be read once")
    wanted = read_rows(file)
    _, tracer = open_tracer(cluster)
    results, errors = run(wanted, asker(tracer, cluster.namespace))
    from netlab.render import checks

    match output:
        case "json":
            emit(checks.json(results))
        case "junit":
            emit(checks.junit(results))
        case _:
            emit(checks.text(results))
    if errors:  # what was found is not lost with the rows that could not be asked
        raise ExceptionGroup("rows that cannot be asked", errors)
    return 0 if all(result.ok for result in results) else 1


def asker(tracer: Tracer, namespace: str) -> Callable[[Row], Trace]:
    """How a row is asked: a row says where a packet goes from and to, the command line which namespace names are in."""
    from netlab.trace.query import Request

    def ask(row: Row) -> Trace:
        return tracer.trace(Request(row.source, row.destination, row.protocol, namespace, row.at))

    return ask


def read_rows(file: str) -> tuple[Row, ...]:
    """Read a file of rows ("-": stdin).

    Raises
    ------
    InputError
        Unreadable, too large, not YAML or JSON, or not rows.
    """
    from netlab.kube.yamltext import read as read_yaml

    text = _bytes(file)
    documents = list(read_yaml(text, file))
    if len(documents) > 1:
        raise InputError("rows are one document", Ref(file=file, line=documents[1].line), "join them into one list")
    return read(documents[0].value if documents else [], file, _lines(text))


def _bytes(file: str) -> bytes:
    try:
        if file == STDIN:
            text = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(file, "rb") as stream:
                text = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        from netlab.errors import did_you_mean

        folder, name = os.path.split(file)
        near = did_you_mean(name, os.listdir(folder or ".")) if os.path.isdir(folder or ".") else None
        raise InputError("no such file", Ref(file=file), near) from None
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", Ref(file=file)) from None
    if len(text) > MAX_BYTES:
        raise InputError(f"larger than {MAX_BYTES >> 20} MiB: these cannot be rows", Ref(file=file))
    text = text.removeprefix(b"\xef\xbb\xbf")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", Ref(file=file, line=text.count(b"\n", 0, error.start) + 1)) from None
    if b"\0" in text:
        raise InputError("a binary file, neither YAML nor JSON", Ref(file=file))
    return text


def _lines(text: bytes) -> list[int]:
    """The line on which each item of the top-level list begins."""
    import yaml
    from yaml.events import CollectionEndEvent, CollectionStartEvent, NodeEvent

    from netlab.kube.yamltext import Loader

    lines, depth = [], 0
    for event in yaml.parse(text, Loader=Loader):
        if depth == 1 and isinstance(event, NodeEvent):
            mark: Any = event.start_mark  # a stub without None would not need this
            lines.append(mark.line + 1)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
    return lines
