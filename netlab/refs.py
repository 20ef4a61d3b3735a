"""Ref: where a thing came from, so that every answer can point at the line that caused it."""

from __future__ import annotations

import msgspec


class Ref(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A place in the user's input.

    `file` is the path as the user wrote it ("-" for stdin); `line` counts from 1; `document` is the YAML document
    (from 1) and `path` the field inside it ("items[3].spec.ports[0]"); `object` names a Kubernetes object
    ("Service default/web").
    """

    file: str | None = None
    line: int | None = None
    document: int | None = None
    path: str | None = None
    object: str | None = None

    def __str__(self) -> str:
        place = self.file or ""
        if self.line is not None:
            place += f":{self.line}"
        parts = [place] if place else []
        if self.document is not None:
            parts.append(f"document {self.document}")
        if self.object:
            parts.append(self.object)
        if self.path:
            parts.append(self.path)
        return ", ".join(parts)
