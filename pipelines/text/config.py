"""The `cleaning`, `tokenizer` and `masking` sections: how texts become what a model sees."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from pipelines.section import Location, Section


class CleaningConfig(Section):
    """What is done to texts before they are cut into tokens.

    What changes a text is done in the graph, in serving as in training. What leaves out rows (`empty`, `duplicates`) is
    done once, when the data is read. `info.json` holds how many texts each step changed and left out.
    """

    html: bool = False
    """Remove tags and comments, and write entities such as `&amp;` as the characters they stand for."""
    urls: bool = False
    """Remove web addresses."""
    control_characters: bool = True
    """Remove control and zero-width characters; tabs, line breaks and special spaces become ordinary spaces."""
    full_width: bool = False
    """Write full-width letters, digits and punctuation as the ordinary ones: Ａ１！ → A1!."""
    stop_words: list[str] = []
    """Words (whole ones, where letters are written with spaces between words) or characters to remove."""
    empty: Literal["refuse", "drop"] = "refuse"
    """Rows whose text is empty, or becomes empty by cleaning: an error that names the row, or left out."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Rows whose text, as it is after cleaning, was there before; the first one stays."""


class TokenizerConfig(Section):
    """How texts become numbers."""

    kind: Literal["characters", "words", "wordpiece"] = "characters"
    """One token for each character; for each word (and each Chinese character and punctuation mark); or BERT's pieces
    of words."""
    vocabulary: Location | None = None
    """A text file of one token per line, a Keras preset folder or a Hugging Face folder; learned from the training
    split where it is not given. Relative to `data_dir`."""
    vocabulary_size: Annotated[int, Field(ge=10)] = 10_000
    """Tokens to learn at most, the special ones included."""
    min_count: PositiveInt = 2
    """Times that a token must occur in the training split to be learned."""
    lowercase: bool = True
    """Write letters small first (a preset's own setting counts where it has one)."""
    sequence_length: Annotated[int, Field(ge=4)] = 128
    """Tokens of a text that are kept, special ones included; batches are padded to their longest text only."""
    bigrams: NonNegativeInt = 0
    """`characters` only: pairs of neighbouring characters to learn at most, which the model sees beside the characters
    themselves; 0 for none."""


class MaskingConfig(Section):
    """Masked language model (Devlin et al., "BERT", 2019, section 3.1)."""

    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Share of a text's tokens that are to be guessed; another choice every epoch."""
    masked: Annotated[float, Field(ge=0.0, le=1.0)] = 0.8
    """Share of those that are replaced by the mask."""
    random: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """Share of those that are replaced by a random token; the others are left as they are."""
    whole_words: bool = False
    """Choose whole words, all pieces of a word together."""

    @model_validator(mode="after")
    def _shares_add_up(self) -> "MaskingConfig":
        if self.masked + self.random > 1.0:
            raise ValueError(f"masked {self.masked} and random {self.random} are more than 1 together")
        return self
