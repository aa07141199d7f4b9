"""Every mistake of a user's is one line on standard error and exit code 2, and leaves nothing half-made behind."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipelines.files import TEMPORARY_MARK
from tfbigmodel import evaluate, export, predict, train
from tfbigmodel.model import load_trained
from tfbigmodel.training.checkpoints import latest_checkpoint
from tfbigmodel.workdir import Workdir

DIGITS = """
data: {source: builtin, name: digits}
model: {chapter: dense, hidden_units: [4]}
training: {epochs: 1, jit_compile: false}
"""
TABLE = """
data: {source: table, path: data.csv, label: label, batch_size: 8}
model: {chapter: dense, hidden_units: [4]}
training: {epochs: 1, jit_compile: false}
"""
HEADER = "age,colour,score,label\n"
ROWS = [[str(20 + i), "红" if i % 3 else "蓝", str(i * 0.5), "yes" if i % 2 else "no"] for i in range(60)]

Refused = Callable[..., str]


def table(rows: list[list[str]]) -> str:
    return HEADER + "".join(",".join(row) + "\n" for row in rows)


def with_cell(row: int, column: int, value: str) -> str:
    rows = [list(cells) for cells in ROWS]
    rows[row - 1][column] = value
    return table(rows)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own to work in, as a user does: `run.yaml`, `data.csv`, `run`."""
    monkeypatch.chdir(tmp_path)
    # TensorFlow counts traces by the function's name over a whole process; a command is one run.
    monkeypatch.setattr(tf.get_logger(), "level", 40)
    Path("digits.yaml").write_text(DIGITS, encoding="utf-8")
    Path("table.yaml").write_text(TABLE, encoding="utf-8")
    Path("data.csv").write_text(table(ROWS), encoding="utf-8")
    return tmp_path


@pytest.fixture
def refused(capfd: pytest.CaptureFixture) -> Refused:
    """Runs a command that must refuse, and returns the one line it does so with."""

    def run(command: Callable, *arguments: str) -> str:
        code = command.main(list(arguments))
        told = capfd.readouterr()
        assert code == 2
        return the_line(told.err)

    return run


def the_line(err: str) -> str:
    assert err.startswith("error: "), err
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert "Errno" not in err
    return err.removeprefix("error: ").rstrip("\n")


def training(config: str, *overrides: str) -> list[str]:
    sets = [argument for override in overrides for argument in ("--set", override)]
    return ["--config", config, "--workdir", "run", *sets]


def assert_nothing_half_made() -> None:
    run = Path("run")
    assert not (run / "metrics.json").exists()
    assert not (run / "checkpoints").exists()
    assert not (run / "evaluation").exists()
    assert not [path for path in Path().rglob("*") if TEMPORARY_MARK in path.name]


# The configuration


def test_a_missing_configuration(refused):
    assert refused(train, *training("digit.yaml")) == "no configuration file digit.yaml; did you mean digits.yaml?"
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.epohcs=3", "digits.yaml: training.epohcs: unknown key; did you mean training.epochs?"),
        ("training.epochs=many", "digits.yaml: training.epochs: expected a valid integer, received 'many'"),
        ("training.epochs", "--set training.epochs: expected section.key=value, such as --set training.epochs=3"),
        (
            "data.source=csv",
            "digits.yaml: data.source: expected one of 'builtin', 'tfds', 'table', 'image_folder', 'shards', 'corpus', "
            "received 'csv'",
        ),
    ],
)
def test_a_wrong_configuration(refused, override, told):
    assert refused(train, *training("digits.yaml", override)) == told
    assert not Path("run").exists()


def test_yaml_that_is_none(refused):
    Path("digits.yaml").write_text("data: [\n", encoding="utf-8")
    assert refused(train, *training("digits.yaml")).startswith("digits.yaml: not valid YAML at line 2, column 1: ")
    assert not Path("run").exists()


# The data


def test_a_text_cell_in_a_numeric_column_as_a_process_tells_it():
    """In a process of its own, because TensorFlow writes past Python to the same standard error."""
    Path("data.csv").write_text(with_cell(17, 0, "old"), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-m", "tfbigmodel.train", *training("table.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    told = the_line(done.stderr)
    assert re.fullmatch(
        r'\S*data\.csv row 17, column age: "old" is not a number, and \d+ cells of the column are; .*', told
    )
    assert_nothing_half_made()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "data.csv is empty"),
        (HEADER, "data.csv has a header and no rows"),
        (table([[*row[:3], "yes"] for row in ROWS]), 'one class only, "yes" in label'),
        (with_cell(5, 2, "nan"), "data.csv row 5, column score: the cell is empty or NaN"),
        (with_cell(5, 2, ""), "data.csv row 5, column score: the cell is empty or NaN"),
        (with_cell(5, 2, "inf"), "data.csv row 5, column score: inf is not finite"),
        (with_cell(5, 3, ""), "data.csv row 5, column label: the label is empty"),
        (with_cell(5, 3, "maybe"), 'class "maybe" has 1 example'),
        (table(ROWS[:9]), "training examples are fewer than one batch of 8; set data.batch_size to at most "),
        (table(ROWS)[:-20] + "\n", "data.csv row "),
        ("a;b\n" * 30, 'data.csv has no column "label" (data.label)'),
    ],
)
def test_a_table_that_cannot_be_learned_from(refused, text, told):
    Path("data.csv").write_text(text, encoding="utf-8")
    assert told in refused(train, *training("table.yaml"))
    assert_nothing_half_made()


def test_a_table_in_another_encoding(refused):
    Path("data.csv").write_text(table(ROWS), encoding="gb18030")
    assert "if the file is gb18030, set data.encoding: gb18030" in refused(train, *training("table.yaml"))
    assert_nothing_half_made()


def test_a_missing_table(refused):
    told = refused(train, *training("table.yaml", "data.path=dta.csv"))
    assert re.fullmatch(r'\S*dta\.csv \(data\.path\) is not there; did you mean "data\.csv"\?', told)
    assert_nothing_half_made()


def test_a_batch_larger_than_the_data(refused):
    told = refused(train, *training("digits.yaml", "data.batch_size=2000"))
    assert told == (
        "builtin digits: 1258 training examples are fewer than one batch of 2000; set data.batch_size to at most 1258, "
        "or add examples"
    )
    assert_nothing_half_made()


def test_a_label_of_the_test_file_that_was_not_trained_on(refused):
    Path("test.csv").write_text(table([*ROWS[:5], ["33", "红", "1", "maybe"]]), encoding="utf-8")
    told = refused(train, *training("table.yaml", "data.test_path=test.csv"))
    assert re.search(
        r'test\.csv row 6, column label: label "maybe" was not seen in training; the classes are "no", ', told
    )
    assert_nothing_half_made()


# What does not fit the data


@pytest.mark.parametrize(
    ("config", "overrides", "told"),
    [
        ("digits.yaml", ["training.monitor=acuracy"], "training.monitor: expected one of loss, accuracy, received "),
        ("table.yaml", ["training.monitor=mae"], "training.monitor: expected one of loss, accuracy, received 'mae'"),
        ("digits.yaml", ["training.optimizer.options.beta2=0.9"], "training.optimizer.options.beta2: adam takes "),
        ("digits.yaml", ["training.optimizer.options.clipnorm=1"], "training.optimizer.options.clipnorm: gradients "),
        ("digits.yaml", ["training.optimizer.options={use_ema: true}"],
         "training.optimizer.options.use_ema: adam takes "),
        ("digits.yaml", ["training.optimizer.options.learning_rate=7"], "options.learning_rate: adam takes amsgrad, "),
        ("digits.yaml", ["training.optimizer.momentum=0.5"], "training.optimizer.momentum: adam has no momentum"),
        ("digits.yaml", ["training.early_stopping.patience=2", "data.split.validation=0"],
         "training.early_stopping needs validation examples; set data.split.validation above 0"),
        ("digits.yaml", ["training.schedule.warmup_steps=500"],
         "training.schedule: 500 warm-up steps leave nothing of the run's 19 updates; "),
        ("digits.yaml", ["training.schedule.warmup_share=1.0"],
         "training.schedule: 19 warm-up steps leave nothing of the run's 19 updates; "),
        ("digits.yaml", ["training.gradient_accumulation=20"], "training.gradient_accumulation: 20 batches of 64 for "),
        ("table.yaml", ["training.class_weights={yes: 2, never: 1}"],
         "training.class_weights: 'never' is not a class of the data; its classes are no, yes"),
        ("digits.yaml", ["training.class_weights={10: 2}"], "training.class_weights: '10' is not a class of the data"),
        ("table.yaml", ["data.task=regression", "data.label=score", "training.class_weights=balanced"],
         "training.class_weights: a regression has no classes; leave it out"),
        ("digits.yaml", ["evaluation.threshold=0.3"], "a decision threshold (0.3) is for two classes; this data has "),
        ("table.yaml", ["data.task=regression", "data.label=score", "evaluation.threshold=0.3"],
         "a decision threshold (0.3) is for two classes; this data has none: it is a regression"),
        ("digits.yaml", ["training.initialise_from=nowhere"], "nowhere is not a workdir: it has no config.yaml"),
        ("digits.yaml", ["training.strategy=mirrored", "data.batch_size=63"],
         "data.batch_size 63 cannot be divided equally among 2 replicas; choose a multiple of 2, such as 64"),
    ],
)  # fmt: skip
def test_an_option_that_does_not_fit(refused, config, overrides, told):
    assert told in refused(train, *training(config, *overrides))
    assert_nothing_half_made()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "training.strategy: multi_worker needs the environment variable TF_CONFIG, such as {"),
        ("{", "TF_CONFIG is not of the form {"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "TF_CONFIG: task index 1 is not "),
    ],
)
def test_several_workers_that_do_not_know_of_each_other(refused, monkeypatch, value, told):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if value is not None:
        monkeypatch.setenv("TF_CONFIG", value)
    assert refused(train, *training("digits.yaml", "training.strategy=multi_worker")).startswith(told)
    assert not Path("run").exists()


def test_a_mistake_that_is_mended_is_forgotten(refused):
    refused(train, *training("table.yaml", "data.path=dta.csv"))
    refused(train, *training("table.yaml", "training.monitor=acuracy"))
    assert train.main([*training("table.yaml"), "--quiet"]) == 0
    assert Path("run/metrics.json").exists()


# A run that is there


@pytest.fixture(scope="module")
def trained_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    (folder / "digits.yaml").write_text(DIGITS, encoding="utf-8")
    assert train.main(["--config", str(folder / "digits.yaml"), "--workdir", str(folder / "run"), "--quiet"]) == 0
    return folder / "run"


@pytest.fixture
def digits_run(trained_digits: Path) -> Path:
    shutil.copytree(trained_digits, "run")
    return Path("run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "table.yaml").write_text(TABLE, encoding="utf-8")
    (folder / "data.csv").write_text(table(ROWS), encoding="utf-8")
    arguments = ["--config", str(folder / "table.yaml"), "--workdir", str(folder / "run"), "--quiet"]
    assert train.main([*arguments, "--set", f"data.data_dir={folder}"]) == 0
    return folder / "run"


@pytest.fixture
def run(trained: Path) -> Path:
    shutil.copytree(trained, "run")
    return Path("run")


def contents() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_workdir_of_another_configuration(refused, run):
    before = contents()
    told = refused(train, *training("table.yaml", "model.hidden_units=[5]"))
    assert told.startswith("run was made with another configuration: model.hidden_units is [4] there and [5] now; use ")
    # What follows from the other source is not said in its place.
    told = refused(train, *training("digits.yaml"))
    assert re.search(r"configuration: data\.source is 'table' there and 'builtin' now \(and \d+ more\); use ", told)
    assert contents() == before


def test_data_that_has_changed(refused, run):
    before = contents()
    Path("data.csv").write_text(with_cell(5, 2, "0.123"), encoding="utf-8")
    told = refused(train, *training("table.yaml", "training.epochs=2"))
    assert told.startswith("the data is not what run was trained on (its fingerprint is ")
    del before[run / "config.yaml"]
    assert {path: content for path, content in contents().items() if path in before} == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (table([*ROWS[:5], ["33", "红", "1", "maybe"]]), 'new.csv row 6, column label: label "maybe" was not seen in '),
        (with_cell(2, 2, "nan"), "new.csv row 2, column score: the cell is empty or NaN"),
        (
            with_cell(2, 0, "old"),
            'new.csv row 2, column age: "old" is not a number; correct it; the column was numeric',
        ),
        (HEADER, "new.csv has a header and no rows"),
        ("", "new.csv is empty"),
        ("age,colour,score\n33,红,1\n", 'new.csv has no column "label" (the label of this run)'),
        (
            table(ROWS).replace("colour", "color"),
            'new.csv has no column "colour" (a feature of this run); did you mean ',
        ),
    ],
)
def test_a_labelled_file_that_does_not_fit_the_run(refused, run, text, told):
    before = contents()
    Path("new.csv").write_text(text, encoding="utf-8")
    assert told in refused(evaluate, "--workdir", "run", "--input", "new.csv")
    assert contents() == before


def test_a_missing_labelled_file(refused, run):
    told = refused(evaluate, "--workdir", "run", "--input", "dat.csv")
    assert told == 'dat.csv is not there; did you mean "data.csv"?'


def test_a_threshold_where_there_are_ten_classes(refused, digits_run):
    before = contents()
    for threshold in ("0.3", "auto"):
        told = refused(evaluate, "--workdir", "run", "--threshold", threshold)
        assert re.search(r"decision threshold.* is for two classes.* 10\b", told)
    told = refused(predict, "--workdir", "run", "--input", "data.csv", "--threshold", "0.3")
    assert "is for two classes" in told
    assert contents() == before


# No permission


# Linux capabilities: to write, and to read and search, whatever the permissions say.
DAC_OVERRIDE, DAC_READ_SEARCH = 1 << 1, 1 << 2


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Root, too, is refused what a file's permissions refuse its owner. Another user could not read Python's files."""
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the calls' third version, this thread
    before = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; the same for capabilities from 32 on
    assert libc.capget(header, before) == 0
    lowered = type(before)(before[0] & ~(DAC_OVERRIDE | DAC_READ_SEARCH), *before[1:])
    assert libc.capset(header, lowered) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that nobody may write."""
    Path("closed").mkdir()
    Path("closed").chmod(0o555)
    yield Path("closed")
    Path("closed").chmod(0o755)


def test_no_permission_to_write_the_workdir(refused, closed):
    arguments = ["--config", "digits.yaml", "--workdir"]
    with bound_by_permissions():
        told = refused(train, *arguments, "closed/run")
        assert told == "no permission to write the workdir closed/run; choose another --workdir"
        told = refused(train, *arguments, "closed")
        assert told == "no permission to write the workdir closed; choose another --workdir"
    assert list(closed.iterdir()) == []


def test_no_permission_to_write_what_comes_after_training(refused, digits_run, closed):
    run = digits_run
    Path("seven.png").write_bytes(tf.io.encode_png(tf.zeros([8, 8, 1], tf.uint8)).numpy())
    for path in [run, *run.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = contents()
    with bound_by_permissions():
        told = refused(predict, "--workdir", "run", "--image", "seven.png", "--output", "closed/answers.csv")
        assert told.startswith("no permission to write closed/answers.csv; ")
        told = refused(export, "--workdir", "run", "--output", "closed")
        assert told.startswith("no permission to write closed; ")
        told = refused(evaluate, "--workdir", "run")
        assert told.startswith("no permission to write run/evaluation/test.json; ")
        told = refused(train, *training("digits.yaml", "training.epochs=2"))
        assert told == "no permission to write the workdir run; choose another --workdir"
    for path in [run, *run.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert contents() == before
    assert list(closed.iterdir()) == []


def test_no_permission_to_read(refused):
    Path("secret").mkdir()
    shutil.copy("digits.yaml", "secret/digits.yaml")
    Path("unreadable.yaml").write_text(DIGITS, encoding="utf-8")
    Path("unreadable.yaml").chmod(0)
    Path("data.csv").chmod(0)
    Path("secret").chmod(0)
    with bound_by_permissions():
        told = refused(train, "--config", "secret/digits.yaml", "--workdir", "run")
        assert told == "no permission for secret/digits.yaml; change it or choose another place"
        told = refused(train, "--config", "unreadable.yaml", "--workdir", "run")
        assert told.startswith("no permission to read unreadable.yaml")
        told = refused(evaluate, "--workdir", "secret/run")
        assert told.startswith("no permission for secret/run/config.yaml; ")
        told = refused(train, "--config", "table.yaml", "--workdir", "run")
        assert re.fullmatch(r"no permission to read \S*data\.csv", told)
    Path("secret").chmod(0o755)


# Divergence


def test_divergence_names_the_update_and_leaves_the_last_good_checkpoint(refused):
    overrides = ["training.optimizer={name: sgd, learning_rate: 1e30}", "checkpoints.every_steps=1"]
    told = refused(train, *training("digits.yaml", *overrides, "training.steps_per_execution=1"))
    pattern = r"training diverged: the (?:loss|gradient's norm) became (?:nan|inf) at update (\d+); lower training\."
    update = int(re.match(pattern, told)[1])
    assert not Path("run/metrics.json").exists()
    checkpoint, problems = latest_checkpoint(Path("run/checkpoints"))
    assert not problems
    assert checkpoint.state["updates"] == update - 1
    model, loaded = load_trained(Workdir(Path("run")))
    assert loaded.folder == checkpoint.folder
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_a_model_that_answers_nan_does_not_become_a_checkpoint(refused):
    # One update an epoch: its own loss is finite, and the model it leaves overflows.
    overrides = ["training.optimizer={name: sgd, learning_rate: 1e30}", "data.batch_size=1258"]
    told = refused(train, *training("digits.yaml", *overrides))
    assert told.startswith("training diverged: the validation loss became nan at update 1; lower training.optimizer.")
    assert_nothing_half_made()
    # Nothing was learned, so that a lower learning rate need not look for another folder.
    assert train.main([*training("digits.yaml"), "--quiet"]) == 0
