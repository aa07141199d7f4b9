"""Exit code 0 if the server says that it is ready: the HEALTHCHECK of our image.

    python -m serving.deploy.health_check https://127.0.0.1:8501/health/ready

The certificate is not checked: it names the server's public name, and this talks to its own container. Where callers
must show a certificate (mutual TLS) there is none to show here; `tcp://127.0.0.1:8501` then asks only whether the port
is open, which it is once the first models are loaded.
"""

from __future__ import annotations

import socket
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from urllib.parse import urlsplit

SECONDS = 5.0
DEFAULT_URL = "https://127.0.0.1:8501/health/ready"


def problem(url: str) -> str:
    """What is wrong with the server at this address.

    Args:
        url: `http://…` or `https://…`, which must answer 200, or `tcp://host:port`, which must accept a connection.

    Returns:
        One line; empty if nothing is wrong.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme == "tcp":
            socket.create_connection((parts.hostname or "", parts.port or 0), SECONDS).close()
            return ""
        if parts.scheme not in ("http", "https"):
            return f"{url} is no http, https or tcp address"
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        # No proxy: the environment's is not meant for the container's own address.
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        with urllib.request.build_opener(*handlers).open(url, timeout=SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        return f"{url} answered {error.code}"
    except (OSError, ValueError) as error:
        return f"{url}: {error}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns 0 or, after one line on standard error, 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    message = problem(words[0] if words else DEFAULT_URL)
    if message:
        sys.stderr.write(message + "\n")
    return 1 if message else 0


if __name__ == "__main__":
    sys.exit(main())
