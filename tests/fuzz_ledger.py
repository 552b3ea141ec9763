"""What a fuzzer has found: how commands of each family ended, and which faults are different."""

from __future__ import annotations

import re
import shlex
import threading
import time
from collections import Counter
from dataclasses import dataclass

from fuzz_nursery import Told

SHOWN = 3000  # characters of what a command printed


@dataclass(frozen=True)
class Found:
    """A command of which something does not hold.

    Attributes
    ----------
    again
        The command line that does it again.
    about
        What was changed, and in what.
    argv
        The command.
    faults
        What does not hold.
    told
        How it ended.
    """

    again: str
    about: str
    argv: tuple[str, ...]
    faults: tuple[str, ...]
    told: Told

    @property
    def signature(self) -> str:
        """The same for the same fault: where it was raised, or what does not hold, less numbers."""
        frames = re.findall(r'File "[^"]*?(wna_ray/[^"]+", line \d+, in \S+)', self.told.text)
        frames = [re.sub(r'", line \d+', "", frame) for frame in frames]
        last = (self.told.text.strip().splitlines() or [""])[-1].split(":")[0][:80]
        fault = re.sub(r"/\S+|\d+", "*", self.faults[0].partition(" (")[0])
        return f"{fault}: {last} in {frames[-1]}" if frames else f"{self.argv[0]}: {fault}"

    def __str__(self) -> str:
        shown = self.told.text if len(self.told.text) <= SHOWN else "..." + self.told.text[-SHOWN:]
        lines = [f"{self.about}", f"wna {shlex.join(self.argv)[:500]}: {'; '.join(self.faults)}"]
        return "\n".join([*lines, *(f"    {line!a}" for line in shown.splitlines()), self.again])


class Ledger:
    """Counts commands and keeps faults; several threads may write to it."""

    def __init__(self, total: int) -> None:
        self._lock, self._begun = threading.Lock(), time.monotonic()
        self._done, self._total = 0, total
        self.commands, self.honoured = Counter[str](), Counter[str]()
        self.found = list[tuple[str, Found]]()  # of a family

    def add(self, family: str, told: Told, found: Found | None) -> None:
        """One command, and what does not hold of it."""
        with self._lock:
            self.commands[family] += 1
            self.honoured[family] += told.code == 0
            if found is None:
                return
            new = found.signature not in {other.signature for _, other in self.found}
            self.found.append((family, found))
        if new:
            print(f"\n{found}\n", flush=True)

    def step(self, every: int = 100) -> None:
        """One thing more is done; tells from time to time."""
        with self._lock:
            self._done += 1
            if self._done % every == 0 or self._done == self._total:
                seconds, commands = time.monotonic() - self._begun, sum(self.commands.values())
                told = f"{self._done:,} of {self._total:,}, {commands:,} commands"
                print(f"{told}, {len(self.found):,} with faults, {seconds:.0f} s", flush=True)

    def close(self) -> int:
        """Print tables of families and of different faults; gives the exit code."""
        faulty = Counter(family for family, _ in self.found)
        counters = (self.commands, self.honoured, faulty)
        rows = [(family, [counter[family] for counter in counters]) for family in self.commands]
        rows = [*sorted(rows), ("all", [sum(counter.values()) for counter in counters])]
        print(f"\n{'family':<20} {'commands':>8} {'exit 0':>8} {'faults':>8}")
        for family, counts in rows:
            print(f"{family:<20} " + " ".join(f"{count:8,}" for count in counts))
        kinds = Counter(found.signature for _, found in self.found)
        print(f"\n{len(kinds)} different faults")
        for signature, count in kinds.most_common():
            again = next(found.again for _, found in self.found if found.signature == signature)
            print(f"  {count:5,} x {signature}\n          {again}")
        return int(bool(self.found))
