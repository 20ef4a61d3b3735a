"""Random clusters in real namespaces: a bounded round with each iptables, and what the long rounds taught as cases of its own.

Law: the kernel is right. A flow that differs is a failed test that prints the seed and both sides; `netlab lab verify --random`
runs as many clusters as one likes.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from netlab.kube.cluster import Cluster
from netlab.kube.embedded import path_of_default
from netlab.kube.load import load
from netlab.lab.host import Lab
from netlab.lab.plan import make_plan
from netlab.lab.policy_agreement import Drops
from netlab.lab.policy_cases import read
from netlab.lab.random_clusters import entries, verify_random
from netlab.lab.rulepath import verify_paths
from netlab.lab.verify import lab_network, verify
from netlab.trace.flows import Flow, predict
from netlab.trace.query import Tracer

pytestmark = pytest.mark.usefixtures("kernel")

CASES = Path(__file__).parents[1] / "data" / "policy" / "cases"
CALICO = """
apiVersion: netlab/v1
kind: Topology
cni: {name: calico, pools: [{cidr: 10.244.0.0/16, encapsulation: Never}]}
nodes: [{name: node-1}]
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {nodeName: node-1}
status: {phase: Running, podIP: 10.244.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: api}
spec: {nodeName: node-1}
status: {phase: Running, podIP: 10.244.0.3}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all}
spec: {podSelector: {}}
"""


@pytest.mark.parametrize(("variant", "first"), [("legacy", 40), ("nft", 50)])
def test_linux_does_what_netlab_says_of_random_clusters(variant: str, first: int) -> None:
    report = verify_random(6, first, flows=60, rules=3, variant=variant)
    assert "\n".join(map(str, report.disagreements)) == ""
    assert report.clusters == 6
    assert report.agreed + report.unsupported == report.flows > 300
    assert report.unknown.total() == 0
    assert min(report.verdicts[verdict] for verdict in ("delivered", "dropped", "rejected")) > 30
    assert report.rules > 300
    assert report.paths_agreed == report.paths > 10


@pytest.mark.parametrize(
    ("variant", "cni", "first"), [("legacy", "calico", 7003), ("nft", "calico", 7013), ("legacy", "canal", 7023)]
)
def test_linux_does_what_netlab_says_of_random_policies(variant: str, cni: str, first: int) -> None:
    report = verify_random(3, first, flows=80, rules=2, variant=variant, cni=cni, policies=True)
    assert "\n".join(map(str, report.disagreements)) == ""
    assert report.agreed + report.unsupported + report.unknown.total() == report.flows > 150
    assert report.unknown.total() < 5
    assert report.policies > 5
    assert report.policy_rules > 50
    assert report.drops > 10  # flows that were denied, and whose packets the rule that drops has counted
    assert report.paths_agreed == report.paths > 1


def test_a_denied_flow_that_no_rule_counted_is_found() -> None:
    trace = predict(Tracer(opened(CALICO)), Flow("default/pod/web", "10.244.0.3:8080", "tcp"), 33000)
    drops = Drops()
    drops.add(trace)
    (place,) = drops.must
    assert drops.compare({place: 1}, [place]) == []
    assert [found.packets for found in drops.compare({}, [place])] == [0]
    other = (4, (place[1][0], "filter", "cali-fw-cali0", 9))
    assert [found.flows for found in drops.compare({place: 1, other: 2}, [place, other])] == [0]


@pytest.mark.parametrize("path", sorted(CASES.glob("*.yaml")), ids=lambda path: path.stem)
def test_linux_does_what_random_policies_taught(path: Path) -> None:
    declared, flow = read(path)
    tracer = Tracer(declared)
    network = lab_network(declared, tracer.network)
    with Lab.start(make_plan(network)) as lab:
        (report,) = [verify(tracer, lab, share) for _, share in entries(declared, network, lab, [flow])]
    assert "\n".join(map(str, report.disagreements)) == ""
    assert report.agreed == 1


# -- what they taught --------------------------------------------------------------------------------------------------

DUAL = path_of_default().read_text().replace("masquerade: true", "masquerade: false")  # flannel then hides who comes from outside
IPV6 = """
apiVersion: netlab/v1
kind: Topology
nodes:
- {name: node-1, addresses: ["fd00:172:30::b"], podCIDR: "fd00:10:244::/64"}
- {name: node-2, addresses: ["fd00:172:30::c"], podCIDR: "fd00:10:244:1::/64"}
fabric: {prefixes: ["fd00:172:30::/64"]}
podCIDR: "fd00:10:244::/56"
serviceCIDR: "fd00:10:96::/112"
cni: {name: flannel}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec: {nodeName: node-2}
status: {podIP: "fd00:10:244:1::2", phase: Running}
---
apiVersion: v1
kind: Service
metadata: {name: gone, namespace: default}
spec: {clusterIP: "fd00:10:96::10", ports: [{port: 80}], externalIPs: ["2001:db8:2::5"]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: gone-1, namespace: default, labels: {kubernetes.io/service-name: gone}}
addressType: IPv6
ports: [{port: 8080}]
endpoints: [{addresses: ["fd00:10:244:1::63"]}]
---
apiVersion: v1
kind: Service
metadata: {name: out, namespace: default}
spec:
  clusterIP: "fd00:10:96::20"
  externalIPs: ["2001:db8:2::6"]
  externalTrafficPolicy: Local
  ports: [{port: 53, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: out-1, namespace: default, labels: {kubernetes.io/service-name: out}}
addressType: IPv6
ports: [{port: 53, protocol: UDP}]
endpoints: [{addresses: ["2001:db8:1::7"], nodeName: node-1}]
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: default}
spec: {nodeName: node-2}
status: {podIP: "fd00:10:244:1::3", phase: Running}
---
apiVersion: v1
kind: Service
metadata: {name: near, namespace: default}
spec: {clusterIP: "fd00:10:96::30", ports: [{port: 80, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: near-1, namespace: default, labels: {kubernetes.io/service-name: near}}
addressType: IPv6
ports: [{port: 8080, protocol: UDP}]
endpoints: [{addresses: ["fd00:10:244:1::3"]}]
"""
IPV4 = IPV6
for six, four in (
    ("fd00:172:30::b", "172.30.0.11"),
    ("fd00:172:30::c", "172.30.0.12"),
    ("fd00:172:30::/64", "172.30.0.0/24"),
    ("fd00:10:244::/64", "10.244.0.0/24"),
    ("fd00:10:244:1::/64", "10.244.1.0/24"),
    ("fd00:10:244::/56", "10.244.0.0/16"),
    ("fd00:10:244:1::2", "10.244.1.2"),
    ("fd00:10:244:1::63", "10.244.1.99"),
    ("fd00:10:96::/112", "10.96.0.0/16"),
    ("fd00:10:96::10", "10.96.0.10"),
    ("2001:db8:2::5", "192.0.2.5"),
    ("fd00:10:96::20", "10.96.0.20"),
    ("2001:db8:2::6", "192.0.2.6"),
    ("2001:db8:1::7", "198.51.100.7"),
    ("fd00:10:244:1::3", "10.244.1.3"),
    ("fd00:10:96::30", "10.96.0.30"),
    ("IPv6", "IPv4"),
):
    IPV4 = IPV4.replace(six, four)
OFF = "sysctls: {net.ipv4.ip_forward: 0, net.ipv6.conf.all.forwarding: 0}\n---"
IPV6_OFF, IPV4_OFF = IPV6.replace("---", OFF, 1), IPV4.replace("---", OFF, 1)
ONE_FAMILY = """
apiVersion: netlab/v1
kind: Topology
cni:
  name: calico
  pools: [{cidr: 10.244.0.0/16, encapsulation: Never}, {cidr: "fd00:10:244::/56", encapsulation: Never}]
fabric: {prefixes: [172.30.0.0/24, "fd00:172:30::/64"]}
podCIDRs: [10.244.0.0/16, "fd00:10:244::/56"]
serviceCIDRs: [10.96.0.0/16, "fd00:10:96::/112"]
nodes: [{name: node-1, addresses: [172.30.0.11]}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec: {nodeName: node-1}
status: {podIP: 10.244.0.2, podIPs: [{ip: 10.244.0.2}, {ip: "fd00:10:244::2"}], phase: Running}
"""
TEXTS = {"dual-stack": DUAL, "one family": ONE_FAMILY, "IPv6": IPV6, "IPv4": IPV4}
TEXTS |= {"IPv6, no forwarding": IPV6_OFF, "IPv4, no forwarding": IPV4_OFF}

# (what, cluster, flow, words of the reason)
ROWS = [
    ("a pod entered by way of another node answers past it: that node drops the ACK as INVALID",
     DUAL, Flow("203.0.113.7", "10.244.1.11:9000", "tcp", at="node-1"), "nothing that the sender says next: filter KUBE-FORWARD"),
    ("the same with IPv6", DUAL, Flow("2001:db8::7", "[fd00:10:244:1::11]:9000", "tcp", at="node-1"), "--ctstate INVALID"),
    ("entered at its own node it is reached", DUAL, Flow("203.0.113.7", "10.244.1.11:9000", "tcp", at="node-2"), ""),
    ("each lap of a loop is masqueraded anew: the error ends at the node, which did not ask",
     IPV6, Flow("2001:db8::7", "[fd00:10:244:ff::fd]:80", "tcp", at="node-1"), "no socket here sent that"),
    ("the same with a ping", IPV6, Flow("2001:db8::7", "fd00:10:244:ff::fd", "icmp", at="node-1"), "no socket here sent that"),
    ("IPv4 does not loop so: a node takes no packet from its own address off a wire",
     IPV4, Flow("203.0.113.7", "10.244.200.9:80", "udp", at="node-1"), "martian source 172.30.0.11"),
    ("a loop without NAT: the error comes home, from the address that Linux lists first",
     IPV6, Flow("default/pod/web", "[2001:db8:2::5]:81", "udp"), "TTL spent in a routing loop"),
    ("an endpoint that is gone, behind the bridge of the asker: ICMP address unreachable from the service",
     IPV6, Flow("default/pod/web", "[fd00:10:96::10]:80", "tcp"), "nobody on cni0 answers"),
    ("the same with IPv4", IPV4, Flow("default/pod/web", "10.96.0.10:80", "tcp"), "nobody on cni0 answers"),
    ("an endpoint outside that answers past the node: its reply comes from an address that the client did not ask",
     IPV6, Flow("2001:db8::7", "[2001:db8:2::6]:53", "udp", at="node-1"), "nothing listens on [2001:db8::7]"),
    ("a node that does not forward bridges what it translated to a pod beside the asker",
     IPV6_OFF, Flow("default/pod/web", "[fd00:10:96::30]:80", "udp"), ""),
    ("with IPv4 it does not", IPV4_OFF, Flow("default/pod/web", "10.96.0.30:80", "udp"), "does not forward"),
    ("the port of a VXLAN device is the kernel's: what is no VXLAN packet vanishes there",
     DUAL, Flow("node/node-1", "192.168.50.12:8472", "udp"), "UDP 8472 is the port of flannel.1"),
    ("on another port it is refused", DUAL, Flow("node/node-1", "192.168.50.12:8473", "udp"), "nothing listens"),
    ("a node without an IPv6 address answers with a link-local one",
     ONE_FAMILY, Flow("default/pod/web", "2001:db8::7", "icmp"), "no route to 2001:db8::7"),
]  # fmt: skip


def opened(text: str) -> Cluster:
    return load(["-"], io.StringIO(text))


@pytest.mark.parametrize("variant", ["legacy", "nft"])
@pytest.mark.parametrize("name", TEXTS)
def test_what_random_clusters_taught(name: str, variant: str) -> None:
    text = TEXTS[name]
    declared = opened(text)
    tracer = Tracer(declared)
    network = lab_network(declared, tracer.network)
    rows = {flow: words for _, of, flow, words in ROWS if of is text}
    for flow, words in rows.items():
        reasons = [branch.reason or "" for branch in predict(tracer, flow, 33000).branches]
        assert any(words in reason for reason in reasons), (flow, reasons)
        assert bool(words) == any(reasons), flow
    with Lab.start(make_plan(network, variant=variant)) as lab:
        found = [verify(tracer, lab, share) for _, share in entries(declared, network, lab, rows)]
    assert "\n".join(str(d) for report in found for d in report.disagreements) == ""
    assert sum(report.agreed for report in found) == len(rows)


# A pod of node-2 asks node-1, whose service sends it back to node-2; the answer goes the same way back
OUT_AND_BACK = [Flow("default/pod/web", "172.30.0.11:30080", protocol) for protocol in ("tcp", "udp")]
NODE_PORTS = """
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: default}
spec: {type: NodePort, clusterIP: 10.96.0.4N, ports: [{port: 80, nodePort: 30080, protocol: PROTOCOL}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: NAME-1, namespace: default, labels: {kubernetes.io/service-name: NAME}}
addressType: IPv4
ports: [{port: 8080, protocol: PROTOCOL}]
endpoints: [{addresses: [10.244.1.3]}]
"""


def node_port(number: str, protocol: str) -> str:
    return NODE_PORTS.replace("NAME", f"back-{number}").replace("4N", number).replace("PROTOCOL", protocol)


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_both_directions_through_one_tunnel_are_two_connections_of_the_outer_packets(variant: str) -> None:
    declared = opened(IPV4 + node_port("41", "TCP") + node_port("42", "UDP"))
    tracer = Tracer(declared)
    network = lab_network(declared, tracer.network)
    with Lab.start(make_plan(network, variant=variant)) as lab:
        report = verify_paths(tracer, network, lab, OUT_AND_BACK, variant)
    assert "\n".join(map(str, report.disagreements)) == ""
    assert report.agreed == len(OUT_AND_BACK)


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_redirects_are_told_apart(variant: str) -> None:
    """node-2 sends its pod an ICMPv6 redirect, since br_netfilter has routed the answer before: its rules count that as well."""
    served = node_port("41", "UDP").replace("10.96.0.", "fd00:10:96::").replace("10.244.1.3", '"fd00:10:244:1::3"')
    declared = opened(IPV6 + served.replace("IPv4", "IPv6").replace("fd00:10:96::41", '"fd00:10:96::41"'))
    tracer = Tracer(declared)
    network = lab_network(declared, tracer.network)
    with Lab.start(make_plan(network, variant=variant)) as lab:
        report = verify_paths(tracer, network, lab, [Flow("node/node-1", "[fd00:172:30::c]:30080", "udp")] * 2, variant)
    assert "\n".join(map(str, report.disagreements)) == ""
    assert report.agreed + report.passed_over == 2
    assert variant == "legacy" or report.agreed == 2


def test_a_wrong_prediction_is_found() -> None:
    """The comparison of random clusters can fail: with another cluster's rules in the lab it does."""
    declared, other = opened(IPV4), opened(IPV4.replace("10.96.0.10", "10.96.0.11"))
    tracer, network = Tracer(declared), lab_network(other, Tracer(other).network)
    with Lab.start(make_plan(network)) as lab:
        report = verify(tracer, lab, [Flow("default/pod/web", "10.96.0.10:80", "tcp")])
    assert len(report.disagreements) == 1
