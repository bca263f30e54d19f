"""Entries to pictures of the data set: decoded, cropped, scaled and saved, by several processes if that saves time."""

import math
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path

from PIL import Image

from naruto_add.data.buckets import nearest_bucket
from naruto_add.data.captions import clean_captions
from naruto_add.data.duplicates import Fingerprint, fingerprint
from naruto_add.data.entries import Entry, Reject, ShinobiId, Source, Split
from naruto_add.data.images import PictureRules, UnusablePictureError, fit_picture, read_whole
from naruto_add.data.shinobi.draw import draw_shinobi

_ENTRIES_PER_PROCESS = 128
"""With fewer, starting another process takes longer than it saves."""
_MAX_PENDING_PER_PROCESS = 8
BUCKETS = "buckets"
"""The folder of pictures in their aspect buckets."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A saved picture with its captions, at least one, and the split that its source gives it, if any.

    `bucket_path` is the picture in its aspect bucket; None if that is the square at `path`.
    """

    name: str
    path: Path
    bucket_path: Path | None
    captions: tuple[str, ...]
    attributes: dict[str, str]
    split: Split | None
    fingerprint: Fingerprint


def usable_processes(num_entries: int) -> int:
    """How many processes shorten the work on so many entries."""
    return min(_usable_cpus(), math.ceil(num_entries / _ENTRIES_PER_PROCESS))


def prepare_pictures(
    source: Source, *, rules: PictureRules, folder: Path, num_processes: int
) -> Iterator[Prepared | Reject]:
    """Each entry's saved picture, `folder`/{position}.png, or why it is rejected, in the source's order.

    A picture whose aspect bucket is not the square is saved in the folder BUCKETS beside `folder` too.
    """
    tasks = ((entry, folder / f"{index:05d}.png") for index, entry in enumerate(source.entries))
    if num_processes == 1:
        return (_prepare(entry, path, rules) for entry, path in tasks)
    return _prepare_in_parallel(tasks, rules, num_processes)


def _usable_cpus() -> int:
    """The processors that this process may run on, which a scheduler may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare_in_parallel(
    tasks: Iterable[tuple[Entry | Reject, Path]], rules: PictureRules, num_processes: int
) -> Iterator[Prepared | Reject]:
    """Only a few entries per process are pending at a time, so that the source need not fit in memory."""
    pending: deque[Future[Prepared | Reject]] = deque()
    with ProcessPoolExecutor(num_processes, get_context("spawn"), initializer=_exit_with_parent) as processes:
        for entry, path in tasks:
            pending.append(processes.submit(_prepare, entry, path, rules))
            if len(pending) > _MAX_PENDING_PER_PROCESS * num_processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _exit_with_parent() -> None:
    """End this process when the stage is killed."""
    parent = parent_process()
    assert parent is not None, "runs only in a child process"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _prepare(entry: Entry | Reject, path: Path, rules: PictureRules) -> Prepared | Reject:
    if isinstance(entry, Reject):
        return entry
    if isinstance(entry.picture, ShinobiId):
        drawn = draw_shinobi(entry.picture.index, seed=entry.picture.seed, size_px=rules.resolution_px)
        return _save(drawn.image, path, entry=replace(entry, attributes=drawn.attributes), captions=(drawn.caption,))
    captions = clean_captions(entry.captions)
    if not captions:
        detail = "its caption is empty, shows nothing, or is not a string"
        return Reject(name=entry.name, reason="no_caption", detail=detail)
    try:
        whole = read_whole(entry.picture, rules)
    except UnusablePictureError as error:
        return Reject(name=entry.name, reason=error.reason, detail=error.detail)
    square = fit_picture(whole, (rules.resolution_px, rules.resolution_px), crop=rules.crop)
    prepared = _save(square, path, entry=entry, captions=captions)
    bucket = nearest_bucket(whole.size, rules.buckets) if rules.buckets else square.size
    if bucket == square.size:
        return prepared
    bucket_path = path.parent.with_name(BUCKETS) / path.name
    bucket_path.parent.mkdir(exist_ok=True)
    fit_picture(whole, bucket, crop=rules.crop).save(bucket_path, icc_profile=None)
    return replace(prepared, bucket_path=bucket_path)


def _save(image: Image.Image, path: Path, *, entry: Entry, captions: tuple[str, ...]) -> Prepared:
    image.save(path, icc_profile=None)  # a converted picture has a profile that contains the time of its conversion
    return Prepared(
        name=entry.name,
        path=path,
        bucket_path=None,
        captions=captions,
        attributes=entry.attributes,
        split=entry.split,
        fingerprint=fingerprint(image),
    )
