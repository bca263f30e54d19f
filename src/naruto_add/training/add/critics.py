"""What tells the student's pictures from real ones: frozen features of latents, of decoded squares, or of both."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.noise import add_noise, alphas_cumprod
from naruto_add.losses.adversarial import discriminator_hinge, generator_hinge, misaligned_hinge, r1_penalty
from naruto_add.models.backbones import Maps, load_backbone
from naruto_add.models.discriminator import LatentDiscriminator, UnetFeatures, gradients_off
from naruto_add.models.pixel_discriminator import PixelDiscriminator
from naruto_add.params import Add
from naruto_add.training.add.augment import AugmentStrength, augmented, mean_sign
from naruto_add.training.add.inputs import AddData, Batch, Pictures
from naruto_add.training.add.pixels import decoded_squares

Features = dict[str, Maps]
"""Maps by discriminator, each of its scales counting as one."""
Logits = dict[str, list[Float[Tensor, "batch _"]]]
"""Per-patch logits of every head, by discriminator."""


@dataclass(frozen=True)
class Verdict:
    """The discriminators' losses, means over them, and their logits of real and fake pictures, head by head."""

    hinge: Float[Tensor, ""]
    penalty: Float[Tensor, ""]
    real: list[Tensor]
    fake: list[Tensor]

    def scalars(self) -> dict[str, Tensor]:
        """For the curves."""
        real, fake = (torch.stack([item.mean() for item in logits]).mean() for logits in (self.real, self.fake))
        return {"disc_loss": self.hinge, "real_logit": real, "fake_logit": fake, "r1_penalty": self.penalty}


class Critics:
    """The discriminators that `add.discriminators` names: frozen features, trainable `heads`."""

    def __init__(self, bundle: ModelBundle, *, params: Add, pooled_width: int) -> None:
        self.params, self.vae, self.strength = params, bundle.vae, AugmentStrength(params)
        self.alphas_cumprod = alphas_cumprod(bundle.scheduler).to(bundle.device)
        num_channels: dict[str, list[int]] = {}
        if "latent" in params.discriminators:
            self.unet_features = UnetFeatures(bundle.unet, params.discriminator_blocks)
            num_channels |= {name: self.unet_features.num_channels for name, _ in self._scales("latent")}
        if "pixel" in params.discriminators:
            self.backbone = load_backbone(params.pixel_backbone, bundle.device)
            num_channels |= {name: self.backbone.num_channels for name, _ in self._scales("pixel")}
        self.heads = _build_heads(num_channels, params, pooled_width=pooled_width).to(bundle.device)

    def features(
        self, x0: Float[Tensor, "batch c h w"], prompt_embeds: Float[Tensor, "batch tokens width"], batch: Batch
    ) -> Features:
        """What the frozen networks see in x0: the teacher after noising it, the backbone in decoded squares."""
        features: Features = {}
        if "latent" in self.params.discriminators:
            features |= self._latent_features(x0, prompt_embeds, batch)
        if "pixel" in self.params.discriminators:
            squares = decoded_squares(self.vae, x0, batch.crop_corner, side_px=self.params.pixel_crop_px)
            squares = self._augmented(squares, batch)
            features |= {name: self.backbone(averaged(squares, scale)) for name, scale in self._scales("pixel")}
        return features

    def adversarial_loss(self, fake_features: Features, pooled: Float[Tensor, "batch w"]) -> Float[Tensor, ""]:
        """How far the discriminators are from being fooled; no gradient reaches them."""
        with gradients_off(self.heads):
            logits = self.judge(fake_features, pooled)
        return _mean({name: [generator_hinge(item) for item in items] for name, items in logits.items()})

    def discriminator_losses(self, fake_features: Features, batch: Batch) -> Verdict:
        """Hinge loss, with misaligned captions as further fakes, and gradient penalty; the fakes are detached."""
        with torch.no_grad():
            real_features = self.features(batch.real_latents, batch.real_prompt_embeds, batch)
        inputs = {name: [item.detach().requires_grad_() for item in maps] for name, maps in real_features.items()}
        real = self.judge(inputs, batch.real_pooled)
        fake = self.judge(detached(fake_features), batch.pooled)
        hinge = _mean({name: [discriminator_hinge(*pair) for pair in _pairs(real[name], fake[name])] for name in real})
        if self.params.misaligned_weight and batch.is_misaligned.all():
            hinge = hinge + self.params.misaligned_weight * self.misaligned_loss(real_features, batch)
        penalty = torch.zeros_like(hinge)
        if self.params.r1_weight:
            penalty = _mean({name: [r1_penalty(*pair) for pair in _pairs(real[name], inputs[name])] for name in real})
        return Verdict(hinge, penalty, _flat(real), _flat(fake))

    def misaligned_loss(self, real_features: Features, batch: Batch) -> Float[Tensor, ""]:
        """The hinge of real pictures under other pictures' captions, which every frozen network is told as well."""
        features = dict(real_features)
        if "latent" in self.params.discriminators:
            with torch.no_grad():
                features |= self._latent_features(batch.real_latents, batch.misaligned_prompt_embeds, batch)
        logits = self.judge(features, batch.misaligned_pooled)
        return _mean({name: [misaligned_hinge(item) for item in items] for name, items in logits.items()})

    @torch.no_grad()
    def signs(self, verdict: Verdict, unseen: Pictures, *, data: AddData, batch: Batch) -> dict[str, Tensor]:
        """The mean signs of logits of reals that the discriminators are trained on, and of others."""
        device = batch.noise.device
        prompt_embeds, pooled = data.prompt_embeds[unseen.rows].to(device), data.pooled[unseen.rows].to(device)
        features = self.features(unseen.latents.to(device), prompt_embeds, batch)
        return {"seen": mean_sign(verdict.real), "unseen": mean_sign(_flat(self.judge(features, pooled)))}

    def renew_norms(self) -> None:
        """Once a step, before anything is judged: what bounds the heads follows their weights."""
        for head in self.heads.values():
            if isinstance(head, PixelDiscriminator):
                head.renew_norms()

    def judge(self, features: Features, pooled: Float[Tensor, "batch w"]) -> Logits:
        """Per-patch logits of every head of every discriminator."""
        return {name: self.heads[name](maps, pooled) for name, maps in features.items()}

    def _latent_features(self, x0: Tensor, prompt_embeds: Tensor, batch: Batch) -> Features:
        """The teacher sees once; every scale but the first is of its maps."""
        timesteps = batch.judged_timesteps
        x0 = self._augmented(x0, batch)
        noisy = add_noise(x0, batch.judged_noise, timesteps, alphas_cumprod=self.alphas_cumprod)
        maps = self.unet_features(noisy, timesteps, prompt_embeds)
        return {name: [averaged(item, scale) for item in maps] for name, scale in self._scales("latent")}

    def _scales(self, kind: str) -> list[tuple[str, int]]:
        return [(scaled_name(kind, scale), scale) for scale in self.params.discriminator_scales]

    def _augmented(self, maps: Tensor, batch: Batch) -> Tensor:
        return augmented(maps, batch.augment_draws, strength=self.strength.value, params=self.params)


def averaged(maps: Float[Tensor, "batch c h w"], scale: int) -> Float[Tensor, "batch c _ _"]:
    """Means over squares of `scale` places, or over the whole where that is smaller."""
    if scale == 1:
        return maps
    height, width = (max(1, extent // scale) for extent in maps.shape[-2:])
    return F.adaptive_avg_pool2d(maps, (height, width))


def scaled_name(kind: str, scale: int) -> str:
    """The discriminator of this kind (latent, pixel) at this scale; at full size, the kind itself."""
    return kind if scale == 1 else f"{kind}_{scale}"


def detached(features: Features) -> Features:
    """The same values without their history."""
    return {name: [item.detach() for item in maps] for name, maps in features.items()}


def _build_heads(num_channels: dict[str, list[int]], params: Add, *, pooled_width: int) -> nn.ModuleDict:
    kinds = {"latent": LatentDiscriminator, "pixel": PixelDiscriminator}
    with torch.random.fork_rng():
        torch.manual_seed(params.seed)
        return nn.ModuleDict(
            {
                name: kinds[name.partition("_")[0]](
                    channels, width=params.discriminator_width, pooled_width=pooled_width
                )
                for name, channels in num_channels.items()
            }
        )


def _mean(losses: dict[str, list[Tensor]]) -> Float[Tensor, ""]:
    """Over a discriminator's heads, then over discriminators."""
    return torch.stack([torch.stack(items).mean() for items in losses.values()]).mean()


def _pairs(one: list[Tensor], other: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(one, other, strict=True))


def _flat(logits: Logits) -> list[Tensor]:
    return [item for items in logits.values() for item in items]
