"""The compose files: valid, safe, and at one with each other, with the server's flags and with the files they mount."""

import copy
import http.server
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from serving.flags import parse_flags

DEPLOY = Path(__file__).resolve().parents[3] / "serving" / "deploy"
STACKS = ("tfbigmodel", "tensorflow_serving")
FILES = [*STACKS, "monitoring"]


def load(stack):
    """A compose file with what its services extend, paths relative to the folder of the stack."""
    compose = yaml.safe_load((DEPLOY / stack / "compose.yaml").read_text("utf-8"))
    for name, service in compose["services"].items():
        if "extends" in service:
            base = yaml.safe_load((DEPLOY / stack / service["extends"]["file"]).read_text("utf-8"))
            base = base["services"][service["extends"]["service"]]
            for volume in base.get("volumes", []):
                if isinstance(volume, dict) and volume["source"].startswith("."):
                    volume["source"] = str(Path(service["extends"]["file"]).parent / volume["source"])
            merged = {**base, **service, "volumes": [*base.get("volumes", []), *service.get("volumes", [])]}
            del merged["extends"]
            compose["services"][name] = merged
    return compose


def mounts(service):
    """`(source, target, writable)` of a service's volumes in both spellings."""
    for volume in service.get("volumes", []):
        if isinstance(volume, str):
            source, target, *mode = volume.split(":")
            yield source, target, mode != ["ro"]
        else:
            yield volume["source"], volume["target"], not volume.get("read_only")


def problems(compose, folder):
    """What is wrong with a stack, one line each."""
    found = []
    for name, service in compose["services"].items():
        image = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", service["image"])
        if not re.search(r":v?\d+\.\d+(\.\d+)?$", image):
            found.append(f"{name}: image {image} is not pinned to a version")
        for port in service.get("ports", []):
            if not re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port):
                found.append(f"{name}: port {port} is not this machine's alone")
        if not service.get("read_only"):
            found.append(f"{name}: its root can be written")
        if service.get("cap_drop") != ["ALL"]:
            found.append(f"{name}: it keeps capabilities")
        if "no-new-privileges:true" not in service.get("security_opt", []):
            found.append(f"{name}: it may gain privileges")
        if "healthcheck" not in service:
            found.append(f"{name}: no health check")
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        found += [f"{name}: no limit of {limit}" for limit in ("cpus", "memory", "pids") if limit not in limits]
        for source, target, writable in mounts(service):
            if source.startswith("."):
                # The reader makes those in secrets/, which git and the image's build leave out.
                if not source.startswith("./secrets/") and not (folder / source).exists():
                    found.append(f"{name}: {source} does not exist")
                if writable:
                    found.append(f"{name}: {target} can be written")
            elif not source.startswith("$") and source not in compose.get("volumes", {}):
                found.append(f"{name}: volume {source} is not declared")
        found += [
            f"{name}: secret {secret} is not declared"
            for secret in service.get("secrets", [])
            if secret not in compose.get("secrets", {})
        ]
        found += [
            f"{name}: it depends on {other}, which is no service"
            for other in service.get("depends_on", [])
            if other not in compose["services"]
        ]
    found += serving_problems(compose["services"]["serving"], folder)
    return found


def serving_problems(service, folder):
    """What is wrong with the server's command: its flags, the files they name, its ports and its time to stop."""
    options, warnings = parse_flags(service["command"])
    found = [f"serving: {warning}" for warning in warnings]
    if {f"127.0.0.1:{port}:{port}" for port in (options.port, options.rest_api_port)} != set(service["ports"]):
        found.append("serving: its ports are not those of its flags")
    if f":{options.rest_api_port}" not in " ".join(service["healthcheck"]["test"]).replace("/8501", ":8501"):
        found.append("serving: the health check asks another port")
    if int(service["stop_grace_period"].removesuffix("s")) < min(options.drain_timeout_seconds, 30):
        found.append("serving: it is killed before it has drained")
    for flag in service["command"]:
        path = flag.partition("=")[2]
        if not path.startswith("/"):
            continue
        if path.startswith("/run/secrets/"):
            if path.removeprefix("/run/secrets/") not in service.get("secrets", []):
                found.append(f"serving: {flag} is no secret of the service")
            continue
        mounted = [folder / source / path.removeprefix(target + "/") for source, target, _ in mounts(service)
                   if path.startswith(target + "/")]  # fmt: skip
        if not any(file.is_file() or "secrets" in file.parts for file in mounted):
            found.append(f"serving: {flag} names a file that is not mounted")
    return found


@pytest.mark.parametrize("stack", STACKS)
def test_nothing_is_wrong(stack):
    assert problems(load(stack), DEPLOY / stack) == []


def test_the_compose_specification_is_kept(tmp_path):
    pytest.importorskip("check_jsonschema")
    broken = tmp_path / "compose.yaml"
    broken.write_text("services: {serving: {image: x, helthcheck: {}}}", "utf-8")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    files = [str(DEPLOY / stack / "compose.yaml") for stack in FILES]
    done = subprocess.run([*command, *files], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([*command, str(broken)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "helthcheck" in done.stdout


def change(path, value):
    """A mutation: sets (or with None deletes) what is at the end of a path of keys."""

    def apply(compose):
        here = compose
        for key in path[:-1]:
            here = here[key]
        if value is None:
            del here[path[-1]]
        else:
            here[path[-1]] = value

    return apply


def append(path, value):
    def apply(compose):
        here = compose
        for key in path:
            here = here[key]
        here.append(value)

    return apply


@pytest.mark.parametrize(
    ("mutation", "expected"),
    [
        (change(["services", "serving", "image"], "tfbigmodel-serving:latest"), "is not pinned"),
        (change(["services", "grafana", "image"], "grafana/grafana"), "is not pinned"),
        (change(["services", "serving", "ports"], ["8500:8500", "127.0.0.1:8501:8501"]), "not this machine's alone"),
        (change(["services", "serving", "read_only"], None), "its root can be written"),
        (change(["services", "grafana", "cap_drop"], None), "it keeps capabilities"),
        (change(["services", "serving", "security_opt"], None), "it may gain privileges"),
        (change(["services", "prometheus", "healthcheck"], None), "no health check"),
        (change(["services", "serving", "deploy"], None), "no limit of memory"),
        (change(["volumes", "grafana"], None), "volume grafana is not declared"),
        (change(["secrets", "metrics_token"], None), "secret metrics_token is not declared"),
        (change(["services", "grafana", "depends_on"], ["promehteus"]), "promehteus, which is no service"),
        (append(["services", "serving", "volumes"], "./nowhere:/x:ro"), "./nowhere does not exist"),
        (append(["services", "serving", "volumes"], "../config:/x"), "/x can be written"),
        (append(["services", "serving", "command"], "--rest_api_port=8502"), "not those of its flags"),
        (append(["services", "serving", "command"], "--ssl_config_file=/run/secrets/x"), "no secret of the service"),
        (append(["services", "serving", "command"], "--model_config_file=/config/x"), "that is not mounted"),
        (append(["services", "serving", "command"], "--use_tflite_model"), "has no effect here"),
        (change(["services", "serving", "stop_grace_period"], "10s"), "killed before it has drained"),
    ],
)
def test_the_checks_find_what_is_broken(mutation, expected):
    compose = copy.deepcopy(load("tfbigmodel"))
    mutation(compose)
    assert any(expected in problem for problem in problems(compose, DEPLOY / "tfbigmodel"))


@pytest.mark.parametrize("file", ["tfbigmodel/compose.yaml", "kubernetes/tfbigmodel/deployment.yaml"])
def test_flags_that_are_proposed_in_comments_exist(file):
    flags = re.findall(r"# - (--\S+)", (DEPLOY / file).read_text("utf-8"))
    assert len(flags) == 4
    options, warnings = parse_flags(flags)
    assert warnings == []
    assert options.enable_batching
    assert options.require_signed_manifest


def test_our_server_listens_with_tls_and_tokens_and_the_official_image_gets_the_same_flags():
    ours = load("tfbigmodel")["services"]["serving"]["command"]
    options = parse_flags(ours)[0]
    assert options.ssl_config_file
    assert options.auth_tokens_file
    assert not options.insecure_public
    theirs = load("tensorflow_serving")["services"]["serving"]["command"]
    assert set(theirs) - set(ours) == {
        "--enable_batching",
        "--batching_parameters_file=/config/batching_parameters.txt",
    }


STATUS = '{\n "model_version_status": [\n  {\n   "version": "1",\n   "state": "%s"\n  }\n ]\n}\n'


@pytest.mark.parametrize(("state", "code"), [("AVAILABLE", 0), ("LOADING", 1)])
def test_the_official_image_s_health_check_reads_the_state_of_the_model(state, code):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = (STATUS % state).encode()
            self.send_response(200 if self.path == "/v1/models/dense" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    kind, *command = load("tensorflow_serving")["services"]["serving"]["healthcheck"]["test"]
    assert kind == "CMD"
    assert "/v1/models/dense " in command[-1]
    assert 'name: "dense"' in (DEPLOY / "config" / "models.config").read_text("utf-8")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command[-1] = command[-1].replace("8501", str(server.server_port)).replace("$$", "$")
        assert subprocess.run(command, timeout=10).returncode == code
        server.shutdown()
    assert subprocess.run(command, timeout=10, stderr=subprocess.DEVNULL).returncode != 0
