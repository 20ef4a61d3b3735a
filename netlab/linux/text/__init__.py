"""Parsers and writers for what Linux tools print (iptables-save, `ip -j`, `bridge -j`, ipset save)."""
