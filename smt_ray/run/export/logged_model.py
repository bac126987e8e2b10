"""The tuned model of a run, merged into a temporary folder for a tracker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.reporting.text.progress import say
from smt_ray.run.export.card import write_card
from smt_ray.run.export.merge import write_merged


@contextmanager
def merged_model(run: RunFolder) -> Iterator[Path]:
    """A local folder with the merged model and its card, which exists while the context is open.

    Raises:
        UserError: The run was not trained to its end, or its adapter is damaged.
    """
    with scratch_folder() as folder:
        write_card(run, write_merged(run, folder), run.name, folder)
        yield folder


@contextmanager
def merged_or_none(run: RunFolder) -> Iterator[Path | None]:
    """The same at the end of a run: a failure is only a warning, and the rest is tracked."""
    with scratch_folder() as folder:
        model: Path | None = folder
        try:
            write_card(run, write_merged(run, folder), run.name, folder)
        except Exception as error:  # the run itself is done, whatever it is
            said = str(error).strip().rpartition("\n")[2]
            say(
                f"WARNING tracking: the tuned model could not be merged ({said}); nothing is lost:"
                f" smt-ray log {run.name} --storage {run.storage.root} sends it"
            )
            model = None
        yield model
