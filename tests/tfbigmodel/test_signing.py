"""The key that `export --signing_key` takes; what is signed with it, tests/e2e/test_signed.py shows to a server."""

import base64
import json
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pipelines.errors import UserError
from tfbigmodel.signing import SIGNATURE, read_signing_key, sign_manifest


def pem(key, encryption=None):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


PUBLIC = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_a_signature(tmp_path):
    key = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(pem(key))
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "manifest.json").write_bytes(b"any bytes\r\n")
    sign_manifest(tmp_path, "assets.extra/manifest.json", read_signing_key(tmp_path / "key.pem"))
    content = json.loads((tmp_path / SIGNATURE).read_text())
    assert content.keys() == {"algorithm", "key_id", "signature"}
    assert (content["algorithm"], len(content["key_id"])) == ("ed25519", 16)
    signature = base64.b64decode(content["signature"], validate=True)
    key.public_key().verify(signature, b"tfbigmodel manifest v1\nany bytes\r\n")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot read .*key.pem: No such file or directory"),
        (b"nonsense", "is no Ed25519 private key in PEM; python -m serving.security.signing create_key makes one"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "is no Ed25519 private key in PEM"),
        (pem(ed25519.Ed25519PrivateKey.generate(), BestAvailableEncryption(b"x")), "is encrypted; give a key without"),
        (PUBLIC, "is no Ed25519 private key"),
    ],
    ids=["missing", "nonsense", "other", "encrypted", "public"],
)  # fmt: skip
def test_keys_that_cannot_sign(tmp_path, content, text):
    if content is not None:
        (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(UserError, match=f"^--signing_key: .*{text}"):
        read_signing_key(tmp_path / "key.pem")


def test_without_the_library(tmp_path):
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from pipelines.errors import UserError\n"
        "from tfbigmodel.signing import read_signing_key\n"
        "try: read_signing_key('key.pem')\n"
        "except UserError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "signing needs the library cryptography: pip install 'tfbigmodel[serving]'\n"
