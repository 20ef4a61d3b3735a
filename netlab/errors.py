"""Two kinds of error: the user's input (InputError) and ours (BugError).

Law: an InputError says what is wrong, where (file:line, document, field or object) and what to do next; the
command line prints it as one message and exits 2. A dropped packet is a result, never an exception.
"""

from __future__ import annotations

from collections.abc import Iterable

from netlab.refs import Ref


class InputError(Exception):
    """Something the user gave us is wrong.

    Parameters
    ----------
    what : str
        One sentence without a final period: ``unknown pod "wbe-0"``.
    ref : Ref, optional
        Where it was found.
    hint : str, optional
        What to do next, one sentence: ``did you mean "web-0"?``.
    """

    def __init__(self, what: str, ref: Ref | None = None, hint: str | None = None) -> None:
        self.what = what
        self.ref = ref
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        where = str(self.ref) if self.ref is not None else ""
        head = f"{where}: {self.what}" if where else self.what
        return f"{head}\n  {self.hint}" if self.hint else head


class BugError(Exception):
    """netlab contradicts itself: never the user's fault."""


def did_you_mean(name: str, candidates: Iterable[str], limit: int = 3) -> str | None:
    """Return a hint naming the candidates closest to `name`, or None where nothing is near.

    >>> did_you_mean("wbe-0", ["web-0", "api-1"])
    'did you mean "web-0"?'
    """
    from difflib import SequenceMatcher, get_close_matches

    near = get_close_matches(name, list(candidates), n=limit, cutoff=0.6)
    near.sort(key=lambda n: (-SequenceMatcher(None, n, name).ratio(), n))
    if not near:
        return None
    return "did you mean " + " or ".join(f'"{n}"' for n in near) + "?"
