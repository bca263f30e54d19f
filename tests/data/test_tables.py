"""A bad row of a table does not affect the others and is named by its line."""

import json
import time
from pathlib import Path

import pytest

from naruto_add.data.entries import Reject
from naruto_add.data.tables import Row, read_table
from naruto_add.runtime.errors import StageError


def _read(file: Path, content: bytes) -> dict[str, str | None]:
    """The caption of a good row or the start of a bad row's detail, by place."""
    file.write_bytes(content)
    rows = read_table(file, name=file.name).rows
    return {
        row.name if isinstance(row, Reject) else row.place: row.detail.partition(":")[0]
        if isinstance(row, Reject)
        else row.values.get("text")
        for row in rows
    }


def test_a_bad_row_of_a_csv_file_costs_only_itself(tmp_path: Path) -> None:
    lines = [
        b"file_name,text",
        b"a.png,a man",
        b'b.png,"unclosed',
        b"c.png,caf\xe9",
        b"",
        b"d.png," + b"x" * 200_000,
        b'e.png,"two',
        b'lines, one ""record"""',
        b"f.png,a man, tall",
        b'g.png,"closed" too early',
        b"h.png",
        b"i.png,a man,",
        b'j.png,"unclosed at the end',
        b"k.png,a man",
    ]
    assert _read(tmp_path / "metadata.csv", b"\n".join(lines)) == {
        "metadata.csv:2": "a man",
        "metadata.csv:3": "not CSV",
        "metadata.csv:4": "not UTF-8",
        "metadata.csv:6": "not CSV",
        "metadata.csv:7": 'two\nlines, one "record"',
        "metadata.csv:9": "3 values for 2 columns; quote values that contain a comma",
        "metadata.csv:10": "not CSV",
        "metadata.csv:11": None,
        "metadata.csv:12": "a man",
        "metadata.csv:13": "not CSV",
        "metadata.csv:14": "a man",
    }


def test_a_bad_row_of_a_jsonl_file_costs_only_itself(tmp_path: Path) -> None:
    good = json.dumps({"text": "é"}, ensure_ascii=False).encode()
    content = b"\n".join([b"\xef\xbb\xbf" + good, good.replace(b"\xc3", b""), b"{", b"[]", b"", b"1" * 5000, good])
    assert _read(tmp_path / "metadata.jsonl", content) == {
        "metadata.jsonl:1": "é",
        "metadata.jsonl:2": "not UTF-8",
        "metadata.jsonl:3": "not JSON",
        "metadata.jsonl:4": "not a JSON object",
        "metadata.jsonl:6": "not JSON",
        "metadata.jsonl:7": "é",
    }


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfef\x00i", b'file_name,"text\n', b"\x89PNG\r\n\xff"])
def test_a_csv_file_whose_first_line_names_no_columns_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(StageError, match=r"ingest\.path: line \d of .*metadata\.csv must name the columns"):
        read_table(tmp_path / "metadata.csv", name="metadata.csv")


def test_many_bad_rows_are_read_in_linear_time(tmp_path: Path) -> None:
    """Reading restarts at the line after each bad record; csv's field size limit bounds an unclosed quote."""
    content = b"file_name,text\n" + b'a.png,"closed" too early\n' * 50_000
    (tmp_path / "metadata.csv").write_bytes(content)
    start = time.process_time()
    rows = read_table(tmp_path / "metadata.csv", name="metadata.csv").rows
    assert time.process_time() - start < 5
    assert len(rows) == 50_000


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_tables_with_a_byte_order_mark_are_read(tmp_path: Path, encoding: str, name: str) -> None:
    content = 'file_name,text\na.png,"é, 忍"\n' if name.endswith("csv") else '{"file_name": "a.png", "text": "é, 忍"}\n'
    assert list(_read(tmp_path / name, content.encode(encoding)).values()) == ["é, 忍"]


def test_a_csv_file_with_two_columns_of_one_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,text,,,text\na.png,one,,,two\n")
    with pytest.raises(StageError, match=r"metadata\.csv has two columns 'text'; rename or remove one of them"):
        read_table(tmp_path / "metadata.csv", name="metadata.csv")


def test_a_row_that_names_a_key_twice_is_bad(tmp_path: Path) -> None:
    assert _read(tmp_path / "metadata.jsonl", b'{"text": "a man", "text": "a girl"}') == {
        "metadata.jsonl:1": "names 'text' twice"
    }


def test_spaces_around_the_values_of_a_csv_file_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text('file_name , text\na.png, "a man, with a sword"\n')
    table = read_table(tmp_path / "metadata.csv", name="metadata.csv")
    assert table.columns == ["file_name", "text"]
    assert [row.values for row in table.rows if isinstance(row, Row)] == [
        {"file_name": "a.png", "text": "a man, with a sword"}
    ]
