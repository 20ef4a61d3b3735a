"""kube-proxy's iptables mode: recordings of kube-proxy v1.30.5 first, then rows for what they do not show.

Expected rules are in iptables-save's own words. Rows beyond the recordings cite the function of kube-proxy v1.30 that decides.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from netlab.dataplane.proxy.endpoints import Backend, select
from netlab.dataplane.proxy.iptables import compile_ruleset
from netlab.dataplane.proxy.names import chain_hash, endpoint_chain
from netlab.dataplane.proxy.node import listeners
from netlab.errors import InputError
from netlab.kube.cluster import Cluster, Proxy
from netlab.kube.load import load
from netlab.kube.objects import Endpoint, EndpointPort, EndpointSlice, LoadBalancerIngress, Node, Service, ServicePort
from netlab.linux.addr import Ip, ip, prefix
from netlab.linux.rules import Ruleset
from netlab.linux.text import iptables_save
from netlab.refs import Ref

DATA = Path(__file__).parent / "data" / "kube-proxy-1.30.5"

# The clusterCIDR of each recording.
POD_NETWORKS = {
    "services": ("10.244.0.0/16",),
    "dualstack": ("10.244.0.0/16", "fd00:10:244::/56"),
    "random-11": ("10.200.0.0/16",),
}
RECORDINGS = [(name, path) for name in POD_NETWORKS for path in sorted((DATA / name / "iptables").iterdir())]

# kube-proxy writes the services into these in the order of a Go map.
UNORDERED = {"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-FIREWALL"}


def recorded(name: str) -> Cluster:
    cluster = load([str(DATA / name / "cluster.json")])
    return with_proxy(cluster, cluster_cidrs=tuple(prefix(c) for c in POD_NETWORKS[name]))


def with_proxy(cluster: Cluster, **options: object) -> Cluster:
    return msgspec.structs.replace(cluster, proxy=msgspec.structs.replace(cluster.proxy, **options))


# --- The recordings ---------------------------------------------------------------------------------------------------


def test_all_recordings_are_there():
    assert len(RECORDINGS) == 14


@pytest.mark.parametrize(("name", "path"), RECORDINGS, ids=lambda v: v if isinstance(v, str) else v.name)
def test_a_node_gets_what_kube_proxy_wrote(name: str, path: Path):
    node, _, tool = path.name.partition(".")
    family = 6 if tool == "ip6tables-save" else 4
    want = iptables_save.parse(path.read_text(), family=family, file=path.name)
    got = compile_ruleset(recorded(name), node, family)
    assert [(t.family, t.name) for t in got.tables] == [(t.family, t.name) for t in want.tables]
    for table, wanted in zip(got.tables, want.tables, strict=True):
        assert list(table.chains) == list(wanted.chains)
        for chain, wanted_chain in zip(table.chains.values(), wanted.chains.values(), strict=True):
            place = f"{table.name} {chain.name}"
            assert (chain.hook, chain.priority, chain.policy) == (wanted_chain.hook, wanted_chain.priority, wanted_chain.policy)
            assert Counter(map(str, chain.rules)) == Counter(map(str, wanted_chain.rules)), place
            if chain.name in UNORDERED:
                assert Counter(chain.rules) == Counter(wanted_chain.rules), place
            else:
                assert chain.rules == wanted_chain.rules, place
    assert str(got.table("nat").chains["KUBE-SERVICES"].rules[-1]).endswith("-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")


def test_rules_made_for_a_service_say_so():
    got = compile_ruleset(recorded("services"), "node-1", 4)
    objects = {r.ref.object for t in got.tables for c in t.chains.values() for r in c.rules if r.ref}
    assert objects == {
        f"Service {s}"
        for s in (
            "default/agent", "default/db", "default/hostnames", "default/kubernetes", "default/legacy", "default/nobody",
            "default/sctp", "default/web", "default/web-ext", "default/web-itp-local", "default/web-lb", "default/web-lb-local",
            "default/web-local", "default/web-sticky", "kube-system/kube-dns",
        )
    }  # fmt: skip
    frame = {r.ref for c in ("KUBE-FORWARD", "KUBE-FIREWALL") for r in got.table("filter").chains[c].rules}
    assert frame == {None}
    per_service = [r for c, v in got.table("nat").chains.items() if c[:9] in ("KUBE-SVC-", "KUBE-SEP-") for r in v.rules]
    assert per_service
    assert all(r.ref and r.ref.file and r.ref.object for r in per_service)


@pytest.mark.parametrize("name", POD_NETWORKS)
def test_the_order_of_services_and_slices_does_not_matter(name: str):
    cluster = recorded(name)
    for seed in range(5):
        shuffle = random.Random(seed)
        services, slices = list(cluster.services.items()), [(k, shuffle.sample(v, len(v))) for k, v in cluster.slices.items()]
        shuffle.shuffle(services)
        shuffle.shuffle(slices)
        other = msgspec.structs.replace(cluster, services=dict(services), slices={k: tuple(v) for k, v in slices})
        for node in cluster.nodes:
            for family in (4, 6):
                assert compile_ruleset(other, node, family) == compile_ruleset(cluster, node, family)
            assert listeners(other, node) == listeners(cluster, node)


def test_endpoints_in_several_slices_compile_alike_in_any_order_of_slices():
    pieces = [
        slice_of("web", pod("10.244.0.2"), name="web-a"),
        slice_of("web", pod("10.244.0.2", ready=False), pod("10.244.1.2", on="node-2"), name="web-b"),
        slice_of("web", pod("10.244.1.2", on="node-2", ready=False), name="web-c"),
    ]
    one = compile_ruleset(cluster_of(service("web"), *pieces), "node-2", 4)
    for seed in range(6):
        random.Random(seed).shuffle(pieces)
        assert compile_ruleset(cluster_of(service("web"), *pieces), "node-2", 4) == one


# --- Rows -------------------------------------------------------------------------------------------------------------


def service(name: str, address: str = "10.96.0.1", **fields: object) -> Service:
    fields.setdefault("ports", (ServicePort(port=80, name="http"),))
    ref = Ref(file="web.yaml", line=7)
    return Service(name=name, namespace="default", cluster_ips=tuple(ip(a) for a in address.split(",")), ref=ref, **fields)


def pod(address: str, *, on: str = "node-1", ready: bool = True, terminating: bool = False, **fields: object) -> Endpoint:
    serving = fields.pop("serving", ready or terminating)
    return Endpoint((ip(address),), ready, serving, terminating, on, **fields)


def slice_of(name_of: str, *endpoints: Endpoint, family: int = 4, name: str = "", port: int | None = 8080, **fields: object):
    return EndpointSlice(
        name=name or f"{name_of}-{family}",
        namespace="default",
        service=f"default/{name_of}",
        family=family,
        endpoints=endpoints,
        ports=fields.pop("ports", (EndpointPort(port, "TCP", "http"),)),
        **fields,
    )


def cluster_of(*things: Service | EndpointSlice, **options: object) -> Cluster:
    options.setdefault("cluster_cidrs", (prefix("10.244.0.0/16"), prefix("fd00:244::/56")))
    nodes = [
        Node(
            name=f"node-{n}",
            labels={"topology.kubernetes.io/zone": zone} if zone else {},
            internal_ips=(ip(f"198.18.0.{n}"), ip(f"fd00:198::{n}")),
            pod_cidrs=(prefix(f"10.244.{n - 1}.0/24"), prefix(f"fd00:244:0:{n}::/64")),
        )
        for n, zone in ((1, "zone-a"), (2, "zone-b"), (3, ""))
    ]
    slices: dict[str, tuple[EndpointSlice, ...]] = {}
    for thing in things:
        if isinstance(thing, EndpointSlice):
            slices[thing.service] = (*slices.get(thing.service, ()), thing)
    return Cluster(
        nodes={n.name: n for n in nodes},
        services={s.key: s for s in things if isinstance(s, Service)},
        slices=slices,
        proxy=Proxy(**options),
    )


SVC, SVL, EXT, FW = (f"KUBE-{kind}-{chain_hash('default/web:http', 'tcp')}" for kind in ("SVC", "SVL", "EXT", "FW"))


def sep(endpoint: str) -> str:
    return endpoint_chain("default/web:http", "tcp", endpoint)


def lines(cluster: Cluster, chain: str, table: str = "nat", node: str = "node-1", family: int = 4, **more: object) -> list[str]:
    """The rules of a chain as text, [] where there is no such chain; without the last rule of KUBE-SERVICES."""
    found = compile_ruleset(cluster, node, family, **more).table(table).chains.get(chain)
    texts = [str(r) for r in found.rules] if found else []
    return [t for t in texts if "NOTE: this must be the last rule" not in t]


def chosen(cluster: Cluster, chain: str = SVC, node: str = "node-1", family: int = 4) -> list[str]:
    """The endpoints that a KUBE-SVC- or KUBE-SVL- chain leads to, in its order."""
    return [t.partition(" -> ")[2].partition('"')[0] for t in lines(cluster, chain, node=node, family=family) if " -> " in t]


VIP = LoadBalancerIngress(ip("192.0.2.8"))


def test_an_ingress_of_ip_mode_proxy_is_not_programmed():
    """IsVIPMode (pkg/proxy/util): traffic to such an address has to pass the load balancer itself."""
    for ingress, rules in ((VIP, 1), (LoadBalancerIngress(ip("192.0.2.8"), ip_mode="Proxy"), 0)):
        ports = (ServicePort(port=80, name="http", node_port=30080),)
        web = service("web", type="LoadBalancer", load_balancer=(ingress,), ports=ports)
        texts = lines(cluster_of(web, slice_of("web", pod("10.244.0.2"))), "KUBE-SERVICES")
        assert len([t for t in texts if "192.0.2.8" in t]) == rules
        assert len(lines(cluster_of(web, slice_of("web", pod("10.244.0.2"))), "KUBE-NODEPORTS")) == 1


def test_an_ingress_with_a_host_name_alone_is_not_programmed():
    web = service("web", type="LoadBalancer", load_balancer=(LoadBalancerIngress(hostname="lb.example.com"),))
    assert len(lines(cluster_of(web, slice_of("web", pod("10.244.0.2"))), "KUBE-SERVICES")) == 1


def test_external_ip_with_policy_local_and_endpoints_elsewhere():
    """syncProxyRules: EXT short-circuits pods and the node to KUBE-SVC-; the rest is dropped in filter."""
    web = service("web", external_ips=(ip("192.0.2.9"), ip("2001:db8::9")), external_traffic_policy="Local")
    cluster = cluster_of(web, slice_of("web", pod("10.244.1.2", on="node-2")))
    away = "default/web:http external destinations"
    short_circuit = [
        f'-s 10.244.0.0/16 -m comment --comment "pod traffic for {away}" -j {SVC}',
        f'-m comment --comment "masquerade LOCAL traffic for {away}" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ',
        f'-m comment --comment "route LOCAL traffic for {away}" -m addrtype --src-type LOCAL -j {SVC}',
    ]
    drop = '-d 192.0.2.9/32 -p tcp -m comment --comment "default/web:http has no local endpoints" -m tcp --dport 80 -j DROP'
    assert lines(cluster, "KUBE-SERVICES") == [
        f'-d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j {SVC}',
        f'-d 192.0.2.9/32 -p tcp -m comment --comment "default/web:http external IP" -m tcp --dport 80 -j {EXT}',
    ]
    assert lines(cluster, EXT) == short_circuit
    assert lines(cluster, "KUBE-EXTERNAL-SERVICES", "filter") == [drop]
    assert lines(cluster, SVL) == []
    assert lines(cluster, EXT, node="node-2") == [*short_circuit, f"-j {SVL}"]
    assert lines(cluster, "KUBE-EXTERNAL-SERVICES", "filter", node="node-2") == []


def test_policy_local_of_a_plain_cluster_ip_service_means_nothing():
    """ExternalPolicyLocal (pkg/api/v1/service): only services that are reachable from outside have an external policy."""
    web = service("web", external_traffic_policy="Local")
    cluster = cluster_of(web, slice_of("web", pod("10.244.1.2", on="node-2")))
    assert chosen(cluster) == ["10.244.1.2:8080"]
    assert lines(cluster, SVL) == []
    assert lines(cluster, "KUBE-EXTERNAL-SERVICES", "filter") == []


def test_affinity_with_internal_policy_local():
    """writeServiceToEndpointRules: first who was here before, then who is chosen; KUBE-SEP- remembers."""
    web = service("web", internal_traffic_policy="Local", session_affinity="ClientIP", session_affinity_timeout=60)
    a, b = "10.244.0.2:8080", "10.244.0.3:8080"
    slices = slice_of("web", pod("10.244.0.3"), pod("10.244.0.2"), pod("10.244.1.2", on="node-2"))
    cluster = cluster_of(web, slices)
    recent = "--mask 255.255.255.255 --rsource"

    def to(endpoint: str, more: str = "") -> str:
        return f'-m comment --comment "default/web:http -> {endpoint}" {more}-j {sep(endpoint)}'

    assert lines(cluster, SVL) == [
        '! -s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80'
        " -j KUBE-MARK-MASQ",
        to(a, f"-m recent --rcheck --seconds 60 --reap --name {sep(a)} {recent} "),
        to(b, f"-m recent --rcheck --seconds 60 --reap --name {sep(b)} {recent} "),
        to(a, "-m statistic --mode random --probability 0.50000000000 "),
        to(b),
    ]
    assert lines(cluster, sep(a)) == [
        '-s 10.244.0.2/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ',
        f'-p tcp -m comment --comment "default/web:http" -m recent --set --name {sep(a)} {recent}'
        " -m tcp -j DNAT --to-destination 10.244.0.2:8080",
    ]
    assert lines(cluster, SVC) == []
    assert lines(cluster, sep("10.244.1.2:8080")) == []
    drop = '-d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http has no local endpoints" -m tcp --dport 80 -j DROP'
    assert lines(cluster, "KUBE-SERVICES", "filter", node="node-3") == [drop]
    assert lines(cluster, "KUBE-SERVICES", node="node-3") == []


def test_affinity_over_ipv6_remembers_whole_addresses():
    web = service("web", "fd00:96::1", session_affinity="ClientIP")
    cluster = cluster_of(web, slice_of("web", pod("fd00:244::2"), family=6))
    wide = f"--name {sep('[fd00:244::2]:8080')} --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff --rsource"
    assert wide in lines(cluster, SVC, family=6)[1]
    assert lines(cluster, sep("[fd00:244::2]:8080"), family=6)[1].endswith(
        f"-m recent --set {wide} -m tcp -j DNAT --to-destination [fd00:244::2]:8080"
    )


A, B = "10.244.0.2:8080", "10.244.1.2:8080"
MODE, OLD_MODE = "service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"


@pytest.mark.parametrize(
    ("case", "node", "annotations", "hints_a", "hints_b", "endpoints"),
    [
        ("each zone its own", "node-1", {MODE: "Auto"}, "zone-a", "zone-b", [A]),
        ("the other zone", "node-2", {MODE: "Auto"}, "zone-a", "zone-b", [B]),
        ("any value but disabled", "node-1", {MODE: "example.com/mode"}, "zone-a", "zone-b", [A]),
        ("disabled", "node-1", {MODE: "Disabled"}, "zone-a", "zone-b", [A, B]),
        ("no annotation: v1.30 does not look at hints", "node-1", {}, "zone-a", "zone-b", [A, B]),
        ("the old annotation wins", "node-1", {OLD_MODE: "disabled", MODE: "Auto"}, "zone-a", "zone-b", [A, B]),
        ("the old annotation alone", "node-1", {OLD_MODE: "auto"}, "zone-a", "zone-b", [A]),
        ("one endpoint without a hint", "node-1", {MODE: "Auto"}, "zone-a", "", [A, B]),
        ("no endpoint for the zone", "node-1", {MODE: "Auto"}, "zone-b", "zone-b", [A, B]),
        ("the node has no zone", "node-3", {MODE: "Auto"}, "zone-a", "zone-b", [A, B]),
        ("one endpoint for two zones", "node-2", {MODE: "Auto"}, "zone-a zone-b", "zone-a", [A]),
    ],
)
def test_topology_hints(case, node, annotations, hints_a, hints_b, endpoints):
    """canUseTopology (pkg/proxy/topology.go)."""
    slices = slice_of(
        "web",
        pod("10.244.0.2", hints_for_zones=tuple(hints_a.split())),
        pod("10.244.1.2", on="node-2", hints_for_zones=tuple(hints_b.split())),
        pod("10.244.2.2", on="node-3", ready=False),  # hints of endpoints that are not ready do not count
    )
    assert chosen(cluster_of(service("web", annotations=annotations), slices), node=node) == endpoints, case


def test_a_local_endpoint_of_another_zone_is_reachable_under_policy_local():
    """CategorizeEndpoints: the union of what each policy uses gets KUBE-SEP- chains."""
    ports = (ServicePort(port=80, name="http", node_port=30080),)
    web = service("web", type="NodePort", external_traffic_policy="Local", annotations={MODE: "Auto"}, ports=ports)
    here = pod("10.244.0.2", hints_for_zones=("zone-b",))
    there = pod("10.244.1.2", on="node-2", hints_for_zones=("zone-a",))
    cluster = cluster_of(web, slice_of("web", here, there))
    assert (chosen(cluster, SVC), chosen(cluster, SVL)) == ([B], [A])
    assert all(len(lines(cluster, sep(endpoint))) == 2 for endpoint in (A, B))


READY = {"ready": True}
DYING = {"ready": False, "serving": True, "terminating": True}
DYING_READY = {"ready": True, "serving": True, "terminating": True}  # publishNotReadyAddresses
GONE = {"ready": False, "serving": False, "terminating": True}
STARTING = {"ready": False, "serving": False, "terminating": False}
STUCK = {"ready": False, "serving": True, "terminating": False}


@pytest.mark.parametrize(
    ("case", "here", "there", "cluster", "local", "any_"),
    [
        ("both ready", READY, READY, "here there", "here", True),
        ("the ready one alone", READY, DYING, "here", "here", True),
        ("local falls back on its own", DYING, READY, "there", "here", True),
        ("all terminate", DYING, DYING, "here there", "here", True),
        ("one terminates, one starts", STARTING, DYING, "there", "", True),
        ("terminating yet ready", DYING_READY, DYING, "here", "here", True),
        ("no longer serving", GONE, GONE, "", "", False),
        ("not ready, not terminating", STUCK, STARTING, "", "", False),
        ("none here", GONE, READY, "there", "", True),
    ],
)
def test_which_endpoints_are_usable(case, here, there, cluster, local, any_):
    """CategorizeEndpoints (pkg/proxy/topology.go), KEP-1669."""
    a = Backend("here", ip("10.0.0.1"), 80, local=True, **here)
    b = Backend("there", ip("10.0.0.2"), 80, **there)
    got = select([a, b], cluster=True, local=True, zone=None)
    assert " ".join(x.text for x in got.cluster) == cluster, case
    assert " ".join(x.text for x in got.local) == local, case
    assert {x.text for x in got.reachable} == {*cluster.split(), *local.split()}, case
    assert got.any is any_, case


def test_no_endpoints_reject_in_the_words_of_each_family():
    ports = (ServicePort(port=80, name="http", node_port=30080),)
    for family, address, extra, kind in (
        (4, "10.96.0.1/32", "192.0.2.9/32", "icmp-port-unreachable"),
        (6, "fd00:96::1/128", "2001:db8::9/128", "icmp6-port-unreachable"),
    ):
        web = service(
            "web", "10.96.0.1,fd00:96::1", type="NodePort", ports=ports, external_ips=(ip("192.0.2.9"), ip("2001:db8::9"))
        )
        why, end = '-m comment --comment "default/web:http has no endpoints"', f"-j REJECT --reject-with {kind}"
        cluster = cluster_of(web)
        assert lines(cluster, "KUBE-SERVICES", "filter", family=family) == [f"-d {address} -p tcp {why} -m tcp --dport 80 {end}"]
        assert lines(cluster, "KUBE-EXTERNAL-SERVICES", "filter", family=family) == [
            f"-d {extra} -p tcp {why} -m tcp --dport 80 {end}",
            f"-p tcp {why} -m addrtype --dst-type LOCAL -m tcp --dport 30080 {end}",
        ]
        assert lines(cluster, "KUBE-SERVICES", family=family) == []
        assert lines(cluster, "KUBE-NODEPORTS", family=family) == []


@pytest.mark.parametrize(
    ("case", "ranges", "family", "sources"),
    [
        ("one range", "203.0.113.0/24", 4, ["-s 203.0.113.0/24 "]),
        ("the node is in a range: its VIP too", "198.18.0.0/24 203.0.113.0/24", 4,
         ["-s 198.18.0.0/24 ", "-s 203.0.113.0/24 ", "-s 192.0.2.8/32 "]),
        ("IPv6", "203.0.113.0/24 2001:db8:1::/48", 6, ["-s 2001:db8:1::/48 "]),
        ("IPv6, the node is in it", "fd00:198::/64", 6, ["-s fd00:198::/64 ", "-s 2001:db8::8/128 "]),
        ("everybody", "0.0.0.0/0", 4, ["", "-s 192.0.2.8/32 "]),
        ("ranges of the other family alone: no firewall", "203.0.113.0/24", 6, None),
    ],
)  # fmt: skip
def test_load_balancer_source_ranges(case, ranges, family, sources):
    """syncProxyRules, "Set up firewall chain"; serviceport.go keeps the ranges of the family."""
    web = service(
        "web",
        "10.96.0.1,fd00:96::1",
        type="LoadBalancer",
        load_balancer=(VIP, LoadBalancerIngress(ip("2001:db8::8"))),
        load_balancer_source_ranges=tuple(prefix(r) for r in ranges.split()),
    )
    cluster = cluster_of(web, slice_of("web", pod("10.244.0.2")), slice_of("web", pod("fd00:244::2"), family=6))
    vip = "192.0.2.8/32" if family == 4 else "2001:db8::8/128"
    to_vip = f'-d {vip} -p tcp -m comment --comment "default/web:http loadbalancer IP" -m tcp --dport 80 -j '
    captured = [t for t in lines(cluster, "KUBE-SERVICES", family=family) if "loadbalancer" in t]
    refused = lines(cluster, "KUBE-PROXY-FIREWALL", "filter", family=family)
    if sources is None:
        assert (captured, refused, lines(cluster, FW, family=family)) == ([to_vip + EXT], [], []), case
        return
    assert captured == [to_vip + FW], case
    assert lines(cluster, FW, family=family) == [
        *(f'{s}-m comment --comment "default/web:http loadbalancer IP" -j {EXT}' for s in sources),
        '-m comment --comment "other traffic to default/web:http will be dropped by KUBE-PROXY-FIREWALL"',
    ], case
    assert refused == [
        f'-d {vip} -p tcp -m comment --comment "default/web:http traffic not accepted by {FW}" -m tcp --dport 80 -j DROP'
    ], case


@pytest.mark.parametrize(
    ("case", "options", "node", "masquerade"),
    [
        ("ClusterCIDR", {}, "node-2", "! -s 10.244.0.0/16 "),
        ("NodeCIDR", {"detect_local_mode": "NodeCIDR"}, "node-2", "! -s 10.244.1.0/24 "),
        ("masqueradeAll", {"masquerade_all": True}, "node-1", ""),
        ("no clusterCIDR: nothing is masqueraded", {"cluster_cidrs": ()}, "node-1", None),
        ("a clusterCIDR of the other family", {"cluster_cidrs": (prefix("fd00::/56"),)}, "node-1", None),
    ],
)
def test_who_is_masqueraded_on_the_way_to_a_cluster_ip(case, options, node, masquerade):
    """syncProxyRules, "Set up internal traffic handling"; getLocalDetectors (cmd/kube-proxy/app/server_linux.go)."""
    cluster = cluster_of(service("web"), slice_of("web", pod("10.244.0.2")), **options)
    got = [t for t in lines(cluster, SVC, node=node) if "KUBE-MARK-MASQ" in t]
    rest = '-d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ'
    assert got == ([] if masquerade is None else [masquerade + rest]), case


def test_policy_local_without_a_pod_network_has_no_rule_for_pods():
    ports = (ServicePort(port=80, name="http", node_port=30080),)
    web = service("web", type="NodePort", external_traffic_policy="Local", ports=ports)
    texts = lines(cluster_of(web, slice_of("web", pod("10.244.0.2")), cluster_cidrs=()), EXT)
    assert [t.rpartition("-j ")[2] for t in texts] == ["KUBE-MARK-MASQ", SVC, SVL]


def test_the_masquerade_bit():
    cluster = cluster_of(masquerade_bit=5)
    assert lines(cluster, "KUBE-MARK-MASQ") == ["-j MARK --set-xmark 0x20/0x20"]
    assert lines(cluster, "KUBE-POSTROUTING")[:2] == ["-m mark ! --mark 0x20/0x20 -j RETURN", "-j MARK --set-xmark 0x20/0x0"]
    assert '-m comment --comment "kubernetes forwarding rules" -m mark --mark 0x20/0x20 -j ACCEPT' in lines(
        cluster, "KUBE-FORWARD", "filter"
    )


LAST = '-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" '
GUARD = "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"


@pytest.mark.parametrize(
    ("case", "options", "family", "jumps", "guarded"),
    [
        ("all addresses", {}, 4, [f"{LAST}-m addrtype --dst-type LOCAL"], True),
        ("IPv6 never on loopback", {}, 6, [f"! -d ::1/128 {LAST}-m addrtype --dst-type LOCAL"], False),
        ("not on localhost", {"localhost_nodeports": False}, 4,
         [f"! -d 127.0.0.0/8 {LAST}-m addrtype --dst-type LOCAL"], False),
        ("a network", {"nodeport_addresses": (prefix("198.18.0.0/24"),)}, 4, [f"-d 198.18.0.1/32 {LAST.strip()}"], False),
        ("of the other family: all of this one", {"nodeport_addresses": (prefix("198.18.0.0/24"),)}, 6,
         [f"! -d ::1/128 {LAST}-m addrtype --dst-type LOCAL"], False),
        ("a network and loopback", {"nodeport_addresses": (prefix("198.18.0.0/24"), prefix("127.0.0.0/8"))}, 4,
         [f"-d 127.0.0.1/32 {LAST.strip()}", f"-d 198.18.0.1/32 {LAST.strip()}"], True),
        ("loopback, but not on localhost", {"nodeport_addresses": (prefix("127.0.0.0/8"),), "localhost_nodeports": False}, 4,
         [], False),
        ("IPv6 loopback", {"nodeport_addresses": (prefix("::1/128"), prefix("fd00:198::/64"))}, 6,
         [f"-d fd00:198::1/128 {LAST.strip()}"], False),
        ("0.0.0.0/0 beside another", {"nodeport_addresses": (prefix("198.18.0.0/24"), prefix("0.0.0.0/0"))}, 4,
         [f"{LAST}-m addrtype --dst-type LOCAL"], True),
    ],
)  # fmt: skip
def test_where_node_ports_answer(case, options, family, jumps, guarded):
    """The end of syncProxyRules; pkg/proxy/util/nodeport_addresses.go; NewProxier drops localhost if no block has it."""
    cluster = cluster_of(**options)
    got = compile_ruleset(cluster, "node-1", family)
    assert [str(r) for r in got.table("nat").chains["KUBE-SERVICES"].rules] == [f"{j} -j KUBE-NODEPORTS" for j in jumps], case
    firewall = [str(r) for r in got.table("filter").chains["KUBE-FIREWALL"].rules]
    guard = f'! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" {GUARD}'
    assert firewall == ([guard] if guarded else []), case


def test_node_ports_answer_on_the_devices_addresses_where_they_are_known():
    cluster = cluster_of(nodeport_addresses=(prefix("10.244.0.0/16"),))
    assert compile_ruleset(cluster, "node-1", 4).table("nat").chains["KUBE-SERVICES"].rules == ()
    got = compile_ruleset(cluster, "node-1", 4, local_addresses=[ip("10.244.0.1"), ip("10.244.0.0"), ip("198.18.0.1")])
    assert [str(r).split()[1] for r in got.table("nat").chains["KUBE-SERVICES"].rules] == ["10.244.0.0/32", "10.244.0.1/32"]


@pytest.mark.parametrize(("endpoints", "commented"), [(1000, True), (1001, False)])
def test_a_large_cluster_has_no_comments_on_endpoints(endpoints: int, commented: bool):
    """largeClusterEndpointsThreshold; endpoints of any condition count, those of services that are passed over do not."""
    pods = [pod(str(Ip(4, ip("10.244.0.2").value + n)), ready=n % 2 == 0) for n in range(endpoints)]
    headless = Service(name="no-ip", namespace="default", headless=True, ports=(ServicePort(port=80, name="http"),))
    cluster = cluster_of(service("web"), slice_of("web", *pods), headless, slice_of("no-ip", *pods))
    first = lines(cluster, sep(A))
    choice = lines(cluster, SVC)[1]
    assert [("--comment" in t) for t in (*first, choice)] == [commented] * 3
    assert "--comment" in lines(cluster, SVC)[0]
    assert "--comment" in lines(cluster, "KUBE-SERVICES")[0]


def test_chances_are_rounded_as_iptables_rounds_them():
    """computeProbability writes ten digits; libxt_statistic.c keeps units of 2**-31 and prints eleven."""
    pods = [pod(str(Ip(4, ip("10.244.0.2").value + n))) for n in range(7)]
    texts = lines(cluster_of(service("web"), slice_of("web", *pods)), SVC)[1:]
    assert [t.partition("--probability ")[2].partition(" ")[0] for t in texts] == [
        "0.14285714272", "0.16666666651", "0.20000000019", "0.25000000000", "0.33333333349", "0.50000000000", "",
    ]  # fmt: skip


def test_two_services_may_claim_one_address_and_port():
    """kube-proxy lets chance decide; here the first by name comes first, and both are there."""
    things = [service(n, external_ips=(ip("192.0.2.9"),)) for n in ("b", "a")]
    slices = [slice_of(n, pod("10.244.0.2")) for n in ("a", "b")]
    texts = [t for t in lines(cluster_of(*things, *slices), "KUBE-SERVICES") if "192.0.2.9" in t]
    assert ["default/a:http external IP" in texts[0], "default/b:http external IP" in texts[1]] == [True, True]


@pytest.mark.parametrize(
    ("case", "fields"),
    [
        ("headless", {"headless": True}),
        ("ExternalName", {"type": "ExternalName", "external_name": "db.example.com"}),
        ("another proxy's", {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}),
        ("headless by label", {"labels": {"service.kubernetes.io/headless": ""}}),
        ("of the other family", {"cluster_ips": (ip("fd00:96::1"),)}),
    ],
)
def test_services_that_kube_proxy_passes_over(case, fields):
    """ShouldSkipService, GetClusterIPByFamily (pkg/proxy/util); the informers' label selector (cmd/kube-proxy/app/server.go)."""
    web = msgspec.structs.replace(service("web"), **fields)
    assert compile_ruleset(cluster_of(web, slice_of("web", pod("10.244.0.2"))), "node-1", 4) == compile_ruleset(
        cluster_of(), "node-1", 4
    ), case


@pytest.mark.parametrize(
    ("case", "slices", "endpoints"),
    [
        ("byte order, not numeric", [slice_of("web", pod("10.244.0.9"), pod("10.244.0.10"))], "10.244.0.10:8080 10.244.0.9:8080"),
        ("several slices", [slice_of("web", pod("10.244.0.3"), name="y"), slice_of("web", pod("10.244.0.2"), name="z")],
         "10.244.0.2:8080 10.244.0.3:8080"),
        ("once each", [slice_of("web", pod("10.244.0.2"), name="y"), slice_of("web", pod("10.244.0.2"), name="z")], A),
        ("two ports", [slice_of("web", pod("10.244.0.2"), name="y"), slice_of("web", pod("10.244.0.2"), name="z", port=9)],
         "10.244.0.2:8080 10.244.0.2:9"),
        ("a port without a number", [slice_of("web", pod("10.244.0.2"), port=None)], ""),
        ("another port's", [slice_of("web", pod("10.244.0.2"), ports=(EndpointPort(8080, "TCP", "other"),))], ""),
        ("another protocol's", [slice_of("web", pod("10.244.0.2"), ports=(EndpointPort(8080, "UDP", "http"),))], ""),
        ("a slice of the other family", [slice_of("web", pod("fd00:244::2"), family=6)], ""),
        ("an address of the other family", [slice_of("web", pod("fd00:244::2"))], ""),
        ("an address that its slice's type belies", [slice_of("web", pod("10.244.0.2"), family=6)], ""),
        ("the first of several addresses", [slice_of("web", Endpoint((ip("10.244.0.2"), ip("10.244.0.3"))))], A),
        ("no address", [slice_of("web", Endpoint(()))], ""),
        ("another proxy's slice", [slice_of("web", pod("10.244.0.2"),
                                            labels={"service.kubernetes.io/service-proxy-name": "other"})], ""),
        ("host network twice: the first", [slice_of("web", pod("198.18.0.9", on="x"),
                                                    pod("198.18.0.9", on="x", ready=False))], "198.18.0.9:8080"),
        ("host network twice, here: the last", [slice_of("web", pod("198.18.0.1"), pod("198.18.0.1", ready=False))], ""),
        ("here and elsewhere: here", [slice_of("web", pod("198.18.0.1"), pod("198.18.0.1", on="x", ready=False))],
         "198.18.0.1:8080"),
    ],
)  # fmt: skip
def test_which_endpoints_a_port_has(case, slices, endpoints):
    """endpointslicecache.go: endpointInfoByServicePort, addEndpoints, byEndpoint."""
    assert " ".join(chosen(cluster_of(service("web"), *slices))) == endpoints, case


def test_addresses_are_spelled_as_the_slice_spells_them():
    """KUBE-SEP- names and comments have the slice's text, matches and DNAT the kernel's (recorded in dualstack)."""
    web = service("web", "fd00:96::1")
    for texts, spelled in (((), "[fd00:244::2]:8080"), (("fd00:244:0::2",), "[fd00:244:0::2]:8080")):
        cluster = cluster_of(web, slice_of("web", pod("fd00:244::2", texts=texts), family=6))
        assert chosen(cluster, family=6) == [spelled]
        assert lines(cluster, sep(spelled), family=6) == [
            '-s fd00:244::2/128 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ',
            '-p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination [fd00:244::2]:8080',
        ]


def test_two_protocols_on_one_port_have_chains_of_their_own():
    ports = (ServicePort(port=53, name="dns", protocol="UDP"), ServicePort(port=53, name="dns-tcp"))
    has = (EndpointPort(5353, "UDP", "dns"), EndpointPort(5353, "TCP", "dns-tcp"))
    cluster = cluster_of(service("web", ports=ports), slice_of("web", pod("10.244.0.2"), ports=has))
    assert [t.partition(" -j ")[0] for t in lines(cluster, "KUBE-SERVICES")] == [
        '-d 10.96.0.1/32 -p udp -m comment --comment "default/web:dns cluster IP" -m udp --dport 53',
        '-d 10.96.0.1/32 -p tcp -m comment --comment "default/web:dns-tcp cluster IP" -m tcp --dport 53',
    ]


# --- Sockets ----------------------------------------------------------------------------------------------------------


def sockets(cluster: Cluster, **more: object) -> list[str]:
    return [f"{s.ip or '*'} {s.port} {s.owner}" for s in listeners(cluster, "node-1", **more)]


OWN = ["127.0.0.1 10249 kube-proxy metrics", "* 10256 kube-proxy healthz"]


def test_kube_proxys_own_sockets():
    """service_health.go: the health check of a service answers on every node, endpoints or not, on all addresses."""
    local = service("web", type="LoadBalancer", external_traffic_policy="Local", health_check_node_port=30999)
    assert sockets(cluster_of()) == OWN
    assert sockets(cluster_of(local)) == [*OWN, "* 30999 kube-proxy health check of default/web"]
    assert sockets(cluster_of(msgspec.structs.replace(local, external_traffic_policy="Cluster"))) == OWN
    assert sockets(cluster_of(msgspec.structs.replace(local, type="NodePort"))) == OWN
    assert sockets(cluster_of(local, nodeport_addresses=(prefix("198.18.0.0/24"),))) == [
        *OWN,
        "198.18.0.1 30999 kube-proxy health check of default/web",
    ]


def test_a_health_check_port_is_open_in_filter():
    local = service("web", type="LoadBalancer", external_traffic_policy="Local", health_check_node_port=30999)
    want = '-p tcp -m comment --comment "default/web:http health check node port" -m tcp --dport 30999 -j ACCEPT'
    assert lines(cluster_of(local), "KUBE-NODEPORTS", "filter") == [want]


# --- What is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "cluster", "node", "message"),
    [
        ("node", cluster_of(), "nod-1", 'unknown node "nod-1"\n  did you mean "node-1"'),
        ("mode", cluster_of(detect_local_mode="BridgeInterface"), "node-1", "detectLocalMode 'BridgeInterface' is not modelled"),
        ("bit", cluster_of(masquerade_bit=32), "node-1", "masqueradeBit 32 is no bit of a mark"),
        ("pods are everything", cluster_of(cluster_cidrs=(prefix("0.0.0.0/0"),)), "node-1", "iptables refuses `! -s 0.0.0.0/0`"),
        ("protocol", cluster_of(service("web", ports=(ServicePort(port=80, protocol="DCCP"),))), "node-1",
         "web.yaml:7, Service default/web: unknown protocol 'DCCP' of port 80\n  one of TCP, UDP, SCTP"),
    ],
)  # fmt: skip
def test_errors_say_what_and_where(case, cluster, node, message):
    with pytest.raises(InputError) as caught:
        compile_ruleset(cluster, node, 4)
    assert message in str(caught.value), case


def test_an_empty_cluster_has_the_frame():
    got = compile_ruleset(cluster_of(), "node-1", 4)
    assert isinstance(got, Ruleset)
    assert {t.name: len(t.chains) for t in got.tables} == {"mangle": 6, "filter": 10, "nat": 9}
    assert got.origin == "expected"
