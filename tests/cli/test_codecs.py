"""tightkv codecs: the table, and what it says of head sizes."""
import unittest

import command


class Codecs(command.CommandTest):
    def table(self, head_dim):
        result = self.json_of("codecs", "--head-dim", head_dim)
        self.assertEqual(result["head_dim"], head_dim)
        return {c["name"]: c for c in result["codecs"]}

    def test_bits(self):
        table = self.table(128)
        self.assertEqual((table["f16"]["k_bits"], table["f16"]["v_bits"]), (16, 16))
        for bits in (2, 3, 4):
            self.assertEqual(table[f"turbo{bits}"]["k_bits"], bits + 16 / 128)
        self.assertTrue(table["turbo4"]["rotates"] and table["turbo4"]["idempotent"] and table["turbo4"]["fused"])
        self.assertFalse(table["f16"]["rotates"] or table["f16"]["whole_page"])

    def test_scales_weigh_more_in_small_heads(self):
        self.assertGreater(self.table(64)["turbo4"]["k_bits"], self.table(256)["turbo4"]["k_bits"])

    def test_head_size_that_a_codec_cannot_take(self):
        self.assertIsNone(self.table(40)["turbo4"]["k_bits"])

    def test_every_codec_has_its_notes(self):
        for name, codec in self.table(128).items():
            for what in ("shines", "fails"):
                self.assertTrue(codec[what], f"{name}: nothing about where it {what}; see cli/codec_notes.def")

    def test_needs(self):
        table = self.table(128)
        self.assertEqual(table["tight3"]["needs"], "a book")
        self.assertIsNone(table["turbo4"]["needs"])
        self.assertEqual(table["qjl"]["needs"], "keys only")

    def test_lines_for_people(self):
        code, out, err = command.run("codecs")
        self.assertEqual((code, err), (command.OK, ""))
        self.assertRegex(out, r"(?m)^turbo4 +4\.125 +4\.125 +yes")

    def test_misuse(self):
        self.assert_refused(command.USAGE, "codecs", "--head-dim", "513", says="512")
        self.assert_refused(command.USAGE, "codecs", "turbo4", says="turbo4")
        self.assert_refused(command.USAGE, "codecs", "--heads", says="--heads")


if __name__ == "__main__":
    unittest.main()
