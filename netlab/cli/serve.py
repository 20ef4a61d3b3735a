"""`netlab serve`: the cluster as a page on this machine."""

from __future__ import annotations

import contextlib
import errno
import gc
import socket
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from netlab.cli.flags import ClusterFlags, Whole, files, note, overrides
from netlab.errors import InputError

if TYPE_CHECKING:
    from netlab.kube.documents import Document
    from netlab.kube.topology import Overrides

SERVER = Group("Server", sort_key=0)
LOCAL = ("127.0.0.1", "localhost", "[::1]")


def serve(
    *,
    host: Annotated[
        str, Parameter(group=SERVER, metavar="ADDRESS", help="The address to listen on; this machine alone by default.")
    ] = ("127.0.0.1"),
    port: Annotated[Whole, Parameter(group=SERVER, metavar="PORT", help="0 takes a free one.")] = 8642,
    allow_host: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            group=SERVER,
            metavar="NAME",
            help="A name by which browsers may call this server, besides its address. Repeatable.",
        ),
    ] = (),
    cluster: ClusterFlags = ClusterFlags(),
) -> int:
    """The cluster as a page: trace packets, edit policies, see the matrix.

    Listens on 127.0.0.1 until Ctrl-C; nothing is stored, and no request names a file. /api/openapi.json describes the API.

    For example:
      netlab serve
      netlab serve -f cluster.json --port 9000
      curl 'http://127.0.0.1:8642/api/trace?source=web-0&destination=svc/api'
    """
    if cluster.observed:
        raise InputError("serve answers from what is declared: --observed has rules of one node", hint="leave --observed out")
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port} is not a port", hint="0 to 65535")
    documents, overrides, paths = _read(cluster)
    try:
        import uvicorn

        from netlab.serve.app import application
    except ModuleNotFoundError as missing:
        raise InputError(
            f"the server needs {missing.name}, which is not installed", hint="pip install 'netlab-k8s[serve]'"
        ) from None
    from netlab.serve.served import Served, Setting

    served = Served(documents, paths, overrides)
    for text in served.cluster(Setting()).notes:
        note(cluster, text)
    listening = _listen(host, port)
    number = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    names = dict.fromkeys([*LOCAL, shown, *allow_host])
    hosts = frozenset(f"{name}:{number}" for name in names) | (frozenset(names) if number == 80 else frozenset())
    if host not in ("127.0.0.1", "::1", "localhost"):
        note(cluster, f"whoever reaches {host} can read this cluster")
    print(f"http://{shown}:{number}/", flush=True)
    note(cluster, "Ctrl-C ends it")
    gc.enable()  # other commands give one answer and end
    config = uvicorn.Config(application(served, hosts), log_level="warning", server_header=False, timeout_graceful_shutdown=1)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _read(cluster: ClusterFlags) -> tuple[list[Document], Overrides, tuple[str, ...]]:
    from netlab.kube.documents import read_documents

    paths = files(cluster)
    return list(read_documents(paths, sys.stdin)), overrides(cluster), paths


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens, before anything is promised."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        hint = (
            "choose another with --port, or 0 for a free one"
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            else None
        )
        raise InputError(f"cannot listen on {host} port {port}: {why}", hint=hint) from None
    return listening
