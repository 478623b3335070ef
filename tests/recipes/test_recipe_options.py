"""What every recipe can have around its layers: conditional base, support, classes."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro.distributions import biject_to, constraints
from numpyro.infer import MCMC, NUTS

import flowdists as fd
from flowdists.recipes import RECIPES, registry
from tests import table
from tests.draws import drawn
from tests.tolerances import INTEGRAL, LOG_DET_F64, ROUND_TRIP_F64

BOUNDS = np.array([[-0.3, 7.0], [0.1, 7.3]], np.float32)
BOX = constraints.independent(constraints.interval(*BOUNDS), 1)
MIXED = (constraints.real, constraints.positive, constraints.interval(-1.0, 3.0))
SMALL = {"num_layers": 2, "hidden_sizes": (6,), "activation": "tanh"}
# The options do not know whose layers they stand around: a coupling and an autoregressive flow.
two_recipes = pytest.mark.parametrize("name", ["RealNVP", "MAF"])


def build(name, event_shape, scale=0.3, **options):
    recipe = functools.partial(getattr(fd, name), event_shape=event_shape, **options, **SMALL)
    return drawn(recipe, scale)


@pytest.mark.parametrize("name", sorted(table.RECIPES))
def test_every_recipe_has_the_options(name):
    recipe = table.RECIPES[name].func
    options = {"num_classes", "embedding", "conditional_base", "support"}
    assert options <= set(inspect.signature(recipe).parameters)


@pytest.mark.parametrize("name", ["Glow", "RealNVPImage", "RealNVP", "Glow1D", "MAF", "IAF", "NSF"])
def test_every_option_is_documented_once(name):
    recipe = RECIPES[name]
    entries = re.findall(r"^  (\w+): ", inspect.getdoc(recipe).split("Returns:")[0], re.MULTILINE)
    assert entries == list(inspect.signature(recipe).parameters)


def test_a_recipe_of_a_users_own(key, monkeypatch):
    monkeypatch.setattr(registry, "RECIPES", dict(RECIPES))

    @functools.partial(fd.recipes.recipe, without=("support",))
    def Scaled(key, event_shape, *, activation="tanh", **network):
        """One coupling.

        Args:
          activation: "tanh" unless given.
          **network: other options.
        """
        return fd.AffineCoupling(key, event_shape, activation=activation, **network)

    signature = inspect.signature(Scaled)
    assert signature.parameters["activation"].default == "tanh"
    assert "support" not in signature.parameters and "embedding" in signature.parameters
    assert '  activation: "tanh" unless given.' in Scaled.__doc__ and "**" not in Scaled.__doc__
    flow = jax.eval_shape(lambda key: Scaled(key, (2,), num_classes=3, hidden_sizes=(4,)), key)
    assert flow.context_shape == (3,) and flow.recipe.name == "Scaled"
    with pytest.raises(TypeError, match=r"Scaled: .*'support'.* are key, event_shape"):
        Scaled(key, (2,), support=MIXED)


class TestConditionalBase:
    @two_recipes
    def test_location_and_scale_follow_the_context(self, name, key):
        flow = build(name, (2,), 0.2, context_shape=(3,), conditional_base=True)

        @jax.jit
        def scores(flow, context, key):
            conditioned = flow.condition(context)
            x, given = conditioned.sample_and_log_prob(key, (5,))
            return given, conditioned.log_prob(x)

        np.testing.assert_allclose(
            *scores(flow, np.ones((4, 3), np.float32), key), rtol=1e-4, atol=1e-4
        )

    def test_it_is_a_gaussian_whose_moments_are_a_network_of_the_context(self, x64):
        """Before the flow's own layers, which are the identity where all parameters are zero."""
        flow = build("MAF", (2,), 0.0, context_shape=(1,), conditional_base=True)
        first, *rest = flow.bijector.bijector.layers
        first = table.perturb(jax.random.key(0), first, 0.3)
        flow = flow.replace(bijector=fd.Embedded(fd.Chain([first, *rest]), (1,)))
        context, x = np.array([0.7]), np.array([0.3, -1.2])

        @jax.jit
        def run(flow, first, x):
            return flow.condition(context).log_prob(x), first.conditioner(context)

        score, parameters = run(flow, first, x)
        shift, log_scale = np.asarray(parameters).reshape(2, 2)
        z = (x - shift) * np.exp(-log_scale)
        expected = (-0.5 * z**2 - 0.5 * np.log(2 * np.pi) - log_scale).sum()
        np.testing.assert_allclose(score, expected, rtol=LOG_DET_F64)


class TestSupport:
    @two_recipes
    def test_every_draw_is_inside_and_nothing_has_density_outside(self, name, key):
        flow = build(name, (2,), 1.0, support=BOX)
        outside = np.array([[0.2, 7.1], [0.0, 6.9], [np.inf, 7.1]], np.float32)

        @jax.jit
        def run(flow, key, outside):
            unchecked = fd.Flow(flow.base, flow.bijector, validate_args=False)
            draws = flow.sample(key, (20_000,))
            outside = jax.vmap(jax.value_and_grad(unchecked.log_prob))(outside)
            return draws, flow.support(draws), *outside

        draws, is_inside, scores, gradients = map(np.asarray, run(flow, key, outside))
        assert ((draws >= BOUNDS[0]) & (draws <= BOUNDS[1])).all() and is_inside.all()
        assert (scores == -np.inf).all() and np.isfinite(gradients).all()

    def test_every_draw_is_inside_at_awkward_bounds(self, key):
        bounds = np.sort(np.random.default_rng(0).normal(size=(2, 500)).astype(np.float32) * 10, 0)
        wide = fd.Affine(jnp.zeros(500), np.full(500, 30.0, np.float32))
        onto = fd.to_support(constraints.independent(constraints.interval(*bounds), 1))
        flow = fd.Flow(fd.StandardNormal((500,)), fd.Chain([wide, onto]))
        draws = np.asarray(jax.jit(lambda flow, key: flow.sample(key, (200,)))(flow, key))
        assert ((draws >= bounds[0]) & (draws <= bounds[1])).all()

    def test_densities_on_a_box_integrate_to_one_for_each_context(self, x64):
        flow = build("RealNVP", (2,), 0.2, context_shape=(1,), support=BOX)
        grids = [np.linspace(low, high, 401)[1:-1] for low, high in BOUNDS.astype(float).T]
        points = np.stack(np.meshgrid(*grids, indexing="ij"), -1).reshape(-1, 1, 2)
        cell = np.prod([grid[1] - grid[0] for grid in grids])
        total = jax.jit(lambda flow, c, x: jnp.exp(flow.condition(c).log_prob(x)).sum(0))
        mass = total(flow, np.array([[0.0], [1.5], [-2.0]]), points) * cell
        np.testing.assert_allclose(mass, np.ones(3), atol=INTEGRAL)

    def test_one_constraint_for_each_element(self, x64):
        flow = build("MAF", (3,), support=MIXED)

        def unbounded(x):
            return jnp.stack(
                [x[:, 0], jnp.log(x[:, 1]), jnp.log((x[:, 2] + 1) / (3 - x[:, 2]))], -1
            )

        @jax.jit
        def run(flow, key, outside):
            x = flow.sample(key, (1000,))
            plain = fd.Flow(flow.base, flow.bijector.layers[0])
            unchecked = fd.Flow(flow.base, flow.bijector, validate_args=False)
            return (
                (x, flow.support(x), flow.log_prob(x), plain.log_prob(unbounded(x))),
                (flow.support(outside), *jax.vmap(jax.value_and_grad(unchecked.log_prob))(outside)),
            )

        outside = np.array([[0.0, -1.0, 0.0], [0.0, 1.0, 4.0]])
        (x, inside, scores, plain), (outside_is_inside, no_density, gradients) = jax.tree.map(
            np.asarray, run(flow, jax.random.key(1), outside)
        )
        assert inside.all() and (x[:, 0] < 0).any()
        assert (x[:, 1] > 0).all() and ((x[:, 2] > -1) & (x[:, 2] < 3)).all()
        slopes = np.log(x[:, 1]) + np.log((x[:, 2] + 1) * (3 - x[:, 2]) / 4)
        np.testing.assert_allclose(scores, plain - slopes, rtol=1e2 * ROUND_TRIP_F64)
        assert not outside_is_inside.any()
        assert (no_density == -np.inf).all() and np.isfinite(gradients).all()

    def test_a_simplex_has_one_dimension_less(self, key):
        flow = build("RealNVP", (3,), support=constraints.simplex)
        x = jax.jit(lambda flow, key: flow.sample(key, (100,)))(flow, key)
        np.testing.assert_allclose(np.sum(x, -1), 1.0, rtol=1e-5)
        assert flow.base.event_shape == (2,) and flow.event_shape == (3,)

    def test_samplers_can_map_onto_mixed_supports(self):
        flow = build("MAF", (3,), support=MIXED)

        @jax.jit
        def run(flow, free):
            onto = biject_to(flow.support)
            score = lambda free: (
                flow.log_prob(onto(free)) + onto.log_abs_det_jacobian(free, onto(free))
            )
            return flow.support(onto(free)), jax.vmap(jax.value_and_grad(score))(free)

        inside, potential = run(flow, 3.0 * np.random.default_rng(0).normal(size=(50, 3)))
        assert np.all(inside)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(potential))

    @pytest.mark.slow
    def test_nuts_stays_inside_of_mixed_supports(self, key):
        flow = build("MAF", (3,), 0.2, support=MIXED)

        def model():
            numpyro.sample("z", flow)

        mcmc = MCMC(NUTS(model), num_warmup=100, num_samples=100, progress_bar=False)
        mcmc.run(key)
        assert flow.support(mcmc.get_samples()["z"]).all()

    @pytest.mark.parametrize(
        ("support", "context_shape"),
        [(BOX, None), (constraints.positive, None), (MIXED[1:], None), (MIXED[1:], (2,))],
    )
    def test_saved_without_a_template(self, support, context_shape, key, tmp_path):
        options = {"context_shape": context_shape, "conditional_base": context_shape is not None}
        flow = build("RealNVP", (2,), support=support, **options)
        fd.save(tmp_path / "flow", flow)

        @jax.jit
        def draw(flow, key):
            if context_shape is not None:
                flow = flow.condition(jnp.ones(context_shape))
            return flow.sample_and_log_prob(key, (10,))

        for given, expected in zip(
            draw(fd.load(tmp_path / "flow"), key), draw(flow, key), strict=True
        ):
            np.testing.assert_array_equal(given, expected)


NO_CONTEXT = {"context_shape": None}
MISUSE = {
    "embedding without context": ({**NO_CONTEXT, "embedding": len}, ValueError, "embedding"),
    "conditional base without context": (
        {**NO_CONTEXT, "conditional_base": True},
        ValueError,
        "conditional_base",
    ),
    "embedding that is no function": ({"embedding": 3}, TypeError, "embedding"),
    "embedding of another size": (
        {"embedding": lambda c: c @ np.ones((5, 3))},
        ValueError,
        r"embedding.*\(2,\)",
    ),
    "embedding to a matrix": (
        {"embedding": lambda c: jnp.outer(c, c)},
        ValueError,
        "embedding.*vector",
    ),
    "embedding to ints": ({"embedding": lambda c: c.astype(int)}, ValueError, "embedding.*float"),
    "support of another type": ({"support": 3.0}, TypeError, "support"),
    "support of another length": ({"support": MIXED}, ValueError, r"support.*\(2,\)"),
    "support of numbers": ({"support": (0.0, 1.0)}, TypeError, "support"),
    "support of vectors in a sequence": (
        {"support": (constraints.simplex, constraints.real)},
        TypeError,
        "support",
    ),
    "bounds of another length": (
        {"support": constraints.interval(np.zeros(3), np.ones(3))},
        ValueError,
        "support",
    ),
    "discrete support": ({"support": constraints.boolean}, NotImplementedError, None),
}


@pytest.mark.parametrize("case", sorted(MISUSE))
def test_misuse(case, key):
    options, kind, message = MISUSE[case]
    with pytest.raises(kind, match=message):
        fd.MAF(key, (2,), **{"context_shape": (2,), **SMALL, **options})


class TestClasses:
    @two_recipes
    def test_a_label_is_a_context(self, name):
        flow = build(name, (3,), num_classes=4)
        x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
        score = jax.jit(lambda flow, context: flow.condition(context).log_prob(x))
        labels = np.array([0, 1, 2, 3, 0])
        scores = np.asarray(score(flow, labels))
        np.testing.assert_array_equal(score(flow, np.eye(4, dtype=np.float32)[labels]), scores)
        assert (np.abs(score(flow, (labels + 1) % 4) - scores) > 1e-4).all()

    def test_labels_can_be_embedded(self, key):
        def use(key):
            network = fd.MLP(key, 4, 3, hidden_sizes=(8,), output_scale=1.0)
            flow = fd.MAF(key, (2,), num_classes=4, embedding=network, **SMALL)
            return flow.condition(jnp.array([1, 3])).log_prob(jnp.ones(2))

        assert jax.eval_shape(use, key).shape == (2,)

    def test_misuse(self, key):
        flow = build("MAF", (2,), num_classes=4)
        for labels in (4, -1):
            with pytest.raises(ValueError, match=f"labels from 0 to 3, got {labels}"):
                flow.condition(np.array([0, labels]))
        with pytest.raises(ValueError, match="both given"):
            fd.MAF(key, (2,), num_classes=4, context_shape=(4,), **SMALL)
        with pytest.raises(ValueError, match="num_classes"):
            fd.MAF(key, (2,), num_classes=0, **SMALL)
