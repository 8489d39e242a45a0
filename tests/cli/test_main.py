"""tightkv itself: its list of commands, --help of each, wrong command lines, the man page and the completion."""
import os
import re
import subprocess
import unittest

import command

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


COMMANDS = re.findall(r'^TKV_COMMAND\(\w+, "([^"]+)"', read("cli/commands.def"), re.M)


def options_of(words):
    code, out, err = command.run(*words.split(), "--help")
    assert (code, err) == (command.OK, ""), err
    return re.findall(r"^ .*?(--[a-z0-9-]+)", out, re.M)


class Main(command.CommandTest):
    def test_list(self):
        code, out, _ = command.run("--help")
        self.assertEqual(code, command.OK)
        for words in COMMANDS:
            self.assertRegex(out, rf"(?m)^  {words}  ")
        code, out, err = command.run()
        self.assertEqual((code, out), (command.USAGE, ""))
        self.assertIn("usage:", err)

    def test_version(self):
        code, out, _ = command.run("--version")
        self.assertEqual(code, command.OK)
        self.assertRegex(out, r"^tightkv \d+\.\d+\.\d+\n$")

    def test_no_such_command(self):
        self.assert_refused(command.USAGE, "frobnicate", says="frobnicate")
        self.assert_refused(command.USAGE, "bench", says="attend encode retrieve model")
        self.assert_refused(command.USAGE, "bench", "frobnicate", says="attend encode retrieve model")

    def test_shared_options(self):
        for words in COMMANDS:
            with self.subTest(words):
                self.assertLessEqual({"--json", "--quiet", "--verbose", "--threads", "--cpu"}, set(options_of(words)))

    def test_wrong_options(self):
        for words in COMMANDS:
            with self.subTest(words):
                args = words.split()
                self.assert_refused(command.USAGE, *args, "--frobnicate", says="--frobnicate")
                self.assert_refused(command.USAGE, *args, "--threads", "0", says="--threads")
                self.assert_refused(command.USAGE, *args, "--threads", says="argument")
                self.assert_refused(command.USAGE, *args, "--cpu", "8086", says="8086")

    def test_man_page_knows_every_option(self):
        page = read("docs/tightkv.1.scd").replace("\\", "")
        for words in COMMANDS:
            self.assertIn(f"tightkv {words}", page)
            for option in options_of(words):
                self.assertIn(option, page, words)

    def completions(self, *words):
        script = (f'PATH="{os.path.dirname(os.environ["TIGHTKV"])}:$PATH"; . {ROOT}/cli/tightkv.bash; COMP_WORDS=("$@");'
                  'COMP_CWORD=$(($# - 1)); _tightkv; printf "%s\\n" "${COMPREPLY[@]}"')
        done = subprocess.run(["bash", "-c", script, "bash", "tightkv", *words], capture_output=True, text=True)
        return done.stdout.split()

    def test_completion(self):
        self.assertEqual(self.completions("ev"), ["eval"])
        self.assertEqual(set(self.completions("bench", "")), {"attend", "encode", "model", "retrieve"})
        self.assertEqual(self.completions("eval", "--rec"), ["--recall"])
        self.assertEqual(self.completions("bench", "model", "--dep"), ["--depth"])
        self.assertIn("default", self.completions("run", "--kv", "de"))


if __name__ == "__main__":
    unittest.main()
