"""Texts as the model takes them: cleaned, cut into tokens, packed into rows of one length."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import tensorflow as tf

from pipelines.config import CleaningConfig
from pipelines.data import PREPROCESSOR_FILE
from pipelines.files import write_json
from pipelines.text.characters import CharacterTokenizer
from pipelines.text.cleaning import clean, repair
from pipelines.text.tokenizer import Tokenizer
from pipelines.text.vocabulary import load_tokenizer

Packing: TypeAlias = Literal["plain", "bert", "prompt", "bert_prompt"]

# What of a text is looked at: room enough for long words, spaces and what cleaning removes, and a bound on the work
# that a request can ask for.
_CHARACTERS_PER_TOKEN = 64
_MAX_BYTES_PER_CHARACTER = 4
# Few different lengths, so that a graph that was compiled for one is used again.
_LENGTH_STEP = 8


class TextPreprocessor(tf.Module):
    """Texts → token ids, int32 `(batch_size, longest)`, with a mask of what is no padding.

    Rows are padded to the batch's longest text, rounded up to a multiple of 8, and no longer than `sequence_length`.

    Args:
        tokenizer: texts → ids.
        sequence_length: tokens of a text that are kept, special ones included.
        packing: `plain`: the tokens, the unknown token for an empty text; `bert`: `[CLS]` tokens `[SEP]`, with
            `segment_ids`; `prompt`: `[CLS]` tokens, of which the last ones are kept; `bert_prompt`: `bert`, but
            the last ones are kept.
        cleaning: what is done to the texts first.

    Example:
        >>> preprocess = TextPreprocessor(tokenizer, sequence_length=128, packing="plain", cleaning=CleaningConfig())
        >>> preprocess({"text": tf.constant(["好书", "不"])})["token_ids"].shape
        TensorShape([2, 8])
    """

    kind = "text"

    def __init__(self, tokenizer: Tokenizer, sequence_length: int, packing: Packing, cleaning: CleaningConfig) -> None:
        super().__init__(name="text_preprocessor")
        if packing not in get_args(Packing):
            raise ValueError(f"packing must be one of {get_args(Packing)}, not {packing!r}")
        if sequence_length < 4:
            raise ValueError(f"sequence_length must be 4 at least, not {sequence_length}")
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.packing = packing
        self.cleaning = cleaning

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the model's inputs."""
        if self.packing in ("bert", "bert_prompt"):
            return "token_ids", "segment_ids", "padding_mask"
        return ("token_ids", "padding_mask", "bigram_ids") if self._with_bigrams else ("token_ids", "padding_mask")

    @property
    def bigram_vocabulary_size(self) -> int:
        """Different ids of pairs of characters; 0 where there are none among the inputs."""
        return self.tokenizer.bigram_vocabulary_size if self._with_bigrams else 0  # type: ignore[attr-defined]

    @property
    def signatures(self) -> Mapping[str, Mapping[str, tf.TensorSpec]]:
        """`serving_default` takes `text`: any bytes; what is no UTF-8 becomes U+FFFD."""
        return {"serving_default": {"text": tf.TensorSpec([None], tf.string, name="text")}}

    @property
    def served_names(self) -> Mapping[str, str]:
        """Nothing: clients call the input what it is called here."""
        return {}

    # Nothing here is for AutoGraph to rewrite, which would take seconds.
    @tf.autograph.experimental.do_not_convert
    def __call__(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Maps `text`, string `(batch_size,)`, to the model's inputs."""
        if set(raw) != {"text"}:
            raise ValueError(f'a text preprocessor takes "text", not {sorted(raw)}')
        text = clean(self._bounded(tf.reshape(raw["text"], [-1])), self.cleaning)
        tokens: dict[str, tf.RaggedTensor] = {}
        if self._with_bigrams:
            tokens["token_ids"], tokens["bigram_ids"] = self.tokenizer.with_bigrams(text)  # type: ignore[attr-defined]
        else:
            tokens["token_ids"] = self.tokenizer(text)
        packed = {name: self._packed(ids, padding=name == "bigram_ids") for name, ids in tokens.items()}
        lengths = packed["token_ids"].row_lengths()
        columns = tf.maximum(tf.reduce_max(lengths), 1)
        columns = tf.minimum((columns + _LENGTH_STEP - 1) // _LENGTH_STEP * _LENGTH_STEP, self.sequence_length)
        pad = {"token_ids": self.tokenizer.special_ids["pad"], "bigram_ids": 0}
        inputs = {name: _dense(ids, columns, pad[name]) for name, ids in packed.items()}
        inputs["padding_mask"] = tf.sequence_mask(lengths, columns, tf.int32)
        if "segment_ids" in self.input_names:
            inputs["segment_ids"] = tf.zeros_like(inputs["token_ids"])
        for tensor in inputs.values():
            tensor.set_shape([raw["text"].shape[0], None])
        return {name: inputs[name] for name in self.input_names}

    def save(self, folder: Path) -> None:
        """Writes the configuration and the vocabulary into `folder`."""
        settings = self.tokenizer.save(Path(folder))
        config = {
            "kind": self.kind,
            "tokenizer": {"kind": self.tokenizer.kind, **settings},
            "sequence_length": self.sequence_length,
            "packing": self.packing,
            "cleaning": self.cleaning.model_dump(mode="json"),
        }
        write_json(Path(folder, PREPROCESSOR_FILE), config)

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> "TextPreprocessor":
        """The preprocessor whose `save` wrote `config` into `folder`."""
        if type(config["sequence_length"]) is not int:
            raise ValueError("sequence_length must be a whole number")
        cleaning = CleaningConfig.model_validate(config["cleaning"])
        return cls(load_tokenizer(folder, config["tokenizer"]), config["sequence_length"], config["packing"], cleaning)

    def with_packing(self, packing: Packing) -> "TextPreprocessor":
        """This preprocessor with another packing, and the same tokenizer."""
        return TextPreprocessor(self.tokenizer, self.sequence_length, packing, self.cleaning)

    @property
    def _with_bigrams(self) -> bool:
        return (
            self.packing == "plain" and isinstance(self.tokenizer, CharacterTokenizer) and bool(self.tokenizer.bigrams)
        )

    def _bounded(self, text: tf.Tensor) -> tf.Tensor:
        """The part of each text that is looked at: its beginning, or a prompt's end."""
        most = self.sequence_length * _CHARACTERS_PER_TOKEN
        # Bytes first, which costs nothing; a character that is cut in two is beyond the characters that are kept.
        text = repair(self._part(text, most * _MAX_BYTES_PER_CHARACTER, "BYTE"))
        return self._part(text, most, "UTF8_CHAR")

    def _part(self, text: tf.Tensor, most: int, unit: str) -> tf.Tensor:
        length = tf.fill(tf.shape(text), most)
        start = tf.zeros_like(length)
        if self.packing in ("prompt", "bert_prompt"):
            start = tf.maximum(tf.strings.length(text, unit=unit) - most, 0)
        return tf.strings.substr(text, start, length, unit=unit)

    def _packed(self, ids: tf.RaggedTensor, padding: bool) -> tf.RaggedTensor:
        special = self.tokenizer.special_ids
        num_texts = ids.nrows()
        start = tf.fill([num_texts, 1], special["start"])
        if self.packing in ("bert", "bert_prompt"):
            end = tf.fill([num_texts, 1], special["end"])
            most = self.sequence_length - 2
            return tf.concat([start, ids[:, :most] if self.packing == "bert" else ids[:, -most:], end], axis=1)
        if self.packing == "prompt":
            return tf.concat([start, ids[:, -(self.sequence_length - 1) :]], axis=1)
        # A row of padding alone has no last step, and its mean is 0 / 0.
        filling = tf.fill([num_texts, 1], 1 if padding else special["unknown"])
        missing = tf.cast(tf.equal(ids.row_lengths(), 0), tf.int64)
        filling = tf.RaggedTensor.from_tensor(filling, lengths=missing)
        return tf.concat([ids[:, : self.sequence_length], filling], axis=1)


def _dense(ids: tf.RaggedTensor, columns: tf.Tensor, pad: int) -> tf.Tensor:
    dense = ids.to_tensor(default_value=pad)
    missing = columns - tf.shape(dense, out_type=columns.dtype)[1]
    return tf.pad(dense, [[0, 0], [0, missing]], constant_values=pad)
