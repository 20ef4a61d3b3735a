"""All pairs at once say of each pair and port what the semantics say when they are asked: exactly, whatever the kinds of policy."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace
from test_compare import POOL, SHOP, deployment, policy, service, write

from netlab.dataplane.policy.dialect import DIALECTS
from netlab.dataplane.policy.index import EGRESS, INGRESS, PolicyIndex
from netlab.dataplane.policy.semantics import SCTP, UDP, Flow, Says, decide
from netlab.kube.cluster import Cluster
from netlab.kube.load import load
from netlab.lab.random_clusters import random_cluster
from netlab.linux.packet import TCP
from netlab.reach.allpairs import AllPairs

ROOT = Path(__file__).resolve().parent.parent
CNIS = ("calico", "canal", "flannel")


def agree(index: PolicyIndex, rng: Random, most: int = 4000) -> AllPairs:
    """Every pair, on the first, last and some other port of every atom; and the counts."""
    for family in (4, 6):
        pairs = AllPairs(index, family)
        asked = [(s, d, atom) for s in pairs.pods.tolist() for d in pairs.pods.tolist() if s != d for atom in pairs.atoms]
        counted = {atom: [0, 0] for atom in pairs.atoms}
        for s, d, atom in asked if len(asked) <= most else rng.sample(asked, most):
            ports = {atom.first, atom.last, rng.randint(atom.first, atom.last)}
            ends = [index.pod(index.pods[n], family) for n in (s, d)]
            for port in ports:
                expected = decide(index, Flow(ends[0], ends[1], atom.protocol, port))
                said = pairs.says(s, d, atom.protocol, port)
                assert said is expected.says, (index.pods[s].key, index.pods[d].key, atom, port, expected)
            counted[atom][0] += expected.says is Says.ALLOWED
            counted[atom][1] += expected.says is Says.UNDEFINED
        if len(asked) <= most:
            for count in pairs.counts():
                assert count.allowed == counted[count.atom][0], count
                assert count.allowed + count.undefined >= sum(counted[count.atom]), count
    return AllPairs(index, 4)


@pytest.mark.parametrize("seed", range(24))
def test_random_clusters(seed: int) -> None:
    """Policies of every kind (tests and lab draw from the same generator)."""
    cluster = random_cluster(seed, "iptables", CNIS[seed % 3], policies=True)
    agree(PolicyIndex(cluster), Random(seed))


@pytest.mark.parametrize("engine", sorted(DIALECTS))
@pytest.mark.parametrize("seed", [100, 101, 102])
def test_every_dialect(seed: int, engine: str) -> None:
    agree(PolicyIndex(random_cluster(seed, "iptables", "calico", policies=True), DIALECTS[engine]), Random(seed), 1500)


@pytest.mark.parametrize("n", range(6))
def test_the_shop(n: int, tmp_path: Path) -> None:
    crowd = [deployment("crowd", 8080, replicas=6), deployment("mute", 8081, replicas=3), service("crowd", 80, 8080)]
    edge = policy("edge", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/29, except: [10.244.0.2/31]}}]}]}")
    cluster = load([write(tmp_path, "shop", [*SHOP, *crowd, *POOL[n::3], edge], "calico")])
    agree(PolicyIndex(cluster), Random(n), 10_000)


@pytest.mark.parametrize("name", ["calico-bgp.yaml", "canal.yaml", "flannel-vxlan.yaml", "online-boutique"])
def test_topologies(name: str) -> None:
    agree(PolicyIndex(load([str(ROOT / "topologies" / name)])), Random(name))


def test_nothing_selected_is_all_allowed(tmp_path: Path) -> None:
    index = PolicyIndex(load([write(tmp_path, "shop", SHOP, "flannel")]))
    pairs = agree(index, Random(0), 10_000)
    n = len(pairs.pods)
    assert {count.allowed for count in pairs.counts() if "4789" not in str(count.atom)} == {n * (n - 1)}


def test_the_test_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of pods that is overlooked, and a port that is, are seen."""
    index = PolicyIndex(load([write(tmp_path, "shop", [*SHOP, *POOL[:6]], "calico")]))
    agree(index, Random(1))
    monkeypatch.setattr(AllPairs, "_sets", lambda self, peer: iter(()))
    with pytest.raises(AssertionError):
        agree(index, Random(1), 10_000)


def relabelled(cluster: Cluster, key: str) -> Cluster:
    pod = cluster.pods[key]
    return replace(cluster, pods={**cluster.pods, key: replace(pod, labels={**pod.labels, "app": "other"})})


def test_protocols() -> None:
    pairs = AllPairs(PolicyIndex(load([str(ROOT / "topologies" / "canal.yaml")])), 4)
    assert {atom.protocol for atom in pairs.atoms} == {TCP, UDP, SCTP}
    for protocol in (TCP, UDP, SCTP):
        found = [atom for atom in pairs.atoms if atom.protocol == protocol]
        assert found[0].first == 0
        assert found[-1].last == 65535
        assert all(a.last + 1 == b.first for a, b in zip(found, found[1:], strict=False))
    assert {len(of) for of in (pairs.side_of[EGRESS], pairs.side_of[INGRESS])} == {len(pairs.index.pods)}
