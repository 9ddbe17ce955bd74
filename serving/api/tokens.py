"""JSON Web Tokens (RFC 7519) of users: which are believed, and why others are not.

The algorithms are an explicit list, and each key belongs to one of them: HS256 to the secret that this installation
shares with whoever signs, the others to public keys of an identity provider. So neither `alg: none` nor a public key
used as an HMAC secret opens anything (RFC 8725).
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from feature_repo import validity
from recsys.errors import UsageError
from recsys.settings import Api, Settings
from serving.api import followed

SHARED = "HS256"
# Algorithm by type and curve of a public key, so that a key never serves another one.
PUBLIC = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
LATEST = 4_102_444_800  # 2100 in epoch seconds: what is beyond was written in milliseconds, and would be good for ever
SECRET_BYTES = 32  # RFC 7518, section 3.2: not shorter than the hash
Key = jwt.PyJWK | bytes

REASONS: Mapping[type[Exception], str] = {
    jwt.ExpiredSignatureError: "it has expired; get a new one",
    jwt.ImmatureSignatureError: "it is not valid yet; check the clock of its issuer",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is from another issuer",
    jwt.InvalidSignatureError: "its signature does not fit",
}


@dataclass(frozen=True)
class Grant:
    """What a believed token says: for which user it speaks, and what may be done."""

    user_id: str
    scopes: frozenset[str]


class Refused(Exception):
    """A token is not believed; the sentence says why and repeats nothing of it."""


class Tokens:
    """The keys by which tokens are believed; `rate` is the requests a second of one token's user.

    Raises:
        Permanent: a configured file cannot be used at start.
    """

    def __init__(self, api: Api) -> None:
        self._api, self.rate = api, api.user_rate
        self._secret = followed.File(Path(api.jwt_secret_file), _secret) if api.jwt_secret_file else None
        self._public = followed.File(Path(api.jwt_jwks_file), _public) if api.jwt_jwks_file else None
        checked = {"iss": api.jwt_issuer, "aud": api.jwt_audience}
        self._required = ["exp", "sub", *(claim for claim, wanted in checked.items() if wanted)]

    @property
    def configured(self) -> bool:
        return bool(self._secret or self._public)

    def read(self, token: str) -> Grant:
        """The grant of a token. Raises Refused."""
        try:
            algorithm, key = self._key(jwt.get_unverified_header(token))
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                # A token that names an audience where none is configured is refused too (RFC 7519, section 4.1.3).
                audience=self._api.jwt_audience or None,
                issuer=self._api.jwt_issuer or None,
                leeway=self._api.jwt_leeway_seconds,
                options={"require": self._required},
            )
        except (jwt.PyJWTError, ValueError, OverflowError, RecursionError) as error:
            raise Refused(_why(error)) from error
        if beyond := [name for name in ("exp", "iat", "nbf") if float(claims.get(name, 0)) > LATEST]:
            raise Refused(f"its {beyond[0]} is beyond the year 2100; times are in seconds, not milliseconds")
        user_id, scope = claims["sub"], claims.get("scope", "")
        if not validity.is_id(user_id):
            raise Refused("its sub is no user id of 1 to 200 characters")
        if not isinstance(scope, str):
            raise Refused("its scope must be names with spaces between them")
        return Grant(user_id, frozenset(scope.split()))

    def _key(self, header: dict[str, Any]) -> tuple[str, Key]:
        """The algorithm of a token and the one key of ours for it."""
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm == SHARED and self._secret:
            return SHARED, self._secret.value
        ours = self._public.value if self._public else []
        keys = [key for key in ours if key.algorithm_name == algorithm]
        if not keys:
            raise Refused("no key for its algorithm is known here")
        keys = [key for key in keys if kid in (None, key.key_id)]
        if len(keys) != 1:
            raise Refused("several keys fit; it needs a kid" if keys else "no key is known by its kid and algorithm")
        return keys[0].algorithm_name, keys[0]


def sign(settings: Settings, user_id: str, scopes: Sequence[str], minutes: float) -> str:
    """A token for one user, under the secret of this installation. Raises UsageError where there is none."""
    api = settings.api
    if not api.jwt_secret_file:
        how = "`openssl rand -hex 32 > FILE`, set RECSYS_API__JWT_SECRET_FILE=FILE and start the API anew"
        raise UsageError(f"there is no secret to sign tokens with; {how}")
    now = int(time.time())
    claims: dict[str, Any] = {"sub": user_id, "scope": " ".join(scopes), "iat": now, "exp": now + int(60 * minutes)}
    claims |= {name: value for name, value in (("iss", api.jwt_issuer), ("aud", api.jwt_audience)) if value}
    return jwt.encode(claims, followed.File(Path(api.jwt_secret_file), _secret).value, SHARED)


def _secret(data: bytes) -> bytes:
    secret = data.removesuffix(b"\n")
    if len(secret) < SECRET_BYTES:
        raise ValueError(
            f"a secret needs {SECRET_BYTES} bytes, this has {len(secret)}; `openssl rand -hex 32` makes one"
        )
    try:
        jwt.get_algorithm_by_name(SHARED).prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ValueError("this is a key pair's half and no secret; public keys go into the JWKS file") from None
    return secret


def _public(data: bytes) -> list[jwt.PyJWK]:
    """The keys of a JWKS (RFC 7517) that are of a kind of ours; a provider lists others beside them."""
    try:
        keys = [
            _public_key(entry, algorithm)
            for entry in json.loads(data)["keys"]
            if (algorithm := PUBLIC.get((entry["kty"], entry.get("crv"))))
            and entry.get("alg", algorithm) == algorithm
            and entry.get("use", "sig") == "sig"
        ]
    except (KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:  # the library's messages repeat the key
        raise ValueError(f"no JSON Web Key Set ({type(error).__name__}); RFC 7517 shows what one looks like") from None
    if not keys:
        raise ValueError(f"no key that signs with one of {', '.join(PUBLIC.values())}")
    return keys


def _public_key(entry: Mapping[str, Any], algorithm: str) -> jwt.PyJWK:
    if "d" in entry:
        raise ValueError("a private key; only public halves belong here")
    key = jwt.PyJWK(dict(entry), algorithm)
    if weak := key.Algorithm.check_key_length(key.key):
        raise ValueError(weak)
    return key


def _why(error: Exception) -> str:
    """A sentence of ours for an error of the library, whose own words may repeat the token."""
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"it lacks the claim {error.claim}"
    return next((said for kind, said in REASONS.items() if isinstance(error, kind)), "it is malformed")
