"""JSON Lines: one object a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.names import listing
from pipelines.tables.encoding import open_text
from pipelines.tables.records import Records


def records(path: Path, encoding: str) -> Records:
    """The objects of a JSON Lines file; the first one says which columns there are.

    A key that a later object lacks is a missing cell. Numbers keep their written form, `true` and `false` theirs, lists
    and objects are written out again.

    Raises:
        UserError: the file is empty; while iterating: a line is no JSON object, or has a key the first one had not.
    """
    objects = _objects(path, encoding)
    first = next(objects, None)
    if first is None:
        raise UserError(f"{path} is empty; one JSON object a line was expected")
    columns = list(first[0])
    return Records(columns, _rows(first, objects, columns, path))


def _objects(path: Path, encoding: str) -> Iterator[tuple[dict[str, Any], int]]:
    with open_text(path, encoding) as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                value = json.loads(
                    text, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_without_duplicates
                )
            except json.JSONDecodeError as error:
                raise UserError(f"{path} line {line} is not valid JSON: {error.msg} at column {error.colno}") from error
            except _DuplicateKeyError as error:
                raise UserError(f"{path} line {line} has the key {error} twice; rename one of them") from error
            except RecursionError:
                raise UserError(f"{path} line {line} is nested too deeply to be a row of a table") from None
            if "\\ud" in text or "\\uD" in text:
                _check_surrogates(value, path, line)
            if not isinstance(value, dict):
                raise UserError(f'{path} line {line} is no JSON object; {{"column": value, …}} was expected')
            yield value, line


def _check_surrogates(value: Any, path: Path, line: int) -> None:
    """Refuses half a surrogate pair, which JSON can write and no text can hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):x}"
        raise UserError(
            f"{path} line {line} has {half} without its other half (a text that was cut inside a character); remove it"
        ) from None


class _DuplicateKeyError(Exception):
    pass


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateKeyError(f'"{next(name for name in names if names.count(name) > 1)}"')
    return value


def _rows(
    first: tuple[dict[str, Any], int], rest: Iterator[tuple[dict[str, Any], int]], columns: list[str], path: Path
) -> Iterator[tuple[list[Any], int]]:
    known = set(columns)
    yield [_text(first[0][column]) for column in columns], first[1]
    for value, line in rest:
        if not value.keys() <= known:
            new = [key for key in value if key not in known]
            raise UserError(
                f"{path} line {line} has the key {listing(new[:1])}, which the first object has not "
                f"(it has {listing(columns, 6)}); give it there too, null where it has no value"
            )
        yield [_text(value.get(column)) for column in columns], line


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(_with_numbers(value), ensure_ascii=False)


def _with_numbers(value: Any) -> Any:
    """Numbers inside lists were read as text; they are numbers again in what is written out."""
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    if isinstance(value, str):
        try:
            return json.loads(value) if value and value[0] in "-0123456789" else value
        except json.JSONDecodeError:
            return value
    return value
