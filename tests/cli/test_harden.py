"""tightkv harden: the variant computes the same, its keys are worse, and what cannot be hardened is refused."""
import os
import tempfile
import unittest

import command
import gguf_header
import tiny_model

MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models")
MODEL = os.path.join(MODELS, "tightkv-lm-46m-q4_k_m.gguf")
TEXT = os.path.join(MODELS, "demo-text.txt")


def preloaded():
    """llama.cpp's programs are not built with the sanitizer that the plug-in may be built with."""
    runtime = os.environ.get("TIGHTKV_SANITIZER_RUNTIME")
    return {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"} if runtime else {}


class Harden(command.CommandTest):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.out = self.path("out.gguf")

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def bytes_of(self, path):
        with open(path, "rb") as f:
            return f.read()

    def kld_of_q4_0(self, model):
        rows = self.json_of("eval", "-m", model, "--stock", "q4_0", "--text", TEXT, "--ctx", 512, "--chunks", 1)["rows"]
        return rows[0]["kld_mean"]

    def test_embedded_model(self):
        result = self.json_of("harden", MODEL, self.out, "--seed", 5)
        self.assertEqual((result["tightkv"], result["seed"], result["n_layers"]), ("harden", 5, 12))
        self.assertLess(abs(result["kld_mean"]), 0.003)  # quantised weights quantise activations: roundings differ
        low, high = result["ppl_change_ci"]
        self.assertLess(abs(result["ppl_change"]), .003 + high - low)
        self.assertTrue(low < result["ppl_change"] < high, result)
        self.assertTrue(4 * 24 <= result["n_pairs_scaled"] <= 8 * 24, result)
        self.assertGreater(result["largest_constant"], 36)
        self.assertGreater(self.kld_of_q4_0(self.out), 4 * self.kld_of_q4_0(MODEL))
        self.assertIn(b"tightkv.harden.seed", self.bytes_of(self.out)[:1 << 20])
        self.assertFalse(os.path.exists(self.out + ".tmp"))

    def test_same_seed_same_file(self):
        files = []
        for seed in (5, 5, 6):
            self.json_of("harden", MODEL, self.out, "--seed", seed)
            files.append(self.bytes_of(self.out))
        self.assertEqual(files[0], files[1])
        self.assertNotEqual(files[0], files[2])

    def test_weights_that_lose_nothing(self):
        model = self.path("model.gguf")
        code, _, err = command.run("run", "--", "llama-quantize", "--allow-requantize", "--pure", MODEL, model, "f16", env=preloaded())
        self.assertEqual(code, command.OK, err)
        result = self.json_of("harden", model, self.out, "--seed", 5)
        self.assertLess(abs(result["kld_mean"]), 1e-4)
        self.assertNotEqual(result["ppl_change"], 0)
        self.assertLess(abs(result["ppl_change"]), .003)

    def test_types(self):
        for kind in ("bf16", "q8_0", "q4_1", "q2_k", "q3_k", "q6_k"):
            with self.subTest(kind):
                model = self.path("model.gguf")
                code, _, err = command.run("run", "--", "llama-quantize", "--allow-requantize", "--pure", MODEL, model, kind, env=preloaded())
                self.assertEqual(code, command.OK, err)
                result = self.json_of("harden", model, self.out)
                self.assertLess(abs(result["kld_mean"]), 0.006)
                self.assertGreater(result["n_pairs_scaled"], 12 * 2 * 3)

    def test_neox_pairs_and_biases(self):
        result = self.json_of("harden", tiny_model.write(self.path("m.gguf"), "qwen2", biases=True), self.out)
        self.assertLess(abs(result["kld_mean"]), 1e-4)
        self.assertEqual((result["n_layers_with_constants"], result["no_constants"]), (2, None))

    def test_neighbouring_pairs(self):
        result = self.json_of("harden", tiny_model.write(self.path("m.gguf"), "llama"), self.out)
        self.assertLess(abs(result["kld_mean"]), 1e-4)
        self.assertEqual(result["n_layers_with_constants"], 2)

    def test_norms(self):
        model = tiny_model.write(self.path("m.gguf"), "qwen3", norms=True)
        for seed in (1, 2, 3):
            result = self.json_of("harden", model, self.out, "--seed", seed)
            self.assertLess(abs(result["kld_mean"]), 1e-4)
            self.assertGreater(result["n_pairs_scaled"], 0)
        self.assertEqual(result["n_layers_with_constants"], 0)
        self.assertIn("normalised", result["no_constants"])
        self.assertNotEqual(self.bytes_of(model), self.bytes_of(self.out))

    def test_lines_for_people(self):
        code, out, err = command.run("harden", tiny_model.write(self.path("m.gguf"), "llama"), self.out, "-q")
        self.assertEqual((code, err), (command.OK, ""))
        self.assertIn("the same function: KLD", out)

    def header(self, arch, **changes):
        keys = {name.replace("__", "."): value for name, value in changes.items()}
        return gguf_header.write(self.path(arch + ".gguf"), arch, {**tiny_model.HEADER, **keys})

    def test_models_that_cannot(self):
        for model, says in [(self.header("deepseek2", attention__key_length_mla=192, attention__value_length_mla=128), "MLA"),
                            (self.header("mamba", ssm__conv_kernel=4, ssm__inner_size=64, ssm__state_size=16), "keys"),
                            (self.header("gemma4", attention__shared_kv_layers=1), "keys of others"),
                            (self.header("llama4"), "rotation"),
                            ("/nonexistent.gguf", "No such file"), (TEXT, "not a GGUF file")]:
            with self.subTest(says):
                self.assert_refused(command.DATA, "harden", model, self.out, says=says)
                self.assertEqual(os.path.exists(self.out) or os.path.exists(self.out + ".tmp"), False)

    def test_twice(self):
        self.json_of("harden", tiny_model.write(self.path("m.gguf"), "llama"), self.out)
        self.assert_refused(command.DATA, "harden", self.out, self.path("again.gguf"), "-q", says="already")

    def test_misuse(self):
        self.assert_refused(command.USAGE, "harden", MODEL, MODEL, says="OUT is MODEL")
        self.assert_refused(command.USAGE, "harden", MODEL, says="name of the one to write")
        self.assert_refused(command.DATA, "harden", MODEL, "/nonexistent/out.gguf", "-q", says="/nonexistent/out.gguf")


if __name__ == "__main__":
    if not os.path.exists(MODEL):
        command.sys.exit(77)
    command.main()
