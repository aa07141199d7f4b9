"""The access log: its lines, its file through rotation and full disks, and what clients cannot do to it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import UsageError
from serving.operations import access_log
from serving.operations.access_log import AccessLog, NoAccessLog, entry_line, open_access_log, request_id

REPOSITORY = Path(__file__).resolve().parents[3]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def log(tmp_path):
    log = AccessLog(str(tmp_path / "access.log"))
    yield log
    log.close()


def test_the_exact_line_of_an_entry():
    line = entry_line(
        {
            "code": "OK", "latency_ms": 1.25, "model": "dense", "version": 3, "signature": "serving_default",
            "time": 1795335943.12, "request_id": "order-17", "entrypoint": "REST", "method": "POST",
            "path": "/v1/models/dense:predict", "http_status": 200, "queued_ms": 0.1, "batch_rows": 8,
            "request_bytes": 22, "response_bytes": 41, "peer": "127.0.0.1:55000", "caller": "shop",
        }
    )  # fmt: skip
    assert line == (
        '{"time": "2026-11-22T08:25:43.120Z", "request_id": "order-17", "entrypoint": "REST", "method": "POST", '
        '"path": "/v1/models/dense:predict", "model": "dense", "version": 3, "signature": "serving_default", '
        '"code": "OK", "http_status": 200, "latency_ms": 1.25, "queued_ms": 0.1, "batch_rows": 8, '
        '"request_bytes": 22, "response_bytes": 41, "peer": "127.0.0.1:55000", "caller": "shop"}\n'
    )


@given(st.text())
def test_no_text_of_a_client_makes_a_line_of_its_own(text):
    line = entry_line({"time": 0.0, "path": text})
    assert line.isascii()
    assert line.isprintable() or line[:-1].isprintable()
    assert line.count("\n") == 1
    assert json.loads(line) == {"time": "1970-01-01T00:00:00.000Z", "path": text}


def test_entries_are_written_in_order_and_all_of_them_by_close(tmp_path):
    path = tmp_path / "access.log"
    path.write_text('{"earlier": 1}\n')
    log = AccessLog(str(path))
    before = time.time()
    for number in range(1000):
        log.log({"request_id": str(number), "model": "dense"})
    log.close()
    assert lines(path)[0] == {"earlier": 1}
    entries = lines(path)[1:]
    assert [entry["request_id"] for entry in entries] == [str(number) for number in range(1000)]
    assert entries[0]["time"][:13] == time.strftime("%Y-%m-%dT%H", time.gmtime(before))
    assert log.dropped == 0


def test_an_entry_is_there_soon(log, tmp_path, eventually):
    log.log({"model": "dense"})
    assert eventually(lambda: lines(tmp_path / "access.log"), 2.0)[0]["model"] == "dense"
    assert (tmp_path / "access.log").stat().st_mode & 0o007 == 0, "not for everyone to read"


def test_what_is_no_field_stays_out_and_long_texts_are_cut(log, tmp_path):
    log.log({"authorization": "Bearer secret", "headers": {"authorization": "secret"}, "path": "/" * 5000, "peer": "p"})
    log.close()
    (entry,) = lines(tmp_path / "access.log")
    assert entry.pop("time")
    assert entry == {"path": "/" * 512 + "…", "peer": "p"}


def test_threads_lose_no_entry_and_mix_no_lines(log, tmp_path):
    def work(name):
        for number in range(500):
            log.log({"request_id": f"{name}-{number}", "path": "x" * 300})

    workers = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    log.close()
    found = [entry["request_id"] for entry in lines(tmp_path / "access.log")]
    assert sorted(found) == sorted(f"{name}-{number}" for name in "abcd" for number in range(500))
    for name in "abcd":
        own = [entry for entry in found if entry.startswith(name)]
        assert own == [f"{name}-{number}" for number in range(500)]


def test_a_file_that_was_moved_away_is_made_anew(log, tmp_path, eventually):
    path, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    log.log({"model": "first"})
    eventually(lambda: path.read_text())
    path.rename(moved)
    eventually(path.exists, 3.0)
    log.log({"model": "second"})
    log.close()
    assert [entry["model"] for entry in lines(moved)] == ["first"]
    assert [entry["model"] for entry in lines(path)] == ["second"]


def test_when_no_new_file_can_be_made_the_old_one_goes_on(log, tmp_path, caplog, eventually):
    path, moved = tmp_path / "access.log", tmp_path / "moved"
    path.rename(moved)
    path.mkdir()  # nothing can be opened for writing there, not even by root
    eventually(lambda: caplog.records, 3.0)
    log.log({"model": "dense"})
    log.close()
    assert [entry["model"] for entry in lines(moved)] == ["dense"]
    assert [record.message for record in caplog.records] == [
        f"access log: cannot open {path}: [Errno 21] Is a directory: '{path}'; until it works, entries may be lost"
    ]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_logged_once_and_counted(caplog, eventually):
    log = AccessLog("/dev/full")
    log.log({"model": "dense"})
    eventually(lambda: log.dropped == 1)
    log.log({"model": "dense"})
    log.close()
    assert log.dropped == 2
    assert [record.message for record in caplog.records] == [
        "access log: cannot write /dev/full: [Errno 28] No space left on device; until it works, entries may be lost"
    ]


@pytest.mark.parametrize("name", ["folder", "folder/none/access.log"])
def test_a_file_that_cannot_be_written_stops_the_start(name, tmp_path):
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    reason = "Is a directory" if name == "folder" else "No such file or directory"
    with pytest.raises(UsageError) as error:
        open_access_log(str(path))
    assert str(error.value) == (
        f"--access_log_file: cannot write {path}: {reason}; expected a file in a folder that exists and that this "
        "user may write to, or - for standard output"
    )


def test_a_full_queue_drops_and_counts(log, monkeypatch, tmp_path):
    monkeypatch.setattr(access_log, "_QUEUE_ENTRIES", 10)
    log._write_entries = lambda: time.sleep(0.01)  # a disk that does not answer
    for _ in range(25):
        log.log({"model": "dense"})
    assert log.dropped == 15


def test_without_a_path_there_is_no_log():
    log = open_access_log("")
    assert isinstance(log, NoAccessLog)
    assert not log.enabled
    log.log({"model": "dense"})
    log.reopen()
    log.close()
    assert log.dropped == 0


CHILD = """
import os, resource, signal, sys, time
from serving.operations.access_log import AccessLog
log = AccessLog(sys.argv[1])
signal.signal(signal.SIGHUP, lambda *_: log.reopen())
print("ready", flush=True)
for line in sys.stdin:
    word, _, argument = line.strip().partition(" ")
    if word == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(argument), resource.RLIM_INFINITY))
    else:
        for number in range(int(argument)):
            log.log({"request_id": f"{word}{number}"})
    while log._entries:
        time.sleep(0.02)
    time.sleep(0.4)  # taken from the queue is not yet written
    print("dropped", log.dropped, flush=True)
log.close()
"""


class Child:
    def __init__(self, path):
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path)],
            cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n"

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self):
        self.process.stdin.close()
        rest, errors = self.process.stdout.read(), self.process.stderr.read()
        assert self.process.wait(10) == 0
        self.process.stdout.close()
        self.process.stderr.close()
        return rest, errors


def test_sighup_opens_the_path_again(tmp_path):
    path, moved = tmp_path / "access.log", tmp_path / "moved"
    child = Child(path)
    child.say("a 2")
    path.rename(moved)
    child.process.send_signal(signal.SIGHUP)
    child.say("b 3")
    child.end()
    assert [entry["request_id"] for entry in lines(moved)][:2] == ["a0", "a1"]
    assert [entry["request_id"] for entry in lines(moved) + lines(path)] == ["a0", "a1", "b0", "b1", "b2"]
    assert path.exists()


def test_a_line_that_a_full_disk_cut_spoils_no_other(tmp_path):
    path = tmp_path / "access.log"
    child = Child(path)
    child.say("a 2")
    size = path.stat().st_size
    line = size // 2
    assert child.say(f"limit {size + line + 10}") == "dropped 0"
    assert child.say("b 3") == "dropped 2"  # the first was whole, the second was cut, the third had no room
    child.say("limit -1")
    assert child.say("c 2") == "dropped 2"
    _, errors = child.end()
    texts = path.read_text().splitlines()
    assert len(texts) == 6
    assert len(texts[3]) == 10, "the line that was cut"
    del texts[3]
    assert [json.loads(text)["request_id"] for text in texts] == ["a0", "a1", "b0", "c0", "c1"]
    assert errors.count("access log: cannot write") == 1


def test_a_dash_is_standard_output(tmp_path):
    child = Child("-")
    first = child.say("a 1")
    rest, _ = child.end()
    entries = [json.loads(text) for text in [first, *rest.splitlines()] if text.startswith("{")]
    assert [entry["request_id"] for entry in entries] == ["a0"]


@pytest.mark.parametrize("sent", ["order-17", "a", "A.b_c-9", "x" * 128])
def test_a_clients_request_id_is_kept(sent):
    assert request_id(sent) == sent


@pytest.mark.parametrize("sent", [None, "", "x" * 129, "a b", "a\n", "a\r\nX: 1", 'a"', "猫", "a/b", "\ud800"])
def test_any_other_request_id_is_replaced(sent):
    ids = [request_id(sent) for _ in range(100)]
    assert len(set(ids)) == 100
    for one in ids:
        assert re.fullmatch("[0-9a-f]{16}-[0-9a-f]+", one)
