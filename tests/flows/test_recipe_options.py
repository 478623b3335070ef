"""What every recipe can have around its layers: embedding, conditional base, support."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS

import flowdists as fd
from tests import table
from tests.tolerances import (
    AGREE_F32,
    FINITE_DIFFERENCE_F64,
    INTEGRAL,
    LOG_DET_F64,
    ROUND_TRIP_F64,
)

BOX = dist.Uniform(jnp.array([-0.3, 7.0]), jnp.array([0.1, 7.3])).to_event(1)
MIXED = (constraints.real, constraints.positive, constraints.interval(-1.0, 3.0))
SMALL = {"num_layers": 2, "hidden_sizes": (8, 8), "activation": "tanh"}


def moved(flow, scale=0.3):
    return flow.replace(bijector=table.perturb(jax.random.key(5), flow.bijector, scale))


def sets(key, n=7, out_size=4):
    network = fd.DeepSets(key, 2, out_size, hidden_sizes=(8,), activation="tanh")
    return moved(fd.MAF(key, (3,), context_shape=(n, 2), embedding=network, **SMALL))


class TestEmbedding:
    def test_a_set_has_no_order(self, key):
        flow = sets(key)
        context = jax.random.normal(key, (7, 2))
        x = jnp.ones(3)
        np.testing.assert_allclose(
            flow.condition(context).log_prob(x),
            flow.condition(context[::-1]).log_prob(x),
            rtol=1e-5,
        )
        other = flow.condition(context + 1.0).log_prob(x)
        assert abs(other - flow.condition(context).log_prob(x)) > 1e-3

    def test_batched_looped_and_vmapped_agree(self, key):
        flow = sets(key)
        context = jax.random.normal(key, (5, 7, 2))
        x = jax.random.normal(key, (4, 5, 3))
        scores = flow.condition(context).log_prob(x)
        score = jax.jit(lambda flow, c, x: flow.condition(c).log_prob(x))
        looped = jnp.stack([score(flow, context[i], x[:, i]) for i in range(5)], -1)
        np.testing.assert_allclose(scores, looped, rtol=1e-5, atol=1e-5)
        vmapped = jax.vmap(lambda c, x: flow.condition(c).log_prob(x), (0, 1), 1)(context, x)
        np.testing.assert_allclose(scores, vmapped, rtol=1e-5, atol=1e-5)
        assert score._cache_size() == 1

    def test_each_context_is_embedded_once(self, key):
        calls = []

        class Counting(eqx.Module):
            weight: jax.Array

            def __call__(self, context):
                calls.append(context.shape)
                return context @ self.weight

        network = Counting(jnp.ones((2, 4)))
        flow = fd.NSF(key, (3,), context_shape=(2,), embedding=network, **SMALL)
        calls.clear()
        conditioned = flow.condition(jnp.ones((5, 2)))
        conditioned.log_prob(jnp.ones((100, 5, 3)))
        conditioned.sample(key, (10,))
        assert calls == [(2,)]

    def test_gradients_of_context_and_embedding(self, x64):
        key = jax.random.key(1)
        flow = sets(key)
        context, context_direction = jax.random.normal(key, (2, 4, 7, 2))
        x = jax.random.normal(key, (4, 3))
        loss = jax.jit(lambda flow, c: flow.condition(c).log_prob(x).sum())
        gradients = jax.grad(loss, (0, 1))(flow, context)
        own = gradients[0].bijector.embedding
        assert all((jnp.abs(leaf) > 1e-8).any() for leaf in jax.tree.leaves(own))
        directions = (
            jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), flow),
            context_direction,
        )
        step = 1e-6
        move = lambda by: jax.tree.map(lambda a, d: a + by * d, (flow, context), directions)
        ends = [loss(*move(by)) for by in (step, -step)]
        slope = sum(
            jnp.vdot(g, d)
            for g, d in zip(*map(jax.tree.leaves, (gradients, directions)), strict=True)
        )
        np.testing.assert_allclose(
            slope, (ends[0] - ends[1]) / (2 * step), rtol=FINITE_DIFFERENCE_F64
        )

    def test_contexts_are_standardized(self, key):
        context = jnp.array([1e4, -50.0]) + jnp.array([300.0, 1e-3]) * jax.random.normal(
            key, (500, 2)
        )
        x = jax.random.normal(key, (500, 3))
        flow = fd.RealNVP(key, (3,), context_shape=(2,), **SMALL).data_init(x, context)
        embedded = flow.bijector.embed(context)
        np.testing.assert_allclose(embedded.mean(0), 0.0, atol=0.02)
        np.testing.assert_allclose(embedded.std(0), 1.0, rtol=0.02)

    @pytest.mark.parametrize("unit", [1e-30, 1e25])
    def test_contexts_in_any_unit_are_seen(self, unit, key):
        x, context = jax.random.normal(key, (2, 100, 2))
        flow = moved(fd.MAF(key, (2,), context_shape=(2,), **SMALL))
        scores = flow.data_init(x, context).condition(context).log_prob(x)
        scaled = flow.data_init(x, unit * context).condition(unit * context).log_prob(x)
        np.testing.assert_allclose(scaled, scores, rtol=1e-4, atol=1e-4)
        assert (
            jnp.abs(flow.data_init(x, context).condition(2 * context).log_prob(x) - scores).max()
            > 0.1
        )

    @pytest.mark.parametrize("context_shape", [(), (4,), (3, 4), (2, 2, 4)])
    def test_contexts_of_any_rank(self, context_shape, key):
        flow = fd.MAF(key, (2,), context_shape=context_shape, **SMALL)
        context = 5.0 + 2.0 * jax.random.normal(key, (50, *context_shape))
        flow = moved(flow.data_init(jnp.ones((50, 2)), context))
        assert flow.context_shape == context_shape
        assert flow.condition(context).log_prob(jnp.ones((50, 2))).shape == (50,)

    def test_the_layer_inside_of_others(self, x64):
        flow = sets(jax.random.key(0))
        context = jax.random.normal(jax.random.key(1), (7, 2))
        layer = fd.Chain([flow.bijector, fd.to_support(constraints.positive)])
        nested = fd.ConditionalFlow(flow.base, layer).condition(context)
        x = nested.sample(jax.random.key(2), (20,))
        expected = flow.condition(context).log_prob(jnp.log(x)) - jnp.log(x).sum(-1)
        np.testing.assert_allclose(nested.log_prob(x), expected, rtol=LOG_DET_F64)
        unchecked = fd.Flow(nested.base, nested.bijector, validate_args=False)
        assert unchecked.log_prob(-jnp.ones(3)) == -jnp.inf

    def test_saved_with_a_template(self, key, tmp_path):
        flow = sets(key)
        fd.save(tmp_path / "flow", flow)
        loaded = fd.load(tmp_path / "flow", like=sets(jax.random.key(9)))
        context = jnp.ones((7, 2))
        assert loaded.condition(context).log_prob(jnp.ones(3)) == flow.condition(context).log_prob(
            jnp.ones(3)
        )
        with pytest.raises(ValueError, match=r"DeepSets.*like"):
            fd.load(tmp_path / "flow")


def with_mask(elements, present):
    return jnp.concatenate([elements, present[..., None].astype(float)], -1)


class TestMaskedSets:
    """Sets of different sizes as contexts, in units far from standard ones."""

    @staticmethod
    def data(key, share, rows=200):
        keys = jax.random.split(key, 3)
        x = jax.random.normal(keys[0], (rows, 2))
        elements = 100.0 + 20.0 * (x[:, None] + jax.random.normal(keys[1], (rows, 6, 2)))
        return x, elements, jax.random.bernoulli(keys[2], share, (rows, 6))

    @staticmethod
    def flow(key):
        network = fd.DeepSets(key, 2, 4, hidden_sizes=(8,), activation="tanh", masked=True)
        return fd.MAF(key, (2,), context_shape=(6, 3), embedding=network, **SMALL)

    @pytest.mark.parametrize("share", [1.0, 0.9, 0.3])
    def test_what_is_there_counts_and_nothing_else(self, share, key):
        x, elements, present = self.data(key, share)
        there = present[..., None]
        context = with_mask(jnp.where(there, elements, 1e6), present)
        result = fd.fit(key, self.flow(key), x, context=context, max_epochs=2, progress=False)
        flow = moved(result.flow, 0.1)
        score = jax.jit(lambda context: flow.condition(context).log_prob(x))
        scores = score(context)
        moved_scores = score(with_mask(jnp.where(there, elements + 30.0, 1e6), present))
        some = present.any(-1)
        assert (jnp.abs(moved_scores - scores)[some] > 1e-3).mean() > 0.9
        for filler in (0.0, -1e20):
            other = with_mask(jnp.where(there, elements, filler), present)
            np.testing.assert_array_equal(score(other), scores)
            np.testing.assert_allclose(
                flow.condition(other).log_prob(x), scores, rtol=10 * AGREE_F32
            )
        np.testing.assert_allclose(score(context[:, ::-1]), scores, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("share", [1.0, 0.9, 0.3])
    def test_they_are_standardized_by_what_is_there(self, share, key):
        x, elements, present = self.data(key, share)
        context = with_mask(jnp.where(present[..., None], elements, 1e6), present)
        norm = self.flow(key).data_init(x, context).bijector.normalization
        there = np.asarray(elements)[np.asarray(present)]
        np.testing.assert_allclose(norm.loc, there.mean(0), rtol=1e-5)
        np.testing.assert_allclose(jnp.exp(norm.log_scale), there.std(0), rtol=1e-5)

    def test_fillers_of_nan_leave_values_and_gradients_alone(self, key):
        x, elements, present = self.data(key, 0.5)
        there = present[..., None]
        flow = moved(self.flow(key).data_init(x, with_mask(elements, present)), 0.1)
        loss = lambda flow, context: flow.condition(context).log_prob(x).sum()
        value_and_grad = jax.jit(jax.value_and_grad(loss))
        expected, given = (
            value_and_grad(flow, with_mask(jnp.where(there, elements, filler), present))
            for filler in (0.0, jnp.nan)
        )
        for a, b in zip(*map(jax.tree.leaves, (given, expected)), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_nan_in_what_is_there_or_in_the_mask_is_not_hidden(self, key):
        flow = moved(self.flow(key), 0.1)
        context = jnp.ones((6, 3))
        score = jax.jit(lambda context: flow.condition(context).log_prob(jnp.ones(2)))
        assert jnp.isfinite(score(context))
        for position in ((2, 0), (2, 2)):
            assert jnp.isnan(score(context.at[position].set(jnp.nan)))

    def test_another_network_may_have_a_mask(self, key):
        class Total(eqx.Module):
            weight: jax.Array
            ends_in_mask: bool = eqx.field(static=True, default=True)

            def __call__(self, context):
                assert context.shape == (6, 3)
                return (context[:, :2] * context[:, 2:]).sum(0) @ self.weight

        x, elements, present = self.data(key, 0.9)
        flow = fd.MAF(key, (2,), context_shape=(6, 3), embedding=Total(jnp.eye(2)), **SMALL)
        flow = flow.data_init(x, with_mask(elements, present))
        embedded = flow.bijector.embed(with_mask(elements, present))
        loc, log_scale = flow.bijector.normalization.loc, flow.bijector.normalization.log_scale
        standard = (elements - loc) * jnp.exp(-log_scale)
        expected = jnp.where(present[..., None], standard, 0.0).sum(1)
        np.testing.assert_allclose(embedded, expected, rtol=1e-4, atol=1e-4)


class TestConditionalBase:
    @pytest.mark.parametrize("name", ["real_nvp", "maf", "nsf", "glow_1d", "iaf"])
    def test_location_and_scale_follow_the_context(self, name, key):
        flow = moved(table.RECIPES[name](key, (2,), context_shape=(3,), conditional_base=True), 0.1)
        conditioned = flow.condition(jnp.ones((4, 3)))
        x, scores = conditioned.sample_and_log_prob(key, (5,))
        np.testing.assert_allclose(conditioned.log_prob(x), scores, rtol=1e-4, atol=1e-4)

    def test_it_is_a_gaussian_whose_moments_are_a_network_of_the_context(self, x64):
        key = jax.random.key(0)
        flow = fd.MAF(key, (2,), context_shape=(1,), conditional_base=True, **SMALL)
        first = table.perturb(key, flow.bijector.bijector.layers[0], 0.3)
        rest = flow.bijector.bijector.layers[1:]
        flow = fd.ConditionalFlow(flow.base, fd.Embedded(fd.Chain([first, *rest]), (1,)))
        context = jnp.array([0.7])
        shift, log_scale = first.conditioner(context).reshape(2, 2)
        x = jnp.array([0.3, -1.2])
        expected = dist.Normal(shift, jnp.exp(log_scale)).log_prob(x).sum()
        np.testing.assert_allclose(flow.condition(context).log_prob(x), expected, rtol=LOG_DET_F64)


class TestSupport:
    @pytest.mark.parametrize("name", sorted(table.RECIPES))
    def test_every_draw_is_inside_and_nothing_has_density_outside(self, name, key):
        flow = moved(table.RECIPES[name](key, (2,), support=BOX.support), 1.0)
        draws = flow.sample(key, (20_000,))
        assert BOX.support(draws).all()
        outside = jnp.array([[0.2, 7.1], [0.0, 6.9], [jnp.inf, 7.1]])
        unchecked = fd.Flow(flow.base, flow.bijector, validate_args=False)
        scores, gradients = jax.vmap(jax.value_and_grad(unchecked.log_prob))(outside)
        assert (scores == -jnp.inf).all() and jnp.isfinite(gradients).all()

    def test_every_draw_is_inside_at_awkward_bounds(self, key):
        bounds = np.sort(np.random.default_rng(0).normal(size=(2, 500)).astype(np.float32) * 10, 0)
        prior = dist.Uniform(*bounds).to_event(1)
        wide = fd.Chain([fd.Affine(jnp.zeros(500), jnp.full(500, 30.0))])
        flow = fd.Flow(fd.StandardNormal((500,)), fd.Chain([wide, fd.to_support(prior.support)]))
        draws = flow.sample(key, (200,))
        assert ((draws >= bounds[0]) & (draws <= bounds[1])).all()

    def test_densities_on_a_box_integrate_to_one_for_each_context(self, x64):
        key = jax.random.key(0)
        flow = moved(fd.NSF(key, (2,), context_shape=(1,), support=BOX.support, **SMALL), 0.1)
        grids = [np.linspace(low, high, 801)[1:-1] for low, high in ((-0.3, 0.1), (7.0, 7.3))]
        points = jnp.stack(jnp.meshgrid(*grids, indexing="ij"), -1).reshape(-1, 2)
        cell = np.prod([grid[1] - grid[0] for grid in grids])
        total = jax.jit(lambda c, points: jnp.exp(flow.condition(c).log_prob(points)).sum())
        for context in ([0.0], [1.5], [-2.0]):
            mass = total(jnp.array(context), points) * cell
            np.testing.assert_allclose(mass, 1.0, atol=INTEGRAL)

    def test_one_constraint_for_each_element(self, x64):
        flow = moved(fd.MAF(jax.random.key(0), (3,), support=MIXED, **SMALL))
        x = flow.sample(jax.random.key(1), (1000,))
        assert (
            (x[:, 1] > 0).all() and ((x[:, 2] > -1) & (x[:, 2] < 3)).all() and (x[:, 0] < 0).any()
        )
        assert flow.support(x).all()
        assert not flow.support(jnp.array([[0.0, -1.0, 0.0], [0.0, 1.0, 4.0]])).any()
        plain = fd.Flow(flow.base, flow.bijector.layers[0])
        z = jnp.stack([x[:, 0], jnp.log(x[:, 1]), jnp.log((x[:, 2] + 1) / (3 - x[:, 2]))], -1)
        slopes = jnp.log(x[:, 1]) + jnp.log((x[:, 2] + 1) * (3 - x[:, 2]) / 4)
        np.testing.assert_allclose(
            flow.log_prob(x), plain.log_prob(z) - slopes, rtol=1e2 * ROUND_TRIP_F64
        )
        outside = jnp.array([0.0, -1.0, 0.0])
        unchecked = fd.Flow(flow.base, flow.bijector, validate_args=False)
        score, gradient = jax.value_and_grad(unchecked.log_prob)(outside)
        assert score == -jnp.inf and jnp.isfinite(gradient).all()

    def test_a_simplex_has_one_dimension_less(self, key):
        flow = moved(fd.NSF(key, (3,), support=constraints.simplex, **SMALL))
        x = flow.sample(key, (100,))
        np.testing.assert_allclose(x.sum(-1), 1.0, rtol=1e-5)
        assert flow.base.event_shape == (2,) and flow.event_shape == (3,)

    def test_nuts_stays_inside_of_mixed_supports(self, key):
        flow = moved(fd.MAF(key, (3,), support=MIXED, **SMALL), 0.1)

        def model():
            numpyro.sample("z", flow)

        mcmc = MCMC(NUTS(model), num_warmup=100, num_samples=100, progress_bar=False)
        mcmc.run(key)
        assert flow.support(mcmc.get_samples()["z"]).all()

    @pytest.mark.parametrize("support", [BOX.support, MIXED[1:], constraints.positive])
    @pytest.mark.parametrize("context_shape", [None, (2,)])
    def test_saved_without_a_template(self, support, context_shape, key, tmp_path):
        options = {"context_shape": context_shape, "conditional_base": context_shape is not None}
        flow = moved(fd.RealNVP(key, (2,), support=support, **options, **SMALL))
        fd.save(tmp_path / "flow", flow)
        loaded = fd.load(tmp_path / "flow")
        if context_shape:
            flow, loaded = (f.condition(jnp.ones(2)) for f in (flow, loaded))
        x = flow.sample(key, (10,))
        np.testing.assert_array_equal(loaded.log_prob(x), flow.log_prob(x))


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
        {"embedding": fd.MLP(jax.random.key(0), 5, 3)},
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


def test_misuse_of_contexts(key):
    flow = sets(key)
    for context, kind, message in (
        (None, ValueError, "missing"),
        (jnp.ones((6, 2)), ValueError, r"\(6, 2\)"),
        (jnp.ones((7, 2), int), TypeError, "floating"),
        (jnp.ones((7, 2)).at[3, 1].set(jnp.nan), ValueError, "must be finite, got NaN"),
        (jnp.ones((7, 2)).at[3, 1].set(-jnp.inf), ValueError, "must be finite, got infinity"),
    ):
        with pytest.raises(kind, match=message):
            flow.condition(context)


class TestClasses:
    @pytest.mark.parametrize("name", sorted(table.RECIPES))
    def test_a_label_is_a_context(self, name, key):
        flow = moved(table.RECIPES[name](key, (3,), num_classes=4), 0.1)
        x = jax.random.normal(key, (5, 3))
        labels = jnp.array([0, 1, 2, 3, 0])
        scores = flow.condition(labels).log_prob(x)
        one_hot = flow.condition(jax.nn.one_hot(labels, 4)).log_prob(x)
        np.testing.assert_array_equal(scores, one_hot)
        assert abs(flow.condition(1).log_prob(x[0]) - scores[0]) > 1e-4

    def test_labels_can_be_embedded(self, key):
        network = fd.MLP(key, 4, 3, hidden_sizes=(8,), output_scale=1.0)
        flow = moved(fd.MAF(key, (2,), num_classes=4, embedding=network, **SMALL))
        assert flow.condition(jnp.array([1, 3])).log_prob(jnp.ones(2)).shape == (2,)

    def test_misuse(self, key):
        flow = fd.MAF(key, (2,), num_classes=4, **SMALL)
        for labels in (4, -1):
            with pytest.raises(ValueError, match=f"labels from 0 to 3, got {labels}"):
                flow.condition(jnp.array([0, labels]))
        with pytest.raises(ValueError, match="both given"):
            fd.MAF(key, (2,), num_classes=4, context_shape=(4,), **SMALL)
        with pytest.raises(ValueError, match="num_classes"):
            fd.MAF(key, (2,), num_classes=0, **SMALL)
