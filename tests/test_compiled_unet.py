"""The benchmark of `torch.compile` counts the calls after which compiling has paid, and scales SD 1.5's U-Net."""

import torch

from benchmarks.compiled_unet import EAGER, break_even, make_calls, saved, shapes_of_width, speedup
from benchmarks.sd15_shape import random_weights
from naruto_add.estimate.networks import SD15_UNET, new_unet


def test_compiling_pays_after_the_calls_that_save_its_seconds() -> None:
    costs = {EAGER: 3.0, "compiled": 2.0}
    assert speedup(costs, "compiled") == 1.5
    assert break_even(39.5, saved(costs, "compiled")) == "40 calls"


def test_compiling_never_pays_if_the_calls_do_not_become_faster() -> None:
    assert break_even(1.0, saved({EAGER: 2.0, "compiled": 2.0}, "compiled")) == "never"
    assert break_even(1.0, saved({EAGER: 2.0, "compiled": 3.0}, "compiled")) == "never"


def test_the_full_width_is_that_of_stable_diffusion() -> None:
    assert shapes_of_width(320, 64).unet == SD15_UNET
    assert shapes_of_width(64, 64).unet["block_out_channels"] == (64, 128, 256, 256)


def test_the_eager_call_predicts_noise_of_the_latents_shape() -> None:
    unet = random_weights(new_unet(shapes_of_width(32, 8), torch.float32, "bk_tiny"), torch.device("cpu"))
    calls = make_calls(unet, batch=2, side=8, dtype=torch.float32)
    assert set(calls) >= {EAGER, "compiled"}
    predicted = calls[EAGER]()
    assert isinstance(predicted, torch.Tensor)
    assert predicted.shape == (2, 4, 8, 8)
    assert torch.isfinite(predicted).all()
