"""The account: steps of selecting and training, with FLOPs side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from diq.base.summary import Summary
from diq.base.text import Ratio
from diq.costs.flops import (
    exact_flops,
    forward_flops,
    ifd_flops,
    in_context,
    preference_flops,
    projected_flops,
    rds_flops,
    training_flops,
)
from diq.costs.lengths import Lengths
from diq.costs.options import ENCODER_CONTEXT, Params
from diq.costs.paper import paper_inference, paper_lora, paper_training
from diq.costs.sizes import BIOMEDBERT, MODERNBERT, Size


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        size: the language model.
        lengths: of the dataset.
        validation: of all validation samples together.
        sets: validation sets.
        ratios: ratios that are to be trained on.
        epochs: of training.
        params: which matrices influence looks at and training adapts.
        rank: of LoRA.
        method: sft or dpo.
        checkpointing: gradient checkpointing in training.
        difficulty: encoder of the difficulty classifier.
        rater: encoder of the influence rater.
        questions: number and tokens (prompt and output) of the questions of an evaluation; None leaves it out.
    """

    size: Size
    lengths: Lengths
    validation: Lengths
    sets: int = 1
    ratios: tuple[Ratio, ...] = ()
    epochs: float = 3.0
    params: Params = "qkv"
    rank: int = 8
    method: Literal["sft", "dpo"] = "sft"
    checkpointing: bool = False
    difficulty: Size = BIOMEDBERT
    rater: Size = MODERNBERT
    questions: Lengths | None = None

    @property
    def scored(self) -> Params:
        """The matrices that influence looks at: training all weights leaves it at q, k and v."""
        return "qkv" if self.params == "full" else self.params


@dataclass(slots=True)
class Step:
    """A line of the account.

    Attributes:
        name: what is done.
        rate: which measured rate tells its time: exact, projected, encoder or training; None: no rate does.
        samples: that it reads, epochs apart.
        tokens: that it reads, epochs included.
        paper: FLOPs by the paper's formulas; None where it prints none.
        flops: counted FLOPs.
        of_full_training: ``flops`` over those of training on everything.
        hours: predicted, ``(middle, least, most)``; None without a probe.
    """

    name: str
    rate: str | None
    samples: float
    tokens: float
    paper: float | None
    flops: float
    of_full_training: float = 0.0
    hours: tuple[float, float, float] | None = None


@dataclass(repr=False, slots=True)
class Account(Summary):
    """The cost of a plan.

    Attributes:
        plan: what is to be done.
        steps: a line each.
        notes: what a reader must know, a line each.
    """

    plan: Plan
    steps: list[Step]
    notes: list[str] = field(default_factory=list)

    def step(self, name: str) -> Step:
        """The line of that name."""
        return next(one for one in self.steps if one.name == name)


FULL = "train on everything"


def account(plan: Plan) -> Account:
    """Count every step of a plan, by the paper's formulas and in full."""
    size, lengths = plan.size, plan.lengths
    steps = [
        _encoder_step("score difficulty", plan.difficulty, lengths.n, lengths.prompts / max(lengths.n, 1)),
        Step(
            "score influence, exact",
            "exact",
            lengths.n,
            lengths.tokens,
            None,
            exact_flops(size, lengths, plan.validation, params=plan.scored, sets=plan.sets),
        ),
        Step(
            "score influence, projected",
            "projected",
            lengths.n,
            lengths.tokens,
            None,
            projected_flops(size, lengths, plan.validation, params=plan.scored),
        ),
        _encoder_step("score influence, rater", plan.rater, lengths.n, lengths.mean),
        _forward_step("score perplexity", size, lengths),
        Step("score ifd", None, lengths.n, lengths.tokens + lengths.answers, None, ifd_flops(size, lengths)),
        Step("score rds", None, lengths.n, lengths.tokens, None, rds_flops(size, lengths, plan.validation)),
        Step("select", None, lengths.n, 0.0, 0.0, 0.0),
    ]
    for ratio in plan.ratios:
        share = ratio.of(int(lengths.n)) / lengths.n
        steps.append(_training_step(f"train on {100 * float(ratio.text):g} %", plan, lengths.scaled(share)))
    full = _training_step(FULL, plan, lengths)
    steps.append(full)
    if plan.questions is not None:
        steps.append(_forward_step("evaluate", size, plan.questions))
    for step in steps:
        step.of_full_training = step.flops / full.flops if full.flops else 0.0
    return Account(plan, steps, _notes(plan, full))


def _paper_forward(size: Size, lengths: Lengths) -> float:
    return paper_inference(layers=size.layers, hidden=size.hidden, tokens=lengths.mean, samples=lengths.n)


def _forward_step(name: str, size: Size, lengths: Lengths) -> Step:
    return Step(name, None, lengths.n, lengths.tokens, _paper_forward(size, lengths), forward_flops(size, lengths))


def _encoder_step(name: str, size: Size, n: float, tokens: float) -> Step:
    seen = in_context(size, n, tokens)
    return Step(name, "encoder", n, seen.tokens, _paper_forward(size, seen), forward_flops(size, seen))


def _training_step(name: str, plan: Plan, lengths: Lengths) -> Step:
    size, tokens = plan.size, plan.epochs * lengths.tokens
    if plan.method == "dpo":
        flops = preference_flops(
            size, lengths, epochs=plan.epochs, params=plan.params, rank=plan.rank, checkpointing=plan.checkpointing
        )
        # the paper has no formula for it, and the probe takes no step of it
        return Step(name, None, lengths.n, tokens, None, flops)
    facts: dict[str, Any] = {
        "layers": size.layers,
        "hidden": size.hidden,
        "tokens": lengths.mean,
        "samples": lengths.n,
        "epochs": plan.epochs,
    }
    if plan.params == "full":
        paper = paper_training(**facts)
    else:
        paper = paper_lora(**facts, matrices=len(size.chosen(plan.params)) // size.layers, rank=plan.rank)
    flops = training_flops(
        size, lengths, epochs=plan.epochs, params=plan.params, rank=plan.rank, checkpointing=plan.checkpointing
    )
    return Step(name, "training", lengths.n, tokens, paper, flops)


def _notes(plan: Plan, full: Step) -> list[str]:
    notes = [f"lengths: {plan.lengths.mean:,.0f} tokens a sample; {plan.lengths.source}"]
    if full.paper and plan.params != "full":
        notes.append(
            f"the paper's Eq. 9 counts the adapter alone: training computes {full.flops / full.paper:,.0f} times that"
        )
    if plan.lengths.mean > (plan.difficulty.context or ENCODER_CONTEXT):
        notes.append(f"{plan.difficulty.name} reads {plan.difficulty.context} tokens of a question at most")
    return notes
