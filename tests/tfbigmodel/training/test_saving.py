"""Checkpoints written while training goes on: what is in them, what is told, kills in the middle, a full disk."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest

from pipelines.errors import UserError
from tfbigmodel.training.checkpoints import latest_checkpoint, open_checkpoint
from tfbigmodel.training.saving import CheckpointSaver

HERE = Path(__file__).parent


def model(units=3):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,), name="x")
    outputs = keras.layers.Dense(units, name="dense")(keras.layers.Dropout(0.5, seed=3)(inputs))
    return keras.Model({"x": inputs}, outputs)


def test_a_checkpoint_holds_what_was_when_it_was_begun(tmp_path):
    net = model()
    optimizer = keras.optimizers.Adam()
    optimizer.build(net.trainable_variables)
    written, go_on = threading.Event(), threading.Event()

    def publish():
        written.set()
        assert go_on.wait(30)
        go_on.clear()

    with CheckpointSaver(tmp_path, keep=5, publish=publish) as saver:
        expected = []
        for step in range(1, 4):
            for variable in net.trainable_variables:
                variable.assign(variable * 0.0 + step)
            arrays = saver.read(net.variables, optimizer.variables)
            expected.append({name: array.copy() for name, array in arrays[0].items()})
            saver.save(step, arrays, {"updates": step})
            for variable in net.trainable_variables:
                variable.assign(variable * 0.0 - 1.0)  # what training does meanwhile
            assert written.wait(30)
            written.clear()
            assert "checkpoint" in [thread.name for thread in threading.enumerate()]
            go_on.set()
    for step, arrays in enumerate(expected, start=1):
        found = open_checkpoint(tmp_path / f"step-{step:010d}").model_arrays()
        for name in arrays:
            np.testing.assert_array_equal(found[name], arrays[name], err_msg=name)
        assert found["dense/kernel"][0, 0] == step


def test_a_state_holds_what_was_when_it_was_begun(tmp_path):
    large = {"w": np.zeros(4_000_000, np.float32)}  # takes longer to write than the state takes to change
    state = {"tensorboard": {"loss": [3.0, 2.0]}, "history": [{"loss": 1.0}]}
    with CheckpointSaver(tmp_path, keep=1) as saver:
        saver.save(1, (large, {}), state)
        state["tensorboard"]["loss"][0] = 7.0  # what training does meanwhile
        state["tensorboard"]["accuracy"] = [1.0, 1.0]
        state["history"].append({"loss": 0.5})
    found = open_checkpoint(tmp_path / "step-0000000001").state
    assert found == {"tensorboard": {"loss": [3.0, 2.0]}, "history": [{"loss": 1.0}]}


def test_memory_is_written_over_when_the_checkpoint_is_there(tmp_path):
    net = model()
    with CheckpointSaver(tmp_path, keep=2) as saver:
        first, _ = saver.read(net.variables, [])
        saver.save(1, (first, {}), {"updates": 1})
        second, _ = saver.read(net.variables, [])
        assert all(second[name] is first[name] for name in first)
        third, _ = saver.read(model(units=5).variables, [])
        assert third["dense/kernel"].shape == (4, 5)


def test_what_went_wrong_is_raised_soon_after(tmp_path):
    arrays = {"w": np.float32([np.nan])}, {}
    saver = CheckpointSaver(tmp_path, keep=2)
    saver.save(1, arrays, {"updates": 1})
    with pytest.raises(UserError, match="weight w is not finite after update 1; the checkpoint is not written"):
        saver.wait()
    saver.wait()  # told once
    saver.save(1, arrays, {"updates": 1})
    saver._thread.join()
    with pytest.raises(UserError, match="weight w is not finite"):
        saver.check()
    with pytest.raises(UserError, match="weight w is not finite"):
        CheckpointSaver(tmp_path, keep=2, asynchronous=False).save(1, arrays, {"updates": 1})


def test_what_ended_the_run_is_told_rather_than_what_followed(tmp_path):
    def crash():
        with CheckpointSaver(tmp_path, keep=2) as saver:
            saver.save(1, ({"w": np.zeros(3, np.float32)}, {}), {"updates": 1})
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        crash()
    assert latest_checkpoint(tmp_path)[0].state["updates"] == 1, "what was begun is finished"


def test_older_ones_go_when_a_new_one_is_there_and_it_is_published_then(tmp_path):
    seen = []
    with CheckpointSaver(tmp_path, keep=1, publish=lambda: seen.append(sorted(os.listdir(tmp_path)))) as saver:
        for step in (1, 2):
            saver.save(step, ({"w": np.zeros(3, np.float32)}, {}), {"updates": step})
    assert seen == [["step-0000000001"], ["step-0000000002"]]


def test_killed_a_hundred_times_while_saving_there_is_always_a_whole_checkpoint(tmp_path):
    command = [sys.executable, str(HERE / "killed_saver.py"), str(tmp_path / "checkpoints"), "100", "1"]
    (tmp_path / "checkpoints").mkdir()
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) == 100
    for kill in kills:
        assert kill["whole"]
        assert not kill["problems"]
        assert kill["found"] >= kill["begun"] - 1, "at most the one that was being written is lost"
    assert kills[-1]["found"] > 20, "and it went on"
    in_the_middle = sum(kill["left"] > 0 for kill in kills)
    assert in_the_middle > 10, "most kills were to come in the middle of writing"


_FULL_DISK = """
import os, sys
import numpy as np
from pathlib import Path
from pipelines.errors import UserError
from tfbigmodel.training.checkpoints import latest_checkpoint
from tfbigmodel.training.distribution import resource_errors_told
from tfbigmodel.training.health import Peers
from tfbigmodel.training.saving import CheckpointSaver
from tfbigmodel.training.tensorboard import TensorBoard
root = Path(sys.argv[1])
saver = CheckpointSaver(root, keep=2)
for step in range(1, 9):
    saver.save(step, ({"w": np.full(300_000, step, np.float32)}, {}), {"updates": step})
    try:
        saver.wait()
    except UserError as error:
        print(error)
        break
checkpoint, problems = latest_checkpoint(root)
assert not problems
assert (checkpoint.model_arrays()["w"] == step - 1).all()
print(step, sorted(path.name for path in root.iterdir()))
board = TensorBoard(root.parent / "tensorboard", every_steps=1, histograms=False)
with open(root.parent / "others", "wb") as file:
    file.write(b"x" * (os.statvfs(root).f_bavail * os.statvfs(root).f_frsize))
try:
    with resource_errors_told(False, Peers()):
        for update in range(100):
            board.validation(update, {"loss": 1.0})
        board.flush()
except UserError as error:
    print(error)
sys.stdout.flush()
os._exit(0)  # TensorFlow would try again
"""


def test_a_full_disk_leaves_the_old_checkpoint_and_no_partial_file(small_disk, tmp_path):
    # 3 MB, which hold two checkpoints of 1.2 MB.
    told, rest, of_curves = small_disk(3, _FULL_DISK, tmp_path / "small" / "checkpoints")
    assert told.startswith(f"cannot write {tmp_path}/small/checkpoints/step-0000000003")
    assert told.endswith("No space left on device; make room and start again")
    assert of_curves.startswith(f"cannot write {tmp_path}/small/tensorboard/validation/events.out.tfevents.")
    assert of_curves.endswith("No space left on device; make room and start again")
    assert rest == "3 ['step-0000000001', 'step-0000000002']"
