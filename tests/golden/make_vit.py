"""Writes vit.txt: small M2-ViT models in plain float64 PyTorch, with their loss and gradients.

    python tests/golden/make_vit.py > tests/golden/vit.txt

Nothing here is shared with m2: convolutions are sums over a Toeplitz matrix, gradients are torch's. Parameters are decimal
numbers of four digits, so that both sides read the same float64. tests/unit/golden.c reads the file, in the format of gpt.txt
but for the inputs:
    patches N numbers        (rows, patches, values)
    targets N ints           a class for each row
"""
import math
import torch

torch.set_default_dtype(torch.float64)
ROWS = 3
SIZE = {"model.family": "vit", "model.width": 8, "model.layers": 2, "model.image": 6, "model.patch": 2, "model.length": 9,
        "model.classes": 5, "model.share": 1, "model.short_taps": 5, "model.filter.width": 4, "model.filter.layers": 1,
        "model.filter.emb": 5, "model.filter.freq": 1, "model.mlp": "blockdiag", "model.mlp_ratio": 2,
        "model.mlp_blocks": 4, "model.act": "gelu_erf", "model.norm_eps": 1e-6, "model.dropout": 0}
CASES = {"m2-vit": {}, "m2-vit-both-ways": {"model.bidirectional": "true"}}


def make_parameters(cfg, rng):
    p = {}
    d, w, L, nb = cfg["model.width"], cfg["model.filter.width"], cfg["model.length"], cfg["model.mlp_blocks"]
    e = cfg["model.mlp_ratio"] * d

    def add(name, *shape, scale=0.3, shift=0.0):
        value = torch.randn(*shape, generator=rng) * scale + shift
        p[name] = (torch.round(value * 1e4) / 1e4).requires_grad_()

    def dense(name, n, m):
        add(name + ".weight", n, m)
        add(name + ".bias", n)

    def norm(name):
        add(name + ".weight", d, scale=0.2, shift=1.0)
        add(name + ".bias", d, scale=0.2)

    dense("embed", d, 3 * cfg["model.patch"] ** 2)
    for i in range(cfg["model.layers"]):
        m = f"block.{i}.mixer."
        norm(m + "norm")
        dense(m + "in", 3 * d, d)
        add(m + "short.weight", 3 * d, cfg["model.short_taps"])
        add(m + "short.bias", 3 * d)
        add(m + "filter.frequency", w, shift=1.0)
        add(m + "filter.position", L, cfg["model.filter.emb"])
        for net in ("filter.", "filter.reverse.")[:1 + ("model.bidirectional" in cfg)]:
            dense(m + net + "layer.0", w, cfg["model.filter.emb"])
            dense(m + net + "layer.1", w, w)
            add(m + net + "out.weight", d, w)
        add(m + "skip", d)
        dense(m + "out", d, d)
        m = f"block.{i}.mlp."
        norm(m + "norm")
        add(m + "up.weight", nb, e // nb, d // nb)
        add(m + "up.bias", e)
        add(m + "down.weight", nb, d // nb, e // nb)
        add(m + "down.bias", d)
    norm("norm")
    dense("head", cfg["model.classes"], d)
    return p


def norm(p, name, x):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], p[name + ".weight"], p[name + ".bias"], 1e-6)


def dense(p, name, x):
    return x @ p[name + ".weight"].T + p[name + ".bias"]


def taps(p, m, net):
    h = p[m + "filter.position"]
    for k in range(2):
        h = torch.sin(p[m + "filter.frequency"] * dense(p, f"{m}{net}layer.{k}", h))
    k = h @ p[m + net + "out.weight"].T
    t = torch.linspace(0, 1, k.shape[0])[:, None]
    return k * torch.exp(-t * torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, k.shape[1]).abs())


def mixer(p, m, u, both_ways):
    L = u.shape[1]
    x, w = dense(p, m + "in", u), p[m + "short.weight"]
    n = w.shape[1]
    padded = torch.nn.functional.pad(x, (0, 0, n - 1, 0))
    q = sum(w[:, j] * padded[:, j:j + L] for j in range(n)) + p[m + "short.bias"]
    x1, x2, v = q.chunk(3, -1)
    z = v * x1
    lag = torch.arange(L)[:, None] - torch.arange(L)
    matrix = torch.where((lag >= 0)[..., None], taps(p, m, "filter.")[lag.clamp(min=0)], torch.zeros(()))
    if both_ways:
        ahead = taps(p, m, "filter.reverse.")[(-lag - 1).clamp(min=0)]
        matrix = torch.where((lag < 0)[..., None], ahead, matrix)
    y = torch.einsum("tuc,buc->btc", matrix, z) + p[m + "skip"] * z
    return dense(p, m + "out", y * x2)


def mlp(p, m, u):
    h = u @ torch.block_diag(*p[m + "up.weight"]).T + p[m + "up.bias"]
    return torch.nn.functional.gelu(h) @ torch.block_diag(*p[m + "down.weight"]).T + p[m + "down.bias"]


def loss(cfg, p, patches, targets):
    x = dense(p, "embed", patches)
    for i in range(cfg["model.layers"]):
        x = x + mixer(p, f"block.{i}.mixer.", norm(p, f"block.{i}.mixer.norm", x), "model.bidirectional" in cfg)
        x = x + mlp(p, f"block.{i}.mlp.", norm(p, f"block.{i}.mlp.norm", x))
    logits = dense(p, "head", norm(p, "norm", x).mean(1))
    return torch.nn.functional.cross_entropy(logits, targets)


def show(kind, name, values, digits):
    values = values.detach().reshape(-1).tolist()
    print(kind, *([name] if name else []), len(values), *(f"{v:.{digits}g}" for v in values))


def main():
    rng = torch.Generator().manual_seed(4)
    print(f"# tests/golden/make_vit.py, torch {torch.__version__}, float64")
    for name, change in CASES.items():
        cfg = {**SIZE, **change}
        p = make_parameters(cfg, rng)
        shape = (ROWS, cfg["model.length"], 3 * cfg["model.patch"] ** 2)
        patches = torch.round(torch.randn(*shape, generator=rng) * 1e3) / 1e3
        targets = torch.randint(cfg["model.classes"], (ROWS,), generator=rng)
        value = loss(cfg, p, patches, targets)
        value.backward()
        print("case", name, *(f"{k}={v}" for k, v in cfg.items()))
        show("patches", "", patches, 6)
        show("targets", "", targets, 6)
        print(f"loss {value.item():.17g}")
        for key, x in p.items():
            show("param", key, x, 6)
            show("grad", key, x.grad, 14)


main()
