"""The whole stage: what is kept, how it is split, and the list of the rest."""

import json
import os
import random
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from naruto_add.config.schema import Ingest
from naruto_add.data.dataset import MIN_PICTURES, load_split
from naruto_add.data.ingest import assign_splits, run_ingest
from naruto_add.data.sheet import LOST_INK
from naruto_add.data.shinobi.draw import draw_shinobi
from naruto_add.runtime.errors import StageError

_TOKENIZER = Path(__file__).parents[2] / "base/model/tokenizer"
_PARAMS = Ingest(
    source="shinobi",
    path="none",
    hub_dataset="",
    revision="",
    image_column="image",
    caption_column="text",
    captions="auto",
    caption="",
    num_drawings=30,
    seed=0,
    min_side_px=16,
    max_megapixels=1.0,
    max_rejected=0.0,
    crop="center",
    aspect_buckets=False,
    duplicate_distance=4,
    validation_fraction=0.1,
    test_fraction=0.2,
)
_Written = dict[str, Any]


def _run(
    out: Path, *, prompt_template: str = "{caption}", buckets: tuple[tuple[int, int], ...] = (), **changes: Any
) -> _Written:
    run_ingest(
        _PARAMS.model_copy(update=changes),
        base_model=_base_model(out / "base"),
        base_revision="",
        prompt_template=prompt_template,
        caption_chunks=1,
        resolution_px=32,
        buckets=buckets,
        dataset_dir=out / "dataset",
        rejects_path=out / "rejects.jsonl",
        metrics_path=out / "metrics.json",
        sheet_path=out / "sheet.png",
    )
    return {
        "rows": _lines(out / "dataset/metadata.jsonl"),
        "rejects": _lines(out / "rejects.jsonl"),
        "metrics": json.loads((out / "metrics.json").read_text()),
    }


def _base_model(folder: Path) -> str:
    """The part of a base model that `run_ingest` reads."""
    shutil.copytree(_TOKENIZER, folder / "tokenizer", dirs_exist_ok=True)
    return str(folder)


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _folder(folder: Path, num_pictures: int, seed: int = 1) -> list[dict[str, str]]:
    folder.mkdir(parents=True)
    rows = []
    for index in range(num_pictures):
        drawing = draw_shinobi(index, seed=seed, size_px=32)
        drawing.image.save(folder / f"{index}.png")
        rows.append({"file_name": f"{index}.png", "text": drawing.caption})
    _write_table(folder, rows)
    return rows


def _write_table(folder: Path, rows: list[dict[str, str]]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def shinobi(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, _Written]:
    out = tmp_path_factory.mktemp("shinobi")
    return out, _run(out)


def test_drawings_are_saved_with_captions_and_attributes(shinobi: tuple[Path, _Written]) -> None:
    out, written = shinobi
    row = written["rows"][3]
    drawing = draw_shinobi(3, seed=0, size_px=32)
    assert row == {
        "file_name": "images/00003.png",
        "text": drawing.caption,
        "split": row["split"],
        "source": "shinobi 3",
        **drawing.attributes,
    }
    with Image.open(out / "dataset/images/00003.png") as image:
        assert (image.mode, image.tobytes()) == ("RGB", drawing.image.tobytes())


def test_the_data_set_names_its_source(shinobi: tuple[Path, _Written]) -> None:
    source = json.loads((shinobi[0] / "dataset/source.json").read_text())
    assert source == {"source": "shinobi", "hub_dataset": ""}


def test_metrics_count_entries_splits_and_tokens(shinobi: tuple[Path, _Written]) -> None:
    metrics = shinobi[1]["metrics"]
    assert (metrics["entries"], metrics["kept"], metrics["rejected"], metrics["duplicates"]) == (30, 30, 0, 0)
    assert metrics["train"] + metrics["validation"] + metrics["test"] == 30
    assert min(metrics["train"], metrics["validation"], metrics["test"]) >= 1
    assert 4 < metrics["tokens.mean"] <= metrics["tokens.max"] <= 77
    assert metrics["captions.truncated"] == 0


def test_the_contact_sheet_shows_the_pictures(shinobi: tuple[Path, _Written]) -> None:
    with Image.open(shinobi[0] / "sheet.png") as sheet:
        shown = np.asarray(sheet.crop((8, 8, 152, 152)).resize((32, 32), Image.Resampling.BOX)).astype(int)
    first = np.asarray(draw_shinobi(0, seed=0, size_px=32).image).astype(int)
    assert np.abs(shown - first).mean() < 8


def test_a_second_run_writes_the_same_files(shinobi: tuple[Path, _Written], tmp_path: Path) -> None:
    _run(tmp_path)
    assert _files(tmp_path) == _files(shinobi[0])


def test_another_seed_gives_other_drawings(shinobi: tuple[Path, _Written], tmp_path: Path) -> None:
    assert {row["text"] for row in _run(tmp_path, seed=1)["rows"]} != {row["text"] for row in shinobi[1]["rows"]}


def test_the_data_set_can_be_ingested_again(shinobi: tuple[Path, _Written], tmp_path: Path) -> None:
    out, first = shinobi
    again = _run(tmp_path, source="folder", path=str(out / "dataset"))
    renamed = [{**row, "source": row["file_name"]} for row in first["rows"]]
    assert again["rows"] == renamed
    assert _files(tmp_path / "dataset/images") == _files(out / "dataset/images")


@pytest.mark.slow
def test_the_data_set_is_an_imagefolder_of_the_datasets_library(shinobi: tuple[Path, _Written], tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset("imagefolder", data_dir=str(shinobi[0] / "dataset"), cache_dir=str(tmp_path))
    rows = loaded["train"]
    assert sorted(rows["text"]) == sorted(row["text"] for row in shinobi[1]["rows"])
    assert rows[0]["image"].size == (32, 32)


def test_every_split_can_be_loaded_and_no_picture_is_in_two(shinobi: tuple[Path, _Written]) -> None:
    splits = [
        load_split(shinobi[0] / "dataset", split, prompt_template="{caption}")
        for split in ("train", "validation", "test")
    ]
    paths = [example.image_path for split in splits for example in split]
    assert len(set(paths)) == len({path.read_bytes() for path in paths}) == 30
    assert splits[0][0].attributes["hair_style"]


def test_copies_of_a_picture_are_removed_before_the_split(tmp_path: Path) -> None:
    rows = _folder(tmp_path / "set", 40)
    copies = []
    for index in range(40):
        with Image.open(tmp_path / f"set/{index}.png") as image:
            image.save(tmp_path / f"set/exact{index}.bmp")
            image.resize((64, 64), Image.Resampling.LANCZOS).save(tmp_path / f"set/near{index}.jpg", quality=90)
        copies += [{"file_name": f"{name}{index}", "text": f"copy {index}"} for name in ("exact", "near")]
    rows += [
        {**row, "file_name": row["file_name"] + (".bmp" if "exact" in row["file_name"] else ".jpg")} for row in copies
    ]
    _write_table(tmp_path / "set", rows)
    written = _run(tmp_path, source="folder", path=str(tmp_path / "set"))
    assert [row["source"] for row in written["rows"]] == [f"{index}.png" for index in range(40)]
    assert (written["metrics"]["duplicates.exact"], written["metrics"]["duplicates.near"]) == (40, 40)
    assert written["rejects"][0] == {
        "file": "exact0.bmp",
        "reason": "duplicate",
        "detail": "the same picture as 0.png",
    }
    assert len(list((tmp_path / "dataset/images").iterdir())) == 40


def _splits(written: _Written) -> dict[str, str]:
    return {row["source"]: row["split"] for row in written["rows"]}


def test_new_pictures_and_another_order_move_no_picture_to_another_split(tmp_path: Path) -> None:
    rows = _folder(tmp_path / "set", 60)
    _write_table(tmp_path / "set", rows[:40])
    for row in rows[40:]:
        (tmp_path / "set" / row["file_name"]).rename(tmp_path / row["file_name"])
    before = _splits(_run(tmp_path, source="folder", path=str(tmp_path / "set")))
    for row in rows[40:]:
        (tmp_path / row["file_name"]).rename(tmp_path / "set" / row["file_name"])
    _write_table(tmp_path / "set", random.Random(0).sample(rows, 60))
    after = _splits(_run(tmp_path, source="folder", path=str(tmp_path / "set")))
    assert len(after) == 60
    assert {name: after[name] for name in before} == before


def test_split_fractions_hold_on_average() -> None:
    splits = assign_splits([str(index) for index in range(5000)], _PARAMS)
    assert splits.count("test") / 5000 == pytest.approx(0.2, abs=0.02)
    assert splits.count("validation") / 5000 == pytest.approx(0.1, abs=0.015)


@pytest.mark.parametrize("num_pictures", [10, 12, 20])
def test_every_split_of_a_small_data_set_is_large_enough(num_pictures: int) -> None:
    contents = [str(index) for index in range(num_pictures)]
    for seed in range(20):
        splits = assign_splits(contents, _PARAMS.model_copy(update={"seed": seed}))
        assert all(splits.count(split) >= number for split, number in MIN_PICTURES.items())


def test_another_seed_gives_another_split() -> None:
    contents = [str(index) for index in range(100)]
    assert assign_splits(contents, _PARAMS) != assign_splits(contents, _PARAMS.model_copy(update={"seed": 1}))


def _bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


_NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
_BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "text.png": (lambda: b"no picture", "broken"),
    "cut.jpg": (lambda: _bytes(_NOISE, "JPEG")[:2000], "truncated"),
    "tiny.png": (lambda: _bytes(Image.new("RGB", (15, 99)), "PNG"), "too_small"),
    "moving.gif": (lambda: _bytes(_NOISE, "GIF", save_all=True, append_images=[_NOISE.rotate(90)]), "animated"),
    "bomb.png": (lambda: _bytes(Image.new("1", (1200, 1200)), "PNG"), "oversized"),
    "float.tiff": (lambda: _bytes(Image.new("F", (32, 32)), "TIFF"), "unsupported"),
}


def _write_mixed_folder(folder: Path) -> list[dict[str, str]]:
    """Forty good pictures, one of each bad kind, and rows without a picture or a caption."""
    rows = _folder(folder, 40)
    for name, (content, _) in _BAD.items():
        (folder / name).write_bytes(content())
        rows.append({"file_name": name, "text": "a man"})
    rows += [{"file_name": "../out.png", "text": "a man"}, {"file_name": "none.png", "text": "a man"}]
    rows.append({"file_name": "0.png", "text": " \u3000 "})
    _write_table(folder, rows)
    return rows


def test_bad_entries_are_listed_and_the_others_kept(tmp_path: Path) -> None:
    _write_mixed_folder(tmp_path / "set")
    written = _run(tmp_path, source="folder", path=str(tmp_path / "set"), max_rejected=0.2)
    expected = {name: reason for name, (_, reason) in _BAD.items()}
    expected |= {"../out.png": "path_escape", "none.png": "missing_file", "0.png": "no_caption"}
    assert {row["file"]: row["reason"] for row in written["rejects"]} == expected
    assert all(row["detail"] for row in written["rejects"])
    metrics = written["metrics"]
    assert (metrics["entries"], metrics["kept"], metrics["rejected"]) == (49, 40, 9)
    assert all(metrics[f"rejected.{reason}"] == 1 for reason in expected.values())
    assert metrics["rejected.bad_row"] == 0


def test_names_that_are_not_utf8_stay_apart_in_the_list_of_rejects(tmp_path: Path) -> None:
    for row in _folder(tmp_path / "set", 10):
        (tmp_path / "set" / row["file_name"]).with_suffix(".txt").write_text(row["text"])
    (tmp_path / "set/metadata.jsonl").unlink()
    names = [os.fsdecode(name) for name in (b"\xe9.png", b"\xff.png")]
    for name in names:
        (tmp_path / "set" / name).write_bytes(b"not a picture")
        (tmp_path / "set" / name).with_suffix(".txt").write_text("a man")
    written = _run(tmp_path, source="folder", path=str(tmp_path / "set"), max_rejected=0.5)
    assert {row["file"] for row in written["rejects"]} == set(names)


def test_more_rejects_than_allowed_are_an_error_after_they_are_listed(tmp_path: Path) -> None:
    _write_mixed_folder(tmp_path / "set")
    message = r"ingest\.max_rejected: 9 of 49 entries \(0\.184\) were rejected, above 0\.1, mostly as .*rejects\.jsonl"
    with pytest.raises(StageError, match=message):
        _run(tmp_path, source="folder", path=str(tmp_path / "set"), max_rejected=0.1)
    assert len(_lines(tmp_path / "rejects.jsonl")) == 9
    assert {path.name for path in tmp_path.iterdir()} == {"set", "base", "rejects.jsonl"}


def test_the_error_about_rejects_has_the_remedy_for_the_first_of_the_most_common_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("naruto_add.data.formats.picture_suffixes", lambda: frozenset({".png"}))
    _folder(tmp_path / "set", 4)
    for name in ("photo0.heic", "photo1.heic"):
        (tmp_path / "set" / name).write_bytes(b"content")
    with pytest.raises(StageError, match=r"the first being 'photo0\.heic' \(.*only with the package pillow-heif: `uv "):
        _run(tmp_path, source="folder", path=str(tmp_path / "set"), max_rejected=0.1)


def test_duplicates_do_not_count_as_rejected(tmp_path: Path) -> None:
    rows = _folder(tmp_path / "set", 10)
    _write_table(tmp_path / "set", rows * 3)
    written = _run(tmp_path, source="folder", path=str(tmp_path / "set"), max_rejected=0.0)
    assert (written["metrics"]["duplicates"], written["metrics"]["rejected"]) == (20, 0)


def test_texts_of_no_picture_are_named_and_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row in _folder(tmp_path / "set", 10):
        (tmp_path / "set" / row["file_name"]).with_suffix(".txt").write_text(row["text"])
    (tmp_path / "set/metadata.jsonl").unlink()
    for name in ("README.txt", "LICENSE.txt"):
        (tmp_path / "set" / name).write_text("about this set")
    written = _run(tmp_path, source="folder", path=str(tmp_path / "set"), max_rejected=0.0)
    assert (written["metrics"]["entries"], written["metrics"]["rejected"]) == (10, 0)
    assert [(row["file"], row["reason"]) for row in written["rejects"]] == [
        ("LICENSE.txt", "ignored"),
        ("README.txt", "ignored"),
    ]
    assert "LICENSE.txt, README.txt belong to no picture" in capsys.readouterr().err


@pytest.mark.parametrize(("num_pictures", "num_copies"), [(1, 0), (1, 12), (3, 0), (9, 0)])
def test_too_few_different_pictures_are_an_error_that_says_how_many_are_needed(
    tmp_path: Path, num_pictures: int, num_copies: int
) -> None:
    rows = _folder(tmp_path / "set", num_pictures)
    _write_table(tmp_path / "set", rows + rows[:1] * num_copies)
    copies = f" and {num_copies} copies" if num_copies else ""
    message = (
        rf"ingest\.path: .* has too few different pictures \({num_pictures}{copies}\); the stages need at least 10: "
        "4 for test, 1 for validation, 5 for train; add pictures"
    )
    with pytest.raises(StageError, match=message):
        _run(tmp_path, source="folder", path=str(tmp_path / "set"))


def test_all_rows_have_the_same_columns_and_reserved_columns_are_ours(tmp_path: Path) -> None:
    rows = _folder(tmp_path / "set", 10)
    rows[0] |= {"hair": "red", "split": "theirs", "source": "theirs", "image": "theirs"}
    rows[1] |= {"text": "e\u0301 \ud83d", "eyes": "blue"}
    _write_table(tmp_path / "set", rows)
    written = _run(tmp_path, source="folder", path=str(tmp_path / "set"))
    assert {tuple(row) for row in written["rows"]} == {("file_name", "text", "split", "source", "hair", "eyes")}
    assert (written["rows"][0]["hair"], written["rows"][0]["eyes"], written["rows"][1]["text"]) == ("red", "", "é")
    assert "theirs" not in {*written["rows"][0].values()}


def test_long_captions_are_counted(tmp_path: Path) -> None:
    rows = _folder(tmp_path / "set", 10)
    rows[2]["text"] = "a man " * 50
    _write_table(tmp_path / "set", rows)
    metrics = _run(tmp_path, source="folder", path=str(tmp_path / "set"))["metrics"]
    assert (metrics["captions.truncated"], metrics["tokens.max"]) == (1, 102)


def test_the_words_of_the_prompt_template_are_counted(tmp_path: Path) -> None:
    rows = _folder(tmp_path / "set", 10)
    rows[2]["text"] = "a man " * 37
    _write_table(tmp_path / "set", rows)
    source = {"source": "folder", "path": str(tmp_path / "set")}
    plain = _run(tmp_path, **source)["metrics"]
    assert (plain["captions.truncated"], plain["tokens.max"]) == (0, 76)
    written = _run(tmp_path, prompt_template="{caption} in black ink", **source)
    assert (written["metrics"]["captions.truncated"], written["metrics"]["tokens.max"]) == (1, 79)
    (lost,) = _lines(tmp_path / "dataset/truncated.jsonl")
    assert (lost["text"], lost["lost"]) == (written["rows"][2]["text"], "black ink")


def test_further_captions_and_given_splits_are_kept_and_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = list(_folder(tmp_path / "set", 24))
    for index, row in enumerate(rows):
        row["split"] = "test" if index < 6 else "train"
    rows[7]["text"] = ["a man", "a  man", "a ninja", "a boy"]
    (tmp_path / "set/metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = _run(tmp_path, source="folder", path=str(tmp_path / "set"))
    assert (written["rows"][7]["text"], written["rows"][7]["further_captions"]) == ("a man", ["a ninja", "a boy"])
    assert written["rows"][8]["further_captions"] == []
    assert [row["source"] for row in written["rows"] if row["split"] == "test"] == [
        f"{index}.png" for index in range(6)
    ]
    metrics = written["metrics"]
    assert metrics["validation"] >= 1
    assert (metrics["splits.given"], metrics["captions.several"], metrics["captions.further"]) == (24, 1, 2)
    examples = load_split(tmp_path / "dataset", written["rows"][7]["split"], prompt_template="{caption}, in ink")
    example = next(each for each in examples if each.caption == "a man")
    assert example.captions == ("a man", "a ninja", "a boy")
    assert example.prompts == ("a man, in ink", "a ninja, in ink", "a boy, in ink")
    assert example.prompt == "a man, in ink"


def test_pictures_that_are_all_held_out_are_an_error(tmp_path: Path) -> None:
    _folder(tmp_path / "set/test", 12)
    with pytest.raises(StageError, match="gives all 12 pictures to test"):
        _run(tmp_path, source="folder", path=str(tmp_path / "set"))


def test_lost_ends_of_captions_are_listed_and_the_sheet_has_its_captions_as_text(tmp_path: Path) -> None:
    rows = _folder(tmp_path / "set", 12)
    rows[2]["text"] = "a man " * 50 + "with red hair"
    rows[3]["text"] = "忍者の少年"
    _write_table(tmp_path / "set", rows)
    written = _run(tmp_path, source="folder", path=str(tmp_path / "set"))
    (lost,) = _lines(tmp_path / "dataset/truncated.jsonl")
    assert lost["source"] == "2.png"
    assert lost["text"] == written["rows"][2]["text"]
    assert lost["lost"] == ("man " + "a man " * 12 + "with red hair")
    with Image.open(tmp_path / "sheet.png") as sheet:
        text = sheet.text  # type: ignore[attr-defined]
        captions = np.asarray(sheet.convert("RGB"))[152:]  # below the first row of pictures
    assert json.loads(text["captions"]) == [row["text"] for row in written["rows"]]
    assert json.loads(text["lost"]) == {lost["text"]: lost["lost"]}
    red = np.array(ImageColor.getrgb(LOST_INK), np.uint8)
    columns = np.flatnonzero((captions[:70] == red).all(axis=-1).any(axis=0))
    assert 2 * 152 < columns.min() <= columns.max() < 3 * 152 + 8  # only the third caption is marked


def test_twenty_pictures_leave_something_for_every_stage(tmp_path: Path) -> None:
    _folder(tmp_path / "set", 20)
    for seed in range(3):
        metrics = _run(tmp_path, source="folder", path=str(tmp_path / "set"), seed=seed)["metrics"]
        assert all(metrics[split] >= number for split, number in MIN_PICTURES.items())
        assert metrics["kept"] == 20


# Aspect buckets


@pytest.fixture
def wide_folder(tmp_path: Path) -> Path:
    """Twenty drawings of 32 px, and a picture of 128 x 64 px with a red left end, a green right end and a caption."""
    folder = tmp_path / "pictures"
    rows = _folder(folder, 20)
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8))
    wide.paste("red", (0, 0, 24, 64))
    wide.paste("lime", (104, 0, 128, 64))
    wide.save(folder / "wide.png")
    wide.save(folder / "wide_again.png")
    captioned = [{"file_name": name, "text": "a wide view"} for name in ("wide.png", "wide_again.png")]
    _write_table(folder, [*rows, *captioned])
    return folder


def _is_red_and_green(path: Path) -> bool:
    with Image.open(path) as image:
        left, right = (image.getpixel((column, image.height // 2)) for column in (2, image.width - 3))
    return (left, right) == (ImageColor.getrgb("red"), ImageColor.getrgb("lime"))


def test_a_wide_picture_is_not_cropped_to_a_square_in_its_bucket(tmp_path: Path, wide_folder: Path) -> None:
    sizes = ((32, 32), (48, 24), (24, 48))
    written = _run(tmp_path / "out", source="folder", path=str(wide_folder), aspect_buckets=True, buckets=sizes)
    dataset = tmp_path / "out/dataset"
    (row,) = [row for row in written["rows"] if row["text"] == "a wide view"]
    with Image.open(dataset / row["bucket_file"]) as image:
        assert image.size == (48, 24)
    assert _is_red_and_green(dataset / row["bucket_file"])
    with Image.open(dataset / row["file_name"]) as image:
        assert image.size == (32, 32)
    assert not _is_red_and_green(dataset / row["file_name"])
    assert {each["bucket_file"] for each in written["rows"]} == {"", row["bucket_file"]}
    assert [path.name for path in (dataset / "buckets").iterdir()] == [Path(row["bucket_file"]).name]
    assert (written["metrics"]["buckets.not_square"], written["metrics"]["duplicates"]) == (1, 1)


def test_buckets_change_no_square_picture_and_no_split(tmp_path: Path, wide_folder: Path) -> None:
    options: dict[str, Any] = {"source": "folder", "path": str(wide_folder)}
    plain = _run(tmp_path / "plain", **options)
    bucketed = _run(tmp_path / "out", **options, aspect_buckets=True, buckets=((32, 32), (48, 24)))
    assert _files(tmp_path / "plain/dataset/images") == _files(tmp_path / "out/dataset/images")
    assert [{**row, "bucket_file": ""} for row in plain["rows"]] == [
        {**row, "bucket_file": ""} for row in bucketed["rows"]
    ]
    assert not (tmp_path / "plain/dataset/buckets").exists()
    assert all("bucket_file" not in row for row in plain["rows"])
