"""Contenders that run in processes of their own, one after the other, round by round, so that they meet one machine."""

import statistics
import subprocess
from collections.abc import Mapping, Sequence


def side_by_side(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[list[float]]]:
    """Runs each command in each round.

    Args:
        commands: contender → command, which prints four figures last: milliseconds of a training step by the clock and
            in processor time, and the same of an inference.
        rounds: how often.

    Returns:
        Contender → its figures in each round; none where the command failed.
    """
    figures: dict[str, list[list[float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode == 0:
                figures[name].append([float(figure) for figure in result.stdout.split()[-4:]])
    return figures


def show(figures: dict[str, list[list[float]]], by_clock: bool) -> None:
    """Prints the medians over rounds, and the ratio of PyTorch's best training step and inference to each."""
    measured = {name: list(zip(*rows, strict=True)) for name, rows in figures.items() if rows}
    medians = {name: [statistics.median(column) for column in columns] for name, columns in measured.items()}
    compared = (0, 2) if by_clock else (1, 3)
    peers = [[values[i] for i in compared] for name, values in medians.items() if name.startswith("PyTorch")]
    print(f"{'ms per batch':30}{'training':>10}{'processor':>11}{'inference':>11}{'processor':>11}", end="")
    print(f"{'best PyTorch / this':>23}")
    for name in figures:
        if name not in medians:
            print(f"{name:30}  not measured: its interpreter lacks what it needs")
            continue
        print(f"{name:30}{medians[name][0]:10.0f}{medians[name][1]:11.0f}", end="")
        print(f"{medians[name][2]:11.0f}{medians[name][3]:11.0f}", end="   ")
        best = [min(column) for column in zip(*peers, strict=True)]
        print(*(f"{peer / medians[name][i]:9.2f}×" for i, peer in zip(compared, best, strict=False)))
