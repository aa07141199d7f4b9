"""One loaded SavedModel: a TF 1 Session and callables into its graph.

The TF 1 loader is used because it loads every SavedModel that TensorFlow Serving loads, those of TF 1 among them.
The graph is called through the C++ `MakeCallable`, not `Session.run`: about 40 µs a call against 285 µs, and, like
TensorFlow Serving, without a check of shapes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import Code, ServingError
from serving.manifest import verify_manifest
from serving.operations.resources import resident_bytes

logger = logging.getLogger(__name__)

# Each combination of inputs and outputs that clients ask for costs a pruned copy of the graph: keep the recent ones.
_MAX_CALLABLES = 256


@dataclass(frozen=True)
class EngineOptions:
    """How versions are loaded: tags of the graph, threads, whose signatures of versions count, what requests may call.

    Inside an op, 0 threads = TensorFlow decides. Between ops, 0 = a request's ops run in the request's own thread:
    requests run beside each other anyway, and waking other threads cost 100 µs of 186 for a small dense model.

    With `check_method_names`, Classify and Regress take only signatures that were exported for them. Off as in
    TensorFlow Serving: TensorFlow 2 gives all its signatures the name of Predict.
    """

    tags: tuple[str, ...] = ("serve",)
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    trusted_keys: tuple[bytes, ...] = ()
    require_signature: bool = False
    check_method_names: bool = False


@functools.cache
def tensorflow() -> Any:
    """TensorFlow, imported once and set up for serving before anything else touches it.

    GPU memory grows as needed, so that training and serving can share a card. CPU tensors come from the system's
    allocator: oneDNN's own keeps what an unloaded model held (200 MB of 200 MB, measured) until the process ends.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
    with _greetings_held_back():
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")  # says at length where there are none
    tf.get_logger().setLevel(logging.ERROR)  # the TF 1 loader warns of its age at every load
    for device in gpus:
        tf.config.experimental.set_memory_growth(device, True)
    return tf


@contextlib.contextmanager
def _greetings_held_back() -> Iterator[None]:
    """Keeps standard error clean of what TensorFlow writes there before it reads its settings.

    `tfbigmodel.command_line` does the same for its commands; the two layers share no code.
    If the block fails, it is shown after all. TF_CPP_MIN_LOG_LEVEL=0 shows everything.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0":
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held_back:
        standard_error = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(standard_error, held_back.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)


class LoadedModel:
    """A SavedModel in memory. `load_model` makes it; `close` gives its memory back.

    Attributes:
        signatures: `{signature key: SignatureDef}`.
        checks_method_names: Whether Classify and Regress take only signatures that were exported for them.
        resident_bytes: By how much its load made the process grow. Other loads at the same time are in it too.
    """

    def __init__(self, session: Any, signatures: Mapping[str, Any], checks_method_names: bool = False) -> None:
        """Takes over a session with the model loaded and its variables restored."""
        self.signatures = signatures
        self.checks_method_names = checks_method_names
        self.resident_bytes = 0
        self._session = session
        self._callable = functools.lru_cache(_MAX_CALLABLES)(self._make_callable)
        self._input_dtype = functools.lru_cache(None)(self._find_input_dtype)

    def input_dtype(self, info: Any) -> int:
        """The `DataType` number that the graph expects of an input, given its TensorInfo."""
        return self._input_dtype(info.name, info.dtype)

    def run(self, feeds: tuple[str, ...], fetches: tuple[str, ...], values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Runs the graph; many threads may do so at once.

        Args:
            feeds: Names of the tensors to feed, e.g. `("serving_default_x:0",)`.
            fetches: Names of the tensors to compute.
            values: One array for each feed, of the right dtype.

        Returns:
            One array for each fetch.

        Raises:
            ServingError: What an op said, with its own code.
        """
        tf = tensorflow()
        try:
            return [_as_array(value) for value in self._callable(feeds, fetches)(*values)]
        except tf.errors.OpError as error:
            raise ServingError(Code(error.error_code), error.message) from error
        except UnicodeDecodeError as error:
            # An op complains of the client's bytes and quotes them: TensorFlow fails to make its error of that.
            raise ServingError(Code.INVALID_ARGUMENT, error.object.decode("utf-8", "replace")) from error

    def prepare(self) -> None:
        """Makes ready what a Predict request with every input and output calls.

        That prunes and optimises the graph and makes its executors: 50 ms for a small model, seconds for a large one,
        which the first client would wait for. Nothing is run, so nothing that the model counts or asserts is touched;
        a first run costs some 10 ms more, and a warm-up file takes care of that.
        """
        tf = tensorflow()
        for key, signature in self.signatures.items():
            if signature.method_name != tf.saved_model.PREDICT_METHOD_NAME:
                continue
            feeds = tuple(signature.inputs[alias].name for alias in sorted(signature.inputs))
            fetches = tuple(signature.outputs[alias].name for alias in sorted(signature.outputs))
            try:
                self._callable(feeds, fetches)
            except (tf.errors.OpError, ValueError) as error:
                # As in TensorFlow Serving, whoever asks for this signature will be told; others work.
                logger.warning("signature %s cannot be run: %s", key, error)

    def close(self) -> None:
        """Ends the session and gives its memory back to the system. No call may be under way."""
        from tensorflow.python.framework.ops import dismantle_graph

        self._callable.cache_clear()
        graph = self._session.graph
        self._session.close()
        del self._session, self._callable, self._input_dtype
        # Graphs are full of reference cycles. The garbage collector does not find those that were there when the server
        # froze what it had (`gc.freeze`), and a graph can hold as much in constants as a model in variables.
        dismantle_graph(graph)
        del graph
        gc.collect()
        _trim_heap()

    def _make_callable(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Any:
        from tensorflow.core.protobuf import config_pb2

        # The public make_callable goes through Session.run's slow path; only this one reaches C++ MakeCallable.
        return self._session._make_callable_from_options(config_pb2.CallableOptions(feed=feeds, fetch=fetches))

    def _find_input_dtype(self, tensor_name: str, declared: int) -> int:
        # The graph is what runs; a signature written by hand may say something else.
        try:
            return int(self._session.graph.get_tensor_by_name(tensor_name).dtype.as_datatype_enum)
        except (KeyError, ValueError):
            return declared


def _as_array(value: Any) -> np.ndarray:
    """What was fetched as an array: scalars come as numpy's or, where they are strings, as Python's."""
    if isinstance(value, np.ndarray):
        return value
    return np.array(value, dtype=object if isinstance(value, bytes) else None)


def load_model(directory: Path, options: EngineOptions = EngineOptions()) -> LoadedModel:
    """Verifies and loads one version of a model.

    Args:
        directory: The version's folder, with `saved_model.pb`.
        options: Tags and threads.

    Returns:
        The model, ready to run.

    Raises:
        ServingError: The manifest does not match, or TensorFlow cannot load it; the text says why.
    """
    verify_manifest(directory, options.trusted_keys, options.require_signature)
    if not any((directory / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise ServingError(
            Code.NOT_FOUND, f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {directory}"
        )
    tf = tensorflow()
    resident_before = resident_bytes()
    from tensorflow.python.saved_model.loader_impl import SavedModelLoader

    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=options.intra_op_threads,
        inter_op_parallelism_threads=options.inter_op_threads or -1,
    )
    config.gpu_options.allow_growth = True
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph, config=config)
    try:
        # The steps of the public tf.compat.v1.saved_model.loader.load, which reads the file twice: once is enough, and
        # Python answers no request meanwhile.
        loader = SavedModelLoader(str(directory))
        _register_custom_ops(loader.saved_model)
        saver, _ = loader.load_graph(graph, list(options.tags))
        loader.restore_variables(session, saver)
        loader.run_init_ops(session, list(options.tags))
        meta_graph = loader.get_meta_graph_def_from_tags(options.tags)
        # Only the signatures are kept: the meta graph holds a second copy of the graph with all its constants.
        signatures = {key: _copy(item) for key, item in meta_graph.signature_def.items()}
        model = LoadedModel(session, signatures, options.check_method_names)
        model.prepare()
        model.resident_bytes = max(0, resident_bytes() - resident_before)
        return model
    except ServingError:
        session.close()
        raise
    except tf.errors.OpError as error:
        session.close()
        raise ServingError(Code(error.error_code), error.message) from error
    except MemoryError:
        session.close()
        raise ServingError(Code.RESOURCE_EXHAUSTED, f"not enough memory to load {directory}") from None
    except OSError as error:
        session.close()
        # With a number it is the system's: a drive that does not answer may do so later. TensorFlow's have none.
        code = Code.INVALID_ARGUMENT if error.errno is None else Code.UNAVAILABLE
        raise ServingError(code, f"{type(error).__name__}: {error}") from error
    # The boundary to files that others wrote: for a broken one the loader raises ValueError, KeyError, RuntimeError,
    # DecodeError and more, and none of them may end the thread that keeps the good versions served.
    except Exception as error:
        session.close()
        raise ServingError(Code.INVALID_ARGUMENT, f"{type(error).__name__}: {error}") from error


def _copy(message: Any) -> Any:
    twin = type(message)()
    twin.CopyFrom(message)
    return twin


def _register_custom_ops(saved_model: Any) -> None:
    """Imports tensorflow_text if, and only if, the graph has ops that TensorFlow alone does not know.

    Raises:
        ServingError: Ops are still unknown; names them and says what to install.
    """
    missing = _unregistered_ops(saved_model)
    if not missing:
        return
    installed = importlib.util.find_spec("tensorflow_text") is not None
    if installed:
        importlib.import_module("tensorflow_text")
        missing = _unregistered_ops(saved_model)
    if missing:
        advice = "tensorflow_text has none of them" if installed else "pip install tensorflow-text may add them"
        raise ServingError(Code.NOT_FOUND, f"Op type not registered: {', '.join(missing)}; {advice}")


def _unregistered_ops(saved_model: Any) -> list[str]:
    """Names of the ops in a SavedModel, its functions included, that are not registered in this process."""
    from tensorflow.python.framework import op_def_registry

    used: set[str] = set()
    defined: set[str] = set()
    for meta_graph in saved_model.meta_graphs:
        used.update(node.op for node in meta_graph.graph_def.node)
        for function in meta_graph.graph_def.library.function:
            defined.add(function.signature.name)
            used.update(node.op for node in function.node_def)
    return sorted(name for name in used - defined if op_def_registry.get(name) is None)


def _trim_heap() -> None:
    """Asks glibc to return freed memory; other C libraries do without."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        logger.debug("no malloc_trim on this system")
