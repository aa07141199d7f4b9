"""Scaling on paper: bytes moved per step and worker, and what to expect of 8 GPUs and of 4 × 8 over 25 Gbit/s.

    python benchmarks/scaling.py [--gpu A100] [--gigabits 25] [--transport tcp] [--gradients bfloat16] [--machines 4]
    python benchmarks/scaling.py --measure          # two workers on this machine: bytes on the wire, α and B

The formulas are in scaling_model.py, the layers come from the real models (scaling_profiles.py), and what others have
measured, with where it stands, is in scaling_published.py. How the time of a step on one GPU is found:

    seconds = 3 × FLOPs of the forward pass × batch / rate        (backward: twice the forward pass)

with the rate that NVIDIA's own measurements on one GPU come to: for convolutions that of ResNet50, for matrix products
that of BERT large at length 128. So ResNet50's step is the published one; BERT base's is derived from BERT large's.
Models so small that starting the kernels takes longer than running them get --least_ms, an assumption.

What "expected" is: the model's efficiency with the share of the network's rate that the transport reaches (fitted to
one published line, VGG16), times what the model leaves out: input, optimizer, kernels that slow each other down,
workers that wait for the slowest. That factor is the median of published / modelled over the lines that are not
fitted.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace

from scaling_model import (
    Cluster,
    Layer,
    Link,
    buckets,
    bytes_sent,
    flat_seconds,
    hierarchical_seconds,
    network_bytes,
    overlapped_step,
    simulate,
)
from scaling_published import MACHINES, ONE_MACHINE, Published

GIGABIT = 1e9 / 8
# Examples per second on one GPU in mixed precision and with XLA, batch per GPU: NVIDIA's tables (scaling_published.py).
RESNET = {"V100": (1270, 256), "A100": (2375, 256)}
BERT_LARGE = {"V100": (206.5, 60), "A100": (485.59, 312)}
# NVLink of a GPU in one direction, by the data sheets: 6 links of 25 GB/s, and 12.
NVLINK = {"V100": 150e9, "A100": 300e9}
RESNET_FLOPS = 8.18e9  # forward, 224 × 224
BERT_LARGE_FLOPS = 24 * (2 * 12 * 1024**2 * 128 + 4 * 128**2 * 1024)  # forward, 128 tokens
BACKWARD = 2 / 3  # its share of the computing
# Trainable parameters, and the share that the last layers have, whose gradients come first: for the published lines
# only.
PUBLISHED_MODELS = {
    "Inception V3": (23.8e6, 0.09),
    "ResNet101": (44.5e6, 0.05),
    "VGG16": (138.4e6, 0.89),  # the three dense layers
    "ResNet50": (25.6e6, 0.08),
    "BERT large": (335e6, 0.0),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", choices=sorted(RESNET), default="A100")
    parser.add_argument("--batch", type=int, help="examples per GPU; else the batch of the published measurement")
    parser.add_argument("--accumulation", type=int, default=1, help="batches per update")
    parser.add_argument("--gradients", choices=("float32", "bfloat16"), default="float32", help="dtype when reduced")
    parser.add_argument("--gigabits", type=float, default=25.0, help="of a machine's network card, per second")
    parser.add_argument("--latency_us", type=float, default=30.0, help="of a message between machines")
    parser.add_argument("--transport", choices=("tcp", "rdma", "ideal"), default="tcp")
    parser.add_argument("--machines", type=int, default=4, help="of 8 GPUs each, in the second table")
    parser.add_argument("--bucket_mb", type=float, default=25.0, help="bytes_per_pack, where packs are reduced early")
    parser.add_argument("--hierarchical", action="store_true", help="reduce in two levels, and not in one ring")
    parser.add_argument("--jitter", type=float, default=0.0, help="standard deviation of a worker's step, as a share")
    parser.add_argument("--least_ms", type=float, default=5.0, help="the shortest step that kernels can be started for")
    parser.add_argument("--measure", action="store_true", help="measure two workers on this machine instead")
    arguments = parser.parse_args(argv)
    if arguments.measure:
        from scaling_measured import show_measured

        show_measured()
        return
    tables(arguments)


def tables(arguments: argparse.Namespace) -> None:
    """Prints the check against published figures, and the chapters' models on two clusters."""
    from scaling_profiles import all_profiles

    shares = {"ideal": 1.0} | {name: fitted_share(name) for name in ("tcp", "rdma")}
    print_published(shares)
    left_out_one, left_out_many = left_out(shares)
    inside = Link(NVLINK[arguments.gpu], 5e-6)
    rate = arguments.gigabits * GIGABIT * shares[arguments.transport]
    between = Link(rate, arguments.latency_us * 1e-6)
    one = Cluster(1, 8, inside, between)
    many = Cluster(arguments.machines, 8, inside, between)
    steps = {
        name: layers_of(parts, arguments)
        for name, parts in all_profiles().items()
    }  # fmt: skip
    factors = {one: left_out_one, many: left_out_many}
    for cluster, title in (
        (one, f"one machine, 8 × {arguments.gpu} over NVLink"),
        (many, f"{arguments.machines} machines of 8 × {arguments.gpu}, {arguments.gigabits:g} Gbit/s, "
               f"{arguments.transport}: {rate / 1e9:.2f} GB/s"),
    ):  # fmt: skip
        print(f"\n{title}; {arguments.gradients} gradients, accumulation {arguments.accumulation}")
        print(f"{'':38}{'gradients':>10}{'sent per':>10}{'by a':>10}{'step of':>9}{'all-':>9}"
              f"{'one pack':>10}{'packs of':>10}{'expected':>10}")  # fmt: skip
        print(f"{'':38}{'MB':>10}{'GPU, MB':>10}{'card, MB':>10}{'1 GPU, ms':>10}{'reduce':>8}"
              f"{'':10}{f'{arguments.bucket_mb:g} MB':>10}{'':10}")  # fmt: skip
        for name, (forward, layers, computed) in steps.items():
            print_row(name, forward, layers, computed, cluster, factors[cluster], arguments)
    ours = "packs" if arguments.accumulation == 1 else "one pack"  # the sum of several batches is sent at the end
    print(f"\nexpected = {ours} (which we send) × {left_out_one:.2f} (one machine), × {left_out_many:.2f} (several)")


def layers_of(parts: Sequence, arguments: argparse.Namespace) -> tuple[float, list[Layer], float]:
    """Seconds of an update before its last backward pass, the layers of that, and seconds of all its computing."""
    width = 2 if arguments.gradients == "bfloat16" else 4
    flops = sum(part.flops for part in parts)
    convolutions = any(part.name.startswith("conv1") for part in parts)
    speed, batch = (RESNET if convolutions else BERT_LARGE)[arguments.gpu]
    rate = speed * 3 * (RESNET_FLOPS if convolutions else BERT_LARGE_FLOPS)
    seconds = max((arguments.batch or batch) * 3 * flops / rate, arguments.least_ms * 1e-3)
    backward = seconds * BACKWARD
    layers = [Layer(x.name, width * x.parameters, backward * x.flops / flops) for x in parts]
    computed = seconds * arguments.accumulation
    return computed - backward, layers, computed


def print_row(
    name: str,
    forward: float,
    layers: list[Layer],
    computed: float,
    cluster: Cluster,
    left_out: float,
    arguments: argparse.Namespace,
) -> None:
    """Prints a model on a cluster, once its simulation has agreed with the formula."""
    size = sum(layer.size for layer in layers)
    reduce = hierarchical_seconds if arguments.hierarchical else flat_seconds
    efficiencies = []
    for bucket in (0.0, arguments.bucket_mb * 1e6):
        packs = buckets(layers, bucket)
        step = overlapped_step(forward, packs, lambda count: reduce(count, cluster))
        if not arguments.hierarchical:
            pace = cluster.inside if cluster.machines == 1 else cluster.between
            simulated = simulate(forward, packs, cluster.workers, pace)
            if abs(simulated / step - 1) > 1e-6:
                raise RuntimeError(f"{name}: the simulation takes {simulated:.6f} s, the formula {step:.6f} s")
            if arguments.jitter:
                step = simulate(forward, packs, cluster.workers, pace, arguments.jitter, steps=10)
        efficiencies.append(computed / step)
    expected = left_out * efficiencies[arguments.accumulation == 1]
    sent, card = bytes_sent(size, cluster.workers), network_bytes(size, cluster, arguments.hierarchical)
    gpus = cluster.workers
    print(f"{name:38}{size / 1e6:10.2f}{sent / 1e6:10.2f}{card / 1e6:10.2f}{1e3 * computed:10.1f}"
          f"{1e3 * reduce(size, cluster):8.1f}"
          + "".join(f"{gpus * x:9.2f}×" for x in (*efficiencies, expected)))  # fmt: skip


def published_step(line: Published, cluster: Cluster) -> float:
    """The modelled speed-up of a published line, with packs that are reduced as they become whole."""
    parameters, late = PUBLISHED_MODELS[line.model.partition(",")[0]]
    computed = line.accumulation * line.batch / line.one
    backward = BACKWARD * line.batch / line.one
    # The last layers first, as one pack that costs next to no time; the others evenly over the backward pass.
    share = 0.02 if late else 0.0
    packs = [Layer("last", 4 * parameters * late, share * backward)] if late else []
    rest = [Layer("body", 4 * parameters * (1 - late) / 20, (1 - share) * backward / 20)] * 20
    step = overlapped_step(computed - backward, packs + rest, lambda size: flat_seconds(size, cluster))
    return line.gpus * computed / step


def fitted_share(transport: str) -> float:
    """The share of 25 Gbit/s at which the modelled VGG16 is as fast as the published one, by bisection."""
    line = next(x for x in MACHINES if x.model == "VGG16" and x.hardware.endswith(transport.upper()))
    low, high = 0.05, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if published_step(line, _pascal(middle)) < line.speed_up else (low, middle)
    return low


def left_out(shares: dict[str, float]) -> tuple[float, float]:
    """Medians of published / modelled speed-up: on one machine, and on several (without the fitted lines)."""
    one = [line.speed_up / published_step(line, _one_machine()) for line in ONE_MACHINE]
    many = [
        line.speed_up / published_step(line, _pascal(shares[line.hardware.rpartition(" ")[2].lower()]))
        for line in MACHINES
        if line.model != "VGG16"
    ]
    return statistics.median(one), statistics.median(many)


def print_published(shares: dict[str, float]) -> None:
    """Prints the model beside what was measured."""
    print(f"{'published':28}{'':26}{'GPUs':>5}{'measured':>10}{'model':>9}{'ratio':>7}")
    for line in (*ONE_MACHINE, *MACHINES):
        share = shares[line.hardware.rpartition(" ")[2].lower()] if line in MACHINES else 1.0
        modelled = published_step(line, _pascal(share) if line in MACHINES else _one_machine())
        fitted = "  (fitted)" if line in MACHINES and line.model == "VGG16" else ""
        print(f"{line.model:28}{line.hardware:26}{line.gpus:5}{line.speed_up:9.2f}×{modelled:8.2f}×"
              f"{line.speed_up / modelled:7.2f}{fitted}")  # fmt: skip
    print(f"share of 25 Gbit/s in use: TCP {shares['tcp']:.2f}, RDMA {shares['rdma']:.2f}")


def _pascal(share: float) -> Cluster:
    # Four GPUs behind PCI Express 3 × 16 (16 GB/s), which is not what limits them.
    between = Link(25 * GIGABIT * share, 30e-6)
    return Cluster(4, 4, Link(16e9, 10e-6), between)


def _one_machine() -> Cluster:
    return replace(_pascal(1.0), machines=1, gpus=8, inside=Link(NVLINK["V100"], 5e-6))


if __name__ == "__main__":
    main()
