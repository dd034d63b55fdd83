"""A row of a forget set that knows where it stands: what is wrong with it is said with file, row and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...common.errors import UserError


class Row(dict[str, Any]):
    """Column -> value, and the place: a file, or a split on the hub, with the number of the row."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        super().__init__(values)
        self.where = where

    def require(self, columns: Sequence[str]) -> None:
        """Refuse a row without one of these columns."""
        if missing := [c for c in columns if c not in self]:
            said = f"has no column {missing[0]}; it has {', '.join(self)}. Expected {', '.join(columns)}"
            raise UserError(f"{self.where}, {said}: is it the set's own format?")

    def text(self, column: str) -> str:
        """A text, as it stands; a list of one text is that text."""
        value = self._there(column)
        if isinstance(value, list) and len(value) == 1:
            (value,) = value
        if not isinstance(value, str):
            raise self._odd(column, value, "a text")
        return value

    def label(self, column: str) -> str:
        """A text or a whole number, as a text: what names a group."""
        value = self._there(column)
        return str(value) if type(value) is int else self.text(column)

    def texts(self, column: str) -> list[str]:
        """A text, or a list of texts (each perhaps in a list of its own)."""
        value = self._there(column)
        many = [v[0] if isinstance(v, list) and len(v) == 1 else v for v in (value if isinstance(value, list) else [value])]
        found = [v for v in many if isinstance(v, str)]
        if not found or len(found) < len(many):
            raise self._odd(column, value, "a text, or a list of texts")
        return found

    def further(self, column: str) -> list[str]:
        """Texts of a column that a row need not have: none where it is absent, null or an empty list."""
        return [] if self.get(column) in (None, []) else self.texts(column)

    def rows(self, column: str) -> list[Row]:
        """A list of rows in one row."""
        value = self._there(column)
        if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
            raise self._odd(column, value, "a list of rows, at least one")
        return [Row(v, f"{self.where}, {column} {number}") for number, v in enumerate(value, 1)]

    def _there(self, column: str) -> Any:
        self.require([column])
        return self[column]

    def _odd(self, column: str, value: Any, expected: str) -> UserError:
        said = repr(value)
        said = said if len(said) <= 60 else said[:57] + "…"
        return UserError(f"{self.where}, column {column}: {said}: expected {expected}. Mend the row, or leave it out of a local copy.")
