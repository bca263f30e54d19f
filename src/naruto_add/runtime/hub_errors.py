"""Errors of hub clients as messages that say what is wrong and what to do, which the clients' own texts do not."""

from collections.abc import Iterator

_MAX_CAUSES = 20


def refusal(error: BaseException, *, key: str, repository: str, revision: str) -> str:
    """The message about a repository that the hub refuses: gated, unknown or private, or without this revision.

    `key` is the parameter that names the repository. Empty for any other error, such as a hub out of reach.
    """
    from huggingface_hub import constants, errors  # slow to import, and needed only for hub repositories

    for cause in _causes(error):
        match cause:
            case errors.GatedRepoError():
                return (
                    f"{key}: {repository!r} is gated: accept its licence on its page "
                    f"({constants.ENDPOINT}/{repository}), then log in on this machine with `hf auth login`"
                )
            case errors.RepositoryNotFoundError():
                return (
                    f"{key}: the hub has no repository {repository!r} that you may read; correct the name, or, if it "
                    "is private, log in with `hf auth login`"
                )
            case errors.RevisionNotFoundError():
                return (
                    f"{key}: {repository!r} has no revision {revision!r}; take a commit from its page "
                    f"({constants.ENDPOINT}/{repository}/commits/main)"
                )
    return ""


def unreachable(*, key: str, repository: str, revision: str) -> str:
    """The message about a repository that is neither in the hub's cache nor within reach."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return (
        f"{key}: {repository!r} at revision {revision!r} is not in the hub's cache ({HF_HUB_CACHE}), and the hub "
        "cannot be reached; connect to it (and unset HF_HUB_OFFLINE), or run "
        f"`hf download {repository} --revision {revision}` on a machine that can, and copy that cache here"
    )


def is_unreachable(error: BaseException) -> bool:
    """Whether the error means that the hub cannot be reached and its cache lacks a file."""
    from huggingface_hub import errors

    kinds = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError)
    return any(isinstance(cause, kinds) or type(cause).__name__ == "ConnectError" for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__
