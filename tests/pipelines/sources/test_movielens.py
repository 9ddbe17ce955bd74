"""MovieLens: four layouts of the same three ratings give the same canonical tables."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from pipelines import sources
from pipelines.sources.movielens import ORIGINAL_GENRES, MovieLens
from recsys.errors import BadData
from recsys.settings import Settings

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "ml-100k"
RATINGS = [("7", "1", 5, 881250949), ("7", "2", 3, 881250950), ("9", "1", 1, 881350000)]


def _rows(separator: str) -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in RATINGS)


def _atomic(folder: Path) -> None:
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "ml.inter").write_text(header + _rows("\t"))
    items = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    films = "1\tToy Story\t1995\tAnimation Children's Comedy\n2\tNet, The\t1995\tSci-Fi Thriller\n"
    (folder / "ml.item").write_text(items + films)
    users = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    (folder / "ml.user").write_text(users + "7\t24\tM\ttechnician\t85711\n9\t53\tF\tother\tT8H1N\n")


def _original(folder: Path) -> None:
    (folder / "u.data").write_text(_rows("\t"))

    def film(number: str, title: str, *genres: str) -> str:
        flags = "|".join("1" if genre in genres else "0" for genre in ORIGINAL_GENRES)
        return f"{number}|{title}|01-Jan-1995||http://imdb/|{flags}\n"

    text = film("1", "Toy Story (1995)", "Animation", "Children's", "Comedy")
    text += film("2", "Net, The (1995)", "Sci-Fi", "Thriller")
    (folder / "u.item").write_text(text, encoding="latin-1")
    (folder / "u.user").write_text("7|24|M|technician|85711\n9|53|F|other|T8H1N\n")


def _colons(folder: Path) -> None:
    (folder / "ratings.dat").write_text(_rows("::"))
    films = "1::Toy Story (1995)::Animation|Children's|Comedy\n2::Net, The (1995)::Sci-Fi|Thriller\n"
    (folder / "movies.dat").write_text(films, encoding="latin-1")
    (folder / "users.dat").write_text("7::M::18::12::85711\n9::F::50::0::T8H1N\n")


def _csv(folder: Path) -> None:
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + _rows(","))
    films = (
        'movieId,title,genres\n1,Toy Story (1995),Animation|Children\'s|Comedy\n2,"Net, The (1995)",Sci-Fi|Thriller\n'
    )
    (folder / "movies.csv").write_text(films)


def _events(source: MovieLens, until: datetime = sources.END) -> pd.DataFrame:
    return pd.concat([batch.to_pandas() for batch in source.events(sources.BEGINNING, until)], ignore_index=True)


@pytest.mark.parametrize("write", [_atomic, _original, _colons, _csv])
def test_every_layout_gives_the_same_tables(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)
    source = MovieLens(tmp_path)
    events = _events(source)
    assert events["event_id"].tolist() == ["ml-7-1", "ml-7-2", "ml-9-1"]
    assert events["event"].tolist() == ["rate"] * 3
    assert events["value"].tolist() == [5.0, 3.0, 1.0]
    assert events["session_id"].tolist() == ["7-19971204", "7-19971204", "9-19971205"]
    assert events["event_time"][0] == datetime(1997, 12, 4, 15, 55, 49, tzinfo=UTC)
    items = next(iter(source.items(sources.END))).to_pandas()
    assert items["title"].tolist() == ["Toy Story (1995)", "The Net (1995)"]
    assert items["category"].tolist() == ["Animation", "Sci-Fi"]
    assert items["tags"].map(list).tolist() == [["Animation", "Children's", "Comedy"], ["Sci-Fi", "Thriller"]]
    assert items["created_at"][1] == datetime(1997, 12, 4, 15, 55, 50, tzinfo=UTC)
    users = next(iter(source.users(sources.END))).to_pandas()
    assert users["user_id"].tolist() == ["7", "9"]
    if write is not _csv:
        assert users["age_group"].tolist() == ["18-24", "45-54"]
        assert users["region"].tolist() == ["US", "CA"]
        assert events["region"].tolist() == ["US", "US", "CA"]
    assert source.last() == events["event_time"].max()


def test_the_snapshot_knows_nothing_of_later_days(tmp_path: Path) -> None:
    _atomic(tmp_path)
    source = MovieLens(tmp_path)
    until = datetime(1997, 12, 5, tzinfo=UTC)
    assert len(_events(source, until)) == 2
    assert next(iter(source.users(until))).column("user_id").to_pylist() == ["7"]


def test_a_rating_without_stars_is_counted(tmp_path: Path) -> None:
    _csv(tmp_path)
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n7,1,NaN,881250949\n7,2,3,881250950\n")
    source = MovieLens(tmp_path)
    assert _events(source)["item_id"].tolist() == ["2"]
    assert source.dropped == {"incomplete_rating": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("userId,movieId,stars,timestamp\n7,1,5,1\n", r"missing columns \['rating'\], unknown columns \['stars'\]"),
        ("userId,movieId,rating,timestamp\n7,1,good,1\n", "ratings.csv cannot be read.*good"),
        ("userId,movieId,rating,timestamp\n7,1,5\n", "ratings.csv cannot be read.*3"),
    ],
)
def test_bad_ratings_are_named(tmp_path: Path, content: str, message: str) -> None:
    _csv(tmp_path)
    (tmp_path / "ratings.csv").write_text(content)
    with pytest.raises(BadData, match=message):
        _events(MovieLens(tmp_path))


def test_a_folder_without_ratings_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no MovieLens folder"):
        MovieLens(tmp_path)
    with pytest.raises(BadData, match="does not exist"):
        MovieLens(tmp_path / "nowhere")


def test_a_missing_film_file_is_named(tmp_path: Path) -> None:
    _csv(tmp_path)
    (tmp_path / "movies.csv").unlink()
    with pytest.raises(BadData, match=r"movies\.csv does not exist"):
        list(MovieLens(tmp_path).items(sources.END))


@pytest.mark.skipif(not REAL.exists(), reason="ml-100k is not beside the repository (../shared/data)")
def test_the_real_files_are_read_whole(settings: Settings) -> None:
    facts = sources.describe(f"movielens:{REAL}", settings)
    assert (facts["rows"], facts["users"], facts["items"]) == (100_000, 943, 1_682)
    assert (facts["first_day"], facts["last_day"]) == ("1997-09-20", "1998-04-22")
