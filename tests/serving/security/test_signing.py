"""Signatures of manifests: made by our commands, checked by OpenSSL, and refused in every bent form."""

import base64
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from serving.errors import Code, ServingError, UsageError
from serving.manifest import verify_manifest
from serving.security.signing import DOMAIN, SIGNATURE, read_trusted_keys
from serving.security.signing_command import create_key, main, sign

MANIFEST = "assets.extra/manifest.json"


@pytest.fixture
def version(tmp_path):
    folder = tmp_path / "models" / "1"
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "variables").mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "变量").write_bytes(b"weights")
    names = ("saved_model.pb", "variables/变量")
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / MANIFEST).write_text(json.dumps({"algorithm": "sha256", "files": files}, ensure_ascii=False))
    return folder


@pytest.fixture
def keys(tmp_path):
    """`keys(name) -> (private file, public file, key id)`."""

    def make(name):
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub.pem"
        return private, public, create_key(private, public)

    return make


def trusted(*public, tmp_path):
    path = tmp_path / "trusted.pem"
    path.write_text("\n# a comment\n".join(file.read_text() for file in public))
    return read_trusted_keys(str(path), True)


def refusal(version, keys, require=True):
    with pytest.raises(ServingError) as caught:
        verify_manifest(version, keys, require)
    assert "\n" not in caught.value.message
    assert caught.value.message.startswith("Manifest check failed: ")
    return caught.value.code, caught.value.message.removeprefix("Manifest check failed: ")


def test_a_signed_version_is_accepted(version, keys, tmp_path):
    private, public, name = keys("a")
    _, other, _ = keys("b")
    assert sign(version, private) == name
    for require in (False, True):
        assert verify_manifest(version, trusted(public, tmp_path=tmp_path), require) is True
        assert verify_manifest(version, trusted(other, public, tmp_path=tmp_path), require) is True
    assert verify_manifest(version) is True  # who trusts nobody looks at no signature
    content = json.loads((version / SIGNATURE).read_text())
    assert content.keys() == {"algorithm", "key_id", "signature"}
    assert (content["algorithm"], content["key_id"]) == ("ed25519", name)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl")
def test_openssl_agrees(version, keys, tmp_path):
    private, public, name = keys("a")
    sign(version, private)
    signature = base64.b64decode(json.loads((version / SIGNATURE).read_text())["signature"])
    (tmp_path / "message").write_bytes(DOMAIN + (version / MANIFEST).read_bytes())
    (tmp_path / "signature").write_bytes(signature)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin"]
    command += ["-in", tmp_path / "message", "-sigfile", tmp_path / "signature"]
    assert "Success" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    der = subprocess.run(["openssl", "pkey", "-pubin", "-in", public, "-outform", "DER"], capture_output=True).stdout
    assert hashlib.sha256(der[-32:]).hexdigest()[:16] == name


def test_no_flipped_byte_is_accepted(version, keys, tmp_path):
    private, public, _ = keys("a")
    sign(version, private)
    keys_ = trusted(public, tmp_path=tmp_path)
    for path in sorted(path for path in version.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for index in range(len(content)):
            path.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
            code, _ = refusal(version, keys_)
            assert code in (Code.DATA_LOSS, Code.PERMISSION_DENIED)
        path.write_bytes(content)
    assert verify_manifest(version, keys_, True)


def test_a_manifest_made_to_fit_changed_files_is_refused(version, keys, tmp_path):
    private, public, name = keys("a")
    sign(version, private)
    (version / "saved_model.pb").write_bytes(b"evil")
    manifest = json.loads((version / MANIFEST).read_text())
    manifest["files"]["saved_model.pb"] = hashlib.sha256(b"evil").hexdigest()
    (version / MANIFEST).write_text(json.dumps(manifest))
    text = f"the signature by the key {name} is not of this manifest; export or sign the version again"
    for require in (False, True):
        assert refusal(version, trusted(public, tmp_path=tmp_path), require) == (Code.DATA_LOSS, text)


def test_a_stranger_is_refused_even_where_signatures_are_not_required(version, keys, tmp_path):
    private, _, name = keys("a")
    _, other, trusted_name = keys("b")
    sign(version, private)
    expected = (
        Code.PERMISSION_DENIED,
        f"it is signed with the key {name}, and trusted are {trusted_name}; sign the version with a trusted key or add "
        "its public key to --trusted_keys_file",
    )
    for require in (False, True):
        assert refusal(version, trusted(other, tmp_path=tmp_path), require) == expected


def test_the_name_of_a_trusted_key_is_not_enough(version, keys, tmp_path):
    private, _, name = keys("a")
    _, other, trusted_name = keys("b")
    sign(version, private)
    path = version / SIGNATURE
    path.write_text(path.read_text().replace(name, trusted_name))
    code, text = refusal(version, trusted(other, tmp_path=tmp_path))
    assert (code, text[:30]) == (Code.DATA_LOSS, "the signature by the key " + trusted_name[:5])


def test_an_unsigned_version(version, keys, tmp_path):
    _, public, _ = keys("a")
    keys_ = trusted(public, tmp_path=tmp_path)
    assert verify_manifest(version, keys_) is True
    code, text = refusal(version, keys_)
    assert code == Code.PERMISSION_DENIED
    assert text == (
        "the version is not signed, and --require_signed_manifest is set; sign it with "
        f"python -m serving.security.signing sign --key key.pem {version}"
    )
    (version / MANIFEST).unlink()
    assert verify_manifest(version, keys_) is False
    assert refusal(version, keys_)[0] == Code.PERMISSION_DENIED


def test_a_signature_without_its_manifest(version, keys, tmp_path):
    private, public, _ = keys("a")
    sign(version, private)
    (version / MANIFEST).unlink()
    expected = (Code.DATA_LOSS, f"{SIGNATURE} is there and {MANIFEST} is missing")
    assert refusal(version, (), require=False) == refusal(version, trusted(public, tmp_path=tmp_path)) == expected


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", f"{SIGNATURE} is not JSON"),
        ("[" * 100_000, f"{SIGNATURE} is not JSON"),
        ([], f"{SIGNATURE} must be an object with algorithm ed25519, key_id and signature"),
        ({"algorithm": "none", "key_id": "", "signature": ""}, f"{SIGNATURE} must be an object with algorithm ed25519"),
        ({"algorithm": "ed25519", "key_id": "x", "signature": "AAAA"}, f"{SIGNATURE} must have signature, 64 bytes in"),
        ({"algorithm": "ed25519", "key_id": "x", "signature": 7}, f"{SIGNATURE} must have signature, 64 bytes in"),
        ({"algorithm": "ed25519", "key_id": 7, "signature": "A" * 86 + "=="}, f"{SIGNATURE} must have key_id, a text"),
        ({"algorithm": "ed25519", "key_id": "x", "signature": "A" * 85 + "B=="}, f"{SIGNATURE} must have signature"),
    ],
)
def test_a_signature_that_is_none(version, keys, tmp_path, content, text):
    _, public, _ = keys("a")
    (version / SIGNATURE).write_text(content if isinstance(content, str) else json.dumps(content))
    code, told = refusal(version, trusted(public, tmp_path=tmp_path))
    assert code == Code.DATA_LOSS
    assert told.startswith(text)


def test_the_trusted_keys_file(keys, tmp_path, certificates):
    private, public, _ = keys("a")
    path = tmp_path / "trusted.pem"
    assert read_trusted_keys("") == ()
    path.write_text(public.read_text() * 2)
    assert len(read_trusted_keys(str(path))) == 1

    def mistake(content, require=False):
        path.write_text(content)
        with pytest.raises(UsageError) as caught:
            read_trusted_keys(str(path), require)
        return str(caught.value)

    assert mistake("") == f"--trusted_keys_file: {path} has no public key: expected PEM, -----BEGIN PUBLIC KEY-----"
    assert "holds a private key; keep it off the server" in mistake(private.read_text())
    assert "key 2 is no Ed25519 public key" in mistake(public.read_text() + certificates.server.cert)
    with pytest.raises(UsageError, match="--trusted_keys_file: cannot read"):
        read_trusted_keys(str(tmp_path / "none"))
    with pytest.raises(UsageError, match="--require_signed_manifest needs --trusted_keys_file"):
        read_trusted_keys("", True)


def test_the_commands(version, tmp_path, capsys):
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    assert main(["create_key", "--private", str(private), "--public", str(public)]) == 0
    assert [stat.S_IMODE(path.stat().st_mode) for path in (private, public)] == [0o600, 0o644]
    before = os.stat(version / MANIFEST).st_mtime_ns
    assert main(["sign", "--key", str(private), str(version)]) == 0
    assert main(["sign", "--key", str(private), str(version)]) == 0  # again: a renewed one
    assert main(["verify", "--trusted_keys", str(public), str(version)]) == 0
    assert capsys.readouterr().out.endswith(f"{version} is signed by a trusted key and every file matches\n")
    assert os.stat(version / MANIFEST).st_mtime_ns == before
    assert sorted(os.listdir(version / "assets.extra")) == ["manifest.json", "manifest.sig"]


def error(arguments, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_the_commands_mistakes(version, keys, tmp_path, capsys, certificates):
    private, public, _ = keys("a")
    new = ["create_key", "--private", str(tmp_path / "new.pem"), "--public", str(public)]
    assert f"{public} exists already and is not overwritten" in error(new, capsys)
    assert not (tmp_path / "new.pem").exists()
    new = ["create_key", "--private", str(private), "--public", str(tmp_path / "new.pub.pem")]
    assert f"{private} exists already and is not overwritten" in error(new, capsys)
    assert error(["verify", "--trusted_keys", str(public), str(version)], capsys).startswith(
        f"error: {version}: Manifest check failed: the version is not signed"
    )
    locked = tmp_path / "locked.pem"
    encrypted = BestAvailableEncryption(b"x")
    locked.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encrypted))
    assert "is encrypted; give a key without a passphrase" in error(["sign", "--key", str(locked), "x"], capsys)
    locked.write_text(certificates.server.key)
    assert "is no Ed25519 private key in PEM" in error(["sign", "--key", str(locked), "x"], capsys)
    assert f"cannot read {tmp_path / 'none'}" in error(["sign", "--key", str(tmp_path / "none"), "x"], capsys)
    assert "python -m tfbigmodel.export writes it" in error(["sign", "--key", str(private), str(tmp_path)], capsys)
    (version / "saved_model.pb").write_bytes(b"changed")
    assert "file saved_model.pb has SHA-256" in error(["sign", "--key", str(private), str(version)], capsys)
    assert not (version / SIGNATURE).exists()


def test_without_the_library(tmp_path):
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from serving.security.signing_command import main\n"
        "sys.exit(main(['create_key', '--private', 'a', '--public', 'b']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    text = "error: TLS and signed manifests need the library cryptography: pip install 'tfbigmodel[serving]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", text)
