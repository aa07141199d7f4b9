"""The machines of a multi-worker run: what TF_CONFIG says of them, read and written without TensorFlow."""

import json
import os
from dataclasses import dataclass

from pipelines.errors import TRY_AGAIN, UserError

VARIABLE = "TF_CONFIG"
# The exit code of a worker that ended because another one did.
WORKER_GONE = TRY_AGAIN
_EXAMPLE = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
_HIGHEST_PORT = 65535


@dataclass(frozen=True)
class Cluster:
    """The workers of a run, and which of them this process is.

    Attributes:
        addresses: `host:port` of each worker, the chief's first; TensorFlow's own server listens there.
        names: what messages call them, such as `worker 1 (host2:2222)`.
        index: this process's place in both.
    """

    addresses: tuple[str, ...]
    names: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes."""
        return self.index == 0


def read_cluster(text: str) -> Cluster:
    """The workers that a value of TF_CONFIG names.

    Args:
        text: JSON, as TensorFlow, the Kubeflow training operator and `python -m tfbigmodel.launch` write it.

    Raises:
        UserError: it is of another form, an address is no `host:port` or is given twice, or the task is none of them.

    Example:
        >>> read_cluster('{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 1}}').names
        ('worker 0 (a:2222)', 'worker 1 (b:2222)')
    """
    try:
        value = json.loads(text)
        jobs = {str(kind): list(addresses) for kind, addresses in value["cluster"].items()}
        kind, index = value["task"]["type"], int(value["task"]["index"])
        malformed = any(isinstance(value["cluster"][each], str | dict) for each in jobs)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{VARIABLE} is not of the form {_EXAMPLE}; received {text}") from error
    if malformed:
        raise UserError(f"{VARIABLE} is not of the form {_EXAMPLE}, with whole lists of addresses; received {text}")
    if not jobs.keys() <= {"chief", "worker"} or kind not in ("chief", "worker"):
        other = next(iter(sorted(jobs.keys() - {"chief", "worker"})), kind)
        raise UserError(
            f"{VARIABLE}: expected tasks of the types chief and worker, received {other!r}; all workers train and "
            "validate alike, there are no parameter servers and no evaluator"
        )
    if len(jobs.get("chief", ())) > 1:
        raise UserError(f"{VARIABLE}: expected one chief, received {len(jobs['chief'])}")
    processes = jobs.get(kind, [])
    if not 0 <= index < len(processes):
        raise UserError(
            f"{VARIABLE}: task index {index} is not below the cluster's number of {kind}s, {len(processes)}"
        )
    members = [(each, position) for each in ("chief", "worker") for position in range(len(jobs.get(each, ())))]
    addresses = tuple(jobs[each][position] for each, position in members)
    names = tuple(
        f"{each if each == 'chief' else f'worker {position}'} ({address})"
        for (each, position), address in zip(members, addresses, strict=True)
    )
    for address in addresses:
        split_address(address, VARIABLE)
        if addresses.count(address) > 1:
            raise UserError(f"{VARIABLE}: {address} is there twice; each worker has an address of its own")
    return Cluster(addresses, names, members.index((kind, index)))


def cluster_of_environment(strategy: str) -> Cluster | None:
    """The workers of this run, where `training.strategy` is `multi_worker`.

    Args:
        strategy: the configuration's `training.strategy`.

    Returns:
        None for every other strategy.

    Raises:
        UserError: TF_CONFIG is missing or malformed; or it names several workers that would each train alone.
    """
    text = os.environ.get(VARIABLE)
    if strategy == "multi_worker":
        if not text:
            raise UserError(
                f"training.strategy: multi_worker needs the environment variable {VARIABLE}, such as {_EXAMPLE}; "
                "python -m tfbigmodel.launch sets it"
            )
        return read_cluster(text)
    if text and _num_workers(text) > 1:
        raise UserError(
            f"{VARIABLE} names {_num_workers(text)} workers, and with training.strategy {strategy} each would train "
            "for itself, in one workdir; set training.strategy to multi_worker, or unset the variable"
        )
    return None


def tf_config(addresses: list[str], index: int) -> str:
    """The value of TF_CONFIG for one of several workers.

    Args:
        addresses: `host:port` of each, the chief's first.
        index: which one.
    """
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})


def split_address(address: str, where: str) -> tuple[str, int]:
    """Host and port of an address.

    Args:
        address: `host:port`; an IPv6 address in brackets, `[::1]:2222`.
        where: what holds the address, for the message.

    Raises:
        UserError: it is something else.
    """
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host.startswith("[") and host.endswith("]")
    if not bare or bracketed != (":" in bare) or any(c in bare for c in "/[] ") or not _is_port(port):
        raise UserError(f"{where}: expected an address such as host1:2222, received {address!r}")
    return bare, int(port)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) <= _HIGHEST_PORT


def _num_workers(text: str) -> int:
    try:
        jobs = json.loads(text)["cluster"]
        return sum(len(jobs.get(kind, ())) for kind in ("chief", "worker"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0  # it is another program's, and not used here
