"""Every broken promise is a complaint, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ramole.lab.chaos.history import OK, Asked, Changed, History

GOOD = Asked("ann", 10.0, 11.0, 5.0, OK, wanted="yes", text="yes", used=("ann/a@1", "bob/open@2"))
UPLOADED = Changed("upload", "ann/new", 1.0, 2.0, OK)
REVOKED = Changed("revoke", "ann/a", 20.0, 21.0, OK)


def history(asked: Asked = GOOD, *changed: Changed, found: tuple[str, ...] = ("ann/new",)) -> History:
    return History(
        frozenset({"UNAVAILABLE", "CANCELLED"}),
        [asked],
        [UPLOADED, *changed],
        public={"bob/open@2"},
        found=set(found),
    )


@pytest.mark.parametrize(
    "well",
    [
        history(),
        history(GOOD, REVOKED),
        history(replace(GOOD, code="UNAVAILABLE", text="", used=())),
        history(replace(GOOD, end_s=15.5)),
        history(replace(GOOD, wanted="", text="anything")),
        history(GOOD, replace(UPLOADED, adapter="ann/other", code="UNAVAILABLE")),
        history(GOOD, Changed("revoke", "ann/new", 3.0, 4.0, OK), found=()),
    ],
)
def test_a_history_without_a_fault(well: History) -> None:
    assert list(well.complaints()) == []


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (history(replace(GOOD, end_s=16.5)), "after its deadline"),
        (history(replace(GOOD, code="TEAPOT")), "TEAPOT"),
        (history(GOOD, replace(UPLOADED, adapter="ann/other", code="TEAPOT")), "TEAPOT"),
        (history(replace(GOOD, text="no")), "alone it is 'yes'"),
        (history(replace(GOOD, used=("bob/own@1",))), "answered with bob/own@1"),
        (history(replace(GOOD, used=("bob/open@1",))), "answered with bob/open@1"),
        (history(replace(GOOD, used=("ann/a@1", "ann/a@2"))), "mixes versions of ann/a"),
        (history(GOOD, replace(REVOKED, start_s=1.0, end_s=2.0)), "was revoked"),
        (history(GOOD, replace(REVOKED, adapter="ann/a@1", start_s=1.0, end_s=2.0)), "was revoked"),
        (history(found=()), "ann/new was acknowledged and is lost"),
    ],
)
def test_a_broken_promise_is_one_complaint(bad: History, says: str) -> None:
    (complaint,) = bad.complaints()
    assert says in complaint


def test_what_was_published_in_part() -> None:
    broken = history()
    broken.broken.add("ann/half")
    assert list(broken.complaints()) == ["ann/half was published in part"]


def test_recovery_lasts_until_the_last_failure() -> None:
    seen = history()
    times = ((1.0, OK), (4.0, "UNAVAILABLE"), (5.0, OK), (7.5, "UNAVAILABLE"), (9.0, OK))
    seen.asked = [replace(GOOD, start_s=end - 0.5, end_s=end, code=code) for end, code in times]
    assert seen.recovery_s(3.0) == 4.5
    assert len(seen.failed(3.0)) == 2
    assert seen.recovery_s(8.0) == 0.0
    assert seen.by_code() == {OK: 3, "UNAVAILABLE": 2}


def test_a_request_that_a_revocation_ended_has_not_failed() -> None:
    ended = replace(GOOD, start_s=20.5, end_s=20.9, code="CANCELLED")
    assert history(ended, REVOKED).failed() == []
    assert history(ended).failed() == [ended]
