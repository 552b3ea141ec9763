"""What hostile specs are made of: small honest specs whose parts are written otherwise.

``FILES/x`` in a text stands for a file of `fuzz_files`, and `SECRET` where passwords stand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SECRET = "SECRETKEY"
KEYED = f"s3://AKIAKEY:{SECRET}@bucket/x"
LOGIN = f"http://user:{SECRET}@127.0.0.1:9/x"
SIGNED = f"http://127.0.0.1:9/x?X-Amz-Signature={SECRET}"

RUN = ("run", "SPEC", "--executor", "local", "--out", "out")
PLAN = ("plan", "SPEC", "--pilot", "64")
TRAIN = ("train", "SPEC", "--executor", "local", "--out", "out")

STIMULUS = {"kind": "gaussian", "shape": "[1, 4, 4]", "space": "input", "scale": "1.0"}
LINEAR = "python:networks_for_tests:linear"
DIGITS = "{kind: gaussian, shape: [1, 28, 28], offset: 0.5, scale: 0.3}"


@dataclass(frozen=True)
class Case:
    """A spec, and the command that reads it.

    Attributes
    ----------
    family, name
        What it is.
    text
        The YAML file.
    argv
        The command; ``SPEC`` stands for the file.
    refused, honest
        Whether it must be refused, or must be done.
    """

    family: str
    name: str
    text: str | bytes
    argv: tuple[str, ...] = RUN
    refused: bool = False
    honest: bool = False

    @property
    def files(self) -> list[str]:
        """Names of the files that it names."""
        text = self.text if isinstance(self.text, str) else ""
        return re.findall(r"FILES/([\w.-]*\w)", " ".join([text, *self.argv]))


def stimulus(**values: str) -> str:
    """The noise, some of its values written otherwise."""
    return "{" + ", ".join(f"{key}: {value}" for key, value in (STIMULUS | values).items()) + "}"


def spec(**values: str) -> str:
    """A small spec, some of its values written otherwise."""
    parts = {"model": LINEAR, "stimulus": stimulus(), "samples": "200", "numerics": "{batch: 50}"}
    return "".join(f"{key}: {value}\n" for key, value in (parts | values).items())


def digits(**values: str) -> str:
    """The same for the bundled network."""
    own = {"model": "bundled:mnist-cnn", "stimulus": DIGITS, "evaluation": "{dataset: none}"}
    return spec(**(own | values))


def layered(weights: str) -> str:
    """A spec of a network that reads its weights from a file."""
    return spec(model=f"'python:networks_for_tests:layered?weights={weights}'")
