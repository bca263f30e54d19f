"""The demo page in a browser, as a person uses it."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.browser import CHROMIUM, Page
from naruto_add.export.demo_template import BUILT, BUILT_BESIDE

DEMO = Path(__file__).parent.parent.parent / "demo"
STATUS = "document.getElementById('status').textContent"
WIDTHS = [390, 1280]
"""Of a phone and of a desk, in CSS pixels."""

needs_build = pytest.mark.skipif(
    not all((DEMO / page).is_file() for page in (BUILT, BUILT_BESIDE)),
    reason="demo/ is not built on this machine (`make demo`)",
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def draw(page: Page, prompt: str, *, seed: int, steps: int) -> None:
    """One picture, with typed input."""
    page.value("document.getElementById('prompt').select()")
    page.value("document.getElementById('prompt').focus()")
    page.type(prompt)
    for field, value in (("num", 1), ("steps", steps), ("seed", seed)):
        page.value(f"document.getElementById('{field}').value = {value}")
    page.value("document.getElementById('draw').click()")
    wait_until_drawn(page)


def wait_until_drawn(page: Page) -> None:
    page.wait_for(
        "document.getElementById('gallery').getAttribute('aria-busy') === 'true' || / in /.test(" + STATUS + ")"
    )
    page.wait_for(f"document.getElementById('draw').textContent === 'Draw' && / in /.test({STATUS})")


def download(page: Page, folder: Path) -> Any:
    """The file that the first picture's link saves."""
    page.value("document.querySelector('#gallery a').click()")
    for _ in range(100):
        for path in folder.glob("*.png"):  # the browser renames a complete file to this ending
            image = Image.open(path)
            image.load()
            path.unlink()
            return image
        time.sleep(0.05)
    raise AssertionError("nothing was downloaded")


def outside(page: Page) -> list[str]:
    """What a person could see only by scrolling sideways, by tag and id; without the row of examples, which scrolls."""
    found: list[str] = page.value(
        """
        [...document.querySelectorAll("body *")]
          .filter((item) => !item.matches("#examples *"))
          .map((item) => [item, item.getBoundingClientRect()])
          .filter(([, { width, left, right }]) => width && (left < 0 || right > innerWidth))
          .map(([item]) => `${item.tagName} ${item.id}`)"""
    )
    wide = page.value("document.documentElement.scrollWidth - innerWidth")
    return found + [f"the page by {wide} px"] * (wide > 0)


def pixels(image: Any) -> Any:
    return np.asarray(image.convert("RGB"), dtype=float)
