"""The page's value and its drawing: all that is lit is there, nothing overlaps, big clusters stay small, data is data."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from netlab.cli.main import main
from netlab.kube import generate
from netlab.kube.load import load
from netlab.render.html import document, embed, module, script, style
from netlab.render.layout import Layout, everything, layout
from netlab.render.page import Page, page, to_json
from netlab.render.svg import graph_html, graph_svg
from netlab.trace.query import Request, Tracer

ROOT = Path(__file__).resolve().parent.parent
TOPOLOGIES = ROOT / "topologies"
FLOWS = [
    ("flannel-vxlan.yaml", "web-0", "svc/api"),
    ("flannel-vxlan.yaml", "web-0", "api-headless"),
    ("flannel-vxlan.yaml", "internet", "node/node-2:30080"),
    ("flannel-vxlan.yaml", "web-0", "internet:443"),
    ("flannel-vxlan.yaml", "agent-1", "svc/api"),
    ("flannel-vxlan.yaml", "api-0", "svc/api"),
    ("flannel-vxlan.yaml", "web-0", "svc/nobody"),
    ("flannel-host-gw.yaml", "web-0", "svc/api"),
    ("calico-bgp.yaml", "web-0", "api-1:9000"),
    ("calico-bgp.yaml", "api-0", "api-1:9000"),
    ("calico-vxlan.yaml", "web-0", "svc/api"),
    ("canal.yaml", "api-0", "api-1:9000"),
]


def page_of(file: str, source: str, destination: str) -> Page:
    trace, network = Tracer(load([str(TOPOLOGIES / file)])).traced(Request(source, destination))
    return page(trace, network)


@pytest.fixture(scope="module", params=FLOWS, ids=lambda flow: " ".join(flow))
def made(request: pytest.FixtureRequest) -> Page:
    return page_of(*request.param)


def test_everything_that_is_lit_is_drawn(made: Page) -> None:
    for branch in made.branches:
        graph = made.graphs[branch.graph]
        boxes, wires = {box.id for box in graph.boxes}, {wire.id for wire in graph.wires}
        for way in filter(None, (branch.request, branch.reply)):
            assert way.events
            for event in (made.events[n] for n in way.events):
                assert event.at in boxes
                assert set(event.on) <= wires
                assert set(event.lit) <= boxes | wires
                assert event.card < len(made.cards)
                assert event.decides is None or event.decides < len(event.rules)
                assert event.quiz is None or not event.quiz.choices or event.quiz.answer in event.quiz.choices


def test_nothing_lies_upon_another(made: Page) -> None:
    for graph in made.graphs:
        no_overlap(graph)


def no_overlap(graph: Layout) -> None:
    for box in graph.boxes:
        assert box.x - box.w / 2 >= -0.01, box
        assert box.x + box.w / 2 <= graph.width + 0.01, box
    solid = [box for box in graph.boxes if box.kind not in ("machine", "port", "segment")]
    for one, other in combinations(solid, 2):
        apart = abs(one.x - other.x) >= (one.w + other.w) / 2 - 0.01 or abs(one.y - other.y) >= (one.h + other.h) / 2 - 0.01
        assert apart, (one, other)


def test_a_tunnel_adds_fifty_bytes() -> None:
    made = page_of("flannel-vxlan.yaml", "web-0", "svc/api")
    [branch] = [b for b in made.branches if b.label == "api-1"]
    sizes = [made.cards[made.events[n].card].size for n in branch.request.events if made.events[n].stage.startswith("out")]
    assert sizes == [74, 124, 74]  # out of the pod, onto the fabric, into the other pod


def test_a_thousand_pods_are_a_badge() -> None:
    wanted = generate.Wanted(pods=1000, services=60, policies=100, nodes=50, shape="uniform", seed=1)
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(generate.generate(wanted))})
    cluster = load(["-"], io.StringIO(text))
    first, *_, last = cluster.pods.values()
    ends = [f"{pod.namespace}/pod/{pod.name}" for pod in (first, last)]
    trace, network = Tracer(cluster).traced(Request(ends[0], f"{ends[1]}:8080"))
    made = page(trace, network)
    for graph in made.graphs:
        assert len(graph.boxes) < 40
        no_overlap(graph)
    assert len(to_json(made)) < 400_000


def test_the_document_is_whole_and_small() -> None:
    made = page_of("flannel-vxlan.yaml", "web-0", "svc/api")
    text = document(to_json(made), made.title, made.summary)
    assert len(text.encode()) < 1_000_000
    assert "{{" not in text.replace(script(), "").replace(style(), "")
    assert "http://" not in style()
    assert "default-src &#x27;none&#x27;" in text
    data = text[text.index('id="netlab-data">') + len('id="netlab-data">') :].split("</script>", 1)[0]
    assert json.loads(data)["kind"] == "Page"
    assert "export default" in module()


def test_no_text_ends_its_block() -> None:
    evil = "</script><script>alert(1)</script><!-- \u2028 &"
    assert json.loads(embed(json.dumps([evil]))) == [evil]
    assert not set("<>&\u2028") & set(embed(json.dumps([evil])))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "web-0", "svc/api", "-o", "html", "-q"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")
    assert main(["trace", "api-0", "api-1", "-o", "html", "-q", "-f", str(TOPOLOGIES / "canal.yaml")]) == 1
    assert main(["trace", "web-9", "svc/api", "-o", "html", "-q"]) == 2
    assert capsys.readouterr().out.count("<!doctype html>") == 1


@pytest.mark.parametrize("file", sorted({flow[0] for flow in FLOWS}))
def test_a_networks_picture(file: str) -> None:
    network = Tracer(load([str(TOPOLOGIES / file)])).network
    made = layout(network, everything(network))
    no_overlap(made)
    root = ET.fromstring(graph_svg(network, "a <b> & c"))
    assert root.attrib["aria-label"].startswith("a <b> & c: ")
    titles = {element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")}
    for name in network.namespaces:
        assert any(name in title for title in titles), name
    assert "<script" not in graph_html(network)


def test_names_in_a_picture_are_text() -> None:
    evil = "<img src=x onerror=alert(1)>"
    text = (TOPOLOGIES / "flannel-vxlan.yaml").read_text()
    pod = f'---\napiVersion: v1\nkind: Pod\nmetadata: {{name: "{evil}"}}\nspec: {{nodeName: node-2, containers: [{{name: c}}]}}\n'
    network = Tracer(load(["-"], io.StringIO(text + pod))).network
    assert "<img" not in graph_html(network)
    assert any(evil in (element.text or "") for element in ET.fromstring(graph_svg(network)).iter())


def test_a_short_reason_names_rule_comment_and_line() -> None:
    made = page_of("canal.yaml", "web-0", "api-1:80")
    assert "End of tier default" in made.summary
    assert "canal.yaml:117" in made.summary
    assert "-A " not in made.summary
    last = made.events[made.branches[0].request.events[-1]]
    assert last.stage == "DROPPED"
    assert "-j DROP" in last.rules[0].text


def test_rules_that_were_tried_are_bounded_and_in_order() -> None:
    made = page_of("flannel-vxlan.yaml", "web-0", "svc/api")
    walks = [event.tried for event in made.events if event.tried is not None]
    assert any(line.matched for tried in walks for line in tried.lines)
    for tried in walks:
        numbers = [(line.chain, line.number) for line in tried.lines]
        assert all(a[0] != b[0] or a[1] < b[1] for a, b in pairwise(numbers))
