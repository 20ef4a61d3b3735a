"""A flow on which rules and policies part, or netlab and Linux, as a file: the cluster made as small as it still shows it.

    documents, flow --shrunk--> the fewest documents, rules, peers and ports --> YAML with the flow in its first line

Law: a case is input like any other, `netlab trace -f FILE` and `netlab lab verify -f FILE` read it. What is left out is decided
by asking again, nothing else.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.kube.load import load
from netlab.lab.policy_agreement import agreement
from netlab.lab.verify import FIRST_PORT
from netlab.trace.flows import Flow, predict
from netlab.trace.query import Tracer

Doc = dict[str, Any]
_HEAD = "# flow: "
_NEEDED = ("Topology", "Node")


def shrunk(documents: list[Doc], fails: Callable[[list[Doc]], bool]) -> list[Doc]:
    """The documents without all that `fails` does not need to stay true.

    Parameters
    ----------
    documents : list of dict
        For which `fails` is true.
    fails : callable
        Asked about fewer documents, or the same with fewer rules, peers and ports. An InputError counts as no.
    """
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(documents):
            try:
                if not fails(smaller):
                    continue
            except InputError:
                continue
            documents, changed = smaller, True
            break
    return documents


def _smaller(documents: list[Doc]) -> Iterator[list[Doc]]:
    """All ways to leave out one thing, the great ones first."""
    for n in reversed(range(len(documents))):
        if documents[n]["kind"] not in _NEEDED:
            yield documents[:n] + documents[n + 1 :]
    for n, document in enumerate(documents):
        if "Polic" in document["kind"] or document["kind"] in ("NetworkSet", "GlobalNetworkSet"):
            for path in _lists(document["spec"], ()):
                less = copy.deepcopy(document)
                target: Any = less["spec"]
                for key in path[:-1]:
                    target = target[key]
                del target[path[-1]]
                yield [*documents[:n], less, *documents[n + 1 :]]


def _lists(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The places of everything that stands in a list or is a field of a rule."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if path:
                yield (*path, key)
            yield from _lists(inner, (*path, key))
    elif isinstance(value, list):
        for n in reversed(range(len(value))):
            yield (*path, n)
        for n, inner in enumerate(value):
            yield from _lists(inner, (*path, n))


def parts(documents: list[Doc], flow: Flow) -> bool:
    """Whether rules and policies part on a flow through a cluster of these documents."""
    cluster = load(["-"], io.StringIO(_text(documents)))
    tracer = Tracer(cluster)
    return bool(agreement(tracer, flow, predict(tracer, flow, FIRST_PORT)).partings)


def _text(documents: list[Doc]) -> str:
    return "\n---\n".join(json.dumps(document) for document in documents) + "\n"


def save(path: Path, documents: list[Doc], flow: Flow, why: str = "") -> None:
    """Write a case: the flow in the first line, what it showed in comments below, then the documents."""
    import yaml

    words = [flow.source, flow.destination, flow.protocol, *([flow.at] if flow.at else [])]
    told = "".join(f"# {line}\n" for line in why.splitlines())
    path.write_text(f"{_HEAD}{' '.join(words)}\n{told}" + yaml.safe_dump_all(documents, sort_keys=False, width=130))


def read(path: Path) -> tuple[Cluster, Flow]:
    """A case: its cluster and its flow."""
    first = path.read_text().partition("\n")[0]
    source, destination, protocol, *at = first.removeprefix(_HEAD).split()
    return load([str(path)]), Flow(source, destination, protocol, at=at[0] if at else None)
