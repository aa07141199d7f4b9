"""Saving without stopping: a step waits for a copy of the state, and a thread writes it while training goes on."""

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import keras

from tfbigmodel.training.checkpoints import Arrays, prune_checkpoints, read_variables, save_checkpoint


class CheckpointSaver:
    """Writes a run's checkpoints, one after the other, in a thread of its own.

    The copy of the state is kept and written over by the next one: memory that is new costs ten times what copying
    does (3 s against 0.3 s for BERT-base with Adam). So the host's memory holds the state once more than training does.

    Args:
        root: the folder of the run's checkpoints.
        keep: how many of the newest are kept, besides the best.
        asynchronous: write while training goes on; otherwise `save` returns when the checkpoint is on the disk.
        publish: called after each checkpoint, when the folder is as it is to be; None for nothing.

    Example:
        >>> with CheckpointSaver(workdir.checkpoints, keep=2) as saver:
        ...     saver.save(100, model.variables, optimizer.variables, {"epoch": 1})
    """

    def __init__(
        self, root: Path, keep: int, asynchronous: bool = True, publish: Callable[[], None] | None = None
    ) -> None:
        self._root, self._keep, self._asynchronous, self._publish = root, keep, asynchronous, publish
        self._buffers: tuple[dict, dict] = ({}, {})
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def read(
        self, model: Sequence[keras.Variable], optimizer: Sequence[keras.Variable]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Copies the state to the host, when the checkpoint before it is written.

        Every worker must call this: reading a variable that replicas hold parts of is a collective operation.

        Raises:
            UserError: the checkpoint before could not be written.
        """
        self.wait()
        self._buffers = (read_variables(model, self._buffers[0]), read_variables(optimizer, self._buffers[1]))
        return self._buffers

    def save(
        self,
        step: int,
        arrays: tuple[Arrays, Arrays],
        state: Mapping[str, Any],
        extra: Arrays | None = None,
    ) -> None:
        """Begins to write a checkpoint, which appears whole or not at all.

        Args:
            step: updates done.
            arrays: what `read` returned.
            state: where training stands, as `save_checkpoint` takes it.
            extra: tensors of the host, such as callbacks'.

        Raises:
            UserError: this is not asynchronous, and it cannot be written.
        """
        self.wait()
        # The state, too, is copied: training goes on to change what is in it, such as the sums of a curve's next point.
        contents = copy.deepcopy(dict(state))
        self._thread = threading.Thread(target=self._write, args=(step, arrays, contents, extra), name="checkpoint")
        self._thread.start()
        if not self._asynchronous:
            self.wait()

    def check(self) -> None:
        """Raises what went wrong with a checkpoint since; returns at once.

        Raises:
            UserError: it could not be written.
        """
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Waits until the last checkpoint is written.

        Raises:
            UserError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> "CheckpointSaver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        elif self._thread is not None:
            self._thread.join()  # what ends the run is told, and a checkpoint that was begun is finished

    def _write(self, step: int, arrays: tuple[Arrays, Arrays], state: dict[str, Any], extra: Arrays | None) -> None:
        try:
            save_checkpoint(self._root, step, *arrays, state, extra)
            prune_checkpoints(self._root, self._keep)
            if self._publish is not None:
                self._publish()
        except BaseException as error:  # it is raised again where it is waited for
            self._error = error
