"""Two modes compared, as text and as JSON: the documented differences by name, what is not documented in full.

Law: senders that are treated alike stand in one row; nothing that is not documented is left out. A documented difference shows
its first rows; `wide` shows all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import msgspec

from netlab.reach.modes import Comparison, Difference
from netlab.render.columns import align, clean
from netlab.trace.steps import Verdict

_ROWS = 3  # of a documented difference, unless all are asked for


def render(found: Comparison, wide: bool = False) -> str:
    """The comparison as text, without a final newline."""
    one, other = found.modes
    lines: list[str] = []
    for d, differences in found.documented.items():
        lines.append(f"{d.key}: {_flows(len(differences))}")
        lines.append(f"  {d.mode}: {d.text}")
        lines.append(f"  ({d.source})")
        lines += _rows(differences, found.modes, None if wide else _ROWS)
        lines.append("")
    unexpected = found.undocumented
    if unexpected:
        lines.append(f"not documented: {_flows(len(unexpected))}")
        lines += _rows(unexpected, found.modes, None)
        lines.append("")
    if found.undecided:
        lines.append(f"unknown to netlab: {_flows(len(found.undecided))}")
        lines += _rows(found.undecided, found.modes, None if wide else _ROWS)
        reasons = list(dict.fromkeys(a.reason for d in found.undecided for a in (d.one, d.other) if a.verdict is Verdict.UNKNOWN))
        lines += [f"    because: {clean(reason)}" for reason in reasons[: None if wide else _ROWS]]
        if len(reasons) > _ROWS and not wide:
            lines.append(f"    and {len(reasons) - _ROWS} more {'reason' if len(reasons) == _ROWS + 1 else 'reasons'} (-o wide)")
        lines.append("")
    known = len(found.differences) - len(unexpected)
    summary = f"{_flows(found.flows)}, {one} and {other}: {found.flows - len(found.differences) - found.unknown} the same"
    summary += f", {known} differ as documented, {len(unexpected)} differ otherwise"
    if found.unknown:
        summary += f", {found.unknown} are unknown to netlab"
    return "\n".join([*lines, summary])


def _flows(n: int) -> str:
    return "1 flow" if n == 1 else f"{n} flows"


def _rows(differences: Sequence[Difference], modes: tuple[str, str], most: int | None) -> Iterator[str]:
    """A row for each destination and pair of answers, with the senders that get them."""
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for d in differences:
        groups.setdefault((d.flow.destination, d.flow.protocol, d.one.text, d.other.text), []).append(d.flow.source)
    head = ("DESTINATION", "PROTO", modes[0].upper(), modes[1].upper(), "SOURCES")
    shown = list(groups.items())[:most]
    rows = [(to, proto, one, other, _senders(who)) for (to, proto, one, other), who in shown]
    for row in align([head, *rows]):
        yield "    " + "  ".join(row)
    if len(groups) > len(shown):
        more = len(groups) - len(shown)
        yield f"    and {more} more {'row' if more == 1 else 'rows'} (-o wide)"


def _senders(names: Sequence[str]) -> str:
    every = list(dict.fromkeys(names))
    listed = ", ".join(clean(name) for name in every[:3])
    return listed if len(every) <= 3 else f"{listed} and {len(every) - 3} more"


def to_builtins(found: Comparison) -> dict[str, Any]:
    """The whole comparison as JSON's own types; probabilities are exact fractions in text."""
    plain: dict[str, Any] = msgspec.to_builtins(found, enc_hook=_encode)
    documented = [
        {"key": d.key, "mode": d.mode, "text": d.text, "source": d.source, "flows": len(flows)}
        for d, flows in found.documented.items()
    ]
    return {"apiVersion": "netlab/v1", "kind": "ModeComparison", **plain, "documented": documented}


def _encode(value: object) -> str:
    assert isinstance(value, Fraction)
    return str(value)
