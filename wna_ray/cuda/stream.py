"""A second stream of a CUDA device, on which noise and moments hide behind the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Beside:
    """Starts work beside the main stream of a CUDA device; elsewhere work is done where and when it
    is asked for.

    A network has one: torch keeps the memory that a stream has freed for this stream.

    Parameters
    ----------
    device
        Where.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, make: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """Begin to make something; what this gives hands it over, once the main stream gets
        there. The host waits for nothing.
        """
        if self._stream is None:
            return make
        with torch.cuda.stream(self._stream):
            tensor, done = make(), self._stream.record_event()
        if not tensor.is_cuda:  # pictures, which the CPU makes
            return lambda: tensor

        def take() -> torch.Tensor:
            main = torch.cuda.current_stream(tensor.device)
            main.wait_event(done)
            tensor.record_stream(main)
            return tensor

        return take

    @contextmanager
    def __call__(self, *read: torch.Tensor) -> Iterator[None]:
        """What is done inside is done there. It may `read` tensors that the main stream has
        finished.
        """
        if self._stream is None:
            yield
            return
        for tensor in (t for t in read if t.is_cuda):
            tensor.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            yield

    def wait(self) -> None:
        """Wait until all that was started is done."""
        if self._stream is not None:
            self._stream.synchronize()
