"""README.md's code runs as it stands, one block after the other, on few small images."""

import re
from pathlib import Path

import jax
import numpy as np

PAGE = Path(__file__).parent.parent / "README.md"


def test_every_block_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    x = generator.uniform(size=(100, 8, 8, 1)).astype(np.float32)
    y = (x[:, 0, 0, 0] * 10).astype(int)
    names = {"x": x, "y": y, "xt": x, "yt": y}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 5
    for block in blocks:
        with jax.numpy_rank_promotion("allow"):  # a user's own setting
            exec(compile(block.replace("epochs=50", "epochs=2"), str(PAGE), "exec"), names)
    assert (tmp_path / "curves.png").stat().st_size > 10_000
