"""Preprocessors by kind, and reading them back from a folder."""

from pathlib import Path
from typing import Any

from pipelines.data import PREPROCESSOR_FILE, Preprocessor
from pipelines.errors import MissingFileError, UserError
from pipelines.files import read_json
from pipelines.images.preprocess import ImagePreprocessor
from pipelines.names import did_you_mean
from pipelines.tables.preprocess import TablePreprocessor
from pipelines.text.preprocess import TextPreprocessor

KINDS: dict[str, Any] = {"image": ImagePreprocessor, "table": TablePreprocessor, "text": TextPreprocessor}


def load_preprocessor(folder: Path) -> Preprocessor:
    """The preprocessor that `save` wrote into `folder`.

    Args:
        folder: `preprocessor/` of a workdir.

    Raises:
        UserError: a file is missing or damaged; the message names it.

    Example:
        >>> data.preprocess.save(folder)
        >>> load_preprocessor(folder)(raw)  # the same numbers as data.preprocess(raw)
    """
    path = Path(folder, PREPROCESSOR_FILE)
    if not path.is_file():
        raise MissingFileError(f"{path} is missing: {folder} holds no preprocessor; train the run again")
    config = read_json(path)
    kind = config.get("kind") if isinstance(config, dict) else None
    if kind not in KINDS:
        raise UserError(f"{path} is damaged: kind is {kind!r}; {did_you_mean(str(kind), KINDS)}")
    try:
        preprocess: Preprocessor = KINDS[kind].load(Path(folder), config)
        return preprocess
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: {type(error).__name__}: {error}; train the run again") from error
