"""Commands about the pipeline print and write what the library computes."""

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from naruto_add.reporting.summary import summary
from tests.cli.run import run, run_error, run_ok


@pytest.fixture
def evaluated_folder(project_folder: Path) -> Path:
    metrics = project_folder / "metrics"
    metrics.mkdir()
    (metrics / "evaluate.json").write_text(json.dumps({"teacher.fd_x": 12.5, "distilled.fd_x": 13.25}))
    return project_folder


def test_summary_prints_the_metrics(evaluated_folder: Path) -> None:
    text = run_ok("summary")
    assert text == f"{summary(evaluated_folder)}\n"
    assert "13.25" in text


@pytest.mark.parametrize("command", ["summary", "report"])
def test_results_need_a_run(command: str, project_folder: Path) -> None:
    assert "metrics/evaluate.json: no such file; run the pipeline first (`dvc repro`)" in run_error(command)


def test_report_writes_the_page(evaluated_folder: Path) -> None:
    assert run_ok("report") == "report.html\n"
    assert "13.25" in (evaluated_folder / "report.html").read_text()


def test_report_as_markdown_has_the_table_and_links_to_the_pictures(evaluated_folder: Path) -> None:
    grid = evaluated_folder / "metrics/grids/samples/subjects.png"
    grid.parent.mkdir(parents=True)
    grid.write_bytes(b"")
    (evaluated_folder / "metrics/add.json").write_text(json.dumps({"skipped_steps": 2, "best_step": 90}))
    figures = {"onnx.size_mib": 31.5, "onnx.latency_batch_1_ms": 65.4, "onnx.images_mean_abs_diff_of_255": 0.25}
    figures |= {"single_file.teacher.size_mib": 21.3, "single_file.teacher.latency_batch_1_ms": 66.3}
    (evaluated_folder / "metrics/export.json").write_text(json.dumps(figures))
    assert run_ok("report", "--md") == "report.md\n"
    text = (evaluated_folder / "report.md").read_text()
    assert re.search(r"\| fd_x +\| +lower \| +12\.5 \| +13\.25 \|", text)
    assert "- :warning: add: 2 steps skipped because of non-finite gradients" in text
    assert re.search(r"\| onnx +\| +31\.5 \| +65\.4 \| +\| images_mean_abs_diff_of_255 0\.25 \|", text)
    assert re.search(r"\| single_file\.teacher +\| +21\.3 \| +66\.3 \|", text)
    assert "](metrics/grids/samples/subjects.png)" in text
    assert not (evaluated_folder / "report.html").exists()


def test_invalid_parameters_are_a_message_with_key_and_value(evaluated_folder: Path) -> None:
    path = evaluated_folder / "params.yaml"
    path.write_text(path.read_text().replace("adv_weight: 20.0", "adv_weight: -1.0"))
    assert "add.adv_weight: -1.0 is not allowed" in run_error("report")


def test_check_refuses_values_that_contradict_each_other_before_it_looks_for_files(project_folder: Path) -> None:
    path, yaml = project_folder / "params.yaml", YAML()
    params = yaml.load(path)
    params["base"]["caption_chunks"] = 2
    params["export"]["formats"] = ["diffusers", "onnx", "demo"]
    yaml.dump(params, path)
    assert "export.formats: demo encodes prompts in one chunk only" in run_error("check")


def test_ablation_refuses_unknown_variants_and_missing_files(project_folder: Path) -> None:
    assert "--only: 'fulll' is not a variant; choose from full, three_times_the_steps" in run_error(
        "ablation", "--only", "fulll"
    )
    assert "none.yaml: cannot be read" in run_error("ablation", "--variants", "none.yaml")
    assert run("ablation", "--jobs", "0").exit_code == 2


def test_deps_updates_dvc_yaml_once(project_folder: Path) -> None:
    """In a project of one stage."""
    (project_folder / "stages").mkdir()
    (project_folder / "stages/ingest.py").write_text("import json\nfrom naruto_add import tool\n")
    (project_folder / "src/naruto_add").mkdir(parents=True)
    (project_folder / "src/naruto_add/tool.py").write_text("import torch\n")
    stages = {"ingest": {"cmd": "python -m stages.ingest", "deps": ["data/raw"]}}
    YAML().dump({"stages": stages}, project_folder / "dvc.yaml")
    assert run_ok("deps") == "dvc.yaml, packages.yaml: updated\n"
    written = YAML(typ="safe").load(project_folder / "dvc.yaml")["stages"]["ingest"]
    assert written["deps"] == ["data/raw", "src/naruto_add/tool.py", "stages/ingest.py"]
    assert run_ok("deps") == "dvc.yaml, packages.yaml: unchanged\n"
