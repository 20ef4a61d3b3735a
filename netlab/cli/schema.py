"""`netlab schema`: the JSON schema of what netlab prints."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from netlab.cli.flags import emit
from netlab.errors import InputError, did_you_mean

SCHEMAS = ("trace", "why")


def schema(what: Annotated[str, Parameter(help="trace or why: what that command prints with -o json.")], /) -> int:
    """The JSON schema of what netlab prints.

    For example:
      netlab schema trace > trace.schema.json
    """
    if what not in SCHEMAS:
        raise InputError(f'no schema "{what}"', hint=did_you_mean(what, SCHEMAS) or f"there is {', '.join(SCHEMAS)}")
    if what == "why":
        from netlab.render.why import schema as text
    else:
        from netlab.render.jsonio import schema as text
    emit(text())
    return 0
