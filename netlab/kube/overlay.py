"""A cluster with other objects in it: `--with FILE` as `kubectl apply` would do it, `--without OBJECT` as `kubectl delete`.

    declared (what the files say)  --apply(changed), remove(names)-->  declared, before the controllers are played

Law: an object of the same kind, namespace and name is replaced, any other is added. What the API server and the controllers
decided stays where the change leaves it open (a ClusterIP, a pod's node and address); what they would decide anew is taken
out, to be played: the pods of a workload whose template changed, the endpoints of services that select what changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

from msgspec.structs import replace

from netlab.errors import InputError, did_you_mean
from netlab.kube.calico import Found
from netlab.kube.cluster import Cluster
from netlab.kube.declared import Declared, Workload
from netlab.kube.names import KINDS
from netlab.kube.objects import Pod, Service
from netlab.kube.selectors import labels_match
from netlab.kube.topology import Setting
from netlab.kube.workloads import HASH_LABEL, ownership
from netlab.linux.addr import Ip
from netlab.refs import Ref

Labels = tuple[str, Mapping[str, str]]  # a namespace, and the labels of a pod in it

_PLAIN = (
    "namespaces",
    "policies",
    "calico_policies",
    "tiers",
    "network_sets",
    "host_endpoints",
    "profiles",
    "service_accounts",
    "cluster_policies",
)
_NOT_YET = ("topology", "kube_proxy", "flannel")

# What --without names, beside the kinds of names.py: the kind, and in which mapping of Declared under which key.
_POLICY_KINDS: Mapping[str, str] = {
    "netpol": "NetworkPolicy",
    "networkpolicy": "NetworkPolicy",
    "networkpolicies": "NetworkPolicy",
    "gnp": "GlobalNetworkPolicy",
    "globalnetworkpolicy": "GlobalNetworkPolicy",
    "globalnetworkpolicies": "GlobalNetworkPolicy",
    "cnp": "ClusterNetworkPolicy",
    "clusternetworkpolicy": "ClusterNetworkPolicy",
    "clusternetworkpolicies": "ClusterNetworkPolicy",
    "anp": "AdminNetworkPolicy",
    "adminnetworkpolicy": "AdminNetworkPolicy",
    "adminnetworkpolicies": "AdminNetworkPolicy",
    "banp": "BaselineAdminNetworkPolicy",
    "baselineadminnetworkpolicy": "BaselineAdminNetworkPolicy",
    "tier": "Tier",
    "networkset": "NetworkSet",
    "globalnetworkset": "GlobalNetworkSet",
    "hep": "HostEndpoint",
    "hostendpoint": "HostEndpoint",
}


def apply(base: Declared, change: Declared) -> None:
    """Put the objects of `change` into `base`, which is changed in place.

    Raises
    ------
    InputError
        A change of what the network itself is made of: a Topology, kube-proxy's or Flannel's configuration, Calico's pools.
    """
    for name in _NOT_YET:
        found = getattr(change, name)
        if found is not None and getattr(base, name) is not None:
            ref = getattr(found, "ref", None) or change.kube_proxy_ref
            raise InputError("a second one: the network itself cannot be changed in part", ref, "compare two states: A B")
        if found is not None:
            setattr(base, name, found)
    if change.calico != Found():
        raise InputError("Calico's own configuration cannot be changed in part", None, "compare two states: A B")
    for name in _PLAIN:
        getattr(base, name).update(getattr(change, name))
    for key, node in change.nodes.items():
        old = base.nodes.get(key, node)
        base.nodes[key] = replace(
            node,
            pod_cidrs=node.pod_cidrs or old.pod_cidrs,
            internal_ips=node.internal_ips or old.internal_ips,
            external_ips=node.external_ips or old.external_ips,
        )
    touched: list[Labels] = []
    for key, workload in change.workloads.items():
        touched += _workload(base, key, workload)
    for key, pod in change.pods.items():
        touched += _pod(base, change, key, pod)
    for key, service in change.services.items():
        _service(base, change, key, service)
    _forget_endpoints(base, touched)
    base.slices.update(change.slices)
    base.endpoints.update(change.endpoints)
    base.host_ips.update(change.host_ips)
    base.passed_over.update(change.passed_over)
    base.notes += change.notes


# --- workloads and pods --------------------------------------------------------------------------------------


def _workload(base: Declared, key: str, workload: Workload) -> list[Labels]:
    """Replace a workload; its pods go where its controller would make others. Returns whose labels came or went."""
    old = base.workloads.get(key)
    template = workload.template
    pods = [base.pods[name] for name in _owned(base, workload.namespace, workload.kind, workload.name)]
    if old is not None:
        same = (old.replicas, old.selector, old.template) == (workload.replicas, workload.selector, template)
    else:  # the dump has its pods without it
        like = all(template.labels.items() <= p.labels.items() and p.ports == template.ports for p in pods)
        same = bool(pods) and len(pods) == workload.replicas and like
    touched: list[Labels] = []
    if not same:
        touched = [(workload.namespace, template.labels)]
        touched += _drop_pods(base, workload.namespace, workload.kind, workload.name)
    base.workloads[key] = replace(workload, reported=same and (old is None or old.reported))
    return touched


def _owned(base: Declared, namespace: str, kind: str, name: str) -> list[str]:
    owners, _ = ownership(base)
    return [key for key, owner in owners.items() if owner == f"{kind} {name}" and base.pods[key].namespace == namespace]


def _drop_pods(base: Declared, namespace: str, kind: str, name: str) -> list[Labels]:
    """Take out the pods of a workload and what stands between (ReplicaSets, Jobs)."""
    gone = _owned(base, namespace, kind, name)
    touched: list[Labels] = [(namespace, base.pods[key].labels) for key in gone]
    for key in gone:
        _forget_pod(base, key)
    for key, between in list(base.workloads.items()):
        if between.namespace == namespace and between.owner == f"{kind} {name}":
            del base.workloads[key]
    return touched


def _forget_pod(base: Declared, key: str) -> None:
    del base.pods[key]
    base.owners.pop(key, None)
    base.fresh.pop(key, None)


def _pod(base: Declared, change: Declared, key: str, pod: Pod) -> list[Labels]:
    """Replace a pod; one that is applied without a status keeps the node and the address that it has."""
    old = base.pods.get(key)
    fresh = change.fresh.get(key)
    if old is not None and fresh is not None and key not in base.fresh and fresh.node_name in ("", old.node_name):
        pod = replace(pod, node_name=old.node_name, ips=old.ips, phase=old.phase, ready=old.ready, owner=pod.owner or old.owner)
        fresh = None
    base.pods[key] = pod
    if key in change.owners:
        base.owners[key] = change.owners[key]
    base.fresh.pop(key, None)
    if fresh is not None:
        base.fresh[key] = fresh
    touched: list[Labels] = [(pod.namespace, pod.labels)]
    if old is not None:
        if (old.labels, old.ports, old.ips, old.ready) == (pod.labels, pod.ports, pod.ips, pod.ready):
            return []
        touched.append((old.namespace, old.labels))
    return touched


# --- services ------------------------------------------------------------------------------------------------


def _service(base: Declared, change: Declared, key: str, service: Service) -> None:
    """Replace a service; addresses and node ports that it leaves open stay, endpoints go if it selects others now."""
    old, wish = base.services.get(key), change.wishes[key]
    if old is not None and not wish.stored:
        keeps = old.type != "ExternalName" and not service.headless and service.type != "ExternalName"
        if keeps and not service.cluster_ips:
            service = replace(service, cluster_ips=old.cluster_ips, ip_families=old.ip_families)
        numbers = {(p.port, p.protocol): p.node_port for p in old.ports if p.node_port}
        if wish.node_ports:
            ports = tuple(replace(p, node_port=p.node_port or numbers.get((p.port, p.protocol))) for p in service.ports)
            service = replace(service, ports=ports)
        if service.type == "LoadBalancer":
            service = replace(
                service,
                load_balancer=service.load_balancer or old.load_balancer,
                health_check_node_port=service.health_check_node_port or old.health_check_node_port,
            )
    base.services[key] = service
    base.wishes[key] = wish if old is None else replace(wish, families=service.ip_families)
    same = old is not None and (old.selector, [replace(p, node_port=None) for p in old.ports]) == (
        service.selector,
        [replace(p, node_port=None) for p in service.ports],
    )
    if old is None:
        return
    if same:
        base.wishes[key] = replace(base.wishes[key], stored=base.wishes[key].stored or _has_slices(base, key))
    elif service.selector:
        _forget_slices(base, key)


def _has_slices(base: Declared, key: str) -> bool:
    return key in base.endpoints or any(f"{s.namespace}/{s.service}" == key for s in base.slices.values())


def _forget_slices(base: Declared, key: str) -> None:
    """The controller would write the endpoints of this service anew: they are computed from its selector."""
    base.endpoints.pop(key, None)
    for name in [name for name, s in base.slices.items() if f"{s.namespace}/{s.service}" == key]:
        del base.slices[name]
    wish = base.wishes[key]
    base.wishes[key] = replace(wish, stored=False, families=wish.families or base.services[key].ip_families)


def _forget_endpoints(base: Declared, touched: Iterable[Labels]) -> None:
    """Of every service that selects (or selected) one of these pods."""
    pods = list(touched)
    for key, service in base.services.items():
        if service.selector and any(ns == service.namespace and labels_match(service.selector, of) for ns, of in pods):
            _forget_slices(base, key)


# --- taking objects out --------------------------------------------------------------------------------------


def remove(base: Declared, names: Iterable[str], namespace: str) -> None:
    """Take objects out of `base`, each named `[NAMESPACE/]KIND/NAME` ("netpol/deny-all", "shop/deploy/web").

    Raises
    ------
    InputError
        A name that is none, a kind that cannot be removed, no such object.
    """
    for text in names:
        kind, where, name = _parse(text, namespace)
        _remove(base, text, kind, where, name)


def _parse(text: str, namespace: str) -> tuple[str, str, str]:
    known = {**KINDS, **_POLICY_KINDS}
    parts = text.split("/")
    if not all(parts) or len(parts) not in (2, 3):
        raise InputError(f'--without "{text}" is not an object', None, "write [NAMESPACE/]KIND/NAME, as in netpol/deny-all")
    kind = parts[-2].lower()
    if kind not in known:
        hint = did_you_mean(kind, known) or f"known kinds: {', '.join(sorted(set(known.values())))}"
        raise InputError(f'--without: unknown kind "{parts[-2]}" in "{text}"', None, hint)
    return known[kind], parts[0] if len(parts) == 3 else namespace, parts[-1]


def _remove(base: Declared, text: str, kind: str, namespace: str, name: str) -> None:
    key = f"{namespace}/{name}"
    touched: list[Labels] = []
    workload = f"{namespace}/{kind}/{name}"
    if kind == "Pod" and key in base.pods:
        touched = [(namespace, base.pods[key].labels)]
        _forget_pod(base, key)
    elif kind == "Service" and key in base.services:
        _forget_slices(base, key)
        del base.services[key], base.wishes[key]
    elif workload in base.workloads:
        touched = _drop_pods(base, namespace, kind, name)
        del base.workloads[workload]
    else:
        for attribute, found in _homes(kind, namespace, name):
            objects: MutableMapping[str, Any] = getattr(base, attribute)
            if found in objects:
                del objects[found]
                return
        raise _no_such(base, text, kind, namespace, name)
    _forget_endpoints(base, touched)


def _homes(kind: str, namespace: str, name: str) -> list[tuple[str, str]]:
    """Where an object of a kind may be: mapping of Declared, and key in it."""
    key = f"{namespace}/{name}"
    match kind:
        case "NetworkPolicy":
            return [("policies", key), ("calico_policies", f"NetworkPolicy/{key}")]
        case "GlobalNetworkPolicy":
            return [("calico_policies", f"GlobalNetworkPolicy/{name}")]
        case "ClusterNetworkPolicy" | "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy":
            return [("cluster_policies", f"{kind}/{name}")]
        case "Tier":
            return [("tiers", name)]
        case "NetworkSet":
            return [("network_sets", key)]
        case "GlobalNetworkSet":
            return [("network_sets", name)]
        case "HostEndpoint":
            return [("host_endpoints", name)]
        case "Node":
            return [("nodes", name)]
        case _:
            return []


def _no_such(base: Declared, text: str, kind: str, namespace: str, name: str) -> InputError:
    """The error, with names of that kind that are near."""
    every: dict[str, Callable[[], Iterable[str]]] = {
        "Pod": lambda: base.pods,
        "Service": lambda: base.services,
        "NetworkPolicy": lambda: (*base.policies, *(k.partition("/")[2] for k in base.calico_policies if k.startswith("Net"))),
        "GlobalNetworkPolicy": lambda: (k.partition("/")[2] for k in base.calico_policies if k.startswith("Global")),
        "Node": lambda: base.nodes,
    }
    found = every.get(kind)
    if found is not None:
        near = list(found())
    else:
        near = [f"{w.namespace}/{w.name}" for w in base.workloads.values() if w.kind == kind]
        near += [k.partition("/")[2] for k in base.cluster_policies if k.startswith(f"{kind}/")]
    elsewhere = [n for n in near if n.rpartition("/")[2] == name]
    hint = did_you_mean(f"{namespace}/{name}", elsewhere or near) or did_you_mean(name, near)
    if elsewhere:
        hint = f"there is {' and '.join(elsewhere[:3])}"
    if hint is None:
        hint = f"there are: {', '.join(sorted(near)[:8])}" if near else f"the input has no {kind}"
    return InputError(f'--without {text}: no {kind} "{name}"', None, hint)


# --- the other state -----------------------------------------------------------------------------------------


def keep(declared: Declared, setting: Setting, before: Cluster, was: Declared) -> Setting:
    """Decide in `declared` what was decided for the state `before` (read from `was`), where both leave it open alike.

    Pods keep node and address, services their ClusterIPs and node ports, so that two states differ only where their files do.
    """
    if before.nodes.keys() != setting.nodes.keys() or any(
        replace(before.nodes[name], ref=Ref()) != replace(node, ref=Ref()) for name, node in setting.nodes.items()
    ):
        return setting
    if (before.cni, before.pod_cidrs, before.service_cidrs) != (setting.cni, setting.pod_cidrs, setting.service_cidrs):
        return setting
    if [replace(p, ref=Ref()) for p in before.calico.pools] != [replace(p, ref=Ref()) for p in setting.calico.pools]:
        return setting
    own = {node: set(blocks) for node, blocks in before.calico.blocks.items()}
    if any(not set(blocks) <= own.get(node, set()) for node, blocks in setting.calico.blocks.items()):
        return setting
    used = {a for key, pod in declared.pods.items() if key not in declared.fresh for a in pod.ips}
    if not any(key not in declared.fresh for key in declared.pods):
        # nobody's pods were dumped: a workload with a status has pods all the same
        declared.workloads.update({key: replace(w, reported=False) for key, w in declared.workloads.items()})
    for key, placement in list(declared.fresh.items()):
        old = before.pods.get(key)
        if old is None or was.fresh.get(key) != placement or old.host_network != declared.pods[key].host_network:
            continue
        if not used.intersection(old.ips):
            declared.pods[key] = replace(declared.pods[key], node_name=old.node_name, ips=old.ips)
            del declared.fresh[key]
    _keep_made(declared, before, was, used)
    _keep_addresses(declared, before)
    calico = replace(setting.calico, blocks=before.calico.blocks, tunnels=before.calico.tunnels)
    return replace(setting, calico=calico)


def _keep_made(declared: Declared, before: Cluster, was: Declared, used: set[Ip]) -> None:
    """The pods that were made from the template of a workload that has not changed."""
    _, members = ownership(declared)
    for key, workload in sorted(declared.workloads.items()):  # in the order in which they are made
        old = was.workloads.get(key)
        if old is None or members[key] or workload.owner:
            continue
        if replace(old, ref=Ref(), reported=False) != replace(workload, ref=Ref(), reported=False):
            continue
        made = [name for name in before.workloads.get(key, ()) if name not in was.pods]
        if any(name in declared.pods or used.intersection(before.pods[name].ips) for name in made):
            continue
        for name in made:
            pod = before.pods[name]
            declared.pods[name] = replace(pod, ref=workload.ref)
            middle = f"{workload.name}-{pod.labels.get(HASH_LABEL, '')}"
            declared.owners[name] = ("ReplicaSet", middle) if workload.kind == "Deployment" else (workload.kind, workload.name)


def _keep_addresses(declared: Declared, before: Cluster) -> None:
    """ClusterIPs and node ports that the API server would have given to the same service."""
    taken = {a for service in declared.services.values() for a in service.cluster_ips}
    ports = {p.node_port for service in declared.services.values() for p in service.ports if p.node_port}
    for key, service in declared.services.items():
        old = before.services.get(key)
        if old is None:
            continue
        bare = not (service.cluster_ips or service.headless or service.type == "ExternalName" or old.headless)
        families = declared.wishes[key].families
        if bare and not taken.intersection(old.cluster_ips) and (not families or families == old.ip_families):
            service = replace(service, cluster_ips=old.cluster_ips)
            declared.wishes[key] = replace(declared.wishes[key], families=old.ip_families)
            service = replace(service, ip_families=old.ip_families)
        numbers = {(p.port, p.protocol): p.node_port for p in old.ports if p.node_port and p.node_port not in ports}
        if declared.wishes[key].node_ports:
            kept = tuple(replace(p, node_port=p.node_port or numbers.get((p.port, p.protocol))) for p in service.ports)
            service = replace(service, ports=kept)
        if service.external_traffic_policy == "Local" and service.type == old.type == "LoadBalancer":
            service = replace(service, health_check_node_port=service.health_check_node_port or old.health_check_node_port)
        declared.services[key] = service
