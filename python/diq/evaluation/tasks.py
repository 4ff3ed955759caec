"""Benchmarks as tasks of lm-evaluation-harness, and outputs that tell how they ended."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task
from lm_eval.config.task import TaskConfig

from diq.base.sample import Message
from diq.evaluation import protocol
from diq.evaluation.answers import SCORING, mark
from diq.evaluation.questions import Question, QuestionSet
from diq.models.tokens import plain_prompt

Doc = dict[str, Any]


class Output(str):
    """What a model wrote.

    lm-eval hands texts from the model to the task, and nothing else; a text that knows more passes through it.

    Attributes:
        ending: ``stop``, ``length`` (cut off at the maximum number of tokens), ``refused`` (the server takes no such
            question) or ``failed`` (no reply came).
        n_tokens: its length; None where nobody counted.
        problem: why none came.
    """

    ending: str
    n_tokens: int | None
    problem: str | None

    def __new__(cls, text: str, ending: str, n_tokens: int | None = None, problem: str | None = None) -> Output:
        """Text and how it ended."""
        made = super().__new__(cls, text)
        made.ending, made.n_tokens, made.problem = ending, n_tokens, problem
        return made


class BenchmarkTask(Task):  # type: ignore[misc]
    """Questions as a task of lm-eval: ``lm_eval.evaluate(lm=lm, task_dict={task.task_name: task})`` runs it alone.

    Metrics: ``acc`` by the paper's rule, ``acc_strict`` by the strict one, ``unanswered``, ``cut``.

    Args:
        asked: the questions and the examples before them.
        generation: arguments of ``generate_until``, as `Protocol.generation` makes them.
    """

    VERSION = f"{protocol.PROMPT_VERSION}/{SCORING}"
    OUTPUT_TYPE = "generate_until"

    def __init__(self, asked: QuestionSet, generation: Mapping[str, Any]) -> None:
        self._asked = [_doc(question) for question in asked.questions]
        self._examples = [(protocol.prompt(one), protocol.answer(one)) for one in asked.examples]
        self._generation = dict(generation)
        super().__init__()
        # the class takes a config as well, and mistakes the whole of it for the task's name
        self._config = TaskConfig(
            task=asked.benchmark.name,
            num_fewshot=len(self._examples),
            output_type=self.OUTPUT_TYPE,
            generation_kwargs=dict(generation),
            metadata={"version": self.VERSION},
        )

    def download(self, *_: Any, **__: Any) -> None:
        """Nothing: the questions are here."""

    def has_training_docs(self) -> bool:
        """No."""
        return False

    def has_validation_docs(self) -> bool:
        """No."""
        return False

    def has_test_docs(self) -> bool:
        """Yes."""
        return True

    def test_docs(self) -> list[Doc]:
        """The questions."""
        return self._asked

    def doc_to_text(self, doc: Doc) -> str:
        """What is asked."""
        return str(doc["prompt"])

    def doc_to_target(self, doc: Doc) -> str:
        """The letter of the right option."""
        return str(doc["right"])

    def fewshot_context(
        self,
        doc: Doc,
        num_fewshot: int,
        *,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        chat_template: Callable[[list[Message]], str] | None = None,
        **_: Any,
    ) -> str:
        """The prompt as it is sent: rendered by the chat template, or plain."""
        turns = protocol.conversation(self.doc_to_text(doc), self._examples[:num_fewshot])
        if system_instruction:
            turns = [{"role": "system", "content": system_instruction}, *turns]
        return chat_template(turns) if apply_chat_template and chat_template else plain_prompt(turns)

    def build_all_requests(
        self,
        *,
        limit: int | None = None,
        samples: list[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        chat_template: Callable[[list[Message]], str] | None = None,
        **_: Any,
    ) -> None:
        """Make the requests, as lm-eval's own does, but without a progress bar for each window of questions."""
        self._instances = [
            self.construct_requests(
                doc,
                self.fewshot_context(
                    doc,
                    self.config.num_fewshot or 0,
                    system_instruction=system_instruction,
                    apply_chat_template=apply_chat_template,
                    chat_template=chat_template,
                ),
                metadata=(self.config.task, number, self.config.repeats),
            )
            for number, doc in self.doc_iterator(rank=rank, limit=limit, samples=samples, world_size=world_size)
        ]

    def construct_requests(self, doc: Doc, ctx: str, **kwargs: Any) -> Instance:
        """One text to generate."""
        return Instance(
            request_type="generate_until",
            doc=doc,
            arguments=(ctx, dict(self._generation)),
            idx=0,
            metadata=kwargs["metadata"],
        )

    def process_results(self, doc: Doc, results: Sequence[str]) -> dict[str, float]:
        """Mark one output."""
        (output,) = results
        found = mark(output, doc["options"], doc["right"])
        return {
            "acc": float(found.is_right),
            "acc_strict": float(found.is_right_strict),
            "unanswered": float(found.letter is None),
            "cut": float(getattr(output, "ending", None) == "length"),
        }

    def aggregation(self) -> dict[str, Callable[[Iterable[float]], float]]:
        """All are means."""
        return dict.fromkeys(("acc", "acc_strict", "unanswered", "cut"), mean)

    def higher_is_better(self) -> dict[str, bool]:
        """Of the accuracies."""
        return {"acc": True, "acc_strict": True, "unanswered": False, "cut": False}


def _doc(question: Question) -> Doc:
    return {
        "question_id": question.question_id,
        "prompt": protocol.prompt(question),
        "options": dict(question.options),
        "right": question.right,
    }


def requests(task: BenchmarkTask) -> list[Instance]:
    """What was asked, in the order of the questions; after ``lm_eval.evaluate`` each has its output in ``resps``."""
    return sorted(itertools.chain(task.instances), key=lambda one: int(one.doc_id))
