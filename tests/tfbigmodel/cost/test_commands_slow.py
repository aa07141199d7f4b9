"""Both flags where they are hardest: several workers, phases, images in files, pretraining on a corpus."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tfbigmodel
from tfbigmodel.config import load_config
from tfbigmodel.cost.fast_run import fast_dev_run

CONFIGS = Path(__file__).parents[3] / "configs"
COMMAND = [sys.executable, "-m"]
WORKERS = [*COMMAND, "tfbigmodel.launch", "--workers", "2", "--", "tfbigmodel.train"]


@pytest.mark.slow
def test_two_workers_estimate_together_and_the_chief_prints():
    arguments = ["--config", str(CONFIGS / "dense.yaml"), "--dry_run", "--json", "--quiet"]
    alone = json.loads(subprocess.check_output([*COMMAND, "tfbigmodel.train", *arguments], timeout=300))
    output = subprocess.check_output([*WORKERS, *arguments], text=True, timeout=300)
    cost = json.loads(output[output.index("{") :])
    assert (cost["workers"], cost["replicas"]) == (2, 2)
    assert cost["phases"][0]["operations"]["products"] == alone["phases"][0]["operations"]["products"]
    assert cost["phases"][0]["memory"]["batch"] == alone["phases"][0]["memory"]["batch"] // 2
    assert cost["phases"][0]["timing"]["update"] > 0


@pytest.mark.slow
def test_two_workers_go_through_all_of_a_run():
    arguments = ["--config", str(CONFIGS / "dense.yaml"), "--fast_dev_run"]
    output = subprocess.check_output([*WORKERS, *arguments], text=True, timeout=300)
    assert "2 replicas" in output
    assert output.count("done: training: 2 epochs of 2 updates, with validation and checkpoints") == 1
    assert "the figures mean nothing, and nothing was kept" in output


PHASES = "training.phases=[{from_epoch: 0, train: head}, {from_epoch: 4, train: 1, learning_rate: 1e-4}]"


@pytest.mark.slow
def test_each_phase_has_a_cost_of_its_own_and_is_gone_through():
    config = load_config(CONFIGS / "resnet50_digits.yaml", [PHASES, "data.batch_size=8"])
    cost = tfbigmodel.estimate(config)
    head, stage = cost.phases
    assert (head.epochs, stage.epochs) == (4, 2)
    assert head.trainable == 2048 * 10 + 10 < stage.trainable < cost.parameters
    # The head's step is a forward pass, and next to nothing; its optimizer has next to no state.
    assert head.operations.products == pytest.approx(head.operations.forward, rel=0.02)
    assert stage.operations.products > 1.3 * head.operations.products
    assert head.memory.optimizer < stage.memory.optimizer
    assert head.memory.activations < stage.memory.activations
    assert cost.seconds > 4 * head.epoch_seconds + 2 * stage.epoch_seconds
    assert fast_dev_run(config, quiet=True)[0].startswith("training: 2 epochs of 2 updates in 2 phases")


@pytest.mark.slow
def test_pretraining_is_gone_through_to_an_answer_of_the_export():
    done = fast_dev_run(load_config(CONFIGS / "bert_pretraining_zh.yaml", ["data.batch_size=4"]), batches=1, quiet=True)
    assert "an answer of the export to one example" in done[-1]
