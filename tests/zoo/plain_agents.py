"""Plain JAX: agents, as the published code writes them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import rms, shapes

LINEAR = {r"[\w/]*": "linear 0 > 1"}


def conv(x, w, stride=1, padding="VALID"):
    return lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@zoo_model(truth={"c.": "conv 2 > 3 @ 0 1", r".*/(b|sb)": "bias > 0"} | LINEAR)
def rainbow():
    """Noisy layers with factors of noise, and a distribution for each action from a value and advantages."""

    def noisy(p, key, x):
        def f(e):
            return jnp.sign(e) * jnp.sqrt(jnp.abs(e))

        one, two = jax.random.split(key)
        e_in, e_out = f(jax.random.normal(one, p["w"].shape[:1])), f(jax.random.normal(two, p["w"].shape[1:]))
        w = p["w"] + p["sw"] * jnp.outer(e_in, e_out)
        return x @ w + p["b"] + p["sb"] * e_out

    def apply(p, key, x):
        keys = jax.random.split(jax.random.wrap_key_data(key), 4)
        x = jax.nn.relu(conv(x / 255.0, p["c0"], 2))
        x = jax.nn.relu(conv(x, p["c1"], 2)).reshape(len(x), -1)
        value = noisy(p["v1"], keys[0], jax.nn.relu(noisy(p["v0"], keys[1], x)))[:, None]
        advantage = noisy(p["a1"], keys[2], jax.nn.relu(noisy(p["a0"], keys[3], x))).reshape(-1, 4, 5)
        logits = value + advantage - advantage.mean(1, keepdims=True)
        return (jax.nn.softmax(logits) * jnp.linspace(-1, 1, 5)).sum(-1)

    def layer(n_in, n_out):
        return shapes(w=(n_in, n_out), sw=(n_in, n_out), b=n_out, sb=n_out)

    params = {"v0": layer(24, 10), "v1": layer(10, 5), "a0": layer(24, 10), "a1": layer(10, 20)}
    return apply, params | shapes(c0=(4, 4, 3, 5), c1=(3, 3, 5, 6)), (array(2, dtype=jnp.uint32), array(3, 14, 14, 3))


@zoo_model(
    truth={r"c/w\d": "linear 1 > 2", r"c/b\d": "bias > 1", r"\w+/b\d": "bias > 0", "log_alpha": "gain >"} | LINEAR
)
def soft_actor_critic():
    """Losses of a squashed normal policy, of two critics by vmap with their targets, and of a temperature."""

    def actor(p, s, noise):
        h = jax.nn.relu(jax.nn.relu(s @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"])
        mean, log_std = jnp.split(h @ p["w2"] + p["b2"], 2, -1)
        log_std = jnp.clip(log_std, -5, 2)
        u = mean + jnp.exp(log_std) * noise
        a = jnp.tanh(u)
        log_p = (-0.5 * noise**2 - log_std - jnp.log(1 - a**2 + 1e-6)).sum(-1)
        return a, log_p

    def critic(p, s, a):
        h = jnp.concatenate([s, a], -1)
        h = jax.nn.relu(h @ p["w0"] + p["b0"])
        h = jax.nn.relu(h @ p["w1"] + p["b1"])
        return (h @ p["w2"] + p["b2"])[:, 0]

    critics = jax.vmap(critic, (0, None, None))

    def apply(p, target, s, a, r, s2, noise):
        a2, log_p2 = actor(p["a"], s2, noise)
        goal = lax.stop_gradient(r + 0.99 * (critics(target, s2, a2).min(0) - jnp.exp(p["log_alpha"]) * log_p2))
        q_loss = ((critics(p["c"], s, a) - goal) ** 2).mean(1).sum()
        now, log_p = actor(p["a"], s, noise)
        q = critics(lax.stop_gradient(p["c"]), s, now).min(0)
        alpha = jnp.exp(p["log_alpha"])
        return q_loss + (lax.stop_gradient(alpha) * log_p - q).mean() - (alpha * lax.stop_gradient(log_p - 3)).mean()

    critic_params = shapes(w0=(2, 8, 10), b0=(2, 10), w1=(2, 10, 10), b1=(2, 10), w2=(2, 10, 1), b2=(2, 1))
    actor_params = shapes(w0=(5, 9), b0=9, w1=(9, 9), b1=9, w2=(9, 6), b2=6)
    params = {"a": actor_params, "c": critic_params, "log_alpha": array()}
    return apply, params, (critic_params, array(4, 5), array(4, 3), array(4), array(4, 5), array(4, 3))


@zoo_model(truth={r".*/b": "bias > 0", "actions": "linear 0 > 1"} | LINEAR)
def mu_zero():
    """A state that actions unroll as one-hot vectors, scaled to [0, 1], with heads of values and policies."""

    def mlp(p, x):
        return jax.nn.relu(x @ p["w0"] + p["0"]["b"]) @ p["w1"] + p["1"]["b"]

    def scaled(s):
        low, high = s.min(-1, keepdims=True), s.max(-1, keepdims=True)
        return (s - low) / (high - low + 1e-5)

    def apply(p, x, actions):
        s = scaled(mlp(p["represent"], x))

        def step(s, a):
            s = s * 0.5 + lax.stop_gradient(s) * 0.5
            z = jnp.concatenate([s, jax.nn.one_hot(a, 4)], -1)
            s = scaled(mlp(p["dynamics"], z))
            return s, (mlp(p["reward"], z), mlp(p["value"], s), mlp(p["policy"], s))

        return lax.scan(step, s, actions)[1]

    def of(n_in, n_out):
        return shapes(w0=(n_in, 9), w1=(9, n_out)) | {"0": shapes(b=9), "1": shapes(b=n_out)}

    params = {"represent": of(5, 8), "dynamics": of(12, 8), "reward": of(12, 6), "value": of(8, 6), "policy": of(8, 4)}
    return apply, params, (array(3, 5), tokens(6, 3))


@zoo_model(
    truth={r"c\d/?\w*": "conv 2 > 3 @ 0 1", r"b\w*": "bias > 0", "wi": "linear 0 > 1", "wh": "linear 0 > 1"} | LINEAR
)
def impala():
    """Residual convolutions, a recurrence that is reset, and corrections for old policies."""

    def trunk(p, x):
        x = conv(x, p["c0"], padding="SAME")
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        x = x + conv(jax.nn.relu(conv(jax.nn.relu(x), p["c1"], padding="SAME")), p["c2"], padding="SAME")
        return jax.nn.relu(jax.nn.relu(x).reshape(len(x), -1) @ p["fc"] + p["bfc"])

    def apply(p, x, action, reward, done, old):
        t, b = x.shape[:2]
        f = trunk(p, x.reshape(t * b, *x.shape[2:])).reshape(t, b, -1)
        f = jnp.concatenate([f, jax.nn.one_hot(action, 4), jnp.clip(reward, -1, 1)[..., None]], -1)

        def step(state, now):
            f, done = now
            h, c = (jnp.where(done[:, None], 0, s) for s in state)
            i, g, o, u = jnp.split(f @ p["wi"] + h @ p["wh"] + p["b"], 4, -1)
            c = jax.nn.sigmoid(g + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(u)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((b, 6))
        y = lax.scan(step, (zero, zero), (f, done))[1]
        logits, value = y @ p["policy"] + p["bp"], (y @ p["value"] + p["bv"])[..., 0]
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], -1)[..., 0]
        rho = jnp.minimum(1, jnp.exp(log_p - old))
        delta = lax.stop_gradient(rho[:-1] * (reward[:-1] + value[1:] - value[:-1]))
        _, vs = lax.scan(lambda a, d: ((a * 0.9 + d),) * 2, jnp.zeros(b), delta, reverse=True)
        return -(log_p[:-1] * delta).mean() + ((lax.stop_gradient(vs + value[:-1]) - value[:-1]) ** 2).mean()

    params = shapes(c0=(3, 3, 3, 5), c1=(3, 3, 5, 5), c2=(3, 3, 5, 5), fc=(80, 7), bfc=7, wi=(12, 24), wh=(6, 24), b=24)
    params |= shapes(policy=(6, 4), bp=4, value=(6, 1), bv=1)
    return apply, params, (array(5, 2, 8, 8, 3), tokens(5, 2), array(5, 2), array(5, 2, dtype=jnp.bool_), array(5, 2))


@zoo_model(
    truth={r".*g": "gain > 0", r".*/b": "bias > 0", "blocks/.*": "linear 1 > 2", "bins": "linear 0 > 1"} | LINEAR
)
def dreamer_v3():
    """A recurrent state with block-diagonal layers, discrete latents with gradients straight through, two-hot heads."""

    def layer(p, x):
        return jax.nn.silu(rms(x @ p["w"]) * p["g"])

    def sample(logits, noise):
        probs = 0.99 * jax.nn.softmax(logits) + 0.01 / 5
        one = jax.nn.one_hot(jnp.argmax(jnp.log(probs) + noise, -1), 5)
        return (one + probs - lax.stop_gradient(probs)).reshape(*one.shape[:-2], -1)

    def apply(p, x, actions, noise):
        e = layer(p["enc"], jnp.sign(x) * jnp.log1p(jnp.abs(x)))

        def step(carry, now):
            h, z = carry
            e, a, noise = now
            x = jnp.concatenate([layer(p["h"], h), layer(p["z"], z), layer(p["a"], a)], -1)
            x = jnp.concatenate([jnp.repeat(x[..., None, :], 2, -2), h.reshape(*h.shape[:-1], 2, -1)], -1)
            x = jnp.einsum("bgi,gio->bgo", x, p["blocks"]["hid"])
            x = jnp.einsum("bgi,gio->bgo", jax.nn.silu(rms(x)), p["blocks"]["gru"]).reshape(len(h), 2, 3, -1)
            r, c, u = (x[:, :, i].reshape(len(h), -1) for i in range(3))
            u = jax.nn.sigmoid(u - 1)
            h = u * jnp.tanh(jax.nn.sigmoid(r) * c) + (1 - u) * h
            post = (layer(p["obs"], jnp.concatenate([h, e], -1)) @ p["post"]).reshape(-1, 3, 5)
            return (h, sample(post, noise)), (h, sample(post, noise), post)

        start = (jnp.broadcast_to(jnp.tanh(p["start"]["b"]), (x.shape[1], 8)), jnp.zeros((x.shape[1], 15)))
        _, (h, z, post) = lax.scan(step, start, (e, actions, noise))
        prior = (layer(p["img"], h) @ p["prior"]).reshape(*h.shape[:2], 3, 5)
        f = jnp.concatenate([h, z], -1)
        bins = jnp.linspace(-20, 20, 9)
        reward = (jax.nn.softmax(layer(p["rew"], f) @ p["two_hot"]) * bins).sum(-1)
        kl = (jax.nn.softmax(post) * (jax.nn.log_softmax(post) - jax.nn.log_softmax(prior))).sum((-1, -2))
        return layer(p["dec"], f) @ p["out"], reward, jnp.maximum(kl, 1)

    def of(n_in, n_out):
        return shapes(w=(n_in, n_out), g=n_out)

    params = {"enc": of(7, 6), "h": of(8, 5), "z": of(15, 5), "a": of(4, 5), "obs": of(14, 6), "img": of(8, 6)}
    params |= {
        "rew": of(23, 6),
        "dec": of(23, 6),
        "blocks": shapes(hid=(2, 19, 6), gru=(2, 6, 12)),
        "start": shapes(b=8),
    }
    return (
        apply,
        params | shapes(post=(6, 15), prior=(6, 15), two_hot=(6, 9), out=(6, 7)),
        (array(6, 3, 7), array(6, 3, 4), array(6, 3, 3, 5)),
    )


@zoo_model(truth={"[bc]\\d": "bias > 0", "cos": "linear 0 > 1"} | LINEAR)
def implicit_quantiles():
    """Features of sampled levels as cosines multiply those of a state; and quantiles with a Huber loss."""

    def apply(p, x, a, goal, levels):
        s = jax.nn.relu(x @ p["w0"] + p["b0"])
        f = jnp.cos(np.pi * jnp.arange(1, 9) * levels[..., None])
        f = jax.nn.relu(f @ p["cos"] + p["c0"])
        q = jax.nn.relu((s[:, None] * f) @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
        q = jnp.take_along_axis(q, a[:, None, None], 2)[..., 0]
        apart = goal[:, None, :] - q[:, :, None]
        huber = jnp.where(jnp.abs(apart) < 1, 0.5 * apart**2, jnp.abs(apart) - 0.5)
        return (jnp.abs(levels[:, :, None] - (apart < 0)) * huber).sum(1).mean()

    params = shapes(w0=(5, 9), b0=9, cos=(8, 9), c0=9, w1=(9, 10), b1=10, w2=(10, 4), b2=4)
    return apply, params, (array(3, 5), tokens(3), array(3, 6), array(3, 7))


@zoo_model(truth={"dyn/w\\d": "linear 1 > 2", "dyn/b\\d": "bias > 1", "dyn/(max|min)": "bias > 1"} | LINEAR)
def ensemble_of_dynamics():
    """PETS: an ensemble of normal distributions whose variances have learned bounds that all members share."""

    def apply(p, x, target):
        h = x
        for i in range(3):
            h = (
                jnp.einsum("eni,eio->eno" if h.ndim == 3 else "ni,eio->eno", h, p["dyn"][f"w{i}"])
                + p["dyn"][f"b{i}"][:, None]
            )
            h = jax.nn.silu(h) if i < 2 else h
        mean, log_var = jnp.split(h, 2, -1)
        log_var = p["dyn"]["max"] - jax.nn.softplus(p["dyn"]["max"] - log_var)
        log_var = p["dyn"]["min"] + jax.nn.softplus(log_var - p["dyn"]["min"])
        nll = ((mean - target) ** 2 * jnp.exp(-log_var) + log_var).mean((1, 2)).sum()
        return nll + 0.01 * p["dyn"]["max"].sum() - 0.01 * p["dyn"]["min"].sum()

    dyn = shapes(w0=(4, 6, 9), b0=(4, 9), w1=(4, 9, 9), b1=(4, 9), w2=(4, 9, 10), b2=(4, 10), max=(1, 5), min=(1, 5))
    return apply, {"dyn": dyn}, (array(7, 6), array(7, 5))
