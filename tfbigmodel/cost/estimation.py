"""What a run will cost, before it is started."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from pipelines.data import Data
from pipelines.data_service.watch import service_watched
from tfbigmodel.command_line import say
from tfbigmodel.config import RunConfig, resolve
from tfbigmodel.cost.figures import Cost, Memory, Operations, PhaseCost, Timing
from tfbigmodel.cost.machine import gpu_memories, host_memory, host_memory_in_use
from tfbigmodel.cost.report import format_cost
from tfbigmodel.cost.sample import take_sample
from tfbigmodel.cost.step import bytes_of, first_batches, step_costs
from tfbigmodel.cost.timing import measure
from tfbigmodel.cost.warnings import warnings_of
from tfbigmodel.inference import check_threshold
from tfbigmodel.model import build_model, fill_in_preset, load_data, make_task
from tfbigmodel.training.cluster import cluster_of_environment
from tfbigmodel.training.distribution import agree, make_strategy, resource_errors_told, worker_index
from tfbigmodel.training.health import watched
from tfbigmodel.training.phases import Phase, begin_phase, phases_of
from tfbigmodel.training.rule import make_rule, updates_per_epoch


def estimate(config: RunConfig, tell: Callable[[str], None]) -> Cost:
    """What `tfbigmodel.estimate` returns; see there."""
    config = fill_in_preset(resolve(config))
    cluster = cluster_of_environment(config.training.strategy)
    with (
        watched(cluster, config.training.workers, tell) as peers,
        resource_errors_told(cluster is not None, peers),
        service_watched(config.data.service),
    ):
        return _estimate(config, make_strategy(config.training), tell)


def dry_run(config: RunConfig, as_json: bool, quiet: bool) -> None:
    """What `train --dry_run` does: estimates, and prints; of several workers the chief does.

    Args:
        config: the run's configuration.
        as_json: print JSON, and what goes on to standard error.
        quiet: print nothing of what goes on.

    Raises:
        UserError: the configuration or the data is not fit for training.
    """
    cluster = cluster_of_environment(config.training.strategy)
    chief = cluster is None or cluster.is_chief

    def tell(text: str) -> None:
        if chief and not quiet:
            print(f"{text} …", file=sys.stderr, flush=True)

    cost = estimate(config, tell)
    if chief:
        say(json.dumps(cost.to_json(), ensure_ascii=False, indent=2) if as_json else format_cost(cost))


def _estimate(config: RunConfig, strategy: tf.distribute.Strategy, tell: Callable[[str], None]) -> Cost:
    training = config.training
    tell("reading the data")
    data = load_data(config)
    task = make_task(config, data.info)
    check_threshold(config.evaluation.threshold, data.info)
    rule = make_rule(config, data.info, strategy)
    updates = updates_per_epoch(config, data)
    batches = first_batches(data, strategy.num_replicas_in_sync)
    sample = take_sample(data, batches.typical)
    in_use = host_memory_in_use()
    keras.utils.set_random_seed(training.seed)
    with strategy.scope():
        model = build_model(config, data.info)
    workers = worker_index(strategy)[1]
    gpus = gpu_memories()
    device_memory = min(gpus) if gpus else host_memory()
    phases: list[PhaseCost] = []
    needed = 0
    for phase in phases_of(training):
        name = f" of phase {phase.index + 1}" if training.phases else ""
        tell(f"tracing an update{name}")
        optimizer = begin_phase(phase, model, config, strategy, updates)
        operations, memory = step_costs(model, optimizer, task, strategy, rule, batches.typical, workers)
        local = strategy.num_replicas_in_sync // workers
        memory = dataclasses.replace(memory, longer_batches=round(memory.step * (batches.largest - 1)))
        phase_needs = memory.total if gpus else in_use + local * memory.total
        needed = max(needed, phase_needs)
        timing = None
        # Who runs out of memory is killed, and learns nothing. Workers measure together, or none does.
        if all(agree(strategy, int(phase_needs <= device_memory))):
            tell(f"measuring updates{name}")
            timing, taken = measure(model, optimizer, data, task, strategy, rule, batches)
            memory = dataclasses.replace(memory, measured=taken if gpus else taken // local)
        phases.append(_phase_cost(phase, model, optimizer, config, data, updates, operations, memory, timing))
    cost = Cost(
        chapter=config.model.chapter,
        parameters=model.count_params(),
        examples=dict(data.info.counts),
        batch_size=rule.batch_size,
        accumulation=rule.accumulation,
        updates_per_epoch=updates,
        epochs=training.epochs,
        precision=training.precision,
        xla=rule.jit_compile,
        replicas=strategy.num_replicas_in_sync,
        workers=workers,
        device="GPU" if gpus else "CPU",
        device_memory=device_memory,
        memory_needed=needed,
        phases=tuple(phases),
        seconds=_whole_run(phases, config, data),
        sample=sample,
        warnings=(),
    )
    return dataclasses.replace(cost, warnings=tuple(warnings_of(cost, config)))


def _phase_cost(
    phase: Phase,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    config: RunConfig,
    data: Data,
    updates: int,
    operations: Operations,
    memory: Memory,
    timing: Timing | None,
) -> PhaseCost:
    seconds = share = None
    if timing is not None:
        saved = 1 + (updates - 1) // (config.checkpoints.every_steps or updates)
        validated = 1 + (updates - 1) // (config.training.validate_every_steps or updates)
        validation = timing.validation_batch * -(-data.info.counts["validation"] // data.batch_size)
        copying = saved * timing.copy
        seconds = updates * timing.update + validated * validation + copying
        share = copying / seconds
    return PhaseCost(
        epochs=phase.end_epoch - phase.first_epoch,
        trainable=sum(math.prod(weight.shape) for weight in model.trainable_variables),
        operations=operations,
        memory=memory,
        checkpoint_bytes=bytes_of([*model.variables, *optimizer.variables]),
        timing=timing,
        epoch_seconds=seconds,
        checkpoint_share=share,
    )


def _whole_run(phases: Sequence[PhaseCost], config: RunConfig, data: Data) -> float | None:
    """All epochs, and the measuring of the finished model on every split."""
    total = 0.0
    for phase in phases:
        if phase.timing is None or phase.epoch_seconds is None:
            return None
        total += phase.timing.first + phase.epochs * phase.epoch_seconds
        counts = data.info.counts
        measured = min(counts["train"], config.evaluation.train_examples) + counts["validation"] + counts["test"]
        measuring = phase.timing.validation_batch * measured / data.batch_size
    return total + measuring
