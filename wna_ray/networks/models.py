"""Models by URI.

    bundled:mnist-cnn                           shipped with the package
    torchvision:resnet50?weights=IMAGENET1K_V2  any torchvision classifier (or from its cache)
    timm:NAME?pretrained=true                   any timm model (pip install 'wna-ray[timm]')
    python:package.module:factory?key=value     your own function that returns a torch.nn.Module
    export:model.pt2                            a program saved by torch.export
    trained:runs/cnn/seed-0                     a network that wna train has trained; pixels in
                                                [0, 1] as they are

To each may be added ``weights=PATH`` (safetensors, or a state dict that
``torch.load(weights_only=True)`` reads; not for export and trained, which have their own) and
``layer=NAME`` (take that module's output, flattened, instead of the network's). A relative PATH is
relative to the working directory; PATH may be any fsspec URL. ``$NAME`` in a local PATH is the
environment's, and so is a PATH that is one variable alone; in the URL of another machine a variable
is refused. ``seed=N`` (bundled, torchvision, timm) is the same network untrained: its weights are
drawn anew, and are the same on every machine with the same torch. Without weights and seed, N is
0. ``part=decoder`` (trained autoencoders) is the half of it that makes pictures of codes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar
from urllib.parse import unquote

import safetensors.torch
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from wna_ray.errors import ModelError, near
from wna_ray.files import expanded, read_file
from wna_ray.networks import architectures as networks
from wna_ray.networks import trained
from wna_ray.networks.autoencoders import Autoencoder
from wna_ray.networks.checkpoint_files import kind_of
from wna_ray.networks.checkpoints import load_weights
from wna_ray.networks.exported.archive import Refused
from wna_ray.networks.exported.reader import load_exported
from wna_ray.networks.factories import network_of, require_function
from wna_ray.networks.heads import head_of, take_channels
from wna_ray.networks.units import Tap
from wna_ray.specs.numerics import NormaliseSpec
from wna_ray.text import MODEL_SCHEMES, first_line, redacted

SCHEMES = MODEL_SCHEMES
COMMON = ("weights", "layer", "weights_key")  # options of every scheme
BUNDLED: dict[str, Callable[[], nn.Module]] = {"mnist-cnn": networks.mnist_cnn}
BUNDLED_SHAPES = {"mnist-cnn": (1, 28, 28)}
MOST_EXPORTED = 16 << 30  # bytes of an exported program, which says itself how large it is

T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """A loaded network, in eval mode, on the CPU, in float32.

    Attributes
    ----------
    module
        Takes ``(n, C, H, W)``, gives ``(n, k)`` (or anything that flattens to it).
    source
        The URI without paths: what the network is, apart from its numbers.
    digest
        SHA-256 of the state dict (names, dtypes, shapes, bytes), or of the exported file.
    names
        Class names if the source knows them, else empty.
    normalise
        Normalisation between pixel space and input if the source declares one.
    shape
        ``(C, H, W)`` that it must be fed, where the source says so.
    """

    module: nn.Module
    source: str
    digest: str
    names: tuple[str, ...] = ()
    normalise: NormaliseSpec | None = None
    shape: tuple[int, int, int] | None = None


_BETWEEN = re.compile(r"&(?=[A-Za-z_]\w*=)")  # options; any other & is part of a value


def _decoded(value: str) -> str:
    """A value of a URI: percent signs are escapes, unless a file has them in its name."""
    return value if "%" in value and os.path.exists(value) else unquote(value)


@dataclass(frozen=True)
class ModelURI:
    """A model URI taken apart.

    Options are ``key=value``, with ``&`` between them. A plus is a plus; ``%26`` is a ``&`` where
    what follows it would be another option.
    """

    scheme: str
    name: str
    options: Mapping[str, str]

    @classmethod
    def parse(cls, uri: str) -> ModelURI:
        """Take a URI apart; `ModelError` where it is none."""
        scheme, colon, rest = uri.partition(":")
        name, _, query = rest.partition("?")
        if not colon or not name or scheme not in SCHEMES:
            fault = f"has an unknown scheme, {scheme}" if colon and name else "is not SCHEME:NAME"
            raise ModelError(f"model: '{uri}' {fault}; the schemes are {', '.join(SCHEMES)}")
        options = dict[str, str]()
        for part in _BETWEEN.split(query) if query else ():
            key, equals, value = part.partition("=")
            if not equals or not key:
                raise ModelError(
                    f"model: what follows the question mark of '{uri}' is not key=value&key=value"
                )
            options[key] = _decoded(value)
        return cls(scheme, name, options)

    @property
    def weights_path(self) -> str | None:
        """The file that ``weights=`` names, or None where it names a torchvision weights entry
        or is absent.
        """
        value = self.options.get("weights")
        named = self.scheme == "torchvision" and value and not set("/.$") & set(value)
        return None if named else value


def require_there(uri: str) -> None:
    """Find out at once what is wrong with a model's URI, where no network has to be made for it.

    Raises
    ------
    ModelError
        There is no such scheme, module, function, option, or local file.
    """
    parsed = ModelURI.parse(uri)
    if parsed.scheme == "python":
        require_function(*_function_of(parsed))
    paths = {"export": parsed.name, "trained": f"{parsed.name.rstrip('/')}/{trained.DESCRIPTION}"}
    path = paths.get(parsed.scheme, parsed.weights_path)
    if path is not None and "://" not in path and not os.path.exists(expanded(path)):
        raise ModelError(f"model: no file '{path}'; {uri} names it")


def load(uri: str) -> Model:
    """Load a model.

    Raises
    ------
    ModelError
        An unknown scheme, name, option, layer or weights entry; a missing or unreadable file;
        weights that do not fit. The message lists what would do.
    """
    parsed = ModelURI.parse(uri)
    make = {
        "bundled": _bundled,
        "torchvision": _torchvision,
        "timm": _timm,
        "python": _python,
        "export": _export,
        "trained": _trained,
    }[parsed.scheme]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(_seed(parsed) or 0)
        model = make(parsed)
    module = model.module
    if parsed.weights_path is not None:
        if parsed.scheme in ("export", "trained"):
            what = "an exported program" if parsed.scheme == "export" else "a trained network"
            raise ModelError(f"model: '{uri}': {what} holds its own weights; leave weights= out")
        classes = parsed.scheme in ("torchvision", "timm")
        key = parsed.options.get("weights_key")
        load_weights(module, parsed.weights_path, key, classes=classes)
    elif "weights_key" in parsed.options:
        raise ModelError(
            f"model: '{uri}': weights_key= says what of a file; give weights=PATH, too"
        )
    if parsed.scheme != "export":  # an exported program is fixed; torch refuses .eval() on it
        _freeze(module, uri)
    digest = model.digest or state_digest(module)
    names = model.names
    if (layer := parsed.options.get("layer")) is not None:
        module, names = _Layer(module, layer), ()
    kept = {
        k: v
        for k, v in parsed.options.items()
        if k != "weights_key" and (k != "weights" or parsed.weights_path is None)
    }
    name = model.source if parsed.scheme in ("export", "trained") else parsed.name  # never a path
    source = f"{parsed.scheme}:{name}" + (
        "?" + "&".join(f"{k}={redacted(v)}" for k, v in sorted(kept.items())) if kept else ""
    )
    return Model(module, source, digest, names, model.normalise, model.shape)


def _seed(uri: ModelURI) -> int | None:
    """The seed of an untrained network; None where none is given. Functions of ``python:`` read
    theirs themselves.
    """
    text = uri.options.get("seed") if uri.scheme != "python" else None
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) >= 1 << 63:
        raise ModelError(
            f"model: seed={text} in {uri.scheme}:{uri.name} is no whole number from 0 to 2^63 - 1"
        )
    if uri.options.get("weights") or uri.options.get("pretrained", "false").lower() != "false":
        raise ModelError(
            f"model: seed={text} draws weights for {uri.scheme}:{uri.name}, which has weights"
            " already; leave one of them out"
        )
    return int(text)


def _freeze(module: nn.Module, uri: str) -> None:
    """Eval mode, and no gradients of weights; `ModelError` for networks that have none yet, or
    whose weights cannot be told apart.
    """
    lazy = [name for name, value in module.named_parameters() if is_lazy(value)]
    if lazy:
        raise ModelError(
            f"model: {uri} has layers that find their sizes in the first forward pass ({lazy[0]},"
            " ...); let the function feed it once before it returns it, network(torch.zeros(1,"
            " C, H, W))"
        )
    if isinstance(module, torch.jit.ScriptModule) and not module.state_dict():
        raise ModelError(
            f"model: {uri} is a TorchScript program with its weights built in (torch.jit.freeze),"
            " which cannot be told apart; give it as it was before"
        )
    module.eval()
    for value in module.parameters():
        value.requires_grad_(False)


def state_digest(module: nn.Module) -> str:
    """SHA-256 over the state dict in name order: name, dtype, shape, bytes of each tensor.

    Raises
    ------
    ModelError
        It holds something that is no tensor, such as packed weights of a quantised layer.
    """
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if not isinstance(value, torch.Tensor) or value.is_quantized:
            raise ModelError(
                f"model: '{name}' of the network is no plain tensor ({type(value).__name__}), as of"
                " layers quantised by torch.ao; give the network as it was before, or export it by"
                " torch.export and give export:PATH"
            )
        value = value.detach().cpu().contiguous()
        total.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


class _Layer(Tap):
    """The output of one inner module, flattened to ``(n, k)``."""

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__(network, layer, "model")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).flatten(1)


def _known_options(uri: ModelURI, *known: str) -> None:
    unknown = set(uri.options) - {*COMMON, *known}
    if unknown:
        raise ModelError(
            f"model: {uri.scheme}:{uri.name} has no option '{min(unknown)}'; it takes"
            f" {', '.join((*COMMON[:2], *known, *COMMON[2:]))}"
        )


def _bundled(uri: ModelURI) -> Model:
    _known_options(uri, "seed")
    if uri.name not in BUNDLED:
        raise ModelError(f"model: no bundled model '{uri.name}'; bundled are {', '.join(BUNDLED)}")
    module = BUNDLED[uri.name]()
    if "seed" not in uri.options:
        data = files("wna_ray").joinpath("bundled", f"{uri.name}.safetensors").read_bytes()
        module.load_state_dict(safetensors.torch.load(data))
    names = tuple(str(digit) for digit in range(10))
    identity = NormaliseSpec(mean=(0.0,), std=(1.0,))  # trained on pixels in [0, 1] as they are
    return Model(module, "", "", names, identity, BUNDLED_SHAPES[uri.name])


def _torchvision(uri: ModelURI) -> Model:
    import torchvision

    _known_options(uri, "seed", "num_classes", "in_chans")
    known = torchvision.models.list_models(module=torchvision.models)
    if uri.name not in known:
        raise ModelError(
            f"model: torchvision has no classifier '{uri.name}'; near it are"
            f" {near(uri.name, known)}"
        )
    entries: Any = torchvision.models.get_model_weights(uri.name)
    entry = entries.DEFAULT  # also tells the normalisation of models whose weights come from a file
    wanted = uri.options.get("weights") if uri.weights_path is None else None
    if wanted is not None:
        try:
            entry = entries[wanted]
        except KeyError:
            choices = ", ".join([*entries.__members__, "or a path to a file"])
            raise ModelError(
                f"model: {uri.name} has no weights '{wanted}'; it has {choices}"
            ) from None
    head = head_of(f"torchvision:{uri.name}", uri.options, wanted is not None)
    try:
        module = torchvision.models.get_model(
            uri.name, weights=None if wanted is None else entry, **head.classes
        )
    except OSError as error:  # of urllib, too: no network, and nothing in torch's cache
        raise ModelError(
            f"model: the weights {uri.name} {wanted} are not in torch's cache and could not be"
            f" downloaded ({error}); download them elsewhere and give weights=PATH"
        ) from None
    transform = entry.transforms()
    normalise: NormaliseSpec | None = NormaliseSpec(
        mean=tuple(transform.mean), std=tuple(transform.std)
    )
    names = () if head.classes else tuple(entry.meta.get("categories", ()))
    if head.channels is not None:
        take_channels(module, head.channels, f"torchvision:{uri.name}")
        normalise = None  # it was of three channels
    return Model(module, "", "", names, normalise)


def _timm(uri: ModelURI) -> Model:
    try:
        import timm
    except ImportError:
        raise ModelError(
            "model: timm: models need the package timm; pip install 'wna-ray[timm]'"
        ) from None
    _known_options(uri, "pretrained", "seed", "num_classes", "in_chans")
    name, _, tag = uri.name.partition(".")
    if ":" in name or "/" in name:
        raise ModelError(
            f"model: timm:{uri.name} would be read from a hub when it is loaded; give"
            " timm:NAME.TAG?pretrained=true, whose weights timm itself knows, or download the"
            " file and give weights=PATH"
        )
    if name not in timm.list_models():
        raise ModelError(
            f"model: timm has no model '{name}'; near it are {near(name, timm.list_models())}"
        )
    tagged = [n.partition(".")[2] for n in timm.list_pretrained(f"{name}.*")] if tag else []
    if tag and tag not in tagged:
        known = near(tag, filter(None, tagged)) if any(tagged) else "none"
        raise ModelError(f"model: timm:{name} has no weights '{tag}'; near it are {known}")
    pretrained = uri.options.get("pretrained", "false").lower()
    if pretrained not in ("true", "false"):
        raise ModelError(
            f"model: timm:{uri.name}: pretrained is '{pretrained}'; write true or false"
        )
    if tag and pretrained == "false" and not {"weights", "seed"} & set(uri.options):
        raise ModelError(
            f"model: timm:{uri.name} names trained weights, but without pretrained=true it is"
            " untrained; add pretrained=true, weights=PATH, or seed=0 for the untrained network"
        )
    head = head_of(f"timm:{uri.name}", uri.options, pretrained == "true")
    channels: dict[str, Any] = {} if head.channels is None else {"in_chans": head.channels}
    try:
        module = timm.create_model(
            uri.name, pretrained=pretrained == "true", **head.classes, **channels
        )
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"model: timm could not make {uri.name} ({first_line(error)}); give weights=PATH"
        ) from None
    config: Any = module.pretrained_cfg
    normalise = None
    if head.channels in (None, 3):
        normalise = NormaliseSpec(mean=tuple(config["mean"]), std=tuple(config["std"]))
    return Model(module, "", "", normalise=normalise)


def _python(uri: ModelURI) -> Model:
    return Model(network_of(*_function_of(uri)), "", "")


def _function_of(uri: ModelURI) -> tuple[str, str, dict[str, str]]:
    """Module, function and options of a ``python:`` model."""
    where, colon, factory = uri.name.partition(":")
    if not colon or "/" in where or where.endswith(".py"):
        guess = uri.name.replace("./", "").replace(".py", "").replace("/", ".")
        guess = guess if ":" in guess else ":".join(guess.rpartition(".")[::2])
        raise ModelError(
            f"model: 'python:{uri.name}' is no module and function; write"
            f" python:package.module:factory{f', such as python:{guess}' if ':' in guess else ''}"
        )
    return where, factory, {k: v for k, v in uri.options.items() if k not in COMMON}


def _export(uri: ModelURI) -> Model:
    _known_options(uri)
    data = read_file(uri.name, "an exported program (torch.export.save)", MOST_EXPORTED)
    try:
        module = load_exported(data)
    except MemoryError:
        raise
    except Refused as reason:
        raise ModelError(f"model: '{uri.name}' is refused: {reason}") from None
    except Exception as error:  # torch.export raises whatever its archive reader met
        raise ModelError(
            f"model: '{uri.name}' is not a program saved by torch.export ({kind_of(error)})"
        ) from None
    return Model(module, "", hashlib.sha256(data).hexdigest())


def load_decoder(uri: str) -> Model:
    """Load a network that makes pictures of codes: of a trained autoencoder its decoder. Errors
    as of `load`, of ``decoder:``.
    """
    try:
        parsed = ModelURI.parse(uri)
        if parsed.scheme == "trained" and "part" not in parsed.options:
            uri += ("&" if parsed.options else "?") + "part=decoder"
        return load(uri)
    except ModelError as error:
        raise ModelError(f"decoder: {str(error).removeprefix('model: ')}") from error


def describe(uri: ModelURI) -> trained.TrainedNetwork:
    """What the folder of a ``trained:`` model says of it; `ModelError` where it says nothing
    that can be believed.
    """
    path = f"{uri.name.rstrip('/')}/{trained.DESCRIPTION}"
    data = read_file(
        path,
        f"the {trained.DESCRIPTION} of a network that wna train has trained (DIR/seed-N)",
        trained.MOST_DESCRIPTION,
    )
    try:
        return trained.describe(data)
    except ValueError as reason:
        raise ModelError(
            f"model: '{path}' does not describe a trained network ({reason})"
        ) from None


def _trained(uri: ModelURI) -> Model:
    _known_options(uri, "part")
    folder, described = uri.name.rstrip("/"), describe(uri)
    try:
        module = described.untrained()
    except ValueError as reason:
        raise ModelError(
            f"model: '{folder}/{trained.DESCRIPTION}' does not describe a trained network"
            f" ({reason})"
        ) from None
    path = f"{folder}/{trained.WEIGHTS}"
    weights = read_file(
        path, f"the weights that belong to {trained.DESCRIPTION}", trained.most_bytes(module)
    )
    if hashlib.sha256(weights).hexdigest() != described.objects["weights.safetensors"]:
        raise ModelError(
            f"model: '{path}' is damaged or of another network: its SHA-256 is not the one in"
            f" {trained.DESCRIPTION}"
        )
    try:
        trained.fill(module, weights)
    except ValueError as reason:
        raise ModelError(
            f"model: '{path}' holds {reason}; expected those of {described.name}"
        ) from None
    identity = NormaliseSpec(mean=(0.0,) * described.shape[0], std=(1.0,) * described.shape[0])
    part = uri.options.get("part")
    if part is not None:
        if part != "decoder" or not isinstance(module, Autoencoder):
            what = (
                "an autoencoder has part=decoder"
                if isinstance(module, Autoencoder)
                else f"{described.name} is no autoencoder"
            )
            raise ModelError(f"model: '{uri.name}' has no part '{part}'; {what}")
        return Model(module.decoder, described.name, "", shape=module.code)
    names = () if described.autoencoder else described.classes
    return Model(module, described.name, "", names, identity, described.shape)
