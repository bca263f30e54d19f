"""One kind of work of a stage and what it costs, and what all computations on fake tensors share."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from naruto_add.config.schema import Optimizer, Precision
from naruto_add.diffusion.sampling import guided_noise_pred
from naruto_add.estimate.fake import Meter, materialized
from naruto_add.estimate.networks import Shapes, new_unet
from naruto_add.models.student import Architecture

FP32_BYTES = 4


@dataclass(frozen=True)
class Task:
    """One kind of work of a stage: its peak memory, and its FLOPs over the whole stage."""

    stage: str
    name: str
    peak_bytes: int
    flops: float


def autocast(precision: Precision, *, keeps_casts: bool = True) -> AbstractContextManager[object]:
    """Half precision of either kind has two bytes, and the CPU's autocast knows bf16 only."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=keeps_casts)


def frozen(precision: Precision) -> torch.dtype:
    """The dtype of frozen networks; bf16 also for fp16, which has as many bytes."""
    return torch.float32 if precision == "fp32" else torch.bfloat16


def guided(unet: nn.Module, latents: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
    """The guided prediction, which computes two."""
    return guided_noise_pred(
        unet, latents, timesteps, prompt_embeds=embeds, negative_embeds=embeds[:1], guidance_scale=7.5
    )


def zero_timesteps(batch: int) -> Tensor:
    """A timestep for each picture."""
    return torch.zeros(batch, dtype=torch.long)


def num_weights(*modules: nn.Module) -> int:
    """The number of weights of these modules."""
    return sum(item.numel() for module in modules for item in module.parameters())


def weight_bytes(*modules: nn.Module) -> int:
    """The bytes of the weights of these modules."""
    return sum(item.numel() * item.element_size() for module in modules for item in module.parameters())


# --- the state of a training ---


def new_student(shapes: Shapes, architecture: Architecture, *, is_checkpointing: bool) -> nn.Module:
    """A student in training, fp32."""
    student = new_unet(shapes, torch.float32, architecture).requires_grad_(True)
    materialized(student.train())
    if is_checkpointing:
        student.enable_gradient_checkpointing()
    return student


def num_student_weights(shapes: Shapes, architecture: Architecture) -> int:
    """The number of weights of the student's U-Net."""
    return num_weights(new_unet(shapes, torch.float32, architecture))


def training_state(
    meter: Meter, module: nn.Module, optimizer: Optimizer, *, is_accumulating: bool, has_average: bool = True
) -> list[Tensor]:
    """The optimizer's averages and, if there is one, the moving average of the weights; counted from now on.

    The module's weights are counted too. Gradients of earlier parts of a batch are kept while the others are computed.
    """
    meter.hold(module)
    trainable = [item for item in module.parameters() if item.requires_grad]
    dtype = torch.uint8 if optimizer.name == "adamw_8bit" else torch.float32
    num_averages = 1 if optimizer.name == "muon" else 2  # of few weights Muon has two, by AdamW
    state = [torch.empty(item.shape, dtype=dtype) for item in trainable for _ in range(num_averages)]
    if has_average and not optimizer.ema_on_cpu:
        state += [torch.empty(item.shape) for item in trainable]
    if is_accumulating:
        for item in trainable:
            item.grad = torch.empty(item.shape)
    meter.start()
    return state


def bytes_between_steps(optimizer: Optimizer) -> int:
    """GPU bytes of each trained weight: the weight, the optimizer's averages, the moving average; no gradient."""
    optimizer_bytes = {"adamw": 8, "adamw_8bit": 2, "muon": 4}[optimizer.name]
    return FP32_BYTES + optimizer_bytes + (0 if optimizer.ema_on_cpu else FP32_BYTES)
