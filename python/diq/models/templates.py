"""Chat templates: conversations as text, such that what a sample says is in it and no clock is.

Templates of real models drop text without a word: system turns that they do not know, reasoning before ``</think>``,
strings where they expect typed parts. Every rendering is therefore compared with what went in.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

from diq.base.errors import ModelError, UsageError
from diq.base.sample import Message, inline_reasoning, split_prompt
from diq.base.text import amount
from diq.models.patience import MOST_BYTES, OutOfPatienceError, patience

log = logging.getLogger(__name__)

# what a template that prints today's date prints; scores must not depend on the day
_TODAY, _OTHER_DAY = datetime(2024, 7, 26), datetime(2001, 2, 3)

_JINJA = ["jinja2.ext.loopcontrols"]
# what the renderer itself sets
_OWN_VARIABLES = frozenset(
    ["messages", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "unk_token", "raise_exception",
     "strftime_now", "date_string", "tools", "documents"]
)  # fmt: skip
# seconds of a rendering, which takes milliseconds, and characters of a template's own in it
_LONGEST_S, _MOST_CHARACTERS = 20.0, 2**22
# a text that no template writes by itself
_MARK, _OTHER_MARK = "0diq0", "1diq1"

# keys of messages that are no matter of the template's
_NOT_SHOWN = frozenset(["tools", "train"])

_SYSTEM = "system turns that the chat template does not show stand in front of the user turn"
_REASONING = "reasoning that the chat template cuts stands in the answer as <think>...</think>"
_EARLIER = "the chat template leaves out the thinking of earlier turns"
_TOOLS = "the chat template leaves out definitions of tools: put them into the system turn, or use one that knows tools"


def _still_clock(day: datetime = _TODAY) -> str:
    """A macro that takes the place of the clock that transformers lends to templates; it takes no function for it."""
    known = [f"%{flag}{letter}" for letter in "aAbBcCdDeFGhHIjklmMpPrRSTuUVwWxXyYzZ" for flag in ("-", "")]
    filters = "".join(f" | replace({one!r}, {day.strftime(one)!r})" for one in known)
    # nothing behind the last tag, which would take a line end of the template with it
    return f"{{% macro strftime_now(format) %}}{{{{ format{filters} }}}}{{% endmacro %}}{{{{ '' }}}}"


class DroppedTextError(ValueError):
    """The chat template does not show what a message says."""


class EndlessTemplateError(ValueError):
    """The chat template goes on and on, in time or in text."""


class Rendered(NamedTuple):
    """A conversation as text.

    Attributes:
        prompt: what stands before the answer, with the generation prompt.
        full: all of it.
        earlier: places of the answers of earlier turns in ``full``, where they were asked for.
    """

    prompt: str
    full: str
    earlier: tuple[tuple[int, int], ...] = ()


class ChatTemplate:
    """The chat template of a tokenizer, with variables of the user's.

    Args:
        tokenizer: a Hugging Face tokenizer that has a chat template.
        given: variables of the template.

    Attributes:
        variables: what every rendering is given; the date is always the same.
        notes: in how many conversations something had to be done for the text to be there, by what.

    Raises:
        ModelError: the template goes on and on for a turn of five characters.
    """

    def __init__(self, tokenizer: Any, given: Mapping[str, Any] | None = None) -> None:
        self._tokenizer = tokenizer
        self.variables: dict[str, Any] = {
            "date_string": _TODAY.strftime("%d %b %Y"),
            **(given or {}),
        }
        self.notes: Counter[str] = Counter()
        text = tokenizer.get_chat_template()
        self._text = f"{_still_clock()}{text}" if "strftime_now" in text else text
        self._in_parts: set[str] = set()
        user = {"role": "user", "content": _MARK}
        self._find_form([user], "user")
        self._find_form([user | {"content": _OTHER_MARK}, {"role": "assistant", "content": _MARK}], "assistant")
        self._find_form([{"role": "system", "content": _MARK}, user | {"content": _OTHER_MARK}], "system")
        if "user" in self._in_parts:
            self._in_parts.add("tool")

    def _find_form(self, messages: Sequence[Message], role: str) -> None:
        """Find out whether the template shows a content of this role as a text or as typed parts alone."""
        if self._shows_mark(messages):
            return
        self._in_parts.add(role)
        if not self._shows_mark(messages):
            self._in_parts.discard(role)

    def _shows_mark(self, messages: Sequence[Message]) -> bool:
        try:
            text = self.render(messages)
        except EndlessTemplateError as error:
            # every conversation would be
            raise ModelError(
                f"{error}, of a conversation of a few letters (the tokenizer is `{self._tokenizer.name_or_path}`)",
                "mend the chat template in its folder, or leave it out with --template none",
            ) from error
        except Exception:  # jinja raises whatever the template says
            return False
        # parts that are written as they are hold the mark, too
        return _MARK in text and "'type'" not in text

    def render(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
        """What the template itself makes of the messages, with content as typed parts where it wants them.

        Raises:
            EndlessTemplateError: it is ended, since it takes too long or makes too much.
            Exception: whatever the template raises.
        """
        turns: list[Any] = [
            {key: value for key, value in one.items() if key not in _NOT_SHOWN}
            | ({"content": [{"type": "text", "text": one["content"]}]} if one["role"] in self._in_parts else {})
            for one in messages
        ]
        tools = messages[0].get("tools") if messages else None
        try:
            with patience(_LONGEST_S):
                text = str(
                    self._tokenizer.apply_chat_template(
                        turns,
                        tools=tools,
                        chat_template=self._text,
                        tokenize=False,
                        add_generation_prompt=generation_prompt,
                        **self.variables,
                    )
                )
        except OutOfPatienceError:
            raise EndlessTemplateError(
                f"the chat template came to no end in {_LONGEST_S:g} seconds or {MOST_BYTES >> 30} GB of memory"
            ) from None
        if len(text) > _MOST_CHARACTERS and len(text) > _MOST_CHARACTERS + 10 * len(json.dumps([turns, tools])):
            raise EndlessTemplateError(f"the chat template made {len(text):,} characters")
        return text

    def prompt(self, messages: Sequence[Message]) -> str:
        """Messages that an answer is wanted to, with the generation prompt.

        Raises:
            DroppedTextError: the text of one is not in it.
            Exception: whatever the template raises.
        """
        # what is done with system turns must be what is done where the answer is there
        turns = list(messages)
        if _has_system(turns):
            whole, _ = self._with_system([*turns, {"role": "assistant", "content": _MARK}])
            turns = whole[:-1]
        text = self.render(turns, generation_prompt=True)
        self._check(turns, text)
        self._check_tools(turns)
        return text

    def pair(self, messages: Sequence[Message], *, earlier: bool = False) -> Rendered:
        """The prompt, and the whole conversation, which goes on with the answer.

        Args:
            messages: a conversation that ends with the assistant's answer.
            earlier: whether to look for the answers of earlier turns, too.

        Raises:
            DroppedTextError: the text of one is not in it.
            Exception: whatever the template raises.
        """
        turns, full = self._with_system(messages)
        before, answer = split_prompt(turns)
        if _lacks_opening(answer["content"]) and self._opening.rstrip().endswith("<think>"):
            # the prompt opens the thinking, and a server gives what follows it
            answer = answer | {"content": f"<think>\n{answer['content'].lstrip()}"}
            full = self.render([*before, answer])
        prompt = self.render(before, generation_prompt=True)
        start = self._check(before, full)
        self._check_tools(turns)
        last, is_cut = answer, False
        if not _shows_answer(full, start, answer):
            # the template knows nothing of reasoning_content: put it where such models write it
            last = inline_reasoning(answer)
            full = self.render([*before, last])
            if not _shows_answer(full, start, answer):
                if "tool_calls" in answer:
                    raise DroppedTextError("the chat template does not show the reasoning of a call of a tool")
                content = last["content"].strip()
                last, is_cut = last | {"content": f"<think>\n{content}" if _lacks_opening(content) else content}, True
                full = self._around(before, last["content"])
                self.notes[_REASONING] += 1

        def whole(earlier_turns: Sequence[Message]) -> str:
            return self._around(earlier_turns, last["content"]) if is_cut else self.render([*earlier_turns, last])

        return Rendered(prompt, full, self._earlier(before, full, whole) if earlier else ())

    def _earlier(
        self, before: Sequence[Message], text: str, whole: Callable[[Sequence[Message]], str]
    ) -> tuple[tuple[int, int], ...]:
        """Where the answers of earlier turns stand in a rendering: what the model would write, with what ends it.

        They are not looked for: a short one may occur in a role mark, and a call of a tool has no content. With a mark
        in its place, what stands before and behind is what the template writes around it.

        Args:
            before: the messages before the answer.
            text: the rendering.
            whole: makes it of other messages before the same answer.
        """
        found = []
        for place, one in enumerate(before):
            if one["role"] != "assistant" or one.get("train") is False:
                continue
            head, tail = self._surroundings(before, place, whole)
            begin = _n_common(text, head)
            if self._lead_in and head.endswith(self._lead_in):
                begin = min(begin, len(head) - len(self._lead_in))
            end = max(begin, len(text) - _n_common(text[::-1], tail[::-1]))
            stop = text.find(self._earlier_end, end) if self._earlier_end else -1
            found.append((begin, stop + len(self._earlier_end or "") if stop >= 0 else end))
        return tuple(found)

    def _surroundings(
        self, before: Sequence[Message], place: int, whole: Callable[[Sequence[Message]], str]
    ) -> tuple[str, str]:
        """What a rendering has before an earlier answer, and what it has behind it.

        Raises:
            DroppedTextError: that cannot be told.
        """
        one, behind = before[place], before[place + 1 :]
        plain = {"role": "assistant", "content": _MARK}
        with contextlib.suppress(Exception):  # jinja raises whatever the template says
            head, mark, tail = whole([*before[:place], plain, *behind]).partition(_MARK)
            if mark:
                return head, tail
        # some raise where a tool speaks that was not called, so what it gave goes, too, and the end is that of the call
        with contextlib.suppress(Exception):
            user = next((n for n, other in enumerate(behind) if other["role"] == "user"), len(behind))
            head, mark, _ = whole([*before[:place], plain, *behind[user:]]).partition(_MARK)
            calls = [*one["tool_calls"][:-1], _marked_call(one["tool_calls"][-1], _MARK, keeps_name=True)]
            _, other_mark, tail = whole([*before[:place], one | {"tool_calls": calls}, *behind]).rpartition(_MARK)
            if mark and other_mark:
                return head, tail
        raise DroppedTextError("the place of an earlier answer in the chat template cannot be told")

    @cached_property
    def _lead_in(self) -> str:
        """What stands before the content of an earlier answer that the model writes itself, such as a channel."""
        user = {"role": "user", "content": _OTHER_MARK}
        try:
            head = self.render([user, {"role": "assistant", "content": _MARK}, user]).partition(_MARK)[0]
            prompt = self.render([user], generation_prompt=True)
        except Exception:  # jinja raises whatever the template says
            return ""
        lead_in = head[_n_common(head, prompt) :]
        # without a generation prompt the mark of the role is in it
        return lead_in if self._opening or not lead_in.strip() else ""

    @cached_property
    def _earlier_end(self) -> str | None:
        """The special token that ends an earlier answer: for some templates another one than the last answer's."""
        user = {"role": "user", "content": _OTHER_MARK}
        try:
            text = self.render([user, {"role": "assistant", "content": _MARK}, user])
        except Exception:  # jinja raises whatever the template says
            return self.end
        between = text.partition(_MARK)[2].partition(_OTHER_MARK)[0]
        # where nothing ends the last answer, what follows an earlier one begins the next turn
        return self.end if self.end is None or self.end in between else self._first_special(between)

    @cached_property
    def _opening(self) -> str:
        """What the generation prompt adds."""
        user = [{"role": "user", "content": _MARK}]
        try:
            without, with_it = self.render(user), self.render(user, generation_prompt=True)
        except Exception:  # jinja raises whatever the template says
            return ""
        return with_it.removeprefix(without) if with_it.startswith(without) else ""

    def _around(self, before: Sequence[Message], text: str) -> str:
        """The conversation with a text as its answer that the template would cut."""
        full = self.render([*before, {"role": "assistant", "content": _MARK}])
        head, mark, tail = full.rpartition(_MARK)
        if not mark:
            raise DroppedTextError("the chat template does not show the answer")
        return f"{head}{text}{tail}"

    def _with_system(self, messages: Sequence[Message]) -> tuple[list[Message], str]:
        """The messages, with system turns in user turns where the template does not show them, and their rendering."""
        merged = merge_system(messages) if _has_system(messages) else list(messages)
        if len(merged) == len(messages):
            return list(messages), self.render(messages)
        with contextlib.suppress(Exception):  # jinja raises whatever the template says
            text = self.render(messages)
            if all(_place(text, one["content"]) >= 0 for one in messages if one["role"] == "system"):
                return list(messages), text
        text = self.render(merged)
        self.notes[_SYSTEM] += 1
        return merged, text

    def _check(self, messages: Sequence[Message], text: str) -> int:
        """Where the text of the last message ends in a rendering that must show them all, in their order."""
        at, thinking = 0, False
        for one in messages:
            if one["role"] == "system":
                # some templates write it into the last user turn
                if _place(text, one["content"]) < 0:
                    raise DroppedTextError("the chat template does not show the system turn")
                continue
            content = one["content"]
            end = _place(text, content, at)
            if one["role"] == "assistant":
                thinking = thinking or _place(text, one.get("reasoning_content", "")) < 0
                if end < 0 and "</think>" in content:
                    thinking = True
                    *earlier, last = _outside_thinking(content)
                    end = at
                    for part in earlier:
                        end = _place(text, part, end)
                        if end < 0:
                            raise DroppedTextError(
                                "the chat template does not show what an earlier turn says before its thinking"
                            )
                    end = _place(text, last, end)
            if end < 0:
                raise DroppedTextError(f"the chat template does not show a turn of the {one['role']}")
            at = end
        if thinking:
            self.notes[_EARLIER] += 1
        return at

    def _check_tools(self, messages: Sequence[Message]) -> None:
        """Refuse a conversation whose calls of tools are not shown, and note one whose definitions are not.

        What is looked for are marks in their place: names and values may stand elsewhere, too.
        """
        calls = sum(len(one.get("tool_calls", ())) for one in messages)
        has_tools = bool(messages[0].get("tools"))
        if not calls and not has_tools:
            return
        names = iter(range(calls))
        turns = [
            one
            if "tool_calls" not in one
            else one | {"tool_calls": [_marked_call(call, f"{_MARK}{next(names)}x") for call in one["tool_calls"]]}
            for one in messages
        ]
        if has_tools:
            turns[0] = turns[0] | {"tools": [_MARKED_TOOL]}
        try:
            text = self.render(turns)
        except Exception:  # jinja raises whatever the template says
            # it may look a name up, which says nothing of what it shows
            return
        full = [call for one in messages for call in one.get("tool_calls", ())]
        for place, call in enumerate(full):
            if f"name{_MARK}{place}x" not in text:
                raise DroppedTextError("the chat template does not show a call of a tool")
            if call["function"].get("arguments") and f"value{_MARK}{place}x" not in text:
                raise DroppedTextError("the chat template does not show the arguments of a call of a tool")
        if has_tools and not all(mark in text for mark in _TOOL_MARKS):
            self.notes[_TOOLS] += 1

    def _first_special(self, text: str) -> str | None:
        """The first special token of a text."""
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        known = {*self._tokenizer.all_special_ids, *self._tokenizer.added_tokens_decoder}
        special = next((one for one in ids if one in known), None)
        return None if special is None else str(self._tokenizer.convert_ids_to_tokens(special))

    @cached_property
    def end(self) -> str | None:
        """The special token that the template writes behind an answer; None where it writes none."""
        turns = [{"role": "user", "content": _OTHER_MARK}, {"role": "assistant", "content": _MARK}]
        try:
            text = self.render(turns)
        except Exception:  # jinja raises whatever the template says
            return None
        return self._first_special(text.rpartition(_MARK)[2])

    @cached_property
    def traits(self) -> dict[str, Any]:
        """What is done for the template beyond calling it, for the fingerprint of a run; empty for most."""
        found: dict[str, Any] = {}
        if self._in_parts:
            strings = {"user", "assistant"} - self._in_parts
            found["content"] = "parts" if not strings else f"parts, but for {' and '.join(sorted(strings))}"
        if self.end is None:
            found["end"] = self._tokenizer.eos_token
        user, answer = {"role": "user", "content": _OTHER_MARK}, {"role": "assistant", "content": _MARK}
        if not self._might_show([{"role": "system", "content": _MARK}, user]):
            found["system"] = "in front of the user turn"
        thought = f"<think>\n{_MARK}\n</think>\n\n0"
        if not self._might_show([user, answer | {"content": thought}]):
            found["reasoning"] = "inline"
        if self._shows_clock():
            found["today"] = _TODAY.strftime("%Y-%m-%d")
        return found

    def _might_show(self, messages: Sequence[Message]) -> bool:
        """Whether a rendering shows the mark; one that fails was seen to fail by every version."""
        try:
            return _MARK in self.render(messages)
        except Exception:  # jinja raises whatever the template says
            return True

    def _shows_clock(self) -> bool:
        """Whether a rendering depends on the clock; a template may name it and be content with ``date_string``."""
        text = self._text
        if not text.startswith(_still_clock()):
            return False
        user = [{"role": "user", "content": _MARK}]
        try:
            now = self.render(user)
            self._text = _still_clock(_OTHER_DAY) + text.removeprefix(_still_clock())
            return self.render(user) != now
        except Exception:  # jinja raises whatever the template says
            return True
        finally:
            self._text = text

    def say(self, what: str) -> None:
        """Log in how many conversations something was done for the text to be there, since the last time."""
        for note, n in self.notes.items():
            log.warning("%s: %s (%s)", what, note, amount(n, "conversation"))
        self.notes.clear()


def _n_common(one: str, other: str) -> int:
    """How many characters two texts have in common at the beginning."""
    n = min(len(one), len(other))
    return next((place for place in range(n) if one[place] != other[place]), n)


def _place(text: str, part: str, start: int = 0) -> int:
    """Where a part ends in a text from a place on, whatever the white space around and in it; -1 where it is not."""
    part = part.strip()
    at = text.find(part, start)
    if at >= 0:
        return at + len(part)
    # templates trim and wrap lines; what a tool gave is written as JSON by some
    for other in (part, json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1]):
        wanted = "".join(other.split())
        at = "".join(text[start:].split()).find(wanted)
        if at >= 0:
            # white space aside, the characters before it and those of it
            dark = [place for place in range(start, len(text)) if not text[place].isspace()]
            return dark[at + len(wanted) - 1] + 1
    return -1


def _shows_answer(text: str, start: int, answer: Message) -> bool:
    """Whether reasoning and answer stand in a text from a place on, in this order."""
    at = _place(text, answer.get("reasoning_content", ""), start)
    return at >= 0 and _place(text, answer["content"], at) >= 0


def _marked_call(call: Mapping[str, Any], mark: str, *, keeps_name: bool = False) -> dict[str, Any]:
    """A call of a tool with marks in the place of its name and arguments."""
    function = call["function"]
    value = f"value{mark}"
    # those that could not be read as an object are a text
    arguments = value if isinstance(function.get("arguments"), str) else {f"key{mark}": value}
    name = function["name"] if keeps_name else f"name{mark}"
    return {**call, "function": {**function, "name": name, "arguments": arguments}}


_TOOL_MARKS = tuple(f"{what}{_MARK}" for what in ("name", "description", "parameter"))
_MARKED_TOOL = {
    "type": "function",
    "function": {
        "name": _TOOL_MARKS[0],
        "description": _TOOL_MARKS[1],
        "parameters": {
            "type": "object",
            "properties": {_TOOL_MARKS[2]: {"type": "string", "description": "a text"}},
            "required": [],
        },
    },
}


def _lacks_opening(content: str) -> bool:
    """Whether thinking ends in a content that begins nowhere in it: the prompt had the opening tag."""
    before, closing, _ = content.partition("</think>")
    return bool(closing) and "<think>" not in before


def _outside_thinking(content: str) -> list[str]:
    """The parts of a content around its thinking, at least one; thinking may begin in the prompt."""
    if _lacks_opening(content):
        content = content.partition("</think>")[2]
    return re.split(r"<think>.*?</think>", content, flags=re.DOTALL)


def _has_system(messages: Sequence[Message]) -> bool:
    return any(one["role"] == "system" for one in messages)


def merge_system(messages: Sequence[Message]) -> list[Message]:
    """The messages with each system turn put in front of the next user turn, or behind the last one."""
    found: list[Message] = []
    waiting: list[str] = []
    for one in messages:
        if one["role"] == "system":
            waiting.append(one["content"])
        elif one["role"] == "user" and waiting:
            found.append(one | {"content": "\n\n".join([*waiting, one["content"]])})
            waiting = []
        else:
            found.append(one)
    last = next((place for place in reversed(range(len(found))) if found[place]["role"] == "user"), None)
    if waiting and last is not None:
        found[last] = found[last] | {"content": "\n\n".join([found[last]["content"], *waiting])}
    if waiting and last is None:
        # without any user turn they have no place to go
        return list(messages)
    if "tools" in messages[0]:
        found[0] = found[0] | {"tools": messages[0]["tools"]}
    return found


def read_template_kwargs(texts: Sequence[str]) -> dict[str, Any]:
    """Variables of a chat template out of ``KEY=VALUE``, sorted; a value that is no JSON is a text.

    Raises:
        UsageError: a text without a key, or a key twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.isidentifier():
            raise UsageError(
                f"--chat-template-kwargs `{text}` is not KEY=VALUE", "give enable_thinking=false, for example"
            )
        if key in found:
            raise UsageError(f"--chat-template-kwargs names `{key}` twice", "give it once")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return dict(sorted(found.items()))


def check_template_kwargs(template: Any, given: Mapping[str, Any]) -> None:
    """Refuse variables that would have no effect.

    Args:
        template: as the tokenizer has it; None for none.
        given: the variables.

    Raises:
        UsageError: the template does not read one.
    """
    first = next(iter(given))
    if template is None:
        raise UsageError(
            f"--chat-template-kwargs {first}=... has no effect: the tokenizer has no chat template", "leave it out"
        )
    read = _read_variables(template)
    unknown = [key for key in given if key not in read]
    if read and unknown:
        known = ", ".join(sorted(read - _OWN_VARIABLES)) or "none"
        raise UsageError(
            f"--chat-template-kwargs {unknown[0]}=... has no effect: the chat template does not read it",
            f"its variables are: {known}",
        )


def _read_variables(template: Any) -> set[str]:
    """Names that a template reads and does not set; empty where it cannot be told."""
    # what transformers compiles templates with
    import jinja2
    import jinja2.meta

    if not isinstance(template, str):
        return set()
    try:
        return jinja2.meta.find_undeclared_variables(jinja2.Environment(extensions=_JINJA).parse(template))
    except jinja2.TemplateError:
        # a tag of transformers' own
        return set()
