"""All pairs at once say of each pair and port what the semantics say when they are asked, whatever the kinds of policy."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace
from test_compare import POOL, SHOP, deployment, policy, service, write

from netlab.cli.main import main
from netlab.dataplane.policy.dialect import DIALECTS
from netlab.dataplane.policy.index import EGRESS, INGRESS, PolicyIndex
from netlab.dataplane.policy.semantics import SCTP, UDP, Flow, Says, decide
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


def test_the_test_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of pods that is overlooked is seen."""
    monkeypatch.setattr(AllPairs, "_sets", lambda self, peer: iter(()))
    indexes = [PolicyIndex(random_cluster(seed, "iptables", "calico", policies=True)) for seed in range(6)]
    with pytest.raises(AssertionError):
        [agree(index, Random(0), 10_000) for index in indexes]


@pytest.mark.parametrize("seed", range(20))
def test_one_changed_policy(seed: int) -> None:
    """Asked again only where it matters, and the same as asked from the start; also change after change, and a pod relabelled."""
    rng = Random(seed)
    first = random_cluster(seed, "iptables", CNIS[seed % 3], policies=True)
    other = random_cluster(seed + 1000, "iptables", CNIS[seed % 3], policies=True)
    cluster, index = first, PolicyIndex(first)
    pairs = {family: AllPairs(index, family) for family in (4, 6)}
    for _ in range(5):
        policies = dict(cluster.policies)
        objects = cluster.policy_objects
        match rng.choice(["take", "add", "add", "swap", "calico", "label"]):
            case "take" if policies:
                del policies[rng.choice(sorted(policies))]
            case "add" if other.policies:
                key = rng.choice(sorted(other.policies))
                policies[key] = other.policies[key]
            case "swap" if policies:
                key = rng.choice(sorted(policies))
                policies[key] = replace(policies[key], ingress=policies[key].ingress[:1], policy_types=("Ingress", "Egress"))
            case "calico" if objects.calico:
                kept = dict(objects.calico)
                del kept[rng.choice(sorted(kept))]
                objects = replace(objects, calico=kept)
            case "label" if cluster.pods:
                key = rng.choice(sorted(cluster.pods))
                pod = replace(cluster.pods[key], labels={"app": "a"})
                cluster = replace(cluster, pods={**cluster.pods, key: pod})
        cluster = replace(cluster, policies=policies, policy_objects=objects)
        index = index.changed(cluster)
        fresh = PolicyIndex(cluster)
        assert sorted(index.notes) == sorted(fresh.notes)
        for family in (4, 6):
            pairs[family] = pairs[family].changed(index)
            whole = AllPairs(fresh, family)
            for s in whole.pods.tolist():
                for d in whole.pods.tolist():
                    for atom in pairs[family].atoms if s != d else ():
                        asked = (s, d, atom.protocol, atom.first)
                        assert pairs[family].says(*asked) is whole.says(*asked), asked
            counted = {(atom.protocol, atom.first): count for atom, count in zip(whole.atoms, whole.counts(), strict=True)}
            for atom, count in zip(pairs[family].atoms, pairs[family].counts(), strict=True):
                around = max(first for protocol, first in counted if protocol == atom.protocol and first <= atom.first)
                expected = counted[atom.protocol, around]
                assert (count.allowed, count.undefined) == (expected.allowed, expected.undefined), atom


def test_protocols() -> None:
    pairs = AllPairs(PolicyIndex(load([str(ROOT / "topologies" / "canal.yaml")])), 4)
    assert {atom.protocol for atom in pairs.atoms} == {TCP, UDP, SCTP}
    for protocol in (TCP, UDP, SCTP):
        found = [atom for atom in pairs.atoms if atom.protocol == protocol]
        assert found[0].first == 0
        assert found[-1].last == 65535
        assert all(a.last + 1 == b.first for a, b in pairwise(found))
    assert {len(of) for of in (pairs.side_of[EGRESS], pairs.side_of[INGRESS])} == {len(pairs.index.pods)}


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    canal = str(ROOT / "topologies" / "canal.yaml")
    assert main(["reach", "--all-pairs", "-f", canal, "-q"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "6 pods, 2 policies: 30 pairs of a pod and another one"
    assert "TCP 9000            17       56.7 %  13" in told
    assert main(["reach", "--all-pairs", "-f", canal, "-q", "-o", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    [family] = answer["families"]
    assert sum(len(side["pods"]) for side in family["ingress"]) == family["pods"] == 6
    assert [port["allowed"] for port in family["ports"] if (port["protocol"], port["first"]) == ("TCP", 9000)] == [17]
    assert main(["reach", "--all-pairs", "-q"]) == 0
    assert "flannel enforces no policies over IPv6" in capsys.readouterr().out
    for wrong in (["web"], ["--pods"], ["-o", "svg"], ["--expect", "x"], ["--observed", "node-1=x"]):
        assert main(["reach", "--all-pairs", "-q", *wrong]) == 2
        assert "--all-pairs" in capsys.readouterr().err
