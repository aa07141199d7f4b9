import keras
import numpy as np
import pytest

from tfbigmodel.layers.token_dropout import TokenDropout

IDS = np.tile(np.arange(5, 25, dtype=np.int32), (500, 5))


def test_nothing_happens_outside_training():
    layer = TokenDropout(0.5, unknown_id=1, seed=1)
    np.testing.assert_array_equal(layer(IDS), IDS)
    np.testing.assert_array_equal(TokenDropout(0.0, unknown_id=1)(IDS, training=True), IDS)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_share_is_replaced_and_the_rest_is_left(rate):
    layer = TokenDropout(rate, unknown_id=1, seed=1)
    ids = keras.ops.convert_to_numpy(layer(IDS, training=True))
    replaced = ids != IDS
    assert ids.dtype == np.int32
    assert set(ids[replaced]) == {1}
    deviation = np.sqrt(rate * (1 - rate) / IDS.size)
    assert replaced.mean() == pytest.approx(rate, abs=4 * deviation)
    # Every place and every text in equal shares.
    assert replaced.mean(axis=0) == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / 500))


def test_the_seed_fixes_the_choice_and_each_call_makes_another():
    first, second = (TokenDropout(0.5, unknown_id=1, seed=3) for _ in range(2))
    a, b = first(IDS, training=True), second(IDS, training=True)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first(IDS, training=True), a)
    assert not np.array_equal(TokenDropout(0.5, unknown_id=1, seed=4)(IDS, training=True), a)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_large_ids_pass_unharmed_under_any_policy(dtype):
    """In bfloat16 an id above 256 would become another one."""
    ids = np.arange(30_000, dtype=np.int32)[None]
    np.testing.assert_array_equal(TokenDropout(0.1, unknown_id=1, dtype=dtype)(ids), ids)
    kept = keras.ops.convert_to_numpy(TokenDropout(0.1, unknown_id=1, seed=1, dtype=dtype)(ids, training=True))
    np.testing.assert_array_equal(kept[kept != 1], ids[kept != 1])


def test_comes_back_from_its_configuration_and_inside_a_saved_model(tmp_path):
    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, TokenDropout(0.25, unknown_id=7, seed=3)(inputs))
    model.save(tmp_path / "model.keras")
    layer = keras.models.load_model(tmp_path / "model.keras").layers[1]
    assert (layer.rate, layer.unknown_id, layer.seed) == (0.25, 7, 3)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_that_is_no_share(rate):
    with pytest.raises(ValueError, match=f"rate is a share of the tokens, from 0 to below 1; received {rate}"):
        TokenDropout(rate, unknown_id=1)
