"""Calico, Canal and Flannel without a tunnel: what stands on nodes and in pods, and traces as one reads them.

    python tests/test_calico.py        writes the golden traces again: read the difference before a commit
"""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from netlab.cli.dump import WHAT
from netlab.cli.main import main
from netlab.dataplane.build import build
from netlab.dataplane.cni.calico import device_of, mtu
from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.kube.load import load
from netlab.kube.objects import Pod
from netlab.kube.topology import Overrides
from netlab.linux.netns import DeviceKind, Netns
from netlab.linux.route import route_text
from netlab.render import text
from netlab.trace.query import Request, Tracer

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "calico"
Doc = dict[str, Any]

TRACES = {  # file -> (topology, question)
    "same-node": ("calico-bgp", Request("web-0", "api-0")),
    "same-subnet": ("calico-bgp", Request("web-0", "api-1")),
    "through-the-router": ("calico-bgp", Request("web-0", "api-2")),
    "blackhole-of-the-block": ("calico-bgp", Request("web-0", "10.244.10.9:80")),
    "outside": ("calico-bgp", Request("web-0", "internet:443")),
    "tunl0": ("calico-ipip-crosssubnet", Request("web-0", "api-2")),
    "tunl0-from-the-host": ("calico-ipip-crosssubnet", Request("node/node-1", "api-2")),
    "vxlan": ("calico-vxlan", Request("web-0", "api-1")),
    "vxlan-borrowed": ("calico-vxlan", Request("web-0", "guest-0")),
    "ipv6-gateway": ("calico-vxlan", Request("web-0", "api-0", family=6)),
    "host-gw": ("flannel-host-gw", Request("web-0", "api-1")),
    "canal": ("canal", Request("web-0", "api-1")),
    "policy-of-the-destination": ("calico-bgp", Request("api-0", "api-1")),
    "policy-that-denies": ("calico-bgp", Request("web-0", "198.51.100.9:443")),
    "policy-of-the-source": ("canal", Request("web-0", "internet:443")),
}


def open_topology(name: str) -> Cluster:
    return load([str(ROOT / "topologies" / f"{name}.yaml")])


def shown(topology: str, request: Request) -> str:
    return text.render(Tracer(open_topology(topology)).trace(request)).replace(f"{ROOT}/", "").rstrip("\n") + "\n"


@pytest.mark.parametrize("name", TRACES)
def test_trace_reads_as_before(name: str) -> None:
    assert shown(*TRACES[name]) == (GOLDEN / f"{name}.txt").read_text()


COMMAND = re.compile(r"^#   (netlab (?:trace|dump|can) .*?)(?:   .*)?$", re.MULTILINE)
THINGS = [
    (file.stem, command)
    for file in sorted((ROOT / "topologies").glob("*.yaml"))
    if file.stem != "flannel-vxlan"
    for line in COMMAND.findall(file.read_text())
    for command in line.split("; ")
]


@pytest.mark.parametrize(("topology_", "command"), THINGS, ids=[command.removeprefix("netlab ") for _, command in THINGS])
def test_things_to_try_can_be_tried(
    topology_: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a topology's header proposes works as typed in a clone's folder, and is about that topology."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)[1:]
    assert f"topologies/{topology_}.yaml" in words
    if words[-1] == "ipset" and "ipset" not in WHAT:
        pytest.skip("no `dump ipset` yet")
    assert main(words) in (0, 1), capsys.readouterr().err
    assert capsys.readouterr().out


def test_there_is_enough_to_try() -> None:
    assert len({topology_ for topology_, _ in THINGS}) == 5
    assert len(THINGS) >= 28


# -- what stands there ---------------------------------------------------------------------------------------------------


def at(cluster: Cluster, name: str) -> Netns:
    return build(cluster).network.namespaces[name]


def main_routes(netns: Netns, family: int = 4) -> list[str]:
    return [route_text(r) for r in netns.routes if r.table == 254 and r.dst.family == family and r.protocol != "kernel"]


ROUTES = [
    ("calico-bgp", "node-1", [
        "default via 192.168.50.1 dev eth0",
        "blackhole 10.244.10.0/26 proto bird",
        "10.244.10.2 dev cali0d7763386da scope link",
        "10.244.10.3 dev cali31158f8c502 scope link",
        "10.244.10.64/26 via 192.168.50.12 dev eth0 proto bird",
        "10.244.10.128/26 via 192.168.50.1 dev eth0 proto bird",
        "10.244.10.192/26 via 192.168.50.1 dev eth0 proto bird",
    ]),
    ("calico-bgp", "default/web-0", ["default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0 scope link"]),
    ("calico-ipip-crosssubnet", "node-4", [
        "default via 192.168.60.1 dev eth0",
        "10.244.10.0/26 via 192.168.50.11 dev tunl0 proto bird onlink",
        "10.244.10.64/26 via 192.168.50.12 dev tunl0 proto bird onlink",
        "10.244.10.128/26 via 192.168.60.13 dev eth0 proto bird",
        "blackhole 10.244.10.192/26 proto bird",
        "10.244.10.194 dev calie655985edd1 scope link",
    ]),
    ("calico-vxlan", "node-1", [
        "default via 192.168.50.1 dev eth0",
        "blackhole 10.244.10.0/26 proto 80",
        "10.244.10.2 dev cali0d7763386da scope link",
        "10.244.10.3 dev cali31158f8c502 scope link",
        "10.244.10.20 via 10.244.10.128 dev vxlan.calico onlink",
        "10.244.10.64/26 via 10.244.10.64 dev vxlan.calico onlink",
        "10.244.10.128/26 via 10.244.10.128 dev vxlan.calico onlink",
    ]),
    ("flannel-host-gw", "node-1", [
        "default via 192.168.50.1 dev eth0",
        "10.244.1.0/24 via 192.168.50.12 dev eth0",
        "10.244.2.0/24 via 192.168.50.13 dev eth0",
    ]),
    ("canal", "node-3", [
        "default via 192.168.50.1 dev eth0",
        "10.244.0.0/24 via 10.244.0.0 dev flannel.1 onlink",
        "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink",
        "10.244.2.11 dev calie655985edd1 scope link",
        "10.244.2.53 dev cali8b8bfc5f42f scope link",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("topology", "where", "expected"), ROUTES, ids=[f"{row[0]} {row[1]}" for row in ROUTES])
def test_routes(topology: str, where: str, expected: list[str]) -> None:
    assert main_routes(at(open_topology(topology), where)) == expected


def test_the_pod_of_ipv6_goes_by_a_link_local_gateway() -> None:
    assert main_routes(at(open_topology("calico-vxlan"), "default/web-0"), 6) == [
        "fe80::ecee:eeff:feee:eeee dev eth0 metric 1024",
        "default via fe80::ecee:eeff:feee:eeee dev eth0 metric 1024",
    ]


def test_devices_and_sysctls_of_a_pod() -> None:
    node = at(open_topology("calico-bgp"), "node-1")
    name = device_of(Pod(name="web-0", namespace="default"))
    device = node.devices[name]
    assert (name, device.mac, device.mtu, device.master) == ("cali0d7763386da", "ee:ee:ee:ee:ee:ee", 1500, None)
    assert not any(a.ip.family == 4 for a in device.addresses)
    own = {key.rpartition(".")[2]: value for key, value in node.sysctls.items() if f".{name}." in key}
    assert own == {"route_localnet": 1, "proxy_arp": 1, "forwarding": 1, "rp_filter": 0, "proxy_delay": 0}
    assert not any(d.kind is DeviceKind.BRIDGE for d in node.devices.values())


def test_tunnels_and_what_felix_tells_them() -> None:
    ipip = at(open_topology("calico-ipip-crosssubnet"), "node-1").devices["tunl0"]
    assert (ipip.kind, ipip.mtu, [str(a) for a in ipip.addresses]) == (DeviceKind.IPIP, 1480, ["10.244.10.0/32"])
    node = at(open_topology("calico-vxlan"), "node-1")
    vxlan = node.devices["vxlan.calico"]
    assert vxlan.vxlan is not None
    assert (vxlan.mtu, vxlan.vxlan.vni, vxlan.vxlan.port, vxlan.vxlan.learning) == (1450, 4096, 4789, False)
    assert vxlan.mac.startswith("66:")
    assert [(n.dev, str(n.ip)) for n in node.neighbours] == [
        ("vxlan.calico", "10.244.10.64"),
        ("vxlan.calico", "10.244.10.128"),
        ("vxlan-v6.calico", "fd00:10:244:a::40"),
        ("vxlan-v6.calico", "fd00:10:244:a::80"),
    ]
    assert {str(e.dst) for e in node.fdb if e.dev == "vxlan.calico"} == {"192.168.50.12", "192.168.50.13"}


@pytest.mark.parametrize(
    ("topology", "expected"),
    [("calico-bgp", 1500), ("calico-ipip-crosssubnet", 1480), ("calico-vxlan", 1430)],
)
def test_mtu_of_pods(topology: str, expected: int) -> None:
    assert mtu(open_topology(topology)) == expected


def test_sets() -> None:
    found = at(open_topology("calico-ipip-crosssubnet"), "node-1").sets
    assert {name: [str(e) for e in each.entries] for name, each in found.items()} == {
        "cali40all-ipam-pools": ["10.244.0.0/16"],
        "cali40masq-ipam-pools": ["10.244.0.0/16"],
        "cali40all-hosts-net": ["192.168.50.11", "192.168.50.12", "192.168.60.13", "192.168.60.14"],
    }


# -- who says what: pools, blocks, addresses -----------------------------------------------------------------------------


def read(*documents: Doc, **overrides: Any) -> Cluster:
    return load(["-"], io.StringIO("\n---\n".join(map(json.dumps, documents))), Overrides(**overrides))


def topology(**more: Any) -> Doc:
    nodes = [{"name": f"n{i}", "addresses": [f"192.168.0.1{i}"]} for i in (1, 2)]
    base = {"apiVersion": "netlab/v1", "kind": "Topology", "nodes": nodes, "cni": {"name": "calico"}}
    return {**base, "podCIDR": "10.1.0.0/16", **more}


def pod(name: str, node: str, address: str = "") -> Doc:
    status = {"phase": "Running", "podIP": address} if address else {}
    spec = {"nodeName": node, "containers": []}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec, "status": status}


def pool(cidr: str, **spec: Any) -> Doc:
    return {"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": cidr, **spec}}


def daemon_set(**env: str) -> Doc:
    container = {"name": "calico-node", "env": [{"name": k, "value": v} for k, v in env.items()]}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "calico-node", "namespace": "kube-system"},
        "spec": {"selector": {}, "template": {"spec": {"hostNetwork": True, "containers": [container]}}},
    }


def installation(encapsulation: str) -> Doc:
    network = {"bgp": "Disabled", "ipPools": [{"cidr": "10.1.0.0/16", "encapsulation": encapsulation}]}
    meta = {"name": "default"}
    return {"apiVersion": "operator.tigera.io/v1", "kind": "Installation", "metadata": meta, "spec": {"calicoNetwork": network}}


ENCAPSULATIONS = [
    ("nobody says it: Calico's manifest", [topology()], {}, "IPIP", True),
    ("the Topology", [topology(cni={"name": "calico", "encapsulation": "VXLANCrossSubnet"})], {}, "VXLANCrossSubnet", True),
    ("an IPPool", [topology(), pool("10.1.0.0/16", ipipMode="CrossSubnet")], {}, "IPIPCrossSubnet", False),
    ("the environment of calico-node", [topology(), daemon_set(CALICO_IPV4POOL_IPIP="Never", CALICO_IPV4POOL_VXLAN="Always")],
     {}, "VXLAN", True),
    ("natOutgoing of the environment",
     [topology(), daemon_set(CALICO_IPV4POOL_IPIP="Never", CALICO_IPV4POOL_NAT_OUTGOING="false")], {}, "Never", False),
    ("the operator's Installation", [topology(), installation("VXLAN")], {}, "VXLAN", True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("documents", "overrides", "encapsulation", "outgoing"),
    [row[1:] for row in ENCAPSULATIONS],
    ids=[row[0] for row in ENCAPSULATIONS],
)
def test_who_decides_the_encapsulation(documents: list[Doc], overrides: Doc, encapsulation: str, outgoing: bool) -> None:
    found = read(*documents, **overrides)
    assert [(p.encapsulation, p.nat_outgoing) for p in found.calico.pools] == [(encapsulation, outgoing)]


def test_a_flag_replaces_the_plug_in_and_what_was_written_for_it() -> None:
    found = load([str(ROOT / "topologies" / "flannel-vxlan.yaml")], overrides=Overrides(cni="calico"))
    assert (found.calico.backend, [p.encapsulation for p in found.calico.pools]) == ("bird", ["IPIP", "Never"])
    assert Tracer(found).trace(Request("web-0", "api-1")).exit_code == 0


def test_without_bgp_pools_are_vxlan() -> None:
    found = read(topology(cni={"name": "calico", "backend": "vxlan"}))
    assert [p.encapsulation for p in found.calico.pools] == ["VXLAN"]


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(InputError, match='unknown backend "ospf" of Calico'):
        read(topology(cni={"name": "calico", "backend": "ospf"}))


def test_random_clusters_on_an_unknown_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "verify", "--random", "1", "--cni", "weave"]) == 2
    assert "one of flannel, calico, calico-ipip, canal" in capsys.readouterr().err


def config_map(name: str, **data: str) -> Doc:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "kube-system"}, "data": data}


def test_the_environment_names_the_pool() -> None:
    bare = {key: value for key, value in topology().items() if key not in ("podCIDR", "cni")}
    found = read(bare, daemon_set(CALICO_IPV4POOL_CIDR="10.9.0.0/16", CALICO_IPV4POOL_IPIP="CrossSubnet"))
    assert [(str(p.cidr), p.encapsulation) for p in found.calico.pools] == [("10.9.0.0/16", "IPIPCrossSubnet")]
    assert [str(c) for c in found.pod_cidrs] == ["10.9.0.0/16"]


@pytest.mark.parametrize("backend", ["bird", "vxlan", "none"])
def test_calico_config_names_the_backend(backend: str) -> None:
    assert read(topology(), config_map("calico-config", calico_backend=backend)).calico.backend == backend


def test_canal_s_config_map_is_flannel_s() -> None:
    network = json.dumps({"Network": "10.8.0.0/16", "Backend": {"Type": "host-gw"}})
    bare = {**topology(), "podCIDR": None, "cni": {"name": "canal"}}
    found = read(bare, config_map("canal-config", **{"net-conf.json": network}))
    assert (found.cni.name, found.cni.backend, str(found.pod_cidrs[0])) == ("canal", "host-gw", "10.8.0.0/16")


def test_blocks_follow_pods_and_new_pods_follow_blocks() -> None:
    found = read(
        topology(), pool("10.1.0.0/16"), pod("a", "n1", "10.1.0.70"), pod("b", "n2", "10.1.0.130"), pod("c", "n2", "10.1.0.71"),
        pod("d", "n1", "10.1.0.72"), pod("new", "n1"),
    )  # fmt: skip
    blocks = {name: [str(b) for b in own] for name, own in found.calico.blocks.items()}
    assert blocks == {"n1": ["10.1.0.64/26"], "n2": ["10.1.0.128/26"]}
    assert str(found.pods["default/new"].ips[0]) == "10.1.0.64"  # blocks have no network address
    assert any("pod default/c has borrowed 10.1.0.71 of block 10.1.0.64/26" in line for line in build(found).assumptions)


def test_a_node_without_pods_has_no_block_until_it_has_a_tunnel() -> None:
    bare = read(topology(), pool("10.1.0.0/16"), pod("a", "n1", "10.1.0.2"))
    tunnelled = read(topology(), pool("10.1.0.0/16", ipipMode="Always"), pod("a", "n1", "10.1.0.2"))
    assert "n2" not in bare.calico.blocks
    assert [str(b) for b in tunnelled.calico.blocks["n2"]] == ["10.1.0.64/26"]
    assert tunnelled.calico.tunnels["n2"] == (("ipip", tunnelled.calico.blocks["n2"][0].address),)


def test_a_full_block_is_followed_by_another() -> None:
    pods = [pod(f"p{i}", "n1") for i in range(6)]
    found = read(topology(), pool("10.1.0.0/16", blockSize=30), *pods)
    assert [str(found.pods[f"default/p{i}"].ips[0]) for i in range(6)] == [f"10.1.0.{i}" for i in range(6)]
    assert [str(b) for b in found.calico.blocks["n1"]] == ["10.1.0.0/30", "10.1.0.4/30"]


def test_the_order_of_the_input_does_not_matter() -> None:
    documents = [topology(), pool("10.1.0.0/16", ipipMode="Always"), *(pod(f"p{i}", f"n{i % 2 + 1}") for i in range(5))]
    one, other = read(*documents), read(*reversed(documents))
    assert (one.calico.blocks, one.calico.tunnels) == (other.calico.blocks, other.calico.tunnels)
    assert {key: pod.ips for key, pod in one.pods.items()} == {key: pod.ips for key, pod in other.pods.items()}


REFUSED = [
    (pool("10.1.0.0/16", ipipMode="Sometimes"), 'spec.ipipMode: unknown value "Sometimes"'),
    (pool("10.1.0.0/16", ipipMode="Always", vxlanMode="Always"), "both ipipMode and vxlanMode"),
    (pool("fd00::/48", ipipMode="Always"), "IPIP does not carry IPv6"),
    (pool("10.1.0.0/16", blockSize=18), "a blockSize of 18"),
    (pool("10.1.0.0/16", nodeSelector="rack = 'a'"), "spec.nodeSelector"),
    ({"apiVersion": "projectcalico.org/v3", "kind": "BGPPeer", "metadata": {"name": "x"}, "spec": {"asNumber": 1}},
     "a peer is given by peerIP or by peerSelector"),
    ({"apiVersion": "projectcalico.org/v3", "kind": "BGPPeer", "metadata": {"name": "x"},
      "spec": {"peerIP": "192.168.0.1", "asNumber": "many"}}, '"many" is no AS number'),
    (topology(fabric={"segments": [{"name": n, "prefixes": [p]} for n, p in (("a", "192.168.0.0/24"), ("b", "192.168.0.0/16"))]}),
     'segment "b" overlaps "a"'),
    (topology(fabric={"segments": [{"name": "a", "prefixes": ["192.168.0.0/24"], "gateways": ["10.0.0.1"]}]}),
     "gateway 10.0.0.1 is in none of the segment's prefixes"),
    (topology(cni={"name": "calico", "encapsulation": "GRE"}), 'cni.encapsulation: unknown value "GRE"'),
]  # fmt: skip


@pytest.mark.parametrize(("document", "message"), REFUSED, ids=[row[1] for row in REFUSED])
def test_refusals(document: Doc, message: str) -> None:
    documents = [document] if document["kind"] == "Topology" else [topology(), document]
    with pytest.raises(InputError) as error:
        read(*documents)
    assert message in str(error.value).replace("`", "")
    assert str(error.value).startswith("-")


def test_a_peer_that_nobody_is() -> None:
    spec = {"peerIP": "192.168.0.99"}
    peer = {"apiVersion": "projectcalico.org/v3", "kind": "BGPPeer", "metadata": {"name": "x"}, "spec": spec}
    built = build(read(topology(), pool("10.1.0.0/16"), peer))
    assert "BGPPeer x: 192.168.0.99 is neither a node nor the router of the fabric" in built.not_modelled


if __name__ == "__main__":
    for name, what in TRACES.items():
        (GOLDEN / f"{name}.txt").write_text(shown(*what))
