"""A network as a graph in text: Mermaid, Graphviz's dot, JSON. Namespaces, devices, the wires and bridges between them.

Law: what is a node or an edge is decided once (`graph`); names are data, escaped as each language wants it. Beyond MOST pods the
pods of a node are one box with their number, and it says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import msgspec

from netlab.linux.netns import Device, DeviceKind, Netns, NetnsKind
from netlab.linux.network import Network
from netlab.render.columns import clean

MOST = 60  # pods that are drawn each for itself


class GraphDevice(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A device: `master` is its bridge, `peer` the other end of its wire, `segment` the fabric's that it is on."""

    name: str
    kind: str
    mtu: int
    addresses: tuple[str, ...] = ()
    mac: str = ""
    master: str = ""
    peer: str = ""
    segment: str = ""
    tunnel: str = ""


class GraphNamespace(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A network namespace; `pods`: so many that are not drawn one by one."""

    name: str
    kind: str
    devices: tuple[GraphDevice, ...]
    pods: int = 0


class Graph(msgspec.Struct, frozen=True, rename="camel"):
    """Namespaces and the fabric's segments."""

    namespaces: tuple[GraphNamespace, ...]
    segments: tuple[str, ...]


def graph(network: Network, nodes: Iterable[str] = (), pods: bool = False) -> Graph:
    """The graph of a network.

    Parameters
    ----------
    network : Network
    nodes : iterable of str
        These nodes and their pods alone; all where none is named.
    pods : bool
        Each pod for itself, however many there are.
    """
    wanted = set(nodes)
    every = network.namespaces
    machines = [name for name in (network.hosts or every) if name in every and every[name].kind is not NetnsKind.POD]
    if wanted:
        machines = [name for name in machines if name in wanted]
    inside = {name: _pods_of(every[name]) for name in machines}
    each = pods or sum(map(len, inside.values())) <= MOST
    found = []
    for name in machines:
        mine = set(inside[name])
        devices = tuple(_device(d) for d in every[name].devices.values() if each or d.peer is None or d.peer[0] not in mine)
        found.append(GraphNamespace(clean(name), every[name].kind.value, devices, 0 if each else len(mine)))
        if each:
            found += [
                GraphNamespace(clean(pod), "pod", tuple(map(_device, every[pod].devices.values())))
                for pod in inside[name]
                if pod in every
            ]
    used = {d.segment for namespace in found for d in namespace.devices if d.segment}
    return Graph(tuple(found), tuple(sorted(used)))


def _pods_of(netns: Netns) -> list[str]:
    return [d.peer[0] for d in netns.devices.values() if d.peer is not None and d.peer[0] != netns.name]


def _device(device: Device) -> GraphDevice:
    tunnel = f"VXLAN {device.vxlan.vni}" if device.vxlan is not None else ""
    if device.kind is DeviceKind.IPIP:
        tunnel = "IPIP"
    return GraphDevice(
        clean(device.name),
        device.kind.value,
        device.mtu,
        tuple(f"{a.ip}/{a.length}" for a in device.addresses),
        device.mac,
        clean(device.master or ""),
        "/".join(map(clean, device.peer)) if device.peer is not None else "",
        clean(device.segment or ""),
        tunnel,
    )


def to_json(found: Graph) -> str:
    """The graph as JSON."""
    return json.dumps({"apiVersion": "netlab/v1", "kind": "Graph", **msgspec.to_builtins(found)}, indent=2, ensure_ascii=False)


def _drawn(found: Graph) -> Iterator[tuple[GraphNamespace, list[GraphDevice]]]:
    """What a picture shows of each namespace: all but loopback."""
    for namespace in found.namespaces:
        yield namespace, [d for d in namespace.devices if d.name != "lo"]


def _edges(found: Graph) -> Iterator[tuple[str, str, str]]:
    """Wires, ports of bridges, ports on the fabric: (from, to, style), each once."""
    there = {f"{n.name}/{d.name}" for n, devices in _drawn(found) for d in devices}
    done: set[frozenset[str]] = set()
    for namespace, devices in _drawn(found):
        for device in devices:
            own = f"{namespace.name}/{device.name}"
            if device.peer in there and frozenset((own, device.peer)) not in done:
                done.add(frozenset((own, device.peer)))
                yield device.peer, own, "wire"
            if device.master:
                yield own, f"{namespace.name}/{device.master}", "port"
            if device.segment:
                yield own, f"segment {device.segment}", "wire"


def _label(device: GraphDevice) -> list[str]:
    words = [device.name, *(a.partition("/")[0] for a in device.addresses[:1])]
    return [*words, device.tunnel] if device.tunnel else words


def mermaid(found: Graph) -> str:
    """A Mermaid flowchart, as Markdown on GitHub draws it."""
    numbers: dict[str, str] = {}

    def number(name: str) -> str:
        return numbers.setdefault(name, f"n{len(numbers)}")

    lines = ["flowchart TB"]
    for namespace, devices in _drawn(found):
        lines.append(f'  subgraph {number(namespace.name)}["{_entities(namespace.name)}"]')
        for device in devices:
            label = "<br>".join(map(_entities, _label(device)))
            lines.append(f'    {number(f"{namespace.name}/{device.name}")}["{label}"]')
        if namespace.pods:
            lines.append(f'    {number(f"{namespace.name} pods")}(["{namespace.pods} pods"])')
        lines.append("  end")
    lines += [f'  {number(f"segment {name}")}{{{{"{_entities(name)}"}}}}' for name in found.segments]
    lines += [f"  {number(a)} {'---' if style == 'wire' else '-.-'} {number(b)}" for a, b, style in _edges(found)]
    return "\n".join(lines)


def _entities(text: str) -> str:
    """Mermaid's own escapes: everything that could end a label or be markup, as a number."""
    return "".join(c if c.isalnum() or c in " ./:-_,()" else f"#{ord(c)};" for c in text)


def dot(found: Graph) -> str:
    """A graph for Graphviz."""
    lines = ["graph network {", "  graph [rankdir=TB];", "  node [shape=box, style=rounded, fontname=sans];"]
    for n, (namespace, devices) in enumerate(_drawn(found)):
        lines.append(f"  subgraph cluster_{n} {{")
        lines.append(f"    label={_quoted(namespace.name)};")
        for device in devices:
            lines.append(f"    {_quoted(f'{namespace.name}/{device.name}')} [label={_quoted(*_label(device))}];")
        if namespace.pods:
            lines.append(f"    {_quoted(f'{namespace.name} pods')} [label={_quoted(f'{namespace.pods} pods')}, style=dashed];")
        lines.append("  }")
    lines += [f"  {_quoted(f'segment {name}')} [label={_quoted(name)}, shape=hexagon];" for name in found.segments]
    for a, b, style in _edges(found):
        lines.append(f"  {_quoted(a)} -- {_quoted(b)}{' [style=dotted]' if style == 'port' else ''};")
    return "\n".join([*lines, "}"])


def _quoted(*lines: str) -> str:
    """Lines as one of dot's strings."""
    return '"' + "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in lines) + '"'
