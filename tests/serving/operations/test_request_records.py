"""Reading the request log: one dict for each example, JSON lines on the command line, and damaged files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.engine import tensorflow
from serving.operations.request_log import RequestLog, logging_config, prediction_log
from serving.operations.request_records import examples, main, records
from serving.tensors import to_proto

tensorflow()

import ml_dtypes  # noqa: E402
from tensorflow.core.example import example_pb2  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    inference_pb2,
    predict_pb2,
    prediction_log_pb2,
    regression_pb2,
)

REPOSITORY = Path(__file__).resolve().parents[3]


def predict_log(inputs, outputs):
    request, response = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(to_proto(np.asarray(value)))
    for name, value in outputs.items():
        response.outputs[name].CopyFrom(to_proto(np.asarray(value)))
    response.model_spec.name, response.model_spec.version.value = "many", 7
    response.model_spec.signature_name = "serving_default"
    return prediction_log(request, response)


def example(**features):
    message = example_pb2.Example()
    for name, values in features.items():
        kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0])]
        getattr(message.features.feature[name], kind).value.extend(values)
    return message


@pytest.fixture
def write(tmp_path):
    """Writes records as the server does; gives the file."""

    def write(*logs):
        request_log = RequestLog()
        request_log.configure({"many": logging_config(f"{tmp_path}/many", 1.0)})
        for log in logs:
            request_log.log("many", log)
        request_log.close()
        (path,) = tmp_path.glob("*.tfrecord")
        return path

    return write


def test_a_request_of_two_rows_is_two_examples(write):
    path = write(
        predict_log(
            {"age": np.float32([0.1, 30]), "city": np.array(["京".encode(), b"\xff\x00"], object)},
            {
                "older": np.float32([1.1, 31]),
                "z": np.int32(7),
                "pair": np.int64([[1, 2], [3, 4]]),
                "adult": [False, True],
            },
        )
    )
    first, second = records(path)
    assert first.pop("time") == second.pop("time")
    head = {"model": "many", "version": 7, "signature": "serving_default", "method": "predict"}
    assert first == {
        **head,
        "inputs": {"age": 0.1, "city": "京"},
        "outputs": {"adult": False, "older": 1.1, "pair": [1, 2], "z": 7},
    }
    assert second == {
        **head,
        "inputs": {"age": 30.0, "city": {"b64": "/wA="}},
        "outputs": {"adult": True, "older": 31.0, "pair": [3, 4], "z": 7},
    }


def test_inputs_without_a_common_batch_stay_whole():
    for inputs in ({"x": np.float32(3)}, {"x": np.int32([1, 2]), "y": np.int32([1, 2, 3])}, {}):
        (one,) = examples(predict_log(inputs, {"y": np.float32([[7]])}))
        assert one["inputs"] == {name: value.tolist() for name, value in inputs.items()}
        assert one["outputs"] == {"y": [[7.0]]}
        assert one["time"] is None


def test_an_empty_batch_is_no_example():
    assert list(examples(predict_log({"x": np.zeros((0, 3), np.float32)}, {"y": np.zeros((0, 1), np.float32)}))) == []


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (np.float32([0.1]), 0.1),
        (np.float64([0.1]), 0.1),
        (np.float16([0.1]), 0.1),
        (np.array([0.5], ml_dtypes.bfloat16), 0.5),
        (np.float32([np.inf]), np.inf),
        (np.int8([-3]), -3),
        (np.uint64([2**64 - 1]), 2**64 - 1),
        (np.complex64([1 + 2j]), "(1+2j)"),
        (np.array([b"a\x00"], object), "a\x00"),
        (np.array([[b"a", b""]], object), ["a", ""]),
    ],
)
def test_values_of_every_kind(array, value):
    (one,) = examples(predict_log({"x": array}, {}))
    assert one["inputs"]["x"] == pytest.approx(value, rel=1e-3) if array.dtype == np.float16 else value
    assert one["inputs"]["x"] == value or array.dtype == np.float16


def test_classify_with_a_context():
    request = classification_pb2.ClassificationRequest()
    listed = request.input.example_list_with_context
    listed.context.CopyFrom(example(city=["京".encode()]))
    listed.examples.append(example(age=[0.1], ids=[1, 2]))
    listed.examples.append(example(age=[7.5], raw=[b"\xff"]))
    response = classification_pb2.ClassificationResponse()
    response.model_spec.name = "many"
    for score in (0.1, 0.9):
        response.result.classifications.add().classes.add(label="dog", score=score)
    first, second = examples(prediction_log(request, response))
    assert (first["method"], first["model"], first["version"]) == ("classify", "many", None)
    assert first["inputs"] == {"age": 0.1, "city": "京", "ids": [1, 2]}
    assert first["outputs"] == {"classes": ["dog"], "scores": [0.1]}
    assert second["inputs"] == {"age": 7.5, "city": "京", "raw": {"b64": "/w=="}}
    assert second["outputs"] == {"classes": ["dog"], "scores": [0.9]}


def test_regress_and_multi_inference():
    request, response = regression_pb2.RegressionRequest(), regression_pb2.RegressionResponse()
    request.input.example_list.examples.append(example(age=[1.0]))
    response.result.regressions.add(value=0.1)
    (one,) = examples(prediction_log(request, response))
    assert (one["method"], one["inputs"], one["outputs"]) == ("regress", {"age": 1.0}, {"value": 0.1})

    request, response = inference_pb2.MultiInferenceRequest(), inference_pb2.MultiInferenceResponse()
    request.input.example_list.examples.append(example(age=[1.0]))
    result = response.results.add()
    result.model_spec.name, result.model_spec.signature_name = "many", "price"
    result.regression_result.regressions.add(value=3)
    result = response.results.add()
    result.model_spec.signature_name = "kind"
    result.classification_result.classifications.add().classes.add(label="dog", score=0.5)
    (one,) = examples(prediction_log(request, response))
    assert (one["method"], one["model"]) == ("multi_inference", "many")
    assert (one["version"], one["signature"]) == (None, "price")
    assert one["outputs"] == {"price": {"value": 3.0}, "kind": {"classes": ["dog"], "scores": [0.5]}}


def test_other_kinds_are_left_out_and_said(caplog):
    log = prediction_log_pb2.PredictionLog()
    log.session_run_log.SetInParent()
    assert list(examples(log)) == []
    assert [record.message for record in caplog.records] == ["a record of kind session_run_log is left out"]


def test_a_torn_end_is_left_out_of_an_incomplete_file_only(write, caplog, capsys):
    path = write(*(predict_log({"x": np.float32([number])}, {}) for number in range(3)))
    whole = path.read_bytes()
    torn = path.with_name(path.name + ".incomplete")
    for cut in (1, 40):
        torn.write_bytes(whole[:-cut])
        assert [record["inputs"]["x"] for record in records(torn)] == [0.0, 1.0]
    assert caplog.records[0].message == f"{torn} ends within record 2, which is left out"
    path.write_bytes(whole[:-1])
    assert main(["read", str(path)]) == 2
    output, error = capsys.readouterr()
    assert error == f"error: {path}: record 2 is damaged, or this is no TFRecord file\n"
    assert len(output.splitlines()) == 2


def test_files_that_are_something_else(tmp_path, capsys):
    path = tmp_path / "other"
    assert main(["read", str(path)]) == 2
    assert capsys.readouterr().err == f"error: {path} is not a file; expected one that the request log wrote\n"
    with tensorflow().io.TFRecordWriter(str(path)) as writer:
        writer.write(b"\xff\xff")
    assert main(["read", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: record 0 is no PredictionLog that can be read: ")


def test_the_command_prints_json_lines(write):
    path = write(*(predict_log({"text": np.array(["京".encode()], object)}, {"y": [number]}) for number in range(300)))
    command = [sys.executable, "-m", "serving.operations.request_log", "read", str(path), str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60, env={"LC_ALL": "C"})
    assert (done.returncode, done.stderr) == (0, b"")
    lines = [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]
    assert [line["outputs"]["y"] for line in lines] == [*range(300)] * 2
    assert {line["inputs"]["text"] for line in lines} == {"京"}
    piped = subprocess.run(
        f"{' '.join(command)} | head -n 1", cwd=REPOSITORY, shell=True, capture_output=True, timeout=60
    )
    assert (piped.stdout.count(b"\n"), piped.stderr) == (1, b"")
