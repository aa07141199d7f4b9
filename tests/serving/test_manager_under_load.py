"""Requests that never stop while versions come, break and go, and configurations change: none fails."""

import random
import threading
import time

from serving.errors import Code, ServingError
from serving.manager import Manager, ManagerOptions
from serving.model_config import ModelConfig, VersionPolicy

SWAPS = 60


class Model:
    def __init__(self, directory):
        self.directory, self.closed = directory, False

    def close(self):
        self.closed = True


def test_no_request_fails_while_everything_changes(tmp_path):
    def load(directory):
        time.sleep(0.02)
        if (directory / "broken").exists():
            raise ServingError(Code.DATA_LOSS, "it is broken")
        return Model(directory)

    for name in "ab":
        (tmp_path / name / "1").mkdir(parents=True)
    both = [ModelConfig(name, tmp_path / name) for name in "ab"]
    options = ManagerOptions(num_load_threads=2, max_num_load_retries=0)
    manager = Manager(both, load, 0.005, options)
    manager.start()
    assert manager.wait_until_available(threading.Event())

    failures, counts, stop = [], [], threading.Event()

    def ask(seed):
        chance, count = random.Random(seed), 0
        while not stop.is_set():
            try:
                servable = manager.lease("a")
            except ServingError as error:
                failures.append(error.message)
                continue
            with servable:
                if chance.random() < 0.1:
                    time.sleep(0.001)
                if servable.model.closed:
                    failures.append("closed while in use")
            count += 1
            time.sleep(0)
        counts.append(count)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        for version in range(2, 2 + SWAPS):
            directory = tmp_path / "a" / str(version)
            waiting = tmp_path / f"waiting-{version}"
            waiting.mkdir()
            if version % 3 == 0:
                (waiting / "broken").touch()
            waiting.rename(directory)
            # b comes and goes, and a's policy and labels change, at any time.
            policy = VersionPolicy("latest", 1 + version % 2)
            manager.apply([ModelConfig("a", tmp_path / "a", policy), *both[1 : 1 + version % 2]])
            deadline = time.monotonic() + 20
            while not any(status.version == version and status.state >= 30 for status in manager.statuses("a")):
                assert time.monotonic() < deadline, manager.statuses("a")
                time.sleep(0.002)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert min(counts) > SWAPS
    manager.close(5)
    assert all(status.state.name == "END" for name in "ab" for status in manager.statuses(name))


def test_a_request_does_not_wait_for_a_load(tmp_path):
    begun, go = threading.Event(), threading.Event()

    def load(directory):
        if directory.name == "2":
            begun.set()
            go.wait(20)
        return Model(directory)

    (tmp_path / "1").mkdir()
    manager = Manager([ModelConfig("a", tmp_path)], load, 0.01)
    manager.start()
    assert manager.wait_until_available(threading.Event())
    (tmp_path / "2").mkdir()
    assert begun.wait(20)
    with manager.lease("a") as servable:  # would wait for ever
        assert servable.version == 1
    assert manager.ready()
    assert [status.state.name for status in manager.statuses("a")] == ["LOADING", "AVAILABLE"]
    go.set()
    manager.close(5)
