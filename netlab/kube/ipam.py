"""Calico's IPAM, played: which node has which blocks of the pools, and what addresses pods get from them.

Law: what BlockAffinity objects, pods and annotations say is kept; what nobody says is decided by names alone, never by the order
of the input. A node takes the first free block of a pool where Calico starts from a hash of the node's name; inside a block
addresses go up from its first (libcalico-go/lib/ipam). An address outside its node's blocks was borrowed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from netlab.errors import InputError
from netlab.kube.cluster import IpPool
from netlab.kube.objects import Node
from netlab.linux.addr import Ip, Prefix, mask_of


def block_of(pool: IpPool, address: Ip) -> Prefix:
    """The block of a pool that an address lies in.

    >>> from netlab.linux.addr import ip, prefix
    >>> str(block_of(IpPool("p", prefix("10.244.0.0/16")), ip("10.244.1.70")))
    '10.244.1.64/26'
    """
    length = max(pool.block_size, pool.cidr.length)
    return Prefix(address.family, address.value & mask_of(address.family, length), length)


class Ipam:
    """Hands out blocks and addresses; every block has one owner, every address is given once."""

    def __init__(self, pools: Sequence[IpPool], blocks: Mapping[str, Iterable[Prefix]], used: Iterable[Ip]) -> None:
        self.pools = pools
        self.blocks: dict[str, list[Prefix]] = {node: sorted(own) for node, own in blocks.items()}
        self.taken = {block for own in self.blocks.values() for block in own}
        self.used = set(used)

    def claim(self, node: Node, pool: IpPool) -> Prefix:
        """The next free block of a pool, which now belongs to the node."""
        length = max(pool.block_size, pool.cidr.length)
        for block in _blocks(pool.cidr, length):
            if block not in self.taken and block.length >= pool.cidr.length:
                self.taken.add(block)
                self.blocks.setdefault(node.name, []).append(block)
                self.blocks[node.name].sort()
                return block
        raise InputError(f"the pool {pool.cidr} has no block left for node {node.name}", pool.ref or None, "give it a wider cidr")

    def address(self, node: Node, family: int, pools: Sequence[IpPool]) -> Ip:
        """The next address for something on a node: from its own blocks first, else from a new one."""
        for block in self.blocks.get(node.name, ()):
            if block.family == family and any(block.address in pool.cidr for pool in pools):
                found = self._free(block)
                if found is not None:
                    return found
        pool = next((p for p in pools if p.cidr.family == family), None)
        if pool is None:
            raise InputError(f"no pool of IPv{family} addresses is open to node {node.name}", node.ref or None, "add an IPPool")
        found = self._free(self.claim(node, pool))
        if found is None:
            raise InputError(f"the pool {pool.cidr} has no address left for node {node.name}", pool.ref or None)
        return found

    def _free(self, block: Prefix) -> Ip | None:
        for n in range(block.size):
            address = block.nth(n)
            if address not in self.used:
                self.used.add(address)
                return address
        return None


def _blocks(cidr: Prefix, length: int) -> Iterator[Prefix]:
    step = 1 << ((32 if cidr.family == 4 else 128) - length)
    for i in range(1 << (length - cidr.length)):
        yield Prefix(cidr.family, cidr.value + i * step, length)


def shown_blocks(
    pools: Sequence[IpPool], pods: Iterable[tuple[str, Ip]], known: Mapping[str, Sequence[Prefix]]
) -> dict[str, list[Prefix]]:
    """node -> blocks: those of BlockAffinity objects, and every other block that pods show: it belongs to the node that has most
    pods in it (of equals, the first by name)."""
    owners = {block: node for node, own in known.items() for block in own}
    users: dict[Prefix, Counter[str]] = {}
    for node, address in pods:
        pool = next((p for p in pools if address in p.cidr), None)
        if pool is not None and not any(address in block for block in owners):
            users.setdefault(block_of(pool, address), Counter())[node] += 1
    found: dict[str, list[Prefix]] = {node: list(own) for node, own in known.items()}
    for block in sorted(users):
        node = min(users[block], key=lambda name: (-users[block][name], name))
        found.setdefault(node, []).append(block)
    return {node: sorted(own) for node, own in found.items()}
