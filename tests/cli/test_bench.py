"""tightkv bench attend and bench encode: what they print, not how fast this machine is."""
import unittest

import command

SMALL = ("--ctx", 512, "--n-kv-heads", 2, "--group", 4, "--head-dim", 128, "--threads", 1, "--seconds", 1)


class Bench(command.CommandTest):
    def test_attend(self):
        result = self.json_of("bench", "attend", "--kv", "kv=turbo4,sink=0,tail=0", *SMALL)
        self.assertEqual(list(result), ["tightkv", "run", "kv", "n_ctx", "n_kv_heads", "group", "head_dim", "threads",
                                        "bits_per_value", "us_per_kvhead_token", "stock", "speedup_vs_f16",
                                        "read_gb_per_s", "bandwidth_fraction"])
        self.assertEqual(result["kv"], "kv=turbo4,sink=0,tail=0")
        self.assertEqual(result["stock"], {"f16": None, "q8_0": None, "q4_0": None})
        self.assertIsNone(result["speedup_vs_f16"])
        self.assertTrue(4.125 <= result["bits_per_value"] < 4.6, result)
        # The fraction is that of the bytes of one token and head: 2 * 66 of codes and scales.
        rate = 1e-3 * 132 / result["us_per_kvhead_token"] / result["read_gb_per_s"]
        self.assertAlmostEqual(result["bandwidth_fraction"] / rate, 1, delta=0.05)

    def test_attend_against_llama(self):
        result = self.json_of("bench", "attend", "--kv", "kv=f16", "--against", "llama", *SMALL)
        self.assertTrue(all(us > 0 for us in result["stock"].values()), result)
        self.assertAlmostEqual(result["speedup_vs_f16"], result["stock"]["f16"] / result["us_per_kvhead_token"], 6)

    def test_types_that_do_not_fit_are_null(self):
        result = self.json_of("bench", "attend", "--kv", "kv=f16", "--against", "llama", *SMALL, "--head-dim", 80)
        self.assertIsNone(result["stock"]["q8_0"])
        self.assertGreater(result["stock"]["f16"], 0)

    def test_attend_default_spec(self):
        result = self.json_of("bench", "attend", *SMALL)
        self.assertEqual(result["kv"], "default")

    def test_learned_codecs_have_a_made_up_book(self):
        result = self.json_of("bench", "encode", "--kv", "k=tight2,v=tight4")
        self.assertGreater(result["k_f16_gb_per_s"], 0)
        self.assertGreater(result["v_f16_gb_per_s"], 0)
        # f16 values fill the caches sooner.
        result = self.json_of("bench", "attend", "--kv", "k=tight2,v=f16,sink=0,tail=0", *SMALL)
        self.assertTrue(9.0 <= result["bits_per_value"] < 9.6, result)
        self.assertGreater(result["us_per_kvhead_token"], 0)

    def test_a_book_that_is_named_is_read(self):
        self.assert_refused(command.DATA, "bench", "encode", "--kv", "kv=tight3,book=none.tkvbook",
                            says="none.tkvbook")
        self.assert_refused(command.DATA, "bench", "attend", "-q", "--kv", "kv=tight3,book=%s" % __file__, *SMALL,
                            says="GGUF")

    def test_attend_refuses(self):
        for args, says in [(("--kv", "kv=turbo9"), "turbo9"), (("--against", "vllm"), "vllm"),
                           (("--head-dim", 0), "--head-dim"), (("--group", "four"), "--group"), (("extra",), "extra")]:
            with self.subTest(args):
                self.assert_refused(command.USAGE, "bench", "attend", *args, says=says)
        self.assert_refused(command.DATA, "bench", "attend", "-q", "--kv", "kv=turbo4", *SMALL, "--head-dim", 40,
                            says="40")
        self.assert_refused(command.DATA, "bench", "attend", "-q", "--ctx", 1 << 24, "--n-kv-heads", 1024,
                            says="MiB")

    def test_encode(self):
        result = self.json_of("bench", "encode", "--kv", "k=turbo4,v=f16")
        self.assertEqual((result["kv"], result["head_dim"]), ("k=turbo4,v=f16", 128))
        slow, fast = sorted((result["k_f16_gb_per_s"], result["v_f16_gb_per_s"]))
        self.assertTrue(0 < slow <= result["f16_gb_per_s"] <= fast, result)
        self.assertAlmostEqual(result["vectors_per_s"] * 256 / (1e9 * result["f16_gb_per_s"]), 1, 6)
        code, out, err = command.run("bench", "encode", "--kv", "kv=turbo4")
        self.assertEqual(code, command.OK, err)
        self.assertRegex(out, r"^kv=turbo4, .* \d+ vectors/s\n$")

    def test_encode_refuses(self):
        self.assert_refused(command.USAGE, "bench", "encode", "--kv", "nothing", says="nothing")
        self.assert_refused(command.DATA, "bench", "encode", "--kv", "kv=turbo4", "--head-dim", 40, says="40")


if __name__ == "__main__":
    command.main()
