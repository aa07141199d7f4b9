"""The layer's face: light to import, pointing at no other layer."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pipelines

FOLDER = Path(pipelines.__file__).parent
MODULES = sorted(FOLDER.rglob("*.py"))


@pytest.mark.parametrize(
    "name", ["pipelines", "pipelines.config", "pipelines.errors", "pipelines.files", "pipelines.offline"]
)
def test_light_modules_bring_no_heavy_ones(name: str) -> None:
    code = (
        f"import sys, {name}; print([m for m in ('tensorflow', 'pandas', 'sklearn', 'tensorflow_datasets') "
        "if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_no_module_points_at_another_layer_or_at_keras(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
            assert node.level == 0, "imports are absolute"
    # BERT's pieces of words are KerasHub's, whatever the model is made of.
    allowed = {"keras_hub"} if path == FOLDER / "text" / "wordpiece.py" else set()
    assert not imported & {"tfbigmodel", "serving", "keras", "keras_hub", "pickle"} - allowed


@pytest.mark.parametrize("name", pipelines.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(pipelines, name).__doc__
    assert name in dir(pipelines)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = pipelines.lode  # type: ignore[attr-defined]
