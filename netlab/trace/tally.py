"""Who wants to count what a walk looks at, and not only what matched.

Law: netfilter.py and nftables.py tell a tally of every rule and statement at the moment at which the kernel would look at it; the
walk itself asks nothing of it. `netlab bench` counts with it.
"""

from __future__ import annotations

from typing import Protocol

from netlab.linux.nft import NftChain, NftRule, NftTable, Statement
from netlab.linux.rules import Chain, Rule, Table
from netlab.match.view import View


class Tally(Protocol):
    """A counter of rules and statements."""

    def rule(self, view: View, table: Table, chain: Chain, rule: Rule) -> None:
        """A rule of iptables is about to be asked."""

    def nft_rule(self, view: View, table: NftTable, chain: NftChain, rule: NftRule) -> None:
        """A rule of nft is about to run."""

    def nft_statement(self, view: View, table: NftTable, statement: Statement) -> None:
        """A statement of that rule is about to run."""
