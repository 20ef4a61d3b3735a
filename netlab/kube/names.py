"""What users type, resolved: `web-0`, `deploy/web`, `shop/svc/api:80`, `10.0.0.7:80`, `[fd00::1]:80`, `internet`.

Law: a name is found or refused; an unknown one lists what is near, in every namespace and kind, an ambiguous one lists the
exact spelling of each candidate. Nothing is guessed but this: where a service and one other kind share a name, a
destination means the service and a source the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

import msgspec

from netlab.errors import InputError, did_you_mean
from netlab.kube.cluster import Cluster
from netlab.kube.objects import ContainerPort, Node, Pod, Service, ServicePort
from netlab.linux.addr import Ip, ip

Role: TypeAlias = Literal["source", "destination"]

KINDS: Mapping[str, str] = {
    "po": "Pod",
    "pod": "Pod",
    "pods": "Pod",
    "svc": "Service",
    "service": "Service",
    "services": "Service",
    "no": "Node",
    "node": "Node",
    "nodes": "Node",
    "deploy": "Deployment",
    "deployment": "Deployment",
    "deployments": "Deployment",
    "rs": "ReplicaSet",
    "replicaset": "ReplicaSet",
    "replicasets": "ReplicaSet",
    "sts": "StatefulSet",
    "statefulset": "StatefulSet",
    "statefulsets": "StatefulSet",
    "ds": "DaemonSet",
    "daemonset": "DaemonSet",
    "daemonsets": "DaemonSet",
    "job": "Job",
    "jobs": "Job",
    "cj": "CronJob",
    "cronjob": "CronJob",
    "cronjobs": "CronJob",
}
SHORT = {
    "Pod": "pod",
    "Service": "svc",
    "Node": "node",
    "Deployment": "deploy",
    "ReplicaSet": "rs",
    "StatefulSet": "sts",
    "DaemonSet": "ds",
    "Job": "job",
    "CronJob": "cronjob",
}
_FORM = "write [NAMESPACE/][KIND/]NAME[:PORT], an address, or internet"


class EndpointName(msgspec.Struct, frozen=True):
    """What was typed, taken apart: `kind` as Kubernetes spells it, None where none was typed; `ip` for an address.

    `name` is "internet" with kind "internet" for the outside world.
    """

    text: str
    kind: str | None = None
    namespace: str | None = None
    name: str = ""
    port: int | str | None = None
    ip: Ip | None = None


class Workload(msgspec.Struct, frozen=True):
    """A workload that was named, with those of its pods that have an address; "any of its pods"."""

    kind: str
    namespace: str
    name: str
    pods: tuple[Pod, ...]


Resolved: TypeAlias = Pod | Service | Node | Ip | Workload | Literal["internet"]


def parse_endpoint(text: str) -> EndpointName:
    """Take an endpoint apart; raises InputError for what cannot be one.

    >>> parse_endpoint("shop/svc/api:http").kind
    'Service'
    >>> str(parse_endpoint("[fd00::1]:80").ip)
    'fd00::1'
    """
    stripped = text.strip()
    if not stripped:
        raise InputError("an empty name", None, _FORM)
    if "://" in stripped:
        raise InputError(f'"{text}" is a URL', None, "name the service and its port: shop/svc/api:80")
    if stripped.startswith("["):
        inside, closed, rest = stripped[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise InputError(f'"{text}" is not an address', None, "write [fd00::1]:80")
        return EndpointName(text, ip=_address(inside, text), port=_port(rest[1:], text) if rest else None)
    if stripped.count(":") > 1:
        return EndpointName(text, ip=_address(stripped, text))
    head, colon, tail = stripped.partition(":")
    port = _port(tail, text) if colon else None
    if "/" not in head and _dotted_quad(head):
        return EndpointName(text, ip=_address(head, text), port=port)
    if head == "internet":
        return EndpointName(text, kind="internet", name="internet", port=port)
    parts = head.split("/")
    if not all(parts) or len(parts) > 3:
        raise InputError(f'"{text}" is not an endpoint', None, _FORM)
    match parts:
        case [name]:
            return EndpointName(text, name=name, port=port)
        case [first, name]:
            if first.lower() in KINDS:
                return EndpointName(text, kind=KINDS[first.lower()], name=name, port=port)
            return EndpointName(text, namespace=first, name=name, port=port)
        case [namespace, kind, name]:
            if kind.lower() not in KINDS:
                hint = did_you_mean(kind.lower(), KINDS) or f"known kinds: {', '.join(SHORT.values())}"
                raise InputError(f'unknown kind "{kind}" in "{text}"', None, hint)
            return EndpointName(text, kind=KINDS[kind.lower()], namespace=namespace, name=name, port=port)
        case _:
            raise InputError(f'"{text}" is not an endpoint', None, _FORM)


def _dotted_quad(text: str) -> bool:
    """Whether it can only be meant as an IPv4 address: digits and dots, three of them."""
    return text.count(".") == 3 and text.replace(".", "").isdigit()


def _address(text: str, whole: str) -> Ip:
    try:
        return ip(text)
    except ValueError:
        hint = "an IPv6 address with a port needs brackets: [fd00::1]:80" if ":" in text else None
        raise InputError(f'"{whole}" is not an address', None, hint) from None


def _port(text: str, whole: str) -> int | str:
    if not text:
        raise InputError(f'"{whole}" ends in a colon', None, "name a port after it, or leave it out")
    if text.isdigit():
        number = int(text)
        if not 1 <= number <= 65535:
            raise InputError(f"port {number} is outside 1-65535")
        return number
    return text


def resolve(cluster: Cluster, name: EndpointName, default_namespace: str = "default", role: Role = "destination") -> Resolved:
    """Find what a name means.

    Without a kind, pods, services, workloads and nodes of that name are looked for. One found is the answer. Where a
    service and exactly one other thing have the name (``svc/web`` and ``deploy/web``), a destination means the service,
    a source the other. A Deployment's ReplicaSet never makes its name ambiguous. Anything else is ambiguous.

    Parameters
    ----------
    cluster : Cluster
        Where to look.
    name : EndpointName
        From `parse_endpoint`.
    default_namespace : str
        The namespace of a name that has none (``-n``).
    role : {"source", "destination"}
        Which end of the packet's path it is.

    Returns
    -------
    Pod, Service, Node, Ip, Workload or "internet"
        A Workload holds its pods that have an address, at least one.

    Raises
    ------
    InputError
        Unknown or ambiguous name; a pod, or a workload whose pods all are, without address.
    """
    if name.ip is not None:
        return name.ip
    if name.kind == "internet":
        return "internet"
    namespace = name.namespace or default_namespace
    found = _candidates(cluster, name.kind, namespace, name.name, name.namespace is not None)
    if not found:
        raise _unknown(cluster, name, namespace)
    if len(found) > 1:
        # at most one service has the name
        preferred = [f for f in found if isinstance(f, Service) == (role == "destination")]
        if len(found) == 2 and len(preferred) == 1:
            found = preferred
        else:
            spelled = ", ".join(_spelling(f) for f in found)
            raise InputError(f'"{name.text}" is ambiguous', None, f"write one of: {spelled}")
    return _usable(cluster, found[0])


def _candidates(
    cluster: Cluster, kind: str | None, namespace: str, name: str, spelled: bool
) -> list[Pod | Service | Node | Workload]:
    """Everything of this name; nodes only where no namespace was typed."""
    key = f"{namespace}/{name}"
    found: list[Pod | Service | Node | Workload] = []
    if kind in (None, "Pod") and key in cluster.pods:
        found.append(cluster.pods[key])
    if kind in (None, "Service") and key in cluster.services:
        found.append(cluster.services[key])
    for wanted in SHORT:
        if kind in (None, wanted) and (pods := cluster.workloads.get(f"{namespace}/{wanted}/{name}")) is not None:
            found.append(Workload(wanted, namespace, name, tuple(cluster.pods[p] for p in pods)))
    if (kind == "Node" or (kind is None and not spelled)) and name in cluster.nodes:
        found.append(cluster.nodes[name])
    return found


def _spelling(thing: Pod | Service | Node | Workload) -> str:
    if isinstance(thing, Node):
        return f"node/{thing.name}"
    kind = thing.kind if isinstance(thing, Workload) else type(thing).__name__
    return f"{thing.namespace}/{SHORT[kind]}/{thing.name}"


def _usable(cluster: Cluster, thing: Pod | Service | Node | Workload) -> Pod | Service | Node | Workload:
    """Refuse what no packet can start from or reach."""
    if isinstance(thing, Pod) and not thing.ips:
        raise InputError(f"pod {thing.key} has no address: it is {thing.phase}", thing.ref)
    if isinstance(thing, Workload):
        label = f"{SHORT[thing.kind]}/{thing.name}"
        running = tuple(p for p in thing.pods if p.ips)
        if not thing.pods:
            raise InputError(f"{label} in namespace {thing.namespace} has no pods")
        if not running:
            phases = ", ".join(sorted({p.phase for p in thing.pods}))
            raise InputError(f"no pod of {label} in namespace {thing.namespace} has an address: they are {phases}")
        return msgspec.structs.replace(thing, pods=running)
    if isinstance(thing, Node) and not thing.internal_ips:
        raise InputError(f"node {thing.name} has no InternalIP", thing.ref)
    return thing


def _everything(cluster: Cluster) -> Iterable[tuple[str, str, str]]:
    """(kind, namespace, name) of all that can be named; "" is a node's namespace."""
    for pod in cluster.pods.values():
        yield "Pod", pod.namespace, pod.name
    for service in cluster.services.values():
        yield "Service", service.namespace, service.name
    for key in cluster.workloads:
        namespace, kind, name = key.split("/")
        yield kind, namespace, name
    for node in cluster.nodes:
        yield "Node", "", node


def _unknown(cluster: Cluster, name: EndpointName, namespace: str) -> InputError:
    """Say what was not found, and where something like it is: of another kind, in another namespace, of a near name."""
    word = name.kind.lower() if name.kind else "name"
    hint: str | None
    known_kind = list(_everything(cluster))
    namespaces = {n for _, n, _ in known_kind if n} | set(cluster.namespaces)
    if name.namespace and name.namespace not in namespaces:
        hint = did_you_mean(name.namespace, namespaces) or f"namespaces: {', '.join(sorted(namespaces)) or 'none'}"
        first = f'unknown namespace "{name.namespace}"'
        if name.kind is None:
            first += f' in "{name.text}"'
        return InputError(first, None, hint)
    where = "" if name.kind == "Node" else f" in namespace {namespace}"
    what = f'unknown {word} "{name.name}"{where}'
    elsewhere = [e for e in known_kind if e[2] == name.name]
    if elsewhere:
        # the other kinds of this namespace before other namespaces
        elsewhere.sort(key=lambda e: (e[1] != namespace, e[1], e[0]))
        spelled = [f"{ns}/{SHORT[kind]}/{n}" if ns else f"node/{n}" for kind, ns, n in elsewhere]
        if name.kind is None:
            others = sorted({ns for _, ns, _ in elsewhere if ns})
            return InputError(what, None, f"found in namespace {', '.join(others)}: {', '.join(_first(spelled))}")
        return InputError(what, None, f"there is {', '.join(_first(spelled))}")
    near = {n for kind, ns, n in known_kind if (ns in ("", namespace)) and name.kind in (None, kind)}
    hint = did_you_mean(name.name, near)
    if hint is None:
        spelled_all = {f"{ns}/{n}" if ns else n: n for _, ns, n in known_kind}
        close = did_you_mean(name.name, set(spelled_all.values()))
        if close is not None:
            matching = [s for s, n in spelled_all.items() if f'"{n}"' in close]
            hint = "did you mean " + " or ".join(f'"{s}"' for s in sorted(matching)[:3]) + "?"
    if hint is None and near:
        hint = f"there are: {', '.join(_first(sorted(near)))}"
    return InputError(what, None, hint)


def _first(names: list[str], limit: int = 8) -> list[str]:
    return names if len(names) <= limit else [*names[:limit], f"and {len(names) - limit} more"]


def service_port(service: Service, port: int | str | None, protocol: str | None = None) -> ServicePort:
    """The port of a service that a user means: by number or by name; without one, the only one there is.

    `protocol` ("TCP", "UDP", "SCTP") decides where a number is given twice, as kube-dns does with 53; without it TCP is
    preferred there.

    Raises
    ------
    InputError
        No such port, or several and none was named; the hint lists those that exist.
    """
    ports = [p for p in service.ports if protocol is None or p.protocol == protocol]
    listed = ", ".join(f"{p.port}/{p.protocol}{f' ({p.name})' if p.name else ''}" for p in service.ports)
    hint = f"its ports: {listed}" if listed else "it has no ports"
    if port is None:
        if len(ports) == 1:
            return ports[0]
        if not ports and service.ports:
            raise InputError(f"service {service.key} has no {protocol} port", service.ref, hint)
        raise InputError(f"service {service.key} needs a port", service.ref, hint)
    found = [p for p in ports if (p.name == port if isinstance(port, str) else p.port == port)]
    if not found:
        of = f" {protocol}" if protocol else ""
        near = did_you_mean(port, [p.name for p in ports if p.name]) if isinstance(port, str) else None
        raise InputError(f"service {service.key} has no{of} port {port}", service.ref, f"{near} {hint}" if near else hint)
    return next((p for p in found if p.protocol == "TCP"), found[0])


def container_port(pod: Pod, port: str, protocol: str | None = None) -> ContainerPort:
    """The declared port of a pod by name; raises InputError listing those there are."""
    found = [p for p in pod.ports if p.name == port and protocol in (None, p.protocol)]
    if found:
        return found[0]
    named = [f"{p.name} ({p.container_port}/{p.protocol})" for p in pod.ports if p.name]
    raise InputError(
        f'pod {pod.key} declares no port "{port}"',
        pod.ref,
        f"its named ports: {', '.join(named)}" if named else "give the port's number",
    )
