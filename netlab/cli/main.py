"""The entry of `netlab` and `kubectl netlab`: picks the command, and turns every end into an exit code.

Law: 0 yes, 1 no, 2 usage or input error, 3 unknown, 70 a bug of netlab, 130 interrupted, 141 nobody reads on. An error is
one message on stderr, never a traceback (NETLAB_DEBUG=1 shows it). Only the command that runs is imported;
`--version` imports nothing at all.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from netlab import __version__

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.exceptions import CycloptsError

HELP = """\
Where does this packet go in a Kubernetes cluster, which rule decides, and is that what Linux does?

For example:
  netlab trace web-0 svc/api                     every hop and rule, on the example cluster that netlab carries
  kubectl get nodes,ns,pods,svc,endpointslices -A -o json > cluster.json
  netlab can default/web-0 svc/hostnames:80 -f cluster.json
  netlab dump node-1 iptables-save -f cluster.json"""

COMMANDS = {  # each a module of this folder
    "can": "Can SOURCE reach DESTINATION? One line.",
    "trace": "Where the packet goes: every hop, every rule, every branch.",
    "why": "Why it works or not, and the smallest change that flips that.",
    "diff": "What does a change do to who reaches whom?",
    "dump": "What a node or pod holds, in the tool's own syntax.",
    "check": "Check a list of expected flows: the network's unit tests.",
    "reach": "Who reaches whom, on every port that something listens on.",
    "lint": "What is legal and most likely not meant, with its line and a way out.",
    "graph": "The network itself, as a picture or as text.",
    "serve": "The cluster as a page: trace packets, edit policies, see the matrix.",
    "learn": "Lessons to run: predict, look, change one thing.",
    "snapshot": "Write what a node holds into files that --observed reads.",
    "lab": "The cluster in real network namespaces.",
    "generate": "A made-up cluster of any size, to try things on.",
    "bench": "What a lookup costs: rules, probes and bytes counted.",
    "schema": "The JSON schema of what netlab prints.",
}

EXIT_INPUT = 2
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
EXIT_PIPE = 141  # 128 + SIGPIPE

NO_MEMORY = ("there is not enough memory for this", "ask for less at a time, or raise the limit (ulimit -v)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments without the program's name; those of the process if left out.

    Returns
    -------
    int
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    program = "kubectl netlab" if argv is None and os.path.basename(sys.argv[0]).startswith("kubectl-netlab") else "netlab"
    if argv is None:
        # One answer and out: reference counting frees enough, and collecting costs half the time of reading a large cluster.
        gc.disable()
        sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # closed, as by >&-
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal that is not UTF-8
    try:
        if arguments == ["--version"]:
            print(f"netlab {__version__}")
            code = 0
        else:
            code = _run(program, arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`) has what it wanted. What is still buffered must not fail again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except OSError as error:
        _debug()
        where = error.filename or ("the answer cannot be written" if error.errno == errno.ENOSPC else "")
        return _fail(f"{where}: {error.strerror or error}" if where else f"{error.strerror or error}")
    except MemoryError:
        _debug()
        return _fail(*NO_MEMORY)
    except Exception as error:
        _debug()
        return _fail(*NO_MEMORY) if _starved(error) else _bug(error)
    return code


def _starved(error: Exception) -> bool:
    """Libraries in C whose allocations fail have errors of their own: a library that cannot be mapped, an error not told."""
    import resource

    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return limited and isinstance(error, SystemError | ImportError)


def _nowhere() -> TextIO:
    return open(os.devnull, "w")


def _run(program: str, arguments: list[str]) -> int:
    from cyclopts.exceptions import CycloptsError

    from netlab.errors import InputError

    command = next((a for a in arguments if not a.startswith("-")), None)
    if command in ("check", "diff"):  # ROWS or a state may be "-"; cyclopts takes a lone dash for an option
        from netlab.cli.flags import PLAIN_STDIN, STDIN

        after_option = {n + 1 for n, a in enumerate(arguments) if a in ("-f", "--filename", "--with")}
        arguments = [PLAIN_STDIN if a == STDIN and n not in after_option else a for n, a in enumerate(arguments)]
    try:
        code = _app(program, command)(arguments)
    except CycloptsError as error:
        _debug()
        return _fail(
            _usage(error), f"`{program} {command} --help` shows how" if command in COMMANDS else f"see `{program} --help`"
        )
    except InputError as error:
        _debug()
        return _fail(*_split(error))
    except ExceptionGroup as group:
        wrong, other = group.split(InputError)
        if wrong is None or other is not None:
            raise
        for one in wrong.exceptions:
            _fail(*_split(one))
        return EXIT_INPUT
    return code if isinstance(code, int) else 0  # help returns nothing


def _app(program: str, chosen: str | None) -> App:
    """The commands; a chosen one explains itself by its docstring, the others are not imported for their line of help."""
    from cyclopts import App

    from netlab.cli.help import Columns

    app = App(
        name=program,
        help=HELP,
        version=f"netlab {__version__}",
        help_format="plaintext",
        help_formatter=Columns(),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        verbose=False,
        suppress_keyboard_interrupt=False,
    )
    for n, (name, text) in enumerate(COMMANDS.items()):
        app.command(f"netlab.cli.{name}:{name}", name=name, help=None if name == chosen else text, sort_key=n)
    return app


def _usage(error: CycloptsError) -> str:
    from cyclopts.exceptions import UnusedCliTokensError

    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f'unexpected argument "{error.unused_tokens[0]}"'
    text = str(error).strip().removesuffix(".")
    return text[:1].lower() + text[1:]


def _split(error: Any) -> tuple[str, str | None]:
    """An InputError as message and hint: `file:line: what`, and what to do next."""
    where = str(error.ref) if error.ref is not None else ""
    return (f"{where}: {error.what}" if where else error.what), error.hint


def _fail(message: str, hint: str | None = None) -> int:
    print(f"netlab: error: {message}" + (f"\n  {hint}" if hint else ""), file=sys.stderr)
    return EXIT_INPUT


def _bug(error: Exception) -> int:
    kind = type(error).__name__
    print(
        f"netlab: internal error: {kind}: {error}\n"
        f"  this is a bug of netlab {__version__}, not of your input; please report it with the command and its files"
        " (NETLAB_DEBUG=1 prints where it happened)",
        file=sys.stderr,
    )
    return EXIT_BUG


def _debug() -> None:
    if os.environ.get("NETLAB_DEBUG"):
        import traceback

        traceback.print_exc()


if __name__ == "__main__":
    sys.exit(main())
