"""`netlab serve` in a real browser: a trace, an unknown pod, another mode, an edited policy, a cell of the matrix."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from netlab.kube.documents import read_documents
from netlab.kube.topology import Overrides
from netlab.serve.app import application
from netlab.serve.served import Served

ROOT = Path(__file__).resolve().parents[2]
CANAL = str(ROOT / "topologies" / "canal.yaml")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server on this machine, in this process."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    host = f"127.0.0.1:{listening.getsockname()[1]}"
    served = Served(list(read_documents([CANAL])), [CANAL], Overrides())
    config = uvicorn.Config(application(served, frozenset([host])), log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://{host}/"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda e: wrong.append(str(e)))
    tab.on("request", lambda r: wrong.append(r.url) if not r.url.startswith((address, "data:")) else None)
    tab.goto(address)
    tab.wait_for_selector(".row.now")
    yield tab
    assert wrong == []
    context.close()


def ask(tab: Any, source: str, destination: str) -> None:
    tab.fill("input >> nth=0", source)
    tab.fill("input >> nth=1", destination)
    tab.click("form button.go")


def verdict(tab: Any, word: str) -> None:
    tab.wait_for_selector(f".summary .verdict.{word}")


def test_a_trace_and_its_steps(tab: Any) -> None:
    ask(tab, "web-0", "api-1:9000")
    verdict(tab, "delivered")
    tab.keyboard.press("Escape")
    tab.click(".row >> nth=0")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text(".count").startswith("2 of")


def test_an_unknown_pod_is_one_sentence(tab: Any) -> None:
    ask(tab, "wbe-0", "api-1:9000")
    tab.wait_for_selector(".error:not([hidden])")
    assert 'did you mean "web-0"' in tab.inner_text(".error")
    ask(tab, "web-0", "api-1:9000")
    verdict(tab, "delivered")
    tab.wait_for_selector(".error", state="hidden")


def test_another_mode_is_another_path(tab: Any) -> None:
    ask(tab, "web-0", "svc/api")
    verdict(tab, "delivered")
    assert "KUBE-SVC" in tab.inner_text(".list")
    tab.select_option("select[aria-label=kube-proxy]", "nftables")
    tab.locator(".list:not(:has-text('KUBE-SVC'))").wait_for()
    verdict(tab, "delivered")


def test_an_edited_policy_changes_trace_and_matrix(tab: Any) -> None:
    ask(tab, "api-0", "api-1:9000")
    verdict(tab, "dropped")
    tab.click("nav >> text=Policies")
    tab.click("text=NetworkPolicy default/api")
    area = tab.locator("textarea")
    assert "kind: NetworkPolicy" in area.input_value()
    area.fill(area.input_value().replace("podSelector", "podSelector:\n  broken", 1))
    tab.click("text=Apply")
    tab.wait_for_selector(".error:not([hidden])")
    assert "edit" in tab.inner_text(".error")
    tab.click("text=Discard all edits")
    verdict(tab, "dropped")
    tab.click("nav >> text=Policies")
    tab.click("text=NetworkPolicy default/api")
    tab.click("text=Take it out")
    verdict(tab, "delivered")
    assert "1 edited" in tab.inner_text(".edited")
    tab.click("nav >> text=Matrix")
    tab.wait_for_selector("table")
    before = tab.inner_text("table")
    tab.click("nav >> text=Policies")
    tab.click("text=Discard all edits")
    verdict(tab, "dropped")
    tab.click("nav >> text=Matrix")
    tab.wait_for_selector("table")
    assert tab.inner_text("table") != before


def test_a_cell_opens_its_trace(tab: Any) -> None:
    tab.click("nav >> text=Matrix")
    tab.wait_for_selector("table")
    tab.click("td button.no >> nth=0")
    tab.wait_for_selector(".summary .verdict")
    assert "dropped" in tab.inner_text(".summary") or "rejected" in tab.inner_text(".summary")
