"""Claims about conversations: their targets, and templates that cannot be used."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import AddedToken

from smt_ray.data.batches import step_micro_batches
from smt_ray.data.encoding.rows import Encoding, encode_rows
from smt_ray.data.encoding.stored import load_tokens, save_tokens
from smt_ray.data.prompts import Prompts
from smt_ray.data.records import parse_row
from smt_ray.data.rows import Row
from smt_ray.errors import UserError

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TURNS = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yo"), ("user", "2+2?"),
         ("assistant", "four")]  # fmt: skip


def chat(*turns: tuple[str, str], **fields: Any) -> Row:
    return of_messages(*({"role": role, "content": content} for role, content in turns), **fields)


def of_messages(*messages: dict[str, Any], **fields: Any) -> Row:
    row = parse_row({"messages": list(messages), **fields}, "chat.json, row 0")
    assert row is not None
    return row


@pytest.fixture
def tokenizer(kind: str, make_tokenizer: Callable[[str], Any]) -> Any:
    made = copy.deepcopy(make_tokenizer(kind))
    made.chat_template = TEMPLATE
    return made


class Slow:
    """A tokenizer without offsets."""

    is_fast = False

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *texts: Any, **options: Any) -> Any:
        assert not options.pop("return_offsets_mapping", False)
        return self._tokenizer(*texts, **options)


def tokenised(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def rendered(tokenizer: Any, *turns: tuple[str, str], to_speak: bool = False) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=to_speak)


def learned(tokenizer: Any, row: Row, **options: Any) -> list[str]:
    """The texts of a row's adjacent targets."""
    encoded, _ = encode_rows(tokenizer, [row], Encoding(**options))
    places, ids = encoded.targets(0, False).tolist(), encoded.row(0).tolist()
    runs: list[list[int]] = []
    for place in places:
        if place - 1 not in places:
            runs.append([])
        runs[-1].append(ids[place])
    return [tokenizer.decode(run) for run in runs]


def test_the_targets_are_the_turns_of_the_assistant_with_their_ends(
    tokenizer: Any,
) -> None:
    eos = tokenizer.eos_token
    assert learned(tokenizer, chat(*TURNS)) == [f"Yo{eos}", f"four{eos}"]


def test_a_row_is_the_tokenised_text_of_the_template_up_to_its_last_eos(
    tokenizer: Any,
) -> None:
    encoded, _ = encode_rows(tokenizer, [chat(*TURNS)])
    whole = rendered(tokenizer, *TURNS)
    assert encoded.row(0).tolist() == tokenised(tokenizer, whole.removesuffix("\n"))


def test_the_tokens_before_a_turn_are_the_prompt_of_the_model(tokenizer: Any) -> None:
    encoded, _ = encode_rows(tokenizer, [chat(*TURNS)])
    ids, places = encoded.row(0).tolist(), encoded.targets(0, False).tolist()
    begins = [place for place in places if place - 1 not in places]
    for begin, turn in zip(begins, (2, 4), strict=True):
        assert ids[:begin] == tokenised(
            tokenizer, rendered(tokenizer, *TURNS[:turn], to_speak=True)
        )


@pytest.mark.parametrize("template", [TEMPLATE, TEMPLATE.replace(">", "> ")])
def test_a_tokenizer_without_offsets_gives_the_same_row(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    fast, slow = (encode_rows(made, [chat(*TURNS)])[0] for made in (tokenizer, Slow(tokenizer)))
    assert slow.row(0).tolist() == fast.row(0).tolist()
    assert slow.targets(0, False).tolist() == fast.targets(0, False).tolist()


@pytest.mark.parametrize("trim", [False, True])
def test_a_token_across_a_border_is_split_there(
    make_tokenizer: Callable[[str], Any], trim: bool
) -> None:
    tokenizer = copy.deepcopy(make_tokenizer("bytes"))
    # Offsets may not include the space at the beginning of a token.
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    tokenizer.chat_template = TEMPLATE.replace(">", "> ")
    turns = [("user", "Is it?"), ("assistant", "the answer"), ("user", "So?"),
             ("assistant", "the correct")]  # fmt: skip
    opened = [rendered(tokenizer, *turns[:n], to_speak=True) for n in (1, 3)]
    assert tokenised(tokenizer, opened[0] + "the")[-2] != tokenised(tokenizer, opened[0])[-1]
    first = [*tokenised(tokenizer, opened[0]), *tokenised(tokenizer, "the answer</s>\n<user> So?")]
    encoded, _ = encode_rows(tokenizer, [chat(*turns)])
    assert encoded.row(0).tolist()[: len(first)] == first
    assert learned(tokenizer, chat(*turns)) == ["the answer</s>", "the correct</s>"]


@pytest.mark.parametrize("trim", [False, True])
def test_spaces_that_belong_to_a_special_token_do_not_shorten_a_row(
    make_tokenizer: Callable[[str], Any], trim: bool
) -> None:
    tokenizer = copy.deepcopy(make_tokenizer("bytes"))
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    swallowing = AddedToken("<assistant>", rstrip=True, special=True, normalized=False)
    tokenizer.add_tokens([swallowing], special_tokens=True)
    tokenizer.chat_template = TEMPLATE.replace(">", ">\n")
    encoded, _ = encode_rows(tokenizer, [chat(*TURNS)])
    whole = rendered(tokenizer, *TURNS)
    assert encoded.row(0).tolist() == tokenised(tokenizer, whole.removesuffix("\n"))
    assert learned(tokenizer, chat(*TURNS)) == ["Yo</s>", "four</s>"]


def test_a_row_ends_with_eos_even_if_the_template_has_none(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATE.replace("{{ eos_token }}", "")
    assert learned(tokenizer, chat(*TURNS)) == ["Yo\n", f"four\n{tokenizer.eos_token}"]


def test_the_first_token_is_never_a_target(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages if m.role != 'system' %}{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    encoded, _ = encode_rows(tokenizer, [chat(TURNS[0], ("assistant", "Yo"), *TURNS[1:3])])
    places = encoded.targets(0, False).tolist()
    assert places[0] == 1
    assert encoded.num_targets(False).tolist() == [len(places)]


def test_a_truncated_row_keeps_the_turns_before_the_cut(tokenizer: Any) -> None:
    whole, _ = encode_rows(tokenizer, [chat(*TURNS)])
    length = int(whole.lengths[0]) - 2
    first, second = learned(tokenizer, chat(*TURNS), max_length=length)
    assert first == f"Yo{tokenizer.eos_token}"
    assert second
    assert "four".startswith(second)
    assert second != "four"


def test_a_conversation_of_two_turns_has_one_span_of_targets(tokenizer: Any) -> None:
    encoded, _ = encode_rows(tokenizer, [chat(("user", "Hi"), ("assistant", "Yo"))])
    assert encoded.is_target is None


def test_counts_targets_and_batches_agree_in_every_mode(tokenizer: Any, tmp_path: Path) -> None:
    rows = [chat(*TURNS), Row("Add.", "3"), chat(*TURNS[1:3]), chat(*TURNS[:3])]
    made, _ = encode_rows(tokenizer, rows)
    save_tokens(tmp_path / "tokens", {"training": made})
    encoded = load_tokens(tmp_path / "tokens", "training")
    assert encoded is not None
    for on_inputs in (False, True):
        counts = [len(encoded.targets(row, on_inputs)) for row in range(4)]
        assert encoded.num_targets(on_inputs).tolist() == counts
        found = {}
        for mode in ("padded", "packed", "prefix_packed"):
            (batch,) = step_micro_batches(
                encoded, range(4), mode=mode, max_tokens=10_000, train_on_inputs=on_inputs
            )
            assert batch.weights.sum().item() == pytest.approx(1)
            order = torch.argsort(batch.targets, stable=True)
            totals = torch.zeros(1000).index_add_(0, batch.targets[order], batch.weights[order])
            found[mode] = totals
        assert torch.allclose(found["padded"], found["packed"])
        assert torch.allclose(found["padded"], found["prefix_packed"])


def render(tokenizer: Any, row: Row, template: str, **options: Any) -> Any:
    """A row by a template, and the texts of its targets."""
    prompts = Prompts(tokenizer, "chat", template, **options)
    found = prompts.render(row)
    # The model is asked with the very text before the last target.
    assert prompts.ask(row).text == found.text[: found.targets[-1][0]]
    return found, [found.text[begin:end] for begin, end in found.targets]


HEAD = "{% for m in messages %}"
REPLY = "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
MARKED = (
    f"{HEAD}<{{{{ m.role }}}}>{{% if m.role == 'assistant' %}}{{% generation %}}{{{{ m.content }}}}"
    f"{{{{ eos_token }}}}{{% endgeneration %}}{{% else %}}{{{{ m.content }}}}{{% endif %}}\n{REPLY}"
)
DROPS_THOUGHTS = (  # an empty thought before the last reply alone, as Qwen3's
    f"{HEAD}<{{{{ m.role }}}}>{{% if loop.last and m.role == 'assistant' %}}<think></think>"
    f"{{% endif %}}{{{{ m.content }}}}{{{{ eos_token }}}}\n{REPLY}"
)
ASKS_FOR_THOUGHTS = TEMPLATE.replace("<assistant>", "<assistant><think>\n")
ENDS_ONCE = (  # EOS after the whole conversation alone, as Phi-3's
    f"{HEAD}<{{{{ m.role }}}}>{{{{ m.content }}}}<end>\n{{% endfor %}}"
    "{% if add_generation_prompt %}<assistant>{% else %}{{ eos_token }}{% endif %}"
)
FORGETS = (  # what was said before a final reply is rewritten once the reply is there
    f"{HEAD}<{{{{ m.role }}}}>{{{{ 'gone' if m.role == 'tool' and not loop.last else m.content }}}}"
    f"{{{{ eos_token }}}}\n{REPLY}"
)
PARTS = TEMPLATE.replace("{{ m.content }}", "{% for p in m.content %}{{ p.text }}{% endfor %}")
TOOLS = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}"
    f"{HEAD}<{{{{ m.role }}}}>{{{{ m.content }}}}"
    "{% for c in m.tool_calls %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]"
    "{% endfor %}"
    f"{{{{ eos_token }}}}\n{REPLY}"
)
JSON_CALLS = TOOLS.replace(
    " {{ c.function.arguments | tojson }}", "{{ '' + c.function.arguments }}"
)


def test_marks_of_the_template_are_the_targets(tokenizer: Any) -> None:
    eos = tokenizer.eos_token
    found, learned = render(tokenizer, chat(*TURNS), MARKED)
    assert learned == [f"Yo{eos}", f"four{eos}"]
    assert found.num_context_turns == 0


@pytest.mark.parametrize("template", [TEMPLATE, MARKED])
def test_turns_without_weight_are_context(tokenizer: Any, template: str) -> None:
    eos = tokenizer.eos_token
    turns = [{"role": role, "content": content} for role, content in TURNS]
    for place, expected in ((2, ["four"]), (4, ["Yo"])):
        changed = [{**turn, "weight": 0} if i == place else turn for i, turn in enumerate(turns)]
        row = of_messages(*changed)
        found = Prompts(tokenizer, "chat", template).render(row)
        texts = [found.text[begin:end].strip() for begin, end in found.targets]
        assert texts == [text + eos for text in expected]
        # What follows the last target is not computed.
        encoded, _ = encode_rows(tokenizer, [row], prompts=Prompts(tokenizer, "chat", template))
        assert tokenizer.decode(encoded.row(0)).endswith(expected[-1] + eos)


def test_a_template_that_drops_thoughts_leaves_the_last_turn(tokenizer: Any) -> None:
    eos = tokenizer.eos_token
    found, learned = render(tokenizer, chat(*TURNS), DROPS_THOUGHTS)
    assert learned == [f"<think></think>four{eos}\n"]
    assert found.num_context_turns == 1
    _, counts = encode_rows(
        tokenizer,
        [chat(*TURNS), chat(*TURNS[1:3])],
        prompts=Prompts(tokenizer, "chat", DROPS_THOUGHTS),
    )
    assert counts.num_rewritten == 1


def test_a_prompt_for_thoughts_that_are_not_written_is_left_out(tokenizer: Any) -> None:
    found, learned = render(tokenizer, chat(*TURNS), ASKS_FOR_THOUGHTS)
    assert learned == [f"Yo{tokenizer.eos_token}\n", f"four{tokenizer.eos_token}\n"]
    assert "<think>" not in found.text
    thought = chat(*TURNS[:-1], ("assistant", "<think>\nTwo and two.</think>four"))
    found, learned = render(tokenizer, thought, ASKS_FOR_THOUGHTS)
    assert learned[-1] == f"Two and two.</think>four{tokenizer.eos_token}\n"


def test_a_template_that_ends_the_conversation_alone_leaves_all_turns(tokenizer: Any) -> None:
    found, learned = render(tokenizer, chat(*TURNS), ENDS_ONCE)
    assert learned == ["Yo<end>\n", f"four<end>\n{tokenizer.eos_token}"]
    assert found.num_context_turns == 0


def test_a_rewritten_turn_is_as_the_model_saw_it(tokenizer: Any) -> None:
    turns = [*TURNS[:4], ("tool", "4"), ("assistant", "four")]
    found, learned = render(tokenizer, chat(*turns), FORGETS)
    assert learned == [f"four{tokenizer.eos_token}\n"]
    assert "<tool>4" in found.text


def test_a_system_text_that_goes_before_the_last_question_is_kept(tokenizer: Any) -> None:
    """As Mistral's: without a prompt for the reply, and without the text once there is a reply."""
    template = (
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[INST] "
        "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}\n{% endif %}"
        "{{ m.content }}[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    found, learned = render(tokenizer, chat(*TURNS), template)
    assert learned == [f" four{tokenizer.eos_token}"]
    assert found.text.endswith(f"[INST] Be brief.\n2+2?[/INST] four{tokenizer.eos_token}")
    assert (found.num_context_turns, found.left_out) == (1, ())
    _, learned = render(tokenizer, chat(*TURNS[1:]), template)
    assert learned == [f" Yo{tokenizer.eos_token}", f" four{tokenizer.eos_token}"]


def test_content_is_given_as_parts_to_templates_that_want_them(tokenizer: Any) -> None:
    assert render(tokenizer, chat(*TURNS), PARTS) == render(tokenizer, chat(*TURNS), TEMPLATE)


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
TOOL_TURNS = (
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "4"},
    {"role": "assistant", "content": "four"},
)
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def test_tools_and_calls_reach_the_template(tokenizer: Any) -> None:
    eos = tokenizer.eos_token
    row = of_messages(*TOOL_TURNS, tools=[TOOL])
    found, learned = render(tokenizer, row, TOOLS)
    assert learned == [f'[add {{"a": 2, "b": 2}}]{eos}\n', f"four{eos}\n"]
    assert '"parameters"' in found.text
    assert found.left_out == ()
    _, learned = render(tokenizer, row, JSON_CALLS)
    assert learned[0] == f'[add{{"a": 2, "b": 2}}]{eos}\n'


def test_what_a_template_leaves_out_is_counted(tokenizer: Any) -> None:
    row = of_messages(*TOOL_TURNS, tools=[TOOL])
    found, _ = render(tokenizer, row, TEMPLATE)
    assert found.left_out == ("tools", "tool calls")
    silent = TEMPLATE.replace(
        "{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"
    )
    assert render(tokenizer, chat(*TURNS), silent)[0].left_out == ("system text",)
    said = {"role": "assistant", "content": "4", "reasoning_content": "Two and two."}
    thought = of_messages({"role": "user", "content": "2+2?"}, said)
    assert render(tokenizer, thought, TEMPLATE)[0].left_out == ("reasoning",)
    strips = TEMPLATE.replace("m.content", "m.content.split('</think>')[-1]")
    inline = chat(("user", "2+2?"), ("assistant", "<think>\nTwo and two.\n</think>4"))
    assert render(tokenizer, inline, strips)[0].left_out == ("reasoning",)
    assert render(tokenizer, inline, TEMPLATE)[0].left_out == ()
    _, counts = encode_rows(tokenizer, [row, row, chat(*TURNS)], prompts=Prompts(tokenizer, "chat"))
    assert counts.left_out == {"tools": 2, "tool calls": 2}


REFUSES_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
)


def test_a_system_text_can_be_merged_into_the_first_question(tokenizer: Any) -> None:
    template = REFUSES_SYSTEM + TEMPLATE
    with pytest.raises(UserError, match=r"no system role.*data\.merge_system: true"):
        render(tokenizer, chat(*TURNS), template)
    merged, _ = render(tokenizer, chat(*TURNS), template, merge_system=True)
    eos = tokenizer.eos_token
    assert merged.text.startswith(f"<user>Be brief.\n\nHi{eos}\n<assistant>Yo{eos}\n")


def test_an_instruction_is_asked_as_a_conversation(tokenizer: Any) -> None:
    row = Row("Add.", "3", input="1, 2", system="Be brief.", history=(("Hi", "Yo"),))
    turns = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Yo"), ("user", "Add.\n1, 2"),
             ("assistant", "3"))  # fmt: skip
    assert render(tokenizer, row, TEMPLATE) == render(tokenizer, chat(*turns), TEMPLATE)
    unanswered = Row("Add.", "", input="1, 2")
    asked = Prompts(tokenizer, "chat").ask(unanswered)
    assert asked.text == rendered(tokenizer, ("user", "Add.\n1, 2"), to_speak=True)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "messages need a tokenizer that has a chat template"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(
    tokenizer: Any, template: str | None, reason: str
) -> None:
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=f"chat.json, row 0: .*{reason}"):
        encode_rows(tokenizer, [chat(*TURNS)])


def test_a_template_can_be_chosen_by_its_name(tokenizer: Any) -> None:
    tokenizer.chat_template = {"default": TEMPLATE, "loud": TEMPLATE.replace("<", "<!")}
    assert Prompts(tokenizer, "auto", "loud").form == "chat"
    assert Prompts(tokenizer, "chat", "loud").render(chat(*TURNS)).text.startswith("<!system>")
    with pytest.raises(UserError, match=r"data\.chat_template.*default, loud.*got 'long'"):
        Prompts(tokenizer, "chat", "long")


def test_a_reply_that_contains_eos_is_an_error_or_left_out(tokenizer: Any) -> None:
    bad = chat(("user", "Hi"), ("assistant", f"Yo{tokenizer.eos_token}you"))
    plain = Row("Hi", f"Yo{tokenizer.eos_token}", place="rows.json, row 3")
    for row in (bad, plain):
        with pytest.raises(UserError, match=r"json, row \d: a reply must not contain"):
            encode_rows(tokenizer, [row])
    encoded, counts = encode_rows(tokenizer, [bad, chat(*TURNS), plain], Encoding(bad_rows="skip"))
    assert (len(encoded), counts.bad.number) == (1, 2)
    assert "chat.json, row 0" in str(counts.bad.first)


@pytest.mark.parametrize(
    "turn",
    [
        {"content": "4", "reasoning_content": "an </s> in it"},
        {"content": None, "tool_calls": [
            {"function": {"name": "add", "arguments": {"html": "<s>old</s> new"}}}]},
    ],
)  # fmt: skip
def test_eos_within_thoughts_or_calls_is_an_error(tokenizer: Any, turn: dict[str, Any]) -> None:
    thinks = TOOLS.replace("{{ m.content }}", "{{ m.reasoning_content }}{{ m.content }}")
    row = of_messages({"role": "user", "content": "2+2?"}, {"role": "assistant", **turn})
    with pytest.raises(UserError, match="a reply must not contain '</s>'"):
        encode_rows(tokenizer, [row], prompts=Prompts(tokenizer, "chat", thinks))


def test_a_call_that_the_template_does_not_write_is_not_learned(tokenizer: Any) -> None:
    found, learned = render(tokenizer, of_messages(*TOOL_TURNS, tools=[TOOL]), TEMPLATE)
    assert learned == [f"four{tokenizer.eos_token}\n"]
    assert found.num_context_turns == 1
    alone = of_messages(*TOOL_TURNS[:2], tools=[TOOL])
    with pytest.raises(UserError, match="must write the last turn to learn"):
        render(tokenizer, alone, TEMPLATE)


def test_a_prompt_without_thoughts_ends_before_the_thoughts_of_a_reply(tokenizer: Any) -> None:
    """As Qwen3.5's without thoughts: the prompt has an empty thought."""
    template = (
        f"{HEAD}<{{{{ m.role }}}}>{{% if m.role == 'assistant' %}}<think>"
        "{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant><think></think>{% endif %}"
    )
    said = {"role": "assistant", "content": "4", "reasoning_content": "Two and two."}
    found, learned = render(
        tokenizer, of_messages({"role": "user", "content": "2+2?"}, said), template
    )
    assert learned == [f"Two and two.</think>4{tokenizer.eos_token}\n"]
    assert found.text.count("<think>") == 1


def test_turns_with_weight_0_cannot_be_learned_as_inputs(tokenizer: Any) -> None:
    turns = [{"role": role, "content": content} for role, content in TURNS]
    turns[2]["weight"] = 0
    with pytest.raises(UserError, match=r"data\.train_on_inputs learns all"):
        encode_rows(tokenizer, [of_messages(*turns)], Encoding(train_on_inputs=True))


def test_all_system_texts_at_the_beginning_are_merged(tokenizer: Any) -> None:
    turns = (("system", "Be brief."), ("system", "Be kind."), ("user", "Hi"), ("assistant", "Yo"))
    found, _ = render(tokenizer, chat(*turns), TEMPLATE, merge_system=True)
    assert found.text.startswith("<user>Be brief.\n\nBe kind.\n\nHi")


def test_lost_names_and_second_calls_are_counted(tokenizer: Any) -> None:
    named = of_messages({"role": "user", "content": "Hi", "name": "Zoe"},
                        {"role": "assistant", "content": "Yo"})  # fmt: skip
    assert render(tokenizer, named, TEMPLATE)[0].left_out == ("names",)
    two = [{"function": {"name": name, "arguments": {}}} for name in ("add", "sub")]
    called = {"role": "assistant", "content": "", "tool_calls": two}
    result, said = {"role": "tool", "content": "4"}, {"role": "assistant", "content": "Yo"}
    turns = [{"role": "user", "content": "Hi"}, called, result, said]
    first = TOOLS.replace("in m.tool_calls", "in (m.tool_calls or [])[:1]")
    assert render(tokenizer, of_messages(*turns), first)[0].left_out == ("tool calls",)
    assert render(tokenizer, of_messages(*turns), TOOLS)[0].left_out == ()


def test_a_text_that_stands_elsewhere_is_no_excuse(tokenizer: Any) -> None:
    silent = TEMPLATE.replace(HEAD, "{% for m in messages if m.role != 'system' %}")
    turns = (("system", "Hi"), ("user", "Hi there"), ("assistant", "Yo"))
    assert render(tokenizer, chat(*turns), silent)[0].left_out == ("system text",)
