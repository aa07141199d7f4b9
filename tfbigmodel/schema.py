"""The command `schema`: the JSON schema of a configuration file, with which editors check and complete YAML."""

import argparse
import json
import sys
from collections.abc import Sequence

from tfbigmodel.command_line import make_parser, run_command, say

_EPILOG = """example:
  python -m tfbigmodel.schema > configs/schema.json

Name it in a configuration's first line: # yaml-language-server: $schema=schema.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m tfbigmodel.schema --help`."""
    parser = make_parser("tfbigmodel.schema", "Print the JSON schema of configuration files.", _EPILOG)
    return run_command(parser, _act, argv)


def _act(arguments: argparse.Namespace) -> None:
    from tfbigmodel.config import json_schema

    say(json.dumps(json_schema(), ensure_ascii=False, indent=2))


if __name__ == "__main__":
    sys.exit(main())
