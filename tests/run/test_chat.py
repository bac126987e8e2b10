"""A chat asks as training and evaluation do, and both models answer for themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from smt_ray.builtin import MODEL_DIR
from smt_ray.config.load import load_config
from smt_ray.data.prompts import Prompts
from smt_ray.data.rows import Prompt, Row
from smt_ray.errors import UserError
from smt_ray.evaluation.generate import generate_texts
from smt_ray.models.load import load_model, load_tokenizer
from smt_ray.run.chat import Chat, ChatSettings, chat_with_model, chat_with_run
from smt_ray.smt.adapter import load_adapter, save_adapter
from smt_ray.smt.model import apply_selection, sparse_modules
from smt_ray.smt.selection import ModuleSelection, Selection
from smt_ray.stages.plan import make_plan

QUESTIONS = ("What is 2 plus 3?", "And what does a hen lay?", "Why?")
SETTINGS = ChatSettings(max_new_tokens=12)
MODULE = "model.layers.0.self_attn.v_proj"


@pytest.fixture(scope="module")
def spec() -> Any:
    return load_config(None, []).model


@pytest.fixture(scope="module")
def adapter(spec: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter whose blocks are far from the base model's."""
    model = load_model(spec)
    shape = tuple(model.get_submodule(MODULE).weight.shape)
    indices = torch.tensor([[0, 0], [1, 2]], dtype=torch.int32)
    apply_selection(
        model,
        Selection(
            block_size=16, modules={MODULE: ModuleSelection(shape, indices, torch.ones(2))},
            num_base_parameters=738_432, num_requested=2, score="l2", scope="global", margin=0.1,
        ),
    )  # fmt: skip
    for layer in sparse_modules(model).values():
        layer.blocks.data += 3 * torch.randn(
            layer.blocks.shape, generator=torch.Generator().manual_seed(0)
        )
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(model, folder)
    return folder


@pytest.fixture(scope="module")
def answer(spec: Any, adapter: Path) -> Callable[..., str]:
    """The reference: the text that a model generates after the prompt of a row."""
    models = {"base": load_model(spec), "tuned": load_model(spec)}
    load_adapter(models["tuned"], adapter)
    prompts = Prompts(load_tokenizer(spec), "clean")

    def ask(name: str, row: Row, max_new_tokens: int = 12) -> str:
        (found,) = generate_texts(
            models[name], prompts.tokenizer, [prompts.ask(row)], max_new_tokens=max_new_tokens
        )
        return found.text

    return ask


def texts(chat: Chat, question: str) -> dict[str, str]:
    return {answer.model: answer.text for answer in chat.ask(question)}


@pytest.fixture
def chat(adapter: Path) -> Chat:
    return chat_with_model(str(MODEL_DIR), str(adapter), [], SETTINGS)


def test_each_model_answers_after_its_own_answers(chat: Chat, answer: Callable[..., str]) -> None:
    assert (chat.form, chat.settings.keeps_history) == ("clean", True)
    history: dict[str, tuple[tuple[str, str], ...]] = {"base": (), "tuned": ()}
    for question in QUESTIONS[:2]:
        expected = {
            name: answer(name, Row(question, "", history=turns)) for name, turns in history.items()
        }
        assert texts(chat, question) == expected
        history = {name: (*history[name], (question, expected[name])) for name in history}
    assert history["base"] != history["tuned"]


def test_a_new_conversation_and_a_chat_without_history_begin_anew(
    chat: Chat, adapter: Path, answer: Callable[..., str]
) -> None:
    expected = {name: answer(name, Row(QUESTIONS[1], "")) for name in ("base", "tuned")}
    texts(chat, QUESTIONS[0])
    assert texts(chat, QUESTIONS[1]) != expected
    chat.forget()
    assert texts(chat, QUESTIONS[1]) == expected
    settings = replace(SETTINGS, keeps_history=False)
    without = chat_with_model(str(MODEL_DIR), str(adapter), [], settings)
    texts(without, QUESTIONS[0])
    assert texts(without, QUESTIONS[1]) == expected


def test_a_chat_template_gets_the_whole_conversation(spec: Any, adapter: Path) -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    chat = chat_with_model(
        str(MODEL_DIR), str(adapter), [f"data.chat_template={json.dumps(template)}"],
        replace(SETTINGS, system="Be brief."),
    )  # fmt: skip
    assert (chat.form, chat.settings.keeps_history) == ("chat", True)
    tokenizer, tuned = load_tokenizer(spec), load_model(spec)
    load_adapter(tuned, adapter)
    messages = [{"role": "system", "content": "Be brief."}]
    for question in QUESTIONS[:2]:
        messages.append({"role": "user", "content": question})
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=True, tokenize=False
        )
        prompt = Prompt(text, has_specials=True)
        (expected,) = generate_texts(tuned, tokenizer, [prompt], max_new_tokens=12)
        assert texts(chat, question)["tuned"] == expected.text
        messages.append({"role": "assistant", "content": expected.text})


@pytest.mark.parametrize("form", ["legacy", "published"])
def test_a_form_without_a_place_for_history_keeps_none(adapter: Path, form: str) -> None:
    chat = chat_with_model(str(MODEL_DIR), str(adapter), [f"data.prompt={form}"], SETTINGS)
    assert not chat.settings.keeps_history
    first = texts(chat, QUESTIONS[0])
    assert texts(chat, QUESTIONS[0]) == first


def test_the_prompt_form_beside_an_adapter_is_used(adapter: Path, tmp_path: Path) -> None:
    for file in adapter.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "smt_ray_prompt.json").write_text('{"prompt": "legacy"}')
    assert chat_with_model(str(MODEL_DIR), str(tmp_path), [], SETTINGS).form == "legacy"


def test_a_verbatim_question_is_the_very_prompt(adapter: Path, answer: Callable[..., str]) -> None:
    settings = replace(SETTINGS, is_verbatim=True)
    chat = chat_with_model(str(MODEL_DIR), str(adapter), [], settings)
    assert (chat.form, chat.settings.keeps_history) == ("verbatim", False)
    row = Row("A hen lays", "", is_verbatim=True)
    assert texts(chat, "A hen lays") == {name: answer(name, row) for name in ("base", "tuned")}


def test_turns_that_no_longer_fit_are_left_out_and_counted(chat: Chat) -> None:
    long = "Say it again and again. " * 8
    counts = [chat.ask(long)[0].num_forgotten for _ in range(4)]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] > 0


def test_a_cut_answer_says_so_and_an_answer_that_ended_does_not(adapter: Path) -> None:
    cut = chat_with_model(str(MODEL_DIR), None, [], replace(SETTINGS, max_new_tokens=1))
    (found,) = cut.ask(QUESTIONS[0])
    assert (found.model, found.cut_at) == ("model", 1)
    whole = chat_with_model(str(MODEL_DIR), None, [], replace(SETTINGS, max_new_tokens=200))
    (found,) = whole.ask(QUESTIONS[0])
    assert found.cut_at is None


def test_a_question_that_does_not_fit_is_refused_and_the_chat_goes_on(
    chat: Chat, answer: Callable[..., str]
) -> None:
    with pytest.raises(UserError, match=r"^the question: .*256 positions"):
        chat.ask("word " * 300)
    assert texts(chat, QUESTIONS[0])["base"] == answer("base", Row(QUESTIONS[0], ""))


def test_a_temperature_draws_and_zero_does_not(adapter: Path) -> None:
    settings = replace(SETTINGS, temperature=5.0, keeps_history=False)
    hot = chat_with_model(str(MODEL_DIR), None, [], settings)
    torch.manual_seed(0)
    drawn = {texts(hot, QUESTIONS[0])["model"] for _ in range(4)}
    assert len(drawn) > 1
    cold = chat_with_model(str(MODEL_DIR), None, [], replace(settings, temperature=0.0))
    assert len({texts(cold, QUESTIONS[0])["model"] for _ in range(2)}) == 1


def test_an_adapter_of_another_model_is_refused(
    spec: Any, adapter: Path, make_llama: Callable[..., Any], tmp_path: Path
) -> None:
    make_llama().save_pretrained(tmp_path)
    load_tokenizer(spec).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="adapter"):
        chat_with_model(str(tmp_path), str(adapter), [], SETTINGS)
    with pytest.raises(UserError, match=r"^--adapter: must be an adapter's folder"):
        chat_with_model(str(MODEL_DIR), "nowhere", [], SETTINGS)


@pytest.mark.slow
def test_a_chat_with_a_run_gives_the_answers_of_its_evaluation(
    whole: Any, quick: Callable[..., Any]
) -> None:
    task = "tiny_arithmetic"
    test = make_plan(quick(whole.storage)).tests[task]
    settings = ChatSettings(max_new_tokens=test.max_new_tokens, keeps_history=False)
    chat = chat_with_run(str(whole.storage), whole.name, [], settings)
    for who in ("base", "tuned"):
        lines = (whole.stage(f"evaluation_{who}") / "generate" / f"{task}.jsonl").read_text()
        expected = [json.loads(line)["output"] for line in lines.splitlines()]
        assert [texts(chat, row.instruction)[who] for row in test.rows] == expected
