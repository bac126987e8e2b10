"""The turns of conversations, as the usual layouts of chat rows write them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from smt_ray.data.fields import UnknownKeysError, bad_row, json_value, parsed, some_text, text
from smt_ray.data.rows import ASSISTANT, SYSTEM, USER, Message

_TOOL, _DEVELOPER = "tool", "developer"
_CALL = "function_call"  # ShareGPT's role of a turn that calls a tool
_ROLES = {
    **{role: role for role in (SYSTEM, _DEVELOPER, USER, ASSISTANT, _TOOL)},
    "human": USER, "gpt": ASSISTANT, "model": ASSISTANT, "bot": ASSISTANT, _CALL: ASSISTANT,
    "observation": _TOOL, "function": _TOOL, "ipython": _TOOL,
}  # fmt: skip
_KEYS = (("role", "content"), ("from", "value"))
_EXTRA = ("tool_calls", "tool_call_id", "name", "reasoning_content", "thinking")
_LEARNED = ("weight", "train", "loss")


def conversation(turns: Any, place: str, ignored: Collection[str] = ()) -> tuple[Message, ...]:
    """The turns of a conversation, of which the assistant's last one ends it.

    Args:
        turns: A list of turns, or its JSON text.
        place: The place of the field, for errors.
        ignored: The keys of turns that are left out.

    Raises:
        UserError: A turn has another form, or the conversation does not end with the assistant.
        UnknownKeysError: A turn has keys that are not known.
    """
    messages = read_turns(turns, place, ignored)
    if messages[-1].role != ASSISTANT:
        rule, fix = "must end with a turn of the assistant", "leave out what follows its last turn"
        raise bad_row(place, rule, messages[-1].role, fix)
    if messages[0].role == ASSISTANT:
        rule = "must not begin with the assistant, as templates need a turn before its answer"
        raise bad_row(place, rule, ASSISTANT, "put a turn of the user or system before it")
    if not any(message.is_learned for message in messages):
        rule = "must have a turn of the assistant to learn"
        raise bad_row(place, rule, "weight 0 for all of them", "give one of them weight 1")
    return messages


def read_turns(turns: Any, place: str, ignored: Collection[str] = ()) -> tuple[Message, ...]:
    """The turns of a list, in any order of speakers; see :func:`conversation`."""
    turns = parsed(turns)
    if not isinstance(turns, (list, tuple)) or not turns:
        raise bad_row(place, "must be a list of turns, each with role and content", turns)
    return tuple(_message(turn, f"{place}, turn {i}", ignored) for i, turn in enumerate(turns))


def _message(turn: Any, place: str, ignored: Collection[str]) -> Message:
    if not isinstance(turn, Mapping):
        raise bad_row(place, "must have role and content", turn)
    given = {key: value for key, value in turn.items() if value is not None and key not in ignored}
    keys = next((pair for pair in _KEYS if pair[0] in given), None)
    if keys is None or (keys[1] not in given and "tool_calls" not in given):
        raise bad_row(place, "must have role and content", turn)
    unknown = sorted(set(given) - {*keys, *_EXTRA, *_LEARNED})
    if unknown:
        raise UnknownKeysError(place, unknown)
    named = _role(given[keys[0]], place)
    role, extra = _ROLES[named], _extra(given, place)
    content = given.get(keys[1], "")
    if named == _CALL:
        extra, content = {"tool_calls": [_call(content, place)], **extra}, ""
    needs_text = role == USER or (role == ASSISTANT and "tool_calls" not in extra)
    return Message(
        role,
        _content(content, f"{place}, content", needs_text, ignored),
        is_learned=_is_learned(given, role, place),
        extra=extra,
    )


def _role(value: Any, place: str) -> str:
    role = value.strip().lower() if isinstance(value, str) else value
    if role not in _ROLES:
        raise bad_row(f"{place}, role", f"must be one of {', '.join(_ROLES)}", value)
    return str(role)


def _content(value: Any, place: str, needs_text: bool, ignored: Collection[str]) -> str:
    """The text of a turn, whose parts are joined."""
    if isinstance(value, (list, tuple)):
        value = "".join(_part(part, f"{place}, part {i}", ignored) for i, part in enumerate(value))
    return some_text(value, place) if needs_text else text(value, place)


def _part(part: Any, place: str, ignored: Collection[str]) -> str:
    if isinstance(part, str):
        return text(part, place)
    kind = None
    if isinstance(part, Mapping):
        part = {key: value for key, value in part.items() if value is not None}
        kind = part.get("type", "text")
    if kind != "text":
        rule = "must be text, because only texts are trained on"
        raise bad_row(place, rule, kind or part, "leave the part out")
    if unknown := sorted(set(part) - {"type", "text", *ignored}):
        raise UnknownKeysError(place, unknown)
    return text(part.get("text"), place)


def _is_learned(given: Mapping[str, Any], role: str, place: str) -> bool:
    """Whether a turn is a target: those of the assistant are, unless a key says no."""
    found = role == ASSISTANT
    for key in _LEARNED:
        if key not in given:
            continue
        if given[key] not in (0, 1):  # True and False, too
            raise bad_row(f"{place}, {key}", "must be 0 or 1, or false or true", given[key])
        if given[key] and role != ASSISTANT:
            rule = "must be 0, because only turns of the assistant are learned"
            raise bad_row(f"{place}, {key}", rule, given[key])
        found = found and bool(given[key])
    return found


def _extra(given: Mapping[str, Any], place: str) -> dict[str, Any]:
    """What the chat template gets besides the text."""
    extra = {key: given[key] for key in _EXTRA if key in given}
    for key in ("reasoning_content", "thinking", "name", "tool_call_id"):
        if key in extra:
            extra[key] = text(extra[key], f"{place}, {key}")
    if "tool_calls" in extra:
        calls = parsed(extra.pop("tool_calls"))
        if not isinstance(calls, (list, tuple)):
            raise bad_row(f"{place}, tool_calls", "must be a list of calls", calls)
        if calls:
            extra["tool_calls"] = [_call(call, f"{place}, tool_calls") for call in calls]
    return extra


def _call(call: Any, place: str) -> dict[str, Any]:
    """A call of a tool as templates expect it, with values for arguments."""
    call = parsed(call)
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise bad_row(place, "a call must be an object with the name of a function", call)
    call, function = json_value(call, place), json_value(function, place)
    arguments = json_value(parsed(function.get("arguments", {})), f"{place}, arguments")
    outer = {key: value for key, value in call.items() if value is not None and key != "function"}
    if "function" not in call:
        outer = {}
    return {"type": "function", **outer, "function": {**function, "arguments": arguments}}
