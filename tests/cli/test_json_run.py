"""The head of every JSON result: what ran, where and when."""
import os
import re
import tempfile
import unittest
from datetime import datetime, timedelta, timezone

import command
import gguf_header

PLAIN = {"block_count": 1, "context_length": 64, "embedding_length": 128, "attention.head_count": 1}
SMALL = ("--ctx", 512, "--n-kv-heads", 1, "--head-dim", 64, "--threads", 1, "--seconds", 1)


class JsonRun(command.CommandTest):
    def test_head_of_a_result(self):
        result = self.json_of("bench", "attend", "--kv", "kv=q8", *SMALL, "--cpu", "ref")
        run = result["run"]
        self.assertEqual((result["tightkv"], list(result)[:2]), ("bench attend", ["tightkv", "run"]))
        self.assertEqual(run["command"], "tightkv bench attend --kv kv=q8 --ctx 512 --n-kv-heads 1 --head-dim 64 "
                                         "--threads 1 --seconds 1 --cpu ref --json --quiet")
        self.assertEqual(run["version"], command.run("--version")[1].split()[1])
        self.assertTrue(run["commit"] is None or re.fullmatch("[0-9a-f]{12}", run["commit"]), run)
        age = datetime.now(timezone.utc) - datetime.strptime(run["date"], "%Y-%m-%dT%H:%M:%S%z")
        self.assertTrue(timedelta(seconds=-1) <= age < timedelta(minutes=5), run)
        self.assertTrue(0 < run["seconds"] < 200, run)
        machine = run["machine"]
        self.assertEqual(machine["cores"], len(os.sched_getaffinity(0)))
        self.assertEqual(machine["isa"], "ref")
        gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        self.assertAlmostEqual(machine["memory_gib"], gib, delta=0.06)

    def test_command_names_no_folder_and_is_quoted(self):
        with tempfile.TemporaryDirectory() as folder:
            model = gguf_header.write(os.path.join(folder, "it's a.gguf"), "llama", PLAIN)
            result = self.json_of("estimate", model, "--kv=k=turbo4,v=q8", "--ctx", 64)
        self.assertEqual(result["run"]["command"], "tightkv estimate 'it'\\''s a.gguf' --kv=k=turbo4,v=q8 --ctx 64 "
                                                   "--json --quiet")
        self.assertEqual(result["model"], "it's a.gguf")


if __name__ == "__main__":
    command.main()
