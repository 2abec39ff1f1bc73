import json
import stat
from dataclasses import replace

import pytest

from betcore_async.demo.folder import MARK, RunTerms, chosen_folder, private_folder
from betcore_async.errors import ConfigError

TERMS = RunTerms(fingerprint="f" * 64, users=20, seed=1)


def refused(path, terms=TERMS):
    before = sorted(path.rglob("*")) if path.is_dir() else None
    with pytest.raises(ConfigError) as caught, chosen_folder(path, terms):
        pytest.fail("the folder was taken")
    assert before is None or sorted(path.rglob("*")) == before
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_private_folder_is_for_its_owner_alone_and_goes_away():
    with private_folder(TERMS, keep=False) as folder:
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder.path / MARK).stat().st_mode) == 0o600
        assert not folder.resumed
        folder.database.touch()
    assert not folder.path.exists()


def test_a_private_folder_goes_away_when_the_run_fails():
    with pytest.raises(KeyError), private_folder(TERMS, keep=False) as folder:
        raise KeyError
    assert not folder.path.exists()


def test_a_private_folder_can_be_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with private_folder(TERMS, keep=True) as folder:
        pass
    assert (folder.path / MARK).exists()
    assert folder.path.parent == tmp_path


def test_a_new_folder_is_made_private(tmp_path):
    with chosen_folder(tmp_path / "a" / "b", TERMS) as folder:
        assert not folder.resumed
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_an_empty_folder_is_taken(tmp_path):
    with chosen_folder(tmp_path, TERMS) as folder:
        assert folder.path == tmp_path


def test_an_interrupted_run_is_gone_on_with_under_its_name(tmp_path):
    with chosen_folder(tmp_path, TERMS) as first:
        pass
    with chosen_folder(tmp_path, TERMS) as second:
        assert second.resumed
        assert second.run == first.run


@pytest.mark.parametrize(
    ("change", "text"),
    [({"fingerprint": "0"}, "another feed"), ({"users": 5}, "20 users"), ({"seed": 9}, "seed 1")],
)
def test_an_interrupted_run_with_other_terms_is_refused(tmp_path, change, text):
    with chosen_folder(tmp_path, TERMS):
        pass
    assert text in refused(tmp_path, replace(TERMS, **change))


def test_a_finished_run_is_refused(tmp_path):
    with chosen_folder(tmp_path, TERMS) as folder:
        folder.finish()
    assert "came to its end" in refused(tmp_path)


def test_a_folder_of_something_else_is_refused_and_named(tmp_path):
    (tmp_path / "thesis.odt").write_text("years of work")
    assert "thesis.odt" in refused(tmp_path)


def test_a_folder_in_use_is_refused(tmp_path):
    with chosen_folder(tmp_path, TERMS):
        assert "in use" in refused(tmp_path)


def test_a_mark_that_cannot_be_read_is_refused(tmp_path):
    for text in ("", "[]", "{}", json.dumps({"format": 1, "terms": {"users": 1}, "run": "x", "finished": False})):
        (tmp_path / MARK).write_text(text)
        assert "cannot be read" in refused(tmp_path)


def test_a_mark_of_another_version_is_refused(tmp_path):
    with chosen_folder(tmp_path, TERMS):
        pass
    facts = json.loads((tmp_path / MARK).read_text())
    (tmp_path / MARK).write_text(json.dumps(facts | {"format": 2}))
    assert "another version" in refused(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    assert "cannot be used" in refused(tmp_path / "file")
