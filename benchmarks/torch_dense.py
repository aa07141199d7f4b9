"""The peer: the dense model as a user would write it in eager PyTorch, its input in memory.

    python benchmarks/torch_dense.py [fp32|bf16] [steps]

Prints milliseconds per training step and per inference, by the clock and in processor time. Needs torch (CPU: pip
install torch==2.13.0), in any environment.
"""

import sys

import torch
from torch import nn
from torch_timing import print_times

BATCH = 64


def main() -> None:
    """Times the step as it is, after a warm-up."""
    half = len(sys.argv) > 1 and sys.argv[1] == "bf16"
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 10))
    x, y = torch.randn(BATCH, 784), torch.randint(0, 10, (BATCH,))
    print_times(model, x, y, half, steps, warm_up=50)


if __name__ == "__main__":
    main()
