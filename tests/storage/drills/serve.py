"""A process that serves a log until it is killed, on a socket that is bound already."""

import socket

import subject
import uvicorn

from storage.log_add import Settings
from storage.log_app import log_app
from storage.sequencer import Sequencer


def serve(drilled: subject.Subject, listening: socket.socket) -> None:
    """Serve; any token may add, under its own name."""
    with (
        drilled.reopen() as ledger,
        Sequencer(lambda records: ledger.append(records, subject.now(), subject.sign)) as sequencer,
    ):
        settings = Settings(published=ledger.checkpoint, witnessed=None, authorise=lambda token: token)
        app = log_app(ledger, sequencer, settings)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])
