"""The matching core: a batch is answered as the walk answers each packet, and the walk as the tracer does."""

from __future__ import annotations

from random import Random

import pytest

from netlab.lab.fuzz_bench import ROUTER, model
from netlab.lab.fuzz_generate import SETS, Maker
from netlab.linux.hook import Hook
from netlab.linux.netns import Netns
from netlab.linux.rules import Ruleset
from netlab.linux.text import ipset
from netlab.match.batch import Answer, decide
from netlab.match.packets import Packets
from netlab.match.program import Program, compile_hook
from netlab.match.view import View
from netlab.match.walk import walk
from tests.packet_views import view_of


def router(maker: Maker, rules: Ruleset) -> Netns:
    return model(maker.family, rules, ipset.parse(SETS[maker.family])).namespaces[ROUTER]


def told(program: Program, view: View, answer: Answer, index: int) -> str:
    """Where batch and walk part, with the rules that the packet met."""
    ours, theirs = answer.leaves(index), walk(program.bases, view, program.numbering)
    lines = [f"{view.packet!r}", f"in {view.indev!r} out {view.outdev!r} ct {view.ct}", f"batch {ours}", f"walk  {theirs}"]
    met = sorted({rule for leaf in (*ours, *theirs) for rule in (*leaf.path, leaf.rule)})
    for rule in met:
        place = program.numbering.place(rule)
        lines.append(f"  {rule}: {place.table} {place.chain} {place.number}: {place.rule}")
    return "\n".join(lines)


def agree(program: Program, views: list[View]) -> None:
    """The batch's answer is the walk's, for every packet: verdict, rule, path, marks, targets, probabilities, unknown."""
    answer = decide(program, Packets.of(views, program.names))
    for index, view in enumerate(views):
        expected = walk(program.bases, view, program.numbering)
        assert answer.leaves(index) == expected, told(program, view, answer, index)
        verdicts = {leaf.verdict.value for leaf in expected}
        assert answer.verdict[index] == (expected[0].verdict.value if len(verdicts) == 1 else 255)
        assert (answer.rule[index], answer.count[index]) == (expected[0].rule, len(expected))
        assert (answer.mark[index], answer.connmark[index]) == (expected[0].mark, expected[0].connmark)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("seed", range(12))
def test_random_rulesets(seed: int, family: int) -> None:
    rng = Random(f"core {seed} {family}")
    maker = Maker(rng, family)
    netns = router(maker, maker.ruleset())
    for hook in Hook:
        program = compile_hook(netns, family, hook)
        agree(program, [view_of(rng, maker, maker.opening()[1], netns, hook) for _ in range(40)])
