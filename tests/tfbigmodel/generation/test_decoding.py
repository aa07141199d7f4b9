"""The cache changes nothing but the time."""

import numpy as np
import pytest
import tensorflow as tf

from tfbigmodel.generation.decoding import cached_decoder, uncached_decoder

NEW = np.int32([[5, 9, 7], [8, 6, 6], [12, 13, 5]])


def logits_of(decoder, new):
    """The logits of the first new token, and after each of `new` `(batch_size, num_new)`."""
    logits, state = [decoder.logits], decoder.state
    for number in range(new.shape[1]):
        following, state = decoder.step(tf.constant(new[:, number]), tf.constant(number), state)
        logits.append(following)
    return np.stack(logits, axis=1)


def with_encoder(prompts):
    ids = np.int32([[2, 9, 3, 0], [2, 5, 6, 3], [2, 3, 0, 0]])
    return {
        "token_ids": tf.fill([3, 1], 2),
        "padding_mask": tf.ones([3, 1], tf.int32),
        "encoder_token_ids": tf.constant(ids),
        "encoder_segment_ids": tf.zeros([3, 4], tf.int32),
        "encoder_padding_mask": tf.constant(np.int32(ids > 0)),
    }


@pytest.mark.parametrize("encoder", [False, True])
def test_each_text_gets_the_logits_of_the_whole_model(tiny_model, prompts, encoder):
    model = tiny_model(encoder=encoder)
    prompts = with_encoder(prompts) if encoder else prompts
    cached = logits_of(cached_decoder(model, prompts, tf.constant(3)), NEW)
    lengths = prompts["padding_mask"].numpy().sum(axis=1)
    for row, length in enumerate(lengths):
        # The text by itself, without neighbours or padding, through the model as it is trained.
        token_ids = np.concatenate([prompts["token_ids"][row, :length], NEW[row]])[np.newaxis]
        inputs = {name: tensor[row : row + 1] for name, tensor in prompts.items()}
        inputs |= {"token_ids": tf.constant(token_ids), "padding_mask": tf.ones_like(token_ids)}
        np.testing.assert_allclose(cached[row], model(inputs)[0, length - 1 :], atol=1e-5)
    uncached = logits_of(uncached_decoder(model, prompts, tf.constant(3)), NEW)
    np.testing.assert_allclose(cached, uncached, atol=1e-5)


def test_a_text_that_has_ended_may_run_beyond_the_last_position(tiny_model, prompts):
    model = tiny_model(sequence_length=8)
    short, long = (logits_of(make(model, prompts, tf.constant(6)), np.tile(NEW, 2)) for make in
                   (cached_decoder, uncached_decoder))  # fmt: skip
    np.testing.assert_allclose(short[:, :4], long[:, :4], atol=1e-5)  # 5 + 3 tokens fill the 8 positions
    np.testing.assert_allclose(short[1], long[1], atol=1e-5)
    assert np.isfinite(short).all()
