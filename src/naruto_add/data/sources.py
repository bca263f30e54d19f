"""The source of captioned pictures that `ingest.source` names, as one stream of entries."""

from naruto_add.config.schema import Ingest
from naruto_add.data.entries import Entry, ShinobiId, Source
from naruto_add.data.folder import open_folder
from naruto_add.data.records import open_hub, open_parquet
from naruto_add.runtime.errors import StageError


def open_source(params: Ingest) -> Source:
    """The source. Raises StageError if it is empty or cannot be read as a whole."""
    try:
        source = _open(params)
    except OSError as error:
        raise StageError(f"{source_parameter(params)} cannot be read: {error}") from error
    if not source.num_entries:
        raise StageError(f"{source_parameter(params)} holds no pictures; name a source that does")
    return source


def source_parameter(params: Ingest) -> str:
    """The parameter that says where the pictures come from, with its value: the start of an error message."""
    match params.source:
        case "shinobi":
            return f"ingest.num_drawings: {params.num_drawings}"
        case "folder" | "parquet":
            return f"ingest.path: {params.path!r}"
        case "hub":
            return f"ingest.hub_dataset: {params.hub_dataset!r}"


def _open(params: Ingest) -> Source:
    match params.source:
        case "shinobi":
            return _open_shinobi(params)
        case "folder":
            return open_folder(params)
        case "parquet":
            return open_parquet(params)
        case "hub":
            return open_hub(params)


def _open_shinobi(params: Ingest) -> Source:
    numbers = range(params.num_drawings)
    entries = (Entry(name=f"shinobi {i}", picture=ShinobiId(index=i, seed=params.seed)) for i in numbers)
    return Source(num_entries=params.num_drawings, entries=entries)
