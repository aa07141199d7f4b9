"""What the manifests run is what the commands take; and two workers train with a manifest's own arguments."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from training_manifests import VARIANTS, arguments, files, only, option, pods, rendered

from tfbigmodel.config import load_config
from tfbigmodel.training.cluster import read_cluster
from tfbigmodel.training.health import WorkerGone


def run(words, **environment):
    """`python -m` with these arguments, as the image's entry point does."""
    return subprocess.run(
        [sys.executable, "-m", *words], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def local(words, folder, documents):
    """The arguments with the configuration in a local folder."""
    path = folder / "training.yaml"
    path.write_text(only(documents, "ConfigMap", "training-config")["data"]["training.yaml"], "utf-8")
    return [str(path) if word == "/config/training.yaml" else word for word in words]


@pytest.mark.parametrize("kind", ["job", "tfjob"])
def test_the_commands_take_the_arguments(kind, tmp_path):
    """All that is wrong is what is added to them, which is found after everything else has been read."""
    documents = files(kind)
    done = run([*local(arguments(documents), tmp_path, documents), "--set", "training.epochs=0"])
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*training\.yaml: training\.epochs: .*0\n", done.stderr), done.stderr


def test_a_wrong_argument_would_be_found(tmp_path):
    documents = files("job")
    words = local(arguments(documents), tmp_path, documents)
    words[words.index("--index") + 1] = "2"
    assert "--index: expected one from 0 to 1, received 2" in run(words).stderr
    words = [word.replace("--workdir", "--workdirs") for word in local(arguments(files("job")), tmp_path, documents)]
    assert "unrecognized arguments: --workdirs" in run(words).stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_configuration_is_that_of_many_workers(variant, tmp_path):
    documents = rendered(variant)
    words = local(arguments(documents), tmp_path, documents)
    overrides = [words[index + 1] for index, word in enumerate(words) if word == "--set"]
    config = load_config(option(words, "--config"), overrides)
    assert config.training.strategy == "multi_worker"
    if any("data-worker" in name for name in pods(documents)):
        service, dispatcher = config.data.service, only(documents, "Service", "data-dispatcher")
        host, port = service.address.removeprefix("grpc://").split(":")
        assert (host, int(port)) == (dispatcher["metadata"]["name"], dispatcher["spec"]["ports"][0]["port"])
        assert service.workers == only(documents, "Deployment", "data-worker")["spec"]["replicas"]


def test_the_operator_s_tf_config_is_understood():
    """As its pkg/controller.v1/tensorflow/tensorflow.go writes it: a Service for each pod, and the port tfjob-port."""
    tfjob = only(files("tfjob"), "TFJob")
    worker = tfjob["spec"]["tfReplicaSpecs"]["Worker"]
    ports = {port["name"]: port["containerPort"] for port in worker["template"]["spec"]["containers"][0]["ports"]}
    name, namespace = tfjob["metadata"]["name"], "tfbigmodel-training"
    hosts = [f"{name}-worker-{i}.{namespace}.svc:{ports['tfjob-port']}" for i in range(worker["replicas"])]
    value = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": 1}, "environment": "cloud"}
    cluster = read_cluster(json.dumps(value))
    assert cluster.addresses == tuple(hosts)
    assert (cluster.index, cluster.is_chief) == (1, False)


def test_the_codes_are_those_that_the_policies_know():
    """What another worker's death and SIGTERM end with is made again by both, and a user's mistake by none."""
    rules = only(files("job"), "Job")["spec"]["podFailurePolicy"]["rules"]
    fatal, ignored = (rule["onExitCodes"]["values"] for rule in rules[:2])
    stopped = 128 + signal.SIGTERM
    assert (rules[0]["action"], fatal) == ("FailJob", [2])
    assert (rules[1]["action"], ignored) == ("Ignore", [stopped])
    assert WorkerGone("gone").exit_code not in (*fatal, *ignored)
    # The training operator's IsRetryableExitCode.
    assert min(WorkerGone("gone").exit_code, stopped) >= 128 > max(fatal)


def test_the_data_service_takes_its_arguments(capsys):
    from pipelines.data_service.__main__ import main

    for name in ("data-dispatcher", "data-worker"):
        module, *words = pods(rendered("job_data_service"))[name]["spec"]["containers"][0]["args"]
        assert module == "pipelines.data_service"
        with pytest.raises(SystemExit) as stop:
            main([*words, "--help"])
        assert stop.value.code == 0
        told = capsys.readouterr().out
        assert all(word.partition("=")[0] in told for word in words[1:])


def test_tensorboard_takes_its_arguments():
    from tensorboard import default, program

    module, *words = pods(files("job"))["tensorboard"]["spec"]["containers"][0]["args"]
    assert module == "tensorboard.main"
    board = program.TensorBoard(default.get_plugins())
    board.configure(argv=["tensorboard", *words])
    assert (board.flags.host, board.flags.port) == ("127.0.0.1", 6006)
    check = pods(files("job"))["tensorboard"]["spec"]["containers"][0]["livenessProbe"]["exec"]["command"]
    assert "http://127.0.0.1:6006/" in check[-1]


def test_as_process_1_of_a_container_a_command_ends_when_it_is_told_to():
    """Also where it is not training, and has nothing to save: the system would ignore the signal there."""
    if subprocess.run(["unshare", "-rpf", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a process 1")
    script = (
        "import os, time; from tfbigmodel.command_line import make_parser, run_command\n"
        "run_command(make_parser('x', 'y'), lambda arguments: (print(os.getpid(), flush=True), time.sleep(60)), [])"
    )
    command = ["unshare", "-rpf", "--kill-child", sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "1\n"
            (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(child), signal.SIGTERM)
            assert process.wait(timeout=20) == 128 + signal.SIGTERM
        finally:
            process.kill()


@pytest.mark.slow
def test_two_workers_train_with_the_job_s_arguments(tmp_path):
    """The pods' own commands on this machine: names, the place of the workdir and the model's size apart."""
    documents = files("job")
    words = local(arguments(documents), tmp_path, documents)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    hosts = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    words[words.index("--hosts") + 1] = ",".join(hosts)
    words[words.index("--workdir") + 1] = str(tmp_path / "run")
    small = ["data.images=null", "data.augmentation={}", "model={chapter: dense, hidden_units: [64]}",
             "training.epochs=3", "training.optimizer.learning_rate=1e-2"]  # fmt: skip
    words += [word for setting in small for word in ("--set", setting)]
    processes = []
    for index in "01":
        words[words.index("--index") + 1] = index
        processes.append(
            subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    try:
        outputs = [process.communicate(timeout=150) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "2 replicas" in outputs[0][0]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["accuracy"] > 0.3
