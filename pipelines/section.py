"""The base of every part of a configuration."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a configuration: unknown keys are refused, values are not changed after validation."""

    # `strict` keeps "64" from passing for 64 and 1 for true; the docstring under a field is its description in the
    # JSON schema, which editors show.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
