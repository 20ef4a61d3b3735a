"""Random clusters without a kernel: what is drawn, and what must hold of whatever is drawn.

The same clusters stand in real namespaces in tests/kernel/test_verify_random.py.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from random import Random

import msgspec
import pytest

from netlab.kube.cluster import Cluster
from netlab.kube.load import load
from netlab.kube.objects import Endpoint, Service
from netlab.lab.random_clusters import random_cluster, random_documents, random_flows, sendable
from netlab.linux.addr import ip
from netlab.linux.rules import Ruleset
from netlab.linux.text import iptables_save
from netlab.trace.flows import Flow
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Trace, Verdict

SEEDS = range(24)
MANY = range(160)


@cache
def cluster(seed: int) -> Cluster:
    return random_cluster(seed)


@cache
def tracer(seed: int) -> Tracer:
    return Tracer(cluster(seed))


def endpoints(c: Cluster) -> list[tuple[Service, Endpoint]]:
    return [(c.services[key], e) for key, slices in c.slices.items() for part in slices for e in part.endpoints]


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_a_seed_names_one_cluster() -> None:
    assert random_documents(7) == random_documents(7)
    assert random_flows(cluster(7), 7, 50) == random_flows(random_cluster(7), 7, 50)
    assert len({random_documents(seed) for seed in MANY}) == len(MANY)


SERVICES: dict[str, Callable[[Service], bool]] = {
    "ClusterIP": lambda s: s.type == "ClusterIP" and not s.headless,
    "NodePort": lambda s: s.type == "NodePort" and any(p.node_port for p in s.ports),
    "LoadBalancer": lambda s: s.type == "LoadBalancer" and any(e.ip and e.ip_mode == "VIP" for e in s.load_balancer),
    "LoadBalancer with ipMode Proxy": lambda s: any(e.ip_mode == "Proxy" for e in s.load_balancer),
    "LoadBalancer that is a name": lambda s: any(e.hostname for e in s.load_balancer),
    "source ranges": lambda s: bool(s.load_balancer_source_ranges and s.load_balancer),
    "headless": lambda s: s.headless,
    "ExternalName": lambda s: s.type == "ExternalName",
    "external IPs": lambda s: bool(s.external_ips),
    "session affinity": lambda s: s.session_affinity == "ClientIP",
    "externalTrafficPolicy Local": lambda s: s.external_traffic_policy == "Local",
    "internalTrafficPolicy Local": lambda s: s.internal_traffic_policy == "Local",
    "health check": lambda s: s.health_check_node_port is not None,
    "hints": lambda s: any("topology" in key for key in s.annotations),
    "several ports": lambda s: len(s.ports) > 1,
    "UDP": lambda s: any(p.protocol == "UDP" for p in s.ports),
    "SCTP": lambda s: any(p.protocol == "SCTP" for p in s.ports),
    "a named targetPort": lambda s: any(isinstance(p.target_port, str) for p in s.ports),
    "both families": lambda s: len(s.cluster_ips) == 2,
    "no selector": lambda s: not s.selector and s.type != "ExternalName",
    "another proxy's": lambda s: "service.kubernetes.io/service-proxy-name" in s.labels,
    "no NodePort though it could": lambda s: s.type != "ClusterIP" and any(p.node_port is None for p in s.ports),
}


@pytest.mark.parametrize("shape", SERVICES)
def test_every_shape_of_service_is_drawn(shape: str) -> None:
    assert sum(SERVICES[shape](s) for seed in MANY for s in cluster(seed).services.values()) >= 3


GONE = ("10.244.0.99", "fd00:10:244::63")
CLUSTERS: dict[str, Callable[[Cluster], bool]] = {
    "one node": lambda c: len(c.nodes) == 1,
    "four nodes": lambda c: len(c.nodes) == 4,
    "IPv4": lambda c: [p.family for p in c.pod_cidrs] == [4],
    "IPv6": lambda c: [p.family for p in c.pod_cidrs] == [6],
    "dual-stack": lambda c: [p.family for p in c.pod_cidrs] == [4, 6],
    "dual-stack, IPv6 first": lambda c: [p.family for p in c.pod_cidrs] == [6, 4],
    "a node of one family in a dual-stack cluster": lambda c: len({len(n.internal_ips) for n in c.nodes.values()}) == 2,
    "a node without a zone": lambda c: any(n.zone is None for n in c.nodes.values()),
    "hostNetwork": lambda c: any(p.host_network and p.ips for p in c.pods.values()),
    "a pod without an address": lambda c: any(not p.ips for p in c.pods.values()),
    "workloads": lambda c: bool(c.workloads),
    "masqueradeAll": lambda c: c.proxy.masquerade_all,
    "masqueradeBit": lambda c: c.proxy.masquerade_bit != 14,
    "localhostNodePorts off": lambda c: not c.proxy.localhost_nodeports,
    "nodePortAddresses": lambda c: bool(c.proxy.nodeport_addresses),
    "NodeCIDR": lambda c: c.proxy.detect_local_mode == "NodeCIDR",
    "hairpin off": lambda c: not c.cni.hairpin,
    "masquerade off": lambda c: not c.cni.masquerade,
    "strict rp_filter": lambda c: c.sysctls.get("ipv4.conf.all.rp_filter") == 1,
    "bridges do not call iptables": lambda c: c.sysctls.get("bridge.bridge-nf-call-iptables") == 0,
    "no forwarding": lambda c: c.sysctls.get("ipv4.ip_forward") == 0,
    "a service without endpoints": lambda c: any(s.cluster_ips and not c.slices.get(k) for k, s in c.services.items()),
    "an endpoint that is not ready": lambda c: any(not e.ready and not e.terminating for _, e in endpoints(c)),
    "an endpoint that terminates and serves": lambda c: any(e.terminating and e.serving for _, e in endpoints(c)),
    "an endpoint whose pod is gone": lambda c: any(str(e.addresses[0]) in GONE for _, e in endpoints(c)),
    "an endpoint outside": lambda c: any(e.addresses[0] in (ip("198.51.100.7"), ip("2001:db8:1::7")) for _, e in endpoints(c)),
    "an endpoint that is a node": lambda c: any(
        e.target_pod is None and any(e.addresses[0] in n.internal_ips for n in c.nodes.values()) for _, e in endpoints(c)
    ),
    "an endpoint with hints": lambda c: any(e.hints_for_zones for _, e in endpoints(c)),
    "an address in another spelling": lambda c: any(e.texts and e.texts[0] != str(e.addresses[0]) for _, e in endpoints(c)),
    "the same endpoint twice": lambda c: any(n > 1 for n in Counter((s.key, e.addresses) for s, e in endpoints(c)).values()),
    "an address that two services claim": lambda c: any(
        n > 1 for n in Counter((a, p.port) for s in c.services.values() for a in s.external_ips for p in s.ports).values()
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", CLUSTERS)
def test_every_shape_of_cluster_is_drawn(shape: str) -> None:
    assert sum(CLUSTERS[shape](cluster(seed)) for seed in MANY) >= 2


def test_flows_of_every_kind_are_drawn() -> None:
    flows = [flow for seed in SEEDS for flow in random_flows(cluster(seed), seed, 60)]
    assert {flow.protocol for flow in flows} == {"tcp", "udp", "icmp", "sctp"}
    assert {flow.family for flow in flows} == {4, 6}
    assert {flow.source.partition("/")[0] for flow in flows} >= {"node", "default", "shop", "203.0.113.7", "198.51.100.7"}
    assert sum(flow.at is not None for flow in flows) > len(flows) / 10
    assert sum("/svc/" in flow.destination for flow in flows) > 3
    assert sum(flow.destination.startswith(("127.0.0.1", "[::1]")) for flow in flows) > 3


def test_a_client_of_a_headless_service_sends_to_its_addresses() -> None:
    text = """
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, ports: [{port: 5432, name: pg}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: pg, port: 15432}]
endpoints: [{addresses: [10.244.0.5]}, {addresses: [10.244.0.6], conditions: {ready: false}}, {addresses: [10.244.1.7]}]
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {nodeName: node-1}
status: {podIP: 10.244.0.2, phase: Running}
"""
    found = load(["-"], io.StringIO(text))
    asked = Request("default/pod/web", "default/svc/db:5432", "tcp", family=4)
    assert sendable(found, [asked]) == [
        Flow("default/pod/web", "10.244.0.5:15432", "tcp"),
        Flow("default/pod/web", "10.244.1.7:15432", "tcp"),
    ]


# -- what must hold ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_every_dump_reads_back_as_the_same_rules(seed: int) -> None:
    network = tracer(seed).network
    for node in cluster(seed).nodes:
        for family in (4, 6):
            rules = network.namespaces[node].rulesets[family]
            assert isinstance(rules, Ruleset)
            text = iptables_save.write(rules, family=family)
            assert iptables_save.parse(text, family=family, origin="expected") == rules
            assert iptables_save.write(iptables_save.parse(text, family=family), family=family) == text


@pytest.mark.parametrize("seed", SEEDS)
def test_every_flow_has_an_answer(seed: int) -> None:
    for request in random_flows(cluster(seed), seed, 40):
        trace = tracer(seed).trace(request)
        assert sum((branch.probability for branch in trace.branches), Fraction(0)) == 1, request
        for branch in trace.branches:
            assert branch.verdict is Verdict.DELIVERED or branch.reason, request
            assert branch.hops, request
        reasons = [branch.reason or "" for branch in trace.branches]
        by_scope = any("what it offers depends on scopes" in reason for reason in reasons)  # SCTP to loopback from elsewhere
        assert by_scope or trace.verdict is not Verdict.UNKNOWN, (request, reasons)


def test_the_verdicts_are_of_every_kind() -> None:
    found = Counter(
        tracer(seed).trace(request).verdict for seed in SEEDS for request in random_flows(cluster(seed), seed, 40)
    )
    assert min(found[v] for v in (Verdict.DELIVERED, Verdict.DROPPED, Verdict.REJECTED)) > 100
    assert found[Verdict.PARTIAL] > 0


def _told(trace: Trace) -> object:
    """A trace without the places of its input, which shuffling moves."""

    def strip(value: object) -> object:
        if isinstance(value, dict):
            return {key: strip(one) for key, one in value.items() if key != "ref"}
        if isinstance(value, str):
            return re.sub(r" \(-:\d+, document \d+,[^)]*\)", "", value)
        return [strip(one) for one in value] if isinstance(value, list) else value

    return strip(json.loads(msgspec.json.encode(trace, enc_hook=str)))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_the_input_does_not_matter(seed: int) -> None:
    documents = random_documents(seed).split("\n---\n")
    Random(seed).shuffle(documents)
    shuffled = load(["-"], io.StringIO("\n---\n".join(documents)))
    other = Tracer(shuffled)
    for request in random_flows(cluster(seed), seed, 12):
        assert _told(other.trace(request)) == _told(tracer(seed).trace(request)), request
