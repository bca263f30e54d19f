"""Everything that a later stage needs and that may be missing here: packages of extras, weights, the base model.

The check runs before the first training, and downloads missing weights, so that no stage stops hours later.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from naruto_add.config import paths
from naruto_add.config.constants import INCEPTION_FILE, TRUNK_FILES
from naruto_add.config.schema import Params
from naruto_add.export.demo_template import read_templates
from naruto_add.pipeline.base_use import check_base_use, problem_of
from naruto_add.pipeline.free_disk import check_free_disk
from naruto_add.pipeline.hub import networks
from naruto_add.pipeline.pictures import check_source
from naruto_add.pipeline.weights import fetch_base, fetch_network, fetch_torch_file
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.extras import install_command, require_onnx
from naruto_add.runtime.units import size_text


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """`name` is what is needed and by which parameter; `check` raises StageError if it is missing."""

    name: str
    check: Callable[[], None]


def requirements(params: Params) -> list[Requirement]:
    """What the stages need with these parameters beyond the packages that the project always has."""
    return [
        Requirement(name=f"base.model {params.base.model}", check=partial(_check_base, params)),
        Requirement(name=f"ingest.source {params.ingest.source}", check=partial(check_source, params.ingest)),
        Requirement(name=f"{size_text(_memory_bytes())} of memory", check=partial(_check_memory, params)),
        *_packages(params),
        *_networks(params),
        # the last: by then, missing weights have been downloaded
        Requirement(name=f"{size_text(_free_bytes())} of free disk", check=partial(check_free_disk, params)),
    ]


def check_requirements(params: Params) -> None:
    """Raises StageError with a line for each requirement that is missing."""
    problems = [problem for each in requirements(params) if (problem := problem_of(each.check))]
    if problems:
        raise StageError("\n".join(problems))


def _check_base(params: Params) -> None:
    check_base_use(params)
    fetch_base(params.base.model, revision=params.base.revision, variant=params.base.variant)


def _check_memory(params: Params) -> None:
    """Raises StageError if a number of pictures is so large that even their values alone exceed the memory.

    It is a bound, not an estimate: networks take much more. Latents are counted with an eighth of the pictures' side.
    """
    picture = 3 * params.base.resolution_px**2
    sample = 4 * (params.base.resolution_px // 8) ** 2 * params.sampling.student_steps
    numbers = {
        "teacher.batch_size": 4 * params.teacher.batch_size * picture,
        "student.batch_size": 4 * params.student.batch_size * sample,
        "student.pool_size": 4 * params.student.pool_size * sample,
        "add.batch_size": 4 * params.add.batch_size * sample,
        "add.resolution_pool_size": 4 * params.add.resolution_pool_size * sample if params.add.resolutions_px else 0,
    }
    values = params.model_dump()
    problems = [
        f"{key}: {values[section][name]} takes at least {size_text(num_bytes)}, more than this machine's memory "
        f"({size_text(_memory_bytes())}); use a smaller number"
        for key, num_bytes in numbers.items()
        for section, _, name in [key.partition(".")]
        if num_bytes > _memory_bytes()
    ]
    if problems:
        raise StageError("\n".join(problems))


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_bytes() -> int:
    return shutil.disk_usage(Path.cwd()).free


def _packages(params: Params) -> Iterator[Requirement]:
    optimizers = {"teacher": params.teacher.optimizer, "student": params.student.optimizer, "add": params.add.optimizer}
    for name, optimizer in optimizers.items():
        if optimizer.name == "adamw_8bit":
            key = f"{name}.optimizer.name"
            yield _package("bitsandbytes", f"{key}: adamw_8bit", "`uv pip install bitsandbytes`, or use adamw")
    if params.tracking != "none":
        tool = params.tracking
        yield _package(tool, f"tracking: {tool}", f"`{install_command(tool)}`, or use none")
    if "onnx" in params.export.formats:
        yield Requirement(name="export.formats: onnx: its packages", check=require_onnx)
    if "demo" in params.export.formats:
        yield Requirement(name="export.formats: demo: the built page", check=_check_demo)


def _check_demo() -> None:
    read_templates(paths.DEMO)


def _package(package: str, key: str, remedy: str) -> Requirement:
    def check() -> None:
        if find_spec(package) is None:
            raise StageError(f"{key} needs the package {package}, which is not installed; {remedy}")

    return Requirement(name=f"{key}: the package {package}", check=check)


def _networks(params: Params) -> Iterator[Requirement]:
    for network in networks(params):
        check = partial(
            fetch_network,
            network.source,
            kind=network.kind,
            reads_text=network.reads_text,
            key=network.key,
            instead=network.instead,
        )
        yield Requirement(name=f"{network.key}: {network.source}", check=check)
    evaluate = params.evaluate
    if evaluate.features == "inception":
        module = "naruto_add.evaluation.features"
        yield _torch_file("evaluate.features", INCEPTION_FILE, module, "inception_path", "")
    if evaluate.perceptual != "embedded":
        name = TRUNK_FILES[evaluate.perceptual]
        module = "naruto_add.evaluation.perceptual"
        yield _torch_file("evaluate.perceptual", name, module, "trunk_weights", evaluate.perceptual)


def _torch_file(key: str, name: str, module: str, function: str, argument: str) -> Requirement:
    check = partial(fetch_torch_file, name, module=module, function=function, argument=argument)
    return Requirement(name=f"{key}: {name}", check=check)
