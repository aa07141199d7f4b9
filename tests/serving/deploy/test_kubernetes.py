"""The manifests: valid for Kubernetes, safe, and at one with each other and with the server's flags."""

import copy
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from serving.flags import parse_flags

DEPLOY = Path(__file__).resolve().parents[3] / "serving" / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
VARIANTS = ("tfbigmodel", "plain_text", "tensorflow_serving")
VERSION = "1.34"


def read(file):
    return [document for document in yaml.safe_load_all(file.read_text("utf-8")) if document]


def base():
    """Our server's manifests, with the ConfigMaps that kustomize would generate."""
    folder = KUBERNETES / "tfbigmodel"
    kustomization = read(folder / "kustomization.yaml")[0]
    documents = []
    for name in kustomization["resources"]:
        if name.endswith(".yaml"):
            documents += read(folder / name)
    for generator in read(DEPLOY / "config" / "kustomization.yaml")[0]["configMapGenerator"]:
        data = {file: (DEPLOY / "config" / file).read_text("utf-8") for file in generator["files"]}
        metadata = {"name": generator["name"]}
        documents.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    return documents


def rendered(variant):
    """The same as `kubectl apply -k` would send it."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, str(KUBERNETES / variant)], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            return [document for document in yaml.safe_load_all(done.stdout) if document]
    pytest.skip("neither kustomize nor kubectl is installed")


def only(documents, kind, name="serving"):
    return next(item for item in documents if item["kind"] == kind and item["metadata"]["name"].startswith(name))


def container(documents):
    return only(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]


def problems(documents):
    """What is wrong with a set of manifests, one line each."""
    deployment = only(documents, "Deployment")["spec"]
    template = deployment["template"]
    return [
        *_volume_problems(documents, template["spec"]),
        *_safety_problems(template["spec"]),
        *_port_problems(documents, template),
        *_selector_problems(documents, deployment),
        *_time_problems(deployment),
    ]


def _volume_problems(documents, pod):
    secrets = read(KUBERNETES / "tfbigmodel" / "secrets.example.yaml")
    things = {
        "configMap": {item["metadata"]["name"]: set(item["data"]) for item in documents if item["kind"] == "ConfigMap"},
        "secret": {item["metadata"]["name"]: {*item["stringData"]} for item in secrets},
    }
    claims = {item["metadata"]["name"] for item in documents if item["kind"] == "PersistentVolumeClaim"}
    files = {}
    for volume in pod["volumes"]:
        for kind, key in (("configMap", "name"), ("secret", "secretName")):
            if kind in volume:
                name = volume[kind][key]
                if name not in things[kind]:
                    yield f"{kind} {name} is not there"
                files[volume["name"]] = things[kind].get(name, set())
        if "persistentVolumeClaim" in volume and volume["persistentVolumeClaim"]["claimName"] not in claims:
            yield f"claim {volume['persistentVolumeClaim']['claimName']} is not there"
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    names = {volume["name"] for volume in pod["volumes"]}
    for name in mounts.values():
        if name not in names:
            yield f"volume {name} is not there"
    for name in names - set(mounts.values()):
        yield f"volume {name} is not mounted"
    for flag in pod["containers"][0]["args"]:
        folder, _, file = flag.partition("=")[2].rpartition("/")
        if folder and file not in files.get(mounts.get(folder, ""), set()):
            yield f"{flag} names a file that is not mounted"


def _safety_problems(pod):
    context, own = pod["securityContext"], pod["containers"][0]["securityContext"]
    if not (context.get("runAsNonRoot") and context.get("runAsUser", 0) > 0):
        yield "it may run as root"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "no seccomp profile"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "it may gain privileges"
    if not own.get("readOnlyRootFilesystem"):
        yield "its root can be written"
    if own.get("capabilities", {}).get("drop") != ["ALL"]:
        yield "it keeps capabilities"
    if pod.get("automountServiceAccountToken") is not False:
        yield "it gets the cluster's token"
    for kind in ("requests", "limits"):
        for resource in ("cpu", "memory"):
            if resource not in pod["containers"][0].get("resources", {}).get(kind, {}):
                yield f"no {resource} in {kind}"


def _port_problems(documents, template):
    server = template["spec"]["containers"][0]
    options, warnings = parse_flags(server["args"])
    yield from warnings
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    if ports != {"grpc": options.port, "rest": options.rest_api_port}:
        yield "its ports are not those of its flags"
    ours = "command" not in server
    if ours and options.host != "0.0.0.0":
        yield "it listens where no other pod can connect"
    if ours and not options.insecure_public and not (options.ssl_config_file and options.auth_tokens_file):
        yield "it refuses to start: no TLS or no tokens"
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = server.get(name, {})
        handler = probe.get("httpGet") or probe.get("tcpSocket") or {}
        if handler.get("port") not in ports:
            yield f"{name} asks no port of the pod"
        if ours and probe.get("httpGet", {}).get("scheme") != ("HTTPS" if options.ssl_config_file else "HTTP"):
            yield f"{name} asks in the wrong scheme"
        if ours and handler.get("path") != ("/health/ready" if name == "readinessProbe" else "/health/live"):
            yield f"{name} asks the wrong path"
    for service in (item for item in documents if item["kind"] == "Service"):
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in ports or port["port"] != ports[port["targetPort"]]:
                yield f"Service {service['metadata']['name']}: port {port['name']} is not the pod's"
    for rule in only(documents, "NetworkPolicy")["spec"]["ingress"]:
        if "from" not in rule:
            yield "NetworkPolicy: everybody may connect"
        for port in rule["ports"]:
            if port["port"] not in ports:
                yield f"NetworkPolicy: port {port['port']} is not the pod's"


def _selector_problems(documents, deployment):
    labels = deployment["template"]["metadata"]["labels"].items()
    selectors = {"Deployment": deployment["selector"]["matchLabels"]}
    for item in documents:
        spec, name = item.get("spec", {}), f"{item['kind']} {item['metadata']['name']}"
        if item["kind"] == "Service":
            selectors[name] = spec["selector"]
        if item["kind"] == "PodDisruptionBudget":
            selectors[name] = spec["selector"]["matchLabels"]
        if item["kind"] == "NetworkPolicy":
            selectors[name] = spec["podSelector"]["matchLabels"]
        if item["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            if (target["kind"], target["name"]) != ("Deployment", "serving"):
                yield f"{name} scales something else"
            if spec["minReplicas"] < 2:
                yield f"{name} leaves one pod alone"
    for name, selector in selectors.items():
        if not selector or not selector.items() <= labels:
            yield f"{name} does not select the pods"
    if "replicas" in deployment:
        yield "replicas would undo what the autoscaler does"


def _time_problems(deployment):
    pod = deployment["template"]["spec"]
    options = parse_flags(pod["containers"][0]["args"])[0]
    hook = float(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    drains = options.drain_timeout_seconds if "command" not in pod["containers"][0] else 0
    if pod["terminationGracePeriodSeconds"] <= hook + drains:
        yield "it is killed before it has drained"
    if deployment["strategy"]["rollingUpdate"]["maxUnavailable"] != 0:
        yield "an update takes pods away before new ones are ready"


def test_nothing_is_wrong_with_the_files():
    assert list(problems(base())) == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_is_wrong_with_what_kustomize_makes_of_them(variant, monkeypatch):
    documents = rendered(variant)
    assert list(problems(documents)) == []
    assert {item["metadata"].get("namespace", "tfbigmodel-serving") for item in documents} == {"tfbigmodel-serving"}
    assert re.search(r":\d+\.\d+\.\d+$", container(documents)["image"])


@pytest.mark.parametrize("variant", ["files", *VARIANTS])
def test_kubernetes_schemas_are_kept(variant):
    validate = pytest.importorskip("kubernetes_validate").validate
    for document in base() if variant == "files" else rendered(variant):
        validate(document, VERSION, strict=True)


def test_every_file_is_used_and_every_other_manifest_parses():
    for folder in KUBERNETES.iterdir():
        kustomization = read(folder / "kustomization.yaml")[0]
        used = set(kustomization["resources"]) | {patch["path"] for patch in kustomization.get("patches", [])}
        files = {file.name for file in folder.iterdir()} - {"kustomization.yaml", "secrets.example.yaml"}
        assert files == {name for name in used if name.endswith(".yaml")}
        for name in files:
            assert all({"apiVersion", "kind", "metadata"} <= document.keys() for document in read(folder / name))


def test_the_schema_check_finds_what_is_broken():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for key, value in (("terminationGracePeriodSecond", 1), ("terminationGracePeriodSeconds", "45s")):
        document = copy.deepcopy(only(base(), "Deployment"))
        document["spec"]["template"]["spec"][key] = value
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(document, VERSION, strict=True)


POD = ["Deployment", "spec", "template", "spec"]
CONTAINER = [*POD, "containers", 0]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ([*POD, "volumes", 1, "configMap", "name"], "x", "configMap x is not there"),
        ([*POD, "volumes", 3, "secret", "secretName"], "x", "secret x is not there"),
        ([*POD, "volumes", 0, "persistentVolumeClaim", "claimName"], "x", "claim x is not there"),
        ([*POD, "volumes", 5, "name"], "x", "volume x is not mounted"),
        ([*CONTAINER, "volumeMounts", 5, "name"], "x", "volume x is not there"),
        ([*CONTAINER, "args", 3], "--model_config_file=/config/models/x", "a file that is not mounted"),
        ([*CONTAINER, "args", 1], "--port=1", "its ports are not those of its flags"),
        ([*CONTAINER, "args", 0], "--use_tflite_model", "no effect here"),
        ([*CONTAINER, "args", 0], "--host=127.0.0.1", "where no other pod can connect"),
        ([*CONTAINER, "args", 7], "--port=8500", "refuses to start"),
        ([*CONTAINER, "startupProbe", "httpGet", "port"], "x", "startupProbe asks no port"),
        ([*CONTAINER, "livenessProbe", "httpGet", "scheme"], "HTTP", "livenessProbe asks in the wrong scheme"),
        ([*CONTAINER, "readinessProbe", "httpGet", "path"], "/", "readinessProbe asks the wrong path"),
        ([*CONTAINER, "resources", "limits"], {"cpu": "1"}, "no memory in limits"),
        ([*CONTAINER, "securityContext", "readOnlyRootFilesystem"], False, "its root can be written"),
        ([*CONTAINER, "securityContext", "capabilities"], {}, "it keeps capabilities"),
        ([*CONTAINER, "securityContext", "allowPrivilegeEscalation"], True, "it may gain privileges"),
        ([*POD, "securityContext", "runAsUser"], 0, "it may run as root"),
        ([*POD, "securityContext", "seccompProfile"], {}, "no seccomp profile"),
        ([*POD, "automountServiceAccountToken"], True, "it gets the cluster's token"),
        ([*POD, "terminationGracePeriodSeconds"], 30, "killed before it has drained"),
        (["Deployment", "spec", "strategy", "rollingUpdate", "maxUnavailable"], 1, "before new ones are ready"),
        (["Deployment", "spec", "replicas"], 2, "undo what the autoscaler does"),
        (["Deployment", "spec", "template", "metadata", "labels"], {}, "Service serving does not select"),
        (["Service", "spec", "ports", 0, "targetPort"], "x", "Service serving: port grpc is not the pod's"),
        (["PodDisruptionBudget", "spec", "selector", "matchLabels"], {"a": "b"}, "does not select the pods"),
        (["HorizontalPodAutoscaler", "spec", "scaleTargetRef", "name"], "x", "scales something else"),
        (["HorizontalPodAutoscaler", "spec", "minReplicas"], 1, "leaves one pod alone"),
        (["NetworkPolicy", "spec", "ingress", 0], {"ports": []}, "everybody may connect"),
        (["NetworkPolicy", "spec", "ingress", 0, "ports", 0, "port"], 1, "NetworkPolicy: port 1 is not the pod's"),
    ],
)
def test_the_checks_find_what_is_broken(path, value, expected):
    documents = base()
    here = only(documents, path[0])
    for key in path[1:-1]:
        here = here[key]
    here[path[-1]] = value
    assert any(expected in problem for problem in problems(documents))


def test_the_claims_and_network_policy_are_closed():
    policy = only(base(), "NetworkPolicy")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert [{port["port"] for port in rule["ports"]} for rule in policy["egress"]] == [{53}]


def test_the_operator_s_rules_are_those_of_prometheus_and_its_monitor_reads_our_service():
    folder = KUBERNETES / "monitoring"
    alerts = read(DEPLOY / "monitoring" / "alerts.yml")[0]
    assert read(folder / "prometheus_rule.yaml")[0]["spec"] == alerts
    monitor = read(folder / "service_monitor.yaml")[0]["spec"]
    service = only(base(), "Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    headless = [item for item in base() if item["metadata"]["name"] == "serving-headless"]
    assert "labels" not in headless[0]["metadata"]
