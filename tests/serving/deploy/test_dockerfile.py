"""The image: its Dockerfile, what its build sees, and the part of the lock that it installs."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from serving.flags import parse_flags

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = REPOSITORY / "serving" / "deploy" / "tfbigmodel"
SCRIPT = FOLDER / "lock_for_serving.py"


def instructions(text):
    """`(name, arguments)` of a Dockerfile, continued lines joined, comments left out."""
    text = re.sub(r"(?m)^\s*#.*\n", "", text)
    lines = [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def problems(text):
    """What is wrong with a Dockerfile, one line each."""
    all_of_them = instructions(text)
    starts = [index for index, (name, _) in enumerate(all_of_them) if name == "FROM"]
    last = all_of_them[starts[-1] :]
    values = dict(last)
    found = []
    if len(starts) < 2:
        found.append("one stage: pip and its cache get into the image")
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", values.get("USER", "")):
        found.append("USER is not a number other than root's")
    if values.get("STOPSIGNAL") != "SIGTERM":
        found.append("STOPSIGNAL is not SIGTERM")
    for name in ("ENTRYPOINT", "CMD"):
        if not values.get(name, "").startswith("["):
            found.append(f"{name} starts a shell, which would get the signals")
    check = values.get("HEALTHCHECK", "").partition("CMD ")[2]
    if not check.startswith("["):
        found.append("HEALTHCHECK is missing or starts a shell")
    for name, rest in last:
        if name == "COPY" and not rest.startswith("--from=build "):
            found.append("the last stage copies more than what was built")
        if name in ("ARG", "RUN"):
            found.append(f"{name} in the last stage")
    for name, rest in all_of_them:
        if name == "ARG" and "=" in rest and re.search(r"://", rest):
            found.append("an index's address is written down")
        if name == "RUN" and "pip install" in rest and "--require-hashes" not in rest:
            found.append("pip installs what no hash vouches for")
        if name == "ADD":
            found.append("ADD fetches and unpacks; COPY does not")
    if values.get("CMD", "").startswith("["):
        options, warnings = parse_flags(json.loads(values["CMD"]))
        found += warnings
        if set(values["EXPOSE"].split()) != {str(options.port), str(options.rest_api_port)}:
            found.append("EXPOSE does not name the ports of CMD")
        if f":{options.rest_api_port}/" not in check:
            found.append("HEALTHCHECK asks another port")
        if options.host != "0.0.0.0" or not options.ssl_config_file or not options.auth_tokens_file:
            found.append("CMD is not reachable, or reachable without TLS and tokens")
    return found


def test_nothing_is_wrong():
    assert problems((FOLDER / "Dockerfile").read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("USER 10001:10001", "USER root", "USER is not a number"),
        ("USER 10001:10001", "", "USER is not a number"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "STOPSIGNAL"),
        ('ENTRYPOINT ["python", "-m", "serving.server"]', "ENTRYPOINT python -m serving.server", "starts a shell"),
        ('CMD ["python", "-m", "serving.deploy', 'CMD python "-m", "serving.deploy', "HEALTHCHECK"),
        ("FROM ${PYTHON_IMAGE}\n", "", "one stage"),
        ("COPY --from=build /app /app", "COPY . /app", "copies more"),
        ("WORKDIR /app", "RUN apt-get update", "RUN in the last stage"),
        ("ARG PIP_INDEX_URL", "ARG PIP_INDEX_URL=https://host/simple", "address is written down"),
        ("--require-hashes", "", "no hash vouches"),
        ("COPY serving", "ADD serving", "ADD fetches"),
        ("--rest_api_port=8501", "--rest_api_port=8502", "EXPOSE"),
        ("127.0.0.1:8501/", "127.0.0.1:8502/", "asks another port"),
        ("--host=0.0.0.0", "--host=127.0.0.1", "not reachable"),
        ("--host=0.0.0.0", "--use_tflite_model", "has no effect here"),
    ],
)
def test_the_checks_find_what_is_broken(old, new, expected):
    text = (FOLDER / "Dockerfile").read_text("utf-8")
    assert old in text
    assert any(expected in problem for problem in problems(text.replace(old, new)))


def test_hadolint_has_nothing_to_say(tmp_path):
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(FOLDER / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN cd /x && sudo pip install y\n")
    done = subprocess.run([hadolint, str(tmp_path / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1


def seen_by_the_build(path):
    """Whether the rules of Dockerfile.dockerignore let a file through: the last that matches it or a folder above."""
    seen = True
    for rule in (FOLDER / "Dockerfile.dockerignore").read_text("utf-8").split("\n"):
        pattern = rule.removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        parts = path.split("/")
        starts = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        flat = pattern.removeprefix("**/")
        if any(
            (fnmatch(start, pattern) and ("**" in pattern or start.count("/") == pattern.count("/")))
            or (pattern.startswith("**/") and fnmatch(start.rpartition("/")[2], flat))
            for start in starts
        ):
            seen = rule.startswith("!")
    return seen


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("pyproject.toml", True),
        ("requirements.lock", True),
        ("wheels/tensorflow.whl", True),
        ("serving/server.py", True),
        ("serving/rest/api.py", True),
        ("serving/deploy/health_check.py", True),
        ("serving/deploy/tfbigmodel/lock_for_serving.py", True),
        ("serving/deploy/tfbigmodel/secrets/ssl_config", False),
        ("serving/deploy/README.md", False),
        ("serving/__pycache__/server.pyc", False),
        ("exported/dense/1/saved_model.pb", False),
        ("tests/conftest.py", False),
        (".git/config", False),
        (".env", False),
    ],
)
def test_the_build_sees_what_it_needs_and_no_secret(path, expected):
    assert seen_by_the_build(path) is expected


def test_what_the_dockerfile_names_is_there():
    text = (FOLDER / "Dockerfile").read_text("utf-8")
    for source in re.findall(r"(?m)^COPY (\w\S*) ", text) + re.findall(r"python (serving/\S+\.py)", text):
        assert (REPOSITORY / source).exists()
        assert source == "serving" or seen_by_the_build(source)
    for module in re.findall(r'"-m", "([\w.]+)"', text):
        assert (REPOSITORY / (module.replace(".", "/") + ".py")).is_file()


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, "-I", str(SCRIPT), *arguments], capture_output=True, text=True, timeout=30
    )  # fmt: skip


def names(lock):
    return {canonicalize_name(name) for name in re.findall(r"(?m)^([A-Za-z0-9._-]+)==", lock)}


@pytest.mark.parametrize("extras", [[], ["text"]])
def test_the_lock_for_serving_has_all_that_its_packages_require_with_hashes(extras):
    done = run_script(str(REPOSITORY), *extras)
    assert done.returncode == 0, done.stderr
    found = names(done.stdout)
    assert {"tensorflow", "grpcio", "tensorflow-serving-api"} <= found
    assert ("tensorflow-text" in found) == ("text" in extras)
    assert not {"pandas", "pytest", "mypy", "matplotlib"} & found
    assert all("--hash=sha256:" in entry for entry in re.split(r"(?m)^(?=[a-z0-9])", done.stdout)[1:])
    for name in found:
        try:
            requirements = map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            continue  # for other systems or Python versions
        for requirement in requirements:
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert canonicalize_name(requirement.name) in found, f"{name} requires {requirement}"


def test_mistakes_of_the_lock_for_serving(tmp_path):
    done = run_script(str(REPOSITORY), "txt")
    assert done.returncode == 1
    assert done.stderr.startswith("error: pyproject.toml has no extra 'txt'; it has all, arrayrecord,")
    (tmp_path / "pyproject.toml").write_text('[project]\noptional-dependencies = {serving = ["Some_Thing>=1"]}')
    (tmp_path / "requirements.lock").write_text(
        "tensorflow==1 \\\n    --hash=sha256:0\n    # via tfbigmodel\nnumpy==1\n"
    )
    done = run_script(str(tmp_path))
    assert done.stderr == "error: requirements.lock lacks some-thing: run `make lock`\n"


def test_one_and_several_parents_in_the_lock(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\noptional-dependencies = {serving = ["a[x]>=1"]}')
    (tmp_path / "requirements.lock").write_text(
        "# made by hand\n"
        "a==1 ; python_version < '4' \\\n    --hash=sha256:0\n    # via tfbigmodel (pyproject.toml)\n"
        "b-c==1 \\\n    --hash=sha256:0\n    # via\n    #   z\n    #   A\n"
        "d==1 \\\n    --hash=sha256:0\n    # via b_c\n"
        "numpy==1\ntensorflow==1\n"
        "z==1 \\\n    --hash=sha256:0\n    # via pandas\n"
    )
    assert names(run_script(str(tmp_path)).stdout) == {"a", "b-c", "d", "numpy", "tensorflow"}


def imported_by_the_server():
    """The libraries that the modules in the image import."""
    found = set()
    for file in (REPOSITORY / "serving").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"serving"}


def test_the_image_has_every_library_that_the_server_imports():
    installed, providers = (
        names(run_script(str(REPOSITORY), "text", "gcs", "s3").stdout),
        importlib.metadata.packages_distributions(),
    )
    missing = {
        module: providers[module]
        for module in imported_by_the_server()
        if not {canonicalize_name(name) for name in providers.get(module, [])} & installed
    }
    assert missing == {}
