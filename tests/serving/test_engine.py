"""Loading in this process: memory given back, custom ops, the limit of callables."""

import errno
import gc
import sys
import time
import types
import weakref

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from serving.engine import EngineOptions, load_model
from serving.errors import Code, ServingError


def names(model):
    signature = model.signatures["serving_default"]
    return (signature.inputs["x"].name,), (signature.outputs["y"].name,)


def sessions():
    """The sessions that live in this process; other tests' fixtures hold some."""
    return {id(item) for item in gc.get_objects() if type(item) is tf.compat.v1.Session}


def test_load_run_close(exported):
    before = sessions()
    model = load_model(exported / "linear")
    feeds, fetches = names(model)
    assert model.run(feeds, fetches, [np.float32([[2]])])[0].item() == 5
    assert model.input_dtype(model.signatures["serving_default"].inputs["x"]) == 1
    model.close()
    del model
    gc.collect()
    assert sessions() <= before


def test_a_frozen_graph_is_freed(exported):
    model = load_model(exported / "linear")
    graph = weakref.ref(model._session.graph)
    gc.collect()
    gc.freeze()  # as the server does when its first models are loaded
    try:
        model.close()
        assert graph() is None
    finally:
        gc.unfreeze()


def test_threads_can_be_chosen(exported):
    model = load_model(exported / "linear", EngineOptions(intra_op_threads=1, inter_op_threads=1))
    feeds, fetches = names(model)
    assert model.run(feeds, fetches, [np.float32([[2]])])[0].item() == 5
    model.close()


def test_scalars_are_arrays_of_their_dtype(tmp_path):
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [], name="x")
        outputs = {"text": tf.strings.as_string(x, 1), "double": x * 2, "flag": x > 1}
        v1.saved_model.simple_save(session, str(tmp_path / "1"), {"x": x}, outputs)
    model = load_model(tmp_path / "1")
    infos = model.signatures["serving_default"].outputs
    results = model.run(("x:0",), tuple(infos[name].name for name in sorted(outputs)), [np.float32(1.5)])
    assert [(type(result), result.shape) for result in results] == [(np.ndarray, ())] * 3
    assert [str(result.dtype) for result in results] == ["float32", "bool", "object"]
    assert [result.item() for result in results] == [3.0, True, b"1.5"]
    model.close()


def test_unknown_tags_are_an_error_that_names_them(exported):
    with pytest.raises(ServingError, match="nosuchtag"):
        load_model(exported / "linear", EngineOptions(tags=("nosuchtag",)))


def test_missing_variables_are_an_error(exported, put_version, tmp_path):
    version = put_version(
        exported / "linear", tmp_path, 1, change=lambda folder: (folder / "variables" / "variables.index").unlink()
    )
    with pytest.raises(ServingError, match="variables"):
        load_model(version)


@pytest.fixture
def with_unknown_op(exported, put_version, tmp_path):
    """A version whose function library calls an op nobody has."""

    def change(folder):
        path = folder / "saved_model.pb"
        saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        saved_model.meta_graphs[0].graph_def.library.function[0].node_def.add(name="extra", op="NobodysOp")
        path.write_bytes(saved_model.SerializeToString())

    return put_version(exported / "linear", tmp_path, 1, change=change)


def test_an_unknown_op_is_named(with_unknown_op, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_text", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServingError) as caught:
        load_model(with_unknown_op)
    assert caught.value.code == Code.NOT_FOUND
    assert caught.value.message == "Op type not registered: NobodysOp; pip install tensorflow-text may add them"


def test_tensorflow_text_is_imported_only_when_ops_are_unknown(exported, with_unknown_op, monkeypatch):
    imported = []
    text = types.ModuleType("tensorflow_text")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: text)
    monkeypatch.setattr("importlib.import_module", lambda name: imported.append(name) or text)
    load_model(exported / "linear").close()
    assert imported == []
    with pytest.raises(ServingError) as caught:
        load_model(with_unknown_op)
    assert imported == ["tensorflow_text"]
    assert caught.value.message == "Op type not registered: NobodysOp; tensorflow_text has none of them"


def test_a_signature_that_cannot_run_is_logged_and_the_others_work(exported, put_version, tmp_path, caplog):
    def change(folder):
        path = folder / "saved_model.pb"
        saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        saved_model.meta_graphs[0].signature_def["slow"].outputs["one"].name = "nothing:0"
        path.write_bytes(saved_model.SerializeToString())

    model = load_model(put_version(exported / "linear", tmp_path, 1, change=change))
    assert "signature slow cannot be run: " in caplog.text
    feeds, fetches = names(model)
    assert model.run(feeds, fetches, [np.float32([[2]])])[0].item() == 5
    model.close()


def test_nobody_waits_for_a_graph_to_be_prepared(exported):
    """Calls are made when a version is loaded; making one takes as long as hundreds of runs."""
    model = load_model(exported / "many")
    signature = model.signatures["serving_default"]
    feeds = tuple(signature.inputs[alias].name for alias in sorted(signature.inputs))
    fetches = tuple(signature.outputs[alias].name for alias in sorted(signature.outputs))
    values = [np.float32([1]), np.array([b"a"], object), np.int32([[1, 2]])]

    def seconds(fetches):
        begin = time.perf_counter()
        model.run(feeds, fetches, values)
        return time.perf_counter() - begin

    assert seconds(fetches) < seconds(fetches[:1])  # the first run of a call that is ready, and of one that is not
    model.close()


def test_faults_of_the_system_may_pass_and_those_of_files_do_not(exported, monkeypatch):
    from tensorflow.python.saved_model import loader_impl

    def fail(error):
        def parse(directory):
            raise error

        monkeypatch.setattr(loader_impl, "parse_saved_model", parse)
        with pytest.raises(ServingError) as caught:
            load_model(exported / "linear")
        return caught.value.code

    assert fail(OSError(errno.EIO, "Input/output error")) == Code.UNAVAILABLE
    assert fail(OSError("Cannot parse file")) == Code.INVALID_ARGUMENT
    assert fail(MemoryError()) == Code.RESOURCE_EXHAUSTED
