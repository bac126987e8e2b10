"""Reads published rows back into records of their datasets."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Record = dict[str, Any]

_ASK = r"Please choose the correct {} (?:to|to complete|to fill in the blank to complete) the "
_ENDS = r"\n\nAnswer format: [\w/]+"


def parse(task: str, row: dict[str, str]) -> Record:
    """A record of the task's dataset with the contents of a row.

    If several records give the same row (by where a question begins, for example), it is any.
    """
    return _PARSERS[task](row["instruction"], row["answer"], row["output"])


def _match(pattern: str, instruction: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, instruction, re.DOTALL)
    assert found, instruction
    return found.groups()


def _boolq(instruction: str, answer: str, _: str) -> Record:
    (question,) = _match(r"Please answer .*?, question: (.*)\?" + _ENDS, instruction)
    return {"question": question, "answer": answer == "true"}


def _piqa(instruction: str, answer: str, _: str) -> Record:
    ask = _ASK.format("solution") + "question: (.*)"
    goal, sol1, sol2 = _match(f"{ask}\n\nSolution1: (.*)\n\nSolution2: (.*){_ENDS}", instruction)
    return {"goal": goal, "sol1": sol1, "sol2": sol2, "label": int(answer[-1]) - 1}


def _listed(instruction: str, ask: str, stem: str) -> tuple[str, list[str]]:
    question, listed = _match(rf"{ask}(.*?)\n\n({stem}1: .*){_ENDS}", instruction)
    marks = re.split(rf" ?{stem}\d: ", listed)
    assert marks[0] == ""
    return question, marks[1:]


def _social_i_qa(instruction: str, answer: str, _: str) -> Record:
    asked, texts = _listed(instruction, _ASK.format("answer") + "question: ", "Answer")
    context, question = asked.split(" ", 1)
    named = {f"answer{letter}": text for letter, text in zip("ABC", texts, strict=True)}
    return {"context": context, "question": question, **named, "label": answer[-1]}


def _hellaswag(instruction: str, answer: str, _: str) -> Record:
    ask = _ASK.format("ending") + "given sentence: "
    sentence, endings = _listed(instruction, ask, "Ending")
    label, ctx = sentence.split(": ", 1)
    index = str(int(answer[-1]) - 1)
    return {"activity_label": label, "ctx": ctx, "endings": endings, "label": index}


def _winogrande(instruction: str, answer: str, _: str) -> Record:
    ask = _ASK.format("answer") + "given sentence: (.*)"
    sentence, option1, option2 = _match(
        f"{ask}\n\nOption1: (.*) Option2: (.*) Answer format: option1/option2", instruction
    )
    return {"sentence": sentence, "option1": option1, "option2": option2, "answer": answer[-1]}


def _science(name: str) -> Callable[[str, str, str], Record]:
    def parse_one(instruction: str, answer: str, _: str) -> Record:
        asked, texts = _listed(instruction, _ASK.format("answer") + "question: ", "Answer")
        labels = list("ABCDE"[: len(texts)])
        key = labels[int(answer[-1]) - 1]
        return {name: asked, "choices": {"text": texts, "label": labels}, "answerKey": key}

    return parse_one


def _gsm8k(instruction: str, answer: str, output: str) -> Record:
    solution = output.strip().rpartition(" The answer is ")[0]
    return {"question": instruction, "answer": f"{solution}\n#### {int(float(answer)):,}"}


def _aqua(instruction: str, answer: str, output: str) -> Record:
    question, listed = _match("(.*) Answer Choices:(.*)", instruction)
    cuts = re.split(r" \(([A-E])\) ", listed)
    texts = [text.replace(" (", "(").replace(") ", ")") for text in cuts[2::2]]
    options = [f"{letter}){text}" for letter, text in zip(cuts[1::2], texts, strict=True)]
    return {"question": question, "options": options, "rationale": output, "correct": answer}


def _multiarith(instruction: str, answer: str, _: str) -> Record:
    return {"question": instruction, "final_ans": str(int(float(answer)))}


def _svamp(instruction: str, answer: str, _: str) -> Record:
    body, question = _match(r"(.*)\. (.*)", instruction)
    return {"Body": body, "Question": question, "Answer": answer}


_PARSERS: dict[str, Callable[[str, str, str], Record]] = {
    "boolq": _boolq,
    "piqa": _piqa,
    "social_i_qa": _social_i_qa,
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
    "ARC-Easy": _science("question"),
    "ARC-Challenge": _science("question"),
    "openbookqa": _science("question_stem"),
    "MultiArith": _multiarith,
    "gsm8k": _gsm8k,
    "AQuA": _aqua,
    "SVAMP": _svamp,
}
