"""A workdir: the whole state of a run, and the only thing that the commands after `train` need."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import MissingFileError, UserError
from pipelines.files import atomic_folder, locked_file, read_json, remove_temporaries, write_json, write_text
from pipelines.remote import exists, join
from tfbigmodel.config import RunConfig, changed_keys, dump_config, load_config

if TYPE_CHECKING:
    from pipelines.data import DatasetInfo, Preprocessor

_LOCK_NAME = ".lock"
_OWNED = "# The configuration of the run in this folder, as python -m tfbigmodel.train resolved it."
# What may differ between a workdir's configuration and the one it is resumed with, keys or whole sections: how long to
# train, on what, and what is written meanwhile; and where the data lies (info.json's fingerprint still tells whether it
# is the same). The global batch is the same on any number of devices.
_MAY_CHANGE = (
    *("data.cache_dir", "data.data_dir", "data.service"),
    *("training.epochs", "training.steps_per_execution", "training.strategy", "training.virtual_cpus"),
    *("training.workers", "checkpoints", "tensorboard"),
)


@dataclass(frozen=True)
class Workdir:
    """The paths of a run.

    Attributes:
        path: the folder.
        name: what messages call it, where it is a copy of a remote one; the folder otherwise.
    """

    path: Path
    name: str = ""

    def __str__(self) -> str:
        return self.name or str(self.path)

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def info_file(self) -> Path:
        """What the data is: classes, shapes, counts."""
        return self.path / "info.json"

    @property
    def metrics_file(self) -> Path:
        """The finished run's metrics on each split; it is written last."""
        return self.path / "metrics.json"

    @property
    def preprocessor(self) -> Path:
        """The folder with the preprocessor's configuration and vocabularies."""
        return self.path / "preprocessor"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def evaluation(self) -> Path:
        """The folder of what `evaluate` found."""
        return self.path / "evaluation"

    @property
    def tensorboard(self) -> Path:
        """The folder of the event files."""
        return self.path / "tensorboard"

    def config(self) -> RunConfig:
        """The run's configuration.

        Raises:
            UserError: the folder is not a workdir.
        """
        if not self.config_file.is_file():
            raise MissingFileError(f"{self} is not a workdir: it has no config.yaml; make one with "
                                   "python -m tfbigmodel.train --config … --workdir …")  # fmt: skip
        return load_config(self.config_file)

    def info(self) -> DatasetInfo:
        """What the data is.

        Raises:
            UserError: training has not got as far as reading the data.
        """
        from pipelines.data import DatasetInfo

        if not self.info_file.is_file():
            raise MissingFileError(f"{self} has no info.json: its training has not started; run train first")
        return DatasetInfo.from_json(read_json(self.info_file))

    def load_preprocessor(self) -> Preprocessor:
        """The object that maps raw features to model inputs."""
        import pipelines

        return pipelines.load_preprocessor(self.preprocessor)

    def metrics(self) -> dict[str, Any]:
        """What metrics.json holds; an empty dictionary before training has finished."""
        return read_json(self.metrics_file) if self.metrics_file.is_file() else {}


def prepare(workdir: Workdir, config: RunConfig) -> None:
    """Makes a workdir for a configuration, or checks that an existing one was made with it.

    A run that has no checkpoint yet has learned nothing: it is begun anew, with whatever configuration.

    Raises:
        UserError: the folder holds a run of another configuration, or other files, or cannot be written.
    """
    remove_temporaries(workdir.path)
    remove_temporaries(workdir.checkpoints)
    remove_temporaries(workdir.evaluation)
    if workdir.config_file.is_file() and not any(workdir.checkpoints.glob("step-*")):
        # Its start may have failed over what has been mended since: a path, the data, the learning rate.
        workdir.info_file.unlink(missing_ok=True)
        for folder in (workdir.preprocessor, workdir.tensorboard):
            shutil.rmtree(folder, ignore_errors=True)
    elif workdir.config_file.is_file():
        _check_unchanged(workdir, config)
    write_text(workdir.config_file, f"{_OWNED}\n{dump_config(config)}")


def _check_unchanged(workdir: Workdir, config: RunConfig) -> None:
    before = workdir.config()
    changed = {
        key: both
        for key, both in changed_keys(before, config).items()
        if not any(key == each or key.startswith(f"{each}.") for each in _MAY_CHANGE)
    }
    if "training.seed" in changed:
        changed.pop("data.shuffle_seed", None)  # it follows from the other
    if changed:
        # Of other data or another model that is said, not what follows from it.
        key = next((key for key in ("data.source", "model.chapter") if key in changed), next(iter(changed)))
        old, new = changed[key]
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UserError(
            f"{workdir} was made with another configuration: {key} is {old!r} there and {new!r} now{more}; "
            "use another --workdir, or the configuration it was made with"
        )
    if config.training.epochs < before.training.epochs:
        raise UserError(
            f"{workdir} was made with training.epochs {before.training.epochs}, which may only be raised; "
            f"received {config.training.epochs}; use another --workdir"
        )


def keep_data_description(workdir: Workdir, info: DatasetInfo, preprocess: Preprocessor) -> None:
    """Writes info.json and preprocessor/, or checks that those of an earlier start are the same.

    Raises:
        UserError: the data has changed since.
    """
    if workdir.info_file.is_file():
        check_fingerprint(workdir, info)
    if not workdir.preprocessor.exists():
        with atomic_folder(workdir.preprocessor) as folder:
            preprocess.save(folder)
    write_json(workdir.info_file, info.to_json())


def with_kept_vocabulary(config: RunConfig, workdir: Workdir) -> RunConfig:
    """The configuration to read a run's data with: where its preset has moved or gone, the run has the vocabulary."""
    tokenizer = getattr(config.data, "tokenizer", None)  # images have none
    kept = workdir.preprocessor.absolute() / "vocabulary.txt"
    if tokenizer is None or tokenizer.vocabulary is None or not kept.is_file():
        return config
    if exists(join(config.data.data_dir, tokenizer.vocabulary)):
        return config
    tokenizer = tokenizer.model_copy(update={"vocabulary": kept})
    return config.model_copy(update={"data": config.data.model_copy(update={"tokenizer": tokenizer})})


def check_fingerprint(workdir: Workdir, info: DatasetInfo) -> None:
    """Checks that data is what a run was trained on.

    Raises:
        UserError: examples or their division have changed since.
    """
    before = workdir.info().fingerprint
    if before != info.fingerprint:
        raise UserError(
            f"the data is not what {workdir} was trained on (its fingerprint is {info.fingerprint[:12]}, "
            f"was {before[:12]}); use the data it was made with, or train in another workdir"
        )


@contextlib.contextmanager
def locked(workdir: Workdir) -> Iterator[None]:
    """Makes the folder and keeps other processes from training in it; a killed process's lock is gone with it.

    Raises:
        UserError: the folder holds other files, another process trains there, or it cannot be made or written.
    """
    lock = contextlib.ExitStack()
    try:
        workdir.path.mkdir(parents=True, exist_ok=True)
        # Nothing is written to, let alone removed from, a folder that `train` has not made.
        if not _is_ours(workdir) and any(path.name != _LOCK_NAME for path in workdir.path.iterdir()):
            raise UserError(f"{workdir} holds other files and is no workdir; choose an empty or a new --workdir")
        lock.enter_context(locked_file(workdir.path / _LOCK_NAME))
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"no permission to write the workdir {workdir.path}; choose another --workdir") from error
    except OSError as error:
        reason = error.strerror
        raise UserError(f"cannot make the workdir {workdir.path}: {reason}; choose another --workdir") from error
    with lock:
        yield


def _is_ours(workdir: Workdir) -> bool:
    try:
        with open(workdir.config_file, encoding="utf-8") as file:
            return file.readline().strip() == _OWNED
    except (OSError, UnicodeDecodeError):
        return False
