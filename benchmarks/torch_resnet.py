"""The peer: ResNet50 (v1.5, ten classes) as a user would write it in eager PyTorch, its input in memory.

    python benchmarks/torch_resnet.py [fp32|bf16] [steps] [batch] [size]

Prints milliseconds per training step and per inference, by the clock and in processor time. Needs torch (CPU: pip
install torch==2.13.0), in any environment.
"""

import sys

import torch
from torch import nn
from torch_timing import print_times


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3, 1 × 1 and a shortcut; the 3 × 3 convolution has the stride."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        same = stride == 1 and inputs == outputs
        shortcut = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
        self.shortcut = nn.Identity() if same else nn.Sequential(*shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch_size, channels, height, width)` → the same, smaller by the stride."""
        return torch.relu(self.residual(x) + self.shortcut(x))


def resnet50() -> nn.Sequential:
    """The network with ten classes."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, stride if block == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 10))


def main() -> None:
    """Times training and inference as they are, after a warm-up."""
    half = len(sys.argv) > 1 and sys.argv[1] == "bf16"
    steps, batch, size = (int(text) for text in (*sys.argv[2:5], "5", "16", "224")[:3])
    torch.manual_seed(0)
    model = resnet50()
    x, y = torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))
    print_times(model, x, y, half, steps)


if __name__ == "__main__":
    main()
