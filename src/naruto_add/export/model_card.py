"""README.md of an exported student and of the teacher's LoRA: what it is, its use, metrics, limits and licences.

Names of data sets, models and prompts may come from elsewhere: YAML quotes them, and Markdown has them as code.
"""

from dataclasses import replace

from naruto_add.config.schema import AddMethod, ExportFormat
from naruto_add.diffusion.token_chunks import TOKENS_PER_CHUNK
from naruto_add.evaluation.catalog import notes
from naruto_add.export import card_pictures
from naruto_add.export.card_facts import CardFacts, code, dataset, dataset_licence, licence
from naruto_add.export.card_front_matter import front_matter
from naruto_add.reporting.tables import SUBJECTS, metrics_table

_METHODS: dict[AddMethod, str] = {
    "adversarial": "adversarial diffusion distillation",
    "consistency": "latent consistency distillation",
}
_METHOD_TAGS: dict[AddMethod, str] = {
    "adversarial": "adversarial-diffusion-distillation",
    "consistency": "latent-consistency",
}
_LOADING = {
    "fp32": """from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("path/to/this/folder")""",
    "fp16": """import torch
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("path/to/this/folder", dtype=torch.float16).to("cuda")""",
}


def model_card(facts: CardFacts) -> str:
    """The student's card in Markdown, with the hub's front matter."""
    return _card(
        facts,
        front_matter(facts, "distilled", relation="finetune", tags=[_METHOD_TAGS[facts.method]]),
        [_student_introduction(facts), _student_usage(facts), *_other_files(facts)],
        [
            f"Use {len(facts.timesteps)} steps; the model was trained at their timesteps only.",
            "Guidance scale and negative prompts have no effect.",
            *_chunks_sentence(facts),
        ],
    )


def lora_card(facts: CardFacts, file: str) -> str:
    """The card of the teacher's LoRA, for the folder that contains `file`."""
    return _card(
        facts,
        front_matter(facts, "teacher", relation="adapter", tags=["lora"]),
        [_lora_introduction(facts), _lora_usage(facts, file)],
        [
            "It needs the base model and its usual number of steps: the LoRA does not make it draw in a few steps.",
            *_chunks_sentence(facts),
        ],
    )


def student_about(facts: CardFacts) -> list[str]:
    """Paragraphs for the demo page, which has no metrics: what the student is, its limits and its licences."""
    (use, *limits) = _limit_points(replace(facts, metrics={}), [])
    licences = [licence(facts).text, licence(facts).link, dataset_licence(facts)]
    return [_student_description(facts), use, " ".join(limits), " ".join(filter(None, licences))]


def _card(facts: CardFacts, front_matter: str, sections: list[str], limits: list[str]) -> str:
    parts = [front_matter, *sections, _pictures(facts)]
    if facts.metrics:
        parts.append(f"## Metrics\n\n{metrics_table(facts.metrics)}")
        parts += notes(facts.metrics, SUBJECTS)
    if facts.has_plot:
        parts.append(f"![Frechet distance against latency by number of steps]({card_pictures.PLOT})")
    parts += [_limits(facts, limits), f"## Licences\n\n{licence(facts).text}\n\n{dataset_licence(facts)}"]
    return "\n\n".join(parts) + "\n"


def _student_introduction(facts: CardFacts) -> str:
    return f"# A text-to-image model that draws in {len(facts.timesteps)} steps\n\n{_student_description(facts)}"


def _student_description(facts: CardFacts) -> str:
    return (
        f"A compact student of {code(facts.base_model)}, finetuned on {dataset(facts)} and distilled by "
        f"{_METHODS[facts.method]} with naruto-add. It was trained at the timesteps "
        f"{', '.join(map(str, facts.timesteps))}, which its scheduler visits in {len(facts.timesteps)} steps."
        f"{_trigger_sentence(facts)}"
    )


def _lora_introduction(facts: CardFacts) -> str:
    tools = (
        f"No tool for Stable Diffusion 1.5 loads its base model: {facts.unfit_reason}."
        if facts.unfit_reason
        else "ComfyUI, AUTOMATIC1111 and Forge say that they read this layout; none of them has been run."
    )
    return (
        f"# A LoRA for {code(facts.base_model)}\n\n"
        f"Adapters finetuned on {dataset(facts)} with naruto-add, in the layout of kohya's sd-scripts. The export "
        f"loads and compares them with diffusers. {tools}{_trigger_sentence(facts)}"
    )


def _trigger_sentence(facts: CardFacts) -> str:
    if not facts.trigger_words:
        return " There are no trigger words: describe the picture."
    return f" Trigger words: {code(facts.trigger_words)}."


def _chunks_sentence(facts: CardFacts) -> list[str]:
    if facts.caption_chunks == 1:
        return []
    return [
        (
            f"It was trained on prompts of {facts.caption_chunks} chunks of {TOKENS_PER_CHUNK} tokens, shorter ones "
            "filled up with empty chunks. Tools should encode prompts in the same way: `naruto-add generate` does; "
            "for diffusers, compel computes `prompt_embeds` of long prompts; ComfyUI, AUTOMATIC1111 and Forge encode "
            "as many chunks as a prompt has, without empty ones."
        )
    ]


def _student_usage(facts: CardFacts) -> str:
    return f"""## Usage

```python
{_LOADING[facts.precision]}
image = pipe({_literal(facts.prompts[0])}, num_inference_steps={len(facts.timesteps)}).images[0]
image.save("picture.png")
```

Use {len(facts.timesteps)} steps: more lead to timesteps that the model was not trained at, and fewer draw rougher
pictures. Guidance is distilled into the model: `guidance_scale` and `negative_prompt` have no effect, because the
U-Net's `time_cond_proj_dim` turns classifier-free guidance off."""


def _other_files(facts: CardFacts) -> list[str]:
    """A section about what else the folder has, or nothing."""
    num_steps = len(facts.timesteps)
    single = "Teacher and student in the original layout of Stable Diffusion, in fp16. "
    if facts.unfit_reason:
        single += f"No tool for Stable Diffusion 1.5 loads them: {facts.unfit_reason}."
    else:
        single += (
            "By the tools' own rules, tools for Stable Diffusion 1.5 load the teacher, and ComfyUI loads the "
            "student; none of these tools has been run. AUTOMATIC1111 and Forge build the full U-Net, so they cannot "
            "load a pruned student. A student of the architecture `bk_tiny` also has a file for stable-diffusion.cpp, "
            "`student_gaps.safetensors`."
        )
        if facts.student_scheduler == "ddim":
            single += (
                f" Settings for the student in ComfyUI: sampler `euler`, scheduler `simple`, {num_steps} steps, cfg 1."
            )
    networks = "onnx_int8" if "onnx_int8" in facts.formats else "onnx"
    demo = (
        "A page that draws in a browser, offline: download it and open it with a double click. If the page asks for "
        f"the model's folder, download `{networks}/` too and choose that. It has been tested in Chromium only."
    )
    descriptions: dict[ExportFormat, tuple[str, str]] = {
        "lora": ("lora/", "The teacher's LoRA in kohya's layout, for the base model, with a card of its own."),
        "single_file": ("single_file/", single),
        "onnx": ("onnx/", "The student for onnxruntime, without torch: networks in fp32, tokenizer and sampler."),
        "onnx_int8": (
            "onnx_int8/",
            "The same networks with int8 weights: a quarter of the size, and slightly different pictures.",
        ),
        "demo": ("demo.html", demo),
    }
    rows = [f"- `{path}`: {text}" for name, (path, text) in descriptions.items() if name in facts.formats]
    if facts.has_tiny_decoder:
        rows.append("- `tiny_decoder/`: A smaller, faster decoder for diffusers (`AutoencoderTiny`), less exact.")
    figures = (
        "Sizes, differences from the model and latencies of these files are in `metrics/export.json` of the run that "
        "wrote them; naruto-add's `docs/exports.md` says how they are measured."
    )
    return ["## Other files\n\n" + "\n".join(rows) + f"\n\n{figures}"] if rows else []


def _lora_usage(facts: CardFacts, file: str) -> str:
    return f"""## Usage

```python
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained({_literal(facts.base_model)})
pipe.load_lora_weights("path/to/this/folder", weight_name="{file}")
image = pipe({_literal(facts.prompts[0])}, guidance_scale={facts.guidance_scale:g}).images[0]
image.save("picture.png")
```

The teacher of the metrics below is the base model with this LoRA, with guidance {facts.guidance_scale:g}."""


def _literal(text: str) -> str:
    """A Python string in ASCII, so that no character of it can end the code block or reorder the line."""
    return ascii(text).replace("`", "\\x60")


def _pictures(facts: CardFacts) -> str:
    prompts = "\n".join(f"- {code(prompt)}" for prompt in facts.prompts)
    return f"## Examples\n\n![A grid of pictures, a row for each prompt]({card_pictures.GRID})\n\n{prompts}"


def _limits(facts: CardFacts, limits: list[str]) -> str:
    return "## Intended use and limits\n\n" + "\n".join(f"- {point}" for point in _limit_points(facts, limits))


def _limit_points(facts: CardFacts, limits: list[str]) -> list[str]:
    size = facts.resolution_px
    measured = "; the metrics about training pictures measure this" if facts.metrics else ""
    return [
        (
            f"Intended for pictures of {size}x{size} pixels of what its training pictures show, from captions like "
            "theirs. It draws other subjects poorly, and it draws no legible text."
        ),
        *limits,
        f"It learned from a small set of pictures, and may draw pictures that resemble one of them{measured}.",
        (
            "Neither its prompts nor its pictures are filtered: there is no safety checker. Its biases, which "
            "come from the base model and the training pictures, were not measured."
        ),
        "Not intended for pictures that deceive about real people or events, or for uses that a licence below bars.",
    ]
