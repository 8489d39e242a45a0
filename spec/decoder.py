#!/usr/bin/env python3
"""Decodes pages of every codec: slow, in numpy, from spec/FORMAT.md alone.

    decoder.py CODEC K|V HEAD_DIM PAGE > rows.f32     rows [64][head_dim], little-endian f32
    decoder.py --basis CODEC K|V HEAD_DIM PAGE        the same, before the rotation or the basis is undone
    decoder.py --book BOOK LAYER HEAD [--basis] ...   codecs that have their models from a book need it
    decoder.py --check DIR                            checks the golden pages under DIR

Nothing here shares code with the library; where both agree, the format is what FORMAT.md says.
"""
import sys
from pathlib import Path

try:
    import numpy as np
except ImportError:
    print("decoder.py needs numpy", file=sys.stderr)
    sys.exit(77)

TOKENS = 64
MASK64 = (1 << 64) - 1
f32 = np.float32


def splitmix64(state):
    """An endless stream of 64-bit outputs."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK64
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
        yield z ^ (z >> 31)


# --- rotation ---------------------------------------------------------------------------------

def rotation(D):
    """The orthonormal D x D matrix R; a row x is coded as R x."""
    stream = splitmix64(0x74696768746B7631)
    sign = np.array([-1.0 if next(stream) >> 63 else 1.0 for _ in range(D)])
    even = D & -D
    m = D // even
    hadamard = np.ones((1, 1))
    while len(hadamard) < even:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    c, b = np.mgrid[0:m, 0:m]
    dct = np.sqrt(2 / m) * np.cos(np.pi * (b + 0.5) * c / m)
    dct[0] = np.sqrt(1 / m)
    return np.kron(hadamard / np.sqrt(even), dct) * sign


# --- shared pieces ----------------------------------------------------------------------------

def halves(raw):
    return np.frombuffer(raw, "<f2").astype(f32)


def tile_to_rows(tile, kind, D):
    """Values in tile order to [64][D]."""
    tile = np.asarray(tile)
    if kind == "K":
        return tile.reshape(4, D // 4, 16, 4).transpose(0, 2, 1, 3).reshape(TOKENS, D)
    return tile.reshape(16, D // 16, 16, 4).transpose(0, 3, 1, 2).reshape(TOKENS, D)


class Page:
    """Reads a page from front to back."""

    def __init__(self, raw):
        self.raw, self.at = raw, 0

    def take(self, n):
        assert self.at + n <= len(self.raw), "the page is too short"
        self.at += n
        return self.raw[self.at - n:self.at]

    def bytes(self, n):
        return np.frombuffer(self.take(n), np.uint8)

    def bits(self, count, width):
        """`count` fields of a little-endian bit stream."""
        bits = np.unpackbits(self.bytes(count * width // 8), bitorder="little")
        return bits.reshape(count, width).astype(np.int64) @ (1 << np.arange(width))


# --- codecs: page -> [64][D] f32 in the basis -------------------------------------------------

def decode_f16(page, kind, D):
    return halves(page.take(128 * D)).reshape(TOKENS, D)


def decode_bf16(page, kind, D):
    upper = np.frombuffer(page.take(128 * D), "<u2").astype(np.uint32)
    return (upper << 16).view(f32).reshape(TOKENS, D)


def decode_q8(page, kind, D):
    codes = page.bytes(64 * D)
    codes = codes.astype(int) - 128 if kind == "K" else codes.view(np.int8)
    scale = halves(page.take(128)) * f32(0.25)
    return tile_to_rows(codes, kind, D).astype(f32) * scale[:, None]


TURBO = {  # bits: levels, step
    4: ([6, 18, 30, 43, 57, 73, 93, 123], 363 / 16384),
    3: ([13, 40, 71, 114], 309 / 16384),
    2: ([33, 110], 225 / 16384),
}


def turbo_codes(page, kind, D, bits):
    """Codes in tile order: [groups of 64][64]."""
    width = 4 if bits == 4 else 2
    per = 8 // width
    units = page.bytes(64 * D // per).reshape(-1, 1, 64)
    groups = units >> (width * np.arange(per)).reshape(1, per, 1) & ((1 << width) - 1)
    if bits == 3:
        groups = groups | page.bits(64 * D, 1).reshape(groups.shape) << 2
    if kind == "V":  # a run of D/16 units holds `per` times D/16 groups, group of tokens by group
        groups = groups.reshape(16 // per, D // 16, per, 64).transpose(0, 2, 1, 3)
    return groups.reshape(-1)


def decode_turbo(bits, centred=False):
    def decode(page, kind, D):
        positive, step = TURBO[bits]
        levels = np.array([-level for level in reversed(positive)] + positive)
        codes = tile_to_rows(turbo_codes(page, kind, D, bits), kind, D)
        scale = halves(page.take(128)) * f32(8 * step)
        rows = levels[codes].astype(f32) * scale[:, None]
        return rows + halves(page.take(2 * D)) if centred else rows
    return decode


# Cosines of the centres of each level, as f32; the sines are the same read backwards.
LEVEL_1 = [0.980785251, 0.831469595, 0.555570245, 0.195090324]
POLAR = {
    2: [LEVEL_1,
        [0.952407956, 0.805676162, 0.592356205, 0.304826379],
        [0.910522759, 0.781091094, 0.624417067, 0.413458973],
        [0.86571759, 0.761021912, 0.648726165, 0.500532806]],
    3: [LEVEL_1,
        [0.982295871, 0.928665996, 0.853435338, 0.760164559,
         0.649730563, 0.52119875, 0.370917022, 0.187336177],
        [0.953088224, 0.890125632, 0.821894228, 0.747340083,
         0.664441705, 0.56964016, 0.455715209, 0.302692652],
        [0.91072458, 0.849557579, 0.793171525, 0.736530125,
         0.676404715, 0.608998299, 0.527495921, 0.413014233]],
}


def polar_radii(page, D, bits):
    """[64][D/16] f32; K's entry order for both kinds."""
    n = 4 * D
    if bits == 2:
        upper = np.frombuffer(page.take(2 * n), "<u2") & 0x7FFF
        radii = (np.minimum(upper, 0x7F7F).astype(np.uint32) << 16).view(f32)
    else:
        radii = np.array([polar_log_radius(int(c)) for c in page.bytes(n)], f32)
    return radii.reshape(4, D // 16, 16).transpose(0, 2, 1).reshape(TOKENS, D // 16)


def polar_log_radius(c):
    if c == 0:
        return 0.0
    if c < 21:
        exponent = (c - 21) / 2 - 5
    elif c < 230:
        exponent = (c - 21) / 16 - 5
    else:
        exponent = (c - 229) / 2 + 8
    return f32(2.0 ** exponent)


def decode_polar(bits):
    def decode(page, kind, D):
        J, B = D // 4, D // 16
        c1 = page.bytes(16 * D).astype(int)
        c2 = page.bits(16 * D, 2)
        if bits == 3:
            c2 = c2 | page.bits(16 * D, 1) << 2
        upper = page.bits(4 * D, 6)
        mask = (1 << bits) - 1
        left = upper & mask
        right = page.bits(4 * D, 3) if bits == 3 else upper >> 2 & 3
        c4 = upper >> (3 if bits == 3 else 4)
        radii = polar_radii(page, D, bits)

        t, j = np.mgrid[0:TOKENS, 0:J]
        run = 16 if kind == "K" else 4
        entry = (t // run * B + j // 4) * run + t % run
        slot = 4 * entry + j % 4 if kind == "K" else (t // 4 * J + j) * 4 + t % 4
        cos = [np.array(level, f32) for level in POLAR[bits]]

        def half(level, code, second):  # cosine for the first of a pair, sine for the second
            return np.where(second, cos[level - 1][::-1][code], cos[level - 1][code])

        n = j % 4
        c3 = np.where(n < 2, left[entry], right[entry])
        column = radii[t, j // 4] * half(4, c4[entry], n >= 2) * half(3, c3, n % 2 == 1)
        rows = np.empty((TOKENS, D), f32)
        for q in range(4):
            pair = c1[slot] >> (4 if q >= 2 else 0) & 15
            value = column * half(2, c2[slot], q >= 2) * half(1, pair & 3, q % 2 == 1)
            negative = pair >> (2 + q % 2) & 1 == 1
            rows[:, q * J:(q + 1) * J] = np.where(negative, -value, value)
        return rows
    return decode


def line_codes(page, lines, values, bits):
    """The codes of lines of `values`, and the sizes of the groups of a line."""
    width = 4 if bits == 4 else 2
    sizes = [min(32, values - i) for i in range(0, values, 32)]
    codes = np.empty((lines, values), np.int64)
    for line in range(lines):
        at = 0
        for n in sizes:
            raw = page.bytes(n * width // 8)
            planes = [raw >> shift & ((1 << width) - 1) for shift in range(0, 8, width)]
            codes[line, at:at + n] = np.concatenate(planes)
            if bits == 3:
                codes[line, at:at + n] |= page.bits(n, 1) << 2
            at += n
    return codes, sizes


def decode_kivi(bits):
    def decode(page, kind, D):
        lines, values = (D, TOKENS) if kind == "K" else (TOKENS, D)
        codes, sizes = line_codes(page, lines, values, bits)
        low = halves(page.take(2 * lines * len(sizes))).reshape(lines, -1)
        delta = halves(page.take(2 * lines * len(sizes))).reshape(lines, -1)
        rows = codes.astype(f32) * np.repeat(delta, sizes, 1) + np.repeat(low, sizes, 1)
        return rows.T if kind == "K" else rows
    return decode


def decode_kvarn(bits):
    def decode(page, kind, D):
        lines, values = (D, TOKENS) if kind == "K" else (TOKENS, D)
        codes, _ = line_codes(page, lines, values, bits)
        low = halves(page.take(2 * lines))[:, None]
        delta = halves(page.take(2 * lines))[:, None]
        rows = (codes.astype(f32) * delta + low) * halves(page.take(2 * values))
        return rows.T if kind == "K" else rows
    return decode


def decode_qjl(page, kind, D):
    assert kind == "K", "qjl codes keys only"
    codes = page.bytes(16 * D)
    pairs = np.stack([codes & 15, codes >> 4], 1).astype(int)
    sign = [1 - 2 * (pairs >> i & 1 ^ 1) for i in range(4)]
    u = 41 * sign[0] + 29 * (sign[2] + sign[3])
    v = 41 * sign[1] + 29 * (sign[2] - sign[3])
    levels = tile_to_rows(np.stack([u, v], 2).reshape(-1), kind, D)
    return levels.astype(f32) * (halves(page.take(128)) * f32(1 / 64))[:, None]


def visual_codes(page, kind, D, bits):
    """[64][D]: units of groups one above the other, groups in the order of sums."""
    per = 8 // bits
    units = page.bytes(8 * D * bits).reshape(-1, 1, 64)
    groups = units >> (bits * np.arange(per)).reshape(1, per, 1) & ((1 << bits) - 1)
    groups = groups.reshape(D, 64)
    if kind == "K":
        return groups.reshape(D // 4, 4, 16, 4).transpose(1, 2, 0, 3).reshape(TOKENS, D)
    return groups.reshape(D // 16, 16, 16, 4).transpose(1, 3, 0, 2).reshape(TOKENS, D)


def decode_visual(bits):
    def decode(page, kind, D):
        low, high = halves(page.take(2 * D)), halves(page.take(2 * D))
        step = (high - low) / f32((1 << bits) - 1)
        return low + visual_codes(page, kind, D, bits).astype(f32) * step
    return decode


# --- books: what learned codecs know of a model -----------------------------------------------

GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
GGUF_TENSORS = {0: "<f4", 1: "<f2", 24: "i1", 25: "<i2", 26: "<i4"}


class Book:
    """The tensors of a GGUF file, and a place in it: a layer and a KV head."""

    def __init__(self, path, layer, head):
        self.raw, self.at, self.layer, self.head = Path(path).read_bytes(), 4, layer, head
        assert self.raw[:4] == b"GGUF" and self.word(4) == 3, "not a GGUF file of version 3"
        n_tensors, n_keys = self.word(8), self.word(8)
        align = 32
        for _ in range(n_keys):
            key, kind = self.text(), self.word(4)
            value = self.value(kind)
            align = value if key == "general.alignment" else align
        infos = []
        for _ in range(n_tensors):
            name = self.text()
            dims = [self.word(8) for _ in range(self.word(4))]
            infos.append((name, dims, GGUF_TENSORS[self.word(4)], self.word(8)))
        data = -(-self.at // align) * align
        self.tensors = {name: np.frombuffer(self.raw, dtype, int(np.prod(dims)), data + at).reshape(dims[::-1])
                        for name, dims, dtype, at in reversed(infos)}

    def word(self, n):
        self.at += n
        return int.from_bytes(self.raw[self.at - n:self.at], "little")

    def text(self):
        n = self.word(8)
        self.at += n
        return self.raw[self.at - n:self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            kind, n = self.word(4), self.word(8)
            return [self.value(kind) for _ in range(n)]
        return self.word(GGUF_SIZES[kind])

    def of_head(self, name):
        """The part of this head, [rows][D] or [D]."""
        return np.squeeze(self.tensors[name][self.head])


class Tight:
    """The model of a head: section 12."""

    UNIT = np.array([1, 1, 1, 1, 1, 1.25, 2, 2], f32)
    levels = None

    def __init__(self, codec, kind, book):
        name = f"blk.{book.layer}.attn_{kind.lower()}."
        self.bits = book.of_head(f"{codec}.{name}bits").astype(int)
        unit = self.UNIT[self.bits]
        self.mean = book.of_head(name + "mean").astype(f32) / unit
        self.back = book.of_head(name + "back").astype(f32) * unit[:, None]
        if Tight.levels is None:
            lines = Path(__file__).with_name("tight_levels.txt").read_text().splitlines()
            numbers = [int(n) for line in lines if line[0] != "#" for n in line.split()]
            Tight.levels = np.array([0] * 256 + numbers).reshape(8, 256)

    def decode(self, page):
        gain = np.array([tight_gain(int(c)) for c in page.bytes(TOKENS)], f32) * f32(1 / 32)
        window = np.zeros(TOKENS, int)
        rows = np.empty((TOKENS, len(self.bits)), f32)
        for d, n in enumerate(self.bits):
            for _ in range(n):
                window = (window << 1 | page.bits(TOKENS, 1)) & 255
            rows[:, d] = gain * self.levels[n][window].astype(f32) + self.mean[d]
        return rows


class Cq:
    """The model of a head: section 14."""

    def __init__(self, codec, kind, book):
        name = f"{codec}.blk.{book.layer}.attn_{kind.lower()}."
        step, base = (np.atleast_1d(book.of_head(name + what)).astype(f32) for what in ("step", "base"))
        codes = book.tensors[name + "codes"]
        dim, n_heads = codes.shape[2], len(book.tensors[name + "base"])
        codes = codes.reshape(n_heads, -1, 256, dim)[book.head].astype(f32)
        self.values = codes * step[:, None, None] + base.reshape(-1, 1, dim)

    def decode(self, page):
        rows = [value[page.bytes(TOKENS)] for value in self.values]
        return np.concatenate(rows, 1)


def tight_gain(c):
    if c == 0:
        return f32(0)
    octave, step = divmod(c - 144, 64)
    return f32(2.0 ** (step / 64)) * f32(2.0 ** octave)


class Rvq:
    """The codebooks of a layer: section 13. codes: [stages][2048][32], i8."""

    def __init__(self, kind, n_stages, codes, step):
        self.kind, self.codes, self.step = kind, codes[:n_stages].astype(int), f32(step)

    def decode(self, page):
        scale = halves(page.take(2 * TOKENS)) * self.step
        n_stages = len(self.codes)
        n_groups = (len(page.raw) - 2 * TOKENS) // (88 * n_stages)
        sums = np.zeros((TOKENS, n_groups, 32), int)
        for codes in self.codes:
            for group in range(n_groups):
                code = page.bytes(TOKENS).astype(int)
                for plane in (8, 9, 10):
                    code |= page.bits(TOKENS, 1) << plane
                sums[:, group] = np.clip(sums[:, group] + codes[code], -128, 127)
        order = (0, 2, 1) if self.kind == "K" else (0, 1, 2)
        rows = np.maximum(sums, -127).transpose(order).reshape(TOKENS, -1)
        return rows.astype(f32) * scale[:, None]


def made_codes(kind):
    """The codes of rvq's golden pages: sums of four bytes of a hash."""
    size = np.array([23, 19, 16, 13, 11, 9, 8, 6]).repeat(2048 * 32)
    total = np.zeros(len(size), np.int64)
    for i in range(4):
        x = np.arange(len(size), dtype=np.uint32) * np.uint32(0x9E3779B1)
        x ^= np.uint32((16 * "KV".index(kind) + i) * 0x85EBCA77 & 0xFFFFFFFF) ^ np.uint32(7 * 0xC2B2AE3D & 0xFFFFFFFF)
        x = (x ^ x >> np.uint32(15)) * np.uint32(0x2C1B3C6D)
        x = (x ^ x >> np.uint32(12)) * np.uint32(0x297A2D39)
        total += (x >> np.uint32(24)).astype(np.int64) - 128
    return np.trunc(total * size / 256).astype(int).reshape(8, 2048, 32)


RVQ_STAGES = {"rvq8": 8, "rvq6": 6, "rvq4": 4}
BOOK_CODECS = {name: Tight for name in ("tight4", "tight3", "tight2.5", "tight2", "tight1", "tight0.7")}
BOOK_CODECS.update(cq4=Cq, cq8=Cq)

CODECS = {  # name: decoder, whether rows are rotated
    "f16": (decode_f16, False),
    "bf16": (decode_bf16, False),
    "q8": (decode_q8, True),
    "turbo4": (decode_turbo(4), True),
    "turbo3": (decode_turbo(3), True),
    "turbo2": (decode_turbo(2), True),
    "polar": (decode_polar(2), True),
    "polar433": (decode_polar(3), True),
    "polar-online": (decode_polar(2), True),  # a page coded without learned centres
    "kivi4": (decode_kivi(4), False),
    "kivi2": (decode_kivi(2), False),
    "turbo4c": (decode_turbo(4, centred=True), True),
    "turbo3c": (decode_turbo(3, centred=True), True),
    "kvarn4": (decode_kvarn(4), True),
    "kvarn3": (decode_kvarn(3), True),
    "kvarn2": (decode_kvarn(2), True),
    "qjl": (decode_qjl, True),
    "visual1": (decode_visual(1), False),
    "visual2": (decode_visual(2), False),
    "visual4": (decode_visual(4), False),
}


def decode_basis(codec, kind, D, raw, model=None):
    page = Page(raw)
    with np.errstate(invalid="ignore", over="ignore"):
        rows = model.decode(page) if model else CODECS[codec][0](page, kind, D)
    assert page.at == len(raw), f"{len(raw) - page.at} bytes too many"
    return np.ascontiguousarray(rows, f32)


def undo_basis(codec, D, rows, model=None):
    if model:
        return rows.astype(np.float64) @ model.back if hasattr(model, "back") else rows.astype(np.float64)
    return rows @ rotation(D) if CODECS[codec][1] else rows.astype(np.float64)


# --- golden pages (tests/golden/README.md) ----------------------------------------------------

def golden_rows(kind, D):
    stream = splitmix64(1000 * "KV".index(kind) + D)
    rows = np.empty((TOKENS, D))
    for t in range(TOKENS):
        for d in range(D):
            r = next(stream)
            total = sum(r >> shift & 0xFFFF for shift in (0, 16, 32, 48))
            rows[t, d] = (total - 131070) * 2.0 ** (5 * t % 7 - 19) + (16 if d == 5 else 0)
    return rows.astype(np.float16).astype(np.float64)


def fnv1a64(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & MASK64
    return value


def golden_model(codec, kind, D, root):
    """A family of codecs, named up to the first digit, has one book, with a layer for each head size."""
    if codec in RVQ_STAGES:
        return Rvq(kind, RVQ_STAGES[codec], made_codes(kind), 1 / 24)
    if codec not in BOOK_CODECS:
        return None
    family = codec[:next(i for i, c in enumerate(codec) if c.isdigit())]
    return BOOK_CODECS[codec](codec, kind, Book(root / f"{family}.tkvbook", [48, 128].index(D), 0))


def check_line(codec, root, line):
    kind, D, name, digest, rel_mse = line.split()
    D = int(D)
    model = golden_model(codec, kind, D, root)
    rows = decode_basis(codec, kind, D, (root / codec / "v1" / name).read_bytes(), model)
    if fnv1a64(rows.astype("<f4").tobytes()) != int(digest, 16):
        return "decodes to other floats"
    want = golden_rows(kind, D)
    error = ((undo_basis(codec, D, rows, model) - want) ** 2).sum() / (want ** 2).sum()
    if abs(error - float(rel_mse)) > 1e-3 * float(rel_mse):
        return f"error {error:.6e}, not {rel_mse}"
    return None


def check(root):
    bad = n = 0
    for codec in [*CODECS, *BOOK_CODECS, *RVQ_STAGES]:
        for line in (root / codec / "v1" / "manifest").read_text().splitlines():
            n += 1
            problem = check_line(codec, root, line)
            if problem:
                bad += 1
                print(f"{codec}: {line}: {problem}")
    missing = {p.name for p in root.iterdir() if p.is_dir()} - set(CODECS) - set(BOOK_CODECS) - set(RVQ_STAGES)
    for name in sorted(missing):
        bad += 1
        print(f"{name}: no decoder here")
    print(f"{n} golden pages, {bad} problems")
    return 1 if bad else 0


def main(args):
    if len(args) == 2 and args[0] == "--check":
        return check(Path(args[1]))
    book = None
    if args[:1] == ["--book"] and len(args) > 4:
        book = Book(args[1], int(args[2]), int(args[3]))
        args = args[4:]
    basis = args[:1] == ["--basis"]
    args = args[basis:]
    known = BOOK_CODECS if book else CODECS
    if len(args) != 4 or args[0] not in known or args[1] not in ("K", "V"):
        print(__doc__, file=sys.stderr)
        return 2
    codec, kind, D = args[0], args[1], int(args[2])
    model = BOOK_CODECS[codec](codec, kind, book) if book else None
    rows = decode_basis(codec, kind, D, Path(args[3]).read_bytes(), model)
    if not basis:
        rows = undo_basis(codec, D, rows, model)
    sys.stdout.buffer.write(rows.astype("<f4").tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
