"""The hooks of netfilter."""

from __future__ import annotations

import enum


class Hook(enum.Enum):
    """The five places where netfilter looks at an IP packet (include/uapi/linux/netfilter.h)."""

    PREROUTING = "PREROUTING"
    INPUT = "INPUT"
    FORWARD = "FORWARD"
    OUTPUT = "OUTPUT"
    POSTROUTING = "POSTROUTING"
