"""tightkv advise on the embedded model: a quick look whose figures must agree with each other, and what is refused."""
import os
import shlex
import tempfile
import unittest

import command
import gguf_header

MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models")
MODEL = os.path.join(MODELS, "tightkv-lm-46m-q4_k_m.gguf")
TEXT = os.path.join(MODELS, "demo-text.txt")
ROOT = ["tightkv", "run", "model", "text", "ctx", "n_ctx", "n_windows", "weights_mib", "f16_mib", "noise_floor",
        "leave_at_f16", "keys", "keys_gain", "levels", "budget", "rungs", "layers"]
RUNG = ["spec", "bits_per_value", "kv_mib", "smaller", "measured", "kld_mean", "kld_ci", "kld_at_most", "same_top1",
        "ppl_change", "out_error"]


class Advise(command.CommandTest):
    def test_advice(self):
        result = self.json_of("advise", MODEL, "--quick", "--ctx", 512, "--text", TEXT, "--budget", "1M")
        self.assertEqual(list(result), ROOT)
        self.assertEqual((result["tightkv"], result["ctx"], result["n_ctx"], result["n_windows"]), ("advise", 512, 512, 1))
        self.assertAlmostEqual(result["f16_mib"], 6, delta=.01)
        self.assertGreater(result["keys_gain"], 1)
        self.check_rungs(result)
        self.check_levels(result)
        # 64 + 128 exact tokens alone take more than a MiB.
        self.assertIsNone(result["budget"]["spec"])
        self.assertEqual(result["budget"]["mib"], 1)
        self.assertLess(result["budget"]["fits_ctx"], 512)
        self.assertIn("MiB", result["budget"]["why"])
        self.assertEqual([l["layer"] for l in result["layers"]], list(range(12)))
        for layer in result["layers"]:
            self.assertEqual(len(layer["heads"]), 2)
            for kind in ("k", "v"):
                self.assertTrue(all(v >= 0 for v in layer["heads"][0][kind].values()), layer)

    def check_rungs(self, result):
        rungs = {r["spec"]: r for r in result["rungs"]}
        for rung in rungs.values():
            self.assertEqual(list(rung), RUNG)
            self.assertEqual(rung["measured"], rung["same_top1"] is not None)
            self.assertLess(rung["kld_ci"][0], rung["kld_ci"][1])
            self.assertGreaterEqual(rung["kld_at_most"], result["noise_floor"]["kld_mean"])
            self.assertAlmostEqual(rung["smaller"], result["f16_mib"] / rung["kv_mib"], delta=1e-6)
        self.assertEqual(sum(r["measured"] for r in rungs.values()), 3)
        # The model's book comes with tightkv.
        self.assertLess(rungs["k=tight3,v=tight3"]["kld_mean"], rungs["k=turbo3c,v=turbo3"]["kld_mean"])
        self.assertLess(rungs["k=tight3,v=tight3"]["kv_mib"], rungs["k=turbo3c,v=turbo3"]["kv_mib"])
        self.assertIsNone(rungs["k=tight3,v=tight3"]["out_error"])
        self.assertLess(rungs["k=q8,v=q8"]["out_error"], .1 * rungs["k=turbo4c,v=turbo4"]["out_error"])
        self.assertLess(rungs["k=turbo4c,v=turbo4"]["out_error"], rungs["k=turbo4,v=turbo4"]["out_error"])
        self.assertLess(rungs["k=turbo3,v=turbo2"]["kv_mib"], rungs["k=turbo3c,v=turbo2"]["kv_mib"])

    def check_levels(self, result):
        """Each level has the smallest rung that is sure to stay within its limit, or f16."""
        floor = result["noise_floor"]["kld_mean"]
        self.assertEqual([l["level"] for l in result["levels"]], ["no_loss", "small", "usable"])
        for level in result["levels"]:
            within = [r for r in result["rungs"] if r["kld_at_most"] - floor <= level["kld_limit"]]
            best = min(within, key=lambda r: r["kv_mib"])["spec"] if within else "f16"
            self.assertEqual(level["spec"], best)
            self.assertTrue(level["why"])

    def test_nothing_to_code(self):
        mla = {"block_count": 4, "context_length": 4096, "embedding_length": 512, "attention.head_count": 8,
               "attention.head_count_kv": 1, "attention.key_length": 576, "attention.value_length": 512,
               "attention.key_length_mla": 192, "attention.value_length_mla": 128}
        with tempfile.TemporaryDirectory() as folder:
            path = gguf_header.write(os.path.join(folder, "mla.gguf"), "deepseek2", mla)
            result = self.json_of("advise", path)
            self.assertIn("f16", result["leave_at_f16"])
            self.assertEqual([l["spec"] for l in result["levels"]], ["f16"] * 3)
            self.assertEqual((result["layers"], result["n_windows"], result["rungs"][0]["kld_mean"]), ([], 0, None))
            self.assertFalse([r for r in result["rungs"] if "tight" in r["spec"]])
            code, out, _ = command.run("advise", path)
            self.assertEqual(code, command.OK)
            self.assertIn("Leave it at f16", " ".join(out.split()))

    def test_text(self):
        code, out, err = command.run("advise", MODEL, "--quick", "--ctx", 256, "--budget", "1G", "-q")
        self.assertEqual((code, err), (command.OK, ""))
        for expected in ("no measurable loss", "small loss", "smallest usable", "Keys:", "k=turbo4c,v=turbo4",
                         "1024 MiB hold an f16 cache of 256 tokens"):
            self.assertIn(expected, out)
        self.assertTrue(all(len(line) <= 120 for line in out.splitlines()[2:]), out)

    def test_without_a_book(self):
        with tempfile.TemporaryDirectory() as folder:
            nowhere = {"TIGHTKV_DATA": folder, "XDG_DATA_HOME": folder}
            result = self.json_of("advise", MODEL, "--quick", "--ctx", 256, "--text", TEXT, env=nowhere)
            self.assertEqual(len(result["rungs"]), 10)
            self.assertFalse([r for r in result["rungs"] if "tight" in r["spec"]])

    def test_command_to_take(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "a 'model' of mine.gguf")
            os.symlink(MODEL, path)
            code, out, _ = command.run("advise", path, "--quick", "--ctx", 4096, "-q")
            self.assertEqual(code, command.OK)
            words = shlex.split(out.splitlines()[-1].removeprefix("Take it:"))
            self.assertEqual(words[:4], ["tightkv", "run", "-m", path])

    def test_wrong_use(self):
        self.assert_refused(command.USAGE, "advise", says="which model")
        self.assert_refused(command.USAGE, "advise", MODEL, MODEL, says="one model")
        for size in ("3x", "0", "-1M", "", "1MM", "nan"):
            self.assert_refused(command.USAGE, "advise", MODEL, "--budget", size, says="--budget")
        self.assert_refused(command.USAGE, "advise", MODEL, "--ctx", 16385, says="16384 tokens")

    def test_bad_files(self):
        with tempfile.TemporaryDirectory() as folder:
            def file(name, data):
                path = os.path.join(folder, name)
                with open(path, "wb") as f:
                    f.write(data)
                return path
            with open(MODEL, "rb") as f:
                data = f.read()
            none = file("none.gguf", data.replace(b"gpt2", b"none", 1))
            self.assert_refused(command.DATA, "advise", none, says="no tokenizer")
            self.assert_refused(command.DATA, "advise", file("cut.gguf", data[:1 << 20]), says="cut.gguf")
            self.assert_refused(command.DATA, "advise", MODEL, "--text", file("e.txt", b""), says="e.txt is empty")
            latin = file("l.txt", "Dichtung: die Größe ".encode("latin-1") * 500)
            self.assert_refused(command.DATA, "advise", MODEL, "--text", latin, says="l.txt is not UTF-8")
            self.assert_refused(command.DATA, "advise", MODEL, "--text", file("s.txt", b"A short text."), says="s.txt")
            self.assert_refused(command.DATA, "advise", MODEL, "--text", "/nonexistent.txt", says="/nonexistent.txt")


if __name__ == "__main__":
    command.main()
