"""From files to a Cluster: what is read, what is defaulted, and what is refused, with its place."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from netlab.errors import InputError
from netlab.kube import documents
from netlab.kube.embedded import path_of_default
from netlab.kube.load import load
from netlab.kube.objects import ContainerPort, EndpointPort, LabelSelector, LoadBalancerIngress, PolicyPort, ServicePort
from netlab.kube.topology import Overrides
from netlab.linux.addr import ip, prefix

DATA = Path(__file__).parent / "data"
POD = "kind: Pod\napiVersion: v1\nmetadata: {name: p}\n"


def read(tmp_path, text, name="f.yaml", **options):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load([str(file)], **options)


def refused(tmp_path, text, name="f.yaml", **options):
    """The error, with the folder left out."""
    with pytest.raises(InputError) as caught:
        read(tmp_path, text, name, **options)
    return str(caught.value).replace(f"{tmp_path}/", "")


def service(spec, extra=""):
    return f"kind: Service\napiVersion: v1\nmetadata: {{name: s}}\nspec: {spec}\n{extra}"


# --- what kubectl prints -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nodes", "pods", "services", "slices"),
    [("services", 3, 13, 17, 16), ("dualstack", 2, 2, 2, 3), ("random-11", 4, 134, 42, 42)],
)
def test_recorded_clusters(name, nodes, pods, services, slices):
    cluster = load([str(DATA / "kube-proxy-1.30.5" / name / "cluster.json")])
    found = sum(len(s) for s in cluster.slices.values())
    assert (len(cluster.nodes), len(cluster.pods), len(cluster.services), found) == (nodes, pods, services, slices)
    assert not any("EndpointSlices" in line or "ClusterIP" in line for line in cluster.assumptions)


def test_a_recorded_service():
    cluster = load([str(DATA / "kube-proxy-1.30.5" / "services" / "cluster.json")])
    lb = cluster.services["default/web-lb-local"]
    assert lb.type == "LoadBalancer"
    assert lb.ports == (ServicePort(80, "TCP", "http", "http", 30083),)
    assert lb.external_traffic_policy == "Local"
    assert lb.health_check_node_port == 30999
    assert lb.load_balancer == (LoadBalancerIngress(ip("192.0.2.81")),)
    assert cluster.services["default/web-lb"].load_balancer_source_ranges == (prefix("203.0.113.0/24"),)
    assert cluster.services["default/web-headless"].headless
    assert cluster.services["default/web-headless"].cluster_ips == ()
    assert cluster.services["default/elsewhere"].external_name == "db.example.com"
    sticky = cluster.services["default/web-sticky"]
    assert (sticky.session_affinity, sticky.session_affinity_timeout) == ("ClientIP", 10800)
    assert str(lb.ref).endswith("cluster.json, Service default/web-lb-local, items[20]") or lb.ref.path.startswith("items[")


def test_json_and_yaml_say_the_same(tmp_path):
    path = DATA / "kube-proxy-1.30.5" / "services" / "cluster.json"
    import yaml

    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(json.loads(path.read_text()), default_style='"'))
    a, b = load([str(path)]), load([str(file)])
    for field in ("nodes", "pods", "services", "slices"):
        left, right = getattr(a, field), getattr(b, field)
        assert left.keys() == right.keys()
        for key in left:
            assert without_refs(left[key]) == without_refs(right[key])


def without_refs(value):
    import msgspec

    if isinstance(value, tuple):
        return tuple(without_refs(v) for v in value)
    return msgspec.structs.replace(value, ref=None)


def test_pods_of_a_dump():
    cluster = load([str(DATA / "kube" / "pods.json")])
    web = cluster.pods["shop/web-6d4b75cb6d-x2x7k"]
    mesh = ContainerPort(15001, "TCP", "mesh", sidecar=True)
    assert web.ports == (mesh, ContainerPort(8080, "TCP", "http"), ContainerPort(53, "UDP"))
    assert [str(a) for a in web.ips] == ["10.244.0.5", "fd00:10:244::5"]
    assert (web.ready, web.owner, web.node_name) == (False, "Deployment web", "node-1")
    assert cluster.workloads["shop/Deployment/web"] == cluster.workloads["shop/ReplicaSet/web-6d4b75cb6d"] == (web.key,)
    # kubectl still prints the address of a pod that has ended
    assert cluster.pods["shop/done"].ips == ()
    assert (cluster.pods["shop/waiting"].ips, cluster.pods["shop/waiting"].phase) == ((), "Pending")
    assert cluster.nodes["node-1"].internal_ips == (ip("198.18.0.1"),)
    assert cluster.notes == ("passed over: 1 ConfigMap, 1 Deployment (apps/v1beta1), 1 Secret",)
    assert cluster.namespaces["shop"].labels == {"kubernetes.io/metadata.name": "shop"}


# --- the shapes of input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("one.yaml", POD),
        ("flow", "{kind: Pod, apiVersion: v1, metadata: {name: p}}"),
        ("one.json", '{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}}'),
        ("bom.json", b'\xef\xbb\xbf{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}}'),
        ("powershell.json", '{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}}'.encode("utf-16")),
        (
            "list.json",
            '{"kind": "List", "apiVersion": "v1", "items": [{"metadata": {"name": "p"}, "apiVersion": "v1", "kind": "Pod"}]}',
        ),
        ("podlist.json", '{"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "p"}}]}'),
        ("podlist.yaml", "kind: PodList\napiVersion: v1\nitems:\n- metadata: {name: p}\n"),
        (
            "nested.json",
            '{"kind":"List","apiVersion":"v1","items":[{"kind":"PodList","apiVersion":"v1","items":[{"metadata":{"name":"p"}}]}]}',
        ),
        ("empty-documents.yaml", f"---\n---\n# nothing\n---\n{POD}---\n"),
    ],
)
def test_shapes(tmp_path, name, text):
    assert list(read(tmp_path, text, name).pods) == ["default/p"]


def test_json_after_json_and_between_dashes(tmp_path):
    one, two = (f'{{"kind": "Pod", "apiVersion": "v1", "metadata": {{"name": "{n}"}}}}\n' for n in "ab")
    assert list(read(tmp_path, one + two, "f.json").pods) == ["default/a", "default/b"]
    assert list(read(tmp_path, one + "---\n" + two, "f").pods) == ["default/a", "default/b"]


def test_stdin():
    assert list(load(["-"], io.StringIO(POD)).pods) == ["default/p"]
    with pytest.raises(InputError, match="given twice"):
        load(["-", "-"], io.StringIO(POD))


def test_a_pipe_has_no_size(tmp_path):
    text = "# " + "x" * 200_000 + "\n" + POD
    run = [
        sys.executable,
        "-c",
        "import sys\nfrom netlab.kube.load import load\nprint(*load(['/dev/stdin', '-'][1:], sys.stdin).pods)",
    ]
    assert subprocess.run(run, input=text.encode(), capture_output=True, check=True).stdout == b"default/p\n"


def test_directories_are_read_recursively(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "p.yml").write_text(POD)
    (tmp_path / "a" / "s.json").write_text('{"kind": "Service", "apiVersion": "v1", "metadata": {"name": "s"}}')
    (tmp_path / "a" / "README.md").write_text("{{ not a manifest")
    (tmp_path / "a" / "package.json").write_text('{"name": "x", "items": {"no": "list"}}')
    (tmp_path / "a" / "values.yaml").write_text("replicas: 3\n")
    cluster = load([str(tmp_path)])
    assert (list(cluster.pods), list(cluster.services)) == (["default/p"], ["default/s"])
    assert cluster.notes == ("passed over: 2 document without a kind",)


def test_the_namespace_of_objects_that_name_none(tmp_path):
    assert list(read(tmp_path, POD, overrides=Overrides(namespace="shop")).pods) == ["shop/p"]


# --- defaults ------------------------------------------------------------------------------------------------


def test_service_defaults(tmp_path):
    s = read(tmp_path, service("{clusterIP: 10.96.0.7, ports: [{port: 80}]}")).services["default/s"]
    assert s.ports == (ServicePort(80, "TCP", "", 80, None),)
    assert (s.type, s.ip_families, s.external_traffic_policy, s.internal_traffic_policy) == (
        "ClusterIP",
        (4,),
        "Cluster",
        "Cluster",
    )
    assert (s.session_affinity, s.session_affinity_timeout) == ("None", 10800)


def test_families_follow_the_cluster_ips(tmp_path):
    s = read(tmp_path, service("{clusterIPs: ['fd00::5', 10.96.0.5], ports: [{port: 80}]}")).services["default/s"]
    assert s.ip_families == (6, 4)


@pytest.mark.parametrize(
    ("conditions", "ready", "serving", "terminating"),
    [
        ("{}", True, True, False),
        ("{ready: true}", True, True, False),
        ("{ready: false}", False, True, False),  # kube-proxy: an absent serving is true
        ("{ready: false, serving: true, terminating: true}", False, True, True),
        ("{ready: null, serving: false, terminating: null}", True, False, False),
    ],
)
def test_endpoint_conditions(tmp_path, conditions, ready, serving, terminating):
    text = (
        "kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\nmetadata: {name: s-1, labels: {kubernetes.io/service-name: s}}\n"
        f"addressType: IPv4\nendpoints: [{{addresses: [10.1.0.1], conditions: {conditions}}}]\nports: [{{port: 80}}]\n---\n"
    )
    cluster = read(tmp_path, text + service("{clusterIP: 10.96.0.7, ports: [{port: 80}]}"))
    (found,) = cluster.slices["default/s"]
    endpoint = found.endpoints[0]
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (ready, serving, terminating)
    assert endpoint.texts == ("10.1.0.1",)
    assert found.ports == (EndpointPort(80, "TCP", ""),)


ENDPOINTS = """kind: Endpoints
apiVersion: v1
metadata: {name: s}
subsets:
- addresses: [{ip: 10.1.0.1, nodeName: n1, targetRef: {kind: Pod, name: p, namespace: default}}, {ip: "fd00::1"}]
  notReadyAddresses: [{ip: 10.1.0.2}]
  ports: [{port: 8080}]
---
"""


def test_endpoints_serve_where_there_is_no_slice(tmp_path):
    cluster = read(tmp_path, ENDPOINTS + service("{clusterIP: 10.96.0.7, selector: {a: b}, ports: [{port: 80}]}"))
    four, six = cluster.slices["default/s"]
    assert [(str(e.addresses[0]), e.ready, e.node_name, e.target_pod) for e in four.endpoints] == [
        ("10.1.0.1", True, "n1", "default/p"),
        ("10.1.0.2", False, None, None),
    ]
    assert (six.family, len(six.endpoints), six.ports) == (6, 1, (EndpointPort(8080),))
    assert any("read from Endpoints" in line for line in cluster.assumptions)


def test_endpoints_give_way_to_a_slice(tmp_path):
    slice_ = (
        "kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\nmetadata: {name: s-1, labels: {kubernetes.io/service-name: s}}\n"
        "addressType: IPv4\nendpoints: [{addresses: [10.9.9.9]}]\nports: [{port: 80}]\n---\n"
    )
    cluster = read(tmp_path, ENDPOINTS + slice_ + service("{clusterIP: 10.96.0.7, ports: [{port: 80}]}"))
    assert [str(s.endpoints[0].addresses[0]) for s in cluster.slices["default/s"]] == ["10.9.9.9"]


@pytest.mark.parametrize(
    ("spec", "types"),
    [
        ("{}", ("Ingress",)),
        ("{egress: []}", ("Ingress",)),
        ("{egress: [{}]}", ("Ingress", "Egress")),
        ("{policyTypes: [Egress], ingress: [{}]}", ("Egress",)),
        ("{policyTypes: []}", ("Ingress",)),
    ],
)
def test_policy_types(tmp_path, spec, types):
    text = f"kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {{name: np}}\nspec: {spec}\n---\n{POD}"
    assert read(tmp_path, text).policies["default/np"].policy_types == types


def test_a_policy_keeps_its_rules(tmp_path):
    selector = "{matchExpressions: [{key: a, operator: In, values: [b]}]}"
    spec = f"{{podSelector: {selector}, ingress: [{{from: [{{podSelector: {{}}}}], ports: [{{port: http}}]}}]}}"
    text = f"kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {{name: np}}\nspec: {spec}\n---\n{POD}"
    policy = read(tmp_path, text).policies["default/np"]
    assert policy.pod_selector == LabelSelector(match_expressions=(("a", "In", ("b",)),))
    (rule,) = policy.ingress
    assert [peer.pod_selector for peer in rule.peers] == [LabelSelector()]
    assert rule.ports == (PolicyPort("TCP", "http"),)
    assert rule.ref.path == "spec.ingress[0]"


# --- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        # wrong types, with the line of the field
        (
            service("\n  ports:\n  - port: '80'"),
            "f.yaml:6, document 1, Service s, spec.ports[0].port: expected an integer, "
            'found a string ("80")\n  write it without quotes: 80',
        ),
        (service("{ports: [{port: 70000}]}"), "spec.ports[0].port: expected an integer <= 65535, found 70000"),
        (service("{ports: [{name: web}]}"), 'spec.ports[0]: the field "port" is missing'),
        (service("{ports: {port: 80}}"), "spec.ports: expected a list, found a mapping"),
        (
            "kind: Pod\napiVersion: v1\nmetadata:\n  name: p\n  labels:\n    app: web\n    canary: on\n",
            "f.yaml:7, document 1, Pod p, metadata.labels.canary: expected a string, "
            "found a boolean (true)\n  YAML reads yes, no, on, off",
        ),
        (
            "kind: Pod\napiVersion: v1\nmetadata:\n  name: p\n  labels: {v: 1.10}\n",
            'found a number (1.1)\n  put it in quotes: "1.1"',
        ),
        (
            "kind: Pod\napiVersion: v1\nmetadata:\n  name: 7\n",
            "f.yaml:4, document 1, Pod 7, metadata.name: expected a string, found an integer (7)",
        ),
        # values
        (
            service('{ports: [{port: 80, targetPort: "8080"}]}'),
            '"8080" in quotes is the name of a port\n  write it without quotes: 8080',
        ),
        (service("{type: ClusterIp}"), 'spec.type: unknown value "ClusterIp"\n  did you mean "ClusterIP"'),
        (service("{clusterIP: 10.96.0.300}"), 'spec.clusterIPs[0]: "10.96.0.300" is not an IP address'),
        (service("{ports: [{port: 80}, {port: 81}]}"), "a service with several ports must name each of them"),
        (service("{ports: [{port: 80, protocol: tcp}]}"), 'unknown value "tcp"'),
        ("kind: Pod\napiVersion: v1\n", "f.yaml:1, document 1, Pod: metadata.name is missing"),
        ("kind: Pod\nmetadata: {name: p}\n", "f.yaml:1, document 1, Pod p: apiVersion is missing"),
        ("kind: 7\napiVersion: v1\n", "expected a string, found 7"),
        (
            f"{POD}---\n{POD}",
            "f.yaml:5, document 2, Pod default/p: the same object twice\n"
            "  it stands first in f.yaml:1, document 1, Pod default/p",
        ),
        (
            "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: np}\nspec: {ingress: [{from: [{}]}]}\n",
            "spec.ingress[0].from[0]: Required value: must specify a peer",
        ),
        (
            "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: np}\n"
            "spec: {egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/9]}}]}]}\n",
            'Invalid value: "11.0.0.0/9": must be a strict subset of `cidr`',
        ),
        (
            "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: np}\n"
            "spec: {podSelector: {matchExpressions: [{key: a, operator: Notin, values: [b]}]}}\n",
            'Invalid value: "Notin": not a valid selector operator\n  did you mean "NotIn"',
        ),
        # not objects
        ("replicas: 3\n", "f.yaml:1, document 1: not a Kubernetes object: it has no kind"),
        ("just text\n", "it has no kind"),
        ("kind: Secret\napiVersion: v1\n", "nothing in the input that netlab can use (passed over: 1 Secret)"),
        ("kind: List\napiVersion: v1\nitems: []\n", "nothing in the input that netlab can use"),
        ("kind: List\napiVersion: v1\nitems: {}\n", "items: expected a list"),
        ("", "nothing in the input that netlab can use"),
        ("a: {{ .Values.name }}\n", "helm template"),
    ],
)
def test_refused_yaml(tmp_path, text, says):
    assert says in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '{"kind": "List", "apiVersion": "v1", "items": [\n{"kind": "Po',
            "f.json:2: the JSON ends in the middle, after 60 bytes",
        ),
        ('{"kind": "List",\n "items": nope}', "f.json:2: not JSON: invalid character"),
        ('{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}}\n garbage', "f.json:2, document 2: not JSON"),
        (
            '{"kind": "List", "apiVersion": "v1", "items": [{"kind": "Pod", "apiVersion": "v1", '
            '"metadata": {"name": "p", "labels": {"a": "b", "c": 7}}}]}',
            'f.json, Pod p, items[0].metadata.labels.c: expected a string, found an integer (7)\n  put it in quotes: "7"',
        ),
        ('{"kind": "List", "items": {}}', "items: expected a list, found a mapping"),
        ("[1, 2]", "expected a mapping, found a list"),
        ("[" * 3_000_000, "f.json: nested too deeply"),
        (b'{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "\xff"}}', "invalid UTF-8"),
        (b'{"kind": "Pod"\0', "a binary file"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b"\xff\xfe\x00", "neither UTF-8 nor UTF-16"),
    ],
)
def test_refused_json(tmp_path, text, says):
    assert says in refused(tmp_path, text, "f.json")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" + '{"a": [1, 2]},' * 20 + "1]", "f.json: expected a mapping, found a list"),
        ('{"kind": 5, "a": [' + '{"a": [1, 2]},' * 20 + "1]}", "f.json, kind: expected a string, found an integer"),
        (
            '{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "labels": {"a": 7}}, "x": "' + "y" * 200 + '"}',
            "f.json, Pod, metadata.labels: expected a string, found an integer",
        ),
    ],
)
def test_a_large_json_value_is_not_read_whole_to_say_what_is_wrong(tmp_path, monkeypatch, text, says):
    monkeypatch.setattr(documents, "_EXPLAINED", 100)
    monkeypatch.setattr(documents.Document, "tree", lambda self: pytest.fail("read whole"))
    assert says in refused(tmp_path, text, "f.json")


def test_megabytes_that_begin_with_a_list_are_not_parsed(tmp_path):
    assert "neither JSON nor YAML of Kubernetes objects" in refused(tmp_path, "- {a: 1}\n" * 130_000)


def test_a_duplicate_names_both_files(tmp_path):
    (tmp_path / "a.yaml").write_text(POD)
    (tmp_path / "b.yaml").write_text("# second\n" + POD)
    with pytest.raises(InputError) as caught:
        load([str(tmp_path)])
    assert "b.yaml:2, document 1, Pod default/p: the same object twice" in str(caught.value)
    assert "it stands first in" in str(caught.value)
    assert "a.yaml:1" in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "cluster.json").write_text("{}")
    with pytest.raises(InputError, match=r'no such file or directory\n  did you mean "cluster.json"'):
        load([str(tmp_path / "clutser.json")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \*.yaml, \*.yml or \*.json in this directory"):
        load([str(tmp_path / "empty")])
    loop = tmp_path / "loop.yaml"
    os.symlink(loop, loop)
    with pytest.raises(InputError, match="cannot read the file"):
        load([str(loop)])


class Endless(io.RawIOBase):
    """Text without end."""

    def __init__(self, first):
        self.first = first

    def readable(self):
        return True

    def readinto(self, buffer):
        part = self.first or b"a: b\n" * (len(buffer) // 5)
        self.first = b""
        buffer[: len(part)] = part
        return len(part)


@pytest.mark.parametrize(("first", "says"), [(b"a: b\n", "YAML larger than 1 MiB"), (b"\0", "a binary file")])
def test_input_without_end(monkeypatch, first, says):
    monkeypatch.setattr(documents, "MAX_YAML_BYTES", 1 << 20)
    with pytest.raises(InputError, match=says):
        load(["-"], io.TextIOWrapper(io.BufferedReader(Endless(first))))


def test_large_garbage_is_refused_by_its_first_bytes(tmp_path, monkeypatch):
    garbage = b"0123456789abcdef" * 8 + b"\n"
    assert "neither JSON nor YAML" in refused(tmp_path, garbage * 10_000)
    monkeypatch.setattr(documents, "MAX_YAML_BYTES", 1 << 20)
    assert "YAML larger than 1 MiB" in refused(tmp_path, garbage * 10_000)


# --- the start -----------------------------------------------------------------------------------------------


def test_what_loading_imports():
    """YAML is imported only when it is read, ipaddress never."""
    code = (
        "import sys\nfrom netlab.kube.load import load\nfrom netlab.kube.names import resolve\n"
        f"load([{str(DATA / 'kube' / 'pods.json')!r}])\n"
        "assert not {'yaml', 'ipaddress', 'difflib', 'hashlib', 'numpy'} & set(sys.modules), sys.modules.keys()\n"
        f"load([{str(path_of_default())!r}])\nassert 'yaml' in sys.modules\nassert 'ipaddress' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_embedded_topology():
    assert path_of_default().is_file()
    cluster = load([str(path_of_default())])
    assert (len(cluster.nodes), len(cluster.pods), len(cluster.services)) == (3, 9, 9)
    assert cluster.assumptions == ("EndpointSlices of 9 services computed from their selectors and the pods",)
    assert cluster.notes == ()
    zones = {node.zone for node in cluster.nodes.values()}
    assert zones == {"zone-a", "zone-b", "zone-c"}
    api = {str(e.addresses[0]): e.node_name for e in cluster.slices["default/api"][0].endpoints}
    assert api == {"10.244.0.11": "node-1", "10.244.1.11": "node-2", "10.244.2.11": "node-3"}
    assert [s.family for s in cluster.slices["default/api-dual"]] == [4, 6]
    assert cluster.slices["default/nobody"] == ()
    assert cluster.pods["default/agent-1"].ips == cluster.nodes["node-1"].internal_ips


def test_the_embedded_topology_keeps_its_namespace_whatever_n_says():
    cluster = load([str(path_of_default())], overrides=Overrides(namespace="kube-system"))
    assert {p.namespace for p in cluster.pods.values()} == {"default", "kube-system"}
    assert "default/api" in cluster.services


def test_an_installed_wheel_carries_the_topologies(tmp_path, monkeypatch):
    import netlab

    package = tmp_path / "netlab"
    (package / "_topologies").mkdir(parents=True)
    monkeypatch.setattr(netlab, "__file__", str(package / "__init__.py"))
    with pytest.raises(FileNotFoundError):
        path_of_default()
    (package / "_topologies" / "flannel-vxlan.yaml").write_text(POD)
    assert path_of_default() == package / "_topologies" / "flannel-vxlan.yaml"


def with_ip(name, address, **meta):
    deletion = ", deletionTimestamp: '2024-01-01T00:00:00Z'" if meta.get("going") else ""
    host = ", hostNetwork: true" if meta.get("host") else ""
    return (
        f"kind: Pod\napiVersion: v1\nmetadata: {{name: {name}{deletion}}}\nspec: {{nodeName: n1{host}}}\n"
        f"status: {{phase: Running, podIP: {address}}}\n---\n"
    )


def exposed(name, address, ports):
    spec = f"{{type: NodePort, clusterIP: {address}, ports: {ports}}}"
    return f"kind: Service\napiVersion: v1\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (with_ip("a", "10.244.0.5") + with_ip("b", "10.244.0.5"), "pod default/b has the same address 10.244.0.5 as default/a"),
        (
            exposed("s", "10.96.0.9", "[{port: 80}]") + exposed("t", "10.96.0.9", "[{port: 81}]"),
            "document 2, Service default/t: service default/t has the same ClusterIP 10.96.0.9 as default/s\n  it is in ",
        ),
        (
            exposed("s", "10.96.0.8", "[{port: 80, nodePort: 30000}]")
            + exposed("t", "10.96.0.9", "[{port: 81, nodePort: 30000}]"),
            "service default/t has the same NodePort 30000/TCP as default/s",
        ),
    ],
)
def test_what_nobody_gives_twice(tmp_path, text, says):
    assert says in refused(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        with_ip("a", "10.244.0.5", going=True) + with_ip("b", "10.244.0.5"),
        with_ip("a", "192.168.0.5", host=True) + with_ip("b", "192.168.0.5", host=True),
        exposed("s", "10.96.0.9", "[{name: t, port: 53, nodePort: 30053}, {name: u, port: 53, protocol: UDP, nodePort: 30053}]"),
    ],
)
def test_what_may_be_shared(tmp_path, text):
    read(tmp_path, text)
