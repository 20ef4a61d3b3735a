"""Random network policies for a random cluster, and flows that meet them.

    documents of a cluster + Random -> with_policies -> more pods, labels, namespaces, and policies of every shape and kind

Law: what is drawn is what an API server would store: everything goes through kube/policyload.py like any other input, so that a
case can be written down as a file and asked again. Labels, ports and addresses come from small pools, so that policies, pods and
flows meet. Not drawn: HTTP rules, and policies of host endpoints before DNAT, untracked or on forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar

from netlab.kube.cluster import Cluster
from netlab.kube.objects import Pod
from netlab.linux.addr import Ip, Prefix, ip, prefix
from netlab.trace.query import Request

T = TypeVar("T")
Doc = dict[str, Any]

NAMESPACES = ("default", "shop", "ops")
_POD_LABELS: dict[str, tuple[str, ...]] = {"app": ("a", "b", "c", "d"), "tier": ("front", "back", ""), "version": ("1", "2")}
_NAMESPACE_LABELS: dict[str, tuple[str, ...]] = {
    "team": ("red", "blue", "green"),
    "env": ("prod", ""),
    "kubernetes.io/metadata.name": (*NAMESPACES, "nowhere"),
}
_ACCOUNTS = ("default", "robot")
_NUMBERS = (8080, 9090, 53, 5432, 7777, 80, 443, 9)
_MANY = 18
_FELIX_BITS = 16  # FELIX_IPTABLESMARKMASK is 0xffff0000
_NAMES = ("p0", "p1", "web", "dns", "side", "nobody")
_RANGES = ((8000, 9100), (1, 65535), (53, 5432), (8080, 8080), (5000, 5432), (9090, 9999), (1, 79), (10000, 65535))
_OUTSIDE = {4: ("203.0.113.0/24", "203.0.113.7/32", "198.51.100.0/24"), 6: ("2001:db8::/64", "2001:db8:1::/64", "2001:db8::/32")}
_EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
_CALICO, _ADMIN, _CLUSTER = "projectcalico.org/v3", "policy.networking.k8s.io/v1alpha1", "policy.networking.k8s.io/v1alpha2"
_TIERS = ("security", "platform", "late")


def with_policies(documents: Sequence[Doc], random: Random) -> list[Doc]:
    """The documents of a cluster (lab/random_clusters.py) with more pods and labels, and with policies.

    Parameters
    ----------
    documents : sequence of dict
        Topology first, then nodes, pods and services; not changed.
    random : Random
        Decides everything that is drawn here.

    Returns
    -------
    list of dict
    """
    return _Drawer(random, documents).documents()


class _Drawer:
    """Draws the policies of one cluster from pools of what is in it."""

    def __init__(self, random: Random, documents: Sequence[Doc]) -> None:
        self.random = random
        self.topology = dict(documents[0])
        self.nodes = [d for d in documents if d["kind"] == "Node"]
        self.pods = [self._labelled(d) for d in documents if d["kind"] == "Pod"]
        self.others = [d for d in documents[1:] if d["kind"] not in ("Node", "Pod")]
        self.services = [d for d in self.others if d["kind"] == "Service"]
        self.families = [prefix(cidr).family for cidr in self.topology["podCIDRs"]]
        self.tiers: list[str] = []
        proxy = self.topology["kubeProxy"]
        if proxy.get("masqueradeBit", 0) >= _FELIX_BITS:  # kube-proxy's mark would be a verdict to Felix's rules
            self.topology["kubeProxy"] = {key: value for key, value in proxy.items() if key != "masqueradeBit"}
        if "sysctls" in self.topology and self.chance(0.8):  # a cluster that does not forward shows nothing of its policies
            del self.topology["sysctls"]

    # -- drawing -----------------------------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def pick(self, options: Sequence[tuple[int, T]]) -> T:
        """One of (weight, option)."""
        return self.random.choices([option for _, option in options], [weight for weight, _ in options])[0]

    def some(self, options: Sequence[T], least: int, most: int) -> list[T]:
        return self.random.sample(list(options), min(len(options), self.random.randint(least, most)))

    def documents(self) -> list[Doc]:
        for n in range(self.random.randint(2, 6)):
            self.pods.append(self._pod(n))
        # after the pods, for they are made of what pods and services have
        self.blocks = {family: self._blocks(family) for family in self.families}
        made: list[Doc] = [self.topology, *self._namespaces(), *self._accounts(), *self.nodes, *self.pods, *self.others]
        if self.chance(0.6):
            made += self._tiers() + self._network_sets()
        for n in range(self.random.choice((1, 2, 3, 3, 4, 5, 6, 8))):
            made.append(self._network_policy(n))
        extended = self.pick([(5, False), (5, True)])
        if extended:
            for n in range(self.random.randint(1, 5)):
                made.append(self._calico_policy(n))
        if self.chance(0.3):
            made += self._cluster_policies()
        if self.families == [4] and self.chance(0.4):  # IPv6's neighbour discovery would be theirs to police, which no walk shows
            made += self._host_endpoints()
        return made

    # -- who is selected ---------------------------------------------------------------------------------------------------

    def _labels(self, pool: dict[str, tuple[str, ...]], probability: float) -> dict[str, str]:
        return {key: self.random.choice(values) for key, values in pool.items() if self.chance(probability)}

    def _labelled(self, pod: Doc) -> Doc:
        """A pod of the cluster with more labels."""
        meta = pod["metadata"]
        more = {**self._labels({k: v for k, v in _POD_LABELS.items() if k != "app"}, 0.6), **meta["labels"]}
        spec = {**pod["spec"], "serviceAccountName": self.random.choice(_ACCOUNTS)}
        return {**pod, "metadata": {**meta, "labels": more}, "spec": spec}

    def _pod(self, n: int) -> Doc:
        """One pod more, for the small clusters."""
        random = self.random
        node = random.choice(self.nodes)
        host = self.chance(0.1)
        ports: list[Doc] = []
        for name in self.some([name for name in _NAMES if name not in ("side", "nobody")], 1, 3):
            protocol = self.pick([(12, "TCP"), (5, "UDP"), (1, "SCTP")])
            ports.append({"name": name, "containerPort": random.choice(_NUMBERS[:5]), "protocol": protocol})
        if self.chance(0.25):  # a name that is two ports
            number = random.choice(_NUMBERS[:5])
            ports = [p for p in ports if p["name"] != "dns"]
            ports += [{"name": "dns", "containerPort": number, "protocol": protocol} for protocol in ("TCP", "UDP")]
        spec: Doc = {
            "nodeName": node["metadata"]["name"],
            "hostNetwork": host,
            "serviceAccountName": random.choice(_ACCOUNTS),
            "containers": [{"name": "main", "ports": ports}],
        }
        if self.chance(0.2):
            beside: Doc = {"name": "beside", "ports": [{"name": "side", "containerPort": random.choice(_NUMBERS[:5])}]}
            spec["initContainers"] = [{**beside, **({"restartPolicy": "Always"} if self.chance(0.7) else {})}]
        own = [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
        lender = random.choice(self.nodes) if self.chance(0.1) else node  # of whose block the address is
        here = own if host else [str(prefix(cidr).nth(130 + n)) for cidr in lender["spec"]["podCIDRs"]]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"more-{n}",
                "namespace": random.choice(NAMESPACES),
                "labels": self._labels(_POD_LABELS, 0.7),
            },
            "spec": spec,
            "status": {
                "phase": "Running",
                "hostIP": own[0],
                "podIP": here[0],
                "podIPs": [{"ip": a} for a in here],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }

    def _namespaces(self) -> list[Doc]:
        pool = {k: v for k, v in _NAMESPACE_LABELS.items() if "/" not in k}
        return [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": self._labels(pool, 0.7)}}
            for name in NAMESPACES
            if self.chance(0.9)
        ]

    def _accounts(self) -> list[Doc]:
        return [
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": name, "namespace": namespace, "labels": self._labels({"role": ("api", "job")}, 0.6)},
            }
            for namespace in NAMESPACES
            for name in _ACCOUNTS
            if self.chance(0.5)
        ]

    def _selector(self, pool: dict[str, tuple[str, ...]], empty: float) -> Doc:
        if self.chance(empty):
            return {}
        made: Doc = {}
        if self.chance(0.6):
            key = self.random.choice(list(pool))
            made["matchLabels"] = {key: self.random.choice(pool[key])}
        if not made or self.chance(0.4):
            made["matchExpressions"] = [self._expression(pool) for _ in range(self.pick([(4, 1), (1, 2)]))]
        return made

    def _expression(self, pool: dict[str, tuple[str, ...]]) -> Doc:
        key = self.random.choice([*pool, "unheard"])
        operator = self.random.choice(("In", "NotIn", "Exists", "DoesNotExist"))
        made: Doc = {"key": key, "operator": operator}
        if operator in ("In", "NotIn"):
            made["values"] = self.some(pool.get(key, ("x",)), 1, 2)
        return made

    def _pod_selector(self, empty: float = 0.15) -> Doc:
        return self._selector(_POD_LABELS, empty)

    def _namespace_selector(self, empty: float = 0.2) -> Doc:
        return self._selector(_NAMESPACE_LABELS, empty)

    # -- addresses ---------------------------------------------------------------------------------------------------------

    def _blocks(self, family: int) -> list[str]:
        """What a block of addresses may be of a family: wide and narrow, around what is there."""
        pods = [a["ip"] for pod in self.pods for a in pod["status"].get("podIPs", ()) if ip(a["ip"]).family == family]
        nodes = [a["address"] for n in self.nodes for a in n["status"]["addresses"] if a["type"] == "InternalIP"]
        nodes = [a for a in nodes if ip(a).family == family]
        wide = [c for key in ("podCIDRs", "serviceCIDRs") for c in self.topology[key] if prefix(c).family == family]
        wide += [c for n in self.nodes for c in n["spec"]["podCIDRs"] if prefix(c).family == family]
        virtual = [a for s in self.services for a in s["spec"].get("clusterIPs", ()) if a != "None" and ip(a).family == family]
        bits = 32 if family == 4 else 128
        one = [f"{a}/{bits}" for a in (*pods, *pods, *nodes, *virtual)]
        near = [f"{a}/{bits - self.random.choice((1, 2, 3, 6))}" for a in (*pods, *nodes)]  # with host bits
        return [_EVERYWHERE[family], *wide, *_OUTSIDE[family], *one, *near]

    def _block(self, family: int | None = None) -> str:
        family = family or self.random.choice(self.families)
        if self.chance(0.25):
            return self.random.choice(self.blocks[family][:4])
        return self.random.choice(self.blocks[family])

    def _ip_block(self) -> Doc:
        text = self._block()
        block = prefix(text)
        made: Doc = {"cidr": text}
        inner = [b for b in self.blocks[block.family] if _inside(prefix(b), block)]
        if inner and self.chance(0.6):
            made["except"] = self.some(inner, 1, 3)
        return made

    # -- NetworkPolicy -----------------------------------------------------------------------------------------------------

    def _name(self, letter: str, n: int) -> str:
        return f"{letter}{n}" if self.chance(0.8) else f"{letter}{n}-whose-name-is-longer-than-a-chain"

    def _network_policy(self, n: int) -> Doc:
        spec: Doc = {}
        if self.chance(0.95):
            spec["podSelector"] = self._pod_selector(empty=0.35)
        if self.chance(0.65):
            spec["ingress"] = self._rules("from")
        if self.chance(0.5):
            spec["egress"] = self._rules("to")
        types = self.pick(
            [(5, None), (2, ["Ingress"]), (2, ["Egress"]), (3, ["Ingress", "Egress"]), (1, ["Egress", "Ingress"]), (1, [])]
        )
        if types is not None:
            spec["policyTypes"] = types
        return _document("networking.k8s.io/v1", "NetworkPolicy", self._name("n", n), spec, self.random.choice(NAMESPACES))

    def _rules(self, field: str) -> list[Doc] | None:
        kind = self.pick([(1, "null"), (2, "none"), (2, "all"), (15, "some")])
        if kind == "null":
            return None
        if kind == "none":
            return []
        return [{}] if kind == "all" else [self._rule(field) for _ in range(self.pick([(4, 1), (3, 2), (1, 3)]))]

    def _rule(self, field: str) -> Doc:
        made: Doc = {}
        if self.chance(0.85):
            made[field] = [] if self.chance(0.05) else [self._peer() for _ in range(self.pick([(4, 1), (3, 2), (1, 3)]))]
        if self.chance(0.6):
            count = self.pick([(1, 0), (8, 1), (6, 2), (3, 3), (1, _MANY)])
            protocol = self.random.choice(("TCP", "UDP"))
            many = [{"protocol": protocol, "port": number} for number in self._many_numbers()]
            made["ports"] = many if count == _MANY else [self._port() for _ in range(count)]
        return made

    def _peer(self) -> Doc:
        match self.pick([(7, "pods"), (4, "namespaces"), (4, "both"), (5, "block")]):
            case "pods":
                return {"podSelector": self._pod_selector()}
            case "namespaces":
                return {"namespaceSelector": self._namespace_selector()}
            case "both":
                return {"podSelector": self._pod_selector(), "namespaceSelector": self._namespace_selector()}
            case _:
                return {"ipBlock": self._ip_block()}

    def _many_numbers(self) -> list[int]:
        """More ports than one multiport match takes, none beside another; those that somebody has stand behind the others."""
        return self.random.sample(range(100, 5000, 3), _MANY - 3) + self.random.sample(_NUMBERS[:2] + _NUMBERS[3:5], 3)

    def _port(self) -> Doc:
        made: Doc = {}
        protocol = self.pick([(6, None), (8, "TCP"), (5, "UDP"), (2, "SCTP")])
        if protocol is not None:
            made["protocol"] = protocol
        match self.pick([(2, "none"), (9, "number"), (4, "range"), (5, "name")]):
            case "number":
                made["port"] = self.random.choice(_NUMBERS)
            case "range":
                made["port"], made["endPort"] = self.random.choice(_RANGES)
            case "name":
                made["port"] = self.random.choice(_NAMES)
        return made

    # -- Calico ------------------------------------------------------------------------------------------------------------

    def _tiers(self) -> list[Doc]:
        made = []
        for name in self.some(_TIERS, 0, 2):
            spec: Doc = {"order": {"security": 100, "platform": 2000, "late": 2_000_000}[name]}
            if self.chance(0.5):
                spec["defaultAction"] = self.random.choice(("Pass", "Deny"))
            if name == "late" and self.chance(0.4):
                del spec["order"]
            self.tiers.append(name)
            made.append(_document(_CALICO, "Tier", name, spec))
        return made

    def _network_sets(self) -> list[Doc]:
        made = []
        for n in range(self.random.randint(0, 3)):
            nets = [self._block() for _ in range(self.random.randint(0, 4))]
            nets = [net if self.chance(0.8) else net.partition("/")[0] for net in nets]
            namespace = self.random.choice((None, *NAMESPACES))
            kind = "GlobalNetworkSet" if namespace is None else "NetworkSet"
            labels = {"set": self.random.choice(("near", "far")), **self._labels(_POD_LABELS, 0.3)}
            made.append(_document(_CALICO, kind, f"set-{n}", {"nets": nets}, namespace, labels))
        return made

    def _calico_policy(self, n: int, everywhere: bool = False) -> Doc:
        namespace = None if everywhere or self.chance(0.5) else self.random.choice(NAMESPACES)
        tier = self.random.choice(("default", *self.tiers))
        kind = "GlobalNetworkPolicy" if namespace is None else "NetworkPolicy"
        if self.chance(0.05):
            kind = "Staged" + kind
        spec: Doc = {}
        if tier != "default" or self.chance(0.3):
            spec["tier"] = tier
        if self.chance(0.8):
            spec["order"] = self.random.choice((1, 10, 10.5, 500, 1000, 1500, 2000))
        if self.chance(0.8):
            spec["selector"] = self._calico_selector()
        if self.chance(0.2):
            spec["serviceAccountSelector"] = self._words({"role": ("api", "job"), "projectcalico.org/name": _ACCOUNTS})
        if namespace is None and self.chance(0.25):
            spec["namespaceSelector"] = self._calico_namespaces(may_be_global=False)
        if self.chance(0.7):
            spec["ingress"] = [self._calico_rule("source") for _ in range(self.random.randint(0, 4))]
        if self.chance(0.6):
            spec["egress"] = [self._calico_rule("destination") for _ in range(self.random.randint(0, 4))]
        types = self.pick([(5, None), (2, ["Ingress"]), (2, ["Egress"]), (3, ["Ingress", "Egress"])])
        if types is not None:
            spec["types"] = types
        name = self._name("c", n)
        return _document(_CALICO, kind, name if tier == "default" else f"{tier}.{name}", spec, namespace)

    def _words(self, pool: dict[str, tuple[str, ...]], depth: int = 0) -> str:
        """An expression of Calico's selector language over labels of a pool."""
        key = self.random.choice([*pool, *(["unheard"] if self.chance(0.2) else [])])
        value = self.random.choice(pool.get(key, ("x",)))
        listed = ", ".join(f"'{v}'" for v in self.some(pool.get(key, ("x",)), 1, 2))
        kinds = [(4, "=="), (2, "!="), (2, "in"), (2, "not in"), (2, "has"), (1, "starts"), (1, "contains"), (1, "ends")]
        if depth < 2:
            kinds += [(2, "and"), (2, "or"), (3, "not")]
        match self.pick(kinds):
            case "==" | "!=" as operator:
                return f"{key} {operator} '{value}'"
            case "in" | "not in" as operator:
                return f"{key} {operator} {{{listed}}}"
            case "has":
                return f"has({key})"
            case "starts":
                return f"{key} starts with '{value[:1]}'"
            case "ends":
                return f"{key} ends with '{value[-1:]}'"
            case "contains":
                return f"{key} contains '{value[1:2]}'"
            case "and":
                return f"{self._words(pool, depth + 1)} && {self._words(pool, depth + 1)}"
            case "or":
                return f"({self._words(pool, depth + 1)} || {self._words(pool, depth + 1)})"
            case _:
                return f"!({self._words(pool, depth + 1)})"

    def _calico_selector(self) -> str:
        if self.chance(0.2):
            return self.random.choice(("all()", ""))
        more = {"projectcalico.org/namespace": NAMESPACES, "set": ("near", "far"), "pcns.team": ("red", "blue")}
        return self._words({**_POD_LABELS, **(more if self.chance(0.4) else {})})

    def _calico_namespaces(self, may_be_global: bool = True) -> str:
        if self.chance(0.25):
            return self.random.choice(("all()", "global()") if may_be_global else ("all()",))
        return self._words({"team": ("red", "blue"), "env": ("prod", ""), "projectcalico.org/name": NAMESPACES})

    def _calico_rule(self, peer: str) -> Doc:
        """A rule; `peer` is the field of the other end."""
        made: Doc = {"action": self.pick([(12, "Allow"), (5, "Deny"), (3, "Pass"), (1, "Log")])}
        protocol = self.pick([(6, None), (8, "TCP"), (4, "UDP"), (2, "SCTP"), (2, "ICMP"), (1, "ICMPv6"), (1, 17), (1, 132)])
        family: int | None = None
        if protocol is not None:
            made["protocol"] = protocol
            family = {"ICMP": 4, "ICMPv6": 6}.get(str(protocol))
            if family is not None and self.chance(0.5):
                kind = {"type": self.random.choice((8, 0, 128) if family == 4 else (128, 8))}
                made[self.random.choice(("icmp", "notICMP"))] = {**kind, **({"code": 0} if self.chance(0.3) else {})}
        elif self.chance(0.15):
            made["notProtocol"] = self.random.choice(("TCP", "UDP", "SCTP"))
        if self.chance(0.1):
            family = family or self.random.choice(self.families)
            made["ipVersion"] = family
        family = family if family in self.families else self.random.choice(self.families)
        with_ports = protocol in ("TCP", "UDP", "SCTP", 17, 132)
        if self.chance(0.1) and peer == "destination":
            made["destination"] = {"services": self._service()}
            return made
        for end in ("source", "destination"):
            if self.chance(0.75 if end == peer else 0.35 if end == "destination" else 0.15):
                made[end] = self._entity(family, with_ports, end)
        return made

    def _service(self) -> Doc:
        if not self.services or self.chance(0.1):
            return {"name": "nowhere", "namespace": "default"}
        meta = self.random.choice(self.services)["metadata"]
        return {"name": meta["name"], "namespace": meta["namespace"]}

    def _entity(self, family: int, with_ports: bool, end: str) -> Doc:
        made: Doc = {}
        if self.chance(0.3):
            made["nets"] = [self._block(family) for _ in range(self.pick([(4, 1), (2, 2), (1, 3)]))]
        if self.chance(0.12):
            made["notNets"] = [self._block(family) for _ in range(self.pick([(4, 1), (2, 2)]))]
        if self.chance(0.4):
            made["selector"] = self._calico_selector()
        if self.chance(0.12):
            made["notSelector"] = self._calico_selector()
        if self.chance(0.25):
            made["namespaceSelector"] = self._calico_namespaces()
        if self.chance(0.12):
            made["serviceAccounts"] = (
                {"names": self.some(_ACCOUNTS, 1, 2)}
                if self.chance(0.5)
                else {"selector": self._words({"role": ("api", "job"), "projectcalico.org/name": _ACCOUNTS})}
            )
        if with_ports and end == "destination":
            if self.chance(0.6):
                made["ports"] = self._calico_ports()
            if self.chance(0.15):
                made["notPorts"] = self._calico_ports()
        return made

    def _calico_ports(self) -> list[int | str]:
        count = self.pick([(8, 1), (5, 2), (3, 3), (1, _MANY)])
        found: list[int | str] = [self._calico_port() for _ in range(count)]
        return [*self._many_numbers(), *found[:1]] if count == _MANY else found

    def _calico_port(self) -> int | str:
        match self.pick([(5, "number"), (3, "range"), (3, "name")]):
            case "number":
                return self.random.choice(_NUMBERS)
            case "range":
                first, last = self.random.choice(_RANGES)
                return f"{first}:{last}"
            case _:
                return self.random.choice(_NAMES)

    # -- host endpoints ----------------------------------------------------------------------------------------------------

    def _host_endpoints(self) -> list[Doc]:
        """Nodes under policy, by their device, by all of them, or by an address; and policies that mean them."""
        made = []
        for node in self.some(self.nodes, 1, 2):
            own = [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
            device = self.random.choice(("eth0", "*", None))
            spec: Doc = {"node": node["metadata"]["name"], "expectedIPs": own}
            if device is not None:
                spec["interfaceName"] = device
            if self.chance(0.5):
                spec["profiles"] = self.some(("projectcalico-default-allow", "nobody-made-it"), 1, 2)
            labels = {"host": self.random.choice(("one", "two")), **self._labels(_POD_LABELS, 0.3)}
            made.append(_document(_CALICO, "HostEndpoint", f"{node['metadata']['name']}-host", spec, labels=labels))
        for n in range(self.random.randint(0, 3)):
            policy = self._calico_policy(100 + n, everywhere=True)
            selectors = ("has(host)", "host == 'one'", "host in {'one', 'two'} && app != 'a'")
            policy["spec"]["selector"] = self.random.choice(selectors)
            policy["spec"].pop("namespaceSelector", None)
            policy["spec"].pop("serviceAccountSelector", None)
            made.append(policy)
        return made

    # -- ClusterNetworkPolicy and its ancestors ----------------------------------------------------------------------------

    def _cluster_policies(self) -> list[Doc]:
        old = self.chance(0.5)
        made = []
        for n in range(self.random.randint(1, 3)):
            spec: Doc = {"priority": self.random.choice((0, 10, 10, 100, 1000))}
            if not old:
                spec["tier"] = self.random.choice(("Admin", "Baseline"))
            kind = "AdminNetworkPolicy" if old else "ClusterNetworkPolicy"
            actions = ("Allow", "Deny", "Pass") if old else ("Accept", "Deny", "Pass")
            made.append(self._cluster_policy(kind, self._name("k", n), spec, actions))
        if old and self.chance(0.6):
            made.append(self._cluster_policy("BaselineAdminNetworkPolicy", "default", {}, ("Allow", "Deny")))
        return made

    def _cluster_policy(self, kind: str, name: str, spec: Doc, actions: Sequence[str]) -> Doc:
        spec["subject"] = (
            {"namespaces": self._namespace_selector(0.4)} if self.chance(0.5) else {"pods": self._namespaced(0.4)}
        )
        old = kind != "ClusterNetworkPolicy"
        for field, direction in (("from", "ingress"), ("to", "egress")):
            if self.chance(0.75):
                spec[direction] = [self._cluster_rule(field, old, actions) for _ in range(self.random.randint(0, 3))]
        return _document(_ADMIN if old else _CLUSTER, kind, name, spec)

    def _namespaced(self, empty: float) -> Doc:
        return {"namespaceSelector": self._namespace_selector(empty), "podSelector": self._pod_selector(empty)}

    def _cluster_rule(self, field: str, old: bool, actions: Sequence[str]) -> Doc:
        action = self.random.choice(actions)
        made: Doc = {"action": action}
        if self.chance(0.4):
            made["name"] = f"{action.lower()} some"
        outside = field == "to" and self.chance(0.35)
        made[field] = [self._cluster_peer(outside, action) for _ in range(self.pick([(3, 1), (2, 2)]))]
        if self.chance(0.5):
            draw: Callable[[bool], Doc] = self._admin_port if old else self._cluster_port
            made["ports" if old else "protocols"] = [draw(not outside) for _ in range(self.pick([(4, 1), (3, 2), (1, 3)]))]
        return made

    def _cluster_peer(self, outside: bool, action: str) -> Doc:
        if outside:
            match self.pick([(7, "networks"), (2, "nodes"), (1, "domains")]):
                case "nodes":
                    return {"nodes": {}}
                case "domains" if action in ("Accept", "Allow"):
                    return {"domainNames": ["example.com"]}
                case _:
                    return {"networks": [self._block() for _ in range(self.pick([(3, 1), (2, 2), (1, 3)]))]}
        if self.chance(0.03):
            return {"futureKindOfPeer": {}}
        return {"namespaces": self._namespace_selector(0.3)} if self.chance(0.5) else {"pods": self._namespaced(0.3)}

    def _admin_port(self, may_be_named: bool) -> Doc:
        protocol = self.pick([(6, "TCP"), (4, "UDP"), (1, "SCTP")])
        match self.pick([(5, "number"), (3, "range"), (3 if may_be_named else 0, "name")]):
            case "number":
                return {"portNumber": {"protocol": protocol, "port": self.random.choice(_NUMBERS)}}
            case "range":
                first, last = self.random.choice([r for r in _RANGES if r[0] < r[1]])
                return {"portRange": {"protocol": protocol, "start": first, "end": last}}
            case _:
                return {"namedPort": self.random.choice(_NAMES)}

    def _cluster_port(self, may_be_named: bool) -> Doc:
        protocol = self.pick([(6, "tcp"), (4, "udp"), (1, "sctp")])
        match self.pick([(5, "number"), (3, "range"), (2, "all"), (3 if may_be_named else 0, "name")]):
            case "number":
                return {protocol: {"destinationPort": {"number": self.random.choice(_NUMBERS)}}}
            case "range":
                first, last = self.random.choice([r for r in _RANGES if r[0] < r[1]])
                return {protocol: {"destinationPort": {"range": {"start": first, "end": last}}}}
            case "all":
                return {protocol: {}}
            case _:
                return {"destinationNamedPort": self.random.choice(_NAMES)}


def _inside(inner: Prefix, outer: Prefix) -> bool:
    """What the API server asks of `except`."""
    return inner.family == outer.family and inner.length > outer.length and inner.address in outer


def _document(
    version: str, kind: str, name: str, spec: Doc, namespace: str | None = None, labels: dict[str, str] | None = None
) -> Doc:
    meta: Doc = {"name": name}
    if namespace is not None:
        meta["namespace"] = namespace
    if labels:
        meta["labels"] = labels
    return {"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec}


# -- flows -------------------------------------------------------------------------------------------------------------


def policy_flows(cluster: Cluster, seed: int, count: int) -> list[Request]:
    """Questions that policies answer: most of them from pods to pods, on ports that somebody declares or some rule names.

    Parameters
    ----------
    cluster : Cluster
        Any cluster.
    seed : int
        Which flows.
    count : int
        How many at most.

    Returns
    -------
    list of Request
        All different; destinations are addresses.
    """
    random = Random(f"policy flows {seed}")
    pods = [pod for pod in cluster.pods.values() if pod.ips and pod.node_name in cluster.nodes]
    sources: list[tuple[str, tuple[int, ...]]] = [
        (f"{pod.namespace}/pod/{pod.name}", tuple(dict.fromkeys(a.family for a in pod.ips))) for pod in pods
    ]
    sources = sources * 3 + [
        (f"node/{node.name}", tuple(dict.fromkeys(a.family for a in node.internal_ips))) for node in cluster.nodes.values()
    ]
    found: dict[Request, None] = {}
    for _ in range(count * 20):
        if len(found) >= count or not pods:
            break
        source, families = random.choice(sources)
        family = random.choice(families)
        to = random.choice(pods)
        addresses = [a for a in to.ips if a.family == family]
        if addresses:
            destination, protocol = _target(random, to, addresses[0])
            found[Request(source, destination, protocol, family=family)] = None
    return list(found)


def _target(random: Random, pod: Pod, address: Ip) -> tuple[str, str]:
    """A port of the pod's, or any that rules speak of; the pod itself by ping."""
    roll = random.random()
    if roll < 0.1:
        return str(address), "icmp"
    if roll < 0.55 and pod.ports:
        port = random.choice(pod.ports)
        return address.port(port.container_port), port.protocol.lower()
    if roll < 0.57:
        return address.port(4789), "udp"  # VXLAN: Felix lets none out of a pod
    protocol = random.choices(("tcp", "udp", "sctp"), (12, 7, 1))[0]
    return address.port(random.choice((*_NUMBERS, 8000, 9100, 1, 65535))), protocol
