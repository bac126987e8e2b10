"""The rows of each step, and the micro-batches of a step on each rank.

Both are pure functions of values that all ranks have, so ranks need not communicate. The order of
rows is a function of (seed, epoch). Micro-batches do not change the loss or the gradient of a step,
because every token is weighted by the number of targets of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch

from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.data.packing import PackedRows, deal, merge_targets, pack_rows, plan_packs

PADDED, PACKED, PREFIX_PACKED, ONE_ROW = "padded", "packed", "prefix_packed", "one_row"
MODES = (PREFIX_PACKED, PACKED, PADDED, ONE_ROW)
"""The batching modes; one that is not exact for a model is replaced by the next that is."""


def is_packed(mode: str) -> bool:
    """Whether a batching mode puts rows one after the other, instead of padding them."""
    return mode in (PACKED, PREFIX_PACKED)


@dataclass(frozen=True)
class StepPlan:
    """The rows of every optimizer step.

    Attributes:
        num_rows: The number of rows of an epoch.
        batch_size: The number of rows of a step over all ranks; the last step of an epoch may have
            fewer.
        seed: The seed of the order.
    """

    num_rows: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps of an epoch."""
        return -(-self.num_rows // self.batch_size)

    def num_steps(self, num_epochs: int | None, max_steps: int | None) -> int:
        """The number of steps of a whole training; exactly one of the arguments is set."""
        if max_steps is not None:
            return max_steps
        assert num_epochs is not None
        return num_epochs * self.steps_per_epoch

    def rows(self, step: int) -> list[int]:
        """The indices of the rows of a step; steps are counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _epoch_order(self.num_rows, self.seed, epoch)
        rows: list[int] = order[position * self.batch_size :][: self.batch_size].tolist()
        return rows


@lru_cache(maxsize=4)
def _epoch_order(num_rows: int, seed: int, epoch: int) -> torch.Tensor:
    # The seed of torch's generator has 64 bits, so seeds and epochs do not collide.
    generator = torch.Generator().manual_seed((seed << 24) + epoch)
    return torch.randperm(num_rows, generator=generator).to(torch.int32)


@dataclass(frozen=True)
class MicroBatch:
    """The input of one forward pass: tokens, and (position, target, weight) triples.

    Attributes:
        input_ids: The token ids: (B, S) int64 with padding on the right, which causal attention
            does not look at, or a pack, (1, N) int64.
        positions: The supervised positions, (P,) int64 indices into the flattened hidden states.
        targets: The token that each position predicts, (P,) int64.
        weights: The weight of each target in the loss, (P,) float32.
        position_ids: The place of each token of a pack in its row, (1, N) int64.
        rows: The layout of a pack; None for a padded batch.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    position_ids: torch.Tensor | None = None
    rows: PackedRows | None = None

    @classmethod
    def idle(cls, packed: bool) -> MicroBatch:
        """One token with weight zero, for ranks without rows, which must take part too."""
        zero = torch.zeros(1, dtype=torch.int64)
        nothing = cls(zero.view(1, 1), zero, zero, torch.zeros(1))
        if not packed:
            return nothing
        return replace(nothing, position_ids=zero.view(1, 1), rows=PackedRows.whole([1]))

    def to(self, device: torch.device | str) -> MicroBatch:
        """The micro-batch on another device; the copy of a pinned one is not waited for."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> MicroBatch:
        """The micro-batch in memory from which a GPU copies by itself."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> MicroBatch:
        ids = self.position_ids
        return replace(
            self,
            input_ids=change(self.input_ids),
            positions=change(self.positions),
            targets=change(self.targets),
            weights=change(self.weights),
            position_ids=None if ids is None else change(ids),
        )


def plan_micro_batches(
    lengths: Sequence[int], *, max_tokens: int, num_ranks: int
) -> list[list[list[int]]]:
    """Divides the rows of a step into padded micro-batches, with the same number on each rank.

    Args:
        lengths: The number of tokens of each row.
        max_tokens: The largest number of tokens of a micro-batch, padding included; a longer row is
            alone in its micro-batch.
        num_ranks: The number of ranks. Some micro-batches may be empty.

    Returns:
        ``plan[rank][micro_batch]`` = positions into ``lengths``.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    dealt = deal(longest_first, num_ranks)  # ranks get rows of similar lengths
    plan = [fill_batches(rows, lengths, max_tokens) for rows in dealt]
    most = max(map(len, plan))
    return [micro_batches + [[]] * (most - len(micro_batches)) for micro_batches in plan]


def fill_batches(
    longest_first: Sequence[int], lengths: Sequence[int], max_tokens: int
) -> list[list[int]]:
    """Divides sequences into padded batches, whose width is the length of their first sequence.

    Args:
        longest_first: Indices into ``lengths``, sorted by length.
        lengths: The number of tokens of each sequence.
        max_tokens: The largest number of tokens of a batch, padding included; a longer sequence is
            alone in its batch.
    """
    filled: list[list[int]] = []
    for index in longest_first:
        if filled and (len(filled[-1]) + 1) * lengths[filled[-1][0]] <= max_tokens:
            filled[-1].append(index)
        else:
            filled.append([index])
    return filled


def collate(
    encoded: EncodedRows, rows: Sequence[int], *, token_weight: float, train_on_inputs: bool
) -> MicroBatch:
    """A padded micro-batch.

    Args:
        encoded: The tokenised rows.
        rows: The indices of the rows; none for an idle micro-batch.
        token_weight: The weight of each target in the loss.
        train_on_inputs: Whether prompt tokens are targets.
    """
    if not rows:
        return MicroBatch.idle(packed=False)
    width = max(int(encoded.lengths[row]) for row in rows)
    input_ids = torch.zeros(len(rows), width, dtype=torch.int64)
    positions, targets = [], []
    for place, row in enumerate(rows):
        ids = encoded.row(row).to(torch.int64)
        input_ids[place, : len(ids)] = ids
        chosen = encoded.targets(row, train_on_inputs)
        # The hidden state at position p predicts the token at p + 1.
        positions.append(place * width + chosen - 1)
        targets.append(ids[chosen])
    all_targets = torch.cat(targets)
    weights = torch.full((len(all_targets),), token_weight, dtype=torch.float32)
    return MicroBatch(input_ids, torch.cat(positions), all_targets, weights)


def collate_pack(
    encoded: EncodedRows,
    rows: Sequence[int],
    *,
    token_weight: float,
    train_on_inputs: bool,
    share_prefix: bool,
) -> MicroBatch:
    """A pack; the arguments are those of :func:`collate`.

    The last token of a row is only a target and not an input.
    """
    if not rows:
        return MicroBatch.idle(packed=True)
    tokens = [encoded.row(row).to(torch.int64) for row in rows]
    layout, places = pack_rows([ids[:-1].tolist() for ids in tokens], share_prefix=share_prefix)
    input_ids = torch.empty(layout.offsets()[-1], dtype=torch.int64)
    positions, targets = [], []
    for ids, row, place in zip(tokens, rows, places, strict=True):
        input_ids[place] = ids[:-1]
        chosen = encoded.targets(row, train_on_inputs)
        # The hidden state of a row's token t predicts its token t + 1.
        positions.append(place[chosen - 1])
        targets.append(ids[chosen])
    weights = torch.full((sum(map(len, targets)),), token_weight, dtype=torch.float32)
    triples = merge_targets(torch.cat(positions), torch.cat(targets), weights)
    return MicroBatch(input_ids[None], *triples, layout.position_ids()[None], layout)


def step_micro_batches(
    encoded: EncodedRows,
    rows: Sequence[int],
    *,
    mode: str,
    max_tokens: int,
    train_on_inputs: bool,
    rank: int = 0,
    num_ranks: int = 1,
) -> list[MicroBatch]:
    """The micro-batches of a step on one rank.

    The loss of a step is the mean over its targets on all ranks. The gradients of ranks are
    averaged, so each target has the weight ``num_ranks`` / number of targets on its rank.

    Args:
        encoded: The tokenised rows.
        rows: The indices of the rows of the step.
        mode: The batching mode: one of :data:`MODES`. ``one_row`` needs no padding.
        max_tokens: The largest number of tokens of a micro-batch; a longer row is alone in its
            micro-batch.
        train_on_inputs: Whether prompt tokens are targets.
        rank: The number of this rank.
        num_ranks: The number of ranks.
    """
    num_targets = int(encoded.num_targets(train_on_inputs)[list(rows)].sum())
    token_weight = num_ranks / num_targets
    if not is_packed(mode):
        lengths = [int(encoded.lengths[row]) for row in rows]
        most = 1 if mode == ONE_ROW else max_tokens
        plan = plan_micro_batches(lengths, max_tokens=most, num_ranks=num_ranks)
        make = partial(collate, encoded)
    else:
        share = mode == PREFIX_PACKED
        inputs: list[list[int]] = [encoded.row(row)[:-1].tolist() for row in rows]
        plan = plan_packs(inputs, max_tokens=max_tokens, num_ranks=num_ranks, share_prefix=share)
        make = partial(collate_pack, encoded, share_prefix=share)
    return [
        make(
            [rows[position] for position in micro_batch],
            token_weight=token_weight,
            train_on_inputs=train_on_inputs,
        )
        for micro_batch in plan[rank]
    ]
