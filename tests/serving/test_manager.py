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
