"""The base of every part of a configuration, and the types of its paths."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from pipelines.object_store import check_url
from pipelines.remote import is_remote


class Section(BaseModel):
    """A part of a configuration: unknown keys are refused, values are not changed after validation."""

    # `strict` keeps "64" from passing for 64 and 1 for true; the docstring under a field is its description in the
    # JSON schema, which editors show.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


def _location(value: Any) -> Path | str:
    if is_remote(value):
        return check_url(value)
    if not isinstance(value, str | Path):
        raise PydanticCustomError("path_type", "Input is not a valid path")
    return Path(value)


def _local(value: Any) -> Any:
    if is_remote(value):
        raise ValueError(f"expected a folder of this machine, received {value}")
    return value


Location = Annotated[Path | str, PlainValidator(_location, json_schema_input_type=Path)]
"""A local path, or a URL such as `gs://bucket/data`, which stays a text: a Path would take one of its slashes."""
LocalPath = Annotated[Path, Field(strict=False), BeforeValidator(_local)]
"""A path on this machine."""
