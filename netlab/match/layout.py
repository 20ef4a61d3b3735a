"""How a hook's rules are found: by which tables, rule by rule, or by asking the twin; one row for chains that are alike.

Law: what is told is what `program.py` has chosen, not what it might. Nothing is asked of a packet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from netlab.linux.matches import Match
from netlab.linux.netns import Netns
from netlab.linux.rules import Hook
from netlab.linux.text import nft_words as words
from netlab.match.atoms import ASK, U32, Branch, Tree
from netlab.match.lowered import NftMatch
from netlab.match.packets import Field
from netlab.match.program import MIN_ALIKE, ChainCode, Program, compile_hook

MAX_ASKED = 1000  # rules: in longer chains nobody looks at each


class Row(NamedTuple):
    """A chain: its name, how many more are like it, its rules, and in words how they are found."""

    hook: str
    table: str
    chain: str
    alike: int
    rules: int
    found: str


def layout(netns: Netns, family: int) -> Iterator[Row]:
    """The chains of all hooks in the order in which packets come to them.

    Parameters
    ----------
    netns : Netns
    family : int
        Of the packets.
    """
    for hook in Hook:
        program = compile_hook(netns, family, hook)
        rows: dict[object, Row] = {}
        for chain in program.layout():
            shape = program.shapes(chain.table).chain(chain.name)
            key = (chain.table.name, chain.name if shape is None else shape.number)
            known = rows.get(key)
            if known is None:
                row = Row(hook.name.lower(), chain.table.name, chain.name, 0, len(chain.rules), _words(program, chain))
                rows[key] = row
            else:
                rows[key] = known._replace(alike=known.alike + 1)
        yield from rows.values()


def _words(program: Program, chain: ChainCode) -> str:
    parts = [f"hash of {_fields(group.shape, program.family)}: {group.rules}" for group in chain.groups]
    if chain.cut is not None:
        trees = "tree" if chain.cut.trees == 1 else "trees"
        fields = ", ".join(dict.fromkeys(Field(_base(field)).name.lower() for field in chain.cut.fields))
        parts.append(f"cuts of {fields}: {chain.cut.rules} in {chain.cut.trees} {trees}, {_size(chain.cut.size)}")
    rest = len(chain.unindexed) if chain.dispatch >= 0 else len(chain.rules)
    if rest:
        parts.append(f"rule by rule: {rest}")
    if chain.groups:
        kinds = [len(found) for found in program.kinds(chain).values() if len(found) >= MIN_ALIKE]
        if kinds:
            parts.append(f"alike: {sum(kinds)} of {len(kinds)} {'kind' if len(kinds) == 1 else 'kinds'}")
    if len(chain.rules) <= MAX_ASKED:
        codes = [program.code(chain, position) for position in range(len(chain.rules))]
        asked = sorted({_name(item.match) for code in codes for item in code.items if _asks(item.tree)})
        if asked:
            parts.append(f"asked packet by packet: {', '.join(asked)}")
        left = sum(program.is_for_twin(code) for code in codes)
        if left:
            parts.append(f"packets are walked one by one from {left} of them on")
    return "; ".join(parts)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB" if count >= 100 else f"{count} bytes"


def _fields(shape: tuple[tuple[int, int], ...], family: int) -> str:
    """The fields of a key: `src/24, protocol, dport`; a mask that is no prefix in hexadecimal digits."""
    masks: dict[int, int] = {}
    bits = 32 if family == 4 else 128
    for field, mask in shape:
        base = _base(field)
        masks[base] = masks.get(base, 0) | mask << 32 * (field - base)
    found = []
    for base, mask in masks.items():
        host = mask ^ (1 << bits) - 1 if base in (Field.SRC, Field.DST) else mask ^ U32
        prefix = bits - host.bit_length() if base in (Field.SRC, Field.DST) and host & (host + 1) == 0 else -1
        found.append(Field(base).name.lower() + ("" if not host else f"/{prefix}" if prefix >= 0 else f"/{mask:x}"))
    return ", ".join(found)


def _base(field: int) -> int:
    """The first word of an address, of which a field is one."""
    return field if field >= Field.ORIG_SRC else Field.DST if field >= Field.DST else Field.SRC


def _name(match: Match | NftMatch) -> str:
    """The name of a match that only the twin knows."""
    return words.expression_text(match.compare.left) if isinstance(match, NftMatch) else type(match).__name__.lower()


def _asks(tree: Tree) -> bool:
    return isinstance(tree, Branch) and (tree.atom[0] == ASK or _asks(tree.yes) or _asks(tree.no))
