"""Every tolerance of the test suite, each with its reason.

A test that needs a looser one has found a defect, or belongs here under a name of its own.
"""

# Exactness, in double precision: what is left is rounding, at condition numbers up to about 1e6.
ROUND_TRIP_F64 = 1e-9  # inverse(forward(x)) against x
LOG_DET_F64 = 1e-9  # a log-determinant against the Jacobian's by automatic differentiation
GRADIENT_F64 = 1e-7  # a hand-written derivative against automatic differentiation of the formula

# The same in single precision, relative to the size of the values.
ROUND_TRIP_F32 = 1e-4  # rounding (6e-8) times the condition number of a deep flow (about 1e3)
LOG_DET_F32 = 1e-4  # as above: the log-determinant is evaluated at the point reached
AGREE_F32 = 1e-6  # one quantity computed in two ways that round alike (batched, looped, vmapped)

RECONSTRUCTION_F32 = 1e-3  # in grey levels of 256: 64 steps at their start, each rounded (6e-8)
RECONSTRUCTION_TRAINED_F32 = 1e-2  # the same of 96 trained steps, which magnify it; 0.5 is visible
INVERTED_GRADIENT_F32 = 5e-3  # 32 layers' inputs computed back from their outputs, each rounded
INVERTED_GLOW_GRADIENT_F32 = 2e-5  # the same of a small Glow, whose steps magnify errors less
AGREE_BFLOAT16 = 0.05  # relative to the largest output: three layers of 8 bits

# Derivatives by central differences, in double precision.
FINITE_DIFFERENCE_F64 = 1e-6  # a step of 1e-5 truncates and rounds to about 1e-10, times curvature

# Monte Carlo.
STANDARD_ERRORS = 5.0  # allowed deviation of a mean: 6e-7 two-sided, for a suite of thousands
P_VALUE = 1e-4  # least p-value of a goodness-of-fit test at a fixed seed

# Integrals of a density on a grid.
INTEGRAL = 1e-3  # total mass against one: discretization and the tails cut off

# Training.
TRAINED = 1e-3  # an expected loss, in nats per datum, above a minimum known in closed form
