"""The training step of M2-GPT or M2-BERT as one writes it in plain PyTorch: what `m2 bench step` is compared with.

    python tests/golden/bench_torch.py [--family gpt] [--width 192 --layers 4 --length 256 --vocab 4096 --batch 16] [--micro 16]
                                       [--device cpu|cuda] [--bf16] [--compile] [--steps 20] [--threads N]
    python tests/golden/bench_torch.py --family bert --length 128 --vocab 30528 --batch 32 --filter 32

Prints the version, the threads and tokens per second (median step: forward, backward, clipping, AdamW). The defaults are
configs/gpt/tiny.yaml with a vocabulary of 4096; the second line is configs/bert/tiny.yaml. Needs nothing of m2.
"""
import argparse
import math
import time

import torch
from torch import nn
from torch.nn import functional as F


class Filter(nn.Module):
    """Long filters (F, L) from a network of the position with sine activations and an exponential window."""

    def __init__(self, filters, length, width=64, layers=2, emb=33, freq=14.0):
        super().__init__()
        bands = (emb - 1) // 2
        n = torch.arange(length)
        angle = 2 * math.pi * n[:, None] / length * torch.linspace(1e-4, bands - 1, bands)
        t = n / max(length - 1, 1)
        self.register_buffer("z", torch.cat([t[:, None], torch.cos(angle), -torch.sin(angle)], 1))
        delta = torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, filters).abs()
        self.register_buffer("window", torch.exp(-t * delta[:, None]))
        self.inner = nn.ModuleList(nn.Linear(emb if i == 0 else width, width) for i in range(layers + 1))
        self.frequency = nn.Parameter(torch.full((width,), freq))
        self.out = nn.Linear(width, filters, bias=False)

    def forward(self):
        h = self.z
        for layer in self.inner:
            h = torch.sin(self.frequency * layer(h))
        return self.out(h).T.float() * self.window


class Mixer(nn.Module):
    def __init__(self, d, length, share=8):
        super().__init__()
        self.share = share
        self.norm, self.inp, self.out = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.short = nn.Conv1d(3 * d, 3 * d, 3, padding=2, groups=3 * d)
        self.filter, self.skip = Filter(d // share, length), nn.Parameter(torch.randn(d // share))

    def forward(self, x):
        length = x.shape[1]
        u = self.short(self.inp(self.norm(x)).transpose(1, 2))[..., :length]
        x0, x1, v = u.chunk(3, 1)
        z = (v * x1).float()
        k = self.filter().repeat_interleave(self.share, 0)
        y = torch.fft.irfft(torch.fft.rfft(z, n=2 * length) * torch.fft.rfft(k, n=2 * length), n=2 * length)[..., :length]
        y = y + z * self.skip.repeat_interleave(self.share)[:, None]
        return self.out((y.to(x0.dtype) * x0).transpose(1, 2))


class GPT(nn.Module):
    def __init__(self, vocab, d, layers, length, dropout=0.1):
        super().__init__()
        self.embed, self.drop = nn.Embedding(vocab, d), nn.Dropout(dropout)
        self.mixers, self.norm = nn.ModuleList(Mixer(d, length) for _ in range(layers)), nn.LayerNorm(d)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, tokens, targets):
        x = self.drop(self.embed(tokens))
        for mixer in self.mixers:
            x = x + mixer(x)
        logits = self.norm(x) @ self.embed.weight.T
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class BlockDiagonal(nn.Module):
    def __init__(self, n, m, blocks=4, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(blocks, n // blocks, m // blocks) / math.sqrt(m // blocks))
        self.bias = nn.Parameter(torch.zeros(n)) if bias else None

    def forward(self, x):
        blocks = self.weight.shape[0]
        y = torch.einsum("...kp,kqp->...kq", x.unflatten(-1, (blocks, -1)), self.weight).flatten(-2)
        return y if self.bias is None else y + self.bias


class BothWays(nn.Module):
    """A long convolution per channel, into the past and the future."""

    def __init__(self, d, length, width):
        super().__init__()
        self.past, self.future = (Filter(d, length, width, 2, 5, 10.0) for _ in range(2))
        self.skip = nn.Parameter(torch.randn(d))

    def forward(self, x):
        length, x = x.shape[-1], x.float()
        k = torch.cat([self.past(), self.future().flip(-1)], -1)
        y = torch.fft.irfft(torch.fft.rfft(x, n=2 * length) * torch.fft.rfft(k), n=2 * length)[..., :length]
        return y + x * self.skip[:, None]


class BERTBlock(nn.Module):
    def __init__(self, d, length, width, dropout):
        super().__init__()
        self.inp, self.out, self.norm = nn.Linear(d, 3 * d), nn.Linear(d, d), nn.LayerNorm(d, 1e-12)
        self.short = nn.Conv1d(3 * d, 3 * d, 3, padding=2, groups=3 * d)
        self.gated, self.residual = BothWays(d, length, width), BothWays(d, length, width)
        self.up, self.down = BlockDiagonal(8 * d, d, bias=False), BlockDiagonal(d, 4 * d)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        length = x.shape[1]
        x1, x2, v = self.short(self.inp(x).transpose(1, 2))[..., :length].chunk(3, 1)
        y = self.gated(v * x1) * x2 + self.residual(x.transpose(1, 2))
        x = self.out(y.to(x1.dtype).transpose(1, 2))
        g, v = self.up(x).chunk(2, -1)
        return self.norm(x + self.down(self.drop(F.gelu(g) * v)))


class BERT(nn.Module):
    def __init__(self, vocab, d, layers, length, width, rate, dropout=0.1):
        super().__init__()
        self.embed, self.position = nn.Embedding(vocab, d), nn.Parameter(torch.randn(length, d) * 0.02)
        self.blocks = nn.Sequential(*(BERTBlock(d, length, width, dropout) for _ in range(layers)))
        self.norm, self.dense, self.head_norm = nn.LayerNorm(d, 1e-12), nn.Linear(d, d), nn.LayerNorm(d, 1e-12)
        self.bias, self.drop, self.rate = nn.Parameter(torch.zeros(vocab)), nn.Dropout(dropout), rate
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, tokens, targets):
        x = self.blocks(self.drop(self.norm(self.embed(tokens) + self.position)))
        n = int(tokens.numel() * self.rate)  # hidden places, at equal distances
        places = torch.arange(n, device=x.device) * tokens.numel() // max(n, 1)
        x = self.head_norm(F.gelu(self.dense(x.flatten(0, 1)[places])))
        logits = x @ self.embed.weight.T + self.bias
        return F.cross_entropy(logits.float(), targets.flatten()[places])


def main():
    arg = argparse.ArgumentParser()
    for name, value in dict(width=192, layers=4, length=256, vocab=4096, batch=16, micro=0, steps=20, threads=0).items():
        arg.add_argument("--" + name, type=int, default=value)
    arg.add_argument("--family", default="gpt", choices=["gpt", "bert"])
    arg.add_argument("--filter", type=int, default=128, help="bert: width of the filters' networks")
    arg.add_argument("--rate", type=float, default=0.3, help="bert: share of hidden places")
    arg.add_argument("--device", default="cpu")
    arg.add_argument("--bf16", action="store_true")
    arg.add_argument("--compile", action="store_true")
    a = arg.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.backends.cuda.matmul.allow_tf32 = True
    size = (a.vocab, a.width, a.layers, a.length)
    model = (GPT(*size) if a.family == "gpt" else BERT(*size, a.filter, a.rate)).to(a.device)
    run = torch.compile(model) if a.compile else model
    optim = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.98), fused=True)
    tokens = torch.randint(a.vocab, (a.batch, a.length + 1), device=a.device)
    micro = a.micro or a.batch
    times = []
    for _ in range(a.steps + 3):
        begin = time.perf_counter()
        for part in tokens.split(micro):
            with torch.autocast(a.device, torch.bfloat16, enabled=a.bf16):
                loss = run(part[:, :-1], part[:, 1:]) * (len(part) / a.batch)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        optim.zero_grad()
        if a.device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    step = sorted(times[3:])[a.steps // 2]
    where = f"{torch.get_num_threads()} threads" if a.device == "cpu" else torch.cuda.get_device_name()
    memory = "" if a.device == "cpu" else f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    count = sum(p.numel() for p in model.parameters())
    print(f"torch {torch.__version__}, {where}, {'bf16' if a.bf16 else 'f32'}{', compiled' if a.compile else ''}: "
          f"{count / 1e6:.1f}M parameters, {step * 1e3:.1f} ms/step, {a.batch * a.length / step:.0f} tokens/s{memory}")


main()
