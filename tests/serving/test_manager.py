"""The manager with models that are plain objects: order of events, policies, failures; no TensorFlow."""

import logging
import threading
import time

import pytest

from serving.errors import Code, ServingError
from serving.manager import Manager, ManagerOptions, State
from serving.model_config import ModelConfig, VersionPolicy


class Model:
    """Notes its end."""

    def __init__(self, version, events):
        self.version, self.events = version, events

    def close(self):
        self.events.append(("unload", self.version))


class Setup:
    def __init__(self, base, policy, labels=None, **options):
        self.base, self.events, self.broken, self.faulty = base, [], set(), set()
        self.config = ModelConfig("m", base, policy, labels or {})
        self.manager = Manager([self.config], self.load, poll_seconds=60, options=ManagerOptions(**options))

    def load(self, directory):
        version = int(directory.name)
        self.events.append(("load", version))
        if version in self.faulty:
            return 1 / 0
        if version in self.broken:
            raise ServingError(Code.DATA_LOSS, f"version {version} is broken")
        return Model(version, self.events)

    def put(self, *versions):
        for version in versions:
            (self.base / str(version)).mkdir()

    def poll(self):
        self.manager.poll("m")

    def states(self):
        return {status.version: status.state.name for status in self.manager.statuses("m")}


@pytest.fixture
def make(tmp_path):
    made = []

    def build(policy=None, labels=None, **options):
        made.append(Setup(tmp_path, policy or VersionPolicy(), labels, **options))
        return made[-1]

    yield build
    for setup in made:
        setup.manager.close(5)


def test_the_new_version_is_loaded_before_the_old_one_goes(make, eventually):
    setup = make()
    setup.put(1)
    setup.poll()
    setup.put(2, 3)
    setup.poll()
    eventually(lambda: setup.states() == {3: "AVAILABLE", 1: "END"})
    assert setup.events == [("load", 1), ("load", 3), ("unload", 1)]


def test_all_versions_are_loaded_from_the_highest(make):
    setup = make(VersionPolicy("all"))
    setup.put(1, 2, 3)
    setup.poll()
    assert setup.events == [("load", 3), ("load", 2), ("load", 1)]
    with setup.manager.lease("m") as servable:
        assert servable.version == 3


def test_specific_versions(make):
    setup = make(VersionPolicy("specific", versions=frozenset({1, 3})))
    setup.put(1, 2, 3)
    setup.poll()
    assert setup.states() == {3: "AVAILABLE", 1: "AVAILABLE"}


def test_a_broken_version_is_not_tried_again_until_its_files_change(make, eventually):
    setup = make()
    setup.put(1)
    setup.poll()
    setup.put(2)
    setup.broken = {2}
    setup.poll()
    setup.poll()
    assert setup.events == [("load", 1), ("load", 2)]
    assert setup.states() == {2: "END", 1: "AVAILABLE"}
    assert setup.manager.statuses("m")[0].error.message == "version 2 is broken"
    (setup.base / "2" / "more").write_text("")
    setup.broken = set()
    setup.poll()
    eventually(lambda: setup.states() == {2: "AVAILABLE", 1: "END"})
    assert setup.manager.statuses("m")[0].error is None


def test_the_last_good_version_stays_even_when_its_directory_goes(make):
    setup = make()
    setup.put(1)
    setup.poll()
    setup.put(2)
    setup.broken = {2}
    (setup.base / "1").rmdir()
    setup.poll()
    assert setup.states() == {2: "END", 1: "AVAILABLE"}


def test_an_unexpected_fault_while_loading_is_kept_as_the_version_s_error(make):
    setup = make()
    setup.put(1)
    setup.faulty = {1}
    with pytest.raises(ZeroDivisionError):
        setup.poll()
    (status,) = setup.manager.statuses("m")
    assert (status.state, status.error.code) == (State.END, Code.INTERNAL)
    assert status.error.message == "ZeroDivisionError: division by zero"


def test_labels(make):
    setup = make(VersionPolicy("all"), {"stable": 1, "canary": 9})
    setup.put(1, 2)
    setup.poll()
    with setup.manager.lease("m", label="stable") as servable:
        assert servable.version == 1
    for label, code, text in (
        ("canary", Code.NOT_FOUND, "Servable not found for request: Specific(m, 9)"),
        ("other", Code.INVALID_ARGUMENT, "Unrecognized servable version label: other"),
    ):
        with pytest.raises(ServingError) as caught:
            setup.manager.lease("m", label=label)
        assert (caught.value.code, caught.value.message) == (code, text)


def test_unloading_waits_for_the_requests_inside(make, eventually):
    setup = make()
    setup.put(1)
    setup.poll()
    lease = setup.manager.lease("m")
    with lease:
        setup.put(2)
        setup.poll()
        assert setup.states() == {2: "AVAILABLE", 1: "UNLOADING"}
        assert ("unload", 1) not in setup.events
        setup.poll()  # an unloading version is neither loaded nor unloaded again
    eventually(lambda: setup.states() == {2: "AVAILABLE", 1: "END"})
    assert setup.events == [("load", 1), ("load", 2), ("unload", 1)]


def test_a_model_that_cannot_be_closed_is_unloaded_all_the_same(make, eventually, monkeypatch, caplog):
    setup = make()
    setup.put(1)
    setup.poll()
    monkeypatch.setattr(Model, "close", lambda self: 1 / 0)
    (setup.base / "1").rmdir()
    setup.poll()
    eventually(lambda: setup.states() == {1: "END"})
    assert "version 1 of model m could not be closed" in caplog.text
    monkeypatch.undo()
    setup.put(1)
    setup.poll()
    assert setup.states() == {1: "AVAILABLE"}


def test_lasting_trouble_is_logged_once(make, caplog):
    setup = make()
    (setup.base / "saved_model.pb").write_text("")
    with caplog.at_level(logging.WARNING):
        setup.poll()
        setup.poll()
    (message,) = caplog.messages
    assert message == (
        f"No versions of servable m found under base path {setup.base}. It is itself a SavedModel: move it into a "
        "numbered folder, or give its parent as base path."
    )


def test_waiting_ends_when_available_when_failed_and_when_told(make):
    setup = make()
    stop = threading.Event()
    setup.put(1)
    setup.broken = {1}
    setup.manager.start()
    with pytest.raises(ServingError, match="version 1 is broken"):
        setup.manager.wait_until_available(stop)
    stop.set()
    assert setup.manager.wait_until_available(stop) is False
    setup.broken = set()
    (setup.base / "1" / "more").write_text("")
    setup.poll()
    assert setup.manager.wait_until_available(threading.Event()) is True


def test_no_wait_means_one_look_at_each_configuration(tmp_path, eventually):
    (tmp_path / "1").mkdir()
    config = ModelConfig("m", tmp_path)
    manager = Manager([config], lambda directory: Model(1, []), poll_seconds=0)
    manager.start()
    manager.wait_until_available(threading.Event())
    (tmp_path / "2").mkdir()
    time.sleep(0.3)
    assert [status.version for status in manager.statuses("m")] == [1]
    manager.apply([ModelConfig("m", tmp_path, VersionPolicy("all"))])
    eventually(lambda: [status.state for status in manager.statuses("m")] == [State.AVAILABLE] * 2)
    manager.close(5)


def test_a_load_that_failed_is_tried_again_as_often_as_the_flags_say(make, eventually):
    setup = make(max_num_load_retries=2, load_retry_interval_micros=100_000)
    setup.put(1)
    setup.broken = {1}
    setup.manager.start()  # looks every minute: the retries do not wait for that
    with pytest.raises(ServingError) as caught:
        setup.manager.wait_until_available(threading.Event())
    assert setup.events == [("load", 1)] * 3
    assert caught.value.code == Code.UNKNOWN
    assert caught.value.message == (
        "1 servable(s) did not become available: "
        "{{{name: m version: 1} due to error: DATA_LOSS: version 1 is broken}, }"
    )
    setup.poll()
    assert setup.events == [("load", 1)] * 3


def test_a_retry_that_succeeds_is_as_good_as_the_first_try(make):
    setup = make(max_num_load_retries=5, load_retry_interval_micros=100_000)
    setup.put(1)
    setup.broken = {1}
    setup.manager.start()
    threading.Timer(0.25, setup.broken.clear).start()
    assert setup.manager.wait_until_available(threading.Event()) is True
    assert setup.states() == {1: "AVAILABLE"}
    assert setup.manager.statuses("m")[0].error is None


def test_a_start_waits_a_minute_for_what_may_pass_but_not_for_files_that_are_wrong(make):
    setup = make(load_retry_interval_micros=60_000_000)
    setup.put(1)
    setup.faulty = {1}  # INTERNAL: nobody knows
    setup.manager.start()
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    assert setup.manager.wait_until_available(stop) is False
    assert setup.states() == {1: "END"}
    setup.manager.close(5)
    setup = make(load_retry_interval_micros=60_000_000)
    setup.broken = {1}
    setup.manager.start()
    with pytest.raises(ServingError, match="version 1 is broken"):
        setup.manager.wait_until_available(threading.Event())


@pytest.mark.parametrize(
    ("options", "labels", "refused"),
    [
        ({}, {"stable": 1}, False),
        ({}, {"stable": 1, "gone": 7}, True),
        ({"allow_version_labels_for_unavailable_models": True}, {"gone": 7}, False),
        ({"force_allow_any_version_labels_for_unavailable_models": True}, {"gone": 7}, False),
    ],
)
def test_labels_at_the_start(make, caplog, options, labels, refused):
    setup = make(VersionPolicy("all"), labels, **options)
    setup.put(1, 2)
    setup.manager.start()
    assert ("TensorFlow Serving itself refuses labels at start" in caplog.text) == (not options)
    if not refused:
        assert setup.manager.wait_until_available(threading.Event()) is True
        return
    with pytest.raises(ServingError) as caught:
        setup.manager.wait_until_available(threading.Event())
    assert (caught.value.code, caught.value.message) == (
        Code.FAILED_PRECONDITION,
        "Request to assign label to version 7 of model m, which is not currently available for inference",
    )


@pytest.mark.parametrize("threads", [0, 3])
def test_several_models_load_at_once_if_told_to(tmp_path, threads):
    at_once, most, lock = set(), [0], threading.Lock()

    def load(directory):
        with lock:
            at_once.add(directory)
            most[0] = max(most[0], len(at_once))
        time.sleep(0.3)
        with lock:
            at_once.remove(directory)
        return Model(1, [])

    for name in "abc":
        (tmp_path / name / "1").mkdir(parents=True)
    options = ManagerOptions(num_load_threads=threads)
    manager = Manager([ModelConfig(name, tmp_path / name) for name in "abc"], load, 0, options)
    assert not manager.ready()
    manager.start()
    assert manager.wait_until_available(threading.Event()) is True
    assert manager.ready()
    assert most[0] == max(threads, 1)
    # A model that is added and broken takes no server out of service for the models that answer.
    manager.apply([*manager.configs(), ModelConfig("d", tmp_path / "d")])
    assert manager.ready()
    manager.close(5)


def test_one_bad_model_holds_up_nobody(tmp_path, eventually):
    """Its retries wait, but no thread waits with them."""

    def load(directory):
        if directory.parent.name == "bad":
            raise ServingError(Code.UNAVAILABLE, "no")
        return Model(1, [])

    for name in ("bad", "good"):
        (tmp_path / name / "1").mkdir(parents=True)
    manager = Manager([ModelConfig(name, tmp_path / name) for name in ("bad", "good")], load, 0.05)
    manager.start()
    eventually(lambda: manager.lease("good").__enter__() if manager.statuses("good") else None)
    (tmp_path / "good" / "2").mkdir()
    eventually(lambda: [status.version for status in manager.statuses("good")] == [2, 1])
    assert not manager.ready()
    manager.close(0.1)


def test_a_load_that_ends_after_the_manager_leaves_nothing_behind(make, eventually):
    setup = make()
    setup.put(1)
    begun, go = threading.Event(), threading.Event()
    load = setup.load

    def slow(directory):
        begun.set()
        go.wait(10)
        return load(directory)

    manager = Manager([setup.config], slow, 0)
    manager.start()
    begun.wait(10)
    manager.close(0.1)
    go.set()
    eventually(lambda: setup.events == [("load", 1), ("unload", 1)])
