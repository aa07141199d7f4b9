import pytest

from serving.model_config import VersionPolicy
from serving.versions import fingerprint, versions_on_disk, wanted_versions


def test_numeric_directories_are_versions(tmp_path):
    for name in ("1", "00000123", "0", "-1", "1.5", "v2", "٣", "99999999999999999999", ".waiting-4"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("a file")
    assert versions_on_disk(tmp_path) == {0: tmp_path / "0", 1: tmp_path / "1", 123: tmp_path / "00000123"}


def test_two_names_of_one_version_count_once(tmp_path):
    for name in ("5", "05"):
        (tmp_path / name).mkdir()
    assert versions_on_disk(tmp_path) == {5: tmp_path / "05"}


def test_a_missing_base_path_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        versions_on_disk(tmp_path / "none")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (VersionPolicy(), [9]),
        (VersionPolicy("latest", 2), [9, 4]),
        (VersionPolicy("latest", 10), [9, 4, 1]),
        (VersionPolicy("all"), [9, 4, 1]),
        (VersionPolicy("specific", versions=frozenset({1, 4, 7})), [4, 1]),
    ],
)
def test_policies(policy, expected):
    assert wanted_versions(policy, [4, 9, 1]) == expected
    assert wanted_versions(policy, []) == []


def test_the_fingerprint_changes_with_the_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("1")
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    (tmp_path / "a" / "b").write_text("12")
    after = fingerprint(tmp_path)
    assert after != before
    (tmp_path / "a" / "b").chmod(0o600)
    assert fingerprint(tmp_path) != after
    assert fingerprint(tmp_path / "none") == frozenset()
