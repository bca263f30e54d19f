"""The ONNX networks are the student's: equal predictions and pictures, any batch, and no torch to draw."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from naruto_add.diffusion.bundle import ModelBundle, encode_prompts, tokenize
from naruto_add.diffusion.noise import alphas_cumprod, ddim_step
from naruto_add.diffusion.sampling import initial_noise, make_student_scheduler
from naruto_add.export import onnx_files
from naruto_add.export.onnx_files import check_onnx, sampler_steps
from naruto_add.export.onnx_int8 import quantized
from naruto_add.generate.model import load_model
from naruto_add.generate.onnx_model import load_onnx_model
from naruto_add.generate.onnx_pipeline import OnnxPipeline
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.extras import require_onnx
from tests.export.build import PROMPTS, export
from tests.extras import ONNX, need_packages

ROOT = Path(__file__).parent.parent.parent
TIMESTEPS = [999, 749, 499, 249]


@pytest.fixture(scope="module")
def exported(tiny_pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_packages(*ONNX)
    return export(tiny_pipeline_dir, tmp_path_factory.mktemp("onnx"), formats=["diffusers", "onnx", "onnx_int8"])


def test_the_stage_measured_parity_and_latency(exported: Path) -> None:
    figures = json.loads((exported.parent.parent / "metrics/export.json").read_text())
    assert figures["onnx.noise_pred_max_abs_diff"] < 1e-4
    assert figures["onnx.images_mean_abs_diff_of_255"] < 0.05, "rounding to 8 bits alone would be 0.25"
    for batch in (1, 8):
        assert figures[f"onnx.latency_batch_{batch}_ms"] > 0
        assert figures[f"onnx_int8.latency_batch_{batch}_ms"] > 0
        assert figures[f"student.latency_batch_{batch}_ms"] > 0
    assert figures["onnx.noise_pred_max_abs_diff"] < figures["onnx_int8.noise_pred_max_abs_diff"] < 0.03
    assert figures["onnx_int8.size_mib"] < figures["onnx.size_mib"]


@pytest.mark.parametrize("num", [1, 3])
def test_any_batch_gives_torchs_predictions_at_every_timestep(
    exported: Path, tiny_bundle: ModelBundle, num: int
) -> None:
    pipeline = OnnxPipeline(exported / "onnx")
    prompts, noise = ["a man with a sword", "a girl", ""][:num], initial_noise(tiny_bundle, num, seed=5)
    embeds = encode_prompts(tiny_bundle, prompts)
    np.testing.assert_allclose(pipeline.encode(prompts), embeds.numpy(), atol=1e-4)
    for timestep in TIMESTEPS:
        with torch.no_grad():
            ours = tiny_bundle.unet(noise, torch.full((num,), timestep), embeds).sample.numpy()
        np.testing.assert_allclose(pipeline.noise_pred(noise.numpy(), timestep, embeds.numpy()), ours, atol=1e-3)
    pictures = pipeline.draw(prompts, noise.numpy())
    assert (pictures.shape, pictures.dtype) == ((num, 32, 32, 3), np.uint8)
    alone = pipeline.draw(prompts[-1:], noise[-1:].numpy())
    assert np.abs(pictures[-1].astype(int) - alone[0]).mean() < 0.5, "a picture does not depend on its batch"


def test_the_tokenizer_pads_and_truncates_as_torchs(exported: Path, tiny_bundle: ModelBundle) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    own = tokenizers.Tokenizer.from_file(str(exported / "onnx/tokenizer.json"))
    prompts = ["", "a man with white hair", "a girl " * 80]
    assert [encoding.ids for encoding in own.encode_batch(prompts)] == tokenize(tiny_bundle, prompts).tolist()


def test_the_coefficients_are_ddims(tiny_bundle: ModelBundle) -> None:
    steps = sampler_steps(make_student_scheduler(tiny_bundle.scheduler, "ddim", 4), 4)
    assert [step["timestep"] for step in steps] == TIMESTEPS
    x, eps = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    for step, timestep, later in zip(steps, TIMESTEPS, [*TIMESTEPS[1:], -1], strict=True):
        expected = ddim_step(
            x,
            eps,
            torch.tensor([timestep]),
            torch.tensor([later]),
            alphas_cumprod=alphas_cumprod(tiny_bundle.scheduler),
        )
        torch.testing.assert_close(step["a"] * x + step["b"] * eps, expected, rtol=1e-4, atol=1e-5)


def test_the_check_finds_another_student(exported: Path, tiny_bundle: ModelBundle) -> None:
    tiny_bundle.unet.conv_out.bias.data += 0.01
    scheduler = make_student_scheduler(tiny_bundle.scheduler, "ddim", 4)
    with pytest.raises(StageError, match=r"export\.formats: onnx: predictions differ .* by 0\.01"):
        check_onnx(
            tiny_bundle,
            OnnxPipeline(exported / "onnx"),
            scheduler=scheduler,
            timesteps=TIMESTEPS,
            prompts=PROMPTS,
            seed=0,
        )


def test_the_id_in_sampler_json_is_that_of_the_networks(exported: Path, tmp_path: Path) -> None:
    ids = [json.loads((exported / name / "sampler.json").read_text())["id"] for name in ("onnx", "onnx_int8")]
    copy = tmp_path / "onnx"
    shutil.copytree(exported / "onnx", copy)
    (copy / "sampler.json").unlink()
    assert ids == [onnx_files.files_id(copy)] * 2, "the page takes both folders for one student"
    network = bytearray((copy / "unet.onnx").read_bytes())
    network[len(network) // 2] ^= 1
    (copy / "unet.onnx").write_bytes(network)
    assert onnx_files.files_id(copy) != ids[0]


def test_int8_weights_are_restored_to_half_a_step_and_the_others_are_kept(exported: Path) -> None:
    (onnx,) = need_packages("onnx")
    for name in ("text_encoder.onnx", "unet.onnx"):
        small, full = (onnx.load(exported / folder / name) for folder in ("onnx_int8", "onnx"))
        axes = {node.output[0]: node.attribute[0].i for node in small.graph.node if node.op_type == "DequantizeLinear"}
        ours, theirs = _weights(small), _weights(full)
        assert set(theirs) - set(ours) == set(axes), "a weight is kept or restored"
        assert axes, "the tiny networks have large weights"
        for item, weight in theirs.items():
            if item not in axes:
                np.testing.assert_array_equal(ours[item], weight)
                continue
            shape = [-1 if index == axes[item] else 1 for index in range(weight.ndim)]
            scale = ours[f"{item}.scale"].reshape(shape)
            assert (np.abs(ours[f"{item}.int8"] * scale - weight) <= 0.501 * scale).all(), item


def _weights(model: Any) -> dict[str, Any]:
    from onnx.numpy_helper import to_array

    return {item.name: to_array(item) for item in model.graph.initializer}


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_quantized_weights_keep_the_largest_value_of_each_channel(axis: int) -> None:
    weight = np.array([[0.0, 0.0], [-1.27, 0.635]], dtype=np.float32)
    whole, scale = quantized(weight, axis)
    assert (whole.dtype, np.abs(whole).max()) == (np.int8, 127)
    shape = (-1, 1) if axis == 0 else (1, -1)
    np.testing.assert_allclose(whole * scale.reshape(shape), weight, atol=0.5 * scale.max())


def test_the_bytes_name_no_file_of_this_machine(exported: Path) -> None:
    content = b"".join(path.read_bytes() for path in (exported / "onnx").iterdir())
    assert b"site-packages" not in content
    assert str(ROOT).encode() not in content


def test_both_backends_of_generate_draw_the_same_picture(exported: Path, tiny_pipeline_dir: Path) -> None:
    by_torch = load_model(exported, num_steps=None, guidance_scale=None, raw_prompt=False)
    by_onnx = load_onnx_model(exported, num_steps=None, guidance_scale=None, raw_prompt=False)
    pictures = [np.asarray(model.draw("a man", seed=3), dtype=int) for model in (by_torch, by_onnx)]
    assert np.abs(pictures[0] - pictures[1]).mean() <= 2
    small = load_onnx_model(exported, num_steps=None, guidance_scale=None, raw_prompt=False, backend="onnx_int8")
    assert 0 < np.abs(np.asarray(small.draw("a man", seed=3), dtype=int) - pictures[0]).mean() < 10
    for option, value in (("--steps", {"num_steps": 7}), ("--guidance", {"guidance_scale": 2.0})):
        with pytest.raises(StageError, match=option):
            load_onnx_model(exported, **({"num_steps": None, "guidance_scale": None, "raw_prompt": False} | value))
    with pytest.raises(StageError, match=r"--backend: .* is not an exported student, .* leave the option out"):
        load_onnx_model(tiny_pipeline_dir, num_steps=None, guidance_scale=None, raw_prompt=False)


def test_the_example_draws_without_torch(exported: Path, tmp_path: Path) -> None:
    example = ROOT / "docs/examples/draw_onnx.py"
    refuse = "import sys\nfor name in ('torch', 'transformers', 'diffusers', 'naruto_add'): sys.modules[name] = None\n"
    arguments = [str(exported / "onnx"), "a man", "a girl", "--seed", "3", "--out", str(tmp_path)]
    code = f"{refuse}import runpy\nsys.argv[1:] = {arguments!r}\n"
    run = f"{code}runpy.run_path({str(example)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    sampler = json.loads((exported / "onnx/sampler.json").read_text())
    noise = np.random.default_rng(3).standard_normal((2, *sampler["latent_shape"]), dtype=np.float32)
    prompts = [sampler["prompt_template"].replace("{caption}", caption) for caption in ("a man", "a girl")]
    for i, expected in enumerate(OnnxPipeline(exported / "onnx").draw(prompts, noise)):
        header, pixels = b"P6 32 32 255\n", (tmp_path / f"picture-3-{i}.ppm").read_bytes()
        assert pixels.startswith(header)
        drawn = np.frombuffer(pixels.removeprefix(header), np.uint8).reshape(32, 32, 3)
        assert np.abs(drawn.astype(int) - expected).max() <= 1


def test_networks_beyond_one_protobuf_message_have_their_weights_in_separate_files(
    tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_packages(*ONNX)
    monkeypatch.setattr(onnx_files, "MAX_FILE_BYTES", 0)
    # The stage compares predictions and pictures with torch's, as it does for small networks.
    folder = export(tiny_pipeline_dir, tmp_path, formats=["diffusers", "onnx", "onnx_int8"])
    for name in ("onnx", "onnx_int8"):
        network, weights = folder / name / "unet.onnx", folder / name / "unet.onnx.data"
        assert weights.stat().st_size > network.stat().st_size


def test_a_missing_package_and_a_missing_folder_name_the_remedy(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StageError, match=r"add onnx_int8 to export\.formats and run `dvc repro export`"):
        OnnxPipeline(tmp_path / "onnx_int8")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(StageError, match=r"needs the package onnxruntime; install it: `.*\.lock onnxruntime`"):
        OnnxPipeline(exported / "onnx")
    with pytest.raises(StageError, match=r"onnx needs onnxruntime, not installed here; `.*`, or leave onnx out"):
        require_onnx()
