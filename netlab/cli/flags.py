"""The flags that commands share, spelled as kubectl spells them, and what they open: a cluster, a tracer.

Law: a flag means the same in every command. stdout is the answer, stderr carries notes; -q silences notes, never errors.
Nothing heavy is imported here: the stages are imported by the functions that use them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from netlab.errors import InputError

if TYPE_CHECKING:
    from cyclopts import Token

    from netlab.kube.cluster import Cluster
    from netlab.kube.topology import Overrides
    from netlab.trace.query import Request, Tracer

STDIN = "-"
PLAIN_STDIN = "<stdin>"  # how main() hands a positional "-" through cyclopts, which takes a lone dash for an option

CLUSTER = Group("Cluster", sort_key=1)
PACKET = Group("Packet", sort_key=2)
OUTPUT = Group("Output", sort_key=3)
_SHOWN = 20  # characters of a wrong value that are repeated

def _whole(_: object, tokens: Sequence[Token]) -> int:
    """A whole number as people write one; the library would round 1.5 to 2, and repeat a thousand digits."""
    text = tokens[0].value
    if re.fullmatch(r"[+-]?[0-9]{1,12}", text) is None:
        raise ValueError(f'"{text if len(text) <= _SHOWN else text[:_SHOWN] + "..."}" is no whole number that has a meaning here')
    return int(text)


Whole = Annotated[int, Parameter(converter=_whole)]
Color = Annotated[
    Literal["auto", "always", "never"],
    Parameter(group=OUTPUT, help="Colour: on a terminal, always or never. NO_COLOR is respected."),
]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFlags:
    """Which cluster, and what to believe about it."""

    filename: Annotated[
        tuple[str, ...],
        Parameter(
            alias="-f",
            negative=(),
            allow_leading_hyphen=True,
            group=CLUSTER,
            metavar="FILE|DIR|-",
            help="What `kubectl get -o json|yaml` printed, manifests, or a netlab Topology. Repeatable. "
            "Without it: an example cluster that netlab carries.",
        ),
    ] = ()
    namespace: Annotated[
        str, Parameter(alias="-n", group=CLUSTER, metavar="NAME", help="Namespace of names that do not give one.")
    ] = "default"
    observed: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            group=CLUSTER,
            metavar="NODE=DIR",
            help="Dumps taken on a node (`netlab snapshot` takes them), used instead of what should be there: iptables-save, "
            "ip6tables-save, nft.json or nft, ipset, ipvsadm, sysctl, ip-addr.json, ip-link.json, ip-route.json, "
            "ip6-route.json, ip-rule.json, ip6-rule.json, ip-neigh.json, fdb.json. Repeatable.",
        ),
    ] = ()
    cni: Annotated[str | None, Parameter(group=CLUSTER, metavar="NAME", help="flannel, calico, canal or none.")] = None
    proxy_mode: Annotated[
        str | None, Parameter(group=CLUSTER, metavar="MODE", help="kube-proxy's mode: iptables, nftables, ipvs or userspace.")
    ] = None
    kube_proxy_version: Annotated[
        str | None,
        Parameter(group=CLUSTER, metavar="VERSION", help="Whose rules nftables mode writes: 1.30 (the default) to 1.34."),
    ] = None
    cluster_cidr: Annotated[
        str | None, Parameter(group=CLUSTER, metavar="CIDR[,CIDR]", help="The pod network, as kube-proxy's --cluster-cidr.")
    ] = None
    service_cidr: Annotated[str | None, Parameter(group=CLUSTER, metavar="CIDR[,CIDR]", help="Where ClusterIPs come from.")] = (
        None
    )
    quiet: Annotated[bool, Parameter(alias="-q", negative=(), group=OUTPUT, help="No notes on stderr.")] = False


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class PacketFlags:
    """Which packet is sent."""

    proto: Annotated[
        Literal["tcp", "udp", "sctp", "icmp"] | None,
        Parameter(group=PACKET, help="Protocol. Without it: that of the port that is meant, else tcp."),
    ] = None
    at: Annotated[
        str | None,
        Parameter(group=PACKET, metavar="NODE", help="The node at which a packet from outside (`internet`, an address) arrives."),
    ] = None
    family: Annotated[Literal[4, 6] | None, Parameter(group=PACKET, help="IP family, where names have addresses of both.")] = None
    size: Annotated[
        Whole | None, Parameter(group=PACKET, metavar="BYTES", help="Length of the IP packet, to see where MTUs bite.")
    ] = None


def note(flags: ClusterFlags, text: str) -> None:
    """One line for the person, not for the pipe."""
    if not flags.quiet:
        print(f"netlab: {text}", file=sys.stderr)


def emit(text: str) -> None:
    """The answer: `text` on stdout, ending in exactly one newline; nothing at all for an empty answer."""
    if text:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")


def color(choice: str) -> bool:
    """Whether to paint: https://no-color.org, and never into a pipe unless asked to."""
    if choice != "auto":
        return choice == "always"
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def progress(flags: ClusterFlags, total: int, what: str) -> Callable[[int], None]:
    """A line on a terminal that counts up; silence anywhere else."""
    if flags.quiet or not sys.stderr.isatty():
        return lambda done: None

    def show(done: int) -> None:
        end = "\r\x1b[K" if done >= total else "\r"
        print(f"\r{done} of {total} {what}", end=end, file=sys.stderr, flush=True)

    return show


def open_cluster(flags: ClusterFlags) -> Cluster:
    """Read what -f names, or the embedded topology, and say on stderr what was passed over."""
    from netlab.kube.load import load

    cluster = load(files(flags), sys.stdin, overrides(flags))
    for text in cluster.notes:
        note(flags, text)
    return cluster


def open_pair(
    flags: ClusterFlags, before: tuple[str, ...], after: tuple[str, ...], changes: tuple[str, ...], without: tuple[str, ...]
) -> tuple[Cluster, Cluster]:
    """Two states: what -f names and `before`, against -f and `after` with `changes` and `without`."""
    from netlab.kube.load import load_pair

    common = flags.filename or (() if before else _example(flags))
    pair = load_pair(common, before, after, changes, without, sys.stdin, overrides(flags))
    for text in dict.fromkeys([*pair[0].notes, *pair[1].notes]):
        note(flags, text)
    return pair


def files(flags: ClusterFlags) -> tuple[str, ...]:
    """What -f names, or the embedded topology."""
    return flags.filename or _example(flags)


def _example(flags: ClusterFlags) -> tuple[str, ...]:
    from netlab.kube import embedded

    note(flags, "no -f given: this is the example cluster that netlab carries (topologies/flannel-vxlan.yaml)")
    return (_relative(embedded.path_of_default()),)


def overrides(flags: ClusterFlags) -> Overrides:
    """What the flags say of the cluster itself."""
    from netlab.kube.topology import Overrides

    return Overrides(
        cni=flags.cni,
        proxy_mode=flags.proxy_mode,
        kube_proxy_version=flags.kube_proxy_version,
        cluster_cidr=flags.cluster_cidr,
        service_cidr=flags.service_cidr,
        namespace=flags.namespace,
    )


def open_tracer(flags: ClusterFlags) -> tuple[Cluster, Tracer]:
    """The cluster, and its tracer with what was observed in its place."""
    observed = _observed(flags.observed)
    cluster = open_cluster(flags)
    from netlab.trace.query import Tracer

    return cluster, Tracer(cluster, observed)


def request(source: str, destination: str, cluster: ClusterFlags, packet: PacketFlags) -> Request:
    """What `trace` and `can` ask."""
    from netlab.trace.query import Request

    if packet.size is not None and not 28 <= packet.size <= 65535:
        raise InputError(f"--size {packet.size}: an IP packet has 28 (headers of IPv4 and UDP) to 65535 bytes")
    return Request(
        source,
        destination,
        protocol=packet.proto,
        namespace=cluster.namespace,
        at=packet.at,
        family=packet.family,
        size=packet.size,
    )


def _observed(pairs: tuple[str, ...]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        node, equals, directory = pair.partition("=")
        if not (node and equals and directory):
            raise InputError(f'--observed "{pair}" is not NODE=DIR', hint="for example: --observed node-1=dumps/node-1/")
        if node in found:
            raise InputError(f'--observed names "{node}" twice: {found[node]} and {directory}')
        found[node] = directory
    return found


def _relative(path: Path) -> str:
    """The path as somebody who stands here would type it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
