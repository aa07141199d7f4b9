import keras
import numpy as np
import pytest

from tfbigmodel.layers.masked_pooling import MaskedPooling

X = np.float32([[[1, -2], [3, -4], [90, 90]], [[5, 6], [90, 90], [90, 90]], [[90, 90], [90, 90], [90, 90]]])
MASK = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], np.int32)


@pytest.mark.parametrize(
    ("mode", "expected"), [("mean", [[2, -3], [5, 6], [0, 0]]), ("max", [[3, -2], [5, 6], [0, 0]])]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_real_steps_count(dtype, mode, expected):
    pooled = MaskedPooling(mode, dtype=dtype)(X, MASK)
    assert keras.backend.standardize_dtype(pooled.dtype) == dtype
    np.testing.assert_array_equal(keras.ops.cast(pooled, "float32"), expected)


def test_a_mean_over_many_steps_in_bfloat16():
    """Adding ones in bfloat16 stops at 256."""
    pooled = MaskedPooling("mean", dtype="bfloat16")(np.ones((1, 5000, 1)), np.ones((1, 5000), bool))
    assert float(pooled[0, 0]) == 1.0


def test_comes_back_inside_a_saved_model(tmp_path):
    inputs, mask = keras.Input((None, 2)), keras.Input((None,), dtype="int32")
    model = keras.Model([inputs, mask], MaskedPooling("max")(inputs, mask))
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")([X, MASK]), model([X, MASK]))


def test_an_unknown_mode():
    with pytest.raises(ValueError, match="mode is mean or max; received 'sum'"):
        MaskedPooling("sum")
