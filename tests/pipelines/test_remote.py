"""Remote files and folders, on servers of both protocols."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from pipelines.command_line import make_parser, run_command
from pipelines.errors import MissingFileError, OutageError, UserError
from pipelines.object_store import check_url, filesystem, listing, read_bytes, send, write_bytes
from pipelines.remote import absolute, exists, is_remote, join, local, local_files, matching, upload, write_text_to

# What is allowed in names and means something to shells, URLs and glob patterns.
FILES = {"a.txt": b"one", "empty": b"", "sub/b [1] #?*.txt": b"two", "sub/deep/中文 é%20.bin": bytes(range(256))}


@pytest.fixture(params=["s3", "gs"])
def bucket(request, new_bucket):
    return new_bucket(request.param)


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    return tmp_path / "folder"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("base", "relative", "expected"),
    [
        ("s3://bucket/data", "a/*.csv", "s3://bucket/data/a/*.csv"),
        ("s3://bucket/data/", "./a/../b.csv", "s3://bucket/data/b.csv"),
        ("gs://bucket", ".", "gs://bucket"),
        ("gs://bucket/data", "../../other/x", "gs://bucket/other/x"),
        ("gs://bucket/data", "s3://other/x", "s3://other/x"),
        ("gs://bucket/data", "/mnt/x.csv", "/mnt/x.csv"),
        (Path("/data"), "a.csv", "/data/a.csv"),
        (Path("data"), Path("a.csv"), "data/a.csv"),
        (Path("data"), "gs://bucket/x", "gs://bucket/x"),
    ],
)
def test_paths_are_joined_wherever_they_are(base, relative, expected):
    assert join(base, relative) == expected


def test_local_paths_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("x")
    assert not is_remote("a.csv")
    assert not is_remote(Path("s3:/a"))
    assert is_remote("s3://a/b")
    assert local("a.csv") == Path("a.csv")
    assert local_files(["a.csv"]) == [Path("a.csv")]
    assert absolute("~/x") == Path.home() / "x"
    assert absolute("a") == tmp_path / "a"
    assert absolute("s3://b/c") == "s3://b/c"
    assert matching("*.csv") == ["a.csv"]
    assert exists("a.csv")
    assert not exists("b.csv")
    write_text_to("b.csv", "文")
    assert Path("b.csv").read_bytes() == "文".encode()


def test_a_folder_goes_there_and_comes_back(bucket, folder):
    upload(folder, f"{bucket}/data/x")
    copy = local(f"{bucket}/data/x/")
    assert copy.name == "x"
    assert contents(copy) == FILES == contents(folder)
    assert local(f"{bucket}/data/x/a.txt").read_bytes() == b"one"
    assert contents(local(f"{bucket}/data")) == {f"x/{name}": content for name, content in FILES.items()}
    assert exists(f"{bucket}/data")
    assert exists(f"{bucket}/data/x/empty")
    assert not exists(f"{bucket}/dat")
    write_text_to(f"{bucket}/note.txt", "文")
    assert read_bytes(f"{bucket}/note.txt") == "文".encode()


def test_only_what_has_changed_is_fetched_anew(bucket, folder):
    url = f"{bucket}/x"
    upload(folder, url)
    before = local(url)
    assert local(url) == before
    (folder / "a.txt").write_bytes(b"eno")  # of the same size
    (folder / "empty").unlink()
    upload(folder, url)
    after = local(url)
    assert after != before
    assert contents(after) == contents(folder)
    assert contents(before) == FILES, "who reads the old copy goes on reading it"
    same = "sub/deep/中文 é%20.bin"
    assert os.path.samefile(after / same, before / same)
    assert not os.path.samefile(after / "a.txt", before / "a.txt")


def test_what_somebody_has_tidied_up_in_the_cache_is_fetched_anew(bucket, folder):
    url = f"{bucket}/x"
    upload(folder, url)
    (local(url) / "empty").unlink()
    (folder / "a.txt").write_bytes(b"other")
    upload(folder, url)
    assert contents(local(url)) == contents(folder)


def test_patterns_match_files_in_order(bucket, folder):
    upload(folder, f"{bucket}/x")
    assert matching(f"{bucket}/x/*") == [f"{bucket}/x/a.txt", f"{bucket}/x/empty"]
    assert matching(f"{bucket}/x/**/*.txt") == [f"{bucket}/x/a.txt", f"{bucket}/x/sub/b [1] #?*.txt"]
    assert matching(f"{bucket}/x/a.txt") == [f"{bucket}/x/a.txt"]
    assert matching(f"{bucket}/x/none*") == []
    assert matching(f"{bucket}/x/sub") == [], "a folder is no file"


def test_many_that_want_the_same_get_the_same(bucket, folder):
    upload(folder, f"{bucket}/x")
    found = local_files([f"{bucket}/x"] * 8 + [f"{bucket}/x/a.txt"] * 8)
    assert len(set(found)) == 2
    assert contents(found[0]) == FILES


def test_a_manifest_is_sent_last_and_not_at_all_after_a_failure(bucket, folder):
    with pytest.raises(UserError):
        send(folder, [*FILES, "not there", "manifest.json"], f"{bucket}/half")
    assert "manifest.json" not in listing(f"{bucket}/half")
    (folder / "manifest.json").write_text("{}")
    upload(folder, f"{bucket}/x")
    times = {name: info["LastModified" if "s3" in bucket else "timeCreated"] for name, info in details(f"{bucket}/x")}
    assert times.pop("manifest.json") >= max(times.values())


def details(url: str) -> list:
    found = filesystem(url).find(url, detail=True)
    return [(name.rpartition("/")[2], info) for name, info in found.items()]


def test_what_changes_while_it_is_read_is_read_again(bucket, folder):
    url = f"{bucket}/x"
    upload(folder, url)
    changes = [b"uno", b"four"]  # as large as before, and larger

    def wanted(files):
        if changes:
            write_bytes(f"{url}/a.txt", changes.pop(0))
        return files

    assert (local(url, wanted) / "a.txt").read_bytes() == b"four"
    changes += [bytes([number]) for number in range(9)]
    write_bytes(f"{url}/a.txt", b"not in the cache")
    with pytest.raises(UserError, match=f"^{url} is changing while it is read; run again when it is complete$"):
        local(url, wanted)


def test_an_object_that_is_no_path_is_refused(new_bucket, tmp_path):
    bucket = new_bucket("s3")
    filesystem(bucket).pipe_file(f"{bucket}/x/../../escaped", b"")
    with pytest.raises(UserError, match=r"holds an object named '\.\./\.\./escaped', which is no path of a file"):
        local(f"{bucket}/x")
    filesystem(bucket).pipe_file(f"{bucket}/y/{tmp_path}/escaped", b"")
    with pytest.raises(UserError, match=f"holds an object named '{tmp_path}/escaped', which is no path of a file"):
        local(f"{bucket}/y")
    assert not (tmp_path / "escaped").exists()


def test_an_object_that_is_file_and_folder_is_refused(new_bucket):
    bucket = new_bucket("s3")
    write_bytes(f"{bucket}/x/a", b"")  # a mark, as some tools make it
    write_bytes(f"{bucket}/x/a/b/c", b"1")
    assert contents(local(f"{bucket}/x")) == {"a/b/c": b"1"}
    write_bytes(f"{bucket}/x/a", bytes(4096))  # as large as a folder is for most file systems
    with pytest.raises(UserError, match=f"^{bucket}/x holds objects named 'a' and below it, which cannot be a file"):
        local(f"{bucket}/x")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://", "s3:// has no bucket; expected s3://bucket/path"),
        ("ftp://host/x", "ftp://host/x: expected a local path, or gs:// or s3://; received ftp://"),
        ("s3:///x", "s3:///x has no bucket; expected s3://bucket/path"),
        ("https://h/x?signature=a", "https://h/x: expected a local path, or gs:// or s3://; received https://"),
        (
            "s3://key:secret@b/x",
            "s3://…@b: a URL cannot have credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        ),
    ],
)
def test_other_urls_are_refused(url, message):
    for read in (check_url, local, matching, exists):
        with pytest.raises(UserError) as caught:
            read(url)
        assert str(caught.value) == message


def test_what_is_missing_is_named(bucket):
    name = bucket.partition("://")[2]
    missing = f"{bucket}/no/such.csv is not there: no such file or folder in bucket {name}"
    for read in (local, read_bytes):
        with pytest.raises(MissingFileError, match=f"^{missing}$"):
            read(f"{bucket}/no/such.csv")
    nowhere = f"{bucket}x/data"
    for read in (local, listing, matching):
        with pytest.raises(MissingFileError, match=f"^{nowhere}: there is no bucket {name}x$"):
            read(nowhere)
    with pytest.raises(MissingFileError, match=f"{name}x"):
        write_bytes(nowhere, b"")


@pytest.mark.parametrize(("scheme", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs")])
def test_a_missing_package_is_named(monkeypatch, scheme, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as caught:
        local(f"{scheme}://b/x")
    assert str(caught.value) == f"{scheme}://b/x: {scheme}:// needs {package}: pip install 'tfbigmodel[{extra}]'"


def test_missing_credentials_and_permissions_are_told(new_bucket, monkeypatch, s3_endpoint):
    bucket = new_bucket("s3")
    urlopen(
        Request(f"{s3_endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
    )  # from now on the server looks who is asking
    try:
        with pytest.raises(UserError, match=r"no permission to list s3://.* \(.*\); set AWS_ACCESS_KEY_ID and "):
            local(f"{bucket}/x")
        with pytest.raises(UserError, match=r"no permission to write s3://.*/x"):
            write_bytes(f"{bucket}/x", b"")
    finally:
        urlopen(Request(f"{s3_endpoint}/moto-api/reset-auth", b"1000000000", {"Content-Type": "text/plain"}))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("HOME", "/nonexistent")
    type(filesystem(bucket)).clear_instance_cache()
    with pytest.raises(UserError, match=r"^no credentials to list s3://.*; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACC"):
        local(f"{bucket}/x")


def test_a_cache_that_cannot_be_made_is_told(new_bucket, monkeypatch, folder):
    bucket = new_bucket("s3")
    upload(folder, f"{bucket}/x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "a.txt"))
    with pytest.raises(UserError, match=r"cannot write .*a\.txt/tfbigmodel/remote/.*set XDG_CACHE_HOME"):
        local(f"{bucket}/x")


def test_a_cache_without_locks_is_told(new_bucket, monkeypatch, folder):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))  # as some network file systems do

    bucket = new_bucket("s3")
    upload(folder, f"{bucket}/x")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UserError, match=r"cannot write .*/remote/.*: No locks available; set XDG_CACHE_HOME"):
        local(f"{bucket}/x")


_MUCH = """
import resource, sys, tempfile
from pathlib import Path
from pipelines.object_store import fetch, filesystem, listing, send
with tempfile.TemporaryDirectory() as scratch:
    names = [f"{number}.bin" for number in range(12)]
    for name in names:
        with open(Path(scratch, name), "wb") as file:
            file.truncate(60 * 2**20)
    listing(sys.argv[1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    send(Path(scratch), names, sys.argv[1])
    sent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fetch(sys.argv[1], listing(sys.argv[1]), Path(scratch, "back"))
    print((sent - before) // 1024, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow  # 720 MB there and back
def test_large_files_are_not_all_in_memory_at_once(new_bucket):
    command = [sys.executable, "-c", _MUCH, f"{new_bucket('s3')}/x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert all(int(megabytes) < 400 for megabytes in done.stdout.split()), done.stdout


@pytest.mark.slow  # waits for libraries that try again
@pytest.mark.parametrize(
    ("scheme", "variable"), [("s3", "AWS_ENDPOINT_URL"), ("gs", "STORAGE_EMULATOR_HOST")]
)  # fmt: skip
def test_a_store_that_is_gone_is_tried_again_and_told_within_a_minute(
    new_bucket, monkeypatch, free_port, scheme, variable
):
    new_bucket(scheme)
    monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")
    started = time.monotonic()
    told = rf"^cannot reach {scheme}://b/x \(.*\); check the network and run again$"
    with pytest.raises(OutageError, match=told) as caught:
        local(f"{scheme}://b/x")
    assert time.monotonic() - started < 60

    def fail(_):
        raise caught.value

    assert run_command(make_parser("x", "y"), fail, []) == 138, "what clusters start again"


def test_a_store_that_comes_back_is_waited_for(new_bucket, monkeypatch, free_port):
    from moto.server import ThreadedMotoServer

    bucket, port = new_bucket("s3"), free_port()
    write_bytes(f"{bucket}/x", b"here")
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)  # the same buckets behind another port
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    timer = threading.Timer(0.3, server.start)
    timer.start()
    try:
        assert local(f"{bucket}/x").read_bytes() == b"here"
    finally:
        timer.join()
        server.stop()
