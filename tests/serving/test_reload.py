"""Other models at run time, by request and by config file; with models that are plain objects, no TensorFlow graphs."""

import logging
import threading
import time

import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2

from serving.errors import Code, ServingError
from serving.manager import Manager, ManagerOptions
from serving.model_config import ModelConfig
from serving.reload import ConfigFileFollower, reload_config


class Model:
    def __init__(self, directory):
        self.directory = directory

    def close(self):
        pass


class Setup:
    """A started manager whose models live in a folder; `broken` names directories that cannot be loaded."""

    def __init__(self, folder, **options):
        self.folder, self.broken, self.hold = folder, set(), threading.Event()
        self.hold.set()
        self.put("a", 1)
        self.manager = Manager([ModelConfig("a", folder / "a")], self.load, 0.05, ManagerOptions(**options))
        self.manager.start()
        self.manager.wait_until_available(threading.Event())

    def load(self, directory):
        self.hold.wait(10)
        if f"{directory.parent.name}/{directory.name}" in self.broken:
            raise ServingError(Code.DATA_LOSS, "it is broken")
        return Model(directory)

    def put(self, name, *versions):
        for version in versions:
            (self.folder / name / str(version)).mkdir(parents=True, exist_ok=True)

    def config(self, *models):
        """Models as `("name", "more of its config")`."""
        configs = (
            f'config {{ name: "{name}" base_path: "{self.folder / name}" model_platform: "tensorflow" {more} }}'
            for name, more in models
        )
        return f"model_config_list {{ {' '.join(configs)} }}"

    def reload(self, config, timeout=10):
        request = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(config, request.config)
        return reload_config(self.manager, request, timeout)

    def states(self, name):
        return {status.version: status.state.name for status in self.manager.statuses(name)}

    def answering(self, name, **how):
        """The directory of the version that a request gets."""
        with self.manager.lease(name, **how) as servable:
            return f"{servable.model.directory.parent.name}/{servable.model.directory.name}"


@pytest.fixture
def make(tmp_path):
    made = []

    def build(**options):
        made.append(Setup(tmp_path, **options))
        return made[-1]

    yield build
    for setup in made:
        setup.hold.set()
        setup.manager.close(5)


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


@pytest.fixture
def setup(make):
    return make()


ALL = "model_version_policy { all {} }"


def label(name, version):
    return f'version_labels {{ key: "{name}" value: {version} }}'


def test_new_models_are_available_when_it_answers_and_absent_ones_go(setup, eventually):
    setup.put("b", 1, 2)
    response = setup.reload(setup.config(("b", ALL)))
    assert response.HasField("status")
    assert (response.status.error_code, response.status.error_message) == (0, "")
    assert setup.answering("b") == "b/2"
    assert setup.manager.models() == ("b",)
    assert setup.manager.ready()
    eventually(lambda: setup.states("a") == {1: "END"})  # it stays known
    with pytest.raises(ServingError, match=r"Servable not found for request: Latest\(a\)"):
        setup.answering("a")
    setup.reload(setup.config(("a", "")))
    assert setup.answering("a") == "a/1"


def test_a_policy_that_changes_takes_effect(setup, eventually):
    setup.put("a", 2, 3)
    eventually(lambda: setup.states("a") == {3: "AVAILABLE", 1: "END"})
    setup.reload(setup.config(("a", "model_version_policy { specific { versions: 1 versions: 2 } }")))
    eventually(lambda: setup.states("a") == {3: "END", 2: "AVAILABLE", 1: "AVAILABLE"})


def test_a_base_path_that_changes_takes_effect_even_for_the_same_version(setup, eventually):
    setup.put("other", 1)
    answers, stop = set(), threading.Event()

    def ask():
        while not stop.is_set():
            answers.add(setup.answering("a"))

    thread = threading.Thread(target=ask)
    thread.start()
    setup.reload(setup.config(("a", "")).replace(str(setup.folder / "a"), str(setup.folder / "other")))
    assert setup.answering("a") == "other/1"
    stop.set()
    thread.join()
    assert answers <= {"a/1", "other/1"}
    assert setup.states("a") == {1: "AVAILABLE"}


def test_a_base_path_with_a_broken_version_leaves_the_good_one(setup):
    setup.put("other", 1)
    setup.broken = {"other/1"}
    with pytest.raises(ServingError) as caught:
        setup.reload(setup.config(("a", "")).replace(str(setup.folder / "a"), str(setup.folder / "other")))
    assert caught.value.message == (
        "1 model(s) did not become available: {{{name: a version: 1} due to error: DATA_LOSS: it is broken}, }"
    )
    assert setup.answering("a") == "a/1"


def test_a_canary_is_asked_by_label_and_promoted_by_moving_it(setup):
    setup.put("a", 2)
    setup.reload(setup.config(("a", ALL)))
    while setup.states("a") != {2: "AVAILABLE", 1: "AVAILABLE"}:
        time.sleep(0.01)
    setup.reload(setup.config(("a", f"{ALL} {label('stable', 1)} {label('canary', 2)}")))
    assert setup.answering("a", label="stable") == "a/1"
    assert setup.answering("a", label="canary") == "a/2"
    setup.reload(setup.config(("a", f"{ALL} {label('stable', 2)}")))
    assert setup.answering("a", label="stable") == "a/2"
    with pytest.raises(ServingError, match=r"^Unrecognized servable version label: canary$"):
        setup.answering("a", label="canary")
    assert setup.manager.labels("a") == {"stable": 2}
    assert setup.manager.labels("nobody") == {}


UNAVAILABLE = "Request to assign label to version 2 of model a, which is not currently available for inference"


@pytest.mark.parametrize(
    ("options", "labels", "refused"),
    [
        ({}, label("new", 2), True),
        ({"allow_version_labels_for_unavailable_models": True}, label("new", 2), False),
        ({"allow_version_labels_for_unavailable_models": True}, label("old", 2), True),
        ({"force_allow_any_version_labels_for_unavailable_models": True}, label("old", 2), False),
    ],
)
def test_labels_on_versions_that_are_not_available(make, options, labels, refused):
    setup = make(**options)
    setup.put("b", 1)
    setup.reload(setup.config(("a", label("old", 1))))
    if not refused:
        setup.reload(setup.config(("a", labels)))
        assert 2 in setup.manager.labels("a").values()
        return
    with pytest.raises(ServingError) as caught:
        setup.reload(setup.config(("a", labels), ("b", "")))
    assert (caught.value.code, caught.value.message) == (Code.FAILED_PRECONDITION, UNAVAILABLE)
    assert setup.manager.models() == ("a",)  # nothing has changed
    assert setup.manager.labels("a") == {"old": 1}


A = "config { name: 'a' base_path: '/a' model_platform: 'tensorflow' }"
UNSUPPORTED = (
    "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("", UNSUPPORTED),
        ("custom_model_config {}", UNSUPPORTED),
        (f"model_config_list {{ {A} {A} }}", "Illegal to list model a multiple times in config list"),
        (
            f"model_config_list {{ {A.replace('/a', 'a')} }}",
            "Expected model a to have an absolute path or URI; got base_path()=a",
        ),
        (
            f"model_config_list {{ {A.replace('tensorflow', 'xgboost')} }}",
            "Illegal to change a model's platform. For model a platform was tensorflow and new platform requested is "
            "xgboost",
        ),
        (
            "model_config_list { config { name: 'b' base_path: '/b' model_platform: 'xgboost' } }",
            "Model b requests unsupported platform xgboost",
        ),
        (
            "model_config_list { config { name: 'b' base_path: '/b' } }",
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform.",
        ),
        (
            "model_config_list { config { name: 'b' base_path: '/nowhere' model_platform: 'tensorflow' } }",
            "Could not find base path /nowhere for servable b",
        ),
    ],
)
def test_mistakes_change_nothing(setup, config, text):
    with pytest.raises(ServingError) as caught:
        setup.reload(config)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, text)
    assert setup.manager.models() == ("a",)
    assert setup.answering("a") == "a/1"


def test_a_new_model_that_cannot_be_loaded_is_told_of(setup):
    setup.put("b", 3)
    setup.broken = {"b/3"}
    with pytest.raises(ServingError) as caught:
        setup.reload(setup.config(("a", ""), ("b", "")))
    assert caught.value.code == Code.UNKNOWN
    assert caught.value.message == (
        "1 model(s) did not become available: {{{name: b version: 3} due to error: DATA_LOSS: it is broken}, }"
    )
    assert not setup.manager.ready()
    setup.broken = set()
    (setup.folder / "b" / "3" / "mended").touch()
    while not setup.manager.ready():
        time.sleep(0.01)


def test_an_empty_list_unloads_everything(setup, eventually):
    setup.reload("model_config_list {}")
    assert setup.manager.models() == ()
    eventually(lambda: setup.states("a") == {1: "END"})


def test_waiting_ends_with_the_time_with_a_removal_and_with_the_server(setup):
    (setup.folder / "b").mkdir()
    config = setup.config(("a", ""), ("b", ""))
    with pytest.raises(ServingError) as caught:
        setup.reload(config, timeout=0.3)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    assert caught.value.message.startswith(
        f"Models did not become available in time: No versions of servable b found under base path {setup.folder}/b."
    )
    errors = []

    def wait(name):
        setup.put(name)
        (setup.folder / name).mkdir(exist_ok=True)
        try:
            setup.reload(setup.config(("a", ""), (name, "")), timeout=None)
        except ServingError as error:
            errors.append((error.code, error.message))

    def begin(name):
        thread = threading.Thread(target=wait, args=(name,))
        thread.start()
        while name not in setup.manager.models():
            time.sleep(0.01)
        return thread

    thread = begin("c")
    setup.reload(setup.config(("a", "")))
    thread.join(10)
    thread = begin("d")
    setup.manager.close(5)
    thread.join(10)
    assert errors == [
        (Code.ABORTED, "removed from the configuration by another request: c"),
        (Code.UNAVAILABLE, "the server is stopping"),
    ]


def test_requests_are_answered_and_labels_move_while_a_model_loads(setup):
    setup.put("b", 1)
    setup.hold.clear()
    setup.manager.apply([*setup.manager.configs(), ModelConfig("b", setup.folder / "b")])
    while setup.states("b") != {1: "LOADING"}:
        time.sleep(0.01)
    begin = time.monotonic()
    assert setup.answering("a") == "a/1"
    setup.reload(setup.config(("a", label("stable", 1)), ("b", "")))
    assert setup.answering("a", label="stable") == "a/1"
    assert time.monotonic() - begin < 1
    # A model that is removed while it loads does not come.
    setup.manager.apply([config for config in setup.manager.configs() if config.name == "a"])
    setup.hold.set()
    while setup.states("b") != {1: "END"}:
        time.sleep(0.01)


def test_whoever_wants_hears_of_changes(setup):
    heard = []
    setup.manager.subscribe(heard.append)
    setup.put("b", 1)
    setup.reload(setup.config(("b", "")))
    assert [[config.name for config in configs] for configs in heard] == [["b"]]


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
                setup.config(("a", label("x", 9))),
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
    setup.reload(setup.config(("a", ""), ("b", "")))
    eventually(lambda: setup.manager.models() == ("b",))


def test_zero_seconds_mean_never(setup, follow):
    path = setup.folder / "models.config"
    path.write_text("model_config_list {}")
    follow(path, 0)
    time.sleep(0.1)
    assert setup.manager.models() == ("a",)
