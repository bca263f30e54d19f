"""The evaluation: draw pictures, measure them with networks, compute metrics, write them.

Pictures and latencies are cached by the code that draws, everything else by all code, so that evaluating another
`evaluate.subject` takes seconds, and a change of a metric draws nothing. `naruto_add.evaluation.catalog` says what each
metric means.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from naruto_add.comparison.subjects import Models, evaluated_subjects
from naruto_add.config.schema import Evaluate
from naruto_add.data.dataset import MIN_PICTURES, Example, load_split
from naruto_add.evaluation.attributes import (
    AttributeClassifier,
    attribute_accuracy,
    fit_classifier,
    has_attributes,
)
from naruto_add.evaluation.cache import Cache
from naruto_add.evaluation.catalog import FEW, headline, is_companion
from naruto_add.evaluation.cost import cost_jobs, cost_rows
from naruto_add.evaluation.drawings import Drawer, ImageSets, collect_image_sets, load_thumbnails
from naruto_add.evaluation.estimates import Estimates, Metrics, Rows, merge_rows
from naruto_add.evaluation.measure import load_metric_networks, measure
from naruto_add.evaluation.metrics import quality_rows, sweep_metrics
from naruto_add.evaluation.sweep import sweep_points, write_sweep
from naruto_add.evaluation.timing import time_jobs
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import write_json
from naruto_add.runtime.sharing import is_main

ACCURACY = "attribute_accuracy"
RELIABLE_ACCURACY = 0.95
"""Accuracy on real pictures below which the classifier's results for drawn pictures are doubtful."""


def evaluate(
    params: Evaluate,
    *,
    models: Models,
    dataset_dir: Path,
    drawn_dir: Path,
    cache_dir: Path,
    metrics_path: Path,
    subject_path: Path,
    sweep_path: Path,
) -> None:
    """Write the metrics of all subjects and controls.

    `metrics_path` has all of them as `<subject>.<metric>`, `subject_path` the headline metrics of `params.subject`, and
    `sweep_path` a table of quality and latency by number of steps. Pictures and times are cached in `drawn_dir`, all
    else in `cache_dir`. Several processes share the drawing; the first one does the rest. Raises StageError if the test
    split is too small or a network cannot be loaded.
    """
    test, train = (
        load_split(dataset_dir, split, prompt_template=models.base.prompt_template) for split in ("test", "train")
    )
    _check_test_size(len(test))
    networks = load_metric_networks(params.features, params.perceptual, params.clip_score)
    subjects = evaluated_subjects(models, dpm_steps=params.teacher_steps)
    points = sweep_points(
        subjects, models.sampling, teacher_sweep=params.teacher_sweep, student_sweep=params.student_sweep
    )
    drawer = Drawer(
        prompts=[example.prompt for example in test[: params.num_images or None]],
        num_first=params.sweep_images,
        seed=params.seed,
        batch_size=params.batch_size,
        cache=Cache(drawn_dir),
    )
    estimates = Estimates(seed=params.seed, cache=Cache(cache_dir))

    sets = collect_image_sets(drawer, subjects, [point.subject for point in points], test=test, train=train)
    if not is_main():
        return  # the rest is for one process: measuring takes less time than drawing
    jobs = [*cost_jobs(subjects), *(point.job for point in points)]
    times = time_jobs(jobs, drawer.prompts, seed=params.seed, rounds=params.latency_repeats, cache=drawer.cache)
    measured = measure(sets, networks, captions=[example.caption for example in test], cache=estimates.cache)

    rows = merge_rows(
        quality_rows(measured, networks, estimates, train_thumbnails=load_thumbnails(train)),
        cost_rows(subjects, times),
    )
    if params.classifier_steps and has_attributes([*test, *train]):
        classifier = fit_classifier(train, num_steps=params.classifier_steps, seed=params.seed, cache=estimates.cache)
        rows = merge_rows(rows, _attribute_rows(classifier, sets, test, estimates))
    sweep = sweep_metrics(measured, networks, estimates)

    write_json(metrics_path, {f"{name}.{key}": value for name, row in rows.items() for key, value in row.items()})
    write_json(subject_path, _headline(rows[params.subject]))
    write_sweep(points, sweep, times, distance_name=networks.features.frechet_name, path=sweep_path)


def _check_test_size(num_test: int) -> None:
    if num_test < MIN_PICTURES["test"]:
        raise StageError(
            f"ingest.test_fraction: leaves {num_test} pictures in the test split, but evaluate needs at least "
            f"{MIN_PICTURES['test']}; raise it"
        )


def _attribute_rows(
    classifier: AttributeClassifier, sets: ImageSets, test: Sequence[Example], estimates: Estimates
) -> Rows:
    """Attribute accuracy of drawn and real pictures."""
    rated = sets.with_real("real", "real_decoded")
    rows = {
        name: attribute_accuracy(classifier, images, test[: len(images)], estimates) for name, images in rated.items()
    }
    _warn_if_unreliable(rows["real"])
    return rows


def _warn_if_unreliable(real: Metrics) -> None:
    accuracies = {name: real[name] for name in real if name.startswith(ACCURACY) and not is_companion(name)}
    doubtful = [f"{name} ({value:.1%})" for name, value in accuracies.items() if value < RELIABLE_ACCURACY]
    if doubtful:
        sys.stderr.write(
            f"evaluate: on real test pictures the attribute classifier is below {RELIABLE_ACCURACY:.0%} in "
            f"{', '.join(doubtful)}; for drawn pictures these metrics are unreliable. Raise evaluate.classifier_steps "
            "for a better classifier\n"
        )


def _headline(row: Metrics) -> Metrics:
    """The headline metrics with four digits, as many as fit in DVC's tables.

    Of the flags for few pictures only the first is kept: the metrics of a row are of the same pictures.
    """
    names = headline(set(row))
    flags = [f"{name}{FEW}" for name in names if f"{name}{FEW}" in row]
    kept = sorted({*names, *flags[:1]})
    return {name: row[name] if isinstance(row[name], int) else float(f"{row[name]:.4g}") for name in kept}
