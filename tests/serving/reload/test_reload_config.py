"""HandleReloadConfigRequest: other models at run time, in TensorFlow Serving's order and words."""

import threading
import time

import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2

from serving.errors import Code, ServingError
from serving.model_config import ModelConfig
from serving.reload import reload_config

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


def test_a_new_model_that_cannot_be_loaded_is_told_of(setup, eventually):
    setup.put("b", 3)
    setup.broken = {"b/3"}
    with pytest.raises(ServingError) as caught:
        setup.reload(setup.config(("a", ""), ("b", "")))
    assert caught.value.code == Code.UNKNOWN
    assert caught.value.message == (
        "1 model(s) did not become available: {{{name: b version: 3} due to error: DATA_LOSS: it is broken}, }"
    )
    assert setup.answering("a") == "a/1"
    assert setup.manager.ready()  # for the models that answer
    setup.broken = set()
    (setup.folder / "b" / "3" / "mended").touch()
    eventually(lambda: setup.states("b") == {3: "AVAILABLE"})


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


def test_waiting_ends_when_the_client_has_gone(setup):
    (setup.folder / "b").mkdir()
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(setup.config(("a", ""), ("b", "")), request.config)
    gone = threading.Event()
    threading.Timer(0.2, gone.set).start()
    with pytest.raises(ServingError, match="nobody waits for the models any more") as caught:
        reload_config(setup.manager, request, None, gone)
    assert caught.value.code == Code.CANCELLED
    assert setup.manager.models() == ("a", "b")  # the configuration is in force all the same


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
