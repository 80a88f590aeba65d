"""The page as a server: at one address, without telemetry, and asking nothing outside for anything."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from typing import TYPE_CHECKING

import typer

from piflow_cli.cli import console

if TYPE_CHECKING:
    from piflow_cli.engine.studio.studio import Studio

MAX_UPLOAD = "4mb"
SILENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
SESSIONS = 100
"""People, or tabs, whose pictures the page remembers."""


def serve(studio: Studio, model: str, *, host: str, port: int) -> None:
    """Serve the page until it is interrupted.

    Raises:
        typer.BadParameter: the address cannot be listened at.
    """
    _check_address(host, port)
    os.environ.update(SILENT)
    with tempfile.TemporaryDirectory(prefix="piflow-ui-") as cache:
        os.environ["GRADIO_TEMP_DIR"] = cache  # read as gradio is imported
        from piflow_cli.cli.playing.page import CSS, build, theme

        page = build(studio, model)
        _, url, _ = page.queue(max_size=16).launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MAX_UPLOAD,
            allowed_paths=[str(studio.out.resolve())],
            state_session_capacity=SESSIONS,
            footer_links=[],
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            theme=theme(),
            css=CSS,
        )
        console.note(f"{url} shows the page; pictures go to {studio.out}. Ctrl-C ends it.")
        try:
            while True:
                time.sleep(1)
        except KeyboardInterrupt:  # how a page is ended
            console.note("closed")
        finally:
            page.close(verbose=False)


def _check_address(host: str, port: int) -> None:
    """Raise typer.BadParameter for an address that cannot be listened at."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        hint = "--host" if isinstance(error, socket.gaierror) else "--port"
        raise typer.BadParameter(f"{host}:{port} cannot be listened at: {error.strerror}", param_hint=hint) from None
