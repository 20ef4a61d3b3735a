"""A finding of lint: the value that checks make and render/lint.py prints."""

from __future__ import annotations

import enum

import msgspec

from netlab.refs import Ref


class Severity(enum.Enum):
    """How sure it is that something is wrong; the words are SARIF's levels."""

    ERROR = "error"  # it cannot work
    WARNING = "warning"  # it most likely does not do what was meant
    NOTE = "note"  # worth knowing


class Finding(msgspec.Struct, frozen=True, rename="camel"):
    """One finding: the check's name, what is so, what to do, and where it is written."""

    check: str
    severity: Severity
    what: str
    fix: str
    object: str
    ref: Ref
