"""One rank that runs the code of docs/peft.md about accelerate, for the claims of test_docs.py.

It is started as ``accelerate_rank.py FOLDER NAME RANK NUM_RANKS PORT``, with the code in
accelerate.py of the folder. With two ranks, accelerate shards by FSDP2. Rank 0 writes the mean of
each trained block to NAME.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.ranks import set_rank

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


def main(folder: Path, name: str, rank: int, num_ranks: int) -> None:
    """Runs the code, and notes the adapter that it saves."""
    from safetensors.torch import load_file

    from tests.smt.layers.sharded_rank import shard_on_cpu

    code = (folder / "accelerate.py").read_text()
    if num_ranks > 1:
        os.environ |= FSDP2
        shard_on_cpu()
        # The batches of the ranks together are those of one rank.
        code = code.replace("batch_size=2", "batch_size=1")
    else:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    os.chdir(folder)
    code = code.replace('"adapter"', f'"{name}"')
    exec(compile(code, "docs/peft.md", "exec"), {"__name__": "__main__"})
    if rank == 0:
        tensors = load_file(folder / name / "adapter_model.safetensors")
        means = {n: float(t.abs().mean()) for n, t in tensors.items() if n.endswith(".blocks")}
        (folder / f"{name}.json").write_text(json.dumps(means))


if __name__ == "__main__":
    _, given_folder, given_name, given_rank, given_num_ranks, port = sys.argv
    set_rank(given_rank, given_num_ranks, port)
    main(Path(given_folder), given_name, int(given_rank), int(given_num_ranks))
