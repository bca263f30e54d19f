"""Draw the pictures that the base model learns from: `python -m recipe.pictures` in base/."""

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from recipe.artifacts import PICTURES, section
from recipe.avatars import draw_avatar
from recipe.comics import draw_comic
from recipe.doodles import draw_doodle
from recipe.drawing import Drawing
from recipe.villagers import draw_villager

Draw = Callable[..., Drawing]


def draw_pictures(
    out_dir: Path,
    *,
    seed: int,
    size_px: int,
    num_villagers: int,
    num_avatars: int,
    num_comics: int,
    num_doodles: int,
    num_held_out: int,
) -> None:
    """Write people.npy, doodles.npy (uint8, NHWC) and captions.json; the last `num_held_out` people are held out."""
    families = {"villager": (draw_villager, num_villagers), "avatar": (draw_avatar, num_avatars)}
    families["comic"] = (draw_comic, num_comics)
    people = [(family, index) for family, (_, number) in families.items() for index in range(number)]
    order = np.random.default_rng(seed).permutation(len(people))
    people = [people[i] for i in order]
    out_dir.mkdir(parents=True, exist_ok=True)
    images, captions = _draw_all([(families[family][0], index) for family, index in people], seed, size_px)
    np.save(out_dir / "people.npy", images)
    record = {
        "captions": captions,
        "families": [family for family, _ in people],
        "num_held_out": num_held_out,
    }
    (out_dir / "captions.json").write_text(json.dumps(record))
    images, _ = _draw_all([(draw_doodle, index) for index in range(num_doodles)], seed, size_px)
    np.save(out_dir / "doodles.npy", images)


def _draw_all(jobs: list[tuple[Draw, int]], seed: int, size_px: int) -> tuple[np.ndarray, list[str]]:
    images = np.empty((len(jobs), size_px, size_px, 3), dtype=np.uint8)
    captions = []
    with ProcessPoolExecutor() as pool:
        drawn = pool.map(partial(_draw, seed=seed, size_px=size_px), jobs, chunksize=64)
        for i, drawing in enumerate(tqdm(drawn, total=len(jobs), desc="pictures", disable=None)):
            images[i] = np.asarray(drawing.image)
            captions.append(drawing.caption)
    return images, captions


def _draw(job: tuple[Draw, int], seed: int, size_px: int) -> Drawing:
    draw, index = job
    return draw(index, seed=seed, size_px=size_px)


if __name__ == "__main__":
    draw_pictures(PICTURES, **section("pictures"))
