"""Whatever names, rows, encodings and pictures a folder holds: each entry is taken or rejected with a reason.

The inputs are generated, the same ones in every run.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from naruto_add.config.load import load_params
from naruto_add.data.entries import Entry, Reject
from naruto_add.data.images import PictureRules, UnusablePictureError, read_picture
from naruto_add.data.sources import open_source
from naruto_add.data.tables import Row, read_table
from naruto_add.data.text import UnknownEncodingError, decode_text
from naruto_add.runtime.errors import StageError, shown

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml").ingest
RULES = PictureRules(resolution_px=16, min_side_px=8, max_megapixels=1.0, crop="center")
MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")

settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("repeatable")


def _file(kind: str) -> bytes:
    stream = BytesIO()
    Image.linear_gradient("L").resize((24, 20)).convert("RGB").save(stream, kind)
    return stream.getvalue()


FILES = {kind: _file(kind) for kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP")}


def _entries(folder: Path, captions: str = "auto") -> list[Entry | Reject]:
    params = PARAMS.model_copy(update={"source": "folder", "path": str(folder), "captions": captions})
    source = open_source(params)
    entries = list(source.entries)
    assert len(entries) == source.num_entries
    return entries


@given(text=st.text(), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
@example(text="é 忍者 👩‍🎨", encoding="utf-16")
def test_text_of_a_certain_encoding_is_read_as_it_is(text: str, encoding: str) -> None:
    data = text.encode(encoding)
    if not (encoding == "utf-8" and data.startswith(MARKS)):
        assert decode_text(data) == text


@given(data=st.binary(max_size=60))
def test_any_bytes_are_text_or_rejected(data: bytes) -> None:
    try:
        assert isinstance(decode_text(data), str)
    except UnknownEncodingError as error:
        assert "UTF-8" in str(error)


def _json_lines() -> st.SearchStrategy[bytes]:
    """JSON of every kind, and damaged lines."""
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    rows = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | _objects(inner), max_leaves=5)
    return (rows.map(json.dumps).map(str.encode) | st.binary(max_size=20)).map(lambda line: line.replace(b"\n", b" "))


def _objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(["file_name", "text", "split", "odd"]), values, max_size=3)


@given(lines=st.lists(_json_lines(), max_size=5))
def test_the_rows_before_a_good_one_never_cost_it(lines: list[bytes]) -> None:
    good = {"file_name": "a.png", "text": "a man"}
    content = b"\n".join([b"{", *lines, json.dumps(good).encode()])  # the brace: no byte order mark in front
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "metadata.jsonl"
        file.write_bytes(content)
        *_, last = read_table(file, name=file.name).rows
    assert isinstance(last, Row)
    assert last.values == good


@given(content=st.binary(max_size=80) | st.lists(st.text(',"\n\r;é\x00ab', max_size=12)).map("\n".join).map(str.encode))
def test_any_csv_file_is_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "metadata.csv"
        file.write_bytes(content)
        try:
            rows = read_table(file, name=file.name).rows
        except StageError as error:
            assert "metadata.csv" in str(error)
        else:
            assert all(isinstance(row, Reject) or "metadata.csv:" in row.place for row in rows)


# Files whose names begin with a dot are hidden, and skipped.
NAMES = (
    st.binary(min_size=1, max_size=40)
    .map(lambda name: name.translate(None, b"/\0"))
    .filter(lambda name: name and not name.startswith(b"."))
)


@given(names=st.lists(NAMES, min_size=1, max_size=4, unique=True))
@example(names=[b"\xff\x1b[31m", b"a\nb", "\u202egnp".encode(), b"<img src=x>", b"a..."])
@pytest.mark.parametrize("captions", ["sidecar", "file_name"])
def test_pictures_of_any_name_are_each_counted_once(captions: str, names: Sequence[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            Path(folder, os.fsdecode(name + b".png")).write_bytes(FILES["PNG"])
            Path(folder, os.fsdecode(name + b".txt")).write_text("a man")
        try:
            found = [entry.name for entry in _entries(Path(folder), captions)]
        except StageError as error:
            message = str(error)
            assert "ingest" in message  # every name may lack a caption
            assert not set(message) & set("\x1b\x7f\x9b\u202e\r")
            return
    for name in names:
        assert found.count(os.fsdecode(name + b".png")) == 1
    assert all(ord(char) >= ord(" ") and char not in "\x7f\x9b\u202e" for name in found for char in shown(name))


PATHS = st.sampled_from(
    ["a.png", "./a.png", "sub/../a.png", "../outside.png", "/etc/passwd", "~/a.png", "a.png/", "", "."]
)


@given(
    paths=st.lists(PATHS | st.text(max_size=12) | st.none() | st.integers() | st.just({"path": "a.png"}), max_size=5)
)
def test_no_row_leads_out_of_the_folder(paths: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer, "pictures")
        (folder / "sub").mkdir(parents=True)
        for file in (folder / "a.png", Path(outer, "outside.png")):
            file.write_bytes(FILES["PNG"])
        rows = [{"file_name": "a.png", "text": "a man"}, *({"file_name": path, "text": "a man"} for path in paths)]
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for entry in _entries(folder):
            if isinstance(entry, Entry):
                assert isinstance(entry.picture, Path)
                assert entry.picture.resolve() == (folder / "a.png").resolve()


@pytest.mark.filterwarnings("default")  # Pillow warns about damaged files that it reads
@given(
    kind=st.sampled_from(sorted(FILES)),
    changes=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 400),
)
@settings(max_examples=200)
def test_a_picture_with_a_damaged_header_is_read_or_rejected_with_a_reason(
    kind: str, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(FILES[kind])
    for position, value in changes:
        data[position % len(data)] = value
    data = data[: len(data) - cut] if cut < len(data) and cut % 3 == 0 else data
    try:
        image = read_picture(bytes(data), RULES)
    except UnusablePictureError as error:
        assert str(error)
    else:
        assert (image.mode, image.size) == ("RGB", (16, 16))
