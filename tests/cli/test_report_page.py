"""The page of tightkv report in a real browser: Chromium without a window."""
import sys
import tempfile
import time
import unittest
from shutil import which

import command
import report_samples
from test_report import HOSTILE

try:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
except ImportError:
    webdriver = None

# Headings of the table of settings and the keys of a row that stand below them.
COLUMNS = {"bits": "bits_per_value", "MiB": "kv_mib", "perplexity": "ppl_change", "KLD mean": "kld_mean", "median": "kld_median",
           "99%": "kld_p99", "99.9%": "kld_p999", "max": "kld_max", "same top": "same_top1", "top 5": "top5_overlap",
           "recall": "recall", "exact": "exact_fraction", "read": "read_fraction"}
TABLE = """
const table = document.querySelector(arguments[0]);
const cells = (row) => [...row.cells].map((cell) => cell.dataset.sort ?? cell.textContent);
return [cells(table.tHead.rows[0]), ...[...table.tBodies[0].rows].map(cells)];
"""


def open_browser():
    options = webdriver.ChromeOptions()
    # Containers have no user namespaces for the sandbox and a small /dev/shm; the pages are the tests' own.
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-prefers-reduced-motion"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(which("chromedriver")))


class Page(command.CommandTest):
    @classmethod
    def setUpClass(cls):
        cls.browser = open_browser()
        cls.addClassCleanup(cls.browser.quit)

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.dir = temporary.name
        self.emulate(1200)

    def emulate(self, width, scheme="light"):
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                     {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                     {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def open(self, results):
        """Shows the page of these results; it must load in silence, and all by itself."""
        report_samples.write(self.dir, results)
        code, _, err = command.run("report", self.dir, "-q")
        self.assertEqual(code, command.OK, err)
        self.browser.get(f"file://{self.dir}/report.html")
        self.assertEqual(self.js("return performance.getEntriesByType('resource').length"), 0)
        self.assert_silent()

    def assert_silent(self):
        self.assertEqual(self.browser.get_log("browser"), [])

    def js(self, script, *args):
        return self.browser.execute_script(script, *args)

    def table(self, selector):
        """A table's exact values by heading."""
        head, *rows = self.js(TABLE, selector)
        return [dict(zip(head, row)) for row in rows]

    def numbers(self, selector, *titles):
        return {tuple(float(row[title]) for title in titles) for row in self.table(selector)}

    def sees(self, found, expected, key):
        self.assertEqual("" if expected is None else float(expected), found and float(found), key)


class Numbers(Page):
    def test_settings(self):
        results = report_samples.all_results()
        self.open(results)
        rows = {row["kv"]: row for row in results["eval-2048.json"]["rows"]}
        shown = self.table("#settings-table")
        order = self.js("return [...document.querySelectorAll('#settings-table tbody tr')].map((row) => row.dataset.kv)")
        self.assertEqual(set(order), set(rows))
        foot = self.js("return [...document.querySelectorAll('#settings-table tfoot td')].map((cell) => cell.dataset.sort)")
        self.assertLessEqual({"noise floor", "0.000001", "0.9995"}, set(foot))
        for kv, cells in zip(order, shown):
            for title, key in COLUMNS.items():
                self.sees(cells[title], rows[kv][key], f"{kv} {key}")
            self.sees(cells["greedy"], rows[kv]["greedy"]["mean_agree"], kv)

    def test_text_is_the_value_rounded(self):
        self.open(report_samples.all_results())
        cells = self.js("return [...document.querySelectorAll('#settings-table td:not(.words)')]"
                        ".map((cell) => [cell.dataset.sort, cell.firstChild.textContent])")
        self.assertGreater(len(cells), 100)
        for value, text in cells:
            if value == "":
                self.assertEqual(text, "–")
                continue
            word = text.split()[0].replace("−", "-")
            scale, digits = (100, .005) if word.endswith("%") else (1, .006)
            self.assertAlmostEqual(float(word.rstrip("%")), scale * float(value), delta=max(digits, .06 * scale * float(value)))

    def test_figures(self):
        results = report_samples.all_results()
        self.open(results)
        evaluated = results["eval-2048.json"]["rows"]
        self.assertEqual(self.numbers("#quality table", "bits", "KLD mean", "from"),
                         {(r["bits_per_value"], r["kld_mean"], r["kld_ci"][0]) for r in evaluated})
        self.assertEqual(self.numbers("#attend table", "tokens", "speed-up"),
                         {(r["n_ctx"], r["speedup_vs_f16"]) for n, r in results.items() if n.startswith("attend")})
        self.assertEqual(self.numbers("#memory table", "tokens", "MiB"),
                         {(r["ctx"], row["total_bytes"] / 2**20)
                          for n, r in results.items() if n.startswith("estimate") for row in r["rows"]})
        self.assertEqual(self.numbers("#layers table", "layer", "error"),
                         {(layer["layer"], layer["out_error"]) for r in evaluated for layer in r["layers"] or []})
        self.assertEqual(self.numbers("#position table", "from token", "KLD from f16"),
                         {(b["first"], b["kld_mean"]) for r in evaluated for b in r["by_position"]})
        drawn = self.js("return [...document.querySelectorAll('main section')].filter((s) => s.querySelector('.chart'))"
                        ".map((s) => [s.id, s.querySelectorAll('.chart svg path').length])")
        self.assertEqual([name for name, n in drawn if n < 5], [])
        self.assertEqual(len(drawn), 8)

    def test_chart_names_the_settings_and_the_floor(self):
        self.open(report_samples.all_results())
        words = self.js("return [...document.querySelectorAll('#quality svg text')].map((t) => t.textContent)")
        self.assertLessEqual({"default", "small", "smallest", "stock q4_0", "noise floor", "bits per value"}, set(words))

    def test_summary(self):
        self.open(report_samples.all_results())
        text = self.js("return document.getElementById('summary').innerText")
        for question in ("How much smaller?", "How much worse?", "How much faster?", "Which setting for me?"):
            self.assertIn(question, text)
        self.assertIn("3.5×", text)          # 16 / 4.54
        self.assertIn("21 in 1000", text)    # 1 - .979
        self.assertIn("6.9×", text)          # decoding at 16K
        self.assertIn("No measurable loss: kv=q8,sink=0,tail=0", text)
        self.assertIn("Small loss: default", text)

    def test_advice_comes_first(self):
        self.open(report_samples.all_results() | {"advice.json": report_samples.advice()})
        text = self.js("return document.getElementById('for-me').innerText")
        self.assertIn("Small loss: default", text)
        self.assertIn("a reason for smallest", text)
        self.assertIn("Try it", text)

    def test_advice_to_leave_it(self):
        leave = "Leave it at f16: the whole cache takes 6.0 MiB beside 4000 MiB of weights."
        self.open(report_samples.all_results() | {"advice.json": report_samples.advice(leave)})
        text = self.js("return document.getElementById('for-me').innerText")
        self.assertIn(leave, text)
        self.assertNotIn("Try it", text)
        self.assertNotIn("default", text)

    def pick(self, words):
        """Shows the dataset whose name has these words."""
        labels = self.js("return [...document.getElementById('dataset').options].map((o) => o.text)")
        found = [i for i, label in enumerate(labels) if words in label]
        self.assertEqual(len(found), 1, labels)
        self.js("const d = document.getElementById('dataset'); d.value = arguments[0]; d.dispatchEvent(new Event('change'))", found[0])

    def test_runs_of_other_files_and_sizes_stay_apart(self):
        few = report_samples.evaluation(2048)
        few["n_windows"], few["run"]["date"], few["rows"] = 1, "2026-11-22T12:00:00Z", few["rows"][:1]
        few["rows"][0]["kld_mean"] = .25
        self.open({"eval.json": report_samples.evaluation(2048), "few.json": few,
                   "a.json": report_samples.questions("recall", "near.json", .75),
                   "b.json": report_samples.questions("recall", "far.json", .5),
                   "c.json": report_samples.questions("visual", "pictures.json", .25)})
        kld = self.column_of("KLD mean", "default")
        self.assertEqual(kld, ["0.0012"])
        for words, title, expected in ((" 1 window", "KLD mean", "0.25"), ("near.json", "recall", "0.75"),
                                       ("far.json", "recall", "0.5"), ("pictures.json", "visual", "0.25")):
            self.pick(words)
            self.assertEqual(self.column_of(title, "default"), [expected])
        self.assertNotIn("The cache takes", self.js("return document.getElementById('summary').innerText"))
        self.assert_silent()

    def column_of(self, title, setting):
        return [row[title] for row in self.table("#settings-table") if row["setting"] == setting]

    def test_a_row_that_failed_says_why(self):
        result = report_samples.evaluation(2048)
        result["rows"][1] = {"kv": "small", "error": "head size 40 cannot be coded"}
        self.open({"eval.json": result})
        self.assertIn("head size 40 cannot be coded", self.js("return document.getElementById('settings-table').innerText"))

    def test_merged_rows_keep_both_sources(self):
        first, second = report_samples.evaluation(2048), report_samples.evaluation(2048)
        second["run"].update(command="tightkv eval --greedy", date="2026-11-22T12:00:00Z")
        first["rows"], second["rows"] = first["rows"][:1], second["rows"][:1]
        first["rows"][0]["greedy"] = second["rows"][0]["kld_mean"] = None
        self.open({"first.json": first, "second.json": second})
        self.assertEqual(self.column_of("KLD mean", "default"), ["0.0012"])
        sources = self.js("return document.querySelector('#settings .sources').textContent")
        for result in (first, second):
            self.assertIn(result["run"]["command"], sources)

    def test_another_context(self):
        results = report_samples.all_results()
        self.open(results)
        self.pick("8,192")
        self.assertEqual(len(self.table("#settings-table")), len(results["eval-8192.json"]["rows"]))
        self.assert_silent()

    def test_demo_alone(self):
        self.open({"demo.json": report_samples.demo()})
        text = self.js("return document.body.innerText")
        self.assertIn("The code of the harbour is", text)
        self.assertIn("How much faster?", text)
        self.assertEqual(self.js("return document.querySelectorAll('#quality svg').length"), 1)


class Behaviour(Page):
    def test_sorts(self):
        self.open(report_samples.all_results())
        for title in ("bits", "KLD mean"):
            click = f"[...document.querySelectorAll('#settings-table th')].find((th) => th.textContent === '{title}').click()"
            self.js(click)
            up = sorted(self.column(title))
            self.until(lambda: self.column(title) == up)  # the sorter works a moment after the click
            self.js(click)
            self.until(lambda: self.column(title) == up[::-1])

    def column(self, title):
        return [float(row[title]) for row in self.table("#settings-table")]

    def until(self, holds):
        deadline = time.monotonic() + 10
        while not holds() and time.monotonic() < deadline:
            time.sleep(.05)
        self.assertTrue(holds())

    def test_theme(self):
        background = "return getComputedStyle(document.body).backgroundColor"
        ink = "return document.querySelector('#quality svg text').getAttribute('fill')"
        self.open({"eval.json": report_samples.evaluation(2048)})
        light = self.js(background), self.js(ink)
        self.emulate(1200, "dark")
        self.until(lambda: self.js(ink) != light[1])  # the page hears of it a moment later
        dark = self.js(background), self.js(ink)
        self.assertNotEqual(light[0], dark[0])
        self.js("document.getElementById('theme').click()")
        self.assertEqual((self.js(background), self.js(ink)), light)
        self.js("document.getElementById('theme').click()")
        self.assertEqual((self.js(background), self.js(ink)), dark)
        self.js("localStorage.clear()")
        self.assert_silent()

    def test_phone(self):
        for width in (390, 320):
            self.emulate(width)
            self.open(report_samples.all_results())
            self.assertEqual(self.js("return document.documentElement.scrollWidth"), width)
            wide = self.js("return [...document.querySelectorAll('section, .chart svg, p, select')]"
                           ".filter((e) => e.getBoundingClientRect().right > innerWidth).map((e) => e.outerHTML.slice(0, 80))")
            self.assertEqual(wide, [])

    def test_hostile_strings_are_text(self):
        results = {"eval.json": report_samples.evaluation(2048), "encode.json": report_samples.encode(HOSTILE, 1)}
        image = '"><img src=x onerror="window.hacked = 1">'
        results["eval.json"]["model"] = results["eval.json"]["run"]["command"] = HOSTILE + image
        results["eval.json"]["rows"][0]["kv"] = image
        results["eval.json"]["rows"][0]["layers"] = [{"layer": image, "k_error": 1, "v_error": 1, "out_error": 1, "heads": None}]
        self.open(results)
        self.js("for (const d of document.querySelectorAll('details')) d.open = true")
        self.assertIn(image, self.js("return document.getElementById('settings-table').textContent"))
        self.assertEqual(self.js("return [window.hacked ?? null, document.images.length]"), [None, 0])
        self.assert_silent()

    def test_what_is_missing_is_left_out(self):
        head = {"run": report_samples.run("eval")}
        nulls = {key: None for key in report_samples.evaluation(2048)["rows"][0]}
        kinds = ("eval", "bench attend", "bench model", "bench encode", "estimate", "demo", "advise", "something new")
        for rows in ([], None, [{}], [nulls], [{"kv": "default", "bits_per_value": 4.5}], [{**nulls, "kv": "stock:q4_0", "kld_mean": 0}]):
            with self.subTest(rows=rows):
                self.open({f"{kind}.json": {"tightkv": kind, **head, "rows": rows} for kind in kinds})
        self.open({f"{kind}.json": {"tightkv": kind} for kind in kinds})


if __name__ == "__main__":
    if not webdriver or not which("chromium") or not which("chromedriver"):
        print("needs Chromium, chromedriver and python3-selenium")
        sys.exit(77)
    command.main_with_page()
