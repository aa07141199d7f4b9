"""Cleaning of texts: in graph operations for training and serving alike, and the counting of what it did to a file."""

import dataclasses
import functools
import html.entities
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from pipelines.config import CleaningConfig
from pipelines.errors import UserError
from pipelines.names import shorten

# Letters, digits and marks of scripts that put spaces between words; RE2's own \b and \w know ASCII only.
_WORD_CHARACTER = r"(?:[^\P{L}\p{Han}\p{Hiragana}\p{Katakana}]|[\p{N}\p{M}_])"
_WORD = rf"({_WORD_CHARACTER}+(?:['’]{_WORD_CHARACTER}+)*)"
# Unicode has made these two code points no characters, for uses such as this one.
_BEGIN, _END = "\ufdd0", "\ufdd1"
_NUL = "\0"

_ENTITY = r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
_URL = r"(?i)\b(?:(?:https?|ftp)://|www\.)[a-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*[a-z0-9/#=&_~%+\-]"
# RE2 refuses patterns that take too much memory.
_STOP_WORDS_PER_PATTERN = 500
_CHUNK = 4_096

Step: TypeAlias = Callable[[tf.Tensor], tf.Tensor]


def clean(text: tf.Tensor, config: CleaningConfig) -> tf.Tensor:
    r"""Cleans texts, in the graph.

    Args:
        text: string `(batch_size,)`, of any bytes: what is no UTF-8 becomes U+FFFD.
        config: which steps.

    Returns:
        Valid UTF-8, string `(batch_size,)`.

    Example:
        >>> clean(tf.constant(["<b>A &amp; B</b>\tＣ"]), CleaningConfig(html=True, full_width=True)).numpy()
        array([b' A & B  C'], dtype=object)
    """
    for step in _steps(config).values():
        text = step(text)
    return text


@dataclasses.dataclass(frozen=True)
class CleanedRows:
    """What `clean_rows` leaves.

    Attributes:
        texts: valid UTF-8 after all steps, of the rows that stay.
        kept: the indices of the rows that stay, ascending, `(num_rows,)`.
        counts: step → texts that it changed (`html`, `urls`, …) or left out (`empty`, `duplicates`); the steps that
            are on, and `invalid_utf8`.
    """

    texts: list[bytes]
    kept: np.ndarray
    counts: Mapping[str, int]


def clean_rows(
    texts: Sequence[str | bytes],
    config: CleaningConfig,
    place: Callable[[int], str],
    seen: set[bytes] | None = None,
) -> CleanedRows:
    """Cleans the rows of a file, and leaves out empty ones and duplicates where that is asked for.

    Args:
        texts: as they were read.
        config: which steps.
        place: from a row's index to its file and row, for messages.
        seen: cleaned texts that were there before, for `duplicates`; those of these rows are added.

    Raises:
        UserError: a text is empty and `config.empty` is `refuse`; or nothing is left.
    """
    counts: dict[str, int] = {}
    cleaned = clean_counted(texts, config, counts)
    keep = np.ones(len(cleaned), bool)
    for index, text in enumerate(cleaned):
        if not text.decode().strip():
            if config.empty == "refuse":
                was = "" if not encoded(texts[index]).strip() else " after cleaning"
                raise UserError(f"{place(index)}: the text is empty{was}; fill it in, or set data.cleaning.empty: drop")
            keep[index] = False
    if config.empty == "drop":
        counts["empty"] = int((~keep).sum())
    if config.duplicates == "drop":
        seen = set() if seen is None else seen
        counts["duplicates"] = 0
        for index in np.flatnonzero(keep).tolist():
            if cleaned[index] in seen:
                keep[index] = False
                counts["duplicates"] += 1
            seen.add(cleaned[index])
    kept = np.flatnonzero(keep)
    if len(texts) and not len(kept):
        raise UserError(f"{place(0)} and all rows after it: no text is left after cleaning; see data.cleaning")
    return CleanedRows([cleaned[index] for index in kept], kept, counts)


def clean_counted(texts: Sequence[str | bytes], config: CleaningConfig, counts: dict[str, int]) -> list[bytes]:
    """`clean` for a list of texts, counting how many each step changed.

    Args:
        texts: as they were read.
        config: which steps.
        counts: step → texts that it changed; what is found here is added to it.

    Returns:
        Valid UTF-8, in the same order.
    """
    steps = _steps(config)
    for name in steps:
        counts.setdefault(name, 0)
    cleaned: list[bytes] = []
    for start in range(0, len(texts), _CHUNK):
        text = tf.constant([encoded(value) for value in texts[start : start + _CHUNK]], tf.string)
        for name, step in steps.items():
            changed = step(text)
            counts[name] += int(tf.math.count_nonzero(tf.not_equal(changed, text)))
            text = changed
        cleaned.extend(text.numpy().tolist())
    return cleaned


def add_counts(*counts: Mapping[str, int]) -> dict[str, int]:
    """The sums of counts of several files."""
    total: dict[str, int] = {}
    for one in counts:
        for name, number in one.items():
            total[name] = total.get(name, 0) + number
    return total


def repair(text: tf.Tensor) -> tf.Tensor:
    """Writes U+FFFD for every byte that is no UTF-8; string `(batch_size,)` → the same."""
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace", replacement_char=0xFFFD)


def encoded(text: str | bytes) -> bytes:
    # JSON can hold half a surrogate pair, which no encoding can; as bytes it is repaired like other damage.
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def _steps(config: CleaningConfig) -> dict[str, Step]:
    """The steps that are on, in their order, by the name that they are counted under."""
    steps: dict[str, Step] = {"invalid_utf8": repair}
    if config.html:
        steps["html"] = _without_html
    if config.urls:
        steps["urls"] = lambda text: tf.strings.regex_replace(text, _URL, "")
    if config.control_characters:
        steps["control_characters"] = _without_control_characters
    if config.full_width:
        steps["full_width"] = _half_width
    if config.stop_words:
        patterns = _stop_word_patterns(tuple(config.stop_words))
        steps["stop_words"] = lambda text: _without_stop_words(text, patterns)
    return steps


def _without_html(text: tf.Tensor) -> tf.Tensor:
    text = tf.strings.regex_replace(text, r"(?s)<!--.*?-->", " ")
    text = tf.strings.regex_replace(text, r"(?is)<script\b[^>]*>.*?</script\s*>|<style\b[^>]*>.*?</style\s*>", " ")
    # "a < b" and "<3" are no tags.
    text = tf.strings.regex_replace(text, r"<[/!?]?[A-Za-z][^<>]*>", " ")
    return _without_entities(text)


def _without_entities(text: tf.Tensor) -> tf.Tensor:
    """Each entity as its characters, by name or number; unknown names stay."""
    # Cut at the entities, so that each of them is an element of its own, then put together again.
    text = tf.strings.regex_replace(text, r"\x00", "")
    marked = tf.strings.regex_replace(text, f"({_ENTITY})", f"{_NUL}\\1{_NUL}")
    pieces = tf.strings.split(marked, _NUL)
    is_entity = tf.strings.regex_full_match(pieces.flat_values, _ENTITY)
    place = tf.where(is_entity)
    entities = tf.gather_nd(pieces.flat_values, place)
    written = tf.tensor_scatter_nd_update(pieces.flat_values, place, _characters_of(entities))
    return tf.strings.reduce_join(pieces.with_flat_values(written), axis=-1)


def _characters_of(entities: tf.Tensor) -> tf.Tensor:
    names, hashes, characters = _named_entities()
    name_hash = tf.strings.to_hash_bucket_fast(entities, 2**62)
    nearest = tf.minimum(tf.searchsorted(hashes, name_hash), len(names) - 1)
    named = tf.equal(tf.gather(tf.constant(names), nearest), entities)
    hexadecimal = tf.strings.regex_full_match(entities, r"&#[xX].*")
    digits = tf.strings.lower(tf.strings.regex_replace(entities, r"[&#xX;]", ""))
    numeric = tf.strings.regex_full_match(entities, r"&#.*")
    digits = tf.where(numeric, digits, "0")
    # Right-aligned ASCII digits as numbers: 0 … 9, a … f.
    ascii_digits = tf.io.decode_raw(
        tf.strings.substr(tf.strings.join(["0000000", digits]), -7, 7), tf.uint8, fixed_length=7
    )
    ascii_digits = tf.cast(ascii_digits, tf.int32)
    values = tf.where(ascii_digits >= ord("a"), ascii_digits - ord("a") + 10, ascii_digits - ord("0"))
    base = tf.where(hexadecimal, 16, 10)[:, tf.newaxis]
    code_point = tf.reduce_sum(values * base ** tf.range(6, -1, -1)[tf.newaxis], axis=1)
    code_point = tf.where(tf.equal(code_point, 0), 0xFFFD, code_point)
    character = tf.strings.unicode_encode(code_point[:, tf.newaxis], "UTF-8", errors="replace")
    return tf.where(numeric, character, tf.where(named, tf.gather(tf.constant(characters), nearest), entities))


@functools.cache
def _named_entities() -> tuple[list[str], np.ndarray, list[str]]:
    """The entities of HTML in the order of their hashes; the hashes; their characters."""
    known = {f"&{name}": characters for name, characters in html.entities.html5.items() if name.endswith(";")}
    with tf.init_scope():
        hashes = tf.strings.to_hash_bucket_fast(list(known), 2**62).numpy()
    order = np.argsort(hashes)
    names = list(known)
    return [names[index] for index in order], hashes[order], [known[names[index]] for index in order]


def _without_control_characters(text: tf.Tensor) -> tf.Tensor:
    # Every space that Unicode knows: KerasHub would take a no-break or an ideographic one for a letter.
    text = tf.strings.regex_replace(text, r"\r\n|[\t\n\v\f\r\x{85}\p{Z}]", " ")
    return tf.strings.regex_replace(text, r"[\p{Cc}\p{Cf}]", "")


def _half_width(text: tf.Tensor) -> tf.Tensor:
    code_points = tf.strings.unicode_decode(text, "UTF-8")
    values = code_points.flat_values
    values = tf.where((values >= 0xFF01) & (values <= 0xFF5E), values - 0xFF01 + 0x21, values)
    values = tf.where(tf.equal(values, 0x3000), 0x20, values)
    return tf.strings.unicode_encode(code_points.with_flat_values(values), "UTF-8")


def _without_stop_words(text: tf.Tensor, patterns: Sequence[str]) -> tf.Tensor:
    text = tf.strings.regex_replace(text, f"[{_BEGIN}{_END}]", "")
    text = _with_words_marked(text)
    for pattern in patterns:
        text = tf.strings.regex_replace(text, pattern, "")
    return tf.strings.regex_replace(text, f"[{_BEGIN}{_END}]", "")


def _with_words_marked(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.regex_replace(text, _WORD, f"{_BEGIN}\\1{_END}")


@functools.cache
def _stop_word_patterns(stop_words: tuple[str, ...]) -> tuple[str, ...]:
    """Patterns that find stop words in a text whose words are marked.

    The stop words are marked in the same way: "the" is found as a whole word only, and a Chinese one, which has no
    marks, anywhere.
    """
    for word in stop_words:
        if not word.strip():
            raise UserError(f'data.cleaning.stop_words has an empty word, "{shorten(word)}"; remove it')
    with tf.init_scope():
        marked = [word.decode() for word in _with_words_marked(repair(tf.constant(stop_words))).numpy()]
    marked = sorted(set(marked), key=lambda word: (-len(word), word))  # "nothing at all" before "nothing"
    return tuple(
        "(?i)" + "|".join(_escaped(word) for word in marked[start : start + _STOP_WORDS_PER_PATTERN])
        for start in range(0, len(marked), _STOP_WORDS_PER_PATTERN)
    )


def _escaped(text: str) -> str:
    """A pattern that matches this text and no other."""
    return "".join(rf"\x{{{ord(c):x}}}" if c.isascii() and not c.isalnum() else c for c in text)
