"""The command `predict`: a trained run's answers to new examples, beside the examples themselves."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import UserError
from pipelines.object_store import check_url, listing
from pipelines.remote import is_remote, join, write_text_to
from tfbigmodel.command_line import callable_module, import_tensorflow, make_parser, run_command, say
from tfbigmodel.mirror import readable
from tfbigmodel.workdir import Workdir

if TYPE_CHECKING:
    import pandas as pd

    from tfbigmodel.config import RunConfig

_EPILOG = """examples:
  python -m tfbigmodel.predict --workdir runs/table --input customers.csv --output answers.csv
  python -m tfbigmodel.predict --workdir runs/dense --image seven.png three.png
  python -m tfbigmodel.predict --workdir runs/resnet50 --image photos --output answers.csv
  python -m tfbigmodel.predict --workdir runs/lstm --text 我喜欢这本书 这本书很糟糕
  python -m tfbigmodel.predict --workdir runs/generator --text 这家酒店 --temperature 0.8 --top_k 20 --seed 7
"""

# Flags of a text_generator run: the fields of its model.sampling.
_SAMPLING = {
    "max_new_tokens": (int, "tokens to write at most"),
    "temperature": (float, "below 1 likelier tokens, above 1 more variety; 0: the likeliest always"),
    "top_k": (int, "choose among so many of the likeliest tokens; 0: all"),
    "top_p": (float, "choose among the likeliest tokens that have this probability together"),
    "repetition_penalty": (float, "above 1: tokens that have occurred become less likely"),
    "num_beams": (int, "above 1: beam search, which does not sample"),
    "seed": (int, "fixes what is drawn"),
}


def predict(
    workdir: Path | str,
    input_file: Path | str | None = None,
    images: Sequence[Path | str] = (),
    threshold: float | None = None,
    all_probabilities: bool = False,
    texts: Sequence[str] = (),
    sampling: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """A trained run's answers, in the order of the input.

    Args:
        workdir: a trained run.
        input_file: a table with the run's feature columns; the label and any other column may be there too.
        images: image files, for a run on images; a folder stands for the images in it, sorted by name, without those in
            folders below it.
        threshold: the decision threshold for two classes; the configuration's where None.
        all_probabilities: a column `probability_<class>` for each class, too.
        texts: texts, for a run on texts.
        sampling: how a text_generator run writes: fields of `model.sampling`, where they differ from the run's.

    Returns:
        One row for each example: the input's columns as text (`image`, the path, for images; `text` for texts), then
        `prediction` (a text_generator's: how the text goes on) and, for classification, `probability`, that of the
        predicted class (float32). Where the run names the likeliest classes, also `top`: their names and probabilities,
        the likeliest first, as a dictionary.

    Raises:
        UserError: the run is not trained, or an example does not fit it; the message says which.

    Example:
        >>> predict("runs/dense", images=["seven.png"])
               image prediction  probability
        0  seven.png          7     0.987654
    """
    import pandas as pd

    import pipelines
    from tfbigmodel.answers import answer_columns
    from tfbigmodel.inference import load_inference

    run = Workdir(readable(workdir), str(workdir))
    config, info = run.config(), run.info()
    module, _ = load_inference(run, threshold, with_sampling(config, sampling) if sampling else None)
    if input_file is not None:
        frame = pipelines.read_table(input_file, config.data)
        examples = pipelines.read_examples(input_file, config.data, module.preprocess, info, labelled=False)
    elif texts:
        # A command line's byte that is no UTF-8, and half a surrogate pair: they are no text, and no table holds them.
        texts = [re.sub("[\ud800-\udfff]", "\ufffd", text) for text in texts]
        frame = pd.DataFrame({"text": texts})
        examples = pipelines.read_texts(texts, module.preprocess)
    else:
        files = image_files(images)
        frame = pd.DataFrame({"image": [str(path) for path in files]})
        examples = pipelines.read_image_files(files, module.preprocess)
    answers = answer_columns(module.predict(examples), info, all_probabilities)
    for name in answers:
        if name in frame.columns:
            raise UserError(f"{input_file}: it has a column {name} already, where the answer would go; rename it")
    return frame.assign(**answers)


def image_files(paths: Sequence[Path | str]) -> list[Path | str]:
    """Files as they are given, local or remote; in place of a folder the images in it, by name.

    Raises:
        UserError: a folder has no images, or may not be read.
    """
    from pipelines.sources.image_folder import SUFFIXES

    files: list[Path | str] = []
    for path in paths:
        names = _names_in(path)
        if names is None:
            files.append(path)
            continue
        # Hidden files are no images of the user's: some systems leave such beside each image.
        found = [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
        if not found:
            raise UserError(f"{path} has no images ({', '.join(SUFFIXES)}); folders below it are not searched")
        files += [join(path, name) for name in found]
    return files


def _names_in(path: Path | str) -> list[str] | None:
    """The files in a folder, sorted; None for what is no folder."""
    if is_remote(path):
        names = sorted(listing(str(path)))
        return [name for name in names if "/" not in name] if names not in ([""], []) else None
    if not Path(path).is_dir():
        return None
    try:
        return [file.name for file in sorted(Path(path).iterdir()) if file.is_file()]
    except PermissionError as error:
        raise UserError(f"no permission to read {path}") from error


def with_sampling(config: RunConfig, sampling: Mapping[str, float]) -> RunConfig:
    """A text_generator's configuration with other values in `model.sampling`.

    Raises:
        UserError: it is another chapter's, or a value is unknown or out of range.
    """
    from pydantic import ValidationError

    from tfbigmodel.chapters.text_generator import SamplingConfig, TextGeneratorConfig
    from tfbigmodel.config_errors import explain

    model = config.model
    if not isinstance(model, TextGeneratorConfig):
        raise UserError(f"{', '.join(sampling)}: this is how a text_generator writes, and the run is a {model.chapter}")
    values = {**model.sampling.model_dump(), **sampling}
    try:
        chosen = SamplingConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, values, SamplingConfig)) from error
    return config.model_copy(update={"model": model.model_copy(update={"sampling": chosen})})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m tfbigmodel.predict --help`."""
    parser = make_parser("tfbigmodel.predict", "Answer new examples with a trained run.", _EPILOG)
    parser.add_argument("--workdir", required=True, help="a trained run")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--input", dest="input_file", help="a table: CSV, TSV, JSON Lines or Parquet")
    what.add_argument(
        "--image", dest="images", nargs="+", default=[], help="image files (PNG, JPEG, BMP, GIF), or folders"
    )
    what.add_argument("--text", dest="texts", nargs="+", default=[], help="texts, one answer each")
    parser.add_argument(
        "--output",
        help="a .csv or .jsonl file (default: standard output, as JSON Lines, or answer and text for --text)",
    )
    parser.add_argument("--threshold", type=float, help="two classes: see evaluate --help")
    parser.add_argument("--all_probabilities", action="store_true", help="one column for each class")
    writing = parser.add_argument_group("how a text_generator writes (default: the run's model.sampling)")
    for name, (kind, text) in _SAMPLING.items():
        writing.add_argument(f"--{name}", type=kind, help=text)
    return run_command(parser, _act, argv)


def _act(arguments: argparse.Namespace) -> None:
    config = Workdir(readable(arguments.workdir), arguments.workdir).config()  # a wrong path is told at once
    output = arguments.output
    suffix = os.path.splitext(output)[1] if output else ""
    if output and suffix not in (".csv", ".jsonl"):
        raise UserError(f"--output: expected a .csv or .jsonl file, received {output}")
    if output and is_remote(output):
        check_url(output)  # before the work
    if arguments.input_file and output and _same(output, arguments.input_file):
        raise UserError(f"--output: {output} is the input; choose another file")
    if arguments.threshold is not None and not 0.0 < arguments.threshold < 1.0:
        raise UserError(f"--threshold: expected a number between 0 and 1, received {arguments.threshold}")
    sampling = {name: getattr(arguments, name) for name in _SAMPLING if getattr(arguments, name) is not None}
    if sampling:
        with_sampling(config, sampling)  # a wrong value is told at once
    import_tensorflow()

    from tfbigmodel.answers import csv_text, json_lines, text_lines

    frame = predict(
        arguments.workdir,
        arguments.input_file,
        arguments.images,
        arguments.threshold,
        arguments.all_probabilities,
        arguments.texts,
        sampling,
    )
    encoding = getattr(config.data, "encoding", "utf-8")
    if output is None and arguments.texts:
        sys.stdout.writelines(text_lines(frame))
        return
    if output is None:
        ascii_only = not (sys.stdout.encoding or "").lower().replace("-", "").startswith(("utf", "gb18030"))
        sys.stdout.writelines(json_lines(frame, arguments.input_file, encoding, ascii_only))
        return

    text = csv_text(frame) if suffix == ".csv" else "".join(json_lines(frame, arguments.input_file, encoding))
    write_text_to(output, text)
    say(f"answered {len(frame):,} examples in {output}")


def _same(one: str, other: str) -> bool:
    if is_remote(one) or is_remote(other):
        return one == other
    return Path(one).resolve() == Path(other).resolve()


callable_module(__name__, predict)

if __name__ == "__main__":
    sys.exit(main())
