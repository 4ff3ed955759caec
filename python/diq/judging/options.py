"""What ``diq judge`` takes, and how a language model behind a server is asked, which other verbs do too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal, get_args
from urllib.parse import unquote, urlsplit

from diq.base.options import InStore, Needs, Option, Options, ToldWithNote, check_name
from diq.base.text import without_secrets

BASE_URL_VARIABLE = "OPENAI_BASE_URL"
OPENAI_URL = "https://api.openai.com/v1"
# timeouts after which a request has failed whose server does send something, but no end: some send line ends while
# the model thinks, others would do so for ever
_PATIENCE = 3

RubricName = Literal["reasoning", "clinical"]
RUBRICS: tuple[RubricName, ...] = get_args(RubricName)
QUESTION_COLUMNS = ("question", "prompt")
# `answer` comes last: beside another column it usually is the benchmark's own
OUTPUT_COLUMNS = ("output", "response", "generated_text", "model_outputs", "answer")

BaseUrl = Annotated[
    str | None,
    Option(
        "Address of an OpenAI-compatible server, such as http://localhost:8000/v1.",
        metavar="URL",
        default=f"${BASE_URL_VARIABLE}, else OpenAI's",
    ),
]
KeyVariable = Annotated[
    str,
    Option(
        "Environment variable that holds the server's key, if it wants one; the key is never stored or shown.",
        metavar="NAME",
    ),
]
Concurrency = Annotated[int, Option("Requests to the server that are open at once.", least=1)]
Timeout = Annotated[
    float,
    Option(
        "Seconds without a sign of the server after which a request has failed; with signs but without an end it has "
        f"after {_PATIENCE} times as many.",
        metavar="SECONDS",
        above=0,
    ),
]
Retries = Annotated[
    int,
    Option(
        "How often a request is repeated after 408, 409, 429, 5xx, a time-out or a broken connection, waiting longer "
        "each time.",
        least=0,
    ),
]


@dataclass(frozen=True)
class Server(Options):
    """A language model behind a server, and how to ask it."""

    model: Annotated[str, Option("Name of the model, as its server knows it.", metavar="NAME")]
    _: KW_ONLY
    base_url: BaseUrl = None
    api_key_variable: KeyVariable = "OPENAI_API_KEY"
    temperature: Annotated[
        float | None,
        Option(
            "Of the sampling; `default` (None) sends none, for models that take only their own. Part of the run.",
            metavar="NUMBER",
            least=0,
            none="default",
        ),
    ] = 0.0
    max_tokens: Annotated[int, Option("Tokens of a reply, thinking included.", least=1)] = 2048
    concurrency: Concurrency = 8
    timeout: Timeout = 120.0
    retries: Retries = 6
    price_prompt: Annotated[
        float | None, Option("Price of a million prompt tokens, to show what it costs.", least=0)
    ] = None
    price_completion: Annotated[float | None, Option("Price of a million tokens of replies.", least=0)] = None

    @property
    def url(self) -> str:
        """Address of the API, the environment looked up."""
        return self.base_url or os.environ.get(BASE_URL_VARIABLE) or OPENAI_URL

    @property
    def shown_url(self) -> str:
        """The address without what may be secret in it: a user's name and password, and the query."""
        if "://" in self.url:
            return without_secrets(self.url)
        # it is refused, and shown then
        return without_secrets(f"://{self.url}").removeprefix("://")

    @property
    def password(self) -> str:
        """Of the user in the address, or that user where there is no password; empty without."""
        with contextlib.suppress(ValueError):
            parts = urlsplit(self.url)
            return unquote(parts.password or parts.username or "")
        return ""

    @property
    def longest_s(self) -> float:
        """Seconds after which a request has failed, whatever its server sends."""
        return _PATIENCE * self.timeout

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Price of some tokens; None where no price is known."""
        if self.price_prompt is None and self.price_completion is None:
            return None
        return (prompt_tokens * (self.price_prompt or 0) + completion_tokens * (self.price_completion or 0)) / 1e6


AskedServer = Annotated[Server, Option("The model to ask, its server, and how.")]
RetryUnreadable = Annotated[bool, Option("Ask again where a reply could not be read twice.")]
AskSeed = Annotated[int, Option("Seed of the draw and the order of asking.", least=0)]


@dataclass(frozen=True)
class JudgeOptions(InStore):
    """Options of ``diq judge reasoning`` and ``diq judge clinical``."""

    rubric: Annotated[RubricName, Option("What is judged: the reasoning as such, or three clinical habits.")]
    _: KW_ONLY
    selection: Annotated[
        str | int | None, Option("Judge samples of this selection.", metavar="NAME|NUMBER", reads="selection")
    ] = None
    against: Annotated[
        str | int | None,
        Option(
            "What it is compared with: the samples that it did not take (rest), a draw of the whole dataset (random), "
            "or another selection.",
            metavar="rest|random|SELECTION",
            default="rest",
            reads="selection",
        ),
        Needs("selection"),
    ] = None
    outputs: Annotated[
        Sequence[str],
        Option(
            "Judge a model's outputs: rows with question and output. Repeat for each model; the questions that all "
            "files have are compared in pairs.",
            metavar="NAME=FILE",
            named=True,
            reads="path",
        ),
    ] = ()
    question_column: Annotated[
        str | None,
        Option("Column of the question in the outputs.", metavar="COLUMN", default=" or ".join(QUESTION_COLUMNS)),
        Needs("outputs"),
    ] = None
    output_column: Annotated[
        str | None,
        Option(
            "Column of the output.",
            metavar="COLUMN",
            default=f"{', '.join(OUTPUT_COLUMNS[:-1])} or {OUTPUT_COLUMNS[-1]}",
        ),
        Needs("outputs"),
    ] = None
    sample: Annotated[
        int,
        Option(
            "Texts a group; where there are fewer, all are judged.",
            metavar="N",
            least=2,
            hint="give 2 or more; the paper's judge takes 100",
        ),
    ] = 100
    seed: AskSeed = 0
    name: Annotated[str | None, Option("Name of the comparison in the store.", metavar="NAME", check=check_name)] = None
    retry_unreadable: RetryUnreadable = False
    server: AskedServer
    progress: ToldWithNote = None
