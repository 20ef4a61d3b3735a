"""The controllers, played: from manifests without status to pods, addresses and endpoints, whatever the order of files."""

import random

import msgspec
import pytest

from netlab.errors import InputError
from netlab.kube.load import load
from netlab.kube.objects import EndpointPort

NODES = """
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {disk: ssd}}
spec: {podCIDRs: [10.244.0.0/24, "fd00:10:244::/64"]}
status: {addresses: [{type: InternalIP, address: 198.18.0.1}, {type: InternalIP, address: "fd00:198:18::1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-2}
spec: {podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]}
status: {addresses: [{type: InternalIP, address: 198.18.0.2}, {type: InternalIP, address: "fd00:198:18::2"}]}
---
apiVersion: v1
kind: Node
metadata: {name: control}
spec:
  podCIDRs: [10.244.2.0/24, "fd00:10:244:2::/64"]
  taints: [{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}]
status: {addresses: [{type: InternalIP, address: 198.18.0.3}, {type: InternalIP, address: "fd00:198:18::3"}]}
"""


def workload(kind, name, spec="", template="", version="apps/v1", status=""):
    return f"""
apiVersion: {version}
kind: {kind}
metadata: {{name: {name}}}
spec:
  {spec or "{}" if not template else spec}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers: [{{name: c, ports: [{{name: http, containerPort: 8080}}]}}]
      {template}
{status}
""".replace("  {}\n", "")


def service(name, spec, status=""):
    return f"\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n{status}\n"


def pod(name, spec="{}", status="", labels="{}"):
    return f"\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {labels}}}\nspec: {spec}\n{status}\n"


@pytest.fixture
def cluster(tmp_path):
    """Load documents, and once more in another order: the answer must not change."""

    def build(*documents):
        listed = [d for document in documents for d in document.split("\n---\n")]
        found = []
        for seed in (0, 1):
            shuffled = listed[:]
            if seed:
                random.Random(seed).shuffle(shuffled)
            file = tmp_path / f"{seed}.yaml"
            file.write_text("\n---\n".join(shuffled))
            found.append(load([str(file)]))
        first, second = found
        assert plain(first) == plain(second)
        return first

    return build


def plain(cluster):
    """A cluster without the places where its objects stand."""

    def without_ref(value):
        if isinstance(value, tuple):
            return tuple(without_ref(v) for v in value)
        return msgspec.structs.replace(value, ref=None)

    groups = {
        name: {k: without_ref(v) for k, v in getattr(cluster, name).items()} for name in ("nodes", "pods", "services", "slices")
    }
    return groups, cluster.workloads, cluster.assumptions, cluster.notes, cluster.fabric, cluster.pod_cidrs


def homes(cluster):
    return {p.name: p.node_name for p in cluster.pods.values()}


def addresses(cluster):
    return {p.name: [str(a) for a in p.ips] for p in cluster.pods.values()}


# --- pods -----------------------------------------------------------------------------------------------------


def test_a_stateful_set_and_its_addresses(cluster):
    found = cluster(NODES, workload("StatefulSet", "web", "replicas: 3"))
    assert addresses(found) == {
        "web-0": ["10.244.0.2", "fd00:10:244::2"],
        "web-1": ["10.244.1.2", "fd00:10:244:1::2"],
        "web-2": ["10.244.0.3", "fd00:10:244::3"],
    }
    assert found.workloads == {"default/StatefulSet/web": ("default/web-0", "default/web-1", "default/web-2")}
    assert "3 pods made from the templates of 1 workload: web" in found.assumptions
    assert "3 pods without a nodeName spread over 2 nodes" in found.assumptions


def test_a_deployment_names_its_pods_as_kubernetes_does(cluster):
    found = cluster(NODES, workload("Deployment", "web", "replicas: 2"))
    one, two = found.pods.values()
    prefix, revision, suffix = one.name.split("-")
    assert (prefix, len(revision), len(suffix)) == ("web", 10, 5)
    assert two.name.startswith(f"web-{revision}-")
    assert one.labels == {"app": "web", "pod-template-hash": revision}
    assert one.owner == "Deployment web"
    assert found.workloads.keys() == {"default/Deployment/web", f"default/ReplicaSet/web-{revision}"}
    assert {one.node_name, two.node_name} == {"node-1", "node-2"}


@pytest.mark.parametrize(
    ("kind", "spec", "version", "count"),
    [
        ("Deployment", "replicas: 0", "apps/v1", 0),
        ("Deployment", "minReadySeconds: 1", "apps/v1", 1),
        ("ReplicaSet", "replicas: 2", "apps/v1", 2),
        ("Job", "parallelism: 3", "batch/v1", 3),
        ("Job", "completions: 1", "batch/v1", 1),
        ("DaemonSet", "minReadySeconds: 1", "apps/v1", 2),
    ],
)
def test_how_many_pods(cluster, kind, spec, version, count):
    assert len(cluster(NODES, workload(kind, "x", spec, version=version)).pods) == count


def test_a_daemon_set_goes_where_it_is_tolerated(cluster):
    tolerant = "tolerations: [{operator: Exists}]\n      hostNetwork: true"
    found = cluster(
        NODES,
        workload("DaemonSet", "proxy", "minReadySeconds: 1", tolerant),
        workload("DaemonSet", "ssd", "minReadySeconds: 1", "nodeSelector: {disk: ssd}"),
    )
    assert sorted(p.node_name for p in found.pods.values() if p.labels["app"] == "proxy") == ["control", "node-1", "node-2"]
    assert [p.node_name for p in found.pods.values() if p.labels["app"] == "ssd"] == ["node-1"]
    on_control = next(p for p in found.pods.values() if p.node_name == "control")
    assert [str(a) for a in on_control.ips] == ["198.18.0.3", "fd00:198:18::3"]


def test_a_cron_job_waits(cluster):
    cron = "\napiVersion: batch/v1\nkind: CronJob\nmetadata: {name: backup}\nspec: {schedule: '* * * * *'}\n"
    found = cluster(NODES, cron)
    assert not found.pods
    assert found.notes == ("1 CronJob without pods until it runs: default/backup",)
    assert found.workloads == {"default/CronJob/backup": ()}


def test_a_bare_pod_without_status_is_placed(cluster):
    found = cluster(
        NODES,
        pod("a"),
        pod("b", "{nodeName: control}"),
        pod("c", "{nodeSelector: {kubernetes.io/hostname: node-2}}"),
        pod("d", "{hostNetwork: true, nodeName: node-1}"),
    )
    assert homes(found) == {"a": "node-2", "b": "control", "c": "node-2", "d": "node-1"}
    assert addresses(found)["d"] == ["198.18.0.1", "fd00:198:18::1"]
    assert addresses(found)["b"] == ["10.244.2.2", "fd00:10:244:2::2"]


def test_an_address_in_use_is_never_given_twice(cluster):
    used = pod("old", "{nodeName: node-1}", "status: {phase: Running, podIPs: [{ip: 10.244.0.2}, {ip: 'fd00:10:244::3'}]}")
    found = cluster(NODES, used, pod("a", "{nodeName: node-1}"), pod("b", "{nodeName: node-1}"))
    assert addresses(found)["a"] == ["10.244.0.3", "fd00:10:244::2"]
    assert addresses(found)["b"] == ["10.244.0.4", "fd00:10:244::4"]


@pytest.mark.parametrize("status", ["", "status: {replicas: 3, observedGeneration: 1}"])
def test_pods_that_exist_are_used(cluster, status):
    """By label where nobody wrote ownerReferences; and nothing is made beside them."""
    running = "status: {phase: Running, podIPs: [{ip: 10.244.0.7}]}"
    found = cluster(
        NODES,
        workload("Deployment", "web", "replicas: 3", status=status),
        pod("web-a", "{nodeName: node-1}", running, "{app: web}"),
    )
    assert list(found.pods) == ["default/web-a"]
    assert found.workloads["default/Deployment/web"] == ("default/web-a",)
    assert found.pods["default/web-a"].owner == "Deployment web"


def test_where_pods_were_dumped_a_workload_with_a_status_and_no_pods_has_none(cluster):
    running = pod("other", "{nodeName: node-1}", "status: {phase: Running, podIPs: [{ip: 10.244.0.7}]}")
    failing = workload("Deployment", "web", "replicas: 1", status="status: {observedGeneration: 1, unavailableReplicas: 1}")
    assert list(cluster(NODES, running, failing).pods) == ["default/other"]
    assert len(cluster(NODES, failing).pods) == 1
    assert len(cluster(NODES, running, workload("Deployment", "web", "replicas: 1")).pods) == 2


def test_a_replica_set_of_a_deployment_makes_nothing_itself(cluster):
    owned = workload("ReplicaSet", "web-1", "replicas: 2").replace(
        "{name: web-1}", "{name: web-1, ownerReferences: [{kind: Deployment, name: web, controller: true}]}", 1
    )
    found = cluster(NODES, workload("Deployment", "web", "replicas: 2"), owned)
    assert len(found.pods) == 2
    assert {p.owner for p in found.pods.values()} == {"Deployment web"}


def test_a_pod_that_fits_nowhere(cluster):
    with pytest.raises(InputError, match="pod default/a fits no node: no node has the labels gpu=yes"):
        cluster(NODES, pod("a", "{nodeSelector: {gpu: 'yes'}}"))


def test_a_full_node(cluster):
    small = NODES.replace("10.244.0.0/24", "10.244.0.0/30")
    with pytest.raises(InputError, match=r"the podCIDR 10.244.0.0/30 of node node-1 has no address left"):
        cluster(small, pod("a", "{nodeName: node-1}"), pod("b", "{nodeName: node-1}"))


# --- services ---------------------------------------------------------------------------------------------------


def test_cluster_ips(cluster):
    dns = service("kube-dns", "{ports: [{port: 53, protocol: UDP}]}").replace(
        "name: kube-dns", "name: kube-dns, namespace: kube-system"
    )
    found = cluster(
        NODES,
        dns,
        service("a", "{ports: [{port: 80}]}"),
        service("b", "{clusterIP: 10.96.0.11, ports: [{port: 80}]}"),
        service("c", "{ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}"),
        service("d", "{ipFamilies: [IPv6], ports: [{port: 80}]}"),
        service("none", "{clusterIP: None, ports: [{port: 80}]}"),
        service("out", "{type: ExternalName, externalName: example.com}"),
    )
    assert {s.name: [str(a) for a in s.cluster_ips] for s in found.services.values()} == {
        "kube-dns": ["10.96.0.10"],
        "a": ["10.96.0.12"],
        "b": ["10.96.0.11"],
        "c": ["10.96.0.13", "fd00:10:96::b"],
        "d": ["fd00:10:96::c"],
        "none": [],
        "out": [],
    }
    assert "4 services given ClusterIPs from 10.96.0.0/12 and fd00:10:96::/112" in found.assumptions


def test_node_ports(cluster):
    found = cluster(
        NODES,
        service("a", "{type: NodePort, ports: [{port: 53, name: u, protocol: UDP}, {port: 53, name: t}]}"),
        service("b", "{type: NodePort, ports: [{port: 80, nodePort: 30001}]}"),
        service("c", "{type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]}"),
        service("d", "{type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]}"),
    )
    assert {s.name: [p.node_port for p in s.ports] for s in found.services.values()} == {
        "a": [30000, 30000],
        "b": [30001],
        "c": [30002],
        "d": [None],
    }
    assert found.services["default/c"].health_check_node_port == 30003
    assert "2 LoadBalancers without an external address, reached by NodePort: default/c and default/d" in found.assumptions


# --- endpoints ----------------------------------------------------------------------------------------------------


def test_named_target_ports_resolve_pod_by_pod(cluster):
    old = pod("old", "{nodeName: node-1, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}", labels="{app: web}")
    new = pod(
        "new", "{nodeName: node-2, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}", labels="{app: web}"
    )
    mute = pod("mute", "{nodeName: node-2, containers: [{name: c}]}", labels="{app: web}")
    udp = pod(
        "udp",
        "{nodeName: node-2, containers: [{name: c, ports: [{name: http, containerPort: 9, protocol: UDP}]}]}",
        labels="{app: web}",
    )
    found = cluster(NODES, old, new, mute, udp, service("web", "{selector: {app: web}, ports: [{port: 80, targetPort: http}]}"))
    assert [(s.ports, [e.target_pod for e in s.endpoints]) for s in found.slices["default/web"]] == [
        ((), ["default/mute", "default/udp"]),
        ((EndpointPort(80),), ["default/old"]),
        ((EndpointPort(8080),), ["default/new"]),
    ]


RUNNING = "status: {phase: Running, podIPs: [{ip: 10.244.0.9}], conditions: [{type: Ready, status: '%s'}]}"


@pytest.mark.parametrize(
    ("ready", "deleted", "publish", "conditions"),
    [
        ("True", False, False, (True, True, False)),
        ("False", False, False, (False, False, False)),
        ("False", False, True, (True, False, False)),
        ("True", True, False, (False, True, True)),
        ("True", True, True, (True, True, True)),
    ],
)
def test_conditions_of_computed_endpoints(cluster, ready, deleted, publish, conditions):
    web = pod("web", "{nodeName: node-1}", RUNNING % ready, "{app: web}")
    if deleted:
        web = web.replace("name: web,", "name: web, deletionTimestamp: '2024-05-01T10:00:00Z',")
    flag = str(publish).lower()
    spec = f"{{selector: {{app: web}}, clusterIP: 10.96.0.5, publishNotReadyAddresses: {flag}, ports: [{{port: 80}}]}}"
    (found,) = cluster(NODES, web, service("web", spec)).slices["default/web"]
    (endpoint,) = found.endpoints
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == conditions
    assert (endpoint.node_name, endpoint.texts) == ("node-1", ("10.244.0.9",))


def test_a_dump_without_slices_gets_them_computed(cluster):
    web = pod("web", "{nodeName: node-1}", RUNNING % "True", "{app: web}")
    found = cluster(NODES, web, service("web", "{selector: {app: web}, clusterIP: 10.96.0.5, ports: [{port: 80}]}"))
    assert len(found.slices["default/web"]) == 1
    assert "EndpointSlices of 1 service computed from their selectors and the pods" in found.assumptions


SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api-1, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
endpoints: [{addresses: [10.244.0.9]}]
ports: [{port: 80}]
"""


def test_a_dump_with_slices_is_the_truth(cluster):
    """A stored service without a slice has no endpoints; one that no API server has seen gets its slices."""
    web = pod("web", "{nodeName: node-1}", RUNNING % "True", "{app: web}")
    found = cluster(
        NODES,
        web,
        SLICE,
        service("stored", "{selector: {app: web}, clusterIP: 10.96.0.5, ports: [{port: 80}]}"),
        service(
            "stored-headless",
            "{selector: {app: web}, clusterIP: None, clusterIPs: [None], ports: [{port: 80}]}".replace("[None]", "['None']"),
        ),
        service("new", "{selector: {app: web}, ports: [{port: 80}]}"),
        service("new-headless", "{selector: {app: web}, clusterIP: None, ports: [{port: 80}]}"),
        service("no-selector", "{ports: [{port: 80}]}"),
    )
    assert found.slices.keys() == {"default/api", "default/new", "default/new-headless"}


def test_pods_that_have_ended_are_no_endpoints(cluster):
    done = pod("web", "{nodeName: node-1}", "status: {phase: Succeeded, podIP: 10.244.0.9}", "{app: web}")
    found = cluster(NODES, done, service("web", "{selector: {app: web}, ports: [{port: 80}]}"))
    assert found.slices["default/web"] == ()
