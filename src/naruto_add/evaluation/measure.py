"""Second step of the evaluation: the output of every metric network for every set of pictures that needs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from naruto_add.evaluation.cache import Cache, local_folder
from naruto_add.evaluation.clip import OFF, clip_scores, load_clip
from naruto_add.evaluation.drawings import ImageSets
from naruto_add.evaluation.features import FeatureNetwork, extract_features, load_feature_network
from naruto_add.evaluation.frechet import Features
from naruto_add.evaluation.intervals import Values
from naruto_add.evaluation.perceptual import PerceptualNetwork, Trunk, load_perceptual_network, perceptual_distances
from naruto_add.imaging.pixels import Images
from naruto_add.imaging.similarity import Vectors, thumbnails
from naruto_add.models.clip import ClipNetwork
from naruto_add.runtime.cache import hash_array
from naruto_add.runtime.compute import default_device


@dataclass(frozen=True)
class MetricNetworks:
    """The networks that metrics are computed with."""

    features: FeatureNetwork
    perceptual: PerceptualNetwork
    clip: ClipNetwork | None


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """Network outputs by the name of the row in metrics/evaluate.json; `sweep_features` in the order of the sweep.

    `teacher_distances` are perceptual distances to the teacher's pictures of the same prompts and noise,
    `seed_distances` those between a subject's own pictures of the same prompts from two seeds.
    """

    features: dict[str, Features]
    sweep_features: list[Features]
    thumbnails: dict[str, Vectors]
    teacher_distances: dict[str, Values]
    seed_distances: dict[str, Values]
    clip_scores: dict[str, Values]


def load_metric_networks(
    features: Literal["embedded", "inception", "clip", "dinov2"],
    perceptual: Literal["embedded"] | Trunk,
    clip_score: str,
) -> MetricNetworks:
    """The networks of these parameters of `evaluate`. Raises StageError if weights are missing or cannot be loaded."""
    device = default_device()
    return MetricNetworks(
        features=load_feature_network(features, device),
        perceptual=load_perceptual_network(perceptual, device),
        clip=None if clip_score == OFF else load_clip(clip_score, device),
    )


def measure(sets: ImageSets, networks: MetricNetworks, *, captions: Sequence[str], cache: Cache) -> Measurements:
    """All network outputs, computed or taken from `cache`.

    `captions` are those of the test split without the prompt template; CLIP compares pictures with them.
    """
    features = partial(_features, network=networks.features, cache=cache)
    distances = partial(_distances, network=networks.perceptual, cache=cache)
    drawn, reseeded = sets.drawn, sets.reseeded
    return Measurements(
        features={
            name: features(images) for name, images in sets.with_real("real", "real_decoded", "real_train").items()
        },
        sweep_features=[features(images)[: sets.num_first] for images in sets.sweep],
        thumbnails={
            name: thumbnails(images) for name, images in sets.with_real("real", "real_decoded", "train_decoded").items()
        },
        teacher_distances={name: distances(images, drawn["teacher"][: len(images)]) for name, images in drawn.items()},
        seed_distances={name: distances(drawn[name][: len(images)], images) for name, images in reseeded.items()},
        clip_scores={
            name: _clip_scores(images, captions[: len(images)], networks.clip, cache)
            for name, images in sets.with_real("real", "real_decoded").items()
            if networks.clip
        },
    )


def _features(images: Images, *, network: FeatureNetwork, cache: Cache) -> Features:
    return cache.array(
        *("features", network.name, hash_array(images)),
        compute=lambda: extract_features(images, network),
    )


def _distances(images: Images, others: Images, *, network: PerceptualNetwork, cache: Cache) -> Values:
    return cache.array(
        *("perceptual", network.name, hash_array(images), hash_array(others)),
        compute=lambda: perceptual_distances(images, others, network=network),
    )


def _clip_scores(images: Images, captions: Sequence[str], clip: ClipNetwork, cache: Cache) -> Values:
    return cache.array(
        *("clip", clip.name, *local_folder(clip.name), list(captions), hash_array(images)),
        compute=lambda: clip_scores(images, captions, clip),
    )
