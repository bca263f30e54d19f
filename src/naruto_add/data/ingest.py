"""`run_ingest`: any source of captioned pictures as one clean, split data set, with an account of what was rejected."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from naruto_add.config.schema import Ingest
from naruto_add.data.captions import TokenCounts, count_tokens
from naruto_add.data.dataset import Split
from naruto_add.data.duplicates import Duplicate, find_duplicates
from naruto_add.data.entries import Reject, Source
from naruto_add.data.images import PictureRules, Reason
from naruto_add.data.prepare import Prepared, prepare_pictures, usable_processes
from naruto_add.data.sheet import draw_sheet
from naruto_add.data.sources import open_source, source_parameter
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import atomic_write_bytes, new_folder, write_json
from naruto_add.runtime.progress import progress

_RESERVED_COLUMNS = ("file_name", "text", "split", "source", "image")
"""The columns that we write, and `image`, which the datasets library adds."""
_Row = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What became of each entry, in the source's order."""

    entries: list[Prepared | Reject]
    duplicates: list[Duplicate]

    @property
    def rejects(self) -> list[Reject]:
        return [entry for entry in self.entries if isinstance(entry, Reject)]

    @property
    def kept(self) -> list[Prepared]:
        repeated = {each.position for each in self.duplicates}
        numbered = enumerate(self.entries)
        return [entry for position, entry in numbered if isinstance(entry, Prepared) and position not in repeated]

    def prepared(self, position: int) -> Prepared:
        entry = self.entries[position]
        assert isinstance(entry, Prepared), entry
        return entry


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
    """Writes the data set, a line for each rejected entry, the counts and a contact sheet.

    `dataset_dir` holds images/*.png, metadata.jsonl and source.json, which says where the pictures come from. The base
    model's tokenizer counts the captions' tokens. Raises StageError if the source cannot be read as a whole, if the
    fraction of rejected entries exceeds `ingest.max_rejected`, or if too few pictures are left for three splits.
    """
    source = open_source(params)
    with new_folder(dataset_dir) as folder:
        outcome = _prepare(source, params, resolution_px=resolution_px, folder=folder / "images")
        _write_rows(rejects_path, _reject_rows(outcome))
        _check_outcome(outcome, params, rejects_path)
        rows = _rows(outcome.kept, params)
        _write_rows(folder / "metadata.jsonl", rows)
        write_json(folder / "source.json", {"source": params.source, "hub_dataset": params.hub_dataset})
        tokens = count_tokens([row["text"] for row in rows], base_model, base_revision)
        metrics = _metrics(outcome, rows, tokens)
        draw_sheet(folder, rows, sheet_path=sheet_path)
    write_json(metrics_path, metrics)


# --- from entries to pictures ---


def _prepare(source: Source, params: Ingest, *, resolution_px: int, folder: Path) -> _Outcome:
    """Save all usable pictures in `folder`, then delete the duplicates."""
    folder.mkdir()
    rules = PictureRules(
        resolution_px=resolution_px,
        min_side_px=params.min_side_px,
        max_megapixels=params.max_megapixels,
        crop=params.crop,
    )
    num_processes = usable_processes(source.num_entries)
    prepared = prepare_pictures(source, rules=rules, folder=folder, num_processes=num_processes)
    entries = list(progress(prepared, desc="ingest", total=source.num_entries))
    outcome = _Outcome(entries=entries, duplicates=_duplicates(entries, distance=params.duplicate_distance))
    for duplicate in outcome.duplicates:
        outcome.prepared(duplicate.position).path.unlink()
    return outcome


def _duplicates(entries: Sequence[Prepared | Reject], *, distance: int) -> list[Duplicate]:
    """The duplicates by their positions among the entries."""
    numbered = [(position, entry) for position, entry in enumerate(entries) if isinstance(entry, Prepared)]
    found = find_duplicates([entry.fingerprint for _, entry in numbered], distance=distance)
    return [
        Duplicate(position=numbered[each.position][0], original=numbered[each.original][0], kind=each.kind)
        for each in found
    ]


# --- from pictures to a data set ---


def _rows(kept: Sequence[Prepared], params: Ingest) -> list[_Row]:
    """The rows of metadata.jsonl, all with the same columns."""
    columns = {column: "" for each in kept for column in each.attributes if column not in _RESERVED_COLUMNS}
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
    """A split for each picture, drawn from its content hash and `ingest.seed`: added pictures do not move earlier ones.

    The fractions hold on average. An empty split receives the picture whose draw is nearest to it.
    """
    draws = [_uniform(content, seed=params.seed) for content in contents]
    splits = [_split(draw, params) for draw in draws]
    in_order_of_need: tuple[Split, ...] = ("test", "validation", "train")
    for split in in_order_of_need:
        if split not in splits:
            spare = [index for index, each in enumerate(splits) if splits.count(each) > 1]
            nearest = max if split == "train" else min
            splits[nearest(spare, key=draws.__getitem__)] = split
    return splits


def _split(draw: float, params: Ingest) -> Split:
    if draw < params.test_fraction:
        return "test"
    return "validation" if draw < params.test_fraction + params.validation_fraction else "train"


def _uniform(content: str, *, seed: int) -> float:
    digest = hashlib.sha256(f"{seed} {content}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


# --- the account ---


def _reject_rows(outcome: _Outcome) -> list[_Row]:
    """A row for each entry that is not in the data set, in the source's order."""
    rows: dict[int, _Row] = {}
    for position, entry in enumerate(outcome.entries):
        if isinstance(entry, Reject):
            rows[position] = {"file": entry.name, "reason": entry.reason, "detail": entry.detail}
    for each in outcome.duplicates:
        copy, original = outcome.prepared(each.position).name, outcome.prepared(each.original).name
        rows[each.position] = {"file": copy, "reason": each.kind, "detail": f"the same picture as {original}"}
    return [rows[position] for position in sorted(rows)]


def _write_rows(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    atomic_write_bytes(path, text.encode("utf-8", "replace"))


def _check_outcome(outcome: _Outcome, params: Ingest, rejects_path: Path) -> None:
    num_rejected, num_entries = len(outcome.rejects), len(outcome.entries)
    if num_rejected > params.max_rejected * num_entries:
        reasons = Counter(reject.reason for reject in outcome.rejects).most_common(3)
        raise StageError(
            f"ingest.max_rejected: {num_rejected} of {num_entries} entries ({num_rejected / num_entries:.3g}) were "
            f"rejected, above {params.max_rejected:g}, mostly as "
            f"{', '.join(f'{reason} ({count})' for reason, count in reasons)}; repair or remove the entries listed in "
            f"{rejects_path}, or raise ingest.max_rejected"
        )
    num_splits = len(get_args(Split))
    if len(outcome.kept) < num_splits:
        raise StageError(
            f"{source_parameter(params)} has too few different pictures ({len(outcome.kept)}; the splits need at least "
            f"{num_splits}); add pictures; {rejects_path} lists those that were rejected"
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
