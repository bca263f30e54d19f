"""The real pipeline at a tiny size, in its own processes: which stages run, with whose code, what survives a kill."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.cli.run import run_ok
from tests.project import DVC, TINY, WAIT_SECONDS, Project

pytestmark = pytest.mark.slow

STAGES = ["ingest", "teacher", "student", "add", "evaluate", "samples", "export", "report"]
ALWAYS_RUN = ["inputs"]
"""Stages that every `dvc repro` runs, to find out whether the base model has changed."""
LONG = "a man " * 50
"""A hundred tokens: what follows is in the second chunk of a prompt."""
TWO_CHUNKS = {
    "base.caption_chunks": 2,
    "base.prompt_template": f"{LONG}{{caption}}",
    "teacher.num_steps": 4,
    "student.pool_size": 8,
    "student.num_steps": 3,
    "add.num_steps": 4,
    "add.require_trained_student": False,
    "evaluate.num_images": 2,
    "evaluate.sweep_images": 2,
    "evaluate.classifier_steps": 0,
    "export.formats": ["diffusers", "lora"],
}
"""A short run that sees captions only if it encodes two chunks."""
ENDLESS = {"teacher.num_steps": 100_000, "teacher.validation_every_steps": 50}
"""A teacher training so long that it is still running when a test interrupts it."""


@pytest.fixture(scope="module")
def first_run(tiny_pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A project after its first `dvc repro`, committed, and the output of that run. Tests must not change it."""
    project = Project(tmp_path_factory.mktemp("pipeline") / "project", tiny_pipeline_dir)
    output = project.dvc("repro")
    project.commit()
    return project, output


@pytest.fixture(scope="module")
def finished(first_run: tuple[Project, str]) -> Project:
    """A project after its first `dvc repro`. Tests must not change it."""
    return first_run[0]


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project that a test may change."""
    return finished.copy(tmp_path / "project")


def test_the_first_run_runs_all_stages_in_order(first_run: tuple[Project, str]) -> None:
    finished, output = first_run
    assert finished.stages_run(output) == [*ALWAYS_RUN, *STAGES]


@pytest.mark.parametrize("stage", [*ALWAYS_RUN, *STAGES])
def test_every_declared_output_exists(finished: Project, stage: str) -> None:
    for path in finished.declared(stage):
        assert path.exists(), path


def test_the_second_run_runs_only_the_check_of_the_inputs(finished: Project) -> None:
    assert _rerun(finished, finished.dvc("repro")) == []


def test_no_stage_opens_a_network_connection(finished: Project) -> None:
    assert set(finished.code_used()) >= set(STAGES), "the sandbox did not log the stages"
    assert finished.connections() == []


def test_the_sandbox_has_no_network(project: Project) -> None:
    output = project.fail(sys.executable, "-c", "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)")
    assert "no network: 192.0.2.1" in output
    assert project.connections() == ["\t192.0.2.1"]


def test_the_example_of_the_model_card_runs_with_diffusers_alone(finished: Project, tmp_path: Path) -> None:
    export_dir = finished.root / "models/export"
    snippets = re.findall(r"```python\n(.*?)```", (export_dir / "README.md").read_text(), re.DOTALL)
    snippet = snippets[0].replace("path/to/this/folder", str(export_dir))
    check = "import sys\nassert not [name for name in sys.modules if name.startswith('naruto_add')]\n"
    subprocess.run([sys.executable, "-I", "-c", snippet + check], cwd=tmp_path, check=True)
    assert (tmp_path / "picture.png").exists()


def _lower_adv_weight(project: Project) -> None:
    project.set_params({"add.adv_weight": 5.0})


def _ask_for_other_samples(project: Project) -> None:
    project.set_params({"samples.prompts": ["a man with white hair and a sword"]})


def _lower_teacher_steps(project: Project) -> None:
    """Used where teacher and student are compared, not in training."""
    project.set_params({"sampling.teacher_steps": 5})


def _add_a_comment_to_export_code(project: Project) -> None:
    with (project.root / "src/naruto_add/export/model_card.py").open("a") as stream:
        stream.write("# A remark.\n")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_lower_adv_weight, ["add", "evaluate", "samples", "export", "report"]),
        (_ask_for_other_samples, ["samples", "report"]),
        (_lower_teacher_steps, ["evaluate", "samples", "export", "report"]),
        (_add_a_comment_to_export_code, ["export", "report"]),  # its latencies are measured again
    ],
)
def test_a_change_reruns_what_depends_on_it(
    project: Project, change: Callable[[Project], None], expected: list[str]
) -> None:
    change(project)
    assert _rerun(project, project.dvc("repro")) == expected


def test_restoring_earlier_parameters_trains_nothing(project: Project) -> None:
    first = project.locked("add")
    _lower_adv_weight(project)
    assert _rerun(project, project.dvc("repro", "add")) == ["add"]
    project.git("checkout", "--quiet", "params.yaml")
    assert _rerun(project, project.dvc("repro", "add")) == []
    assert project.locked("add") == first
    assert all(path.exists() for path in project.declared("add"))


def test_a_temporary_experiment_uses_its_own_code_and_changes_nothing_here(project: Project) -> None:
    before = _contents(project)
    output = project.dvc("exp", "run", "--temp", "-n", "strong", "-S", "add.adv_weight=50")

    assert _rerun(project, output) == ["add", "evaluate", "samples", "export", "report"]
    assert _contents(project) == before
    assert project.git("status", "--porcelain") == ""
    assert len(list(project.root.glob(".checkpoints/add/*"))) == 2  # caches of both configurations, in the repository
    code = project.code_used()
    for stage in ["add", "evaluate", "samples", "export", "report"]:
        assert code[stage]
        assert all(file.is_relative_to(project.root / ".dvc/tmp/exps") for file in code[stage]), code[stage]


def test_an_experiment_in_the_workspace_changes_the_workspace(project: Project) -> None:
    output = project.dvc("exp", "run", "-n", "here", "-S", "samples.seed=3")
    assert _rerun(project, output) == ["samples", "report"]
    assert "seed: 3 " in project.git("diff", "HEAD", "--", "params.yaml")
    assert "metrics/grids/samples" in project.git("diff", "HEAD", "--stat")
    assert _rerun(project, project.dvc("repro")) == []


def test_queued_trainings_run_in_parallel(project: Project) -> None:
    project.dvc("exp", "run", "--queue", "-n", "sweep", "-S", "add.adv_weight=2,5", "add")
    # Without a pipe: it would stay open until the queue's workers, which inherit it, have ended, and one may never end.
    start = [*DVC, "queue", "start", "--jobs", "2"]
    subprocess.run(start, cwd=project.root, env=project.environment(), stdout=subprocess.DEVNULL, check=True)
    assert _status_after_the_queue(project).count("Success") == 2
    assert project.git("status", "--porcelain") == ""
    assert all(file.is_relative_to(project.root / ".dvc/tmp/exps") for file in project.code_used()["add"])
    assert len(list(project.root.glob(".checkpoints/add/*"))) == 3  # the first run's and theirs


def test_teacher_and_student_can_be_compared(project: Project) -> None:
    output = project.dvc("exp", "run", "--temp", "-n", "teacher", "-S", "evaluate.subject=teacher", "evaluate")
    assert _rerun(project, output) == ["evaluate"]
    output = project.dvc("exp", "run", "--temp", "-n", "student", "-S", "evaluate.subject=distilled", "evaluate")
    assert _rerun(project, output) == []

    difference = json.loads(project.dvc("metrics", "diff", "teacher", "student", "--json"))
    rows = difference["metrics/subject.json"]
    assert {"fd_efficientnet_lite1", "latency_ms", "params_m"} <= set(rows)
    assert rows["params_m"]["new"] < rows["params_m"]["old"]


@pytest.mark.parametrize("stage", ["teacher", "add"])
def test_a_killed_stage_resumes_and_ends_with_the_same_outputs(project: Project, finished: Project, stage: str) -> None:
    project.forget(stage)
    process = project.start(*DVC, "repro", stage)
    checkpoint = project.wait_for(f".checkpoints/{stage}/*/{stage}.pt", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    num_done, num_steps = _steps_in(checkpoint), TINY[f"{stage}.num_steps"]
    assert 0 < num_done < num_steps
    _assert_nothing_is_half_written(project, stage)
    _assert_curves_are_beginnings(project, finished, stage)

    output = project.dvc("repro", stage)
    assert f" {num_done}/{num_steps} " in output, "it did not resume"
    assert project.locked(stage) == finished.locked(stage)


def test_a_stage_whose_dvc_is_killed_saves_and_exits(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bash, which replaces itself by the stage, so that DVC is the stage's parent process."""
    monkeypatch.setenv("SHELL", "/bin/bash")
    project.forget("teacher")
    project.set_params(ENDLESS)
    process = project.start(*DVC, "repro", "teacher")
    checkpoint = project.wait_for(".checkpoints/teacher/*/teacher.pt", process)
    process.kill()
    output, _ = process.communicate(timeout=WAIT_SECONDS)  # returns when the stage has closed its output too

    assert "interrupted: the next `dvc repro` runs this stage again" in output
    assert 0 < _steps_in(checkpoint) < ENDLESS["teacher.num_steps"]
    _assert_nothing_is_half_written(project, "teacher")


def test_ctrl_c_saves_and_the_next_run_resumes(project: Project, finished: Project) -> None:
    project.forget("teacher")
    process = project.start(*DVC, "repro", "teacher")
    checkpoint = project.wait_for(".checkpoints/teacher/*/teacher.pt", process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the whole process group
    output, _ = process.communicate(timeout=WAIT_SECONDS)

    assert process.returncode != 0
    assert "interrupted: the next `dvc repro` runs this stage again" in output
    num_done = _steps_in(checkpoint)
    assert 0 < num_done < TINY["teacher.num_steps"]
    _assert_nothing_is_half_written(project, "teacher")
    _assert_curves_are_beginnings(project, finished, "teacher")
    assert f" {num_done}/{TINY['teacher.num_steps']} " in project.dvc("repro", "teacher"), "it did not resume"
    assert project.locked("teacher") == finished.locked("teacher")


def test_outputs_of_accelerate_launch_can_be_committed(project: Project) -> None:
    """The commands of docs/sd15.md: `accelerate launch`, then `dvc commit`."""
    project.forget("add")
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    options = ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
    project.run(sys.executable, *launch, *options, "-m", "stages.add")
    project.dvc("commit", "--force", "add")
    assert _rerun(project, project.dvc("repro", "add")) == []
    for path in project.declared("add"):
        assert path.exists(), path


def test_a_second_process_of_the_same_configuration_is_refused(project: Project) -> None:
    project.forget("teacher")
    project.set_params(ENDLESS)
    stage = (sys.executable, "-m", "stages.teacher")
    process = project.start(*stage)
    checkpoint = project.wait_for(".checkpoints/teacher/*/teacher.pt", process)
    refusal = project.fail(*stage)
    assert "another process is training this configuration" in refusal
    assert "Traceback" not in refusal

    assert process.poll() is None
    before = _steps_in(checkpoint)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 1
    assert "interrupted: the next `dvc repro` runs this stage again" in output
    assert _steps_in(checkpoint) > before


def test_all_stages_and_generate_encode_prompts_in_two_chunks(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "project", tiny_pipeline_dir, TWO_CHUNKS)
    assert project.stages_run(project.dvc("repro", "export"))[-1] == "export"
    sword, cat = _drawn(project, "sword"), _drawn(project, "cat")
    assert sword != cat
    settings_path = project.root / "models/export/naruto_add.json"
    settings = json.loads(settings_path.read_text())
    assert settings["caption_chunks"] == 2
    settings_path.write_text(json.dumps(settings | {"caption_chunks": 1}))
    assert _drawn(project, "sword") == _drawn(project, "cat"), "one chunk holds only the words that are the same"
    assert _drawn(project, "sword") != sword


def _drawn(project: Project, thing: str) -> bytes:
    """The pixels of a picture whose long prompt ends with the thing."""
    arguments = ["--model", str(project.root / "models/export"), "--num", "1", "--out", str(project.root / "pictures")]
    output = run_ok("generate", f"{LONG} with a {thing}", "--raw-prompt", *arguments)
    with Image.open(output.rpartition("  ")[0]) as image:
        return image.tobytes()


def _rerun(project: Project, output: str) -> list[str]:
    """The stages that were run, without those that always run."""
    return [stage for stage in project.stages_run(output) if stage not in ALWAYS_RUN]


def _status_after_the_queue(project: Project) -> str:
    give_up_at = time.monotonic() + WAIT_SECONDS
    while True:
        status = project.dvc("queue", "status")
        if "0 active, 0 idle" in status and not re.search("Queued|Running", status):
            return status
        assert time.monotonic() < give_up_at, status
        time.sleep(1)


def _steps_in(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["num_done"])


def _assert_nothing_is_half_written(project: Project, stage: str) -> None:
    """Curves and grids, which grow during the stage, can be read; no other output exists."""
    for path in project.declared(stage):
        match path.suffix:
            case ".tsv" if path.exists():
                assert path.read_text().endswith("\n"), path
            case ".png" if path.exists():
                Image.open(path).load()
            case _:
                assert not path.exists(), path


def _assert_curves_are_beginnings(project: Project, finished: Project, stage: str) -> None:
    """The curves so far are the beginning of those of the finished run."""
    for path in project.declared(stage):
        if path.suffix == ".tsv" and path.exists():
            assert (finished.root / path.relative_to(project.root)).read_text().startswith(path.read_text()), path


def _contents(project: Project) -> dict[Path, bytes]:
    """Every file of the working tree except those of DVC, Git and Python."""
    own = {".git", ".dvc", ".checkpoints", "__pycache__"}
    files = [path for path in project.root.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files if not own & set(path.relative_to(project.root).parts)}
