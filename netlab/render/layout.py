"""Where everything stands in the drawing of a network: machines as columns, the fabric below, the outside below that.

    +- node-1 ----------------+  +- node-2 ---------+  +----------+
    | [web-0] [api-0] [+98]   |  | [api-1]          |  | +47 nodes|
    | [====== cni0 ========]  |  | [==== cni0 ====] |  +----------+
    | [kernel              ]  |  | [kernel        ] |
    | [flannel.1] [eth0    ]  |  | [flannel.1][eth0]|
    +-----------------|-------+  +-------------|----+
    [========================= fabric ==============]

Law: a pure function; every coordinate is computed here, whoever draws only draws. What is `shown` is drawn in full, the rest is a
badge with a number, so that 50 nodes and 1,000 pods stay legible; nodes that are not drawn in full are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import msgspec

from netlab.linux.netns import Device, DeviceKind, Netns, NetnsKind
from netlab.linux.network import Network

MACHINES = 4  # drawn at most beside those of the path; what is left is one badge
PODS = 6, 2  # drawn on one machine in the picture of a whole network: of a small one, of one with more nodes than MACHINES

_POD, _BADGE, _GAP, _PAD = 118, 66, 12, 12  # widths, and spaces between
_NARROW, _INNER = 104, 224  # a machine off the path; the least width inside one on it
_TITLE, _BOX, _PORT, _BAR = 32, 48, 20, 42  # heights
_WIRE, _FABRIC_WIRE = 48, 62  # lengths
_OVERLAYS = (DeviceKind.VXLAN, DeviceKind.IPIP)


class Box(msgspec.Struct, frozen=True):
    """A thing in the drawing: x and y are its middle.

    `kind`: machine, outside, pod, hostpod, port, bridge, kernel, overlay, physical, segment, or badge (so many of what is not
    drawn). `place` is the namespace that it is in. `dim`: not on the path.
    """

    id: str
    kind: str
    label: str
    detail: str
    x: float
    y: float
    w: float
    h: float
    place: str = ""
    dim: bool = False


class Wire(msgspec.Struct, frozen=True):
    """A line between two boxes, from (x1, y1) to (x2, y2)."""

    id: str
    a: str
    b: str
    x1: float
    y1: float
    x2: float
    y2: float
    dim: bool = False


class Layout(msgspec.Struct, frozen=True, dict=True):
    """Boxes, containers first, and wires; the drawing's size."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    wires: tuple[Wire, ...]

    @cached_property
    def box(self) -> Mapping[str, Box]:
        return {box.id: box for box in self.boxes}

    @cached_property
    def _next(self) -> Mapping[str, list[tuple[str, str]]]:
        found: dict[str, list[tuple[str, str]]] = {}
        for wire in self.wires:
            found.setdefault(wire.a, []).append((wire.b, wire.id))
            found.setdefault(wire.b, []).append((wire.a, wire.id))
        return found

    def way(self, start: str, end: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The boxes and wires of the shortest way from one box to another, both ends among them; nothing where there is none."""
        came: dict[str, tuple[str, str]] = {start: ("", "")}
        queue = [start]
        for here in queue:
            if here == end:
                break
            for there, wire in self._next.get(here, ()):
                if there not in came:
                    came[there] = (here, wire)
                    queue.append(there)
        if end not in came or start not in self.box:
            return (), ()
        boxes, wires = [end], []
        while boxes[-1] != start:
            before, wire = came[boxes[-1]]
            boxes.append(before)
            wires.append(wire)
        return tuple(reversed(boxes)), tuple(reversed(wires))


def kernel_id(netns: str) -> str:
    return f"{netns} kernel"


def device_id(netns: str, device: str) -> str:
    return f"{netns} device {device}"


def segment_id(name: str) -> str:
    return f"segment {name}"


def hostpod_id(netns: str, pod: str) -> str:
    return f"{netns} runs {pod}"


class Shown(msgspec.Struct, frozen=True):
    """What is drawn in full: machines (nodes, the outside), pods, and pods in their node's own namespace as (node, pod);
    `devices` are those that the way uses, as (namespace, device)."""

    machines: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    hostpods: tuple[tuple[str, str], ...] = ()
    devices: tuple[tuple[str, str], ...] = ()


def everything(network: Network, machines: int = 8) -> Shown:
    """A network's whole picture: its first machines, some pods of each, and the outside."""
    names = _machines(network)
    nodes = [name for name in names if network.namespaces[name].kind is NetnsKind.NODE][:machines]
    most = PODS[len(nodes) > MACHINES]
    pods = [pod for name in nodes for pod in _pods_of(network.namespaces[name])[:most]]
    outside = [name for name in names if network.namespaces[name].kind is NetnsKind.EXTERNAL]
    return Shown((*nodes, *outside), tuple(pods))


def layout(network: Network, shown: Shown) -> Layout:
    """Where everything stands.

    Parameters
    ----------
    network : Network
    shown : Shown
        What is drawn in full, machines in this order from the left, but those of a segment side by side. Names that the network
        does not have are passed over.

    Returns
    -------
    Layout
        In pixels at a font of 12; x to the right, y down, nothing left of or above 0.
    """
    spaces = network.namespaces
    names = _machines(network)
    outside = [name for name in names if name in shown.machines and spaces[name].kind is NetnsKind.EXTERNAL]
    nodes = [name for name in names if spaces[name].kind is not NetnsKind.EXTERNAL]
    full = [name for name in nodes if name in shown.machines]
    rest = [name for name in nodes if name not in shown.machines]
    narrow = rest if len(nodes) <= max(MACHINES, len(full) + 1) else []
    columns = [_column(network, spaces[name], shown) for name in full] + [_narrow(spaces[name]) for name in narrow]
    place = {name: n for n, name in enumerate(dict.fromkeys((*shown.machines, *names)))}
    columns.sort(key=lambda c: place[c.name])
    first = list(dict.fromkeys(column.segment for column in columns))
    columns.sort(key=lambda c: first.index(c.segment))
    pen = _Pen(_Rows(columns))
    for column in columns:
        pen.machine(column)
    if rest and not narrow:
        drawn = sum(len(c.pods) + c.hidden for c in columns)
        pen.more(len(rest), sum(1 for _ in spaces) - len(names) - drawn)
    pen.fabric(network, outside)
    for name in outside:
        pen.outside(spaces[name])
    return pen.done()


def _machines(network: Network) -> list[str]:
    """Namespaces with ports on the fabric: nodes and the outside."""
    if network.hosts:
        return [name for name in network.hosts if name in network.namespaces]
    return [name for name, netns in network.namespaces.items() if netns.kind is not NetnsKind.POD]


def _pods_of(netns: Netns) -> list[str]:
    """The namespaces at the other ends of a node's veths."""
    return [d.peer[0] for d in netns.devices.values() if d.peer is not None and d.peer[0] != netns.name]


class _Column(msgspec.Struct, frozen=True):
    """A machine: what is drawn in it. `pods` are (pod, its address, device on the machine, the bridge of that)."""

    name: str
    segment: str
    dim: bool = False
    pods: tuple[tuple[str, str, str, str], ...] = ()
    hidden: int = 0
    hostpods: tuple[str, ...] = ()
    bridges: tuple[tuple[str, str], ...] = ()
    overlays: tuple[tuple[str, str], ...] = ()
    physical: tuple[tuple[str, str, str], ...] = ()  # (device, its address, segment)
    kernel: str = ""


def _column(network: Network, netns: Netns, shown: Shown) -> _Column:
    devices = netns.devices.values()
    wanted = set(shown.pods)
    ports = [d for d in devices if d.peer is not None and d.peer[0] != netns.name]
    mine = [d for d in ports if d.peer is not None and d.peer[0] in wanted]
    used = {d.master for d in mine if d.master}
    hidden = len(ports) - len(mine)
    bridges = [d for d in devices if d.kind is DeviceKind.BRIDGE and (d.name in used or (not mine and _has_ports(d, ports)))]
    words = ["IPVS"] if netns.ipvs else []
    return _Column(
        netns.name,
        next((d.segment for d in devices if d.segment), ""),
        False,
        tuple((d.peer[0], _pod_address(network, d), d.name, d.master or "") for d in mine if d.peer is not None),
        hidden,
        tuple(pod for node, pod in shown.hostpods if node == netns.name),
        tuple((d.name, _address(d)) for d in bridges),
        tuple((d.name, _overlay(d)) for d in _overlays(netns, shown)),
        tuple((d.name, _address(d), d.segment or "") for d in devices if d.kind is DeviceKind.PHYSICAL),
        " · ".join(["routes", "netfilter", *words]),
    )


def _narrow(netns: Netns) -> _Column:
    ports = [(d.name, _address(d), d.segment or "") for d in netns.devices.values() if d.kind is DeviceKind.PHYSICAL]
    return _Column(netns.name, ports[0][2] if ports else "", True, hidden=len(_pods_of(netns)), physical=tuple(ports[:1]))


def _has_ports(bridge: Device, ports: Iterable[Device]) -> bool:
    return any(port.master == bridge.name for port in ports)


def _overlays(netns: Netns, shown: Shown) -> list[Device]:
    """The tunnel devices that the way uses; where it uses none the first one, of dual-stack clusters that of IPv4."""
    every = [d for d in netns.devices.values() if d.kind in _OVERLAYS and d.up and (d.addresses or d.vxlan is not None)]
    used = [d for d in every if (netns.name, d.name) in shown.devices]
    return used or every[:1]


def _address(device: Device) -> str:
    """The first address that others know it by."""
    return next((str(a.ip) for a in device.addresses if a.scope == "global"), "")


def _pod_address(network: Network, port: Device) -> str:
    """The address of the pod behind a port."""
    far = network.namespaces[port.peer[0]].devices.get(port.peer[1]) if port.peer is not None else None
    return _address(far) if far is not None else ""


def _overlay(device: Device) -> str:
    return f"VXLAN, VNI {device.vxlan.vni}" if device.vxlan is not None else "IP in IP"


class _Rows:
    """The height of every row; rows that no machine has take no space."""

    def __init__(self, columns: Sequence[_Column]) -> None:
        y = float(_TITLE)
        self.pods = self.ports = self.bridge = 0.0
        if any(c.pods or c.hidden or c.hostpods for c in columns):
            self.pods = y + _BOX / 2
            y += _BOX + _WIRE
            self.ports = y + _PORT / 2
            y += _PORT / 2
            self.bridge = y + _PORT / 2 + _BAR / 2
            y += (_PORT / 2 + _BAR if any(c.bridges for c in columns) else _PORT / 2) + _WIRE
        self.kernel = y + _BOX / 2
        y += _BOX + _WIRE
        self.physical = y + _BAR / 2
        self.bottom = y + _BAR + _PAD
        self.segment = self.bottom + _FABRIC_WIRE - _PAD + _BAR / 2
        self.height = self.bottom


class _Pen:
    """The drawing under way, from left to right."""

    def __init__(self, rows: _Rows) -> None:
        self.rows = rows
        self.x = 0.0
        self.low = rows.bottom
        self.machines: list[Box] = []
        self.boxes: list[Box] = []
        self.wires: list[Wire] = []
        self.on: dict[str, list[Box]] = {}  # ports by segment
        self.bars: dict[str, Box] = {}

    def wire(self, a: Box, b: Box, x: float | None = None, dim: bool = False) -> None:
        """Straight down from `a` to `b`, at `x` or the middle of the narrower one."""
        at = x if x is not None else a.x if a.w <= b.w else b.x
        self.wires.append(Wire(f"{a.id} ~ {b.id}", a.id, b.id, at, a.y + a.h / 2, at, b.y - b.h / 2, dim))

    def add(self, *box: Box) -> Box:
        self.boxes += box
        return box[-1]

    def machine(self, column: _Column) -> None:
        if column.dim:
            self._dim(column)
            return
        rows, name = self.rows, column.name
        cells = len(column.pods) * (_POD + _GAP) + (_BADGE + _GAP if column.hidden else 0)
        cells += len(column.hostpods) * (_POD + _GAP)
        inner = max(float(_INNER), cells - _GAP)
        left, middle = self.x + _PAD, self.x + _PAD + inner / 2
        self._frame(name, "machine", inner + 2 * _PAD)
        kernel = Box(f"{name} kernel", "kernel", "kernel", column.kernel, middle, rows.kernel, inner, _BOX, name)
        x = left + max(0.0, (inner - cells + _GAP) / 2)
        ports: list[tuple[str, Box]] = []
        for pod, address, device, bridge in column.pods:
            box = self.add(Box(pod, "pod", pod.rpartition("/")[2], address, x + _POD / 2, rows.pods, _POD, _BOX, pod))
            port = Box(device_id(name, device), "port", device, "", box.x, rows.ports, _POD - 12, _PORT, name)
            self.wire(box, port)
            ports.append((bridge, port))
            x += _POD + _GAP
        badge = None
        if column.hidden:
            label = f"+{column.hidden}" if column.pods else str(column.hidden)
            what = "pod" if column.hidden == 1 else "pods"
            badge = self.add(Box(f"{name} pods", "badge", label, what, x + _BADGE / 2, rows.pods, _BADGE, _BOX, name, True))
            x += _BADGE + _GAP
        bars = self._bridges(column, ports, badge, middle, inner)
        self.add(kernel)
        for bar in bars.values():
            self.wire(bar, kernel)
        for bridge, port in ports:
            self.add(port)
            if bridge not in bars:
                self.wire(port, kernel)
        if badge is not None and not bars:
            self.wire(badge, kernel, dim=True)
        for pod in column.hostpods:
            label = pod.rpartition("/")[2]
            box = Box(hostpod_id(name, pod), "hostpod", label, "host network", x + _POD / 2, rows.pods, _POD, _BOX, name)
            self.wire(self.add(box), kernel)
            x += _POD + _GAP
        self._bottom(column, kernel, left, inner)
        self.x += inner + 2 * _PAD + _GAP

    def _bridges(
        self, column: _Column, ports: Sequence[tuple[str, Box]], badge: Box | None, middle: float, inner: float
    ) -> dict[str, Box]:
        """A bar below the ports of each bridge; the only one is as wide as the machine."""
        bars: dict[str, Box] = {}
        for bridge, address in column.bridges:
            under = [port for of, port in ports if of == bridge]
            x, w = middle, inner
            if len(column.bridges) > 1 or column.hostpods:
                ends = [*under, badge] if badge is not None else under
                if ends:
                    low, high = min(b.x - b.w / 2 for b in ends) - 6, max(b.x + b.w / 2 for b in ends) + 6
                    x, w = (low + high) / 2, high - low
            id_ = device_id(column.name, bridge)
            bars[bridge] = self.add(Box(id_, "bridge", bridge, address or "bridge", x, self.rows.bridge, w, _BAR, column.name))
            for port in under:  # they touch: a port is a part of its bridge
                self.wires.append(Wire(f"{port.id} ~ {id_}", port.id, id_, port.x, port.y, port.x, port.y))
            if badge is not None and abs(badge.x - x) < w / 2:
                self.wire(badge, bars[bridge], dim=True)
        return bars

    def _bottom(self, column: _Column, kernel: Box, left: float, inner: float) -> None:
        """Overlay devices and ports on the fabric, side by side, each of the kernel's."""
        below: list[tuple[str, str, str, str]] = [("overlay", name, detail, "") for name, detail in column.overlays]
        below += [("physical", name, detail, segment) for name, detail, segment in column.physical]
        if not below:
            return
        each = (inner - _GAP * (len(below) - 1)) / len(below)
        for n, (kind, name, detail, segment) in enumerate(below):
            x = left + each / 2 + n * (each + _GAP)
            id_ = device_id(column.name, name)
            box = self.add(Box(id_, kind, name, detail, x, self.rows.physical, each, _BAR, column.name))
            self.wire(kernel, box, x)
            if kind == "physical":
                self.on.setdefault(segment, []).append(box)

    def _frame(self, name: str, kind: str, width: float, dim: bool = False) -> None:
        height = self.rows.bottom
        self.machines.append(Box(name, kind, name, "", self.x + width / 2, height / 2, width, height, name, dim))

    def _dim(self, column: _Column) -> None:
        rows, name = self.rows, column.name
        width = _NARROW + 2 * _PAD
        x = self.x + width / 2
        self._frame(name, "machine", width, True)
        badge = None
        if column.hidden:
            what = "pod" if column.hidden == 1 else "pods"
            badge = self.add(
                Box(f"{name} pods", "badge", str(column.hidden), what, x, rows.pods or rows.kernel, _BADGE, _BOX, name, True)
            )
        for device, address, segment in column.physical:
            id_ = device_id(name, device)
            box = self.add(Box(id_, "physical", device, address, x, rows.physical, _NARROW, _BAR, name, True))
            if badge is not None:
                self.wire(badge, box, dim=True)
            self.on.setdefault(segment, []).append(box)
        self.x += width + _GAP

    def more(self, machines: int, pods: int) -> None:
        """One box for all the machines that are not drawn."""
        width = _NARROW + 2 * _PAD
        what = ("node" if machines == 1 else "nodes") + (f" with {pods} pod{'s' if pods != 1 else ''}" if pods > 0 else "")
        self.add(Box("more", "badge", f"+{machines}", what, self.x + width / 2, self.rows.kernel, width, 64, "", True))
        self.x += width + _GAP

    def fabric(self, network: Network, outside: Sequence[str]) -> None:
        """A bar for each segment, below the machines on it; what the outside is on is drawn as well."""
        reached = [
            device.segment
            for name in outside
            for device in network.namespaces[name].devices.values()
            if device.segment is not None
        ]
        names = list(self.on)
        names += [name for name in network.segments if name in reached and name not in names]
        self.x = max(self.x, float(_INNER) + _GAP)
        end = self.x - _GAP
        left = 0.0
        for n, name in enumerate(names):
            ports = self.on.get(name, [])
            right = max((b.x + b.w / 2 + _PAD for b in ports), default=left + _INNER)
            later = [b.x - b.w / 2 for other in names[n + 1 :] for b in self.on.get(other, [])]
            right = end if n == len(names) - 1 else min([right, *(at - _PAD - _GAP for at in later)])
            if right <= left:
                right = left + _INNER
                self.x = max(self.x, right + _GAP)
            mtu = network.segments[name].mtu if name in network.segments else 0
            detail = f"fabric, MTU {mtu}" if name != "fabric" else f"MTU {mtu}"
            middle, what = (left + right) / 2, detail if mtu else ""
            bar = Box(segment_id(name), "segment", name or "wire", what, middle, self.rows.segment, right - left, _BAR)
            self.bars[name] = self.add(bar)
            for port in ports:
                self.wire(port, bar, port.x, port.dim)
            left = right + _GAP
        if names:
            self.low = self.rows.segment + _BAR / 2

    def outside(self, netns: Netns) -> None:
        """Everything beyond the fabric, which is also the router between its segments."""
        ports = [d for d in netns.devices.values() if d.kind is DeviceKind.PHYSICAL and d.segment in self.bars]
        ends = [self.bars[d.segment] for d in ports if d.segment is not None]
        width = float(_INNER)
        x = sum(bar.x for bar in ends) / len(ends) if ends else (self.x - _GAP) / 2
        y = self.low + _FABRIC_WIRE + _BOX / 2
        detail = ", ".join(a for d in ports if (a := _address(d)))
        box = self.add(Box(netns.name, "outside", netns.name, detail, x, y, width, _BOX, netns.name))
        each = width / (len(ports) + 1)
        for n, (device, bar) in enumerate(zip(ports, ends, strict=True), 1):
            at = x - width / 2 + each * n
            low, high = bar.x - bar.w / 2 + 8, bar.x + bar.w / 2 - 8
            top = min(max(at, low), high)
            id_ = f"{bar.id} ~ {device_id(netns.name, device.name)}"
            self.wires.append(Wire(id_, bar.id, box.id, top, bar.y + bar.h / 2, at, box.y - box.h / 2))
        self.low = y + _BOX / 2

    def done(self) -> Layout:
        width = max([self.x - _GAP, *(b.x + b.w / 2 for b in (*self.machines, *self.boxes))])
        return Layout(width, self.low, (*self.machines, *self.boxes), tuple(self.wires))
