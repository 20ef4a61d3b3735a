"""What kube-proxy's nftables mode would write, loaded by nft itself."""

from __future__ import annotations

import shutil
import subprocess

import msgspec
import pytest

from netlab.dataplane.proxy.nftables import RULES
from netlab.kube.cluster import Proxy
from netlab.lab.host import unshare_command
from netlab.linux.addr import prefix
from netlab.linux.nft import NftTable
from netlab.linux.text.nft import read_text, write_text
from tests.test_proxy_iptables import recorded
from tests.test_proxy_nftables import FW, behind_a_firewall, compiled, rules, unordered

RANGES = (
    "0.0.0.0/0 192.0.2.8/32",
    "10.0.0.0/8 10.1.0.0/16",
    "10.0.0.0/9 10.128.0.0/9",
    "10.1.0.0/16 10.2.0.0/16 10.4.0.0/15",
    "203.0.113.0/24 10.0.0.0/8 10.0.0.0/8",
    "10.0.0.9/32 10.0.0.7/32",
    "10.0.0.7/32",
)


@pytest.mark.parametrize("version", RULES)
def test_nft_loads_what_is_written_and_lists_the_same(version: str, kernel: None) -> None:
    loads_alike([compiled(recorded("services"), "node-1", family, version=version) for family in (4, 6)])


@pytest.mark.parametrize("ranges", RANGES)
def test_source_ranges_are_merged_as_nft_does(ranges: str, kernel: None) -> None:
    """kube-proxy writes every range; nft merges what overlaps or adjoins before the kernel sees it."""
    written = f"table ip t {{ chain c {{ ip saddr != {{ {ranges.replace(' ', ' , ')} }} drop ; }} ; }}"
    assert f"\t\t{rules(compiled(behind_a_firewall(ranges)), FW)[0]}\n" in listed_by_nft(written)


def test_everything_as_the_pod_network_loads(kernel: None) -> None:
    everything = (prefix("0.0.0.0/0"), prefix("::/0"))
    cluster = msgspec.structs.replace(recorded("services"), proxy=Proxy(mode="nftables", cluster_cidrs=everything))
    loads_alike([compiled(cluster, "node-1", family) for family in (4, 6)])


def loads_alike(tables: list[NftTable]) -> None:
    listed = {t.family: t for t in read_text(listed_by_nft(write_text(tables)))}
    for table in tables:
        assert listed[table.family].chains == table.chains
        assert {n: unordered(s) for n, s in listed[table.family].sets.items()} == {n: unordered(s) for n, s in table.sets.items()}


def listed_by_nft(text: str) -> str:
    nft = shutil.which("nft", path="/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin") or "nft"
    inside = [*unshare_command(), "sh", "-c", f"{nft} -f - && {nft} list ruleset"]
    ran = subprocess.run(inside, input=text, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
