"""The page of a run, made from its storage at the end of the run and by ``smt-ray report``."""

from __future__ import annotations

from collections.abc import Callable

from smt_ray.artifacts.layout import ENVIRONMENT, REPORT, RUN_CONFIG
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.run import Environment, ModelSummary, RunManifest, RunMetrics
from smt_ray.reporting.pages.run import RunContents, run_page
from smt_ray.reporting.text.progress import say
from smt_ray.run.artifacts import StageArtifacts


def write_report(run: RunFolder) -> str:
    """Writes ``report.html`` into the folder of a run; returns its path or URI.

    Raises:
        UserError: An artifact cannot be read.
    """
    run.storage.write_bytes(run.path(REPORT), run_page(read_contents(run)).encode())
    return run.storage.uri(run.path(REPORT))


def try_to_write_report(run: RunFolder) -> None:
    """Writes the page at the end of a run; a failure is only a warning."""
    warn_on_failure(lambda: write_report(run), run.name, run.storage)


def warn_on_failure(write: Callable[[], str], name: str, storage: Storage) -> None:
    """Writes a page, and warns if it could not be written."""
    try:
        write()
    except Exception as error:  # the work itself is finished, and no error may lose it
        said = str(error).strip().rpartition("\n")[2]
        say(
            f"WARNING report: could not be written ({said}); nothing is lost:"
            f" smt-ray report {name} --storage {storage.root} writes it"
        )


def read_contents(run: RunFolder) -> RunContents:
    """Reads the content of a run's page.

    Raises:
        UserError: An artifact cannot be read. A missing artifact is no error: the page names it.
    """
    manifest = run.manifest()
    found = StageArtifacts(run.storage, manifest.stages)
    return RunContents(
        name=run.name,
        status=manifest.status or "UNKNOWN",
        started_ms=manifest.started_ms,
        ended_ms=manifest.ended_ms,
        metrics=run.metrics() or _known_metrics(manifest),
        config=manifest.config,
        config_text=_config_text(run),
        datasets=manifest.datasets,
        environment=_environment(run),
        records=found.records(),
        weights=found.weights(),
        predictions={who: found.predictions(who) for who in ("base", "tuned")},
        missing=found.missing,
    )


def _known_metrics(manifest: RunManifest) -> RunMetrics:
    """The metrics of a run that has not ended, from its manifest."""
    return RunMetrics(
        name=manifest.name,
        method=manifest.tags.get("method"),
        model=ModelSummary(name=manifest.tags.get("model")),
        stages=manifest.stages,
    )


def _environment(run: RunFolder) -> Environment | None:
    place = run.path(ENVIRONMENT)
    if not run.storage.exists(place):
        return None
    return run.storage.read_document(Environment, place, fix="delete it; the page will omit it")


def _config_text(run: RunFolder) -> str:
    place = run.path(RUN_CONFIG)
    return run.storage.read_text(place) if run.storage.exists(place) else ""
