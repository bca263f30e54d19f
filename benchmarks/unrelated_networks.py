"""Frechet distances by networks that no training uses: `python -m benchmarks.unrelated_networks`, after `dvc repro`.

The discriminator of ADD and the losses of the embedded base model use EfficientNet-Lite0, and the evaluation uses Lite1
of the same family. AlexNet and SqueezeNet have other architectures and other weights, although these are trained on
ImageNet too. A gain that only EfficientNet sees should not appear by them. torchvision loads their weights from torch's
cache, or downloads them.
"""

from typing import Literal

from torch import Tensor, nn
from torchvision import models
from tqdm import tqdm
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from benchmarks.compared import examples, load_compared
from naruto_add.comparison.image_sets import draw_set
from naruto_add.evaluation.drawings import load_images
from naruto_add.evaluation.features import FeatureNetwork, extract_features
from naruto_add.evaluation.frechet import frechet_distance
from naruto_add.evaluation.perceptual import trunk_weights
from naruto_add.models.backbones import standardized
from naruto_add.runtime.compute import default_device

INPUT_PX = 224
SUBJECTS = ("base", "teacher", "teacher_few_steps_dpm", "student", "distilled")
BUILDERS = {"squeeze": models.squeezenet1_1, "alex": models.alexnet}


def main() -> None:
    """Print each model's distances to the test split, and those of as many pictures of the train split."""
    params, subjects = load_compared()
    test = examples(params, "test")
    prompts = [example.prompt for example in test]
    networks = [trunk_network("squeeze"), trunk_network("alex")]
    references = [extract_features(load_images(test), network) for network in networks]
    print("model\t" + "\t".join(network.frechet_name for network in networks))
    for name in tqdm(["real_train", *SUBJECTS]):
        if name == "real_train":
            images = load_images(examples(params, "train")[: len(test)])
        else:
            images = draw_set(subjects[name], prompts, seed=params.evaluate.seed, batch_size=params.evaluate.batch_size)
        found = [
            frechet_distance(extract_features(images, network), reference)
            for network, reference in zip(networks, references, strict=True)
        ]
        print(name + "".join(f"\t{distance:.2f}" for distance in found), flush=True)


def trunk_network(trunk: Literal["alex", "squeeze"]) -> FeatureNetwork:
    """The convolutions of torchvision's network; a picture's vector is the mean of the last map over positions."""
    device = default_device()
    features: nn.Module = BUILDERS[trunk](weights=None).features
    prefix, weights = "features.", trunk_weights(trunk)
    features.load_state_dict({name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)})
    features = features.requires_grad_(False).eval().to(device)

    def forward(pixels: Tensor) -> Tensor:
        maps: Tensor = features(standardized(pixels.to(device) / 255, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        return maps.mean(dim=(2, 3))

    return FeatureNetwork(trunk, f"fd_{trunk}", f"kd_{trunk}", INPUT_PX, forward)


if __name__ == "__main__":
    main()
