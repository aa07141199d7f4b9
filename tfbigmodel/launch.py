"""The command `launch`: the workers of a multi-worker run on this machine, or one of them on each of many machines."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence

from pipelines.errors import UserError
from tfbigmodel.command_line import make_parser, run_command
from tfbigmodel.local_workers import run_workers
from tfbigmodel.training.cluster import VARIABLE, split_address, tf_config

_DESCRIPTION = "Start the workers of a multi-worker run on this machine, or this machine's worker of a cluster."
_EPILOG = """The module after -- runs as with python -m, with TF_CONFIG set; tfbigmodel.train also with
--set training.strategy=multi_worker.
The workers share one workdir, and data.batch_size is divided among them.

examples:
  python -m tfbigmodel.launch --workers 2 -- tfbigmodel.train --config configs/dense.yaml --workdir runs/dense
  python -m tfbigmodel.launch --workers 4 --restarts 3 -- tfbigmodel.train --config … --workdir …
  python -m tfbigmodel.launch --hosts a:2222,b:2222 --index 0 -- tfbigmodel.train …    (on machine a; --index 1 on b)

The exit code is that of the worker that failed first, or 128 + the number of the signal that ended it. With 138 a
worker ended because another one, or the tf.data service, did.
"""
_TRAIN = "tfbigmodel.train"
_STRATEGY = "training.strategy"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m tfbigmodel.launch --help`."""
    parser = make_parser("tfbigmodel.launch", _DESCRIPTION, _EPILOG)
    parser.usage = "python -m tfbigmodel.launch (--workers N | --hosts A,B,… --index I) [options] -- MODULE …"
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--workers", type=int, metavar="N", help="start N processes on this machine, and watch them")
    where.add_argument("--hosts", metavar="HOST:PORT,…", help="all workers' addresses, the chief's first; starts one")
    parser.add_argument("--index", type=int, metavar="I", help="with --hosts: which of them this is, from 0")
    parser.add_argument(
        "--restarts", type=int, default=0, metavar="N",
        help="with --workers: start all again from the last checkpoint when one has died, so many times (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--grace", type=float, default=30.0, metavar="SECONDS",
        help="with --workers: how long the others may take to end before they are killed (default: 30)",
    )  # fmt: skip
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    command = words[split + 1 :]
    if not command and _TRAIN in words:
        parser.error(f"expected -- before {_TRAIN}, so that what follows is its own")
    return run_command(parser, lambda arguments: _act(arguments, command), words[:split])


def _act(arguments: argparse.Namespace, command: list[str]) -> int:
    if arguments.hosts is None:
        if arguments.index is not None:
            raise UserError("--index goes with --hosts; --workers starts all of them")
        for name, least in (("workers", 1), ("restarts", 0), ("grace", 0)):
            if getattr(arguments, name) < least:
                raise UserError(f"--{name}: expected {least} or more, received {getattr(arguments, name)}")
        return run_workers(_completed(command), arguments.workers, arguments.restarts, arguments.grace)
    hosts = _hosts(arguments.hosts)
    if arguments.index is None or not 0 <= arguments.index < len(hosts):
        received = "nothing" if arguments.index is None else arguments.index
        raise UserError(f"--index: expected one from 0 to {len(hosts) - 1}, received {received}")
    if arguments.restarts:
        raise UserError("--restarts goes with --workers; on a cluster its own controller starts workers again")
    os.environ[VARIABLE] = tf_config(hosts, arguments.index)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", *_completed(command)])


def _completed(command: list[str]) -> list[str]:
    """The command with the strategy that its workers need.

    Raises:
        UserError: it is none, or asks for another strategy, with which each worker would train for itself.
    """
    if not command or command[0].startswith("-"):
        received = f"received {command[0]}" if command else "received nothing"
        raise UserError(f"expected a module after --, such as -- {_TRAIN} --config … --workdir …; {received}")
    try:
        found = importlib.util.find_spec(command[0])
    except (ModuleNotFoundError, ValueError):
        found = None
    if found is None:
        raise UserError(f"there is no module {command[0]}; expected one such as {_TRAIN}, without .py")
    if command[0] != _TRAIN:
        return command
    given = [word.removeprefix("--set=") for word in command if word.removeprefix("--set=").startswith(f"{_STRATEGY}=")]
    for setting in given:
        if setting != f"{_STRATEGY}=multi_worker":
            raise UserError(f"--set {setting}: the workers of one run need {_STRATEGY}=multi_worker; leave it out")
    return command if given else [*command, "--set", f"{_STRATEGY}=multi_worker"]


def _hosts(text: str) -> list[str]:
    hosts = [host.strip() for host in text.split(",")]
    for host in hosts:
        split_address(host, "--hosts")
        if hosts.count(host) > 1:
            raise UserError(f"--hosts: {host} is there twice; each worker has an address of its own")
    return hosts


if __name__ == "__main__":
    sys.exit(main())
