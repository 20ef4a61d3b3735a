"""nft is the judge of its text: it takes what netlab writes, and lists it as netlab writes it.

Law: but for the order of a set's elements, which is that of the kernel's hash tables, and the flag of sets that rules fill.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace
from namespaces import Namespaces, router

from netlab.lab.fuzz_nft import NftMaker
from netlab.linux import nft as n
from netlab.linux.nft import NftTable
from netlab.linux.text.nft import read_json, read_text, write_text

DATA = Path(__file__).parents[1] / "data"
RECORDED = [*sorted((DATA / "kube-proxy-1.30.5").glob("*/nftables/*.nft"))]


@pytest.fixture(scope="module")
def lab(kernel: None) -> Iterator[Namespaces]:
    with router() as made:
        yield made


def sorted_sets(tables: tuple[NftTable, ...]) -> list[NftTable]:
    """The tables with all elements, of named and anonymous sets, in one order."""
    return [
        replace(
            table,
            sets={name: replace(made, elements=tuple(sorted(made.elements, key=repr))) for name, made in table.sets.items()},
            chains={
                name: replace(chain, rules=tuple(replace(r, statements=tuple(map(statement, r.statements))) for r in chain.rules))
                for name, chain in table.chains.items()
            },
        )
        for table in tables
    ]


def statement(given: n.Statement) -> n.Statement:
    match given:
        case n.Compare(right=n.SetLiteral() as literal):
            return replace(given, right=in_order(literal))
        case n.Vmap(data=n.SetLiteral() as literal):
            return replace(given, data=in_order(literal))
    return given


def in_order(literal: n.SetLiteral) -> n.SetLiteral:
    return n.SetLiteral(tuple(sorted(literal.elements, key=repr)))


def loaded(lab: Namespaces, text: str) -> str:
    lab.run("router", "nft", "-f", "-", input=f"flush ruleset\n{text}")
    return lab.run("router", "nft", "list", "ruleset")


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parts[-3]}-{path.name}")
def test_recordings_load_and_list_again(lab: Namespaces, path: Path) -> None:
    tables = read_text(path.read_text())
    assert sorted_sets(read_text(loaded(lab, write_text(tables)))) == sorted_sets(tables)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("seed", range(8))
def test_random_rulesets_load_and_list_again(lab: Namespaces, family: int, seed: int) -> None:
    tables = NftMaker(Random(f"text {seed}"), family).nft_ruleset().nft_tables
    listed = loaded(lab, write_text(tables))
    assert write_text(read_text(listed)) == listed  # letter by letter
    settled = loaded(lab, listed)  # nft 1.0.6 leaves out some `meta l4proto` only when it meets it for the second time
    assert sorted_sets(read_text(loaded(lab, settled))) == sorted_sets(read_text(settled))


def test_the_kernels_json_and_text_are_one_value(lab: Namespaces) -> None:
    loaded(lab, write_text(NftMaker(Random("both"), 4).nft_ruleset().nft_tables))
    from_json = read_json(lab.run("router", "nft", "-j", "list", "ruleset"))
    from_text = read_text(lab.run("router", "nft", "list", "ruleset"))
    for one, other in zip(sorted_sets(from_json), sorted_sets(from_text), strict=True):
        assert one.chains == other.chains
        assert one.sets.keys() == other.sets.keys()
