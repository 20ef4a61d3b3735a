"""Random clusters and random flows through them, stood up and compared with what Linux does, one small lab after another.

    seed -> documents (as kubectl prints them) -> kube.load -> Cluster -> requests -> predicted and sent -> RandomReport

Law: a seed names one cluster and its flows for ever: nothing but `random.Random(seed)` decides. Clusters are such as an API
server would store, the broken ones too: endpoints that are gone, not ready or nobody's, wrong ports, policies without a local
endpoint, addresses claimed twice. Network policies come from random_policies.py; workloads beyond Deployments are not drawn.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import msgspec

from netlab.dataplane.build import DEFAULT_CLIENTS, INTERNET, build, entry_addresses, with_internet
from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.kube.load import SERVICE_LABEL, ZONE_LABEL, load
from netlab.kube.objects import Pod
from netlab.kube.topology import Overrides
from netlab.lab.host import Lab, Seen
from netlab.lab.plan import make_plan
from netlab.lab.policy_agreement import CHAINS, Agreement, Drops, Parting, Uncounted, agreement, dropping
from netlab.lab.policy_cases import parts, save, shrunk
from netlab.lab.random_policies import policy_flows, with_policies
from netlab.lab.rulepath import PathDisagreement, PathReport, Place, counters, verify_paths
from netlab.lab.verify import FIRST_PORT, Disagreement, Report, lab_network, reasons_text, verify
from netlab.linux.addr import Ip, ip, prefix
from netlab.linux.netns import Netns, NetnsKind, Route
from netlab.linux.network import Network
from netlab.trace.flows import Flow, outside_hosts, predict
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Trace

T = TypeVar("T")
Doc = dict[str, Any]

_FABRIC = {4: "172.30.0.0/24", 6: "fd00:172:30::/64"}
_PODS = {4: "10.244.0.0/16", 6: "fd00:10:244::/56"}
_SERVICES = {4: "10.96.0.0/16", 6: "fd00:10:96::/112"}
_BALANCERS = {4: "192.0.2.0/24", 6: "2001:db8:2::/64"}  # RFC 5737, RFC 3849
_FAMILY_NAMES = {4: "IPv4", 6: "IPv6"}
_PORTS = (80, 443, 53, 8080, 9000)
_TARGETS = (8080, 9090, 53, 5432)
_ZONES = ("zone-a", "zone-b", "zone-c")
_NAMESPACES = ("default", "shop")
_PATIENCE, _NEIGHBOURS_GO = 20, 6.0  # tries; seconds until neighbours may be forgotten (neighbour.c neigh_forced_gc: 5)


# -- clusters ----------------------------------------------------------------------------------------------------------


def random_cluster(seed: int, mode: str | None = None, cni: str | None = None, policies: bool = False) -> Cluster:
    """The cluster of a seed, through the same loader as any other input.

    Parameters
    ----------
    seed : int
        Which cluster; the same seed gives the same one.
    mode : str, optional
        kube-proxy's mode, by default the document's own: iptables.
    cni : str, optional
        Its network instead of flannel's VXLAN on one segment: "flannel" with any modelled backend, "calico" with any
        encapsulation but IPIP, "calico-ipip", "canal"; often on two segments with a router between. Pods, services and
        addresses of pods stay.
    policies : bool
        With a few more pods, and with network policies of every kind.

    Returns
    -------
    Cluster
        1 to 4 nodes, up to 4 pods on each, up to 8 services.
    """
    return load(["-"], io.StringIO(random_documents(seed, cni, policies)), Overrides(proxy_mode=mode))


def random_documents(seed: int, cni: str | None = None, policies: bool = False) -> str:
    """The same cluster as text that ``netlab -f`` reads: JSON documents, one a line, parted by ``---``."""
    made = _Maker(Random(f"cluster {seed}")).documents()
    if cni is not None:
        made = _with_network(made, cni, Random(f"network {cni} {seed}"))
    if policies:
        made = with_policies(made, Random(f"policies {seed}"))
    return "\n---\n".join(json.dumps(document) for document in made) + "\n"


IPIP = "calico-ipip"  # of its own, because not every kernel has tunl0
NETWORKS = ("flannel", "calico", IPIP, "canal")
POLICED = ("calico", IPIP, "canal")  # those with an engine


def _with_network(documents: list[Doc], cni: str, random: Random) -> list[Doc]:
    """The same cluster on another network: what is drawn here changes nothing of what was drawn before."""
    topology = documents[0]
    families = [prefix(p).family for p in topology["fabric"]["prefixes"]]
    nodes = [d for d in documents if d["kind"] == "Node"]
    pods = [d for d in documents if d["kind"] == "Pod"]
    old = topology["cni"]
    split = len(nodes) > 1 and random.random() < 0.5
    topology["cni"] = {"name": "calico" if cni == IPIP else cni}
    if cni in ("calico", IPIP):
        pools = []
        for family in families:
            words = ["IPIP", "IPIPCrossSubnet"] if cni == IPIP and family == 4 else ["Never", "VXLAN", "VXLANCrossSubnet"]
            size = random.choice((26, 27, 29, 32)) if family == 4 else random.choice((122, 124))
            outgoing = random.random() < 0.8
            word = random.choice(words)
            pools.append({"cidr": _PODS[family], "encapsulation": word, "natOutgoing": outgoing, "blockSize": size})
        topology["cni"]["pools"] = pools
    else:
        topology["cni"]["backend"] = random.choice(("vxlan", "host-gw") if cni == "flannel" else ("vxlan",))
        topology["cni"] |= {key: old[key] for key in ("hairpin", "masquerade") if key in old}
        if random.random() < 0.4:
            topology["cni"]["directRouting"] = True
    moved: dict[str, str] = {}
    if split:
        near = {4: "172.30.0.0/25", 6: "fd00:172:30::/112"}
        far = {4: "172.30.0.128/25", 6: "fd00:172:30::1:0/112"}
        topology["fabric"].pop("prefixes")
        topology["fabric"]["segments"] = [
            {"name": name, "prefixes": [blocks[f] for f in families]} for name, blocks in (("near", near), ("far", far))
        ]
        for n, node in enumerate(nodes):
            if n and (n == len(nodes) - 1 or random.random() < 0.5):
                for address in node["status"]["addresses"]:
                    if address["type"] == "InternalIP":
                        there = str(prefix(far[ip(address["address"]).family]).nth(11 + n))
                        moved[address["address"]] = there
    if cni in ("calico", IPIP) and len(nodes) > 1:
        for pod in pods:
            if not pod["spec"]["hostNetwork"] and random.random() < 0.15:  # its address is of another node's block
                other = random.choice(nodes)
                pod["spec"]["nodeName"] = other["metadata"]["name"]
    text = json.dumps(documents)
    for here, there in sorted(moved.items()):
        for mark in ('"', "/"):
            text = text.replace(f'"{here}{mark}', f'"{there}{mark}')
    found: list[Doc] = json.loads(text)
    return found


class _Maker:
    """Draws one cluster; keeps what is given out, so that no address, name or NodePort is given twice."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.families: tuple[int, ...] = self.pick([(4,), (4, 6), (6, 4), (6,)], [5, 4, 1, 2])
        self.computed = self.chance(0.15)  # no EndpointSlices in the input: netlab plays the controllers
        self.nodes = [f"node-{n + 1}" for n in range(random.choice((1, 2, 2, 3, 3, 4)))]
        self.node_ips = {name: self._node_ips(n) for n, name in enumerate(self.nodes)}
        zoned = self.chance(0.7)
        self.zones = {name: random.choice((*_ZONES, None)) if zoned else None for name in self.nodes}
        self.next_pod: Counter[tuple[str, int]] = Counter()
        self.taken: set[str] = set()
        self.node_ports: set[int] = set()
        self.pods: list[Doc] = []

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def pick(self, options: Sequence[T], weights: Sequence[int]) -> T:
        return self.random.choices(options, weights)[0]

    def some(self, options: Sequence[T], most: int) -> list[T]:
        return self.random.sample(options, min(len(options), self.random.randint(0, most)))

    def documents(self) -> list[Doc]:
        made = [self._topology(), *map(self._node, self.nodes)]
        for name in self.nodes:
            for _ in range(self.random.randint(0, 4)):
                self.pods.append(self._pod(name))
        made += self.pods
        if self.computed and self.chance(0.5):
            made.append(self._deployment())
        for n in range(self.random.randint(1, 8)):
            made += self._service(n)
        return made

    # -- the network -----------------------------------------------------------------------------------------------

    def _node_ips(self, n: int) -> dict[int, str]:
        every = {family: str(prefix(_FABRIC[family]).nth(11 + n)) for family in self.families}
        if len(every) > 1 and n > 0 and self.chance(0.06):  # a node that was left behind when the cluster became dual-stack
            del every[self.families[-1]]
        return every

    def _subnet(self, node: str, family: int) -> str:
        n = self.nodes.index(node)
        return f"10.244.{n}.0/24" if family == 4 else f"fd00:10:244:{n:x}::/64"

    def _topology(self) -> Doc:
        random = self.random
        proxy: Doc = {"mode": "iptables"}
        if self.chance(0.15):
            proxy["masqueradeAll"] = True
        if self.chance(0.2):
            proxy["masqueradeBit"] = random.randint(0, 31)
        if self.chance(0.2):
            proxy["localhostNodePorts"] = False
        if self.chance(0.2):
            proxy["detectLocalMode"] = "NodeCIDR"
        if self.chance(0.25):
            blocks = [_FABRIC[f] for f in self.families] + [_PODS[f] for f in self.families] + ["127.0.0.0/8", "::1/128"]
            blocks += [f"{a}/{32 if f == 4 else 128}" for f, a in self.node_ips[self.nodes[0]].items()]
            one_a_family = {prefix(block).family: block for block in self.some(blocks, 3)}
            proxy["nodePortAddresses"] = list(one_a_family.values())
        cni: Doc = {"name": "flannel", "backend": "vxlan"}
        if self.chance(0.25):
            cni["hairpin"] = False
        if self.chance(0.2):
            cni["masquerade"] = False
        if self.chance(0.1):
            cni |= {"vni": 4096, "port": 4789}
        document: Doc = {
            "apiVersion": "netlab/v1",
            "kind": "Topology",
            "fabric": {"prefixes": [_FABRIC[f] for f in self.families], "mtu": random.choice((1500, 1500, 1500, 1400, 9000))},
            "podCIDRs": [_PODS[f] for f in self.families],
            "serviceCIDRs": [_SERVICES[f] for f in self.families],
            "cni": cni,
            "kubeProxy": proxy,
        }
        sysctls = self._sysctls()
        if sysctls:
            document["sysctls"] = sysctls
        return document

    def _sysctls(self) -> dict[str, int]:
        found: dict[str, int] = {}
        if self.chance(0.3):
            found["net.ipv4.conf.all.rp_filter"] = self.random.randint(0, 2)
        if self.chance(0.15):
            found["net.ipv4.conf.default.rp_filter"] = self.random.randint(0, 2)
        if self.chance(0.12):
            found["net.bridge.bridge-nf-call-iptables"] = 0
        if self.chance(0.08):
            found["net.bridge.bridge-nf-call-ip6tables"] = 0
        if self.chance(0.06):
            found["net.ipv4.ip_forward"] = 0
        if self.chance(0.04):
            found["net.ipv6.conf.all.forwarding"] = 0
        if self.chance(0.08):
            found["net.ipv4.conf.all.route_localnet"] = self.random.randint(0, 1)
        if self.chance(0.05):
            found["net.ipv4.conf.all.src_valid_mark"] = 1
        return found

    def _node(self, name: str) -> Doc:
        zone = self.zones[name]
        own = self.node_ips[name]
        cidrs = [self._subnet(name, family) for family in own]
        addresses = [{"type": "InternalIP", "address": a} for a in own.values()] + [{"type": "Hostname", "address": name}]
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **({ZONE_LABEL: zone} if zone else {})}},
            "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
            "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]},
        }

    def _pod_ip(self, node: str, family: int) -> str:
        self.next_pod[node, family] += 1
        return str(prefix(self._subnet(node, family)).nth(1 + self.next_pod[node, family]))

    def _pod(self, node: str) -> Doc:
        random = self.random
        n = len(self.pods)
        host = self.chance(0.2)
        own = self.node_ips[node]
        ips = list(own.values()) if host else [self._pod_ip(node, family) for family in own]
        phase = self.pick(["Running", "Pending", "Succeeded"], [20, 1, 1])
        ports = [
            {"containerPort": port, "protocol": self.pick(["TCP", "UDP", "SCTP"], [12, 4, 1]), "name": f"p{i}"}
            for i, port in enumerate(random.sample(_TARGETS, random.randint(0 if not host else 1, 2)))
        ]
        document: Doc = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"pod-{n}",
                "namespace": random.choice(_NAMESPACES),
                "labels": {"app": random.choice("abc")},
            },
            "spec": {"nodeName": node, "hostNetwork": host, "containers": [{"name": "main", "ports": ports}]},
            "status": {
                "phase": phase,
                "hostIP": next(iter(own.values())),
                "conditions": [{"type": "Ready", "status": "True" if self.chance(0.85) else "False"}],
            },
        }
        if self.chance(0.08):
            document["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z"
        if phase != "Pending":
            document["status"] |= {"podIP": ips[0], "podIPs": [{"ip": a} for a in ips]}
        return document

    def _deployment(self) -> Doc:
        labels = {"app": self.random.choice("abc")}
        port = {"containerPort": self.random.choice(_TARGETS), "name": "p0"}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "made", "namespace": "default"},
            "spec": {
                "replicas": self.random.randint(0, 3),
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "ports": [port]}]}},
            },
        }

    # -- services --------------------------------------------------------------------------------------------------

    def _fresh(self, block: str, first: int, last: int) -> str:
        """An address of a block that nothing has yet."""
        while True:
            found = str(prefix(block).nth(self.random.randint(first, last)))
            if found not in self.taken:
                self.taken.add(found)
                return found

    def _node_port(self) -> int:
        while True:
            found = self.random.randint(30000, 32767)
            if found not in self.node_ports:
                self.node_ports.add(found)
                return found

    def _service(self, n: int) -> list[Doc]:
        random = self.random
        kind = self.pick(["ClusterIP", "NodePort", "LoadBalancer", "Headless", "ExternalName"], [8, 6, 7, 2, 1])
        name, namespace = f"svc-{random.choice('abcxyz')}{n}", random.choice(_NAMESPACES)
        families = list(self.families) if self.chance(0.7) else [random.choice(self.families)]
        meta: Doc = {"name": name, "namespace": namespace, "annotations": {}, "labels": {}}
        spec: Doc = {"type": "ClusterIP" if kind == "Headless" else kind}
        service: Doc = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}
        if kind == "ExternalName":
            spec["externalName"] = "db.example.com"
            return [service]
        spec["ipFamilies"] = [_FAMILY_NAMES[f] for f in families]
        spec["ipFamilyPolicy"] = "SingleStack" if len(families) == 1 else "PreferDualStack"
        if self.chance(0.85):
            spec["selector"] = {"app": random.choice("abc")}
        spec["clusterIPs"] = ["None"] if kind == "Headless" else [self._fresh(_SERVICES[f], 10, 250) for f in families]
        spec["clusterIP"] = spec["clusterIPs"][0]
        spec["ports"] = self._service_ports(kind in ("NodePort", "LoadBalancer"))
        if self.chance(0.15):
            spec["sessionAffinity"] = "ClientIP"
            spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": random.choice((10800, 60, 86400))}}
        if self.chance(0.2):
            spec["internalTrafficPolicy"] = "Local"
        if self.chance(0.15):
            spec["publishNotReadyAddresses"] = True
        if self.chance(0.25):
            key = random.choice(("service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"))
            meta["annotations"][key] = self.pick(["Auto", "auto", "Disabled"], [4, 1, 1])
        if self.chance(0.03):
            meta["labels"]["service.kubernetes.io/service-proxy-name"] = "another"
        if kind != "Headless" and self.chance(0.25):
            spec["externalIPs"] = self._external_ips()
        if kind == "LoadBalancer":
            self._balance(service, families)
            if self.chance(0.15):
                spec["allocateLoadBalancerNodePorts"] = False
                for port in spec["ports"]:
                    port.pop("nodePort", None)
        if (kind in ("NodePort", "LoadBalancer") or spec.get("externalIPs")) and self.chance(0.4):
            spec["externalTrafficPolicy"] = "Local"
            if kind == "LoadBalancer":
                spec["healthCheckNodePort"] = self._node_port()
        return [service] if self.computed else [service, *self._slices(service, families)]

    def _service_ports(self, exposed: bool) -> list[Doc]:
        random = self.random
        count = self.pick([1, 2, 3], [6, 3, 1])
        found: dict[tuple[int, str], Doc] = {}
        while len(found) < count:
            number, protocol = random.choice(_PORTS), self.pick(["TCP", "UDP", "SCTP"], [12, 5, 1])
            target = self.pick([f"p{random.randint(0, 1)}", random.choice(_TARGETS), 7777], [2, 6, 1])
            port: Doc = {"port": number, "protocol": protocol, "targetPort": target}
            if exposed and self.chance(0.95):
                port["nodePort"] = self._node_port()
            found.setdefault((number, protocol), port)
        for i, port in enumerate(found.values()):
            if count > 1 or self.chance(0.5):
                port["name"] = f"port-{i}"
        return list(found.values())

    def _external_ips(self) -> list[str]:
        """Addresses that the outside routes to the nodes; a node's own; one that another service may claim as well."""
        shared = [str(prefix(_BALANCERS[f]).nth(5)) for f in self.families]
        nodes = [a for own in self.node_ips.values() for a in own.values()]
        near = [str(prefix(_FABRIC[f]).nth(77)) for f in self.families]
        fresh = [self._fresh(_BALANCERS[self.random.choice(self.families)], 20, 99)]
        return list(dict.fromkeys(self.pick([fresh, shared, nodes, near], [5, 3, 2, 1])))[:2]

    def _balance(self, service: Doc, families: Sequence[int]) -> None:
        """What a load balancer adds: its addresses, and who may come."""
        ingress: list[Doc] = []
        for family in families:
            if self.chance(0.85):
                where = self._fresh(_BALANCERS[family], 100, 199) if self.chance(0.85) else str(prefix(_BALANCERS[family]).nth(5))
                ingress.append({"ip": where, **({"ipMode": self.pick(["VIP", "Proxy"], [2, 1])} if self.chance(0.5) else {})})
        if self.chance(0.1):
            ingress.append({"hostname": "lb.example.com"})
        service["status"] = {"loadBalancer": {"ingress": ingress}}
        if self.chance(0.45):
            ranges = ["203.0.113.0/24", "198.51.100.7/32", _PODS[4], _FABRIC[4], "2001:db8::/64", _PODS[6], "::/0", "0.0.0.0/0"]
            ranges += [f"{a}/{32 if f == 4 else 128}" for own in self.node_ips.values() for f, a in own.items()]
            found = [r for r in self.some(ranges, 4) if prefix(r).family in families]
            if found:
                service["spec"]["loadBalancerSourceRanges"] = found

    # -- endpoints -------------------------------------------------------------------------------------------------

    def _slices(self, service: Doc, families: Sequence[int]) -> list[Doc]:
        found: list[Doc] = []
        if self.chance(0.04):
            return found
        meta = service["metadata"]
        empty = self.chance(0.08)
        for family in families:
            for n in range(2 if self.chance(0.15) else 1):
                slice_: Doc = {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {
                        "name": f"{meta['name']}-v{family}-{n}",
                        "namespace": meta["namespace"],
                        "labels": {SERVICE_LABEL: meta["name"]},
                    },
                    "addressType": _FAMILY_NAMES[family],
                    "ports": [self._slice_port(port) for port in service["spec"]["ports"]],
                    "endpoints": [] if empty else self._endpoints(meta["namespace"], family),
                }
                found.append(slice_)
        return found

    def _slice_port(self, port: Doc) -> Doc:
        number = port["targetPort"] if isinstance(port["targetPort"], int) else self.random.choice(_TARGETS)
        made: Doc = {"name": port.get("name", ""), "protocol": port["protocol"], "port": number}
        if self.chance(0.03):
            made["name"] = "renamed"
        if self.chance(0.02):
            del made["port"]
        return made

    def _endpoints(self, namespace: str, family: int) -> list[Doc]:
        here = [pod for pod in self.pods if self._address(pod, family)]
        found = [self._pod_endpoint(pod, family) for pod in self.some(here, self.pick([1, 3, 5], [1, 3, 1]))]
        for _ in range(self.pick([0, 1, 2], [7, 2, 1])):
            found.append(self._strange_endpoint(family, found))
        self.random.shuffle(found)
        hinted = self.chance(0.5)
        for endpoint in found:
            if hinted and self.chance(0.95):
                zones = self.random.sample(_ZONES, self.pick([1, 2], [4, 1]))
                endpoint["hints"] = {"forZones": [{"name": zone} for zone in zones]}
        return found

    @staticmethod
    def _address(pod: Doc, family: int) -> str | None:
        if pod["status"]["phase"] == "Succeeded":
            return None
        listed = (a["ip"] for a in pod["status"].get("podIPs", ()))
        return next((a for a in listed if ip(a).family == family), None)

    def _conditions(self) -> Doc:
        ready, terminating, gone, starting = (True, True, False), (False, True, True), (False, False, True), (False, False, False)
        state = self.pick([ready, terminating, gone, starting], [12, 2, 1, 2])
        return dict(zip(("ready", "serving", "terminating"), (state[0], state[1], state[2] and not state[0]), strict=True))

    def _pod_endpoint(self, pod: Doc, family: int) -> Doc:
        node = pod["spec"]["nodeName"]
        made: Doc = {
            "addresses": [self._address(pod, family)],
            "conditions": self._conditions() if self.chance(0.8) else {},
            "nodeName": node,
            "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]},
        }
        if self.zones[node]:
            made["zone"] = self.zones[node]
        return made

    def _strange_endpoint(self, family: int, others: Sequence[Doc]) -> Doc:
        """A pod that is gone, a host outside, a node itself, a repetition, an address in another spelling."""
        node = self.random.choice(self.nodes)
        kind = self.random.choice(("gone", "outside", "node", "again", "spelled", "nobody"))
        own = self.node_ips[node].get(family)
        address = str(prefix(_BALANCERS[family]).nth(210))
        if kind == "gone" and own is not None:
            address = str(prefix(self._subnet(node, family)).nth(99))
        elif kind == "outside":
            address = "198.51.100.7" if family == 4 else "2001:db8:1::7"
        elif kind == "node" and own is not None:
            address = own
        elif kind == "again" and others:
            return {**self.random.choice(others), "conditions": self._conditions()}
        elif kind == "spelled" and family == 6 and others:
            text = others[0]["addresses"][0]
            head, _, tail = text.rpartition(":")
            return {**others[0], "addresses": [f"{head}:{tail.zfill(4)}"]}
        elif kind == "nobody":
            address = "10.99.0.9" if family == 4 else "fd00:99::9"
        made: Doc = {"addresses": [address], "conditions": self._conditions()}
        if self.chance(0.5):
            made["nodeName"] = node
        return made


# -- flows -------------------------------------------------------------------------------------------------------------


def random_flows(cluster: Cluster, seed: int, count: int) -> list[Request]:
    """Questions about a cluster: who asks whom is drawn so that most go to services, right or wrong, and some astray.

    Parameters
    ----------
    cluster : Cluster
        Any cluster, not only a random one.
    seed : int
        Which flows.
    count : int
        How many at most: small clusters have no more than so many different ones.

    Returns
    -------
    list of Request
        All different; destinations are addresses, and `svc/NAME` for headless services.
    """
    random = Random(f"flows {seed}")
    sources = _sources(cluster, random)
    targets = {f: [group for group in _targets(cluster, f) if group] for f in (4, 6)}
    found: dict[Request, None] = {}
    for _ in range(count * 20):
        if len(found) >= count:
            break
        source, families, at = random.choice(sources)
        family = random.choice(families)
        if not targets[family]:
            continue
        destination, protocol = random.choice(random.choice(targets[family]))
        found[Request(source, destination, protocol, at=at, family=family)] = None
    return list(found)


def _sources(cluster: Cluster, random: Random) -> list[tuple[str, tuple[int, ...], str | None]]:
    """Everybody who can send, with families and the node by which the outside comes in; a third of the draws are outside."""
    pods = [pod for pod in cluster.pods.values() if pod.ips and pod.node_name in cluster.nodes]
    inside: list[tuple[str, tuple[int, ...], str | None]] = [
        (f"{pod.namespace}/pod/{pod.name}", tuple(dict.fromkeys(a.family for a in pod.ips)), None) for pod in pods
    ]
    inside += [(f"node/{n.name}", tuple(dict.fromkeys(a.family for a in n.internal_ips)), None) for n in cluster.nodes.values()]
    entry = random.choice([*cluster.nodes])
    families = {gateway.family for gateway in cluster.fabric.gateways}
    clients = [a for a in (*DEFAULT_CLIENTS, *outside_hosts(cluster)) if a.family in families]
    outside: list[tuple[str, tuple[int, ...], str | None]] = [
        (str(client), (client.family,), at) for client in clients for at in (None, entry)
    ]
    return inside + outside * max(1, len(inside) // (2 * max(1, len(outside))))


def _targets(cluster: Cluster, family: int) -> list[list[tuple[str, str]]]:
    """Groups of (destination, protocol): each group is drawn as often as any other, so that services come first."""
    services: list[tuple[str, str]] = []
    wrong: list[tuple[str, str]] = []
    node_ports: list[tuple[str, str]] = []
    names: list[tuple[str, str]] = []
    node_ips = [a for node in cluster.nodes.values() for a in node.internal_ips if a.family == family]
    loopback = ip("127.0.0.1" if family == 4 else "::1")
    for service in cluster.services.values():
        addresses = [a for a in (*service.cluster_ips, *entry_addresses(service)) if a.family == family]
        for port in service.ports:
            protocol = port.protocol.lower()
            services += [(a.port(port.port), protocol) for a in addresses]
            wrong += [(a.port(port.port), "udp" if protocol == "tcp" else "tcp") for a in addresses]
            wrong += [(a.port(port.port + 1), protocol) for a in addresses]
            if port.node_port is not None:
                node_ports += [(a.port(port.node_port), protocol) for a in (*node_ips, *node_ips, loopback)]
            if service.headless and _dns_answers(cluster, service.key, port.name, family, service.publish_not_ready_addresses):
                names.append((f"{service.namespace}/svc/{service.name}:{port.port}", protocol))
        wrong += [(str(a), "icmp") for a in addresses]
        if service.health_check_node_port is not None:
            node_ports += [(a.port(service.health_check_node_port), "tcp") for a in node_ips]
    pods = [pair for pod in cluster.pods.values() for pair in _pod_targets(cluster, pod, family)]
    nodes = [(a.port(number), protocol) for a in node_ips for number, protocol in ((10250, "tcp"), (9, "tcp"), (9, "udp"))]
    nodes += [(str(a), "icmp") for a in node_ips]
    nodes += [(loopback.port(10250), "tcp"), (loopback.port(9), "udp"), (str(loopback), "icmp")]
    nowhere = [
        pair
        for cidr in (*cluster.pod_cidrs, *(c for n in cluster.nodes.values() for c in n.pod_cidrs), *cluster.service_cidrs)
        if cidr.family == family
        for pair in (
            (cidr.nth(cidr.size - 3).port(80), "tcp"),
            (cidr.nth(cidr.size - 3).port(53), "udp"),
            (str(cidr.nth(1)), "icmp"),
        )
    ]
    beyond: list[tuple[str, str]] = []
    if any(gateway.family == family for gateway in cluster.fabric.gateways):
        hosts = [a for a in (*DEFAULT_CLIENTS, *outside_hosts(cluster)) if a.family == family]
        hosts = [a for a in hosts if not any(a in link for link in cluster.fabric.prefixes)]  # those only ask
        beyond = [pair for a in hosts for pair in ((a.port(443), "tcp"), (a.port(53), "udp"), (str(a), "icmp"))]
    return [services, services, services, wrong, node_ports, node_ports, names, pods, pods, nodes, nowhere, beyond]


def _pod_targets(cluster: Cluster, pod: Pod, family: int) -> Iterable[tuple[str, str]]:
    """Declared ports, the same with the other protocol, ports of the services that the pod is behind, and a wrong one."""
    behind = {
        (port.port, port.protocol)
        for slices in cluster.slices.values()
        for part in slices
        for port in part.ports
        if port.port is not None and any(e.target_pod == pod.key for e in part.endpoints)
    }
    for address in (a for a in pod.ips if a.family == family):
        for number, protocol in dict.fromkeys([*((p.container_port, p.protocol) for p in pod.ports), *sorted(behind)]):
            yield address.port(number), protocol.lower()
            yield address.port(number), "udp" if protocol == "TCP" else "tcp"
        yield address.port(9), "tcp"
        yield str(address), "icmp"


def _dns_answers(cluster: Cluster, service: str, port: str, family: int, all_of_them: bool) -> list[tuple[Ip, int]]:
    """What DNS says about a headless service's port: the ready endpoints' addresses."""
    return [
        (address, p.port)
        for part in cluster.slices.get(service, ())
        if part.family == family
        for p in part.ports
        if p.name == port and p.port is not None
        for endpoint in part.endpoints
        if endpoint.ready or all_of_them
        for address in endpoint.addresses
    ]


# -- comparing ---------------------------------------------------------------------------------------------------------


class Found(msgspec.Struct, frozen=True):
    """A disagreement and the seed whose cluster showed it."""

    seed: int
    what: Disagreement | PathDisagreement | Parting | Uncounted

    def __str__(self) -> str:
        return f"cluster {self.seed}: {self.what}"


_FIGURES = ("clusters", "flows", "agreed", "unsupported", "rules", "hits", "paths", "paths_agreed", "path_rules",
            "policies", "policy_rules", "policy_hits", "drops")  # fmt: skip


class RandomReport(msgspec.Struct):
    """What was compared: `rules` counts the distinct rules of all clusters that a packet hit in Linux; `paths` the flows whose
    counters were compared rule by rule, `path_rules` the rules that these hit; `policies` were in the clusters, `policy_rules` of
    the rules that were hit are Felix's of workloads and policies, `drops` flows ended at a rule that counted
    them, `halves`: what rules and policies agree on."""

    clusters: int = 0
    flows: int = 0
    agreed: int = 0
    unknown: Counter[str] = msgspec.field(default_factory=Counter)  # why netlab does not know
    unsupported: int = 0
    rules: int = 0
    hits: int = 0
    paths: int = 0
    paths_agreed: int = 0
    path_rules: int = 0
    policies: int = 0
    policy_rules: int = 0
    policy_hits: int = 0
    drops: int = 0
    how: str = ""  # rules were compared
    crossings: int = 0
    entries: int = 0
    verdicts: Counter[str] = msgspec.field(default_factory=Counter)
    halves: Counter[str] = msgspec.field(default_factory=Counter)
    again: list[Found] = msgspec.field(default_factory=list)  # agreed at the second try
    disagreements: list[Found] = msgspec.field(default_factory=list)

    def add(self, other: RandomReport) -> None:
        """Take in what was found in other clusters."""
        for name in _FIGURES:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.how = other.how or self.how
        self.crossings += other.crossings
        self.entries += other.entries
        self.unknown.update(other.unknown)
        self.verdicts.update(other.verdicts)
        self.halves.update(other.halves)
        self.again += other.again
        self.disagreements += other.disagreements

    def add_flows(self, seed: int, one: Report) -> None:
        """Take in verdicts, endpoints and sources of one cluster's flows."""
        self.flows += one.flows
        self.agreed += one.agreed
        self.unknown.update(one.unknown)
        self.unsupported += one.unsupported
        self.verdicts.update(one.verdicts)
        self.again += [Found(seed, found) for found in one.again]
        self.disagreements += [Found(seed, found) for found in one.disagreements]

    def add_paths(self, seed: int, one: PathReport) -> None:
        """Take in one cluster's comparison rule by rule."""
        self.paths += one.flows - one.passed_over
        self.paths_agreed += one.agreed
        self.path_rules += len(one.rules)
        self.how = "in the kernel's order" if one.ordered else "by their counters"
        self.crossings += one.crossings
        self.entries += one.entries
        self.disagreements += [Found(seed, found) for found in one.disagreements]

    def add_agreement(self, seed: int, one: Agreement) -> None:
        """Take in what rules and policies say of one cluster's flows."""
        self.halves.update(one.halves)
        self.disagreements += [Found(seed, found) for found in one.partings]

    @property
    def summary(self) -> str:
        """A few lines of figures."""
        what = ", ".join(f"{count} {name}" for name, count in sorted(self.verdicts.items()))
        agree = f"{self.agreed} agree ({what})" if self.agreed else what
        text = f"{self.clusters} random clusters, {self.flows} flows: {agree}, "
        text += f"{len(self.disagreements)} disagree"
        if self.rules:
            text += f"\n{self.hits} hits on {self.rules} rules"
        if self.paths:
            text += f"; {self.paths} flows sent alone, {self.paths_agreed} agree: {self.path_rules} rules {self.how}, "
            text += f"{self.crossings} device crossings, {self.entries} connections"
        if self.policies:
            text += f"\n{self.policies} policies"
            if self.rules:
                text += f"; {self.policy_hits} hits on {self.policy_rules} rules of workloads and policies, "
                text += f"{self.drops} flows ended at rules that counted them"
            text += "\nrules and policies: " + ", ".join(f"{count} {what}" for what, count in sorted(self.halves.items()))
        if self.again:
            text += f"\n{len(self.again)} flows agreed at the second try"
        if self.unknown:
            text += f"\nnetlab does not know {self.unknown.total()}: {reasons_text(self.unknown)}"
        if self.unsupported:
            text += f"\nthis kernel cannot send {self.unsupported} (SCTP)"
        return text


def verify_random(
    count: int,
    seed: int,
    *,
    flows: int = 60,
    rules: int = 0,
    variant: str = "legacy",
    mode: str | None = None,
    cni: str | None = None,
    policies: bool = False,
    progress: Callable[[int, RandomReport], None] = lambda done, report: None,
) -> RandomReport:
    """Stand random clusters up one after the other, and compare random flows through each.

    Parameters
    ----------
    count : int
        How many clusters: those of the seeds `seed`, `seed` + 1, ...
    seed : int
        The first cluster.
    flows : int
        How many flows through each.
    rules : int
        How many of them are sent once more, alone, to compare rules, devices and connections.
    variant : str
        "legacy" or "nft".
    mode : str, optional
        kube-proxy's mode: iptables if left out.
    cni : str, optional
        Which network they have: see `random_cluster`.
    policies : bool
        With network policies; then what the rules did is also held against what the policies say.
    progress : callable
        Told how many clusters are done, and the report so far.
    """
    report = RandomReport()
    for n in range(count):
        report.add(verify_one(seed + n, flows=flows, rules=rules, variant=variant, mode=mode, cni=cni, policies=policies))
        progress(n + 1, report)
    return report


def verify_one(
    seed: int,
    *,
    flows: int = 60,
    rules: int = 0,
    variant: str = "legacy",
    mode: str | None = None,
    cni: str | None = None,
    policies: bool = False,
) -> RandomReport:
    """Compare one random cluster; once more where the machine could not hold all its neighbours meanwhile.

    Linux keeps the neighbours of all namespaces in one table of 1024 (arp.c arp_tbl, gc_thresh3); packets to those that find no
    place are lost, whatever the rules say. Other labs on the machine fill it, too.

    Raises
    ------
    InputError
        The table stays full.
    """
    for _ in range(_PATIENCE):
        before = _times_full()
        report = _compare(seed, flows, rules, variant, mode, cni, policies)
        if _times_full() == before:
            return report
        time.sleep(_NEIGHBOURS_GO)
    raise InputError(
        "the kernel's table of neighbours is full, so that packets are lost",
        hint="end other labs, or as root: sysctl net.ipv4.neigh.default.gc_thresh3=8192 net.ipv6.neigh.default.gc_thresh3=8192",
    )


def _times_full() -> int:
    """How often since boot an entry did not fit the tables of neighbours (neighbour.c neigh_stat_seq_show: the last column)."""
    found = 0
    for file in ("arp_cache", "ndisc_cache"):
        with contextlib.suppress(OSError):  # only the first network namespace has it
            lines = Path(f"/proc/net/stat/{file}").read_text().splitlines()
            if lines[0].split()[-1] == "table_fulls":
                found += sum(int(line.split()[-1], 16) for line in lines[1:])
    return found


def _compare(
    seed: int,
    flows: int,
    rules: int,
    variant: str,
    mode: str | None = None,
    cni: str | None = None,
    policies: bool = False,
) -> RandomReport:
    cluster = random_cluster(seed, mode, cni, policies)
    tracer = Tracer(cluster)
    network = lab_network(cluster, tracer.network)
    wanted = wanted_flows(cluster, seed, flows, policies)
    report = RandomReport(clusters=1, policies=_policies(cluster) if policies else 0)
    drops = Drops()

    def told(flow: Flow, trace: Trace, seen: Seen) -> None:
        if policies:
            report.add_agreement(seed, agreement(tracer, flow, trace))
            if seen.result != "unsupported":
                drops.add(trace)

    with Lab.start(make_plan(network, variant=variant)) as lab:
        for entered, share in entries(cluster, network, lab, wanted):
            report.add_flows(seed, verify(tracer, lab, share, told=told))
            if rules:
                few = share[: -(-rules * len(share) // len(wanted))]
                report.add_paths(seed, verify_paths(tracer, entered, lab, few, variant))
        hit = _hit(lab, network, variant)
    report.rules, report.hits = len(hit), sum(hit.values())
    if policies:
        of_policies = [count for (_, place), count in hit.items() if place[2].startswith(CHAINS)]
        report.policy_rules, report.policy_hits = len(of_policies), sum(of_policies)
        report.drops = sum(drops.must.values())
        report.disagreements += [Found(seed, found) for found in drops.compare(hit, dropping(network))]
    return report


def compare_policies(
    count: int,
    seed: int,
    *,
    flows: int = 60,
    cni: str = "calico",
    progress: Callable[[int, RandomReport], None] = lambda done, report: None,
) -> RandomReport:
    """Predict alone: do the rules of random clusters do what their policies say? Nothing is sent.

    Parameters
    ----------
    count, seed, flows, cni, progress
        As `verify_random` takes them.
    """
    report = RandomReport()
    for n in range(count):
        cluster = random_cluster(seed + n, cni=cni, policies=True)
        tracer = Tracer(cluster)
        report.add(RandomReport(clusters=1, policies=_policies(cluster)))
        for flow in wanted_flows(cluster, seed + n, flows, True):
            trace = predict(tracer, flow, FIRST_PORT)
            report.flows += 1
            report.verdicts[trace.verdict.value] += 1
            report.add_agreement(seed + n, agreement(tracer, flow, trace))
        progress(n + 1, report)
    return report


def save_cases(report: RandomReport, folder: Path, cni: str, most: int = 10) -> list[Path]:
    """Write the clusters of the first disagreements to files, one flow each.

    Where rules and policies part, the file is made as small as it still shows it; where Linux differs, it is the whole cluster.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for n, found in enumerate(report.disagreements):
        if len(written) == most:
            break
        if isinstance(found.what, Uncounted):
            continue
        documents = [json.loads(text) for text in random_documents(found.seed, cni, policies=True).split("\n---\n")]
        flow = found.what.flow
        if isinstance(found.what, Parting):
            documents = shrunk(documents, lambda fewer: parts(fewer, flow))  # noqa: B023
        written.append(folder / f"cluster-{found.seed}-{n}.yaml")
        save(written[-1], documents, flow, str(found.what))
    return written


def wanted_flows(cluster: Cluster, seed: int, count: int, policies: bool) -> list[Flow]:
    """What is sent through a random cluster; where there are policies, half of it goes from pods to pods."""
    near = policy_flows(cluster, seed, count // 2) if policies else []
    return sendable(cluster, [*near, *random_flows(cluster, seed, count - len(near))])


def _policies(cluster: Cluster) -> int:
    return len(cluster.policies) + len(cluster.policy_objects.calico) + len(cluster.policy_objects.cluster)


def entries(cluster: Cluster, network: Network, lab: Lab, wanted: Iterable[Flow]) -> Iterator[tuple[Network, list[Flow]]]:
    """Flows by the node where the outside enters; the lab's outside has the routes for it while they are at hand.

    Parameters
    ----------
    network : Network
        What `lab_network` returns for the cluster, and the lab was made from.
    """
    groups: dict[str | None, list[Flow]] = {}
    for flow in wanted:
        groups.setdefault(flow.at, []).append(flow)
    current = network
    for at, share in groups.items():
        entered = _entered(cluster, network, at)
        _reroute(lab, current.namespaces[INTERNET], entered.namespaces[INTERNET])
        current = entered
        yield entered, share
    _reroute(lab, current.namespaces[INTERNET], network.namespaces[INTERNET])


def sendable(cluster: Cluster, requests: Iterable[Request]) -> list[Flow]:
    """Requests as flows: a real client has asked DNS already, so the name of a headless service becomes each of its addresses."""
    found: dict[Flow, None] = {}
    for request in requests:
        where = [request.destination]
        key, _, number = request.destination.replace("/svc/", "/").partition(":")
        service = cluster.services.get(key)
        if service is not None and request.family is not None:
            port = next(p for p in service.ports if p.port == int(number) and p.protocol.lower() == request.protocol)
            answers = _dns_answers(cluster, key, port.name, request.family, service.publish_not_ready_addresses)
            where = [address.port(p) for address, p in answers]
        for destination in where:
            found[Flow(request.source, destination, request.protocol or "tcp", at=request.at)] = None
    return list(found)


def _entered(cluster: Cluster, network: Network, at: str | None) -> Network:
    """The network with the outside's routes to the services by way of node `at`."""
    if at is None:
        return network
    built = build(cluster, extra_hosts=outside_hosts(cluster), at=at)
    return with_internet(network, built.network.namespaces[INTERNET])


def _reroute(lab: Lab, before: Netns, after: Netns) -> None:
    """Make the routes of the lab's outside those of `after`."""
    old, new = _ways(before), _ways(after)
    lines = [f"route del {line}" for line in old if line not in new] + [f"route add {line}" for line in new if line not in old]
    if lines:
        lab.run(INTERNET, "ip", "-batch", "-", stdin="".join(f"{line}\n" for line in lines))


def _ways(netns: Netns) -> list[str]:
    return [_way(route) for route in netns.routes if route.protocol != "kernel" and route.nexthops]


def _way(route: Route) -> str:
    hop = route.nexthops[0]
    metric = f" metric {route.metric}" if route.metric else ""
    return f"{route.dst} via {hop.via} dev {hop.dev}{metric}"


def _hit(lab: Lab, network: Network, variant: str) -> dict[tuple[int, Place], int]:
    """Which rules of which family Linux counted, and how often."""
    nodes = [name for name, space in network.namespaces.items() if space.kind is NetnsKind.NODE]
    return {
        (family, place): count
        for family in (4, 6)
        for place, count in counters(lab, nodes, family, variant).items()
    }
