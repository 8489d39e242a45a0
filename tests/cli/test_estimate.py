"""tightkv estimate: layers and bytes from GGUF headers, and files that are none."""
import os
import tempfile
import unittest

import command
import gguf_header

PLAIN = {"block_count": 4, "context_length": 8192, "embedding_length": 1024, "attention.head_count": 8,
         "attention.head_count_kv": 2}
F16_LAYER = 2 * 2 * 128 * 2  # bytes a token of PLAIN: K and V, 2 heads of 128


class Estimate(command.CommandTest):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)

    def write(self, arch, **changes):
        keys = {name.replace("__", "."): value for name, value in changes.items()}
        return gguf_header.write(os.path.join(self.dir.name, "model.gguf"), arch, {**PLAIN, **keys})

    def estimate(self, path, ctx, kv="kv=turbo4,sink=64,tail=128"):
        result = self.json_of("estimate", path, "--ctx", ctx, "--kv", kv)
        return {g["kind"]: g for g in result["layers"]}, {r["kv"].replace(kv, "coded"): r for r in result["rows"]}

    def test_plain(self):
        layers, rows = self.estimate(self.write("llama"), 4096)
        self.assertEqual(layers["full"]["n_layers"], 4)
        self.assertEqual((layers["full"]["n_kv_heads"], layers["full"]["k_head_dim"]), (2, 128))
        self.assertEqual(rows["stock:f16"]["total_bytes"], 4 * 4096 * F16_LAYER)
        self.assertEqual(rows["stock:q8_0"]["total_bytes"], 4 * 4096 * F16_LAYER * 17 / 32)
        self.assertEqual(rows["stock:q4_0"]["total_bytes"], 4 * 4096 * F16_LAYER * 9 / 32)
        # 4 pages of 64 open for sink and tail at most, 132 bytes a coded head vector, tables of a few bytes a page
        pages = 4096 // 64
        low = 4 * ((pages - 4) * 64 * 2 * 132 + 3 * 64 * F16_LAYER)
        self.assertGreater(rows["coded"]["total_bytes"], low)
        self.assertLess(rows["coded"]["total_bytes"], 1.04 * low)

    def test_context_of_the_header(self):
        result = self.json_of("estimate", self.write("llama"), "--kv", "kv=f16")
        self.assertEqual(result["ctx"], 8192)
        self.assertAlmostEqual(result["rows"][-1]["total_bytes"] / result["rows"][0]["total_bytes"], 1, delta=0.01)

    def test_every_preset(self):
        rows = self.json_of("estimate", self.write("llama"))["rows"]
        self.assertEqual([r["kv"] for r in rows[:4]], ["stock:f16", "stock:q8_0", "stock:q4_0", "default"])
        self.assertTrue(all(0 < r["total_bytes"] < rows[0]["total_bytes"] for r in rows[3:]))

    def test_sliding_window(self):
        layers, rows = self.estimate(self.write("gemma3", block_count=12, attention__sliding_window=1024), 16384)
        self.assertEqual((layers["full"]["n_layers"], layers["window"]["n_layers"]), (2, 10))
        self.assertEqual(layers["window"]["cells"], 1024 + 512)
        self.assertEqual(rows["stock:f16"]["bytes"]["window"], 10 * 1536 * F16_LAYER)
        self.assertLess(rows["coded"]["bytes"]["window"], 0.45 * rows["stock:f16"]["bytes"]["window"])

    def test_window_listed_in_the_file(self):
        pattern = [True, False, True, True]
        path = self.write("newmodel", attention__sliding_window=512, attention__sliding_window_pattern=pattern)
        layers, _ = self.estimate(path, 4096)
        self.assertEqual((layers["full"]["n_layers"], layers["window"]["n_layers"]), (1, 3))

    def test_window_that_llama_cpp_ignores(self):
        layers, _ = self.estimate(self.write("llama", attention__sliding_window=512), 4096)
        self.assertEqual(list(layers), ["full"])

    def test_mla_stays_exact(self):
        path = self.write("deepseek2", attention__head_count_kv=1, attention__key_length=576,
                          attention__value_length=512, attention__key_length_mla=192,
                          attention__value_length_mla=128)
        layers, rows = self.estimate(path, 4096)
        self.assertEqual(layers["mla"]["n_layers"], 4)
        self.assertEqual(rows["stock:f16"]["bytes"]["mla"], 4 * 4096 * 576 * 2)
        self.assertEqual(rows["coded"]["bytes"]["mla"], rows["stock:f16"]["bytes"]["mla"])

    def test_hybrid(self):
        path = self.write("qwen35", block_count=8, ssm__conv_kernel=4, ssm__inner_size=2048, ssm__state_size=128,
                          ssm__group_count=16)
        layers, rows = self.estimate(path, 4096)
        self.assertEqual((layers["full"]["n_layers"], layers["recurrent"]["n_layers"]), (2, 6))
        state = 4 * (3 * (2048 + 2 * 16 * 128) + 128 * 2048)
        self.assertEqual(rows["coded"]["bytes"]["recurrent"], 6 * state)

    def test_layers_without_heads(self):
        path = self.write("jamba", attention__head_count_kv=[0, 2, 0, 0], ssm__conv_kernel=4, ssm__inner_size=64,
                          ssm__state_size=16)
        layers, _ = self.estimate(path, 4096)
        self.assertEqual((layers["full"]["n_layers"], layers["recurrent"]["n_layers"]), (1, 3))

    def test_recurrent_only(self):
        path = self.write("mamba", ssm__conv_kernel=4, ssm__inner_size=64, ssm__state_size=16)
        layers, rows = self.estimate(path, 4096)
        self.assertEqual(list(layers), ["recurrent"])
        self.assertIsNone(rows["coded"]["bits_per_value"])

    def test_shared_and_draft_layers(self):
        layers, _ = self.estimate(self.write("gemma4", attention__shared_kv_layers=3), 4096)
        self.assertEqual((layers["full"]["n_layers"], layers["none"]["n_layers"]), (1, 3))
        layers, _ = self.estimate(self.write("glm4moe", nextn_predict_layers=1), 4096)
        self.assertEqual((layers["full"]["n_layers"], layers["none"]["n_layers"]), (3, 1))

    def test_states_of_linear_attention(self):
        layers, rows = self.estimate(self.write("minimax-01", block_count=8), 4096)
        self.assertEqual((layers["full"]["n_layers"], layers["recurrent"]["n_layers"]), (1, 7))
        self.assertEqual(rows["coded"]["bytes"]["recurrent"], 7 * 4 * 8 * 128 * 128)

    def test_layers_that_only_feed_forward(self):
        path = self.write("nemotron_h", feed_forward_length=[0, 64, 0, 64], attention__head_count_kv=[0, 2, 2, 0],
                          ssm__conv_kernel=4, ssm__inner_size=64, ssm__state_size=16)
        layers, _ = self.estimate(path, 4096)
        self.assertEqual([layers[kind]["n_layers"] for kind in ("full", "recurrent", "none")], [1, 1, 2])

    def test_index_keys(self):
        mla = {"attention__head_count_kv": 1, "attention__key_length": 576, "attention__value_length": 512,
               "attention__key_length_mla": 192, "attention__value_length_mla": 128, "attention__indexer__key_length": 128}
        for arch, changes, n in (("deepseek32", {}, 4), ("glm-dsa", {"attention__indexer__types": [1, 0, 0, 1]}, 2),
                                 ("hy_v4", {}, 0)):
            with self.subTest(arch):
                _, rows = self.estimate(self.write(arch, **mla, **changes), 4096)
                self.assertEqual(rows["stock:f16"]["bytes"]["index"], n * 4096 * 128 * 2)
                self.assertEqual(rows["stock:q8_0"]["bytes"]["index"], n * 4096 * 136)
                self.assertEqual(rows["coded"]["bytes"]["index"], n * 4096 * 128 * 2)
                self.assertEqual(rows["stock:f16"]["bits_per_value"], 16)

    def test_mla_with_a_window(self):
        path = self.write("dots3note", attention__head_count_kv=1, attention__key_length=576, attention__value_length=512,
                          attention__key_length_mla=192, attention__value_length_mla=128, attention__sliding_window=256,
                          attention__sliding_window_pattern=[True, False, True, False])
        _, rows = self.estimate(path, 4096)
        self.assertEqual(rows["stock:f16"]["bytes"]["mla"], 2 * 576 * 2 * (4096 + 768))

    def longest(self, path, memory, *args):
        result = self.json_of("estimate", path, "--memory", memory, "--kv", "kv=turbo4,sink=64,tail=128", *args)
        return {r["kv"]: r["longest_ctx"] for r in result["rows"]}, result

    def test_what_fits(self):
        path = self.write("llama")
        found, result = self.longest(path, "64M")
        self.assertEqual(found["stock:f16"], (64 << 20) // (4 * F16_LAYER))
        self.assertEqual(result["memory_bytes"], 64 << 20)
        self.assertIsNone(result["weights_bytes"])
        for kv, ctx in found.items():
            rows = {n: {r["kv"]: r for r in self.json_of("estimate", path, "--ctx", n, "--kv", "kv=turbo4,sink=64,tail=128")["rows"]}
                    for n in (ctx, ctx + 256)}
            self.assertLessEqual(rows[ctx][kv]["total_bytes"], 64 << 20, kv)
            self.assertGreater(rows[ctx + 256][kv]["total_bytes"], 64 << 20, kv)

    def test_what_fits_beside_the_weights(self):
        path = self.write("llama")
        free = (64 << 20) - os.path.getsize(path)
        found, result = self.longest(path, "64 MiB", "--with-weights")
        self.assertEqual(result["memory_bytes"], free)
        self.assertEqual(found["stock:f16"], free // (4 * F16_LAYER) // 256 * 256)
        self.assert_refused(command.DATA, "estimate", path, "--memory", "0.1K", "--with-weights", says="--memory")
        gguf_header.write(path, "llama", PLAIN, n_files=3)
        self.assert_refused(command.DATA, "estimate", path, "--memory", "64M", "--with-weights", says="one of 3 files")
        self.longest(path, "64M")

    def test_what_fits_at_the_ends(self):
        found, _ = self.longest(self.write("llama"), "4K")
        self.assertEqual(set(found.values()), {0})
        found, _ = self.longest(self.write("llama", attention__key_length=40), "64M")
        self.assertIsNone(found["stock:q4_0"])
        path = self.write("gemma3", block_count=4, attention__sliding_window=512)  # no layer sees all
        found, _ = self.longest(path, "64M")
        self.assertEqual(found["stock:f16"], 1 << 26)
        _, out, _ = command.run("estimate", path, "--memory", "64M")
        self.assertRegex(out, r"stock:f16 .* any\n")

    def test_head_size_that_cannot_be_coded(self):
        _, rows = self.estimate(self.write("llama", attention__key_length=40), 4096)
        self.assertEqual(rows["coded"]["total_bytes"], rows["stock:f16"]["total_bytes"])
        self.assertIsNone(rows["stock:q4_0"]["total_bytes"])

    def test_damaged_files(self):
        with open(self.write("llama"), "rb") as f:
            whole = f.read()
        path = os.path.join(self.dir.name, "damaged.gguf")
        for name, data in [("empty", b""), ("magic", b"GGML" + whole[4:]), ("header", whole[:60]),
                           ("tensors", whole[:-64]), ("count", whole[:8] + b"\xff" * 8 + whole[16:])]:
            with self.subTest(name):
                with open(path, "wb") as f:
                    f.write(data)
                self.assert_refused(command.DATA, "estimate", path, "--kv", "kv=f16", says=path)

    def test_headers_that_lack_something(self):
        for changes, says in [({"block_count": 0}, "layers"), ({"block_count": 1 << 30}, "layers"),
                              ({"attention.head_count": "eight"}, "heads"),
                              ({"attention.head_count_kv": [2]}, "heads")]:
            with self.subTest(changes):
                path = gguf_header.write(os.path.join(self.dir.name, "m.gguf"), "llama", {**PLAIN, **changes})
                self.assert_refused(command.DATA, "estimate", path, "--kv", "kv=f16", says=says)

    def test_misuse(self):
        self.assert_refused(command.DATA, "estimate", "/nonexistent.gguf", "--kv", "kv=f16", says="No such file")
        self.assert_refused(command.USAGE, "estimate", says="which model")
        self.assert_refused(command.USAGE, "estimate", "a", "b", says="one model")
        self.assert_refused(command.USAGE, "estimate", self.write("llama"), "--kv", "kv=turbo9", says="turbo9")
        self.assert_refused(command.USAGE, "estimate", self.write("llama"), "--ctx", "0", says="--ctx")
        for size in ("", "G", "-1G", "8X", "8GG", "inf"):
            self.assert_refused(command.USAGE, "estimate", self.write("llama"), "--memory", size, says="--memory")
        self.assert_refused(command.USAGE, "estimate", self.write("llama"), "--with-weights", says="--memory")


if __name__ == "__main__":
    command.main()
