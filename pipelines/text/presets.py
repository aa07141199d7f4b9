"""Vocabularies that others have made: a text file, a Keras preset folder, a Hugging Face folder."""

import dataclasses
from pathlib import Path
from typing import Any

from pipelines.errors import MissingFileError, UserError
from pipelines.files import read_json
from pipelines.text.tokens import check_vocabulary, read_tokens

_KERAS_VOCABULARY = Path("assets", "tokenizer", "vocabulary.txt")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A vocabulary that was read.

    Attributes:
        tokens: in the order of their ids.
        lowercase: whether letters are written small first; None where the place does not say.
        strip_accents: whether accents are removed first; None where the place does not say.
    """

    tokens: list[str]
    lowercase: bool | None = None
    strip_accents: bool | None = None


def read_vocabulary(path: Path, key: str = "") -> Vocabulary:
    """Reads a vocabulary of BERT's kind.

    Args:
        path: a text file of one token per line; a folder that Keras wrote as a preset; or a folder of Hugging Face's
            transformers with `vocab.txt` or `tokenizer.json`.
        key: the configuration key it comes from, for messages.

    Raises:
        UserError: nothing of the kind is there, or it is damaged.
    """
    if not path.is_dir():
        return Vocabulary(read_tokens(path, key))
    if Path(path, _KERAS_VOCABULARY).is_file():
        settings = _settings(path / "tokenizer.json").get("config", {})
        return Vocabulary(
            read_tokens(path / _KERAS_VOCABULARY), _flag(settings, "lowercase"), _flag(settings, "strip_accents")
        )
    tokenizer = _settings(path / "tokenizer.json")
    if Path(path, "vocab.txt").is_file():
        tokens = read_tokens(path / "vocab.txt")
    elif "model" in tokenizer:
        tokens = _tokens_of_json(tokenizer, path / "tokenizer.json")
    else:
        said = f" ({key})" if key else ""
        raise MissingFileError(
            f"{path}{said} holds no vocabulary: neither {_KERAS_VOCABULARY} (a Keras preset) nor vocab.txt or "
            "tokenizer.json (a Hugging Face folder) is there"
        )
    return _of_hugging_face(path, tokens, tokenizer)


def _of_hugging_face(path: Path, tokens: list[str], tokenizer: dict[str, Any]) -> Vocabulary:
    settings = _settings(path / "tokenizer_config.json")
    normalizer = tokenizer.get("normalizer") or {}
    lowercase = _flag(settings, "do_lower_case")
    lowercase = _flag(normalizer, "lowercase") if lowercase is None else lowercase
    chinese = settings.get("tokenize_chinese_chars", normalizer.get("handle_chinese_chars", True))
    if chinese is False:
        raise UserError(
            f"{path} was made to leave Chinese characters together (tokenize_chinese_chars: false), which is not "
            "supported; choose another vocabulary"
        )
    strip_accents = _flag(settings, "strip_accents")
    strip_accents = _flag(normalizer, "strip_accents") if strip_accents is None else strip_accents
    # BERT's own rule: letters that are made small lose their accents too.
    return Vocabulary(tokens, lowercase, lowercase if strip_accents is None else strip_accents)


def _tokens_of_json(tokenizer: dict[str, Any], path: Path) -> list[str]:
    model = tokenizer["model"]
    if not isinstance(model, dict) or model.get("type", "WordPiece") != "WordPiece":
        kind = model.get("type") if isinstance(model, dict) else model
        raise UserError(f"{path} is a tokenizer of kind {kind}; WordPiece (BERT's) was expected")
    try:
        ids = dict(model["vocab"])
        for token in tokenizer.get("added_tokens") or ():
            ids[token["content"]] = token["id"]
        tokens = sorted(ids, key=lambda token: ids[token])
        complete = [ids[token] for token in tokens] == list(range(len(tokens)))
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged: it has no vocabulary ({type(error).__name__}: {error})") from error
    if not complete:
        raise UserError(f"{path} is damaged: the ids of its {len(tokens):,} tokens are not 0 to {len(tokens) - 1:,}")
    check_vocabulary(tokens, lambda index: f"{path} token {index}", str(path))
    return tokens


def _settings(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: settings by name were expected")
    return value


def _flag(settings: dict[str, Any], name: str) -> bool | None:
    value = settings.get(name)
    return value if isinstance(value, bool) else None
