"""The score that a student is chosen by: how its pictures, not its latents, differ from the teacher's."""

from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from naruto_add.diffusion.bundle import ModelBundle, decode_latents
from naruto_add.models.backbones import Backbone, load_backbone
from naruto_add.params import Add
from naruto_add.training.scores import paired_kernel_distance

AT_ONCE = 8
"""Pictures that are decoded together."""
INPUT_PX = 224
"""Side that pictures get: networks of photographs were trained at this one, and small pictures vanish in them."""


class PictureScore:
    """Kernel distance (KID's formula) of decoded samples to the teacher's, by the features of `add.score_backbone`.

    Neither the discriminator nor `evaluate` sees by that network: who is trained against its judge is flattered. A
    distance of latents was tried first: it fell while the Frechet distance of the pictures rose. The network is loaded,
    and the reference seen, when they are first asked for.
    """

    def __init__(self, bundle: ModelBundle, reference: Float[Tensor, "others c h w"], *, params: Add) -> None:
        self._bundle, self._reference, self._backbone_name = bundle, reference, params.score_backbone

    def __call__(self, latents: Float[Tensor, "samples c h w"]) -> float:
        """Samples of the reference's noise and prompts, in its order. Lower is better; 0 for the very same pictures."""
        return paired_kernel_distance(self._features(latents), self._reference_features).item()

    @cached_property
    def _backbone(self) -> Backbone:
        return load_backbone(self._backbone_name, self._bundle.device)

    @cached_property
    def _reference_features(self) -> Float[Tensor, "others width"]:
        return self._features(self._reference)

    @torch.no_grad()
    def _features(self, latents: Float[Tensor, "samples c h w"]) -> Float[Tensor, "samples width"]:
        return torch.cat([self._seen(part.to(self._bundle.device)) for part in latents.split(AT_ONCE)])

    def _seen(self, latents: Float[Tensor, "samples c h w"]) -> Float[Tensor, "samples width"]:
        pixels = decode_latents(self._bundle, latents).clamp(-1, 1)
        resized = F.interpolate(pixels, size=(INPUT_PX, INPUT_PX), mode="bicubic", antialias=True).clamp(-1, 1)
        return self._backbone(resized)[-1].mean(dim=(2, 3)).cpu()
