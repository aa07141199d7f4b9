"""Every text chapter, from raw text: pipeline and model, the exported SavedModel in a fresh process, the server.

Toy sizes and a corpus of a few hundred made-up reviews; what is compared are numbers along different paths.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tfbigmodel
from pipelines.errors import UserError
from tfbigmodel.config import resolve, validate_config

TEXTS = ["我喜欢这本书", "这本书很糟糕", "", "a" * 100_000, "😀😀😀", "房间很干净，服务也好！", "很好 very good 100%"]
FRESH = """
import json, sys
import numpy as np
import tensorflow as tf
import tensorflow_text
loaded = tf.saved_model.load(sys.argv[1])
given = json.loads(sys.stdin.read())
inputs = {name: tf.constant(np.array(values, object if isinstance(values[0], str) else dtype))
          for name, (values, dtype) in given["inputs"].items()}
answers = loaded.signatures[given["signature"]](**inputs)
np.savez(sys.argv[2], **{name: value.numpy() for name, value in answers.items()})
"""
ENCODER = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32, "max_sequence_length": 64}


def reviews(count: int = 240) -> list[tuple[str, str]]:
    random = np.random.default_rng(0)
    things, good, bad = (
        ["书", "房间", "电脑", "饭菜"],
        ["喜欢", "很好", "干净", "满意"],
        ["糟糕", "很差", "失望", "太脏"],
    )
    rows = []
    for number in range(count):
        positive = number % 2 == 0
        words = random.choice(good if positive else bad, 2)
        # The number keeps every review different from every other.
        again = "再来" if positive else "不来"
        text = f"这{random.choice(things)}{words[0]}。服务{words[1]}！价格第{number}名，下次{again}。"
        rows.append((text, "好评" if positive else "差评"))
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    lines = ["内容,评价", *(f"{text},{label}" for text, label in reviews())]
    (folder / "评论.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def run(folder: Path, name: str, data: dict, model: dict, **training) -> Path:
    """Trains and exports; returns the workdir, with the export in it."""
    values = {
        "data": {"data_dir": str(folder), "batch_size": 16, **data},
        "model": model,
        "training": {"epochs": 2, "optimizer": {"learning_rate": 3e-3}, "clip_norm": 1.0, **training},
    }
    workdir = folder / name
    tfbigmodel.train(resolve(validate_config(values, name)), workdir)
    tfbigmodel.export(workdir, workdir / "exported")
    return workdir


def table(**options) -> dict:
    return {"source": "table", "path": "评论.csv", "text": "内容", "label": "评价", **options}


def corpus(folder: Path, task: str, **options) -> dict:
    parts = [{"path": "评论.csv", "text": "内容"}]
    return {"source": "corpus", "task": task, "parts": parts, "cache_dir": str(folder / "cache"), **options}


@pytest.fixture(scope="module")
def lstm(folder: Path) -> Path:
    model = {"chapter": "lstm", "embedding_dim": 8, "units": 8, "bidirectional": True, "dropout": 0.1}
    return run(folder, "lstm", table(tokenizer={"kind": "characters", "bigrams": 200, "sequence_length": 32}), model)


@pytest.fixture(scope="module")
def pretraining(folder: Path) -> Path:
    data = corpus(
        folder,
        "masked_language_model",
        tokenizer={"kind": "wordpiece", "vocabulary_size": 300, "sequence_length": 48},
        keep_out=[{"data": {"data_dir": str(folder), **table()}, "splits": ["test"]}],
    )
    return run(folder, "pretraining", data, {"chapter": "bert_pretraining", "backbone": ENCODER})


@pytest.fixture(scope="module")
def bert(folder: Path, pretraining: Path) -> Path:
    model = {"chapter": "bert_classifier", "preset": str(pretraining / "preset")}
    return run(folder, "bert", table(tokenizer={"kind": "wordpiece", "sequence_length": 48}), model)


@pytest.fixture(scope="module")
def generator(folder: Path) -> Path:
    data = corpus(folder, "language_model", tokenizer={"kind": "characters", "sequence_length": 40})
    model = {"chapter": "text_generator", "hidden_dim": 16, "num_heads": 2, "intermediate_dim": 32}
    return run(folder, "generator", data, model)


def fresh(workdir: Path, tmp_path: Path, signature: str = "serving_default", **inputs) -> dict[str, np.ndarray]:
    """The export's answers in a process that knows nothing of this project."""
    given = {
        "signature": signature,
        "inputs": {name: [list(values), dtype] for name, (values, dtype) in inputs.items()},
    }
    command = [sys.executable, "-c", FRESH, str(workdir / "exported" / "1"), str(tmp_path / "answers.npz")]
    subprocess.run(command, input=json.dumps(given), text=True, check=True, capture_output=True, cwd=tmp_path)
    with np.load(tmp_path / "answers.npz", allow_pickle=True) as answers:
        return dict(answers)


@pytest.mark.parametrize("chapter", ["lstm", "bert"])
def test_a_classifier_answers_alike_on_every_path(chapter: str, request: pytest.FixtureRequest, tmp_path: Path, served):
    workdir = request.getfixturevalue(chapter)
    config = tfbigmodel.load_config(workdir / "config.yaml")
    data, model = tfbigmodel.load_data(config), tfbigmodel.load_model(workdir)
    logits = np.concatenate([model(features, training=False).numpy() for features, _, _ in data.test()])
    texts = [text.decode() for text in data.examples("test").features["text"]]

    loaded = fresh(workdir, tmp_path, text=(texts + TEXTS, "object"))
    np.testing.assert_allclose(loaded["logits"][: len(texts)], logits, atol=1e-5)
    predicted = tfbigmodel.predict(workdir, texts=texts + TEXTS)
    assert [label.decode() for label in loaded["label"]] == predicted["prediction"].tolist()
    np.testing.assert_allclose(loaded["probabilities"].max(axis=1), predicted["probability"], atol=1e-5)
    with served(workdir / "exported") as client:
        answer = client.predict("m", {"text": np.array(texts + TEXTS, object)})
    np.testing.assert_allclose(answer["probabilities"], loaded["probabilities"], atol=1e-6)
    assert np.isfinite(answer["logits"]).all()


def test_invalid_utf8_is_answered_as_if_it_had_the_replacement_character(lstm: Path, served):
    with served(lstm / "exported") as client:
        texts = [b"\xff\xfe\xe4\xb9\xa6", "\ufffd\ufffd书".encode(), b"\xe5\xa5"]
        answer = client.predict("m", {"text": np.array(texts, object)})
        from_command_line = client.predict("m", {"text": np.array(["\udcff\udcfe书"], object)})
    np.testing.assert_array_equal(answer["logits"][0], answer["logits"][1])
    np.testing.assert_allclose(from_command_line["logits"][0], answer["logits"][0], atol=1e-6)
    assert np.isfinite(answer["logits"]).all()
    # On a command line such bytes are halves of surrogate pairs.
    predicted = tfbigmodel.predict(lstm, texts=["\udcff\udcfe书"])
    assert predicted["text"].tolist() == ["\ufffd\ufffd书"]
    np.testing.assert_allclose(predicted["probability"], answer["probabilities"][0].max(), atol=1e-6)


def test_pretraining_answers_alike_on_every_path(pretraining: Path, tmp_path: Path, served):
    texts = ["这书很[MASK]。", *TEXTS]
    loaded = fresh(pretraining, tmp_path, text=(texts, "object"))
    predicted = tfbigmodel.predict(pretraining, texts=texts)
    assert [text.decode() for text in loaded["text"]] == predicted["prediction"].tolist()
    assert "[MASK]" not in loaded["text"][0].decode()
    embedding = fresh(pretraining, tmp_path, "embedding", text=(texts, "object"))["embedding"]
    with served(pretraining / "exported") as client:
        answer = client.predict("m", {"text": np.array(texts, object)}, "embedding")
    np.testing.assert_allclose(answer["embedding"], embedding, atol=1e-6)
    assert answer["embedding"].shape == (len(texts), ENCODER["hidden_dim"])


def test_generation_answers_alike_on_every_path(generator: Path, tmp_path: Path, served):
    prompts = ["这书", "房间很", "", "😀", "a" * 1000]
    predicted = tfbigmodel.predict(generator, texts=prompts)
    loaded = fresh(generator, tmp_path, text=(prompts, "object"))
    assert [text.decode() for text in loaded["text"]] == predicted["prediction"].tolist()
    parameters = {
        "max_new_tokens": np.array([8, 12, 5, 20, 3], np.int32),
        "temperature": np.array([0, 1, 0.7, 1.3, 0], np.float32),
        "top_k": np.array([0, 5, 0, 0, 1], np.int32),
        "top_p": np.array([1, 1, 0.9, 0.5, 1], np.float32),
        "repetition_penalty": np.array([1, 1, 1.2, 1, 1], np.float32),
        "num_beams": np.array([1, 1, 1, 1, 1], np.int32),
        "seed": np.array([0, 1, 2, 3, 4], np.int64),
    }
    given = {name: (values.tolist(), values.dtype.name) for name, values in parameters.items()}
    loaded = fresh(generator, tmp_path, "generate", text=(prompts, "object"), **given)
    with served(generator / "exported") as client:
        answer = client.predict("m", {"text": np.array(prompts, object), **parameters}, "generate")
    assert answer["text"].tolist() == loaded["text"].tolist()
    np.testing.assert_allclose(answer["log_probability"], loaded["log_probability"], atol=1e-5)
    assert (answer["num_tokens"] <= parameters["max_new_tokens"]).all()


def test_a_run_goes_on_where_its_preset_is_gone(folder: Path, pretraining: Path, tmp_path: Path):
    workdir, preset = tmp_path / "run", tmp_path / "preset"
    shutil.copytree(pretraining / "preset", preset)
    model = {"chapter": "bert_classifier", "preset": str(preset)}
    data = {"data_dir": str(folder), "batch_size": 16, **table(tokenizer={"kind": "wordpiece", "sequence_length": 48})}
    values = {"data": data, "model": model, "training": {"epochs": 1}}
    tfbigmodel.train(resolve(validate_config(values, "run")), workdir)
    shutil.rmtree(preset)
    config = tfbigmodel.load_config(workdir / "config.yaml", ["training.epochs=2"])
    metrics = tfbigmodel.train(config, workdir)
    assert tfbigmodel.evaluate(workdir)["metrics"]["loss"] == metrics["test"]["loss"]
    with pytest.raises(UserError, match="--all_probabilities"):
        tfbigmodel.predict(pretraining, texts=["这书"], all_probabilities=True)


@pytest.mark.parametrize("chapter", ["lstm", "pretraining", "bert", "generator"])
def test_weights_are_stored_once(chapter: str, request: pytest.FixtureRequest):
    workdir = request.getfixturevalue(chapter)
    weights = sum(weight.numpy().nbytes for weight in tfbigmodel.load_model(workdir).variables)
    stored = sum(path.stat().st_size for path in (workdir / "exported/1/variables").iterdir())
    assert stored < 1.1 * weights + 20_000
