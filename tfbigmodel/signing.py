"""Signs an export's manifest, so that a server can require that the export came from who has the key.

`serving.security.signing` reads what is written here, and makes keys; the two layers share the format, not code.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError
from pipelines.files import write_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE = "assets.extra/manifest.sig"
# A signature of a manifest can so never pass for one of anything else.
_DOMAIN = b"tfbigmodel manifest v1\n"


def read_signing_key(path: Path | str) -> Ed25519PrivateKey:
    """Reads an Ed25519 private key, as `python -m serving.security.signing create_key` writes it.

    Args:
        path: a PEM file without a passphrase.

    Raises:
        UserError: it cannot be read, is another kind of key, or the library for it is not installed.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise UserError("signing needs the library cryptography: pip install 'tfbigmodel[serving]'") from error
    try:
        key: Any = load_pem_private_key(Path(path).read_bytes(), password=None)
    except OSError as error:
        raise UserError(f"--signing_key: cannot read {path}: {error.strerror}") from error
    except TypeError as error:
        raise UserError(f"--signing_key: {path} is encrypted; give a key without a passphrase") from error
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(
            f"--signing_key: {path} is no Ed25519 private key in PEM; "
            "python -m serving.security.signing create_key makes one"
        )
    return key


def sign_manifest(folder: Path, manifest: str, key: Ed25519PrivateKey) -> None:
    """Writes `assets.extra/manifest.sig` beside a manifest.

    Args:
        folder: the export, complete but for this file.
        manifest: the manifest's path below it.
        key: from `read_signing_key`.
    """
    signature = key.sign(_DOMAIN + (folder / manifest).read_bytes())
    content = {
        "algorithm": "ed25519",
        "key_id": hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()[:16],
        "signature": base64.b64encode(signature).decode("ascii"),
    }
    write_json(folder / SIGNATURE, content)
