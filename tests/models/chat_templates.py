"""Chat templates in the shapes that the models of today have, each written for these tests.

The marks are those of the tests' tokenizer: ``<|user|>``, ``<|assistant|>``, ``<|end|>``, ``<s>`` and ``</s>``.
"""

from __future__ import annotations

_OPEN = "{{ '<|' + m.role + '|>\\n' }}"
_ASK = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
_LOOP = "{% for m in messages %}"
_THOUGHT = "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
_CHATML = f"{_LOOP}{_OPEN}{{{{ m.content }}}}<|end|>\n{{% endfor %}}{_ASK}"

SHAPES: dict[str, str] = {
    "chatml": _CHATML,
    # prints a date that may be given, and trims
    "llama3": (
        "{{ bos_token }}<|system|>\nToday Date: "
        "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}"
        "\n{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}"
        f"{{% endif %}}<|end|>{_LOOP}{_OPEN}\n{{{{ m.content | trim }}}}<|end|>{{% endfor %}}{_ASK}\n"
    ),
    # keeps the thinking of the last answer alone, and can be told to write an empty one
    "qwen3": (
        "{% set ns = namespace(last=-1) %}"
        "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
        f"{{% endif %}}{{% endfor %}}{_LOOP}{{% set text = m.content %}}{{% set thought = m.reasoning_content or '' %}}"
        "{% if m.role == 'assistant' and not thought and '</think>' in text %}"
        "{% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
        "{% set text = text.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
        f"{_OPEN}{{% if m.role == 'assistant' and loop.index0 > ns.last and (loop.last or thought) %}}"
        "<think>\n{{ thought.strip('\\n') }}\n</think>\n\n{% endif %}{{ text }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% if enable_thinking is defined and not enable_thinking %}"
        "<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
    # raises at system turns and at turns that do not alternate
    "gemma": (
        "{{ bos_token }}"
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        f"{_LOOP}{{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        f"{_OPEN}{{{{ m.content | trim }}}}<|end|>\n{{% endfor %}}{_ASK}"
    ),
    # cuts all up to </think>, and opens the thinking itself
    "r1-distill": (
        f"{{{{ bos_token }}}}{_LOOP}{{% if m.role == 'assistant' %}}{{% set text = m.content %}}"
        "{% if '</think>' in text %}{% set text = text.split('</think>')[-1] %}{% endif %}"
        "<|assistant|>{{ text }}</s>{% else %}"
        f"{_OPEN}{{{{ m.content }}}}{{% endif %}}{{% endfor %}}"
        "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
    ),
    # prints the date of its own clock
    "granite": (
        "<|system|>\nToday's Date: {{ strftime_now('%B %d, %Y') }}.{% if messages[0].role == 'system' %}"
        "{{ messages[0].content }}{% set messages = messages[1:] %}{% endif %}<|end|>\n"
        f"{_LOOP}{_OPEN}{{{{ m.content }}}}<|end|>\n{{% endfor %}}{_ASK}"
    ),
    # a clock, a system turn in front alone, thinking in a channel of its own for the last answer alone
    "gpt-oss": (
        "<|system|>\nCurrent date: {{ strftime_now('%Y-%m-%d') }}<|end|>"
        "{% if messages[0].role == 'system' %}<|system|># Instructions\n{{ messages[0].content }}<|end|>{% endif %}"
        f"{_LOOP}{{% if m.role == 'assistant' %}}{{% if loop.last and m.reasoning_content %}}"
        "<|assistant|>analysis {{ m.reasoning_content }}<|end|>{% endif %}"
        "<|assistant|>final {{ m.content }}<|end|>{% elif m.role == 'user' %}"
        "<|user|>{{ m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    # no generation prompt; the system turn goes into the last question
    "mistral": (
        "{{ bos_token }}{% set ns = namespace(sys='', last=-1) %}{% for m in messages %}{% if m.role == 'system' %}"
        "{% set ns.sys = m.content %}{% elif m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        f"{_LOOP}{{% if m.role == 'user' %}}<|user|>{{% if loop.index0 == ns.last and ns.sys %}}{{{{ ns.sys }}}}\n\n"
        "{% endif %}{{ m.content }}{% elif m.role == 'assistant' %}<|assistant|> {{ m.content | trim }}</s>{% endif %}"
        "{% endfor %}"
    ),
    # shows user and assistant alone: a system turn vanishes
    "phi": (
        f"{_LOOP}{{% if m.role in ('user', 'assistant') %}}{_OPEN}{{{{ m.content }}}}<|end|>\n{{% endif %}}"
        f"{{% endfor %}}{_ASK}"
    ),
    # nothing behind an answer says that it ends
    "glm4.5": (
        f"{_LOOP}{_OPEN}{{% if m.role == 'assistant' %}}{_THOUGHT}{{% endif %}}{{{{ m.content }}}}{{% endfor %}}{_ASK}"
    ),
    # walks over typed parts
    "parts": (
        f"{_LOOP}{_OPEN}{{% for part in m.content %}}{{% if part.type == 'text' %}}{{{{ part.text }}}}{{% endif %}}"
        f"{{% endfor %}}<|end|>\n{{% endfor %}}{_ASK}"
    ),
    # tools: what there are, calls, and what they gave
    "tools": (
        "{% if tools %}<|system|>\n{{ tools | tojson }}<|end|>\n{% endif %}"
        f"{_LOOP}{_OPEN}{{{{ m.content }}}}{{% for call in m.tool_calls or [] %}}"
        "<tool_call>{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}</tool_call>"
        f"{{% endfor %}}<|end|>\n{{% endfor %}}{_ASK}"
    ),
    # takes typed parts and strings
    "either": (
        f"{_LOOP}{_OPEN}{{% if m.content is string %}}{{{{ m.content }}}}{{% else %}}{{% for part in m.content %}}"
        f"{{{{ part.text }}}}{{% endfor %}}{{% endif %}}<|end|>\n{{% endfor %}}{_ASK}"
    ),
}  # fmt: skip
