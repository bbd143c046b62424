"""The rule of convolutions: where kernels meet images."""

import math
from collections import Counter

from modula_optax._infer._notes import settle
from modula_optax._infer._terms import Axis, Clue, UseKind
from modula_optax._infer._trace import Trace, axes_of
from modula_optax._infer._uses import AxisUse
from modula_optax._infer._values import NONE, Dim, Value, labels_of, params_in, plain, resize, unmarked
from modula_optax._jaxpr import Op


def convolution(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    image = settle(trace, op, ins[0])
    # what data looked up is one of several kernels
    kernel = ins[1] if ins[1].data else settle(trace, op, ins[1])
    numbers, shape = op.params["dimension_numbers"], trace.shape(op.outs[0])
    out_features, in_features, *window = numbers.rhs_spec
    groups = op.params["feature_group_count"]
    feature = kernel.dims[out_features]
    roles = {out_features: Axis.OUT, in_features: Axis.IN} | dict.fromkeys(window, Axis.TAP)
    if kernel.is_weight and not image.is_weight:
        groups = _record_convolution(trace, op, image, kernel, roles, groups)
    else:
        trace.refuse(op, (image, kernel))
    if kernel.is_activation:
        trace.note(labels_of(kernel.dims[in_features]), Clue.MATRIX_ROW)
        trace.note(labels_of(kernel.dims[out_features]), Clue.MATRIX_COLUMN)
        for maker in params_in([kernel.dims[in_features]]) & params_in([feature]):
            # the others are kernels of their own, one for each entry of a batch
            within = _within(feature, maker, groups)
            trace.use_as_kernel(op, kernel, maker, UseKind.CONV, roles, groups=within, deep=image.deep)
    dims = list(plain(shape))
    sources = [image.dims[numbers.lhs_spec[0]], feature, *(image.dims[i] for i in numbers.lhs_spec[2:])]
    for i, dim in zip(numbers.out_spec, sources, strict=True):
        dims[i] = resize(dim, shape[i])
    return Value(unmarked(tuple(dims)), data=True, deep=True)


def _within(feature: Dim, maker: int, groups: int) -> int:
    """How many groups a kernel has that there is one of for each entry of a batch."""
    return max(groups // math.prod(factor.size for factor in feature if maker not in params_in([(factor,)])), 1)


def _record_convolution(trace: Trace, op: Op, image: Value, kernel: Value, roles: dict[int, Axis], groups: int) -> int:
    """Records a use of every part of a kernel; returns how many groups are left within an atom."""
    left = groups
    numbers = op.params["dimension_numbers"]
    channels = labels_of(image.dims[numbers.lhs_spec[1]])
    for label in labels_of(kernel.dims[numbers.rhs_spec[1]]) if groups == 1 else ():
        trace.heads.taken(label, image.dims[numbers.lhs_spec[1]])
    for part in kernel.parts:
        axes = [
            AxisUse(axis, roles[i], factor.size, i, channels if roles[i] is Axis.IN else NONE)
            for i, axis, factor in axes_of(kernel, part)
        ]
        own = _within(kernel.dims[numbers.rhs_spec[0]], part.param, groups)
        # an axis of one output is lost where members are run as groups
        seen = {axis.axis for axis in axes} | {axis for axis, _ in part.fixed}
        has_inputs = part.param in params_in([kernel.dims[numbers.rhs_spec[1]]])
        lost = set(range(len(trace.shape(trace.parameters[part.param])))) - seen
        if groups > 1 and has_inputs and len(lost) == 1:
            axes.append(AxisUse(lost.pop(), Axis.OUT))
        axes, left = _split_off_batch(axes, own)
        trace.use(op, kernel, part, UseKind.CONV, axes, groups=left, deep=image.deep, weak=image.is_constant)
    _note_inputs(trace, image.dims[numbers.lhs_spec[1]], groups, groups // left)
    return left


def _note_inputs(trace: Trace, feature: Dim, groups: int, batches: int) -> None:
    """Channels of a group are contracted; of the groups, the slowest may be a batch of kernels."""
    for factor in feature:
        if groups > 1 and groups % factor.size == 0:
            groups //= factor.size
            if batches > 1 and batches % factor.size == 0:
                batches //= factor.size
                trace.note(factor.labels, Clue.BATCHED)
        else:
            trace.note(factor.labels, Clue.CONTRACTED)


def _split_off_batch(axes: list[AxisUse], groups: int) -> tuple[list[AxisUse], int]:
    """A batch of kernels is run as groups: their axis is the slowest of the merged output features."""
    outputs = [axis for axis in axes if axis.role is Axis.OUT]
    pieces = Counter(axis.axis for axis in outputs)
    left = groups
    for axis in outputs[:-1]:
        if left % axis.size:
            break
        left //= axis.size
        # channels of which each has several outputs are a part of their axis
        if pieces[axis.axis] == 1:
            groups //= axis.size
            axes = [other._replace(role=Axis.BATCH) if other is axis else other for other in axes]
    return axes, groups
