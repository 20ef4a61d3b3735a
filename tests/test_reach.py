"""`netlab reach`: the matrix says what single traces say, in every form, and compares itself with an expected one."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from netlab.cli.main import main
from netlab.errors import InputError
from netlab.kube.load import load
from netlab.reach.expected import compare, read_expected
from netlab.reach.matrix import Answer, columns, groups, matrix
from netlab.render import matrix as drawing
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Verdict

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = str(ROOT / "topologies" / "flannel-vxlan.yaml")
CLOSED = """
apiVersion: v1
kind: Pod
metadata: {name: lonely, namespace: default, labels: {app: lonely}}
spec: {nodeName: node-1, containers: [{name: a, ports: [{containerPort: 7000}]}]}
status: {phase: Running, podIPs: [{ip: 10.244.0.77}]}
---
apiVersion: v1
kind: Service
metadata: {name: half, namespace: default}
spec: {clusterIP: 10.96.0.200, internalTrafficPolicy: Local, selector: {app: lonely}, ports: [{port: 80, targetPort: 7000}]}
"""


@pytest.fixture(scope="module")
def tracer(tmp_path_factory: pytest.TempPathFactory) -> Tracer:
    extra = tmp_path_factory.mktemp("reach") / "half.yaml"
    extra.write_text(CLOSED)
    return Tracer(load([EXAMPLE, str(extra)]))


@pytest.fixture(scope="module")
def whole(tracer: Tracer):  # type: ignore[no-untyped-def]
    rows = groups(tracer.cluster, "workloads")
    return matrix(tracer, rows, columns(tracer, rows, services=True))


def cell(found, source: str, destination: str):  # type: ignore[no-untyped-def]
    return next(c for row in found.cells for c in row if (c.source, str(c.destination)) == (source, destination))


@pytest.mark.parametrize(
    ("source", "destination", "answer", "reason"),
    [
        ("default/web", "default/api:9000", Answer.YES, ""),
        ("default/web", "default/svc/nobody:80", Answer.NO, "has no endpoints"),
        ("default/web", "default/svc/half:80", Answer.SOME, "has no local endpoints"),
        ("default/lonely", "default/lonely:7000", Answer.YES, ""),  # itself is the only pair
        ("kube-system/dns-0", "kube-system/svc/kube-dns:53/UDP", Answer.YES, ""),
    ],
)
def test_what_a_cell_says(whole, source, destination, answer, reason) -> None:  # type: ignore[no-untyped-def]
    found = cell(whole, source, destination)
    assert (found.answer, reason in found.reason) == (answer, True), found


def families_of(tracer: Tracer, name: str) -> set[int]:
    if name in tracer.cluster.pods:
        return {ip.family for ip in tracer.cluster.pods[name].ips}
    return {ip.family for ip in tracer.cluster.services[name.replace("/svc/", "/")].cluster_ips}


def test_every_cell_is_what_the_traces_of_its_pairs_say(tracer: Tracer, whole) -> None:  # type: ignore[no-untyped-def]
    """Asked once more, pair by pair, by the names that a user would type."""
    checked = 0
    members = {group.name: group.pods for group in groups(tracer.cluster, "workloads")}
    for row in whole.cells:
        for c in row:
            column = c.destination
            targets = members.get(column.name) if column.kind == "pods" else (column.name,)
            verdicts = [
                tracer.trace(Request(s, f"{t}:{column.port}", protocol=column.protocol.lower(), family=family)).verdict
                for s in members[c.source]
                for t in targets or ()
                for family in sorted(families_of(tracer, s) & families_of(tracer, t)) or [None]
                if s != t or len(members[c.source]) == 1
            ]
            delivered = verdicts.count(Verdict.DELIVERED)
            expected = Answer.YES if delivered == len(verdicts) else Answer.SOME
            if not delivered and Verdict.PARTIAL not in verdicts:
                expected = Answer.NO
            assert c.answer is expected, (c, verdicts)
            assert (c.delivered, c.pairs) == (delivered, len(verdicts))
            checked += 1
    assert checked > 60


def test_every_form_has_the_same_cells(whole) -> None:  # type: ignore[no-untyped-def]
    cells = [(c.source, str(c.destination), c.answer) for row in whole.cells for c in row]
    as_json = json.loads(drawing.json(whole))
    assert [(c["source"], c["destination"], c["answer"]) for c in as_json["cells"]] == [(s, d, a.value) for s, d, a in cells]
    as_csv = list(csv.DictReader(io.StringIO(drawing.csv(whole))))
    assert [(c["source"], c["destination"], c["answer"]) for c in as_csv] == [(s, d, a.value) for s, d, a in cells]
    squares = ET.fromstring(drawing.svg(whole)).findall("{http://www.w3.org/2000/svg}g")
    assert len(squares) == len(cells)
    assert drawing.html(whole).count("<td class=") == len(cells)
    assert drawing.markdown(whole).count("**yes**") == sum(a is Answer.YES for *_, a in cells)
    assert drawing.dot(whole).count("->") > 10
    lines = drawing.text(whole).splitlines()
    assert next(line for line in lines if line.startswith("default/svc/nobody:80")).split()[1:] == ["."] * len(whole.sources)


def test_what_was_printed_is_as_expected(whole, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name, text in (("m.csv", drawing.csv(whole)), ("m.json", drawing.json(whole))):
        (tmp_path / name).write_text(text)
        assert compare(whole, read_expected(str(tmp_path / name))) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("source,destination,answer\nweb,api:80,yse\n", 'm.csv:2: unknown answer "yse"\n  did you mean "yes"?'),
        ("source,destination,answer\nweb,api:80\n", "m.csv:2: 2 fields, 3 are needed"),
        ("from,to\n", 'm.csv:1: no column "source"'),
        ("source,destination,answer\n", "m.csv: no cells: nothing would be compared"),
        ("", 'm.csv:1: no column "source"'),
        ("source,destination,answer\nweb,api:80,yes\nweb,api:80,no\n", "m.csv:3: web to api:80 twice"),
        ("[{]", "m.csv:1: not JSON"),
        ('{"a": 1}', 'm.csv: no "cells"'),
        ('{"cells": [{"source": 1}]}', "m.csv, cells[0]: a cell needs source"),
    ],
)
def test_expected_files_that_cannot_be_read(text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_expected("m.csv")
    assert str(caught.value).startswith(says)


def test_the_command_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "expected.csv"
    asked = ["reach", "default/", "to", "api", "-f", EXAMPLE, "-q"]
    assert main([*asked, "-o", "csv"]) == 0
    file.write_text(capsys.readouterr().out)
    assert main([*asked, "--expect", str(file)]) == 0
    assert capsys.readouterr().out.endswith("as expected\n")
    file.write_text(file.read_text().replace("default/web,default/api:9000,yes", "default/web,default/api:9000,no"))
    assert main([*asked, "--expect", str(file)]) == 1
    said = capsys.readouterr().out
    assert "default/web  default/api:9000  no        yes" in said
    assert "1 of 3 answers differ" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["weeb"], 'did you mean "web"'),
        (["nowhere/"], 'no pods in namespace "nowhere"'),
        (["web", "to"], '"to" without destinations'),
        (["--pods", "--namespaces"], "exclude each other"),
        (["svc/nobody"], "has no pods that could send"),
        (["--expect", "absent.csv"], "absent.csv: No such file"),
    ],
)
def test_bad_input_is_one_message(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reach", *arguments, "-f", EXAMPLE, "-q"]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.out == ""


# -- rows and columns by name --------------------------------------------------------------------------------------------


DNS = ("dns-0:53", "dns-0:53/UDP")
DNS_SERVICE = ("svc/kube-dns:53/UDP", "svc/kube-dns:53")


@pytest.mark.parametrize(
    ("words", "cells"),
    [
        ("web to api", ["default/web,default/api:9000,yes"]),
        ("web to svc/api", ["default/web,default/svc/api:80,yes"]),
        ("web to svc/api:http", ["default/web,default/svc/api:80,yes"]),
        ("web to api:9001", ["default/web,default/api:9001,no"]),
        ("web to web:http", ["default/web,default/web:8080,yes"]),
        ("web to kube-system/svc/kube-dns:53", [f"default/web,kube-system/svc/kube-dns:53{p},yes" for p in ("/UDP", "")]),
        ("web-0 to web --pods", ["default/web-0,default/web-0:8080,yes", "default/web-0,default/web-1:8080,yes"]),
        ("web to web-0 --pods", ["default/web-0,default/web-0:8080,yes", "default/web-1,default/web-0:8080,yes"]),
        ("internet to svc/web svc/nobody", ["internet,default/svc/web:80,yes", "internet,default/svc/nobody:80,no"]),
        ("web to internet", ["default/web,internet:443,yes"]),
        ("203.0.113.9 to svc/web", ["203.0.113.9,default/svc/web:80,yes"]),
        ("external/10.1.2.3 to svc/web", ["external/10.1.2.3,default/svc/web:80,yes"]),
        ("web to external/10.1.2.3:5432", ["default/web,external/10.1.2.3:5432,yes"]),
        ("web to 10.96.0.20:80", ["default/web,10.96.0.20:80,yes"]),
        ("node/node-1 10.244.0.10 to api", [f"{s},default/api:9000,yes" for s in ("node/node-1", "10.244.0.10")]),
        ("web to node/node-2:30080", ["default/web,node/node-2:30080,yes"]),
        ("agent to kube-system/", [f"default/agent,kube-system/{d},yes" for d in (*DNS, *DNS_SERVICE)]),
        ("agent to kube-system/ --no-services", [f"default/agent,kube-system/{d},yes" for d in DNS]),
    ],
)
def test_names_are_rows_and_columns(words: str, cells: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reach", *words.split(), "-q", "-f", EXAMPLE, "-o", "csv"]) == 0
    assert [",".join(line.split(",")[:3]) for line in capsys.readouterr().out.splitlines()[1:]] == cells


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("web:80 to api", "a source has none"),
        ("10.1.2.3 to svc/web", "is in none of the cluster's networks"),
        ("web to svc/api:81", "has no port 81"),
        ("web to web:nosuch", 'declares no port "nosuch"'),
        ("web to 192.0.2.1", "needs a port number"),
        ("web to node/node-1", "needs a port number"),
        ("web to node/node-9:80", 'unknown node "node-9"'),
        ("web to nowhere/", 'no pods in namespace "nowhere"'),
        ("web to http://x", "is a URL"),
    ],
)
def test_names_that_are_none(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reach", *words.split(), "-q", "-f", EXAMPLE]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.out == ""


def test_nothing_to_ask_is_not_as_expected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cluster that has lost all its pods must not pass."""
    empty, expected = tmp_path / "empty.yaml", tmp_path / "expected.csv"
    empty.write_text("apiVersion: netlab/v1\nkind: Topology\nmetadata: {name: t}\nnodes: [{name: node-1}]\n")
    expected.write_text("source,destination,answer\ndefault/web,default/api:9000,yes\n")
    assert main(["reach", "-q", "-f", str(empty), "--expect", str(expected)]) == 1
    assert "absent" in capsys.readouterr().out
    for form in ("text", "wide", "json", "csv", "md", "dot", "svg", "html"):
        assert main(["reach", "-q", "-f", str(empty), "-o", form]) == 0
        assert capsys.readouterr().out


def test_two_workloads_of_one_name_are_two_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = tmp_path / "both.yaml"
    pod = "spec: {containers: [{name: a, ports: [{containerPort: 80}]}]}"
    spec = f"{{selector: {{matchLabels: {{a: KIND}}}}, template: {{metadata: {{labels: {{a: KIND}}}}, {pod}}}}}"
    one = f"apiVersion: apps/v1\nkind: KIND\nmetadata: {{name: web}}\nspec: {spec}\n"
    both.write_text("---\n".join(one.replace("KIND", kind) for kind in ("Deployment", "StatefulSet")))
    assert main(["reach", "-q", "-f", str(both), "-o", "csv"]) == 0
    rows = [line.split(",")[:2] for line in capsys.readouterr().out.splitlines()[1:]]
    names = ("default/deploy/web", "default/sts/web")
    assert rows == [[a, f"{b}:80"] for a in names for b in names]


BOTH = """
apiVersion: netlab/v1
kind: Topology
metadata: {name: both}
nodes: [{name: n1, addresses: [192.168.50.11, "fd00:50::11"]}]
podCIDRs: [10.244.0.0/16, "fd00:244::/56"]
cni: {name: calico}
---
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: a}}
spec: {nodeName: n1, containers: [{name: c, ports: [{containerPort: 80}]}]}
status: {phase: Running, podIPs: [{ip: 10.244.1.2}, {ip: "fd00:244::1:2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: b}}
spec: {nodeName: n1, containers: [{name: c, ports: [{containerPort: 80}]}]}
status: {phase: Running, podIPs: [{ip: 10.244.1.3}, {ip: "fd00:244::1:3"}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}
"""


def test_both_families_are_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A policy that speaks of IPv4 alone closes IPv6, and to open that is a difference."""
    (tmp_path / "both.yaml").write_text(BOTH)
    (tmp_path / "more.yaml").write_text(BOTH.replace("0.0.0.0/0}}", '0.0.0.0/0}}, {ipBlock: {cidr: "::/0"}}'))
    assert main(["reach", "a", "to", "b", "-f", str(tmp_path / "both.yaml"), "-o", "wide"]) == 0
    said = capsys.readouterr().out
    assert "some (1 of 2)  IPv6: NetworkPolicy default/b selects b for ingress; denied" in said
    states = [str(tmp_path / name) for name in ("both.yaml", "more.yaml")]
    for order, word in ((states, "gained"), (states[::-1], "lost")):
        assert main(["diff", *order]) == 1
        assert f"default/a {word} default/b:80 over IPv6" in capsys.readouterr().out
