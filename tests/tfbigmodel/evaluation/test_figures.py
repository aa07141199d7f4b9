import io
import logging
import warnings

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from tfbigmodel.evaluation import figures
from tfbigmodel.evaluation.figures import confusion_matrix_image, image_grid, png, shown_names


def matrix_of(count, value=100):
    return np.full((count, count), 3) + np.diag(np.full(count, value))


@pytest.fixture(autouse=True)
def _quiet(caplog):
    """No glyph or font warning, and no process-wide state changed."""
    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        yield
    assert not caplog.records
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("count", [2, 10, 50])
def test_shape(count):
    image = confusion_matrix_image(matrix_of(count), [f"class {index}" for index in range(count)])
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert 500 <= image.shape[0] <= 1500
    assert image.flags.c_contiguous


def test_diagonal_is_darker():
    perfect = confusion_matrix_image(np.diag([9] * 30), [str(index) for index in range(30)])
    empty = confusion_matrix_image(np.zeros((30, 30), int), [str(index) for index in range(30)])
    assert perfect.mean() < empty.mean()


def test_the_same_twice():
    names = ["a", "b"]
    np.testing.assert_array_equal(
        confusion_matrix_image(matrix_of(2), names), confusion_matrix_image(matrix_of(2).tolist(), names)
    )


def test_names_that_are_no_formula_and_have_no_line():
    confusion_matrix_image(matrix_of(3), ["$\\frac{", "a\nb\ud800", "x" * 500])


def test_without_a_font_for_the_names_classes_are_numbered(monkeypatch):
    monkeypatch.setattr(figures, "_FONTS", ("DejaVu Sans",))
    by_index = confusion_matrix_image(matrix_of(2), ["0", "1"])
    np.testing.assert_array_equal(confusion_matrix_image(matrix_of(2), ["差评", "好评"]), by_index)


def test_chinese_names_with_whatever_is_installed():
    confusion_matrix_image(matrix_of(2), ["差评", "好评"])


def test_takes_the_first_fonts_that_have_all_characters(monkeypatch):
    installed = {"DejaVu Sans": "abc", "SimHei": "差", "PingFang SC": "差评"}
    monkeypatch.setattr(figures, "_characters", lambda font: frozenset(map(ord, installed.get(font, ""))))
    assert figures._fonts_for("a b") == ["DejaVu Sans"]
    assert figures._fonts_for("a差") == ["DejaVu Sans", "SimHei"]
    assert figures._fonts_for("差评") == ["DejaVu Sans", "SimHei", "PingFang SC"]
    assert figures._fonts_for("好") is None


def test_refuses_another_shape():
    with pytest.raises(ValueError, match=r"shape \(2, 2\); expected \(3, 3\)"):
        confusion_matrix_image(matrix_of(2), ["a", "b", "c"])


def test_a_grid_holds_every_image_as_it_is():
    images = [
        np.full((8, 8, 3), 0, np.uint8),
        np.full((8, 8, 1), 100, np.uint8),
        np.full((16, 8, 3), [250, 0, 9], np.uint8),
    ]
    grid = image_grid(images, ["", "", ""])
    assert (grid.dtype, grid.shape[1:]) == (np.uint8, (540, 3))
    colours = {tuple(colour) for colour in grid.reshape(-1, 3)}
    # Neither scaled to the image's own range nor smoothed.
    assert {(0, 0, 0), (100, 100, 100), (250, 0, 9)} <= colours
    assert len(grid[(grid == [250, 0, 9]).all(axis=2)]) < len(grid[(grid == 100).all(axis=2)])  # it is narrower


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (5, 5, 1), (6, 5, 2), (25, 5, 5)])
def test_a_grid_has_rows_of_five(count, columns, rows):
    one = image_grid([np.zeros((8, 8, 1), np.uint8)], ["a"]).shape
    grid = image_grid([np.zeros((8, 8, 1), np.uint8)] * count, ["a"] * count)
    assert grid.shape == (rows * one[0], columns * one[1], 3)


def test_captions_take_room_and_are_no_formula():
    image = np.zeros((8, 8, 1), np.uint8)
    assert image_grid([image], ["a\nb"]).shape[0] > image_grid([image], ["$\\frac{"]).shape[0]
    image_grid([image], [f"true: {shown_names(['差评'])[0]} (0.5)"])


def test_names_without_a_font_are_shown_as_indices(monkeypatch):
    assert shown_names(["cat", "a\nb", "x" * 30]) == ["cat", "a\\nb", "x" * 18 + ".."]
    monkeypatch.setattr(figures, "_FONTS", ("DejaVu Sans",))
    assert shown_names(["cat", "猫"]) == ["0", "1"]


def test_a_grid_refuses_other_captions():
    for images in ([], [np.zeros((8, 8, 1), np.uint8)]):
        with pytest.raises(ValueError, match="images and 2 captions; expected as many"):
            image_grid(images, ["a", "b"])
    with pytest.raises(ValueError, match="at least one"):
        image_grid([], [])


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_pixel(channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    decoded = matplotlib.image.imread(io.BytesIO(png(image)))[..., :3]
    np.testing.assert_array_equal(np.round(decoded * 255), np.broadcast_to(image, (5, 7, 3)))
