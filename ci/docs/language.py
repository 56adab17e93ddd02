"""Say in the HTML of the pages in ja/ that they are Japanese, so that browsers choose Japanese glyphs and voices."""

from typing import Any


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Return the HTML of a page with its language."""
    if not page.file.src_uri.startswith("ja/"):
        return output
    changed = output.replace('<html lang="en"', '<html lang="ja"', 1)
    if changed == output:
        raise ValueError('the theme writes another tag than <html lang="en"')
    return changed
