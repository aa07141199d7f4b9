"""A file of examples that is damaged while training reads it."""

import keras
import pytest

import tfbigmodel
from pipelines.errors import UserError
from pipelines.shards import write
from tfbigmodel.config import resolve, validate_config
from tfbigmodel.training.checkpoints import latest_checkpoint


class Damage(keras.callbacks.Callback):
    """Flips a bit in the middle of a file after the first epoch."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            content = bytearray(self.file.read_bytes())
            content[len(content) // 2] ^= 1
            self.file.write_bytes(content)


def test_it_is_told_in_one_line_and_the_run_goes_on_when_it_is_mended(tmp_path):
    rows = [f"{number % 7},{number % 3},{'yes' if number % 2 else 'no'}" for number in range(400)]
    (tmp_path / "data.csv").write_text("\n".join(["a,b,label", *rows]) + "\n")
    arguments = ["--input", str(tmp_path / "data.csv"), "--output", str(tmp_path / "files"), "--format", "tfrecord"]
    assert write.main([*arguments, "--shards", "1"]) == 0
    (file,) = (tmp_path / "files").glob("*.tfrecord")
    whole = file.read_bytes()
    data = {"source": "shards", "path": str(file), "label": "label", "batch_size": 8, "shuffle_window": 16}
    values = {
        "data": {**data, "cache_dir": str(tmp_path / "cache")},
        "model": {"chapter": "dense", "hidden_units": [4]},
        "training": {"epochs": 20, "jit_compile": False},
    }
    config = resolve(validate_config(values, "test"))
    with pytest.raises(UserError, match=rf"^{file} was changed after it was checked \(.*\); restore it"):
        tfbigmodel.train(config, tmp_path / "run", callbacks=[Damage(file)])
    reached = latest_checkpoint(tmp_path / "run" / "checkpoints")[0].state["epoch"]
    assert 1 <= reached < 20
    file.write_bytes(whole)
    assert "test" in tfbigmodel.train(config, tmp_path / "run")
    assert latest_checkpoint(tmp_path / "run" / "checkpoints")[0].state["epoch"] == 20
