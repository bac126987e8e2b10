"""The layer of which only some blocks are trained.

The maths is in :mod:`functional`, and :mod:`compiled` has the same for ``torch.compile``. In
:mod:`delta`, the blocks stand beside a weight that is only used by its own layer. A layer
(:mod:`linear`) keeps a part of its input (:mod:`kept_input`), knows whether its weight holds the
current blocks (:mod:`weight_state`), also where others shard that weight (:mod:`sharded`).
"""
