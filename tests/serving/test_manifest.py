import hashlib
import json
import os

import pytest

from serving.errors import Code, ServingError
from serving.manifest import verify_manifest


@pytest.fixture
def version(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "variables" / "变量").write_bytes(b"weights")
    files = {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("saved_model.pb", "variables/变量")
    }
    write(tmp_path, {"algorithm": "sha256", "files": files})
    return tmp_path


def write(version, content):
    (version / "assets.extra" / "manifest.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )


def read(version):
    return json.loads((version / "assets.extra" / "manifest.json").read_text())


def refusal(version):
    with pytest.raises(ServingError) as caught:
        verify_manifest(version)
    assert caught.value.code == Code.DATA_LOSS
    return caught.value.message


def test_a_version_that_matches(version):
    assert verify_manifest(version) is True


def test_a_version_without_a_manifest_is_not_checked(tmp_path):
    assert verify_manifest(tmp_path) is False


def test_a_missing_file(version):
    (version / "variables" / "变量").unlink()
    assert refusal(version) == "Manifest check failed: file variables/变量 is missing"


def test_an_extra_file(version):
    (version / "assets").mkdir()
    (version / "assets" / "x").write_text("")
    assert refusal(version) == "Manifest check failed: file assets/x is not in the manifest"


def test_a_link_to_a_directory_is_an_extra_file(version, tmp_path_factory):
    (version / "assets").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    assert refusal(version) == "Manifest check failed: file assets is not in the manifest"


def test_a_changed_file(version):
    (version / "saved_model.pb").write_bytes(b"other")
    digest, old = hashlib.sha256(b"other").hexdigest(), hashlib.sha256(b"graph").hexdigest()
    assert refusal(version) == (
        f"Manifest check failed: file saved_model.pb has SHA-256 {digest}, the manifest says {old}"
    )


def test_a_path_outside_is_never_found(version):
    content = read(version)
    content["files"]["../secret"] = "0" * 64
    write(version, content)
    assert refusal(version) == "Manifest check failed: file ../secret is missing"


@pytest.mark.parametrize("name", ["variables/变量", "assets.extra/manifest.json"])
def test_a_pipe_does_not_keep_the_server_waiting(version, name):
    (version / name).unlink()
    os.mkfifo(version / name)
    assert refusal(version) == f"Manifest check failed: {name.split('/')[1]} is no regular file"


def test_the_signature_is_not_one_of_the_files(version):
    (version / "assets.extra" / "manifest.sig").write_text("{}")
    assert verify_manifest(version) is True


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "assets.extra/manifest.json cannot be read: "),
        ("[" * 100_000, "assets.extra/manifest.json cannot be read: "),
        ([], "assets.extra/manifest.json must be an object with algorithm sha256"),
        ({"algorithm": "md5", "files": {}}, "assets.extra/manifest.json must be an object with algorithm sha256"),
        ({"algorithm": "sha256"}, "assets.extra/manifest.json must have files, an object of path: SHA-256"),
        ({"algorithm": "sha256", "files": {"a": 1}}, "assets.extra/manifest.json must have files, an object of path: "),
    ],
)  # fmt: skip
def test_a_manifest_that_is_none(version, content, text):
    write(version, content)
    assert refusal(version).startswith(f"Manifest check failed: {text}")
