"""kube-proxy's userspace mode against Linux: the lab plays kube-proxy, and both connections are compared, packet for packet.

Law: the kernel is right about every packet; what kube-proxy does between the connections is read in its source, and the lab's
process does just that.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from netlab.kube.cluster import Cluster
from netlab.kube.embedded import path_of_default
from netlab.kube.load import load
from netlab.kube.topology import Overrides
from netlab.lab.frequencies import choosing
from netlab.lab.host import Lab
from netlab.lab.plan import make_plan
from netlab.lab.random_clusters import verify_random
from netlab.lab.rulepath import verify_paths
from netlab.lab.verify import lab_network, verify
from netlab.linux.netns import Listener, Netns
from netlab.linux.packet import TCP
from netlab.trace.flows import Flow, flows
from netlab.trace.query import Tracer

pytestmark = pytest.mark.usefixtures("kernel")

# Beside the example: a service of three pods, two of which will be cut off; a node port by UDP
HOLES = (("hole-0", "node-1", "10.244.0.98"), ("hole-1", "node-2", "10.244.1.98"), ("whole", "node-3", "10.244.2.98"))
MORE = """
---
apiVersion: v1
kind: Service
metadata: {name: holes, namespace: default}
spec: {clusterIP: 10.96.0.90, selector: {app: hole}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: names, namespace: kube-system}
spec: {type: NodePort, clusterIP: 10.96.0.11, selector: {k8s-app: kube-dns}, ports: [{port: 53, protocol: UDP, nodePort: 30053}]}
""" + "".join(
    f"""
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default, labels: {{app: hole}}}}
spec: {{nodeName: {node}, containers: [{{name: c, ports: [{{containerPort: 8080}}]}}]}}
status: {{phase: Running, podIPs: [{{ip: {address}}}]}}
"""
    for name, node, address in HOLES
)
CUT_OFF = ("default/hole-0", "default/hole-1")
CLOSED = ("default/api-0", "default/api-1")  # they listen on nothing that anybody asks for


def example() -> Cluster:
    documents = path_of_default().read_text() + MORE
    return load(["-"], io.StringIO(documents), Overrides(proxy_mode="userspace"))


def cut_off(netns: Netns) -> Netns:
    routes = tuple(route for route in netns.routes if all(hop.dev == "lo" for hop in route.nexthops))
    return replace(netns, devices={name: replace(d, up=name == "lo") for name, d in netns.devices.items()}, routes=routes)


def closed(netns: Netns) -> Netns:
    return replace(netns, listeners=(Listener(TCP, 1, f"pod {netns.name}"),))


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_linux_does_what_netlab_says(variant: str) -> None:
    declared = example()
    tracer = Tracer(declared)
    network = lab_network(declared, tracer.network)
    wanted = flows(declared, network, 400, 17)
    with Lab.start(make_plan(network, variant=variant)) as lab:
        report = verify(tracer, lab, wanted)
        counted = verify_paths(tracer, network, lab, wanted[:30], variant)
    assert "\n".join(map(str, report.disagreements)) == ""
    assert "\n".join(map(str, counted.disagreements)) == ""
    assert (report.agreed, report.unknown.total()) == (400, 0)
    assert min(report.verdicts[verdict] for verdict in ("delivered", "dropped", "rejected")) > 50
    assert counted.agreed >= 22
    assert len(counted.rules) > 20


CASES = {  # flow -> verdict; (counted) where every rule's counter can be compared, too
    "round robin": (Flow("web-0", "10.96.0.30:80", "tcp"), "delivered", True),
    "a pod that meets itself": (Flow("web-1", "10.96.0.30:80", "tcp"), "delivered", True),
    "two endpoints refuse, the third answers": (Flow("web-0", "10.96.0.20:80", "tcp"), "delivered", True),
    "two endpoints that are cut off, the third answers": (Flow("web-1", "10.96.0.90:80", "tcp"), "delivered", False),
    "no endpoint: opened, and closed again": (Flow("web-0", "10.96.0.80:80", "tcp"), "rejected", True),
    "from the node itself": (Flow("node/node-2", "10.96.0.20:80", "tcp"), "delivered", True),
    "UDP": (Flow("api-2", "10.96.0.10:53", "udp"), "delivered", True),
    "UDP from the node itself": (Flow("node/node-1", "10.96.0.10:53", "udp"), "delivered", True),
    "a node port by UDP": (Flow("203.0.113.7", "192.168.50.12:30053", "udp"), "delivered", True),
    "a node port on 127.0.0.1": (Flow("node/node-1", "127.0.0.1:30080", "tcp"), "delivered", True),
    "a node port on 127.0.0.1 by UDP": (Flow("node/node-1", "127.0.0.1:30053", "udp"), "dropped", True),
    "a node port by IPv6 is only held": (Flow("web-0", "[fd00:192:168:50::12]:30080", "tcp"), "dropped", True),
    "policy Local from a node without a pod": (Flow("node/node-3", "192.0.2.40:80", "tcp"), "delivered", True),
}  # fmt: skip


@pytest.fixture(scope="module")
def standing() -> Iterator[tuple[Lab, Tracer]]:
    declared = example()
    tracer = Tracer(declared)
    spaces = tracer.network.namespaces
    changed = {name: closed(spaces[name]) for name in CLOSED} | {name: cut_off(spaces[name]) for name in CUT_OFF}
    tracer.network = replace(tracer.network, namespaces={**spaces, **changed})
    network = lab_network(declared, tracer.network)
    with Lab.start(make_plan(network)) as lab:
        yield lab, tracer


@pytest.mark.parametrize("name", CASES)
def test_both_connections(standing: tuple[Lab, Tracer], name: str) -> None:
    lab, tracer = standing
    flow, verdict, countable = CASES[name]
    report = verify(tracer, lab, [flow])
    assert "\n".join(map(str, report.disagreements)) == ""
    assert report.verdicts == {verdict: 1}
    counted = verify_paths(tracer, lab_network(tracer.cluster, tracer.network), lab, [flow], "legacy")
    assert "\n".join(map(str, counted.disagreements)) == ""
    assert (counted.agreed, counted.passed_over) == ((1, 0) if countable else (0, 1))


def test_a_client_with_affinity_keeps_its_endpoint(standing: tuple[Lab, Tracer]) -> None:
    """One client, one backend; `lab_network` knows three, and a trace is of a first connection."""
    lab, _ = standing
    script = "for n in 1 2 3 4 5 6; do exec 3<>/dev/tcp/ADDRESS/80; echo >&3; cat <&3; exec 3>&-; done"
    def owners(address: str) -> list[str]:
        said = lab.run("default/web-0", "bash", "-c", script.replace("ADDRESS", address))
        return [json.loads(line)["owner"] for line in said.splitlines()]

    assert owners("10.96.0.60") == ["pod default/api-2"] * 6  # the one that listens
    turns = owners("10.96.0.30")
    assert sorted(turns) == ["pod default/web-0"] * 3 + ["pod default/web-1"] * 3


def test_affinity_is_no_choice_whose_frequencies_count() -> None:
    """A client of api-sticky stays where its first connection went: 300 connections to one endpoint are right."""
    tracer = Tracer(example())
    sticky, round_robin = Flow("default/pod/web-1", "10.96.0.60:80", "tcp"), Flow("default/pod/web-1", "10.96.0.20:80", "tcp")
    assert [flow for flow, _ in choosing(tracer, [sticky, round_robin], most=3)] == [round_robin]


def test_random_clusters() -> None:
    report = verify_random(4, 60, flows=60, rules=3, mode="userspace")
    assert "\n".join(map(str, report.disagreements)) == ""
    assert report.clusters == 4
    assert report.agreed + report.unsupported == report.flows > 200
    assert report.paths_agreed == report.paths > 6
