"""What `export --signing_key` signs, the server accepts; what anybody changed afterwards, it refuses."""

import os

import numpy as np
import pytest

from serving.engine import load_model
from serving.errors import ServingError
from serving.manifest import verify_manifest
from serving.security.signing import read_trusted_keys
from serving.security.signing_command import create_key
from tfbigmodel.config import resolve, validate_config
from tfbigmodel.export import main as export
from tfbigmodel.train import train


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A signed export of a tiny model, and the keys that a server would trust."""
    folder = tmp_path_factory.mktemp("signed")
    random = np.random.default_rng(0)
    rows = [f"{x:.3f},{'yes' if x > 0 else 'no'}" for x in random.normal(size=64)]
    (folder / "table.csv").write_text("\n".join(["x,label", *rows]) + "\n")
    values = {
        "data": {"source": "table", "path": str(folder / "table.csv"), "label": "label", "batch_size": 16},
        "model": {"chapter": "dense", "hidden_units": [2]},
        "training": {"epochs": 1, "jit_compile": False},
    }
    train(resolve(validate_config(values, "test")), folder / "run")
    create_key(folder / "key.pem", folder / "key.pub.pem")
    arguments = ["--workdir", str(folder / "run"), "--output", str(folder / "models")]
    assert export([*arguments, "--signing_key", str(folder / "key.pem")]) == 0
    return folder / "models" / "1", read_trusted_keys(str(folder / "key.pub.pem"), require_signature=True)


def test_the_server_accepts_what_was_signed(signed):
    version, keys = signed
    assert sorted(os.listdir(version / "assets.extra")) == ["manifest.json", "manifest.sig", "model.json"]
    assert verify_manifest(version, keys, require_signature=True) is True
    load_model(version).close()


def test_a_bad_key_is_told_before_anything_is_written(signed, tmp_path, capsys):
    version, _ = signed
    run, key = version.parents[1] / "run", tmp_path / "none.pem"
    assert export(["--workdir", str(run), "--output", str(tmp_path / "models"), "--signing_key", str(key)]) == 2
    assert capsys.readouterr().err == f"error: --signing_key: cannot read {key}: No such file or directory\n"
    assert not (tmp_path / "models").exists()


def test_the_server_refuses_any_flipped_byte(signed):
    version, keys = signed
    for path in sorted(path for path in version.rglob("*") if path.is_file()):
        content = path.read_bytes()
        # Every byte of what is signed and of the signature; of the files that are hashed, some.
        step = 1 if path.name.startswith("manifest.") else max(1, len(content) // 20)
        for index in {*range(0, len(content), step), len(content) - 1}:
            path.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
            with pytest.raises(ServingError, match=r"^Manifest check failed: "):
                verify_manifest(version, keys, require_signature=True)
        path.write_bytes(content)
    assert verify_manifest(version, keys, require_signature=True) is True
