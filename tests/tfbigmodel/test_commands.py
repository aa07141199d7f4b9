"""The commands as a user types them: what they print, what they write, with what they refuse to go on."""

import csv
import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from pipelines.errors import UserError
from pipelines.files import verify_manifest
from tfbigmodel import evaluate, export, predict, train
from tfbigmodel.export import MANIFEST
from tfbigmodel.training.checkpoints import MODEL_FILE, latest_checkpoint


def files_of(folder: Path) -> set[str]:
    """Every file below a folder; TensorBoard's by the beginning of their names, which end with time and host."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {re.sub(r"(events\.out\.tfevents)\..*", r"\1", name) for name in names}


def contents_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def strict_json(path: Path):
    def refuse(word):
        raise ValueError(f"{word} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def error_of(capture, code: int) -> str:
    """The one line that a user's mistake is told in."""
    told = capture.readouterr()
    assert code == 2
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    return told.err.removeprefix("error: ").rstrip("\n")


# train

CHECKPOINT_FILES = {"manifest.json", "model.safetensors", "optimizer.safetensors", "host.safetensors", "state.json"}


def test_train_writes_these_files_and_no_other(digits_run):
    assert files_of(digits_run.workdir) == {
        ".lock",
        "config.yaml",
        "environment.json",
        "info.json",
        "metrics.json",
        "preprocessor/preprocessor.json",
        *(f"checkpoints/step-00000000{step}/{name}" for step in (19, 38) for name in CHECKPOINT_FILES),
        "tensorboard/events.out.tfevents",
        "tensorboard/train/events.out.tfevents",
        "tensorboard/validation/events.out.tfevents",
    }


def test_metrics_of_every_split_are_written(digits_run):
    metrics = strict_json(digits_run.workdir / "metrics.json")
    info = strict_json(digits_run.workdir / "info.json")
    assert list(metrics) == ["train", "validation", "test"]
    assert info["counts"] == {"train": 1258, "validation": 180, "test": 359}
    for split, values in metrics.items():
        assert {"loss", "accuracy", "f1_macro", "roc_auc", "log_loss", "ece", "confusion_matrix"} <= values.keys()
        confusion = np.array(values["confusion_matrix"])
        assert confusion.sum() == values["count"] == info["counts"][split]
        assert np.trace(confusion) / confusion.sum() == pytest.approx(values["accuracy"])
        assert list(values["per_class"]) == [str(digit) for digit in range(10)]
        assert values["loss"] == pytest.approx(values["log_loss"], rel=1e-5)
        assert values["accuracy"] > 0.5


def test_the_environment_is_written(digits_run):
    environment = strict_json(digits_run.workdir / "environment.json")
    assert environment["packages"]["tensorflow"] == tf.__version__
    assert environment["replicas"] == 1


def test_train_on_a_finished_run_says_so_and_changes_nothing(digits_run, capfd):
    before = contents_of(digits_run.workdir)
    assert train.main(digits_run.train_arguments()) == 0
    told = capfd.readouterr()
    assert told.out == (f"{digits_run.workdir} is finished: 2 epochs, 38 updates; raise training.epochs to train on\n")
    assert told.err == ""
    assert contents_of(digits_run.workdir) == before


def test_train_goes_on_with_raised_epochs_without_a_progress_bar_when_nobody_looks(digits_run, copy_of, capfd):
    run = copy_of(digits_run)
    assert train.main([*run.train_arguments(), "--set", "training.epochs=3"]) == 0
    told = capfd.readouterr()
    lines = told.out.splitlines()
    assert lines[0] == f"resuming {run.workdir} at epoch 3, update 38"
    assert lines[1].startswith("dense: 9,610 parameters; examples: 1,258 train, 180 validation, 359 test; batch 64, ")
    assert lines[2] == "finished after 3 epochs, 57 updates"
    assert lines[3].split() == ["loss", "accuracy", "f1_macro", "roc_auc"]
    assert [line.split()[0] for line in lines[4:]] == ["train", "validation", "test"]
    assert told.err == ""
    assert [path.name for path in sorted((run.workdir / "checkpoints").iterdir())] == [
        "step-0000000038",
        "step-0000000057",
    ]
    checkpoint, problems = latest_checkpoint(run.workdir / "checkpoints")
    assert not problems
    assert [round(epoch["val_loss"], 3) for epoch in checkpoint.state["history"]] == sorted(
        (round(epoch["val_loss"], 3) for epoch in checkpoint.state["history"]), reverse=True
    )
    assert strict_json(run.workdir / "metrics.json")["test"] != strict_json(digits_run.workdir / "metrics.json")["test"]


def test_train_shows_its_progress_to_a_terminal(binary_run, copy_of, capsys, monkeypatch):
    run = copy_of(binary_run)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert train.main([*run.train_arguments(), "--set", "training.epochs=6"]) == 0
    out = capsys.readouterr().out
    assert "Epoch 5/6" in out
    assert "Epoch 6/6" in out
    assert "7/7" in out
    assert "val_loss: " in out


def test_quiet_training_prints_nothing_even_to_a_terminal(binary_run, copy_of, capfd, monkeypatch):
    run = copy_of(binary_run)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert train.main([*run.train_arguments(), "--set", "training.epochs=5", "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert (run.workdir / "checkpoints" / "step-0000000035").is_dir()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.optimizer.learning_rate=0.5", "training.optimizer.learning_rate is 0.001 there and 0.5 now; use"),
        ("training.seed=7", "training.seed is 42 there and 7 now; use"),  # data.shuffle_seed only follows
        ("model.hidden_units=[64]", "model.hidden_units is [128] there and [64] now; use"),
        ("data.split={validation: 0.2, test: 0.3}", "data.split.test is 0.2 there and 0.3 now (and 1 more); use"),
    ],
)
def test_train_refuses_a_workdir_of_another_configuration(digits_run, capfd, override, told):
    before = contents_of(digits_run.workdir)
    code = train.main([*digits_run.train_arguments(), "--set", override])
    error = error_of(capfd, code)
    assert error.startswith(f"{digits_run.workdir} was made with another configuration: {told}")
    assert contents_of(digits_run.workdir) == before


def test_train_refuses_a_folder_with_other_files(digits_run, tmp_path, capfd):
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear …", encoding="utf-8")
    error = error_of(capfd, train.main(digits_run.train_arguments(folder)))
    assert error == f"{folder} holds other files and is no workdir; choose an empty or a new --workdir"
    assert files_of(folder) == {"letter.txt"}


def test_train_leaves_a_folder_alone_that_has_a_config_of_somebody_else(digits_run, tmp_path, capfd):
    for name in ("config.yaml", "info.json", "preprocessor/mine.py", "tensorboard/old", ".a.tmp-01234567"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("# mine\n", encoding="utf-8")
    before = contents_of(tmp_path)
    error = error_of(capfd, train.main(digits_run.train_arguments(tmp_path)))
    assert error == f"{tmp_path} holds other files and is no workdir; choose an empty or a new --workdir"
    assert contents_of(tmp_path) == before


def test_train_refuses_a_file_as_workdir(digits_run, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    error = error_of(capfd, train.main(digits_run.train_arguments(tmp_path / "file")))
    assert error.startswith(f"cannot make the workdir {tmp_path / 'file'}: ")


def test_train_refuses_a_workdir_in_use_until_its_owner_is_gone(digits_run, capfd):
    program = """
import pathlib, sys
from tfbigmodel.workdir import Workdir, locked
with locked(Workdir(pathlib.Path(sys.argv[1]))):
    print("locked", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", program, str(digits_run.workdir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "locked\n"
        error = error_of(capfd, train.main(digits_run.train_arguments()))
        assert error.startswith(f"{digits_run.workdir} is in use by process {owner.pid}; ")
        owner.kill()
    assert train.main(digits_run.train_arguments()) == 0


def test_train_goes_on_from_an_older_checkpoint_when_the_newest_is_damaged(digits_run, copy_of, capfd):
    run = copy_of(digits_run)
    newest = run.workdir / "checkpoints" / "step-0000000038"
    damage(newest / MODEL_FILE)
    assert train.main(run.train_arguments()) == 0
    told = capfd.readouterr()
    (aside,) = (run.workdir / "checkpoints").glob("damaged-*")
    assert told.err == (
        f"warning: {newest / MODEL_FILE} is damaged: its SHA-256 is not the one in manifest.json; "
        f"it is kept as {aside.name}, and an older checkpoint is used\n"
    )
    assert told.out.startswith(f"resuming {run.workdir} at epoch 2, update 19\n")
    # What was lost is made again, to the last bit.
    assert (newest / MODEL_FILE).read_bytes() == (
        digits_run.workdir / "checkpoints" / "step-0000000038" / MODEL_FILE
    ).read_bytes()
    assert not latest_checkpoint(run.workdir / "checkpoints")[1]


def test_train_refuses_to_begin_anew_over_damaged_checkpoints(digits_run, copy_of, capfd):
    run = copy_of(digits_run)
    for checkpoint in (run.workdir / "checkpoints").iterdir():
        damage(checkpoint / MODEL_FILE)
    before = contents_of(run.workdir)
    error = error_of(capfd, train.main(run.train_arguments()))
    assert error.startswith("no checkpoint can be used: ")
    assert "step-0000000038/model.safetensors is damaged" in error
    assert error.endswith(f"; remove {run.workdir / 'checkpoints'} to start anew")
    assert contents_of(run.workdir) == before


def test_a_start_that_failed_can_be_repeated_with_the_mistake_mended(binary_run, tmp_path, capfd):
    workdir = tmp_path / "run"
    for mistake in ("training.monitor=acuracy", "data.label=answer", "training.optimizer.options.beta_3=0.5"):
        assert train.main([*binary_run.train_arguments(workdir), "--set", mistake]) == 2
    capfd.readouterr()
    assert train.main([*binary_run.train_arguments(workdir), "--set", "training.epochs=1"]) == 0
    assert files_of(workdir / "checkpoints") == {f"step-0000000007/{name}" for name in CHECKPOINT_FILES}
    assert len(list((workdir / "tensorboard").rglob("events*"))) == 3


# evaluate


def test_evaluate_measures_the_test_split_beside_baselines(digits_run, copy_of, capfd):
    run = copy_of(digits_run)
    by_train = strict_json(run.workdir / "metrics.json")
    assert evaluate.main(["--workdir", str(run.workdir)]) == 0
    told = capfd.readouterr()
    assert told.err == ""
    assert "majority class  logistic regression" in told.out
    assert "Confusion matrix" in told.out
    assert "Worst errors (builtin digits)" in told.out
    assert told.out.rstrip().endswith(f"written to {run.workdir}/metrics.json and {run.workdir}/evaluation/test.html")

    metrics = strict_json(run.workdir / "metrics.json")
    assert metrics["test"] == by_train["test"]
    assert metrics["train"] == by_train["train"]
    baselines = metrics["baselines"]["test"]
    assert set(baselines) == {"majority_class", "logistic_regression"}
    assert baselines["majority_class"]["accuracy"] == pytest.approx(0.1, abs=0.02)
    assert baselines["logistic_regression"]["accuracy"] > 0.9
    assert files_of(run.workdir / "evaluation") == {"test.json", "test.html"}
    worst = strict_json(run.workdir / "evaluation" / "test.json")["worst_errors"]
    assert len(worst) == 20
    assert [error["loss"] for error in worst] == sorted((error["loss"] for error in worst), reverse=True)
    digits = load_digits()
    assert all(str(digits.target[error["row"]]) == error["label"] != error["predicted"] for error in worst)


def test_evaluate_measures_another_split(binary_run, copy_of, capfd):
    run = copy_of(binary_run)
    by_train = strict_json(run.workdir / "metrics.json")
    assert evaluate.main(["--workdir", str(run.workdir), "--split", "validation"]) == 0
    assert f"{run.workdir}: validation\n" in capfd.readouterr().out
    metrics = strict_json(run.workdir / "metrics.json")
    assert metrics["validation"] == by_train["validation"]
    assert list(metrics["baselines"]) == ["validation"]
    assert (run.workdir / "evaluation" / "validation.html").is_file()


def test_evaluate_measures_a_labelled_file_as_predict_answers_it(binary_run, copy_of, tmp_path, capfd):
    run = copy_of(binary_run)
    lines = binary_run.table.read_text("utf-8").splitlines()
    new = tmp_path / "新.csv"
    new.write_text("\n".join([lines[0], *lines[40:90]]) + "\n", encoding="utf-8")
    assert evaluate.main(["--workdir", str(run.workdir), "--input", str(new)]) == 0
    assert "是" in capfd.readouterr().out
    metrics = strict_json(run.workdir / "metrics.json")
    assert metrics["evaluations"]["新.csv"]["count"] == 50
    assert metrics["test"] == strict_json(binary_run.workdir / "metrics.json")["test"]
    frame = predict.predict(run.workdir, new)
    assert metrics["evaluations"]["新.csv"]["accuracy"] == pytest.approx((frame["答案"] == frame["prediction"]).mean())
    assert metrics["evaluations"]["新.csv"]["accuracy"] > 0.7
    report = (run.workdir / "evaluation" / "新.csv.html").read_text("utf-8")
    assert "是" in report


def test_evaluate_with_a_threshold(binary_run, copy_of, capfd):
    run = copy_of(binary_run)
    positive = {}
    for threshold in ("0.05", "0.5", "0.95"):
        assert evaluate.main(["--workdir", str(run.workdir), "--threshold", threshold]) == 0
        metrics = strict_json(run.workdir / "metrics.json")
        assert metrics["test"]["threshold"] is None, "under the split stands what the run's own threshold gives"
        test = metrics["evaluations"][f"test_threshold_{threshold}"]
        assert (test["threshold"], test["positive_class"]) == (float(threshold), "是")
        positive[threshold] = np.array(test["confusion_matrix"])[:, 1].sum()
    assert positive["0.05"] > positive["0.5"] > positive["0.95"]


def test_evaluate_finds_the_threshold_with_the_best_f1_on_the_validation_split(binary_run, copy_of, capfd):
    run = copy_of(binary_run)
    found = evaluate(run.workdir, "validation", threshold="auto")["metrics"]
    assert 0.0 < found["threshold"] < 1.0
    others = [evaluate(run.workdir, "validation", threshold=value)["metrics"]["f1"] for value in (0.2, 0.5, 0.8)]
    assert found["f1"] >= max(others)
    # The same threshold is used for the split that it was not chosen on.
    assert evaluate.main(["--workdir", str(run.workdir), "--threshold", "auto"]) == 0
    (name,) = (run.workdir / "evaluation").glob("test_threshold_*.html")
    evaluations = strict_json(run.workdir / "metrics.json")["evaluations"]
    assert evaluations[name.stem]["threshold"] == found["threshold"]


def test_evaluate_finds_data_that_has_moved(binary_run, copy_of, tmp_path, capfd):
    run = copy_of(binary_run)
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / binary_run.table.name).write_bytes(binary_run.table.read_bytes())
    assert evaluate.main(["--workdir", str(run.workdir), "--data_dir", str(moved)]) == 0
    capfd.readouterr()
    lines = binary_run.table.read_text("utf-8").splitlines()
    (moved / binary_run.table.name).write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    error = error_of(capfd, evaluate.main(["--workdir", str(run.workdir), "--data_dir", str(moved)]))
    assert error.startswith(f"the data is not what {run.workdir} was trained on (its fingerprint is ")


def test_train_measures_what_evaluate_did_not(binary_run, copy_of, capfd):
    # Killed after the last update and before the measurement, then evaluated, then started again.
    run = copy_of(binary_run)
    (run.workdir / "metrics.json").unlink()
    assert evaluate.main(["--workdir", str(run.workdir)]) == 0
    assert list(strict_json(run.workdir / "metrics.json")) == ["test", "baselines"]
    assert train.main(run.train_arguments()) == 0
    metrics = strict_json(run.workdir / "metrics.json")
    assert metrics == strict_json(binary_run.workdir / "metrics.json")


def test_evaluate_a_regression(regression_run, copy_of, capfd):
    run = copy_of(regression_run)
    assert evaluate.main(["--workdir", str(run.workdir)]) == 0
    out = capfd.readouterr().out
    for word in ("rmse", "mae", "r2", "ridge regression"):
        assert word in out
    metrics = strict_json(run.workdir / "metrics.json")["test"]
    assert metrics["count"] == 24
    assert metrics["r2"] > 0.9
    assert metrics["mae"] <= metrics["rmse"] <= metrics["max_error"]
    frame = predict.predict(run.workdir, regression_run.table)
    assert frame["prediction"].mean() == pytest.approx(frame["price"].astype(float).mean(), rel=0.05)


@pytest.mark.parametrize("threshold", ["x", "0", "1", "1.5", "nan", "-0.5"])
def test_evaluate_refuses_what_is_no_threshold(binary_run, capfd, threshold):
    code = evaluate.main(["--workdir", str(binary_run.workdir), f"--threshold={threshold}"])
    assert error_of(capfd, code) == (f"--threshold: expected a number between 0 and 1, or auto; received {threshold}")


@pytest.mark.parametrize("threshold", ["0.5", "auto"])
def test_a_regression_has_no_threshold(regression_run, capfd, threshold):
    error = error_of(capfd, evaluate.main(["--workdir", str(regression_run.workdir), "--threshold", threshold]))
    assert "is for two classes" in error


@pytest.mark.parametrize("command", [evaluate, predict, export])
def test_what_is_no_workdir_is_told_at_once(command, tmp_path, capfd):
    more = ["--input", "x.csv"] if command is predict else []
    error = error_of(capfd, command.main(["--workdir", str(tmp_path / "nothing"), *more]))
    assert error.startswith(f"{tmp_path / 'nothing'} is not a workdir: it has no config.yaml; make one with ")
    assert not (tmp_path / "nothing").exists()


def test_a_run_without_a_checkpoint_is_told(binary_run, copy_of, capfd):
    run = copy_of(binary_run)
    (run.workdir / "checkpoints").rename(run.workdir / "moved")
    for command, more in ((evaluate, []), (predict, ["--input", str(run.table)]), (export, [])):
        error = error_of(capfd, command.main(["--workdir", str(run.workdir), *more]))
        assert error == (f"{run.workdir} has no usable checkpoint: its training has not reached the first one")


# predict


def read_csv(path: Path) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_predict_keeps_the_cells_of_a_csv_file_as_they_are_written(binary_run, tmp_path, capfd):
    rows = [
        {"编号": "007", "age": "30", "city": "北京", "score": "1e-1", "备注": '他说"好",然后\n走了'},
        {"编号": "", "age": " 41 ", "city": "拉萨", "score": "+0.50", "备注": "  "},
        {"编号": "NA", "age": "79.0", "city": "上海", "score": "-2", "备注": "True"},
    ]
    source, target = tmp_path / "新客户.csv", tmp_path / "答案.csv"
    with open(source, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert predict.main(["--workdir", str(binary_run.workdir), "--input", str(source), "--output", str(target)]) == 0
    assert capfd.readouterr() == (f"answered 3 examples in {target}\n", "")
    assert target.read_bytes().startswith("\ufeff编号,age,".encode())  # Excel reads UTF-8 by the mark
    answers = read_csv(target)
    assert [{name: row[name] for name in rows[0]} for row in answers] == rows
    assert list(answers[0]) == [*rows[0], "prediction", "probability"]
    for answer in answers:
        assert answer["prediction"] in ("是", "否")
        assert 0.5 <= float(answer["probability"]) <= 1.0
        assert len(answer["probability"]) < 12  # float32's digits, not those of its double


def test_predict_keeps_the_types_of_json_lines(binary_run, tmp_path, capfd):
    features = {"age": 30, "city": "北京", "score": 0.25}
    rows = [
        features | {"id": 7, "big": 2**70, "ratio": 1.0, "flag": True, "none": None, "tags": ["a", 1], "o": {"k": 1.5}},
        features | {"score": "0.25", "id": "7", "flag": False, "text": "分隔\u2028符\u0085在\x0b里"},
    ]
    rows[0]["text"] = "普通"
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    written = [json.dumps(rows[0]), "", json.dumps(rows[1], ensure_ascii=False)]
    source.write_text("\ufeff" + "\r\n".join(written), encoding="utf-8", newline="")
    assert predict.main(["--workdir", str(binary_run.workdir), "--input", str(source), "--output", str(target)]) == 0
    lines = target.read_bytes().decode().split("\n")
    assert lines.pop() == ""
    answers = [json.loads(line) for line in lines]
    assert "北京" in lines[0]
    for row, answer in zip(rows, answers, strict=True):
        assert {name: answer[name] for name in row} == row
        assert [type(answer[name]) for name in row] == [type(value) for value in row.values()]
    assert answers[1]["tags"] is None
    assert answers[0]["prediction"] == answers[1]["prediction"]
    assert answers[0]["probability"] == answers[1]["probability"]


def test_predict_reads_the_encoding_that_the_run_was_trained_with(binary_run, copy_of, tmp_path, capfd):
    run = copy_of(binary_run)
    config = run.workdir / "config.yaml"
    config.write_text(config.read_text("utf-8").replace("encoding: utf-8", "encoding: gb18030"), encoding="utf-8")
    source = tmp_path / "in.jsonl"
    source.write_text('{"age": 30, "city": "北京", "score": 0.25}\n', encoding="gb18030")
    assert predict.main(["--workdir", str(run.workdir), "--input", str(source)]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert (answer["age"], answer["city"]) == (30, "北京")


def test_predict_prints_json_lines_with_each_class_on_request(binary_run, capfd):
    arguments = ["--workdir", str(binary_run.workdir), "--input", str(binary_run.table), "--all_probabilities"]
    assert predict.main(arguments) == 0
    told = capfd.readouterr()
    assert told.err == ""
    answers = [json.loads(line) for line in told.out.splitlines()]
    assert len(answers) == 160
    assert answers[3]["编号"] == "00003"  # text, as in the CSV file
    for answer in answers:
        assert answer["probability_是"] + answer["probability_否"] == pytest.approx(1.0, abs=1e-6)
        assert answer["probability"] == answer[f"probability_{answer['prediction']}"]
    assert {answer["prediction"] for answer in answers} == {"是", "否"}


def test_predict_with_a_threshold(binary_run, capfd):
    frame = predict.predict(binary_run.workdir, binary_run.table, all_probabilities=True)
    strict = predict.predict(binary_run.workdir, binary_run.table, threshold=0.9)
    assert list(strict["prediction"]) == ["是" if p >= 0.9 else "否" for p in frame["probability_是"]]
    assert (strict["prediction"] != frame["prediction"]).any()
    arguments = ["--workdir", str(binary_run.workdir), "--input", str(binary_run.table), "--threshold", "1.5"]
    assert "--threshold: expected a number between 0 and 1" in error_of(capfd, predict.main(arguments))


def test_predict_a_regression_in_the_target_s_own_units(regression_run, tmp_path, capfd):
    target = tmp_path / "out.csv"
    arguments = ["--workdir", str(regression_run.workdir), "--input", str(regression_run.table)]
    assert predict.main([*arguments, "--output", str(target)]) == 0
    answers = read_csv(target)
    assert list(answers[0]) == ["area", "age", "price", "prediction"]
    errors = [abs(float(row["price"]) - float(row["prediction"])) for row in answers]
    assert np.mean(errors) < 30  # prices go from 460 to 860


def test_predict_refuses_to_write_over_a_column_of_the_input(binary_run, tmp_path, capfd):
    source = tmp_path / "in.csv"
    source.write_text("age,city,score,prediction\n30,北京,0.5,是\n", encoding="utf-8")
    target = tmp_path / "out.csv"
    code = predict.main(["--workdir", str(binary_run.workdir), "--input", str(source), "--output", str(target)])
    assert error_of(capfd, code) == (
        f"{source}: it has a column prediction already, where the answer would go; rename it"
    )
    assert not target.exists()


def test_predict_refuses_its_input_as_output(binary_run, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("age,city,score\n30,北京,0.5\n", encoding="utf-8")
    Path("link.csv").symlink_to("in.csv")
    before = Path("in.csv").read_bytes()
    for output in ("in.csv", "./in.csv", str(tmp_path / "in.csv"), "link.csv"):
        code = predict.main(["--workdir", str(binary_run.workdir), "--input", "in.csv", "--output", output])
        assert error_of(capfd, code).endswith("is the input; choose another file")
    assert Path("in.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("age,city\n30,北京\n", 'in.csv has no column "score" (a feature of this run); '),
        (
            "age,city,score\n30,北京,0.5\nold,北京,0.5\n",
            'in.csv row 2, column age: "old" is not a number; correct it',
        ),
        ("age,city,score\n30,北京,nan\n", "in.csv row 1, column score: the cell is empty or NaN"),
        ("age,city,score\n30,北京\n", "in.csv row 1 (line 2) has 2 cells and the header has 3"),
        ("age,city,score\n", "in.csv has a header and no rows"),
        ("", "in.csv is empty"),
    ],
)
def test_predict_names_the_cell_that_it_cannot_take(binary_run, tmp_path, capfd, text, told):
    (tmp_path / "in.csv").write_text(text, encoding="utf-8")
    arguments = ["--workdir", str(binary_run.workdir), "--input", str(tmp_path / "in.csv")]
    assert told in error_of(capfd, predict.main([*arguments, "--output", str(tmp_path / "out.csv")]))
    assert not (tmp_path / "out.csv").exists()


def test_predict_writes_csv_or_json_lines_only(binary_run, tmp_path, capfd):
    arguments = ["--workdir", str(binary_run.workdir), "--input", str(binary_run.table)]
    error = error_of(capfd, predict.main([*arguments, "--output", str(tmp_path / "out.xlsx")]))
    assert error == f"--output: expected a .csv or .jsonl file, received {tmp_path / 'out.xlsx'}"


@pytest.fixture(scope="module")
def digit_images(tmp_path_factory) -> list[Path]:
    """The first 30 digits as PNG files, in the values that the source gives them."""
    folder = tmp_path_factory.mktemp("数字")
    pixels = np.rint(load_digits().images[:30] * (255 / 16)).astype(np.uint8)[..., None]
    paths = [folder / f"图{number}.png" for number in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        path.write_bytes(tf.io.encode_png(image).numpy())
    return paths


def test_predict_images(digits_run, digit_images, capfd):
    assert predict.main(["--workdir", str(digits_run.workdir), "--image", *map(str, digit_images)]) == 0
    answers = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [answer["image"] for answer in answers] == [str(path) for path in digit_images]
    right = [answer["prediction"] == str(digit) for answer, digit in zip(answers, load_digits().target, strict=False)]
    assert np.mean(right) > 0.6


def test_a_table_of_images_is_predicted_and_measured(digits_run, copy_of, digit_images, capfd):
    run = copy_of(digits_run)
    table = digit_images[0].parent / "images.csv"
    rows = [f"{path.name},{digit}" for path, digit in zip(digit_images, load_digits().target, strict=False)]
    table.write_text("\n".join(["image,label", *rows]) + "\n", encoding="utf-8")
    frame = predict.predict(run.workdir, table)
    by_path = predict.predict(run.workdir, images=digit_images)
    assert list(frame["prediction"]) == list(by_path["prediction"])
    assert list(frame["probability"]) == list(by_path["probability"])
    metrics = evaluate(run.workdir, input_file=table)["metrics"]
    assert metrics["accuracy"] == pytest.approx((frame["prediction"] == frame["label"]).mean())


def test_predict_names_the_image_that_it_cannot_take(digits_run, binary_run, digit_images, tmp_path, capfd):
    broken = tmp_path / "broken.png"
    broken.write_bytes(digit_images[0].read_bytes()[:40])
    (tmp_path / "letter.png").write_text("dear …", encoding="utf-8")
    for path in (broken, tmp_path / "letter.png", tmp_path / "nothing.png"):
        code = predict.main(["--workdir", str(digits_run.workdir), "--image", str(digit_images[0]), str(path)])
        assert str(path) in error_of(capfd, code)
    error = error_of(capfd, predict.main(["--workdir", str(binary_run.workdir), "--image", str(digit_images[0])]))
    assert error == "this run was not trained on images; give it a table with --input"


# export


def exported(run, output: Path, capture, *more: str) -> Path:
    assert export.main(["--workdir", str(run.workdir), "--output", str(output), *more]) == 0
    told = capture.readouterr()
    assert told.err == ""
    folder = Path(re.fullmatch(r"exported (.+) \(\d+\.\d MiB\)\n", told.out)[1])
    verify_manifest(folder, MANIFEST)
    return folder


def test_export_writes_these_files_and_no_other(digits_run, tmp_path, capfd):
    folder = exported(digits_run, tmp_path / "models" / "digits", capfd)
    assert folder == tmp_path / "models" / "digits" / "1"
    assert files_of(folder) == {
        "saved_model.pb",
        "fingerprint.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
        "assets.extra/model.json",
        "assets.extra/manifest.json",
    }
    assert sorted(os.listdir(folder.parent)) == [".lock", "1"]
    model = strict_json(folder / "assets.extra" / "model.json")
    assert model["chapter"] == "dense"
    assert model["task"] == "classification"
    assert model["class_names"] == [str(digit) for digit in range(10)]
    assert model["updates"] == 38


def test_export_stores_the_weights_once(digits_run, tmp_path, capfd):
    folder = exported(digits_run, tmp_path, capfd)
    arrays = load_file(digits_run.workdir / "checkpoints" / "step-0000000038" / MODEL_FILE)
    weights = sum(array.nbytes for array in arrays.values())
    assert weights == 4 * 9610
    size = sum(path.stat().st_size for path in (folder / "variables").iterdir())
    assert weights <= size <= 1.05 * weights + 4096


def test_export_counts_versions_up_and_overwrites_none(binary_run, tmp_path, capfd):
    names = [exported(binary_run, tmp_path, capfd, *more).name for more in ([], [], ["--version", "7"], [])]
    assert names == ["1", "2", "7", "8"]
    before = contents_of(tmp_path)
    error = error_of(
        capfd, export.main(["--workdir", str(binary_run.workdir), "--output", str(tmp_path), "--version=2"])
    )
    assert error == f"{tmp_path / '2'} exists already and is not overwritten; remove it or choose another name"
    assert contents_of(tmp_path) == before
    error = error_of(
        capfd, export.main(["--workdir", str(binary_run.workdir), "--output", str(tmp_path), "--version=-1"])
    )
    assert error == "--version: expected a number from 0 on, received -1"


def test_export_leaves_other_things_in_the_folder_alone(binary_run, tmp_path, capfd):
    (tmp_path / "README.txt").write_text("ours")
    (tmp_path / ".9.tmp-0123abcd").mkdir()  # what a killed export left
    assert exported(binary_run, tmp_path, capfd).name == "1"
    assert sorted(os.listdir(tmp_path)) == [".lock", "1", "README.txt"]


def test_an_exported_table_model_takes_columns_and_gives_what_predict_gives(binary_run, tmp_path, capfd):
    model = tf.saved_model.load(str(exported(binary_run, tmp_path, capfd)))
    frame = predict.predict(binary_run.workdir, binary_run.table, all_probabilities=True)
    numbers = {name: tf.constant(frame[name].astype(np.float32)) for name in ("age", "score")}
    answer = model.signatures["serving_default"](**numbers, city=tf.constant(frame["city"].tolist()))
    assert set(answer) == {"label", "probabilities", "logits"}
    assert [label.decode() for label in answer["label"].numpy()] == list(frame["prediction"])
    assert answer["probabilities"].numpy()[:, 1].tolist() == pytest.approx(list(frame["probability_是"]), abs=1e-6)


def test_an_exported_image_model_takes_files_and_pixels(digits_run, digit_images, tmp_path, capfd):
    model = tf.saved_model.load(str(exported(digits_run, tmp_path, capfd)))
    assert set(model.signatures) == {"serving_default", "pixels"}
    files = [path.read_bytes() for path in digit_images]
    by_file = model.signatures["serving_default"](image=tf.constant(files))
    pixels = np.rint(load_digits().images[:30] * (255 / 16)).astype(np.uint8)[..., None]
    by_pixels = model.signatures["pixels"](pixels=tf.constant(pixels))
    np.testing.assert_allclose(by_file["probabilities"], by_pixels["probabilities"], atol=1e-6)
    frame = predict.predict(digits_run.workdir, images=digit_images)
    assert [label.decode() for label in by_file["label"].numpy()] == list(frame["prediction"])
    np.testing.assert_allclose(by_file["probabilities"].numpy().max(axis=1), frame["probability"], atol=1e-6)


def test_an_exported_regression_answers_in_the_target_s_own_units(regression_run, tmp_path, capfd):
    folder = exported(regression_run, tmp_path, capfd)
    model = tf.saved_model.load(str(folder))
    frame = predict.predict(regression_run.workdir, regression_run.table)
    columns = {name: tf.constant(frame[name].astype(np.float32)) for name in ("area", "age")}
    answer = model.signatures["serving_default"](**columns)
    assert list(answer) == ["prediction"]
    np.testing.assert_allclose(answer["prediction"], frame["prediction"], rtol=1e-5)
    description = strict_json(folder / "assets.extra" / "model.json")
    assert (description["task"], description["class_names"]) == ("regression", [])


def test_a_table_with_chinese_columns_is_exported(binary_run, tmp_path, capfd):
    text = binary_run.table.read_text("utf-8").replace("age", "年龄").replace("city", "城市")
    (tmp_path / binary_run.table.name).write_text(text, encoding="utf-8")
    arguments = [*binary_run.train_arguments(tmp_path / "run"), "--set", f"data.data_dir={tmp_path}", "--quiet"]
    assert train.main([*arguments, "--set", "training.epochs=1"]) == 0
    assert export.main(["--workdir", str(tmp_path / "run"), "--output", str(tmp_path / "models")]) == 0


# All of them


def test_a_reader_that_has_seen_enough_is_no_mistake(binary_run):
    command = [sys.executable, "-m", "tfbigmodel.predict", "--workdir", str(binary_run.workdir), "--input"]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, str(binary_run.table)], env=environment, stdout=pipe, stderr=pipe) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert err == b""  # nor a word of TensorFlow's own
    assert process.returncode == 141


@pytest.mark.parametrize("command", [train, evaluate, predict, export])
def test_help_has_an_example_that_the_command_accepts(command, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    name = command.__name__
    examples = re.findall(rf"^  python -m {re.escape(name)} (.*)$", shown, re.MULTILINE)
    assert examples
    options = set(re.findall(r"--\w+", shown.split("examples:")[0].split("example:")[0]))
    for option in itertools.chain.from_iterable(re.findall(r"--\w+", example) for example in examples):
        assert option in options


def test_the_functions_raise_what_the_commands_print(binary_run, tmp_path):
    with pytest.raises(UserError, match="is not a workdir"):
        predict(tmp_path / "nothing", binary_run.table)
    with pytest.raises(ValueError, match="is not a workdir"):
        evaluate(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="is not a workdir"):
        export(tmp_path / "nothing", tmp_path / "models")
