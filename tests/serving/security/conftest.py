"""Real certificates, made once: an authority, what it issued, and what is wrong in all the ways we refuse."""

import datetime
import hashlib
import ipaddress
import json
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from serving.security.signing_command import create_key, sign
from serving.security.tokens_command import create

DAY = datetime.timedelta(days=1)


class Issued:
    """A key and its certificate, `key` and `cert` being PEM texts."""

    def __init__(
        self, name, issuer=None, hosts=("localhost", "127.0.0.1"), start=-1, end=365, authority=False, private=None
    ):
        now = datetime.datetime.now(datetime.UTC)
        self.private = private or ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name((issuer or self).name)
            .public_key(self.private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + start * DAY)
            .not_valid_after(now + end * DAY)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            names = [_host(host) for host in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign((issuer or self).private, hashes.SHA256())
        self.cert = certificate.public_bytes(Encoding.PEM).decode()
        self.key = self._pem(NoEncryption())

    def encrypted_key(self, passphrase=b"secret"):
        return self._pem(BestAvailableEncryption(passphrase))

    def _pem(self, encryption):
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


def _host(host):
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@pytest.fixture(scope="session")
def certificates():
    """`.ca .server .client .expired .future .soon .wrong_host .other_ca .stranger .expired_ca`, each an `Issued`."""
    ca, other = Issued("our authority", authority=True), Issued("another authority", authority=True)
    return SimpleNamespace(
        ca=ca,
        other_ca=other,
        expired_ca=Issued("an old authority", start=-20, end=-10, authority=True),
        server=Issued("server", ca),
        client=Issued("client", ca),
        stranger=Issued("stranger", other),
        expired=Issued("expired", ca, start=-20, end=-10),
        future=Issued("future", ca, start=10, end=20),
        soon=Issued("soon", ca, end=5),
        wrong_host=Issued("elsewhere", ca, hosts=("elsewhere.example",)),
    )


@pytest.fixture
def ssl_config(tmp_path):
    """Writes a text SSLConfig: `ssl_config(server_key=…, server_cert=…, custom_ca=…, client_verify=True)`."""

    def write(**fields):
        path = tmp_path / "ssl.config"
        lines = [
            f"{name}: {str(value).lower() if isinstance(value, bool) else json.dumps(value)}"
            for name, value in fields.items()
        ]
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)
        return path

    return write


@pytest.fixture
def tokens_file(tmp_path):
    """Writes a tokens file: `tokens_file({"name": "shop", "token": "secret", "models": ["dense"]})`; hashes `token`."""
    path = tmp_path / "tokens.json"

    def write(*entries):
        hashed = []
        for entry in entries:
            entry = {"models": ["*"], **entry}
            if "token" in entry:
                entry["sha256"] = hashlib.sha256(entry.pop("token").encode()).hexdigest()
            hashed.append(entry)
        waiting = path.with_suffix(".new")
        waiting.write_text(json.dumps({"tokens": hashed}))
        waiting.chmod(0o600)
        waiting.rename(path)
        return path

    return write


@pytest.fixture(scope="session")
def secure(run_server, exported, put_version, certificates, tmp_path_factory):
    """A server with two models, linear and hidden, with mutual TLS, tokens and required signatures.

    `.server`, `.rest_port`, `.tokens` (by name), `.file` (of the tokens), `.folder` (with key.pem, the models and
    access.log).
    """
    folder = tmp_path_factory.mktemp("secure")
    create_key(folder / "key.pem", folder / "key.pub.pem")
    for name in ("linear", "hidden"):
        change = lambda version: sign(version, folder / "key.pem")  # noqa: E731
        put_version(exported / "linear", folder / name, 1, manifest=True, change=change)
    path = folder / "tokens.json"
    entries = {
        "shop": {"models": ["linear"]},
        "slow": {"models": ["*"], "requests_per_second": 0.01, "burst": 2},
        "old": {"models": ["*"], "expires": "2001-01-01T00:00:00Z"},
        "leaver": {"models": ["*"]},
        "friend": {"models": ["*"]},
        "rest_slow": {"models": ["*"], "requests_per_second": 0.01, "burst": 2},
        "curious": {"models": ["*"], "requests_per_second": 0.01, "burst": 2},
        "boss": {"models": ["*"], "actions": ["admin"]},
    }
    tokens = {name: create(path, {"name": name, **entry}) for name, entry in entries.items()}
    fields = {"server_key": certificates.server.key, "server_cert": certificates.server.cert}
    fields["custom_ca"] = certificates.ca.cert
    lines = [f"{name}: {json.dumps(text)}" for name, text in fields.items()]
    (folder / "ssl.config").write_text("\n".join([*lines, "client_verify: true"]))
    (folder / "ssl.config").chmod(0o600)
    configs = [
        f"config {{ name: '{name}' base_path: '{folder / name}' model_platform: 'tensorflow' }}"
        for name in ("linear", "hidden")
    ]
    (folder / "models.config").write_text("model_config_list { " + " ".join(configs) + " }")
    server = run_server(
        "--port=0", f"--model_config_file={folder / 'models.config'}", "--file_system_poll_wait_seconds=0.1",
        f"--ssl_config_file={folder / 'ssl.config'}", f"--auth_tokens_file={path}",
        f"--trusted_keys_file={folder / 'key.pub.pem'}", "--require_signed_manifest", "--max_num_load_retries=0",
        "--rest_api_port=-1", f"--access_log_file={folder / 'access.log'}",
    ).wait_ready()  # fmt: skip
    rest_port = int(server.process.stdout.readline().split()[3].rpartition(":")[2])
    return SimpleNamespace(server=server, rest_port=rest_port, tokens=tokens, file=path, folder=folder)
