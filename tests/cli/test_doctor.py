"""tightkv doctor: a machine that works, and each thing that may be broken."""
import os
import tempfile
import unittest

import command
import gguf_header

MODEL = {"block_count": 3, "context_length": 4096, "embedding_length": 512, "attention.head_count": 4,
         "attention.head_count_kv": 1, "attention.key_length": 128, "attention.value_length": 128}


class Doctor(command.CommandTest):
    def report(self, *args, env=None):
        """{what: [verdict: text]} and whether the exit code says that all works."""
        code, out, _ = command.run("doctor", *args, env=env)
        lines = [line.split(None, 1) for line in out.splitlines()]
        return code, {rest.split("  ")[0]: (verdict, rest) for verdict, rest in lines}

    def assert_broken(self, what, says, *args, env=None):
        code, found = self.report(*args, env=env)
        self.assertEqual(code, command.DATA)
        verdict, text = found[what]
        self.assertEqual(verdict, "broken")
        self.assertRegex(text, says)
        self.assertIn(";", text)  # a cure follows

    def test_all_is_well(self):
        code, found = self.report(env={"TIGHTKV_KV": None})
        self.assertEqual(code, command.OK, found)
        self.assertRegex(found["llama.cpp"][1], r"ggml \d+\.\d+\.\d+")
        self.assertIn("loads", found["plug-in"][1])
        self.assertIn("default preset", found["spec"][1])

    def test_json(self):
        result = self.json_of("doctor")
        self.assertTrue(result["works"])
        self.assertLessEqual({"CPU", "spec", "llama.cpp", "plug-in"}, {c["what"] for c in result["checks"]})

    def test_no_llama(self):
        self.assert_broken("llama.cpp", "not found", env={"TIGHTKV_LLAMA_DIR": "/nonexistent"})

    def test_no_plugin(self):
        self.assert_broken("plug-in", "not found", env={"TIGHTKV_PLUGIN": "/nonexistent.so"})

    def test_plugin_that_is_none(self):
        self.assert_broken("plug-in", "does not load", env={"TIGHTKV_PLUGIN": "/etc/passwd"})

    def test_wrong_spec(self):
        self.assert_broken("spec", "turbo9", env={"TIGHTKV_KV": "kv=turbo9"})

    def test_settings_that_leave_it_unused(self):
        for variable, value, says in [("LLAMA_ARG_FLASH_ATTN", "off", "flash attention"), ("LLAMA_ARG_CACHE_TYPE_K", "q8_0", "f16"),
                                      ("LLAMA_ARG_KV_OFFLOAD", "0", "no cache"), ("LLAMA_ARG_N_GPU_LAYERS", "0", "no layer"),
                                      ("TIGHTKV_DEVICE", "0", "stays out")]:
            with self.subTest(variable):
                code, found = self.report(env={variable: value})
                self.assertEqual((code, found["settings"][0]), (command.OK, "note"))
                self.assertIn(f"{variable}={value}", found["settings"][1])
                self.assertIn(says, found["settings"][1])
        for variable, value in [("LLAMA_ARG_FLASH_ATTN", "auto"), ("LLAMA_ARG_CACHE_TYPE_K", "f16"), ("LLAMA_ARG_N_GPU_LAYERS", "99")]:
            self.assertNotIn("settings", self.report(env={variable: value})[1])

    def test_codecs_that_are_slow_to_read(self):
        self.assertIn("kivi2", self.report(env={"TIGHTKV_KV": "k=turbo4,v=kivi2"})[1]["spec"][1])
        for kv in ("kv=f16", "kv=turbo4", "default"):
            self.assertIn("ok", self.report(env={"TIGHTKV_KV": kv})[1]["spec"][0])

    def checks(self, *args, env=None):
        """[(verdict, text, cure)] of what is said of the model."""
        return [(c["verdict"], c["text"], c.get("cure")) for c in self.json_of("doctor", *args, env=env)["checks"]
                if c["what"] == "model"]

    def test_keys_with_constants(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "m.gguf")
            for constant, kv, verdict in [(91.0, "kv=turbo4", "note"), (91.0, "k=turbo4c,v=turbo4", "ok"),
                                          (91.0, "kv=q8", "ok"), (91.0, "safe", "ok"), (91.0, "k=qjl,v=q8", "note"), (1.0, "kv=turbo4", None)]:
                bias = {"blk.1.attn_k.bias": ((128,), [0.5] * 127 + [-constant])}
                gguf_header.write_model(path, "qwen2", MODEL, bias)
                found = [c for c in self.checks(path, env={"TIGHTKV_KV": kv}) if "constants" in c[1]]
                self.assertEqual([c[0] for c in found], [verdict] if verdict else [])
                self.assertTrue(all("91" in c[1] for c in found))

    def test_every_layer_that_stays_exact_has_a_cure(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "m.gguf")
            odd = gguf_header.write(path, "llama", {**MODEL, "attention.key_length": 40})
            (verdict, text, cure), = self.checks(odd)
            self.assertEqual(verdict, "note")
            self.assertTrue(cure)
            mla = {**MODEL, "attention.key_length": 576, "attention.key_length_mla": 192, "attention.value_length_mla": 128,
                   "attention.indexer.key_length": 128}
            (verdict, text, cure), = self.checks(gguf_header.write(path, "deepseek32", mla))
            self.assertIn("index keys stay f16", text)
            self.assertIn("q8_0", cure)
            self.assertIn("flash attention", self.checks(gguf_header.write(path, "grok", MODEL))[-1][1])

    def test_models(self):
        with tempfile.TemporaryDirectory() as folder:
            path = gguf_header.write(os.path.join(folder, "m.gguf"), "llama", MODEL)
            code, found = self.report(path)
            self.assertEqual((code, found["model"][0]), (command.OK, "ok"))
            self.assertIn("layers 0-2: full attention", found["model"][1])

            odd = gguf_header.write(path, "llama", {**MODEL, "attention.key_length": 40})
            code, found = self.report(odd)
            self.assertEqual((code, found["model"][0]), (command.OK, "note"))
            self.assertIn("stay f16", found["model"][1])
        code, found = self.report("/nonexistent.gguf")
        self.assertEqual((code, found["model"][0]), (command.DATA, "broken"))


if __name__ == "__main__":
    command.main()
