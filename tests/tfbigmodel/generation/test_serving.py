"""From text to text, in the graph that is exported."""

import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from pipelines.config import CleaningConfig
from pipelines.text.characters import CharacterTokenizer
from pipelines.text.preprocess import TextPreprocessor
from tfbigmodel.chapters.text_generator import SamplingConfig
from tfbigmodel.generation.sampling import Sampling
from tfbigmodel.generation.serving import DTYPES, RANGES, signatures
from tfbigmodel.inference import InferenceModule

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxy"]
LENGTH = 24


def functions(tiny_model, tiny_info, encoder=False, **defaults):
    tokenizer = CharacterTokenizer(VOCABULARY)
    preprocess = TextPreprocessor(tokenizer, LENGTH, "bert" if encoder else "prompt", CleaningConfig())
    model, info = tiny_model(encoder=encoder), tiny_info(len(VOCABULARY), LENGTH, encoder)
    made = signatures(model, preprocess, info.text, SamplingConfig(**defaults).model_dump())
    return made, InferenceModule(model, preprocess, made)


@pytest.fixture(scope="module")
def made(tiny_model, tiny_info):
    return functions(tiny_model, tiny_info, max_new_tokens=6, temperature=0.7, seed=4)


@pytest.fixture(scope="module")
def served(made):
    return made[0]


def ask(served, texts, **values):
    values = {"max_new_tokens": 6, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0,
              "num_beams": 1, "seed": 0} | values  # fmt: skip
    arrays = {name: tf.constant(np.broadcast_to(values[name], len(texts)), dtype) for name, dtype in DTYPES.items()}
    answers = served["generate"](text=tf.constant(texts, tf.string), **arrays)
    return {name: tensor.numpy() for name, tensor in answers.items()}


def test_the_default_signature_writes_by_the_configuration(served):
    texts = ["abc", "", "好 abc"]
    answers = served["serving_default"](text=tf.constant(texts))
    assert set(answers) == {"text"}
    np.testing.assert_array_equal(answers["text"], ask(served, texts, temperature=0.7, seed=4)["text"])


def test_answers_have_text_count_and_log_probability(served):
    answers = ask(served, ["abc", "de"], max_new_tokens=[6, 2])
    assert {name: array.dtype.kind for name, array in answers.items()} == {
        "text": "O", "num_tokens": "i", "log_probability": "f"
    }  # fmt: skip
    # The continuation only, one character for each token unless the last one is the end.
    for text, count in zip(answers["text"], answers["num_tokens"], strict=True):
        assert len(text) in (count, count - 1)
    assert (answers["log_probability"] < 0).all()
    assert answers["num_tokens"][1] <= 2


def test_no_texts_have_no_answers(served):
    assert ask(served, [])["text"].shape == (0,)


@pytest.mark.parametrize("text", ["", "x" * 100_000, "🎉🎊" * 50, b"\xff\xfe\x00abc", "\n\t "])
def test_any_text_is_continued(served, text):
    for values in ({}, {"num_beams": 3}, {"max_new_tokens": 1000}):
        answers = ask(served, [text, "abc"], **values)
        assert 1 <= answers["num_tokens"][0] <= LENGTH
        # Padding has to change nothing for the neighbour.
        assert answers["text"][1] == ask(served, ["abc"], **values)["text"][0]


def test_a_prompt_is_cut_from_the_left_so_that_the_new_tokens_fit(served, tiny_model):
    # 15 new tokens leave 10 of the 24 places for the prompt: the last new one takes none.
    text = "abcdefghijklmnopqrst"
    long = ask(served, [text], max_new_tokens=15)
    ids = [VOCABULARY.index(character) for character in text[-10:]]
    expected = b""
    while len(expected) < 15:
        token_ids = tf.constant([ids])
        logits = tiny_model()({"token_ids": token_ids, "padding_mask": tf.ones_like(token_ids)})[0, -1].numpy()
        logits[[0, 1, 2, 4]] = -np.inf
        ids.append(int(logits.argmax()))
        if ids[-1] == 3:
            break
        expected += VOCABULARY[ids[-1]].encode()
    assert long["text"][0] == expected
    # A quarter is the prompt's in any case, and of a short prompt nothing is cut.
    most = ask(served, [text, "abc"], max_new_tokens=10_000)
    enough = ask(served, ["zzzzzzzz" + text[-6:], "abc"], max_new_tokens=[LENGTH - 5, LENGTH - 3])
    np.testing.assert_array_equal(most["text"], enough["text"])
    assert (most["num_tokens"] <= [LENGTH - 5, LENGTH - 3]).all()


BAD = [
    ("max_new_tokens", 0), ("temperature", -0.1), ("temperature", 101.0), ("temperature", float("nan")), ("top_k", -1),
    ("top_p", 0.0), ("top_p", 1.1), ("repetition_penalty", 0.0), ("repetition_penalty", 11.0), ("num_beams", 0),
    ("num_beams", 17),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_values_out_of_range_are_told(served, name, value):
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(f"{name} must be {RANGES[name][0]}; received")):
        ask(served, ["abc", "abc"], **{name: [DEFAULT[name], value]})


DEFAULT = SamplingConfig().model_dump()


@pytest.mark.parametrize(("name", "value"), BAD)
def test_the_configuration_refuses_the_same(name, value):
    with pytest.raises(ValueError, match=name):
        SamplingConfig.model_validate({name: value})


def test_there_must_be_one_value_for_each_text(served):
    values = {n: tf.constant([DEFAULT[n]] * (1 if n == "top_k" else 2), dtype) for n, dtype in DTYPES.items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match="top_k must have one value for each text"):
        served["generate"](text=tf.constant(["a", "b"]), **values)


def test_an_encoder_reads_the_prompt(tiny_model, tiny_info):
    served, _module = functions(tiny_model, tiny_info, encoder=True)
    answers = ask(served, ["abcdef", "xy", ""], num_beams=[1, 3, 1])
    for row, text in enumerate(["abcdef", "xy", ""]):
        assert answers["text"][row] == ask(served, [text], num_beams=[1, 3, 1][row])["text"][0]
    assert len(set(answers["text"])) > 1, "the prompt should matter"


def test_sampling_has_the_fields_of_the_configuration():
    assert set(Sampling._fields) == set(SamplingConfig.model_fields) == set(RANGES) == set(DTYPES)


def test_the_export_writes_the_same_in_a_fresh_process(made, tiny_model, tmp_path):
    served, module = made
    tf.saved_model.save(module, str(tmp_path), signatures=dict(served))
    texts, values = ["abc", "", "the end"], {"temperature": [0.0, 1.0, 1.0], "seed": [1, 2, 3], "num_beams": [1, 1, 4]}
    program = f"""
import sys
import numpy as np, tensorflow as tf
assert "tfbigmodel" not in sys.modules
values = {{"max_new_tokens": 6, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0,
           "num_beams": 1, "seed": 0}} | {values!r}
model = tf.saved_model.load({str(tmp_path)!r}).signatures["generate"]
_, specs = model.structured_input_signature
arrays = {{n: tf.constant(np.broadcast_to(v, 3), specs[n].dtype) for n, v in values.items()}}
answers = model(text=tf.constant({texts!r}), **arrays)
print(answers["text"].numpy().tolist(), answers["log_probability"].numpy().tolist(), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    shown, log_probability = done.stdout.splitlines()[-2:]
    here = ask(served, texts, **values)
    assert shown == str(here["text"].tolist())
    np.testing.assert_allclose(eval(log_probability), here["log_probability"], atol=1e-4)
    weights = sum(np.prod(v.shape) * 4 for v in tiny_model().variables)
    size = sum(path.stat().st_size for path in (tmp_path / "variables").iterdir())
    assert size < 1.5 * weights + 20_000, "weights are stored once"
