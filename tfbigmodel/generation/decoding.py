"""A model as a function from the last token to the logits of the next one."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import keras
import tensorflow as tf

from tfbigmodel.layers.decoder_block import DecoderBlock

State: TypeAlias = Any
Step: TypeAlias = Callable[[tf.Tensor, tf.Tensor, State], tuple[tf.Tensor, State]]


class Decoder(NamedTuple):
    """Texts that are being written.

    Attributes:
        logits: of each text's first new token, float32 `(batch_size, vocabulary_size)`.
        state: what `step` remembers: nested tensors whose first dimension is the batch.
        step: `step(tokens, number, state)`, where `tokens` `(batch_size,)` is the new token of that number, from 0,
            gives the logits of the token after it, and the state with it.
    """

    logits: tf.Tensor
    state: State
    step: Step


def cached_decoder(model: keras.Model, prompt: Mapping[str, tf.Tensor], max_new_tokens: tf.Tensor) -> Decoder:
    """A decoder that computes each token once.

    The cache has one slot for each place of the padded prompts and for each new token, from the start: a tensor that
    grew would be copied at every token, and give every one another shape. New tokens of all texts share a slot, so
    shorter prompts have a gap between them and their continuation, which no token sees: positions do not count it.

    Args:
        model: of the text_generator chapter.
        prompt: the model's inputs, `(batch_size, prompt_length)`; padding at the end.
        max_new_tokens: the most tokens that any text gets, int32 scalar; sets the cache's size.
    """
    embedding, blocks, norm = model.get_layer("embedding"), _blocks(model), model.get_layer("norm")
    padding_mask = tf.cast(prompt["padding_mask"], tf.bool)
    prompt_length = tf.shape(padding_mask)[1]
    num_slots = prompt_length + max_new_tokens
    read = _encoded(model, blocks, prompt)

    hidden = embedding(prompt["token_ids"])
    caches = []
    for block, memory in zip(blocks, _memories(read, blocks), strict=True):
        hidden, states = block.prefill(hidden, padding_mask, memory, read.get("memory_mask"))
        caches.append(tuple(tf.pad(part, [[0, 0], [0, 0], [0, max_new_tokens], [0, 0]]) for part in states))
    lengths = tf.reduce_sum(tf.cast(padding_mask, tf.int32), axis=1)
    last = tf.gather(hidden, lengths - 1, batch_dims=1)
    logits = embedding(norm(last), reverse=True)
    state = {"caches": caches, "lengths": lengths, **read}

    def step(tokens: tf.Tensor, number: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        slots, slot = tf.range(num_slots), prompt_length + number
        visible = (slots < state["lengths"][:, tf.newaxis]) | ((slots >= prompt_length) & (slots <= slot))
        # A text that has ended may be carried on beyond the last position while others are being written.
        positions = tf.minimum(state["lengths"] + number, embedding.num_positions - 1)
        hidden = embedding(tokens[:, tf.newaxis], positions=positions[:, tf.newaxis])
        caches = []
        for block, cache, memory in zip(blocks, state["caches"], _memories(state, blocks), strict=True):
            hidden, cache = block.step(hidden, cache, slot, visible, memory, state.get("memory_mask"))
            caches.append(cache)
        return embedding(norm(hidden[:, 0]), reverse=True), {**state, "caches": caches}

    return Decoder(logits, state, step)


def uncached_decoder(model: keras.Model, prompt: Mapping[str, tf.Tensor], max_new_tokens: tf.Tensor) -> Decoder:
    """A decoder that calls the model on the whole text for every token: slow, and what the other is measured by.

    Args:
        model: of the text_generator chapter.
        prompt: the model's inputs, `(batch_size, prompt_length)`; padding at the end.
        max_new_tokens: the most tokens that any text gets, int32 scalar.
    """
    num_positions = model.get_layer("embedding").num_positions
    prompt_length = tf.shape(prompt["token_ids"])[1]
    lengths = tf.reduce_sum(tf.cast(prompt["padding_mask"], tf.int32), axis=1)
    others = {name: tensor for name, tensor in prompt.items() if name not in ("token_ids", "padding_mask")}

    def logits_after(token_ids: tf.Tensor, lengths: tf.Tensor, width: tf.Tensor, others: Mapping) -> tf.Tensor:
        width = tf.minimum(width, num_positions)
        lengths = tf.minimum(lengths, width)
        mask = tf.cast(tf.sequence_mask(lengths, width), tf.int32)
        logits = model({"token_ids": token_ids[:, :width], "padding_mask": mask, **others}, training=False)
        return tf.gather(logits, lengths - 1, batch_dims=1)

    def step(tokens: tf.Tensor, number: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        lengths = state["lengths"]
        places = tf.stack([tf.range(tf.shape(tokens)[0]), lengths + number], axis=1)
        token_ids = tf.tensor_scatter_nd_update(state["token_ids"], places, tokens)
        logits = logits_after(token_ids, lengths + number + 1, prompt_length + number + 1, state["others"])
        return logits, {**state, "token_ids": token_ids}

    token_ids = tf.pad(prompt["token_ids"], [[0, 0], [0, max_new_tokens]])
    state = {"token_ids": token_ids, "lengths": lengths, "others": others}
    return Decoder(logits_after(token_ids, lengths, prompt_length, others), state, step)


def _blocks(model: keras.Model) -> list[DecoderBlock]:
    return [layer for layer in model.layers if isinstance(layer, DecoderBlock)]


def _encoded(model: keras.Model, blocks: list[DecoderBlock], prompt: Mapping[str, tf.Tensor]) -> dict[str, Any]:
    """What the blocks read of the encoder, projected once, and its mask; nothing where there is no encoder."""
    if "encoder_token_ids" not in prompt:
        return {}
    inputs = {name: prompt[f"encoder_{name}"] for name in ("token_ids", "segment_ids", "padding_mask")}
    states = model.get_layer("backbone")(inputs, training=False)
    memories = [tuple(block.cross_attention.keys_and_values(states["sequence_output"])) for block in blocks]
    return {"memories": memories, "memory_mask": tf.cast(inputs["padding_mask"], tf.bool)}


def _memories(state: Mapping[str, Any], blocks: list[DecoderBlock]) -> list[Any]:
    return state.get("memories", [None] * len(blocks))
