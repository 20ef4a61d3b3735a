"""`netlab why`: rows that read like talk; every change that it shows flips the answer; what else changes is counted exactly.

python tests/test_why.py        writes the examples of README and docs/why.md again: read the difference before a commit
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from netlab.cli.main import main
from netlab.dataplane.build import DEFAULT_CLIENTS
from netlab.dataplane.policy.index import End, PolicyIndex
from netlab.dataplane.policy.semantics import Flow, Says, decide
from netlab.kube.load import load
from netlab.kube.objects import LabelSelector
from netlab.linux.packet import PROTOCOL_NUMBERS, TCP
from netlab.reach.candidates import Kind, identity, relabel, wanted
from netlab.reach.change import apply
from netlab.reach.effects import effect, group_of
from netlab.reach.situation import Answer, answer_of
from netlab.reach.why import explain, flipped, traced
from netlab.render import why as drawing
from netlab.trace.query import Request, Tracer

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(__file__).parent / "data" / "why"
ROWS = yaml.safe_load((DATA / "rows.yaml").read_text())


PAGES = (ROOT / "README.md", ROOT / "docs" / "why.md")
EXAMPLE = re.compile(r"(```\n\$ netlab (why [^\n]*)\n)(.*?)(```\n)", re.DOTALL)


def printed(command: str) -> str:
    """What `netlab COMMAND` prints in a clone's folder."""
    out, here = io.StringIO(), os.getcwd()
    os.chdir(ROOT)
    try:
        with contextlib.redirect_stdout(out):
            main([*shlex.split(command), "-q"])
    finally:
        os.chdir(here)
    return out.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_pages_show_what_netlab_prints(page: Path) -> None:
    examples = list(EXAMPLE.finditer(page.read_text()))
    assert examples
    for example in examples:
        assert example[3] == printed(example[2]), example[2]


def cluster_of(row: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch):
    """base.yaml with what a row adds, read by names that do not depend on where the tests run."""
    base = (DATA / "base.yaml").read_text()
    if "set" in row:
        key = row["set"].partition(":")[0]
        lines = [row["set"] if line.startswith(f"{key}:") else line for line in base.splitlines()]
        base = "\n".join(lines) if row["set"] in lines else base.replace("cni:", f"{row['set']}\ncni:", 1)
    monkeypatch.chdir(folder)
    Path("base.yaml").write_text(base)
    Path("p.yaml").write_text(row.get("add", ""))
    return load(["base.yaml", "p.yaml"] if "add" in row else ["base.yaml"])


def asked(row: dict[str, Any]) -> Request:
    source, destination, *protocol = row["ask"].split()
    return Request(source, destination, protocol=protocol[0] if protocol else None)


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_what_is_said_first_and_the_smallest_change(row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracer = Tracer(cluster_of(row, tmp_path, monkeypatch))
    found = explain(tracer, asked(row))
    why = found.why
    assert why.answer.value == row["answer"]
    assert " ".join(reason.text for reason in why.reasons) == row["says"]
    assert (why.changes[0].what if why.changes else None) == row.get("change")
    if why.changes:
        assert drawing.others(why.changes[0].others) == row["others"]
    if "note" in row:
        assert row["note"] in why.notes
    for change, candidate in zip(why.changes, found.candidates, strict=True):
        trace = traced(tracer.cluster, asked(row), candidate)
        assert flipped(why.answer, answer_of(trace)), change.what


def test_a_row_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge of the rows says no to a change that does not help."""
    row = next(row for row in ROWS if row["name"] == "port missing")
    tracer = Tracer(cluster_of(row, tmp_path, monkeypatch))
    useless = relabel(tracer.cluster, tracer.cluster.pods["default/db"], {"role": "x"})
    assert useless is not None
    assert not flipped(Answer.NO, answer_of(traced(tracer.cluster, asked(row), useless)))


def test_canal_enforces_nothing_for_ipv6(tmp_path: Path) -> None:
    """So no change of a policy is the way out, in either direction."""
    dual = (ROOT / "topologies" / "flannel-vxlan.yaml").read_text().replace("{name: flannel,", "{name: canal,")
    (tmp_path / "a.yaml").write_text(dual)
    denies = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: none}, spec: {podSelector: {}}}"
    (tmp_path / "b.yaml").write_text(denies)
    tracer = Tracer(load([str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]))
    found = {}
    for port in (9000, 9999):
        for address in tracer.cluster.pods["default/api-1"].ips:
            host = str(address) if address.family == 4 else f"[{address}]"
            why = explain(tracer, Request("web-0", f"{host}:{port}")).why
            said = " ".join(reason.text for reason in why.reasons)
            found[address.family, port] = (why.answer.value, "NetworkPolicy default/none" in said and "would" not in said)
    assert found == {(4, 9000): ("no", True), (6, 9000): ("yes", False), (4, 9999): ("no", True), (6, 9999): ("no", False)}


# --- random clusters -----------------------------------------------------------------------------------------

LABELS = [{"app": a, **({"role": r} if r else {})} for a in ("a", "b", "c") for r in ("", "x", "y")]


def a_cluster(seed: int) -> str:
    """Two namespaces, pods with few labels, policies and services that select some of them."""
    rnd = random.Random(seed)
    documents: list[dict[str, Any]] = [
        yaml.safe_load((DATA / "base.yaml").read_text().partition("---")[0]),
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "one", "labels": {"team": "red"}}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "two"}},
    ]
    for n in range(6):
        ports = [{"containerPort": 80, "name": "http"}] + ([{"containerPort": 53, "protocol": "UDP"}] if n % 3 == 0 else [])
        container = {"name": "c", "ports": ports if n else []}
        documents.append(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"p{n}", "namespace": ("one", "two")[n % 2], "labels": rnd.choice(LABELS)},
                "spec": {"nodeName": rnd.choice(("node-1", "node-2")), "containers": [container]},
            }
        )
    for n, namespace in enumerate(("one", "two", "one")):
        spec = {"selector": rnd.choice(LABELS), "ports": [{"port": 8000 + n, "targetPort": rnd.choice((80, "http", "nope"))}]}
        if rnd.random() < 0.3:
            spec |= {"type": "NodePort", "externalTrafficPolicy": rnd.choice(("Local", "Cluster"))}
        documents.append(
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"s{n}", "namespace": namespace}, "spec": spec}
        )
    for n in range(rnd.randint(0, 4)):
        types = rnd.choice((["Ingress"], ["Egress"], ["Ingress", "Egress"]))
        spec = {"podSelector": rnd.choice(({}, a_selector(rnd))), "policyTypes": types}
        for kind, word in (("ingress", "from"), ("egress", "to")):
            if kind.title() in types and rnd.random() < 0.8:
                spec[kind] = [a_rule(rnd, word) for _ in range(rnd.randint(0, 2))]
        metadata = {"name": f"n{n}", "namespace": rnd.choice(("one", "two"))}
        documents.append({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
    if rnd.random() < 0.4:
        actions = [rnd.choice(("Allow", "Deny", "Pass")) for _ in range(rnd.randint(1, 2))]
        rules = [{"action": action, "source": {"selector": f"app == '{rnd.choice('abc')}'"}} for action in actions]
        spec = {
            "selector": rnd.choice(("all()", "has(role)")),
            "types": ["Ingress"],
            "ingress": rules,
            "order": rnd.choice((5, 2000)),
        }
        documents.append(
            {"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "g"}, "spec": spec}
        )
    if rnd.random() < 0.3:
        peers = [{"pods": {"namespaceSelector": {}, "podSelector": a_selector(rnd)}}]
        rule = {"action": rnd.choice(("Accept", "Deny")), rnd.choice(("from", "to")): peers}
        spec = {"tier": rnd.choice(("Admin", "Baseline")), "priority": 7, "subject": {"namespaces": {}}}
        spec["ingress" if "from" in rule else "egress"] = [rule]
        kind = {"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy"}
        documents.append({**kind, "metadata": {"name": "c"}, "spec": spec})
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})


def a_selector(rnd: random.Random) -> dict[str, Any]:
    if rnd.random() < 0.3:
        operator = rnd.choice(("In", "NotIn", "Exists", "DoesNotExist"))
        values = {"values": ["x"]} if operator.endswith("In") else {}
        return {"matchExpressions": [{"key": "role", "operator": operator, **values}]}
    return {"matchLabels": rnd.choice(LABELS)}


def a_rule(rnd: random.Random, word: str) -> dict[str, Any]:
    rule: dict[str, Any] = {}
    peers: list[dict[str, Any]] = []
    for _ in range(rnd.randint(0, 2)):
        peer: dict[str, Any] = {}
        if rnd.random() < 0.2:
            peers.append({"ipBlock": {"cidr": rnd.choice(("0.0.0.0/0", "10.244.0.0/26", "203.0.113.0/24"))}})
            continue
        if rnd.random() < 0.7:
            peer["podSelector"] = a_selector(rnd)
        if rnd.random() < 0.4 or not peer:
            peer["namespaceSelector"] = rnd.choice(({}, {"matchLabels": {"team": "red"}}))
        peers.append(peer)
    if peers:
        rule[word] = peers
    if rnd.random() < 0.5:
        rule["ports"] = [rnd.choice(({"port": 80}, {"port": "http"}, {"port": 81}, {"port": 53, "protocol": "UDP"}))]
    return rule


def questions(seed: int, cluster: Any) -> Iterator[Request]:
    rnd = random.Random(seed)
    pods = [f"{p.namespace}/pod/{p.name}" for p in cluster.pods.values()]
    services = [(f"{s.namespace}/svc/{s.name}", s.ports[0].port) for s in cluster.services.values()]
    for _ in range(4):
        source, target = rnd.sample(pods, 2)
        yield Request(source, f"{target}:{rnd.choice((80, 80, 81))}")
        service, port = rnd.choice(services)
        yield Request(rnd.choice([*pods, "internet", "node/node-1"]), f"{service}:{port}")


@pytest.mark.parametrize("seed", range(8))
def test_every_change_of_random_clusters_flips_the_answer(seed: int, tmp_path: Path) -> None:
    file = tmp_path / "cluster.json"
    file.write_text(a_cluster(seed))
    cluster = load([str(file)])
    tracer = Tracer(cluster)
    for request in questions(seed, cluster):
        found = explain(tracer, request)
        for change, candidate in zip(found.why.changes, found.candidates, strict=True):
            again = traced(cluster, request, candidate)
            assert flipped(found.why.answer, answer_of(again)), (request, change.what)
            if candidate.kind is Kind.QUESTION or any(t.object == "the CNI plug-in" for t in change.objects):
                continue
            after = PolicyIndex(apply(cluster, candidate.edits), tracer.policies.dialect, tracer.policies.node_by_ip)
            assert (change.others.opens, change.others.closes) == counted(tracer, after, request), (request, change.what)
        assert found.why.answer is not Answer.UNKNOWN


def counted(tracer: Tracer, after: PolicyIndex, request: Request) -> tuple[int, int]:
    """The slow twin of effects.py: every pair of pods, one by one."""
    from netlab.reach.situation import look

    before = tracer.policies
    mine = {
        (group_of(before, j.flow.source), group_of(before, j.flow.destination), j.flow.protocol, j.flow.port)
        for j in look(tracer, request).judged
    }
    outside = End(DEFAULT_CLIENTS[0], name="internet")
    ends = [before.pod(pod) for pod in before.pods]
    opens = closes = 0
    for target in [*ends, outside]:
        pod = before.pods[target.pod] if target.pod >= 0 else None
        ports = {(PROTOCOL_NUMBERS[p.protocol.lower()], p.container_port) for p in pod.ports} if pod else {(TCP, 443)}
        for slices in tracer.cluster.slices.values() if pod else ():
            for part in slices:
                if any(e.target_pod == pod.key for e in part.endpoints):
                    ports |= {(PROTOCOL_NUMBERS[p.protocol.lower()], p.port) for p in part.ports}
        for source in [*ends, outside]:
            if source is target:
                continue
            for protocol, port in ports:
                if (group_of(before, source), group_of(before, target), protocol, port) in mine:
                    continue
                flow = Flow(source, target, protocol, port)
                one, other = (decide(index, flow).says is Says.ALLOWED for index in (before, after))
                opens += other and not one
                closes += one and not other
    return opens, closes


def test_what_else_changes_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy for all pods of a namespace closes flows: as many as the twin counts, and not zero."""
    tracer = Tracer(cluster_of({}, tmp_path, monkeypatch))
    row = next(row for row in ROWS if row["name"] == "deny all")
    after = PolicyIndex(cluster_of(row, tmp_path, monkeypatch), tracer.policies.dialect, tracer.policies.node_by_ip)
    asked_before = Request("web-0", "svc/api")
    mine = frozenset({("default/web", "default/api", TCP, 9000)})
    found = effect(tracer.policies, after, mine)
    assert (found.opens, found.closes) == counted(tracer, after, asked_before)
    assert found.closes == sum(flows.flows for flows in found.changed) > 0
    assert effect(tracer.policies, tracer.policies).weight == 0


@pytest.mark.parametrize(("topology", "others"), [("calico", "also opens 2 other flows"), ("flannel", "no other flow changes")])
def test_only_what_is_enforced_is_counted(topology: str, others: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label opens flows of a policy by the way; where nobody enforces the policy, it does not."""
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selector: {app: db, role: x}, ports: [{port: 5432}]}\n"
    policy = (
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n"
        "spec:\n  podSelector: {matchLabels: {app: api}}\n"
        "  ingress: [{from: [{podSelector: {matchLabels: {role: x}}}], ports: [{port: 9100}]}]\n"
    )
    row = {"add": service + policy, "set": f"cni: {{name: {topology}}}"}
    why = explain(Tracer(cluster_of(row, tmp_path, monkeypatch)), Request("web-0", "svc/s")).why
    label = next(change for change in why.changes if change.kind == Kind.LABEL.value)
    assert label.what == "label role=x on Pod default/db"
    assert drawing.others(label.others).startswith(others)


def test_a_port_that_is_called_otherwise_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that allows port `pg` closes when the port gets another name."""
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n"
    service += "spec: {selector: {app: db}, ports: [{port: 1, targetPort: sql}]}\n---\n"
    policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n"
    policy += "  podSelector: {matchLabels: {app: db}}\n"
    policy += "  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}, {ports: [{port: pg}]}]\n"
    tracer = Tracer(cluster_of({"add": service + policy}, tmp_path, monkeypatch))
    found = explain(tracer, Request("web-0", "svc/s"))
    named = next(n for n, change in enumerate(found.why.changes) if change.kind == Kind.PORT.value)
    after = PolicyIndex(apply(tracer.cluster, found.candidates[named].edits), tracer.policies.dialect, tracer.policies.node_by_ip)
    others = found.why.changes[named].others
    assert (others.opens, others.closes) == counted(tracer, after, Request("web-0", "svc/s"))
    assert others.closes > 0


@pytest.mark.parametrize(
    ("change", "arguments", "says", "then"),
    [
        (
            "",
            ["web-0", "api-1:9000", "--family", "6", "--size", "1490"],
            "The packet is too long for flannel-v6.1 on node-1: 1450 bytes, and its MTU is 1430.",
            "send a packet of usual size",
        ),
        (
            "sysctls: {net.bridge.bridge-nf-call-iptables: 0}\n",
            ["web-0", "svc/api"],
            "pod default/api-0: The request arrives at 10.244.0.11:9000, but the reply dies on default/web-0",
            "take net.bridge.bridge-nf-call-iptables=0 from the nodes",
        ),
        (
            "-A FORWARD -p tcp -m tcp --dport 9000 -j DROP",
            ["web-0", "api-1:9000"],
            "dropped on node-1 by filter FORWARD rule 1. -A FORWARD -p tcp -m tcp --dport 9000 -j DROP (node-1/iptables-save:5)",
            "No single change flips it.",
        ),
    ],
    ids=["mtu", "reply", "rule"],
)
def test_where_the_packet_or_its_answer_ends(
    change: str,
    arguments: list[str],
    says: str,
    then: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "topologies" / "flannel-vxlan.yaml").read_text()
    Path("t.yaml").write_text(text.replace("\ncni:", f"\n{change}cni:", 1) if change.startswith("sysctls") else text)
    if change.startswith("-A"):
        Path("node-1").mkdir()
        chains = "".join(f":{name} ACCEPT [0:0]\n" for name in ("INPUT", "FORWARD", "OUTPUT"))
        Path("node-1", "iptables-save").write_text(f"*filter\n{chains}{change}\nCOMMIT\n")
        arguments = [*arguments, "--observed", "node-1=node-1"]
    assert main(["why", *arguments, "-q", "-f", "t.yaml"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert says in said
    assert then in said


def test_nodes_that_do_not_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """calico-bgp without its BGPPeers: no route leads to the other node's pods until the mesh is on."""
    documents = (ROOT / "topologies" / "calico-bgp.yaml").read_text().split("\n---\n")
    file = tmp_path / "no-peers.yaml"
    file.write_text("\n---\n".join(d for d in documents if "kind: BGPPeer" not in d and "Policy\n" not in d))
    why = explain(Tracer(load([str(file)])), Request("web-0", "api-1:9000")).why
    assert why.answer is Answer.NO
    assert (
        why.changes[0].what == "let all nodes peer with each other: set nodeToNodeMeshEnabled of BGPConfiguration default to true"
    )


# --- labels --------------------------------------------------------------------------------------------------


def test_labels_of_a_workloads_selector_are_never_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_of({}, tmp_path, monkeypatch)
    web, db = cluster.pods["default/web-0"], cluster.pods["default/db"]
    assert relabel(cluster, web, {"app": "front"}) is None
    assert relabel(cluster, web, {"app": None}) is None
    assert relabel(cluster, web, {"app": "web"}) is None, "nothing changes"
    assert relabel(cluster, web, {"apps.kubernetes.io/pod-index": "7"}) is None, "the controller writes it"
    added = relabel(cluster, web, {"role": "front"})
    assert added is not None
    assert [
        cluster_pod.labels["role"] for cluster_pod in apply(cluster, added.edits).pods.values() if "role" in cluster_pod.labels
    ] == [
        "front",
        "front",
    ]
    assert relabel(cluster, db, {"app": "front"}) is not None, "a bare pod may be called anything"


def test_identity_is_one_label_where_one_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_of({}, tmp_path, monkeypatch)
    assert identity(cluster, cluster.pods["default/api-0"]) == {"app": "api"}
    assert identity(cluster, cluster.pods["kube-system/dns"]) == {"k8s-app": "kube-dns"}


@pytest.mark.parametrize(
    ("selector", "labels", "changes"),
    [
        (LabelSelector({"app": "web"}), {"app": "web"}, {}),
        (LabelSelector({"app": "web"}), {"app": "api"}, {"app": "web"}),
        (LabelSelector({}, (("env", "In", ("prod", "test")),)), {"env": "dev"}, {"env": "prod"}),
        (LabelSelector({}, (("env", "NotIn", ("dev",)),)), {"env": "dev"}, {"env": None}),
        (LabelSelector({}, (("env", "Exists", ()),)), {}, {"env": "true"}),
        (LabelSelector({}, (("env", "DoesNotExist", ()),)), {"env": ""}, {"env": None}),
    ],
)
def test_fewest_labels_that_make_a_selector_hold(
    selector: LabelSelector, labels: dict[str, str], changes: dict[str, Any]
) -> None:
    assert wanted(selector, labels) == changes


# --- the command ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["web-0", "svc/api"], 0, "  yes  No policy selects web-0 for egress or api-0 for ingress."),
        (["web-0", "svc/nobody"], 0, "  no  Service default/nobody (topologies/flannel-vxlan.yaml:"),
        (["wbe-0", "svc/api"], 2, 'did you mean "web-0" or "web-1"?'),
        (["web-0", "svc/apo"], 2, 'did you mean "api"?'),
        (["web-0", "svc/api:81"], 2, "its ports: 80/TCP (http)"),
        (["web-0", "10.96.0.20"], 2, "has no port"),
        (["web-0", "svc/api", "--at", "node-1"], 2, "is inside the cluster"),
        (["web-0", "svc/api", "-o", "xml"], 2, "xml"),
        (["web-0"], 2, "`netlab why --help` shows how"),
    ],
)
def test_the_command(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["why", *arguments, "-q"]) == code
    said = capsys.readouterr()
    assert says in (said.err if code == 2 else said.out)


def test_unknown_is_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    row = next(row for row in ROWS if row["answer"] == "unknown")
    cluster_of(row, tmp_path, monkeypatch)
    assert main(["why", *row["ask"].split(), "-q", "-f", "base.yaml", "-f", "p.yaml"]) == 3
    assert "changes" not in capsys.readouterr().out


@pytest.mark.parametrize("row", ROWS[::4], ids=[row["name"] for row in ROWS[::4]])
def test_text_json_and_yaml(
    row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster_of(row, tmp_path, monkeypatch)
    source, destination, *protocol = row["ask"].split()
    arguments = ["why", source, destination, "-q", "-f", "base.yaml", "-f", "p.yaml"]
    arguments += ["--proto", protocol[0]] if protocol else []
    main([*arguments, "-o", "json"])
    told = json.loads(capsys.readouterr().out)
    assert main(["schema", "why"]) == 0
    jsonschema.validate(told, json.loads(capsys.readouterr().out))
    main([*arguments, "-o", "yaml"])
    assert yaml.safe_load(capsys.readouterr().out) == told
    main(arguments)
    text = capsys.readouterr().out
    copied = {line for change in told["changes"] for line in (*change["patch"].splitlines(), *change["command"].splitlines())}
    long = [
        line
        for line in text.splitlines()
        if len(line) > 80 and line.strip().removeprefix("$ ") not in {c.strip() for c in copied}
    ]
    assert long == []
    main([*arguments, "-o", "wide", "--color", "always"])
    painted = capsys.readouterr().out
    assert "\x1b[" in painted
    for change in told["changes"]:
        assert change["command"].splitlines() == [line for line in change["command"].splitlines() if line in painted]


def test_what_stands_on_a_node_is_not_what_is_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dump that drops everything: the declared cluster works, so no object is at fault."""
    monkeypatch.chdir(ROOT)
    dump = tmp_path / "node-1"
    dump.mkdir()
    (dump / "iptables-save").write_text("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")
    assert main(["why", "web-0", "api-1:9000", "-q", "--observed", f"node-1={dump}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "What should be on the nodes says yes: the dumps differ from it" in said
    assert "No single change flips it." in said


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(EXAMPLE.sub(lambda m: m[1] + printed(m[2]) + m[4], each.read_text()))
