"""`netlab generate`: what is printed is a cluster that loads, the same for the same numbers, in the survey's proportions."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml

from netlab.cli.main import main
from netlab.dataplane.policy.index import PolicyIndex
from netlab.errors import InputError
from netlab.kube import generate as made
from netlab.kube.cluster import Cluster
from netlab.kube.generate import Wanted, generate
from netlab.kube.load import load


def cluster(tmp_path: Path, wanted: Wanted) -> Cluster:
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(generate(wanted))}))
    return load([str(path)])


@pytest.mark.parametrize(
    ("wanted", "counts"),
    [
        (Wanted(1), (1, 1, 3, 1)),
        (Wanted(1, 0, 0), (1, 0, 0, 1)),
        (Wanted(100, shape="uniform"), (100, 6, 60, 4)),
        (Wanted(300, 500, 7, 3, cni="flannel", seed=3), (300, 500, 7, 3)),
        (Wanted(252, nodes=1), (252, 16, 637, 1)),
    ],
)
def test_as_many_as_wanted(wanted: Wanted, counts: tuple[int, int, int, int], tmp_path: Path) -> None:
    found = cluster(tmp_path, wanted)
    assert (len(found.pods), len(found.services), len(found.policies), len(found.nodes)) == counts
    assert found.cni.name == wanted.cni
    assert found.notes == ()
    assert all(pod.ips[0] in found.nodes[pod.node_name].pod_cidrs[0] for pod in found.pods.values())
    assert all(any(e.target_pod in found.pods for e in part.endpoints) for parts in found.slices.values() for part in parts)


def test_the_realistic_shape_is_the_survey_s(tmp_path: Path) -> None:
    found = cluster(tmp_path, Wanted(made.SURVEY_PODS))
    index = PolicyIndex(found)
    assert (len(found.namespaces), len(found.policies)) == (made.SURVEY_NAMESPACES, made.SURVEY_POLICIES)
    kinds: Counter[str] = Counter()
    peer_pods, ports = [], []
    for policy in index.policies:
        for rules in policy.rules.values():
            for rule in rules:
                ports += [port for port in rule.ports or () if port.first >= 0]
                for peer in rule.peers or ():
                    kinds["cidr" if peer.block else "selector"] += 1
                    if peer.pods is not None:
                        peer_pods.append(len(peer.pods))
    assert kinds["cidr"] == pytest.approx(made.SURVEY_CIDRS, rel=0.05)
    assert kinds["selector"] == pytest.approx(made.SURVEY_SELECTORS, rel=0.05)
    assert median(len(policy.pods) for policy in index.policies) == 6
    assert median(peer_pods) == 2
    assert sum(port.first != port.last for port in ports) / len(ports) == pytest.approx(made.RANGES, abs=0.002)


def test_the_same_numbers_print_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*more: str) -> str:
        assert main(["generate", "--pods", "40", *more]) == 0
        return capsys.readouterr().out

    assert printed() == printed() != printed("--seed", "1")
    items: list[Any] = json.loads(printed("--seed", "1"))["items"]
    assert items == list(yaml.safe_load_all(printed("--seed", "1", "-o", "yaml")))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--pods 0", "--pods 0: at least 1"),
        ("--pods 1.5", '"1.5" is no whole number'),
        (f"--services {10**400}", '"10000000000000000000..." is no whole number'),
        ("--pods -4", "--pods -4: at least 1"),
        ("--services -1", "--services -1: at least 0"),
        ("--nodes 0", "--nodes 0: at least 1"),
        ("--pods 1000 --nodes 2", "1000 pods are more than 2 nodes have addresses"),
        ("--pods 100000000", "100000000 pods are more than 10.128.0.0/9 has addresses"),
        ("--nodes 40000", "40000 nodes are more than 10.128.0.0/9 has blocks"),
        ("--services 2000000", "2000000 services are more than 10.96.0.0/12 has addresses"),
        ("--cni calcio", 'did you mean "calico"?'),
        ("--cni weave", "one of calico, flannel, canal, none"),
        ("--shape odd", 'invalid value "odd" for --shape'),
        ("--pods many", "many"),
    ],
)
def test_bad_input_is_one_sentence(arguments: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *arguments.split()]) == 2
    ran = capsys.readouterr()
    assert ran.out == ""
    assert says in ran.err
    assert len(ran.err.splitlines()) <= 2


def test_a_shape_that_is_not_there() -> None:
    with pytest.raises(InputError, match='no shape "uniforn"'):
        generate(Wanted(3, shape="uniforn"))
