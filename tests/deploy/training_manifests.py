"""The training manifests as lists of documents: the files as they are, or what `kubectl apply -k` would send."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
VARIANTS = ("job", "tfjob", "job_cpu", "job_s3", "job_gcs", "job_data_service", "tfjob_gcs_spot")


def read(file):
    return [document for document in yaml.safe_load_all(file.read_text("utf-8")) if document]


def files(variant):
    """The documents of `job` or `tfjob` and of the base, with the ConfigMaps that kustomize would generate."""
    documents = []
    for folder in (KUBERNETES / "base", KUBERNETES / variant):
        for name in read(folder / "kustomization.yaml")[0]["resources"]:
            documents += read(folder / name) if name.endswith(".yaml") else []
    for generator in read(KUBERNETES / "base" / "kustomization.yaml")[0]["configMapGenerator"]:
        data = {name: (KUBERNETES / "base" / name).read_text("utf-8") for name in generator.get("files", [])}
        data |= dict(literal.split("=", 1) for literal in generator.get("literals", []))
        metadata = {"name": generator["name"]}
        documents.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    return documents


def rendered(variant):
    """The documents that `kubectl apply -k` would send."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, str(KUBERNETES / variant)], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            return [document for document in yaml.safe_load_all(done.stdout) if document]
    pytest.skip("neither kustomize nor kubectl is installed")


def only(documents, kind, name="training"):
    return next(item for item in documents if item["kind"] == kind and item["metadata"]["name"] == name)


def has(documents, kind):
    return any(item["kind"] == kind for item in documents)


def pods(documents):
    """Name → template of everything that runs."""
    templates = {}
    for item in documents:
        if item["kind"] in ("Job", "Deployment"):
            templates[item["metadata"]["name"]] = item["spec"]["template"]
        if item["kind"] == "TFJob":
            for kind, replica in item["spec"]["tfReplicaSpecs"].items():
                templates[f"{item['metadata']['name']} {kind}"] = replica["template"]
    return templates


def trainer(documents):
    """The template of the workers."""
    return next(template for name, template in pods(documents).items() if name.startswith("training"))


def arguments(documents):
    """The arguments of a worker of number 0, with the variables that Kubernetes would put in."""
    values = {"JOB_COMPLETION_INDEX": "0", **only(documents, "ConfigMap", "training-settings")["data"]}
    words = trainer(documents)["spec"]["containers"][0]["args"]
    for name, value in values.items():
        words = [word.replace(f"$({name})", value) for word in words]
    return words


def option(words, name):
    return words[words.index(name) + 1]
