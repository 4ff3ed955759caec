"""Samples as tokens: which tokens are the answer, and length-sorted batches under a token budget.

The last answer of a sample is a suffix of its tokens, so a tokenised sample is its ids and the place where it starts;
where earlier answers count, too, it also has the pauses between them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diq.base.errors import ModelError, RunFailedError, UsageError
from diq.base.fingerprint import sha_fingerprint
from diq.base.options import Turns
from diq.base.sample import Message, inline_reasoning, split_prompt
from diq.base.text import amount, first_line
from diq.models.architecture import RopeChange, read_config
from diq.models.pretrained import load_pretrained
from diq.models.source import ModelSource, read_object
from diq.models.templates import (
    ChatTemplate,
    DroppedTextError,
    EndlessTemplateError,
    Rendered,
    check_template_kwargs,
    read_template_kwargs,
)

log = logging.getLogger(__name__)


def load_tokenizer(model: ModelSource) -> Any:
    """The model's tokenizer.

    Raises:
        ModelError: the folder has none.
    """
    from transformers import AutoTokenizer

    hint = "save it beside the model with tokenizer.save_pretrained(folder)"
    try:
        tokenizer = load_pretrained(AutoTokenizer, model.path, model.source)
        empty = tokenizer.get_vocab().keys() <= {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
    except ModelError:
        raise
    except Exception as error:  # loaders raise whatever their back ends do
        raise ModelError(f"`{model.source}` has no usable tokenizer: {first_line(error)}", hint) from error
    if empty:
        # transformers makes one of a model type that it knows out of nothing
        raise ModelError(f"`{model.source}` has no tokenizer: its folder holds none of its files", hint)
    if not tokenizer.chat_template:
        tokenizer.chat_template = _template_of_processor(model)
    _compare_with_file(model, tokenizer)
    return tokenizer


def _template_of_processor(model: ModelSource) -> str | None:
    """The chat template that older releases of vision-language models keep beside the tokenizer."""
    for name in ("chat_template.json", "processor_config.json"):
        path = model.path / name
        found = read_object(path).get("chat_template") if path.is_file() else None
        if isinstance(found, str):
            log.info("the chat template of `%s` is that of its processor (%s)", model.name, name)
            return found
    return None


def _compare_with_file(model: ModelSource, tokenizer: Any) -> None:
    """Say where transformers makes another tokenizer of the folder's files than the one that `tokenizer.json` holds."""
    path = model.path / "tokenizer.json"
    if not path.is_file():
        return
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(path)).encode(_PROBE, add_special_tokens=False).ids
    made = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    if own != made:
        log.warning(
            "`%s`: transformers' %s reads a text of %d characters as %d tokens, its tokenizer.json as %d, and they "
            "differ: check `tokenizer_class` in tokenizer_config.json",
            model.name, type(tokenizer).__name__, len(_PROBE), len(made), len(own),
        )  # fmt: skip


# what tokenizers treat differently: capitals, digits, leading and double spaces, line ends, accents, other scripts
_PROBE = "  The sodium is 140 mmol/l,\nwhich isn't LOW.\t\u00c9tude: na\u00efve \u4f53\u6e29\u4e3a38.5\u5ea6\u3002 ok"


def load_tokenization(
    model: ModelSource,
    *,
    max_length: int,
    template: Template = "auto",
    template_kwargs: Sequence[str] = (),
    turns: Turns = "last",
) -> Tokenization:
    """How samples become tokens of the model.

    Args:
        model: what ``find_model`` returned.
        max_length: tokens after which a sample is cut on the right; at most the model's own context.
        template, template_kwargs, turns: as for ``Tokenization``.

    Raises:
        UsageError: the length is below 2.
        ModelError: the model has no usable tokenizer or config.
    """
    # a config that cannot be read is no matter of the tokenizer, which reads it, too
    length = usable_length(model, max_length)
    return Tokenization(
        load_tokenizer(model),
        max_length=length,
        template=template,
        template_kwargs=template_kwargs,
        turns=turns,
        vocabulary=getattr(read_config(model).get_text_config(decoder=True), "vocab_size", None),
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


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenised sample.

    Attributes:
        ids: token ids, int32 ``[n]``, truncated on the right to the maximum length.
        answer_start: index of the first answer token; the answer is ``ids[answer_start:]`` without the pauses.
        pauses: from and to which index tokens behind it are none, where the answers of several turns count.
    """

    ids: npt.NDArray[np.int32]
    answer_start: int
    pauses: tuple[tuple[int, int], ...] = ()

    @property
    def answer_tokens(self) -> int:
        """Number of tokens that the loss covers."""
        return int(self.is_answer.sum()) if self.pauses else max(0, len(self.ids) - self.answer_start)

    @property
    def is_answer(self) -> npt.NDArray[np.bool_]:
        """Which tokens the loss covers, ``[n]``."""
        found = np.arange(len(self.ids)) >= self.answer_start
        for first, last in self.pauses:
            found[first:last] = False
        return found


@dataclass(slots=True)
class _Tally:
    """Samples that were encoded, what they lost, and what was wrong with them."""

    n: int = 0
    tokens: int = 0
    lost: int = 0
    cut: int = 0
    unanswered: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class Tokenization:
    """Turns messages into tokens, with the tokenizer's chat template or, where it has none, a plain layout.

    With a template: ``prompt`` is the template over all messages but the answer, with the generation prompt;
    ``full`` is the template over all messages; the answer tokens are those of ``full`` behind the longest common
    prefix with ``prompt``, and the end-of-sequence token where the template ends no answer. Without:
    ``"Question: {prompt}\\nAnswer: "`` and the answer are tokenised apart, so that no merge crosses the border, and the
    end-of-sequence token follows.

    Args:
        tokenizer: a Hugging Face tokenizer.
        max_length: samples are cut on the right to this many tokens.
        template: ``auto`` uses the tokenizer's chat template if there is one, ``none`` never does.
        template_kwargs: variables of the template as texts ``KEY=VALUE``, the value in JSON or else a text.
        vocabulary: tokens that the model knows; None for all that the tokenizer has.
        turns: whether the ``last`` answer of a conversation counts or ``all`` of them, but for those that are marked as
            not to be learnt.

    Attributes:
        template: the chat template, or None where none is used.

    Raises:
        UsageError: a variable that the template does not read, or a tokenizer that cannot do all turns.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        template: Template = "auto",
        template_kwargs: Sequence[str] = (),
        vocabulary: int | None = None,
        turns: Turns = "last",
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._vocabulary = vocabulary
        self._all_turns = turns == "all"
        if self._all_turns and not tokenizer.is_fast:
            raise UsageError(
                f"--turns all must know where tokens lie in the text, which {type(tokenizer).__name__} does not tell",
                "save the tokenizer with a tokenizer.json, or leave out --turns",
            )
        uses_template = template == "auto" and bool(getattr(tokenizer, "chat_template", None))
        self._given = read_template_kwargs(template_kwargs)
        if self._given:
            check_template_kwargs(tokenizer.chat_template if uses_template else None, self._given)
        self.template = ChatTemplate(tokenizer, self._given) if uses_template else None
        end = tokenizer.eos_token_id if self.template is None or self.template.end is None else None
        if end is not None and self.template is not None:
            log.warning(
                "the chat template writes no token behind an answer that ends it: `%s` follows", tokenizer.eos_token
            )
        self._end = [] if end is None else [int(end)]
        self._tally = _Tally()
        # what the tokenizer itself puts before a text, such as a beginning-of-sequence token
        lead = [int(one) for one in tokenizer("")["input_ids"]]
        self._lead = lead[:1] if lead and lead[0] == tokenizer.bos_token_id else []

    def settings(self) -> dict[str, Any]:
        """Everything here that can change a token, for the fingerprint of a run."""
        tokenizer = self.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
        found = {
            "max_length": self.max_length,
            "template": "none" if self.template is None else sha_fingerprint(str(tokenizer.chat_template)),
            "tokenizer": sha_fingerprint(text),
        }
        # runs without any are those that they were
        if self._given:
            found["template_variables"] = self._given
        if self.template is not None and self.template.traits:
            found["template_traits"] = self.template.traits
        if self._all_turns:
            found["turns"] = "all"
        return found

    @property
    def template_name(self) -> str:
        """What samples are written with, for people."""
        return "Question/Answer" if self.template is None else "chat template"

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[Tokens | str]:
        """Tokenise conversations; a conversation that the template refuses gives the reason instead.

        Args:
            conversations: each ends with the assistant's answer.
        """
        pairs: list[Rendered | str] = []
        for messages in conversations:
            try:
                pairs.append(
                    _plain(messages) if self.template is None else self.template.pair(messages, earlier=self._all_turns)
                )
            except (DroppedTextError, EndlessTemplateError) as error:
                pairs.append(str(error))
            except Exception as error:  # jinja raises whatever the template says
                pairs.append(f"the chat template refused the sample: {first_line(error)}")
        texts = [text for pair in pairs if isinstance(pair, Rendered) for text in pair[:2]]
        encoded: Any = {"input_ids": []}
        if texts:
            encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=self._all_turns)
        ids, offsets = encoded["input_ids"], encoded.get("offset_mapping")
        found: list[Tokens | str] = []
        at = 0
        for pair in pairs:
            if isinstance(pair, str):
                found.append(pair)
                continue
            made = self._join(ids[at], ids[at + 1])
            if self._all_turns and pair.earlier and isinstance(made, Tokens):
                made = self._with_earlier(made, pair.earlier, offsets[at if self.template is None else at + 1])
            found.append(made)
            at += 2
        self._tally.n += len(found)
        self._tally.unanswered += sum(isinstance(one, Tokens) and not one.answer_tokens for one in found)
        self._tally.refused.update(one for one in found if isinstance(one, str))
        return found

    def _with_earlier(
        self, last: Tokens, earlier: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]
    ) -> Tokens:
        """The tokens of a sample, of which those of earlier answers count, too.

        Args:
            last: the tokens, of which the last answer counts.
            earlier: from and to which character the earlier answers go.
            offsets: of the tokens of the text that they are in; one that also holds the space before an answer counts.
        """
        lead = len(self._lead) if self.template is None else 0
        places = np.asarray(offsets, np.int64).reshape(-1, 2)
        counts = last.is_answer
        begins, ends = places[: len(counts) - lead].T
        for first, end in earlier:
            inside = np.flatnonzero((ends > first) & (begins < end)) + lead
            counts[inside[inside >= 1]] = True
        if not counts.any():
            return last
        start = int(np.argmax(counts))
        edges = np.flatnonzero(np.diff(counts[start:].astype(np.int8))) + start + 1
        # answers and pauses take turns, and the last may be a pause
        edges = np.append(edges, len(counts)) if len(edges) % 2 else edges
        pauses = tuple((int(one), int(other)) for one, other in edges.reshape(-1, 2))
        return Tokens(last.ids, start, pauses)

    def say(self, what: str, *, left_out: bool = True) -> None:
        """Log how much text of what was encoded since the last time was cut, missing or moved.

        Args:
            what: what was encoded, for people.
            left_out: whether samples that cannot be used are told of, too.
        """
        tally, self._tally = self._tally, _Tally()
        if self.template is not None:
            self.template.say(what)
        for reason, n in tally.refused.items() if left_out else ():
            log.warning("%s: %d of %s cannot be used: %s", what, n, amount(tally.n, "sample"), reason)
        if tally.cut:
            log.warning(
                "%s: %d of %s are longer than %d tokens and lose %.1f %% of all tokens",
                what, tally.cut, amount(tally.n, "sample"), self.max_length, 100 * tally.lost / tally.tokens,
            )  # fmt: skip
        if tally.unanswered and left_out:
            log.warning(
                "%s: %d of %s have no answer token left within %d tokens%s",
                what, tally.unanswered, amount(tally.n, "sample"), self.max_length,
                ": raise --max-length" if 2 * tally.unanswered > tally.n else "",
            )  # fmt: skip

    def why(self) -> str:
        """What was wrong with most of what was encoded since the last time, in words."""
        (reason, n), *_ = [*self._tally.refused.most_common(1), ("", 0)]
        return reason if n > self._tally.unanswered else f"no answer token is left within {self.max_length} tokens"

    def cure(self) -> str:
        """What to do about it."""
        refused = self._tally.refused.total() > self._tally.unanswered
        return "check the chat template and the tokenizer, or try --template none" if refused else "raise --max-length"

    def encode_validation_set(self, name: str, conversations: Sequence[Sequence[Message]]) -> list[Tokens]:
        """The samples of a validation set that have an answer token; the others are named in the log.

        Raises:
            UsageError: none has one.
        """
        encoded = self.encode(conversations)
        usable = [one for one in encoded if isinstance(one, Tokens) and one.answer_tokens > 0]
        if not usable:
            raise UsageError(f"no sample of the validation set `{name}` can be used: {self.why()}", self.cure())
        self.say(f"validation set `{name}`")
        return usable

    def _join(self, first: list[int], second: list[int]) -> Tokens | str:
        if self.template is not None:
            prompt, full = np.asarray(first, np.int32), np.asarray([*second, *self._end], np.int32)
            n = min(len(prompt), len(full))
            differ = np.flatnonzero(prompt[:n] != full[:n])
            start = int(differ[0]) if len(differ) else n
        else:
            head = [*self._lead, *first]
            full = np.asarray([*head, *second, *self._end], np.int32)
            start = len(head)
        kept = full[: self.max_length]
        self._tally.tokens += len(full)
        self._tally.lost += len(full) - len(kept)
        self._tally.cut += len(kept) < len(full)
        # nothing predicts the very first token
        return self.foreign_token(kept) or Tokens(kept, max(1, start))

    def foreign_token(self, ids: Sequence[int] | npt.NDArray[np.int32]) -> str | None:
        """What is wrong with ids of which the model has no embedding, in words; None where it knows them all."""
        highest = max(map(int, ids), default=0) if isinstance(ids, list) else int(np.max(ids, initial=0))
        if self._vocabulary is None or highest < self._vocabulary:
            return None
        token = self.tokenizer.convert_ids_to_tokens(highest)
        return f"the model's vocabulary of {self._vocabulary:,} tokens lacks the tokenizer's `{token}` ({highest})"


def _plain(messages: Sequence[Message]) -> Rendered:
    before, answer = split_prompt(messages)
    earlier = []
    for place, one in enumerate(before):
        if one["role"] == "assistant" and one.get("train") is not False:
            start = len(plain_prompt(before[:place]))
            earlier.append((start, start + len(_plain_answer(one))))
    return Rendered(plain_prompt(before), _plain_answer(answer), tuple(earlier))


def _plain_answer(message: Message) -> str:
    calls = [
        f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message.get("tool_calls", ())
    ]
    return "\n".join(filter(None, [str(inline_reasoning(message)["content"]), *calls]))


def plain_prompt(messages: Sequence[Message]) -> str:
    """The messages before an answer as text, for a model without a chat template."""
    parts = [f"Tools: {json.dumps(one['tools'], ensure_ascii=False)}\n\n" for one in messages[:1] if "tools" in one]
    for message in messages:
        if message["role"] == "user":
            parts.append(f"Question: {message['content']}\nAnswer: ")
        elif message["role"] == "assistant":
            # the answer of an earlier turn follows its question's "Answer: "
            parts.append(f"{_plain_answer(message)}\n\n")
        else:
            parts.append(f"{message['content']}\n\n")
    return "".join(parts)


class TokenFile:
    """Tokenised samples on disk, for random access in any order.

    Memory grows by 12 bytes a sample and by the pauses between its answers, not by its text.

    The file is temporary and vanishes with the process, however it ends.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="diq-tokens-")  # noqa: SIM115  (closed in close)
        self._offsets = array("q", [0])
        self._starts = array("i")
        self._pauses: dict[int, tuple[tuple[int, int], ...]] = {}
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
        if tokens.pauses:
            self._pauses[len(self)] = tokens.pauses
        self._starts.append(tokens.answer_start)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Tokens:
        if self._map is None:
            with temporary_disk("the tokens"):
                self._file.flush()
            self._map = np.memmap(self._file, dtype=np.int32, mode="r", shape=(self._offsets[-1],))
        first, last = self._offsets[index], self._offsets[index + 1]
        return Tokens(self._map[first:last], self._starts[index], self._pauses.get(index, ()))

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
        answer = torch.from_numpy(np.concatenate([one.is_answer for one in samples]))[None]
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
        answer[row, left : left + n] = torch.from_numpy(one.is_answer)
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
