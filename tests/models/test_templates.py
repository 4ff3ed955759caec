"""Chat templates: what a sample says is in its tokens, the answer ends, and no clock is read."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import build_llama, build_tokenizer, save_model
from diq.base.errors import ModelError, UsageError
from diq.base.sample import Message
from diq.models.source import find_model
from diq.models.templates import ChatTemplate
from diq.models.tokens import TokenFile, Tokenization, Tokens, collate, load_tokenization, load_tokenizer
from models.chat_templates import SHAPES


def turns(*given: str, **last: str) -> list[Message]:
    """Messages out of ``s:``, ``u:`` and ``a:`` texts; ``last`` is put into the last one."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    found: list[Message] = [{"role": roles[one[0]], "content": one[2:]} for one in given]
    found[-1] |= last
    return found


CONVERSATIONS: dict[str, list[Message]] = {
    "plain": turns("u:is the dose low", "a:normal daily"),
    "white space": turns("u: is the\n\n dose low ", "a:\n normal  daily \n"),
    "system": turns("s:be kind", "u:is the dose low", "a:normal daily"),
    "reasoning": turns("u:is the dose low", "a:normal daily", reasoning_content="the kidney is fine"),
    "answer repeats": turns("u:is the dose low", "a:low it is: daily", reasoning_content="low it is"),
    "inline": turns("u:is the dose low", "a:<think>\nthe kidney is fine\n</think>\n\nnormal daily"),
    "turns": turns("u:fever", "a:since when", "u:is the dose low", "a:normal daily", reasoning_content="so it is"),
    "later system": turns("s:be kind", "u:fever", "a:since when", "s:be short", "u:is the dose low", "a:normal daily"),
    "last system": turns("u:is the dose low", "s:be short", "a:normal daily"),
}


def tokenization(shape: str, **options: Any) -> Tokenization:
    tokenizer = build_tokenizer(vocabulary=500)
    tokenizer.chat_template = SHAPES[shape]
    return Tokenization(tokenizer, max_length=512, **options)


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_part_of_a_sample_is_in_its_tokens(shape: str, name: str) -> None:
    messages = CONVERSATIONS[name]
    one = tokenization(shape)
    (found,) = one.encode([messages])
    assert isinstance(found, Tokens), found
    tokenizer = one.tokenizer
    prompt, answer = (
        tokenizer.decode(found.ids[: found.answer_start]),
        tokenizer.decode(found.ids[found.answer_start :]),
    )
    whole = squeezed(prompt + answer)
    for message in messages[:-1]:
        assert squeezed(message["content"]) in squeezed(prompt)
    last = messages[-1]
    wanted = [last.get("reasoning_content", ""), last["content"].rpartition("</think>")[2]]
    if "</think>" in last["content"]:
        wanted[0] = last["content"].partition("</think>")[0].removeprefix("<think>")
    # in this order, and not as part of the prompt
    at = squeezed(answer).index(squeezed(wanted[0])) + len(squeezed(wanted[0]))
    assert squeezed(wanted[1]) in squeezed(answer)[at:]
    assert whole.count(squeezed("normal daily")) <= 1
    # whatever is behind the token that ends the answer is white space
    special = [place for place, token in enumerate(found.ids) if int(token) in tokenizer.added_tokens_decoder]
    assert tokenizer.convert_ids_to_tokens(int(found.ids[special[-1]])) in ("<|end|>", "</s>")
    assert not tokenizer.decode(found.ids[special[-1] + 1 :]).strip()
    # and an answer is asked for with what it follows
    assert one.template is not None
    asked = tokenizer(one.template.prompt(messages[:-1]), add_special_tokens=False)["input_ids"]
    assert found.ids.tolist()[: found.answer_start] == asked[: found.answer_start]


@pytest.mark.parametrize("shape", SHAPES)
def test_no_day_is_in_a_prompt(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tokenization(shape)

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2031, 3, 7, tzinfo=tz)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Later)
    after = tokenization(shape)
    plain = CONVERSATIONS["plain"]
    (one,), (other,) = before.encode([plain]), after.encode([plain])
    assert isinstance(one, Tokens)
    assert isinstance(other, Tokens)
    assert one.ids.tolist() == other.ids.tolist()
    assert before.settings() == after.settings()
    assert "2031" not in after.tokenizer.decode(other.ids)
    # a clock that a template shows is said to stand still; one that the date is given to does not show it
    assert ("today" in before.settings().get("template_traits", {})) == (shape in ("granite", "gpt-oss"))
    if "strftime_now" in SHAPES[shape]:
        assert "2024" in after.tokenizer.decode(other.ids)


def test_what_is_done_for_a_template_is_part_of_the_run() -> None:
    traits = {shape: tokenization(shape).settings().get("template_traits", {}) for shape in SHAPES}
    assert {shape: found for shape, found in traits.items() if found.keys() - {"today"}} == {
        "r1-distill": {"reasoning": "inline"},
        "phi": {"system": "in front of the user turn"},
        "glm4.5": {"end": "</s>"},
        "parts": {"content": "parts"},
    }
    # nothing where nothing is done, so that runs of before stay what they were
    assert "template_traits" not in tokenization("chatml").settings()


@pytest.mark.parametrize(
    ("shape", "name", "words"),
    [
        ("phi", "system", "system turns that the chat template does not show stand in front of the user turn"),
        ("gemma", "system", "system turns that the chat template does not show stand in front of the user turn"),
        ("gpt-oss", "later system", "system turns that the chat template does not show"),
        ("r1-distill", "reasoning", "reasoning that the chat template cuts stands in the answer"),
        ("r1-distill", "inline", "reasoning that the chat template cuts stands in the answer"),
    ],
)
def test_what_was_moved_is_counted_and_said(
    shape: str, name: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = tokenization(shape)
    one.encode([CONVERSATIONS[name], CONVERSATIONS["plain"], CONVERSATIONS[name]])
    one.say("dataset `pool`")
    (said,) = (message for message in caplog.messages if words in message)
    assert said.startswith("dataset `pool`: ")
    assert said.endswith("(2 conversations)")
    caplog.clear()
    one.say("dataset `pool`")
    assert not caplog.messages


def test_the_thinking_of_earlier_turns_may_go_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    earlier = turns("u:fever", "a:<think>\nask more\n</think>\n\nsince when", "u:is the dose low", "a:normal daily")
    one = tokenization("qwen3")
    (found,) = one.encode([earlier])
    assert isinstance(found, Tokens)
    assert "ask more" not in one.tokenizer.decode(found.ids)
    assert "since when" in one.tokenizer.decode(found.ids)
    one.say("pool")
    assert "pool: the chat template leaves out the thinking of earlier turns (1 conversation)" in caplog.text


@pytest.mark.parametrize(
    ("earlier", "is_shown"),
    [
        ("<think>a1</think>since when", True),
        ("a1</think>since when", True),
        ("Let me see.\n<think>a1</think>since when", False),
        ("<think>a1</think>low it is <think>b1</think>since when", False),
        ("a1</think>low it is <think>b1</think>since when", False),
    ],
)
def test_what_an_earlier_turn_says_beside_its_thinking_is_not_cut_with_it(
    earlier: str, is_shown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    talk = turns("u:fever", f"a:{earlier}", "u:is the dose low", "a:normal daily")
    one = tokenization("qwen3")
    (found,) = one.encode([talk])
    one.say("pool")
    assert isinstance(found, Tokens) is is_shown
    assert is_shown or found == "the chat template does not show what an earlier turn says before its thinking"
    assert ("leaves out the thinking of earlier turns" in caplog.text) is is_shown
    # all of it is there where nothing is cut
    assert isinstance(tokenization("chatml").encode([talk])[0], Tokens)


@pytest.mark.parametrize("cuts", [True, False])
def test_thinking_that_began_in_the_prompt_follows_what_opens_it(cuts: bool) -> None:
    tokenizer = build_tokenizer(vocabulary=500)
    tokenizer.chat_template = SHAPES["r1-distill"] if cuts else SHAPES["chatml"].replace(
        "<|assistant|>\n{% endif %}", "<|assistant|>\n<think>\n{% endif %}"
    )  # fmt: skip
    one = Tokenization(tokenizer, max_length=512)
    given = [
        turns("u:is the dose low", "a:the kidney is fine\n</think>\n\nnormal daily"),
        turns("u:is the dose low", "a:<think>\nthe kidney is fine\n</think>\n\nnormal daily"),
        turns("u:is the dose low", "a:normal daily", reasoning_content="the kidney is fine"),
    ]
    found = one.encode(given)
    assert one.template is not None
    asked = tokenizer(one.template.prompt(given[0][:-1]), add_special_tokens=False)["input_ids"]
    for each in found:
        assert isinstance(each, Tokens)
        text = tokenizer.decode(each.ids)
        assert text.count("<think>\n") == 1
        assert text == tokenizer.decode(asked) + text[len(tokenizer.decode(asked)) :]
        assert str(each) == str(found[0])


def test_thinking_stands_in_tags_where_the_prompt_opens_none() -> None:
    tokenizer = build_tokenizer(vocabulary=500)
    tokenizer.chat_template = SHAPES["r1-distill"].replace(
        "<|assistant|><think>\n{% endif %}", "<|assistant|>{% endif %}"
    )
    (found,) = Tokenization(tokenizer, max_length=512).encode(
        [turns("u:is the dose low", "a:the kidney is fine\n</think>\n\nnormal daily")]
    )
    assert isinstance(found, Tokens)
    assert tokenizer.decode(found.ids[found.answer_start :]).startswith("<think>\nthe kidney is fine\n</think>")


def test_a_template_that_ends_no_answer_gets_the_end_of_sequence(caplog: pytest.LogCaptureFixture) -> None:
    one = tokenization("glm4.5")
    (found,) = one.encode([CONVERSATIONS["plain"]])
    assert isinstance(found, Tokens)
    assert found.ids[-1] == one.tokenizer.eos_token_id
    assert "`</s>` follows" in caplog.text


def test_parts_for_one_role_and_strings_for_the_other() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'user' %}{% for part in m.content %}{{ part.text }}"
        "{% endfor %}{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    one = Tokenization(tokenizer, max_length=99)
    (found,) = one.encode([CONVERSATIONS["plain"]])
    assert isinstance(found, Tokens)
    assert tokenizer.decode(found.ids) == "<|user|>is the dose low<|end|><|assistant|>normal daily<|end|>"
    assert one.settings()["template_traits"] == {"content": "parts, but for assistant"}


def test_text_that_no_way_leads_into_is_a_reason() -> None:
    tokenizer = build_tokenizer()
    # an answer that is never shown, and a question that is not
    tokenizer.chat_template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    (found,) = Tokenization(tokenizer, max_length=99).encode([CONVERSATIONS["plain"]])
    assert found == "the chat template does not show the answer"
    tokenizer.chat_template = "{{ messages[-1].content }}<|end|>"
    (found,) = Tokenization(tokenizer, max_length=99).encode([CONVERSATIONS["plain"]])
    assert found == "the chat template does not show a turn of the user"
    # one sample that raises costs the others nothing
    tokenizer.chat_template = (
        "{% if 'fever' in messages[0].content %}{{ raise_exception('no') }}{% endif %}" + SHAPES["chatml"]
    )
    refused, taken = Tokenization(tokenizer, max_length=99).encode([CONVERSATIONS["turns"], CONVERSATIONS["plain"]])
    assert refused == "the chat template refused the sample: no"
    assert isinstance(taken, Tokens)


def test_what_is_cut_is_said_and_half_of_the_answers_lost_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    one = tokenization("chatml")
    pool = [CONVERSATIONS["plain"], CONVERSATIONS["system"], turns("u:a", "a:b")]
    plain, *_ = one.encode(pool)
    assert isinstance(plain, Tokens)
    one.say("pool")
    assert not caplog.messages
    n = one.max_length = plain.answer_start
    one.encode(pool)
    one.say("pool")
    assert re.search(rf"pool: 2 of 3 samples are longer than {n} tokens and lose \d+\.\d % of all tokens", caplog.text)
    assert f"pool: 2 of 3 samples have no answer token left within {n} tokens: raise --max-length" in caplog.text


# tools -------------------------------------------------------------------------------------------------------------

CALL = {"type": "function", "function": {"name": "lab_value", "arguments": {"t": "Na"}}}
TOOL = {"type": "function", "function": {"name": "lab_value", "description": "sodium", "parameters": {}}}
CALLED: list[Message] = [
    {"role": "user", "content": "is the dose low", "tools": [TOOL]},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"value": 140}'},
    {"role": "assistant", "content": "normal daily"},
]


def test_tools_go_through_the_template_and_a_call_may_be_the_answer() -> None:
    one = tokenization("tools")
    whole, call = one.encode([CALLED, CALLED[:2]])
    assert isinstance(whole, Tokens)
    assert isinstance(call, Tokens)
    prompt = one.tokenizer.decode(whole.ids[: whole.answer_start])
    for part in ("sodium", '"lab_value"', '{"t": "Na"}', '{"value": 140}'):
        assert part in prompt
    assert one.tokenizer.decode(whole.ids[whole.answer_start :]) == "normal daily<|end|>\n"
    answer = one.tokenizer.decode(call.ids[call.answer_start :])
    assert answer == '<tool_call>{"name": "lab_value", "arguments": {"t": "Na"}}</tool_call><|end|>\n'
    # without a template all of it is text
    plain = tokenization("tools", template="none").encode([CALLED, CALLED[:2]])
    for found in plain:
        assert isinstance(found, Tokens)
        assert "lab_value" in one.tokenizer.decode(found.ids)


CALLING: dict[str, str] = {
    # as Qwen and Llama 3.1 write calls
    "tools": SHAPES["tools"],
    # as GLM does: thinking in every answer, calls as tags, and no token that ends an answer
    "glm": (
        "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{% for m in messages %}"
        "{% if m.role == 'assistant' %}<|assistant|>\n<think>{{ m.reasoning_content }}</think>"
        "{% if m.content.strip() %}{{ '\n' + m.content.strip() }}{% endif %}"
        "{% for call in m.tool_calls or [] %}{{ '\n<tool_call>' + call.function.name }}"
        "{% for key, value in call.function.arguments.items() %}<arg_key>{{ key }}</arg_key><arg_value>{{ value }}"
        "</arg_value>{% endfor %}</tool_call>{% endfor %}"
        "{% else %}<|{{ m.role }}|>\n{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    # as Mistral does: turns without calls and what they gave must alternate
    "strict": (
        "{% set ns = namespace(n=0, open=false) %}{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
        "{% for m in messages %}{% if m.role == 'tool' %}"
        "{% if not ns.open %}{{ raise_exception('nothing was called') }}{% endif %}[RESULT]{{ m.content }}"
        "{% elif m.tool_calls %}{% set ns.open = true %}[CALLS]{% for call in m.tool_calls %}"
        "{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}{% endfor %}<|end|>{% else %}"
        "{% if (m.role == 'user') != (ns.n % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{% set ns.open = false %}"
        "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}<|end|>{% endif %}{% endif %}"
        "{% endfor %}"
    ),
}


@pytest.mark.parametrize(
    ("shape", "calls"),
    [
        ("tools", '<tool_call>{"name": "lab_value", "arguments": {"t": "Na"}}</tool_call>'),
        ("glm", "<tool_call>lab_value<arg_key>t</arg_key><arg_value>Na</arg_value></tool_call>"),
        ("strict", '[CALLS]{"name": "lab_value", "arguments": {"t": "Na"}}'),
    ],
)
def test_an_earlier_call_counts_with_its_name_and_its_arguments_and_nothing_before_it(shape: str, calls: str) -> None:
    tokenizer = build_tokenizer(vocabulary=500)
    tokenizer.chat_template = CALLING[shape]
    one = Tokenization(tokenizer, max_length=512, turns="all")
    again = [{"role": "user", "content": "lab_value of the kidney"}, {"role": "assistant", "content": "low"}]
    end = "" if shape == "glm" else "<|end|>"
    lead = "\n<think></think>\n" if shape == "glm" else ""
    for first, said in ((CALLED[1], calls), (CALLED[1] | {"tool_calls": [CALL, CALL]}, None)):
        (found,) = one.encode([[CALLED[0], first, *CALLED[2:], *again]])
        texts = answers(one, found)
        assert len(texts) == 3
        assert texts[0] == lead + said + end if said else texts[0].count("lab_value") == 2
        assert texts[0].strip().endswith(calls[-9:] + end)
        assert (texts[1].strip(), texts[2].strip()) == (
            f"{lead}normal daily{end}".strip(), f"{lead}low{end}".strip() + ("</s>" if shape == "glm" else ""),
        )  # fmt: skip
    # one that is not to be learnt does not count, and thinking before a call does
    marked = answers(one, one.encode([[CALLED[0], CALLED[1] | {"train": False}, *CALLED[2:]]])[0])
    assert len(marked) == 1
    if shape == "glm":
        thought = CALLED[1] | {"reasoning_content": "the kidney"}
        assert answers(one, one.encode([[CALLED[0], thought, *CALLED[2:]]])[0])[0].startswith("\n<think>the kidney</th")


@pytest.mark.parametrize("shape", [*SHAPES, "names", None])
@pytest.mark.parametrize("answer", ["A", "O", "a", "s", "user", "0"])
def test_a_short_earlier_answer_is_not_taken_for_a_piece_of_a_role_mark(shape: str | None, answer: str) -> None:
    tokenizer = build_tokenizer(vocabulary=500)
    # as Vicuna writes roles, in words
    names = (
        "{% for m in messages %}{{ 'USER: ' + m.content + ' ' if m.role == 'user' else 'ASSISTANT: ' + m.content + "
        "eos_token }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    tokenizer.chat_template = names if shape == "names" else SHAPES.get(shape or "", names)
    one = Tokenization(tokenizer, max_length=512, turns="all", template="auto" if shape else "none")
    talk = turns("u:assistant or user", f"a:{answer}", "u:A0", f"a:{answer}", "u:system", f"a:{answer}")
    texts = [text.strip().removeprefix("final ").strip() for text in answers(one, one.encode([talk])[0])]
    end = "</s>" if shape in ("names", "mistral", "r1-distill") else "<|end|>"
    plain = [answer] * 2 if shape in ("glm4.5", None) else [answer + end] * 2
    # the last answer counts from the mark of its role on where no generation prompt has it, and Qwen3 writes thinking
    assert [*texts[:-1], re.sub(r"^<\|assistant\|> |^<think>\s+</think>\s+", "", texts[-1])] == [
        *plain, answer + ("</s>" if shape in ("glm4.5", None) else end),
    ]  # fmt: skip


def test_an_earlier_answer_may_end_with_another_token_than_the_last() -> None:
    # as gpt-oss does it
    tokenizer = build_tokenizer(vocabulary=500)
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' and loop.last %}</s>"
        "{% else %}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    one = Tokenization(tokenizer, max_length=512, turns="all")
    assert answers(one, one.encode([TALK])[0]) == ["since when<|end|>", "any pain<|end|>", "normal daily</s>"]


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "tools"])
def test_definitions_of_tools_that_are_not_shown_are_said_with_a_cure(
    shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = [CALLED[0], {"role": "assistant", "content": "normal daily"}]
    one = tokenization(shape)
    assert all(isinstance(found, Tokens) for found in one.encode([plain, CONVERSATIONS["plain"], plain]))
    caplog.clear()
    one.say("pool")
    assert "pool: the chat template leaves out definitions of tools: put them into the system turn" in caplog.text
    assert caplog.text.rstrip().endswith("(2 conversations)")
    caplog.clear()
    # names alone are no definitions; all of them are nothing to say
    for template, said in ((SHAPES["tools"].replace("tools | tojson", "tools[0].function.name"), 1),
                           (SHAPES["tools"], 0)):  # fmt: skip
        one.tokenizer.chat_template = template
        shown = Tokenization(one.tokenizer, max_length=512)
        shown.encode([plain])
        caplog.clear()
        shown.say("pool")
        assert caplog.text.count("leaves out definitions of tools") == said


def test_arguments_that_are_not_shown_are_a_reason() -> None:
    tokenizer = build_tokenizer(vocabulary=500)
    # names alone; the value is what the tool gave, too, so that it stands in the text
    tokenizer.chat_template = SHAPES["chatml"].replace(
        "{{ m.content }}", "{{ m.content }}{% for call in m.tool_calls or [] %}{{ call.function.name }}{% endfor %}"
    )
    one = Tokenization(tokenizer, max_length=512)
    given = [*CALLED[:2], {"role": "tool", "content": '{"t": "Na"}'}, CALLED[3]]
    without = CALLED[1] | {"tool_calls": [{"type": "function", "function": {"name": "lab_value", "arguments": {}}}]}
    for messages in (given, CALLED[:2]):
        (found,) = one.encode([messages])
        assert found == "the chat template does not show the arguments of a call of a tool"
    assert isinstance(one.encode([[CALLED[0], without, *CALLED[2:]]])[0], Tokens)
    # the first call alone is shown
    tokenizer.chat_template = CALLING["tools"].replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
    two = [CALLED[0], CALLED[1] | {"tool_calls": [CALL, CALL]}, *CALLED[2:]]
    (found,) = Tokenization(tokenizer, max_length=512).encode([two])
    assert found == "the chat template does not show a call of a tool"


def test_a_template_that_knows_no_tools_shows_no_call() -> None:
    for messages in (CALLED, CALLED[:2]):
        (found,) = tokenization("chatml").encode([messages])
        assert found == "the chat template does not show a call of a tool"


# every answer ------------------------------------------------------------------------------------------------------

TALK = turns("s:be kind", "u:fever", "a:since when", "u:two days", "a:any pain", "u:is the dose low", "a:normal daily")


def answers(one: Tokenization, found: Tokens | str) -> list[str]:
    """Texts of the answers that count, one for each run of tokens."""
    assert isinstance(found, Tokens), found
    counts = found.is_answer
    assert counts[: found.answer_start].sum() == 0
    assert counts.sum() == found.answer_tokens
    edges = np.flatnonzero(np.diff(np.concatenate([[0], counts.astype(int), [0]])))
    return [one.tokenizer.decode(found.ids[first:last]) for first, last in edges.reshape(-1, 2)]


@pytest.mark.parametrize("shape", [*SHAPES, None])
def test_every_answer_counts_where_all_turns_are_asked_for(shape: str | None) -> None:
    last = tokenization(shape or "chatml", template="auto" if shape else "none")
    every = tokenization(shape or "chatml", template="auto" if shape else "none", turns="all")
    assert every.settings() == last.settings() | {"turns": "all"}
    (alone,), (whole,) = last.encode([TALK]), every.encode([TALK])
    assert isinstance(alone, Tokens)
    assert isinstance(whole, Tokens)
    # the same tokens, of which more count; the last answer counts in both
    assert whole.ids.tolist() == alone.ids.tolist()
    assert whole.is_answer[alone.answer_start :].all()
    texts = answers(every, whole)
    assert [squeezed(text) for text in texts[:-1]] == [
        ("final" if shape == "gpt-oss" else "") + squeezed(text) + (every.template.end or "" if every.template else "")
        for text in ("since when", "any pain")
    ]
    assert [texts[-1]] == answers(last, alone)
    assert texts[1].strip().startswith(("any pain", "final any pain"))
    # a sample of one turn is the same either way, and one that is marked does not count
    assert str(every.encode([CONVERSATIONS["reasoning"]])) == str(last.encode([CONVERSATIONS["reasoning"]]))
    marked = [one | {"train": False} if one["content"] == "since when" else one for one in TALK]
    assert len(answers(every, every.encode([marked])[0])) == 2
    # cut in the middle of the second answer
    n = int(np.flatnonzero(whole.is_answer)[int(whole.is_answer[: whole.pauses[0][0]].sum())]) + 1
    every.max_length = n
    cut = every.encode([TALK])[0]
    assert isinstance(cut, Tokens)
    assert cut.is_answer.tolist() == whole.is_answer[:n].tolist()


def test_thinking_of_earlier_turns_counts_where_it_is_shown() -> None:
    talk = turns("u:fever", "a:<think>\nask\n</think>\n\nsince when", "u:is the dose low", "a:normal daily")
    for shape, first in (("chatml", "<think>\nask\n</think>\n\nsince when<|end|>"), ("qwen3", "since when<|end|>")):
        one = tokenization(shape, turns="all")
        assert answers(one, one.encode([talk])[0])[0] == first


def test_a_file_of_tokens_and_batches_keep_every_answer() -> None:
    one = tokenization("chatml", turns="all")
    samples = [found for found in one.encode([TALK, CONVERSATIONS["plain"], TALK[:3]]) if isinstance(found, Tokens)]
    with TokenFile() as file:
        for sample in samples:
            file.append(sample)
        assert [file[i].is_answer.tolist() for i in range(3)] == [sample.is_answer.tolist() for sample in samples]
    for layout in ({}, {"padding_side": "left"}, {"packed": True}):
        batch = collate(samples, **layout)
        assert batch.answer[batch.mask].tolist() == [bool(flag) for sample in samples for flag in sample.is_answer]


# folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["chat_template.json", "processor_config.json"])
def test_the_template_of_a_processor_is_used(tmp_path: Path, file: str) -> None:
    folder = save_model(tmp_path / "model", build_llama(), build_tokenizer())
    (folder / file).write_text(json.dumps({"chat_template": SHAPES["parts"]}))
    one = load_tokenization(find_model(folder), max_length=99)
    (found,) = one.encode([CONVERSATIONS["plain"]])
    assert isinstance(found, Tokens)
    assert one.tokenizer.decode(found.ids[found.answer_start :]) == "normal daily<|end|>\n"
    assert one.settings()["template_traits"] == {"content": "parts"}


@pytest.mark.parametrize("text", ["{bad", "[1]"])
def test_a_damaged_template_of_a_processor_is_refused(tmp_path: Path, text: str) -> None:
    folder = save_model(tmp_path / "model", build_llama(), build_tokenizer())
    (folder / "chat_template.json").write_text(text)
    with pytest.raises(ModelError, match=r"chat_template.json` (is not JSON|holds no JSON object)"):
        load_tokenizer(find_model(folder))


@pytest.mark.parametrize("family", ["qwen2", "gemma", "llama"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, family: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(family, vocab_size=50, head_dim=8, num_key_value_heads=1, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"has no (usable )?tokenizer") as caught:
        load_tokenizer(find_model(tmp_path))
    assert caught.value.hint is not None
    assert "tokenizer.save_pretrained" in caught.value.hint


def test_another_tokenizer_than_the_one_in_the_file_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    load_tokenizer(find_model(save_model(tmp_path / "llama", build_llama(), build_tokenizer())))
    assert "tokenizer.json" not in caplog.text
    # the class that goes with the model's type splits numbers into digits, whatever the file says
    monkeypatch.setattr("conftest.WORDS", ["140", "mmol", "sodium", "isn't", "LOW"])
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=400, num_key_value_heads=1, **sizes))
    load_tokenizer(find_model(save_model(tmp_path / "qwen", model, build_tokenizer())))
    assert "`qwen`: transformers' Qwen2Tokenizer reads a text of" in caplog.text


def test_tokens_that_the_model_lacks_are_a_reason(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    folder = save_model(tmp_path / "model", build_llama(vocabulary=len(tokenizer) - 20), tokenizer)
    one = load_tokenization(find_model(folder), max_length=99)
    last = tokenizer.convert_ids_to_tokens(len(tokenizer) - 1).replace("Ġ", " ")
    with pytest.raises(UsageError, match="can be used: the model's vocabulary of 380 tokens lacks") as caught:
        one.encode_validation_set("task", [turns("u:a", f"a:{last}")])
    assert "max-length" not in str(caught.value.hint)
    known, foreign = one.encode([turns("u:a", "a:b"), turns("u:a", f"a:{last}")])
    assert isinstance(known, Tokens)
    assert np.max(known.ids) < len(tokenizer) - 20
    assert isinstance(foreign, str)
    assert foreign.startswith("the model's vocabulary of 380 tokens lacks the tokenizer's")


SHOWN = "{% for m in messages %}{{ m.role }}:{{ m.content }}<|end|>{% endfor %}"
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
# each is short, and what the sandbox of jinja lets through: it refuses a range of more than 100,000 alone
ENDLESS = {
    "loop": LOOPS,
    "macro": f"{{% macro f() %}}{LOOPS}{{% endmacro %}}{{{{ f() }}}}",
    "text": "{{ 'x' * 5000000 }}",
    "text of loops": "{% for i in range(9999) %}{% for j in range(999) %}x{% endfor %}{% endfor %}",
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_template_without_end_is_one_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diq.models.templates._LONGEST_S", 1.0 if kind in ("loop", "macro") else 60.0)
    tokenizer = build_tokenizer(vocabulary=500)
    tokenizer.name_or_path = "some/folder"
    tokenizer.chat_template = SHOWN + ENDLESS[kind]
    with pytest.raises(ModelError) as caught:
        Tokenization(tokenizer, max_length=512)
    what = "came to no end in 1 seconds" if kind in ("loop", "macro") else r"made (5,000|9,989),\d{3} characters"
    assert re.search(
        rf"the chat template {what}.*, of a conversation of a few letters .*`some/folder`", caught.value.message
    )
    assert "\n" not in caught.value.message
    assert "--template none" in caught.value.hint
    # its kin without end is refused by jinja, each sample with the reason
    tokenizer.chat_template = SHOWN + "{% for i in range(10**9) %}x{% endfor %}"
    (reason,) = Tokenization(tokenizer, max_length=512).encode([turns("u:fever", "a:daily")])
    assert isinstance(reason, str)
    assert "Range too big" in reason


def test_a_template_that_is_endless_for_one_sample_refuses_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diq.models.templates._LONGEST_S", 1.0)
    tokenizer = build_tokenizer(vocabulary=500)
    tokenizer.chat_template = f"{{% if 'fever' in messages[0].content %}}{ENDLESS['loop']}{{% endif %}}{SHOWN}"
    found = Tokenization(tokenizer, max_length=512).encode([turns("u:fever", "a:daily"), turns("u:dose", "a:low")])
    assert found[0] == "the chat template came to no end in 1 seconds or 2 GB of memory"
    assert isinstance(found[1], Tokens)


def test_a_long_sample_is_no_endless_template() -> None:
    long = "dose " * 1_200_000
    tokenizer = build_tokenizer(vocabulary=500)
    tokenizer.chat_template = SHOWN
    assert ChatTemplate(tokenizer).pair(turns(f"u:{long}", "a:low")).full.count("dose") == 1_200_000
