"""Other people's models, each rebuilt here from its description, for the benchmarks to train beside
Hanlin's."""

from __future__ import annotations

from typing import Any


def stock(name: str, shape: dict[str, Any]) -> Any:
    """transformers' own model of that architecture."""
    import transformers

    kind = {"llama": "Llama", "qwen3": "Qwen3"}[name]
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=shape["vocab"],
        max_position_embeddings=max(1024, shape["length"]),
        tie_word_embeddings=True,
        use_cache=False,
        head_dim=shape["hidden_size"] // shape["num_attention_heads"],
        **{
            key: shape[key]
            for key in (
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "intermediate_size",
            )
        },
    )
    return getattr(transformers, f"{kind}ForCausalLM")(config).train()


def gpt2_block(_: str, shape: dict[str, Any]) -> Any:
    """The GPT-2 block of nanoGPT and the seeds' projects: LayerNorm, one matrix for queries, keys and
    values, GELU, learned positions."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    width, heads, vocab = shape["hidden_size"], shape["num_attention_heads"], shape["vocab"]

    class GPT2Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.between = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
            self.joint, self.out = (
                nn.Linear(width, 3 * width, bias=False),
                nn.Linear(width, width, bias=False),
            )
            self.up, self.down = (
                nn.Linear(width, 4 * width, bias=False),
                nn.Linear(4 * width, width, bias=False),
            )

        def forward(self, x):
            batch, length, _ = x.shape
            q, k, v = (
                part.view(batch, length, heads, -1).transpose(1, 2)
                for part in self.joint(self.before(x)).split(width, dim=2)
            )
            mixed = (
                F.scaled_dot_product_attention(q, k, v, is_causal=True)
                .transpose(1, 2)
                .reshape(batch, length, width)
            )
            x = x + self.out(mixed)
            return x + self.down(F.gelu(self.up(self.between(x))))

    class GPT2(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places = (
                nn.Embedding(vocab, width),
                nn.Embedding(max(1024, shape["length"]), width),
            )
            self.layers, self.norm = (
                nn.Sequential(*(GPT2Layer() for _ in range(shape["num_hidden_layers"]))),
                nn.LayerNorm(width, bias=False),
            )
            nn.init.normal_(self.words.weight, std=0.02)

        def forward(self, ids):
            x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
            return F.linear(self.norm(self.layers(x)), self.words.weight)

    return GPT2()


def minimind(_: str, shape: dict[str, Any]) -> Any:
    """minimind's block: norms on float copies, rotation by concatenated halves, key-value heads expanded
    before attention."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    width, heads, groups = shape["hidden_size"], shape["num_attention_heads"], shape["num_key_value_heads"]
    size = width // heads

    class Norm(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(dim))

        def forward(self, x):
            wide = x.float()
            return (self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6))).type_as(x)

    def turn(x, cos, sin):
        swapped = torch.cat((-x[..., size // 2 :], x[..., : size // 2]), dim=-1)
        return x * cos[:, None] + swapped * sin[:, None]

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(width, n * size, bias=False) for n in (heads, groups, groups))
            self.o, self.q_norm, self.k_norm = nn.Linear(width, width, bias=False), Norm(size), Norm(size)
            self.before, self.between = Norm(width), Norm(width)
            self.gate, self.up = (nn.Linear(width, shape["intermediate_size"], bias=False) for _ in range(2))
            self.down = nn.Linear(shape["intermediate_size"], width, bias=False)

        def forward(self, x, cos, sin):
            batch, length, _ = x.shape
            y = self.before(x)
            q, k, v = (project(y).view(batch, length, -1, size) for project in (self.q, self.k, self.v))
            q, k = turn(self.q_norm(q), cos, sin), turn(self.k_norm(k), cos, sin)
            k, v = (
                t[:, :, :, None]
                .expand(batch, length, groups, heads // groups, size)
                .reshape(batch, length, heads, size)
                for t in (k, v)
            )
            mixed = F.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
            )
            x = x + self.o(mixed.transpose(1, 2).reshape(batch, length, width))
            y = self.between(x)
            return x + self.down(F.silu(self.gate(y)) * self.up(y))

    class MiniMind(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.norm = nn.Embedding(shape["vocab"], width), Norm(width)
            nn.init.normal_(self.words.weight, std=0.02)
            self.layers = nn.ModuleList(Layer() for _ in range(shape["num_hidden_layers"]))
            angles = torch.outer(
                torch.arange(max(1024, shape["length"])), 1e-6 ** (torch.arange(0, size, 2) / size)
            ).repeat(1, 2)
            self.register_buffer("cos", angles.cos())
            self.register_buffer("sin", angles.sin())

        def forward(self, ids):
            x = self.words(ids)
            for layer in self.layers:
                x = layer(x, self.cos[: ids.shape[1]], self.sin[: ids.shape[1]])
            return F.linear(self.norm(x), self.words.weight)

    return MiniMind()
