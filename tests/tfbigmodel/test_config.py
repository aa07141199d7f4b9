"""A configuration: one YAML file in, typed values out, and one line for every mistake."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.errors import MissingFileError, UserError
from tfbigmodel import schema
from tfbigmodel.config import RunConfig, changed_keys, dump_config, load_config, resolve, validate_config

CONFIGS = Path(__file__).parents[2] / "configs"
BASE = {"data": {"source": "builtin", "name": "digits"}, "model": {"chapter": "dense"}}
BASE_YAML = "data: {source: builtin, name: digits}\nmodel: {chapter: dense}\n"
TABLE = {"source": "table", "path": "data.csv", "label": "label"}

Load = Callable[..., RunConfig]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a configuration from text, with overrides."""

    def load_text(text: str | bytes, *overrides: str) -> RunConfig:
        path = tmp_path / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path, overrides)

    return load_text


def refusal(values: dict) -> str:
    with pytest.raises(UserError) as caught:
        validate_config(values, "run.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def training(**values: object) -> dict:
    return BASE | {"training": values}


# Unknown keys


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (training(epohcs=3), "training.epohcs: unknown key; did you mean training.epochs?"),
        (training(optimizer={"lerning_rate": 1.0}), "training.optimizer.lerning_rate: unknown key; did you mean "
         "training.optimizer.learning_rate?"),
        (BASE | {"modle": {}}, "modle: unknown key; did you mean model?"),
        (BASE | {"data": TABLE | {"lable": "y"}}, "data.lable: unknown key; did you mean data.label?"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_refused_with_the_nearest_one_of_its_section(values, message):
    assert refusal(values) == f"run.yaml: {message}"


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        (training(hidden_units=[3]), "model.hidden_units"),
        (training(batch_size=3), "data.batch_size"),
        (training(learning_rate=0.1), "training.optimizer.learning_rate"),
        (BASE | {"epochs": 3}, "training.epochs"),
        (BASE | {"optimizer": {"name": "sgd"}}, "training.optimizer"),
        (BASE | {"patience": 3}, "training.early_stopping.patience"),
    ],
)
def test_an_unknown_key_that_belongs_elsewhere_is_refused_with_its_place(values, meant):
    assert refusal(values).endswith(f": unknown key; did you mean {meant}?")


def test_an_unknown_key_like_no_other_is_refused_with_the_known_ones():
    assert refusal(BASE | {"zzz": 1}).endswith(
        "zzz: unknown key; known keys here: data, model, training, checkpoints, tensorboard, evaluation"
    )
    assert refusal(BASE | {"evaluation": {"zzz": 1}}).endswith(
        "evaluation.zzz: unknown key; known keys here: threshold, baseline_examples, train_examples, worst_errors"
    )


def test_known_keys_are_those_of_the_chosen_source():
    message = refusal(BASE | {"data": TABLE | {"zzz": 1}})
    assert "delimiter" in message
    message = refusal(BASE | {"data": BASE["data"] | {"zzz": 1}})
    assert "max_memory_gb" in message
    assert "delimiter" not in message


def test_an_unknown_key_is_said_before_the_missing_one_that_it_stands_for():
    values = BASE | {"data": {"source": "table", "paht": "x.csv", "label": "y"}}
    assert refusal(values) == "run.yaml: data.paht: unknown key; did you mean data.path? (and 1 more)"


# Wrong values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (training(epochs="3"), "training.epochs: expected a valid integer, received '3'"),
        (training(epochs=1.5), "training.epochs: expected a valid integer, received 1.5"),
        (training(epochs=True), "training.epochs: expected a valid integer, received True"),
        (training(epochs=None), "training.epochs: expected a valid integer, received None"),
        (training(epochs=0), "training.epochs: expected greater than 0, received 0"),
        (training(seed=2**32), "training.seed: expected less than 4294967296, received 4294967296"),
        (training(deterministic="yes"), "training.deterministic: expected a valid boolean, received 'yes'"),
        (training(monitor=3), "training.monitor: expected a valid string, received 3"),
        (training(precision="bfloat16"), "training.precision: expected 'float32' or 'mixed_bfloat16', received "
         "'bfloat16'"),
        (training(optimizer="adam"), "training.optimizer: expected keys and their values, received 'adam'"),
        (training(optimizer={"learning_rate": "1e-3"}), "training.optimizer.learning_rate: expected a valid number, "
         "received '1e-3'"),
        (training(optimizer={"learning_rate": float("inf")}), "training.optimizer.learning_rate: expected a finite "
         "number, received inf"),
        (training(optimizer={"learning_rate": float("nan")}), "training.optimizer.learning_rate: expected a finite "
         "number, received nan"),
        (training(optimizer={"options": {"beta_2": "x"}}), "training.optimizer.options.beta_2: expected a valid number "
         "or a valid boolean, received 'x'"),
        (training(early_stopping={}), "training.early_stopping.patience: is required and missing"),
        (training(early_stopping=3), "training.early_stopping: expected keys and their values, received 3"),
        (training(initialise_from=3), "training.initialise_from: expected a path, received 3"),
        (training(schedule={"final_share": 1.5}), "training.schedule.final_share: expected less than or equal to 1, "
         "received 1.5"),
        (BASE | {"model": {"chapter": "dense", "hidden_units": [3, "x"]}}, "model.hidden_units.1: expected a valid "
         "integer, received 'x'"),
        (BASE | {"model": {"chapter": "dense", "dropout": 1.0}}, "model.dropout: expected less than 1, received 1.0"),
        (BASE | {"evaluation": {"threshold": 1.0}}, "evaluation.threshold: expected less than 1, received 1.0"),
        (BASE | {"checkpoints": {"keep": 0}}, "checkpoints.keep: expected greater than 0, received 0"),
        (BASE | {"data": 5}, "data: expected keys and their values, received 5"),
        (BASE | {"data": None}, "data: expected keys and their values, received None"),
        (BASE | {"data": TABLE | {"delimiter": ";;"}}, "data.delimiter: expected "),
        (BASE | {"data": TABLE | {"service": {"address": "host:5050"}}}, "data.service.address: expected an address "
         "such as grpc://host:5050, received 'host:5050'"),
        ({"data": BASE["data"]}, "model: is required and missing"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_by_its_full_key_with_what_was_received(values, message):
    assert refusal(values).startswith(f"run.yaml: {message}")


def test_a_choice_lists_what_may_be_chosen():
    message = refusal(training(optimizer={"name": "adm"}))
    assert message.startswith("run.yaml: training.optimizer.name: expected 'sgd', 'momentum', ")
    assert message.endswith(" or 'ftrl', received 'adm'")


def test_a_long_value_is_cut_in_the_message():
    assert re.search(r"received 'a+\.\.\.$", refusal(training(epochs="a" * 500)))


def test_further_errors_are_counted():
    assert refusal(training(epochs=0, seed=-1)).endswith("received 0 (and 1 more)")


# Unions


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "digits"}, "data.source: is required and missing"),
        (
            {"source": "csv"},
            "data.source: expected one of 'builtin', 'tfds', 'table', 'image_folder', 'shards', 'corpus', received "
            "'csv'",
        ),
        ({"source": "builtin", "name": "mnist"}, "data.name: expected 'digits' or 'reviews_zh', received 'mnist'"),
        ({"source": "table", "path": "x.csv"}, "data.label: is required and missing"),
        (TABLE | {"missing": "drop"}, "data.missing: expected 'refuse', 'mean', 'median' or 'most_frequent', received "
         "'drop'"),
        (TABLE | {"numeric": [1]}, "data.numeric.0: expected a valid string, received 1"),
    ],
)  # fmt: skip
def test_data_is_checked_as_its_source_says(data, message):
    assert refusal(BASE | {"data": data}) == f"run.yaml: {message}"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("blanced", "training.class_weights: expected 'balanced' or keys and their values, received 'blanced'"),
        (3, "training.class_weights: expected 'balanced' or keys and their values, received 3"),
        ({"a": "x"}, "training.class_weights.a: expected a valid number, received 'x'"),
        ({"a": 1.0, "b": 0}, "training.class_weights.b: expected greater than 0, received 0"),
        ({0: -1.0}, "training.class_weights.0: expected greater than 0, received -1.0"),
    ],
)
def test_class_weights_are_a_word_or_a_weight_for_each_class(weights, message):
    assert refusal(training(class_weights=weights)) == f"run.yaml: {message}"


def test_classes_that_are_called_by_numbers_need_no_quotes(load: Load):
    config = load(BASE_YAML + "training: {class_weights: {0: 1, '1': 2.5}}")
    assert config.training.class_weights == {"0": 1.0, "1": 2.5}
    assert load(dump_config(config)) == config


@pytest.mark.parametrize("key", ["jit_compile", "steps_per_execution"])
def test_auto_or_a_value_is_said_in_one_message(key):
    expected = {"jit_compile": "a valid boolean", "steps_per_execution": "a valid integer"}[key]
    assert refusal(training(**{key: "maybe"})) == (
        f"run.yaml: training.{key}: expected {expected} or 'auto', received 'maybe'"
    )


# What a key means together with another


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (training(virtual_cpus=2), "training.virtual_cpus needs training.strategy: mirrored, received default"),
        (training(strategy="mirrored", jit_compile=True), "training.jit_compile cannot be used with training.strategy: "
         "mirrored"),
        (BASE | {"data": BASE["data"] | {"split": {"validation": 0.5, "test": 0.5}}}, "data.split: validation 0.5 and "
         "test 0.5 leave nothing to train on; their sum must be below 1"),
    ],
)  # fmt: skip
def test_values_that_exclude_each_other_are_refused(values, message):
    assert refusal(values) == f"run.yaml: {message}"


# YAML


def test_yaml_1_2_numbers_and_words(load: Load):
    config = load(BASE_YAML + "training: {optimizer: {learning_rate: 1e-5}, deterministic: true}")
    assert config.training.optimizer.learning_rate == 1e-5
    assert config.training.deterministic is True
    # `no`, `on` and `yes` are words in YAML 1.2: a class may be called so.
    weights = load(BASE_YAML + "training: {class_weights: {no: 1.0, on: 2.0, yes: 3}}").training.class_weights
    assert weights == {"no": 1.0, "on": 2.0, "yes": 3.0}
    with pytest.raises(UserError, match=r"training\.deterministic: expected a valid boolean, received 'no'"):
        load(BASE_YAML + "training: {deterministic: no}")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("data: [1\nmodel: 2", "line 2, column 6"),
        ("data: 1\n\tmodel: 2", "line 2, column 1"),
        ("data:\n  name: a: b", "line 2, column 10"),
        ("data: *unknown", "line 1, column 7"),
        ("data: !thing x", "line 1, column 7"),
        ("data: 1\n---\ndata: 2", "line 2, column 1"),
        (BASE_YAML + "data: {}", 'line 3, column 1: found duplicate key "data"'),
        (BASE_YAML + "training:\n  epochs: 1\n  epochs: 2", 'line 5, column 3: found duplicate key "epochs"'),
    ],
)
def test_a_syntax_error_has_line_and_column(load: Load, text, place):
    with pytest.raises(UserError) as caught:
        load(text)
    assert f"run.yaml: not valid YAML at {place}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["data: 2024-02-30", "data: !!int x", "data: \x01", "[" * 5000])
def test_what_yaml_cannot_make_a_value_of_is_a_message_too(load: Load, text):
    with pytest.raises(UserError, match=r"run.yaml: (not valid YAML: |nested too deeply)"):
        load(text)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "- a\n- b\n", "hello", "5"])
def test_a_file_without_sections_is_refused(load: Load, text):
    with pytest.raises(UserError, match=r"run\.yaml: expected sections such as `data:` and `model:`, received "):
        load(text)


def test_a_byte_order_mark_is_no_part_of_the_first_key(load: Load):
    assert load(b"\xef\xbb\xbf" + BASE_YAML.encode()) == load(BASE_YAML)


def test_another_encoding_is_refused(load: Load):
    with pytest.raises(UserError, match=r"run.yaml is not UTF-8 text \(byte \d+\); save it as UTF-8"):
        load("# 手写数字\n".encode("gb18030") + BASE_YAML.encode())


def test_a_missing_file_is_told_with_the_nearest_one(tmp_path: Path):
    (tmp_path / "dense.yaml").write_text(BASE_YAML)
    with pytest.raises(MissingFileError, match=r"no configuration file .*dens\.yaml; did you mean .*dense\.yaml\?"):
        load_config(tmp_path / "dens.yaml")
    with pytest.raises(MissingFileError, match=r"no configuration file .*quite_another\.yaml$"):
        load_config(tmp_path / "quite_another.yaml")
    with pytest.raises(MissingFileError, match="no configuration file"):
        load_config(tmp_path / "no_folder" / "dense.yaml")


# --set


def test_overrides_win_over_the_file_and_the_last_one_wins(load: Load):
    text = BASE_YAML + "training: {epochs: 1, seed: 3}"
    config = load(text, "training.epochs=5", "training.epochs=6", " model.hidden_units = [32, 16]")
    assert (config.training.epochs, config.training.seed, config.model.hidden_units) == (6, 3, [32, 16])


def test_an_override_makes_the_sections_it_needs(load: Load):
    for text in (BASE_YAML, BASE_YAML + "training:\n"):
        config = load(text, "training.early_stopping.patience=3", "training.optimizer={name: sgd, momentum: 0.5}")
        assert config.training.early_stopping.patience == 3
        assert (config.training.optimizer.name, config.training.optimizer.momentum) == ("sgd", 0.5)


def test_an_override_takes_away(load: Load):
    text = BASE_YAML + "training: {early_stopping: {patience: 3}, clip_norm: 1.0}"
    config = load(text, "training.early_stopping=null", "training.clip_norm=")
    assert config.training.early_stopping is None
    assert config.training.clip_norm is None


def test_an_override_is_all_behind_the_first_equals_sign(load: Load):
    text = "data: {source: table, label: y}\nmodel: {chapter: dense}"
    assert load(text, "data.path=a=b.csv").data.path == "a=b.csv"


def test_an_override_may_be_the_whole_of_a_section(load: Load):
    assert load("model: {chapter: dense}", "data={source: builtin, name: digits}").data.name == "digits"


@pytest.mark.parametrize("override", ["training", "=3", "training..epochs=3", ".epochs=3", "training.=3", ""])
def test_a_malformed_override_is_refused(load: Load, override):
    with pytest.raises(UserError) as caught:
        load(BASE_YAML, override)
    assert str(caught.value) == f"--set {override}: expected section.key=value, such as --set training.epochs=3"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs.x=3", r"^--set training.epochs.x=3: epochs holds 7 and has no key x$"),
        ("training.epochs=[", r"^--set training.epochs=\[: not valid YAML at line 1, column 2"),
        ("training.epohcs=3", r"training.epohcs: unknown key; did you mean training.epochs\?$"),
        ("training.epochs=three", r"training.epochs: expected a valid integer, received 'three'$"),
    ],
)
def test_a_wrong_override_is_named(load: Load, override, message):
    with pytest.raises(UserError, match=message):
        load(BASE_YAML + "training: {epochs: 7}", override)


# What is filled in


def test_paths_are_made_absolute_and_the_order_of_examples_follows_the_seed(load: Load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(BASE_YAML + "training: {seed: 7, initialise_from: runs/a}", "data.data_dir=some/where")
    assert config.data.data_dir == tmp_path / "some" / "where"
    assert config.data.shuffle_seed == 7
    assert config.training.initialise_from == tmp_path / "runs" / "a"
    assert load(BASE_YAML).data.data_dir == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load(BASE_YAML, "data.data_dir=~/data").data.data_dir == tmp_path / "home" / "data"


def test_a_shuffle_seed_of_its_own_is_kept(load: Load):
    assert load(BASE_YAML + "training: {seed: 7}", "data.shuffle_seed=0").data.shuffle_seed == 0


def test_changed_keys_are_named_in_full_with_both_values(load: Load):
    old = load(BASE_YAML)
    new = load(BASE_YAML, "training.optimizer.learning_rate=0.5", "training.early_stopping.patience=3")
    assert changed_keys(old, old) == {}
    changed = changed_keys(old, new)
    assert changed["training.optimizer.learning_rate"] == (1e-3, 0.5)
    assert changed["training.early_stopping.patience"] == (None, 3)
    assert "training.epochs" not in changed


# Written and read back

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
finite = st.floats(allow_infinity=False, allow_nan=False)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
# A path cannot hold a zero byte, and `a//b`, `a/.` and `~` mean something else than they are.
paths = texts.filter(lambda text: "\0" not in text and not text.startswith("~"))


values = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries(
            {"source": st.just("table"), "label": texts, "path": paths, "data_dir": paths},
            optional={
                "numeric": st.none() | st.lists(texts, max_size=3),
                "delimiter": st.none() | st.characters(exclude_categories=["Cs"]),
            },
        ),
        "model": st.fixed_dictionaries(
            {"chapter": st.just("dense"), "hidden_units": st.lists(st.integers(1, 10**9), max_size=3)}
        ),
        "training": st.fixed_dictionaries(
            {
                "seed": st.integers(0, 2**32 - 1),
                "class_weights": st.none() | st.just("balanced") | st.dictionaries(texts, positive, max_size=3),
                "optimizer": st.fixed_dictionaries(
                    {"learning_rate": positive, "options": st.dictionaries(texts, st.booleans() | finite, max_size=2)}
                ),
            }
        ),
    }
)


@settings(max_examples=60, deadline=None)
@given(values=values)
@example(values=BASE | {"data": TABLE | {"path": "\x85", "label": "a\u2028b\n c", "numeric": ["no", "1", " x", ""]}})
@example(values=training(class_weights={"\x85": 1.0, "是": 2.0, "null": 1.5}))
def test_what_is_written_is_read_back_equal(tmp_path_factory, values):
    config = resolve(validate_config(values, "generated"))
    file = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    file.write_bytes(dump_config(config).encode())
    assert load_config(file) == config


# What is shipped


def shipped() -> list[Path]:
    return sorted(CONFIGS.glob("*.yaml"))


def test_configurations_are_shipped():
    assert {path.name for path in shipped()} >= {"dense.yaml", "dense_fashion_mnist.yaml"}


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.name)
def test_every_shipped_configuration_loads_and_names_its_schema_and_command(path: Path):
    config = load_config(path)
    assert load_config(path, ["training.epochs=1"]).training.epochs == 1
    assert resolve(config) == config
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# yaml-language-server: $schema=schema.json"
    head = "\n".join(line for line in lines if line.startswith("#"))
    assert f"python -m tfbigmodel.train --config configs/{path.name} --workdir " in head


def test_the_shipped_schema_is_what_the_command_prints(capsys):
    assert schema.main([]) == 0
    printed = capsys.readouterr().out
    assert (CONFIGS / "schema.json").read_text(encoding="utf-8") == printed, "run: make schema"


def test_every_key_of_the_schema_is_described():
    definitions = json.loads((CONFIGS / "schema.json").read_text(encoding="utf-8"))["$defs"]
    # A section is described by its class, a tag by its value.
    silent = {
        f"{name}.{key}"
        for name, definition in definitions.items()
        for key, value in definition["properties"].items()
        if "description" not in value and "$ref" not in json.dumps(value) and "const" not in value and key != "task"
    }
    assert silent == set()


def test_the_schema_refuses_unknown_keys_in_every_section():
    root = json.loads((CONFIGS / "schema.json").read_text(encoding="utf-8"))
    for section in [root, *root["$defs"].values()]:
        assert section["additionalProperties"] is False


def test_loading_does_not_change_the_folder(load: Load, tmp_path: Path):
    load(BASE_YAML)
    assert os.listdir(tmp_path) == ["run.yaml"]
