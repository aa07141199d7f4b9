"""A running manager whose models are plain objects in folders, so that its life is quick."""

import threading

import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2

from serving.errors import Code, ServingError
from serving.manager import Manager, ManagerOptions
from serving.model_config import ModelConfig
from serving.reload import reload_config


class Model:
    def __init__(self, directory):
        self.directory = directory

    def close(self):
        pass


class Setup:
    """A started manager whose models live in a folder; `broken` names directories that cannot be loaded."""

    def __init__(self, folder, **options):
        self.folder, self.broken, self.hold = folder, set(), threading.Event()
        self.hold.set()
        self.put("a", 1)
        self.manager = Manager([ModelConfig("a", folder / "a")], self.load, 0.05, ManagerOptions(**options))
        self.manager.start()
        self.manager.wait_until_available(threading.Event())

    def load(self, directory):
        self.hold.wait(10)
        if f"{directory.parent.name}/{directory.name}" in self.broken:
            raise ServingError(Code.DATA_LOSS, "it is broken")
        return Model(directory)

    def put(self, name, *versions):
        for version in versions:
            (self.folder / name / str(version)).mkdir(parents=True, exist_ok=True)

    def config(self, *models):
        """Models as `("name", "more of its config")`."""
        configs = (
            f'config {{ name: "{name}" base_path: "{self.folder / name}" model_platform: "tensorflow" {more} }}'
            for name, more in models
        )
        return f"model_config_list {{ {' '.join(configs)} }}"

    def label(self, name, version):
        """More of a model's config: a label."""
        return f'version_labels {{ key: "{name}" value: {version} }}'

    def reload(self, config, timeout=10):
        request = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(config, request.config)
        return reload_config(self.manager, request, timeout)

    def states(self, name):
        return {status.version: status.state.name for status in self.manager.statuses(name)}

    def answering(self, name, **how):
        """The directory of the version that a request gets."""
        with self.manager.lease(name, **how) as servable:
            return f"{servable.model.directory.parent.name}/{servable.model.directory.name}"


@pytest.fixture
def make(tmp_path):
    made = []

    def build(**options):
        made.append(Setup(tmp_path, **options))
        return made[-1]

    yield build
    for setup in made:
        setup.hold.set()
        setup.manager.close(5)


@pytest.fixture
def setup(make):
    return make()
