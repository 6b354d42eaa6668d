"""The HTML page: what it says first, what it must never say, and that it stands alone."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from PIL import Image

from kit import report

PIN = "d72184eba358b883d7186a0a96dedd8118fcb72a"
VOID = {"meta", "link", "img", "br"}


def png(red: int, green: int, blue: int) -> str:
    """A 2 x 2 PNG of one colour, base64."""
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (red, green, blue)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def check(level: str, name: str, ok: bool | None = True, detail: str = "") -> dict[str, Any]:
    return {"level": level, "name": name, "ok": ok, "detail": detail}


def step(name: str = "train", ok: bool = True, **values: Any) -> dict[str, Any]:
    seen = "" if ok else "exit 1: IndexError: pop from empty list"
    findings = [{"what": "ends with exit status 0", "ok": ok, "seen": seen, "looked_for": ""}]
    return {
        "name": name,
        "findings": findings,
        "command": "bash finetune.sh --max_train_steps=4",
        "seconds": 12.34,
        "log": f"/cache/logs/{name}.log",
        "tail": "Final Train Loss : 2.38",
        "losses": {"1": 2.3395, "2": 2.4, "3": 2.5116, "4": 2.3812},
        "images": [],
        "ok": ok,
        **values,
    }


def compared(comparison: str, what: str, ok: bool | None, seen: str) -> dict[str, Any]:
    return {"case": "captions", "comparison": comparison, "what": what, "ok": ok, "seen": seen}


def made(**values: Any) -> dict[str, Any]:
    """A report as `kit verify --smoke --json` prints it."""
    levels = values.pop("levels", ["tree", "static", "smoke"])
    return {
        "workspace": "/home/me/hidream-npu",
        "recipe": "hidream",
        "title": "HiDream-I1",
        "device": "npu",
        "device_title": "Ascend NPU",
        "through": "",
        "verified": True,
        "levels": levels,
        "only_steps": [],
        "only_cases": [],
        "only_fixes": [],
        "upstreams": {
            "diffusers": {"url": "https://github.com/huggingface/diffusers", "pin": PIN, "commit": "44fe6d5dfc4e"}
        },
        "checks": [check(level, f"a {level} check") for level in levels],
        "runs": [step()] if "smoke" in levels else [],
        "parity": [],
        "figures": {"published": [], "measured": []},
        "reds": [],
        "fixes": [],
        **values,
    }


FIX = {
    "id": "weights-pop",
    "title": "guard `weights.pop()`",
    "why": "An empty list under DeepSpeed.\n\nSee: https://github.com/huggingface/diffusers/issues/2606",
    "outcome": "applied",
    "diff": "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -1,2 +1,2 @@ def main():\n same\n-old <b>\n+new\n",
}


MEASURED = {
    "value": 1.25,
    "metric": "FPS",
    "chip": "Ascend NPU, a stand-in",
    "task": "train",
    "setting": "2 cards, batch 4, bf16",
}
PUBLISHED = {
    **MEASURED,
    "value": 18.37,
    "chip": "Atlas",
    "setting": "8 cards, batch 8, bf16",
    "source": "README, table 1",
    "details": "flips",
}


class Page(HTMLParser):
    """Reads a page strictly: every tag is closed, in order. ``tags`` are the (tag, attributes), ``text`` what shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> at {self.getpos()} closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def headline(text: str) -> str:
    found = re.search(r"(?s)<h1.*?>(.*?)</h1>", text)
    assert found
    return " ".join(re.sub(r"<[^>]+>", "", found[1]).split())


def everything() -> dict[str, Any]:
    """A report with all there can be in one."""
    images = [{"name": "lora.png", "size": [2, 2], "spread": 0, "data": png(200, 90, 30)}]
    return made(
        through="through the stand-in",
        levels=["tree", "static", "smoke", "parity", "red"],
        runs=[step(), step("lora", False, images=images, losses={})],
        parity=[
            compared("upstream", "the port trains what upstream trains", True, "4 losses: equal to the last bit"),
            compared("processes", "2 processes take each image once an epoch", False, "4 of 8 images used"),
            compared("resumed", "resumed against uninterrupted", None, "the recipe names no checkpoint"),
        ],
        figures={"published": [PUBLISHED], "measured": [MEASURED]},
        reds=[
            {"fix": "weights-pop", "shown": True, "seen": "train: exit 1: IndexError", "steps": [step("train", False)]},
            {"fix": "offline-model-card", "shown": False, "seen": "everything passed without it", "steps": []},
            {"fix": "progress-print", "shown": None, "seen": "unproven: the recipe names no run", "steps": []},
        ],
        fixes=[
            FIX,
            {**FIX, "id": "offline-model-card", "outcome": "satisfied", "diff": ""},
            {**FIX, "id": "progress-print"},
        ],
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "verified"),
        ({"through": "through the stand-in"}, "verified through the stand-in"),
        ({"verified": False}, "NOT verified"),
        ({"verified": False, "through": "through the stand-in"}, "NOT verified through the stand-in"),
        ({"levels": ["tree", "static"]}, "verified, nothing was run"),
    ],
)
def test_verdict_and_what_qualifies_it_come_first(values: dict[str, Any], said: str) -> None:
    page = report.html(made(**values))
    assert headline(page) == said
    assert Page(page).text.startswith(f"{said} · HiDream-I1 for Ascend NPU")  # the title of the tab


def test_a_green_through_the_stand_in_is_not_the_green_of_a_device() -> None:
    through = report.html(made(through="through the stand-in"))
    directly = report.html(made())
    tones = [re.findall(r'class="verdict (\w+)"', page) for page in (through, directly)]
    assert tones == [["standin"], ["good"]]
    assert "nothing was run on the device itself" in Page(through).text
    assert "stand-in" not in Page(directly).text


def test_a_failed_check_is_named_under_the_verdict() -> None:
    bad = check("static", "flags exist", False, "finetune.sh:7: --lr is not an option")
    page = report.html(made(verified=False, checks=[check("tree", "HEAD"), bad]))
    failed = page.index("finetune.sh:7: --lr is not an option")
    assert page.index("<h1") < failed < page.index("/home/me/hidream-npu")


def test_a_part_of_a_level_is_not_the_whole_of_it() -> None:
    page = report.html(made(only_steps=["train", "infer"], only_cases=["captions"]))  # parity was not run
    assert page.index("<h1") < page.index("Of smoke only: train, infer") < page.index("/home/me/hidream-npu")
    assert "Of parity only" not in page and "only:" not in report.html(made())


def test_levels_that_were_not_run_are_said() -> None:
    text = Page(report.html(made(levels=["tree", "static"]))).text
    assert "smoke" in text and "red" in text
    assert text.count("not run") == 3


def test_every_part_is_on_the_page() -> None:
    given = everything()
    page = Page(report.html(given))
    wanted = [
        *("HiDream-I1", "hidream", "Ascend NPU", "/home/me/hidream-npu", PIN, "44fe6d5dfc4e"),
        *(each["name"] for each in given["checks"]),
        *(given["runs"][1][key] for key in ("name", "command", "log", "tail")),
        *("12 s", "exit 1: IndexError: pop from empty list", "lora.png", "2 × 2"),
        *(each["seen"] for each in given["reds"]),
        *("applied", "satisfied", "-old <b>", "+new", "@@ -1,2 +1,2 @@ def main():"),
    ]
    assert [each for each in wanted if each not in page.text] == []
    assert {"ok", "FAIL", "skip"} <= set(page.text.split())


def test_the_page_stands_alone() -> None:
    """No script, nothing fetched: the only addresses are links a reader may follow and pictures inside the page."""
    page = Page(report.html(everything()))
    assert page.all("script") == []
    assert all(str(each["src"]).startswith("data:image/png;base64,") for each in page.all("img"))
    assert [each["href"] for each in page.all("link")] == ["data:,"]
    assert not re.search(r"url\(|@import", report.html(everything()))
    policy = next(each for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert len(page.all("img")) == 1


def test_every_link_within_the_page_arrives() -> None:
    page = Page(report.html(everything()))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [str(each["href"])[1:] for each in page.all("a") if str(each["href"]).startswith("#")]
    assert targets
    assert set(targets) <= set(ids)


def test_links_of_a_fix_can_be_followed() -> None:
    page = Page(report.html(made(fixes=[FIX])))
    links = [each["href"] for each in page.all("a")]
    assert "See: huggingface/diffusers#2606" in page.text
    assert "https://github.com/huggingface/diffusers/issues/2606" in links
    assert f"https://github.com/huggingface/diffusers/commit/{PIN}" in links


def test_backticks_are_code() -> None:
    page = report.html(
        made(fixes=[{**FIX, "title": "guard `a<b>()`", "why": "See `c`, --d_e, <i>: https://x.org/`d`"}])
    )
    assert "guard <code>a&lt;b&gt;()</code>" in page
    assert 'See <code>c</code>, <code class="flag">--d_e</code>, &lt;i&gt;: ' in page
    assert 'href="https://x.org/`d`"' in page


def test_an_upstream_that_is_no_web_address_is_no_link() -> None:
    for url in ("javascript:alert(1)//github.com", "/srv/mirror/diffusers"):
        page = Page(report.html(made(upstreams={"diffusers": {"url": url, "pin": PIN, "commit": "44fe"}})))
        assert url in page.text
        assert not [each for each in page.all("a") if not str(each["href"]).startswith("#")]


def test_nothing_of_a_report_becomes_markup() -> None:
    evil = "</pre><script>alert('1')</script><img src=x onerror=\"alert(2)\">"

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(each) for key, each in value.items()}
        if isinstance(value, list):
            return [poison(each) for each in value]
        return f"{value}{evil}" if isinstance(value, str) else value

    clean, page = Page(report.html(everything())), Page(report.html({**poison(everything()), "levels": ["smoke"]}))
    assert page.all("script") == []
    assert len(page.all("img")) == len(clean.all("img"))
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]
    assert page.text.count("<script>alert('1')</script>") > 20


def test_what_was_measured_stands_beside_what_was_published() -> None:
    text = Page(report.html(everything())).text
    assert "18.37 FPS Atlas train 8 cards, batch 8, bf16 (README, table 1); flips" in text
    assert "1.25 FPS Ascend NPU, a stand-in train 2 cards, batch 4, bf16 (here, on a tiny model)" in text
    assert "Figures" not in Page(report.html(made())).text


def test_colours_of_a_terminal_and_broken_text_are_dropped() -> None:
    page = report.html(made(runs=[step(tail="\x1b[31mred\x1b[0m\x00 \udcff one\rtwo\tthree")]))
    assert "red ? one\ntwo\tthree" in page
    page.encode("utf-8")


def test_log_is_folded_and_open_only_where_the_run_failed() -> None:
    def folds(ok: bool) -> bool:
        page = Page(report.html(made(runs=[step(ok=ok)])))
        return "open" in next(each for each in page.all("details") if each.get("class") == "log")

    assert folds(True) is False
    assert folds(False) is True


def test_what_was_looked_for_stands_only_where_it_was_not_found() -> None:
    page = report.html(
        made(runs=[step(), step("other", findings=[{**step()["findings"][0], "looked_for": "Loss : [0-9]"}])])
    )
    assert page.count("looked for <code>Loss : [0-9]</code>") == page.count("looked for") == 1


def test_a_log_is_named_only_where_it_is_kept() -> None:
    """verify removes the working folder where all went as it should, and always the scratch copies of level red."""
    text = Page(report.html(everything())).text
    assert "/cache/logs/lora.log" in text
    assert "/cache/logs/train.log" not in text


def test_a_level_of_which_nothing_was_looked_at_is_not_ok() -> None:
    page = report.html(made(levels=["tree", "red"], checks=[check("tree", "HEAD"), check("red", "without x", None)]))
    marks = re.findall(r"<summary><b class=.*?>(\w+)</b> <b>(\w+)</b>", page)
    assert marks == [("ok", "tree"), ("skip", "red")]


def test_added_and_removed_lines_are_marked() -> None:
    page = report.html(made(fixes=[FIX]))
    kinds = re.findall(r'<span class="(\w+)">(.*?)\n</span>', page)
    assert [kind for kind, _ in kinds] == ["meta", "meta", "meta", "hunk", "same", "del", "add"]
    assert kinds[-2:] == [("del", "-old &lt;b&gt;"), ("add", "+new")]


def test_a_line_of_code_that_looks_like_a_diff_header_is_code() -> None:
    diff = "--- a/x.sql\n+++ b/x.sql\n@@ -1 +1 @@\n--- old comment\n+++ new\n"
    page = report.html(made(fixes=[{**FIX, "diff": diff}])).partition('<pre class="diff">')[2]
    assert re.findall(r'<span class="(\w+)">', page) == ["meta", "meta", "hunk", "del", "add"]
