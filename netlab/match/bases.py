"""The base chains that the packets of a family meet at a hook, of iptables, nft and IPVS, in the order in which Linux runs them.

    linux/plan.py  -->  Base (table, chain), ...        nft's and IPVS's are lowered to the rule IR (lower_nft.py, lower_ipvs.py)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netlab.linux.hooks import Function
from netlab.linux.netns import Netns
from netlab.linux.nft import NftTable
from netlab.linux.plan import NatChain, plans
from netlab.linux.rules import Hook, Table
from netlab.match import lower_ipvs, lower_nft
from netlab.match.walk import Base


def bases(netns: Netns, family: int, hook: Hook, tables: Sequence[str] = ()) -> tuple[Base, ...]:
    """The base chains at a hook; `tables` picks some by name: "nat", "nft ip kube-proxy", "ipvs"."""
    return tuple(base for base in _all(netns, family, hook) if not tables or base.table.name in tables)


def _all(netns: Netns, family: int, hook: Hook) -> Iterator[Base]:
    def of(chain: NatChain) -> Base:
        table = chain[0]
        if isinstance(table, NftTable):
            lowered = lower_nft.lower(table, family, netns)
            return Base(lowered, lowered.chains[chain[1].name])
        return Base(table, table.chains[chain[1].name])

    for stage in plans(netns, family).get(hook, ()):
        if stage.nft is not None:
            yield of(stage.nft)
        elif isinstance(stage.table, Table) and stage.chain is not None:
            yield Base(stage.table, stage.chain)
        elif stage.function is Function.IPVS_REQUEST:
            table = lower_ipvs.lower(netns, family, hook)
            yield Base(table, table.chains["ipvs"])
        else:
            yield from map(of, stage.chains)
