"""Figures as people read them."""

from __future__ import annotations


def bytes_text(value: float) -> str:
    """Bytes, in the binary unit that leaves one to four digits.

    Example:
        >>> bytes_text(3 * 2**20)
        '3.0 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit has no bound")


def operations_text(value: float) -> str:
    """Floating-point operations, in a decimal unit.

    Example:
        >>> operations_text(1.04e12)
        '1.04 TFLOP'
    """
    for unit in ("", "K", "M", "G", "T"):
        if value < 1000:
            return f"{value:.3g} {unit}FLOP"
        value /= 1000
    return f"{value:,.3g} PFLOP"


def duration(seconds: float) -> str:
    """A time, in the units that matter.

    Example:
        >>> duration(93784)
        '26 h 3 min'
    """
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days {hours % 24} h"
