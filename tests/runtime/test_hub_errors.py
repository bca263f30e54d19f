"""Errors of the hub's client, as it makes them from a hub's answer, and what they tell the user."""

import httpx2
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import hf_raise_for_status

from naruto_add.runtime.errors import StageError
from naruto_add.runtime.hub_errors import is_unreachable, refusal, unreachable

WHERE = {"key": "base.model", "repository": "owner/name", "revision": "abc"}


def _error(status: int, code: str) -> BaseException:
    """The error that the client raises for this answer, as diffusers and the loading code wrap it."""
    request = httpx2.Request("GET", "http://127.0.0.1/api/models/owner/name")
    try:
        hf_raise_for_status(httpx2.Response(status, headers={"X-Error-Code": code}, request=request))
    except Exception as cause:  # noqa: BLE001
        wrapped = OSError("outgoing traffic has been disabled")
        wrapped.__cause__ = cause
        error = StageError("base.model: cannot be loaded")
        error.__cause__ = wrapped
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (
            401,
            "GatedRepo",
            r"'owner/name' is gated: accept its licence on its page .*/owner/name\), .* `hf auth login`",
        ),
        (403, "GatedRepo", r"'owner/name' is gated"),
        (404, "RepoNotFound", r"no repository 'owner/name' that you may read; correct the name, .* `hf auth login`"),
        (404, "RevisionNotFound", r"'owner/name' has no revision 'abc'; take a commit from its page"),
    ],
)
def test_a_refusal_says_what_to_do(status: int, code: str, message: str) -> None:
    with pytest.raises(StageError, match=f"^base.model: .*{message}"):
        raise StageError(refusal(_error(status, code), **WHERE))
    assert not is_unreachable(_error(status, code))


@pytest.mark.parametrize("cause", [OfflineModeIsEnabled("x"), LocalEntryNotFoundError("x"), httpx2.ConnectError("x")])
def test_a_hub_out_of_reach_is_no_refusal(cause: Exception) -> None:
    error = OSError("wrapped")
    error.__context__ = cause
    assert is_unreachable(error) and refusal(error, **WHERE) == ""
    assert "`hf download owner/name --revision abc`" in unreachable(**WHERE)


def test_other_errors_are_neither() -> None:
    assert not is_unreachable(OSError("no file named x")) and refusal(OSError("no file named x"), **WHERE) == ""
