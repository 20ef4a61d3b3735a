"""numba's njit with a cache on disk that is right after an update, too.

    @cached(parallel=True)
    def walk(...)      -->   __pycache__/kernels.walk-*.nbi, with a hash of all SOURCES inside

Law: machine code is taken from the cache only if none of the files has changed that it was made from. numba itself looks at
the file of the function alone (numba/core/caching.py get_source_stamp), while what it calls and the numbers of fields and atoms,
which are constants to it, stand in others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from numba import njit
from numba.core.caching import NullCache

SOURCES: Final = tuple(Path(__file__).with_name(f"{name}.py") for name in ("atoms", "boxes", "cuts", "kernels", "packets"))


def stamp(sources: Iterable[Path] = SOURCES) -> str:
    """A hash of some files."""
    found = hashlib.sha256()
    for path in sources:
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


_STAMP: Final = stamp()


def cached(parallel: bool = False, nogil: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile with numba, once for all processes; once for each where there is no folder to write to, or where numba keeps its
    cache in another way than is known here."""

    def of(function: Callable[..., Any]) -> Any:
        made: Any = njit(parallel=parallel, nogil=nogil)(function)
        try:
            made.enable_caching()
            file = made._cache._cache_file
            file._source_stamp = (file._source_stamp, _STAMP)
        except (AttributeError, RuntimeError):  # RuntimeError: no locator, that is, no folder
            made._cache = NullCache()
        return made

    return of
