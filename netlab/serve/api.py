"""What the API asks and answers, as values; and its OpenAPI document, drawn from them.

Law: a field that is not known is an error that names it, not a field that is passed over. Every failure is an Error: what is
wrong, where, what to do next.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from netlab import __version__
from netlab.errors import InputError, did_you_mean
from netlab.kube.cluster import Cluster
from netlab.kube.names import SHORT
from netlab.kube.topology import CNIS, PROXY_MODES
from netlab.reach import manifest
from netlab.serve.served import Setting
from netlab.trace.query import Request

MAX_BODY = 1 << 20  # bytes of a request
MAX_CELLS = 40_000  # of a matrix that one request may ask for
MAX_SECONDS = 120.0  # that one matrix may take

FORMS = ("json", "svg", "html", "pcapng")
Protocol = Literal["tcp", "udp", "sctp", "icmp"]


class TraceQuery(Setting, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A question to the tracer, as `netlab trace SOURCE DESTINATION` asks it."""

    source: str
    destination: str
    protocol: Protocol | None = None
    namespace: str = "default"
    at: str | None = None
    family: Literal[4, 6] | None = None
    size: int | None = None

    @property
    def request(self) -> Request:
        """The tracer's question."""
        if self.size is not None and not 28 <= self.size <= 65535:
            raise InputError(f"size {self.size}: an IP packet has 28 (headers of IPv4 and UDP) to 65535 bytes")
        return Request(self.source, self.destination, self.protocol, self.namespace, self.at, self.family, self.size)

    @property
    def setting(self) -> Setting:
        """The cluster's part."""
        return Setting(self.proxy_mode, self.cni, self.changes, self.without)


class ReachQuery(Setting, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A question for the matrix, as `netlab reach SOURCES to DESTINATIONS` asks it; no names: all there are."""

    sources: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    by: Literal["workloads", "pods", "namespaces"] = "workloads"
    services: bool = True
    namespace: str = "default"

    @property
    def setting(self) -> Setting:
        """The cluster's part."""
        return Setting(self.proxy_mode, self.cni, self.changes, self.without)


class Error(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why there is no answer: one sentence; `where` in the input; `hint`: what to do next."""

    what: str
    where: str = ""
    hint: str = ""


class Failure(msgspec.Struct, frozen=True):
    """The body of every answer that is not 200."""

    error: Error


class ServedNode(msgspec.Struct, frozen=True, rename="camel"):
    """A node."""

    name: str
    addresses: tuple[str, ...]


class ServedPod(msgspec.Struct, frozen=True, rename="camel"):
    """A pod; `endpoint` is how a trace names it."""

    endpoint: str
    namespace: str
    name: str
    node: str
    addresses: tuple[str, ...]
    ports: tuple[str, ...]


class ServedService(msgspec.Struct, frozen=True, rename="camel"):
    """A service; `endpoints` are how a trace names its ports."""

    endpoints: tuple[str, ...]
    namespace: str
    name: str
    type: str
    addresses: tuple[str, ...]


class ServedPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """A policy as YAML; `without` is the name by which it is taken out; `where` it was read."""

    kind: str
    key: str
    where: str
    yaml: str
    without: str


class ServedCluster(msgspec.Struct, frozen=True, rename="camel"):
    """The cluster as a page needs it to ask questions."""

    version: str
    cni: str
    proxy_mode: str
    cnis: tuple[str, ...]
    proxy_modes: tuple[str, ...]
    nodes: tuple[ServedNode, ...]
    pods: tuple[ServedPod, ...]
    services: tuple[ServedService, ...]
    policies: tuple[ServedPolicy, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]


def error_of(error: InputError) -> Error:
    """An InputError as the API tells it."""
    return Error(error.what, str(error.ref) if error.ref is not None else "", error.hint or "")


def decode(body: bytes, of: type[Any]) -> Any:
    """A request's JSON body as one of the queries; raises InputError."""
    try:
        return msgspec.json.decode(body, type=of)
    except msgspec.ValidationError as error:
        raise InputError(_words(str(error), of)) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InputError(f"the body is not JSON: {error}") from None


def from_query(pairs: list[tuple[str, str]], of: type[Any]) -> Any:
    """A query string as one of the queries: a list's items are given one by one; raises InputError."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(of)}
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name not in fields:
            raise InputError(f'unknown parameter "{name}"', hint=did_you_mean(name, fields) or f"known: {', '.join(fields)}")
        if fields[name].type == tuple[str, ...]:
            found.setdefault(name, []).append(value)
        elif name in found:
            raise InputError(f'"{name}" is given twice')
        else:
            found[name] = value
    try:
        return msgspec.convert(found, of, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(_words(str(error), of)) from None


def _words(text: str, of: type[Any]) -> str:
    known = ", ".join(field.encode_name for field in msgspec.structs.fields(of))
    return f"{text[:1].lower()}{text[1:]} (fields: {known})" if "unknown field" in text else f"{text[:1].lower()}{text[1:]}"


def described(cluster: Cluster) -> ServedCluster:
    """A cluster as `GET /api/cluster` tells it."""
    pods = tuple(
        ServedPod(
            f"{pod.namespace}/pod/{pod.name}",
            pod.namespace,
            pod.name,
            pod.node_name,
            tuple(map(str, pod.ips)),
            tuple(f"{p.container_port}/{p.protocol}" for p in pod.ports),
        )
        for _, pod in sorted(cluster.pods.items())
        if pod.ips
    )
    services = tuple(
        ServedService(
            tuple(f"{service.namespace}/svc/{service.name}:{p.port}" for p in service.ports),
            service.namespace,
            service.name,
            service.type,
            tuple(map(str, service.cluster_ips)),
        )
        for _, service in sorted(cluster.services.items())
    )
    nodes = tuple(ServedNode(node.name, tuple(map(str, node.internal_ips))) for node in cluster.nodes.values())
    return ServedCluster(
        __version__, cluster.cni.name, cluster.proxy.mode, CNIS, PROXY_MODES, nodes, pods, services, _policies(cluster),
        cluster.assumptions, cluster.notes,
    )  # fmt: skip


def _policies(cluster: Cluster) -> tuple[ServedPolicy, ...]:
    objects = cluster.policy_objects
    found = [("NetworkPolicy", p, manifest.network_policy(p)) for p in cluster.policies.values()]
    found += [(p.kind, p, manifest.calico_policy(p)) for p in objects.calico.values()]  # type: ignore[misc]
    found += [(p.kind, p, manifest.cluster_policy(p)) for p in objects.cluster.values()]  # type: ignore[misc]
    return tuple(
        ServedPolicy(kind, policy.key, str(policy.ref), "\n".join(manifest.lines(body)) + "\n", _named(kind, policy.key))
        for kind, policy, body in sorted(found, key=lambda each: (each[0], each[1].key))
    )


def _named(kind: str, key: str) -> str:
    """`shop/networkpolicy/deny`, as --without takes it."""
    namespace, slash, name = key.rpartition("/")
    return f"{namespace}{slash}{SHORT.get(kind, kind.lower())}/{name}"


# -- OpenAPI -----------------------------------------------------------------------------------------------------------


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of this API."""
    types: list[Any] = [TraceQuery, ReachQuery, Setting, ServedCluster, Failure]
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    failures = {"400": "a question that has no answer", "413": "too much asked at once", "403": "not from this page"}
    wrong = {code: _answer(text, {"$ref": "#/components/schemas/Failure"}) for code, text in failures.items()}

    def operation(summary: str, answer: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"summary": summary, "responses": {"200": answer, **wrong}, **more}

    def body(name: str) -> dict[str, Any]:
        schema = {"$ref": f"#/components/schemas/{name}"}
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}

    traced = _answer("the trace (`netlab schema trace`), and the page's drawing of it", {"type": "object"})
    matrix = _answer("the matrix as `netlab reach -o json` prints it", {"type": "object"})
    matrix["content"]["application/x-ndjson"] = {"schema": {"type": "object"}}
    cluster = _answer("the cluster", {"$ref": "#/components/schemas/ServedCluster"})
    form = {"name": "format", "in": "path", "required": True, "schema": {"enum": list(FORMS)}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "netlab", "version": __version__, "description": "Where does this packet go, and which rule decides?"},
        "paths": {
            "/api/cluster": {
                "get": operation("Nodes, pods, services and policies", cluster),
                "post": operation("The same with an edit applied", cluster, **body("Setting")),
            },
            "/api/trace": {
                "get": operation("One packet, every hop, rule and branch", traced, parameters=_parameters(TraceQuery)),
                "post": operation("The same, with an edit applied", traced, **body("TraceQuery")),
            },
            "/api/trace.{format}": {
                "get": operation("One packet as a file", _answer("the file", {}), parameters=[form, *_parameters(TraceQuery)])
            },
            "/api/reach": {
                "get": operation("Who reaches whom", matrix, parameters=_parameters(ReachQuery)),
                "post": operation(
                    "The same, with an edit applied",
                    matrix,
                    description="With `Accept: application/x-ndjson` the answer is lines of JSON: "
                    '{"done": n, "total": m} while it works, then {"matrix": ...} or {"error": ...}.',
                    **body("ReachQuery"),
                ),
            },
        },
        "components": {"schemas": components},
    }


def _answer(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _parameters(of: type[Any]) -> list[dict[str, Any]]:
    """The fields of a query as parameters of a query string."""
    _, components = msgspec.json.schema_components([of], ref_template="#/components/schemas/{name}")
    schema = components[of.__name__]
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in schema["properties"].items()
    ]
