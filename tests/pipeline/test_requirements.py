"""What later stages need is checked before the first training, and everything that is missing is in one list."""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from naruto_add.config.constants import CLIP_L14, DINOV2_SMALL, INCEPTION_FILE, TRUNK_FILES
from naruto_add.config.load import load_params
from naruto_add.config.schema import Params
from naruto_add.pipeline.base_use import problem_of
from naruto_add.pipeline.requirements import check_requirements, requirements
from naruto_add.pipeline.weights import torch_cache
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.extras import install_command

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of a hub that cannot be reached, and an empty cache of torch."""
    import huggingface_hub.constants

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "hub"


def _params(**changes: Any) -> Params:
    """The values of params.yaml, with changes such as add__score_backbone."""
    values = load_params(ROOT / "params.yaml").model_dump()
    for name, value in changes.items():
        *sections, key = name.split("__")
        section = values
        for part in sections:
            section = section[part]
        section[key] = value
    return Params.model_validate(values)


def _problems(params: Params) -> list[str]:
    with pytest.raises(StageError) as caught:
        check_requirements(params)
    return str(caught.value).splitlines()


def _network(folder: Path, kind: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"weight": np.zeros(1)}, folder / "model.safetensors")
    return folder


def _in_cache(hub: Path, source: str) -> Path:
    repository, _, commit = source.partition("@")
    return hub / f"models--{repository.replace('/', '--')}" / "snapshots" / commit


def test_the_committed_parameters_need_nothing_but_the_base_model() -> None:
    params = _params()
    names = [each.name for each in requirements(params)]
    assert names[:2] == ["base.model base/model", "ingest.source shinobi"]
    assert len(names) == 4
    assert names[2].endswith("GiB of memory")
    assert names[3].endswith("iB of free disk")
    check_requirements(params)


@pytest.mark.parametrize(
    ("discriminators", "is_needed"), [(["latent"], False), (["pixel"], True), (["latent", "pixel"], True)]
)
def test_the_pixel_backbone_is_needed_only_by_a_pixel_discriminator(discriminators: list[str], is_needed: bool) -> None:
    params = _params(add__pixel_backbone="dinov2_small", add__discriminators=discriminators)
    names = [each.name for each in requirements(params)]
    assert (f"add.pixel_backbone: {DINOV2_SMALL}" in names) is is_needed


def test_every_problem_is_in_one_list(tmp_path: Path) -> None:
    problems = _problems(
        _params(
            base__model="owner/base",
            base__revision="1" * 40,
            ingest__source="folder",
            ingest__path=str(tmp_path / "missing"),
            teacher__optimizer__name="adamw_8bit",
            add__image_text_weight=0.1,
            add__image_text_network="clip",
            add__score_backbone="dinov2_small",
            evaluate__features="clip",
            evaluate__clip_score="owner/other@" + "2" * 40,
        )
    )
    keys = [problem.partition(":")[0] for problem in problems]
    assert keys == [
        "base.model",
        "ingest.path",
        "teacher.optimizer.name",
        "add.image_text_network",
        "add.score_backbone",
        "evaluate.clip_score",
        "evaluate.features",
    ]
    assert "the package bitsandbytes" in problems[2]
    for problem in (problems[0], *problems[4:]):
        assert "cannot be downloaded" in problem
        assert "hf download" in problem


@pytest.mark.parametrize("name", ["clip", "owner/clip", "a/b/c@" + "1" * 40, "missing/folder/clip"])
def test_a_name_that_is_no_clip_model_is_refused(name: str) -> None:
    (problem,) = _problems(_params(evaluate__clip_score=name))
    assert problem.startswith(f"evaluate.clip_score: {name!r} is neither a folder nor a pinned hub repository")


@pytest.mark.parametrize("revision", ["main", "v1.0", "1" * 39, "1" * 41, "g" * 40])
def test_a_revision_that_may_name_other_files_later_is_refused(hub: Path, revision: str) -> None:
    source = f"owner/clip@{revision}"
    _network(_in_cache(hub, source), "clip")
    problems = _problems(_params(evaluate__clip_score=source, base__model="owner/base", base__revision=revision))
    assert problems[0].startswith(f"base.revision: {revision!r} is not a commit, which has 40 hexadecimal digits")
    assert problems[1].startswith(f"evaluate.clip_score: {source!r}: {revision!r} is not a commit, which has 40")
    assert len(problems) == 2


def test_a_folder_must_hold_a_network_of_the_right_kind(tmp_path: Path) -> None:
    check_requirements(_params(evaluate__clip_score=str(_network(tmp_path / "clip", "clip"))))
    (problem,) = _problems(_params(evaluate__clip_score=str(_network(tmp_path / "bert", "bert"))))
    assert "is a bert model, not a clip" in problem
    (tmp_path / "clip/model.safetensors").unlink()
    (problem,) = _problems(_params(evaluate__clip_score=str(tmp_path / "clip")))
    assert "has no model.safetensors" in problem


def test_a_clip_model_must_have_whole_weights_and_its_tokenizer(tmp_path: Path) -> None:
    folder = _network(tmp_path / "clip", "clip")
    params = _params(evaluate__clip_score=str(folder))
    (folder / "tokenizer.json").unlink()
    (problem,) = _problems(params)
    assert problem.startswith(f"evaluate.clip_score: {folder} has no tokenizer.json; ")
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").touch()
    check_requirements(params)
    weights = (folder / "model.safetensors").read_bytes()
    for damaged in (weights[:-1], b"", b"version https://git-lfs.github.com/spec/v1\n"):
        (folder / "model.safetensors").write_bytes(damaged)
        (problem,) = _problems(params)
        assert problem.startswith(f"evaluate.clip_score: {folder / 'model.safetensors'} cannot be read")
        assert "`git lfs pull`" in problem


def test_a_tiny_decoder_is_known_by_the_class_that_diffusers_names(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    save_file({"weight": np.zeros(1)}, tmp_path / "tiny/diffusion_pytorch_model.safetensors")
    for kind, is_right in (("AutoencoderTiny", True), ("AutoencoderKL", False)):
        (tmp_path / "tiny/config.json").write_text(json.dumps({"_class_name": kind}))
        params = _params(export__tiny_decoder=str(tmp_path / "tiny"))
        problems = [problem for each in requirements(params) if (problem := problem_of(each.check))]
        assert (problems == []) == is_right


def test_networks_in_the_hubs_cache_need_no_network_access(hub: Path) -> None:
    params = _params(evaluate__features="clip", add__score_backbone="dinov2_small")
    _network(_in_cache(hub, CLIP_L14), "clip")
    _network(_in_cache(hub, DINOV2_SMALL), "dinov2")
    check_requirements(params)


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_a_base_model_on_the_hub_needs_all_its_parts(hub: Path, variant: str) -> None:
    params = _params(base__model="owner/base", base__revision="1" * 40, base__variant=variant)
    folder = _in_cache(hub, f"owner/base@{'1' * 40}")
    folder.mkdir(parents=True)
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        (folder / part).mkdir()
        config = ROOT / f"base/model/{part}/config.json"
        (folder / part / "config.json").write_text(config.read_text() if config.exists() else "{}")
    index = {"_class_name": "StableDiffusionPipeline", "safety_checker": [None, None]}
    index |= {part: ["library", "Class"] for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler")}
    (folder / "model_index.json").write_text(json.dumps(index))
    ending = f".{variant}.safetensors" if variant else ".safetensors"
    for part in ("vae", "unet", "text_encoder"):
        assert "owner/base" in _problems(params)[0]
        (folder / part / f"model{ending}").touch()
    check_requirements(params)
    other = _params(base__model="owner/base", base__revision="1" * 40, base__variant="" if variant else "fp16")
    assert "has no vae/*.safetensors" in _problems(other)[0]


@pytest.mark.parametrize(("choice", "module"), [("alex", "alexnet"), ("vgg", "vgg"), ("squeeze", "squeezenet")])
def test_lpips_trunks_have_the_file_names_of_torchvision(choice: str, module: str) -> None:
    spec = find_spec("torchvision")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0]) / f"models/{module}.py"  # importing it takes seconds
    assert f'/models/{TRUNK_FILES[choice]}"' in source.read_text(encoding="utf-8")


def test_files_in_torchs_cache_are_enough() -> None:
    import torch

    assert str(torch_cache()) == f"{torch.hub.get_dir()}/checkpoints"
    torch_cache().mkdir(parents=True)
    (torch_cache() / INCEPTION_FILE).touch()
    (torch_cache() / TRUNK_FILES["vgg"]).touch()
    check_requirements(_params(evaluate__features="inception", evaluate__perceptual="vgg"))


def test_a_package_of_an_extra_is_asked_for() -> None:
    params = _params(export__formats=["diffusers", "onnx"])
    (problem,) = (problem_of(each.check) for each in requirements(params) if "onnx" in each.name)
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    assert (problem is None) == (not missing)
    if problem:
        assert all(name in problem for name in missing)
        assert "tests/requirements.lock onnx onnxruntime onnxscript`, or leave onnx out" in problem


@pytest.mark.parametrize("name", ["onnx", "onnxruntime", "onnxscript", "tensorboard", "wandb", "dvclive"])
def test_the_lock_that_the_remedy_names_has_the_package(name: str) -> None:
    command = install_command(name).split()
    assert command[-1] == name
    lock = (ROOT / command[command.index("--constraints") + 1]).read_text(encoding="utf-8")
    assert re.search(rf"^{name}==", lock, re.MULTILINE)


@pytest.mark.parametrize("tool", ["tensorboard", "wandb", "dvclive"])
def test_the_package_of_a_tracking_tool_is_asked_for(tool: str) -> None:
    (requirement,) = [each for each in requirements(_params(tracking=tool)) if each.name.startswith("tracking")]
    assert requirement.name == f"tracking: {tool}: the package {tool}"
    problem = problem_of(requirement.check)
    assert (problem is None) == (find_spec(tool) is not None)
    if problem:
        install = f"uv pip install --constraints tests/requirements.lock {tool}"
        assert problem == (
            f"tracking: {tool} needs the package {tool}, which is not installed; `{install}`, or use none"
        )


def test_a_pool_that_cannot_fit_into_memory_is_refused() -> None:
    memory, disk = _problems(_params(student__pool_size=10**9))
    assert memory.startswith("student.pool_size: 1000000000 takes at least")
    assert "more than this machine's memory" in memory
    assert disk.startswith("disk: the stage") and "pool" in disk
