"""What is on the host besides tensors and is kept in a checkpoint: the callbacks' state and the random generators'.

Keras' callbacks have no way to save their state. It is in their attributes: those that have changed since training
began, and are numbers, texts, arrays, or lists and dictionaries of such, are kept. So `ReduceLROnPlateau` goes on
waiting where it was, and `EarlyStopping` has its best weights.
"""

import copy
import random
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

# What Keras itself sets; of `min_delta` it turns the sign at the first use, and would turn it once more.
_OF_KERAS = {"_model", "model", "params", "validation_data", "min_delta"}
_PLAIN = (bool, int, float, str, type(None))


class CallbackStates:
    """Keeps apart what callbacks were made with and what they have learned since.

    Args:
        callbacks: those of a run. One that has methods `get_state()` and `set_state(state)` says itself what is to be
            kept.

    Example:
        >>> states = CallbackStates(callbacks)      # before on_train_begin, which sets attributes anew
        >>> callback_list.on_train_begin()
        >>> states.restore(value, arrays)           # what an earlier run's `read` returned
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        self._callbacks = list(callbacks)
        self._made_with = [_attributes(callback) for callback in callbacks]
        self._begun_with: list[dict[str, Any]] = []

    def begun(self) -> None:
        """Is to be called after `on_train_begin`, before anything is restored."""
        self._begun_with = [_attributes(callback) for callback in self._callbacks]

    def read(self) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        """The state of all callbacks: JSON values, and the arrays that these refer to by name."""
        arrays: dict[str, np.ndarray] = {}
        states = []
        for index, callback in enumerate(self._callbacks):
            if hasattr(callback, "get_state"):
                changed = callback.get_state()
            else:
                before, begun = self._made_with[index], self._begun_with[index]
                changed = {
                    name: value
                    for name, value in _attributes(callback).items()
                    if not (_same(value, before.get(name, ...)) and _same(value, begun.get(name, ...)))
                }
            states.append({"class": type(callback).__name__, "state": _packed(changed, f"callback{index}", arrays)})
        return states, arrays

    def restore(self, states: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]) -> bool:
        """Gives the callbacks the state that `read` returned; other callbacks than those begin anew, with a warning.

        Returns:
            Whether they go on with that state.
        """
        before, now = [state["class"] for state in states], [type(callback).__name__ for callback in self._callbacks]
        if before != now:
            told = f"the run's callbacks were {', '.join(before) or 'none'} and are {', '.join(now) or 'none'} now"
            print(f"warning: {told}; their state begins anew", file=sys.stderr)
            return False
        for callback, begun, state in zip(self._callbacks, self._begun_with, states, strict=True):
            value = _unpacked(state["state"], arrays)
            if hasattr(callback, "set_state"):
                callback.set_state(value)
                continue
            # What was not kept was as it is when training begins, whatever the beginning of an epoch has made of it.
            for name in (present := _attributes(callback)):
                if name in begun and name not in value and not _same(present[name], begun[name]):
                    setattr(callback, name, copy.deepcopy(begun[name]))
            for name in value:
                setattr(callback, name, value[name])
        return True


def read_random_state() -> dict[str, np.ndarray]:
    """The state of Python's and of NumPy's generators, which callbacks may draw from."""
    _, words, gauss = random.getstate()
    _name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "random/python": np.asarray(words, np.uint32),
        "random/python_gauss": np.asarray([] if gauss is None else [gauss], np.float64),
        "random/numpy": np.asarray([*keys, position, has_gauss], np.uint32),
        "random/numpy_gauss": np.asarray([cached], np.float64),
    }


def write_random_state(arrays: Mapping[str, np.ndarray]) -> None:
    """Sets the generators to what `read_random_state` returned, where `arrays` have it."""
    if "random/python" not in arrays:
        return
    gauss = arrays["random/python_gauss"]
    random.setstate((3, tuple(arrays["random/python"].tolist()), float(gauss[0]) if len(gauss) else None))
    *keys, position, has_gauss = arrays["random/numpy"].tolist()
    cached = float(arrays["random/numpy_gauss"][0])
    np.random.set_state(("MT19937", np.asarray(keys, np.uint32), position, has_gauss, cached))


def _attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """A copy of the attributes that can be kept."""
    values = {name: value for name, value in vars(callback).items() if name not in _OF_KERAS and _can_be_kept(value)}
    return copy.deepcopy(values)


def _can_be_kept(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    if isinstance(value, (list, tuple)):
        return all(_can_be_kept(each) for each in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _can_be_kept(each) for key, each in value.items())
    return isinstance(value, (*_PLAIN, np.number, np.bool_))


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return type(first) is type(second) and np.array_equal(first, second)
    if isinstance(first, (list, tuple)) and type(first) is type(second):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    return type(first) is type(second) and bool(first == second)


def _packed(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """JSON values; arrays are put among `arrays`, and what JSON has no form for is marked with its type."""
    if isinstance(value, (np.ndarray, np.number, np.bool_)):
        arrays[name] = np.array(value)  # a copy: the callback may go on with its own
        return {"array": name, "scalar": not isinstance(value, np.ndarray)}
    if isinstance(value, (list, tuple)):
        items = [_packed(each, f"{name}/{index}", arrays) for index, each in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {"dict": {key: _packed(each, f"{name}/{key}", arrays) for key, each in value.items()}}
    return value


def _unpacked(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_unpacked(each, arrays) for each in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]][()] if value["scalar"] else arrays[value["array"]]
    if "tuple" in value:
        return tuple(_unpacked(each, arrays) for each in value["tuple"])
    return {key: _unpacked(each, arrays) for key, each in value["dict"].items()}
