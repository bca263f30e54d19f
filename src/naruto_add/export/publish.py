"""Upload of an exported folder, with all its formats and its card, to a hub by huggingface_hub."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from naruto_add.runtime.errors import StageError

CARD = "README.md"
LORA = "lora"
"""Sub-folder of an export with the teacher's LoRA."""


@dataclass(frozen=True)
class Upload:
    """A file of the folder, and its size."""

    path: str
    size_bytes: int


def uploads(folder: Path) -> list[Upload]:
    """What `publish_folder` uploads. Raises StageError for a folder without a card, which no export wrote."""
    if folder.name == LORA and (folder.parent / CARD).is_file() and not (folder / CARD).is_file():
        raise StageError(
            f"--lora: {folder.parent} is an export without a LoRA; add lora to export.formats and run "
            "`dvc repro export`, or leave --lora out"
        )
    if not (folder / CARD).is_file():
        raise StageError(f"--folder: {folder} has no {CARD}, so it is not an export; run `dvc repro export`")
    return list(_files(folder))


def publish_folder(folder: Path, repository: str, *, private: bool) -> str:
    """Create the repository if it does not exist, upload the folder in one commit, and return the commit's address.

    A repository that exists keeps its visibility and its other files. Raises StageError if there is no token, or if the
    hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise StageError(
            "publish: this machine has no access token of the hub; create one with write access in your "
            "account's settings, then run `hf auth login`, or set HF_TOKEN. `--dry-run` needs none"
        )
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Upload of a model by naruto-add"
        )
    except Exception as error:  # the errors of its HTTP client differ between versions of huggingface_hub
        reason = str(error).strip().partition("\n")[0]
        raise StageError(
            f"{repository}: the upload failed: {reason}; check the token's write access, the name and the network, "
            "then run the command again, which uploads only what is missing"
        ) from error
    return str(commit.commit_url)


def check_repository(repository: str) -> None:
    """Raise StageError unless this is OWNER/NAME as the hub allows."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
        is_valid = repository.count("/") == 1
    except HFValidationError:
        is_valid = False
    if not is_valid:
        raise StageError(f"OWNER/NAME: {repository!r} is not a repository of a hub; write for example me/my-model")


def _files(folder: Path) -> Iterator[Upload]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield Upload(path.relative_to(folder).as_posix(), path.stat().st_size)
