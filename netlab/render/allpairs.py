"""What policies say to all pairs of pods, as a table of ports and as JSON.

Law: counts are exact; ports that fare alike are one line. The JSON is the whole answer: by direction the groups of pods to which
policies say the same, what they allow to everybody, and to whom else they allow what.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from netlab.reach.allpairs import TOP, AllPairs, Atom, Count, Side
from netlab.render.columns import table

_SHOWN = 6  # ranges of ports in a line


def text(found: Sequence[AllPairs], enforced: Sequence[bool], by: str) -> str:
    """The table of one or both families; `by` is the CNI plug-in."""
    lines: list[str] = []
    for pairs, is_enforced in zip(found, enforced, strict=True):
        lines += [""] if lines else []
        lines += _family(pairs, is_enforced, by, many=len(found) > 1)
    return "\n".join(lines)


def _family(pairs: AllPairs, enforced: bool, by: str, many: bool) -> list[str]:
    pods, policies = len(pairs.pods), len(pairs.index.policies)
    every = pods * (pods - 1)
    over = f" over IPv{pairs.family}" if many else ""
    of = f"{pods:,} {'pod' if pods == 1 else 'pods'}, {policies:,} {'policy' if policies == 1 else 'policies'}"
    head = f"{of}: {every:,} pairs of a pod and another one{over}"
    if not enforced:
        head += f"\n{by} enforces no policies{over}: this is what an engine such as Calico's would do"
    counts = pairs.counts()
    doubt = any(count.undefined for count in counts)
    rows = [("PORTS", "ALLOWED", "OF ALL", "DENIED", *(("UNDEFINED",) if doubt else ()))]
    for ports, count in _lines(counts):
        rows.append(
            (
                ports,
                f"{count.allowed:,}",
                f"{100 * count.allowed / every:.1f} %" if every else "-",
                f"{every - count.allowed - count.undefined:,}",
                *((f"{count.undefined:,}",) if doubt else ()),
            )
        )
    ingress, egress = pairs.sides["Ingress"], pairs.sides["Egress"]
    said = [
        ("that nobody reaches", [s for s in ingress if _closed(s)]),
        ("that reaches nobody", [s for s in egress if _closed(s)]),
        ("that no policy selects for ingress", [s for s in ingress if not s.policies]),
        ("that no policy selects for egress", [s for s in egress if not s.policies]),
    ]
    lines = [(sum(len(side.members) for side in sides), words) for words, sides in said]
    numbers = [
        f"  {n:,} pod {words}" if n == 1 else f"  {n:,} pods {words.replace('reaches nobody', 'reach nobody')}"
        for n, words in lines
    ]
    if left := len(pairs.index.on_host):
        which = "pod, which is its node" if left == 1 else "pods, which are their nodes"
        numbers.append(f"  left out: {left:,} hostNetwork {which}")
    if pairs.tunnel is not None:
        engine = pairs.index.dialect.name
        numbers.append(f"  {pairs.tunnel} is VXLAN: {engine} lets no pod send it, unless Felix is told to (docs/policy.md)")
    return [head, "", *table(rows), "", *numbers]


def _closed(side: Side) -> bool:
    return bool(side.policies) and not side.allowed | side.undefined and not any(a | u for _, a, u in side.named)


def _lines(counts: Iterable[Count]) -> list[tuple[str, Count]]:
    """One line for the ports of a protocol that fare alike; the line that has most of the ports is the other ones."""
    groups: dict[tuple[int, int, int], list[Count]] = {}
    for count in counts:
        groups.setdefault((count.atom.protocol, count.allowed, count.undefined), []).append(count)
    wide = {
        protocol: max((key for key in groups if key[0] == protocol), key=lambda key: sum(_width(c.atom) for c in groups[key]))
        for protocol in dict.fromkeys(key[0] for key in groups)
    }
    ordered = sorted(
        groups.items(), key=lambda item: (list(wide).index(item[0][0]), item[0] == wide[item[0][0]], item[1][0].atom.first)
    )
    return [(_words(found, key == wide[key[0]]), found[0]) for key, found in ordered]


def _width(atom: Atom) -> int:
    return atom.last - atom.first + 1


def _words(found: Sequence[Count], most: bool) -> str:
    name = str(found[0].atom).partition(" ")[0]
    if sum(_width(count.atom) for count in found) == TOP:
        return name
    if most:
        return f"{name} on other ports"
    ranges: list[list[int]] = []
    for count in found:
        if ranges and ranges[-1][1] + 1 == count.atom.first:
            ranges[-1][1] = count.atom.last
        else:
            ranges.append([count.atom.first, count.atom.last])
    shown = [f"{low}" if low == high else f"{low}-{high}" for low, high in ranges]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return f"{name} {', '.join(shown[:_SHOWN])}{more}"


def to_builtins(found: Sequence[AllPairs], enforced: Sequence[bool]) -> dict[str, Any]:
    """The whole answer as dicts and lists; atoms are named by their place in `ports`."""
    return {
        "apiVersion": "netlab/v1",
        "kind": "AllPairs",
        "families": [
            {
                "family": pairs.family,
                "enforced": is_enforced,
                "pods": len(pairs.pods),
                "ports": [
                    {
                        "protocol": str(count.atom).partition(" ")[0],
                        "first": count.atom.first,
                        "last": count.atom.last,
                        "allowed": count.allowed,
                        "undefined": count.undefined,
                    }
                    for count in pairs.counts()
                ],
                "ingress": [_side(pairs, side) for side in pairs.sides["Ingress"]],
                "egress": [_side(pairs, side) for side in pairs.sides["Egress"]],
            }
            for pairs, is_enforced in zip(found, enforced, strict=True)
        ],
    }


def _side(pairs: AllPairs, side: Side) -> dict[str, Any]:
    pods = pairs.index.pods
    answer: dict[str, Any] = {
        "pods": [pods[n].key for n in side.members],
        "policies": [policy.title for policy in side.policies],
        "allowed": _bits(side.allowed),
        "except": [
            {
                "pods": [pods[n].key for n in named.tolist()],
                "allowed": _bits(allowed),
                **({"undefined": _bits(undefined)} if undefined else {}),
            }
            for named, allowed, undefined in side.named
        ],
    }
    if side.undefined:
        answer["undefined"] = _bits(side.undefined)
    return answer


def _bits(mask: int) -> list[int]:
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
