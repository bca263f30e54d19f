"""What every figure of `metrics/evaluate.json` means, its unit, and whether more of it is better: in one place.

Keys are `<subject>.<metric>`. A metric may have companions: `_low` and `_high`, its 95% interval; `_n_small`, 1 where
fewer than 2,048 pictures were compared, so that it is comparable only with figures of the same number of pictures.
An entry with a * is of several names; of those that fit a name, the first is its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

INTERVAL_ENDS = ("_low", "_high")
FEW = "_n_small"
COMPANIONS = (*INTERVAL_ENDS, FEW)
FEW_MARK = "†"
"""Beside the name of a metric that is of few pictures."""


@dataclass(frozen=True)
class Metric:
    """`name` has a * where a network or attribute is named; `headline` ones are shown in summaries, in this order."""

    name: str
    meaning: str
    unit: str
    better: Literal["higher", "lower", ""]
    headline: bool


CATALOG = (
    Metric("fid", "Frechet distance to held-out real pictures, Inception (clean-fid)", "", "lower", True),
    Metric("fd_*", "Frechet distance to held-out real pictures on this network; no FID", "", "lower", True),
    Metric("kid", "unbiased kernel distance to held-out real pictures, Inception (clean-fid)", "", "lower", True),
    Metric("kd_*", "unbiased kernel distance to held-out real pictures on this network", "", "lower", True),
    Metric("precision", "drawn pictures that lie among real ones", "fraction", "higher", True),
    Metric("recall", "real pictures that lie among drawn ones", "fraction", "higher", True),
    Metric("density", "real neighbourhoods that a drawn picture lies in; 1 for equal sets", "", "higher", False),
    Metric("coverage", "real pictures with a drawn one in their neighbourhood", "fraction", "higher", False),
    Metric("attribute_accuracy", "attributes named in captions that a classifier sees", "fraction", "higher", True),
    Metric("attribute_accuracy_headwear_present", "named headwear seen, of any colour", "fraction", "higher", False),
    Metric("attribute_accuracy_*", "the same, of this attribute", "fraction", "higher", False),
    Metric("clip_score", "100 max(cosine, 0) of picture and caption in CLIP's space", "", "higher", True),
    Metric("lpips_diversity", "LPIPS between two pictures of one prompt", "", "higher", False),
    Metric("pd_*_diversity", "perceptual distance between two pictures of one prompt", "", "higher", False),
    Metric("lpips_noise_floor", "LPIPS of the teacher to itself from another seed", "", "", True),
    Metric("pd_*_noise_floor", "perceptual distance of the teacher to itself from another seed", "", "", True),
    Metric("lpips", "LPIPS to the teacher's picture of the same prompt and noise", "", "lower", True),
    Metric("pd_*", "perceptual distance to the teacher's picture of the same prompt and noise", "", "lower", True),
    Metric("nearest_train_ratio", "distance to training pictures over held-out ones': best 1; copies 0", "", "", True),
    Metric("near_train_fraction", "nearer to training than 95% of held-out pictures: 0.05", "fraction", "lower", False),
    Metric("num_inference_steps", "steps of the sampler", "", "", True),
    Metric("latency_ms", "one picture, prompt to pixels, after a warm-up: median", "ms", "lower", True),
    Metric("latency_p95_ms", "one picture, prompt to pixels, after a warm-up: 95th percentile", "ms", "lower", False),
    Metric("latency_batch8_ms", "8 pictures at once, prompts to pixels: median", "ms", "lower", False),
    Metric("latency_batch8_p95_ms", "8 pictures at once, prompts to pixels: 95th percentile", "ms", "lower", False),
    Metric("num_latency_repeats", "times that the row's latencies are of", "", "", False),
    Metric("speedup", "the teacher's latency over this one's", "", "higher", True),
    Metric("images_per_second", "in batches of 8, by their median", "1/s", "higher", True),
    Metric("params_m", "parameters of the U-Net", "million", "lower", True),
    Metric("pipeline_params_m", "parameters of U-Net, text encoder and autoencoder", "million", "lower", False),
    Metric("size_mib", "weights of U-Net, text encoder and autoencoder on disk", "MiB", "lower", True),
    Metric("peak_vram_mib", "GPU memory that tensors took at most, drawing 8 pictures", "MiB", "lower", True),
    Metric("num_threads", "threads of the CPU that times were taken with", "", "", False),
    Metric("peak_rss_mib", "memory of the whole evaluation process at most; no subject's own", "MiB", "lower", False),
    Metric("num_images", "pictures that the row's distances are of", "", "", True),
    Metric("num_diversity_pairs", "pairs of pictures that the diversity is of", "", "", False),
    Metric("num_named_attributes", "attributes named in captions, that the accuracy is of", "", "", False),
    Metric("num_named_*", "captions that name this attribute", "", "", False),
)  # fmt: skip


def describe(name: str) -> Metric | None:
    """The entry of a metric's bare name, without subject; None for companions and what is not catalogued."""
    if is_companion(name):
        return None
    exact = [metric for metric in CATALOG if metric.name == name]
    return next((metric for metric in (*exact, *CATALOG) if _matches(metric.name, name)), None)


def is_companion(name: str) -> bool:
    """Whether this is an interval's end or a flag of another metric."""
    return name.endswith(COMPANIONS)


def headline(names: set[str]) -> list[str]:
    """The metrics worth showing first, in the catalogue's order; those that it does not know come last, sorted."""
    order = {name: metric for name in names if (metric := describe(name))}
    shown = [name for name in order if order[name].headline]
    unknown = [name for name in names if name not in order and not is_companion(name)]
    return sorted(shown, key=lambda name: (CATALOG.index(order[name]), name)) + sorted(unknown)


def interval(metrics: Mapping[str, float | int], key: str) -> tuple[float | int, float | int] | None:
    """The 95% interval beside this key, where there is one."""
    low, high = (metrics.get(f"{key}{end}") for end in INTERVAL_ENDS)
    return None if low is None or high is None else (low, high)


def notes(metrics: Mapping[str, float | int], subjects: Sequence[str]) -> list[str]:
    """What stands below a table of these subjects: of how few pictures it is, and what the classifier is worth."""
    few = f"{FEW_MARK} of fewer than 2,048 pictures: compare only with figures of as many."
    is_few = any(is_flagged(metrics, key.removesuffix(FEW), subjects) for key in _names(metrics) if key.endswith(FEW))
    return [note for note in (few if is_few else "", _classifier_note(metrics)) if note]


def is_flagged(metrics: Mapping[str, float | int], name: str, subjects: Sequence[str]) -> bool:
    """Whether this metric of any of the subjects is of fewer than 2,048 pictures, where that counts."""
    return any(metrics.get(f"{subject}.{name}{FEW}") for subject in subjects)


def _names(metrics: Mapping[str, float | int]) -> list[str]:
    return list(dict.fromkeys(key.partition(".")[2] for key in metrics))


def _classifier_note(metrics: Mapping[str, float | int]) -> str:
    """The classifier's own accuracy on real pictures, and the attribute that it knows least."""
    key = "real.attribute_accuracy"
    if key not in metrics:
        return ""
    bounds = interval(metrics, key)
    span = f" ({number(bounds[0])} to {number(bounds[1])})" if bounds else ""
    parts = {name.removeprefix(f"{key}_"): metrics[name] for name in metrics if name.startswith(f"{key}_")}
    parts = {name: value for name, value in parts.items() if f"_{name}" not in INTERVAL_ENDS}
    least = min(parts, key=lambda name: parts[name], default="")
    worst = f", {number(parts[least])} of {least.replace('_', ' ')}, its lowest" if least else ""
    return (
        f"The classifier of attribute_accuracy reaches {number(metrics[key])}{span} on real held-out pictures{worst}."
    )


def number(value: float | int, digits: int = 4) -> str:
    """With so many significant digits; what is 1000 or more with all that stand before the point."""
    whole = isinstance(value, int) or float(value).is_integer() or abs(value) >= 1000
    return f"{value:,.0f}" if whole else f"{value:.{digits}g}"


def _matches(pattern: str, name: str) -> bool:
    start, star, end = pattern.partition("*")
    return name.startswith(start) and name.endswith(end) if star else name == pattern
