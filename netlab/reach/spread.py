"""Independent questions asked by several processes: a pool of forks of this one, which take one after the other.

    parent: tracer, built --fork--> worker 1: items 0, 2, 3 ...  --> answers, put in order
                          --fork--> worker 2: items 1, 4, 5 ...  -->

Law: the answers and their order are those of one process; what a worker raises is raised here, and no worker is left behind,
whatever ends this. fork(2) hands the tracer over without copying it; nothing may run in other threads. Where there is no fork, or
little to do, this process asks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_work: Callable[[int], Any]  # of a worker, which gets it as it is forked


def processors() -> int:
    """How many processes can run at once (sched_getaffinity(2)); 1 where there is no fork."""
    if not hasattr(os, "fork"):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(work: Callable[[int], T], count: int, jobs: int, done: Callable[[int], None] = lambda n: None) -> list[T]:
    """`[work(0), ..., work(count - 1)]`, asked by `jobs` processes.

    Parameters
    ----------
    work : callable
        Of an index; its value must be picklable.
    count : int
    jobs : int
        1: in this process.
    done : callable
        Told how many are done.
    """
    jobs = min(jobs, count)
    found: list[T] = []
    if jobs <= 1:
        for n in range(count):
            found.append(work(n))
            done(n + 1)
        return found
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), _start, (work,))
    try:
        for value in pool.map(_ask, range(count)):
            found.append(value)
            done(len(found))
    except BrokenProcessPool as error:
        missing = f"{count - len(found)} of {count} answers are missing"
        raise ChildProcessError(f"a process that asked ended early: {missing}") from error
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _start(work: Callable[[int], Any]) -> None:
    """A worker begins; Ctrl-C is the parent's business."""
    import signal

    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _ask(n: int) -> Any:
    return _work(n)
