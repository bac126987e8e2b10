"""Claims about the benchmarks of long rows: all ways compute the same, and the commands write."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import attention, logits
from tests.benchmarks.answers import assert_spread, read


@pytest.mark.parametrize("place", range(3))
def test_the_mask_gives_the_result_of_the_packed_attention(place: int) -> None:
    rows, window = list(attention.layouts(20, 6).values())[place]
    states = [torch.randn(1, heads, rows.offsets()[-1], 8) for heads in (4, 2, 2)]
    found = [form(*states) for form in attention.make_forms(rows, window).values()]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_attention_measures_every_form(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    attention.main(
        f"--lengths 64 --window 16 --rounds 1 --threads 1 --head-size 8 --json {file}".split()
    )
    summary = read(file, "attention")["summary"]
    assert [list(forms) for forms in summary.values()] == [
        ["mask", "smt_ray", "causal"], ["mask", "smt_ray"], ["mask", "smt_ray"]
    ]  # fmt: skip
    for forms in summary.values():
        assert 0 < forms["smt_ray"]["kept_bytes"] < forms["mask"]["kept_bytes"]
        for values in forms.values():
            assert_spread(values["seconds"])


def test_logits_in_chunks_need_less_memory(tmp_path: Path) -> None:
    file = tmp_path / "l.json"
    options = "--lengths 600 --vocabulary 128256 --width 16 --rounds 1 --threads 1"
    logits.main([*options.split(), "--json", str(file)])
    (forms,) = read(file, "logits")["summary"].values()
    assert forms["chunks"]["peak_bytes"] < forms["whole"]["peak_bytes"]
    assert_spread(forms["chunks"]["times_the_whole"])
