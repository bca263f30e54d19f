"""A model that predicts v (Stable Diffusion 2.x): every stage sees epsilon, and files stay those of a v model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from naruto_add.diffusion.base_model import check_scheduler
from naruto_add.diffusion.bundle import (
    ModelBundle,
    encode_prompts,
    load_bundle,
    load_pipeline_folder,
    load_unet,
    save_unet,
)
from naruto_add.diffusion.noise import add_noise, alphas_cumprod, noise_from_v_pred, snr
from naruto_add.diffusion.sampling import Sampler, noise_pred, sample_latents, teacher_sampler
from naruto_add.losses.denoising import min_snr_loss
from naruto_add.models.lora import add_lora, merge_lora
from naruto_add.models.student import Architecture, shrink_unet
from naruto_add.runtime.errors import StageError
from tests.export.build import export, sampling
from tests.sd15_checkpoint import base_params, write_checkpoint

PROMPTS = ["a man with a sword", "a girl at sunset"]
ALPHA_BAR = alphas_cumprod(DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"))


@pytest.fixture(scope="module")
def v_dir(tiny_pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with the scheduler of Stable Diffusion 2.1, so that its U-Net predicts v."""
    folder = tmp_path_factory.mktemp("v") / "pipeline"
    shutil.copytree(tiny_pipeline_dir, folder)
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        set_alpha_to_one=False,
        steps_offset=1,
        clip_sample=False,
        prediction_type="v_prediction",
    ).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text()) | {"scheduler": ["diffusers", "DDIMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def v_bundle(v_dir: Path) -> ModelBundle:
    return load_pipeline_folder(v_dir, precision="fp32")


@pytest.fixture(scope="module")
def second_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow checkpoint with the structure, names and old configurations of Stable Diffusion 2.1."""
    return write_checkpoint(tmp_path_factory.mktemp("second") / "checkpoint", is_second=True)


def _noise(num: int, seed: int = 0) -> Tensor:
    return torch.randn(num, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_epsilon_follows_from_v() -> None:
    x0, noise, timesteps = _noise(3), _noise(3, seed=1), torch.tensor([1, 500, 999])
    signal, deviation = (
        ALPHA_BAR[timesteps].view(-1, 1, 1, 1).sqrt(),
        (1 - ALPHA_BAR[timesteps]).view(-1, 1, 1, 1).sqrt(),
    )
    v = signal * noise - deviation * x0
    noisy = add_noise(x0, noise, timesteps, alphas_cumprod=ALPHA_BAR)
    torch.testing.assert_close(noise_from_v_pred(noisy, v, timesteps, alphas_cumprod=ALPHA_BAR), noise)


def test_the_min_snr_loss_of_epsilon_is_that_of_v() -> None:
    """Hang et al. 2023: min(snr, gamma) / (snr + 1) times the squared error of v."""
    v, predicted, noisy, timesteps = _noise(3), _noise(3, seed=1), _noise(3, seed=2), torch.tensor([50, 500, 950])
    ratio = snr(timesteps, alphas_cumprod=ALPHA_BAR)
    as_noise = [noise_from_v_pred(noisy, item, timesteps, alphas_cumprod=ALPHA_BAR) for item in (predicted, v)]
    weight = ratio.clamp(max=5.0) / (ratio + 1)
    expected = (weight * (predicted - v).square().flatten(1).mean(dim=1)).mean()
    torch.testing.assert_close(min_snr_loss(*as_noise, ratio, snr_gamma=5.0), expected)


def test_pictures_equal_those_of_plain_diffusers(v_dir: Path, v_bundle: ModelBundle) -> None:
    noise, sampler = _noise(2), teacher_sampler(v_bundle, sampling())
    ours = sample_latents(
        v_bundle.unet,
        noise=noise,
        prompt_embeds=encode_prompts(v_bundle, PROMPTS),
        negative_embeds=encode_prompts(v_bundle, [""]),
        sampler=sampler,
    )
    pipeline = StableDiffusionPipeline.from_pretrained(v_dir)
    options = {"num_inference_steps": sampler.num_inference_steps, "guidance_scale": sampler.guidance_scale}
    theirs = pipeline(PROMPTS, latents=noise, output_type="latent", **options).images
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_base_with_the_structure_of_sd_2_1_draws_what_plain_diffusers_draws(second_dir: Path) -> None:
    base = base_params(second_dir)
    bundle = load_bundle(base)
    config = bundle.text_encoder.config
    assert (config.num_hidden_layers, config.hidden_act, config.projection_dim) == (23, "gelu", config.hidden_size // 2)
    assert bundle.unet.config.attention_head_dim == [1, 1, 2, 2]
    assert isinstance(bundle.unet.mid_block.attentions[0].proj_in, torch.nn.Linear)
    noise = torch.randn(1, *bundle.latent_shape, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(teacher_sampler(bundle, sampling()).scheduler, 3, 7.5)
    embeds = [encode_prompts(bundle, prompts) for prompts in (PROMPTS[:1], [""])]
    ours = sample_latents(bundle.unet, noise=noise, prompt_embeds=embeds[0], negative_embeds=embeds[1], sampler=sampler)
    pipeline = StableDiffusionPipeline.from_pretrained(second_dir, feature_extractor=None)
    options = {"num_inference_steps": 3, "guidance_scale": 7.5, "output_type": "latent"}
    theirs = pipeline(PROMPTS[:1], latents=noise, **options).images
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", ["bk_base", "bk_small", "bk_tiny", "shallow"])
def test_blocks_of_a_u_net_with_heads_by_level_are_removed(second_dir: Path, architecture: Architecture) -> None:
    bundle = load_bundle(base_params(second_dir))
    student = shrink_unet(bundle.unet, architecture)
    levels = 3 if architecture in ("bk_tiny", "shallow") else 4
    assert list(student.config.attention_head_dim) == [1, 1, 2, 2][:levels]
    latents = torch.randn(1, *bundle.latent_shape, generator=torch.Generator().manual_seed(0))
    predicted = noise_pred(student, latents, torch.tensor([999]), encode_prompts(bundle, ["a man"]))
    assert predicted.shape == latents.shape and predicted.isfinite().all()


def test_adapters_of_a_u_net_with_linear_projections_are_merged(second_dir: Path) -> None:
    bundle = load_bundle(base_params(second_dir))
    latents = torch.randn(1, *bundle.latent_shape, generator=torch.Generator().manual_seed(0))
    inputs = (latents, torch.tensor([500]), encode_prompts(bundle, ["a man"]))
    with torch.no_grad():
        before = noise_pred(bundle.unet, *inputs)
        add_lora(bundle.unet, None, targets="attention_convolutions", rank=2, seed=0)
        for name, weight in bundle.unet.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.02)
        adapted = noise_pred(bundle.unet, *inputs)
        merge_lora(bundle.unet)
        merged = noise_pred(bundle.unet, *inputs)
    torch.testing.assert_close(merged, adapted, rtol=1e-3, atol=1e-5)
    assert (merged - before).norm() > 0.01 * before.norm()


def test_students_of_a_v_model_predict_v_too(v_bundle: ModelBundle, tmp_path: Path) -> None:
    student = shrink_unet(v_bundle.unet, "bk_small")
    save_unet(student, tmp_path)
    assert "v_schedule" not in student.state_dict()
    loaded = load_unet(tmp_path, precision="fp32", scheduler=v_bundle.scheduler)
    inputs = (_noise(1), torch.tensor([999]), encode_prompts(v_bundle, ["a man"]))
    predicted = noise_pred(loaded, *inputs)
    torch.testing.assert_close(predicted, noise_pred(student.eval(), *inputs))
    assert not torch.equal(predicted, loaded(*inputs).sample)


def test_the_export_of_a_v_model_draws_the_students_pictures_in_plain_diffusers(v_dir: Path, tmp_path: Path) -> None:
    folder = export(v_dir, tmp_path, formats=["diffusers", "single_file"])
    assert StableDiffusionPipeline.from_pretrained(folder).scheduler.config.prediction_type == "v_prediction"
    figures = json.loads((tmp_path / "metrics/export.json").read_text())
    assert figures["diffusers.images_max_abs_diff"] <= 1e-4
    assert figures["single_file.student.images_max_abs_diff"] <= 0.05


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prediction_type": "sample"}, "predicts sample over 1000 timesteps; use a model that predicts epsilon or"),
        ({"num_train_timesteps": 500}, "predicts epsilon over 500 timesteps"),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, "without signal at its last timestep"),
    ],
)
def test_other_schedules_are_refused(config: dict[str, object], message: str) -> None:
    check_scheduler({"prediction_type": "v_prediction"}, "a/b")
    with pytest.raises(StageError, match=rf"^base\.model: 'a/b' .*{message}"):
        check_scheduler(config, "a/b")
