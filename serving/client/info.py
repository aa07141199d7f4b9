"""What a client learns about models, and how it says that something went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serving.errors import Code, UsageError

DEFAULT_SIGNATURE = "serving_default"


class ClientError(UsageError):
    """A request that was not answered: one line that says why, and the server's code."""

    def __init__(self, message: str, code: Code = Code.INVALID_ARGUMENT) -> None:
        """Keeps the line and the code; errors found before anything was sent are INVALID_ARGUMENT."""
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a signature.

    `dtype` is TensorFlow's name (`float`, `string`, …); `shape` has -1 for free sizes and is None if the rank is free.
    """

    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class SignatureInfo:
    """What one signature takes and gives; `optional_inputs` have defaults on the server."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    optional_inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelMetadata:
    """A model's version and its signatures by name."""

    model: str
    version: int
    signatures: Mapping[str, SignatureInfo]


@dataclass(frozen=True)
class ModelVersionStatus:
    """A version's state (`START`, `LOADING`, `AVAILABLE`, `UNLOADING`, `END`) and the error that ended it, if any."""

    version: int
    state: str
    error_code: str
    error_message: str


def signature_info(metadata: ModelMetadata, signature: str | None) -> SignatureInfo:
    """One signature of a model's metadata.

    Raises:
        ClientError: The model does not have it; names those it has.
    """
    name = signature or DEFAULT_SIGNATURE
    if name not in metadata.signatures:
        known = ", ".join(metadata.signatures)
        raise ClientError(f"model {metadata.model!r} has no signature {name!r}; it has: {known}")
    return metadata.signatures[name]


def unknown_input(name: str, info: SignatureInfo) -> str:
    """What to say of an input name that a signature does not have."""
    return f"unknown input {name!r}; the model's inputs are: {', '.join(info.inputs)}"
