"""tightkv eval --visual and --greedy on the embedded model, on small material made here."""
import json
import os
import random
import struct
import subprocess
import tempfile
import unittest

import command

MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models")
MODEL = os.path.join(MODELS, "tightkv-lm-46m-q4_k_m.gguf")
TEXT = os.path.join(MODELS, "demo-text.txt")
N_EMBD = 512
N_ROWS = 127  # with BOS before them, two pages


def npy(shape, values, dtype="<f2", version=1):
    header = str({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    data = struct.pack(f"<{len(values)}{ {'<f2': 'e', '<f4': 'f', '<f8': 'd'}[dtype] }", *values)
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def picture(rng):
    """A line of common tokens again and again: near the end most are foreseen, but not the one that is changed."""
    line = rng.sample(range(258, 600), 6)
    ids = line * 30
    ids[-1] = line[0]
    n = len(ids)
    return {"text_ids": ids, "answers": [[i, 1] for i in range(n - 7, n)]}


class Parts(command.CommandTest):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.rng = random.Random(5)
        self.base = os.path.join(self.folder.name, "seen")

    def embeddings(self, n):
        return [self.rng.gauss(0, .9) for _ in range(n * N_EMBD)]

    def write(self, array, text):
        with open(self.base + ".npy", "wb") as f:
            f.write(array)
        with open(self.base + ".json", "w", encoding="ascii") as f:
            f.write(text)

    def rows(self, *args):
        return self.json_of("eval", "-m", MODEL, *args)["rows"]


class Visual(Parts):
    def test_answers(self):
        self.write(npy((1, N_ROWS, N_EMBD), self.embeddings(N_ROWS)), json.dumps([picture(self.rng)]))
        coded, text, stock = self.rows("--visual", self.base, "--kv", "kv=f16,visual.k=turbo2,visual.v=turbo2,sink=0,tail=0",
                                       "--kv", "kv=turbo4,sink=0,tail=0", "--stock", "f16")
        for row in (coded, text, stock):
            self.assertEqual((row["visual_f16"], row["n_answers"]), (stock["visual"], 7))
            self.assertEqual(len(row["visual_ci"]), 2)
            self.assertIsNone(row["recall"])
            self.assertEqual((row["exact_fraction"], row["read_fraction"]), (row is stock, 1))
        self.assertGreater(stock["visual"], 0)
        self.assertLess(stock["visual"], 1)
        # Of visual tokens alone: text is f16 here. Two pages of 2.125 bits, and their entries in the page table.
        self.assertAlmostEqual(coded["bits_per_value"], 2.125 * 128 / 127, delta=.1)
        self.assertAlmostEqual(text["bits_per_value"], 4.125, delta=.1)

    def test_versions_and_types_are_the_same(self):
        values, text = self.embeddings(4), json.dumps([picture(self.rng)])
        halves = struct.unpack(f"<{len(values)}e", struct.pack(f"<{len(values)}e", *values))
        found = []
        for dtype, version in (("<f2", 1), ("<f4", 2)):
            self.write(npy((1, 4, N_EMBD), halves, dtype, version), text)
            row, = self.rows("--visual", self.base, "--stock", "q4_0")
            found.append((row["visual"], row["visual_f16"]))
        self.assertEqual(found[0], found[1])

    def test_bad_files(self):
        good, seen = npy((1, 4, N_EMBD), self.embeddings(4)), picture(self.rng)
        text = json.dumps([seen])
        cases = [(good[:-1], text, "cut short"), (npy((1, 8, N_EMBD // 2), self.embeddings(4)), text, "embeddings of 256 values"),
                 (good, text[:-10], "cut short"), (good, json.dumps([seen, seen]), "describes 2 pictures"),
                 (good, json.dumps([{**seen, "text_ids": [1, 10**6]}]), "text_ids"),
                 (good, json.dumps([{**seen, "answers": [[179, 2]]}]), "answers"),
                 (good, json.dumps([{**seen, "answers": [[0, 1]]}]), "answers")]
        cases.append((good, json.dumps([{"text_ids": [300] * 16380, "answers": [[1, 1]]}]), "picture 1: 16385 tokens"))
        for array, questions, says in cases:
            self.write(array, questions)
            self.assert_refused(command.DATA, "eval", "-q", "-m", MODEL, "--stock", "f16", "--visual", self.base, says=says)


class Greedy(Parts):
    ARGS = ("--text", TEXT, "--ctx", 48, "--chunks", 1, "--greedy", 5, "--greedy-tokens", 8,
            "--threads", 1)  # one token at a time: threads would only wait for each other

    def test_agreement(self):
        result = self.json_of("eval", "-m", MODEL, *self.ARGS, "--stock", "f16", "--kv", "turbo2,sink=0,tail=0")
        coded, stock = (row["greedy"] for row in result["rows"])
        self.assertEqual(stock, {"n_prompts": 5, "n_tokens": 8, "mean_agree": 8, "mean_agree_ci": [8, 8], "full_agree": 1})
        # Two bits a value for every token: the text becomes another one soon.
        self.assertLess(coded["mean_agree"], 8)
        self.assertLess(coded["full_agree"], 1)
        self.assertEqual(result["noise_floor"]["greedy"]["n_prompts"], 5)

    def test_text_from_a_pipe(self):
        args = ["eval", "-q", "-m", MODEL, "--json", "--stock", "q4_0", "--kv", "turbo4", "--layers", *map(str, self.ARGS[2:])]
        with open(TEXT, "rb") as f:
            done = subprocess.run([os.environ["TIGHTKV"], *args, "--text", "-"], input=f.read(), stdout=subprocess.PIPE, check=True)
        coded, stock = json.loads(done.stdout)["rows"]
        self.assertEqual((coded["greedy"]["n_prompts"], stock["greedy"]["n_prompts"], len(coded["layers"])), (5, 5, 12))

    def test_not_asked_for_is_null(self):
        row, = self.rows("--text", TEXT, "--ctx", 64, "--chunks", 1, "--stock", "f16")
        self.assertEqual([row[k] for k in ("greedy", "visual", "visual_f16", "visual_ci", "n_answers")], [None] * 5)

    def test_wrong_use(self):
        self.assert_refused(command.USAGE, "eval", "-m", MODEL, "--greedy", 2, "--recall", "r", says="--text")
        self.assert_refused(command.USAGE, "eval", "-m", MODEL, "--text", TEXT, "--ctx", 64, "--greedy", 2, says="--greedy-tokens 64")


if __name__ == "__main__":
    command.main()
