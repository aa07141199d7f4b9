"""Mixup and cutmix: images and labels of neighbours in a batch, mixed; in graph operations."""

import tensorflow as tf

from pipelines.images.config import AugmentationConfig
from pipelines.stateless import graph_keys, graph_uniform

_WHICH, _MIXUP, _CUTMIX, _PLACE = range(4)
# 2 ** -32 is less than a label share's float32 tells apart from 0 or 1.
_BISECTIONS = 31


def mix(
    images: tf.Tensor, labels: tf.Tensor, keys: tf.Tensor, num_classes: int, config: AugmentationConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each image with the one before it in the batch (the first with the last), and their labels as much.

    Mixup takes `share * image + (1 - share) * other` with a share of Beta(mixup, mixup). Cutmix puts a rectangle of the
    other image in its place, whose area is a share of Beta(cutmix, cutmix) before what is beyond the edge is cut off;
    the labels' shares are those of the area that is left. With both each image goes through one of them.

    Args:
        images: float32 `(rows, height, width, channels)`, of any range.
        labels: int32 `(rows,)`, below `num_classes`.
        keys: uint64 `(rows,)`, an image's own random bits.
        num_classes: of the labels.
        config: `mixup` and `cutmix`; with neither, images stay and labels become ones and zeros.

    Returns:
        The images, and float32 `(rows, num_classes)`, the share of each class; a row's sum is 1.

    Reference:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018. Yun et al., "CutMix", 2019.
    """
    targets = tf.one_hot(labels, num_classes, dtype=tf.float32)
    if not config.mixes_labels:
        return images, targets
    if not config.cutmix:
        shares = mixup_shares(keys, config.mixup)
        kept = shares[:, tf.newaxis, tf.newaxis, tf.newaxis]
    else:
        size = tf.shape(images)
        inside, shares = cutmix_boxes(keys, size[1], size[2], config.cutmix)
        kept = tf.where(inside, 0.0, 1.0)[..., tf.newaxis]
        if config.mixup:
            first = graph_uniform(graph_keys(keys, _WHICH), 1)[:, 0] < 0.5
            blended = mixup_shares(keys, config.mixup)
            kept = tf.where(*(side[:, tf.newaxis, tf.newaxis, tf.newaxis] for side in (first, blended)), kept)
            shares = tf.where(first, blended, shares)
    mixed = images * kept + tf.roll(images, 1, axis=0) * (1.0 - kept)
    shares = shares[:, tf.newaxis]
    return tf.ensure_shape(mixed, images.shape), targets * shares + tf.roll(targets, 1, axis=0) * (1.0 - shares)


def mixup_shares(keys: tf.Tensor, concentration: float) -> tf.Tensor:
    """The share that each image keeps, drawn from Beta(concentration, concentration): float32 `(rows,)`."""
    return tf.cast(symmetric_beta(graph_uniform(graph_keys(keys, _MIXUP), 1)[:, 0], concentration), tf.float32)


def cutmix_boxes(
    keys: tf.Tensor, height: tf.Tensor, width: tf.Tensor, concentration: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws the rectangles that show the other image.

    Args:
        keys: uint64 `(rows,)`.
        height: of the images, int32 `()`.
        width: of the images, int32 `()`.
        concentration: both parameters of the Beta distribution of the rectangle's area.

    Returns:
        Where they are, bool `(rows, height, width)`, and the share of the image that they leave, float32 `(rows,)`.
    """
    kept = symmetric_beta(graph_uniform(graph_keys(keys, _CUTMIX), 1)[:, 0], concentration)
    side = tf.sqrt(1.0 - kept)
    places = tf.cast(graph_uniform(graph_keys(keys, _PLACE), 2), tf.float64)
    inside_y, rows = _span(side, places[:, 0], height)
    inside_x, columns = _span(side, places[:, 1], width)
    area = tf.cast(rows * columns, tf.float64) / tf.cast(height * width, tf.float64)
    return inside_y[:, :, tf.newaxis] & inside_x[:, tf.newaxis, :], tf.cast(1.0 - area, tf.float32)


def symmetric_beta(uniform: tf.Tensor, concentration: float) -> tf.Tensor:
    """Turns uniform numbers into ones of Beta(concentration, concentration), by inverting its distribution.

    Args:
        uniform: `(rows,)`, from 0 to 1.
        concentration: both parameters of the distribution.

    Returns:
        float64 `(rows,)`, right to 2 ** -32.

    Example:
        >>> symmetric_beta(tf.constant([0.25]), 1.0).numpy().round(6)
        array([0.25])
    """
    uniform = tf.cast(uniform, tf.float64)
    # The distribution is symmetric: its lower half is enough, where numbers near 0 are told apart best.
    lower = tf.minimum(uniform, 1.0 - uniform)
    parameter = tf.fill(tf.shape(lower), tf.constant(concentration, tf.float64))
    found = tf.zeros_like(lower)
    for power in range(2, 2 + _BISECTIONS):
        further = found + 2.0**-power
        found = tf.where(tf.math.betainc(parameter, parameter, further) <= lower, further, found)
    return tf.where(uniform < 0.5, found, 1.0 - found)


def _span(side: tf.Tensor, place: tf.Tensor, whole: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where each row's part of a side is, bool `(rows, whole)`, and its pixels, int32 `(rows,)`, after clipping."""
    length = tf.cast(tf.cast(whole, tf.float64) * side, tf.int32)
    start = tf.cast(tf.floor(place * tf.cast(whole, tf.float64)), tf.int32) - length // 2
    end = tf.minimum(start + length, whole)
    start = tf.maximum(start, 0)
    places = tf.range(whole)
    return (places >= start[:, tf.newaxis]) & (places < end[:, tf.newaxis]), end - start
