"""A run's cost as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from tfbigmodel.cost.figures import Cost, Memory, PhaseCost
from tfbigmodel.cost.sample import SEEN
from tfbigmodel.cost.units import bytes_text, duration, operations_text
from tfbigmodel.evaluation.text import cell_width, fit, printable, shortened

_NAME = 26
_WIDTH = 116
# Examples stand side by side where they are as short as this, whatever the model makes of them.
_CELL = 26


def format_cost(cost: Cost) -> str:
    """The figures, the sample and the warnings, one below the other."""
    lines = [*_run(cost), *_sample(cost)]
    for number, phase in enumerate(cost.phases, start=1):
        title = f"phase {number} of {len(cost.phases)}, {phase.epochs} epochs" if len(cost.phases) > 1 else ""
        lines += _phase(cost, phase, title)
    if cost.seconds is not None:
        lines += ["", _line("the whole run", f"{duration(cost.seconds)}, with the final measuring")]
    lines += [f"warning: {warning}" for warning in cost.warnings]
    return "\n".join(lines)


def _run(cost: Cost) -> Iterator[str]:
    replicas = f"{cost.replicas} replica{'s' if cost.replicas > 1 else ''}"
    workers = f" in {cost.workers} workers" if cost.workers > 1 else ""
    accumulated = f" × {cost.accumulation} accumulated" if cost.accumulation > 1 else ""
    yield "model"
    yield _line("chapter", f"{cost.chapter}, {cost.precision}, {'XLA' if cost.xla else 'no XLA'}, {replicas}{workers}")
    yield _line("parameters", f"{cost.parameters:,}")
    yield "data"
    yield _line("examples", ", ".join(f"{count:,} {split}" for split, count in cost.examples.items()))
    yield _line("batch", f"{cost.batch_size}{accumulated}")
    yield _line("updates", f"{cost.updates:,}: {cost.epochs:,} epochs of {cost.updates_per_epoch:,}")
    for name, value in cost.sample.batch.items():
        yield _line(f"batch of {name}", value)


def _sample(cost: Cost) -> Iterator[str]:
    examples = cost.sample.examples
    raw = [value for each in examples for name, value in each.items() if not name.startswith(SEEN)]
    if raw and all(cell_width(value) <= _CELL for value in raw):
        yield "training examples"
        for name in examples[0]:
            cells = "  ".join(fit(printable(each[name]), _CELL) for each in examples)
            yield f"  {fit(printable(name), _NAME)}{cells.rstrip()}"
        return
    for number, example in enumerate(examples, start=1):
        yield f"training example {number}"
        for name, value in example.items():
            yield _line(name, value)


def _phase(cost: Cost, phase: PhaseCost, title: str) -> Iterator[str]:
    operations, examples = phase.operations, cost.batch_size * cost.accumulation
    yield f"an update{f' ({title})' if title else ''}"
    yield _line("trained, frozen", f"{phase.trainable:,} parameters, {cost.parameters - phase.trainable:,}")
    yield _line("operations", f"{operations_text(operations.training)}, of which {operations_text(operations.forward)} "
                f"forward; {operations_text(operations.training / examples)} an example")  # fmt: skip
    if phase.timing is not None:
        timing = phase.timing
        yield _line("first update", f"{duration(timing.first)}, with tracing and compiling")
        yield _line("an update after that", f"{duration(timing.update)} (mean of {timing.updates_measured}): "
                    f"{examples / timing.update:,.1f} examples/s, "
                    f"{operations_text(operations.training / timing.update)}/s")  # fmt: skip
        yield _line("a validation batch", duration(timing.validation_batch))
    if phase.epoch_seconds is not None:
        yield _line("an epoch", f"{duration(phase.epoch_seconds)}, with validation and checkpoints")
    copied = "" if phase.timing is None else f"; training waits {duration(phase.timing.copy)} for its copy"
    share = "" if phase.checkpoint_share is None else f", {phase.checkpoint_share:.2%} of the time"
    yield _line("a checkpoint", f"{bytes_text(phase.checkpoint_bytes)} on disk{copied}{share}")
    yield from _memory(cost, phase.memory)


def _memory(cost: Cost, memory: Memory) -> Iterator[str]:
    each = " of each replica" if cost.replicas > 1 else ""
    yield f"memory{each}"
    for name in ("weights", "optimizer", "gradients", "activations", "temporary", "batch", "longer_batches"):
        if getattr(memory, name) or name != "longer_batches":
            yield f"  {fit(name.replace('_', ' '), _NAME)}{bytes_text(getattr(memory, name)):>12}"
    yield f"  {fit('total', _NAME)}{bytes_text(memory.total):>12}"
    if memory.measured:  # nothing, where tensors are so small that TensorFlow keeps no account of them
        yield _line("measured", f"{bytes_text(memory.measured)} above weights and optimizer at most; "
                    f"counted: {bytes_text(memory.step)}")  # fmt: skip
    where = "each GPU" if cost.device == "GPU" else "the machine"
    besides = "" if cost.device == "GPU" else ", with what the process takes besides"
    yield _line("needed", f"{bytes_text(cost.memory_needed)}{besides}, of {bytes_text(cost.device_memory)} of {where}: "
                + ("it fits" if cost.fits else "IT DOES NOT FIT"))  # fmt: skip


def _line(name: str, value: str) -> str:
    return f"  {fit(printable(name), _NAME)}{shortened(printable(value), _WIDTH - _NAME)}"
