"""SIFT: the single elements of the weights with the largest gradients are trained.

The method is that of "Sparse is Enough in Fine-tuning Pre-trained Large Language Models" (Song et
al., ICML 2024), which SMT is compared with. Elements are chosen by the gradient that a warm-up sums
up (:mod:`selection`). They are trained in place by a layer whose backward makes the dense gradient
of one weight, takes the elements out of it and frees it (:mod:`layer`).
"""
