"""What a model took is given back when it is unloaded."""

import numpy as np
import pytest

MEGABYTES = 200


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model with 200 MB of variables."""
    import tensorflow as tf

    class Large(tf.Module):
        def __init__(self):
            super().__init__()
            self.weights = tf.Variable(np.random.default_rng(0).random((MEGABYTES * 262, 1000), np.float32))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="row")])
        def serve(self, row):
            return {"mean": tf.reduce_mean(tf.gather(self.weights, row), 1)}

    module = Large()
    folder = tmp_path_factory.mktemp("large") / "1"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


def resident_megabytes(server):
    with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
        (line,) = (line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def test_memory_is_given_back(run_server, exported, large, put_version, remove_version, tmp_path, eventually):
    from serving.client import Client

    base = tmp_path / "m"
    put_version(exported / "linear", base, 1)
    server = run_server(
        "--port=0", "--model_name=m", f"--model_base_path={base}", "--file_system_poll_wait_seconds=0.1"
    ).wait_ready()
    with Client(server.address) as client:

        def state(version):
            return {status.version: status.state for status in client.status("m")}.get(version)

        taken = []
        for version in (2, 4, 6):
            before = resident_megabytes(server)
            put_version(large, base, version)
            eventually(lambda version=version: state(version) == "AVAILABLE")
            client.predict("m", {"row": np.int64([1, 2])})
            taken.append(resident_megabytes(server) - before)
            put_version(exported / "linear", base, version + 1)
            eventually(lambda version=version: state(version) == "END")
            eventually(lambda before=before: resident_megabytes(server) < before + 40)
        assert min(taken) > 0.8 * MEGABYTES
