"""tightkv run: what the program it starts is given, what comes back, and what is refused before."""
import os
import tempfile
import unittest

import command


class Run(command.CommandTest):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.model = self.file("m.gguf", "GGUF")

    def file(self, name, text, mode=0o644):
        path = os.path.join(self.folder.name, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, mode)
        return path

    def program(self, body):
        return self.file("program", "#!/bin/sh\n" + body + "\n", 0o755)

    def test_exit_code(self):
        code, _, err = command.run("run", "--", self.program("exit 7"))
        self.assertEqual((code, err), (7, ""))

    def test_arguments(self):
        code, out, _ = command.run("run", "-m", self.model, "-t", 3, "--", self.program('printf "%s\\n" "$@"'), "-c", "5", "a b")
        self.assertEqual(code, command.OK)
        self.assertEqual(out.splitlines(), ["-m", self.model, "-t", "3", "-c", "5", "a b"])
        _, out, _ = command.run("run", "--", self.program('echo "$#"'))
        self.assertEqual(out, "0\n")

    def test_environment(self):
        show = self.program('test -f "$GGML_BACKEND_PATH" && basename "$GGML_BACKEND_PATH"; echo "$TIGHTKV_KV,$TIGHTKV_CPU"')
        _, out, _ = command.run("run", "--kv", "kv=turbo3", "--cpu", "ref", "--", show)
        self.assertEqual(out, "libggml-tightkv.so\nkv=turbo3,0x0\n")
        _, out, _ = command.run("run", "--", show, env={"TIGHTKV_KV": "small", "TIGHTKV_CPU": None})
        self.assertEqual(out, "libggml-tightkv.so\nsmall,\n")

    def test_program_of_llama_cpp(self):
        runtime = os.environ.get("TIGHTKV_SANITIZER_RUNTIME")
        env = {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"} if runtime else {}
        code, out, err = command.run("run", "--", "llama-bench", "--help", env=env)
        self.assertEqual(code, command.OK, err)
        self.assertIn("llama-bench", out)

    def test_refused(self):
        program = self.program("exit 0")
        self.assert_refused(command.USAGE, "run", "--kv", "kv=turbo9", "--", program, says="turbo9")
        self.assert_refused(command.DATA, "run", "-m", "/nonexistent.gguf", "--", program, says="/nonexistent.gguf")
        self.assert_refused(command.DATA, "run", "--", "no-such-program-of-llama", says="no-such-program-of-llama")
        self.assert_refused(command.DATA, "run", "--", program, says="plug-in", env={"TIGHTKV_PLUGIN": "/nonexistent.so"})

    def test_completion(self):
        args = ("run", "--kv", "kv=turbo4", "--temp", 0, "-n", 8, "-p", "The captain asked for the chart again, and")
        code, out, err = command.run(*args)
        self.assertEqual(code, command.OK, err)
        self.assertTrue(out.startswith("The captain asked for the chart again, and "), out)
        self.assertEqual(command.run(*args)[1], out)


if __name__ == "__main__":
    command.main()
