"""How much memory this process holds."""

from __future__ import annotations

import os
import resource
import sys

_STATM = "/proc/self/statm"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """The memory of this process that is in RAM now, in bytes.

    What a model costs is the growth of this number while it is loaded, if nothing else is loaded meanwhile. Takes about
    ten microseconds on Linux. Systems without `/proc` only know the most that it ever was, and that is what they get.

    Returns:
        Bytes.

    Example:
        >>> before = resident_bytes()
        >>> model = load_model(directory)
        >>> cost = max(0, resident_bytes() - before)
    """
    try:
        with open(_STATM, "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest * 1024  # everyone but Apple counts in kB
