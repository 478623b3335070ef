"""What the author of a layer may leave out, and what is refused at once."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import flowdists as fd

pytestmark = pytest.mark.smoke


class TestAuthors:
    def test_missing_methods_fail_at_construction(self):
        class Half(fd.Bijector):
            event_shape: tuple = fd.static()

            def forward_and_log_det(self, x, context=None):
                return x, jnp.zeros(x.shape[:-1])

        with pytest.raises(TypeError, match="inverse_and_log_det"):
            Half((2,))

    def test_half_a_layer_needs_no_event_shape(self):
        class OneWay(fd.Bijector):
            def inverse_and_log_det(self, y, context=None):
                return y, jnp.zeros(y.shape[:-1])

        with pytest.raises(TypeError, match="forward_and_log_det"):
            OneWay()

    @pytest.mark.parametrize("shape", [(), (2,)])
    def test_a_log_det_of_another_shape_is_broadcast_or_refused(self, shape):
        class Doubling(fd.Bijector):
            event_shape: tuple = fd.static(default=(2,))

            def forward_and_log_det(self, x, context=None):
                return 2 * x, jnp.full(shape, 2 * jnp.log(2.0))

            def inverse_and_log_det(self, y, context=None):
                return y / 2, jnp.full(shape, -2 * jnp.log(2.0))

        flow = fd.Flow(fd.StandardNormal((3, 2)), Doubling())
        if shape == ():
            expected = dist.Normal(0, 2).log_prob(jnp.zeros((3, 2))).sum()
            np.testing.assert_allclose(flow.log_prob(jnp.zeros((3, 2))), expected, rtol=1e-6)
        else:
            with pytest.raises(ValueError, match="batch shape"):
                flow.log_prob(jnp.zeros((3, 2)))

    def test_a_layer_without_fields_takes_no_arguments(self):
        class Negative(fd.Bijector):
            event_shape = None
            event_ndims_in = event_ndims_out = 0

            def forward_and_log_det(self, x, context=None):
                return -x, jnp.zeros_like(x)

            def inverse_and_log_det(self, y, context=None):
                return -y, jnp.zeros_like(y)

        assert Negative()(jnp.array(2.0)) == -2.0
        assert jax.tree.leaves(Negative()) == []

    def test_a_missing_event_shape_fails_at_definition(self):
        with pytest.raises(TypeError, match="event_shape"):

            class Shapeless(fd.Bijector):
                def forward_and_log_det(self, x, context=None):
                    return x, x

                def inverse_and_log_det(self, y, context=None):
                    return y, y

    def test_static_defaults_do_not_hide_behind_to_tfp(self):
        class Power(fd.Bijector):
            exponent: int = fd.static(default=1)

            @property
            def event_shape(self):
                return ()

            def forward_and_log_det(self, x, context=None):
                return x**self.exponent, jnp.log(self.exponent * x ** (self.exponent - 1))

            def inverse_and_log_det(self, y, context=None):
                x = y ** (1 / self.exponent)
                return x, -jnp.log(self.exponent * x ** (self.exponent - 1))

        wrapped = distrax.to_tfp(Power(3))
        np.testing.assert_allclose(wrapped.inverse(jnp.array(8.0)), 2.0, rtol=1e-6)
