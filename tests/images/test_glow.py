"""Glow: its published density, its start from data, its options, its errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from numpyro.distributions import constraints

import flowdists as fd
from flowdists.images import GLOW_SIZES, ConvNet, ResidualConvNet
from flowdists.transformers import Additive, RationalQuadratic, ShiftScale
from tests.draws import drawn, normal
from tests.tolerances import AGREE_F32, LOG_DET_F64, ROUND_TRIP_F32

KEY = jax.random.key(0)
SMALL = {"num_scales": 2, "steps_per_scale": 2, "hidden_channels": 6}


def maker(event_shape=(4, 4, 2), **options):
    return functools.partial(fd.Glow, event_shape=event_shape, **{**SMALL, **options})


def glow(event_shape=(4, 4, 2), **options):
    """A Glow away from its start, at which priors and couplings are the identity."""
    return drawn(maker(event_shape, **options))


def images(batch=3, event_shape=(4, 4, 2)):
    return normal(1, (batch, *event_shape))


# The published formula, written without the layers of the library.


def space_to_depth(x):
    return jnp.concatenate([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=-1)


def correlate(x, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


def zero_conv(layer, x):
    return (correlate(x, layer.conv.kernel) + layer.conv.bias) * jnp.exp(3 * layer.log_gain)


def network(net, x):
    x = jax.nn.relu(correlate(x, net.input_layer.kernel) + net.input_layer.bias)
    x = jax.nn.relu(x @ net.hidden_layer.weight + net.hidden_layer.bias)
    return zero_conv(net.output_layer, x)


def step_by_hand(step, x):
    """One step towards the latents, and its log-determinant."""
    coupling, linear, act_norm = step.layers
    _, height, width, channels = x.shape
    x = (x - act_norm.loc) * jnp.exp(-act_norm.log_scale)
    log_det = -height * width * act_norm.log_scale.sum()
    below = np.array([(i, j) for i in range(channels) for j in range(i)]).T
    above = np.array([(i, j) for i in range(channels) for j in range(i + 1, channels)]).T
    lower = jnp.eye(channels).at[tuple(below)].set(linear.bijector.lower)
    upper = jnp.diag(jnp.exp(linear.bijector.log_diagonal))
    matrix = lower @ upper.at[tuple(above)].set(linear.bijector.upper)
    x = jnp.einsum("ij,nhwj->nhwi", matrix, x)
    log_det += height * width * jnp.linalg.slogdet(matrix)[1]
    kept, changed = jnp.split(x, 2, axis=-1)
    shift, raw = jnp.split(network(coupling.bijector.conditioner, kept), 2, axis=-1)
    scale = jax.nn.sigmoid(raw + 2) / jax.nn.sigmoid(2.0)
    x = jnp.concatenate([kept, changed * scale + shift], axis=-1)
    return x, log_det + jnp.log(scale).sum((1, 2, 3))


def published_log_prob(flow, x):
    """The sum over scales of Gaussian terms and of the steps' log-determinants."""
    total = 0.0
    *finer, last = flow.bijector.scales
    for scale in (*finer, last):
        prior, stack, _ = scale.layers
        x = space_to_depth(x)
        for i in reversed(range(len(stack))):
            x, log_det = step_by_hand(stack[i], x)
            total += log_det
        if scale is not last:
            x, factored = jnp.split(x, 2, axis=-1)
            loc, log_scale = jnp.split(zero_conv(prior.conditioner, x), 2, axis=-1)
            total += norm.logpdf(factored, loc, jnp.exp(log_scale)).sum((1, 2, 3))
    return total + norm.logpdf(x, prior.loc, jnp.exp(prior.log_scale)).sum((1, 2, 3))


@pytest.mark.parametrize(
    ("event_shape", "num_scales"), [((2, 2, 2), 1), ((4, 4, 3), 2), ((8, 8, 1), 3)]
)
def test_the_density_is_the_published_sum(event_shape, num_scales, x64):
    flow = glow(event_shape, num_scales=num_scales, scale="sigmoid")
    both = jax.jit(lambda flow, x: (flow.log_prob(x), published_log_prob(flow, x)))
    np.testing.assert_allclose(*both(flow, images(3, event_shape)), rtol=LOG_DET_F64)


def normalized(flow, x):
    """What comes out of every normalization on the way to the latents."""
    outputs = []
    for scale in flow.bijector.scales:
        prior, stack, squeeze = scale.layers
        x = squeeze.inverse(x)
        for i in reversed(range(len(stack))):
            coupling, linear, act_norm = stack[i].layers
            outputs.append(x := act_norm.inverse(x))
            x = linear.inverse(x)
            net = coupling.bijector.conditioner
            h = net.input_layer(x[..., : x.shape[-1] // 2])
            for norm_layer in net.norms:
                outputs.append(norm_layer(h))
                h = net.hidden_layer(jax.nn.relu(outputs[-1]))
            x = coupling.inverse(x)
        x = prior.inverse(x)
        x = x[..., : x.shape[-1] // 2]
    return outputs


def test_every_normalization_starts_from_the_data():
    """ActNorms at every step of every scale, and the networks' own; nothing else changes."""
    flow, x = glow((8, 8, 1), normalize=True), 0.3 + 0.2 * np.asarray(images(64, (8, 8, 1)))

    @jax.jit
    def init(flow, x):
        start = flow.data_init(x)
        return start, normalized(start, x)

    start, outputs = jax.tree.map(np.asarray, init(flow, x))
    assert len(outputs) == 2 * 2 * 3  # scales, steps, normalizations of each
    for out in outputs:
        np.testing.assert_allclose(out.mean((0, 1, 2)), 0.0, atol=1e-3)
        np.testing.assert_allclose(out.std((0, 1, 2)), 1.0, atol=1e-3)
    before, after = map(jax.tree_util.tree_leaves_with_path, (flow, start))
    for (path, a), (_, b) in zip(before, after, strict=True):
        name = jax.tree_util.keystr(path)
        assert np.array_equal(a, b) != (".norms" in name or ".layers.layers[2]" in name), name


# Options, and how many scales show them; the first is Glow as it is by default.
OPTIONS = {
    "affine": {},
    "additive": {"coupling": "additive", "learn_top": False, "residual": True, "num_scales": 1},
    "spline": {"coupling": "spline", "num_bins": 4, "num_scales": 1},
    "bfloat16": {"normalize": True, "activation": "tanh", "dtype": "bfloat16", "num_scales": 1},
}


@functools.cache
def evaluated(name):
    """Draws with their densities, as they come and once more; those of images with a NaN."""

    @jax.jit
    def evaluate(flow, x):
        draws, scores = flow.sample_and_log_prob(KEY, (5,))
        plain = fd.Flow(flow.base, flow.bijector, validate_args=False)
        again, undefined = jnp.split(plain.log_prob(jnp.concatenate([draws, x])), [5])
        return draws, scores, again, undefined

    x = np.array(images())
    x[1, 3, 2, 1] = np.nan
    return jax.tree.map(np.asarray, evaluate(glow(**OPTIONS[name]), x))


class TestOptions:
    @pytest.mark.parametrize("name", OPTIONS)
    def test_samples_have_the_density_of_log_prob(self, name):
        x, scores, again, _ = evaluated(name)
        # bfloat16 rounds what the two directions feed their networks, which differs, to 8 bits.
        tolerance = 1e-2 if name == "bfloat16" else ROUND_TRIP_F32
        assert x.shape == (5, 4, 4, 2) and x.dtype == np.float32
        np.testing.assert_allclose(again, scores, rtol=tolerance)

    @pytest.mark.parametrize("name", ["affine", "additive", "spline"])
    def test_nan_is_not_hidden(self, name):
        np.testing.assert_array_equal(np.isnan(evaluated(name)[-1]), [False, True, False])

    def test_options_reach_every_coupling(self):
        def coupling(**options):
            flow = jax.eval_shape(maker(**options), KEY)
            first, last = (
                scale.layers[1].layers.layers[0].bijector for scale in flow.bijector.scales
            )
            assert first.transformer == last.transformer
            return last

        assert coupling().transformer == ShiftScale(scale="tanh")
        assert coupling(scale="exp").transformer == ShiftScale(scale="exp")
        assert coupling(coupling="additive").transformer == Additive()
        spline = coupling(coupling="spline", num_bins=5, bound=2.0).transformer
        assert spline == RationalQuadratic(num_bins=5, bound=2.0)
        plain = coupling().conditioner
        assert isinstance(plain, ConvNet) and not plain.norms
        assert (plain.activation, plain.dtype) == ("relu", None)
        assert plain.hidden_layer.bias.shape[-1] == 6
        assert isinstance(coupling(residual=True).conditioner, ResidualConvNet)
        other = coupling(normalize=True, activation="tanh", dtype="bfloat16").conditioner
        assert (other.activation, other.dtype, len(other.norms)) == ("tanh", "bfloat16", 2)

    def test_a_single_scale_sets_nothing_aside(self):
        assert glow(num_scales=1).bijector.latent_shapes == ((2, 2, 8),)

    def test_learn_top_adds_two_numbers_per_channel(self):
        sizes = [
            sum(leaf.size for leaf in jax.tree.leaves(glow((8, 8, 1), learn_top=learn)))
            for learn in (True, False)
        ]
        assert sizes[0] - sizes[1] == 2 * 8  # 1 channel, times 4, halved, times 4

    def test_with_a_context_the_top_is_always_learned(self):
        with_top, without = (
            jax.eval_shape(maker(context_shape=(2,), learn_top=learn), KEY)
            for learn in (True, False)
        )
        assert jax.tree.structure(with_top.bijector) == jax.tree.structure(without.bijector)

    def test_labels_are_one_hot_contexts(self):
        flow, labels = glow(num_scales=1, num_classes=3), np.array([2, 0, 1])

        @jax.jit
        def densities(labels, one_hot, x):
            by_label = flow.condition(labels).log_prob(jnp.concatenate([x] * 3))
            return *jnp.split(by_label, 3), flow.condition(one_hot).log_prob(x)

        others = [(labels + 1) % 3, [2, 3, -1]]
        inputs = np.concatenate([labels, *others]), np.eye(3, dtype=np.float32)[labels], images()
        by_label, shifted, masked, one_hot = map(np.asarray, densities(*inputs))
        np.testing.assert_allclose(one_hot, by_label, rtol=AGREE_F32)
        assert not np.isclose(shifted, by_label).any()
        np.testing.assert_allclose(masked[0], by_label[0], rtol=AGREE_F32)
        assert np.isnan(masked[1:]).all()
        for wrong in (3, -1):
            with pytest.raises(
                ValueError, match=rf"`context` must hold labels from 0 to 2.*{wrong}"
            ):
                flow.condition(np.array([0, wrong]))

    def test_contexts_reach_every_part(self):
        flow = glow(context_shape=(2, 2), steps_per_scale=1)
        loss = lambda flow, x, context: flow.condition(context).log_prob(x).sum()
        gradient = jax.jit(jax.grad(loss))(flow, images(), normal(0, (3, 2, 2)))
        moved = {
            jax.tree_util.keystr(path): np.any(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        }
        assert sum("context_weight" in name for name in moved) == 4
        assert all(moved.values()), moved  # no parameter is left out

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"num_classes": 3, "context_shape": (3,)}, r"`num_classes` \(3\) and `context_shape`"),
            ({"num_classes": 0}, "`num_classes` must be an int of at least 1, got 0"),
            ({"coupling": "quadratic"}, "`coupling` must be one of"),
            ({"memory": "none"}, "`memory` must be one of"),
            ({"normalize": True, "residual": True}, "`normalize` must be False for a residual"),
            (
                {"event_shape": (28, 28, 1), "num_scales": 3},
                r"multiples of 8.*\(24, 24, 1\) and \(32, 32, 1\)",
            ),
            ({"event_shape": (8, 8)}, r"`event_shape` must be \(height, width, channels\)"),
        ],
    )
    def test_refused(self, options, match):
        with pytest.raises(ValueError, match=match):
            jax.eval_shape(maker(**options), KEY)

    @pytest.mark.parametrize("size", sorted(GLOW_SIZES))
    def test_published_sizes_are_consistent(self, size):
        flow = jax.eval_shape(functools.partial(fd.Glow, **GLOW_SIZES[size]), KEY)
        assert flow.event_shape == GLOW_SIZES[size]["event_shape"]
        assert flow.base.event_shape == (np.prod(flow.event_shape),)


def test_wrong_images_are_refused():
    flow = glow((4, 4, 1))
    with pytest.raises(ValueError, match=r"shape \(2, 4, 4, 3\), expected \(\*batch, 4, 4, 1\)"):
        flow.log_prob(np.zeros((2, 4, 4, 3), np.float32))
    for dtype in ("uint8", "int32"):
        for method in (flow.log_prob, flow.data_init):
            with pytest.raises(TypeError, match=r"floating-point dtype, got u?int"):
                method(np.zeros((2, 4, 4, 1), dtype))


def test_every_image_of_real_numbers_has_a_density():
    assert glow().support == constraints.independent(constraints.real, 3)


@pytest.mark.parametrize("options", [{}, {"num_classes": 3, "memory": "invert"}])
def test_saved_and_loaded(options, tmp_path):
    flow = glow((4, 4, 1), **options)
    fd.save(tmp_path / "flow", flow)
    loaded = fd.load(tmp_path / "flow")
    assert type(loaded) is type(flow) and loaded.recipe == flow.recipe
    pairs = zip(jax.tree.leaves(loaded), jax.tree.leaves(flow), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert jax.tree.structure(loaded.bijector) == jax.tree.structure(flow.bijector)
    if "num_classes" in options:
        assert loaded.num_classes == 3 and loaded.condition(2).batch_shape == ()
