"""Types and ranges of every parameter. Values and their explanations are in `profiles/default.yaml`.

The values there are those of profile sd15, except its data set and its pinned revisions.
`base` and `sampling` are shared; every other section belongs to the stage of its name.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from naruto_add.config.constants import NUM_TRAIN_TIMESTEPS, Resolution, trailing_timesteps

Count = Annotated[int, Field(ge=0, le=10**9)]
Positive = Annotated[int, Field(ge=1, le=10**9)]
BatchSize = Annotated[int, Field(ge=1, le=2**16)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Side = Annotated[int, Field(ge=32, le=1024, multiple_of=8)]
Steps = Annotated[int, Field(ge=1, le=NUM_TRAIN_TIMESTEPS)]
TeacherSteps = Annotated[int, Field(ge=1, lt=NUM_TRAIN_TIMESTEPS)]
"""Below 1000: the PNDM scheduler of SD 1.x adds an offset of 1, so its 1000th timestep would be out of range."""
Text = Annotated[str, Field(min_length=1)]
Precision = Literal["fp32", "bf16", "fp16"]
StudentScheduler = Literal["ddim", "lcm"]
Schedule = Literal["constant", "cosine"]
AddMethod = Literal["adversarial", "consistency"]
Tracking = Literal["none", "tensorboard", "wandb", "dvclive"]
ExportFormat = Literal["diffusers", "lora", "single_file", "onnx", "onnx_int8", "demo"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Base(_Section):
    """The pretrained pipeline that the teacher is finetuned from: a folder, or a hub repository at a revision."""

    model: Text
    revision: str
    variant: str
    resolution_px: Side
    frozen_precision: Precision
    autocast: Precision
    prompt_template: Text
    caption_chunks: Annotated[int, Field(ge=1, le=8)]


class Sampling(_Section):
    """How teacher and student draw, in training and in evaluation."""

    teacher_steps: TeacherSteps
    student_steps: Steps
    pool_steps: Steps
    guidance_scale: Annotated[float, Field(ge=1, le=30)]
    student_scheduler: StudentScheduler

    @property
    def student_timesteps(self) -> list[int]:
        """The timesteps that the student is trained and sampled at, noisiest first."""
        return trailing_timesteps(self.student_steps)


class Optimizer(_Section):
    """AdamW or Muon, its learning rate schedule, and the moving average of the weights that it trains."""

    name: Literal["adamw", "adamw_8bit", "muon"]
    learning_rate: Rate
    warmup_steps: Count
    schedule: Schedule
    ema_decay: Decay
    ema_on_cpu: bool


class Ingest(_Section):
    """Where the pictures come from, which are rejected, and how they are split."""

    source: Literal["shinobi", "folder", "parquet", "hub"]
    path: Text
    hub_dataset: str
    revision: str
    image_column: Text
    caption_column: Text
    captions: Literal["auto", "sidecar", "metadata", "file_name", "constant"]
    caption: str
    num_drawings: Annotated[int, Field(ge=1, le=10**6)]
    seed: Seed
    min_side_px: Positive
    max_megapixels: Annotated[float, Field(gt=0, le=1000)]
    max_rejected: Fraction
    crop: Literal["center", "top"]
    aspect_buckets: bool
    duplicate_distance: Annotated[int, Field(ge=0, le=32)]
    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)]
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)]


class Teacher(_Section):
    """LoRA finetuning of the base model."""

    seed: Seed
    lora_targets: Literal["attention", "attention_convolutions"]
    lora_text_encoder: bool
    lora_rank: Annotated[int, Field(ge=1, le=1024)]
    lora_start: str
    num_steps: Positive
    batch_size: BatchSize
    accumulation_steps: Positive
    gradient_checkpointing: bool
    optimizer: Optimizer
    caption_dropout: Fraction
    snr_gamma: Annotated[float, Field(gt=0)]
    flip: bool
    validation_every_steps: Positive
    validation_prompts: Annotated[list[Text], Field(min_length=1)]


class Student(_Section):
    """Block removal (as in BK-SDM, Kim et al. 2023), the pool of teacher samples, and the warm-up by distillation."""

    seed: Seed
    architecture: Literal["bk_base", "bk_small", "bk_tiny", "shallow", "none"]
    pool_size: Annotated[int, Field(ge=8, le=10**9)]
    num_steps: Count
    knowledge_steps: Count
    batch_size: BatchSize
    accumulation_steps: Positive
    gradient_checkpointing: bool
    optimizer: Optimizer
    feature_weight: Weight
    validation_every_steps: Positive


class Add(_Section):
    """Adversarial diffusion distillation: of pictures (Sauer et al. 2023), of latents (Sauer et al. 2024), or both."""

    seed: Seed
    method: AddMethod
    num_steps: Positive
    batch_size: BatchSize
    accumulation_steps: Positive
    gradient_checkpointing: bool
    optimizer: Optimizer
    discriminator_learning_rate: Rate
    distill_weight: Weight
    renoised_weight: Weight
    adv_weight: Weight
    adv_start_steps: Count
    adv_ramp_steps: Count
    discriminators: Annotated[list[Literal["latent", "pixel"]], Field(min_length=1, max_length=2)]
    discriminator_blocks: Annotated[list[Text], Field(min_length=1)]
    discriminator_timesteps: Annotated[list[Annotated[int, Field(ge=0, lt=NUM_TRAIN_TIMESTEPS)]], Field(min_length=1)]
    discriminator_fraction: Annotated[float, Field(gt=0, le=1)]
    pixel_backbone: Literal["efficientnet_lite0", "dinov2_small"]
    score_backbone: Literal["efficientnet_lite2", "dinov2_small"]
    real_source: Literal["teacher", "dataset", "both"]
    r1_weight: Weight
    augment_strength: Fraction
    rollout_fraction: Fraction
    crop_px: Side
    perceptual_weight: Weight
    image_text_weight: Weight
    image_text_network: Text
    resolutions_px: list[Resolution]
    resolution_pool_size: Positive
    require_trained_student: bool
    validation_every_steps: Positive


class Evaluate(_Section):
    """What is measured, with which networks, and on how many test captions."""

    seed: Seed
    subject: Literal["base", "teacher", "student", "distilled"]
    num_images: Count
    batch_size: BatchSize
    features: Literal["embedded", "inception", "clip", "dinov2"]
    perceptual: Literal["embedded", "alex", "vgg", "squeeze"]
    clip_score: Text
    latency_repeats: Annotated[int, Field(ge=1, le=1000)]
    teacher_steps: Steps
    student_sweep: Annotated[list[Steps], Field(min_length=1)]
    teacher_sweep: Annotated[list[TeacherSteps], Field(min_length=1)]
    sweep_images: Annotated[int, Field(ge=2, le=10**9)]
    classifier_steps: Count


class Samples(_Section):
    """Prompts and numbers of steps of the sample grids."""

    seed: Seed
    prompts: Annotated[list[Text], Field(min_length=1, max_length=32)]
    num_test_captions: Annotated[int, Field(ge=1, le=32)]
    steps: Annotated[list[Steps], Field(min_length=1, max_length=8)]
    interpolate_from: Text
    interpolate_to: Text


class Export(_Section):
    """The exported student and teacher, and the pictures that the parity checks draw."""

    seed: Seed
    formats: Annotated[list[ExportFormat], Field(min_length=1)]
    prompts: Annotated[list[Text], Field(min_length=1)]
    precision: Literal["fp32", "fp16"]
    tiny_decoder: Text
    tiny_decoder_steps: Positive


class Params(_Section):
    """All of params.yaml. `tracking` changes no result, so no stage runs again when it changes."""

    tracking: Tracking
    base: Base
    sampling: Sampling
    ingest: Ingest
    teacher: Teacher
    student: Student
    add: Add
    evaluate: Evaluate
    samples: Samples
    export: Export
