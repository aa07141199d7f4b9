"""The training manifests: valid for Kubernetes and the training operator, safe, and at one with each other."""

import copy

import pytest
from jsonschema import Draft202012Validator
from training_manifests import (
    KUBERNETES,
    VARIANTS,
    arguments,
    files,
    has,
    only,
    option,
    pods,
    read,
    rendered,
    trainer,
)

from pipelines.remote import is_remote
from tfbigmodel.config import load_config
from tfbigmodel.training.cluster import split_address

VERSION = "1.34"
BOTH = ("job", "tfjob")


def config(documents, folder):
    (folder / "training.yaml").write_text(only(documents, "ConfigMap", "training-config")["data"]["training.yaml"])
    words = arguments(documents)
    overrides = [words[index + 1] for index, word in enumerate(words) if word == "--set"]
    return load_config(folder / "training.yaml", overrides)


def problems(documents, folder):
    """What is wrong with a set of manifests, one line each."""
    return [
        *(line for name, template in pods(documents).items() for line in _pod_problems(documents, name, template)),
        *_cluster_problems(documents, config(documents, folder)),
        *_failure_problems(documents),
        *_network_problems(documents),
    ]


def _pod_problems(documents, name, template):
    pod, container = template["spec"], template["spec"]["containers"][0]
    things = {
        "persistentVolumeClaim": {x["metadata"]["name"] for x in documents if x["kind"] == "PersistentVolumeClaim"},
        "configMap": {x["metadata"]["name"] for x in documents if x["kind"] == "ConfigMap"},
    }
    for volume in pod["volumes"]:
        for kind, key in (("persistentVolumeClaim", "claimName"), ("configMap", "name")):
            if kind in volume and volume[kind][key] not in things[kind]:
                yield f"{name}: {kind} {volume[kind][key]} is not there"
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"] for volume in pod["volumes"]}
    yield from (f"{name}: volume {volume} is not there" for volume in mounted - volumes)
    yield from (f"{name}: volume {volume} is not mounted" for volume in volumes - mounted)
    for source in container.get("envFrom", []):
        if "configMapRef" in source and source["configMapRef"]["name"] not in things["configMap"]:
            yield f"{name}: configMap {source['configMapRef']['name']} is not there"
    context, own = pod["securityContext"], container["securityContext"]
    if not (context.get("runAsNonRoot") and context.get("runAsUser") == 10001):
        yield f"{name}: it is not the image's user"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield f"{name}: no seccomp profile"
    if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities", {}).get("drop") != ["ALL"]:
        yield f"{name}: it may gain privileges"
    if not own.get("readOnlyRootFilesystem"):
        yield f"{name}: its root can be written"
    if pod.get("automountServiceAccountToken") is not False:
        yield f"{name}: it gets the cluster's token"
    if pod.get("serviceAccountName", "default") not in {
        "default",
        *(item["metadata"]["name"] for item in documents if item["kind"] == "ServiceAccount"),
    }:
        yield f"{name}: its ServiceAccount is not there"
    for kind in ("requests", "limits"):
        for resource in ("cpu", "memory", "ephemeral-storage"):
            if resource not in container.get("resources", {}).get(kind, {}):
                yield f"{name}: no {resource} in {kind}"


def _cluster_problems(documents, run):
    words, template = arguments(documents), trainer(documents)
    container = template["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    if container["name"] != "tensorflow":
        yield "the operator and the failure policy look for a container called tensorflow"
    if has(documents, "Job"):
        job = only(documents, "Job")["spec"]
        workers = job["completions"]
        hosts = option(words, "--hosts").split(",")
        service = only(documents, "Service", template["spec"].get("subdomain", "training"))
        expected = [f"training-{index}.{service['metadata']['name']}:{ports['tensorflow']}" for index in range(workers)]
        if hosts != expected:
            yield f"--hosts is not {','.join(expected)}"
        if job["parallelism"] != workers:
            yield "not all workers run at once"
        if job["completionMode"] != "Indexed" or "$(JOB_COMPLETION_INDEX)" not in container["args"]:
            yield "a worker does not know which one it is"
        if service["spec"].get("clusterIP") != "None" or not service["spec"].get("publishNotReadyAddresses"):
            yield "the pods have no names while they start"
        if not service["spec"]["selector"].items() <= template["metadata"]["labels"].items():
            yield "the Service does not select the pods"
        health = split_address(hosts[0], "--hosts")[1] + run.training.workers.health_port_offset
    else:
        job = only(documents, "TFJob")["spec"]
        workers = job["tfReplicaSpecs"]["Worker"]["replicas"]
        health = ports["tfjob-port"] + run.training.workers.health_port_offset
        if run.training.strategy != "multi_worker":
            yield "training.strategy is not multi_worker"
    if ports["health"] != health:
        yield f"the health check is at port {health}"
    budget = only(documents, "PodDisruptionBudget")["spec"]
    if budget.get("minAvailable") != workers or "maxUnavailable" in budget:
        yield f"the disruption budget is not minAvailable: {workers}"
    if not budget["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items():
        yield "the disruption budget does not select the pods"
    workdir = option(words, "--workdir")
    if not is_remote(workdir) and not _claimed(documents, template, workdir):
        yield f"{workdir} is on no claim that all workers can write to"
    if option(words, "--config") != "/config/training.yaml" or "training.yaml" not in _config_map(documents, template):
        yield "--config names a file that is not mounted"
    if run.checkpoints.every_steps is None:
        yield "a killed run loses a whole epoch"
    if template["spec"]["terminationGracePeriodSeconds"] < 60:
        yield "it is killed before it has saved"


def _claimed(documents, template, path):
    pod = template["spec"]
    for mount in pod["containers"][0]["volumeMounts"]:
        if path.startswith(mount["mountPath"] + "/") and not mount.get("readOnly"):
            volume = next(volume for volume in pod["volumes"] if volume["name"] == mount["name"])
            claim = volume.get("persistentVolumeClaim", {"readOnly": True})
            shared = [item["metadata"]["name"] for item in documents if item["kind"] == "PersistentVolumeClaim"
                      and item["spec"]["accessModes"] == ["ReadWriteMany"]]  # fmt: skip
            return not claim.get("readOnly") and claim["claimName"] in shared
    return False


def _config_map(documents, template):
    pod = template["spec"]
    name = next(mount["name"] for mount in pod["containers"][0]["volumeMounts"] if mount["mountPath"] == "/config")
    volume = next(volume for volume in pod["volumes"] if volume["name"] == name)
    return only(documents, "ConfigMap", volume["configMap"]["name"])["data"]


def _failure_problems(documents):
    if has(documents, "TFJob"):
        # From 128 on the operator makes a new pod; what is below would be made again.
        if only(documents, "TFJob")["spec"]["tfReplicaSpecs"]["Worker"]["restartPolicy"] != "ExitCode":
            yield "the operator does not start workers again, or starts mistakes again"
        return
    job = only(documents, "Job")["spec"]
    if job["template"]["spec"]["restartPolicy"] != "Never":
        yield "a failure policy needs restartPolicy Never"
    if job.get("podReplacementPolicy") != "Failed":
        yield "two pods of one index may run at a time"
    if job.get("maxFailedIndexes") != 0 or job.get("backoffLimitPerIndex", 0) < 10 or "backoffLimit" in job:
        yield "the others wait for a worker that has given up, or one gives up soon"
    if job.get("successPolicy") != {"rules": [{"succeededIndexes": "0"}]}:
        yield "the chief's success does not end the job"
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {})
        if codes and codes["containerName"] != job["template"]["spec"]["containers"][0]["name"]:
            yield "the failure policy names another container"
        if rule["action"] == "FailJob" and codes.get("values") != [2]:
            yield "other failures than mistakes end the job"
        if {137, 138, 1} & set(codes.get("values", [])):
            yield "failures are not counted, or end the job"


def _network_problems(documents):
    policies = {item["metadata"]["name"]: item["spec"] for item in documents if item["kind"] == "NetworkPolicy"}
    if policies.get("nobody") != {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}:
        yield "what no policy names is open"
    for name, policy in policies.items():
        for rule in policy.get("ingress", []):
            if not rule.get("from") or any("podSelector" not in peer or len(peer) > 1 for peer in rule["from"]):
                yield f"NetworkPolicy {name}: others than pods of this namespace may connect"
        for rule in policy.get("egress", []):
            if not rule.get("to"):
                yield f"NetworkPolicy {name}: pods may connect to everybody"


@pytest.mark.parametrize("kind", BOTH)
def test_nothing_is_wrong_with_the_files(kind, tmp_path):
    assert problems(files(kind), tmp_path) == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_is_wrong_with_what_kustomize_makes_of_them(variant, tmp_path):
    documents = rendered(variant)
    assert problems(documents, tmp_path) == []
    assert {x["metadata"].get("namespace", "tfbigmodel-training") for x in documents} == {"tfbigmodel-training"}
    images = [template["spec"]["containers"][0]["image"] for template in pods(documents).values()]
    assert all(image.endswith(":0.1.0") for image in images)
    gpus = [template["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for template in
            pods(documents).values()]  # fmt: skip
    assert [bool(gpu) for gpu in gpus] == ["-gpu:" in image for image in images]
    claims = {volume["name"] for template in pods(documents).values() for volume in template["spec"]["volumes"]
              if "persistentVolumeClaim" in volume}  # fmt: skip
    remote = "s3" in variant or "gcs" in variant
    assert claims == (set() if remote else {"runs", "data"})
    assert is_remote(option(arguments(documents), "--workdir")) is remote


@pytest.mark.parametrize("variant", ["files job", "files tfjob", *VARIANTS])
def test_the_schemas_are_kept(variant):
    validate = pytest.importorskip("kubernetes_validate").validate
    for document in files(variant.split()[1]) if " " in variant else rendered(variant):
        if document["kind"] != "TFJob":
            validate(document, VERSION, strict=True)
            continue
        tfjob_schema().validate(document)
        for replica in document["spec"]["tfReplicaSpecs"].values():
            pod = {"apiVersion": "v1", "kind": "Pod", **replica["template"]}
            pod["metadata"] = {"name": "worker", **pod["metadata"]}
            validate(pod, VERSION, strict=True)


def tfjob_schema():
    """The operator's schema, with unknown fields refused, which the server would drop without a word."""

    def closed(schema):
        if not isinstance(schema, dict):
            return schema
        schema = {key: closed(value) for key, value in schema.items()}
        if "properties" in schema and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
        return schema

    return Draft202012Validator(closed(read(KUBERNETES.parents[1] / "tests" / "deploy" / "tfjob_schema.yaml")[0]))


def test_the_schema_checks_find_what_is_broken():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    job = copy.deepcopy(only(files("job"), "Job"))
    job["spec"]["backoffLimitPerIndexes"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSION, strict=True)
    for key, value in (("restartpolicy", "Never"), ("replicas", "2")):
        tfjob = copy.deepcopy(only(files("tfjob"), "TFJob"))
        tfjob["spec"]["tfReplicaSpecs"]["Worker"][key] = value
        assert [error.json_path for error in tfjob_schema().iter_errors(tfjob)]


def test_every_file_is_used():
    used = set()
    for file in KUBERNETES.rglob("kustomization.yaml"):
        kustomization = read(file)[0]
        used |= {(file.parent / name).resolve() for key in ("resources", "components")
                 for name in kustomization.get(key, [])}  # fmt: skip
        used |= {file.parent / name for each in kustomization.get("configMapGenerator", [])
                 for name in each.get("files", [])}  # fmt: skip
    assert {path for path in used if path.is_file()} == {
        path for path in KUBERNETES.rglob("*") if path.is_file() and path.name != "kustomization.yaml"
    }
    folders = {file.parent for file in KUBERNETES.rglob("kustomization.yaml")}
    assert folders - used == {KUBERNETES / variant for variant in VARIANTS} - used
    assert all(path.exists() for path in used)


JOB = ["Job", "spec"]
POD = [*JOB, "template", "spec"]
CONTAINER = [*POD, "containers", 0]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ([*JOB, "completions"], 3, "--hosts is not training-0.training:2222,training-1.training:2222,training-2"),
        ([*JOB, "parallelism"], 1, "not all workers run at once"),
        ([*JOB, "completionMode"], "NonIndexed", "does not know which one it is"),
        ([*JOB, "podReplacementPolicy"], "TerminatingOrFailed", "two pods of one index"),
        ([*JOB, "maxFailedIndexes"], None, "has given up"),
        ([*JOB, "backoffLimit"], 6, "has given up"),
        ([*JOB, "successPolicy"], None, "the chief's success"),
        ([*JOB, "podFailurePolicy", "rules", 0, "onExitCodes", "values"], [2, 138], "end the job"),
        ([*JOB, "podFailurePolicy", "rules", 0, "onExitCodes", "containerName"], "x", "names another container"),
        ([*POD, "restartPolicy"], "OnFailure", "needs restartPolicy Never"),
        ([*POD, "terminationGracePeriodSeconds"], 30, "killed before it has saved"),
        ([*POD, "serviceAccountName"], "x", "ServiceAccount is not there"),
        ([*POD, "automountServiceAccountToken"], True, "the cluster's token"),
        ([*POD, "securityContext", "runAsUser"], 0, "not the image's user"),
        ([*POD, "securityContext", "seccompProfile"], {}, "no seccomp profile"),
        ([*POD, "volumes", 0, "persistentVolumeClaim", "claimName"], "x", "persistentVolumeClaim x is not there"),
        ([*POD, "volumes", 0, "persistentVolumeClaim"], {"claimName": "runs", "readOnly": True}, "on no claim"),
        ([*POD, "volumes", 5, "name"], "x", "volume x is not mounted"),
        ([*CONTAINER, "volumeMounts", 5, "name"], "x", "volume x is not there"),
        ([*CONTAINER, "securityContext", "readOnlyRootFilesystem"], False, "root can be written"),
        ([*CONTAINER, "securityContext", "capabilities"], {}, "may gain privileges"),
        ([*CONTAINER, "resources", "limits"], {"cpu": "1"}, "no memory in limits"),
        ([*CONTAINER, "ports", 1, "containerPort"], 3333, "the health check is at port 3222"),
        ([*CONTAINER, "envFrom", 0, "configMapRef", "name"], "x", "configMap x is not there"),
        ([*CONTAINER, "args", 2], "a:2222,b:2222", "--hosts is not"),
        ([*CONTAINER, "args", 8], "/config/other.yaml", "a file that is not mounted"),
        ([*CONTAINER, "args", 10], "/tmp/run", "on no claim"),
        (["Service", "spec", "publishNotReadyAddresses"], False, "no names while they start"),
        (["Service", "spec", "selector"], {"a": "b"}, "the Service does not select"),
        (["PodDisruptionBudget", "spec", "minAvailable"], 1, "not minAvailable: 2"),
        (["PodDisruptionBudget", "spec", "selector", "matchLabels"], {"a": "b"}, "budget does not select"),
    ],
)
def test_the_checks_find_what_is_broken(path, value, expected, tmp_path):
    documents = files("job")
    here = only(documents, path[0])
    for key in path[1:-1]:
        here = here[key]
    here[path[-1]] = value
    assert any(expected in problem for problem in problems(documents, tmp_path))


def test_the_network_checks_find_what_is_open(tmp_path):
    documents = files("job")
    workers = only(documents, "NetworkPolicy", "workers")["spec"]
    workers["ingress"][0] = {}
    workers["egress"].append({"ports": [{"port": 443}]})
    only(documents, "NetworkPolicy", "nobody")["spec"]["podSelector"] = {"matchLabels": {"a": "b"}}
    found = problems(documents, tmp_path)
    assert len(found) == 3
    assert "what no policy names is open" in found
