"""`train --dry_run`: figures beside closed forms and real runs, what is printed, what is refused, what is warned of."""

import dataclasses
import json
import subprocess
import sys

import pytest

import tfbigmodel
from tfbigmodel.config import resolve, validate_config
from tfbigmodel.cost.figures import Cost
from tfbigmodel.cost.report import format_cost
from tfbigmodel.cost.units import bytes_text, duration, operations_text
from tfbigmodel.cost.warnings import warnings_of
from tfbigmodel.evaluation.text import cell_width
from tfbigmodel.train import main

GIB = 2**30
WEIGHTS = 64 * 128 + 128 + 128 * 10 + 10
FORWARD = 2 * 64 * (64 * 128 + 128 * 10)


def config(checkpoints=(), **training):
    values = {
        "data": {"source": "builtin", "name": "digits", "batch_size": 64},
        "model": {"chapter": "dense", "hidden_units": [128], "dropout": 0.0},
        "checkpoints": dict(checkpoints),
        "training": {"epochs": 3, "jit_compile": False, **training},
    }
    return resolve(validate_config(values, "test"))


@pytest.fixture(scope="module")
def cost() -> Cost:
    return tfbigmodel.estimate(config())


def test_the_model_and_the_data_are_counted(cost):
    assert (cost.chapter, cost.parameters, cost.replicas, cost.workers) == ("dense", WEIGHTS, 1, 1)
    assert cost.examples == {"train": 1258, "validation": 180, "test": 359}
    assert (cost.updates_per_epoch, cost.epochs, cost.updates) == (19, 3, 57)
    assert len(cost.phases) == 1
    assert cost.phases[0].trainable == WEIGHTS


def test_operations_are_those_of_the_formula(cost):
    operations = cost.phases[0].operations
    # Three products for each layer, but for the gradient of the first one's inputs.
    assert operations.products == 3 * FORWARD - 2 * 64 * 64 * 128
    assert FORWARD < operations.forward < 1.05 * FORWARD
    assert operations.products < operations.training < 1.1 * operations.products
    assert operations.not_counted == ()


def test_memory_follows_from_shapes_and_types(cost):
    memory = cost.phases[0].memory
    assert memory.weights == memory.gradients == 4 * WEIGHTS
    assert memory.optimizer == 2 * 4 * WEIGHTS + 4 + 8  # Adam's two moments, its learning rate and its count
    assert memory.batch == 64 * (8 * 8 + 1) * 4
    # What comes out of the hidden layer, its product and the loss's own gradient; a few numbers besides.
    assert 64 * (128 + 10) * 4 <= memory.activations <= 64 * (128 + 10) * 4 * 1.2
    assert memory.total == sum((memory.weights, memory.optimizer, memory.batch, memory.step))
    assert cost.fits


def test_a_checkpoint_is_as_large_as_it_is_told(cost, digits_run):
    model, optimizer = (
        max(digits_run.workdir.glob(f"checkpoints/step-*/{name}.safetensors")) for name in ("model", "optimizer")
    )
    estimated = tfbigmodel.estimate(tfbigmodel.load_config(digits_run.workdir / "config.yaml"))
    written = model.stat().st_size + optimizer.stat().st_size
    assert 0 < written - estimated.phases[0].checkpoint_bytes < 4096  # the names of the tensors


def test_times_are_measured_and_add_up(cost):
    phase = cost.phases[0]
    assert phase.timing.updates_measured >= 2
    assert phase.timing.first > phase.timing.update > 0
    least = 19 * phase.timing.update + 3 * phase.timing.validation_batch + phase.timing.copy
    assert phase.epoch_seconds == pytest.approx(least)
    assert cost.seconds > phase.timing.first + 3 * phase.epoch_seconds


def test_accumulated_batches_cost_as_much_each_and_one_update(cost):
    accumulated = tfbigmodel.estimate(config(gradient_accumulation=4, checkpoints={"every_steps": 2}))
    one, four = cost.phases[0], accumulated.phases[0]
    assert four.operations.products == 4 * one.operations.products
    assert 4 * one.operations.forward == four.operations.forward
    assert four.memory.optimizer == one.memory.optimizer + 4 * WEIGHTS
    assert (accumulated.updates_per_epoch, accumulated.updates) == (4, 12)
    # In mid-epoch and at the epoch's end.
    copies = four.checkpoint_share * four.epoch_seconds / four.timing.copy
    assert copies == pytest.approx(2)


def test_a_dry_run_prints_all_of_it_and_writes_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "客户.csv").write_text(
        "年龄,城市,购买\n"
        + "".join(f"{20 + n},{'北京' if n % 3 else '上海'},{'是' if n % 2 else '否'}\n" for n in range(80)),
        encoding="utf-8",
    )
    (tmp_path / "run.yaml").write_text(
        "data: {source: table, path: 客户.csv, label: 购买, batch_size: 8}\n"
        "model: {chapter: dense, hidden_units: [4]}\ntraining: {jit_compile: false}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["--config", "run.yaml", "--dry_run"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    output, errors = capsys.readouterr()
    assert errors.splitlines() == ["reading the data …", "tracing an update …", "measuring updates …"]
    for told in ("parameters", "56 train, 8 validation, 16 test", "operations", "an epoch", "it fits", "the whole run"):
        assert told in output
    rows = [line for line in output.splitlines() if line.startswith(("  年龄", "  城市", "  购买"))]
    assert len(rows) == 3
    # Chinese characters take two cells: the columns stand one below the other all the same.
    assert {cell_width(row[: row.index(row.split()[1])]) for row in rows} == {28}


def test_a_dry_run_as_json_is_all_that_is_on_standard_output(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("data: {source: builtin, name: digits}\nmodel: {chapter: dense, hidden_units: [8]}\n")
    workdir = tmp_path / "runs" / "none"
    assert main(["--config", str(path), "--workdir", str(workdir), "--dry_run", "--json", "--quiet"]) == 0
    output, errors = capsys.readouterr()
    assert not errors
    cost = json.loads(output)
    assert cost["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    assert cost["fits"] is True
    assert cost["updates"] == cost["epochs"] * cost["updates_per_epoch"]
    assert not workdir.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry_run", "--fast_dev_run"], "--dry_run counts and measures, --fast_dev_run runs all of it"),
        (["--json", "--workdir", "x"], "--json goes with --dry_run"),
        (["--fast_dev_run", "0"], "--fast_dev_run: expected a number of batches from 1 on, received 0"),
        ([], "--workdir is missing: the folder for all that the run writes; --dry_run and --fast_dev_run need none"),
    ],
)
def test_flags_that_do_not_go_together_are_refused_in_one_line(arguments, message, capsys):
    assert main(["--config", "none.yaml", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def warned(cost, checkpoints=(), **changes):
    return list(warnings_of(dataclasses.replace(cost, **changes), config(checkpoints)))


def test_what_does_not_fit_is_told_with_a_remedy_and_not_measured(cost):
    unmeasured = dataclasses.replace(cost.phases[0], timing=None, epoch_seconds=None, checkpoint_share=None)
    large = dataclasses.replace(
        cost, phases=(unmeasured,), seconds=None, memory_needed=40 * GIB, device_memory=24 * GIB
    )
    large = dataclasses.replace(large, warnings=tuple(warnings_of(large, config())))
    assert "DOES NOT FIT" in format_cost(large)
    assert large.warnings == (
        "40.0 GiB of memory are needed, and there are 24.0 GiB: no update was measured; set data.batch_size: 32 and "
        "training.gradient_accumulation: 2, which trains alike; training.precision: mixed_bfloat16 halves the "
        "activations; or make the model smaller",
    )
    smallest = warned(large, batch_size=1, precision="mixed_bfloat16", device="GPU")
    assert smallest[0].endswith("there are 24.0 GiB on a GPU: no update was measured; or make the model smaller")


def test_remarks_come_where_they_are_due(cost):
    assert warned(cost) == []
    assert warned(cost, seconds=30 * 3600.0)[0] == (
        "the run takes 30 h 0 min; set checkpoints.every_steps, so that a stop costs little"
    )
    often = dataclasses.replace(cost.phases[0], checkpoint_share=0.31)
    assert warned(cost, {"every_steps": 1}, phases=(often,)) == [
        "checkpoints take 31% of the time; raise checkpoints.every_steps (1)"
    ]
    measured_much = dataclasses.replace(often, epoch_seconds=10 * 19 * often.timing.update)
    assert "only 10% of an epoch is training" in warned(cost, seconds=3600.0, phases=(measured_much,))[0]
    assert "458 of 1,258 training examples make no whole update" in warned(cost, batch_size=400, updates_per_epoch=2)[0]
    unknown = dataclasses.replace(cost.phases[0].operations, not_counted=("the trips of a loop",))
    told = warned(cost, phases=(dataclasses.replace(cost.phases[0], operations=unknown),))
    assert told == ["not counted: the trips of a loop"]


def test_two_replicas_do_together_what_one_does(cost, tmp_path):
    # In a process of its own: devices can be divided at a process's start only.
    path = tmp_path / "run.yaml"
    path.write_text(
        "data: {source: builtin, name: digits}\nmodel: {chapter: dense, hidden_units: [128], dropout: 0.0}\n"
        "training: {epochs: 3, strategy: mirrored, virtual_cpus: 2}\n"
    )
    command = [sys.executable, "-m", "tfbigmodel.train", "--config", str(path), "--dry_run", "--json", "--quiet"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    both = json.loads(result.stdout)
    one, memory = cost.phases[0], both["phases"][0]["memory"]
    assert (both["replicas"], both["workers"]) == (2, 1)
    assert both["phases"][0]["operations"]["products"] == one.operations.products
    assert memory["weights"] == one.memory.weights
    assert memory["batch"] == one.memory.batch // 2
    assert memory["activations"] == pytest.approx(one.memory.activations / 2, rel=0.1)
    assert both["phases"][0]["timing"]["update"] > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (bytes_text(0), "0 B"),
        (bytes_text(1023), "1023 B"),
        (bytes_text(1024), "1.0 KiB"),
        (bytes_text(5000 * 2**40), "5000 TiB"),
        (operations_text(0), "0 FLOP"),
        (operations_text(1.04e12), "1.04 TFLOP"),
        (operations_text(2.5e18), "2.5e+03 PFLOP"),
        (duration(0.0004), "0.4 ms"),
        (duration(12.34), "12.3 s"),
        (duration(125), "2 min"),
        (duration(26 * 3600 + 180), "26 h 3 min"),
        (duration(100 * 3600), "4 days 4 h"),
    ],
)
def test_figures_are_told_in_units_that_matter(text, expected):
    assert text == expected
