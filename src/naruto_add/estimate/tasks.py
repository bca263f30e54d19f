"""The tasks of all stages, with this project's own steps on fake tensors, and what they leave out."""

from collections.abc import Iterator

from naruto_add.config.constants import CAPTION_MATCH
from naruto_add.config.schema import Params
from naruto_add.estimate.add import add_tasks
from naruto_add.estimate.evaluation import evaluate_tasks, export_tasks, samples_tasks
from naruto_add.estimate.networks import Shapes
from naruto_add.estimate.student import student_tasks
from naruto_add.estimate.task import Task
from naruto_add.estimate.teacher import teacher_tasks


def all_tasks(params: Params, shapes: Shapes, *, num_pictures: int) -> Iterator[Task]:
    """The tasks of all stages that use a GPU, in the pipeline's order, for a data set of this many pictures."""
    num_test = round(num_pictures * params.ingest.test_fraction)
    yield from teacher_tasks(params, shapes, num_pictures)
    yield from student_tasks(params, shapes)
    yield from add_tasks(params, shapes, num_pictures)
    yield from evaluate_tasks(params, shapes, num_test)
    yield from samples_tasks(params, shapes, num_test)
    yield from export_tasks(params, shapes, num_pictures)


def uncounted(params: Params) -> list[str]:
    """What these parameters add to the memory and time of a stage, and no task counts."""
    add = params.add
    is_matched = bool(add.image_text_weight) and add.image_text_network == CAPTION_MATCH
    parts = {
        "teacher: the training of the text encoder (teacher.lora_text_encoder)": params.teacher.lora_text_encoder,
        "add: the training of caption_match (add.image_text_network)": is_matched,
        "add: pictures of other sizes (add.resolutions_px)": bool(add.resolutions_px),
        "teacher, student, add: pictures in aspect buckets (ingest.aspect_buckets)": params.ingest.aspect_buckets,
        "add: what add.method consistency does instead of an adversarial step": add.method == "consistency",
    }
    return [part for part, is_used in parts.items() if is_used]
