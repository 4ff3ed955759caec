"""Who answers: lm-eval's models for transformers and vLLM, which here tell how outputs ended, and any server."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CacheHook
from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig

from diq.base.errors import DiqError, UsageError
from diq.base.fingerprint import canonical_json
from diq.base.sample import Message
from diq.evaluation.tasks import Output
from diq.judging.chat import Chat, Reply
from diq.judging.options import Server
from diq.models.network import load_causal_lm
from diq.models.source import ModelSource, is_adapter, read_object
from diq.models.templates import ChatTemplate
from diq.models.tokens import Tokenization

log = logging.getLogger(__name__)

# lm-eval warns of every model that it did not load itself
logging.getLogger("lm_eval").setLevel(logging.ERROR)

Result = TypeVar("Result")


class _Told(CacheHook):  # type: ignore[misc]
    """Hears of every output as it comes: lm-eval's models tell this hook, in the order in which they work."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        super().__init__(None)
        self._tell = tell

    def add_partial(self, attr: str, req: Any, res: str) -> None:
        self._tell(req[0], res)


class _Telling:
    """Adds to a model of lm-eval how each output ended, and how far it is, and diq's rendering of conversations."""

    report: Callable[[], None] | None = None
    template: ChatTemplate | None

    def apply_chat_template(self, chat_history: list[Message], add_generation_prompt: bool = True) -> str:
        """The conversation as the chat template writes it before an answer."""
        assert self.template is not None
        return self.template.prompt(chat_history)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Outputs of the requests, in their order."""
        self._endings: deque[tuple[str, int | None]] = deque()
        self._outputs: defaultdict[str, deque[Output]] = defaultdict(deque)
        self.set_cache_hook(_Told(self._hear))  # type: ignore[attr-defined]
        super().generate_until(requests, disable_tqdm=True)  # type: ignore[misc]
        # requests with the same prompt keep their order
        return [self._outputs[one.args[0]].popleft() for one in requests]

    def _hear(self, prompt: str, text: str) -> None:
        self._outputs[prompt].append(Output(text, *self._endings.popleft()))
        if self.report:
            self.report()


class HuggingFaceModel(_Telling, HFLM):  # type: ignore[misc]
    """A model that transformers runs, with or without a LoRA adapter.

    What the model's own generation config says of sampling and penalties is left out, so that the protocol says all.

    Args:
        source: what ``find_model`` returned.
        adapter: what ``find_adapter`` returned.
        tokenization: of the model.
        stop: texts that end an answer.
        is_sampling: whether tokens are drawn.
        dtype: as for ``load_causal_lm``.
        device: likewise.
        batch_size: prompts that go through the model at once.
    """

    def __init__(
        self,
        source: ModelSource,
        adapter: ModelSource | None,
        tokenization: Tokenization,
        *,
        stop: Sequence[str],
        is_sampling: bool,
        dtype: str,
        device: str,
        batch_size: int,
    ) -> None:
        if adapter is not None and not is_adapter(adapter):
            source, adapter = adapter, None
        network: Any = load_causal_lm(source, dtype=dtype, device=device, adapter=adapter)
        tokenizer = tokenization.tokenizer
        ends = _ends(network.generation_config.eos_token_id, tokenizer, stop)
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        # unless told otherwise transformers draws from the 50 likeliest tokens alone
        drawing = {"do_sample": True, "top_k": 0} if is_sampling else {}
        network.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=pad, **drawing)
        self._ends = frozenset(ends)
        self._silent = self._ends | {pad, tokenizer.bos_token_id}
        super().__init__(
            pretrained=network,
            backend="causal",
            tokenizer=tokenizer,
            batch_size=batch_size,
            max_length=tokenization.max_length,
            # a template writes its own beginning of sequence
            add_bos_token=None if tokenization.template is None else False,
        )
        self.template = tokenization.template

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        """The text, with every special token but those that end it: some models mark their thinking by special ones."""
        if not skip_special_tokens:
            return str(super().tok_decode(tokens, skip_special_tokens=False))
        return str(self.tokenizer.decode([one for one in tokens if one not in self._silent]))

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any) -> torch.Tensor:
        found: torch.Tensor = super()._model_generate(context, max_length, stop, **kwargs)
        room = max_length - context.shape[1]
        texts = [one for one in stop if one != self.tokenizer.eos_token]
        self._endings.extend(self._ending(row, texts, room) for row in found[:, context.shape[1] :].tolist())
        return found

    def _ending(self, tokens: list[int], stop: Sequence[str], room: int) -> tuple[str, int | None]:
        n = next((place for place, one in enumerate(tokens) if one in self._ends), len(tokens))
        text = self.tokenizer.decode(tokens[:n], skip_special_tokens=True) if stop else ""
        if any(one in text for one in stop):
            # the tokens up to the text's end are not counted
            return "stop", None
        return ("length" if n >= room else "stop"), n


def _ends(own: int | list[int] | None, tokenizer: Any, stop: Sequence[str]) -> list[int]:
    """Ids of the tokens that end an answer: the model's, the tokenizer's, and stop texts of one token."""
    found = [] if own is None else [own] if isinstance(own, int) else list(own)
    if tokenizer.eos_token_id is not None:
        found.append(int(tokenizer.eos_token_id))
    for text in stop:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == 1:
            found.append(int(ids[0]))
    return sorted(set(found))


# vLLM ----------------------------------------------------------------------------------------------------------------


def check_vllm() -> None:
    """Refuse the backend where it is not installed.

    Raises:
        UsageError: it is not.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UsageError(
            "--backend vllm needs the package `vllm`, which is not installed",
            "run `pip install vllm` on a machine with a GPU, or use --backend hf",
        )


def vllm_model(
    source: ModelSource,
    adapter: ModelSource | None,
    tokenization: Tokenization,
    *,
    dtype: str,
    seed: int,
) -> LM:
    """A model that vLLM runs; it makes batches by itself.

    Args:
        source: what ``find_model`` returned.
        adapter: what ``find_adapter`` returned.
        tokenization: of the model.
        dtype: as for ``load_causal_lm``.
        seed: of the engine.

    Raises:
        UsageError: vLLM is not installed.
    """
    check_vllm()
    # needs vllm itself
    from lm_eval.models.vllm_causallms import VLLM

    class VllmModel(_Telling, VLLM):  # type: ignore[misc]
        def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
            found = super()._model_generate(*args, **kwargs)
            for one in found:
                first = one.outputs[0]
                self._endings.append(("length" if first.finish_reason == "length" else "stop", len(first.token_ids)))
            return found

    options: dict[str, Any] = {}
    if adapter is not None and is_adapter(adapter):
        rank = read_object(adapter.path / "adapter_config.json").get("r", 16)
        options = {"lora_local_path": str(adapter.path), "max_lora_rank": max(8, int(rank))}
    elif adapter is not None:
        source = adapter
    model = VllmModel(
        pretrained=str(source.path),
        dtype=dtype,
        max_model_len=tokenization.max_length,
        seed=seed,
        batch_size="auto",
        add_bos_token=None if tokenization.template is None else False,
        trust_remote_code=False,
        **options,
    )
    model.template = tokenization.template
    return model


# a server ------------------------------------------------------------------------------------------------------------


class ServerModel(LM):  # type: ignore[misc]
    """A language model behind an OpenAI-compatible server; it renders conversations with its own chat template.

    Args:
        server: whom to ask, and how; its temperature and number of tokens are what counts.
    """

    report: Callable[[], None] | None = None

    def __init__(self, server: Server) -> None:
        super().__init__()
        # it checks the address and the key
        self._chat = Chat(server)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="diq-evaluate-server", daemon=True)
        self._thread.start()
        self._limit = server.concurrency
        self.error: DiqError | None = None

    def close(self) -> None:
        """Close the connections."""
        self._run(self._chat.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        # a thread of its own: the connections live on between windows, and notebooks have a loop already
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    @property
    def tokenizer_name(self) -> str:
        """None is known; lm-eval names caches by it, which are not used."""
        return ""

    def apply_chat_template(self, chat_history: list[Message], add_generation_prompt: bool = True) -> str:
        """The conversation as JSON: the server renders it."""
        return canonical_json(chat_history)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Replies to the requests, in their order.

        Where every further request would fail as well, ``error`` holds why, and the outputs that are missing are
        ``failed``.
        """
        self.error = None
        return self._run(self._ask_all([_messages(one.args[0]) for one in requests]))

    async def _ask_all(self, conversations: Sequence[list[Message]]) -> list[str]:
        open_ = asyncio.Semaphore(self._limit)

        async def ask(messages: list[Message]) -> Output:
            async with open_:
                try:
                    found = _output(await self._chat.ask(messages))
                except DiqError as error:
                    self.error = error
                    return Output("", "failed", problem=error.message)
            if self.report:
                self.report()
            return found

        return list(await asyncio.gather(*(ask(one) for one in conversations)))

    def loglikelihood(self, requests: list[Instance]) -> Any:
        """Not what a chat server tells."""
        raise NotImplementedError("a chat server gives texts alone")

    def loglikelihood_rolling(self, requests: list[Instance]) -> Any:
        """Not what a chat server tells."""
        raise NotImplementedError("a chat server gives texts alone")


def _messages(prompt: str) -> list[Message]:
    """The conversation that ``apply_chat_template`` wrote; a text that it did not write is one question."""
    with contextlib.suppress(ValueError):
        found = json.loads(prompt)
        if isinstance(found, list):
            return found
    return [{"role": "user", "content": prompt}]


def _output(reply: Reply) -> Output:
    if reply.content is not None:
        ending = "length" if reply.finish_reason == "length" else "stop"
        return Output(reply.whole(), ending, reply.completion_tokens)
    return Output("", "refused" if reply.is_refusal else "failed", problem=reply.problem)
