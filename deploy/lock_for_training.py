"""Prints what the image of training installs: the part of requirements.lock that it needs, and CUDA for the GPU's.

    python deploy/lock_for_training.py . cpu|gpu [extra …] > training.lock

Extras are those of pyproject.toml. No tests, linters or server. Runs in the image's build, where nothing is installed
yet, so it needs Python alone.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "serving" / "deploy" / "tfbigmodel"))

from lock_for_serving import package_name, part_of_lock  # noqa: E402 it is no package

ACCELERATORS = ("cpu", "gpu")


def lock_for_training(pyproject: str, lock: str, cuda: str, accelerator: str, extras: tuple[str, ...] = ()) -> str:
    """The entries that are reachable from the package's own dependencies and the extras.

    Args:
        pyproject: the text of pyproject.toml.
        lock: the text of requirements.lock, as `uv pip compile` writes it.
        cuda: the text of cuda.lock.
        accelerator: `cpu` or `gpu`.
        extras: of pyproject.toml.

    Returns:
        A requirements file with hashes.

    Raises:
        ValueError: another accelerator, an extra that is not there, or a dependency that the lock does not have.
    """
    if accelerator not in ACCELERATORS:
        raise ValueError(f"ACCELERATOR is {accelerator!r}; expected {' or '.join(ACCELERATORS)}")
    project = tomllib.loads(pyproject)["project"]
    wanted = {package_name(requirement) for requirement in project["dependencies"]}
    for extra in extras:
        if extra not in project["optional-dependencies"]:
            known = ", ".join(sorted(project["optional-dependencies"]))
            raise ValueError(f"pyproject.toml has no extra {extra!r}; it has {known}")
        wanted |= {package_name(requirement) for requirement in project["optional-dependencies"][extra]}
    wanted.discard(package_name(project["name"]))  # an extra that names others of its own
    return part_of_lock(lock, wanted) + (cuda if accelerator == "gpu" else "")


if __name__ == "__main__":
    repository = Path(sys.argv[1])
    try:
        sys.stdout.write(
            lock_for_training(
                (repository / "pyproject.toml").read_text("utf-8"),
                (repository / "requirements.lock").read_text("utf-8"),
                (FOLDER / "cuda.lock").read_text("utf-8"),
                sys.argv[2],
                tuple(sys.argv[3:]),
            )
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
