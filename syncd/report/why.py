"""The report of `why` on a path: which file is meant, its state, and what would help."""

import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from syncd.config.loading import Config, FolderSettings
from syncd.exceptions import UnreadableError
from syncd.log import printable
from syncd.report.folder_paths import FolderPath, KnownFolder
from syncd.state import holds, stories, texts
from syncd.state.database.store import Transaction
from syncd.state.ledger import QUARANTINE_CRASHES
from syncd.state.manifest import Word
from syncd.units import span
from syncd.watch.ignore import Rules, RuleVerdict
from syncd.watch_folders import watch_folder

JsonObject = dict[str, Any]

_EXPLANATIONS = {
    Word.SETTLING: "It changed a moment ago; it is sent once it has been quiet for a while.",
    Word.QUEUED: "Its content waits to be read or sent.",
    Word.UPLOADING: "It is being sent, or was sent and its arrival is being looked up.",
    Word.PROCESSING: "It is stored, and the service still works on it.",
    Word.SYNCED: "Its newest content is stored at the service.",
    Word.FAILED: "It could not be synced.",
    Word.DELETING: "It is gone here; its remote copy is deleted when its grace is over.",
    Word.DELETED: "It is gone here, and its remote copy was deleted.",
    Word.HELD: "It waits, because something is held.",
    Word.IGNORED: "It is not synced, because a rule excludes it.",
}

_MEND_RULES = "mend that file of rules or remove it; it is read again at the next scan"
_CHANGE_RULES = "change the rule that is named, or rename it"


_AWAY = {
    holds.ROOT_MISSING: "Its folder, or a disk within it, is not there",
    holds.ROOT_REPLACED: "Another folder or disk is in the place of its own",
}
_OF_VERDICTS = {
    "kept": "It is gone here; its remote copy is kept, and no longer mirrored.",
    "approved": "It is gone here, and its remote deletion was approved.",
    "forgotten": "As you or a rule decided, it is left alone until it changes.",
}


def tell(
    candidates: Sequence[FolderPath], config: Config, db: Transaction | None, *, running: bool
) -> JsonObject | None:
    """Return the story of the first candidate that is known, or there; None if none is."""
    for place in candidates:
        if db is not None and (story := of_file(place, config, db, running=running)):
            return story
    for place in candidates:
        if os.path.lexists(place.absolute):
            return _unknown(place, config, running=running)
    for place in candidates:
        if db is not None and (moved := _moved(stories.past(db, place.folder, place.path))):
            return _bare(place) | {
                "explanation": f"It is gone here. {moved}",
                "advice": ["ask for the story of its new path"],
            }
    return None


def of_file(
    place: FolderPath, config: Config, db: Transaction, *, running: bool
) -> JsonObject | None:
    """Return the story of a file that the table knows; None if it knows none."""
    story = stories.story(db, place.folder, place.path)
    return _known(story, place, config, running=running) if story else None


def whole(folder: KnownFolder) -> JsonObject:
    """Return the story of a watch folder's own path."""
    return _bare(FolderPath(folder.name, folder.root, b".")) | {
        "explanation": "It is a watch folder.",
        "advice": ["syncd status", f"syncd ls {texts.argument(os.fsencode(folder.name))}"],
    }


def several(given: str, *, found: bool) -> JsonObject:
    """Return the story of a pattern, or of a directory above folders."""
    return outside(Path(given), ()) | {
        "explanation": "It means several files." if found else "No file that syncd knows is meant.",
        "advice": [] if found else ["check it; `syncd ls` lists what is known"],
    }


def missing(place: FolderPath) -> JsonObject:
    """Return the story of a path within a folder that is neither known nor there."""
    return _bare(place) | {
        "explanation": "There is no such file, and there was none that syncd knew.",
        "advice": ["check the name; `syncd ls` lists what is known"],
    }


def outside(path: Path, known: Sequence[KnownFolder]) -> JsonObject:
    """Return the story of a path that lies in no watch folder."""
    watched = [printable(folder.root) for folder in known]
    return {
        "folder": None,
        **texts.path_members(os.fsencode(path)),
        "status": None,
        "root": None,
        "rule": "",
        "explanation": "It is in no watch folder.",
        "advice": [f"watched: {', '.join(watched)}" if watched else "no folder is watched yet"],
    }


def _known(story: JsonObject, place: FolderPath, config: Config, *, running: bool) -> JsonObject:
    word = Word(story["status"])
    explanation = _EXPLANATIONS[word]
    if word is Word.HELD:
        explanation = _held(story) or explanation
    if word is Word.DELETED and not any(copy["file_uuid"] for copy in story["copies"]):
        explanation = "It is gone here, and nothing of it was ever stored remotely."
    if word is not Word.SYNCED:
        explanation = _OF_VERDICTS.get(story["file"]["verdict"] or "", explanation)
    if story["file"]["status"] == "consumed":
        explanation = "It was taken away here once it was live; its remote copy stays."
    if any(copy["in_doubt"] for copy in story["copies"]):
        explanation += " An upload got no answer: whether it arrived is looked up first."
    if any(copy["confirming"] for copy in story["copies"]):
        explanation += " Its bytes were sent; the service is asked whether it holds them."
    if (crashes := story["file"]["crashes"]) >= QUARANTINE_CRASHES:
        explanation += (
            f" syncd ended abruptly {crashes} times in a row while it was being sent: it is left "
            "alone for an hour each time."
        )
    if word in (Word.DELETING, Word.DELETED) and (moved := _moved(story["history"])):
        explanation += f" {moved}"
    if word is Word.SETTLING:
        explanation = _settling(story["file"]) or explanation
    if word is Word.IGNORED and story["file"]["error"]:
        explanation = f"It is not synced: {story['file']['error']}."
    if word is Word.QUEUED and story["file_uuid"]:
        explanation += " Its previous content is still live."
    if word is Word.FAILED and story["file_uuid"]:
        explanation += " Its previous content stays live."
    if away := stories.out_of_sight(story):
        explanation += f" {_AWAY[away]} ({away}): what is told of the disk is what was last seen."
    return story | {
        "root": texts.shown(place.root),
        "rule": rule(place, config),
        "explanation": explanation,
        "advice": list(_advice(word, story, place, config, running=running)),
    }


def _held(story: JsonObject) -> str:
    """Say which holds a held file waits for; empty if none is known."""
    is_missing, of_file = story["file"]["status"] == "missing", story["file"]["hold_id"]
    stopping = ("deletions" if is_missing else "sending", "folder")
    codes = [
        stories.code_of(hold)
        for hold in story["holds"]
        if hold["id"] == of_file
        or (hold["stops"] in stopping and stories.code_of(hold) not in holds.NAMING_FILES)
    ]
    return f"It waits for the end of a hold: {', '.join(codes)}." if codes else ""


def _moved(history: Sequence[JsonObject]) -> str:
    """Say of a path that holds nothing more where its file was moved to; empty if it was not."""
    for line in reversed(history):
        if line["event"] == "moved" and line["detail"].startswith("to "):
            return f"Its copy {line['file_uuid']} went with its content {line['detail']}."
        if line["event"] not in ("missing", "deleted"):
            break
    return ""


def _settling(file: JsonObject) -> str:
    """Say of a file that is still being written how long that has been so."""
    if file["settling_since"] is None:
        return ""
    since = datetime.fromisoformat(file["settling_since"]).timestamp()
    for_long = f" for {span(time.time() - since)}" if time.time() - since > 60 else ""
    if file["is_open"]:
        return (
            f"It has been open for writing{for_long}, and is sent once it is closed and has been "
            "quiet for a while."
        )
    if not for_long:
        return ""
    return f"It has been changing{for_long}; it is sent once it has been quiet for a while."


def _advice(
    word: Word, story: JsonObject, place: FolderPath, config: Config, *, running: bool
) -> Iterator[str]:
    pending = (Word.SETTLING, Word.QUEUED, Word.UPLOADING, Word.PROCESSING, Word.DELETING)
    if word in pending and not running:
        yield "start the daemon (syncd run), or make one pass (syncd once)"
    if word is Word.FAILED:
        last = story["copies"][-1] if story["copies"] else {}
        is_unreadable = story["file"]["status"] == "unreadable"
        if is_unreadable and _unusable_rules(place, config):
            yield _MEND_RULES
        else:
            yield from of_failure(place, last.get("processing_status"), is_unreadable=is_unreadable)
    elif story["next_attempt_at"] and story["attempts"] and word is not Word.HELD:
        yield f"syncd retry {texts.argument(place.absolute)} (tries it now)"
    if story["file"]["verdict"] == "kept" and story["file"]["hold_id"]:
        yield f"syncd deletes approve {story['file']['hold_id']} (deletes it after all)"
    elif word is Word.IGNORED and not (story["file"]["verdict"] or story["file"]["is_skipped"]):
        yield _CHANGE_RULES
    for hold in story["holds"] if word is Word.HELD or stories.out_of_sight(story) else ():
        yield from hold["commands"]


def of_failure(
    place: FolderPath, processing_status: str | None, *, is_unreadable: bool
) -> Iterator[str]:
    """Yield what helps a file that failed; it needs no look at the disk."""
    if is_unreadable:
        yield (
            f"make it readable for user {os.getuid()} or the one that syncd runs as; it is "
            "looked at again by itself"
        )
        return
    if processing_status == "failed":
        yield "replace it by a video that plays; new content is sent as a new copy"
    else:
        yield "the service refused it for good; it is tried again when its content changes"
    yield f"syncd retry {texts.argument(place.absolute)} (sends it once more as it is)"


def _unknown(place: FolderPath, config: Config, *, running: bool) -> JsonObject:
    """Tell of a path that is there, and of which the table has no row."""
    mode = os.lstat(place.absolute).st_mode
    story = _bare(place) | {"rule": rule(place, config, is_dir=stat.S_ISDIR(mode))}
    if unusable := _unusable_rules(place, config):
        return story | {
            "status": Word.FAILED,
            "explanation": f"It is not synced, nor is anything beside it: {unusable}.",
            "advice": [_MEND_RULES],
        }
    if _verdict(place, config, is_dir=stat.S_ISDIR(mode)).excluded:
        return story | {
            "status": Word.IGNORED,
            "explanation": _EXPLANATIONS[Word.IGNORED],
            "advice": [_CHANGE_RULES],
        }
    if stat.S_ISDIR(mode):
        return story | {
            "explanation": "It is a directory; only files are synced.",
            "advice": [f"syncd ls {texts.argument(os.fsencode(place.folder))}"],
        }
    if not stat.S_ISREG(mode):
        return story | {
            "status": Word.IGNORED,
            "explanation": "It is no regular file; links, devices and pipes are not synced.",
            "advice": [],
        }
    settings = _settings(place, config)
    rescan = f" within {settings.rescan_seconds:g} s" if settings else ""
    return story | {
        "explanation": "It is there, and has not been noticed yet.",
        "advice": [f"the next scan finds it{rescan}"]
        if running
        else ["start the daemon (syncd run), or make one pass (syncd once)"],
    }


def rule(place: FolderPath, config: Config, *, is_dir: bool = False) -> str:
    """Return the rule that decides on a path, in words; empty if none does."""
    verdict = _verdict(place, config, is_dir=is_dir)
    if verdict.place is None or not config.folders_source:
        return verdict.rule
    return f"{verdict.rule} ({_where(*verdict.place, place.folder, config)})"


def _where(setting: str, index: int, folder: str, config: Config) -> str:
    """Say where a pattern of the configuration stands: by its line, where one alone has it."""
    source = config.folders_source
    settings = next(known for known in config.folders if known.name == folder)
    pattern = getattr(settings, setting)[index]
    quoted = (json.dumps(pattern, ensure_ascii=False), f"'{pattern}'")
    try:
        text = "" if config.file is None else config.file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    having = [
        number
        for number, line in enumerate(text.split("\n"), start=1)
        if any(words in line for words in quoted)
    ]
    if source == str(config.file) and len(having) == 1:
        return f"{source} line {having[0]}"
    return f"number {index + 1} of folder {folder} in {source}"


def _unusable_rules(place: FolderPath, config: Config) -> str:
    """Return why the rules that bear on a path cannot be told; empty when they can."""
    settings = _settings(place, config) or FolderSettings(path=Path(os.fsdecode(place.root)))
    try:
        rules_of(settings).verdict(place.path, is_dir=False)
    except UnreadableError as error:
        return printable(str(error))
    return ""


def _verdict(place: FolderPath, config: Config, *, is_dir: bool) -> RuleVerdict:
    # A folder that came with the command line (`syncd run DIR`) has the rules of every folder.
    settings = _settings(place, config) or FolderSettings(path=Path(os.fsdecode(place.root)))
    rules = rules_of(settings)
    try:
        verdict = rules.verdict(place.path, is_dir=is_dir)
    except UnreadableError as error:
        return RuleVerdict(excluded=False, rule=str(error))
    if verdict.excluded or is_dir:
        return verdict
    try:
        size = rules.of_size(os.lstat(place.absolute).st_size)
    except OSError:
        return verdict
    return size if size.excluded else verdict


def _settings(place: FolderPath, config: Config) -> FolderSettings | None:
    return next((folder for folder in config.folders if folder.name == place.folder), None)


def rules_of(folder: FolderSettings) -> Rules:
    """Return the rules by which a folder's files are in or out."""
    return Rules(watch_folder(folder))


def _bare(place: FolderPath) -> JsonObject:
    return {
        "folder": place.folder,
        **texts.path_members(place.path),
        "status": None,
        "root": texts.shown(place.root),
        "rule": "",
    }
