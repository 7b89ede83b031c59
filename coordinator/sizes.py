"""Sizes as people write and read them. Bytes everywhere else."""

from __future__ import annotations

import re
from fractions import Fraction

_UNITS = {"": 1, "B": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("KMGTP", start=1)
    for suffix, base in (("iB", 1024), ("B", 1000), ("i", 1024), ("", 1024))
}
_SIZE = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([A-Za-z]*)\s*")


def parse_size(value: object) -> int:
    """Bytes from `10GiB`, `500 MB`, `10G` (binary, as in most tools) or a number of bytes.

    Raises ValueError with what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("size must be text like '10GiB' or a number of bytes")
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        units = {unit.lower(): factor for unit, factor in _UNITS.items()}
        if not match or match[2].lower() not in units:
            raise ValueError(f"size {value!r} is not a size; write it like '10GiB', '500MB' or a number of bytes")
        value = int(Fraction(match[1]) * units[match[2].lower()])
    if value <= 0:
        raise ValueError(f"size must be more than 0, not {value}")
    if value >= 2**63:
        raise ValueError("size is larger than any file system can be")
    return value


def format_size(size: int) -> str:
    """Bytes as people write them: `10 GiB`, `1.5 GiB`, `512 B`; two significant decimals at most."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"
