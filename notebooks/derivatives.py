# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Any derivative you can ask for
#
# `jax.grad` gives the gradient. What people ask for next is in `fn.autodiff`: products with the
# Hessian, its eigenvalues, gradients of each example, derivatives of differential equations and of
# solutions, and a check whether a derivative is right. All are pure functions of
# `f(params, ...)`, with params any tree. Each section below is one question, with the equation.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from matplotlib import pyplot as plt
from sklearn.datasets import load_diabetes, load_digits

import funcnet as fn

# %% [markdown]
# ## Gradients by path
#
# Every array of a model has a path, such as `0/kernel`. With `wrt` only some are differentiated:
# the rest is a constant, has the gradient zero, and costs nothing. Here the last layer of a network
# for scikit-learn's digits.

# %%
pictures, labels = load_digits(return_X_y=True)
pictures, labels = (pictures / 16).astype(np.float32), labels.astype(np.int32)
images = pictures - pictures.mean(0)  # (1797, 64)
targets = np.eye(10, dtype=np.float32)[labels]  # (1797, 10)

hidden = [fn.dense(20), jnp.tanh] * 3
model = fn.sequential(*hidden, fn.dense(10))
params, _ = model.init(jax.random.key(0), images[:1])


def squared_error(outputs, targets):
    return jnp.sum((outputs - targets) ** 2, axis=-1) / 2  # one number an example


def mean_loss(params, x, y):
    outputs, _ = model.apply(params, {}, x)
    return squared_error(outputs, y).mean()


value, grads = fn.autodiff.value_and_grad(mean_loss, wrt="6/**")(params, images, targets)
print(f"loss {value:.4f}")
for layer, arrays in grads.items():
    for name, leaf in arrays.items():
        print(f"{layer}/{name:7} {leaf.shape!s:9} |gradient| = {jnp.linalg.norm(leaf):.4f}")

# %% [markdown]
# What can't be differentiated is refused in words: what must hold, what came, and what to do.


# %%
def said(f, *args, **settings):
    try:
        fn.autodiff.grad(f, **settings)(*args)
    except (TypeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}\n")


said(mean_loss, params, images, targets, wrt="head/**")
said(lambda params, x: model.apply(params, {}, x)[0], params, images)
said(lambda params: jnp.argmax(params["6"]["bias"]), params)
said(lambda steps: steps**2, {"steps": jnp.arange(3)})

# %% [markdown]
# ## Newton's method
#
# The gradient says where down is, the Hessian how the slope changes. Newton's step goes where the
# slope would be zero, were $f$ a parabola:
#
# $$x \leftarrow x - H^{-1} \nabla f, \qquad H_{ij} = \partial^2 f / \partial x_i \partial x_j.$$
#
# Rosenbrock's valley, $f(x) = (1 - x_1)^2 + 100\,(x_2 - x_1^2)^2$, is narrow and bent. Gradient
# descent creeps along its floor.


# %%
def valley(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


@jax.jit
def newton(x):
    hessian = fn.autodiff.hessian(valley, x, dense=True)  # (2, 2)
    return x - jnp.linalg.solve(hessian, jax.grad(valley)(x))


def walk(step, x, steps):
    points = [x]
    for _ in range(steps):
        points.append(step(points[-1]))
    return np.stack(points)


start = jnp.array([-1.2, 1.0])
down = walk(jax.jit(lambda x: x - 1e-3 * jax.grad(valley)(x)), start, 2000)
jump = walk(newton, start, 6)
print(f"gradient descent, 2000 steps   ({down[-1][0]:.4f}, {down[-1][1]:.4f})")
print(f"Newton's method,     6 steps   ({jump[-1][0]:.4f}, {jump[-1][1]:.4f})")

# %% [markdown]
# With 650 params the Hessian is better not formed. `hessian_operator` knows its product with any
# tree, for about the price of a gradient, and `linear_solve` finds $H^{-1} \nabla f$ by conjugate
# gradients from such products alone. The function is a logistic regression on the digits, with a
# little weight decay, which makes $H$ positive definite.


# %%
def regression(params):
    logits = images @ params["kernel"] + params["bias"]
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean() + 1e-3 * optax.tree.norm(params, squared=True)


@jax.jit
def newton_step(params):
    hessian = fn.autodiff.hessian_operator(regression, params)
    direction = fn.autodiff.linear_solve(
        hessian, jax.grad(regression)(params), positive_definite=True
    )
    return jax.tree.map(jnp.subtract, params, direction)


@jax.jit
def gradient_step(params):
    return jax.tree.map(lambda p, g: p - 0.5 * g, params, jax.grad(regression)(params))


at = {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}
values = {"gradient descent": [], "Newton": []}
for name, step, steps in [("gradient descent", gradient_step, 200), ("Newton", newton_step, 8)]:
    p = at
    for _ in range(steps + 1):
        values[name].append(float(regression(p)))
        p = step(p)
    print(f"{name:17} {steps:3} steps   {values[name][-1]:.6f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
first, second = np.meshgrid(np.linspace(-1.6, 1.5, 200), np.linspace(-3.6, 2.2, 200))
levels = np.logspace(-0.5, 3.3, 12)
axes[0].contour(first, second, valley((first, second)), levels=levels, colors="#cccccc")
axes[0].plot(*down.T, linewidth=3, label="gradient descent, 2000 steps")
axes[0].plot(*jump.T, "o-", markersize=4, label="Newton, 6 steps")
axes[0].plot(1, 1, "*", color="black", markersize=10)
axes[0].set(xlabel="$x_1$", ylabel="$x_2$", title="Rosenbrock's valley")
axes[0].legend(loc="lower left", fontsize="small")
best = min(values["Newton"])
for name, found in values.items():
    axes[1].semilogy(np.maximum(np.array(found) - best, 1e-7), ".-", label=name)
axes[1].set(xlabel="steps", xscale="symlog", title="digits: loss above the least")
axes[1].legend(fontsize="small")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## How sharp is a minimum?
#
# Gradient descent with learning rate $\eta$ is stable only where the largest eigenvalue of the
# Hessian, the sharpness, is below $2 / \eta$. One would think that the rate must be chosen for the
# sharpness. It is also the other way round: training drives the sharpness up until it meets
# $2 / \eta$, and then stays at the edge (Cohen et al., 2021). Lanczos finds the eigenvalues from a
# few products with the Hessian, here of a network of 2,350 params.

# %%
data = images[:300], targets[:300]


@jax.jit
def spectrum(params):
    hessian = fn.autodiff.hessian_operator(mean_loss, params, *data)
    return fn.autodiff.eigenpairs(hessian, 5, key=jax.random.key(0))


found, ends = {}, {}
for rate in (0.25, 0.2):
    trainer = fn.Trainer(model, loss=squared_error, optimizer=optax.sgd(rate))
    state, rows = trainer.init(jax.random.key(0), data[0]), []
    for _ in range(24):
        rows.append(spectrum(state.params).eigenvalues)
        state, _ = trainer.advance(state, 100, data, batch_size=300)
    found[rate], ends[rate] = np.stack(rows), state
    print(f"rate {rate:<4}   2 / rate = {2 / rate:4.1f}   sharpness {rows[-1][0]:6.3f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
steps = 100 * np.arange(24)
for colour, (rate, rows) in zip(("C0", "C1"), found.items(), strict=True):
    axes[0].axhline(2 / rate, color=colour, linestyle=":")
    axes[0].plot(steps, rows[:, 0], ".-", color=colour, label=rf"$\eta$ = {rate}")
axes[0].set(xlabel="steps", title=r"sharpness, and $2 / \eta$ (dotted)")
axes[0].legend(loc="lower right")
axes[1].axhline(8, color="C0", linestyle=":")
for k, shade in enumerate((1, 0.75, 0.6, 0.45, 0.3)):
    axes[1].plot(steps, found[0.25][:, k], color="C0", alpha=shade)
axes[1].set(xlabel="steps", ylim=(0, None), title=r"five largest eigenvalues, $\eta$ = 0.25")
figure.tight_layout()
plt.show()

# %% [markdown]
# The trace is the sum of all eigenvalues. With random signs $z$, $z^\top H z$ is right on average:
# a hundred products give an estimate that comes with its standard error.


# %%
@jax.jit
def traces(params):
    hessian = fn.autodiff.hessian_operator(mean_loss, params, *data)
    estimate = fn.autodiff.estimate_trace(hessian, key=jax.random.key(1), samples=100)
    return estimate, fn.autodiff.trace(hessian)


params = ends[0.25].params
estimate, exact = traces(params)
print(f"estimated by  100 products  {estimate.estimate:.1f} ± {estimate.standard_error:.1f}")
print(f"exact, by   2,350 products  {exact:.1f}")

# %% [markdown]
# ## A differential equation
#
# Heat spreads along a rod, $u_t = \kappa\, u_{xx}$, with its ends kept at 0. The unknown is a
# network $N(t, x)$ in a form that has the right values at the start and at the ends,
#
# $$u(t, x) = g(x) + t\, x (1 - x)\, N(t, x), \qquad g(x) = \sin \pi x + \tfrac12 \sin 3 \pi x,$$
#
# and what is left of the equation, the residual, is to vanish. `partial` names the derivatives, so
# that the code is the equation. It is written for one point and mapped over many.

# %%
kappa = 0.05
network = fn.sequential(fn.dense(24), jnp.tanh, fn.dense(24), jnp.tanh, fn.dense(1))


def u(params, t, x):
    start = jnp.sin(jnp.pi * x) + jnp.sin(3 * jnp.pi * x) / 2
    y, _ = network.apply(params, {}, jnp.stack([t, x])[None])
    return start + t * x * (1 - x) * y[0, 0]


u_t = fn.autodiff.partial(u, "t")
u_xx = fn.autodiff.partial(u, "x", "x")


def residual(params, point):
    t, x = point
    return u_t(params, t, x) - kappa * u_xx(params, t, x)


# %% [markdown]
# It is a problem of least squares in 300 residuals $r$, so each step is that of Levenberg and
# Marquardt, $J^\top (J J^\top + \mu I)^{-1} r$. The Jacobian $J$ of the residuals has a row for
# each point, the gradient of one residual: `per_example_grads`.

# %%
points = jax.random.uniform(jax.random.key(1), (300, 2))  # t and x between 0 and 1


@jax.jit
def fit_step(params):
    flat, unravel = ravel_pytree(params)
    r = jax.vmap(residual, (None, 0))(params, points)  # (300,)
    rows = fn.autodiff.per_example_grads(residual, params, points)
    jacobian = jax.vmap(lambda row: ravel_pytree(row)[0])(rows)  # (300, params)
    damped = jacobian @ jacobian.T + (0.1 * r @ r + 0.01) * jnp.eye(300)
    return unravel(flat - jacobian.T @ jnp.linalg.solve(damped, r)), jnp.mean(r**2)


heat, _ = network.init(jax.random.key(0), jnp.zeros((1, 2)))
for k in range(51):
    heat, value = fit_step(heat)
    if k % 10 == 0:
        print(f"step {k:2}   mean squared residual {value:.1e}")

# %% [markdown]
# This equation has a solution in closed form, which the network was never shown.


# %%
def closed_form(t, x):
    slow, fast = jnp.exp(-kappa * jnp.pi**2 * t), jnp.exp(-9 * kappa * jnp.pi**2 * t)
    return slow * jnp.sin(jnp.pi * x) + fast * jnp.sin(3 * jnp.pi * x) / 2


line = jnp.linspace(0, 1, 101)
over_line = jax.vmap(u, (None, None, 0))
plane = jax.vmap(over_line, (None, 0, None))(heat, line, line)  # (t, x)
off = plane - closed_form(line[:, None], line)
print(f"largest error {abs(off).max():.1e}")

figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
colours = plt.cm.inferno(np.linspace(0.85, 0.15, 5))
for t, colour in zip((0.0, 0.1, 0.25, 0.5, 1.0), colours, strict=True):
    axes[0].plot(line, closed_form(t, line), color=colour, linewidth=5, alpha=0.35)
    axes[0].plot(line, over_line(heat, t, line), color=colour, label=f"t = {t}")
axes[0].set(xlabel="x", ylabel="u", title="network, over the closed form (broad)")
axes[0].legend(fontsize="small")
picture = axes[1].imshow(
    plane.T, origin="lower", extent=(0, 1, 0, 1), aspect="auto", cmap="inferno"
)
axes[1].set(xlabel="t", ylabel="x", title="u(t, x)")
figure.colorbar(picture)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Through a solution
#
# A ridge regression has a penalty $e^\lambda$, and its weights are the solution of a problem:
#
# $$w(\lambda) = \arg\min_w \; |X w - y|^2 / n + e^\lambda |w|^2.$$
#
# How does the error on held-out patients change with $\lambda$? `argmin` finds $w$ and
# differentiates the equation that it satisfies, $\nabla_w f = 0$, with one linear system and not a
# step of the solver. So the penalty is learnt by gradient descent as any other number.

# %%
table, progress = load_diabetes(return_X_y=True)
pairs_of = [table[:, i] * table[:, j] for i in range(10) for j in range(i, 10)]
columns = np.column_stack([table, *pairs_of])  # (442, 65)
columns = ((columns - columns.mean(0)) / columns.std(0)).astype(np.float32)
progress = ((progress - progress.mean()) / progress.std()).astype(np.float32)
x_fit, y_fit = columns[:120], progress[:120]
x_held, y_held = columns[120:], progress[120:]


def ridge(w, penalty):
    return jnp.mean((x_fit @ w - y_fit) ** 2) + jnp.exp(penalty) * w @ w


def held_out(penalty):
    w = fn.autodiff.argmin(ridge, jnp.zeros(65), penalty)
    return jnp.mean((x_held @ w - y_held) ** 2)


slope = jax.jit(jax.value_and_grad(held_out))
penalty, path = jnp.array(-6.0), []
for _ in range(25):
    value, by_penalty = slope(penalty)
    path.append((float(penalty), float(value)))
    penalty = penalty - 5 * by_penalty
for name, (at, error) in [("start", path[0]), ("learnt", path[-1])]:
    print(f"{name:6}   λ = {at:6.3f}   held-out error {error:.4f}")

# %% [markdown]
# The gradient can be had without `argmin`, by taking many steps of gradient descent and
# differentiating through all of them, which `unrolled` does. It comes to the same in the end, and
# only then. And `check_grads` compares it with finite differences in 64 bits.


# %%
def by_steps(penalty, steps):
    def step(w, penalty):
        return w - 0.03 * jax.grad(ridge)(w, penalty)

    w = fn.autodiff.unrolled(step, jnp.zeros(65), steps, penalty)
    return jnp.mean((x_held @ w - y_held) ** 2)


counts = [10, 50, 200, 1000]
truth = jax.grad(held_out)(-2.0)
misses = [abs(float(jax.grad(by_steps)(-2.0, n) - truth)) for n in counts]
print(f"implicit gradient at λ = -2: {truth:.6f}")
fn.autodiff.check_grads(held_out, -2.0)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
grid = jnp.linspace(-6.5, 3, 60)
axes[0].plot(grid, jax.jit(jax.vmap(held_out))(grid), color="#bbbbbb", linewidth=4)
axes[0].plot(*np.array(path).T, "o-", markersize=3, label="learnt by gradient")
axes[0].set(xlabel=r"$\lambda$, of a penalty $e^\lambda$", ylabel="held-out error")
axes[0].legend()
axes[1].loglog(counts, misses, "o-")
axes[1].set(xlabel="steps unrolled", title="how far the unrolled gradient is off")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Every example its gradient
#
# The gradient of a loss is the mean of the gradients $g_i$ of the examples. Taken apart, they tell
# which example pulls hardest. The network trained above has seen 300 digits; of the other 1,497,
# these would change it most, and these least.


# %%
def loss_of_one(params, example):
    x, y = example
    return mean_loss(params, x[None], y[None])


others = images[300:], targets[300:]
norms = np.asarray(fn.autodiff.per_example_norms(loss_of_one, params, others))
guesses = model.apply(params, {}, others[0])[0].argmax(-1)
order = np.argsort(-norms)

figure, axes = plt.subplots(2, 10, figsize=(9, 2.5))
for row, chosen in zip(axes, (order[:10], order[-10:]), strict=True):
    for place, i in zip(row, chosen, strict=True):
        place.imshow(pictures[300 + i].reshape(8, 8), cmap="gray_r")
        true, guess = labels[300 + i], guesses[i]
        place.set_title(f"{true}" if true == guess else f"{true}, not {guess}", fontsize=9)
        place.set(xticks=[], yticks=[], xlabel=f"{norms[i]:.2f}")
axes[0, 0].set_ylabel("most")
axes[1, 0].set_ylabel("least")
figure.tight_layout()
plt.show()

# %% [markdown]
# How much they disagree sets the batch size that is worth its price: the noise scale,
# $\operatorname{tr} \Sigma / |G|^2$ with $G$ the mean and $\Sigma$ the covariance of the $g_i$
# (McCandlish et al., 2018). At the start all examples agree on what to do. At the end they do not.

# %%
untrained, _ = model.init(jax.random.key(0), images[:1])
for name, at in [("untrained", untrained), ("trained", params)]:
    found = fn.autodiff.noise_scale(loss_of_one, at, others)
    print(f"{name:10} batches of about {found.noise_scale:6.1f} examples")

# %% [markdown]
# ## Is my derivative right?
#
# Whoever writes a rule of their own, for speed or for stability, can get it wrong, and training
# will often still go down. Here is $\log(1 + e^x)$ whose rule has lost a factor, inside a
# model inside a loss. `check_grads` compares the modes with each other and with finite differences,
# and names the leaves: those behind the rule are right, those before it are not.


# %%
@jax.custom_jvp
def softplus(x):
    return jnp.logaddexp(x, 0)


@softplus.defjvp
def _(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    return softplus(x), jax.nn.sigmoid(x) ** 2 * x_dot  # the square is wrong


small = fn.sequential(fn.dense(8), softplus, fn.dense(1))
some, _ = small.init(jax.random.key(0), images[:1])


def objective(params, x, y):
    return optax.losses.squared_error(small.apply(params, {}, x)[0][:, 0], y).mean()


fn.autodiff.check_grads(objective, some, images[:20], labels[:20].astype(np.float32))

# %% [markdown]
# ## The graph of a training step
#
# `fn.graph` draws what a function computes. Nodes are operations and edges arrays; a layer is one
# node, and what carries gradients back is dashed. Here is a whole step of a trainer, with the old
# params above and the new ones below; on the left the loss, which nothing else needs.

# %%
shallow = fn.sequential(fn.dense(20), jnp.tanh, fn.dense(10))
trainer = fn.Trainer(shallow, loss=squared_error, optimizer=optax.sgd(0.2))
batch = images[:32], targets[:32]
step = fn.graph(trainer.step, trainer.init(jax.random.key(0), batch[0]), batch)
step

# %% [markdown]
# What takes the work? The first layer, once forward and once back: its backward pass costs no more,
# since nobody asked for the gradient of the images.

# %%
for node in sorted(step.nodes, key=lambda node: -node.flops)[:5]:
    print(f"{node.label:18} {node.flops:>8,} FLOPs {node.flops / step.flops:6.1%}")
print(f"{'all':18} {step.flops:>8,} FLOPs")
