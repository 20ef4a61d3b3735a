"""Independent questions asked by several processes: each is a fork of this one, and asks every n-th.

    parent: tracer, built --fork--> child 1: items 1, 3, 5 ... --pipe--> parent puts the answers in order
                          --fork--> child 2: items 2, 4, 6 ...

Law: the answers and their order are those of one process; what a child raises is raised here. fork(2) hands the tracer over
without copying it; nothing may run in other threads. Where there is no fork, or little to do, this process asks.
"""

from __future__ import annotations

import os
import pickle
import selectors
import struct
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_HEAD = struct.Struct("<Q")


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
    if jobs <= 1:
        found = []
        for n in range(count):
            found.append(work(n))
            done(n + 1)
        return found
    children: list[int] = []
    pipes: list[int] = []
    try:
        for first in range(jobs):
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                _child(work, range(first, count, jobs), write)
            os.close(write)
            children.append(pid)
            pipes.append(read)
        return _gather(pipes, count, done)
    except BaseException:
        import signal

        for pid in children:
            os.kill(pid, signal.SIGKILL)
        raise
    finally:
        for read in pipes:
            os.close(read)
        for pid in children:
            os.waitpid(pid, 0)


def _child(work: Callable[[int], T], indexes: range, write: int) -> None:
    """Never returns: what the parent would do at its end (flush its buffers, remove its files) is not the child's business."""
    try:
        with os.fdopen(write, "wb") as stream:
            for n in indexes:
                try:
                    message = pickle.dumps((n, True, work(n)))
                except Exception as error:
                    message = pickle.dumps((n, False, error))
                stream.write(_HEAD.pack(len(message)) + message)
                stream.flush()
    finally:
        os._exit(0)


def _gather(pipes: list[int], count: int, done: Callable[[int], None]) -> list[T]:
    """Read what the children say as it comes."""
    found: dict[int, T] = {}
    held = dict.fromkeys(pipes, b"")
    with selectors.DefaultSelector() as selector:
        for read in pipes:
            selector.register(read, selectors.EVENT_READ)
        while held:
            for key, _ in selector.select():
                chunk = os.read(key.fd, 1 << 20)
                if not chunk:
                    selector.unregister(key.fd)
                    del held[key.fd]
                    continue
                held[key.fd] = _read(held[key.fd] + chunk, found)
                done(len(found))
    if len(found) != count:
        raise ChildProcessError(f"a process that asked ended early: {count - len(found)} of {count} answers are missing")
    return [found[n] for n in range(count)]


def _read(held: bytes, found: dict[int, T]) -> bytes:
    """Take the whole messages out of what was read; returns the rest."""
    while len(held) >= _HEAD.size:
        (size,) = _HEAD.unpack_from(held)
        if len(held) < _HEAD.size + size:
            break
        n, fine, value = pickle.loads(held[_HEAD.size : _HEAD.size + size])
        if not fine:
            raise value
        found[n] = value
        held = held[_HEAD.size + size :]
    return held
