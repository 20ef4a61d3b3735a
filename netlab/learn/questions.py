"""What a lesson says of a student's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def opinion(guess: Any, right: int) -> str:
    """What is said of a guess: a marimo radio whose option number `right` is true; "" where nothing is chosen yet."""
    if guess.value is None:
        return ""
    return "You were right. " if guess.value == list(guess.options)[right] else "You thought otherwise. "


def marked(checks: Sequence[tuple[str, list[str], int, bool]], given: Sequence[str | None]) -> str:
    """The answers `given` to a lesson's checks (question, answers, the right one, ...), each right or set right, as Markdown."""
    return "\n".join(
        f"- {'right' if answer == options[right] else 'not so: ' + options[right]}"
        for answer, (_, options, right, _) in zip(given, checks, strict=True)
        if answer is not None
    )
