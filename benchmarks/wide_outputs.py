"""How much memory runs of networks with many outputs take, beside what ``wna plan`` says.

    python benchmarks/wide_outputs.py [K:SIDE:RESPONSES ...]

Each run is a process of its own, in-process executor, whose largest resident size is measured. The
network is a convolution and a linear layer; images are 3 x SIDE x SIDE.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

CASES = ("2000:8:both", "8000:8:both", "8000:16:label", "8000:8:label", "21841:8:label")
SCRIPT = """
import json, resource, sys, tempfile
import torch
from wna_ray import Spec, run
from wna_ray.execution.plan import fan_in
from wna_ray.execution.rounds import Desk
from wna_ray.kinds.average import job as jobs, memory

k, side, responses, model = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
said = {}
needs = memory.needs
def kept(*args, **more):
    said["need"] = needs(*args, **more)
    return said["need"]
jobs.needs = kept
spec = Spec.parse({
    "model": f"{model}?k={k}", "responses": responses, "samples": 2048, "numerics": {"batch": 64},
    "stimulus": {"kind": "gaussian", "shape": [3, side, side], "scale": 1.0, "space": "input"},
})
try:
    with tempfile.TemporaryDirectory() as out:
        run(spec, out + "/run", executor="local")
    error = ""
except Exception as raised:
    error = str(raised)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
print(json.dumps([said["need"].driver, peak, error]))
"""
NETWORK = """
import torch
from torch import nn

class Many(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3, stride=2), nn.Linear(16, k)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))

def many(k="100"):
    torch.manual_seed(0)
    return Many(int(k))
"""


def main(cases: tuple[str, ...]) -> None:
    """Print a line a case."""
    print(f"{'outputs':>8} {'values':>7} {'responses':<16} {'planned':>9} {'measured':>9} ratio")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "wide_network.py").write_text(NETWORK)
        for case in cases:
            k, side, which = case.split(":")
            responses = ["label", "logits"] if which == "both" else [which]
            args = [k, side, json.dumps(responses), "python:wide_network:many"]
            done = subprocess.run(
                [sys.executable, "-c", SCRIPT, *args], cwd=folder, capture_output=True, text=True
            )
            if done.returncode:
                print(f"{case}: {done.stderr.strip().splitlines()[-1:]}")
                continue
            planned, measured, error = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{int(k):>8,} {3 * int(side) ** 2:>7,} {'+'.join(responses):<16}"
                f" {planned / 2**30:>6.2f} GB {measured / 2**30:>6.2f} GB"
                f" {planned / measured:5.2f} {error[:100]}",
                flush=True,
            )


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or CASES)
