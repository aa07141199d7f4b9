"""A run that crashed inside an epoch goes on bit-equal: every chapter, and every kind of source."""

import keras
import numpy as np
import pytest

from tfbigmodel.config import resolve, validate_config
from tfbigmodel.model import build_model, fill_in_preset, load_data, make_task
from tfbigmodel.training.checkpoints import latest_checkpoint
from tfbigmodel.training.distribution import make_strategy
from tfbigmodel.training.fit import fit
from tfbigmodel.training.rule import make_rule, updates_per_epoch
from tfbigmodel.training.start import starting_state
from tfbigmodel.workdir import Workdir

ENCODER = {
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
    "max_sequence_length": 32,
    "dropout": 0.1,
}
PIECES = {"kind": "wordpiece", "vocabulary_size": 100, "sequence_length": 32}
GENERATOR = {"chapter": "text_generator", "hidden_dim": 8, "num_heads": 2, "intermediate_dim": 16, "dropout": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Reviews of different lengths, as CSV."""
    path = tmp_path_factory.mktemp("reviews")
    random = np.random.default_rng(1)
    sentences = {"good": "这本书很好。我很喜欢，会再买。", "bad": "这本书很差。我很失望，不会再买。"}
    rows = []
    for number in range(180):
        label, city = ("good", "bad")[number % 2], "北京" if number % 3 else "上海"
        text = sentences[label] * random.integers(1, 4)
        rows.append(f"{text}{number}次。,{label},{random.normal():.3f},{city}")
    (path / "reviews.csv").write_text("\n".join(["text,label,score,city", *rows]) + "\n", encoding="utf-8")
    return path


def table(**values):
    return {"source": "table", "path": "reviews.csv", "label": "label", "batch_size": 8, **values}


def corpus(task, **values):
    return {
        "source": "corpus",
        "task": task,
        "parts": [{"path": "reviews.csv", "text": "text"}],
        "batch_size": 8,
        **values,
    }


def shards(**values):
    return {"source": "shards", "label": "label", "batch_size": 8, "shuffle_window": 32, **values}


PICTURES = {
    "source": "image_folder",
    "path": "digits",
    "batch_size": 8,
    "images": {"size": 8},
    "augmentation": {"rotation": 10.0, "mixup": 0.2, "random_erasing": 0.5},
}
CASES = {
    "dense_table": ({"chapter": "dense", "hidden_units": [8], "dropout": 0.2}, table(ignore=["text"])),
    "lstm_texts": (
        {"chapter": "lstm", "embedding_dim": 8, "units": 8, "dropout": 0.2},
        table(text="text", tokenizer={"kind": "characters"}, bucket_batches=4),
    ),
    "bert_classifier": ({"chapter": "bert_classifier", "backbone": ENCODER}, table(text="text", tokenizer=PIECES)),
    "bert_pretraining": (
        {"chapter": "bert_pretraining", "backbone": ENCODER},
        corpus("masked_language_model", tokenizer=PIECES),
    ),
    "generator": (GENERATOR, corpus("language_model", tokenizer={"kind": "characters", "sequence_length": 24})),
    "dense_tfrecord": ({"chapter": "dense", "hidden_units": [8]}, shards(path="tfrecord/*.tfrecord", ignore=["text"])),
    "lstm_parquet": (
        {"chapter": "lstm", "embedding_dim": 8, "units": 8},
        shards(path="parquet/*.parquet", text="text", tokenizer={"kind": "characters"}),
    ),
    "resnet50": ({"chapter": "resnet50", "stem": "small_image", "dropout": 0.2}, PICTURES),
}  # fmt: skip


@pytest.fixture
def configured(folder, digits_folder, request):
    name = request.param
    model, data = CASES[name]
    if data["source"] == "shards":
        kind = data["path"].split("/")[0]
        if not (folder / kind).exists():
            from pipelines.shards import write

            arguments = ["--input", str(folder / "reviews.csv"), "--output", str(folder / kind)]
            assert write.main([*arguments, "--format", kind, "--shards", "3"]) == 0
    if data["source"] == "image_folder":
        data = {**data, "path": str(digits_folder)}
    training = {
        "epochs": 2,
        "gradient_accumulation": 2,
        "steps_per_execution": 1,
        "optimizer": {"name": "adamw", "learning_rate": 3e-3},
        "schedule": {"name": "cosine", "warmup_steps": 2},
        "clip_norm": 1.0,
    }
    settings = {"every_steps": 2, "keep": 1}
    values = {"data": {"data_dir": str(folder), **data}, "model": model, "training": training, "checkpoints": settings}
    return fill_in_preset(resolve(validate_config(values, "test")))


class Crash(keras.callbacks.Callback):
    after = 0

    def on_train_batch_end(self, batch, logs=None):
        Crash.after -= 1
        if Crash.after == 0:
            raise RuntimeError("crash")


def fitted(config, workdir):
    """What `train` does, without measuring the splits at the end; data and model are made anew, as in a new process."""
    data, strategy = load_data(config), make_strategy(config.training)
    keras.utils.set_random_seed(config.training.seed)
    model = build_model(config, data.info)
    steps = updates_per_epoch(config, data)
    state, optimizer, checkpoint = starting_state(config, workdir, data.info, model, strategy, steps, lambda text: None)
    rule, task = make_rule(config, data.info, strategy), make_task(config, data.info)
    callbacks = [Crash()]
    return fit(
        model, optimizer, data, task, strategy, config, rule, state, workdir.checkpoints, callbacks=callbacks,
        resumed_from=checkpoint,
    ), steps  # fmt: skip


@pytest.mark.parametrize(
    "configured",
    [pytest.param(name, marks=pytest.mark.slow if name in ("resnet50", "bert_classifier") else ()) for name in CASES],
    indirect=True,
)
def test_a_crashed_run_goes_on_bit_equal(configured, tmp_path):
    expected, steps = fitted(configured, Workdir(tmp_path / "undisturbed"))
    Crash.after = steps + (3 if steps > 3 else 1)  # in the second epoch, after its first checkpoint if it has one
    with pytest.raises(RuntimeError, match="crash"):
        fitted(configured, Workdir(tmp_path / "crashed"))
    state, _ = fitted(configured, Workdir(tmp_path / "crashed"))
    assert state == expected
    assert state.updates == 2 * steps
    one, two = (latest_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("undisturbed", "crashed"))
    for first, second in (
        (one.model_arrays(), two.model_arrays()),
        (one.optimizer_arrays(), two.optimizer_arrays()),
    ):
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
