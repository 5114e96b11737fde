"""Contextual pairs: a sample with its true class is a positive, with any other class a negative.

For scripts that train on pairs (Abbassi et al. 2025). Methods of this package never duplicate
samples: both contexts share one convolution.
"""

from dataclasses import dataclass

from edgecc.learn.backends import Array, Generator, namespace, of


@dataclass(frozen=True)
class DataGenConfig:
    """What `generate_data` makes of a batch."""

    dataset: str = "cifar100"
    num_classes: int = 100
    data_gen_type: str = "contextual"
    batch_size: int = 64


def generate_data(
    batch: tuple[Array, Array], cfg: DataGenConfig, *, generator: Generator | None = None
) -> tuple[Array, Array]:
    """Samples and contexts of a batch (images, labels), by cfg.data_gen_type.

    "contextual": pairs, see `generate_contextual_data`; "supervised": each sample once with its
    true class. ValueError for any other.
    """
    images, labels = batch
    if cfg.data_gen_type == "contextual":
        return generate_contextual_data(images, labels, cfg.num_classes, generator)
    if cfg.data_gen_type == "supervised":
        return images, one_hot_encode(labels, cfg.num_classes)
    raise ValueError(f"data_gen_type {cfg.data_gen_type!r} is unknown: "
                     "one of ['contextual', 'supervised']")


def generate_contextual_data(
    images: Array, labels: Array, num_classes: int, generator: Generator | None = None
) -> tuple[Array, Array]:
    """(2B, C, H, W) and one-hot contexts (2B, K): B positives, then the same samples' negatives."""
    wrong = generate_wrong_labels(labels, num_classes, generator)
    contexts = one_hot_encode(namespace(labels).concatenate([labels, wrong]), num_classes)
    return namespace(images).concatenate([images, images]), contexts


def generate_wrong_labels(
    true_labels: Array, num_classes: int, generator: Generator | None = None
) -> Array:
    """Uniform over the other classes, (B,). ValueError for fewer than two classes."""
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: a wrong label needs at least two")
    shift = of(true_labels).integers(1, num_classes, tuple(true_labels.shape), generator)
    return (true_labels + shift) % num_classes


def one_hot_encode(labels: Array, num_classes: int) -> Array:
    """(B, K) float32. ValueError for a label outside 0..K-1."""
    if len(labels.reshape(-1)) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(f"labels {int(labels.min())} to {int(labels.max())}: "
                         f"{num_classes} classes have 0 to {num_classes - 1}")
    xp = namespace(labels)
    return xp.asarray(labels[..., None] == xp.arange(num_classes), dtype=xp.float32)
