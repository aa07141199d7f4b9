"""Raw input → answer in one graph: what `predict` runs is what `export` writes."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from pipelines.data import DatasetInfo, Examples, Preprocessor
from pipelines.errors import UserError

if TYPE_CHECKING:
    from tfbigmodel.training.checkpoints import Checkpoint
    from tfbigmodel.workdir import Workdir

# Large enough that a call's overhead does not count, small enough for a table of any width.
BATCH_SIZE = 256


class InferenceModule(tf.Module):
    """Preprocessing, model and output as `tf.function`s, one for each of the preprocessor's signatures.

    It is exported as it is: its variables are the model's weights, once, and its tables the preprocessor's.

    Args:
        model: a trained model.
        preprocess: the preprocessor it was trained with.
        task: the functions of `tfbigmodel.tasks`.
        info: the data's classes or target scale.
        threshold: the decision threshold for two classes; None for the likelier class.

    Attributes:
        functions: signature name → `tf.function` from raw inputs by name, `(batch_size, …)` each, to outputs by name.
    """

    def __init__(
        self,
        model: keras.Model,
        preprocess: Preprocessor,
        task: ModuleType,
        info: DatasetInfo,
        threshold: float | None = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.threshold = threshold
        # A tf.Module does not see Keras' weights; what a SavedModel's functions read must be reachable from it.
        self.weights = [variable.value for variable in model.variables]

        def answer(**raw: tf.Tensor) -> dict[str, tf.Tensor]:
            return task.serving_outputs(model(preprocess(raw), training=False), info, threshold)

        self.functions = {
            name: tf.function(answer, autograph=False).get_concrete_function(**specs)
            for name, specs in preprocess.signatures.items()
        }

    def predict(self, examples: Examples, batch_size: int = BATCH_SIZE) -> dict[str, np.ndarray]:
        """The answers to raw examples, in their order.

        Args:
            examples: raw features of one of the signatures.
            batch_size: examples in one call.

        Returns:
            Output name → array `(num_examples, …)`; strings as `bytes`.
        """
        names = set(examples.features)
        function = next(
            self.functions[name] for name, specs in self.preprocess.signatures.items() if set(specs) == names
        )
        parts: list[Mapping[str, tf.Tensor]] = []
        for start in range(0, len(examples), batch_size):
            batch = {
                name: tf.constant(values[start : start + batch_size]) for name, values in examples.features.items()
            }
            parts.append(function(**batch))
        return {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}


def load_inference(workdir: Workdir, threshold: float | None = None) -> tuple[InferenceModule, Checkpoint]:
    """A trained run as one module from raw input to answer.

    Args:
        workdir: a trained run.
        threshold: the decision threshold for two classes; the configuration's where None.

    Returns:
        The module, and the checkpoint that its weights are from.

    Raises:
        UserError: the run is not trained, or a file of it is damaged.
    """
    from tfbigmodel.model import load_trained, task_of

    config, info = workdir.config(), workdir.info()
    model, checkpoint = load_trained(workdir)
    threshold = config.evaluation.threshold if threshold is None else threshold
    check_threshold(threshold, info)
    return InferenceModule(model, workdir.load_preprocessor(), task_of(info), info, threshold), checkpoint


def check_threshold(threshold: float | None, info: DatasetInfo) -> None:
    """Checks that a decision threshold makes sense for the data.

    Raises:
        UserError: it is given, and there are not exactly two classes.
    """
    if threshold is not None and info.num_classes != 2:
        raise UserError(
            f"a decision threshold ({threshold}) is for two classes; this data has "
            f"{info.num_classes or 'none: it is a regression'}; leave it out"
        )
