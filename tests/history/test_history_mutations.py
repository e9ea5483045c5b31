"""The list of mutations fits the checker as it is, and trying one tells whether the tests notice it."""

from __future__ import annotations

import pytest

from tests.history.mutations.__main__ import main
from tests.history.mutations.catalogue import CATALOGUE
from tests.history.mutations.runner import ROOT, SUITE, examine
from tests.raft.mutations.mutation import Mutation, MutationError

_BY_ID = {mutation.id: mutation for mutation in CATALOGUE}


@pytest.mark.parametrize("mutation", CATALOGUE, ids=lambda mutation: mutation.id)
def test_a_mutation_changes_the_checker_at_exactly_one_place(mutation: Mutation) -> None:
    source = (ROOT / mutation.file).read_text()
    assert mutation.mutated(source) != source


def test_every_mutation_has_a_name_of_its_own() -> None:
    assert len(_BY_ID) == len(CATALOGUE)


def test_a_mutation_is_caught_by_the_test_of_its_rule() -> None:
    suite = ("test_history_edges.py",)
    test = examine(_BY_ID["a-lease-may-be-revoked-twice"], suite)
    assert test == "tests/history/test_history_edges.py::test_a_lease_is_revoked_once"


def test_a_mutation_that_leaves_nothing_to_run_is_an_error_and_not_caught() -> None:
    broken = Mutation("broken", "tests/history/search.py", "class Search(", "class Seek(", "", "")
    with pytest.raises(MutationError, match="cannot run"):
        examine(broken, ("test_history_search.py",))


def test_the_suite_names_tests_that_are_there() -> None:
    assert all((ROOT / "tests/history" / name).is_file() for name in SUITE)


def test_a_name_that_is_not_in_the_list_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "no-such-mutation"]) == 2
    assert capsys.readouterr().err == "no such mutation: no-such-mutation\n"
