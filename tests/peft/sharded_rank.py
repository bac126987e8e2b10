"""One rank that trains the tuner by transformers' Trainer, for the claims of test_sharded.py.

It is started as ``sharded_rank.py FOLDER PART RANK NUM_RANKS PORT``. The part is ``plain``,
``zero3`` or ``fsdp2``. The folder holds model/ and selection.safetensors. Rank 0 writes the losses
to PART.json and the adapter to PART/.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.ranks import set_rank
from tests.smt.layers.sharded_rank import Rows, make_arguments


def main(folder: Path, part: str, rank: int, num_ranks: int) -> None:
    """Trains, evaluates twice and saves the adapter."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    from smt_ray.peft import SmtConfig

    # Under ZeRO-3 the arguments must exist before the model, which is then partitioned on loading.
    arguments = make_arguments(folder, part, num_ranks)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    config = SmtConfig.from_selection(folder / "selection.safetensors", task_type="CAUSAL_LM")
    trainer = Trainer(
        get_peft_model(model, config), arguments, train_dataset=Rows(), eval_dataset=Rows()
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    evaluated = [trainer.evaluate()["eval_loss"] for _ in range(2)]
    trainer.save_model(str(folder / part))
    if rank == 0:
        facts = {"losses": losses, "evaluated": evaluated}
        (folder / f"{part}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    _, given_folder, given_part, given_rank, given_num_ranks, port = sys.argv
    set_rank(given_rank, given_num_ranks, port)
    main(Path(given_folder), given_part, int(given_rank), int(given_num_ranks))
