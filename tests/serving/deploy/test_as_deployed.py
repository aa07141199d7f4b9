"""The compose file's command in a real process, with the secrets that README.md's own commands make."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from serving.deploy import health_check

REPOSITORY = Path(__file__).resolve().parents[3]
DEPLOY = REPOSITORY / "serving" / "deploy"


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """What the README's first block makes, in a folder of this test's."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("secrets")
    block = re.findall(r"```sh\n(.*?)```", (DEPLOY / "README.md").read_text("utf-8"), re.DOTALL)[0]
    change, place, *commands = block.splitlines()
    assert change.startswith("cd serving/deploy/tfbigmodel && mkdir -m 700 -p secrets/tokens")
    assert place == "S=serving/deploy/tfbigmodel/secrets"
    script = "\n".join(["set -eu", f"mkdir {folder}/tokens", f"S={folder}", *commands])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, done.stderr
    (folder / "shop").write_text(done.stdout.strip())  # the README has the user keep it
    return folder


@pytest.fixture(scope="module")
def deployed(secrets, run_server, exported, put_version, tmp_path_factory):
    """The server of compose.yaml, its mounts replaced by folders and its ports by free ones."""
    folder = tmp_path_factory.mktemp("deployed")
    put_version(exported / "linear", folder / "models" / "dense", 1)
    shutil.copytree(DEPLOY / "config", folder / "config")
    models = folder / "config" / "models.config"
    models.write_text(models.read_text().replace('"/models/', f'"{folder}/models/'))
    compose = yaml.safe_load((DEPLOY / "tfbigmodel" / "compose.yaml").read_text("utf-8"))
    places = {"=/config/": f"={folder}/config/", "=/run/secrets/": f"={secrets}/", "=/tokens/": f"={secrets}/tokens/"}
    flags = []
    for flag in compose["services"]["serving"]["command"]:
        for mounted, real in places.items():
            flag = flag.replace(mounted, real)
        flags.append(flag)
    server = run_server(*flags, "--port=0", "--rest_api_port=-1").wait_ready()
    line = server.process.stdout.readline()
    server.url = "https://localhost:" + re.search(r":(\d+) ", line)[1]
    return server


def get(url, secrets, token=None, check_hostname=True):
    """`(status, text)`; the certificate is checked, by the name that the README gave it."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    context = ssl.create_default_context(cafile=secrets / "server.crt")
    context.check_hostname = check_hostname
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_metrics_token_opens_the_metrics_for_prometheus_in_another_container(deployed, secrets):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; tells which address the machine would use
        except OSError:
            pytest.skip("this machine has no address but loopback, where metrics need no token")
        address = probe.getsockname()[0]
    url = f"https://{address}:{deployed.url.rpartition(':')[2]}/monitoring/prometheus/metrics"
    shop, prometheus = (secrets / "shop").read_text(), (secrets / "metrics_token").read_text()
    assert get(url, secrets, None, check_hostname=False)[0] == 401
    assert get(url, secrets, shop, check_hostname=False)[0] == 403
    code, page = get(url, secrets, prometheus, check_hostname=False)
    assert code == 200
    # What the alert for models without a version reads.
    assert re.search(r'tfbigmodel_serving_model_version_state\{.*model_name="dense".*state="AVAILABLE".*\} 1', page)


def test_it_is_healthy_lets_tokens_in_and_drains(deployed, secrets):
    shop, prometheus = (secrets / "shop").read_text(), (secrets / "metrics_token").read_text()
    status = f"{deployed.url}/v1/models/dense"
    assert health_check.main([f"{deployed.url}/health/ready"]) == 0
    assert health_check.main([f"{deployed.url}/health/live"]) == 0
    assert get(status, secrets)[0] == 401
    assert get(status, secrets, prometheus)[0] == 403
    code, text = get(status, secrets, shop)
    assert code == 200
    assert json.loads(text)["model_version_status"][0]["state"] == "AVAILABLE"
    assert deployed.stop() == 0


def test_the_secrets_are_their_owner_s(secrets):
    modes = {path.name: path.stat().st_mode & 0o777 for path in secrets.rglob("*") if path.is_file()}
    private = {"server.key", "ssl_config", "auth_tokens.json"}
    assert {name: modes[name] for name in private} == dict.fromkeys(private, 0o600)
    assert not re.search(r"\s", (secrets / "metrics_token").read_text())
