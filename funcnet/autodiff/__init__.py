"""Derivatives of functions of trees.

Gradients, products, matrices and their summaries; gradients of each example; derivatives of higher
order and of solutions; rules of one's own; checks.
"""

from funcnet.autodiff.checking import GradReport, GradRow, assert_grads, check_grads
from funcnet.autodiff.curvature import (
    empirical_fisher_operator,
    fisher_operator,
    gauss_newton_operator,
)
from funcnet.autodiff.diagonals import (
    Estimate,
    diagonal,
    estimate_diagonal,
    estimate_trace,
    trace,
)
from funcnet.autodiff.gradients import grad, value_and_grad
from funcnet.autodiff.higher import nth_derivative, partial, taylor
from funcnet.autodiff.laplacians import laplacian
from funcnet.autodiff.matrices import hessian, jacobian
from funcnet.autodiff.operators import LinearOperator, hessian_operator, jacobian_operator
from funcnet.autodiff.per_example import (
    ClippedSum,
    NoiseScale,
    clipped_sum,
    gram,
    noise_scale,
    per_example_grads,
    per_example_norms,
)
from funcnet.autodiff.products import (
    empirical_fisher_vp,
    fisher_vp,
    gauss_newton_vp,
    hvp,
    jvps,
    vjps,
)
from funcnet.autodiff.rules import (
    clip_gradient,
    remat,
    reverse_gradient,
    score_function,
    stop_gradient,
    straight_through,
)
from funcnet.autodiff.solutions import argmin, fixed_point, implicit, linear_solve, root, unrolled
from funcnet.autodiff.spectrum import Eigenpairs, eigenpairs, power_iteration

__all__ = [
    "ClippedSum",
    "Eigenpairs",
    "Estimate",
    "GradReport",
    "GradRow",
    "LinearOperator",
    "NoiseScale",
    "argmin",
    "assert_grads",
    "check_grads",
    "clip_gradient",
    "clipped_sum",
    "diagonal",
    "eigenpairs",
    "empirical_fisher_operator",
    "empirical_fisher_vp",
    "estimate_diagonal",
    "estimate_trace",
    "fisher_operator",
    "fisher_vp",
    "fixed_point",
    "gauss_newton_operator",
    "gauss_newton_vp",
    "grad",
    "gram",
    "hessian",
    "hessian_operator",
    "hvp",
    "implicit",
    "jacobian",
    "jacobian_operator",
    "jvps",
    "laplacian",
    "linear_solve",
    "noise_scale",
    "nth_derivative",
    "partial",
    "per_example_grads",
    "per_example_norms",
    "power_iteration",
    "remat",
    "reverse_gradient",
    "root",
    "score_function",
    "stop_gradient",
    "straight_through",
    "taylor",
    "trace",
    "unrolled",
    "value_and_grad",
    "vjps",
]
