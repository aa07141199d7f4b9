"""What the request log wrote, read again: one dict, or one JSON line, for each example."""

from __future__ import annotations

import argparse
import base64
import io
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from serving.engine import tensorflow
from serving.operations.record_file import INCOMPLETE

logger = logging.getLogger(__name__)


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The examples of a file, a request with several rows being as many examples.

    Args:
        path: A TFRecord file of PredictionLog, also one that a crash left `.incomplete`.

    Yields:
        `{"time", "model", "version", "signature", "method", "inputs", "outputs"}`. Of a predict request, inputs and
        outputs map names to values: tensors as (nested) lists, strings as text or, if they are none, `{"b64": …}`. An
        output that has not one value for each row is in every row in full. Of classify, regress and multi_inference,
        inputs are the example's features.

    Raises:
        ValueError: The file is no such file, or damaged; says at which record.

    Example:
        >>> for record in records(Path("/logs/dense-20261122T082543Z-0.tfrecord")):
        ...     print(record["inputs"], record["outputs"])
    """
    tensorflow()  # first: the messages import it too, and without our settings
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis import prediction_log_pb2

    for number, data in enumerate(_raw_records(path)):
        try:
            log = prediction_log_pb2.PredictionLog.FromString(data)
            yield from examples(log)
        except (DecodeError, ValueError) as error:
            raise ValueError(f"{path}: record {number} is no PredictionLog that can be read: {error}") from None


def examples(log: Any) -> Iterator[dict[str, Any]]:
    """The examples of one PredictionLog; see `records`."""
    kind = log.WhichOneof("log_type")
    readers = {
        "predict_log": _predict,
        "classify_log": _classify,
        "regress_log": _regress,
        "multi_inference_log": _multi_inference,
    }
    if kind not in readers:
        logger.warning("a record of kind %s is left out", kind)
        return
    metadata = log.log_metadata
    spec = metadata.model_spec if metadata.HasField("model_spec") else answered_spec(log)
    seconds = metadata.timestamp_secs
    moment = datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z") if seconds else None
    head = {
        "time": moment,
        "model": spec.name,
        "version": spec.version.value if spec.HasField("version") else None,
        "signature": spec.signature_name,
        "method": kind.removesuffix("_log"),
    }
    for inputs, outputs in readers[kind](getattr(log, kind)):
        yield {**head, "inputs": inputs, "outputs": outputs}


def answered_spec(log: Any) -> Any:
    """The ModelSpec of a PredictionLog's response, or of its request where the response has none."""
    kind = log.WhichOneof("log_type")
    one = getattr(log, kind)
    if kind == "multi_inference_log":
        specs = [part.model_spec for part in (*one.response.results, *one.request.tasks)]
        return specs[0] if specs else type(log.log_metadata.model_spec)()
    return one.response.model_spec if one.response.HasField("model_spec") else one.request.model_spec


def main(arguments: Sequence[str]) -> int:
    """`python -m serving.operations.request_log read <files>`: prints JSON lines.

    Args:
        arguments: The words after the module's name.

    Returns:
        The exit code: 0, or 2 for a file that cannot be read.
    """
    parser = argparse.ArgumentParser(prog="python -m serving.operations.request_log", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    read = commands.add_parser("read", help="print the examples of request logs as JSON lines")
    read.add_argument("files", nargs="+", type=Path, help="TFRecord files of PredictionLog")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # as JSON is, whatever the terminal's settings
    try:
        for path in parser.parse_args(arguments).files:
            for record in records(path):
                sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    except ValueError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        return 2
    except BrokenPipeError:
        # `| head` has seen enough. Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _raw_records(path: Path) -> Iterator[bytes]:
    tf = tensorflow()
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected one that the request log wrote")
    number = 0
    try:
        for data in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            yield data
            number += 1
    except tf.errors.DataLossError:
        if path.suffix != INCOMPLETE:
            raise ValueError(f"{path}: record {number} is damaged, or this is no TFRecord file") from None
        logger.warning("%s ends within record %d, which is left out", path, number)


def _predict(log: Any) -> Iterator[tuple[Any, Any]]:
    from serving.tensors import from_proto

    inputs = {name: from_proto(tensor) for name, tensor in log.request.inputs.items()}
    outputs = {name: from_proto(tensor) for name, tensor in log.response.outputs.items()}
    sizes = {array.shape[:1] for array in inputs.values()}
    if len(sizes) != 1 or sizes == {()}:  # without a common batch there are no rows
        yield _values(inputs), _values(outputs)
        return
    ((size,),) = sizes
    for row in range(size):
        # With the dots a single string stays an array of objects.
        taken = {name: array[row, ...] if array.shape[:1] == (size,) else array for name, array in outputs.items()}
        yield _values({name: array[row, ...] for name, array in inputs.items()}), _values(taken)


def _classify(log: Any) -> Iterator[tuple[Any, Any]]:
    for features, result in zip(_features(log.request.input), log.response.result.classifications, strict=True):
        yield features, _classes(result)


def _regress(log: Any) -> Iterator[tuple[Any, Any]]:
    for features, result in zip(_features(log.request.input), log.response.result.regressions, strict=True):
        yield features, {"value": _shortest(result.value)}


def _multi_inference(log: Any) -> Iterator[tuple[Any, Any]]:
    for row, features in enumerate(_features(log.request.input)):
        outputs: dict[str, Any] = {}
        for result in log.response.results:
            if result.WhichOneof("result") == "classification_result":
                value: Any = _classes(result.classification_result.classifications[row])
            else:
                value = {"value": _shortest(result.regression_result.regressions[row].value)}
            outputs[result.model_spec.signature_name] = value
        yield features, outputs


def _features(examples_input: Any) -> Iterator[dict[str, Any]]:
    """The features of each example of an `Input`, those of the context among them."""
    from tensorflow.core.example import example_pb2

    kind = examples_input.WhichOneof("kind")
    if kind is None:
        return
    listed = getattr(examples_input, kind)
    context = listed.context.SerializeToString() if kind == "example_list_with_context" else b""
    for example in listed.examples:
        whole = example_pb2.Example.FromString(context + example.SerializeToString())
        features: dict[str, Any] = {}
        for name, feature in sorted(whole.features.feature.items()):
            field = feature.WhichOneof("kind")
            values = list(getattr(feature, field).value) if field else []
            if field == "bytes_list":
                values = [_text(value) for value in values]
            elif field == "float_list":
                values = [_shortest(value) for value in values]
            features[name] = values[0] if len(values) == 1 else values
        yield features


def _classes(result: Any) -> dict[str, Any]:
    return {
        "classes": [one.label for one in result.classes],
        "scores": [_shortest(one.score) for one in result.classes],
    }


def _values(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: _plain(array) for name, array in sorted(arrays.items())}


def _plain(array: np.ndarray) -> Any:
    """An array as lists of what JSON can hold; floats in the digits that their type needs: 0.1, not 0.10000000149."""
    if array.dtype == object:
        return [_plain(np.asarray(one, object)) for one in array] if array.ndim else _text(array.item())
    if array.dtype.kind == "c":
        return array.astype(str).tolist()
    if array.dtype.kind in "fV" and array.dtype.itemsize < 8:
        return array.astype(np.float32).astype(str).astype(np.float64).tolist()
    return array.tolist()


def _shortest(value: float) -> float:
    return float(str(np.float32(value)))


def _text(value: bytes) -> Any:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode("ascii")}
