"""A storage: files below one root, which is a local folder or a URI of pyarrow or fsspec."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow.fs as pafs

from smt_ray.artifacts.file_systems import resolve
from smt_ray.artifacts.patience import patient
from smt_ray.artifacts.scratch import INCOMPLETE, scratch_folder
from smt_ray.documents.base import Document, unreadable
from smt_ray.documents.stages import FileDigest
from smt_ray.errors import UserError

D = TypeVar("D", bound=Document)

# Object stores have no folders, so creating one would only cost a request.
_OBJECT_STORES = ("s3", "gcs", "abfs")
_PARALLEL_COPIES = 8
_COPIED_BYTES, _HASHED_BYTES = 1 << 24, 1 << 22  # that are read at once


class Storage:
    """The files below one root.

    Args:
        root: The local folder, which is created by the first write, or a URI such as
            ``s3://bucket/prefix``.

    Raises:
        UserError: No file system serves the URI.
    """

    def __init__(self, root: str) -> None:
        if "://" in root:
            self._fs, self._base = resolve(root)
        else:
            self._fs = pafs.LocalFileSystem()
            self._base = os.path.abspath(os.path.expanduser(root))
        self.is_local = isinstance(self._fs, pafs.LocalFileSystem)
        # A URI may end with settings of the file system, such as ?endpoint_override=...
        place, mark, settings = (self._base, "", "") if self.is_local else root.partition("?")
        self._place, self._settings = place.rstrip("/"), mark + settings
        self.root = self.uri()

    def uri(self, *parts: str) -> str:
        """The absolute path or URI of a file or folder."""
        return "/".join([self._place, *parts]) + self._settings

    def key(self, *parts: str) -> str:
        """The path of a file or folder as the file system names it."""
        return "/".join([self._base.rstrip("/"), *filter(None, parts)])

    def check_writable(self) -> None:
        """Checks that files can be written, before anything is computed.

        Raises:
            UserError: They cannot be written.
        """
        probe = self.key(f".probe-{uuid.uuid4().hex}")
        try:  # at once: a wrong address is told at once, too
            self._write_once(probe, io.BytesIO())
            self._fs.delete_file(probe)
        except (OSError, ValueError) as error:
            raise UserError(
                "storage",
                f"must be writable ({error})",
                got=self.root,
                fix="choose another storage=..., or change its permissions",
            ) from None

    @patient
    def exists(self, *parts: str) -> bool:
        """Whether a file or folder exists."""
        return bool(self._fs.get_file_info(self.key(*parts)).type != pafs.FileType.NotFound)

    @patient
    def read_bytes(self, *parts: str) -> bytes:
        """The content of a file."""
        with self._opened(self.key(*parts)) as stream:
            return bytes(stream.read())

    def _opened(self, key: str) -> Any:
        try:
            return self._fs.open_input_stream(key)
        except OSError:
            if self._fs.get_file_info(key).type == pafs.FileType.Directory:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), key) from None
            raise

    def read_text(self, path: str) -> str:
        """The content of a text file.

        Raises:
            FileNotFoundError: It does not exist.
            UserError: It is no file, or not encoded in UTF-8.
        """
        try:
            return self.read_bytes(path).decode()
        except FileNotFoundError:
            raise
        except (OSError, UnicodeDecodeError) as error:
            raise unreadable(self.uri(path), error, "restore the file, or remove it") from None

    def write_bytes(self, path: str, content: bytes) -> None:
        """Writes a file; if that fails, the earlier file is left as it was."""
        self._write(path, io.BytesIO(content))

    @patient
    def append_bytes(self, path: str, content: bytes) -> None:
        """Appends to a file that exists; an object store writes the whole file again."""
        if self.is_local:
            with self._fs.open_append_stream(self.key(path)) as stream:
                stream.write(content)
        else:
            self.write_bytes(path, self.read_bytes(path) + content)

    @patient
    def _write(self, path: str, source: IO[bytes]) -> None:
        source.seek(0)
        self._write_once(self.key(path), source)

    def _write_once(self, target: str, source: IO[bytes]) -> None:
        if self._fs.type_name not in _OBJECT_STORES:
            self._fs.create_dir(os.path.dirname(target), recursive=True)
        # A local file is renamed when it is complete; an object store shows only complete objects.
        written = f"{target}.{uuid.uuid4().hex[:8]}{INCOMPLETE}" if self.is_local else target
        try:
            with self._fs.open_output_stream(written) as stream:
                shutil.copyfileobj(source, stream, _COPIED_BYTES)
            if self.is_local:
                os.replace(written, target)
        finally:
            if self.is_local:
                Path(written).unlink(missing_ok=True)  # of a disk that is full

    def read_json(self, *parts: str) -> Any:
        """The value of a JSON file."""
        return json.loads(self.read_bytes(*parts))

    def read_document(self, kind: type[D], path: str, *, fix: str) -> D:
        """Reads a JSON document.

        Args:
            fix: What the user can do about a damaged file.

        Raises:
            UserError: The file is missing, it is not JSON, or it is not such a document.
        """
        place = self.uri(path)
        try:
            value = self.read_json(path)
        except (OSError, ValueError, RecursionError) as error:
            raise unreadable(place, error, fix) from None
        return kind.from_json(value, place=place, fix=fix)

    def write_json(self, path: str, value: Any) -> None:
        """Writes a JSON file; if that fails, the earlier file is left as it was."""
        self.write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())

    def put_file(self, local: str | Path, path: str) -> None:
        """Copies a local file into the storage, unless it already is that file."""
        if self.is_local and os.path.abspath(local) == self.key(path):
            return
        with open(local, "rb") as source:
            self._write(path, source)

    @contextmanager
    def local(self, path: str, *, without: tuple[str, ...] = ()) -> Iterator[Path]:
        """A local path of a file or folder: its own, or that of a copy.

        A copy exists while the context is open. Tensors that were mapped into memory from a copy
        can be used afterwards.

        Args:
            without: The endings of files in the folder that need not be copied.

        Raises:
            FileNotFoundError: The path is remote and does not exist.
        """
        if self.is_local:
            yield Path(self.key(path))
            return
        with scratch_folder() as scratch:
            target = scratch / (os.path.basename(self.key(path)) or "root")
            if self._fs.get_file_info(self.key(path)).type == pafs.FileType.Directory:
                target.mkdir()
                files = [file for file in self.list_files(path) if not file.endswith(without)]
                with ThreadPoolExecutor(_PARALLEL_COPIES) as pool:
                    list(pool.map(lambda f: self._copy(self.key(path, f), target / f), files))
            else:
                self._copy(self.key(path), target)
            yield target

    @patient
    def _copy(self, key: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._opened(key) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, _COPIED_BYTES)

    @patient
    def list_files(self, path: str) -> list[str]:
        """The files below a folder, relative to it and sorted; none if there is no such folder."""
        selector = pafs.FileSelector(self.key(path), recursive=True, allow_not_found=True)
        prefix = self.key(path).rstrip("/") + "/"
        return sorted(
            info.path.removeprefix(prefix)
            for info in self._fs.get_file_info(selector)
            if info.type == pafs.FileType.File
        )

    @patient
    def sizes(self, path: str, *, recursive: bool = True) -> dict[str, int]:
        """The bytes of each file below a folder, by its path relative to the folder."""
        selector = pafs.FileSelector(self.key(path), recursive=recursive, allow_not_found=True)
        prefix = self.key(path).rstrip("/") + "/"
        return {
            info.path.removeprefix(prefix): info.size or 0
            for info in self._fs.get_file_info(selector)
            if info.type == pafs.FileType.File
        }

    @patient
    def changed_s(self, path: str) -> float:
        """The time when a file was last written, in seconds since the epoch.

        It is NaN if the file system does not tell it.

        Raises:
            FileNotFoundError: There is no such file.
        """
        info = self._fs.get_file_info(self.key(path))
        if info.type == pafs.FileType.NotFound:
            raise FileNotFoundError(self.uri(path))
        return math.nan if info.mtime is None else info.mtime.timestamp()

    @patient
    def delete_file(self, path: str) -> None:
        """Deletes a file."""
        self._fs.delete_file(self.key(path))

    @patient
    def delete_folder(self, path: str) -> None:
        """Deletes a folder and all files in it; nothing happens if it does not exist."""
        if self.exists(path):
            self._fs.delete_dir(self.key(path))

    @patient
    def list_folders(self, path: str) -> list[str]:
        """The names of the folders directly below a folder, sorted."""
        selector = pafs.FileSelector(self.key(path), allow_not_found=True)
        return sorted(
            info.base_name
            for info in self._fs.get_file_info(selector)
            if info.type == pafs.FileType.Directory
        )

    @patient
    def digest(self, path: str) -> FileDigest:
        """The size and the sha256 of a file."""
        sha256, size = hashlib.sha256(), 0
        with self._opened(self.key(path)) as stream:
            while chunk := stream.read(_HASHED_BYTES):
                sha256.update(chunk)
                size += len(chunk)
        return FileDigest(bytes=size, sha256=sha256.hexdigest())


@contextmanager
def local_copy(place: str, *, without: tuple[str, ...] = ()) -> Iterator[Path]:
    """A local path of the file or folder at a path or URI; see :meth:`Storage.local`.

    Raises:
        UserError: No file system serves the URI.
        FileNotFoundError: The URI does not exist.
    """
    if "://" not in place:
        yield Path(place)
        return
    with Storage(place).local("", without=without) as path:
        yield path
