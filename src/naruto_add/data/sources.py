"""Where captioned pictures come from: one stream of entries, whatever holds them."""

from naruto_add.data.entries import Drawing, Entry, Source
from naruto_add.data.folder import open_folder
from naruto_add.data.records import open_hub, open_parquet
from naruto_add.params import Ingest
from naruto_add.runtime import StageError


def open_source(params: Ingest) -> Source:
    """The source that the parameters name. Raises StageError where it cannot be read as a whole."""
    try:
        source = _opened(params)
    except OSError as error:
        raise StageError(f"{named_source(params)} cannot be read: {error}") from error
    if not source.num_entries:
        raise StageError(f"{named_source(params)} holds no pictures")
    return source


def named_source(params: Ingest) -> str:
    """The parameter that says where the pictures come from, with its value, as error messages begin."""
    match params.source:
        case "shinobi":
            return f"ingest.num_drawings: {params.num_drawings}"
        case "folder" | "parquet":
            return f"ingest.path: {params.path!r}"
        case "hub":
            return f"ingest.hub_dataset: {params.hub_dataset!r}"


def _opened(params: Ingest) -> Source:
    match params.source:
        case "shinobi":
            return _shinobi(params)
        case "folder":
            return open_folder(params)
        case "parquet":
            return open_parquet(params)
        case "hub":
            return open_hub(params)


def _shinobi(params: Ingest) -> Source:
    numbers = range(params.num_drawings)
    entries = (Entry(name=f"shinobi {i}", picture=Drawing(index=i, seed=params.seed)) for i in numbers)
    return Source(num_entries=params.num_drawings, entries=entries)
