"""Rendering: templates that escape everything, and the few things that only they need."""

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse

from serving.api.demo import visitor
from serving.api.problems import Problem
from serving.api.reasons import leaf

HUES = 12  # tiles have so many colours; assets/demo.css names them
SYMBOLS = {"GBP": "£", "EUR": "€", "USD": "$"}


def money(item: Mapping[str, Any] | Any) -> str:
    """The price of an item as a shopper reads it; "" where it is unknown."""
    price, currency = (item["price"], item["currency"]) if isinstance(item, Mapping) else (item.price, item.currency)
    if price is None:
        return ""
    return f"{SYMBOLS[currency]}{price:,.2f}" if currency in SYMBOLS else f"{price:,.2f} {currency or ''}".rstrip()


def badge(user_id: str) -> str:
    """What stands for a visitor: the end of the id, because the ids of a shop often begin alike."""
    return user_id[-2:].upper() or "?"


def path(category: str) -> str:
    return category.replace(" > ", " › ")


def initial(title: str) -> str:
    """The first letter or figure of a title."""
    return next((letter.upper() for letter in title if letter.isalnum()), "·")


TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {"money": money, "initial": initial, "badge": badge, "path": path, "leaf": leaf}


def page(template: str, who: visitor.Visitor, status: int = 200, **context: Any) -> HTMLResponse:
    """A page that no browser keeps."""
    html = TEMPLATES.get_template(template).render(visitor=who, **context)
    return HTMLResponse(html, status, {"Cache-Control": "no-store"})


def problem(request: Request, error: Problem) -> HTMLResponse:
    """An error as a page, with the words of the API. One before the first release looks again by itself."""
    who, title = visitor.of(request), HTTPStatus(error.status).phrase
    early = error.kind == "no-release"
    answer = page("problem.html", who, error.status, title=title, detail=error.detail, early=early, cart=(), notice="")
    answer.headers.update(error.headers)
    return answer
