"""IP addresses and prefixes as the kernel holds them: a family and an integer.

Law: parsing is the C library's `inet_pton`, printing its `inet_ntop`, so text is canonical. These small values
exist because `ipaddress` objects cost ten times as much to make and to compare, and a node's ruleset holds
hundreds of thousands of them (docs/decisions.md).
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

import msgspec

V4_ALL = 0xFFFFFFFF
V6_ALL = (1 << 128) - 1


class Ip(msgspec.Struct, frozen=True, order=True, gc=False):
    """An address: `family` 4 or 6, `value` its integer."""

    family: int
    value: int

    def __str__(self) -> str:
        if self.family == 4:
            return inet_ntop(AF_INET, self.value.to_bytes(4, "big"))
        return inet_ntop(AF_INET6, self.value.to_bytes(16, "big"))

    def port(self, port: int) -> str:
        """`10.0.0.1:80`, `[fd00::1]:80`."""
        return f"{self}:{port}" if self.family == 4 else f"[{self}]:{port}"

    @property
    def bits(self) -> int:
        return 32 if self.family == 4 else 128

    @property
    def is_loopback(self) -> bool:
        return self.value >> 24 == 127 if self.family == 4 else self.value == 1

    @property
    def is_multicast(self) -> bool:
        return self.value >> 28 == 0xE if self.family == 4 else self.value >> 120 == 0xFF

    @property
    def is_private(self) -> bool:
        """Not routed on the internet: RFC 1918, RFC 6598 (shared), RFC 4193 (unique local)."""
        v = self.value
        if self.family == 6:
            return v >> 121 == 0x7E
        return v >> 24 == 10 or v >> 20 == 0xAC1 or v >> 16 == 0xC0A8 or v >> 22 == 0x191

    @property
    def is_link_local(self) -> bool:
        return self.value >> 16 == 0xA9FE if self.family == 4 else self.value >> 118 == 0x3FA


def ip(text: str) -> Ip:
    """Parse an address; raises ValueError.

    >>> str(ip("fd00:10:244:0::2"))
    'fd00:10:244::2'
    """
    try:
        if ":" in text:
            return Ip(6, int.from_bytes(inet_pton(AF_INET6, text), "big"))
        return Ip(4, int.from_bytes(inet_pton(AF_INET, text), "big"))
    except (OSError, UnicodeEncodeError, ValueError):
        raise ValueError(f"not an IP address: {text!r}") from None


class Prefix(msgspec.Struct, frozen=True, order=True, gc=False):
    """A block of addresses: `value` has its host bits clear, `length` counts network bits."""

    family: int
    value: int
    length: int

    def __str__(self) -> str:
        return f"{self.address}/{self.length}"

    @property
    def address(self) -> Ip:
        """The first address of the block."""
        return Ip(self.family, self.value)

    @property
    def mask(self) -> int:
        return mask_of(self.family, self.length)

    def __contains__(self, address: Ip) -> bool:
        return address.family == self.family and address.value & self.mask == self.value

    def nth(self, n: int) -> Ip:
        """The n-th address of the block (0 is the network address)."""
        return Ip(self.family, self.value + n)

    @property
    def size(self) -> int:
        return 1 << ((32 if self.family == 4 else 128) - self.length)


def mask_of(family: int, length: int) -> int:
    """The netmask of a prefix length as an integer."""
    if family == 4:
        return V4_ALL ^ (V4_ALL >> length)
    return V6_ALL ^ (V6_ALL >> length)


def prefix(text: str, strict: bool = False) -> Prefix:
    """Parse `10.0.0.0/8`, or an address as a host prefix; host bits are cleared unless `strict`; raises ValueError.

    >>> str(prefix("10.1.2.3/8"))
    '10.0.0.0/8'
    """
    host, slash, bits = text.partition("/")
    address = ip(host)
    length = address.bits
    if slash:
        if not bits.isascii() or not bits.isdigit() or int(bits) > address.bits:
            raise ValueError(f"not a prefix length: {text!r}")
        length = int(bits)
    value = address.value & mask_of(address.family, length)
    if strict and value != address.value:
        raise ValueError(f"{text!r} has host bits set")
    return Prefix(address.family, value, length)


def host_prefix(address: Ip) -> Prefix:
    """The /32 or /128 of an address."""
    return Prefix(address.family, address.value, address.bits)
