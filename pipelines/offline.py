"""Prepares a TensorFlow Datasets dataset from files in a local folder, without a network.

    python -m pipelines.offline fashion_mnist --from <folder with the original files> --data_dir <folder>

TFDS takes a file for downloaded when the downloads folder holds it under a name made of its URL and checksum. So the
builder is asked for its URLs, each is matched with a local file of the same size and SHA-256, and the builder's own
code does the rest, with the network switched off.
"""

import argparse
import dataclasses
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines.errors import MissingFileError, UserError
from pipelines.files import TEMPORARY_MARK, sha256
from pipelines.names import did_you_mean


@dataclasses.dataclass(frozen=True)
class Original:
    """A file that a dataset is made of.

    Attributes:
        url: where its author keeps it.
        name: its name there.
        size: in bytes.
        checksum: its SHA-256, in hexadecimal.
    """

    url: str
    name: str
    size: int
    checksum: str

    def __str__(self) -> str:
        return f"{self.name} ({self.size:,} bytes, {self.url})"


class NetworkIsOffError(OSError):
    """Something tried to reach the network."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.offline", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="the TFDS name, such as fashion_mnist or cifar10:3.0.2")
    parser.add_argument("--from", dest="source", type=Path, required=True, help="folder with the original files")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder to prepare into: data.data_dir of a run")
    parser.add_argument(
        "--any_checksum",
        action="store_true",
        help="take files of the right name and another content too, such as archives packed anew: you vouch for them",
    )
    options = parser.parse_args(arguments)
    try:
        said = prepare(options.name, options.source, options.data_dir, any_checksum=options.any_checksum)
        sys.stdout.write(f"{said}\n")
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def prepare(name: str, source: Path, data_dir: Path, any_checksum: bool = False) -> str:
    """Prepares a dataset from local files; nothing is fetched.

    Args:
        name: the TFDS name.
        source: a folder that holds the original files, in any sub-folders.
        data_dir: where the dataset will be, as TFDS lays it out.
        any_checksum: take a file of an original's name where none has its content; each is named on stderr.

    Returns:
        A line that says what was prepared, or that it had been already.

    Raises:
        UserError: the name is not known, files are missing or have another content; the message names each of them.

    Example:
        >>> prepare("fashion_mnist", Path("downloads"), Path("data"))
        'fashion_mnist/3.0.1 is prepared in data/fashion_mnist/3.0.1: test 10,000, train 60,000 examples'
    """
    if not source.is_dir():
        raise MissingFileError(f"--from {source} is no folder; give the folder that holds the dataset's original files")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from pipelines.sources.tfds_prepared import import_tfds

    tfds = import_tfds()
    with network_off():
        builder = _builder(tfds, name, data_dir)
        if not Path(builder.data_dir).is_dir():
            _prepare(tfds, builder, source, data_dir, any_checksum)
    splits = ", ".join(f"{split} {found.num_examples:,}" for split, found in sorted(builder.info.splits.items()))
    return f"{builder.info.full_name} is prepared in {builder.data_dir}: {splits} examples"


@contextmanager
def network_off() -> Iterator[None]:
    """Makes every connection of this process fail, from Python code, until the block ends.

    TFDS's own way to Google's storage, which is not Python's, is closed as well.
    """
    from tensorflow_datasets.core.download import downloader
    from tensorflow_datasets.core.utils import gcs_utils

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise NetworkIsOffError("the network is off while a dataset is prepared from local files")

    def refuse_download(self: Any, url: str, *arguments: Any, **options: Any) -> Any:
        raise NetworkIsOffError(f"{url} is not among the local files, and the network is off")

    replacements: list[tuple[Any, str, Any]] = [
        (socket.socket, "connect", refuse),
        (socket.socket, "connect_ex", refuse),
        (socket, "getaddrinfo", refuse),
        (gcs_utils, "_is_gcs_disabled", True),
        # Sockets would be tried again and again; this one says which file it is about.
        (downloader._Downloader, "download", refuse_download),
    ]
    kept = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in replacements]
    try:
        for owner, attribute, value in replacements:
            setattr(owner, attribute, value)
        yield
    finally:
        for owner, attribute, value in kept:
            setattr(owner, attribute, value)


def match_files(originals: Sequence[Original], source: Path, any_checksum: bool = False) -> dict[Original, Path]:
    """Finds the originals among the files below a folder, by size and SHA-256; their names do not matter.

    Args:
        originals: the files wanted.
        source: the folder.
        any_checksum: where no file has an original's content, take one of its name.

    Raises:
        UserError: a file has an original's name and another content.
    """
    files = sorted(path for path in source.rglob("*") if path.is_file())
    by_size: dict[int, list[Path]] = {}
    for path in files:
        by_size.setdefault(path.stat().st_size, []).append(path)
    checksums: dict[Path, str] = {}
    matched = {}
    for original in originals:
        for path in by_size.get(original.size, []):
            if path not in checksums:
                checksums[path] = sha256(path)
            if checksums[path] == original.checksum:
                matched[original] = path
                break
    # Only now: two datasets' files may have the same names, and both be here.
    for original in originals:
        for path in files:
            if original not in matched and path.name == original.name and path not in matched.values():
                difference = (
                    f"{path} is not the file that {original.url} had: it has {path.stat().st_size:,} bytes and SHA-256 "
                    f"{checksums.get(path) or sha256(path)}, expected are {original.size:,} bytes and "
                    f"{original.checksum}"
                )
                if not any_checksum:
                    raise UserError(
                        f"{difference}; fetch it again, or add --any_checksum if you know that it was only packed anew"
                    )
                sys.stderr.write(f"warning: {difference}; taken because of --any_checksum\n")
                matched[original] = path
    return matched


def _builder(tfds: Any, name: str, data_dir: Path) -> Any:
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        said = did_you_mean(name.partition("/")[0].partition(":")[0], tfds.list_builders(with_community_datasets=False))
        raise UserError(f'TFDS has no dataset "{name}"; {said}') from error
    except (AssertionError, ValueError, NetworkIsOffError) as error:
        raise UserError(f'"{name}" cannot be prepared: {_reason(error)}') from error
    except ImportError as error:
        raise UserError(f"{name} needs the Python package {error.name}, which is not installed") from error


def _prepare(tfds: Any, builder: Any, source: Path, data_dir: Path, any_checksum: bool) -> None:
    originals = [
        Original(url, info.filename or Path(urlsplit(url).path).name, int(info.size), info.checksum)
        for url, info in (builder.url_infos or {}).items()
    ]
    matched = match_files(originals, source, any_checksum)
    missing = [original for original in originals if original not in matched]
    # A builder with several configurations lists the files of all: which of them this one needs shows when it runs.
    if missing and len(builder.builder_configs) <= 1:
        raise _missing_error(builder.name, missing, source)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(prefix=f".downloads{TEMPORARY_MARK}", dir=data_dir)
        # TFDS prints its progress to stdout, where only the result belongs.
        with place as downloads, redirect_stdout(sys.stderr):
            _lay_out(matched, Path(downloads), builder.name)
            builder.download_and_prepare(
                download_dir=downloads,
                download_config=tfds.download.DownloadConfig(
                    # TFDS would take files from there by name alone; most builders have no use for it.
                    manual_dir=source if builder.MANUAL_DOWNLOAD_INSTRUCTIONS else None,
                    extract_dir=Path(downloads, "extracted"),
                    try_download_gcs=False,
                ),
            )
    except PermissionError as error:
        raise UserError(f"no permission to write into --data_dir {data_dir}") from error
    except Exception as error:
        # The builder's own code failed: on a file that is missing, or on one that only looks right.
        wanted = [original for original in missing if original.url in str(error)]
        if wanted:
            raise _missing_error(builder.info.full_name, wanted, source) from error
        raise UserError(f"{builder.info.full_name} could not be prepared: {_reason(error)}") from error


def _lay_out(matched: Mapping[Original, Path], downloads: Path, dataset: str) -> None:
    """Puts the files where TFDS looks for what it has downloaded before; as links, they may be large."""
    from tensorflow_datasets.core.download import checksums, resource

    for original, path in matched.items():
        place = downloads / resource.get_dl_fname(original.url, original.checksum)
        if not place.exists():
            place.symlink_to(path.resolve())
        resource.write_info_file(
            url=original.url,
            path=place,
            dataset_name=dataset,
            original_fname=original.name,
            url_info=checksums.UrlInfo(size=original.size, checksum=original.checksum, filename=original.name),
        )


def _missing_error(name: str, missing: Sequence[Original], source: Path) -> MissingFileError:
    listed = "; ".join(map(str, missing))
    return MissingFileError(
        f"{name} needs {len(missing)} more file{'s' if len(missing) > 1 else ''} in {source}: {listed}. Fetch them "
        "on a machine with a network, put them there, and run this again"
    )


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


if __name__ == "__main__":
    sys.exit(main())
