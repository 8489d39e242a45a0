"""Models of two layers of random weights: what can be done with any model is quickly done with these."""
import random

import gguf_header

HEADER = {"block_count": 2, "context_length": 512, "embedding_length": 128, "attention.head_count": 4,
          "attention.head_count_kv": 2, "feed_forward_length": 32, "vocab_size": 64, "rope.freq_base": 1e6,
          "attention.layer_norm_rms_epsilon": 1e-5, "attention.key_length": 32, "attention.value_length": 32}


def write(path, arch, biases=False, norms=False, reads=False, seed=7):
    """4 heads of 32 on 2 KV heads. Scores of a few units, so that attention matters. `reads`: texts, byte by byte."""
    rng = random.Random(seed)
    tokenizer = gguf_header.byte_tokenizer() if reads else None
    n_vocab = len(tokenizer["tokens"]) if reads else HEADER["vocab_size"]

    def tensor(*shape, size=0.0, base=0.0):
        n = 1
        for dim in shape:
            n *= dim
        return shape, [base + rng.gauss(0, size) for _ in range(n)]

    tensors = {"token_embd.weight": tensor(128, n_vocab, size=1.0), "output_norm.weight": tensor(128, base=1.0)}
    for i in range(2):
        layer = {"attn_norm.weight": tensor(128, base=1.0), "ffn_norm.weight": tensor(128, base=1.0),
                 "attn_q.weight": tensor(128, 128, size=0.1), "attn_k.weight": tensor(128, 64, size=0.1),
                 "attn_v.weight": tensor(128, 64, size=0.3), "attn_output.weight": tensor(128, 128, size=0.3),
                 "ffn_gate.weight": tensor(128, 32, size=0.1), "ffn_up.weight": tensor(128, 32, size=0.1),
                 "ffn_down.weight": tensor(32, 128, size=0.1)}
        if biases:
            layer.update({"attn_q.bias": tensor(128, size=0.3), "attn_k.bias": tensor(64, size=0.3),
                          "attn_v.bias": tensor(64, size=0.3)})
        if norms:
            layer.update({"attn_q_norm.weight": tensor(32, base=1.0, size=0.2),
                          "attn_k_norm.weight": tensor(32, base=1.0, size=0.2)})
        tensors.update({f"blk.{i}.{name}": value for name, value in layer.items()})
    return gguf_header.write_model(path, arch, {**HEADER, "vocab_size": n_vocab}, tensors, tokenizer)
