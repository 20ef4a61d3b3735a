"""Help as plain text in two columns, the way kubectl's own help reads; also when it is piped.

Law: no boxes, no markup, no default that says nothing; a line is never longer than 100 columns.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

_LABELS = 30  # columns of the left side, its indent included


class Columns:
    """A cyclopts help formatter: names on the left, what they mean on the right."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        if not panel.entries:
            return
        lines = [f"{panel.title}:"]
        for entry in panel.entries:
            lines += _entry(entry, min(console.width, 100) if console.is_terminal else 100)
        _write(console, "\n".join(lines) + "\n")

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        text = _plain(usage)
        if text:
            _write(console, f"Usage: {text}\n")

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        text = _plain(description)
        if text:
            _write(console, f"{text}\n")


def _entry(entry: HelpEntry, width: int) -> list[str]:
    shorts = [name for name in entry.positive_shorts if name.startswith("-")]
    label = ", ".join([*shorts, *entry.positive_names]) if not entry.positional_label else entry.positional_label
    if entry.metavar and not entry.positional_label:
        label += " " + ("|".join(entry.choices) if entry.choices else entry.metavar)
    meaning = _plain(entry.description)
    if entry.default not in (None, "()", "False", "None"):
        meaning += f" (default: {_plain(entry.default)})"
    wrapped = textwrap.wrap(meaning, max(20, width - _LABELS), break_long_words=False, break_on_hyphens=False) or [""]
    if len(label) + 4 > _LABELS:
        return [f"  {label}", *(" " * _LABELS + line for line in wrapped)]
    return [f"  {label}".ljust(_LABELS) + wrapped[0], *(" " * _LABELS + line for line in wrapped[1:])]


def _plain(renderable: Any) -> str:
    if renderable is None:
        return ""
    if hasattr(renderable, "plain"):
        return str(renderable.plain).rstrip()
    primary = getattr(renderable, "primary_renderable", None)  # cyclopts wraps descriptions in InlineText
    return _plain(primary) if primary is not None else str(renderable).rstrip()


def _write(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
