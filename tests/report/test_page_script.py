"""What a page does in a browser: filters of the ledger, arms in the figures, values under the pointer."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from synthetic import Truth, write_results

from lolm.claims.build import build_ledger
from lolm.records.results import load_results
from lolm.report.figures import pictures
from lolm.report.render import described
from lolm.report.study import own_claims, study_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Does what a reader does, and leaves what is to be seen in an attribute of the page.
PROBE = """<script>
addEventListener("load", () => {
  const seen = {}, form = document.querySelector("form.filters"), output = form.querySelector("output");
  const all = (selector) => [...document.querySelectorAll(selector)];
  const shown = () => all("#ledger tr[data-verdict]").filter((row) => row.offsetParent !== null);
  const input = () => form.dispatchEvent(new Event("input", { bubbles: true }));
  const linked = document.querySelector(location.hash);
  seen.target = shown().includes(linked) && linked.querySelector("details").open;
  form.reset();
  setTimeout(() => {
    seen.rows = all("#ledger tr[data-verdict]").map((row) => [row.id, row.dataset.verdict]);
    seen.first = [shown().length, shown().some((row) => row.dataset.verdict === "not-run"), output.textContent];
    form.querySelector("input[type=search]").value = "PERPLEXITY lower"; input();
    seen.search = [shown().map((row) => row.textContent.toLowerCase()), all("#ledger h3").filter((h) => h.offsetParent).length];
    form.querySelector("input[type=search]").value = "zyxw"; input();
    seen.none = [shown().length, output.textContent];
    form.reset();
    const figure = document.querySelector("#figure-learning_curves"), svg = figure.querySelector("svg");
    const drawn = (arm) => all(`svg [data-arm="${arm}"]`).filter((part) => part.getBoundingClientRect().width > 0).length;
    const box = figure.querySelector("input[value=transformer]"), before = [drawn("lolm"), drawn("transformer")];
    box.click();
    seen.arms = [before, [drawn("lolm"), drawn("transformer")]];
    box.click();
    const line = JSON.parse(svg.dataset.values)[0].lines.find((one) => one[0] === "lolm"), point = line[2].at(-1);
    const at = new DOMPoint(point[0], point[1]).matrixTransform(svg.getScreenCTM());
    svg.dispatchEvent(new PointerEvent("pointermove", { clientX: at.x, clientY: at.y }));
    seen.tip = [...document.querySelector(".tip").children].map((part) => part.textContent);
    seen.point = point;
    svg.dispatchEvent(new PointerEvent("pointerleave"));
    seen.left = document.querySelector(".tip").hidden;
    document.body.dataset.seen = JSON.stringify(seen);
  }, 50);
});
</script></body>"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return load_results(write_results(tmp_path_factory.mktemp("page"), truth=Truth(log_every=20)))


def test_positions_of_values_are_those_of_the_drawing(results):
    """Against the path that the browser draws, and the table of the figure."""
    (picture,) = (one for one in pictures(results) if one.name == "learning_curves")
    svg = described(picture)
    panel = json.loads(html.unescape(re.search(r'data-values="([^"]*)"', svg)[1]))[0]
    assert panel["x"] == "training tokens"
    ((label, points),) = (line[1:] for line in panel["lines"] if line[0] == "lolm")
    assert label == results.label("lolm")
    path = re.search(r'data-arm="lolm"[^>]*>\s*<path d="([^"]*)" clip-path[^>]*style="fill: none', svg)[1]
    drawn = np.array(re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", path), dtype=float)
    for across, down, *_ in points:
        assert np.abs(drawn - (across, down)).sum(axis=1).min() < 0.11  # both are rounded
    table = picture.table[picture.table["arm"] == "lolm"]
    means = table.groupby("step")[["tokens", "val_nats"]].mean().to_numpy()
    for *_, tokens, nats in points:
        assert np.isclose(means, (tokens, nats), rtol=1e-4).all(axis=1).any()


@pytest.mark.system
@pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")
def test_in_a_browser(results, tmp_path):
    ledger = build_ledger(results)
    (untested, *_) = (claim.id for claim in own_claims(results, ledger) if claim.verdict == "not run")
    page = tmp_path / "page.html"
    text = study_page(results, ledger, [one for one in pictures(results) if one.name in ("learning_curves", "loss_at_ends")])
    page.write_text(text.replace("</body>", PROBE), encoding="utf-8")
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run([*words, f"{page.as_uri()}#{untested}"], capture_output=True, text=True, timeout=120, check=True)
    seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', done.stdout)[1]))
    assert seen["target"], "a link to a claim that is folded away shows it"
    folded = sum(verdict == "not-run" for _, verdict in seen["rows"])
    assert folded
    assert seen["first"] == [
        len(seen["rows"]) - folded, False, f"{len(seen['rows']) - folded} of {len(seen['rows'])} claims; folded away: not run"
    ]  # fmt: skip
    found, titles = seen["search"]
    assert found
    assert all("perplexity" in row and "lower" in row for row in found)
    assert 0 < titles <= len(found), "titles of groups without a claim are folded away too"
    assert seen["none"][0] == 0
    assert seen["none"][1].startswith(f"0 of {len(seen['rows'])} claims")
    (ours, theirs), after = seen["arms"]
    assert min(ours, theirs) > 0
    assert after == [ours, 0], "the arm is switched off in every figure, and no other"
    assert seen["tip"] == [
        results.label("lolm"), f"training tokens: {seen['point'][2]:,.0f}", f"held-out loss, nats a token: {seen['point'][3]:.5g}"
    ]  # fmt: skip
    assert seen["left"]
