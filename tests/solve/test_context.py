"""The context of a call: what a field receives beside the state, and what is not integrated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.wrong import wrong

import neuralflow as nf
from neuralflow.fields import evaluate, takes_context, takes_time

BATCH, TOKENS, WIDTH = 3, 4, 2


class Attention(nnx.Module):
    """One head of attention over tokens, with a mask of padding and a shift for each sample."""

    def __init__(self, rngs):
        self.mix = nnx.Linear(WIDTH, 3 * WIDTH, param_dtype=float, rngs=rngs)

    def __call__(self, x, t, context):
        q, k, v = jnp.split(self.mix(x), 3, axis=-1)
        scores = jnp.where(context["mask"][:, None, :], q @ jnp.swapaxes(k, 1, 2), -jnp.inf)
        return jnp.tanh(jax.nn.softmax(scores) @ v + t * context["shift"][:, None, None])


@pytest.fixture(scope="module")
def attention():
    return Attention(nnx.Rngs(0))


X = jax.random.normal(jax.random.key(0), (BATCH, TOKENS, WIDTH))
CONTEXT = {
    "mask": jnp.arange(TOKENS) < jnp.array([[4], [2], [3]]),
    "shift": jnp.array([0.3, -0.2, 0.5]),
}


def closure(field, context):
    """The same field with the context inside, where its shift is a weight as any other."""

    def velocity(inside, x, t):
        return inside["field"](x, t, context | {"shift": inside["shift"]})

    return nf.from_function(velocity, {"field": field, "shift": context["shift"]})


REVERSIBLE = nf.schemes.Reversible(nf.Midpoint())
SOLVES = {
    "full": nf.FixedGrid(nf.RK4(), steps=6, memory="full"),
    "remat": nf.FixedGrid(nf.Euler(), steps=6),
    "two_level": nf.FixedGrid(nf.Heun(), steps=18, memory="two_level"),
    "reversible": nf.FixedGrid(REVERSIBLE, steps=6, memory="reversible"),
    "implicit": nf.FixedGrid(nf.ImplicitEuler(), steps=3),
    "steps": nf.Adaptive(nf.Tsit5(), 1e-5, 1e-5),
    "direct": nf.Adaptive(nf.Tsit5(), 1e-5, 1e-5, gradient="direct", max_steps=16),
    "continuous": nf.Adaptive(nf.Tsit5(), 1e-5, 1e-5, gradient="continuous"),
}


@pytest.mark.parametrize("solve", SOLVES.values(), ids=SOLVES)
def test_a_context_is_a_closure_with_a_gradient(attention, solve, worst):
    def ours(field, x, shift):
        return jnp.sum(nf.NeuralODE(field, solve)(x, context=CONTEXT | {"shift": shift}) ** 2)

    def theirs(field, x, shift):
        inside = closure(field, CONTEXT | {"shift": shift})
        return jnp.sum(nf.NeuralODE(inside, solve)(x) ** 2)

    value, slope = nnx.value_and_grad(ours, argnums=(0, 1, 2))(attention, X, CONTEXT["shift"])
    want, slopes = nnx.value_and_grad(theirs, argnums=(0, 1, 2))(attention, X, CONTEXT["shift"])
    assert np.array_equal(value, want) if solve.planned else abs(value - want) < 1e-12
    assert worst(slope, slopes) < 1e-12


def test_samples_alone_get_their_own_part_of_the_context(attention):
    alone = nf.NeuralODE(attention, nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9, per_sample=True))
    y = alone(X, context=CONTEXT)
    for k in range(BATCH):
        own = jax.tree.map(lambda a, k=k: a[k : k + 1], CONTEXT)
        one = nf.NeuralODE(closure(attention, own), nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9))
        assert np.allclose(y[k], one(X[k : k + 1])[0], atol=1e-12)


def test_what_samples_share_is_not_split(attention):
    weights = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    shared = nf.from_function(lambda p, x, context: x @ context["all"] * context["own"], ())
    context = {"all": weights, "own": jnp.array([[1.0], [2.0], [0.5]])}
    x = jnp.ones((3, 2))
    axes = {"all": None, "own": 0}
    solve = nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9, per_sample=True, context_axes=axes)
    layer = nf.NeuralODE(shared, solve)
    together = nf.NeuralODE(shared, nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9))
    assert np.allclose(layer(x, context=context), together(x, context=context), atol=1e-8)
    slope = jax.grad(lambda c: jnp.sum(layer(x, context=c) ** 2))(context)
    want = jax.grad(lambda c: jnp.sum(together(x, context=c) ** 2))(context)
    assert all(np.allclose(slope[k], want[k], atol=1e-6) for k in want)
    with pytest.raises(ValueError, match=r"at \['all'\] into 3 samples .* context_axes=None"):
        layer.with_solve(nf.Adaptive(nf.Tsit5(), per_sample=True))(x, context=context)
    with pytest.raises(ValueError, match="a prefix of the context"):
        layer(x, context=weights)
    for axes in (1, True, {"all": "0"}):
        with pytest.raises(ValueError, match="context_axes is 0 where"):
            nf.Adaptive(nf.Tsit5(), context_axes=axes)


def test_a_context_goes_wherever_the_field_is_evaluated(attention):
    layer = nf.NeuralODE(attention, nf.FixedGrid(nf.Euler(), steps=4))
    inside = layer.with_field(closure(attention, CONTEXT))
    equal = np.array_equal
    assert equal(layer.trajectory(X, context=CONTEXT), inside.trajectory(X))
    depths = jnp.array([0.1, 0.6])
    assert equal(layer.solve(X, depths, context=CONTEXT).states, inside.solve(X, depths).states)
    half = layer.between(0.25, 0.75)
    assert equal(half(X, context=CONTEXT), inside.between(0.25, 0.75)(X))
    assert equal(layer.reverse()(X, context=CONTEXT), inside.reverse()(X))
    assert equal(layer.velocity(X, 0.3, context=CONTEXT), inside.velocity(X, 0.3))
    y = layer(X, context=CONTEXT)
    assert np.allclose(layer.invert(y, context=CONTEXT), X, atol=1e-12)
    moved = layer.per_step(X, lambda block, x: block(x) - x, context=CONTEXT)
    assert equal(moved, inside.per_step(X, lambda block, x: block(x) - x))


def test_a_context_passes_through_jit_vmap_and_scan(attention):
    layer = nf.NeuralODE(attention, nf.FixedGrid(nf.RK4(), steps=2))
    y = layer(X, context=CONTEXT)
    assert np.allclose(jax.jit(lambda c: layer(X, context=c))(CONTEXT), y, atol=1e-14)
    several = jax.tree.map(lambda a: jnp.stack([a, a]), CONTEXT)
    assert np.allclose(jax.vmap(lambda c: layer(X, context=c))(several)[1], y, atol=1e-14)
    scanned = jax.lax.scan(lambda s, c: (s, layer(X, context=c)), 0, several)[1]
    assert np.allclose(scanned[1], y, atol=1e-14)


def test_keys_numbers_and_classes_of_ones_own_are_contexts():
    field = nf.from_function(
        lambda p, x, context: context[0] * x + jax.random.normal(context[1], x.shape), ()
    )
    context = (2, jax.random.key(3))
    for solve in (nf.FixedGrid(nf.Euler(), steps=2), nf.Adaptive(nf.Tsit5(), 1e-3, 1e-3)):
        layer = nf.NeuralODE(field, solve)
        slope = jax.grad(lambda x, layer=layer: layer(x, context=context).sum())(jnp.ones((2, 2)))
        assert np.isfinite(slope).all()


def test_one_rule_for_parameters_by_name():
    def by_name(f):
        return takes_time(f), takes_context(f)

    assert by_name(lambda x, context: x) == (False, True)
    assert by_name(lambda x, context, t: x) == (True, True)
    assert by_name(lambda x, s, context: x) == (True, True)
    assert by_name(lambda x, *, context=None: x) == (False, True)
    assert by_name(lambda x, scale=1.0, *, context, time=0.0: x) == (True, True)
    seen = evaluate(lambda x, context, t: (x, t, context), wrong(1), 2, wrong(3))
    assert seen == (1, 2, 3)
    for bad in (lambda x, context, s: x, lambda context, x: x, lambda x, context, /: x):
        with pytest.raises(TypeError, match="a field is called as"):
            takes_time(bad)


def test_a_missing_context_and_one_too_many_are_refused_by_name(attention):
    layer = nf.NeuralODE(attention, nf.FixedGrid(nf.Euler(), steps=2))
    with pytest.raises(TypeError, match="Attention needs a context, and none is given"):
        layer(X)
    plain = nf.NeuralODE(nf.fields.MLP(2, hidden=2, rngs=nnx.Rngs(0)), nf.FixedGrid(nf.Euler(), 2))
    with pytest.raises(TypeError, match="MLP has no parameter named `context`"):
        plain(X.astype(jnp.float32), context=CONTEXT)
    with pytest.raises(TypeError, match=r"pytree of arrays and numbers, got 'left' at \['side'\]"):
        layer(X, context={"side": "left"})
    coupled = nf.fields.Coupled(plain.field, plain.field)
    with pytest.raises(TypeError, match="MLP has no parameter named `context`"):
        coupled(jnp.ones((3, 4)), context=CONTEXT)


def test_masks_and_integers_are_no_state_but_context():
    field = nf.from_function(lambda p, x: x)
    for solve in (nf.FixedGrid(nf.Euler(), 2), nf.Adaptive(nf.Tsit5(), 1e-3, 1e-3)):
        for other in (jnp.ones((2, 2), bool), jnp.ones((2, 2), int)):
            with pytest.raises(TypeError, match=r"hand them over as context, layer\(x, context"):
                nf.NeuralODE(field, solve)((jnp.ones((2, 2)), other))


class Scaled(nnx.Module):
    """The field a x, where a is the context of a sample."""

    def __init__(self):
        self.one = nnx.Param(jnp.ones(()))

    def __call__(self, x, context):
        return self.one * context[:, None] * x


class Bowl(nnx.Module):
    """The energy a |x|^2 / 2."""

    def __call__(self, x, context):
        return context * jnp.sum(x**2, axis=-1) / 2


RATES = jnp.array([0.5, -1.0, 0.2])


def test_wrappers_pass_a_context_on():
    x = jnp.ones((3, 4))
    still = nf.from_function(lambda p, x: 0 * x)
    first = nf.fields.Coupled(Scaled(), still)(x, context=RATES)
    assert np.allclose(first[:, :2], RATES[:, None]) and not first[:, 2:].any()
    assert np.allclose(nf.fields.Gradient(Bowl())(x, context=RATES), -RATES[:, None])
    separable = nf.fields.Hamiltonian(nf.fields.Separable(Bowl(), Bowl()))
    turned = separable(x, context=RATES)
    assert np.allclose(turned[:, :2], RATES[:, None]) and np.allclose(
        turned[:, 2:], -RATES[:, None]
    )


def test_what_a_flow_carries_depends_on_its_context():
    layer = nf.NeuralODE(Scaled(), nf.Adaptive(nf.Tsit5(), 1e-10, 1e-10))
    x = jnp.array([[1.0, 2.0], [0.5, -1.0], [2.0, 0.0]])
    y, (grown,) = nf.transport.along(layer, x, nf.transport.divergence, context=RATES)
    assert np.allclose(y, jnp.exp(RATES)[:, None] * x, atol=1e-8)
    assert np.allclose(grown, 2 * RATES, atol=1e-8)
    u = nf.transport.Transport(layer, lambda x: x.sum(axis=1))
    assert np.allclose(u(x, 0.5, context=RATES), jnp.exp(RATES / 2) * x.sum(axis=1), atol=1e-8)
    log_rho = nf.transport.Continuity(layer, lambda x: -jnp.sum(x**2, axis=1) / 2)
    shrunk = jnp.exp(-RATES)[:, None] * x
    want = -jnp.sum(shrunk**2, axis=1) / 2 - 2 * RATES
    assert np.allclose(log_rho(x, 1.0, context=RATES), want, atol=1e-8)
    assert np.abs(log_rho.residual(x, 0.4, context=RATES)).max() < 1e-5
    fixed = layer.with_solve(nf.FixedGrid(nf.Euler(), steps=2))
    change = nf.regularisers.volume_change(fixed, x, context=RATES)
    assert np.allclose(change, (4 * np.log1p(RATES / 2)) ** 2, atol=1e-12)
    back = nf.regularisers.inverse_consistency(fixed, x, context=RATES)
    gap = ((1 + RATES / 2) * (1 - RATES / 2)) ** 2 - 1
    assert np.allclose(back, jnp.sum((gap[:, None] * x) ** 2, axis=1), atol=1e-12)
    with pytest.raises(TypeError, match="Scaled needs a context"):
        nf.transport.along(layer, x, nf.transport.divergence)


def test_random_networks_and_their_limits_take_a_context():
    stochastic = nf.labs.stochastic
    x = jnp.ones((3, 2))
    noisy = stochastic.Noise(Scaled(), 0.3, rngs=nnx.Rngs(0))
    network = stochastic.RandomNetwork(noisy, steps=4)
    sde = stochastic.NeuralSDE(noisy, steps=4)
    for module in (network, sde):
        draw = module.sample(x, jax.random.key(1), context=RATES)
        assert np.isfinite(draw).all() and not np.allclose(draw[0], draw[1])
        module.eval()
        want = (1 + RATES / 4)[:, None] ** 4 * x
        assert np.allclose(module(x, context=RATES), want, atol=1e-12)
        module.train()
    shared = nf.from_function(lambda p, x, context: x @ context, ())
    shake = stochastic.ShakeShake(shared, nf.from_function(lambda p, x: -x), rngs=nnx.Rngs(0))
    turn = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    sde = stochastic.NeuralSDE(shake, steps=2, context_axes=None)
    assert sde.sample(x, jax.random.key(1), context=turn).shape == (3, 2)
    with pytest.raises(ValueError, match="context_axes=None for what samples share"):
        stochastic.NeuralSDE(shake, steps=2).sample(x, jax.random.key(1), context=turn)


def trained(model, loss, steps, rate=0.05):
    """The losses of a training with Adam."""
    optimiser = nnx.Optimizer(model, optax.adam(rate), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimiser):
        value, slope = nnx.value_and_grad(loss)(model)
        optimiser.update(model, slope)
        return value

    return [float(step(model, optimiser)) for _ in range(steps)]


def test_attention_learns_and_never_sees_what_is_padded():
    """The mean of the tokens that are no padding is learned from the first token's state."""
    x = jax.random.normal(jax.random.key(1), (8, TOKENS, WIDTH))
    mask = jnp.arange(TOKENS) < jax.random.randint(jax.random.key(2), (8, 1), 1, TOKENS + 1)
    context = {"mask": mask, "shift": jnp.zeros(8)}
    mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    layer = nf.NeuralODE(Attention(nnx.Rngs(0)), nf.FixedGrid(nf.RK4(), steps=2))

    def loss(layer):
        return jnp.mean((layer(x, context=context)[:, 0] - mean) ** 2)

    losses = trained(layer, loss, 80)
    assert losses[-1] < 0.3 * losses[0]
    spoilt = jnp.where(mask[..., None], x, 100.0)
    good, other = (layer(a, context=context) for a in (x, spoilt))
    assert np.array_equal(jnp.where(mask[..., None], good, 0), jnp.where(mask[..., None], other, 0))


class Messages(nnx.Module):
    """Messages along the edges of a graph, whose ends are integers."""

    def __init__(self, rngs):
        self.message = nnx.Linear(1, 1, param_dtype=float, rngs=rngs)

    def __call__(self, x, context):
        ends = context["senders"], context["receivers"]
        return jnp.zeros_like(x).at[ends[1]].add(self.message(x[ends[0]] - x[ends[1]]))


def test_a_graph_learns_its_heat_equation():
    """The exact solution is the exponential of the Laplacian of a ring."""
    nodes = jnp.arange(5)
    ring = {
        "senders": jnp.concatenate([nodes, nodes]),
        "receivers": jnp.concatenate([(nodes + 1) % 5, (nodes - 1) % 5]),
    }
    laplacian = 2 * jnp.eye(5) - jnp.roll(jnp.eye(5), 1, 0) - jnp.roll(jnp.eye(5), -1, 0)
    x = jax.random.normal(jax.random.key(0), (5, 1))
    want = jax.scipy.linalg.expm(-0.7 * laplacian) @ x
    layer = nf.NeuralODE(Messages(nnx.Rngs(0)), nf.Adaptive(nf.Tsit5(), 1e-6, 1e-6))

    def loss(layer):
        return jnp.sum((layer(x, context=ring) - want) ** 2)

    losses = trained(layer, loss, 150)
    assert losses[-1] < 1e-4 * losses[0]
    assert abs(layer.field.message.kernel[...].item() - 0.7) < 0.02


class Conditional(nnx.Module):
    """A field of x and of a condition of each sample."""

    def __init__(self, rngs):
        self.net = nf.fields.MLP(2, hidden=8, param_dtype=float, rngs=rngs)

    def __call__(self, x, context):
        return self.net(jnp.concatenate([x, context], axis=-1))[..., :1]


def test_a_conditional_flow_learns_a_density_for_each_condition():
    """x given c is normal with mean 2 c and deviation one half, for c = -1 and 1."""
    key, other = jax.random.split(jax.random.key(0))
    c = jax.random.rademacher(key, (64, 1), float)
    x = 2 * c + jax.random.normal(other, (64, 1)) / 2

    class Normal:
        def log_prob(self, y):
            return jnp.sum(jax.scipy.stats.norm.logpdf(y), axis=1)

        def sample(self, key, shape=()):
            return jax.random.normal(key, (*shape, 1))

    layer = nf.NeuralODE(Conditional(nnx.Rngs(0)), nf.FixedGrid(nf.RK4(), steps=4))
    flow = nf.transport.NormalisingFlow(layer, Normal())

    def loss(flow):
        return -jnp.mean(flow.log_prob(x, context=c))

    trained(flow, loss, 150)
    best = 0.5 * np.log(2 * np.pi * np.e) + np.log(0.5)  # the entropy of the true densities
    assert loss(flow) < best + 0.25
    for sign in (-1.0, 1.0):
        drawn = flow.sample(jax.random.key(1), 200, context=jnp.full((200, 1), sign))
        assert abs(drawn.mean() - 2 * sign) < 0.4 and 0.3 < drawn.std() < 0.8
    points, log = flow.sample_and_log_prob(jax.random.key(2), 64, context=c)
    assert np.allclose(log, flow.log_prob(points, context=c), atol=1e-3)


@pytest.mark.parametrize(
    "solve", [nf.FixedGrid(nf.RK4(), steps=4), SOLVES["steps"]], ids=["fixed", "adaptive"]
)
def test_numpy_arrays_that_a_trace_closes_over_are_data(solve):
    """State, context and depth times in NumPy arrays, under every order of transformations."""
    x, gates = np.ones((3, 2)), np.asarray([0.5, 1.0, 2.0])
    times = np.tile(np.linspace(0, 1, 3), (3, 1))

    def layer(rate):
        return nf.NeuralODE(
            nf.from_function(lambda rate, x, context: rate * context * x, rate), solve
        )

    def whole(rate):
        return jnp.sum(jax.vmap(lambda x, gate: layer(rate)(x, context=gate))(x, gates))

    def states(rate):
        def one(x, gate, times):
            return layer(rate).trajectory(x, times, context=gate)[-1]

        return jnp.sum(jax.vmap(one)(x, gates, times))

    want = jax.grad(lambda rate: jnp.sum(2 * jnp.exp(rate * gates)))(0.3)
    for gradient in (jax.jit(jax.grad(whole)), jax.grad(jax.checkpoint(whole))):
        np.testing.assert_allclose(gradient(0.3), want, rtol=1e-4)
    total = np.sum(2 * np.exp(0.3 * gates))
    for function in (whole, states):
        np.testing.assert_allclose(jax.jit(function)(0.3), total, rtol=1e-4)
