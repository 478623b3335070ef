"""Glow: its published density, its start from data, its options and its protocols."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax.scipy.stats import norm
from numpyro import infer

import flowdists as fd
from flowdists.flows import GLOW_SIZES
from tests.table import perturb
from tests.tolerances import (
    AGREE_F32,
    LOG_DET_F64,
    RECONSTRUCTION_F32,
    ROUND_TRIP_F32,
    ROUND_TRIP_F64,
)

KEY = jax.random.key(0)
SMALL = {"num_scales": 2, "steps_per_scale": 2, "hidden_channels": 6}
MOVE = 0.05  # how far parameters are moved: the triangular factors are not pivoted


@functools.cache
def glow(event_shape=(8, 8, 1), x64=False, **options):
    """A Glow away from its start, at which priors and couplings are the identity."""
    make = functools.partial(fd.Glow, event_shape=event_shape, **{**SMALL, **options})
    flow = jax.jit(make)(KEY)
    return flow.replace(bijector=perturb(KEY, flow.bijector, MOVE))


@jax.jit
def log_prob(flow, x):
    return flow.log_prob(x)


def images(batch=3, event_shape=(8, 8, 1)):
    return jax.random.normal(jax.random.key(1), (batch, *event_shape))


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


@jax.jit
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
            loc, log_scale = jnp.split(zero_conv(prior.network, x), 2, axis=-1)
            total += norm.logpdf(factored, loc, jnp.exp(log_scale)).sum((1, 2, 3))
    return total + norm.logpdf(x, prior.loc, jnp.exp(prior.log_scale)).sum((1, 2, 3))


shapes = pytest.mark.parametrize(
    ("event_shape", "num_scales"),
    [
        ((8, 8, 1), 2),
        ((8, 8, 3), 3),
        ((8, 8, 1), 3),
        ((8, 8, 3), 2),
    ],
)


class TestDensity:
    @shapes
    def test_is_the_published_sum(self, event_shape, num_scales, x64):
        flow = glow(event_shape, x64=True, num_scales=num_scales, scale="sigmoid")
        x = images(3, event_shape)
        expected = published_log_prob(flow, x)
        np.testing.assert_allclose(log_prob(flow, x), expected, rtol=LOG_DET_F64)

    @shapes
    def test_is_the_normal_one_at_the_latents_and_the_jacobians_determinant(
        self, event_shape, num_scales, x64
    ):
        flow = glow(event_shape, x64=True, num_scales=num_scales)
        x = images(1, event_shape)[0]

        @jax.jit
        def expected(flow, x):
            to_latents = lambda x: flow.bijector.inverse(x.reshape(event_shape))
            matrix = jax.jacfwd(to_latents)(x.ravel())
            return norm.logpdf(to_latents(x.ravel())).sum() + jnp.linalg.slogdet(matrix)[1]

        np.testing.assert_allclose(log_prob(flow, x), expected(flow, x), rtol=LOG_DET_F64)


def unrolled(flow):
    """The flow with a Chain in place of every Repeat."""
    scales = []
    for scale in flow.bijector.scales:
        prior, stack, squeeze = scale.layers
        steps = fd.Chain([stack[i] for i in range(len(stack))])
        scales.append(fd.Chain([prior, steps, squeeze]))
    return flow.replace(bijector=fd.MultiScale(scales))


@jax.jit
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


@pytest.mark.parametrize("normalize", [False, True])
def test_every_normalization_starts_from_the_data(normalize):
    """ActNorms at every step of every scale, and the networks' own; scanned as unrolled."""
    flow, x = glow(normalize=normalize), 0.3 + 0.2 * images(64)
    init = jax.jit(lambda flow, x: flow.data_init(x))
    start = init(flow, x)
    outputs = normalized(start, x)
    assert len(outputs) == 2 * 2 * (3 if normalize else 1)  # scales, steps, norms of each
    for out in outputs:
        np.testing.assert_allclose(out.mean((0, 1, 2)), 0.0, atol=1e-3)
        np.testing.assert_allclose(out.std((0, 1, 2)), 1.0, atol=1e-3)
    plain = jax.jit(lambda flow, x: unrolled(flow).data_init(x))(flow, x)
    pairs = zip(jax.tree.leaves(jax.jit(unrolled)(start)), jax.tree.leaves(plain), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=ROUND_TRIP_F32, rtol=ROUND_TRIP_F32)


class TestOptions:
    @pytest.mark.parametrize(
        "options",
        [
            {"coupling": "additive"},
            {"coupling": "spline", "num_bins": 4},
            {"learn_top": False},
            {"scale": "sigmoid", "residual": True, "normalize": False},
            {"normalize": True, "activation": "tanh", "dtype": "bfloat16"},
        ],
        ids=["additive", "spline", "no_top", "residual", "bfloat16"],
    )
    def test_samples_have_the_density_of_log_prob(self, options):
        flow = glow((4, 4, 2), **options)
        # bfloat16 rounds what the two directions feed their networks, which differs, to 8 bits.
        tolerance = 1e-2 if "dtype" in options else ROUND_TRIP_F32
        x, scores = jax.jit(lambda flow: flow.sample_and_log_prob(KEY, (5,)))(flow)
        assert x.shape == (5, 4, 4, 2) and x.dtype == jnp.float32
        np.testing.assert_allclose(log_prob(flow, x), scores, rtol=tolerance)

    def test_a_single_scale_sets_nothing_aside(self):
        flow = glow((4, 4, 2), num_scales=1, scale="sigmoid")
        assert flow.bijector.latent_shapes == ((2, 2, 8),)
        x, scores = jax.jit(lambda flow: flow.sample_and_log_prob(KEY, (5,)))(flow)
        np.testing.assert_allclose(log_prob(flow, x), scores, rtol=ROUND_TRIP_F32)
        np.testing.assert_allclose(published_log_prob(flow, x), scores, rtol=ROUND_TRIP_F32)

    def test_learn_top_adds_two_numbers_per_channel(self):
        sizes = [
            sum(leaf.size for leaf in jax.tree.leaves(glow(learn_top=learn)))
            for learn in (True, False)
        ]
        assert sizes[0] - sizes[1] == 2 * 8  # 1 channel, times 4, halved, times 4

    def test_labels_are_one_hot_contexts(self):
        flow, x = glow((4, 4, 2), num_classes=3), images(3, (4, 4, 2))
        labels = jnp.array([2, 0, 1])
        given = jax.jit(lambda labels: flow.condition(labels).log_prob(x))
        by_label = given(labels)
        one_hot = given(jax.nn.one_hot(labels, 3))
        np.testing.assert_allclose(one_hot, by_label, rtol=AGREE_F32)
        assert not jnp.allclose(given((labels + 1) % 3), by_label)
        for wrong in (3, -1):
            with pytest.raises(
                ValueError, match=rf"`context` must hold labels from 0 to 2.*{wrong}"
            ):
                flow.condition(jnp.array([0, wrong]))
        masked = given(jnp.array([2, 3, -1]))
        np.testing.assert_allclose(masked[0], by_label[0], rtol=AGREE_F32)
        assert jnp.isnan(masked[1:]).all()

    def test_contexts_reach_every_part(self):
        flow, x = glow((4, 4, 2), context_shape=(2, 2)), images(3, (4, 4, 2))
        context = jax.random.normal(KEY, (3, 2, 2))
        loss = lambda flow: flow.condition(context).log_prob(x).sum()
        gradient = jax.jit(jax.grad(loss))(flow)
        weights = {
            jax.tree_util.keystr(path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
            if "context_weight" in jax.tree_util.keystr(path)
        }
        assert len(weights) == 4 and all((leaf != 0).any() for leaf in weights.values())

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
            fd.Glow(KEY, **{"event_shape": (8, 8, 1), **SMALL, **options})

    @pytest.mark.parametrize("size", sorted(GLOW_SIZES))
    def test_published_sizes_are_consistent(self, size):
        make = functools.partial(fd.Glow, **GLOW_SIZES[size])
        flow = jax.eval_shape(make, KEY)
        assert flow.event_shape == GLOW_SIZES[size]["event_shape"]
        x = jax.ShapeDtypeStruct((2, *flow.event_shape), jnp.float32)
        assert jax.eval_shape(lambda flow, x: flow.log_prob(x), flow, x).shape == (2,)


class TestValues:
    def test_wrong_images_are_refused(self):
        flow = glow((4, 4, 1))
        with pytest.raises(
            ValueError, match=r"shape \(2, 4, 4, 3\), expected \(\*batch, 4, 4, 1\)"
        ):
            flow.log_prob(jnp.zeros((2, 4, 4, 3)))
        for dtype in (jnp.uint8, jnp.int32):
            pixels = jnp.zeros((2, 4, 4, 1), dtype)
            for method in (flow.log_prob, flow.data_init):
                with pytest.raises(TypeError, match=r"floating-point dtype, got u?int"):
                    method(pixels)

    @pytest.mark.parametrize("coupling", ["affine", "additive", "spline"])
    def test_nan_is_not_hidden(self, coupling):
        flow = glow((4, 4, 2), coupling=coupling)
        plain = fd.Flow(flow.base, flow.bijector, validate_args=False)
        x = images(3, (4, 4, 2)).at[1, 3, 2, 1].set(jnp.nan)
        undefined = jnp.isnan(log_prob(plain, x))
        assert jnp.array_equal(undefined, jnp.array([False, True, False]))


class TestProtocols:
    def test_saved_and_loaded(self, tmp_path):
        for options in ({}, {"num_classes": 3, "memory": "invert"}):
            flow = glow((4, 4, 1), **options)
            fd.save(tmp_path / "flow", flow)
            loaded = fd.load(tmp_path / "flow")
            assert type(loaded) is type(flow) and loaded.recipe == flow.recipe
            pairs = zip(jax.tree.leaves(loaded), jax.tree.leaves(flow), strict=True)
            assert all(jnp.array_equal(a, b) for a, b in pairs)
            assert jax.tree.structure(loaded.bijector) == jax.tree.structure(flow.bijector)
        assert loaded.num_classes == 3 and loaded.condition(2).batch_shape == ()

    def test_temperature_scales_the_latents(self):
        flow = glow((4, 4, 2))
        cold = flow.with_temperature(0.5)
        z = jax.jit(lambda cold: flow.bijector.inverse(cold.sample(KEY, (7,))))(cold)
        np.testing.assert_allclose(z, 0.5 * flow.base.sample(KEY, (7,)), atol=ROUND_TRIP_F32)

    def test_to_distrax_keeps_the_density(self):
        flow = glow((4, 4, 2))
        x = images(3, (4, 4, 2))
        np.testing.assert_allclose(
            log_prob(flow.to_distrax(), x), log_prob(flow, x), rtol=AGREE_F32
        )
        conditioned = glow((4, 4, 2), num_classes=3).condition(jnp.arange(3)).to_distrax()
        draw = lambda key: conditioned.sample(seed=key, sample_shape=(2,))
        assert jax.eval_shape(draw, KEY).shape == (2, 3, 4, 4, 2)

    def test_trains_under_svi(self):
        start, x = glow((4, 4, 2)), images(3, (4, 4, 2))

        def model(x):
            flow = fd.flow_module("glow", lambda key: start)
            with numpyro.plate("images", len(x)):
                numpyro.sample("x", flow, obs=x)

        svi = infer.SVI(model, lambda x: None, optax.adam(1e-3), infer.Trace_ELBO())
        state = jax.jit(svi.init)(KEY, x)
        state, loss = jax.jit(svi.update)(state, x)
        np.testing.assert_allclose(loss, -log_prob(start, x).sum(), rtol=AGREE_F32)
        assert jax.jit(svi.evaluate)(state, x) < loss

    def test_as_a_latent_image(self):
        flow = glow((4, 4, 2))

        def model():
            x = numpyro.sample("x", flow)
            numpyro.sample("y", dist.Normal(x, 0.1).to_event(3), obs=jnp.zeros(flow.event_shape))

        guide = infer.autoguide.AutoDelta(model)
        svi = infer.SVI(model, guide, optax.adam(1e-2), infer.Trace_ELBO())
        state = jax.jit(svi.init)(KEY)
        state, loss = jax.jit(svi.update)(state)
        assert jnp.isfinite(loss) and jax.jit(svi.evaluate)(state) < loss


class TestReconstruction:
    """Through 3 scales of 32 steps; errors in grey levels of 256."""

    @staticmethod
    def errors(flow, x):
        """The largest of each image; there and back are two programs, as for a user."""
        z = jax.jit(lambda layer, x: layer.inverse(x))(flow.bijector, x)
        back = jax.jit(lambda layer, z: layer.forward(z))(flow.bijector, z)
        return 256 * jnp.abs(back - x).max((1, 2, 3))

    @pytest.mark.heavy
    def test_at_the_start_from_the_data(self):
        """Jitted whole, the flow's construction is also a test against a deadlock."""
        make = functools.partial(fd.Glow, event_shape=(16, 16, 3), hidden_channels=16)
        flow = jax.jit(make)(KEY)
        x = jax.random.uniform(jax.random.key(1), (16, *flow.event_shape))
        flow = jax.jit(lambda flow, x: flow.data_init(x))(flow, x)
        assert self.errors(flow, x).max() < RECONSTRUCTION_F32

    @pytest.mark.heavy
    def test_after_training(self, data_dir, request):
        """On natural images, of which those of the strongest contrast lose the most digits."""
        with np.load(data_dir / "images" / "bsds_rgb16.npz") as file:
            train, test = (file[name][:, :8, :8] for name in ("train", "test"))
        make = functools.partial(fd.Glow, event_shape=(8, 8, 3), hidden_channels=16)
        flow, history = fd.fit(
            KEY,
            jax.jit(make)(KEY),
            train[:6400],
            validation=test[:250],
            transform=fd.dequantize,
            batch_size=64,
            max_epochs=2,
        )
        assert history.train[-1] < history.train[0]
        x = fd.dequantize(jax.random.key(1), test[:1000])
        assert self.errors(flow, x).max() < RECONSTRUCTION_F32

        request.getfixturevalue("x64")
        flow, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (flow, x))
        assert self.errors(flow, x).max() < ROUND_TRIP_F64
