"""The folder of a comparison or a search: it is written, listed and read back here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from smt_ray.artifacts.layout import REPORT, run_folder
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.base import Document
from smt_ray.run.report import warn_on_failure

D = TypeVar("D", bound=Document)


class GroupFolder:
    """The folder of a comparison or a search.

    Args:
        path: The folder, as the storage names it.

    Attributes:
        files: The files that were written through this object, as the storage names them.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self.storage, self._path = storage, path
        self.name = path.rpartition("/")[2]
        self.files: list[str] = []

    def path(self, file: str) -> str:
        """A file of the folder, as the storage names it."""
        return f"{self._path}/{file}"

    def uri(self, *file: str) -> str:
        """The path or URI of the folder, or of a file in it."""
        return self.storage.uri(self._path, *file)

    def exists(self, file: str) -> bool:
        """Whether the folder has a file."""
        return self.storage.exists(self.path(file))

    def write_text(self, file: str, text: str) -> None:
        """Writes a text file."""
        self.storage.write_bytes(self.path(file), text.encode())
        self._list(file)

    def write_document(self, file: str, document: Document) -> None:
        """Writes a JSON document."""
        self.storage.write_json(self.path(file), document.to_json())
        self._list(file)

    def write_picture(self, file: str, draw: Callable[[Path], None]) -> None:
        """Writes the picture that ``draw`` draws to a local path."""
        with scratch_folder() as scratch:
            draw(scratch / file)
            self.storage.put_file(scratch / file, self.path(file))
        self._list(file)

    def write_page(self, write: Callable[[GroupFolder], str]) -> None:
        """Writes the page. A failure is only a warning, since the results are already written."""
        warn_on_failure(lambda: write(self), self.name, self.storage)

    def read_document(self, kind: type[D], file: str, *, fix: str) -> D:
        """Reads a JSON document; see :meth:`Storage.read_document`."""
        return self.storage.read_document(kind, self.path(file), fix=fix)

    def read_text(self, file: str) -> str:
        """The content of a text file; "" if it does not exist."""
        return self.storage.read_text(self.path(file)) if self.exists(file) else ""

    def run_pages(self, runs: Iterable[str]) -> dict[str, str]:
        """Run -> the link from this folder to its page, for the runs that have a page."""
        return {
            run: f"../../{run_folder(quote(run))}/{REPORT}"
            for run in runs
            if self.storage.exists(RunFolder(self.storage, run).path(REPORT))
        }

    def _list(self, file: str) -> None:
        path = self.path(file)
        if path not in self.files:
            self.files.append(path)
