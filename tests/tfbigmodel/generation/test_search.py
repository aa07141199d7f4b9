"""The loops: when they end, what they find, and that texts do not disturb each other."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfbigmodel.generation.decoding import Decoder, cached_decoder, uncached_decoder
from tfbigmodel.generation.sampling import Sampling, random_numbers
from tfbigmodel.generation.search import beam_search, seen_tokens, special_tokens, write
from tfbigmodel.generation.serving import generated

VOCABULARY_SIZE, SEQUENCE_LENGTH, END = 30, 24, 3
SAMPLED = {"temperature": [1.0, 0.7, 1.5], "top_k": [0, 5, 9], "top_p": [1.0, 1.0, 0.9], "seed": [1, 2, 3]}
SPECIAL_IDS = {"pad": 0, "unknown": 1, "start": 2, "end": END, "mask": 4}


def written(model, prompts, sampling, decoder=cached_decoder):
    tokens = special_tokens(SPECIAL_IDS, VOCABULARY_SIZE)
    seen = seen_tokens(prompts["token_ids"], prompts["padding_mask"], VOCABULARY_SIZE)
    uniform = random_numbers(sampling.seed, SEQUENCE_LENGTH)
    return write(decoder(model, prompts, tf.reduce_max(sampling.max_new_tokens)), seen, sampling, tokens, uniform)


def texts(written):
    """The ids of each text, without what has no meaning."""
    return [ids[:count].tolist() for ids, count in zip(written.token_ids.numpy(), written.num_tokens, strict=True)]


@pytest.mark.parametrize("values", [{}, SAMPLED, {"repetition_penalty": [1.0, 1.5, 0.8]}])
def test_the_cache_changes_no_token(tiny_model, prompts, rules, values):
    model = tiny_model()
    sampling = rules(3, max_new_tokens=[15, 7, 3], **values)
    cached, uncached = (written(model, prompts, sampling, decoder) for decoder in (cached_decoder, uncached_decoder))
    assert texts(cached) == texts(uncached)
    assert len(set(itertools.chain(*texts(cached)))) > 3, "the texts should not be too simple"
    np.testing.assert_allclose(cached.log_probability, uncached.log_probability, atol=1e-4)
    assert (cached.num_tokens.numpy() <= [15, 7, 3]).all()


def test_a_text_is_the_same_whatever_stands_beside_it(tiny_model, prompts, rules, tiny_info):
    model, info = tiny_model(), tiny_info(VOCABULARY_SIZE, SEQUENCE_LENGTH).text
    tokens = special_tokens(SPECIAL_IDS, VOCABULARY_SIZE)
    sampling = rules(3, **{**SAMPLED, "num_beams": [1, 4, 1], "max_new_tokens": [12, 6, 9]})
    together = generated(model, prompts, sampling, tokens, info)
    for row in range(3):
        length = int(prompts["padding_mask"][row].numpy().sum())
        prompt = {name: tensor[row : row + 1, :length] for name, tensor in prompts.items()}
        alone = generated(model, prompt, Sampling(*(v[row : row + 1] for v in sampling)), tokens, info)
        assert texts(alone)[0] == texts(together)[row]
        np.testing.assert_allclose(alone.log_probability[0], together.log_probability[row], atol=1e-4)


def test_seeds_repeat_and_differ(tiny_model, prompts, rules):
    model = tiny_model()
    first, again, other = (
        texts(written(model, prompts, rules(3, temperature=1.0, seed=seed))) for seed in (1, 1, 2)
    )  # fmt: skip
    assert first == again
    assert first != other


def test_greedy_by_four_names(tiny_model, prompts, rules):
    model = tiny_model(seed=3)
    greedy = texts(written(model, prompts, rules(3, temperature=0.0)))
    assert texts(written(model, prompts, rules(3, temperature=1.0, top_k=1))) == greedy
    assert texts(written(model, prompts, rules(3, temperature=1.0, top_p=1e-9))) == greedy
    tokens = special_tokens(SPECIAL_IDS, VOCABULARY_SIZE)
    seen = seen_tokens(prompts["token_ids"], prompts["padding_mask"], VOCABULARY_SIZE)
    beams = beam_search(cached_decoder(model, prompts, tf.constant(10)), seen, rules(3), tokens)
    # One beam goes where greedy goes; it may stop elsewhere, since it may prefer an end on its way.
    assert all(ids[: len(found) - 1] == found[:-1] for ids, found in zip(greedy, texts(beams), strict=True))


def test_log_probabilities_are_the_models_own(tiny_model, prompts, rules):
    model = tiny_model()
    result = written(model, prompts, rules(3, temperature=0.5, top_k=4, repetition_penalty=1.3, seed=5))
    for row, ids in enumerate(texts(result)):
        prompt = prompts["token_ids"][row].numpy()
        prompt = prompt[prompt > 0]
        whole = tf.constant([[*prompt, *ids]], tf.int32)
        logits = model({"token_ids": whole, "padding_mask": tf.ones_like(whole)})[0, len(prompt) - 1 : -1]
        own = tf.gather(tf.nn.log_softmax(logits), ids, batch_dims=1)
        assert float(tf.reduce_sum(own)) == pytest.approx(float(result.log_probability[row]), abs=1e-4)


def table_decoder(table, batch_size=1):
    """A model that knows the last token only: `table` `(vocabulary_size, vocabulary_size)` of probabilities."""
    logits = tf.constant(np.log(table), tf.float32)

    def step(tokens, number, state):
        return tf.gather(logits, tokens), {"last": tokens}

    start = tf.fill([batch_size], 2)
    return Decoder(tf.gather(logits, start), {"last": start}, step)


def random_table(seed, size=8, scale=2.0):
    weights = np.exp(np.random.default_rng(seed).normal(scale=scale, size=(size, size)))
    return weights / weights.sum(axis=1, keepdims=True)


def best_by_trying_all(table, most, width=8):
    """The best mean log-probability over all texts that end, or have the most tokens."""
    best = (-np.inf, [])
    allowed = range(5, width)
    for length in range(most + 1):
        for body in itertools.product(allowed, repeat=length):
            ids = [*body, END] if length < most else list(body)
            steps = [np.log(table[a, b]) for a, b in zip([2, *ids], ids, strict=False)]
            # The search ranks by what the model says of tokens that may be written.
            possible = [np.log(table[a][[END, *allowed]].sum()) for a in [2, *ids][:-1]]
            best = max(best, ((np.sum(steps) - np.sum(possible)) / len(ids), ids))
    return best


def test_enough_beams_find_what_trying_all_finds(rules):
    tokens = special_tokens(SPECIAL_IDS, 8)
    found_by_greedy = 0
    for seed in range(8):
        table = random_table(seed)
        _, ids = best_by_trying_all(table, most=4)
        sampling = rules(1, max_new_tokens=4, num_beams=16)
        result = beam_search(table_decoder(table), tf.zeros([1, 8], tf.bool), sampling, tokens)
        assert texts(result)[0] == ids
        own = sum(np.log(table[a, b]) for a, b in zip([2, *ids], ids, strict=False))
        assert float(result.log_probability[0]) == pytest.approx(own, abs=1e-4)
        greedy = write(table_decoder(table), tf.zeros([1, 8], tf.bool), sampling, tokens, tf.zeros([1, 4]))
        found_by_greedy += texts(greedy)[0] == ids
    assert found_by_greedy < 8


def test_three_beams_find_a_likelier_text_than_greedy(rules):
    # The likeliest first token, 5, leads to one of many; the second one, 6, to a sure thing.
    table = np.full((8, 8), 1e-6)
    table[2, [5, 6]] = 0.55, 0.45
    table[5, [5, 6, 7, END]] = 0.25
    table[6, 7], table[7, END] = 1.0, 1.0
    tokens, seen = special_tokens(SPECIAL_IDS, 8), tf.zeros([1, 8], tf.bool)
    greedy = write(table_decoder(table), seen, rules(1, max_new_tokens=5), tokens, tf.zeros([1, 5]))
    beams = beam_search(table_decoder(table), seen, rules(1, max_new_tokens=5, num_beams=3), tokens)
    assert texts(beams)[0] == [6, 7, END]
    assert float(beams.log_probability[0]) == pytest.approx(np.log(0.45), abs=1e-3)
    assert float(beams.log_probability[0]) > float(greedy.log_probability[0])


def test_rows_of_one_search_may_have_different_beams_and_lengths(rules):
    table, tokens = random_table(3), special_tokens(SPECIAL_IDS, 8)
    sampling = rules(3, max_new_tokens=[4, 2, 6], num_beams=[2, 7, 3])
    together = beam_search(table_decoder(table, 3), tf.zeros([3, 8], tf.bool), sampling, tokens)
    for row in range(3):
        one = Sampling(*(values[row : row + 1] for values in sampling))
        alone = beam_search(table_decoder(table), tf.zeros([1, 8], tf.bool), one, tokens)
        assert texts(alone)[0] == texts(together)[row]


def test_writing_stops_at_the_end_of_the_text(rules):
    table = np.full((8, 8), 1e-9)
    table[2, 5] = table[5, 6] = table[6, END] = table[END, 7] = table[7, 7] = 1.0
    steps = []
    decoder = table_decoder(table, 2)

    def counted(tokens, number, state):
        steps.append(int(number))
        return decoder.step(tokens, number, state)

    sampling, tokens = rules(2, max_new_tokens=[9, 2]), special_tokens(SPECIAL_IDS, 8)
    result = write(decoder._replace(step=counted), tf.zeros([2, 8], tf.bool), sampling, tokens, tf.zeros([2, 9]))
    assert texts(result) == [[5, 6, END], [5, 6]]
    assert steps == [0, 1], "no step after all texts have ended"


def test_padding_unknown_start_and_mask_are_never_written(rules):
    table = np.full((8, 8), 0.01)
    table[:, [0, 1, 2, 4]] = 0.2
    tokens, batch_size = special_tokens(SPECIAL_IDS, 8), 20
    sampling = rules(batch_size, temperature=1.0, seed=np.arange(batch_size))
    uniform = random_numbers(sampling.seed, 10)
    result = write(table_decoder(table, batch_size), tf.zeros([batch_size, 8], tf.bool), sampling, tokens, uniform)
    assert set(itertools.chain(*texts(result))) == {3, 5, 6, 7}


def test_seen_tokens_are_those_of_the_text_without_padding(prompts):
    seen = seen_tokens(prompts["token_ids"], prompts["padding_mask"], 12).numpy()
    assert [np.flatnonzero(row).tolist() for row in seen] == [[2, 7, 8, 9, 10], [2], [2, 6, 11]]
