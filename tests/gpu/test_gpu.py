"""What only a GPU can show: half precision, compilation, resuming, layouts of memory, unused networks, computed memory.

These tests are skipped on a machine without a GPU.
"""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from naruto_add.config.schema import Optimizer, Precision
from naruto_add.diffusion.bundle import (
    ModelBundle,
    decode_latents,
    encode_pixels,
    encode_prompts,
    load_pipeline_folder,
    save_bundle,
)
from naruto_add.diffusion.half_decoder import halve_decoder
from naruto_add.diffusion.placement import move_to_cpu, pictures_at_once
from naruto_add.diffusion.sampling import noise_pred
from naruto_add.estimate.fake import materialized, measuring
from naruto_add.estimate.networks import SD15_UNET, SD15_VAE, Shapes, new_unet
from naruto_add.export.tiny_decoder import write_tiny_decoder
from naruto_add.runtime.compute import DTYPES, default_device, free_memory, make_accelerator, moved, step_generator
from naruto_add.training.learner import Learner
from naruto_add.training.loop import TrainingRun, run_steps
from naruto_add.training.weights import Ema
from tests.export.build import PROMPTS, export

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
SHAPES = Shapes(SD15_UNET, SD15_VAE, latent_side=64, is_assumed=True)


@pytest.fixture
def half_bundle(tiny_pipeline_dir: Path) -> ModelBundle:
    return load_pipeline_folder(tiny_pipeline_dir, precision="bf16")


def _epsilon(bundle: ModelBundle) -> torch.Tensor:
    latents = torch.randn(2, *bundle.latent_shape, generator=torch.Generator().manual_seed(0)).to(bundle.device)
    timesteps = torch.tensor([999, 999], device=bundle.device)
    with torch.no_grad():
        return noise_pred(bundle.unet, latents, timesteps, encode_prompts(bundle, ["a man", "a girl"]))


@pytest.mark.parametrize(("precision", "error"), [("bf16", 0.05), ("fp16", 0.01)])
def test_half_precision_is_close_to_fp32_at_the_noisiest_timestep(
    tiny_pipeline_dir: Path, precision: Precision, error: float
) -> None:
    exact = _epsilon(load_pipeline_folder(tiny_pipeline_dir, precision="fp32"))
    rounded = load_pipeline_folder(tiny_pipeline_dir, precision=precision)
    assert rounded.unet.dtype == DTYPES[precision]  # fp16 has not been replaced by bf16
    assert (_epsilon(rounded) - exact).norm() < error * exact.norm()


def test_unused_networks_leave_the_gpu_and_prompts_are_encoded_all_the_same(half_bundle: ModelBundle) -> None:
    before = encode_prompts(half_bundle, ["a man"])
    allocated = torch.cuda.memory_allocated()
    move_to_cpu(half_bundle.text_encoder, half_bundle.vae)
    assert torch.cuda.memory_allocated() < allocated
    assert torch.equal(encode_prompts(half_bundle, ["a man"]), before)
    assert half_bundle.text_encoder.device.type == "cpu"


def test_networks_with_channels_last_are_saved_as_others_are(half_bundle: ModelBundle, tmp_path: Path) -> None:
    assert half_bundle.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    save_bundle(half_bundle, tmp_path / "saved")
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "saved", safety_checker=None)
    assert torch.equal(loaded.unet.conv_in.weight, half_bundle.unet.conv_in.weight.float().cpu())


def test_an_fp16_decoder_draws_what_fp32_draws(half_bundle: ModelBundle) -> None:
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = encode_pixels(half_bundle, pixels)
    exact = decode_latents(half_bundle, latents)
    halve_decoder(half_bundle.vae)
    assert (decode_latents(half_bundle, latents) - exact).abs().max() < 0.02


def test_pinned_copies_arrive(half_bundle: ModelBundle) -> None:
    values = torch.arange(1000)
    assert torch.equal(moved(values, half_bundle.device).cpu(), values)


def test_batches_follow_from_the_memory_that_is_free(half_bundle: ModelBundle) -> None:
    free = free_memory(half_bundle.device)
    assert free is not None
    taken = torch.empty(free // 2, dtype=torch.uint8, device=half_bundle.device)
    less = free_memory(half_bundle.device)
    assert less is not None
    assert less < 0.6 * free
    del taken
    assert pictures_at_once(half_bundle.vae, num_pixels=512**2, free_bytes=less) >= 1


def test_the_computed_peak_of_a_training_step_is_that_of_the_gpu() -> None:
    """bk_tiny at 512 px, one picture, fp32 weights under bf16 autocast. The computed figure is a lower bound."""
    with measuring() as meter:
        unet = materialized(new_unet(SHAPES, torch.float32, "bk_tiny").requires_grad_(True))
        meter.hold(unet)
        meter.start()
        with torch.autocast("cpu", torch.bfloat16):
            inputs = SHAPES.latents(1), torch.zeros(1, dtype=torch.long), SHAPES.prompt_embeds(1)
            noise_pred(unet, *inputs).square().mean().backward()
    real = new_unet(SHAPES, torch.float32, "bk_tiny").to_empty(device="cuda").requires_grad_(True)
    torch.cuda.reset_peak_memory_stats()
    with torch.autocast("cuda", torch.bfloat16):
        inputs = (
            torch.zeros(1, 4, 64, 64, device="cuda"),
            torch.zeros(1, dtype=torch.long, device="cuda"),
            torch.zeros(1, 77, 768, device="cuda"),
        )
        noise_pred(real, *inputs).square().mean().backward()
    assert 0.95 * meter.peak < torch.cuda.max_memory_allocated() < 1.3 * meter.peak


def test_an_fp16_export_draws_the_students_pictures_in_fp16(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    folder = export(tiny_pipeline_dir, tmp_path, precision="fp16")
    figures = json.loads((tmp_path / "metrics/export.json").read_text())
    assert figures["diffusers.images_max_abs_diff"] < 0.1
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float16).to(default_device())
    assert pipeline(PROMPTS[0], num_inference_steps=4, output_type="pt").images.isfinite().all()


def test_a_tiny_decoder_is_trained_although_the_autoencoder_waits_on_the_cpu(
    half_bundle: ModelBundle, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    move_to_cpu(*half_bundle.networks)
    options = {"num_steps": 2, "dataset_dir": tiny_dataset_dir, "seed": 0}
    exact, rounded = (
        write_tiny_decoder(half_bundle, tmp_path / str(dtype), source="distilled", dtype=dtype, **options)
        for dtype in (torch.float32, torch.float16)
    )
    assert exact["speedup"] > 0
    assert rounded["psnr_db"] == pytest.approx(exact["psnr_db"], abs=0.5)  # both decoders are in fp16
    assert {module.device.type for module in half_bundle.networks} == {"cpu"}


def test_a_compiled_u_net_predicts_what_it_predicted_before(half_bundle: ModelBundle) -> None:
    before = _epsilon(half_bundle)
    half_bundle.unet.compile()
    assert (_epsilon(half_bundle) - before).norm() < 0.02 * before.norm()


class _KilledError(Exception):
    """The process was killed during a step."""


def _trained(folder: Path, *, die_at: int | None = None) -> dict[str, torch.Tensor]:
    """The average of a layer after training under bf16 autocast."""
    optimizer = Optimizer(
        name="adamw", learning_rate=0.1, warmup_steps=3, schedule="cosine", ema_decay=0.9, ema_on_cpu=False
    )
    torch.manual_seed(0)
    model, accelerator = torch.nn.Linear(64, 64).to(default_device()), make_accelerator("bf16")
    ema = Ema(model, 0.9, on_cpu=False)
    learner = Learner(
        model,
        accelerator,
        section="toy",
        optimizer=optimizer,
        learning_rate=optimizer.learning_rate,
        num_steps=8,
        accumulation_steps=1,
        ema=ema,
        advice="",
    )

    def step(number: int) -> dict[str, float | None]:
        if number == die_at:
            raise _KilledError
        inputs = torch.randn(16, 64, generator=step_generator(0, number)).to(default_device())
        with accelerator.autocast():
            loss = (model(inputs) - inputs).square().mean()
        learner.backward(loss)
        return {"loss": loss.item(), "grad_norm": learner.step()}

    run_steps(
        step,
        TrainingRun(checkpoint_dir=folder, curves_path=folder / "toy.tsv"),
        name="toy",
        num_steps=8,
        state={"model": learner},
        num_weights=learner.num_weights,
        validate=lambda num_done: {"score": float(num_done)},
        validation_every_steps=2,
    )
    return ema.average()


def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    with pytest.raises(_KilledError):
        _trained(tmp_path / "killed", die_at=5)
    resumed, whole = _trained(tmp_path / "killed"), _trained(tmp_path / "whole")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
