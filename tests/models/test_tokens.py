"""Which tokens are the answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import build_tokenizer
from diq.base.errors import RunFailedError, UsageError
from diq.base.sample import Message
from diq.models.tokens import TokenFile, Tokenization, Tokens, collate

CONVERSATION: list[Message] = [
    {"role": "user", "content": "what is the dose of aspirin"},
    {"role": "assistant", "content": "low dose daily"},
]


def encode(tokenization: Tokenization, messages: list[Message]) -> Tokens:
    (tokens,) = tokenization.encode([messages])
    assert isinstance(tokens, Tokens)
    return tokens


def test_without_a_template_the_layout_is_question_and_answer() -> None:
    tokenizer = build_tokenizer()
    tokens = encode(Tokenization(tokenizer, max_length=512), CONVERSATION)
    assert tokenizer.decode(tokens.ids[: tokens.answer_start]) == "Question: what is the dose of aspirin\nAnswer: "
    assert tokenizer.decode(tokens.ids[tokens.answer_start :]) == "low dose daily</s>"


def test_without_a_template_no_merge_crosses_the_border() -> None:
    tokenizer = build_tokenizer()
    tokenization = Tokenization(tokenizer, max_length=512)
    for answer in ("low", " low", "\nlow", "ow", "é low"):
        tokens = encode(tokenization, [CONVERSATION[0], {"role": "assistant", "content": answer}])
        assert tokenizer.decode(tokens.ids[tokens.answer_start : -1]) == answer


def test_a_tokenizer_with_a_leading_token_gets_it_once() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokens = encode(Tokenization(tokenizer, max_length=512), CONVERSATION)
    assert tokens.ids[0] == 1
    assert (tokens.ids == 1).sum() == 1


def test_with_a_template_the_answer_is_what_follows_the_common_prefix() -> None:
    tokenizer = build_tokenizer(chat=True)
    tokens = encode(Tokenization(tokenizer, max_length=512), CONVERSATION)
    assert tokenizer.decode(tokens.ids[: tokens.answer_start]).endswith("<|assistant|>\n")
    assert tokenizer.decode(tokens.ids[tokens.answer_start :]) == "low dose daily<|end|>\n"
    full = tokenizer.apply_chat_template(CONVERSATION, tokenize=False)
    assert tokens.ids.tolist() == tokenizer(full, add_special_tokens=False)["input_ids"]


def test_only_the_last_answer_of_a_conversation_counts() -> None:
    tokenizer = build_tokenizer(chat=True)
    longer = [*CONVERSATION, {"role": "user", "content": "why"}, {"role": "assistant", "content": "blood"}]
    for template in ("auto", "none"):
        tokens = encode(Tokenization(tokenizer, max_length=512, template=template), longer)  # type: ignore[arg-type]
        answer = tokenizer.decode(tokens.ids[tokens.answer_start :])
        assert answer.startswith("blood")
        assert "low dose daily" in tokenizer.decode(tokens.ids[: tokens.answer_start])


@pytest.mark.parametrize("knows_reasoning", [True, False])
def test_reasoning_goes_where_the_template_puts_it(knows_reasoning: bool) -> None:
    tokenizer = build_tokenizer(chat=True)
    if not knows_reasoning:
        tokenizer.chat_template = tokenizer.chat_template.replace("message.get('reasoning_content')", "false")
    answer = {"role": "assistant", "content": "low dose", "reasoning_content": "the kidney is normal"}
    tokens = encode(Tokenization(tokenizer, max_length=512), [CONVERSATION[0], answer])
    text = tokenizer.decode(tokens.ids[tokens.answer_start :])
    assert text == "<think>\nthe kidney is normal\n</think>\n\nlow dose<|end|>\n"


def test_a_template_that_refuses_a_system_turn_gets_it_in_the_user_turn(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = build_tokenizer(chat=True)
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + tokenizer.chat_template
    )
    tokenization = Tokenization(tokenizer, max_length=512)
    tokens = encode(tokenization, [{"role": "system", "content": "be low"}, *CONVERSATION])
    assert "<|user|>\nbe low\n\nwhat is" in tokenizer.decode(tokens.ids)
    tokenization.say("pool")
    assert "system turns that the chat template does not show stand in front of the user turn (1 " in caplog.text


def test_a_conversation_that_the_template_refuses_is_a_reason() -> None:
    tokenizer = build_tokenizer(chat=True)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    (reason,) = Tokenization(tokenizer, max_length=512).encode([CONVERSATION])
    assert reason == "the chat template refused the sample: roles must alternate"


def test_truncation_is_on_the_right_and_may_leave_no_answer() -> None:
    tokenizer = build_tokenizer()
    whole = encode(Tokenization(tokenizer, max_length=512), CONVERSATION)
    cut = encode(Tokenization(tokenizer, max_length=whole.answer_start + 1), CONVERSATION)
    assert cut.ids.tolist() == whole.ids[: whole.answer_start + 1].tolist()
    assert cut.answer_tokens == 1
    assert encode(Tokenization(tokenizer, max_length=4), CONVERSATION).answer_tokens == 0


def test_settings_change_with_anything_that_changes_a_token() -> None:
    plain, chat = build_tokenizer(), build_tokenizer(chat=True)
    other = build_tokenizer(chat=True)
    other.chat_template += " "
    found = [
        Tokenization(plain, max_length=512).settings(),
        Tokenization(plain, max_length=256).settings(),
        Tokenization(chat, max_length=512).settings(),
        Tokenization(chat, max_length=512, template="none").settings(),
        Tokenization(other, max_length=512).settings(),
        Tokenization(build_tokenizer(vocabulary=390), max_length=512).settings(),
    ]
    assert found[0] == found[3]
    assert len({str(one) for one in found}) == 5
    assert Tokenization(build_tokenizer(), max_length=512).settings() == found[0]


def test_token_file_gives_back_what_was_put_in() -> None:
    rng = np.random.default_rng(0)
    samples = [Tokens(rng.integers(0, 99, n).astype(np.int32), 1 + n // 2) for n in (1, 7, 0, 30)]
    file = TokenFile()
    for sample in samples:
        file.append(sample)
    assert file.lengths().tolist() == [1, 7, 0, 30]
    for i in (3, 0, 2, 1):
        assert file[i].ids.tolist() == samples[i].ids.tolist()
        assert file[i].answer_start == samples[i].answer_start
    file.close()


def test_a_full_disk_of_temporary_files_is_one_line(
    small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = small_disk(64)
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    file = TokenFile()

    def fill() -> None:
        for _ in range(200):
            file.append(Tokens(np.arange(1000, dtype=np.int32), 1))

    with pytest.raises(RunFailedError, match="No space left") as caught:
        fill()
    assert "TMPDIR" in caught.value.hint
    file.close()
    assert list(disk.iterdir()) == []


def test_collate_marks_tokens_and_answers() -> None:
    samples = [Tokens(np.asarray([5, 6, 7], np.int32), 2), Tokens(np.asarray([8], np.int32), 1)]
    right, left = collate(samples), collate(samples, padding_side="left")
    assert right.ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert right.answer.tolist() == [[False, False, True], [False, False, False]]
    assert left.ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert left.mask.tolist() == [[True] * 3, [False, False, True]]


THINKING = (
    "{%- for m in messages -%}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{%- endfor -%}"
    "{%- if add_generation_prompt -%}<assistant>{%- if enable_thinking is defined and not enable_thinking -%}"
    "<think></think>{%- endif -%}{%- endif -%}"
)


def test_variables_of_the_template_reach_every_rendering() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = THINKING
    plain = Tokenization(tokenizer, max_length=100)
    asked = Tokenization(tokenizer, max_length=100, template_kwargs=["enable_thinking=false"])
    messages: list[Message] = [{"role": "user", "content": "a b"}]
    assert plain.template is not None
    assert asked.template is not None
    assert plain.template.prompt(messages).endswith("<assistant>")
    assert asked.template.prompt(messages).endswith("<assistant><think></think>")
    # another token, another run; and a run without any is what it was
    assert "template_variables" not in plain.settings()
    assert asked.settings() == plain.settings() | {"template_variables": {"enable_thinking": False}}
    named = Tokenization(tokenizer, max_length=100, template_kwargs=["enable_thinking=no such JSON"])
    assert named.template is not None
    assert named.template.variables["enable_thinking"] == "no such JSON"


@pytest.mark.parametrize(
    ("texts", "template", "message"),
    [
        (["enable_thinking"], "auto", "`enable_thinking` is not KEY=VALUE"),
        (["=1"], "auto", "`=1` is not KEY=VALUE"),
        (["enable_thinking=1", "enable_thinking=2"], "auto", "names `enable_thinking` twice"),
        (["enable_thinkin=false"], "auto", "does not read it\nhint: its variables are: enable_thinking$"),
        (["enable_thinking=false"], "none", "the tokenizer has no chat template"),
    ],
)
def test_variables_without_effect_are_refused(texts: list[str], template: Any, message: str) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = THINKING
    with pytest.raises(UsageError, match=message):
        Tokenization(tokenizer, max_length=100, template=template, template_kwargs=texts)
