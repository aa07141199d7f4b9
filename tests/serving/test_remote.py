"""Models at s3:// and gs://: which versions are fetched, when, and what is said when that fails."""

import json
import os
import sys
import time

import pytest

from pipelines.object_store import filesystem, listing, remove, write_bytes
from serving.assembly import read_models
from serving.errors import Code, ServingError, UsageError
from serving.flags import ServerOptions
from serving.manager import Manager
from serving.model_config import ModelConfig, VersionPolicy, list_models, single_model
from serving.object_store import RemoteError
from serving.reload import reload_config
from serving.remote import fetch_versions


@pytest.fixture(params=["s3", "gs"])
def url(request, new_bucket):
    return f"{new_bucket(request.param)}/models/m"


def put(url, version, content=b"graph", manifest=True):
    write_bytes(f"{url}/{version}/saved_model.pb", content)
    write_bytes(f"{url}/{version}/variables/variables.index", b"0")
    if manifest:
        write_bytes(f"{url}/{version}/assets.extra/manifest.json", b"{}")


def model(url, *policy):
    config = single_model("m", url)
    return ModelConfig("m", config.base_path, VersionPolicy(*policy), url=config.url)


def fetched(config):
    fetch_versions(config)
    return sorted(path.name for path in config.base_path.iterdir() if path.is_dir())


def test_a_version_exists_when_its_manifest_does(url):
    config = model(f"{url}/")
    assert config.url == url
    assert fetched(config) == []
    put(url, 1, manifest=False)
    assert fetched(config) == []
    put(url, 1)
    put(url, "notes")
    write_bytes(f"{url}/models.config", b"")
    assert fetched(config) == ["1"]
    assert (config.base_path / "1" / "saved_model.pb").read_bytes() == b"graph"
    put(url, 2)
    assert fetched(config) == ["1", "2"], "the last version stays for an hour"
    remove(url, [name for name in listing(url) if name.startswith("1/")])
    assert fetched(config) == ["2"]


def test_only_the_wanted_versions_are_fetched_and_only_once(url):
    for version in ("1", "0002", "3"):
        put(url, version)
    assert fetched(model(url, "specific", 1, frozenset({2}))) == ["0002"]
    config = model(url, "latest", 2)
    assert fetched(config) == ["0002", "3"]
    seen = (config.base_path / "3").stat().st_ino
    assert fetched(model(url, "all")) == ["0002", "1", "3"]
    assert (config.base_path / "3").stat().st_ino == seen
    put(url, 3, b"other")
    fetch_versions(config)
    assert (config.base_path / "3" / "saved_model.pb").read_bytes() == b"other"


class Model:
    def __init__(self, directory):
        self.content = (directory / "saved_model.pb").read_bytes()

    def close(self):
        pass


def test_a_manager_follows_a_bucket_and_keeps_what_it_has_when_that_is_gone(new_bucket, caplog):
    url = f"{new_bucket('s3')}/m"
    put(url, 1, b"one")
    config = single_model("m", url)
    manager = Manager([config], Model, poll_seconds=60)
    try:
        manager.poll("m")
        with manager.lease("m") as servable:
            assert servable.model.content == b"one"
        put(url, 2, b"two")
        manager.poll("m")
        assert next((row.version, row.state.name) for row in manager.statuses("m")) == (2, "AVAILABLE")
        bucket = url.split("/")[2]
        filesystem(url).rm(bucket, recursive=True)
        manager.poll("m")
        with manager.lease("m") as servable:
            assert (servable.version, servable.model.content) == (2, b"two")
        assert (
            f"Could not find base path {url} for servable m: {url} cannot be read: there is no such buck" in caplog.text
        )
        filesystem(url).mkdir(bucket)
        manager.poll("m")
        assert (
            f"No versions of servable m found under base path {url}. A version is there when its assets" in caplog.text
        )
    finally:
        manager.close(5)


def test_a_version_that_cannot_be_fetched_keeps_no_other_one_from_being_served(new_bucket, caplog):
    url = f"{new_bucket('s3')}/m"
    put(url, 1, b"one")
    put(url, 2, b"two")
    archived = {"StorageClass": "GLACIER"}  # which nobody can read
    filesystem(url).pipe_file(f"{url}/2/saved_model.pb", b"two", **archived)
    config = model(url, "specific", 1, frozenset({1, 2}))
    manager = Manager([config], Model, poll_seconds=60)
    try:
        manager.poll("m")
        assert [(row.version, row.state.name) for row in manager.statuses("m")] == [(1, "AVAILABLE")]
        assert f"Could not fetch all versions of servable m: {url}/2 cannot be read: PermissionError: " in caplog.text
        old = time.time() - 7200
        manager.apply([model(url, "latest", 1)])
        os.utime(config.base_path / "1", (old, old))
        manager.poll("m")
        assert [(row.version, row.state.name) for row in manager.statuses("m")] == [(1, "AVAILABLE")]
        write_bytes(f"{url}/2/saved_model.pb", b"two")
        manager.poll("m")
        assert next((row.version, row.state.name) for row in manager.statuses("m")) == (2, "AVAILABLE")
    finally:
        manager.close(5)


_SMALL_DISK = """
import sys
from serving.model_config import single_model
from serving.remote import fetch_versions
config = single_model("m", sys.argv[1])
print(fetch_versions(config))
print([path.name for path in config.base_path.iterdir()])
"""


def test_a_version_for_which_there_is_no_room_is_not_fetched(new_bucket, small_disk, tmp_path):
    url = f"{new_bucket('s3')}/m"
    put(url, 1, bytes(2 * 2**20))
    told, left = small_disk(1, _SMALL_DISK, url)
    assert told.startswith(
        f"{url}/1 has 2,097,155 bytes, for which there is no room in {tmp_path}/small/tfbigmodel/serving/"
    )
    assert left == "['.lock']"


def config_list(url):
    from tensorflow_serving.apis import model_management_pb2

    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="n", base_path=url, model_platform="tensorflow")
    return request


def test_a_configuration_names_urls_too(url):
    (config,) = list_models(config_list(f"{url}/").config.model_config_list)
    assert (config.url, config.place) == (url, url)
    assert config.base_path != single_model("m", url).base_path, "each model has a folder of its own"


def test_urls_that_cannot_be_served_are_refused_at_start(new_bucket, monkeypatch):
    bucket = new_bucket("s3")
    assert read_models(ServerOptions(model_base_path=f"{bucket}/empty"))[0].url == f"{bucket}/empty"
    mistakes = {
        "ftp://host/m": "--model_base_path: ftp://host/m: expected an absolute path, gs:// or s3://",
        "s3://key:secret@b/m": "--model_base_path: s3://…: a URL cannot have credentials; give them as the store's own "
        "tools take them",
        "s3:///m": "--model_base_path: s3:///m has no bucket; expected s3://bucket/path",
        f"{bucket}x/m": f"base path of model default: {bucket}x/m cannot be read: there is no such bucket or file (The "
        "specified bucket does not exist)",
    }
    for url, message in mistakes.items():
        with pytest.raises(UsageError) as caught:
            read_models(ServerOptions(model_base_path=url))
        assert str(caught.value) == message
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UsageError, match=r"s3://b/m: s3:// needs s3fs: pip install 'tfbigmodel\[serving,s3\]'$"):
        read_models(ServerOptions(model_base_path="s3://b/m"))


def test_a_reload_of_a_url_that_cannot_be_read_is_refused(new_bucket, tmp_path):
    bucket = new_bucket("s3")
    manager = Manager([], Model, poll_seconds=60)
    with pytest.raises(ServingError) as caught:
        reload_config(manager, config_list(f"{bucket}x/m"))
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert caught.value.message.startswith(
        f"Could not find base path {bucket}x/m for servable n: {bucket}x/m cannot be"
    )


def test_what_is_wrong_in_the_store_or_with_the_folder_is_told(new_bucket, monkeypatch):
    url = f"{new_bucket('s3')}/m"
    put(url, 1)
    config = single_model("m", url)
    fetch_versions(config)
    (config.base_path / "1.json").write_text(json.dumps({"half": "written"}))
    fetch_versions(config)
    assert json.loads((config.base_path / "1.json").read_text()).keys() >= {"saved_model.pb"}
    filesystem(url).pipe_file(f"{url}/2/../../escaped", b"")
    with pytest.raises(RemoteError, match=r"holds an object named 2/\.\./\.\./escaped, which is no path of a file"):
        fetch_versions(config)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("HOME", "/nonexistent")
    type(filesystem(url)).clear_instance_cache()
    with pytest.raises(RemoteError, match="cannot be read: NoCredentialsError: Unable to locate credentials"):
        fetch_versions(config)
