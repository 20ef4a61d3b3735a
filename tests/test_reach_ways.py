"""An answer put together from parts is the answer of a trace: every cell of random clusters, with its words, asked both ways.

Random clusters are small and every pod is its own; here pods have copies on other nodes, and services copies at other addresses,
so that there is something to take over. Whatever differs between two that look alike must show.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_compare import POOL, SHOP, deployment, service, write

from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.kube.load import SERVICE_LABEL, load
from netlab.kube.topology import Overrides
from netlab.lab.random_clusters import random_documents
from netlab.linux.addr import ip, prefix
from netlab.reach import outside
from netlab.reach.matrix import Group, Matrix, columns, groups, matrix
from netlab.reach.places import Places
from netlab.trace.query import Request, Tracer

Doc = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
MODES = ("iptables", "nftables", "ipvs", "userspace")
NETWORKS = ("flannel", "calico", "calico-ipip", "canal")
MOST = 1200  # cells of a cluster, each of which is asked pair by pair, too


def crowded(text: str, random: Random) -> str:
    """The documents of a cluster with up to three copies of each pod, behind the same services, and a copy of each service."""
    docs: list[Doc] = [json.loads(part) for part in text.split("\n---\n")]
    nodes = [d for d in docs if d["kind"] == "Node"]
    copies: dict[tuple[str, str], list[Doc]] = {}
    for pod in [d for d in docs if d["kind"] == "Pod" and d["status"].get("podIPs")]:
        name = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        for _ in range(random.randint(0, 3)):
            number = sum(map(len, copies.values()))
            if (copy := copied_pod(pod, random.choice(nodes), number)) is not None:
                copies.setdefault(name, []).append(copy)
    for part in [d for d in docs if d["kind"] == "EndpointSlice"]:
        part["endpoints"] += [
            copied_endpoint(endpoint, copy, addresses)
            for endpoint in part["endpoints"]
            if (ref := endpoint.get("targetRef"))
            for copy in copies.get((ref["namespace"], ref["name"]), ())
            if (addresses := of_family(copy, 6 if part["addressType"] == "IPv6" else 4)) and random.random() < 0.6
        ]
    last = max(n for n, d in enumerate(docs) if d["kind"] == "Node") + 1
    pods = [copy for some in copies.values() for copy in some]
    made = [*docs[:last], *pods, *docs[last:], *copied_services(docs, random)]
    return "\n---\n".join(map(json.dumps, made)) + "\n"


def copied_pod(pod: Doc, node: Doc, number: int) -> Doc | None:
    """The same pod on another node, or on the same one."""
    copy: Doc = json.loads(json.dumps(pod))
    copy["metadata"]["name"] += f"-copy-{number}"
    copy["spec"]["nodeName"] = node["metadata"]["name"]
    own = [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
    addresses = own if pod["spec"]["hostNetwork"] else [str(prefix(c).nth(100 + number)) for c in node["spec"]["podCIDRs"]]
    families = [ip(a["ip"]).family for a in pod["status"]["podIPs"]]
    ips = [{"ip": a} for family in families for a in addresses if ip(a).family == family]
    if not ips:
        return None
    copy["status"] |= {"podIP": ips[0]["ip"], "podIPs": ips, "hostIP": own[0]}
    return copy


def of_family(pod: Doc, family: int) -> list[str]:
    return [a["ip"] for a in pod["status"]["podIPs"] if ip(a["ip"]).family == family][:1]


def copied_endpoint(endpoint: Doc, pod: Doc, addresses: list[str]) -> Doc:
    ref = {**endpoint["targetRef"], "name": pod["metadata"]["name"]}
    return {**endpoint, "addresses": addresses, "nodeName": pod["spec"]["nodeName"], "targetRef": ref}


def copied_services(docs: list[Doc], random: Random) -> list[Doc]:
    """Services of the same kind at other addresses, most of whose endpoints are the same."""
    made: list[Doc] = []
    for n, doc in enumerate(docs):
        spec = doc.get("spec", {})
        if doc["kind"] != "Service" or spec.get("type") != "ClusterIP" or spec.get("clusterIP", "None") == "None":
            continue
        if spec.get("externalIPs"):
            continue
        copy = json.loads(json.dumps(doc))
        copy["metadata"]["name"] += "-copy"
        ips = [f"10.96.7.{n}" if ip(a).family == 4 else f"fd00:10:96::7{n:02x}" for a in spec["clusterIPs"]]
        copy["spec"] |= {"clusterIP": ips[0], "clusterIPs": ips}
        made.append(copy)
        for part in docs:
            meta = part["metadata"] if part["kind"] == "EndpointSlice" else {}
            if (meta.get("namespace"), meta.get("labels", {}).get(SERVICE_LABEL)) == (
                doc["metadata"]["namespace"],
                doc["metadata"]["name"],
            ):
                labels = {SERVICE_LABEL: copy["metadata"]["name"]}
                endpoints = [endpoint for endpoint in part["endpoints"] if random.random() < 0.9]
                meta = {**meta, "name": f"{meta['name']}-copy", "labels": labels}
                made.append({**part, "metadata": meta, "endpoints": endpoints})
    return made


def asked(cluster: Cluster, by: str, alike: bool) -> Matrix | None:
    """The matrix with the outside as rows and columns; None where the cluster is too large, or there is nothing to ask."""
    tracer = Tracer(cluster)
    rows = [*groups(cluster, by), *outside.sources([tracer])[:3], *(Group(f"node/{name}", ()) for name in [*cluster.nodes][:1])]
    wanted = [*columns(tracer, groups(cluster, by), services=True), *outside.destinations([tracer])[:3]]
    return matrix(tracer, rows, wanted, alike=alike) if wanted and len(rows) * len(wanted) <= MOST else None


def hold(cluster: Cluster, by: str = "pods") -> None:
    one = asked(cluster, by, True)
    if one is None:
        return
    other = asked(cluster, by, False)
    assert other is not None
    for ours, theirs in zip(one.cells, other.cells, strict=True):
        assert ours == theirs
    assert one == other


@given(
    seed=st.integers(0, 10**6),
    mode=st.sampled_from(MODES),
    cni=st.sampled_from(NETWORKS),
    policies=st.booleans(),
    by=st.sampled_from(("pods", "workloads")),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_random_clusters(seed: int, mode: str, cni: str, policies: bool, by: str) -> None:
    text = crowded(random_documents(seed, cni, policies), Random(seed))
    try:
        cluster = load(["-"], io.StringIO(text), Overrides(proxy_mode=mode))
        Tracer(cluster)
    except InputError:
        return
    hold(cluster, by)


# each was wrong once: a node's own pods under policy; kube-proxy's own socket where policies deny what it would open
@pytest.mark.parametrize(
    ("seed", "cni", "mode"),
    [
        (1127, "calico", "nftables"),
        (1153, "calico-ipip", "ipvs"),
        (1025, "calico", "userspace"),
        (14, "canal", "ipvs"),
        (22, "calico", "iptables"),
    ],
)
def test_known_clusters(seed: int, cni: str, mode: str) -> None:
    hold(load(["-"], io.StringIO(crowded(random_documents(seed, cni, True), Random(seed))), Overrides(proxy_mode=mode)))


# -- what it saves -----------------------------------------------------------------------------------------------------


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What is traced from now on."""
    found: list[Request] = []
    trace = Tracer.trace
    monkeypatch.setattr(Tracer, "trace", lambda self, request: found.append(request) or trace(self, request))
    return found


CROWD = [
    *(deployment(f"crowd-{n}", 8080, replicas=4) for n in range(6)),
    *(service(f"crowd-{n}", 80, 8080, f"app: crowd-{n}") for n in range(6)),
]


@pytest.mark.parametrize("cni", ["calico", "canal", "flannel"])
def test_few_traces_are_enough(cni: str, tmp_path: Path, traced: list[Request]) -> None:
    tracer = Tracer(load([write(tmp_path, "shop", [*SHOP, *CROWD, *POOL[:2]], cni)]))
    rows = groups(tracer.cluster, "pods")
    wanted = columns(tracer, rows, services=True)
    matrix(tracer, rows, wanted)
    assert len(traced) < len(rows) * len(wanted) / 4


def test_who_is_alike(tmp_path: Path) -> None:
    cluster = load([write(tmp_path, "shop", [*SHOP, *CROWD], "calico")])
    places = Places(Tracer(cluster))
    crowd = [places.pod(key) for key in cluster.pods if "/crowd-" in key]
    assert len(crowd) == 24
    assert all(place.shared for place in crowd)
    assert len({place.like for place in crowd}) <= 2 * len(cluster.nodes)  # an address at the edge of a block may be special
