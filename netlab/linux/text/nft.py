"""nft's rulesets, as JSON and as text: read them into tables, write tables as them.

    nft -j list ruleset -> read_json -> NftTable ... -> write_json
    nft list ruleset    -> read_text -> NftTable ... -> write_text -> nft -f

Law: both forms give the same value, and read(write(tables)) == tables. (JSON of nft 1.0.6 leaves out the comments of tables and
chains and `typeof`.) Handles are read for rules alone. Words: nft_words.py; readers and writers: nft_json.py, nft_text.py.
"""

from __future__ import annotations

from netlab.linux.nft import NftTable
from netlab.linux.text.nft_check import check_tables
from netlab.linux.text.nft_json import read_json, write_json
from netlab.linux.text.nft_text import read_statements, read_text, write_text
from netlab.linux.text.nft_words import rule_text


def read(text: str, file: str = "-") -> tuple[NftTable, ...]:
    """Read either form: JSON begins with a brace."""
    return read_json(text, file) if text.lstrip()[:1] == "{" else read_text(text, file)


__all__ = ["check_tables", "read", "read_json", "read_statements", "read_text", "rule_text", "write_json", "write_text"]
