"""Block removal: published sizes of BK-SDM, the origin of each weight, and that plain diffusers loads the result."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from naruto_add.models.student import Architecture, matching_blocks, recorded_outputs, shrink_unet, student_config
from naruto_add.runtime.errors import StageError

REMOVING: tuple[Architecture, ...] = ("bk_base", "bk_small", "bk_tiny", "shallow")
ARCHITECTURES: tuple[Architecture, ...] = (*REMOVING, "none")

SD15_UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}


def _unet(num_levels: int, layers: int | tuple[int, ...] = 2, seed: int = 0) -> UNet2DConditionModel:
    inner = num_levels - 1
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D",) * inner + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * inner,
        block_out_channels=(8,) + (16,) * inner,
        layers_per_block=layers,
        attention_head_dim=2,
        cross_attention_dim=12,
        norm_num_groups=4,
    )


def _predict(unet: UNet2DConditionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    noisy_latents = torch.randn(2, 4, 8, 8, generator=generator)
    prompt_embeds = torch.randn(2, 7, 12, generator=generator)
    return unet(noisy_latents, torch.tensor([10, 900]), prompt_embeds).sample


@pytest.fixture(scope="module", params=[3, 4])
def teacher_unet(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    return _unet(request.param).requires_grad_(False).eval()


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("none", 859_520_964), ("bk_base", 579_384_964), ("bk_small", 482_346_884), ("bk_tiny", 323_384_964)],
)
def test_numbers_of_parameters_for_sd15_are_the_published_ones(architecture: Architecture, expected: int) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(student_config(SD15_UNET, architecture))
    assert unet.num_parameters() == expected


def test_number_of_parameters_of_shallow_for_sd15() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(student_config(SD15_UNET, "shallow"))
    assert unet.num_parameters() == 373_392_324


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_student_shares_no_storage_with_the_teacher_and_is_trainable(
    teacher_unet: UNet2DConditionModel, architecture: Architecture
) -> None:
    student = shrink_unet(teacher_unet, architecture)
    theirs = {weight.untyped_storage().data_ptr() for weight in teacher_unet.state_dict().values()}
    assert not theirs & {weight.untyped_storage().data_ptr() for weight in student.state_dict().values()}
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in student.parameters())
    _predict(student).square().mean().backward()
    assert all(weight.grad is not None for weight in student.parameters())
    assert all(weight.grad is None for weight in teacher_unet.parameters())


@pytest.mark.parametrize("architecture", ["bk_base", "bk_small", "bk_tiny"])
def test_the_origin_of_each_weight_is_that_of_bk_sdm(
    teacher_unet: UNet2DConditionModel, architecture: Architecture
) -> None:
    student, teacher = shrink_unet(teacher_unet, architecture).state_dict(), teacher_unet.state_dict()
    up = 1 if architecture == "bk_tiny" else 0
    expected = {
        "conv_in.weight": "conv_in.weight",
        "time_embedding.linear_1.weight": "time_embedding.linear_1.weight",
        "down_blocks.1.resnets.0.conv1.weight": "down_blocks.1.resnets.0.conv1.weight",
        "down_blocks.0.downsamplers.0.conv.weight": "down_blocks.0.downsamplers.0.conv.weight",
        "up_blocks.1.resnets.0.conv1.weight": f"up_blocks.{up + 1}.resnets.0.conv1.weight",
        "up_blocks.1.resnets.1.conv1.weight": f"up_blocks.{up + 1}.resnets.2.conv1.weight",
        "up_blocks.1.attentions.0.proj_in.weight": f"up_blocks.{up + 1}.attentions.0.proj_in.weight",
        "up_blocks.1.attentions.1.proj_in.weight": f"up_blocks.{up + 1}.attentions.2.proj_in.weight",
        "up_blocks.0.upsamplers.0.conv.weight": f"up_blocks.{up}.upsamplers.0.conv.weight",
        "conv_out.weight": "conv_out.weight",
    }
    for student_name, teacher_name in expected.items():
        assert torch.equal(student[student_name], teacher[teacher_name]), student_name
    assert not any(".resnets.2." in name or "down_blocks.0.resnets.1." in name for name in student)
    assert any(name.startswith("mid_block") for name in student) == (architecture == "bk_base")


@pytest.mark.parametrize("layers", [(2, 2, 2), (2, 2, 2, 2), (2, 3, 2, 2), (3, 2, 4, 2)])
def test_the_shallow_student_keeps_the_outer_levels_whole(layers: tuple[int, ...]) -> None:
    teacher = _unet(len(layers), layers).requires_grad_(False)
    student = shrink_unet(teacher, "shallow")
    kept = (*layers[:-2], 1)
    assert [len(block.resnets) for block in student.down_blocks] == list(kept)
    assert [len(block.resnets) for block in student.up_blocks] == [count + 1 for count in reversed(kept)]
    assert student.mid_block is None
    weights = teacher.state_dict()
    origin = {name: name for name in student.state_dict() if not name.startswith("up_blocks.")}
    for name in set(student.state_dict()) - set(origin):
        _, block, kind, layer, rest = name.split(".", maxsplit=4)
        is_last_of_deepest = block == "0" and layer == "1" and kind != "upsamplers"
        origin[name] = f"up_blocks.{int(block) + 1}.{kind}.{layers[-2] if is_last_of_deepest else layer}.{rest}"
    assert all(torch.equal(weight, weights[origin[name]]) for name, weight in student.state_dict().items())
    assert _predict(student).isfinite().all()


@pytest.mark.parametrize("architecture", ["bk_base", "bk_small"])
def test_levels_of_a_teacher_may_differ_in_their_number_of_layers(architecture: Architecture) -> None:
    layers = (3, 2, 4)
    teacher = _unet(3, layers).requires_grad_(False)
    student, weights = shrink_unet(teacher, architecture).state_dict(), teacher.state_dict()
    for block, last in enumerate(reversed(layers)):
        name = "up_blocks.{}.resnets.{}.conv1.weight"
        assert torch.equal(student[name.format(block, 0)], weights[name.format(block, 0)])
        assert torch.equal(student[name.format(block, 1)], weights[name.format(block, last)])


def test_the_student_without_removal_is_a_copy_of_the_teacher(teacher_unet: UNet2DConditionModel) -> None:
    student = shrink_unet(teacher_unet, "none")
    assert torch.equal(_predict(student.eval()), _predict(teacher_unet))
    with torch.no_grad():
        student.conv_in.weight.add_(1)
    assert not torch.equal(_predict(student), _predict(teacher_unet))


@pytest.mark.parametrize("architecture", REMOVING)
def test_a_saved_student_is_loaded_by_plain_diffusers_with_the_same_outputs(
    teacher_unet: UNet2DConditionModel, architecture: Architecture, tmp_path: Path
) -> None:
    student = shrink_unet(teacher_unet, architecture).eval()
    student.save_pretrained(tmp_path)
    loaded = UNet2DConditionModel.from_pretrained(tmp_path).eval()
    assert all(torch.equal(weight, student.state_dict()[name]) for name, weight in loaded.state_dict().items())
    torch.testing.assert_close(_predict(loaded), _predict(student))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_matching_blocks_have_the_same_shape_and_include_every_block(
    teacher_unet: UNet2DConditionModel, architecture: Architecture
) -> None:
    student = shrink_unet(teacher_unet, architecture)
    pairs = matching_blocks(student, teacher_unet)
    with recorded_outputs(student, [mine for mine, _ in pairs]) as ours:
        _predict(student)
    with recorded_outputs(teacher_unet, [its for _, its in pairs]) as theirs:
        _predict(teacher_unet)
    assert all(ours[mine].shape == theirs[its].shape for mine, its in pairs)
    assert sum(mine.startswith("up_blocks") for mine, _ in pairs) == len(student.up_blocks)
    assert len(pairs) == 2 * len(student.down_blocks) + (student.mid_block is not None)


def test_outputs_are_recorded_only_within_the_block(teacher_unet: UNet2DConditionModel) -> None:
    with recorded_outputs(teacher_unet, ["mid_block"]) as outputs:
        pass
    _predict(teacher_unet)
    assert outputs == {}


def test_lists_with_an_entry_per_level_lose_the_deepest() -> None:
    config = student_config({**SD15_UNET, "attention_head_dim": (5, 10, 20, 40)}, "bk_tiny")
    assert config["attention_head_dim"] == (5, 10, 20)
    assert config["up_block_types"] == ("CrossAttnUpBlock2D",) * 3
    assert config["block_out_channels"] == (320, 640, 1280)


def test_a_teacher_without_the_blocks_to_remove_is_an_error() -> None:
    with pytest.raises(StageError, match=r"student\.architecture: bk_base"):
        student_config({**SD15_UNET, "layers_per_block": 1}, "bk_base")
    with pytest.raises(StageError, match="block_out_channels"):
        student_config({**SD15_UNET, "block_out_channels": (320, 640, 960, 1280)}, "bk_tiny")
