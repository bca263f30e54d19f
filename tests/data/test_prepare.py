"""Decoding pictures in one or several processes."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from naruto_add.data.entries import Entry, Reject, ShinobiId, Source
from naruto_add.data.images import PictureRules
from naruto_add.data.prepare import Prepared, prepare_pictures, usable_processes

_RULES = PictureRules(resolution_px=16, min_side_px=16, max_megapixels=1.0, crop="center")


def _source() -> Source:
    """Twenty drawings, a picture that is broken, one without a caption, and a reject of the source itself."""
    entries: list[Entry | Reject] = [Entry(name=f"{i}", picture=ShinobiId(index=i, seed=0)) for i in range(20)]
    entries.insert(5, Entry(name="broken", picture=b"no picture", captions="a man"))
    entries.insert(9, Entry(name="silent", picture=b"", captions="\u3000"))
    entries.append(Reject(name="lost", reason="missing_file", detail="does not exist"))
    return Source(num_entries=len(entries), entries=iter(entries))


def _prepare(folder: Path, num_processes: int) -> list[Prepared | Reject]:
    folder.mkdir()
    return list(prepare_pictures(_source(), rules=_RULES, folder=folder, num_processes=num_processes))


def test_pictures_are_saved_by_position_and_bad_entries_become_rejects(tmp_path: Path) -> None:
    prepared = _prepare(tmp_path / "images", 1)
    reasons = {entry.name: entry.reason for entry in prepared if isinstance(entry, Reject)}
    assert reasons == {"broken": "broken", "silent": "no_caption", "lost": "missing_file"}
    places = [index for index, entry in enumerate(prepared) if isinstance(entry, Prepared)]
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [f"{place:05d}.png" for place in places]


@pytest.mark.slow
def test_two_processes_prepare_the_same_pictures_as_one(tmp_path: Path) -> None:
    one, two = (_prepare(tmp_path / f"{number}", number) for number in (1, 2))
    assert [entry.name for entry in one] == [entry.name for entry in two]
    for first, second in zip(one, two, strict=True):
        assert isinstance(first, Prepared) == isinstance(second, Prepared)
        if isinstance(first, Prepared) and isinstance(second, Prepared):
            assert first.path.read_bytes() == second.path.read_bytes()
            assert (first.captions, first.fingerprint) == (second.captions, second.fingerprint)


def test_few_entries_need_one_process() -> None:
    assert usable_processes(1) == usable_processes(128) == 1


def test_a_converted_picture_is_saved_without_its_profile(tmp_path: Path) -> None:
    """The profile that Pillow attaches contains the time of the conversion, so two runs would differ."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    stream = BytesIO()
    Image.new("RGB", (16, 16), "red").save(stream, "PNG", icc_profile=profile)
    source = Source(num_entries=1, entries=[Entry(name="a", picture=stream.getvalue(), captions="a man")])
    list(prepare_pictures(source, rules=_RULES, folder=tmp_path, num_processes=1))
    with Image.open(tmp_path / "00000.png") as image:
        assert "icc_profile" not in image.info
