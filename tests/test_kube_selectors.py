"""Label selectors: the corner cases of k8s.io/apimachinery/pkg/labels."""

import pytest

from netlab.errors import BugError
from netlab.kube.objects import LabelSelector
from netlab.kube.selectors import labels_match, matches


def where(*expressions, **labels):
    return LabelSelector(labels, tuple(expressions))


@pytest.mark.parametrize(
    ("selector", "labels", "selected"),
    [
        (where(), {}, True),
        (where(), {"app": "web"}, True),
        (where(app="web"), {"app": "web", "tier": "front"}, True),
        (where(app="web"), {"app": "api"}, False),
        (where(app=""), {}, False),
        (where(app=""), {"app": ""}, True),
        (where(("env", "In", ("a", "b"))), {"env": "b"}, True),
        (where(("env", "In", ("a", "b"))), {"env": "c"}, False),
        (where(("env", "In", ("a", "b"))), {}, False),
        (where(("env", "NotIn", ("a",))), {"env": "b"}, True),
        (where(("env", "NotIn", ("a",))), {"env": "a"}, False),
        (where(("env", "NotIn", ("a",))), {}, True),
        (where(("env", "Exists", ())), {"env": ""}, True),
        (where(("env", "Exists", ())), {}, False),
        (where(("env", "DoesNotExist", ())), {}, True),
        (where(("env", "DoesNotExist", ())), {"env": "a"}, False),
        (where(("env", "Exists", ()), app="web"), {"env": "a"}, False),
        (where(("env", "Exists", ()), ("env", "NotIn", ("a",))), {"env": "a"}, False),
    ],
)
def test_selectors(selector, labels, selected):
    assert matches(selector, labels) is selected


def test_an_operator_that_no_reader_lets_through():
    with pytest.raises(BugError):
        matches(where(("env", "Near", ())), {})


def test_labels_match():
    assert labels_match({}, {})
    assert not labels_match({"a": "1", "b": "2"}, {"a": "1"})
