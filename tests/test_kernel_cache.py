"""Machine code from the disk is that of the sources as they are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from netlab.match import cuts, jit, kernels

HERE = Path(jit.__file__).parent


def test_the_stamp_is_of_all_files_that_code_is_made_from() -> None:
    """What kernels.py and cuts.py take from netlab, and what that takes where numbers come from."""
    known = {path.stem for path in jit.SOURCES}
    for name in ("kernels", "cuts"):
        for node in ast.walk(ast.parse((HERE / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("netlab.match."):
                assert node.module.removeprefix("netlab.match.") in known | {"jit"}, name


def test_a_changed_file_is_another_stamp(tmp_path: Path) -> None:
    copies = [tmp_path / path.name for path in jit.SOURCES]
    for copy, path in zip(copies, jit.SOURCES, strict=True):
        copy.write_bytes(path.read_bytes())
    assert jit.stamp(copies) == jit.stamp()
    for copy in copies:
        before = copy.read_text()
        copy.write_text(before + "# another\n")
        assert jit.stamp(copies) != jit.stamp()
        copy.write_text(before)


@pytest.mark.parametrize("function", [kernels.walk, kernels.follow, kernels.arrange, kernels.fill_table, cuts.grow, cuts.visits])
def test_every_kernel_has_the_stamp(function: object) -> None:
    cache = function._cache  # type: ignore[attr-defined]
    assert cache._cache_file._source_stamp[1] == jit.stamp()
