"""How texts are generated and read: the settings, and a repetition penalty that ignores padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import LogitsProcessor, RepetitionPenaltyLogitsProcessor

from smt_ray.config.running import EvaluationConfig


@dataclass(frozen=True, slots=True)
class Decoding:
    """Settings of the ``generate`` protocol; nothing is ever sampled.

    Attributes:
        num_beams: The number of beams; 1 is greedy decoding.
        repetition_penalty: The number that the scores of tokens in the prompt and in the text so
            far are divided by (negative scores are multiplied by it); 1 is no penalty.
        max_new_tokens: The largest number of generated tokens; None for the task's.
        lower_case: Whether a text is read in lower case.
    """

    num_beams: int = 1
    repetition_penalty: float = 1.0
    max_new_tokens: int | None = None
    lower_case: bool = False

    @classmethod
    def from_config(cls, section: EvaluationConfig) -> Decoding:
        """The settings in the ``evaluation`` section of a config."""
        return cls(
            num_beams=section.num_beams,
            repetition_penalty=section.repetition_penalty,
            max_new_tokens=section.max_new_tokens,
            lower_case=section.lower_case,
        )


GREEDY = Decoding()


class UnpaddedPenalty(LogitsProcessor):
    """transformers' repetition penalty, applied to real tokens only.

    transformers penalises every id in ``input_ids``, the left padding included, so that a text
    would depend on its batch. Here each padding token counts as the last token of the prompt, which
    is penalised anyway.

    Args:
        penalty: See :class:`Decoding`.
        mask: (B, P), 1 where the prompts have a token; the last token of each row is real.
        num_beams: The beams of each prompt; the rows of one prompt are adjacent.
    """

    def __init__(self, penalty: float, mask: torch.Tensor, num_beams: int) -> None:
        self._penalise = RepetitionPenaltyLogitsProcessor(penalty)
        self._padding = mask.repeat_interleave(num_beams, dim=0) == 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        """The penalised scores, (B * num_beams, V)."""
        length = self._padding.shape[1]
        last = input_ids[:, length - 1 : length]  # never padding
        real = input_ids.clone()
        real[:, :length] = torch.where(self._padding, last, input_ids[:, :length])
        penalised: torch.Tensor = self._penalise(real, scores)
        return penalised
