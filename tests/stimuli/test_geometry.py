"""What is known of a stimulus without torch: against the arrays that a stimulus really makes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from wna_ray.geometry import Box, Patches
from wna_ray.networks.field import Field
from wna_ray.specs.stimulus import StimulusSpec
from wna_ray.stimuli.coloured import ColouredNoise
from wna_ray.stimuli.geometry import geometry_of
from wna_ray.stimuli.images import Images
from wna_ray.stimuli.mixture import Mixture
from wna_ray.stimuli.offsets import load_basis, load_offset
from wna_ray.stimuli.stimulus import make_stimulus
from wna_ray.stimuli.stretched import StretchedMixture
from wna_ray.stimuli.white import WhiteNoise

READERS = (
    "wna_ray.kinds.average.extent",
    "wna_ray.kinds.covariance.extent",
    "wna_ray.kinds.trials.extent",
    "wna_ray.runs.directory",
    "wna_ray.sweeps.directory",
)
GABOR = {"kind": "gabor"}
KINDS: dict[type, dict[str, Any]] = {
    WhiteNoise: {"kind": "binary", "cell": 2},
    ColouredNoise: {"kind": "gaussian", "cell": 2, "spectrum": 1.0},
    Mixture: {"kind": "gaussian", "basis": GABOR},
    StretchedMixture: {"kind": "uniform", "basis": GABOR | {"rescale": "minmax"}},
    Images: {"kind": "images", "dataset": "mnist", "shape": (1, 28, 28), "cell": 3},
}


def spec_of(kind: type) -> StimulusSpec:
    return StimulusSpec(**({"shape": (2, 9, 8), "scale": 1.0} | KINDS[kind]))


def looking(rows: int = 1) -> Field:
    """At four units in a window of 7 x 6 pixels, of which patches of 4 x 2 are kept."""
    patches = Patches(Box(0, 2, 4, 2), rows=rows, step=(1, 1))
    return Field(tuple(range(4)), "pooled", (0, 0), Box(2, 0, 7, 6), patches)


def test_whoever_reads_directories_imports_no_torch() -> None:
    heavy = ("torch", "matplotlib", "ray")
    code = f"import sys, {', '.join(READERS)}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_spec_gets_the_class_of_its_kind(kind: type) -> None:
    spec = spec_of(kind)
    stimulus = make_stimulus(spec, 3, load_offset(spec))
    assert type(stimulus) is kind
    assert stimulus.pointwise == (kind is WhiteNoise)
    assert (stimulus.gain is not None) == (kind is ColouredNoise)


@pytest.mark.parametrize("field", [None, looking()], ids=["whole", "window"])
@pytest.mark.parametrize("kind", [k for k in KINDS if k is not Images])
def test_shapes_are_those_of_the_arrays(kind: type, field: Field | None) -> None:
    spec = spec_of(kind)
    known = geometry_of(spec, field)
    stimulus = make_stimulus(
        spec, 3, load_offset(spec), known.shown, known.patches, load_basis(spec)
    )
    grid = stimulus.noise.grid(0, 3)
    kept = stimulus.keep(grid)
    assert kept.shape == (3, *known.grid_shape)
    assert kept[0].size == known.pixels == stimulus.pixels
    assert stimulus.images(grid).shape == (3, *known.shown_shape)
    assert stimulus.expand(kept.reshape(3, -1).astype(np.float64)).shape == (3, *known.shape)


def test_patches_are_counted_row_by_row() -> None:
    spec = spec_of(WhiteNoise).model_copy(update={"cell": 1})
    known = geometry_of(spec, looking(rows=3))
    stimulus = make_stimulus(spec, 3, load_offset(spec), known.shown, known.patches)
    grid = stimulus.noise.grid(0, 2)
    kept = stimulus.keep(grid).reshape(2, known.patches_an_image, *known.shape)
    assert (known.patches_an_image, known.middle_patch) == (3, 1)
    assert np.array_equal(kept[:, known.middle_patch], grid[:, :, 1:5, 2:4])


@pytest.mark.parametrize("kind", [ColouredNoise, Mixture])
def test_of_correlated_noise_the_whole_window_is_kept(kind: type) -> None:
    known = geometry_of(spec_of(kind), looking())
    assert (known.shape, known.patches) == ((2, 7, 6), None)


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not Images])
def test_another_seed_is_another_stream_of_the_same_stimulus(kind: type) -> None:
    spec = spec_of(kind)
    one, two, again = (
        make_stimulus(spec, seed, load_offset(spec), basis=load_basis(spec)) for seed in (3, 4, 3)
    )
    grid = two.with_seed(3).noise.grid(0, 2)
    assert np.array_equal(grid, one.noise.grid(0, 2))
    assert not np.array_equal(grid, two.noise.grid(0, 2))
    assert np.array_equal(two.with_seed(3).images(grid), again.images(grid))
