"""Hostile specs that are known to be hard, in a table."""

from __future__ import annotations

import json
from collections.abc import Callable

from fuzz_spec_text import (
    KEYED,
    LOGIN,
    PLAN,
    RUN,
    SECRET,
    SIGNED,
    TRAIN,
    Case,
    digits,
    layered,
    spec,
    stimulus,
)


def grown(first: str, step: Callable[[int], str], steps: int) -> str:
    """Anchors, each made of the one before."""
    return f"a0: &a0 {first}\n" + "".join(f"a{i}: &a{i} {step(i - 1)}\n" for i in range(1, steps))


LAUGHS = grown("[x, x, x]", lambda i: f"[{', '.join([f'*a{i}'] * 9)}]", 12)
MERGES = grown("{a: 1}", lambda i: f"{{<<: [{', '.join([f'*a{i}'] * 9)}]}}", 10)
GROWING = grown("{b: 1}", lambda i: f"{{<<: [*a{i}, *a{i}], b{i}: 1}}", 25)
PYTHON = "%TAG ! tag:yaml.org,2002:python/"
MAKES = "!!python/object/new:trap_for_tests.x []"

YAML: dict[str, str | bytes] = {
    "a billion laughs": spec() + LAUGHS,
    "a billion laughs as a stimulus": LAUGHS + spec(stimulus="*a11"),
    "a bomb of merges": spec() + MERGES,
    "a bomb of merges as a stimulus": MERGES + spec(stimulus="*a9"),
    "a bomb of merges that grow": spec() + GROWING,
    "a list of itself": spec() + "x: &x [*x]\n",
    "a mapping of itself": spec() + "x: &x {a: *x}\n",
    "a stimulus of itself": spec(stimulus="&s {kind: *s, shape: [1, 4, 4]}"),
    "changes of themselves": "full: &f {x: *f}\n" + spec(),
    "a merge of itself": spec() + "x: &x {<<: *x}\n",
    "a merge of a number": spec() + "<<: 5\n",
    "a merge of a list of numbers": spec() + "<<: [1, 2]\n",
    "a merge that changes samples": "x: &x {samples: 3}\n" + spec() + "<<: *x\n",
    "an anchor that nobody set": spec(samples="*nowhere"),
    "ten thousand anchors": spec() + "".join(f"k{i}: &k{i} 1\n" for i in range(10_000)),
    "a tag that runs": spec(model="!!python/object/apply:os.system ['touch sprung']"),
    "a tag that imports": spec() + "x: !!python/name:trap_for_tests.x\n",
    "a tag that imports a module": spec() + "x: !!python/module:trap_for_tests\n",
    "a tag that makes": spec() + f"x: {MAKES}\n",
    "a tag of one's own": spec(samples="!mine 200"),
    "bytes": spec(samples="!!binary aGk="),
    "a set": spec(stimulus="!!set {kind, shape}"),
    "pairs": spec(stimulus="!!omap [kind: gaussian]"),
    "flow 100,000 deep": spec() + "x: " + "[" * 100_000 + "]" * 100_000 + "\n",
    "mappings 3,000 deep": spec() + "x: " + "{a: " * 3000 + "1" + "}" * 3000 + "\n",
    "blocks 2,000 deep": spec() + "x:\n" + "".join(" " * (i + 1) + "a:\n" for i in range(2000)),
    "dashes 5,000 deep": spec() + "x: \n  " + "- " * 5000 + "1\n",
    "keys of keys": spec() + "? ? ? ? a\n: x\n",
    "empty": "",
    "a comment": "# nothing\n",
    "two documents": spec() + "---\n" + spec(),
    "a list": "- a\n",
    "a number": "5\n",
    "a word": "model\n",
    "null": "null\n",
    "a null character": spec() + 'x: "\\0"\n',
    "binary": b"\x00\x01",
    "UTF-16": spec().encode("utf-16"),
    "UTF-32": spec().encode("utf-32"),
    "a byte order mark": "\ufeff" + spec(),
    "two byte order marks": "\ufeff\ufeff" + spec(),
    "Latin-1": b"model: \xff\n",
    "half a character": spec() + 'x: "\\ud800"\n',
    "tabs": "\t" + spec(),
    "a whole key": spec() + "5: x\n",
    "a null key": spec() + "null: x\n",
    "a true key": spec() + "yes: x\n",
    "a list as a key": spec() + "? [a]\n: x\n",
    "a mapping as a key": spec() + "? {a: 1}\n: x\n",
    "a time as a key": spec() + "2026-01-01: x\n",
    "a key for a terminal": spec() + '"\\e[2J\\e]0;x\\a": 1\n',
    "a key of markup": spec() + "'[/red]': 1\n",
    "a key of 100,000 letters": spec() + "x" * 100_000 + ": 1\n",
    "a key with a dot": spec() + "stimulus.scale: 2\n",
    "ten thousand unknown keys": spec() + "".join(f"k{i}: 1\n" for i in range(10_000)),
    "two megabytes of words": spec() + "x: [" + "abcdefgh, " * 200_000 + "]\n",
    "a directive": "%YAML 9.9\n---\n" + spec(),
    "a directive of tags": f"{PYTHON}\n---\n{spec()}x: !name:trap_for_tests.x\n",
    "line ends of old": spec().replace("\n", "\r"),
    "line ends of others": spec().replace("\n", "\u2028"),
    "full is a number": "full: 5\n" + spec(),
}

TWICE = {
    "samples": spec() + "samples: 999\n",
    "the same samples": spec() + "samples: 200\n",
    "model": spec() + "model: bundled:mnist-cnn\n",
    "stimulus": spec() + "stimulus: {kind: uniform}\n",
    "in the stimulus": spec(stimulus="{kind: uniform, kind: gaussian, shape: [1, 4, 4], scale: 1}"),
    "in the numerics": spec(numerics="{batch: 50, batch: 25}"),
    "in the moments": spec() + "moments: {second: false, second: true}\n",
    "in full": spec() + "full: {samples: 5, samples: 6}\n",
    "an axis of a sweep": spec() + "sweep: {a: {b: {seed: 1}}, a: {c: {seed: 2}}}\n",
    "a value of a sweep": spec() + "sweep: {a: {b: {seed: 1}, b: {seed: 2}}}\n",
    "a change of a sweep": spec() + "sweep: {a: {b: {seed: 1, seed: 2}, c: {seed: 3}}}\n",
    "one of them quoted": spec() + '"samples": 999\n',
    "one of them with a mark": spec() + "? samples\n: 999\n",
    "one of them escaped": spec() + '"\\x73amples": 999\n',
    "whole and true": spec() + "x: {1: a, true: b, 1.0: c}\n",
}

# something else than the number that somebody meant
AMBIGUOUS = ["yes", "no", "on", "off", "true", "False", "1:30:00", "190:20:30", "1:30.5"]
AMBIGUOUS += ["2026-01-01", "2026-01-01T00:00:00Z"]
NO_NUMBERS = [*AMBIGUOUS, *["~", "''", "[]", "{}", "[200]", ".nan", ".inf"], "'two hundred'"]
ODD_NUMBERS = ["0o17", "017", "0x10", "0b11", "1_000", "+200", "1e3", "1.0e+3", "2.0", "200.5"]
ODD_NUMBERS += ["-1", "0", "-.inf", "5e-324", "1e400"]
ODD_NUMBERS += ["9" * 30, "9" * 4300, "9" * 5000, "-" + "9" * 5000, "0x" + "f" * 5000]
ODD_NUMBERS += [f"{2**40}", f"{2**40 + 1}", f"{2**63}"]
ODD_NUMBERS += [f"!!int {text}" for text in ("1:30:00", "''", "0x", "-")] + ["!!float _"]

DEAF = "python:networks_for_tests:deaf"
IMAGES = "kind: images, dataset: mnist, shape: [1, 28, 28]"
MIXED = "kind: gaussian, shape: [1, 28, 28], scale: 1"
CENTRE = "position: centre"
VALUES = {
    "scale .nan": spec(stimulus=stimulus(scale=".nan")),
    "scale -1": spec(stimulus=stimulus(scale="-1")),
    "scale 1e-320": spec(stimulus=stimulus(scale="1.0e-320")),
    "scale 1e308": spec(stimulus=stimulus(scale="1.0e+308")),
    "scale 5,000 digits": spec(stimulus=stimulus(scale="9" * 5000)),
    "scale .inf": spec(stimulus=stimulus(scale=".inf")),
    "offset 1e308": spec(stimulus=stimulus(offset="1.0e+308")),
    "offset .inf": spec(stimulus=stimulus(offset=".inf")),
    "seed 2^64": spec(seed=f"{2**64}"),
    "seed 2^64 - 1": spec(seed=f"{2**64 - 1}"),
    "seed -1": spec(seed="-1"),
    "shape 10^6 x 10^6": spec(stimulus=stimulus(shape="[1, 1000000, 1000000]")),
    "shape 2^31": spec(stimulus=stimulus(shape="[1, 1, 2147483648]")),
    "shape 10^30": spec(stimulus=stimulus(shape=f"[1, 1, {10**30}]")),
    "shape 5,000 digits": spec(stimulus=stimulus(shape=f"[1, 1, {'9' * 5000}]")),
    "shape 0": spec(stimulus=stimulus(shape="[1, 0, 4]")),
    "shape of two": spec(stimulus=stimulus(shape="[4, 4]")),
    "shape of a million": spec(stimulus=stimulus(shape="[" + "1, " * 1_000_000 + "1]")),
    "shape as a time": spec(stimulus=stimulus(shape="1:4:4")),
    "shape 20,000^2": spec(model=DEAF, stimulus=stimulus(shape="[3, 20000, 20000]")),
    "spectrum 1e308": spec(stimulus=stimulus(spectrum="1.0e+308")),
    "spectrum of 20,000^2": spec(
        model=DEAF,
        stimulus=stimulus(shape="[1, 20000, 20000]", spectrum="1.0"),
    ),
    "cell 0": spec(stimulus=stimulus(cell="0")),
    "cell 2^40": spec(stimulus=stimulus(cell=f"{2**40}")),
    "batch 2^40": spec(numerics=f"{{batch: {2**40}}}"),
    "batch 10^9 of 2 10^9": spec(samples="2000000000", numerics="{batch: 1000000000}"),
    "a million threads": spec(numerics="{batch: 50, threads: 1000000}"),
    "a million segments": spec(execution="{shard: 1, segments: 1000000}"),
    "10^9 segments": spec(execution="{segments: 1000000000}"),
    "patience 1e308": spec(execution="{patience: 1.0e+308}"),
    "responses of 100,000": spec(responses="[" + "label, " * 100_000 + "label]"),
    "units of 300,000": digits(
        target="{layer: conv1, " + CENTRE + ", units: [" + "0, " * 300_000 + "0]}",
    ),
    "a layer with two bars": digits(target="{layer: __class__, units: [0], " + CENTRE + "}"),
    "standard deviation 0": spec(normalise="{mean: [0.0], std: [0.0]}"),
    "standard deviation .nan": spec(normalise="{mean: [.nan], std: [1.0]}"),
    "standard deviation 1e-320": spec(normalise="{mean: [0.0], std: [1.0e-320]}"),
    "classes of 10^9": digits(stimulus=f"{{{IMAGES}, classes: '0:1000000000'}}"),
    "classes from 99999 to 1": digits(stimulus=f"{{{IMAGES}, classes: '99999:1:1'}}"),
    "data set is a list": digits(stimulus=f"{{{IMAGES}}}".replace("mnist", "[1.5]")),
    "data set is a path": digits(stimulus=f"{{{IMAGES}}}".replace("mnist", "../../etc/passwd")),
    "data set is markup": digits(stimulus=f"{{{IMAGES}}}".replace("mnist", "'[/red]'")),
    "scored on a list": spec(evaluation="[1.5]"),
    "scored on a mapping of a list": spec(evaluation="{dataset: [1.5]}"),
    "a basis of a list": digits(stimulus=f"{{{MIXED}, basis: [gabor]}}"),
    "a basis of 10^9": digits(
        stimulus=f"{{{MIXED}, basis: {{kind: pca, dataset: mnist, components: 1000000000}}}}",
    ),
}

NETWORK = "network: logistic\ndataset: mnist\nepochs: 1\nimages: 5\nvalidation: 10\nbatch: 16\n"
SIGNALS = "model: bundled:mnist-cnn\nsignals: {dataset: mnist, classes: [5, 6], images: 5}\n"
NOISE = "noise: {kind: uniform, offset: 0.5, scale: 0.5}\ngammas: [0]\n"
GAMMAS = ", ".join(f"{i / 100_000}" for i in range(100_000))
FAR = "{images: 1, from: 1, to: 10000000000000000000, trigger: C}"
OTHERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "trials of a data set that is a list": (SIGNALS.replace("mnist,", "[1.5],"), RUN),
    "trials of a data set that is a mapping": (SIGNALS.replace("mnist,", "{a: []},"), RUN),
    "trials of 10^9 repeats": (SIGNALS + NOISE + "repeats: 1000000000\n", PLAN),
    "trials of 10^5 gammas": (SIGNALS + f"gammas: [{GAMMAS}]\n", PLAN),
    "trials with a weight of 1e308": (SIGNALS + "attack: {by: fgsm, weights: [1.0e+308]}\n", PLAN),
    "trials with an attack of a run nowhere": (
        SIGNALS + f"attack: {{by: map, run: '{KEYED}', weights: [0.1]}}\n",
        PLAN,
    ),
    "a covariance of a run nowhere": ("run: nowhere\n", RUN),
    "a covariance of a URL with a key": (f"run: '{KEYED}'\n", RUN),
    "a covariance of a URL with a password": (f"run: '{LOGIN}'\n", RUN),
    "a covariance of a pipe": ("run: FILES/pipe\n", RUN),
    "a covariance for a terminal": ('run: "\\e[2J"\n', RUN),
    "a training of 10^9 seeds": (NETWORK + "seeds: 1000000000\n", TRAIN),
    "a training of a panel of 10^9": (NETWORK + "panel: {clean: 1000000000}\n", TRAIN),
    "a training at a rate of 1e308": (NETWORK + "optimiser: {rate: 1.0e+308}\n", TRAIN),
    "a training for a terminal": (NETWORK.replace("logistic", '"\\e[2J"'), TRAIN),
    "a training on a list": (NETWORK.replace("mnist", "[1.5]"), TRAIN),
    "a training with a trigger far away": (NETWORK + f"poison: {FAR}\n", TRAIN),
    "a training that is planned": (NETWORK, PLAN),
    "a training with seeds twice": (NETWORK + "seeds: [1]\nseeds: [2]\n", TRAIN),
}

TEN = ", ".join(f"v{i}: {{seed: {i}}}" for i in range(10))
SWEEPS = {
    "of 10^9": "".join(f"  a{i}: {{{TEN}}}\n" for i in range(9)),
    "of 400": "  a: {" + ", ".join(f"v{j}: {{seed: {j}}}" for j in range(400)) + "}\n",
    "of 2,001": "  a: {" + ", ".join(f"v{j}: {{seed: {j}}}" for j in range(2001)) + "}\n",
    "of itself": "  a: &s {b: *s}\n",
    "in a sweep": "  a: {b: {sweep.a.b: 1}}\n",
    "that leads out": "  a: {'..': {seed: 1}}\n",
    "that leads out below": "  a: {'a/../../x': {seed: 1}}\n",
    "with a line end": '  a: {"b\\n": {seed: 1}}\n',
    "for a terminal": '  a: {"\\e[2J": {seed: 1}}\n',
    "of markup": "  a: {'[/red]': {seed: 1}}\n",
    "of an axis of markup": "  '[/red]': {a: {seed: 1}}\n",
    "of 500 axes": "".join(f"  a{i}: {{v: {{seed: {i}}}}}\n" for i in range(500)),
    "of no axes": "  {}\n",
    "of an axis of nothing": "  a: {}\n",
    "of a number": "  5\n",
    "of a list": "  [a, b]\n",
    "named as the spec": "  a: {spec.json: {seed: 1}, b: {seed: 2}}\n",
    "named true": "  a: {yes: {seed: 1}, no: {seed: 2}}\n",
    "named by numbers": "  a: {1: {seed: 1}, 1.0: {seed: 2}}\n",
    "with changes of depth": "  a: {b: {" + ".".join(["x"] * 5000) + ": 1}}\n",
    "with changes without names": "  a: {b: {'...': 1, '': 2}}\n",
    "with changes of the model": "  a: {b: {model: 'python:os:getcwd'}, c: {model: 5}}\n",
    "with bombs": "  a: &a [x, x]\n  b: &b [*a, *a]\n",
}

DEVICES = ["/dev/zero", "/dev/urandom", "/dev/stdin", "/dev/tty", "/dev/kmsg", "/proc/self/environ"]
DEVICES += ["/proc/self/mem", "/tmp"]
PLACES = [*DEVICES, "x" * 5000]
PLACES += ["/etc/passwd", "$HOME/x.npy", "~/x.npy", "mean:nope", "mean:[/red]", "bundled:x"]
PLACES += ["[/red]", "nonesuch://x", "reference::file://x", "simplecache::file:///etc/passwd"]
PLACES += ["filecache::file:///etc/passwd", "memory://x", "http://127.0.0.1:9/x.npy"]
PLACES += ["zip://x::FILES/bomb.npy", "github://a:b@/x", "jupyter://x", "ftp://127.0.0.1:9/x"]
SECRETS = [KEYED, LOGIN, SIGNED, f"simplecache::{KEYED}", f"ftp://u:{SECRET}@127.0.0.1:9/x"]
SECRETS += [f"https://127.0.0.1:9/x?sig={SECRET}"]
URLS = [KEYED, LOGIN, SIGNED, "nonesuch://x", "\x1b[2J", "[/red]", "x" * 5000, "a\nb"]
READ_ONLY = ["", "/dev/zero", "/dev/null", "file:///nowhere", "reference::file://x"]
READ_ONLY += ["zip://x::nowhere"]

OFFSETS = ["pipe", "folder.npy", "nowhere.npy", "itself.npy", "empty.npy", "objects.npy"]
OFFSETS += ["pickle.npy", "nan.npy", "whole-pickle.npy", "infinite.npy", "other-end.npy"]
OFFSETS += ["complex.npy", "text.npy", "columns.npy", "huge.npy", "beyond.npy", "whole.npy"]
OFFSETS += ["true.npy", "times.npy", "sparse.npy", "said.npy", "said-sparse.npy", "no-values.npy"]
OFFSETS += ["deep.npy", "code.npy", "bomb.npy", "net.pt2"]
WEIGHTS = ["pipe", "folder.npy", "empty.npy", "sparse.safetensors", "sparse-header.safetensors"]
WEIGHTS += ["lie.safetensors", "deep.safetensors", "sparse.pt", "bomb.pt", "pickle.pt"]
WEIGHTS += ["whole-pickle.pt", "pickle.npy", "net.pt2"]
EXPORTS = ["pipe", "folder.npy", "empty.npy", "sparse.pt2", "bomb.pt2", "deep.pt2", "weights.pt"]
EXPORTS += ["whole-pickle.pt"]
TRAINED = ["pipe", "folder.npy", "nowhere.npy", "trained-pipe", "trained-sparse", "trained-deep"]
TRAINED += ["trained-zero"]
MODELS = ["x", ":", "bundled:", "bundled:x", "bundled:mnist-cnn?", "bundled:mnist-cnn?x"]
MODELS += ["[/red]:x", "export:", "trained:", "bundled:mnist-cnn?layer=__class__"]
MODELS += ["bundled:mnist-cnn?layer=conv1.weight", "bundled:mnist-cnn?layer="]
MODELS += ["bundled:mnist-cnn?seed=99999999999999999999", "bundled:mnist-cnn?weights=", "python:os"]
MODELS += ["python:os:getcwd", "python:os:no", "python::", "python:..x:y", "python:[/red]:x"]
MODELS += ["python:a.b.c.d:e", "python:x\\n:y", "\\e[2J:x", "hub:x", "torchvision:x"]
MODELS += ["torchvision:resnet18?weights=nope", "torchvision:get_model", "torchvision:__class__"]
MODELS += ["torchvision:list_models", "timm:x", "timm:[/red]"]
MODELS += ["", f"bundled:{'x' * 100_000}"]
SETS = ["samples=yes", "samples=1:30:00", "samples=*a", "samples=", "=1", "samples"]
SETS += ["stimulus.scale=.nan", "a.b.c=1", "model.x=1", "...=1"]
SETS += ["samples=!!python/name:trap_for_tests.x", "\x1b[2J=1", "samples=\x1b[2J", "[/red]=1"]
SETS += ["samples=[/red]", 'samples="\\ud800"', "stimulus.shape=1:4:4", "full=5", "numerics=5"]
SETS += ["samples=2026-01-01", "samples=0o17"]
SETS += [f"samples={'9' * 5000}", f"samples=[{'[' * 5000}", f"samples={'x' * 100_000}"]
SETS += [".".join(["x"] * 3000) + "=1", "samples=&a [*a]", "sweep={a: {b: {seed: 1}}}"]
SETS += [f"model=bundled:mnist-cnn?weights={LOGIN}", f"stimulus.offset={KEYED}"]
MEANT = ["stimulus={kind: gaussian, kind: uniform}", "samples=yes", "samples=1:30:00"]
SPECS = ["zero.yaml", "sparse.yaml", "folder.yaml", "whole-pickle.pt"]


def cases() -> list[Case]:
    """The table."""
    asked = [(name, url) for url in (*URLS, *READ_ONLY) for name in ("status", "verify", "report")]
    return [
        *(Case("yaml", name, text) for name, text in YAML.items()),
        *(Case("twice", name, text, refused=True) for name, text in TWICE.items()),
        *numbers(),
        *(Case("values", name, text, PLAN) for name, text in VALUES.items()),
        *(Case("others", name, text, argv) for name, (text, argv) in OTHERS.items()),
        *(Case("sweeps", name, f"sweep:\n{text}{spec()}", PLAN) for name, text in SWEEPS.items()),
        *files(),
        *secrets(),
        *(Case("models", f"model {uri[:50]}", spec(model=f'"{uri}"'), PLAN) for uri in MODELS),
        *(Case("changes", change[:50], spec(), (*PLAN, "--set", change)) for change in SETS),
        *(Case("changes", f"refused {c}", spec(), (*PLAN, "--set", c), True) for c in MEANT),
        *(Case("urls", f"out {url[:30]!r}", brief(), (*RUN[:-1], url)) for url in URLS),
        *(Case("urls", f"{name} {url[:30]!r}", "", (name, url)) for name, url in asked),
        *(Case("files", name, "", ("plan", f"FILES/{name}")) for name in SPECS),
    ]


def brief() -> str:
    """A spec that does not wait for a storage."""
    return spec(execution="{patience: 1}")


def numbers() -> list[Case]:
    """Numbers that are none, and numbers that are hardly any."""
    scale = [(n, spec(stimulus=stimulus(scale=n))) for n in NO_NUMBERS]
    odd = [(f"{n[:20]}, {len(n)} characters", spec(samples=n)) for n in ODD_NUMBERS]
    return [
        *(Case("numbers", f"samples {n}", spec(samples=n), PLAN, refused=True) for n in NO_NUMBERS),
        *(Case("numbers", f"scale {n}", text, PLAN, refused=True) for n, text in scale),
        *(Case("numbers", f"samples {name}", text, PLAN) for name, text in odd),
    ]


def files() -> list[Case]:
    """Files and places that a spec names."""
    places = [(place[:40], spec(stimulus=stimulus(offset=json.dumps(place)))) for place in PLACES]
    offsets = [(name, spec(stimulus=stimulus(offset=f"FILES/{name}"))) for name in OFFSETS]
    return [
        *(Case("offsets", f"place {name}", text, PLAN) for name, text in places),
        *(Case("offsets", name, text) for name, text in offsets),
        *(Case("weights", f"place {place[:40]}", layered(place), PLAN) for place in PLACES),
        *(Case("weights", name, layered(f"FILES/{name}")) for name in WEIGHTS),
        *(Case("exports", name, spec(model=f"export:FILES/{name}")) for name in EXPORTS),
        *(Case("trained", name, digits(model=f"trained:FILES/{name}")) for name in TRAINED),
        *(Case("trained", name, digits(model=f"trained:{name}"), PLAN) for name in DEVICES),
    ]


def secrets() -> list[Case]:
    """URLs with passwords and signatures, of which no server is there."""
    offset = [(url, spec(stimulus=stimulus(offset=f"'{url}'"))) for url in SECRETS]
    weights = [(url, layered(url)) for url in SECRETS]
    trained = [(url, spec(model=f"'trained:{url}'")) for url in SECRETS]
    exports = [(url, spec(model=f"'export:{url}'")) for url in SECRETS]
    endpoints = [(url, spec(execution=f"{{endpoint: '{url}', patience: 1}}")) for url in SECRETS]
    return [
        *(Case("secrets", f"offset {url}", text, refused=True) for url, text in offset),
        *(Case("secrets", f"weights {url}", text, refused=True) for url, text in weights),
        *(Case("secrets", f"trained {url}", text, refused=True) for url, text in trained),
        *(Case("secrets", f"export {url}", text, refused=True) for url, text in exports),
        *(Case("secrets", f"endpoint {url}", text) for url, text in endpoints),
    ]
