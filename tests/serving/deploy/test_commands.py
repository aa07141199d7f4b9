"""The two small commands: PEM files to --ssl_config_file, and the image's health check."""

import datetime
import http.server
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serving.deploy import health_check, make_ssl_config
from serving.protos import read_text_message

REPOSITORY = Path(__file__).resolve().parents[3]


def write_pair(folder, name, password=None):
    """A key and its self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    encoding = serialization.Encoding.PEM
    (folder / f"{name}.key").write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, encryption))
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(encoding))
    return folder / f"{name}.key", folder / f"{name}.crt"


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pems")
    return {
        "server": write_pair(folder, "server"),
        "ca": write_pair(folder, "ca"),
        "locked": write_pair(folder, "locked", password=b"secret"),
    }


@pytest.mark.parametrize("mutual", [False, True])
def test_the_file_holds_the_pem_texts_and_is_its_owner_s_alone(pems, tmp_path, mutual):
    key, certificate = pems["server"]
    output = tmp_path / "ssl_config"
    arguments = ["--key", str(key), "--certificate", str(certificate), "--output", str(output)]
    arguments += ["--client_ca", str(pems["ca"][1])] if mutual else []
    assert make_ssl_config.main(arguments) == 0
    message = read_text_message(output, "SSLConfig", "ssl_config_file")
    assert message.server_key == key.read_text()
    assert message.server_cert == certificate.read_text()
    assert message.custom_ca == (pems["ca"][1].read_text() if mutual else "")
    assert message.client_verify is mutual
    assert output.stat().st_mode & 0o777 == 0o600
    assert make_ssl_config.main(arguments) == 0  # again: a renewed certificate takes the old one's place


def test_the_server_s_own_reader_takes_it(pems, tmp_path):
    from serving.security.tls import read_tls

    key, certificate = pems["server"]
    output = tmp_path / "ssl_config"
    arguments = ["--key", str(key), "--certificate", str(certificate), "--client_ca", str(pems["ca"][1])]
    assert make_ssl_config.main([*arguments, "--output", str(output)]) == 0
    assert read_tls(output).client_verify


@pytest.mark.parametrize(
    ("key", "certificate", "client_ca", "expected"),
    [
        ("ca.key", "server.crt", None, "they do not belong together; expected a PEM key without a passphrase"),
        ("locked.key", "locked.crt", None, "are no usable pair"),
        ("server.crt", "server.crt", None, "are no usable pair"),
        ("missing.key", "server.crt", None, "cannot read"),
        ("server.key", "server.crt", "server.key", "holds no PEM certificate"),
        ("binary", "server.crt", None, "as a PEM file"),
    ],
)
def test_mistakes_are_one_line_and_code_2(pems, tmp_path, capsys, key, certificate, client_ca, expected):
    folder = pems["server"][0].parent
    (folder / "binary").write_bytes(b"\x80\x00")
    arguments = ["--key", str(folder / key), "--certificate", str(folder / certificate)]
    arguments += ["--client_ca", str(folder / client_ca)] if client_ca else []
    assert make_ssl_config.main([*arguments, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert expected in error
    assert error.count("\n") == 1
    assert "PRIVATE" not in error
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there(pems, tmp_path, capsys):
    key, certificate = map(str, pems["server"])
    output = str(tmp_path / "nowhere" / "out")
    assert make_ssl_config.main(["--key", key, "--certificate", certificate, "--output", output]) == 2
    assert "cannot write" in capsys.readouterr().err


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health/ready" else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(params=["http", "https"])
def health_server(request, pems):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        if request.param == "https":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pems["server"][1], pems["server"][0])
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"{request.param}://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_health(health_server, monkeypatch, capsys):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert health_check.main([f"{health_server}/health/ready"]) == 0
    assert health_check.main([f"tcp://{health_server.partition('//')[2]}"]) == 0
    assert capsys.readouterr().err == ""
    assert health_check.main([f"{health_server}/other"]) == 1
    assert capsys.readouterr().err == f"{health_server}/other answered 503\n"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", "https://127.0.0.1:1/", "tcp://127.0.0.1:1", "tcp://nowhere", "file:///etc", "x", ""]
)
def test_what_cannot_be_reached_is_one_line_and_code_1(url, capsys):
    assert health_check.main([url]) == 1
    error = capsys.readouterr().err
    assert error.startswith(url)
    assert error.count("\n") == 1


def test_the_health_check_starts_at_once():
    """It runs every ten seconds for ever: no TensorFlow, no gRPC."""
    code = "import sys, serving.deploy.health_check; print(sorted({'tensorflow', 'grpc', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=30)
    assert done.stdout == "[]\n"
