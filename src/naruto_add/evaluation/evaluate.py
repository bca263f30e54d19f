"""Every subject's figures, side by side: quality against held-out pictures, closeness to the teacher, speed, size.

Generated sets and times are cached by the code that draws, features and distances by all code, so that another
`evaluate.subject` costs seconds, and an edit of what judges draws nothing. What each figure means stands in
`naruto_add.catalog`.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from naruto_add.catalog import FEW, headline, is_companion
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
from naruto_add.evaluation.cost import cost_jobs, costs
from naruto_add.evaluation.features import Images
from naruto_add.evaluation.frechet import Features
from naruto_add.evaluation.generate import as_images, decoded, drawn
from naruto_add.evaluation.judge import (
    Judge,
    Metrics,
    caption_fit,
    closeness,
    compared,
    distribution,
    diversity,
    image_features,
    load_judge,
    noise_floor,
    novelty,
)
from naruto_add.evaluation.likeness import thumbnails
from naruto_add.evaluation.speed import peak_rss_mib
from naruto_add.evaluation.subjects import Models, Subject, hurried, load_subjects
from naruto_add.evaluation.sweep import sweep, write_sweep
from naruto_add.evaluation.timing import time_jobs
from naruto_add.files import write_json
from naruto_add.params import Evaluate
from naruto_add.runtime import StageError, progress

MIN_HELD_OUT = 4
"""Half of them are still a distribution."""
LOAD_BATCH = 64
CLASSIFIED = "attribute_accuracy"
SURE_CLASSIFIER = 0.95
"""Accuracy on real pictures below which what it says of drawn ones is in doubt."""

Draw = Callable[..., Images]
"""What `drawn` is once batches and cache are chosen."""


@dataclass(frozen=True)
class _Held:
    """The pictures that drawn ones are compared with."""

    real: Images
    real_thumbnails: Features
    train_thumbnails: Features


def evaluate(
    params: Evaluate,
    *,
    models: Models,
    prompt_template: str,
    dataset_dir: Path,
    drawn_dir: Path,
    cache_dir: Path,
    metrics_path: Path,
    subject_path: Path,
    sweep_path: Path,
) -> None:
    """Write every subject's metrics as `<subject>.<metric>`, and those of `params.subject` that matter most, bare.

    At `sweep_path` a table of quality and latency by number of steps. Pictures and times are kept in `drawn_dir`, what
    is made of them in `cache_dir`.
    """
    held_out, train = load_split(dataset_dir, "test"), load_split(dataset_dir, "train")
    _check_enough(len(held_out))
    judge, subjects = load_judge(params, cache_dir), load_subjects(models)
    subjects |= hurried(subjects["teacher"], models.num_student_steps)
    prompts = [fill_template(prompt_template, example.caption) for example in _first(held_out, params.num_images)]
    few, draw = prompts[: params.few_images], partial(drawn, batch_size=params.batch_size, cache_dir=drawn_dir)
    sets = _draw_sets(subjects, prompts, seed=params.seed, draw=draw)
    varied = {name: subject for name, subject in subjects.items() if name != "base"}  # slow, and nobody's standard
    again = _draw_sets(varied, few, seed=params.seed + 1, draw=draw)
    held = _load_held(held_out, train)
    real = {
        "real": held.real,
        "real_decoded": decoded(subjects["teacher"], held.real[: len(prompts)], cache_dir=drawn_dir),
    }
    copies = decoded(subjects["teacher"], _load_images(train[: len(prompts)]), cache_dir=drawn_dir)
    points = sweep(
        subjects,
        draw=lambda subject: draw(subject, few, seed=params.seed),
        drawn_sets=sets,
        real=held.real,
        sampling=models.sampling,
        params=params,
        judge=judge,
    )
    jobs = [*cost_jobs(subjects), *(point.job for point in points)]
    times = time_jobs(jobs, prompts, seed=params.seed, rounds=params.latency_repeats, cache_dir=drawn_dir)
    metrics = _merged(
        {name: _quality(images, held, sets["teacher"], judge=judge) for name, images in sets.items()},
        _controls(held, real["real_decoded"], train[: len(prompts)], judge=judge),
        {"train_decoded": {"num_images": len(copies), **_novelty(copies, held)}},
        _diversities(sets, again, judge=judge),
        _caption_fits(sets | real, held_out, judge=judge),
        _attributes(sets | real, held_out, train, params=params, cache_dir=cache_dir),
        costs(subjects, times),
        _memory(),
    )
    write_sweep(points, times, sweep_path)
    write_json(metrics_path, {f"{name}.{key}": value for name, row in metrics.items() for key, value in row.items()})
    write_json(subject_path, _short(metrics[params.subject]))


def _short(row: Metrics) -> Metrics:
    """The headline figures with four digits, and whether they are of few pictures: what DVC's tables have room for.

    The first one's flag stands for all, for they are of the same pictures.
    """
    names = headline(set(row))
    shown = {*names, *[f"{name}{FEW}" for name in names if f"{name}{FEW}" in row][:1]}
    return {name: row[name] if isinstance(row[name], int) else float(f"{row[name]:.4g}") for name in sorted(shown)}


def _check_enough(num_held_out: int) -> None:
    if num_held_out < MIN_HELD_OUT:
        raise StageError(
            f"ingest.test_fraction: leaves {num_held_out} held-out pictures; evaluate needs at least {MIN_HELD_OUT}"
        )


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


def _draw_sets(subjects: dict[str, Subject], prompts: list[str], *, seed: int, draw: Draw) -> dict[str, Images]:
    """Each subject's pictures."""
    return {
        name: draw(subject, prompts, seed=seed)
        for name, subject in progress(subjects.items(), desc="evaluate: drawing", total=len(subjects))
    }


def _quality(images: Images, held: _Held, teacher: Images, *, judge: Judge) -> Metrics:
    return {
        **distribution(images, held.real, judge=judge),
        **closeness(images, teacher, judge=judge),
        **_novelty(images, held),
    }


def _diversities(sets: dict[str, Images], again: dict[str, Images], *, judge: Judge) -> dict[str, Metrics]:
    """How different each subject's pictures of one prompt are; of the teacher's it is the floor of its closeness."""
    pairs = {name: (sets[name][: len(images)], images) for name, images in again.items()}
    rows = {name: diversity(*pair, judge=judge) for name, pair in pairs.items()}
    rows["teacher"] |= noise_floor(*pairs["teacher"], judge=judge)
    return rows


def _caption_fits(sets: dict[str, Images], held_out: list[Example], *, judge: Judge) -> dict[str, Metrics]:
    """How well pictures fit the captions as the data set has them, without the template around them."""
    captions = [example.caption for example in held_out]
    return {name: caption_fit(images, captions[: len(images)], judge=judge) for name, images in sets.items()}


def _attributes(
    sets: dict[str, Images], held_out: list[Example], train: list[Example], *, params: Evaluate, cache_dir: Path
) -> dict[str, Metrics]:
    """How often pictures show what captions name; nothing for data sets without attributes."""
    if not params.classifier_steps or not has_attributes([*held_out, *train]):
        return {}
    num_steps, learning_rate, seed = params.classifier_steps, params.classifier_learning_rate, params.seed
    files = [example.image_path for example in train]
    state = cached(
        cache_dir,
        ["attributes", num_steps, learning_rate, seed, [example.attributes for example in train], *files],
        lambda: train_classifier(
            _load_images(train), train, num_steps=num_steps, learning_rate=learning_rate, seed=seed
        ),
    )
    classifier = load_classifier(state, vocabulary_of(train))
    rows = {
        name: attribute_accuracy(classifier, images, held_out[: len(images)], seed=seed)
        for name, images in sets.items()
    }
    _warn_of_doubt(rows["real"])
    return rows


def _warn_of_doubt(real: Metrics) -> None:
    accuracies = {name: real[name] for name in real if name.startswith(CLASSIFIED) and not is_companion(name)}
    doubtful = [f"{name} ({value:.1%})" for name, value in accuracies.items() if value < SURE_CLASSIFIER]
    if doubtful:
        sys.stderr.write(
            f"evaluate: on real held-out pictures the attribute classifier reaches less than {SURE_CLASSIFIER:.0%} of "
            f"{', '.join(doubtful)}; take these figures of drawn pictures for no more than that, or raise "
            "evaluate.classifier_steps\n"
        )


def _controls(held: _Held, decoded_real: Images, train: list[Example], *, judge: Judge) -> dict[str, Metrics]:
    """Real pictures judged as if they were drawn: what a perfect model would get.

    Training ones and decoded ones are as many as drawn ones, so only they compare with a subject's row; the halves of
    the held-out ones are of other numbers. Decoded ones have what the autoencoder loses, and are otherwise among those
    that they are compared with: no model with this autoencoder can come nearer.
    """
    features = image_features(held.real, judge)
    half_thumbnails, other_thumbnails = held.real_thumbnails[::2], held.real_thumbnails[1::2]
    return {
        "real": {"num_images": len(held.real)},
        "real_decoded": {
            **distribution(decoded_real, held.real, judge=judge),
            **_novelty(decoded_real, held),
        },
        "real_train": distribution(_load_images(train), held.real, judge=judge),
        "real_halves": {
            **compared(features[::2], features[1::2], judge=judge),
            **novelty(half_thumbnails, other_thumbnails, held.train_thumbnails),
        },
    }


def _novelty(images: Images, held: _Held) -> Metrics:
    return novelty(thumbnails(images), held.real_thumbnails, held.train_thumbnails)


def _memory() -> dict[str, Metrics]:
    """Of the whole process until now; nothing where the system does not tell."""
    peak = peak_rss_mib()
    return {} if peak is None else {"process": {"peak_rss_mib": peak}}


def _merged(*parts: Mapping[str, Metrics]) -> dict[str, Metrics]:
    """One row per name, with the metrics of all parts."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: {key: value for part in parts for key, value in part.get(name, {}).items()} for name in names}
