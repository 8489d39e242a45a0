"""The plug-in in the pinned llama.cpp's own programs. Paths come in the environment, see CMakeLists.txt."""
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import unittest

BIN = os.environ["LLAMA_BIN"]
PLUGIN = os.environ["TIGHTKV_PLUGIN"]
MODEL = os.environ["TIGHTKV_MODEL"]
PRELOADS = os.environ["TIGHTKV_PRELOADS"]
F16 = "k=f16,v=f16"
CODED = "k=turbo4,v=turbo4,sink=4,tail=16"
WORDS = "river stone lamp winter harbour letter garden silver north bread music window captain story".split()


def text(n_words):
    rng = random.Random(7)
    return " ".join(rng.choice(WORDS) for _ in range(n_words))


def limit_files():
    """Files end at 1 MiB, and say so to the writer instead of ending it: as a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def run(program, *args, kv=None, preload=None, timeout=300, before=None, **env):
    """Runs a llama.cpp program: with the plug-in when `kv` is given. Returns status, output, what it logged."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("TIGHTKV_", "GGML_"))}
    variables["OMP_WAIT_POLICY"] = "passive"
    variables.update(env)
    if kv is not None:
        variables.update(GGML_BACKEND_PATH=PLUGIN, TIGHTKV_KV=kv)
    loads = [os.environ.get("TIGHTKV_SANITIZER_RUNTIME") if kv is not None else None,
             os.path.join(PRELOADS, preload) if preload else None]
    if any(loads):
        variables["LD_PRELOAD"] = ":".join(p for p in loads if p)
    done = subprocess.run([os.path.join(BIN, program), *map(str, args)], env=variables, timeout=timeout,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False,
                          preexec_fn=before, restore_signals=False)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


class Plugin(unittest.TestCase):
    def complete(self, *args, kv=None, prompt=text(100), n=24, **more):
        status, out, log = run("llama-completion", "-m", MODEL, "-p", prompt, "-n", n, "-t", 2, "--temp", 0,
                               "-no-cnv", *args, kv=kv, **more)
        self.assertEqual(status, 0, log[-2000:])
        return out, log

    def check_same(self, *args, says="tightkv: KV cache", **more):
        """The f16 spec gives the stock answer, and the plug-in took part in the way `says` tells."""
        stock, _ = self.complete(*args, **more)
        ours, log = self.complete(*args, kv=F16, **more)
        self.assert_same_text(stock, ours)
        self.assertIn(says, log)

    def assert_same_text(self, a, b):
        """llama-completion loses its last words now and then: its log thread is not waited for."""
        n = min(len(a), len(b))
        self.assertLess(max(len(a), len(b)) - n, 40)
        self.assertEqual(a[:n], b[:n])


class Text(Plugin):
    def test_plain(self):
        self.check_same("-c", 512)

    def test_shift(self):
        self.check_same("-c", 256, "--context-shift", n=300)

    def test_coded(self):
        out, log = self.complete("-c", 256, "--context-shift", kv=CODED, n=300)
        self.assertGreater(len(out), 200)
        self.assertRegex(log, r"tightkv: KV cache .*turbo4.*12 layers of 2 heads of 128")

    def test_flash_attention_off(self):
        self.check_same("-c", 512, "-fa", "off", says="flash attention is off")

    def test_quantised_type(self):
        self.check_same("-c", 512, "-ctk", "q8_0", "-ctv", "q8_0", says="are q8_0: only f16 caches are coded")

    def test_one_quantised_type(self):
        self.check_same("-c", 512, "-ctk", "q8_0", says="its partner has another type")

    def test_some_layers(self):
        self.check_same("-c", 512, "-ngl", 4)

    def test_nominal_size(self):
        _, log = self.complete("-c", 2048, "-lv", 4, kv=CODED, TIGHTKV_SIZE="nominal")
        self.assertRegex(log, r"TIGHTKV KV buffer size = +24\.00 MiB")

    def test_coded_size(self):
        _, log = self.complete("-c", 2048, "-lv", 4, kv=CODED)
        size = float(re.search(r"TIGHTKV KV buffer size = +([0-9.]+) MiB", log).group(1))
        self.assertLess(size, 8)


class Refusals(Plugin):
    def test_bad_spec(self):
        stock, _ = self.complete("-c", 512)
        ours, log = self.complete("-c", 512, kv="k=nonsense")
        self.assert_same_text(stock, ours)
        self.assertRegex(log, "tightkv: not loaded.*nonsense")

    def test_other_version(self):
        stock, _ = self.complete("-c", 512)
        ours, log = self.complete("-c", 512, kv=F16, preload="fake_version.so")
        self.assert_same_text(stock, ours)
        self.assertRegex(log, r"tightkv: not loaded: .* ggml 0\.25\.[0-9]+, the program has ggml 0\.99\.0")

    def test_real_gpu(self):
        for wish, there in (({}, False), ({"TIGHTKV_DEVICE": "1"}, True)):
            status, out, log = run("llama-completion", "--list-devices", kv=F16, preload="fake_gpu.so", **wish)
            self.assertEqual(status, 0, log)
            self.assertIn("FAKE0", out)
            self.assertEqual("TIGHTKV" in out, there)
        _, log = self.complete("-c", 512, "-dev", "none", kv=F16, preload="fake_gpu.so")
        self.assertIn("staying out: FAKE0 is a real GPU", log)

    def test_device_off(self):
        _, out, _ = run("llama-completion", "--list-devices", kv=F16, TIGHTKV_DEVICE="0")
        self.assertNotIn("TIGHTKV:", out)


class Tiers(Plugin):
    # 12 layers of 2 heads: about 220 KiB of blocks for each 64 tokens
    PROMPT = text(900)
    KV = "kv=turbo4,sink=0,tail=64"

    def test_same_text(self):
        memory, _ = self.complete("-c", 2048, prompt=self.PROMPT, kv=self.KV)
        with tempfile.TemporaryDirectory() as folder:
            tiers, log = self.complete("-c", 2048, prompt=self.PROMPT, kv=f"{self.KV},ram=1200K,spill={folder}")
            self.assertEqual(os.listdir(folder), [])
        self.assert_same_text(memory, tiers)
        self.assertIn("tightkv: KV cache", log)

    def test_no_folder(self):
        """Falls back to the stock cache, and says why."""
        stock, _ = self.complete("-c", 512)
        ours, log = self.complete("-c", 512, kv=f"{self.KV},ram=1200K,spill=/no/such/folder")
        self.assert_same_text(stock, ours)
        self.assertIn("spill=/no/such/folder: no file can be written there", log)

    def test_full_disk(self):
        """The request fails with a line that says so, not the process."""
        with tempfile.TemporaryDirectory() as folder:
            status, _, log = run("llama-completion", "-m", MODEL, "-p", self.PROMPT, "-n", 8, "-t", 2, "-no-cnv", "-c",
                                 2048, kv=f"{self.KV},ram=1200K,spill={folder}", before=limit_files)
        self.assertGreaterEqual(status, 0, log[-2000:])
        self.assertRegex(log, "pages not stored: spill=.*: writing failed: File too large; free space there")


class Quality(Plugin):
    def test_divergence(self):
        with tempfile.TemporaryDirectory() as folder:
            source, base = os.path.join(folder, "text"), os.path.join(folder, "base")
            with open(source, "w", encoding="ascii") as f:
                f.write(text(2200))
            args = ["-m", MODEL, "-c", 1024, "--chunks", 1, "-t", 2, "--kl-divergence-base", base]
            status, _, log = run("llama-perplexity", *args, "-f", source)
            self.assertEqual(status, 0, log[-2000:])
            limits = ((F16, 2e-5), ("k=turbo4,v=turbo4,sink=0,tail=0,strict=1", 0.03))
            for kv, limit in limits:
                status, out, log = run("llama-perplexity", *args, "--kl-divergence", kv=kv)
                self.assertEqual(status, 0, log[-2000:])
                mean = float(re.search(r"Mean +KLD: +([-0-9.]+)", out + log).group(1))
                self.assertLessEqual(mean, limit, kv)

    def test_broken_keys_are_named(self):
        loud = "coding moves attention logits"
        prompt = text(500)
        _, log = self.complete("-c", 1024, prompt=prompt, kv="k=turbo2,v=turbo2,sink=0,tail=0")
        self.assertIn(loud, log)
        _, log = self.complete("-c", 1024, prompt=prompt, kv="k=turbo4,v=turbo4,sink=0,tail=0")
        self.assertNotIn(loud, log)


class Programs(Plugin):
    def check(self, program, *args, kv):
        status, out, log = run(program, "-m", MODEL, "-t", 2, *args, kv=kv)
        self.assertEqual(status, 0, (out + log)[-3000:])
        return out + log

    def test_bench(self):
        self.assertIn("tightkv", self.check("llama-bench", "-p", 64, "-n", 4, "-d", "0,256", "-r", 1, kv=CODED))

    def test_batched_bench(self):
        for more in ([], ["-pps"], ["-pps", "-kvu"]):
            out = self.check("llama-batched-bench", "-c", 2048, "-npp", 96, "-ntg", 8, "-npl", "1,4", *more, kv=CODED)
            self.assertIn("tightkv: KV cache", out)

    def test_save_load_state(self):
        for kv in (F16, "k=turbo4,v=turbo4,sink=0,tail=0"):
            self.check("test-save-load-state", "-c", 1024, kv=kv)

    def test_restore_fragmented(self):
        for kv in (F16, CODED):
            self.check("test-state-restore-fragmented", "-c", 1024, kv=kv)


class Architectures(unittest.TestCase):
    """Tiny random models of every architecture: attention of every kind that llama.cpp has."""
    ROW = re.compile(r"\| *(\S+)\| *coded KV cache in main memory\|(.*)")

    def rows(self, kv):
        status, out, log = run("test-llama-archs", "-s", 1, kv=kv, preload="preload.so", timeout=900)
        self.assertIn(status, (0, 1), log[-2000:])
        rows = self.ROW.findall(out)
        if rows and rows[-1][1].count("|") < 3:
            rows.pop()  # llama.cpp's log thread may lose the last lines at exit
        self.assertGreater(sum("OK" in result for _, result in rows), 100)
        return rows

    def test_exact(self):
        self.assertEqual([name for name, result in self.rows(F16) if "FAIL" in result], [])

    def test_coded(self):
        """No crash, and the same logits again from a saved and reloaded model."""
        for name, result in self.rows("k=turbo4,v=turbo4,sink=0,tail=0"):
            self.assertNotIn("FAIL", result.split("|")[2], name)


if __name__ == "__main__":
    if not os.path.exists(MODEL):
        sys.exit(77)
    unittest.main(verbosity=2)
