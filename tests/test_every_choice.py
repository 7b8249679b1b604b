"""Every two choices together: kinds of field, schemes, memory, dtypes, transformations, contexts.

A cell makes one choice of each kind. It agrees with steps that are written out by hand, or with a
fine walk that is written out by hand, or it is refused in a sentence that `refuses` foretells.
"""

import functools
import itertools
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.covering import covering, pairs

import neuralflow as nf
from neuralflow import schemes as S
from neuralflow.checks import InputError

STEPS, FINE = 4, 8
T0, T1 = 0.2, 1.0
FIXED = ("full", "remat", "two_level", "reversible")
ADAPTIVE = {
    "steps": {},
    "direct": {"gradient": "direct"},
    "continuous": {"gradient": "continuous"},
    "per_sample": {"per_sample": True, "output": "stepped"},
}


SMALL = nnx.initializers.normal(0.3)


# The fields, once as modules and once as functions of their weights.


def gated(v, context):
    """A velocity times one number or truth value per sample."""
    if context is None:
        return v
    return v * context.reshape(context.shape + (1,) * (v.ndim - context.ndim)).astype(v.dtype)


def like(t, x):
    """A depth time in the real dtype of a state: times of states in bfloat16 are float32."""
    return t.astype(x.real.dtype)


class Dense(nnx.Module):
    """tanh(W x + b), the plain field."""

    def __init__(self, rngs, dtype, width=2):
        self.dense = nnx.Linear(
            width, width, kernel_init=SMALL, bias_init=SMALL, param_dtype=dtype, rngs=rngs
        )

    def __call__(self, x, context=None):
        return gated(jnp.tanh(self.dense(x)), context)


class Timed(Dense):
    """(1 + t) tanh(W x + b)."""

    def __call__(self, x, t, context=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        return like(1 + t, x) * super().__call__(x, context)


class Outer(nnx.Module):
    """A user's module with a part that varies with depth, and a weight that does not."""

    def __init__(self, rngs, dtype):
        make = functools.partial(Dense, dtype=dtype)
        self.inner = nf.DepthVarying(make, nf.Legendre(3), rngs=rngs)
        self.scale = nnx.Param(jnp.asarray([0.7, -0.4], dtype))

    def __call__(self, x, t, context=None):
        return self.scale * self.inner(x, context=context)


class Convolved(nnx.Module):
    def __init__(self, rngs, dtype):
        self.conv = nnx.Conv(
            2, 2, (3,), kernel_init=SMALL, bias_init=SMALL, param_dtype=dtype, rngs=rngs
        )

    def __call__(self, x, context=None):
        return gated(jnp.tanh(self.conv(x)), context)


class Normed(nnx.Module):
    """Batch normalisation in evaluation."""

    def __init__(self, rngs, dtype):
        self.norm = nnx.BatchNorm(
            2,
            use_running_average=True,
            epsilon=2**-10,
            scale_init=SMALL,
            bias_init=SMALL,
            param_dtype=dtype,
            rngs=rngs,
        )
        self.norm.mean[...] = jnp.asarray([0.25, -0.5], dtype)
        self.norm.var[...] = jnp.asarray([0.5, 2.0], dtype)

    def __call__(self, x, context=None):
        return gated(jnp.tanh(self.norm(x)).astype(x.dtype), context)  # statistics are float32


class Dropped(Dense):
    """Dropout in training."""

    def __init__(self, rngs, dtype):
        super().__init__(rngs, dtype)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, context=None):
        return self.drop(super().__call__(x, context))


def varying(module, basis):
    return lambda rngs, dtype: nf.DepthVarying(
        functools.partial(module, dtype=dtype), basis, rngs=rngs
    )


def function(params, x, t, context=None):
    """A plain function, whose state is a dictionary."""
    a, b = x["a"], x["b"]
    rate = params["rate"]
    return {
        "a": gated(rate * a + b[..., None], context),
        "b": -b * jnp.sum(a, -1) + like(jnp.sin(t), b),
    }


MODULES = {
    "plain": Dense,
    "mlp_time": lambda rngs, dtype: nf.fields.MLP(
        2,
        hidden=3,
        activation=jnp.sin,
        out_kernel_init=SMALL,
        time=True,
        param_dtype=dtype,
        rngs=rngs,
    ),
    "constant": varying(Timed, nf.PiecewiseConstant(STEPS)),
    "linear": varying(Timed, nf.PiecewiseLinear(STEPS)),
    "nested": Outer,
    "function": lambda rngs, dtype: nf.from_function(
        function, {"rate": jnp.asarray([0.8, -0.5], dtype)}
    ),
    "coupled": lambda rngs, dtype: nf.fields.Coupled(Dense(rngs, dtype, 1), Dense(rngs, dtype, 1)),
    "conv": Convolved,
    "batchnorm": Normed,
    "dropout": Dropped,
}


def dense(p, x):
    return jnp.tanh(x @ p["dense"]["kernel"] + p["dense"]["bias"])


def constant(p, s):
    return jax.tree.map(lambda a: a[s[0]], p)


def linear(p, s):
    return jax.tree.map(lambda a: (1 - s[1]) * a[s[0]] + s[1] * a[s[0] + 1], p)


def legendre(p, s):
    z = 2 * sum(s) / STEPS - 1
    return jax.tree.map(lambda a: a[0] + z * a[1] + (3 * z * z - 1) / 2 * a[2], p)


def perceptron(p, x, t, s, key):
    first, last = p["dense"][0], p["dense"][1]
    x = jnp.concatenate([x, jnp.full((*x.shape[:-1], 1), t, x.dtype)], -1)
    return jnp.sin(x @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"]


def convolved(p, x, t, s, key):
    kernel, n = p["conv"]["kernel"], x.shape[-2]
    wide = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (0, 0)])
    moved = sum(wide[..., j : j + n, :] @ kernel[j] for j in range(3))
    return jnp.tanh(moved + p["conv"]["bias"])


def normed(p, x, t, s, key):
    mean = np.asarray([0.25, -0.5], x.real.dtype)
    x = (x - mean) / np.sqrt(np.asarray([0.5, 2.0]) + 2**-10).astype(x.real.dtype)
    return jnp.tanh(x * p["norm"]["scale"] + p["norm"]["bias"])


def dropped(p, x, t, s, key):
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), dense(p, x) / 0.5, 0)


VELOCITIES = {
    "plain": lambda p, x, t, s, key: dense(p, x),
    "mlp_time": perceptron,
    "constant": lambda p, x, t, s, key: (1 + t) * dense(constant(p["stack"], s), x),
    "linear": lambda p, x, t, s, key: (1 + t) * dense(linear(p["stack"], s), x),
    "nested": lambda p, x, t, s, key: p["scale"] * dense(legendre(p["inner"]["stack"], s), x),
    "coupled": lambda p, x, t, s, key: jnp.concatenate(
        [dense(p["first"], x[..., 1:]), dense(p["second"], x[..., :1])], -1
    ),
    "conv": convolved,
    "batchnorm": normed,
    "dropout": dropped,
}


def velocity(kind, context, p, x, t, s, key):
    """The velocity by hand, at the depth time t and the place s: a cell and a share of it."""
    if kind == "function":
        a, b = x["a"], x["b"]
        moved = gated(p["params"]["rate"] * a + b[..., None], context)
        return {"a": moved, "b": -b * jnp.sum(a, -1) + jnp.sin(t)}
    return gated(VELOCITIES[kind](p, x, t, s, key), context)


# The schemes, once as the library's and once as steps of a state and what is carried beside it.


def plus(x, *terms):
    for factor, v in terms:
        x = jax.tree.map(lambda a, b, c=factor: a + c * b, x, v)
    return x


def runge_kutta(weights, shares, final):
    """The step of a tableau; a stage that needs itself is found by iteration."""

    def step(f, h, x, carried):
        ks = []
        for row, c in zip(weights, shares, strict=True):
            moved = plus(x, *((h * a, k) for a, k in zip(row, ks, strict=False) if a))
            k, own = f(c, moved), row[len(ks)] if len(row) > len(ks) else 0.0
            for _ in range(30 if own else 0):
                k = f(c, plus(moved, (h * own, k)))
            ks.append(k)
        return plus(x, *((h * b, k) for b, k in zip(final, ks, strict=True) if b)), carried

    return step


def of_tableau(tableau):
    """The step of a tableau of diffrax, whose last stages that only serve the error are left."""
    diagonal = tableau.a_diagonal
    weights: list[Any] = [[], *tableau.a_lower]
    if diagonal is not None:
        weights = [[*row, d] if d else row for row, d in zip(weights, diagonal, strict=True)]
    weights = [list(map(float, row)) for row in weights]
    return runge_kutta(weights, [0.0, *map(float, tableau.c)], list(map(float, tableau.b_sol)))


heun = runge_kutta([[], [1.0]], [0.0, 1.0], [0.5, 0.5])
midpoint = runge_kutta([[], [0.5]], [0.0, 0.5], [0.0, 1.0])
rk4 = runge_kutta(
    [[], [0.5], [0.0, 0.5], [0.0, 0.0, 1.0]], [0.0, 0.5, 0.5, 1.0], [1 / 6, 1 / 3, 1 / 3, 1 / 6]
)


def revnet(f, h, x, carried):
    first, second = x[..., :1], x[..., 1:]
    first = first + h * f(0.0, x)[..., :1]
    second = second + h * f(1.0, jnp.concatenate([first, second], -1))[..., 1:]
    return jnp.concatenate([first, second], -1), carried


def reversible(f, h, y, z):
    z = y if z is None else z
    ahead = plus(midpoint(f, h, z, None)[0], (-1, z))
    y = jax.tree.map(lambda y, z, p: 0.999 * y + 0.001 * z + p, y, z, ahead)
    back = plus(midpoint(lambda c, x: f(1 - c, x), -h, y, None)[0], (-1, y))
    return y, plus(z, (-1, back))


def adams_bashforth(f, h, x, before):
    if before is None:
        k = f(0.0, x)
        f.calls = 0
        return rk4(f, h, x, None)[0], k
    k = f(0.0, x)
    return plus(x, (1.5 * h, k), (-0.5 * h, before)), k


def leapfrog(f, h, x, before):
    k = f(0.0, x)
    return (plus(x, (h, k)) if before is None else plus(before, (2 * h, k))), x


SCHEMES = {
    "euler": (nf.Euler(), runge_kutta([[]], [0.0], [1.0])),
    "heun": (nf.Heun(), heun),
    "tsit5": (nf.Tsit5(), of_tableau(diffrax.Tsit5.tableau)),
    "dopri8": (nf.Dopri8(), of_tableau(diffrax.Dopri8.tableau)),
    "implicit_euler": (nf.ImplicitEuler(), runge_kutta([[1.0]], [1.0], [1.0])),
    "kvaerno3": (nf.Kvaerno3(), of_tableau(diffrax.Kvaerno3.tableau)),
    "revnet": (S.RevNet(), revnet),
    "reversible": (S.Reversible(nf.Midpoint()), reversible),
    "adams_bashforth": (S.adams_bashforth(2), adams_bashforth),
    "leapfrog": (S.leapfrog(), leapfrog),
}


class Evaluated:
    """The field in one step of a walk, which counts its evaluations."""

    def __init__(self, evaluate, number):
        self.evaluate, self.number, self.calls = evaluate, number, 0

    def __call__(self, c, x):
        self.calls += 1
        return self.evaluate(c, x, self.number, self.calls - 1)


class ByHand:
    """A layer of steps that are written out: what `NeuralODE` says of itself, in plain JAX."""

    def __init__(self, velocity, step, steps, key, ends=(0.0, 1.0), backward=False):
        self.velocity, self.step, self.steps, self.key = velocity, step, steps, key
        self.ends, self.backward = ends, backward

    def one(self, number, x, carried=None, part=1.0):
        """The step of a number, or a part of it."""
        first, last = (round(end * self.steps) for end in self.ends)
        k = last - 1 - number if self.backward else first + number
        h = (T1 - T0) / self.steps

        def evaluate(c, x, number, call):
            share = 1 - part * c if self.backward else part * c
            cell, inside = divmod(k * STEPS, self.steps)
            place = (cell, (inside + share * STEPS) / self.steps)
            key = self.key
            for fold in (number, call, 0):
                key = None if key is None else jax.random.fold_in(key, fold)
            return self.velocity(x, T0 + h * (k + share), place, key)

        return self.step(
            Evaluated(evaluate, number), part * (-h if self.backward else h), x, carried
        )

    def edges(self, x):
        states, carried = [x], None
        for number in range(round((self.ends[1] - self.ends[0]) * self.steps)):
            x, carried = self.one(number, x, carried)
            states.append(x)
        return states

    def __call__(self, x, context=None):
        return self.edges(x)[-1]

    def solve(self, x, context=None):
        return nf.Solution(self(x), *[jnp.asarray(0)] * 5)

    def trajectory(self, x, depths, context=None):
        states, out = self.edges(x), []
        for t in depths:
            number, part = divmod(float(t - T0) / (T1 - T0) * self.steps, 1)
            number, part = (
                (int(number), part) if 1e-9 < part < 1 - 1e-9 else (round(number + part), 0)
            )
            out.append(self.one(number, states[number], part=part)[0] if part else states[number])
        return jax.tree.map(lambda *a: jnp.stack(a), *out)

    def reverse(self):
        return ByHand(self.velocity, self.step, self.steps, self.key, self.ends, True)

    def between(self, start, stop):
        ends = (start - T0) / (T1 - T0), (stop - T0) / (T1 - T0)
        return ByHand(self.velocity, self.step, self.steps, self.key, ends)

    def per_step(self, x, function, context=None):
        edges = self.edges(x)
        out = [
            function(lambda z, k=k: self.one(k, z)[0], edge) for k, edge in enumerate(edges[:-1])
        ]
        return jax.tree.map(lambda *a: jnp.stack(a), *out)


# The transformations, of a function from weights to layers.

DEPTHS = np.asarray([0.4, 0.7, 1.0])


def loss(y):
    return sum(jnp.sum(jnp.abs(a) ** 2) for a in jax.tree.leaves(y))


def scaled(x, factor):
    return jax.tree.map(lambda a: factor * a, x)


def called(make, context):
    return lambda p, x: make(p)(x, context=context)


def repeated(call):
    """Two calls in a scan."""
    return lambda p, x: jax.lax.scan(lambda x, _: (call(p, x), None), x, None, 2)[0]


def sloped(call):
    """The gradient in the weights and in the state of a call whose inside is computed again."""
    return jax.grad(lambda p, x: loss(jax.checkpoint(call)(p, x)), argnums=(0, 1))


def sloped_by_hand(call):
    return jax.grad(lambda p, x: loss(call(p, x)), argnums=(0, 1))


def mapped(call):
    """The gradient in the weights of calls on two batches."""

    def total(p, x):
        both = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), x)
        y = jax.vmap(lambda x: call(p, x))(both)
        return loss(y), y

    return jax.grad(total, has_aux=True)


def solved(make, c):
    def run(p, x):
        solution = make(p).solve(x, context=c)
        return solution.states, jnp.max(solution.status)

    return run


TRANSFORMS = {
    "call": called,
    "grad": lambda m, c: sloped(called(m, c)),
    "jvp": lambda m, c: (
        lambda p, x: jax.jvp(called(m, c), (p, x), (scaled(p, 0.5), scaled(x, -0.3)))
    ),
    "vmap": lambda m, c: mapped(called(m, c)),
    "scan": lambda m, c: repeated(called(m, c)),
    "trajectory": lambda m, c: lambda p, x: m(p).trajectory(x, DEPTHS, context=c),
    "reverse": lambda m, c: lambda p, x: m(p).reverse()(x, context=c),
    "invert": lambda m, c: lambda p, x: m(p).invert(m(p)(x, context=c), context=c),
    "per_step": lambda m, c: (
        lambda p, x: m(p).per_step(x, lambda block, x: plus(block(x), (-1, x)), context=c)
    ),
    "between": lambda m, c: lambda p, x: m(p).between(0.4, 0.8)(x, context=c),
    "solve": solved,
}
BY_HAND = TRANSFORMS | {
    "grad": lambda m, c: sloped_by_hand(called(m, c)),
    "scan": lambda m, c: lambda p, x: m(p)(m(p)(x)),
    "invert": lambda m, c: lambda p, x: x,
}
LEVELS = {
    "field": tuple(MODULES),
    "transform": tuple(TRANSFORMS),
    "scheme": tuple(SCHEMES),
    "mode": (*FIXED, *ADAPTIVE),
    "dtype": ("bfloat16", "float32", "float64", "complex64", "complex128"),
    "context": ("none", "float", "bool"),
}


def refuses(cell):
    """The words of the sentences that refuse a cell: none for a cell that works."""
    field, transform, scheme, mode = (
        cell[name] for name in ("field", "transform", "scheme", "mode")
    )
    adaptive, past = mode in ADAPTIVE, scheme in ("adams_bashforth", "leapfrog")
    implicit, single = scheme in ("implicit_euler", "kvaerno3"), transform in ("invert", "per_step")
    rules = {
        "has no error estimate to adapt its steps by": adaptive
        and scheme in ("euler", "revnet", "reversible", "adams_bashforth", "leapfrog"),
        'memory="reversible" walks back over the steps, which': mode == "reversible"
        and scheme not in ("revnet", "reversible", "leapfrog"),
        "RevNet takes a field|two halves is a pair": scheme == "revnet" and field != "coupled",
        "has no parameter named `context`": field == "mlp_time" and cell["context"] != "none",
        "the field changes its state": field == "dropout" and (adaptive or implicit or single),
        "an adaptive layer has": adaptive and single,
        "carries more than the state": (past or scheme == "reversible")
        and transform in ("trajectory", "invert", "per_step"),
        "uses earlier steps": past and transform == "between",
        "to be in float32 or float64, got bfloat16": cell["dtype"] == "bfloat16"
        and (adaptive or implicit or mode == "reversible" or transform == "invert"),
        "forward-mode derivatives do not pass": transform == "jvp"
        and mode in ("reversible", "steps", "continuous", "per_sample"),
    }
    return [words for words, holds in rules.items() if holds]


def inputs(cell):
    """The dtype of the weights, the state and the context of a cell."""
    dtype = jnp.dtype(cell["dtype"])
    real = jnp.finfo(dtype).dtype
    shape = (3, 4, 2) if cell["field"] == "conv" else (3, 2)
    x = jnp.asarray(0.5 * np.random.default_rng(0).normal(size=(2, *shape)), real)
    x = (x[0] + 1j * x[1]).astype(dtype) if jnp.iscomplexobj(jnp.zeros((), dtype)) else x[0]
    x = {"a": x, "b": x[:, 0] / 2} if cell["field"] == "function" else x
    context = {
        "none": None,
        "float": jnp.asarray([0.5, -1.0, 2.0], real),
        "bool": jnp.asarray([True, False, True]),
    }[cell["context"]]
    return real, x, context


def tolerance(cell):
    """The tolerance of an adaptive solve."""
    least = {"heun": 1e-4, "implicit_euler": 1e-5}.get(cell["scheme"], 1e-6)
    return max(least, 1e-5) if cell["dtype"] in ("float32", "complex64") else least


def bound(cell):
    """How far a cell may be from what is written out by hand, as a share of its largest number."""
    if cell["mode"] in ADAPTIVE:
        # Errors of the steps of order one add up over some hundred steps.
        return tolerance(cell) * (2000 if cell["scheme"] == "implicit_euler" else 20)
    if cell["dtype"] == "bfloat16":
        return 0.05
    if cell["dtype"] in ("float32", "complex64"):
        return 1e-5
    # The root finder of an implicit step and the fixed points of an inverse have tolerances.
    implicit = cell["scheme"] in ("implicit_euler", "kvaerno3")
    return 1e-8 if implicit else 1e-10


def discretisation(cell):
    scheme, mode = SCHEMES[cell["scheme"]][0], cell["mode"]
    if mode in FIXED:
        return nf.FixedGrid(scheme, steps=STEPS, memory=mode)
    tol = tolerance(cell)
    return nf.Adaptive(
        scheme,
        tol,
        tol,
        max_steps=2048 if cell["scheme"] == "implicit_euler" else 256,
        **ADAPTIVE[mode],
    )


def computed(cell):
    """What the library makes of a cell."""
    real, x, context = inputs(cell)
    field = MODULES[cell["field"]](rngs=nnx.Rngs(0), dtype=real)
    layer = nf.NeuralODE(field, discretisation(cell), T0, T1)
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

    def made(p):
        # New variables belong to the trace that calls the layer, and may change there.
        return nnx.merge(graphdef, p, jax.tree.map(lambda a: a, rest))

    run = TRANSFORMS[cell["transform"]](lambda p: made(p), context)
    run = run if cell["transform"] == "call" else jax.jit(run)
    return run(params, x)


def expected(cell):
    """What the steps by hand make of a cell."""
    real, x, context = inputs(cell)
    field = MODULES[cell["field"]](rngs=nnx.Rngs(0), dtype=real)
    step, steps = SCHEMES[cell["scheme"]][1], STEPS
    if cell["mode"] in ADAPTIVE:
        step, steps = rk4, FINE
    key = field.drop.rngs.key[...] if cell["field"] == "dropout" else None

    def make(p):
        return ByHand(functools.partial(of_depth, p), step, steps, key)

    def of_depth(p, x, t, place, key):
        return velocity(cell["field"], context, p, x, np.asarray(t, real), place, key)

    params = nnx.to_pure_dict(nnx.state(field, nnx.Param))
    return BY_HAND[cell["transform"]](make, None)(params, x)


def error(cell, computed):
    """The largest difference from what is written out by hand, as a share of its largest number."""
    got, want = jax.tree.leaves(computed), jax.tree.leaves(expected(cell))
    assert len(got) == len(want) > 0
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
    size = max(1.0, *(float(jnp.max(jnp.abs(b))) for b in want))
    # NumPy's maximum keeps NaN.
    off = [float(jnp.max(jnp.abs(a - b))) for a, b in zip(got, want, strict=True)]
    return np.max(off) / size


def cost(cell):
    """What a cell counts in the choice: roots of the time that compiling it takes, roughly."""
    levels = {
        "vmap": 4, "grad": 3, "jvp": 1.5, "trajectory": 1.5,
        "continuous": 4, "per_sample": 3, "direct": 3, "steps": 3,
        "kvaerno3": 4, "implicit_euler": 2.5, "dopri8": 1.5, "nested": 1.5, "function": 1.5,
    }  # fmt: skip
    return np.prod([levels.get(level, 1.0) for level in cell.values()]) ** 0.2


CELLS = covering(LEVELS, lambda cell: not refuses(cell), cost)
WORKING = [cell for cell in CELLS if not refuses(cell)]


# diffrax warns of complex states; here they are compared with steps by hand.
@pytest.mark.filterwarnings("ignore:Complex dtype support in Diffrax:UserWarning")
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(cell.values()))
def test_a_cell_agrees_or_is_refused(cell):
    if words := refuses(cell):
        with pytest.raises(InputError, match="|".join(words)) as caught:
            computed(cell)
        assert "\n" not in str(caught.value)
    else:
        assert error(cell, computed(cell)) < bound(cell)


def test_every_two_levels_meet():
    """They meet in a cell that works, unless every cell with both of them is refused."""

    def met(cells):
        return {pair for cell in cells for pair in itertools.combinations(cell.items(), 2)}

    choices = itertools.product(*LEVELS.values())
    every = (dict(zip(LEVELS, choice, strict=True)) for choice in choices)
    can_work = met(cell for cell in every if not refuses(cell))
    assert met(CELLS) == set(pairs(LEVELS))
    assert met(WORKING) == can_work
    counts = len(CELLS), len(WORKING), len(CELLS) - len(WORKING)
    print("{} cells: {} agree, {} are refused".format(*counts))
    assert counts == (166, 134, 32)
