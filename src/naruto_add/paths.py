"""Where every artifact of the pipeline lives, relative to the folder that holds dvc.yaml."""

from pathlib import Path

PARAMS = Path("params.yaml")
PACKAGES = Path("requirements.lock")

DATASET = Path("data/dataset")
"""images/*.png and metadata.jsonl: file_name, text, split, source and the source's own columns."""
REJECTS = Path("data/rejects.jsonl")
POOL = Path("data/pool.safetensors")

TEACHER = Path("models/teacher")
"""The merged pipeline, in diffusers format."""
TEACHER_LORA = Path("models/teacher_lora")
STUDENT = Path("models/student")
"""A U-Net before adversarial training; its other parts are the teacher's."""
DISTILLED = Path("models/distilled")
"""The U-Net after it."""
EXPORT = Path("models/export")

METRICS = Path("metrics")
CURVES = METRICS / "curves"
GRIDS = METRICS / "grids"
EVALUATE_METRICS = METRICS / "evaluate.json"
SUBJECT_METRICS = METRICS / "subject.json"
ABLATION_METRICS = METRICS / "ablation.json"
ABLATION_GRID = GRIDS / "ablation.png"
REPORT = Path("report.html")
