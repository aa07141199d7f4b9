"""The command `export`: a trained run as a versioned SavedModel that answers raw input."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError
from pipelines.object_store import check_url, listing
from pipelines.remote import is_remote, join, upload
from tfbigmodel.command_line import callable_module, import_tensorflow, make_parser, run_command, say
from tfbigmodel.mirror import readable
from tfbigmodel.remote_writer import only_writer
from tfbigmodel.workdir import Workdir

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pipelines.data import Preprocessor
    from tfbigmodel.inference import InferenceModule
    from tfbigmodel.training.checkpoints import Checkpoint

MANIFEST = "assets.extra/manifest.json"
_EPILOG = """example:
  python -m tfbigmodel.export --workdir runs/dense
  python -m serving.server --port=8500 --model_name=dense --model_base_path=$PWD/exported/dense
"""


def export(
    workdir: Path | str,
    output: Path | str,
    version: int | None = None,
    threshold: float | None = None,
    signing_key: Path | str | None = None,
) -> Path | str:
    """Writes `<output>/<version>/`, beside and renamed into place, so that a server never sees half a version.

    In an object store, which cannot rename a folder, the manifest is written last: a version exists when it does.

    Args:
        workdir: a trained run, local or remote.
        output: the model's base path, which a server watches, local or remote.
        version: a number; one more than the highest there where None.
        threshold: the decision threshold for two classes that the served model applies; the configuration's where None.
        signing_key: a PEM file with an Ed25519 private key that signs the manifest; no signature where None.

    Returns:
        The version's folder (where it is remote, its URL): `saved_model.pb`, `variables/`, `assets/`,
        `assets.extra/model.json` (class names, chapter, how it sees images), `assets.extra/manifest.json` (the SHA-256
        of every file) and, if signed, `assets.extra/manifest.sig`.

    Raises:
        UserError: the workdir has no trained model, the version exists, there is no permission to write, or the key
            cannot be used.

    Example:
        >>> export("runs/dense", "exported/dense")
        PosixPath('exported/dense/1')
    """
    from tfbigmodel.inference import load_inference
    from tfbigmodel.signing import read_signing_key

    key = None if signing_key is None else read_signing_key(signing_key)
    run = Workdir(readable(workdir), str(workdir))
    if is_remote(output):
        check_url(str(output))  # before the work
    module, checkpoint = load_inference(run, threshold)
    if is_remote(output):
        url = str(output).rstrip("/")
        with only_writer(url) as check, tempfile.TemporaryDirectory(prefix="tfbigmodel-") as scratch:
            there = {name.partition("/")[0] for name in listing(url)}
            number = _after(there) if version is None else version
            if str(number) in there:
                raise UserError(f"{url}/{number} exists already and is not overwritten; choose another --version")
            folder = _write_version(Path(scratch), number, run, module, checkpoint, key)
            check()
            upload(folder, join(url, folder.name))
            return join(url, folder.name)
    output = Path(output)
    with _only_exporter(output):
        return _write_version(output, version, run, module, checkpoint, key)


def _write_version(
    output: Path,
    version: int | None,
    run: Workdir,
    module: InferenceModule,
    checkpoint: Checkpoint,
    key: Ed25519PrivateKey | None,
) -> Path:
    import tensorflow as tf

    from pipelines.files import atomic_folder, remove_temporaries, write_json, write_manifest
    from tfbigmodel.signing import sign_manifest

    config, info = run.config(), run.info()
    remove_temporaries(output)
    number = next_version(output) if version is None else version
    with atomic_folder(output / str(number)) as folder:
        # What is served needs no gradients; those of our LSTM read a loop's tensors, which a SavedModel cannot hold.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, str(folder), signatures=dict(module.functions), options=options)
        _name_inputs(folder / "saved_model.pb", module.preprocess.served_names)
        description = {
            "chapter": config.model.chapter,
            "task": info.task,
            "class_names": list(info.class_names),
            "label_name": info.label_name,
            "threshold": module.threshold,
            "updates": checkpoint.state["updates"],
        }
        image = image_description(module.preprocess)
        if image is not None:
            description["image"] = image
        write_json(folder / "assets.extra" / "model.json", description)
        write_manifest(folder, MANIFEST)
        if key is not None:
            sign_manifest(folder, MANIFEST, key)
    return output / str(number)


def image_description(preprocess: Preprocessor) -> dict[str, Any] | None:
    """How a model sees images, for who serves it; None where it sees none.

    Returns:
        `height`, `width` (pixels) and `channels` of its input, which pixels must have that are sent to the signature
        `pixels`; `resize` and `normalization`, which it does itself.
    """
    from pipelines.images.preprocess import ImagePreprocessor

    if not isinstance(preprocess, ImagePreprocessor):
        return None
    return {key: getattr(preprocess, key) for key in ("height", "width", "channels", "resize", "normalization")}


@contextmanager
def _only_exporter(output: Path) -> Iterator[None]:
    """Keeps two exports into one folder from choosing the same version."""
    from pipelines.files import locked_file

    lock = ExitStack()
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.enter_context(locked_file(output / ".lock"))
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"no permission to write {output}; choose another --output") from error
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}; choose another --output") from error
    with lock:
        yield


def _name_inputs(path: Path, names: Mapping[str, str]) -> None:
    """Gives a SavedModel's inputs the names of their columns, whatever is in them.

    TensorFlow names inputs like Python variables in ASCII; the protocol that serves them allows any text.

    Args:
        path: `saved_model.pb`, which nobody reads yet.
        names: the input's name in the graph → what clients call it.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for signature in model.meta_graphs[0].signature_def.values():
        inputs = {names.get(name, name): tensor for name, tensor in signature.inputs.items()}
        copies = {name: type(tensor).FromString(tensor.SerializeToString()) for name, tensor in inputs.items()}
        signature.inputs.clear()
        for name, tensor in copies.items():
            signature.inputs[name].CopyFrom(tensor)
    path.write_bytes(model.SerializeToString())


def next_version(output: Path) -> int:
    """One more than the highest version in a model's base path, from 1."""
    return _after({path.name for path in output.glob("*")} if output.is_dir() else set())


def _after(names: set[str]) -> int:
    return max((int(name) for name in names if name.isdecimal()), default=0) + 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m tfbigmodel.export --help`."""
    parser = make_parser("tfbigmodel.export", "Export a trained run as a SavedModel to serve.", _EPILOG)
    parser.add_argument("--workdir", required=True, help="a trained run")
    parser.add_argument(
        "--output", help="the model's base path, local or remote (default: exported/<name of the workdir>)"
    )
    parser.add_argument("--threshold", type=float, help="two classes: see evaluate --help (default: the run's)")
    parser.add_argument("--version", type=int, help="version number (default: one more than the highest there)")
    parser.add_argument("--signing_key", help="PEM file of an Ed25519 private key that signs the version's manifest")
    return run_command(parser, _act, argv)


def _act(arguments: argparse.Namespace) -> None:
    Workdir(readable(arguments.workdir), arguments.workdir).config()  # a wrong path is told at once
    if arguments.version is not None and arguments.version < 0:
        raise UserError(f"--version: expected a number from 0 on, received {arguments.version}")
    if arguments.signing_key is not None:
        from tfbigmodel.signing import read_signing_key

        read_signing_key(arguments.signing_key)
    import_tensorflow()
    output = arguments.output or Path("exported") / Path(arguments.workdir).absolute().name
    folder = export(arguments.workdir, output, arguments.version, arguments.threshold, arguments.signing_key)
    if is_remote(folder):
        say(f"exported {folder}")
        return
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    say(f"exported {folder} ({size / 2**20:.1f} MiB)")


callable_module(__name__, export)

if __name__ == "__main__":
    sys.exit(main())
