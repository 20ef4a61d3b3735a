"""Linux chooses among the endpoints of a service as often as netlab says."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest

from netlab.cli.main import main
from netlab.lab.frequencies import chi_squared_p


def test_the_example_cluster_chooses_evenly(kernel: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "verify", "-q", "--kernel", "host", "--flows", "60", "--rules", "2", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "60 flows: 60 agree" in out
    assert len(re.findall(r"chi-squared p = ", out)) == 3


@pytest.mark.parametrize(
    ("counted", "low", "high"),
    # the tail of the chi-squared distribution by tables: 3.84 and 5.99 are its 5 % points for 1 and 2 degrees of freedom
    [([150, 150], 1.0, 1.0), ([167, 133], 0.04, 0.06), ([124, 92, 84], 0.005, 0.02), ([300, 0], 0.0, 1e-12)],
)
def test_the_tail_of_chi_squared(counted: list[int], low: float, high: float) -> None:
    assert low <= chi_squared_p(counted, [Fraction(1, len(counted))] * len(counted)) <= high
