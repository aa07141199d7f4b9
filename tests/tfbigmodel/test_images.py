"""What users see of images: a run on a folder of files, measured, shown, predicted and exported."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tfbigmodel
from pipelines.data import Examples
from pipelines.errors import UserError
from pipelines.images.files import ImageFiles
from pipelines.images.preprocess import ImagePreprocessor
from tfbigmodel import evaluate, predict
from tfbigmodel.answers import answer_columns, csv_text, json_lines
from tfbigmodel.config import resolve, validate_config
from tfbigmodel.evaluation.figures import png
from tfbigmodel.inference import batch_size_for, load_inference
from tfbigmodel.measuring import evenly, model_inputs, shrunk_size, taken
from tfbigmodel.pictures import inputs_grid, thumbnails
from tfbigmodel.workdir import Workdir

CLASSES = ("cat", "dog", "猫")
SIDE = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Noise of three colours, in which a model has much to confuse: 30 images a class, 128 × 128."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for index, name in enumerate(CLASSES):
        (root / name).mkdir()
        for number in range(30):
            small = random.integers(0, 230, (8, 8, 3))
            small[..., index] += 25
            image = np.kron(small, np.ones((16, 16, 1))).astype(np.uint8)
            (root / name / f"{number:02d}.png").write_bytes(png(image))
    return root


def configured(folder: Path, cache: Path, **sections):
    values = {
        "data": {
            "source": "image_folder",
            "path": str(folder),
            "cache_dir": str(cache),
            "images": {"size": SIDE, "channels": 3},
            "batch_size": 8,
            "split": {"validation": 0.2, "test": 0.3, "seed": 1},
        },
        "model": {"chapter": "dense", "hidden_units": [4]},
        "training": {"epochs": 1, "jit_compile": False},
        "evaluation": {"worst_errors": 7, "baseline_examples": 20},
    }
    for name, section in sections.items():
        values[name] = {**values[name], **section}
    return resolve(validate_config(values, "test"))


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("images")
    tfbigmodel.train(configured(folder, base / "cache"), base / "run")
    return base / "run"


@pytest.fixture(scope="module")
def results(run):
    return evaluate.evaluate(run)


def pictures_of(run: Path, split: str) -> dict[str, tuple[int, np.ndarray]]:
    accumulator = EventAccumulator(str(run / "tensorboard" / split), size_guidance={"tensors": 0})
    accumulator.Reload()
    pictures = {}
    for tag in accumulator.Tags()["tensors"]:
        (event, *_) = accumulator.Tensors(tag)
        if len(event.tensor_proto.string_val) == 3:
            pictures[tag] = event.step, imread(io.BytesIO(event.tensor_proto.string_val[2]))
    return pictures


def test_tensorboard_shows_the_inputs_and_the_worst_errors(run):
    ((tag, (step, grid)),) = pictures_of(run, "train").items()
    assert (tag, step) == ("inputs/augmented", 0)
    assert grid.shape[1] == 900  # five in a row
    pictures = pictures_of(run, "validation")
    assert set(pictures) == {f"{name}/{split}" for name in ("confusion_matrix", "worst_errors") for split in
                             ("validation", "test")}  # fmt: skip
    steps, grids = zip(*(pictures[f"worst_errors/{split}"] for split in ("validation", "test")), strict=True)
    assert set(steps) == {45 // 8}
    assert {grid.shape[1] for grid in grids} == {900}


def test_inputs_are_shown_as_the_model_sees_them(folder, tmp_path):
    config = configured(folder, tmp_path, data={"images": {"size": SIDE, "channels": 3, "normalization": "imagenet"}})
    plain = configured(folder, tmp_path)
    # Denormalised they are the files' pixels again, so that normalisation does not show.
    np.testing.assert_array_equal(inputs_grid(tfbigmodel.load_data(config)), inputs_grid(tfbigmodel.load_data(plain)))


def test_shares_of_mixed_inputs_are_shown(folder, tmp_path):
    plain = inputs_grid(tfbigmodel.load_data(configured(folder, tmp_path)))
    mixed = inputs_grid(tfbigmodel.load_data(configured(folder, tmp_path, data={"augmentation": {"mixup": 1.0}})))
    assert mixed.shape[0] > plain.shape[0]  # captions of two lines


def _html_of(run: Path) -> str:
    evaluate.evaluate(run)
    return (run / "evaluation" / "test.html").read_text(encoding="utf-8")


def test_there_is_nothing_to_show_of_a_table(tmp_path):
    (tmp_path / "t.csv").write_text(
        "a,label\n" + "".join(f"{n % 7},{'no' if n % 7 < 3 else 'yes'}\n" for n in range(60))
    )
    data = {"source": "table", "path": str(tmp_path / "t.csv"), "label": "label", "batch_size": 8}
    values = {"data": data, "model": {"chapter": "dense"}, "training": {"epochs": 1, "jit_compile": False}}
    config = resolve(validate_config(values, "test"))
    assert inputs_grid(tfbigmodel.load_data(config)) is None
    tfbigmodel.train(config, tmp_path / "run")
    assert pictures_of(tmp_path / "run", "train") == {}
    assert set(pictures_of(tmp_path / "run", "validation")) == {"confusion_matrix/validation", "confusion_matrix/test"}
    assert "<img" not in _html_of(tmp_path / "run")


def test_worst_errors_name_their_files(run, folder, results):
    assert len(results["worst_errors"]) == 7
    for error in results["worst_errors"]:
        path = Path(error["file"])
        assert path.is_file()
        assert path.parent == folder / error["label"]
    by_path = predict.predict(run, images=[error["file"] for error in results["worst_errors"]])
    assert list(by_path["prediction"]) == [error["predicted"] for error in results["worst_errors"]]
    assert list(by_path["probability"]) == pytest.approx([e["probability_predicted"] for e in results["worst_errors"]])


def test_the_report_shows_the_worst_errors(run, results):
    html = (run / "evaluation" / "test.html").read_text(encoding="utf-8")
    shown = re.findall(r'<td><img src="data:image/png;base64,([A-Za-z0-9+/=]+)" alt=""></td>', html)
    assert len(shown) == html.count("<img") == 7
    for content, error in zip(shown, results["worst_errors"], strict=True):
        picture = imread(io.BytesIO(base64.b64decode(content)))[..., :3]
        assert picture.shape == (96, 96, 3)
        original = imread(error["file"])[..., :3]
        assert picture.mean() == pytest.approx(original.mean(), abs=2 / 255)
        assert error["file"] in html
    assert "<script" not in html


def test_the_terminal_shows_the_whole_path(run, results, capfd):
    assert evaluate.main(["--workdir", str(run)]) == 0
    out = capfd.readouterr().out
    lines = out.split("Worst errors")[1].splitlines()
    assert lines[1].split()[-1] == "file"
    assert [line.split()[-1] for line in lines[3:10]] == [error["file"] for error in results["worst_errors"]]


def test_baselines_see_few_and_small_images_and_it_is_said(run, results, capfd):
    regression = results["baselines"]["logistic_regression"]
    assert (regression["train_examples"], regression["inputs"]) == (20, "32 × 32 pixels")
    assert results["baselines"]["majority_class"]["train_examples"] == 45
    assert evaluate.main(["--workdir", str(run)]) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert re.search(r"a logistic regression on 32 × 32 pixels: \d", out)
    assert "* logistic regression on 32 × 32 pixels: fitted on 20 training examples" in out
    assert "a logistic regression on 32 × 32 pixels" in (run / "evaluation" / "test.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("shape", "size"), [((8, 8, 1), None), ((32, 32, 3), None), ((224, 224, 3), (32, 32)), ((64, 8, 1), (32, 8))]
)
def test_only_larger_images_are_shrunk(shape, size):
    assert shrunk_size(ImagePreprocessor(*shape)) == size


def test_what_baselines_see_is_the_mean_of_the_pixels_covered(run, folder):
    module, _ = load_inference(Workdir(run))
    paths = [str(folder / "cat" / f"{number:02d}.png") for number in range(20)]
    inputs = model_inputs(module, Examples({"image": ImageFiles(paths)}, None, "", np.arange(20)))
    images = np.stack([imread(path)[..., :3] for path in paths])  # from 0 to 1, as the model takes them
    means = images.reshape(20, 32, 4, 32, 4, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(inputs, means.reshape(20, -1), atol=1e-5)


def test_files_are_read_only_when_they_are_needed(run, folder):
    there = [str(path) for path in sorted((folder / "dog").iterdir())][:5]
    files = ImageFiles([there[index // 4] if index % 4 == 0 else f"gone/{index}.png" for index in range(17)])
    examples = Examples({"image": files}, np.arange(17), "", np.arange(100, 117))
    few = evenly(examples, 5)
    assert few.features["image"].paths == there
    assert few.rows.tolist() == [100, 104, 108, 112, 116]
    assert few.labels.tolist() == [0, 4, 8, 12, 16]
    module, _ = load_inference(Workdir(run))
    assert model_inputs(module, few).shape == (5, 32 * 32 * 3)
    assert len(module.predict(few, batch_size=2)["label"]) == 5
    with pytest.raises(FileNotFoundError):
        module.predict(taken(examples, np.array([0, 1])))


@pytest.mark.parametrize(
    ("shape", "batch_size"),
    [((8, 8, 1), 256), ((32, 32, 3), 256), ((224, 224, 3), 32), ((512, 512, 3), 6), ((2048, 2048, 3), 1)],
)
def test_larger_images_go_in_smaller_batches(shape, batch_size):
    for names in ({"image"}, {"pixels"}):
        assert batch_size_for(ImagePreprocessor(*shape), names) == batch_size


def test_thumbnails_keep_proportions_and_small_images(run):
    assert thumbnails(ImagePreprocessor(8, 8, 1), Examples({}, None, "", ()), []) == []
    pixels = np.arange(2 * 200 * 100, dtype=np.uint32).astype(np.uint8).reshape(2, 200, 100, 1)
    examples = Examples({"pixels": pixels}, None, "", np.array([5, 9]))
    (picture,) = thumbnails(ImagePreprocessor(200, 100, 1), examples, [{"row": 9}])
    assert (picture.shape, picture.dtype) == ((96, 48, 1), np.uint8)
    small = pixels[:, :8, :8]
    (picture,) = thumbnails(ImagePreprocessor(8, 8, 1), Examples({"pixels": small}, None, "", (5, 9)), [{"row": 9}])
    np.testing.assert_array_equal(picture, small[1])


def test_predict_takes_a_folder(run, folder, tmp_path, capfd):
    (tmp_path / "below").mkdir()
    image = (folder / "cat" / "00.png").read_bytes()
    for name in ("b.PNG", "a.png", ".hidden.png", "below/c.png"):
        (tmp_path / name).write_bytes(image)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    other = folder / "dog" / "03.png"
    assert predict.main(["--workdir", str(run), "--image", str(other), str(tmp_path)]) == 0
    answers = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [answer["image"] for answer in answers] == [str(p) for p in (other, tmp_path / "a.png", tmp_path / "b.PNG")]
    assert answers[1]["probability"] == answers[2]["probability"]
    alone = predict.predict(run, images=[tmp_path / "a.png"])
    assert answers[1]["probability"] == pytest.approx(float(alone["probability"][0]), rel=1e-6)


def test_predict_tells_of_a_folder_without_images(run, tmp_path, capfd):
    (tmp_path / "notes.txt").write_text("no image")
    assert predict.main(["--workdir", str(run), "--image", str(tmp_path)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    told = f"{tmp_path} has no images (.jpg, .jpeg, .png, .bmp, .gif); folders below it are not searched"
    assert line.endswith(told)
    with pytest.raises(UserError, match="has no images"):
        predict.predict(run, images=[tmp_path])


def test_images_of_any_size_are_predicted(run, tmp_path):
    for name, shape in {"wide.png": (20, 300, 3), "small.png": (1, 1, 3), "grey.png": (128, 128, 1)}.items():
        (tmp_path / name).write_bytes(tf.io.encode_png(tf.fill(shape, tf.constant(200, tf.uint8))).numpy())
    frame = predict.predict(run, images=[tmp_path])
    # All one grey, they are the same to the model.
    assert frame["probability"].nunique() == 1
    assert [Path(path).name for path in frame["image"]] == ["grey.png", "small.png", "wide.png"]


def test_the_likeliest_classes_are_a_column(run, tmp_path):
    outputs = {
        "label": np.array([b"dog", "猫".encode()], object),
        "probabilities": np.float32([[0.25, 0.7, 0.05], [0.1, 0.2, 0.7]]),
        "top_labels": np.array([[b"dog", b"cat"], ["猫".encode(), b"dog"]], object),
        "top_probabilities": np.float32([[0.7, 0.25], [0.7, 0.2]]),
    }
    columns = answer_columns(outputs, Workdir(run).info(), all_probabilities=False)
    assert list(columns) == ["prediction", "probability", "top"]
    assert columns["top"] == [{"dog": np.float32(0.7), "cat": 0.25}, {"猫": np.float32(0.7), "dog": np.float32(0.2)}]
    assert list(columns["top"][0]) == ["dog", "cat"]
    frame = pd.DataFrame({"image": ["a.png", "b.png"], **columns})
    assert [json.loads(line)["top"] for line in json_lines(frame)] == [
        {"dog": 0.7, "cat": 0.25},
        {"猫": 0.7, "dog": 0.2},
    ]
    assert next(json_lines(frame)).endswith('"probability": 0.7, "top": {"dog": 0.7, "cat": 0.25}}\n')
    assert csv_text(frame) == (
        "\ufeffimage,prediction,probability,top\n"
        "a.png,dog,0.7,dog 0.7000; cat 0.2500\n"
        "b.png,猫,0.7,猫 0.7000; dog 0.2000\n"
    )


def test_an_export_says_how_it_sees_images(run, tmp_path):
    version = tfbigmodel.export(run, tmp_path / "exported")
    description = json.loads((version / "assets.extra" / "model.json").read_text(encoding="utf-8"))
    expected = {"height": SIDE, "width": SIDE, "channels": 3, "resize": "stretch", "normalization": "zero_to_one"}
    assert description["image"] == expected
    pixels = tf.saved_model.load(str(version)).signatures["pixels"].structured_input_signature[1]["pixels"]
    assert pixels.shape.as_list() == [None, *(expected[key] for key in ("height", "width", "channels"))]
