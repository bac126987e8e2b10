"""Imports what ranks need besides Ray; the fork server imports it once for all workers."""

from __future__ import annotations

import torch

from smt_ray.models.load import import_transformers
from smt_ray.training.engine import import_deepspeed

import_transformers()
if not torch.version.cuda and not torch.version.hip:  # DeepSpeed looks for GPUs
    import_deepspeed(torch.device("cpu"))
