"""Private namespaces and the one process that holds them: the fuzzer's bench and the kernel tests work in such.

Law: nothing of the host is touched, and nothing outlives the process (namespaces_agent.py): a private mount and network
namespace, for users other than root also a user namespace.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from netlab.errors import BugError

TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2"}  # what is run -> the Debian package that has it


class CommandError(BugError):
    """A command inside a namespace failed, or the process that runs them."""


def _unshare() -> list[str]:
    return ["unshare", "-nm"] if os.geteuid() == 0 else ["unshare", "-Urnm"]


def missing(tools: Mapping[str, str], who_needs: str) -> str | None:
    """One line that says what this machine lacks to make namespaces and to run these tools there, or None.

    >>> missing({"no-such-tool": "no-such-package"}, "this example needs")
    'this example needs: apt-get install no-such-package'
    """
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    packages = sorted({package for tool, package in (TOOLS | dict(tools)).items() if shutil.which(tool, path=path) is None})
    if packages:
        return f"{who_needs}: apt-get install {' '.join(packages)}"
    tried = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"{who_needs} permission to make namespaces (root, or user namespaces): {tried.stderr.strip()}"
    return None


class Namespaces:
    """The process and the namespaces that it holds; use it as a context manager."""

    def __init__(self) -> None:
        agent = Path(__file__).with_name("namespaces_agent.py")
        self.process = subprocess.Popen(
            [*_unshare(), sys.executable, "-I", str(agent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process; the kernel removes its namespaces and all that is in them."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, do: str, **request: object) -> dict[str, Any]:
        """One request to the process: a method of its Agent, by name."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise CommandError(f"the process in the namespaces ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CommandError(f"the process in the namespaces: {answer['error']}")
        return answer

    def run(self, ns: str, *argv: str, input: str = "") -> str:
        """Run a command in a namespace ("": the process's own) and return its stdout; CommandError with its stderr."""
        done = self.ask("run", ns=ns, argv=list(argv), stdin=input)
        if done["rc"] != 0:
            raise CommandError(f"{ns}: {' '.join(argv)}: {str(done['err']).strip()}\n{input}".strip())
        return str(done["out"])

    def batch(self, ns: str, lines: str) -> None:
        """`ip -batch` in a namespace."""
        self.run(ns, "ip", "-batch", "-", input=lines)

    def send(self, ns: str, dev: str, *frames: bytes) -> None:
        """Put Ethernet frames on the wire of a device."""
        self.ask("send", ns=ns, dev=dev, frames=[frame.hex() for frame in frames])
