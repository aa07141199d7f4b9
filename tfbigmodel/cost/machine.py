"""What this machine has: memory to be had, and the most that was taken."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import tensorflow as tf

from pipelines.errors import UserError


def host_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may take: the machine's, or what its container is limited to.

    Args:
        root: where `proc` and `sys` are.

    Raises:
        UserError: this is no Linux machine.
    """
    try:
        told = re.search(r"^MemTotal:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError as error:
        raise UserError(f"the machine's memory cannot be read: {error}; a Linux machine is expected") from error
    limits = [int(told[1]) * 1024] if told else []
    for line in groups:
        _, controllers, group = line.split(":", 2)
        if controllers in ("", "memory"):  # version 2, version 1
            folder, name = ("sys/fs/cgroup/memory", "memory.limit_in_bytes") if controllers else (
                "sys/fs/cgroup", "memory.max")  # fmt: skip
            limits += _limits(root / folder, Path(group.lstrip("/")), name)
    return min(limits)


def _limits(folder: Path, group: Path, name: str) -> list[int]:
    """The limits of a control group and of those that it is in; inside a container its own is the top."""
    found = []
    for place in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError):  # ValueError: `max`, which is none
            found.append(int((folder / place / name).read_text()))
    return found


def host_memory_in_use() -> int:
    """Bytes that this process has in memory."""
    return _status("VmRSS")


def gpu_memories() -> list[int]:
    """Bytes that TensorFlow may take of each GPU of this machine; empty where there is none."""
    if not tf.config.list_logical_devices("GPU"):
        return []
    from tensorflow.python.client import device_lib

    return [device.memory_limit for device in device_lib.list_local_devices() if device.device_type == "GPU"]


class PeakMemory:
    """The most memory that TensorFlow takes between two moments, on the device that takes most.

    Its allocators count for GPUs, and for CPUs where oneDNN's is used; elsewhere the process's memory is looked at,
    which also has what TensorFlow holds without using it.
    """

    def __init__(self) -> None:
        devices = [device.name for device in tf.config.list_logical_devices("GPU")] or ["CPU:0"]
        self._before: dict[str, int] = {}
        try:
            for device in devices:
                tf.config.experimental.reset_memory_stats(device)
                self._before[device] = tf.config.experimental.get_memory_info(device)["current"]
        except ValueError:  # this allocator keeps no account
            self._before = {}
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
            self._process = _status("VmRSS")

    def read(self) -> int:
        """Bytes taken at most since this object was made, above what was taken then."""
        if not self._before:
            return max(0, _status("VmHWM") - self._process)
        info = tf.config.experimental.get_memory_info
        return max(int(info(device)["peak"]) - before for device, before in self._before.items())


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
