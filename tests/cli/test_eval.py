"""tightkv eval and bench model on the embedded model: small runs whose results are known, and what is refused."""
import json
import os
import resource
import signal
import struct
import subprocess
import tempfile
import time
import unittest

import command

MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models")
MODEL = os.path.join(MODELS, "tightkv-lm-46m-q4_k_m.gguf")
TEXT = os.path.join(MODELS, "demo-text.txt")
ROOT = ["tightkv", "run", "model", "weights", "text", "recall_file", "visual_file", "n_ctx", "n_windows", "forward_seconds", "noise_floor", "rows"]
KEYS = ["kv", "spec", "bits_per_value", "book_mib", "kv_mib", "breakdown", "exact_fraction", "read_fraction",
        "ppl", "ppl_se", "ppl_f16", "ppl_change", "ppl_change_ci", "kld_mean", "kld_ci", "kld_median", "kld_p99", "kld_p999",
        "kld_max", "same_top1", "same_top1_ci", "top5_overlap", "by_position", "below_floor",
        "greedy", "recall", "recall_f16", "recall_ci", "n_questions", "recall_by_depth", "recall_by_distance",
        "visual", "visual_f16", "visual_ci", "n_answers", "layers"]


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
        self.assertTrue(.9 < same["same_top1_ci"][0] < same["same_top1_ci"][1] == 1, same["same_top1_ci"])
        self.assertLess(plain["kld_mean"], 1e-3)
        self.assertGreater(turbo["kld_mean"], 1e-3)
        self.assertLess(turbo["kld_mean"], .1)
        self.assertLess(turbo["kld_median"], turbo["kld_p999"])
        self.assertAlmostEqual(turbo["bits_per_value"], 4.13, delta=.15)
        self.assertAlmostEqual(same["kv_mib"], 256 * 12288 / 2**20, delta=.05)
        self.assertEqual((q4["bits_per_value"], plain["read_fraction"]), (4.5, 1))
        self.assertEqual(turbo["exact_fraction"], 0)
        # Everything takes place in the breakdown: 16 + 2 bytes for 32 values of q4_0, a scale a row of turbo4.
        self.assertAlmostEqual(q4["breakdown"]["side_mib"] / q4["breakdown"]["codes_mib"], 2 / 16, delta=1e-6)
        self.assertAlmostEqual(turbo["breakdown"]["side_mib"] / turbo["breakdown"]["codes_mib"], 2 / 64, delta=1e-6)
        for row in rows:
            self.assertAlmostEqual(sum(row["breakdown"].values()), row["kv_mib"], delta=1e-6)
            self.assertIsNone(row["recall"])
            self.assertIsNone(row["layers"])
            self.assertEqual(row["ppl_f16"], same["ppl"])
            self.assertAlmostEqual(row["ppl"] / same["ppl"], 1, delta=.1)

    def test_figures_agree(self):
        row, = self.rows("--kv", "kv=turbo3", "--text", TEXT, "--ctx", 512, "--chunks", 1)
        buckets = row["by_position"]
        self.assertEqual([(b["first"], b["last"], b["n"]) for b in buckets], [(0, 127, 128), (128, 255, 128), (256, 510, 255)])
        # The headline is of the second half: here the last bucket.
        self.assertAlmostEqual(buckets[-1]["kld_mean"], row["kld_mean"], delta=1e-12)
        self.assertAlmostEqual(buckets[-1]["same_top1"], row["same_top1"], delta=1e-12)
        self.assertAlmostEqual(row["ppl_change"], row["ppl"] / row["ppl_f16"] - 1, delta=1e-6)
        self.assertTrue(row["kld_median"] < row["kld_p99"] < row["kld_p999"] < row["kld_max"])
        for key, interval in (("kld_mean", "kld_ci"), ("same_top1", "same_top1_ci"), ("ppl_change", "ppl_change_ci")):
            self.assertTrue(row[interval][0] < row[key] < row[interval][1], key)
        self.assertTrue(0 < row["ppl_se"] < row["ppl"] and .5 < row["top5_overlap"] < 1)

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
        result = self.json_of("eval", "-m", MODEL, "--kv", "kv=turbo4", "--recall", path)
        row, = result["rows"]
        self.assertEqual([result[key] for key in ("text", "recall_file", "visual_file")], [None, "r.jsonl", None])
        self.assertTrue(400 < result["n_ctx"] < 800, result["n_ctx"])
        # The second question asks the same and expects another answer: wrong.
        self.assertEqual((row["recall"], row["recall_f16"], row["n_questions"]), (.5, .5, 2))
        self.assertTrue(row["recall_ci"][0] < .5 < row["recall_ci"][1])
        # The fact stands in the middle of about 500 tokens; that of the second question is not there.
        found = [[b for b in row[key] if b["n"]] for key in ("recall_by_depth", "recall_by_distance")]
        self.assertEqual([[b["first"] for b in found[0]], [b["n"] for b in found[0]]], [[.4], [1]])
        self.assertEqual([[b["right"], b["right_f16"], b["n"]] for b in found[1]], [[1, 1, 1]])
        self.assertLessEqual(found[1][0]["first"], 256)
        for key in ("ppl", "ppl_f16", "kld_mean", "kld_median", "kld_p999", "same_top1"):
            self.assertIsNone(row[key])
        self.assertGreater(row["bits_per_value"], 4)

    def test_noise_floor(self):
        result = self.json_of("eval", "-m", MODEL, "--kv", "kv=f16,sink=0,tail=0", "--kv", "kv=turbo2,sink=0,tail=0", "--text", TEXT,
                              "--ctx", 256, "--chunks", 1)
        floor, (same, turbo) = result["noise_floor"], result["rows"]
        self.assertEqual({key: same[key] for key in floor}, floor)
        self.assertEqual((same["below_floor"], turbo["below_floor"]), (True, False))

    def test_resume(self):
        args = ("eval", "-m", MODEL, "--text", TEXT, "--ctx", 64, "--chunks", 2, "--kv", "kv=turbo4,sink=0,tail=0")
        whole, cut = (os.path.join(self.folder.name, name) for name in ("whole.json", "cut.json"))
        partial = cut + ".partial"
        self.assertEqual(command.run(*args, "-q", "-o", whole)[0], command.OK)
        for kill in (signal.SIGINT, signal.SIGKILL):
            before = os.path.getsize(partial) if os.path.exists(partial) else 16
            with subprocess.Popen([os.environ["TIGHTKV"], *map(str, args), "-o", cut], stderr=subprocess.PIPE, text=True) as child:
                while child.poll() is None and (not os.path.exists(partial) or os.path.getsize(partial) <= before):
                    time.sleep(.005)
                child.send_signal(kill)
                err = child.stderr.read()
            if kill == signal.SIGINT:
                self.assertEqual(child.returncode, 130, err)
                self.assertIn("goes on from " + partial, err.splitlines()[-1])
            self.assertFalse(os.path.exists(cut))
        with open(partial, "ab") as f:
            f.write(b"\x40" + bytes(20))  # as a record that was being written
        for other, env in ((("--chunks", 1), {}), (("--threads", 1), {}), ((), {"TIGHTKV_CPU": "1"})):
            code, _, err = command.run(*args, *other, "-o", cut, env=env)
            self.assertEqual((code, err.count("\n")), (command.DATA, 1))
            self.assertIn("other options", err)
        code, _, err = command.run(*args, "-o", cut)
        self.assertEqual(code, command.OK, err)
        self.assertRegex(err, r"resuming: [2-9] of \d+ units are there")
        results = []
        for path in (whole, cut):
            with open(path, encoding="utf-8") as f:
                results.append(json.load(f))
            del results[-1]["run"], results[-1]["forward_seconds"]
        self.assertEqual(*results)
        self.assertEqual(sorted(os.listdir(self.folder.name)), ["cut.json", "whole.json"])

    def test_no_room_for_logits(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        # Python ignores SIGXFSZ; the child does too, and sees a write that fails.
        done = subprocess.run([os.environ["TIGHTKV"], "eval", "-q", "-m", MODEL, "--stock", "q8_0", "--text", TEXT, "--ctx", "256"],
                              env={**os.environ, "TMPDIR": self.folder.name}, capture_output=True, text=True, preexec_fn=limit,
                              restore_signals=False)
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (command.DATA, "", 1), done.stderr)
        self.assertIn(f"MiB of logits in {self.folder.name}", done.stderr)
        self.assertEqual(os.listdir(self.folder.name), [])
        self.assert_refused(command.DATA, "eval", "-q", "-m", MODEL, "--stock", "q8_0", "--text", TEXT, "--ctx", 256, says="TMPDIR",
                            env={"TMPDIR": "/nonexistent"})

    def test_a_row_that_fails(self):
        # Where the plug-in is told to stay out, coded rows fail; the others are measured.
        code, out, err = command.run("eval", "-q", "-m", MODEL, "--kv", "kv=turbo4", "--stock", "q8_0", "--text", TEXT, "--ctx", 64,
                                     "--chunks", 1, "--json", env={"TIGHTKV_DEVICE": "0"})
        self.assertEqual(code, command.DATA)
        result = json.loads(out)
        turbo, q8 = result["rows"]
        self.assertIn(turbo["error"], err)
        self.assertIn("kv=turbo4", turbo["error"])
        self.assertNotIn("error", q8)
        self.assertIsNone(result["noise_floor"])
        self.assertIsNone(turbo["kld_mean"])
        self.assertGreater(q8["kld_mean"], 0)
        _, table, _ = command.run("eval", "-q", "-m", MODEL, "--kv", "kv=turbo4", "--text", TEXT, "--ctx", 64, "--chunks", 1,
                                  env={"TIGHTKV_DEVICE": "0"})
        self.assertEqual(table.splitlines()[-1], "kv=turbo4 failed: " + turbo["error"])

    def test_table(self):
        code, out, err = command.run("eval", "-q", "-m", MODEL, "--stock", "f16", "--text", TEXT, "--ctx", 64, "--chunks", 1)
        self.assertEqual((code, err), (command.OK, ""))
        lines = out.splitlines()
        self.assertEqual([line.split()[0] for line in lines], ["kv", "stock:f16", "noise", "*"])
        # What nothing was measured of has no column.
        for title, there in (("KLD 95%", True), ("99%", True), ("max", True), ("recall", False), ("greedy", False)):
            self.assertEqual(title in lines[0], there, title)
        with open("/dev/full", "w", encoding="ascii") as full:
            done = subprocess.run([os.environ["TIGHTKV"], "eval", "-q", "-m", MODEL, "--stock", "f16", "--text", TEXT, "--ctx", "64",
                                   "--chunks", "1"], stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual((done.returncode, done.stderr), (command.DATA, "tightkv: cannot write to stdout\n"))

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
        whole = json.dumps(recall_item()).encode()
        cut = self.file("cut.jsonl", whole + b"\n" + whole[:-40] + b"\n")
        self.assert_refused(command.DATA, "eval", "-m", MODEL, *stock, "--recall", cut, says="cut.jsonl:2 is no JSON")
        self.assert_refused(command.DATA, "eval", "-m", MODEL, *stock, "--text", self.file("empty.txt", b""), says="is empty")
        latin = self.file("latin.txt", "A caf\u00e9 of 1851. ".encode("latin-1") * 99)
        self.assert_refused(command.DATA, "eval", "-m", MODEL, *stock, "--text", latin, says="byte 5 is 0xe9")
        self.assert_refused(command.DATA, "eval", "-m", MODEL, *stock, "--text", TEXT, "--ctx", 16385, says="16384")

    def test_model_without_tokenizer(self):
        with open(MODEL, "rb") as f:
            data = f.read()
        # The same length: four letters go from the name to the tokenizer's kind.
        kind, name = b"tokenizer.ggml.model" + struct.pack("<I", 8), b"general.name" + struct.pack("<I", 8)
        start = data.index(name) + len(name)
        length, = struct.unpack_from("<Q", data, start)
        data = (data[:start] + struct.pack("<Q", length - 4) + data[start + 8:start + 4 + length] + data[start + 8 + length:])
        data = data.replace(kind + struct.pack("<Q", 4) + b"gpt2", kind + struct.pack("<Q", 8) + b"no_vocab", 1)
        mute, asked = self.file("mute.gguf", data), self.file("r.jsonl", json.dumps(recall_item()).encode())
        for material in (("--text", TEXT), ("--recall", asked)):
            self.assert_refused(command.DATA, "eval", "-m", mute, "--stock", "q8_0", *material, says="mute.gguf has no tokenizer")


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
