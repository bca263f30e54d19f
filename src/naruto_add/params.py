"""Every parameter's type, range and meaning; the values live in params.yaml.

A mistake is a `ParamsError` that names the dotted key, the value and what is allowed, before any work is done.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from naruto_add.conventions import NUM_TRAIN_TIMESTEPS, Resolution

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Steps = Annotated[int, Field(ge=1, le=NUM_TRAIN_TIMESTEPS)]
TeacherSteps = Annotated[int, Field(ge=1, lt=NUM_TRAIN_TIMESTEPS)]
"""PNDM of SD 1.x counts timesteps from 1, so that 1000 of them would end at one that no model knows."""
Text = Annotated[str, Field(min_length=1)]
StudentScheduler = Literal["ddim", "lcm"]
LearningRateDecay = Literal["none", "cosine"]
AddMethod = Literal["adversarial", "consistency"]


class ParamsError(ValueError):
    """A parameter that cannot be used; the message is for the user."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Base(_Section):
    """The pretrained pipeline: `model` is a folder, or a hub repository with a pinned `revision`."""

    model: Text
    revision: str
    variant: str
    precision: Literal["fp32", "bf16", "fp16"]
    resolution_px: Annotated[int, Field(ge=32, le=1024, multiple_of=8)]


class Sampling(_Section):
    """How pictures are drawn wherever teacher and student are compared."""

    teacher_steps: TeacherSteps
    guidance_scale: Annotated[float, Field(ge=1, le=30)]
    student_scheduler: StudentScheduler


class Ingest(_Section):
    """Where pictures come from, what is refused and how they are split."""

    source: Literal["shinobi", "folder", "parquet", "hub"]
    path: Text
    hub_dataset: str
    revision: str
    image_column: Text
    caption_column: Text
    num_drawings: Positive
    seed: Seed
    min_side_px: Positive
    max_megapixels: Annotated[float, Field(gt=0, le=1000)]
    max_rejected: Fraction
    crop: Literal["center", "top"]
    duplicate_distance: Annotated[int, Field(ge=0, le=32)]
    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)]
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)]


class Teacher(_Section):
    """LoRA finetuning of the base model."""

    seed: Seed
    prompt_template: Text
    lora_targets: Literal["attention", "attention_convolutions"]
    lora_text_encoder: bool
    lora_rank: Annotated[int, Field(ge=1, le=1024)]
    lora_alpha: Annotated[float, Field(gt=0)]
    num_steps: Positive
    batch_size: Positive
    accumulation_steps: Positive
    gradient_checkpointing: bool
    optimizer: Literal["adamw", "adamw_8bit"]
    learning_rate: Rate
    warmup_steps: Count
    learning_rate_decay: LearningRateDecay
    caption_dropout: Fraction
    snr_gamma: Annotated[float, Field(gt=0)]
    ema_decay: Decay
    max_grad_norm: Annotated[float, Field(gt=0)]
    flip: bool
    validation_every_steps: Positive
    validation_prompts: Annotated[list[Text], Field(min_length=1)]


class Student(_Section):
    """Block removal (BK-SDM, Kim et al. 2023), the pool of teacher samples, and the knowledge distillation warm-up."""

    seed: Seed
    architecture: Literal["bk_base", "bk_small", "bk_tiny", "none"]
    pool_source: Literal["teacher", "dataset"]
    pool_size: Annotated[int, Field(ge=4)]
    pool_steps: Steps
    num_steps: Count
    knowledge_steps: Count
    batch_size: Positive
    accumulation_steps: Positive
    optimizer: Literal["adamw", "adamw_8bit"]
    learning_rate: Rate
    warmup_steps: Count
    learning_rate_decay: LearningRateDecay
    task_weight: Weight
    output_weight: Weight
    feature_weight: Weight
    ema_decay: Decay
    max_grad_norm: Annotated[float, Field(gt=0)]
    validation_every_steps: Positive


class Add(_Section):
    """Adversarial diffusion distillation (Sauer et al. 2023), in latent space (LADD, Sauer et al. 2024), or a peer."""

    seed: Seed
    method: AddMethod
    resolutions_px: list[Resolution]
    resolution_pool_size: Positive
    timesteps: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    timestep_probabilities: list[list[Fraction]]
    num_steps: Positive
    batch_size: Positive
    accumulation_steps: Positive
    gradient_checkpointing: bool
    optimizer: Literal["adamw", "adamw_8bit"]
    learning_rate: Rate
    discriminator_learning_rate: Rate
    warmup_steps: Count
    learning_rate_decay: LearningRateDecay
    distill_weight: Weight
    distill_final_share: Weight
    pair_weight: Weight
    pair_target: Literal["stored", "solve"]
    solve_steps: Steps
    renoised_weight: Weight
    renoised_fraction: Fraction
    renoised_space: Literal["latent", "pixel"]
    renoised_crop_px: Annotated[int, Field(ge=32, le=1024, multiple_of=8)]
    adv_weight: Weight
    adv_start_steps: Count
    adv_ramp_steps: Count
    discriminators: Annotated[list[Literal["latent", "pixel"]], Field(min_length=1, max_length=2)]
    discriminator_blocks: Annotated[list[Text], Field(min_length=1)]
    discriminator_scales: Annotated[list[Annotated[int, Field(ge=1, le=8)]], Field(min_length=1)]
    discriminator_width: Annotated[int, Field(ge=8, le=1024, multiple_of=8)]
    discriminator_timesteps: Annotated[list[Annotated[int, Field(ge=0, lt=NUM_TRAIN_TIMESTEPS)]], Field(min_length=1)]
    pixel_backbone: Literal["efficientnet_lite0", "dinov2_small"]
    score_backbone: Literal["efficientnet_lite2", "dinov2_small"]
    pixel_crop_px: Annotated[int, Field(ge=32, le=1024, multiple_of=8)]
    misaligned_weight: Weight
    r1_weight: Weight
    perceptual_weight: Weight
    perceptual_crop_px: Annotated[int, Field(ge=32, le=1024, multiple_of=8)]
    image_text_weight: Weight
    image_text_network: Text
    image_text_crop_px: Annotated[int, Field(ge=32, le=1024, multiple_of=8)]
    caption_match_steps: Positive
    caption_match_learning_rate: Rate
    augment: Literal["off", "fixed", "adaptive"]
    augment_strength: Fraction
    augment_flip: bool
    augment_max_shift: Annotated[float, Field(ge=0, le=0.5)]
    augment_cutout: Annotated[float, Field(ge=0, le=0.5)]
    augment_target: Fraction
    augment_adapt_steps: Positive
    real_source: Literal["teacher", "dataset", "both"]
    rollout_fraction: Fraction
    judged_fraction: Annotated[float, Field(gt=0, le=1)]
    gate: bool
    ema_decay: Decay
    max_grad_norm: Annotated[float, Field(gt=0)]
    consistency_steps: Steps
    consistency_delta: Annotated[float, Field(gt=0)]
    validation_every_steps: Positive
    patience: Count
    alarm_window_steps: Positive


class Evaluate(_Section):
    """What is measured, with which networks, and on how many held-out captions."""

    seed: Seed
    subject: Literal["base", "teacher", "student", "distilled"]
    num_images: Count
    batch_size: Positive
    features: Literal["embedded", "inception", "clip", "dinov2"]
    perceptual: Literal["embedded", "alex", "vgg", "squeeze"]
    clip_score: Text
    latency_repeats: Positive
    student_sweep: Annotated[list[Steps], Field(min_length=1)]
    teacher_sweep: Annotated[list[TeacherSteps], Field(min_length=1)]
    few_images: Annotated[int, Field(ge=2)]
    classifier_steps: Count
    classifier_learning_rate: Rate


class Samples(_Section):
    """The grids' prompts and numbers of steps."""

    seed: Seed
    prompts: Annotated[list[Text], Field(min_length=1, max_length=32)]
    num_held_out: Annotated[int, Field(ge=1, le=32)]
    steps: Annotated[list[Steps], Field(min_length=1, max_length=8)]
    interpolate_from: Text
    interpolate_to: Text


class Export(_Section):
    """The self-contained student pipeline, and the pictures that hold it to the student."""

    seed: Seed
    prompts: Annotated[list[Text], Field(min_length=1)]
    precision: Literal["fp32", "fp16"]


class Params(_Section):
    """The whole of params.yaml: one section per stage, and two that they share."""

    base: Base
    sampling: Sampling
    ingest: Ingest
    teacher: Teacher
    student: Student
    add: Add
    evaluate: Evaluate
    samples: Samples
    export: Export


def load_params(path: Path) -> Params:
    """Read and check the whole file.

    Raises ParamsError for a file that is not YAML, for unknown, missing, mistyped and out-of-range values, and for
    values that contradict each other.
    """
    try:
        values = YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; copy a profile there, as in `cp profiles/mini.yaml {path}`") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not YAML: {error}") from None
    return parse_params(values)


def parse_params(values: Any) -> Params:
    """Check values that are already read. Raises ParamsError."""
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        raise ParamsError("\n".join(_describe(item) for item in error.errors())) from None
    from naruto_add.params_rules import contradictions  # they are about the types above

    problems = contradictions(params)
    if problems:
        raise ParamsError("\n".join(problems))
    return params


def _describe(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "params"
    match item["type"]:
        case "missing":
            return f"{key}: missing; profiles/mini.yaml shows its meaning"
        case "extra_forbidden":
            return f"{key}: {item['input']!r} is not a parameter; see profiles/mini.yaml for those that are"
        case _:
            return f"{key}: {item['input']!r} is refused: {item['msg']}"
