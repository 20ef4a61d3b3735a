"""The controllers, played: pods from templates, their nodes and addresses, ClusterIPs, NodePorts, EndpointSlices.

Law: what the input states is kept; only what no object states is made, in an order that depends on names alone (never on
the order of files), and each class of decision is one line of assumptions. A dump that holds EndpointSlices is the
truth about endpoints, also where they are missing. Nothing is scheduled by load, affinity or resources.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from netlab.errors import InputError
from netlab.kube.calico import open_pools
from netlab.kube.cluster import Calico
from netlab.kube.declared import Declared, Placement, Toleration, Workload
from netlab.kube.ipam import Ipam
from netlab.kube.objects import Endpoint, EndpointPort, EndpointSlice, Node, Pod, Service, ServicePort
from netlab.kube.selectors import labels_match, matches
from netlab.kube.topology import Setting, natural, some
from netlab.linux.addr import Ip, Prefix

NODE_PORTS = range(30000, 32768)  # kube-apiserver --service-node-port-range
HASH_LABEL = "pod-template-hash"
POD_NAME_LABEL = "statefulset.kubernetes.io/pod-name"
POD_INDEX_LABEL = "apps.kubernetes.io/pod-index"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # k8s.io/apimachinery/pkg/util/rand: no vowels, no 0, 1, 3


class Played(msgspec.Struct, frozen=True):
    """The objects, complete."""

    pods: Mapping[str, Pod]
    services: Mapping[str, Service]
    slices: Mapping[str, tuple[EndpointSlice, ...]]
    workloads: Mapping[str, tuple[str, ...]]
    assumptions: tuple[str, ...]
    calico: Calico = Calico()


def fake_hash(length: int, *parts: object) -> str:
    """A suffix that looks like Kubernetes' and depends on names alone."""
    from hashlib import sha256

    digest = sha256("/".join(str(p) for p in parts).encode()).digest()
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:length])


def play(declared: Declared, setting: Setting) -> Played:
    """Complete the declared objects in the network that `setting` describes.

    Raises
    ------
    InputError
        A pod that fits no node, a podCIDR, service network or port range that is used up.
    """
    says: list[str] = []
    owners, members = ownership(declared)
    pods = {
        key: msgspec.structs.replace(pod, owner=owners[key]) if owners.get(key, pod.owner) != pod.owner else pod
        for key, pod in declared.pods.items()
    }
    placements = dict(declared.fresh)
    _make_pods(declared, setting, pods, placements, members, says)
    _place(pods, placements, setting, says)
    calico = _address(pods, placements, setting, says)
    services = _complete_services(declared, setting, says)
    slices = _slices(declared, setting, pods, services, says)
    # only a StatefulSet numbers its pods
    workloads = {
        key: tuple(sorted(found, key=natural if "/StatefulSet/" in key else None)) for key, found in sorted(members.items())
    }
    return Played(pods, services, slices, workloads, tuple(says), calico)


def _many(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


# --- who owns whom -------------------------------------------------------------------------------------------


def ownership(declared: Declared) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Pod key -> "Deployment web", and "namespace/Kind/name" -> pod keys, from ownerReferences, else from labels."""
    owners: dict[str, str] = {}
    members: dict[str, list[str]] = {key: [] for key in declared.workloads}
    loose: dict[str, list[Pod]] = {}
    for key, pod in declared.pods.items():
        found = declared.owners.get(key)
        if found is None:
            loose.setdefault(pod.namespace, []).append(pod)
            continue
        kind, name = found
        members.setdefault(f"{pod.namespace}/{kind}/{name}", []).append(key)
        top = _above(declared, pod, kind, name)
        if top is not None:
            members.setdefault(f"{pod.namespace}/{top[0]}/{top[1]}", []).append(key)
        owners[key] = " ".join(top or found)
    for key, workload in sorted(declared.workloads.items()):
        if members[key] or workload.selector is None or workload.kind == "CronJob":
            continue
        for pod in loose.get(workload.namespace, ()):
            if pod.key not in owners and matches(workload.selector, pod.labels):
                members[key].append(pod.key)
                owners[pod.key] = f"{workload.kind} {workload.name}"
    return owners, members


def _above(declared: Declared, pod: Pod, kind: str, name: str) -> tuple[str, str] | None:
    """The Deployment over a ReplicaSet, the CronJob over a Job: from the object, else from the pod's template hash."""
    middle = declared.workloads.get(f"{pod.namespace}/{kind}/{name}")
    if middle is not None:
        above = middle.owner.partition(" ")
        return (above[0], above[2]) if middle.owner else None
    # the Deployment controller names its ReplicaSets NAME-HASH and labels their pods with the hash
    suffix = "-" + pod.labels.get(HASH_LABEL, "\0")
    if kind == "ReplicaSet" and name.endswith(suffix):
        return "Deployment", name.removesuffix(suffix)
    return None


# --- pods ----------------------------------------------------------------------------------------------------


def _make_pods(
    declared: Declared,
    setting: Setting,
    pods: dict[str, Pod],
    placements: dict[str, Placement],
    members: dict[str, list[str]],
    says: list[str],
) -> None:
    """Pods for the workloads that have none."""
    dumped = any(key not in declared.fresh for key in declared.pods)
    made, played, waiting = 0, [], []
    for key, workload in sorted(declared.workloads.items()):
        if workload.kind == "CronJob":
            waiting.append(f"{workload.namespace}/{workload.name}")
            continue
        # an owned ReplicaSet or Job is its owner's business; where pods were dumped, a workload that its controller has
        # reported on and that has none has none
        if members[key] or workload.owner or (dumped and workload.reported):
            continue
        named = list(_names(workload, setting))
        for name, placement, labels in named:
            pod = Pod(
                name=name,
                namespace=workload.namespace,
                labels=labels,
                host_network=workload.template.host_network,
                ports=workload.template.ports,
                service_account=workload.template.service_account,
                owner=f"{workload.kind} {workload.name}",
                ref=workload.ref,
            )
            if pod.key in pods:
                raise InputError(f"{workload.kind} {workload.name} would make a pod {pod.key}, which exists", workload.ref)
            pods[pod.key] = pod
            placements[pod.key] = placement
            members[key].append(pod.key)
            if workload.kind == "Deployment":
                replica_set = f"{workload.namespace}/ReplicaSet/{workload.name}-{labels[HASH_LABEL]}"
                members.setdefault(replica_set, []).append(pod.key)
        made += len(named)
        if named:
            played.append(workload.name)
    if made:
        says.append(f"{_many(made, 'pod')} made from the templates of {_many(len(played), 'workload')}: {some(played)}")
    if waiting:
        declared.notes.append(f"{_many(len(waiting), 'CronJob')} without pods until it runs: {some(waiting)}")


def _names(workload: Workload, setting: Setting) -> Iterable[tuple[str, Placement, Mapping[str, str]]]:
    """Name, placement and labels of each pod that a controller would make."""
    template, name = workload.template, workload.name
    where = (workload.namespace, name)
    match workload.kind:
        case "StatefulSet":
            for i in range(workload.replicas):
                # pkg/controller/statefulset/stateful_set_utils.go updateIdentity: labels that policies like to select
                own = {POD_NAME_LABEL: f"{name}-{i}", POD_INDEX_LABEL: str(i)}
                yield f"{name}-{i}", template.placement, {**template.labels, **own}
        case "DaemonSet":
            for node in setting.nodes.values():
                placement = template.placement
                if _fits(node, placement, daemon=True) and placement.node_name in ("", node.name):
                    pinned = msgspec.structs.replace(placement, node_name=node.name)
                    yield f"{name}-{fake_hash(5, *where, node.name)}", pinned, template.labels
        case "Deployment":
            revision = fake_hash(10, *where)
            labels = {**template.labels, HASH_LABEL: revision}
            for i in range(workload.replicas):
                yield f"{name}-{revision}-{fake_hash(5, *where, i)}", template.placement, labels
        case _:
            for i in range(workload.replicas):
                yield f"{name}-{fake_hash(5, *where, i)}", template.placement, template.labels


def _tolerates(toleration: Toleration, taint: tuple[str, str, str]) -> bool:
    """corev1 helpers: Toleration.ToleratesTaint."""
    key, value, effect = taint
    if toleration.effect and toleration.effect != effect:
        return False
    if toleration.key and toleration.key != key:
        return False
    return toleration.operator == "Exists" or (bool(toleration.key) and toleration.value == value)


def _fits(node: Node, placement: Placement, daemon: bool = False) -> bool:
    """Whether the scheduler could put a pod there: cordon, taints, nodeSelector. A DaemonSet's pods ignore a cordon."""
    if node.unschedulable and not daemon:
        return False
    for taint in node.taints:
        if taint[2] == "PreferNoSchedule" or (daemon and taint[0].startswith("node.kubernetes.io/")):
            continue
        if not any(_tolerates(t, taint) for t in placement.tolerations):
            return False
    return labels_match(placement.node_selector, {"kubernetes.io/hostname": node.name, **node.labels})


def _place(pods: dict[str, Pod], placements: Mapping[str, Placement], setting: Setting, says: list[str]) -> None:
    """Give each new pod a node: fewest pods of its own workload first, then fewest pods, then the nodes' order."""
    total = dict.fromkeys(setting.nodes, 0)
    own: dict[tuple[str, str], int] = {}
    homeless = []
    for key, pod in pods.items():
        if key in placements and not placements[key].node_name:
            homeless.append(key)
            continue
        name = pod.node_name or placements[key].node_name if key in placements else pod.node_name
        if key in placements:
            pods[key] = msgspec.structs.replace(pod, node_name=name)
        if name in total:
            total[name] += 1
            group = (f"{pod.namespace} {pod.owner}", name)
            own[group] = own.get(group, 0) + 1
    for key in sorted(homeless, key=natural):
        pod, placement = pods[key], placements[key]
        fitting = [name for name, node in setting.nodes.items() if _fits(node, placement)]
        if not fitting:
            selector = ", ".join(f"{k}={v}" for k, v in placement.node_selector.items())
            why = f"no node has the labels {selector}" if selector else "every node is cordoned or tainted"
            raise InputError(f"pod {key} fits no node: {why}", pod.ref, "give the pod a nodeName, or a node those labels")
        group_name = f"{pod.namespace} {pod.owner}"
        # ties fall to the nodes' order, because min() keeps the first
        best = min(fitting, key=lambda name: (own.get((group_name, name), 0) if pod.owner else 0, total[name]))
        total[best] += 1
        own[group_name, best] = own.get((group_name, best), 0) + 1
        pods[key] = msgspec.structs.replace(pod, node_name=best)
    if homeless:
        nodes = {pods[key].node_name for key in homeless}
        says.append(f"{_many(len(homeless), 'pod')} without a nodeName spread over {_many(len(nodes), 'node')}")


def _address(pods: dict[str, Pod], placements: Mapping[str, Placement], setting: Setting, says: list[str]) -> Calico:
    """Addresses for new pods: the node's own for hostNetwork, else Calico's IPAM where that gives them out, else the next free
    one of the node's podCIDRs from .2 on. Returns Calico with the blocks that this took."""
    calico = setting.calico
    used = {address for pod in pods.values() for address in pod.ips}
    used |= {address for own in calico.tunnels.values() for _, address in own}
    ipam = Ipam(calico.pools, calico.blocks, used)
    families = list(dict.fromkeys(p.cidr.family for p in calico.pools))
    cursors: dict[Prefix, int] = {}
    given = 0
    for key in sorted(placements, key=natural):
        pod = pods[key]
        node = setting.nodes[pod.node_name]
        if pod.host_network:
            ips = tuple({a.family: a for a in reversed(node.internal_ips)}.values())[::-1]
        elif calico.pools:
            ips = tuple(ipam.address(node, family, open_pools(calico.pools, node)) for family in families)
            given += 1
        else:
            ips = tuple(_next_address(block, used, cursors, node) for block in node.pod_cidrs)
            given += 1
        pods[key] = msgspec.structs.replace(pod, ips=ips)
    if given and calico.pools:
        says.append(f"{_many(given, 'pod')} given the next free addresses of their nodes' blocks")
    elif given:
        says.append(f"{_many(given, 'pod')} given the next free addresses of their nodes' podCIDRs, from .2 on")
    return msgspec.structs.replace(calico, blocks={name: tuple(own) for name, own in ipam.blocks.items()})


def _next_address(block: Prefix, used: set[Ip], cursors: dict[Prefix, int], node: Node) -> Ip:
    """host-local IPAM: in order, after the bridge's .1 (containernetworking/plugins, host-local)."""
    n = cursors.get(block, 2)
    last = block.size - 2 if block.family == 4 else block.size - 1
    while n <= last and block.nth(n) in used:
        n += 1
    if n > last:
        raise InputError(f"the podCIDR {block} of node {node.name} has no address left", node.ref, "give it a wider podCIDR")
    cursors[block] = n + 1
    used.add(block.nth(n))
    return block.nth(n)


# --- services ------------------------------------------------------------------------------------------------


def _complete_services(declared: Declared, setting: Setting, says: list[str]) -> dict[str, Service]:
    """ClusterIPs, families, NodePorts and health-check ports for services that the API server has not seen."""
    services = dict(declared.services)
    order = sorted(services)
    used = {address for service in services.values() for address in service.cluster_ips}
    primary = setting.service_cidrs[0].family
    for key in order:
        service, wish = services[key], declared.wishes[key]
        families = wish.families
        if not families or (wish.dual_stack and len(families) == 1 and not wish.stored):
            first = families[0] if families else primary
            others = [p.family for p in setting.service_cidrs if p.family != first] if wish.dual_stack else []
            families = (first, *others)
            services[key] = msgspec.structs.replace(service, ip_families=families)
    # well-known addresses first, so that no other service takes them
    bare = [
        key for key in order if not (services[key].cluster_ips or services[key].headless or services[key].type == "ExternalName")
    ]
    bare.sort(key=lambda key: key not in _WELL_KNOWN)
    cursors: dict[int, int] = {}
    for key in bare:
        service = services[key]
        found = tuple(_next_cluster_ip(key, service, family, setting, used, cursors) for family in service.ip_families)
        services[key] = msgspec.structs.replace(service, cluster_ips=found)
    if bare:
        says.append(f"{_many(len(bare), 'service')} given ClusterIPs from {' and '.join(map(str, setting.service_cidrs))}")
    ports = _node_ports(declared, services, order)
    if ports:
        says.append(f"{_many(ports, 'NodePort')} given from {NODE_PORTS.start}-{NODE_PORTS.stop - 1} in order")
    pending = [key for key in order if services[key].type == "LoadBalancer" and not services[key].load_balancer]
    if pending:
        says.append(f"{_many(len(pending), 'LoadBalancer')} without an external address, reached by NodePort: {some(pending)}")
    return services


_WELL_KNOWN = {"default/kubernetes": 1, "kube-system/kube-dns": 10}  # kubeadm: the 1st and the 10th of the range


def _next_cluster_ip(key: str, service: Service, family: int, setting: Setting, used: set[Ip], cursors: dict[int, int]) -> Ip:
    block = next((p for p in setting.service_cidrs if p.family == family), None)
    if block is None:
        raise InputError(
            f"service {key} wants IPv{family}, but the service network has none",
            service.ref,
            "name one: --service-cidr CIDR,CIDR",
        )
    wanted = _WELL_KNOWN.get(key)
    if wanted is not None and wanted < block.size and block.nth(wanted) not in used:
        used.add(block.nth(wanted))
        return block.nth(wanted)
    n = cursors.get(family, 11)
    while n < block.size - 1 and block.nth(n) in used:
        n += 1
    if n >= block.size - 1:
        raise InputError(
            f"the service network {block} has no address left for service {key}", service.ref, "give a wider --service-cidr"
        )
    cursors[family] = n + 1
    used.add(block.nth(n))
    return block.nth(n)


def _node_ports(declared: Declared, services: dict[str, Service], order: list[str]) -> int:
    """Fill in node ports; returns how many. One port number serves one service port, whatever its protocol."""
    used = {p.node_port for service in services.values() for p in service.ports if p.node_port}
    used |= {service.health_check_node_port for service in services.values() if service.health_check_node_port}
    free = (n for n in NODE_PORTS if n not in used)

    def take(service: Service) -> int:
        found = next(free, None)
        if found is None:
            raise InputError("the NodePort range is used up", service.ref)
        return found

    given = 0
    for key in order:
        service, wish = services[key], declared.wishes[key]
        ports = []
        shared: dict[int, int] = {}  # TCP and UDP of one port number share a NodePort where both are given one
        for p in service.ports:
            if wish.node_ports and p.node_port is None:
                number = shared.get(p.port) or take(service)
                shared[p.port] = number
                ports.append(msgspec.structs.replace(p, node_port=number))
                given += 1
            else:
                ports.append(p)
        health = service.health_check_node_port
        if health is None and service.type == "LoadBalancer" and service.external_traffic_policy == "Local":
            health = take(service)
            given += 1
        if tuple(ports) != service.ports or health != service.health_check_node_port:
            services[key] = msgspec.structs.replace(service, ports=tuple(ports), health_check_node_port=health)
    return given


# --- endpoints -----------------------------------------------------------------------------------------------


def _slices(
    declared: Declared, setting: Setting, pods: Mapping[str, Pod], services: Mapping[str, Service], says: list[str]
) -> dict[str, tuple[EndpointSlice, ...]]:
    """EndpointSlices as given, Endpoints where a service has no slice, else computed from the pods.

    They are computed for services with a selector where the input has no endpoints of any service (they were not dumped),
    or where the service itself was never stored by an API server (it has no ClusterIP yet, so nobody made its slices).
    """
    slices: dict[str, tuple[EndpointSlice, ...]] = {}
    for s in declared.slices.values():
        key = f"{s.namespace}/{s.service}"
        slices[key] = (*slices.get(key, ()), s)
    mirrored = 0
    for key, legacy in declared.endpoints.items():
        if key not in slices:
            slices[key] = legacy.slices
            mirrored += key in services
    if mirrored:
        says.append(f"endpoints of {_many(mirrored, 'service')} read from Endpoints objects: they have no EndpointSlice")
    dumped = bool(declared.slices or declared.endpoints)
    by_namespace: dict[str, list[Pod]] = {}
    for pod in pods.values():
        by_namespace.setdefault(pod.namespace, []).append(pod)
    computed = 0
    for key, service in sorted(services.items()):
        if key in slices or not service.selector or service.type == "ExternalName":
            continue
        if dumped and declared.wishes[key].stored:
            continue
        chosen = [p for p in by_namespace.get(service.namespace, ()) if labels_match(service.selector, p.labels)]
        slices[key] = endpoint_slices(service, chosen, setting.nodes)
        computed += 1
    if computed:
        says.append(f"EndpointSlices of {_many(computed, 'service')} computed from their selectors and the pods")
    return {key: slices[key] for key in sorted(slices)}


def endpoint_slices(service: Service, pods: Iterable[Pod], nodes: Mapping[str, Node]) -> tuple[EndpointSlice, ...]:
    """What the endpoint-slice controller makes of a service and the pods that it selects.

    One slice per address family and set of resolved ports (a named targetPort may be a different number in each pod), as
    staging/src/k8s.io/endpointslice/reconciler.go groups them; conditions as utils.go podToEndpoint sets them. A pod that
    does not declare a named port has an endpoint without that port.
    """
    groups: dict[tuple[int, tuple[EndpointPort, ...]], list[Endpoint]] = {}
    for pod in sorted(pods, key=lambda p: natural(p.name)):
        if pod.phase in ("Succeeded", "Failed"):
            continue
        ports = tuple(
            EndpointPort(number, p.protocol, p.name) for p in service.ports if (number := target_port(p, pod)) is not None
        )
        node = nodes.get(pod.node_name)
        for family in service.ip_families:
            address = next((a for a in pod.ips if a.family == family), None)
            if address is None:
                continue
            endpoint = Endpoint(
                addresses=(address,),
                ready=service.publish_not_ready_addresses or (pod.ready and not pod.terminating),
                serving=pod.ready,
                terminating=pod.terminating,
                node_name=pod.node_name or None,
                zone=node.zone if node else None,
                target_pod=pod.key,
                texts=(str(address),),
            )
            groups.setdefault((family, ports), []).append(endpoint)
    found = []
    for family, ports in sorted(groups, key=lambda g: (g[0], [(p.name, p.port or 0) for p in g[1]])):
        suffix = fake_hash(5, service.key, family, *(f"{p.name}{p.port}{p.protocol}" for p in ports))
        found.append(
            EndpointSlice(
                name=f"{service.name}-{suffix}",
                namespace=service.namespace,
                labels={"kubernetes.io/service-name": service.name},
                service=service.name,
                family=family,
                endpoints=tuple(groups[family, ports]),
                ports=ports,
                ref=service.ref,
            )
        )
    return tuple(found)


def target_port(port: ServicePort, pod: Pod) -> int | None:
    """The pod's port behind a service port: its number, or the container port of that name and protocol
    (pkg/api/v1/pod/util.go FindPort); None where the pod declares no such name.
    """
    if isinstance(port.target_port, int):
        return port.target_port
    for p in pod.ports:
        if p.name == port.target_port and p.protocol == port.protocol:
            return p.container_port
    return None
