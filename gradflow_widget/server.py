"""The Jupyter server extension that takes a 44 ms stall off every message of a widget.

jupyter_server leaves Nagle's algorithm on for the kernel's websocket: a small message waits until
the page has acknowledged the one before it, and a page delays its acknowledgements. This sets
TCP_NODELAY on each connection as it opens, and nothing else. The package's file in
``etc/jupyter/jupyter_server_config.d`` enables it on install;
``jupyter server extension disable gradflow_widget.server`` turns it off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

_SETTING = "kernel_websocket_connection_class"


class _WithoutDelay:
    """Goes before a connection class and turns Nagle's algorithm off when it connects."""

    websocket_handler: Any

    def connect(self) -> Any:
        self.websocket_handler.set_nodelay(True)
        # Whether this returns a coroutine, a future or None is up to the class underneath.
        return super().connect()  # type: ignore[misc]


def without_delay(connection_class: type) -> type:
    """Return a subclass of a kernel websocket's connection class that sets TCP_NODELAY.

    A class that sets it already is returned as it is.
    """
    if issubclass(connection_class, _WithoutDelay):
        return connection_class
    return type(f"{connection_class.__name__}WithoutDelay", (_WithoutDelay, connection_class), {})


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "gradflow_widget.server"}]


def _load_jupyter_server_extension(serverapp: ServerApp) -> None:
    # The server has copied its trait into the web application's settings by the time it loads
    # extensions, and the websocket's handler reads it there at every connection.
    settings = serverapp.web_app.settings
    connection_class = settings.get(_SETTING)
    # Servers before 2.0 have no such setting: there the stall stays, and nothing else changes.
    if connection_class is not None:
        settings[_SETTING] = without_delay(connection_class)
