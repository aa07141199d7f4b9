"""What the process says of its memory."""

import resource
import sys

import numpy as np
import pytest

from serving.operations import resources


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know only the most that it ever was")
def test_memory_that_is_used_shows_and_goes():
    before = resources.resident_bytes()
    block = np.ones(64_000_000, np.uint8)
    during = resources.resident_bytes()
    assert 60e6 < during - before < 80e6
    del block
    assert resources.resident_bytes() < during - 50e6


def test_without_proc_it_is_the_most_there_ever_was(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "_STATM", str(tmp_path / "none"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert resources.resident_bytes() >= (peak if sys.platform == "darwin" else peak * 1024)
