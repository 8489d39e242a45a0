"""Runs tightkv(1) for the tests beside this file."""
import json
import os
import subprocess
import sys
import unittest

OK, DATA, USAGE, STOPPED = 0, 1, 2, 130


def run(*args, env=None, timeout=200):
    """(exit code, stdout, stderr) of tightkv with these arguments; env adds variables, None removes one."""
    merged = dict(os.environ)
    for name, value in (env or {}).items():
        merged.pop(name, None)
        if value is not None:
            merged[name] = value
    done = subprocess.run([os.environ["TIGHTKV"], *map(str, args)], capture_output=True, text=True,
                          env=merged, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


class CommandTest(unittest.TestCase):
    def json_of(self, *args, env=None):
        code, out, err = run(*args, "--json", "--quiet", env=env)
        self.assertEqual(code, OK, err)
        return json.loads(out)

    def assert_refused(self, code, *args, says="", env=None):
        """One line on stderr, nothing on stdout, this exit code."""
        got, out, err = run(*args, env=env)
        self.assertEqual((got, out), (code, ""), err)
        self.assertEqual(err.count("\n"), 1, err)
        self.assertIn(says, err)


def main():
    """Runs the tests of the calling script; 77 (skipped) where llama.cpp is not at hand."""
    code, _, err = run("estimate", "/nonexistent.gguf", "--kv", "kv=f16")
    if code != DATA or "No such file" not in err:
        print(err, end="")
        sys.exit(77)
    unittest.main()


def main_with_page():
    """Runs the tests of the calling script; 77 (skipped) where the page of tightkv report could not be built."""
    page = os.path.join(os.path.dirname(os.environ["TIGHTKV"]), "..", "share", "tightkv", "report.html")
    if not os.path.exists(page):
        print("no share/tightkv/report.html: scripts/report.sh gets what it is built from")
        sys.exit(77)
    unittest.main()
