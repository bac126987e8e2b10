"""The log-likelihoods of candidate completions, with the prompt computed once for all of them.

Most candidates of a row begin alike ("the correct answer is ..."). So a row consists of a prefix,
which is its prompt and that common beginning, and of one short tail for each candidate. The prefix
is run once and already predicts the first token of every tail. Only tails of two tokens or more are
run, all together, against the cached keys and values of the prefix. A prefix that all rows of a
batch share is run once for all of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

import torch

from smt_ray.data.encoding.ids import encode_completion, encode_prompts
from smt_ray.data.rows import Prompt
from smt_ray.errors import UserError
from smt_ray.evaluation.batches import (
    EXACT,
    Padding,
    check_lengths,
    inference,
    not_finite,
    pad,
    padding_id,
    plan_batches,
    positions,
)
from smt_ray.evaluation.prefix import prefill
from smt_ray.evaluation.reserved_cache import can_select
from smt_ray.evaluation.whole_rows import completion_sums


class Likelihoods(NamedTuple):
    """The scores of a row's candidates.

    Attributes:
        scores: The mean log-likelihood per token of each candidate, in nats.
        num_prompt_tokens: The number of tokens of the prompt.
        num_candidate_tokens: The number of tokens of all candidates together.
    """

    scores: list[float]
    num_prompt_tokens: int
    num_candidate_tokens: int


@dataclass(frozen=True, slots=True)
class _Question:
    """A row as tokens.

    Attributes:
        prefix: The prompt and the common beginning of all candidates.
        num_common: The number of tokens of the common beginning.
        tails: The other tokens of each candidate.
    """

    prefix: list[int]
    num_common: int
    tails: list[list[int]]

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prefix) - self.num_common

    @property
    def num_candidate_tokens(self) -> int:
        return sum(self.num_common + len(tail) for tail in self.tails)

    @property
    def length(self) -> int:
        return len(self.prefix) + max(map(len, self.tails))

    @property
    def num_cached(self) -> int:
        """The number of cached tokens: each tail of two or more has a copy of the prefix."""
        return self.length * max(1, sum(len(tail) > 1 for tail in self.tails))


def candidate_log_likelihoods(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str | Prompt],
    candidates: Sequence[Sequence[str]],
    *,
    with_eos: bool = False,
    batch_tokens: int = 8192,
    padding: Padding = EXACT,
    names: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Likelihoods]:
    """The mean log-likelihood per token of each candidate after its prompt, in nats.

    Args:
        model: A transformers causal language model.
        tokenizer: Its tokenizer. Prompts and completions are tokenised as in training.
        prompts: The prompt of each row.
        candidates: The completions of each row.
        with_eos: Whether a candidate ends with EOS, as in training. Without it, which is usual for
            labels, a candidate that is the beginning of another one, such as "1" of "12", has an
            advantage.
        batch_tokens: The largest number of tokens of a batch, cached ones and padding included.
        padding: Where padding leaves the model's results as they are.
        names: The name of each row in errors; by default its position.
        progress: A function that is called with the number of finished rows and the number of all
            rows, after each batch.

    Returns:
        The scores of each row's candidates, in their order, and its numbers of tokens.

    Raises:
        UserError: A row has no candidates, a candidate has no tokens or too many for the model, or
            logits are not finite.
    """
    names = names or [f"row {i}" for i in range(len(prompts))]
    ends = [tokenizer.eos_token_id] if with_eos else []
    encoded = encode_prompts(tokenizer, prompts) if prompts else []
    questions = [
        _encode(tokenizer, *row, ends)
        for row in zip(prompts, encoded, candidates, names, strict=True)
    ]
    check_lengths(model, [question.length for question in questions], names)
    scores: list[list[float]] = [[]] * len(questions)
    num_done, pad_id = 0, padding_id(tokenizer)
    with inference(model):
        caches = padding.left  # until a batch shows that the model's cache cannot be copied
        for batch in plan_batches([q.num_cached for q in questions], batch_tokens):
            chosen = [questions[i] for i in batch]
            found = _score(model, chosen, pad_id, batch_tokens, padding) if caches else None
            caches = found is not None
            batch_scores = found or _score_whole(model, chosen, pad_id, batch_tokens, padding)
            for i, row_scores in zip(batch, batch_scores, strict=True):
                if not all(map(math.isfinite, row_scores)):
                    raise not_finite(names[i])
                scores[i] = row_scores
            num_done += len(batch)
            if progress:
                progress(num_done, len(questions))
    return [
        Likelihoods(row, question.num_prompt_tokens, question.num_candidate_tokens)
        for row, question in zip(scores, questions, strict=True)
    ]


def _encode(
    tokenizer: Any,
    prompt: str | Prompt,
    prompt_ids: list[int],
    candidates: Sequence[str],
    name: str,
    ends: list[int],
) -> _Question:
    if not prompt_ids:
        raise UserError(name, "must have a prompt of at least one token", got=prompt)
    if not candidates:
        raise UserError(name, "must have at least one candidate answer", got=[])
    completions = [
        encode_completion(tokenizer, prompt, prompt_ids, candidate) + ends
        for candidate in candidates
    ]
    if not all(completions):
        raise UserError(name, "a candidate must have at least one token", got=list(candidates))
    same = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*completions, strict=False))
    num_common = sum(1 for _ in same)
    return _Question(
        prefix=prompt_ids + completions[0][:num_common],
        num_common=num_common,
        tails=[completion[num_common:] for completion in completions],
    )


def _score_whole(
    model: Any, questions: list[_Question], pad_id: int, batch_tokens: int, padding: Padding
) -> list[list[float]]:
    """The mean log-likelihoods of a batch, each candidate with its whole prompt."""
    rows = [
        (q.prefix[: q.num_prompt_tokens], q.prefix[q.num_prompt_tokens :] + tail)
        for q in questions
        for tail in q.tails
    ]
    sums = iter(completion_sums(model, rows, pad_id, batch_tokens, pads=padding.right))
    return [[next(sums) / (q.num_common + len(tail)) for tail in q.tails] for q in questions]


def _score(
    model: Any, questions: list[_Question], pad_id: int, batch_tokens: int, padding: Padding
) -> list[list[float]] | None:
    """The mean log-likelihoods of a batch: one forward pass of prefixes, one of longer tails.

    They are None if there are longer tails and the model's cache cannot be copied for each.
    """
    num_kept = 1 + max(q.num_common for q in questions)
    prefixes = [q.prefix for q in questions]
    input_ids, mask, shared = prefill(
        model, prefixes, pad_id, num_left=num_kept, share=padding.inside
    )
    num_before = shared.get_seq_length() if shared else 0
    output = model(
        input_ids=input_ids[:, num_before:],
        attention_mask=mask,
        position_ids=positions(mask)[:, num_before:],
        past_key_values=shared,
        use_cache=True,
        logits_to_keep=num_kept,
    )
    log_probs = output.logits[:, -num_kept:].float().log_softmax(-1)
    sums = [_prefix_sums(row, q) for row, q in zip(log_probs, questions, strict=True)]
    tails = [(r, c) for r, q in enumerate(questions) for c, t in enumerate(q.tails) if len(t) > 1]
    if tails and not can_select(getattr(output, "past_key_values", None)):
        return None
    lengths = [input_ids.shape[1] + len(questions[r].tails[c]) for r, c in tails]
    chunks = plan_batches(lengths, batch_tokens)
    for number, chunk in enumerate(chunks, 1):
        # Only a single row with very many candidates has more than one chunk. Each chunk selects
        # from the cache in place, so all but the last need a copy.
        cache = output.past_key_values
        cache = cache if number == len(chunks) else copy.deepcopy(cache)
        pairs = [tails[i] for i in chunk]
        for (r, c), value in zip(
            pairs, _tail_sums(model, questions, pairs, cache, mask, pad_id), strict=True
        ):
            sums[r][c] += value
    return [
        [total / (q.num_common + len(tail)) for total, tail in zip(row, q.tails, strict=True)]
        for row, q in zip(sums, questions, strict=True)
    ]


def _prefix_sums(log_probs: torch.Tensor, question: _Question) -> list[float]:
    """The log-likelihood of each candidate up to the first token of its tail.

    ``log_probs`` is (K, V) with K > num_common; its last position predicts the tails.
    """
    common = 0.0
    if question.num_common:
        ids = torch.tensor(question.prefix[-question.num_common :], device=log_probs.device)
        predicting = log_probs[-question.num_common - 1 : -1]
        common = predicting.gather(-1, ids[:, None]).sum(dtype=torch.float64).item()
    firsts = torch.tensor([tail[0] if tail else 0 for tail in question.tails])
    values = log_probs[-1, firsts.to(log_probs.device)].tolist()
    return [common + (v if t else 0.0) for v, t in zip(values, question.tails, strict=True)]


def _tail_sums(
    model: Any,
    questions: list[_Question],
    pairs: list[tuple[int, int]],
    cache: Any,
    prefix_mask: torch.Tensor,
    pad_id: int,
) -> list[float]:
    """The log-likelihoods of tails without their first token.

    Args:
        model: The model.
        questions: The rows of the batch.
        pairs: The (row, candidate) of each tail to run, which has at least two tokens.
        cache: The cached prefixes of the batch, which are replaced.
        prefix_mask: (B, P), 1 where the prefixes have a token.
        pad_id: See :func:`padding_id`.
    """
    tails = [questions[r].tails[c] for r, c in pairs]
    rows = torch.tensor([r for r, _ in pairs], device=prefix_mask.device)
    input_ids, mask = pad([tail[:-1] for tail in tails], pad_id, prefix_mask.device, left=False)
    targets, _ = pad([tail[1:] for tail in tails], pad_id, prefix_mask.device, left=False)
    cache.batch_select_indices(rows)
    chosen = prefix_mask[rows]
    steps = torch.arange(input_ids.shape[1], device=input_ids.device)
    logits = model(
        input_ids=input_ids,
        attention_mask=torch.cat([chosen, mask], dim=-1),
        position_ids=chosen.sum(-1, keepdim=True) + steps,
        past_key_values=cache,
        use_cache=True,
    ).logits
    log_probs = logits.float().log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
    sums: list[float] = log_probs.masked_fill(mask == 0, 0).sum(-1, dtype=torch.float64).tolist()
    return sums
