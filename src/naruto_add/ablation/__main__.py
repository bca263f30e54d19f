"""What each part of the distillation is worth: `python -m naruto_add.ablation`, from the folder that holds dvc.yaml.

Every variant of profiles/ablation/mini.yaml is trained by DVC in copies of the project, once for each of its seeds; the
means and spreads of its figures go to metrics/ablation.json, its pictures to metrics/grids/ablation.png. What was run
before with the same parameters and code is not run again.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from naruto_add import paths
from naruto_add.ablation import experiments
from naruto_add.ablation.figures import quality_of, summarise, table
from naruto_add.ablation.variants import Experiment, Variant, experiments_of, read_variants, select, with_settings
from naruto_add.files import write_json
from naruto_add.params import load_params, parse_params
from naruto_add.runtime import run_stage

VARIANTS = Path("profiles/ablation/mini.yaml")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, gather all there is, and end with status 1 where a chosen experiment is missing still."""
    options = _parser().parse_args(arguments)
    load_params(paths.PARAMS)  # its mistakes before any other
    values = YAML(typ="safe").load(paths.PARAMS)
    variants = read_variants(options.variants, values)
    planned = experiments_of(variants)
    chosen = {item.name: item for name in select(options.only, variants) for item in planned[name]}
    if not options.collect:
        missing = [item for item in chosen.values() if experiments.find_revision(item, values, any_code=False) is None]
        _say(f"{len(chosen) - len(missing)} of {len(chosen)} experiments are there; {len(missing)} to run")
        if missing:
            experiments.run_experiments(missing, jobs=options.jobs)
    everything = {item.name: item for items in planned.values() for item in items}
    found = _find_all(everything, values, any_code=options.collect)
    _write_figures(variants, planned, found)
    if not options.no_grid:
        _draw(variants, {name: found.get(items[0].name) for name, items in planned.items()}, values)
    failures = [f"{name}: {experiments.why_missing(name)}" for name in chosen if name not in found]
    if failures:
        sys.exit("\n".join(["error: left out of the table:", *failures]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m naruto_add.ablation", description="Compare variants of the student."
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="VARIANT", help="run no others; gather all there are")
    parser.add_argument("--collect", action="store_true", help="run nothing; gather what was run, even by other code")
    parser.add_argument("--jobs", type=int, default=1, help="experiments at once (1)")
    parser.add_argument("--no-grid", action="store_true", help="draw no pictures")
    parser.add_argument("--variants", type=Path, default=VARIANTS, help=f"the file that names them ({VARIANTS})")
    return parser


def _find_all(wanted: Mapping[str, Experiment], values: Mapping[str, Any], *, any_code: bool) -> dict[str, str]:
    """The revisions of those that are there, by name."""
    looked_for = {name: experiments.find_revision(item, values, any_code=any_code) for name, item in wanted.items()}
    found = {name: revision for name, revision in looked_for.items() if revision}
    others = [name for name, revision in found.items() if any_code and not experiments.has_this_code(revision)]
    if others:
        _say(f"run by other code than what is here now: {', '.join(others)}")
    return found


def _write_figures(
    variants: Mapping[str, Variant], planned: Mapping[str, Sequence[Experiment]], found: Mapping[str, str]
) -> None:
    metrics = {name: experiments.read_metrics(revision) for name, revision in found.items()}
    runs = {
        name: [quality_of(variant.subject, metrics[item.name]) for item in planned[name] if item.name in metrics]
        for name, variant in variants.items()
    }
    figures = summarise(runs)
    write_json(paths.ABLATION_METRICS, figures, in_order=True)  # the first is what the others are compared with
    _say(f"\n{table(figures, list(variants))}\n\n{paths.ABLATION_METRICS}")


def _draw(variants: Mapping[str, Variant], revisions: Mapping[str, str | None], values: Mapping[str, Any]) -> None:
    """The distilled students of each variant's first seed; nothing where the first variant has none."""
    from naruto_add.ablation.pictures import Drawn, draw_grid  # torch takes seconds to import, and a table needs none

    drawn = [
        Drawn(name.replace("_", " "), revision, parse_params(with_settings(values, variants[name].settings)))
        for name, revision in revisions.items()
        if revision and variants[name].subject == "distilled"
    ]
    if revisions[next(iter(variants))] is None:
        _say("no pictures: the first variant, which the others are compared with, was not run")
        return
    draw_grid(drawn, path=paths.ABLATION_GRID)
    _say(str(paths.ABLATION_GRID))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_stage(main)
