"""What a run was made with: versions, devices, commit."""

import importlib.metadata
import platform
import subprocess
from typing import Any

import tensorflow as tf

_PACKAGES = ("tfbigmodel", "tensorflow", "keras", "numpy", "pandas", "scikit-learn", "tensorflow-datasets")


def describe_environment(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """Versions, devices and the git commit, as values that JSON can hold."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "replicas": strategy.num_replicas_in_sync,
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):  # no git, or not a checkout
        return None
