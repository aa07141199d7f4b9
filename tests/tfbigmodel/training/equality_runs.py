"""Trains one run after the other in one process, as a worker of several does it: `equality_runs.py plan.json`.

The plan is a list of pairs: a configuration, and the workdir. Starting a process costs more than such a run.
"""

import json
import sys
from pathlib import Path

import tfbigmodel
from tfbigmodel.config import resolve, validate_config


def train_all(plan: list[tuple[dict, str]]) -> None:
    for values, workdir in plan:
        tfbigmodel.train(resolve(validate_config(values, workdir)), workdir)


if __name__ == "__main__":
    train_all(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
