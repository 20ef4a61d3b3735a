"""kube-proxy's IPVS mode: recordings of kube-proxy v1.30.5 first, then rows for what they do not show.

Expected values are in the tools' own words. Rows beyond the recordings cite the function of kube-proxy v1.30 that decides.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from netlab.dataplane.build import build
from netlab.dataplane.observed import apply_observed
from netlab.dataplane.proxy.ipvs import SETS, Family, compile_family, compile_ruleset, set_name, sysctls
from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.kube.objects import LoadBalancerIngress, ServicePort
from netlab.kube.topology import IPVS_SCHEDULERS
from netlab.lab.plan import Run, make_plan
from netlab.lab.umlchoice import modules, requirements
from netlab.linux.addr import ip, prefix
from netlab.linux.ipvs import SCHEDULERS, Method
from netlab.linux.netns import LOCAL, DeviceKind, Netns
from netlab.linux.rules import Ruleset, Table
from netlab.linux.text import ipset, iptables_save, ipvsadm
from netlab.refs import Ref
from tests.test_proxy_iptables import DATA, cluster_of, pod, recorded, service, slice_of

RECORDINGS = [(c, n) for c, nodes in {"services": ("node-1", "node-2"), "dualstack": ("node-1",)}.items() for n in nodes]
UNORDERED = {"KUBE-IPVS-OUT-FILTER"}  # in the order of a Go map


def node_of(cluster: Cluster, node: str) -> Netns:
    """The node in IPVS mode, without a CNI plug-in, as it was recorded."""
    proxy = msgspec.structs.replace(cluster.proxy, mode="ipvs")
    cni = msgspec.structs.replace(cluster.cni, name="none")
    return build(msgspec.structs.replace(cluster, proxy=proxy, cni=cni)).network.namespaces[node]


def recording(name: str, node: str, what: str) -> str:
    return (DATA / name / "ipvs" / f"{node}.{what}").read_text()


def elements(sets: dict[str, object]) -> dict[str, tuple[object, ...]]:
    return {name: (s.type, s.family, sorted(map(str, s.entries))) for name, s in sets.items()}


# --- The recordings ---------------------------------------------------------------------------------------------------


def test_all_recordings_are_there():
    assert len(list(DATA.glob("*/ipvs/*"))) == 21


@pytest.mark.parametrize(("name", "node"), RECORDINGS)
def test_virtual_services_are_those_that_ipvsadm_showed(name: str, node: str):
    netns = node_of(recorded(name), node)
    services = ipvsadm.parse(ipvsadm.write_save(netns.ipvs))
    if name == "dualstack":
        # The slice spells an endpoint fd00:10:244:0::2. What kube-proxy reads back from the kernel is fd00:10:244::2, another one
        # to it: each second sync takes the real server for a left-over and removes it. The recording is of such a moment.
        flapping = ip("fd00:10:244::2")
        without = [msgspec.structs.replace(s, servers=tuple(r for r in s.servers if r.ip != flapping)) for s in services]
        assert sum(s != w for s, w in zip(services, without, strict=True)) == 3
        services = tuple(without)
    assert ipvsadm.write_save(services) == recording(name, node, "ipvsadm-Sn")
    assert ipvsadm.write_list(services) == recording(name, node, "ipvsadm-ln")


@pytest.mark.parametrize(("name", "node"), RECORDINGS)
def test_ipsets_hold_what_ipset_saved(name: str, node: str):
    assert elements(node_of(recorded(name), node).sets) == elements(ipset.parse(recording(name, node, "ipset")))


@pytest.mark.parametrize(("name", "node"), RECORDINGS)
def test_ipsets_are_made_with_the_sizes_that_kube_proxy_gives(name: str, node: str):
    wanted = ipset.parse(recording(name, node, "ipset"))
    for each in node_of(recorded(name), node).sets.values():
        assert wanted[each.name].options.startswith(each.options)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("name", "node"), RECORDINGS)
def test_rules_are_those_that_iptables_saved(name: str, node: str, family: int):
    tool = {4: "iptables-save", 6: "ip6tables-save"}[family]
    want = iptables_save.parse(recording(name, node, tool), family=family)
    got = node_of(recorded(name), node).rulesets[family]
    if (name, family) == ("services", 6):
        # Recorded when kube-proxy had made its IPv6 chains and sets, and not yet loaded the rules.
        got = msgspec.structs.replace(got, tables=tuple(map(without_rules, got.tables)))
    same_rules(got, want)


def without_rules(table: Table) -> Table:
    chains = {n: c if c.hook else msgspec.structs.replace(c, rules=()) for n, c in table.chains.items()}
    return msgspec.structs.replace(table, chains=chains)


def same_rules(got: Ruleset, want: Ruleset) -> None:
    assert [(t.family, t.name) for t in got.tables] == [(t.family, t.name) for t in want.tables]
    for table, wanted in zip(got.tables, want.tables, strict=True):
        assert list(table.chains) == list(wanted.chains)
        for chain, wanted_chain in zip(table.chains.values(), wanted.chains.values(), strict=True):
            place = f"{table.name} {chain.name}"
            assert (chain.hook, chain.priority, chain.policy) == (wanted_chain.hook, wanted_chain.priority, wanted_chain.policy)
            assert Counter(map(str, chain.rules)) == Counter(map(str, wanted_chain.rules)), place
            if chain.name not in UNORDERED:
                assert chain.rules == wanted_chain.rules, place


@pytest.mark.parametrize(("name", "node"), RECORDINGS)
def test_kube_ipvs0_has_the_recorded_addresses(name: str, node: str):
    recorded_device = next(d for d in json.loads(recording(name, node, "ip-addr.json")) if d["ifname"] == "kube-ipvs0")
    want = {(a["local"], a["prefixlen"], a["scope"]) for a in recorded_device["addr_info"]}
    device = node_of(recorded(name), node).devices["kube-ipvs0"]
    assert {(str(a.ip), a.length, a.scope) for a in device.addresses} == want
    assert (device.kind, device.up, device.mtu) == (DeviceKind.DUMMY, False, recorded_device["mtu"])


@pytest.mark.parametrize(("name", "node"), RECORDINGS)
def test_local_routes_are_the_recorded_ones(name: str, node: str):
    want = {
        (r["type"], r["dst"], r["dev"], r.get("prefsrc"), r.get("scope"))
        for r in json.loads(recording(name, node, "ip-route.json"))
        if r.get("dev") == "kube-ipvs0"
    }
    got = {
        (r.type.value, str(r.dst.address), "kube-ipvs0", str(r.src) if r.src else None, "host" if r.src else None)
        for r in node_of(recorded(name), node).routes
        if any(hop.dev == "kube-ipvs0" for hop in r.nexthops) and r.table == LOCAL
    }
    assert got == want
    others = [r for r in node_of(recorded(name), node).routes if r.table != LOCAL and r.nexthops[0].dev == "kube-ipvs0"]
    assert others == []


# --- Rows -------------------------------------------------------------------------------------------------------------

NODE_PORT = (ServicePort(port=80, name="http", node_port=30080),)
VIP = LoadBalancerIngress(ip("192.0.2.8"))
HERE, AWAY = pod("10.244.0.2"), pod("10.244.1.2", on="node-2")


def programmed(*things: object, node: str = "node-1", family: int = 4, **options: object) -> Family:
    return compile_family(cluster_of(*things, **options), node, family)


def servers(compiled: Family) -> dict[str, list[str]]:
    """`10.96.0.1:80 tcp` -> its real servers, masquerading with weight 1."""
    assert all((r.method, r.weight) == (Method.MASQUERADE, 1) for s in compiled.services for r in s.servers)
    names = {6: "tcp", 17: "udp", 132: "sctp"}
    return {f"{s.ip.port(s.port)} {names[s.protocol]}": [r.ip.port(r.port) for r in s.servers] for s in compiled.services}


def held(compiled: Family) -> dict[str, list[str]]:
    """The sets that hold something."""
    return {name: [str(e) for e in s.entries] for name, s in compiled.sets.items() if s.entries}


def rules(chain: str, *things: object, table: str = "nat", node: str = "node-1", family: int = 4, **options: object) -> list[str]:
    cluster = cluster_of(*things, **options)
    compiled = compile_ruleset(cluster, node, compile_family(cluster, node, family))
    return [str(r) for r in compiled.table(table).chains[chain].rules]


def test_no_endpoints_leave_a_virtual_service_without_servers():
    compiled = programmed(service("web"))
    assert servers(compiled) == {"10.96.0.1:80 tcp": []}
    assert compiled.bound == (ip("10.96.0.1"),)
    assert held(compiled) == {"KUBE-CLUSTER-IP": ["10.96.0.1,tcp:80"], "KUBE-IPVS-IPS": ["10.96.0.1"]}


def test_node_ports_are_served_on_every_address_but_loopback_and_ipv6_link_local():
    """netlink_linux.go GetAllLocalAddressesExcept, isValidForSet: IPv4 link-local addresses count."""
    cluster = cluster_of(service("web", type="NodePort", ports=NODE_PORT), slice_of("web", HERE))
    local = [
        ip(a) for a in ["127.0.0.1", "::1", "198.18.0.1", "10.244.0.1", "10.244.0.0", "169.254.9.9", "fe80::9", "fd00:198::1"]
    ]
    compiled = compile_family(cluster, "node-1", 4, local_addresses=local)
    node_ports = [s.partition(":")[0] for s in servers(compiled) if ":30080" in s]
    assert node_ports == ["169.254.9.9", "198.18.0.1", "10.244.0.0", "10.244.0.1"]
    assert compiled.bound == (ip("10.96.0.1"),)  # a node port binds nothing


@pytest.mark.parametrize(
    ("chosen", "at"),
    [
        ((), ["10.1.0.1", "198.18.0.1"]),
        (("198.18.0.0/16",), ["198.18.0.1"]),
        (("198.18.0.0/16", "10.1.0.0/16"), ["10.1.0.1", "198.18.0.1"]),
        (("0.0.0.0/0",), ["10.1.0.1", "198.18.0.1"]),
        (("fd00::/8",), ["10.1.0.1", "198.18.0.1"]),  # none of the family: all
        (("203.0.113.0/24",), []),
        (("127.0.0.0/8",), []),  # IPVS cannot serve node ports on 127.0.0.1
    ],
)
def test_nodeport_addresses_choose_among_the_addresses_of_the_node(chosen: tuple[str, ...], at: list[str]):
    web = service("web", type="LoadBalancer", external_traffic_policy="Local", health_check_node_port=30999, ports=NODE_PORT)
    cluster = cluster_of(web, slice_of("web", HERE), nodeport_addresses=tuple(prefix(c) for c in chosen))
    compiled = compile_family(cluster, "node-1", 4, local_addresses=[ip("127.0.0.1"), ip("198.18.0.1"), ip("10.1.0.1")])
    assert sorted(a.partition(":")[0] for a in servers(compiled) if ":30080" in a) == at
    # Without an address kube-proxy goes on to the next service port, past the set of health check ports, too.
    assert ("KUBE-NODE-PORT-TCP" in held(compiled)) is ("KUBE-HEALTH-CHECK-NODE-PORT" in held(compiled)) is bool(at)


LOCAL_POLICIES = [
    # what the service says, endpoints -> servers of the cluster IP, of the node port (syncEndpoint)
    ({}, (HERE, AWAY), ["10.244.0.2", "10.244.1.2"], ["10.244.0.2", "10.244.1.2"]),
    ({"external_traffic_policy": "Local"}, (HERE, AWAY), ["10.244.0.2", "10.244.1.2"], ["10.244.0.2"]),
    ({"internal_traffic_policy": "Local"}, (HERE, AWAY), ["10.244.0.2"], ["10.244.0.2", "10.244.1.2"]),
    # no endpoint here: those of the cluster, where the service uses them for anything
    ({"external_traffic_policy": "Local"}, (AWAY,), ["10.244.1.2"], ["10.244.1.2"]),
    ({"internal_traffic_policy": "Local"}, (AWAY,), ["10.244.1.2"], ["10.244.1.2"]),
    ({"internal_traffic_policy": "Local", "external_traffic_policy": "Local"}, (AWAY,), ["10.244.1.2"], ["10.244.1.2"]),
    ({"internal_traffic_policy": "Local", "type": "ClusterIP", "ports": (ServicePort(port=80, name="http"),)}, (AWAY,), [], None),
]


@pytest.mark.parametrize(("fields", "endpoints", "cluster_ip", "node_port"), LOCAL_POLICIES)
def test_traffic_policies(fields: dict, endpoints: tuple, cluster_ip: list[str], node_port: list[str] | None):
    web = service("web", **{"type": "NodePort", "ports": NODE_PORT, **fields})
    found = servers(programmed(web, slice_of("web", *endpoints)))
    assert [s.partition(":")[0] for s in found["10.96.0.1:80 tcp"]] == cluster_ip
    at_node = found.get("198.18.0.1:30080 tcp")
    assert (at_node and [s.partition(":")[0] for s in at_node]) == node_port


def test_endpoints_that_terminate_serve_only_where_none_is_ready():
    """CategorizeEndpoints; on a node that has just started, no server waits with weight 0 for its connections to end."""
    old = pod("10.244.1.3", on="node-2", ready=False, terminating=True)
    assert servers(programmed(service("web"), slice_of("web", HERE, old))) == {"10.96.0.1:80 tcp": ["10.244.0.2:8080"]}
    assert servers(programmed(service("web"), slice_of("web", old))) == {"10.96.0.1:80 tcp": ["10.244.1.3:8080"]}


def test_every_local_endpoint_may_reach_itself_ready_or_not():
    """syncProxyRules fills KUBE-LOOP-BACK from all endpoints of the node."""
    compiled = programmed(service("web"), slice_of("web", pod("10.244.0.2", ready=False), pod("10.244.0.3"), AWAY))
    assert held(compiled)["KUBE-LOOP-BACK"] == ["10.244.0.2,tcp:8080,10.244.0.2", "10.244.0.3,tcp:8080,10.244.0.3"]


def test_endpoints_of_the_host_network_are_servers_like_others():
    compiled = programmed(service("web"), slice_of("web", pod("198.18.0.1"), pod("198.18.0.2", on="node-2")))
    assert servers(compiled) == {"10.96.0.1:80 tcp": ["198.18.0.1:8080", "198.18.0.2:8080"]}
    assert held(compiled)["KUBE-LOOP-BACK"] == ["198.18.0.1,tcp:8080,198.18.0.1"]


def test_two_spellings_of_an_address_are_one_server():
    web = service("web", "fd00:96::1")
    twice = (pod("fd00:244::2", texts=("fd00:244::2",)), pod("fd00:244::2", texts=("fd00:244:0::2",)))
    assert servers(programmed(web, slice_of("web", *twice, family=6), family=6)) == {
        "[fd00:96::1]:80 tcp": ["[fd00:244::2]:8080"]
    }


def test_session_affinity_is_persistence_of_every_virtual_service():
    web = service("web", type="NodePort", ports=NODE_PORT, session_affinity="ClientIP", session_affinity_timeout=60)
    assert [s.timeout for s in programmed(web, slice_of("web", HERE)).services] == [60, 60]


@pytest.mark.parametrize(("scheduler", "flags"), [("rr", ()), ("sh", ()), ("wlc", ()), ("mh", ("mh-port",))])
def test_schedulers(scheduler: str, flags: tuple[str, ...]):
    """FlagSourceHash (IP_VS_SVC_F_SCHED2) goes with mh alone."""
    (virtual,) = programmed(service("web"), scheduler=scheduler).services
    assert (virtual.scheduler, virtual.flags) == (scheduler, flags)


def test_a_topology_names_the_schedulers_of_linux():
    assert IPVS_SCHEDULERS == SCHEDULERS


def test_an_unknown_scheduler_is_told():
    with pytest.raises(InputError, match='unknown IPVS scheduler "rrr"') as error:
        programmed(service("web"), scheduler="rrr")
    assert error.value.hint.startswith('did you mean "rr"')


def test_external_ips_are_bound_unless_the_node_has_them():
    """shouldBind := !nodeAddressSet.Has(...)."""
    web = service("web", external_ips=(ip("192.0.2.9"), ip("198.18.0.1"), ip("2001:db8::9")))
    compiled = programmed(web, slice_of("web", HERE))
    assert list(servers(compiled)) == ["192.0.2.9:80 tcp", "198.18.0.1:80 tcp", "10.96.0.1:80 tcp"]
    assert set(compiled.bound) == {ip("10.96.0.1"), ip("192.0.2.9")}
    assert held(compiled)["KUBE-EXTERNAL-IP"] == ["192.0.2.9,tcp:80", "198.18.0.1,tcp:80"]


def test_external_ips_with_policy_local_keep_the_source():
    web = service("web", external_ips=(ip("192.0.2.9"),), external_traffic_policy="Local")
    things = (web, slice_of("web", HERE, AWAY))
    assert held(programmed(*things))["KUBE-EXTERNAL-IP-LOCAL"] == ["192.0.2.9,tcp:80"]
    about = '-m comment --comment "Kubernetes service external ip + port with externalTrafficPolicy=local" '
    about += "-m set --match-set KUBE-EXTERNAL-IP-LOCAL dst,dst"
    assert [r for r in rules("KUBE-SERVICES", *things) if "EXTERNAL" in r] == [
        f"{about} -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT",
        f"{about} -m addrtype --dst-type LOCAL -j ACCEPT",
    ]


def balanced(*ranges: str, **fields: object) -> tuple[object, ...]:
    blocks = tuple(prefix(r) for r in ranges)
    web = service("web", type="LoadBalancer", load_balancer=(VIP,), load_balancer_source_ranges=blocks, **fields)
    return web, slice_of("web", HERE)


def test_source_ranges_without_the_node_shut_the_node_out():
    """lbNoNodeAccessIPPortProtocolEntries: what the node sends to the address has the address itself as its source."""
    things = balanced("203.0.113.0/24", "203.0.114.7/32")
    assert held(programmed(*things))["KUBE-LOAD-BALANCER-SOURCE-CIDR"] == [
        "192.0.2.8,tcp:80,203.0.113.0/24",
        "192.0.2.8,tcp:80,203.0.114.7",
    ]
    assert rules("KUBE-IPVS-OUT-FILTER", *things, table="filter") == [
        "-s 192.0.2.8/32 -m ipvs --vproto 6 --vaddr 192.0.2.8 --vport 80 -j DROP"
    ]
    assert len(rules("KUBE-SOURCE-RANGES-FIREWALL", *things, table="filter")) == 2


def test_source_ranges_with_the_node_let_it_in_by_the_address_itself():
    things = balanced("198.18.0.0/16")
    assert held(programmed(*things))["KUBE-LOAD-BALANCER-SOURCE-IP"] == ["192.0.2.8,tcp:80,192.0.2.8"]
    assert rules("KUBE-IPVS-OUT-FILTER", *things, table="filter") == []
    assert [r.rpartition(" ")[2] for r in rules("KUBE-SOURCE-RANGES-FIREWALL", *things, table="filter")] == [
        "RETURN",
        "RETURN",
        "DROP",
    ]


def test_a_source_range_of_everything_lets_nobody_in():
    """ipset refuses 0.0.0.0/0 in hash:ip,port,net; kube-proxy logs it, and writes the rules about the set all the same."""
    things = balanced("0.0.0.0/0")
    assert "KUBE-LOAD-BALANCER-SOURCE-CIDR" not in held(programmed(*things))
    chain = rules("KUBE-SOURCE-RANGES-FIREWALL", *things, table="filter")
    assert any("KUBE-LOAD-BALANCER-SOURCE-CIDR dst,dst,src -j RETURN" in r for r in chain)


def test_node_ports_of_udp_and_sctp():
    ports = tuple(ServicePort(port=80, protocol=p, name=p.lower(), node_port=30080) for p in ("TCP", "UDP", "SCTP"))
    web = service("web", type="NodePort", ports=ports, external_traffic_policy="Local")
    compiled = programmed(web)
    assert {n: v for n, v in held(compiled).items() if "NODE-PORT" in n} == {
        "KUBE-NODE-PORT-TCP": ["30080"],
        "KUBE-NODE-PORT-LOCAL-TCP": ["30080"],
        "KUBE-NODE-PORT-UDP": ["30080"],
        "KUBE-NODE-PORT-LOCAL-UDP": ["30080"],
        "KUBE-NODE-PORT-SCTP-HASH": ["198.18.0.1,sctp:30080"],
        "KUBE-NODE-PORT-LOCAL-SCTP-HASH": ["198.18.0.1,sctp:30080"],
    }
    assert [(r.split()[1], r.rpartition(" ")[2]) for r in rules("KUBE-NODE-PORT", web)] == [
        ("tcp", "RETURN"), ("tcp", "KUBE-MARK-MASQ"), ("udp", "RETURN"), ("udp", "KUBE-MARK-MASQ"),
        ("sctp", "RETURN"), ("sctp", "KUBE-MARK-MASQ"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({}, "! -s 10.244.0.0/16 {} --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ"),
        ({"masquerade_all": True}, "{} --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ"),
        ({"cluster_cidrs": ()}, "{} --match-set KUBE-CLUSTER-IP src,dst -j KUBE-MARK-MASQ"),
    ],
)
def test_whom_the_cluster_ip_masquerades(options: dict, rule: str):
    about = '-m comment --comment "Kubernetes service cluster ip + port for masquerade purpose" -m set'
    assert [r for r in rules("KUBE-SERVICES", service("web"), **options) if "MASQ" in r] == [rule.format(about)]


def test_the_mark_is_that_of_masquerade_bit():
    assert rules("KUBE-MARK-MASQ", service("web"), masquerade_bit=3) == ["-j MARK --set-xmark 0x8/0x8"]


def test_set_names_of_ipv6_are_cut_at_31_characters():
    assert set_name("KUBE-NODE-PORT-LOCAL-SCTP-HASH", 6) == "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS"
    assert len({set_name(n, f) for n in SETS for f in (4, 6)}) == 2 * len(SETS)


def test_strict_arp_sets_two_sysctls():
    assert "ipv4.conf.all.arp_ignore" not in sysctls(cluster_of())
    strict = sysctls(cluster_of(strict_arp=True))
    assert (strict["ipv4.conf.all.arp_ignore"], strict["ipv4.conf.all.arp_announce"]) == (1, 2)
    assert (strict["ipv4.vs.conntrack"], strict["ipv4.vs.expire_nodest_conn"], strict["ipv4.vs.conn_reuse_mode"]) == (1, 1, 1)


def test_a_virtual_service_says_whose_it_is():
    assert {s.ref.object for s in programmed(service("web")).services} == {"Service default/web"}


def test_two_services_with_one_address_and_port_are_one_virtual_service():
    """Which of them gets it is chance on a real node, and the first by name here."""
    one, two = service("a", external_ips=(ip("192.0.2.9"),)), service("b", "10.96.0.2", external_ips=(ip("192.0.2.9"),))
    compiled = programmed(two, one, slice_of("a", HERE), slice_of("b", AWAY))
    assert servers(compiled)["192.0.2.9:80 tcp"] == ["10.244.0.2:8080"]


@pytest.mark.parametrize(("name", "node"), RECORDINGS)
def test_the_order_of_services_and_slices_does_not_matter(name: str, node: str):
    cluster = recorded(name)
    want = {f: compile_family(cluster, node, f) for f in (4, 6)}
    for seed in range(3):
        shuffle = random.Random(seed)
        services, slices = list(cluster.services.items()), [(k, shuffle.sample(v, len(v))) for k, v in cluster.slices.items()]
        shuffle.shuffle(services)
        shuffle.shuffle(slices)
        other = msgspec.structs.replace(cluster, services=dict(services), slices={k: tuple(v) for k, v in slices})
        assert {f: compile_family(other, node, f) for f in (4, 6)} == want


def test_kube_ipvs0_comes_after_what_the_cni_made():
    cluster = recorded("services")
    node = build(msgspec.structs.replace(cluster, proxy=msgspec.structs.replace(cluster.proxy, mode="ipvs"))).network.namespaces[
        "node-1"
    ]
    assert list(node.devices)[-1] == "kube-ipvs0"
    assert node.devices["kube-ipvs0"].index == max(d.index for d in node.devices.values())
    addresses = {str(s.ip) for s in node.ipvs if s.port == 30080}
    assert addresses == {"198.18.0.1", "10.244.0.1", "10.244.0.0"}  # cni0 and flannel.1 are addresses of the node, too
    assert any("FLANNEL-POSTRTG" in str(r) for r in node.rulesets[4].table("nat").chains["POSTROUTING"].rules)


# --- The recordings as what was observed ------------------------------------------------------------------------------

AS_OBSERVED = {
    "iptables-save": "iptables-save",
    "ip6tables-save": "ip6tables-save",
    "ipset": "ipset",
    "ip-addr.json": "ip-addr.json",
    "ip-route.json": "ip-route.json",
}


@pytest.mark.parametrize("form", ["ipvsadm-Sn", "ipvsadm-ln"])
def test_a_recorded_node_is_observed(tmp_path: Path, form: str):
    for name, what in {**AS_OBSERVED, "ipvsadm": form}.items():
        (tmp_path / name).write_text(recording("services", "node-1", what))
    cluster = recorded("services")  # iptables mode: nothing of IPVS is expected
    cni = msgspec.structs.replace(cluster.cni, name="none")
    network = build(msgspec.structs.replace(cluster, cni=cni)).network
    assert (network.namespaces["node-1"].ipvs, network.namespaces["node-1"].sets) == ((), {})
    node = apply_observed(network, "node-1", str(tmp_path)).network.namespaces["node-1"]
    assert {node.origins[kind] for kind in ("ipvs", "ipset", "iptables", "addr", "route")} == {"observed"}
    meant = node_of(cluster, "node-1")
    assert ipvsadm.write_save(node.ipvs) == ipvsadm.write_save(meant.ipvs)
    assert node.ipvs[0].ref == Ref(file=str(tmp_path / "ipvsadm"), line={"ipvsadm-Sn": 1, "ipvsadm-ln": 4}[form])
    assert elements(node.sets) == elements(meant.sets)
    local = {(str(r.dst), r.nexthops[0].dev) for r in node.routes if r.table == LOCAL and r.dst.family == 4}
    assert ("10.96.2.10/32", "kube-ipvs0") in local


def test_an_empty_file_says_that_ipvs_is_not_in_use(tmp_path: Path):
    (tmp_path / "ipvsadm").write_text("")
    cluster = recorded("services")
    network = build(msgspec.structs.replace(cluster, proxy=msgspec.structs.replace(cluster.proxy, mode="ipvs"))).network
    assert network.namespaces["node-1"].ipvs
    assert apply_observed(network, "node-1", str(tmp_path)).network.namespaces["node-1"].ipvs == ()


def test_a_bad_file_is_told_with_its_line(tmp_path: Path):
    (tmp_path / "ipvsadm").write_text("TCP  10.96.0.1:https rr\n")
    with pytest.raises(InputError, match="ipvsadm:1: 'https' is the name of a port"):
        apply_observed(build(recorded("services")).network, "node-1", str(tmp_path))


# --- What a lab does about it -----------------------------------------------------------------------------------------


def test_a_lab_needs_ipvs_and_dummy_devices_and_loads_both():
    cluster = recorded("dualstack")
    network = build(msgspec.structs.replace(cluster, proxy=msgspec.structs.replace(cluster.proxy, mode="ipvs"))).network
    assert {"IPVS", "dummy", "ipset", "iptables-legacy"} <= requirements(network)
    assert {"ip_vs", "dummy"} <= set(modules(requirements(network)))
    actions = [a for a in make_plan(network).actions if isinstance(a, Run) and a.ns == "node-1"]
    assert [a.argv[0] for a in actions if a.argv[0] != "bridge"] == [
        "ip", "ipset", "ipvsadm", "iptables-legacy-restore", "ip6tables-legacy-restore",
    ]  # fmt: skip
    assert next(a.stdin for a in actions if a.argv[0] == "ipvsadm") == ipvsadm.write_save(network.namespaces["node-1"].ipvs)
    lines = actions[0].stdin.splitlines()
    assert "link add name kube-ipvs0 index 7 address 02:00:69:70:76:73 mtu 1500 type dummy" in lines
    assert "address add 10.96.2.10/32 dev kube-ipvs0 scope global" in lines
    assert "link set kube-ipvs0 up" not in lines
