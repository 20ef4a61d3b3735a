"""Two states compared, for a reviewer (text, wide), a pull request (Markdown) and programs (JSON).

    CLOSED
      every workload but default/frontend lost default/cartservice:7070, default/svc/cartservice:7070
        after   denied (ingress): no rule of NetworkPolicy default/deny-all (deny.yaml:1) allows it

Law: every form speaks of all changes; text shortens long lists ("and 7 more"), `wide` and JSON list everything. What is unknown
is said, never left out. Folding is reach/fold.py's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from netlab.reach.compare import DIFFERENT, Change, Comparison, Kind, PolicyChange
from netlab.reach.fold import Fold, fold
from netlab.reach.matrix import Answer, Cell
from netlab.render.columns import clean, table
from netlab.render.deciders import decided, decider_json, place
from netlab.render.jsonio import API_VERSION, unicode_only

_MANY = 6  # names in a sentence, unless all are asked for
_REASONS = 3
_RULE = re.compile(r"(\S+ \S+) rule \d+ on \S+: -A ")
_COMMENT = re.compile(r'--comment "((?:[^"\\]|\\.)*)"')
_WORDS = {Answer.YES: "yes", Answer.NO: "no", Answer.SOME: "some", Answer.UNKNOWN: "unknown", Answer.NONE: "none"}


def text(found: Comparison, wide: bool = False) -> str:
    """The comparison as text, without a final newline; the last line is the summary."""
    lines: list[str] = []
    for kind in DIFFERENT:
        folds = fold(found, [kind])
        if folds:
            lines.append(kind.value.upper())
            for one in folds:
                lines.append(f"  {clean(sentence(one, found, wide))}")
                lines += [f"    {clean(line)}" for line in because(one, wide)]
            lines.append("")
    if found.added or found.removed:
        lines.append("ADDED AND REMOVED")
        for word, things in (("added", found.added), ("removed", found.removed)):
            for what in dict.fromkeys(t.what for t in things):
                names = [t.name for t in things if t.what == what]
                lines.append(f"  {word} {what}{'s' if len(names) > 1 else ''} {clean(_some(names, wide))}")
        lines.append("")
    if found.policies:
        lines.append("POLICIES")
        lines += [f"  {line}" for line in table([_policy(p) for p in found.policies])]
        lines.append("")
    stays = fold(found, [Kind.REDECIDED])
    if stays and wide:
        lines.append("DECIDED OTHERWISE, WITH THE SAME ANSWER")
        for one in stays:
            lines.append(f"  {clean(sentence(one, found, wide))}")
            lines += [f"    {clean(line)}" for line in because(one, wide)]
        lines.append("")
    undecided = found.of(Kind.UNDECIDED)
    if undecided:
        lines.append("UNKNOWN ON BOTH SIDES, FOR DIFFERENT REASONS")
        lines += [f"  {clean(c.before.source)} to {clean(str(c.before.destination))}: {clean(c.after.reason)}" for c in undecided]
        lines.append("")
    return "\n".join([*lines, summary(found)])


def sentence(one: Fold, found: Comparison, wide: bool = False) -> str:
    """`every workload but default/frontend lost default/cartservice:7070, default/svc/cartservice:7070`."""
    if one.every and not wide:
        who = "every workload" + (f" but {_some(one.exceptions, True)}" if one.exceptions else "")
        who += f" (and {_some(one.others, wide)})" if one.others else ""
    else:
        who = _some(one.sources, wide)
    what = _some([str(column) for column in one.destinations], wide)
    before, after = one.answers
    if one.families:
        other = " and ".join(f"IPv{family}" for family in (4, 6) if family not in one.families)
        return f"{who} {'gained' if one.kind is Kind.OPENED else 'lost'} {what} over {other}"
    match one.kind:
        case Kind.OPENED if after is Answer.YES:
            return f"{who} gained {'the rest of ' if before is Answer.SOME else ''}{what}"
        case Kind.OPENED:
            return f"{who} gained some pods or endpoints of {what}"
        case Kind.CLOSED if after is Answer.NO:
            return f"{who} lost {'the rest of ' if before is Answer.SOME else ''}{what}"
        case Kind.CLOSED:
            return f"{who} lost some pods or endpoints of {what}"
        case Kind.REDECIDED:
            return f"{who} to {what}: {_WORDS[after]}, as before"
        case _:
            return f"{who} to {what}: {_WORDS[before]}, now {_WORDS[after]}"


def because(one: Fold, wide: bool = False) -> Iterator[str]:
    """What decides on each side, a line each, with the places where it is written."""
    for word, deciders in (("before", one.before), ("after", one.after)):
        shown = deciders if wide else deciders[:_REASONS]
        for n, decider in enumerate(shown):
            yield f"{word if not n else '':6}  {decided(decider)}"
        if len(shown) < len(deciders):
            yield f"        and {len(deciders) - len(shown)} more rules (-o wide)"
    reasons = one.reasons if wide else tuple(dict.fromkeys(_short(reason) for reason in one.reasons))
    shown_reasons = reasons if wide else reasons[:_REASONS]
    for reason in shown_reasons:
        yield f"because {reason}"
    if len(shown_reasons) < len(reasons):
        yield f"and for {len(reasons) - len(shown_reasons)} more reasons (-o wide)"


def _short(reason: str) -> str:
    """A reason that quotes a rule by the rule's comment and chain: the same on every node.

    >>> _short('filter KUBE-SERVICES rule 1 on node-1: -A KUBE-SERVICES -m comment --comment "a/db has no endpoints" -j REJECT')
    '"a/db has no endpoints" (filter KUBE-SERVICES)'
    """
    found = _RULE.match(reason)
    if found is None:
        return reason
    comments = _COMMENT.findall(reason)
    return f'"{comments[-1]}" ({found[1]})' if comments else f"a rule of {found[1]}"


def _some(names: Sequence[str], wide: bool) -> str:
    if wide or len(names) <= _MANY:
        return ", ".join(names)
    return f"{', '.join(names[: _MANY - 1])} and {len(names) - _MANY + 1} more"


def _policy(p: PolicyChange) -> list[str]:
    sign = {"added": "+", "removed": "-", "changed": "~"}[p.how]
    return [f"{sign} {p.title}", _effect(p), place(p.ref)]


def _effect(p: PolicyChange) -> str:
    if not p.changes:
        return f"no flow changes: {p.why}"
    more = f", {p.stays} that stay" if p.stays else ""
    return f"decides {_flows(p.changes)} that {'changes' if p.changes == 1 else 'change'}{more}"


def _flows(n: int) -> str:
    return "1 flow" if n == 1 else f"{n} flows"


def summary(found: Comparison) -> str:
    """`156 flows: 24 opened, 130 closed, 2 the same`."""
    parts = [f"{len(of)} {kind.value}" for kind in DIFFERENT if (of := found.of(kind))]
    parts += [f"{len(things)} {word}" for word, things in (("added", found.added), ("removed", found.removed)) if things]
    undecided = len(found.of(Kind.UNDECIDED))
    flows = sum(len(found.of(kind)) for kind in DIFFERENT) + undecided
    if undecided:
        parts.append(f"{undecided} unknown on both sides")
    stays = len(found.of(Kind.REDECIDED))
    same = f"{found.answers - flows} the same" if parts else "no difference"
    parts.append(same + (f", {stays} of them decided by other rules" if stays else ""))
    return f"{_flows(found.answers)}: {', '.join(parts)}"


# -- Markdown ----------------------------------------------------------------------------------------------------------


def markdown(found: Comparison) -> str:
    """A comment for a pull request: the summary, a list for each kind of change, the policies as a table."""

    def code(name: str) -> str:
        return f"`{clean(name).replace('`', '')}`"

    lines = [f"**netlab diff**: {summary(found)}", ""]
    for kind in DIFFERENT:
        folds = fold(found, [kind])
        if folds:
            lines += [f"### {kind.value.capitalize()}", ""]
            for one in folds:
                lines.append(f"- {_escaped(sentence(one, found))}")
                lines += [f"  - {_escaped(' '.join(line.split()))}" for line in because(one)]
            lines.append("")
    if found.added or found.removed:
        lines += ["### Added and removed", ""]
        for word, things in (("added", found.added), ("removed", found.removed)):
            lines += [f"- {word} {t.what} {code(t.name)}" for t in things]
        lines.append("")
    if found.policies:
        lines += ["| policy | | what it does | where |", "|---|---|---|---|"]
        lines += [f"| {code(p.title)} | {p.how} | {_escaped(_effect(p))} | {code(place(p.ref))} |" for p in found.policies]
        lines.append("")
    undecided = found.of(Kind.UNDECIDED)
    if undecided:
        lines += [f"{len(undecided)} answers are unknown on both sides, for different reasons.", ""]
    return "\n".join(lines).rstrip("\n")


def _escaped(content: str) -> str:
    """Text in which Markdown and HTML find nothing to obey."""
    content = clean(content)
    for sign in "\\`*_[]<>|#":
        content = content.replace(sign, f"\\{sign}" if sign not in "<>" else "&lt;" if sign == "<" else "&gt;")
    return content


# -- JSON --------------------------------------------------------------------------------------------------------------


def json(found: Comparison) -> str:
    """Documented in docs/diff.md; every change is in `flows`, `groups` holds them folded."""
    plain: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "Comparison",
        "differs": found.differs,
        "summary": {
            "answers": found.answers,
            "asked": found.asked,
            **{kind.value: len(found.of(kind)) for kind in Kind},
            "added": len(found.added),
            "removed": len(found.removed),
        },
        "groups": [_group(one, found) for one in fold(found, DIFFERENT)],
        "flows": [_flow(c) for c in found.changes],
        "added": [{"what": t.what, "name": t.name} for t in found.added],
        "removed": [{"what": t.what, "name": t.name} for t in found.removed],
        "policies": [
            {
                "change": p.how,
                "policy": p.title,
                "where": place(p.ref),
                "flows": p.changes,
                "stays": p.stays,
                "why": p.why or None,
            }
            for p in found.policies
        ],
        "assumptions": list(found.assumptions),
        "notModelled": list(found.not_modelled),
        "leftOut": list(found.left_out),
    }
    return msgspec.json.format(msgspec.json.encode(unicode_only(plain)), indent=2).decode()


def _group(one: Fold, found: Comparison) -> dict[str, Any]:
    return {
        "change": one.kind.value,
        "text": sentence(one, found),
        "sources": list(one.sources),
        "destinations": [str(column) for column in one.destinations],
        "flows": one.flows,
        "before": [decider_json(d) for d in one.before],
        "after": [decider_json(d) for d in one.after],
        "reasons": list(one.reasons),
    }


def _flow(c: Change) -> dict[str, Any]:
    return {
        "change": c.kind.value,
        "source": c.before.source,
        "destination": str(c.before.destination),
        "protocol": c.before.destination.protocol,
        "before": _side(c.before),
        "after": _side(c.after),
    }


def _side(cell: Cell) -> dict[str, Any]:
    return {
        "answer": _WORDS[cell.answer],
        "delivered": cell.delivered,
        "pairs": cell.pairs,
        "reason": cell.reason or None,
        "policies": [decider_json(d) for d in cell.policies],
    }


def render(found: Comparison, form: str) -> str:
    """One of the forms by its name on the command line."""
    forms = {"json": json, "md": markdown}
    return forms[form](found) if form in forms else text(found, form == "wide")
