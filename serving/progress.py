"""Whether models are on their way to be available, and what is said when they are not."""

from __future__ import annotations

from collections.abc import Iterable

from serving.errors import Code, ServingError
from serving.loader import Loader
from serving.model_config import ModelConfig
from serving.version_table import Entry, VersionTable


def progress(
    configs: Iterable[ModelConfig], table: VersionTable, loader: Loader
) -> tuple[list[str], list[tuple[str, Entry]]]:
    """Looks at models that have no available version of their configuration.

    Args:
        configs: The models.
        table: What is known of their versions.
        loader: Knows which directories were looked at.

    Returns:
        Those that may yet become available, and those that will not soon, each with the version that failed.
    """
    waiting, failed = [], []
    for config in configs:
        entries = table.entries(config.name)
        if any(entry.available and entry.base_path == config.base_path for entry in entries):
            continue
        failures = [entry for entry in entries if entry.failure and entry.failure.base_path == config.base_path]
        # A failure counts once a look is over: a lower version may yet load after a higher one failed.
        if failures and loader.has_looked(config) and not any(entry.may_come for entry in entries):
            failed.append((config.name, failures[0]))
        else:
            waiting.append(config.name)
    return waiting, failed


def not_available(what: str, failed: Iterable[tuple[str, Entry]]) -> ServingError:
    """TensorFlow Serving's words for models that could not be loaded: `servable(s)` at start, `model(s)` later."""
    rows = []
    for name, entry in failed:
        error = entry.failure.error if entry.failure else None
        reason = f" due to error: {error.code.name}: {error.message}" if error else ""
        rows.append(f"{{{{name: {name} version: {entry.status.version}}}{reason}}}, ")
    return ServingError(Code.UNKNOWN, f"{len(rows)} {what} did not become available: {{{''.join(rows)}}}")


def unavailable_label(name: str, version: int) -> ServingError:
    """TensorFlow Serving's words for a label on a version that answers no requests."""
    return ServingError(
        Code.FAILED_PRECONDITION,
        f"Request to assign label to version {version} of model {name}, which is not currently available for inference",
    )
