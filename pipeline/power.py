"""How many seeds each measured claim would need for the declared power, by the variance of the committed runs."""

from __future__ import annotations

from lolm.claims import merged_ledger
from lolm.claims.numbers import show
from lolm.claims.power import power_rows
from pipeline.front import scale_results
from pipeline.stage import arguments, main, opened


def needed_seeds() -> None:
    params = opened(arguments(__doc__)).params
    claims = merged_ledger(scale_results(params, params.scale), params, params.scale)
    rows = power_rows(claims, params.analysis)
    print(
        f"seeds for {100 * params.analysis.power:g} % power, if the effect is what was measured; sd of ratios in ln; level in %"
    )
    print(f"{'claim':34}{'measured':>34}{'against':>14}{'level':>7}{'sd':>9}{'seeds':>7}{'needs':>7}  verdict")
    for row in rows:
        needed = "> 1000" if row.seeds is None else str(row.seeds)
        against, made = show(row.threshold, row.quantity.unit), row.quantity.n_seeds
        level = f"{100 * row.quantity.confidence:.4g}"
        row_of = f"{row.claim:34}{row.quantity.shown_whole:>34}{against:>14}{level:>7}{row.sd:>9.3g}{made:>7}{needed:>7}"
        print(f"{row_of}  {row.verdict}")


if __name__ == "__main__":
    main(needed_seeds)
