"""What each command does with paths at s3:// and gs://, and what it says of wrong ones."""

import json

import pytest

import tfbigmodel
from pipelines.object_store import listing, read_bytes, write_bytes
from tfbigmodel import evaluate, export, predict, train

_CONFIG = """
data: {{source: table, data_dir: "{url}/data", path: table.csv, label: y, batch_size: 8}}
model: {{chapter: dense, hidden_units: [4]}}
training: {{epochs: {epochs}, jit_compile: false}}
"""
_TABLE = "\n".join(["a,b,y", *(f"{i % 7},{i % 5},{'yes' if i % 7 > i % 5 else 'no'}" for i in range(60))])


def configured(url, epochs=1):
    write_bytes(f"{url}/data/table.csv", _TABLE.encode())
    write_bytes(f"{url}/run.yaml", _CONFIG.format(url=url, epochs=epochs).encode())
    return ["--config", f"{url}/run.yaml", "--workdir", f"{url}/run"]


@pytest.fixture(scope="module")
def local_run(tmp_path_factory):
    """The same run, all local."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "data").mkdir()
    (folder / "data" / "table.csv").write_text(_TABLE)
    (folder / "run.yaml").write_text(_CONFIG.format(url=folder, epochs=2))
    tfbigmodel.train(tfbigmodel.load_config(folder / "run.yaml"), folder / "run")
    tfbigmodel.export(folder / "run", folder / "models", 7)
    return folder


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_commands_give_what_they_give_locally(new_bucket, local_run, capsys, scheme):
    url = new_bucket(scheme)
    assert train.main([*configured(url), "--quiet"]) == 0
    assert train.main(configured(url, epochs=2)) == 0, "a finished run goes on when it is raised"
    assert train.main(configured(url, epochs=2)) == 0
    out = capsys.readouterr().out
    assert f"resuming {url}/run at epoch 2, update 5" in out
    assert f"{url}/run is finished: 2 epochs, 10 updates" in out
    metrics = json.loads(read_bytes(f"{url}/run/metrics.json"))
    assert metrics == json.loads((local_run / "run" / "metrics.json").read_text())

    assert evaluate.main(["--workdir", f"{url}/run"]) == 0
    assert f"written to {url}/run/metrics.json and {url}/run/evaluation/test.html" in capsys.readouterr().out
    assert {"evaluation/test.html", "evaluation/test.json"} <= listing(f"{url}/run").keys()

    answers = local_run / "answers.csv"
    table = local_run / "data" / "table.csv"
    assert predict.main(["--workdir", f"{local_run}/run", "--input", str(table), "--output", str(answers)]) == 0
    remote_answers = f"{url}/answers.csv"
    arguments = ["--workdir", f"{url}/run", "--input", f"{url}/data/table.csv", "--output", remote_answers]
    assert predict.main(arguments) == 0
    assert read_bytes(remote_answers) == answers.read_bytes()

    assert export.main(["--workdir", f"{url}/run", "--output", f"{url}/models/m", "--version", "7"]) == 0
    assert f"exported {url}/models/m/7" in capsys.readouterr().out
    exported = local_run / "models" / "7"
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert listing(f"{url}/models/m/7").keys() == names
    assert listing(f"{url}/models/m").keys() == {f"7/{name}" for name in names}, "and no mark is left"
    assert export.main(["--workdir", f"{url}/run", "--output", f"{url}/models/m", "--version", "7"]) == 2
    said = f"error: {url}/models/m/7 exists already and is not overwritten; choose another --version\n"
    assert capsys.readouterr().err == said


def test_another_runs_weights_may_be_remote(new_bucket, local_run, capsys):
    from pipelines.remote import upload

    url = new_bucket("s3")
    upload(local_run / "run", f"{url}/before")
    assert train.main([*configured(url), "--set", f"training.initialise_from={url}/before"]) == 0
    assert f"initialised 4 of 4 weights from {url}/before" in capsys.readouterr().out
    assert f"initialise_from: {url}/before" in read_bytes(f"{url}/run/config.yaml").decode()


def test_mistakes_are_told_in_one_line(new_bucket, local_run, capsys):
    url = new_bucket("s3")
    bucket, run = url.partition("://")[2], str(local_run / "run")
    missing = f"is not there: no such file or folder in bucket {bucket}"
    configuration = configured(url)
    other = f"{url}/data holds other files and is no workdir; choose an empty or a new --workdir"
    mistakes = [
        (train, ["--config", f"{url}/no.yaml", "--workdir", f"{url}/run"], f"{url}/no.yaml {missing}"),
        (train, [*configuration[:3], f"{url}/data"], other),
        (
            train,
            [*configuration[:3], "ftp://x/y"],
            "ftp://x/y: expected a local path, or gs:// or s3://; received ftp://",
        ),
        (train, [*configuration[:3], f"{url}x/run"], f"{url}x/run: there is no bucket {bucket}x"),
        (evaluate, ["--workdir", f"{url}/none"], f"{url}/none {missing}"),
        (predict, ["--workdir", f"{url}/none", "--input", "x.csv"], f"{url}/none {missing}"),
        (predict, ["--workdir", run, "--input", f"{url}/x.csv"], f"{url}/x.csv {missing}"),
        (
            predict,
            ["--workdir", run, "--input", "x.csv", "--output", "ftp://x/y.csv"],  # before the input is looked at
            "ftp://x/y.csv: expected a local path, or gs:// or s3://; received ftp://",
        ),
        (export, ["--workdir", f"{url}/none"], f"{url}/none {missing}"),
        (export, ["--workdir", run, "--output", f"{url}x/m"], f"{url}x/m/.writer.json: there is no bucket {bucket}x"),
        (export, ["--workdir", run, "--output", "s3://"], "s3:// has no bucket; expected s3://bucket/path"),
    ]
    for command, arguments, message in mistakes:
        assert command.main(arguments) == 2, arguments
        assert capsys.readouterr().err == f"error: {message}\n"
