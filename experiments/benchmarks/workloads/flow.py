"""One training step of a continuous normalising flow: loss and gradient.

The velocity is W3 tanh(W2 tanh(W1 [x, t] + b1) + b2) + b3 in the plane. The loss is the mean
negative log-likelihood of a batch of two moons, by the exact divergence and a normal base.

All routes have the same weights and points, dopri5, and the same tolerances. Their controllers are
those that users get: torchdyn and torchdiffeq bound the error of points and log-densities together
as neuralflow and diffrax do, each by its own rules, and bijx begins with its own first step of
0.05. "Per sample" and "vmapped" are solves whose points have steps of their own. In the others,
the points of a batch share their steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from flax import nnx

import neuralflow as nf
from experiments.benchmarks.compare import Route, Workload, torch_routes
from experiments.benchmarks.data.training import moons, perceptron
from experiments.benchmarks.plan import Plan
from experiments.stages.stage import Case


def layer(per_sample: bool, **case: Any) -> Any:
    """Build a `NormalisingFlow`."""
    import numpyro.distributions as dist

    field = nf.fields.MLP(2, hidden=case["hidden"], layers=2, time=True, rngs=nnx.Rngs(0))
    tolerance = case["tolerance"]
    solve = nf.Adaptive(nf.Dopri5(), rtol=tolerance, atol=tolerance, per_sample=per_sample)
    base = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
    flow = nf.transport.NormalisingFlow(nf.NeuralODE(field, solve), base)
    graphdef, params, rest = nnx.split(flow, nnx.Param, ...)

    def log_prob(weights: Any, x: Any) -> Any:
        ordered = [array for kernel, bias in weights for array in (bias, kernel)]
        params_now = jax.tree.unflatten(jax.tree.structure(params), ordered)
        with nf.tally() as work:
            density = nnx.merge(graphdef, params_now, rest).log_prob(x)
        return density, work.accepted

    return built(log_prob, **case)


def solve(vmapped: bool, **case: Any) -> Any:
    """Build plain `diffeqsolve`, with its default gradient and the trace of every Jacobian."""
    control = diffrax.PIDController(rtol=case["tolerance"], atol=case["tolerance"])

    def moving(t: Any, x: Any, weights: Any) -> Any:
        """Return the velocity of one point, and its divergence."""
        velocity, pull = jax.vjp(lambda x: perceive(weights, jnp.append(x, t)), x)
        return velocity, jnp.trace(jax.vmap(pull)(jnp.eye(2))[0])

    def walk(term: Any, x: Any, gained: Any, weights: Any) -> Any:
        solution: Any = diffrax.diffeqsolve(
            diffrax.ODETerm(term), diffrax.Dopri5(), 0.0, 1.0, None, (x, gained), weights,
            stepsize_controller=control,
        )  # fmt: skip
        (y,), (gained,) = solution.ys
        return normal(y) + gained, solution.stats["num_accepted_steps"]

    def alone(weights: Any, x: Any) -> Any:
        density, steps = jax.vmap(
            lambda x: walk(lambda t, state, w: moving(t, state[0], w), x, jnp.zeros(()), weights)
        )(x)
        return density, jnp.mean(steps)

    def together(weights: Any, x: Any) -> Any:
        def term(t: Any, state: Any, weights: Any) -> Any:
            return jax.vmap(moving, in_axes=(None, 0, None))(t, state[0], weights)

        return walk(term, x, jnp.zeros(len(x)), weights)

    return built(alone if vmapped else together, **case)


def perceive(weights: Any, x: Any) -> Any:
    """Return the output of a perceptron, as written by hand."""
    *hidden, (kernel, bias) = weights
    for w, b in hidden:
        x = jnp.tanh(x @ w + b)
    return x @ kernel + bias


def normal(y: Any) -> Any:
    """Return the log-density of a standard normal distribution."""
    return jax.scipy.stats.norm.logpdf(y).sum(-1)


def built(log_prob: Callable[[Any, Any], Any], batch: int, hidden: int, tolerance: float) -> Any:
    """Return the compiled loss with its gradient, and its arguments."""

    def loss(weights: Any, x: Any) -> Any:
        density, steps = log_prob(weights, x)
        return -density.mean(), steps

    def step(weights: Any, x: Any) -> Any:
        (value, steps), gradient = jax.value_and_grad(loss, has_aux=True)(weights, x)
        named = {
            f"{name} {k}": array
            for k, pair in enumerate(gradient)
            for name, array in zip(("kernel", "bias"), pair, strict=True)
        }
        return {"loss": value, "steps": steps, **named}

    weights = perceptron((3, hidden, hidden, 2))
    return jax.jit(step), (jax.tree.map(jnp.asarray, weights), jnp.asarray(moons(batch)))


HAND = "workloads.flow"


DIFFEQ = ("torch", "torchdiffeq")
TORCH = (
    *torch_routes("peers.flow_torch:torchdiffeq", "torchdiffeq", DIFFEQ, adjoint=False),
    *torch_routes(
        "peers.flow_torch:torchdiffeq", "torchdiffeq, adjoint", DIFFEQ, (1,), adjoint=True
    ),
    *torch_routes("peers.flow_torch:torchdyn", "torchdyn", ("torch", "torchdyn")),
)
WORKLOAD = Workload(
    routes=(
        Route("shared steps", f"{HAND}:layer", {"per_sample": False}, ("numpyro",)),
        Route("per sample", f"{HAND}:layer", {"per_sample": True}, ("numpyro",)),
        Route("diffrax", f"{HAND}:solve", {"vmapped": False}),
        Route("diffrax, vmapped", f"{HAND}:solve", {"vmapped": True}),
        Route("bijx", "peers.flow_bijx:flow", {}, ("bijx",), "bijx"),
        *TORCH,
    ),
    pairs=(
        ("shared steps", "diffrax"),
        ("per sample", "diffrax, vmapped"),
        *(("shared steps", name) for name in ("bijx", *(route.name for route in TORCH))),
    ),
    same={
        "loss": 1e-3,
        **{f"{name} {k}": 5e-3 for name in ("kernel", "bias") for k in range(3)},
    },
    told=("steps",),
    causes={
        "diffrax, vmapped": "most of the time goes to kernels in which XLA joins the products of "
        "both directions with their sum (a gradient in the points: 50 of 70 ms)",
    },
)


def cases(plan: Plan) -> Iterator[Case]:
    batch, hidden = (4, 4) if plan.quick else (256, 64)
    case = {"batch": batch, "hidden": hidden, "tolerance": 1e-4}
    yield WORKLOAD.case(f"two moons, batch {batch}, {hidden} hidden units", case, plan)
