"""How a text is written, beyond the model: beams, length, and a penalty that no padding enters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import LogitsProcessor, RepetitionPenaltyLogitsProcessor


@dataclass(frozen=True, slots=True)
class Decoding:
    """Settings of the ``generate`` protocol; nothing is ever sampled.

    Attributes:
        num_beams: 1 is greedy.
        repetition_penalty: What scores of tokens that stand in the prompt or the text so far are
            divided by (multiplied, where negative); 1 is none.
        max_new_tokens: Most tokens to write; None for the task's.
        lower_case: Whether a text is read in lower case.
    """

    num_beams: int = 1
    repetition_penalty: float = 1.0
    max_new_tokens: int | None = None
    lower_case: bool = False


GREEDY = Decoding()


class UnpaddedPenalty(LogitsProcessor):
    """transformers' repetition penalty on the real tokens alone.

    Its own counts every id in ``input_ids``, the left padding included, so that what is written
    would depend on the batch. Here padding is counted as the last token before, which is penalised
    anyway.

    Args:
        penalty: See :class:`Decoding`.
        mask: (B, P), 1 where what is gone on from has a token; the last of each row is one.
        num_beams: Of each prompt; its rows lie together.
    """

    def __init__(self, penalty: float, mask: torch.Tensor, num_beams: int) -> None:
        self._penalise = RepetitionPenaltyLogitsProcessor(penalty)
        self._padding = mask.repeat_interleave(num_beams, dim=0) == 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        """(B * num_beams, V), penalised."""
        length = self._padding.shape[1]
        last = input_ids[:, length - 1 : length]  # never padding
        real = input_ids.clone()
        real[:, :length] = torch.where(self._padding, last, input_ids[:, :length])
        penalised: torch.Tensor = self._penalise(real, scores)
        return penalised
