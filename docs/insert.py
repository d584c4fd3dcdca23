"""Put generated tables into README.md, between their markers: insert.py results/demo/tables/table2c.md ..."""

import re
import sys
from pathlib import Path

readme = Path(__file__).parents[1] / "README.md"
text = readme.read_text()
for path in map(Path, sys.argv[1:]):
    before, after = f"<!-- {path.stem} -->\n", f"<!-- end of {path.stem} -->"
    if before not in text or after not in text:
        raise SystemExit(f"README.md: no markers {before.strip()} ... {after}")
    block = before + "\n" + path.read_text().strip() + "\n\n" + after
    text = re.sub(f"{before}.*?{after}", lambda _, block=block: block, text, flags=re.DOTALL)
readme.write_text(text)
