"""Texts with `[MASK]` in them → the same texts with tokens in its place, in the graph."""

import keras
import numpy as np
import tensorflow as tf

from pipelines.text.cleaning import clean, repair
from pipelines.text.preprocess import TextPreprocessor

MASK = "[MASK]"
# Characters that are looked at, for each token that is kept: a bound on the work that a request can ask for.
_CHARACTERS_PER_TOKEN = 64


def fill_masks(text: tf.Tensor, model: keras.Model, preprocess: TextPreprocessor) -> tf.Tensor:
    """Puts the likeliest token in place of each `[MASK]`; special tokens are not likely.

    Args:
        text: any bytes, string `(batch_size,)`.
        model: from `token_ids`, `segment_ids`, `padding_mask` and `mask_positions` to `masked_logits`.
        preprocess: cleans texts and cuts them into tokens.

    Returns:
        string `(batch_size,)`: the texts as they were, but for the masks within the sequence length.
    """
    tokenizer, special = preprocess.tokenizer, preprocess.tokenizer.special_ids
    pieces = tf.strings.split(repair(text), MASK)
    rows = pieces.value_rowids()
    place = tf.range(tf.size(rows, tf.int64), dtype=tf.int64) - tf.gather(pieces.row_starts(), rows)
    is_last = tf.equal(place + 1, tf.gather(pieces.row_lengths(), rows))

    # Tokenisers would cut the mask itself into brackets and letters.
    seen = tf.strings.substr(
        pieces.flat_values, 0, preprocess.sequence_length * _CHARACTERS_PER_TOKEN, unit="UTF8_CHAR"
    )
    ids = tokenizer(clean(seen, preprocess.cleaning))
    masks = tf.RaggedTensor.from_row_lengths(
        tf.fill([tf.math.count_nonzero(~is_last)], special["mask"]), tf.cast(~is_last, tf.int64)
    )
    ids = pieces.with_flat_values(tf.concat([ids, masks], axis=1)).merge_dims(1, 2)
    ends = tf.fill([pieces.nrows(), 1], special["end"])
    ids = tf.concat([tf.fill(tf.shape(ends), special["start"]), ids[:, : preprocess.sequence_length - 2], ends], axis=1)
    token_ids = ids.to_tensor(special["pad"])

    found = tf.where(tf.equal(token_ids, special["mask"]))
    positions = tf.RaggedTensor.from_value_rowids(found[:, 1], found[:, 0], pieces.nrows())
    num_found = positions.row_lengths()
    # One column at least, also where no text has a mask.
    positions = tf.pad(positions.to_tensor(), [[0, 0], [0, 1]])
    outputs = model(
        {
            "token_ids": token_ids,
            "segment_ids": tf.zeros_like(token_ids),
            "padding_mask": tf.sequence_mask(ids.row_lengths(), tf.shape(token_ids)[1], tf.int32),
            "mask_positions": tf.cast(positions, tf.int32),
        },
        training=False,
    )
    likeliest = tf.argmax(outputs["masked_logits"] + _never_special(preprocess), axis=-1)
    tokens = tf.gather(tf.constant([token.removeprefix("##") for token in tokenizer.vocabulary]), likeliest)

    last_column = tf.shape(tokens, tf.int64)[1] - 1
    filled = tf.gather_nd(tokens, tf.stack([rows, tf.minimum(place, last_column)], axis=1))
    filled = tf.where(place < tf.gather(num_found, rows), filled, MASK)
    joined = tf.strings.join([pieces.flat_values, tf.where(is_last, "", filled)])
    return tf.strings.reduce_join(pieces.with_flat_values(joined), axis=1)


def _never_special(preprocess: TextPreprocessor) -> tf.Tensor:
    penalties = np.zeros(len(preprocess.tokenizer.vocabulary), np.float32)
    penalties[list(preprocess.tokenizer.special_ids.values())] = -np.inf
    return tf.constant(penalties)
