"""Writes gpt.txt: small M2-GPT and Hyena-GPT models in plain float64 PyTorch, with their loss and gradients.

    python tests/golden/make_gpt.py > tests/golden/gpt.txt

Nothing here is shared with m2: convolutions are sums over a Toeplitz matrix, gradients are torch's. Parameters are decimal
numbers of four digits, so that both sides read the same float64. tests/unit/golden.c reads the file, line by line:
    case NAME KEY=VALUE ...         configuration over the defaults
    tokens N ints / targets N ints  one batch, rows of model.length; target -1 does not count
    loss X
    param NAME N numbers / grad NAME N numbers
"""
import math
import torch

torch.set_default_dtype(torch.float64)
ROWS = 3
SIZE = {"model.vocab": 11, "model.width": 8, "model.layers": 2, "model.length": 12, "model.share": 2,
        "model.filter.width": 4, "model.filter.layers": 1, "model.filter.emb": 5, "model.filter.freq": 3,
        "model.mlp_ratio": 2, "model.dropout": 0}
CASES = {
    "m2-gpt": {"model.mlp": "none"},
    "m2-gpt-index": {"model.mlp": "none", "model.share_by": "index", "model.short_taps": 4, "model.filter.layers": 0},
    "hyena": {"model.mlp": "dense", "model.share": 1, "model.act": "gelu_tanh"},
    "glu": {"model.mlp": "blockdiag_glu", "model.mlp_blocks": 2, "model.act": "gelu_erf"},
}


def decimal(rng, *shape, scale=0.5):
    """Random numbers of four decimals."""
    return torch.round(torch.randn(*shape, generator=rng) * scale * 1e4) / 1e4


class Model:
    def __init__(self, cfg, rng):
        self.cfg, self.p = cfg, {}
        d, width = cfg["model.width"], cfg["model.filter.width"]
        filters, taps = d // cfg["model.share"], cfg.get("model.short_taps", 3)
        e = cfg["model.mlp_ratio"] * d

        def add(name, *shape, scale=0.5, shift=0.0):
            value = decimal(rng, *shape, scale=scale)
            self.p[name] = (torch.round((value + shift) * 1e4) / 1e4).requires_grad_()

        def norm(name):
            add(name + ".weight", d, scale=0.2, shift=1.0)
            add(name + ".bias", d, scale=0.2)

        def dense(name, n, m):
            add(name + ".weight", n, m)
            add(name + ".bias", n)

        add("embed.weight", cfg["model.vocab"], d)
        for i in range(cfg["model.layers"]):
            m = f"block.{i}.mixer."
            norm(m + "norm")
            dense(m + "in", 3 * d, d)
            add(m + "short.weight", 3 * d, taps)
            add(m + "short.bias", 3 * d)
            add(m + "filter.frequency", width, scale=0.5, shift=cfg["model.filter.freq"])
            for k in range(cfg["model.filter.layers"] + 1):
                dense(f"{m}filter.layer.{k}", width, cfg["model.filter.emb"] if k == 0 else width)
            add(m + "filter.out.weight", filters, width)
            add(m + "skip", filters)
            dense(m + "out", d, d)
            if cfg["model.mlp"] == "none":
                continue
            m = f"block.{i}.mlp."
            norm(m + "norm")
            if cfg["model.mlp"] == "dense":
                dense(m + "up", e, d)
                dense(m + "down", d, e)
            else:
                nb = cfg["model.mlp_blocks"]
                add(m + "up.weight", nb, 2 * e // nb, d // nb)
                add(m + "down.weight", nb, d // nb, e // nb)
                add(m + "down.bias", d)
        norm("norm")

    def norm(self, name, x):
        x = x - x.mean(-1, keepdim=True)
        x = x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5)
        return x * self.p[name + ".weight"] + self.p[name + ".bias"]

    def dense(self, name, x):
        return x @ self.p[name + ".weight"].T + self.p[name + ".bias"]

    def filters(self, m):
        """(F, L): a network of the position with sine activations, times a decay that is its own for each filter."""
        cfg, L = self.cfg, self.cfg["model.length"]
        n = torch.arange(L)
        bands = (cfg["model.filter.emb"] - 1) // 2
        f = torch.linspace(1e-4, bands - 1, bands)
        angle = 2 * math.pi * n[:, None] / L * f
        t = n / (L - 1)
        h = torch.cat([t[:, None], torch.cos(angle), -torch.sin(angle)], 1)
        for k in range(cfg["model.filter.layers"] + 1):
            h = torch.sin(self.p[m + "filter.frequency"] * self.dense(f"{m}filter.layer.{k}", h))
        k = (h @ self.p[m + "filter.out.weight"].T).T
        delta = torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, k.shape[0])
        return k * torch.exp(-t * delta.abs()[:, None])

    def mixer(self, i, x):
        cfg, m = self.cfg, f"block.{i}.mixer."
        d, L = cfg["model.width"], cfg["model.length"]
        u = self.dense(m + "in", self.norm(m + "norm", x)).transpose(1, 2)  # (B, 3d, L)
        w = self.p[m + "short.weight"]
        padded = torch.nn.functional.pad(u, (w.shape[1] - 1, 0))
        q = sum(w[:, j, None] * padded[:, :, j:j + L] for j in range(w.shape[1])) + self.p[m + "short.bias"][:, None]
        x0, x1, v = q[:, :d], q[:, d:2 * d], q[:, 2 * d:]
        z, filters = v * x1, d // cfg["model.share"]
        by_index = cfg.get("model.share_by") == "index"
        whose = [c % filters if by_index else c // cfg["model.share"] for c in range(d)]
        lag = torch.arange(L)[:, None] - torch.arange(L)
        toeplitz = torch.where(lag >= 0, self.filters(m)[:, lag.clamp(min=0)], torch.zeros(()))  # (F, L, L)
        y = torch.einsum("cts,bcs->bct", toeplitz[whose], z) + self.p[m + "skip"][whose, None] * z
        return self.dense(m + "out", (y * x0).transpose(1, 2))

    def mlp(self, i, x):
        cfg, m = self.cfg, f"block.{i}.mlp."
        exact = cfg["model.act"] == "gelu_erf"
        gelu = lambda h: torch.nn.functional.gelu(h, approximate="none" if exact else "tanh")
        u = self.norm(m + "norm", x)
        if cfg["model.mlp"] == "dense":
            return self.dense(m + "down", gelu(self.dense(m + "up", u)))
        up = torch.block_diag(*self.p[m + "up.weight"])
        down = torch.block_diag(*self.p[m + "down.weight"])
        g, v = (u @ up.T).chunk(2, -1)
        return (gelu(g) * v) @ down.T + self.p[m + "down.bias"]

    def loss(self, tokens, targets):
        x = self.p["embed.weight"][tokens]
        for i in range(self.cfg["model.layers"]):
            x = x + self.mixer(i, x)
            if self.cfg["model.mlp"] != "none":
                x = x + self.mlp(i, x)
        logits = self.norm("norm", x) @ self.p["embed.weight"].T
        logp = torch.log_softmax(logits, -1)
        picked = logp.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        return -(picked * (targets >= 0)).sum() / targets.numel()


def show(kind, name, values, digits):
    values = values.detach().reshape(-1).tolist()
    print(kind, *([name] if name else []), len(values), *(f"{v:.{digits}g}" for v in values))


def main():
    rng = torch.Generator().manual_seed(1)
    print(f"# tests/golden/make_gpt.py, torch {torch.__version__}, float64")
    for name, change in CASES.items():
        cfg = {**SIZE, **change}
        model = Model(cfg, rng)
        shape = (ROWS, cfg["model.length"])
        tokens = torch.randint(cfg["model.vocab"], shape, generator=rng)
        targets = torch.randint(cfg["model.vocab"], shape, generator=rng)
        targets[1, 5] = targets[2, 0] = -1
        loss = model.loss(tokens, targets)
        loss.backward()
        print("case", name, *(f"{k}={v}" for k, v in cfg.items()))
        show("tokens", "", tokens, 6)
        show("targets", "", targets, 6)
        print(f"loss {loss.item():.17g}")
        for key, value in model.p.items():
            show("param", key, value, 6)
            show("grad", key, value.grad, 14)


main()
