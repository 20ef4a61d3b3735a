"""Stub."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from netlab.kube.cluster import Cluster
from netlab.linux.derived import IP6_USER_METRIC
from netlab.linux.netns import NextHop, Route, RouteType


class Learned(msgspec.Struct, frozen=True):
    nodes: Mapping[str, tuple[Route, ...]] = {}
    outside: tuple[Route, ...] = ()
    remarks: tuple[str, ...] = ()


def routes(cluster: Cluster) -> Learned:
    found: dict[str, tuple[Route, ...]] = {}
    for name, node in cluster.nodes.items():
        own = []
        for other in cluster.nodes.values():
            for block in cluster.calico.blocks.get(other.name, ()):
                metric = IP6_USER_METRIC if block.family == 6 else 0
                pool = cluster.calico.pool_of(block.address)
                if pool is None or pool.vxlan != "Never":
                    continue
                if other.name == name:
                    own.append(Route(block, type=RouteType.BLACKHOLE, protocol="bird", metric=metric))
                else:
                    via = next(a for a in other.internal_ips if a.family == block.family)
                    own.append(Route(block, (NextHop("eth0", via),), protocol="bird", metric=metric))
        found[name] = tuple(own)
    return Learned(found)
