"""Flows as priors in NumPyro models: supports, samplers, guides, handlers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers, infer
from numpyro.contrib.control_flow import scan
from numpyro.diagnostics import effective_sample_size
from numpyro.distributions import biject_to, constraints
from numpyro.infer.reparam import TransformReparam
from scipy import stats

import flowdists as fd
from tests import table
from tests.tolerances import FINITE_DIFFERENCE_F64, LOG_DET_F32, LOG_DET_F64, STANDARD_ERRORS

KEY = jax.random.key(0)
TINY = {"hidden_sizes": (6,), "activation": "tanh"}
WAYS = ("direct", "reparametrized")
EXACT = {"rtol": LOG_DET_F64, "atol": LOG_DET_F64}


def drawn(seed, scale, make):
    """What ``make`` builds, with parameters drawn by NumPy: nothing is compiled."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(make, KEY),
    )


def coupling(**options):
    return drawn(1, 0.7, lambda key: fd.AffineCoupling(key, (2,), **TINY, **options))


def spline(scale=0.7, **options):
    return drawn(2, scale, lambda key: fd.SplineCoupling(key, (2,), num_bins=4, **TINY, **options))


def linear():
    return drawn(3, 0.4, lambda key: fd.LULinear(key, (2,)))


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
ONE_OF_EACH_KIND = ("simplex", "interval, linear")
bounded = pytest.mark.parametrize("name", sorted(BOUNDED))
one_of_each_kind = pytest.mark.parametrize("name", ONE_OF_EACH_KIND)


def prior(flow):
    numpyro.sample("z", flow)


def by_name(site):
    """Reparametrizes the sites whose names say so."""
    return TransformReparam() if site["name"].endswith("reparametrized") else None


def chain(model, *args, num_warmup=400, num_samples=1000):
    """NUTS draws of every site, and how many of them diverged."""

    @jax.jit
    def run(key, *args):
        sampler = infer.MCMC(
            infer.NUTS(model), num_warmup=num_warmup, num_samples=num_samples, progress_bar=False
        )
        sampler.run(key, *args)
        return sampler.get_samples(), sampler.get_extra_fields()["diverging"]

    samples, diverging = jax.tree.map(np.asarray, run(jax.random.key(5), *args))
    return samples, diverging.sum()


def assert_means(samples, expected, variance=0.0):
    """The mean of correlated samples is ``expected``, itself a mean of that ``variance``."""
    samples = np.asarray(samples, np.float64)
    own = samples.var(0) / effective_sample_size(samples[None])
    errors = np.abs(samples.mean(0) - expected) / np.sqrt(own + variance)
    assert (errors < STANDARD_ERRORS).all(), errors


def assert_moments(samples, mean, covariance):
    centered = np.asarray(samples, np.float64) - mean
    assert_means(centered, 0.0)
    assert_means(centered[:, :, None] * centered[:, None, :], covariance)


@jax.jit
def direct_draws(flow, samples):
    """Independent draws, and whether those of a chain are in the support."""
    return flow.sample(jax.random.key(8), (20_000,)), flow.support(samples)


def assert_draws_of(flow, samples):
    """First and second moments are those of independent draws, and all lie in the support."""
    direct, inside = map(np.asarray, direct_draws(flow, samples))
    assert inside.all()
    assert_means(samples, direct.mean(0), direct.var(0) / len(direct))
    assert_means(samples**2, (direct**2).mean(0), (direct**2).var(0) / len(direct))


class TestGaussian:
    """An affine flow of a normal is a normal; with a normal likelihood, so is the posterior.

    One chain draws from all of the posteriors, which are independent.
    """

    NOISE = 0.8
    DATA = np.array([[1.0, -1.0], [2.0, 0.5], [0.5, -3.0]])

    @classmethod
    def observe(cls, name, flow, data):
        z = numpyro.sample(name, flow)
        with numpyro.plate(f"{name}: observations", 3):
            numpyro.sample(f"{name}: y", dist.Normal(z, cls.NOISE).to_event(1), obs=data)

    @classmethod
    def model(cls, flow):
        for way in WAYS:
            cls.observe(f"alone, {way}", flow, cls.DATA)
            with numpyro.plate(f"rows, {way}", 2):
                cls.observe(f"in a plate, {way}", flow, np.stack([cls.DATA, cls.DATA], axis=1))

            def step(carry, data, way=way):
                cls.observe(f"in a scan, {way}", flow, data)
                return carry, None

            steps = jnp.asarray(np.stack([cls.DATA, cls.DATA]))
            scan(handlers.reparam(step, config=by_name), 0.0, steps)

    @classmethod
    @functools.cache
    def posterior(cls):
        flow = normal(linear(), affine())
        samples, divergences = chain(handlers.reparam(cls.model, config=by_name), flow)
        assert divergences == 0
        mixing, shift = flow.bijector.layers
        scale = np.diag(np.exp(np.asarray(shift.log_scale, np.float64)))
        matrix = scale @ np.asarray(mixing.matrix, np.float64)
        mean = scale @ np.asarray(mixing.bias, np.float64) + np.asarray(shift.loc)
        precision = np.linalg.inv(matrix @ matrix.T)
        covariance = np.linalg.inv(precision + len(cls.DATA) / cls.NOISE**2 * np.eye(2))
        mean = covariance @ (precision @ mean + cls.DATA.sum(0) / cls.NOISE**2)
        return samples, mean, covariance

    @pytest.mark.heavy
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("where", ["alone", "in a plate", "in a scan"])
    def test_the_posterior_is_the_closed_form(self, where, way):
        """Every row or step has the posterior that it would have alone."""
        samples, mean, covariance = self.posterior()
        for z in np.moveaxis(samples[f"{where}, {way}"].reshape(1000, -1, 2), 1, 0):
            assert_moments(z, mean, covariance)


@functools.cache
def prior_chain(names):
    """One chain over the flows of these names, independent of each other, in both ways."""
    flows = {name: BOUNDED[name]() for name in names}

    def model(flows):
        for name, flow in flows.items():
            for way in WAYS:
                numpyro.sample(f"{name}, {way}", flow)

    samples, divergences = chain(handlers.reparam(model, config=by_name), flows)
    assert divergences == 0
    return flows, samples


class TestBounded:
    @pytest.mark.heavy
    @pytest.mark.parametrize("way", WAYS)
    @one_of_each_kind
    def test_nuts_draws_the_prior_and_stays_inside(self, name, way):
        flows, samples = prior_chain(ONE_OF_EACH_KIND)
        assert_draws_of(flows[name], samples[f"{name}, {way}"])

    @pytest.mark.slow
    @pytest.mark.heavy
    @pytest.mark.parametrize("way", WAYS)
    @bounded
    def test_nuts_draws_every_prior_and_stays_inside(self, name, way):
        flows, samples = prior_chain(tuple(BOUNDED))
        assert_draws_of(flows[name], samples[f"{name}, {way}"])

    @one_of_each_kind
    def test_chains_start_inside(self, name):
        strategies = {
            "uniform": infer.init_to_uniform,
            "median": infer.init_to_median,
            "sample": infer.init_to_sample,
        }

        def model(flow):
            for strategy in strategies:
                numpyro.sample(strategy, flow)

        def by_strategy(site):
            return strategies[site["name"]](site)

        @jax.jit
        def start(key, flow):
            initialized = infer.util.initialize_model(
                key, model, model_args=(flow,), init_strategy=functools.partial(by_strategy)
            )
            found = initialized.param_info
            drawn = initialized.postprocess_fn(found.z)
            inside = {strategy: flow.support(drawn[strategy]) for strategy in strategies}
            return found.potential_energy, found.z_grad, inside

        potential, gradient, inside = start(KEY, BOUNDED[name]())
        assert np.isfinite(potential)
        for strategy in strategies:
            assert np.isfinite(gradient[strategy]).all()
            assert inside[strategy]


@functools.cache
def unbounded(name):
    """NumPyro's map from unbounded space for a flow, and the density there, at a few points."""
    points = np.random.default_rng(4).uniform(-2.0, 2.0, (5, 2))
    shifts = 1e-5 * np.concatenate([np.eye(2), -np.eye(2)])

    def evaluate(flow):
        transform = biject_to(flow.support)
        potential = lambda u: infer.util.potential_energy(prior, (flow,), {}, {"z": u})
        drawn = flow.sample(jax.random.key(1))
        values = jax.vmap(transform)(points)
        return {
            "drawn": drawn,
            "drawn again": transform(transform.inv(drawn)),
            "log_det": jax.vmap(transform.log_abs_det_jacobian)(points, values),
            # The last coordinate of a point of the simplex is a function of the others.
            "jacobian": jax.vmap(jax.jacobian(lambda u: transform(u)[:2]))(points),
            "log_prob": flow.log_prob(values),
            "potential": jax.vmap(potential)(points),
            "gradient": jax.vmap(jax.grad(potential))(points),
            "shifted": jax.vmap(jax.vmap(potential))(points[:, None] + shifts),
        }

    found = jax.tree.map(np.asarray, jax.jit(evaluate)(BOUNDED[name]()))
    ahead, behind = np.split(found["shifted"], 2, axis=1)
    return found | {"points": points, "differences": (ahead - behind) / 2e-5}


class TestUnbounded:
    """What samplers and guides see of a flow with bounds."""

    @bounded
    def test_the_map_has_the_log_det_of_its_jacobian(self, x64, name):
        found = unbounded(name)
        np.testing.assert_allclose(found["drawn again"], found["drawn"], **EXACT)
        expected = np.linalg.slogdet(found["jacobian"])[1]
        np.testing.assert_allclose(found["log_det"], expected, **EXACT)

    @bounded
    def test_the_density_is_the_flow_s_times_the_jacobian(self, x64, name):
        found = unbounded(name)
        expected = -found["log_prob"] - np.linalg.slogdet(found["jacobian"])[1]
        np.testing.assert_allclose(found["potential"], expected, **EXACT)

    @bounded
    def test_its_gradient_is_a_finite_difference(self, x64, name):
        found = unbounded(name)
        tolerance = {"rtol": FINITE_DIFFERENCE_F64, "atol": FINITE_DIFFERENCE_F64}
        np.testing.assert_allclose(found["gradient"], found["differences"], **tolerance)

    @pytest.mark.parametrize("name", sorted(IMAGES_OF_THE_BASE))
    def test_the_density_is_that_of_the_base(self, x64, name):
        """The layers cancel: what remains is the base and NumPyro's map onto its support."""
        found = unbounded(name)
        u = found["points"]
        if name == "gamma, coupling":
            log_density = stats.gamma(3.0, scale=0.5).logpdf(np.exp(u)) + u
        else:
            log_density = stats.logistic.logpdf(u)
        np.testing.assert_allclose(found["potential"], -log_density.sum(-1), **EXACT)

    def test_a_guide_stays_inside(self):
        flow = BOUNDED["interval, linear"]()
        model = lambda: prior(flow)
        guide = infer.autoguide.AutoNormal(model)
        params = {"z_auto_loc": np.zeros(2), "z_auto_scale": np.full(2, 3.0)}

        @jax.jit
        def evaluate(key):
            loss = infer.Trace_ELBO(num_particles=100).loss(key, params, model, guide)
            samples = guide.sample_posterior(key, params, sample_shape=(100,))
            return loss, flow.support(samples["z"])

        loss, inside = evaluate(KEY)
        assert np.isfinite(loss)
        assert np.asarray(inside).all()


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

    @staticmethod
    @functools.cache
    def samples():
        def model():
            low = numpyro.sample("low", dist.Normal(0.0, 10.0))
            for name, flow in HIERARCHIES.items():
                numpyro.sample(name, flow(low))

        return chain(model, num_warmup=100, num_samples=100)[0]

    @pytest.mark.parametrize("name", sorted(HIERARCHIES))
    def test_each_draw_lies_in_its_own(self, name):
        samples = self.samples()
        z = samples[name]
        low = samples["low"].reshape(-1, *[1] * (z.ndim - 1))
        assert np.ptp(low) > 1.0
        offset = z - low
        assert ((offset > 0) & (offset < 1)).all()


class TestHandlers:
    @one_of_each_kind
    def test_scores_in_a_plate(self, name):
        flow = BOUNDED[name]()

        def model():
            with numpyro.plate("rows", 3):
                return numpyro.sample("z", flow)

        mask = np.array([True, False, True])

        @jax.jit
        def evaluate(key):
            z = handlers.seed(model, key)()
            score = lambda model, values: infer.util.log_density(model, (), {}, values)[0]
            scores = {
                "as it is": score(model, {"z": z}),
                "substituted": score(handlers.substitute(model, {"z": z}), {}),
                "scaled": score(handlers.scale(model, scale=3.0), {"z": z}),
                "masked": score(handlers.mask(model, mask=mask), {"z": z}),
            }
            return z, flow.log_prob(z), scores

        z, alone, scores = jax.tree.map(np.asarray, evaluate(jax.random.key(1)))
        assert z.shape == (3, *flow.event_shape)
        expected = {
            "as it is": alone.sum(),
            "substituted": alone.sum(),
            "scaled": 3 * alone.sum(),
            "masked": alone[mask].sum(),
        }
        for case, value in expected.items():
            np.testing.assert_allclose(scores[case], value, rtol=LOG_DET_F32, err_msg=case)
        conditioned = handlers.trace(handlers.condition(model, {"z": z})).get_trace()
        assert conditioned["z"]["is_observed"]
        np.testing.assert_array_equal(handlers.substitute(model, {"z": z})(), z)
        blocked = handlers.trace(handlers.block(handlers.substitute(model, {"z": z})))
        assert blocked.get_trace() == {}

    @one_of_each_kind
    def test_a_flow_is_an_argument_of_compiled_and_mapped_models(self, name):
        flow = BOUNDED[name]()
        other = table.perturb(KEY, flow, 0.1)
        positions = np.array([[0.0, 0.0], [0.5, -1.0]])

        def potential(flow, position):
            return infer.util.potential_energy(prior, (flow,), {}, {"z": position})

        expected = jax.jit(lambda u: [potential(flow, u[0]), potential(other, u[1])])(positions)
        flows = jax.tree.map(lambda *leaves: np.stack(leaves), flow, other)
        mapped = jax.jit(jax.vmap(potential))(flows, positions)
        np.testing.assert_allclose(mapped, expected, rtol=LOG_DET_F32)
        assert expected[0] != expected[1]

    def test_a_context_that_is_drawn_itself(self, x64):
        flow = fd.ConditionalFlow(fd.StandardUniform((2,)), coupling(context_shape=(1,)))

        def model():
            with numpyro.plate("rows", 3):
                context = numpyro.sample("context", dist.Normal().expand([1]).to_event(1))
                numpyro.sample("z", flow.condition(context))

        def potential(context):
            values = {"context": context, "z": np.zeros((3, 2))}
            return infer.util.potential_energy(model, (), {}, values)

        context = np.random.default_rng(5).normal(size=(3, 1))
        value, gradient = jax.jit(jax.value_and_grad(potential))(context)
        # In unbounded space the flow leaves nothing but the logistic density of its base.
        expected = -stats.norm.logpdf(context).sum() + 6 * np.log(4)
        np.testing.assert_allclose(value, expected, rtol=LOG_DET_F64)
        np.testing.assert_allclose(gradient, context, atol=LOG_DET_F64)

    @pytest.mark.parametrize("recipe", [fd.RealNVP, fd.MAF])
    def test_scores_of_the_steps_of_a_scan(self, recipe):
        options = {"num_layers": 1, "context_shape": (2,), **TINY}
        flow = drawn(6, 0.3, lambda key: recipe(key, (2,), **options))

        def step(carry, _):
            carry = numpyro.sample("z", flow.condition(carry))
            return carry, None

        def model():
            scan(step, jnp.ones(2), None, length=3)

        @jax.jit
        def evaluate(key):
            trace = handlers.trace(handlers.seed(model, key)).get_trace()
            z, steps = trace["z"]["value"], trace["z"]["fn"]
            previous = jnp.concatenate([jnp.ones((1, 2)), z[:-1]])
            density, _ = infer.util.log_density(model, (), {}, {"z": z})
            expected = flow.condition(previous).log_prob(z)
            return steps.log_prob(z), expected, density, steps.sample(key, (5,))

        scores, expected, density, more = map(np.asarray, evaluate(KEY))
        np.testing.assert_allclose(scores, expected, rtol=LOG_DET_F32)
        assert scores.shape == (3,)
        assert more.shape == (5, 3, 2)
        np.testing.assert_allclose(density, expected.sum(), rtol=LOG_DET_F32)


@pytest.mark.slow
@pytest.mark.heavy
def test_a_trained_flow_is_a_prior():
    noise = np.random.default_rng(7).normal(size=(1000, 2))
    data = jnp.asarray(np.stack([noise[:, 0], noise[:, 0] ** 2 + 0.5 * noise[:, 1]], -1))
    flow = fd.NSF(KEY, (2,), num_layers=2, hidden_sizes=(16,), num_bins=4)
    flow = fd.fit(KEY, flow, data, max_epochs=20, progress=False).flow

    def model(y):
        z = numpyro.sample("z", flow)
        numpyro.sample("y", dist.Normal(z[1], 0.3), obs=y)

    samples, divergences = chain(model, 2.0)
    assert divergences == 0
    # Against importance sampling from the prior.
    z = np.asarray(flow.sample(jax.random.key(1), (50_000,)))
    weights = np.exp(-0.5 * ((z[:, 1] - 2.0) / 0.3) ** 2)
    weights /= weights.sum()
    mean = weights @ z
    assert_means(samples["z"], mean, weights**2 @ (z - mean) ** 2)
