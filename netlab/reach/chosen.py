"""The rows and columns that a user names: `shop/`, `deploy/web`, `api:9000`, `svc/api`, `internet`, `10.0.0.7:80`, `node/a:80`.

Law: a name is a row or column, or an error; a port that is typed is asked whether or not something listens on it. As a
destination `svc/api` is the service itself, reached through its endpoints; a name of a workload and a service is the workload.
"""

from __future__ import annotations

from collections.abc import Sequence

from netlab.errors import InputError, did_you_mean
from netlab.kube.cluster import Cluster
from netlab.kube.names import EndpointName, Workload, container_port, parse_endpoint, resolve, service_port
from netlab.kube.objects import Node, Pod, Service
from netlab.reach import outside
from netlab.reach.matrix import INTERNET, Column, Group, columns, groups
from netlab.trace.query import EXTERNAL, Tracer

_HINT = "name a workload, a pod, a service, a node, an address, NAMESPACE/ or internet"


def sources(cluster: Cluster, names: Sequence[str], namespace: str, by: str) -> list[Group]:
    """The rows; all groups of the cluster where no name is given."""
    if not names:
        return groups(cluster, by)
    found = {group.name: group for name in names for group in _source(cluster, name, namespace, by)}
    return list(found.values())


def destinations(
    tracer: Tracer, names: Sequence[str], namespace: str, by: str, services: bool
) -> list[tuple[Column, Group]]:
    """The columns; every port of every group, and of every service where `services` is true, if no name is given."""
    if not names:
        return columns(tracer, groups(tracer.cluster, by), services)
    found = {column: group for name in names for column, group in _destination(tracer, name, namespace, by, services)}
    return list(found.items())


def _source(cluster: Cluster, text: str, namespace: str, by: str) -> list[Group]:
    if text == INTERNET:
        return [Group(INTERNET, ())]
    if text.endswith("/"):
        return _namespace(cluster, text.rstrip("/"), by)
    name = parse_endpoint(text.removeprefix(EXTERNAL))
    if name.port is not None:
        raise InputError(f'"{text}" has a port, and a source has none', hint="ports belong to what stands behind `to`")
    if name.ip is not None:
        return [Group(text, ())]
    what = resolve(cluster, name, namespace, "source")
    match what:
        case Workload() | Pod() | Service():
            pods = _pods(cluster, what)
            if not pods and isinstance(what, Service):
                raise InputError(f"service {what.key} has no pods that could send", what.ref)
            return _split(_label(what), pods, by)
        case Node():
            return [Group(f"node/{what.name}", ())]
        case _:
            raise InputError(f'"{text}" is not a row of the matrix', hint=_HINT)


def _destination(tracer: Tracer, text: str, namespace: str, by: str, services: bool) -> list[tuple[Column, Group]]:
    cluster = tracer.cluster
    if text == INTERNET:
        return [(column, group) for column, group in outside.destinations([tracer]) if column.name == INTERNET]
    if text.endswith("/"):
        name = text.rstrip("/")
        return columns(tracer, _namespace(cluster, name, by), services, (name,))
    wanted = parse_endpoint(text.removeprefix(EXTERNAL))
    if wanted.ip is not None or wanted.kind == "internet":
        number = _number(wanted, text)
        return [(Column(text[: -len(f":{number}")], number, "TCP", "address"), Group(text, ()))]
    what = resolve(cluster, wanted, namespace, "source" if wanted.kind is None else "destination")
    match what:
        case Service():
            return _service(what, wanted)
        case Workload() | Pod():
            return _ports(tracer, _split(_label(what), _pods(cluster, what), by), wanted)
        case Node():
            return [(Column(f"node/{what.name}", _number(wanted, text), "TCP", "address"), Group(text, ()))]
        case _:
            raise InputError(f'"{text}" is not a column of the matrix', hint=_HINT)


def _namespace(cluster: Cluster, name: str, by: str) -> list[Group]:
    found = groups(cluster, by, (name,))
    if not found:
        near = did_you_mean(name, sorted({p.namespace for p in cluster.pods.values()}))
        raise InputError(f'no pods in namespace "{name}"', hint=near)
    return found


def _label(what: Workload | Pod | Service) -> str:
    return f"{what.namespace}/{what.name}"


def _pods(cluster: Cluster, what: Workload | Pod | Service) -> tuple[str, ...]:
    if isinstance(what, Workload):
        return tuple(p.key for p in what.pods)
    if isinstance(what, Pod):
        return (what.key,)
    keys = [e.target_pod for s in cluster.slices.get(what.key, ()) for e in s.endpoints if e.target_pod]
    return tuple(sorted(k for k in dict.fromkeys(keys) if k in cluster.pods))


def _split(name: str, pods: tuple[str, ...], by: str) -> list[Group]:
    return [Group(key, (key,)) for key in pods] if by == "pods" else [Group(name, pods)]


def _service(service: Service, wanted: EndpointName) -> list[tuple[Column, Group]]:
    if service.type == "ExternalName":
        raise InputError(f"service {service.key} is an ExternalName: DNS answers with a name", service.ref, "name the address")
    name = f"{service.namespace}/svc/{service.name}"
    if wanted.port is not None:
        number = service_port(service, wanted.port).port
        ports = [p for p in service.ports if (p.name == wanted.port if isinstance(wanted.port, str) else p.port == number)]
    else:
        ports = list(service.ports)
    return [(Column(name, p.port, p.protocol.upper(), "service"), Group(name, ())) for p in ports]


def _ports(tracer: Tracer, of: Sequence[Group], wanted: EndpointName) -> list[tuple[Column, Group]]:
    """The ports on which groups listen, or the one that is typed: by number, or by the name of a container port."""
    if wanted.port is None:
        return columns(tracer, of, services=False)
    found: list[tuple[Column, Group]] = []
    for group in of:
        if isinstance(wanted.port, int):
            number = wanted.port
            listening = [c.protocol for c, _ in columns(tracer, [group], services=False) if c.port == number]
            protocols = dict.fromkeys(listening or ["TCP"])
        else:
            named = [container_port(tracer.cluster.pods[key], wanted.port) for key in group.pods[:1]]
            number, protocols = named[0].container_port, dict.fromkeys(p.protocol for p in named)
        found += [(Column(group.name, number, protocol), group) for protocol in protocols]
    return found


def _number(name: EndpointName, text: str) -> int:
    if not isinstance(name.port, int):
        raise InputError(f'"{text}" needs a port number', hint=f"as in {text.partition(':')[0] if name.port else text}:443")
    return name.port
