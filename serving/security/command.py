"""What the commands of this folder share: argument errors in one line, exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from serving.errors import UsageError

USER_ERROR = 2


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors as ours: one line."""

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage and leaving."""
        raise UsageError(f"{message} (see --help)")


def make_parser(module: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser for `python -m <module>`; its sub-commands' errors are one line too."""
    return _Parser(
        prog=f"python -m {module}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def run_command(
    parser: argparse.ArgumentParser,
    action: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None,
) -> int:
    """Parses the arguments and acts.

    Returns:
        The exit code: 0, or 2 with one line on standard error.
    """
    try:
        action(parser.parse_args(arguments))
    except UsageError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return USER_ERROR
    return 0
