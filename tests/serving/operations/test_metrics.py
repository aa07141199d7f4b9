"""The page of metrics: TensorFlow Serving's names and text, and its numbers as prometheus_client reads them."""

import itertools
import math
import threading
import time

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from serving.errors import UsageError
from serving.flags import ServerOptions
from serving.operations.metrics import (
    DEFAULT_PATH,
    LATENCY_BOUNDS,
    MAX_LABEL_SETS,
    ROWS_BOUNDS,
    Metrics,
    label_text,
    monitoring_path,
    number_text,
)

COUNT = ":tensorflow:serving:request_count_total"
RAM = "tfbigmodel_serving_resident_memory_bytes"


def samples(metrics):
    """`{(name, labels): value}` of the page, read by prometheus_client, which puts `_total` behind a counter's name."""
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def value(metrics, name, **labels):
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def test_an_empty_page_has_every_family_of_tensorflow_serving():
    lines = Metrics().render().decode().splitlines()
    assert lines[:5] == [
        "# TYPE :tensorflow:serving:batching_session:queuing_latency histogram",
        "# TYPE :tensorflow:serving:model_warmup_latency histogram",
        "# TYPE :tensorflow:serving:request_count counter",
        "# TYPE :tensorflow:serving:request_latency histogram",
        "# TYPE :tensorflow:serving:runtime_latency histogram",
    ]
    assert "# TYPE tfbigmodel_serving_batch_size histogram" in lines


def test_the_exact_lines_of_a_counter_and_a_histogram():
    metrics = Metrics()
    metrics.request("dense", "Predict", "GRPC", "OK", 20)
    metrics.request("dense", "Predict", "GRPC", "OK", 731.5)
    metrics.request("dense", "Predict", "REST", "INVALID_ARGUMENT", 40)
    lines = metrics.render().decode().splitlines()
    start = lines.index("# TYPE :tensorflow:serving:request_count counter")
    assert lines[start + 1 : start + 9] == [
        ':tensorflow:serving:request_count{model_name="dense",status="INVALID_ARGUMENT"} 1',
        ':tensorflow:serving:request_count{model_name="dense",status="OK"} 2',
        "# TYPE :tensorflow:serving:request_latency histogram",
        ':tensorflow:serving:request_latency_bucket{model_name="dense",API="Predict",entrypoint="GRPC",le="10"} 0',
        ':tensorflow:serving:request_latency_bucket{model_name="dense",API="Predict",entrypoint="GRPC",le="18"} 0',
        ':tensorflow:serving:request_latency_bucket{model_name="dense",API="Predict",entrypoint="GRPC",le="32.4"} 1',
        ':tensorflow:serving:request_latency_bucket{model_name="dense",API="Predict",entrypoint="GRPC",le="58.32"} 1',
        ':tensorflow:serving:request_latency_bucket{model_name="dense",API="Predict",entrypoint="GRPC",le="104.976"} 1',
    ]
    assert lines[start + 36 : start + 40] == [
        ':tensorflow:serving:request_latency_bucket{model_name="dense",API="Predict",entrypoint="GRPC",le="1.47476e+09"} 2',  # noqa: E501
        ':tensorflow:serving:request_latency_bucket{model_name="dense",API="Predict",entrypoint="GRPC",le="+Inf"} 2',
        ':tensorflow:serving:request_latency_sum{model_name="dense",API="Predict",entrypoint="GRPC"} 751.5',
        ':tensorflow:serving:request_latency_count{model_name="dense",API="Predict",entrypoint="GRPC"} 2',
    ]
    assert not any('entrypoint="REST"' in line for line in lines), "a failed request has no latency"


def test_the_bounds_are_ten_times_powers_of_1_8():
    assert len(LATENCY_BOUNDS) == 33
    for power, bound in enumerate(LATENCY_BOUNDS):
        assert math.isclose(bound, 10 * 1.8**power)
    assert ROWS_BOUNDS[0] == 1
    assert ROWS_BOUNDS[-1] == 4096


def test_every_recorded_metric_with_its_labels():
    metrics = Metrics()
    metrics.runtime("dense", "Predict", 100)
    metrics.warm_up("/models/dense/1", "OK", 5000)
    metrics.batch("dense", 3, [10, 200])
    metrics.batch("dense", 1, 7.5)
    serving = ":tensorflow:serving:"
    assert value(metrics, f"{serving}runtime_latency_sum", model_name="dense", API="Predict", runtime="TF1") == 100
    assert value(metrics, f"{serving}model_warmup_latency_count", model_path="/models/dense/1", status="OK") == 1
    queue = {"model_name": "dense", "thread_pool_name": "dense"}
    assert value(metrics, f"{serving}batching_session:queuing_latency_sum", **queue) == 217.5
    assert value(metrics, f"{serving}batching_session:queuing_latency_count", **queue) == 3
    for bound, count in [("1", 1), ("2", 1), ("4", 2), ("+Inf", 2)]:
        assert value(metrics, "tfbigmodel_serving_batch_size_bucket", model_name="dense", le=bound) == count


@given(st.lists(st.floats(0, 1e10) | st.sampled_from(LATENCY_BOUNDS), max_size=50))
def test_a_histogram_counts_as_prometheus_client_does(values):
    registry = prometheus_client.CollectorRegistry()
    theirs = prometheus_client.Histogram("latency", "…", buckets=LATENCY_BOUNDS, registry=registry)
    metrics = Metrics()
    metrics.runtime("dense", "Predict", 0)
    theirs.observe(0)
    for number in values:
        metrics.runtime("dense", "Predict", number)
        theirs.observe(number)
    expected = [sample for family in registry.collect() for sample in family.samples]
    ours = [(key, number) for key, number in samples(metrics).items() if "runtime_latency" in key[0]]
    buckets = [number for (name, _), number in ours if name.endswith("_bucket")]
    assert buckets == [sample.value for sample in expected if sample.name.endswith("_bucket")]
    for suffix in ("_count", "_sum"):
        (number,) = (number for (name, _), number in ours if name.endswith(suffix))
        assert number == next(sample.value for sample in expected if sample.name.endswith(suffix))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_label_value_survives(text):
    metrics = Metrics()
    metrics.request(text, "Predict", "GRPC", "OK", 1)
    name = ":tensorflow:serving:request_count"
    lines = [line for line in metrics.render().decode().split("\n") if line.startswith(name)]
    assert lines == [f'{name}{{model_name="{escaped(text)}",status="OK"}} 1']


def escaped(text):
    return "".join({"\\": "\\\\", '"': '\\"', "\n": "\\n"}.get(character, character) for character in text)


def test_label_values_are_escaped_so_that_the_parser_finds_them_again():
    metrics = Metrics()
    for name in ('a"b', "a\\", "a\nb", "猫", "} 5"):
        metrics.request(name, "Predict", "GRPC", "OK", 1)
        assert value(metrics, COUNT, model_name=name, status="OK") == 1
    assert label_text({"model_name": 'a"b\\c\n'}) == 'model_name="a\\"b\\\\c\\n"'
    metrics.request("half \ud800", "Predict", "GRPC", "OK", 1)
    assert value(metrics, COUNT, model_name="half ?", status="OK") == 1


def test_numbers_are_written_in_full():
    for number, text in [
        (3, "3"), (3.0, "3"), (0.5, "0.5"), (123456789, "123456789"), (1e300, "1e+300"), (-2, "-2"), (0.1, "0.1"),
        (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"),
    ]:  # fmt: skip
        assert number_text(number) == text


def test_invented_names_do_not_make_the_page_longer():
    metrics = Metrics()
    for number in range(MAX_LABEL_SETS + 500):
        metrics.request(f"model{number}", "Predict", "GRPC", "OK", 1)
    metrics.request("model0", "Predict", "GRPC", "OK", 1)
    found = samples(metrics)
    counts = [key for key in found if key[0] == COUNT]
    assert len(counts) == MAX_LABEL_SETS + 1
    assert value(metrics, COUNT, model_name="other", status="other") == 500
    assert value(metrics, COUNT, model_name="model0", status="OK") == 2
    others = dict.fromkeys(("model_name", "API", "entrypoint"), "other")
    assert value(metrics, ":tensorflow:serving:request_latency_count", **others) == 500


def test_gauges_and_counters_are_read_when_the_page_is_written():
    metrics = Metrics()
    depth = {"dense": 3, "bert": 0}
    metrics.gauge("queue_depth", "Requests\nthat wait.", lambda: [({"model_name": k}, v) for k, v in depth.items()])
    metrics.counter("access_log_dropped_total", "Entries dropped.", lambda: [({}, 7)])
    assert value(metrics, "tfbigmodel_serving_queue_depth", model_name="dense") == 3
    depth["dense"] = 4
    assert value(metrics, "tfbigmodel_serving_queue_depth", model_name="dense") == 4
    page = metrics.render().decode()
    assert (
        "# HELP tfbigmodel_serving_access_log_dropped_total Entries dropped.\n"
        "# TYPE tfbigmodel_serving_access_log_dropped_total counter\n"
        "tfbigmodel_serving_access_log_dropped_total 7\n"
    ) in page
    assert "# HELP tfbigmodel_serving_queue_depth Requests that wait.\n" in page


def test_a_gauge_that_cannot_be_read_leaves_the_others_on_the_page(caplog):
    metrics = Metrics()
    metrics.gauge("broken", "Divides by zero.", lambda: [({}, 1 / 0)])
    for _ in range(3):
        assert value(metrics, RAM) > 0
    assert [record.message for record in caplog.records] == [
        "metric tfbigmodel_serving_broken cannot be read; it is left out"
    ]


def test_gauges_need_a_name_of_their_own():
    metrics = Metrics()
    with pytest.raises(ValueError, match="a metric's name must be made of a-z, 0-9 and _, but 'queue depth' was given"):
        metrics.gauge("queue depth", "…", list)
    for name in ("resident_memory_bytes", "batch_size"):
        with pytest.raises(ValueError, match=f"there is a metric tfbigmodel_serving_{name} already"):
            metrics.gauge(name, "…", list)


def test_the_process_is_on_the_page():
    before = time.time()
    metrics = Metrics()
    assert before <= value(metrics, "tfbigmodel_serving_start_time_seconds") <= time.time()
    assert 10e6 < value(metrics, RAM) < 100e9


def test_threads_lose_no_count():
    metrics, calls, threads = Metrics(), 5000, 4
    pages = []

    def work():
        for _ in range(calls):
            metrics.request("dense", "Predict", "GRPC", "OK", 100)
            metrics.batch("dense", 2, 5)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        pages.append(samples(metrics))
    for worker in workers:
        worker.join()
    assert value(metrics, COUNT, model_name="dense", status="OK") == calls * threads
    labels = {"model_name": "dense", "API": "Predict", "entrypoint": "GRPC"}
    assert value(metrics, ":tensorflow:serving:request_latency_sum", **labels) == calls * threads * 100
    assert value(metrics, "tfbigmodel_serving_batch_size_sum", model_name="dense") == calls * threads * 2
    key = (":tensorflow:serving:request_latency_count", tuple(sorted(labels.items())))
    counts = [page.get(key, 0) for page in pages]
    assert all(earlier <= later for earlier, later in itertools.pairwise(counts))


def test_without_a_file_metrics_are_on():
    assert monitoring_path(ServerOptions()) == DEFAULT_PATH == "/monitoring/prometheus/metrics"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", DEFAULT_PATH),
        ("prometheus_config { enable: true }", DEFAULT_PATH),
        ('prometheus_config { enable: true path: "/metrics" }', "/metrics"),
        ("prometheus_config { enable: false }", None),
        ('prometheus_config { path: "/metrics" }', None),  # as TensorFlow Serving reads it
    ],
)
def test_the_file_sets_the_path_or_switches_them_off(text, path, tmp_path):
    file = tmp_path / "monitoring.config"
    file.write_text(text)
    assert monitoring_path(ServerOptions(monitoring_config_file=str(file))) == path


def test_a_path_without_a_slash_is_refused(tmp_path):
    file = tmp_path / "monitoring.config"
    file.write_text('prometheus_config { enable: true path: "metrics" }')
    with pytest.raises(UsageError) as error:
        monitoring_path(ServerOptions(monitoring_config_file=str(file)))
    assert str(error.value) == (
        f"--monitoring_config_file: {file}: prometheus_config has path 'metrics'; expected one that begins with a "
        'slash, e.g. path: "/monitoring/prometheus/metrics"'
    )


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"--monitoring_config_file: cannot read .*none.config: "):
        monitoring_path(ServerOptions(monitoring_config_file=str(tmp_path / "none.config")))
