"""Which addresses are this machine's alone, and the refusal to listen on others without protection."""

from __future__ import annotations

import ipaddress
import socket

from serving.errors import UsageError

_UNIX = ("unix:", "unix-abstract:", "/")


def check_exposure(host: str, tls: bool, tokens: bool, insecure_public: bool) -> str | None:
    """Refuses to listen where other machines can connect, unless TLS and tokens are on.

    Args:
        host: What the server will listen on: an address, a name, or a UNIX socket, which only this machine has.
        tls: Whether `--ssl_config_file` is given.
        tokens: Whether `--auth_tokens_file` is given.
        insecure_public: Whether the user insists.

    Returns:
        A warning to show where the user insists and something is missing; otherwise None.

    Raises:
        UsageError: The address is open to others and something is missing, or the name has no address.

    Example:
        >>> check_exposure("127.0.0.1", tls=False, tokens=False, insecure_public=False)
    """
    # Mutual TLS does not stand in for tokens: any certificate of the authority would have every right.
    protections = (("TLS", "--ssl_config_file", tls), ("tokens", "--auth_tokens_file", tokens))
    missing = {name: flag for name, flag, given in protections if not given}
    if is_local(host) or not missing:
        return None
    lacks = f"--host={host} can be reached from other machines, without {' and '.join(missing)}"
    if insecure_public:
        return f"{lacks}: whoever can connect can use every model and read what others send"
    raise UsageError(
        f"{lacks}: give {' and '.join(missing.values())}, or keep --host=127.0.0.1, or say "
        "--insecure_public if something else protects the port"
    )


def is_local(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only.

    Args:
        host: An IP address, in brackets or not, a name, or a UNIX socket (`unix:/path`).

    Returns:
        True if all that it resolves to is loopback. An empty host means every network.

    Raises:
        UsageError: A name that has no address here.
    """
    if host.startswith(_UNIX):
        return True
    bare = host.removeprefix("[").removesuffix("]")
    if bare in ("", "*"):
        return False
    try:
        # Names and the short forms of addresses (127.1, 0) mean what the system says.
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host: {host!r} is no address of this machine, and no name of one: {error}") from None
    return bool(found) and all(is_loopback(str(address[0])) for *_, address in found)


def is_loopback(peer: str) -> bool:
    """Whether a connection's other end is this machine.

    Args:
        peer: The IP address of the other end, or `unix:…`.

    Returns:
        True for 127.0.0.0/8, ::1, those of IPv4 written as IPv6 (`::ffff:127.0.0.1`), and UNIX sockets.
    """
    if peer.startswith(_UNIX):
        return True
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
