"""The base of all documents: they are frozen, and unknown keys are errors."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from smt_ray.errors import UserError


class Document(BaseModel):
    """A JSON document, or a part of one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def to_json(self) -> dict[str, Any]:
        """The document as JSON values, every field included."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Any, *, place: str, fix: str = "") -> Self:
        """Validates a JSON value.

        Args:
            place: The file that it was read from, for the error.
            fix: What the user can do about a damaged file.

        Raises:
            UserError: The value is not such a document; the error names the first bad field.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the document"
            raise UserError(place, f"cannot be read ({field}: {first['msg']})", fix=fix) from None


def unreadable(place: str, error: Exception, fix: str) -> UserError:
    """The error of a document that cannot be read.

    Args:
        place: The document.
        error: Why.
        fix: What the user can do about a damaged one. It is not the advice for one that is only out
            of reach, such as without permission to read it.
    """
    reason = getattr(error, "strerror", None) or str(error)
    gone = isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError))
    if isinstance(error, OSError) and not gone:
        fix = "correct its permissions, or check the disk or the store that holds it"
    return UserError(place, f"cannot be read ({reason})", fix=fix)
