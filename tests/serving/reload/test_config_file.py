"""The config file, read again and again."""

import logging
import time

import pytest

from serving.model_config import ModelConfig
from serving.reload import ConfigFileFollower


@pytest.fixture
def follow(setup):
    """Follows a config file as long as the test lasts."""
    followers = []

    def start(path, seconds):
        followers.append(ConfigFileFollower(setup.manager, path, seconds))
        followers[-1].start()

    yield start
    for follower in followers:
        follower.close()


def test_the_config_file_is_read_again(setup, follow, eventually, caplog):
    path = setup.folder / "models.config"

    def write(text):  # in one step, as a careful user does: half a file is logged as an error
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").rename(path)

    write(setup.config(("a", "")))
    follow(path, 0.02)
    setup.put("b", 1)
    write(setup.config(("b", "")))
    eventually(lambda: setup.states("b") == {1: "AVAILABLE"} and setup.states("a") == {1: "END"})
    with caplog.at_level(logging.ERROR):
        for text, complaint in (
            ("nonsense", "Failed to read ModelServerConfig file: Error parsing text-format tensorflow.serving.Model"),
            ("", "Failed to read ModelServerConfig file: the model config is empty"),
            (
                setup.config(("a", setup.label("x", 9))),
                "PollFilesystemAndReloadConfig failed to ReloadConfig: Request to assign label to version 9 of model a",
            ),
        ):
            caplog.clear()
            write(text)
            eventually(lambda: caplog.messages)
            time.sleep(0.1)
            (message,) = caplog.messages  # once, not at every reading
            assert message.startswith(complaint)
            assert setup.manager.models() == ("b",)
    # The file has the last word.
    write(setup.config(("b", "")))
    setup.manager.apply([*setup.manager.configs(), ModelConfig("a", setup.folder / "a")])
    eventually(lambda: setup.manager.models() == ("b",))


def test_zero_seconds_mean_never(setup, follow):
    path = setup.folder / "models.config"
    path.write_text("model_config_list {}")
    follow(path, 0)
    time.sleep(0.1)
    assert setup.manager.models() == ("a",)
