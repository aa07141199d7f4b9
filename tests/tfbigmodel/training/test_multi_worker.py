"""Two workers that train: one freezes, for a while or for good; and what they measure together."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from tfbigmodel.config import resolve, validate_config

LAUNCH = [sys.executable, "-m", "tfbigmodel.launch", "--workers", "2", "--grace", "2", "--"]

# Measures a model of language and a classifier of texts on both workers together, and on each alone.
MEASURE = """
import json, sys
import numpy as np
from tfbigmodel.config import load_config
from tfbigmodel.training.cluster import cluster_of_environment
from tfbigmodel.training.config import WorkersConfig
from tfbigmodel.training.health import watched
with watched(cluster_of_environment("multi_worker"), WorkersConfig()):
    from tfbigmodel.inference import make_inference
    from tfbigmodel.measuring import evenly, measure, measure_split, predict_together, share_weights
    from tfbigmodel.model import build_model, load_data, make_task
    from tfbigmodel.training.distribution import agree, is_chief, make_strategy, summed
    found = {}
    strategy = make_strategy(load_config(sys.argv[1]).training)
    for path in sys.argv[1:]:
        config = load_config(path)
        data = load_data(config)
        task, model = make_task(config, data.info), build_model(config, data.info)
        for variable in model.variables:  # what only the chief knows: numbers that no initialiser gives
            if is_chief(strategy):
                size = int(np.prod(variable.shape))
                variable.assign(np.linspace(-0.3, 0.5, size).reshape(variable.shape).astype(variable.dtype))
        share_weights(model, strategy)
        module = make_inference(model, data.preprocess, config, data.info)
        for split in ("train", "validation", "test"):
            ours = measure_split(module, model, data, split, task, config, strategy).metrics
            found[f"{data.info.task} {split}"] = [ours, measure_split(module, model, data, split, task, config).metrics]
        if data.info.task == "classification":
            few = evenly(data.examples("test"), 3)  # fewer batches than workers
            answers = [predict_together(module, few, each)["logits"].tolist() for each in (strategy, None)]
            found["few"] = answers
    found["agreed"] = agree(strategy, 2**40 if is_chief(strategy) else -7)
    many = np.arange(5_000_000, dtype=np.float32)  # more than goes at once
    found["summed"] = bool((summed(strategy, many if is_chief(strategy) else many * 0) == many).all())
    with open(f"found{0 if is_chief(strategy) else 1}.json", "w") as file:
        json.dump(found, file)
"""


def write(path, values):
    path.write_text(json.dumps(resolve(validate_config(values, "test")).model_dump(mode="json")))
    return str(path)


def test_where_each_machine_keeps_its_data_is_not_compared(tmp_path):
    from tfbigmodel.training.agreement import digests

    (tmp_path / "corpus.txt").write_text("one\n\ntwo")
    shared = {"source": "corpus", "task": "language_model", "parts": [{"path": "corpus.txt"}]}

    def compared(data_dir, cache_dir, batch_size):
        data = {**shared, "data_dir": str(tmp_path / data_dir), "cache_dir": cache_dir, "batch_size": batch_size}
        values = {"data": data, "model": {"chapter": "text_generator"}, "training": {"strategy": "multi_worker"}}
        return digests(validate_config(values, "test"), SimpleNamespace(fingerprint="f"))

    assert compared("a", "/scratch/1", 8) == compared("b", "/scratch/2", 8) == compared("b", None, 8)
    assert dict(compared("a", None, 8).items() - compared("a", None, 16).items()).keys() == {"data"}


@pytest.mark.slow
def test_workers_measure_together_what_one_measures_alone(tmp_path):
    texts = ["".join(chr(97 + (7 * i + 3 * j * j) % 26) for j in range(10 + i % 40)) for i in range(330)]
    (tmp_path / "corpus.txt").write_text("\n\n".join(texts))
    (tmp_path / "texts.csv").write_text("t,label\n" + "".join(f"{text},{len(text) % 2}\n" for text in texts))
    (tmp_path / "measuring.py").write_text(MEASURE)
    tokenizer = {"kind": "characters", "vocabulary_size": 40, "sequence_length": 32}
    split = {"validation": 0.2, "test": 0.1, "seed": 1}
    shared = {"data_dir": str(tmp_path), "batch_size": 16, "tokenizer": tokenizer, "split": split}
    corpus = {"source": "corpus", "task": "language_model", "parts": [{"path": "corpus.txt"}], **shared}
    table = {"source": "table", "path": "texts.csv", "text": "t", "label": "label", **shared}
    generator = {"chapter": "text_generator", "hidden_dim": 16, "num_heads": 2, "num_layers": 1, "intermediate_dim": 32}
    training = {"training": {"strategy": "multi_worker"}}
    configs = [
        write(tmp_path / "generator.yaml", {"data": corpus, "model": generator, **training}),
        write(tmp_path / "lstm.yaml", {"data": table, "model": {"chapter": "lstm", "units": 8}, **training}),
    ]
    path = os.pathsep.join([str(tmp_path), os.getcwd()])
    subprocess.run([*LAUNCH, "measuring", *configs], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, check=True)
    found, other = (json.loads((tmp_path / f"found{index}.json").read_text()) for index in range(2))
    assert other == found
    assert found.pop("agreed") == [2**40, -7]
    assert found.pop("summed")
    assert found["few"][0] == found.pop("few")[1]
    assert len(found) == 6
    for split, (together, alone) in found.items():
        if split.startswith("classification"):
            assert together == alone, split  # bit by bit: the same batches
        else:
            assert together == pytest.approx(alone, rel=1e-6), split


def start_training(tmp_path, **training):
    values = {
        "data": {"source": "builtin", "name": "digits", "batch_size": 64},
        "model": {"chapter": "dense", "hidden_units": [32]},
        "checkpoints": {"every_steps": 10},
        "training": {"epochs": 10000, **training},
    }
    config = write(tmp_path / "config.yaml", values)
    command = ["tfbigmodel.train", "--quiet", "--config", config, "--workdir", str(tmp_path / "run")]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}  # as without the tests, which ask for more
    process = subprocess.Popen(
        [*LAUNCH, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    limit = time.monotonic() + 120
    while not list((tmp_path / "run" / "checkpoints").glob("step-*")):
        assert time.monotonic() < limit
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return process, [int(number) for number in file.read().split()]


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_worker_ends_the_run(tmp_path, frozen):
    process, workers = start_training(tmp_path, workers={"silence_seconds": 5.0})
    try:
        os.kill(workers[frozen], signal.SIGSTOP)
        started = time.monotonic()
        output, errors = process.communicate(timeout=60)
        assert time.monotonic() - started < 60
    finally:
        process.kill()
    assert (process.returncode, output) == (138, "")
    told, ended = errors.splitlines()
    assert told.startswith(f"[worker {1 - frozen}] error: worker {frozen} (127.0.0.1:")
    assert told.endswith(
        ") has not been heard of for 5 s: it hangs, or the network to it is cut; start all workers again with the same "
        "command: the run goes on from its last checkpoint"
    )
    assert ended == (
        f"error: worker {1 - frozen} ended with exit code 138; the same command goes on from the last checkpoint"
    )


@pytest.mark.slow
def test_a_worker_that_was_only_busy_is_waited_for(tmp_path):
    process, workers = start_training(tmp_path, workers={"silence_seconds": 30.0})
    try:
        os.kill(workers[1], signal.SIGSTOP)
        time.sleep(14)  # TensorFlow's own limit is 10 seconds
        os.kill(workers[1], signal.SIGCONT)
        checkpoints = set((tmp_path / "run" / "checkpoints").glob("step-*"))
        time.sleep(20)
        assert process.poll() is None
        assert set((tmp_path / "run" / "checkpoints").glob("step-*")) != checkpoints, "it trains on"
        process.terminate()
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
