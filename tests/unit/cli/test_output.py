import re

import pytest

from betcore_async.cli.output import print_table

COLUMNS = ("Week", "State", "Users", "Bets", "Place")
ROWS = [("2026-W52", "sealed", "1,000", "50,000", "data/bets-2026-W52.db")]


def shown(width, monkeypatch, capsys):
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": str(width), "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    print_table(COLUMNS, ROWS)
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


@pytest.mark.parametrize("width", range(20, 100, 10))
def test_no_terminal_is_so_narrow_that_short_cells_are_broken(width, monkeypatch, capsys):
    text = shown(width, monkeypatch, capsys)
    assert [cell for cell in (*COLUMNS, *ROWS[0][:-1]) if cell not in text] == []


def test_a_terminal_that_is_wide_enough_for_short_cells_wraps_long_ones(monkeypatch, capsys):
    text = shown(60, monkeypatch, capsys)
    assert max(map(len, text.splitlines())) <= 60
    assert ROWS[0][-1] not in text
