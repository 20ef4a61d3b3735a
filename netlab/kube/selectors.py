"""Label selectors: which objects a Service, a workload or a NetworkPolicy means.

Law: all requirements must hold; an empty selector matches everything (a Service without selector is decided by its
caller). The semantics are those of k8s.io/apimachinery/pkg/labels/selector.go.
"""

from __future__ import annotations

from collections.abc import Mapping

from netlab.errors import BugError
from netlab.kube.objects import LabelSelector

OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def labels_match(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether `labels` carry every pair of `wanted`; an empty value must be there, and be empty.

    >>> labels_match({"app": "web"}, {"app": "web", "tier": "front"}), labels_match({"app": ""}, {})
    (True, False)
    """
    return all(labels.get(key) == value for key, value in wanted.items())


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether a selector selects an object with these labels.

    ``NotIn`` and ``DoesNotExist`` hold for an object without the key, ``In`` and ``Exists`` do not.

    >>> matches(LabelSelector(match_expressions=(("env", "NotIn", ("prod",)),)), {})
    True
    """
    if not labels_match(selector.match_labels, labels):
        return False
    for key, operator, values in selector.match_expressions:
        match operator:
            case "In":
                holds = key in labels and labels[key] in values
            case "NotIn":
                holds = key not in labels or labels[key] not in values
            case "Exists":
                holds = key in labels
            case "DoesNotExist":
                holds = key not in labels
            case _:
                raise BugError(f"selector operator {operator!r} was not refused when it was read")
        if not holds:
            return False
    return True
