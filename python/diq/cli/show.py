"""``diq show``: one sample, as it was read and as a model sees it."""

from __future__ import annotations

from typing import Any

import click

import diq
from diq.cli.console import conversation_lines, print_json, say
from diq.cli.options import keywords, options_of, output_options
from diq.samples.options import ShowOptions


@click.command(short_help="Show a sample as it was read, and as a model sees it.")
@options_of(ShowOptions)
@output_options
def show(as_json: bool, quiet: bool, **given: Any) -> None:
    """Show a sample of DATASET: the conversation, where it came from, and with --model the text that the model sees.

    What the loss covers stands between ⟦ and ⟧. The store is only read.

    \b
    Examples:
      diq show pool
      diq show pool 3f9a01 --model Qwen/Qwen3-8B --chat-template-kwargs enable_thinking=false
    """
    found = diq.show(**keywords(ShowOptions, given))
    if as_json:
        print_json(found.to_dict())
        return
    say(f"sample {found.sample_id} of `{found.dataset}`")
    for place in () if quiet else found.places:
        facts = ", ".join(f"{name} {value}" for name, value in place["attributes"].items())
        where = f"position {place['position']}, line {place['line']} of `{place['source']}`, split {place['split']}"
        say(f"{where}; {facts}" if facts else where)
    for line in conversation_lines(found.messages, width=None):
        say(line)
    if found.rejected is not None:
        say("refused answer:")
        for line in conversation_lines(found.rejected, width=None):
            say(line)
    if found.text is not None:
        say(f"\nas the model sees it ({found.template}, {found.tokens} tokens, {found.answer_tokens} in the loss):")
        say("".join(f"⟦{piece}⟧" if counts else piece for piece, counts in found.text))
