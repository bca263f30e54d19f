"""`run_ingest`: any source of captioned pictures as one clean, split data set, with a list of what was rejected."""

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from naruto_add.config.schema import Ingest
from naruto_add.data.captions import TokenCounts, count_tokens
from naruto_add.data.dataset import BUCKET_FILE, FURTHER_CAPTIONS, MIN_PICTURES
from naruto_add.data.duplicates import Duplicate, find_duplicates
from naruto_add.data.entries import Reject, Source, Split
from naruto_add.data.images import PictureRules, Reason, Size
from naruto_add.data.prepare import BUCKETS, Prepared, prepare_pictures, usable_processes
from naruto_add.data.sheet import draw_sheet
from naruto_add.data.sources import open_source, source_parameter
from naruto_add.runtime.errors import StageError, shown
from naruto_add.runtime.files import atomic_write_bytes, new_folder, write_json
from naruto_add.runtime.progress import progress

_RESERVED_COLUMNS = ("file_name", "text", "split", "source", "image", FURTHER_CAPTIONS, BUCKET_FILE)
"""The columns that we write, and `image`, which the datasets library adds."""
_CONTROLS = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that JSON may contain as they are, but that a terminal obeys."""
_MAX_NAMED = 5
"""Files that a note names; data/rejects.jsonl has the others."""
_Row = dict[str, Any]


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
    prompt_template: str,
    caption_chunks: int,
    resolution_px: int,
    buckets: tuple[Size, ...],
    dataset_dir: Path,
    rejects_path: Path,
    metrics_path: Path,
    sheet_path: Path,
) -> None:
    """Writes the data set, a line for each rejected entry, the counts and a contact sheet.

    `dataset_dir` holds images/*.png, metadata.jsonl and source.json, which says where the pictures come from, and
    truncated.jsonl if the base model's tokenizer, which counts the tokens of captions in `prompt_template`, cuts any of
    these prompts off. With `buckets`, sizes of pictures, it also holds the pictures that are nearest in aspect to a
    size that is not square.

    Raises StageError if the source cannot be read as a whole, if the fraction of rejected entries exceeds
    `ingest.max_rejected`, or if too few pictures are left for three splits.
    """
    source = open_source(params)
    with new_folder(dataset_dir) as folder:
        outcome = _prepare(source, params, resolution_px=resolution_px, buckets=buckets, folder=folder / "images")
        _write_rows(rejects_path, _reject_rows(outcome, ignored=source.ignored))
        _name_ignored(source.ignored)
        _check_outcome(outcome, params, rejects_path)
        rows = _rows(outcome.kept, params)
        _write_rows(folder / "metadata.jsonl", rows)
        write_json(folder / "source.json", {"source": params.source, "hub_dataset": params.hub_dataset})
        captions = [text for each in outcome.kept for text in each.captions]
        tokens = count_tokens(
            captions, base_model, base_revision, prompt_template=prompt_template, num_chunks=caption_chunks
        )
        if tokens.lost:
            _write_rows(folder / "truncated.jsonl", _truncated_rows(rows, tokens))
        metrics = _metrics(outcome, rows, tokens, params)
        draw_sheet(folder, rows, lost=tokens.lost, sheet_path=sheet_path)
    write_json(metrics_path, metrics)


# --- from entries to pictures ---


def _prepare(
    source: Source, params: Ingest, *, resolution_px: int, buckets: tuple[Size, ...], folder: Path
) -> _Outcome:
    """Save all usable pictures in `folder`, then delete the duplicates."""
    folder.mkdir()
    rules = PictureRules(
        resolution_px=resolution_px,
        min_side_px=params.min_side_px,
        max_megapixels=params.max_megapixels,
        crop=params.crop,
        buckets=buckets,
    )
    num_processes = usable_processes(source.num_entries)
    prepared = prepare_pictures(source, rules=rules, folder=folder, num_processes=num_processes)
    entries = list(progress(prepared, desc="ingest", total=source.num_entries))
    outcome = _Outcome(entries=entries, duplicates=_duplicates(entries, distance=params.duplicate_distance))
    for duplicate in outcome.duplicates:
        copy = outcome.prepared(duplicate.position)
        copy.path.unlink()
        if copy.bucket_path:
            copy.bucket_path.unlink()
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
    splits = assign_splits([each.fingerprint.content for each in kept], params, given=[each.split for each in kept])
    has_further = any(len(each.captions) > 1 for each in kept)
    has_buckets = any(each.bucket_path for each in kept)
    return [
        {
            "file_name": f"images/{each.path.name}",
            "text": each.captions[0],
            "split": split,
            "source": each.name,
            **{column: each.attributes.get(column, "") for column in columns},
            **({FURTHER_CAPTIONS: list(each.captions[1:])} if has_further else {}),
            **({BUCKET_FILE: f"{BUCKETS}/{each.bucket_path.name}" if each.bucket_path else ""} if has_buckets else {}),
        }
        for each, split in zip(kept, splits, strict=True)
    ]


def assign_splits(contents: Sequence[str], params: Ingest, *, given: Sequence[Split | None] = ()) -> list[Split]:
    """A split for each picture, drawn from its content hash and `ingest.seed`: added pictures do not move earlier ones.

    The fractions hold on average. A split that the source gives to any picture has those pictures alone; the others,
    and those given for training, are drawn for the other splits. A split below MIN_PICTURES receives the pictures whose
    draws are nearest to it, as far as the other splits can spare them.
    """
    given = given or [None] * len(contents)
    draws = [_uniform(content, seed=params.seed) for content in contents]
    held_out = {split for split in given if split not in (None, "train")}
    splits = [
        split if split in held_out else _split(draw, params, without=held_out)
        for draw, split in zip(draws, given, strict=True)
    ]
    for split in MIN_PICTURES:
        while splits.count(split) < MIN_PICTURES[split]:
            counts = Counter(splits)
            spare = [index for index, each in enumerate(splits) if each != split and counts[each] > MIN_PICTURES[each]]
            if not spare:
                break
            nearest = max if split == "train" else min
            splits[nearest(spare, key=draws.__getitem__)] = split
    return splits


def _split(draw: float, params: Ingest, *, without: AbstractSet[Split | None]) -> Split:
    if draw < params.test_fraction:
        return "train" if "test" in without else "test"
    is_validation = draw < params.test_fraction + params.validation_fraction and "validation" not in without
    return "validation" if is_validation else "train"


def _uniform(content: str, *, seed: int) -> float:
    digest = hashlib.sha256(f"{seed} {content}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


# --- lists of what was rejected or cut off ---


def _reject_rows(outcome: _Outcome, *, ignored: Sequence[str]) -> list[_Row]:
    """A row for each entry that is not in the data set, in the source's order, then for texts that are ignored."""
    rows: dict[int, _Row] = {}
    for position, entry in enumerate(outcome.entries):
        if isinstance(entry, Reject):
            rows[position] = {"file": entry.name, "reason": entry.reason, "detail": entry.detail}
    for each in outcome.duplicates:
        copy, original = outcome.prepared(each.position).name, outcome.prepared(each.original).name
        rows[each.position] = {"file": copy, "reason": each.kind, "detail": f"the same picture as {original}"}
    ignored_rows = [{"file": name, "reason": "ignored", "detail": "it belongs to no picture"} for name in ignored]
    return [*(rows[position] for position in sorted(rows)), *ignored_rows]


def _name_ignored(names: Sequence[str]) -> None:
    if names:
        some = ", ".join(map(shown, names[:_MAX_NAMED])) + (", ..." if len(names) > _MAX_NAMED else "")
        verb = "belongs to no picture and is" if len(names) == 1 else "belong to no picture and are"
        print(f"note: {some} {verb} ignored", file=sys.stderr)


def _truncated_rows(rows: Iterable[_Row], tokens: TokenCounts) -> list[_Row]:
    """A row for each caption of whose prompt the base model does not see the end."""
    captions = ((row, caption) for row in rows for caption in (row["text"], *row.get(FURTHER_CAPTIONS, ())))
    return [
        {"file_name": row["file_name"], "source": row["source"], "text": caption, "lost": tokens.lost[caption]}
        for row, caption in captions
        if caption in tokens.lost
    ]


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    text = "".join(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", line) + "\n" for line in lines)
    atomic_write_bytes(path, text.encode("utf-8", "backslashreplace"))  # parts of names that are not UTF-8: \udcff


def _check_outcome(outcome: _Outcome, params: Ingest, rejects_path: Path) -> None:
    num_rejected, num_entries = len(outcome.rejects), len(outcome.entries)
    if num_rejected > params.max_rejected * num_entries:
        reasons = Counter(reject.reason for reject in outcome.rejects).most_common(3)
        example = next(reject for reject in outcome.rejects if reject.reason == reasons[0][0])
        raise StageError(
            f"ingest.max_rejected: {num_rejected} of {num_entries} entries ({num_rejected / num_entries:.3g}) were "
            f"rejected, above {params.max_rejected:g}, mostly as "
            f"{', '.join(f'{reason} ({count})' for reason, count in reasons)}, the first being {example.name!r} "
            f"({example.detail}); repair or remove the entries listed in {rejects_path}, or raise ingest.max_rejected"
        )
    num_needed = sum(MIN_PICTURES.values())
    if len(outcome.kept) < num_needed:
        parts = ", ".join(f"{number} for {split}" for split, number in MIN_PICTURES.items())
        copies = f" and {len(outcome.duplicates)} copies" if outcome.duplicates else ""
        raise StageError(
            f"{source_parameter(params)} has too few different pictures ({len(outcome.kept)}{copies}); the stages need "
            f"at least {num_needed}: {parts}; add pictures; {rejects_path} lists copies and rejected pictures"
        )
    given = Counter(each.split for each in outcome.kept)
    if not (given[None] or given["train"]):
        splits = " and ".join(sorted(str(split) for split in given))
        raise StageError(
            f"{source_parameter(params)} gives all {len(outcome.kept)} pictures to {splits} by the names of folders or "
            "by a column split; give some to train, or rename the folder or the column"
        )


def _metrics(outcome: _Outcome, rows: Sequence[_Row], tokens: TokenCounts, params: Ingest) -> dict[str, float | int]:
    reasons = Counter(reject.reason for reject in outcome.rejects)
    kinds = Counter(each.kind for each in outcome.duplicates)
    splits = Counter(row["split"] for row in rows)
    kept = outcome.kept
    return {
        "entries": len(outcome.entries),
        "kept": len(rows),
        "rejected": len(outcome.rejects),
        **{f"rejected.{reason}": reasons[reason] for reason in get_args(Reason)},
        "duplicates": len(outcome.duplicates),
        "duplicates.exact": kinds["duplicate"],
        "duplicates.near": kinds["near_duplicate"],
        **{split: splits[split] for split in get_args(Split)},
        "splits.given": sum(each.split is not None for each in kept),
        "tokens.mean": tokens.mean,
        "tokens.max": tokens.max,
        **({"buckets.not_square": sum(each.bucket_path is not None for each in kept)} if params.aspect_buckets else {}),
        "captions.several": sum(len(each.captions) > 1 for each in kept),
        "captions.further": sum(len(each.captions) - 1 for each in kept),
        "captions.truncated": sum(caption in tokens.lost for each in kept for caption in each.captions),
    }
