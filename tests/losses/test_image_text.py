"""Closed forms of the losses and the accuracy of image and text vectors."""

import pytest
import torch

from naruto_add.losses.image_text import image_text_loss, info_nce, retrieval_accuracy

EYE = torch.eye(3)
IDS = torch.arange(3)


def test_the_loss_is_one_minus_the_cosine_of_vectors_of_any_length() -> None:
    assert image_text_loss(5 * EYE, 2 * EYE).item() == pytest.approx(0, abs=1e-6)
    assert image_text_loss(EYE, EYE.roll(1, 0)).item() == pytest.approx(1)
    assert image_text_loss(EYE, -EYE).item() == pytest.approx(2)


def test_the_gradient_reaches_image_vectors_and_not_text_vectors() -> None:
    images, texts = (torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    images.requires_grad_()
    texts.requires_grad_()
    image_text_loss(images, texts).backward()
    assert images.grad is not None and images.grad.any(dim=1).all()
    assert texts.grad is None


def test_info_nce_of_orthogonal_pairs() -> None:
    """The matching logit is 2 and the two others are 0: -log(e^2 / (e^2 + 2))."""
    expected = torch.log1p(2 * torch.tensor(-2.0).exp())
    torch.testing.assert_close(info_nce(EYE, 3 * EYE, IDS, temperature=0.5), expected)


def test_info_nce_of_equal_vectors_is_the_logarithm_of_their_number() -> None:
    same = torch.ones(3, 2)
    torch.testing.assert_close(info_nce(same, same, IDS, temperature=0.1), torch.tensor(3.0).log())


def test_info_nce_ignores_other_pictures_with_the_same_caption() -> None:
    same = torch.ones(3, 2)
    loss = info_nce(same, same, torch.tensor([0, 0, 1]), temperature=0.1)
    expected = (2 * torch.tensor(2.0).log() + torch.tensor(3.0).log()) / 3
    torch.testing.assert_close(loss, expected)


def test_accuracy_counts_equal_captions_as_found() -> None:
    shifted = EYE[[0, 2, 1]]
    assert retrieval_accuracy(EYE, shifted, IDS).item() == pytest.approx(1 / 3)
    assert retrieval_accuracy(EYE, shifted, torch.tensor([0, 1, 1])).item() == 1
