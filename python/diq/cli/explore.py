"""``diq explore``."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import click

import diq
from diq.cli.console import say, start_logging
from diq.cli.options import keywords, options_of
from diq.explorer.options import ExploreOptions


@click.command(short_help="Look at scores and would-be selections in a browser.")
@options_of(ExploreOptions)
def explore(**given: Any) -> None:
    """Open a local page over the scores of DATASET: difficulty and influence, brushed, sorted, read and selected.

    The page is served to this machine alone, at an address with a token. Sliders show at once what a selection would
    take; nothing is written until one is saved, and then by the `diq select` command that the page shows.

    \b
    Example:
      diq explore pool --model Qwen/Qwen3-8B
    """
    start_logging()
    diq.explore(**keywords(ExploreOptions, given), listener=_tell)
    if any(not one.daemon for one in threading.enumerate() if one is not threading.main_thread()):
        # tokens that are being coloured would be waited for, and nobody looks at them any more
        sys.stdout.flush()
        os._exit(0)


def _tell(address: str) -> None:
    say(f"the page is at {address} (stop it with Ctrl-C)")
