"""``diq explain``: which tokens of a sample carry its dot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import diq
from diq.base.text import amount
from diq.cli.console import print_json, progress, say, table
from diq.cli.options import keywords, options_of, output_options, refuse
from diq.influence.options import ExplainOptions

if TYPE_CHECKING:
    from diq.influence.explain import Explanation, TokenShare

_VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥"}


@click.command(short_help="Show which answer tokens carry a sample's dot.")
@options_of(ExplainOptions)
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="Answer tokens to show or mark.")
@click.option("--all", "everything", is_flag=True, help="Show every answer token.")
@output_options
def explain(top: int, everything: bool, as_json: bool, quiet: bool, **given: Any) -> None:
    """Show which answer tokens carry the dot of SAMPLE_ID (all of it, or its first 6 or more digits).

    Column loss_term is the derivative of a token's own share of the loss along the mean validation gradient: over the
    answer it adds up to the dot. Column term is what enters the dot where the token is input: it adds up to the dot
    over prompt and answer. Tokens are ranked by the size of loss_term. The store is only read.

    \b
    Example:
      diq explain 3f9a01 --model Qwen/Qwen3-8B --validation-set medqa
    """

    if as_json:
        refuse(("top", "everything"), "with --json")
    with progress(quiet=quiet or as_json) as report:
        found = diq.explain(**keywords(ExplainOptions, given), progress=report)
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found, top, everything)


def _show(found: Explanation, top: int, everything: bool) -> None:
    answer = [(one, one.loss_term or 0.0) for one in found.tokens if one.is_answer]
    largest = sorted(answer, key=lambda pair: -abs(pair[1]))[:top]
    ranks = {one.position: rank for rank, (one, _) in enumerate(largest, start=1)}
    rows = [
        (
            ranks.get(one.position),
            one.position,
            visible(one),
            one.loss,
            one.loss_term,
            _share(term, found.dot),
            one.term,
        )
        for one, term in answer
        if everything or one.position in ranks
    ]
    places = ", ".join(f"{one['dataset']} {one['position']}" for one in found.places)
    sets = ", ".join(f"{name} {100 * share:.3g} %" for name, share in found.validation_sets.items())
    say(f"sample {found.sample_id}{f' ({places})' if places else ''}")
    say(f"model {found.model}; weights {found.params}; validation sets {sets}")
    say(
        f"dot {found.dot:.6g}; loss {found.loss:.4g} nats, "
        f"{found.loss_reduction} over {amount(found.answer_tokens, 'answer token')}"
    )
    for one in found.stored:
        say(f"stored dot of run {one.run_id} ({one.method}): {one.dot:.6g}, difference {found.dot - one.dot:.1e}")
    shown = f"{len(rows):,} of {amount(len(answer), 'answer token')}, largest loss_term"
    title = f"all {amount(len(answer), 'answer token')}" if len(rows) == len(answer) else shown
    table(title, ("rank", "position", "token", "loss", "loss_term", "% of dot", "term"), rows)
    carried = sum(term for _, term in largest)
    say(f"{amount(len(largest), 'ranked token')}: {carried:.4g} of the dot{_percent(carried, found.dot)}")
    prompt = found.totals["term_prompt"]
    say(f"prompt: {found.prompt_tokens:,} tokens, {prompt:.4g} of the terms{_percent(prompt, found.dot)}")


def _share(part: float, whole: float) -> float | None:
    return 100 * part / whole if whole else None


def _percent(part: float, whole: float) -> str:
    share = _share(part, whole)
    return "" if share is None else f" ({share:.3g} %)"


def visible(token: TokenShare) -> str:
    """The text of a token with white space and control characters that can be seen."""
    if not token.text:
        return "(part of the next)"
    shown = (_VISIBLE.get(one, one) for one in token.text)
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in shown)
