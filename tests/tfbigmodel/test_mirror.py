"""Workdirs in an object store."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from pipelines.errors import MissingFileError, OutageError, UserError
from pipelines.files import atomic_folder, write_json, write_manifest, write_text
from pipelines.object_store import filesystem, listing, read_bytes, remove, write_bytes
from tfbigmodel.mirror import borrowed, mirrored, readable
from tfbigmodel.remote_writer import WRITER, only_writer
from tfbigmodel.training.checkpoints import latest_checkpoint

QUICK = {"beat_seconds": 0.1, "stale_seconds": 1.0}


@pytest.fixture
def url(new_bucket):
    return f"{new_bucket('s3')}/runs/dense"


def checkpoint(path, step, monitor=None):
    with atomic_folder(path / "checkpoints" / f"step-{step:010d}") as folder:
        write_text(folder / "model.safetensors", f"weights {step}")
        write_json(folder / "state.json", {"updates": step, "monitor": monitor})
        write_manifest(folder, "manifest.json")


def steps(url):
    return sorted({name.split("/")[1] for name in listing(url) if name.startswith("checkpoints/")})


def ended(kind, message, workdir, act=lambda path, publish: None, **times):
    """What a run in a mirror that ends with such an error leaves behind: its local copy's path, None without one."""
    paths = []

    def run():
        with mirrored(workdir, **(QUICK | times)) as (path, publish):
            paths.append(path)
            act(path, publish)

    with pytest.raises(kind, match=message):
        run()
    return paths[0] if paths else None


def foreign(monkeypatch, tmp_path):
    """Another machine: another cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other machine"))


def test_a_local_workdir_is_itself(tmp_path):
    with mirrored(tmp_path) as (path, publish), borrowed(path) as same:
        publish()
    assert path == same == readable(tmp_path) == tmp_path
    assert not list(tmp_path.iterdir())


def test_what_changes_is_sent_and_comes_back_elsewhere(url, tmp_path, monkeypatch):
    with mirrored(url) as (path, publish):
        assert path.name == "dense"
        write_text(path / "config.yaml", "first")
        (path / ".lock").touch()
        (path / ".half.json.tmp-0123abcd").touch()
        checkpoint(path, 10)
        publish()
        assert steps(url) == ["step-0000000010"]
        assert read_bytes(f"{url}/config.yaml") == b"first"
        checkpoint(path, 20)
        with open(path / "events", "w") as events:
            events.write("begun")
            events.flush()
            publish()
            assert read_bytes(f"{url}/events") == b"begun"
            events.write(", and gone on")
    assert read_bytes(f"{url}/events") == b"begun, and gone on", "the end of the block sends what is left"
    assert not path.exists(), "all of it is in the store"
    expected = listing(url)
    assert {name for name in expected if not name.startswith("checkpoints/")} == {"config.yaml", "events", WRITER}
    foreign(monkeypatch, tmp_path)
    with mirrored(url, **QUICK) as (path, publish):
        assert latest_checkpoint(path / "checkpoints")[0].state["updates"] == 20
        for file in (path / "checkpoints" / "step-0000000010").iterdir():
            file.unlink()
        publish()
        assert steps(url) == ["step-0000000020"]
        kept = {name: version for name, version in expected.items() if "step-0000000010" not in name}
        assert {**listing(url), WRITER: ""} == {**kept, WRITER: ""}, "what did not change was not touched"


_KILLED = """
import sys, time
from pathlib import Path
from pipelines.files import write_text
from tfbigmodel.mirror import mirrored
with mirrored(sys.argv[1], beat_seconds=0.1) as (path, publish):
    write_text(path / "config.yaml", "a run")
    publish()
    write_text(path / "late.txt", "not sent")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def killed(url):
    """A process that was killed after it had published, and had written more."""
    with subprocess.Popen([sys.executable, "-c", _KILLED, url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)


def test_a_killed_process_goes_on_at_once_on_its_machine(url, killed, capsys):
    assert "late.txt" not in listing(url)
    with mirrored(url, beat_seconds=0.1, stale_seconds=60) as (path, publish):
        assert (path / "late.txt").read_text() == "not sent"
        publish()
        assert read_bytes(f"{url}/late.txt") == b"not sent"
    assert "looking whether" not in capsys.readouterr().err


def test_what_was_added_elsewhere_while_it_was_dead_stays(url, killed):
    with borrowed(url) as folder:
        write_text(folder / "evaluation" / "test.json", "[]")
    with mirrored(url, beat_seconds=0.1, stale_seconds=60) as (path, _):
        (path / "late.txt").unlink()
    assert read_bytes(f"{url}/evaluation/test.json") == b"[]"


def test_elsewhere_a_killed_process_is_waited_for_until_it_is_stale(url, killed, tmp_path, monkeypatch, capsys):
    here = tmp_path / "cache"
    foreign(monkeypatch, tmp_path)
    with mirrored(url, **QUICK) as (path, _):
        assert [file.name for file in path.iterdir()] == ["config.yaml"]
        write_text(path / "config.yaml", "gone on")
    assert "is marked as written by process" in capsys.readouterr().err
    monkeypatch.setenv("XDG_CACHE_HOME", str(here))
    with mirrored(url, **QUICK) as (path, _):
        assert (path / "config.yaml").read_text() == "gone on"
        assert not (path / "late.txt").exists()
    said = capsys.readouterr().err
    assert f"warning: {url} was written by another process since; what was not sent is in {path}-unsent-" in said
    assert next(path.parent.glob("dense-unsent-*/late.txt")).read_text() == "not sent"


def test_a_copy_that_could_not_be_fetched_is_fetched_anew(url, killed, tmp_path, monkeypatch):
    """This machine wrote before, so that it has marks of its own; nothing that it lacks is removed from the store."""
    here = tmp_path / "cache"
    foreign(monkeypatch, tmp_path)
    with mirrored(url, **QUICK) as (path, _):
        checkpoint(path, 10)
    expected = listing(url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(here))
    unfit = "n" * 300  # no file system takes it
    write_bytes(f"{url}/{unfit}/b", b"1")
    ended(UserError, "^cannot write .*/dense: File name too long$", url)
    assert not list((here / "tfbigmodel" / "runs").glob("*/.dense.tmp-*"))
    remove(url, [f"{unfit}/b"])
    with mirrored(url, **QUICK) as (path, _):
        assert latest_checkpoint(path / "checkpoints")[0].state["updates"] == 10
    assert {**listing(url), WRITER: ""} == {**expected, WRITER: ""}
    assert not list(path.parent.glob(".dense.tmp-*"))


def test_one_process_writes_at_a_time(url, tmp_path, monkeypatch):
    with mirrored(url, **QUICK) as (path, _):
        write_text(path / "config.yaml", "a run")
        ended(UserError, f"^{url} is in use by process [0-9]+; wait for it or use another", url)
        foreign(monkeypatch, tmp_path)
        ended(UserError, f"^{url} is written by process [0-9]+ on .+; wait for it or use another --workdir$", url)
        with pytest.raises(UserError, match=f"^{url} is written by process"), only_writer(url):
            pass
    with mirrored(url, **QUICK) as (path, _):
        assert (path / "config.yaml").read_text() == "a run"


def test_who_was_taken_over_ends_and_keeps_what_it_has(url, capsys):
    def go_on(path, publish):
        write_text(path / "config.yaml", "a run")
        publish()
        write_text(path / "late.txt", "x")
        for _ in range(100):  # it beats, too; once could fall between this one's reading and writing
            write_bytes(f"{url}/{WRITER}", json.dumps({"owner": "other", "host": "elsewhere", "pid": 7}).encode())
            time.sleep(0.05)
            publish()

    message = f"^{url} was taken over by process 7 on elsewhere, since this process did not answer in time$"
    path = ended(UserError, message, url, go_on)
    assert json.loads(read_bytes(f"{url}/{WRITER}"))["owner"] == "other"
    assert (path / "late.txt").exists()
    assert capsys.readouterr().err.endswith(f"; the run is kept in {path}\n")


def test_who_stood_still_for_long_writes_nothing_more(url):
    def go_on(path, publish):
        write_text(path / "config.yaml", "a run")
        publish()
        write_bytes(f"{url}/{WRITER}", other)
        write_text(path / "late.txt", "x")
        publish()  # before the thread has looked

    other = json.dumps({"owner": "other", "host": "elsewhere", "pid": 7}).encode()
    with pytest.raises(UserError, match=f"^{url} was taken over by process 7"), mirrored(url) as (path, publish):
        go_on(path, publish)
    assert listing(url).keys() == {"config.yaml", WRITER}
    assert read_bytes(f"{url}/{WRITER}") == other
    with pytest.raises(UserError, match="was taken over by process 7"), only_writer(f"{url}/models"):
        write_bytes(f"{url}/models/{WRITER}", other)
    assert read_bytes(f"{url}/models/{WRITER}") == other


def test_what_somebody_removes_from_the_store_is_sent_again(url):
    with mirrored(url) as (path, publish):
        write_text(path / "config.yaml", "a run")
        checkpoint(path, 10)
        publish()
        before = listing(url).keys()
        remove(url, before - {WRITER})
    assert listing(url).keys() == before


def test_what_was_removed_from_the_store_while_it_was_dead_is_sent_again(url, killed):
    remove(url, ["config.yaml"])
    with mirrored(url, beat_seconds=0.1, stale_seconds=60):
        pass
    assert listing(url).keys() == {"config.yaml", "late.txt", WRITER}


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_file_that_grows_on_its_way_is_sent(new_bucket, scheme, capsys):
    url = f"{new_bucket(scheme)}/runs/dense"
    full = threading.Event()

    def grow(path):
        with open(path, "ab", buffering=0) as file:
            while not full.wait(0.001):
                file.write(bytes(1000))

    with mirrored(url) as (path, publish):
        write_text(path / "config.yaml", "a run")
        write_bytes_to(path / "tensorboard" / "events", bytes(6 * 2**20))  # sent in parts from 5 MiB on
        checkpoint(path, 10)
        thread = threading.Thread(target=grow, args=(path / "tensorboard" / "events",))
        thread.start()
        try:
            publish()
        finally:
            full.set()
            thread.join()
        assert not capsys.readouterr().err
        assert "checkpoints/step-0000000010/manifest.json" in listing(url)
        assert not list(path.parent.glob(".*tmp*"))
        last = (path / "tensorboard" / "events").stat().st_size
    assert listing(url)["tensorboard/events"].startswith(f"{last} ")


def write_bytes_to(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_a_checkpoint_that_is_written_anew_is_none_until_all_of_it_is_there(url, capsys):
    with mirrored(url) as (path, publish):
        write_text(path / "config.yaml", "a run")
        checkpoint(path, 10)
        publish()
        folder = path / "checkpoints" / "step-0000000010"
        shutil.rmtree(folder)
        checkpoint(path, 10, monitor=0.5)
        unfit = folder / "socket"  # it cannot be read, so that the sending fails
        os.mknod(unfit, stat.S_IFSOCK | 0o600)
        publish()
        assert "it is tried again with the next checkpoint" in capsys.readouterr().err
        assert "checkpoints/step-0000000010/manifest.json" not in listing(url)
        unfit.unlink()
        publish()
        assert "checkpoints/step-0000000010/manifest.json" in listing(url)


_KILLED_WHILE_REMOVING = """
import os, signal, sys
from pathlib import Path
import tfbigmodel.mirror
from pipelines.files import write_text
def remove(url, names):
    if names:
        os.kill(os.getpid(), signal.SIGKILL)
tfbigmodel.mirror.remove = remove
with tfbigmodel.mirror.mirrored(sys.argv[1]) as (path, publish):
    write_text(path / "config.yaml", "a run")
    write_text(path / "old.txt", "old")
    publish()
    (path / "old.txt").unlink()
    publish()
"""


def test_what_a_killed_process_did_not_come_to_remove_is_removed(url):
    done = subprocess.run([sys.executable, "-c", _KILLED_WHILE_REMOVING, url], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert "old.txt" in listing(url)
    with mirrored(url):
        pass
    assert listing(url).keys() == {"config.yaml", WRITER}


_FULL_DISK = """
import os, sys
from pipelines.errors import UserError
from tfbigmodel.mirror import mirrored
try:
    with mirrored(sys.argv[1]):
        print("begun")
except UserError as error:
    print(error)
print([name for _, _, names in os.walk(os.environ["XDG_CACHE_HOME"]) for name in names])
"""


def test_a_disk_that_a_run_does_not_fit_on_is_told(url, small_disk, tmp_path):
    write_bytes(f"{url}/config.yaml", b"a run")
    write_bytes(f"{url}/checkpoints/step-0000000010/model.safetensors", bytes(2 * 2**20))
    told, left = small_disk(1, _FULL_DISK, url)
    assert told.startswith(f"cannot write {tmp_path}/small/tfbigmodel/runs/")
    assert told.endswith("/dense: No space left on device; make room and start again")
    assert left in ("['.lock', 'sent.json']", "['sent.json', '.lock']")


def test_a_failure_in_between_is_made_good_by_the_next_publishing(url, capsys):
    store, bucket = filesystem(url), url.split("/")[2]
    with mirrored(url) as (path, publish):
        write_text(path / "config.yaml", "a run")
        store.rm(bucket, recursive=True)
        publish()
        said = f"warning: {url}: there is no bucket {bucket}; it is tried again with the next checkpoint\n"
        assert capsys.readouterr().err == said
        store.mkdir(bucket)
        publish()
        assert read_bytes(f"{url}/config.yaml") == b"a run"
        assert not capsys.readouterr().err


def test_a_failure_at_the_end_keeps_the_run(url):
    def lose(path, publish):
        write_text(path / "config.yaml", "a run")
        filesystem(url).rm(bucket, recursive=True)

    bucket = url.split("/")[2]
    told = f"there is no bucket {bucket}; the run is kept in .*/dense, and the same command sends it"
    path = ended(UserError, told, url, lose, beat_seconds=10)  # a sign of life would come into the emptied bucket
    assert (path / "config.yaml").read_text() == "a run"


@pytest.mark.slow  # waits for a library that tries again
def test_a_store_that_is_gone_at_the_end_gets_the_run_when_it_is_back(url, monkeypatch, free_port):
    from moto.server import ThreadedMotoServer

    port = free_port()
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)  # the same buckets behind another port
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")

    def lose(path, publish):
        write_text(path / "config.yaml", "a run")
        server.stop()

    message = (
        rf"^cannot reach {url}/\.writer\.json \(.*the run is kept in .*/dense, and the same command sends it again$"
    )
    ended(OutageError, message, url, lose)
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    try:
        with mirrored(url):
            pass
        assert read_bytes(f"{url}/config.yaml") == b"a run"
    finally:
        server.stop()


@pytest.fixture
def slow_network(s3_endpoint):
    """The S3 server behind a network of 10 MB/s."""
    turn, stop = threading.Lock(), threading.Event()

    def pump(source, target, rate):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                with turn if rate else contextlib.nullcontext():
                    time.sleep(len(data) / rate if rate else 0)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve():
        with contextlib.suppress(OSError), contextlib.ExitStack() as open_ones:
            while not stop.is_set():
                client = open_ones.enter_context(listener.accept()[0])
                server = open_ones.enter_context(socket.create_connection((host, int(port))))
                for arguments in ((client, server, 10e6), (server, client, 0)):
                    threading.Thread(target=pump, args=arguments, daemon=True).start()

    host, port = s3_endpoint.removeprefix("http://").split(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        stop.set()
        socket.create_connection(listener.getsockname()).close()
        thread.join()


@pytest.mark.slow  # 80 MB
def test_signs_of_life_do_not_wait_for_a_long_upload(url, slow_network, monkeypatch):
    def look():
        while not done.wait(0.2):
            marks.append((time.monotonic(), direct.cat_file(f"{url}/{WRITER}")))

    direct, marks, done = filesystem(url), [], threading.Event()
    monkeypatch.setenv("AWS_ENDPOINT_URL", slow_network)
    with mirrored(url, beat_seconds=0.2) as (path, publish):
        write_text(path / "config.yaml", "a run")
        for number in range(20):
            write_bytes_to(path / "checkpoints" / "step-0000000010" / str(number), bytes(4 * 10**6))
        thread = threading.Thread(target=look)
        thread.start()
        started = time.monotonic()
        publish()
        seconds = time.monotonic() - started
        done.set()
        thread.join()
    changes = [when for (when, mark), (_, before) in zip(marks[1:], marks, strict=False) if mark != before]
    longest = max(after - before for before, after in itertools.pairwise([started, *changes, started + seconds]))
    assert longest < seconds / 2, f"{longest:.1f} of {seconds:.1f} seconds without a sign of life"


def test_a_run_that_ends_with_an_error_is_sent(url):
    def fail(path, publish):
        write_text(path / "config.yaml", "a run")
        raise KeyError("what ended the run")

    path = ended(KeyError, "what ended the run", url, fail)
    assert read_bytes(f"{url}/config.yaml") == b"a run"
    assert not path.exists()


def test_a_folder_of_other_files_is_not_touched(url):
    write_bytes(f"{url}/data.csv", b"1")
    for use in (lambda: mirrored(url).__enter__(), lambda: readable(url)):
        with pytest.raises(UserError, match=f"^{url} holds other files and is no workdir; choose an empty or a new"):
            use()
    assert list(listing(url)) == ["data.csv"]
    with pytest.raises(MissingFileError, match="not there"):
        readable(f"{url}x")


def test_a_run_that_did_not_begin_leaves_nothing(url):
    with pytest.raises(KeyError), mirrored(url):
        raise KeyError
    assert not listing(url)


@pytest.fixture
def finished(url):
    with mirrored(url) as (path, _):
        write_text(path / "config.yaml", "a run")
        write_text(path / "tensorboard" / "events", "curves")
        write_text(path / "metrics.json", "{}")
        for step, monitor in ((10, 0.5), (20, 0.25), (30, 0.75), (40, None), (50, 0.125)):
            checkpoint(path, step, monitor)
    remove(url, ["checkpoints/step-0000000050/manifest.json"])  # as if its sending had been cut short
    return url


def test_readers_get_the_newest_and_the_best_whole_checkpoint(finished):
    folder = readable(finished)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-0000000020", "step-0000000040"]
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "config.yaml", "metrics.json"]
    assert readable(finished) == folder


def test_a_best_checkpoint_that_cannot_be_looked_at_is_told(finished):
    state = f"{finished}/checkpoints/step-0000000020/state.json"
    filesystem(finished).pipe_file(state, read_bytes(state), StorageClass="GLACIER")  # which nobody can read
    with pytest.raises(UserError, match=f"^no permission to read {state}"):
        readable(finished)


def test_half_a_checkpoint_is_passed_over_as_a_damaged_one(finished):
    with mirrored(finished) as (path, _):
        newest, problems = latest_checkpoint(path / "checkpoints")
        assert newest.state["updates"] == 40
        assert [problem.split("/")[-1] for problem in problems.values()] == [
            "manifest.json is missing: the folder is not complete"
        ]


def test_what_a_reader_adds_is_sent_and_its_source_stays(finished):
    cached = readable(finished)
    with borrowed(finished) as folder:
        write_text(folder / "metrics.json", '{"test": 1}')
        write_text(folder / "evaluation" / "test.json", "[]")
        before = listing(finished)
    after = listing(finished)
    assert read_bytes(f"{finished}/metrics.json") == b'{"test": 1}'
    assert {name for name in after if after[name] != before.get(name)} == {"metrics.json", "evaluation/test.json"}
    assert (cached / "metrics.json").read_text() == "{}"
    assert not folder.exists()


def test_what_a_reader_adds_and_cannot_send_is_kept(finished):
    def add():
        with borrowed(finished) as folder:
            write_text(folder / "evaluation" / "test.json", "[]")
            filesystem(finished).rm(finished.split("/")[2], recursive=True)

    with pytest.raises(UserError, match=r"there is no bucket .*; what was to be sent is in .*/dense$") as caught:
        add()
    kept = Path(str(caught.value).rpartition(" is in ")[2])
    try:
        assert [path.name for path in kept.rglob("*")] == ["evaluation", "test.json"]
    finally:
        shutil.rmtree(kept.parent)


def test_a_reader_copies_no_weights_to_another_disk(finished, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if os.stat(other).st_dev == os.stat(tempfile.gettempdir()).st_dev:
            pytest.skip("there is no second disk here")
        monkeypatch.setenv("XDG_CACHE_HOME", other)
        cached = readable(finished)
        with borrowed(finished) as folder:
            assert latest_checkpoint(folder / "checkpoints")[0].state["updates"] == 40
            assert all(path.is_symlink() for path in folder.rglob("*.safetensors"))
            write_text(folder / "metrics.json", '{"test": 1}')
        assert read_bytes(f"{finished}/metrics.json") == b'{"test": 1}'
        assert (cached / "metrics.json").read_text() == "{}"


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 100_000])
def test_a_damaged_mark_is_told(url, content):
    write_bytes(f"{url}/{WRITER}", content)
    ended(UserError, rf"^{url}/\.writer\.json is damaged: .*; remove it if no process writes there", url)


def test_a_mark_that_was_damaged_for_a_while_is_written_again(url):
    with mirrored(url, **QUICK) as (path, _):
        write_text(path / "config.yaml", "a run")
        write_bytes(f"{url}/{WRITER}", b"[" * 100_000)
        time.sleep(0.5)
        remove(url, [WRITER])
        end = time.monotonic() + 10
        with contextlib.suppress(MissingFileError):
            while WRITER not in listing(url):
                assert time.monotonic() < end, "nobody would know that it is written"
                time.sleep(0.05)
