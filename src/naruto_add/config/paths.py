"""Where every artifact of the pipeline lives, relative to the folder that holds dvc.yaml."""

from pathlib import Path

PARAMS = Path("params.yaml")
REQUIREMENTS = Path("requirements.lock")
PACKAGES = Path("packages.yaml")
"""Versions of the packages that compute, out of requirements.lock; written by `naruto-add deps`."""

BASE_MANIFEST = Path("data/inputs/base.json")
"""The files of the base model, by content; or its hub repository and revision."""
TOKENIZER_MANIFEST = Path("data/inputs/tokenizer.json")
"""The same for its tokenizer alone."""
PICTURE_MANIFEST = Path("data/inputs/pictures.json")
"""The files in `ingest.path`, by content."""

DATASET = Path("data/dataset")
"""images/*.png, metadata.jsonl (file_name, text, split, source, and the columns of the source) and source.json."""
REJECTS = Path("data/rejects.jsonl")
POOL = Path("data/pool.safetensors")

TEACHER = Path("models/teacher")
"""The finetuned pipeline with merged adapters, in diffusers format."""
TEACHER_LORA = Path("models/teacher_lora")
STUDENT = Path("models/student")
"""The student's U-Net before adversarial training; the other parts of its pipeline are the teacher's."""
DISTILLED = Path("models/distilled")
"""The student's U-Net after adversarial training."""
EXPORT = Path("models/export")

METRICS = Path("metrics")
CURVES = METRICS / "curves"
GRIDS = METRICS / "grids"
ADD_METRICS = METRICS / "add.json"
EVALUATE_METRICS = METRICS / "evaluate.json"
SUBJECT_METRICS = METRICS / "subject.json"
ABLATION_METRICS = METRICS / "ablation.json"
ABLATION_GRID = GRIDS / "ablation.png"
DEMO = Path("demo")
"""Sources of the demo page, and in dist/ what `make demo` builds from them."""
REPORT = Path("report.html")
MARKDOWN_REPORT = Path("report.md")
"""Written by `naruto-add report --md` only."""
