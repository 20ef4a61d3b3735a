"""The same measurement inside user-mode Linux, where there is IPVS: this module is the program that runs in there.

Law: job in on stdin, result out on stdout, both as JSON; progress as lines on stderr. What is measured is measure.py's.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import BinaryIO, cast

import msgspec

from netlab.bench.measure import Job, Measured, perform
from netlab.errors import InputError
from netlab.lab.uml import run_in_uml
from netlab.lab.umlchoice import modules

_NEEDS = ("veth", "IPVS", "dummy", "ipset", "iptables-legacy")
_MIB_PER_SERVICE = 0.1  # rules, sets and virtual services of a service with a few endpoints, and netlab's own copy of them


def perform_in_uml(job: Job, told: Callable[[str], None]) -> Measured:
    """Boot user-mode Linux and measure in there.

    Raises
    ------
    InputError
        User-mode Linux is not installed or does not boot; what `measure.perform` raises.
    """
    told("booting user-mode Linux")
    memory = 1024 + int(_MIB_PER_SERVICE * sum(job.services) * (1 + job.endpoints))
    command = [sys.executable, "-m", "netlab.bench.inside"]
    progress = _Lines(told)
    sink = cast(BinaryIO, progress)
    done = run_in_uml(command, stdin=msgspec.json.encode(job), stderr=sink, memory=memory, modules=modules(_NEEDS))
    if done.returncode != 0:
        what, _, hint = progress.last.partition(" | ")
        raise InputError(f"in user-mode Linux: {what or f'netlab ended with status {done.returncode}'}", hint=hint or None)
    return msgspec.json.decode(done.stdout or b"", type=Measured)


class _Lines(io.RawIOBase):
    """A binary sink that hands on whole lines."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self.told, self.rest, self.last = told, b"", ""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        *lines, self.rest = (self.rest + piece).split(b"\n")
        for line in lines:
            self.last = line.decode(errors="replace")
            self.told(self.last)
        return len(piece)


def main() -> int:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        measured = perform(job, "uml", lambda text: print(text, file=sys.stderr, flush=True))
    except InputError as error:
        print(" | ".join([error.what, *([error.hint] if error.hint else [])]), file=sys.stderr, flush=True)
        return 2
    sys.stdout.buffer.write(msgspec.json.encode(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
