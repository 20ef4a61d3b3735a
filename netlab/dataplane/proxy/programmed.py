"""What a service proxy leaves on one node: the answer of every mode, in the kernel's vocabulary.

Law: one value for all modes, so that build.py need not know them. Rulesets are made when they are first looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from netlab.linux.ipvs import VirtualService
from netlab.linux.netns import Device, Listener
from netlab.linux.rules import Ruleset
from netlab.linux.sets import IpSet


class Programmed(msgspec.Struct, frozen=True):
    """Rules by family (made on demand), and what else the mode needs: devices, ipsets, virtual services, sysctls, sockets."""

    ruleset: Callable[[int], Ruleset]
    devices: tuple[Device, ...] = ()
    sets: Mapping[str, IpSet] = {}
    ipvs: tuple[VirtualService, ...] = ()
    sysctls: Mapping[str, int] = {}
    listeners: tuple[Listener, ...] = ()
