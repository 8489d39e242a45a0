"""tightkv report: which files it takes, what it says of the others, and what it puts into the page."""
import json
import os
import re
import shutil
import stat
import tempfile
import unittest

import command
import report_samples

HOSTILE = "</script><script>window.hacked = 1</script><!--\"'&\u2028"


def results_in(page):
    """What the page was filled with."""
    with open(page, encoding="utf-8") as f:
        found = re.findall(r'<script type="application/json" id="results">(.*?)</script>', f.read(), re.S)
    assert len(found) == 1, len(found)
    return json.loads(found[0])


class Report(command.CommandTest):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.dir = temporary.name
        self.page = os.path.join(self.dir, "report.html")

    def write(self, name, text):
        with open(os.path.join(self.dir, name), "w", encoding="utf-8") as f:
            f.write(text)

    def test_every_number_arrives(self):
        results = report_samples.all_results()
        report_samples.write(self.dir, results)
        code, out, err = command.run("report", self.dir)
        self.assertEqual((code, out), (command.OK, ""), err)
        self.assertEqual(err, f"tightkv: {len(results)} results in {self.page}\n")
        found = results_in(self.page)
        self.assertEqual({f["file"]: f["result"] for f in found["files"]}, results)
        self.assertEqual([f["file"] for f in found["files"]], sorted(results))
        self.assertEqual(found["skipped"], [])

    def test_output(self):
        self.write("a.json", json.dumps(report_samples.encode("default", 1.5)))
        for name in ("other.html", "-"):
            path = name if name == "-" else os.path.join(self.dir, name)
            code, out, err = command.run("report", self.dir, "-q", "-o", path)
            self.assertEqual((code, err), (command.OK, ""))
            self.assertEqual("<!doctype html>" in out, name == "-")
        self.assertFalse(os.path.exists(self.page))
        self.assertEqual(len(results_in(os.path.join(self.dir, "other.html"))["files"]), 1)

    def test_the_rest_goes_on(self):
        whole = json.dumps(report_samples.evaluation(2048))
        self.write("good.json", whole)
        self.write("cut.json", whole[:len(whole) // 2])
        self.write("empty.json", "")
        self.write("two.json", f"{whole}\n{whole}\n")
        self.write("other.json", '{"name": "a package"}')
        self.write("list.json", "[1, 2]")
        self.write("notes.txt", "no result")
        code, out, err = command.run("report", self.dir, "--json")
        self.assertEqual(code, command.OK, err)
        self.assertEqual(err.count("\n"), 5, err)
        self.assertRegex(err, rf"cut\.json is left out: no JSON from byte \d+ of {len(whole) // 2} on; was its run cut short\?\n")
        self.assertIn("two.json is left out: a second value", err)
        self.assertIn('other.json is left out: no result of tightkv', err)
        said = json.loads(out)
        self.assertEqual((said["page"], said["n_results"]), (self.page, 1))
        left = [f["file"] for f in said["skipped"]]
        self.assertEqual(left, ["cut.json", "empty.json", "list.json", "other.json", "two.json"])
        self.assertEqual([f["file"] for f in results_in(self.page)["skipped"]], left)

    def test_strings_do_not_break_out(self):
        result = report_samples.encode(HOSTILE, 1)
        result["run"]["command"] = HOSTILE
        self.write("a<b>.json", json.dumps(result))
        self.assertEqual(command.run("report", self.dir, "-q")[0], command.OK)
        self.assertEqual(results_in(self.page)["files"], [{"file": "a<b>.json", "result": result}])

    def test_nothing_to_show(self):
        self.assert_refused(command.DATA, "report", self.dir, says="no results in")
        self.write("cut.json", '{"tightkv": "eval", ')
        self.assert_refused(command.DATA, "report", self.dir, says="cut.json is left out")
        self.assertFalse(os.path.exists(self.page))

    def test_refuses(self):
        self.assert_refused(command.USAGE, "report", says="which folder")
        self.assert_refused(command.USAGE, "report", self.dir, self.dir, says="one folder")
        self.assert_refused(command.DATA, "report", os.path.join(self.dir, "none"), says="No such file")
        self.write("a.json", json.dumps(report_samples.encode("default", 1.5)))
        self.assert_refused(command.DATA, "report", os.path.join(self.dir, "a.json"), says="Not a directory")
        self.assert_refused(command.DATA, "report", self.dir, "-o", os.path.join(self.dir, "no", "page"), says="cannot write")

    def test_demo_refuses_a_folder_before_it_runs(self):
        self.write("file", "")
        where = os.path.join(self.dir, "file", "below")
        self.assert_refused(command.DATA, "demo", "-q", "-o", where, says="cannot make the folder")

    def test_without_the_page(self):
        self.write("a.json", json.dumps(report_samples.encode("default", 1.5)))
        lone = os.path.join(self.dir, "bin", "tightkv")
        os.mkdir(os.path.dirname(lone))
        shutil.copyfile(os.environ["TIGHTKV"], lone)
        os.chmod(lone, stat.S_IRWXU)
        before = os.environ["TIGHTKV"]
        self.addCleanup(os.environ.__setitem__, "TIGHTKV", before)
        os.environ["TIGHTKV"] = lone
        self.assert_refused(command.DATA, "report", self.dir, says="built without the page")


if __name__ == "__main__":
    command.main_with_page()
