"""Invented records in the form of the published tasks' datasets, and their expected rows."""

from __future__ import annotations

from typing import Any

CHOOSE = "Please choose the correct"


def chosen(instruction: str, answer: str) -> dict[str, str]:
    output = f"the correct answer is {answer}"
    return {"instruction": instruction, "input": "", "output": output, "answer": answer}


def solved(instruction: str, output: str, answer: str) -> dict[str, str]:
    return {"instruction": instruction, "input": "", "output": output, "answer": answer}


RECORDS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "boolq": (
        {"question": "is tea older than coffee", "answer": True, "passage": "Tea is old."},
        chosen(
            "Please answer the following question with true or false, question: is tea older than"
            " coffee?\n\nAnswer format: true/false",
            "true",
        ),
    ),
    "piqa": (
        {"goal": "dry a cup ", "sol1": "use a towel ", "sol2": "use a fork", "label": 0},
        chosen(
            f"{CHOOSE} solution to the question: dry a cup \n\nSolution1: use a towel \n\n"
            "Solution2: use a fork\n\nAnswer format: solution1/solution2",
            "solution1",
        ),
    ),
    "social_i_qa": (
        {
            "context": "Ann lent Ben a pen.", "question": "How would Ben feel?",
            "answerA": "angry", "answerB": "grateful", "answerC": "Tired", "label": "2\n",
        },
        chosen(
            f"{CHOOSE} answer to the question: Ann lent Ben a pen. How would Ben feel?\n\n"
            "Answer1: angry Answer2: grateful Answer3: Tired\n\n"
            "Answer format: answer1/answer2/answer3",
            "answer2",
        ),
    ),
    "hellaswag": (
        {
            "ind": 7, "activity_label": "Baking", "ctx_a": "A cook opens an oven.", "ctx_b": "he",
            "ctx": "A cook opens an oven. he", "label": "3", "split": "val",
            "endings": ["swims.", ", then he sleeps.", "[title] Sing.", "takes a loaf out."],
        },
        chosen(
            f"{CHOOSE} ending to complete the given sentence: Baking: A cook opens an oven. he\n\n"
            "Ending1: swims. Ending2: , then he sleeps. Ending3: [title] Sing. Ending4: takes a"
            " loaf out.\n\nAnswer format: ending1/ending2/ending3/ending4",
            "ending4",
        ),
    ),
    "winogrande": (
        {
            "sentence": "The cup broke the plate because the _ was heavy.", "option1": "cup",
            "option2": "plate", "answer": "1",
        },
        chosen(
            f"{CHOOSE} answer to fill in the blank to complete the given sentence: The cup broke"
            " the plate because the _ was heavy.\n\nOption1: cup Option2: plate Answer format:"
            " option1/option2",
            "option1",
        ),
    ),
    "ARC-Easy": (
        {
            "id": "A_1", "question": "Which is a planet?", "answerKey": "3",
            "choices": {"text": ["Moon", "Sun", "Mars"], "label": ["1", "2", "3"]},
        },
        chosen(
            f"{CHOOSE} answer to the question: Which is a planet?\n\nAnswer1: Moon Answer2: Sun"
            " Answer3: Mars\n\nAnswer format: answer1/answer2/answer3",
            "answer3",
        ),
    ),
    "ARC-Challenge": (
        {
            "id": "A_2", "question": "Ice is", "answerKey": "E",
            "choices": {"text": ["a.", "b.", "c.", "d.", "cold."], "label": list("ABCDE")},
        },
        chosen(
            f"{CHOOSE} answer to the question: Ice is\n\nAnswer1: a. Answer2: b. Answer3: c."
            " Answer4: d. Answer5: cold.\n\nAnswer format: answer1/answer2/answer3/answer4/answer5",
            "answer5",
        ),
    ),
    "openbookqa": (
        {
            "id": "O_1", "question_stem": "Owls eat", "answerKey": "B",
            "choices": {"text": ["sand", "mice", "iron", "light"], "label": list("ABCD")},
        },
        chosen(
            f"{CHOOSE} answer to the question: Owls eat\n\nAnswer1: sand Answer2: mice Answer3:"
            " iron Answer4: light\n\nAnswer format: answer1/answer2/answer3/answer4",
            "answer2",
        ),
    ),
    "MultiArith": (
        {"question": " Ann had 9 pens. She lost 2. How many are left? ", "final_ans": "7"},
        solved(
            " Ann had 9 pens. She lost 2. How many are left? ", "The answer is 7.", "7.0"
        ),
    ),
    "gsm8k": (
        {
            "question": "Ann has 4 boxes of 500 pens.  How many pens?",
            "answer": "A box has 500 pens.\nSo 4*500 = <<4*500=2000>>2000 pens.\n#### 2,000",
        },
        solved(
            "Ann has 4 boxes of 500 pens.  How many pens?",
            "A box has 500 pens. So 4*500 = 2000 pens. The answer is 2000.",
            "2000.0",
        ),
    ),
    "AQuA": (
        {
            "question": "If x = 2, what is half of x + 2?", "correct": "B",
            "options": ["A)x", "B)(x + 2)/2", "C) 3", "D)4%", "E)None (of these)"],
            "rationale": "It is a half.\nAnswer is B.",
        },
        solved(
            "If x = 2, what is half of x + 2? Answer Choices: (A) x (B)  (x + 2) /2 (C)  3 (D) 4%"
            " (E) None  (of these) ",
            "It is a half. Answer is B. The answer is (B).",
            "B",
        ),
    ),
    "SVAMP": (
        {
            "ID": "chal-1", "Body": "Ann has 8 pens. If she gives Ben 5", "Equation": "( 8 - 5 )",
            "Question": "How many are left?", "Answer": "3", "Type": "Subtraction",
        },
        solved(
            "Ann has 8 pens. If she gives Ben 5. How many are left?", "The answer is 3.", "3.0"
        ),
    ),
}  # fmt: skip
"""Task -> a record and its test row."""
