"""What docs/reliability.md says of measurements is what their record says."""

import json
import re

from builders import ROOT


def test_verification_costs_what_is_recorded():
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    said = re.search(r"All of it costs a run of LOLM.*?\n\n", text, re.DOTALL).group().replace("\n", " ")
    record = json.loads((ROOT / "docs/verification-2026-11-29.json").read_text(encoding="utf-8"))
    found = record["verification"]
    assert (found["arm"], record["settings"]["scale"], record["settings"]["rounds"]) == ("lolm", "tiny", 5)
    seconds = {name: each["median"] for name, each in found["seconds"].items()}
    share = found["share_of_training"]
    whole, lock = f"{sum(seconds.values()):.1f} s", f"{1000 * seconds['lock']:.0f} ms"
    assert f"{whole}, {100 * share['median']:.2f} % of its training, the lock {lock} of it" in said
    assert share["high"] <= 0.02
