"""Who answers: a model in this process or behind a server, known by its identity before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from diq.base.draws import number_of
from diq.base.errors import ModelError, UsageError
from diq.base.fingerprint import canonical_json
from diq.base.sample import Message
from diq.base.text import first_line
from diq.evaluation.generations import Answers
from diq.evaluation.options import AnsweringOptions
from diq.evaluation.protocol import PLAIN_STOP, Protocol
from diq.evaluation.questions import QuestionSet
from diq.judging.options import Server
from diq.store.store import Store

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from diq.models.tokens import Tokenization

# batches of a window, sorted by length among themselves: what a kill loses at most
_WINDOW_BATCHES = 8
# vLLM fills its batches by itself, and empties them at the end of a window
_VLLM_WINDOW = 512


class Answerer:
    """What answers the questions: its identity is known before it is loaded."""

    backend: str
    model_id: str
    base_model_id: str
    name: str
    protocol: Protocol
    window: int

    def check(self, asked: Sequence[QuestionSet]) -> None:
        """Refuse questions that it cannot take, before anything is generated."""

    def add_models(self, store: Store) -> None:
        """Record what answers."""
        raise NotImplementedError

    def environment(self) -> dict[str, Any]:
        """Versions, hardware and what changes no number beyond rounding."""
        raise NotImplementedError

    def lm(self) -> LM:
        """The model of lm-eval, loaded at the first call."""
        raise NotImplementedError

    def seed(self, which: Answers, first: int, seed: int) -> None:
        """Begin a window: what is drawn in it depends on nothing that came before."""

    def close(self) -> None:
        """Let go of it."""


class LocalAnswerer(Answerer):
    """A model that runs in this process."""

    def __init__(self, options: AnsweringOptions, common: Mapping[str, Any]) -> None:
        from diq.models.device import pick_device, pick_dtype
        from diq.models.source import find_adapter, find_model
        from diq.models.tokens import load_tokenization

        self.backend = options.backend
        if self.backend == "vllm":
            from diq.evaluation.backends import check_vllm

            check_vllm()
        self._place = pick_device(options.device)
        self._device, self._batch_size = options.device, options.batch_size
        self._dtype = pick_dtype(options.dtype, self._place)
        self.base = find_model(options.model, name=options.model_name)
        self.adapter = None if options.adapter is None else find_adapter(options.adapter, self.base)
        answers = self.adapter or self.base
        self.model_id, self.name = answers.model_id, answers.name
        self.base_model_id = self.base.model_id
        self._tokenization = load_tokenization(
            self.base,
            max_length=options.max_length,
            template=options.template,
            template_kwargs=options.chat_template_kwargs,
        )
        self.protocol = Protocol(
            **common,
            stop=_stop(self._tokenization),
            template="none" if self._tokenization.template is None else "auto",
            facts={"tokenization": self._tokenization.settings(), "dtype": self._dtype},
        )
        self.window = _VLLM_WINDOW if self.backend == "vllm" else _WINDOW_BATCHES * options.batch_size
        self._lm: Any = None

    def check(self, asked: Sequence[QuestionSet]) -> None:
        from diq.evaluation.tasks import BenchmarkTask

        uses_template = self._tokenization.template is not None
        tokenizer, room = self._tokenization.tokenizer, self._tokenization.max_length
        longest, where = 0, ""
        for one in asked:
            task = BenchmarkTask(one, {})
            prompts = [
                task.fewshot_context(
                    doc, len(one.examples), apply_chat_template=uses_template, chat_template=self._render
                )
                for doc in task.test_docs()
            ]
            encoded = tokenizer(prompts, add_special_tokens=not uses_template)["input_ids"]
            lengths = [len(ids) for ids in encoded]
            for foreign in filter(None, map(self._tokenization.foreign_token, encoded)):
                raise ModelError(f"a prompt of {one.benchmark.name} cannot be asked: {foreign}", "check the tokenizer")
            if max(lengths) > longest:
                longest = max(lengths)
                question = one.questions[lengths.index(longest)]
                where = f"{one.benchmark.name} (question {question.question_id})"
        if longest + self.protocol.max_tokens > room:
            left = room - longest
            raise UsageError(
                f"the prompt of {where} has {longest:,} tokens: with {self.protocol.max_tokens:,} for the answer "
                f"(--max-tokens) that is more than the {room:,} that `{self.base.name}` takes here",
                f"give --max-tokens {left} or less" if left > 0 else "raise --max-length, if the model can take more",
            )

    def _render(self, turns: list[Message]) -> str:
        assert self._tokenization.template is not None
        try:
            return self._tokenization.template.prompt(turns)
        except Exception as error:  # jinja raises whatever the template says
            raise ModelError(
                f"the chat template of `{self.base.source}` refuses the prompt: {first_line(error)}",
                "use --template none, or mend the template",
            ) from error

    def add_models(self, store: Store) -> None:
        for one in (self.base, self.adapter):
            if one is not None:
                store.add_model(
                    model_id=one.model_id, name=one.name, source=one.source, architecture=None, n_parameters=None
                )

    def environment(self) -> dict[str, Any]:
        from diq.models.device import describe_environment

        versions = {"lm-eval": metadata.version("lm_eval")}
        if self.backend == "vllm":
            versions["vllm"] = metadata.version("vllm")
        return {**describe_environment(self._place), **versions, "batch_size": self._batch_size}

    def lm(self) -> LM:
        if self._lm is None:
            from diq.evaluation import backends

            if self.backend == "vllm":
                self._lm = backends.vllm_model(
                    self.base, self.adapter, self._tokenization, dtype=self._dtype, seed=self.protocol.seed or 0
                )
            else:
                self._lm = backends.HuggingFaceModel(
                    self.base, self.adapter, self._tokenization, stop=self.protocol.stop,
                    is_sampling=bool(self.protocol.temperature), dtype=self._dtype,
                    device=self._device, batch_size=self._batch_size,
                )  # fmt: skip
        return self._lm

    def seed(self, which: Answers, first: int, seed: int) -> None:
        if self.protocol.seed is None:
            return
        import torch

        text = canonical_json([seed, which.benchmark, which.questions, first])
        torch.manual_seed(number_of(text))

    def close(self) -> None:
        self._lm = None


class ServerAnswerer(Answerer):
    """A model behind a server."""

    backend = "server"

    def __init__(self, server: Server, model_name: str | None, common: Mapping[str, Any]) -> None:
        self._server = server
        self.model_id, self.name = f"server:{server.model}", model_name or server.model
        self.base_model_id = self.model_id
        # one name may mean another model elsewhere, so the address is part of the run
        self.protocol = Protocol(**common, stop=(), template="server", facts={"base_url": server.shown_url})
        self.window = _WINDOW_BATCHES * server.concurrency
        self._lm: Any = None

    def add_models(self, store: Store) -> None:
        store.add_model(
            model_id=self.model_id, name=self.name, source=self._server.shown_url, architecture=None, n_parameters=None
        )

    def environment(self) -> dict[str, Any]:
        server = self._server
        return {
            "diq": metadata.version("diq"),
            "lm-eval": metadata.version("lm_eval"),
            "openai": metadata.version("openai"),
            "concurrency": server.concurrency,
            "timeout_s": server.timeout,
            "retries": server.retries,
        }

    def lm(self) -> LM:
        if self._lm is None:
            from diq.evaluation.backends import ServerModel

            self._lm = ServerModel(self._server)
        return self._lm

    def close(self) -> None:
        if self._lm is not None:
            self._lm.close()


def _stop(tokenization: Tokenization) -> tuple[str, ...]:
    if tokenization.template is None:
        return (PLAIN_STOP,)
    # a base model that was fine-tuned with a template has learnt to end with its token, while its config knows nothing
    end = tokenization.template.end
    return () if end in (None, tokenization.tokenizer.eos_token) else (end,)
