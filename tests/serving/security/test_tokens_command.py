"""`python -m serving.security.tokens`, as a process and as a function."""

import hashlib
import json
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.security.gate import Gate
from serving.security.tokens import TokensFile
from serving.security.tokens_command import create, main

REPOSITORY = Path(__file__).resolve().parents[3]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_lives_and_ends(tmp_path, capsys):
    path = tmp_path / "tokens.json"
    words = ["--file", str(path), "--name", "shop"]
    limits = ["--requests_per_second", "5", "--burst", "9", "--max_concurrent", "2"]
    assert main(["create", *words, "--models", "dense", "bert*", "--expires", "2999-01-01T00:00:00Z", *limits]) == 0
    out, err = capsys.readouterr()
    token = out.strip()
    assert len(token) == 43
    assert err == f"added shop to {path}; the token is shown this once:\n"
    assert mode(path) == 0o600
    assert token not in path.read_text()
    assert json.loads(path.read_text()) == {
        "tokens": [
            {
                "name": "shop",
                "sha256": hashlib.sha256(token.encode()).hexdigest(),
                "models": ["dense", "bert*"],
                "actions": ["infer", "read"],
                "expires": "2999-01-01T00:00:00Z",
                "requests_per_second": 5.0,
                "burst": 9,
                "max_concurrent": 2,
            }
        ]
    }
    assert Gate(TokensFile(path)).authenticate(f"Bearer {token}").name == "shop"

    assert main(["create", "--file", str(path), "--name", "eye", "--models", "*", "--actions", "metrics"]) == 0
    capsys.readouterr()
    assert main(["list", "--file", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "shop  models=dense,bert*  actions=infer,read  expires=2999-01-01T00:00:00Z  requests_per_second=5 burst=9  "
        "max_concurrent=2",
        "eye  models=*  actions=metrics",
    ]
    assert main(["revoke", *words]) == 0
    assert [entry["name"] for entry in json.loads(path.read_text())["tokens"]] == ["eye"]
    assert [child.name for child in tmp_path.iterdir()] == ["tokens.json"]


def test_the_process(tmp_path):
    path = tmp_path / "tokens.json"
    command = [sys.executable, "-m", "serving.security.tokens"]
    start = time.monotonic()
    shown = subprocess.run([*command, "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert time.monotonic() - start < 2  # no TensorFlow
    assert "create --file tokens.json --name shop --models dense" in shown
    done = subprocess.run(
        [*command, "create", "--file", path, "--name", "shop", "--models", "*"],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, len(done.stdout)) == (0, 44)
    done = subprocess.run([*command, "list"], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the following arguments are required: --file (see --help)\n"


def test_two_commands_at_once_lose_nothing(tmp_path):
    path = tmp_path / "tokens.json"
    with ThreadPoolExecutor(8) as pool:
        names = [f"name{number}" for number in range(24)]
        tokens = list(pool.map(lambda name: create(path, {"name": name, "models": ["*"]}), names))
    gate = Gate(TokensFile(path))
    assert [gate.authenticate(f"Bearer {token}").name for token in tokens] == names


@pytest.mark.parametrize(("before", "after"), [(0o600, 0o600), (0o640, 0o640), (0o666, 0o640), (0o400, 0o600)])
def test_what_others_may_do_with_the_file_is_taken_away(tmp_path, before, after):
    path = tmp_path / "tokens.json"
    create(path, {"name": "shop", "models": ["*"]})
    path.chmod(before)
    create(path, {"name": "desk", "models": ["*"]})
    assert mode(path) == after


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "tokens.json")
    create(tmp_path / "link", {"name": "shop", "models": ["*"]})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "tokens.json").is_file()


def error(arguments, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_mistakes(tmp_path, capsys):
    path = tmp_path / "tokens.json"
    file = ["--file", str(path)]
    new = ["create", *file, "--name", "shop", "--models", "dense"]
    assert f"cannot read {path}" in error(["list", *file], capsys)
    assert "expires must be a date and time" in error([*new, "--expires", "soon"], capsys)
    assert "so models must be" in error([*new, "--actions", "admin"], capsys)
    assert "invalid choice: 'write'" in error([*new, "--actions", "write"], capsys)
    assert not path.exists()
    assert main(new) == 0
    capsys.readouterr()
    assert "has a token named 'shop' already; revoke it or choose another name" in error(new, capsys)
    assert error(["revoke", *file, "--name", "x"], capsys) == f"error: {path} has no token named 'x'; it has shop\n"
    elsewhere = ["create", "--file", str(tmp_path / "none" / "tokens.json"), "--name", "shop", "--models", "*"]
    assert "cannot open the folder" in error(elsewhere, capsys)
    path.write_text("{")
    assert "is not valid JSON" in error(new, capsys)
    assert path.read_text() == "{"
