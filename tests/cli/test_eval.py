"""tightkv eval and bench model on the embedded model: small runs whose results are known, and what is refused."""
import json
import os
import tempfile
import unittest

import command

MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models")
MODEL = os.path.join(MODELS, "tightkv-lm-46m-q4_k_m.gguf")
TEXT = os.path.join(MODELS, "demo-text.txt")
ROOT = ["tightkv", "run", "model", "weights", "text", "n_ctx", "n_windows", "forward_seconds", "noise_floor", "rows"]
KEYS = ["kv", "spec", "bits_per_value", "book_mib", "kv_mib", "breakdown", "exact_fraction", "read_fraction",
        "ppl", "ppl_se", "ppl_f16", "ppl_change", "ppl_change_ci", "kld_mean", "kld_ci", "kld_median", "kld_p99", "kld_p999",
        "kld_max", "same_top1", "same_top1_ci", "top5_overlap", "by_position", "below_floor",
        "recall", "recall_f16", "recall_ci", "n_questions", "layers"]


def recall_item():
    with open(TEXT, encoding="utf-8") as f:
        words = f.read(2400).split(" ")
    middle = len(words) // 2
    fact = "The magic word of London apple is zebra."
    context = " ".join(words[:middle] + [fact] + words[middle:])
    prompt = "\nQuestion: What is the magic word of London apple? Answer: The magic word of London apple is"
    return {"context": context, "questions": [{"prompt": prompt, "answer": " zebra."},
                                              {"prompt": prompt, "answer": " umbrella."}]}


class Eval(command.CommandTest):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def file(self, name, data):
        path = os.path.join(self.folder.name, name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    def rows(self, *args):
        result = self.json_of("eval", "-m", MODEL, *args)
        self.assertEqual(list(result), ROOT)
        self.assertEqual(result["model"], os.path.basename(MODEL))
        for row in result["rows"]:
            self.assertEqual(list(row), KEYS)
            self.assertEqual(row["book_mib"], 0)
        return result["rows"]

    def test_text(self):
        rows = self.rows("--kv", "k=f16,v=f16,sink=0,tail=0", "--kv", "kv=turbo4,sink=0,tail=0", "--stock", "f16,q4_0",
                         "--text", TEXT, "--ctx", 256, "--chunks", 1)
        self.assertEqual([r["kv"] for r in rows], ["k=f16,v=f16,sink=0,tail=0", "kv=turbo4,sink=0,tail=0", "stock:f16", "stock:q4_0"])
        plain, turbo, same, q4 = rows
        # The reference against itself differs in nothing; the plug-in's f16 only by what 4-bit weights make of noise.
        self.assertEqual((same["kld_mean"], same["same_top1"], same["ppl"]), (0, 1, same["ppl_f16"]))
        self.assertLess(plain["kld_mean"], 1e-3)
        self.assertGreater(turbo["kld_mean"], 1e-3)
        self.assertLess(turbo["kld_mean"], .1)
        self.assertLess(turbo["kld_median"], turbo["kld_p999"])
        self.assertAlmostEqual(turbo["bits_per_value"], 4.13, delta=.15)
        self.assertAlmostEqual(same["kv_mib"], 256 * 12288 / 2**20, delta=.05)
        self.assertEqual((q4["bits_per_value"], plain["read_fraction"]), (4.5, 1))
        self.assertEqual(turbo["exact_fraction"], 0)
        for row in rows:
            self.assertIsNone(row["recall"])
            self.assertIsNone(row["layers"])
            self.assertEqual(row["ppl_f16"], same["ppl"])
            self.assertAlmostEqual(row["ppl"] / same["ppl"], 1, delta=.1)

    def test_sink_and_tail_are_exact(self):
        row, = self.rows("--kv", "kv=turbo4,sink=64,tail=128", "--text", TEXT, "--ctx", 512, "--chunks", 1)
        # Queries 256 to 511 see 64 sink rows and the 128 before them of p + 1.
        expected = sum(192 / (p + 1) for p in range(256, 512)) / 256
        self.assertAlmostEqual(row["exact_fraction"], expected, delta=.02)

    def test_layers(self):
        plain, keys, stock = self.rows("--kv", "kv=turbo4", "--kv", "k=turbo4c,v=f16", "--stock", "q8_0", "--text", TEXT,
                                       "--ctx", 512, "--chunks", 1, "--layers")
        self.assertIsNone(stock["layers"])
        self.assertEqual([l["layer"] for l in plain["layers"]], list(range(12)))
        for one, other in zip(plain["layers"], keys["layers"]):
            self.assertEqual(len(one["heads"]), 2)
            # Four bits on a normal source leave .0095; what is left of it here depends on the rows.
            for part in [one] + one["heads"]:
                self.assertTrue(.006 < part["k_error"] < .013 and .006 < part["v_error"] < .013, part)
                self.assertTrue(0 < part["out_error"] < .013, part)
            self.assertEqual(other["v_error"], 0)
            self.assertLess(other["out_error"], one["out_error"])

    def test_recall(self):
        path = self.file("r.jsonl", json.dumps(recall_item()).encode() + b"\n")
        row, = self.rows("--kv", "kv=turbo4", "--recall", path)
        # The second question asks the same and expects another answer: wrong.
        self.assertEqual((row["recall"], row["recall_f16"]), (.5, .5))
        for key in ("ppl", "ppl_f16", "kld_mean", "kld_median", "kld_p999", "same_top1"):
            self.assertIsNone(row[key])
        self.assertGreater(row["bits_per_value"], 4)

    def test_table(self):
        code, out, err = command.run("eval", "-q", "-m", MODEL, "--stock", "f16", "--text", TEXT, "--ctx", 64, "--chunks", 1)
        self.assertEqual((code, err), (command.OK, ""))
        self.assertEqual([line.split()[0] for line in out.splitlines()], ["kv", "stock:f16", "noise", "*"])

    def test_wrong_use(self):
        self.assert_refused(command.USAGE, "eval", says="-m MODEL")
        self.assert_refused(command.USAGE, "eval", "-m", MODEL, says="--text")
        self.assert_refused(command.USAGE, "eval", "-m", MODEL, "--recall", TEXT, "--layers", says="--text")
        self.assert_refused(command.USAGE, "eval", "-m", MODEL, "--text", TEXT, "--kv", "kv=turbo9", says="turbo9")
        self.assert_refused(command.USAGE, "eval", "-m", MODEL, "--text", TEXT, "--stock", "q9_9", says="q9_9")
        self.assert_refused(command.USAGE, "eval", "-m", MODEL, "--text", TEXT, "--ctx", "many", says="many")

    def test_bad_files(self):
        with open(MODEL, "rb") as f:
            cut = self.file("cut.gguf", f.read(1 << 20))
        noise = self.file("noise.gguf", bytes(range(256)) * 64)
        stock = ("--stock", "q8_0")
        self.assert_refused(command.DATA, "eval", "-m", cut, *stock, "--text", TEXT, says="cut.gguf")
        self.assert_refused(command.DATA, "eval", "-m", noise, *stock, "--text", TEXT, says="noise.gguf")
        self.assert_refused(command.DATA, "eval", "-m", "/nonexistent.gguf", *stock, "--text", TEXT, says="/nonexistent.gguf")
        self.assert_refused(command.DATA, "eval", "-m", MODEL, *stock, "--text", "/nonexistent.txt", says="/nonexistent.txt")
        short = self.file("short.txt", b"A short text.")
        self.assert_refused(command.DATA, "eval", "-m", MODEL, *stock, "--text", short, says="less than one window")
        for data in (b"", b"{}\n", b'{"context": "a"}\n', b'{"context": "a", "questions": [{"prompt": "b"}]}\n', b"\x00\xff\n"):
            self.assert_refused(command.DATA, "eval", "-m", MODEL, *stock, "--recall", self.file("r.jsonl", data), says="r.jsonl")


class BenchModel(command.CommandTest):
    def test_json(self):
        result = self.json_of("bench", "model", "-m", MODEL, "--kv", "kv=turbo4", "--depth", "0,64", "--runs", 1, "-n", 2)
        self.assertEqual([row["depth"] for row in result["rows"]], [0, 64])
        for row in result["rows"]:
            self.assertEqual(list(row), ["depth", "pp_tok_s", "tg_tok_s", "stock_pp_tok_s", "stock_tg_tok_s"])
            self.assertTrue(all(v > 0 for k, v in row.items() if k != "depth"), row)

    def test_wrong_use(self):
        for depth in ("x", "1,,2", "-1", ""):
            self.assert_refused(command.USAGE, "bench", "model", "-m", MODEL, "--depth", depth, says="--depth")


if __name__ == "__main__":
    command.main()
