"""Random rulesets through a real kernel and through netlab: a bounded round, what earlier rounds taught, and the fuzzer itself.

A case in tests/data/regressions is a ruleset and a conversation, shrunk; its `why` is the fact. Its rules and packets must do in
Linux what netlab says: every rule hit, everything that leaves the router. A longer round: `netlab lab verify --rulesets N`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from netlab.lab.fuzz_bench import Bench
from netlab.lab.fuzz_rules import Case, fuzz_rulesets, judge, play, prepared, read_case
from netlab.linux.matches import Ttl
from netlab.match import naive
from netlab.match.view import View

CASES = sorted((Path(__file__).parents[1] / "data" / "regressions").glob("*.json"))
VARIANTS = ("legacy", "nft")


@pytest.fixture(scope="module")
def benches(kernel: None) -> Iterator[dict[tuple[str, int], Bench]]:
    with ExitStack() as stack:
        yield {(variant, family): stack.enter_context(Bench(variant, family)) for variant in VARIANTS for family in (4, 6)}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_what_we_learned_still_holds(benches: dict[tuple[str, int], Bench], path: Path, variant: str) -> None:
    case = read_case(path)
    links, _ = prepared(case.rules, case.sets, case.family)
    bench = benches[variant, case.family]
    bench.load(case.rules, case.sets)
    found = judge(links, case.packets, play(bench, case.packets))
    assert found.difference == "", f"{case.why}\npacket {found.agreed}: {found.difference}"
    assert found.agreed > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_random_rulesets_do_what_netlab_says(kernel: None, variant: str) -> None:
    report = fuzz_rulesets(12, 2026, variant, most_disagreements=1)
    assert report.disagreements == [], "\n".join(map(str, report.disagreements))
    assert report.unsteady == 0
    assert report.packets > 700
    assert report.unknown < report.packets / 20
    assert len(report.matches) > 20
    assert len(report.targets) > 12


def test_a_mistake_of_netlab_is_found_and_shrunk(kernel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same round with a netlab that takes every TTL to be one less: one rule and one packet are left of the first case."""
    right = naive.HOLDS[Ttl]

    def wrong(match: Ttl, view: View) -> object:
        return right(Ttl(match.family, match.op, match.value + 1, match.negate), view)

    monkeypatch.setitem(naive.HOLDS, Ttl, wrong)  # type: ignore[arg-type]
    report = fuzz_rulesets(12, 2026, "legacy", most_disagreements=1)
    assert len(report.disagreements) == 1
    case = report.disagreements[0].case
    rules = [line for line in case.rules.splitlines() if line.startswith("-A")]
    assert len(case.packets) == 1
    assert any("-ttl-" in line or "-hl-" in line for line in rules)
    assert len(rules) <= 3  # the rule, and at most what leads to it


def test_a_case_survives_its_file(tmp_path: Path) -> None:
    case = read_case(CASES[0])
    path = tmp_path / "case.json"
    path.write_text(case.dump())
    assert read_case(path) == case
    assert isinstance(case, Case)
