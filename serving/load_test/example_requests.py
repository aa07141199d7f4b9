"""Requests to load a server with: from examples that the user gives, or from the model's signature alone."""

from __future__ import annotations

import http.client
import itertools
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from serving.client.command import plain
from serving.client.info import ClientError, ModelMetadata, SignatureInfo
from serving.client.input import Example, to_arrays
from serving.client.requests import ModelSpec, predict_request, read_metadata
from serving.errors import Code
from serving.load_test.http_connection import http_request
from serving.messages import client_messages

Batch = Mapping[str, np.ndarray]


def batches(examples: Sequence[Example], info: SignatureInfo, rows: int) -> list[dict[str, np.ndarray]]:
    """The inputs of one request after the other.

    Args:
        examples: Each begins one request, which the next ones fill up; none = one request made from the signature.
        info: The signature.
        rows: Examples in a request.

    Returns:
        `{input name: array (rows, …)}` for each request.

    Raises:
        ClientError: An example does not fit the signature, or there is none and one is needed.
    """
    if not examples:
        return [{name: _ones(name, info, rows) for name in info.inputs if name not in info.optional_inputs}]
    if rows == 1:
        return [to_arrays([example], info) for example in examples]
    around = list(itertools.islice(itertools.cycle(examples), len(examples) + rows - 1))
    return [to_arrays(around[start : start + rows], info) for start in range(len(examples))]


def grpc_request(spec: ModelSpec, batch: Batch) -> bytes:
    """A serialised PredictRequest."""
    return predict_request(spec, batch).SerializeToString()


def rest_request(address: str, spec: ModelSpec, batch: Batch, headers: tuple[tuple[str, str], ...]) -> bytes:
    """A whole HTTP request to `:predict`, in the column format, which suits every signature."""
    values = {name: plain(array) for name, array in batch.items()}
    body: dict[str, Any] = {"inputs": next(iter(values.values())) if len(values) == 1 else values}
    if spec.signature:
        body["signature_name"] = spec.signature
    data = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogateescape")
    return http_request(address, f"{_model_path(spec)}:predict", data, headers)


def rest_metadata(
    address: str, spec: ModelSpec, headers: tuple[tuple[str, str], ...], tls: ssl.SSLContext | None, timeout: float
) -> ModelMetadata:
    """A model's metadata over REST.

    Raises:
        ClientError: The server cannot be reached, or does not have the model.
    """
    from google.protobuf import json_format

    url = f"{'https' if tls else 'http'}://{address}{_model_path(spec)}/metadata"
    # No proxy: the load goes straight to the server, and so does this.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))
    try:
        with opener.open(urllib.request.Request(url, headers=dict(headers)), timeout=timeout) as answer:
            data = json.load(answer)
        signatures = data["metadata"]["signature_def"]
        message = json_format.ParseDict(
            signatures, client_messages().metadata.SignatureDefMap(), ignore_unknown_fields=True
        )
        response = client_messages().metadata.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(message)
        response.model_spec.version.value = int(data["model_spec"]["version"])
    except urllib.error.HTTPError as error:
        raise ClientError(f"HTTP {error.code} from {url}: {error.read(300).decode('utf-8', 'replace')}") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ClientError(f"server {address} cannot be reached: {reason}", Code.UNAVAILABLE) from None
    except (ValueError, KeyError, TypeError, json_format.ParseError, http.client.HTTPException) as error:
        message = f"{url} answered something that is no model's metadata ({error!r}); is it a REST port?"
        raise ClientError(message) from None
    return read_metadata(spec.name, response)


def _model_path(spec: ModelSpec) -> str:
    path = f"/v1/models/{quote(spec.name, safe='')}"
    if spec.version is not None:
        path += f"/versions/{spec.version}"
    return path if spec.label is None else f"{path}/labels/{quote(spec.label, safe='')}"


def _ones(name: str, info: SignatureInfo, rows: int) -> np.ndarray:
    tensor = info.inputs[name]
    if tensor.dtype == "string":
        raise ClientError(f"input {name!r} is a string: give an example with --text, --image, --input or --input_file")
    dtypes = {wire.name: wire.numpy for wire in client_messages().tensors.WIRE_TYPES}
    if tensor.dtype not in dtypes:
        raise ClientError(f"input {name!r} is {tensor.dtype}, which this client cannot send")
    shape = (rows,) if tensor.shape is None else tuple(1 if size < 0 else size for size in tensor.shape)
    if tensor.shape and tensor.shape[0] < 0:
        shape = (rows, *shape[1:])
    return np.ones(shape, dtypes[tensor.dtype])
