"""Trains a run that SIGKILL ends again and again, until it is finished: `killed_runs.py CONFIG WORKDIR KILLS SEED`.

Prints a line of JSON for each start: the update at which it was to be killed, and how the process ended. The children
are forked, so that TensorFlow is imported once and started anew in each. Without kills it trains the run once.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

import keras
import numpy as np

import tfbigmodel

# What a run imports at its start, so that forked children need not.
from tfbigmodel import (
    environment,  # noqa: F401
    measuring,  # noqa: F401
    pictures,  # noqa: F401
)
from tfbigmodel.config import load_config
from tfbigmodel.training import fit, start, tensorboard  # noqa: F401

_kill_after = 0


class KillAt(keras.callbacks.Callback):
    """Counts outside of its attributes, which are part of the run's state."""

    def on_train_batch_end(self, batch, logs=None):
        global _kill_after
        _kill_after -= 1
        if _kill_after == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Draws(keras.callbacks.Callback):
    """Scales the learning rate by random numbers, which must go on where they were."""

    def on_epoch_end(self, epoch, logs=None):
        scale = 0.8 + 0.2 * random.random() + 0.2 * np.random.random()
        self.model.optimizer.learning_rate = self.model.optimizer.learning_rate * scale


def callbacks():
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=2, min_delta=0.5, factor=0.7)
    stopping = keras.callbacks.EarlyStopping(monitor="loss", patience=50, restore_best_weights=True)
    return [KillAt(), Draws(), plateau, stopping]


def main(config, workdir, kills, seed):
    global _kill_after
    settings, chance = load_config(config), random.Random(seed)
    for number in range(kills + 1):
        _kill_after = chance.randint(2, 12) if number < kills else 0
        child = os.fork()
        if not child:
            tfbigmodel.train(settings, workdir, callbacks=callbacks())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"kill_after": _kill_after, "ended": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
