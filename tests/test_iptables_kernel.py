"""The tools are the judge of text: what iptables-legacy and iptables-nft print for a rule is what netlab prints.

Every example loads a batch of generated rules into a private network namespace, in a chain that is reached from the hook in
question (so that the kernel checks the rules against it), and reads them back with the save tool.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import strategies
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from netlab.linux.hooks import IPTABLES_TABLES
from netlab.linux.rules import Chain, Hook, Rule, Ruleset, Table
from netlab.linux.targets import Jump, TraceTarget
from netlab.linux.text.iptables_save import parse, write

pytestmark = pytest.mark.kernel

TOOLS = [(backend, family) for backend in ("legacy", "nft") for family in (4, 6)]
HOOKS = [(table, hook) for table in ("raw", "mangle", "nat", "filter") for hook in IPTABLES_TABLES[table]]
ALONE = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-Urn"]
KERNEL = settings(
    max_examples=3,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each attempt to shrink would cost a namespace
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module", autouse=True)
def judge() -> None:
    """Skips, saying why, where the tools cannot run; fails there if CI=true or NETLAB_KERNEL=require."""
    lacking = [tool for tool in ("unshare", *(f"iptables-{backend}-restore" for backend, _ in TOOLS)) if not shutil.which(tool)]
    reason = f"not installed: {', '.join(lacking)}" if lacking else ""
    if not lacking and (tried := subprocess.run([*ALONE, "true"], capture_output=True, text=True)).returncode:
        reason = f"no permission to make network namespaces: {tried.stderr.strip()}"
    if reason and (os.environ.get("CI") == "true" or os.environ.get("NETLAB_KERNEL") == "require"):
        pytest.fail(reason, pytrace=False)
    if reason:
        pytest.skip(reason)


def load_and_save(backend: str, family: int, table: str, text: str, lock: Path) -> str:
    """What the save tool prints after the restore tool has loaded `text`, in a namespace that ends with this call."""
    tool = f"{'iptables' if family == 4 else 'ip6tables'}-{backend}"
    done = subprocess.run(
        [*ALONE, "sh", "-c", f"{tool}-restore && {tool}-save -t {table}"],
        input=text,
        text=True,
        capture_output=True,
        env={**os.environ, "XTABLES_LOCKFILE": str(lock / "xtables.lock")},
    )
    assert done.returncode == 0, f"{tool}: {done.stderr}\n{text}"
    return done.stdout


def hooked(family: int, table: str, hook: Hook, rules: list[Rule]) -> Ruleset:
    """A table whose chain at `hook` leads to the rules; two more chains to jump to."""
    base = Chain(hook.value, (Rule((), Jump("RULES")),), hook, IPTABLES_TABLES[table][hook], "ACCEPT")
    chains = {
        hook.value: base,
        "OTHER": Chain("OTHER"),
        "RULES": Chain("RULES", tuple(rules)),
        "THIRD-chain_with.28-bytes-xx": Chain("THIRD-chain_with.28-bytes-xx"),
    }
    return Ruleset((Table("ip" if family == 4 else "ip6", table, chains),))


def rule_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("-A RULES")]


@pytest.mark.parametrize(("backend", "family"), TOOLS)
@pytest.mark.parametrize(("table", "hook"), HOOKS, ids=lambda each: each if isinstance(each, str) else each.value)
def test_the_tools_print_generated_rules_as_netlab_does(
    backend: str, family: int, table: str, hook: Hook, tmp_path: Path
) -> None:
    one = strategies.nat_rules(family, hook) if table == "nat" else st.nothing()
    one |= strategies.rules(family, table, hook, ["OTHER", "THIRD-chain_with.28-bytes-xx"])
    if backend == "legacy":  # the legacy TRACE target needs a log backend that is not loaded everywhere
        one = one.filter(lambda rule: not isinstance(rule.target, TraceTarget))

    @KERNEL
    @given(st.lists(one, min_size=20, max_size=40))
    def check(rules: list[Rule]) -> None:
        ruleset = hooked(family, table, hook, rules)
        text = write(ruleset, family=family)
        saved = load_and_save(backend, family, table, text, tmp_path)
        assert rule_lines(saved) == rule_lines(text)
        read = parse(saved, family=family).table(table)
        assert read is not None
        assert read.chains["RULES"] == Chain("RULES", tuple(rules))

    check()
