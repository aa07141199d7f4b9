"""What is learned: classification or regression. Each module has the same functions, for every chapter.

- `loss(labels, outputs)` → per-example loss `(batch_size,)`;
- `metrics(labels, outputs, weights, info)` → name → (weighted total, total weight), which add up over batches;
- `serving_outputs(outputs, info, threshold)` → what a served model answers.
"""

from types import ModuleType

from tfbigmodel.tasks import classification, regression

TASKS: dict[str, ModuleType] = {"classification": classification, "regression": regression}
