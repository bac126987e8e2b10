"""Which rows make a step, and how a step's rows become micro-batches on every rank.

Both are pure functions of what every rank knows, so that ranks agree without talking. The order of
rows is a function of (seed, epoch); the micro-batches of a step change neither its loss nor its
gradient, since every token is weighted by the step's own number of targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch

from smt_ray.data.encoding import EncodedRows
from smt_ray.data.packing import PackedRows, deal, merge_targets, pack_rows, plan_packs

PADDED, PACKED, PREFIX_PACKED = "padded", "packed", "prefix_packed"


@dataclass(frozen=True)
class StepPlan:
    """The rows of every optimizer step.

    Attributes:
        num_rows: Rows of an epoch.
        batch_size: Rows of a step over all ranks; an epoch's last step has what is left.
        seed: Of the order.
    """

    num_rows: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the rows."""
        return -(-self.num_rows // self.batch_size)

    def num_steps(self, num_epochs: int | None, max_steps: int | None) -> int:
        """Steps of a whole training; exactly one of the arguments is set."""
        if max_steps is not None:
            return max_steps
        assert num_epochs is not None
        return num_epochs * self.steps_per_epoch

    def rows(self, step: int) -> list[int]:
        """The row indices of a step, counted from 0 on over epochs without end."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _epoch_order(self.num_rows, self.seed, epoch)
        return list(order[position * self.batch_size : (position + 1) * self.batch_size])


@lru_cache(maxsize=4)
def _epoch_order(num_rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    # The seed of torch's generator is 64 bits wide: room for any seed and epoch without collisions.
    generator = torch.Generator().manual_seed((seed << 24) + epoch)
    return tuple(torch.randperm(num_rows, generator=generator).tolist())


@dataclass(frozen=True)
class MicroBatch:
    """One forward: tokens, and a plan of (hidden position, target, weight) triples.

    Attributes:
        input_ids: (B, S) int64, padded on the right, where causal attention never looks; or a pack
            (1, N).
        positions: (P,) int64 indices into the B * S flattened hidden states.
        targets: (P,) int64, the token each of them predicts.
        weights: (P,) float32, each target's share of the loss.
        position_ids: (1, N) int64, each token's place in its own row; of a pack.
        rows: Where the rows of a pack lie; None where the batch is padded.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    position_ids: torch.Tensor | None = None
    rows: PackedRows | None = None

    @classmethod
    def idle(cls, packed: bool) -> MicroBatch:
        """One token and weight zero, for ranks that have nothing to do but must take part."""
        zero = torch.zeros(1, dtype=torch.int64)
        nothing = cls(zero.view(1, 1), zero, zero, torch.zeros(1))
        if not packed:
            return nothing
        return replace(nothing, position_ids=zero.view(1, 1), rows=PackedRows.whole([1]))

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same on another device."""
        return replace(
            self,
            **{f: v.to(device) for f, v in vars(self).items() if isinstance(v, torch.Tensor)},
        )


def plan_micro_batches(
    lengths: Sequence[int], *, max_tokens: int, num_ranks: int
) -> list[list[list[int]]]:
    """Divides a step's rows over ranks and micro-batches.

    Args:
        lengths: Tokens of each row of the step.
        max_tokens: Tokens of a micro-batch, padding included; a longer row stands alone.
        num_ranks: Ranks; all get the same number of micro-batches, some of them empty.

    Returns:
        ``plan[rank][micro_batch]`` = positions into ``lengths``.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    dealt = deal(longest_first, num_ranks)  # ranks get rows of like lengths
    plan = [fill_batches(rows, lengths, max_tokens) for rows in dealt]
    most = max(map(len, plan))
    return [micro_batches + [[]] * (most - len(micro_batches)) for micro_batches in plan]


def fill_batches(
    longest_first: Sequence[int], lengths: Sequence[int], max_tokens: int
) -> list[list[int]]:
    """Sequences, longest first, into padded batches: the first of each sets its width.

    Args:
        longest_first: Indices into ``lengths``, those of the longest first.
        lengths: Tokens a sequence.
        max_tokens: Tokens of a batch, padding included; a longer sequence stands alone.
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
        rows: Which of them; none makes a batch of one token and weight zero, for ranks that have
            nothing to do but must take part in the collectives.
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
    """A pack; the arguments are :func:`collate`'s.

    A row's last token is only a target: nothing follows it, so it is not computed.
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
        # The state of the row's token t predicts its token t + 1.
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
    """One rank's micro-batches of a step.

    The loss of the step is the sum over its targets divided by their number over all ranks. Ranks'
    gradients are averaged, so each target weighs ``num_ranks`` / that number on its own rank.

    Args:
        encoded: The tokenised rows.
        rows: Those of the step.
        mode: ``padded``, ``packed`` or ``prefix_packed``.
        max_tokens: Tokens of a micro-batch; a longer row stands alone.
        train_on_inputs: Whether prompt tokens are targets.
        rank: This one.
        num_ranks: Of how many.
    """
    num_targets = int(encoded.num_targets(train_on_inputs)[list(rows)].sum())
    token_weight = num_ranks / num_targets
    if mode == PADDED:
        lengths = [int(encoded.lengths[row]) for row in rows]
        plan = plan_micro_batches(lengths, max_tokens=max_tokens, num_ranks=num_ranks)
        make = partial(collate, encoded)
    else:
        share = mode == PREFIX_PACKED
        fed = [encoded.row(row)[:-1].tolist() for row in rows]
        plan = plan_packs(fed, max_tokens=max_tokens, num_ranks=num_ranks, share_prefix=share)
        make = partial(collate_pack, encoded, share_prefix=share)
    return [
        make(
            [rows[position] for position in micro_batch],
            token_weight=token_weight,
            train_on_inputs=train_on_inputs,
        )
        for micro_batch in plan[rank]
    ]
