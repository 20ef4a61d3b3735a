"""Label selectors: which objects a Service, a workload or a NetworkPolicy means.

Law: all requirements must hold; an empty selector matches everything (a Service without selector is decided by its
caller). The semantics are those of k8s.io/apimachinery/pkg/labels/selector.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from netlab.errors import BugError
from netlab.kube.objects import LabelSelector

OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")

_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_CONSISTS = "consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"


def subdomain_error(text: str) -> str:
    """Why a name is no RFC 1123 subdomain, "" if it is one (k8s.io/apimachinery/pkg/util/validation)."""
    if len(text) > 253:
        return "must be no more than 253 characters"
    if not _SUBDOMAIN.fullmatch(text):
        return (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
            "and must start and end with an alphanumeric character"
        )
    return ""


def label_key_error(key: str) -> str:
    """Why a label's key is no qualified name, "" if it is one (IsQualifiedName).

    >>> label_key_error("app.kubernetes.io/name"), label_key_error("/x")
    ('', 'prefix part must be non-empty')
    """
    prefix, slash, name = key.rpartition("/")
    if "/" in prefix:
        return f"a qualified name must {_CONSISTS} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
    if slash and not prefix:
        return "prefix part must be non-empty"
    if slash and (why := subdomain_error(prefix)):
        return f"prefix part {why}"
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return "name part must be no more than 63 characters"
    return "" if _NAME.fullmatch(name) else f"name part must {_CONSISTS}"


def label_value_error(value: str) -> str:
    """Why a text is no label value, "" if it is one (IsValidLabelValue)."""
    if len(value) > 63:
        return "must be no more than 63 characters"
    return "" if not value or _NAME.fullmatch(value) else f"a valid label must be an empty string or {_CONSISTS}"


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
