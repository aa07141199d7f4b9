import json
import os
import resource
import signal
import threading

import keras
import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.files import write_manifest
from tfbigmodel.training import checkpoints

MODEL = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "seed": np.array([1, 2], np.uint32)}
OPTIMIZER = {"adam/iteration": np.array(7)}


HOST = {"random/numpy": np.arange(3, dtype=np.uint32)}


def save(root, step, monitor=None, host=None):
    return checkpoints.save_checkpoint(root, step, MODEL, OPTIMIZER, {"updates": step, "monitor": monitor}, host)


def steps(root):
    return sorted(int(folder.name.removeprefix("step-")) for folder in root.iterdir())


def test_what_is_saved_comes_back_bit_equal(tmp_path):
    save(tmp_path, 7, 0.1)
    checkpoint, problems = checkpoints.latest_checkpoint(tmp_path)
    assert not problems
    assert checkpoint.state == {"updates": 7, "monitor": 0.1}
    for saved, loaded in ((MODEL, checkpoint.model_arrays()), (OPTIMIZER, checkpoint.optimizer_arrays())):
        assert saved.keys() == loaded.keys()
        for name in saved:
            np.testing.assert_array_equal(saved[name], loaded[name])
            assert saved[name].dtype == loaded[name].dtype
    assert sorted(os.listdir(tmp_path / "step-0000000007")) == [
        "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json",
    ]  # fmt: skip


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step, monitor in ((1, 0.5), (2, 0.1), (3, 0.4), (4, None), (5, 0.3)):
        save(tmp_path, step, monitor)
        checkpoints.prune_checkpoints(tmp_path, keep=2)
    assert steps(tmp_path) == [2, 4, 5]
    assert checkpoints.best_checkpoint(tmp_path)[0].state["updates"] == 2


FILES = ["model.safetensors", "optimizer.safetensors", "host.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_named_and_the_one_before_is_used(tmp_path, name, damage):
    save(tmp_path, 1)
    folder = save(tmp_path, 2, host=HOST)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    file = folder / name
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        content[len(content) // 2] ^= 0x80  # no longer UTF-8 either
        file.write_bytes(content if damage == "flip" else content[:-1])
    checkpoint, problems = checkpoints.latest_checkpoint(tmp_path)
    assert checkpoint.state["updates"] == 1
    ((folder, problem),) = problems.items()
    assert folder == tmp_path / "step-0000000002"
    assert "step-0000000002" in problem
    assert name in problem


@pytest.mark.parametrize("name", FILES)
def test_every_single_flipped_bit_is_found(tmp_path, name):
    file = save(tmp_path, 2, host=HOST) / name
    content = file.read_bytes()
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        checkpoint, problems = checkpoints.latest_checkpoint(tmp_path)
        assert checkpoint is None, f"byte {place} was flipped"
        assert len(problems) == 1
    file.write_bytes(content)
    assert checkpoints.latest_checkpoint(tmp_path)[0] is not None


def test_a_damaged_best_one_gives_way_to_the_next_best(tmp_path):
    for step, monitor in ((1, 0.3), (2, 0.1), (3, 0.2)):
        save(tmp_path, step, monitor)
    (tmp_path / "step-0000000002" / "model.safetensors").write_bytes(b"")
    best, problems = checkpoints.best_checkpoint(tmp_path)
    assert best.state["updates"] == 3
    assert list(problems) == [tmp_path / "step-0000000002"]


def test_a_damaged_one_set_aside_is_neither_counted_nor_in_the_way(tmp_path):
    save(tmp_path, 1)
    (save(tmp_path, 2) / "state.json").unlink()
    aside = checkpoints.set_aside(tmp_path / "step-0000000002")
    assert aside.is_dir()
    save(tmp_path, 2)
    checkpoint, problems = checkpoints.latest_checkpoint(tmp_path)
    assert checkpoint.state["updates"] == 2
    assert not problems


def test_one_that_goes_while_it_is_read_gives_way_to_the_one_before(tmp_path):
    """As where the chief sets aside what another worker is still reading, or prunes what `evaluate` opens."""
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    with open(folder / "a.bin", "wb") as file:
        file.truncate(300_000_000)  # read first, for a while
    write_manifest(folder, "manifest.json")
    timer = threading.Timer(0.02, checkpoints.set_aside, [folder])
    timer.start()
    checkpoint, problems = checkpoints.latest_checkpoint(tmp_path)
    timer.join()
    assert checkpoint.state["updates"] == 1
    assert not problems


def test_a_good_checkpoint_is_never_overwritten(tmp_path):
    save(tmp_path, 2, 0.5)
    with pytest.raises(UserError, match="exists already and is not overwritten"):
        save(tmp_path, 2, 0.1)
    assert checkpoints.open_checkpoint(tmp_path / "step-0000000002").state["monitor"] == 0.5


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(UserError, match=r"cannot write .*step-0000000001"):
            checkpoints.save_checkpoint(tmp_path, 1, {"w": np.zeros(10_000)}, {}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(UserError, match=r"weight w is not finite after update 2; the checkpoint is not written"):
        checkpoints.save_checkpoint(tmp_path, 2, {"w": np.float32([1.0, np.nan])}, {}, {})
    assert steps(tmp_path) == [1]


def test_an_error_while_writing_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        checkpoints.save_checkpoint(tmp_path, 3, MODEL, OPTIMIZER, {"updates": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_pickle_in_place_of_tensors_is_refused(tmp_path):
    folder = save(tmp_path, 1)
    (folder / "model.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    checkpoints.write_manifest(folder, checkpoints.MANIFEST)
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        checkpoints.open_checkpoint(folder).model_arrays()


def model(units=3):
    inputs = keras.Input((2,))
    x = keras.layers.Dense(units, name="hidden")(inputs)
    x = keras.layers.Dropout(0.5, seed=1, name="dropout")(x)
    return keras.Model(inputs, keras.layers.BatchNormalization(name="norm")(x))


def test_every_variable_is_kept_dropouts_random_state_too():
    source = model()
    x = np.ones((4, 2), np.float32)
    source(x, training=True)  # moves the random state and the moving statistics
    arrays = checkpoints.read_variables(source.variables)
    assert len(arrays) == len(source.variables)
    target = model()  # its seed generator has another number in this process
    checkpoints.write_variables(target.variables, arrays, "here")
    np.testing.assert_array_equal(source(x, training=True), target(x, training=True))


def test_another_models_checkpoint_is_refused():
    arrays = checkpoints.read_variables(model().variables)
    larger = sorted(model(units=4).variables, key=lambda v: v.path)
    with pytest.raises(
        UserError, match=r"run/1 does not fit the model: hidden/bias has shape \(3,\) there, \(4,\) here"
    ):
        checkpoints.write_variables(larger, arrays, "run/1")
    del arrays["norm/gamma"]
    with pytest.raises(UserError, match=r"norm/gamma is in one of them only"):
        checkpoints.write_variables(model().variables, arrays, "run/1")


def test_two_variables_of_one_path_are_refused():
    variables = [keras.Variable([1.0], name="w"), keras.Variable([2.0], name="w")]
    with pytest.raises(ValueError, match="2 variables are called w"):
        checkpoints.read_variables(variables)


def test_state_json_is_readable(tmp_path):
    folder = save(tmp_path, 1, 0.25)
    assert json.loads((folder / "state.json").read_text()) == {"updates": 1, "monitor": 0.25}
