"""A mirror to look at: projects as they are in the wild, some installed through it, a month of figures."""

import math
import time
from datetime import UTC, datetime, timedelta

from mirror.model import Event
from tests.builders import gem, sdist, wheel
from tests.serving import Serving
from tests.simulator import Simulator

MARKDOWN = """
# flask

[![Build](https://ci.example/badge.svg)](https://ci.example/flask) ![](https://ci.example/dots.png)

A lightweight *WSGI* web application framework. It is designed to make getting started **quick and easy**, with the
ability to scale up to complex applications.

## A simple example

```python
# save this as app.py
from flask import Flask

app = Flask(__name__)

@app.route("/")
def hello():
    return "Hello, World!"
```

| version | Python | until |
|---------|--------|-------|
| 3.1 | 3.9 and later | next year |
| 2.3 | 3.8 | over |

- Documentation: <https://docs.example/flask>
- [Changes](CHANGES.md)

> Donations keep it going.
"""

RST = """
six
===

Six provides simple utilities for wrapping over differences between Python 2 and 3.

.. code-block:: python

   import six
   six.moves.input()

`Documentation <https://docs.example/six>`_, and a note.

.. note:: It is *intended* to support codebases that work on both.
"""


def described(kind: str, text: str, *lines: str) -> list[str]:
    """Lines for `extra_metadata`, the description last."""
    return [*lines, f"Description-Content-Type: {kind}", "", text]


def publish(simulator: Simulator) -> None:
    """Fill both indexes of the simulator."""
    now = datetime.now(UTC).replace(microsecond=0)
    about = (
        "License-Expression: BSD-3-Clause",
        "Author: The Pallets of the tests",
        "Project-URL: Documentation, https://docs.example/flask",
        "Project-URL: Changes, https://docs.example/flask/changes",
        "Project-URL: Chat, javascript:alert(1)",
    )
    needs = [
        *("werkzeug>=3.1", "jinja2>=3.1.2", "itsdangerous>=2.2", "click>=8.1.3", "blinker>=1.9"),
        *('importlib-metadata>=3.6; python_version < "3.10"', 'asgiref>=3.2; extra == "async"'),
        'python-dotenv; extra == "dotenv"',
    ]
    pypi, gems = simulator.pypi, simulator.rubygems
    for number, version in enumerate(
        ["2.2.5", "2.3.0", "2.3.1", "2.3.2", "3.0.0", "3.0.1", "3.0.3", "3.1.0rc1", "3.1.0"]
    ):
        then = now - timedelta(days=900 - 100 * number, hours=5)
        metadata = {
            "requires": needs,
            "requires_python": ">=3.9",
            "summary": "A simple framework for building complex web applications.",
            "extra_metadata": described("text/markdown", MARKDOWN, *about),
        }
        pypi.publish(wheel("flask", version, size=90_000 + 3000 * number, **metadata), uploaded=then)  # type: ignore[arg-type]
        pypi.publish(sdist("flask", version, size=600_000, **metadata), uploaded=then)  # type: ignore[arg-type]
    pypi.yank("flask", "2.3.1", "Broke session cookies; use 2.3.2.")
    six_metadata = {"extra_metadata": described("text/x-rst", RST), "summary": "Python 2 and 3 compatibility utilities"}
    pypi.publish(wheel("six", "1.17.0", **six_metadata), uploaded=now - timedelta(days=700))  # type: ignore[arg-type]
    for name in (
        "werkzeug",
        "jinja2",
        "itsdangerous",
        "click",
        "blinker",
        "markupsafe",
        "numpy",
        "flask-login",
        "pyflakes",
    ):
        pypi.publish(wheel(name, "3.1.2", size=40_000), uploaded=now - timedelta(days=40))
    for platform in ("manylinux_2_28_x86_64", "manylinux_2_28_aarch64", "macosx_14_0_arm64", "win_amd64"):
        pypi.publish(wheel("numpy", "2.3.1", tags=f"cp313-cp313-{platform}", size=70_000), uploaded=now)
    for version in ("3.0.9", "3.1.0", "3.1.16"):
        rack_metadata = {"homepage_uri": "https://rack.example", "changelog_uri": "https://rack.example/changes"}
        gems.push(
            gem("rack", version, development={"minitest": "~> 5.0"}, required_ruby=">= 2.4.0", metadata=rack_metadata),
            created=now - timedelta(days=60),
        )
    needs_of_sinatra = {"rack": [">= 3.0.0", "< 4"], "mustermann": "~> 3.0", "tilt": "~> 2.0"}
    gems.push(
        gem("sinatra", "4.1.1", dependencies=needs_of_sinatra, summary="Classy web development, dressed in a DSL")
    )
    for name in ("mustermann", "tilt", "nokogiri", "rake", "RubyInline"):
        gems.push(gem(name, "2.6.0", size=20_000))


async def use(mirror: Serving) -> None:
    """Install through the mirror, as clients do."""
    for name in ("flask", "six", "werkzeug", "jinja2", "click", "itsdangerous", "blinker"):
        await mirror.get(f"simple/{name}/")
        view = await mirror.mirror.repositories["pypi"].project(name)
        for file in view.project.files[-2:]:
            for _ in range(3):
                await mirror.get(f"packages/{name}/{file.filename}")
    await mirror.get("versions")
    for name, version in (("rack", "3.1.16"), ("sinatra", "4.1.1"), ("tilt", "2.6.0")):
        await mirror.get(f"info/{name}")
        await mirror.get(f"gems/{name}-{version}.gem")


async def month(mirror: Serving) -> None:
    """Record thirty days of figures."""
    hour = int(time.time() // 3600)
    for day in range(1, 30):
        busy = 1.0 + 0.35 * math.sin(day * 1.7) - (0.55 if day % 7 in (2, 3) else 0)
        hits = int(2400 * busy)
        await mirror.mirror.catalog.counters.add(
            {
                "requests.hit": hits,
                "requests.miss": int(hits * 0.06 + 200 / day),
                "bytes.hit": int(busy * 5.2e9),
                "bytes.miss": int(busy * 0.4e9 + 1.1e9 / (31 - day)),
            },
            hour - 24 * day,
        )


async def events(mirror: Serving) -> None:
    """Record what people did."""
    feed = mirror.mirror.journal
    source = mirror.mirror.repositories["pypi"].sources[0].name
    for kind, project, filename in (
        ("upload", "acme-tools", "acme_tools-1.0-py3-none-any.whl"),
        ("yank", "acme-tools", "acme_tools-1.0-py3-none-any.whl"),
    ):
        await feed.append(
            Event(serial=0, at=time.time() - 7200, source=source, project=project, kind=kind, filename=filename)
        )
