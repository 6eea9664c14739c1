"""Differences between personalities, as a client sees them."""

import time
from datetime import datetime

import pytest
from click.testing import CliRunner

from syncd.cli.emulator import emulator as command
from syncd.emulator import PERSONALITIES, personality


def uploaded(caller, count=3):
    return [caller.upload(f"a/{n}.txt").json()["file_uuid"] for n in range(count)]


def listed(caller, **query):
    page = caller.get("/v2/files", params=query).raise_for_status().json()
    return [item["file_uuid"] for item in page["items"]], page["count"]


@pytest.mark.parametrize("name", ["newest-first", "oldest-first", "unordered"])
def test_a_listing_has_the_order_of_the_personality(run, name):
    caller = run(personality=[name])
    made = uploaded(caller, 8)
    wanted = {"newest-first": made[::-1], "oldest-first": made, "unordered": sorted(made)}[name]
    assert listed(caller) == (wanted, 8)
    assert listed(caller, limit=3, offset=2)[0] == wanted[2:5]


def test_page_cap_shortens_a_page_and_page_refused_answers_422(run, tmp_path):
    capped, refusing = (
        run(personality=[name], page_limit=2, data=tmp_path / name)
        for name in ("page-cap", "page-refused")
    )
    for caller in (capped, refusing):
        uploaded(caller)
        assert len(listed(caller)[0]) == 2
    assert len(listed(capped, limit=3)[0]) == 2
    assert refusing.get("/v2/files", params={"limit": 3}).status_code == 422


def test_sizes_and_states_and_video_metadata_and_zones_can_be_withheld(run, clip):
    caller = run(personality=["no-sizes", "no-states", "no-video-metadata", "no-zone"])
    file_uuid = caller.upload("v.mp4", clip, "video/mp4").json()["file_uuid"]
    status = caller.processed(file_uuid)
    detail = caller.get(f"/v2/files/{file_uuid}").json()
    assert detail["file_size_bytes"] is None
    assert (status["processing_status"], detail["processing_status"]) == ("completed", None)
    assert detail["video_metadata"] is None
    for time_of in (detail["created_at"], detail["updated_at"], status["created_at"]):
        assert datetime.fromisoformat(time_of).tzinfo is None
    assert caller.get(f"/v2/files/{file_uuid}/frames").json()["frame_count"] == 24


@pytest.mark.parametrize("code", [204, 404])
def test_a_second_delete_is_answered_as_configured(run, code):
    caller = run(personality=[f"delete-{code}"])
    path = f"/v2/files/{uploaded(caller, 1)[0]}"
    assert caller.delete(path).status_code == 204
    first = caller.lines("objects")
    assert caller.delete(path).status_code == code
    assert caller.lines("objects") == first
    assert caller.get(path).status_code == 404


def test_head_is_refused_by_no_head(run):
    caller = run(personality=["no-head"])
    assert caller.head("/v2/files").status_code == 405
    assert caller.get("/v2/files").status_code == 200


def test_slow_list_delays_a_listing(run):
    caller = run(personality=["slow-list"], list_seconds=0.1)
    began = time.monotonic()
    listed(caller)
    assert time.monotonic() - began >= 0.1


def test_names_combine_and_traits_override_them():
    for names in (("stranger", "newest-first"), ("newest-first", "stranger")):
        chosen = personality(*names, echo="path")
        assert (chosen.order, chosen.echo, chosen.tells_sizes) == ("newest", "path", False)
    assert {personality(name) for name in PERSONALITIES}


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path):
    words = ["--data", str(tmp_path / "data"), "--personality", "strange"]
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 2
    assert "unknown personality: strange" in result.output
    assert "oldest-first" in result.output


@pytest.mark.parametrize(
    "words",
    [
        ["--personality", "whole-path", "--personality", "no-echo"],
        ["--personality", "page-cap", "--personality", "page-refused"],
        ["--personality", "whole-path", "--echo", "none"],
    ],
)
def test_personalities_that_contradict_each_other_are_refused(tmp_path, words):
    result = CliRunner().invoke(command, ["--data", str(tmp_path / "data"), *words])
    assert result.exit_code == 2
    assert "contradict each other" in result.output


def test_the_help_lists_the_personalities():
    # A narrow terminal breaks names at their hyphens.
    told = CliRunner().invoke(command, ["--help"], terminal_width=1000, max_content_width=1000)
    told = " ".join(told.output.split())
    assert ", ".join(PERSONALITIES) in told
    assert "Repeat the option for several" in told
