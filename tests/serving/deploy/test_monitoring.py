"""Prometheus and Grafana: the files are well-formed, and every metric they ask for is one that a server has."""

import ast
import copy
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from serving.errors import Code
from serving.operations.metrics import DEFAULT_PATH, OUR_PREFIX, Metrics

REPOSITORY = Path(__file__).resolve().parents[3]
DEPLOY = REPOSITORY / "serving" / "deploy"
MONITORING = DEPLOY / "monitoring"
NAME = re.compile(r"(?<![\w:\"])((?::tensorflow|tfbigmodel_serving_|container_|process_)[\w:]*|up\b)")
# What the official image has and we have not; cAdvisor's; Prometheus' own.
OTHERS = {
    ":tensorflow:serving:batching_session:processed_batch_size",
    "container_memory_working_set_bytes",
    "up",
}
STATUSES = {code.name for code in Code}


def metrics_of_ours():
    """Names on the page: what Metrics itself has, and what other parts add with `gauge` and `counter`."""
    page = Metrics().render().decode()
    names = set(re.findall(r"(?m)^# TYPE (\S+)", page))
    for file in (REPOSITORY / "serving").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("gauge", "counter")
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                names.add(OUR_PREFIX + node.args[0].value)
    return names


def unknown_metrics(expressions, known):
    """Names in PromQL expressions that no server has."""
    found = {name for expression in expressions for name in NAME.findall(expression)}
    plain = {re.sub(r"_(bucket|sum|count)$", "", name) for name in found if name not in known} | (found & known)
    return plain - known - OTHERS


def dashboard():
    return json.loads((MONITORING / "grafana" / "dashboards" / "serving.json").read_text("utf-8"))


def expressions_of_dashboard():
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def alerts():
    return yaml.safe_load((MONITORING / "alerts.yml").read_text("utf-8"))


def rules():
    return [rule for group in alerts()["groups"] for rule in group["rules"]]


def rule_problems(content):
    """What is wrong with alert rules, one line each."""
    found, seen = [], set()
    for group in content["groups"]:
        if set(group) - {"name", "rules", "interval"}:
            found.append(f"group {group.get('name')} has other keys than name, rules, interval")
        for rule in group["rules"]:
            name = rule.get("alert", "?")
            if set(rule) != {"alert", "expr", "for", "labels", "annotations"}:
                found.append(f"{name} has other keys than an alert's")
            if name in seen:
                found.append(f"{name} is there twice")
            seen.add(name)
            if not re.fullmatch(r"\d+[smh]", str(rule.get("for"))):
                found.append(f"{name}: for is no duration")
            if rule.get("labels", {}).get("severity") not in ("critical", "warning"):
                found.append(f"{name} has no severity")
            if not {"summary", "description"} <= rule.get("annotations", {}).keys():
                found.append(f"{name} does not say what it means")
    return found


def test_alert_rules():
    assert rule_problems(alerts()) == []
    assert {"ServingErrorRatio", "ServingSlow", "ServingNoReadyVersion"} <= {rule["alert"] for rule in rules()}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("alert", "ServingSlow", "is there twice"),
        ("for", "soon", "is no duration"),
        ("labels", {}, "has no severity"),
        ("annotations", {"summary": "x"}, "does not say"),
        ("exprs", "1", "other keys than an alert's"),
    ],
)
def test_the_checks_find_a_broken_rule(key, value, expected):
    content = copy.deepcopy(alerts())
    content["groups"][0]["rules"][0][key] = value
    assert any(expected in problem for problem in rule_problems(content))


def test_every_metric_exists():
    known = metrics_of_ours()
    assert ":tensorflow:serving:request_count" in known
    assert unknown_metrics([rule["expr"] for rule in rules()], known) == set()
    assert unknown_metrics(expressions_of_dashboard(), known) == set()
    assert unknown_metrics(["rate(:tensorflow:serving:request_counts[5m])"], known) != set()
    assert unknown_metrics([f"{OUR_PREFIX}nothing == 0"], known) == {f"{OUR_PREFIX}nothing"}


def test_every_expression_parses():
    parser = pytest.importorskip("promql_parser")
    for expression in [*(rule["expr"] for rule in rules()), *expressions_of_dashboard()]:
        assert expression.isascii()
        parser.parse(expression.replace("$__rate_interval", "5m"))
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        parser.parse("sum by (model_name (rate(x[5m]))")


def test_the_alerts_fire_when_they_should():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    tests = Path(__file__).with_name("alerts_test.yml")
    tested = {case["alertname"] for case in yaml.safe_load(tests.read_text("utf-8"))["tests"][0]["alert_rule_test"]}
    assert tested == {rule["alert"] for rule in rules()}
    done = subprocess.run([promtool, "test", "rules", str(tests)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_statuses_are_grpc_s():
    found = re.findall(r'status=~"([^"]*)"', " ".join([*expressions_of_dashboard(), *(r["expr"] for r in rules())]))
    assert len(found) >= 3
    assert {status for text in found for status in text.split("|")} <= STATUSES


def test_the_dashboard_is_one_for_grafana():
    content = dashboard()
    assert content["uid"]
    variables = {variable["name"] for variable in content["templating"]["list"]}
    ids = [panel["id"] for panel in content["panels"]]
    assert len(ids) == len(set(ids))
    squares = set()
    for panel in content["panels"]:
        place = panel["gridPos"]
        mine = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not squares & mine, f"{panel['title']} lies over another panel"
        squares |= mine
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= variables
    text = " ".join(expressions_of_dashboard())
    for metric in ("request_count", "request_latency_bucket", "runtime_latency_bucket", "queuing_latency_bucket"):
        assert metric in text
    for ours in ("batch_size_sum", "resident_memory_bytes", "queue_depth"):
        assert OUR_PREFIX + ours in text


def test_grafana_finds_prometheus_and_the_dashboard():
    provisioning = MONITORING / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"][0]
    provider = yaml.safe_load((provisioning / "dashboards" / "serving.yml").read_text("utf-8"))["providers"][0]
    compose = yaml.safe_load((MONITORING / "compose.yaml").read_text("utf-8"))["services"]
    assert source["url"] == "http://prometheus:9090"
    assert compose["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
    assert dashboard()["templating"]["list"][0]["current"]["value"] == source["uid"]
    volumes = {volume["target"] for volume in compose["grafana"]["volumes"] if isinstance(volume, dict)}
    assert provider["options"]["path"] in volumes


@pytest.mark.parametrize("stack", ["tfbigmodel", "tensorflow_serving"])
def test_prometheus_reads_the_server(stack):
    config = yaml.safe_load((DEPLOY / stack / "prometheus.yml").read_text("utf-8"))
    compose = yaml.safe_load((DEPLOY / stack / "compose.yaml").read_text("utf-8"))
    (scrape,) = config["scrape_configs"]
    assert scrape["metrics_path"] == DEFAULT_PATH
    assert DEFAULT_PATH in (DEPLOY / "config" / "monitoring.config").read_text("utf-8")
    assert scrape["static_configs"] == [{"targets": ["serving:8501"]}]
    assert "serving" in compose["services"]
    assert f'job="{scrape["job_name"]}"' in rules()[0]["expr"]
    base = yaml.safe_load((MONITORING / "compose.yaml").read_text("utf-8"))["services"]["prometheus"]
    mounted = base["volumes"] + compose["services"]["prometheus"]["volumes"]
    targets = {volume["target"] for volume in mounted if isinstance(volume, dict)}
    assert set(config["rule_files"]) | {"/etc/prometheus/prometheus.yml"} == targets
    tls = stack == "tfbigmodel"
    assert (scrape.get("scheme") == "https") is tls
    secrets = {f"/run/secrets/{name}" for name in compose["services"]["prometheus"].get("secrets", [])}
    assert secrets == ({scrape["tls_config"]["ca_file"], scrape["authorization"]["credentials_file"]} if tls else set())
