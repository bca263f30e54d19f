"""The meaning, unit and better direction of every metric in metrics/evaluate.json.

Keys are `<subject>.<metric>`. A metric may have companions: `_low` and `_high` are the ends of its 95% interval, and
`_n_small` is 1 if fewer than 2,048 pictures were compared, which makes the metric comparable only with metrics of the
same number of pictures. An entry with a * in its name covers several metrics. If several entries match a metric, the
one with its exact name is used, or else the first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

INTERVAL_ENDS = ("_low", "_high")
FEW = "_n_small"
COMPANIONS = (*INTERVAL_ENDS, FEW)
FEW_MARK = "†"
"""Marks metrics of few pictures in tables."""


@dataclass(frozen=True)
class Metric:
    """A * in `name` stands for a network or an attribute. Summaries show the `headline` metrics, in this order."""

    name: str
    meaning: str
    unit: str
    better: Literal["higher", "lower", ""]
    headline: bool


CATALOG = (
    Metric("fid", "Frechet distance to real test pictures, Inception features (clean-fid)", "", "lower", True),
    Metric("fd_*", "Frechet distance to real test pictures, features of this network; not a FID", "", "lower", True),
    Metric("kid", "unbiased kernel distance to real test pictures, Inception features (clean-fid)", "", "lower", True),
    Metric("kd_*", "unbiased kernel distance to real test pictures, features of this network", "", "lower", True),
    Metric("precision", "drawn pictures inside the region of real ones in feature space", "fraction", "higher", True),
    Metric("recall", "real pictures inside the region of drawn ones in feature space", "fraction", "higher", True),
    Metric("density", "real neighbourhoods that a drawn picture is in, divided by 5; 1 is ideal", "", "higher", False),
    Metric("coverage", "real pictures with a drawn one in their neighbourhood", "fraction", "higher", False),
    Metric("attribute_accuracy", "attributes named in captions that a classifier finds", "fraction", "higher", True),
    Metric("attribute_accuracy_headwear_present", "named headwear found in any colour", "fraction", "higher", False),
    Metric("attribute_accuracy_*", "attribute_accuracy of this attribute alone", "fraction", "higher", False),
    Metric("clip_score", "100 max(cosine, 0) of the CLIP vectors of picture and caption", "", "higher", True),
    Metric("lpips_diversity", "LPIPS between pictures of one prompt from two seeds", "", "higher", False),
    Metric("pd_*_diversity", "perceptual distance between pictures of one prompt from two seeds", "", "higher", False),
    Metric("lpips_noise_floor", "LPIPS between the teacher's pictures of one prompt from two seeds", "", "", True),
    Metric("pd_*_noise_floor", "perceptual distance of the teacher's pictures of one prompt, two seeds", "", "", True),
    Metric("lpips", "LPIPS to the teacher's picture of the same prompt and noise", "", "lower", True),
    Metric("pd_*", "perceptual distance to the teacher's picture of the same prompt and noise", "", "lower", True),
    Metric("nearest_train_ratio", "distance to training pictures, relative to test pictures; 1 is ideal", "", "", True),
    Metric("near_train_fraction", "nearer to training than 95% of test ones (ideal: 0.05)", "fraction", "lower", False),
    Metric("num_inference_steps", "sampling steps per picture", "", "", True),
    Metric("latency_ms", "time from prompt to pixels for one picture: median", "ms", "lower", True),
    Metric("latency_p95_ms", "time from prompt to pixels for one picture: 95th percentile", "ms", "lower", False),
    Metric("latency_batch8_ms", "time from prompts to pixels for 8 pictures at once: median", "ms", "lower", False),
    Metric("latency_batch8_p95_ms", "the same time for 8 pictures at once: 95th percentile", "ms", "lower", False),
    Metric("num_latency_repeats", "number of calls that the latencies are computed from", "", "", False),
    Metric("speedup", "latency_ms of teacher_full divided by this one", "", "higher", True),
    Metric("images_per_second", "8 pictures divided by the median time of 8 at once", "1/s", "higher", True),
    Metric("params_m", "parameters of the U-Net", "million", "lower", True),
    Metric("pipeline_params_m", "parameters of U-Net, text encoder and autoencoder", "million", "lower", False),
    Metric("size_mib", "weights of U-Net, text encoder and autoencoder on disk", "MiB", "lower", True),
    Metric("peak_vram_mib", "GPU memory of the weights and of drawing 8 pictures at once", "MiB", "lower", True),
    Metric("num_threads", "CPU threads used while timing", "", "", False),
    Metric("peak_rss_mib", "peak memory of the whole evaluation process", "MiB", "lower", False),
    Metric("num_images", "pictures that the distances are computed from", "", "", True),
    Metric("num_diversity_pairs", "pairs of pictures that the diversity is computed from", "", "", False),
    Metric("num_named_attributes", "named attributes that attribute_accuracy is computed from", "", "", False),
    Metric("num_named_*", "captions that name this attribute", "", "", False),
)  # fmt: skip


def describe(name: str) -> Metric | None:
    """The entry of a metric by its name without the subject; None for companions and unknown names."""
    if is_companion(name):
        return None
    exact = [metric for metric in CATALOG if metric.name == name]
    return next((metric for metric in (*exact, *CATALOG) if _matches(metric.name, name)), None)


def is_companion(name: str) -> bool:
    """Whether this is the end of another metric's interval, or its flag for few pictures."""
    return name.endswith(COMPANIONS)


def headline(names: set[str]) -> list[str]:
    """The headline metrics in the order of the catalog, then metrics without an entry, sorted."""
    known = {name: metric for name in names if (metric := describe(name))}
    shown = [name for name in known if known[name].headline]
    unknown = [name for name in names if name not in known and not is_companion(name)]
    return sorted(shown, key=lambda name: (CATALOG.index(known[name]), name)) + sorted(unknown)


def interval(metrics: Mapping[str, float | int], key: str) -> tuple[float | int, float | int] | None:
    """The 95% interval of the metric with this key, or None if it has none."""
    low, high = (metrics.get(f"{key}{end}") for end in INTERVAL_ENDS)
    return None if low is None or high is None else (low, high)


def notes(metrics: Mapping[str, float | int], subjects: Sequence[str]) -> list[str]:
    """The notes below a table of these subjects: on few pictures, and on the accuracy of the attribute classifier."""
    few = f"{FEW_MARK} of fewer than 2,048 pictures: compare only with metrics of the same number of pictures."
    is_few = any(is_flagged(metrics, key.removesuffix(FEW), subjects) for key in _names(metrics) if key.endswith(FEW))
    return [note for note in (few if is_few else "", _classifier_note(metrics)) if note]


def is_flagged(metrics: Mapping[str, float | int], name: str, subjects: Sequence[str]) -> bool:
    """Whether any of the subjects has this metric with the flag for few pictures."""
    return any(metrics.get(f"{subject}.{name}{FEW}") for subject in subjects)


def number(value: float | int, digits: int = 4) -> str:
    """The value with so many significant digits; integers and values of at least 1000 as whole numbers."""
    is_whole = isinstance(value, int) or float(value).is_integer() or abs(value) >= 1000
    return f"{value:,.0f}" if is_whole else f"{value:.{digits}g}"


def _names(metrics: Mapping[str, float | int]) -> list[str]:
    return list(dict.fromkeys(key.partition(".")[2] for key in metrics))


def _classifier_note(metrics: Mapping[str, float | int]) -> str:
    """The classifier's accuracy on real pictures, overall and for the attribute where it is lowest."""
    key = "real.attribute_accuracy"
    if key not in metrics:
        return ""
    bounds = interval(metrics, key)
    span = f" ({number(bounds[0])} to {number(bounds[1])})" if bounds else ""
    parts = {name.removeprefix(f"{key}_"): metrics[name] for name in metrics if name.startswith(f"{key}_")}
    parts = {name: value for name, value in parts.items() if f"_{name}" not in INTERVAL_ENDS}
    lowest = min(parts, key=lambda name: parts[name], default="")
    detail = f", and {number(parts[lowest])} for {lowest.replace('_', ' ')}, its lowest" if lowest else ""
    return f"The classifier of attribute_accuracy reaches {number(metrics[key])}{span} on real test pictures{detail}."


def _matches(pattern: str, name: str) -> bool:
    start, star, end = pattern.partition("*")
    return name.startswith(start) and name.endswith(end) if star else name == pattern
