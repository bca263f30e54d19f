"""Examples of the demo page: captions of test pictures, and the teacher's pictures from the first seeds' noise."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from naruto_add.comparison.draw import draw_pixels
from naruto_add.data.dataset import Example, load_split
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.diffusion.sampling import Sampler
from naruto_add.export.demo_page import DemoExample
from naruto_add.imaging.pixels import to_uint8

NUM_EXAMPLES = 6
NUM_SEEDS = 4
"""The teacher's pictures of each example are those of the seeds 0, 1, 2 and 3."""


def load_examples(dataset_dir: Path, *, prompt_template: str) -> list[Example]:
    """Test pictures with different captions, evenly spaced over the split; the shortest caption first."""
    distinct: dict[str, Example] = {}
    for example in load_split(dataset_dir, "test", prompt_template=prompt_template):
        distinct.setdefault(example.caption, example)
    examples = list(distinct.values())
    num = min(NUM_EXAMPLES, len(examples))
    return sorted((examples[index * len(examples) // num] for index in range(num)), key=lambda item: len(item.caption))


def draw_examples(teacher: ModelBundle, sampler: Sampler, examples: Sequence[Example]) -> list[DemoExample]:
    """The teacher's pictures, each from the noise that `naruto-add generate` and the page draw for its seed."""
    seeds = range(NUM_SEEDS)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.cat([torch.randn((1, *teacher.latent_shape), generator=generator) for generator in generators])
    prompts = [example.prompt for example in examples]
    pixels = draw_pixels(
        teacher,
        sampler,
        prompt_embeds=encode_prompts(teacher, prompts).repeat_interleave(NUM_SEEDS, dim=0),
        noise=noise.repeat(len(examples), 1, 1, 1).to(teacher.device),
        seed=0,
        indices=range(len(examples) * NUM_SEEDS),
    )
    pictures = [Image.fromarray(image) for image in to_uint8(pixels)]
    return [
        DemoExample(example.caption, pictures[index * NUM_SEEDS : (index + 1) * NUM_SEEDS])
        for index, example in enumerate(examples)
    ]
