"""Random packets as a hook sees them, for the matching core: whatever a match may ask about is drawn."""

from __future__ import annotations

from random import Random
from typing import Any

from msgspec.structs import replace

from netlab.lab.fuzz_generate import MARKS, Maker
from netlab.linux.conntrack import Connection, CtState, CtView
from netlab.linux.netns import Netns
from netlab.linux.packet import Flow, Packet
from netlab.linux.rules import Hook
from netlab.match.view import View

_IN = {Hook.PREROUTING, Hook.INPUT, Hook.FORWARD}
_OUT = {Hook.OUTPUT, Hook.POSTROUTING, Hook.FORWARD}
_MACS = ("", "", "02:00:00:00:01:02", "02:00:00:00:02:02", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01")


def view_of(rng: Random, maker: Maker, packet: Packet, netns: Netns, hook: Hook) -> View:
    """A packet at a hook with everything around it drawn at random."""

    def often(percent: int) -> bool:
        return rng.random() * 100 < percent

    devices = [*netns.devices, "eth7"]
    packet = replace(
        packet, mark=rng.choice(MARKS) if often(50) else 0, sport_random=often(8), src_mac=rng.choice(_MACS), dst_mac=rng.choice(_MACS)
    )
    fields: dict[str, Any] = {
        "indev": rng.choice(devices) if hook in _IN or (hook is Hook.POSTROUTING and often(70)) else "",
        "outdev": rng.choice(devices) if hook in _OUT else "",
        "local": hook is Hook.OUTPUT or (hook is Hook.POSTROUTING and often(50)),
    }
    if often(10):
        fields |= {"physin": "eth1", "physout": rng.choice(("eth0", ""))}
    return View(packet, hook, netns, ct=_ct(rng, maker, packet), **fields)


def _ct(rng: Random, maker: Maker, packet: Packet) -> CtView | None:
    if rng.random() < 0.1:
        return None
    state = rng.choice((CtState.NEW, CtState.NEW, CtState.NEW, *CtState))
    if state in (CtState.INVALID, CtState.UNTRACKED):
        return CtView(state)
    flow = packet.flow if rng.random() < 0.8 else maker.opening()[1].flow
    back = flow.reversed() if rng.random() < 0.6 else Flow(flow.protocol, maker.one(maker.addresses), 80, flow.src, 4000)
    bits = {name: rng.random() < 0.3 for name in ("confirmed", "seen_reply", "assured", "snat", "dnat", "random_port")}
    bits |= {name: rng.random() < 0.15 for name in ("src_done", "dst_done")}
    connection = Connection(flow, back, mark=rng.choice(MARKS) if rng.random() < 0.5 else 0, **bits)  # type: ignore[arg-type]
    return CtView(state, connection, rng.random() < 0.3)
