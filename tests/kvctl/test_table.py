"""Tables."""

from __future__ import annotations

from kvctl import table


def test_headings_are_centred_and_cells_stand_to_the_right() -> None:
    assert table.render(["id", "is learner"], [["abcdef", "no"], ["1", "yes"]]) == (
        "+--------+------------+\n"
        "|   ID   | IS LEARNER |\n"
        "+--------+------------+\n"
        "| abcdef |         no |\n"
        "|      1 |        yes |\n"
        "+--------+------------+\n"
    )


def test_a_long_cell_is_wrapped_between_words() -> None:
    assert table.render(["e", "errors"], [["a", "memberID:7026481039975517645 alarm:NOSPACE "]]) == (
        "+---+------------------------------+\n"
        "| E |            ERRORS            |\n"
        "+---+------------------------------+\n"
        "| a | memberID:7026481039975517645 |\n"
        "|   |                alarm:NOSPACE |\n"
        "+---+------------------------------+\n"
    )


def test_wide_characters_take_two_columns() -> None:
    lines = table.render(["name"], [["日本"], ["x"]]).splitlines()
    assert lines[3] == "| 日本 |"
    assert lines[4] == "|    x |"


def test_a_table_without_rows_is_its_heading() -> None:
    assert table.render(["a"], []) == "+---+\n| A |\n+---+\n"
