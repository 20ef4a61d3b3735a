"""How every object begins, and label selectors: what load.py and policyload.py both read.

Law: metadata and selectors are refused where the API server refuses them, in its words. What a kind means is not known here.
"""

from __future__ import annotations

from typing import Any

from netlab.errors import InputError, did_you_mean
from netlab.kube import wire as w
from netlab.kube.documents import At, Document
from netlab.kube.objects import LabelSelector
from netlab.kube.selectors import OPERATORS, label_key_error, label_value_error


def begin(
    document: Document, body: w.Any_, namespace: str | None, known: dict[str, Any] | None, kind: str = ""
) -> tuple[At, dict[str, Any]]:
    """What every object begins with: its name, namespace, labels; refuses a second object of the same name."""
    meta = body.metadata or w.Meta()
    name = meta.name
    if not name and meta.generate_name:
        from netlab.kube.workloads import fake_hash

        name = meta.generate_name + fake_hash(5, document.source.name, document.number, document.path)
    if not name:
        raise InputError("metadata.name is missing", document.ref(document.kind))
    where = (meta.namespace or namespace) if namespace is not None else ""
    key = f"{where}/{name}" if where else name
    at = At(document, f"{document.kind} {key}")
    if known is not None:
        earlier = known.get(f"{where}/{kind}/{name}" if kind else key)
        if earlier is not None:
            raise InputError("the same object twice", at.ref, f"it stands first in {earlier.ref}")
    return at, {
        "name": name,
        "namespace": where,
        "labels": meta.labels or {},
        "annotations": meta.annotations or {},
        "ref": at.ref,
    }


def selector(found: w.Selector | None, at: At, path: str, syntax: bool = False) -> LabelSelector:
    """A label selector; absent, it is empty. `syntax`: keys and values are checked, as for policies.

    Refuses what metav1/validation.ValidateLabelSelector refuses (k8s.io/apimachinery/pkg/apis/meta/v1/validation/validation.go).
    """
    if found is None:
        return LabelSelector()
    labels = found.match_labels or {}
    if syntax:
        for key, value in labels.items():
            if why := label_key_error(key):
                raise at.error(f'Invalid value: "{key}": {why}', f"{path}.matchLabels")
            if why := label_value_error(value):
                raise at.error(f'Invalid value: "{value}": {why}', f"{path}.matchLabels['{key}']")
    expressions = []
    for i, requirement in enumerate(found.match_expressions or ()):
        where = f"{path}.matchExpressions[{i}]"
        operator, values = requirement.operator, tuple(requirement.values or ())
        if operator not in OPERATORS:
            hint = did_you_mean(operator, OPERATORS) or f"known: {', '.join(OPERATORS)}"
            raise at.error(f'Invalid value: "{operator}": not a valid selector operator', f"{where}.operator", hint)
        if operator in ("In", "NotIn") and not values:
            raise at.error("Required value: must be specified when `operator` is 'In' or 'NotIn'", f"{where}.values")
        if operator in ("Exists", "DoesNotExist") and values:
            raise at.error("Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'", f"{where}.values")
        if syntax:
            if why := label_key_error(requirement.key):
                raise at.error(f'Invalid value: "{requirement.key}": {why}', f"{where}.key")
            for j, value in enumerate(values):
                if why := label_value_error(value):
                    raise at.error(f'Invalid value: "{value}": {why}', f"{where}.values[{j}]")
        expressions.append((requirement.key, operator, values))
    return LabelSelector(labels, tuple(expressions))
