"""Missing pixels of a linear flow, whose posterior is a Gaussian in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density
from scipy import stats

import flowdists as fd
from flowdists.images import inpaint, inpainting_model
from tests.draws import drawn, normal
from tests.tolerances import LOG_DET_F64, ROUND_TRIP_F32, TRAINED

SHAPE = (2, 3, 1)
# Not the same pixels for both of the images.
MASKS = np.array([[[1, 1, 0], [0, 1, 0]], [[0, 1, 1], [1, 1, 1]]], bool)[..., None]


KEY = jax.random.key(0)


@functools.cache
def linear_flow(x64=False):
    return fd.Flow(fd.StandardNormal(SHAPE), drawn(lambda key: fd.LULinear(key, SHAPE), 0.4))


@functools.cache
def moments(x64=False):
    """The linear map and the location of the images, in double precision."""
    units = np.concatenate([np.zeros((1, 6)), np.eye(6)]).reshape(7, *SHAPE)
    run = jax.jit(lambda flow, z: flow.bijector(z))
    b, *columns = np.asarray(run(linear_flow(x64), jnp.asarray(units)), np.float64).reshape(7, 6)
    return np.array(columns).T - b[:, None], b


def images_of(*batch, x64=False):
    a, b = moments(x64)
    z = np.random.default_rng(3).normal(size=(*batch, 6))
    return np.asarray((z @ a.T + b).reshape(*batch, *SHAPE), np.float64 if x64 else np.float32)


@functools.partial(jax.jit, static_argnames=("num_steps", "num_chains"))
def completed(flow, observed, mask, noise_scale=0.05, **options):
    return inpaint(KEY, flow, observed, mask, noise_scale=noise_scale, **options)


def conditional(observed, mask, noise_scale, x64=False):
    """Mean and covariance of an image given some of its pixels."""
    a, b = moments(x64)
    seen = mask.ravel()
    covariance = a @ a.T
    noise = np.broadcast_to(noise_scale, SHAPE).ravel()[seen] ** 2
    gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)] + np.diag(noise))
    mean = b + gain @ (np.asarray(observed, np.float64).ravel()[seen] - b[seen])
    return mean.reshape(SHAPE), covariance - gain @ covariance[seen]


def log_joint(x, observed, mask, noise_scale, x64=False):
    a, b = moments(x64)
    z = np.linalg.solve(a, np.asarray(x, np.float64).ravel() - b)
    terms = stats.norm.logpdf(observed, x, noise_scale)
    return stats.norm.logpdf(z).sum() + np.where(mask, terms, 0.0).sum()


def size_allowed(x64=False):
    """How far from the mode images may be whose log density is close to the mode's.

    The posterior of the latents is at least as narrow as their prior.
    """
    return np.linalg.norm(moments(x64)[0], 2) * np.sqrt(2 * TRAINED)


@pytest.mark.parametrize("noise_scale", [0.05, 0.5, np.linspace(0.1, 1.0, 3)[:, None]])
def test_completions_are_conditional_means(noise_scale):
    observed = images_of(2)
    holes = np.where(MASKS, observed, np.float32(np.nan))
    images = np.asarray(completed(linear_flow(), holes, MASKS, noise_scale))
    np.testing.assert_array_equal(images[MASKS], observed[MASKS])
    for image, seen, mask in zip(images, observed, MASKS, strict=True):
        mean, _ = conditional(seen, mask, noise_scale)
        np.testing.assert_allclose(image[~mask], mean[~mask], rtol=0, atol=size_allowed())


def test_little_noise_gives_the_regression_on_observed_pixels(x64):
    seen, mask = images_of(x64=True), MASKS[0]
    image = completed(linear_flow(x64=True), seen, mask, noise_scale=0.01, num_steps=3000)
    mean, _ = conditional(seen, mask, 0.0, x64=True)
    np.testing.assert_allclose(image, mean, rtol=0, atol=size_allowed(x64=True))


def test_nothing_observed_gives_the_mode_and_everything_the_image():
    x = images_of(2)
    x[0] = np.nan
    masks = np.broadcast_to(np.arange(2).reshape(2, 1, 1, 1) == 1, x.shape)
    mode, everything = np.asarray(completed(linear_flow(), x, masks))
    np.testing.assert_allclose(mode, moments()[1].reshape(SHAPE), rtol=0, atol=size_allowed())
    np.testing.assert_array_equal(everything, x[1])


def test_the_best_of_iterates_and_chains_counts():
    """A huge learning rate only leads away: then the start itself is the best there is."""
    x, mask = images_of(), MASKS[0]

    def score(learning_rate, **options):
        image = completed(linear_flow(), x, mask, learning_rate=learning_rate, **options)
        return log_joint(image, x, mask, 0.05)

    start = score(1e-8, num_steps=5)
    assert abs(score(1e4, num_steps=5) - start) < ROUND_TRIP_F32 * (1 + abs(start))
    assert score(1e-8, num_chains=20) > start
    exact = log_joint(np.where(mask, x, conditional(x, mask, 0.05)[0]), x, mask, 0.05)
    assert score(0.05, num_chains=20) > exact - 10 * TRAINED


def test_batches_of_masks_and_flows():
    flow, image = linear_flow(), images_of()
    shape = lambda *args, **options: (
        jax.eval_shape(lambda: inpaint(KEY, *args, num_steps=3, **options)).shape
    )
    assert shape(flow, image, MASKS) == (2, *SHAPE)
    of_batch = flow.expand((5, 1))
    assert shape(of_batch, image, MASKS, num_chains=2) == (5, 2, *SHAPE)
    contexts = CONDITIONAL.condition(np.ones((4, 2), np.float32))
    assert shape(contexts, image, MASKS[0]) == (4, *SHAPE)
    value = jax.ShapeDtypeStruct((5, 2, *SHAPE), np.float32)
    trace = lambda z: log_density(inpainting_model, (of_batch, image, MASKS), {}, {"z": z})[1]
    assert jax.eval_shape(lambda z: trace(z)["x"]["value"], value).shape == (5, 2, *SHAPE)


def test_a_bounded_base_keeps_its_bounds():
    """Where all latents inside have one density, only the observed pixels decide."""
    flow = fd.Flow(fd.StandardUniform(SHAPE), fd.Affine(jnp.asarray(-ONES), jnp.asarray(2 * ONES)))
    observed = 0.4 * ONES
    observed[0, 0, 0] = 3.0
    image = np.asarray(completed(flow, observed, MASKS[0], num_steps=200, learning_rate=0.1))
    np.testing.assert_array_equal(image[MASKS[0]], observed[MASKS[0]])
    assert (np.abs(image[~MASKS[0]]) < 1).all()


def test_gradients_reach_flow_and_observations(x64):
    """That of a completion with respect to what was observed is the regression's coefficients."""
    flow, mask = linear_flow(x64=True), MASKS[0]
    x = np.where(mask, images_of(x64=True), np.nan)
    fill = lambda flow, x, s: jnp.where(mask, 0.0, inpaint(KEY, flow, x, mask, noise_scale=s)).sum()
    gradient = jax.jit(jax.grad(fill, (0, 1, 2)))
    of_flow, of_x, of_noise = jax.tree.map(np.asarray, gradient(flow, x, 0.3))
    for leaf in jax.tree.leaves(of_flow):
        assert np.isfinite(leaf).all() and (leaf != 0).any()
    np.testing.assert_array_equal(of_x[~mask], 0.0)
    location = moments(x64=True)[1].reshape(SHAPE)
    for pixel in np.argwhere(mask):
        moved = location + np.eye(6)[np.ravel_multi_index(pixel, SHAPE)].reshape(SHAPE)
        effect = (conditional(moved, mask, 0.3, x64=True)[0] - location)[~mask].sum()
        np.testing.assert_allclose(of_x[tuple(pixel)], effect, rtol=0, atol=ROUND_TRIP_F32)
    # A missing pixel moves with the flow's bias, and the others' biases count as less observed.
    expected = np.where(mask, -of_x, 1.0).ravel()
    np.testing.assert_allclose(of_flow.bijector.bias, expected, rtol=0, atol=ROUND_TRIP_F32)
    total = lambda s: conditional(x, mask, s, x64=True)[0][~mask].sum()
    slope = (total(0.3 + 1e-5) - total(0.3 - 1e-5)) / 2e-5
    np.testing.assert_allclose(of_noise, slope, rtol=0, atol=TRAINED)  # of residuals at the mode


def test_gradients_of_layers_with_reverse_mode_alone(x64):
    """Those of a flow whose backward pass inverts its layers are those of one that stores them."""
    x, mask = np.linspace(-0.5, 0.5, 6).reshape(SHAPE), MASKS[0]
    fill = lambda flow, x: jnp.where(mask, 0.0, inpaint(KEY, flow, x, mask, noise_scale=0.3)).sum()
    make_layer = lambda key: fd.AffineCoupling(key, SHAPE, hidden_sizes=(4,), activation="tanh")

    def gradients(memory):
        layer = drawn(lambda key: fd.Repeat(key, make_layer, 2, memory=memory), 0.4)
        gradient = jax.jit(jax.grad(fill, (0, 1)))
        return map(np.ravel, jax.tree.leaves(gradient(fd.Flow(fd.StandardNormal(SHAPE), layer), x)))

    # Both are as exact as Adam's mode is, and conjugate gradients.
    for stored, inverted in zip(gradients("store"), gradients("invert"), strict=True):
        assert np.linalg.norm(stored - inverted) <= TRAINED * np.linalg.norm(stored)


def test_nan_is_not_hidden():
    flow, hole = linear_flow(), images_of(2)
    hole[0, 0, 1] = np.nan
    for function in (functools.partial(inpaint, KEY), inpainting_model):
        with pytest.raises(ValueError, match="`observed` must not hold NaN, got 1 NaN of 12"):
            function(flow, hole, MASKS)
        with pytest.raises(ValueError, match="`observed` must hold continuous pixels, got levels"):
            function(flow, np.full_like(hole, 200.0), MASKS)
    # Within a trace no error can be raised.
    first, second = np.asarray(completed(flow, hole, MASKS))
    assert np.isnan(first[~MASKS[0]]).all()
    assert np.isfinite(second).all()


def test_the_model_has_the_joint_density(x64):
    flow, observed = linear_flow(x64=True), images_of(2, x64=True)
    holes = np.where(MASKS, observed, np.nan)

    @jax.jit
    def run(z):
        density = lambda z: log_density(inpainting_model, (flow, holes, MASKS, 0.3), {}, {"z": z})
        (given, trace), gradient = jax.value_and_grad(density, has_aux=True)(z)
        return given, gradient, trace["x"]["value"], flow.bijector(z)

    given, gradient, x, expected_x = map(np.asarray, run(normal(5, (2, *SHAPE))))
    np.testing.assert_array_equal(x, expected_x)
    parts = zip(x, observed, MASKS, strict=True)
    expected = sum(log_joint(*part, 0.3, x64=True) for part in parts)
    np.testing.assert_allclose(given, expected, rtol=LOG_DET_F64)
    assert np.isfinite(gradient).all()


ONES = np.ones(SHAPE, np.float32)
X = np.zeros((4, *SHAPE), np.float32)
CONDITIONAL = drawn(
    lambda key: fd.RealNVP(key, SHAPE, context_shape=(2,), num_layers=2, hidden_sizes=(4,))
)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: inpaint(KEY, CONDITIONAL, X, MASKS[0]),
            TypeError,
            "inpaint: `flow` must be a Flow, got ConditionalFlow; give it a context first",
        ),
        (
            lambda: inpainting_model(CONDITIONAL, X, MASKS[0]),
            TypeError,
            "inpainting_model: `flow` must be a Flow",
        ),
        (lambda: inpaint(0, linear_flow(), X, MASKS[0]), TypeError, "inpaint: `key` must be one"),
        (
            lambda: inpaint(KEY, linear_flow(), X[..., 0], MASKS[0]),
            ValueError,
            r"`observed` has shape \(4, 2, 3\), expected \(\*batch, 2, 3, 1\)",
        ),
        (
            lambda: inpaint(KEY, linear_flow(), X, MASKS[0].astype(float)),
            TypeError,
            "inpaint: `mask` must be boolean, got float32",
        ),
        (
            lambda: inpaint(KEY, linear_flow(), X, MASKS),
            ValueError,
            r"the shapes of `observed` and `mask` must broadcast, got \(4, 2, 3, 1\) and \(2, 2, 3",
        ),
        (
            lambda: inpaint(KEY, linear_flow(), X, np.ones((2, 3, 5), bool)),
            ValueError,
            r"`mask` has shape \(4, 2, 3, 5\), expected \(\*batch, 2, 3, 1\)",
        ),
        (
            lambda: inpaint(KEY, CONDITIONAL.condition(np.ones((3, 2), np.float32)), X, MASKS[0]),
            ValueError,
            r"batch shapes of the images and of `flow` must broadcast, got \(4,\) and \(3,\)",
        ),
        (
            lambda: inpaint(KEY, linear_flow(), X, MASKS[0], noise_scale=0.0),
            ValueError,
            "inpaint: `noise_scale` must be positive, got 0.0",
        ),
        (
            lambda: inpainting_model(linear_flow(), X, MASKS[0], -1.0),
            ValueError,
            "inpainting_model: `noise_scale` must be positive, got -1.0",
        ),
        (
            lambda: inpaint(KEY, linear_flow(), X, MASKS[0], num_steps=0),
            ValueError,
            "`num_steps` must be an int of at least 1, got 0",
        ),
        (
            lambda: inpaint(KEY, linear_flow(), X, MASKS[0], num_chains=0),
            ValueError,
            "`num_chains` must be an int of at least 1, got 0",
        ),
        (
            lambda: inpaint(KEY, linear_flow(), X, MASKS[0], learning_rate=-1.0),
            ValueError,
            "`learning_rate` must be positive and finite, got -1.0",
        ),
    ],
)
def test_misuse(call, error, match):
    with pytest.raises(error, match=match):
        call()
