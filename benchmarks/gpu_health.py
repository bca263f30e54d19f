"""Speed and half precision of the models that a smoke run has trained: `python -m benchmarks.gpu_health`.

Runs in the folder of a pipeline whose stages have run, as `gpu_smoke` does at its end. Prints how many times faster the
student draws in its few steps than the teacher in `--teacher-steps` of PNDM, with the full decoder and with the tiny
one of the export, if there is one; and the errors of fp16 and bf16 in the predictions of both U-Nets. At t = 999 an
error is amplified most.
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn

from benchmarks.timing import Round, device_name, median, median_seconds, time_rounds
from naruto_add.comparison.image_sets import draw_alone
from naruto_add.comparison.subjects import Models, Subject, at_steps, load_subjects
from naruto_add.config import paths
from naruto_add.config.load import load_params
from naruto_add.config.schema import Params
from naruto_add.diffusion.bundle import encode_prompts, load_unet
from naruto_add.diffusion.frozen_unet import frozen_unet
from naruto_add.diffusion.sampling import guided_noise_pred, initial_noise, sample_latents
from naruto_add.models.tiny_decoder import decode_tiny
from naruto_add.runtime.compute import default_device, gpu_layout

PROMPT = "a man with white hair and a sword"
TIMESTEPS = (999, 749, 499, 249)
TEACHER, STUDENT, TINY = "teacher", "student", "student, tiny decoder"


@dataclass(frozen=True)
class Health:
    """Errors of rounded predictions relative to fp32, and the largest activation of fp16, whose limit is 65,504.

    Those of fp16 are None if it overflows, so that the stages would use bf16.
    """

    timestep: int
    fp16_error: float | None
    bf16_error: float
    largest: float | None


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher-steps", type=int, default=100, help="steps of PNDM")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; every model draws once in each")
    options = parser.parse_args()
    params = load_params(paths.PARAMS)
    subjects = load_subjects(_models(params))
    calls = drawings(subjects[TEACHER], subjects["distilled"], teacher_steps=options.teacher_steps)
    rounds = time_rounds(calls, options.repeats)
    print(f"drawing on {device_name()}, one picture")
    for name, seconds in median_seconds(rounds).items():
        steps = options.teacher_steps if name == TEACHER else params.sampling.student_steps
        faster = median(rounds, partial(speedup, name=name))
        print(f"{name:<24}{steps:>5} steps{1000 * seconds:12.1f} ms{faster:9.1f} times as fast")
    print(f"\n{'half precision':<16}{'t':>6}{'fp16 error':>12}{'bf16 error':>12}{'largest in fp16':>18}")
    for name, folder in (("teacher", paths.TEACHER / "unet"), ("student", paths.DISTILLED)):
        unet = load_unet(folder, precision="fp32", scheduler=subjects[TEACHER].bundle.scheduler)
        for each in healths(unet, subjects[TEACHER], guidance_scale=params.sampling.guidance_scale):
            fp16_error = "overflow" if each.fp16_error is None else f"{each.fp16_error:.5f}"
            largest = "overflow" if each.largest is None else f"{each.largest:.0f}"
            print(f"{name:<16}{each.timestep:>6}{fp16_error:>12}{each.bf16_error:12.5f}{largest:>18}")


def speedup(costs: Round, name: str) -> float:
    """How many times faster this drawing is than the teacher's."""
    return costs[TEACHER] / costs[name]


def drawings(teacher: Subject, student: Subject, *, teacher_steps: int) -> dict[str, Callable[[], object]]:
    """What is timed: one picture of each model, from the prompt to pixels; networks stay on the device."""
    slow = at_steps(teacher, teacher_steps)
    calls = {name: _draw(subject) for name, subject in ((TEACHER, slow), (STUDENT, student))}
    folder = paths.EXPORT / "tiny_decoder"
    if folder.is_dir():
        calls[TINY] = _draw_tiny(student, AutoencoderTiny.from_pretrained(folder, local_files_only=True))
    return calls


@torch.no_grad()
def healths(unet: UNet2DConditionModel, subject: Subject, *, guidance_scale: float) -> Iterator[Health]:
    """The errors of the guided prediction of an fp32 U-Net after the rounding that the stages do, at `TIMESTEPS`."""
    device = default_device()
    embeds, noise = encode_prompts(subject.bundle, [PROMPT, ""]), initial_noise(subject.bundle, 1, seed=0).to(device)

    def predict(network: nn.Module, timestep: int) -> Tensor:
        return guided_noise_pred(
            network,
            noise,
            torch.tensor([timestep], device=device),
            prompt_embeds=embeds[:1],
            negative_embeds=embeds[1:],
            guidance_scale=guidance_scale,
        )

    fp16, bf16 = (frozen_unet(copy.deepcopy(unet), dtype, device) for dtype in (torch.float16, torch.bfloat16))
    overflows = fp16.dtype != torch.float16
    for timestep in TIMESTEPS:
        with _without_tf32():
            exact = predict(unet, timestep)
        with _activations(fp16) as seen:
            rounded = predict(fp16, timestep)
        yield Health(
            timestep,
            fp16_error=None if overflows else _error(rounded, exact),
            bf16_error=_error(predict(bf16, timestep), exact),
            largest=None if overflows else max(seen),
        )


def _error(prediction: Tensor, exact: Tensor) -> float:
    return float((prediction - exact).norm() / exact.norm())


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Within the block, fp32 is not rounded to TF32, whose precision is that of fp16."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


@contextmanager
def _activations(network: nn.Module) -> Iterator[list[float]]:
    """Within the block, the list gets the largest absolute value of every output of a layer."""
    seen: list[float] = []

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            seen.append(float(output.abs().max()))

    layers = [module for module in network.modules() if not any(module.children())]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _draw(subject: Subject) -> Callable[[], object]:
    subject.bundle.to(default_device())
    return lambda: draw_alone(subject, [PROMPT], seed=0)


def _draw_tiny(student: Subject, tiny: AutoencoderTiny) -> Callable[[], object]:
    """Drawing with the tiny decoder in the dtype of the U-Net, and copying the picture to the CPU."""
    bundle = student.bundle
    gpu_layout(tiny.to(bundle.device, bundle.unet.dtype).eval())

    @torch.inference_mode()
    def draw() -> Tensor:
        embeds = encode_prompts(bundle, [PROMPT])
        latents = sample_latents(
            bundle.unet,
            noise=initial_noise(bundle, 1, seed=0),
            prompt_embeds=embeds,
            negative_embeds=embeds,
            sampler=student.sampler,
        )
        return decode_tiny(tiny, latents).cpu()

    return draw


def _models(params: Params) -> Models:
    return Models(
        base=params.base,
        sampling=params.sampling,
        teacher_dir=paths.TEACHER,
        student_dir=paths.STUDENT,
        distilled_dir=paths.DISTILLED,
    )


if __name__ == "__main__":
    main()
