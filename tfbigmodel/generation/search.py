"""The loops that write texts: token by token, and with several beams."""

from typing import Any, NamedTuple

import tensorflow as tf

from tfbigmodel.generation.decoding import Decoder
from tfbigmodel.generation.sampling import Sampling, choose, penalised


class Written(NamedTuple):
    """Texts that have been written.

    Attributes:
        token_ids: int32 `(batch_size, max_new_tokens)`; what follows a text's last token has no meaning.
        num_tokens: tokens of each text, int32 `(batch_size,)`; the end of text is one where it was reached.
        log_probability: sum of its tokens' log-probabilities under the model's own distribution, before any rule of
            sampling, float32 `(batch_size,)`.
    """

    token_ids: tf.Tensor
    num_tokens: tf.Tensor
    log_probability: tf.Tensor


class Tokens(NamedTuple):
    """What a vocabulary's special tokens mean for writing.

    Attributes:
        end: the id that ends a text.
        forbidden: which tokens are never written: padding, unknown, start, mask; bool `(vocabulary_size,)`.
    """

    end: int
    forbidden: tf.Tensor


def special_tokens(special_ids: Any, vocabulary_size: int) -> Tokens:
    """What `TextInfo.special_ids` means for writing."""
    forbidden = [index for name, index in special_ids.items() if name != "end"]
    return Tokens(special_ids["end"], tf.reduce_any(tf.one_hot(forbidden, vocabulary_size, True, False), axis=0))


def seen_tokens(token_ids: tf.Tensor, padding_mask: tf.Tensor, vocabulary_size: int) -> tf.Tensor:
    """Which tokens are in each text, bool `(batch_size, vocabulary_size)`."""
    rows = tf.where(tf.cast(padding_mask, tf.bool))
    ids = tf.gather_nd(token_ids, rows)
    seen = tf.zeros([tf.shape(token_ids)[0], vocabulary_size], tf.bool)
    return tf.tensor_scatter_nd_update(seen, tf.stack([tf.cast(rows[:, 0], tf.int32), ids], 1), tf.ones_like(ids) > 0)


def write(decoder: Decoder, seen: tf.Tensor, sampling: Sampling, tokens: Tokens, uniform: tf.Tensor) -> Written:
    """Writes token by token until every text has ended or has its `max_new_tokens`.

    Args:
        decoder: with the prompts read.
        seen: tokens of the prompts, bool `(batch_size, vocabulary_size)`.
        sampling: the rules; `num_beams` and `seed` are not used.
        tokens: the special tokens.
        uniform: random numbers, float32 `(batch_size, at least max_new_tokens)`.
    """
    longest = tf.reduce_max(sampling.max_new_tokens)
    batch_size = tf.shape(seen)[0]
    rows = tf.range(batch_size)

    def add(number: tf.Tensor, logits: tf.Tensor, written: Any) -> Any:
        """The token of that number."""
        token_ids, _, seen, ended, num_tokens, log_probability = written
        allowed = tf.where(tokens.forbidden, -float("inf"), penalised(logits, seen, sampling.repetition_penalty))
        token = choose(allowed, sampling, tf.gather(uniform, number, axis=1))
        own = tf.gather(tf.nn.log_softmax(logits), token, batch_dims=1)
        log_probability += tf.where(ended, 0.0, own)
        num_tokens += tf.cast(~ended, tf.int32)
        ended |= (token == tokens.end) | (num_tokens >= sampling.max_new_tokens)
        places = tf.stack([rows, tf.fill([batch_size], number)], axis=1)
        token_ids = tf.tensor_scatter_nd_update(token_ids, places, token)
        seen = tf.tensor_scatter_nd_update(seen, tf.stack([rows, token], axis=1), tf.ones_like(token) > 0)
        return token_ids, token, seen, ended, num_tokens, log_probability

    def body(number: tf.Tensor, written: Any, state: Any) -> tuple[tf.Tensor, Any, Any]:
        logits, state = decoder.step(written[1], number - 1, state)
        return number + 1, add(number, logits, written), state

    def more(number: tf.Tensor, written: Any, state: Any) -> tf.Tensor:
        return (number < longest) & ~tf.reduce_all(written[3])

    nothing = tf.zeros([batch_size], tf.int32)
    token_ids = tf.zeros([batch_size, longest], tf.int32)
    start = (token_ids, nothing, seen, nothing > 0, nothing, tf.zeros([batch_size]))
    loop = (tf.constant(1), add(tf.constant(0), decoder.logits, start), decoder.state)
    _, written, _ = tf.while_loop(more, body, loop, _any_batch(loop), parallel_iterations=1)
    return Written(written[0], written[4], written[5])


def beam_search(decoder: Decoder, seen: tf.Tensor, sampling: Sampling, tokens: Tokens) -> Written:
    """Writes each text's likeliest continuation that is found by keeping `num_beams` of them at every length.

    Continuations are compared by their mean log-probability per token, the end of text included (after the repetition
    penalty; temperature, top_k and top_p do not count). Those that reach `max_new_tokens` compete with those that have
    ended. A text is done when none of its beams can become better than the best that has ended.

    Args:
        decoder: with the prompts read.
        seen: tokens of the prompts, bool `(batch_size, vocabulary_size)`.
        sampling: `max_new_tokens`, `repetition_penalty` and `num_beams` are used.
        tokens: the special tokens.
    """
    longest, width = tf.reduce_max(sampling.max_new_tokens), tf.reduce_max(sampling.num_beams)
    batch_size, vocabulary_size = tf.shape(seen)[0], seen.shape[1]
    penalty = tf.repeat(sampling.repetition_penalty, width)
    first_beams = tf.range(batch_size)[:, tf.newaxis] * width
    is_beam = tf.range(width) < sampling.num_beams[:, tf.newaxis]
    never = -float("inf")

    def body(number: tf.Tensor, beams: Any, best: Any, done: tf.Tensor) -> Any:
        logits, scores, own_scores, token_ids, seen, state = beams
        count = tf.cast(number + 1, tf.float32)
        allowed = tf.where(tokens.forbidden, never, penalised(logits, seen, penalty))
        by_beam = [batch_size, width, vocabulary_size]
        # Every beam with every token after it.
        ranked = scores[:, :, tf.newaxis] + tf.reshape(tf.nn.log_softmax(allowed), by_beam)
        own = own_scores[:, :, tf.newaxis] + tf.reshape(tf.nn.log_softmax(logits), by_beam)
        end = tf.fill([batch_size, width, 1], tokens.end)
        ended = tf.concat([token_ids[:, :, :number], end, token_ids[:, :, number + 1 :]], axis=2)
        best = _better(best, ranked[:, :, tokens.end] / count, own[:, :, tokens.end], ended, number + 1, done)

        going_on = tf.where(tf.range(vocabulary_size) == tokens.end, never, ranked)
        scores, place = tf.math.top_k(tf.reshape(going_on, [batch_size, width * vocabulary_size]), width)
        scores = tf.where(is_beam, scores, never)
        beam, token = place // vocabulary_size, place % vocabulary_size
        own_scores = tf.gather(tf.reshape(own, [batch_size, -1]), place, batch_dims=1)
        token_ids = tf.gather(token_ids, beam, batch_dims=1)
        token_ids = tf.concat(
            [token_ids[:, :, :number], token[:, :, tf.newaxis], token_ids[:, :, number + 1 :]], axis=2
        )
        cut = done | (number + 1 < sampling.max_new_tokens)
        best = _better(best, scores / count, own_scores, token_ids, number + 1, cut)
        # Log-probabilities only fall: at best a beam keeps its own until its mean is taken over the most tokens.
        hope = tf.reduce_max(scores, axis=1) / tf.cast(sampling.max_new_tokens, tf.float32)
        done |= (number + 1 >= sampling.max_new_tokens) | (best[0] >= hope)

        chosen = tf.reshape(first_beams + beam, [-1])
        token = tf.reshape(token, [-1])
        state = tf.nest.map_structure(lambda part: tf.gather(part, chosen), state)
        seen = tf.tensor_scatter_nd_update(
            tf.gather(seen, chosen), tf.stack([tf.range(batch_size * width), token], 1), tf.ones_like(token) > 0
        )
        logits, state = tf.cond(
            tf.reduce_all(done), lambda: (logits, state), lambda: decoder.step(token, number, state)
        )
        return number + 1, (logits, scores, own_scores, token_ids, seen, state), best, done

    def more(number: tf.Tensor, beams: Any, best: Any, done: tf.Tensor) -> tf.Tensor:
        return ~tf.reduce_all(done)

    # At first all beams are the prompt, and one of them counts.
    logits, seen, state = tf.nest.map_structure(
        lambda part: tf.repeat(part, width, axis=0), (decoder.logits, seen, decoder.state)
    )
    scores = tf.tile(tf.where(tf.range(width) == 0, 0.0, never)[tf.newaxis], [batch_size, 1])
    token_ids = tf.zeros([batch_size, width, longest], tf.int32)
    beams = (logits, scores, tf.zeros_like(scores), token_ids, seen, state)
    best = (
        tf.fill([batch_size], never), tf.zeros([batch_size]), token_ids[:, 0], tf.zeros([batch_size], tf.int32)
    )  # fmt: skip
    loop = (tf.constant(0), beams, best, tf.zeros([batch_size], tf.bool))
    _, _, best, _ = tf.while_loop(more, body, loop, _any_batch(loop), parallel_iterations=1)
    return Written(best[2], best[3], best[1])


def _better(best: Any, scores: tf.Tensor, own: tf.Tensor, token_ids: tf.Tensor, length: Any, keep: tf.Tensor) -> Any:
    """The best so far, or the best of these beams where that is better, except for texts to `keep`."""
    place = tf.argmax(scores, axis=1)
    new_score, new_own, new_ids = (tf.gather(part, place, batch_dims=1) for part in (scores, own, token_ids))
    is_better = (new_score > best[0]) & ~keep
    return (
        tf.where(is_better, new_score, best[0]),
        tf.where(is_better, new_own, best[1]),
        tf.where(is_better[:, tf.newaxis], new_ids, best[2]),
        tf.where(is_better, length, best[3]),
    )


def _any_batch(loop: Any) -> Any:
    """The shapes of a loop's variables for any batch size: what is known of it outside may not be known inside."""
    return tf.nest.map_structure(lambda part: tf.TensorShape([None, *part.shape[1:]][: part.shape.rank]), loop)
