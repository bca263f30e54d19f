"""The benchmark at Stable Diffusion 1.5's shape counts the known operations of its networks."""

import pytest

from benchmarks.sd15_shape import count


@pytest.mark.parametrize(
    ("name", "tflop"),
    [
        ("unet none", 0.80),
        ("unet bk_small", 0.51),
        ("unet bk_tiny", 0.49),
        ("unet shallow", 0.68),
        ("decoder full", 2.51),
    ],
)
def test_operations_of_a_call_at_512_px(name: str, tflop: float) -> None:
    assert count(name, 64) / 1e12 == pytest.approx(tflop, abs=0.02)


def test_the_tiny_decoder_needs_a_tenth_of_the_operations() -> None:
    assert count("decoder tiny", 64) < 0.1 * count("decoder full", 64)
