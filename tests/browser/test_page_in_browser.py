"""The page of a trace in a real browser: stepped through by keyboard, linked to, filtered, quizzed; silent, and on its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netlab.kube import generate
from netlab.kube.load import load
from netlab.render.html import document, module, style
from netlab.render.page import page, to_json
from netlab.trace.query import Request, Tracer

ROOT = Path(__file__).resolve().parents[2]
FLANNEL = str(ROOT / "topologies" / "flannel-vxlan.yaml")


def written(folder: Path, source: str, destination: str, *files: str) -> Path:
    """The page of a trace, in a file."""
    trace, network = Tracer(load(list(files or (FLANNEL,)))).traced(Request(source, destination))
    made = page(trace, network)
    path = folder / "trace.html"
    path.write_text(document(to_json(made), made.title, made.summary), encoding="utf-8")
    return path


class Opened:
    """A page in a tab of its own, and what it did that it should not."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, **more: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce", **more)
        self.tab = self.context.new_page()
        self.wrong: list[str] = []
        self.tab.on("console", lambda m: self.wrong.append(m.text) if m.type in ("error", "warning") else None)
        self.tab.on("pageerror", lambda e: self.wrong.append(str(e)))
        self.tab.on("request", lambda r: self.wrong.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
        self.path = path
        self.go()

    def go(self, hash_: str = "") -> None:
        self.tab.goto("about:blank")
        self.tab.goto(f"file://{self.path}{hash_}")
        self.tab.wait_for_selector(".row.now")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.tab.keyboard.press(key)

    def text(self, selector: str) -> str:
        return str(self.tab.inner_text(selector))

    @property
    def step(self) -> tuple[int, int]:
        found = re.match(r"(\d+) of (\d+)", self.text(".count"))
        assert found
        return int(found[1]), int(found[2])


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Opened]]:
    made: list[Opened] = []

    def open_(*given: Any, **more: Any) -> Opened:
        made.append(Opened(browser, *given, **more))
        return made[-1]

    yield open_
    for each in made:
        assert each.wrong == []
        each.context.close()


def test_every_step_by_keyboard(opened: Callable[..., Opened], tmp_path: Path) -> None:
    shown = opened(written(tmp_path, "web-0", "svc/api"))
    assert "delivered" in shown.text(".summary")
    shown.press("b")  # to the endpoint on another node
    assert shown.tab.get_attribute(".tab >> nth=1", "aria-selected") == "true"
    _, steps = shown.step
    assert steps > 30
    seen = [shown.text(".stagename")]
    shown.press("Home")
    for n in range(2, steps + 1):
        shown.press("ArrowRight")
        assert shown.step == (n, steps)
        seen.append(shown.text(".stagename"))
        assert shown.text("[aria-live]").startswith(f"Step {n} of {steps}")
    assert any("encap" in stage for stage in seen)
    assert any("decap" in stage for stage in seen)
    assert "delivered" in seen[-1]
    shown.press("ArrowLeft", "ArrowLeft")
    assert shown.step == (steps - 2, steps)
    shown.press("r")
    assert shown.tab.get_attribute(".ways .toggle >> nth=1", "aria-pressed") == "true"
    assert shown.step[0] == 1


def test_a_packet_grows_by_its_tunnel(opened: Callable[..., Opened], tmp_path: Path) -> None:
    shown = opened(written(tmp_path, "web-0", "svc/api"))
    shown.press("b")
    sizes = []
    for _ in range(shown.step[1]):
        found = re.search(r"(\d+) bytes", shown.text(".side .packet h3"))
        assert found
        sizes.append(int(found[1]))
        shown.press("ArrowRight")
    assert {74, 124} <= set(sizes)  # a SYN of 60 bytes in Ethernet; the same in VXLAN: 50 more


def test_the_address_names_the_step(opened: Callable[..., Opened], tmp_path: Path) -> None:
    shown = opened(written(tmp_path, "web-0", "svc/api"))
    shown.press("b", "ArrowRight", "ArrowRight")
    at = shown.tab.evaluate("location.hash")
    stage = shown.text(".stagename")
    shown.go(at)
    assert shown.text(".stagename") == stage
    assert shown.tab.get_attribute(".tab >> nth=1", "aria-selected") == "true"
    shown.go("#branch=99&way=nonsense&step=9999")
    assert shown.step[0] == shown.step[1]


def test_the_quiz_hides_and_reveals(opened: Callable[..., Opened], tmp_path: Path) -> None:
    shown = opened(written(tmp_path, "web-0", "svc/api"))
    shown.press("q")
    assert "quiz" in shown.text(".summary")
    assert "delivered" not in shown.text(".netlab header")
    asked = 0
    for _ in range(shown.step[1] * 2):
        if shown.tab.query_selector(".quiz .ask"):
            if shown.tab.query_selector(".quiz .choice:not([disabled])"):
                shown.press("1")
                assert shown.tab.query_selector(".quiz .choice.right")
                asked += 1
            elif "Reveal" in shown.text(".quiz"):
                shown.press("Enter")
        if shown.step[0] == shown.step[1]:
            break
        shown.press("ArrowRight")
    assert asked >= 3
    assert f"of {asked} right" in shown.text(".score")
    shown.press("q")
    assert "delivered" in shown.text(".summary")


def test_the_filter(opened: Callable[..., Opened], tmp_path: Path) -> None:
    shown = opened(written(tmp_path, "web-0", "svc/api"))
    every = shown.step[1]
    shown.press("/")
    shown.tab.keyboard.type("dnat")
    visible = shown.tab.eval_on_selector_all(".row", "rows => rows.filter(r => !r.hidden).map(r => r.innerText)")
    assert 0 < len(visible) < every / 2
    assert all("dnat" in row.lower() for row in visible if "DNAT" in row)
    shown.press("Escape")
    assert not shown.tab.query_selector(".row[hidden]")


def test_a_denial_shows_its_line(opened: Callable[..., Opened], tmp_path: Path) -> None:
    shown = opened(written(tmp_path, "api-0", "api-1", str(ROOT / "topologies" / "canal.yaml")))
    assert "dropped" in shown.text(".summary")
    shown.press("End")
    assert "canal.yaml" in shown.text(".side") + shown.text(".summary")
    while shown.step[0] > 1 and not ("cali-tw-" in shown.text(".side") and shown.tab.query_selector(".side details")):
        shown.press("ArrowLeft")
    assert "canal.yaml:" in shown.text(".side .ref")
    shown.tab.click(".side details summary")
    shown.tab.wait_for_selector(".tried .line.matched")


def test_names_are_never_markup(opened: Callable[..., Opened], tmp_path: Path) -> None:
    """Names of pods, files and comments of rules that would be elements, if they were not data."""
    attack = "<img src=x onerror=document.title=1>"
    pod = f"""
---
apiVersion: v1
kind: Pod
metadata: {{name: "{attack}", namespace: default, labels: {{app: evil}}}}
spec: {{nodeName: node-2, containers: [{{name: c, ports: [{{containerPort: 80}}]}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: evil, namespace: default}}
spec: {{selector: {{app: evil}}, ports: [{{port: 80, name: "</script><script>document.title=2</script>"}}]}}
"""
    file = tmp_path / "<script>document.title=3<!--.yaml"
    file.write_text(Path(FLANNEL).read_text() + pod)
    path = written(tmp_path, "web-0", "svc/evil", str(file))
    text = path.read_text()
    assert text.count("</script>") == 3
    assert "<img" not in text
    shown = opened(path)
    assert attack in shown.text(".netlab header")
    for _ in range(shown.step[1]):
        shown.press("ArrowRight")
    assert shown.tab.query_selector(".netlab img, .netlab script") is None
    assert shown.tab.title() not in ("1", "2", "3")


@pytest.mark.parametrize("width", [375, 1280, 2560])
def test_nothing_is_wider_than_the_window(width: int, opened: Callable[..., Opened], tmp_path: Path) -> None:
    shown = opened(written(tmp_path, "web-0", "svc/api"), width, color_scheme="dark")
    assert shown.tab.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.tab.evaluate("document.querySelectorAll('canvas').length") > 0


def test_a_page_of_a_thousand_pods_is_quick(opened: Callable[..., Opened], tmp_path: Path) -> None:
    """What docs/performance.md reports; printed (pytest -s), not asserted: machines differ."""
    wanted = generate.Wanted(pods=1000, services=60, policies=0, nodes=50, shape="uniform", seed=1, cni="flannel")
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(generate.generate(wanted))}))
    cluster = load([str(file)])
    service = next(iter(cluster.services))
    pod = next(iter(cluster.pods.values()))
    path = written(tmp_path, f"{pod.namespace}/pod/{pod.name}", service.replace("/", "/svc/"), str(file))
    shown = opened(path)
    paint = shown.tab.evaluate("performance.getEntriesByType('paint').map(e => Math.round(e.startTime))")
    times = []
    for _ in range(shown.step[1] - 1):
        shown.press("ArrowRight")
        times.append(shown.tab.evaluate("netlabPage.current.lastStepMs"))
    assert len(times) > 10
    assert all(time > 0 for time in times)
    boxes = shown.tab.evaluate("JSON.parse(document.getElementById('netlab-data').textContent).graphs.map(g => g.boxes.length)")
    assert max(boxes) < 60
    middle = sorted(times)[len(times) // 2]
    print(f"\npage: {path.stat().st_size} bytes; first paint {paint} ms; a step {middle:.1f} ms, at most {max(times):.1f} ms")


def test_a_notebook_mounts_the_same_bundle(browser: Any) -> None:
    """As anywidget does it, in a page that has a module loader of its own (`define`), as notebooks have."""
    trace, network = Tracer(load([FLANNEL])).traced(Request("web-0", "svc/api"))
    context = browser.new_context(reduced_motion="reduce")
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda e: wrong.append(str(e)))
    rows, at, left = tab.evaluate(
        """async ([code, sheet, data]) => {
          globalThis.define = () => { throw new Error("the notebook's loader was asked"); };
          globalThis.define.amd = {};
          const style = document.createElement("style");
          style.textContent = sheet;
          document.head.appendChild(style);
          const el = document.body.appendChild(document.createElement("div"));
          const widget = await import(URL.createObjectURL(new Blob([code], {type: "text/javascript"})));
          const traits = {page: JSON.parse(data)};
          const model = {get: (k) => traits[k], set: (k, v) => { traits[k] = v; }, save_changes() {}, on() {}};
          const stop = widget.default.render({model, el});
          el.querySelector('[aria-label^="Next"]').click();
          const rows = el.querySelectorAll(".row").length;
          stop();
          return [rows, traits.at, el.children.length];
        }""",
        [module(), style(), to_json(page(trace, network)).decode()],
    )
    assert wrong == []
    assert rows > 10
    assert at == {"branch": 0, "way": "request", "step": 1}
    assert left == 0
    context.close()
