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


def test_every_cell_is_what_the_traces_of_its_pairs_say(tracer: Tracer, whole) -> None:  # type: ignore[no-untyped-def]
    """Asked once more, pair by pair, by the names that a user would type."""
    checked = 0
    members = {group.name: group.pods for group in groups(tracer.cluster, "workloads")}
    for row in whole.cells:
        for c in row:
            column = c.destination
            targets = members.get(column.name) if column.kind == "pods" else (column.name,)
            verdicts = [
                tracer.trace(Request(s, f"{t}:{column.port}", protocol=column.protocol.lower())).verdict
                for s in members[c.source]
                for t in targets or ()
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
