"""`netlab lint`: what is legal and most likely not meant."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Group, Parameter

from netlab import __version__
from netlab.cli.flags import OUTPUT, ClusterFlags, emit, open_cluster
from netlab.errors import InputError, did_you_mean

LINT = Group("Lint", sort_key=0)


def lint(
    *,
    ignore: Annotated[
        tuple[str, ...], Parameter(negative=(), group=LINT, metavar="CHECK", help="Leave a check out. Repeatable.")
    ] = (),
    checks: Annotated[bool, Parameter(negative=(), group=LINT, help="Only list the checks, a line each.")] = False,
    output: Annotated[
        Literal["text", "json", "sarif"], Parameter(alias="-o", group=OUTPUT, help="sarif is what code review tools read.")
    ] = "text",
    cluster: ClusterFlags = ClusterFlags(),
) -> int:
    """What is legal and most likely not meant, with its line and a way out.

    The exit code is 0 without errors and warnings (notes do not count), 1 with some, 2 error.

    For example:
      netlab lint -f manifests/
      netlab lint -f cluster.json --ignore service-without-endpoints
      netlab lint -f manifests/ -o sarif > netlab.sarif
    """
    from netlab.reach import lint as checking
    from netlab.reach.finding import Severity
    from netlab.render.lint import render

    about = [(name, (check.__doc__ or "").splitlines()[0]) for name, check in checking.CHECKS.items()]
    if checks:
        from netlab.render.columns import table

        emit("\n".join(table(about)))
        return 0
    for name in ignore:
        if name not in checking.CHECKS:
            hint = did_you_mean(name, checking.CHECKS) or "netlab lint --checks lists them"
            raise InputError(f'--ignore: unknown check "{name}"', hint=hint)
    findings = checking.lint(open_cluster(cluster), frozenset(ignore))
    emit(render(findings, output, about, __version__))
    return 1 if any(f.severity is not Severity.NOTE for f in findings) else 0
