"""The direction of the arrows: who may import whom, and what a command's help may cost."""

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Warns of being traced often, five times over, and then of something else.
TRACED = """
from pipelines.command_line import import_tensorflow
import_tensorflow()
import tensorflow as tf
for number in range(6):
    tf.function(lambda x: x + 1)(tf.constant(number))
tf.get_logger().warning("something else")
"""
COMMANDS = ("train", "launch", "evaluate", "predict", "export", "schema")
LIBRARY = ("chapters", "layers", "tasks", "training", "evaluation")
HEAVY = {"tensorflow", "keras", "pandas", "sklearn", "matplotlib"}

# Modules below a folder → what they may not import.
RULES = {
    "pipelines": ("tfbigmodel", "serving", "keras"),
    "serving": ("tfbigmodel", "pipelines", "keras"),
    "tfbigmodel": ("serving",),
    **{f"tfbigmodel/{room}": tuple(f"tfbigmodel.{command}" for command in COMMANDS) for room in LIBRARY},
}


def imports(source: str, package: str) -> Iterator[str]:
    """Every module that a source imports, wherever in it: `from a import b` may be the module `a.b` too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node.func) in ("import_module", "__import__"):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def violations(source: str, package: str, forbidden: tuple[str, ...]) -> list[str]:
    return [name for name in imports(source, package) for bad in forbidden if f"{name}.".startswith(f"{bad}.")]


@pytest.mark.parametrize("folder", RULES)
def test_no_arrow_turns_round(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files or folder.endswith("/layers"), f"no module below {folder}"  # no chapter has needed a layer yet
    found = {}
    for path in files:
        package = ".".join(path.parent.relative_to(ROOT).parts)
        found[path.relative_to(ROOT).as_posix()] = violations(path.read_text("utf-8"), package, RULES[folder])
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import keras",
        "import keras.layers as kl",
        "from keras import layers",
        "from keras.src.layers import Dense",
        "def late():\n    import keras",
        "if TYPE_CHECKING:\n    import keras",
        "try:\n    import numpy, keras\nexcept ImportError:\n    pass",
        "import importlib\nimportlib.import_module('keras.layers')",
        "__import__('keras')",
    ],
)
def test_the_checker_finds_a_forbidden_import(source):
    assert violations(source, "pipelines", ("keras",))


@pytest.mark.parametrize(
    "source",
    [
        "from tfbigmodel import train",
        "from tfbigmodel.train import main",
        "from .. import train",
        "from ..train import main",
        "import tfbigmodel.train",
    ],
)
def test_the_checker_finds_a_command_below_the_public_face(source):
    assert violations(source, "tfbigmodel.chapters", RULES["tfbigmodel/chapters"])


@pytest.mark.parametrize(
    "source",
    ["import keras_hub", "from pipelines import keras", "from . import keras", "x = 'import keras'", "kerasify()"],
)
def test_the_checker_leaves_other_names_alone(source):
    assert not violations(source, "pipelines", ("keras",))
    assert not violations("from tfbigmodel.training import loop", "tfbigmodel.tasks", RULES["tfbigmodel/tasks"])


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout


def test_importing_the_packages_brings_nothing_heavy():
    program = "import sys, tfbigmodel, pipelines; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = set(run("-c", program).split())
    assert {"tfbigmodel", "pipelines"} <= loaded
    assert not HEAVY & loaded


@pytest.mark.parametrize("command", COMMANDS)
def test_help_brings_nothing_heavy(command):
    program = f"""
import runpy, sys
sys.argv = ["{command}", "--help"]
try:
    runpy.run_module("tfbigmodel.{command}", run_name="__main__")
except SystemExit as end:
    assert end.code == 0, end.code
print("LOADED", *{{name.split(".")[0] for name in sys.modules}})
"""
    shown, loaded = run("-c", program).split("LOADED")
    assert shown.startswith(f"usage: python -m tfbigmodel.{command} ")
    assert "tfbigmodel" in loaded.split()
    assert not HEAVY & set(loaded.split())


def test_a_configuration_is_checked_before_anything_heavy_is_imported(tmp_path: Path):
    (tmp_path / "run.yaml").write_text("data: {source: builtin, name: digits}\nmodel: {chapter: dense, unitz: 3}\n")
    program = f"""
import sys
from tfbigmodel.train import main
assert main(["--config", {str(tmp_path / "run.yaml")!r}, "--workdir", {str(tmp_path / "run")!r}]) == 2
print(*{{name.split(".")[0] for name in sys.modules}})
"""
    assert not HEAVY & set(run("-c", program).split())
    assert not (tmp_path / "run").exists()


def test_help_answers_in_half_a_second():
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        run("-m", "tfbigmodel.train", "--help")
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5


def test_tensorflow_s_warnings_that_a_user_can_do_nothing_about_are_not_shown():
    done = subprocess.run([sys.executable, "-c", TRACED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "WARNING:tensorflow:something else\n"
