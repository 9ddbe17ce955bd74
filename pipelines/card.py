"""The model card of a run: what its models are, on what they were judged, and where they must not be trusted.

After Mitchell et al., "Model Cards for Model Reporting" (2019), in the parts that apply to a recommender.
"""

from collections.abc import Mapping
from typing import Any

Figures = Mapping[str, Mapping[str, float]]  # who is judged → figure → value

INTENDED = {
    "retrieval": "Two towers that embed users and items; they find a few hundred candidates among all items.",
    "index": "The item embeddings of these towers in a ScaNN index; it serves only together with its own user tower.",
    "ranker": "Probabilities of click, cart and purchase, and expected revenue in average purchases, for one visitor "
    "and the candidates that retrieval found.",
}
LIMITS = (
    "Judged offline, on what people did under the recommendations of that time: an item that was never shown could not "
    "be chosen, so figures favour what was popular then.",
    "Slices with few users are noisy; read the number of users beside each figure.",
    "Not for decisions about people (credit, work, health, prices); nothing here was tested for that.",
    "Stale after a day of new events; features older than their window are served as they are.",
)


def markdown(kind: str, results: Mapping[str, Mapping[str, Any]], facts: Mapping[str, str]) -> str:
    """The card of one model.

    Args:
        kind: retrieval, index or ranker.
        results: of the run's stages, by stage.
        facts: artifact version, digest, day, commit and such, as they are tagged.
    """
    sections = [f"# {kind} {facts.get('recsys.artifact_version', '')}", INTENDED[kind]]
    sections += [
        _section("Where it comes from", _pairs({name.removeprefix("recsys."): v for name, v in facts.items()}))
    ]
    sections += [_section("Data", _pairs(_data(results)))]
    sections += [_section(f"{title}, against baselines", table(t)) for title, t in comparisons(results).items() if t]
    if slices := _slices(results):
        sections.append(_section("Slices", slices))
    sections += [_section("Gates", _gates(results)), _section("Limits", "\n".join(f"- {line}" for line in LIMITS))]
    return "\n\n".join(sections) + "\n"


def comparisons(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Figures]:
    """The figures of the models and of every baseline on the same test, by gate: what two runs are compared by."""
    towers = results.get("evaluate_retrieval", {}).get("metrics", {})
    views = towers.get("views", {})
    ranks = results.get("evaluate_ranker", {}).get("metrics", {})
    return {
        "retrieval": _numbers(views.get(towers.get("view"), {})),
        "ranker": _numbers({name: v for name, v in ranks.items() if isinstance(v, Mapping) and "ndcg_10" in v}),
    }


def compared(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All figures by which two pipeline runs are compared, of those gates that have run.

    Those of retrieval are named after their view: which one counts may change from run to run.
    """
    metrics = {gate: result.get("metrics", {}) for gate, result in results.items()}
    towers = metrics.get("evaluate_retrieval", {})
    index = {n: v for n, v in metrics.get("validate_index", {}).items() if isinstance(v, int | float)}
    same = {"retrieval": towers.get("views", {}), "health": towers.get("health", {}), "index": index}
    return comparisons(results) | same


def table(figures: Figures) -> str:
    """A markdown table: one row per judged, one column per figure."""
    columns = list(dict.fromkeys(name for row in figures.values() for name in row))
    head = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    cells = {who: [f"{row[name]:.4g}" if name in row else "" for name in columns] for who, row in figures.items()}
    return "\n".join(head + [f"| {who} | " + " | ".join(row) + " |" for who, row in cells.items()])


def _numbers(raw: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        who: {name: float(v) for name, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        for who, row in raw.items()
        if isinstance(row, Mapping)
    }


def _data(results: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
    ingest = results.get("ingest", {})
    found = {name: ingest[name] for name in ("source", "fingerprint", "day", "rows", "event_types") if name in ingest}
    return found or {"": "taken from an earlier run"}


def _slices(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Recall of the retrieval gate by kind of user, with how many there are."""
    slices = results.get("evaluate_retrieval", {}).get("metrics", {}).get("slices", {})
    return (
        table({f"{name} ({s['users']} users)": _numbers({"": s["recall"]})[""] for name, s in slices.items()})
        if slices
        else ""
    )


def _gates(results: Mapping[str, Mapping[str, Any]]) -> str:
    gates = {name: result for name, result in results.items() if "passed" in result}
    lines = []
    for name, result in gates.items():
        lines.append(f"- **{name}**: {'passed' if result['passed'] else 'failed'}")
        lines += [f"    - {reason}" for reason in result.get("reasons", [])]
    return "\n".join(lines)


def _pairs(values: Mapping[str, object]) -> str:
    return "\n".join(f"- {name}: {value}" if name else f"- {value}" for name, value in values.items())


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}"
