"""The peer: the LSTM classifier as a user would write it in eager PyTorch, its input in memory.

    python benchmarks/torch_lstm.py [fp32|bf16] [steps] [one|both] [threads]

Prints milliseconds per training step and per inference, by the clock and in processor time. Needs torch (CPU: pip
install torch==2.13.0), in any environment.
"""

import sys

import torch
from torch import nn
from torch_timing import print_times

BATCH, LENGTH, VOCABULARY, EMBEDDING, UNITS = 64, 128, 10_000, 256, 512


class Classifier(nn.Module):
    """Embedding → LSTM → the last step → two classes."""

    def __init__(self, bidirectional: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, EMBEDDING)
        self.lstm = nn.LSTM(EMBEDDING, UNITS, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(UNITS * (2 if bidirectional else 1), 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits `(batch_size, 2)`."""
        return self.head(self.lstm(self.embedding(ids))[0][:, -1])


def main() -> None:
    """Times training and inference as they are, after a warm-up."""
    half = len(sys.argv) > 1 and sys.argv[1] == "bf16"
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    if len(sys.argv) > 4:
        torch.set_num_threads(int(sys.argv[4]))
    torch.manual_seed(0)
    model = Classifier(len(sys.argv) > 3 and sys.argv[3] == "both")
    x, y = torch.randint(0, VOCABULARY, (BATCH, LENGTH)), torch.randint(0, 2, (BATCH,))
    print_times(model, x, y, half, steps)


if __name__ == "__main__":
    main()
