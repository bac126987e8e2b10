"""A merged model as a GGUF file, by llama.cpp's converter, which is not a part of this package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from smt_ray.errors import UserError

GgufType = Literal["f16", "q8_0"]
"""The type of the weights in the file."""

CONVERTER = "convert_hf_to_gguf.py"
CONVERTER_VARIABLE = "SMT_RAY_GGUF_CONVERTER"
_HOW_TO_GET = (
    f"git clone https://github.com/ggml-org/llama.cpp, and give --gguf-converter"
    f" llama.cpp/{CONVERTER} or set {CONVERTER_VARIABLE}"
)


@dataclass(frozen=True)
class GgufExport:
    """The converter, and the type of the file that it makes."""

    converter: Path
    kind: GgufType

    def write(self, folder: Path, name: str) -> Path:
        """Writes the file into the folder of a merged model; returns its path.

        Raises:
            UserError: The converter failed. The model itself stays as it is.
        """
        file = folder / f"{name}-{self.kind}.gguf"
        part = file.with_suffix(".part")
        command = [
            sys.executable, str(self.converter), str(folder),
            "--outfile", str(part), "--outtype", self.kind,
        ]  # fmt: skip
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            if answer.returncode or not part.is_file():
                said = (answer.stderr or answer.stdout).strip().rpartition("\n")[2]
                raise UserError(
                    "--gguf",
                    f"the converter failed ({said[:300] or f'exit code {answer.returncode}'})",
                    got=self.kind,
                    fix=f"the merged model in {folder} is complete; see what"
                    f" `python {self.converter} {folder}` prints",
                )
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
        return file


def find_converter(kind: str, given: Path | None) -> GgufExport:
    """The converter: the given one, that of the environment variable, or the one on PATH.

    Raises:
        UserError: There is none, or the type is unknown.
    """
    known = next((each for each in get_args(GgufType) if each == kind), None)
    if known is None:
        raise UserError("--gguf", f"must be one of {', '.join(get_args(GgufType))}", got=kind)
    named = given or os.environ.get(CONVERTER_VARIABLE)
    found = Path(named).expanduser() if named else _on_path()
    if found is None or not found.is_file():
        raise UserError(
            "--gguf-converter" if given else "--gguf",
            f"needs llama.cpp's {CONVERTER}",
            got=str(found) if found else kind,
            fix=_HOW_TO_GET,
        )
    return GgufExport(found.resolve(), known)


def _on_path() -> Path | None:
    """The script on PATH, whether it is executable or not."""
    found = shutil.which(CONVERTER, mode=os.F_OK)
    return Path(found) if found else None
