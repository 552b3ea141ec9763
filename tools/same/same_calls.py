"""Call what the package offers to Python: one small run of each kind.

This is a script in a tree's folder of runs.
"""

from __future__ import annotations

import wna_ray

OUT = "called"
LITTLE = {"samples": 256, "evaluation": "none"}


def main() -> None:
    """Run a spec of every kind, and say what came of it."""
    run = wna_ray.run(wna_ray.Spec.load("given/demo.yaml", LITTLE), f"{OUT}/run", executor="local")
    print(run.samples, run.fingerprint)
    asked = wna_ray.TrialSpec(
        model="bundled:mnist-cnn",
        signals={"dataset": "mnist", "images": 2},
        transforms=("none", "zoom"),
    )
    trials = wna_ray.run_trials(asked, f"{OUT}/trials", executor="local")
    print(trials.table.to_pydict())
    asked = wna_ray.StcSpec(run="answers/units", response="rectified", units=("4",), fresh=0)
    stc = wna_ray.run_stc(asked, f"{OUT}/stc", executor="local")
    print(stc.axes.to_pydict())
    centred = {"kind": "logits", "centred": True}
    model = {"model": "bundled:mnist-cnn", "stimulus": run.spec.stimulus, "samples": 128}
    model["responses"] = ["label", centred]
    seeds = {"seed": {"1": {"seed": 1}, "2": {"seed": 2}}}
    sweep = wna_ray.SweepSpec.parse({"sweep": seeds} | model)
    print(list(wna_ray.run_sweep(sweep, f"{OUT}/sweep", executor="local").members))
    try:
        wna_ray.open_run("nowhere")
    except wna_ray.WnaError as error:
        print(error.exit_code, error)


if __name__ == "__main__":
    main()
