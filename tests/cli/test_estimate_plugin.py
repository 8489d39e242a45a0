"""What tightkv estimate says of the embedded model is what the plug-in then takes."""
import os
import sys
import tempfile
import unittest

import command

MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models")
MODEL = os.path.join(MODELS, "tightkv-lm-46m-q4_k_m.gguf")
CTX = 512


class EstimateAndPlugin(command.CommandTest):
    def check(self, kv):
        words = (f"Line {i} of this text tells of {i * i} things, and of {i % 7} more." for i in range(400))
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
            text.write("\n".join(words))
            text.flush()
            measured = self.json_of("eval", "-m", MODEL, "--kv", kv, "--text", text.name, "--ctx", CTX, "--chunks", 1)
        rows = self.json_of("estimate", MODEL, "--ctx", CTX, "--kv", kv)["rows"]
        self.assertAlmostEqual(measured["rows"][0]["kv_mib"] * 2**20 / rows[-1]["total_bytes"], 1, delta=0.01)

    def test_coded(self):
        self.check("kv=turbo4,sink=64,tail=128")

    def test_exact(self):
        self.check("kv=f16")


if __name__ == "__main__":
    if not os.path.exists(MODEL):
        sys.exit(77)
    command.main()
