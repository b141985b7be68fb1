"""Write what docs/cost.md has between its marks: the measured table, and what its code prints."""

import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from desta_lab.bench.scaling import describe_fit

PAGE = Path(__file__).with_name("cost.md")
TABLE = PAGE.parents[1] / "figures" / "cost" / "scaling.csv"


def page() -> str:
    """Return the page as its code and the table have it."""
    text = PAGE.read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    with redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    parts = {"printed": f"```text\n{printed.getvalue()}```", "measured": measured()}
    for name, content in parts.items():
        found = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
        text = found.sub(lambda match, new=content: f"{match[1]}{new}{match[2]}", text)
    return text


def measured() -> str:
    """Return the table of `bench --scaling` in Markdown, or that there is none yet."""
    if not TABLE.is_file():
        return "*Not measured yet.*"
    table = pd.read_csv(TABLE)
    lines = ["| what grows | | tokens a step | step, s | floor, s | step / floor |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in table.itertuples():
        name = row.name if row.factor == "backbone" else ""
        cells = (f"{row.value:g} {row.per}", name, row.tokens, f"{row.seconds:.3f}")
        cells += (f"{row.floor:.3f}", f"{row.seconds / row.floor:.2f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([describe_fit(table), "", *lines])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
