"""What kube-proxy's nftables mode would write, loaded by nft itself."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from netlab.dataplane.proxy.nftables import RULES
from netlab.lab.host import unshare_command
from netlab.linux.text.nft import read_text, write_text
from tests.test_proxy_iptables import recorded
from tests.test_proxy_nftables import compiled, unordered


@pytest.mark.parametrize("version", RULES)
def test_nft_loads_what_is_written_and_lists_the_same(version: str, kernel: None) -> None:
    tables = [compiled(recorded("services"), "node-1", family, version=version) for family in (4, 6)]
    nft = shutil.which("nft", path="/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin") or "nft"
    inside = [*unshare_command(), "sh", "-c", f"{nft} -f - && {nft} list ruleset"]
    ran = subprocess.run(inside, input=write_text(tables), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    listed = {t.family: t for t in read_text(ran.stdout)}
    for table in tables:
        assert listed[table.family].chains == table.chains
        assert {n: unordered(s) for n, s in listed[table.family].sets.items()} == {n: unordered(s) for n, s in table.sets.items()}
