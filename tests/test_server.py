"""The server extension: by itself, and in real servers with a real kernel."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import websocket
from jupyter_server.gateway.connections import GatewayWebSocketConnection
from jupyter_server.services.kernels.connection.base import BaseKernelWebsocketConnection
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from traitlets.config import Config

from gradflow_widget.server import (
    _jupyter_server_extension_points,
    _load_jupyter_server_extension,
    without_delay,
)
from tests.jupyter_servers import JupyterServer, running_server

SETTING = "kernel_websocket_connection_class"


class RecordingHandler:
    """Stands where the websocket's handler does and records what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def set_nodelay(self, value: bool) -> None:
        self.calls.append(("set_nodelay", value))


class SomeoneElsesConnection:
    """A connection class of another extension."""

    def __init__(self, handler: RecordingHandler) -> None:
        self.websocket_handler = handler

    def connect(self) -> str:
        self.websocket_handler.calls.append("connect")
        return "what connect returned"


def server_with(settings: dict[str, Any]) -> Any:
    return SimpleNamespace(web_app=SimpleNamespace(settings=settings))


def test_nodelay_is_set_and_then_the_class_underneath_connects() -> None:
    handler = RecordingHandler()
    connection = without_delay(SomeoneElsesConnection)(handler)

    assert connection.connect() == "what connect returned"
    assert handler.calls == [("set_nodelay", True), "connect"]


@pytest.mark.parametrize(
    "already_set",
    [ZMQChannelsWebsocketConnection, GatewayWebSocketConnection, SomeoneElsesConnection],
)
def test_whatever_class_was_set_is_kept_underneath(already_set: type) -> None:
    settings: dict[str, Any] = {SETTING: already_set, "other": "left alone"}

    _load_jupyter_server_extension(server_with(settings))

    assert issubclass(settings[SETTING], already_set)
    assert settings[SETTING].__mro__[1:] != already_set.__mro__
    assert settings.keys() == {SETTING, "other"}
    assert settings["other"] == "left alone"


def test_loading_twice_changes_nothing_more() -> None:
    settings = {SETTING: ZMQChannelsWebsocketConnection}
    _load_jupyter_server_extension(server_with(settings))
    once = settings[SETTING]

    _load_jupyter_server_extension(server_with(settings))

    assert settings[SETTING] is once


def test_a_server_without_the_setting_is_left_as_it_is() -> None:
    settings: dict[str, Any] = {}

    _load_jupyter_server_extension(server_with(settings))

    assert settings == {}


def test_the_users_configuration_of_the_class_underneath_still_applies() -> None:
    subclass = without_delay(BaseKernelWebsocketConnection)
    config = Config({"BaseKernelWebsocketConnection": {"kernel_ws_protocol": "chosen"}})

    assert subclass(config=config).kernel_ws_protocol == "chosen"


def test_the_extension_names_its_own_module() -> None:
    assert _jupyter_server_extension_points() == [{"module": "gradflow_widget.server"}]


def test_loading_the_extension_does_not_import_torch() -> None:
    code = "import sys, gradflow_widget.server; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


ECHO = """
def _echo(comm, _):
    comm.on_msg(lambda message: comm.send(message["content"]["data"]))

get_ipython().kernel.comm_manager.register_target("echo", _echo)
"""


class EchoingComm:
    """A comm to a new kernel of a server, over the kernel's websocket as a page opens it."""

    def __init__(self, server: JupyterServer) -> None:
        kernel = server.request("kernels", method="POST", body={"name": "python3"})
        self._socket = websocket.create_connection(
            f"{server.url.replace('http', 'ws', 1)}/api/kernels/{kernel['id']}/channels"
            f"?session_id={uuid.uuid4().hex}",
            header=[f"Authorization: token {server.token}"],
            timeout=60,
        )
        self._send("execute_request", {"code": ECHO, "store_history": False, "allow_stdin": False})
        reply = self._wait_for(lambda message: message["msg_type"] == "execute_reply")
        assert reply["content"]["status"] == "ok"
        self._id = uuid.uuid4().hex
        self._trips = 0
        self._send("comm_open", {"comm_id": self._id, "target_name": "echo", "data": {}})

    def round_trip(self) -> float:
        """Send one message, wait for its echo, and return the seconds that took."""
        self._trips += 1
        data = {"trip": self._trips}
        start = time.perf_counter()
        self._send("comm_msg", {"comm_id": self._id, "data": data})
        self._wait_for(
            lambda message: message["msg_type"] == "comm_msg" and message["content"]["data"] == data
        )
        return time.perf_counter() - start

    def close(self) -> None:
        self._socket.close()

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": kind,
            "session": "",
            "username": "",
            "date": "2026-01-01T00:00:00Z",
            "version": "5.3",
        }
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        self._socket.send(json.dumps({**message, "channel": "shell", "buffers": []}))

    def _wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(self._socket.recv())
            if wanted(message):
                return message


def test_installing_the_package_enables_the_extension(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        assert "gradflow_widget.server | extension was successfully loaded" in server.log()


@pytest.mark.skipif(sys.platform != "linux", reason="the delay of an ACK is known for Linux")
def test_a_comms_round_trip_is_at_least_three_times_as_fast_with_the_extension(
    tmp_path: Path,
) -> None:
    enabled = "--ServerApp.jpserver_extensions=gradflow_widget.server="
    with ExitStack() as stack:
        comms = []
        for value in ("true", "false"):
            server = stack.enter_context(
                running_server(tmp_path / value, arguments=[f"{enabled}{value}"])
            )
            comm = EchoingComm(server)
            stack.callback(comm.close)
            comms.append(comm)
        # Linux acknowledges the first packets of a connection at once, and only then delays.
        for comm in comms:
            for _ in range(20):
                comm.round_trip()
        # Taken in turn, so that other work on the machine falls on both alike.
        trips = [[comm.round_trip() for comm in comms] for _ in range(31)]

    with_extension, without = (statistics.median(column) for column in zip(*trips, strict=True))
    print(f"a comm's round trip: {with_extension * 1e3:.1f} ms, without: {without * 1e3:.1f} ms")
    assert without >= 3 * with_extension
