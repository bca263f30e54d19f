"""The optional losses on decoded crops: the perceptual loss and the image-text loss."""

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from naruto_add.config.schema import Add
from naruto_add.losses.image_text import image_text_loss
from naruto_add.losses.perceptual import multi_depth_distance
from naruto_add.models.backbones import load_backbone
from naruto_add.training.add.batch import Batch
from naruto_add.training.add.decoding import decode_crops
from naruto_add.training.add.image_text import ImageText


class CropLosses:
    """The losses of these two whose weights are not 0; `image_text` is required if `add.image_text_weight` is not 0."""

    def __init__(self, vae: AutoencoderKL, *, params: Add, image_text: ImageText | None, device: torch.device) -> None:
        weights = {"perceptual_loss": params.perceptual_weight, "image_text_loss": params.image_text_weight}
        self._weights = {name: weight for name, weight in weights.items() if weight}
        self._vae, self._side_px, self._image_text = vae, params.crop_px, image_text
        if params.perceptual_weight:
            self._backbone = load_backbone("efficientnet_lite0", device)

    def __call__(
        self, x0_student: Float[Tensor, "batch c h w"], x0_target: Float[Tensor, "batch c h w"], batch: Batch
    ) -> dict[str, Float[Tensor, ""]]:
        """The unweighted losses by name, means over the items; gradients reach only x0_student."""
        losses: dict[str, Tensor] = {}
        if not self._weights:
            return losses
        crops = self._decode(x0_student, batch)
        if "perceptual_loss" in self._weights:
            with torch.no_grad():
                target = self._backbone(self._decode(x0_target, batch))
            losses["perceptual_loss"] = multi_depth_distance(self._backbone(crops), target).mean()
        if self._image_text is not None and "image_text_loss" in self._weights:
            vectors = self._image_text.matcher.images(crops)
            losses["image_text_loss"] = image_text_loss(vectors, self._image_text.text_vectors[batch.prompt_rows])
        return losses

    @property
    def names(self) -> list[str]:
        """The names of the losses whose weight is above 0."""
        return list(self._weights)

    def weighted_sum(self, losses: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """The sum of this object's losses among `losses`, each times its weight; 0 if all weights are 0."""
        return sum((weight * losses[name] for name, weight in self._weights.items()), start=torch.zeros(()))

    def _decode(self, x0: Tensor, batch: Batch) -> Tensor:
        return decode_crops(self._vae, x0, batch.crop_corner, side_px=self._side_px)
