"""Divides a table of phrases so that training shows nothing of what is tested: for SST-2, whose phrases are parts of
each other.

python benchmarks/phrases_without_overlap.py sst2_20k.tsv --text sentence --label label --output sst2

writes sst2/test.tsv, `--held_out` phrases drawn with each label's share kept, and sst2/train.tsv, the others without
every phrase that contains a held-out one, or is contained in one, as whole words.
"""

import argparse
from pathlib import Path

import pandas as pd
from sklearn.model_selection import train_test_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--text", required=True)
    parser.add_argument("--label", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--held_out", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()

    frame = pd.read_csv(arguments.table, sep="\t", dtype=str, keep_default_na=False, quoting=3)
    train, test = train_test_split(
        frame, test_size=arguments.held_out, random_state=arguments.seed, stratify=frame[arguments.label]
    )
    kept = train[~overlapping(train[arguments.text].tolist(), test[arguments.text].tolist())]
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", kept), ("test", test)):
        # Written by pandas with quotes where they are needed, so that any CSV reader gives the same texts.
        part.to_csv(folder / f"{name}.tsv", sep="\t", index=False, lineterminator="\n")
    left_out = len(train) - len(kept)
    print(f"{len(frame):,} phrases: {len(test):,} held out, {left_out:,} left out, {len(kept):,} to train on")


def overlapping(phrases: list[str], held_out: list[str]) -> pd.Series:
    """Which phrases contain a held-out one or are contained in one, `(len(phrases),)`."""
    runs_held_out = {run for phrase in held_out for run in _runs(phrase.split())}
    whole_held_out = {" ".join(phrase.split()) for phrase in held_out}
    longest = max(len(phrase.split()) for phrase in held_out)
    return pd.Series(
        [
            " ".join(phrase.split()) in runs_held_out
            or any(run in whole_held_out for run in _runs(phrase.split(), longest))
            for phrase in phrases
        ]
    ).to_numpy()


def _runs(words: list[str], longest: int | None = None) -> set[str]:
    limit = len(words) if longest is None else min(longest, len(words))
    return {" ".join(words[i : i + n]) for n in range(1, limit + 1) for i in range(len(words) - n + 1)}


if __name__ == "__main__":
    main()
