"""The stage ``diq explore``: a page over the scores of a dataset, served to this machine alone."""

from __future__ import annotations

import contextlib
import logging
import webbrowser

from diq.base.options import verb
from diq.explorer.columns import choose
from diq.explorer.options import ExploreOptions
from diq.explorer.session import Session

log = logging.getLogger(__name__)


@verb(ExploreOptions)
def explore(options: ExploreOptions) -> None:
    """Serve a page over the scores of a dataset until it is interrupted (Ctrl-C).

    The store is only read, and open only while the scores are read at the start, a text is shown, or a selection is
    saved; other commands can use it meanwhile.

    Raises:
        UsageError: an unknown name, or several datasets, models or runs to choose from.
        MissingScoresError: there are no scores yet; the hint is the command that makes them.
        StoreError: the store is missing or held by another process.
        RunFailedError: the port is in use.
    """
    # loaded here: the records of options and the command's help need no server
    from diq.explorer.server import Server

    choice = choose(
        options.store_file,
        options.dataset,
        options.model,
        options.difficulty,
        options.run,
        options.difficulty_run,
    )
    server = Server(Session(choice), options.port)
    # before the browser is looked for, which may take its time
    (options.listener or _log)(server.address)
    if options.browser:
        _open(server.address)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()


def _log(address: str) -> None:
    # a warning: whoever calls this from Python without logging must see where the page is, too
    log.warning("the page is at %s (stop it with Ctrl-C)", address)


def _open(address: str) -> None:
    # who has no browser has the address
    with contextlib.suppress(webbrowser.Error):
        webbrowser.open(address)
