"""netlab's inner parts under pytest-benchmark: decisions of the matching core, parsers, walks, all pairs of pods.

    pytest benchmarks/bench_core.py --benchmark-columns=min,median,rounds

Half a minute; --benchmark-save=NAME and --benchmark-compare keep and compare runs. A row is one call, for the core a batch. The
makers are those of the other benchmarks. Law: answers that are timed are looked at. What stands beside the core is in ratios.py.
"""

from __future__ import annotations

import io
import json
from functools import cache
from random import Random

import bench_load
import bench_observed
import bench_trace
import numpy as np
import pytest
import ratios
from msgspec.structs import replace
from pytest_benchmark.fixture import BenchmarkFixture

from netlab.dataplane.policy.index import PolicyIndex
from netlab.kube import generate
from netlab.kube.cluster import Cluster
from netlab.kube.embedded import path_of_default
from netlab.kube.load import load
from netlab.linux import matches as m
from netlab.linux import targets as t
from netlab.linux.addr import mask_of
from netlab.linux.packet import TCP, UDP
from netlab.linux.rules import Chain, Hook, Rule, Ruleset, Table
from netlab.match.batch import decide, explain
from netlab.match.packets import CtFlag, Packets
from netlab.match.program import Program, compile_hook
from netlab.reach.allpairs import AllPairs
from netlab.trace.query import Request, Tracer

SERVICES, BATCH = 10_000, 100_000


# -- the matching core -------------------------------------------------------------------------------------------------


@cache
def kube_proxy() -> tuple[Program, Packets]:
    program = compile_hook(ratios.node(ratios.rules_of(SERVICES, 3)), 4, Hook.PREROUTING, ["nat"])
    return program, ratios.packets_of(program, *ratios.trace(SERVICES, BATCH, 1))


@cache
def calico() -> tuple[Program, Packets]:
    return ratios.calico_packets(BATCH)


@cache
def firewall() -> tuple[Program, Packets]:
    """1,000 rules of somebody's own in FORWARD: any prefixes, ranges of ports, negations; packets between their hosts."""
    rng, count = Random(1), 1_000

    def net() -> tuple[int, int]:
        mask = mask_of(4, rng.choice((12, 16, 20, 24, 24, 28, 32)))
        return (10 << 24 | rng.randrange(1 << 24)) & mask, mask

    rules = [Rule((m.Conntrack(states=frozenset({"ESTABLISHED", "RELATED"})),), t.Accept())]
    for _ in range(count):
        low = rng.randrange(1, 60_000)
        ports = m.PortRange(low, low if rng.random() < 0.7 else low + rng.randrange(1000))
        protocol, kind = rng.choice(((TCP, m.Tcp), (UDP, m.Udp)))
        places: list[m.Match] = [m.Source(4, *net()), m.Destination(4, *net(), negate=rng.random() < 0.05)]
        picked = rng.sample(places, rng.randint(1, 2))
        rules.append(Rule((*picked, m.Protocol(protocol), kind(dport=ports)), rng.choice((t.Accept(), t.Drop()))))
    forward = Chain("FORWARD", tuple(rules), Hook.FORWARD, 0, "DROP")
    node = ratios.node(Ruleset((Table("ip", "filter", {"FORWARD": forward}),)))
    program = compile_hook(node, 4, Hook.FORWARD)
    values = np.random.default_rng(2).integers(0, 1 << 24, (2, BATCH), np.uint32) | np.uint32(10 << 24)
    packets = Packets.of_fields(
        4, program.names, src=values[0], dst=values[1], protocol=TCP, sport=40_000, ctstate=1, ctflags=int(CtFlag.CONNECTION),
        dport=np.random.default_rng(3).integers(1, 61_000, BATCH, np.uint32),
    )  # fmt: skip
    return program, packets


@pytest.mark.parametrize("rules", [kube_proxy, calico, firewall], ids=lambda made: made.__name__)
@pytest.mark.benchmark(group=f"decide: {BATCH:,} packets of new flows")
def test_decide(benchmark: BenchmarkFixture, rules: object) -> None:
    program, packets = rules()  # type: ignore[operator]
    answer = benchmark(decide, program, packets)
    for index in range(0, BATCH, BATCH // 5):
        assert answer.leaves(index) == explain(program, packets, index)


# -- parsers -----------------------------------------------------------------------------------------------------------


@cache
def dumps() -> dict[str, tuple[str, object]]:
    text = json.dumps(bench_trace.cluster(SERVICES, 1_000))
    return {name: (dump, parse) for name, dump, parse in bench_observed.dumps(load(["-"], io.StringIO(text)))}


@pytest.mark.parametrize("tool", ["iptables-save", "nft list ruleset", "nft -j list ruleset", "ipset save", "ipvsadm -S -n"])
@pytest.mark.benchmark(group=f"parse: a node's dump, {SERVICES:,} services with an endpoint each")
def test_parse(benchmark: BenchmarkFixture, tool: str) -> None:
    text, parse = dumps()[tool]
    assert benchmark.pedantic(parse, (text,), rounds=3)  # type: ignore[no-untyped-call]


@pytest.mark.benchmark(group="parse: kubectl's JSON")
def test_load_1000_pods(benchmark: BenchmarkFixture) -> None:
    text = json.dumps(bench_load.cluster(1_000), indent=4)
    assert len(benchmark(lambda: load(["-"], io.StringIO(text))).pods) == 1_000


# -- walks -------------------------------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="walk: one packet")
def test_the_twin_in_10000_services(benchmark: BenchmarkFixture) -> None:
    program, packets = kube_proxy()
    assert len(benchmark(explain, program, packets, 0)) == 3


@pytest.mark.benchmark(group="walk: one packet")
def test_trace_of_three_branches_and_their_replies(benchmark: BenchmarkFixture) -> None:
    tracer = Tracer(load([str(path_of_default())]))
    assert len(benchmark(tracer.trace, Request("web-0", "svc/api")).branches) == 3


# -- reach -------------------------------------------------------------------------------------------------------------


@cache
def generated() -> Cluster:
    wanted = generate.Wanted(pods=1_000, services=100, policies=600, shape="uniform")
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(generate.generate(wanted))})
    return load(["-"], io.StringIO(text))


@pytest.mark.benchmark(group="reach: all pairs of 1,000 pods, 600 policies")
def test_all_pairs(benchmark: BenchmarkFixture) -> None:
    assert benchmark(lambda: AllPairs(PolicyIndex(generated()), 4).counts())


@pytest.mark.benchmark(group="reach: all pairs of 1,000 pods, 600 policies")
def test_one_changed_policy(benchmark: BenchmarkFixture) -> None:
    cluster = generated()
    key = sorted(cluster.policies)[len(cluster.policies) // 2]
    changed = replace(cluster.policies[key], ingress=(), policy_types=("Ingress", "Egress"))
    index = PolicyIndex(cluster)
    pairs = AllPairs(index, 4)
    other = index.changed(replace(cluster, policies={**cluster.policies, key: changed}))
    assert benchmark(pairs.changed, other) is not None
