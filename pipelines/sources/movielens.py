"""MovieLens in every layout that GroupLens and RecBole publish: ratings as events of type `rate`.

    ml-100k (original)   u.data, u.item, u.user
    ml-100k (atomic)     <name>.inter, <name>.item, <name>.user, tab-separated with typed headers
    ml-1m, ml-10m        ratings.dat, movies.dat, users.dat (10M has no users), separated by ::
    ml-20m, 25m, 32m     ratings.csv, movies.csv

One rating is one event with the stars as its value, whatever the stars: that somebody watched a film is the stronger
signal, published comparisons count every rating, and a second event (a like for four stars) would teach a sequence
model to repeat the last film. The first genre is the category, all genres are tags. The atomic files print genres
with blanks between them, so that "Children's" stays whole but "Film-Noir" has no blank to lose. A day of a user's
ratings is a session. Ages become bands; American zip codes say the region; occupations have no place in the schema.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.events import EVENTS, ITEMS, USERS, EventType
from pipelines.sources import clock, coercion, files, source
from recsys.errors import BadData

log = logging.getLogger(__name__)

RATING = ("user", "item", "stars", "time")
NUMBERS = {"stars": pa.float64(), "time": pa.float64()}
BANDS = ((18, "under 18"), (25, "18-24"), (35, "25-34"), (45, "35-44"), (55, "45-54"), (65, "55-64"), (200, "65+"))
NO_GENRE = {"(no genres listed)", "unknown", ""}
_GENRES = """
unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical Mystery
Romance Sci-Fi Thriller War Western
"""
ORIGINAL_GENRES = tuple(_GENRES.split())


@dataclass(frozen=True)
class Film:
    item_id: str
    title: str
    year: str
    genres: list[str]


@dataclass(frozen=True)
class Viewer:
    user_id: str
    age: int | None
    zip_code: str


@dataclass(frozen=True)
class Layout:
    """Where a layout keeps what.

    Attributes:
        ratings, films, viewers: files; viewers is None where nothing is known of them.
        delimiter: of the ratings file.
        header: whether the ratings file has one.
        columns: names given to its columns, those of RATING for the four that count.
    """

    name: str
    ratings: Path
    films: Path
    viewers: Path | None
    delimiter: str
    header: tuple[str, ...] | None
    columns: tuple[str, ...]


def layout(path: Path) -> Layout:
    """Recognise a folder. Raises BadData that says what was looked for."""
    files.require(path)
    if inter := sorted(path.glob("*.inter")):
        stem = inter[0].with_suffix("")
        header = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
        viewers = stem.with_suffix(".user")
        films = stem.with_suffix(".item")
        return Layout("atomic", inter[0], films, viewers if viewers.exists() else None, "\t", header, RATING)
    if (path / "u.data").exists():
        return Layout("original", path / "u.data", path / "u.item", path / "u.user", "\t", None, RATING)
    if (path / "ratings.dat").exists():
        viewers = path / "users.dat"
        # Arrow knows one-letter delimiters only: between two colons there is an empty column.
        columns = ("user", "_1", "item", "_2", "stars", "_3", "time")
        known = viewers if viewers.exists() else None
        return Layout("colons", path / "ratings.dat", path / "movies.dat", known, ":", None, columns)
    if (path / "ratings.csv").exists():
        header = ("userId", "movieId", "rating", "timestamp")
        return Layout("csv", path / "ratings.csv", path / "movies.csv", None, ",", header, RATING)
    raise BadData(f"{path} is no MovieLens folder: expected *.inter, u.data, ratings.dat or ratings.csv in it")


class MovieLens:
    """See `source.Source`.

    Args:
        path: folder of one of the layouts.
    """

    def __init__(self, path: Path) -> None:
        self.layout = layout(path)
        self.dropped: Counter[str] = Counter()

    def files(self) -> list[Path]:
        found = (self.layout.ratings, self.layout.films, self.layout.viewers)
        return [path for path in found if path is not None]

    def times(self) -> Iterator[Any]:
        return (rows.column("time") for rows in self._ratings())

    def last(self) -> datetime:
        return clock.Days.read(self.times()).last(f"{self.layout.ratings} has no ratings")

    def events(self, since: datetime, until: datetime) -> Iterator[pa.RecordBatch]:
        self.dropped.clear()
        known = pa.array([viewer.user_id for viewer in self._viewers], pa.string())
        regions = pa.array([_region(viewer.zip_code) for viewer in self._viewers], pa.string())
        for rows in self._ratings(self.dropped):
            user, item, time = rows.column("user"), rows.column("item"), rows.column("time")
            day = pc.strftime(time, format="%Y%m%d")
            columns = {
                "event_id": pc.binary_join_element_wise("ml", user, item, "-"),
                "user_id": user,
                "session_id": pc.binary_join_element_wise(user, day, "-"),
                "item_id": item,
                "event": pa.array([str(EventType.RATE)] * rows.num_rows),
                "value": rows.column("stars"),
                "region": regions.take(pc.index_in(user, known)),
                "event_time": time,
            }
            yield source.within(source.conform(EVENTS, columns, rows.num_rows), since, until)

    def items(self, until: datetime) -> Iterator[pa.RecordBatch]:
        films = {film.item_id: film for film in _films(self.layout)}
        first = self._first("item", until)
        found = [(films[item_id], time) for item_id, time in _pairs(first) if item_id in films]
        if strangers := first.num_rows - len(found):
            log.warning("%d rated films are not in %s", strangers, self.layout.films)
        columns: dict[str, Any] = {
            "item_id": [film.item_id for film, _ in found],
            "title": [f"{film.title} ({film.year})" if film.year else film.title for film, _ in found],
            "description": [_description(film) for film, _ in found],
            "category": [film.genres[0] if film.genres else "Other" for film, _ in found],
            "tags": [film.genres for film, _ in found],
            "created_at": [time for _, time in found],
            "available": [True] * len(found),
        }
        yield source.conform(ITEMS, columns, len(found))

    def users(self, until: datetime) -> Iterator[pa.RecordBatch]:
        first = self._first("user", until)
        viewers = {viewer.user_id: viewer for viewer in self._viewers}
        unknown = Viewer("", None, "")
        found = [(user_id, time, viewers.get(user_id, unknown)) for user_id, time in _pairs(first)]
        columns: dict[str, Any] = {
            "user_id": [user_id for user_id, _, _ in found],
            "region": [_region(viewer.zip_code) for _, _, viewer in found],
            "age_group": [_band(viewer.age) for _, _, viewer in found],
            "signup_date": [time for _, time, _ in found],
        }
        yield source.conform(USERS, columns, len(found))

    @cached_property
    def _viewers(self) -> list[Viewer]:
        return _viewers(self.layout)

    def _first(self, column: str, until: datetime) -> pa.Table:
        earliest = source.Earliest()
        for rows in self._ratings():
            past = rows.filter(pc.less(rows.column("time"), pa.scalar(until, source.TIME)))
            earliest.add(past.column(column), past.column("time"))
        return earliest.sorted()

    def _ratings(self, dropped: Counter[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Columns RATING; ratings without stars or time are left out and counted."""
        where = self.layout
        if where.header is not None:
            found = files.csv_columns(where.ratings, where.delimiter)
            files.check_columns(where.ratings, found, where.header, where.header)
        names = where.columns
        if where.header is not None:
            names = tuple(RATING[where.header.index(name)] for name in found)
        batches = files.csv(
            where.ratings,
            NUMBERS,
            delimiter=where.delimiter,
            names=names,
            include=RATING,
            skip=1 if where.header else 0,
        )
        for batch in batches:
            for place, name in enumerate(batch.schema.names):
                if name in ("user", "item"):
                    batch = batch.set_column(place, name, coercion.ids(batch.column(name)))
            rows = batch.drop_null()
            if dropped is not None:
                dropped["incomplete_rating"] += batch.num_rows - rows.num_rows
            seconds = rows.column("time").cast(pa.int64())
            time = seconds.cast(pa.timestamp("s")).cast(pa.timestamp("us")).cast(source.TIME)
            yield pa.record_batch([rows.column("user"), rows.column("item"), rows.column("stars"), time], names=RATING)


def _pairs(first: pa.Table) -> Iterator[tuple[str, datetime]]:
    yield from zip(first.column("id").to_pylist(), first.column("time").to_pylist(), strict=True)


def _lines(path: Path, encoding: str) -> list[str]:
    with files.reading(path):
        return files.require(path).read_text(encoding).splitlines()


def _films(where: Layout) -> list[Film]:
    match where.name:
        case "atomic":
            return [_atomic(line.split("\t"), where.films) for line in _lines(where.films, "utf-8")[1:]]
        case "original":
            return [_original(line.split("|"), where.films) for line in _lines(where.films, "latin-1") if line]
        case "colons":
            return [_titled(line.split("::"), where.films) for line in _lines(where.films, "latin-1") if line]
        case _:
            rows = (row for batch in files.csv(where.films, {}) for row in batch.to_pylist())
            return [
                _titled([row.get(name) or "" for name in ("movieId", "title", "genres")], where.films) for row in rows
            ]


def _parts(cells: list[str], count: int, path: Path) -> list[str]:
    if len(cells) != count:
        raise BadData(f"{path}: expected {count} columns, got {len(cells)} in {cells[:4]}")
    return [cell.strip() for cell in cells]


def _atomic(cells: list[str], path: Path) -> Film:
    item_id, title, year, genres = _parts(cells, 4, path)
    return Film(item_id, _article_first(title), year, _genres(genres.split()))


def _original(cells: list[str], path: Path) -> Film:
    item_id, title, *rest = _parts(cells, 5 + len(ORIGINAL_GENRES), path)
    flags = rest[3:]
    genres = [genre for genre, flag in zip(ORIGINAL_GENRES, flags, strict=True) if flag == "1"]
    name, year = _year(title)
    return Film(item_id, name, year, _genres(genres))


def _titled(cells: list[str], path: Path) -> Film:
    item_id, title, genres = _parts(cells, 3, path)
    name, year = _year(title)
    return Film(item_id, name, year, _genres(genres.split("|")))


def _year(title: str) -> tuple[str, str]:
    """ "Toy Story (1995)" is ("Toy Story", "1995")."""
    found = re.fullmatch(r"(.*?)\s*\((\d{4})\)", title)
    return (_article_first(found[1]), found[2]) if found else (_article_first(title), "")


def _article_first(title: str) -> str:
    """ "Net, The" is "The Net"."""
    return re.sub(r"^(.*), (The|A|An|Les|La|Le|L'|Il|Das|Der|Die)( \(.*\))?$", r"\2 \1\3", title)


def _genres(names: list[str]) -> list[str]:
    return [name for name in names if name not in NO_GENRE]


def _description(film: Film) -> str:
    kinds = ", ".join(film.genres) or "Film"
    return f"{kinds}, {film.year}" if film.year else kinds


def _viewers(where: Layout) -> list[Viewer]:
    if where.viewers is None:
        return []
    lines = [line for line in _lines(where.viewers, "latin-1") if line]
    match where.name:
        case "atomic":
            cells = [_parts(line.split("\t"), 5, where.viewers) for line in lines[1:]]
            return [Viewer(row[0], _age(row[1]), row[4]) for row in cells]
        case "original":
            cells = [_parts(line.split("|"), 5, where.viewers) for line in lines]
            return [Viewer(row[0], _age(row[1]), row[4]) for row in cells]
        case _:
            cells = [_parts(line.split("::"), 5, where.viewers) for line in lines]
            return [Viewer(row[0], _age(row[2]), row[4]) for row in cells]


def _age(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _band(age: int | None) -> str | None:
    """The age band; 1M gives the lower end of its own bands, which fall into these."""
    return None if age is None else next(name for limit, name in BANDS if age < limit)


def _region(zip_code: str) -> str | None:
    """US for American zip codes, CA for Canadian ones, else unknown."""
    if re.match(r"\d{5}", zip_code):
        return "US"
    return "CA" if re.match(r"[A-Z]\d[A-Z]", zip_code) else None
