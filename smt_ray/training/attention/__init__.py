"""Attention over packs: each row sees its own tokens, in memory that is linear in the tokens."""
