"""Clusters under kube-proxy's nftables mode, in the lab: what netlab says and what Linux does."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from netlab.cli.main import main
from netlab.kube.load import load
from netlab.lab.host import Lab
from netlab.lab.plan import make_plan
from netlab.lab.rulepath import verify_paths
from netlab.lab.verify import Report, lab_network, verify
from netlab.linux.addr import prefix
from netlab.trace.flows import Flow, flows
from netlab.trace.query import Tracer
from tests.kernel.test_lab import CLUSTERS
from tests.test_proxy_iptables import POD_NETWORKS

pytestmark = pytest.mark.usefixtures("kernel")


def sent(name: str, wanted: list[Flow] | int, version: str = "1.30", **options: object) -> Report:
    """The flows (or so many random ones) of a cluster, predicted and sent."""
    declared = load([str(CLUSTERS[name])])
    pods = {"cluster_cidrs": tuple(prefix(c) for c in POD_NETWORKS[name])} if name in POD_NETWORKS else {}
    declared = replace(declared, proxy=replace(declared.proxy, mode="nftables", version=version, **pods, **options))
    tracer = Tracer(declared)
    network = lab_network(declared, tracer.network)
    with Lab.start(make_plan(network)) as lab:
        report = verify(tracer, lab, flows(declared, network, wanted, 5) if isinstance(wanted, int) else wanted)
    assert "\n".join(map(str, report.disagreements)) == ""
    assert not report.unknown
    return report


@pytest.mark.parametrize("name", CLUSTERS)
def test_linux_does_what_netlab_says(name: str) -> None:
    report = sent(name, 200)
    assert report.agreed >= 180
    assert min(report.verdicts[verdict] for verdict in ("delivered", "dropped", "rejected")) > 5


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_rules_are_walked_in_linux_order(name: str) -> None:
    """Rules of nft have no counters: the kernel's own trace tells the order, iptables-nft's and kube-proxy's alike."""
    declared = load([str(CLUSTERS[name])])
    pods = {"cluster_cidrs": tuple(prefix(c) for c in POD_NETWORKS[name])} if name in POD_NETWORKS else {}
    declared = replace(declared, proxy=replace(declared.proxy, mode="nftables", **pods))
    tracer = Tracer(declared)
    network = lab_network(declared, tracer.network)
    with Lab.start(make_plan(network, variant="nft")) as lab:
        report = verify_paths(tracer, network, lab, flows(declared, network, 25, 8), "nft")
    assert "\n".join(map(str, report.disagreements)) == ""
    assert report.agreed >= 20
    assert any(table.startswith("nft ip") for _, table, _, _ in report.rules)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([], "in the kernel's order;"),
        (["--iptables", "legacy"], "by their counters (those of nftables not: --iptables nft compares them);"),
    ],
)
def test_rules_that_nobody_compares_are_told(asked: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--proxy-mode", "nftables", "--kernel", "host", "--flows", "20", "--rules", "4", "-q"]
    assert main(["lab", "verify", *arguments, *asked]) == 0
    assert said in capsys.readouterr().out


LOCAL_BALANCER = "192.0.2.81:80"  # of a service with policy Local; node-2 has none of its endpoints


@pytest.mark.parametrize(
    ("version", "verdict"), [("1.30", "dropped"), ("1.33", "dropped"), ("1.33.6", "delivered"), ("1.34", "delivered")]
)
def test_a_node_without_local_endpoints_and_the_load_balancer(version: str, verdict: str) -> None:
    """kubernetes 131765, mended in 1.34 and 1.33.6."""
    assert sent("services", [Flow("node/node-2", LOCAL_BALANCER, "tcp")], version).verdicts == {verdict: 1}


@pytest.mark.parametrize(
    ("destination", "version", "options", "verdict"),
    [
        ("10.96.0.20:81", "1.30", {}, "rejected"),  # a port that the service has not
        ("10.96.0.99:80", "1.30", {}, "dropped"),  # no ClusterIP: beyond the gateway
        ("10.96.0.99:80", "1.33", {}, "dropped"),  # dropped by cluster-ips-check
        ("10.96.0.80:80", "1.34", {}, "rejected"),  # a service without endpoints, after DNAT's priority
        ("127.0.0.1:30080", "1.30", {}, "rejected"),  # node ports are not on localhost
        ("127.0.0.1:30080", "1.30", {"nodeport_addresses": (prefix("0.0.0.0/0"),)}, "rejected"),
        ("192.168.50.11:30080", "1.30", {}, "delivered"),
        ("10.244.0.1:30080", "1.30", {}, "rejected"),  # cni0's address is not the node's primary one
        ("10.244.0.1:30080", "1.30", {"nodeport_addresses": (prefix("0.0.0.0/0"),)}, "delivered"),
        ("10.96.0.20:80", "1.30", {"cluster_cidrs": (prefix("0.0.0.0/0"),)}, "delivered"),
        ("10.96.0.20:80", "1.34", {"masquerade_all": True}, "delivered"),
    ],
)
def test_a_flow_of_the_node(destination: str, version: str, options: dict[str, object], verdict: str) -> None:
    assert sent("topology", [Flow("node/node-1", destination, "tcp")], version, **options).verdicts == {verdict: 1}
