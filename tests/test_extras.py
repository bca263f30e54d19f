"""Tests that need other packages are skipped without them, but fail where `make test-extras` installs the packages."""

import re
from pathlib import Path

import pytest

from tests.extras import need_packages

ROOT = Path(__file__).parent.parent


def test_a_missing_package_is_a_failure_only_where_packages_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_EXTRAS", raising=False)
    with pytest.raises(pytest.skip.Exception):
        need_packages("json", "no_such_package")
    monkeypatch.setenv("TEST_EXTRAS", "1")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        need_packages("json", "no_such_package")
    assert [module.__name__ for module in need_packages("json", "re")] == ["json", "re"]


@pytest.mark.parametrize("lock", ["base/requirements.lock", "tests/requirements.lock"])
def test_the_other_locks_add_to_the_projects_packages(lock: str) -> None:
    """So that what is tested there is what runs here."""
    assert _packages("requirements.lock") < _packages(lock)


def _packages(lock: str) -> set[str]:
    """The packages in a lock file, as `name==version`."""
    return set(re.findall(r"^[\w.-]+==[^ ]+", (ROOT / lock).read_text(encoding="utf-8"), flags=re.MULTILINE))
