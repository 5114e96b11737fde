"""Contextual pairs: shapes, true and wrong classes, and what is refused."""

import pytest
import torch

from edgecc.learn.contextual_pairs import (
    DataGenConfig,
    generate_contextual_data,
    generate_data,
    generate_wrong_labels,
    one_hot_encode,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_wrong_label_is_never_the_true_one_and_any_other_is_as_likely() -> None:
    labels = torch.arange(4).repeat_interleave(6000)
    wrong = generate_wrong_labels(labels, 4, generator())
    counts = torch.stack([wrong[labels == k].bincount(minlength=4) for k in range(4)])
    assert counts.diagonal().sum() == 0
    others = counts[~torch.eye(4, dtype=torch.bool)]
    assert (others - 2000).abs().max() < 6 * 2000**0.5


def test_two_classes_leave_no_choice_and_one_is_refused() -> None:
    assert generate_wrong_labels(torch.tensor([0, 1, 1]), 2).tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="at least two"):
        generate_wrong_labels(torch.tensor([0]), 1)


def test_one_hot_contexts_are_float32() -> None:
    hot = one_hot_encode(torch.tensor([2, 0]), 3)
    assert hot.dtype == torch.float32
    assert hot.tolist() == [[0, 0, 1], [1, 0, 0]]
    with pytest.raises(ValueError, match="0 to 2"):
        one_hot_encode(torch.tensor([3]), 3)


def test_positives_come_first_then_the_same_samples_with_wrong_contexts() -> None:
    images, labels = torch.rand(8, 3, 4, 4), torch.arange(8) % 5
    doubled, contexts = generate_contextual_data(images, labels, 5)
    assert torch.equal(doubled, torch.cat([images, images]))
    assert contexts.shape == (16, 5)
    assert torch.equal(contexts[:8].argmax(1), labels)
    assert (contexts[8:].argmax(1) != labels).all()
    assert torch.equal(contexts.sum(1), torch.ones(16))


def test_generate_data_does_what_the_configuration_says() -> None:
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    cfg = DataGenConfig(
        dataset="cifar100", num_classes=100, data_gen_type="contextual", batch_size=64)
    assert cfg == DataGenConfig()
    drawn = generate_data((images, labels), cfg, generator=generator(3))
    expected = generate_contextual_data(images, labels, 100, generator(3))
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))
    once, contexts = generate_data((images, labels), DataGenConfig(data_gen_type="supervised"))
    assert torch.equal(once, images)
    assert torch.equal(contexts.argmax(1), labels)


def test_an_unknown_kind_of_data_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'hebbian'.*contextual.*supervised"):
        generate_data(
            (torch.rand(1, 1, 2, 2), torch.tensor([0])), DataGenConfig(data_gen_type="hebbian"))
