"""The task of data with labels: classification or regression, for every chapter that does either."""

from pipelines.data import DatasetInfo
from pipelines.errors import UserError
from tfbigmodel.tasks import Task
from tfbigmodel.tasks.classification import Classification
from tfbigmodel.tasks.regression import Regression


def labelled_task(info: DatasetInfo, chapter: str) -> Task:
    """The task that the data's labels call for.

    Args:
        info: the data's classes or target scale.
        chapter: for the message.

    Raises:
        UserError: the data has no labels.
    """
    if info.task == "classification":
        return Classification(info.class_names)
    if info.task == "regression":
        return Regression(info.target_mean, info.target_scale)
    raise UserError(
        f"model.chapter: {chapter} learns from labels, and data.task is {info.task}; choose another chapter"
    )
