"""Writes bert.txt: small M2-BERT models in plain float64 PyTorch, in the published state-dict layout, with logits, loss and gradients.

    python tests/golden/make_bert.py > tests/golden/bert.txt

Nothing here is shared with m2: convolutions are sums over a Toeplitz matrix of both directions, gradients are torch's.
Parameters are decimal numbers of four digits, so that both sides read the same float64. tests/unit/golden_bert.c reads the
file, line by line:
    case NAME KEY=VALUE ...                configuration over the defaults
    tokens N ints                          one batch, rows of model.length
    places N ints / targets N ints         what is hidden: flat indices, and the tokens there
    loss X / logits N numbers              mean over the places; at the places
    tensor KEY RANK DIMS... N numbers      every key of the state dict, aliases and buffers too
    grad KEY N numbers                     of each parameter, under the first of its keys
"""
import math
import torch

torch.set_default_dtype(torch.float64)
ROWS = 3
SIZE = {"model.family": "bert", "model.vocab": 16, "model.width": 8, "model.layers": 2, "model.share": 1,
        "model.filter.width": 4, "model.filter.layers": 2, "model.filter.emb": 5, "model.filter.freq": 3,
        "model.mlp": "blockdiag_glu", "model.mlp_ratio": 2, "model.mlp_blocks": 4, "model.act": "gelu_erf",
        "model.norm_eps": 1e-12, "model.dropout": 0, "mlm.rate": 1, "mlm.val_rate": 1}
CASES = {
    "m2-bert": {"model.length": 12},
    "m2-bert-additions": {"model.length": 9, "model.additions": "true"},
}


class State(dict):
    """The state dict: key -> tensor; aliases are the same object."""

    def __init__(self, rng):
        super().__init__()
        self.rng = rng

    def new(self, key, *shape, scale=0.2, shift=0.0):
        value = torch.randn(*shape, generator=self.rng) * scale + shift
        self[key] = (torch.round(value * 1e4) / 1e4).requires_grad_()

    def dense(self, key, n, m):
        self.new(key + ".weight", n, m)
        self.new(key + ".bias", n)

    def norm(self, key, n):
        self.new(key + ".weight", n, scale=0.2, shift=1.0)
        self.new(key + ".bias", n, scale=0.2)


def make_state(cfg, rng):
    s = State(rng)
    d, L, w = cfg["model.width"], cfg["model.length"], cfg["model.filter.width"]
    e, nb = cfg["model.mlp_ratio"] * d, cfg["model.mlp_blocks"]
    b = "bert.embeddings."
    s[b + "position_ids"] = torch.arange(L)[None]
    s.new(b + "word_embeddings.weight", cfg["model.vocab"], d)
    s.new(b + "position_embeddings.weight", L, d)
    s.new(b + "token_type_embeddings.weight", 2, d)
    s.norm(b + "LayerNorm", d)
    for i in range(cfg["model.layers"]):
        a = f"bert.encoder.layer.{i}.attention."
        for f in ("filter_fn", "filter_fn2"):
            s.new(f"{a}{f}.bias", d)
            s.new(f"{a}{f}.pos_emb.z", 1, L, 5)
            s[f"{a}{f}.pos_emb.t"] = torch.linspace(0, 1, L)[None, :, None]
            s[f"{a}{f}.modulation.deltas"] = torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, d)[None, None]
            for net in ("implicit_filter", "implicit_filter_rev"):
                for k, m in ((0, 5), (2, w), (4, w)):
                    s.dense(f"{a}{f}.{net}.{k}", w, m)
                    if net == "implicit_filter" and k == 0:
                        s.new(f"{a}{f}.{net}.1.freq", 1, w, shift=cfg["model.filter.freq"])
                    s[f"{a}{f}.{net}.{k + 1}.freq"] = s[f"{a}{f}.implicit_filter.1.freq"]
                s.new(f"{a}{f}.{net}.6.weight", d, w)
        s.dense(a + "in_linear", 3 * d, d)
        s.dense(a + "out_linear", d, d)
        s.new(a + "short_filter.weight", 3 * d, 1, 3)
        s.new(a + "short_filter.bias", 3 * d)
        if "model.additions" in cfg:
            s.norm(a + "layernorm", d)
        m = f"bert.encoder.layer.{i}.mlp."
        s.new(m + "gated_layers.weight", nb, 2 * e // nb, d // nb)
        s.new(m + "wo.weight", nb, d // nb, e // nb)
        s.new(m + "wo.bias", d)
        s.norm(m + "layernorm", d)
    c = "cls.predictions."
    s.dense(c + "transform.dense", d, d)
    s.norm(c + "transform.LayerNorm", d)
    s[c + "decoder.weight"] = s[b + "word_embeddings.weight"]
    s.new(c + "decoder.bias", cfg["model.vocab"])
    return s


def norm(s, key, x, eps=1e-12):
    x = x - x.mean(-1, keepdim=True)
    x = x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)
    return x * s[key + ".weight"] + s[key + ".bias"]


def dense(s, key, x):
    return x @ s[key + ".weight"].T + s[key + ".bias"]


def taps(s, f, net):
    """(L, d): a network of the position, times a decay."""
    h = s[f + ".pos_emb.z"][0]
    for k in (0, 2, 4):
        h = torch.sin(s[f"{f}.{net}.{k + 1}.freq"] * dense(s, f"{f}.{net}.{k}", h))
    h = h @ s[f"{f}.{net}.6.weight"].T
    return h * torch.exp(-s[f + ".pos_emb.t"][0] * s[f + ".modulation.deltas"][0].abs())


def convolve(s, f, a):
    """y[t] = sum_{u<=t} k[t-u] a[u] + sum_{u>t} r[u-t-1] a[u] + D a[t]; a (B, L, d)."""
    k, r, L = taps(s, f, "implicit_filter"), taps(s, f, "implicit_filter_rev"), a.shape[1]
    lag = torch.arange(L)[:, None] - torch.arange(L)
    matrix = torch.where((lag >= 0)[..., None], k[lag.clamp(min=0)], r[(-lag - 1).clamp(min=0)])  # (L, L, d)
    return torch.einsum("tuc,buc->btc", matrix, a) + s[f + ".bias"] * a


def mixer(s, a, x, additions):
    if additions:
        x = norm(s, a + "layernorm", x, 1e-5)
    p, w = dense(s, a + "in_linear", x), s[a + "short_filter.weight"]
    q = s[a + "short_filter.bias"]
    for j in range(3):  # causal, though the model is not
        shifted = torch.zeros_like(p)
        shifted[:, 2 - j:] = p[:, :p.shape[1] - (2 - j)]
        q = q + w[:, 0, j] * shifted
    x1, x2, v = q.chunk(3, -1)
    y = convolve(s, a + "filter_fn", v * x1) * x2 + convolve(s, a + "filter_fn2", x)
    return dense(s, a + "out_linear", y)


def mlp(s, m, x):
    h = x @ torch.block_diag(*s[m + "gated_layers.weight"]).T
    g, v = h.chunk(2, -1)
    z = torch.nn.functional.gelu(g) * v
    y = z @ torch.block_diag(*s[m + "wo.weight"]).T + s[m + "wo.bias"]
    return norm(s, m + "layernorm", y + x)


def forward(cfg, s, tokens, places, targets):
    """Mean loss and logits at the places."""
    b, c = "bert.embeddings.", "cls.predictions."
    word = s[b + "word_embeddings.weight"]
    # the padding row is no input that learns: only the decoder's gradient reaches it
    looked_up = torch.nn.functional.embedding(tokens, word, padding_idx=0)
    x = looked_up + s[b + "token_type_embeddings.weight"][0] + s[b + "position_embeddings.weight"]
    x = norm(s, b + "LayerNorm", x)
    for i in range(cfg["model.layers"]):
        layer = f"bert.encoder.layer.{i}."
        x = mlp(s, layer + "mlp.", mixer(s, layer + "attention.", x, "model.additions" in cfg))
    x = x.reshape(-1, x.shape[-1])[places]
    t = norm(s, c + "transform.LayerNorm", torch.nn.functional.gelu(dense(s, c + "transform.dense", x)))
    logits = t @ s[c + "decoder.weight"].T + s[c + "decoder.bias"]
    return torch.nn.functional.cross_entropy(logits, targets), logits


def show(line, values, digits):
    values = values.detach().reshape(-1).tolist()
    print(*line, len(values), *(f"{v:.{digits}g}" for v in values))


def main():
    rng = torch.Generator().manual_seed(8)
    print(f"# tests/golden/make_bert.py, torch {torch.__version__}, float64")
    for name, change in CASES.items():
        cfg = {**SIZE, **change}
        s = make_state(cfg, rng)
        L, V = cfg["model.length"], cfg["model.vocab"]
        tokens = torch.randint(1, V, (ROWS, L), generator=rng)
        tokens[1, L - 3:] = 0  # padding
        places = torch.sort(torch.randperm(ROWS * L, generator=rng)[:ROWS * L // 3])[0]
        targets = torch.randint(1, V, places.shape, generator=rng)
        loss, logits = forward(cfg, s, tokens, places, targets)
        loss.backward()
        print("case", name, *(f"{k}={v}" for k, v in cfg.items()))
        show(["tokens"], tokens, 6)
        show(["places"], places, 6)
        show(["targets"], targets, 6)
        print(f"loss {loss.item():.17g}")
        show(["logits"], logits, 14)
        shown = set()
        for key, value in s.items():
            computed = not value.requires_grad
            show(["tensor", key, value.dim(), *value.shape], value, 17 if computed else 6)
            if not computed and id(value) not in shown:
                show(["grad", key], value.grad, 14)
            shown.add(id(value))


main()
