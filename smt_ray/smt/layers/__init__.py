"""The layer of which only some values are trained.

The maths is in :mod:`functional`, and :mod:`compiled` has the same for ``torch.compile``. In
:mod:`delta`, the blocks stand beside a weight that is only used by its own layer. A layer
(:mod:`partial`; :mod:`linear` is that of square blocks) has its values where a :mod:`layout` says.
It keeps a part of its input (:mod:`kept_input`), and knows whether its weight holds the current
values (:mod:`weight_state`), also where others shard that weight (:mod:`sharded`).
"""
