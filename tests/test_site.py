"""The documentation's site: it builds without a warning, and its pages load nothing from other hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source_tree import ROOT

LOADED = re.compile(r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(https?:)?//|url\(["']?https?://""")
STYLES = re.compile(r"""<link[^>]*rel=["']?(?:stylesheet|preload|preconnect|icon)[^>]*href=["']?https?://""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    tree = folder / "tree" / "worldsim"  # as an installation has it
    tree.mkdir(parents=True)
    outer = [ROOT / name for name in ("agents", "checkpoints", "envs")]
    for path in [*(ROOT / "worldsim").iterdir(), *outer]:
        (tree / path.name).symlink_to(path)
    environment = os.environ | {"WORLDSIM_TREE": str(tree.parent), "NO_MKDOCS_2_WARNING": "1"}
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder / "out")]
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.mark.slow
def test_every_page_is_there(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert all((site / page).exists() for page in pages)


@pytest.mark.slow
def test_docstrings_are_in_the_reference(site: Path) -> None:
    page = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("load", "World.engine", "Session.fork", "Session.rewind", "Step", "Control"):
        assert re.search(rf'id="worldsim\.[\w.]*{re.escape(name)}"', page), name
    assert "rewind" in (site / "search" / "search_index.json").read_text(encoding="utf-8")


@pytest.mark.slow
def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        assert not LOADED.search(text), path
        assert not STYLES.search(text), path
        assert 'class="mermaid"' not in text, "the theme would fetch mermaid from elsewhere"
