"""The original datasets of the published tasks on the Hugging Face hub, as LLM-Adapters' rows.

There is one entry for each task: its dataset, its splits, and a pure function from a record to a
row. The splits are those that have as many rows as LLM-Adapters' files. If test labels are hidden,
this is the validation split. MultiArith and SVAMP were split by those who uploaded them, and all of
their splits are used. The training rows of winogrande are those of all six configurations, although
one contains rows of others (160 + 640 + 2,558 + 10,234 + 40,398 + 9,248 = 63,238).

Instructions, answers and commonsense outputs equal those of LLM-Adapters. A language model wrote
the math outputs of LLM-Adapters; here they are the solutions in the datasets. AddSub and SingleEq
have no dataset with the published rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]
Fields = dict[str, str]
RowMaker = Callable[[Record], Fields]
Split = tuple[str | None, str]

# The branch of datasets whose main branch is a script, which the library no longer runs.
_PARQUET = "refs/convert/parquet"
_CALCULATION = re.compile(r"<<[^>]*>>")


@dataclass(frozen=True)
class HubTask:
    """The dataset of a task.

    Attributes:
        dataset: The name on the hub.
        row: A function from a record to the fields of a row.
        test: The (configuration, split) of the test rows; several are joined.
        train: The (configuration, split) of the training rows; empty if all rows are test rows.
        revision: The branch to read; None for the main branch.
        float_answers: Whether the answers of test rows have the form 18.0; those of training rows
            are as in the dataset.
    """

    dataset: str
    row: RowMaker
    test: tuple[Split, ...]
    train: tuple[Split, ...] = ((None, "train"),)
    revision: str | None = None
    float_answers: bool = False

    def test_row(self, record: Record) -> Fields:
        """The fields of a test row.

        Raises:
            LookupError, ValueError, TypeError, AttributeError: The record has another form.
        """
        fields = self.row(record)
        return {**fields, "answer": str(float(fields["answer"]))} if self.float_answers else fields


def _row(instruction: str, output: str, answer: str) -> Fields:
    return {"instruction": instruction, "input": "", "output": output, "answer": answer}


def _choice(
    question: str, stem: str, texts: Sequence[str], right: int, *, between: str = " ",
    before_format: str = "\n\n",
) -> Fields:  # fmt: skip
    """A question with numbered texts to choose from.

    ``stem`` is the name of a text (answer, ending, option, solution), and ``right`` the index of
    the right one.
    """
    if not 0 <= right < len(texts):
        raise ValueError(f"no label of a text: {right}")  # a hidden test label is -1, for example
    names = [f"{stem}{i}" for i in range(1, len(texts) + 1)]
    pairs = zip(names, texts, strict=True)
    listed = between.join(f"{name.capitalize()}: {text}" for name, text in pairs)
    answer = names[right]
    form = "/".join(names)
    instruction = f"{question}\n\n{listed}{before_format}Answer format: {form}"
    return _row(instruction, f"the correct answer is {answer}", answer)


def _boolq(record: Record) -> Fields:
    answer = {True: "true", False: "false"}[record["answer"]]
    return _row(
        "Please answer the following question with true or false, question: "
        f"{record['question']}?\n\nAnswer format: true/false",
        f"the correct answer is {answer}",
        answer,
    )


def _piqa(record: Record) -> Fields:
    question = f"Please choose the correct solution to the question: {record['goal']}"
    texts = [record["sol1"], record["sol2"]]
    return _choice(question, "solution", texts, int(record["label"]), between="\n\n")


def _social_i_qa(record: Record) -> Fields:
    asked = f"{record['context']} {record['question']}"
    texts = [record[f"answer{letter}"] for letter in "ABC"]
    question = f"Please choose the correct answer to the question: {asked}"
    return _choice(question, "answer", texts, int(record["label"]) - 1)


def _hellaswag(record: Record) -> Fields:
    sentence = f"{record['activity_label']}: {record['ctx']}"
    question = f"Please choose the correct ending to complete the given sentence: {sentence}"
    return _choice(question, "ending", record["endings"], int(record["label"]))


def _winogrande(record: Record) -> Fields:
    question = (
        "Please choose the correct answer to fill in the blank to complete the given sentence: "
        f"{record['sentence']}"
    )
    texts = [record["option1"], record["option2"]]
    return _choice(question, "option", texts, int(record["answer"]) - 1, before_format=" ")


def _lettered(asked: str, record: Record) -> Fields:
    """The form of ARC and OpenBookQA: any number of answers, labelled by letters or numbers."""
    choices = record["choices"]
    question = f"Please choose the correct answer to the question: {asked}"
    right = list(choices["label"]).index(record["answerKey"])
    return _choice(question, "answer", choices["text"], right)


def _arc(record: Record) -> Fields:
    return _lettered(record["question"], record)


def _openbookqa(record: Record) -> Fields:
    return _lettered(record["question_stem"], record)


def _gsm8k(record: Record) -> Fields:
    solution, mark, number = record["answer"].rpartition("#### ")
    if not mark:
        raise ValueError("no #### before the answer")
    number = number.strip().replace(",", "")
    steps = _one_line(_CALCULATION.sub("", solution))
    return _row(record["question"].strip(), f"{steps} The answer is {number}.", number)


def _aqua(record: Record) -> Fields:
    # The published rows have spaces around every parenthesis, also within an option.
    options = "".join(f"({option}" for option in record["options"])
    options = options.replace("(", " (").replace(")", ") ")
    letter = record["correct"]
    return _row(
        f"{record['question'].strip()} Answer Choices:{options}",
        f"{_one_line(record['rationale'])} The answer is ({letter}).",
        letter,
    )


def _multiarith(record: Record) -> Fields:
    number = str(record["final_ans"])
    return _row(f" {record['question'].strip()} ", f"The answer is {number}.", number)


def _svamp(record: Record) -> Fields:
    body, number = record["Body"].strip(), str(record["Answer"])
    stop = "" if body.endswith(".") else "."
    return _row(f"{body}{stop} {record['Question'].strip()}", f"The answer is {number}.", number)


def _one_line(text: str) -> str:
    return text.strip().replace("\n", " ")


HUB_TASKS: dict[str, HubTask] = {
    "boolq": HubTask("google/boolq", _boolq, ((None, "validation"),)),
    "piqa": HubTask("ybisk/piqa", _piqa, ((None, "validation"),), revision=_PARQUET),
    "social_i_qa": HubTask(
        "allenai/social_i_qa", _social_i_qa, ((None, "validation"),), revision=_PARQUET
    ),
    "hellaswag": HubTask("Rowan/hellaswag", _hellaswag, ((None, "validation"),)),
    "winogrande": HubTask(
        "allenai/winogrande",
        _winogrande,
        (("winogrande_xl", "validation"),),
        tuple((f"winogrande_{size}", "train") for size in ("xs", "s", "m", "l", "xl", "debiased")),
    ),
    "ARC-Easy": HubTask(
        "allenai/ai2_arc", _arc, (("ARC-Easy", "test"),), (("ARC-Easy", "train"),)
    ),
    "ARC-Challenge": HubTask(
        "allenai/ai2_arc", _arc, (("ARC-Challenge", "test"),), (("ARC-Challenge", "train"),)
    ),
    "openbookqa": HubTask(
        "allenai/openbookqa", _openbookqa, (("main", "test"),), (("main", "train"),)
    ),
    "MultiArith": HubTask(
        "ChilleD/MultiArith", _multiarith, ((None, "train"), (None, "test")), (),
        float_answers=True,
    ),
    "gsm8k": HubTask(
        "openai/gsm8k", _gsm8k, (("main", "test"),), (("main", "train"),), float_answers=True
    ),
    "AQuA": HubTask("deepmind/aqua_rat", _aqua, (("raw", "test"),), (("raw", "train"),)),
    "SVAMP": HubTask(
        "ChilleD/SVAMP", _svamp, ((None, "train"), (None, "test")), (), float_answers=True
    ),
}  # fmt: skip
"""Every task that has a dataset on the hub, by its name."""
