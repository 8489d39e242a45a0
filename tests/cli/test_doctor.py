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
