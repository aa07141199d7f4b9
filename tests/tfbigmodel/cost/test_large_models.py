"""BERT-base and ResNet50: what a training step costs by published and closed forms, from graphs that do not run."""

import keras
import pytest
import tensorflow as tf

from pipelines.data import DatasetInfo, TextInfo
from tfbigmodel.config import validate_config
from tfbigmodel.cost.step import step_costs
from tfbigmodel.model import build_model, make_task
from tfbigmodel.training.optimizers import make_optimizer
from tfbigmodel.training.rule import make_rule


def costs(config, info, features, batch_size):
    config = validate_config({**config, "training": {"jit_compile": False}}, "test")
    strategy = tf.distribute.get_strategy()
    model = build_model(config, info)
    optimizer = make_optimizer(
        config.training.optimizer, config.training.schedule, model.trainable_variables,
        steps_per_epoch=100, total_steps=100,
    )  # fmt: skip
    batch = (features, tf.zeros([batch_size], tf.int32))
    operations, memory = step_costs(
        model, optimizer, make_task(config, info), strategy, make_rule(config, info, strategy), batch, workers=1
    )
    assert operations.not_counted == ()
    return model, operations, memory


def info(inputs, dtypes, **kind):
    counts = {"train": 160, "validation": 16, "test": 16}
    return DatasetInfo("classification", inputs, dtypes, counts, ("no", "yes"), (80, 80), **kind)


@pytest.mark.slow
def test_a_bert_base_training_step_is_a_tflop():
    batch, length, dim, layers, vocabulary = 16, 128, 768, 12, 21_128
    keras.utils.set_random_seed(1)
    names = ("token_ids", "segment_ids", "padding_mask")
    text = TextInfo(vocabulary, length, {"pad": 0, "unknown": 1, "start": 2, "end": 3, "mask": 4})
    backbone = {
        "num_layers": layers, "num_heads": 12, "hidden_dim": dim, "intermediate_dim": 4 * dim,
        "max_sequence_length": 512,
    }  # fmt: skip
    config = {
        "data": {"source": "builtin", "name": "reviews_zh", "batch_size": batch},
        "model": {"chapter": "bert_classifier", "backbone": backbone},
    }
    features = {name: tf.ones([batch, length], tf.int32) for name in names}
    described = info(dict.fromkeys(names, (None,)), dict.fromkeys(names, "int32"), text=text)
    model, operations, memory = costs(config, described, features, batch)
    tokens = batch * length
    weights = layers * (4 * dim * dim + 2 * dim * 4 * dim)
    # Two operations for each weight and token; the attention's scores and weighted sums, 2 · length · dim each; the
    # pooler and the head, which see one token of a text. Backward is twice that.
    head = 2 * batch * (dim * dim + 2 * dim)
    forward = 2 * weights * tokens + layers * 4 * length * dim * tokens + head
    assert operations.products == pytest.approx(3 * forward, rel=0.001)
    assert 1.04e12 < operations.products < 1.10e12
    assert operations.forward == pytest.approx(forward, rel=0.02)
    assert memory.gradients == 4 * model.count_params()
    assert 0 < memory.weights - memory.gradients < 1000  # the states of dropout's random numbers
    assert memory.optimizer == pytest.approx(2 * memory.gradients, rel=0.001)


@pytest.mark.slow
def test_a_resnet50_sees_an_image_for_8_gflop():
    batch = 4
    config = {"data": {"source": "builtin", "name": "digits", "batch_size": batch}, "model": {"chapter": "resnet50"}}
    described = info({"image": (224, 224, 3)}, {"image": "float32"})
    _, operations, memory = costs(config, described, {"image": tf.zeros([batch, 224, 224, 3])}, batch)
    # He et al. give 3.8 billion multiply-adds, with strides in the first layers of the blocks; in the second ones, as
    # is usual since then, they are 4.09 (with 1,000 classes, which are 0.002 of it).
    assert operations.forward / batch == pytest.approx(2 * 4.09e9, rel=0.02)
    forward = operations.products + 2 * batch * 112 * 112 * 64 * 7 * 7 * 3
    # Three times the forward pass, without the gradient of the image.
    assert forward / 3 / batch == pytest.approx(2 * 4.09e9, rel=0.01)
    assert 60 * 2**20 < memory.activations / batch < 200 * 2**20
