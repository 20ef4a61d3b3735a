"""Lint: what is legal and most likely not meant, each with the line that says it and a way out.

Law: a finding is a fact about the input, not a guess about intent: it says what follows from what is written ("selects no pod").
Every check is one function; findings are sorted by place, so that output does not depend on the order of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from netlab.dataplane.policy.index import PolicyIndex
from netlab.dataplane.proxy.modes import UPSTREAM
from netlab.errors import did_you_mean
from netlab.kube.cluster import Cluster
from netlab.kube.objects import Pod, Service, ServicePort
from netlab.kube.selectors import labels_match
from netlab.reach import lint_policies as policies
from netlab.reach.finding import Finding, Severity
from netlab.refs import Ref
from netlab.trace.policysteps import dialect_of


def lint(cluster: Cluster, ignore: frozenset[str] = frozenset()) -> list[Finding]:
    """All findings but those of ignored checks, by file and line."""
    index = PolicyIndex(cluster, dialect_of(cluster.cni.name))
    found = [f for name, check in SERVICES.items() if name not in ignore for f in check(cluster)]
    found += [f for name, check in POLICIES.items() if name not in ignore for f in check(index)]
    return sorted(found, key=lambda f: (f.ref.file or "", f.ref.line or 0, f.object, f.check, f.what))


# -- services ----------------------------------------------------------------------------------------------------------


def _selected(cluster: Cluster, service: Service) -> list[Pod]:
    pods = cluster.pods.values()
    return [p for p in pods if p.namespace == service.namespace and labels_match(service.selector, p.labels)]


def _with_selector(cluster: Cluster) -> Iterator[tuple[Service, list[Pod]]]:
    for service in cluster.services.values():
        if service.selector and service.type != "ExternalName":
            yield service, _selected(cluster, service)


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _nearest(wanted: Mapping[str, str], pods: list[Pod]) -> str:
    """The pod that has most of the labels, or one that is spelled much like it, in words; "" where none comes near."""
    best, most = None, 0
    for pod in sorted(pods, key=lambda p: p.key):
        same = sum(pod.labels.get(key) == value for key, value in wanted.items())
        alike = sum(bool(did_you_mean(pod.labels.get(key, ""), [value])) for key, value in wanted.items())
        if same + alike > most:
            best, most = pod, same + alike
    return f"nearest: pod {best.key} has {_labels({k: v for k, v in best.labels.items() if k in wanted})}" if best else ""


def service_selects_no_pod(cluster: Cluster) -> Iterator[Finding]:
    """A selector that no pod of the namespace meets: connections to the service are refused."""
    for service, pods in _with_selector(cluster):
        if pods:
            continue
        near = _nearest(service.selector, [p for p in cluster.pods.values() if p.namespace == service.namespace])
        yield Finding(
            "service-selects-no-pod",
            Severity.WARNING,
            f"no pod in {service.namespace} has {_labels(service.selector)}: the service has no endpoints"
            + (f" ({near})" if near else ""),
            "correct the selector or the pods' labels",
            f"Service {service.key}",
            service.ref,
        )


def service_without_endpoints(cluster: Cluster) -> Iterator[Finding]:
    """Pods are selected, or none need be, but no ready endpoint is there."""
    for service in cluster.services.values():
        if service.type == "ExternalName" or (service.selector and not _selected(cluster, service)):
            continue
        slices = cluster.slices.get(service.key, ())
        endpoints = [e for part in slices for e in part.endpoints]
        if any(e.ready for e in endpoints):
            continue
        if not endpoints:
            why = "has no endpoints" if service.selector else "has no selector, and nobody made an EndpointSlice for it"
        elif any(e.serving for e in endpoints):
            why = f"has {len(endpoints)} endpoints, all of them terminating"
        else:
            why = f"has {len(endpoints)} endpoints, none of them ready"
        yield Finding(
            "service-without-endpoints",
            Severity.WARNING,
            f"{why}: connections to it are refused",
            "see why its pods are not ready: kubectl describe pod" if service.selector else "add an EndpointSlice or a selector",
            f"Service {service.key}",
            service.ref,
        )


def target_port_undeclared(cluster: Cluster) -> Iterator[Finding]:
    """A targetPort that none of the selected pods declares; by name that means no endpoint, by number most likely no socket."""
    for service, pods in _with_selector(cluster):
        for port in service.ports if pods else ():
            declared = [c for pod in pods for c in pod.ports if c.protocol == port.protocol]
            if isinstance(port.target_port, str):
                if any(c.name == port.target_port for c in declared):
                    continue
                names = sorted({c.name for c in declared if c.name})
                what = f'port {_named(port)}: no container port of its pods is called "{port.target_port}"'
                fix = f"they have {', '.join(names)}" if names else "name the container port, or give the number"
                yield Finding("target-port-undeclared", Severity.ERROR, what, fix, f"Service {service.key}", service.ref)
            elif declared and all(c.container_port != port.target_port for c in declared):
                numbers = sorted({c.container_port for c in declared})
                what = f"port {_named(port)}: targetPort {port.target_port} is declared by none of its pods"
                fix = f"they declare {', '.join(map(str, numbers))}"
                yield Finding("target-port-undeclared", Severity.WARNING, what, fix, f"Service {service.key}", service.ref)


def _named(port: ServicePort) -> str:
    return f"{port.port}/{port.protocol}" + (f" ({port.name})" if port.name else "")


def local_policy_without_local_endpoints(cluster: Cluster) -> Iterator[Finding]:
    """externalTrafficPolicy Local drops what arrives at a node without endpoints; internalTrafficPolicy Local likewise."""
    for service in cluster.services.values():
        external = service.external_traffic_policy == "Local" and service.type in ("NodePort", "LoadBalancer")
        internal = service.internal_traffic_policy == "Local"
        if not (external or internal):
            continue
        slices = cluster.slices.get(service.key, ())
        homes = {e.node_name for part in slices for e in part.endpoints if e.ready}
        without = [name for name in cluster.nodes if name not in homes]
        if not homes or not without:
            continue
        policy = "externalTrafficPolicy" if external else "internalTrafficPolicy"
        shown = ", ".join(without[:4]) + (f" and {len(without) - 4} more" if len(without) > 4 else "")
        checked = external and bool(service.health_check_node_port)
        yield Finding(
            "local-policy-without-local-endpoints",
            Severity.NOTE if checked else Severity.WARNING,
            f"{policy} Local, and no endpoint on {shown}: what enters there is dropped"
            + (f" (load balancers that ask healthCheckNodePort {service.health_check_node_port} keep away)" if checked else ""),
            "run a pod on every node that gets traffic (a DaemonSet), or use policy Cluster",
            f"Service {service.key}",
            service.ref,
        )


def proxy_mode_and_release(cluster: Cluster) -> Iterator[Finding]:
    """kube-proxy's mode in a release that does not have it yet, or has no more, or will not for long."""
    mode = cluster.proxy.mode
    releases = [node.release for node in cluster.nodes.values() if node.release is not None]
    oldest, newest = (min(releases), max(releases)) if releases else ((0, 0), (0, 0))
    found: tuple[Severity, str, str] | None = None
    match mode:
        case "userspace" if newest >= (1, 26):
            what = f"v{newest[0]}.{newest[1]} has no userspace mode: {UPSTREAM[mode]}"
            found = Severity.ERROR, what, "use iptables or nftables"
        case "userspace":
            found = Severity.NOTE, f"userspace mode: {UPSTREAM[mode]}", "use iptables or nftables"
        case "ipvs" if newest >= (1, 35):
            found = Severity.WARNING, f"IPVS mode is {UPSTREAM[mode]}", "move to nftables"
        case "ipvs":
            found = Severity.NOTE, f"IPVS mode is {UPSTREAM[mode]}", "move to nftables, stable since v1.33"
        case "nftables" if releases and oldest < (1, 29):
            what = f"v{oldest[0]}.{oldest[1]} has no nftables mode: it is alpha in v1.29, stable since v1.33 (KEP-3866)"
            found = Severity.ERROR, what, "use iptables"
        case "nftables" if releases and oldest < (1, 33):
            stage = "alpha, behind the gate NFTablesProxyMode" if oldest < (1, 31) else "beta"
            what = f"nftables mode is {stage} in v{oldest[0]}.{oldest[1]}; it is stable since v1.33 (KEP-3866)"
            found = Severity.NOTE, what, "take v1.33 or later where it matters"
    if found is not None:
        yield Finding("proxy-mode-and-release", *found, "kube-proxy", cluster.proxy.ref or Ref())


SERVICES: dict[str, Callable[[Cluster], Iterator[Finding]]] = {
    "service-selects-no-pod": service_selects_no_pod,
    "service-without-endpoints": service_without_endpoints,
    "target-port-undeclared": target_port_undeclared,
    "local-policy-without-local-endpoints": local_policy_without_local_endpoints,
    "proxy-mode-and-release": proxy_mode_and_release,
}
POLICIES: dict[str, Callable[[PolicyIndex], Iterator[Finding]]] = {
    "policy-selects-no-pod": policies.policy_selects_no_pod,
    "peer-selects-nobody": policies.peer_selects_nobody,
    "rule-adds-nothing": policies.rule_adds_nothing,
    "rule-never-reached": policies.rule_never_reached,
    "policies-tie": policies.policies_tie,
    "tier-is-missing": policies.tier_is_missing,
    "named-port-unmatched": policies.named_port_unmatched,
    "service-port-in-policy": policies.service_port_instead_of_target_port,
    "cluster-ip-in-ip-block": policies.cluster_ip_in_ip_block,
    "dns-cut-off": policies.dns_cut_off,
    "policy-types-contradict": policies.policy_types_contradict,
    "no-policy-engine": policies.no_policy_engine,
}
CHECKS: dict[str, Callable[..., Iterator[Finding]]] = {**SERVICES, **POLICIES}
