"""The discriminators and the losses on decoded crops of `add`, on fake tensors."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from naruto_add.config.constants import CAPTION_MATCH
from naruto_add.config.schema import Add
from naruto_add.estimate.fake import materialized, on_meta
from naruto_add.estimate.feature_networks import backbone_network, new_backbone, new_clip
from naruto_add.estimate.networks import Shapes, new_vae
from naruto_add.losses.adversarial import discriminator_hinge, generator_hinge, r1_penalty
from naruto_add.losses.image_text import image_text_loss
from naruto_add.losses.perceptual import multi_depth_distance
from naruto_add.models.caption_match import CaptionMatch
from naruto_add.models.discriminator import LatentDiscriminator, UnetFeatures, gradients_off
from naruto_add.models.pixel_discriminator import PixelDiscriminator
from naruto_add.training.add.decoding import decode_crops
from naruto_add.training.add.image_text import ClipMatcher

Features = Mapping[str, Sequence[Tensor]]
_Vectors = Callable[[Tensor], Tensor]


class Crops:
    """Decoding of crops of the student's pictures, and the losses on them whose weight is not 0."""

    def __init__(self, add: Add, shapes: Shapes) -> None:
        self._add = add
        self.is_used = "pixel" in add.discriminators or bool(add.perceptual_weight or add.image_text_weight)
        self.networks: list[nn.Module] = []
        if self.is_used:
            self._vae = new_vae(shapes)
            self.networks.append(self._vae)
        if add.perceptual_weight:
            self._backbone = new_backbone("efficientnet_lite0")
            self.networks.append(backbone_network(self._backbone))
        if add.image_text_weight:
            self._images = self._image_tower(shapes.text_width)

    def decode(self, latents: Tensor) -> Tensor:
        """One crop of each item."""
        return decode_crops(self._vae, latents, torch.zeros(len(latents), 2), side_px=self._add.crop_px)

    def loss(self, x0_student: Tensor, x0_target: Tensor) -> Tensor | float:
        """The sum of the two losses."""
        if not (self._add.perceptual_weight or self._add.image_text_weight):
            return 0.0
        crops, loss = self.decode(x0_student), torch.zeros(())
        if self._add.perceptual_weight:
            with torch.no_grad():
                target = self._backbone(self.decode(x0_target))
            loss = loss + multi_depth_distance(self._backbone(crops), target).mean()
        if self._add.image_text_weight:
            vectors = self._images(crops)
            loss = loss + image_text_loss(vectors, torch.empty_like(vectors))
        return loss

    def _image_tower(self, text_width: int) -> _Vectors:
        if self._add.image_text_network == CAPTION_MATCH:
            with on_meta():
                network = CaptionMatch(text_width)
            materialized(network.requires_grad_(False))
            self.networks.append(network)
            return network.image_vectors
        clip = new_clip(self._add.image_text_network)
        self.networks.append(clip.model)
        return ClipMatcher(clip).images


class Adversary:
    """The heads, which are trained, on features of the teacher's U-Net and of decoded crops."""

    def __init__(self, teacher: nn.Module, add: Add, crops: Crops, *, text_width: int) -> None:
        self._crops = crops
        self.networks: list[nn.Module] = []
        with on_meta():
            heads: dict[str, nn.Module] = {}
            if "latent" in add.discriminators:
                self._features = UnetFeatures(teacher, add.discriminator_blocks)
                heads["latent"] = LatentDiscriminator(self._features.num_channels, pooled_width=text_width)
        if "pixel" in add.discriminators:
            self._backbone = new_backbone(add.pixel_backbone)
            self.networks.append(backbone_network(self._backbone))
            with on_meta():
                heads["pixel"] = PixelDiscriminator(self._backbone.num_channels, pooled_width=text_width)
        self.heads = materialized(nn.ModuleDict(heads))

    def features(self, x0: Tensor, timesteps: Tensor, embeds: Tensor) -> Features:
        """Frozen features; gradients reach x0."""
        features: dict[str, Sequence[Tensor]] = {}
        if "latent" in self.heads:
            features["latent"] = self._features(x0, timesteps, embeds)
        if "pixel" in self.heads:
            features["pixel"] = self._backbone(self._crops.decode(x0))
        return features

    def loss(self, fakes: Features, pooled: Tensor) -> Tensor:
        """The student's adversarial loss."""
        with gradients_off(self.heads):
            return torch.stack([generator_hinge(item) for item in self._logits(fakes, pooled)]).mean()

    def train(self, fakes: Features, reals: Features, pooled: Tensor) -> None:
        """The heads' backward pass, with the penalty."""
        inputs = {name: [item.detach().requires_grad_() for item in maps] for name, maps in reals.items()}
        detached = {name: [item.detach() for item in maps] for name, maps in fakes.items()}
        real, fake = self._logits(inputs, pooled), self._logits(detached, pooled)
        hinge = torch.stack([discriminator_hinge(*pair) for pair in zip(real, fake, strict=True)]).mean()
        maps = [item for name in inputs for item in inputs[name]]
        penalty = torch.stack([r1_penalty(*pair) for pair in zip(real, maps, strict=True)]).mean()
        (hinge + penalty).backward()

    def _logits(self, features: Features, pooled: Tensor) -> list[Tensor]:
        return [logits for name, maps in features.items() for logits in self.heads[name](maps, pooled)]
