"""The project's own rows: tests/rows/*.yaml in the format of `netlab check`, through the same code, one test a row.

A file is named after the cluster it speaks of: a topology of topologies/, or a recording in tests/data/kube-proxy-1.30.5/.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from netlab.cli.check import asker, read_rows
from netlab.kube.load import load
from netlab.render import checks
from netlab.trace.check import Row, run
from netlab.trace.query import Tracer

HERE = Path(__file__).parent
FILES = sorted((HERE / "rows").glob("*.yaml"))


@cache
def tracer(cluster: str) -> Tracer:
    known = (HERE.parent / "topologies" / f"{cluster}.yaml", HERE / "data/kube-proxy-1.30.5" / cluster / "cluster.json")
    return Tracer(load([str(next(file for file in known if file.exists()))]))


@pytest.mark.parametrize(
    ("cluster", "row"),
    [pytest.param(file.stem, row, id=f"{file.stem}: {row.title}") for file in FILES for row in read_rows(str(file))],
)
def test_row(cluster: str, row: Row) -> None:
    results, errors = run([row], asker(tracer(cluster), "default"))
    assert errors == []
    assert results[0].ok, checks.text(results)


def test_there_are_rows() -> None:
    assert [file.stem for file in FILES] == ["flannel-vxlan", "services"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_rows_know_yes_from_no(file: Path) -> None:
    """Turned around, every row must differ: a check that says yes to everything is none."""
    turned = [_otherwise(row) for row in read_rows(str(file))]
    results, _ = run(turned, asker(tracer(file.stem), "default"))
    assert [result.row.title for result in results if result.ok] == []


def _otherwise(row: Row) -> Row:
    from msgspec.structs import replace

    from netlab.trace.steps import Verdict

    return replace(row, expect=Verdict.DROPPED if row.expect is Verdict.DELIVERED else Verdict.DELIVERED)
