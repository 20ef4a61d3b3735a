"""The server: starlette routes over the API's values, and who may ask.

    request --Guard (Host, Origin, size)--> route --thread--> Served --> JSON | a file | lines of progress

Law: it answers to this page and to programs on this machine, nobody else: a foreign Host header (DNS rebinding) or a request that
another site made is refused. A body and the work of one request are bounded. What fails is one sentence, never a traceback.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache, partial
from importlib.resources import files
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from netlab.errors import InputError, did_you_mean
from netlab.reach import chosen
from netlab.reach.matrix import Matrix, matrix
from netlab.render import html as bundle
from netlab.render import matrix as drawing
from netlab.render.html import document
from netlab.render.jsonio import dumps, to_builtins
from netlab.render.page import page, to_json
from netlab.render.svg import graph_svg
from netlab.serve import api
from netlab.serve.api import Error, Failure, ReachQuery, TraceQuery
from netlab.serve.served import Served, Setting

LINES = "application/x-ndjson"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that is not answered: an HTTP status and why."""

    def __init__(self, status: int, error: Error) -> None:
        super().__init__(error.what)
        self.status, self.error = status, error


class _Stopped(Exception):
    """The client has gone, or the work took too long."""


def failure(status: int, error: Error) -> Response:
    """An Error as the answer."""
    return Response(msgspec.json.encode(Failure(error)), status, media_type="application/json", headers=HEADERS)


# -- who may ask -------------------------------------------------------------------------------------------------------


class Guard:
    """Refuses what does not come from this server's own page or from a program that was pointed at it.

    A name that an attacker's DNS points at 127.0.0.1 arrives with a foreign Host header; a page of another site has an Origin
    or Sec-Fetch-Site that says so (https://www.w3.org/TR/fetch-metadata/). A form cannot send application/json.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        wrong = self._wrong(scope["method"], scope["scheme"], Headers(scope=scope))
        if wrong is not None:
            await failure(*wrong)(scope, receive, send)
            return
        await self.app(scope, _bounded(receive), send)

    def _wrong(self, method: str, scheme: str, headers: Headers) -> tuple[int, Error] | None:
        host = headers.get("host", "")
        if host not in self.hosts:
            names = ", ".join(sorted(self.hosts))
            return 421, Error(f"this server does not answer for {host or 'no name'}", hint=f"it is {names} (see --allow-host)")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return 403, Error("another site made this request")
        origin = headers.get("origin")
        if origin is not None and origin != f"{scheme}://{host}":
            return 403, Error(f"a page of {origin} made this request")
        if method not in ("GET", "HEAD"):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return 415, Error(f"a body of type {kind or 'none'}", hint="send application/json")
            length = headers.get("content-length", "0")
            if not length.isdigit() or int(length) > api.MAX_BODY:
                return 413, Error(f"a body of {length} bytes", hint=f"at most {api.MAX_BODY}")
        return None


def _bounded(receive: Receive) -> Receive:
    """The same messages, until a body is longer than allowed: its length may not have been told, or wrongly."""
    seen = 0

    async def bounded() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > api.MAX_BODY:
            raise Refused(413, Error(f"a body of more than {api.MAX_BODY} bytes"))
        return message

    return bounded


# -- what is asked -----------------------------------------------------------------------------------------------------


class Site:
    """The routes, over what is served."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.tracing = anyio.CapacityLimiter(2)
        self.reaching = anyio.Semaphore(1)

    async def cluster(self, request: Request) -> Response:
        setting = Setting() if request.method == "GET" else api.decode(await request.body(), Setting)
        cluster = await self._in_thread(partial(self.served.cluster, setting))
        return _json(api.described(cluster))

    async def trace(self, request: Request) -> Response:
        query = await _query(request, TraceQuery)
        answer: Response = await self._in_thread(lambda: _traced(self.served, query))
        return answer

    async def trace_as(self, request: Request) -> Response:
        """A trace as a file."""
        form = request.path_params["form"]
        query = await _query(request, TraceQuery)
        if form not in api.FORMS:
            raise Refused(404, Error(f"a trace has no form {form}", hint=f"one of: {', '.join(api.FORMS)}"))
        answer: Response = await self._in_thread(lambda: _file(self.served, query, form))
        return answer

    async def reach(self, request: Request) -> Response:
        query = await _query(request, ReachQuery)
        if LINES in request.headers.get("accept", ""):
            return StreamingResponse(self._lines(query), media_type=LINES, headers=HEADERS)
        found = await self._matrix(query, lambda done, total: None, _Deadline())
        return Response(drawing.render(found, "json"), media_type="application/json", headers=HEADERS)

    async def _lines(self, query: ReachQuery) -> AsyncIterator[bytes]:
        """Progress, then the matrix or the error; whoever goes away stops the work."""
        send, receive = anyio.create_memory_object_stream[Any](1000)
        deadline = _Deadline()

        def told(done: int, total: int) -> None:
            anyio.from_thread.run_sync(_offer, send, {"done": done, "total": total})

        async def work() -> None:
            async with send:
                try:
                    found = await self._matrix(query, told, deadline)
                    one_line = msgspec.json.format(drawing.render(found, "json").encode(), indent=-1)
                    await send.send({"matrix": msgspec.Raw(one_line)})
                except InputError as error:
                    await send.send(Failure(api.error_of(error)))
                except Refused as error:
                    await send.send(Failure(error.error))

        try:
            async with anyio.create_task_group() as group, receive:
                group.start_soon(work)
                async for line in receive:
                    yield msgspec.json.encode(line) + b"\n"
        finally:
            deadline.at = 0.0

    async def _matrix(self, query: ReachQuery, told: Callable[[int, int], None], deadline: _Deadline) -> Matrix:
        try:
            self.reaching.acquire_nowait()
        except anyio.WouldBlock:
            raise Refused(503, Error("another matrix is being made", hint="ask again when it is done")) from None
        try:
            return await anyio.to_thread.run_sync(partial(_matrix, self.served, query, told, deadline))
        except _Stopped:
            what = f"the matrix took more than {api.MAX_SECONDS:.0f} s"
            raise Refused(413, Error(what, hint="name fewer sources or destinations, or use `netlab reach`")) from None
        finally:
            self.reaching.release()

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await anyio.to_thread.run_sync(work, limiter=self.tracing)

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(api.openapi(), headers=HEADERS)


class _Deadline:
    """When work has to end."""

    def __init__(self) -> None:
        self.at = time.monotonic() + api.MAX_SECONDS

    def check(self) -> None:
        if time.monotonic() > self.at:
            raise _Stopped


def _matrix(served: Served, query: ReachQuery, told: Callable[[int, int], None], deadline: _Deadline) -> Matrix:
    """The matrix, in this thread."""
    tracer = served.own_tracer(query.setting)
    rows = chosen.sources(tracer.cluster, query.sources, query.namespace, query.by)
    columns = chosen.destinations(tracer, query.destinations, query.namespace, query.by, query.services)
    total = len(rows) * len(columns)
    if total > api.MAX_CELLS:
        hint = 'name some (a namespace is "shop/"), or ask by namespaces'
        raise Refused(413, Error(f"{len(rows)} x {len(columns)} answers are more than {api.MAX_CELLS}", hint=hint))

    def progress(done: int) -> None:
        deadline.check()
        told(done, total)

    return matrix(tracer, rows, columns, progress)


def _traced(served: Served, query: TraceQuery) -> Response:
    trace, network = served.trace(query.setting, query.request)
    return _json({"trace": to_builtins(trace), "page": msgspec.Raw(to_json(page(trace, network)))})


def _file(served: Served, query: TraceQuery, form: str) -> Response:
    trace, network = served.trace(query.setting, query.request)
    headers = {**HEADERS, "Content-Disposition": f'attachment; filename="trace.{form}"'}
    if form == "json":
        return Response(dumps(trace), media_type="application/json", headers=headers)
    if form == "svg":
        drawn = graph_svg(network, f"{trace.source.text} to {trace.destination.text}")
        return Response(drawn, media_type="image/svg+xml", headers=headers)
    if form == "pcapng":
        from netlab.render.pcap import capture

        return Response(capture(trace), media_type="application/octet-stream", headers=headers)
    made = page(trace, network)
    del headers["Content-Security-Policy"]  # the file has its own
    return Response(document(to_json(made), made.title, made.summary), media_type="text/html", headers=headers)


@cache
def _static(name: str) -> tuple[str, str]:
    """A file of the page, and its type."""
    match name:
        case "page.js":
            return bundle.script(), "text/javascript"
        case "style.css":
            return bundle.style(), "text/css"
    types = {"index.html": "text/html", "serve.js": "text/javascript", "serve.css": "text/css"}
    return files("netlab.serve").joinpath("page", name).read_text(encoding="utf-8"), types[name]


def _asset(name: str) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        text, kind = _static(name)
        return Response(text, media_type=kind, headers=HEADERS)

    return answer


async def _query(request: Request, of: type[Any]) -> Any:
    if request.method == "GET":
        return api.from_query(request.query_params.multi_items(), of)
    return api.decode(await request.body(), of)


def _offer(stream: Any, item: Any) -> None:
    """Progress is news: what nobody reads in time is left out."""
    with contextlib.suppress(anyio.WouldBlock):
        stream.send_nowait(item)


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json", headers=HEADERS)


# -- failures ----------------------------------------------------------------------------------------------------------


async def _input_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, InputError)
    return failure(400, api.error_of(error))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return failure(error.status, error.error)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _not_found(request: Request, error: Exception) -> Response:
    near = did_you_mean(request.url.path, PATHS)
    return failure(404, Error(f"nothing is at {request.url.path}", hint=near or f"there are {', '.join(PATHS)}"))


async def _not_allowed(request: Request, error: Exception) -> Response:
    return failure(405, Error(f"{request.method} is not for {request.url.path}"))


async def _bug(request: Request, error: Exception) -> Response:
    kind = type(error).__name__
    return failure(
        500, Error(f"internal error: {kind}: {error}", hint="this is a bug of netlab, not of your input; please report it")
    )


PATHS = ("/", "/api/cluster", "/api/trace", "/api/reach", "/api/openapi.json")
FAILURES: Mapping[Any, Any] = {
    InputError: _input_error,
    Refused: _refused,
    ClientDisconnect: _gone,
    404: _not_found,
    405: _not_allowed,
    Exception: _bug,
}


def application(served: Served, hosts: frozenset[str]) -> ASGIApp:
    """The ASGI application.

    Parameters
    ----------
    served : Served
    hosts : set of str
        The Host headers that are its own, each "name:port".
    """
    site = Site(served)
    both = ["GET", "POST"]
    routes = [
        Route("/", _asset("index.html")),
        *(Route(f"/page/{name}", _asset(name)) for name in ("page.js", "style.css", "serve.js", "serve.css")),
        Route("/api", lambda request: RedirectResponse("/api/openapi.json")),
        Route("/api/openapi.json", site.openapi),
        Route("/api/cluster", site.cluster, methods=both),
        Route("/api/trace", site.trace, methods=both),
        Route("/api/trace.{form}", site.trace_as),
        Route("/api/reach", site.reach, methods=both),
    ]
    return Guard(Starlette(routes=routes, exception_handlers=FAILURES), hosts)
