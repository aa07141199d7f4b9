"""Versions that come, break and go on the shared server while clients keep asking."""

import threading

import numpy as np
import pytest

from serving.client import ClientError


def states(client, model):
    return {status.version: status.state for status in client.status(model)}


def ask(client, model, x=1.0):
    return client.predict(model, {"x": np.float32([[x]])})["y"].item()


def test_hot_swap_while_clients_call_fails_no_request(
    server, client, models, exported, put_version, remove_version, eventually
):
    failures, answers, stop = [], set(), threading.Event()

    def call():
        while not stop.is_set():
            try:
                answers.add(ask(client, "swap", 2.0))
            except ClientError as error:
                failures.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for version in range(2, 8):
            put_version(exported / ("linear3" if version % 2 else "linear"), models["swap"], version)
            eventually(lambda version=version: states(client, "swap").get(version) == "AVAILABLE")
        remove_version(models["swap"], 7)  # roll back to 6, which was unloaded
        eventually(lambda: states(client, "swap") == {**dict.fromkeys(range(1, 8), "END"), 6: "AVAILABLE"})
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert answers == {5.0, 6.0}


def test_a_broken_version_keeps_its_error_and_the_good_one_answers(
    server, client, models, exported, put_version, eventually
):
    def spoil(folder):
        (folder / "saved_model.pb").write_bytes(b"no saved model")

    put_version(exported / "linear", models["broken"], 2, change=spoil)
    eventually(lambda: states(client, "broken").get(2) == "END")
    status = client.status("broken", 2)[0]
    assert status.error_code != "OK"
    assert "saved_model.pb" in status.error_message
    assert ask(client, "broken") == 3.0
    assert states(client, "broken")[1] == "AVAILABLE"
    # Mended in place, it is tried again and takes over.
    (models["broken"] / "2" / "saved_model.pb").write_bytes((exported / "linear3" / "saved_model.pb").read_bytes())
    eventually(lambda: states(client, "broken") == {2: "AVAILABLE", 1: "END"})


def test_an_empty_version_folder_is_broken(server, client, models, eventually):
    (models["missing"] / "9").mkdir()
    eventually(lambda: states(client, "missing").get(9) == "END")
    message = client.status("missing", 9)[0].error_message
    assert message.startswith("Could not find SavedModel .pb or .pbtxt at supplied export directory path: ")
    assert ask(client, "missing") == 3.0
    (models["missing"] / "9").rmdir()


def add(name):
    return lambda folder: (folder / name).write_bytes(b"more")


TAMPERING = {
    2: (add("assets/extra.txt"), "file assets/extra.txt is not in the manifest"),
    3: (lambda folder: (folder / "variables/variables.index").unlink(), "file variables/variables.index is missing"),
    4: (add("variables/variables.index"), "file variables/variables.index has SHA-256 "),
    5: (add("assets.extra/manifest.json"), "assets.extra/manifest.json cannot be read: "),
}


@pytest.mark.parametrize("version", TAMPERING)
def test_a_version_that_does_not_match_its_manifest_is_not_loaded(
    server, client, models, exported, put_version, remove_version, eventually, version
):
    change, text = TAMPERING[version]
    put_version(exported / "linear", models["tampered"], version, manifest=True, change=change)
    eventually(lambda: states(client, "tampered").get(version) == "END")
    status = client.status("tampered", version)[0]
    assert status.error_code == "DATA_LOSS"
    assert status.error_message.startswith(f"Manifest check failed: {text}")
    assert ask(client, "tampered") == 3.0
    remove_version(models["tampered"], version)


def test_deleting_the_only_version_unloads_it(
    server, client, models, exported, remove_version, put_version, eventually
):
    remove_version(models["deleted"], 1)
    eventually(lambda: states(client, "deleted") == {1: "END"})
    with pytest.raises(ClientError, match=r"Servable not found for request: Latest\(deleted\)"):
        ask(client, "deleted")
    assert "No versions of servable deleted found under base path" in server.log.read_text()
    put_version(exported / "linear3", models["deleted"], 1)
    assert eventually(lambda: states(client, "deleted") == {1: "AVAILABLE"})
    assert ask(client, "deleted") == 3.0


def test_a_base_path_that_vanishes_keeps_what_is_loaded_and_is_logged_once(server, client, models, eventually):
    base, away = models["missing"], models["missing"].with_name("away")
    base.rename(away)
    text = f"Could not find base path {base} for servable missing"
    eventually(lambda: text in server.log.read_text())
    assert ask(client, "missing") == 3.0
    away.rename(base)
    assert server.log.read_text().count(text) == 1


def test_a_request_under_way_when_its_version_is_unloaded_completes(
    server, client, models, exported, put_version, eventually
):
    answers = []

    def slow():
        answers.append(client.predict("held", {"microseconds": np.int64(1_500_000)}, signature="slow")["one"].item())

    thread = threading.Thread(target=slow)
    thread.start()
    put_version(exported / "linear3", models["held"], 2)
    eventually(lambda: states(client, "held") == {2: "AVAILABLE", 1: "UNLOADING"})
    assert ask(client, "held", 2.0) == 6.0  # nobody waits for the slow one
    with pytest.raises(ClientError, match=r"Specific\(held, 1\)"):
        client.predict("held", {"x": np.float32([[1]])}, version=1)
    thread.join()
    assert answers == [1.0]
    eventually(lambda: states(client, "held") == {2: "AVAILABLE", 1: "END"})
