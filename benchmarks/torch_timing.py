"""Times a PyTorch classifier as a user would train it: eager, with Adam, one batch in memory. Needs torch."""

import contextlib
import time

import torch
from torch import nn


def print_times(model: nn.Module, x: torch.Tensor, y: torch.Tensor, half: bool, steps: int, warm_up: int = 2) -> None:
    """Prints milliseconds of a training step by the clock and in processor time, then the same of an inference.

    Args:
        model: from `x` to logits `(batch_size, num_classes)`.
        x: one batch.
        y: its classes, `(batch_size,)`.
        half: bfloat16 by autocast, or float32.
        steps: how many are timed.
        warm_up: how many come before them.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()

    def autocast() -> contextlib.AbstractContextManager:
        return torch.autocast("cpu", dtype=torch.bfloat16) if half else contextlib.nullcontext()

    def step() -> None:
        optimizer.zero_grad()
        with autocast():
            loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()

    def infer() -> None:
        with torch.no_grad(), autocast():
            model(x)

    for function, train in ((step, True), (infer, False)):
        model.train(train)
        for _ in range(warm_up):
            function()
        started, used = time.perf_counter(), time.process_time()
        for _ in range(steps):
            function()
        print(1e3 * (time.perf_counter() - started) / steps, 1e3 * (time.process_time() - used) / steps)
