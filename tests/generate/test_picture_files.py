"""Names of drawn pictures are plain, whatever the prompt."""

import pytest

from naruto_add.generate.picture_files import slug


@pytest.mark.parametrize(
    ("text", "name"),
    [("A man, élève!", "a-man-eleve"), ("../../etc", "etc"), ("火影", "picture"), ("x" * 300, "x" * 60)],
)
def test_names_of_files_are_plain(text: str, name: str) -> None:
    assert slug(text) == name
