"""Opening text files in the encoding the user names, and finding the byte that is not in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pipelines.errors import UserError

_CODECS = {"utf-8": "utf-8-sig", "gb18030": "gb18030"}  # utf-8-sig drops a byte-order mark and needs none


@contextmanager
def open_text(path: Path, encoding: str) -> Iterator[TextIO]:
    """Opens a text file for reading, line ends left as they are.

    Raises:
        UserError: (from reading within the block) a byte is not in the encoding; it names the line and the byte.
    """
    with open(path, encoding=_CODECS[encoding], newline="") as file:
        try:
            yield file
        except UnicodeDecodeError:
            # The reader knows the place in its buffer only: look for it in the whole file.
            raise _wrong_byte(path, encoding) from None


def _wrong_byte(path: Path, encoding: str) -> UserError:
    offset = 0
    with open(path, "rb") as file:
        # Line by line, for files larger than memory. Neither encoding has the byte of a line break inside a character.
        for line, content in enumerate(file, start=1):
            try:
                content.decode(encoding)
            except UnicodeDecodeError as error:
                other = "gb18030" if encoding == "utf-8" else "utf-8"
                return UserError(
                    f"{path} line {line} (row {line - 1} if no cell has line breaks): byte "
                    f"0x{content[error.start]:02x} at offset {offset + error.start} is not {encoding}; if the file is "
                    f"{other}, set data.encoding: {other}"
                )
            offset += len(content)
    return UserError(f"{path} changed while it was read; try again")
