"""The discriminators: frozen features of latents, of decoded crops, or of both, with trainable heads."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from naruto_add.config.schema import Add, Optimizer
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.noise import add_noise, alphas_cumprod
from naruto_add.losses.adversarial import discriminator_hinge, generator_hinge, r1_penalty
from naruto_add.models.backbones import Maps, load_backbone
from naruto_add.models.discriminator import LatentDiscriminator, UnetFeatures, gradients_off
from naruto_add.models.pixel_discriminator import PixelDiscriminator
from naruto_add.training.add.augment import random_shift
from naruto_add.training.add.batch import Batch
from naruto_add.training.add.decoding import decode_crops

Features = dict[str, Maps]
"""Feature maps by the discriminator's name."""
Logits = dict[str, list[Float[Tensor, "batch patches"]]]
"""Per-patch logits of each head, by the discriminator's name."""


@dataclass(frozen=True)
class DiscriminatorLosses:
    """Hinge loss, mean logits and R1 penalty, each averaged over the heads; named as in the curves."""

    disc_loss: Float[Tensor, ""]
    real_logit: Float[Tensor, ""]
    fake_logit: Float[Tensor, ""]
    r1_penalty: Float[Tensor, ""]


class Discriminators:
    """The discriminators that `add.discriminators` names: frozen feature networks, and `heads`, which are trained."""

    def __init__(self, bundle: ModelBundle, *, params: Add, pooled_width: int) -> None:
        self.params, self.vae = params, bundle.vae
        self.alphas_cumprod = alphas_cumprod(bundle.scheduler).to(bundle.device)
        num_channels: dict[str, list[int]] = {}
        if "latent" in params.discriminators:
            self.unet_features = UnetFeatures(bundle.unet, params.discriminator_blocks)
            num_channels["latent"] = self.unet_features.num_channels
        if "pixel" in params.discriminators:
            self.backbone = load_backbone(params.pixel_backbone, bundle.device)
            num_channels["pixel"] = self.backbone.num_channels
        self.heads = _make_heads(num_channels, pooled_width=pooled_width, seed=params.seed).to(bundle.device)

    def features(
        self, x0: Float[Tensor, "batch c h w"], prompt_embeds: Float[Tensor, "batch tokens width"], batch: Batch
    ) -> Features:
        """Frozen features: the teacher's of noised x0, the backbone's of decoded crops of x0. Gradients reach x0."""
        features: Features = {}
        if "latent" in self.params.discriminators:
            shifted, timesteps = self._shifted(x0, batch), batch.discriminator_timesteps
            noisy = add_noise(shifted, batch.discriminator_noise, timesteps, alphas_cumprod=self.alphas_cumprod)
            features["latent"] = self.unet_features(noisy, timesteps, prompt_embeds)
        if "pixel" in self.params.discriminators:
            crops = decode_crops(self.vae, x0, batch.crop_corner, side_px=self.params.crop_px)
            features["pixel"] = self.backbone(self._shifted(crops, batch))
        return features

    def logits(self, features: Features, pooled: Float[Tensor, "batch width"]) -> Logits:
        """Per-patch logits of every head; high means real."""
        return {name: self.heads[name](maps, pooled) for name, maps in features.items()}

    def adversarial_loss(self, fake_features: Features, pooled: Float[Tensor, "batch width"]) -> Float[Tensor, ""]:
        """The student's hinge loss; its gradient reaches the features and not the heads."""
        with gradients_off(self.heads):
            logits = self.logits(fake_features, pooled)
        return _mean({name: [generator_hinge(item) for item in items] for name, items in logits.items()})

    def losses(self, fake_features: Features, batch: Batch) -> DiscriminatorLosses:
        """The discriminators' losses on the batch's real latents and these features; gradients reach only the heads."""
        with torch.no_grad():
            real_features = self.features(batch.real_latents, batch.real_prompt_embeds, batch)
        inputs = {name: [item.detach().requires_grad_() for item in maps] for name, maps in real_features.items()}
        fakes = {name: [item.detach() for item in maps] for name, maps in fake_features.items()}
        real, fake = self.logits(inputs, batch.real_pooled), self.logits(fakes, batch.pooled)
        hinge = _mean({name: [discriminator_hinge(*pair) for pair in _pairs(real[name], fake[name])] for name in real})
        penalty = torch.zeros_like(hinge)
        if self.params.r1_weight:
            penalty = _mean({name: [r1_penalty(*pair) for pair in _pairs(real[name], inputs[name])] for name in real})
        return DiscriminatorLosses(hinge, _mean_logit(real), _mean_logit(fake), penalty)

    def update_spectral_norms(self) -> None:
        """Update the spectral norms of the pixel discriminator's heads; called once per step, before the heads."""
        for head in self.heads.values():
            if isinstance(head, PixelDiscriminator):
                head.update_spectral_norms()

    def _shifted(self, maps: Tensor, batch: Batch) -> Tensor:
        return random_shift(maps, batch.shift_draws, probability=self.params.augment_strength)


def discriminator_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer of the heads: the student's, but AdamW instead of Muon.

    Muon has momentum, which a discriminator goes without: its target moves.
    """
    return optimizer.model_copy(update={"name": "adamw"}) if optimizer.name == "muon" else optimizer


def _make_heads(num_channels: dict[str, list[int]], *, pooled_width: int, seed: int) -> nn.ModuleDict:
    """Heads for feature maps of these numbers of channels; the initial weights depend only on the seed."""
    kinds = {"latent": LatentDiscriminator, "pixel": PixelDiscriminator}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.ModuleDict(
            {name: kinds[name](channels, pooled_width=pooled_width) for name, channels in num_channels.items()}
        )


def _mean(losses: dict[str, list[Tensor]]) -> Float[Tensor, ""]:
    """The mean over the heads of each discriminator, then over discriminators."""
    return torch.stack([torch.stack(items).mean() for items in losses.values()]).mean()


def _mean_logit(logits: Logits) -> Float[Tensor, ""]:
    """The mean over patches and items, then over the heads of all discriminators."""
    return torch.stack([item.mean() for items in logits.values() for item in items]).mean()


def _pairs(one: list[Tensor], other: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(one, other, strict=True))
