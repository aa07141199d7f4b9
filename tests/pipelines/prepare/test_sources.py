"""Prepared in an environment with Apache Beam and without TensorFlow, read in this one."""

import json
import os
import subprocess
from pathlib import Path

import pytest

import pipelines
from pipelines.config import CorpusConfig, ShardsConfig
from pipelines.loading import load


@pytest.mark.skipif("BEAM_PYTHON" not in os.environ, reason="BEAM_PYTHON names no Python that has Apache Beam")
def test_the_sources_read_what_was_written(tmp_path):
    rows = [f"text number {index} . good,{['bad', 'good'][index % 2]}" for index in range(300)]
    (tmp_path / "raw.csv").write_text("\n".join(["text,label", *rows]) + "\n")

    def prepare(output: str, form: str) -> None:
        options = f"--input raw.csv --text text --label label --validation 0.2 --test 0.2 --format {form}".split()
        command = [os.environ["BEAM_PYTHON"], "-m", "pipelines.prepare", *options, "--output", output]
        environment = {**os.environ, "PYTHONPATH": str(Path(pipelines.__file__).parents[1])}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120)

    prepare("records", "tfrecord")
    prepare("parquet", "parquet")
    paths = {key: f"records/{split}-*.tfrecord" for key, split in (
        ("path", "train"), ("validation_path", "validation"), ("test_path", "test")
    )}  # fmt: skip
    config = {"source": "shards", "data_dir": tmp_path, "label": "label", "text": "text", "batch_size": 8}
    data = load(ShardsConfig.model_validate({**config, **paths, "cache_dir": tmp_path / "cache"}))
    report = json.loads((tmp_path / "records" / "report.json").read_text())
    assert dict(data.info.counts) == {split: of["examples"] for split, of in report["splits"].items()}
    assert data.info.class_names == ("bad", "good")
    config = {"source": "corpus", "data_dir": tmp_path, "task": "language_model", "cache_dir": tmp_path / "cache"}
    parts = [{"path": "parquet/train-*.parquet", "text": "text"}]
    corpus = load(CorpusConfig.model_validate({**config, "parts": parts, "batch_size": 4}))
    assert sum(corpus.info.counts.values()) > 0
