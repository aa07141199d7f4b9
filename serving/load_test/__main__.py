"""`python -m serving.load_test`: how many requests a second a server answers, and how fast.

    python -m serving.load_test --target 127.0.0.1:8500 --model dense --clients 1,8,64 --seconds 5

Exit code 0; 1 if some load got no good answer at all; 2 for a mistake of the user's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from serving.client.arguments import (
    Parser,
    add_connection_options,
    add_example_options,
    connection_options,
    examples,
    seconds,
    tls_context,
)
from serving.client.base import DEFAULT_TIMEOUT_SECONDS, BaseClient
from serving.client.info import signature_info
from serving.client.requests import ModelSpec
from serving.client.sync_client import Client
from serving.errors import UsageError

# numpy, gRPC and uvloop are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from serving.load_test.measure import Result, Target

_COLUMNS = ("clients", "requests/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "errors")
_FULL_LOAD = 0.9
_PERCENTILES = (50, 90, 99, 100)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: The command line; None = the process's own.

    Returns:
        The exit code.
    """
    answered = True
    try:
        options = _parser().parse_args(arguments)
        for number, result in enumerate(run(options)):
            if number == 0 and not options.json:
                _print("".join(f"{name:>12}" for name in _COLUMNS))
            _print(json.dumps(as_dictionary(result)) if options.json else as_row(result))
            if not options.json:
                for kind, text in result.error_texts.items():
                    _print(f"  {result.errors[kind]} × {kind}: {' '.join(text.split())}")
                if result.generator_load > _FULL_LOAD:
                    _print("  the load generator itself was at its limit: the server may be able to do more")
            answered = answered and result.requests > 0
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0 if answered else 1


def run(options: argparse.Namespace) -> Iterator[Result]:
    """One measurement for each number of clients.

    Raises:
        UsageError: Bad input, or the server did not answer.
    """
    from serving.load_test.measure import measure

    target, make_request = prepare(options)
    for clients in options.clients:
        yield measure(
            target,
            make_request,
            clients,
            options.seconds,
            rate=options.rate,
            warm_up=options.warm_up,
            timeout=options.timeout,
        )


def prepare(options: argparse.Namespace) -> tuple[Target, Callable[[], bytes]]:
    """The server and its requests: asks it for the model's metadata.

    Raises:
        UsageError: Bad input, or the server did not answer.
    """
    from serving.load_test.example_requests import batches, grpc_request, rest_metadata, rest_request
    from serving.load_test.grpc_connection import GrpcTarget
    from serving.load_test.http_connection import HttpTarget

    spec = ModelSpec(options.model, options.version, options.label, options.signature)
    connection = BaseClient(options.target, **connection_options(options))
    tls = tls_context(options, "http/1.1" if options.rest else "h2")
    target: Target
    if not (options.target.rpartition(":")[2].isdecimal() or (options.target.startswith("unix:") and not options.rest)):
        raise UsageError(f"--target must be host:port{'' if options.rest else ' or unix:/path'}, not {options.target}")
    if options.rest:
        target = HttpTarget(options.target, tls)
        metadata = rest_metadata(options.target, spec, connection.headers, tls, options.timeout)
    else:
        target = GrpcTarget(options.target, metadata=connection.headers, timeout=options.timeout, tls=tls)
        with Client(options.target, **connection_options(options)) as client:
            metadata = client.metadata(spec.name, spec.version, options.timeout, label=spec.label)
    inputs = batches(examples(options), signature_info(metadata, options.signature), options.batch_size)
    if options.rest:
        requests = [rest_request(options.target, spec, batch, connection.headers) for batch in inputs]
    else:
        requests = [grpc_request(spec, batch) for batch in inputs]
    return target, itertools.cycle(requests).__next__


def as_row(result: Result) -> str:
    """A line of the table."""
    latencies = [f"{result.percentile(percent):.2f}" for percent in _PERCENTILES]
    cells = [result.clients, f"{result.requests_per_second:.1f}", *latencies, sum(result.errors.values())]
    return "".join(f"{cell:>12}" for cell in cells)


def as_dictionary(result: Result) -> dict[str, Any]:
    """A line for machines; latencies are None where nothing was answered."""
    measured = bool(len(result.latencies_ms))
    return {
        "clients": result.clients,
        "seconds": result.seconds,
        "requests": result.requests,
        "requests_per_second": result.requests_per_second,
        "latency_ms": {
            "max" if percent == 100 else f"p{percent}": result.percentile(percent) if measured else None
            for percent in _PERCENTILES
        },
        "errors": dict(result.errors),
        "error_texts": result.error_texts,
        "generator_load": result.generator_load,
    }


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()  # each row when it is known


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"must be numbers above 0, e.g. 1,8,64, but {text!r} was given")
    return [int(part) for part in parts]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number above 0, but {text!r} was given")
    return int(text)


def _rate(text: str) -> float:
    try:
        return seconds(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"must be a number above 0, but {text!r} was given") from None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m serving.load_test",
        description="Puts load on a server that speaks TensorFlow Serving's protocol; prints requests a second and "
        "latencies. Without an example it sends ones, in the shapes that the model's signature asks for.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="name of the model on the server")
    parser.add_argument("--signature", help="signature to call (serving_default)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", type=int, help="version of the model (the highest available)")
    which.add_argument("--label", help="the version under this label")
    parser.add_argument("--rest", action="store_true", help="REST in place of gRPC; --target is then the REST port")
    parser.add_argument(
        "--clients", type=_numbers, default=[1, 8, 64], metavar="N,N", help="clients at once, one load each (1,8,64)"
    )
    parser.add_argument("--seconds", type=seconds, default=5.0, help="length of each load (%(default)g)")
    parser.add_argument("--warm_up", type=seconds, default=1.0, help="seconds before it, not counted (%(default)g)")
    parser.add_argument(
        "--rate",
        type=_rate,
        metavar="N",
        help="requests a second at fixed times, whether or not earlier ones are answered; a latency counts from the "
        "planned time. Without it each client sends its next request when it has its answer",
    )
    parser.add_argument("--batch_size", type=_count, default=1, help="examples in a request (%(default)s)")
    parser.add_argument(
        "--timeout", type=seconds, default=DEFAULT_TIMEOUT_SECONDS, help="seconds to wait for an answer (%(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object for each load")
    add_example_options(parser.add_mutually_exclusive_group())
    add_connection_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
