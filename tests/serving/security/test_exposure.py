import socket

import pytest

from serving.errors import UsageError
from serving.security.exposure import check_exposure, is_local, is_loopback

LOCAL = ["127.0.0.1", "127.8.9.1", "127.1", "::1", "[::1]", "localhost", "::ffff:127.0.0.1", "unix:/tmp/socket"]
OPEN = ["0.0.0.0", "0", "::", "[::]", "", "*", "192.0.2.1", "::ffff:192.0.2.1", "::ffff:0.0.0.0", "10.0.0.1", "fe80::1"]


def can_listen(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.bind((host.strip("[]"), 0))
        return listening.getsockname()[0]


@pytest.mark.parametrize("host", LOCAL)
def test_this_machine_needs_no_protection(host):
    assert is_local(host)
    assert check_exposure(host, tls=False, tokens=False, insecure_public=False) is None


@pytest.mark.parametrize("host", OPEN)
def test_an_open_address_needs_tls_and_tokens(host):
    assert not is_local(host)
    assert check_exposure(host, tls=True, tokens=True, insecure_public=False) is None
    for given in ({"tls": True, "tokens": False}, {"tls": False, "tokens": True}, {"tls": False, "tokens": False}):
        with pytest.raises(UsageError):
            check_exposure(host, **given, insecure_public=False)
        assert "can be reached from other machines" in check_exposure(host, **given, insecure_public=True)


def test_what_the_system_binds_is_what_we_judged():
    assert is_loopback(can_listen("127.1"))
    assert can_listen("0") == "0.0.0.0"


@pytest.mark.parametrize(
    ("tls", "tokens", "lacks", "give"),
    [
        (False, False, "TLS and tokens", "--ssl_config_file and --auth_tokens_file"),
        (True, False, "tokens", "--auth_tokens_file"),
        (False, True, "TLS", "--ssl_config_file"),
    ],
)
def test_the_refusal_says_what_is_missing(tls, tokens, lacks, give):
    with pytest.raises(UsageError) as caught:
        check_exposure("0.0.0.0", tls, tokens, insecure_public=False)
    assert str(caught.value) == (
        f"--host=0.0.0.0 can be reached from other machines, without {lacks}: give {give}, or keep --host=127.0.0.1, "
        "or say --insecure_public if something else protects the port"
    )
    assert check_exposure("0.0.0.0", tls, tokens, insecure_public=True) == (
        f"--host=0.0.0.0 can be reached from other machines, without {lacks}: whoever can connect can use every model "
        "and read what others send"
    )


@pytest.mark.parametrize("host", ["no.such.host.invalid", "300.1.1.1", "a b", "x" * 300, "ipv4:0.0.0.0"])
def test_a_name_without_an_address(host):
    with pytest.raises(UsageError, match=r"^--host: .* is no address of this machine, and no name of one: "):
        check_exposure(host, tls=False, tokens=False, insecure_public=False)


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("unix:", True),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_peers(peer, local):
    assert is_loopback(peer) is local
