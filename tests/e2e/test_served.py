"""From raw input over gRPC to the same numbers as `predict`: what is served is what was trained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfbigmodel
from serving.client import ClientError
from serving.client.command import main as ask
from tfbigmodel.config import resolve, validate_config

REPOSITORY = Path(__file__).parents[2]


def train(workdir, data, **training):
    values = {
        "data": data,
        "model": {"chapter": "dense", "hidden_units": [16], "batch_norm": True, "dropout": 0.2},
        "training": {"epochs": 3, "optimizer": {"learning_rate": 0.01}, **training},
    }
    tfbigmodel.train(resolve(validate_config(values, "test")), workdir)
    return tfbigmodel.export(workdir, workdir / "exported").parent


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    rows = ["age,city,income,bought"]
    for _ in range(400):
        age, city, income = rng.integers(18, 80), rng.choice(["Paris", "北京", "Roma"]), rng.normal(40, 10)
        missing = rng.random() < 0.05
        rows.append(f"{age},{city},{'' if missing else round(income, 2)},{'会' if age + income > 90 else '不会'}")
    (folder / "people.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    data = {"source": "table", "path": str(folder / "people.csv"), "label": "bought", "missing": "median"}
    base = train(folder / "run", {**data, "batch_size": 32})
    return folder, base


def test_a_table_through_predict_and_through_the_server(table, served):
    folder, base = table
    frame = tfbigmodel.predict(folder / "run", folder / "people.csv", all_probabilities=True)
    inputs = {
        "age": frame["age"].to_numpy(np.float32),
        "city": frame["city"].to_numpy(object),
        "income": np.array([float(cell) if cell else np.nan for cell in frame["income"]], np.float32),
    }
    with served(base) as client:
        answer = client.predict("m", inputs)
        with pytest.raises(ClientError, match=r"Missing but required: \{city"):
            client.predict("m", {"age": inputs["age"], "income": inputs["income"]})
    probabilities = np.stack([frame["probability_不会"], frame["probability_会"]], axis=1)
    np.testing.assert_allclose(answer["probabilities"], probabilities, atol=1e-6)
    assert [label.decode() for label in answer["label"]] == frame["prediction"].tolist()
    assert set(answer) == {"label", "probabilities", "logits"}


def test_the_users_own_file_goes_to_the_client_as_it_is(table, served):
    """With the label's column and empty cells in it, as `predict` takes it."""
    folder, base = table
    frame = tfbigmodel.predict(folder / "run", folder / "people.csv")
    assert "" in frame["income"].tolist()
    with served(base) as client:
        command = [sys.executable, "-m", "serving.client", "--target", client.target, "--model", "m", "--input_file"]
        result = subprocess.run([*command, str(folder / "people.csv")], capture_output=True, text=True, check=True)
        typed = [*command[:-1], "--input", json.dumps({"age": 30, "city": None, "income": None}), "--timeout", "30"]
        assert subprocess.run(typed, capture_output=True, text=True).returncode == 0
        with subprocess.Popen([*command, str(folder / "people.csv")], stdout=-1, stderr=-1) as process:
            process.stdout.close()  # as `head` does when it has seen enough
            assert process.stderr.read() == b""
        assert process.returncode == 141
        ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
        escaped = subprocess.run(
            [*command, str(folder / "people.csv")], capture_output=True, check=True, env=ascii_only
        )
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert answers == [json.loads(line) for line in escaped.stdout.splitlines()]
    assert escaped.stdout.isascii()
    assert [answer["label"] for answer in answers] == frame["prediction"].tolist()


def test_images_through_predict_and_through_the_server(tmp_path, capsys, served):
    base = train(tmp_path / "run", {"source": "builtin", "name": "digits"})
    data = tfbigmodel.load_data(tfbigmodel.load_config(tmp_path / "run" / "config.yaml"))
    pixels = data.examples("test").features["pixels"][:20]
    files = []
    for number, image in enumerate(pixels):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(tf.io.encode_png(image).numpy())
    frame = tfbigmodel.predict(tmp_path / "run", images=files, all_probabilities=True)
    expected = frame[[f"probability_{digit}" for digit in range(10)]].to_numpy()
    with served(base) as client:
        encoded = client.predict("m", {"image": np.array([file.read_bytes() for file in files], object)})
        raw = client.predict("m", {"pixels": pixels}, signature="pixels")
        with pytest.raises(ClientError, match="image"):
            client.predict("m", {"image": np.array([b"this is no picture"], object)})
        asked = ["--target", client.target, "--model", "m", "--image"]
        assert ask([*asked, *map(str, files)]) == 0
        answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        broken = tmp_path / "broken.png"
        broken.write_bytes(files[0].read_bytes()[:40])
        for contents in (broken.read_bytes(), b"this is no picture"):
            broken.write_bytes(contents)
            assert ask([*asked, str(files[0]), str(broken)]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"error: {broken}: INVALID_ARGUMENT: ")
    assert [answer["image"] for answer in answers] == list(map(str, files))
    assert [answer["label"] for answer in answers] == frame["prediction"].tolist()
    np.testing.assert_allclose([answer["probability"] for answer in answers], frame["probability"], atol=1e-6)
    np.testing.assert_allclose(encoded["probabilities"], expected, atol=1e-6)
    np.testing.assert_allclose(raw["probabilities"], expected, atol=1e-6)
    # The third path: the batches that the model was trained on, through the plain Keras model.
    model = tfbigmodel.load_model(tmp_path / "run")
    features, _, _ = next(iter(data.test()))
    trained = tf.nn.softmax(model(features, training=False))[:20]
    np.testing.assert_allclose(trained, expected, atol=1e-6)


def test_a_regression_is_served_in_the_targets_units(tmp_path, served):
    rng = np.random.default_rng(1)
    x = rng.normal(size=300)
    (tmp_path / "houses.csv").write_text("size,price\n" + "".join(f"{v:.4f},{5000 + 800 * v:.2f}\n" for v in x))
    data = {"source": "table", "path": str(tmp_path / "houses.csv"), "label": "price", "task": "regression"}
    base = train(tmp_path / "run", {**data, "batch_size": 16})
    frame = tfbigmodel.predict(tmp_path / "run", tmp_path / "houses.csv")
    assert 4000 < frame["prediction"].mean() < 6000
    with served(base) as client:
        answer = client.predict("m", {"size": frame["size"].to_numpy(np.float32)})
    np.testing.assert_allclose(answer["prediction"], frame["prediction"], rtol=1e-6)


def test_a_threshold_is_part_of_what_is_served(table, tmp_path, served):
    folder, _ = table
    values = tfbigmodel.load_config(folder / "run" / "config.yaml").model_dump(mode="json")
    values["evaluation"]["threshold"] = 0.9
    values["training"]["epochs"] = 1
    tfbigmodel.train(resolve(validate_config(values, "test")), tmp_path / "run")
    base = tfbigmodel.export(tmp_path / "run", tmp_path / "exported").parent
    people = {"age": [20.0, 75.0], "city": ["北京", "Roma"], "income": [20.0, 70.0]}
    with served(base) as client:
        answer = client.predict("m", people)
    expected = ["会" if p >= 0.9 else "不会" for p in answer["probabilities"][:, 1]]
    assert [label.decode() for label in answer["label"]] == expected
    assert json.loads((base / "1" / "assets.extra" / "model.json").read_text())["threshold"] == 0.9


def test_columns_are_served_by_their_own_names_whatever_is_in_them(tmp_path, served):
    names = ["年龄", "sepal length (cm)", "_id", "Age", "age", "class"]
    rng = np.random.default_rng(2)
    values = rng.normal(size=(200, len(names))).astype(np.float32)
    rows = [",".join([*names, "标签"])]
    rows += [",".join([*(f"{v:.5f}" for v in row), "是" if row[0] > 0 else "否"]) for row in values]
    (tmp_path / "表.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    data = {"source": "table", "path": str(tmp_path / "表.csv"), "label": "标签", "batch_size": 16}
    base = train(tmp_path / "run", data)
    frame = tfbigmodel.predict(tmp_path / "run", tmp_path / "表.csv", all_probabilities=True)
    with served(base) as client:
        assert set(client.metadata("m").signatures["serving_default"].inputs) == set(names)
        answer = client.predict("m", {name: frame[name].to_numpy(np.float32) for name in names})
    np.testing.assert_allclose(answer["probabilities"][:, 1], frame["probability_是"], atol=1e-6)


def test_an_export_can_have_a_threshold_of_its_own(table, tmp_path, served):
    folder, _ = table
    base = tfbigmodel.export(folder / "run", tmp_path / "exported", threshold=0.01).parent
    people = {"age": [20.0, 75.0], "city": ["北京", "Roma"], "income": [20.0, 70.0]}
    with served(base) as client:
        answer = client.predict("m", people)
    assert [label.decode() for label in answer["label"]] == [
        "会" if p >= 0.01 else "不会" for p in answer["probabilities"][:, 1]
    ]


def test_the_quickstart_commands(tmp_path):
    """What `make quickstart` runs, from another folder, as a user would."""

    def run(*command):
        return subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=300, env=os.environ
        )

    for command in (
        ("-m", "tfbigmodel.train", "--config", str(REPOSITORY / "configs/dense.yaml"), "--workdir", "runs/q"),
        ("-m", "tfbigmodel.evaluate", "--workdir", "runs/q"),
        ("-m", "tfbigmodel.export", "--workdir", "runs/q"),
        (str(REPOSITORY / "examples/ask_server.py"), "--workdir", "runs/q", "--model_base_path", "exported/q"),
    ):
        result = run(*command)
        assert result.returncode == 0, result.stderr
    assert "the server has stopped" in result.stdout
    metrics = json.loads((tmp_path / "runs/q/metrics.json").read_text())
    assert metrics["test"]["accuracy"] >= 0.96
