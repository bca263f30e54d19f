"""First step of the evaluation: every set of pictures, drawn or real, that is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from naruto_add.comparison.image_sets import draw_set, encode_and_decode
from naruto_add.comparison.subjects import FULL_TEACHER, Subject
from naruto_add.data.dataset import Example
from naruto_add.data.pixels import load_pixels
from naruto_add.evaluation.cache import Cache
from naruto_add.imaging.pixels import Images, to_uint8
from naruto_add.imaging.similarity import Vectors, thumbnails
from naruto_add.runtime.cache import hash_array
from naruto_add.runtime.progress import progress

LOAD_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class ImageSets:
    """Pictures by the name of their row in metrics/evaluate.json.

    `drawn` has one picture per prompt for every subject, but only of the first `num_first` prompts for `teacher_full`.
    `reseeded` has pictures of the first prompts from another seed, and `sweep` at least those of the first prompts for
    every point of the sweep. `real` has the test split and the controls that are made of real pictures.
    """

    drawn: dict[str, Images]
    reseeded: dict[str, Images]
    sweep: list[Images]
    num_first: int
    real: dict[str, Images]

    def with_real(self, *names: str) -> dict[str, Images]:
        """The drawn pictures of every subject, and these sets of real pictures."""
        return self.drawn | {name: self.real[name] for name in names}


@dataclass(frozen=True, kw_only=True)
class Drawer:
    """Draws the same prompts with every subject. All processes draw together, and only what is not in `cache`."""

    prompts: list[str]
    num_first: int
    """How many prompts are drawn where all of them would take too long."""
    seed: int
    batch_size: int
    cache: Cache

    @property
    def first_prompts(self) -> list[str]:
        """The first `num_first` prompts."""
        return self.prompts[: self.num_first]

    def draw(self, subject: Subject) -> Images:
        """The subject's pictures of all prompts."""
        return self._draw(subject, self.prompts, self.seed)

    def draw_first(self, subject: Subject) -> Images:
        """The subject's pictures of the first prompts."""
        return self._draw(subject, self.first_prompts, self.seed)

    def draw_first_again(self, subject: Subject) -> Images:
        """The subject's pictures of the first prompts, from another seed."""
        return self._draw(subject, self.first_prompts, self.seed + 1)

    def _draw(self, subject: Subject, prompts: list[str], seed: int) -> Images:
        return self.cache.shared_array(
            *("images", subject.key(), prompts, seed, self.batch_size),
            compute=lambda: draw_set(subject, prompts, seed=seed, batch_size=self.batch_size),
        )


def collect_image_sets(
    drawer: Drawer,
    subjects: Mapping[str, Subject],
    sweep: Sequence[Subject],
    *,
    test: Sequence[Example],
    train: Sequence[Example],
) -> ImageSets:
    """All pictures of the evaluation.

    The sweep, the second seed and `teacher_full`, which takes the most steps, use the first prompts only. Neither the
    base model nor `teacher_full` is drawn from the second seed: nothing but their diversity would use it.
    """
    drawn = {
        name: drawer.draw_first(subject) if name == FULL_TEACHER else drawer.draw(subject)
        for name, subject in progress(subjects.items(), desc="evaluate: drawing", total=len(subjects))
    }
    varied = {name: subject for name, subject in subjects.items() if name not in ("base", FULL_TEACHER)}
    reseeded = {
        name: drawer.draw_first_again(subject)
        for name, subject in progress(varied.items(), desc="evaluate: drawing another seed", total=len(varied))
    }
    by_key = {repr(subjects[name].key()): images for name, images in drawn.items()}
    points = progress(sweep, desc="evaluate: drawing the sweep", total=len(sweep))
    return ImageSets(
        drawn=drawn,
        reseeded=reseeded,
        sweep=[by_key[key] if (key := repr(point.key())) in by_key else drawer.draw_first(point) for point in points],
        num_first=drawer.num_first,
        real=_real_sets(test, train, num=len(drawer.prompts), teacher=subjects["teacher"], cache=drawer.cache),
    )


def load_images(examples: Sequence[Example]) -> Images:
    """The pictures of the data set."""
    return to_uint8(load_pixels(examples))


def load_thumbnails(examples: Sequence[Example]) -> Vectors:
    """Thumbnails of pictures of the data set, which are loaded in batches because all of them may not fit in memory."""
    batches = [examples[first : first + LOAD_BATCH] for first in range(0, len(examples), LOAD_BATCH)]
    return np.concatenate([thumbnails(load_images(batch)) for batch in batches])


def _real_sets(
    test: Sequence[Example], train: Sequence[Example], *, num: int, teacher: Subject, cache: Cache
) -> dict[str, Images]:
    """The test split, and three controls of `num` pictures, as many as a subject draws."""
    real, real_train = load_images(test), load_images(train[:num])
    return {
        "real": real,
        "real_decoded": _decode(teacher, real[:num], cache),
        "real_train": real_train,
        "train_decoded": _decode(teacher, real_train, cache),
    }


def _decode(subject: Subject, images: Images, cache: Cache) -> Images:
    """The images as the subject's autoencoder reconstructs them; all processes compute the same."""
    bundle = subject.bundle
    return cache.shared_array(
        *("decoded", subject.weights, bundle.device.type, hash_array(images)),
        compute=lambda: encode_and_decode(bundle, images),
    )
