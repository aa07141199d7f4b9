"""The chapters: one module each, with its configuration and a `build` that makes a plain Keras model.

To add one, write `chapters/<name>.py`, and name it here, twice. A chapter has

- `<Name>Config`: its `model:` section, with a literal `chapter` key;
- `task(config, info) -> Task`: loss, metrics and answers (see `tfbigmodel.tasks`), or a `UserError` where the data is
  none that the chapter can learn from;
- `build(config, info, dtype, seed) -> keras.Model`: named layers, logits out, no strategy inside. It makes the
  architecture from `config` and `info` alone, which a workdir keeps; pretrained weights are loaded by another function;
- `prefers_xla(config) -> bool`: whether XLA made its training step faster when that was measured (see `benchmarks/`);

and may have, found by these names (`hook`):

- `resolve(config: RunConfig) -> RunConfig`: fills in what a preset folder says, before the data is read;
- `load_pretrained(model, config, info) -> str`: gives a fresh model its pretrained weights, and says which
  (`""` where there are none);
- `learning_rate_scales(model, config) -> dict[str, float]`: weight path → share of the learning rate;
- `set_trainable(model, part)`: freezes all but a part, for `training.phases`;
- `inference_functions(model, preprocess, info, config) -> dict[str, ConcreteFunction]`: signatures to predict with and
  to export, where they are not the task's answers to the preprocessor's signatures;
- `write_artifacts(workdir, model, preprocess, config, info)`: what a finished run leaves in its workdir (a path)
  besides;
- `baselines(data, split, config) -> dict`: what `evaluate` shows beside the model, where the task is a language one.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from tfbigmodel.chapters import bert_classifier, bert_pretraining, dense, lstm, resnet50, text_generator

CHAPTERS: dict[str, ModuleType] = {
    "dense": dense,
    "lstm": lstm,
    "resnet50": resnet50,
    "bert_classifier": bert_classifier,
    "bert_pretraining": bert_pretraining,
    "text_generator": text_generator,
}

ModelConfig: TypeAlias = Annotated[
    dense.DenseConfig
    | lstm.LstmConfig
    | resnet50.ResNet50Config
    | bert_classifier.BertClassifierConfig
    | bert_pretraining.BertPretrainingConfig
    | text_generator.TextGeneratorConfig,
    Field(discriminator="chapter"),
]


def hook(chapter: str, name: str) -> Callable[..., Any] | None:
    """A chapter's optional function, or None where it has no such function."""
    return getattr(CHAPTERS[chapter], name, None)
