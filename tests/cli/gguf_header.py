"""Writes headers of GGUF files: metadata and tensor descriptions, enough for whoever does not read tensors."""
import struct

U16, U32, I32, F32, BOOL, STRING, ARRAY = 2, 4, 5, 6, 7, 8, 9


def _text(s):
    data = s.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value):
    """(type, bytes): int, float, str, or a list of bools, ints, floats or str."""
    if isinstance(value, float):
        return F32, struct.pack("<f", value)
    if isinstance(value, str):
        return STRING, _text(value)
    if isinstance(value, list) and isinstance(value[0], str):
        return ARRAY, struct.pack("<IQ", STRING, len(value)) + b"".join(map(_text, value))
    if isinstance(value, list):
        kind, form = {bool: (BOOL, "?"), int: (I32, "i"), float: (F32, "f")}[type(value[0])]
        return ARRAY, struct.pack(f"<IQ{len(value)}{form}", kind, len(value), *value)
    return U32, struct.pack("<I", value)


def write(path, arch, metadata, tensor_rows=8, n_files=1):
    """A file of architecture `arch`; keys of `metadata` lack its prefix. One f32 tensor of 32 * tensor_rows."""
    pairs = {"general.architecture": arch, **{f"{arch}.{key}": value for key, value in metadata.items()}}
    out = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs) + 1)
    out += _text("split.count") + struct.pack("<IH", U16, n_files)
    for key, value in pairs.items():
        kind, data = _value(value)
        out += _text(key) + struct.pack("<I", kind) + data
    out += _text("token_embd.weight") + struct.pack("<IQQIQ", 2, 32, tensor_rows, 0, 0)
    out += b"\0" * (-len(out) % 32) + b"\0" * (32 * tensor_rows * 4)
    with open(path, "wb") as f:
        f.write(out)
    return path


def byte_tokenizer():
    """Of a model whose tokens are bytes, behind three special ones and the blank."""
    tokens = ["<unk>", "<s>", "</s>", "\u2581", *(f"<0x{byte:02X}>" for byte in range(256))]
    return {"model": "llama", "tokens": tokens, "scores": [0.0] * 260, "token_type": [2, 3, 3, 1] + [6] * 256}


def write_model(path, arch, metadata, tensors, tokenizer=None):
    """A whole model; `tensors` maps names to (shape as ggml has it, list of floats)."""
    pairs = {"general.architecture": arch, **{f"{arch}.{key}": value for key, value in metadata.items()},
             **{f"tokenizer.ggml.{key}": value for key, value in (tokenizer or {"model": "no_vocab"}).items()}}
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    for key, value in pairs.items():
        kind, data = _value(value)
        out += _text(key) + struct.pack("<I", kind) + data
    body = b""
    for name, (shape, values) in tensors.items():
        out += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(body))
        body += struct.pack(f"<{len(values)}f", *values)
        body += b"\0" * (-len(body) % 32)
    with open(path, "wb") as f:
        f.write(out + b"\0" * (-len(out) % 32) + body)
    return path
