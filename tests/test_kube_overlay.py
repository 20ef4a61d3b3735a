"""Objects applied to and taken out of a cluster that was dumped: what the API server and the controllers would make of it.

The dump has a Deployment web with its ReplicaSet and two pods, a bare pod db, their services, and slices of both.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.kube.load import load_pair

NODES = "".join(
    f"""apiVersion: v1
kind: Node
metadata: {{name: node-{n}}}
spec: {{podCIDRs: [10.244.{n}.0/24]}}
status: {{addresses: [{{type: InternalIP, address: 192.168.50.1{n}}}], conditions: [{{type: Ready, status: "True"}}]}}
---
"""
    for n in (1, 2)
)


def pod(name: str, app: str, ip: str, owner: str = "") -> str:
    refs = f", ownerReferences: [{{kind: ReplicaSet, name: {owner}, controller: true}}]" if owner else ""
    node = f"node-{ip.split('.')[2]}"
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}{refs}}}\n"
        f"spec: {{nodeName: {node}, containers: [{{name: a, ports: [{{containerPort: 80}}]}}]}}\n"
        f"status: {{phase: Running, podIPs: [{{ip: {ip}}}], conditions: [{{type: Ready, status: 'True'}}]}}\n---\n"
    )


def workload(labels: str, replicas: int = 2, status: bool = False) -> str:
    return (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\n"
        f"spec: {{replicas: {replicas}, selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{{labels}}}}}, "
        "spec: {containers: [{name: a, ports: [{containerPort: 80}]}]}}}\n" + ("status: {replicas: 2}\n" if status else "")
    )


def service(name: str, extra: str = "", port: int = 80, selector: str = "") -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n"
        f"spec: {{selector: {{{selector or f'app: {name}'}}}, ports: [{{port: {port}}}]{extra}}}\n"
    )


def endpoints(name: str, *pods: tuple[str, str]) -> str:
    each = ", ".join(f"{{addresses: [{ip}], targetRef: {{kind: Pod, name: {who}, namespace: shop}}}}" for who, ip in pods)
    return (
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n"
        f"metadata: {{name: {name}-x, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}\n"
        f"endpoints: [{each}]\nports: [{{port: 80, protocol: TCP}}]\n---\n"
    )


STORED = ", clusterIPs: [10.96.0.%d]"
DUMP = (
    NODES
    + workload("app: web", status=True)
    + "---\napiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: web-1, namespace: shop, ownerReferences: "
    "[{kind: Deployment, name: web, controller: true}]}\nspec: {replicas: 2}\nstatus: {replicas: 2}\n---\n"
    + pod("web-1-a", "web", "10.244.1.5", "web-1")
    + pod("web-1-b", "web", "10.244.2.5", "web-1")
    + pod("db", "db", "10.244.1.9")
    + service("web", STORED % 30 + ", type: NodePort").replace("port: 80}", "port: 80, nodePort: 31111}")
    + "---\n"
    + service("db", STORED % 40)
    + "---\n"
    + endpoints("web", ("web-1-a", "10.244.1.5"), ("web-1-b", "10.244.2.5"))
    + endpoints("db", ("db", "10.244.1.9"))
)


def changed(tmp_path: Path, change: str = "", *without: str) -> tuple[Cluster, Cluster]:
    (tmp_path / "dump.yaml").write_text(DUMP)
    (tmp_path / "change.yaml").write_text(change)
    return load_pair([str(tmp_path / "dump.yaml")], changes=[str(tmp_path / "change.yaml")] if change else [], without=without)


def behind(cluster: Cluster, name: str) -> set[str]:
    return {str(a) for s in cluster.slices.get(f"shop/{name}", ()) for e in s.endpoints for a in e.addresses}


def pods(cluster: Cluster) -> dict[str, str]:
    return {pod.name: str(pod.ips[0]) for pod in cluster.pods.values()}


def test_the_dump_itself(tmp_path: Path) -> None:
    before, after = changed(tmp_path)
    assert pods(before) == pods(after) == {"web-1-a": "10.244.1.5", "web-1-b": "10.244.2.5", "db": "10.244.1.9"}
    assert before.workloads["shop/Deployment/web"] == ("shop/web-1-a", "shop/web-1-b")


def test_a_deployment_applied_again_keeps_its_pods(tmp_path: Path) -> None:
    before, after = changed(tmp_path, workload("app: web"))
    assert (after.pods, after.slices, after.workloads) == (before.pods, before.slices, before.workloads)


def test_a_deployment_with_other_labels_makes_its_pods_anew(tmp_path: Path) -> None:
    _, after = changed(tmp_path, workload("app: web, tier: front", replicas=3))
    assert "web-1-a" not in pods(after)
    new = [pod for pod in after.pods.values() if pod.owner == "Deployment web"]
    assert len(new) == 3
    assert all(pod.labels["tier"] == "front" for pod in new)
    assert behind(after, "web") == {str(pod.ips[0]) for pod in new}  # the slices are played, too
    assert behind(after, "db") == {"10.244.1.9"}
    assert str(after.services["shop/web"].cluster_ips[0]) == "10.96.0.30"


def test_a_deployment_that_a_service_does_not_select_any_more(tmp_path: Path) -> None:
    before, after = changed(tmp_path, workload("app: other").replace("matchLabels: {app: web}", "matchLabels: {app: other}"))
    assert (len(behind(before, "web")), behind(after, "web")) == (2, set())


def test_a_new_deployment(tmp_path: Path) -> None:
    cache = workload("app: db, run: cache", 1).replace("name: web", "name: cache").replace("app: web", "run: cache")
    _, after = changed(tmp_path, cache)
    assert len(pods(after)) == 4
    assert len(behind(after, "db")) == 2  # the service db selects the new pod, too


def test_a_service_keeps_what_the_api_server_gave_it(tmp_path: Path) -> None:
    _, after = changed(tmp_path, service("web", ", type: NodePort"))
    assert str(after.services["shop/web"].cluster_ips[0]) == "10.96.0.30"
    assert after.services["shop/web"].ports[0].node_port == 31111
    assert behind(after, "web") == {"10.244.1.5", "10.244.2.5"}


def test_a_service_that_selects_others(tmp_path: Path) -> None:
    _, after = changed(tmp_path, service("web", selector="app: db"))
    assert behind(after, "web") == {"10.244.1.9"}


def test_a_pod_keeps_its_node_and_address(tmp_path: Path) -> None:
    meta = "metadata: {name: db, namespace: shop, labels: {app: old-db}}"
    before, after = changed(tmp_path, f"apiVersion: v1\nkind: Pod\n{meta}\nspec: {{containers: [{{name: a}}]}}\n")
    assert pods(before) == pods(after)
    assert after.pods["shop/db"].node_name == "node-1"
    assert (behind(before, "db"), behind(after, "db")) == ({"10.244.1.9"}, set())


@pytest.mark.parametrize(
    ("name", "gone"),
    [("shop/pod/db", {"db"}), ("shop/deploy/web", {"web-1-a", "web-1-b"}), ("shop/svc/web", set())],
)
def test_taken_out(name: str, gone: set[str], tmp_path: Path) -> None:
    before, after = changed(tmp_path, "", name)
    assert pods(before).keys() - pods(after).keys() == gone
    if name.endswith("svc/web"):
        assert "shop/web" not in after.services
    else:
        assert behind(after, name.rpartition("/")[2]) == set()


def test_two_states_of_manifests_share_what_no_file_decides(tmp_path: Path) -> None:
    """A workload that stands before the others in every order does not move them."""
    head = "apiVersion: netlab/v1\nkind: Topology\nmetadata: {name: t}\nnodes: [{name: node-1}, {name: node-2}]\n---\n"
    old = head + workload("app: web") + "---\n" + service("web", ", type: NodePort")
    new = old + "---\n" + workload("app: a", 3).replace("name: web", "name: a") + "---\n" + service("a", ", type: NodePort")
    (tmp_path / "old.yaml").write_text(old)
    (tmp_path / "new.yaml").write_text(new)
    before, after = load_pair((), [str(tmp_path / "old.yaml")], [str(tmp_path / "new.yaml")])
    for key, old_pod in before.pods.items():
        assert (after.pods[key].node_name, after.pods[key].ips) == (old_pod.node_name, old_pod.ips)
    assert after.services["shop/web"].cluster_ips == before.services["shop/web"].cluster_ips
    assert after.services["shop/web"].ports == before.services["shop/web"].ports
    assert len({ip for pod in after.pods.values() for ip in pod.ips}) == len(after.pods) == 5
    assert after.workloads["shop/Deployment/web"] == before.workloads["shop/Deployment/web"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("shop/svc/wbe", 'did you mean "shop/web"'),
        ("svc/web", "there is shop/web"),
        ("shop/cronjob/x", "the input has no CronJob"),
        ("web", "is not an object"),
        ("shop/secret/x", 'unknown kind "secret"'),
    ],
)
def test_what_cannot_be_taken_out(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        changed(tmp_path, "", name)
    assert says in str(caught.value)
