"""Users' tokens: which are believed, and whose data they open."""

import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from recsys.errors import Permanent, UsageError
from recsys.settings import Api, Settings
from serving.api import auth, followed, tokens

SECRET = "0123456789abcdef" * 2
EVENT = {"session_id": "s", "item_id": "i5", "event": "view", "event_time": "2024-02-29T12:00:00Z"}
KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def claims(**changes: Any) -> dict[str, Any]:
    """ann's, for ten minutes, with both scopes; a change to None takes a claim out."""
    made = {
        "sub": "ann",
        "exp": time.time() + 600,
        "scope": f"{auth.READ} {auth.WRITE}",
        "iss": "shop",
        "aud": "recsys",
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers={"kid": kid} if kid else None)


def jwks(*names: str, **more: Any) -> str:
    """The public halves of KEYS, their names their kids."""
    found = [jwt.get_algorithm_by_name(name).to_jwk(KEYS[name].public_key(), as_dict=True) for name in names]
    return json.dumps({"keys": [key | {"kid": name} | more for key, name in zip(found, names, strict=True)]})


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setattr(followed, "RECHECK_SECONDS", 0.0)
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "jwks").write_text(jwks(*KEYS))
    files = {"jwt_secret_file": str(tmp_path / "secret"), "jwt_jwks_file": str(tmp_path / "jwks")}
    return Api(jwt_issuer="shop", jwt_audience="recsys", **files)


@pytest.mark.parametrize("algorithm", ["HS256", *KEYS])
def test_each_algorithm_of_the_list_is_believed(api: Api, algorithm: str) -> None:
    signed = token(KEYS.get(algorithm, SECRET), algorithm, None if algorithm == "HS256" else algorithm)
    assert tokens.Tokens(api).read(signed) == tokens.Grant("ann", frozenset([auth.READ, auth.WRITE]))


PEM = (
    KEYS["RS256"].public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
)


def forged() -> str:
    """HS256 with the public key as the secret, which the library itself refuses to sign."""
    parts = [jwt.utils.base64url_encode(json.dumps(p).encode()) for p in ({"alg": "HS256", "typ": "JWT"}, claims())]
    signed = b".".join(parts)
    digest = jwt.get_algorithm_by_name("HS256").sign(signed, PEM)
    return (signed + b"." + jwt.utils.base64url_encode(digest)).decode()


# Made when their test runs: a suite takes longer than they are good.
REFUSED: list[tuple[Callable[[], str], str]] = [
    (forged, "signature does not fit"),
    (lambda: token("", "none"), "no key for its algorithm"),
    (lambda: token(SECRET * 2, "HS512"), "no key for its algorithm"),
    (lambda: token("f" * 32), "signature does not fit"),
    (lambda: token(KEYS["RS256"], "RS256", "ES256"), "no key is known by its kid"),
    (lambda: token(KEYS["RS256"], "RS512"), "no key for its algorithm"),
    (lambda: token(exp=time.time() - 60), "has expired"),
    (lambda: token(nbf=time.time() + 60), "not valid yet"),
    (lambda: token(exp=1000 * (time.time() + 60)), "exp is beyond the year 2100; times are in seconds"),
    (lambda: token(exp=None), "lacks the claim exp"),
    (lambda: token(sub=None), "lacks the claim sub"),
    (lambda: token(aud=None), "lacks the claim aud"),
    (lambda: token(iss=None), "lacks the claim iss"),
    (lambda: token(aud="elsewhere"), "another audience"),
    (lambda: token(iss="elsewhere"), "another issuer"),
    (lambda: token(sub=""), "no user id"),
    (lambda: token(sub="a\nb"), "no user id"),
    (lambda: token(sub="\ud800"), "no user id"),
    (lambda: token(scope=[auth.READ]), "names with spaces"),
    (lambda: token(exp=float("inf")), "malformed"),
    (lambda: token()[:-1] + "!", "malformed"),
    (lambda: jwt.utils.base64url_encode(b"[" * 100_000).decode() + ".e30.e30", "malformed"),
    (lambda: "a.b.c", "malformed"),
    (lambda: "a", "malformed"),
    (lambda: "é", "malformed"),
]


@pytest.mark.parametrize(("made", "why"), REFUSED, ids=[f"{n}-{why}" for n, (_, why) in enumerate(REFUSED)])
def test_what_is_wrong_with_a_token_is_said(api: Api, made: Callable[[], str], why: str) -> None:
    with pytest.raises(tokens.Refused, match=why):
        tokens.Tokens(api).read(made())


@limits(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.integers(2, 1000), letter=st.sampled_from("AQgw_-.x"))
def test_no_changed_token_is_believed(api: Api, place: int, letter: str) -> None:
    good = token()
    place = -2 - place % (len(good) - 1)  # not the last letter, whose lowest bits say nothing
    changed = good[:place] + letter + good[place + 1 :]
    assume(changed != good)
    with pytest.raises(tokens.Refused):
        tokens.Tokens(api).read(changed)


def test_without_a_kid_the_one_key_that_fits_is_taken_and_two_are_too_many(api: Api) -> None:
    signed = token(KEYS["RS256"], "RS256")
    believing = tokens.Tokens(api)
    assert believing.read(signed).user_id == "ann"
    twice = json.loads(jwks("RS256"))["keys"] * 2
    Path(api.jwt_jwks_file).write_text(json.dumps({"keys": twice}))
    with pytest.raises(tokens.Refused, match="needs a kid"):
        believing.read(signed)


def test_a_new_secret_and_new_keys_are_seen_without_a_restart(api: Api) -> None:
    believing = tokens.Tokens(api)
    Path(api.jwt_secret_file).write_text("f" * 32)
    Path(api.jwt_jwks_file).write_text(jwks("ES256"))
    assert believing.read(token("f" * 32)).user_id == "ann"
    for old in (token(), token(KEYS["RS256"], "RS256", "RS256")):
        with pytest.raises(tokens.Refused):
            believing.read(old)
    Path(api.jwt_secret_file).write_text("short")  # is logged, and the last one stays
    assert believing.read(token("f" * 32)).user_id == "ann"


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("jwt_secret_file", "short", "needs 32 bytes, this has 5"),
        ("jwt_secret_file", PEM.decode(), "into the JWKS file"),
        ("jwt_jwks_file", "{", "Expecting property name"),
        ("jwt_jwks_file", '{"keys": [{"kty": "RSA"}]}', "no JSON Web Key Set"),
        ("jwt_jwks_file", '{"keys": [{"kty": "oct", "k": "MDEyMw"}]}', "no key that signs"),
        ("jwt_jwks_file", jwks("RS256", use="enc"), "no key that signs"),
        ("jwt_jwks_file", jwks("RS256", d="AQAB"), "a private key"),
    ],
)
def test_files_that_cannot_be_used_stop_a_start(api: Api, file: str, text: str, why: str) -> None:
    Path(getattr(api, file)).write_text(text)
    with pytest.raises(Permanent, match=why):
        tokens.Tokens(api)


def test_the_command_line_signs_what_the_api_believes(api: Api, settings: Settings) -> None:
    signed = tokens.sign(settings.model_copy(update={"api": api}), "ann", [auth.READ], 5)
    assert tokens.Tokens(api).read(signed) == tokens.Grant("ann", frozenset([auth.READ]))
    with pytest.raises(UsageError, match="RECSYS_API__JWT_SECRET_FILE"):
        tokens.sign(settings, "ann", [auth.READ], 5)


@pytest.fixture
async def world(online_settings: Settings, api: Api, shop: Any) -> AsyncIterator[Any]:
    """A shop that believes tokens."""
    update = {name: getattr(api, name) for name in api.model_fields_set}
    patient = shop.patient(online_settings)
    settings = patient.model_copy(update={"api": patient.api.model_copy(update=update)})
    shop.publish(settings)
    shop.fill(settings.redis_url)
    async with shop.running(settings) as made:
        yield made


def bearer(**changes: Any) -> dict[str, str]:
    return {"X-API-Key": "", "Authorization": f"Bearer {token(**changes)}"}


@pytest.mark.services
@pytest.mark.usefixtures("nothing_to_explore")
async def test_a_token_opens_the_pages_of_its_own_user(world: Any) -> None:
    expected = (await world.page(user_id="ann", count=5))["items"]
    assert (await world.page(count=5, headers=bearer()))["items"] == expected  # whose else
    assert (await world.page(user_id="ann", count=5, headers=bearer()))["items"] == expected
    answer = await world.get(user_id="bob", headers=bearer())
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:recsys:problem:other-user")
    assert "leave it out, or use an API key" in answer.json()["detail"]


@pytest.mark.services
async def test_a_cursor_of_one_user_is_no_way_to_another(world: Any) -> None:
    cursor = (await world.page(user_id="bob", count=5))["cursor"]
    assert (await world.get(count=5, cursor=cursor, headers=bearer())).status_code == 400
    mine = (await world.page(count=5, headers=bearer()))["cursor"]
    assert (await world.page(count=5, cursor=mine, headers=bearer()))["items"]


@pytest.mark.services
@pytest.mark.parametrize(("whose", "status"), [({"user_id": "ann"}, 200), ({"user_id": "bob"}, 403), ({}, 403)])
async def test_a_token_has_the_pages_of_its_own_user_explained(world: Any, whose: dict[str, str], status: int) -> None:
    page = await world.page(count=5, session_id="visit", **whose)
    item_id = page["items"][0]["item_id"]
    for path in (f"explain/{page['request_id']}?item_id={item_id}", f"replay/{page['request_id']}"):
        answer = await world.http.get(f"/api/v1/{path}", headers=bearer())
        assert answer.status_code == status, (path, answer.text)


@pytest.mark.services
async def test_a_token_writes_events_of_its_own_user(world: Any) -> None:
    async def post(body: Any) -> Any:
        return await world.http.post("/api/v1/events", json=body, headers=bearer())

    mine, nobodys = EVENT | {"event_id": "e1", "user_id": "ann"}, EVENT | {"event_id": "e2"}
    assert (await post({"events": [mine, nobodys]})).json()["accepted"] == 2
    known = await world.http.post("/api/v1/events", json=nobodys | {"user_id": "ann"})
    assert known.json()["duplicates"] == 1  # it was written in ann's name
    others = [EVENT | {"event_id": f"e{n}", "user_id": user} for n, user in ((3, "ann"), (4, "bob"), (5, "eve"))]
    answer = await post({"events": others})
    assert answer.status_code == 403
    assert [place["pointer"] for place in answer.json()["errors"]] == ["#/events/1/user_id", "#/events/2/user_id"]
    assert (await post(others[1])).json()["errors"][0]["pointer"] == "#/user_id"
    assert await world.metric('recsys_api_events_total{outcome="accepted"}') == 2


@pytest.mark.services
@pytest.mark.parametrize(
    ("changes", "status", "challenge"),
    [
        ({"scope": auth.WRITE}, 403, None),
        ({"scope": ""}, 403, None),
        ({"exp": 0}, 401, "the token is not accepted: it has expired; get a new one"),
        ({"aud": "elsewhere"}, 401, "the token is not accepted: it is for another audience"),
        ({"key": "f" * 32}, 401, "the token is not accepted: its signature does not fit"),
        ({"key": "", "algorithm": "none"}, 401, "the token is not accepted: no key for its algorithm is known here"),
    ],
)
async def test_a_refused_token_is_told_why(
    world: Any, changes: dict[str, Any], status: int, challenge: str | None
) -> None:
    answer = await world.get(headers=bearer(**changes))
    assert answer.status_code == status
    expected = challenge and f'Bearer realm="recsys", error="invalid_token", error_description="{challenge}"'
    assert answer.headers.get("WWW-Authenticate") == expected


@pytest.mark.services
async def test_where_no_tokens_are_configured_none_opens_anything(online_settings: Settings, shop: Any) -> None:
    async with shop.running(online_settings) as world:
        assert (await world.get(headers=bearer())).json()["type"] == "urn:recsys:problem:unknown-key"


@pytest.mark.services
@pytest.mark.parametrize("path", ["/api/v1/explain/{}?item_id=i4", "/api/v1/replay/{}"])
async def test_the_record_of_a_page_is_for_its_own_user(world: Any, path: str) -> None:
    page = await world.page(user_id="ann", count=5)
    for user, status in (("ann", 200), ("bob", 403)):
        answer = await world.http.get(path.format(page["request_id"]), headers=bearer(sub=user))
        assert answer.status_code == status, answer.text
