"""How well ADD's validation score ranks students: `python -m benchmarks.score_correlation > FILE`.

Run it after `naruto-add ablation`. Of each experiment that exists, whatever its version of the code, it reads the
validation score of the weights that the stage `add` kept, and that of the student before ADD, beside the distances of
the pictures that the same weights draw of the test captions. A student before ADD from which several experiments start
is one row. Prints the table, and to stderr Spearman's correlations of score and Frechet distance: of all students, and
of those after the stage `add`, by either of its methods.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from naruto_add.ablation.experiments import find_revision, read_metrics
from naruto_add.ablation.variants import plan_experiments, read_variants
from naruto_add.config import paths
from naruto_add.config.load import read_yaml

VARIANTS = Path("profiles/ablation/mini.yaml")
FRECHET, KERNEL = "fd_efficientnet_lite1", "kd_efficientnet_lite1"

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Student:
    """How it was trained, for how many steps of ADD, its validation score, and its distances to the test pictures."""

    experiment: str
    step: int
    score: float
    frechet: float
    kernel: float


def main() -> None:
    """Print the table and the correlations."""
    values = read_yaml(paths.PARAMS)
    planned = plan_experiments(read_variants(VARIANTS, values))
    experiments = {item.name: item for items in planned.values() for item in items}
    found: list[Student] = []
    for name, experiment in experiments.items():
        revision = find_revision(experiment, values, any_code=True)
        if revision is None:
            sys.stderr.write(f"not run: {name}\n")
        else:
            add, evaluation = (read_metrics(revision, path) for path in (paths.ADD_METRICS, paths.EVALUATE_METRICS))
            found += students(name, add, evaluation)
    rows = without_repeated_starts(found)
    print("\t".join(field.name for field in fields(Student)))
    for row in rows:
        print(f"{row.experiment}\t{row.step}\t{row.score:.4f}\t{row.frechet:.2f}\t{row.kernel:.4f}")
    for kind, chosen in {"all": rows, "after ADD": [row for row in rows if row.step > 0]}.items():
        correlation = spearmanr([row.score for row in chosen], [row.frechet for row in chosen]).statistic
        sys.stderr.write(f"Spearman's correlation, {kind}: {correlation:.2f}, of {len(chosen)} students\n")


def students(experiment: str, add: Metrics, evaluation: Metrics) -> list[Student]:
    """The student before ADD and the one that ADD kept, from metrics/add.json and metrics/evaluate.json."""
    kept_score = add["best_score"] if add["kept_step"] == add["best_step"] else add["end_score"]

    def student(subject: str, step: int, score: float) -> Student:
        return Student(experiment, step, score, evaluation[f"{subject}.{FRECHET}"], evaluation[f"{subject}.{KERNEL}"])

    return [student("student", 0, add["start_score"]), student("distilled", add["kept_step"], kept_score)]


def without_repeated_starts(rows: Sequence[Student]) -> list[Student]:
    """The rows; of several equal students before ADD, only the first."""
    found: dict[Student, Student] = {}
    for row in rows:
        key = replace(row, experiment="") if row.step == 0 else row
        found.setdefault(key, row)
    return list(found.values())


if __name__ == "__main__":
    main()
