"""The peer: the dense model as a user would write it in eager PyTorch, its input in memory.

    python benchmarks/torch_dense.py [fp32|bf16] [steps]

Prints milliseconds per training step. Needs torch (CPU: pip install torch==2.13.0), in any environment.
"""

import contextlib
import sys
import time

import torch
from torch import nn

BATCH = 64


def main() -> None:
    """Times the step as it is, after a warm-up."""
    half = len(sys.argv) > 1 and sys.argv[1] == "bf16"
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 10))
    x, y = torch.randn(BATCH, 784), torch.randint(0, 10, (BATCH,))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16) if half else contextlib.nullcontext():
            loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()

    model.train()
    for _ in range(50):
        step()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    print(1e3 * (time.perf_counter() - started) / steps)


if __name__ == "__main__":
    main()
