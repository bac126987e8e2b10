"""The files that a path, a folder or a pattern of a config stands for."""

from __future__ import annotations

import re
from pathlib import Path

from smt_ray.data.arrow import is_saved_dataset
from smt_ray.data.files import READERS, kind
from smt_ray.errors import UserError

_SPLITS = {
    "train": "train", "test": "test",
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
}  # fmt: skip
_SPLIT = re.compile(rf"(?:^|[-_.])({'|'.join(_SPLITS)})(?:[-_.]|$)")


def expand_home(place: str) -> Path:
    """The path with the home folder in place of ~, unless there is no such user."""
    try:
        return Path(place).expanduser()
    except RuntimeError:
        return Path(place)


def expand(path: Path, place: str, split: str = "train") -> list[Path]:
    """The files of a path: itself, the files of a folder, or those that a pattern matches.

    If names of files in a folder say a split, those of other splits are left out, as are hidden
    files and folders.

    Args:
        path: A file, a folder, a folder that ``datasets`` saved, or a pattern.
        place: The name of the path in errors.
        split: The split that is wanted.

    Raises:
        UserError: There is no such file, or none that can be read.
    """
    if is_saved_dataset(path) or path.is_file():
        return [path]
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if _is_rows(file, path)]
        found = [file for file in files if _split_of(file, path) in (None, split)]
    elif any(mark in str(path) for mark in "*?["):
        root = Path(path.anchor or ".")
        found = [p for p in sorted(root.glob(str(path.relative_to(root)))) if p.is_file()]
    else:
        raise UserError(place, "must be a file, a folder or a pattern that exists", got=str(path),
                        fix="check the path; relative ones are looked up in data.dir, and then in"
                        " the working directory")  # fmt: skip
    if not found:
        kinds = ", ".join(sorted(READERS))
        raise UserError(
            place, f"must have a file of the split {split} that can be read ({kinds})",
            got=str(path), fix="name files by a pattern, or set split of the source",
        )  # fmt: skip
    return found


def _is_rows(path: Path, folder: Path) -> bool:
    """Whether a path in a folder is a file of rows that is not hidden."""
    inside = path.relative_to(folder)
    hidden = any(part.startswith(".") for part in inside.parts)
    about = path.name in ("dataset_info.json", "dataset_infos.json", "dataset_dict.json")
    return path.is_file() and not hidden and not about and kind(path) in READERS


def _split_of(path: Path, folder: Path) -> str | None:
    """The split that the name of a file in a folder, or of a folder around it, says."""
    for name in reversed(path.relative_to(folder).parts):
        if match := _SPLIT.search(name.lower()):
            return _SPLITS[match.group(1)]
    return None
