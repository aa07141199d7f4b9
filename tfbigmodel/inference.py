"""Raw input → answer in one graph: what `predict` runs is what `export` writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from pipelines.data import DatasetInfo, Examples, Preprocessor
from pipelines.errors import UserError
from pipelines.images.preprocess import ImagePreprocessor

if TYPE_CHECKING:
    from tfbigmodel.config import RunConfig
    from tfbigmodel.tasks import Task
    from tfbigmodel.training.checkpoints import Checkpoint
    from tfbigmodel.workdir import Workdir

# Large enough that a call's overhead does not count, small enough for a table of any width; attention over texts takes
# more memory, and has more to do in each call.
BATCH_SIZE = 256
TEXT_BATCH_SIZE = 64
# Batches of texts that are sorted by length together: of files, neighbours are read together.
_SORTED_BATCHES = 64
# A network keeps many values for each pixel: as many pixels in a call as 32 colour images of 224 × 224 have.
_IMAGE_VALUES = 32 * 224 * 224 * 3


class InferenceModule(tf.Module):
    """Preprocessing, model and output as `tf.function`s, one for each signature.

    It is exported as it is: its variables are the model's weights, once, and its tables the preprocessor's.

    Args:
        model: a trained model.
        preprocess: the preprocessor it was trained with.
        functions: signature name → traced function from raw inputs by name, `(batch_size, …)` each, to outputs by name.
        threshold: the decision threshold for two classes; None for the likelier class.

    Attributes:
        functions: as they were given.
    """

    def __init__(
        self,
        model: keras.Model,
        preprocess: Preprocessor,
        functions: Mapping[str, Callable[..., dict[str, tf.Tensor]]],
        threshold: float | None = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.threshold = threshold
        # A tf.Module does not see Keras' weights; what a SavedModel's functions read must be reachable from it.
        self.weights = [variable.value for variable in model.variables]
        self.functions = dict(functions)

    def predict(self, examples: Examples, batch_size: int | None = None) -> dict[str, np.ndarray]:
        """The answers to raw examples, in their order.

        Args:
            examples: raw features of one of the preprocessor's signatures.
            batch_size: examples in one call; by the kind of data where None.

        Returns:
            Output name → array `(num_examples, …)`; strings as `bytes`.
        """
        batches = self.batches(examples, batch_size)
        parts = [self.answer(examples, rows) for rows in batches]
        places = np.argsort(np.concatenate(batches))
        return {name: np.concatenate([part[name] for part in parts])[places] for name in parts[0]}

    def batches(self, examples: Examples, batch_size: int | None = None) -> list[np.ndarray]:
        """Which examples `predict` answers together: the rows of each call."""
        names = set(examples.features)
        batch_size = batch_size or batch_size_for(self.preprocess, names)
        rows = np.arange(len(examples))
        if names == {"text"}:  # a batch is padded to its longest text: texts of similar length go together
            lengths = np.array([len(text) for text in examples.features["text"]])
            rows = np.lexsort((lengths, rows // (_SORTED_BATCHES * batch_size)))
        return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]

    def answer(self, examples: Examples, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The answers to some of the examples, in one call; the values of image files are read here."""
        names = set(examples.features)
        function = next(
            self.functions[name] for name, specs in self.preprocess.signatures.items() if set(specs) == names
        )
        answers = function(**{name: tf.constant(values[rows]) for name, values in examples.features.items()})
        return {name: values.numpy() for name, values in answers.items()}


def batch_size_for(preprocess: Preprocessor, names: Collection[str]) -> int:
    """How many examples a call takes without being asked for a number.

    Args:
        preprocess: the run's preprocessor.
        names: the raw inputs' names.

    Returns:
        256 rows of a table or small images, 64 texts, 32 images of 224 × 224, fewer of larger ones.
    """
    if set(names) == {"text"}:
        return TEXT_BATCH_SIZE
    if not isinstance(preprocess, ImagePreprocessor):
        return BATCH_SIZE
    return int(np.clip(_IMAGE_VALUES // math.prod(preprocess.shape), 1, BATCH_SIZE))


def make_inference(
    model: keras.Model,
    preprocess: Preprocessor,
    config: RunConfig,
    info: DatasetInfo,
    threshold: float | None = None,
) -> InferenceModule:
    """A model with its preprocessing and its chapter's way to answer.

    Args:
        model: with the weights to answer with.
        preprocess: the preprocessor it was trained with.
        config: the run's configuration.
        info: the data's classes or target scale.
        threshold: the decision threshold for two classes; None for the likelier class.
    """
    from tfbigmodel.chapters import hook
    from tfbigmodel.model import make_task

    make_functions = hook(config.model.chapter, "inference_functions")
    if make_functions is not None:
        functions = make_functions(model, preprocess, info, config.model)
    else:
        functions = _answers(model, preprocess, make_task(config, info), threshold)
    return InferenceModule(model, preprocess, functions, threshold)


def _answers(
    model: keras.Model, preprocess: Preprocessor, task: Task, threshold: float | None
) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    def answer(**raw: tf.Tensor) -> dict[str, tf.Tensor]:
        return task.serving_outputs(model(preprocess(raw), training=False), threshold)

    return {
        name: tf.function(answer, autograph=False).get_concrete_function(**specs)
        for name, specs in preprocess.signatures.items()
    }


def load_inference(
    workdir: Workdir, threshold: float | None = None, config: RunConfig | None = None
) -> tuple[InferenceModule, Checkpoint]:
    """A trained run as one module from raw input to answer.

    Args:
        workdir: a trained run.
        threshold: the decision threshold for two classes; the configuration's where None.
        config: the run's configuration, where it shall answer in another way than it says there.

    Returns:
        The module, and the checkpoint that its weights are from.

    Raises:
        UserError: the run is not trained, or a file of it is damaged.
    """
    from tfbigmodel.model import load_trained

    config, info = config or workdir.config(), workdir.info()
    model, checkpoint = load_trained(workdir)
    threshold = config.evaluation.threshold if threshold is None else threshold
    check_threshold(threshold, info)
    return make_inference(model, workdir.load_preprocessor(), config, info, threshold), checkpoint


def check_threshold(threshold: float | None, info: DatasetInfo) -> None:
    """Checks that a decision threshold makes sense for the data.

    Raises:
        UserError: it is given, and there are not exactly two classes.
    """
    if threshold is not None and info.num_classes != 2:
        none = "none: it is " + ("a regression" if info.task == "regression" else "for a model of language")
        raise UserError(
            f"a decision threshold ({threshold}) is for two classes; this data has {info.num_classes or none}; "
            "leave it out"
        )
