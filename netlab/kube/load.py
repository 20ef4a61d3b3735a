"""From files to a kube.Cluster: decode each object, apply the API server's defaults, let the controllers be played.

Law: lenient on what is not read, strict on what is: a wrong type, a bad address or a duplicate name is an InputError with
its place. Nothing is decided here: the network's settings come from topology.py, pods and endpoints that no file
states from workloads.py, and both say so under `assumptions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

import msgspec

from netlab.errors import InputError
from netlab.kube import objects as o
from netlab.kube import wire as w
from netlab.kube.calico import READERS as CALICO_READERS
from netlab.kube.calico import read_environment
from netlab.kube.cluster import Cluster
from netlab.kube.declared import Declared, Flannel, Legacy, Placement, ServiceWish, Template, Toleration, Workload
from netlab.kube.documents import At, Document, read_documents, text_documents
from netlab.kube.policies import PolicyObjects
from netlab.kube.policyload import POLICY_READERS, refuse_version
from netlab.kube.reading import begin as _begin
from netlab.kube.reading import selector as _selector
from netlab.kube.topology import Overrides, Setting, read_topology, settle
from netlab.kube.workloads import play
from netlab.linux.addr import Ip
from netlab.refs import Ref

NAME_LABEL = "kubernetes.io/metadata.name"
SERVICE_LABEL = "kubernetes.io/service-name"
ZONE_LABEL = "topology.kubernetes.io/zone"
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_FAMILIES = {"IPv4": 4, "IPv6": 6}


def load(paths: Sequence[str], stdin: TextIO | None = None, overrides: Overrides | None = None) -> Cluster:
    """Read manifests, kubectl output and Topology documents into one Cluster.

    Parameters
    ----------
    paths : sequence of str
        Files, directories (read recursively) and "-" for stdin.
    stdin : TextIO, optional
        What "-" reads.
    overrides : Overrides, optional
        What flags say; they win over every file.

    Returns
    -------
    Cluster
        Complete: every running pod has a node and an address, every service its endpoints.

    Raises
    ------
    InputError
        Anything wrong with the input, or nothing useful in it.
    """
    overrides = overrides or Overrides()
    return complete(collect(read_documents(paths, stdin), overrides.namespace or "default"), overrides, paths)


def load_pair(
    common: Sequence[str],
    before: Sequence[str] = (),
    after: Sequence[str] = (),
    changes: Sequence[str] = (),
    without: Sequence[str] = (),
    stdin: TextIO | None = None,
    overrides: Overrides | None = None,
) -> tuple[Cluster, Cluster]:
    """Two states of a cluster: `common` and `before`, against `common` and `after` with `changes` applied and `without` removed.

    What no file decides (a pod's node and address, a ClusterIP) is decided once and holds for both states.

    Parameters
    ----------
    common, before, after, changes : sequence of str
        Files, directories, "-" (once in all).
    without : sequence of str
        Objects, each `[NAMESPACE/]KIND/NAME`.
    stdin, overrides
        As for `load`.

    Raises
    ------
    InputError
        As `load`; a change that changes nothing because it holds no object, or that names an object that is not there.
    """
    from netlab.kube.overlay import apply, keep, remove

    overrides = overrides or Overrides()
    namespace = overrides.namespace or "default"
    if [*common, *before, *after, *changes].count("-") > 1:
        raise InputError('"-" is given twice', None, "stdin can be read once")
    shared = list(read_documents(common, stdin))
    one = collect([*shared, *read_documents(before, stdin)], namespace)
    other = collect([*shared, *read_documents(after, stdin)], namespace)
    first = complete(one, overrides, (*common, *before))
    if changes:
        change = collect(read_documents(changes, stdin), namespace)
        if change.is_empty():
            raise InputError("nothing in the change that netlab can use", Ref(file=changes[0]) if len(changes) == 1 else None)
        apply(other, change)
    remove(other, without, namespace)
    return first, complete(other, overrides, (*common, *after), lambda setting: keep(other, setting, first, one))


def load_changed(
    documents: Sequence[Document],
    paths: Sequence[str],
    change: str = "",
    without: Sequence[str] = (),
    overrides: Overrides | None = None,
) -> Cluster:
    """What files said, with an edit applied to it (YAML or JSON of objects) and objects removed: what `netlab serve` asks again
    and again.

    Parameters
    ----------
    documents : sequence of Document
        From `read_documents(paths)`, read once.
    paths : sequence of str
        For what is said of the input as a whole.
    change : str
        Objects as text; places in it are told as those of file "edit".
    without : sequence of str
        Objects, each `[NAMESPACE/]KIND/NAME`.

    Raises
    ------
    InputError
        As `load_pair`.
    """
    overrides = overrides or Overrides()
    namespace = overrides.namespace or "default"
    base = collect(documents, namespace)
    first = complete(base, overrides, paths)
    if not change.strip() and not without:
        return first
    from netlab.kube.overlay import apply, keep, remove

    other = collect(documents, namespace)
    if change.strip():
        edit = collect(text_documents(change, "edit"), namespace)
        if edit.is_empty():
            raise InputError("nothing in the edit that netlab can use", Ref(file="edit"))
        apply(other, edit)
    remove(other, without, namespace)
    return complete(other, overrides, paths, lambda setting: keep(other, setting, first, base))


def complete(
    declared: Declared,
    overrides: Overrides,
    paths: Sequence[str],
    hold: Callable[[Setting], Setting] = lambda setting: setting,
) -> Cluster:
    """From what the files say to a cluster in which every open question is decided; `hold` may decide some of them first."""
    if not (declared.nodes or declared.pods or declared.services or declared.workloads or declared.topology):
        seen = _passed_over(declared)
        raise InputError(
            f"nothing in the input that netlab can use{f' ({seen})' if seen else ''}",
            Ref(file=paths[0]) if len(paths) == 1 else None,
            "policies need a cluster beside them: -f CLUSTER (and --with POLICIES for netlab diff)"
            if declared.policies or declared.calico_policies or declared.cluster_policies
            else "expected Nodes, Pods, Services ...: kubectl get nodes,ns,pods,svc,endpointslices -A -o json",
        )
    setting = hold(settle(declared, overrides))
    played = play(declared, setting)
    _check_distinct(played.pods.values(), played.services.values())
    assumptions = [*setting.assumptions, *played.assumptions]
    namespaces = dict(declared.namespaces)
    implied = sorted(
        {
            obj.namespace
            for group in (played.pods, played.services, declared.policies, declared.calico_policies)
            for obj in group.values()
            if obj.namespace
        }
        - namespaces.keys()
    )
    for name in implied:
        namespaces[name] = o.Namespace(name=name, labels={NAME_LABEL: name})
    if implied and (declared.policies or declared.calico_policies or declared.cluster_policies):
        names = ", ".join(implied)
        assumptions.append(f"namespaces without a Namespace object carry no label but {NAME_LABEL}: {names}")
    notes = list(declared.notes)
    if seen := _passed_over(declared):
        notes.insert(0, seen)
    return Cluster(
        nodes=setting.nodes,
        namespaces=namespaces,
        pods=played.pods,
        services=played.services,
        slices=played.slices,
        policies=declared.policies,
        policy_objects=PolicyObjects(
            declared.calico_policies,
            declared.tiers,
            declared.network_sets,
            declared.host_endpoints,
            declared.profiles,
            declared.service_accounts,
            declared.cluster_policies,
        ),
        workloads=played.workloads,
        fabric=setting.fabric,
        cni=setting.cni,
        calico=played.calico,
        proxy=setting.proxy,
        pod_cidrs=setting.pod_cidrs,
        service_cidrs=setting.service_cidrs,
        sysctls=setting.sysctls,
        assumptions=tuple(assumptions),
        notes=tuple(notes),
        controllers={key: _controller(workload) for key, workload in declared.workloads.items()},
    )


def _controller(workload: Workload) -> o.Controller:
    template = workload.template
    return o.Controller(
        name=workload.name,
        namespace=workload.namespace,
        labels=workload.labels,
        ref=workload.ref,
        kind=workload.kind,
        selector=workload.selector,
        replicas=workload.replicas,
        pod_labels=template.labels,
        pod_ports=template.ports,
        host_network=template.host_network,
    )


def _check_distinct(pods: Iterable[o.Pod], services: Iterable[o.Service]) -> None:
    """What the API server or the CNI plug-in never gives twice: a pod's address, a ClusterIP, a NodePort.

    A pod that is going may have lost its address to another one already.
    """
    owners: dict[Ip | tuple[int, str], o.Pod | o.Service] = {}

    def claim(what: Ip | tuple[int, str], owner: o.Pod | o.Service, words: str) -> None:
        first = owners.setdefault(what, owner)
        if first is not owner:
            kind = "pod" if isinstance(owner, o.Pod) else "service"
            hint = f"it is in {first.ref}" if first.ref else None
            raise InputError(f"{kind} {owner.key} has the same {words} as {first.key}", owner.ref, hint)

    for pod in pods:
        if not pod.host_network and not pod.terminating:
            for a in pod.ips:
                claim(a, pod, f"address {a}")
    for service in services:
        for a in service.cluster_ips:
            claim(a, service, f"ClusterIP {a}")
        for port in service.ports:
            if port.node_port:
                claim((port.node_port, port.protocol), service, f"NodePort {port.node_port}/{port.protocol}")


def _passed_over(declared: Declared) -> str:
    """`passed over: 3 ConfigMap, 2 Secret`."""
    counts = sorted(declared.passed_over.items())
    return "passed over: " + ", ".join(f"{n} {kind}" for kind, n in counts) if counts else ""


def collect(documents: Iterable[Document], namespace: str = "default") -> Declared:
    """Convert documents into objects; `namespace` is that of namespaced objects that name none."""
    declared = Declared()
    for document in documents:
        policy = POLICY_READERS.get((document.kind, document.api_version))
        if policy is not None:
            policy(declared, document, namespace)
            continue
        of_calico = CALICO_READERS.get(document.kind)
        if of_calico is not None and document.api_version in of_calico[0]:
            of_calico[1](declared, document, namespace)
            continue
        read = _READERS.get(document.kind)
        if read is None or read[0] != document.api_version:
            _pass_over(declared, document)
            continue
        read[1](declared, document, namespace)
    return declared


def _pass_over(declared: Declared, document: Document) -> None:
    """Count a kind that netlab does not read; a version of a kind that it would read is named in full."""
    if document.kind and not document.api_version:
        raise InputError("apiVersion is missing", document.ref(document.title()))
    if document.kind == "Topology" and document.api_version.startswith("netlab"):
        raise InputError(
            f'unknown apiVersion "{document.api_version}"', document.ref(document.title()), 'did you mean "netlab/v1"?'
        )
    refuse_version(document)
    name = document.kind or "document without a kind"
    known = name in _READERS or any(name == kind for kind, _ in POLICY_READERS)
    declared.passed_over[f"{name} ({document.api_version})" if known else name] += 1


# --- small readers -------------------------------------------------------------------------------------------


def _is_ready(conditions: list[w.Condition] | None) -> bool:
    """The Ready condition; without any conditions (a hand-written status) true."""
    if conditions is None:
        return True
    return any(c.type == "Ready" and c.status == "True" for c in conditions)


# --- nodes, namespaces ---------------------------------------------------------------------------------------


def _node(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(w.Node)
    at, common = _begin(document, body, None, declared.nodes)
    spec, status = body.spec or w.NodeSpec(), body.status or w.NodeStatus()
    cidrs = spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])
    internal: list[Ip] = []
    external: list[Ip] = []
    for i, address in enumerate(status.addresses or ()):
        if address.type in ("InternalIP", "ExternalIP"):
            found = at.ip(address.address, f"status.addresses[{i}].address")
            (internal if address.type == "InternalIP" else external).append(found)
    declared.nodes[common["name"]] = o.Node(
        **common,
        pod_cidrs=tuple(at.prefix(c, f"spec.podCIDRs[{i}]") for i, c in enumerate(cidrs)),
        internal_ips=tuple(internal),
        external_ips=tuple(external),
        ready=_is_ready(status.conditions),
        unschedulable=bool(spec.unschedulable),
        taints=tuple((t.key, t.value or "", t.effect) for t in spec.taints or ()),
        version=(status.node_info.kubelet_version or "") if status.node_info else "",
    )


def _namespace(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(w.Any_)
    _, common = _begin(document, body, None, declared.namespaces)
    # the API server sets this label on every namespace, whatever the manifest says
    common["labels"] = {**common["labels"], NAME_LABEL: common["name"]}
    declared.namespaces[common["name"]] = o.Namespace(**common)


# --- pods and workloads --------------------------------------------------------------------------------------


def _ports(spec: w.PodSpec, at: At, path: str) -> tuple[o.ContainerPort, ...]:
    """Declared ports of the containers that run: plain init containers have ended, sidecars (restartPolicy Always) run."""
    ports = []
    for field, containers in (("initContainers", spec.init_containers), ("containers", spec.containers)):
        for i, container in enumerate(containers or ()):
            if not container.ports or (field == "initContainers" and container.restart_policy != "Always"):
                continue
            for j, p in enumerate(container.ports):
                protocol = p.protocol or "TCP"
                if protocol not in _PROTOCOLS:
                    at.one_of(protocol, _PROTOCOLS, f"{path}.{field}[{i}].ports[{j}].protocol")
                sidecar = field == "initContainers"
                ports.append(
                    o.ContainerPort(p.container_port, protocol, p.name or "", p.host_port or None, p.host_ip or None, sidecar)
                )
    return tuple(ports)


def _placement(spec: w.PodSpec) -> Placement:
    tolerations = (Toleration(t.key or "", t.operator or "Equal", t.value or "", t.effect or "") for t in spec.tolerations or ())
    return Placement(spec.node_name or "", spec.node_selector or {}, tuple(tolerations))


def _pod(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(w.Pod)
    at, common = _begin(document, body, namespace, declared.pods)
    spec, status = body.spec or w.PodSpec(), body.status or w.PodStatus()
    meta = body.metadata or w.Meta()
    phase = status.phase or "Running"
    texts = [i.ip for i in status.pod_ips or () if i.ip] or ([status.pod_ip] if status.pod_ip else [])
    # kubectl goes on to show the address of a pod that has ended, but another pod may have it by now
    ips = () if phase in ("Succeeded", "Failed") else tuple([at.ip(t, f"status.podIPs[{i}].ip") for i, t in enumerate(texts)])
    owners = meta.owner_references or ()
    owner = next((r for r in owners if r.controller), owners[0] if owners else None)
    pod = o.Pod(
        **common,
        node_name=spec.node_name or "",
        host_network=bool(spec.host_network),
        phase=phase,
        ips=ips,
        ports=_ports(spec, at, "spec"),
        ready=phase == "Running" and _is_ready(status.conditions),
        terminating=meta.deletion_timestamp is not None,
        owner=f"{owner.kind} {owner.name}" if owner else "",
        service_account=spec.service_account_name or "default",
    )
    key = pod.key
    declared.pods[key] = pod
    if owner:
        declared.owners[key] = (owner.kind, owner.name)
    if status.phase is None and not ips:
        declared.fresh[key] = _placement(spec)
    if status.host_ip and spec.node_name and spec.node_name not in declared.host_ips:
        declared.host_ips[spec.node_name] = at.ip(status.host_ip, "status.hostIP")


def _workload(declared: Declared, document: Document, namespace: str) -> None:
    kind = document.kind
    body = document.decode(w.Workload)
    at, common = _begin(document, body, namespace, declared.workloads, kind)
    spec = body.spec or w.WorkloadSpec()
    template = spec.template or w.PodTemplate()
    pod_spec, meta = template.spec or w.PodSpec(), template.metadata or w.Meta()
    owners = (body.metadata or w.Meta()).owner_references or ()
    owner = next((r for r in owners if r.controller), None)
    count = spec.parallelism if kind == "Job" else spec.replicas
    workload = Workload(
        **common,
        kind=kind,
        replicas=1 if count is None else count,
        selector=None if spec.selector is None else _selector(spec.selector, at, "spec.selector"),
        template=Template(
            labels=meta.labels or {},
            host_network=bool(pod_spec.host_network),
            ports=_ports(pod_spec, at, "spec.template.spec"),
            placement=_placement(pod_spec),
            service_account=pod_spec.service_account_name or "default",
        ),
        owner=f"{owner.kind} {owner.name}" if owner else "",
        reported=bool(body.status),
    )
    declared.workloads[f"{workload.namespace}/{kind}/{workload.name}"] = workload
    if kind == "DaemonSet" and workload.name in ("calico-node", "canal"):
        declared.calico.environment.update(read_environment(document))


def _cron_job(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(w.Any_)
    _, common = _begin(document, body, namespace, declared.workloads, "CronJob")
    workload = Workload(**common, kind="CronJob", replicas=0)
    declared.workloads[f"{workload.namespace}/CronJob/{workload.name}"] = workload


# --- services and endpoints ----------------------------------------------------------------------------------


def _service(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(w.Service)
    at, common = _begin(document, body, namespace, declared.services)
    spec, status = body.spec or w.ServiceSpec(), body.status or w.ServiceStatus()
    kind = at.one_of(spec.type or "ClusterIP", ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"), "spec.type")
    texts = list(spec.cluster_ips or ())
    if spec.cluster_ip and not texts:
        texts = [spec.cluster_ip]
    headless = "None" in texts
    exposed = kind in ("NodePort", "LoadBalancer")
    cluster_ips: tuple[Ip, ...] = ()
    if not headless and kind != "ExternalName":
        cluster_ips = tuple(at.ip(t, f"spec.clusterIPs[{i}]") for i, t in enumerate(texts) if t)
    families = tuple(
        _FAMILIES[at.one_of(f, _FAMILIES, f"spec.ipFamilies[{i}]")] for i, f in enumerate(spec.ip_families or ())
    ) or tuple(a.family for a in cluster_ips)
    config = (spec.session_affinity_config or w.SessionAffinityConfig()).client_ip or w.ClientIPConfig()
    ingress = (status.load_balancer or w.LoadBalancerStatus()).ingress or ()
    service = o.Service(
        **common,
        type=kind,
        cluster_ips=cluster_ips,
        headless=headless,
        ip_families=families or (4,),
        ports=_service_ports(spec, at, exposed),
        selector=spec.selector or {},
        external_ips=tuple(at.ip(t, f"spec.externalIPs[{i}]") for i, t in enumerate(spec.external_ips or ())),
        load_balancer=tuple(
            o.LoadBalancerIngress(
                at.ip(e.ip, f"status.loadBalancer.ingress[{i}].ip") if e.ip else None, e.hostname or "", e.ip_mode or "VIP"
            )
            for i, e in enumerate(ingress)
        ),
        load_balancer_source_ranges=tuple(
            at.prefix(t, f"spec.loadBalancerSourceRanges[{i}]") for i, t in enumerate(spec.load_balancer_source_ranges or ())
        ),
        external_traffic_policy=at.one_of(
            spec.external_traffic_policy or "Cluster", ("Cluster", "Local"), "spec.externalTrafficPolicy"
        ),
        internal_traffic_policy=at.one_of(
            spec.internal_traffic_policy or "Cluster", ("Cluster", "Local"), "spec.internalTrafficPolicy"
        ),
        session_affinity=at.one_of(spec.session_affinity or "None", ("None", "ClientIP"), "spec.sessionAffinity"),
        session_affinity_timeout=config.timeout_seconds or 10800,
        health_check_node_port=spec.health_check_node_port or None,
        external_name=spec.external_name or "",
        publish_not_ready_addresses=bool(spec.publish_not_ready_addresses),
    )
    key = service.key
    declared.services[key] = service
    declared.wishes[key] = ServiceWish(
        families=families,
        dual_stack=spec.ip_family_policy in ("PreferDualStack", "RequireDualStack"),
        node_ports=exposed and (kind == "NodePort" or spec.allocate_load_balancer_node_ports is not False),
        # a headless service is "None" in a manifest too: what only the API server writes is clusterIPs
        stored=bool(cluster_ips) or spec.cluster_ips is not None or kind == "ExternalName",
    )


def _service_ports(spec: w.ServiceSpec, at: At, exposed: bool) -> tuple[o.ServicePort, ...]:
    """Ports with their defaults (pkg/apis/core/v1/defaults.go: protocol TCP, targetPort = port)."""
    ports = []
    names: set[str] = set()
    for i, p in enumerate(spec.ports or ()):
        name = p.name or ""
        if name in names:
            what = f'two ports are named "{name}"' if name else "a service with several ports must name each of them"
            raise at.error(what, f"spec.ports[{i}].name")
        names.add(name)
        target: int | str = p.target_port or p.port
        if isinstance(target, str) and target.isdigit():
            # IntOrString: text is a port's name, and a name has a letter (IANA_SVC_NAME)
            raise at.error(
                f'"{target}" in quotes is the name of a port', f"spec.ports[{i}].targetPort", f"write it without quotes: {target}"
            )
        protocol = p.protocol or "TCP"
        if protocol not in _PROTOCOLS:
            at.one_of(protocol, _PROTOCOLS, f"spec.ports[{i}].protocol")
        ports.append(o.ServicePort(p.port, protocol, name, target, (p.node_port or None) if exposed else None))
    return tuple(ports)


def _target_pod(target: w.ObjectReference | None, namespace: str) -> str | None:
    if target is None or target.kind != "Pod" or not target.name:
        return None
    return f"{target.namespace or namespace}/{target.name}"


def _endpoint_slice(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(w.EndpointSlice)
    at, common = _begin(document, body, namespace, declared.slices)
    service = common["labels"].get(SERVICE_LABEL)
    family = _FAMILIES.get(body.address_type or "")
    if not service:
        declared.passed_over["EndpointSlice of no service"] += 1
        return
    if family is None:
        at.one_of(body.address_type or "", (*_FAMILIES, "FQDN"), "addressType")
        declared.passed_over["EndpointSlice of FQDNs"] += 1
        return
    endpoints = []
    for i, e in enumerate(body.endpoints or ()):
        texts = e.addresses or ()
        addresses = tuple([at.ip(t, f"endpoints[{i}].addresses[{j}]") for j, t in enumerate(texts)])
        if any(a.family != family for a in addresses):
            raise at.error(f"an address that is not {body.address_type}", f"endpoints[{i}].addresses")
        c = e.conditions or w.EndpointConditions()
        endpoints.append(
            o.Endpoint(
                addresses=addresses,
                # pkg/proxy/endpointslicecache.go newEndpointSliceInfo: absent ready and serving are true, terminating false
                ready=c.ready is not False,
                serving=c.serving is not False,
                terminating=bool(c.terminating),
                node_name=e.node_name,
                zone=e.zone,
                hints_for_zones=tuple(z.name for z in (e.hints.for_zones if e.hints else None) or ()),
                target_pod=_target_pod(e.target_ref, common["namespace"]),
                texts=tuple(texts),
            )
        )
    ports = tuple(_endpoint_port(p, at, f"ports[{i}]") for i, p in enumerate(body.ports or ()))
    found = o.EndpointSlice(**common, service=service, family=family, endpoints=tuple(endpoints), ports=ports)
    declared.slices[found.key] = found


def _endpoint_port(p: w.EndpointPort, at: At, path: str) -> o.EndpointPort:
    protocol = p.protocol or "TCP"
    if protocol not in _PROTOCOLS:
        at.one_of(protocol, _PROTOCOLS, f"{path}.protocol")
    return o.EndpointPort(p.port or None, protocol, p.name or "")


def _endpoints(declared: Declared, document: Document, namespace: str) -> None:
    """Legacy Endpoints as slices, one per subset and family, as the mirroring controller makes them."""
    body = document.decode(w.Endpoints)
    at, common = _begin(document, body, namespace, declared.endpoints)
    slices = []
    for i, subset in enumerate(body.subsets or ()):
        by_family: dict[int, list[o.Endpoint]] = {}
        for field, addresses, ready in (
            ("addresses", subset.addresses, True),
            ("notReadyAddresses", subset.not_ready_addresses, False),
        ):
            for j, a in enumerate(addresses or ()):
                found = at.ip(a.ip, f"subsets[{i}].{field}[{j}].ip")
                pod = _target_pod(a.target_ref, common["namespace"])
                endpoint = o.Endpoint((found,), ready, ready, node_name=a.node_name, target_pod=pod, texts=(a.ip,))
                by_family.setdefault(found.family, []).append(endpoint)
        ports = tuple(_endpoint_port(p, at, f"subsets[{i}].ports[{j}]") for j, p in enumerate(subset.ports or ()))
        slices += [
            o.EndpointSlice(**common, service=common["name"], family=family, endpoints=tuple(members), ports=ports)
            for family, members in sorted(by_family.items())
        ]
    declared.endpoints[f"{common['namespace']}/{common['name']}"] = Legacy(tuple(slices), at.ref)


# --- what configures the data plane --------------------------------------------------------------------------


def _config_map(declared: Declared, document: Document, namespace: str) -> None:
    """The ConfigMaps of kube-proxy, flannel, Canal and Calico; any other is passed over."""
    body = document.decode(w.ConfigMap)
    meta = body.metadata or w.Meta()
    where = (meta.namespace, meta.name)
    at = At(document, f"ConfigMap {meta.namespace}/{meta.name}")
    data = body.data or {}
    if where == ("kube-system", "kube-proxy") and "config.conf" in data:
        if declared.kube_proxy is not None:
            raise InputError("the same object twice", at.ref, f"it stands first in {declared.kube_proxy_ref}")
        declared.kube_proxy = _embedded(data["config.conf"], w.KubeProxyConfiguration, at, "data[config.conf]")
        declared.kube_proxy_ref = at.ref
    elif where == ("kube-system", "calico-config") and "calico_backend" in data:
        declared.calico.backend = data["calico_backend"]
    elif meta.name in ("kube-flannel-cfg", "canal-config") and "net-conf.json" in data:
        if declared.flannel is not None:
            raise InputError(f"a second {meta.name}", at.ref, f"the first stands in {declared.flannel.ref}")
        declared.flannel = _flannel(data, at)
    else:
        declared.passed_over["ConfigMap"] += 1


def _embedded(text: str, type: type[w.Wire], at: At, path: str) -> Any:
    """Decode a configuration file that stands inside a ConfigMap."""
    from netlab.kube import yamltext

    try:
        found = next(iter(yamltext.read(text.encode(), "-")), None)
        return msgspec.convert(found.value if found else {}, type)
    except InputError as error:
        raise at.error(error.what, path, error.hint) from None
    except msgspec.ValidationError as error:
        raise at.error(str(error).replace("`", ""), path) from None


def _flannel(data: dict[str, str], at: At) -> Flannel:
    try:
        network = msgspec.json.decode(data["net-conf.json"], type=w.FlannelNetwork)
    except msgspec.DecodeError as error:
        raise at.error(str(error).replace("`", ""), "data[net-conf.json]") from None
    hairpin = None
    if "cni-conf.json" in data:
        try:
            plugins = msgspec.json.decode(data["cni-conf.json"], type=w.CniConfiguration).plugins or ()
        except msgspec.DecodeError as error:
            raise at.error(str(error).replace("`", ""), "data[cni-conf.json]") from None
        hairpin = next((p.delegate.hairpin_mode for p in plugins if p.type == "flannel" and p.delegate), None)
    networks = []
    if network.enable_ipv4 and network.network:
        networks.append(str(at.prefix(network.network, "data[net-conf.json].Network")))
    if network.enable_ipv6 and network.ipv6_network:
        networks.append(str(at.prefix(network.ipv6_network, "data[net-conf.json].IPv6Network")))
    backend = network.backend or w.FlannelBackend()
    direct = backend.direct_routing
    return Flannel(tuple(networks), backend.type, backend.vni, backend.port or 8472, hairpin, at.ref, direct)


def _topology(declared: Declared, document: Document, namespace: str) -> None:
    topology = read_topology(document)
    if declared.topology is not None:
        raise InputError("a second Topology", topology.ref, f"the first stands in {declared.topology.ref}")
    declared.topology = topology


_READERS: dict[str, tuple[str, Callable[[Declared, Document, str], None]]] = {
    "Node": ("v1", _node),
    "Namespace": ("v1", _namespace),
    "Pod": ("v1", _pod),
    "Service": ("v1", _service),
    "Endpoints": ("v1", _endpoints),
    "ConfigMap": ("v1", _config_map),
    "EndpointSlice": ("discovery.k8s.io/v1", _endpoint_slice),
    "Deployment": ("apps/v1", _workload),
    "ReplicaSet": ("apps/v1", _workload),
    "StatefulSet": ("apps/v1", _workload),
    "DaemonSet": ("apps/v1", _workload),
    "Job": ("batch/v1", _workload),
    "CronJob": ("batch/v1", _cron_job),
    "Topology": ("netlab/v1", _topology),
}
