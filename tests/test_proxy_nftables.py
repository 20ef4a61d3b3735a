"""kube-proxy's nftables mode: recordings of kube-proxy v1.30.5 first, then rows for what they do not show.

Expected rules are in nft's own words. Rows beyond the recordings cite what decides in pkg/proxy/nftables/proxier.go.
"""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from netlab.cli.main import main
from netlab.dataplane.proxy.nftables import compile_ruleset, hash_and_truncate
from netlab.dataplane.proxy.node import listeners
from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.kube.objects import ServicePort
from netlab.linux.addr import ip, prefix
from netlab.linux.nft import NftSet, NftTable
from netlab.linux.text.nft import read_text, rule_text, write_text
from tests.test_proxy_iptables import VIP, cluster_of, pod, recorded, service, slice_of

DATA = Path(__file__).parent / "data" / "kube-proxy-1.30.5"
CLUSTERS = ("services", "dualstack", "random-11")
RECORDINGS = [(name, path) for name in CLUSTERS for path in sorted((DATA / name).glob("nftables/*.nft"))]
WEB = "default/web/tcp/http"
SVC, LOCAL, EXT, FW = (f"{kind}-{hash_and_truncate(WEB)}" for kind in ("service", "local", "external", "firewall"))


def compiled(cluster: Cluster, node: str = "node-1", family: int = 4, **more: str) -> NftTable:
    return compile_ruleset(cluster, node, family, **more).nft_tables[0]


def unordered(made: NftSet) -> NftSet:
    return msgspec.structs.replace(made, elements=tuple(sorted(made.elements, key=repr)))


# --- The recordings ---------------------------------------------------------------------------------------------------


def test_all_recordings_are_there() -> None:
    assert len(RECORDINGS) == 7


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("name", "path"), RECORDINGS, ids=lambda v: v if isinstance(v, str) else v.name)
def test_a_node_gets_what_kube_proxy_wrote(name: str, path: Path, family: int) -> None:
    want = next(t for t in read_text(path.read_text(), path.name) if t.family == ("ip" if family == 4 else "ip6"))
    got = compiled(recorded(name), path.stem, family)
    assert (got.name, got.comment, got.flags, got.objects) == (want.name, want.comment, want.flags, want.objects)
    assert got.chains.keys() == want.chains.keys()
    for chain in want.chains:
        assert got.chains[chain] == want.chains[chain]
    assert got.sets.keys() == want.sets.keys()
    for made in want.sets:
        assert unordered(got.sets[made]) == unordered(want.sets[made])


def test_rules_made_for_a_service_say_so() -> None:
    table = compiled(recorded("services"))
    refs = {c.partition("-")[2].partition("__")[0]: r.ref for c, v in table.chains.items() if "/" in c for r in v.rules}
    assert len(refs) > 20
    assert all(ref is not None and ref.file and ref.object for ref in refs.values())
    assert {r.ref for c, v in table.chains.items() if "/" not in c for r in v.rules} == {None}


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_order_of_services_and_slices_does_not_matter(name: str) -> None:
    cluster = recorded(name)
    for seed in range(3):
        shuffle = random.Random(seed)
        services = list(cluster.services.items())
        shuffle.shuffle(services)
        slices = {k: tuple(shuffle.sample(v, len(v))) for k, v in cluster.slices.items()}
        other = msgspec.structs.replace(cluster, services=dict(services), slices=slices)
        for node in cluster.nodes:
            assert [compiled(other, node, f) for f in (4, 6)] == [compiled(cluster, node, f) for f in (4, 6)]


# --- Rows -------------------------------------------------------------------------------------------------------------


def rules(table: NftTable, chain: str) -> list[str]:
    return [rule_text(rule, table) for rule in table.chains[chain].rules] if chain in table.chains else []


def elements(table: NftTable, name: str) -> list[str]:
    """The elements of a set or map, as `10.96.0.1 . tcp . 80 : goto reject-chain`."""
    found = write_text([msgspec.structs.replace(table, chains={}, sets={name: table.sets[name]})])
    inside = found.partition("elements = {")[2].partition("}")[0]
    return sorted(part.strip() for part in inside.split(",") if part.strip())


def local(node: str) -> list[object]:
    return [slice_of("web", pod("10.244.0.2", on=node))]


@pytest.mark.parametrize(
    ("what", "fields", "endpoints", "chain", "expected"),
    [
        (
            "policy Cluster: masqueraded, then as the ClusterIP",
            {"external_ips": (ip("192.0.2.9"),)},
            local("node-1"),
            EXT,
            ["jump mark-for-masquerade", f"goto {SVC}"],
        ),
        (
            "policy Local with endpoints elsewhere: pods and the node go by policy Cluster, the rest is dropped in filter",
            {"external_ips": (ip("192.0.2.9"),), "external_traffic_policy": "Local"},
            local("node-2"),
            EXT,
            [
                f'ip saddr 10.244.0.0/16 goto {SVC} comment "short-circuit pod traffic"',
                'fib saddr type local jump mark-for-masquerade comment "masquerade local traffic"',
                f'fib saddr type local goto {SVC} comment "short-circuit local traffic"',
            ],
        ),
        (
            "internal policy Local: a chain of its own with the endpoints of the node",
            {"internal_traffic_policy": "Local"},
            local("node-1"),
            LOCAL,
            [
                "ip daddr 10.96.0.1 tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade",
                f"numgen random mod 1 vmap {{ 0 : goto endpoint-{hash_and_truncate(WEB + '__10.244.0.2/8080')} }}",
            ],
        ),
        (
            "several source ranges, and the VIP where the node is in one of them",
            {
                "type": "LoadBalancer",
                "load_balancer": (VIP,),
                "load_balancer_source_ranges": (prefix("198.18.0.0/24"), prefix("1.0.0.0/8")),
            },
            local("node-1"),
            FW,
            ["ip saddr != { 1.0.0.0/8, 192.0.2.8, 198.18.0.0/24 } drop"],
        ),
        (
            "no endpoints: the firewall is there all the same",
            {"type": "LoadBalancer", "load_balancer": (VIP,), "load_balancer_source_ranges": (prefix("1.0.0.0/8"),)},
            [],
            FW,
            ["ip saddr != 1.0.0.0/8 drop"],
        ),
    ],
    ids=lambda v: v if isinstance(v, str) and " " in v else "",
)
def test_chains(what: str, fields: dict[str, object], endpoints: list[object], chain: str, expected: list[str]) -> None:
    assert rules(compiled(cluster_of(service("web", **fields), *endpoints)), chain) == expected


@pytest.mark.parametrize(
    ("fields", "endpoints", "name", "expected"),
    [
        ({}, [], "no-endpoint-services", ['10.96.0.1 . tcp . 80 comment "default/web:http" : goto reject-chain']),
        ({}, [], "service-ips", []),
        ({}, [], "cluster-ips", ["10.96.0.1"]),
        (
            {"internal_traffic_policy": "Local"},
            local("node-2"),
            "no-endpoint-services",
            ['10.96.0.1 . tcp . 80 comment "default/web:http" : drop'],
        ),
        (
            {"type": "NodePort", "ports": (ServicePort(port=80, name="http", node_port=30080),)},
            [],
            "no-endpoint-nodeports",
            ['tcp . 30080 comment "default/web:http" : goto reject-chain'],
        ),
        (
            {"type": "NodePort", "ports": (ServicePort(port=80, name="http", node_port=30080),)},
            local("node-2"),
            "service-nodeports",
            [f"tcp . 30080 : goto {EXT}"],
        ),
    ],
)
def test_elements(fields: dict[str, object], endpoints: list[object], name: str, expected: list[str]) -> None:
    assert elements(compiled(cluster_of(service("web", **fields), *endpoints)), name) == expected


NODEPORT = service("web", type="NodePort", ports=(ServicePort(port=80, name="http", node_port=30080),))


@pytest.mark.parametrize(
    ("blocks", "family", "addresses", "rule"),
    [
        ((), 4, ["198.18.0.1"], "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"),
        ((), 6, ["fd00:198::1"], "ip6 daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"),
        (
            ("127.0.0.0/8", "198.18.0.0/16"),
            4,
            ["198.18.0.1"],
            "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
        ),
        (
            ("0.0.0.0/0",),
            4,
            None,
            "fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @service-nodeports",
        ),
        (("198.18.0.0/16",), 6, None, "fib daddr type local ip6 daddr != ::1 meta l4proto . th dport vmap @service-nodeports"),
    ],
)
def test_where_node_ports_answer(blocks: tuple[str, ...], family: int, addresses: list[str] | None, rule: str) -> None:
    cluster = cluster_of(NODEPORT, *local("node-1"), nodeport_addresses=tuple(prefix(b) for b in blocks))
    table = compiled(cluster, family=family)
    assert rules(table, "services")[-1] == rule
    assert ("nodeport-ips" in table.sets) is (addresses is not None)
    if addresses is not None:
        assert elements(table, "nodeport-ips") == addresses


def test_affinity_has_a_set_per_endpoint_and_asks_them_in_order() -> None:
    web = service("web", session_affinity="ClientIP", session_affinity_timeout=60)
    table = compiled(cluster_of(web, slice_of("web", pod("10.244.0.2"), pod("10.244.1.2", on="node-2"))))
    names = [f"affinity-{hash_and_truncate(f'{WEB}__{a}/8080')}" for a in ("10.244.0.2", "10.244.1.2")]
    assert [rule.partition(" goto")[0] for rule in rules(table, SVC)[1:3]] == [f"ip saddr @{name}" for name in names]
    for name in names:
        made = table.sets[name]
        assert (made.flags, made.timeout, made.size, made.elements) == (("dynamic", "timeout"), 60, 65535, ())
        assert rules(table, name.replace("affinity-", "endpoint-"))[1] == f"update @{name} {{ ip saddr }}"


def test_masquerade_all_and_another_mark() -> None:
    table = compiled(cluster_of(service("web"), *local("node-1"), masquerade_all=True, masquerade_bit=3))
    assert rules(table, SVC)[0] == "ip daddr 10.96.0.1 tcp dport 80 jump mark-for-masquerade"
    assert rules(table, "mark-for-masquerade") == ["meta mark set meta mark | 0x00000008"]


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ("203.0.113.0/24", "203.0.113.0/24"),
        ("203.0.113.0/24 10.0.0.0/8", "{ 10.0.0.0/8, 203.0.113.0/24 }"),
        ("203.0.113.0/24 198.18.0.0/24", "{ 192.0.2.8, 198.18.0.0/24, 203.0.113.0/24 }"),  # the node is in it: its VIP too
        ("10.0.0.0/8 10.1.0.0/16", "{ 10.0.0.0/8 }"),
        ("10.0.0.0/9 10.128.0.0/9", "{ 10.0.0.0/8 }"),
        ("10.1.0.0/16 10.2.0.0/16", "{ 10.1.0.0-10.2.255.255 }"),
        ("0.0.0.0/0", "{ 0.0.0.0/0 }"),
        ("10.0.0.7/32 10.0.0.9/32", "{ 10.0.0.7, 10.0.0.9 }"),
    ],
)
def test_source_ranges_are_one_set_as_nft_lists_it(ranges: str, expected: str) -> None:
    """syncProxyRules, usesFWChain; nft merges what overlaps or adjoins in an anonymous set."""
    assert rules(compiled(behind_a_firewall(ranges)), FW) == [f"ip saddr != {expected} drop"]


def behind_a_firewall(ranges: str) -> Cluster:
    blocks = tuple(prefix(r) for r in ranges.split())
    web = service("web", type="LoadBalancer", load_balancer=(VIP,), load_balancer_source_ranges=blocks)
    return cluster_of(web, *local("node-1"))


def test_everything_may_be_the_pod_network() -> None:
    """nft takes what iptables refuses; then nothing comes from outside of it."""
    table = compiled(cluster_of(service("web"), *local("node-1"), cluster_cidrs=(prefix("0.0.0.0/0"),)))
    assert rules(table, SVC)[0] == "ip daddr 10.96.0.1 tcp dport 80 ip saddr != 0.0.0.0/0 jump mark-for-masquerade"


def test_the_pod_network_may_be_the_nodes_own() -> None:
    table = compiled(cluster_of(service("web"), *local("node-1"), detect_local_mode="NodeCIDR"), "node-2")
    assert rules(table, SVC)[0].endswith("ip saddr != 10.244.1.0/24 jump mark-for-masquerade")
    with pytest.raises(InputError, match="detectLocalMode 'BridgeInterface' is not modelled"):
        compiled(cluster_of(detect_local_mode="BridgeInterface"))


def test_health_check_servers_listen_on_the_primary_address() -> None:
    """healthcheck/service_health.go listens on --nodeport-addresses, which by default is `primary` in this mode."""
    web = service("web", type="LoadBalancer", external_traffic_policy="Local", load_balancer=(VIP,), health_check_node_port=32000)
    cluster = cluster_of(web, *local("node-1"))
    assert [s.ip for s in listeners(cluster, "node-1", primary=True) if s.port == 32000] == [ip("198.18.0.1")]
    assert [s.ip for s in listeners(cluster, "node-1") if s.port == 32000] == [None]


# --- Versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "check", "bases", "masquerade"),
    [
        ("1.30", 1, {"filter-output-post-dnat": -90, "filter-forward": -110}, "ip daddr 10.96.0.1 tcp dport 80 ip saddr !="),
        ("1.32", 1, {"filter-output-post-dnat": -90, "filter-forward": -110}, "ip daddr 10.96.0.1 tcp dport 80 ip saddr !="),
        ("v1.33.2", 2, {"filter-output-post-dnat": -90, "filter-forward": -110}, "ip daddr 10.96.0.1 tcp dport 80 ip saddr !="),
        ("1.33.6", 2, {"filter-output-pre-dnat": -110, "filter-forward": 0}, "ip daddr 10.96.0.1 tcp dport 80 ip saddr !="),
        ("1.34", 2, {"filter-output-pre-dnat": -110, "filter-forward": 0}, "ip daddr 10.96.0.1 ip saddr !="),
    ],
)
def test_what_later_versions_do_otherwise(version: str, check: int, bases: dict[str, int], masquerade: str) -> None:
    cluster = msgspec.structs.replace(cluster_of(service("web"), *local("node-1")), service_cidrs=(prefix("10.96.0.0/12"),))
    table = compiled(cluster, version=version)
    checks = rules(table, "cluster-ips-check")
    assert len(checks) == check
    assert checks[1:] == ['ip daddr 10.96.0.0/12 drop comment "Drop traffic to unallocated ClusterIPs"'][: check - 1]
    assert {name: table.chains[name].priority for name in bases} == bases
    assert rules(table, SVC)[0].startswith(masquerade)


@pytest.mark.parametrize(
    ("version", "answer"),
    [("1.30", "dropped on node-2"), ("1.33.5", "dropped on node-2"), ("v1.33.6", "2 endpoints"), ("1.33.12", "2 endpoints"),
     ("1.34.1", "2 endpoints")],
)  # fmt: skip
def test_a_node_without_local_endpoints_reaches_the_load_balancer_since_1_33_6(
    version: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """kubernetes 131765: before, @no-endpoint-services was asked ahead of the node's own DNAT. Linux agrees (lab verify)."""
    where = ["-f", str(DATA / "services" / "cluster.json"), "--cluster-cidr", "10.244.0.0/16", "-q"]
    main(["can", "node/node-2", "192.0.2.81:80", *where, "--proxy-mode", "nftables", "--kube-proxy-version", version])
    assert answer in capsys.readouterr().out


@pytest.mark.parametrize("version", ["1.33.x", "1.33.six"])
def test_a_patch_that_is_no_number(version: str) -> None:
    with pytest.raises(InputError, match=r"is no version of kube-proxy\n  write 1\.33 or 1\.33\.2"):
        compiled(cluster_of(service("web")), version=version)


@pytest.mark.parametrize("version", ["1.29", "1.35", "1.36.2", "newest", ""])
def test_versions_that_are_not_known(version: str) -> None:
    with pytest.raises(InputError, match=f'version "{version}" is not modelled\n  nftables mode is known for 1.30, 1.31'):
        compiled(cluster_of(service("web")), version=version)


def test_the_command_line_chooses_mode_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["can", "web-0", "10.96.0.222:80", "--proxy-mode", "nftables", "-q"]) == 1
    assert "left the cluster" in capsys.readouterr().out
    assert main(["can", "web-0", "10.96.0.222:80", "--proxy-mode", "nftables", "--kube-proxy-version", "1.33", "-q"]) == 1
    assert "cluster-ips-check rule 2: ip daddr 10.96.0.0/16 drop" in capsys.readouterr().out
    assert main(["can", "web-0", "svc/api", "--proxy-mode", "nftables", "--kube-proxy-version", "1.7", "-q"]) == 2
    assert 'kube-proxy version "1.7" is not modelled' in capsys.readouterr().err
