"""Changes of a cluster as values: a label, a policy, a service, a pod that gets ready; and what the cluster is with them.

Law: `apply` is what the API server and its controllers would make of the change, and nothing else: EndpointSlices follow from the
services and pods that changed, every other slice stays as it was given. Pods keep their addresses, although a change of a
template replaces them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias, assert_never

import msgspec
from msgspec.structs import replace

from netlab.kube.cluster import Cluster
from netlab.kube.objects import ContainerPort, NetworkPolicy, Pod, Service
from netlab.kube.policies import CalicoPolicy, ClusterNetworkPolicy
from netlab.kube.selectors import labels_match
from netlab.kube.workloads import endpoint_slices
from netlab.linux.addr import Ip
from netlab.trace.query import Request


class Relabel(msgspec.Struct, frozen=True, tag=True):
    """Labels of pods (all those of a workload, or one): None takes a label away."""

    pods: tuple[str, ...]
    labels: Mapping[str, str | None]


class RelabelNamespace(msgspec.Struct, frozen=True, tag=True):
    """Labels of a namespace."""

    name: str
    labels: Mapping[str, str]


class PutPolicy(msgspec.Struct, frozen=True, tag=True):
    """A NetworkPolicy, new or in place of the one of its name."""

    policy: NetworkPolicy


class PutOther(msgspec.Struct, frozen=True, tag=True):
    """A policy of Calico's or of the cluster, in place of the one under its key in `Cluster.policy_objects`."""

    key: str
    policy: CalicoPolicy | ClusterNetworkPolicy


class DropPolicy(msgspec.Struct, frozen=True, tag=True):
    """A NetworkPolicy is deleted."""

    key: str


class PutService(msgspec.Struct, frozen=True, tag=True):
    """A Service in place of the one of its name."""

    service: Service


class Refresh(msgspec.Struct, frozen=True, tag=True):
    """The EndpointSlices of a service as its controller would make them now."""

    service: str


class MakeReady(msgspec.Struct, frozen=True, tag=True):
    """Pods become ready."""

    pods: tuple[str, ...]


class AddPod(msgspec.Struct, frozen=True, tag=True):
    """One pod more: running, ready, on the first node that has an address for it (`apply` gives it one)."""

    pod: Pod


class NamePort(msgspec.Struct, frozen=True, tag=True):
    """A declared container port of pods gets a name."""

    pods: tuple[str, ...]
    port: ContainerPort
    name: str


class SetCni(msgspec.Struct, frozen=True, tag=True):
    """Another CNI plug-in: Canal is Flannel's network with Calico's policies."""

    name: str


class SetSysctl(msgspec.Struct, frozen=True, tag=True):
    """A sysctl of every node goes back to what it should be."""

    name: str


class SetMesh(msgspec.Struct, frozen=True, tag=True):
    """Calico's nodes peer with each other."""


class Ask(msgspec.Struct, frozen=True, tag=True):
    """No object changes: another question is asked."""

    request: Request


Edit: TypeAlias = (
    Relabel
    | RelabelNamespace
    | PutPolicy
    | PutOther
    | DropPolicy
    | PutService
    | Refresh
    | MakeReady
    | AddPod
    | NamePort
    | SetCni
    | SetSysctl
    | SetMesh
    | Ask
)


def apply(cluster: Cluster, edits: Iterable[Edit]) -> Cluster:
    """The cluster after some edits, one after another.

    Parameters
    ----------
    cluster : Cluster
    edits : iterable of Edit
        `Ask` changes nothing here: it is the caller's next question.

    Returns
    -------
    Cluster
    """
    for edit in edits:
        cluster = _one(cluster, edit)
    return cluster


def _one(cluster: Cluster, edit: Edit) -> Cluster:
    match edit:
        case Relabel():
            return _pods(
                cluster, {key: replace(pod, labels=relabelled(pod.labels, edit.labels)) for key, pod in _of(cluster, edit)}
            )
        case MakeReady():
            return _pods(cluster, {key: replace(pod, ready=True) for key, pod in _of(cluster, edit)})
        case NamePort():
            ports = {key: tuple(_named(p, edit) for p in pod.ports) for key, pod in _of(cluster, edit)}
            return _pods(cluster, {key: replace(cluster.pods[key], ports=found) for key, found in ports.items()})
        case AddPod():
            return _pods(cluster, {edit.pod.key: _placed(cluster, edit.pod)})
        case RelabelNamespace():
            space = cluster.namespaces[edit.name]
            changed = replace(space, labels={**space.labels, **edit.labels})
            return replace(cluster, namespaces={**cluster.namespaces, edit.name: changed})
        case PutPolicy():
            return replace(cluster, policies={**cluster.policies, edit.policy.key: edit.policy})
        case DropPolicy():
            return replace(cluster, policies={key: p for key, p in cluster.policies.items() if key != edit.key})
        case PutOther():
            objects = cluster.policy_objects
            if isinstance(edit.policy, CalicoPolicy):
                objects = replace(objects, calico={**objects.calico, edit.key: edit.policy})
            else:
                objects = replace(objects, cluster={**objects.cluster, edit.key: edit.policy})
            return replace(cluster, policy_objects=objects)
        case PutService():
            services = {**cluster.services, edit.service.key: edit.service}
            return _with_slices(replace(cluster, services=services), [edit.service.key])
        case Refresh():
            return _with_slices(cluster, [edit.service])
        case SetCni():
            return replace(cluster, cni=replace(cluster.cni, name=edit.name))
        case SetSysctl():
            return replace(cluster, sysctls={name: value for name, value in cluster.sysctls.items() if name != edit.name})
        case SetMesh():
            return replace(cluster, calico=replace(cluster.calico, mesh=True))
        case Ask():
            return cluster
        case _ as never:
            assert_never(never)


def relabelled(labels: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Labels with some set and some (None) taken away.

    >>> relabelled({"app": "web", "old": ""}, {"role": "front", "old": None})
    {'app': 'web', 'role': 'front'}
    """
    return {key: value for key, value in {**labels, **changes}.items() if value is not None}


def _of(cluster: Cluster, edit: Relabel | MakeReady | NamePort) -> list[tuple[str, Pod]]:
    return [(key, cluster.pods[key]) for key in edit.pods]


def _named(port: ContainerPort, edit: NamePort) -> ContainerPort:
    return replace(port, name=edit.name) if port == edit.port else port


def _pods(cluster: Cluster, changed: Mapping[str, Pod]) -> Cluster:
    """Other pods under the same names: services that select one of them before or after get their slices anew."""
    after = replace(cluster, pods={**cluster.pods, **changed})
    both = [*changed.values(), *(cluster.pods[key] for key in changed if key in cluster.pods)]
    spaces = {pod.namespace for pod in both}
    touched = []
    for key, service in cluster.services.items():
        if service.namespace not in spaces or not service.selector:
            continue
        if any(pod.namespace == service.namespace and labels_match(service.selector, pod.labels) for pod in both):
            touched.append(key)
    return _with_slices(after, touched)


def _placed(cluster: Cluster, pod: Pod) -> Pod:
    """A new pod with a node and addresses: the next free ones of a block that the node has already."""
    used = {address for other in cluster.pods.values() for address in other.ips}
    used |= {address for own in cluster.calico.tunnels.values() for _, address in own}
    for node in sorted(cluster.nodes.values(), key=lambda n: (n.unschedulable, bool(n.taints))):
        blocks = cluster.calico.blocks.get(node.name, ()) or node.pod_cidrs
        found: dict[int, Ip] = {}
        for block in blocks:
            # .0 is the network's, .1 the bridge's; in a large block something near its beginning is free
            free = next((block.nth(n) for n in range(2, min(block.size - 1, 1 << 16)) if block.nth(n) not in used), None)
            if free is not None:
                found.setdefault(block.family, free)
        if found:
            return replace(pod, node_name=node.name, ips=tuple(found[family] for family in sorted(found)))
    return pod


def _with_slices(cluster: Cluster, services: Iterable[str]) -> Cluster:
    slices = dict(cluster.slices)
    for key in services:
        service = cluster.services[key]
        if service.selector and service.type != "ExternalName":
            slices[key] = endpoint_slices(service, selected(cluster, service), cluster.nodes)
    return replace(cluster, slices=slices)


def selected(cluster: Cluster, service: Service) -> list[Pod]:
    """The pods that a service's selector selects, ready or not."""
    pods = cluster.pods.values()
    return [p for p in pods if p.namespace == service.namespace and labels_match(service.selector, p.labels)]
