"""A model's own warm-up: recorded requests that are answered before the first client's, as TensorFlow Serving does.

They are in `assets.extra/tf_serving_warmup_requests` of a version, a TFRecord file of `PredictionLog`. Whoever asks
first would otherwise wait for kernels to be chosen, memory to grow, tables to be filled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from serving.errors import Code, ServingError

WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"
MAX_RECORDS = 1000

# How much of a record that cannot be read is shown: it is binary, and may be long.
_SHOWN_CHARACTERS = 200

# (model's name, "OK" or the name of an error's code, microseconds)
OnWarmUp = Callable[[str, str, float], None]


def warm_up(
    name: str, version: int, model: Any, directory: Path, iterations: int = 1, on_warm_up: OnWarmUp | None = None
) -> int:
    """Answers the requests of a version's warm-up file, if it has one.

    Args:
        name: The model's name.
        version: The version's number.
        model: The loaded version.
        directory: Its folder.
        iterations: How often each request is answered.
        on_warm_up: Told the folder, how it ended and how long it took, in microseconds.

    Returns:
        The number of records; 0 without a file.

    Raises:
        ServingError: What the first request that failed was answered, or what is wrong with the file.

    Reference:
        https://www.tensorflow.org/tfx/serving/saved_model_warmup
    """
    path = directory / WARM_UP_FILE
    if not path.exists():
        return 0
    begin, status = time.perf_counter(), Code.OK
    try:
        return _answer_all(name, version, model, path, max(iterations, 1))
    except ServingError as error:
        status = error.code
        raise
    except Exception:
        status = Code.INTERNAL
        raise
    finally:
        if on_warm_up:
            on_warm_up(str(directory), status.name, 1e6 * (time.perf_counter() - begin))


def _answer_all(name: str, version: int, model: Any, path: Path, iterations: int) -> int:
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis import prediction_log_pb2

    count = 0
    for record in _records(path):
        try:
            log = prediction_log_pb2.PredictionLog.FromString(record)
        except DecodeError:
            shown = record[:_SHOWN_CHARACTERS].decode("utf-8", "replace")
            text = f"Failed to parse warmup record: {shown} from {path}"
            raise ServingError(Code.INVALID_ARGUMENT, text) from None
        for _ in range(iterations):
            answer(name, version, model, log)
        count += 1
        if count > MAX_RECORDS:
            raise ServingError(
                Code.INVALID_ARGUMENT, f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
            )
    return count


def answer(name: str, version: int, model: Any, log: Any) -> Any:
    """Answers a recorded request in this thread.

    Args:
        name: The model's name.
        version: The version's number.
        model: The loaded version.
        log: A `PredictionLog`. One without a request, or with one of a stream, is passed over.

    Returns:
        The response; None if there was nothing to answer.

    Raises:
        ServingError: What a client would be told; UNIMPLEMENTED for the log of a SessionRun.
    """
    from serving.inference.classify import classify_call
    from serving.inference.multi_inference import multi_inference_call
    from serving.inference.predict import predict_call
    from serving.inference.regress import regress_call

    calls = {
        "predict_log": predict_call,
        "classify_log": classify_call,
        "regress_log": regress_call,
        "multi_inference_log": multi_inference_call,
    }
    kind = log.WhichOneof("log_type")
    if kind == "session_run_log":
        number = log.DESCRIPTOR.fields_by_name[kind].number
        raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")
    if kind not in calls:
        return None
    run, respond = calls[kind](name, version, model, getattr(log, kind).request)
    return respond(model.run(run.feeds, run.fetches, run.values))


def _records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file.

    Raises:
        ServingError: It cannot be read, or a checksum does not match.
    """
    from serving.engine import tensorflow

    tf = tensorflow()
    try:
        yield from tf.compat.v1.io.tf_record_iterator(str(path))
    except tf.errors.DataLossError as error:
        text = f"{error.message}. Please verify your warmup data is in TFRecord format."
        raise ServingError(Code.DATA_LOSS, text) from None
    except tf.errors.OpError as error:
        raise ServingError(Code(error.error_code), error.message) from None
