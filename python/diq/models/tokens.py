"""Samples as tokens: which tokens are the answer, and length-sorted batches under a token budget.

The answer of a sample is a suffix of its tokens, so a tokenised sample is its ids and the place where it starts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diq.base.errors import ModelError, RunFailedError, UsageError
from diq.base.fingerprint import sha_fingerprint
from diq.base.sample import Message, inline_reasoning, split_prompt
from diq.base.text import first_line
from diq.models.architecture import RopeChange, read_config
from diq.models.source import ModelSource

log = logging.getLogger(__name__)


def load_tokenizer(model: ModelSource) -> Any:
    """The model's tokenizer.

    Raises:
        ModelError: the folder has none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model.path, trust_remote_code=False)
    except Exception as error:  # loaders raise whatever their back ends do
        raise ModelError(
            f"`{model.source}` has no usable tokenizer: {first_line(error)}",
            "save it beside the model with tokenizer.save_pretrained(folder)",
        ) from error


def load_tokenization(
    model: ModelSource, *, max_length: int, template: Template = "auto", template_kwargs: Sequence[str] = ()
) -> Tokenization:
    """How samples become tokens of the model.

    Args:
        model: what ``find_model`` returned.
        max_length: tokens after which a sample is cut on the right; at most the model's own context.
        template: as for ``Tokenization``.

    Raises:
        UsageError: the length is below 2.
        ModelError: the model has no usable tokenizer or config.
    """
    return Tokenization(
        load_tokenizer(model),
        max_length=usable_length(model, max_length),
        template=template,
        template_kwargs=template_kwargs,
    )


def check_length(max_length: int) -> None:
    """Refuse a maximum length that no sample fits into; ask this before a model is looked for, it costs nothing.

    Raises:
        UsageError: it is below 2.
    """
    if max_length < 2:
        raise UsageError(f"--max-length {max_length} leaves no room for a prompt and an answer", "give 2 or more")


def usable_length(model: ModelSource, max_length: int) -> int:
    """The maximum length, or the model's own context if that is shorter (then the log says so).

    Raises:
        UsageError: the length is below 2.
        ModelError: transformers cannot read the config.
    """
    check_length(max_length)
    config = read_config(model).get_text_config()
    context = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or max_length
    if context < max_length:
        log.info("samples are cut to the %d tokens that `%s` can take", context, model.name)
    return min(int(context), max_length)


Template = Literal["auto", "none"]
"""``auto`` uses the tokenizer's chat template if there is one, ``none`` never does."""

# Llama-3 templates print today's date into the system turn; scores must not depend on the day
TEMPLATE_DATE = "26 Jul 2024"


_JINJA = ["jinja2.ext.loopcontrols"]
# what the renderer itself sets
_OWN_VARIABLES = frozenset(
    ["messages", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "unk_token", "raise_exception",
     "strftime_now", "date_string", "tools", "documents"]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenised sample.

    Attributes:
        ids: token ids, int32 ``[n]``, truncated on the right to the maximum length.
        answer_start: index of the first answer token; the answer is ``ids[answer_start:]``.
    """

    ids: npt.NDArray[np.int32]
    answer_start: int

    @property
    def answer_tokens(self) -> int:
        """Number of tokens that the loss covers."""
        return max(0, len(self.ids) - self.answer_start)


class Tokenization:
    """Turns messages into tokens, with the tokenizer's chat template or, where it has none, a plain layout.

    With a template: ``prompt`` is the template over all messages but the answer, with the generation prompt;
    ``full`` is the template over all messages; the answer tokens are those of ``full`` behind the longest common
    prefix with ``prompt``. Without: ``"Question: {prompt}\\nAnswer: "`` and the answer are tokenised apart, so that no
    merge crosses the border, and the end-of-sequence token follows.

    Args:
        tokenizer: a Hugging Face tokenizer.
        max_length: samples are cut on the right to this many tokens.
        template: ``auto`` uses the tokenizer's chat template if there is one, ``none`` never does.
        template_kwargs: variables of the template as texts ``KEY=VALUE``, the value in JSON or else a text.

    Raises:
        UsageError: a variable that the template does not read.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        template: Template = "auto",
        template_kwargs: Sequence[str] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.uses_template = template == "auto" and bool(getattr(tokenizer, "chat_template", None))
        self._given = read_template_kwargs(template_kwargs)
        if self._given:
            _check_template_kwargs(tokenizer.chat_template if self.uses_template else None, self._given)
        self.template_variables = {"date_string": TEMPLATE_DATE, **self._given}
        """What every rendering of the chat template is given."""
        # what the tokenizer itself puts before a text, such as a beginning-of-sequence token
        lead = [int(one) for one in tokenizer("")["input_ids"]]
        self._lead = lead[:1] if lead and lead[0] == tokenizer.bos_token_id else []
        self._system_refused = False

    def settings(self) -> dict[str, Any]:
        """Everything here that can change a token, for the fingerprint of a run."""
        tokenizer = self.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
        template = tokenizer.chat_template if self.uses_template else "none"
        return {
            "max_length": self.max_length,
            "template": sha_fingerprint(str(template)) if self.uses_template else "none",
            "tokenizer": sha_fingerprint(text),
            # runs without any are those that they were
            **({"template_variables": self._given} if self._given else {}),
        }

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[Tokens | str]:
        """Tokenise conversations; a conversation that the template refuses gives the reason instead.

        Args:
            conversations: each ends with the assistant's answer.
        """
        pairs: list[tuple[str, str] | str] = []
        for messages in conversations:
            try:
                pairs.append(self._templated(messages) if self.uses_template else self._plain(messages))
            except Exception as error:  # jinja raises whatever the template says
                pairs.append(f"the chat template refused the sample: {first_line(error)}")
        texts = [text for pair in pairs if isinstance(pair, tuple) for text in pair]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        found: list[Tokens | str] = []
        at = 0
        for pair in pairs:
            if isinstance(pair, str):
                found.append(pair)
                continue
            found.append(self._join(ids[at], ids[at + 1]))
            at += 2
        return found

    def encode_validation_set(self, name: str, conversations: Sequence[Sequence[Message]]) -> list[Tokens]:
        """The samples of a validation set that have an answer token; the others are named in the log.

        Raises:
            UsageError: none has one.
        """
        encoded = self.encode(conversations)
        usable = [one for one in encoded if isinstance(one, Tokens) and one.answer_tokens > 0]
        if len(usable) < len(encoded):
            log.warning(
                "validation set `%s`: %d of %d samples have no answer token within %d tokens and are left out",
                name, len(encoded) - len(usable), len(encoded), self.max_length,
            )  # fmt: skip
        if not usable:
            raise UsageError(
                f"no sample of the validation set `{name}` has an answer token within {self.max_length} tokens",
                "raise --max-length",
            )
        return usable

    def _join(self, first: list[int], second: list[int]) -> Tokens:
        if self.uses_template:
            prompt, full = np.asarray(first, np.int32), np.asarray(second, np.int32)
            n = min(len(prompt), len(full))
            differ = np.flatnonzero(prompt[:n] != full[:n])
            start = int(differ[0]) if len(differ) else n
        else:
            head = [*self._lead, *first]
            tail = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
            full = np.asarray([*head, *second, *tail], np.int32)
            start = len(head)
        # nothing predicts the very first token
        return Tokens(full[: self.max_length], max(1, start))

    def _templated(self, messages: Sequence[Message]) -> tuple[str, str]:
        prompt, answer = split_prompt(messages)
        full = self._render([*prompt, answer], generation_prompt=False)
        reasoning = answer.get("reasoning_content", "")
        if reasoning and reasoning.strip() not in full:
            # the template knows nothing of reasoning_content: put it where such models write it
            full = self._render([*prompt, inline_reasoning(answer)], generation_prompt=False)
        return self._render(prompt, generation_prompt=True), full

    def _render(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        if self._system_refused:
            messages = merge_system(messages)
        options = {
            "tokenize": False,
            "add_generation_prompt": generation_prompt,
            **self.template_variables,
        }
        try:
            return str(self.tokenizer.apply_chat_template(list(messages), **options))
        except Exception:
            merged = merge_system(messages)
            if self._system_refused or len(merged) == len(messages):
                raise
            text = str(self.tokenizer.apply_chat_template(merged, **options))
            log.warning("the chat template takes no system turn: its text goes in front of the first user turn")
            self._system_refused = True
            return text

    @staticmethod
    def _plain(messages: Sequence[Message]) -> tuple[str, str]:
        prompt, answer = split_prompt(messages)
        return plain_prompt(prompt), inline_reasoning(answer)["content"]


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


def _check_template_kwargs(template: Any, given: Mapping[str, Any]) -> None:
    """Refuse variables that would have no effect."""
    first = next(iter(given))
    if template is None:
        raise UsageError(
            f"--chat-template-kwargs {first}=... has no effect: the tokenizer has no chat template", "leave it out"
        )
    if not isinstance(template, str):
        return
    # what transformers compiles templates with
    import jinja2
    import jinja2.meta

    try:
        read = jinja2.meta.find_undeclared_variables(jinja2.Environment(extensions=_JINJA).parse(template))
    except jinja2.TemplateError:
        # a tag of transformers' own
        return
    unknown = [key for key in given if key not in read]
    if unknown:
        known = ", ".join(sorted(read - _OWN_VARIABLES)) or "none"
        raise UsageError(
            f"--chat-template-kwargs {unknown[0]}=... has no effect: the chat template does not read it",
            f"its variables are: {known}",
        )


def plain_prompt(messages: Sequence[Message]) -> str:
    """The messages before an answer as text, for a model without a chat template."""
    parts = []
    for message in messages:
        if message["role"] == "user":
            parts.append(f"Question: {message['content']}\nAnswer: ")
        elif message["role"] == "assistant":
            # the answer of an earlier turn follows its question's "Answer: "
            parts.append(f"{inline_reasoning(message)['content']}\n\n")
        else:
            parts.append(f"{message['content']}\n\n")
    return "".join(parts)


def merge_system(messages: Sequence[Message]) -> list[Message]:
    """The messages with a leading system turn put in front of the first user turn."""
    if len(messages) > 1 and messages[0]["role"] == "system" and messages[1]["role"] == "user":
        text = f"{messages[0]['content']}\n\n{messages[1]['content']}"
        return [{"role": "user", "content": text}, *messages[2:]]
    return list(messages)


class TokenFile:
    """Tokenised samples on disk, for random access in any order; memory grows by 12 bytes a sample, not by its text.

    The file is temporary and vanishes with the process, however it ends.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="diq-tokens-")  # noqa: SIM115  (closed in close)
        self._offsets = array("q", [0])
        self._starts = array("i")
        self._map: npt.NDArray[np.int32] | None = None

    def __enter__(self) -> TokenFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, tokens: Tokens) -> None:
        """Add one sample at the end.

        Raises:
            RunFailedError: the disk of temporary files is full.
        """
        with temporary_disk("the tokens"):
            self._file.write(tokens.ids.tobytes())
        self._offsets.append(self._offsets[-1] + len(tokens.ids))
        self._starts.append(tokens.answer_start)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Tokens:
        if self._map is None:
            with temporary_disk("the tokens"):
                self._file.flush()
            self._map = np.memmap(self._file, dtype=np.int32, mode="r", shape=(self._offsets[-1],))
        first, last = self._offsets[index], self._offsets[index + 1]
        return Tokens(self._map[first:last], self._starts[index])

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each sample, ``[n]``."""
        offsets = np.array(self._offsets, np.int64)
        return offsets[1:] - offsets[:-1]

    def close(self) -> None:
        """Delete the file."""
        self._map = None
        # after a full disk there is something left that cannot be written, and nobody needs it
        with contextlib.suppress(OSError):
            self._file.close()


@contextlib.contextmanager
def temporary_disk(what: str) -> Iterator[None]:
    """An error of the disk of temporary files in the block as one line with a hint.

    Raises:
        RunFailedError: it is full.
    """
    try:
        yield
    except OSError as error:
        raise RunFailedError(
            f"{what} cannot be written to the temporary folder `{tempfile.gettempdir()}`: {error.strerror}",
            "free some space, or name another folder with TMPDIR; the same command goes on where it stopped",
        ) from error


@dataclass(frozen=True)
class Batch:
    """Tokens of some samples: padded to one length, one sample a row, or packed into one row without padding.

    What layers ask for again and again (where tokens are, how many a sample has) is worked out once: each time would
    make the host wait for the device.

    Attributes:
        ids: ``[rows, t]`` int64; padding holds 0.
        mask: ``[rows, t]`` bool; true on real tokens.
        answer: ``[rows, t]`` bool; true on answer tokens (each is predicted from the position before it).
        padded_left: whether padding stands before the tokens; attention then needs the mask.
        lengths: tokens of each sample of a packed batch, which has one row; None for a padded batch.
        positions: of a part of another batch: where its tokens stand among all of that, flattened.
    """

    ids: Tensor
    mask: Tensor
    answer: Tensor
    padded_left: bool = False
    lengths: tuple[int, ...] | None = None
    positions: Tensor | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.ids) if self.lengths is None else len(self.lengths)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device."""
        return Batch(self.ids.to(device), self.mask.to(device), self.answer.to(device), self.padded_left, self.lengths)

    def position_ids(self) -> Tensor | None:
        """``[rows, t]``, or None where counting from 0 in every row is right.

        In a packed batch the positions start again at 0 with every sample, and that is also how the attention of
        transformers finds the borders.
        """
        if self.lengths is not None:
            return torch.cat([torch.arange(n, device=self.ids.device) for n in self.lengths])[None]
        if self.padded_left:
            return (self.mask.long().cumsum(dim=1) - 1).clamp(min=0)
        return None

    def sample_of(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Which sample the positions ``(rows, columns)`` belong to."""
        if self.lengths is None:
            return rows
        return torch.searchsorted(self._counts.cumsum(dim=0), columns, right=True)

    def token_sums(self, terms: Tensor) -> Tensor:
        """Sum over the tokens of each sample: ``[rows, t, c]`` to float64 ``[n, c]``; padding counts nothing."""
        if self.lengths is not None:
            # a sum by segments, not by atomic additions: the same bits every time
            return torch.segment_reduce(terms[0].double(), "sum", lengths=self._counts, axis=0, unsafe=True)
        # a padded position may hold anything that attention made of it, even NaN
        return terms.masked_fill(~self.mask.unsqueeze(-1), 0).sum(dim=1, dtype=torch.float64)

    def by_sample(self, values: Tensor) -> Tensor:
        """``[rows, t, c]`` as ``[n, longest, c]`` with zeros where a sample has no token."""
        if self.lengths is not None:
            return torch.nn.utils.rnn.pad_sequence(list(torch.split(values[0], list(self.lengths))), batch_first=True)
        return values.masked_fill(~self.mask.unsqueeze(-1), 0)

    def token_rows(self, values: Tensor) -> Tensor:
        """The real tokens alone, sample after sample: ``[rows, t, c]`` to ``[tokens, c]``."""
        return values[0] if self.lengths is not None else values.flatten(0, 1)[self._real]

    def part(self, positions: Tensor) -> Batch:
        """Some tokens of the batch as a packed batch of as many samples, of which some may have no token.

        Args:
            positions: among the flattened tokens ``[rows * t]``, ascending; int64 ``[k]``.
        """
        rows, columns = positions // self.ids.shape[1], positions % self.ids.shape[1]
        lengths = torch.bincount(self.sample_of(rows, columns), minlength=len(self))
        ids, mask, answer = (one.reshape(-1)[positions][None] for one in (self.ids, self.mask, self.answer))
        return Batch(ids, mask, answer, lengths=tuple(lengths.tolist()), positions=positions)

    @cached_property
    def predicting(self) -> Batch:
        """The part that the language-model head sees: the tokens that an answer token follows."""
        return self.part(self.answer.roll(-1, dims=1).reshape(-1).nonzero()[:, 0])

    def offsets(self) -> Tensor:
        """Where each sample begins among :meth:`token_rows`: int64 ``[n + 1]`` on the CPU."""
        return self._offsets

    @cached_property
    def _real(self) -> Tensor:
        """Positions of the real tokens among all, flattened."""
        return self.mask.reshape(-1).nonzero()[:, 0]

    @cached_property
    def _counts(self) -> Tensor:
        """Tokens of each sample ``[n]``, on the device."""
        if self.lengths is None:
            return self.mask.sum(dim=1)
        return torch.tensor(self.lengths, dtype=torch.int64, device=self.ids.device)

    @cached_property
    def _offsets(self) -> Tensor:
        return torch.cat([torch.zeros(1, dtype=torch.int64), self._counts.cpu().cumsum(dim=0)])


def collate(
    samples: Sequence[Tokens], *, padding_side: Literal["left", "right"] = "right", packed: bool = False
) -> Batch:
    """Pad samples to one length, or pack them into one row.

    Right padding needs no attention mask in a causal model: real tokens never look at what comes after them, and
    padding carries no loss, so nothing flows back from it.
    """
    if packed:
        ids = torch.from_numpy(np.concatenate([one.ids for one in samples]).astype(np.int64))[None]
        answer = torch.cat([torch.arange(len(one.ids)) >= one.answer_start for one in samples])[None]
        lengths = tuple(len(one.ids) for one in samples)
        return Batch(ids, torch.ones_like(answer), answer, lengths=lengths)
    rows, width = len(samples), max(len(one.ids) for one in samples)
    ids = torch.zeros(rows, width, dtype=torch.int64)
    mask = torch.zeros(rows, width, dtype=torch.bool)
    answer = torch.zeros(rows, width, dtype=torch.bool)
    for row, one in enumerate(samples):
        n = len(one.ids)
        left = width - n if padding_side == "left" else 0
        ids[row, left : left + n] = torch.from_numpy(np.array(one.ids, np.int64))
        mask[row, left : left + n] = True
        answer[row, left + one.answer_start : left + n] = True
    return Batch(ids, mask, answer, padded_left=padding_side == "left")


def plan_batches(
    lengths: npt.NDArray[np.int64], *, token_budget: int, packed: bool = False, change: RopeChange | None = None
) -> Iterator[npt.NDArray[np.int64]]:
    """Row numbers of each batch: longest samples first, at most ``token_budget`` tokens a batch, padding included.

    The plan depends on the lengths alone, so a resumed run computes the same batches and the same bits. The longest
    batch comes first: if memory is short, that shows at once. A sample longer than the budget is a batch by itself.

    Args:
        lengths: tokens of each sample, ``[n]``.
        token_budget: rows times longest row of a batch; for packed batches the sum of their lengths.
        packed: whether the batches have no padding.
        change: of the model's rotary embedding: samples that it sees otherwise are not in one batch.
    """
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    kinds = np.zeros(len(lengths), np.int64)
    if change is not None:
        kinds = np.where(lengths > change.length, lengths if change.each else 1, 0)[order]
    # where samples of the next kind begin
    borders = np.append(np.flatnonzero(np.diff(kinds)) + 1, len(lengths))
    at = 0
    while at < len(order):
        if packed:
            done = ends[at - 1] if at else 0
            count = max(1, int(np.searchsorted(ends, done + token_budget, side="right")) - at)
        else:
            count = max(1, int(token_budget // max(1, lengths[order[at]])))
        count = min(count, int(borders[np.searchsorted(borders, at, side="right")]) - at)
        yield order[at : at + count]
        at += count
