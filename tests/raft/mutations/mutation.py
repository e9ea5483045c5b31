"""A mutation: one fault as a small change of the library's text. Knows nothing of tests or of how they are run."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path


class MutationError(Exception):
    """A mutation that does not fit the library any more, or does not leave a program behind."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One fault.

    id: its name. file: the module of the library. old: text that stands there exactly once. new: what replaces it.
    breaks: what goes wrong. rule: where it is laid down; § alone is the extended Raft paper, "diss." Ongaro's
    dissertation, "library" a promise of this library's own.
    """

    id: str
    file: str
    old: str
    new: str
    breaks: str
    rule: str

    def mutated(self, source: str) -> str:
        """The module's text with the fault in it. Raises MutationError."""
        count = source.count(self.old)
        if count != 1:
            raise MutationError(f"{self.id}: its old text stands {count} times in {self.file}, not once")
        text = source.replace(self.old, self.new)
        try:
            ast.parse(text)
        except SyntaxError as error:
            raise MutationError(f"{self.id}: what it leaves of {self.file} is no program: {error}") from error
        return text

    def apply(self, root: Path) -> None:
        """Put the fault into the library at `root`. Raises MutationError."""
        path = root / self.file
        path.write_text(self.mutated(path.read_text()))
