"""The image of training: its Dockerfile, what its build sees, and the parts of the locks that it installs."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from training_manifests import REPOSITORY, files, pods

FOLDER = REPOSITORY / "deploy"
DOCKERFILE = (FOLDER / "Dockerfile").read_text("utf-8")
EXTRAS = re.search(r'(?m)^ARG EXTRAS="([^"]*)"', DOCKERFILE)[1].split()


def instructions(text):
    """`(name, arguments)` of a Dockerfile, continued lines joined, comments left out."""
    text = re.sub(r"(?m)^\s*#.*\n", "", text)
    lines = [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def problems(text):
    """What is wrong with the Dockerfile, one line each."""
    steps = instructions(text)
    last = steps[max(index for index, (name, _) in enumerate(steps) if name == "FROM") :]
    values = dict(last)
    if sum(name == "FROM" for name, _ in steps) < 2:
        yield "one stage: pip and its cache get into the image"
    if not re.search(r"python:3\.11\b", dict(steps).get("ARG", "") + text.partition("FROM")[0]):
        yield "the base image is not pinned to the Python of the lock"
    user = values.get("USER", "").partition(":")[0]
    users = {str(template["spec"]["securityContext"]["runAsUser"]) for template in pods(files("job")).values()}
    if not re.fullmatch(r"[1-9]\d*", user) or users != {user}:
        yield "USER is not the manifests' number"
    if values.get("STOPSIGNAL") != "SIGTERM":
        yield "STOPSIGNAL is not SIGTERM"
    for name in ("ENTRYPOINT", "CMD"):
        if not values.get(name, "").startswith("["):
            yield f"{name} starts a shell, which would get the signals"
    if values.get("ENTRYPOINT", "").startswith("[") and json.loads(values["ENTRYPOINT"]) != ["python", "-m"]:
        yield "ENTRYPOINT does not run modules, as the manifests' args expect"
    for name, rest in last:
        if name == "COPY" and not rest.startswith("--from=build "):
            yield "the last stage copies more than what was built"
        if name in ("ARG", "RUN"):
            yield f"{name} in the last stage"
    for name, rest in steps:
        if name == "ARG" and "://" in rest:
            yield "an index's address is written down"
        if name == "RUN" and "pip install" in rest and "--require-hashes" not in rest:
            yield "pip installs what no hash vouches for"
        if name == "ADD":
            yield "ADD fetches and unpacks; COPY does not"


def test_nothing_is_wrong():
    assert list(problems(DOCKERFILE)) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("USER 10001:10001", "USER root", "USER is not"),
        ("USER 10001:10001", "USER 1000:1000", "USER is not"),
        ("STOPSIGNAL SIGTERM", "", "STOPSIGNAL"),
        ('ENTRYPOINT ["python", "-m"]', "ENTRYPOINT python -m", "starts a shell"),
        ('ENTRYPOINT ["python", "-m"]', 'ENTRYPOINT ["python"]', "does not run modules"),
        ("FROM ${PYTHON_IMAGE}\n", "", "one stage"),
        ("COPY --from=build /app /app", "COPY . /app", "copies more"),
        ("WORKDIR /app", "RUN apt-get update", "RUN in the last stage"),
        ("ARG PIP_INDEX_URL", "ARG PIP_INDEX_URL=https://host/simple", "address is written down"),
        ("--require-hashes", "", "no hash vouches"),
        ("COPY pipelines", "ADD pipelines", "ADD fetches"),
    ],
)
def test_the_checks_find_what_is_broken(old, new, expected):
    assert old in DOCKERFILE
    assert any(expected in problem for problem in problems(DOCKERFILE.replace(old, new)))


def test_hadolint_has_nothing_to_say():
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(FOLDER / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def seen_by_the_build(path):
    """Whether Dockerfile.dockerignore lets a file through: the last rule that matches it or a folder above."""
    seen = True
    for rule in (FOLDER / "Dockerfile.dockerignore").read_text("utf-8").split("\n"):
        pattern = rule.removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        expression = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
        parts = path.split("/")
        if any(re.fullmatch(expression, "/".join(parts[: count + 1])) for count in range(len(parts))):
            seen = rule.startswith("!")
    return seen


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("pyproject.toml", True),
        ("requirements.lock", True),
        ("deploy/cuda.lock", True),
        ("deploy/lock_for_training.py", True),
        ("serving/deploy/tfbigmodel/lock_for_serving.py", True),
        ("wheels/tensorflow.whl", True),
        ("pipelines/data.py", True),
        ("pipelines/datasets/reviews_zh.csv", True),
        ("tfbigmodel/training/loop.py", True),
        ("configs/dense.yaml", True),
        ("tfbigmodel/__pycache__/train.pyc", False),
        ("serving/server.py", False),
        ("serving/deploy/tfbigmodel/secrets/ssl_config", False),
        ("deploy/kubernetes/base/training.yaml", False),
        ("runs/dense/metrics.json", False),
        ("data/private.csv", False),
        ("tests/conftest.py", False),
        (".git/config", False),
        (".env", False),
    ],
)
def test_the_build_sees_what_it_needs_and_no_secret(path, expected):
    assert seen_by_the_build(path) is expected


def test_what_the_dockerfile_names_is_there():
    for source in re.findall(r"(?m)^COPY (\w\S*) ", DOCKERFILE) + re.findall(r"python (deploy/\S+\.py)", DOCKERFILE):
        assert (REPOSITORY / source).exists()
        assert seen_by_the_build(source)


def locked(*arguments):
    """The script's output, run as in the image's build: by a Python that has nothing installed."""
    command = [sys.executable, "-I", "-S", str(FOLDER / "lock_for_training.py"), str(REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def names(lock):
    return {canonicalize_name(name) for name in re.findall(r"(?m)^([A-Za-z0-9._-]+)==", lock)}


def test_the_lock_has_all_that_its_packages_require_with_hashes():
    done = locked("cpu", *EXTRAS)
    assert done.returncode == 0, done.stderr
    found = names(done.stdout)
    assert {"tensorflow", "keras-hub", "tensorboard", "pyarrow", "gcsfs", "s3fs"} <= found
    assert not {"pytest", "mypy", "ruff", "kubernetes-validate"} & found
    assert all("--hash=sha256:" in entry for entry in re.split(r"(?m)^(?=[a-z0-9])", done.stdout)[1:])
    for name in found:
        try:
            requirements = map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            continue  # for other systems or Python versions
        for requirement in requirements:
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert canonicalize_name(requirement.name) in found, f"{name} requires {requirement}"


def test_the_gpu_s_image_has_what_tensorflow_wants_of_cuda():
    cpu, gpu = locked("cpu", *EXTRAS).stdout, locked("gpu", *EXTRAS).stdout
    assert gpu.startswith(cpu)
    versions = dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", gpu[len(cpu) :]))
    wanted = {}
    for requirement in map(Requirement, importlib.metadata.requires("tensorflow")):
        if requirement.marker and requirement.marker.evaluate({"extra": "and-cuda"}):
            wanted[requirement.name] = requirement.specifier
    extra = {name for name in wanted if name.startswith("nvidia-")}
    assert versions.keys() == extra
    assert all(wanted[name].contains(versions[name]) for name in extra)
    assert gpu.count("--hash=sha256:") - cpu.count("--hash=sha256:") >= len(extra)


def test_mistakes_of_the_lock():
    assert locked("tpu").stderr == "error: ACCELERATOR is 'tpu'; expected cpu or gpu\n"
    done = locked("cpu", "txt")
    assert done.returncode == 1
    assert done.stderr.startswith("error: pyproject.toml has no extra 'txt'; it has all, ")


def imported(folder):
    """The libraries that a package imports when it is imported, or while it works."""
    found = set()
    for file in (REPOSITORY / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"pipelines", "tfbigmodel"}


# Where these are missing the program says so itself. TFDS brings a package that comes as source only; Beam prepares
# data, and has an environment of its own.
OPTIONAL = {"apache_beam", "cryptography", "importlib_resources", "tensorflow_datasets"}


@pytest.mark.parametrize("package", ["pipelines", "tfbigmodel"])
def test_the_image_has_every_library_that_is_imported(package):
    installed, providers = names(locked("cpu", *EXTRAS).stdout), importlib.metadata.packages_distributions()
    missing = {
        module
        for module in imported(package) - OPTIONAL
        if not {canonicalize_name(name) for name in providers.get(module, [])} & installed
    }
    assert missing == set()
