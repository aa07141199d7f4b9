"""The command `train`: from a configuration to a trained and measured model in a workdir."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError
from tfbigmodel.command_line import callable_module, import_tensorflow, make_parser, run_command, say

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from pipelines.data import Data, DatasetInfo
    from tfbigmodel.config import RunConfig
    from tfbigmodel.tasks import Task
    from tfbigmodel.training.tensorboard import TensorBoard
    from tfbigmodel.workdir import Workdir

_EPILOG = """examples:
  python -m tfbigmodel.train --config configs/dense.yaml --workdir runs/dense
  python -m tfbigmodel.train --config configs/dense.yaml --workdir runs/wide --set model.hidden_units=[512,256]
  python -m tfbigmodel.train --config configs/dense.yaml --dry_run
  python -m tfbigmodel.train --config configs/dense.yaml --fast_dev_run

The same command goes on where a killed or stopped run was. TensorBoard: tensorboard --logdir runs
"""


def train(
    config: RunConfig,
    workdir: Path | str,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    progress: bool = False,
    limit: Callable[[Data], Data] | None = None,
) -> dict[str, Any]:
    """Trains a model, or goes on with a run that was killed, and measures it on each split.

    Args:
        config: the run's configuration.
        workdir: the folder that holds the whole state of the run, local or remote.
        callbacks: ordinary Keras callbacks; batch hooks are called once per execution.
        progress: print what happens, with Keras' progress bar.
        limit: makes of the data what is used of it; all where None (see `tfbigmodel.cost.limited`).

    Returns:
        What metrics.json holds: `{"train": {…}, "validation": {…}, "test": {…}}`; an empty dictionary on the workers
        of a multi-worker run that are not its chief.

    Raises:
        UserError: the configuration, the data or the workdir is not fit for training, or training diverged.
        WorkerGone: another worker of a multi-worker run is gone. Where this one hangs waiting for it, the process ends.
        Interrupted: SIGTERM or SIGINT arrived; the state is saved.

    Example:
        >>> metrics = train(load_config("configs/dense.yaml"), "runs/dense")
        >>> metrics["test"]["accuracy"] > 0.95
        True
    """
    from tfbigmodel.config import resolve
    from tfbigmodel.mirror import mirrored, readable
    from tfbigmodel.model import fill_in_preset
    from tfbigmodel.training.cluster import cluster_of_environment
    from tfbigmodel.training.distribution import agree, is_chief, make_strategy, resource_errors_told
    from tfbigmodel.training.health import watched
    from tfbigmodel.training.signals import Interrupted
    from tfbigmodel.workdir import Workdir, locked, prepare

    config = fill_in_preset(resolve(config))  # it may have been made in Python
    cluster = cluster_of_environment(config.training.strategy)
    tell = say if progress and (cluster is None or cluster.is_chief) else lambda text: None
    with (
        watched(cluster, config.training.workers, tell, together=(Interrupted,)) as peers,
        resource_errors_told(cluster is not None, peers),
    ):
        strategy = make_strategy(config.training)
        if not is_chief(strategy):
            agree(strategy, 0)  # until the chief has prepared the workdir
            directory = Workdir(readable(workdir), str(workdir))
            return _run(config, directory, strategy, callbacks, tell, False, limit=limit)
        with mirrored(workdir) as (path, publish), locked(Workdir(path, str(workdir))):
            directory = Workdir(path, str(workdir))
            prepare(directory, config)
            publish()
            agree(strategy, 0)
            return _run(config, directory, strategy, callbacks, tell, progress and sys.stdout.isatty(), publish, limit)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m tfbigmodel.train --help`."""
    parser = make_parser("tfbigmodel.train", "Train a model from one YAML file, or go on with a run.", _EPILOG)
    parser.add_argument("--config", required=True, help="the configuration, a YAML file")
    parser.add_argument("--workdir", help="the folder, local or remote, for all that the run writes")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE",
        help="change a value of the configuration, such as training.epochs=3; may be repeated",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument(
        "--dry_run", action="store_true",
        help="write no run; tell parameters, operations, memory and time, from the graph and two real updates",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="with --dry_run: print it as JSON")
    parser.add_argument(
        "--fast_dev_run", type=int, nargs="?", const=2, metavar="N",
        help="all that a run does, from data to an export, on N batches (default: 2) in a temporary folder",
    )  # fmt: skip
    return run_command(parser, _act, argv)


def _act(arguments: argparse.Namespace) -> int:
    from tfbigmodel.config import load_config

    _check_together(arguments)
    config = load_config(arguments.config, arguments.overrides)
    import_tensorflow()

    from tfbigmodel.training.health import WorkerGone
    from tfbigmodel.training.signals import Interrupted

    try:
        if arguments.dry_run:
            from tfbigmodel.cost.estimation import dry_run

            dry_run(config, arguments.json, arguments.quiet)
        elif arguments.fast_dev_run is not None:
            from tfbigmodel.cost.fast_run import fast_dev_run

            fast_dev_run(config, arguments.fast_dev_run, arguments.quiet)
        else:
            train(config, arguments.workdir, progress=not arguments.quiet)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal_number
    except WorkerGone as gone:
        print(f"error: {' '.join(str(gone).split())}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        # Not the usual way out: TensorFlow would wait for the worker that is gone.
        os._exit(gone.exit_code)
    return 0


def _check_together(arguments: argparse.Namespace) -> None:
    if arguments.dry_run and arguments.fast_dev_run is not None:
        raise UserError("--dry_run counts and measures, --fast_dev_run runs all of it on a few batches; choose one")
    if arguments.json and not arguments.dry_run:
        raise UserError("--json goes with --dry_run; a run's metrics are in its workdir's metrics.json")
    if arguments.fast_dev_run is not None and arguments.fast_dev_run < 1:
        raise UserError(f"--fast_dev_run: expected a number of batches from 1 on, received {arguments.fast_dev_run}")
    if arguments.workdir is None and not arguments.dry_run and arguments.fast_dev_run is None:
        raise UserError("--workdir is missing: the folder for all that the run writes; --dry_run and --fast_dev_run "
                        "need none")  # fmt: skip


def _run(
    config: RunConfig,
    workdir: Workdir,
    strategy: tf.distribute.Strategy,
    callbacks: Sequence[keras.callbacks.Callback],
    tell: Callable[[str], None],
    progress: bool,
    publish: Callable[[], None] | None = None,
    limit: Callable[[Data], Data] | None = None,
) -> dict[str, Any]:
    import keras

    from pipelines.data_service.watch import service_watched
    from pipelines.files import write_json
    from tfbigmodel.environment import describe_environment
    from tfbigmodel.inference import check_threshold
    from tfbigmodel.model import build_model, load_data, make_task
    from tfbigmodel.telling import cleaned, headline, results, skipped
    from tfbigmodel.training.agreement import differing
    from tfbigmodel.training.distribution import agree, is_chief
    from tfbigmodel.training.fit import fit
    from tfbigmodel.training.rule import make_rule, updates_per_epoch
    from tfbigmodel.training.start import starting_state
    from tfbigmodel.workdir import keep_data_description, with_kept_vocabulary

    chief = is_chief(strategy)
    data = load_data(with_kept_vocabulary(config, workdir))
    data = data if limit is None else limit(data)
    task = make_task(config, data.info)  # which checks that the chapter can learn from such data
    different = differing(strategy, config, data.info)
    if different:
        raise UserError(
            f"the workers have different configurations or data (in {', '.join(different)}); give all of them the same"
        )
    check_threshold(config.evaluation.threshold, data.info)  # used at the end, and too late to be told then
    if chief:
        keep_data_description(workdir, data.info, data.preprocess)
        write_json(workdir.path / "environment.json", describe_environment(strategy))
    training = config.training
    rule = make_rule(config, data.info, strategy)
    steps_per_epoch = updates_per_epoch(config, data)
    keras.utils.set_random_seed(training.seed)
    with strategy.scope():
        model = build_model(config, data.info)
    state, optimizer, checkpoint = starting_state(config, workdir, data.info, model, strategy, steps_per_epoch, tell)
    if len(set(agree(strategy, state.updates))) > 1:
        where = "put the workdir on a shared file system or in an object store"
        raise UserError(f"the workers do not see one {workdir.checkpoints}; {where}")
    finished = bool(state.stopped) or state.epoch >= training.epochs
    # `evaluate` writes there too, one split at a time.
    measured = {split for split, count in data.info.counts.items() if count} <= workdir.metrics().keys()
    if agree(strategy, int(finished and measured))[0]:
        reason = f"{state.stopped} ended it" if state.stopped else "raise training.epochs to train on"
        tell(f"{workdir} is finished: {state.epoch} epochs, {state.updates} updates; {reason}")
        return workdir.metrics() if chief else {}
    tensorboard = None
    if chief:
        from tfbigmodel.pictures import inputs_grid
        from tfbigmodel.training.tensorboard import TensorBoard, take_back

        had_ended = checkpoint is not None and (checkpoint.state["stopped"] or state.epoch >= state.planned_epochs)
        if checkpoint is not None and not (had_ended and measured):  # else what its end has shown stays
            take_back(workdir.tensorboard, checkpoint.state)
        workdir.metrics_file.unlink(missing_ok=True)
        tensorboard = TensorBoard(workdir.tensorboard, config.tensorboard.every_steps, config.tensorboard.histograms)
        if not state.updates:
            tensorboard.start(config.model_dump(mode="json"), build_model(config, data.info), _specs(data.info))
            image = inputs_grid(data)
            if image is not None:
                tensorboard.image("inputs/augmented", image, 0, of_training=True)
    if state.updates:
        tell(f"resuming {workdir} at epoch {state.epoch + 1}, update {state.updates}")
    tell(headline(config, data, model, strategy, rule))
    if data.info.text is not None and data.info.text.cleaning:
        tell(cleaned(data.info.text.cleaning))
    if data.info.images is not None and data.info.images.num_skipped:
        tell(skipped(data.info.images))
    try:
        if not finished:
            with service_watched(config.data.service):
                fit(
                    model, optimizer, data, task, strategy, config, rule, state, workdir.checkpoints,
                    tensorboard, callbacks, progress, checkpoint, publish,
                )  # fmt: skip
        metrics = _measure_splits(config, workdir, data, task, strategy, tensorboard, state.updates)
    finally:
        if tensorboard:
            tensorboard.close()
    if chief:
        write_json(workdir.metrics_file, metrics)
        tell(results(metrics, state))
        if publish is not None:
            publish()  # while the others wait: without them nobody could measure again what is not sent
    agree(strategy, 0)  # the others wait for the chief, whose coordination they would otherwise leave
    return metrics if chief else {}


def _measure_splits(
    config: RunConfig,
    workdir: Workdir,
    data: Data,
    task: Task,
    strategy: tf.distribute.Strategy,
    tensorboard: TensorBoard | None,
    updates: int,
) -> dict[str, Any]:
    """The metrics of each split, which all workers measure together; the chief alone writes."""
    from pipelines.data import SPLITS
    from tfbigmodel.chapters import hook
    from tfbigmodel.inference import make_inference
    from tfbigmodel.measuring import measure_split, share_weights
    from tfbigmodel.model import build_model, load_trained
    from tfbigmodel.pictures import split_figures
    from tfbigmodel.training.distribution import is_chief

    # The final weights in a plain model, along the path that is served: what is reported is what users get.
    chief = is_chief(strategy)
    model = load_trained(workdir)[0] if chief else build_model(config, data.info)
    share_weights(model, strategy)
    module = make_inference(model, data.preprocess, config, data.info, config.evaluation.threshold)
    write_artifacts = hook(config.model.chapter, "write_artifacts")
    if chief and write_artifacts is not None:
        write_artifacts(workdir.path, model, data.preprocess, config.model, data.info)
    metrics: dict[str, Any] = {}
    for split in SPLITS:
        if not data.info.counts[split]:
            continue
        results = measure_split(module, model, data, split, task, config, strategy)
        metrics[split] = results.metrics
        if tensorboard and split != "train":
            for name, image in split_figures(results, data, config).items():
                tensorboard.image(f"{name}/{split}", image, updates)
    return metrics


def _specs(info: DatasetInfo) -> dict[str, tf.TensorSpec]:
    import tensorflow as tf

    return {name: tf.TensorSpec([None, *shape], info.input_dtypes[name], name) for name, shape in info.inputs.items()}


callable_module(__name__, train)

if __name__ == "__main__":
    sys.exit(main())
