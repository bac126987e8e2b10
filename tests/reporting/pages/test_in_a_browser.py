"""Claims about pages in a browser: no script runs and nothing is fetched, even unescaped text."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from smt_ray.reporting.pages.render import render_page
from smt_ray.reporting.pages.run import run_page
from tests.reporting.pages.test_run import hostile, whole_run

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=2000",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome"),
]


@pytest.fixture
def fetched() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and the paths that were asked of it."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", paths
    server.shutdown()


def after_loading(html: str, folder: Path) -> str:
    """The document of a page after a browser has loaded it."""
    (folder / "page.html").write_text(html, encoding="utf-8")
    assert BROWSER
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [BROWSER, *OPTIONS, profile, "--dump-dom", str(folder / "page.html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "</html>" in done.stdout
    return done.stdout


def attack(server: str) -> str:
    return (
        f"</pre><script>document.documentElement.id = 'r' + 'an'; fetch('{server}/fetch')</script>"
        f"<img src={server}/image onerror=\"document.documentElement.id = 'r' + 'an'\">"
        f"<link rel=stylesheet href={server}/style><iframe src={server}/frame></iframe>"
    )


def test_hostile_text_stays_text(fetched: tuple[str, list[str]], tmp_path: Path) -> None:
    server, paths = fetched
    html = run_page(hostile(whole_run(), attack(server)))
    assert html.count("&lt;script&gt;") > 20
    document = after_loading(html, tmp_path)
    assert 'id="ran"' not in document
    assert not paths


@pytest.mark.parametrize("has_policy", [True, False])
def test_the_policy_of_a_page_stops_what_was_not_escaped(
    fetched: tuple[str, list[str]], tmp_path: Path, has_policy: bool
) -> None:
    server, paths = fetched
    html = render_page("page.html", title="page", sections=[])
    assert "Content-Security-Policy" in html
    if not has_policy:  # then the same attack succeeds, so the test can see it
        html = html.replace("Content-Security-Policy", "nothing")
    document = after_loading(html.replace("</main>", attack(server) + "</main>"), tmp_path)
    assert ('id="ran"' in document) is not has_policy
    assert bool(paths) is not has_policy
