"""M2-BERT in plain Python, from a state dict in the published layout, sharing nothing with m2: what embed.sh and mlm.sh compare with.

    bert.py embed STATE VOCAB TEXTS VECTORS TOLERANCE   documents of .jsonl through the model, means against those of m2 embed
    bert.py bias STATE OUT VOCAB WORD=LOGIT ...         the same model, whose head says these logits whatever it reads

Convolutions are sums over both directions. The model has no training additions, gelu_erf and norms of 1e-12.
"""
import json
import math
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, sys.path[0] or ".")
import safetensors as st


def load(path):
    tensors = {}
    for name, (dtype, shape, raw) in st.read(path)[0].items():
        name = name[6:] if name.startswith("model.") else name
        tensors[name] = (shape, list(struct.unpack("<%d%s" % (len(raw) // struct.calcsize(st.SIZES[dtype]), st.SIZES[dtype]), raw)))
    return tensors


def rows(s, key):
    """A matrix as a list of rows; leading ones of the shape are dropped."""
    shape, x = s[key]
    n = shape[-1]
    return [x[i:i + n] for i in range(0, len(x), n)]


def dense(s, key, x):
    w, b = rows(s, key + ".weight"), s[key + ".bias"][1]
    return [[math.fsum(map(float.__mul__, u, v)) + c for v, c in zip(w, b)] for u in x]


def norm(s, key, x):
    g, b, out = s[key + ".weight"][1], s[key + ".bias"][1], []
    for u in x:
        mean = sum(u) / len(u)
        scale = 1 / math.sqrt(sum((v - mean) ** 2 for v in u) / len(u) + 1e-12)
        out.append([(v - mean) * scale * p + q for v, p, q in zip(u, g, b)])
    return out


def gelu(x):
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def taps(s, f, net):
    h = rows(s, f + ".pos_emb.z")
    for k in (0, 2, 4):
        freq = s[f"{f}.{net}.{k + 1}.freq"][1]
        h = [[math.sin(a * v) for a, v in zip(freq, u)] for u in dense(s, f"{f}.{net}.{k}", h)]
    w, t, delta = rows(s, f"{f}.{net}.6.weight"), s[f + ".pos_emb.t"][1], s[f + ".modulation.deltas"][1]
    return [[sum(map(float.__mul__, v, u)) * math.exp(-p * abs(d)) for v, d in zip(w, delta)] for u, p in zip(h, t)]


def convolve(kernels, a):
    k, r, skip = kernels
    n, width = len(a), len(a[0])
    out = []
    for t in range(n):
        y = [d * v for d, v in zip(skip, a[t])]
        for u in range(n):
            tap, x = (k[t - u] if u <= t else r[u - t - 1]), a[u]
            for c in range(width):
                y[c] += tap[c] * x[c]
        out.append(y)
    return out


def blocks(s, key, x):
    (nb, n, m), w = s[key][0], rows(s, key)
    return [[sum(map(float.__mul__, w[b * n + i], u[b * m:b * m + m])) for b in range(nb) for i in range(n)] for u in x]


def mixer(s, a, x, kernels):
    p, w, bias, d = dense(s, a + "in_linear", x), rows(s, a + "short_filter.weight"), s[a + "short_filter.bias"][1], len(x[0])
    q = [[bias[c] + sum(w[c][j] * p[t - 2 + j][c] for j in range(3) if t - 2 + j >= 0) for c in range(3 * d)] for t in range(len(x))]
    y = convolve(kernels[0], [[u[2 * d + c] * u[c] for c in range(d)] for u in q])
    residual = convolve(kernels[1], x)
    return dense(s, a + "out_linear", [[y[t][c] * q[t][d + c] + residual[t][c] for c in range(d)] for t in range(len(x))])


class Model:
    def __init__(self, state):
        s = self.state = state
        self.length = s["bert.embeddings.position_embeddings.weight"][0][0]
        self.layers = sum(k.endswith("in_linear.bias") for k in s)
        self.kernels = [[(taps(s, f, "implicit_filter"), taps(s, f, "implicit_filter_rev"), s[f + ".bias"][1])
                         for f in (f"bert.encoder.layer.{i}.attention.filter_fn{n}" for n in ("", "2"))] for i in range(self.layers)]

    def hidden(self, ids):
        s, e = self.state, "bert.embeddings."
        word, place = rows(s, e + "word_embeddings.weight"), rows(s, e + "position_embeddings.weight")
        kind = rows(s, e + "token_type_embeddings.weight")[0]
        x = norm(s, e + "LayerNorm", [[a + b + c for a, b, c in zip(word[i], kind, place[t])] for t, i in enumerate(ids)])
        for i in range(self.layers):
            layer = f"bert.encoder.layer.{i}."
            x = mixer(s, layer + "attention.", x, self.kernels[i])
            h = blocks(s, layer + "mlp.gated_layers.weight", x)
            half = len(h[0]) // 2
            h = blocks(s, layer + "mlp.wo.weight", [[gelu(u[c]) * u[half + c] for c in range(half)] for u in h])
            bias = s[layer + "mlp.wo.bias"][1]
            x = norm(s, layer + "mlp.layernorm", [[a + b + c for a, b, c in zip(u, bias, v)] for u, v in zip(h, x)])
        return x


def pieces(vocab, text):
    """WordPiece of lower-case words and full stops."""
    ids = []
    for word in text.replace(".", " . ").split():
        at = 0
        while at < len(word):
            n = next(n for n in range(len(word), at, -1) if ("##" if at else "") + word[at:n] in vocab)
            ids.append(vocab[("##" if at else "") + word[at:n]])
            at = n
    return ids


def words(path):
    return {w: i for i, w in enumerate(open(path, encoding="utf-8").read().split("\n")) if w}


def embed(state, vocab, texts, vectors, tolerance):
    model, vocab, worst, n = Model(load(state)), words(vocab), 0, 0
    for text, line in zip(open(texts), open(vectors), strict=True):
        ids = pieces(vocab, json.loads(text)["text"])[:model.length - 2]
        ids = [vocab["[CLS]"]] + ids + [vocab["[SEP]"]]
        x = model.hidden(ids + [vocab["[PAD]"]] * (model.length - len(ids)))
        mean = [sum(u[c] for u in x[:len(ids)]) / len(ids) for c in range(len(x[0]))]
        got = json.loads(line)
        assert got["document"] == n and len(got["embedding"]) == len(mean)
        worst = max([worst] + [abs(a - b) for a, b in zip(mean, got["embedding"])])
        n += 1
    assert n and worst < float(tolerance), worst
    print(f"{n} documents, {worst:.1e} apart")


def bias(state, out, vocab, *logits):
    tensors, vocab = st.read(state)[0], words(vocab)
    result = {}
    for name, (dtype, shape, raw) in tensors.items():
        x = list(struct.unpack("<%d%s" % (len(raw) // struct.calcsize(st.SIZES[dtype]), st.SIZES[dtype]), raw))
        if "cls.predictions.transform" in name:
            x = [0.0] * len(x)
        if name.endswith("cls.predictions.decoder.bias"):
            x = [0.0] * len(x)
            for item in logits:
                word, value = item.split("=")
                x[vocab[word]] = float(value)
        result[name] = (dtype, shape, x)
    st.write(out, result)


if __name__ == "__main__":
    {"embed": embed, "bias": bias}[sys.argv[1]](*sys.argv[2:])
