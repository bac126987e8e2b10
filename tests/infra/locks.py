"""Lock files: one exact version a line."""

from __future__ import annotations

from pathlib import Path


def read_lock(*files: Path) -> dict[str, str]:
    """Package, as its name is compared, -> the version that lock files pin; none is loose."""
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins), "exact versions only"
    return {name.lower().replace("_", "-"): version for name, version in pins}
