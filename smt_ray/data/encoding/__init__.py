"""Rows and prompts as token ids, by the same rule for training and evaluation.

A row consists of the ids of its prompt (with BOS if the tokenizer adds it), the ids of the output,
and EOS. The prompt is tokenised as in evaluation. The ids of the output are those after the prompt
in the tokenised whole text, as the model would generate them.
"""
