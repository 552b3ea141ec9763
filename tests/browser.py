"""A page in a real browser: Chromium without a window, asked through its DevTools protocol."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)


class Browser:
    """Where a running browser listens."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, page: Path, question: str, width: int, dark: bool = False
    ) -> tuple[Any, list[str]]:
        """The value of an expression on a page so many pixels wide, offline; and what the
        console and the log said.
        """
        return asyncio.run(self._ask(page, question, width, dark))

    async def _ask(
        self, page: Path, question: str, width: int, dark: bool
    ) -> tuple[Any, list[str]]:
        async with aiohttp.ClientSession() as session:
            async with session.put(f"http://127.0.0.1:{self.port}/json/new?about:blank") as answer:
                target = await answer.json()
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                said: list[str] = []
                number = 0

                async def call(method: str, **parameters: Any) -> Any:
                    nonlocal number
                    number += 1
                    await socket.send_json({"id": number, "method": method, "params": parameters})
                    while True:
                        message = await heard()
                        if message.get("id") == number:
                            assert "error" not in message, message
                            return message["result"]

                async def heard() -> dict[str, Any]:
                    message: dict[str, Any] = await asyncio.wait_for(socket.receive_json(), 30)
                    if message.get("method") in (
                        "Log.entryAdded",
                        "Runtime.consoleAPICalled",
                        "Runtime.exceptionThrown",
                    ):
                        said.append(str(message["params"]))
                    return message

                for domain in ("Page", "Log", "Runtime", "Network"):
                    await call(f"{domain}.enable")
                await call(
                    "Network.emulateNetworkConditions",
                    offline=True,
                    latency=0,
                    downloadThroughput=0,
                    uploadThroughput=0,
                )
                await call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width,
                    height=800,
                    deviceScaleFactor=1,
                    mobile=width < 600,
                )
                await call(
                    "Emulation.setEmulatedMedia",
                    features=[
                        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
                    ],
                )
                await call("Page.navigate", url=page.as_uri())
                while (await heard()).get("method") != "Page.loadEventFired":
                    pass
                found = await call(
                    "Runtime.evaluate", expression=question, returnByValue=True, awaitPromise=True
                )
                assert "exceptionDetails" not in found, found
                return found["result"].get("value"), said


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser of its own; skips where there is none."""
    program = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if program is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium)")
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("DevTools listening on"):
                yield Browser(int(line.rsplit(":", 1)[1].split("/")[0]))
                break
        else:
            pytest.fail("chromium ended before it listened")
    finally:
        process.kill()
        process.communicate()
