"""Which policy decides, in a line and as JSON: what the matrix and the comparison of two states say alike.

Law: a decision is never without the place where its rule, or each policy that has none, is written.
"""

from __future__ import annotations

from typing import Any

from netlab.reach.answers import Decider
from netlab.refs import Ref


def decided(decider: Decider) -> str:
    """`allowed (ingress): NetworkPolicy default/cartservice rule 1 (cart.yaml:12)`."""
    head = f"{decider.says} ({decider.direction}): "
    places = [f" ({place(ref)})" for ref in decider.refs]
    if decider.rule is not None or decider.says == "allowed":
        rule = f" rule {decider.rule}" if decider.rule is not None else ""
        return f"{head}{decider.policies[0]}{rule}{places[0]}"
    kinds = {title.partition(" ")[0] for title in decider.policies}
    names = [title.partition(" ")[2] if len(kinds) == 1 else title for title in decider.policies]
    named = [name + at for name, at in zip(names, places, strict=True)]
    kind = kinds.pop() if len(kinds) == 1 else ""
    what = f"{kind[:-1]}ies " if kind and len(named) > 1 else f"{kind} " if kind else ""
    return f"{head}no rule of {what}{', '.join(named)} allows it"


def place(ref: Ref) -> str:
    """`deny.yaml:12`; where there is no line the object's place in the file."""
    if ref.file is None:
        return "not written anywhere"
    return f"{ref.file}:{ref.line}" if ref.line is not None else ref.file + (f", {ref.path}" if ref.path else "")


def decider_json(d: Decider) -> dict[str, Any]:
    """What a policy decided, as JSON's own types."""
    return {
        "direction": d.direction,
        "says": d.says,
        "policies": list(d.policies),
        "rule": d.rule,
        "where": [place(ref) for ref in d.refs],
    }
