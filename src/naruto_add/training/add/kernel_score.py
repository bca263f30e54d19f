"""The validation score: the kernel distance of the student's pictures to the teacher's."""

from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from naruto_add.diffusion.bundle import ModelBundle, decode_latents
from naruto_add.models.backbones import Backbone, load_backbone
from naruto_add.training.scores import paired_kernel_distance

BATCH_SIZE = 8
"""Pictures decoded at once."""
INPUT_PX = 224
"""The side to which pictures are resized: the feature networks were trained at it."""


class KernelScore:
    """Kernel distance (KID's formula) of decoded samples to the teacher's, in features of `add.score_backbone`.

    Neither the discriminators nor `evaluate` use this network, so that the student is not scored by what it was trained
    against. A distance of latents did not work: it fell while the Frechet distance of the pictures rose. The network is
    loaded, and the reference features are computed, at the first use.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        reference: Float[Tensor, "pairs c h w"],
        *,
        backbone_name: Literal["efficientnet_lite2", "dinov2_small"],
    ) -> None:
        self._bundle, self._reference, self._backbone_name = bundle, reference, backbone_name

    def __call__(self, latents: Float[Tensor, "pairs c h w"]) -> float:
        """The score of samples of the reference's noise and prompts, in its order; lower is better, 0 means equal."""
        return paired_kernel_distance(self._features(latents), self._reference_features).item()

    @cached_property
    def _backbone(self) -> Backbone:
        return load_backbone(self._backbone_name, self._bundle.device)

    @cached_property
    def _reference_features(self) -> Float[Tensor, "pairs width"]:
        return self._features(self._reference)

    @torch.no_grad()
    def _features(self, latents: Float[Tensor, "pairs c h w"]) -> Float[Tensor, "pairs width"]:
        return torch.cat([self._batch_features(part.to(self._bundle.device)) for part in latents.split(BATCH_SIZE)])

    def _batch_features(self, latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch width"]:
        pixels = decode_latents(self._bundle, latents).clamp(-1, 1)
        resized = F.interpolate(pixels, size=(INPUT_PX, INPUT_PX), mode="bicubic", antialias=True).clamp(-1, 1)
        return self._backbone(resized)[-1].mean(dim=(2, 3)).cpu()
