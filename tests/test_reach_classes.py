"""A pair that speaks for others that are alike says of each what asking it says: every cell, with its words, asked both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_compare import POOL, SHOP, deployment, policy, service, write

from netlab.kube.load import load
from netlab.reach.classes import Classes
from netlab.reach.matrix import columns, groups, matrix
from netlab.trace.query import Tracer

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data" / "kube-proxy-1.30.5"
CLUSTERS = [
    *sorted((ROOT / "topologies").glob("*.yaml")),
    ROOT / "topologies" / "online-boutique",
    DATA / "dualstack" / "cluster.json",
]
# many pods that are alike, on two nodes: some named by a policy, some behind a service, one at the edge of an ipBlock
CROWD = [
    deployment("crowd", 8080, replicas=6),
    deployment("mute", 8081, replicas=3),
    service("crowd", 80, 8080),
    service("some", 80, 8080, "app: api"),
]
EDGE = policy("edge", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/29, except: [10.244.0.2/31]}}]}]}")


def both(tracer: Tracer, by: str = "pods") -> tuple[object, object]:
    rows = groups(tracer.cluster, by)
    wanted = columns(tracer, rows, services=True)
    return matrix(tracer, rows, wanted, alike=True), matrix(tracer, rows, wanted, alike=False)


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda p: p.parent.name if p.stem == "cluster" else p.stem)
def test_clusters(path: Path) -> None:
    one, other = both(Tracer(load([str(path)])))
    assert one == other


@pytest.mark.parametrize("cni", ["calico", "canal", "flannel"])
@pytest.mark.parametrize("n", range(6))
def test_policies(n: int, cni: str, tmp_path: Path) -> None:
    policies = [*POOL[n::3], *([EDGE] if n % 2 else [])]
    tracer = Tracer(load([write(tmp_path, "shop", [*SHOP, *CROWD, *policies], cni)]))
    one, other = both(tracer)
    assert one == other


def test_it_saves_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracer = Tracer(load([write(tmp_path, "shop", [*SHOP, *CROWD, POOL[0]])]))
    asked: list[object] = []
    trace = Tracer.trace
    monkeypatch.setattr(Tracer, "trace", lambda self, request: asked.append(request) or trace(self, request))
    rows = groups(tracer.cluster, "pods")
    wanted = columns(tracer, rows, services=True)
    matrix(tracer, rows, wanted)
    assert len(asked) < len(rows) * len(wanted) / 2


def test_who_is_alike(tmp_path: Path) -> None:
    tracer = Tracer(load([write(tmp_path, "shop", [*SHOP, *CROWD, POOL[1]])]))
    classes = Classes(tracer)
    crowd = [key for key in tracer.cluster.pods if "/crowd-" in key]
    assert len({classes.sender(key) for key in crowd}) == 2  # one on each node
    (db,) = [key for key in tracer.cluster.pods if "/db-" in key]
    assert classes.receiver(db) not in {classes.receiver(key) for key in crowd}
    assert [classes.is_behind(key, "shop/crowd") for key in (crowd[0], db)] == [True, False]
