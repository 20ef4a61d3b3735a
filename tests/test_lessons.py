"""The lessons run from top to bottom, and what each says of itself in "Check yourself" is what the cluster does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from netlab.cli import learn
from netlab.cli.main import main
from netlab.learn import classroom, marked, opinion

LESSONS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.py"))


def run(path: Path) -> dict[str, Any]:
    """Every cell of a notebook; what they have defined."""
    pytest.importorskip("marimo", reason="lessons need marimo: pip install 'netlab-k8s[notebook]'")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _, defined = module.app.run()
    return dict(defined)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_true(path: Path) -> None:
    defined = run(path)
    assert defined["checks"]
    for question, options, right, holds in defined["checks"]:
        assert question.endswith("?")
        assert 0 <= right < len(options) > 1
        assert holds, question


def test_a_lesson_that_says_no_is_seen() -> None:
    assert classroom(cni="canal").trace("web-0", "api-0:9000").verdict == "delivered"
    deny = run(next(path for path in LESSONS if path.stem.startswith("04")))["DENY"]
    assert classroom(cni="canal", add=deny).trace("web-0", "api-0:9000").verdict == "dropped"


def test_what_is_said_of_answers() -> None:
    marimo = pytest.importorskip("marimo", reason="lessons need marimo: pip install 'netlab-k8s[notebook]'")
    asked = ["yes", "no"]
    assert opinion(marimo.ui.radio(asked), 1) == ""
    assert opinion(marimo.ui.radio(asked, value="no"), 1) == "You were right. "
    assert opinion(marimo.ui.radio(asked, value="yes"), 1) == "You thought otherwise. "
    checks = [("a?", asked, 0, True), ("b?", asked, 0, True), ("c?", asked, 1, True)]
    assert marked(checks, ["yes", "no", None]) == "- right\n- not so: yes"


def test_the_widget() -> None:
    pytest.importorskip("anywidget", reason="the widget needs anywidget: pip install 'netlab-k8s[notebook]'")
    widget = classroom().trace("web-0", "svc/api").widget()
    assert widget.page["kind"] == "Page"
    assert "netlabPage" in widget._esm


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["learn"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == len(LESSONS) == 12
    assert rows[1] == " 2  Across nodes, in a tunnel"
    asked: list[list[str]] = []
    monkeypatch.setattr(
        learn.subprocess, "run", lambda command, check: asked.append(command) or type("Done", (), {"returncode": 0})
    )
    assert main(["learn", "2"]) == 0
    assert asked[0][-2:] == ["run", str(LESSONS[1])]
    assert main(["learn", "99"]) == 2
    assert "lists 1 to 12" in capsys.readouterr().err
