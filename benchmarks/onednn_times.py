"""Adds up what oneDNN reports of its operations: where a step's time goes.

ONEDNN_VERBOSE=1 python benchmarks/resnet_training.py --contender "ours bf16" | python benchmarks/onednn_times.py
"""

import collections
import sys


def main() -> None:
    """Prints the share of each kind of operation, from the lines on standard input."""
    times: collections.Counter[tuple[str, ...]] = collections.Counter()
    for line in sys.stdin:
        parts = line.strip().split(",")
        if parts[0] != "onednn_verbose" or "exec" not in parts:
            continue
        first = parts.index("exec")  # exec, engine, operation, implementation, direction, tensors …, milliseconds
        try:
            milliseconds = float(parts[-1])
        except ValueError:  # the line was cut by another thread's
            continue
        times[parts[first + 2], parts[first + 3], parts[first + 4]] += milliseconds
    total = sum(times.values()) or 1.0
    print(f"{'share':>6}{'ms in all':>11}  operation, direction, implementation")
    for (operation, implementation, direction), milliseconds in times.most_common(15):
        print(f"{milliseconds / total:6.1%}{milliseconds:11.0f}  {operation}, {direction}, {implementation}")


if __name__ == "__main__":
    main()
