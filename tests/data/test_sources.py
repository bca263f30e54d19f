"""Each source yields its entries in a fixed order; a bad entry does not affect the others."""

import base64
import json
import os
import time
import unicodedata
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from naruto_add.config.schema import Ingest
from naruto_add.data.captions import clean_captions
from naruto_add.data.entries import Entry, Reject, ShinobiId
from naruto_add.data.sources import open_source
from naruto_add.runtime.errors import StageError

_PARAMS = Ingest(
    source="folder",
    path="none",
    hub_dataset="",
    revision="",
    image_column="image",
    caption_column="text",
    captions="auto",
    caption="",
    num_drawings=1,
    seed=0,
    min_side_px=8,
    max_megapixels=1.0,
    max_rejected=0.5,
    crop="center",
    aspect_buckets=False,
    duplicate_distance=4,
    validation_fraction=0.1,
    test_fraction=0.2,
)


def _entries(source: str, path: Path, **changes: Any) -> list[Entry | Reject]:
    opened = open_source(
        _PARAMS.model_copy(update={"source": source, "path": str(path), "hub_dataset": str(path), **changes})
    )
    entries = list(opened.entries)
    assert opened.num_entries == len(entries)
    return entries


def _reasons(entries: list[Entry | Reject]) -> dict[str, str]:
    return {entry.name: entry.reason if isinstance(entry, Reject) else "taken" for entry in entries}


def _picture(path: Path, color: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), color).save(path)
    return path


def _png(color: str) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (16, 16), color).save(stream, "PNG")
    return stream.getvalue()


def _jsonl(folder: Path, *rows: Any) -> Path:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_shinobi_are_identified_by_number_and_seed() -> None:
    entries = _entries("shinobi", Path(), num_drawings=3, seed=9)
    assert [entry.picture for entry in entries if isinstance(entry, Entry)] == [
        ShinobiId(index=i, seed=9) for i in range(3)
    ]


def test_a_folder_with_metadata_jsonl_yields_its_rows(tmp_path: Path) -> None:
    _picture(tmp_path / "sub/a.png")
    (entry,) = _entries("folder", _jsonl(tmp_path, {"file_name": "sub/a.png", "text": "a man", "hair": "red", "n": 3}))
    assert entry == Entry(
        name="sub/a.png",
        picture=(tmp_path / "sub/a.png").resolve(),
        captions="a man",
        attributes={"hair": "red", "n": "3"},
    )


def test_a_folder_with_metadata_csv_yields_its_rows(tmp_path: Path) -> None:
    for name in "ab":
        _picture(tmp_path / f"{name}.png")
    (tmp_path / "metadata.csv").write_bytes(
        '\ufefffile_name,caption,hair\r\na.png,"a man,\u2028tall",red\r\nb.png\r\n'.encode()
    )
    first, second = _entries("folder", tmp_path, caption_column="caption")
    assert isinstance(first, Entry)
    assert (first.captions, first.attributes) == ("a man,\u2028tall", {"hair": "red"})
    assert isinstance(second, Entry)
    assert second.captions is None


def test_a_folder_with_text_files_yields_its_pictures(tmp_path: Path) -> None:
    for name in ("b.PNG", "sub/a.jpg", "lost.png", "bad.png", ".hidden.png", ".cache/c.png"):
        _picture(tmp_path / name)
    (tmp_path / "b.txt").write_text("a man")
    (tmp_path / "sub/a.txt").write_text("\ufeffétude", "utf-8")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "README.md").write_text("no picture")
    entries = _entries("folder", tmp_path)
    assert _reasons(entries) == {
        "b.PNG": "taken",
        "bad.png": "no_caption",
        "lost.png": "no_caption",
        "sub/a.jpg": "taken",
    }
    assert [entry.captions for entry in entries if isinstance(entry, Entry)] == [["a man"], ["étude"]]


def test_text_files_without_a_supported_picture_are_rejected(tmp_path: Path) -> None:
    _picture(tmp_path / "a1.png")
    for name in ("b.heic", "sub/c.PSD", "a2", "f.json", "a1.json", "e.svg", "e.ico"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"?")
    for name in ("a1", "b", "sub/c", "a2", "e", "a3", "sub/A12"):
        (tmp_path / f"{name}.txt").write_text("a man")
    (tmp_path / "other.caption").write_text("a man")
    entries = _entries("folder", tmp_path)
    assert _reasons(entries) == {
        "a1.png": "taken",
        **dict.fromkeys(("b.heic", "a2", "e.ico", "e.svg", "sub/c.PSD"), "unsupported"),
        **dict.fromkeys(("a3.txt", "sub/A12.txt", "other.caption"), "missing_file"),
    }
    assert {entry.name: entry.detail for entry in entries if isinstance(entry, Reject)}["a2"] == (
        "its name has no ending; save it as PNG"
    )
    (tmp_path / "a1.png").unlink()
    with pytest.raises(StageError, match=r"has no captioned pictures; .*; a1\.json: \.json is not a supported"):
        _entries("folder", tmp_path)


def test_texts_that_belong_to_no_picture_are_ignored(tmp_path: Path) -> None:
    documents = ["LICENSE.txt", "README.txt", "docs/how_to_cite.TXT", "readme2.txt"]
    for name in ("0001.png", "0002.png", "3f2a9c01.jpg"):
        _picture(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("a man")
    for name in (*documents, "README.md", "0003.txt", "9d04be77.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("about")
    source = open_source(_PARAMS.model_copy(update={"path": str(tmp_path)}))
    assert source.ignored == documents
    lost = [entry.name for entry in source.entries if isinstance(entry, Reject) and entry.reason == "missing_file"]
    assert lost == ["0003.txt", "9d04be77.txt"], "they are named as pictures are, so their pictures are missing"


def test_a_picture_without_a_known_ending_is_named_although_its_text_is_named_as_no_other(tmp_path: Path) -> None:
    for name in ("0001.png", "fox.png"):
        _picture(tmp_path / name)
    for name in ("0001", "fox", "README", "pipe"):
        (tmp_path / f"{name}.txt").write_text("a man")
    (tmp_path / "fox.png").rename(tmp_path / "fox.jpg_large")
    (tmp_path / "README.md").write_text("P6 is a format of pictures")
    os.mkfifo(tmp_path / "pipe.bin")
    source = open_source(_PARAMS.model_copy(update={"path": str(tmp_path)}))
    assert _reasons(list(source.entries)) == {"0001.png": "taken", "fox.jpg_large": "unsupported"}
    assert source.ignored == ["README.txt", "pipe.txt"]


def test_a_folder_in_place_of_a_text_is_named(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        _picture(tmp_path / name)
    (tmp_path / "a.txt").write_text("a man")
    (tmp_path / "b.txt").mkdir()
    _, entry = _entries("folder", tmp_path)
    assert entry == Reject(name="b.png", reason="no_caption", detail="b.txt is not a regular file")


@pytest.mark.parametrize(
    ("picture", "text"),
    [
        (unicodedata.normalize("NFD", "ガンダム.png"), unicodedata.normalize("NFC", "ガンダム.txt")),
        ("IMG_1.JPG", "img_1.txt"),
        ("a.png", "a.png.txt"),
        ("a.b.png", "a.b.PNG.caption"),
    ],
)
def test_a_text_of_a_similar_name_is_the_caption(tmp_path: Path, picture: str, text: str) -> None:
    _picture(tmp_path / picture)
    (tmp_path / text).write_text("a man")
    (entry,) = _entries("folder", tmp_path)
    assert isinstance(entry, Entry)
    assert (entry.name, entry.captions) == (picture, ["a man"])


def test_a_text_of_a_similar_name_is_not_taken_from_its_own_picture(tmp_path: Path) -> None:
    for name in ("a.png", "A.png"):
        _picture(tmp_path / name)
    (tmp_path / "a.txt").write_text("a man")
    assert _reasons(_entries("folder", tmp_path)) == {"A.png": "no_caption", "a.png": "taken"}


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Folders that cannot be listed, even by root."""
    folders: set[Path] = set()
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path) in folders:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    return folders


@pytest.mark.parametrize("kind", ["texts", "table", "parquet"])
def test_folders_that_cannot_be_listed_are_rejected(tmp_path: Path, locked: set[Path], kind: str) -> None:
    _picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a man")
    pq.write_table(pa.table({"image": [_png("red")], "text": ["a man"]}), tmp_path / "b.parquet")
    if kind == "table":
        _jsonl(tmp_path, {"file_name": "a.png", "text": "a man"})
    (tmp_path / "sub").mkdir()
    locked.add(tmp_path / "sub")
    source = "parquet" if kind == "parquet" else "folder"
    taken, lost = _entries(source, tmp_path)
    assert isinstance(taken, Entry)
    assert lost == Reject(name="sub", reason="missing_file", detail="this folder cannot be listed: Permission denied")
    locked.add(tmp_path)
    with pytest.raises(StageError, match=r"ingest\.path: .* cannot be read: .*Permission denied"):
        _entries(source, tmp_path)


def test_rows_without_a_file_in_the_folder_are_rejected(tmp_path: Path) -> None:
    outside, folder = _picture(tmp_path / "secret.png"), tmp_path / "set"
    _picture(folder / "a.png")
    (folder / "link.png").symlink_to(outside)
    (folder / "inner.png").symlink_to(folder / "a.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "linked").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.png")
    names = {
        "a.png": "taken",
        "inner.png": "taken",
        "./a.png": "taken",
        "../secret.png": "path_escape",
        str(outside): "path_escape",
        "/etc/passwd": "path_escape",
        "link.png": "path_escape",
        "linked/secret.png": "path_escape",
        "circle.png": "missing_file",
        "pipe.png": "missing_file",
        "none.png": "missing_file",
        ".": "missing_file",
        "nul\0.png": "missing_file",
        "x" * 5000: "missing_file",
    }
    rows = [{"file_name": name, "text": "a man"} for name in names]
    assert _reasons(_entries("folder", _jsonl(folder, *rows))) == names


def test_links_out_of_a_folder_with_text_files_are_rejected(tmp_path: Path) -> None:
    outside, folder = _picture(tmp_path / "else/secret.png"), tmp_path / "set"
    (tmp_path / "else/secret.txt").write_text("a secret")
    for name in ("a", "b"):
        _picture(folder / f"{name}.png")
    (folder / "a.txt").write_text("a man")
    (folder / "b.txt").symlink_to(tmp_path / "else/secret.txt")
    (folder / "c.png").symlink_to(outside)
    (folder / "linked").symlink_to(tmp_path / "else")
    escapes = dict.fromkeys(("b.png", "c.png", "linked"), "path_escape")
    assert _reasons(_entries("folder", folder)) == {"a.png": "taken", **escapes}


def test_bad_rows_and_pictures_without_a_row_are_rejected(tmp_path: Path) -> None:
    for name in ("a.png", "extra.png"):
        _picture(tmp_path / name)
    good = json.dumps({"file_name": "a.png", "text": "a man"})
    lines = [good, "{broken", "[1]", "", '{"text": "nameless"}', '{"file_name": 3, "text": "numbered"}', "[" * 100_000]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    reasons = [(entry.name, entry.reason) for entry in _entries("folder", tmp_path) if isinstance(entry, Reject)]
    assert reasons == [
        ("metadata.jsonl:2", "bad_row"),
        ("metadata.jsonl:3", "bad_row"),
        ("metadata.jsonl:5", "bad_row"),
        ("metadata.jsonl:6", "bad_row"),
        ("metadata.jsonl:7", "bad_row"),
        ("extra.png", "no_caption"),
    ]


@pytest.mark.parametrize(
    ("content", "message"), [("", "no row"), ("{}", "has no column 'file_name'"), ("[]", "no row")]
)
def test_tables_without_rows_or_file_names_are_errors(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(content)
    with pytest.raises(StageError, match=rf"ingest\.path: .*{message}"):
        _entries("folder", tmp_path)


def test_a_missing_caption_column_names_the_parameter_and_the_choices(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png")
    _jsonl(tmp_path, {"file_name": "a.png", "prompt": "a man"})
    with pytest.raises(StageError, match=r"ingest\.caption_column: .* no column 'text'; its columns: file_name, pr"):
        _entries("folder", tmp_path)


def test_a_folder_that_cannot_be_used_is_an_error_that_names_the_parameter(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"ingest\.path: '.*none' is not a folder"):
        _entries("folder", tmp_path / "none")
    _picture(tmp_path / "a.png")
    with pytest.raises(StageError, match=r"ingest\.path: .* has no captioned pictures; add metadata\.jsonl"):
        _entries("folder", tmp_path)
    (tmp_path / "metadata.csv").write_text("")
    with pytest.raises(StageError, match=r"ingest\.path: line 1 of .* must name the columns"):
        _entries("folder", tmp_path)
    _jsonl(tmp_path)
    with pytest.raises(StageError, match=r"ingest\.path: .* holds both metadata\.jsonl and metadata\.csv"):
        _entries("folder", tmp_path)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_table_that_links_out_of_the_folder_is_not_read(tmp_path: Path, name: str) -> None:
    _picture(tmp_path / "set/a.png")
    (tmp_path / name).write_text("secret")
    (tmp_path / "set" / name).symlink_to(tmp_path / name)
    with pytest.raises(StageError, match=rf"ingest\.path: .*{name} leads out of .*; replace it by a copy of the file"):
        _entries("folder", tmp_path / "set")


def test_a_parquet_row_holds_bytes_or_a_path(tmp_path: Path) -> None:
    _picture(tmp_path / "set/b.png")
    _picture(tmp_path / "secret.png")
    images: list[Any] = [{"bytes": _png("red"), "path": "a.png"}, {"bytes": None, "path": "b.png"}]
    images += [{"bytes": None, "path": "../secret.png"}, {"bytes": None, "path": None}, None]
    columns = {"image": images, "text": list("abcde"), "hair": list("vwxyz"), "other": [b"1"] * 5}
    pq.write_table(pa.table(columns), tmp_path / "set/train.parquet")
    entries = _entries("parquet", tmp_path / "set")
    first = entries[0]
    assert first == Entry(name="train.parquet:0", picture=_png("red"), captions="a", attributes={"hair": "v"})
    assert list(_reasons(entries).values()) == ["taken", "taken", "path_escape", "missing_file", "missing_file"]


def test_parquet_files_are_read_in_order_of_name_and_may_hold_plain_bytes(tmp_path: Path) -> None:
    for number in (1, 0):
        table = pa.table({"picture": [_png("red")] * 100, "text": [f"{number} {i}" for i in range(100)]})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    entries = _entries("parquet", tmp_path, image_column="picture")
    assert [entry.captions for entry in entries if isinstance(entry, Entry)] == [
        f"{number} {i}" for number in (0, 1) for i in range(100)
    ]
    assert len(_entries("parquet", tmp_path / "0.parquet", image_column="picture")) == 100


def test_parquet_files_that_cannot_be_used_are_an_error_that_names_the_parameter(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"ingest\.path: .* is neither a file nor a folder"):
        _entries("parquet", tmp_path / "none")
    with pytest.raises(StageError, match=r"ingest\.path: .* holds no \.parquet file"):
        _entries("parquet", tmp_path)
    pq.write_table(pa.table({"image": [b""], "prompt": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(StageError, match=r"ingest\.caption_column: .* no column 'text'; its columns: image, prompt"):
        _entries("parquet", tmp_path)
    with pytest.raises(StageError, match=r"ingest\.image_column: .* no column 'picture'"):
        _entries("parquet", tmp_path, image_column="picture")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 broken PAR1")
    with pytest.raises(StageError, match=r"ingest\.path: .* cannot be read as a parquet file"):
        _entries("parquet", tmp_path)


def test_parquet_rows_are_named_by_their_path_in_the_folder(tmp_path: Path) -> None:
    for part in ("x", "y"):
        (tmp_path / part).mkdir()
        pq.write_table(pa.table({"image": [b"", b""], "text": ["a", "b"]}), tmp_path / part / "train.parquet")
    assert [entry.name for entry in _entries("parquet", tmp_path)] == [
        "x/train.parquet:0",
        "x/train.parquet:1",
        "y/train.parquet:0",
        "y/train.parquet:1",
    ]


def test_a_damaged_row_group_costs_only_its_own_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"image": [_png("red")] * 9, "text": list("abcdefghi")}), file, row_group_size=3, compression="snappy"
    )
    column = pq.ParquetFile(file).metadata.row_group(1).column(1)
    content = bytearray(file.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    file.write_bytes(content)
    entries = _entries("parquet", tmp_path)
    assert list(_reasons(entries).values()) == ["taken"] * 3 + ["bad_row"] * 3 + ["taken"] * 3
    assert isinstance(entries[4], Reject)
    assert entries[4].name == "a.parquet:4"
    assert entries[4].detail.startswith("row group 1 is damaged: ")


def test_a_parquet_string_that_is_not_utf_8_costs_only_its_own_row(tmp_path: Path) -> None:
    texts = pa.array([b"a man", b"caf\xe9", b"a girl"]).view(pa.string())
    pq.write_table(pa.table({"image": [_png("red")] * 3, "text": texts}), tmp_path / "a.parquet")
    assert _reasons(_entries("parquet", tmp_path)) == {
        "a.parquet:0": "taken",
        "a.parquet:1": "bad_row",
        "a.parquet:2": "taken",
    }


def test_caption_files_are_found_whatever_the_case_of_their_ending(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.png", "c.PNG", "d.png"):
        _picture(tmp_path / name)
    for name in ("a.TXT", "b.caption", "c.Caption", "d.caption", "d.Txt"):
        (tmp_path / name).write_text(name)
    entries = _entries("folder", tmp_path)
    assert [entry.captions for entry in entries if isinstance(entry, Entry)] == [
        ["a.TXT"],
        ["b.caption"],
        ["c.Caption"],
        ["d.Txt"],
    ]


def test_each_line_of_a_text_file_and_each_item_of_a_list_is_a_caption(tmp_path: Path) -> None:
    _picture(tmp_path / "texts/a.png")
    (tmp_path / "texts/a.txt").write_bytes(b"a man\r\n\n  \na ninja\rtall")
    (entry,) = _entries("folder", tmp_path / "texts")
    assert isinstance(entry, Entry)
    assert entry.captions == ["a man", "a ninja", "tall"]
    _picture(tmp_path / "table/a.png")
    (entry,) = _entries("folder", _jsonl(tmp_path / "table", {"file_name": "a.png", "text": ["a man", "a ninja"]}))
    assert isinstance(entry, Entry)
    assert entry.captions == ["a man", "a ninja"]


def test_texts_with_a_byte_order_mark_are_read_and_other_encodings_are_named(tmp_path: Path) -> None:
    texts = {"a": "é".encode("utf-8-sig"), "b": "é".encode("utf-16"), "c": "忍者の少年、赤い髪".encode("shift_jis")}
    for name, content in texts.items():
        _picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(content)
    first, second, third = _entries("folder", tmp_path)
    assert [entry.captions for entry in (first, second) if isinstance(entry, Entry)] == [["é"], ["é"]]
    assert isinstance(third, Reject)
    assert third.reason == "no_caption"
    assert "c.txt cannot be read: not UTF-8" in third.detail
    assert "it looks like cp932" in third.detail


@pytest.mark.parametrize(
    ("encoding", "caption"),
    [
        ("cp1252", "caf\u00e9"),
        ("cp1252", "it\u2019s a fox"),
        ("cp1252", "a fox \u2013 red"),
        ("cp1252", "ein Fuchs \u00fcber K\u00f6ln"),
        ("cp1252", "el ni\u00f1o"),
        ("cp1251", "\u0440\u044b\u0436\u0430\u044f \u043b\u0438\u0441\u0430"),
        ("cp932", "\u30c6\u30b9\u30c8"),
    ],
)
def test_the_command_that_a_reject_names_gives_the_caption(tmp_path: Path, encoding: str, caption: str) -> None:
    _picture(tmp_path / "a.png").with_suffix(".txt").write_bytes(caption.encode(encoding))
    _picture(tmp_path / "b.png").with_suffix(".txt").write_text("a man")
    (reject,) = [entry for entry in _entries("folder", tmp_path) if isinstance(entry, Reject)]
    assert f"it looks like {encoding}" in reject.detail
    assert f"`iconv -f {encoding} -t utf-8`" in reject.detail


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named_and_not_read_as_something_else(tmp_path: Path, encoding: str) -> None:
    _picture(tmp_path / "a.png").with_suffix(".txt").write_bytes("a man of \u4e2d".encode(encoding))
    _picture(tmp_path / "b.png").with_suffix(".txt").write_text("a man")
    (reject,) = [entry for entry in _entries("folder", tmp_path) if isinstance(entry, Reject)]
    assert (reject.name, reject.reason) == ("a.png", "no_caption")
    assert "UTF-16 without a byte order mark" in reject.detail


def test_an_archive_beside_pictures_is_named(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png").with_suffix(".txt").write_text("a man")
    (tmp_path / "more.zip").write_bytes(b"PK")
    (reject,) = [entry for entry in _entries("folder", tmp_path) if isinstance(entry, Reject)]
    assert (reject.name, reject.reason) == ("more.zip", "unsupported")
    assert "unpack it" in reject.detail


def test_tables_in_subfolders_are_read_with_the_splits_that_their_folders_name(tmp_path: Path) -> None:
    for name in ("train/a.png", "data/valid/b.png", "data/valid/c.png", "other/d.png", "train/lost.png"):
        _picture(tmp_path / name)
    _jsonl(tmp_path / "train", {"file_name": "a.png", "text": "a man"})
    rows = [{"file_name": "b.png", "text": "a man"}, {"file_name": "c.png", "text": "a man", "split": "Test"}]
    _jsonl(tmp_path / "data/valid", *rows)
    (tmp_path / "other/metadata.csv").write_text("file_name,text\nd.png,a man\n")
    entries = _entries("folder", tmp_path)
    splits = {entry.name: entry.split for entry in entries if isinstance(entry, Entry)}
    assert splits == {
        "data/valid/b.png": "validation",
        "data/valid/c.png": "test",
        "other/d.png": None,
        "train/a.png": "train",
    }
    assert [entry.name for entry in entries if isinstance(entry, Reject)] == ["train/lost.png"]


@pytest.mark.parametrize("captions", ["auto", "sidecar", "file_name", "constant", "metadata"])
def test_folders_with_the_name_of_a_split_give_it_to_their_pictures(tmp_path: Path, captions: str) -> None:
    root = tmp_path / "test"  # the folder above does not count
    for name in ("train/a fox.png", "val/deep/b fox.png", "testing/c fox.png", "d fox.png", "other/e fox.png"):
        _picture(root / name).with_suffix(".txt").write_text("a man")
    if captions == "metadata":
        names = ["train/a fox.png", str(root / "val/deep/b fox.png"), "other/../testing/c fox.png", "d fox.png"]
        _jsonl(root, *({"file_name": name, "text": "a man"} for name in [*names, str(root / "other/e fox.png")]))
    entries = _entries("folder", root, captions=captions, caption="a man")
    splits = {Path(entry.name).name[0]: entry.split for entry in entries if isinstance(entry, Entry)}
    assert splits == {"a": "train", "b": "validation", "c": "test", "d": None, "e": None}


def test_a_table_in_the_folder_and_text_files_come_before_tables_in_subfolders(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png")
    _picture(tmp_path / "sub/b.png")
    _jsonl(tmp_path / "sub", {"file_name": "b.png", "text": "of the subfolder"})
    (tmp_path / "a.txt").write_text("of a text file")
    assert _reasons(_entries("folder", tmp_path)) == {"a.png": "taken", "sub/b.png": "no_caption"}
    assert _reasons(_entries("folder", tmp_path, captions="metadata")) == {"sub/b.png": "taken", "a.png": "no_caption"}
    _jsonl(tmp_path, {"file_name": "a.png", "text": "of the table"})
    (first, _) = _entries("folder", tmp_path)
    assert isinstance(first, Entry)
    assert first.captions == "of the table"
    (first, _) = _entries("folder", tmp_path, captions="sidecar")
    assert isinstance(first, Entry)
    assert first.captions == ["of a text file"]


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("a red fox_12.png", "a red fox"),
        ("sub/a_red_fox (3).png", "a red fox"),
        ("a red fox.png", "a red fox"),
        ("portrait 2-7.png", "portrait 2"),
        ("0001.png", ""),
    ],
)
def test_the_name_of_a_picture_can_be_its_caption(tmp_path: Path, name: str, caption: str) -> None:
    _picture(tmp_path / name)
    (entry,) = _entries("folder", tmp_path, captions="file_name")
    assert isinstance(entry, Entry)
    assert entry.captions == caption
    (entry,) = _entries("folder", tmp_path, captions="constant", caption="zxy")
    assert isinstance(entry, Entry)
    assert entry.captions == "zxy"


def test_a_folder_without_captions_is_an_error_that_lists_its_files_and_what_would_fit(tmp_path: Path) -> None:
    for number in range(3):
        _picture(tmp_path / f"a red fox_{number}.png")
    (tmp_path / "x\x1b[2J.json").write_text("{}")
    with pytest.raises(StageError) as caught:
        _entries("folder", tmp_path)
    message = str(caught.value)
    assert "the folder holds 3 .png, 1 .json" in message
    assert "ingest.captions file_name reads the pictures' names, such as 'a red fox'" in message
    assert "ingest.captions constant" in message
    assert "\x1b" not in message
    _jsonl(tmp_path, {"file_name": "a.png", "text": "a"})
    with pytest.raises(StageError, match=r"(?s)ingest\.captions: sidecar finds no .*ingest\.captions metadata reads"):
        _entries("folder", tmp_path, captions="sidecar")


@pytest.mark.parametrize("archive", ["images.ZIP", "00000.tar", "train.tar.gz", "train.tar.zst"])
@pytest.mark.parametrize("has_table", [False, True])
def test_packed_pictures_are_one_error_that_says_to_unpack_them(tmp_path: Path, archive: str, has_table: bool) -> None:
    (tmp_path / archive).write_bytes(b"?")
    if has_table:
        _jsonl(tmp_path, *({"file_name": f"{number}.png", "text": "a man"} for number in range(3)))
    with pytest.raises(StageError, match=rf"ingest\.path: .* has no pictures outside of {archive}; unpack it"):
        _entries("folder", tmp_path)


def test_pictures_in_formats_that_are_not_read_are_rejected_with_the_remedy(tmp_path: Path) -> None:
    for name in ("a.png", "b.HEIC", "c.jxl", "d.psd"):
        _picture(tmp_path / "a.png") if name == "a.png" else (tmp_path / name).write_bytes(b"?")
    (tmp_path / "a.txt").write_text("a man")
    unread = {
        "b.HEIC": "--python .venv pillow-heif`",
        "c.jxl": "--python .venv pillow-jxl-plugin`",
        "d.psd": "save it as PNG",
    }
    kinds = [{"captions": "sidecar"}, {"captions": "constant", "caption": "x"}, {"captions": "metadata"}]
    _jsonl(tmp_path, {"file_name": "a.png", "text": "a man"}, {"file_name": "b.HEIC", "text": "a man"})
    for changes in kinds:
        rejects = {each.name: each for each in _entries("folder", tmp_path, **changes) if isinstance(each, Reject)}
        assert rejects.keys() == unread.keys()
        for name, remedy in unread.items():
            assert rejects[name].reason == "unsupported"
            assert remedy in rejects[name].detail


@pytest.mark.parametrize("form", ["absolute", "sub/../{}", "./{}", "link/{}"])
def test_a_picture_that_a_row_names_by_another_path_is_counted_once(tmp_path: Path, form: str) -> None:
    _picture(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    name = str(tmp_path / "a.png") if form == "absolute" else form.format("a.png")
    assert list(_reasons(_entries("folder", _jsonl(tmp_path, {"file_name": name, "text": "a man"}))).values()) == [
        "taken"
    ]


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("metadata.jsonl", '{"file_name": "b.png", "text": '),
        ("metadata.csv", 'b.png,"unclosed'),
        ("metadata.csv", "b.png,a,b"),
    ],
)
def test_a_broken_row_is_counted_without_its_picture(tmp_path: Path, table: str, row: str) -> None:
    for name in "ab":
        _picture(tmp_path / f"{name}.png")
    good = '{"file_name": "a.png", "text": "a man"}' if table.endswith("jsonl") else "file_name,text\na.png,a man"
    (tmp_path / table).write_text(f"{good}\n{row}\n")
    assert list(_reasons(_entries("folder", tmp_path)).values()) == ["taken", "bad_row"]


def test_only_named_and_plain_columns_of_a_parquet_file_are_read(tmp_path: Path) -> None:
    columns = {
        "image": [_png("red")] * 2,
        "text": [["a man", "a ninja"], ["a girl"]],
        "hair": ["red", "blue"],
        "never": pa.array([400_000_000_000, 0]).cast(pa.timestamp("s")),
        "broken": pa.array([b"caf\xe9", b"x"]).view(pa.string()),
    }
    pq.write_table(pa.table(columns), tmp_path / "A.PARQUET")
    first, second = _entries("parquet", tmp_path)
    assert isinstance(first, Entry)
    assert (first.captions, first.attributes) == (["a man", "a ninja"], {"hair": "red"})
    assert isinstance(second, Entry)
    assert second.attributes == {"hair": "blue", "broken": "x"}


def test_parquet_files_that_are_pipes_or_lead_out_of_the_folder_are_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for place in (tmp_path / "secret.parquet", folder / "a.parquet"):
        pq.write_table(pa.table({"image": [_png("red")], "text": ["a man"]}), place)
    (folder / "link.parquet").symlink_to(tmp_path / "secret.parquet")
    os.mkfifo(folder / "pipe.parquet")
    assert _reasons(_entries("parquet", folder)) == {
        "a.parquet:0": "taken",
        "link.parquet": "path_escape",
        "pipe.parquet": "missing_file",
    }


def test_the_rows_of_one_picture_are_its_captions(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        _picture(tmp_path / name)
    rows = [
        ("a.png", "a man"),
        ("b.png", "a dog"),
        ("./a.png", ["a boy", "a lad"]),
        ("a.png", None),
        ("a.png", "a man"),
    ]
    _jsonl(tmp_path, *({"file_name": name, "text": text, "tag": str(text)} for name, text in rows))
    first, second, empty, repeated = _entries("folder", tmp_path)
    assert isinstance(first, Entry) and isinstance(second, Entry)
    assert clean_captions(first.captions) == ("a man", "a boy", "a lad")
    assert (first.name, first.attributes) == ("a.png", {"tag": "a man"})
    assert (second.name, second.captions) == ("b.png", "a dog")
    assert {empty.name, repeated.name} == {"a.png"}, "rows that add no caption stay, and are rejected as such"


def test_many_rows_of_few_pictures_are_read_in_linear_time(tmp_path: Path) -> None:
    for index in range(2):
        _picture(tmp_path / f"{index}.png")
    rows = ({"file_name": f"{index % 2}.png", "text": f"caption {index}"} for index in range(10_000))
    _jsonl(tmp_path, *rows)
    start = time.process_time()
    first, second = _entries("folder", tmp_path)
    assert time.process_time() - start < 20
    assert isinstance(first, Entry) and isinstance(second, Entry)
    assert first.captions == [f"caption {index}" for index in range(0, 10_000, 2)]
    assert second.captions == [f"caption {index}" for index in range(1, 10_000, 2)]


@pytest.mark.parametrize("name", ["Metadata.JSONL", "METADATA.jsonl", "sub/metadata.Jsonl"])
def test_tables_are_found_whatever_the_case_of_their_names(tmp_path: Path, name: str) -> None:
    table = tmp_path / name
    _picture(table.parent / "a.png")
    table.write_text(json.dumps({"file_name": "a.png", "text": "a man"}))
    (entry,) = _entries("folder", tmp_path)
    assert isinstance(entry, Entry) and entry.captions == "a man"


def test_two_tables_in_one_folder_are_named_whatever_their_case(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text("{}")
    (tmp_path / "Metadata.jsonl").write_text("{}")
    with pytest.raises(StageError, match=r"holds both [mM]etadata\.jsonl and [mM]etadata\.jsonl"):
        _entries("folder", tmp_path)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_csv_file_with_another_separator_is_an_error_that_says_so(tmp_path: Path, separator: str) -> None:
    _picture(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text(f"file_name{separator}text\na.png{separator}a man\n")
    with pytest.raises(StageError, match=r"has no column 'file_name'; .*; separate columns by commas"):
        _entries("folder", tmp_path)


@pytest.mark.parametrize("name", ["captions.json", "metadata.json", "labels.tsv", "captions.csv", "metadata.jsonl.gz"])
def test_captions_in_a_file_that_is_not_read_are_an_error_that_says_how_to_write_them(
    tmp_path: Path, name: str
) -> None:
    _picture(tmp_path / "a.png")
    (tmp_path / name).write_text(json.dumps({"a.png": "a man"}))
    with pytest.raises(StageError, match=rf"{name} is not read: write it as metadata\.jsonl"):
        _entries("folder", tmp_path)


@pytest.mark.parametrize("form", ["sub\\a.png", "sub/A.PNG", ".\\Sub\\a.Png", " sub/a.png ", "sub/a.png\r"])
def test_rows_may_name_files_as_windows_does(tmp_path: Path, form: str) -> None:
    for name in ("sub/a.png", "b.png"):
        _picture(tmp_path / name)
    _jsonl(tmp_path, {"file_name": form, "text": "a man"}, {"file_name": "b.png", "text": "a dog"})
    assert _reasons(_entries("folder", tmp_path)) == {"sub/a.png": "taken", "b.png": "taken"}


def test_rows_may_name_files_in_another_unicode_form(tmp_path: Path) -> None:
    _picture(tmp_path / unicodedata.normalize("NFD", "ガンダム.png"))
    _jsonl(tmp_path, {"file_name": unicodedata.normalize("NFC", "ガンダム.png"), "text": "a robot"})
    (entry,) = _entries("folder", tmp_path)
    assert isinstance(entry, Entry)
    assert entry.captions == "a robot"


def test_a_row_whose_name_fits_two_files_in_other_cases_is_rejected(tmp_path: Path) -> None:
    for name in ("a.png", "A.png"):
        _picture(tmp_path / name)
    _jsonl(tmp_path, {"file_name": "A.PNG", "text": "a man"}, {"file_name": "a.png", "text": "a dog"})
    assert _reasons(_entries("folder", tmp_path)) == {"A.PNG": "missing_file", "a.png": "taken", "A.png": "no_caption"}


def test_a_plain_string_in_a_parquet_file_is_a_path(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png")
    names = ["a.png", "https://example.org/b.png", "../c.png", ""]
    pq.write_table(pa.table({"image": names, "text": ["a man"] * len(names)}), tmp_path / "x.parquet")
    first, *others = _entries("parquet", tmp_path)
    assert isinstance(first, Entry) and first.picture == tmp_path / "a.png"
    assert [entry.reason for entry in others if isinstance(entry, Reject)] == [
        "missing_file", "path_escape", "missing_file",
    ]  # fmt: skip
    assert isinstance(others[0], Reject) and others[0].detail == "https://example.org/b.png does not exist"


def test_captions_that_a_parquet_file_holds_as_bytes_are_text(tmp_path: Path) -> None:
    texts = [["käse".encode(), None], [b"\xff"]]
    pq.write_table(pa.table({"image": [_png("red"), _png("blue")], "text": texts}), tmp_path / "a.parquet")
    first, second = _entries("parquet", tmp_path)
    assert isinstance(first, Entry) and isinstance(second, Reject)
    assert clean_captions(first.captions) == ("käse",)
    assert (second.reason, second.detail) == ("bad_row", "text is not UTF-8: invalid start byte")


def test_a_picture_as_text_in_a_parquet_file_is_a_short_reject(tmp_path: Path) -> None:
    table = pa.table({"image": [base64.b64encode(os.urandom(9000)).decode(), ""], "text": ["a", "b"]})
    pq.write_table(table, tmp_path / "a.parquet")
    long, empty = _entries("parquet", tmp_path)
    assert isinstance(long, Reject) and isinstance(empty, Reject)
    assert (long.reason, empty.reason) == ("missing_file", "missing_file")
    assert len(long.detail) < 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            json.dumps({"file_name": "a.png", "text": "a man"}, indent=2),
            r"metadata\.jsonl:1: not JSON.*an object for each",
        ),
        (json.dumps([{"file_name": "a.png", "text": "a man"}]), r"metadata\.jsonl:1: not a JSON object.*on a line"),
        ("", "the file is empty.*write an object for each picture"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS.*`git lfs pull`"),
    ],
)
def test_a_table_without_any_row_is_an_error_that_says_what_it_is(tmp_path: Path, content: str, message: str) -> None:
    _picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(content)
    with pytest.raises(StageError, match=message):
        _entries("folder", tmp_path)
