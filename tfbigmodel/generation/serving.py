"""Signatures from text to text: what `predict` calls, and what is exported."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from pipelines.data import TextInfo
from tfbigmodel.generation.decoding import Decoder, cached_decoder
from tfbigmodel.generation.sampling import Sampling, random_numbers
from tfbigmodel.generation.search import Tokens, Written, beam_search, seen_tokens, special_tokens, write

# What a parameter of the signature `generate` may be; `SamplingConfig` allows the same.
RANGES: Mapping[str, tuple[str, Callable[[tf.Tensor], tf.Tensor]]] = {
    "max_new_tokens": ("1 or more", lambda value: value >= 1),
    "temperature": ("between 0 and 100", lambda value: (value >= 0.0) & (value <= 100.0)),
    "top_k": ("0 (all) or more", lambda value: value >= 0),
    "top_p": ("above 0 and at most 1", lambda value: (value > 0.0) & (value <= 1.0)),
    "repetition_penalty": ("between 0.1 and 10", lambda value: (value >= 0.1) & (value <= 10.0)),
    "num_beams": ("between 1 and 16", lambda value: (value >= 1) & (value <= 16)),
    "seed": ("a whole number", lambda value: tf.ones_like(value, tf.bool)),
}
_DTYPES = {"temperature": tf.float32, "top_p": tf.float32, "repetition_penalty": tf.float32, "seed": tf.int64}
DTYPES: Mapping[str, tf.DType] = {name: _DTYPES.get(name, tf.int32) for name in Sampling._fields}


def signatures(
    model: keras.Model, preprocess: Any, info: TextInfo, defaults: Mapping[str, float]
) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    """The functions that write texts.

    A prompt is cut from the left so that it and `max_new_tokens` fit into the length that the model was trained on. The
    last quarter of that length is left to the prompt in any case: where more tokens are asked for, fewer are written.

    Args:
        model: a trained model of the text_generator chapter.
        preprocess: a `TextPreprocessor`.
        info: the data's vocabulary and length.
        defaults: the value of each field of `Sampling`.

    Returns:
        `generate`: `text` (string) and the fields of `Sampling` by their names, `(batch_size,)` each → `text` (string,
        the continuation only), `num_tokens` (int32) and `log_probability` (float32; see `Written`). Values that make no
        sense are an error. `serving_default`: `text` → `text`, with the defaults.
    """
    tokens = special_tokens(info.special_ids, info.vocabulary_size)

    def generate(text: tf.Tensor, **values: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies(_checks(text, Sampling(**values))):
            # Nothing is computed with a value before it has been checked.
            sampling = Sampling(**{name: tf.identity(value) for name, value in values.items()})
        sampling = sampling._replace(max_new_tokens=tf.minimum(sampling.max_new_tokens, info.sequence_length))
        prompt, most = _prompt(preprocess({"text": text}), info, sampling.max_new_tokens)
        sampling = sampling._replace(max_new_tokens=most)
        written = generated(model, prompt, sampling, tokens, info)
        ids = tf.RaggedTensor.from_tensor(written.token_ids, lengths=written.num_tokens)
        return {
            "text": preprocess.tokenizer.detokenize(ids),
            "num_tokens": written.num_tokens,
            "log_probability": written.log_probability,
        }

    specs = {name: tf.TensorSpec([None], dtype, name) for name, dtype in {"text": tf.string, **DTYPES}.items()}
    function = tf.function(generate, autograph=False).get_concrete_function(**specs)

    def with_defaults(text: tf.Tensor) -> dict[str, tf.Tensor]:
        values = {n: tf.fill(tf.shape(text), tf.constant(defaults[n], dtype)) for n, dtype in DTYPES.items()}
        return {"text": function(text=text, **values)["text"]}

    short = tf.function(with_defaults, autograph=False).get_concrete_function(text=specs["text"])
    return {"serving_default": short, "generate": function}


def generated(
    model: keras.Model, prompt: Mapping[str, tf.Tensor], sampling: Sampling, tokens: Tokens, info: TextInfo
) -> Written:
    """Continues each prompt by its own rules: with beams where it asks for more than one, token by token elsewhere.

    Args:
        model: a model of the text_generator chapter.
        prompt: its inputs, `(batch_size, prompt_length)`; padding at the end.
        sampling: the rules.
        tokens: the special tokens.
        info: the data's vocabulary and length.
    """
    width = tf.maximum(tf.reduce_max(sampling.max_new_tokens), 1)

    def searched(decoder: Decoder, seen: tf.Tensor, sampling: Sampling) -> Written:
        return beam_search(decoder, seen, sampling, tokens)

    def sampled(decoder: Decoder, seen: tf.Tensor, sampling: Sampling) -> Written:
        return write(decoder, seen, sampling, tokens, random_numbers(sampling.seed, info.sequence_length))

    def part(rows: tf.Tensor, method: Callable[[Decoder, tf.Tensor, Sampling], Written]) -> Written:
        def of_rows() -> Written:
            # What the others ask for does not matter here: neither their lengths nor their rules.
            own = Sampling(*(tf.gather(values, rows) for values in sampling))
            own_prompt = {name: tf.gather(tensor, rows) for name, tensor in prompt.items()}
            longest = tf.reduce_max(own.max_new_tokens)
            seen = seen_tokens(own_prompt["token_ids"], own_prompt["padding_mask"], info.vocabulary_size)
            written = method(cached_decoder(model, own_prompt, longest), seen, own)
            return written._replace(token_ids=tf.pad(written.token_ids, [[0, 0], [0, width - longest]]))

        def nothing() -> Written:
            return Written(tf.zeros([0, width], tf.int32), tf.zeros([0], tf.int32), tf.zeros([0]))

        return tf.cond(tf.size(rows) > 0, of_rows, nothing)

    with_beams = sampling.num_beams > 1
    rows = [tf.cast(tf.where(chosen)[:, 0], tf.int32) for chosen in (with_beams, ~with_beams)]
    parts = [part(rows[0], searched), part(rows[1], sampled)]
    return Written(*(tf.dynamic_stitch(rows, list(fields)) for fields in zip(*parts, strict=True)))


def _checks(text: tf.Tensor, sampling: Sampling) -> list[tf.Operation]:
    checks = []
    for name, values in sampling._asdict().items():
        allowed, holds = RANGES[name]
        one_each = tf.equal(tf.size(values), tf.size(text))
        told = [f"{name} must have one value for each text; received", tf.size(values), "for", tf.size(text)]
        checks.append(tf.debugging.Assert(one_each, told))
        checks.append(
            tf.debugging.Assert(tf.reduce_all(holds(values)), [f"{name} must be {allowed}; received", values])
        )
    return checks


def _prompt(
    inputs: Mapping[str, tf.Tensor], info: TextInfo, max_new_tokens: tf.Tensor
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """The model's inputs, and how many tokens may follow each.

    The decoder continues the text, or begins a new one where an encoder reads it.
    """
    if "segment_ids" in inputs:
        start = tf.fill([tf.shape(inputs["token_ids"])[0], 1], info.special_ids["start"])
        encoder = {f"encoder_{name}": tensor for name, tensor in inputs.items()}
        return {"token_ids": start, "padding_mask": tf.ones_like(start), **encoder}, max_new_tokens
    lengths = tf.reduce_sum(inputs["padding_mask"], axis=1)
    # The last new token is not read again, and needs no place.
    room = info.sequence_length + 1
    kept = tf.minimum(lengths, tf.maximum(room - max_new_tokens, info.sequence_length // 4))
    places = tf.range(tf.maximum(tf.reduce_max(kept), 1))
    from_left = tf.minimum(places + (lengths - kept)[:, tf.newaxis], tf.shape(inputs["token_ids"])[1] - 1)
    mask = tf.cast(places < kept[:, tf.newaxis], tf.int32)
    token_ids = tf.gather(inputs["token_ids"], from_left, batch_dims=1) * mask
    return {"token_ids": token_ids, "padding_mask": mask}, tf.minimum(max_new_tokens, room - kept)
