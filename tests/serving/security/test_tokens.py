"""The tokens file: what it may hold, what is said about a mistake, and how changes are noticed."""

import hashlib
import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import UsageError
from serving.security.tokens import TokensFile, parse_token, read_tokens

DIGEST = hashlib.sha256(b"secret").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
KEYS = ("name", "sha256", "models", "actions", "expires", "requests_per_second", "burst", "max_concurrent")
SHOP = {"name": "shop", "sha256": DIGEST, "models": ["dense"]}


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "tokens.json"

    def put(content):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return put


def test_every_key(write):
    entry = {
        **SHOP,
        "sha256": DIGEST.upper(),
        "models": ["dense", "bert*"],
        "actions": ["metrics", "infer"],
        "expires": "2027-01-31T00:00:00+08:00",
        "requests_per_second": 2.5,
        "max_concurrent": 4,
    }
    (token,) = read_tokens(write({"tokens": [entry]}))
    assert token.digest.hex() == DIGEST
    assert token.actions == ("infer", "metrics")
    assert token.expires == 1801324800.0  # 2027-01-30T16:00:00Z
    assert (token.requests_per_second, token.burst, token.max_concurrent) == (2.5, 3, 4)
    assert DIGEST not in repr(token)


def test_defaults(write):
    (token,) = read_tokens(write({"tokens": [SHOP]}))
    assert token.actions == ("infer", "read")
    assert (token.expires, token.requests_per_second, token.max_concurrent) == (None, None, None)


@pytest.mark.parametrize(
    ("models", "action", "model", "allowed"),
    [
        (["dense"], "infer", "dense", True),
        (["dense"], "infer", "Dense", False),
        (["dense"], "infer", "dense2", False),
        (["dense"], "infer", "", False),
        (["bert*"], "read", "bert_large", True),
        (["bert*"], "read", "robert", False),
        (["*"], "infer", "anything\n at all", True),
        (["dense"], "metrics", "dense", False),
        (["dense"], "admin", None, False),
        (["dense"], "read", None, True),
    ],
)
def test_rights(write, models, action, model, allowed):
    (token,) = read_tokens(write({"tokens": [{**SHOP, "models": models}]}))
    assert token.allows(action, model) is allowed


MISTAKES = [
    ("{", " is not valid JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
    ("[" * 100_000, " is not valid JSON"),
    ([], ': expected an object {"tokens": […]}'),
    ({"tokens": {}}, ': expected an object {"tokens": […]}'),
    ('{"tokens": [], "tokens": []}', " has the key 'tokens' twice in one object"),
    ({"tokens": [], "token": []}, ": the file: unknown key 'token', did you mean 'tokens'?; expected tokens"),
    ({"tokens": [1]}, ": token 1: expected an object with name, sha256, models, actions, "),
    ({"tokens": [{**SHOP, "model": []}]}, ": token 1: unknown key 'model', did you mean 'models'?; expected name"),
    ({"tokens": [{**SHOP, "rights": []}]}, ": token 1: unknown key 'rights'; expected name, sha256"),
    ({"tokens": [SHOP, {**SHOP, "sha256": OTHER}]}, ": token 2: the name 'shop' is used by another token already"),
    ({"tokens": [SHOP, {**SHOP, "name": "x"}]}, ": token 2: 'x' and 'shop' are the same token"),
    ({"tokens": [{**SHOP, "name": "a b"}]}, ": token 1: name must be a text of 1 to 100 printable characters wi"),
    ('{"tokens": [{"name": "\\ud800"}]}', ": token 1: name must be a text of 1 to 100 printable characters"),
    ({"tokens": [{**SHOP, "models": ["\ud800"]}]}, ": models must be a list of"),
    ({"tokens": [{"models": ["*"]}]}, ": token 1: name must be a text"),
    ({"tokens": [{"name": "shop", "models": ["*"]}]}, ": token 1 (shop): sha256 must be the 64 hexadecimal digits"),
    ({"tokens": [{**SHOP, "models": []}]}, ': models must be a list of names such as ["dense", "bert*"], ["*"] for'),
    ({"tokens": [{**SHOP, "models": "dense"}]}, ": token 1 (shop): models must be a list"),
    ({"tokens": [{**SHOP, "actions": []}]}, ": actions must be a list of infer, read, admin, metrics"),
    ({"tokens": [{**SHOP, "actions": ["reads"]}]}, ": actions: unknown action 'reads', did you mean 'read'?; expected"),
    ({"tokens": [{**SHOP, "actions": ["admin"]}]}, ': the action admin is about every model, so models must be ["*"]'),
    ({"tokens": [{**SHOP, "expires": "2027-01-31"}]}, "such as 2027-01-31T00:00:00Z, but '2027-01-31' was given"),
    ({"tokens": [{**SHOP, "expires": "2027-01-31T00:00:00"}]}, ": expires must be a date and time with its zone"),
    ({"tokens": [{**SHOP, "expires": "9999-12-31T23:59:59-14:00"}]}, ": expires must be a date and time with its zone"),
    ({"tokens": [{**SHOP, "expires": 5}]}, ": expires must be a date and time with its zone"),
    ({"tokens": [{**SHOP, "requests_per_second": 0}]}, ": requests_per_second must be a number above 0"),
    ({"tokens": [{**SHOP, "requests_per_second": float("nan")}]}, ": requests_per_second must be a number above 0"),
    ({"tokens": [{**SHOP, "max_concurrent": 1.5}]}, ": max_concurrent must be a whole number from 1 to 1000000000"),
    ({"tokens": [{**SHOP, "max_concurrent": True}]}, ": max_concurrent must be a whole number from 1"),
    ({"tokens": [{**SHOP, "burst": 3}]}, ": burst has no effect without requests_per_second"),
]  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["*", DIGEST, "infer"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, "x"]), inner, max_size=8),
    max_leaves=20,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)) | JSON)
def test_any_json_is_a_token_or_one_clear_mistake(entry):
    told = ""
    try:
        token = parse_token(entry, 1)
    except UsageError as error:
        told = str(error)
    assert "\n" not in told
    assert told or (token.models and token.burst >= 1)


@pytest.mark.parametrize(("content", "text"), MISTAKES)
def test_mistakes_are_told_in_one_line(write, content, text):
    path = write(content)
    with pytest.raises(UsageError) as caught:
        read_tokens(path)
    told = str(caught.value)
    assert told.startswith(f"--auth_tokens_file: {path}")
    assert text in told
    assert "\n" not in told


def test_a_token_put_where_its_hash_belongs_is_not_shown(write):
    with pytest.raises(UsageError) as caught:
        read_tokens(write({"tokens": [{**SHOP, "sha256": "the-token-itself"}]}))
    assert "the-token-itself" not in str(caught.value)
    assert str(caught.value).endswith("never the token")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*: No such file or directory"):
        read_tokens(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not valid JSON"):
        read_tokens(tmp_path / "binary")


def test_changes_are_noticed_and_broken_files_are_not_obeyed(tokens_file, eventually, caplog):
    caplog.set_level(logging.INFO)
    path = tokens_file({"name": "shop", "token": "one"})
    with TokensFile(path, poll_seconds=0.02) as file:
        names = lambda: [token.name for token in file.tokens]  # noqa: E731
        assert names() == ["shop"]
        tokens_file({"name": "shop", "token": "one"}, {"name": "desk", "token": "two"})
        eventually(lambda: names() == ["shop", "desk"])
        path.write_text("{")
        eventually(lambda: any("the tokens read before stay in force" in text for text in caplog.messages))
        assert names() == ["shop", "desk"]
        path.unlink()
        eventually(lambda: any("cannot read" in text for text in caplog.messages))
        assert names() == ["shop", "desk"]
        tokens_file()
        eventually(lambda: names() == [])
        # The line follows the change.
        eventually(lambda: any("has no tokens: every request will be refused" in text for text in caplog.messages))
    errors = [text for text in caplog.messages if "stay in force" in text]
    assert len(errors) == 2  # once for each change, not once for each look


def test_a_swapped_link_is_a_change(tmp_path, write, eventually):
    """Kubernetes changes a mounted secret so."""
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write({"tokens": [SHOP]}).rename(old)
    write({"tokens": [{**SHOP, "sha256": OTHER}]}).rename(new)
    link, waiting = tmp_path / "link", tmp_path / "waiting"
    link.symlink_to(old)
    with TokensFile(link, poll_seconds=0.02) as file:
        waiting.symlink_to(new)
        waiting.rename(link)
        eventually(lambda: file.tokens[0].digest.hex() == OTHER)


@pytest.mark.parametrize(
    ("mode", "warning"), [(0o600, ""), (0o640, ""), (0o644, "every user may read"), (0o646, "every user may write")]
)
def test_a_file_open_to_others_is_warned_of(write, caplog, mode, warning):
    path: Path = write({"tokens": [SHOP]})
    path.chmod(mode)
    TokensFile(path)
    assert caplog.messages == [] if not warning else warning in caplog.messages[0]
