"""Questions asked by several processes: the same answers in the same order, and whatever is raised is raised here."""

from __future__ import annotations

import os

import pytest

from netlab.errors import InputError
from netlab.reach.spread import spread


@pytest.mark.parametrize("jobs", [1, 2, 5, 50])
def test_answers_come_in_order(jobs: int) -> None:
    told: list[int] = []
    assert spread(lambda n: (n, "x" * n * 1000), 20, jobs, told.append) == [(n, "x" * n * 1000) for n in range(20)]
    assert told[-1] == 20
    assert told == sorted(told)


def test_nothing_to_ask() -> None:
    assert spread(lambda n: n, 0, 4) == []


def test_other_processes_ask() -> None:
    assert os.getpid() not in spread(lambda n: os.getpid(), 4, 2)
    assert spread(lambda n: os.getpid(), 4, 1) == [os.getpid()] * 4


def test_an_error_is_raised_here() -> None:
    def work(n: int) -> int:
        if n == 3:
            raise InputError("no such thing")
        return n

    with pytest.raises(InputError, match="no such thing"):
        spread(work, 10, 2)


def test_a_process_that_dies_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    fork, children = os.fork, []

    def forked() -> int:
        children.append(fork())
        return int(children[-1])

    monkeypatch.setattr(os, "fork", forked)

    def work(n: int) -> int:
        if n == 3:
            os._exit(1)
        return n

    with pytest.raises(ChildProcessError, match="answers are missing"):
        spread(work, 10, 2)
    assert len(children) == 2
    for child in children:  # none is left behind
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)
