"""Prints the part of requirements.lock that the server needs, with its hashes: no Keras-Hub, pandas or plots.

    python serving/deploy/tfbigmodel/lock_for_serving.py . [extra …] > serving.lock

pyproject.toml says what the server uses (TensorFlow and the extra `serving`); the lock says, in its `# via` comments,
what each of those brings. Extras named after the folder are added, e.g. `text` for graphs with tensorflow_text's ops.
Runs in the image's build, where nothing is installed yet, so it needs Python alone.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

# Alone among the package's own dependencies, these are the server's.
SERVED_WITH = frozenset({"tensorflow", "numpy"})


def lock_for_serving(pyproject: str, lock: str, extras: tuple[str, ...] = ()) -> str:
    """The entries of the lock that are reachable from what the server uses.

    Args:
        pyproject: The text of pyproject.toml.
        lock: The text of requirements.lock, as `uv pip compile` writes it.
        extras: More extras of pyproject.toml than `serving`.

    Returns:
        A requirements file.

    Raises:
        ValueError: An extra that is not there, or a dependency that the lock does not have.
    """
    project = tomllib.loads(pyproject)["project"]
    groups = project["optional-dependencies"]
    wanted = set(SERVED_WITH)
    for extra in ("serving", *extras):
        if extra not in groups:
            raise ValueError(f"pyproject.toml has no extra {extra!r}; it has {', '.join(sorted(groups))}")
        wanted |= {package_name(requirement) for requirement in groups[extra]}
    return part_of_lock(lock, wanted)


def part_of_lock(lock: str, wanted: set[str]) -> str:
    """The entries of the lock for these packages and all that they bring.

    Args:
        lock: The text of requirements.lock, as `uv pip compile` writes it.
        wanted: Names of packages, in their normal spelling.

    Raises:
        ValueError: The lock does not have one of them.
    """
    entries = [(package_name(text), text, _brought_by(text)) for text in re.split(r"(?m)^(?=[A-Za-z0-9])", lock)[1:]]
    missing = wanted - {name for name, _, _ in entries}
    if missing:
        raise ValueError(f"requirements.lock lacks {', '.join(sorted(missing))}: run `make lock`")
    found, size = set(wanted), 0
    while size != len(found):
        size = len(found)
        found |= {name for name, _, parents in entries if parents & found}
    return "".join(text for name, text, _ in entries if name in found)


def package_name(requirement: str) -> str:
    """A requirement's package in its normal spelling."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]).lower()


def _brought_by(entry: str) -> set[str]:
    """The packages in an entry's `# via` comment, which has one line or several."""
    comment = " ".join(re.findall(r"(?m)^\s+#(.*)$", entry)).partition("via ")[2]
    return {package_name(word) for word in comment.split() if not word.startswith("(")}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    try:
        sys.stdout.write(
            lock_for_serving(
                (folder / "pyproject.toml").read_text("utf-8"),
                (folder / "requirements.lock").read_text("utf-8"),
                tuple(sys.argv[2:]),
            )
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
