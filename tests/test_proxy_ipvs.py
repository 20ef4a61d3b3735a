"""kube-proxy's IPVS mode: recordings of kube-proxy v1.30.5 first, then rows for what they do not show.

Expected values are in the tools' own words. Rows beyond the recordings cite the function of kube-proxy v1.30 that decides.
"""

from __future__ import annotations

import json
from collections import Counter

import msgspec
import pytest

from netlab.dataplane.build import build
from netlab.kube.cluster import Cluster
from netlab.linux.addr import ip
from netlab.linux.netns import LOCAL, DeviceKind, Netns
from netlab.linux.rules import Ruleset, Table
from netlab.linux.text import ipset, iptables_save, ipvsadm
from tests.test_proxy_iptables import DATA, recorded

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
