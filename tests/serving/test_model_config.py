from pathlib import Path

import pytest

from serving.errors import UsageError
from serving.model_config import ModelConfig, VersionPolicy, parse_model_config, read_model_config_file, single_model


def config(body):
    return parse_model_config("model_config_list { " + body + " }")


def test_single_model():
    assert single_model("dense", "/m/dense") == ModelConfig("dense", Path("/m/dense"), VersionPolicy("latest"), {})


def test_policies_and_labels():
    models = config(
        """
        config { name: 'a' base_path: '/a' model_platform: 'tensorflow' }
        config { name: 'b' base_path: '/b' model_platform: 'tensorflow'
                 model_version_policy { latest { num_versions: 2 } } }
        config { name: 'c' base_path: '/c' model_platform: 'tensorflow' model_version_policy { all {} } }
        config { name: 'd' base_path: '/d' model_type: TENSORFLOW
                 model_version_policy { specific { versions: 4 versions: 2 } }
                 version_labels { key: 'stable' value: 2 } }
        """
    )
    assert [model.name for model in models] == ["a", "b", "c", "d"]
    assert [model.policy for model in models] == [
        VersionPolicy("latest", 1),
        VersionPolicy("latest", 2),
        VersionPolicy("all"),
        VersionPolicy("specific", versions=frozenset({2, 4})),
    ]
    assert models[3].labels == {"stable": 2}


A = "config { name: 'a' base_path: '/a' model_platform: 'tensorflow' }"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (A + A, "Illegal to list model a multiple times in config list"),
        (A.replace("'a'", "''", 1), "a model in the model config has no name"),
        (A.replace("'/a'", "'a/b'"), "Expected model a to have an absolute path or URI; got base_path()=a/b"),
        (
            A.replace("model_platform: 'tensorflow'", ""),
            'model a has no model_platform: add model_platform: "tensorflow" to its config',
        ),
        (
            A.replace("'tensorflow'", "'pytorch'"),
            "Model a requests unsupported platform pytorch",
        ),
        (
            A.replace("'/a'", "'ftp://host/a'"),
            "model a: ftp://host/a: expected an absolute path, gs:// or s3://",
        ),
        (
            A.replace("}", "model_type: TENSORFLOW }"),
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform.",
        ),
        (
            A.replace("model_platform: 'tensorflow'", "model_type: OTHER"),
            "ModelServerConfig::model_type choice 2 not supported.",
        ),
        (
            A.replace("}", "model_version_policy { specific {} } }"),
            "model a: policy specific names no versions",
        ),
        (
            "config { name: 3 }",
            "Error parsing text-format tensorflow.serving.ModelServerConfig: 1:36 : "
            "'model_config_list { config { name: 3 } }': Expected string but found: '3'",
        ),
    ],
)
def test_mistakes(body, text):
    with pytest.raises(UsageError) as caught:
        config(body)
    assert str(caught.value) == text


def test_custom_config_is_refused():
    with pytest.raises(UsageError, match="does not yet support custom model config"):
        parse_model_config("custom_model_config {}")


def test_a_list_without_models_is_allowed_but_not_an_empty_file():
    assert config("") == ()
    with pytest.raises(UsageError) as caught:
        parse_model_config("")
    assert str(caught.value) == "the model config is empty: expected model_config_list { config { name: … } }"


def test_logging_config_is_kept():
    (model,) = config(A.replace("}", "logging_config { sampling_config { sampling_rate: 0.5 } } }"))
    assert model.logging.sampling_config.sampling_rate == 0.5
    (model,) = config(A)
    assert model.logging is None


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "c").write_bytes(b"\xff\xff")
    with pytest.raises(UsageError, match=r"--model_config_file: cannot read .*/c: 'utf-8' codec"):
        read_model_config_file(tmp_path / "c")


def test_no_name():
    with pytest.raises(UsageError, match="--model_name must not be empty"):
        single_model("", "/a")
