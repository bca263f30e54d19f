"""First step of the evaluation: every set of pictures, drawn or real, that is measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from naruto_add.data.dataset import Example
from naruto_add.data.pixels import load_pixels
from naruto_add.evaluation.cache import shared_arrays
from naruto_add.generation.image_sets import draw_set, encode_and_decode
from naruto_add.generation.subjects import FULL_TEACHER, Subject
from naruto_add.imaging.pixels import Images, to_uint8
from naruto_add.imaging.similarity import Vectors, thumbnails
from naruto_add.runtime.cache import hash_array
from naruto_add.runtime.progress import progress

LOAD_BATCH = 64

Draw = Callable[..., Images]
"""`draw_cached` with its batch size and its folder."""


@dataclass(frozen=True, kw_only=True)
class ImageSets:
    """Pictures by the name of their row in metrics/evaluate.json.

    `drawn` has one picture per test prompt for every subject, but only of the first prompts for `teacher_full`.
    `reseeded` has pictures of the first prompts from another seed, and `sweep` at least those of the first prompts for
    every point of the sweep. `real` has the test split and the controls that are made of real pictures.
    """

    drawn: dict[str, Images]
    reseeded: dict[str, Images]
    sweep: list[Images]
    real: dict[str, Images]

    def with_real(self, *names: str) -> dict[str, Images]:
        """The drawn pictures of every subject, and these sets of real pictures."""
        return self.drawn | {name: self.real[name] for name in names}


def collect_image_sets(
    subjects: Mapping[str, Subject],
    sweep: Sequence[Subject],
    *,
    test: Sequence[Example],
    train: Sequence[Example],
    num_images: int,
    num_sweep_images: int,
    seed: int,
    batch_size: int,
    cache_dir: Path,
) -> ImageSets:
    """All pictures of the evaluation, drawn for the first `num_images` test prompts or taken from `cache_dir`.

    The sweep, the second seed and `teacher_full`, which takes the most steps, use the first `num_sweep_images` prompts.
    Neither the base model nor `teacher_full` is drawn from the second seed: nothing but their diversity would use it.
    """
    draw = partial(draw_cached, batch_size=batch_size, cache_dir=cache_dir)
    prompts = [example.prompt for example in test[:num_images]]
    first_prompts = prompts[:num_sweep_images]
    full = {FULL_TEACHER: subjects[FULL_TEACHER]}
    others = {name: subject for name, subject in subjects.items() if name not in full}
    varied = {name: subject for name, subject in others.items() if name != "base"}
    drawn = _draw_each(others, prompts, seed=seed, draw=draw) | _draw_each(full, first_prompts, seed=seed, draw=draw)
    reseeded = _draw_each(varied, first_prompts, seed=seed + 1, draw=draw)
    by_key = {repr(subjects[name].key()): images for name, images in drawn.items()}
    return ImageSets(
        drawn=drawn,
        reseeded=reseeded,
        sweep=_draw_sweep(sweep, first_prompts, seed=seed, draw=draw, by_key=by_key),
        real=_real_sets(test, train, num=len(prompts), teacher=subjects["teacher"], cache_dir=cache_dir),
    )


def draw_cached(subject: Subject, prompts: list[str], *, seed: int, batch_size: int, cache_dir: Path) -> Images:
    """The pictures of `draw_set`, drawn by all processes together, and only if they are not in `cache_dir`."""
    return shared_arrays(
        cache_dir,
        *("images", subject.key(), prompts, seed, batch_size),
        compute=lambda: {"images": draw_set(subject, prompts, seed=seed, batch_size=batch_size)},
    )["images"]


def load_images(examples: Sequence[Example]) -> Images:
    """The pictures of the data set."""
    return to_uint8(load_pixels(examples))


def load_thumbnails(examples: Sequence[Example]) -> Vectors:
    """Thumbnails of pictures of the data set, which are loaded in batches because all of them may not fit in memory."""
    batches = [examples[first : first + LOAD_BATCH] for first in range(0, len(examples), LOAD_BATCH)]
    return np.concatenate([thumbnails(load_images(batch)) for batch in batches])


def _draw_each(subjects: Mapping[str, Subject], prompts: list[str], *, seed: int, draw: Draw) -> dict[str, Images]:
    named = progress(subjects.items(), desc="evaluate: drawing", total=len(subjects))
    return {name: draw(subject, prompts, seed=seed) for name, subject in named}


def _draw_sweep(
    sweep: Sequence[Subject], prompts: list[str], *, seed: int, draw: Draw, by_key: Mapping[str, Images]
) -> list[Images]:
    """The pictures of each point of the sweep; `by_key` has those of subjects that are drawn anyway."""
    sets = []
    for subject in progress(sweep, desc="evaluate: drawing the sweep", total=len(sweep)):
        key = repr(subject.key())
        sets.append(by_key[key] if key in by_key else draw(subject, prompts, seed=seed))
    return sets


def _real_sets(
    test: Sequence[Example], train: Sequence[Example], *, num: int, teacher: Subject, cache_dir: Path
) -> dict[str, Images]:
    """The test split, and three controls of `num` pictures, as many as a subject draws."""
    real, real_train = load_images(test), load_images(train[:num])
    return {
        "real": real,
        "real_decoded": _decode_cached(teacher, real[:num], cache_dir=cache_dir),
        "real_train": real_train,
        "train_decoded": _decode_cached(teacher, real_train, cache_dir=cache_dir),
    }


def _decode_cached(subject: Subject, images: Images, *, cache_dir: Path) -> Images:
    """The images as the subject's autoencoder reconstructs them; all processes compute the same."""
    bundle = subject.bundle
    return shared_arrays(
        cache_dir,
        *("decoded", subject.weights, bundle.device.type, hash_array(images)),
        compute=lambda: {"images": encode_and_decode(bundle, images)},
    )["images"]
