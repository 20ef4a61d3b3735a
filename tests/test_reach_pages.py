"""docs/reach.md shows what netlab prints, and the shop of topologies/online-boutique/ is what its policies intend.

    python tests/test_reach_pages.py        writes the page's transcripts again: read the difference before a commit
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from netlab.cli.main import main
from netlab.kube.load import load
from netlab.reach.matrix import Answer, columns, groups, matrix
from netlab.trace.query import Tracer

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reach.md"
SHOP = ROOT / "topologies" / "online-boutique"
PUBLISHED = ROOT.parent / "shared" / "reference" / "online-boutique"
TRANSCRIPT = re.compile(r"(```\n\$ netlab ([^\n]*?)(?: <<EOF\n(.*?)EOF)?\n)(.*?)(```\n)", re.DOTALL)

CALLS = {  # who calls whom, and on which port of its pods: what cluster.yaml draws
    "adservice": (9555, {"frontend"}),
    "cartservice": (7070, {"frontend", "checkoutservice"}),
    "checkoutservice": (5050, {"frontend"}),
    "currencyservice": (7000, {"frontend", "checkoutservice"}),
    "emailservice": (8080, {"checkoutservice"}),
    "paymentservice": (50051, {"checkoutservice"}),
    "productcatalogservice": (3550, {"frontend", "checkoutservice", "recommendationservice"}),
    "recommendationservice": (8080, {"frontend"}),
    "redis-cart": (6379, {"cartservice"}),
    "shippingservice": (50051, {"frontend", "checkoutservice"}),
}


def printed(command: str, stdin: str | None) -> str:
    """What a command prints on stdout, run where a clone's folder is."""
    out, before, keyboard = io.StringIO(), Path.cwd(), sys.stdin
    os.chdir(ROOT)
    sys.stdin = io.StringIO(stdin or "")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            assert main(shlex.split(command)) in (0, 1)
    finally:
        os.chdir(before)
        sys.stdin = keyboard
    return out.getvalue()


@pytest.mark.parametrize("found", list(TRANSCRIPT.finditer(PAGE.read_text())), ids=lambda m: m[2][:60])
def test_the_page_shows_what_netlab_prints(found: re.Match[str]) -> None:
    assert found[4] == printed(found[2], found[3])


def test_the_page_has_transcripts() -> None:
    assert len(TRANSCRIPT.findall(PAGE.read_text())) == 7


def cells(*paths: Path) -> dict[tuple[str, str], Answer]:
    tracer = Tracer(load([str(p) for p in paths]))
    rows = groups(tracer.cluster, "workloads")
    found = matrix(tracer, rows, columns(tracer, rows, services=True))
    return {(c.source, str(c.destination)): c.answer for row in found.cells for c in row}


@pytest.fixture(scope="module")
def shop() -> dict[tuple[str, str], Answer]:
    return cells(SHOP)


def test_the_matrix_is_what_the_policies_intend(shop: dict[tuple[str, str], Answer]) -> None:
    names = {source.removeprefix("default/") for source, _ in shop}
    assert names == {*CALLS, "frontend", "loadgenerator"}
    for (source, destination), answer in shop.items():
        caller = source.removeprefix("default/")
        called = destination.removeprefix("default/").removeprefix("svc/").partition(":")[0]
        through_service = "/svc/" in destination
        if called.startswith("frontend"):
            wanted = True  # its ingress rule allows everybody
        else:
            wanted = caller in CALLS[called][1] or (caller == called and not through_service)
        assert answer is (Answer.YES if wanted else Answer.NO), (source, destination)


def test_without_policies_everybody_reaches_everybody() -> None:
    assert set(cells(SHOP / "cluster.yaml").values()) == {Answer.YES}


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published manifests are not here")
def test_the_published_manifests_say_the_same(shop: dict[tuple[str, str], Answer], tmp_path: Path) -> None:
    """The network of cluster.yaml under the manifests and policies as their authors wrote them."""
    network = tmp_path / "network.yaml"
    network.write_text("\n---\n".join((SHOP / "cluster.yaml").read_text().split("\n---\n")[:2]))
    assert cells(network, PUBLISHED / "kubernetes-manifests.yaml", PUBLISHED / "policies") == shop


if __name__ == "__main__":
    PAGE.write_text(TRANSCRIPT.sub(lambda m: m[1] + printed(m[2], m[3]) + m[5], PAGE.read_text()))


def test_who_has_no_route_is_told_so_whatever_policies_say(capsys: pytest.CaptureFixture[str]) -> None:
    """deny-all would drop it, too; but the packet never comes to its rules."""
    assert main(["reach", "internet", "to", "default/adservice", "-q", "-f", str(SHOP), "-o", "csv"]) == 0
    assert ",no,nobody outside the cluster has a route to 10.244." in capsys.readouterr().out
