"""Flows as priors in NumPyro models: supports, samplers, guides, handlers."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers, infer
from numpyro.contrib.control_flow import scan
from numpyro.diagnostics import effective_sample_size
from numpyro.distributions import biject_to, constraints
from numpyro.infer.reparam import TransformReparam

import flowdists as fd
from tests import table
from tests.tolerances import LOG_DET_F32, LOG_DET_F64, STANDARD_ERRORS

KEY = jax.random.key(0)
REPARAM = {"z": TransformReparam()}
both_ways = pytest.mark.parametrize("config", [{}, REPARAM], ids=["direct", "reparametrized"])


def coupling(size=2, **options):
    layer = fd.AffineCoupling(KEY, (size,), **table.SMALL, **options)
    return table.perturb(jax.random.key(1), layer, 0.5)


def spline(scale=0.5, **options):
    layer = fd.SplineCoupling(KEY, (2,), num_bins=4, **table.SMALL, **options)
    return table.perturb(jax.random.key(2), layer, scale)


def linear():
    return table.perturb(jax.random.key(3), fd.LULinear(KEY, (2,)), 0.4)


def affine():
    return fd.Affine(jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0]))


def interval(low=-1.0, high=3.0):
    return fd.to_support(constraints.interval(low, high))


def normal(*layers, shape=(2,)):
    return fd.Flow(fd.StandardNormal(shape), fd.Chain(layers))


def uniform(*layers, low=0.0, high=1.0):
    return fd.Flow(fd.StandardUniform((2,), low, high), fd.Chain(layers))


# Flows with a support that NumPyro has a name for.
NAMED = {
    "interval": lambda: normal(coupling(), linear(), interval()),
    "positive": lambda: normal(coupling(), fd.to_support(constraints.positive)),
    "simplex": lambda: normal(coupling(), fd.to_support(constraints.simplex)),
    "circle": lambda: uniform(spline(0.2, tails="circular", bound=np.pi), low=-np.pi, high=np.pi),
}
# Flows with the image of their base's support,
IMAGES_OF_THE_BASE = {
    "uniform, affine": lambda: uniform(affine()),
    "uniform, couplings": lambda: uniform(coupling(), linear(), spline(bound=2.0), affine()),
    "gamma, coupling": lambda: fd.Flow(dist.Gamma(3.0 * jnp.ones(2), 2.0).to_event(1), coupling()),
    "context": lambda: fd.ConditionalFlow(
        fd.StandardUniform((2,)), coupling(context_shape=(1,))
    ).condition(jnp.array([0.7])),
}
# and of what one of their layers leads to.
IMAGES = IMAGES_OF_THE_BASE | {
    "interval, linear": lambda: normal(coupling(), interval(), linear()),
    "bounds in an array": lambda: normal(
        coupling(), interval(np.array([-1.0, 0.0]), np.array([3.0, 1.0]))
    ),
}
BOUNDED = NAMED | IMAGES
bounded = pytest.mark.parametrize("name", sorted(BOUNDED))


def prior(flow):
    numpyro.sample("z", flow)


def draw(model, *args, num_warmup=400, num_samples=1000):
    """NUTS draws of every site, and how many of them diverged."""
    sampler = infer.MCMC(
        infer.NUTS(model), num_warmup=num_warmup, num_samples=num_samples, progress_bar=False
    )
    sampler.run(jax.random.key(5), *args)
    return sampler.get_samples(), int(sampler.get_extra_fields()["diverging"].sum())


def assert_means(draws, expected, variance=0.0):
    """The mean of correlated ``draws`` is ``expected``, itself a mean of that ``variance``."""
    draws = np.asarray(draws, np.float64)
    own = draws.var(0) / effective_sample_size(draws[None])
    errors = np.abs(draws.mean(0) - expected) / np.sqrt(own + variance)
    assert (errors < STANDARD_ERRORS).all(), errors


def assert_moments(draws, mean, covariance):
    centered = np.asarray(draws, np.float64) - mean
    assert_means(centered, 0.0)
    assert_means(centered[:, :, None] * centered[:, None, :], covariance)


def assert_draws_of(flow, draws):
    """First and second moments are those of independent draws, and all lie in the support."""
    assert flow.support(draws).all()
    direct = np.asarray(flow.sample(jax.random.key(8), (20_000,)))
    assert_means(draws, direct.mean(0), direct.var(0) / len(direct))
    assert_means(draws**2, (direct**2).mean(0), (direct**2).var(0) / len(direct))


class TestGaussian:
    """An affine flow of a normal is a normal; with a normal likelihood, so is the posterior."""

    NOISE = 0.8
    DATA = np.array([[1.0, -1.0], [2.0, 0.5], [0.5, -3.0]])

    @pytest.fixture
    def flow(self):
        return normal(linear(), affine())

    def moments(self, flow):
        mixing, shift = flow.bijector.layers
        scale = np.diag(np.exp(np.asarray(shift.log_scale, np.float64)))
        matrix = scale @ np.asarray(mixing.matrix, np.float64)
        mean = scale @ np.asarray(mixing.bias, np.float64) + np.asarray(shift.loc)
        precision = np.linalg.inv(matrix @ matrix.T)
        covariance = np.linalg.inv(precision + len(self.DATA) / self.NOISE**2 * np.eye(2))
        return covariance @ (precision @ mean + self.DATA.sum(0) / self.NOISE**2), covariance

    def check(self, flow, model, data):
        """Every row or step has the posterior that it would have alone."""
        draws, divergences = draw(model, data)
        assert divergences == 0
        for z in jnp.moveaxis(draws["z"].reshape(1000, -1, 2), 1, 0):
            assert_moments(z, *self.moments(flow))

    @pytest.mark.heavy
    @both_ways
    def test_the_posterior_is_the_closed_form(self, flow, config):
        def model(data):
            z = numpyro.sample("z", flow)
            with numpyro.plate("observations", 3):
                numpyro.sample("y", dist.Normal(z, self.NOISE).to_event(1), obs=data)

        self.check(flow, handlers.reparam(model, config=config), jnp.array(self.DATA))

    @pytest.mark.heavy
    @both_ways
    def test_in_a_plate(self, flow, config):
        def model(data):
            with numpyro.plate("rows", 2):
                z = numpyro.sample("z", flow)
                with numpyro.plate("observations", 3):
                    numpyro.sample("y", dist.Normal(z, self.NOISE).to_event(1), obs=data)

        data = jnp.stack([self.DATA, self.DATA], axis=1)
        self.check(flow, handlers.reparam(model, config=config), data)

    @pytest.mark.heavy
    @both_ways
    def test_in_a_scan(self, flow, config):
        def step(carry, data):
            z = numpyro.sample("z", flow)
            with numpyro.plate("observations", 3):
                numpyro.sample("y", dist.Normal(z, self.NOISE).to_event(1), obs=data)
            return carry, None

        def model(data):
            scan(handlers.reparam(step, config=config), 0.0, data)

        self.check(flow, model, jnp.stack([self.DATA, self.DATA]))


class TestBounded:
    @pytest.mark.heavy
    @bounded
    def test_nuts_draws_the_prior_and_stays_inside(self, name):
        flow = BOUNDED[name]()
        draws, divergences = draw(prior, flow)
        assert divergences == 0
        assert_draws_of(flow, draws["z"])

    @pytest.mark.heavy
    @pytest.mark.parametrize("name", ["uniform, couplings", "simplex"])
    def test_nuts_draws_the_reparametrized_prior(self, name):
        flow = BOUNDED[name]()
        draws, divergences = draw(handlers.reparam(prior, config=REPARAM), flow)
        assert divergences == 0
        assert_draws_of(flow, draws["z"])

    @pytest.mark.parametrize(
        "strategy", [infer.init_to_uniform, infer.init_to_median, infer.init_to_sample]
    )
    @bounded
    def test_chains_start_inside(self, name, strategy):
        flow = BOUNDED[name]()
        model = infer.util.initialize_model(KEY, prior, model_args=(flow,), init_strategy=strategy)
        start = model.param_info
        assert jnp.isfinite(start.potential_energy)
        assert jnp.isfinite(start.z_grad["z"]).all()
        assert flow.support(model.postprocess_fn(start.z)["z"])

    @bounded
    def test_the_map_from_unbounded_space_has_the_log_det_of_its_jacobian(self, x64, name):
        flow = BOUNDED[name]()
        transform = biject_to(flow.support)
        z = flow.sample(jax.random.key(1))
        position = transform.inv(z)
        np.testing.assert_allclose(transform(position), z, rtol=LOG_DET_F64, atol=LOG_DET_F64)
        # The last coordinate of a point of the simplex is a function of the others.
        jacobian = jax.jacobian(lambda u: transform(u)[: len(position)])(position)
        np.testing.assert_allclose(
            transform.log_abs_det_jacobian(position, z),
            np.linalg.slogdet(jacobian)[1],
            rtol=LOG_DET_F64,
            atol=LOG_DET_F64,
        )

    @pytest.mark.parametrize("name", sorted(IMAGES_OF_THE_BASE))
    def test_the_unbounded_density_is_that_of_the_base(self, x64, name):
        """The layers cancel: what remains is the base and NumPyro's map onto its support."""
        flow = IMAGES_OF_THE_BASE[name]()
        to_base = biject_to(flow.base.support)
        u = jax.random.normal(jax.random.key(1), (5, 2))
        potential = jax.vmap(lambda u: infer.util.potential_energy(prior, (flow,), {}, {"z": u}))
        base = to_base(u)
        expected = -flow.base.log_prob(base) - to_base.log_abs_det_jacobian(u, base)
        np.testing.assert_allclose(potential(u), expected, rtol=LOG_DET_F64, atol=LOG_DET_F64)

    @pytest.mark.heavy
    def test_a_guide_stays_inside(self):
        flow = BOUNDED["uniform, couplings"]()
        model = lambda: prior(flow)
        guide = infer.autoguide.AutoNormal(model)
        svi = infer.SVI(model, guide, optax.adam(1e-2), infer.Trace_ELBO())
        result = svi.run(KEY, 20, progress_bar=False)
        draws = guide.sample_posterior(KEY, result.params, sample_shape=(100,))
        assert jnp.isfinite(result.losses).all()
        assert flow.support(draws["z"]).all()


# Flows on intervals of length one above a number that is drawn itself.
HIERARCHIES = {
    "base": lambda low: fd.Flow(
        dist.Uniform(low, low + 1.0).expand([2]).to_event(1), fd.Reverse((2,))
    ),
    "layer": lambda low: uniform(fd.Affine(low * jnp.ones(2), jnp.ones(2))),
    "bounds": lambda low: normal(interval(low, low + 1.0)),
    "bound of a scalar": lambda low: fd.Flow(dist.Normal(), interval(low, low + 1.0)),
    "an event of two": lambda low: fd.Flow(
        fd.StandardUniform((1,)).expand((2,)), fd.Affine(low[None], jnp.ones(1))
    ).to_event(1),
}


class TestSupportsThatDependOnOtherVariables:
    """NumPyro maps the draws of a chain to their supports at the end, when others have moved."""

    @pytest.mark.heavy
    @pytest.mark.parametrize("name", sorted(HIERARCHIES))
    def test_each_draw_lies_in_its_own(self, name):
        def model():
            low = numpyro.sample("low", dist.Normal(0.0, 10.0))
            numpyro.sample("z", HIERARCHIES[name](low))

        draws, _ = draw(model, num_warmup=100, num_samples=100)
        low = draws["low"].reshape(-1, *[1] * (draws["z"].ndim - 1))
        assert np.ptp(low) > 1.0
        offset = draws["z"] - low
        assert ((offset > 0) & (offset < 1)).all()


class TestHandlers:
    @pytest.mark.parametrize("name", ["simplex", "uniform, couplings"])
    def test_scores_in_a_plate(self, name):
        flow = BOUNDED[name]()

        def model():
            with numpyro.plate("rows", 3):
                return numpyro.sample("z", flow)

        z = handlers.seed(model, 1)()
        assert z.shape == (3, *flow.event_shape)
        score = lambda model, values: infer.util.log_density(model, (), {}, values)[0]
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=LOG_DET_F32)
        expected = flow.log_prob(z).sum()
        close(score(model, {"z": z}), expected)
        close(score(handlers.substitute(model, {"z": z}), {}), expected)
        close(score(handlers.scale(model, scale=3.0), {"z": z}), 3 * expected)
        mask = jnp.array([True, False, True])
        close(score(handlers.mask(model, mask=mask), {"z": z}), expected - flow.log_prob(z[1]))
        conditioned = handlers.trace(handlers.condition(model, {"z": z})).get_trace()
        assert conditioned["z"]["is_observed"]
        assert handlers.trace(handlers.block(handlers.seed(model, 1))).get_trace() == {}
        np.testing.assert_array_equal(handlers.substitute(model, {"z": z})(), z)

    @pytest.mark.parametrize("name", ["simplex", "uniform, couplings"])
    def test_a_flow_is_an_argument_of_compiled_and_mapped_models(self, name):
        flow = BOUNDED[name]()
        position = jnp.zeros((2, 2))

        def potential(flow, position):
            return infer.util.potential_energy(prior, (flow,), {}, {"z": position})

        expected = [potential(flow, u) for u in position]
        compiled = [jax.jit(potential)(flow, u) for u in position]
        np.testing.assert_allclose(compiled, expected, rtol=LOG_DET_F32)
        flows = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), flow)
        mapped = jax.vmap(potential)(flows, position)
        np.testing.assert_allclose(mapped, expected, rtol=LOG_DET_F32)

    @pytest.mark.heavy
    def test_a_context_that_is_drawn_itself(self, x64):
        flow = fd.ConditionalFlow(fd.StandardUniform((2,)), coupling(context_shape=(1,)))

        def model():
            with numpyro.plate("rows", 3):
                context = numpyro.sample("context", dist.Normal().expand([1]).to_event(1))
                numpyro.sample("z", flow.condition(context))

        context, u = jax.random.normal(KEY, (3, 1)), jnp.zeros((3, 2))
        potential = lambda context: infer.util.potential_energy(
            model, (), {}, {"context": context, "z": u}
        )
        # In unbounded space the flow leaves nothing but the logistic density of its base.
        expected = -dist.Normal().log_prob(context).sum() + 6 * np.log(4)
        np.testing.assert_allclose(potential(context), expected, rtol=LOG_DET_F64)
        np.testing.assert_allclose(jax.grad(potential)(context), context, atol=LOG_DET_F64)

    @pytest.mark.heavy
    @pytest.mark.parametrize("name", ["real_nvp", "maf", "nsf"])
    def test_scores_of_the_steps_of_a_scan(self, name):
        flow = table.build_flow(name, (2,), context_shape=(2,))

        def step(carry, _):
            carry = numpyro.sample("z", flow.condition(carry))
            return carry, None

        def model():
            scan(step, jnp.ones(2), None, length=3)

        trace = handlers.trace(handlers.seed(model, 0)).get_trace()
        z, steps = trace["z"]["value"], trace["z"]["fn"]
        previous = jnp.concatenate([jnp.ones((1, 2)), z[:-1]])
        expected = flow.condition(previous).log_prob(z)
        np.testing.assert_allclose(steps.log_prob(z), expected, rtol=LOG_DET_F32)
        assert steps.batch_shape == (3,)
        assert steps.sample(KEY, (5,)).shape == (5, 3, 2)
        density, _ = infer.util.log_density(model, (), {}, {"z": z})
        np.testing.assert_allclose(density, expected.sum(), rtol=LOG_DET_F32)


@pytest.mark.heavy
def test_a_trained_flow_is_a_prior():
    noise = jax.random.normal(KEY, (1000, 2))
    data = jnp.stack([noise[:, 0], noise[:, 0] ** 2 + 0.5 * noise[:, 1]], -1)
    flow = fd.NSF(KEY, (2,), num_layers=2, hidden_sizes=(16,), num_bins=4)
    flow = fd.fit(KEY, flow, data, max_epochs=20, progress=False).flow

    def model(y):
        z = numpyro.sample("z", flow)
        numpyro.sample("y", dist.Normal(z[1], 0.3), obs=y)

    draws, divergences = draw(model, 2.0)
    assert divergences == 0
    # Against importance sampling from the prior.
    z = np.asarray(flow.sample(jax.random.key(1), (50_000,)))
    weights = np.exp(-0.5 * ((z[:, 1] - 2.0) / 0.3) ** 2)
    weights /= weights.sum()
    mean = weights @ z
    assert_means(draws["z"], mean, weights**2 @ (z - mean) ** 2)
