"""Parquet, where pyarrow is installed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import UserError
from pipelines.tables.records import Records


def records(path: Path) -> Records:
    """The rows of a Parquet file, each value as it would be written: 1, 1.0, true, 2026-01-31.

    Raises:
        UserError: pyarrow is not installed, the file is no Parquet file, or a column's type has no written form.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(
            f'{path} needs the package pyarrow, which is not installed: pip install "tfbigmodel[parquet]"'
        ) from error
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is no Parquet file, or a damaged one: {str(error).splitlines()[0]}") from error
    columns = list(file.schema_arrow.names)
    return Records(columns, _rows(file, path))


def _rows(file: Any, path: Path) -> Iterator[tuple[tuple[Any, ...], None]]:
    import pyarrow as pa

    try:
        for batch in file.iter_batches(batch_size=16_384):
            columns = [
                _text_column(column, name, path) for name, column in zip(batch.schema.names, batch.columns, strict=True)
            ]
            for row in zip(*columns, strict=True):
                yield row, None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is a damaged Parquet file: {str(error).splitlines()[0]}") from error


def _text_column(column: Any, name: str, path: Path) -> list[str | None]:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind):
        return [
            None if value is None else json.dumps(value, ensure_ascii=False, default=str)
            for value in column.to_pylist()
        ]
    if pa.types.is_floating(kind):
        # NumPy's number of the same width writes the shortest text that reads back as the same number: 0.1, 1.0, 1e+20.
        number = np.dtype(kind.to_pandas_dtype()).type
        return [None if value is None else str(number(value)) for value in column.to_pylist()]
    try:
        text: list[str | None] = column.cast(pa.string()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"{path}: column {name} has the type {column.type}, which cannot be read as text") from error
    return text
