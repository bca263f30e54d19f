"""Metrics as they are written: a value, and as `_low` and `_high` the ends of its 95% interval."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from naruto_add.evaluation.cache import Arrays, Cache
from naruto_add.evaluation.frechet import Features, frechet_distance
from naruto_add.evaluation.intervals import Values, fraction_interval, frechet_interval, kernel_interval, ratio_interval
from naruto_add.losses.kernel import kernel_distance
from naruto_add.runtime.cache import hash_array

Metrics = dict[str, float | int]
Rows = dict[str, Metrics]
"""Metrics by the name of their row in metrics/evaluate.json."""


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """Computes metrics with intervals, which `seed` resamples; distances take long and are computed once."""

    seed: int
    cache: Cache

    def mean(self, name: str, values: Values) -> Metrics:
        """The mean of one value per picture."""
        return self._with_interval(name, values.mean(), values, np.ones(len(values)))

    def ratio(self, name: str, sums: Values, counts: Values) -> Metrics:
        """The mean over the parts of all pictures, given each picture's sum and number of parts."""
        return self._with_interval(name, sums.sum() / counts.sum(), sums, counts)

    def distances(self, features: Features, reference: Features, *, frechet_name: str, kernel_name: str) -> Metrics:
        """The Frechet and the kernel distance of two sets."""
        found = self.cache.arrays(
            *("distances", self.seed, hash_array(features), hash_array(reference)),
            compute=lambda: self._distances(features, reference),
        )
        return _metrics(frechet_name, *found["frechet"]) | _metrics(kernel_name, *found["kernel"])

    def _distances(self, features: Features, reference: Features) -> Arrays:
        frechet = frechet_distance(features, reference)
        kernel = kernel_distance(torch.from_numpy(features), torch.from_numpy(reference)).value
        low, high = frechet_interval(features, reference, distance=frechet, seed=self.seed)
        return {
            "frechet": np.array([frechet, low, high]),
            "kernel": np.array([kernel, *kernel_interval(features, reference, seed=self.seed)]),
        }

    def _with_interval(self, name: str, value: float, sums: Values, counts: Values) -> Metrics:
        return _metrics(name, value, *ratio_interval(sums, counts, seed=self.seed))


def fraction(name: str, value: float, *, num: int) -> Metrics:
    """A fraction of `num` pictures."""
    return _metrics(name, value, *fraction_interval(value, num))


def merge_rows(*parts: Mapping[str, Metrics]) -> Rows:
    """One row per name, with the metrics of all parts."""
    rows: Rows = {}
    for part in parts:
        for name, metrics in part.items():
            rows[name] = rows.get(name, {}) | metrics
    return rows


def _metrics(name: str, value: float, low: float, high: float) -> Metrics:
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
