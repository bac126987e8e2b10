"""Trained values at other places than square blocks: single elements and whole input columns.

Single elements are those of SIFT ("Sparse is Enough in Fine-tuning Pre-trained Large Language
Models", Song et al., ICML 2024), with the largest gradients. Columns, (out_features x 1) blocks,
are what the published code of SMT calls channels. Both are trained in place: a
:mod:`layout <layouts>` says how their gradients are computed.
"""
