"""Preparing TFDS datasets from local files."""

import gzip
import hashlib
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pipelines
from pipelines.config import TfdsConfig
from pipelines.errors import UserError
from pipelines.offline import NetworkIsOffError, main, network_off, prepare

tfds = pytest.importorskip("tensorflow_datasets")


def idx(values: np.ndarray) -> bytes:
    """The format of the MNIST files."""
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return gzip.compress(header + values.tobytes(), mtime=0)


NUMBERS = {"train": 60_000, "t10k": 10_000}
LABELS = {name: (np.arange(number) % 10).astype(np.uint8) for name, number in NUMBERS.items()}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four files of Fashion-MNIST, in its format and of its numbers, with pictures of one colour."""
    folder = tmp_path_factory.mktemp("originals") / "some" / "where"
    folder.mkdir(parents=True)
    for name, labels in LABELS.items():
        pictures = np.broadcast_to(labels[:, None, None], (len(labels), 28, 28))
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(idx(np.ascontiguousarray(pictures)))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    return folder.parent.parent


@pytest.fixture
def registered(originals: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """TFDS's own builder of fashion_mnist, told the sizes and checksums of these files; and told to stop soon."""
    from tensorflow_datasets.core.download import checksums

    cls = tfds.builder_cls("fashion_mnist")
    infos = {}
    for url, info in cls.url_infos.items():
        content = next(originals.rglob(info.filename)).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        infos[url] = checksums.UrlInfo(size=len(content), checksum=digest, filename=info.filename)
    monkeypatch.setattr(cls, "url_infos", infos)
    generate = cls._generate_examples

    def first_ones(self, num_examples, data_path, label_path):
        for number, example in enumerate(generate(self, num_examples, data_path, label_path)):
            if number == 50:
                return
            yield example

    monkeypatch.setattr(cls, "_generate_examples", first_ones)
    return infos


def test_a_dataset_is_prepared_from_local_files(
    originals: Path, registered: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["fashion_mnist", "--from", str(originals), "--data_dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("fashion_mnist/3.0.1 is prepared in ")
    assert said.endswith("test 50, train 50 examples\n")
    assert [path.name for path in tmp_path.iterdir()] == ["fashion_mnist"], "nothing temporary is left"
    data = pipelines.load(TfdsConfig(source="tfds", name="fashion_mnist", data_dir=tmp_path, batch_size=8))
    examples = data.examples("test")
    np.testing.assert_array_equal(examples.features["pixels"][:, 3, 3, 0], examples.labels)
    assert main(["fashion_mnist", "--from", str(originals), "--data_dir", str(tmp_path)]) == 0, "again: it is there"


def test_file_names_do_not_matter(originals: Path, registered: dict, tmp_path: Path) -> None:
    (tmp_path / "renamed").mkdir()
    for number, path in enumerate(originals.rglob("*.gz")):
        (tmp_path / "renamed" / f"{number}.bin").write_bytes(path.read_bytes())
    assert "train 50" in prepare("fashion_mnist", tmp_path / "renamed", tmp_path / "data")


def test_every_missing_file_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["fashion_mnist", "--from", str(tmp_path), "--data_dir", str(tmp_path / "data")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "fashion_mnist needs 4 more files" in said
    url = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
    for name, size in (("train-images-idx3-ubyte.gz", "26,421,880"), ("t10k-labels-idx1-ubyte.gz", "5,148")):
        assert f"{name} ({size} bytes, {url}/{name})" in said
    assert not (tmp_path / "data").exists()


def test_a_wrong_checksum_is_named(originals: Path, registered: dict, tmp_path: Path) -> None:
    for path in originals.rglob("*.gz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    wrong = tmp_path / "t10k-labels-idx1-ubyte.gz"
    wrong.write_bytes(gzip.compress(gzip.decompress(wrong.read_bytes()), compresslevel=1, mtime=1))
    expected = registered[
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz"
    ].checksum
    with pytest.raises(
        UserError, match=rf"{wrong} is not the file that http.*expected are .* {expected}; fetch it again"
    ):
        prepare("fashion_mnist", tmp_path, tmp_path / "data")


def test_another_packing_is_taken_on_the_users_word(
    originals: Path, registered: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for path in originals.rglob("*.gz"):
        (tmp_path / path.name).write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1, mtime=1))
    arguments = ["fashion_mnist", "--from", str(tmp_path), "--data_dir", str(tmp_path / "data"), "--any_checksum"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err.count("taken because of --any_checksum") == 4
    assert "train 50" in captured.out


def test_of_many_configurations_only_the_wanted_files_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"glue/sst2/2.0.0 needs 1 more file in .*: SST-2.zip \(7,439,277 bytes, https://"
    ):
        prepare("glue/sst2", tmp_path, tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashin_mnist", r'TFDS has no dataset "fashin_mnist"; did you mean "fashion_mnist"\?'),
        ("fashion_mnist:1.0.0", r'"fashion_mnist:1.0.0" cannot be prepared: '),
        ("glue/nonesuch", r'"glue/nonesuch" cannot be prepared: '),
        ("a b", r'"a b" cannot be prepared|TFDS has no dataset "a b"'),
    ],
)
def test_a_wrong_name(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        prepare(name, tmp_path, tmp_path / "data")
    assert "\n" not in str(caught.value)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is no folder; give the folder that holds"):
        prepare("fashion_mnist", tmp_path / "nowhere", tmp_path)


def test_a_builder_that_fails_is_the_users_to_hear_of(originals: Path, registered: dict, tmp_path: Path) -> None:
    for path in originals.rglob("*.gz"):
        (tmp_path / path.name).write_bytes(b"not packed at all")
    with pytest.raises(UserError, match=r"fashion_mnist/3.0.1 could not be prepared: "):
        prepare("fashion_mnist", tmp_path, tmp_path / "data", any_checksum=True)
    assert not list((tmp_path / "data").glob(".downloads*"))


def test_the_network_is_off_and_on_again() -> None:
    with network_off():
        with pytest.raises(NetworkIsOffError):
            socket.create_connection(("127.0.0.1", 9))
        with socket.socket() as connection, pytest.raises(NetworkIsOffError):
            connection.connect(("127.0.0.1", 9))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 9))


def test_help_is_fast_and_the_command_exits_with_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.offline"]
    result = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=20, check=True)
    assert "--from" in result.stdout
    wrong = [*command, "mnist", "--from", str(tmp_path / "nowhere"), "--data_dir", str(tmp_path)]
    assert subprocess.run(wrong, capture_output=True, timeout=20).returncode == 2
