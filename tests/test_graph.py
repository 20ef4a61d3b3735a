"""`netlab graph`: every form has every wire once, names stay data, and many pods are a number."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from netlab.cli.main import main
from netlab.kube.load import load
from netlab.linux.network import Network
from netlab.render.graph import dot, graph, mermaid, to_json
from netlab.trace.query import Tracer

ROOT = Path(__file__).resolve().parent.parent
TOPOLOGIES = sorted((ROOT / "topologies").glob("*.yaml"))


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.stem)
def test_every_wire_once(path: Path) -> None:
    network = Tracer(load([str(path)])).network
    found = graph(network)
    data = json.loads(to_json(found))
    names = {namespace["name"] for namespace in data["namespaces"]}
    assert names == set(network.namespaces)
    wires = sum(1 for n in data["namespaces"] for d in n["devices"] if d.get("peer")) // 2
    fabric = sum(1 for n in data["namespaces"] for d in n["devices"] if d.get("segment"))
    assert mermaid(found).count(" --- ") == wires + fabric
    ports = sum(1 for n in data["namespaces"] for d in n["devices"] if d.get("master"))
    assert mermaid(found).count(" -.- ") == ports == dot(found).count("[style=dotted]")
    assert dot(found).count(" -- ") == wires + fabric + ports


def test_graphviz_reads_it() -> None:
    if shutil.which("dot") is None:
        pytest.skip("there is no dot: apt-get install graphviz")
    text = dot(graph(Tracer(load([str(TOPOLOGIES[0])])).network))
    done = subprocess.run(["dot", "-Tsvg"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_are_data() -> None:
    evil = 'a"]; b --- c\n<script>'
    network = Tracer(load([str(ROOT / "topologies" / "flannel-vxlan.yaml")])).network
    node = next(iter(network.hosts or network.namespaces))
    spaces = {evil if name == node else name: netns for name, netns in network.namespaces.items()}
    hosts = tuple(evil if name == node else name for name in network.hosts)
    other: Network = replace(network, namespaces=spaces, hosts=hosts)
    for text in (mermaid(graph(other)), dot(graph(other))):
        assert "\n<script>" not in text
    assert "<script>" not in mermaid(graph(other))
    assert 'label="a\\"]; b --- c\\\\n<script>"' in dot(graph(other))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for form, begins in (
        ("mermaid", "flowchart TB"),
        ("dot", "graph network {"),
        ("json", "{"),
        ("svg", "<svg"),
        ("html", "<!doctype"),
    ):
        assert main(["graph", "-q", "-o", form]) == 0
        assert capsys.readouterr().out.startswith(begins)
    assert main(["graph", "-q", "--node", "node-1", "-o", "json"]) == 0
    part = json.loads(capsys.readouterr().out)
    assert [n["name"] for n in part["namespaces"] if n["kind"] != "pod"] == ["node-1"]
    assert main(["graph", "-q", "--node", "nod-1"]) == 2
    assert 'did you mean "node-1"' in capsys.readouterr().err


def test_many_pods_are_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--pods", "200", "--nodes", "4"]) == 0
    (tmp_path / "c.json").write_text(capsys.readouterr().out)
    assert main(["graph", "-f", str(tmp_path / "c.json"), "-o", "json"]) == 0
    out, err = capsys.readouterr()
    assert sum(n.get("pods", 0) for n in json.loads(out)["namespaces"]) == 200
    assert "200 pods are a number" in err
    assert main(["graph", "-f", str(tmp_path / "c.json"), "--pods", "-q"]) == 0
    assert capsys.readouterr().out.count("subgraph") > 200
