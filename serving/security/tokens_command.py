"""`python -m serving.security.tokens`: makes tokens, lists them, takes them back."""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.errors import UsageError
from serving.security.command import make_parser, run_command
from serving.security.keys import kept_mode, locked_folder, write_file
from serving.security.tokens import ACTIONS, DEFAULT_ACTIONS, Token, parse_token, read_tokens

_EPILOG = """examples:
  python -m serving.security.tokens create --file tokens.json --name shop --models dense 'bert*'
  python -m serving.security.tokens create --file tokens.json --name prometheus --models '*' --actions metrics
  python -m serving.security.tokens list --file tokens.json
  python -m serving.security.tokens revoke --file tokens.json --name shop
"""


def create(path: Path, entry: dict[str, Any]) -> str:
    """Makes a token and adds its hash to the file, which is made if missing.

    Args:
        path: The tokens file.
        entry: What the token may do, as in the file: `name`, `models` and the rest, without `sha256`.

    Returns:
        The token. It is kept nowhere.

    Raises:
        UsageError: The name is used already, the entry or the file is wrong, or the file cannot be written.
    """
    path = path.resolve()  # a link stays one
    token = secrets.token_urlsafe(32)  # 256 bits of the system's randomness
    digest = hashlib.sha256(token.encode()).hexdigest()
    with locked_folder(path.parent):
        tokens = read_tokens(path) if path.exists() else ()
        if any(other.name == entry["name"] for other in tokens):
            raise UsageError(f"{path} has a token named {entry['name']!r} already; revoke it or choose another name")
        new = parse_token({**entry, "sha256": digest}, len(tokens) + 1)
        _write(path, (*tokens, new))
    return token


def revoke(path: Path, name: str) -> None:
    """Removes a token from the file; a running server notices within seconds.

    Raises:
        UsageError: There is none of this name, or the file is wrong or cannot be written.
    """
    path = path.resolve()
    with locked_folder(path.parent):
        tokens = read_tokens(path)
        kept = tuple(token for token in tokens if token.name != name)
        if len(kept) == len(tokens):
            names = ", ".join(token.name for token in tokens) or "none"
            raise UsageError(f"{path} has no token named {name!r}; it has {names}")
        _write(path, kept)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m serving.security.tokens --help`."""
    return run_command(_parser(), _act, arguments)


def _act(options: argparse.Namespace) -> None:
    path = Path(options.file)
    if options.command == "create":
        keys = ("name", "models", "actions", "expires", "requests_per_second", "burst", "max_concurrent")
        token = create(path, {key: getattr(options, key) for key in keys if getattr(options, key) is not None})
        sys.stderr.write(f"added {options.name} to {path}; the token is shown this once:\n")
        sys.stdout.write(token + "\n")
    elif options.command == "revoke":
        revoke(path, options.name)
        sys.stderr.write(f"removed {options.name} from {path}\n")
    else:
        sys.stdout.writelines(_line(kept) + "\n" for kept in read_tokens(path))


def _line(token: Token) -> str:
    parts = [token.name, f"models={','.join(token.models)}", f"actions={','.join(token.actions)}"]
    if token.expires is not None:
        ended = token.expires <= datetime.now(UTC).timestamp()
        parts.append(f"{'expired' if ended else 'expires'}={_iso(token.expires)}")
    if token.requests_per_second is not None:
        parts.append(f"requests_per_second={token.requests_per_second:g} burst={token.burst}")
    if token.max_concurrent is not None:
        parts.append(f"max_concurrent={token.max_concurrent}")
    return "  ".join(parts)


def _write(path: Path, tokens: Sequence[Token]) -> None:
    content = json.dumps({"tokens": [_entry(token) for token in tokens]}, ensure_ascii=False, indent=2) + "\n"
    write_file(path, content.encode(), kept_mode(path, 0o600))


def _entry(token: Token) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": token.name,
        "sha256": token.digest.hex(),
        "models": list(token.models),
        "actions": list(token.actions),
    }
    if token.expires is not None:
        entry["expires"] = _iso(token.expires)
    if token.requests_per_second is not None:
        entry |= {"requests_per_second": token.requests_per_second, "burst": token.burst}
    if token.max_concurrent is not None:
        entry["max_concurrent"] = token.max_concurrent
    return entry


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "serving.security.tokens", "Makes bearer tokens for --auth_tokens_file, which keeps only hashes.", _EPILOG
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="create|list|revoke")
    new = commands.add_parser("create", help="make a token and print it, once", allow_abbrev=False)
    new.add_argument("--models", nargs="+", required=True, help="names of models; * stands for any text")
    new.add_argument(
        "--actions", nargs="+", choices=ACTIONS, default=list(DEFAULT_ACTIONS), help="(default: infer read)"
    )
    new.add_argument("--expires", help="date and time with its zone, e.g. 2027-01-31T00:00:00Z (default: never)")
    new.add_argument("--requests_per_second", type=float, help="rate on average (default: any)")
    new.add_argument("--burst", type=int, help="requests at once within that rate (default: a second's)")
    new.add_argument("--max_concurrent", type=int, help="requests under way at once (default: any number)")
    listing = commands.add_parser("list", help="print what each token may do", allow_abbrev=False)
    gone = commands.add_parser("revoke", help="take a token back", allow_abbrev=False)
    for command in (new, listing, gone):
        command.add_argument("--file", required=True, help="the tokens file")
    for command in (new, gone):
        command.add_argument("--name", required=True, help="whose token it is; shown in logs")
    return parser
