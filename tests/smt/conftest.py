"""Small models for the tests of this folder."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smt_ray.models.quantisation import quantise as quantise_
from smt_ray.smt.selection import Selection, select_by_scores

HIDDEN = 16
VOCABULARY = 11


class Attention(nn.Module):
    """Single-head attention with fewer key and value features, as with grouped queries."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HIDDEN, bias=bias)
        self.k_proj = nn.Linear(HIDDEN, HIDDEN // 2, bias=bias)
        self.v_proj = nn.Linear(HIDDEN, HIDDEN // 2, bias=bias)
        self.o_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        k, v = (F.pad(p(x), (0, HIDDEN // 2)) for p in (self.k_proj, self.v_proj))
        return x + self.o_proj(F.scaled_dot_product_attention(self.q_proj(x), k, v))


class Toy(nn.Module):
    """Two attention layers, an embedding, and a head with the weight of the embedding."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Attention(bias) for _ in range(2))
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))

    def loss(self, tokens: Tensor) -> Tensor:
        logits = self(tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@pytest.fixture
def make_toy() -> Callable[..., Toy]:
    """Makes the same toy model every time, by default in float64."""

    def make(bias: bool = False, dtype: torch.dtype = torch.float64, seed: int = 0) -> Toy:
        torch.manual_seed(seed)
        return Toy(bias).to(dtype)

    return make


@pytest.fixture
def tokens() -> Tensor:
    """A batch of token ids, (3, 7)."""
    return torch.randint(VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def choose() -> Callable[..., Selection]:
    """Selects blocks of 4 x 4 of a toy's q, k and v by random scores."""

    def select(model: nn.Module, num_blocks: int = 9, seed: int = 0) -> Selection:
        generator = torch.Generator().manual_seed(seed)
        scores = {
            name: torch.rand(m.out_features // 4, m.in_features // 4, generator=generator)
            for name, m in model.named_modules()
            if name.endswith(("q_proj", "k_proj", "v_proj"))
        }
        return select_by_scores(
            scores,
            block_size=4,
            num_base_parameters=sum(p.numel() for p in model.parameters()),
            num_blocks=num_blocks,
            score="random",
        )

    return select


@pytest.fixture
def train() -> Callable[..., list[float]]:
    """Trains for some Adam steps and returns the losses."""

    def run(model: Toy, tokens: Tensor, steps: int = 5) -> list[float]:
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=1e-2)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = model.loss(tokens)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return run


@pytest.fixture
def quantise() -> Callable[..., nn.Module]:
    """Makes a quantised copy of a model."""

    def quantise(model: nn.Module, kind: str) -> nn.Module:
        return quantise_(copy.deepcopy(model), kind, "cpu", torch.float32)

    return quantise
