"""Every subject's figures, side by side: quality against held-out pictures, closeness to the teacher, speed, size.

Generated sets, features, distances and timings are cached, so that another `evaluate.subject` costs seconds.
What each figure means stands in `naruto_add.catalog`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from naruto_add.data.dataset import Example, load_split
from naruto_add.data.pixels import load_pixels
from naruto_add.data.prompts import fill_template
from naruto_add.evaluation.attributes import (
    attribute_accuracy,
    has_attributes,
    load_classifier,
    train_classifier,
    vocabulary_of,
)
from naruto_add.evaluation.cache import cached
from naruto_add.evaluation.cost import costs
from naruto_add.evaluation.features import Images
from naruto_add.evaluation.frechet import Features
from naruto_add.evaluation.generate import Subject, as_images, at_steps, drawn, load_subjects
from naruto_add.evaluation.judge import (
    Judge,
    Metrics,
    closeness,
    distribution,
    diversity,
    load_judge,
    novelty,
    thumbnails,
)
from naruto_add.evaluation.sweep import sweep, write_sweep
from naruto_add.files import write_json
from naruto_add.params import Base, Evaluate, Sampling
from naruto_add.runtime import StageError, progress

SUBJECTS = ("base", "teacher", "student", "distilled")
LOAD_BATCH = 64


@dataclass(frozen=True)
class _Held:
    """The pictures that drawn ones are compared with."""

    real: Images
    real_thumbnails: Features
    train_thumbnails: Features


def run_evaluate(
    params: Evaluate,
    *,
    base: Base,
    sampling: Sampling,
    prompt_template: str,
    num_student_steps: int,
    dataset_dir: Path,
    teacher_dir: Path,
    student_dir: Path,
    distilled_dir: Path,
    cache_dir: Path,
    metrics_path: Path,
    subject_path: Path,
    sweep_path: Path,
) -> None:
    """Write every subject's metrics as `<subject>.<metric>`, and those of `params.subject` under their bare names.

    At `sweep_path` a table of quality and latency by number of steps.
    """
    held_out, train = load_split(dataset_dir, "test"), load_split(dataset_dir, "train")
    _check_enough(params, len(held_out))
    judge = load_judge(params, cache_dir)
    subjects = load_subjects(
        base,
        sampling,
        num_student_steps=num_student_steps,
        teacher_dir=teacher_dir,
        student_dir=student_dir,
        distilled_dir=distilled_dir,
    )
    prompts = [fill_template(prompt_template, example.caption) for example in _first(held_out, params.num_images)]
    compared = subjects | {"teacher_fast": at_steps(subjects["teacher"], num_student_steps)}
    sets = _draw_sets(compared, prompts, params=params, cache_dir=cache_dir)

    held = _load_held(held_out, train)
    metrics = {name: _quality(images, held, sets["teacher"], judge=judge) for name, images in sets.items()}
    for name, values in _diversities(compared, prompts, sets, params=params, judge=judge).items():
        metrics[name] |= values
    metrics |= _controls(held, train[: len(prompts)], judge=judge)
    for name, values in _attributes(sets, held.real, held_out, train, params=params, cache_dir=cache_dir).items():
        metrics[name] |= values
    for name, values in costs(subjects, prompts, params=params, cache_dir=cache_dir).items():
        metrics[name] = metrics.get(name, {}) | values
    points = sweep(compared, prompts, drawn_sets=sets, real=held.real, sampling=sampling, params=params, judge=judge)

    write_sweep(points, sweep_path)
    write_json(metrics_path, {f"{name}.{key}": value for name, row in metrics.items() for key, value in row.items()})
    write_json(subject_path, metrics[params.subject])


def _check_enough(params: Evaluate, num_held_out: int) -> None:
    if params.num_images == 1:
        raise StageError("evaluate.num_images: 1 picture has no distribution; use at least 2, or 0 for all")
    if num_held_out < 2:
        raise StageError(f"ingest.test_fraction: leaves {num_held_out} held-out picture; evaluate needs at least 2")


def _first(examples: list[Example], num: int) -> list[Example]:
    """The first `num`, or all of them for 0."""
    return examples[:num] if num else examples


def _load_images(examples: list[Example]) -> Images:
    return as_images(load_pixels(examples))


def _load_held(held_out: list[Example], train: list[Example]) -> _Held:
    """Of the training pictures only thumbnails: all of them at their size may not fit into memory."""
    real = _load_images(held_out)
    batches = [train[first : first + LOAD_BATCH] for first in range(0, len(train), LOAD_BATCH)]
    train_thumbnails = np.concatenate([thumbnails(_load_images(batch)) for batch in batches])
    return _Held(real, thumbnails(real), train_thumbnails)


def _draw_sets(
    subjects: dict[str, Subject], prompts: list[str], *, params: Evaluate, cache_dir: Path
) -> dict[str, Images]:
    """Each subject's pictures."""
    return {
        name: drawn(subject, prompts, seed=params.seed, batch_size=params.batch_size, cache_dir=cache_dir)
        for name, subject in progress(subjects.items(), desc="evaluate: drawing", total=len(subjects))
    }


def _quality(images: Images, held: _Held, teacher: Images, *, judge: Judge) -> Metrics:
    return {
        **distribution(images, held.real, judge=judge),
        **closeness(images, teacher, judge=judge),
        **novelty(thumbnails(images), held.real_thumbnails, held.train_thumbnails),
    }


def _diversities(
    subjects: dict[str, Subject], prompts: list[str], sets: dict[str, Images], *, params: Evaluate, judge: Judge
) -> dict[str, Metrics]:
    """How different each subject's pictures of one prompt are; of the teacher's it is the floor of its closeness.

    One batch is enough for a mean of pairs.
    """
    few = prompts[: params.batch_size]
    again = {
        name: drawn(subject, few, seed=params.seed + 1, batch_size=params.batch_size, cache_dir=judge.cache_dir)
        for name, subject in subjects.items()
    }
    return {name: diversity(sets[name][: len(few)], images, judge=judge) for name, images in again.items()}


def _attributes(
    sets: dict[str, Images],
    real: Images,
    held_out: list[Example],
    train: list[Example],
    *,
    params: Evaluate,
    cache_dir: Path,
) -> dict[str, Metrics]:
    """How often pictures show what captions name, those of `real` too; nothing for data sets without attributes."""
    if not params.classifier_steps or not has_attributes([*held_out, *train]):
        return {}
    settings = (params.classifier_steps, params.classifier_learning_rate, params.seed)
    files = [example.image_path for example in train]
    state = cached(
        cache_dir,
        ["attributes", settings, [example.attributes for example in train], *files],
        lambda: train_classifier(
            _load_images(train), train, num_steps=settings[0], learning_rate=settings[1], seed=settings[2]
        ),
    )
    classifier = load_classifier(state, vocabulary_of(train))
    return {
        name: dict(attribute_accuracy(classifier, images, held_out[: len(images)]))
        for name, images in {**sets, "real": real}.items()
    }


def _controls(held: _Held, train: list[Example], *, judge: Judge) -> dict[str, Metrics]:
    """Training pictures, as many as drawn ones, judged as if they were drawn: what a perfect model would get."""
    return {
        "real_train": distribution(_load_images(train), held.real, judge=judge),
        "real": {"num_images": len(held.real)},
    }
