"""Pictures for TensorBoard and for reports: the confusion matrix, a grid of images."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfbigmodel.evaluation.text import printable, shortened

# matplotlib's own font comes first; the others are those that systems with Chinese text commonly have.
_FONTS = (
    "DejaVu Sans",
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Microsoft YaHei", "SimHei", "DengXian", "SimSun"),
    *("PingFang SC", "Hiragino Sans GB", "Heiti SC", "Heiti TC", "STHeiti", "Arial Unicode MS", "Droid Sans Fallback"),
)
_DPI = 100
_ANNOTATED_CLASSES = 20
_LABELLED_CLASSES = 60
_NAME_WIDTH = 20
_GRID_COLUMNS = 5
_CELL_INCHES = 1.8
_LINE_INCHES = 0.15


def confusion_matrix_image(matrix: ArrayLike, class_names: Sequence[str]) -> NDArray[np.uint8]:
    """Draws a confusion matrix, coloured by each row's shares, with the counts in the cells up to 20 classes.

    Beyond 60 classes only some are named at the axes. Where no installed font has all the names' characters, classes
    are named by their index.

    Args:
        matrix: counts, rows true, columns predicted, `(num_classes, num_classes)`.
        class_names: the classes' names in the order of their indices.

    Returns:
        RGB pixels, `(height, width, 3)`, 500 to 1,500 each way.

    Raises:
        ValueError: the shapes disagree.
    """
    # The object API: pyplot would keep every figure alive and choose a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matrix = np.asarray(matrix, np.int64)
    count = len(class_names)
    if matrix.shape != (count, count):
        raise ValueError(f"the confusion matrix has shape {matrix.shape}; expected {(count, count)}")
    names = shown_names(class_names)
    inches = float(np.clip(3 + 0.45 * count, 5, 15))
    figure = Figure(figsize=(inches, inches), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    # By the root of the share, so that a confusion of a few percent is seen.
    axes.imshow(shares**0.5, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    ticks = np.arange(0, count, -(-count // _LABELLED_CLASSES))
    shown = [names[index] for index in ticks]
    # Class names are user data: "$" in them starts no formula.
    family = _fonts_for("".join(names))
    text: dict[str, Any] = {"family": family, "fontsize": 10 if count <= 30 else 7, "parse_math": False}
    axes.set_xticks(ticks, shown, rotation=0 if max(map(len, shown)) <= 2 else 90, **text)
    axes.set_yticks(ticks, shown, **text)
    if count <= _ANNOTATED_CLASSES:
        # A digit is about 0.6 of its font's size wide; the axes take some 0.7 of the figure.
        cell = 0.7 * 72 * inches / count
        size = min(11.0, 0.9 * cell / (0.6 * len(str(matrix.max()))))
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.4 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=size)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def image_grid(images: Sequence[NDArray[np.uint8]], captions: Sequence[str]) -> NDArray[np.uint8]:
    """Draws images in rows of up to five, each with its caption above it.

    Args:
        images: uint8, `(height, width, 1)` or `(height, width, 3)` each; small ones are enlarged without smoothing.
        captions: a few short lines for each, of the names that `shown_names` gives.

    Returns:
        RGB pixels, `(height, width, 3)`, about 180 each way for an image.

    Raises:
        ValueError: there are no images, or not as many captions.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not images or len(images) != len(captions):
        raise ValueError(f"{len(images)} images and {len(captions)} captions; expected as many, and at least one")
    num_columns = min(len(images), _GRID_COLUMNS)
    num_rows = -(-len(images) // num_columns)
    lines = max(caption.count("\n") + 1 for caption in captions)
    size = (_CELL_INCHES * num_columns, (_CELL_INCHES + _LINE_INCHES * lines) * num_rows)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    family = _fonts_for("".join(captions)) or ["DejaVu Sans"]
    for place, (image, caption) in enumerate(zip(images, captions, strict=True), 1):
        axes = figure.add_subplot(num_rows, num_columns, place)
        axes.set_axis_off()
        pixels = image[..., 0] if image.shape[-1] == 1 else image
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(caption, family=family, fontsize=8, parse_math=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def shown_names(class_names: Sequence[str]) -> list[str]:
    """Class names as they are drawn: on one line, cut; their indices where no installed font has all characters."""
    names = [shortened(printable(name), _NAME_WIDTH) for name in class_names]
    return names if _fonts_for("".join(names)) is not None else [str(index) for index in range(len(names))]


def png(image: NDArray[np.uint8]) -> bytes:
    """An image as a PNG file: uint8 `(height, width, 1)` or `(height, width, 3)`."""
    from io import BytesIO

    from matplotlib.image import imsave

    stream = BytesIO()
    imsave(stream, np.broadcast_to(image, (*image.shape[:2], 3)), format="png")
    return stream.getvalue()


def _fonts_for(text: str) -> list[str] | None:
    """The fewest of the known and installed fonts that have all characters of `text`; None where some are in none."""
    missing = {ord(char) for char in text if not char.isspace()}
    fonts = ["DejaVu Sans"]
    missing -= _characters("DejaVu Sans")
    for name in _FONTS[1:]:
        if not missing:
            break
        found = missing & _characters(name)
        if found:
            fonts.append(name)
            missing -= found
    return None if missing else fonts


@lru_cache(maxsize=len(_FONTS))
def _characters(font: str) -> frozenset[int]:
    """The code points that an installed font has; none where it is not installed."""
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    # Asked by name and not through findfont, which would log a warning and answer with another font.
    for entry in fontManager.ttflist:
        if entry.name == font:
            return frozenset(FT2Font(entry.fname).get_charmap())
    return frozenset()
