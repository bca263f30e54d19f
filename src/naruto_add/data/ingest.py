"""`run_ingest`: any source of captioned pictures into one clean, split data set, and an account of what was refused."""

import hashlib
import json
import math
import os
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import get_args

from PIL import Image

from naruto_add.data.captions import TokenCounts, clean_caption, count_tokens
from naruto_add.data.dataset import Split
from naruto_add.data.duplicates import Duplicate, Fingerprint, find_duplicates, fingerprint
from naruto_add.data.entries import Drawing, Entry, Reject, Source
from naruto_add.data.images import PictureRules, Reason, UnusablePictureError, read_picture
from naruto_add.data.sheet import draw_sheet
from naruto_add.data.shinobi.draw import draw_shinobi
from naruto_add.data.sources import named_source, open_source
from naruto_add.files import atomic_write_bytes, new_folder, write_json
from naruto_add.params import Ingest
from naruto_add.runtime import StageError, progress

_SMALLEST_SHARE = 128
"""Entries for which another process is worth its start."""
_RESERVED = ("file_name", "text", "split", "source", "image")
"""Columns that are ours, and the one that datasets' imagefolder adds."""
_Row = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A picture that is decoded, scaled and saved, with its caption."""

    name: str
    path: Path
    caption: str
    attributes: dict[str, str]
    fingerprint: Fingerprint


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """Every entry's fate, in the source's order."""

    entries: list[Prepared | Reject]
    duplicates: list[Duplicate]

    @property
    def rejects(self) -> list[Reject]:
        return [each for each in self.entries if isinstance(each, Reject)]

    @property
    def kept(self) -> list[Prepared]:
        repeated = {each.position for each in self.duplicates}
        numbered = enumerate(self.entries)
        return [each for position, each in numbered if isinstance(each, Prepared) and position not in repeated]


def run_ingest(
    params: Ingest,
    *,
    base_model: str,
    base_revision: str,
    resolution_px: int,
    dataset_dir: Path,
    rejects_path: Path,
    metrics_path: Path,
    sheet_path: Path,
) -> None:
    """Leaves `images/*.png` and `metadata.jsonl` in `dataset_dir`, one line for each refused entry in `rejects_path`,
    their sums in `metrics_path` and a contact sheet.

    The base model's tokenizer counts the captions' tokens. A bad entry never stops the run; more than `ingest.max_rejected` of them raise StageError, as does a source that
    cannot be read at all.
    """
    source = open_source(params)
    with new_folder(dataset_dir) as folder:
        outcome = _take(source, params, resolution_px=resolution_px, folder=folder)
        _write_rows(rejects_path, _reject_rows(outcome))
        _check_enough(outcome, params, rejects_path)
        rows = _rows(outcome.kept, params)
        _write_rows(folder / "metadata.jsonl", rows)
        tokens = count_tokens([row["text"] for row in rows], base_model, base_revision)
        metrics = _metrics(outcome, rows, tokens)
        draw_sheet(folder, rows, sheet_path=sheet_path)
    write_json(metrics_path, metrics)


# --- from entries to pictures ---


def _take(source: Source, params: Ingest, *, resolution_px: int, folder: Path) -> _Outcome:
    """Decodes everything into `folder`, then deletes what is there twice."""
    (folder / "images").mkdir()
    rules = PictureRules(
        resolution_px=resolution_px,
        min_side_px=params.min_side_px,
        max_megapixels=params.max_megapixels,
        crop=params.crop,
    )
    outcomes = _prepared(source, rules, folder / "images")
    entries = list(progress(outcomes, desc="ingest", total=source.num_entries))
    positions = [position for position, each in enumerate(entries) if isinstance(each, Prepared)]
    prints = [each.fingerprint for each in entries if isinstance(each, Prepared)]
    found = find_duplicates(prints, distance=params.duplicate_distance)
    duplicates = [
        Duplicate(position=positions[each.position], original=positions[each.original], kind=each.kind)
        for each in found
    ]
    outcome = _Outcome(entries=entries, duplicates=duplicates)
    for duplicate in duplicates:
        _prepared_at(outcome, duplicate.position).path.unlink()
    return outcome


def _prepared_at(outcome: _Outcome, position: int) -> Prepared:
    entry = outcome.entries[position]
    assert isinstance(entry, Prepared), entry
    return entry


def _prepared(source: Source, rules: PictureRules, folder: Path) -> Iterator[Prepared | Reject]:
    """Outcomes in the source's order, by as many processes as there are processors for them."""
    tasks = ((entry, folder / f"{index:05d}.png") for index, entry in enumerate(source.entries))
    num_processes = min(_usable_cpus(), math.ceil(source.num_entries / _SMALLEST_SHARE))
    if num_processes == 1:
        return (_prepare(entry, path, rules) for entry, path in tasks)
    return _in_parallel(tasks, rules, num_processes)


def _usable_cpus() -> int:
    """Those that this process may run on, where the system tells: a scheduler may have left it fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_parallel(
    tasks: Iterable[tuple[Entry | Reject, Path]], rules: PictureRules, num_processes: int
) -> Iterator[Prepared | Reject]:
    """A few pictures for each process are on their way at a time, so that a source need not fit in memory."""
    pending: deque[Future[Prepared | Reject]] = deque()
    with ProcessPoolExecutor(num_processes, get_context("spawn"), initializer=_follow_parent) as processes:
        for entry, path in tasks:
            pending.append(processes.submit(_prepare, entry, path, rules))
            if len(pending) > 8 * num_processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _follow_parent() -> None:
    """A killed stage must not leave its decoders behind."""
    parent = parent_process()
    assert parent is not None, "runs in a child only"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _prepare(entry: Entry | Reject, path: Path, rules: PictureRules) -> Prepared | Reject:
    """The picture of an entry saved at `path`, or why it is refused."""
    if isinstance(entry, Reject):
        return entry
    if isinstance(entry.picture, Drawing):
        drawn = draw_shinobi(entry.picture.index, seed=entry.picture.seed, size_px=rules.resolution_px)
        return _saved(drawn.image, path, name=entry.name, caption=drawn.caption, attributes=drawn.attributes)
    caption = clean_caption(entry.caption)
    if not caption:
        return Reject(name=entry.name, reason="no_caption", detail="its caption is empty or no text")
    try:
        image = read_picture(entry.picture, rules)
    except UnusablePictureError as error:
        return Reject(name=entry.name, reason=error.reason, detail=error.detail)
    return _saved(image, path, name=entry.name, caption=caption, attributes=entry.attributes)


def _saved(image: Image.Image, path: Path, *, name: str, caption: str, attributes: dict[str, str]) -> Prepared:
    image.save(path)
    print_ = fingerprint(image)
    return Prepared(name=name, path=path, caption=caption, attributes=attributes, fingerprint=print_)


# --- from pictures to a data set ---


def _rows(kept: Sequence[Prepared], params: Ingest) -> list[_Row]:
    """The rows of metadata.jsonl, all with the same columns."""
    columns = {column: "" for each in kept for column in each.attributes if column not in _RESERVED}
    splits = assign_splits([each.fingerprint.content for each in kept], params)
    return [
        {
            "file_name": f"images/{each.path.name}",
            "text": each.caption,
            "split": split,
            "source": each.name,
            **{column: each.attributes.get(column, "") for column in columns},
        }
        for each, split in zip(kept, splits, strict=True)
    ]


def assign_splits(contents: Sequence[str], params: Ingest) -> list[Split]:
    """A split for each picture by its own content and the seed: pictures that come later change no earlier one's.

    The fractions therefore hold on average; a split that stays empty gets the picture that comes nearest to it.
    """
    draws = [_uniform(content, seed=params.seed) for content in contents]
    held_out = params.test_fraction + params.validation_fraction
    splits: list[Split] = [
        "test" if draw < params.test_fraction else "validation" if draw < held_out else "train" for draw in draws
    ]
    wanted: tuple[Split, ...] = ("test", "validation", "train")
    for split in wanted:
        if split not in splits:
            spare = [index for index, each in enumerate(splits) if splits.count(each) > 1]
            pick = max if split == "train" else min
            splits[pick(spare, key=draws.__getitem__)] = split
    return splits


def _uniform(content: str, *, seed: int) -> float:
    digest = hashlib.sha256(f"{seed} {content}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


# --- the account ---


def _reject_rows(outcome: _Outcome) -> list[_Row]:
    """One row for each entry that is not in the data set, in the source's order."""
    rows: dict[int, _Row] = {}
    for position, entry in enumerate(outcome.entries):
        if isinstance(entry, Reject):
            rows[position] = {"file": entry.name, "reason": entry.reason, "detail": entry.detail}
    for each in outcome.duplicates:
        copy, original = _prepared_at(outcome, each.position).name, _prepared_at(outcome, each.original).name
        rows[each.position] = {"file": copy, "reason": each.kind, "detail": f"the same picture as {original}"}
    return [rows[position] for position in sorted(rows)]


def _write_rows(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    atomic_write_bytes(path, text.encode("utf-8", "replace"))


def _check_enough(outcome: _Outcome, params: Ingest, rejects_path: Path) -> None:
    num_rejected, num_entries = len(outcome.rejects), len(outcome.entries)
    reasons = Counter(reject.reason for reject in outcome.rejects).most_common(3)
    worst = ", ".join(f"{reason} ({count})" for reason, count in reasons)
    if num_rejected > params.max_rejected * num_entries:
        raise StageError(
            f"ingest.max_rejected: {num_rejected} of {num_entries} entries ({num_rejected / num_entries:.3g}) were "
            f"rejected, above {params.max_rejected:g}; most were {worst}; {rejects_path} names each: mend them, or "
            f"raise ingest.max_rejected"
        )
    if len(outcome.kept) < len(get_args(Split)):
        raise StageError(
            f"{named_source(params)} leaves {len(outcome.kept)} pictures, too few to train, validate and test "
            f"on; {rejects_path} names what was refused"
        )


def _metrics(outcome: _Outcome, rows: Sequence[_Row], tokens: TokenCounts) -> dict[str, float | int]:
    reasons = Counter(reject.reason for reject in outcome.rejects)
    kinds = Counter(each.kind for each in outcome.duplicates)
    splits = Counter(row["split"] for row in rows)
    return {
        "entries": len(outcome.entries),
        "kept": len(rows),
        "rejected": len(outcome.rejects),
        **{f"rejected.{reason}": reasons[reason] for reason in get_args(Reason)},
        "duplicates": len(outcome.duplicates),
        "duplicates.exact": kinds["duplicate"],
        "duplicates.near": kinds["near_duplicate"],
        **{split: splits[split] for split in get_args(Split)},
        "tokens.mean": tokens.mean,
        "tokens.max": tokens.max,
        "captions.truncated": tokens.num_truncated,
    }
