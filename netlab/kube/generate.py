"""Clusters of any size, made up: Nodes, Namespaces, Pods, Services with EndpointSlices and NetworkPolicies, one document a line.

    Wanted(pods, services, policies, nodes, shape, seed) --> the items of a List, Topology first

Law: a function of what is wanted and nothing else: the same numbers and seed give the same bytes. Everything is stated (nodes,
addresses, endpoints), so that nothing is left for netlab to play when it is read back. The realistic shape has the proportions of
a survey of production clusters, held by tests/test_generate.py; the uniform one has workloads that are all alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from random import Random
from typing import Any, TypeAlias

import msgspec

from netlab.errors import InputError, did_you_mean
from netlab.kube.topology import MODELLED

SHAPES = ("realistic", "uniform")
Doc: TypeAlias = dict[str, Any]

# The survey's cluster: 604 namespaces, 5,413 pods, 13,678 policies with 6,215 CIDR and 9,208 selector peers; a policy selects 6
# pods and a selector peer 2 in the median; 3 of 1,000 ports are ranges.
SURVEY_NAMESPACES, SURVEY_PODS, SURVEY_POLICIES, SURVEY_CIDRS, SURVEY_SELECTORS = 604, 5413, 13678, 6215, 9208
RANGES = 0.003
PODS_OF_A_SERVICE = 15  # Kubernetes' published limits: 150,000 pods, 10,000 services, 5,000 nodes
PODS_OF_A_NODE = 30
_BLOCK = 252  # pods that a node's /24 holds: without network, gateway, tunnel and broadcast address
_MOST_NODES = 32768  # /24s in POD_CIDR
POD_CIDR, SERVICE_CIDR, FABRIC = "10.128.0.0/9", "10.96.0.0/12", "172.16.0.0/12"
_SERVICES = 1 << 20
_ENDPOINTS = 100  # of an EndpointSlice (kube-controller-manager's --max-endpoints-per-slice)
_TIERS = ("front", "back", "data")
_PORTS = ((8080, "http"), (9090, "metrics"), (5432, "sql"), (6379, "cache"), (50051, "grpc"), (9092, "log"))
_OUTSIDE = ("0.0.0.0/0", "192.0.2.0/24", "198.51.100.0/25", "203.0.113.0/24", "100.64.0.0/10", "10.128.0.0/16")


class Wanted(msgspec.Struct, frozen=True):
    """How much of everything; None: in the survey's proportion to the pods."""

    pods: int
    services: int | None = None
    policies: int | None = None
    nodes: int | None = None
    shape: str = "realistic"
    seed: int = 0
    cni: str = "calico"


class _Group(msgspec.Struct):
    """The pods of one workload: their indexes, what they are called, and the ports they listen on."""

    namespace: str
    name: str
    tier: str
    pods: range
    ports: tuple[tuple[int, str], ...]


def generate(wanted: Wanted) -> Iterator[Doc]:
    """The documents of a cluster: a Topology, then everything that kubectl would print.

    Raises
    ------
    InputError
        A number that is not positive, more pods than addresses, a shape or CNI that does not exist; before the first document.
    """
    services = _count(wanted.services, max(1, wanted.pods // PODS_OF_A_SERVICE), "services", 0)
    share = SURVEY_POLICIES / SURVEY_PODS if wanted.shape == "realistic" else 0.6
    policies = _count(wanted.policies, max(1, round(wanted.pods * share)), "policies", 0)
    pods = _count(wanted.pods, 1, "pods", 1)
    nodes = _count(wanted.nodes, -(-pods // PODS_OF_A_NODE), "nodes", 1)
    if wanted.shape not in SHAPES:
        raise InputError(f'no shape "{wanted.shape}"', hint=did_you_mean(wanted.shape, SHAPES) or "realistic or uniform")
    if wanted.cni not in MODELLED:
        raise InputError(f'no CNI "{wanted.cni}"', hint=did_you_mean(wanted.cni, MODELLED) or f"one of {', '.join(MODELLED)}")
    if pods > _MOST_NODES * _BLOCK:
        raise InputError(f"{pods} pods are more than {POD_CIDR} has addresses ({_MOST_NODES} nodes, {_BLOCK} in each node's /24)")
    if nodes > _MOST_NODES:
        raise InputError(f"{nodes} nodes are more than {POD_CIDR} has blocks of /24 ({_MOST_NODES})")
    if pods > nodes * _BLOCK:
        hint = f"at least --nodes {-(-pods // _BLOCK)}"
        raise InputError(f"{pods} pods are more than {nodes} nodes have addresses ({_BLOCK} in each node's /24)", hint=hint)
    if services > _SERVICES - 16:
        raise InputError(f"{services} services are more than {SERVICE_CIDR} has addresses ({_SERVICES})")
    return _documents(wanted, pods, services, policies, nodes)


def _count(given: int | None, otherwise: int, what: str, least: int) -> int:
    number = otherwise if given is None else given
    if number < least:
        raise InputError(f"--{what} {number}: at least {least}")
    return number


def _documents(wanted: Wanted, pods: int, services: int, policies: int, nodes: int) -> Iterator[Doc]:
    random = Random(f"{wanted.shape} {wanted.seed}")
    yield _topology(wanted)
    yield from map(_node, range(nodes))
    found = (_realistic_groups if wanted.shape == "realistic" else _uniform_groups)(random, pods)
    for name in dict.fromkeys(group.namespace for group in found):
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": _namespace_labels(name)}}
    places = _places(random, pods, nodes)
    for group in found:
        for n, pod in enumerate(group.pods):
            yield _pod(group, n, *places[pod])
    for n in range(services):
        yield from _service(n, found[n % len(found)], n // len(found), places)
    draw = _Policies(random, found, wanted.shape == "realistic")
    for n in range(policies):
        yield draw.policy(n)


# --- nodes and pods ----------------------------------------------------------------------------------------------


def _topology(wanted: Wanted) -> Doc:
    cni: Doc = {"name": wanted.cni}
    if wanted.cni == "calico":
        cni["pools"] = [{"cidr": POD_CIDR, "blockSize": 24, "encapsulation": "VXLAN"}]
    return {
        "apiVersion": "netlab/v1",
        "kind": "Topology",
        "metadata": {"name": f"{wanted.shape}-{wanted.pods}-seed{wanted.seed}"},
        "fabric": {"prefixes": [FABRIC], "gateway": "172.16.0.1"},
        "podCIDR": POD_CIDR,
        "serviceCIDR": SERVICE_CIDR,
        "cni": cni,
        "kubeProxy": {"mode": "iptables"},
    }


def _node_name(n: int) -> str:
    return f"node-{n + 1}"


def _node_address(n: int) -> str:
    number = n + 10
    return f"172.{16 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def _node(n: int) -> Doc:
    block = f"10.{128 + (n >> 8)}.{n & 255}.0/24"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": _node_name(n), "labels": {"kubernetes.io/hostname": _node_name(n), "kubernetes.io/os": "linux"}},
        "spec": {"podCIDR": block, "podCIDRs": [block]},
        "status": {"addresses": [{"type": "InternalIP", "address": _node_address(n)}]},
    }


def _places(random: Random, pods: int, nodes: int) -> list[tuple[int, str]]:
    """Node and address of every pod: nodes are filled alike, workloads are spread over them."""
    order = [n % nodes for n in range(pods)]
    random.shuffle(order)
    next_free = [2] * nodes
    found = []
    for node in order:
        found.append((node, f"10.{128 + (node >> 8)}.{node & 255}.{next_free[node]}"))
        next_free[node] += 1
    return found


def _namespace_labels(name: str) -> dict[str, str]:
    return {"kubernetes.io/metadata.name": name, "team": f"team-{int(name.rpartition('-')[2]) % 40}"}


def _realistic_groups(random: Random, pods: int) -> list[_Group]:
    """Namespaces of very different sizes (log-normal), workloads of 1 to some ten replicas, one to three ports."""
    count = max(1, min(pods, round(pods * SURVEY_NAMESPACES / SURVEY_PODS)))
    weights = [random.lognormvariate(0, 0.8) for _ in range(count)]
    sizes = [1] * count
    for n in random.choices(range(count), weights, k=pods - count):
        sizes[n] += 1
    found: list[_Group] = []
    start = 0
    for n, size in enumerate(sizes):
        left, number = size, 0
        while left:
            replicas = min(left, 1 + int(random.expovariate(1 / 2.2)))
            ports = tuple(random.sample(_PORTS, random.choice((1, 1, 1, 2, 2, 3))))
            found.append(_Group(f"ns-{n}", f"app-{number}", random.choice(_TIERS), range(start, start + replicas), ports))
            start, left, number = start + replicas, left - replicas, number + 1
    return found


def _uniform_groups(random: Random, pods: int) -> list[_Group]:
    """Workloads of five replicas, ten of them in a namespace, all of which listen on 8080."""
    starts = range(0, pods, 5)
    return [
        _Group(f"ns-{n // 10}", f"app-{n % 10}", _TIERS[n % 3], range(start, min(start + 5, pods)), _PORTS[:1])
        for n, start in enumerate(starts)
    ]


def _labels(group: _Group) -> dict[str, str]:
    return {"app": group.name, "tier": group.tier, "app.kubernetes.io/part-of": group.namespace}


def _pod(group: _Group, n: int, node: int, address: str) -> Doc:
    ports = [{"containerPort": number, "name": name, "protocol": "TCP"} for number, name in group.ports]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{group.name}-{n}",
            "namespace": group.namespace,
            "labels": _labels(group),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": group.name, "controller": True}],
        },
        "spec": {"nodeName": _node_name(node), "containers": [{"name": "main", "ports": ports}]},
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def _service(n: int, group: _Group, again: int, places: Sequence[tuple[int, str]]) -> Iterator[Doc]:
    """A Service of a workload (a second one if all have one already), and its EndpointSlices."""
    number = n + 16
    address = f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
    name = group.name + (f"-{again}" if again else "")
    where = {"name": name, "namespace": group.namespace}
    many = len(group.ports) > 1
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": where,
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "selector": {"app": group.name},
            "ports": [
                {"port": port, "targetPort": port, "protocol": "TCP", **({"name": title} if many else {})}
                for port, title in group.ports
            ],
        },
    }
    for part in range(0, len(group.pods), _ENDPOINTS):
        endpoints = []
        for k, pod in enumerate(group.pods[part : part + _ENDPOINTS], part):
            node, own = places[pod]
            target = {"kind": "Pod", "name": f"{group.name}-{k}", "namespace": group.namespace}
            ready = {"ready": True, "serving": True, "terminating": False}
            endpoints.append({"addresses": [own], "conditions": ready, "nodeName": _node_name(node), "targetRef": target})
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**where, "name": f"{name}-{part // _ENDPOINTS}", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"port": port, "protocol": "TCP", "name": title if many else ""} for port, title in group.ports],
            "endpoints": endpoints,
        }


# --- policies ----------------------------------------------------------------------------------------------------


class _Policies:
    """Draws policies over the workloads: those of big namespaces have more."""

    def __init__(self, random: Random, groups: Sequence[_Group], realistic: bool) -> None:
        self.random = random
        self.groups = groups
        self.realistic = realistic
        self.own: dict[str, list[_Group]] = {}
        for group in groups:
            self.own.setdefault(group.namespace, []).append(group)
        self.namespaces = list(self.own)
        self.weights = list(accumulate(sum(len(g.pods) for g in own) for own in self.own.values()))

    def policy(self, n: int) -> Doc:
        random = self.random
        if self.realistic:
            namespace = random.choices(self.namespaces, cum_weights=self.weights)[0]
            selector = random.choices(({}, self._tier(), self._app(namespace)), (52, 22, 26))[0]
            directions = random.choices((("Ingress",), ("Egress",), ("Ingress", "Egress")), (70, 22, 8))[0]
        else:
            group = self.groups[n % len(self.groups)]
            namespace, selector = group.namespace, {"matchLabels": {"app": group.name}}
            directions = ("Ingress",) if n // len(self.groups) % 2 == 0 else ("Egress",)
        spec: Doc = {"podSelector": selector, "policyTypes": list(directions)}
        for direction in directions:
            spec[direction.lower()] = self._rules(namespace, "from" if direction == "Ingress" else "to", len(directions))
        name = {"name": f"policy-{n}", "namespace": namespace}
        return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": name, "spec": spec}

    def _app(self, namespace: str) -> Doc:
        return {"matchLabels": {"app": self.random.choice(self.own[namespace]).name}}

    def _tier(self) -> Doc:
        return {"matchLabels": {"tier": self.random.choice(_TIERS)}}

    def _rules(self, namespace: str, key: str, directions: int) -> list[Doc]:
        """Rules of one direction: about as many peers of each kind as the survey counted, in the mean."""
        random = self.random
        if not self.realistic:
            peers = [self._selector(namespace) for _ in range(2)]
            return [{key: peers, "ports": self._ports()}]
        selectors, cidrs = (number / SURVEY_POLICIES / directions for number in (SURVEY_SELECTORS, SURVEY_CIDRS))
        peers = [self._selector(namespace) for _ in range(self._some(selectors))]
        peers += [{"ipBlock": {"cidr": random.choice(_OUTSIDE)}} for _ in range(self._some(cidrs))]
        if not peers:
            return []  # the usual default-deny
        at = random.randint(1, len(peers))
        parts = [part for part in (peers[:at], peers[at:]) if part]
        return [{key: part, **({"ports": self._ports()} if random.random() < 0.7 else {})} for part in parts]

    def _some(self, mean: float) -> int:
        """0, 1, 2 ...: geometric, of a mean."""
        count = 0
        while self.random.random() < mean / (1 + mean):
            count += 1
        return count

    def _selector(self, namespace: str) -> Doc:
        random = self.random
        if random.random() < 0.6:
            return {"podSelector": self._app(namespace)}
        other = random.choice(self.namespaces)
        where = {"matchLabels": {"kubernetes.io/metadata.name": other}}
        if random.random() < 0.85:
            return {"namespaceSelector": where, "podSelector": self._app(other)}
        return {"namespaceSelector": where}

    def _ports(self) -> list[Doc]:
        random = self.random
        found: list[Doc] = []
        for number, name in random.sample(_PORTS, random.choice((1, 1, 2))):
            if random.random() < RANGES:
                found.append({"port": number, "endPort": number + 20, "protocol": "TCP"})
            else:
                found.append({"port": name if random.random() < 0.1 else number, "protocol": "TCP"})
        return found
