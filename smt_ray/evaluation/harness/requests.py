"""The requests of lm-evaluation-harness and their answers, as they cross processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

RequestKind = Literal["loglikelihood", "loglikelihood_rolling", "generate_until"]
"""The method of lm-evaluation-harness's models that answers a request."""

Request = tuple[Any, ...]
"""The arguments: a context and its continuation, a text, or a context and how to generate."""

Answer = Any
"""A log-likelihood with whether the text is the likeliest, a log-likelihood, or a text."""


@dataclass(frozen=True)
class Requests:
    """Requests of one kind."""

    kind: RequestKind
    requests: Sequence[Request]

    def shares(self, number: int) -> list[list[int]]:
        """The indices of the requests of each worker.

        Requests of one context that follow each other stay together, because some of their work is
        shared.
        """
        shares: list[list[int]] = [[] for _ in range(number)]
        groups = groupby(range(len(self.requests)), key=lambda i: self.requests[i][0])
        for place, (_, group) in enumerate(groups):
            shares[place % number].extend(group)
        return shares

    def at(self, indices: Sequence[int]) -> Requests:
        """Some of the requests."""
        return Requests(self.kind, [self.requests[i] for i in indices])

    def joined(
        self, shares: Sequence[Sequence[int]], parts: Sequence[Sequence[Answer]]
    ) -> list[Answer]:
        """The answers of all requests in their order, from those of each worker's share."""
        found: dict[int, Answer] = {}
        for share, part in zip(shares, parts, strict=True):
            found.update(zip(share, part, strict=True))
        return [found[i] for i in range(len(self.requests))]


Ask = Callable[[Requests], list[Answer]]
"""A function that returns the answers of requests, in their order."""
