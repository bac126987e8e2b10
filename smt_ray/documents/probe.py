"""The document of a probe: what an architecture allows."""

from __future__ import annotations

from smt_ray.documents.base import Document


class Probe(Document):
    """The findings about an architecture, from a small model of it with random weights."""

    problem: str | None = None
    """The reason why the architecture could not be tried; then only single rows are exact."""
    is_causal: bool = True
    """Whether no position depends on a later one."""
    errors: dict[str, float | None] = {}
    """Batching mode -> the relative error of a step's gradient against one row at a time; None if
    the step failed."""
    failures: dict[str, str] = {}
    """Batching mode -> the error message of a step that failed."""
    keeps_weights: bool = True
    """Whether a forward pass leaves the weights as they are."""
    narrows: bool = False
    """Whether the last layer may be computed for supervised positions alone."""
    splits_logits: bool = False
    """Whether logits may be computed for some positions at a time."""
    draws: bool = False
    """Whether the model draws random numbers in training mode."""
    pads_left: bool = False
    """Whether padding on the left changes nothing, so that prompts can be generated in batches."""
    pads_inside: bool = False
    """Whether padding after a shared prefix changes nothing."""
    unused_linears: tuple[str, ...] = ()
    """Linears that text does not reach, that get no gradient, or whose weights are used without
    their forward; numbers of layers in their names are replaced by ``*``."""

    def is_exact(self, mode: str) -> bool:
        """Whether a batching mode computes the gradient of one row at a time."""
        error = self.errors.get(mode)
        return error is not None and error <= TOLERANCE


TOLERANCE = 1e-3
"""The largest relative error of an exact step in float32, of any parameter's gradient. Exact steps
have errors below 1e-4."""
