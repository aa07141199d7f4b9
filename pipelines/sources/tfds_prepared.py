"""Finding a prepared TFDS dataset in a folder, without its builder's code and without the network."""

import re
from pathlib import Path
from typing import Any

from pipelines.config import TfdsConfig
from pipelines.errors import MissingFileError, UserError
from pipelines.names import did_you_mean, listing
from pipelines.remote import is_remote, join, local

_INFO = "dataset_info.json"
_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w\-.]+))?(:(?P<version>\d+\.\d+\.\d+|\d+\.\*\.\*|\d+\.\d+\.\*))?")


def prepared_builder(config: TfdsConfig) -> Any:
    """A TFDS builder that reads the prepared dataset; prepares it first where `download` is set.

    Raises:
        UserError: the package is not installed, the name is malformed or ambiguous, or the download failed.
        MissingFileError: the dataset is not there and `download` is not set; the message has both ways to get it.
    """
    config = config.model_copy(update={"data_dir": _local_data_dir(config)})
    folder = find_prepared(config.name, Path(config.data_dir))
    tfds = import_tfds()
    if folder is None:
        if not config.download:
            raise _absent(config)
        folder = _download(config, tfds)
    # From the folder, not by name: the builder's code might look for newer versions, and need not be installed.
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:
        # TFDS lets through whatever its parsers raise, of its own and of protobuf's kinds.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder} is damaged: {reason:.200}; remove it and prepare the dataset again") from error


def _local_data_dir(config: TfdsConfig) -> Path:
    """The folder in which the dataset is looked up; of a remote one, a copy of what it has of this dataset."""
    if not is_remote(config.data_dir):
        return Path(config.data_dir)
    if config.download:
        raise UserError(
            f"data.download prepares into a folder of this machine, and data.data_dir is {config.data_dir}; "
            "prepare the dataset locally and copy it there"
        )
    return local(join(config.data_dir, re.split("[/:]", config.name)[0])).parent


def import_tfds() -> Any:
    """The package `tensorflow_datasets`, which is an optional extra."""
    try:
        import importlib_resources  # noqa: F401  # TFDS needs it without saying so
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f'data.source: tfds needs the package {error.name}, which is not installed: pip install "tfbigmodel[tfds]"'
        ) from error
    return tfds


def find_prepared(name: str, data_dir: Path) -> Path | None:
    """The folder `<data_dir>/<name>[/<config>]/<version>` of the newest version asked for, or None.

    Raises:
        UserError: the name is malformed, or there are several configurations and none was chosen.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f'data.name "{name}" is no TFDS name; expected are name, name/config or name:1.2.3, such as '
            '"fashion_mnist:3.0.1"'
        )
    folder = data_dir / match["name"]
    configs = _configs(folder)
    if match["config"]:
        folder = folder / match["config"]
    elif len(configs) == 1 and not _versions(folder):
        folder = folder / configs[0]
    elif configs and not _versions(folder):
        raise UserError(
            f"{folder} has the configurations {listing(configs)}; choose one: data.name: {name}/{configs[0]}"
        )
    wanted = re.escape(match["version"] or "*.*.*").replace(r"\*", r"\d+")
    fitting = [version for version in _versions(folder) if re.fullmatch(wanted, version)]
    return folder / max(fitting, key=lambda version: tuple(map(int, version.split(".")))) if fitting else None


def _versions(folder: Path) -> list[str]:
    return [path.parent.name for path in folder.glob(f"*/{_INFO}") if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)]


def _configs(folder: Path) -> list[str]:
    return sorted({path.parent.parent.name for path in folder.glob(f"*/*/{_INFO}")})


def _absent(config: TfdsConfig) -> MissingFileError:
    data_dir = Path(config.data_dir)
    prepared = sorted(
        {path.relative_to(data_dir).parts[0] for path in data_dir.glob(f"*/*/{_INFO}")}
        | {path.relative_to(data_dir).parts[0] for path in data_dir.glob(f"*/*/*/{_INFO}")}
    )
    name = config.name.partition(":")[0]
    if not data_dir.is_dir():
        there = "that folder does not exist"
    else:
        there = did_you_mean(config.name, prepared) if prepared else "nothing is prepared there"
    return MissingFileError(
        f"TFDS dataset {config.name} is not prepared in data.data_dir {data_dir} (looked for "
        f"{data_dir / name}/<version>/{_INFO}; {there}). With a network: set data.download: true. Without: get "
        f"its original files and run: python -m pipelines.offline {config.name} --from <folder with the files> "
        f"--data_dir {data_dir}"
    )


def _download(config: TfdsConfig, tfds: Any) -> Path:
    try:
        builder = tfds.builder(config.name, data_dir=config.data_dir)
        # From the original hosts: Google's bucket is out of reach for many, and trying it takes minutes to fail.
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        raise UserError(f'TFDS has no dataset "{config.name}"; {_near(config.name, known)}') from error
    except Exception as error:
        # Whatever its builder ran into on the network or in the files; its code is not ours to mend.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{config.name} could not be downloaded and prepared ({reason:.200}); without a network, get its original "
            f"files and run: python -m pipelines.offline {config.name} --from <folder> --data_dir {config.data_dir}"
        ) from error
    return Path(builder.data_dir)


def _near(name: str, known: list[str]) -> str:
    said = did_you_mean(name, known)
    return said if said.startswith("did") else f"{len(known):,} are known, see tensorflow_datasets.list_builders()"
