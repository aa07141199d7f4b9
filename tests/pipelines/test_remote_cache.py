"""What stays of remote files on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.object_store import write_bytes
from pipelines.remote import local

_FETCH = """
import sys, time
from pipelines.remote import local
for url in sys.argv[2:]:
    print(local(url), flush=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.fixture
def files(new_bucket, monkeypatch):
    """Four files of 1 MB, where there is room for 2.5."""
    monkeypatch.setenv("TFBIGMODEL_CACHE_GB", "0.0025")
    bucket = new_bucket("s3")
    urls = [f"{bucket}/data/{name}" for name in "abcd"]
    for url in urls:
        write_bytes(url, bytes(10**6))
    return urls


def started(*arguments):
    return subprocess.Popen([sys.executable, "-c", _FETCH, *arguments], stdout=subprocess.PIPE, text=True)


def fetched(*urls):
    with started("0", *urls) as process:
        paths = [Path(line.strip()) for line in process.stdout]
    assert process.returncode == 0
    assert len(paths) == len(urls)
    return paths


def test_the_least_recently_used_go(files):
    paths = [fetched(url)[0] for url in files[:2]]
    fetched(files[0])  # used again
    paths += fetched(files[2])
    assert [path.exists() for path in paths] == [True, True, True], "what is fetched comes on top"
    paths += fetched(files[3])
    assert [path.exists() for path in paths] == [True, False, True, True]
    assert fetched(files[1])[0].read_bytes() == bytes(10**6)
    cache = Path(os.environ["XDG_CACHE_HOME"], "tfbigmodel", "remote")
    assert len([path for path in (cache / "users").iterdir() if path.name != ".lock"]) <= 1, "the dead are forgotten"
    assert not list(cache.glob("*/.*.tmp-*"))


def test_what_a_living_process_uses_stays(files):
    with started("60", *files[:2]) as process:
        try:
            used = [Path(process.stdout.readline().strip()) for _ in range(2)]
            other = fetched(files[2])
            fetched(files[3])
            assert all(path.exists() for path in used)
            assert not other[0].exists()
        finally:
            process.kill()
    fetched(files[2])
    assert sum(path.exists() for path in used) == 1


def test_a_folder_that_changes_counts_what_is_the_same_once(new_bucket, monkeypatch):
    monkeypatch.setenv("TFBIGMODEL_CACHE_GB", "0.0025")
    url = f"{new_bucket('s3')}/data"
    write_bytes(f"{url}/large", bytes(10**6))
    write_bytes(f"{url}/small", b"1")
    first = fetched(url)[0]
    for content in (b"2", b"3"):
        write_bytes(f"{url}/small", content)
        assert fetched(url)[0] != first
    assert first.exists()
    write_bytes(f"{url}/new", bytes(10**6))
    last = fetched(url)[0]
    assert (last / "new").stat().st_size == 10**6
    assert os.path.samefile(first / "large", last / "large")


def test_a_cache_that_may_only_be_read_is_read(files, monkeypatch):
    path = local(files[0])
    users = path.parents[2] / "users"
    users.rename(users.with_name("moved"))
    users.write_text("no folder: nobody can be noted there")
    assert local(files[0]) == path


def test_a_limit_that_is_no_number_is_told(files, monkeypatch):
    monkeypatch.setenv("TFBIGMODEL_CACHE_GB", "many")
    monkeypatch.setenv("XDG_CACHE_HOME", f"{os.environ['XDG_CACHE_HOME']}/another")
    with pytest.raises(UserError, match=r"^TFBIGMODEL_CACHE_GB: expected a number of gigabytes, received many$"):
        local(files[0])
