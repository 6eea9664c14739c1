"""A new ledger beside another instance's objects asks whose they are before anything is sent."""

import os
from hashlib import sha256

import pytest

from syncd.files_api import ForbiddenError, RateLimitedError, ServerError, UploadSource
from syncd.repair.adopt import Adopter, AdoptError
from syncd.state import folders, holds, predecessor, tokens
from syncd.state.planner import Policy
from syncd.workers.organization_check import OrganizationCheck
from syncd.workers.predecessor import SCAN_SECONDS, PredecessorCheck
from syncd.workers.search import Search

OTHER = "0badcafe"
FILES = 24


def content(number):
    return b"content %d" % number


@pytest.fixture
def beside(shop, tmp_path):
    """Return a shop whose folder has files of which another instance sent some."""

    def send(numbers, *, instance=OTHER, folder="f", name="{}.txt"):
        for number in numbers:
            path, data = name.format(number), content(number)
            digest = tokens.place_digest(folder, path.encode())
            token = f"sy2-{instance}-{digest}-{sha256(data).hexdigest()[:12]}-{number:012x}-" + (
                "ab" * 10
            )
            source = tmp_path / "sent"
            source.write_bytes(data)
            with source.open("rb") as opened:
                shop.client.upload(
                    UploadSource(fd=opened.fileno(), size=len(data)),
                    name=f"{path.removesuffix('.txt')}.{token}.txt",
                    content_type="text/plain",
                )

    for number in range(FILES):
        shop.drop(f"{number}.txt", content(number))
    shop.send_as_other = send
    scanned(shop)
    return shop


def scanned(shop):
    path = os.fsencode(shop.root)
    shop.store.write(lambda db: folders.note(db, "f", path, shop.now))
    shop.store.write(lambda db: folders.note_scan(db, "f", at=shop.now, seconds=0.1, directories=1))


def parts(shop, *, on_new="hold", policy=None, client=None):
    """Return the check of a start, and what adopts."""
    client = client or shop.client
    organization_check = OrganizationCheck(
        store=shop.store, client=client, gate=shop.gate, mark="mark", clock=shop.clock
    )
    adopter = Adopter(
        store=shop.store,
        ledger=shop.ledger,
        client=client,
        organization_check=organization_check,
        policies=shop.policies,
        roots={"f": os.fsencode(shop.root)},
        clock=shop.clock,
    )
    check = PredecessorCheck(
        store=shop.store,
        gate=shop.gate,
        search=Search(
            store=shop.store, client=client, organization_check=organization_check, clock=shop.clock
        ),
        policies={"f": policy or Policy()},
        on_new=on_new,
        adopt=lambda instance: list(adopter.adopt(instance=instance)),
        hashed=adopter.hashed,
        clock=shop.clock,
    )
    return check, adopter


def sent(shop):
    return sum(request["method"] in ("POST", "PUT") for request in shop.ask("requests"))


@pytest.mark.row(27)
def test_nothing_is_sent_before_somebody_says_whose_files_they_are(beside):
    beside.send_as_other(range(FILES))
    before = sent(beside)
    check, adopter = parts(beside)
    beside.upload()
    assert sent(beside) == before, "the gate is shut until the listing was read"
    check.step()
    beside.upload()
    assert sent(beside) == before
    (hold,) = beside.store.read(holds.open_holds)
    assert hold.reason == "other_instance"
    assert f"syncd adopt --instance {OTHER}" in hold.commands
    with pytest.raises(AdoptError, match="--new"):
        list(adopter.adopt())
    assert beside.holds() == [("sending", "other_instance")]


@pytest.mark.row(27)
def test_adopting_the_instance_takes_its_objects_up_and_sends_nothing(beside):
    beside.send_as_other(range(FILES))
    before = sent(beside)
    check, adopter = parts(beside)
    check.step()
    *_, result = adopter.adopt(instance=OTHER)
    assert result["live"] == FILES
    assert beside.holds() == []
    for _ in range(3):
        beside.upload()
        beside.poller.step()
    assert sent(beside) == before
    beside.drop("more.txt", b"more")
    beside.upload()
    assert beside.copy("more.txt").token.startswith(f"sy2-{OTHER}-")


@pytest.mark.row(27)
def test_a_new_instance_sends_everything_and_is_not_asked_again(beside):
    beside.send_as_other(range(FILES))
    check, adopter = parts(beside)
    check.step()
    adopter.begin_anew()
    assert beside.holds() == []
    again, _ = parts(beside)
    assert again.is_over
    beside.upload()
    assert len(beside.live()) == 2 * FILES
    with pytest.raises(AdoptError, match="not new"):
        adopter.begin_anew()


@pytest.mark.parametrize("on_new", [pytest.param("new", marks=pytest.mark.long), "adopt"])
def test_a_setting_decides_in_advance(beside, on_new):
    beside.send_as_other(range(FILES))
    check, _ = parts(beside, on_new=on_new)
    check.step()
    assert beside.holds() == []
    assert beside.store.instance == (OTHER if on_new == "adopt" else beside.ledger.instance)
    for _ in range(2):
        beside.upload()
        beside.poller.step()
    assert len(beside.live()) == (FILES if on_new == "adopt" else 2 * FILES)


@pytest.mark.long
def test_a_setting_that_comes_later_ends_the_hold(beside):
    beside.send_as_other(range(FILES))
    parts(beside)[0].step()
    parts(beside, on_new="new")[0].step()
    assert beside.holds() == []


@pytest.mark.parametrize(
    ("numbers", "more", "policy"),
    [
        (range(19), {}, None),
        (range(FILES), {}, Policy(any_root=True)),
    ],
    ids=["too few", "a scratch volume"],
)
def test_what_does_not_match_holds_nothing_up(beside, numbers, more, policy):
    beside.send_as_other(numbers, **more)
    check, _ = parts(beside, policy=policy)
    check.step()
    assert beside.holds() == []
    assert beside.gate.may_send()


@pytest.mark.row(27)
@pytest.mark.parametrize(
    "more",
    [{"folder": "g"}, pytest.param({"name": "other-{}.txt"}, marks=pytest.mark.long)],
    ids=["the folder", "its files"],
)
def test_what_was_renamed_since_is_known_by_content_and_size(beside, more):
    beside.send_as_other(range(FILES), **more)
    before = sent(beside)
    check, adopter = parts(beside)
    check.step()
    assert beside.holds() == [("sending", "other_instance")]
    *_, result = adopter.adopt(instance=OTHER)
    assert result["live"] == FILES
    beside.upload()
    assert sent(beside) == before


@pytest.mark.long
def test_other_files_of_the_same_sizes_hold_nothing_up(beside):
    for number in range(FILES, 2 * FILES):
        beside.drop(f"{number}.txt", content(number))
    beside.send_as_other(range(2 * FILES, 4 * FILES), folder="g")
    parts(beside)[0].step()
    assert beside.holds() == []


def test_less_than_half_of_a_folder_is_no_match(beside):
    beside.send_as_other(range(20))
    for number in range(FILES, 41):
        beside.drop(f"{number}.txt", content(number))
    check, _ = parts(beside)
    check.step()
    assert beside.holds() == []


@pytest.mark.long
def test_the_hold_ends_with_its_cause(beside):
    beside.send_as_other(range(FILES))
    parts(beside)[0].step()
    for uuid in beside.live():
        beside.client.delete(uuid)
    parts(beside)[0].step()
    assert beside.holds() == []


class Refusing:
    """A client whose listing fails."""

    def __init__(self, client, error):
        self._client, self.error = client, error

    def __getattr__(self, name):
        return getattr(self._client, name)

    def read_listing(self, *_, **__):
        raise self.error


@pytest.mark.long
@pytest.mark.parametrize("kind", [ServerError, RateLimitedError, ForbiddenError])
def test_a_service_that_does_not_list_keeps_the_gate_shut(beside, kind):
    error = kind("no", operation="list")
    check, _ = parts(beside, client=Refusing(beside.client, error))
    for _ in range(3):
        check.step()
        assert not beside.gate.checked
        beside.now += 60


def test_a_key_that_may_not_list_goes_on(beside):
    error = ForbiddenError("no", operation="list", status=403, code="auth.forbidden")
    check, _ = parts(beside, client=Refusing(beside.client, error))
    check.step()
    assert beside.gate.checked


def test_the_first_scan_is_waited_for_where_there_is_something_to_compare_with(beside):
    path = os.fsencode(beside.root)
    beside.store.write(lambda db: folders.begin_anew(db, "f", beside.now))
    beside.store.write(lambda db: folders.note(db, "f", path, beside.now))
    parts(beside)[0].step()
    assert beside.gate.checked, "there is nothing to compare with"
    beside.send_as_other(range(FILES))
    check, _ = parts(beside)
    check.step()
    assert not beside.gate.checked
    scanned(beside)
    check.step()
    assert beside.holds() == [("sending", "other_instance")]


@pytest.mark.long
def test_a_scan_that_does_not_end_is_not_waited_for_for_ever(beside):
    beside.store.write(lambda db: folders.begin_anew(db, "f", beside.now))
    beside.send_as_other(range(FILES))
    check, _ = parts(beside)
    check.step()
    beside.now += SCAN_SECONDS + 1
    check.step()
    assert beside.gate.checked


def test_what_is_sent_once_is_in_question_no_more(beside):
    assert beside.store.read(predecessor.is_in_question)
    beside.upload()
    assert not beside.store.read(predecessor.is_in_question)


def told(caplog):
    return [record.getMessage() for record in caplog.records if OTHER in record.getMessage()]


@pytest.mark.row(27)
def test_files_too_few_for_a_hold_are_sent_again_and_one_line_of_the_log_says_so(beside, caplog):
    beside.send_as_other(range(13))
    before = sent(beside)
    check, adopter = parts(beside)
    check.step()
    assert beside.gate.may_send()
    assert told(caplog) == []
    for _ in range(3):
        check.step()
    (line,) = told(caplog)
    assert f"instance {OTHER} has sent 13 of the {FILES} files of f before" in line
    assert f"`syncd adopt --instance {OTHER}`" in line
    beside.upload()
    assert sent(beside) == before + FILES
    with pytest.raises(AdoptError, match="an empty"):
        list(adopter.adopt(instance=OTHER))


def test_the_objects_of_an_instance_with_other_files_are_not_told_of(beside, caplog):
    beside.send_as_other(range(11))
    beside.send_as_other(range(FILES, FILES + 15), name="other-{}.txt")
    check, _ = parts(beside)
    for _ in range(2):
        check.step()
    assert beside.gate.may_send()
    assert told(caplog) == []
