"""The validation score of `add`: the distance of its pictures to real ones, and how well they follow their prompts."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from naruto_add.diffusion.bundle import ModelBundle, decode_latents
from naruto_add.losses.kernel import KernelDistance, kernel_distance
from naruto_add.models.backbones import Backbone, load_backbone
from naruto_add.training.scores import prompt_match

BATCH_SIZE = 8
"""Pictures decoded and measured at once."""
INPUT_PX = 224
"""The side to which pictures are resized: the feature networks were trained at it."""


@dataclass(frozen=True)
class Score:
    """Kernel distances to real pictures and to the teacher's, and `prompt_match` with the teacher's pictures."""

    distance: KernelDistance
    teacher_distance: float
    prompt_match: float


class ValidationScore:
    """Scores pictures in features of `add.score_backbone`.

    What chooses weights is the distance to real pictures, because that is what the student is trained towards: nearness
    to the teacher's pictures would punish a student that surpasses its teacher. Neither the discriminators nor
    `evaluate` use this network, so that the student is not scored by what it was trained against. The network is
    loaded, and the features of the references are computed, at the first use.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        real_pixels: Float[Tensor, "pictures 3 height width"],
        teacher_latents: Float[Tensor, "pairs c h w"],
        prompts: Int[Tensor, " pairs"],
        backbone_name: Literal["efficientnet_lite2", "dinov2_small"],
    ) -> None:
        """`real_pixels` are in [-1, 1]. `prompts` numbers the prompts of the teacher's samples."""
        self._bundle, self._real_pixels = bundle, real_pixels
        self._teacher_latents, self._prompts, self._backbone_name = teacher_latents, prompts, backbone_name
        self.input_px = INPUT_PX

    def __call__(self, latents: Float[Tensor, "pairs c h w"]) -> Score:
        """The scores of samples of the same prompts and noise as the teacher's, in their order."""
        features = self._decoded_features(latents)
        return Score(
            distance=kernel_distance(features, self._real_features),
            teacher_distance=kernel_distance(features, self._teacher_features).value,
            prompt_match=prompt_match(features, self._teacher_features, self._prompts),
        )

    @cached_property
    def teacher_score(self) -> float:
        """The kernel distance of the teacher's pictures to the real ones."""
        return kernel_distance(self._teacher_features, self._real_features).value

    @cached_property
    def _backbone(self) -> Backbone:
        return load_backbone(self._backbone_name, self._bundle.device)

    @cached_property
    def _real_features(self) -> Float[Tensor, "pictures width"]:
        return torch.cat([self._features(part.to(self._bundle.device)) for part in self._real_pixels.split(BATCH_SIZE)])

    @cached_property
    def _teacher_features(self) -> Float[Tensor, "pairs width"]:
        return self._decoded_features(self._teacher_latents)

    def _decoded_features(self, latents: Float[Tensor, "pairs c h w"]) -> Float[Tensor, "pairs width"]:
        parts = (part.to(self._bundle.device) for part in latents.split(BATCH_SIZE))
        return torch.cat([self._features(decode_latents(self._bundle, part)) for part in parts])

    @torch.no_grad()
    def _features(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch width"]:
        resized = F.interpolate(pixels, size=(self.input_px, self.input_px), mode="bicubic", antialias=True).clamp(
            -1, 1
        )
        return self._backbone(resized)[-1].mean(dim=(2, 3)).cpu()
