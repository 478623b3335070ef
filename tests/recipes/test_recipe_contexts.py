"""What every recipe makes of its contexts: their units, their embedding, sets with a mask."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import flowdists as fd
from flowdists.transformers import ShiftScale
from tests import table
from tests.draws import drawn
from tests.tolerances import FINITE_DIFFERENCE_F64, LOG_DET_F64

SMALL = {"num_layers": 2, "hidden_sizes": (6,), "activation": "tanh"}


@jax.jit
def score(flow, context, x):
    return flow.condition(context).log_prob(x)


@jax.jit
def initialized(flow, x, context):
    return flow.data_init(x, context)


def conditional(event_shape, context_shape, make_embedding=lambda key: None):
    def make(key):
        options = {"embedding": make_embedding(key), "context_shape": context_shape, **SMALL}
        return fd.MAF(key, event_shape, **options)

    return drawn(make, 0.4)


def deep_sets(key, **options):
    return fd.DeepSets(key, 2, 4, hidden_sizes=(6,), activation="tanh", **options)


@pytest.mark.usefixtures("x64")
class TestSets:
    @staticmethod
    @functools.cache
    def flow():
        return conditional((3,), (7, 2), deep_sets)

    context, x = np.random.default_rng(0).normal(size=(5, 7, 2)), np.linspace(-1, 2, 60)
    x = x.reshape(4, 5, 3)

    def test_a_set_has_no_order(self):
        scores = score(self.flow(), self.context, self.x)
        reversed_scores = score(self.flow(), self.context[:, ::-1], self.x)
        np.testing.assert_allclose(reversed_scores, scores, rtol=LOG_DET_F64)
        other = score(self.flow(), self.context + 1.0, self.x)
        assert np.mean(np.abs(np.asarray(other) - scores) > 1e-3) > 0.9

    def test_batched_looped_and_vmapped_agree(self):
        traces = []

        @jax.jit
        def one(flow, context, x):
            traces.append(None)
            return flow.condition(context).log_prob(x)

        scores = score(self.flow(), self.context, self.x)
        looped = [one(self.flow(), self.context[i], self.x[:, i]) for i in range(5)]
        assert len(traces) == 1
        np.testing.assert_allclose(scores, np.stack(looped, -1), rtol=LOG_DET_F64)
        vmapped = jax.jit(jax.vmap(one, (None, 0, 1), 1))(self.flow(), self.context, self.x)
        np.testing.assert_allclose(scores, vmapped, rtol=LOG_DET_F64)

    def test_gradients_of_context_and_embedding(self):
        primals = self.flow(), self.context
        tangents = table.perturb(jax.random.key(1), jax.tree.map(np.zeros_like, primals), 1.0)
        loss = lambda flow, context: flow.condition(context).log_prob(self.x).sum()
        value_and_grad = jax.jit(jax.value_and_grad(loss, (0, 1)))
        _, gradients = value_and_grad(*primals)
        gradients, primals, tangents = jax.tree.map(np.asarray, (gradients, primals, tangents))
        for leaf in jax.tree.leaves(gradients[0].bijector.embedding):
            assert np.abs(leaf).max() > 1e-8
        move = lambda by: jax.tree.map(lambda a, d: a + by * d, primals, tangents)
        ahead, behind = (float(value_and_grad(*move(by))[0]) for by in (1e-6, -1e-6))
        pairs = zip(*map(jax.tree.leaves, (gradients, tangents)), strict=True)
        slope = sum(np.vdot(g, d) for g, d in pairs)
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=FINITE_DIFFERENCE_F64)

    def test_the_layer_inside_of_others(self):
        @jax.jit
        def scores(flow, context, key):
            layer = fd.Chain([flow.bijector, fd.to_support(constraints.positive)])
            nested = fd.ConditionalFlow(flow.base, layer).condition(context)
            x = nested.sample(key, (20,))
            expected = flow.condition(context).log_prob(jnp.log(x)) - jnp.log(x).sum(-1)
            return nested.log_prob(x), expected, nested.log_prob(-x)

        given, expected, outside = scores(self.flow(), self.context[0], jax.random.key(2))
        np.testing.assert_allclose(given, expected, rtol=LOG_DET_F64)
        np.testing.assert_array_equal(outside, -np.inf)

    def test_saved_with_a_template(self, tmp_path):
        flow = self.flow()
        fd.save(tmp_path / "flow", flow)
        loaded = fd.load(tmp_path / "flow", like=table.perturb(jax.random.key(9), flow))
        np.testing.assert_array_equal(
            score(loaded, self.context, self.x), score(flow, self.context, self.x)
        )
        with pytest.raises(ValueError, match=r"DeepSets.*like"):
            fd.load(tmp_path / "flow")

    @pytest.mark.parametrize(
        ("context", "kind", "message"),
        [
            (None, ValueError, "missing"),
            (np.ones((6, 2)), ValueError, r"\(6, 2\)"),
            (np.ones((7, 2), int), TypeError, "floating"),
            (np.full((7, 2), [1.0, np.nan]), ValueError, "must be finite, got NaN"),
            (np.full((7, 2), [1.0, -np.inf]), ValueError, "must be finite, got infinity"),
        ],
    )
    def test_misuse_of_contexts(self, context, kind, message):
        with pytest.raises(kind, match=message):
            self.flow().condition(context)


def test_each_context_is_embedded_once(key):
    calls = []

    class Counting(eqx.Module):
        weight: jax.Array

        def __call__(self, context):
            calls.append(context.shape)
            return context @ self.weight

    def use(key):
        network = Counting(jnp.ones((2, 4)))
        flow = fd.RealNVP(key, (3,), context_shape=(2,), embedding=network, **SMALL)
        calls.clear()
        conditioned = flow.condition(jnp.ones((5, 2)))
        return conditioned.log_prob(jnp.ones((100, 5, 3))), conditioned.sample(key, (10,))

    jax.eval_shape(use, key)
    assert calls == [(2,)]


class TestUnits:
    x = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    context = np.random.default_rng(1).normal(size=(100, 2)).astype(np.float32)

    @staticmethod
    @functools.cache
    def flow():
        return conditional((2,), (2,))

    @pytest.mark.parametrize("unit", [1e-30, 1e25])
    def test_contexts_in_any_unit_are_seen(self, unit):
        unit = np.float32(unit)
        flow = initialized(self.flow(), self.x, self.context)
        scores = np.asarray(score(flow, self.context, self.x))
        scaled = initialized(self.flow(), self.x, unit * self.context)
        np.testing.assert_allclose(
            score(scaled, unit * self.context, self.x), scores, rtol=1e-4, atol=1e-4
        )
        assert np.abs(score(flow, 2 * self.context, self.x) - scores).max() > 0.1

    @pytest.mark.parametrize("context_shape", [(), (2,), (2, 3, 2)])
    def test_contexts_of_any_rank_are_standardized(self, context_shape):
        """Each channel, over all other axes."""
        loc, scale = ([1e4, -50.0], [300.0, 1e-3]) if context_shape else (-50.0, 1e-3)
        draws = np.random.default_rng(0).normal(size=(500, *context_shape))
        context = (np.array(loc) + np.array(scale) * draws).astype(np.float32)

        def embedded(key, context):
            inner = fd.ContextElementwise(
                key, (3,), context_shape, transformer=ShiftScale(), hidden_sizes=()
            )
            layer, _ = fd.Embedded(inner, context_shape).data_init(jnp.ones((500, 3)), context)
            return layer.embed(context)

        result = np.asarray(jax.jit(embedded)(jax.random.key(0), context))
        assert result.shape == context.shape
        others = tuple(range(max(1, result.ndim - 1)))
        np.testing.assert_allclose(result.mean(others), 0.0, atol=0.02)
        np.testing.assert_allclose(result.std(others), 1.0, rtol=0.02)

    @pytest.mark.parametrize("context_shape", [(), (4,), (2, 2, 4)])
    def test_contexts_of_any_rank_are_taken(self, context_shape, key):
        def use(key):
            flow = fd.MAF(key, (2,), context_shape=context_shape, **SMALL)
            assert flow.context_shape == context_shape
            context = jnp.ones((50, *context_shape))
            flow = flow.data_init(jnp.ones((50, 2)), context)
            return flow.condition(context).log_prob(jnp.ones((50, 2)))

        assert jax.eval_shape(use, key).shape == (50,)


def with_mask(elements, present):
    return np.concatenate([elements, present[..., None]], -1, dtype=np.float32)


@functools.cache
def sets_in_large_units(share):
    """Events, sets of six elements far from standard units, and which of these are there."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)).astype(np.float32)
    elements = 100.0 + 20.0 * (x[:, None] + rng.normal(size=(200, 6, 2)))
    return x, elements.astype(np.float32), rng.uniform(size=(200, 6)) < share


class TestMaskedSets:
    """Sets of different sizes as contexts, in units far from standard ones."""

    @staticmethod
    @functools.cache
    def flow():
        return conditional((2,), (6, 3), functools.partial(deep_sets, masked=True))

    @pytest.mark.parametrize("share", [1.0, 0.9, 0.3])
    def test_what_is_there_counts_and_nothing_else(self, share):
        x, elements, present = sets_in_large_units(share)
        filled = lambda elements, filler: with_mask(
            np.where(present[..., None], elements, filler), present
        )
        context = filled(elements, 1e6)
        flow = initialized(self.flow(), x, context)
        scores = np.asarray(score(flow, context, x))
        moved_scores = np.asarray(score(flow, filled(elements + 30.0, 1e6), x))
        some = present.any(-1)
        assert (np.abs(moved_scores - scores)[some] > 1e-3).mean() > 0.9
        for filler in (0.0, -1e20):
            np.testing.assert_array_equal(score(flow, filled(elements, filler), x), scores)
        np.testing.assert_allclose(score(flow, context[:, ::-1], x), scores, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("share", [1.0, 0.9, 0.3])
    def test_they_are_standardized_by_what_is_there(self, share):
        x, elements, present = sets_in_large_units(share)
        context = with_mask(np.where(present[..., None], elements, 1e6), present)
        norm = initialized(self.flow(), x, context).bijector.normalization
        there = elements[present]
        np.testing.assert_allclose(norm.loc, there.mean(0), rtol=1e-5)
        np.testing.assert_allclose(np.exp(norm.log_scale), there.std(0), rtol=1e-5)

    def test_fillers_of_nan_leave_values_and_gradients_alone(self):
        x, elements, present = sets_in_large_units(0.3)
        flow = initialized(self.flow(), x, with_mask(elements, present))
        loss = lambda flow, context: flow.condition(context).log_prob(x).sum()
        value_and_grad = jax.jit(jax.value_and_grad(loss))
        expected, given = (
            value_and_grad(flow, with_mask(np.where(present[..., None], elements, filler), present))
            for filler in (0.0, np.nan)
        )
        for a, b in zip(*map(jax.tree.leaves, (given, expected)), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_nan_in_what_is_there_or_in_the_mask_is_not_hidden(self):
        x, elements, present = sets_in_large_units(1.0)
        context = with_mask(elements, present)
        flow = initialized(self.flow(), x, context)
        context = context.copy()  # JAX may still be reading the other one
        context[0, 2, 0] = context[1, 2, 2] = np.nan
        is_nan = np.isnan(score(flow, context, x))
        assert is_nan[:2].all() and not is_nan[2:].any()

    def test_another_network_may_have_a_mask(self):
        class Total(eqx.Module):
            weight: jax.Array
            ends_in_mask: bool = eqx.field(static=True, default=True)

            def __call__(self, context):
                assert context.shape == (6, 3)
                return (context[:, :2] * context[:, 2:]).sum(0) @ self.weight

        x, elements, present = sets_in_large_units(0.9)

        @jax.jit
        def embed(key, x, context):
            inner = fd.ContextElementwise(
                key, (2,), (2,), transformer=ShiftScale(), hidden_sizes=()
            )
            layer = fd.Embedded(inner, (6, 3), embedding=Total(jnp.eye(2)))
            layer, _ = layer.data_init(x, context)
            return layer.embed(context), layer.normalization

        embedded, norm = embed(jax.random.key(0), x, with_mask(elements, present))
        standard = (elements - norm.loc) * np.exp(-np.asarray(norm.log_scale))
        expected = np.where(present[..., None], standard, 0.0).sum(1)
        np.testing.assert_allclose(embedded, expected, rtol=1e-4, atol=1e-4)
