"""The min-SNR weighting in closed form."""

import pytest
import torch

from naruto_add.losses.denoising import min_snr_loss


def test_the_weight_is_one_at_high_noise_and_falls_with_the_snr_above_gamma() -> None:
    noise = torch.zeros(3, 4, 2, 2)
    noise_pred = torch.stack([torch.full((4, 2, 2), value) for value in (1.0, 2.0, 3.0)])
    snr = torch.tensor([0.5, 5.0, 20.0])
    expected = (1.0 * 1 + 1.0 * 4 + 5 / 20 * 9) / 3
    assert min_snr_loss(noise_pred, noise, snr, snr_gamma=5.0).item() == pytest.approx(expected)


def test_the_loss_is_the_mean_squared_error_below_gamma() -> None:
    noise_pred, noise = torch.randn(2, 5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    loss = min_snr_loss(noise_pred, noise, torch.full((5,), 0.1), snr_gamma=5.0)
    torch.testing.assert_close(loss, torch.nn.functional.mse_loss(noise_pred, noise))
