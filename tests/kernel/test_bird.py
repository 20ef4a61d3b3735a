"""BIRD as the judge of computed BGP: Debian's bird2 on every node, and the routes that it installs are the computed ones.

Law: each row is a cluster whose sessions are up for real; the lab waits until BIRD's routes equal netlab's, or says where not.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.kube.load import load
from netlab.lab.bird import compare, configurations, plan_with_bird
from netlab.lab.host import Lab
from netlab.lab.verify import lab_network, verify
from netlab.linux.route import route_text
from netlab.trace.flows import Flow
from netlab.trace.query import Tracer

pytestmark = pytest.mark.usefixtures("kernel")

Doc = dict[str, Any]
API = "projectcalico.org/v3"
ONE = {"prefixes": ["192.168.50.0/24"], "gateways": ["192.168.50.1"]}
RACKS = {
    "segments": [
        {"name": "rack-a", "prefixes": ["192.168.50.0/24"], "gateways": ["192.168.50.1"]},
        {"name": "rack-b", "prefixes": ["192.168.60.0/24"], "gateways": ["192.168.60.1"]},
    ]
}
A, B, C, D = "192.168.50.11", "192.168.50.12", "192.168.60.13", "192.168.60.14"


def node(name: str, address: str, **annotations: str) -> Doc:
    notes = {f"projectcalico.org/{key}": value for key, value in annotations.items()}
    return {"name": name, "addresses": [address], "annotations": notes, "labels": {"rack": address.split(".")[2]}}


def peer(name: str, **spec: Any) -> Doc:
    return {"apiVersion": API, "kind": "BGPPeer", "metadata": {"name": name}, "spec": spec}


def pods(*rows: str) -> Iterator[Doc]:
    """`NODE ADDRESS`."""
    for n, row in enumerate(rows):
        where, address = row.split()
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pod-{n}"},
            "spec": {"nodeName": where, "containers": [{"ports": [{"containerPort": 80}]}]},
            "status": {"phase": "Running", "podIP": address},
        }


def cluster(fabric: Doc, nodes: list[Doc], *others: Doc, mesh: bool = True, rows: tuple[str, ...] = ()) -> Cluster:
    addresses = rows or tuple(f"{n['name']} 10.244.0.{64 * i + 2}" for i, n in enumerate(nodes))
    topology = {
        "apiVersion": "netlab/v1",
        "kind": "Topology",
        "nodes": nodes,
        "fabric": fabric,
        "podCIDR": "10.244.0.0/16",
        "cni": {"name": "calico", "encapsulation": "Never"},
    }
    configuration = {
        "apiVersion": API,
        "kind": "BGPConfiguration",
        "metadata": {"name": "default"},
        "spec": {"nodeToNodeMeshEnabled": mesh},
    }
    documents = [topology, configuration, *others, *pods(*addresses)]
    return load(["-"], io.StringIO("\n---\n".join(map(json.dumps, documents))))


def racks(**annotations: str) -> list[Doc]:
    return [node(f"n{i}", address, **annotations) for i, address in enumerate((A, B, C, D), 1)]


TWO = [node("n1", A), node("n2", B), node("n3", "192.168.50.13")]
TOR = [peer(f"rack-{n}", nodeSelector=f"rack == '{n}'", peerIP=f"192.168.{n}.1") for n in (50, 60)]
EBGP = [{**p, "spec": {**p["spec"], "asNumber": 65000}} for p in TOR]
OWN_AS = [node(f"n{i}", a, ASNumber=str(64600 + i)) for i, a in enumerate((A, B, C, D), 1)]
REFLECTORS = [node("n1", A, RouteReflectorClusterID="1.0.0.1"), *racks()[1:3], node("n4", D, RouteReflectorClusterID="1.0.0.1")]

# name, cluster, one node's route that says it all
ROWS = [
    ("mesh on one subnet", cluster(ONE, TWO), "n1", "10.244.0.64/26 via 192.168.50.12 dev eth0 proto bird"),
    ("mesh over a router: the next hop is resolved by the default route", cluster(RACKS, racks()), "n1",
     "10.244.0.128/26 via 192.168.50.1 dev eth0 proto bird"),
    ("a borrowed address is told as a /32", cluster(ONE, TWO, rows=("n1 10.244.0.2", "n1 10.244.0.3", "n2 10.244.0.4")), "n1",
     "10.244.0.4 via 192.168.50.12 dev eth0 proto bird"),
    ("two reflectors, no mesh: the next hop stays the node's own",
     cluster(RACKS, REFLECTORS, peer("rr", peerSelector="has(rr)"), peer("r1", node="n2", peerIP=A),
             peer("r2", node="n3", peerIP=A), peer("r3", node="n2", peerIP=D), peer("r4", node="n3", peerIP=D), mesh=False),
     "n2", "10.244.0.0/26 via 192.168.50.11 dev eth0 proto bird"),
    ("a router of our AS reflects", cluster(RACKS, racks(), *TOR, mesh=False), "n1",
     "10.244.0.64/26 via 192.168.50.12 dev eth0 proto bird"),
    ("a router of another AS, every node of its own: third-party next hops", cluster(RACKS, OWN_AS, *EBGP, mesh=False), "n1",
     "10.244.0.64/26 via 192.168.50.12 dev eth0 proto bird"),
    ("... and towards the other rack the router itself", cluster(RACKS, OWN_AS, *EBGP, mesh=False), "n1",
     "10.244.0.128/26 via 192.168.50.1 dev eth0 proto bird"),
    ("a router of another AS, nodes of one AS: refused, their own AS is in the path", cluster(RACKS, racks(), *EBGP, mesh=False),
     "n1", "blackhole 10.244.0.0/26 proto bird"),
    ("mesh, and the router is told by everybody", cluster(RACKS, racks(), *EBGP), "internet",
     "10.244.0.0/26 via 192.168.50.11 dev eth0 proto bird"),
]  # fmt: skip


@pytest.mark.parametrize(("some", "where", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_bird_installs_what_was_computed(some: Cluster, where: str, expected: str) -> None:
    tracer = Tracer(some)
    network = lab_network(some, tracer.network)
    assert expected in [route_text(route) for route in network.namespaces[where].routes]
    with Lab.start(plan_with_bird(some, network)) as lab:
        found = compare(lab, network, list(configurations(some)), patience=12)
    assert "\n".join(found.differences) == ""
    assert found.equal >= 3


def test_packets_take_the_routes_that_bird_learned() -> None:
    some = cluster(RACKS, racks(), *TOR, mesh=False)
    tracer = Tracer(some)
    network = lab_network(some, tracer.network)
    with Lab.start(plan_with_bird(some, network)) as lab:
        assert compare(lab, network, list(configurations(some)), patience=12).differences == ()
        report = verify(tracer, lab, [Flow("pod-0", "10.244.0.194:80", "tcp"), Flow("pod-0", "10.244.0.66:80", "tcp")])
    assert report.agreed == report.verdicts["delivered"] == 2


def test_nobody_speaks_bgp() -> None:
    some = load(["-"], io.StringIO(json.dumps({"apiVersion": "netlab/v1", "kind": "Topology"})))
    with pytest.raises(InputError, match="nobody in this cluster speaks BGP"):
        plan_with_bird(some, Tracer(some).network)
