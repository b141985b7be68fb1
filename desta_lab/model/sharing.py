"""A trained connector as a folder that anybody can open: its weights, parts by name, and card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from desta_lab import __version__, cache
from desta_lab.model import weights
from desta_lab.model.audio_llm import COMPARED, AudioLLM, ProvenanceError
from desta_lab.model.build import open_connector
from desta_lab.model.connector import OwnConnector
from desta_lab.model.presets import PARTS

CONFIG, CARD = "config.json", "README.md"
NEEDED = {"sha256": str, "attention": str, **dict.fromkeys(PARTS, dict)}  # of a config
LIBRARY = "desta-lab"

Card = Path | str | Mapping[str, Any]  # a `card.json` of the main job, or what it holds


def save_pretrained(llm: AudioLLM, folder: Path | str, card: Card | None = None) -> Path:
    """Write weights, config and model card into a folder, see `AudioLLM.save_pretrained`."""
    folder, config = Path(folder), make_config(llm)
    result = _read_card(card) if card is not None else llm.result
    config["sha256"] = llm.save_connector(folder / weights.WEIGHTS)
    _check_judged(result, config["sha256"])
    cache.write_whole(folder / CONFIG, cache.to_json(config))
    cache.write_whole(folder / CARD, render_card(config, result).encode())
    return folder


def open_pretrained(
    place: Path | str,
    revision: str | None = None,
    *,
    strict: bool = True,
    root: Path | None = None,
    connector: OwnConnector | None = None,
) -> AudioLLM:
    """Open what `save_pretrained` wrote, see `AudioLLM.from_pretrained`."""
    folder = weights.find_weights(place, root, revision=revision)
    config = weights.read_object(folder / CONFIG)
    path = folder / weights.WEIGHTS
    if config.get("library_name") != LIBRARY:
        remedy = "give a folder that AudioLLM.save_pretrained wrote"
        raise ProvenanceError(f"{folder / CONFIG}: no connector of DeSTA Lab; {remedy}.")
    config = weights.read_object(folder / CONFIG, NEEDED)
    revisions = {part: config[part].get("revision") for part in PARTS}
    if not all(isinstance(revision, str | None) for revision in revisions.values()):
        fault = f"{folder / CONFIG}: a revision is a commit on the hub or null"
        raise ProvenanceError(f"{fault}; get the folder again.")
    if cache.hash_file(path) != config["sha256"]:
        raise ProvenanceError(f"{path}: changed since it was saved; get the folder again.")
    how: Any = {"strict": strict, "revisions": revisions}
    llm = open_connector(path, root, config["attention"], connector, **how)
    llm.transcript = config.get("transcript") is True
    return llm


def push_to_hub(
    llm: AudioLLM, repo_id: str, card: Card | None = None, *, private: bool = False
) -> str:
    """Upload what `save_pretrained` writes to the model hub, see `AudioLLM.push_to_hub`."""
    from huggingface_hub import HfApi

    api = HfApi(library_name=LIBRARY, library_version=__version__)
    with TemporaryDirectory() as place:
        save_pretrained(llm, place, card)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=place, commit_message="A connector of DeSTA Lab."
            )
        except Exception as error:  # whatever the hub or the network does wrong
            first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise weights.WeightsError(
                f"{repo_id} could not be pushed to the model hub: {first}. Log in with `hf auth "
                "login`, or save the folder with save_pretrained and upload it by hand."
            ) from error
    return str(commit)


def make_config(llm: AudioLLM) -> dict[str, Any]:
    """What a connector was trained with: the repo, revision and hash of each part, never a path.

    Raises:
        ProvenanceError: the AudioLLM does not know its parts.
    """
    known = {**llm.names, **llm.provenance}
    if missing := [name for name in (*PARTS, *COMPARED) if name not in known]:
        raise ProvenanceError(
            f"This AudioLLM does not know its {missing[0]}, so nobody could put it together again; "
            "give names and provenance when it is built, or write its weights with save_connector."
        )
    parts = {
        part: {
            "repo": weights.repo_of(llm.names[part]),
            "revision": llm.revisions.get(part),
            "sha256": llm.provenance[f"{part}_sha256"],
        }
        for part in PARTS
    }
    shape = {name: llm.provenance[name] for name in ("taps", "seconds", "connector", "tuning")}
    if llm.transcript:
        shape["transcript"] = True
    about = {"library_name": LIBRARY, "desta_lab": __version__}
    return {**about, **parts, **shape, "attention": llm.provenance["attention"]}


# ---- the model card ----


def render_card(config: Mapping[str, Any], result: Mapping[str, Any] | None) -> str:
    """The README of a saved connector: what it needs, how it is loaded, how its run was judged."""
    from huggingface_hub import ModelCardData

    repos = [config[part]["repo"] for part in PARTS]
    about = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag="audio-text-to-text",
        base_model=[repo for repo in repos if "/" in repo],
        tags=["speech", "audio", "connector"],
    )
    parts = [{"part": part, **config[part]} for part in PARTS]
    own = config["connector"].get("class")  # somebody's own, which the package does not have
    given = f", connector={own.rpartition('.')[2]}" if own else ""
    heard = ", with_transcript=True" if config.get("transcript") else ""
    kind = f"a {own} of its author's own" if own else config["connector"]["kind"]
    return "\n".join(
        [
            f"---\n{about.to_yaml()}\n---\n",
            f"# A connector between {repos[0]} and {repos[1]}\n",
            "Both parts stay as they are published; this file holds what was trained between them "
            f"({kind}, tapped layers {config['taps']}, clips of "
            f"{config['seconds']:g} s, backbone {config['tuning']}).\n",
            *_format_rows(parts),
            "## Use\n",
            "```python\nfrom desta_lab import AudioLLM\n\n"
            f'llm = AudioLLM.from_pretrained("this folder, or its id on the hub"{given})\n'
            'user = {"role": "user", "content": "<|AUDIO|>\\nWhat do you hear?", '
            '"audios": [{"audio": "clip.wav"}]}\n'
            f"print(llm.generate([user]{heard}).text)\n```\n",
            "## Result\n",
            *_format_result(result),
        ]
    )


def _format_result(result: Mapping[str, Any] | None) -> list[str]:
    """The result card in Markdown: the verdict with its rule and reasons, and its tables."""
    if not result:
        return ["This connector was saved without the result card of its run.\n"]
    judged = result.get("verdict") or {}
    if not isinstance(judged, Mapping):  # a run's own verdict, not a whole card
        judged = result
    lines = [f"**{judged.get('verdict', 'NO VERDICT')}.** {judged.get('rule', '')}\n"]
    lines += [f"- {reason}" for reason in judged.get("reasons", [])]
    for name in ("rungs", "tasks"):
        if rows := result.get(name):
            lines += [f"\n### {name.capitalize()}\n", *_format_rows(rows)]
    return [*lines, *[f"- {note}" for note in result.get("notes") or []], ""]


def _format_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A Markdown table."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    body = [[_format_cell(row.get(column)) for column in columns] for row in rows]
    lines = [columns, ["---"] * len(columns), *body]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _format_cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _check_judged(result: Mapping[str, Any] | None, sha256: str) -> None:
    """Raise ProvenanceError for a card that names another connector as the one it judges."""
    hashes = (result or {}).get("hashes")
    judged = hashes.get("checkpoint self") if isinstance(hashes, Mapping) else None
    if judged not in (None, sha256):
        fault = f"The card is of connector {judged}, and this is {sha256}"
        raise ProvenanceError(f"{fault}; give the card.json of its own main job, or no card.")


def _read_card(card: Card) -> Mapping[str, Any]:
    remedy = "give the card.json of the main job"
    try:
        found = (
            cache.to_plain(card) if isinstance(card, Mapping) else weights.read_object(Path(card))
        )
    except weights.WeightsError as error:
        raise ProvenanceError(f"{card}: no readable result card ({error}); {remedy}.") from error
    for name, kind in {"rungs": dict, "tasks": dict, "notes": str, "reasons": str}.items():
        rows = found.get(name) or []
        if not (isinstance(rows, list) and all(isinstance(row, kind) for row in rows)):
            told = "the card" if isinstance(card, Mapping) else card
            raise ProvenanceError(f"{told}: its {name} are not those of a result card; {remedy}.")
    return found
