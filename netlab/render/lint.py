"""Findings of `netlab lint`: text for people, JSON for programs, SARIF 2.1.0 for code review."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from netlab.reach.finding import Finding, Severity
from netlab.render.columns import clean
from netlab.render.jsonio import API_VERSION, unicode_only

SARIF = "https://json.schemastore.org/sarif-2.1.0.json"


def text(findings: Sequence[Finding]) -> str:
    """`file:line: warning: Service default/web: what [check]`, the way out indented below; then one line that counts."""
    lines = []
    for f in findings:
        place = f"{f.ref.file}:{f.ref.line}: " if f.ref.file and f.ref.line else f"{f.ref.file}: " if f.ref.file else ""
        lines.append(clean(f"{place}{f.severity.value}: {f.object}: {f.what}  [{f.check}]"))
        lines.append(clean(f"  {f.fix}"))
    return "\n".join([*lines, *([""] if lines else []), summary(findings)])


def summary(findings: Sequence[Finding]) -> str:
    """`3 findings: 1 error, 2 warnings`."""
    if not findings:
        return "no findings"
    counts = Counter(f.severity for f in findings)
    parts = [f"{counts[s]} {s.value}{'' if counts[s] == 1 else 's'}" for s in Severity if counts[s]]
    return f"{len(findings)} finding{'' if len(findings) == 1 else 's'}: {', '.join(parts)}"


def json(findings: Sequence[Finding]) -> str:
    """`{"apiVersion": "netlab/v1", "kind": "Lint", "findings": [...]}`."""
    plain = {"apiVersion": API_VERSION, "kind": "Lint", "findings": [_plain(f) for f in findings]}
    return _indented(plain)


def _plain(f: Finding) -> dict[str, Any]:
    ref = {"file": f.ref.file, "line": f.ref.line, "document": f.ref.document}
    return {"check": f.check, "severity": f.severity.value, "object": f.object, "what": f.what, "fix": f.fix, "ref": ref}


def sarif(findings: Sequence[Finding], checks: Mapping[str, str], version: str) -> str:
    """SARIF 2.1.0: one run, a rule per check (`checks`: name -> one sentence), a result per finding."""
    rules = [{"id": name, "shortDescription": {"text": about}} for name, about in checks.items()]
    results = [
        {
            "ruleId": f.check,
            "level": f.severity.value,
            "message": {"text": f"{f.object}: {f.what}. {f.fix[:1].upper()}{f.fix[1:]}."},
            "locations": _locations(f),
        }
        for f in findings
    ]
    driver = {"name": "netlab", "version": version, "rules": rules}
    return _indented({"$schema": SARIF, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]})


def _locations(f: Finding) -> list[dict[str, Any]]:
    if not f.ref.file:
        return []
    place: dict[str, Any] = {"artifactLocation": {"uri": f.ref.file}}
    if f.ref.line:
        place["region"] = {"startLine": f.ref.line}
    return [{"physicalLocation": place}]


def _indented(plain: dict[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(unicode_only(plain)), indent=2).decode()


def render(findings: Sequence[Finding], form: str, checks: Iterable[tuple[str, str]], version: str) -> str:
    """One of the forms by its name on the command line."""
    match form:
        case "json":
            return json(findings)
        case "sarif":
            return sarif(findings, dict(checks), version)
        case _:
            return text(findings)
