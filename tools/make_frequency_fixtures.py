# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fixtures/frequencies/stamps.csv: what pandas 3.1.1 makes of its frequency aliases.

    pip install pandas==3.1.1
    python tools/make_frequency_fixtures.py

A line is: alias;its name before pandas 2.2;what infer_freq says of the known stamps;stamps;verdicts. The first KNOWN
stamps are given, the others follow them. There is one verdict per alias, in the order of the aliases: y where the known
stamps are that alias' own, g where they are among its stamps with gaps (some are neighbours), n where they are not, or
none are neighbours.
"""

import pathlib

import pandas as pd

pd.set_option("future.infer_freq_returns_offset", False)
KNOWN, AFTER = 6, 4
OLD = {"h": "H", "6h": "6H", "15min": "15T", "30s": "30S", "ME": "M", "2ME": "2M", "BME": "BM", "QE-DEC": "Q-DEC",
       "QE-NOV": "Q-NOV", "QE-OCT": "Q-OCT", "BQE-DEC": "BQ-DEC", "BQE-JAN": "BQ-JAN", "YE-DEC": "A-DEC",
       "YE-JUN": "Y-JUN", "YE-FEB": "A-FEB", "YS-JAN": "AS-JAN", "YS-OCT": "AS-OCT", "BYE-DEC": "BA-DEC",
       "BYE-MAR": "BY-MAR", "BYS-JAN": "BAS-JAN", "SME-15": "SM-15"}
ALIASES = ["30s", "15min", "h", "6h", "D", "3D", "B", "2B", "W-MON", "W-TUE", "W-WED", "W-THU", "W-FRI", "W-SAT",
           "W-SUN", "2W-SUN", "SMS-15", "SMS-10", "SME-15", "SME-20", "MS", "ME", "2MS", "2ME", "BMS", "BME", "QS-JAN",
           "QS-NOV", "QS-DEC", "QE-DEC", "QE-NOV", "QE-OCT", "2QE-DEC", "BQS-JAN", "BQS-FEB", "BQE-DEC", "BQE-JAN",
           "YS-JAN", "YS-OCT", "YE-DEC", "YE-JUN", "YE-FEB", "2YE-DEC", "BYS-JAN", "BYE-DEC", "BYE-MAR"]
STARTS = ["2019-02-11", "2019-12-30", "1999-06-01", "2022-07-29"]


def verdict(stamps, alias):
    try:
        pd.DatetimeIndex(stamps, freq=alias)
        return "y"
    except ValueError:
        pass
    own = pd.date_range(stamps[0], stamps[-1], freq=alias)
    places = own.get_indexer(stamps)
    return "g" if (places >= 0).all() and (places[1:] - places[:-1] == 1).any() else "n"


lines = []
for alias in ALIASES:
    for start in STARTS:
        stamps = pd.date_range(start, periods=KNOWN + AFTER, freq=alias)
        known = pd.DatetimeIndex(list(stamps[:KNOWN]))
        text = stamps.strftime("%Y-%m-%d %H:%M:%S" if alias in ALIASES[:4] else "%Y-%m-%d")
        verdicts = "".join(verdict(known, other) for other in ALIASES)
        assert verdicts[ALIASES.index(alias)] == "y"
        lines.append(";".join([alias, OLD.get(alias, alias), pd.infer_freq(known) or "", ",".join(text), verdicts]))
path = pathlib.Path(__file__).parent.parent / "tests" / "fixtures" / "frequencies" / "stamps.csv"
path.write_text(f"# pandas {pd.__version__}: {KNOWN} known stamps, {AFTER} after them\n" + "\n".join(lines) + "\n")
