"""Layers and combinators that take a context."""

import flowdists as fd
from flowdists.transformers import ShiftScale
from tests.table.layers import OF_ONE_DIMENSION, autoregressive, coupling
from tests.table.record import Entry
from tests.table.sizes import SMALL, SPLINE


def embedded(key):
    """A coupling on sets of three elements."""
    network = fd.DeepSets(key, 2, 4, hidden_sizes=(6,), activation="tanh")
    return fd.Embedded(coupling(key, 3, context_shape=(4,)), (3, 2), embedding=network)


CONDITIONAL_LAYERS = (
    Entry(
        "conditional:context_elementwise",
        fd.ContextElementwise,
        lambda key: fd.ContextElementwise(
            key, (2, 2), (2,), transformer=SPLINE, hidden_sizes=(6,), activation="tanh"
        ),
    ),
    Entry(
        "conditional:context_elementwise_linear",
        fd.ContextElementwise,
        lambda key: fd.ContextElementwise(
            key, (3,), (2,), transformer=ShiftScale(), hidden_sizes=()
        ),
    ),
    Entry(
        "conditional:context_elementwise_scalar",
        fd.ContextElementwise,
        lambda key: fd.ContextElementwise(
            key,
            (),
            (2, 2),
            transformer=ShiftScale(),
            conditioner=fd.MLP(key, 4, 2, hidden_sizes=(6,)),
        ),
    ),
    Entry(
        "conditional:affine_coupling",
        fd.AffineCoupling,
        lambda key: coupling(key, context_shape=(2,)),
    ),
    Entry(
        "conditional:affine_coupling_scalar_context",
        fd.AffineCoupling,
        lambda key: coupling(key, 3, context_shape=()),
    ),
    Entry(
        "conditional:spline_coupling_residual",
        fd.SplineCoupling,
        lambda key: fd.SplineCoupling(key, (4,), context_shape=(2, 2), residual=True, **SMALL),
    ),
    Entry(
        "conditional:autoregressive",
        fd.MaskedAutoregressive,
        lambda key: autoregressive(key, context_shape=(2,)),
    ),
    Entry(
        "conditional:autoregressive_1d",
        fd.MaskedAutoregressive,
        lambda key: autoregressive(key, size=1, context_shape=(2,)),
        exempt=OF_ONE_DIMENSION,
    ),
    Entry(
        "conditional:autoregressive_residual_spline",
        fd.MaskedAutoregressive,
        lambda key: autoregressive(key, context_shape=(2,), residual=True, transformer=SPLINE),
    ),
    Entry(
        "conditional:inverse",
        fd.Inverse,
        lambda key: fd.Inverse(autoregressive(key, context_shape=(2,))),
    ),
    Entry("conditional:embedded", fd.Embedded, embedded),
    Entry(
        "conditional:embedded_normalization",
        fd.Embedded,
        lambda key: fd.Embedded(autoregressive(key, context_shape=()), ()),
    ),
    Entry(
        "conditional:chain",
        fd.Chain,
        lambda key: fd.Chain([fd.LULinear(key, (4,)), coupling(key, context_shape=(2,))]),
    ),
    Entry(
        "conditional:repeat",
        fd.Repeat,
        lambda key: fd.Repeat(key, lambda k: coupling(k, context_shape=(2,)), 3),
    ),
)
