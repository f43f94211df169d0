"""The templates' environment: everything is escaped, and no control character reaches the page.

What a page shows comes from disks, programs and kernels, so none of it is trusted. Three walls stand behind each other:
jinja2 escapes markup; `clean` makes control characters, undecodable bytes and direction marks visible; and the page's
Content-Security-Policy runs only scripts that carry a number drawn anew for each page, and lets nothing be fetched.
"""

import base64
import functools
import json
import secrets
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup, escape

from harness.reporting.text import count, printable, seconds, size

_PACKAGE = "harness.reporting.html"


def clean(value: object) -> object:
    """Text with each line made printable; anything else, and markup of our own, as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return "\n".join(map(printable, value.split("\n")))
    return value


def quoted(text: str) -> Markup:
    """Escaped text in which what stands between two backticks is shown as code, as sentences of the harness have it."""
    parts = str(clean(text)).split("`")
    if len(parts) % 2 == 0:  # one without its partner
        return escape("`".join(parts))
    code = Markup('<code class="u">{}</code>')
    return Markup("").join(code.format(part) if n % 2 else escape(part) for n, part in enumerate(parts))


def asset(name: str) -> Markup:
    """A file of ours, trusted, for a place inside <style> or <script>."""
    return Markup(resources.files(_PACKAGE).joinpath("assets", name).read_text(encoding="utf-8"))


def data(value: Any) -> Markup:
    """JSON for a <script type="application/json">: ASCII only, and nothing in it can end the element.

    Source: HTML standard, "Restrictions for contents of script elements".
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@functools.cache
def bokeh_script() -> Markup:
    """BokehJS of the installed package, its core alone: enough for plots, without widgets and tables."""
    from bokeh.resources import Resources

    core = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)
    return Markup(core.replace("</script", "<\\/script"))


def icon() -> str:
    """A data: address, so that no browser asks for /favicon.ico."""
    picture = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
        '<rect width="16" height="16" rx="3" fill="#24292f"/>'
        '<path d="M9 2 4 9h3l-1 5 6-8H8z" fill="#ffd33d"/></svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(picture.encode()).decode()


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"asset": asset, "bokeh_script": bokeh_script, "icon": icon}
    environment.filters |= {"data": data, "quoted": quoted, "count": count, "size": size, "seconds": seconds}
    return environment


def render_template(name: str, **values: Any) -> str:
    """The template `name` of this package, most likely one that extends `base.html.j2`, with `values` in it.

    `nonce` is given to each template: a <script> that is to run must carry it.
    """
    return _environment().get_template(name).render(nonce=secrets.token_urlsafe(16), **values)
