"""The list of mutations fits the library as it is, and trying one tells whether the tests notice it."""

from __future__ import annotations

import pytest

from tests.raft.mutations.__main__ import main
from tests.raft.mutations.catalogue import CATALOGUE
from tests.raft.mutations.mutation import Mutation, MutationError
from tests.raft.mutations.runner import ROOT, Effort, Verdict, examine, fast_suite

_BY_ID = {mutation.id: mutation for mutation in CATALOGUE}
_DOCUMENT = ROOT / "docs" / "raft-testing.md"


@pytest.mark.parametrize("mutation", CATALOGUE, ids=lambda mutation: mutation.id)
def test_a_mutation_changes_the_library_at_exactly_one_place(mutation: Mutation) -> None:
    source = (ROOT / mutation.file).read_text()
    assert mutation.mutated(source) != source


def test_every_mutation_has_a_name_of_its_own() -> None:
    assert len(_BY_ID) == len(CATALOGUE)


def test_the_document_lists_the_mutations_in_their_order() -> None:
    rows = [line.split("|") for line in _DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    listed = [(row[1].strip(" `"), row[2].strip(), row[3].strip()) for row in rows]
    assert listed == [(mutation.id, mutation.breaks, mutation.rule) for mutation in CATALOGUE]


def test_every_test_that_the_document_names_is_there() -> None:
    names = {line.split("|")[4].strip(" `") for line in _DOCUMENT.read_text().splitlines() if line.startswith("| `")}
    assert names
    for name in names:
        if name.startswith("scenarios/"):
            assert (ROOT / "tests" / "raft" / name).is_file()
            continue
        file, *_, test = name.split("[")[0].split("::")
        assert f"def {test}(" in (ROOT / "tests" / "raft" / file).read_text(), name


def test_a_mutation_is_caught_by_the_test_of_its_rule() -> None:
    test = "tests/raft/test_paper_section5.py"
    verdict = examine(_BY_ID["entry-of-an-old-term-committed-by-count"], Effort((test,)))
    assert verdict.test.startswith(f"{test}::")
    assert verdict.seed is None


def test_what_the_suite_misses_the_simulation_may_catch() -> None:
    verdict = examine(_BY_ID["two-votes-in-a-term"], Effort(("tests/raft/test_sizes.py",), seeds=60))
    assert verdict.test == ""
    assert verdict.seed is not None
    assert "Violation: votes: " in verdict.violation


def test_a_change_that_breaks_nothing_survives() -> None:
    harmless = Mutation("harmless", "raft/log.py", "self.committed = index\n", "self.committed = index + 0\n", "", "")
    assert examine(harmless, Effort(("tests/raft/test_readonly.py",), seeds=2)) == Verdict()


def test_a_mutation_that_leaves_nothing_to_run_is_an_error_and_not_caught() -> None:
    broken = Mutation("broken", "raft/log.py", "class RaftLog:", "class Log:", "", "")
    with pytest.raises(MutationError, match="cannot run"):
        examine(broken, Effort(("tests/raft/test_readonly.py",), seeds=1))


def test_a_text_that_is_gone_or_not_alone_is_an_error() -> None:
    for old, count in (("no such text", 0), ("self", 2)):
        with pytest.raises(MutationError, match=f"stands {count} times"):
            Mutation("rotten", "raft/log.py", old, "", "", "").mutated("self self")


def test_what_is_left_must_be_a_program() -> None:
    with pytest.raises(MutationError, match="no program"):
        Mutation("cut", "raft/log.py", "(x)", "(x", "", "").mutated("print(x)")


def test_the_suite_leaves_itself_out_and_begins_with_the_paper() -> None:
    suite = fast_suite()
    assert "tests/raft/test_mutations.py" not in suite
    assert suite[0] == "tests/raft/test_paper_figure2.py"
    assert suite[-1] == "tests/raft/test_vectors.py"


def test_a_name_that_is_not_in_the_list_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "no-such-mutation"]) == 2
    assert capsys.readouterr().err == "no such mutation: no-such-mutation\n"
