"""tightkv calibrate and book show: books are made, found and told from those that do not fit."""
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import unittest

import command
import tiny_model

MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models")
MODEL = os.path.join(MODELS, "tightkv-lm-46m-q4_k_m.gguf")
BOOK = os.path.join(MODELS, "tightkv-lm-46m.tkvbook")
TEXT = os.path.join(MODELS, "demo-text.txt")
TIGHT = "k=tight3,v=tight3,sink=0,tail=0"


def bytes_of(path):
    with open(path, "rb") as f:
        return f.read()


class BookTest(command.CommandTest):
    """A model that reads texts, its book, and no other book that could be found."""

    @classmethod
    def setUpClass(cls):
        shared = tempfile.TemporaryDirectory()
        cls.addClassCleanup(shared.cleanup)
        cls.model = tiny_model.write(os.path.join(shared.name, "tiny.gguf"), "llama", reads=True)
        cls.book = os.path.join(shared.name, "book")  # not the name of one that is found beside its model
        code, _, err = command.run("calibrate", cls.model, "--text", TEXT, "--tokens", 2048, "-o", cls.book)
        assert code == command.OK, err

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.out = self.path("out.tkvbook")
        self.env = {"HOME": self.path("home"), "XDG_DATA_HOME": self.path("data"), "TIGHTKV_DATA": self.path("models")}
        for path in self.env.values():
            os.mkdir(path)

    def path(self, name):
        return os.path.join(self.folder, name)

    def made(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data)
        return self.path(name)

    def calibrate(self, *args, out=None):
        """Its stderr; the default model, text and name unless `args` begin with others."""
        args = args or (self.model, "--text", TEXT, "--tokens", 2048)
        code, printed, err = command.run("calibrate", *args, "-o", out or self.out, env=self.env)
        self.assertEqual((code, printed), (command.OK, ""), err)
        return err

    def eval_args(self, kv, model, book):
        spec = f"{kv},book={book}" if book else kv
        return "eval", "-m", model or self.model, "--text", TEXT, "-c", 512, "--chunks", 1, "--kv", spec

    def kld(self, kv=TIGHT, model=None, book=None, env=None):
        return self.json_of(*self.eval_args(kv, model, book), env={**self.env, **(env or {})})["rows"][0]["kld_mean"]

    def assert_unfit(self, *says, kv=TIGHT, model=None, book=None):
        """eval fails with one line that says all of these."""
        code, _, err = command.run(*self.eval_args(kv, model, book), "-q", env=self.env)
        self.assertEqual((code, err.count("\n")), (command.DATA, 1), err)
        for text in says:
            self.assertIn(text, err)


class Made(BookTest):
    def test_embedded_model(self):
        self.calibrate(MODEL, "--text", TEXT, "--tokens", 2048)
        self.assertEqual(os.listdir(self.folder).count("out.tkvbook.stats"), 0)
        self.assertLess(1.5 * self.kld(model=MODEL, book=self.out), self.kld(model=MODEL))

    def test_show(self):
        shown = self.json_of("book", "show", self.book)
        self.assertEqual((shown["file"], shown["bytes"], shown["architecture"]),
                         ("book", os.path.getsize(self.book), "llama"))
        tensors = {t["name"]: t for t in shown["tensors"]}
        self.assertEqual((tensors["blk.*.attn_k.to"]["count"], tensors["blk.*.attn_k.to"]["dims"]), (2, [32, 32, 2, 1]))
        self.assertIn("tight0.7.blk.*.attn_v.bits", tensors)
        code, out, _ = command.run("book", "show", self.book)
        self.assertEqual(code, command.OK)
        self.assertRegex(out, r"tight3\.blk\.\*\.attn_k\.bits +2 +i8 +32 x 1 x 2")

    def test_worth_having(self):
        self.assertLess(2 * self.kld(book=self.book), self.kld())

    def test_seed(self):
        self.calibrate()
        self.assertEqual(bytes_of(self.out), bytes_of(self.book))
        self.calibrate(self.model, "--text", TEXT, "--tokens", 2048, "--seed", 2)
        self.assertNotEqual(bytes_of(self.out), bytes_of(self.book))

    def test_trainers_share_statistics(self):
        stats = self.path("kept.stats")
        args = self.model, "--text", TEXT, "--tokens", 2048, "--stats", stats
        self.calibrate(*args)
        self.assertIn("reading", self.calibrate(*args[:5], "--stats", self.path("other.stats")))
        self.assertNotIn("reading", self.calibrate(*args, "--train", "cq"))
        self.assertEqual(os.path.exists(stats), True)
        names = [t["name"] for t in self.json_of("book", "show", self.out)["tensors"]]
        self.assertTrue(any("cq" in name for name in names), names)
        self.assertLess(self.kld("k=cq4,v=cq4,sink=0,tail=0", book=self.out), 3)

    def index_of(self, *args):
        """The bytes of a book with an index of 64 codes, and its tensors by name."""
        self.calibrate(self.model, "--text", TEXT, "--tokens", 2048, "--index-codes", 64, *args)
        tensors = {t["name"]: t for t in self.json_of("book", "show", self.out)["tensors"]}
        return bytes_of(self.out), tensors

    def test_index(self):
        made, tensors = self.index_of("--index")
        self.assertEqual(tensors["qvq.blk.*.codes"]["dims"], [32, 64, 2, 1])
        self.assertEqual((tensors["qvq.blk.*.to"]["dims"], tensors["qvq.blk.*.mean"]["dims"]),
                         ([32, 32, 2, 1], [32, 1, 2, 1]))
        self.assertEqual(tensors["qvq.blk.*.ask"]["count"], 2)
        self.assertEqual((tensors["qvq.blk.*.share"]["dims"], tensors["qvq.blk.*.share"]["count"]), ([2, 1, 2, 1], 2))
        self.assertIn("blk.*.attn_k.to", tensors)
        self.assertEqual(self.index_of("--index", "-t", 1)[0], made)
        self.assertEqual(self.index_of("--train", "tight,index", "--index")[0], made)
        self.assertNotEqual(self.index_of("--index", "--seed", 2)[0], made)
        alone, tensors = self.index_of("--train", "index")
        self.assertNotIn("blk.*.attn_k.to", tensors)
        far, tensors = self.index_of("--train", "index-far")
        self.assertNotEqual(far, alone)
        self.assertNotIn("qvq.blk.*.share", tensors)

    def test_index_is_measured(self):
        self.index_of("--train", "index")
        mass = self.json_of("bench", "retrieve", "-m", self.model, "--text", TEXT, "--tokens", 512, "--window", 512,
                            "--kv", f"turbo4,sink=4,tail=64,index=qvq,keep=0.1,book={self.out}", "--steps", 2)["mass"]
        self.assertEqual(sorted(mass["read_quantiles"]), mass["read_quantiles"])
        self.assertTrue(mass["read_quantiles"][0] <= mass["read_fraction"] <= mass["read_quantiles"][-1])
        self.assertTrue(0.03 < mass["read_fraction"] <= 0.1, mass)
        self.assertTrue(mass["sink_and_window"] < mass["index"] < 1, mass)
        self.assertTrue(mass["random"] < mass["exact top-K"] < 1, mass)

    def cut(self, args, how, share):
        """Runs until `share` percent are done, then sends a signal; the share that it began with."""
        with subprocess.Popen([os.environ["TIGHTKV"], *map(str, args)], stderr=subprocess.PIPE, text=True) as child:
            shares = []
            for line in child.stderr:
                shares.append(int(line.split("%")[0]))
                if shares[-1] >= share:
                    break
            child.send_signal(how)
            last = child.stderr.read().splitlines()[-1:]
        if how == signal.SIGKILL:
            self.assertEqual(child.returncode, -how)
        else:
            self.assertEqual(child.returncode, command.STOPPED)
            self.assertEqual(last, [f"tightkv: stopped; the same command goes on from {self.out}.stats"])
        return shares[0]

    def test_cut_and_resumed(self):
        self.made("out.tkvbook", b"the old one")
        args = self.model, "--text", TEXT, "--tokens", 2048
        self.assertEqual(self.cut(("calibrate", *args, "-o", self.out), signal.SIGINT, 25), 0)
        self.assertEqual(bytes_of(self.out), b"the old one")
        os.remove(self.out)
        self.assertGreater(self.cut(("calibrate", *args, "-o", self.out), signal.SIGTERM, 40), 10)
        self.assertGreater(self.cut(("calibrate", *args, "-o", self.out), signal.SIGKILL, 60), 30)
        self.assertEqual(sorted(os.listdir(self.folder)), ["data", "home", "models", "out.tkvbook.stats"])
        self.assert_refused(command.DATA, "calibrate", *args, "--seed", 2, "-o", self.out,
                            says="delete it to start anew")
        self.assertGreaterEqual(int(self.calibrate().split("%")[0]), 50)
        self.assertEqual(bytes_of(self.out), bytes_of(self.book))
        self.assertEqual(sorted(os.listdir(self.folder)), ["data", "home", "models", "out.tkvbook"])


class Refused(BookTest):
    def test_misuse(self):
        for args, says in [((), "give one MODEL"), ((self.model, self.model), "give one MODEL"),
                           ((self.model, "--text", TEXT), "-o BOOK"), ((self.model, "-o", self.out), "--text FILE"),
                           ((self.model, "--text", TEXT, "-o", self.out, "--train", "tigth"), "tigth"),
                           ((self.model, "--text", TEXT, "-o", self.out, "--index-codes", 24), "multiple of 16"),
                           ((self.model, "--text", TEXT, "-o", self.out, "--index-codes", 65536), "32768"),
                           ((self.model, "--text", TEXT, "-o", self.out, "--sample", "much"), "give a size")]:
            with self.subTest(says):
                self.assert_refused(command.USAGE, "calibrate", *args, says=says)

    def test_data(self):
        short = self.made("short.txt", b"All is well. " * 20)
        mute = tiny_model.write(self.path("mute.gguf"), "llama")
        for model, text, out, says in [
                (self.model, short, self.out, r"short\.txt: \d+ tokens; a text to learn from needs 512 or more"),
                (self.model, self.path("no.txt"), self.out, r"no\.txt: No such file"),
                (mute, TEXT, self.out, "no tokenizer"),
                (self.path("no.gguf"), TEXT, self.out, r"no\.gguf: No such file"),
                (TEXT, TEXT, self.out, "not a GGUF file"),
                (self.model, TEXT, self.path("no/out.tkvbook"), r"no/out\.tkvbook.*: No such file"),
                (self.model, TEXT, os.path.join(short, "out"), "short.txt/out.*: Not a directory")]:
            with self.subTest(says):
                code, out, err = command.run("calibrate", model, "--text", text, "-o", out, env=self.env)
                self.assertEqual((code, out, err.count("\n")), (command.DATA, "", 1), err)
                self.assertRegex(err, says)
        self.assert_refused(command.DATA, "calibrate", self.model, "--text", TEXT, "--tokens", 1 << 20, "-o", self.out,
                            says="ask for fewer")
        self.assert_refused(command.DATA, "calibrate", self.model, "--text", TEXT, "--tokens", 2048, "--index", "-o",
                            self.out, says="2048 tokens were sampled, too few for an index of 4096 codes")
        self.assert_refused(command.DATA, "calibrate", self.model, "--text", TEXT, "--tokens", 1024, "--index", "-o",
                            self.path("few"), "--index-codes", 512, "--sample", "200K", says="tokens were sampled")
        self.assertFalse(os.path.exists(self.out))

    def test_of_another_model(self):
        twin = self.path("twin.gguf")
        self.json_of("harden", self.model, twin)
        other = tiny_model.write(self.path("other.gguf"), "llama", reads=True, seed=8)
        for model in (twin, other):
            self.assert_unfit("book is of another model", "tightkv calibrate", model=model, book=self.book)
        data = bytes_of(self.book)
        at = data.index(b"fingerprint.shapes") + len("fingerprint.shapes") + 12
        digit = b"1" if data[at:at + 1] == b"0" else b"0"
        changed = self.made("changed", data[:at] + digit + data[at + 1:])
        self.assert_unfit("changed is of another model", "tightkv calibrate", book=changed)

    def test_broken(self):
        data = bytes_of(self.book)
        version = data.index(b"book.version") + len("book.version") + 4
        newer = data[:version] + struct.pack("<I", 2) + data[version + 4:]
        for name, data, says in [("cut", data[:len(data) // 2], "not within the file"), ("empty", b"", "not a GGUF file"),
                                 ("text", b"no book " * 99, "not a GGUF file"), ("newer", newer, "calibrate again"),
                                 ("model", bytes_of(self.model), "make one with tightkv calibrate")]:
            with self.subTest(name):
                path = self.made(name, data)
                self.assert_unfit(path + ":", says, book=path)
                self.assert_refused(command.DATA, "book", "show", path, says=path)
        self.assert_unfit("no.tkvbook: No such file", book=self.path("no.tkvbook"))
        self.assert_refused(command.USAGE, "book", "show", says="give one BOOK")

    def test_codecs_that_need_one(self):
        for codec, trainer in (("rvq8", "rvq"), ("cq4", "cq")):
            says = f"tightkv calibrate MODEL --train {trainer}"
            self.assert_unfit(f"{codec} needs a book of this model", says, kv=f"k={codec},v={codec}")
            self.assert_unfit(codec, says, kv=f"k={codec},v={codec}", book=self.book)


class Found(BookTest):
    def test_none(self):
        code, _, err = command.run(*self.eval_args(TIGHT, None, None), "-v", env=self.env)
        self.assertEqual(code, command.OK, err)
        self.assertIn("no book for this model: codecs that can do without lose", err)
        self.assertIn(f"run tightkv calibrate {self.model}", err)

    def test_order(self):
        """Books of other seeds lose other amounts."""
        model = shutil.copy(self.model, self.path("tiny.gguf"))
        books = os.path.join(self.env["XDG_DATA_HOME"], "tightkv", "books")
        os.makedirs(books)
        places = [os.path.join(self.env["TIGHTKV_DATA"], "any.tkvbook"), os.path.join(books, "any.tkvbook"),
                  self.path("tiny.tkvbook")]
        losses = [self.kld(model=model)]
        for seed, place in enumerate(places):
            self.calibrate(self.model, "--text", TEXT, "--tokens", 512, "--seed", seed, out=place + ".no")
            losses.append(self.kld(model=model, book=place + ".no"))
        self.assertEqual(len(set(losses)), 4, losses)
        for place, loss in zip(places, losses[1:]):
            os.rename(place + ".no", place)
            self.assertEqual(self.kld(model=model), loss)
        home = {"XDG_DATA_HOME": None, "HOME": self.path("home")}
        os.remove(places[2])
        self.assertEqual(self.kld(model=model, env=home), losses[1])
        shutil.copytree(books, self.path("home/.local/share/tightkv/books"))
        self.assertEqual(self.kld(model=model, env=home), losses[2])

    def test_others_are_passed_over(self):
        """In a folder of books of any model; one beside a model is meant for it."""
        other = tiny_model.write(self.path("other.gguf"), "llama", reads=True, seed=8)
        shutil.copy(self.book, os.path.join(self.env["TIGHTKV_DATA"], "any.tkvbook"))
        shutil.copy(TEXT, os.path.join(self.env["TIGHTKV_DATA"], "a.tkvbook"))
        self.assertEqual(self.kld(), self.kld(book=self.book))
        alone = self.kld(model=other, env={"TIGHTKV_DATA": self.path("home")})
        self.assertEqual(self.kld(model=other), alone)
        shutil.copy(self.book, self.path("other.tkvbook"))
        self.assert_unfit("other.tkvbook is of another model", model=other)

    def test_embedded_model(self):
        self.assertEqual(self.kld(model=MODEL, env={"TIGHTKV_DATA": None}), self.kld(model=MODEL, book=BOOK))


if __name__ == "__main__":
    command.main()
