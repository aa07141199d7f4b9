"""The client as a command, against the shared server."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from serving.client.command import main, plain

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def command(server, capsys):
    """Runs the command against the shared server: (exit code, lines of JSON, standard error)."""

    def run(model, *arguments):
        code = main(["--target", server.address, "--model", model, *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return run


def test_json_input(command):
    code, lines, _ = command(
        "many", "--input", '{"age": 31, "city": "巴黎", "pair": [1, 2]}', '{"age": 0.1, "city": "b", "pair": [3, 4]}'
    )
    assert code == 0
    assert lines == [
        '{"adult": true, "city": "巴黎", "older": 32.0, "sum": 3, "z": 7}',
        '{"adult": false, "city": "b", "older": 1.1, "sum": 7, "z": 7}',
    ]


def test_text_and_signature_and_version(command):
    code, lines, _ = command("text", "--text", "我喜欢这本书", "--version", 123)
    assert (code, json.loads(lines[0])) == (0, {"label": "<我喜欢这本书>", "length": 6, "half": 3.0})
    assert "我喜欢这本书" in lines[0]
    assert command("text", "--text", "2.5", "--signature", "number")[1] == ['{"number": 2.5}']


def test_images_are_sent_as_they_are(command, tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / "b.png").write_bytes(b"text")
    code, lines, _ = command("text", "--signature", "image", "--image", tmp_path / "a.png", tmp_path / "b.png")
    assert code == 0
    assert lines == ['{"bytes": 5, "image": {"b64": "iVBOR/8="}}', '{"bytes": 4, "image": "text"}']


@pytest.fixture
def pictures(tmp_path):
    """Twenty files, more than one request takes: the likeliest class is dog, then 猫, in every third bird."""
    paths = [tmp_path / f"{number}.jpg" for number in range(20)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([2, 3, 4 if number % 3 == 0 else 0]))
    return paths


def softmax(*logits):
    return np.exp(logits) / np.sum(np.exp(logits))


def test_a_classifiers_answer_to_an_image_is_short(command, pictures):
    code, lines, _ = command("classes", "--image", *pictures)
    assert code == 0
    answers = [json.loads(line) for line in lines]
    assert [answer["image"] for answer in answers] == [str(path) for path in pictures]
    assert [answer["label"] for answer in answers] == ["bird" if number % 3 == 0 else "dog" for number in range(20)]
    assert list(answers[0]) == ["image", "label", "probability", "top"]
    assert answers[0]["probability"] == pytest.approx(softmax(2, 3, 4)[2])
    assert list(answers[0]["top"]) == ["bird", "dog"]
    assert list(answers[1]["top"]) == ["dog", "猫"]
    assert list(answers[1]["top"].values()) == pytest.approx(softmax(2, 3, 0)[[1, 0]])
    assert '"猫"' in lines[1]


def test_every_output_of_a_classifier_on_request(command, pictures):
    code, lines, _ = command("classes", "--image", pictures[1], "--all_outputs")
    answer = json.loads(lines[0])
    assert code == 0
    assert set(answer) == {"label", "logits", "probabilities", "top_labels", "top_probabilities"}
    assert answer["logits"] == [2.0, 3.0, 0.0]


def test_a_classifier_without_top_classes(command, pictures, tmp_path):
    answer = json.loads(command("classes_alone", "--image", pictures[0])[1][0])
    assert list(answer) == ["image", "label", "probability"]
    assert answer["probability"] == pytest.approx(softmax(2, 3, 4)[2])
    # The less likely of two classes, by the model's threshold: which of the two numbers is its, only the model knows.
    (tmp_path / "two.jpg").write_bytes(bytes([2, 1]))
    answer = json.loads(command("threshold", "--image", tmp_path / "two.jpg")[1][0])
    assert list(answer) == ["image", "label", "probabilities"]
    assert (answer["label"], answer["probabilities"]) == ("yes", pytest.approx(softmax(2, 1)))


def test_the_image_that_a_server_refuses_is_named(command, pictures):
    pictures[11].write_bytes(b"")
    code, lines, error = command("classes", "--image", *pictures)
    assert (code, len(lines)) == (2, 8)  # the first request was answered
    assert error.startswith(f"error: {pictures[11]}: INVALID_ARGUMENT: ")
    assert "element 0 is no image" in error  # alone it is refused, too
    assert len(error.splitlines()) == 1
    code, _, error = command("classes", "--image", pictures[11])
    assert (code, error.startswith(f"error: {pictures[11]}: INVALID_ARGUMENT: ")) == (2, True)


def test_a_csv_file_in_several_requests(command, tmp_path):
    rows = "".join(f'{number},"Paris, {number}","[1, {number}]"\n' for number in range(150))
    (tmp_path / "rows.csv").write_text("\ufeffage,city,pair\n" + rows, "utf-8")
    code, lines, _ = command("many", "--input_file", tmp_path / "rows.csv")
    assert code == 0
    assert [json.loads(line)["sum"] for line in lines] == [number + 1 for number in range(150)]
    assert json.loads(lines[7])["city"] == "Paris, 7"


def test_a_jsonl_file(command, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"x": [1]}\n\n{"x": [2]}\n')
    assert command("linear", "--input_file", tmp_path / "rows.jsonl")[1] == ['{"y": [3.0]}', '{"y": [5.0]}']


def test_status_and_metadata(command):
    code, lines, _ = command("linear", "--status")
    assert code == 0
    assert json.loads(lines[0]) == {"version": 3, "state": "AVAILABLE", "error_code": "OK", "error_message": ""}
    code, lines, _ = command("many", "--metadata")
    assert code == 0
    assert json.loads(lines[0])["signatures"]["serving_default"]["inputs"]["pair"] == {
        "dtype": "int32",
        "shape": [-1, 2],
    }


ONE = '{"age": 1, "city": "a", "pair": [1, 2]}'
MISTAKES = {
    "unknown model": (
        "m", ["--text", "a"], "model not found on server {address}: Servable not found for request: Latest(m)"),
    "unknown version": (
        "linear", ["--input", '{"x": [1]}', "--version", "7"],
        "model not found on server {address}: Servable not found for request: Specific(linear, 7)"),
    "unknown status": (
        "m", ["--status"], "model not found on server {address}: Could not find any versions of model m"),
    "unknown signature": (
        "many", ["--input", ONE, "--signature", "s"],
        "model 'many' has no signature 's'; it has: __saved_model_init_op, serving_default"),
    "unknown input": (
        "many", ["--input", ONE.replace("age", "ago")],
        "--input 1: unknown input 'ago'; the model's inputs are: age, city, pair"),
    "text for a model without text": (
        "linear", ["--text", "a"], "--text 1: unknown input 'text'; the model's inputs are: x"),
    "image for a model without image": (
        "linear", ["--image", "{tmp}/text.csv"], "{tmp}/text.csv: unknown input 'image'; the model's inputs are: x"),
    "missing input": ("many", ["--input", '{"age": 1, "city": "a"}'], "--input 1: input 'pair' is missing"),
    "no number": (
        "many", ["--input", ONE, ONE.replace("1,", '"old",', 1)], "--input 2, column 'age': 'old' is not a number"),
    "no number in a cell": (
        "many", ["--input_file", "{tmp}/number.csv"],
        "{tmp}/number.csv, row 2 (line 3), column 'age': 'abc' is not a number"),
    "a boolean for a number": (
        "many", ["--input", ONE.replace("1,", "true,", 1)], "--input 1, column 'age': True is not a number"),
    "a fraction for an int": (
        "many", ["--input", ONE.replace("2]", "2.5]")],
        "--input 1, column 'pair': 2.5 is not a whole number, and the model wants int32"),
    "too large": (
        "many", ["--input", ONE.replace("2]", "3000000000]")],
        "--input 1, column 'pair': [1, 3000000000] does not fit int32"),
    "no string": ("many", ["--input", ONE.replace('"a"', "5")], "--input 1, column 'city': 5 is not a string"),
    "no base64": (
        "many", ["--input", ONE.replace('"a"', '{{"b64": "!"}}')], "--input 1, column 'city': b64 is not base64"),
    "ragged list": (
        "many", ["--input", ONE.replace("2]", "[2]]")],
        "--input 1, column 'pair': the lists inside it have different lengths"),
    "different shapes": (
        "many", ["--input", ONE, ONE.replace("2]", "2, 3]")],
        "--input 2, column 'pair': shape (3,), but (2,) in --input 1"),
    "no JSON": ("many", ["--input", "{{"], "--input 1 is no JSON: "),
    "no object": ("many", ["--input", "[1]"], '--input 1 must be a JSON object such as {{"age": 31}}, but is list'),
    "no such file": (
        "many", ["--input_file", "{tmp}/none.csv"], "cannot read {tmp}/none.csv: No such file or directory"),
    "no such image": ("text", ["--image", "{tmp}/none.png"], "cannot read {tmp}/none.png: No such file or directory"),
    "another kind of file": (
        "many", ["--input_file", "rows.xml"], "--input_file must be .csv or .jsonl, but rows.xml was given"),
    "header only": ("many", ["--input_file", "{tmp}/header.csv"], "{tmp}/header.csv holds no examples"),
    "ragged csv": (
        "many", ["--input_file", "{tmp}/ragged.csv"],
        "{tmp}/ragged.csv, row 1 (line 2): the header has 3 columns, the row has not"),
    "not UTF-8": (
        "many", ["--input_file", "{tmp}/latin.csv"],
        "{tmp}/latin.csv is not UTF-8 text: invalid continuation byte at byte 6"),
    "bad JSON line": ("many", ["--input_file", "{tmp}/bad.jsonl"], "{tmp}/bad.jsonl, row 2 is no JSON: "),
    "bad timeout": (
        "many", ["--status", "--timeout", "-1"],
        "argument --timeout: must be a number of seconds above 0, but '-1' was given (see --help)"),
    "nothing asked": (
        "many", [],
        "one of the arguments --image --text --input --input_file --status --metadata is required (see --help)"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(command, server, tmp_path, case):
    (tmp_path / "text.csv").write_text("text\na\n")
    (tmp_path / "number.csv").write_text('age,city,pair\n1,a,"[1, 2]"\nabc,a,"[1, 2]"\n')
    (tmp_path / "empty_cell.csv").write_text('age,city,pair\n,a,"[1, 2]"\n')
    (tmp_path / "header.csv").write_text("age,city,pair\n")
    (tmp_path / "ragged.csv").write_text("age,city,pair\n1,a\n")
    (tmp_path / "latin.csv").write_bytes(b"age\n1,\xe9a\n")
    (tmp_path / "bad.jsonl").write_text(ONE + "\n{\n")
    model, arguments, text = MISTAKES[case]
    replaced = [item.replace("{tmp}", str(tmp_path)).replace("{{", "{").replace("}}", "}") for item in arguments]
    code, lines, error = command(model, *replaced)
    assert (code, lines) == (2, [])
    assert len(error.splitlines()) == 1
    assert error.startswith("error: " + text.format(tmp=tmp_path, address=server.address))


def test_an_unreachable_server_is_one_line_in_a_real_process():
    process = subprocess.run(
        [sys.executable, "-m", "serving.client", "--target", "127.0.0.1:1", "--model", "m", "--status"],
        capture_output=True, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: server 127.0.0.1:1 cannot be reached (is one running there?): ")


def test_help_is_fast():
    def seconds():
        start = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "serving.client", "--help"], check=True, capture_output=True, cwd=REPOSITORY
        )
        return time.monotonic() - start

    assert min(seconds() for _ in range(3)) < 0.5


def test_plain_values():
    assert plain(np.float32(0.1)) == 0.1
    assert plain(np.float64(0.1)) == 0.1
    assert plain(np.array([[True]])) == [[True]]
    assert plain(np.array(5, np.int64)) == 5
    assert plain(np.array([b"\xff", "你".encode()], object)) == [{"b64": "/w=="}, "你"]
