"""Small real models and stores that the tests build on the spot; nothing is downloaded."""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# a loaded machine is no fault of an example
hypothesis.settings.register_profile("diq", deadline=None)
hypothesis.settings.load_profile("diq")

# the tests must not try to reach a hub, whatever the machine allows
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
SHARED = ROOT.parent / "shared" / "data"

WORDS = [
    "the",
    "patient",
    "has",
    "a",
    "fever",
    "and",
    "cough",
    "what",
    "is",
    "the",
    "likely",
    "cause",
    "of",
    "chest",
    "pain",
    "which",
    "drug",
    "treats",
    "high",
    "blood",
    "pressure",
    "aspirin",
    "ibuprofen",
    "metformin",
    "insulin",
    "lisinopril",
    "kidney",
    "liver",
    "heart",
    "lung",
    "blood",
    "sugar",
    "dose",
    "daily",
    "answer",
    "is",
    "because",
    "question",
    "symptoms",
    "include",
    "rash",
    "headache",
    "nausea",
    "diagnosis",
    "treatment",
    "test",
    "result",
    "normal",
    "high",
    "low",
    "option",
]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{% if message.get('reasoning_content') %}<think>\n{{ message['reasoning_content'] }}\n</think>\n\n{% endif %}"
    "{{ message['content'] }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def sentence(rng: Any, n: int) -> str:
    """n words of a closed vocabulary."""
    return " ".join(rng.choice(WORDS) for _ in range(n))


def build_tokenizer(*, chat: bool = False, vocabulary: int = 400) -> Any:
    """A byte-level BPE tokenizer trained on the words above."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_llama(*, layers: int = 2, tied: bool = True, vocabulary: int = 400, seed: int = 0) -> Any:
    """A small Llama with grouped-query attention."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def save_model(folder: Path, model: Any, tokenizer: Any) -> Path:
    """A folder as save_pretrained writes it."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved two-layer Llama without a chat template."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny-llama", build_llama(), build_tokenizer())


@pytest.fixture(scope="session")
def tiny_llama_chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved two-layer Llama with a chat template."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny-chat", build_llama(seed=1), build_tokenizer(chat=True))


@pytest.fixture(scope="session")
def tiny_classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved one-layer BERT with the 15 difficulty outputs."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from diq.difficulty.classifier import label_names

    torch.manual_seed(2)
    labels = dict(enumerate(label_names()))
    config = BertConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=len(labels),
        id2label=labels,
        label2id={name: i for i, name in labels.items()},
        problem_type="single_label_classification",
        initializer_range=0.5,
    )
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = 64
    return save_model(
        tmp_path_factory.mktemp("models") / "tiny-classifier", BertForSequenceClassification(config), tokenizer
    )


@pytest.fixture(scope="session")
def tiny_encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved one-layer BERT without a head, which puts <s> and </s> around a text and takes 48 tokens."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel

    torch.manual_seed(5)
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.model_max_length = 48
    config = BertConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        pad_token_id=0,
        initializer_range=0.1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return save_model(tmp_path_factory.mktemp("models") / "tiny-bert", BertModel(config), tokenizer)


@pytest.fixture(scope="session")
def make_samples() -> Callable[..., list[list[dict[str, str]]]]:
    """Makes conversations of varied length."""
    import random

    def make(n: int, *, seed: int = 0, reasoning: bool = False, longest: int = 40) -> list[list[dict[str, str]]]:
        rng = random.Random(seed)
        found = []
        for i in range(n):
            answer = {"role": "assistant", "content": sentence(rng, rng.randint(1, longest))}
            if reasoning and i % 2:
                answer["reasoning_content"] = sentence(rng, rng.randint(3, longest))
            found.append([{"role": "user", "content": f"{sentence(rng, rng.randint(2, longest))} {seed} {i}"}, answer])
        return found

    return make


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    """One JSON value a line."""
    import json

    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


_made = tempfile.TemporaryDirectory(prefix="diq-tests-")


def new_store(path: Path) -> Path:
    """A store with nothing in it, as the first command makes it: a copy of one, which takes a tenth of the time."""
    from diq.store.store import Store

    template = Path(_made.name, "empty.duckdb")
    if not template.exists():
        Store(template, create=True).close()
    return Path(shutil.copy(template, path))


def ingest_rows(store: Path, rows: Sequence[Any], dataset: str = "pool", **options: Any) -> Path:
    """Ingest rows as a user does, from a new JSONL file beside the store (pool-0.jsonl, pool-1.jsonl); returns it.

    Args:
        store: the store file, made if missing.
        rows: of any layout; a list is a conversation.
        options: of ``diq.ingest``.
    """
    from diq.samples.ingest import ingest

    paths = (store.with_name(f"{dataset}-{i}.jsonl") for i in itertools.count())
    path = next(path for path in paths if not path.exists())
    if not store.exists():
        new_store(store)
    write_jsonl(path, [{"messages": row} if isinstance(row, list) else row for row in rows])
    ingest(path, dataset=dataset, store=store, **options)
    return path


# the command line --------------------------------------------------------------------------------------------------


def invoke(command: Any, *arguments: object) -> Any:
    """A click command's result, in this process; an exception is kept in the result, as click's runner does."""
    from click.testing import CliRunner

    return CliRunner().invoke(command, [str(one) for one in arguments], prog_name="diq")


def stdout_of(command: Any, *arguments: object) -> str:
    """What a command that succeeds prints on stdout."""
    done = invoke(command, *arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return str(done.stdout)


def refused(command: Any, *arguments: object) -> Any:
    """The error of a command that diq refuses."""
    from diq.base.errors import DiqError

    done = invoke(command, *arguments)
    assert isinstance(done.exception, DiqError), (done.output, done.exception)
    return done.exception


def fill_store(
    path: Path,
    *,
    dots: dict[str, Any],
    difficulty: Any,
    sizes: dict[str, int | None] | None = None,
    dataset: str = "pool",
    model: str = "model",
    method: str = "exact",
    folds: dict[str, Any] | None = None,
    fold_sizes: dict[str, Sequence[int] | None] | None = None,
    norms: Any = None,
    answer_tokens: Any = None,
) -> list[str]:
    """A store with one scored dataset, written without the stages; returns the sample ids in order.

    Args:
        path: the store file, made if missing.
        dots: validation set name to a column; NaN is stored as null.
        difficulty: the overall column; knowledge is twice, reasoning minus it.
        sizes: samples of each validation set; default 10 each.
        method: of the influence run.
        folds: validation set name to ``[n, K]`` fold dots (a row may be None); default none.
        fold_sizes: validation set name to the samples of each fold; default the same for all folds of a set.
        norms: gradient norm of each sample; NaN is stored as null.
        answer_tokens: of each sample; default 7.
    """
    import numpy as np
    import pyarrow as pa

    from diq import _core
    from diq.store.store import Store

    n = len(difficulty)
    texts = [
        f'[{{"content":"q {i} of {dataset}","role":"user"}},{{"content":"a","role":"assistant"}}]' for i in range(n)
    ]
    ids = _core.sample_ids(texts)
    if not path.exists():
        new_store(path)
    with Store(path) as store, store.transaction():
        connection = store.connection
        ((number,),) = connection.execute("SELECT nextval('dataset_ids')").fetchall()
        connection.execute("INSERT INTO datasets VALUES (?, ?, 'training', TIMESTAMP '2026-01-01')", [number, dataset])
        base = pa.table(
            {"id": ids, "text": texts, "position": np.arange(n), "level": np.asarray(difficulty, np.float64)}
        )
        connection.register("base", base)
        connection.execute("INSERT INTO samples SELECT CAST(id AS UUID), text, NULL FROM base")
        connection.execute(
            "INSERT INTO dataset_samples "
            "SELECT ?, position, CAST(id AS UUID), 1, position + 1, 'train', NULL FROM base",
            [number],
        )
        store.add_model(model_id=f"id-{model}", name=model, source="test", architecture=None, n_parameters=None)
        runs = {
            kind: store.open_run(
                kind=kind,
                method=how,
                model_id=model_id,
                fingerprint=f"{kind}-{dataset}-{model}-{how}",
                settings={},
                environment={},
            )
            for kind, how, model_id in (("influence", method, f"id-{model}"), ("difficulty", "columns", None))
        }
        for run_id in runs.values():
            store.start_scoring(run_id, number)
            store.seal(run_id, number)
        connection.execute(
            "INSERT INTO difficulty_scores (run_id, sample_id, knowledge, reasoning, overall) "
            "SELECT ?, CAST(id AS UUID), 2 * level, -level, level FROM base",
            [runs["difficulty"]],
        )
        for name, column in dots.items():
            connection.execute(
                "INSERT INTO validation_sets "
                "SELECT nextval('validation_set_ids'), ?, NULL, ?, NULL, TIMESTAMP '2026-01-01' "
                "WHERE ? NOT IN (SELECT name FROM validation_sets)",
                [name, (sizes or {}).get(name, 10), name],
            )
            set_id = store.validation_set(name)["validation_set_id"]
            parts = (folds or {}).get(name)
            parts = [None] * n if parts is None else [None if one is None else list(one) for one in parts]
            n_folds = max((len(one) for one in parts if one is not None), default=0)
            split = (fold_sizes or {}).get(name, [(sizes or {}).get(name) or 10] * n_folds)
            connection.execute(
                "INSERT INTO run_validation_sets (run_id, validation_set_id, fold_sizes) VALUES (?, ?, ?)",
                [runs["influence"], set_id, split or None],
            )
            values = pa.table(
                {
                    "id": ids,
                    "dot": pa.array(np.asarray(column, np.float64), from_pandas=True),
                    "fold_dots": pa.array(parts, pa.list_(pa.float64())),
                    "norm": pa.array(np.full(n, np.nan) if norms is None else norms, pa.float64(), from_pandas=True),
                    "tokens": np.full(n, 7) if answer_tokens is None else answer_tokens,
                }
            )
            connection.register("dots", values)
            connection.execute(
                "INSERT INTO influence_scores "
                "(run_id, sample_id, validation_set_id, dot, fold_dots, gradient_norm, loss, answer_tokens) "
                "SELECT ?, CAST(id AS UUID), ?, dot, fold_dots, norm, 1.5, tokens FROM dots",
                [runs["influence"], set_id],
            )
    return ids


# processes -----------------------------------------------------------------------------------------------------------

# what a process that a test starts has loaded already: it is forked from a server, which imports this once
PRELOADED = [
    "pytest",
    "torch",
    "transformers",
    "peft",
    "openai",
    "diq.samples.ingest",
    "diq.influence.score",
    "diq.training.train",
    "diq.difficulty.annotate",
    "diq.evaluation.evaluate",
]

# there is one such server, and the stage or the test that comes first starts it
_set_preload = forkserver.set_forkserver_preload
_set_preload(PRELOADED)
forkserver.set_forkserver_preload = lambda names: _set_preload([*PRELOADED, *names])  # type: ignore[assignment]


class Forked:
    """A process of its own that calls a function, and what it says: as a program does, but for the seconds of imports.

    Args:
        call: a function of a module; what it returns is lost.
        folder: the working folder, where files of its output are put.
        stdin: what it can read.
        variables: of the environment, beside those of this process.
    """

    def __init__(
        self, call: Callable[..., Any], *arguments: Any, folder: Path, stdin: str = "", **variables: str
    ) -> None:
        self._said = [folder / f".{name}" for name in ("stdin", "stdout", "stderr")]
        for path, text in zip(self._said, (stdin, "", ""), strict=True):
            path.write_text(text)
        life = (call, arguments, folder, self._said, {**os.environ, **variables})
        self._process = multiprocessing.get_context("forkserver").Process(target=_speak, args=life)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def is_alive(self) -> bool:
        """It has not ended yet."""
        return self._process.is_alive()

    def wait(self) -> subprocess.CompletedProcess[str]:
        """What came of it, once it has ended."""
        self._process.join()
        code = self._process.exitcode
        self._process.close()
        assert code is not None
        stdout, stderr = (path.read_text() for path in self._said[1:])
        for path in self._said:
            path.unlink()
        return subprocess.CompletedProcess([], code, stdout, stderr)


def run_forked(call: Callable[..., Any], *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """What comes of a `Forked` process."""
    return Forked(call, *arguments, **options).wait()


def _speak(
    call: Callable[..., Any], arguments: Sequence[Any], folder: Path, said: Sequence[Path], variables: dict[str, str]
) -> None:
    """The life of a process that is no child of a terminal."""
    import torch

    # what the server loaded is never searched: the pages stay its own
    gc.freeze()
    for number, (path, flags) in enumerate(zip(said, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    call(*arguments)


@dataclass
class KillAt:
    """A progress callback that ends its process where ``what`` has done ``done``, as `kill -9` does."""

    what: str
    done: int

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        if what == self.what and done >= self.done:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Commit:
    """The moment ``when`` ("before" or "after") the n-th commit of a process, counted from 1."""

    when: str
    n: int

    def watch(self) -> None:
        """From here on this process ends at the moment."""
        from diq.store.store import Store

        real, count = Store.transaction, 0

        @contextlib.contextmanager
        def transaction(store: Store) -> Iterator[None]:
            nonlocal count
            with real(store):
                yield
                count += 1
                if (self.when, self.n) == ("before", count):
                    os.kill(os.getpid(), signal.SIGKILL)
            if (self.when, self.n) == ("after", count):
                os.kill(os.getpid(), signal.SIGKILL)

        Store.transaction = transaction  # type: ignore[method-assign]


def _call(
    call: Callable[..., Any],
    arguments: Sequence[Any],
    options: Mapping[str, Any],
    commit: Commit | None,
    patches: Mapping[str, Any],
) -> None:
    """The life of a process that is to be killed."""
    import torch

    gc.freeze()
    torch.set_num_threads(1)
    for name, value in patches.items():
        module, _, attribute = name.rpartition(".")
        setattr(importlib.import_module(module), attribute, value)
    if commit:
        commit.watch()
    call(*arguments, **options)


def run_killed(
    call: Callable[..., Any],
    *arguments: Any,
    commit: Commit | None = None,
    patches: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Call ``call`` in a process of its own, which kills itself with signal 9 at a moment that no clock decides.

    Args:
        call: a function of a module.
        commit: the moment; without it ``options`` hold a ``progress=KillAt(...)``.
        patches: dotted names that have another value in that process.
    """
    life = (call, arguments, options, commit, patches or {})
    process = multiprocessing.get_context("forkserver").Process(target=_call, args=life)
    process.start()
    process.join()
    code = process.exitcode
    process.close()
    assert code == -signal.SIGKILL, f"the process ended with {code}, before the moment to kill it"


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what is sure to happen; the limit of every test is the only one, for a loaded machine takes long."""
    while not condition():
        time.sleep(0.01)


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """Makes a folder on a real file system of a few kilobytes, which soon is full."""
    mounted: list[Path] = []

    def make(kilobytes: int) -> Path:
        folder = tmp_path / f"disk-{kilobytes}k"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a small file system needs the right to mount one")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def read_only() -> Any:
    """Makes a folder and what lies in it read-only for this user, as a colleague's folder is."""
    mounted: list[Path] = []
    changed: list[Path] = []

    def seal(folder: Path) -> None:
        if os.geteuid():
            changed.extend([folder, *folder.iterdir()])
            for path in changed:
                path.chmod(path.stat().st_mode & ~0o222)
            return
        # permissions do not bind root, a read-only mount does
        for options in (["--bind", str(folder)], ["-o", "remount,ro,bind"]):
            if subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False).returncode:
                pytest.skip("a read-only folder needs the right to mount one")
            if not mounted:
                mounted.append(folder)

    yield seal
    for path in changed:
        path.chmod(path.stat().st_mode | 0o200)
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(autouse=True)
def _fresh_logging() -> None:
    """What a command that ran in this process, in a test or a fixture of a module, did to diq's logging is undone."""
    logger = logging.getLogger("diq")
    logger.handlers, logger.propagate = [], True
    # a plain assignment would leave what the loggers below it remember of the level
    logger.setLevel(logging.NOTSET)


_n_modules = 0


@pytest.fixture(autouse=True)
def _imports_need_no_search() -> None:
    """A stage that lets go of a model has the garbage collector search every object, which takes a second once torch
    and transformers are there; what an import left is kept for good, so it is put where nobody searches."""
    global _n_modules
    if len(sys.modules) > _n_modules + 50:
        _n_modules = len(sys.modules)
        gc.collect()
        gc.freeze()


# what is left out is told, not forgotten; with several processes each of them leaves out the same -------------------

_n_exhaustive = 0


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    global _n_exhaustive
    _n_exhaustive += sum(one.get_closest_marker("exhaustive") is not None for one in items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["n_exhaustive"] = _n_exhaustive


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    global _n_exhaustive
    _n_exhaustive = max(_n_exhaustive, getattr(node, "workeroutput", {}).get("n_exhaustive", 0))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _n_exhaustive:
        terminalreporter.write_line(
            f"{_n_exhaustive} tests marked exhaustive were deselected: `make test-all` runs them too"
        )


def pytest_unconfigure() -> None:
    # what is still frozen at the end cannot be taken down in order, and some libraries complain
    gc.unfreeze()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, driven by playwright; skipped, visibly, where the machine has none (`make browser`).

    Of a module: while playwright runs, no other test of the process can run an event loop of its own.
    """
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no chromium: `make browser` installs it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()
