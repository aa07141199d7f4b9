"""Kills a process that saves checkpoints one after the other, many times: `killed_saver.py FOLDER KILLS SEED`.

Prints a line of JSON for each kill: the checkpoint that was begun last, the one that is found, and what is wrong with
newer ones. The children are forked, so that TensorFlow is imported once, and start no part of it.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from pipelines.files import remove_temporaries
from tfbigmodel.training.checkpoints import latest_checkpoint
from tfbigmodel.training.saving import CheckpointSaver


def contents(step):
    arrays = {f"w{index}": np.full(50_000, step + index, np.float32) for index in range(4)}
    return (arrays, {"m": arrays["w0"] * 2}), {"updates": step, "monitor": None}


def save_for_ever(folder, step, pipe):
    with CheckpointSaver(folder, keep=2) as saver:
        while True:
            step += 1
            saver.save(step, *contents(step))
            os.write(pipe, b"%d\n" % step)  # it is begun, and the one before is written


def main(folder, kills, seed):
    chance = random.Random(seed)
    for _ in range(kills):
        remove_temporaries(folder)
        checkpoint, _ = latest_checkpoint(folder)
        start = checkpoint.state["updates"] if checkpoint else 0
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            save_for_ever(folder, start, writing)
        os.close(writing)
        time.sleep(chance.uniform(0.005, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with open(reading) as pipe:
            begun = max(map(int, pipe.read().split()), default=start)
        checkpoint, problems = latest_checkpoint(folder)
        found = checkpoint.state["updates"] if checkpoint else 0
        whole = checkpoint is None or (checkpoint.model_arrays()["w3"] == found + 3).all()
        left = len([path for path in folder.iterdir() if ".tmp-" in path.name])
        result = {"begun": begun, "found": found, "problems": list(problems.values()), "whole": bool(whole)}
        print(json.dumps({**result, "left": left}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
