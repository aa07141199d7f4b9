"""serving/CONTRACT.md names a test for each behaviour, and each of them exists."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TABLE = TESTS.parents[1] / "serving" / "CONTRACT.md"
NAMED = re.compile(r"`([\w./]+\.py)::(\w+)(?:\[([^\]]+)\])?`")


def rows():
    """(behaviour, what stands in the column of tests) of each row."""
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells != ["Behaviour", "Test"] and set("".join(cells)) != {"-"}:
            yield cells


ROWS = list(rows())


def test_the_table_is_there():
    assert len(ROWS) > 150
    assert all(len(row) == 2 for row in ROWS), "a cell with a bar in it must escape it"
    assert len({behaviour for behaviour, _ in ROWS}) > 0.9 * len(ROWS)


def mistakes(behaviour, tests):
    """What is wrong with a row."""
    named = NAMED.findall(tests)
    if not named or NAMED.sub("", tests).strip(", "):
        yield f"{behaviour}: no test, or more than tests, in {tests!r}"
    for path, name, case in named:
        file = TESTS / path
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if not re.search(rf"^(?:async )?def {name}\(", text, re.MULTILINE):
            yield f"{behaviour}: {path} has no test {name}"
        elif case and f'"{case}"' not in text:
            yield f"{behaviour}: {path} has no case {case}"


def test_each_behaviour_has_tests_that_exist():
    assert not [mistake for row in ROWS for mistake in mistakes(*row)]


@pytest.mark.parametrize(
    ("tests", "text"),
    [
        ("none", "x: no test, or more than tests, in 'none'"),
        ("`test_no.py::test_x`", "x: test_no.py has no test test_x"),
        ("`test_errors.py::test_x`", "x: test_errors.py has no test test_x"),
        ("`test_errors.py::test_the_limit_itself_is_not_cut[no]`", "x: test_errors.py has no case no"),
    ],
)
def test_a_slip_would_be_found(tests, text):
    assert list(mistakes("x", tests)) == [text]
