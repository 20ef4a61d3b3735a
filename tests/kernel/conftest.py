"""Kernel tests: skipped where the machine cannot run them, saying why; they fail there if CI=true or NETLAB_KERNEL=require."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from namespaces import Namespaces, missing, router

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.kernel)


@pytest.fixture(scope="session")
def kernel() -> None:
    """Asked for by every fixture that makes namespaces."""
    reason = missing()
    if reason is None:
        return
    if os.environ.get("CI") == "true" or os.environ.get("NETLAB_KERNEL") == "require":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def router_lab(kernel: None) -> Iterator[Namespaces]:
    """sender -- router -- receiver, fresh for the test."""
    with router() as lab:
        yield lab


@pytest.fixture
def namespaces(kernel: None) -> Iterator[Namespaces]:
    """The helper process alone: the test adds namespaces and devices."""
    with Namespaces() as lab:
        yield lab
