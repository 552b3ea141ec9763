"""Operators that an exported program may call, and what they may be given.

The operators of torch that `OPERATORS` names are trusted, with the arguments that their schemas
say. The file is not: what it calls must be on that list and have a schema of known types, words
must be on a closed list, and tensors whose shapes an operator does not compare itself are compared
here, when it is called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from wna_ray.networks.exported.archive import AGAIN, PYTHON, Refused, field, odd, single
from wna_ray.networks.exported.arguments import READERS, Known, words
from wna_ray.text import plain

OPERATORS = words("""
    abs absolute acos acosh add addcdiv addcmul angle arccos arccosh arcsin arcsinh arctan arctan2
    arctanh asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or
    bitwise_right_shift bitwise_xor ceil celu clamp clamp_max clamp_min clip conj conj_physical
    copysign cos cosh deg2rad digamma div divide elu eq erf erfc erfinv exp exp2 expm1 fix
    float_power floor floor_divide fmax fmin fmod frac ge gelu glu greater greater_equal gt
    hardshrink hardsigmoid hardswish hardtanh heaviside hypot i0 imag isclose isfinite isinf isnan
    isneginf isposinf isreal ldexp le leaky_relu lerp less less_equal lgamma log log10 log1p log2
    log_sigmoid log_sigmoid_forward logaddexp logaddexp2 logical_and logical_not logical_or
    logical_xor logit lt masked_fill maximum minimum mish mul multiply nan_to_num ne neg negative
    nextafter not_equal polar positive pow prelu _prelu_kernel rad2deg real reciprocal relu relu6
    remainder round rrelu rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc sinh softplus
    softshrink special_entr special_erf special_erfc special_expit special_expm1 special_log1p
    special_logit special_sinc special_xlog1py sqrt square sub subtract tan tanh threshold
    true_divide trunc where xlogy __and__ __or__ __xor__ __lshift__ __rshift__ __iand__ __ior__
    __ixor__

    all amax amin aminmax any argmax argmin argsort argwhere count_nonzero cummax cummin cumprod
    cumsum dist kthvalue logcumsumexp logsumexp max mean median min mode msort nanmean nanmedian
    nanquantile nansum norm nonzero nonzero_numpy prod quantile sort special_logsumexp std std_mean
    sum topk trace unique_consecutive var var_mean

    addbmm addmm addmv addr baddbmm bilinear bmm cdist _cdist_forward chain_matmul cosine_similarity
    cross det diag diag_embed diagflat diagonal dot einsum ger inner inverse kron linalg_cholesky
    linalg_cross linalg_det linalg_eigh linalg_eigvalsh linalg_inv linalg_matmul linalg_matrix_exp
    linalg_matrix_norm linalg_matrix_power linalg_multi_dot linalg_norm linalg_pinv linalg_qr
    linalg_slogdet linalg_solve linalg_svd linalg_svdvals linalg_vecdot linalg_vector_norm linear
    logdet matmul matrix_exp matrix_power mm mv outer pairwise_distance tensordot tril tril_indices
    triu triu_indices vdot

    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d
    _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d
    avg_pool2d avg_pool3d batch_norm channel_shuffle col2im conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d convolution embedding group_norm im2col instance_norm
    layer_norm max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices max_unpool2d max_unpool3d _native_batch_norm_legit
    _native_batch_norm_legit_functional _native_batch_norm_legit_no_training native_batch_norm
    native_channel_shuffle native_group_norm native_layer_norm norm_except_dim pixel_shuffle
    pixel_unshuffle renorm rms_norm _weight_norm _weight_norm_interface

    gru gru_cell lstm lstm_cell rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell

    log_softmax _log_softmax _safe_softmax scaled_dot_product_attention softmax _softmax
    special_log_softmax special_softmax

    affine_grid_generator grid_sampler grid_sampler_2d grid_sampler_3d upsample_bicubic2d
    _upsample_bicubic2d_aa upsample_bilinear2d _upsample_bilinear2d_aa upsample_linear1d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_trilinear3d

    bucketize gather index index_add index_copy index_fill index_put index_reduce index_select
    masked_scatter masked_select one_hot put scatter scatter_add scatter_reduce searchsorted take
    take_along_dim _unsafe_index

    alpha_dropout bernoulli dropout exponential feature_alpha_dropout feature_dropout native_dropout
    normal rand rand_like randint randint_like randn randn_like randperm uniform

    arange bartlett_window blackman_window cartesian_prod complex empty empty_like empty_permuted
    empty_strided eye fill full full_like hamming_window hann_window kaiser_window lift lift_fresh
    lift_fresh_copy linspace logspace meshgrid new_empty new_empty_strided new_full new_ones
    new_zeros ones ones_like scalar_tensor zero zeros zeros_like

    adjoint alias as_strided as_strided_scatter atleast_1d atleast_2d atleast_3d block_diag
    broadcast_tensors broadcast_to cat chunk clone column_stack concat concatenate constant_pad_nd
    contiguous copy detach diagonal_scatter diff dsplit dstack expand expand_as
    flatten flip fliplr flipud hsplit hstack mH mT matrix_H moveaxis movedim narrow numpy_T pad
    permute ravel reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj
    resolve_neg roll rot90 row_stack select select_scatter slice slice_scatter split
    split_with_sizes squeeze stack swapaxes swapdims t tensor_split tile to _to_copy transpose
    type_as unbind unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes
    _unsafe_view unsqueeze view view_as view_as_complex view_as_real vsplit vstack

    binary_cross_entropy_with_logits cross_entropy_loss huber_loss kl_div l1_loss mse_loss
    smooth_l1_loss

    _assert_async _assert_scalar _assert_tensor_metadata _functional_assert_async is_nonzero item
    _local_scalar_dense sym_constrain_range sym_constrain_range_for_size sym_numel sym_size
    sym_storage_offset sym_stride
""")
"""What of ``torch.ops.aten`` a program may call, in place too: what forward passes consist of.

Missing are what opens files or takes pointers, derivatives (they trust indices), packed and sparse
formats, and Fourier transforms: that of torch 2.15 into real numbers writes beyond its memory.
"""

_TYPES = words("""
    Tensor Optional[Tensor] List[Tensor] List[Optional[Tensor]] number Optional[number] int
    Optional[int] List[int] Optional[List[int]] float Optional[float] List[float]
    Optional[List[float]] bool Optional[bool] List[bool] str Optional[str] Device Optional[Device]
    List[number] Optional[Generator]
""")
_KNOWN_WORDS = words("""
    none tanh floor trunc constant reflect replicate circular ij xy same valid sum prod mean amax
    amin add multiply left right fro nuc reduced complete r linear lower higher midpoint nearest
    gesvd gesvdj gesvda
""")
_TARGET = re.compile(r"torch\.ops\.aten\.(\w{1,99})\.(\w{1,99})", re.ASCII)
_EQUATION = re.compile(r"[A-Za-z .,>-]{0,1000}")
_ASSERTED = "an assertion of the exported program"


def find_overload(target: str) -> torch._ops.OpOverload:
    """An operator that a program may call."""
    match = _TARGET.fullmatch(target)
    if match is None or OPERATORS.isdisjoint({match[1], match[1].removesuffix("_")}):
        raise Refused(f"it calls '{plain(target, 80)}', which is not on the list", PYTHON)
    packet = getattr(torch.ops.aten, match[1], None)
    if packet is None or match[2] not in packet.overloads():
        raise Refused(f"it calls '{target}', which this torch does not have", AGAIN)
    overload: torch._ops.OpOverload = getattr(packet, match[2])
    schema = schema_of(overload)
    types = {str(argument.type) for argument in schema.arguments}
    written = any(part.kwarg_only and part.alias_info is not None for part in schema.arguments)
    tensors = any("Tensor" in str(part.type) for part in (*schema.arguments, *schema.returns))
    checks = match[1].startswith(("_assert_", "sym_constrain_"))
    if not types <= _TYPES or written or not (tensors or checks):
        raise Refused(f"it calls '{target}', which is not on the list", PYTHON)
    return overload


def schema_of(overload: torch._ops.OpOverload) -> torch._C.FunctionSchema:
    """Names and types of an operator's arguments and results, which torch tells nowhere else."""
    return overload._schema  # noqa: SLF001


def read_arguments(
    overload: torch._ops.OpOverload,
    inputs: Sequence[Mapping[str, Any]],
    known: Known,
) -> tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]:
    """The arguments of an operator, as its schema orders them: by place, then by name."""
    given = {field(argument, "name", str): argument.get("arg") for argument in inputs}
    if len(given) != len(inputs):
        raise odd(f"'{overload}' in it is given an argument twice")
    positional: list[Any] = []
    named: list[tuple[str, Any]] = []
    for place, wanted in enumerate(schema_of(overload).arguments):
        if wanted.name in given:
            value = _argument(overload, wanted, given.pop(wanted.name), known)
            if wanted.kwarg_only or len(positional) < place:
                named.append((wanted.name, value))
            else:
                positional.append(value)
        elif not wanted.has_default_value():
            raise odd(f"'{overload}' in it lacks '{wanted.name}'")
    if given:
        raise odd(f"'{overload}' in it is given '{plain(min(given), 40)}'")
    return tuple(positional), tuple(named)


def _argument(
    overload: torch._ops.OpOverload,
    wanted: torch._C.Argument,
    value: Any,
    known: Known,
) -> Any:
    kind, inside = single(value, "an argument in it")
    if kind not in READERS:
        raise Refused(f"it gives '{overload}' {plain(kind, 40)}, which is no number", PYTHON)
    read = READERS[kind](inside, known)
    if not isinstance(read, str):
        return read
    if str(wanted.type) not in ("str", "Optional[str]"):
        raise odd(f"'{overload}' in it is given a word for '{wanted.name}'")
    if wanted.name in ("assert_msg", "msg"):
        return _ASSERTED
    if read in _KNOWN_WORDS or (wanted.name == "equation" and _EQUATION.fullmatch(read)):
        return read
    raise Refused(f"it gives '{overload}' the word '{plain(read, 40)}', which is unknown", PYTHON)


# Operators that leave it to their callers to check arguments.


def checked(overload: torch._ops.OpOverload) -> Callable[..., Any]:
    """An operator, called only where its arguments fit together."""
    schema = schema_of(overload)
    check = _CHECKS.get(schema.name.removeprefix("aten::"))
    if check is None:
        return overload
    names = [argument.name for argument in schema.arguments]

    def call(*arguments: Any, **named: Any) -> Any:
        if not check({**dict(zip(names, arguments, strict=False)), **named}):
            raise ValueError(f"{overload} was given tensors that do not fit together")
        return overload(*arguments, **named)

    return call


def _normalises(given: Mapping[str, Any]) -> bool:
    """Whether each channel has its weight, bias, mean and variance."""
    x = given["input"]
    parts = (given.get(key) for key in ("weight", "bias", "running_mean", "running_var"))
    return x.ndim >= 2 and all(part is None or part.shape == x.shape[1:2] for part in parts)


def _scales(given: Mapping[str, Any]) -> bool:
    """Whether each row or column of a weight has its length."""
    v, g, dim = given["v"], given["g"], given.get("dim", 0)
    lengths = [size if place == dim else 1 for place, size in enumerate(v.shape)]
    return dim in (0, v.ndim - 1) and list(g.shape) == lengths


def _attends(given: Mapping[str, Any]) -> bool:
    """Whether each key has its value."""
    key, value = given["key"], given["value"]
    return min(key.ndim, value.ndim) >= 2 and bool(key.shape[-2] == value.shape[-2])


def _recurs(gates: int) -> Callable[[Mapping[str, Any]], bool]:
    """Whether each layer of a recurrent network has the weights for its input and its state."""

    def check(given: Mapping[str, Any]) -> bool:
        x, states, weights = given.get("input"), given["hx"], given["params"]
        states = states if isinstance(states, list) else [states]
        if x is None or x.ndim != 3 or any(state.ndim != 3 for state in states):
            return False
        out, hidden = states[0].shape[2], states[-1].shape[2]
        ways, cells = 1 + given["bidirectional"], given["num_layers"] * (1 + given["bidirectional"])
        held = (cells, x.shape[1 - given["batch_first"]])
        if len(weights) < cells or any(state.shape[:2] != held for state in states):
            return False
        wanted: list[tuple[int, ...]] = []
        for place in range(cells):
            size = x.shape[2] if place < ways else out * ways
            wanted += [(gates * hidden, size), (gates * hidden, out)]
            wanted += [(gates * hidden,)] * 2 if given["has_biases"] else []
            wanted += [(out, hidden)] if out != hidden else []
        return [tuple(weight.shape) for weight in weights] == wanted

    return check


_CHECKS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "_native_batch_norm_legit": _normalises,
    "_native_batch_norm_legit_functional": _normalises,
    "_native_batch_norm_legit_no_training": _normalises,
    "native_batch_norm": _normalises,
    "_weight_norm": _scales,
    "_weight_norm_interface": _scales,
    "gru": _recurs(3),
    "lstm": _recurs(4),
    "rnn_relu": _recurs(1),
    "rnn_tanh": _recurs(1),
    "scaled_dot_product_attention": _attends,
}
