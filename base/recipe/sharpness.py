"""What makes an autoencoder's pictures sharp: a distance of features and a discriminator (Esser et al. 2021, VQGAN).

Pictures by a loss of pixels alone are blurred. The autoencoder of Stable Diffusion has these two losses too.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from naruto_add.losses.perceptual import multi_depth_distance
from naruto_add.models.backbones import load_efficientnet, resolution_maps
from recipe.resume import fast_passes
from recipe.updates import ADAMW, update


class Sharpness:
    """The two losses, and the training of the discriminator. All pixels are (N, 3, height, width) in [-1, 1]."""

    def __init__(
        self, *, perceptual_weight: float, adversarial_weight: float, learning_rate: float, device: torch.device
    ) -> None:
        self.perceptual_weight, self.adversarial_weight = perceptual_weight, adversarial_weight
        self.learning_rate, self.device = learning_rate, device
        self.discriminator = Discriminator().to(device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.discriminator.parameters(), lr=learning_rate, fused=True, **ADAMW)
        self.feature_network = load_efficientnet("lite0", device)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of them."""
        return {"discriminator": self.discriminator, "discriminator_optimizer": self.optimizer}

    def loss(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        """Weighted sum of the perceptual distance to the original pixels and the hinge loss of a generator."""
        distance = self.distances(pixels, drawn).mean()
        with fast_passes(self.device):
            logits = self.discriminator(drawn)
        return self.perceptual_weight * distance - self.adversarial_weight * logits.float().mean()

    def distances(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        """Each picture's perceptual distance, in [0, 4], by feature maps of EfficientNet-Lite0."""
        with fast_passes(self.device):
            with torch.no_grad():
                real_maps = resolution_maps(self.feature_network, pixels)
            drawn_maps = resolution_maps(self.feature_network, drawn)
        return multi_depth_distance([each.float() for each in drawn_maps], [each.float() for each in real_maps])

    def train_discriminator(self, pixels: Tensor, drawn: Tensor, *, factor: float) -> None:
        """One update of the discriminator, by the hinge loss; `factor` multiplies the learning rate."""
        with fast_passes(self.device):
            logits = self.discriminator(torch.cat([pixels, drawn.detach()]))
        real, fake = logits.float().chunk(2)
        loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        update(self.discriminator, loss, self.optimizer, learning_rate=self.learning_rate * factor)


class Discriminator(nn.Sequential):
    """Logits of overlapping squares of a picture (Isola et al. 2017, PatchGAN), spectrally normalised."""

    def __init__(self, width: int = 32) -> None:
        widths = [3, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        super().__init__(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1)))
