"""THE configuration: one frozen object per process, read once in main by `load()`.

Every field can be set by an environment variable, `RECSYS_<GROUP>__<FIELD>`; an unknown variable with that
prefix is an error. Nothing else in the code base reads the environment.
"""

import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from recsys.errors import Permanent

PREFIX = "RECSYS_"
REPOSITORY = Path(__file__).resolve().parent.parent
WORKSPACES = REPOSITORY / "var"  # one folder per shop, and `current`, a link to the one in use

Role = Literal["retrieval", "ranking"]
Colour = Literal["blue", "green"]
ROLES: tuple[Role, ...] = ("retrieval", "ranking")
COLOURS: tuple[Colour, ...] = ("blue", "green")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
Origin = Annotated[str, Field(pattern=r"^https?://[^/*\s]+$")]  # as browsers send it: no path, no wildcard

# What libraries read from the environment when they are imported, and offer no other way to say.
LIBRARIES = {
    "TF_USE_LEGACY_KERAS": "1",  # TensorFlow Recommenders needs Keras 2
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds; with two retries a dead server is known within a minute
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # a stage's standard output is its result
}

# Prefixes of what tunes linear algebra and its threads. Child processes get these variables, so that they compute with
# the kernels of the process that started them: a seeded training follows the last digit.
TUNING = ("OPENBLAS_", "GOTO_", "OMP_", "KMP_", "MKL_", "BLIS_", "NUMEXPR_", "VECLIB_", "ONEDNN_", "DNNL_", "TF_")
NOT_TUNING = ("TF_CONFIG",)  # names a worker of a cluster; it is for the process that it was given to


def current_workspace() -> Path:
    """The folder of the shop in use; that of the simulated shop until somebody chooses another."""
    link = WORKSPACES / "current"
    return link.resolve() if link.is_symlink() else WORKSPACES / "simulator"


def choose_workspace(name: str) -> None:
    """Point `current` to a workspace, in one step; it is made if there is none of that name."""
    (WORKSPACES / name).mkdir(parents=True, exist_ok=True)
    work = WORKSPACES / f".current-{os.getpid()}"
    work.unlink(missing_ok=True)
    work.symlink_to(name)
    work.replace(WORKSPACES / "current")


class Group(BaseModel):
    """One topic of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Network(Group):
    """Where the local platform listens. All ports are counted from one base, so that two platforms can run
    beside each other on one machine."""

    host: str = Field("127.0.0.1", description="address to bind; loopback unless somebody decides otherwise")
    base_port: int = Field(8100, ge=1024, le=65000, description="first of 30 consecutive ports")

    @property
    def api(self) -> int:
        return self.base_port

    @property
    def mlflow(self) -> int:
        return self.base_port + 1

    @property
    def airflow(self) -> int:
        return self.base_port + 2

    @property
    def redis(self) -> int:
        return self.base_port + 3

    @property
    def airflow_worker_logs(self) -> int:
        return self.base_port + 4

    @property
    def airflow_trigger_logs(self) -> int:
        return self.base_port + 5

    def predictor(self, role: Role, colour: Colour, protocol: Literal["rest", "grpc"]) -> int:
        """The port of one predictor process; each (role, colour) has a REST and a gRPC port."""
        slot = 4 * ROLES.index(role) + 2 * COLOURS.index(colour) + (protocol == "grpc")
        return self.base_port + 10 + slot


class Storage(Group):
    """Where data, models and releases are kept."""

    root: str = Field(
        default_factory=lambda: str(current_workspace()),
        description="folder that holds everything durable; default: the workspace that `recsys use` chose",
    )


class Spark(Group):
    """The batch engine."""

    master: str = Field("local[*]", description="Spark master URL")
    driver_memory: str = Field("3g", description="JVM heap; spills to disk beyond it")
    shuffle_partitions: int = Field(8, ge=1, description="4 per core: enough to balance, few enough to start fast")


class Services(Group):
    """Where the other processes are. Empty means: on this machine, at the port that `network` says."""

    redis_url: str = Field("", description="redis:// URL of the online store")
    mlflow_url: str = Field("", description="MLflow tracking server")
    api_url: str = Field("", description="recommendation API")
    airflow_url: str = Field("", description="Airflow API server")


class Api(Group):
    """The recommendation and event API. Deadlines are milliseconds and add up to the 100 ms promise."""

    keys_file: str = Field("", description="JSON file of API keys and scopes; empty: <storage root>/run/api_keys.json")
    surfaces_file: str = Field(
        "",
        description="YAML that changes or adds surfaces; empty: <storage root>/config/surfaces.yaml, if there is one",
    )
    demo: Literal["loopback", "on", "off"] = Field(
        "loopback",
        description="the storefront at /demo, which acts under the key in run/demo_key for whoever opens it. loopback: "
        "only while `network.host` is loopback, for requests to a loopback host; on: wherever the API listens, so put "
        "what asks people who they are before it; off: never",
    )
    retrieval_deadline_ms: int = Field(50, gt=0, description="features 20 + retrieval 30")
    ranking_deadline_ms: int = Field(50, gt=0, description="one forward pass over all candidates")
    rerank_deadline_ms: int = Field(10, gt=0, description="rules in numpy")
    online_deadline_ms: int = Field(30, gt=0, description="watched set and lists; runs beside retrieval")
    quality_minimum: float = Field(
        0.2, gt=0, le=1, description="while models are slow, pages ask for this share of candidates at least; 1: all"
    )
    quality_delay_seconds: float = Field(10, ge=0, description="after a start, slowness does not count for so long")
    candidates: int = Field(
        500,
        ge=20,
        le=3000,
        description="as the ranker learns and is tried; what a surface asks for is in surfaces.yaml",
    )
    max_count: int = Field(100, ge=1, description="most items one page may ask for")
    slate: int = Field(100, ge=20, description="most items of all pages of one request")
    page_seconds: int = Field(600, gt=0, description="how long a cursor is valid")
    explain_seconds: int = Field(600, gt=0, description="so long one may ask why, or why not, an item was on a page")
    explain_deadline_ms: int = Field(
        500, gt=0, description="the record of a page, and ranking it again; no shopper waits for it"
    )
    guarantee: int = Field(1000, ge=1, description="visitors that each new item is shown to before it has to compete")
    list_seconds: float = Field(30, gt=0, description="trending lists are this fresh; they are written every 30 min")
    duplicate_seconds: int = Field(7 * 86_400, gt=0, description="an event_id is known again for so long")
    clock_skew_seconds: int = Field(300, ge=0, description="an event may be this far in the future")
    max_batch: int = Field(1000, ge=1, description="most events one POST may carry")
    max_body_bytes: int = Field(4 * 1024 * 1024, gt=0, description="largest request body")
    jwt_secret_file: str = Field(
        "", description="file of the secret that signs users' tokens with HS256, 32 bytes or more; empty: no HS256"
    )
    jwt_jwks_file: str = Field(
        "", description="JWKS of those who sign users' tokens with RS256, ES256 or EdDSA; empty: none of these"
    )
    jwt_issuer: str = Field("", description="the only `iss` that is believed; empty: not looked at")
    jwt_audience: str = Field("", description="the `aud` that a token must name; empty: a token may name none")
    jwt_leeway_seconds: int = Field(10, ge=0, le=120, description="clocks may differ so much: NTP keeps well below")
    key_rate: float = Field(
        0,
        ge=0,
        description="requests a second of an API key without a `rate` in the keys file; 0: no limit, because a key is "
        "the shop's own service, or the local demo, and a limit that nobody chose fails on the busiest day",
    )
    user_rate: float = Field(
        10,
        ge=0,
        description="requests a second of one user's token; 0: no limit. A token is in the hands of the public, and "
        "a page of the shop asks twice or so",
    )
    burst_seconds: float = Field(5, gt=0, description="requests of so many seconds may come at once after a pause")
    cors_origins: tuple[Origin, ...] = Field(
        (), description='origins whose pages may read answers, such as ["https://shop.example"]; empty: no CORS'
    )


class Bus(Group):
    """The event bus: what the API has received, and what it has answered."""

    retention_days: int = Field(
        7,
        ge=1,
        description="days that a closed segment stays, like the Kafka topics of production: an event_id is known again "
        "for as long, and who replays traffic wants recent one; events are in the lake before their segment goes",
    )


class CustomEvent(Group):
    """An event type of a shop's own, about an item."""

    weight: float = Field(gt=0, le=100, description="how much it says; a view weighs 1, a purchase and a dislike 4")
    polarity: Literal["positive", "negative"] = Field(description="whether it speaks for the item or against it")


class Events(Group):
    """What visitors do."""

    custom: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")], CustomEvent] = Field(
        {},
        max_length=32,
        description="event types beside the built-in ones, by name: lower-case letters, digits and _; such as "
        '{"play_trailer": {"weight": 0.5, "polarity": "positive"}}. Set it for all processes alike, and before the '
        "first such event: the API refuses a type that it does not know",
    )


class Changes(Group):
    """Changes of the catalogue between two releases."""

    poll: float = Field(
        5,
        gt=0,
        description="seconds between two looks at the online store for changed items, in each process that serves; a "
        "look that finds nothing costs Redis some microseconds",
    )


class Dismissals(Group):
    """How long a shopper's no keeps its target away. What is like it is dampened besides, see `models.factors`."""

    skip_days: float = Field(
        7, ge=0, le=28, description="a skip may mean not now: the item may come again in another week"
    )
    remove_from_cart_days: float = Field(
        1,
        ge=0,
        le=28,
        description="what was put out of the cart is not offered again in the same visit; it was wanted once, and may "
        "be wanted again",
    )
    dislike_days: float = Field(180, ge=0, le=365, description="a dislike is meant; tastes last for seasons")
    return_days: float = Field(
        180, ge=0, le=365, description="returns and refunds: the shopper had the item, and does not want that one"
    )
    unsubscribe_days: float = Field(
        365, ge=0, le=365, description="a category or brand; who still means it after a year says so again"
    )


class Predictors(Group):
    """The model servers of retrieval and ranking."""

    threads: int = Field(2, ge=1, description="requests worked on at once by one process; one per core")
    tensorflow_threads: int = Field(1, ge=1, description="cores one forward pass may use; more only adds hand-overs")
    item_refresh: float = Field(300, gt=0, description="seconds between two readings of item features from the store")
    blend: dict[str, float] = Field(
        {}, description="weight of click, cart, purchase and revenue, in place of the ranker's own; empty: its own"
    )


class Deploy(Group):
    """Blue-green deployment. Seconds unless the name says otherwise."""

    start_timeout: float = Field(180, gt=0, description="a predictor that is not ready by then has failed")
    shadow_requests: int = Field(200, ge=0, description="recent requests replayed against both colours")
    max_p99_ms: float = Field(100, gt=0, description="latency gate on the candidate's predictors together")
    bake: float = Field(10, ge=0, description="watch the new colour this long before the old one is let go")


class Settings(BaseSettings):
    """Everything that may differ between two installations."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid")

    seed: int = Field(20240229, description="the one seed; every random stream derives from it")
    network: Network = Network()
    storage: Storage = Field(default_factory=Storage)  # looks at the workspace in use when it is read
    spark: Spark = Spark()
    services: Services = Services()
    api: Api = Api()
    bus: Bus = Bus()
    events: Events = Events()
    changes: Changes = Changes()
    dismissals: Dismissals = Dismissals()
    predictors: Predictors = Predictors()
    deploy: Deploy = Deploy()
    airflow_password: SecretStr = Field(
        SecretStr(""), description="empty: generated at first start, kept in run/ of the storage"
    )

    @property
    def redis_url(self) -> str:
        return self.services.redis_url or f"redis://{self.network.host}:{self.network.redis}/0"

    @property
    def mlflow_url(self) -> str:
        return self.services.mlflow_url or f"http://{self.network.host}:{self.network.mlflow}"

    @property
    def api_url(self) -> str:
        return self.services.api_url or f"http://{self.network.host}:{self.network.api}"

    @property
    def demo_url(self) -> str:
        """The storefront; "" where there is none."""
        shown = self.api.demo == "on" or (self.api.demo == "loopback" and self.network.host in LOOPBACK)
        return f"{self.api_url}/demo" if shown else ""

    @property
    def airflow_url(self) -> str:
        return self.services.airflow_url or f"http://{self.network.host}:{self.network.airflow}"

    def predictor_address(self, role: Role, colour: Colour, protocol: Literal["rest", "grpc"] = "grpc") -> str:
        """`host:port` of one predictor."""
        return f"{self.network.host}:{self.network.predictor(role, colour, protocol)}"


def airflow_passwords_file(settings: Settings) -> Path:
    """JSON of Airflow's users and their passwords; written with mode 0600 by whoever starts Airflow."""
    return Path(settings.storage.root).resolve() / "run" / "airflow_passwords.json"


def airflow_password(settings: Settings) -> str:
    """The password of Airflow's user "admin": the one that is set, or the one generated at first start.

    Raises:
        Permanent: neither exists.
    """
    if given := settings.airflow_password.get_secret_value():
        return given
    path = airflow_passwords_file(settings)
    try:
        return str(json.loads(path.read_text())["admin"])
    except FileNotFoundError:
        raise Permanent(f"Airflow was never started here, so it has no password ({path}); `recsys up`") from None


def environment(settings: Settings) -> dict[str, str]:
    """The RECSYS_* variables that make a child process load the same settings."""
    ours = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    pinned = {
        f"{PREFIX}SEED": str(settings.seed),
        f"{PREFIX}STORAGE__ROOT": settings.storage.root,
        f"{PREFIX}NETWORK__HOST": settings.network.host,
        f"{PREFIX}NETWORK__BASE_PORT": str(settings.network.base_port),
    }
    return ours | pinned


def child_environment(settings: Settings, **extra: str) -> dict[str, str]:
    """An allow-list for child processes: what programs need to run at all, what tunes linear algebra (TUNING), our
    settings, and nothing secret of the parent (Airflow tasks, for one, can see its JWT secret and Fernet key)."""
    passed = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "JAVA_HOME", "SSL_CERT_FILE", "TERM")
    system = {name: os.environ[name] for name in passed if name in os.environ}
    tuning = {name: v for name, v in os.environ.items() if name.startswith(TUNING) and name not in NOT_TUNING}
    return system | LIBRARIES | tuning | {"PYTHONUNBUFFERED": "1"} | environment(settings) | extra


def _unknown_variables() -> list[str]:
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            known |= {f"{PREFIX}{name}__{inner}".upper() for inner in field.annotation.model_fields}
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name.upper() not in known)


def load() -> Settings:
    """Read the settings from the environment.

    Also sets what LIBRARIES must find in the environment before they are imported; this is the one place that
    does.

    Raises:
        Permanent: a variable is unknown or has a value that its field refuses.
    """
    for name, value in LIBRARIES.items():
        os.environ.setdefault(name, value)
    if unknown := _unknown_variables():
        known = ", ".join(sorted(Settings.model_fields))
        raise Permanent(f"unknown setting {unknown[0]}; the groups are {known} (see recsys/settings.py)")
    try:
        return Settings()
    except ValidationError as error:
        raise Permanent(f"settings refused: {error}") from error
    except SettingsError as error:
        raise Permanent(f"settings refused: {error}; what is no plain value is written as JSON") from error
