"""Which users placed bets in a week, roughly and in little memory.

A Bloom filter (https://doi.org/10.1145/362686.362692) with a single hash function: a wrong yes costs no more than one
look into an index, and a second function would cost time at every look.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Self
from zlib import crc32

_BITS_A_USER = 16
"""At least: one user in 16 or fewer is taken for another one."""
_SMALLEST, _LARGEST = 8, 65_536
"""Bytes. From 32,000 users a week on there are more wrong answers instead: a sixth with 100,000."""


def hash_of(user_id: str) -> int:
    """Return the hash by which filters know a user."""
    return crc32(user_id.encode())


@dataclass(frozen=True, slots=True)
class UserFilter:
    bits: bytes
    """One for each place that a hash may have; their number is a power of two."""
    _last: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.bits).bit_count() != 1:
            raise ValueError("not a power of two")
        object.__setattr__(self, "_last", len(self.bits) * 8 - 1)

    @classmethod
    def of(cls, user_ids: Collection[bytes]) -> Self:
        """Return a filter that knows the users with these ids, in UTF-8."""
        wanted = len(user_ids) * _BITS_A_USER // 8
        bits = bytearray(min(max(1 << wanted.bit_length(), _SMALLEST), _LARGEST))
        last = len(bits) * 8 - 1
        for user_id in user_ids:
            place = crc32(user_id) & last
            bits[place >> 3] |= 1 << (place & 7)
        return cls(bytes(bits))

    def may_have(self, hashed: int) -> bool:
        """Tell whether the user with that hash may be among them; False is certain."""
        place = hashed & self._last
        return self.bits[place >> 3] & 1 << (place & 7) != 0


ANYBODY = UserFilter(b"\xff")
"""Rules nobody out."""
