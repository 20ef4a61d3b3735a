"""What `netlab why` prints of an object is that object: read again, it is the same."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml
from test_policy_semantics import ROWS, world

from netlab.kube.load import load
from netlab.kube.objects import LabelSelector
from netlab.reach import manifest
from netlab.refs import Ref

PODS = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n---\n"
TOPOLOGIES = sorted((Path(__file__).parent.parent / "topologies").glob("*.yaml"))


def plain(found: object) -> object:
    """A value without the places where it was written, and without labels, which `why` does not change on policies."""
    if isinstance(found, Ref):
        return None
    if isinstance(found, msgspec.Struct):
        fields = (name for name in found.__struct_fields__ if name not in ("ref", "labels", "annotations", "text"))
        return {name: plain(getattr(found, name)) for name in fields}
    if isinstance(found, dict):
        return {k: plain(v) for k, v in found.items()}
    return [plain(v) for v in found] if isinstance(found, list | tuple) else found


def again(tmp_path: Path, made: dict[str, object]):
    file = tmp_path / "again.yaml"
    file.write_text(PODS + "\n".join(manifest.lines(made)) + "\n")
    return load([str(file)])


@pytest.mark.parametrize("row", ROWS, ids=[f"{n}-{row['case']}" for n, row in enumerate(ROWS)])
def test_policies_of_every_corner_case(row: dict[str, object], tmp_path: Path) -> None:
    objects = row.get("objects", "")
    cluster = world(tmp_path, row.get("policy"), objects if isinstance(objects, str) else yaml.safe_dump_all(objects))
    for key, policy in cluster.policies.items():
        assert plain(again(tmp_path, manifest.network_policy(policy)).policies[key]) == plain(policy)
    for key, calico in cluster.policy_objects.calico.items():
        if calico.staged or any(rule.http for rule in (*calico.ingress, *calico.egress)):
            continue
        assert plain(again(tmp_path, manifest.calico_policy(calico)).policy_objects.calico[key]) == plain(calico)
    for key, other in cluster.policy_objects.cluster.items():
        unknown = any(peer == type(peer)(ref=peer.ref) for rule in (*other.ingress, *other.egress) for peer in rule.peers)
        if not unknown:
            assert plain(again(tmp_path, manifest.cluster_policy(other)).policy_objects.cluster[key]) == plain(other)


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda p: p.stem)
def test_services_of_the_topologies(path: Path, tmp_path: Path) -> None:
    for key, service in load([str(path)]).services.items():
        if service.headless or service.type == "ExternalName":
            continue
        read = again(tmp_path, manifest.service(service)).services[key]
        told = ("type", "selector", "ports", "external_traffic_policy", "internal_traffic_policy", "load_balancer_source_ranges")
        assert [getattr(read, name) for name in told] == [getattr(service, name) for name in told]


def test_a_difference_counts_lines() -> None:
    before = {"spec": {"ports": [{"port": 80}], "selector": {"app": "a"}}}
    text, lines = manifest.difference(before, {"spec": {"ports": [{"port": 80}, {"port": 81}], "selector": {"app": "b"}}})
    assert lines == 2
    touched = [line for line in text.splitlines() if line[0] in "+-"]
    assert touched == ["-   selector: {app: a}", "+   - {port: 81}", "+   selector: {app: b}"]
    assert manifest.difference(None, {"a": {"b": 1}}) == ("a: {b: 1}", 1)
    assert manifest.difference({"a": {"b": 1}}, None) == ("", 1)
    assert manifest.selector(LabelSelector()) == {}
