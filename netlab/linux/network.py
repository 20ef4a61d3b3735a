"""linux.Network: the one value that everything shares: namespaces and the wires between them.

Law: what *should* be on the nodes (compiled from Kubernetes objects) and what *is* on them (parsed from dumps) are the
same type, so the tracer, the lab and the differ serve both.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from netlab.linux.netns import Netns


class Segment(msgspec.Struct, frozen=True):
    """One L2 segment of the fabric; its ports are the physical devices whose `segment` is its name. MTU in bytes."""

    name: str
    mtu: int = 1500


class Network(msgspec.Struct, frozen=True):
    """Namespaces by name (`node-1`, `default/web-0`, `internet`) and fabric segments by name.

    `hosts` names the namespaces that may have ports on a segment; empty means any (and makes all of them be looked at).
    """

    namespaces: Mapping[str, Netns] = {}
    segments: Mapping[str, Segment] = {}
    hosts: tuple[str, ...] = ()
