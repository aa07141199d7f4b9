import pytest

from serving.errors import UsageError
from serving.flags import IGNORED_BOOLEANS, IGNORED_VALUES, ServerOptions, help_text, parse_flags


def test_defaults_are_tensorflow_serving_s_except_the_host():
    options, warnings = parse_flags([])
    assert options == ServerOptions()
    assert (options.port, options.model_name, options.file_system_poll_wait_seconds) == (8500, "default", 1)
    assert options.host == "127.0.0.1"
    assert warnings == []


def test_both_forms_of_values():
    arguments = ["--port=0", "--model_name", "dense", "--model_base_path=/a=b", "--host", "::1"]
    options, _ = parse_flags(arguments)
    assert (options.port, options.model_name, options.model_base_path, options.host) == (0, "dense", "/a=b", "::1")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [("--version", True), ("--version=true", True), ("--version=1", True), ("--version=False", False)],
)
def test_booleans(argument, expected):
    options, _ = parse_flags([argument, "--port=1"])
    assert options.version is expected
    assert options.port == 1


@pytest.mark.parametrize("name", sorted(IGNORED_BOOLEANS | IGNORED_VALUES))
def test_flags_of_tensorflow_serving_without_effect_are_accepted_with_a_warning(name):
    options, warnings = parse_flags([f"--{name}=1", "--port=1"])
    assert options.port == 1
    assert warnings == [f"--{name} is a flag of TensorFlow Serving that has no effect here; it is ignored"]


def test_an_ignored_boolean_takes_no_word_and_an_ignored_value_takes_one():
    assert parse_flags(["--enable_batching", "--port=1"])[0].port == 1
    assert parse_flags(["--num_load_threads", "4", "--port=1"])[0].port == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--prot=1"], "unknown flag --prot; did you mean --port? (see --help)"),
        (["--zzzz=1"], "unknown flag --zzzz (see --help)"),
        (["-"], "unexpected argument '-': flags are written --name=value (see --help)"),
        (["serve"], "unexpected argument 'serve': flags are written --name=value (see --help)"),
        (["--port"], "--port needs a value: --port=…"),
        (["--model_name", "--port=1"], "--model_name needs a value: --model_name=…"),
        (["--port=65536"], "--port must be a whole number from 0 to 65535, but '65536' was given"),
        (["--port="], "--port must be a whole number from 0 to 65535, but '' was given"),
        (["--port=1.5"], "--port must be a whole number from 0 to 65535, but '1.5' was given"),
        (
            ["--file_system_poll_wait_seconds=-1"],
            "--file_system_poll_wait_seconds must be a number of at least 0, but '-1' was given",
        ),
        (
            ["--drain_timeout_seconds=nan"],
            "--drain_timeout_seconds must be a number of at least 0, but 'nan' was given",
        ),
        (
            ["--drain_timeout_seconds=inf"],
            "--drain_timeout_seconds must be a number of at least 0, but 'inf' was given",
        ),
        (["--version=maybe"], "--version must be true or false, but 'maybe' was given"),
    ],
)  # fmt: skip
def test_mistakes(arguments, text):
    with pytest.raises(UsageError) as caught:
        parse_flags(arguments)
    assert str(caught.value) == text


def test_help_names_every_flag_and_its_default():
    text = help_text()
    for name in ServerOptions.__dataclass_fields__:
        assert f"--{name} " in text
    assert "(default 8500)" in text
    assert "(default 127.0.0.1)" in text
