"""Servers to ask: a scripted one that fails as it is told, and the real one of transformers with a model made here."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from conftest import CHAT_TEMPLATE, Forked, save_model

MATERIAL = re.compile(r"<<<BEGIN QUESTION (?P<code>\w+)>>>\n(?P<question>.*?)\n<<<END QUESTION (?P=code)>>>", re.DOTALL)


def asked_question(body: dict[str, Any]) -> str:
    """The question that a request is about, or its first message where no rubric made it."""
    text = body["messages"][0]["content"]
    found = MATERIAL.search(text)
    return found["question"] if found else text


def completion(text: Any, **more: Any) -> dict[str, Any]:
    """A chat completion; the fields of ``more`` take the place of those of the choice's message."""
    message = {"role": "assistant", "content": text, **more}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }


def difficulty_reply(knowledge: int, reasoning: int, overall: int) -> str:
    """A reply in the form that the rubric of difficulty asks for."""
    return (
        f"Knowledge Score: {knowledge}\nReasoning Score: {reasoning}\nOverall Score: {overall}\n"
        "Knowledge Justification: facts of one field\nReasoning Justification: some steps\n"
        "Overall Justification: both together\nKey Factors:\n- Drivers: the steps\n- Interaction: none\n"
        "- Clinical context: none\n- Special considerations: none"
    )


@dataclass(frozen=True, slots=True)
class Step:
    """What the server does with one request.

    Attributes:
        text: content of the reply, for a status of 200.
        status: HTTP status.
        body: sent instead of a completion; text as it is, anything else as JSON.
        headers: more of them.
        delay_s: before the reply.
        cut: bytes after which the connection breaks, though the header promises all.
        raw: makes the pieces of all that is sent instead, from the status line on; then the connection breaks.
    """

    text: str | None = None
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: int | None = None
    raw: Callable[[], Iterable[bytes]] | None = None


Script = Callable[[dict[str, Any], int], "Step | str"]
"""From the body of a request and how often its question was asked before, what to do; a text is a fine reply."""


class ScriptedServer:
    """A real HTTP server on a free port of this machine that does what a script says.

    Args:
        script: see ``Script``.
        key: requests without it get 401 and an error that repeats what they sent; None: no key is wanted.
        model: another name gets 404; None: any name will do.
    """

    def __init__(self, script: Script, *, key: str | None = None, model: str | None = None) -> None:
        self.script, self.key, self.model = script, key, model
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.counts: Counter[str] = Counter()
        self.most_open = self.n_open = self.n_raw_bytes = 0
        self._connections: list[socket.socket] = []
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                server._connections.append(self.connection)

            def handle(self) -> None:
                # a client that is killed closes nothing
                with contextlib.suppress(ConnectionError):
                    super().handle()

            def do_POST(self) -> None:
                server._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Die: open connections break, and from now on nobody answers at the address."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def n_requests(self) -> int:
        """Requests so far."""
        return len(self.bodies)

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers["Content-Length"])
        data = handler.rfile.read(length)
        if len(data) < length:
            # the client was killed while it sent this
            handler.close_connection = True
            return
        body = json.loads(data)
        question = asked_question(body)
        with self._lock:
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            before = self.counts[question]
            self.counts[question] += 1
            self.n_open += 1
            self.most_open = max(self.most_open, self.n_open)
        try:
            sent = handler.headers.get("Authorization", "").removeprefix("Bearer ")
            if not handler.path.endswith("/v1/chat/completions"):
                step: Step | str = Step(status=404, body={"detail": "Not Found"})
            elif self.key is not None and sent != self.key:
                step = Step(status=401, body={"error": {"message": f"Incorrect API key provided: {sent}"}})
            elif self.model is not None and body["model"] != self.model:
                step = Step(status=404, body={"error": {"message": f"no model {body['model']}", "code": "not_found"}})
            else:
                step = self.script(body, before)
            # a client that has given up does not wait for the reply
            with contextlib.suppress(ConnectionError):
                if isinstance(step, Step) and step.raw is not None:
                    self._send_raw(handler, step.raw())
                else:
                    _send(handler, Step(text=step) if isinstance(step, str) else step)
        finally:
            with self._lock:
                self.n_open -= 1

    def _send_raw(self, handler: BaseHTTPRequestHandler, pieces: Iterable[bytes]) -> None:
        handler.close_connection = True
        for piece in pieces:
            handler.wfile.write(piece)
            with self._lock:
                self.n_raw_bytes += len(piece)


def _send(handler: BaseHTTPRequestHandler, step: Step) -> None:
    time.sleep(step.delay_s)
    content = step.body
    if content is None:
        content = completion(step.text) if step.status == 200 else ""
    data = (content if isinstance(content, str) else json.dumps(content)).encode()
    handler.send_response(step.status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    for name, value in step.headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data[: step.cut])
    if step.cut is not None:
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True


# the server of transformers ----------------------------------------------------------------------------------------


def teach(folder: Path, pairs: Sequence[tuple[Sequence[dict[str, str]], str]], *, special: Sequence[str] = ()) -> Path:
    """Save a small Llama that has learnt by heart which reply each conversation gets.

    Args:
        folder: where to save it.
        pairs: conversation and reply; the replies must differ where the prompts do.
        special: further special tokens.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    # whole lines as words: a prompt of thousands of characters is some dozen tokens
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "merged_with_previous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for messages, reply in pairs for text in (*(one["content"] for one in messages), reply)]
    raw.train_from_iterator(texts * 4, trainer)
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "<|end|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **named, additional_special_tokens=list(special))
    tokenizer.chat_template = CHAT_TEMPLATE

    rows = []
    for messages, reply in pairs:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        rows.append((prompt, tokenizer(f"{reply}<|end|>", add_special_tokens=False)["input_ids"]))
    width = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids = torch.tensor([prompt + reply + [0] * (width - len(prompt) - len(reply)) for prompt, reply in rows])
    is_reply = torch.zeros_like(ids, dtype=torch.bool)
    for row, (prompt, reply) in enumerate(rows):
        is_reply[row, len(prompt) : len(prompt) + len(reply)] = True
    target = ids[is_reply]
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=4096,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(500):
        # padding stands on the right, where no earlier token sees it; the head is dear, and few tokens are learnt
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[is_reply[:, 1:]]), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            break
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return save_model(folder, model.eval(), tokenizer)


def _serve(*arguments: str) -> None:
    from transformers.cli.transformers import main

    sys.argv = ["transformers", "serve", *arguments]
    main()


@contextlib.contextmanager
def transformers_server(model: Path) -> Iterator[str]:
    """Runs ``transformers serve`` on a model; yields the address of its API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # beside the model, where it disturbs nobody
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        process = Forked(
            _serve, str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", folder=Path(folder)
        )
        try:
            while True:
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                assert process.is_alive, (Path(folder) / ".stderr").read_text()
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            if process.is_alive:
                os.kill(process.pid, signal.SIGTERM)
            process.wait()
