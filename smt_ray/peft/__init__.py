"""Sparse matrix tuning as a tuner of peft, for trainers that take a ``PeftConfig``.

Importing this package registers the tuner, so that peft knows ``SmtConfig`` and its saved adapters.

>>> from peft import get_peft_model
>>> from smt_ray.peft import SmtConfig, select
>>> selection = select(model, dataloader, budget=0.0084)
>>> model = get_peft_model(model, SmtConfig.from_selection(selection, task_type="CAUSAL_LM"))
"""

from smt_ray.peft.config import SmtConfig
from smt_ray.peft.layer import SmtLayer
from smt_ray.peft.model import SmtModel
from smt_ray.peft.registration import register
from smt_ray.peft.select import score_table, select

__all__ = ["SmtConfig", "SmtLayer", "SmtModel", "score_table", "select"]

register()
