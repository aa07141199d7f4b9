"""The chapters: one module each, with its configuration and a `build` that makes a plain Keras model.

To add one, write `chapters/<name>.py`, and name it here. A chapter has

- `<Name>Config`: its `model:` section, with a literal `chapter` key;
- `build(config, info, dtype, seed) -> keras.Model`: named layers, logits out, no strategy inside;
- `prefers_xla(config) -> bool`: whether XLA made its training step faster when that was measured (see `benchmarks/`).
"""

from types import ModuleType
from typing import TypeAlias

from tfbigmodel.chapters import dense

CHAPTERS: dict[str, ModuleType] = {"dense": dense}

ModelConfig: TypeAlias = dense.DenseConfig
